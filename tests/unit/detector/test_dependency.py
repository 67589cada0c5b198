"""The tables of a dependency network say what normal connections said, and nothing of a modality about itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_windows import block_of, office, without_logs

from cmdana_plugin.detector import CROSS_MODAL, Checkpoint, checkpoint, detector_of, fit_conditionals, prepare
from cmdana_plugin.detector.cross_modal import shipped_checkpoint
from cmdana_plugin.detector.engines.shape import CLASSES, CONNECTION, LOG, PACKET
from cmdana_plugin.detector.inputs import Prepared
from cmdana_plugin.detector.networks.dependency import NO_PARENT, conditionals_of
from cmdana_plugin.training import Recipe, Recording, train
from feature_extractors.errors import CmdanaError
from feature_extractors.features import load_schema

SCHEMA = load_schema()


@pytest.fixture(scope="module")
def trained() -> Checkpoint:
    return train([Recording("a", office(2500, seed=1))], recipe=Recipe(behaviour=False))


def prepared_of(made: Checkpoint, n: int, seed: int) -> Prepared:
    detector = detector_of(made, SCHEMA)
    detector.receive(block_of(office(n, seed=seed)))
    assert detector.seen is not None
    return prepare(detector.seen.features, detector.seen.state, made.preparation, SCHEMA)


def test_it_is_what_ships_and_what_is_trained_unless_told(trained: Checkpoint) -> None:
    assert shipped_checkpoint().detector == trained.detector == "dependency-network"


def test_a_table_holds_the_shares_that_were_seen(trained: Checkpoint) -> None:
    """Counted anew from the definition, for fields with a parent and without."""
    prepared = prepared_of(trained, 900, seed=5)
    rows = np.random.default_rng(1).random(len(prepared)) < 0.8
    told = fit_conditionals(prepared, rows, SCHEMA)
    seen = np.concatenate(prepared.targets, axis=1)[rows]
    with_parent = 0
    for f in range(seen.shape[1]):
        asked = seen[:, f] >= 0
        usual = np.bincount(seen[asked, f], minlength=CLASSES) + 0.1
        usual = usual / usual.sum()
        for given in range(CLASSES):
            expected = usual
            if told.parent[f] != NO_PARENT:
                with_parent += 1
                like = asked & (np.maximum(seen[:, told.parent[f]], 0) == given)
                expected = (np.bincount(seen[like, f], minlength=CLASSES) + 20.0 * usual) / (
                    like.sum() + 20.0
                )
            np.testing.assert_allclose(np.exp(told.log_probability[f, given]), expected, rtol=1e-4)
    assert with_parent > 20 * CLASSES


def test_no_field_is_expected_from_its_own_modality_but_for_the_kind_of_traffic(trained: Checkpoint) -> None:
    shape, parent = trained.shape, conditionals_of(trained.network).parent
    modality = np.repeat([PACKET, CONNECTION, LOG], shape.targets)
    names = [c.name for c in SCHEMA.categorical]
    first = shape.targets[PACKET] + shape.numeric
    kind = [first + names.index(k) for k in ("proto", "service", "resp_port")]
    for f, g in enumerate(parent.tolist()):
        assert g == NO_PARENT or g in kind or modality[g] != modality[f]
        assert g != f


def test_a_component_is_the_mean_of_what_is_set(trained: Checkpoint) -> None:
    windows = office(300, seed=6, scan=40)
    detector = detector_of(trained, SCHEMA)
    raw, _, _ = detector.raw(block_of(windows))
    seen = detector.seen
    assert seen is not None
    prepared = prepare(seen.features, seen.state, trained.preparation, SCHEMA)
    told = conditionals_of(trained.network)
    every = np.concatenate(prepared.targets, axis=1)
    bounds = np.cumsum([0, *trained.shape.targets])
    for i in range(0, len(every), 7):
        for m, name in enumerate(("packets", "connection", "log")):
            if not prepared.present[i, m]:
                assert np.isnan(raw[name][i])
                continue
            terms = [
                -told.log_probability[
                    f, max(every[i, told.parent[f]], 0) if told.parent[f] >= 0 else 0, every[i, f]
                ]
                for f in range(bounds[m], bounds[m + 1])
                if every[i, f] >= 0
            ]
            assert raw[name][i] == pytest.approx(np.mean(terms) if terms else 0.0, abs=1e-4)


def test_its_words_are_its_probabilities(trained: Checkpoint) -> None:
    detector = detector_of(trained, SCHEMA)
    detector.receive(block_of(office(60, seed=7)))
    assert detector.seen is not None
    found = detector.score_context(detector.seen, keep=True).log_probability
    assert found is not None
    for part, fields in zip(found, trained.shape.targets, strict=True):
        assert part.shape == (60, fields, CLASSES)
        np.testing.assert_allclose(np.exp(part).sum(axis=2), 1.0, atol=1e-4)


def test_reliance_is_each_modality_s_share_of_the_evidence(trained: Checkpoint) -> None:
    scores = detector_of(trained, SCHEMA).receive(block_of(without_logs(office(200, seed=8, scan=30))))
    odd = -np.log(
        np.stack([scores.components[k] for k in ("packets", "connection", "density", "novelty")], axis=1)
    )
    there = ~np.isnan(odd[:, 0])
    evidence = np.stack([odd[:, 0], odd[:, 1] + odd[:, 2], np.zeros(len(odd)), odd[:, 3]], axis=1)[there]
    expected = evidence / evidence.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores.reliance[there], expected, atol=1e-4)  # p-values and shares are rounded


def test_it_keeps_no_learned_memory_and_reads_a_state_that_has_one(trained: Checkpoint) -> None:
    network = train([Recording("a", office(600, seed=1))],
                    recipe=Recipe(epochs=1, width=16, behaviour=False, detector=CROSS_MODAL))  # fmt: skip
    windows, later = office(400, seed=2), office(100, seed=3)
    one, other = detector_of(trained, SCHEMA, hosts=512), detector_of(network, SCHEMA, hosts=512)
    for detector in (one, other):
        detector.receive(block_of(windows))
    own, with_memory = one.state(), other.state()
    assert not any("memory" in name or "ring" in name for name in own)
    after = one.receive(block_of(later)).score
    again = detector_of(trained, SCHEMA, hosts=512)
    again.restore(with_memory, learned=False)
    np.testing.assert_array_equal(again.receive(block_of(later)).score, after)
    back = detector_of(network, SCHEMA, hosts=512)
    back.restore(own, learned=False)  # counts without a memory
    assert np.isfinite(back.receive(block_of(later)).score).all()
    with pytest.raises(ValueError, match="memory"):
        back.restore(own)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("parent", lambda x: x + 0.5, r"network\.parent: found others, expected whole numbers of -1\.\.75"),
        ("parent", lambda x: np.full_like(x, 76.0), r"network\.parent: found others"),
        ("parent", lambda x: np.full_like(x, -2.0), r"network\.parent: found others"),
        ("parent", lambda x: x[:-1], r"network\.parent: found float32 \[75\], expected float32 \[76\]"),
        ("log_probability", lambda x: x * 2.0, r"network\.log_probability: found other numbers"),
        ("log_probability", lambda x: np.full_like(x, np.nan), r"network\.log_probability: found nan"),
        (
            "log_probability",
            lambda x: np.where(x == x.min(), 1.0, x),
            r"network\.log_probability: found other",
        ),
    ],
)
def test_tables_of_a_stranger_are_checked(trained: Checkpoint, tmp_path: Path, name, change, words) -> None:  # type: ignore[no-untyped-def]
    wrong = {**trained.network, name: change(trained.network[name]).astype(np.float32)}
    path = tmp_path / "m.safetensors"
    checkpoint.save(replace(trained, network=wrong), path)
    with pytest.raises(CmdanaError, match=words):
        checkpoint.load(path, SCHEMA)
