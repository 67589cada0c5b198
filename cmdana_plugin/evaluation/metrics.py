"""Metrics of a ranking: recall per family at low false-positive rates, with bootstrap intervals by capture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feature_extractors import CmdanaError

Floats = NDArray[np.float64]

LEAST: Final = 5  # connections that a family needs to be judged
RATES: Final = (1e-2, 1e-3, 1e-4)
PREVALENCES: Final = (1e-3, 1e-4)  # shares of malicious connections that average precision is re-weighted to
COLUMNS: Final = (
    *(f"tpr@{r:g}" for r in RATES),
    "auroc",
    "pr",
    *(f"pr@{p:g}" for p in PREVALENCES),
)


@dataclass(frozen=True, slots=True)
class Judged:
    """The metrics of one family, or their mean over families, against the benign rows of the whole set."""

    count: int
    tpr: tuple[float, ...]  # at RATES, NaN where benign rows are too few
    auroc: float
    pr: float  # average precision at the native prevalence
    pr_rare: tuple[float, ...]  # the same with malicious rows weighted down to PREVALENCES

    def row(self) -> list[float]:
        """The metrics in the order of COLUMNS."""
        return [*self.tpr, self.auroc, self.pr, *self.pr_rare]


def judge(score: Floats, label: NDArray[np.int8], family: Sequence[str]) -> tuple[dict[str, Judged], Judged]:
    """The metrics of scores [n] per family, and their macro average.

    Raises `CmdanaError` where one of the classes is missing.
    """
    benign = np.sort(score[label == 0])
    names = np.array(family, dtype=object)
    bad = label == 1
    kinds = {str(f): score[bad & (names == f)] for f in sorted(set(names[bad]))}
    kinds = {f: s for f, s in kinds.items() if len(s) >= LEAST}
    if not len(benign) or not kinds:
        raise CmdanaError(
            f"evaluation: found {len(benign)} benign rows and {len(kinds)} families of {LEAST} or more; expected both"
        )
    families = {f: _judged(benign, s) for f, s in kinds.items()}
    return families, mean(list(families.values()), int(bad.sum()))


def mean(judged: Sequence[Judged], count: int) -> Judged:
    """The macro average."""
    k = len(RATES)
    row = np.array([j.row() for j in judged]).mean(axis=0).tolist()
    return Judged(count, tuple(row[:k]), row[k], row[k + 1], tuple(row[k + 2 :]))


def _judged(benign: Floats, s: Floats) -> Judged:
    tpr = tuple(
        float((s > np.quantile(benign, 1.0 - r)).mean()) if len(benign) * r >= 5.0 else float("nan")
        for r in RATES
    )
    below = np.searchsorted(benign, s, side="left")
    ties = np.searchsorted(benign, s, side="right") - below
    auroc = float((below + 0.5 * ties).mean() / len(benign))
    rare = tuple(_precision(benign, s, p / (1.0 - p) * len(benign) / len(s)) for p in PREVALENCES)
    return Judged(len(s), tpr, auroc, _precision(benign, s, 1.0), rare)


def _precision(benign: Floats, s: Floats, weight: float) -> float:
    """Average precision, a benign row of equal score counted first."""
    order = np.sort(s)[::-1]
    false = len(benign) - np.searchsorted(benign, order, side="left")
    true = weight * np.arange(1, len(order) + 1)
    return float((true / (true + false)).mean())


# Intervals


@dataclass(frozen=True, slots=True)
class Resampled:
    """Bootstrap samples of a test set, by whole blocks such as captures or hours (block bootstrap).

    Paired: whatever is judged on it is judged on the same draws.
    """

    weight: NDArray[np.float32]  # [rounds, blocks] how often a draw holds each block
    benign: NDArray[np.int64]  # rows that are benign
    bad: NDArray[np.int64]  # rows that are malicious and of a family large enough
    block: NDArray[np.int64]  # [n] block of each row
    member: NDArray[np.float32]  # [bad, families] 1 where it belongs

    def macro(self, score: Floats, rate: float = 1e-3) -> Floats:
        """Macro TPR at `rate` of each draw [rounds]; a family that a draw misses is left out of its mean."""
        out = np.empty(len(self.weight))
        benign = self.benign[np.argsort(score[self.benign], kind="stable")]
        rising = score[benign]
        s = score[self.bad]
        for begin in range(0, len(out), 64):
            w = self.weight[begin : begin + 64]
            many = np.cumsum(w[:, self.block[benign]], axis=1)
            limit = _weighted_quantile(rising, many, 1.0 - rate)
            mine = w[:, self.block[self.bad]]
            found = ((s[None] > limit[:, None]) * mine) @ self.member
            asked = mine @ self.member
            with np.errstate(invalid="ignore"):
                out[begin : begin + 64] = np.nanmean(np.where(asked > 0, found / asked, np.nan), axis=1)
        return out


def draws(
    label: NDArray[np.int8],
    family: Sequence[str],
    block: NDArray[np.int64],
    rounds: int = 1000,
    seed: int = 0,
) -> Resampled:
    """The bootstrap samples of blocks with replacement, as many as there are.

    Draws without benign or malicious rows are drawn again.
    """
    rng = np.random.default_rng(seed)
    names = np.array(family, dtype=object)
    bad = np.flatnonzero(label == 1)
    kinds = [f for f in sorted(set(names[bad])) if (names[bad] == f).sum() >= LEAST]
    bad = bad[np.isin(names[bad].astype(str), kinds)]
    size = int(block.max()) + 1
    has = np.zeros((2, size), np.bool_)
    has[0, block[label == 0]] = True
    has[1, block[bad]] = True
    weight: list[NDArray[np.float32]] = []
    while len(weight) < rounds:
        w = np.bincount(rng.integers(0, size, size), minlength=size).astype(np.float32)
        if w[has[0]].any() and w[has[1]].any():
            weight.append(w)
    member = np.stack([names[bad] == f for f in kinds], axis=1).astype(np.float32)
    return Resampled(np.stack(weight), np.flatnonzero(label == 0), bad, block, member)


def _weighted_quantile(rising: Floats, many: NDArray[np.float32], q: float) -> Floats:
    """`numpy.quantile` of each draw [rounds]: `many` [rounds, n] counts up to and with each rising value."""
    at = (many[:, -1] - 1.0) * q
    low = np.floor(at)
    first = (many <= low[:, None]).sum(axis=1)
    second = np.minimum((many <= low[:, None] + 1.0).sum(axis=1), len(rising) - 1)
    a, b = rising[first], rising[second]
    out: Floats = a + (at - low) * (b - a)
    return out


def interval(values: Floats) -> tuple[float, float]:
    """The 95 % interval of bootstrap values, by percentiles."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def holm(differences: Mapping[str, Floats]) -> dict[str, float]:
    """Two-sided bootstrap p-values of paired differences, corrected for their number (Holm 1979)."""
    raw = {}
    for name, d in differences.items():
        tail = min((d <= 0).sum(), (d >= 0).sum())
        raw[name] = min(2.0 * (tail + 1.0) / (len(d) + 1.0), 1.0)
    out, worst = {}, 0.0
    for i, name in enumerate(sorted(raw, key=lambda k: raw[k])):
        worst = max(worst, min(raw[name] * (len(raw) - i), 1.0))
        out[name] = worst
    return out


