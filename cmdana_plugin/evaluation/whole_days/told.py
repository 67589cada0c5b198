"""Whatever raises alarms over days in turn: our detectors and baselines behind the product's decisions, and peers.

Each comes with levels, the strictest first: budgets of alerts for what decides as the product does, thresholds on the
score for peers. One of them is how it ships.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.behaviour import behaviour_of, names, with_behaviour, with_behaviour_beside
from cmdana_plugin.config import Config
from cmdana_plugin.decision import MOST, Judge, Notice, in_vain
from cmdana_plugin.decision import Judged as Decided
from cmdana_plugin.detector import (
    CROSS_MODAL,
    DEPENDENCY,
    Checkpoint,
    Detector,
    Scores,
    Tables,
    WithSiteHistory,
    detector_of,
    fit_tail,
    make_keys,
    share_of,
    shipped_checkpoint,
)
from cmdana_plugin.evaluation.baselines import BASELINES, WITH_LABELS, Baseline
from cmdana_plugin.evaluation.operator_view import PrecomputedScores, scores_of
from cmdana_plugin.evaluation.whole_days.alarms import Alarm, at_level
from cmdana_plugin.evaluation.whole_days.peers import Peer
from cmdana_plugin.evaluation.whole_days.plan import Day
from cmdana_plugin.evaluation.whole_days.programs import said_of
from cmdana_plugin.training import (
    Corpus,
    Recipe,
    Recording,
    entities_of,
    gather,
    recalibrate,
    tails_over,
    train,
)
from feature_extractors import CmdanaError, Stage
from feature_extractors.features import Encoded, load_schema, take_encoded

Floats = NDArray[np.float64]

_BLOCK: Final = 4096  # connections judged at once
# Hosts whose evidence a judge holds: a detector has one judge for each budget, and networks are small.
_HOSTS: Final = 1 << 14
MULTIPLES: Final = (
    0.01,
    0.03,
    0.1,
    0.2,
    0.5,
    1.0,
    2.0,
    4.0,
    10.0,
    30.0,
)  # of the budget of alerts, for the curve


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


@dataclass(frozen=True, slots=True)
class Learned:
    """A detector that can be begun anew, and how rare evidence against a host is by it on the network learned."""

    begin: Callable[[], Detector]
    tails: Floats | None
    at_home: bool = True  # it has learned the network


def _mute() -> Detector:
    """Has no words for why: nobody reads them here."""
    return PrecomputedScores(scores_of(np.zeros(0)))


def _with_tails(begin: Callable[[], Detector], later: Sequence[Recording]) -> Learned:
    """The tails of evidence from later hours, for everybody as the product learns them (`training.fit_incidents`)."""
    normal = [np.ones(len(r.windows), np.bool_) if r.label is None else r.label == 0 for r in later]
    return Learned(begin, tails_over([r.windows for r in later], normal, begin))


def begun(made: Checkpoint) -> Callable[[], Detector]:
    """As the product judges with a checkpoint: what is learned of behaviour and the site's history beside.

    Its streams begin anew: the days that they were learned from are shown again.
    """
    behaviour = behaviour_of(made)
    if behaviour is not None:
        made = with_behaviour(made, replace(behaviour, past={}))

    def begin() -> Detector:
        inner = with_behaviour_beside(detector_of(made, load_schema(), threads=1), made)
        return WithSiteHistory(inner, share=share_of(made.weights))

    return begin


def _as_shipped(lesson: Lesson, seed: int) -> Learned:
    made = shipped_checkpoint()
    return Learned(begun(made), made.incidents, at_home=False)


def _calibrated(lesson: Lesson, seed: int) -> Learned:
    made = recalibrate(shipped_checkpoint(), lesson.held)
    return replace(_with_tails(begun(made), lesson.held), at_home=False)


def _learned(
    lesson: Lesson, seed: int, behaviour: bool = True, rehearsals: str = "plain", detector: str = DEPENDENCY,
    blind_to: str | None = None,
) -> Learned:  # fmt: skip
    blind = None if blind_to is None else tuple(n for n in names() if blind_to and re.search(blind_to, n))
    recipe = Recipe(
        seed=seed, trees=False, behaviour=behaviour, rehearsals=rehearsals, detector=detector, blind_to=blind
    )
    return _with_tails(begun(train(lesson.train, lesson.held, recipe=recipe, salt=0)), lesson.held)


def _without(lesson: Lesson, seed: int) -> Learned:
    return _learned(lesson, seed, behaviour=False)


@dataclass(frozen=True, slots=True)
class Kind:
    """A detector that an evaluation knows by name."""

    words: str
    learn: Callable[[Lesson, int], Learned]
    seeded: bool = True
    asked: bool = False  # whether it is measured only where it is asked for by name


_ALONE: Final = "cmdana, own behaviour"
# Fields of behaviour, by their names: what logs say came of it, and the two clocks.
_PARTS: Final[Mapping[str, tuple[str, str]]] = {
    _ALONE: ("the same, its behaviour without the trees that were learned elsewhere", ""),
    f"{_ALONE}, without outcomes": ("and not told what was refused or accepted", "refused|accepted"),
    f"{_ALONE}, slow clock alone": (
        "and not told of the last minutes", "_1m|_10m|_gain|_evidence|_interval|_beat|_cv|_idle|_minutes|_tens",
    ),
    f"{_ALONE}, fast clock alone": (
        "and not told of days", "_1d|_1w|_slow|_gain|_evidence|_surprise|_bits|_young|_age|_seen|_share",
    ),
}  # fmt: skip
OURS: Final[Mapping[str, Kind]] = {
    "cmdana as shipped": Kind("the shipped model, nothing learned here", _as_shipped, seeded=False),
    "cmdana calibrated": Kind(
        "the shipped model with thresholds from the site (`cmdana calibrate`)", _calibrated, seeded=False
    ),
    "cmdana": Kind("learned on the site's normal days (`cmdana train`)", _learned),
    "cmdana without behaviour": Kind("the same without what is learned of behaviour", _without),
    "cmdana, cross-modal network": Kind(
        "the same with the cross-modal network in the place of the tables (`cmdana train --detector cross-modal`)",
        partial(_learned, detector=CROSS_MODAL),
        asked=True,
    ),
    "cmdana, rehearsals drawn": Kind(
        "the same with rehearsals that hide at random (`cmdana train --rehearsals drawn`)",
        partial(_learned, rehearsals="drawn"),
        asked=True,
    ),
    "cmdana, rehearsals searched": Kind(
        "the same with rehearsals that hide best of six tries (`cmdana train --rehearsals searched`)",
        partial(_learned, rehearsals="searched"),
        asked=True,
    ),
    **{
        name: Kind(words, partial(_learned, blind_to=fields), asked=True)
        for name, (words, fields) in _PARTS.items()
    },
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
        return [[f"unusual to {self.name}"] for _ in rows]


def baseline(name: str, lesson: Lesson, seed: int) -> Learned:
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
    return _with_tails(lambda: Streamed(name, made, calm), lesson.held)


# What is told


class Judged:
    """A detector behind the product's decisions, at several budgets at once."""

    def __init__(self, learned: Learned, config: Config, multiples: Sequence[float] = MULTIPLES) -> None:
        self.levels = tuple(-m * config.verdict.alerts_per_day for m in multiples)  # a small budget is strict
        self.shipped = multiples.index(1.0)
        self._begin = learned.begin
        self._detector = learned.begin()
        self._judges = [
            Judge(_mute(), _with_budget(config, -level), learned.tails, at_home=learned.at_home)
            for level in self.levels
        ]

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
        p = np.ones(n)
        c = day.encoded.connections
        row_of = {key: i for i, key in enumerate(zip(c.uid.tolist(), c.stage.tolist(), strict=True))}
        members = [_Members(row_of) for _ in self.levels]
        for rows in _blocks(n):
            block = take_encoded(day.encoded, rows)
            scores = self._detector.receive(block)
            p[rows] = scores.p_value
            for judge, known in zip(self._judges, members, strict=True):
                known.add(judge.conclude(block, scores), int(rows[0]))
        alarms = [known.alarms(day) for known in members]
        return Told(alarms, p, members[self.shipped].revised(p, day.encoded))


