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

MAX_COUNTED: Final = 256  # peers, and services, of an incident: so many or more are not told apart

Role = Literal["originator", "responder"]


@dataclass(frozen=True, slots=True)
class HostIncident:
    """The odd connections of one host in one role, taken together."""

    role: Role  # of the host in all of them
    host: str
    odd: int  # connections at or above the threshold since evidence began
    peers: int  # hosts at the other end, `MAX_COUNTED` at most
    services: tuple[str, ...]  # or ports such as 22/tcp, most frequent first, the top few
    service_count: int  # `MAX_COUNTED` at most
    evidence: float  # decades: the decayed sum of -log10(p) less the allowance
    components: tuple[str, ...]  # of the score, those that most often were the oddest of a connection first


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
