"""The same segments analysed with what was read of their block at once, and without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from made_segments import Piece, Said, bounds, segments

from feature_extractors.content import reassembly
from feature_extractors.content.reassembly import Content, ContentLimits

MODES = ("logs", "brief", "neither")
Seen = list[Any]


@contextmanager
def without_columns() -> Iterator[None]:
    """Nothing is read of streams before an analyzer comes to it."""
    before = reassembly._BEGINS.copy()
    reassembly._BEGINS[:] = 0
    try:
        yield
    finally:
        reassembly._BEGINS[:] = before


def seen(pieces: Sequence[Piece], mode: str, limits: ContentLimits | None, block: int) -> Seen:
    """All that is known of connection 0, analysed in blocks of so many segments."""
    content = Content(limits, logs=mode == "logs", brief=mode == "brief")
    wanted = [bounds(content.receive(segments(pieces[i : i + block]))) for i in range(0, len(pieces), block)]
    reached = [
        max([p.offset + len(p.data) for p in pieces if p.is_orig == o], default=0) for o in (True, False)
    ]
    services, entries, _ = content.close(np.array([0]), np.array([b"C0"], "S20"), np.array([reached]))
    return [wanted, services, entries, content.rows, content.counts.by_reason]


def both_ways(
    pieces: Sequence[Piece], mode: str = "logs", limits: ContentLimits | None = None, block: int = 1 << 20
) -> tuple[Seen, Seen]:
    """What is seen with columns, and what without."""
    fast = seen(pieces, mode, limits, block)
    with without_columns():
        return fast, seen(pieces, mode, limits, block)


def pieces_of(talk: Sequence[Said], port: int, size: int, again: Sequence[tuple[int, int]]) -> list[Piece]:
    """A conversation in segments of at most `size` bytes, of which some come once more, and somewhere else."""
    at = {True: 0, False: 0}
    out = []
    for is_orig, data in talk:
        for start in range(0, len(data), size):
            part = data[start : start + size]
            out.append(Piece(is_orig, at[is_orig], part, resp_p=port))
            at[is_orig] += len(part)
    for which, where in again:
        if out:
            out.insert(where % len(out), out[which % len(out)])
    return [Piece(p.is_orig, p.offset, p.data, float(i), resp_p=port) for i, p in enumerate(out)]


def changed(data: bytes, changes: Sequence[tuple[int, int]]) -> bytes:
    """The same with other bytes here and there."""
    out = bytearray(data)
    for at, value in changes:
        if out:
            out[at % len(out)] = value
    return bytes(out)
