"""Rehearsals that hide stay possible: no connection is lost, faster, smaller or outside the time that there is."""

from dataclasses import fields, replace

import numpy as np
import pytest
from made_windows import block_of, office
from numpy.typing import NDArray

from cmdana_plugin.behaviour import Flows, flows_of, take_flows
from cmdana_plugin.training.rehearsals import hiding
from cmdana_plugin.training.rehearsals.hiding import PLAIN, hardened, planned
from cmdana_plugin.training.rehearsals.rehearsal import (
    Curriculum,
    Rehearsal,
    Rehearsed,
    among,
    drawn,
    site_of,
)
from feature_extractors import CmdanaError


def usual() -> Flows:
    flows = flows_of(block_of(office(3000)), 1)
    return take_flows(flows, np.argsort(flows.end, kind="stable"))


OWN = usual()
SITE = site_of(OWN)
REHEARSALS = drawn(SITE, np.random.default_rng(1), Curriculum.begin(), 26)


def same(a: Flows, b: Flows) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Flows))


def by_move(
    name: str, value: float, monkeypatch: pytest.MonkeyPatch, one: Rehearsal, seed: int = 0
) -> Rehearsal:
    """The rehearsal by this move alone."""
    monkeypatch.setattr(hiding, "LEVELS", {name: (value,)})
    monkeypatch.setattr(hiding, "_MOVES", 1)
    return planned(one, SITE, np.random.default_rng(seed))


def scan(n: int = 30) -> Rehearsal:
    """One of the site's connections `n` times, two seconds apart."""
    flows = take_flows(OWN, np.full(n, 10))
    ts = float(OWN.ts.min()) + 100.0 + 2.0 * np.arange(n)
    return Rehearsal(1, 1, replace(flows, ts=ts, end=ts + 0.5))


def test_no_plan_loses_a_connection_or_makes_it_less_or_puts_it_where_no_time_is() -> None:
    for seed in range(20):
        for r in REHEARSALS:
            after = planned(r, SITE, np.random.default_rng(seed))
            assert len(after.flows) == len(r.flows)
            assert after.flows.orig_bytes.sum() >= r.flows.orig_bytes.sum()
            # Jitter may bring the last nearer to the first, by a mean interval at most.
            shortest = np.ptp(r.flows.ts) * (1.0 - 1.0 / max(len(r.flows) - 1, 1))
            assert np.ptp(after.flows.ts) >= shortest - 1e-6
            assert after.flows.ts.min() >= OWN.ts.min()
            assert after.flows.end.max() <= OWN.end.max()
            assert np.isin(after.flows.orig, np.append(SITE.hosts, r.flows.orig)).all()


def test_a_slower_attack_takes_so_many_times_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    after = by_move("pace", 4.0, monkeypatch, scan())
    assert np.allclose(np.diff(after.flows.ts), 8.0)
    assert np.allclose(after.flows.end - after.flows.ts, 0.5)


def test_one_that_would_outlast_the_site_s_own_use_begins_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    late = scan()
    shift = float(OWN.end.max() - late.flows.end.max())
    late = replace(late, flows=replace(late.flows, ts=late.flows.ts + shift, end=late.flows.end + shift))
    after = by_move("pace", 4.0, monkeypatch, late)
    assert np.allclose(np.diff(after.flows.ts), 8.0)
    assert after.flows.end.max() == pytest.approx(OWN.end.max())


def test_one_for_whose_plan_there_is_no_time_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    long = scan()
    ts = OWN.ts.min() + np.linspace(0.0, 0.9, 30) * np.ptp(OWN.end)
    long = replace(long, flows=replace(long.flows, ts=ts, end=ts))
    assert by_move("pace", 4.0, monkeypatch, long) is long


def test_jitter_keeps_the_pace_and_takes_the_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    after = by_move("jitter", 1.0, monkeypatch, scan())
    gaps = np.diff(after.flows.ts)
    assert gaps.std() > 0.3
    assert gaps.mean() == pytest.approx(2.0, abs=0.15)


def test_padding_is_of_bytes_and_of_the_packets_that_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    one = scan()
    one = replace(one, flows=replace(one.flows, orig_bytes=np.full(30, 1400.0), orig_pkts=np.full(30, 3.0)))
    after = by_move("pad", 4.0, monkeypatch, one)
    assert (after.flows.orig_bytes == 5600.0).all()
    assert (after.flows.orig_pkts == 4.0).all()


def test_several_hosts_attack_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    after = by_move("hosts", 4.0, monkeypatch, scan())
    assert len(np.unique(after.flows.orig)) == 4
    assert np.isin(after.flows.orig, SITE.hosts).all()
    assert after.flows.orig[0] == after.flows.orig[4] == OWN.orig[10]


def test_ordinary_use_is_mixed_in_and_is_no_part_of_the_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    after = by_move("mix", 1.0, monkeypatch, scan())
    assert after.beside is not None
    assert len(after.beside) == 30
    assert (after.beside.orig == OWN.orig[10]).all()
    made = among(OWN, [after])
    assert (made.number == 1).sum() == 30
    assert ((made.number == 0) & (made.row < 0)).sum() == 30
    assert (made.kind[made.row < 0] == (made.number[made.row < 0] > 0)).all()


def made(way: str, judge: hiding.Judge | None) -> Rehearsed:
    return hardened(OWN, REHEARSALS, SITE, np.random.default_rng(2), way, judge)


def pace_odds(flows: Flows) -> NDArray[np.float64]:
    """A model to which fewer bytes are odder, and nothing else is."""
    return -np.log1p(flows.orig_bytes)


def test_plain_rehearsals_are_as_they_were_drawn() -> None:
    assert same(made(PLAIN, pace_odds).flows, among(OWN, REHEARSALS).flows)


def test_nothing_is_searched_while_there_is_no_model() -> None:
    assert same(made("searched", None).flows, among(OWN, REHEARSALS).flows)
    assert not same(made("drawn", None).flows, among(OWN, REHEARSALS).flows)


def test_what_is_kept_of_a_search_is_no_odder_to_the_model_than_what_was_drawn() -> None:
    before, after = among(OWN, REHEARSALS), made("searched", pace_odds)
    lower = 0
    for r in REHEARSALS:
        a, b = (float(pace_odds(take_flows(m.flows, np.flatnonzero(m.number == r.number))).mean())
                for m in (before, after))  # fmt: skip
        lower += b < a
    assert lower > 5


def test_another_way_is_refused_by_name() -> None:
    with pytest.raises(
        CmdanaError, match="--rehearsals: found louder, expected one of plain, drawn, searched"
    ):
        made("louder", None)
