"""The ablations of `benchmarks.drip` leave out what they say, and what an hour needs is where an incident begins."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from incident_rows import connection, rows

from benchmarks.drip import ARMS, needed
from cmdana_plugin.config import Incident
from cmdana_plugin.config import Verdict as Budget
from cmdana_plugin.decision.incidents import Decider
from cmdana_plugin.decision.seen import Seen
from cmdana_plugin.decision.usual.tails import UNLEARNED, surprise

DAY = 86_400.0
HOST = "10.200.0.1"


def two_days(*, attacked: bool) -> list[Seen]:
    """Twenty hosts, and one more that is an incident every other hour of the first day."""
    rng = np.random.default_rng(0)
    out = [
        connection(float(at) * 2 * DAY, float(p), orig=f"10.0.0.{host}", resp=f"192.0.2.{host}", port=443)
        for host in range(1, 21)
        for at, p in zip(rng.random(1400), rng.random(1400), strict=True)
    ]
    for hour in range(1, 23, 2) if attacked else ():
        out += [
            connection(hour * 3600.0 + k, 1e-6, orig=HOST, resp="198.51.100.9", port=9000 + k)
            for k in range(40)
        ]
    return sorted(out, key=lambda s: s.end)


def after(arm: str, *, attacked: bool = True) -> Decider:
    decider = Decider(Budget(alerts_per_day=1.0), Incident(), key=(1, 2))
    judge: Any = SimpleNamespace(decider=decider)
    ARMS[arm](judge)
    some = two_days(attacked=attacked)
    for i in range(0, len(some), 1000):
        decider.receive(rows(some[i : i + 1000]))
    return decider


def tails_of(decider: Decider) -> np.ndarray:
    tails: np.ndarray = decider.state().get("evidence.tails", UNLEARNED)
    return tails[0]


def taught(decider: Decider) -> float:
    """Connections of the host's that its habits have counted."""
    state = decider.state()
    at = state["habits.keys"].tolist().index(int(decider.evidence.keys(_address(), 0)[0]))
    return float(state["habits.days"][at, -1] + state["habits.today"][at, -1])


def _address() -> np.ndarray:
    (row,) = rows([connection(0.0, 1.0, orig=HOST, resp="198.51.100.9", port=1)]).orig
    return np.array([row])


def test_without_its_guard_an_incident_becomes_what_is_usual() -> None:
    calm, guarded, without = (
        tails_of(d)
        for d in (after("guarded", attacked=False), after("guarded"), after("without the tails' guard"))
    )
    assert np.array_equal(guarded, calm)
    assert not np.array_equal(without, calm)


def test_tails_that_stay_do_not_follow() -> None:
    assert np.array_equal(tails_of(after("tails that stay")), UNLEARNED[0])
    assert not np.array_equal(tails_of(after("guarded")), UNLEARNED[0])


def test_without_its_guard_an_incident_becomes_usual_of_its_host() -> None:
    assert taught(after("without habits' guard")) == 11 * 40
    assert taught(after("guarded")) < 40


@pytest.mark.parametrize("statistic", [1, 3])
def test_what_an_hour_needs_is_where_its_rarity_reaches_the_limit(statistic: int) -> None:
    decider = after("guarded")
    tails, limit = tails_of(decider), decider.evidence.limit
    value = needed(decider.evidence, statistic)
    below, at = surprise(tails[-1], surprise(tails[statistic], np.array([value - 0.02, value])))
    assert below < limit <= at
