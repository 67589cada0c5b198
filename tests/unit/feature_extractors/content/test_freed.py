"""What analysis held of a connection is freed when it ends, without Python's collector of cycles: that runs seldom."""

from __future__ import annotations

import gc
import zlib

import pytest
from made_segments import Said, analysed, stream

OURS = {
    "Body",
    "Budget",
    "Detector",
    "Http",
    "Lines",
    "Session",
    "Smtp",
    "Tls",
    "_Connection",
    "_Side",
    "_Stream",
}
BODY = zlib.compress(b"a" * 5000, wbits=31)
PAGE = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
TALKS: dict[str, tuple[int, list[Said]]] = {
    "http": (80, [(True, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"), (False, PAGE)]),
    "ssl": (443, [(True, bytes.fromhex("160301002f0100002b0303") + bytes(32) + b"\0\0\2\x13\1\1\0\0\0")]),
    "smtp": (25, [(False, b"220 mail\r\n"), (True, b"EHLO a\r\n"), (False, b"250 mail\r\n")]),
}


def held() -> list[str]:
    return sorted(name for o in gc.get_objects() if (name := type(o).__name__) in OURS)


@pytest.mark.parametrize("talk", TALKS)
def test_no_connection_is_in_a_cycle(talk: str) -> None:
    port, said = TALKS[talk]
    gc.collect()
    before = held()
    gc.disable()
    try:
        assert analysed(stream(said, port, 1 << 20))[1]
        assert held() == before
    finally:
        gc.enable()
