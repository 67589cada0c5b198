"""Whatever raises alarms over days in turn: our detectors and baselines behind the product's decisions, and peers.

Each comes with levels, the strictest first: budgets of alerts for what decides as the product does, thresholds on the
score for peers. One of them is how it ships.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.behaviour import with_behaviour_beside
from cmdana_plugin.config import Config
from cmdana_plugin.decision import Judge, Notice, threshold
from cmdana_plugin.detector import (
    Checkpoint,
    CrossModal,
    Detector,
    Scores,
    Tables,
    WithSiteHistory,
    fit_tail,
    make_keys,
    share_of,
    shipped_checkpoint,
)
from cmdana_plugin.evaluation.baselines import BASELINES, WITH_LABELS, Baseline
from cmdana_plugin.evaluation.operator_view import PrecomputedScores, scores_of
from cmdana_plugin.evaluation.whole_days.alarms import Alarm, at_level
from cmdana_plugin.evaluation.whole_days.peers import Peer, said_elsewhere
from cmdana_plugin.evaluation.whole_days.plan import Day
from cmdana_plugin.training import Corpus, Recipe, Recording, entities_of, gather, recalibrate, train
from feature_extractors import CmdanaError, Stage
from feature_extractors.features import Encoded, load_schema, take_encoded

Floats = NDArray[np.float64]

_BLOCK: Final = 4096  # connections judged at once
_SPAN: Final = 3600.0  # seconds before a notice that it speaks of: the half-life of evidence
MULTIPLES: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # of the budget of alerts, for the curve
SHIPPED_AS: Final = MULTIPLES.index(1.0)


@dataclass(frozen=True, slots=True)
class Told:
    """What was told of a day."""

    alarms: list[list[Alarm]]  # at each level
    p_value: Floats | None = None  # [n] as told at the time, of what judges connections
    revised: Floats | None = None  # [n] after the incidents that are told as it ships were known


class Teller(Protocol):
    """`take` is given days in turn, each once."""

    @property
    def levels(self) -> Sequence[float]: ...

    @property
    def shipped(self) -> int:
        """Index of the level that it ships with."""
        ...

    def take(self, day: Day, past: Encoded) -> Told:
        """`past`: the last connections before the day."""
        ...


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a network teaches: normal days, and later ones that thresholds are taken from."""

    train: list[Recording]
    held: list[Recording]  # each after the last of the normal days, as a past that only moves the state
    foreign: list[Recording]  # labelled captures of other networks, for what learns from labels; may be none


# Detectors: each learned once, then begun anew as often as wanted


def _begun(made: Checkpoint) -> Callable[[], Detector]:
    """As the product judges with a checkpoint: what is learned of behaviour and the site's history beside."""

    def begin() -> Detector:
        inner = with_behaviour_beside(CrossModal(made, load_schema(), threads=1), made)
        return WithSiteHistory(inner, share=share_of(made.weights))

    return begin


def _as_shipped(lesson: Lesson, seed: int) -> Callable[[], Detector]:
    return _begun(shipped_checkpoint())


def _calibrated(lesson: Lesson, seed: int) -> Callable[[], Detector]:
    return _begun(recalibrate(shipped_checkpoint(), lesson.held))


def _learned(lesson: Lesson, seed: int, behaviour: bool = True) -> Callable[[], Detector]:
    return _begun(
        train(lesson.train, lesson.held, recipe=Recipe(seed=seed, trees=False, behaviour=behaviour), salt=0)
    )


def _without(lesson: Lesson, seed: int) -> Callable[[], Detector]:
    return _learned(lesson, seed, behaviour=False)


@dataclass(frozen=True, slots=True)
class Kind:
    """A detector that an evaluation knows by name."""

    words: str
    learn: Callable[[Lesson, int], Callable[[], Detector]]
    seeded: bool = True


OURS: Final[Mapping[str, Kind]] = {
    "cmdana as shipped": Kind("the shipped model, nothing learned here", _as_shipped, seeded=False),
    "cmdana calibrated": Kind(
        "the shipped model with thresholds from the site (`cmdana calibrate`)", _calibrated, seeded=False
    ),
    "cmdana": Kind("learned on the site's normal days (`cmdana train`)", _learned),
    "cmdana without behaviour": Kind("the same without what is learned of behaviour", _without),
}
CHIEF: Final = "cmdana"  # the one that speaks for the product


class Streamed:
    """A baseline as a `Detector`: counts of the past kept from block to block, p-values from the site's calm rows.

    It begins anew each day with the last connections before it, the past that its calm rows have too: its counts have
    no end, and grow out of all that it learned in a week.
    """

    schema_digest = load_schema().digest

    def __init__(self, name: str, baseline: Baseline, calm: Floats) -> None:
        self.name = name
        self._baseline = baseline
        self._tail = fit_tail(calm)
        self._tables = Tables()

    def remember(self, windows: Encoded) -> None:
        c, f = windows.connections, windows.features
        self._tables.counts(c, f, make_keys(c, f, 0), load_schema().spans)

    def receive(self, windows: Encoded) -> Scores:
        n = len(windows)
        c, f = windows.connections, windows.features
        keys = make_keys(c, f, 0)
        state, _ = self._tables.counts(c, f, keys, load_schema().spans)
        label = np.zeros(n, np.int8)
        corpus = Corpus(
            f, state, entities_of(keys), c.ts, c.stage == Stage.EARLY, label, [""] * n, np.array([0, n]), "", [""]
        )  # fmt: skip
        return scores_of(self._tail.p_value(self._baseline.score(corpus)))

    def explain(self, windows: Encoded, scores: Scores, rows: NDArray[np.int64]) -> list[list[str]]:
        return [[] for _ in rows]


