"""Boosted trees as plain arrays: learned by LightGBM where there are labels, evaluated here without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feature_extractors import CmdanaError
from feature_extractors.compiled import entry
from feature_extractors.features import Features

LEAVES: Final = 32  # of a tree at most: one bit of a mask each


@dataclass(frozen=True)
class Trees:
    """An ensemble of decision trees as arrays, one sum of leaves per output.

    Children lie side by side; a leaf is its own left child.
    """

    root: NDArray[np.int32]  # [trees] first node of each
    output: NDArray[np.int32]  # [trees] the output that each adds to
    feature: NDArray[np.int32]  # [nodes]
    threshold: NDArray[np.float32]  # [nodes] left if value <= threshold
    left: NDArray[np.int32]  # [nodes] left child; the right one follows it
    unset_left: NDArray[np.bool_]
    value: NDArray[np.float64]  # [nodes] of a leaf

    def scores(self, table: NDArray[np.float32]) -> NDArray[np.float64]:
        """Log odds [n, outputs] of a table of `tabulate`. Raises `CmdanaError` for trees of over 32 leaves."""
        out = np.zeros((len(table), int(self.output.max()) + 1))
        s = self._splits
        _walk(
            np.ascontiguousarray(table, np.float32), s.first, s.feature, s.threshold, s.unset_right, s.mask, s.value,
            self.output, _BIT, out,
        )  # fmt: skip
        return out

    def score(self, table: NDArray[np.float32]) -> NDArray[np.float64]:
        """Log odds [n] of being malicious; higher is odder."""
        return self.scores(table)[:, 0]

    @cached_property
    def _splits(self) -> _Splits:
        return _split_by_split(self)


@dataclass(frozen=True, slots=True)
class _Splits:
    """Trees as QuickScorer reads them (Lucchese et al. 2015): each split that fails strikes out the leaves left of it.

    The leaf that is reached is the first that is not struck out, so all splits are asked, in any order, of many rows
    at once.
    """

    first: NDArray[np.int32]  # [trees + 1] first split of each
    feature: NDArray[np.int32]  # [splits]
    threshold: NDArray[np.float32]  # [splits]
    unset_right: NDArray[np.bool_]  # [splits]
    mask: NDArray[
        np.uint32
    ]  # [splits] leaves that are left when the value goes right, lowest bit the leftmost
    value: NDArray[np.float64]  # [trees, LEAVES]


def _split_by_split(trees: Trees) -> _Splits:
    left, feature, threshold = trees.left.tolist(), trees.feature.tolist(), trees.threshold.tolist()
    unset_left, value = trees.unset_left.tolist(), trees.value.tolist()
    leaves: list[list[float]] = []
    splits: list[tuple[int, float, bool, int]] = []
    first = [0]

    def walk(node: int, found: list[float]) -> None:
        if left[node] == node:
            found.append(value[node])
            return
        before = len(found)
        walk(left[node], found)
        struck = (1 << len(found)) - (1 << before)
        splits.append((feature[node], threshold[node], not unset_left[node], ~struck & 0xFFFFFFFF))
        walk(left[node] + 1, found)

    for root in trees.root.tolist():
        leaves.append([])
        walk(root, leaves[-1])
        if len(leaves[-1]) > LEAVES:
            raise CmdanaError(f"trees: found one of {len(leaves[-1])} leaves, expected {LEAVES} at most")
        first.append(len(splits))
    columns = list(zip(*splits, strict=True)) or [(), (), (), ()]
    return _Splits(
        first=np.array(first, np.int32),
        feature=np.array(columns[0], np.int32),
        threshold=np.array(columns[1], np.float32),
        unset_right=np.array(columns[2], np.bool_),
        mask=np.array(columns[3], np.uint32),
        value=np.array([v + [0.0] * (LEAVES - len(v)) for v in leaves]),
    )


def tabulate(features: Features, state: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features and state of each event as one flat row [n, F], float32, NaN unset."""
    return np.concatenate(
        [
            features.numeric,
            features.categorical.astype(np.float32),
            state,
            features.log_summary,
            features.first_packets,
        ],
        axis=1,
    )


def averaged(forests: Sequence[Trees]) -> Trees:
    """One forest whose score is the mean of the scores of several."""
    begin = np.cumsum([0, *(len(f.left) for f in forests)])[:-1].tolist()
    return Trees(
        root=np.concatenate([f.root + np.int32(b) for f, b in zip(forests, begin, strict=True)]),
        output=np.concatenate([f.output for f in forests]),
        feature=np.concatenate([f.feature for f in forests]),
        threshold=np.concatenate([f.threshold for f in forests]),
        left=np.concatenate([f.left + np.int32(b) for f, b in zip(forests, begin, strict=True)]),
        unset_left=np.concatenate([f.unset_left for f in forests]),
        value=np.concatenate([f.value for f in forests]) / len(forests),
    )


