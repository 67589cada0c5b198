"""What a host comes to in an hour, far beyond its own days and others' hours, is an incident that says so."""

from collections.abc import Sequence

import numpy as np
import pytest
from incident_rows import asked, connection, rows
from numpy.typing import NDArray

from cmdana_plugin.config import Incident
from cmdana_plugin.config import Verdict as Budget
from cmdana_plugin.decision.incidents import Decider
from cmdana_plugin.decision.notice import HostIncident
from cmdana_plugin.decision.seen import USUAL, Seen
from cmdana_plugin.decision.usual.amounts import (
    BINS,
    LOGINS,
    MEASURES,
    NAMES,
    RESPONDERS,
    SENT,
    TRIES,
    Amounts,
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


def come_to(
    habits: Habits, key: int, peers: NDArray[np.uint64], *, sent: float = 0.0, logins: object = 0.0,
    tried: object = False, bits: object = 0.0, domain: str = "",
) -> Amounts:  # fmt: skip
    """What host `key` comes to with connections to these."""
    n = len(peers)
    return habits.amounts(
        np.full(n, key, np.uint64), peers, np.full(n, sent), np.zeros(n) + logins, np.zeros(n, bool) | tried,
        np.zeros(n) + bits, [domain] * n, np.ones(n, bool),
    )  # fmt: skip


def an_hour(
    habits: Habits, key: int, teaches: bool = True, *, sent: float = 0.0, responders: int = 1, logins: int = 0,
    tries: int = 0, names: float = 0.0, domain: str = "example.com",
) -> np.ndarray:  # fmt: skip
    """The most evidence of connections of so many, [MEASURES]."""
    n = max(responders, tries, 1)
    peers = np.arange(n).astype(np.uint64) % np.uint64(max(responders, 1))
    last = np.arange(n) == n - 1
    amounts = come_to(
        habits, key, peers, sent=sent, logins=logins * last, tried=np.arange(n) >= n - tries,
        bits=names * last, domain=domain,
    )  # fmt: skip
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
                logins=int(rng.random() < 0.05), tries=int(rng.integers(0, 3)), names=rng.uniform(0.0, 400.0),
            )  # fmt: skip
        habits.turn(1)
    habits.next_day()
    return habits


def test_who_sends_far_more_than_hosts_here_do_brings_evidence() -> None:
    def much(sent: float) -> float:
        return float(an_hour(days_of(), 999, sent=sent)[SENT])

    assert much(15_000.0) == 0.0
    assert 1.5 < much(100_000.0) < much(1e6) < much(1e9)
    nothing = an_hour(Habits(1000), 999, sent=1e9, responders=500, logins=90, tries=500, names=2e4)
    assert np.flatnonzero(nothing).tolist() == [LOGINS, NAMES], "no day is known; what these two are is"
    assert nothing[LOGINS] > 3.0
    assert nothing[NAMES] > 2.0
    assert an_hour(Habits(1000), 9, logins=7)[LOGINS] == 0.0
    assert an_hour(Habits(1000), 9, names=250.0)[NAMES] == 0.0


@pytest.mark.parametrize(
    ("measure", "few", "many"),
    [
        (RESPONDERS, {"responders": 9}, {"responders": 60}),
        (LOGINS, {"logins": 7}, {"logins": 30}),
        (TRIES, {"tries": 20}, {"tries": 200}),
        (NAMES, {"names": 2500.0}, {"names": 20_000.0}),
    ],
)
def test_many_in_an_hour_are_evidence_and_a_few_more_are_not(
    measure: int, few: dict[str, float], many: dict[str, float]
) -> None:
    assert an_hour(days_of(), 999, **few)[measure] == 0.0
    assert an_hour(days_of(), 999, **many)[measure] > 2.0


