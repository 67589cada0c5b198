"""What is raised for people to see, as data: `logs.notices` words it where a log or a terminal is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from cmdana_plugin.decision.verdict import Verdict

ANOMALOUS_CONNECTION: Final = "CMDANA::Anomalous_Connection"
ANOMALOUS_HOST: Final = "CMDANA::Anomalous_Host"
KNOWN_ATTACK: Final = "CMDANA::Known_Attack"
TRAFFIC_DRIFT: Final = "CMDANA::Traffic_Drift"
DETECTOR_LOST: Final = "CMDANA::Detector_Lost"
DETECTOR_BACK: Final = "CMDANA::Detector_Back"
NOTICE_TYPES: Final = (
    ANOMALOUS_CONNECTION, ANOMALOUS_HOST, KNOWN_ATTACK, TRAFFIC_DRIFT, DETECTOR_LOST, DETECTOR_BACK,
)  # fmt: skip

MAX_COUNTED: Final = 4096  # peers, and services, of an incident: so many or more are not told apart

Role = Literal["originator", "responder"]


@dataclass(frozen=True, slots=True)
class HostIncident:
    """What one host, or several that do the same, have done that is worth an alarm, as known so far."""

    id: str  # the same in each of its notices, and in the rows of its connections
    role: Role  # of the host in all of them
    host: str  # the first
    kind: str  # one of `kinds.KINDS`
    headline: str  # what the host does, in words
    technique: str  # of MITRE ATT&CK, such as T1110; "" where none fits
    first_seen: float  # network time, seconds since the epoch
    last_seen: float
    connections: int
    odd: int  # of which by themselves less usual than one in ten
    hosts: tuple[str, ...]  # that do it, the first of them first, a few
    host_count: int
    targets: tuple[str, ...]  # hosts at the other end, those of most connections first, a few
    peers: int  # how many there are, `MAX_COUNTED` at most
    services: tuple[str, ...]  # or ports such as 22/tcp, most frequent first, the top few
    service_count: int  # `MAX_COUNTED` at most
    refused: int  # times that what was asked for was refused
    sent: int  # bytes of the originators
    evidence: float  # -log10 of the share of normal hosts' hours that hold as much
    limit: float  # of that, where an alarm begins
    why: tuple[str, ...]  # the strongest pieces of evidence in words
    uids: tuple[str, ...]  # of the connections that brought most evidence, a few
    news: bool = (
        False  # the notice is of something that the host does beside what was told; `uids` are of that
    )


@dataclass(frozen=True, slots=True)
class TrafficDrift:
    """One kind of traffic in which p-values have for whole windows not been what the calibration promised."""

    traffic: str  # a service, or a port such as 22/tcp
    tail: float  # the p-value at or below which too many connections are; as a share, how many were promised
    share: float  # of the connections that are
    connections: int  # of the latest window
    hosts: int  # that opened them
    window: float  # seconds
    windows: int  # in a row
    components: tuple[
        tuple[str, float], ...
    ]  # of the score, with the share of connections in which each is odd
    becomes: float | None = (
        None  # what `tail` counts as since it was calibrated on the stream; None: it was not
    )


@dataclass(frozen=True, slots=True)
class Notice:
    """One notice for Zeek's framework: the connection that it was raised by, or the drift, and the incident if any."""

    ts: float  # network time, seconds since the epoch
    note: str  # one of `NOTICE_TYPES`
    identifier: str  # what the same notice has again
    verdict: Verdict | None = None  # on the connection
    explained: bool = False  # whether the verdict's reasons were found field by field
    incident: HostIncident | None = None
    drift: TrafficDrift | None = None
    suppress_for: float = 3600.0  # seconds in which the same notice is not repeated

    def with_reasons(self, reasons: Sequence[str]) -> Notice:
        """The notice with what was found out, field by field, about its connection."""
        verdict = self.verdict and self.verdict._replace(reasons=tuple(reasons))
        return replace(self, verdict=verdict, explained=True)
