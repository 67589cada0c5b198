"""Trees asked split by split reach the leaves that a walk from the root reaches, unset values included."""

import numpy as np
import pytest
from numpy.typing import NDArray

from cmdana_plugin.detector.trees import Trees, averaged, fit_trees
from feature_extractors.errors import CmdanaError

FEATURES = 7


def grown(rng: np.random.Generator, trees: int, leaves: int, outputs: int = 1) -> Trees:
    """Random trees: a random leaf is split until there are enough."""
    root, left, feature, threshold, unset_left, value = [], [], [], [], [], []  # type: ignore[var-annotated]

    def leaf() -> int:
        left.append(len(left))
        feature.append(0)
        threshold.append(np.inf)
        unset_left.append(True)
        value.append(float(rng.normal()))
        return len(left) - 1

    for _ in range(trees):
        root.append(leaf())
        ends = [root[-1]]
        while len(ends) < leaves:
            node = ends.pop(int(rng.integers(len(ends))))
            left[node] = leaf()
            ends += [left[node], leaf()]
            feature[node] = int(rng.integers(FEATURES))
            threshold[node] = float(np.float32(rng.normal()))
            unset_left[node] = bool(rng.integers(2))
    return Trees(
        root=np.array(root, np.int32),
        output=np.arange(trees, dtype=np.int32) % outputs,
        feature=np.array(feature, np.int32),
        threshold=np.array(threshold, np.float32),
        left=np.array(left, np.int32),
        unset_left=np.array(unset_left, np.bool_),
        value=np.array(value),
    )


def walked(trees: Trees, table: NDArray[np.float32]) -> NDArray[np.float64]:
    out = np.zeros((len(table), int(trees.output.max()) + 1))
    for i, row in enumerate(table):
        for root, output in zip(trees.root.tolist(), trees.output.tolist(), strict=True):
            node = root
            while trees.left[node] != node:
                x = row[trees.feature[node]]
                to_left = trees.unset_left[node] if np.isnan(x) else x <= trees.threshold[node]
                node = int(trees.left[node]) + (0 if to_left else 1)
            out[i, output] += trees.value[node]
    return out


@pytest.mark.parametrize(("leaves", "outputs"), [(1, 1), (2, 1), (15, 3), (32, 1)])
def test_the_leaf_is_the_one_that_a_walk_from_the_root_reaches(leaves: int, outputs: int) -> None:
    rng = np.random.default_rng(leaves)
    trees = grown(rng, 12, leaves, outputs)
    table = rng.normal(size=(150, FEATURES)).astype(np.float32)
    table[rng.random(table.shape) < 0.3] = np.nan
    table[0] = np.inf
    table[1] = -np.inf
    some = trees.threshold[np.isfinite(trees.threshold)]
    if len(some):
        table[2] = some[0]  # exactly at a threshold
    np.testing.assert_array_equal(trees.scores(table), walked(trees, table))
    np.testing.assert_array_equal(trees.scores(table[:1]), walked(trees, table[:1]))


def test_trees_that_are_too_wide_are_refused_in_words() -> None:
    with pytest.raises(CmdanaError, match=r"33 leaves, expected 32 at most"):
        grown(np.random.default_rng(0), 2, 33).score(np.zeros((1, FEATURES), np.float32))


def test_averaged_forests_score_the_mean_of_their_scores() -> None:
    rng = np.random.default_rng(4)
    table = rng.normal(size=(300, 5)).astype(np.float32)
    forests = [fit_trees(table, table[:, k] > 0, np.ones(300), seed=k, rounds=5, repeats=1) for k in (0, 1)]
    mean = np.mean([f.score(table) for f in forests], axis=0)
    assert np.allclose(averaged(forests).score(table), mean)
    assert not np.allclose(mean, forests[0].score(table))
