"""Scores as tail probabilities: the share of benign traffic at least as odd, by kind of traffic, with a fitted tail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feature_extractors.compiled import entry

KEPT: Final = 1024  # order statistics kept of a sample
ENOUGH: Final = 2000  # benign rows from which on a kind of traffic stands on its own
ENOUGH_HISTORY: Final = 500  # and those of hosts of which so much is known
_TAIL_SHARE: Final = 0.05  # share of the sample that the tail is fitted to
_SINGLE_VALUES: Final = 256  # of these, greatest values kept one by one
_TAIL_VALUES: Final = 10  # greatest values that the fit replaces
_MIN_P_VALUE: Final = 1e-30


@dataclass(frozen=True)
class Tail:
    """One-sided p-values of one score. Inside the sample split-conformal, beyond it a generalised Pareto tail.

    The conformal part is valid while later benign traffic is exchangeable with the sample; the tail is a fit, and
    neither is a guarantee: the realised rate is published beside the nominal one.
    """

    order: NDArray[np.float64]  # [<= KEPT] rising; quantiles, then the greatest values one by one
    above: NDArray[np.float64]  # [<= KEPT] falling: share of the sample at least as great
    size: int  # rows that the sample had
    start: float  # where the fitted tail begins
    shape: float  # of the tail, never light: p goes on falling instead of sinking to nothing at once
    scale: float

    def p_value(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """One-sided p-values [n] of scores `x` [n]: P(benign >= x), 0 < p <= 1, lower is odder; NaN stays NaN."""
        return self._alone.p_value(x, np.zeros(len(x), np.int64), ENOUGH)

    @cached_property
    def _alone(self) -> _Tails:
        return _side_by_side([self])


@dataclass(frozen=True, slots=True)
class _Tails:
    """Several tails in flat arrays, the first for what has none of its own."""

    first: NDArray[np.int64]  # [tails + 1] where each begins in the next two
    order: NDArray[np.float64]
    above: NDArray[np.float64]
    size: NDArray[np.float64]  # [tails], as are the following
    start: NDArray[np.float64]
    shape: NDArray[np.float64]
    scale: NDArray[np.float64]

    def p_value(self, x: NDArray[np.float64], which: NDArray[np.int64], enough: int) -> NDArray[np.float64]:
        out = np.empty(len(x))
        _p_values(
            np.ascontiguousarray(x, np.float64), which, enough, self.first, self.order, self.above, self.size,
            self.start, self.shape, self.scale, out,
        )  # fmt: skip
        return out


def _side_by_side(tails: Sequence[Tail]) -> _Tails:
    return _Tails(
        first=np.cumsum([0, *(len(t.order) for t in tails)]),
        order=np.concatenate([t.order for t in tails]).astype(np.float64),
        above=np.concatenate([t.above for t in tails]).astype(np.float64),
        size=np.array([float(t.size) for t in tails]),
        start=np.array([float(t.start) for t in tails]),
        shape=np.array([float(t.shape) for t in tails]),
        scale=np.array([float(t.scale) for t in tails]),
    )


@entry
def _p_values(x, which, enough, first, order, above, size, start, shape, scale, out):  # type: ignore[no-untyped-def]
    """The first tail's p, drawn towards the row's own tail by as much as that one has seen."""
    for i in range(len(x)):
        if np.isnan(x[i]):
            out[i] = np.nan
            continue
        t = which[i]
        out[i] = _one(x[i], t, first, order, above, size, start, shape, scale)
        if t > 0 and size[t] < enough:
            weight = size[t] / enough
            of_all = _one(x[i], 0, first, order, above, size, start, shape, scale)
            out[i] = np.exp(weight * np.log(out[i]) + (1.0 - weight) * np.log(of_all))


@entry
def _one(x, t, first, order, above, size, start, shape, scale):  # type: ignore[no-untyped-def]
    begin, m = first[t], first[t + 1] - first[t]
    if m == 0:
        return 1.0
    n = size[t]
    last = begin + max(m - _TAIL_VALUES, 0)
    if x > order[last]:
        # From the last few values on the sample says too little: the fit goes on from there.
        further = _log_tail(x, start[t], shape[t], scale[t]) - _log_tail(
            order[last], start[t], shape[t], scale[t]
        )
        p = (above[last] * n + 1.0) / (n + 1.0) * np.exp(min(further, 0.0))
    else:
        found = begin + min(np.searchsorted(order[begin : begin + m], x), m - 1)
        p = (above[found] * n + 1.0) / (n + 1.0)
    return min(max(p, _MIN_P_VALUE), 1.0)


@entry
def _log_tail(x, start, shape, scale):  # type: ignore[no-untyped-def]
    y = max(x - start, 0.0) / scale
    return -np.log1p(shape * y) / shape if shape > 1e-6 else -y


def fit_tail(sample: NDArray[np.float64]) -> Tail:
    """The p-values that scores of benign traffic `sample` [n] give; NaN are left out, and without any p is 1.

    The generalised Pareto tail (Pickands 1975) is fitted by probability-weighted moments (Hosking and Wallis 1987).
    """
    x = np.sort(sample[np.isfinite(sample)])
    n = len(x)
    if n == 0:
        return Tail(np.zeros(0), np.zeros(0), 0, 0.0, 0.0, 1.0)
    rows = np.arange(n)
    if n > KEPT:
        rows = np.unique(
            np.concatenate(
                [np.linspace(0, n - 1, KEPT - _SINGLE_VALUES).astype(np.int64), rows[-_SINGLE_VALUES:]]
            )
        )
    order = x[rows]
    above = 1.0 - np.searchsorted(x, order, side="left") / n
    start = float(x[int((n - 1) * (1.0 - _TAIL_SHARE))])
    y = x[x > start] - start
    if len(y) < 10:
        return Tail(order, above, n, start, 0.1, max(float(x.std()), 1e-3))
    b0 = y.mean()
    b1 = (y * (1.0 - (np.arange(len(y)) + 0.65) / len(y))).mean()
    shape = float(np.clip(2.0 - b0 / max(b0 - 2.0 * b1, 1e-9), 0.1, 0.5))
    return Tail(order, above, n, start, shape, max(float(b0 * (1.0 - shape)), 1e-6))


@dataclass(frozen=True)
class Strata:
    """Stratified calibration: a tail for all traffic and one for each stratum with benign rows (Mondrian conformal
    prediction, Vovk 2003), shrunk towards the former where the stratum has few.
    """

    everything: Tail
    each: Mapping[int, Tail]
    enough: int = ENOUGH  # benign rows from which on a stratum stands on its own

    def p_value(self, x: NDArray[np.float64], stratum: NDArray[np.int64]) -> NDArray[np.float64]:
        """One-sided p-values [n] of scores `x` [n] among benign traffic of their `stratum` [n], as `Tail.p_value`."""
        codes, tails = self._flat
        at = np.minimum(np.searchsorted(codes, stratum), max(len(codes) - 1, 0))
        known = codes[at] == stratum if len(codes) else np.zeros(len(stratum), np.bool_)
        return tails.p_value(x, np.where(known, at + 1, 0), self.enough)

    @cached_property
    def _flat(self) -> tuple[NDArray[np.int64], _Tails]:
        codes = sorted(self.each)
        return np.array(codes, np.int64), _side_by_side([self.everything, *(self.each[c] for c in codes)])


def fit_strata(
    sample: NDArray[np.float64], stratum: NDArray[np.int64], least: int = 50, enough: int = ENOUGH
) -> Strata:
    """The calibration that benign scores `sample` [n] of strata `stratum` [n] give.

    A stratum with fewer than `least` finite scores has no tail of its own; from `enough` on it stands on its own.
    """
    codes, counts = np.unique(stratum[np.isfinite(sample)], return_counts=True)
    each = {int(c): fit_tail(sample[stratum == c]) for c, n in zip(codes, counts, strict=True) if n >= least}
    return Strata(fit_tail(sample), each, enough)


# Share of the false-alarm rate, 0..1, that isolation has where it stands beside the fused evidence.
ALONE: Final = 0.35


def weighted_bonferroni(fused: NDArray[np.float64], alone: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weighted Bonferroni p-value [n] of two p-values [n] of the same events: valid under any dependence."""
    joined: NDArray[np.float64] = np.minimum(np.minimum(fused / (1.0 - ALONE), alone / ALONE), 1.0)
    return joined


def fuse(p_values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weighted Fisher statistic [n] of p-values [n, C], nats, higher is odder: sum over C of weight * -ln p.

    A p-value that does not apply (NaN) counts 1, the mean of -ln p under benign traffic.
    """
    evidence = np.where(np.isnan(p_values), 1.0, -np.log(np.clip(p_values, _MIN_P_VALUE, 1.0)))
    total: NDArray[np.float64] = evidence @ weights
    return total
