"""Persistence: what a host newly goes to and keeps to is the rarer the longer it does; nothing else is."""

from typing import Any

import numpy as np
import pytest
from made_flows import START, flows, merged, site

from cmdana_plugin.behaviour.flows import Flows, flows_between, take_flows
from cmdana_plugin.behaviour.persistence import SLOTS, Persistence, Visits, _shares, persistence_of_all
from cmdana_plugin.behaviour.streams import Streams

DAY, TEN = 86_400.0, 600.0
HOST = 105  # of the site
ELSEWHERE = 7777


def day(which: int) -> Flows:
    return site(1500, seed=which + 1, gap=40.0, begin=START + which * DAY)


def calls(n: int, *, begin: float = DAY, every: float = TEN, **like: Any) -> Flows:
    """A host of the site goes somewhere else `n` times, a day after the site was first seen."""
    ts = START + begin + 3600.0 + every * np.arange(n)
    return flows(n, **({"ts": ts, "orig": HOST, "resp": ELSEWHERE, "port": 443} | like))


def persistence(whole: Flows, size: int = 10**9) -> np.ndarray:
    streams, kept, out = Streams(), Persistence(), []
    for begin in range(0, len(whole), size):
        part = flows_between(whole, begin, begin + size)
        teach = np.ones(len(part), bool)
        out.append(kept.receive(streams.visited(part, teach)[1], part.end, teach))
    return np.concatenate(out)


def of_calls(whole: Flows, share: np.ndarray, **like: Any) -> np.ndarray:
    return share[(whole.orig == like.get("orig", HOST)) & (whole.resp == like.get("resp", ELSEWHERE))]


def test_who_keeps_to_what_is_new_is_the_rarer_the_longer() -> None:
    whole = merged(day(0), day(1), calls(40))
    share = of_calls(whole, persistence(whole))
    assert (share[:2] == 1.0).all(), "twice is nothing"
    assert (np.diff(share[2:]) < 0.0).all()
    assert share[-1] < 1e-4


def test_what_comes_often_within_ten_minutes_is_not_kept_to() -> None:
    whole = merged(day(0), day(1), calls(500, every=1.0))
    assert of_calls(whole, persistence(whole)).min() == 1.0


def test_a_domain_is_kept_to_whichever_of_its_hosts_is_asked() -> None:
    resp = ELSEWHERE + np.arange(40)
    whole = merged(day(0), day(1), calls(40, resp=resp, domain=99))
    share = persistence(whole)[whole.domain == 99]
    assert share[-1] < 1e-4
    without = merged(day(0), day(1), calls(40, resp=resp))
    assert persistence(without)[without.resp >= ELSEWHERE].min() == 1.0


@pytest.mark.parametrize(
    "parts",
    [
        (day(0), calls(40, begin=0.0)),  # on the first day everything is new
        (day(0), day(1), calls(40, orig=999)),  # as to a host that is new
        (day(0), day(1), calls(3, begin=0.0), calls(40)),  # known from the day before
        (day(0), day(1), calls(40, service=2, port=53, proto=17, domain=99)),  # looked up, not gone to
    ],
)
def test_what_is_no_news_is_none(parts: tuple[Flows, ...]) -> None:
    whole = merged(*parts)
    late = whole.ts > START + DAY + 4 * 3600.0 if len(parts) == 4 else whole.ts > 0.0
    share = persistence(whole)
    assert share[late & ((whole.resp == ELSEWHERE) | (whole.domain == 99))].min() == 1.0


@pytest.mark.parametrize("domain", [0, 99])
def test_where_others_have_gone_before_one_more_is_no_news(domain: int) -> None:
    poller = calls(40, begin=0.0, orig=HOST + 1, domain=domain)
    whole = merged(day(0), poller, day(1), calls(40, domain=domain))
    assert of_calls(whole, persistence(whole)).min() == 1.0
    same_day = merged(
        day(0), day(1), calls(40, begin=DAY, orig=HOST + 1, domain=domain), calls(40, domain=domain)
    )
    assert of_calls(same_day, persistence(same_day)).min() < 1e-4, "who began on the same day is not before"


