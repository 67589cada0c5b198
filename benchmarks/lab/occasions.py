"""Which occasion each connection of a recording belongs to: what an actor did once, with all that it took."""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.lab.flows import Flow, Key
from benchmarks.lab.truth import PATIENCE

_OPENED = re.compile(r"opened by (?:user|attacker) (\S+?) on (\S+?)(?:,|$)")
NEAR = 0.1  # seconds by which clocks and logs differ
LAGGING = 1.5  # seconds between the answer of a resolver and the connection that it was asked for
WAKE = 0.3  # seconds within which a server does something of its own for a client
PART = (
    5.0  # seconds between the starts of like programs within one occasion, where the log does not number them
)
# Families whose programs move each by itself in recordings that do not number occasions.
PATIENT = frozenset((
    "scan-slow", "beacon-tls", "beacon-http", "beacon-dns", "beacon-padded", "exfiltration-slow", "lateral-ssh",
    "lateral-smb", "webshell-plain", "modbus-fake-command", "malformed",
))  # fmt: skip


@dataclass(frozen=True)
class Occasion:
    """What one actor did once: planned for `at` seconds after the recording's zero, and begun at `began`."""

    at: float
    began: float
    event: str = ""


@dataclass(frozen=True)
class Run:
    """One program or task, as logged."""

    began: float
    ended: float
    occasion: Occasion
    text: str  # with all names and addresses that it was told


@dataclass
class Tree:
    """Of every connection: its occasion, or the connection that caused it, or neither."""

    occasion: list[Occasion | None]
    parent: list[int]
    exact: int = 0  # known by their ends


@dataclass
class Log:
    """What launchers and clients wrote, by actor."""

    runs: dict[int, list[Run]] = field(default_factory=dict)
    opened: dict[tuple[str, str, int, str, int], list[tuple[float, Occasion]]] = field(default_factory=dict)
    asked: dict[tuple[int, str], list[tuple[float, float, Occasion]]] = field(default_factory=dict)
    of_entry: list[tuple[dict[str, Any], Occasion | None]] = field(default_factory=list)  # programs.jsonl
    of_opened: list[tuple[dict[str, Any], Occasion | None]] = field(default_factory=list)  # connections.jsonl


