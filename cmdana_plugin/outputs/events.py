"""A row of notice.log or cmdana.log as one event, cleaned and bounded, from which every format is made."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from cmdana_plugin.analyst import printable
from cmdana_plugin.decision import ANOMALOUS_CONNECTION, ANOMALOUS_HOST, DETECTOR_LOST, KNOWN_ATTACK
from cmdana_plugin.logs import NOTICE, Field, number, p_value_in, text, texts

Severity = Literal["info", "low", "medium", "high"]

_MOST_TEXT: Final = 400  # characters of one text from the network
_MOST_LISTED: Final = 16  # elements of one list
_LARGEST: Final = 2**53 - 1  # what every reader of JSON holds exactly
_LATEST: Final = 253402300799.0  # seconds since the epoch: the year 9999
_KINDS: Final = {n.removeprefix("cmdana."): kind for n, kind in NOTICE.fields if n.startswith("cmdana.")}
_GRAVE: Final = frozenset({"password guessing", "lateral movement", "exfiltration", "known attack"})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of a connection; the port is None where there is none, as for an incident's hosts."""

    ip: str
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One notice, or one verdict that is not benign. Unset is "", None or ().

    Every text is printable and at most 400 characters, every address is one, every number finite and at most 2^53.
    """

    id: str  # the same for the same row, whoever exports it and whenever
    stream: Literal["notice", "verdict"]
    ts: float  # seconds since the epoch, 0 to the year 9999
    severity: Severity
    name: str  # Anomalous_Host and so on; of a verdict, its word
    title: str  # the sentence to show
    reasons: tuple[str, ...]
    uid: str
    source: Endpoint | None
    destination: Endpoint | None
    proto: str
    service: str
    community_id: str
    incident: str  # "" where it is about one connection, or about none
    kind: str
    technique: str
    first_seen: float
    last_seen: float
    connections: int | None
    sent: int | None
    actors: tuple[str, ...]  # addresses
    targets: tuple[str, ...]
    score: float | None  # of the connection, 0..1
    facts: Mapping[str, str | float | tuple[str, ...]]  # our own columns, by their names without `cmdana.`

    @property
    def subject(self) -> str:
        """What this and others are about together: the incident, or the event alone."""
        return self.incident or self.id

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses that it names, each once."""
        ends = tuple(e.ip for e in (self.source, self.destination) if e)
        return tuple(dict.fromkeys((*self.actors, *self.targets, *ends)))


def of_notice(row: Mapping[str, Field]) -> Event:
    """The event of a notice of cmdana with the columns of the present version."""
    note = _clean(text(row, "note"))
    own = {n.removeprefix("cmdana."): v for n, v in row.items() if n.startswith("cmdana.")}
    services = [_clean(s) for s in texts(row, "cmdana.services")]
    ts = _time(number(row, "ts"))
    first = _time(number(row, "cmdana.first_seen", ts))
    return Event(
        id=_digest("notice", row, ("ts", "note", "uid", "cmdana.incident", "msg")),
        stream="notice",
        ts=ts,
        severity=_severity(note, row),
        name=note.removeprefix("CMDANA::"),
        title=_clean(text(row, "msg")),
        reasons=tuple(_clean(r) for r in texts(row, "cmdana.reasons")[:_MOST_LISTED]),
        uid=_clean(text(row, "uid")),
        source=_end(row, "id.orig_h", "id.orig_p") or _end(row, "src", ""),
        destination=_end(row, "id.resp_h", "id.resp_p") or _end(row, "dst", "p"),
        proto=_clean(text(row, "proto")),
        service=services[0] if len(services) == 1 and "/" not in services[0] else "",
        community_id=_clean(text(row, "community_id")),
        incident=_clean(text(row, "cmdana.incident")),
        kind=_clean(text(row, "cmdana.kind")),
        technique=_clean(text(row, "cmdana.technique")),
        first_seen=first,
        last_seen=max(first, _time(number(row, "cmdana.last_seen", ts))),
        connections=_count(row, "cmdana.connections"),
        sent=_count(row, "cmdana.sent"),
        actors=_addresses(row, "cmdana.actors"),
        targets=_addresses(row, "cmdana.targets"),
        score=_share(row, "cmdana.score"),
        facts=_facts(own),
    )


