"""What each originator does in a day, and what evidence its own days bring: that much from it is no news.

Counts of whole hours tell what is usual, so that an incident is not among it. The days before tell how often the host's
own connections were so odd; a connection is worth no more evidence than that, unless it is one of more in an hour than
on those days, and what belongs to an incident teaches nothing. They tell too how much a host sends in one connection at
most, hour by hour: above the ninetieth percentile Pareto's tail, by Hill's estimator with a prior. Of a host that has
never sent a quarter as much, a connection that is beyond it is evidence by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.decision.seen import USUAL
from cmdana_plugin.decision.tails import LEAST, MOST
from cmdana_plugin.statefile import column

_STEP: Final = 0.25  # -log10 p between two levels
_LEVELS: Final = 15  # from `LEAST` on
_ENOUGH: Final = 20.0  # connections of the days before, from which on a host has days of its own
_FADE: Final = 0.9  # of what the days before have brought, by the next
_QUARTILE: Final = 0.6745  # of the normal distribution
_ODD: Final = 1.0  # -log10 p from which on connections of an hour are counted
_TIMES: Final = 2.0  # the most of an hour on the days before,
_MORE: Final = 10.0  # and so many more: what is beyond them is no habit
# Of "hour": odd connections of this one, those of them that teach, the most of an hour of today and of the days before.
_SO_FAR, _TEACH, _TODAY, _BEFORE = range(4)
# Of "sent": bytes of the largest connection of this hour that teaches, of today and of the days before.
_THIS_HOUR, _THIS_DAY, _EARLIER = range(3)
_SENT: Final = USUAL.index("sent")
_OCTAVE: Final = 8  # bins of bytes to each power of two
_BINS: Final = 50 * _OCTAVE
_HOURS_KNOWN: Final = 100.0  # hosts' hours of the days before, from which on there is a tail
_PRIOR: Final = 10.0  # hours above the percentile, counted before any was seen
_PRIOR_INDEX: Final = 1.0  # of whose tail: it has no mean
_MUCH_MORE: Final = 4.0  # times what the host has sent before
# In which one connection can be evidence against its host: how long the host keeps to what is new is the other.
_WAYS: Final = 2.0
_FIRST: Final = 256  # hosts that there is room for at first
_COUNTS: Final = (len(USUAL), np.float64)
_DAYS: Final = (_LEVELS + 1, np.float32)
_TABLES: Final[Mapping[str, tuple[int, type]]] = {
    "settled": _COUNTS, "now": _COUNTS, "days": _DAYS, "today": _DAYS, "hour": (4, np.float32),
    "sent": (3, np.float64),
}  # fmt: skip


class Habits:
    """A table of originators, by what stands for each; where it is full, no more are taken in."""

    def __init__(self, hosts: int) -> None:
        """For so many `hosts` at most."""
        self._most = hosts
        self._hours = 0
        self._place: dict[int, int] = {}
        # By `_TABLES`: of USUAL, the hours before and this one; by level, how many connections of the days before (that
        # fade) and of this one were at least so odd, and last how many there were.
        self._of = {name: _empty(name, min(_FIRST, hosts)) for name in _TABLES}
        # Of hosts' hours of today and of the days before, which fade: how many sent at most so much.
        self._sent = np.zeros((2, _BINS))
        self._tail = _tail(self._sent[1])

    def __len__(self) -> int:
        return len(self._place)

    def state(self) -> dict[str, NDArray[Any]]:
        """Hosts and counts, as arrays by name."""
        keys = np.array(list(self._place), np.uint64)
        tables = {name: table[: len(keys)].copy() for name, table in self._of.items()}
        return {"hours": np.array([self._hours]), "keys": keys, "sent_hours": self._sent.copy()} | tables

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Goes on from a `state`. Raises `ValueError` where it is none, or of more hosts."""
        hours = int(column(state, "hours", np.zeros(1, np.int64))[0])
        keys = state.get("keys", np.zeros(0))
        if keys.dtype != np.uint64 or keys.ndim != 1 or len(keys) > self._most:
            raise ValueError(f"habits: found {len(keys):,} hosts, expected at most {self._most:,}")
        # Earlier versions did not count by the hour, nor what is sent at most.
        state = {name: _empty(name, len(keys)) for name in ("hour", "sent")} | dict(state)
        sent = column({"sent_hours": np.zeros((2, _BINS))} | dict(state), "sent_hours", np.zeros((2, _BINS)))
        tables = {name: column(state, name, _empty(name, len(keys))) for name in _TABLES}
        self._hours, self._of, self._sent, self._tail = hours, tables, sent, _tail(sent[1])
        self._place = {key: i for i, key in enumerate(keys.tolist())}

    def beyond(self, orig: NDArray[np.uint64], e: NDArray[np.float64]) -> NDArray[np.float64]:
        """The evidence `e` [n] of connections, at most -log10 of the share of their originator's that were as odd."""
        out = e.copy()
        rows = np.flatnonzero(e >= LEAST)
        place = np.array([self._place.get(key, -1) for key in orig[rows].tolist()], np.int64)
        rows, place = rows[place >= 0], place[place >= 0]
        nth = self._nth(place, e[rows] >= _ODD)
        usual = nth <= _TIMES * self._of["hour"][place, _BEFORE] + _MORE
        before = self._of["days"][place]
        n, as_odd = before[:, -1], before[np.arange(len(place)), _level(e[rows])]
        known = (n >= _ENOUGH) & (as_odd >= 1.0) & usual
        share = _at_least(as_odd[known]) / n[known]
        out[rows[known]] = np.clip(-np.log10(share), 0.0, e[rows[known]])
        return out

    def beyond_what_is_sent(self, orig: NDArray[np.uint64], sent: NDArray[np.float64]) -> NDArray[np.float64]:
        """-log10 of the share of hosts' hours whose largest connection sends so many bytes [n].

        0 of what is no more than the 90th percentile, or than the host's own days before come near, and where no days
        are known.
        """
        out = np.zeros(len(sent))
        level, share, index = self._tail
        rows = np.flatnonzero(sent > level)
        if len(rows):
            place = np.array([self._place.get(key, -1) for key in orig[rows].tolist()], np.int64)
            own = np.where(place >= 0, self._of["sent"][place, _EARLIER], 0.0)
            e = -np.log10(_WAYS * share) + index * np.log10(sent[rows] / level)
            out[rows] = np.where(sent[rows] >= _MUCH_MORE * own, np.clip(e, 0.0, MOST), 0.0)
        return out

    def _nth(self, place: NDArray[np.int64], odd: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Which one of its host's odd connections of this hour each of these [n] is, or comes after."""
        order = np.argsort(place, kind="stable")
        count = np.cumsum(odd[order]).astype(np.float64)
        hosts, begin = np.unique(place[order], return_index=True)
        whole = np.diff(np.append(count[begin] - odd[order][begin], count[-1:]))
        nth = np.empty(len(place))
        nth[order] = count - np.repeat(
            count[begin] - odd[order][begin], np.diff(np.append(begin, len(place)))
        )
        so_far = self._of["hour"][:, _SO_FAR]
        nth += so_far[place]
        so_far[hosts] += whole
        return nth

    def count(
        self, orig: NDArray[np.uint64], counts: NDArray[np.float64], e: NDArray[np.float64],
        teaches: NDArray[np.bool_],
    ) -> None:  # fmt: skip
        """Takes in connections: `counts` [n, USUAL] of all, the evidence `e` [n] of those that teach."""
        unique, at = np.unique(orig, return_inverse=True)
        place = np.array([self._taken(key) for key in unique.tolist()], np.int64)[at]
        there = place >= 0
        np.add.at(self._of["now"], place[there], counts[there])
        there &= teaches
        np.add.at(self._of["today"][:, -1], place[there], 1.0)
        np.maximum.at(self._of["sent"][:, _THIS_HOUR], place[there], counts[there, _SENT])
        there &= e >= LEAST
        np.add.at(self._of["today"], (place[there], _level(e[there])), 1.0)
        there &= e >= _ODD
        np.add.at(self._of["hour"][:, _TEACH], place[there], 1.0)

    def uncount(self, key: int, e: Sequence[float]) -> None:
        """Takes back connections of this day with the evidence `e` that turned out to belong to an incident."""
        place = self._taken(key)
        if place < 0:
            return
        today = self._of["today"][place]
        np.subtract.at(today, _level(np.array(e)), 1.0)
        today[-1] -= len(e)
        hour = self._of["hour"][place]
        hour[_TEACH] = max(hour[_TEACH] - sum(x >= _ODD for x in e), 0.0)

    def turn(self, hours: int) -> None:
        """Ends the hour that was counted, so many `hours` before the next."""
        self._of["settled"] += self._of["now"]
        self._of["now"][:] = 0.0
        self._hours += hours
        hour = self._of["hour"]
        hour[:, _TODAY] = np.maximum(hour[:, _TODAY], hour[:, _TEACH])
        hour[:, [_SO_FAR, _TEACH]] = 0.0
        sent = self._of["sent"]
        most = sent[:, _THIS_HOUR]
        self._sent[0] += np.bincount(_bin(most[most > 0.0]), minlength=_BINS)
        sent[:, _THIS_DAY] = np.maximum(sent[:, _THIS_DAY], most)
        most[:] = 0.0

    def next_day(self) -> None:
        """Ends the day that was counted."""
        today = np.maximum(self._of["today"], np.float32(0.0))
        # As odd or odder.
        today[:, :_LEVELS] = today[:, _LEVELS - 1 :: -1].cumsum(axis=1)[:, ::-1]
        self._of["days"] = np.float32(_FADE) * self._of["days"] + today
        self._of["today"] = np.zeros_like(today)
        hour = self._of["hour"]
        hour[:, _BEFORE] = np.maximum(np.float32(_FADE) * hour[:, _BEFORE], hour[:, _TODAY])
        hour[:, _TODAY] = 0.0
        sent = self._of["sent"]
        sent[:, _EARLIER] = np.maximum(_FADE * sent[:, _EARLIER], sent[:, _THIS_DAY])
        sent[:, _THIS_DAY] = 0.0
        self._sent[1] = _FADE * self._sent[1] + self._sent[0]
        self._sent[0] = 0.0
        self._tail = _tail(self._sent[1])

    def usual(self, key: int) -> Mapping[str, float]:
        """Of a day; nothing where no hour is over yet."""
        if not self._hours:
            return {}
        place = self._place.get(key)
        known = np.zeros(len(USUAL)) if place is None else self._of["settled"][place]
        return dict(zip(USUAL, (known * 24.0 / self._hours).tolist(), strict=True))

    def _taken(self, key: int) -> int:
        """Where a host stands; -1 where there is no room."""
        place = self._place.get(key)
        if place is None:
            place = len(self._place)
            if place >= self._most:
                return -1
            self._place[key] = place
            room = len(self._of["now"])
            if place >= room:
                more = min(max(room, _FIRST), self._most - room)
                self._of = {
                    name: np.concatenate([table, _empty(name, more)]) for name, table in self._of.items()
                }
        return place


def _bin(sent: NDArray[np.float64]) -> NDArray[np.int64]:
    """Of bytes [n], 1 or more."""
    octaves = np.log2(np.maximum(sent, 1.0))
    return np.asarray(np.minimum(octaves * _OCTAVE, _BINS - 1), np.int64)


def _tail(hours: NDArray[np.float64]) -> tuple[float, float, float]:
    """Bytes that a tail begins at, the share of hosts' hours beyond, its index; by how many lie in each bin."""
    n = float(hours.sum())
    if n < _HOURS_KNOWN:
        return np.inf, 1.0, _PRIOR_INDEX
    at = int(np.searchsorted(np.cumsum(hours), 0.9 * n)) + 1
    above = hours[at:]
    k = float(above.sum())
    beyond = float(above @ ((np.arange(len(above)) + 0.5) / _OCTAVE * np.log(2.0)))
    return 2.0 ** (at / _OCTAVE), (k + 1.0) / (n + 1.0), (k + _PRIOR) / (beyond + _PRIOR / _PRIOR_INDEX)


def _at_least(k: NDArray[np.float32]) -> NDArray[np.float64]:
    """The rate of which three in four counts would be under `k` [n], 1 or more (Wilson and Hilferty 1931).

    Once in a day of few connections may be chance: it makes nothing usual yet.
    """
    n = k.astype(np.float64)
    return np.asarray(n * (1.0 - 1.0 / (9.0 * n) - _QUARTILE / (3.0 * np.sqrt(n))) ** 3, np.float64)


def _empty(table: str, hosts: int) -> NDArray[Any]:
    width, kind = _TABLES[table]
    return np.zeros((hosts, width), kind)


def _level(e: NDArray[np.float64]) -> NDArray[np.int64]:
    """The highest level that evidence of at least `LEAST` [n] reaches."""
    return np.minimum((e - LEAST) / _STEP, _LEVELS - 1).astype(np.int64)
