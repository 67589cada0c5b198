"""Alarms against attacks: what is found, what is false, and the curve of both, for whatever raises alarms.

An **attack** is what one attacking host does of one family in one day. An **alarm** names a host at a time and rests
on connections. It is true of an attack if it comes between the attack's first packet and an hour after its last
connection ended, names the attacker or a host at an end of the attack's connections, and if at least a tenth of the
connections that it rests on are the attack's. An alarm that is true of none and rests on anything malicious or benign
is false; one that rests on nothing but connections of unknown kind is neither.

False alarms that name the same host, each at most an hour after the one before, are one **false incident**: somebody
looks into a host once. An alarm with the key of an earlier one of the day is the same alarm again: it may have come
true of an attack by now, and is not counted else. Attacks are found once, by the first true alarm; its delay runs from
the attack's first packet, and counts the connections of the attack that had ended and been judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Section = dict[str, Any]

LEAST_SHARE: Final = 0.1  # of an alarm's connections that must be the attack's
GRACE: Final = (
    3600.0  # seconds after an attack's last connection in which it may still be told: many tools run hourly
)
MERGE: Final = 3600.0  # seconds between false alarms about one host that are looked into together
BUDGETS: Final = (1.0, 3.0, 10.0)  # false incidents a day at which detectors are compared
_SAME: Final = 1e-6  # seconds within which connections end at the same time
_LEVELS: Final = 48  # thresholds of a curve, at most


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that a person would be told."""

    ts: float  # network time at which it is told, seconds since the epoch
    host: str  # address that it names
    role: str  # of the host in its connections: originator, responder
    score: float  # higher is surer; a curve moves a threshold along it
    rows: NDArray[np.int64]  # connections of the day that it rests on
    key: str = ""  # what the same alarm has again, when there is more to it; "": none is
    also: tuple[str, ...] = ()  # other hosts that it names


@dataclass(frozen=True, slots=True)
class Attack:
    """What one attacking host does of one family in one day."""

    family: str
    hosts: frozenset[str]  # addresses of the attacker; none where nobody tells
    rows: NDArray[np.int64]  # its connections
    begin: float  # first packet, seconds since the epoch
    end: float  # end of its last connection


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time in which something unusual and harmless happens: a surge, a roll-out."""

    name: str
    begin: float  # seconds since the epoch
    end: float


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of a day's `n` connections."""

    ts: NDArray[np.float64]
    end: NDArray[np.float64]
    orig: NDArray[np.str_]
    resp: NDArray[np.str_]
    service: Sequence[str]
    label: NDArray[np.int8]  # 1 malicious, 0 benign, -1 unknown
    family: Sequence[str]
    final: NDArray[np.bool_]  # the row of a connection that has ended
    attacks: tuple[Attack, ...] = ()
    stretches: tuple[Stretch, ...] = ()
    roles: Mapping[str, str] = field(default_factory=dict)  # address -> role of the host
    event: Sequence[
        str
    ] = ()  # of each connection, the name of the stretch that it is part of; none: nobody tells

    def __len__(self) -> int:
        return len(self.ts)

    @property
    def days(self) -> float:
        """Stretches of 24 hours, each begun one counting whole, but for what is shorter than six hours."""
        hours = self.hours
        return float(np.ceil(hours / 24.0 - 1e-3)) if hours >= 6.0 else hours / 24.0

    @property
    def hours(self) -> float:
        return float(self.end.max() - self.ts.min()) / 3600.0 if len(self) else 0.0


