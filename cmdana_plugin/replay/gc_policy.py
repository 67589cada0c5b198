"""When Python's cyclic garbage collector runs in programs of ours that see a stream of traffic; nobody else sets it.

The collector (Python's `gc`) walks the tracked objects of a generation to find cycles of references. What is loaded
at the start, numba's and torch's modules among it, is some hundred thousand objects that never become garbage, and a
record of traffic is in no cycle: reference counting alone frees it. So a walk costs time and finds nothing. With
Python's thresholds it took two fifths of extraction's time on ordinary captures, and full walks held up a live
endpoint's verdicts for 0.19 s at a time. `gc.freeze` takes what exists out of every later walk.

A function never changes the collector of the process that calls it: `import cmdana_plugin` in somebody's notebook
leaves it as it is. Only what owns its process does, as below.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# Thresholds of `gc.set_threshold`: allocations less deallocations, then collections of the younger generation.
_EXTRACTION_THRESHOLDS: Final = (200_000, 20, 50)
_LIVE_THRESHOLDS: Final = (20_000, 10, 10)
_PAGE: Final = 4096  # bytes
_LARGE: Final = 64 * _PAGE


def settle_for_extraction() -> None:
    """Freezes what is loaded and collects seldom, in a child process that ends with its captures.

    It does not collect first: the walk would copy the pages that the child shares with its parent.
    """
    gc.freeze()
    gc.set_threshold(*_EXTRACTION_THRESHOLDS)


@contextmanager
def settled_for_extraction() -> Iterator[None]:
    """A context with the settings of extraction, for a command that extracts in its own process and goes on."""
    before = gc.get_threshold()
    settle_for_extraction()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def settle_for_live() -> None:
    """Collects, freezes what is left and collects less often than Python, in an endpoint that runs for months.

    More often than in extraction: what a library of sockets leaves in cycles must go. The pages of the large
    tables that there are by now are taken from the kernel: else the first second of a busy Zeek waits for them, up to
    half a second.
    """
    gc.collect()
    for table in _large_tables():
        table.reshape(-1).view(np.uint8)[::_PAGE] |= 0
    gc.freeze()
    gc.set_threshold(*_LIVE_THRESHOLDS)


def _large_tables() -> list[NDArray[Any]]:
    """Arrays that may be written to and lie in one piece; the collector does not track them, but what holds them."""
    held = (thing for holder in gc.get_objects() for thing in gc.get_referents(holder))
    arrays = {id(thing): thing for thing in held if type(thing) is np.ndarray and thing.nbytes >= _LARGE}
    return [
        a for a in arrays.values() if a.flags.writeable and a.flags.c_contiguous and not a.dtype.hasobject
    ]
