"""A score against the budget: the verdict on a connection, as it crosses to Zeek and into cmdana.log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, overload

BENIGN: Final = "benign"
ANOMALOUS: Final = "anomalous"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One row of cmdana.log, in Zeek's names; only `service` may be unset."""

    ts: float  # of the connection, seconds since the epoch
    uid: str
    orig_h: str
    orig_p: int
    resp_h: str
    resp_p: int
    proto: str  # tcp, udp, icmp, unknown_transport
    service: str | None
    community_id: str
    stage: str  # early, final
    score: float  # 0..1, higher is odder
    p_value: float  # calibrated tail probability
    threshold: float  # on the score: at or above it the verdict is not benign
    verdict: str  # BENIGN, ANOMALOUS or the name of a known attack
    packet_reliance: float  # the four reliances are 0..1 and sum to 1
    connection_reliance: float
    log_reliance: float
    state_reliance: float
    modalities: tuple[str, ...]  # which of packet, connection, log were there
    reasons: tuple[str, ...]  # in words, most telling first; empty for benign
    model: str


@dataclass(frozen=True, slots=True)
class Verdicts(Sequence[Verdict]):
    """The verdicts of a block as columns, since most are only written down; one is made when it is asked for."""

    ts: Sequence[float]
    uid: Sequence[str]
    orig_h: Sequence[str]
    orig_p: Sequence[int]
    resp_h: Sequence[str]
    resp_p: Sequence[int]
    proto: Sequence[str]
    service: Sequence[str | None]
    community_id: Sequence[str]
    stage: Sequence[str]
    score: Sequence[float]
    p_value: Sequence[float]
    threshold: float
    verdict: Sequence[str]
    reliance: Sequence[Sequence[float]]  # [n][4] in the order of `Modality`
    modalities: Sequence[tuple[str, ...]]
    reasons: list[tuple[str, ...]]  # may be told better until the block is handed on
    model: str

    def __len__(self) -> int:
        return len(self.ts)

    @overload
    def __getitem__(self, i: int) -> Verdict: ...
    @overload
    def __getitem__(self, i: slice) -> list[Verdict]: ...
    def __getitem__(self, i: int | slice) -> Verdict | list[Verdict]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        packet, connection, log, state = self.reliance[i]
        return Verdict(
            self.ts[i], self.uid[i], self.orig_h[i], self.orig_p[i], self.resp_h[i], self.resp_p[i], self.proto[i],
            self.service[i], self.community_id[i], self.stage[i], self.score[i], self.p_value[i], self.threshold,
            self.verdict[i], packet, connection, log, state, self.modalities[i], self.reasons[i], self.model,
        )  # fmt: skip

    def __iter__(self) -> Iterator[Verdict]:
        return (self[i] for i in range(len(self)))


NO_VERDICTS: Final = Verdicts(
    (), (), (), (), (), (), (), (), (), (), (), (), threshold=0.0, verdict=(), reliance=(), modalities=(), reasons=[],
    model="",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Notice:
    """One row of notice.log as this project raises it (base/frameworks/notice/main.zeek, Notice::Info)."""

    ts: float
    note: str  # CMDANA::Anomalous_Connection and its kin, see NOTICE_TYPES
    msg: str
    sub: str
    identifier: str
    uid: str | None = None
    orig_h: str | None = None
    orig_p: int | None = None
    resp_h: str | None = None
    resp_p: int | None = None
    proto: str | None = None
    src: str | None = None
    dst: str | None = None
    p: int | None = None
    n: int | None = None
    community_id: str | None = None
    suppress_for: float = 3600.0  # seconds


ANOMALOUS_CONNECTION: Final = "CMDANA::Anomalous_Connection"
ANOMALOUS_HOST: Final = "CMDANA::Anomalous_Host"
KNOWN_ATTACK: Final = "CMDANA::Known_Attack"
TRAFFIC_DRIFT: Final = "CMDANA::Traffic_Drift"
DETECTOR_LOST: Final = "CMDANA::Detector_Lost"
NOTICE_TYPES: Final = (ANOMALOUS_CONNECTION, ANOMALOUS_HOST, KNOWN_ATTACK, TRAFFIC_DRIFT, DETECTOR_LOST)
