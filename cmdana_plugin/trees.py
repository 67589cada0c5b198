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
    """Sums of trees, one sum per output. A node with `feature` -1 is a leaf; unset goes where `unset_left` says."""

    root: NDArray[np.int32]  # [trees] first node of each
    output: NDArray[np.int32]  # [trees] the output that each adds to
    feature: NDArray[np.int16]  # [nodes]
    threshold: NDArray[np.float64]  # [nodes] left if value <= threshold
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    unset_left: NDArray[np.bool_]
    value: NDArray[np.float64]  # [nodes] of a leaf

    def scores(self, table: NDArray[np.float32]) -> NDArray[np.float64]:
        """Log odds [n, outputs] of a table as `tabulate` makes it."""
        out = np.zeros((len(table), int(self.output.max()) + 1))
        _walk(
            np.ascontiguousarray(table), self.root, self.output, self.feature, self.threshold, self.left, self.right,
            self.unset_left, self.value, out,
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
    root: list[int] = []
    nodes: list[list[float]] = []

    def visit(node: dict[str, Any]) -> int:
        me = len(nodes)
        if "split_feature" not in node:
            nodes.append([-1, 0.0, -1, -1, 0, float(node["leaf_value"]) / len(models)])
            return me
        threshold = float(node["threshold"])
        # Without a missing type LightGBM reads an unset value as zero.
        unset_left = node["default_left"] if node["missing_type"] == "NaN" else threshold >= 0.0
        nodes.append([node["split_feature"], threshold, 0, 0, float(unset_left), 0.0])
        nodes[me][2] = visit(node["left_child"])
        nodes[me][3] = visit(node["right_child"])
        return me

    for model in models:
        for tree in model["tree_info"]:
            root.append(visit(tree["tree_structure"]))
    table = np.array(nodes)
    return Trees(
        root=np.array(root, np.int32),
        output=np.arange(len(root), dtype=np.int32) % outputs,
        feature=table[:, 0].astype(np.int16),
        threshold=table[:, 1],
        left=table[:, 2].astype(np.int32),
        right=table[:, 3].astype(np.int32),
        unset_left=table[:, 4] > 0,
        value=table[:, 5],
    )


@njit(cache=True)
def _walk(table, root, output, feature, threshold, left, right, unset_left, value, out):  # type: ignore[no-untyped-def]
    for i in range(len(table)):
        for t in range(len(root)):
            j = root[t]
            while feature[j] >= 0:
                x = np.float64(table[i, feature[j]])
                to_left = unset_left[j] if np.isnan(x) else x <= threshold[j]
                j = left[j] if to_left else right[j]
            out[i, output[t]] += value[j]
