"""Boosted trees as plain arrays: learned by LightGBM where there are labels, evaluated here without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from feature_extractors.encode import Features
from feature_extractors.errors import CmdanaError


@dataclass(frozen=True, slots=True)
class Trees:
    """Sums of trees, one sum per output. Children lie side by side; a leaf is its own left child, whatever the value.

    So every row takes `depth` steps through a tree without asking where it ends.
    """

    root: NDArray[np.int32]  # [trees] first node of each
    depth: NDArray[np.int32]  # [trees] steps from the root to the deepest leaf
    output: NDArray[np.int32]  # [trees] the output that each adds to
    feature: NDArray[np.int32]  # [nodes]
    threshold: NDArray[np.float32]  # [nodes] left if value <= threshold
    left: NDArray[np.int32]  # [nodes] left child; the right one follows it
    unset_left: NDArray[np.bool_]
    value: NDArray[np.float64]  # [nodes] of a leaf

    def scores(self, table: NDArray[np.float32]) -> NDArray[np.float64]:
        """Log odds [n, outputs] of a table as `tabulate` makes it."""
        out = np.zeros((len(table), int(self.output.max()) + 1))
        _walk(
            np.ascontiguousarray(table, np.float32), self.root, self.depth, self.output, self.feature,
            self.threshold, self.left, self.unset_left, self.value, out,
        )  # fmt: skip
        return out

    def score(self, table: NDArray[np.float32]) -> NDArray[np.float64]:
        """Log odds [n] of malicious."""
        return self.scores(table)[:, 0]


def tabulate(features: Features, state: NDArray[np.float32]) -> NDArray[np.float32]:
    """All of an event in one row [n, F], for detectors that want a flat table."""
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


def fit_trees(
    table: NDArray[np.float32],
    malicious: NDArray[np.bool_],
    weight: NDArray[np.float64],
    seed: int,
    rounds: int = 150,
    repeats: int = 3,
) -> Trees:
    """Average of `repeats` forests of boosted trees. Raises `CmdanaError` where LightGBM is not installed."""
    models = []
    for k in range(repeats):
        model = _classifier(n_estimators=rounds, random_state=seed + k)
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
    """Which kind of attack, given that it is one: an output for each of the codes 0.. in `kind` (three or more)."""
    model = _classifier(n_estimators=rounds, random_state=seed, objective="multiclass")
    model.fit(table, kind, sample_weight=weight)
    return _flatten([model.booster_.dump_model()], int(kind.max()) + 1)


def _classifier(**settings: Any) -> Any:
    try:
        import lightgbm
    except ImportError as error:
        raise CmdanaError("learning from labels needs lightgbm: pip install 'cmdana[evaluate]'") from error
    return lightgbm.LGBMClassifier(
        num_leaves=15, learning_rate=0.06, min_child_samples=10, subsample=0.7, subsample_freq=1, colsample_bytree=0.4,
        reg_lambda=5.0, n_jobs=1, verbose=-1, deterministic=True, force_row_wise=True, **settings,
    )  # fmt: skip


def _flatten(models: list[dict[str, Any]], outputs: int) -> Trees:
    root, depth = [], []
    nodes: list[tuple[int, float, int, bool, float]] = []  # feature, threshold, left, unset_left, value

    def place(node: dict[str, Any], me: int) -> int:
        """Put `node` at `me` and what is below it at the end; returns the steps to its deepest leaf."""
        if "split_feature" not in node:
            nodes[me] = (0, np.inf, me, True, float(node["leaf_value"]) / len(models))
            return 0
        # Without a missing type LightGBM reads an unset value as zero.
        unset_left = node["default_left"] if node["missing_type"] == "NaN" else node["threshold"] >= 0.0
        left = len(nodes)
        nodes[me] = (node["split_feature"], _at_most(node["threshold"]), left, bool(unset_left), 0.0)
        nodes.extend([nodes[me]] * 2)
        return 1 + max(place(node["left_child"], left), place(node["right_child"], left + 1))

    for model in models:
        for tree in model["tree_info"]:
            root.append(len(nodes))
            nodes.append((0, np.inf, 0, True, 0.0))
            depth.append(place(tree["tree_structure"], root[-1]))
    feature, threshold, left, unset_left, value = zip(*nodes, strict=True)
    return Trees(
        root=np.array(root, np.int32),
        depth=np.array(depth, np.int32),
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


@njit(cache=True, nogil=True)
def _walk(table, root, depth, output, feature, threshold, left, unset_left, value, out):  # type: ignore[no-untyped-def]
    # Rows go through a tree together, so that the steps of one fill the waits of another.
    together = 16
    at = np.empty(together, np.int32)
    for begin in range(0, len(table), together):
        rows = min(together, len(table) - begin)
        for t in range(len(root)):
            at[:] = root[t]
            for _ in range(depth[t]):
                for i in range(rows):
                    j = at[i]
                    x = table[begin + i, feature[j]]
                    to_left = (x <= threshold[j]) | ((x != x) & unset_left[j])
                    at[i] = left[j] + np.int32(not to_left)
            for i in range(rows):
                out[begin + i, output[t]] += value[at[i]]
