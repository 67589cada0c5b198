"""Frames of arbitrary bytes, tracked by the compiled loop or, under NUMBA_DISABLE_JIT=1, by the same code in Python.

An input is a byte that chooses the link type, then frames: a byte of flags (the pause before it, more on the wire than
captured), two bytes of length, the frame. Interpreted, every index is checked, negative ones too, and a tool can see
which lines an input reaches; compiled, the same input must say the same.

    python tests/traces/fuzzed_frames.py < inputs     one in hexadecimal digits a line; prints what each comes to
"""

from __future__ import annotations

import hashlib
import sys
import warnings
from itertools import pairwise
from typing import Any

import numba
import numpy as np

from feature_extractors import extract
from feature_extractors.errors import CaptureError
from feature_extractors.extract import Extractor, ExtractorLimits
from feature_extractors.frames import FrameBlock
from feature_extractors.observations import Windows, concat
from feature_extractors.tracker import state, tracker
from feature_extractors.tracker.link import KNOWN_LINKS
from feature_extractors.tracker.state import TrackerLimits

PAUSES = (0.0, 0.001, 0.5, 3.0, 6.0, 70.0, 400.0, -30.0)
LINKS = sorted(KNOWN_LINKS)
LIMITS = ExtractorLimits(tracker=TrackerLimits(connections=32, blocks_per_direction=4, fragments=4))
MAX_FRAMES = 24


def frames(data: bytes) -> FrameBlock | None:
    """The input as one block; None where there is no frame in it."""
    link = LINKS[data[0] % len(LINKS)] if data else 0
    at, parts, pauses, more = 1, [], [], []
    while at + 3 <= len(data) and len(parts) < MAX_FRAMES:
        flags, size = data[at], data[at + 1] << 8 | data[at + 2]
        parts.append(data[at + 3 : at + 3 + size])
        pauses.append(PAUSES[flags & 7])
        more.append((0, 40, 1500, 60_000)[flags >> 3 & 3])
        at += 3 + size
    if not parts:
        return None
    sizes = np.array([len(part) for part in parts], np.int32)
    start = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    return FrameBlock(
        np.frombuffer(b"".join(parts), np.uint8),  # no byte between frames, and none after the last
        start,
        sizes,
        (sizes + np.array(more)).astype(np.int32),
        1e9 + np.cumsum(pauses),
        np.full(len(sizes), link, np.int32),
    )


def tracked(blocks: list[FrameBlock]) -> Windows | None:
    """What the frames come to; None where their link type is the fault."""
    extractor = Extractor(LIMITS, early=True, content=False)
    try:
        return concat([*(extractor.receive(block) for block in blocks), extractor.finish()])
    except CaptureError:
        return None


def said(windows: Windows | None) -> str:
    """A digest of all columns."""
    if windows is None:
        return "refused"
    digest = hashlib.sha256()
    for part in (windows.connections, windows.packets):
        for name in part.__slots__:
            column = getattr(part, name)
            if name not in ("service", "uid"):
                digest.update(name.encode() + np.ascontiguousarray(column).tobytes())
    return f"{len(windows)} {digest.hexdigest()[:16]}"


def check(data: bytes) -> str:
    """Tracks the input whole and frame by frame, which must come to the same; whatever it raises is a fault."""
    block = frames(data)
    if block is None:
        return "nothing"
    whole = tracked([block])
    columns = ("start", "captured", "length", "ts", "link")
    edges = pairwise(range(len(block) + 1))
    each = [FrameBlock(block.data, *(getattr(block, name)[a:b] for name in columns)) for a, b in edges]
    found, expected = said(tracked(each)), said(whole)
    assert found == expected, "cutting changed what came of it"
    if whole is not None:
        assert (np.diff(whole.connections.end) >= 0).all(), "rows out of order"
    return found


# The interpreted loop: records whose fields are attributes, as numba has them, and no index that wraps round.


class _Row:
    __slots__ = ("_record",)

    def __init__(self, record: Any) -> None:
        object.__setattr__(self, "_record", record)

    def __getattr__(self, name: str) -> Any:
        return self._record[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self._record[name] = value


class _Checked:
    """An array whose single elements are asked for within bounds, or not at all."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.dtype = array.dtype

    def __len__(self) -> int:
        return len(self.array)

    def __ne__(self, other: object) -> Any:
        return self.array != other

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.array

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, int | np.integer):
            if not 0 <= at < len(self.array):
                raise IndexError(f"found {at}, expected 0..{len(self.array) - 1}")
            return _Row(self.array[at]) if self.dtype.names else self.array[at]
        return self.array[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        self[at]
        self.array[at] = value


def interpret() -> None:
    """Has the extractor run the loop as Python. Only where numba does not compile."""
    assert numba.config.DISABLE_JIT, "NUMBA_DISABLE_JIT: found nothing, expected 1"
    warnings.simplefilter("ignore", RuntimeWarning)  # hashes overflow, as they are meant to
    new, replaced, process = extract._new_state, extract._replace, tracker.process

    def checked(st: Any) -> Any:
        for name in state.ARRAYS:
            object.__setattr__(st, name, _Checked(getattr(st, name)))
        return st

    def plain(st: Any) -> Any:
        for name in state.ARRAYS:
            array = getattr(st, name)
            object.__setattr__(st, name, array.array if isinstance(array, _Checked) else array)
        return st

    def longer(st: Any, **arrays: Any) -> Any:
        return checked(replaced(plain(st), **arrays))

    def interpreted(st: Any, data: Any, *columns: Any) -> Any:
        return process(st, _Checked(data), *columns)

    extract._new_state = lambda *arguments: checked(new(*arguments))
    extract._replace = longer
    tracker.process = interpreted


if __name__ == "__main__":
    if numba.config.DISABLE_JIT:
        interpret()
    for line in sys.stdin.read().split():
        print(check(bytes.fromhex(line)))
