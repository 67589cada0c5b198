"""Where nobody has learned a site, the days that are over say how much evidence its hosts' hours bring."""

import numpy as np
import pytest
from incident_rows import connection, rows

from cmdana_plugin.config import Incident
from cmdana_plugin.config import Verdict as Budget
from cmdana_plugin.decision.incidents import Decider
from cmdana_plugin.decision.seen import Seen
from cmdana_plugin.decision.usual.tails import STATISTICS, UNLEARNED, Tails, of_hours

DAY = 86_400.0
SMALL = Budget(alerts_per_day=1.0)


def day(of: int, power: float, hosts: int = 20, each: int = 700) -> list[Seen]:
    """What hosts that no other day has bring; at a `power` beyond one p-values are smaller than they say."""
    rng = np.random.default_rng(of)
    return [
        connection(
            (of + at) * DAY,
            float(p**power),
            orig=f"10.{of}.{host // 250}.{host % 250}",
            resp=f"192.0.2.{peer}",
            port=443,
        )
        for host in range(1, hosts + 1)
        for at, p, peer in zip(rng.random(each), rng.random(each), rng.integers(50, size=each), strict=True)
    ]


def attempt(of: int) -> list[Seen]:
    begin = (of + 0.5) * DAY
    return [
        connection(begin + k, 0.005, orig="10.200.0.1", resp="198.51.100.9", port=9000 + k) for k in range(14)
    ]


def through(decider: Decider, seen: list[Seen], size: int = 1000) -> Decider:
    some = sorted(seen, key=lambda s: s.end)
    for i in range(0, len(some), size):
        decider.receive(rows(some[i : i + size]))
    return decider


def told(tails: Tails | None, *days: list[Seen]) -> list[str]:
    """The hosts of the incidents."""
    return [
        incident.host
        for incident in through(
            Decider(SMALL, Incident(), tails), [s for some in days for s in some]
        ).incidents()
    ]


def test_on_a_calm_site_less_evidence_is_an_incident_from_the_second_day_on() -> None:
    calm = [day(0, 0.5), day(1, 0.5)]
    assert told(None, *calm) == []
    assert told(None, *calm, attempt(0)) == []
    assert told(None, *calm, attempt(1)) == ["10.200.0.1"]


def test_on_a_site_that_the_model_does_not_fit_more_evidence_is_needed_from_the_second_day_on() -> None:
    first, second = (
        {host for host in told(None, *days) if host.startswith("10.1.")}
        for days in ([day(1, 3.0)], [day(0, 3.0), day(1, 3.0)])
    )
    assert len(first) >= 10
    assert len(second) <= 2


def test_what_was_learned_of_a_site_stays() -> None:
    assert told(UNLEARNED, day(0, 0.5), day(1, 0.5), attempt(1)) == []


def test_hours_of_hosts_with_an_incident_are_no_usual_ones() -> None:
    with_it, without = (
        through(Decider(SMALL, Incident(), key=(1, 2)), [*day(0, 1.0), *more, *day(1, 1.0)]).state()
        for more in ([s._replace(evidence=9.0) for s in attempt(0)], [])
    )
    assert np.array_equal(with_it["evidence.tails"][0], without["evidence.tails"][0])


def test_a_state_goes_on_with_the_tails_of_its_own_model_alone() -> None:
    days = [*day(0, 0.5), *day(1, 0.5)]
    state, cut = (through(Decider(SMALL, Incident(), key=(1, 2)), days, size).state() for size in (1000, 97))
    assert np.array_equal(state["evidence.tails"], cut["evidence.tails"]), "however the stream is cut"
    assert not np.array_equal(state["evidence.tails"][0], UNLEARNED[0])
    assert np.array_equal(state["evidence.tails"][1], UNLEARNED[1])
    same, other = Decider(SMALL, Incident()), Decider(SMALL, Incident())
    same.restore(state)
    assert np.array_equal(same.state()["evidence.tails"], state["evidence.tails"])
    other.restore(state, learned=False)
    assert np.array_equal(other.state()["evidence.tails"], UNLEARNED)
    assert not len(other.evidence.blocks(0))