def test_however_the_hour_is_cut_it_comes_to_the_same() -> None:
    whole, cut = days_of(), days_of()
    peers = np.arange(60).astype(np.uint64) % np.uint64(40)
    like = {"logins": 1.0, "tried": True, "bits": 10.0, "domain": "example.com"}
    once = come_to(whole, 999, peers, **like)
    cuts = [slice(i, i + 7) for i in range(0, 60, 7)]
    parts = [come_to(cut, 999, peers[c], **like) for c in cuts]
    assert np.array_equal(once.value, np.concatenate([p.value for p in parts]))
    assert once.value[-1].tolist() == [0.0, 40.0, 60.0, 60.0, 600.0]
    whole.turn(1)
    again = come_to(whole, 999, peers[:1], tried=True, bits=10.0)
    assert again.value[0].tolist() == [0.0, 1.0, 0.0, 1.0, 10.0], "of a new hour"


def test_what_is_asked_for_below_several_domains_adds_up_for_none() -> None:
    habits = Habits(1000)
    peers = np.ones(1, np.uint64)
    each = [come_to(habits, 9, peers, bits=2000.0, domain=f"d{k}.example").value[0, NAMES] for k in range(9)]
    assert each == [2000.0] * 9
    assert come_to(habits, 9, peers, bits=2000.0, domain="d3.example").value[0, NAMES] == 4000.0
    assert come_to(habits, 8, peers, bits=2000.0, domain="d3.example").value[0, NAMES] == 2000.0


@pytest.mark.parametrize("teaches", [True, False])
def test_a_host_that_has_come_to_as_much_before_does_nothing_new_unless_that_was_an_incident(
    teaches: bool,
) -> None:
    habits = days_of()
    like = {"responders": 60, "logins": 30, "tries": 60, "names": 20_000.0}
    an_hour(habits, 7, teaches, sent=1e6, **like)
    habits.turn(1)
    habits.next_day()
    found = an_hour(habits, 7, sent=2e6, **like)
    news = [SENT, LOGINS, NAMES]
    assert np.flatnonzero(found).tolist() == ([] if teaches else news), "of scans an incident teaches too"
    assert (an_hour(habits, 8, sent=2e6, **like) > 1.0).all()


@pytest.mark.parametrize(
    ("later", "days", "told"),
    [
        ({"responders": 60, "tries": 120}, 1, False),
        ({"responders": 40, "tries": 80}, 1, False),
        ({"responders": 60, "tries": 300}, 1, True),  # more than twice as many
        ({"responders": 2, "tries": 120}, 1, True),  # ports of one host are no inventory
        ({"responders": 60, "tries": 120}, 9, True),  # and what was told is forgotten
    ],
)
def test_of_a_scan_the_host_is_not_told_again_the_next_day_for_as_many_to_each_responder(
    later: dict[str, int], days: int, told: bool
) -> None:
    habits = days_of()
    assert an_hour(habits, 7, teaches=False, responders=60, tries=120)[TRIES] > 2.0
    for _ in range(days):
        habits.turn(24)
        habits.next_day()
    assert bool(an_hour(habits, 7, teaches=False, **later)[TRIES]) is told
    assert an_hour(habits, 8, teaches=False, **later)[TRIES] > 2.0, "another host's is news"


def test_hours_that_are_a_hosts_own_are_none_of_the_tail_that_others_are_held_against() -> None:
    def scanned(daily: bool) -> float:
        """What others' scan is evidence of, where host 7 scans each day, or each day another host."""
        habits = days_of()
        for day in range(6):
            for _ in range(4):
                an_hour(habits, 7 if daily else 20 + day, tries=300)
                habits.turn(6)
            habits.next_day()
        return float(an_hour(habits, 99, tries=300)[TRIES])

    assert scanned(daily=True) > scanned(daily=False) + 0.3


def test_heavy_tails_need_more() -> None:
    rng = np.random.default_rng(4)
    hours = np.zeros((2, 2, len(MEASURES), BINS))
    for tail, of in zip((0.2, 2.0), hours, strict=True):
        np.add.at(of[0, SENT], bin_of(10_000.0 * rng.pareto(1.0 / tail, 1000) + 10_000.0), 1.0)
        of[1] = of[0]
    calm, heavy = (tails_of_hours(of) for of in hours)
    assert calm.level[SENT] < heavy.level[SENT]
    assert calm.index[SENT] > 3.0
    assert 0.4 < heavy.index[SENT] < 0.8
    assert calm.share[SENT] == pytest.approx(heavy.share[SENT], abs=0.05)


