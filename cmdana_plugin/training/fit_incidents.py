"""How rare evidence against a host is on a network, from its normal hours: the detector run over them as it will be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.config import Config
from cmdana_plugin.config import Verdict as Budget
from cmdana_plugin.decision import ENOUGH_BLOCKS, Judge, tails_of
from cmdana_plugin.detector import Checkpoint, Detector
from cmdana_plugin.training.recording import Recording
from feature_extractors import take
from feature_extractors.features import encoded, load_schema

MOST: Final = 100_000  # connections of a recording that are run over, its last
_MOST_ALL: Final = 400_000  # of all recordings
_TOGETHER: Final = 4096
_NEVER: Final = 1e-9  # incidents a day: hours are measured whole


class Hours:
    """Passes recordings on and keeps their normal connections, the latest, to be run over when a model is there."""

    def __init__(self) -> None:
        self.kept: list[Recording] = []

    def keeping(self, recordings: Iterable[Recording]) -> Iterator[Recording]:
        for r in recordings:
            rows = np.arange(len(r.windows)) if r.label is None else np.flatnonzero(r.label == 0)
            rows = rows[-MOST:]
            if len(rows) and sum(len(k.windows) for k in self.kept) + len(rows) <= _MOST_ALL:
                self.kept.append(Recording(r.name, take(r.windows, rows)))
            yield r


def with_incidents(
    checkpoint: Checkpoint, hours: Hours, detector_of: Callable[[Checkpoint], Detector]
) -> Checkpoint:
    """The checkpoint with the tails of these hours; without any where they are too few."""
    blocks: tuple[list[NDArray[np.float64]], ...] = ([], [])
    for r in hours.kept:
        for role, found in enumerate(_blocks(r, detector_of(checkpoint))):
            blocks[role].append(found)
    maxima = [np.concatenate(found) if found else np.zeros((0, 0)) for found in blocks]
    if len(maxima[0]) < ENOUGH_BLOCKS:
        return replace(checkpoint, incidents=None)
    return replace(checkpoint, incidents=tails_of(maxima))


def _blocks(recording: Recording, detector: Detector) -> list[NDArray[np.float64]]:
    """What each host's hours came to at most, by role."""
    judge = Judge(detector, Config(verdict=Budget(alerts_per_day=_NEVER)))
    schema, n = load_schema(), len(recording.windows)
    for begin in range(0, n, _TOGETHER):
        block = encoded(take(recording.windows, np.arange(begin, min(begin + _TOGETHER, n))), schema)
        judge.conclude(block, detector.receive(block))
    judge.decider.evidence.turn()
    return [judge.decider.evidence.blocks(role) for role in range(2)]