def attacks_of(
    label: NDArray[np.int8],
    family: Sequence[str],
    orig: NDArray[np.str_],
    resp: NDArray[np.str_],
    ts: NDArray[np.float64],
    end: NDArray[np.float64],
    actors: Mapping[str, Sequence[str]],
) -> tuple[Attack, ...]:
    """The attacks of a day; `actors` has, by family, the addresses of the hosts that attack, where that is known.

    Malicious connections at whose ends no attacker stands (a resolver's own questions, forged addresses) belong to
    the attack of their family that is nearest in time.
    """
    names = np.array(family, dtype=object)
    found: list[Attack] = []
    for f in sorted(set(names[label == 1])):
        rows = np.flatnonzero((label == 1) & (names == f))
        hosts = sorted(set(actors.get(f, ())))
        owner = np.full(len(rows), -1)
        for k, host in enumerate(hosts):
            owner[(owner < 0) & ((orig[rows] == host) | (resp[rows] == host))] = k
        known, lost = np.flatnonzero(owner >= 0), np.flatnonzero(owner < 0)
        if len(known) and len(lost):
            at = ts[rows]
            order = known[np.argsort(at[known], kind="stable")]
            right = np.clip(np.searchsorted(at[order], at[lost]), 0, len(order) - 1)
            left = np.maximum(right - 1, 0)
            nearer = np.abs(at[order[left]] - at[lost]) <= np.abs(at[order[right]] - at[lost])
            owner[lost] = owner[np.where(nearer, order[left], order[right])]
        for k in sorted(set(owner.tolist())):
            mine = rows[owner == k]
            who = frozenset(hosts) if k < 0 else frozenset((hosts[k],))
            found.append(Attack(str(f), who, mine, float(ts[mine].min()), float(end[mine].max())))
    return tuple(found)


@dataclass(slots=True)
class Tally:
    """Alarms of some days against their truth; tallies add up."""

    days: float = 0.0
    hours: float = 0.0
    benign: int = 0  # connections that ended, outside stretches and in them
    attacks: int = 0
    alarms: int = 0  # told, the same again left out
    false: int = 0  # false incidents outside stretches
    unlabelled: int = 0  # alarms that rest on nothing but connections of unknown kind
    families: dict[str, list[int]] = field(default_factory=dict)  # family -> [attacks, found]
    delay: dict[str, list[float]] = field(default_factory=dict)  # family -> seconds, of those found
    within: dict[str, list[int]] = field(default_factory=dict)  # family -> connections, of those found
    roles: Counter[str] = field(default_factory=Counter)  # role of the host -> false incidents
    services: Counter[str] = field(default_factory=Counter)  # most frequent service -> false incidents
    stretches: dict[str, list[int]] = field(default_factory=dict)  # name -> [times, false incidents]

    @property
    def found(self) -> int:
        return sum(f for _, f in self.families.values())

    def add(self, alarms: Iterable[Alarm], truth: Truth) -> None:
        """One day."""
        self.days += truth.days
        self.hours += truth.hours
        self.benign += int(((truth.label == 0) & truth.final).sum())
        self.attacks += len(truth.attacks)
        owner = np.full(len(truth), -1)
        for k, attack in enumerate(truth.attacks):
            owner[attack.rows] = k
            self.families.setdefault(attack.family, [0, 0])[0] += 1
        for stretch in truth.stretches:
            self.stretches.setdefault(stretch.name, [0, 0])[0] += 1
        first: dict[int, Alarm] = {}
        told: set[str] = set()
        last: dict[tuple[str, str], float] = {}
        for alarm in sorted(alarms, key=lambda a: a.ts):
            true = true_of(alarm, truth, owner)
            for k in true:
                first.setdefault(k, alarm)
            if alarm.key and alarm.key in told:
                continue
            told.add(alarm.key)
            self.alarms += 1
            if true:
                continue
            if len(alarm.rows) and (truth.label[alarm.rows] < 0).all():
                self.unlabelled += 1
                continue
            during = _stretch(alarm, truth)
            before = last.get((during, alarm.host))
            last[during, alarm.host] = alarm.ts
            if before is not None and alarm.ts - before <= MERGE:
                continue
            if during:
                self.stretches[during][1] += 1
                continue
            self.false += 1
            self.roles[truth.roles.get(alarm.host, "unknown")] += 1
            self.services[_service(alarm, truth)] += 1
        for k, alarm in first.items():
            attack = truth.attacks[k]
            self.families[attack.family][1] += 1
            self.delay.setdefault(attack.family, []).append(max(alarm.ts - attack.begin, 0.0))
            # Many end at the same time, a scan's all of five seconds: of these what came after was not needed for it.
            end = truth.end[attack.rows]
            ended = (end < alarm.ts - _SAME) | ((end <= alarm.ts + _SAME) & (attack.rows <= alarm.rows.max()))
            ended &= truth.final[attack.rows]
            self.within.setdefault(attack.family, []).append(max(int(ended.sum()), 1))

    def section(self) -> Section:
        """As plain numbers."""
        return {
            "days": self.days,
            "hours": self.hours,
            "benign": self.benign,
            "attacks": self.attacks,
            "found": self.found,
            "alarms": self.alarms,
            "false": self.false,
            "unlabelled": self.unlabelled,
            "false_per_day": _ratio(self.false, self.days),
            "false_per_million": _ratio(1e6 * self.false, self.benign),
            "delay": _median([x for v in self.delay.values() for x in v]),
            "within": _median([x for v in self.within.values() for x in v]),
            "families": {
                f: [*n, _median(self.delay.get(f, [])), _median(self.within.get(f, []))]
                for f, n in sorted(self.families.items())
            },
            "roles": dict(self.roles.most_common()),
            "services": dict(self.services.most_common(8)),
            "stretches": dict(self.stretches),
        }


