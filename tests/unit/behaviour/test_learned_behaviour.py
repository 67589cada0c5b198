"""Behaviour learned from a made-up office with a scanner of its own: the same scan by another host is what is odd."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from made_flows import START, flows
from made_flows import merged as in_order
from made_windows import block_of, office
from numpy.typing import NDArray
from small_model import small_checkpoint

from benchmarks.hiding import seen
from cmdana_plugin.behaviour import (
    Behaviour,
    Bounds,
    Flows,
    Streams,
    behaviour_of,
    concat_flows,
    ending_before,
    flows_of,
    names,
    take_flows,
    with_behaviour,
    with_behaviour_beside,
)
from cmdana_plugin.behaviour.detector import WithBehaviour, p_values
from cmdana_plugin.detector import checkpoint as checkpoints
from cmdana_plugin.detector.cross_modal import CrossModal
from cmdana_plugin.detector.scores import Scores
from cmdana_plugin.detector.site_history import WithSiteHistory
from cmdana_plugin.training.fit_behaviour import Normal, _of_many, _thinned, fit_behaviour, lesson_of, recall
from cmdana_plugin.training.rehearsals.rehearsal import KINDS, Curriculum
from feature_extractors import CmdanaError, SchemaError
from feature_extractors.features import Encoded, load_schema, take_encoded

pytestmark = pytest.mark.slow  # learns several models

SALT: Final = 5
DAY: Final = 86_400.0


def scan(flows: Flows, host: int, begin: float, ports: int = 120) -> Flows:
    """One host of the flows asks closed ports of another, one each."""
    hosts = np.unique(flows.orig)
    row = int(np.flatnonzero(flows.orig == hosts[host])[0])
    rows = take_flows(flows, np.full(ports, row))
    ts = begin + 0.02 * np.arange(ports)
    nothing = np.zeros(ports)
    return replace(
        rows,
        ts=ts, end=ts, resp=np.full(ports, hosts[host - 1]), resp_local=np.ones(ports, np.bool_),
        port=(1 + 7 * np.arange(ports)).astype(np.int32), proto=np.full(ports, 6, np.int8),
        service=np.zeros(ports, rows.service.dtype), state=np.full(ports, 3, np.int8), duration=nothing,
        orig_bytes=nothing, resp_bytes=nothing, orig_pkts=nothing + 1, resp_pkts=nothing + 1,
    )  # fmt: skip


def merged(*parts: Flows) -> tuple[Flows, NDArray[np.int64]]:
    """In order of their end, and of which part each is."""
    flows = concat_flows(parts)
    which = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    order = np.argsort(flows.end, kind="stable")
    return take_flows(flows, order), which[order]


def usual(seed: int, days: float = 0.0) -> Flows:
    """Some hours of the office, in which its first host scans another every so often."""
    flows = flows_of(block_of(office(4000, seed=seed, gap=6.0)), SALT)
    flows = take_flows(flows, np.argsort(flows.end, kind="stable"))
    flows = replace(flows, ts=flows.ts + days * DAY, end=flows.end + days * DAY)
    begin, end = float(flows.end[0]), float(flows.end[-1])
    return merged(flows, *(scan(flows, 1, t) for t in np.linspace(begin + 100.0, end - 400.0, 8)))[0]


@pytest.fixture(scope="module")
def learned() -> Behaviour:
    flows = usual(1)
    n = len(flows)
    made = fit_behaviour([Normal(flows, np.ones(n, np.bool_), int(0.8 * n))], salt=SALT, rounds=6)
    assert made is not None
    return made


def judged(learned: Behaviour, flows: Flows) -> NDArray[np.float64]:
    streams = Streams()
    streams.restore(learned.past)
    return p_values(learned, streams.receive(flows), flows)


def test_a_scan_by_another_host_is_odd_and_the_known_scanner_s_is_not(learned: Behaviour) -> None:
    later = usual(2, days=1.0)
    flows, which = merged(later, scan(later, 9, float(np.median(later.end))))
    p = judged(learned, flows)
    known = (which == 0) & (flows.state == 3)
    assert known.sum() > 500
    assert np.median(p[which == 1]) < 1e-3
    assert (p[known] < 1e-3).mean() < 0.02
    assert (p[which == 0] < 1e-3).mean() < 0.02


def test_the_same_seed_learns_the_same() -> None:
    flows = usual(1)
    n = len(flows)
    normal = [Normal(flows, np.ones(n, np.bool_), int(0.8 * n))]
    a, b, c = (fit_behaviour(normal, seed=s, rounds=2) for s in (1, 1, 2))
    assert a is not None
    assert b is not None
    assert c is not None
    assert np.array_equal(a.trees.value, b.trees.value)
    assert np.array_equal(a.known.order, b.known.order)
    assert not np.array_equal(a.trees.value, c.trees.value)


def test_a_model_asks_no_field_that_it_was_blind_to() -> None:
    flows = usual(1)
    n = len(flows)
    normal = [Normal(flows, np.ones(n, np.bool_), int(0.8 * n))]
    blind = {name for name in names() if name.startswith("host_")}

    def asked(made: Behaviour | None) -> set[str]:
        assert made is not None
        trees = made.trees
        inner = trees.left != np.arange(len(trees.left))
        return {names()[f] for f in trees.feature[inner].tolist()}

    assert asked(fit_behaviour(normal, rounds=2, trees=40)) & blind
    assert not asked(fit_behaviour(normal, rounds=2, trees=40, blind_to=blind)) & blind


def test_a_kind_that_was_never_rehearsed_is_seen_all_the_same() -> None:
    flows = usual(1)
    n = len(flows)
    normal = [Normal(flows, np.ones(n, np.bool_), int(0.8 * n))]
    made = fit_behaviour(normal, kinds=[k for k in KINDS if k != "ports"], rounds=4)
    assert made is not None
    lesson = lesson_of(normal, np.random.default_rng(9), Curriculum.begin(), Bounds(), ["ports"])
    assert recall(made.trees, lesson, 0.01)["ports"] > 0.3


def test_rehearsals_that_hide_teach_another_model_and_the_same_seed_the_same() -> None:
    flows = usual(1)
    n = len(flows)
    normal = Normal(flows, np.ones(n, np.bool_), int(0.8 * n))
    plain, hidden, again = (
        fit_behaviour([normal], rounds=4, trees=40, hiding=way) for way in ("plain", "searched", "searched")
    )
    assert plain is not None
    assert hidden is not None
    assert again is not None
    assert np.array_equal(hidden.trees.value, again.trees.value)
    assert not np.array_equal(plain.trees.value, hidden.trees.value)
    loud, quiet = (seen(plain.trees, normal, way, turns=1) for way in ("plain", "searched"))
    assert loud[1] > 0.5
    assert quiet[1] < loud[1]  # fewer of the connections of whoever searches are seen
    assert quiet[3] < loud[3]


def test_too_little_teaches_nothing() -> None:
    flows = take_flows(usual(1), np.arange(100))
    assert fit_behaviour([Normal(flows, np.ones(100, np.bool_), 80)]) is None
    assert fit_behaviour([]) is None


def saved(learned: Behaviour, folder: Path) -> Path:
    path = folder / "m.safetensors"
    checkpoints.save(with_behaviour(small_checkpoint(), learned), path)
    return path


def test_a_checkpoint_brings_back_what_was_learned_and_the_site_s_past(
    learned: Behaviour, tmp_path: Path
) -> None:
    again = behaviour_of(checkpoints.load(saved(learned, tmp_path), load_schema()))
    assert again is not None
    flows = usual(3, days=1.0)
    assert np.array_equal(judged(learned, flows), judged(again, flows), equal_nan=True)
    assert again.site == learned.site
    assert all(np.array_equal(again.past[k], v) for k, v in learned.past.items())


def test_a_checkpoint_without_behaviour_has_none(tmp_path: Path) -> None:
    checkpoints.save(small_checkpoint(), tmp_path / "m.safetensors")
    made = checkpoints.load(tmp_path / "m.safetensors", load_schema())
    assert made.behaviour == {}
    assert behaviour_of(made) is None


def test_behaviour_of_other_fields_is_refused(learned: Behaviour) -> None:
    made = with_behaviour(small_checkpoint(), learned)
    other = replace(made, about={**made.about, "behaviour_digest": "0" * 64})
    with pytest.raises(SchemaError, match="train again"):
        behaviour_of(other)


def changed(arrays: Mapping[str, NDArray[Any]], name: str, change: Any) -> dict[str, NDArray[Any]]:
    values = np.array(arrays[name])
    return {**arrays, name: change(values)}


def with_first(value: Any) -> Any:
    def change(values: NDArray[Any]) -> NDArray[Any]:
        values.reshape(-1)[0] = value
        return values

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("trees.feature", with_first(10_000)),
        ("trees.left", with_first(-1)),
        ("known.fit", with_first(0.5)),
        ("unknown.sample", lambda x: x[:1]),
        ("usual", lambda x: x[:-1]),
        ("site", lambda x: x.astype(np.int32)),
        ("past.hosts.codes", with_first(200)),
        ("past.hosts.held", lambda x: x + np.float32(0.5)),
        ("past.pairs.sums", with_first(np.nan)),
        ("past.pairs.at", with_first(-1)),
        ("past.pairs.slots", with_first(1 << 30)),
        ("past.pairs.ring", lambda x: x[:-1]),
        ("past.hosts.hour", with_first(1 << 60)),
    ],
)
def test_what_is_not_sound_is_refused_in_one_line(learned: Behaviour, name: str, change: Any) -> None:
    made = with_behaviour(small_checkpoint(), learned)
    made = replace(made, behaviour=changed(made.behaviour, name, change))
    with pytest.raises(CmdanaError) as error:
        with_behaviour_beside(Undecided(), made, SALT)
    assert "\n" not in str(error.value)


def test_what_is_missing_or_too_much_is_refused(learned: Behaviour) -> None:
    made = with_behaviour(small_checkpoint(), learned)
    for arrays in (
        {k: v for k, v in made.behaviour.items() if k != "usual"},
        {**made.behaviour, "more": np.zeros(1)},
    ):
        with pytest.raises(CmdanaError, match="behaviour"):
            behaviour_of(replace(made, behaviour=arrays))


class Undecided:
    """A detector to which everything is equally likely."""

    name = "undecided"
    schema_digest = ""

    def receive(self, windows: Encoded) -> Scores:
        n = len(windows)
        return Scores(np.zeros(n), np.ones(n), {}, np.full((n, 4), 0.25), [""] * n)

    def explain(self, windows: Encoded, scores: Scores, rows: NDArray[np.int64]) -> list[list[str]]:
        return [["the model's reason"] for _ in rows]


def test_a_past_of_another_key_is_left_out(learned: Behaviour) -> None:
    block = block_of(office(300, seed=4))
    without = replace(learned, past={}, site=0)
    a = WithBehaviour(Undecided(), learned, SALT + 1).receive(block)
    b = WithBehaviour(Undecided(), without, SALT + 1).receive(block)
    assert np.array_equal(a.p_value, b.p_value)
    assert not np.array_equal(a.p_value, WithBehaviour(Undecided(), learned, SALT).receive(block).p_value)


def test_a_past_larger_than_the_bounds_is_refused_in_one_line(learned: Behaviour) -> None:
    with pytest.raises(CmdanaError, match="max_hosts"):
        WithBehaviour(Undecided(), learned, SALT, Bounds(8))


def test_a_scan_is_explained_in_words_with_what_is_usual(learned: Behaviour) -> None:
    windows = block_of(office(600, seed=5, scan=120))
    detector = WithBehaviour(Undecided(), learned, SALT)
    scores = detector.receive(windows)
    row = int(np.argmin(scores.p_value))
    (reasons,) = detector.explain(windows, scores, np.array([row]))
    assert reasons[-1] == "the model's reason"
    assert 1 <= len(reasons) - 1 <= 3
    assert all(", usual " in reason and "nan" not in reason for reason in reasons[:-1])


def test_older_traffic_is_judged_by_what_is_known_all_the_same(learned: Behaviour) -> None:
    state = ending_before(learned.past, float(learned.past["clock"][0]) - 3 * DAY)
    assert state["clock"][0] == learned.past["clock"][0] - 3 * DAY
    streams = Streams()
    streams.restore(state)
    later, now = usual(3, days=1.0), usual(3, days=-2.0)
    p = p_values(learned, streams.receive(now), now)
    assert np.allclose(p, judged(learned, later), rtol=1e-6, equal_nan=True)
    assert ending_before(learned.past, float(learned.past["clock"][0]) + 1.0).keys() == learned.past.keys()


def test_who_learned_a_site_knows_from_the_first_hour_what_is_new_there(learned: Behaviour) -> None:
    block = block_of(office(300, seed=4))
    begin = float(block.connections.end[0])
    knows = WithBehaviour(Undecided(), learned, SALT)
    knows.receive(block)
    assert knows.state()["persistence.times"][0] < begin - DAY / 2
    stranger = WithBehaviour(Undecided(), replace(learned, past={}, site=0), SALT)
    stranger.receive(block)
    assert stranger.state()["persistence.times"][0] == begin


def test_an_hour_of_one_host_is_thinned_evenly() -> None:
    """Of a hundred connections of one hour thirty stay, from its beginning to its end; of few all do."""
    hours = flows(105, ts=START + np.append(np.arange(100.0), 7200.0 + np.arange(5.0)), orig=3)
    mixed = in_order(hours, flows(3, ts=START + 50.5 + np.arange(3.0), orig=4))
    kept = _thinned(mixed, np.arange(len(mixed)))
    busy = kept[(mixed.orig[kept] == 3) & (mixed.ts[kept] < START + 7200.0)]
    assert (len(busy), len(kept)) == (30, 38)
    assert np.diff(busy).max() <= 8
    assert len(_thinned(mixed, np.arange(0))) == 0


def test_one_scanner_is_not_the_whole_tail() -> None:
    """Sixty scans of one host's among a thousand connections of many count as one; when two scan, as two."""
    rng = np.random.default_rng(0)
    odds, host = rng.normal(0.0, 1.0, 1000), rng.integers(10, 50, 1000).astype(np.uint64)
    assert _of_many(odds, host).mean() > 0.98
    odds[:60], host[:60] = 9.0, 1
    assert _of_many(odds, host)[:60].sum() == 1
    host[30:60] = 2
    assert 2 <= _of_many(odds, host)[:60].sum() <= 60


