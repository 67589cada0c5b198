"""Segments of made connections: who says what, cut into pieces as a test likes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from feature_extractors.content.reassembly import Content, ContentLimits
from feature_extractors.content.segments import Segments, Wanted
from feature_extractors.observations import LogEntry

Said = tuple[bool, bytes]  # by the originator, what


@dataclass
class Piece:
    """One segment of connection `connection`: `offset` -1 for a datagram."""

    is_orig: bool
    offset: int
    data: bytes
    ts: float = 1.0
    length: int = -1
    connection: int = 0
    ip_proto: int = 6
    orig_p: int = 40000
    resp_p: int = 80
    partial: bool = False


def segments(pieces: Sequence[Piece]) -> Segments:
    joined = b"".join(p.data for p in pieces)
    sizes = [len(p.data) for p in pieces]
    return Segments(
        data=np.frombuffer(joined, np.uint8),
        connection=np.array([p.connection for p in pieces], np.int64),
        is_orig=np.array([p.is_orig for p in pieces], bool),
        ts=np.array([p.ts for p in pieces], np.float64),
        offset=np.array([p.offset for p in pieces], np.int64),
        before=np.array([-1 for _ in pieces], np.int64),
        start=np.cumsum([0, *sizes])[:-1].astype(np.int64),
        captured=np.array(sizes, np.int32),
        length=np.array([p.length if p.length >= 0 else len(p.data) for p in pieces], np.int32),
        ip_proto=np.array([p.ip_proto for p in pieces], np.uint8),
        orig_p=np.array([p.orig_p for p in pieces], np.uint16),
        resp_p=np.array([p.resp_p for p in pieces], np.uint16),
        partial=np.array([p.partial for p in pieces], bool),
    )


def stream(said: Iterable[Said], port: int, size: int = 1 << 20) -> list[Piece]:
    """A TCP conversation in order, in segments of at most `size` bytes, one second apart."""
    at = {True: 0, False: 0}
    pieces = []
    for i, (is_orig, data) in enumerate(said):
        for start in range(0, len(data), size):
            part = data[start : start + size]
            pieces.append(Piece(is_orig, at[is_orig], part, float(i), resp_p=port))
            at[is_orig] += len(part)
    return pieces


def datagrams(said: Iterable[Said], port: int) -> list[Piece]:
    """A UDP conversation, one second between datagrams."""
    return [Piece(o, -1, d, float(i), ip_proto=17, resp_p=port) for i, (o, d) in enumerate(said)]


def analysed(
    pieces: Sequence[Piece], limits: ContentLimits | None = None
) -> tuple[str, list[LogEntry], Content]:
    """Service and log entries of connection 0, and the Content that found them."""
    content = Content(limits)
    content.receive(segments(pieces))
    reached = [
        max([p.offset + len(p.data) for p in pieces if p.is_orig == o], default=0) for o in (True, False)
    ]
    services, entries, _ = content.close(np.array([0]), np.array([b"C0"], "S20"), np.array([reached]))
    return services[0], entries, content


def bounds(wanted: Wanted) -> dict[int, tuple[int, int]]:
    """What each named connection still wants, of originator and responder."""
    return dict(
        zip(
            wanted.connection.tolist(),
            zip(wanted.orig_from.tolist(), wanted.resp_from.tolist(), strict=True),
            strict=True,
        )
    )
