"""Learning behaviour from normal traffic and rehearsed intrusions: flows in, trees with their calibration out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.behaviour import (
    Behaviour,
    Bounds,
    Flows,
    Streams,
    concat_flows,
    ending_before,
    has_direction,
    is_known,
    mark_of,
    names,
    take_flows,
)
from cmdana_plugin.detector import Trees, averaged, fit_tail, fit_trees
from cmdana_plugin.training.recording import PRESUMED, Corpus
from cmdana_plugin.training.rehearsals.hiding import FIRST_STEPS, PLAIN, hardened
from cmdana_plugin.training.rehearsals.rehearsal import KINDS, Curriculum, drawn, site_of

Progress = Callable[[str, float], None]

_WARM: Final = 0.25  # share of a long recording that only fills the streams
_LONG: Final = 5000  # connections of one
_ROUNDS: Final = 8  # lessons of a course, each with rehearsals of its own
_CONNECTIONS_PER_REHEARSAL: Final = 1000  # of normal use around each
_REHEARSALS: Final = (2, 20)  # of a lesson in one recording, least and most
_NORMAL_ROWS: Final = 120_000  # of all lessons together
_DRAFT_TREES: Final = 40  # what a lesson is judged by before the next is made
_COURSES: Final = 2  # each of lessons of its own; what they come to is averaged
_TREES: Final = 250  # of each course
_LEAVES: Final = 8
_LEAST_ROWS: Final = 200  # of a leaf: a normal connection comes back in several lessons
_FIRST_WEIGHT: Final = 0.2
_LEAST_NORMAL: Final = 500  # connections, under which nothing is learned
_OF_AN_HOUR: Final = 30  # connections of a host's hour that calibrate
_COLD_STARTS: Final = 4  # pieces of later traffic that are also judged without a past


@dataclass(frozen=True, slots=True)
class Normal:
    """One network over one span."""

    flows: Flows
    normal: NDArray[np.bool_]  # [n] teaches; all others only move the state
    learned: int  # rows that are learned from, the first; p-values are taken from the rest

    def __len__(self) -> int:
        return len(self.flows)

    @property
    def warm(self) -> int:
        """Rows that only fill the streams."""
        return int(self.learned * _WARM) if self.learned >= _LONG else 0


@dataclass(frozen=True, slots=True)
class Lesson:
    """Rows of fields, of normal use and of rehearsals."""

    table: NDArray[np.float32]  # [n, B]
    kind: NDArray[np.int8]  # [n] 0 normal, else 1 + index into KINDS
    weight: NDArray[np.float64]  # [n]


def normal_of(parts: Sequence[Corpus], learned: float, one_site: bool) -> list[Normal]:
    """Corpora as behaviour is learned from them.

    Of the first one the share `learned` of each recording is learned from, of a second one nothing. Recordings of
    `one_site` are one stream in order of time.
    """
    found: list[Normal] = []
    for i, corpus in enumerate(parts):
        for flows, rows in zip(corpus.flows, corpus.flow_rows, strict=True):
            normal = (corpus.label[rows] == 0) | (corpus.label[rows] == PRESUMED)
            found.append(Normal(flows, normal, int(len(flows) * learned) if i == 0 else 0))
    if not one_site or not found:
        return found
    flows = concat_flows([r.flows for r in found])
    first = sum(map(len, parts[0].flows))
    order = np.argsort(flows.end[:first], kind="stable")
    more = first + np.argsort(flows.end[first:], kind="stable")
    if first and len(more) and flows.end[more[-1]] > flows.end[order[-1]]:
        # Later traffic may bring its own past along, which has been seen.
        more = more[flows.end[more] > flows.end[order[-1]]]
    order = np.concatenate([order, more])
    return [
        Normal(
            take_flows(flows, order),
            np.concatenate([r.normal for r in found])[order],
            int(first * learned),
        )
    ]


def fit_behaviour(
    recordings: Sequence[Normal],
    *,
    seed: int = 0,
    salt: int | None = None,
    bounds: Bounds | None = None,
    kinds: Sequence[str] = KINDS,
    rounds: int = _ROUNDS,
    trees: int = _TREES,
    beside: Trees | None = None,
    hiding: str = PLAIN,
    blind_to: Collection[str] = (),
    progress: Progress = lambda _what, _share: None,
) -> Behaviour | None:
    """What is learned of the recordings; None where there is too little normal traffic.

    With the `salt` under which its hosts are told, the past of the last recording goes along: it is the site's own.
    The same recordings and seed give the same `trees`, so many in each of two courses. What is learned here and what
    was learned elsewhere (`beside`) have one word each: a day of a small site is too little to stand on alone.
    `hiding` is one of `rehearsals.hiding.WAYS`; fields that it is `blind_to` are unset in what is learned from. Raises
    `CmdanaError` where LightGBM is not installed.
    """
    bounds = bounds or Bounds()
    recordings = [r for r in recordings if len(r)]
    if sum(int(r.normal[: r.learned].sum()) for r in recordings) < _LEAST_NORMAL:
        return None
    unset = [i for i, name in enumerate(names()) if name in blind_to]
    forests, lessons = [], []
    for course in range(_COURSES):
        lessons = _course(
            recordings, np.random.default_rng((seed, course)), seed, bounds, kinds, rounds, hiding, unset
        )
        progress("behaviour", (course + 0.5) / (_COURSES + 0.5))
        forests.append(fit_lessons(lessons, seed, trees))
        progress("behaviour", (course + 1.0) / (_COURSES + 0.5))
    learned = averaged(forests)
    if beside is not None:
        learned = averaged([learned, beside])
    return _calibrated(learned, recordings, lessons, salt, bounds)


def _course(
    recordings: Sequence[Normal],
    rng: np.random.Generator,
    seed: int,
    bounds: Bounds,
    kinds: Sequence[str],
    rounds: int,
    hiding: str,
    unset: Sequence[int],
) -> list[Lesson]:
    """Lessons, each harder in what a model of those before it sees."""
    curriculum = Curriculum.begin()
    lessons: list[Lesson] = []
    draft: Trees | None = None
    for turn in range(rounds):
        lesson = lesson_of(recordings, rng, curriculum, bounds, kinds, rounds, hiding, draft)
        lesson.table[:, unset] = np.nan
        if turn < rounds - 1 and turn % 2 == 1:
            draft = fit_lessons(lessons, seed, _DRAFT_TREES)
            curriculum = curriculum.after(recall(draft, lesson))
        lessons.append(lesson)
    return lessons


def lesson_of(
    recordings: Sequence[Normal],
    rng: np.random.Generator,
    curriculum: Curriculum,
    bounds: Bounds,
    kinds: Sequence[str] = KINDS,
    rounds: int = 1,
    hiding: str = PLAIN,
    present: Trees | None = None,
) -> Lesson:
    """One pass over what is learned from, with rehearsals drawn anew; fields of normal rows move with them.

    What is searched hides from the `present` model.
    """

    def odds(flows: Flows) -> NDArray[np.float64]:
        assert present is not None
        return present.score(Streams(bounds).receive(flows).astype(np.float32))

    total = sum(r.learned - r.warm for r in recordings)
    keep = min(_NORMAL_ROWS / max(rounds * total, 1), 1.0)
    tables, kind, weight = [], [], []
    for r in recordings:
        flows = take_flows(r.flows, np.arange(r.learned))
        begin = float(flows.end[r.warm]) if r.warm < len(flows) else np.inf
        count = int(np.clip((r.learned - r.warm) / _CONNECTIONS_PER_REHEARSAL, *_REHEARSALS))
        site = site_of(flows, begin, r.normal[: r.learned])
        made = hardened(
            flows,
            drawn(site, rng, curriculum, count, kinds),
            site,
            rng,
            hiding,
            None if present is None else odds,
        )
        table = Streams(bounds).receive(made.flows)
        teaches = (made.number > 0) | (made.row >= r.warm) & (rng.random(len(made.row)) < keep)
        teaches &= (made.number > 0) | r.normal[np.maximum(made.row, 0)]
        tables.append(table[teaches].astype(np.float32))
        kind.append(made.kind[teaches])
        weight.append(_weight(made.number)[teaches])
    return Lesson(np.concatenate(tables), np.concatenate(kind), np.concatenate(weight))


def _weight(number: NDArray[np.int32]) -> NDArray[np.float64]:
    """Of rows [n]: a rehearsal counts by the root of its size, its first steps next to nothing."""
    weight = np.ones(len(number))
    for which in np.unique(number[number > 0]).tolist():
        rows = np.flatnonzero(number == which)
        weight[rows] = 1.0 / np.sqrt(len(rows))
        weight[rows[:FIRST_STEPS]] *= _FIRST_WEIGHT if len(rows) > FIRST_STEPS else 1.0
    return weight


def fit_lessons(lessons: Sequence[Lesson], seed: int, rounds: int) -> Trees:
    """Trees that tell the rehearsals of lessons from normal use, each kind weighing as much as every other."""
    table = np.concatenate([x.table for x in lessons])
    kind = np.concatenate([x.kind for x in lessons])
    weight = np.concatenate([x.weight for x in lessons])
    kinds = np.unique(kind[kind > 0]).tolist()
    for k in kinds:  # each kind weighs as much as each other, all of them as much as normal use
        rows = kind == k
        weight[rows] *= 1.0 / (len(kinds) * weight[rows].sum())
    rows = kind == 0
    weight[rows] *= 1.0 / weight[rows].sum()
    weight *= len(weight) / weight.sum()
    return fit_trees(
        table, kind > 0, weight, seed * 1000, rounds, repeats=1, leaves=_LEAVES, least=_LEAST_ROWS
    )


def recall(trees: Trees, lesson: Lesson, rate: float = 0.01) -> Mapping[str, float]:
    """By kind, the share of rehearsed rows that stand above all but `rate` of the normal ones."""
    odds = trees.score(lesson.table)
    least = float(np.quantile(odds[lesson.kind == 0], 1.0 - rate))
    there = np.unique(lesson.kind[lesson.kind > 0]).tolist()
    return {KINDS[k - 1]: float((odds[lesson.kind == k] > least).mean()) for k in there}


def held_out(
    recordings: Sequence[Normal], seed: int = 0, rates: Sequence[float] = (1e-2, 1e-3)
) -> dict[str, tuple[float, ...]]:
    """By kind, what share of its rehearsals is seen by a model that was shown all other kinds, at these rates."""
    out = {}
    bounds = Bounds()
    for kind in KINDS:
        made = fit_behaviour(recordings, seed=seed, kinds=[k for k in KINDS if k != kind])
        if made is None:
            return {}
        lesson = lesson_of(recordings, np.random.default_rng(seed + 1), Curriculum.begin(), bounds, [kind])
        if (lesson.kind > 0).any():
            out[kind] = tuple(recall(made.trees, lesson, rate)[kind] for rate in rates)
    return out


def _calibrated(
    trees: Trees, recordings: Sequence[Normal], lessons: Sequence[Lesson], salt: int | None, bounds: Bounds
) -> Behaviour:
    nothing = fit_tail(np.zeros(0))
    usual = _medians(np.concatenate([x.table[x.kind == 0] for x in lessons]))
    site = 0 if salt is None else mark_of(salt)
    return recalibrated(Behaviour(trees, nothing, nothing, usual, site), recordings, salt, bounds)


def recalibrated(
    behaviour: Behaviour, recordings: Sequence[Normal], salt: int | None = None, bounds: Bounds | None = None
) -> Behaviour:
    """P-values from normal traffic that was not learned from; streams as they then are, and begun anew.

    With the `salt` of the behaviour's own site the streams go on from its past. No host has the word alone,
    by its hours (`_thinned`) or by what is odd (`_of_many`): else one inventory or one scan of a scanner's were the
    whole tail.
    """
    bounds = bounds or Bounds()
    ours = salt is not None and behaviour.site == mark_of(salt)
    tables, hosts = [], []
    streams = Streams(bounds)

    def keep(table: NDArray[np.float32], flows: Flows, rows: NDArray[np.int64]) -> None:
        rows = _thinned(flows, rows)
        tables.append(table[rows].astype(np.float32))
        hosts.append(flows.orig[rows])

    for i, r in enumerate(recordings):
        streams = Streams(bounds)
        if ours and behaviour.past and i == 0:
            streams.restore(ending_before(behaviour.past, float(r.flows.end[0])))
        table = streams.receive(r.flows)
        direction = has_direction(r.flows)
        keep(table, r.flows, np.flatnonzero((np.arange(len(r)) >= r.learned) & r.normal & direction))
        if len(r) >= _LONG:
            for piece in np.array_split(np.arange(r.learned, len(r)), _COLD_STARTS):
                part = take_flows(r.flows, piece)
                table = Streams(bounds).receive(part)
                keep(table, part, np.flatnonzero(r.normal[piece] & direction[piece] & ~is_known(table)))
    table, host = np.concatenate(tables), np.concatenate(hosts)
    odds = np.round(behaviour.trees.score(table), 5)
    known = is_known(table)
    everything = fit_tail(odds[_of_many(odds, host)])
    tails = [
        fit_tail(odds[rows][_of_many(odds[rows], host[rows])]) if rows.sum() >= _ENOUGH else everything
        for rows in (known, ~known)
    ]
    past = streams.state() if ours else behaviour.past
    return replace(behaviour, known=tails[0], unknown=tails[1], past=past)


def _of_many(odds: NDArray[np.float64], host: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which rows [n] calibrate: of the oddest tenth, above any level, no host has more than the others, and one."""
    kept = np.ones(len(odds), np.bool_)
    total, of = 0, Counter[int]()
    for row in np.argsort(-odds, kind="stable")[: len(odds) // 10].tolist():
        one = int(host[row])
        if 2 * of[one] <= total:
            of[one] += 1
            total += 1
        else:
            kept[row] = False
    return kept


def _thinned(flows: Flows, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of these rows `_OF_AN_HOUR` of each originator's hour at most, evenly among them."""
    if not len(rows):
        return rows
    hour = (flows.end[rows] // 3600.0).astype(np.int64)
    order = np.lexsort((rows, hour, flows.orig[rows]))
    new = np.append(
        True, (np.diff(hour[order]) != 0) | (np.diff(flows.orig[rows][order].view(np.int64)) != 0)
    )
    first = np.flatnonzero(new)
    size = np.diff(np.append(first, len(rows)))
    step = np.repeat(np.maximum(size / _OF_AN_HOUR, 1.0), size)
    at = np.arange(len(rows)) - np.repeat(first, size)
    kept = np.floor(at / step) != np.floor((at - 1) / step)
    return np.sort(rows[order[kept]])


_ENOUGH: Final = 200  # normal connections from which on a kind of them has a tail of its own


def _medians(table: NDArray[np.float32]) -> NDArray[np.float64]:
    """[B] of the values that are set; NaN where most are not."""
    out = np.full(table.shape[1], np.nan)
    for f in range(table.shape[1]):
        known = table[np.isfinite(table[:, f]), f]
        if 2 * len(known) >= len(table):
            out[f] = float(np.median(known))
    return out
