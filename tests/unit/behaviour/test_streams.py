"""Streams: each row from its past and itself, in bounded tables that a flood does not empty of who matters."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from made_flows import START, flows, merged, site, statistics

from cmdana_plugin.behaviour.fields import names
from cmdana_plugin.behaviour.flows import Flows, take_flows
from cmdana_plugin.behaviour.streams import Bounds, Streams


def rows(f: Flows, begin: int, end: int) -> Flows:
    return take_flows(f, np.arange(begin, end))


def test_a_sum_counts_the_connection_itself_and_decays() -> None:
    seen = statistics(Streams(), flows(3, ts=START + np.array([0.0, 1.0, 3601.0])), "pair_conns_1h")[:, 0]
    assert seen == pytest.approx([1.0, 1.0 + np.exp(-1 / 3600), 1.0 + np.exp(-1.0) * seen[1]], rel=1e-4)


def test_each_row_is_from_its_past_and_itself_alone() -> None:
    f = site(3000)
    whole = Streams().receive(f)
    np.testing.assert_array_equal(Streams().receive(rows(f, 0, 1700)), whole[:1700])


@pytest.mark.parametrize(("said", "failed"), [(0.0, 5.0), (1.0, 0.0)])
def test_what_is_closed_before_a_byte_was_said_has_failed(said: float, failed: float) -> None:
    """A half-open scan or a flood of SYN that finds an open port is RSTO and was never of use."""
    broken_off = flows(5, ts=START + 0.01 * np.arange(5), state=6, orig_bytes=said, resp_bytes=0.0)
    assert statistics(Streams(), broken_off, "pair_failed_1h")[-1, 0] == pytest.approx(failed, rel=1e-2)


@pytest.mark.parametrize("size", [1, 7, 1024, 1500])
def test_chunks_equal_the_whole(size: int) -> None:
    f = site(2500 if size > 1 else 300)
    whole, streams = Streams().receive(f), Streams()
    parts = [streams.receive(rows(f, i, min(i + size, len(f)))) for i in range(0, len(f), size)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_table_that_grows_tells_what_a_large_one_tells() -> None:
    f = site(6000, hosts=3000)
    small = Streams()
    whole = small.receive(f)
    large = Streams()
    large.restore(Streams().state())
    for _ in range(3):
        large._grow(4)
    np.testing.assert_array_equal(large.receive(f), whole)
    assert not any(small.evicted().values())


def test_the_order_of_strangers_does_not_matter() -> None:
    """Two hosts that share nothing: each one's pair tells the same, whoever comes first at the same time."""
    a, b = flows(50), flows(50, orig=11, resp=13, port=22, service=5)
    pair = [i for i, name in enumerate(names()) if name.startswith("pair_conns_")]
    one, other = merged(a, b), merged(b, a)
    first, second = Streams().receive(one), Streams().receive(other)
    np.testing.assert_array_equal(first[one.orig == 3][:, pair], second[other.orig == 3][:, pair])


def test_everything_that_is_known_is_carried_by_the_state() -> None:
    f = site(4000)
    before = Streams()
    before.receive(rows(f, 0, 2500))
    after = Streams()
    after.restore(before.state())
    np.testing.assert_array_equal(after.receive(rows(f, 2500, 4000)), before.receive(rows(f, 2500, 4000)))


def test_a_state_is_a_copy() -> None:
    streams = Streams()
    streams.receive(site(500))
    state = streams.state()
    kept = {name: array.copy() for name, array in state.items()}
    streams.receive(site(500, seed=2))
    for name, array in kept.items():
        np.testing.assert_array_equal(state[name], array)


@pytest.mark.parametrize(("name", "array"), [
    ("pairs.keys", np.zeros(1000, np.uint64)),
    ("pairs.keys", np.zeros(1 << 24, np.uint64)),
    ("hosts.sums", np.zeros(3, np.float32)),
    ("clock", np.zeros(2, np.float32)),
    ("groups.slow", None),
])  # fmt: skip
def test_what_is_no_state_is_refused_by_name(name: str, array: np.ndarray | None) -> None:
    state = Streams().state()
    if array is None:
        del state[name]
    else:
        state[name] = array
    with pytest.raises(ValueError, match=f"^{name.partition('.')[0]}"):
        Streams().restore(state)


def test_tables_never_exceed_their_bounds_and_evictions_are_counted() -> None:
    streams = Streams(Bounds(hosts=64))
    n = 5000
    streams.receive(
        flows(n, ts=START + 0.01 * np.arange(n), orig=100 + np.arange(n), resp=9000 + np.arange(n))
    )
    sizes = {name: len(a) for name, a in streams.state().items() if name.endswith(".keys")}
    assert sizes["hosts.keys"] == 64
    assert sizes["pairs.keys"] == 256
    assert streams.evicted()["hosts"] >= n - 64