class _Members:
    """The incidents of a day at one budget: which connections belong to each, since when that is known, notices."""

    def __init__(self, row_of: Mapping[tuple[bytes, int], int]) -> None:
        self._row_of = row_of
        self._rows: dict[str, list[tuple[int, int]]] = defaultdict(list)  # incident -> (row, known at row)
        self._notices: list[tuple[int, Notice]] = []  # at row
        self._told: dict[str, str] = {}  # role of the host, by incident

    def add(self, judged: Decided, begin: int) -> None:
        for i, incident in enumerate(judged.verdicts.incident):
            if incident is not None:
                self._rows[incident].append((begin + i, begin + i))
        for i, verdict in judged.revised:
            row = self._row(verdict.uid, "revised")
            if verdict.incident is not None and row is not None:
                self._rows[verdict.incident].append((row, begin + i))
        for notice in judged.notices:
            row = None if notice.verdict is None else self._row(notice.verdict.uid, notice.verdict.stage)
            if row is not None:  # else drift: about no connection in particular
                self._notices.append((row, notice))
                if notice.incident is not None:
                    self._told[notice.incident.id] = notice.incident.role

    def _row(self, uid: str, stage: str) -> int | None:
        stages = (Stage.EARLY,) if stage == "early" else (Stage.FINAL, Stage.EARLY)
        return next((i for s in stages if (i := self._row_of.get((uid.encode(), int(s)))) is not None), None)

    def alarms(self, day: Day) -> list[Alarm]:
        """A notice rests on what is known of its incident since the one before, or on its news alone."""
        out = []
        before: dict[str, int] = defaultdict(lambda: -1)  # row of the notice before, by incident
        for row, notice in self._notices:
            incident, now = notice.incident, float(day.truth.end[row])
            if incident is None:
                assert notice.verdict is not None
                score = -float(np.log10(notice.verdict.p_value))
                out.append(Alarm(now, notice.verdict.orig_h, "originator", score, np.array([row])))
                continue
            since, before[incident.id] = before[incident.id], row
            rows = sorted({i for i, known in self._rows[incident.id] if since < known <= row} | {row})
            if incident.news:
                found = (self._row(uid, "final") for uid in incident.uids)
                rows = sorted({row, *(i for i in found if i is not None)})
            out.append(
                Alarm(
                    now,
                    incident.host,
                    incident.role,
                    incident.evidence,
                    np.array(rows),
                    incident.id,
                    incident.hosts,
                )
            )
        return out

    def revised(self, p: Floats, windows: Encoded) -> Floats:
        """p-values [n] of connections once their incidents are known.

        Each is divided by one and what those like it bring together, -log10 p beyond one in ten of each: the
        connections of the incident that were in vain, or of the same service with the same other end.
        """
        c, out = windows.connections, p.copy()
        tried = in_vain(c)
        brought = np.clip(-np.log10(np.maximum(p, 1e-300)) - 1.0, 0.0, MOST)
        for incident, role in self._told.items():
            acts = role == "originator"
            mine, others = (c.orig_h, c.resp_h) if acts else (c.resp_h, c.orig_h)
            like: dict[tuple[object, ...], list[int]] = defaultdict(list)
            for i in sorted({i for i, _ in self._rows[incident]}):
                other = (acts and windows.domain[i]) or others[i].tobytes()
                spoken = () if tried[i] else (c.service[i] or int(c.resp_p[i]), other)
                like[mine[i].tobytes(), *spoken].append(i)
            for rows in like.values():
                out[rows] = np.minimum(out[rows], p[rows] / (1.0 + brought[rows].sum()))
        return out


def _blocks(n: int) -> list[NDArray[np.int64]]:
    return [np.arange(begin, min(begin + _BLOCK, n)) for begin in range(0, n, _BLOCK)]


def _with_budget(config: Config, alerts: float) -> Config:
    return config.model_copy(
        update={
            "verdict": config.verdict.model_copy(update={"alerts_per_day": alerts}),
            "incident": config.incident.model_copy(
                update={"max_hosts": min(config.incident.max_hosts, _HOSTS)}
            ),
        }
    )


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
        said = said_of(day.folder, day.truth, uid, day.shift).get(self._name, [])
        return Told([at_level(said, level) for level in self.levels])
