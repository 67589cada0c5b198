"""An isolation forest: what is alone is parted sooner; it agrees with scikit-learn's."""

import numpy as np
import pytest

from cmdana_plugin.detector.isolation_forest import fit_isolation


def test_what_lies_apart_scores_higher_than_what_lies_within() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 8)).astype(np.float32)
    forest = fit_isolation(x, 0)
    apart = rng.normal(3.0, 1.0, size=(50, 8)).astype(np.float32)
    assert (forest.score(apart) > np.quantile(forest.score(x), 0.95)).mean() > 0.9


def test_it_ranks_as_the_reference_does() -> None:
    ensemble = pytest.importorskip("sklearn.ensemble")
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(size=(2000, 6)), rng.normal(3, 2, size=(100, 6))]).astype(np.float32)
    reference = ensemble.IsolationForest(n_estimators=200, max_samples=32, random_state=0).fit(x)
    ours, theirs = fit_isolation(x, 0).score(x), -reference.score_samples(x)
    ranks = [np.argsort(np.argsort(s)) for s in (ours, theirs)]
    assert np.corrcoef(*ranks)[0, 1] > 0.95


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_few_or_equal_rows_make_a_forest_all_the_same(rows: int) -> None:
    x = np.zeros((rows, 3), np.float32)
    assert np.isfinite(fit_isolation(x, 0).score(x)).all()
    x[0] = 1e-30
    assert np.isfinite(fit_isolation(x, 0).score(x)).all()


def test_the_same_seed_grows_the_same_forest() -> None:
    x = np.random.default_rng(2).normal(size=(500, 4)).astype(np.float32)
    np.testing.assert_array_equal(fit_isolation(x, 3).score(x), fit_isolation(x, 3).score(x))
    assert (fit_isolation(x, 3).score(x) != fit_isolation(x, 4).score(x)).any()
