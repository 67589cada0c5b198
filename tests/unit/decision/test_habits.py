"""What a host's own days bring is no news from it, and is from another; what is of an incident teaches nothing."""

import numpy as np
import pytest
from incident_rows import connection, rows

from cmdana_plugin.config import Incident
from cmdana_plugin.config import Verdict as Budget
from cmdana_plugin.decision.incidents import Decider
from cmdana_plugin.decision.seen import USUAL, Seen
from cmdana_plugin.decision.usual.habits import Habits
from cmdana_plugin.decision.usual.tails import UNLEARNED

HOUR = 3600.0
DAY = 24 * HOUR
SMALL = Budget(alerts_per_day=1.0)


def through(decider: Decider, seen: list[Seen], size: int = 500) -> set[str]:
    """The hosts of the incidents that came of it."""
    some = sorted(seen, key=lambda s: s.end)
    for i in range(0, len(some), size):
        decider.receive(rows(some[i : i + size]))
    return {incident.host for incident in decider.incidents()}


def routine(hosts: int = 20, seed: int = 1) -> list[Seen]:
    """A day: of one host, 10.1.0.1, every twentieth connection is as odd as one in a thousand of all."""
    rng = np.random.default_rng(seed)
    out = []
    for host in range(1, hosts + 1):
        for at, p in zip(np.sort(rng.random(700)) * DAY, rng.random(700), strict=True):
            odd = host == 1 and rng.random() < 0.05
            peer = int(rng.integers(50))
            out.append(
                connection(
                    float(at),
                    0.001 if odd else float(p),
                    orig=f"10.1.0.{host}",
                    resp=f"192.0.2.{peer}",
                    port=443,
                )
            )
    return out


def burst(orig: str, begin: float, n: int = 60) -> list[Seen]:
    return [connection(begin + k, 0.001, orig=orig, resp=f"198.51.100.{k}", port=9000 + k) for k in range(n)]


def test_what_a_host_brings_every_day_is_no_incident_of_its_own_and_is_one_of_another() -> None:
    budget = Budget(alerts_per_day=3.0)
    first, second, third = (Decider(budget, Incident(), UNLEARNED) for _ in range(3))
    assert through(first, [*routine(), *burst("10.1.0.1", DAY - 600.0, 22)]) == {"10.1.0.1"}, "no day before"
    assert through(second, routine()) == set()
    both = [*burst("10.1.0.1", DAY + 600.0, 22), *burst("10.1.0.2", DAY + 600.0, 22)]
    assert through(second, both) == {"10.1.0.2"}
    assert through(third, [*routine(), *burst("10.1.0.1", DAY + 600.0)]) == {"10.1.0.1"}, "more than ever"


def test_however_the_stream_is_cut_the_same_is_usual() -> None:
    some = [*routine(4), *burst("10.1.0.1", DAY + 600.0)]
    states = []
    for size in (64, 1000):
        decider = Decider(SMALL, Incident(), key=(3, 5))
        through(decider, some, size)
        state = decider.state()
        order = np.argsort(state["habits.keys"])
        states.append(
            [state[f"habits.{name}"][order] for name in ("keys", "days", "today", "settled", "now")]
        )
    for one, other in zip(*states, strict=True):
        assert np.allclose(one, other)


def test_what_belongs_to_an_incident_does_not_become_usual() -> None:
    decider = Decider(SMALL, Incident())
    assert through(decider, [*routine(), *burst("10.1.0.2", DAY - 600.0)]) == {"10.1.0.2"}
    again = through(decider, burst("10.1.0.2", DAY + 12 * HOUR))
    assert again == {"10.1.0.2"}
    (case,) = (i for i in decider.incidents() if i.last_seen > DAY)
    assert case.host == "10.1.0.2"


def count(habits: Habits, keys: np.ndarray, counts: np.ndarray, e: np.ndarray) -> None:
    n = len(keys)
    none, no = np.zeros(n), np.zeros(n, bool)
    amounts = habits.amounts(keys, keys, none, none, no, none, [""] * n, no)
    habits.count(amounts, counts, e, np.ones(n, bool))


def counted(e: list[float]) -> tuple[Habits, np.ndarray]:
    habits, key = Habits(4), np.array([7], np.uint64)
    keys = np.repeat(key, len(e))
    count(habits, keys, np.zeros((len(e), len(USUAL))), np.array(e))
    return habits, key


