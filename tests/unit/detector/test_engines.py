"""Our compiled kernels and torch compute the same network: on real traffic, and whatever is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_windows import office

from cmdana_plugin.config import Config
from cmdana_plugin.detector import CROSS_MODAL, Checkpoint, CrossModal, Network
from cmdana_plugin.detector.cross_modal import EventContext, RawScores
from cmdana_plugin.detector.engines.compiled import Compiled
from cmdana_plugin.detector.engines.torch_engine import Torch
from cmdana_plugin.detector.inputs import Prepared, prepare
from cmdana_plugin.replay.embedded import extract
from cmdana_plugin.replay.summary import Summary
from cmdana_plugin.training import Recipe, Recording, train
from feature_extractors.features import Encoded, encoded, load_schema, take_encoded

BUSY_MINUTES = Path(__file__).parents[2] / "traces" / "busy-minutes" / "busy-minutes.pcap.gz"
RELATIVE, ABSOLUTE = 1e-5, 2e-5  # uncalibrated components are rounded to five digits


@pytest.fixture(scope="module")
def trained() -> Checkpoint:
    recipe = Recipe(epochs=2, behaviour=False, detector=CROSS_MODAL)
    return train([Recording("a", office(2000, seed=1))], recipe=recipe)


@pytest.fixture(scope="module")
def both(trained: Checkpoint) -> tuple[CrossModal, CrossModal]:
    checkpoint, schema = trained, load_schema()
    ours, torchs = CrossModal(checkpoint, schema), CrossModal(checkpoint, schema, network=Network)
    assert isinstance(ours.engine, Compiled)
    assert isinstance(torchs.engine, Torch)
    return ours, torchs


@pytest.fixture
def empty(both: tuple[CrossModal, CrossModal]) -> tuple[CrossModal, CrossModal]:
    for detector in both:
        detector.reset()
    return both


def blocks() -> Iterator[Encoded]:
    for windows in extract([BUSY_MINUTES], Config(), Summary([]), brief=True):
        yield encoded(windows, load_schema())


def close(one: RawScores, other: RawScores) -> None:
    for name, found in one.raw.items():
        np.testing.assert_allclose(found, other.raw[name], RELATIVE, ABSOLUTE, err_msg=name)
    np.testing.assert_allclose(one.gate, other.gate, RELATIVE, 1e-6)
    for found, expected in zip(one.log_probability or (), other.log_probability or (), strict=True):
        np.testing.assert_allclose(found, expected, 1e-4, 1e-4)


def test_busy_minutes_score_the_same(empty: tuple[CrossModal, CrossModal]) -> None:
    for block in blocks():
        (raw, _, _), (expected, _, _) = (detector.raw(block) for detector in empty)
        for name, found in raw.items():
            np.testing.assert_allclose(found, expected[name], RELATIVE, ABSOLUTE, err_msg=name)
    for detector in empty:
        detector.reset()
    for block in blocks():
        ours, torchs = (detector.receive(block) for detector in empty)
        # A last digit may be one place more in a calibration sample of a few hundred.
        np.testing.assert_allclose(ours.score, torchs.score, atol=1e-3)
        np.testing.assert_allclose(ours.reliance, torchs.reliance, atol=2e-6)
        assert ours.attack == torchs.attack


def random_events(checkpoint: Checkpoint, n: int, seed: int) -> tuple[Prepared, EventContext, np.ndarray]:
    """Made-up connections of which modalities, fields, memory and counts are there at random."""
    rng, schema = np.random.default_rng(seed), load_schema()
    features = encoded(office(n, seed=seed), schema).features
    state = rng.normal(1.0, 1.0, (n, len(schema.state))).astype(np.float32)
    state[rng.random(state.shape) < 0.2] = np.nan
    prepared = prepare(features, state, checkpoint.preparation, schema)
    present = prepared.present & (rng.random(prepared.present.shape) < 0.7)
    targets = tuple(np.where(rng.random(t.shape) < 0.6, t, -1) for t in prepared.targets)
    seen = EventContext(
        features, state, rng.normal(0, 1, (n, 3, 32)).astype(np.float32),
        rng.normal(0, 1, (n, 8, 16)).astype(np.float32), rng.integers(0, 9, n).astype(np.int32), np.zeros(n, np.int64),
    )  # fmt: skip
    return replace(prepared, present=present, targets=targets), seen, present


@pytest.mark.parametrize("n", [1, 2, 33, 700])
def test_whatever_is_missing_both_say_the_same(empty: tuple[CrossModal, CrossModal], n: int) -> None:
    prepared, seen, present = random_events(empty[0].checkpoint, n, seed=n)
    ours, torchs = empty
    latents, expected = ours.latents(prepared), torchs.latents(prepared)
    np.testing.assert_allclose(latents, expected, 1e-4, 2e-5)
    assert not latents[~present].any()
    for one, other in zip(
        ours.memory_update(latents, prepared), torchs.memory_update(latents, prepared), strict=True
    ):
        np.testing.assert_allclose(one, other, 1e-4, 1e-5)
    close(ours.judge(prepared, seen, latents, keep=True), torchs.judge(prepared, seen, latents, keep=True))
    np.testing.assert_allclose(ours.rate(), torchs.rate(), 1e-6)


def test_a_row_scores_the_same_bit_for_bit_whatever_comes_with_it(
    empty: tuple[CrossModal, CrossModal],
) -> None:
    ours, _ = empty
    block = next(blocks())
    together, _, _ = ours.raw(block)
    ours.reset()
    parts = np.split(np.arange(len(block)), [1, 2, 5, 40, 41, len(block) // 2])
    apart = [ours.raw(take_encoded(block, rows))[0] for rows in parts]
    for name, found in together.items():
        np.testing.assert_array_equal(found, np.concatenate([a[name] for a in apart]), err_msg=name)


def test_logits_that_single_precision_cannot_sum_are_no_surprise_without_a_number(
    trained: Checkpoint,
) -> None:
    checkpoint, schema = trained, load_schema()
    network = {k: v * (300.0 if k.endswith("classes.weight") or k == "next.2.weight" else 1.0)
               for k, v in checkpoint.network.items()}  # fmt: skip
    checkpoint = replace(checkpoint, network={k: v.astype(np.float32) for k, v in network.items()})
    block = next(blocks())
    ours, _, _ = CrossModal(checkpoint, schema).raw(block)
    torchs, _, _ = CrossModal(checkpoint, schema, network=Network).raw(block)
    for name in ("packets", "connection", "log", "next"):
        np.testing.assert_allclose(ours[name], torchs[name], 1e-4, 1e-2, err_msg=name)
