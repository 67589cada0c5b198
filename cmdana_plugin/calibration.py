"""Scores as tail probabilities: the share of calm traffic at least as odd, by kind of traffic, with a fitted tail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

KEPT: Final = 1024  # order statistics kept of a sample
ENOUGH: Final = 2000  # calm rows from which on a stratum stands on its own
_TAIL: Final = 0.05  # share of the sample that the tail is fitted to
_SINGLE: Final = 256  # of these, greatest values kept one by one
_FEW: Final = 10  # greatest values that the fit replaces
_LEAST: Final = 1e-30


@dataclass(frozen=True, slots=True)
class Tail:
    """One-sided p-values of one score. Inside the sample split-conformal, beyond it a generalised Pareto tail.

    The conformal part is valid while later calm traffic is exchangeable with the sample; the tail is a fit, and
    neither is a guarantee: the realised rate is published beside the nominal one.
    """

    order: NDArray[np.float64]  # [<= KEPT] rising; quantiles, then the greatest values one by one
    above: NDArray[np.float64]  # [<= KEPT] falling: share of the sample at least as great
    size: int  # rows that the sample had
    start: float  # where the fitted tail begins
    shape: float  # of the tail, never light: p goes on falling instead of sinking to nothing at once
    scale: float

    def p_value(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """P(calm >= x), 0 < p <= 1; NaN stays NaN."""
        m = len(self.order)
        if m == 0:
            return np.where(np.isnan(x), np.nan, 1.0)
        found = np.searchsorted(self.order, x, side="left")
        inside = (self.above[np.minimum(found, m - 1)] * self.size + 1.0) / (self.size + 1.0)
        # From the last few values on the sample says too little: the fit goes on from there.
        join = self.order[max(m - _FEW, 0)]
        share = (self.above[max(m - _FEW, 0)] * self.size + 1.0) / (self.size + 1.0)
        beyond = share * np.exp(np.minimum(self._log_tail(x) - self._log_tail(np.array([join])), 0.0))
        p = np.where(x > join, beyond, inside)
        return np.where(np.isnan(x), np.nan, np.clip(p, _LEAST, 1.0))

    def _log_tail(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        y = np.maximum(x - self.start, 0.0) / self.scale
        return -np.log1p(self.shape * y) / self.shape if self.shape > 1e-6 else -y


def fit_tail(sample: NDArray[np.float64]) -> Tail:
    """Learned from scores of calm traffic; NaN are left out. The tail by probability-weighted moments (Hosking)."""
    x = np.sort(sample[np.isfinite(sample)])
    n = len(x)
    if n == 0:
        return Tail(np.zeros(0), np.zeros(0), 0, 0.0, 0.0, 1.0)
    rows = np.arange(n)
    if n > KEPT:
        rows = np.unique(
            np.concatenate([np.linspace(0, n - 1, KEPT - _SINGLE).astype(np.int64), rows[-_SINGLE:]])
        )
    order = x[rows]
    above = 1.0 - np.searchsorted(x, order, side="left") / n
    start = float(x[int((n - 1) * (1.0 - _TAIL))])
    y = x[x > start] - start
    if len(y) < 10:
        return Tail(order, above, n, start, 0.1, max(float(x.std()), 1e-3))
    b0 = y.mean()
    b1 = (y * (1.0 - (np.arange(len(y)) + 0.65) / len(y))).mean()
    shape = float(np.clip(2.0 - b0 / max(b0 - 2.0 * b1, 1e-9), 0.1, 0.5))
    return Tail(order, above, n, start, shape, max(float(b0 * (1.0 - shape)), 1e-6))


@dataclass(frozen=True, slots=True)
class Strata:
    """A tail for all traffic and one for each stratum that has calm rows, shrunk to the former where they are few."""

    everything: Tail
    each: Mapping[int, Tail]

    def p_value(self, x: NDArray[np.float64], stratum: NDArray[np.int64]) -> NDArray[np.float64]:
        p = self.everything.p_value(x)
        for code, tail in self.each.items():
            rows = stratum == code
            if rows.any():
                weight = min(tail.size / ENOUGH, 1.0)
                p[rows] = np.exp(weight * np.log(tail.p_value(x[rows])) + (1.0 - weight) * np.log(p[rows]))
        return p


def fit_strata(sample: NDArray[np.float64], stratum: NDArray[np.int64], least: int = 50) -> Strata:
    codes, counts = np.unique(stratum[np.isfinite(sample)], return_counts=True)
    each = {int(c): fit_tail(sample[stratum == c]) for c, n in zip(codes, counts, strict=True) if n >= least}
    return Strata(fit_tail(sample), each)


def fuse(p_values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fisher's weighted sum of evidence [n] from p-values [n, C]; one that does not apply counts as expected."""
    evidence = np.where(np.isnan(p_values), 1.0, -np.log(np.clip(p_values, _LEAST, 1.0)))
    total: NDArray[np.float64] = evidence @ weights
    return total