# The supervised head as a probability


@dataclass(frozen=True, slots=True)
class Supervised:
    """The metrics of a probability of being malicious against the truth, at the native prevalence."""

    ece: float  # expected calibration error, 15 bins of equal width
    brier: float
    f1: float  # macro F1 of both classes at one half
    mcc: float  # Matthews' correlation at one half
    fpr: float  # at one half
    tpr: float


def quality(chance: Floats, malicious: NDArray[np.bool_]) -> Supervised:
    """The metrics of probabilities `chance` [n], 0..1, against the truth [n]."""
    codes = np.minimum((chance * 15).astype(np.int64), 14)
    gap = np.bincount(codes, chance - malicious, minlength=15)
    said = chance >= 0.5
    tp, fp = float((said & malicious).sum()), float((said & ~malicious).sum())
    fn, tn = float((~said & malicious).sum()), float((~said & ~malicious).sum())
    root = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    f1 = 0.5 * (2 * tp / max(2 * tp + fp + fn, 1.0) + 2 * tn / max(2 * tn + fp + fn, 1.0))
    return Supervised(
        ece=float(np.abs(gap).sum() / len(chance)),
        brier=float(((chance - malicious) ** 2).mean()),
        f1=f1,
        mcc=float((tp * tn - fp * fn) / root) if root else 0.0,
        fpr=fp / max(fp + tn, 1.0),
        tpr=tp / max(tp + fn, 1.0),
    )
