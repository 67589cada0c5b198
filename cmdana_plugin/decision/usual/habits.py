"""What each originator does in a day, and what evidence its own days bring: that much from it is no news.

Counts of whole hours tell what is usual, so that an incident is not among it. The days before tell how often the host's
own connections were so odd; a connection is worth no more evidence than that, unless it is one of more in an hour than
on those days, and what belongs to an incident teaches nothing. They tell too what a host comes to in an hour at most
(`amounts`). One thing is learned of incidents too, so that an inventory of every day is told of once: how many were
spoken to, and how many connections had no answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.decision.seen import USUAL
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
    is_news,
    tails_of_hours,
)
from cmdana_plugin.decision.usual.tails import LEAST
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
# Of "most": what teaches of this hour, the most of an hour of today and of the days before.
_THIS_HOUR, _THIS_DAY, _EARLIER = range(3)
# Of "told": the most of an hour, incidents among it, of responders, connections without an answer, these to each
# responder; of today and of the days before.
_SPOKEN, _TRIED, _EACH = range(3)
_NOW, _PAST = range(2)
_PAIRS_EACH: Final = (
    16  # of originator and responder that an hour may have, for each host that there is room for
)
_FIRST: Final = 256  # hosts that there is room for at first
_COUNTS: Final = ((len(USUAL),), np.float64)
_DAYS: Final = ((_LEVELS + 1,), np.float32)
_HOURS: Final = (2, 2, len(MEASURES), BINS)
_TABLES: Final[Mapping[str, tuple[tuple[int, ...], type]]] = {
    "settled": _COUNTS, "now": _COUNTS, "days": _DAYS, "today": _DAYS, "hour": ((4,), np.float32),
    "most": ((len(MEASURES), 3), np.float64), "so_far": ((len(MEASURES),), np.float64),
    "told": ((3, 2), np.float64),
}  # fmt: skip


class Habits:
    """A table of originators, by what stands for each; where it is full, no more are taken in."""

    def __init__(self, hosts: int) -> None:
        """For so many `hosts` at most."""
        self.uncounted = 0  # of an hour's pairs of originator and responder, to keep the bound
        self._most = hosts
        self._hours = 0
        self._place: dict[int, int] = {}
        # By `_TABLES`: of USUAL, the hours before and this one; by level, how many connections of the days before (that
        # fade) and of this one were at least so odd, and last how many there were.
        self._of = {name: _empty(name, min(_FIRST, hosts)) for name in _TABLES}
        # Of hosts' hours of today and of the days before, which fade: of all and of those that were news for their host
        # how many came to so much, by measure.
        self._amounts = np.zeros(_HOURS)
        self._tails = tails_of_hours(self._amounts[1])
        self._pairs: set[int] = set()  # originators and responders of this hour
        self._names: dict[int, float] = {}  # bits of names, by originator and domain of this hour

    def __len__(self) -> int:
        return len(self._place)

    def state(self) -> dict[str, NDArray[Any]]:
        """Hosts and counts, as arrays by name."""
        keys = np.array(list(self._place), np.uint64)
        tables = {name: table[: len(keys)].copy() for name, table in self._of.items()}
        pairs = np.array(sorted(self._pairs), np.uint64)
        names, bits = np.array(list(self._names), np.uint64), np.array(list(self._names.values()), np.float64)
        more = {"amounts": self._amounts.copy(), "pairs": pairs, "names": names, "bits": bits}
        return {"hours": np.array([self._hours]), "keys": keys} | more | tables

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Goes on from a `state`. Raises `ValueError` where it is none, or of more hosts."""
        hours = int(column(state, "hours", np.zeros(1, np.int64))[0])
        keys = state.get("keys", np.zeros(0))
        if keys.dtype != np.uint64 or keys.ndim != 1 or len(keys) > self._most:
            raise ValueError(f"habits: found {len(keys):,} hosts, expected at most {self._most:,}")
        state = _as_now(state, len(keys))
        amounts = column(state, "amounts", np.zeros(_HOURS))
        pairs, names = state["pairs"], state["names"]
        for of in (pairs, names):
            if of.dtype != np.uint64 or of.ndim != 1 or len(of) > _PAIRS_EACH * self._most:
                raise ValueError(f"habits: found {len(of):,} pairs")
        bits = column(state, "bits", np.zeros(len(names)))
        tables = {name: column(state, name, _empty(name, len(keys))) for name in _TABLES}
        self._hours, self._of, self._pairs = hours, tables, set(pairs.tolist())
        self._names = dict(zip(names.tolist(), bits.tolist(), strict=True))
        self._amounts, self._tails = amounts, tails_of_hours(amounts[1])
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

    def amounts(
        self, orig: NDArray[np.uint64], resp: NDArray[np.uint64], sent: NDArray[np.float64],
        logins: NDArray[np.float64], tried: NDArray[np.bool_], bits: NDArray[np.float64], domain: Sequence[str],
        counts: NDArray[np.bool_],
    ) -> Amounts:  # fmt: skip
        """What the originators of connections come to in this hour with each, by bytes `sent`, `logins` refused,
        whether it was `tried` in vain, and `bits` of names below a `domain` [n]. Only what `counts` does.
        """
        n = len(orig)
        value, added = np.zeros((n, len(MEASURES))), np.zeros((n, len(MEASURES)))
        unique, at = np.unique(orig, return_inverse=True)
        place = np.array([self._taken(key) for key in unique.tolist()], np.int64)[at]
        rows = np.flatnonzero(counts)
        added[rows, SENT], added[rows, LOGINS] = sent[rows], logins[rows]
        added[rows, TRIES] = tried[rows]
        added[rows, RESPONDERS] = self._first(orig[rows], resp[rows])
        value[:, SENT] = added[:, SENT]
        rows = np.flatnonzero(counts & (bits > 0.0))
        added[rows, NAMES] = bits[rows]
        value[rows, NAMES] = self._below(orig[rows], bits[rows], [domain[i] for i in rows.tolist()])
        rows = np.flatnonzero(place >= 0)
        so_far = self._of["so_far"]
        for measure in (RESPONDERS, LOGINS, TRIES):
            value[rows, measure] = so_far[place[rows], measure] + _running(place[rows], added[rows, measure])
        np.add.at(so_far, place[rows], added[rows])
        return Amounts(place, value, added)

    def beyond_others(self, amounts: Amounts) -> NDArray[np.float64]:
        """-log10 of the share of hosts' hours that come to as much, [n, MEASURES]; see `tails_of_hours` of few days.

        A host's own is its days' most without incidents; of whom it speaks to and what gets no answer, with them.
        """
        own = np.zeros(amounts.value.shape)
        there = amounts.place >= 0
        place = amounts.place[there]
        own[there] = self._of["most"][place, :, _EARLIER]
        told = self._of["told"][place, :, _PAST]
        # As many to each: ports of one host are no inventory.
        tried = np.minimum(told[:, _TRIED], told[:, _EACH] * amounts.value[there, RESPONDERS])
        own[there, RESPONDERS] = np.maximum(own[there, RESPONDERS], told[:, _SPOKEN])
        own[there, TRIES] = np.maximum(own[there, TRIES], tried)
        return self._tails.beyond(amounts, own)

    def _first(self, orig: NDArray[np.uint64], resp: NDArray[np.uint64]) -> NDArray[np.float64]:
        """1 of connections [n] that are the first of their originator to their responder in this hour, 0 of others."""
        out = np.zeros(len(orig))
        pairs = orig * np.uint64(0x9E3779B97F4A7C15) ^ resp
        unique, first = np.unique(pairs, return_index=True)
        room = _PAIRS_EACH * self._most - len(self._pairs)
        new = [
            (pair, i)
            for pair, i in zip(unique.tolist(), first.tolist(), strict=True)
            if pair not in self._pairs
        ]
        self.uncounted += max(len(new) - room, 0)
        new = new[:room]
        self._pairs.update(pair for pair, _ in new)
        out[[i for _, i in new]] = 1.0
        return out

    def _below(
        self, orig: NDArray[np.uint64], bits: NDArray[np.float64], domains: Sequence[str]
    ) -> list[float]:
        """The bits of names that originators [n] have asked for in this hour below a domain, with each connection."""
        out, names = [], self._names
        keys = orig ^ np.array([_key_of(domain) for domain in domains], np.uint64)
        for key, more in zip(keys.tolist(), bits.tolist(), strict=True):
            so_far = names.get(key)
            if so_far is None and len(names) >= _PAIRS_EACH * self._most:
                self.uncounted += 1
                out.append(more)
                continue
            names[key] = total = (so_far or 0.0) + more
            out.append(total)
        return out

    def _nth(self, place: NDArray[np.int64], odd: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Which one of its host's odd connections of this hour each of these [n] is, or comes after."""
        so_far = self._of["hour"][:, _SO_FAR]
        nth: NDArray[np.float64] = _running(place, odd.astype(np.float64)) + so_far[place]
        np.add.at(so_far, place, odd)
        return nth

    def count(
        self, amounts: Amounts, counts: NDArray[np.float64], e: NDArray[np.float64], teaches: NDArray[np.bool_]
    ) -> None:  # fmt: skip
        """Takes in connections: `counts` [n, USUAL] of all, evidence `e` [n] and `amounts` of those that teach."""
        place = amounts.place
        there = place >= 0
        np.add.at(self._of["now"], place[there], counts[there])
        there &= teaches
        np.add.at(self._of["today"][:, -1], place[there], 1.0)
        most = self._of["most"][:, :, _THIS_HOUR]
        for measure in (SENT, NAMES):
            np.maximum.at(most[:, measure], place[there], amounts.value[there, measure])
        for measure in (RESPONDERS, LOGINS, TRIES):
            np.add.at(most[:, measure], place[there], amounts.added[there, measure])
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
        so_far, told = self._of["so_far"], self._of["told"][:, :, _NOW]
        spoken, tried = so_far[:, RESPONDERS], so_far[:, TRIES]
        np.maximum(told, np.column_stack([spoken, tried, tried / np.maximum(spoken, 1.0)]), out=told)
        so_far[:] = 0.0
        self._pairs.clear()
        self._names.clear()
        most = self._of["most"]
        now = most[:, :, _THIS_HOUR]
        news, spoke = is_news(now, most[:, :, _EARLIER]), now[:, RESPONDERS] > 0.0
        for measure in range(len(MEASURES)):
            of = spoke if measure != SENT else now[:, SENT] > 0.0
            for kind, hosts in enumerate((of, of & news[:, measure])):
                self._amounts[0, kind, measure] += np.bincount(bin_of(now[hosts, measure]), minlength=BINS)
        most[:, :, _THIS_DAY] = np.maximum(most[:, :, _THIS_DAY], now)
        most[:, :, _THIS_HOUR] = 0.0

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
        most = self._of["most"]
        most[:, :, _EARLIER] = np.maximum(_FADE * most[:, :, _EARLIER], most[:, :, _THIS_DAY])
        most[:, :, _THIS_DAY] = 0.0
        told = self._of["told"]
        told[:, :, _PAST] = np.maximum(_FADE * told[:, :, _PAST], told[:, :, _NOW])
        told[:, :, _NOW] = 0.0
        self._amounts[1] = _FADE * self._amounts[1] + self._amounts[0]
        self._amounts[0] = 0.0
        self._tails = tails_of_hours(self._amounts[1])

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


def _running(place: NDArray[np.int64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums of `x` [n] so far, each among those of its own place."""
    order = np.argsort(place, kind="stable")
    total = np.cumsum(x[order])
    _, begin, length = np.unique(place[order], return_index=True, return_counts=True)
    out = np.empty(len(place))
    out[order] = total - np.repeat(total[begin] - x[order][begin], length)
    return out


def _at_least(k: NDArray[np.float32]) -> NDArray[np.float64]:
    """The rate of which three in four counts would be under `k` [n], 1 or more (Wilson and Hilferty 1931).

    Once in a day of few connections may be chance: it makes nothing usual yet.
    """
    n = k.astype(np.float64)
    return np.asarray(n * (1.0 - 1.0 / (9.0 * n) - _QUARTILE / (3.0 * np.sqrt(n))) ** 3, np.float64)


def _empty(table: str, hosts: int) -> NDArray[Any]:
    shape, kind = _TABLES[table]
    return np.zeros((hosts, *shape), kind)


def _as_now(state: Mapping[str, NDArray[Any]], hosts: int) -> Mapping[str, NDArray[Any]]:
    """A state, also of a version that did not count by the hour, or of an hour's amounts none or fewer."""
    none = np.zeros(0, np.uint64)
    out = {name: _empty(name, hosts) for name in ("hour", "most", "so_far", "told")}
    out |= {"amounts": np.zeros(_HOURS), "pairs": none, "names": none, "bits": np.zeros(0)} | dict(state)
    before = out["amounts"].shape
    if len(before) == 3 and before[1] < len(MEASURES):
        known = slice(before[1])
        for name, shape in (("most", (hosts, before[1], 3)), ("so_far", (hosts, before[1]))):
            table = _empty(name, hosts)
            table[:, known] = column(state, name, np.zeros(shape))
            out[name] = table
        amounts = np.zeros(_HOURS)
        amounts[:, :, known] = column(state, "amounts", np.zeros((2, before[1], BINS)))[:, None]
        out["amounts"] = amounts
    if "most" not in state and "sent" in state:
        out["most"][:, SENT] = column(state, "sent", np.zeros((hosts, 3)))
        out["amounts"][:, :, SENT] = column(state, "sent_hours", np.zeros((2, BINS)))[:, None]
    return out


@lru_cache(65536)
def _key_of(domain: str) -> int:
    digest = hashlib.blake2s(domain.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _level(e: NDArray[np.float64]) -> NDArray[np.int64]:
    """The highest level that evidence of at least `LEAST` [n] reaches."""
    return np.minimum((e - LEAST) / _STEP, _LEVELS - 1).astype(np.int64)
