"""What speaks against each host: its oddest connections of a minute, an hour and a day, how many, how rare that is.

One walk over the connections, in order of their ends. Every host that has been behind or before something unusual has a
place in a table of fixed size; where it is full the least evidence goes first, and of equal evidence the oldest, never
a host with an open incident. The walk stops at a connection that makes a host an incident, for others to open it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.decision.usual.tails import (
    ENOUGH_BLOCKS,
    FIRM,
    HORIZONS,
    HORIZONS_OF,
    KEPT,
    LEAST,
    ROLES,
    SIZES,
    STATISTICS,
    UNLEARNED,
    Tails,
    of_hours,
    surprise,
)
from cmdana_plugin.detector import are_tails
from cmdana_plugin.statefile import of_text, packed, text_array, unpacked
from feature_extractors.compiled import entry, hashed, helper, new_key

BLOCK: Final = 3600.0  # seconds of a host's hour
_LOOKS: Final = 600.0  # seconds after which it is looked again what everybody does
_STILL: Final = 0.8  # of the limit: evidence of the last hour that keeps an incident open
_CROWD: Final = 10  # hosts from which on it is known what everybody does
# Share of hosts that may do less in an hour in which everybody does more. Many intruders move the middle one; but away
# from home it tells how far the model does not fit.
_FEW: Final = 0.25
_HALF: Final = 0.5
_CALM: Final = 0.5  # what the evidence against the next host comes to in most hours, at most
_CHANCE: Final = 0.5  # -log10 of how far beyond one in m the most of m hours is by chance
_MANY: Final = 1.5  # -log10 p of connections that are counted: a flood's need not be odder each
_PROBES: Final = 16  # places that a host may take
_BLOCKS: Final = 8192  # hosts' hours of this site remembered for each role
_OF_AN_HOUR: Final = _BLOCKS // 24  # of which so many may be of one hour: they are of a day at least
_SIZES: Final = np.array([k for sizes in SIZES for k in sizes])
_HORIZON_OF: Final = np.array([h for h, sizes in enumerate(SIZES) for _ in sizes])
_HORIZONS: Final = np.array(HORIZONS)
_HORIZONS_OF: Final = np.array(HORIZONS_OF)

# What is known of a host, by the attribute that holds it.
_COLUMNS: Final = {
    "keys": "_key", "value": "_value", "when": "_when", "last": "_last", "peak": "_peak", "rarest": "_rarest",
    "active": "_active", "role": "_role", "other": "_other", "several": "_several", "source": "_source",
    "last_open": "last_open", "most": "_most", "hours": "_hours_counted", "own": "_own", "many": "_many",
    "many_at": "_many_at",
}  # fmt: skip

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Evidence:
    """The table, and what the hours of this site have come to.

    `weigh` says where the evidence against a host passes `limit`.
    """

    def __init__(
        self,
        tails: Tails | None,
        hosts: int,
        quiet: float,
        key: tuple[int, int] | None = None,
        *,
        at_home: bool = False,
    ) -> None:
        """For so many `hosts` at most; an incident is over `quiet` seconds after what kept it open.

        `key` is that of the hashes of hosts, a new one where there is none. Where nobody has learned `tails`, those of
        originators follow the days that are over. The detector is `at_home` where it has learned this network.
        """
        self.forgotten = 0  # hosts let go, or not taken in, to keep the bound
        self.limit = math.inf  # -log10 of the share of hosts' hours
        self.limits = np.full(ROLES, np.inf)  # the same by role, in an hour in which everybody is odd more
        self.last_open = np.full(hosts, -np.inf)  # network time until which the host's incident is open
        self._few = _FEW if at_home else _HALF
        self._follows = tails is None
        self._tails = UNLEARNED.copy() if tails is None else tails
        self._quiet = quiet
        self._hash_key = key or new_key()
        self._key = np.zeros(hosts, np.uint64)  # 0 free
        self._value = np.zeros((hosts, len(HORIZONS), KEPT), np.float32)
        # Of a value of 0 it means nothing: 72 MB that nobody has touched take neither time nor memory.
        self._when = np.zeros((hosts, len(HORIZONS), KEPT))
        self._many = np.zeros(hosts, np.float32)  # connections of at least `_MANY`, fading over an hour
        self._many_at = np.zeros(hosts)
        self._last = np.full(hosts, -np.inf)
        self._peak = np.zeros((hosts, STATISTICS), np.float32)  # in the hour that is being counted
        # Of a responder: the most that its hours have come to, how many they were, and what of that is its own usual.
        self._most = np.zeros((hosts, STATISTICS), np.float32)
        self._hours_counted = np.zeros(hosts, np.int32)
        self._own = np.zeros((hosts, STATISTICS), np.float32)  # -log10 of the share of hosts' hours
        self._rarest = np.zeros(hosts, np.float32)  # what the evidence came to at most in that hour
        self._active = np.zeros(hosts, np.int32)  # connections of that hour that were evidence
        self._role = np.zeros(hosts, np.int8)
        self._other = np.zeros(hosts, np.uint64)  # of a responder, its first originator
        self._several = np.zeros(hosts, np.bool_)  # it has others
        self._source = np.zeros(
            (hosts, KEPT), np.uint64
        )  # of its oddest connections of the hour, their originators
        self._before = [0.0] * ROLES  # what `_crowd` was of the hour before
        self._blocks: list[list[Floats]] = [[] for _ in range(ROLES)]
        self._watched = 0  # hours so far
        self._looked = 0  # the ten minutes in which raised limits were taken last
        self._hours: list[int] = []  # how many hosts' hours there were in each of the last 24 hours

    def __len__(self) -> int:
        return int((self._key != 0).sum())

    def state(self) -> dict[str, NDArray[Any]]:
        """The table and the hours so far, as arrays by name."""
        numbers = {
            "forgotten": self.forgotten,
            "limit": self.limit,
            "limits": self.limits.tolist(),
            "key": list(self._hash_key),
            "before": self._before,
            "hours": self._hours,
            "watched": self._watched,
            "looked": self._looked,
            "blocks": [[len(part) for part in kept] for kept in self._blocks],
        }
        more = {f"blocks.{role}": self.blocks(role) for role in range(ROLES)} | {
            "numbers": text_array(numbers)
        }
        if self._follows:
            more["tails"] = self._tails.copy()
        return packed("hosts", self._key, self._columns()) | more

    def restore(self, state: Mapping[str, NDArray[Any]], learned: bool = True) -> None:
        """Goes on from a `state`, without what hours came to by another model (not `learned`).

        Raises `ValueError` where it is none, or of a table of another size.
        """
        if not (of_now := "hosts.many" in state):
            state = _of_before(state)
        columns = unpacked("hosts", state, self._columns(), [len(self._key)])
        try:
            numbers = of_text(state, "numbers")
            forgotten, limit = int(numbers["forgotten"]), float(numbers["limit"])
            limits, before = np.array(numbers["limits"], float), [float(x) for x in numbers["before"]]
            key, hours = tuple(int(x) for x in numbers["key"]), [int(x) for x in numbers["hours"]][-24:]
            sizes = [[int(n) for n in kept] for kept in numbers["blocks"]]
            watched, looked = int(numbers.get("watched", len(hours))), int(numbers.get("looked", 0))
        except (KeyError, TypeError) as error:
            raise ValueError(f"evidence: found no {error}") from None
        if limits.shape != (ROLES,) or not len(before) == len(sizes) == ROLES or len(key) != 2:
            raise ValueError(f"evidence: found other than {ROLES} roles")
        blocks = []
        for role, lengths in enumerate(sizes):
            rows = state.get(f"blocks.{role}")
            if rows is None or rows.shape != (sum(lengths), STATISTICS) or rows.dtype != np.float64:
                raise ValueError(f"evidence: found no blocks.{role}")
            blocks.append(np.split(rows, np.cumsum(lengths)[:-1]) if lengths and learned and of_now else [])
        tails = state.get("tails")
        if tails is not None and not are_tails(tails):
            raise ValueError("evidence: found no tails")
        for name, column in columns.items():
            getattr(self, _COLUMNS[name])[:] = column
        free = self._key == 0
        for times in (self._last, self.last_open):
            times[free] = -np.inf
        if self._follows and learned and tails is not None:
            self._tails = tails.copy()
        self.forgotten, self.limit, self.limits = forgotten, limit, limits
        self._hash_key, self._before, self._hours, self._blocks = (key[0], key[1]), before, hours, blocks
        self._watched, self._looked = watched if learned and of_now else 0, looked

    def _columns(self) -> dict[str, NDArray[Any]]:
        return {name: getattr(self, attribute) for name, attribute in _COLUMNS.items()}

    def keys(self, address: NDArray[np.uint8], role: int) -> NDArray[np.uint64]:
        """What stands for the hosts [n, 16] in a role."""
        halves = np.ascontiguousarray(address).view(np.uint64).reshape(-1, 2)
        which = np.full(len(halves), role, np.uint64)
        key: NDArray[np.uint64] = np.maximum(
            hashed(self._hash_key, halves[:, 0], halves[:, 1], which), np.uint64(1)
        )
        return key

    def weigh(
        self, begin: int, orig: NDArray[np.uint64], resp: NDArray[np.uint64], end: Floats, e: Floats, host: Floats,
        tried: NDArray[np.bool_], early: NDArray[np.bool_], ours: NDArray[np.bool_], owner: Ints, told: Floats,
        *, overheard: bool = False,
    ) -> tuple[int, int]:  # fmt: skip
        """The first connection from `begin` on that makes a host an incident, and the host's place.

        Where there is none, how many connections there are, and -1. `e` [n] is -log10 p, 0 of what is not to count;
        `host` [n] what speaks against the originator as it stands; `tried` what was never answered; `ours` whose
        responder is weighed here. What is `overheard` speaks against responders alone, its originators being
        another's. Written are `owner` [n], the place of the host whose open incident a connection belongs to, -1 none,
        and `told` [n], what the evidence against the row's host has come to.
        """
        row, slot, forgotten = _weigh(
            begin, orig, resp, end, e, host, tried, early, ours, overheard, owner, told, self._tails, _SIZES,
            _HORIZON_OF, _HORIZONS, self.limits, self._quiet, self._key, self._value, self._when, self._last,
            self._peak, self._rarest, self._active, self._role, self._other, self._several, self._source,
            self.last_open, self._most, self._hours_counted, self._own, self._many, self._many_at,
        )  # fmt: skip
        self.forgotten += forgotten
        return row, slot

    def place(self, key: np.uint64) -> int:
        """Where a host stands, -1 nowhere."""
        begin = int(key) % len(self._key)
        found = (p % len(self._key) for p in range(begin, begin + _PROBES))
        return next((p for p in found if self._key[p] == key), -1)

    def role(self, slot: int) -> int:
        return int(self._role[slot])

    def alone(self, slot: int) -> bool:
        """Whether the responder at this place has had one originator only."""
        return not self._several[slot]

    def hold(self, slot: int, now: float) -> None:
        """Has what the host does from now on belong to its incident."""
        self.last_open[slot] = now + self._quiet

    def turn(self) -> None:
        """Ends the hour that was counted."""
        for role in range(ROLES):
            mine = np.flatnonzero((self._active > 0) & (self._role == role) & self._teaches())
            mine = mine[:: -(-len(mine) // _OF_AN_HOUR) or 1]
            kept = self._blocks[role]
            if len(mine):
                kept.append(self._peak[mine].astype(np.float64))
            while len(kept) > 1 and sum(map(len, kept)) > _BLOCKS:
                kept.pop(0)
        served = (self._active > 0) & (self._role == 1)
        self._hours_counted[served] += 1
        served &= self._teaches()
        self._most[served] = np.maximum(self._most[served], self._peak[served])
        self._before = [self._crowd(role) for role in range(ROLES)]
        self._hours = [*self._hours, self.active()][-24:]
        self._watched += 1
        self._active[:] = 0
        self._peak[:] = 0.0
        self._rarest[:] = 0.0

    def _teaches(self) -> NDArray[np.bool_]:
        """Of which hosts an hour says what is usual here: an incident does not become that."""
        teaches: NDArray[np.bool_] = self.last_open == -np.inf
        return teaches

    def next_day(self) -> None:
        """From now on the days that are over count as what is usual here.

        Where nobody has learned the site, what its originators' hours came to makes their tail, without those of hosts
        with an incident. A responder's hours are weighed against its own, by how much the most of them was beyond
        others', by a tail that stays: what a server's hours come to is what its users do.

        Of m hours one is as rare as one in m by chance. Of an originator `Habits` knows more, connection by connection;
        those to a responder are many hosts', and one detector of several does not see them all.
        """
        if self._follows and len(hours := self.blocks(0)) >= ENOUGH_BLOCKS:
            self._tails[0] = of_hours(hours, 0, self._watched * BLOCK)
        served = np.flatnonzero((self._key != 0) & (self._role == 1) & (self._hours_counted > 0))
        chance = np.log10(self._hours_counted[served]) + _CHANCE
        for k in range(STATISTICS):
            most = surprise(self._tails[1, k], self._most[served, k].astype(np.float64))
            self._own[served, k] = np.maximum(most - chance, 0.0)

    def set_limit(self, limit: float) -> None:
        """From an hour's beginning on."""
        self.limit = limit
        self.limits[:] = limit

    def raise_limit(self, role: int, limit: float, now: float) -> None:
        """Until it is looked again how much more everybody is odd than in other hours."""
        self.limits[role] = limit
        self._looked = math.floor(now / _LOOKS)

    def upto(self, end: Floats, at: int, stop: int) -> int:
        """Up to which row from `at` on the limits stand: raised ones are taken anew every ten minutes.

        At an hour's beginning few hosts have been seen, and what some of them do is soon no longer what everybody does.
        """
        if not (self.limits > self.limit).any():
            return stop
        slot = math.floor(end[at] / _LOOKS)
        if slot != self._looked:
            self._looked = slot
            for role in range(ROLES):
                if self.limits[role] > self.limit:
                    self.limits[role] = self.limit + self.everybody(role)
        later = np.flatnonzero(np.floor(end[at:stop] / _LOOKS) != slot)
        return at + int(later[0]) if len(later) else stop

    def everybody(self, role: int) -> float:
        """How much more than in other hours everybody is odd in this one, or was in the one before.

        So it is in a surge, after a roll-out, and always where the model does not fit. Hosts with an incident are no
        crowd: at an hour's beginning they would be half of those that have been seen.
        """
        return max(self._crowd(role), self._before[role])

    def _crowd(self, role: int) -> float:
        seen = self._rarest[(self._active > 1) & (self._role == role) & (self.last_open == -np.inf)]
        return max(float(np.quantile(seen, self._few)) - _CALM, 0.0) if len(seen) >= _CROWD else 0.0

    def active(self) -> int:
        """Hosts' hours with more than one connection that was evidence, in the hour that is being counted."""
        return int((self._active > 1).sum())

    def a_day(self, expected: float) -> float:
        """Hosts' hours of a day: `expected`, or more where the hours so far have had more."""
        return max(expected, 24.0 * float(np.mean(self._hours)) if self._hours else 0.0)

    def blocks(self, role: int) -> Floats:
        """What the hours so far came to at most [n, STATISTICS]."""
        kept = self._blocks[role]
        return np.concatenate(kept) if kept else np.zeros((0, STATISTICS))