def fit_trees(
    table: NDArray[np.float32],
    malicious: NDArray[np.bool_],
    weight: NDArray[np.float64],
    seed: int,
    rounds: int = 150,
    repeats: int = 3,
    leaves: int = 15,
    least: int = 10,
) -> Trees:
    """Gradient-boosted trees (LightGBM) for malicious rows of `table` [n, F], the average of `repeats` ensembles.

    Each tree has `leaves` leaves of `least` rows or more.

    Raises `CmdanaError` where LightGBM cannot be loaded.
    """
    models = []
    for k in range(repeats):
        model = _classifier(
            n_estimators=rounds, random_state=seed + k, num_leaves=leaves, min_child_samples=least
        )
        model.fit(table, malicious, sample_weight=weight)
        models.append(model.booster_.dump_model())
    return _flatten(models, 1)


def fit_classes(
    table: NDArray[np.float32],
    kind: NDArray[np.int64],
    weight: NDArray[np.float64],
    seed: int,
    rounds: int = 40,
) -> Trees:
    """Gradient-boosted trees that tell kinds of attack apart: an output for each code 0.. of `kind` [n], three or more.

    Raises `CmdanaError` where LightGBM cannot be loaded.
    """
    model = _classifier(n_estimators=rounds, random_state=seed, objective="multiclass")
    model.fit(table, kind, sample_weight=weight)
    return _flatten([model.booster_.dump_model()], int(kind.max()) + 1)


def trees_fault() -> str:
    """Why no trees can be learned, with what to do about it; "" where they can. Loads LightGBM."""
    try:
        import lightgbm  # noqa: F401
    except ImportError as error:
        return f"lightgbm cannot be loaded ({error}): pip install lightgbm scikit-learn"
    except OSError as error:  # its wheel does not bring OpenMP
        return f"lightgbm cannot be loaded ({error}): apt-get install libgomp1"
    return ""


def _classifier(**settings: Any) -> Any:
    if fault := trees_fault():
        raise CmdanaError(fault)
    import lightgbm

    settings = {"num_leaves": 15, "min_child_samples": 10} | settings
    return lightgbm.LGBMClassifier(
        learning_rate=0.06, subsample=0.7, subsample_freq=1, colsample_bytree=0.4,
        reg_lambda=5.0, n_jobs=1, verbose=-1, deterministic=True, force_row_wise=True, **settings,
    )  # fmt: skip


def _flatten(models: list[dict[str, Any]], outputs: int) -> Trees:
    root = []
    nodes: list[tuple[int, float, int, bool, float]] = []  # feature, threshold, left, unset_left, value

    def place(node: dict[str, Any], me: int) -> None:
        """Put `node` at `me` and what is below it at the end."""
        if "split_feature" not in node:
            nodes[me] = (0, np.inf, me, True, float(node["leaf_value"]) / len(models))
            return
        # Without a missing type LightGBM reads an unset value as zero.
        unset_left = node["default_left"] if node["missing_type"] == "NaN" else node["threshold"] >= 0.0
        left = len(nodes)
        nodes[me] = (node["split_feature"], _at_most(node["threshold"]), left, bool(unset_left), 0.0)
        nodes.extend([nodes[me]] * 2)
        place(node["left_child"], left)
        place(node["right_child"], left + 1)

    for model in models:
        for tree in model["tree_info"]:
            root.append(len(nodes))
            nodes.append((0, np.inf, 0, True, 0.0))
            place(tree["tree_structure"], root[-1])
    feature, threshold, left, unset_left, value = zip(*nodes, strict=True)
    return Trees(
        root=np.array(root, np.int32),
        output=np.arange(len(root), dtype=np.int32) % outputs,
        feature=np.array(feature, np.int32),
        threshold=np.array(threshold, np.float32),
        left=np.array(left, np.int32),
        unset_left=np.array(unset_left, np.bool_),
        value=np.array(value),
    )


def _at_most(threshold: float) -> np.float32:
    """The largest float32 that is not above it: float32 values compare with it as with the exact one."""
    most = float(np.finfo(np.float32).max)
    near = np.float32(min(max(threshold, -most), most))
    return near if float(near) <= threshold else np.nextafter(near, np.float32(-np.inf))


_DE_BRUIJN: Final = 0x077CB531  # times a power of two, the top five bits tell which
_BIT: Final = np.array(
    [j for _, j in sorted((((1 << j) * _DE_BRUIJN & 0xFFFFFFFF) >> 27, j) for j in range(32))]
)


@entry
def _walk(table, first, feature, threshold, unset_right, mask, value, output, bit, out):  # type: ignore[no-untyped-def]
    together = 64  # rows asked at once, in a loop that the compiler turns into wide instructions
    n, width = table.shape
    x = np.zeros((width, together), np.float32)
    left = np.empty(together, np.uint32)
    every = np.uint32(0xFFFFFFFF)
    for begin in range(0, n, together):
        rows = min(together, n - begin)
        for i in range(rows):
            for f in range(width):
                x[f, i] = table[begin + i, f]
        for t in range(len(first) - 1):
            for i in range(together):
                left[i] = every
            for k in range(first[t], first[t + 1]):
                values, limit, keep = x[feature[k]], threshold[k], mask[k]
                if unset_right[k]:
                    for i in range(together):
                        left[i] &= every if values[i] <= limit else keep
                else:
                    for i in range(together):
                        left[i] &= keep if values[i] > limit else every
            for i in range(rows):
                lowest = left[i] & (~left[i] + np.uint32(1))
                leaf = bit[np.uint32(lowest * np.uint32(_DE_BRUIJN)) >> np.uint32(27)]
                out[begin + i, output[t]] += value[t, leaf]
