"""Weeks of one site from recorded days, row by row: normal use unrolled, attacks spliced in at their own pace.

Each machine lives one recorded day of its own (or, a twin of it that has another address, of the machine it is like) on
each working day, moved by some minutes as a whole, so that what is regular stays so. Nights and weekends are what
servers and devices did, thinned, and few people. What happens in a fortnight is on top: people on leave, new machines,
a software roll-out, a month's end, a server that gets another address. Attacks keep their rows, their order and their
pace; day, hour and the machine that the attacker sits on come from the seed.

What is not made anew: sizes, durations and ports of a copied connection are the recorded ones, so a machine's day comes
again every few days.
"""

from __future__ import annotations

import calendar
import csv
import datetime
import ipaddress
import json
import math
import random
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lab.scenario import LabError
from benchmarks.lab.spliced import DAY, WITH_FILES, Rows, Source, Strike, occasions, read_source, renamed
from benchmarks.lab.truth import COLUMNS

START = datetime.date(2026, 3, 23)  # a Monday, so that a fortnight holds a month's end
PEOPLE_AT_WEEKENDS = 0.06
AWAKE_AT_NIGHT = 0.3  # share of what servers and devices do by day
AT_WEEKENDS = 0.5  # likewise
ON_LEAVE = 0.25  # of the people, for some days of a fortnight
ATTACKED = 0.65  # of the days that are not kept calm
ATTACKS = (4, 9)  # in such a day, the second not reached
CALM = 0.5  # share of the days at the beginning without attacks: to learn and calibrate on
MOVED = "server-moved"
MACHINES = ("server", "device")  # roles of machines without people; what has no role is a server
_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_MOST = 400  # machines


@dataclass(frozen=True, slots=True)
class Machine:
    """A host of the site; `like` is the recorded one whose days it lives, itself or another."""

    name: str
    address: str
    like: str  # address
    role: str
    first: int  # day from which on it is there
    away: frozenset[int] = frozenset()

    @property
    def has_people(self) -> bool:
        return self.role not in MACHINES


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a recording that a day takes over, by how many seconds later and with which addresses."""

    source: Source
    rows: Rows
    later: float
    addresses: Mapping[str, str]  # recorded -> here
    why: str
    event: str = ""


@dataclass(slots=True)
class Planned:
    """One day to be written."""

    number: int
    date: datetime.date
    pieces: list[Piece] = field(default_factory=list)
    attacks: list[tuple[Strike, str]] = field(default_factory=list)  # and the machine that attacks
    events: list[dict[str, Any]] = field(default_factory=list)
    moved: Mapping[str, str] = field(default_factory=dict)  # servers' recorded addresses -> theirs by now


@dataclass(frozen=True, slots=True)
class Spliced:
    """What was written."""

    out: Path
    days: int
    connections: int
    malicious: int
    attacks: int
    machines: int

    def __str__(self) -> str:
        return (
            f"{self.out}: {self.days} days, {self.connections:,} connections, {self.malicious:,} of them of "
            f"{self.attacks} attacks, {self.machines} machines"
        )


def splice(
    recordings: Sequence[Path], out: Path, days: int = 14, seed: int = 1, connections: int = 1_000_000
) -> Spliced:
    """Writes a folder of logs, labels.csv and story.json for each day, and plan.csv. Raises `LabError`."""
    if not 2 <= days <= 60:
        raise LabError(f"--days: found {days}, expected 2 to 60")
    if out.exists() and any(out.iterdir()):
        raise LabError(f"{out}: not empty; give a new folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    sources = [_logged(folder, out) for folder in recordings]
    if len({s.story["site"] for s in sources}) > 1:
        raise LabError("recordings of several sites; expected several days of one")
    rng = random.Random(f"{seed}/splice")
    site = _Site(sources, days, rng)
    machines = site.machines(connections)
    plan = site.days(machines)
    site.attack(plan, machines)
    total = malicious = 0
    for day in plan:
        n, bad = _write(day, machines, sources[0].story, out / f"day{day.number + 1:02d}", seed)
        total, malicious = total + n, malicious + bad
    _plan(plan, out / "plan.csv")
    shutil.rmtree(out / _RECORDED)
    return Spliced(out, days, total, malicious, sum(len(d.attacks) for d in plan), len(machines))


_RECORDED = ".recorded"


def _logged(folder: Path, out: Path) -> Source:
    """The recording with Zeek's logs of it, made by our engine."""
    from cmdana_plugin.config import Config
    from cmdana_plugin.replay import convert

    captures = sorted(folder.glob("*.pcap")) + sorted(folder.glob("*.pcap.gz"))
    if len(captures) != 1:
        raise LabError(f"{folder}: found {len(captures)} captures; expected a recording")
    logs = out / _RECORDED / folder.resolve().name
    logs.mkdir(parents=True)
    convert([captures[0]], logs, Config(), to="tsv")
    return read_source(folder, logs)


