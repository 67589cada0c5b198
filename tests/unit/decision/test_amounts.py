"""What a host comes to in an hour, far beyond its own days and others' hours, is an incident that says so."""

from collections.abc import Sequence

import numpy as np
import pytest
from incident_rows import asked, connection, rows

from cmdana_plugin.config import Incident
from cmdana_plugin.config import Verdict as Budget
from cmdana_plugin.decision.incidents import Decider
from cmdana_plugin.decision.notice import HostIncident
from cmdana_plugin.decision.seen import USUAL, Seen
from cmdana_plugin.decision.usual.amounts import (
    BINS,
    LOGINS,
    MEASURES,
    RESPONDERS,
    SENT,
    TRIES,
    bin_of,
    tails_of_hours,
)
from cmdana_plugin.decision.usual.habits import Habits
from cmdana_plugin.decision.usual.tails import UNLEARNED

HOUR = 3600.0
DAY = 24 * HOUR
SMALL = Budget(alerts_per_day=1.0)
LOGIN = "SSH login", "SSH logins", "refused"


def through(decider: Decider, seen: Sequence[Seen]) -> list[HostIncident]:
    """The incidents that came of it."""
    some = sorted(seen, key=lambda s: s.end)
    for i in range(0, len(some), 500):
        decider.receive(rows(some[i : i + 500]))
    return decider.incidents()


def an_hour(
    habits: Habits,
    key: int,
    teaches: bool = True,
    *,
    sent: float = 0.0,
    responders: int = 1,
    logins: int = 0,
    tries: int = 0,
) -> np.ndarray:
    """The evidence of the last connection of so many, [MEASURES]."""
    n = max(responders, tries, 1)
    keys, peers = np.full(n, key, np.uint64), np.arange(n).astype(np.uint64) % np.uint64(max(responders, 1))
    refused, tried = np.zeros(n), np.arange(n) >= n - tries
    refused[-1] = logins
    amounts = habits.amounts(keys, peers, np.full(n, sent), refused, tried, np.ones(n, bool))
    found = habits.beyond_others(amounts)
    habits.count(amounts, np.zeros((n, len(USUAL))), np.zeros(n), np.full(n, teaches))
    return found.max(axis=0)


def days_of(sent: float = 10_000.0, hosts: int = 20) -> Habits:
    """After a day in whose every hour each host sends about so much, to about four responders."""
    rng = np.random.default_rng(0)
    habits = Habits(1000)
    for _ in range(24):
        for host in range(1, hosts + 1):
            an_hour(
                habits, host, sent=sent * 2.0 ** rng.uniform(-1.0, 1.0), responders=int(rng.integers(2, 7)),
                logins=int(rng.random() < 0.05), tries=int(rng.integers(0, 3)),
            )  # fmt: skip
        habits.turn(1)
    habits.next_day()
    return habits


def test_who_sends_far_more_than_hosts_here_do_brings_evidence() -> None:
    def much(sent: float) -> float:
        return float(an_hour(days_of(), 999, sent=sent)[SENT])

    assert much(15_000.0) == 0.0
    assert 1.5 < much(100_000.0) < much(1e6) < much(1e9)
    nothing = an_hour(Habits(1000), 999, sent=1e9, responders=500, logins=90, tries=500)
    assert np.flatnonzero(nothing).tolist() == [LOGINS], "no day is known; what refused logins are is"
    assert nothing[LOGINS] > 3.0
    assert an_hour(Habits(1000), 9, logins=7)[LOGINS] == 0.0


@pytest.mark.parametrize(
    ("measure", "few", "many"),
    [
        (RESPONDERS, {"responders": 9}, {"responders": 60}),
        (LOGINS, {"logins": 7}, {"logins": 30}),
        (TRIES, {"tries": 20}, {"tries": 200}),
    ],
)
def test_many_in_an_hour_are_evidence_and_a_few_more_are_not(
    measure: int, few: dict[str, int], many: dict[str, int]
) -> None:
    assert an_hour(days_of(), 999, **few)[measure] == 0.0
    assert an_hour(days_of(), 999, **many)[measure] > 2.0