def test_amounts_go_on_with_a_state_and_with_one_of_an_earlier_version() -> None:
    habits = days_of()
    again, last, older, oldest = (Habits(1000) for _ in range(4))
    an_hour(habits, 999, responders=20, names=500.0)
    state = habits.state()
    again.restore(state)
    for some in (habits, again):
        of = come_to(some, 999, np.arange(40).astype(np.uint64), bits=10.0, domain="example.com")
        assert of.value[-1, RESPONDERS] == 40.0, "twenty of these are known"
        assert of.value[-1, NAMES] == 900.0
    added = ("most", "so_far", "amounts", "pairs", "names", "bits", "told")
    before = {name: array for name, array in state.items() if name not in added}
    oldest.restore(before)
    assert not an_hour(oldest, 999, sent=1e9).any(), "nor of any other measure but logins and names"
    most, hours = state["most"], state["amounts"][:, 0]
    older.restore(before | {"sent": most[:, SENT], "sent_hours": hours[:, SENT]})
    of_four = {"most": most[:, :4], "so_far": state["so_far"][:, :4], "amounts": hours[:, :4]}
    last.restore(before | of_four | {"pairs": state["pairs"]})
    assert (
        an_hour(last, 998, responders=60)[RESPONDERS]
        == an_hour(days_of(), 998, responders=60)[RESPONDERS]
        > 0.0
    )
    assert an_hour(older, 998, sent=1e9)[SENT] == an_hour(days_of(), 998, sent=1e9)[SENT] > 0.0
    with pytest.raises(ValueError, match="pairs"):
        again.restore(state | {"pairs": np.zeros((2, 2), np.uint64)})


def test_of_pairs_no_more_are_held_than_there_may_be() -> None:
    habits = Habits(4)
    peers = np.arange(100).astype(np.uint64)
    assert come_to(habits, 3, peers).value[-1, RESPONDERS] == 64.0
    assert habits.uncounted == 36
    assert come_to(habits, 3, peers).value[-1, RESPONDERS] == 64.0
    assert habits.uncounted == 72, "each time that they are passed over"
    for k in range(100):
        come_to(habits, 3, peers[:1], bits=10.0, domain=f"d{k}.example")
    assert habits.uncounted == 72 + 36


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


def test_an_inventory_of_every_day_is_one_incident_and_a_scan_by_the_same_host_is_another() -> None:
    def scan(at: float, hosts: int, ports: int) -> list[Seen]:
        return [
            connection(at + 10 * k, 0.3, orig="10.0.0.7", resp=f"10.0.2.{k % hosts}", port=20 + k // hosts, tried=True)
            for k in range(hosts * ports)
        ]  # fmt: skip

    inventories = [s for day in range(1, 5) for s in scan((day + 0.2) * DAY, 60, 1)]
    calm_days = [s._replace(end=s.end + day * DAY) for day in range(5) for s in calm()]
    (incident,) = through(Decider(SMALL, Incident(), UNLEARNED), [*calm_days, *inventories])
    assert incident.host == "10.0.0.7"
    both = through(
        Decider(SMALL, Incident(), UNLEARNED), [*calm_days, *inventories, *scan(4.6 * DAY, 1, 200)]
    )
    assert [i.host for i in both] == ["10.0.0.7"] * 2


def test_a_tunnel_of_one_connection_is_found_before_any_day_is_known() -> None:
    tunnel = connection(10.0, 0.3, port=53, service="dns", domain="tunnel.example", bits=30_000.0)
    (incident,) = through(Decider(Budget(), Incident()), [tunnel])
    assert incident.kind == "tunnel"
    assert incident.headline.startswith("tunnels through tunnel.example")
    assert any("asks for as much below one domain" in why for why in incident.why)
    assert through(Decider(Budget(), Incident()), [tunnel._replace(bits=1000.0)]) == []


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
