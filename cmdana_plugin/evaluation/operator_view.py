"""What an operator would have been told: notices counted against the truth, per family, per day and per connection.

The decisions are the product's own (`decision.incidents.Decider` behind `Judge`); only the scores may be anybody's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.config import Config
from cmdana_plugin.decision import Judge, Notice, threshold
from cmdana_plugin.detector import Scores, score_of
from cmdana_plugin.training import Recording
from feature_extractors.features import Encoded, take_encoded

_BLOCK: Final = 4096
_MAX_SILENCE_SECONDS: Final = 600.0  # seconds: some captures are pieced together
_EVIDENCE_SECONDS: Final = 3600.0  # seconds that a host's notice may rest on: the half-life of evidence


class PrecomputedScores:
    """A `Detector` whose scores are known already; it has no words to explain them with."""

    name = "precomputed"
    schema_digest = ""

    def __init__(self, scores: Scores) -> None:
        self._scores = scores
        self._at = 0

    def receive(self, windows: Encoded) -> Scores:
        rows = np.arange(self._at, self._at + len(windows))
        self._at += len(windows)
        return _taken(self._scores, rows)

    def explain(self, windows: Encoded, scores: Scores, rows: NDArray[np.int64]) -> list[list[str]]:
        return [[] for _ in rows]


def scores_of(p_value: NDArray[np.float64]) -> Scores:
    """p-values as a detector's whole answer."""
    n = len(p_value)
    return Scores(score_of(p_value), p_value, {}, np.tile([0.0, 1.0, 0.0, 0.0], (n, 1)), [""] * n)


def _taken(s: Scores, rows: NDArray[np.int64]) -> Scores:
    parts = {k: v[rows] for k, v in s.components.items()}
    return Scores(
        s.score[rows], s.p_value[rows], parts, s.reliance[rows], [s.attack[i] for i in rows.tolist()]
    )


@dataclass(slots=True)
class Counted:
    """Notices over some recordings against their truth."""

    notices: int = 0
    false: int = 0  # rest on benign connections only
    unlabelled: int = 0  # rest on nothing known to be malicious, and on something unknown
    benign: int = 0  # connections
    flagged: int = 0  # of these, odd by verdict
    seconds: float = 0.0  # recorded; a longer silence than _MAX_SILENCE_SECONDS counts as that
    incidents: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))  # family -> found?
    delay: dict[str, list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )  # seconds, of those found
    within: dict[str, list[int]] = field(
        default_factory=lambda: defaultdict(list)
    )  # connections, of those found

    def add(
        self,
        recording: Recording,
        windows: Encoded,
        scores: Scores,
        config: Config,
        keep: NDArray[np.bool_] | None = None,
    ) -> None:
        """Count one recording by its windows and their scores; `keep` [n] leaves out rows (a past that only teaches).

        An incident is one family in one recording. Its delay runs from its first packet to the end of the connection
        at which the first notice that rests on it is raised, and counts its connections up to and with that one.
        """
        rows = np.arange(len(windows)) if keep is None else np.flatnonzero(keep)
        whole = len(windows)
        windows, scores = take_encoded(windows, rows), _taken(scores, rows)
        n = len(windows)
        if n == 0:
            return
        label = np.zeros(n, np.int8) if recording.label is None else recording.label[rows]
        family = np.array(recording.family or [""] * whole, dtype=object)[rows]
        c = windows.connections
        row_of = {uid.decode(): i for i, uid in enumerate(c.uid.tolist())}
        odd = scores.score >= threshold(config.verdict)
        first_notice: dict[str, int] = {}
        told: set[str] = set()
        for notice in notices_of(windows, scores, config):
            if notice.verdict is None:  # drift: about no connection in particular
                continue
            row = row_of[notice.verdict.uid]
            rests = notice.incident.uids if notice.incident else (notice.verdict.uid,)
            basis = np.array([row_of[uid] for uid in rests if uid in row_of], np.int64)
            self.notices += 1
            again = notice.identifier in told  # of an incident that has grown
            told.add(notice.identifier)
            truth = set(label[basis].tolist())
            if 1 in truth:
                for f in set(family[basis[label[basis] == 1]]):
                    first_notice.setdefault(str(f), row)
            elif truth == {0}:
                self.false += not again
            else:
                self.unlabelled += not again
        benign = label == 0
        self.benign += int(benign.sum())
        self.flagged += int((odd & benign).sum())
        times = np.sort(np.concatenate([c.ts, c.end]))
        self.seconds += float(np.minimum(np.diff(times), _MAX_SILENCE_SECONDS).sum())
        for f in set(family[label == 1]):
            mine = np.flatnonzero((label == 1) & (family == f))
            found = first_notice.get(str(f))
            self.incidents[str(f)].append(found is not None)
            if found is not None:
                self.delay[str(f)].append(float(max(c.end[found] - c.ts[mine].min(), 0.0)))
                self.within[str(f)].append(int((mine <= found).sum()))

    def section(self) -> dict[str, Any]:
        """As plain numbers."""
        found = [x for f in self.incidents.values() for x in f]
        days = self.seconds / 86400.0
        return {
            "incidents": len(found),
            "found": sum(found),
            "notices": self.notices,
            "false": self.false,
            "unlabelled": self.unlabelled,
            "benign": self.benign,
            "flagged": self.flagged,
            "hours": self.seconds / 3600.0,
            "false_per_day": self.false / days if days else float("nan"),
            "false_per_million": 1e6 * self.false / self.benign if self.benign else float("nan"),
            "delay": _median([x for v in self.delay.values() for x in v]),
            "within": _median([x for v in self.within.values() for x in v]),
            "families": {
                f: [len(x), sum(x), _median(self.delay.get(f, [])), _median(self.within.get(f, []))]
                for f, x in sorted(self.incidents.items())
            },
        }


def notices_of(windows: Encoded, scores: Scores, config: Config) -> list[Notice]:
    """The notices that these scores give rise to, in stream order."""
    judge = Judge(PrecomputedScores(scores), config)
    rows = np.arange(len(windows))
    blocks = (take_encoded(windows, rows[begin : begin + _BLOCK]) for begin in range(0, len(rows), _BLOCK))
    return [notice for judged in judge.judged(blocks) for notice in judged.notices]


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if len(values) else None
