"""A capture as blocks of frames: one buffer of bytes, and where in it each frame lies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

MAX_SECONDS: Final = 9e12  # from the epoch, either way: beyond it a double holds no milliseconds


@dataclass(frozen=True, slots=True)
class FrameBlock:
    """`n` frames in capture order, as columns. Nothing says yet who is originator.

    `data` is read-only for everyone downstream and may be reused by nobody: a block owns its bytes.
    """

    data: NDArray[np.uint8]  # [bytes]
    start: NDArray[np.int64]  # [n] offset of the frame's first byte in data
    captured: NDArray[np.int32]  # [n] bytes present in data, never past its end
    length: NDArray[np.int32]  # [n] bytes on the wire, at least `captured`
    ts: NDArray[np.float64]  # [n] seconds since the epoch, as the capture says (may jump back)
    link: NDArray[np.int32]  # [n] link type (DLT/LINKTYPE number); one pcapng holds several

    def __len__(self) -> int:
        return len(self.start)


@dataclass(slots=True)
class Counts:
    """Counters of what could not be decoded or was dropped, by reason."""

    by_reason: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str, n: int = 1) -> None:
        if n:
            self.by_reason[reason] += n


class Reader(Protocol):
    """One capture as an iterable of blocks; memory does not grow with the capture.

    Raises `CaptureError` before the first block when the file is no capture. A file cut in the middle of a
    packet yields all whole packets and counts `capture_truncated`.
    """

    counts: Counts

    @property
    def once(self) -> bool:
        """Whether it can be read once only, as a pipe can."""

    def __iter__(self) -> Iterator[FrameBlock]: ...
