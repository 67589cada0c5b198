"""Descent on what an originator can raise, training against it, and modalities that are taken away: nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_windows import is_scan, office

from cmdana_plugin.detector import detector_of
from cmdana_plugin.detector.networks.of_fields import OfFields
from cmdana_plugin.evaluation.adversary import networks
from cmdana_plugin.evaluation.adversary.gradient import (
    BUDGETS,
    Target,
    at_random,
    descend,
    kept_by,
    numeric_of,
    places,
    target_of,
)
from cmdana_plugin.evaluation.protocol import Split
from cmdana_plugin.evaluation.transfer import missing
from cmdana_plugin.training import Recipe, Recording, gather, train
from feature_extractors.features.schema import load_schema


def labelled(seed: int, n: int = 500) -> Recording:
    """An office where the scan, and every large upload of a desk, is malicious."""
    windows = office(n, seed=seed, scan=60)
    c = windows.connections
    bad = is_scan(windows) | (c.orig_bytes > 450)
    return Recording(str(seed), windows, bad.astype(np.int8), ["scan-x" if b else "" for b in bad])


@pytest.fixture(scope="module")
def target() -> tuple[Target, np.ndarray]:
    recipe = Recipe(epochs=6, width=16, behaviour=False, detector="residual-attention-fields")
    made = train([labelled(1)], recipe=recipe)
    assert "attack" in made.weights
    test = labelled(2)
    corpus = gather([test], load_schema())
    detector = detector_of(made, load_schema(), hosts=64)
    assert isinstance(detector, OfFields)
    detector.fields.requires_grad_(False)
    found, _ = target_of(detector, corpus, test.windows.connections, recipe)
    return found, np.flatnonzero(corpus.label == 1)


@pytest.mark.slow
def test_fields_computed_again_without_a_change_are_the_features(target: tuple[Target, np.ndarray]) -> None:
    t, _ = target
    same = numeric_of(t.raw, torch.zeros(len(t.numeric), 3), t.numeric)
    assert np.allclose(same.numpy(), t.numeric.numpy(), atol=2e-3, equal_nan=True)


@pytest.mark.slow
def test_only_what_can_be_more_becomes_more(target: tuple[Target, np.ndarray]) -> None:
    t, _ = target
    names = [f.name for f in load_schema().numeric]
    more = numeric_of(t.raw, torch.full((len(t.numeric), 3), 0.7), t.numeric)
    able = t.raw.able
    assert torch.equal(more[~able].nan_to_num(-9.0), t.numeric[~able].nan_to_num(-9.0))
    for name in ("resp_bytes", "resp_pkts", "history_length"):
        j = names.index(name)
        assert torch.equal(more[:, j].nan_to_num(-9.0), t.numeric[:, j].nan_to_num(-9.0))
    j = names.index("orig_bytes")
    assert (more[able, j] >= t.numeric[able, j]).all()


@pytest.mark.slow
def test_more_budget_and_more_steps_never_find_less_and_beat_chance(
    target: tuple[Target, np.ndarray],
) -> None:
    t, bad = target
    as_it_is, still = descend(t, bad, 1.0, 1)
    one, many = descend(t, bad, 4.0, 1)[0], descend(t, bad, 4.0, 10)[0]
    assert (still == 0.0).all()
    assert (one <= as_it_is + 1e-5).all()
    assert many.mean() <= as_it_is.mean()
    assert many.mean() <= at_random(t, bad, 4.0, 2).mean() + 0.05
    able = t.raw.able.numpy()[bad]
    assert (many[able] < as_it_is[able] - 1e-3).any()
    assert np.allclose(many[~able], as_it_is[~able], atol=1e-5)


@pytest.mark.slow
def test_slopes_of_look_ups_change_the_way_and_not_the_answer(target: tuple[Target, np.ndarray]) -> None:
    t, bad = target
    u = torch.full((len(bad), 3), 0.3, requires_grad=True)
    sloped, bare = t.odds(bad, u), t.odds(bad, u, sloped=False)
    assert torch.allclose(sloped, bare, atol=1e-5)
    slopes = [torch.autograd.grad(x.sum(), u)[0] for x in (sloped, bare)]
    assert not torch.allclose(*slopes)
    assert len(t.detector.fields.elements._forward_hooks) == 0


@pytest.mark.slow
def test_attention_is_shared_out_and_consistency_costs_the_attacker(
    target: tuple[Target, np.ndarray],
) -> None:
    t, bad = target
    before = places(t, bad, torch.zeros(len(bad), 3))
    assert sum(before.values()) == pytest.approx(1.0, abs=1e-4)
    kept = kept_by(t, bad, 0.0, (1, 5))
    assert [len(x) for x in kept["kept"].values()] == [len(BUDGETS)] * 4
    weights = {k: v.clone() for k, v in t.detector.fields.state_dict().items()}
    corpus = gather([labelled(2)], load_schema())
    try:
        moved = {}
        for consistent in (False, True):
            t.detector.fields.load_state_dict(weights)
            networks.harden(t, corpus, consistent, turns=12)
            t.detector.fields.requires_grad_(False)
            low, _ = descend(t, bad, 4.0, 5)
            moved[consistent] = float((descend(t, bad, 1.0, 1)[0] - low).mean())
        assert moved[True] < moved[False]
    finally:
        t.detector.fields.load_state_dict(weights)


def test_what_is_taken_away_is_gone_and_the_rest_is_judged() -> None:
    pytest.importorskip("lightgbm")
    (bare,) = missing.stripped([labelled(1)], ("packets", "logs"))
    f = gather([bare], load_schema()).features
    assert len(f.packets) == len(f.log_tokens) == 0
    assert np.isnan(f.first_packets).all()
    assert np.isfinite(f.numeric[:, 3]).all()
    split = Split([labelled(1)], [labelled(2)], [labelled(3)])
    found = missing.evaluate(split, only=("boosted",))
    assert set(found["with"]["boosted"]) == set(missing.LEFT_OUT)
    assert set(found["without"]["boosted"]) == set(missing.LEFT_OUT) - {"nothing"}
    assert found["with"]["boosted"]["nothing"][0][2] > 0.95
    assert "| boosted | packets |" in missing.words(found)
