"""How much ordinary use there is in recordings of a site, in the measures that real networks were published with."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.lab import flows
from benchmarks.lab.flows import Flow
from benchmarks.lab.scenario import LabError

SOON = 2.0  # seconds between an answer and the connection that it was for


@dataclass(frozen=True)
class Rates:
    """Of ordinary connections only, those that a host inside opened for itself; shares between 0 and 1.

    What a resolver asks for others is not counted. `looked_up`: of TCP connections, those within two seconds after the
    host's question for a name that has this address.

    `new_peers`, `new_names`: of the addresses (the names) that a host spoke to (asked for) on a day, how many it never
    did on the days before; `new_to_site`: of the names, how many nobody asked for before. None of a single day.
    """

    connections: int
    per_host_hour: float
    failed_tcp: float
    failed: float
    dns: float
    looked_up: float
    inside: float
    fan_out: tuple[float, float, float]
    new_peers: float | None
    new_names: float | None
    new_to_site: float | None

    def __str__(self) -> str:
        def share(value: float | None) -> str:
            return "one day only" if value is None else f"{value:.3f}"

        fan_out = ", ".join(f"{value:.0f}" for value in self.fan_out)
        return "\n".join((
            f"ordinary connections                            {self.connections}",
            f"per host and hour (mean over active hours)      {self.per_host_hour:.1f}",
            f"failed, of TCP                                  {self.failed_tcp:.3f}",
            f"failed or unanswered, of all                    {self.failed:.3f}",
            f"DNS, of all                                     {self.dns:.3f}",
            f"after a question for the name, of TCP           {self.looked_up:.3f}",
            f"within the site, of all                         {self.inside:.3f}",
            f"peers per host and hour (median, 95 %, most)    {fan_out}",
            f"new peers, of a host's on a day                 {share(self.new_peers)}",
            f"new names, of a host's on a day                 {share(self.new_names)}",
            f"new to the site, of names on a day              {share(self.new_to_site)}",
        ))  # fmt: skip


def measure(folders: Sequence[Path]) -> Rates:
    """Of recordings of one site in the order of their days, as recorded or unsqueezed."""
    days = [list(_ordinary(folder)) for folder in folders]
    every = [flow for day in days for flow, _, _ in day]
    if not every:
        raise LabError(f"{folders[0]}: no ordinary connection that a host inside opened")
    tcp = [flow for flow in every if flow.key[0] == "tcp"]
    busy: dict[tuple[int, str, int], set[str]] = defaultdict(set)
    counts: dict[tuple[int, str, int], int] = defaultdict(int)
    for number, day in enumerate(days):
        for flow, hour, _ in day:
            busy[number, flow.key[1], hour].add(flow.key[3])
            counts[number, flow.key[1], hour] += 1
    peers = np.array([len(found) for found in busy.values()])
    low, high = np.percentile(peers, (50, 95))
    inside = sum(is_inside for day in days for _, _, is_inside in day)
    return Rates(
        len(every), len(every) / len(counts), sum(map(_failed, tcp)) / max(1, len(tcp)),
        sum(map(_failed, every)) / len(every), sum(flow.key[4] == 53 for flow in every) / len(every),
        _looked_up(days) / max(1, len(tcp)), inside / len(every), (float(low), float(high), float(peers.max())),
        _new([_peers(day) for day in days]), _new([_names(day) for day in days]),
        _new([{("", name) for _, name in _names(day)} for day in days]),
    )  # fmt: skip


def _ordinary(folder: Path) -> Iterator[tuple[Flow, int, bool]]:
    """Connections of ordinary use that a host inside opened, the hour of the day, whether they stay inside."""
    story = json.loads((folder / "story.json").read_text(encoding="utf-8"))
    captures = sorted(folder.glob("*.pcap*"))
    if not captures:
        raise LabError(f"{folder}: expected a recording, found no capture")
    hours = story["scenario"]["timetable"]["hours"]
    factor = 1.0 if "unsqueezed" in story or not hours else hours * 3600.0 / story["seconds"]
    home = {host["address"] for host in story["hosts"] if host["inside"]}
    asking = home - {host["address"] for host in story["hosts"] if "resolver" in host["services"]}
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        columns = ("ts", "proto", "orig_h", "orig_p", "resp_h", "resp_p")
        benign = {tuple(row[c] for c in columns) for row in csv.DictReader(file) if row["label"] == "benign"}
    start = None
    for flow in flows.read(captures[0]):
        start = flow.start if start is None else start
        if (
            flow.key[1] in asking
            and flow.cause is None
            and (f"{flow.start:.6f}", *map(str, flow.key)) in benign
        ):
            yield flow, int((flow.start - start) * factor // 3600), flow.key[3] in home


def _failed(flow: Flow) -> bool:
    """Refused or unanswered; of TCP also reset before it was open."""
    if flow.key[0] == "tcp":
        return not flow.flags[1] & 2
    return not flow.packets[1]


def _looked_up(days: Sequence[Sequence[tuple[Flow, int, bool]]]) -> int:
    """TCP connections that follow a question for their address's name."""
    count = 0
    for day in days:
        told: dict[tuple[str, str], float] = {}
        for flow, _, _ in day:
            for address in flow.answers:
                told[flow.key[1], address] = flow.last
            if flow.key[0] == "tcp":
                count += 0.0 <= flow.start - told.get((flow.key[1], flow.key[3]), -1e9) <= SOON
    return count


def _peers(day: Sequence[tuple[Flow, int, bool]]) -> set[tuple[str, str]]:
    return {(flow.key[1], flow.key[3]) for flow, _, _ in day}


def _names(day: Sequence[tuple[Flow, int, bool]]) -> set[tuple[str, str]]:
    return {(flow.key[1], name) for flow, _, is_inside in day if is_inside for name in flow.questions}


def _new(days: Sequence[set[tuple[str, str]]]) -> float | None:
    """Over all days but the first: what was not there before, of what was there on the day."""
    known, shares = set[tuple[str, str]](), []
    for number, day in enumerate(days):
        if number and day:
            shares.append(len(day - known) / len(day))
        known |= day
    return float(np.mean(shares)) if shares else None
