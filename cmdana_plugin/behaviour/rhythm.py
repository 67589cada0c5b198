"""How regular a stream is: of its last connections, and of the minutes in which it was there."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from feature_extractors.compiled import helper

_LEAST: Final = 4  # connections from which on it can be told
_TO_BE_BEAT: Final = 0.5  # seconds of the usual interval below which multiples say nothing


@helper
def spread_of(values: Any, n: Any) -> Any:
    """Mean, deviation over mean, median absolute deviation over median, Bowley's skew of n values, which get sorted."""
    total = 0.0
    for i in range(1, n):
        x, j = values[i], i - 1
        while j >= 0 and values[j] > x:
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = x
    for i in range(n):
        total += values[i]
    mean = total / n
    square = 0.0
    for i in range(n):
        square += (values[i] - mean) * (values[i] - mean)
    middle = 0.5 * (values[(n - 1) // 2] + values[n // 2])
    low, high = values[(n - 1) // 4], values[n - 1 - (n - 1) // 4]
    skew = (low + high - 2.0 * middle) / (high - low) if high > low else 0.0
    # The median of the distances from the middle: of two runs that rise from it, the k-th smallest.
    i, j, away = (n - 1) // 2, (n - 1) // 2 + 1, 0.0
    for _ in range((n + 1) // 2):
        left = middle - values[i] if i >= 0 else np.inf
        right = values[j] - middle if j < n else np.inf
        if left <= right:
            away, i = left, i - 1
        else:
            away, j = right, j + 1
    deviation = np.sqrt(square / n)
    return mean, deviation / (mean + 1e-3), abs(away) / (abs(middle) + 1e-3), skew


@helper
def off_beat(intervals: Any, n: Any) -> Any:
    """How far intervals (sorted) lie from multiples of the usual one, in it, 0..0.25 by chance; NaN where it is short.

    A beacon that misses beats, or that is seen among other connections, has intervals of two and three beats.
    """
    beat = intervals[(n - 1) // 2]
    if beat < _TO_BE_BEAT:
        return np.nan
    away = 0.0
    for i in range(n):
        times = max(np.rint(intervals[i] / beat), 1.0)
        away += min(abs(intervals[i] / beat - times) / times, 0.5)
    return away / n


@helper
def rhythm(ring: Any, have: Any, values: Any, out: Any) -> None:
    """Fill `out` [11] from a ring of which `have` entries count; `values` [RING] is scratch."""
    if have < _LEAST:
        for k in range(11):
            out[k] = np.nan
        return
    n = 0
    for i in range(have):
        if ring[i, 0] >= 0.0:  # the first of all has no interval
            values[n] = ring[i, 0]
            n += 1
    mean, cv, mad, skew = spread_of(values, n)
    out[0], out[1], out[2], out[3] = mean, cv, mad, skew
    out[4] = off_beat(values, n)
    for column, at in ((1, 5), (2, 7)):
        for i in range(have):
            values[i] = ring[i, column]
        _, cv, mad, _ = spread_of(values, have)
        out[at], out[at + 1] = cv, mad
    for i in range(have):
        values[i] = ring[i, 3]
    _, cv, mad, _ = spread_of(values, have)
    out[9], out[10] = cv, mad


@helper
def bits_set(x: Any) -> Any:
    """How many of 64 bits are set."""
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@helper
def run_set(x: Any) -> Any:
    """How many of the lowest bits are set without a gap."""
    return bits_set(x & ~(x + np.uint64(1))) if x != np.uint64(0xFFFFFFFFFFFFFFFF) else 64


@helper
def active_after(active: Any, before: Any, slot: Any) -> Any:
    """The register of the last 64 slots of time with this one set; `before` is the slot of its lowest bit."""
    passed = slot - before
    if passed <= 0:
        return active | np.uint64(1)
    if passed >= 64:
        return np.uint64(1)
    return (active << np.uint64(passed)) | np.uint64(1)
