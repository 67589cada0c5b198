"""Rehearsed intrusions are the site's own connections in other places, within bounds, and the harder the less even."""

from dataclasses import fields, replace

import numpy as np
import pytest
from made_windows import block_of, office

from cmdana_plugin.behaviour import Flows, flows_of, take_flows
from cmdana_plugin.training.rehearsals.moves import MOST_ROWS
from cmdana_plugin.training.rehearsals.rehearsal import KINDS, Curriculum, Rehearsed, rehearsed

DNS = 2  # the schema's code


def site(n: int = 4000) -> Flows:
    """A made-up office whose look-ups have domains and outcomes, and whose desks also look after machines."""
    flows = flows_of(block_of(office(n)), 1)
    flows = take_flows(flows, np.argsort(flows.end, kind="stable"))
    lookup = flows.service == DNS
    rng = np.random.default_rng(0)
    refused = lookup & (rng.random(n) < 0.05)
    administration = (~lookup) & (rng.random(n) < 0.02)
    watcher = (flows.orig == flows.orig[0]) & flows.resp_local & ~lookup
    return replace(
        flows,
        domain=np.where(lookup, flows.resp_bytes.astype(np.uint64) % 9 + 1, 0).astype(np.uint64),
        told_by=np.where(lookup, 1, 0).astype(np.int8),
        refused=refused.astype(np.int32),
        accepted=(lookup & ~refused).astype(np.int32),
        port=np.where(watcher, 161, np.where(administration, 22, flows.port)).astype(np.int32),
    )


SITE = site()


def drawn(kind: str, seed: int, hardness: float = 0.5, count: int = 4) -> Rehearsed:
    return rehearsed(SITE, np.random.default_rng(seed), Curriculum.begin(hardness), count, [kind])


