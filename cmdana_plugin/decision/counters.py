"""What the verdicts come to over time, in numbers that an operator's monitoring can read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.config import Config
from cmdana_plugin.decision.drift import DriftMonitor
from cmdana_plugin.decision.notice import Notice
from cmdana_plugin.detector import Scores
from feature_extractors import Modality, Stage
from feature_extractors.features import Encoded

# Upper bounds of the score's histogram: steps of 0.1 where nearly all is, and what a threshold is likely to be.
SCORE_BOUNDS: Final = (0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.57, 0.6, 0.7, 0.8, 0.9, 1.0)
_MAX_LABEL_VALUES: Final = 200  # verdicts and kinds of notices told apart


class Watch:
    """Monotonic counters of final verdicts since the start, with the drift monitor. May be read from another thread."""

    def __init__(self, config: Config, components: Collection[str]) -> None:
        """`components` are those of a score that can be named as what has moved."""
        self.drift = DriftMonitor(config.drift, components)
        self.verdicts: Counter[str] = Counter()  # by stage and word: "final benign"
        self.notices: Counter[str] = Counter()
        self.scores = np.zeros(
            len(SCORE_BOUNDS), np.int64
        )  # connections at or below each bound and above the last
        self.score_sum = 0.0
        self.reliance = np.zeros(len(Modality))  # sums of shares

    def receive(
        self,
        windows: Encoded,
        scores: Scores,
        counts: Mapping[tuple[str, str], int],
        told: NDArray[np.float64],
    ) -> list[Notice]:
        """The notices of drift that a block gives rise to.

        Its verdicts by stage and word, `counts`, and their scores as `told` [n] are added.
        """
        for (stage, verdict), n in counts.items():
            word = f"{stage} {verdict}"
            if word in self.verdicts or len(self.verdicts) < _MAX_LABEL_VALUES:
                self.verdicts[word] += n
        rows = windows.connections.stage == Stage.FINAL
        score = told[rows]
        at = np.minimum(np.searchsorted(SCORE_BOUNDS, score, side="left"), len(SCORE_BOUNDS) - 1)
        self.scores += np.bincount(at, minlength=len(SCORE_BOUNDS))
        self.score_sum += float(score.sum())
        self.reliance += scores.reliance[rows].sum(axis=0)
        return self.drift.receive(windows, scores)

    def noticed(self, notices: Sequence[Notice]) -> None:
        """Adds notices to the counters, by their type."""
        self.notices.update(n.note.removeprefix("CMDANA::") for n in notices)
