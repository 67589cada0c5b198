"""Frames that come one by one, made into blocks: what the readers that are not our own share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np

from feature_extractors.frames import MAX_SECONDS, Counts, FrameBlock

_BLOCK_BYTES: Final = 1024 * 1024
_BLOCK_FRAMES: Final = 16 * 1024


class RawFrame(NamedTuple):
    """One frame as another library read it."""

    data: bytes
    length: int  # bytes on the wire
    ts: float  # seconds since the epoch
    link: int  # LINKTYPE number


def gather(frames: Iterable[RawFrame], counts: Counts) -> Iterator[FrameBlock]:
    """The frames in blocks of bounded size."""
    held: list[RawFrame] = []
    size = 0
    for frame in frames:
        if not frame.data or frame.length == 0:
            counts.add("empty_frame")
            continue
        if not abs(frame.ts) <= MAX_SECONDS:
            counts.add("time_out_of_range")
            continue
        counts.add("captured_over_length", len(frame.data) > frame.length)
        held.append(frame)
        size += len(frame.data)
        if size >= _BLOCK_BYTES or len(held) == _BLOCK_FRAMES:
            yield _block(held)
            held = []
            size = 0
    if held:
        yield _block(held)


def seconds(whole: int, fraction: int, units: int) -> float:
    """`whole` seconds and `fraction` of `1/units` seconds as Zeek has them: cut to microseconds."""
    micros = abs(fraction) * 1_000_000 // units
    return whole + (micros if fraction >= 0 else -micros) / 1e6


def _block(frames: list[RawFrame]) -> FrameBlock:
    captured = np.array([len(f.data) for f in frames], np.int32)
    ends = np.cumsum(captured, dtype=np.int64)
    return FrameBlock(
        data=np.frombuffer(bytearray().join(f.data for f in frames), np.uint8),
        start=ends - captured,
        captured=captured,
        length=np.maximum(captured, np.array([min(f.length, 0x7FFFFFFF) for f in frames], np.int32)),
        ts=np.array([f.ts for f in frames], np.float64),
        link=np.array([f.link for f in frames], np.int32),
    )
