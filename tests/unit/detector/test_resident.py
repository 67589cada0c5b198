"""Scored where the memory is, as on a GPU, events say what our kernels say: here on torch's own processor device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_windows import block_of, changed, office

from benchmarks.gpu import BOUNDS, training
from cmdana_plugin.detector import CROSS_MODAL, Checkpoint, CrossModal, Network
from cmdana_plugin.detector import history as histories
from cmdana_plugin.detector.engines.resident import COMPONENTS, Resident
from cmdana_plugin.detector.engines.resident_tables import ResidentTables
from cmdana_plugin.detector.engines.torch_engine import Torch
from cmdana_plugin.detector.history import KINDS, MEMORY, RING, RING_WIDTH, Slots, Tables
from cmdana_plugin.training import Recipe, Recording, train
from feature_extractors import Stage
from feature_extractors.features import Encoded, load_schema, take_encoded

CHUNK = 512
HOSTS = 1 << 13


@pytest.fixture(scope="module")
def trained() -> Checkpoint:
    recipe = Recipe(epochs=1, behaviour=False, trees=False, detector=CROSS_MODAL)
    return train([Recording("a", office(1500, seed=1))], recipe=recipe)


class OnDevice(CrossModal):
    """A detector that scores as on a GPU, wherever torch computes."""

    exact = True

    def _set_up(self, device: str, network: type[Network] | None) -> None:
        engine = Torch(self.checkpoint.network, self.checkpoint.shape, device)
        self._engine = engine
        self._resident = Resident(engine.network, engine.device, sizes=(64, CHUNK), exact=self.exact)


class InBfloat16(OnDevice):
    exact = False


def stream(n: int = 1800, scan: int = 400) -> Encoded:
    """Desks of hundreds of connections in a chunk, one that scans, addresses seen once, and early looks at them all."""
    windows, rng = office(n, seed=3, scan=scan), np.random.default_rng(2)
    stage = np.where(rng.random(n + scan) < 0.1, Stage.EARLY, Stage.FINAL).astype(np.int8)
    orig = windows.connections.orig_h.copy()
    once = np.flatnonzero(rng.random(n + scan) < 0.2)
    orig[once, 12:] = rng.integers(0, 256, (len(once), 4))
    ts = windows.connections.ts - (rng.random(n + scan) < 0.05) * 3.0  # captures may jump back
    return block_of(changed(windows, stage=stage, orig_h=orig, ts=ts))


def detectors(trained: Checkpoint, kind: type[OnDevice] = OnDevice) -> tuple[CrossModal, CrossModal]:
    schema = load_schema()
    return CrossModal(trained, schema, hosts=HOSTS), kind(trained, schema, hosts=HOSTS)


def agree(ours: CrossModal, there: CrossModal, block: Encoded, off: float = 1e-4) -> None:
    (expected, gate, _), (found, other, _) = ours.raw(block), there.raw(block)
    assert set(expected) == set(found)
    for name, raw in expected.items():
        np.testing.assert_allclose(found[name], raw, rtol=0, atol=off, err_msg=name)
    np.testing.assert_allclose(other, gate, atol=off)
    assert ours.seen is not None
    assert there.seen is not None
    np.testing.assert_allclose(there.seen.memory, ours.seen.memory, atol=off)
    np.testing.assert_allclose(there.seen.ring, ours.seen.ring, atol=off)
    np.testing.assert_array_equal(there.seen.ring_used, ours.seen.ring_used)


def test_chunks_on_a_device_say_what_our_kernels_say_while_tables_grow(
    trained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(histories, "_INITIAL_SLOTS", 16)
    ours, there = detectors(trained)
    block = stream()
    agree(ours, there, block)
    tables = there._tables
    assert isinstance(tables, ResidentTables)
    assert len(tables.pairs.keys) > 16 * 8
    agree(ours, there, take_encoded(block, np.arange(40)))  # a chunk of the small size
    assert there.seen is not None
    assert there.seen.ring_used.max() == RING
    assert np.abs(there.seen.memory).max() > 0.1


def test_bfloat16_stays_within_the_bounds(trained: Checkpoint) -> None:
    ours, there = detectors(trained, InBfloat16)
    block = stream()
    expected, found = ours.raw(block)[0], there.raw(block)[0]
    apart = np.concatenate([np.abs(found[k] - expected[k])[np.isfinite(expected[k])] for k in COMPONENTS])
    assert 0 < np.median(apart) <= BOUNDS["median"]
    assert np.quantile(apart, 0.99) <= BOUNDS["99 %"]


def test_a_state_of_either_is_gone_on_from_by_the_other(trained: Checkpoint) -> None:
    block = stream()
    first, then = (take_encoded(block, rows) for rows in np.split(np.arange(len(block)), [1200]))
    ours, there = detectors(trained)
    agree(ours, there, first)
    saved, kept = ours.state(), there.state()
    assert {k: (x.dtype, x.shape) for k, x in saved.items()} == {
        k: (x.dtype, x.shape) for k, x in kept.items()
    }
    ours.restore(kept)
    there.restore(saved)
    agree(ours, there, then)
    for detector, state in ((ours, kept), (there, saved)):
        detector.restore(state, learned=False)
    agree(ours, there, then)


def test_connections_of_others_enter_the_memory_and_are_not_scored(trained: Checkpoint) -> None:
    block = stream(300, 20)
    both = detectors(trained)
    for detector in both:
        detector.own = lambda c: c.orig_p % 2 == 0
    agree(*both, block)


def test_reasons_are_given_of_what_a_device_scored(trained: Checkpoint) -> None:
    block = stream(300, 20)
    said = []
    for detector in detectors(trained):
        scores = detector.receive(block)
        said.append(detector.explain(block, scores, np.arange(0, 300, 50)))
    assert said[0] == said[1]
    assert any(said[0])


def random_chunk(
    rng: np.random.Generator, n: int, slots: int, now: float
) -> tuple[Slots, np.ndarray, np.ndarray]:
    """Slots of which a few have most events, cleared now and then, some events early, some of these of no entity."""
    index = np.where(
        rng.random((n, KINDS)) < 0.5, rng.integers(0, 3, (n, KINDS)), rng.integers(0, slots, (n, KINDS))
    )
    early = rng.random(n) < 0.2
    index[early[:, None] & (rng.random((n, KINDS)) < 0.5)] = -1
    fresh = (rng.random((n, KINDS)) < 0.05) & ~early[:, None]
    ts = now + np.cumsum(rng.exponential(2.0, n)) - 20.0 * (rng.random(n) < 0.1)
    return Slots(index.astype(np.int64), fresh), ts, early


def both_tables() -> tuple[Tables, ResidentTables]:
    return Tables(1 << 14, 1 << 14, 64), ResidentTables(1 << 14, 1 << 14, 64, torch.device("cpu"))


def remembered(here: Tables, there: ResidentTables, rng: np.random.Generator, n: int, now: float) -> None:
    slots, ts, early = random_chunk(rng, n, 200, now)
    write = rng.random((n, KINDS, MEMORY), np.float32)
    value, rate = (
        rng.normal(0, 1, (n, KINDS, MEMORY)).astype(np.float32),
        rng.random((KINDS, MEMORY), np.float32),
    )
    recent = rng.normal(0, 1, (n, RING_WIDTH)).astype(np.float32)
    expected = here.remember(ts, early, slots, write, value, rate * 0.1, recent)
    found = there.recall(
        *map(
            torch.from_numpy,
            (ts, early, slots.index, slots.fresh, write, value, rate * np.float32(0.1), recent),
        )
    )
    np.testing.assert_allclose(found.memory.numpy(), expected[0], atol=1e-5)
    np.testing.assert_array_equal(found.ring.numpy(), expected[1])
    np.testing.assert_array_equal(found.ring_used.numpy(), expected[2])
    for k in range(KINDS):
        one, other = here._learned_of(k), there._learned_of(k)
        np.testing.assert_array_equal(other["memory_at"], one["memory_at"])
        np.testing.assert_allclose(other["memory"], one["memory"], atol=1e-5)
    np.testing.assert_array_equal(there._learned_of(0)["ring_used"], here._learned_of(0)["ring_used"])


@pytest.mark.parametrize("n", [1, 2, 7, 600])
def test_memory_and_rings_are_those_of_the_walk(n: int) -> None:
    rng, (here, there) = np.random.default_rng(n), both_tables()
    for chunk in range(5):
        if chunk == 3:
            for tables in (here, there):
                tables._grow(tables.hosts, np.zeros((0, KINDS), np.int64))
        remembered(here, there, rng, n, 1e9 + 900.0 * chunk)


def test_a_ring_that_was_written_a_billion_times_goes_on() -> None:
    rng, (here, there) = np.random.default_rng(1), both_tables()
    remembered(here, there, rng, 300, 1e9)
    for tables in (here, there):
        columns = tables._learned_of(0)
        used = np.where(
            columns["ring_used"] >= RING, (1 << 30) - 8 + columns["ring_used"] % 8, columns["ring_used"]
        )
        tables._put_learned(0, columns | {"ring_used": used.astype(np.int32)})
    slots, ts, early = random_chunk(rng, 300, 200, 2e9)
    slots.fresh[:] = False
    zero, recent = (
        np.zeros((300, KINDS, MEMORY), np.float32),
        rng.normal(0, 1, (300, RING_WIDTH)).astype(np.float32),
    )
    for _ in range(2):
        expected = here.remember(ts, early, slots, zero, zero, zero[0], recent)
        found = there.recall(
            *map(torch.from_numpy, (ts, early, slots.index, slots.fresh, zero, zero, zero[0], recent))
        )
        np.testing.assert_array_equal(found.ring.numpy(), expected[1])


def test_a_network_learns_in_bfloat16_what_it_learns_in_single_precision(trained: Checkpoint) -> None:
    alone, mixed = (training(trained, 1500, 0.1, torch.device("cpu"), mixed=mixed) for mixed in (False, True))
    assert alone.first == pytest.approx(mixed.first, rel=0.01)
    for found in (alone, mixed):
        assert found.last < 0.9 * found.first


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(CHUNK,), (64, CHUNK)])
def test_a_gpu_with_its_graphs_says_what_our_kernels_say(trained: Checkpoint, size: tuple[int, ...]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here: graphs, pinned copies and streams were not run")
    schema = load_schema()

    class OnGpu(OnDevice):
        def _set_up(self, device: str, network: type[Network] | None) -> None:
            engine = Torch(self.checkpoint.network, self.checkpoint.shape, "cuda")
            self._engine = engine
            self._resident = Resident(engine.network, engine.device, sizes=size, exact=True)

    ours, there = CrossModal(trained, schema, hosts=HOSTS), OnGpu(trained, schema, hosts=HOSTS)
    for rows in np.split(np.arange(2200), [700, 740, 2000]):
        agree(ours, there, take_encoded(stream(), rows), off=1e-3)
