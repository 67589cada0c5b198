"""Fields whose end lies before their beginning are empty: compiled by mypyc, such a cut raises `SystemError`."""

import pytest

from feature_extractors.content.analyzers.base import Analyzer, ContentLimits, Run, Session
from feature_extractors.content.analyzers.registry import create
from feature_extractors.content.analyzers.windows_auth import Gssapi
from feature_extractors.frames import Counts


def session() -> Session:
    return Session(6, 40000, 445, Run(ContentLimits(), Counts(), create))


def der(tag: int, *inside: bytes) -> bytes:
    joined = b"".join(inside)
    return bytes([tag, len(joined)]) + joined


@pytest.mark.parametrize("padding", range(16))
def test_padding_that_takes_a_whole_ssh_packet_leaves_nothing_of_it(padding: int) -> None:
    talk = session()
    ssh = create("ssh", talk)
    assert ssh is not None
    talk.feed(ssh, True, 1.0, b"SSH-2.0-a\r\n")
    talk.feed(ssh, False, 1.0, b"SSH-2.0-b\r\n")
    talk.feed(ssh, True, 1.0, b"\0\0\0\x0b" + bytes([padding, 21]) + bytes(9))
    assert not ssh.refused


@pytest.mark.parametrize("rest", range(5))
def test_a_kerberos_token_that_ends_with_its_name_holds_nothing(rest: int) -> None:
    talk = session()
    token: Analyzer = Gssapi(talk)
    kerberos = der(0x60, der(6, bytes.fromhex("2a864886f712010202")), bytes(rest))
    mechanism = der(0xA2, der(4, kerberos + b"after"))
    talk.feed(
        token, True, 1.0, der(0x60, der(6, bytes.fromhex("2b0601050502")), der(0xA0, der(0x30, mechanism)))
    )
    assert "gssapi" in talk.services or token.refused