def test_a_connection_is_worth_the_share_of_its_host_s_that_were_as_odd() -> None:
    habits, key = counted([0.0] * 90_000 + [2.1] * 10_000)
    assert habits.beyond(key, np.array([2.1])) == 2.1, "of the same day"
    habits.next_day()
    assert habits.beyond(key, np.array([2.1])) == pytest.approx(1.0, abs=0.01)
    assert habits.beyond(key, np.array([0.7])) == 0.7, "no more than it is by itself"
    assert habits.beyond(key, np.array([3.0])) == 3.0, "odder than any has been"
    assert habits.beyond(np.array([8], np.uint64), np.array([2.1])) == 2.1, "another's"
    for _ in range(200):
        habits.next_day()
    assert habits.beyond(key, np.array([2.1])) == 2.1, "long ago"


def test_once_in_a_day_of_few_connections_makes_nothing_usual() -> None:
    habits, key = counted([0.0] * 99 + [2.1])
    habits.next_day()
    assert habits.beyond(key, np.array([2.1])) == 2.1
    often, key = counted([0.0] * 80 + [2.1] * 20)
    often.next_day()
    assert 0.7 < float(often.beyond(key, np.array([2.1]))[0]) < 1.0, "one in five, or somewhat less"


def test_more_in_an_hour_than_on_the_days_before_is_no_habit() -> None:
    """Twelve odd connections an hour all day are usual, and of three hundred in one hour the first few."""
    habits, key = Habits(4), np.array([7], np.uint64)
    e = np.tile([0.0, 0.0, 0.0, 2.1], 12)
    keys = np.repeat(key, len(e))
    for _ in range(24):
        count(habits, keys, np.zeros((len(e), len(USUAL))), e)
        habits.turn(1)
    habits.next_day()
    burst = np.full(300, 2.1)
    for size in (300, 7):
        again = Habits(4)
        again.restore(habits.state())
        worth = np.concatenate(
            [
                again.beyond(np.repeat(key, len(part)), part)
                for part in np.split(burst, range(size, 300, size))
            ]
        )
        assert (worth[:34] < 0.7).all()
        assert (worth[34:] == 2.1).all()
        again.turn(1)
        assert again.beyond(key, burst[:1])[0] < 0.7, "in another hour"


def test_what_belongs_to_an_incident_does_not_make_as_much_an_hour_usual() -> None:
    habits, key = counted([0.0] * 60 + [2.1] * 40)
    habits.uncount(7, [2.1] * 30)
    habits.turn(1)
    habits.next_day()
    e = np.full(40, 2.1)
    worth = habits.beyond(np.repeat(key, 40), e)
    assert (worth[:30] < 2.1).all()
    assert (worth[30:] == 2.1).all()


def test_of_a_host_with_few_connections_nothing_is_usual() -> None:
    habits, key = counted([2.1] * 19)
    habits.next_day()
    assert habits.beyond(key, np.array([2.1])) == 2.1


def test_no_more_hosts_are_taken_in_than_there_may_be_and_a_state_goes_on() -> None:
    habits = Habits(300)
    keys = np.arange(1, 401, dtype=np.uint64)
    count(habits, keys, np.ones((400, len(USUAL))), np.full(400, 1.0))
    assert len(habits) == 300
    habits.turn(1)
    habits.next_day()
    again = Habits(300)
    again.restore(habits.state())
    assert again.usual(5) == habits.usual(5) == dict.fromkeys(USUAL, 24.0)
    assert again.usual(399) == dict.fromkeys(USUAL, 0.0)
    with pytest.raises(ValueError, match="expected at most 10"):
        Habits(10).restore(habits.state())
    with pytest.raises(ValueError, match="days"):
        again.restore({k: v for k, v in habits.state().items() if k != "days"})


def asked(hours: int, each: int, begin: float, resp: str, seed: int) -> list[Seen]:
    """Of a server, `each` connections of many hosts an hour, none of them odd for itself."""
    rng = np.random.default_rng(seed)
    n = hours * each
    return [
        connection(float(at), float(p), orig=f"10.2.{host % 8}.{host}", resp=resp, port=53)
        for at, p, host in zip(
            begin + np.sort(rng.random(n)) * hours * HOUR, rng.random(n), rng.integers(1, 200, n), strict=True
        )
    ]


def test_a_busy_server_is_weighed_against_its_own_hours() -> None:
    known, stranger = (Decider(SMALL, Incident(), UNLEARNED) for _ in range(2))
    assert through(known, asked(24, 200, 0.0, "10.0.0.53", 1)) == set()
    through(stranger, asked(24, 30, 0.0, "10.0.0.99", 1))
    surge = asked(1, 2000, DAY + HOUR, "10.0.0.53", 2)
    assert through(stranger, surge) == {"10.0.0.53"}
    assert through(known, surge) == set()
    flood = [
        connection(DAY + 3 * HOUR + k, 1e-4, orig=f"10.2.1.{k}", resp="10.0.0.53", port=53) for k in range(60)
    ]
    assert through(known, flood) == {"10.0.0.53"}, "far beyond its own"