def baseline(name: str, lesson: Lesson, seed: int) -> Callable[[], Detector]:
    """Learned like ours; those that need labels learn from other networks' captures too."""
    schema = load_schema()
    if name in WITH_LABELS and not lesson.foreign:
        raise CmdanaError(
            f"{name}: learns from labels, and there are none; give labelled captures of other networks"
        )
    learn = gather([*(lesson.foreign if name in WITH_LABELS else ()), *lesson.train], schema)
    made = BASELINES[name]()
    made.fit(learn, np.ones(len(learn), np.bool_), seed)
    held = gather(lesson.held, schema)
    calm = made.score(held)[held.label == 0]
    return lambda: Streamed(name, made, calm)


# What is told


class Judged:
    """A detector behind the product's decisions, at several budgets at once."""

    def __init__(
        self, begin: Callable[[], Detector], config: Config, multiples: Sequence[float] = MULTIPLES
    ) -> None:
        self.levels = tuple(-m * config.verdict.alerts_per_day for m in multiples)  # a small budget is strict
        self.shipped = multiples.index(1.0)
        self._begin = begin
        self._detector = begin()
        configs = [_with_budget(config, -level) for level in self.levels]
        self._judges = [Judge(PrecomputedScores(scores_of(np.zeros(0))), c) for c in configs]
        self._thresholds = [threshold(c.verdict) for c in configs]

    def warm(self, past: Encoded) -> None:
        """Shows connections that are not counted."""
        for rows in _blocks(len(past)):
            block = take_encoded(past, rows)
            scores = self._detector.receive(block)
            for judge in self._judges:
                judge.conclude(block, scores)

    def take(self, day: Day, past: Encoded) -> Told:
        if isinstance(self._detector, Streamed):
            self._detector = again = self._begin()
            assert isinstance(again, Streamed)
            again.remember(past)
        n = len(day.encoded)
        p, score = np.ones(n), np.zeros(n)
        notices: list[list[Notice]] = [[] for _ in self.levels]
        for rows in _blocks(n):
            block = take_encoded(day.encoded, rows)
            scores = self._detector.receive(block)
            p[rows], score[rows] = scores.p_value, scores.score
            for k, judge in enumerate(self._judges):
                notices[k] += judge.conclude(block, scores).notices
        c = day.encoded.connections
        row_of = {key: i for i, key in enumerate(zip(c.uid.tolist(), c.stage.tolist(), strict=True))}
        alarms = [
            alarms_of(told, day, row_of, score >= limit)
            for told, limit in zip(notices, self._thresholds, strict=True)
        ]
        return Told(alarms, p, _revised(p, alarms[self.shipped], day))


def _blocks(n: int) -> list[NDArray[np.int64]]:
    return [np.arange(begin, min(begin + _BLOCK, n)) for begin in range(0, n, _BLOCK)]


def _with_budget(config: Config, alerts: float) -> Config:
    return config.model_copy(update={"verdict": config.verdict.model_copy(update={"alerts_per_day": alerts})})


def alarms_of(
    notices: Sequence[Notice], day: Day, row_of: Mapping[tuple[bytes, int], int], odd: NDArray[np.bool_]
) -> list[Alarm]:
    """The product's notices as alarms; a host's rests on its odd connections of the hour before."""
    truth = day.truth
    out = []
    for notice in notices:
        if notice.verdict is None:  # drift: about no connection in particular
            continue
        stage = Stage.EARLY if notice.verdict.stage == "early" else Stage.FINAL
        row = row_of[notice.verdict.uid.encode(), int(stage)]
        now = float(truth.end[row])
        incident = notice.incident
        if incident is None:
            rows = np.array([row])
            host, role, score = notice.verdict.orig_h, "originator", -np.log10(notice.verdict.p_value)
        else:
            host, role, score = incident.host, incident.role, incident.evidence
            side = (truth.orig if role == "originator" else truth.resp)[: row + 1]
            recent = truth.end[: row + 1] >= now - _SPAN
            rows = np.flatnonzero((side == host) & odd[: row + 1] & recent)
        out.append(Alarm(now, host, role, float(score), rows))
    return out


def _revised(p: Floats, alarms: Sequence[Alarm], day: Day) -> Floats:
    """Each connection with the evidence of the alarm that it turned out to belong to.

    Those are what an alarm rests on and, of the hour before it, what the host did in the same role to (as a responder:
    got at) the same ports, whatever it looked like by itself.
    """
    out = p.copy()
    truth, c = day.truth, day.encoded.connections
    port = c.resp_p.astype(np.int64) << 8 | c.ip_proto
    for alarm in alarms:
        side = truth.orig if alarm.role == "originator" else truth.resp
        mine = (side == alarm.host) & (truth.end <= alarm.ts + 1e-6) & (truth.end >= alarm.ts - _SPAN)
        mine &= np.isin(port, port[alarm.rows])
        mine[alarm.rows] = True
        out[mine] = np.minimum(out[mine], 10.0 ** -min(alarm.score, 300.0))
    return out


class Listed:
    """A peer."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.levels = tuple(sorted({*peer.levels, peer.default}, reverse=True))
        self.shipped = self.levels.index(peer.default)

    def take(self, day: Day, past: Encoded) -> Told:
        alarms = self._peer.alarms(day.windows, day.truth)
        return Told([at_level(alarms, level) for level in self.levels])


class Elsewhere:
    """What a program said of these days, by file beside the recordings."""

    def __init__(self, name: str, levels: Sequence[float]) -> None:
        self._name = name
        self.levels = tuple(levels)
        self.shipped = len(self.levels) - 1

    def take(self, day: Day, past: Encoded) -> Told:
        uid = day.encoded.connections.uid
        said = said_elsewhere(day.folder, day.truth, uid, day.shift).get(self._name, [])
        return Told([at_level(said, level) for level in self.levels])
