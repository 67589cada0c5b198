"""How rare evidence against a host is on a network, from its normal hours: the detector run over them as it will be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.behaviour import behaviour_of, with_behaviour
from cmdana_plugin.config import Config
from cmdana_plugin.config import Verdict as Budget
from cmdana_plugin.decision import ENOUGH_BLOCKS, Judge, Tails, tails_of
from cmdana_plugin.detector import Checkpoint, Detector
from cmdana_plugin.training.recording import Recording
from feature_extractors import Windows, concat, take
from feature_extractors.features import encoded, schema_of

MOST: Final = 100_000  # connections of a recording that are run over, its last
_MOST_ALL: Final = 400_000  # of all recordings
_TOGETHER: Final = 4096
_NEVER: Final = 1e-9  # incidents a day: hours are measured whole


@dataclass(slots=True)
class Hours:
    """Passes recordings on and keeps their normal connections, the latest, to be run over when a model is there.

    The share `learned` of the connections, the first, only moves the state: a model finds nothing odd in what it has
    learned from. Recordings of `one_site` are one stream in order of time.
    """

    learned: float = 0.0
    one_site: bool = False
    kept: list[Recording] = field(default_factory=list)

    def keeping(self, recordings: Iterable[Recording]) -> Iterator[Recording]:
        for r in recordings:
            rows = np.arange(len(r.windows)) if r.label is None else np.flatnonzero(r.label == 0)
            rows = rows[-MOST:]
            if len(rows) and sum(len(k.windows) for k in self.kept) + len(rows) <= _MOST_ALL:
                self.kept.append(Recording(r.name, take(r.windows, rows)))
            yield r

    def streams(self) -> list[Windows]:
        """What was kept, one for each network."""
        if not self.one_site or len(self.kept) < 2:
            return [r.windows for r in self.kept]
        whole = concat([r.windows for r in self.kept])
        return [take(whole, np.argsort(whole.connections.end, kind="stable"))]


def with_incidents(
    checkpoint: Checkpoint,
    hours: Hours,
    detector_of: Callable[[Checkpoint], Detector],
    past: Mapping[str, NDArray[Any]] | None = None,
) -> Checkpoint:
    """The checkpoint with the tails of these hours; without any where they are too few.

    `past` is what the site's streams had come to before these hours; that of the checkpoint has seen them.
    """
    behaviour = behaviour_of(checkpoint)
    judging = checkpoint
    if behaviour is not None:
        judging = with_behaviour(checkpoint, replace(behaviour, past=past or {}))
    streams = hours.streams()
    counting = [np.arange(len(w)) >= int(hours.learned * len(w)) for w in streams]
    return replace(checkpoint, incidents=tails_over(streams, counting, lambda: detector_of(judging)))


def tails_over(
    streams: Sequence[Windows], counting: Sequence[NDArray[np.bool_]], begin: Callable[[], Detector]
) -> Tails | None:
    """The tails of what hosts' hours of these streams come to by a detector that begins anew with each.

    Connections that are not `counting` [n] only move the state; how long hours were watched is that of the shortest
    stream. None where the hours are too few.
    """
    blocks: tuple[list[NDArray[np.float64]], ...] = ([], [])
    watched = np.inf
    for windows, counts in zip(streams, counting, strict=True):
        for role, found in enumerate(hours_of(windows, counts, begin())):
            blocks[role].append(found)
        end = windows.connections.end[counts]
        watched = min(watched, float(np.ptp(end)) if len(end) else 0.0)
    maxima = [np.concatenate(found) if found else np.zeros((0, 0)) for found in blocks]
    return tails_of(maxima, watched) if len(maxima[0]) >= ENOUGH_BLOCKS else None


def hours_of(windows: Windows, counts: NDArray[np.bool_], detector: Detector) -> list[NDArray[np.float64]]:
    """What each host's hours came to at most, by role; connections [n] that do not count only move the state."""
    judge = Judge(detector, Config(verdict=Budget(alerts_per_day=_NEVER)))
    schema, n = schema_of(detector.schema_digest), len(windows)
    for begin in range(0, n, _TOGETHER):
        rows = np.arange(begin, min(begin + _TOGETHER, n))
        block = encoded(take(windows, rows), schema)
        scores = detector.receive(block)
        judge.conclude(block, replace(scores, p_value=np.where(counts[rows], scores.p_value, 1.0)))
    judge.decider.evidence.turn()
    return [judge.decider.evidence.blocks(role) for role in range(2)]