def test_however_the_hour_is_cut_it_comes_to_the_same() -> None:
    whole, cut = days_of(), days_of()
    keys, peers = np.full(60, 999, np.uint64), np.arange(60).astype(np.uint64) % np.uint64(40)
    none, yes = np.zeros(60), np.ones(60, bool)
    once = whole.amounts(keys, peers, none, none + 1, yes, yes)
    cuts = [slice(i, i + 7) for i in range(0, 60, 7)]
    parts = [cut.amounts(keys[c], peers[c], none[c], none[c] + 1, yes[c], yes[c]) for c in cuts]
    assert np.array_equal(once.value, np.concatenate([p.value for p in parts]))
    assert once.value[-1].tolist() == [0.0, 40.0, 60.0, 60.0]
    whole.turn(1)
    again = whole.amounts(keys[:1], peers[:1], none[:1], none[:1], yes[:1], yes[:1])
    assert again.value[0].tolist() == [0.0, 1.0, 0.0, 1.0], "of a new hour"


@pytest.mark.parametrize("teaches", [True, False])
def test_a_host_that_has_come_to_as_much_before_does_nothing_new_unless_that_was_an_incident(
    teaches: bool,
) -> None:
    habits = days_of()
    an_hour(habits, 7, teaches, sent=1e6, responders=60, logins=30, tries=60)
    habits.turn(1)
    habits.next_day()
    assert bool(an_hour(habits, 7, sent=2e6, responders=60, logins=30, tries=60).any()) is not teaches
    assert (an_hour(habits, 8, sent=2e6, responders=60, logins=30, tries=60) > 1.0).all()


def test_heavy_tails_need_more() -> None:
    rng = np.random.default_rng(4)
    hours = np.zeros((2, len(MEASURES), BINS))
    for tail, of in zip((0.2, 2.0), hours, strict=True):
        np.add.at(of[SENT], bin_of(10_000.0 * rng.pareto(1.0 / tail, 1000) + 10_000.0), 1.0)
    calm, heavy = (tails_of_hours(of) for of in hours)
    assert calm.level[SENT] < heavy.level[SENT]
    assert calm.index[SENT] > 3.0
    assert 0.4 < heavy.index[SENT] < 0.8
    assert calm.share[SENT] == pytest.approx(heavy.share[SENT], abs=0.05)


def test_amounts_go_on_with_a_state_and_with_one_of_an_earlier_version() -> None:
    habits, again, older, oldest = days_of(), Habits(1000), Habits(1000), Habits(1000)
    an_hour(habits, 999, responders=20)
    state = habits.state()
    again.restore(state)
    for some in (habits, again):
        keys, peers = np.full(40, 999, np.uint64), np.arange(40).astype(np.uint64)
        of = some.amounts(keys, peers, np.zeros(40), np.zeros(40), np.zeros(40, bool), np.ones(40, bool))
        assert of.value[-1, RESPONDERS] == 40.0, "twenty of these are known"
    before = {
        name: array for name, array in state.items() if name not in ("most", "so_far", "amounts", "pairs")
    }
    oldest.restore(before)
    assert not an_hour(oldest, 999, sent=1e9).any(), "nor of any other measure but logins"
    older.restore(before | {"sent": state["most"][:, SENT], "sent_hours": state["amounts"][:, SENT]})
    assert an_hour(older, 998, sent=1e9)[SENT] == an_hour(days_of(), 998, sent=1e9)[SENT] > 0.0
    with pytest.raises(ValueError, match="pairs"):
        again.restore(state | {"pairs": np.zeros((2, 2), np.uint64)})