def test_however_the_stream_is_cut_it_lasts_as_long() -> None:
    whole = merged(day(0), day(1), calls(40), day(2), calls(30, begin=2 * DAY, resp=ELSEWHERE + 1))
    assert np.array_equal(persistence(whole), persistence(whole, 97))


def test_where_much_is_kept_to_every_day_more_is_needed() -> None:
    def busy(which: int) -> list[Flows]:
        return [calls(30, begin=which * DAY, orig=100 + h, resp=5000 + 100 * which + h) for h in range(20)]

    calm = merged(day(0), day(1), day(2), calls(30, begin=2 * DAY))
    restless = merged(day(0), day(1), *busy(1), day(2), calls(30, begin=2 * DAY))
    assert of_calls(restless, persistence(restless))[-1] > 3.0 * of_calls(calm, persistence(calm))[-1]


def test_a_day_s_own_beacons_are_not_what_it_is_compared_with() -> None:
    others = [calls(40, orig=100 + h, resp=6000 + h) for h in range(10)]
    one, many = merged(day(0), day(1), calls(40)), merged(day(0), day(1), calls(40), *others)
    assert np.array_equal(of_calls(one, persistence(one)), of_calls(many, persistence(many)))


def test_a_state_goes_on_and_one_from_before_it_was_kept_begins_anew() -> None:
    whole = merged(day(0), day(1), calls(40))
    half = len(whole) - 700
    streams, first = Streams(), Persistence()
    first.receive(*_with(streams, flows_between(whole, 0, half)))
    again = Persistence()
    again.restore(first.state())
    rest = _with(streams, flows_between(whole, half, len(whole)))
    assert np.array_equal(first.receive(*rest), again.receive(*rest))
    again.restore({})
    with pytest.raises(ValueError, match="reached"):
        again.restore({**first.state(), "reached": np.zeros(3)})
    with pytest.raises(ValueError, match="persistence"):
        again.restore({**first.state(), "reached": np.full((2, SLOTS + 1), -1.0)})


def _with(streams: Streams, part: Flows) -> tuple[Visits, np.ndarray, np.ndarray]:
    teach = np.ones(len(part), bool)
    return streams.visited(part, teach)[1], part.end, teach


def test_the_tail_falls_and_what_was_counted_moves_it() -> None:
    prior = _shares(np.zeros(SLOTS + 1))
    assert (np.diff(prior[3:]) < 0.0).all()
    assert prior[2] == 1.0
    reached = np.zeros(SLOTS + 1)
    reached[1], reached[3:31] = 1000.0, 200.0  # a fifth of what is new comes to thirty
    heavier = _shares(reached)
    assert heavier[30] > 20.0 * prior[30]


def test_what_several_counted_of_their_own_hosts_adds_up() -> None:
    whole = merged(day(0), day(1), calls(40), calls(40, orig=HOST + 1), day(2))
    alone = Persistence()
    alone.receive(*_with(Streams(), whole))
    parts = []
    for odd in (0, 1):
        part = Persistence()
        part.receive(*_with(Streams(), take_flows(whole, np.flatnonzero(whole.orig % 2 == odd))))
        parts.append(part.state())
    early = Persistence()  # that has seen nothing of the last day
    early.receive(*_with(Streams(), merged(day(0), day(1))))
    together = persistence_of_all(parts)
    assert np.allclose(together["reached"], alone.state()["reached"])
    assert together["times"].tolist() == alone.state()["times"].tolist()
    assert persistence_of_all([*parts, early.state()])["times"].tolist() == together["times"].tolist()
    assert np.array_equal(persistence_of_all([parts[0], {}])["reached"], parts[0]["reached"])