def test_what_was_learned_elsewhere_has_a_word(learned: Behaviour) -> None:
    flows = usual(1)
    n = len(flows)
    normal = [Normal(flows, np.ones(n, np.bool_), int(0.8 * n))]
    alone = fit_behaviour(normal, rounds=2)
    both = fit_behaviour(normal, rounds=2, beside=learned.trees)
    assert alone is not None
    assert both is not None
    table = Streams(Bounds()).receive(flows)
    mean = (alone.trees.score(table) + learned.trees.score(table)) / 2.0
    assert np.allclose(both.trees.score(table), mean, atol=1e-4)


def test_runs_and_the_site_are_looked_at_beside_the_network_with_the_same_result(learned: Behaviour) -> None:
    block = block_of(office(900, seed=6, scan=90))
    turn = iter(range(10_000))
    results = []
    for threads, spare in ((1, None), (2, None), (2, lambda: False), (2, lambda: next(turn) % 3 > 0)):
        network = CrossModal(small_checkpoint(), load_schema(), threads=threads, spare=spare)
        whole = WithSiteHistory(WithBehaviour(network, learned, SALT))
        scores = [whole.receive(take_encoded(block, np.arange(i, i + 99))) for i in range(0, 990, 99)]
        results.append((np.concatenate([s.p_value for s in scores]), whole.state()))
    for p_value, state in results[1:]:
        assert np.array_equal(p_value, results[0][0])
        assert state.keys() == results[0][1].keys()
        assert all(
            np.array_equal(state[name], results[0][1][name], equal_nan=state[name].dtype.kind == "f")
            for name in state
        )


def test_a_fault_beside_the_network_is_not_lost(learned: Behaviour, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = WithBehaviour(CrossModal(small_checkpoint(), load_schema(), threads=2), learned, SALT)

    def broken(_: object) -> None:
        raise MemoryError("of the run")

    monkeypatch.setattr(whole, "_judged", broken)
    with pytest.raises(MemoryError, match="of the run"):
        whole.receive(block_of(office(50, seed=6)))
