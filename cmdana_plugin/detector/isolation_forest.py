"""Isolation forest (Liu, Ting and Zhou 2008): events that few random splits isolate from benign traffic are odd."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.detector.trees import Trees

_TREES: Final = 200
_SAMPLE_ROWS: Final = 32  # rows that a tree is grown from: as many leaves as `Trees` may have
_MAX_DEPTH: Final = 5  # log2 of it
_EULER_GAMMA: Final = 0.5772156649


def fit_isolation(x: NDArray[np.float32], seed: int) -> Trees:
    """An isolation forest grown from benign rows `x` [n, F]; its score [n] is the negated mean path length: higher is
    odder.
    """
    rng = np.random.default_rng(seed)
    root: list[int] = []
    feature, threshold, left, value = [], [], [], []  # type: ignore[var-annotated]

    def place(rows: NDArray[np.int64], depth: int, me: int) -> None:
        low, high = x[rows].min(axis=0), x[rows].max(axis=0)
        varied = np.flatnonzero(high > low)
        if depth == _MAX_DEPTH or not len(varied):
            value[me] = -(depth + _further(len(rows))) / _TREES
            return
        f = int(rng.choice(varied))
        cut = np.float32(rng.uniform(low[f], high[f]))
        # Rounding must leave somebody on either side.
        cut = min(max(cut, low[f]), np.nextafter(high[f], low[f]))
        goes_left = x[rows, f] <= cut
        feature[me], threshold[me], left[me] = f, cut, len(value)
        first = _add(2)
        place(rows[goes_left], depth + 1, first)
        place(rows[~goes_left], depth + 1, first + 1)

    def _add(count: int) -> int:
        first = len(value)
        for me in range(first, first + count):
            feature.append(0)
            threshold.append(np.float32(np.inf))
            left.append(me)
            value.append(0.0)
        return first

    for _ in range(_TREES):
        root.append(_add(1))
        place(rng.choice(len(x), min(_SAMPLE_ROWS, len(x)), replace=False), 0, root[-1])
    return Trees(
        root=np.array(root, np.int32),
        output=np.zeros(_TREES, np.int32),
        feature=np.array(feature, np.int32),
        threshold=np.array(threshold, np.float32),
        left=np.array(left, np.int32),
        unset_left=np.ones(len(value), np.bool_),
        value=np.array(value, np.float64),
    )


def _further(rows: int) -> float:
    """Steps that a search among so many rows would still take on average (their equation 1)."""
    if rows < 2:
        return 0.0
    return 1.0 if rows == 2 else 2.0 * (np.log(rows - 1.0) + _EULER_GAMMA) - 2.0 * (rows - 1.0) / rows
