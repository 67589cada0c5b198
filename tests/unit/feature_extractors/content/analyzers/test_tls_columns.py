"""TLS's hellos read a block at a time: the same as message by message, whatever is wrong with them."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_segments import Said, stream
from read_alike import MODES, both_ways, changed, pieces_of

from feature_extractors.content.analyzers import tls_columns as columns
from feature_extractors.content.analyzers.columns import HELLO, NOTHING
from feature_extractors.content.analyzers.tls_columns import Hellos, read

RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")


def extension(kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">HH", kind, len(data)) + data


def listed(data: bytes, size: str = ">H") -> bytes:
    return struct.pack(size, len(data)) + data


def message(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + struct.pack(">I", len(body))[1:] + body


def record(*messages: bytes, kind: int = 22, version: int = 0x301) -> bytes:
    body = b"".join(messages)
    return struct.pack(">BHH", kind, version, len(body)) + body


def client(
    *extensions: bytes, version: int = 0x303, session: bytes = b"", suites: bytes = b"\x13\1\xc0\x2f"
) -> bytes:
    """A client hello; no list of extensions where there is none."""
    body = struct.pack(">H", version) + bytes(range(32)) + listed(session, ">B") + listed(suites) + b"\1\0"
    return message(1, body + (listed(b"".join(extensions)) if extensions else b""))


def server(
    *extensions: bytes,
    version: int = 0x303,
    session: bytes = b"",
    cipher: int = 0x1301,
    random: bytes = bytes(32),
) -> bytes:
    body = struct.pack(">H", version) + random + listed(session, ">B") + struct.pack(">HB", cipher, 0)
    return message(2, body + (listed(b"".join(extensions)) if extensions else b""))


NAME = extension(0, listed(b"\0" + listed(b"www.example.com")))
GROUPS, FORMATS = extension(10, listed(b"\0\x1d\0\x17")), extension(11, listed(b"\0\1", ">B"))
SIGNATURES, VERSIONS = extension(13, listed(b"\4\3\x08\4")), extension(43, listed(b"\3\4\3\3", ">B"))
PROTOCOLS, TICKET, PSK = (
    extension(16, listed(b"\2h2\x08http/1.1")),
    extension(35, b"abc"),
    extension(41, b"x"),
)
CLIENT = client(NAME, GROUPS, FORMATS, SIGNATURES, PROTOCOLS, TICKET, VERSIONS, PSK, session=b"s" * 32)
CHOSEN, SHARE, CHOICE = extension(43, b"\3\4"), extension(51, b"\0\x1d\0\1a"), extension(16, listed(b"\2h2"))
SERVER = server(CHOSEN, SHARE, CHOICE, PSK, session=b"s" * 32)
DONE, CIPHERS_CHANGE, SECRET = message(14, b""), record(b"\1", kind=20), record(b"secret", kind=23)
CERTIFICATES = message(11, b"\0\0\6\0\0\3abc")


def hellos_of(*segments: bytes, behind: bytes = b"") -> tuple[list[int], Hellos]:
    """Which row stands for each segment, and the rows; `behind` stands in memory where they end."""
    sizes = [len(s) for s in segments]
    which = np.full(len(segments), NOTHING, np.int64)
    data = np.frombuffer(b"".join(segments) + behind, np.uint8)
    begins = np.cumsum([0, *sizes])[:-1].astype(np.int64)
    hellos = read(data, begins, np.array(sizes, np.int32), np.arange(len(sizes)), which, HELLO)
    return which.tolist(), hellos


def test_the_columns_of_a_hello_say_where_its_lists_are() -> None:
    hello = record(CLIENT)
    which, hellos = hellos_of(hello + b"more")
    assert which == [HELLO]
    row = hellos.rows
    assert hellos.kinds[row[columns.KINDS] :].hex() == "0000000a000b000d00100023002b0029"
    said = {at: hello[row[at] : row[at + 1]] for at in (
        columns.SESSION, columns.SUITES, columns.NAME, columns.GROUPS, columns.FORMATS, columns.SIGNATURES,
        columns.VERSIONS, columns.PROTOCOL,
    )}  # fmt: skip
    assert list(said.values()) == [b"s" * 32, b"\x13\1\xc0\x2f", b"www.example.com", b"\0\x1d\0\x17", b"\0\1",
                                   b"\4\3\x08\4", b"\3\4\3\3", b"h2"]  # fmt: skip
    assert (row[columns.TICKET], row[columns.PSK], row[columns.RECORD_END]) == (1, 1, len(hello))


def test_plain_hellos_are_read_with_their_block_and_odd_ones_are_not() -> None:
    plain = [record(CLIENT), record(SERVER), record(client()), record(server()) + SECRET]
    odd = [
        record(SERVER, CERTIFICATES, DONE),
        record(CLIENT)[:-1],
        record(CLIENT[:50]),
        record(DONE, CLIENT),
        record(client(version=0x7F1C)),
        record(client(), version=0x304),
        record(client(extension(0, b"abc")[:-1])),
        record(message(1, bytes(34))),
        record(message(1, b"\3\3" + bytes(32) + b"\xff" + bytes(20))),
        record(message(2, b"\3\3" + bytes(32) + b"\x20" + bytes(20))),
        SECRET * 5,
        b"",
    ]
    which, _ = hellos_of(*plain, *odd)
    assert which == [HELLO, HELLO - 1, HELLO - 2, HELLO - 3, *[NOTHING] * len(odd)]


FINISHED = [(True, CIPHERS_CHANGE + record(bytes(40))), (False, CIPHERS_CHANGE + record(bytes(40)) + SECRET)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("talk", [
    [(True, record(CLIENT)), (False, record(SERVER) + CIPHERS_CHANGE + SECRET), (True, CIPHERS_CHANGE + SECRET)],
    [(True, record(client(NAME, TICKET))), (False, record(server(version=0x302), CERTIFICATES, DONE)), *FINISHED],
    [(True, record(client(session=b"a" * 8))), (False, record(server(session=b"a" * 8)) + record(DONE)), *FINISHED],
    [(True, record(CLIENT)), (False, record(server(SHARE, random=RETRY))), (True, record(CLIENT)),
     (False, record(SERVER) + SECRET), (True, SECRET)],
    [(False, record(CLIENT)), (True, record(SERVER)), *FINISHED],
    [(True, record(client(extension(0), extension(10), extension(16, b"\0\0"), extension(16, b"\0\3\5ab")))),
     (False, record(server(extension(16, b"\0\1\0"), extension(43, b"\0\0"), extension(40, b"\1"))))],
    [(True, record(client(suites=bytes(9000)))), (False, record(SERVER, message(99, b"")))],
    [(True, record(CLIENT, CLIENT)), (False, record(SERVER, SERVER))],
    [(True, record(CLIENT)), (True, record(CLIENT)[:60]), (True, record(CLIENT)[60:])],
])  # fmt: skip
@pytest.mark.parametrize("port", [443, 9999])
def test_a_handshake_reads_alike_both_ways(talk: list[Said], port: int, mode: str) -> None:
    fast, slow = both_ways(stream(talk, port), mode)
    assert fast == slow


extensions = st.lists(
    st.sampled_from(
        [NAME, GROUPS, FORMATS, SIGNATURES, VERSIONS, PROTOCOLS, TICKET, PSK, CHOSEN, SHARE, CHOICE]
    )
    | st.builds(
        extension, st.sampled_from([0, 10, 11, 13, 16, 35, 40, 41, 43, 51, 2570]), st.binary(max_size=9)
    ),
    max_size=5,
)
versions = st.sampled_from([2, 0x300, 0x301, 0x303, 0x304, 0x305, 0x7F1C, 0xFEFD])
sessions = st.sampled_from([b"", bytes(32), b"s" * 32, b"a"])
hellos = st.builds(lambda e, v, s: client(*e, version=v, session=s), extensions, versions, sessions) | st.builds(
    lambda e, v, s, r: server(*e, version=v, session=s, random=r), extensions, versions, sessions,
    st.sampled_from([bytes(32), RETRY]),
)  # fmt: skip
others = st.sampled_from([DONE, CERTIFICATES, message(16, b"a"), message(12, b"\3\0\x1d"), message(99, b"")])
records = st.builds(
    lambda first, more, version, behind: record(first, *more, version=version) + behind,
    hellos,
    st.lists(others | hellos, max_size=2),
    st.sampled_from([0x301, 0x303, 0x300, 0x304]),
    st.sampled_from([b"", b"", CIPHERS_CHANGE, SECRET, record(DONE), record(b"\2\x28", kind=21), b"\x16"]),
)
changes = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=2)
talks = st.lists(st.tuples(st.booleans(), records | st.just(CIPHERS_CHANGE), changes), min_size=1, max_size=6)


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    talks,
    st.sampled_from([1 << 20, 1 << 20, 100, 30]),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=2),
    st.sampled_from([443, 443, 9999]),
    st.sampled_from(MODES),
    st.integers(1, 8),
)
def test_whatever_is_wrong_with_a_hello_it_reads_alike_both_ways(
    talk: list[tuple[bool, bytes, list[tuple[int, int]]]],
    size: int,
    again: list[tuple[int, int]],
    port: int,
    mode: str,
    block: int,
) -> None:
    said = [(is_orig, changed(data, wrong)) for is_orig, data, wrong in talk]
    fast, slow = both_ways(pieces_of(said, port, size, again), mode, block=block)
    assert fast == slow


def test_a_record_that_holds_more_than_its_hello_is_left_to_the_analyzer() -> None:
    hello = bytes.fromhex("020000540300") + bytes(33) + bytes.fromhex("130100002c000000140012000f")
    hello = hello[:-1] + b"\x00\x0fwww.example.com" + bytes.fromhex("000a00060004001d0017") * 2
    hello = hello[:88]
    more = b"\x63\0\0\0"
    for inside in (hello, hello + more):
        record = b"\x16\x03\x01" + len(inside).to_bytes(2, "big") + inside + bytes.fromhex("140301000101")
        fast, slow = both_ways(pieces_of([(False, record)], 443, 100, []), "logs", block=2)
        assert fast == slow


@settings(max_examples=300, deadline=None)
@given(records, changes, st.integers(0, 400), st.binary(min_size=1, max_size=40))
def test_what_lies_behind_a_segment_is_not_looked_at(
    data: bytes, wrong: list[tuple[int, int]], cut: int, behind: bytes
) -> None:
    data = changed(data, wrong)[:cut] or b"\x16"
    alone: Any = hellos_of(data)
    assert hellos_of(data, behind=behind) == alone
    assert hellos_of(data, behind=bytes(100)) == alone
    for at in (columns.RECORD_END, columns.SESSION + 1):
        assert all(end <= len(data) for end in alone[1].rows[at :: columns.ROW])