class _Site:
    """What is known of the site, and the dice."""

    def __init__(self, sources: Sequence[Source], days: int, rng: random.Random) -> None:
        self.sources, self.many, self.rng = sources, days, rng
        story = sources[0].story
        self.dates = [START + datetime.timedelta(days=n) for n in range(days)]
        self.lives = [s.lives() for s in sources]
        groups = {g["name"]: g.get("role") or "server" for g in story["scenario"]["inside"]}
        self.hosts = [h for h in story["hosts"] if h["inside"]]
        self.role = {
            h["address"]: groups.get(h["name"]) or groups[h["name"].rstrip("0123456789")] for h in self.hosts
        }
        self.base = [
            Machine(h["name"], h["address"], h["address"], self.role[h["address"]], 0)
            for h in self.hosts
            if any(h["address"] in some for some in self.lives)
        ]
        self.calm = max(1, math.ceil(days * CALM))
        self.workdays = [n for n, d in enumerate(self.dates) if d.weekday() < 5]
        later = [n for n in self.workdays if n >= self.calm] or self.workdays
        self.roll_out = later[len(later) // 2]
        self.moves = later[0]
        taken = [a for h in self.hosts for a in [h["address"]]]
        self.free = _unused(story["scenario"]["network"], taken, rng)

    def machines(self, connections: int) -> list[Machine]:
        """Those of the recording and as many twins of people's machines and devices as the number asks for."""
        rng = self.rng
        size = {
            m.address: float(np.mean([len(some.get(m.address, ())) for some in self.lives]))
            for m in self.base
        }
        twins = [m for m in self.base if m.role != "server"]
        if not twins:
            raise LabError("no machine that could have a twin; expected hosts of a role other than server")
        out = [self._with_leave(m) for m in self.base]
        expected = sum(size[m.like] * self._full_days(m) for m in out)
        number: dict[str, int] = defaultdict(int)
        for m in self.base:
            stem = m.name.rstrip("0123456789")
            number[stem] = max(number[stem], int(m.name[len(stem) :] or 1))
        k = 0
        while expected < connections:
            like = twins[k % len(twins)]
            stem = like.name.rstrip("0123456789")
            number[stem] += 1
            k += 1
            if len(out) >= _MOST or not self.free:
                raise LabError(
                    f"--connections: {connections:,} need more than {len(out)} machines; give more recordings or fewer"
                )
            new = k % 12 == 0  # comes in the middle of it
            first = rng.randrange(1, max(2, self.many - 2)) if new else 0
            twin = Machine(f"{stem}{number[stem]}", self.free.pop(), like.address, like.role, first)
            out.append(self._with_leave(twin))
            expected += size[like.like] * self._full_days(out[-1])
        return out

    def _with_leave(self, m: Machine) -> Machine:
        if not m.has_people or self.rng.random() >= ON_LEAVE or len(self.workdays) < 3:
            return m
        lasts = self.rng.randrange(2, min(6, len(self.workdays)))
        at = self.rng.randrange(len(self.workdays) - lasts + 1)
        return Machine(m.name, m.address, m.like, m.role, m.first, frozenset(self.workdays[at : at + lasts]))

    def _full_days(self, m: Machine) -> float:
        """About how many recorded days it lives in all."""
        here = [n for n in range(m.first, self.many) if n not in m.away]
        work = sum(n in self.workdays for n in here)
        if m.has_people:
            return work + PEOPLE_AT_WEEKENDS * (len(here) - work)
        return work + AT_WEEKENDS * (len(here) - work) + AWAKE_AT_NIGHT * len(here)

    def days(self, machines: Sequence[Machine]) -> list[Planned]:
        """Who lives which recorded day when."""
        plan = [Planned(n, date) for n, date in enumerate(self.dates)]
        moved = self._moved()
        for day in plan:
            day.moved = moved if day.number >= self.moves else {}
            if day.number == self.moves and moved:
                day.events.append({"kind": MOVED, "at": 7 * 3600.0, "until": 19 * 3600.0})
            here = [m for m in machines if m.first <= day.number and day.number not in m.away]
            ends = _last_workdays(day.date)
            if day.date in ends:
                day.events.append({"kind": "month-end", "at": 8 * 3600.0, "until": 18 * 3600.0})
            for m in here:
                address = {**day.moved, m.like: m.address} if m.like != m.address else day.moved
                day.pieces += self._lived(m, day, address, day.date in ends)
        self._roll_out(plan[self.roll_out], machines)
        return plan

    def _lived(self, m: Machine, day: Planned, address: Mapping[str, str], busy: bool) -> Iterator[Piece]:
        rng = self.rng
        at_work = day.date.weekday() < 5
        spread = 1200.0 if m.has_people else 300.0
        if at_work or rng.random() < (PEOPLE_AT_WEEKENDS if m.has_people else 1.0):
            source, rows = self._life(m)
            share = 1.0 if at_work or m.has_people else AT_WEEKENDS
            rows = self._thinned(source, rows, share)
            yield Piece(source, rows, rng.uniform(-spread, spread), address, "use")
        if busy and m.role in ("clerk", "manager") and rng.random() < 0.6:
            source, rows = self._life(m)
            yield Piece(
                source, rows, rng.uniform(-spread, spread), address, "use at a month's end", "month-end"
            )
        if not m.has_people:  # what was recorded by day goes on at night, with less to do
            source, rows = self._life(m)
            if len(rows) and source.ts[rows].max() - source.ts[rows].min() < 0.75 * DAY:
                for early in (True, False):  # before and after the recorded hours, within this day
                    later = -DAY / 2 if early else DAY / 2
                    when = source.ts[rows] + later
                    part = rows[(when >= 0.0) & (when < DAY - 60.0)]
                    yield Piece(
                        source, self._thinned(source, part, AWAKE_AT_NIGHT), later, address, "use at night"
                    )

    def _life(self, m: Machine) -> tuple[Source, Rows]:
        k = self.rng.choice([k for k, some in enumerate(self.lives) if m.like in some])
        return self.sources[k], self.lives[k][m.like]

    def _thinned(self, source: Source, rows: Rows, share: float) -> Rows:
        if share >= 1.0 or not len(rows):
            return rows
        kept = [some for some in occasions(source.ts, rows) if self.rng.random() < share]
        return np.concatenate(kept) if kept else rows[:0]

    def _moved(self) -> dict[str, str]:
        """The server inside that most connections go to, but for the one that is asked for names, and where it goes."""
        many: dict[str, int] = defaultdict(int)
        servers = {h["address"] for h in self.hosts if h["services"] and "resolver" not in h["services"]}
        for source in self.sources:
            for row in source.rows:
                if row.resp in servers:
                    many[row.resp] += 1
        if not many or not self.free:
            return {}
        return {max(sorted(many), key=lambda a: many[a]): self.free.pop(0)}

    def _roll_out(self, day: Planned, machines: Sequence[Machine]) -> None:
        """What brought somebody most from one outside server comes to every machine of a person within an hour."""
        best: tuple[float, Source, str, Rows] | None = None
        outside = {h["address"] for h in self.sources[0].story["hosts"] if not h["inside"]}
        people = {m.like for m in machines if m.has_people}
        for source, lives in zip(self.sources, self.lives, strict=True):
            for host in sorted(people & set(lives)):
                for some in occasions(source.ts, lives[host]):
                    far = [i for i in some.tolist() if source.rows[i].resp in outside]
                    brought = sum(_got(source.rows[i].tail) for i in far)
                    if len(some) <= 30 and (best is None or brought > best[0]):
                        best = brought, source, host, some
        if best is None:
            return
        _, source, host, rows = best
        begin = 10 * 3600.0
        for m in machines:
            if m.has_people and m.first <= day.number and day.number not in m.away:
                later = begin + self.rng.uniform(0.0, 3300.0) - float(source.ts[rows[0]])
                addresses = {**day.moved, host: m.address}
                day.pieces.append(Piece(source, rows, later, addresses, "the software roll-out", "roll-out"))
        day.events.append({"kind": "roll-out", "at": begin, "until": begin + 3600.0})

    def attack(self, plan: Sequence[Planned], machines: Sequence[Machine]) -> None:
        """Splices attacks into days after the calm ones; some of those stay without."""
        rng = self.rng
        pool = [a for s in self.sources for a in s.attacks()]
        if not pool:
            return
        left: list[Strike] = []
        open_days = [d for d in plan if d.number >= self.calm]
        quiet = rng.choice(open_days[:-1]) if len(open_days) > 2 else None
        for day in open_days:
            if day is quiet or (rng.random() >= ATTACKED and day is not open_days[-1]):
                continue
            here = [m for m in machines if m.first <= day.number and day.number not in m.away]
            for _ in range(rng.randrange(*ATTACKS)):
                if not left:
                    left = rng.sample(pool, len(pool))
                strike = left.pop()
                role = self.role.get(strike.host, "")
                alike = [m for m in here if m.role == role] if role not in ("", "server") else []
                who = rng.choice(alike) if alike else None
                host = who.address if who else day.moved.get(strike.host, strike.host)
                latest = max(DAY - strike.lasts - 60.0, 0.0)
                begin = rng.uniform(0.0, latest)
                if rng.random() < 0.7:  # mostly while people are there
                    begin = min(rng.uniform(7 * 3600.0, 17 * 3600.0), latest)
                rows = strike.rows[strike.source.ts[strike.rows] - strike.begin + begin < DAY]
                addresses = {**day.moved, strike.host: host}
                day.pieces.append(
                    Piece(
                        strike.source,
                        rows,
                        begin - strike.begin,
                        addresses,
                        f"attack of {strike.source.name}",
                    )
                )
                day.attacks.append((strike, host))


def _got(tail: str) -> float:
    word = tail.split("\t", 5)[4]
    return float(word) if word.isdigit() else 0.0


def _unused(network: str, taken: Sequence[str], rng: random.Random) -> list[str]:
    free = [str(a) for a in list(ipaddress.ip_network(network).hosts())[:4096] if str(a) not in set(taken)]
    rng.shuffle(free)
    return free


def _last_workdays(date: datetime.date) -> set[datetime.date]:
    """The last two working days of the date's month."""
    last = calendar.monthrange(date.year, date.month)[1]
    days = [date.replace(day=n) for n in range(last - 6, last + 1)]
    return set([d for d in days if d.weekday() < 5][-2:])


# What is written


def _write(
    day: Planned, machines: Sequence[Machine], story: Mapping[str, Any], folder: Path, seed: int
) -> tuple[int, int]:
    """One day's logs, labels and story; returns how many connections it has and how many are malicious."""
    from cmdana_plugin.logs import APPLICATION, CONN, LogWriter

    folder.mkdir()
    midnight = datetime.datetime.combine(day.date, datetime.time(), datetime.UTC).timestamp()
    conns: list[tuple[float, float, str]] = []
    others: dict[str, list[tuple[float, str]]] = defaultdict(list)
    labels: list[tuple[float, tuple[str, ...]]] = []
    number = 0
    to_moved = set(day.moved.values()) if any(e["kind"] == MOVED for e in day.events) else set()
    for k, piece in enumerate(day.pieces):
        source, files = piece.source, _letters(k, 3)
        for i in piece.rows.tolist():
            ts = midnight + float(source.ts[i]) + piece.later
            if not midnight <= ts < midnight + DAY:
                continue
            row = source.rows[i]
            uid = f"C{_letters(seed * 64 + day.number, 4)}{_letters(number, 12)}"
            number += 1
            orig, resp = (piece.addresses.get(a, a) for a in (row.orig, row.resp))
            moved = (orig, resp) != (row.orig, row.resp)
            tail = (
                f"{row.tail.rpartition(chr(9))[0]}\t-" if moved else row.tail
            )  # community_id is of the ends
            head = f"{uid}\t{orig}\t{row.orig_p}\t{resp}\t{row.resp_p}"
            conns.append((ts + float(source.lasts[i]), ts, f"{ts:.6f}\t{head}\t{tail}\n"))
            for entry in source.entries[i]:
                when = ts + entry.after
                named = files if entry.stream in WITH_FILES else ""
                first = f"{renamed(entry.fuid, {}, files)}\t" if entry.fuid else ""
                text = f"{when:.6f}\t{first}{head}\t{renamed(entry.tail, piece.addresses, named)}\n"
                others[entry.stream].append((when, text))
            word = "malicious" if source.malicious[i] else "benign"
            labels.append(
                (ts, ("", uid, f"{ts:.6f}", row.tail.split("\t", 1)[0], orig, row.orig_p, resp, row.resp_p, word,
                      source.family[i], "strict", f"{piece.why}, of {source.name}",
                      piece.event or (MOVED if to_moved and resp in to_moved else "")))
            )  # fmt: skip
    conns.sort()
    for stream, lines in (("conn", [(end, text) for end, _, text in conns]), *others.items()):
        lines.sort()
        writer = LogWriter(folder, CONN if stream == "conn" else APPLICATION[stream], "tsv")
        if lines:
            writer.write_lines("".join(text for _, text in lines).encode(), lines[0][0], lines[-1][0])
        writer.close()
    labels.sort()
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow([*COLUMNS, *(("event",) if "event" not in COLUMNS else ())])
        out.writerows(row for _, row in labels)
    _tell(day, machines, story, midnight, folder)
    return len(conns), sum(row[8] == "malicious" for _, row in labels)


def _tell(
    day: Planned, machines: Sequence[Machine], story: Mapping[str, Any], midnight: float, folder: Path
) -> None:
    known = {h["address"]: h for h in story["hosts"]}
    hosts = [
        {
            "name": m.name,
            "address": day.moved.get(m.address, m.address),
            "inside": True,
            "services": known[m.like]["services"],
        }
        for m in machines
        if m.first <= day.number
    ]
    there = {m.address for m in machines}
    hosts += [
        {
            "name": h["name"],
            "address": day.moved.get(h["address"], h["address"]),
            "inside": h["inside"],
            "services": h["services"],
        }
        for h in story["hosts"]
        if h["address"] not in there
    ]
    name = {h["address"]: h["name"] for h in hosts}
    told = {
        "site": story["site"],
        "begin": midnight,
        "seconds": DAY,
        "hosts": hosts,
        "actors": [{"host": name[host], "family": strike.family} for strike, host in day.attacks],
        "events": day.events,
        "scenario": {"name": story["scenario"]["name"], "inside": story["scenario"]["inside"]},
    }
    (folder / "story.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _plan(plan: Sequence[Planned], path: Path) -> None:
    """For `cmdana evaluate --days`: the first days teach, the last calm ones calibrate, the rest is judged."""
    calm = [d for d in plan if not d.attacks]
    first = next((d.number for d in plan if d.attacks), len(plan))
    learned = max(1, round(first * 0.6))
    lines = ["recording,network,part,use,scenario"]
    for day in plan:
        part = "train" if day.number < learned else "calibrate" if day.number < first else "test"
        if day.number > first and day in calm:
            part = "later"
        lines.append(f"day{day.number + 1:02d},spliced,{part},choosing,")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _letters(n: int, width: int) -> str:
    out = ""
    for _ in range(width):
        n, k = divmod(n, len(_LETTERS))
        out = _LETTERS[k] + out
    return out