def entries(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of one of a recording's logs."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def zero(folder: Path, story: Mapping[str, Any]) -> float:
    """When the recording's story began, in seconds since 1970."""
    if "begin" in story:
        return float(story["begin"])
    return min(entry["began"] for entry in entries(folder / "programs.jsonl"))


def read(folder: Path, story: Mapping[str, Any], begin: float) -> Log:
    """Programs and tasks with their occasions."""
    family = {actor["gid"]: actor["family"] for actor in story["actors"]}
    found = list(entries(folder / "programs.jsonl"))
    made = _occasions(found, family, begin)
    log = Log(of_entry=list(zip(found, made, strict=True)))
    runs: dict[int, list[Run]] = defaultdict(list)
    numbered: dict[tuple[int, int], Occasion] = {}
    for entry, occasion in log.of_entry:
        if occasion is None or "ended" not in entry or "error" in entry:
            continue
        text = " ".join((*map(str, entry.get("argv", ())), *entry.get("to", ()))).lower()
        runs[entry["gid"]].append(Run(entry["began"], entry["ended"], occasion, text))
        if "occasion" in entry:
            numbered[entry["gid"], entry["occasion"]] = occasion
    log.runs = {gid: sorted(own, key=lambda run: run.began) for gid, own in runs.items()}
    opened, asked = defaultdict(list), defaultdict(list)
    for entry in entries(folder / "connections.jsonl"):
        gid, at = entry["gid"], float(entry["opened"])
        made_for = (
            numbered.get((gid, entry["occasion"]))
            if "occasion" in entry
            else _task_of(log.runs.get(gid, ()), at)
        )
        log.of_opened.append((entry, made_for))
        if made_for is not None:
            opened[(entry["proto"], *entry["orig"], *entry["resp"])].append((at, made_for))
            if "asked" in entry:
                asked[gid, str(entry["name"]).lower()].append((entry["asked"], at, made_for))
    log.opened, log.asked = dict(opened), dict(asked)  # type: ignore[arg-type]
    return log


def _task_of(runs: Sequence[Run], at: float) -> Occasion | None:
    """Of a client whose log does not number: the task begun last that was not yet over."""
    first = bisect_right(runs, at + NEAR, key=lambda run: run.began)
    for run in reversed(runs[max(0, first - 40) : first]):
        if at <= run.ended + NEAR and not run.text:
            return run.occasion
    return None


def _occasions(
    found: Sequence[Mapping[str, Any]], family: Mapping[int, str], begin: float
) -> list[Occasion | None]:
    """By number where the log has one; else like programs of an actor that begin soon after one another."""
    made: list[Occasion | None] = [None] * len(found)
    known: dict[tuple[Any, ...], Occasion] = {}
    last: dict[tuple[Any, ...], float] = {}
    for number in sorted(range(len(found)), key=lambda number: float(found[number]["began"])):
        entry = found[number]
        if entry["what"] == "person" or "gid" not in entry:
            continue
        began = float(entry["began"])
        if "occasion" in entry:
            key: tuple[Any, ...] = (entry["gid"], entry["occasion"])
            together = key in known
        else:
            key = (entry["gid"], entry["what"])
            kind = family.get(entry["gid"], "")
            together = key in known and kind not in PATIENT and (bool(kind) or began - last[key] < PART)
        if not together:
            at = float(entry.get("at", began - begin))
            known[key] = Occasion(at, began, entry.get("event", ""))
        last[key] = began
        made[number] = known[key]
    return made


class Assigner:
    """Finds each connection's occasion; what is asked and how is said at each step."""

    def __init__(
        self, flows: Sequence[Flow], reasons: Sequence[str], log: Log, story: Mapping[str, Any]
    ) -> None:
        self.flows, self.reasons, self.log = flows, reasons, log
        self.gid = {actor["name"]: actor["gid"] for actor in story["actors"]}
        self.resolvers = {host["address"] for host in story["hosts"] if "resolver" in host["services"]}
        self.names: dict[str, set[str]] = defaultdict(set)
        domain = story["scenario"]["domain"]
        for host in story["hosts"]:
            self.names[host["address"]] |= {host["address"], f"{host['name']}.{domain}"}
        for flow in flows:
            for address, name in flow.answers.items():
                self.names[address].add(name)
        self.actor = [
            self.gid.get(found[1], 0) if (found := _OPENED.match(reason)) else 0 for reason in reasons
        ]
        self.by_actor: dict[int, list[int]] = defaultdict(list)
        self.to: dict[str, list[int]] = defaultdict(list)
        self.by_key: dict[Key, list[int]] = defaultdict(list)
        self.questions: dict[str, list[int]] = defaultdict(list)
        for number, flow in enumerate(flows):
            self.by_actor[self.actor[number]].append(number)
            self.to[flow.key[3]].append(number)
            self.by_key[flow.key].append(number)
            if flow.key[1] not in self.resolvers:
                for question in flow.questions:
                    self.questions[question].append(number)

    def tree(self) -> Tree:
        """Every connection's occasion or cause."""
        found = Tree([None] * len(self.flows), [-1] * len(self.flows))
        for number in range(len(self.flows)):
            occasion = self._logged(number)
            found.exact += occasion is not None
            found.occasion[number] = occasion
        left = [number for number, occasion in enumerate(found.occasion) if occasion is None]
        for number in left:
            flow = self.flows[number]
            if flow.cause is not None:
                found.parent[number] = self._quoted(number)
            elif not self.actor[number]:
                found.parent[number] = self._client(number)
            elif not flow.questions:
                found.occasion[number] = self._running(number)
        for number in left:  # questions for what was found by then
            if self.flows[number].questions and self.actor[number]:
                ahead = self._asked_ahead(number, found.occasion)
                found.parent[number] = ahead
                found.occasion[number] = None if ahead >= 0 else self._running(number)
        return found

    def _logged(self, number: int) -> Occasion | None:
        """A connection that the actor's own client logged, or the question that it logged."""
        flow = self.flows[number]
        proto, *ends = flow.key
        found = self.log.opened.get((proto, *ends))  # type: ignore[arg-type]
        if found:
            waited, occasion = min((abs(at - flow.start), index) for index, (at, _) in enumerate(found))
            if waited < 3.0 + NEAR:
                return found[occasion][1]
        for question in flow.questions:
            for began, until, made in self.log.asked.get((self.actor[number], question), ()):
                if began - NEAR <= flow.start <= until + NEAR:
                    return made
        return None

    def _quoted(self, number: int) -> int:
        """The connection that an ICMP error is about."""
        flow = self.flows[number]
        proto, source, source_port, target, target_port = flow.cause or flow.key
        either = (
            *self.by_key.get((proto, source, source_port, target, target_port), ()),
            *self.by_key.get((proto, target, target_port, source, source_port), ()),
        )
        before = [other for other in either if self.flows[other].start <= flow.start and other != number]
        return max(before, default=-1)

    def _client(self, number: int) -> int:
        """Who made a server do something of its own: who asked the same of a resolver, or came to it last."""
        flow = self.flows[number]
        if flow.key[1] in self.resolvers and flow.questions:
            asked = [
                other for name in flow.questions for other in self.questions.get(name, ())
                if self.flows[other].start - 0.01 <= flow.start
            ]  # fmt: skip
            near = [other for other in asked if flow.start <= self.flows[other].last + PATIENCE]
            if asked:
                return max(near or asked, key=lambda other: self.flows[other].start)
        came = self.to.get(flow.key[1], [])
        place = bisect_left(came, number)
        for other in reversed(came[max(0, place - 60) : place]):
            if flow.start <= self.flows[other].last + WAKE:
                return other
        return -1

    def _asked_ahead(self, number: int, occasions: Sequence[Occasion | None]) -> int:
        """The connection of the same actor to an address that this question was answered with."""
        flow = self.flows[number]
        own = self.by_actor[self.actor[number]]
        for other in own[bisect_right(own, number) :][:200]:
            then = self.flows[other]
            if then.start > flow.last + LAGGING:
                return -1
            if then.key[3] in flow.answers and not then.questions and occasions[other] is not None:
                return other
        return -1

    def _running(self, number: int) -> Occasion | None:
        """A program of the actor that ran: best one that was told this destination, of those the one begun last."""
        flow = self.flows[number]
        runs = self.log.runs.get(self.actor[number], [])
        until = bisect_right(runs, flow.start + NEAR, key=lambda run: run.began)
        running = [run for run in runs[:until] if flow.start <= run.ended + 1.0]
        if not running:
            near = runs[max(0, until - 1) : until + 1]
            return min(near, key=lambda run: abs(run.began - flow.start)).occasion if near else None
        told = {*flow.questions, *self.names.get(flow.key[3], {flow.key[3]})}
        fitting = [run for run in running if any(name in run.text for name in told)]
        return (fitting or running)[-1].occasion
