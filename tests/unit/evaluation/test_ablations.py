"""What is left out is left out, in training and in scoring alike, and never leaves the evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_windows import office

from cmdana_plugin.detector.checkpoint import Checkpoint
from cmdana_plugin.detector.engines.shape import CONNECTION, LOG, PACKET
from cmdana_plugin.evaluation import ablations
from cmdana_plugin.evaluation.protocol import SHIPPED, VARIANTS, Store, judge_with
from cmdana_plugin.training.calibrate import components
from cmdana_plugin.training.fit import train
from cmdana_plugin.training.recipe import Recipe
from cmdana_plugin.training.recording import Corpus, Recording, gather
from feature_extractors.features.schema import load_schema

pytestmark = pytest.mark.slow

QUICK = Recipe(epochs=1, width=16, trees=False, detector="cross-modal")
SCHEMA = load_schema()


def corpus() -> Corpus:
    return gather([Recording("x", office(120, seed=2))], SCHEMA)


@pytest.fixture(scope="module")
def shipped() -> Checkpoint:
    return train([Recording("x", office(400))], recipe=QUICK)


@pytest.mark.parametrize("name", [n for n in VARIANTS if n != SHIPPED])
def test_every_ablation_learns_and_judges(name: str) -> None:
    recipe = replace(QUICK, **VARIANTS[name])  # type: ignore[arg-type]
    made = train([Recording("x", office(400))], recipe=recipe)
    p = judge_with(made, corpus(), recipe).p_value
    assert p is not None
    assert ((p > 0) & (p <= 1)).all()


def raw(made: Checkpoint, given: Corpus, variant: ablations.Variant) -> dict[str, np.ndarray]:
    recipe = replace(QUICK, variant=variant)
    return components(made, variant.material(given, SCHEMA, 0), recipe, SCHEMA)[0]


def test_without_memory_only_the_counts_tell_one_past_from_another(shipped: Checkpoint) -> None:
    given = corpus()
    strangers = replace(given, ids=np.arange(len(given))[:, None].repeat(3, axis=1))
    same = [raw(shipped, c, ablations.NoMemory())["next"] for c in (given, strangers)]
    other = [raw(shipped, c, ablations.Variant())["next"] for c in (given, strangers)]
    assert np.array_equal(*same)
    assert not np.array_equal(*other)


def test_from_the_state_alone_no_modality_is_told_by_another(shipped: Checkpoint) -> None:
    given = corpus()
    f = given.features
    changed = replace(given, features=replace(f, packets=f.packets[::-1].copy()))
    told = [raw(shipped, c, ablations.Variant())["connection"] for c in (given, changed)]
    alone = [raw(shipped, c, ablations.StateAlone()) for c in (given, changed)]
    assert not np.array_equal(*told)
    # What packets looked like stays in what is remembered of host, service and pair: of those that are new, nothing is.
    new = np.zeros(given.ids.shape, np.bool_)
    for k in range(3):
        new[np.unique(given.ids[:, k], return_index=True)[1], k] = True
    first = new.all(axis=1)
    assert first.any()
    assert np.array_equal(*(a["connection"][first] for a in alone))


def test_a_modality_that_is_not_used_has_no_component(shipped: Checkpoint) -> None:
    found = raw(shipped, corpus(), ablations.Only((False, True, False)))
    assert np.isnan(found["packets"]).all()
    assert np.isnan(found["log"]).all()
    assert np.isfinite(found["connection"]).all()


def test_shuffled_pairing_leaves_the_connection_as_it_was() -> None:
    before = corpus()
    after = ablations.ShuffledPairing().material(before, SCHEMA, 0)
    assert np.array_equal(before.features.numeric, after.features.numeric)
    assert not np.array_equal(before.features.first_packets, after.features.first_packets, equal_nan=True)


def test_hidden_fields_are_guessed_from_the_rest_of_their_own_modality() -> None:
    network = ablations.RandomMask.network
    assert list(network.sources(network, CONNECTION)) == [PACKET, CONNECTION, LOG]  # type: ignore[arg-type]


def test_no_ablation_is_kept_on_disk(tmp_path: Path, shipped: Checkpoint) -> None:
    Store(tmp_path, code="cmdana_plugin.training").checkpoint(SHIPPED, 0, lambda: shipped)
    assert [p.name[:6] for p in tmp_path.iterdir()] == ["model-"]
    for name in ("static gate", "concatenation"):
        with pytest.raises(AssertionError, match="not kept"):
            Store(tmp_path, code="cmdana_plugin.training").checkpoint(name, 0, lambda: shipped)
