"""Several captures as one stream in order of time, whatever the order in which they were named.

A capture comes where its first frame belongs. Captures that overlap are merged frame by frame; within one, the order
of the file stands, so that a clock that jumps back there moves nothing between captures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from feature_extractors.frames import FrameBlock, Reader


def in_order(readers: Sequence[Reader]) -> Iterator[FrameBlock]:
    """The frames of all captures in order of time; of one moment, within a block, in the order of the names.

    Holds a block of each capture that is open at a time of the stream, and of each pipe, which cannot be begun again.
    Raises `CaptureError` as the readers do.
    """
    if len(readers) == 1:
        yield from readers[0]
        return
    waiting = sorted(
        (s for i, r in enumerate(readers) if (s := _begun(i, r)) is not None),
        key=lambda s: (s.first, s.number),
    )
    open_: list[_Stream] = []
    while waiting or open_:
        if not open_:
            open_.append(waiting.pop(0))
        until = min(s.known_until() for s in open_)
        while waiting and waiting[0].first <= until:
            open_.append(waiting.pop(0))
            until = min(until, open_[-1].known_until())
        if len(open_) == 1:
            (alone,) = open_
            block = alone.take_until(waiting[0].first if waiting else np.inf)
        else:
            block = _merged([s.take_until(until) for s in sorted(open_, key=lambda s: s.number)])
        if len(block):
            yield block
        open_ = [s for s in open_ if s.block is not None]


@dataclass(slots=True)
class _Stream:
    """A capture of which some was taken: the rest of its block, by time that never goes back."""

    number: int
    reader: Reader
    first: float
    blocks: Iterator[FrameBlock] | None = None
    block: FrameBlock | None = None
    time: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))  # [n] the greatest so far
    begun: bool = False

    def known_until(self) -> float:
        """The time up to which what is held is all that there is."""
        if not self.begun:
            self._next()
        return float(self.time[-1]) if self.block is not None else np.inf

    def take_until(self, until: float) -> FrameBlock:
        """The frames of the block up to that time, it included."""
        if not self.begun:
            self._next()
        if self.block is None:
            return NOTHING
        n = int(np.searchsorted(self.time, until, side="right"))
        taken, left = self.block, len(self.block) - n
        if left:
            taken, self.block, self.time = (
                _rows(self.block, 0, n),
                _rows(self.block, n, n + left),
                self.time[n:],
            )
        else:
            self._next()
        return taken

    def _next(self) -> None:
        latest = self.time[-1] if len(self.time) else -np.inf
        if self.blocks is None:
            self.blocks = iter(self.reader)
        if self.begun or self.block is None:
            self.block = next(self.blocks, None)
        self.begun = True
        if self.block is not None:
            self.time = np.maximum(np.maximum.accumulate(self.block.ts), latest)


def first_frame(reader: Reader) -> float:
    """Time of the first frame of a capture that can be begun again, infinite where it holds none."""
    begun = _begun(0, reader)
    return np.inf if begun is None else begun.first


def _begun(number: int, reader: Reader) -> _Stream | None:
    """The capture with the time of its first frame; None where it holds none."""
    blocks = iter(reader)
    block = next(blocks, None)
    if block is None:
        return None
    first = float(block.ts[0])
    if reader.once:
        return _Stream(number, reader, first, blocks, block)
    return _Stream(number, reader, first)


NOTHING = FrameBlock(
    np.zeros(0, np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0),
    np.zeros(0, np.int32),
)  # fmt: skip


def _rows(block: FrameBlock, begin: int, end: int) -> FrameBlock:
    """Some frames of a block, over the same bytes."""
    part = slice(begin, end)
    return FrameBlock(
        block.data,
        block.start[part],
        block.captured[part],
        block.length[part],
        block.ts[part],
        block.link[part],
    )


def _merged(blocks: Sequence[FrameBlock]) -> FrameBlock:
    """One block of all frames, by time; each block's own order stands."""
    blocks = [b for b in blocks if len(b)]
    if len(blocks) < 2:
        return blocks[0] if blocks else NOTHING
    # Of each only the bytes that its frames lie in: what was taken before has gone on, what comes later comes again.
    spans = [(int(b.start.min()), int((b.start + b.captured).max())) for b in blocks]
    offsets = np.cumsum([0, *(end - begin for begin, end in spans)])
    order = np.argsort(np.concatenate([np.maximum.accumulate(b.ts) for b in blocks]), kind="stable")
    start = np.concatenate(
        [b.start + (to - begin) for b, (begin, _), to in zip(blocks, spans, offsets[:-1], strict=True)]
    )
    return FrameBlock(
        np.concatenate([b.data[begin:end] for b, (begin, end) in zip(blocks, spans, strict=True)]),
        start[order],
        np.concatenate([b.captured for b in blocks])[order],
        np.concatenate([b.length for b in blocks])[order],
        np.concatenate([b.ts for b in blocks])[order],
        np.concatenate([b.link for b in blocks])[order],
    )