def test_of_pairs_no_more_are_held_than_there_may_be() -> None:
    habits = Habits(4)
    keys, peers = np.full(100, 3, np.uint64), np.arange(100).astype(np.uint64)
    none, no = np.zeros(100), np.zeros(100, bool)
    assert habits.amounts(keys, peers, none, none, no, ~no).value[-1, RESPONDERS] == 64.0
    assert habits.uncounted == 36
    assert habits.amounts(keys, peers, none, none, no, ~no).value[-1, RESPONDERS] == 64.0
    assert habits.uncounted == 72, "each time that they are passed over"


def calm(hosts: int = 30) -> list[Seen]:
    """A day of hosts that speak to about five others an hour."""
    rng = np.random.default_rng(6)
    return [
        connection(float(at) * DAY, float(p), orig=f"10.0.0.{host}", resp=f"10.0.1.{peer}")
        for host in range(1, hosts)
        for at, p, peer in zip(rng.random(120), rng.random(120), rng.integers(1, 40, 120), strict=True)
    ]


def test_a_slow_scan_and_a_guesser_are_found_though_each_connection_is_ordinary() -> None:
    scan = [
        connection(1.2 * DAY + 50 * k, 0.3, orig="10.0.0.7", resp=f"10.0.2.{k}", port=20 + k, tried=True)
        for k in range(60)
    ]
    guesses = [
        asked(1.2 * DAY + 9 * k, 0.3, LOGIN, refused=2, orig="10.0.0.9", resp="10.0.0.2", port=22)
        for k in range(20)
    ]
    for attack, host, kind, words in (
        (scan, "10.0.0.7", "scan", "speaks to as many hosts"),
        (guesses, "10.0.0.9", "password guessing", "has as many logins refused"),
    ):
        decider = Decider(SMALL, Incident(), UNLEARNED)
        (incident,) = through(decider, [*calm(), *attack])
        assert (incident.host, incident.kind) == (host, kind)
        assert any(words in why for why in incident.why)
        assert through(Decider(SMALL, Incident(), UNLEARNED), [*calm(), *attack[: len(attack) // 6]]) == []


def sends(at: float, orig: str, sent: int) -> Seen:
    return connection(at, 0.4, orig=orig, resp="198.51.100.9", service="ssh", port=22, sent=sent)


def test_one_copy_that_is_larger_than_any_here_is_an_incident_that_says_so() -> None:
    rng = np.random.default_rng(6)
    calm = [
        sends(at * DAY, f"10.0.0.{host}", int(10_000 * 2 ** rng.uniform(-1.0, 1.0)))
        for host in range(1, 30)
        for at in rng.random(100)
    ]
    decider = Decider(SMALL, Incident())
    assert through(decider, [*calm, sends(0.5 * DAY, "10.0.0.7", 2_000_000)]) == [], "no day is over"
    decider = Decider(SMALL, Incident())
    (incident,) = through(decider, [*calm, sends(1.1 * DAY, "10.0.0.7", 2_000_000)])
    assert incident.host == "10.0.0.7"
    assert incident.headline.startswith("sends 2 MB to 198.51.100.9")
    assert any("sends as much in one connection" in why for why in incident.why)
    assert incident.technique == "T1048"


def test_a_copy_in_an_open_incident_is_told() -> None:
    calm = [sends(at / 20 * DAY, f"10.0.0.{host}", 10_000) for host in range(1, 30) for at in range(20)]
    tries = [
        connection(1.1 * DAY + k, 1e-4, orig="10.0.0.7", resp=f"10.0.2.{k}", port=22, tried=True)
        for k in range(40)
    ]
    decider = Decider(SMALL, Incident())
    assert [i.host for i in through(decider, [*calm, *tries])] == ["10.0.0.7"]
    (notices,) = decider.receive(rows([sends(1.1 * DAY + 50, "10.0.0.7", 2_000_000)])).notices.values()
    assert [n.incident.headline[:10] for n in notices if n.incident is not None] == ["sends 2 MB"]