def true_of(alarm: Alarm, truth: Truth, owner: NDArray[np.int64]) -> list[int]:
    """The attacks that an alarm is true of; `owner` [n] has the attack of each connection, -1 for none."""
    if not len(alarm.rows):
        return []
    mine = owner[alarm.rows]
    found = []
    for k in sorted(set(mine[mine >= 0].tolist())):
        attack = truth.attacks[k]
        if not attack.begin <= alarm.ts <= attack.end + GRACE:
            continue
        if (mine == k).sum() < LEAST_SHARE * len(mine):
            continue
        rows = attack.rows
        named = {alarm.host, *alarm.also}
        if named & attack.hosts or named & {*truth.orig[rows].tolist(), *truth.resp[rows].tolist()}:
            found.append(k)
    return found


def _stretch(alarm: Alarm, truth: Truth) -> str:
    """What an alarm is about: a stretch that at least half of its connections are part of; by time if nobody tells."""
    names = {s.name for s in truth.stretches}
    if not truth.event:
        return next((s.name for s in truth.stretches if s.begin <= alarm.ts <= s.end), "")
    said = Counter(truth.event[i] for i in alarm.rows.tolist() if truth.event[i] in names)
    name, many = said.most_common(1)[0] if said else ("", 0)
    return name if 2 * many >= len(alarm.rows) else ""


def _service(alarm: Alarm, truth: Truth) -> str:
    said = Counter(truth.service[i] or "none" for i in alarm.rows.tolist())
    return said.most_common(1)[0][0] if said else "none"


# Curves


def levels_of(alarms: Iterable[Alarm]) -> list[float]:
    """Thresholds on the scores of alarms from which a curve is drawn, the strictest first."""
    scores = np.unique([a.score for a in alarms])
    if len(scores) > _LEVELS:
        scores = np.unique(np.quantile(scores, np.linspace(0.0, 1.0, _LEVELS), method="nearest"))
    return [float(s) for s in scores[::-1]]


def at_level(alarms: Iterable[Alarm], level: float) -> list[Alarm]:
    return [a for a in alarms if a.score >= level]


def most_found(curve: Sequence[Section], false_per_day: float) -> float:
    """The share of attacks found at no more than so many false incidents a day, at the best point of a curve."""
    there = [p["found"] for p in curve if p["false_per_day"] <= false_per_day + 1e-9]
    attacks = curve[0]["attacks"] if curve else 0
    return max(there, default=0) / attacks if attacks else float("nan")


def within_budget(calm: Sequence[Tally], budget: float) -> int:
    """Of levels, the strictest first, the laxest up to which calm days have at most so many false incidents a day.

    -1 where even the strictest has more. Only calm days of the site's own choose it, never what is judged.
    """
    chosen = -1
    for i, tally in enumerate(calm):
        if tally.false > budget * max(tally.days, 1e-9) + 1e-9:
            break
        chosen = i
    return chosen


def _ratio(a: float, b: float) -> float:
    return a / b if b else float("nan")


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if len(values) else None
