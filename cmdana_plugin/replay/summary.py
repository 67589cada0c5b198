"""The result of a replay in numbers, whichever engine analyses the capture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from feature_extractors import Modality, Stage

if TYPE_CHECKING:
    from cmdana_plugin.decision import HostIncident, Judge, Judged, Notice

_FINAL = Stage.FINAL.name.lower()
_NEAREST: Final = 3  # hosts named that came near to an alarm
_SHORT: Final = 3600.0  # seconds of traffic, in which nothing that takes its time is seen
_FEW: Final = 0.05  # share of connections


@dataclass(slots=True)
class Summary:
    """What a replay saw and did; every field a plain number so that it prints and travels as JSON."""

    captures: list[str]
    frames: int = 0
    bytes: int = 0
    connections: int = 0
    first: float = 0.0  # network time of the first connection
    last: float = 0.0
    verdicts: Counter[str] = field(default_factory=Counter)
    notices: list[Notice] = field(default_factory=list)
    suppressed: int = 0
    allowed: int = 0
    forgotten: int = 0  # hosts whose evidence was let go
    undecoded: Counter[str] = field(default_factory=Counter)
    model: str = ""
    threshold: float = 0.0
    incidents: list[HostIncident] = field(default_factory=list)  # as known at the end
    nearest: Sequence[tuple[float, str]] = ()  # evidence and host, just below an alarm
    limit: float = 0.0  # of evidence, where an alarm begins
    unseen: list[str] = field(default_factory=list)  # what cannot be seen in this material, in words
    packets: int = 0  # connections with packets
    entries: int = 0  # and with log entries
    answered: int = 0
    logs: list[str] = field(default_factory=list)  # paths of those that the embedded engine has written

    def receive(self, judged: Judged) -> None:
        """Adds a block: its final verdicts and all its notices."""
        c = judged.windows.connections
        final = c.stage == Stage.FINAL
        if final.any():
            self.connections += int(final.sum())
            first = float(c.ts[final].min())
            self.first = min(self.first or first, first)
            self.last = max(self.last, float(c.end[final].max()))
            self.packets += int(judged.windows.modalities[final, Modality.PACKET].sum())
            self.entries += int(judged.windows.modalities[final, Modality.LOG].sum())
            self.answered += int((c.resp_pkts[final] > 0).sum())
        for (stage, word), n in judged.counts.items():
            if stage == _FINAL:
                self.verdicts[word] += n
        self.notices += judged.notices

    def finish(self, judge: Judge) -> None:
        """Takes over from the judge what is known at the end only: model, threshold and the decider's counts."""
        self.suppressed = judge.decider.suppressed
        self.allowed = judge.decider.allowed
        self.forgotten = judge.decider.forgotten
        self.model = judge.detector.name
        self.threshold = judge.decider.threshold
        self.incidents = judge.decider.incidents()
        self.nearest = judge.decider.nearest()[:_NEAREST]
        self.limit = judge.decider.evidence.limit
        self.unseen = list(self._unseen())

    def _unseen(self) -> Iterator[str]:
        n = self.connections
        if not n:
            yield "anything: it holds no connection"
            return
        if self.last - self.first < _SHORT:
            yield "what takes an hour or more (beacons, slow scans), and what is usual of a host: it is too short"
        if self.entries < _FEW * n:
            yield "names, logins and requests: hardly a connection has entries in application logs"
        if self.packets < _FEW * n:
            yield "sizes and times of packets: there are logs only"
        if self.answered < _FEW * n:
            yield "answers: it holds one direction only"
