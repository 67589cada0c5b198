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
    """A sum of trees. A node with `feature` -1 is a leaf; unset values go where `unset_left` says."""

    root: NDArray[np.int32]  # [trees] first node of each
    feature: NDArray[np.int16]  # [nodes]
    threshold: NDArray[np.float64]  # [nodes] left if value <= threshold
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    unset_left: NDArray[np.bool_]
    value: NDArray[np.float64]  # [nodes] of a leaf

    def score(self, table: NDArray[np.float32]) -> NDArray[np.float64]:
        """Log odds [n] of malicious, of a table as `tabulate` makes it."""
        return _walk(
            np.ascontiguousarray(table), self.root, self.feature, self.threshold, self.left, self.right,
            self.unset_left, self.value,
        )  # fmt: skip


def tabulate(features: Features, state: NDArray[np.float32]) -> NDArray[np.float32]:
    """All of an event in one row [n, F], for detectors that want a flat table."""
    return np.concatenate(
        [features.numeric, features.categorical.astype(np.float32), state, features.log_summary, features.first_packets],
        axis=1,
    )


def fit_trees(
    table: NDArray[np.float32], malicious: NDArray[np.bool_], weight: NDArray[np.float64], seed: int, rounds: int = 150, repeats: int = 3
) -> Trees:
    """Average of `repeats` forests of boosted trees. Raises `CmdanaError` where LightGBM is not installed."""
    try:
        import lightgbm
    except ImportError as error:
        raise CmdanaError("learning from labels needs lightgbm: pip install 'cmdana[evaluate]'") from error
    parts = []
    for k in range(repeats):
        model = lightgbm.LGBMClassifier(
            n_estimators=rounds, num_leaves=15, learning_rate=0.06, min_child_samples=10, subsample=0.7,
            subsample_freq=1, colsample_bytree=0.4, reg_lambda=5.0, random_state=seed + k, n_jobs=2, verbose=-1,
            deterministic=True, force_row_wise=True,
        )  # fmt: skip
        model.fit(table, malicious, sample_weight=weight)
        parts.append(model.booster_.dump_model())
    return _flatten(parts)


def _flatten(models: list[dict[str, Any]]) -> Trees:
    root: list[int] = []
    nodes: list[list[float]] = []

    def visit(node: dict[str, Any]) -> int:
        me = len(nodes)
        if "split_feature" not in node:
            nodes.append([-1, 0.0, -1, -1, 0, float(node["leaf_value"]) / len(models)])
            return me
        missing = node["missing_type"]
        nodes.append([node["split_feature"], float(node["threshold"]), 0, 0, 0, 0.0])
        # Without a missing type LightGBM reads an unset value as zero.
        unset_left = node["default_left"] if missing == "NaN" else float(node["threshold"]) >= 0.0
        nodes[me][4] = float(unset_left)
        nodes[me][2] = visit(node["left_child"])
        nodes[me][3] = visit(node["right_child"])
        return me

    for model in models:
        for tree in model["tree_info"]:
            root.append(visit(tree["tree_structure"]))
    table = np.array(nodes)
    return Trees(
        root=np.array(root, np.int32),
        feature=table[:, 0].astype(np.int16),
        threshold=table[:, 1],
        left=table[:, 2].astype(np.int32),
        right=table[:, 3].astype(np.int32),
        unset_left=table[:, 4] > 0,
        value=table[:, 5],
    )


@njit(cache=True)
def _walk(table, root, feature, threshold, left, right, unset_left, value):  # type: ignore[no-untyped-def]
    out = np.zeros(len(table))
    for i in range(len(table)):
        for t in range(len(root)):
            j = root[t]
            while feature[j] >= 0:
                x = np.float64(table[i, feature[j]])
                if x != x:
                    j = left[j] if unset_left[j] else right[j]
                else:
                    j = left[j] if x <= threshold[j] else right[j]
            out[i] += value[j]
    return out