def of_verdict(row: Mapping[str, Field]) -> Event:
    """The event of a row of cmdana.log."""
    ts = _time(number(row, "ts"))
    source, destination = _end(row, "id.orig_h", "id.orig_p"), _end(row, "id.resp_h", "id.resp_p")
    service = _clean(text(row, "service"))
    word = _clean(text(row, "verdict"))
    ends = " -> ".join(e.ip if e else "?" for e in (source, destination))
    own = {n: v for n, v in row.items() if n in _OF_VERDICT} | {"p_value": p_value_in(row)}
    return Event(
        id=_digest("cmdana", row, ("ts", "uid", "stage", "score", "incident")),
        stream="verdict",
        ts=ts,
        severity="low",
        name=word,
        title=f"{ends} {service or _clean(text(row, 'proto'))}: {word}",
        reasons=tuple(_clean(r) for r in texts(row, "reasons")[:_MOST_LISTED]),
        uid=_clean(text(row, "uid")),
        source=source,
        destination=destination,
        proto=_clean(text(row, "proto")),
        service=service,
        community_id=_clean(text(row, "community_id")),
        incident=_clean(text(row, "incident")),
        kind="",
        technique="",
        first_seen=ts,
        last_seen=ts,
        connections=None,
        sent=None,
        actors=(),
        targets=(),
        score=_share(row, "score"),
        facts=_facts(own),
    )


_OF_VERDICT: Final = frozenset({
    "stage", "score", "threshold", "verdict", "packet_reliance", "connection_reliance", "log_reliance",
    "state_reliance", "modalities", "model",
})  # fmt: skip


def _severity(note: str, row: Mapping[str, Field]) -> Severity:
    if note == KNOWN_ATTACK:
        return "high"
    if note == ANOMALOUS_HOST:
        above = number(row, "cmdana.evidence") - number(row, "cmdana.limit")
        return "high" if text(row, "cmdana.kind") in _GRAVE or above >= 2.0 else "medium"
    if note == DETECTOR_LOST:
        return "medium"
    return "low" if note == ANOMALOUS_CONNECTION else "info"


def _digest(stream: str, row: Mapping[str, Field], fields: tuple[str, ...]) -> str:
    words = "\x1f".join((stream, *(repr(row.get(f)) for f in fields)))
    return hashlib.sha256(words.encode("utf-8", "backslashreplace")).hexdigest()[:32]


def _clean(words: str) -> str:
    return printable(words, _MOST_TEXT)


def _time(ts: float) -> float:
    return min(max(ts, 0.0), _LATEST)


def _count(row: Mapping[str, Field], field: str) -> int | None:
    return None if row.get(field) is None else int(min(max(number(row, field), 0.0), _LARGEST))


def _share(row: Mapping[str, Field], field: str) -> float | None:
    return None if row.get(field) is None else min(max(number(row, field), 0.0), 1.0)


def _address(words: str) -> str:
    """The address in its usual form, "" for what is none."""
    try:
        return str(ipaddress.ip_address(words.partition("%")[0]))
    except ValueError:
        return ""


def _addresses(row: Mapping[str, Field], field: str) -> tuple[str, ...]:
    return tuple(a for t in texts(row, field)[:_MOST_LISTED] if (a := _address(t)))


def _end(row: Mapping[str, Field], host: str, port: str) -> Endpoint | None:
    address = _address(text(row, host))
    found = _count(row, port) if port else None
    return Endpoint(address, found if found is not None and found < 65536 else None) if address else None


def _facts(own: Mapping[str, Field]) -> dict[str, str | float | tuple[str, ...]]:
    kept: dict[str, str | float | tuple[str, ...]] = {}
    for name, value in own.items():
        if _KINDS.get(name) == "time":
            continue  # they stand in fields of every format
        if isinstance(value, list):
            kept[name] = tuple(_clean(str(v)) for v in value[:_MOST_LISTED])
        elif isinstance(value, bool | str):
            kept[name] = _clean(str(value))
        elif isinstance(value, int | float):
            bounded = min(max(number(own, name), -_LARGEST), _LARGEST)
            kept[name] = int(bounded) if _KINDS.get(name) == "count" else bounded
    return kept
