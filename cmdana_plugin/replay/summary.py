"""The result of a replay in numbers, whichever engine analyses the capture."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from feature_extractors import Stage

if TYPE_CHECKING:
    from cmdana_plugin.decision import Judge, Judged, Notice

_FINAL = Stage.FINAL.name.lower()


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
