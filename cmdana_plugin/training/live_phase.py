"""Learning from a running Zeek: a phase of a given length, which can be interrupted and judges meanwhile.

The model there is (the shipped one, or that of `--init`) goes on judging, and says in the `model` column of every
verdict that it is learning and how far it is: there is never a score that means nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cmdana_plugin.config import Config
from cmdana_plugin.decision import Judge, Judged
from cmdana_plugin.detector import BENIGN, Detector, Scores
from cmdana_plugin.endpoint import run
from cmdana_plugin.training.spool import Spool
from feature_extractors import CmdanaError
from feature_extractors.features import Encoded, load_schema

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PROGRESS_SECONDS: Final = 600.0  # seconds between two lines about the progress


class Interrupted(CmdanaError):
    """The learning phase was stopped before its end; what it saw is kept."""


def duration(words: str) -> float:
    """The seconds of a duration such as `24h`, `90m`, `7d` or `30s`. Raises `CmdanaError`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", words)
    if not found or float(found[1]) <= 0:
        raise CmdanaError(f"--live: found {words!r}; expected a time such as 24h, 90m or 7d")
    return float(found[1]) * _UNITS[found[2]]


def spool_of(out: Path) -> Path:
    """The folder in which the traffic for the model `out` is gathered."""
    return out.with_name(out.name + ".learning")


@dataclass(slots=True)
class Phase:
    """The progress of a learning phase, in network time."""

    spool: Spool
    wanted: str  # as `--live` says it

    @property
    def seconds(self) -> float:
        """The seconds of network time that are wanted."""
        return duration(self.wanted)

    @property
    def share(self) -> float:
        return min(self.spool.seen / self.seconds, 1.0)

    @property
    def over(self) -> bool:
        return self.spool.seen >= self.seconds

    def words(self) -> str:
        return f"{self.share:.0%} of {self.wanted}, {self.spool.connections:,} connections" + (
            f", the first {self.spool.dropped:,} let go" if self.spool.dropped else ""
        )


class LearningJudge(Judge):
    """A `Judge` during learning: verdicts name the phase as their model, and odd originators are counted."""

    def __init__(self, detector: Detector, config: Config, phase: Phase) -> None:
        super().__init__(detector, config)
        self._phase = phase
        self._name = detector.name

    def conclude(self, windows: Encoded, scores: Scores) -> Judged:
        self.detector.name = f"{self._name} (learning, {self._phase.share:.0%})"
        judged = super().conclude(windows, scores)
        for verdict in judged.verdicts:
            if verdict.verdict != BENIGN and verdict.stage == "final":
                self._phase.spool.suspect(verdict.orig_h)
        return judged


def _further() -> str:
    further = load_schema().further
    assert further is not None
    return further.digest


def learn(
    settings: Config,
    load: Callable[[], Judge],
    folder: Path,
    wanted: str,
    progress: Callable[[str, float], None],
    notify: Callable[[str], None],
    further_logs: bool = False,
) -> None:
    """Gathers `wanted` (24h, 90m) of network time from a running Zeek into `folder`, or goes on where it stopped.

    With `further_logs` Zeek is asked for those too, whatever the model that judges meanwhile reads.

    Raises `Interrupted` when SIGTERM or SIGINT came before the end, and what `live.run` raises.
    """
    spool = Spool(folder, settings.learning.max_connections, create=True)
    phase = Phase(spool, wanted)
    notified_at = time.monotonic()

    def over() -> bool:
        nonlocal notified_at
        progress("learning from Zeek", phase.share)
        if time.monotonic() - notified_at >= _PROGRESS_SECONDS:
            notified_at = time.monotonic()
            notify(f"learning: {phase.words()}")
        return phase.over

    def loaded() -> Judge:
        judge = load()
        return LearningJudge(judge.detector, settings, phase)

    try:
        if not phase.over:
            notify(f"{'goes on learning' if spool.connections else 'learning'}: {phase.words()}")
            run(
                settings, loaded, until=over, gauges=lambda: {"learning": phase.share}, keep=spool.add,
                logs_of=_further() if further_logs else "",
            )  # fmt: skip
            notify("this detector has left: until `cmdana run` starts, Zeek's connections are not judged")
    finally:
        spool.close()
    if not phase.over:
        raise Interrupted(
            f"{folder}: stopped at {phase.words()}; the same command goes on from there, "
            f"`cmdana train --out MODEL {folder}` learns from what there is"
        )
