"""What the behaviour fields tell: fan-out, rhythm, surprise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_flows import START, flows, merged, site, statistics

from cmdana_plugin.behaviour.fields import _column, names
from cmdana_plugin.behaviour.flows import Flows, take_flows
from cmdana_plugin.behaviour.streams import Streams
from cmdana_plugin.behaviour.tables import KINDS
from cmdana_plugin.behaviour.walk import WIDTH
from feature_extractors.features import load_schema


def told(f: Flows, *wanted: str) -> np.ndarray:
    return statistics(Streams(), f, *wanted)


def test_every_field_of_the_schema_is_known_and_no_two_are_the_same() -> None:
    columns = [c for c in map(_column, names()) if c is not None]
    assert len(set(columns)) == len(columns)
    assert all(0 <= c < KINDS * WIDTH for c, _ in columns)
    words = [field.words for field in load_schema().behaviour]
    assert len(set(words)) == len(words)


def test_fan_out_counts_each_responder_once_however_often_it_is_met() -> None:
    n = 300
    f = flows(n, ts=START + 0.1 * np.arange(n), resp=1000 + np.arange(n) % 30, port=22, service=5)
    others = told(f, "host_others_1d", "host_ports_1d", "use_others_1d")
    assert others[29] == pytest.approx([30, 1, 30], rel=0.01)
    assert others[-1] == pytest.approx([30, 1, 30], rel=0.01)


def test_ports_of_one_responder_are_fan_out_too() -> None:
    n = 500
    f = flows(n, ts=START + 0.002 * np.arange(n), port=1 + np.arange(n), service=0, state=3)
    assert told(f, "host_ports_1h", "host_others_1h")[-1] == pytest.approx([500, 1], rel=0.01)


def test_fan_out_is_forgotten_with_its_horizon_and_no_sooner() -> None:
    n = 100
    f = flows(n, ts=START + np.append(0.1 * np.arange(n - 1), 7200.0), resp=1000 + np.arange(n))
    hour, day = told(f, "host_others_1h", "host_others_1d")[-1]
    assert hour == pytest.approx(1 + 99 * np.exp(-2), rel=0.02)
    assert day == pytest.approx(100 * np.exp(-1 / 12), rel=0.02)


@pytest.mark.parametrize(("jitter", "most"), [(0.0, 0.001), (0.1, 0.15)])
def test_a_beat_is_even(jitter: float, most: float) -> None:
    steps = 61.0 * (1.0 + jitter * np.random.default_rng(1).uniform(-1, 1, 40))
    cv, off = told(flows(40, ts=START + np.cumsum(steps)), "pair_interval_cv", "pair_off_beat")[-1]
    assert cv <= most
    assert off <= most


def test_missed_beats_spread_the_intervals_and_stay_on_the_beat() -> None:
    beats = np.delete(np.arange(60), [5, 6, 20, 41, 42, 50, 57])
    cv, off = told(flows(len(beats), ts=START + 61.0 * beats), "pair_interval_cv", "pair_off_beat")[-1]
    assert cv > 0.2
    assert off < 0.01


def test_a_stream_of_a_domain_is_told_apart_from_other_use_of_the_same_server() -> None:
    rng = np.random.default_rng(2)
    beacon = flows(60, domain=21)
    other = flows(400, ts=START + np.sort(rng.uniform(0, 3600, 400)), domain=23)
    f = merged(beacon, other)
    out = told(f, "domain_interval_cv", "pair_interval_cv")[f.domain == 21]
    assert out[-1, 0] < 0.01
    assert out[-1, 1] > 0.5


def test_minutes_and_tens_say_how_steadily_a_stream_is_there() -> None:
    minutes, tens = told(flows(120), "pair_minutes", "pair_tens")[-1]
    assert (minutes, tens) == (64, 12)


def test_connections_at_once_are_one_visit() -> None:
    ts = np.repeat(START + 61.0 * np.arange(40), 5) + np.tile(0.1 * np.arange(5), 40)
    interval, cv = told(flows(200, ts=ts), "pair_interval", "pair_interval_cv")[-1]
    assert interval == pytest.approx(61.0)
    assert cv < 0.01


def test_looking_a_name_up_is_no_part_of_the_rhythm_of_going_there() -> None:
    going = flows(40, domain=21)
    looking = flows(40, ts=going.ts - 4.0, domain=21, port=53, proto=17, service=2, resp=7)
    f = merged(going, looking)
    assert told(f, "domain_interval_cv")[f.port == 443][-1] < 0.01


def test_a_domain_that_nobody_knows_surprises_and_how_much_is_told_up_to_a_bound() -> None:
    strange = flows(1, ts=START + 60_000, orig=105, domain=999)
    f = merged(site(2000), strange)
    surprise = told(f, "domain_surprise")
    assert surprise[f.domain == 999][0, 0] > np.nanmedian(surprise) + 5.0
    assert Streams().receive(f)[-1, names().index("domain_surprise")] == 5.0


def test_refusals_add_up_over_connections() -> None:
    out = told(flows(126, ts=START + 0.5 * np.arange(126), refused=1, service=5, port=22), "use_refused_10m")
    assert out[-1, 0] == pytest.approx(120, rel=0.05)


def test_a_contact_that_others_like_it_have_is_less_surprising() -> None:
    f = merged(site(8000, hosts=10, gap=10.0))
    streams = Streams()
    streams.receive(f)
    later = f.end[-1] + 10.0
    new = flows(1, ts=later, orig=555, resp=7, port=53, proto=17, service=2)
    known = statistics(streams, new, "pair_surprise")[0, 0]
    nowhere = replace(new, resp=np.array([4444], np.uint64), port=np.array([8081], np.int32))
    strange = statistics(streams, nowhere, "pair_surprise")[0, 0]
    assert known < 2.0
    assert strange > known + 3.0


def test_what_repeats_itself_against_habit_gains_and_habit_does_not() -> None:
    rng = np.random.default_rng(4)
    n = 3000
    habit = flows(n, ts=START + np.cumsum(rng.exponential(60.0, n)), orig_bytes=rng.lognormal(6, 2, n))
    streams = Streams()
    ordinary = statistics(streams, habit, "pair_evidence")[n // 2 :, 0]
    beat = flows(40, ts=habit.ts[-1] + 1.0 + 30.0 * np.arange(40), orig_bytes=333.0, resp_bytes=1e6)
    assert statistics(streams, beat, "pair_evidence")[-1, 0] > np.quantile(ordinary, 0.99)


def test_rows_can_be_taken_of_flows() -> None:
    f = site(50)
    assert take_flows(f, np.array([3, 1])).ts.tolist() == f.ts[[3, 1]].tolist()
