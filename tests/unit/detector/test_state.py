"""Memory of the past: read before written, exact, bounded, and the same whatever the pieces it came in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_windows import changed, is_scan, office

from cmdana_plugin.detector.history import KINDS, MEMORY, RING, RING_WIDTH, Slots, Tables, make_keys
from cmdana_plugin.training.cross_modal.loss import read_memory
from cmdana_plugin.training.cross_modal.steps import _latest, _turns, previous_of_entity
from feature_extractors.features.encoding import encode
from feature_extractors.features.schema import load_schema
from feature_extractors.observations import Stage, Windows, take

SCHEMA = load_schema()


def counts(tables: Tables, windows: Windows, salt: int = 5) -> tuple[np.ndarray, Slots]:
    f = encode(windows, SCHEMA)
    return tables.counts(windows.connections, f, make_keys(windows.connections, f, salt), SCHEMA.spans)


def column(x: np.ndarray, name: str) -> np.ndarray:
    return x[:, SCHEMA.state.index(name)]


def small() -> Tables:
    return Tables(1024, 1024, 4096)


def test_there_is_a_column_for_every_field_of_the_schema() -> None:
    assert counts(small(), office(5))[0].shape == (5, len(SCHEMA.state))


def test_counts_in_pieces_equal_counts_in_one_pass() -> None:
    windows, whole, parts = office(400, scan=60), small(), small()
    one = counts(whole, windows)[0]
    many = [counts(parts, take(windows, np.arange(i, min(i + 33, 460))))[0] for i in range(0, 460, 33)]
    assert np.array_equal(one, np.concatenate(many), equal_nan=True)


def test_an_event_is_counted_from_its_past_only() -> None:
    windows = office(200)
    before = counts(small(), windows)[0]
    later = changed(
        windows, orig_ip_bytes=np.where(np.arange(200) >= 150, 10**9, windows.connections.orig_ip_bytes)
    )
    after = counts(small(), later)[0]
    assert np.array_equal(before[:150], after[:150], equal_nan=True)
    assert not np.array_equal(before[151:], after[151:], equal_nan=True)


def test_a_first_event_knows_nothing() -> None:
    x = counts(small(), office(1))[0]
    assert column(x, "orig_seen") == 0
    assert np.isnan(column(x, "orig_failed_share"))


def test_a_scan_shows_in_new_services_and_failures() -> None:
    windows = office(300, scan=50)
    x, scan = counts(small(), windows)[0], is_scan(windows)
    for name in ("orig_new_peers_10s", "orig_failed_10s", "orig_new_services_10s"):
        assert column(x, name)[scan][-10:].min() > 2 * column(x, name)[~scan].max()


def test_early_windows_leave_no_trace() -> None:
    windows = office(100)
    tables = small()
    counts(tables, changed(windows, stage=np.full(100, Stage.EARLY, np.int8)))
    assert np.array_equal(counts(tables, windows)[0], counts(small(), windows)[0], equal_nan=True)


def test_another_salt_gives_other_keys_and_the_same_counts() -> None:
    windows = office(100)
    f = encode(windows, SCHEMA)
    assert not np.intersect1d(
        make_keys(windows.connections, f, 1).orig, make_keys(windows.connections, f, 2).orig
    ).size
    assert np.array_equal(counts(small(), windows, 1)[0], counts(small(), windows, 2)[0], equal_nan=True)


def test_memory_is_bounded_and_the_idle_are_displaced_first() -> None:
    tables = Tables(64, 64, 256)
    flood = office(3000, scan=0)
    flood = changed(flood, orig_h=np.random.default_rng(0).integers(0, 255, (3000, 16)).astype(np.uint8))
    x, slots = counts(tables, flood)
    assert np.isfinite(x[~np.isnan(x)]).all()
    assert slots.index.max() < 64


def test_time_that_jumps_back_is_no_time() -> None:
    windows = office(50)
    x = counts(small(), changed(windows, ts=windows.connections.ts[::-1].copy()))[0]
    assert np.isfinite(x[~np.isnan(x)]).all()
    assert np.nanmin(column(x, "orig_idle")) == 0


def loop(
    ids: np.ndarray, ts: np.ndarray, write: np.ndarray, value: np.ndarray, rate: np.ndarray
) -> np.ndarray:
    memory: dict[int, tuple[np.ndarray, float]] = {}
    out = np.zeros_like(write)
    for t in range(len(ids)):
        h, at = memory.get(ids[t], (np.zeros(write.shape[1]), ts[t]))
        kept = h * np.exp(-rate * max(ts[t] - at, 0.0))
        out[t] = kept
        memory[ids[t]] = (kept * (1 - write[t]) + write[t] * value[t], max(at, ts[t]))
    return out


@pytest.fixture
def events() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(4)
    n = 300
    ts = np.cumsum(rng.exponential(3.0, n))
    ts[100] -= 50  # clocks jump
    return (
        rng.integers(0, 9, n), ts, rng.random((n, MEMORY)).astype(np.float32),
        rng.normal(size=(n, MEMORY)).astype(np.float32), np.logspace(-3, 0, MEMORY).astype(np.float32),
    )  # fmt: skip


def test_training_reads_the_same_memory_as_the_loop(events: tuple[np.ndarray, ...]) -> None:
    ids, ts, write, value, rate = events
    at, memory = np.full(9, -1.0), torch.zeros(9, MEMORY)
    found = []
    for rows in np.split(np.arange(len(ids)), [120, 170]):  # in steps, as training goes
        turns = {k: torch.from_numpy(x) for k, x in _turns(ids[rows, None], ts[rows], at).items()}
        w, v = (torch.from_numpy(x[rows, None]) for x in (write, value))
        found.append(read_memory(turns, w, v, torch.from_numpy(rate[None]), memory)[:, 0].numpy())
    assert np.allclose(np.concatenate(found), loop(*events), atol=1e-5)


def test_scoring_reads_the_same_memory_as_the_loop(events: tuple[np.ndarray, ...]) -> None:
    ids, ts, write, value, rate = events
    n = len(ids)
    fresh = np.zeros((n, KINDS), np.bool_)
    fresh[np.unique(ids, return_index=True)[1]] = True
    slots = Slots(np.repeat(ids[:, None], KINDS, axis=1).astype(np.int64), fresh)
    spread = lambda x: np.repeat(x[:, None], KINDS, axis=1)  # noqa: E731
    read, _, _ = small().remember(
        ts,
        np.zeros(n, np.bool_),
        slots,
        spread(write),
        spread(value),
        np.tile(rate, (KINDS, 1)),
        np.zeros((n, RING_WIDTH), np.float32),
    )
    assert np.allclose(read[:, 1], loop(*events), atol=1e-5)


def test_the_ring_holds_the_last_events_oldest_first() -> None:
    n = RING + 4
    ids = np.zeros(n, np.int64)
    recent = np.arange(n, dtype=np.float32)[:, None].repeat(RING_WIDTH, axis=1)
    fresh = np.zeros((n, KINDS), np.bool_)
    fresh[0] = True
    zero = np.zeros((n, KINDS, MEMORY), np.float32)
    _, ring, used = small().remember(
        np.arange(n, dtype=float), np.zeros(n, np.bool_), Slots(np.zeros((n, KINDS), np.int64), fresh), zero, zero,
        np.zeros((KINDS, MEMORY), np.float32), recent,
    )  # fmt: skip
    previous = previous_of_entity(ids)
    assert used.tolist() == [min(i, RING) for i in range(n)]
    assert ring[-1, :, 0].tolist() == previous[-1].tolist() == list(range(n - 1 - RING, n - 1))
    assert ring[3, :3, 0].tolist() == previous[3, :3].tolist() == [0, 1, 2]


def test_the_latest_time_never_goes_back_within_a_segment() -> None:
    first = np.array([True, False, False, True, False])
    assert _latest(np.array([1.0, 5.0, 2.0, 1.0, 0.5]), first).tolist() == [1.0, 5.0, 5.0, 1.0, 1.0]
