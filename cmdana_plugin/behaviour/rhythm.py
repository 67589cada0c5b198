"""How regular a stream is: of its last connections, and of the minutes in which it was there."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from feature_extractors.compiled import helper

RHYTHM: Final = 4  # numbers that tell it
_LEAST: Final = 4  # connections from which on it can be told
_TO_BE_BEAT: Final = 0.5  # seconds of the usual interval below which multiples say nothing


@helper
def spread_of(values: Any, n: Any) -> Any:
    """Mean, and deviation over mean, of n values."""
    total = 0.0
    for i in range(n):
        total += values[i]
    mean = total / n
    square = 0.0
    for i in range(n):
        square += (values[i] - mean) * (values[i] - mean)
    return mean, np.sqrt(square / n) / (mean + 1e-3)


@helper
def middle_of(values: Any, n: Any) -> Any:
    """The lower median of n values, which get sorted."""
    for i in range(1, n):
        x, j = values[i], i - 1
        while j >= 0 and values[j] > x:
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = x
    return values[(n - 1) // 2]


@helper
def off_beat(intervals: Any, n: Any) -> Any:
    """How far intervals lie from multiples of the usual one, in it, 0..0.25 by chance; NaN where it is short.

    A beacon that misses beats, or that is seen among other connections, has intervals of two and three beats.
    """
    beat = middle_of(intervals, n)
    if beat < _TO_BE_BEAT:
        return np.nan
    away = 0.0
    for i in range(n):
        times = max(np.rint(intervals[i] / beat), 1.0)
        away += min(abs(intervals[i] / beat - times) / times, 0.5)
    return away / n


@helper
def rhythm(ring: Any, have: Any, values: Any, out: Any) -> None:
    """Mean and spread of the intervals, how far off a beat, and the spread of what was sent; `values` is scratch.

    NaN where fewer than four of the ring's entries count.
    """
    if have < _LEAST:
        for k in range(RHYTHM):
            out[k] = np.nan
        return
    for i in range(have):
        values[i] = ring[i, 1]
    _, out[3] = spread_of(values, have)
    n = 0
    for i in range(have):
        if ring[i, 0] >= 0.0:  # the first of all has no interval
            values[n] = ring[i, 0]
            n += 1
    out[0], out[1] = spread_of(values, n)
    out[2] = off_beat(values, n)


@helper
def bits_set(x: Any) -> Any:
    """How many of 64 bits are set."""
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@helper
def active_after(active: Any, before: Any, slot: Any) -> Any:
    """The register of the last 64 slots of time with this one set; `before` is the slot of its lowest bit."""
    passed = slot - before
    if passed <= 0:
        return active | np.uint64(1)
    if passed >= 64:
        return np.uint64(1)
    return (active << np.uint64(passed)) | np.uint64(1)