def only(made: Rehearsed) -> Flows:
    return take_flows(made.flows, np.flatnonzero(made.number > 0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_site_has_something_of_every_kind(kind: str) -> None:
    made = [drawn(kind, seed) for seed in range(5)]
    assert sum(len(only(m)) for m in made) > 0
    assert {int(k) for m in made for k in m.kind} <= {0, 1 + KINDS.index(kind)}


@pytest.mark.parametrize("kind", KINDS)
def test_rehearsals_are_bounded_in_number_time_and_value(kind: str) -> None:
    for seed in range(6):
        made = drawn(kind, seed, hardness=1.0)
        _, sizes = np.unique(made.number[made.number > 0], return_counts=True)
        assert (sizes <= MOST_ROWS).all()
        flows = only(made)
        assert (flows.ts >= SITE.ts.min()).all()
        assert (flows.end <= SITE.end.max()).all()
        assert (flows.end >= flows.ts).all()
        for f in fields(Flows):
            assert np.isfinite(np.asarray(getattr(flows, f.name), np.float64)).all(), f.name
        for name in ("duration", "orig_bytes", "resp_bytes", "orig_pkts", "resp_pkts", "bits"):
            assert (getattr(flows, name) >= 0).all(), name


def test_the_site_s_own_connections_stay_as_they_are_and_in_order() -> None:
    made = rehearsed(SITE, np.random.default_rng(3), count=20)
    own = made.row >= 0
    assert ((made.number == 0) == own).all()
    assert ((made.kind == 0) == own).all()
    assert (made.row[own] == np.arange(len(SITE))).all()
    assert (np.diff(made.flows.end) >= 0).all()
    kept = take_flows(made.flows, np.flatnonzero(own))
    assert all((getattr(kept, f.name) == getattr(SITE, f.name)).all() for f in fields(Flows))


@pytest.mark.parametrize("kind", ["guess", "console", "lateral", "twin"])
def test_services_and_ports_are_ones_that_the_site_has(kind: str) -> None:
    had = set(zip(SITE.service.tolist(), SITE.port.tolist(), strict=True)) | {
        (0, p) for p in SITE.port.tolist()
    }
    for seed in range(8):
        flows = only(drawn(kind, seed))
        assert set(zip(flows.service.tolist(), flows.port.tolist(), strict=True)) <= had


def test_what_teaches_nothing_is_copied_by_no_rehearsal() -> None:
    strange = np.arange(len(SITE)) % 50 == 0
    flows = replace(SITE, service=np.where(strange, 77, SITE.service).astype(np.int16))
    made = rehearsed(flows, np.random.default_rng(1), count=40, normal=~strange)
    assert (only(made).service != 77).all()


def test_the_same_seed_gives_the_same_rehearsals_and_another_gives_others() -> None:
    a, b, c = (rehearsed(SITE, np.random.default_rng(s), count=20) for s in (5, 5, 6))
    assert all(np.array_equal(getattr(a.flows, f.name), getattr(b.flows, f.name)) for f in fields(Flows))
    assert np.array_equal(a.number, b.number)
    assert len(a.flows) != len(c.flows) or not np.array_equal(a.flows.ts, c.flows.ts)


def test_none_begins_before_it_may() -> None:
    begin = float(np.quantile(SITE.end, 0.5))
    assert (only(rehearsed(SITE, np.random.default_rng(2), count=40, begin=begin)).ts >= begin).all()


def gaps(kind: str, hardness: float) -> list[float]:
    """Median seconds between the steps of many rehearsals."""
    out = []
    for seed in range(40):
        made = drawn(kind, seed, hardness, count=2)
        for which in np.unique(made.number[made.number > 0]).tolist():
            ts = np.sort(made.flows.ts[made.number == which])
            if len(ts) > 3:
                out.append(float(np.median(np.diff(ts))))
    return out


@pytest.mark.parametrize("kind", ["guess", "ports", "tunnel", "dga"])
def test_the_harder_the_slower(kind: str) -> None:
    assert np.median(gaps(kind, 1.0)) > 1.3 * np.median(gaps(kind, 0.0))


def test_what_is_seen_becomes_harder_and_what_is_not_easier_within_bounds() -> None:
    lessons = Curriculum.begin(0.5)
    for _ in range(20):
        lessons = lessons.after({"guess": 1.0, "beacon": 0.0})
    assert lessons.hardness["guess"] == 1.0
    assert 0.0 < lessons.hardness["beacon"] < 0.2
    assert lessons.hardness["dga"] == 0.5


def test_guesses_are_refused_where_the_logs_tell_of_it() -> None:
    flows = [only(drawn("guess", seed)) for seed in range(20)]
    told = [f for f in flows if len(f) and (f.told_by > 0).all()]
    assert told
    assert all((f.refused > 0).mean() > 0.8 for f in told)


def test_a_tunnel_asks_one_domain_for_names_that_carry_much() -> None:
    made = drawn("tunnel", 1, count=1)
    flows = only(made)
    assert len(np.unique(flows.domain)) == 1
    assert flows.domain[0] not in SITE.domain
    assert flows.bits.min() > SITE.bits.max()


def test_a_twin_does_what_its_host_never_does() -> None:
    flows = only(drawn("twin", 4))
    if len(flows):
        asked = {
            (o, r, p)
            for o, r, p in zip(SITE.orig.tolist(), SITE.resp.tolist(), SITE.port.tolist(), strict=True)
        }
        assert not asked & set(
            zip(flows.orig.tolist(), flows.resp.tolist(), flows.port.tolist(), strict=True)
        )


def test_a_site_of_next_to_nothing_is_left_alone() -> None:
    few = take_flows(SITE, np.arange(5))
    made = rehearsed(few, np.random.default_rng(0), count=10)
    assert (made.number == 0).all()
    assert len(made.flows) == 5
    none = take_flows(SITE, np.arange(0))
    assert len(rehearsed(none, np.random.default_rng(0)).flows) == 0


@pytest.mark.parametrize("proto", [6, 17, 1])
@pytest.mark.parametrize("least", [2, 4, 30])
def test_of_a_site_that_does_little_what_can_be_rehearsed_is(proto: int, least: int) -> None:
    """One protocol, few services, few connections of each, nothing answered or nothing within: none is an error."""
    rows = take_flows(SITE, np.arange(60))
    n = len(rows)
    for answered, local in ((True, True), (True, False), (False, True), (False, False)):
        flows = replace(
            rows,
            proto=np.full(n, proto, np.int8),
            port=(np.arange(n) // least).astype(np.int32),
            service=np.zeros(n, rows.service.dtype),
            resp_pkts=np.full(n, float(answered)),
            resp_local=np.full(n, local),
            orig_local=np.full(n, not local),
            domain=np.zeros(n, np.uint64),
            told_by=np.zeros(n, np.int8),
        )
        for seed in range(6):
            made = rehearsed(flows, np.random.default_rng(seed), count=26)
            assert len(made.flows) >= n
