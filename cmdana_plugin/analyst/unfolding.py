"""How an incident unfolded: its connections in order of time, as the rows of cmdana.log that bear its name tell it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

from cmdana_plugin.logs import Field, number, text

MOST: Final = 4000  # connections of an incident that are held
_MOST_INCIDENTS: Final = 200
_BINS: Final = 12  # of the table


class Point(NamedTuple):
    """One connection."""

    ts: float  # its start, seconds since the epoch
    uid: str
    evidence: float  # -log10 p
    target: str
    port: str


class Step(NamedTuple):
    """Connections of a stretch of the incident's time, taken together."""

    begin: float
    connections: int
    evidence: float  # of the oddest
    targets: int  # so far, as are ports
    ports: int
    size: float  # bytes, NaN where no log says


@dataclass(slots=True)
class Unfolding:
    """One incident's connections."""

    points: list[Point] = field(default_factory=list)
    dropped: int = 0
    sizes: dict[str, float] = field(default_factory=dict)  # bytes both ways, by uid

    def add(self, row: Mapping[str, Field]) -> None:
        """Takes in a row of cmdana.log."""
        if len(self.points) >= MOST:
            self.dropped += 1
            return
        p = number(row, "p_value", 1.0)
        evidence = min(-math.log10(p), 12.0) if 0.0 < p <= 1.0 else 0.0
        port = f"{int(number(row, 'id.resp_p'))}/{text(row, 'proto')}"
        self.points.append(
            Point(number(row, "ts"), text(row, "uid")[:64], evidence, text(row, "id.resp_h")[:64], port[:32])
        )

    def ordered(self) -> list[Point]:
        return sorted(self.points)

    def gaps(self) -> list[tuple[float, float]]:
        """Start of each connection but the first, and the seconds since the one before."""
        return [(b.ts, b.ts - a.ts) for a, b in pairwise(self.ordered())]

    def reached(self) -> list[tuple[float, int, int]]:
        """At each connection, how many hosts and how many ports have been tried by then."""
        hosts: set[str] = set()
        ports: set[str] = set()
        out = []
        for p in self.ordered():
            hosts.add(p.target)
            ports.add(p.port)
            out.append((p.ts, len(hosts), len(ports)))
        return out

    def span(self) -> tuple[float, float]:
        times = [p.ts for p in self.points]
        return min(times), max(*times, min(times) + 1.0)

    def steps(self) -> Sequence[Step]:
        """The incident in at most a dozen steps of equal length, those without a connection left out."""
        if not self.points:
            return ()
        begin, end = self.span()
        width = (end - begin) / _BINS * (1.0 + 1e-9)
        held: dict[int, list[Point]] = {}
        for p in self.ordered():
            held.setdefault(int((p.ts - begin) / width), []).append(p)
        hosts: set[str] = set()
        ports: set[str] = set()
        out = []
        for k, points in sorted(held.items()):
            hosts.update(p.target for p in points)
            ports.update(p.port for p in points)
            known = [self.sizes[p.uid] for p in points if p.uid in self.sizes]
            size = sum(known) if known else math.nan
            most = max(p.evidence for p in points)
            out.append(Step(begin + k * width, len(points), most, len(hosts), len(ports), size))
        return out


class Unfoldings:
    """Those of a folder's logs, by incident; no more than can be shown."""

    def __init__(self) -> None:
        self.of: dict[str, Unfolding] = {}

    def verdict(self, row: Mapping[str, Field]) -> None:
        """Takes in a row of cmdana.log; one before a connection's end is left, the end will come."""
        incident = text(row, "incident")[:64]
        if not incident or row.get("stage") == "early":
            return
        if incident not in self.of and len(self.of) >= _MOST_INCIDENTS:
            return
        self.of.setdefault(incident, Unfolding()).add(row)

    def wanted(self) -> dict[str, Unfolding]:
        """By uid, of what conn.log is to tell the size."""
        return {p.uid: unfolding for unfolding in self.of.values() for p in unfolding.points}