@pytest.mark.parametrize("wrong", [np.nan, -1.0, 9.0])
def test_a_state_whose_tails_are_none_is_refused(wrong: float) -> None:
    state = Decider(SMALL, Incident()).state()
    bad = state["evidence.tails"].copy()
    bad[0, 0, 2] = wrong
    with pytest.raises(ValueError, match="tails"):
        Decider(SMALL, Incident()).restore(state | {"evidence.tails": bad})


def test_an_hour_of_many_hosts_is_one_of_many_hours() -> None:
    decider = Decider(SMALL, Incident(max_hosts=4096))
    through(decider, day(0, 1.0, hosts=500, each=100), 4096)
    assert 24 * 100 < len(decider.evidence.blocks(0)) <= 24 * 341


def test_many_connections_that_are_odd_are_more_than_the_oddest_thirty_of_them() -> None:
    """A flood's connections are as odd as each other: of thirty and of three hundred the oddest thirty are the same."""

    def flood(many: int) -> list[Seen]:
        return [
            connection(0.5 * DAY + 30.0 * k / many, 0.008, orig="10.200.0.1", resp="198.51.100.9", port=443)
            for k in range(many)
        ]

    tails = UNLEARNED.copy()
    assert told(tails, day(0, 1.0), flood(1000)) == []  # how many there are in an hour here is not known yet
    tails[0, STATISTICS - 1] = [0.471, 0.290, 0.0]
    assert told(tails, day(0, 1.0), flood(30)) == []
    assert told(tails, day(0, 1.0), flood(1000)) == ["10.200.0.1"]


def test_a_state_of_before_there_was_a_count_keeps_its_hosts_and_learns_the_hours_anew() -> None:
    decider = through(Decider(SMALL, Incident(), key=(1, 2)), day(0, 1.0))
    old = {}
    for name, array in decider.evidence.state().items():
        if name in ("hosts.many", "hosts.many_at"):
            continue
        shorter = ("hosts.peak", "hosts.most", "hosts.own", "blocks.0", "blocks.1", "tails")
        old[name] = array[:, :-1] if name in shorter else array
    again = Decider(SMALL, Incident(), key=(1, 2)).evidence
    again.restore(old)
    assert len(again) == len(decider.evidence) > 20
    assert len(decider.evidence.blocks(0)) > 0 == len(again.blocks(0))
    assert again.limit == decider.evidence.limit


def test_what_a_day_comes_to_is_learned_of_days() -> None:
    rng = np.random.default_rng(5)
    hours = rng.exponential(0.1, (400, STATISTICS))
    few, many = (of_hours(hours, 0, days * DAY) for days in (1.0, 2.0))
    day_long = [4, 5, 6]  # of `SIZES`, those of the second horizon
    assert np.array_equal(few[day_long], UNLEARNED[0, day_long])
    assert not np.isclose(many[day_long], UNLEARNED[0, day_long]).any(axis=1).all()
    others = [k for k in range(STATISTICS) if k not in day_long]
    assert np.array_equal(few[others], many[others])


def test_hours_watched_go_on_with_a_state() -> None:
    days = [day(of, 0.5) for of in range(3)]
    whole = through(Decider(SMALL, Incident(), key=(1, 2)), [s for some in days for s in some])
    begun = through(Decider(SMALL, Incident(), key=(1, 2)), [*days[0], *days[1]])
    later = Decider(SMALL, Incident(), key=(1, 2))
    later.restore(begun.state())
    through(later, days[2])
    assert np.array_equal(later.state()["evidence.tails"], whole.state()["evidence.tails"])


def test_what_everybody_did_at_an_hours_beginning_is_looked_at_again() -> None:
    calm = [
        connection(300.0 + 10.0 * k, 0.2, orig=f"10.8.0.{k % 60 + 1}", resp="192.0.2.9", port=443)
        for k in range(180)
    ]
    deciders = [Decider(SMALL, Incident(), key=(1, 2)) for _ in range(2)]
    for decider, size in zip(deciders, (1000, 7), strict=True):
        through(decider, calm[:10])
        limit = decider.evidence.limit
        decider.evidence.raise_limit(0, limit + 1.0, 390.0)
        through(decider, calm[10:30], size)
        assert decider.evidence.limits[0] == limit + 1.0, "it was just looked"
        through(decider, calm[30:], size)
        assert decider.evidence.limits[0] == limit
    whole, cut = (decider.evidence.state() for decider in deciders)
    for name, array in whole.items():
        assert np.array_equal(array, cut[name]), f"{name}: however the stream is cut"