def _of_before(state: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """A state of when how many are odd was no statistic yet: of hours only what the others came to is known."""
    out = {name: array for name, array in state.items() if name != "tails"}
    for name in ("hosts.peak", "hosts.most", "hosts.own", *(f"blocks.{role}" for role in range(ROLES))):
        if name in out and out[name].ndim == 2:
            out[name] = np.pad(out[name], ((0, 0), (0, 1)))
    places = len(state.get("hosts.at", ()))
    return out | {"hosts.many": np.zeros(places, np.float32), "hosts.many_at": np.zeros(places)}


@helper
def _find(keys: Any, key: Any) -> Any:
    n = np.uint64(len(keys))
    for probe in range(_PROBES):
        slot = (key % n + np.uint64(probe)) % n
        if keys[slot] == key:
            return np.int64(slot)
    return np.int64(-1)


@helper
def _surprise(tail: Any, value: Any) -> Any:
    level, scale, shape = tail[0], tail[1], tail[2]
    if value <= level:
        return value / max(level, 1e-9)
    over = (value - level) / scale
    nats = over if shape < 1e-6 else np.log1p(shape * over) / shape
    return 1.0 + nats / 2.302585092994046


@helper
def _put(values: Any, when: Any, e: Any, now: Any, horizon: Any) -> Any:
    """Keeps the oddest that have not gone by; the place of `e` among them, -1 none."""
    least, lowest = -1, e
    for i in range(len(values)):
        v = values[i] if abs(now - when[i]) <= horizon else np.float32(0.0)
        if v < lowest:
            least, lowest = i, v
            if v == 0.0:
                break
    if least >= 0:
        values[least] = e
        when[least] = now
    return least


@helper
def _of_many(values: Any, when: Any, source: Any, now: Any, horizon: Any) -> Any:
    """Whether no one originator has opened more than half of a responder's oddest connections."""
    n, most = 0, 0
    for i in range(len(values)):
        if values[i] <= 0.0 or abs(now - when[i]) > horizon:
            continue
        n += 1
        same = 0
        for j in range(len(values)):
            if values[j] > 0.0 and abs(now - when[j]) <= horizon and source[j] == source[i]:
                same += 1
        most = max(most, same)
    return 2 * most <= n


@helper
def _compare(
    values: Any,
    when: Any,
    now: Any,
    horizon: Any,
    sizes: Any,
    which: Any,
    h: Any,
    role: Any,
    learned: Any,
    peak: Any,
    own: Any,
    ordered: Any,
) -> Any:
    """How rare a horizon's rarest statistic is beyond the host's `own`; `peak` takes the most that each has come to."""
    n = 0
    for i in range(len(values)):
        if values[i] > 0.0 and abs(now - when[i]) <= horizon:
            v = values[i]
            j = n
            while j > 0 and ordered[j - 1] < v:
                ordered[j] = ordered[j - 1]
                j -= 1
            ordered[j] = v
            n += 1
    rarest = 0.0
    total = 0.0
    taken = 0
    for k in range(len(sizes)):
        if which[k] != h:
            continue
        while taken < min(sizes[k], n):
            total += ordered[taken]
            taken += 1
        value = total / sizes[k]
        peak[k] = max(peak[k], np.float32(value))
        rarest = max(rarest, _surprise(learned[role, k], value) - own[k])
    return _surprise(learned[role, len(sizes) + 1], rarest)


@entry
def _weigh(
    begin: Any, orig: Any, resp: Any, end: Any, e: Any, host: Any, tried: Any, early: Any, ours: Any,
    overheard: Any, owner: Any, told: Any, learned: Any, sizes: Any, which: Any, horizons: Any, limit: Any,
    quiet: Any, keys: Any, values: Any, when: Any, last: Any, peak: Any, rarest: Any, active: Any, roles: Any,
    other: Any, several: Any, source: Any, last_open: Any, worst: Any, hours: Any, own: Any, many: Any,
    many_at: Any,
) -> Any:  # fmt: skip
    ordered = np.zeros(values.shape[2])
    forgotten = 0
    n_hosts = np.uint64(len(keys))
    for i in range(begin, len(end)):
        now = end[i]
        owner[i] = -1
        told[i] = 0.0
        a, b = _find(keys, orig[i]), _find(keys, resp[i])
        if overheard:
            a = np.int64(-1)
        if b >= 0 and not early[i] and other[b] != orig[i]:
            several[b] = True
        a_open = a >= 0 and last_open[a] >= now
        b_open = b >= 0 and last_open[b] >= now
        if a >= 0 and not a_open and last_open[a] > -np.inf:  # what has been told of does not count again
            values[a] = 0.0
            many[a] = 0.0
            last_open[a] = -np.inf
        if b >= 0 and not b_open and last_open[b] > -np.inf:
            values[b] = 0.0
            many[b] = 0.0
            last_open[b] = -np.inf
        if a_open or b_open:
            owner[i] = a if a_open else b
        if early[i]:
            # A verdict before the end speaks for itself alone, and is not counted: the end will be.
            if owner[i] < 0 and not tried[i] and e[i] >= FIRM:
                told[i] = _surprise(learned[0, len(sizes) + 1], _surprise(learned[0, 0], e[i]))
                if told[i] >= limit[0] and a >= 0:
                    return i, a, forgotten
            continue
        if e[i] < LEAST and host[i] < LEAST:
            continue
        for role in range(2):
            if role == 1 and e[i] < LEAST:
                break
            key = orig[i] if role == 0 else resp[i]
            slot = a if role == 0 else b
            if role == 0 and overheard:
                continue
            if role == 1 and not ours[i]:
                break
            if role == 1 and a_open:
                break  # an originator's incident explains its connections; its targets are none of their own
            if role == 0 and b_open and not a_open and tried[i]:
                continue  # nor are the many sources of a flood
            if slot < 0:
                # The place of least evidence; of equal evidence, the one that is longest unseen.
                least, lowest, oldest = np.int64(-1), 1e9, np.inf
                for probe in range(_PROBES):
                    at = np.int64((key % n_hosts + np.uint64(probe)) % n_hosts)
                    if keys[at] == 0:
                        least, lowest, oldest = at, -1.0, -np.inf
                        break
                    if last_open[at] >= now:
                        continue
                    most = 0.0
                    for j in range(values.shape[2]):
                        if abs(now - when[at, 0, j]) <= horizons[0]:
                            most = max(most, values[at, 0, j])
                    if most < lowest or (most == lowest and last[at] < oldest):
                        least, lowest, oldest = at, most, last[at]
                if least < 0 or lowest > max(e[i], host[i]):
                    forgotten += 1
                    continue
                if keys[least] != 0:
                    forgotten += 1
                slot = least
                keys[slot] = key
                values[slot] = 0.0
                when[slot] = -np.inf
                peak[slot] = 0.0
                worst[slot] = 0.0
                hours[slot] = 0
                own[slot] = 0.0
                many[slot] = 0.0
                rarest[slot] = 0.0
                active[slot] = 0
                roles[slot] = role
                other[slot] = orig[i]
                several[slot] = False
                last_open[slot] = -np.inf
            last[slot] = now
            active[slot] += 1
            best = host[i] if role == 0 else 0.0
            if best >= limit[role] and last_open[slot] >= now:
                last_open[slot] = max(last_open[slot], now + quiet)
            if role == 0 and e[i] >= _MANY:  # how many are odd, of which the oddest thirty say nothing
                k = len(sizes)
                many[slot] = many[slot] * np.exp(-max(now - many_at[slot], 0.0) / BLOCK) + 1.0
                many_at[slot] = now
                value = np.log10(1.0 + many[slot])
                peak[slot, k] = max(peak[slot, k], np.float32(value))
                rare = _surprise(learned[role, k], value) - own[slot, k]
                best = max(best, _surprise(learned[role, k + 1], rare))
            for h in range(_HORIZONS_OF[role]):
                if e[i] < LEAST:
                    break
                kept = _put(values[slot, h], when[slot, h], np.float32(e[i]), now, horizons[h])
                if kept >= 0 and h == 0:
                    source[slot, kept] = orig[i]
                if kept < 0 and (h > 0 or e[i] < FIRM or last_open[slot] < now):
                    continue
                rare = _compare(
                    values[slot, h], when[slot, h], now, horizons[h], sizes, which, h, role, learned,
                    peak[slot], own[slot], ordered,
                )  # fmt: skip
                best = max(best, rare)
                if h == 0 and e[i] >= FIRM and last_open[slot] >= now and rare >= _STILL * limit[role]:
                    last_open[slot] = max(last_open[slot], now + quiet)
            rarest[slot] = max(rarest[slot], np.float32(best))
            if role == 0 or last_open[slot] >= now:
                told[i] = max(told[i], best)
            if best < limit[role] or last_open[slot] >= now:
                continue
            if (role == 0 and (active[slot] > 1 or not tried[i])) or (
                role == 1 and _of_many(values[slot, 0], when[slot, 0], source[slot], now, horizons[0])
            ):
                # What brought it here is not weighed against the other side: it is explained.
                owner[i] = slot
                told[i] = best
                return i, slot, forgotten
    return len(end), -1, forgotten
