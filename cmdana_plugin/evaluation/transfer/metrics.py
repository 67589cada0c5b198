"""Metrics over collections: every collection counts alike, however many connections it holds."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.evaluation.metrics import LEAST, Floats

RATES: Final = (1e-2, 1e-3)
CAPTURES: Final = 0.02  # share of benign captures that may have an alarm
_OWN_SHARE: Final = 0.5  # of what is high there that a score loses
_HIGH: Final = 0.9  # quantile
_BELIEVED: Final = 20.0  # earlier connections at which half of it counts
_BENIGN: Final = 20  # benign connections that a collection needs to count among benign traffic


@dataclass(frozen=True, slots=True)
class Apart:
    """Connections of all collections, each scored by a detector that knows nothing of its own collection."""

    label: NDArray[np.int8]  # [n] 1 malicious, 0 benign, -1 unknown
    family: NDArray[np.str_]  # [n]
    collection: NDArray[np.int64]  # [n]
    capture: NDArray[np.int64]  # [n]
    names: Sequence[str]  # of collections

    def benign_weight(self) -> Floats:
        """[n] a benign connection's share of all benign traffic, every collection with enough of it counting alike."""
        weight = np.zeros(len(self.label))
        benign = self.label == 0
        count = np.bincount(self.collection[benign], minlength=len(self.names))
        enough = count >= _BENIGN
        mine = benign & enough[self.collection]
        weight[mine] = 1.0 / count[self.collection[mine]] / enough.sum()
        return weight


def self_calibrated(score: Floats, kind: NDArray[np.int64]) -> Floats:
    """Scores [n], -ln p in stream order, less half of what is high for their `kind` [n] in the stream so far.

    A kind is a capture's traffic of one protocol and service. High is the quantile .9 of its earlier scores, believed
    the more the more there are: where a network is odd as a whole only what stands out there is left. Each score
    depends on the past alone.
    """
    out = score.copy()
    past: dict[int, list[float]] = {}
    for i, (k, x) in enumerate(zip(kind.tolist(), score.tolist(), strict=True)):
        seen = past.setdefault(k, [])
        n = len(seen)
        if n:
            out[i] = x - _OWN_SHARE * n / (n + _BELIEVED) * seen[min(int(_HIGH * n), n - 1)]
        bisect.insort(seen, x)
    return out


def limit_of(score: Floats, weight: Floats, rate: float) -> float:
    """The least score above which benign traffic of `weight` has a share of `rate` or less."""
    rows = np.flatnonzero(weight > 0)
    order = rows[np.argsort(-score[rows], kind="stable")]
    above = np.cumsum(weight[order])
    over = np.flatnonzero(above > rate + 1e-12)
    return float(score[order[over[0]]]) if len(over) else -np.inf


def judged(score: Floats, p_value: Floats, truth: Apart) -> dict[str, Any]:
    """The findings of scores [n] (higher is odder) and calibrated p-values [n].

    `macro` is over collections of the mean over their families of five or more: TPR at a macro false-positive rate of
    1e-2 and 1e-3 (the limit is read off the benign connections, for every detector alike), and AUROC against benign
    traffic in which every collection counts alike. `families` is the same by family over all collections. `captures`
    are shares of attack captures with an alarm on a malicious connection and of benign captures with any.
    """
    weight = truth.benign_weight()
    limits = [limit_of(score, weight, r) for r in RATES]
    bad = truth.label == 1
    cells: dict[tuple[int, str], list[float]] = {}
    benign = np.flatnonzero(weight > 0)
    order = benign[np.argsort(score[benign], kind="stable")]
    rising, reach = score[order], np.concatenate([[0.0], np.cumsum(weight[order])])
    for c in np.unique(truth.collection[bad]).tolist():
        for f in np.unique(truth.family[bad & (truth.collection == c)]).tolist():
            s = score[bad & (truth.collection == c) & (truth.family == f)]
            if len(s) < LEAST:
                continue
            below = reach[np.searchsorted(rising, s, side="left")]
            upto = reach[np.searchsorted(rising, s, side="right")]
            cells[c, f] = [*(float((s > t).mean()) for t in limits), float((0.5 * (below + upto)).mean())]
    by_collection = {
        truth.names[c]: np.mean([v for (k, _), v in cells.items() if k == c], axis=0).tolist()
        for c in sorted({c for c, _ in cells})
    }
    by_family = {
        f: np.mean([v for (_, k), v in cells.items() if k == f], axis=0).tolist()
        for f in sorted({f for _, f in cells})
    }
    return {
        "macro": np.mean(list(by_collection.values()), axis=0).tolist(),
        "families": np.mean(list(by_family.values()), axis=0).tolist(),
        "collections": by_collection,
        "realised": {
            name: [int(mine.sum()), *(float((p_value[mine] <= r).mean()) for r in RATES)]
            for c, name in enumerate(truth.names)
            if (mine := (truth.label == 0) & (truth.collection == c)).sum() >= _BENIGN
        },
        "captures": _captures(score, p_value, truth),
    }


def _captures(score: Floats, p_value: Floats, truth: Apart) -> dict[str, Any]:
    """Shares of captures with an alarm: at the nominal 1e-3, and at the limit that leaves `CAPTURES` of the benign."""
    captures = int(truth.capture.max()) + 1
    attack = np.zeros(captures, np.bool_)
    attack[truth.capture[truth.label == 1]] = True
    known = np.zeros(captures, np.bool_)
    known[truth.capture[truth.label == 0]] = True
    benign = known & ~attack
    of_benign, of_attack = np.full(captures, -np.inf), np.full(captures, -np.inf)
    np.maximum.at(of_benign, truth.capture[truth.label == 0], score[truth.label == 0])
    np.maximum.at(of_attack, truth.capture[truth.label == 1], score[truth.label == 1])
    said = np.zeros(captures, np.bool_)
    said[truth.capture[(truth.label == 1) & (p_value <= RATES[1])]] = True
    false = np.zeros(captures, np.bool_)
    false[truth.capture[(truth.label == 0) & (p_value <= RATES[1])]] = True
    limit = limit_of(of_benign, benign / max(int(benign.sum()), 1), CAPTURES)
    return {
        "attack": int(attack.sum()),
        "benign": int(benign.sum()),
        "nominal": [float(said[attack].mean()), float(false[benign].mean())],
        "at_limit": [float((of_attack[attack] > limit).mean()), float((of_benign[benign] > limit).mean())],
    }
