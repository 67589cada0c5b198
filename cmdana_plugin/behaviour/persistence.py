"""What a host newly goes to and keeps to: in how many ten minutes of a day, and how rare that is of what is new here.

A beacon is quiet in every hour and there in all of them (Giroire et al. 2009, persistence of destinations). What a host
goes to is its registered domain, or the responder and port where there is none; new is what it first went to less than
a day ago, and nobody here before, of hosts and sites that have been watched for longer than that. How many of what is
new came to so many ten minutes on the days before makes the tail, Pareto's by Hill's estimator with a prior: where
programs change by themselves every day, more is needed. Looking a name up is not going there.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.behaviour.tables import DOMAIN, HOST, KINDS, PAIR
from cmdana_plugin.behaviour.walk import AT_AGE, AT_ENTERED, AT_NEW, AT_TENS
from cmdana_plugin.statefile import column

_DAY: Final = 86_400.0
_TEN_MINUTES: Final = 600.0
SLOTS: Final = 64  # ten minutes that are counted, of a day
_FROM: Final = 3  # ten minutes from which on there is a tail
_PRIOR: Final = 500.0  # things that are new, counted before any was seen
_PRIOR_SHARE: Final = 0.05  # of which come to `_FROM` ten minutes
_PRIOR_INDEX: Final = 2.5  # of the tail
RARE: Final = 1e-2  # share of what is new, below which there is something to tell
LATELY: Final = 3.0 * _DAY  # after which what hosts did before is no measure of what is new
_FADE: Final = 0.8  # of what was counted, by the next day


@dataclass(frozen=True, slots=True)
class Visits:
    """Of `n` connections, in how much of the last ten hours their host has been where they go."""

    tens: NDArray[np.float32]  # [n] ten minutes of the last 64, this one included; 0 of look-ups
    entered: NDArray[np.bool_]  # [n] whether this is the first connection in its ten minutes
    unknown: NDArray[np.bool_]  # [n] whether nobody here went there before the day of the host's first
    age: NDArray[np.float32]  # [n] seconds since the host first went there
    host_age: NDArray[np.float32]  # [n] seconds since the host was first seen

    def __len__(self) -> int:
        return len(self.tens)

    def take(self, rows: NDArray[Any]) -> Visits:
        return Visits(*(getattr(self, f.name)[rows] for f in fields(Visits)))


def visits_of(raw: NDArray[np.float32]) -> Visits:
    """By the statistics [n, KINDS, WIDTH] of `walk`."""
    assert raw.shape[1] == KINDS
    there = np.where(np.isfinite(raw[:, DOMAIN, AT_TENS]), DOMAIN, PAIR)
    of = raw[np.arange(len(raw)), there]
    tens = np.where(np.isnan(of[:, AT_ENTERED]), np.float32(0.0), of[:, AT_TENS])
    return Visits(tens, of[:, AT_ENTERED] > 0.0, of[:, AT_NEW] > 0.0, of[:, AT_AGE], raw[:, HOST, AT_AGE])


def concat_visits(parts: list[Visits]) -> Visits:
    """The parts joined end to end, one at least."""
    return Visits(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Visits)))


class Persistence:
    """How many of what was new came to 1..64 ten minutes, by day."""

    def __init__(self) -> None:
        self._began = np.inf  # network time of the first connection
        self._day = -np.inf  # that is being counted
        self._today = np.zeros(SLOTS + 1)
        self._before = np.zeros(SLOTS + 1)  # the days that are over, fading
        self._shares = _shares(self._before)

    def receive(
        self, visits: Visits, end: NDArray[np.float64], teach: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Of connections in order of their `end` [n]: the share of what is new that lasts as long; 1 of what is not.

        By the days before: a day's own beacons are not what it is compared with. Counted is what is to `teach`.
        """
        p = np.ones(len(end))
        if not len(end):
            return p
        self._began = min(self._began, float(end[0]))
        new = visits.unknown & (visits.age < _DAY) & (visits.host_age >= _DAY)
        new &= end - visits.age - self._began >= _DAY
        tens = np.clip(np.nan_to_num(visits.tens), 0.0, SLOTS).astype(np.int64)
        # Later some have fallen out of the 64, and a number can be reached again.
        reaches = new & visits.entered & teach & (visits.age < (SLOTS - 1) * _TEN_MINUTES)
        day = np.floor(end / _DAY)
        cuts = [0, *(np.flatnonzero(np.diff(day)) + 1).tolist(), len(end)]
        for begin, stop in itertools.pairwise(cuts):
            rows = slice(begin, stop)
            if day[begin] > self._day:
                self._turn(float(day[begin]))
            p[rows] = np.where(new[rows], self._shares[tens[rows]], 1.0)
            self._today += np.bincount(tens[rows][reaches[rows]], minlength=SLOTS + 1)
        return p

    def watched_since(self, first: float) -> None:
        """What hosts did from network time `first` on is known."""
        self._began = min(self._began, first)

    def state(self) -> dict[str, NDArray[Any]]:
        """As arrays by name."""
        times = np.array([self._began, self._day])
        return {"times": times, "reached": np.stack([self._today, self._before])}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Goes on from a `state`; from nothing where there is none, as before it was kept.

        Raises `ValueError` where it is another thing.
        """
        if not state:
            return
        times, reached = (
            column(state, "times", np.zeros(2)),
            column(state, "reached", np.zeros((2, SLOTS + 1))),
        )
        if np.isnan(times).any() or not np.isfinite(reached).all() or reached.min() < 0.0:
            raise ValueError("persistence: found no numbers")
        self._began, self._day = times.tolist()
        self._today, self._before = reached
        self._shares = _shares(self._before)

    def _turn(self, day: float) -> None:
        """Begins a `day`, what was counted so far being of days before."""
        if self._day > -np.inf:
            self._before = (self._before + self._today) * _FADE ** min(day - self._day, 100.0)
            self._today = np.zeros(SLOTS + 1)
            self._shares = _shares(self._before)
        self._day = day


def persistence_of_all(states: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """The state of what several have counted, each of its own hosts. Raises `ValueError` where one is no state."""
    parts = []
    for state in states:
        parts.append(Persistence())
        parts[-1].restore(state)
    whole = Persistence()
    whole._began = min(part._began for part in parts)
    whole._day = max(part._day for part in parts)
    for part in parts:
        if part._day < whole._day:
            part._turn(whole._day)
        whole._today += part._today
        whole._before += part._before
    return whole.state()


def _shares(reached: NDArray[np.float64]) -> NDArray[np.float64]:
    """[SLOTS + 1] which share of what is new comes to so many ten minutes or more, by how many reached each number.

    From `_FROM` on Hill's estimator, which counts how far each came beyond it.
    """
    k = np.arange(SLOTS + 1)
    tail = reached[_FROM] + _PRIOR * _PRIOR_SHARE
    share = tail / (max(reached[1], reached[_FROM]) + _PRIOR)
    steps = np.log(k[_FROM + 1 :] / (k[_FROM + 1 :] - 1.0))
    index = tail / (float(reached[_FROM + 1 :] @ steps) + _PRIOR * _PRIOR_SHARE / _PRIOR_INDEX)
    out: NDArray[np.float64] = np.where(k < _FROM, 1.0, share * (np.maximum(k, 1) / _FROM) ** -index)
    return out


def words(visits: Visits, p: NDArray[np.float64], row: int) -> str:
    """Why, in words."""
    return (
        f"ten minutes of the last 64 in which it was there: {visits.tens[row]:.0f}, none before today; of what hosts "
        f"begin with here one in {1.0 / p[row]:,.0f} lasts as long"
    )