def test_a_flood_of_invented_sources_evicts_nobody_who_is_answered() -> None:
    streams, n = Streams(Bounds(hosts=64)), 20_000
    streams.receive(site(2000, hosts=20))
    known = statistics(
        streams, flows(1, ts=START + 50_000, orig=105, resp=7, port=53, proto=17, service=2), "host_seen"
    )
    flood = flows(
        n, ts=START + 50_001 + 0.001 * np.arange(n), orig=10_000 + np.arange(n), resp=9, port=80, service=0, state=0,
        resp_bytes=0.0, orig_bytes=0.0,
    )  # fmt: skip
    streams.receive(flood)
    after = statistics(
        streams, flows(1, ts=START + 50_100, orig=105, resp=7, port=53, proto=17, service=2), "host_seen"
    )
    assert after[0, 0] > known[0, 0] > 50


def test_who_has_evidence_against_him_outlives_who_is_busy() -> None:
    streams, n = Streams(Bounds(hosts=64)), 20_000
    quiet = flows(1, orig=77, resp=78, state=0, resp_bytes=0.0)
    streams.receive(quiet)
    streams.matter(np.array([77, 79], np.uint64), np.array([1e6, 1e6]))
    streams.receive(flows(n, ts=START + 1 + 0.01 * np.arange(n), orig=10_000 + np.arange(n) % 3000))
    again = replace(quiet, end=quiet.end + 300.0)
    assert statistics(streams, again, "host_seen")[0, 0] == 1.0
    streams.receive(flows(n, ts=START + 400 + 0.01 * np.arange(n), orig=20_000 + np.arange(n) % 3000))
    assert statistics(streams, again, "pair_seen")[0, 0] > 0


HOSTILE = {
    "ts": [np.nan, np.inf, -np.inf, -1.0, 0.0, 1e300, START - 1e6, START],
    "end": [np.nan, np.inf, -np.inf, -1.0, 0.0, 1e300, START - 1e6, START],
    "duration": [np.nan, np.inf, -5.0, 1e300],
    "orig_bytes": [np.nan, -1.0, 2.0**63, np.inf],
    "resp_bytes": [np.nan, -1.0, 2.0**63, 1e308],
    "orig_pkts": [np.nan, -1.0, 2.0**63],
    "refused": [-1, 2**31 - 1, -(2**31)],
    "accepted": [-1, 2**31 - 1],
    "port": [-1, 65_535, 2**31 - 1, -(2**31)],
    "proto": [-1, 127, 0, -128],
    "service": [-1, 32_767, -32_768, 0],
    "state": [-1, 127, -128],
    "bits": [np.nan, -1.0, 1e38, np.inf],
    "domain": [0, 2**64 - 1, 1],
    "orig": [0, 2**64 - 1],
    "resp": [0, 2**64 - 1],
}  # fmt: skip


@pytest.mark.parametrize("name", [*HOSTILE])
def test_hostile_values_break_nothing_and_are_forgotten(name: str) -> None:
    f = site(900)
    values = np.array(HOSTILE[name], np.object_)
    bad = getattr(f, name).copy()
    at = np.arange(100, 100 + 7 * len(values), 7)
    bad[at] = values.astype(bad.dtype)
    streams = Streams(Bounds(hosts=64))
    out = streams.receive(replace(f, **{name: bad}))
    assert not np.isinf(out).any()
    assert np.abs(np.nan_to_num(out)).max() < 1e20
    for array in streams.state().values():
        if array.dtype.kind == "f":
            assert np.isfinite(array).all()


def test_hostile_values_all_at_once_break_nothing() -> None:
    rng = np.random.default_rng(3)
    n = 3000
    columns = {f.name: rng.choice(np.array(HOSTILE.get(f.name, [0]), np.object_), n) for f in fields(Flows)}
    f = site(n)
    mixed = {name: values.astype(getattr(f, name).dtype) for name, values in columns.items()}
    out = Streams(Bounds(hosts=64)).receive(Flows(**mixed))
    assert not np.isinf(out).any()


def test_time_that_goes_back_stands_still() -> None:
    streams = Streams()
    streams.receive(flows(10))
    idle, conns = statistics(streams, flows(1, ts=START - 1e6), "pair_idle", "pair_conns_1w")[0]
    assert idle == 0.0
    assert conns == pytest.approx(11.0, rel=0.01)


def test_what_is_not_to_be_learned_from_is_counted_and_teaches_nothing() -> None:
    f = flows(200, ts=START + 120.0 * np.arange(200))
    taught, untaught = Streams(), Streams()
    taught.receive(f)
    untaught.receive(f, np.zeros(200, np.bool_))
    assert taught.state()["pairs.slow"].max() > 0
    assert untaught.state()["hosts.slow"].max() == 0
    assert untaught.state()["pairs.slow"].max() == 0
    later = flows(1, ts=START + 120.0 * 200)
    wanted = ("pair_conns_1h", "pair_slow_bits", "pair_age")
    known, strange = (
        statistics(taught, later, *wanted)[0],
        statistics(untaught, later, *wanted, teach=False)[0],
    )
    assert known[0] == strange[0]
    assert known[1] < strange[1]
    assert known[2] > strange[2] == 0.0


def test_no_connections_are_no_rows() -> None:
    assert Streams().receive(flows(0)).shape == (0, len(names()))
