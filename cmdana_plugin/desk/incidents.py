"""Incidents as the notices of a folder tell them: one for each, as known by the latest notice, of bounded number."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cmdana_plugin.analyst import printable
from cmdana_plugin.decision import DETECTOR_BACK, DETECTOR_LOST, KNOWN_ATTACK, NOTICE_TYPES, TRAFFIC_DRIFT
from cmdana_plugin.logs import Field, find_logs, moments, number, p_value_in, read_notices, text, texts, title
from feature_extractors import RecordError
from feature_extractors.readers import PassedOver

MOST: Final = 20_000  # incidents held; past it the oldest quarter goes
_MOST_TIMES: Final = 200  # of an incident's notices
_MOST_WORDS: Final = 8  # reasons, hosts, services held of one
_MOST_HEALTH: Final = 200
_CHARACTERS: Final = 400  # of anything held
_ID_CHARACTERS: Final = 64
_HEALTH: Final = (TRAFFIC_DRIFT, DETECTOR_LOST, DETECTOR_BACK)


@dataclass(slots=True)
class Incident:
    """One incident; numbers and words are those of its latest notice."""

    id: str
    note: str  # without CMDANA::
    kind: str  # one of `decision.kinds.KINDS`, "" of older logs
    title: str
    role: str  # of `host`: originator or responder
    host: str
    first: float  # seconds since the epoch
    last: float
    connections: int
    odd: int
    actors: Sequence[str]  # hosts that do it, a few
    actor_count: int
    targets: Sequence[str]  # at the other end, a few
    peers: int
    services: Sequence[str]
    service_count: int
    technique: str
    refused: int
    sent: int  # bytes
    evidence: float | None  # -log10 of the share of normal hosts' hours that hold as much
    limit: float | None
    p_value: float | None  # of the connection that it was noticed by
    reasons: Sequence[str]
    latest: Sequence[str]
    uid: str  # of that connection
    community_id: str
    told: float  # time of that notice
    times: list[float] = field(default_factory=list)  # of all notices

    @property
    def known(self) -> bool:
        """Whether the model recognises it from labelled examples."""
        return self.note == KNOWN_ATTACK.removeprefix("CMDANA::")

    @property
    def day(self) -> str:
        """The date (UTC) on which it began."""
        return moments.shown(self.first, "%Y-%m-%d")


@dataclass(slots=True)
class Incidents:
    """Those of a folder's notices, and what they say of the detector itself."""

    of: dict[str, Incident] = field(default_factory=dict)
    days: Counter[str] = field(default_factory=Counter)  # date -> notices
    health: list[tuple[float, str, str]] = field(default_factory=list)  # time, type, words
    let_go: int = 0
    passed: PassedOver = field(default_factory=PassedOver)

    def receive(self, row: Mapping[str, Field]) -> Incident | None:
        """Takes in a completed row of notice.log; the incident that it tells of, None where it tells of none."""
        note, ts = text(row, "note"), number(row, "ts", -1.0)
        if note not in NOTICE_TYPES or not 0.0 <= ts <= moments.LATEST:
            return None
        if note in _HEALTH:
            if len(self.health) < _MOST_HEALTH:
                words = f"{text(row, 'msg')} {text(row, 'sub')}".strip()[:_CHARACTERS]
                self.health.append((ts, note.removeprefix("CMDANA::"), words))
            return None
        told = _incident(row, ts, note.removeprefix("CMDANA::"))
        day = moments.shown(ts, "%Y-%m-%d")
        if day in self.days or len(self.days) < MOST:
            self.days[day] += 1
        known = self.of.get(told.id)
        if known is not None:
            told.times = sorted([*known.times, ts])[-_MOST_TIMES:]
            if known.told > ts:
                known.times = told.times
                return known
            told.connections = max(told.connections, known.connections)
        self.of[told.id] = told
        if len(self.of) > MOST:
            oldest = sorted(self.of.values(), key=lambda i: i.told)[: MOST // 4]
            for i in oldest:
                del self.of[i.id]
            self.let_go += len(oldest)
        return told


def read_incidents(paths: Sequence[Path]) -> Incidents:
    """The incidents of the notice logs named, or found in the folders named; none where there is no such log."""
    found = Incidents()
    for file in find_logs(paths, "notice"):
        for row in read_notices(file, found.passed):
            found.receive(row)
    return found


def require_logs(folder: Path) -> None:
    """Raises `RecordError` where a folder has neither a notice.log nor a cmdana.log: no queue can be told of it."""
    if not find_logs([folder], "notice") and not find_logs([folder], "cmdana"):
        raise RecordError(f"{folder}: no notice.log there; `cmdana replay` or Zeek writes one")


def one(incidents: Mapping[str, Incident], mark: str) -> Incident:
    """The incident of this id, or of the only one that begins so. Raises `RecordError` for none, or for several."""
    if mark in incidents:
        return incidents[mark]
    found = [i for name, i in incidents.items() if mark and name.startswith(mark)]
    if len(found) == 1:
        return found[0]
    what = f"{len(found):,} incidents begin so" if found else "no incident has this id"
    raise RecordError(f"{printable(mark, 64)}: {what}; `cmdana incidents --state all` lists them")


def _incident(row: Mapping[str, Field], ts: float, note: str) -> Incident:
    host = text(row, "cmdana.host") or text(row, "src") or text(row, "dst")
    mark = text(row, "cmdana.incident")[:_ID_CHARACTERS]
    if not mark:  # of a version without: the same type about the same ends
        about = "|".join(text(row, name) for name in ("note", "cmdana.host", "src", "dst", "p", "proto"))
        mark = hashlib.blake2s(about.encode("utf-8", "replace"), digest_size=6).hexdigest()
    targets = _few(row, "cmdana.targets") or [t for t in (text(row, "dst")[:64],) if t]
    services = _few(row, "cmdana.services")
    first, last = number(row, "cmdana.first_seen", ts), number(row, "cmdana.last_seen", ts)
    if not 0.0 <= first <= last <= moments.LATEST:
        first = last = ts
    return Incident(
        id=mark,
        note=note,
        kind=text(row, "cmdana.kind")[:40],
        title=title(row)[:_CHARACTERS],
        role="responder" if text(row, "cmdana.role") == "responder" else "originator",
        host=host[:64],
        first=first,
        last=last,
        connections=_whole(row, "cmdana.connections", max(_whole(row, "n", 1), 1)),
        odd=_whole(row, "cmdana.odd", 1),
        actors=_few(row, "cmdana.actors") or [host[:64]],
        actor_count=max(_whole(row, "cmdana.actor_count", 1), 1),
        targets=targets,
        peers=max(_whole(row, "cmdana.peers", len(targets)), len(targets)),
        services=services,
        service_count=max(_whole(row, "cmdana.service_count", len(services)), len(services)),
        technique=text(row, "cmdana.technique")[:40],
        refused=_whole(row, "cmdana.refused", 0),
        sent=_whole(row, "cmdana.sent", 0),
        evidence=_positive(row, "cmdana.evidence"),
        limit=_positive(row, "cmdana.limit"),
        p_value=_p_value(row),
        reasons=_few(row, "cmdana.reasons", _CHARACTERS),
        latest=_few(row, "cmdana.latest_reasons", _CHARACTERS),
        uid=text(row, "uid")[:_ID_CHARACTERS],
        community_id=text(row, "community_id")[:_ID_CHARACTERS],
        told=ts,
        times=[ts],
    )


def _p_value(row: Mapping[str, Field]) -> float | None:
    renamed = {name.removeprefix("cmdana."): value for name, value in row.items()}
    p = p_value_in(renamed, -1.0)
    return p if 0.0 <= p <= 1.0 else None


def _few(row: Mapping[str, Field], name: str, characters: int = 64) -> list[str]:
    return [word[:characters] for word in texts(row, name)[:_MOST_WORDS]]


def _whole(row: Mapping[str, Field], name: str, default: int) -> int:
    return int(min(max(number(row, name, float(default)), 0.0), 2.0**62))


def _positive(row: Mapping[str, Field], name: str) -> float | None:
    value = number(row, name, -1.0)
    return value if 0.0 <= value < 1e6 else None
