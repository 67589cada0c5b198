"""What the page of the model counts of all verdicts: a block of rows that is full is counted once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.desk.web.columns import BLOCK, Columns, Rows

BINS: Final = 50  # of scores
TAILS: Final = (0.1, 0.01, 0.001, 0.0001)  # p-values

Shares = dict[int, list[float]]  # column of time -> what rows in it relied on, in the mean


@dataclass(slots=True)
class Tally:
    """Final verdicts, counted."""

    connections: int = 0
    odd: int = 0
    first: float = math.inf  # network time
    last: float = -math.inf
    scores: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    tails: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(TAILS), np.int64))

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.connections + other.connections, self.odd + other.odd, min(self.first, other.first),
            max(self.last, other.last), self.scores + other.scores, self.tails + other.tails,
        )  # fmt: skip


class Tallies:
    """The sums over all rows that `columns` hold."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._kept: dict[int, Tally] = {}  # by the block's number
        self._relied: dict[int, tuple[int, Shares]] = {}  # and the width of a column of time

    def all(self) -> Tally:
        """What all of them come to."""
        sums, there = Tally(), set()
        for number, rows in self._columns.numbered():
            there.add(number)
            tally = self._kept.get(number)
            if tally is None:
                tally = counted(rows)
                if len(rows) == BLOCK:
                    self._kept[number] = tally
            sums += tally
        for kept in (self._kept, self._relied):
            for number in set(kept) - there:
                kept.pop(number, None)
        return sums

    def relied(self, width: int) -> Shares:
        """What verdicts relied on in each column of time of `width` seconds, blocks counting alike."""
        sums: dict[int, tuple[float, list[float]]] = {}
        for number, rows in self._columns.numbered():
            at, shares = self._relied.get(number, (0, {}))
            if at != width:
                shares = mean_shares(rows[rows["counts"]], width)
                if len(rows) == BLOCK:
                    self._relied[number] = (width, shares)
            for t, share in shares.items():
                n, known = sums.get(t, (0.0, [0.0] * 4))
                sums[t] = n + 1.0, [a + b for a, b in zip(known, share, strict=True)]
        return {t: [s / n for s in share] for t, (n, share) in sums.items()}


def counted(rows: Rows) -> Tally:
    """The tally of some rows: those that are verdicts anew (revised) are counted elsewhere."""
    rows = rows[rows["counts"]]
    if not len(rows):
        return Tally()
    scores = np.minimum((rows["score"] * BINS).astype(int), BINS - 1)
    return Tally(
        len(rows), int(rows["odd"].sum()), float(rows["ts"].min()), float(rows["ts"].max()),
        np.bincount(scores, minlength=BINS),
        np.array([int((rows["evidence"] >= -math.log10(p) - 1e-6).sum()) for p in TAILS]),
    )  # fmt: skip


def mean_shares(rows: Rows, width: int) -> Shares:
    """What rows relied on, by column of time."""
    known = rows["reliance"].any(axis=1)
    if not known.any():
        return {}
    column = (rows["ts"][known] // width).astype(np.int64)
    at, of = np.unique(column, return_inverse=True)
    shares = rows["reliance"][known]
    sums = np.stack([np.bincount(of, weights=shares[:, k], minlength=len(at)) for k in range(4)], axis=1)
    sums = sums / sums.sum(axis=1, keepdims=True)
    return {int(a) * width: share for a, share in zip(at.tolist(), sums.tolist(), strict=True)}
