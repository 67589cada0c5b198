"""p-values mean what they say on calm traffic, and go on falling beyond everything seen."""

from __future__ import annotations

import numpy as np
import pytest

from cmdana_plugin.detector.calibration import fit_strata, fit_tail, fuse

DRAWS = {
    "normal": lambda r, n: r.normal(size=n),
    "heavy": lambda r, n: r.standard_t(3, size=n),
    "exponential": lambda r, n: r.exponential(size=n),
    "few values": lambda r, n: r.integers(0, 6, n).astype(float),
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("alpha", [0.1, 0.01, 0.001])
def test_later_calm_traffic_exceeds_the_nominal_rate_by_a_quarter_at_most(name: str, alpha: float) -> None:
    rng = np.random.default_rng(1)
    tails = [fit_tail(DRAWS[name](rng, 20_000)) for _ in range(12)]
    later = DRAWS[name](rng, 200_000)
    realised = np.mean([(tail.p_value(later) <= alpha).mean() for tail in tails])
    assert realised <= 1.25 * alpha
    if name != "few values":
        assert realised >= 0.75 * alpha


def test_p_falls_strictly_beyond_the_sample_and_is_never_zero() -> None:
    tail = fit_tail(np.random.default_rng(0).normal(size=3000))
    p = tail.p_value(np.linspace(4, 40, 200))
    assert (np.diff(p) < 0).all() or (p[np.diff(p, prepend=1) == 0] <= 1e-29).all()
    assert (p > 0).all()


def test_p_never_rises_with_the_score() -> None:
    tail = fit_tail(np.random.default_rng(0).exponential(size=3000))
    p = tail.p_value(np.linspace(-5, 30, 2000))
    assert (np.diff(p) <= 1e-12).all()
    assert p.max() <= 1.0


@pytest.mark.parametrize("sample", [[], [1.0], [2.0] * 50, [np.nan] * 5, list(range(30))])
def test_a_thin_sample_still_gives_probabilities(sample: list[float]) -> None:
    p = fit_tail(np.array(sample, float)).p_value(np.array([-1.0, 2.0, 1e9]))
    assert ((p > 0) & (p <= 1)).all()


def test_what_does_not_apply_stays_unset_and_counts_as_expected() -> None:
    assert np.isnan(fit_tail(np.arange(100.0)).p_value(np.array([np.nan])))
    w = np.array([1.0, 2.0])
    assert fuse(np.array([[np.nan, 0.5]]), w) == fuse(np.array([[np.exp(-1), 0.5]]), w)


def test_a_stratum_is_judged_by_its_own_kind_when_it_has_enough() -> None:
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.normal(0, 1, 5000), rng.normal(10, 1, 5000)])
    s = np.repeat([0, 1], 5000)
    strata = fit_strata(x, s)
    odd_for_zero = strata.p_value(np.array([8.0, 8.0, 8.0]), np.array([0, 1, 7]))
    assert odd_for_zero[0] < 1e-3
    assert odd_for_zero[1] > 0.9
    assert odd_for_zero[2] == pytest.approx(strata.everything.p_value(np.array([8.0]))[0])
