"""Has all compiled code that a capture needs loaded, or compiled and kept, before any of its traffic is looked at.

A process that has given up writing could keep nothing that it compiles (`feature_extractors.confinement.confine`).
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np

from feature_extractors.extract import Extractor
from feature_extractors.features import encoded, load_schema
from feature_extractors.frames import FrameBlock
from feature_extractors.tracker import tracker

_QUERY: Final = struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + b"\x07example\x03com\x00\x00\x01\x00\x01"
_ANSWER: Final = (
    struct.pack(">HHHHHH", 7, 0x8180, 1, 1, 0, 0)
    + _QUERY[12:]
    + b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xcb\x00\x71\x01"
)
_HELLO: Final = b"\x16\3\1\0\x2f\1\0\0\x2b\3\3" + bytes(33) + b"\0\2\x13\1\1\0\0\0"


def warm_up() -> None:
    """Extracts one DNS lookup, one HTTP request and one hello of TLS, so that all compiled code is loaded."""
    extractor = Extractor()
    schema = load_schema()
    none = np.zeros(0, np.int64)
    tracker.rehash(extractor._state, np.zeros(0, np.int32))
    tracker.want(extractor._state, none, none, none)
    for windows in (*extractor.parts(_block()), *extractor.ending()):
        if len(windows):
            encoded(windows, schema)


def _block() -> FrameBlock:
    syn, ack, push = 2, 16, 24
    request, answer = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"
    frames = [
        _udp(_QUERY, 0), _udp(_ANSWER, 1),
        _tcp(0, syn, 100, 0), _tcp(1, syn | ack, 200, 101), _tcp(0, ack, 101, 201),
        _tcp(0, push, 101, 201, request), _tcp(1, push, 201, 101 + len(request), answer),
        _tcp(0, push, 101, 201, _HELLO, 443),
    ]  # fmt: skip
    sizes = np.array([len(frame) for frame in frames], np.int32)
    ends = np.cumsum(sizes, dtype=np.int64)
    return FrameBlock(
        data=np.frombuffer(bytearray(b"".join(frames)), np.uint8),
        start=ends - sizes,
        captured=sizes,
        length=sizes.copy(),
        ts=np.arange(len(frames), dtype=np.float64),
        link=np.ones(len(frames), np.int32),
    )


def _udp(payload: bytes, side: int) -> bytes:
    ports = (40000, 53)[:: 1 - 2 * side]
    return _ethernet(struct.pack(">HHHH", *ports, 8 + len(payload), 0) + payload, 17, side)


def _tcp(side: int, flags: int, seq: int, ack: int, payload: bytes = b"", port: int = 80) -> bytes:
    ports = (40001, port)[:: 1 - 2 * side]
    return _ethernet(struct.pack(">HHIIBBHHH", *ports, seq, ack, 0x50, flags, 64000, 0, 0) + payload, 6, side)


def _ethernet(segment: bytes, protocol: int, side: int) -> bytes:
    client, server = b"\xc0\x00\x02\x01", b"\xc0\x00\x02\x02"
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0, 64, protocol, 0)
    addresses = server + client if side else client + server
    return bytes(6) + bytes(6) + b"\x08\x00" + head + addresses + segment
