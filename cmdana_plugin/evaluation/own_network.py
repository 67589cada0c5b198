"""The protocol on recordings of one's own: learn a network's normal, calibrate on later normal, judge a bad day.

A plan (CSV) says which recording plays which part. Networks that have a part to train on are judged with what was
learned there; the others, which nobody learned, with what was learned on the first.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.config import Config
from cmdana_plugin.detector import Scores, WithSiteHistory, fit_tail, share_of
from cmdana_plugin.evaluation.baselines import BASELINES, WITH_LABELS
from cmdana_plugin.evaluation.cache import key_of, recall
from cmdana_plugin.evaluation.metrics import RATES, Floats, judge
from cmdana_plugin.evaluation.operator_view import Counted, PrecomputedScores, scores_of
from cmdana_plugin.evaluation.protocol import (
    SEEDLESS,
    SHIPPED,
    UNLABELLED,
    VARIANTS,
    Section,
    Split,
    Store,
    Trial,
    Truth,
    corpus_digest,
    judge_with,
    models_of,
    run_baseline,
    section,
    weighted,
)
from cmdana_plugin.logs import LabelError, read_labels
from cmdana_plugin.training import Learned, Recipe, Recording, gather, joining, recalibrate, recordings, train
from feature_extractors import CmdanaError, concat, take
from feature_extractors.features import encoded, load_schema

Progress = Callable[[str, float], None]

PARTS: Final = ("train", "calibrate", "later", "test")
COLD: Final = "cold"  # what is judged of later and test a second time, from an empty state
MODEL_ONLY: Final = "cmdana, no site history"
FOREIGN: Final = "cmdana, calibrated here only"
SITE_ONLY: Final = "cmdana, learned here only"
SITE_MODEL: Final = "cmdana, learned here only, no site history"
_PAST: Final = 20_000  # connections of earlier normal that a detector has seen when a part begins
_FIRST: Final = 1000  # connections after a start that are told apart
_BLOCK: Final = 60.0  # seconds drawn together by the bootstrap: recordings compress their day
_MIN_CONNECTIONS: Final = 200  # benign connections to train on
_CAPTURES: Final = ("*.pcap", "*.pcap.gz", "*.pcapng", "*.pcapng.gz")


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a recording and its role: train, calibrate, later or test."""

    folder: Path  # holds one capture and labels.csv
    network: str
    part: str  # of PARTS
    begin: float  # shares of the recording's time
    end: float


def read_plan(path: Path) -> list[Part]:
    """The parts of a plan: CSV with the columns recording, network, part and, optionally, begin and end (0..1).

    Raises `CmdanaError`.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise CmdanaError(f"{path}: cannot be read: {error.strerror}") from None
    plan = []
    for i, row in enumerate(rows):
        try:
            part = Part(
                path.parent / row["recording"], row["network"], row["part"],
                float(row.get("begin") or 0.0), float(row.get("end") or 1.0),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise CmdanaError(
                f"{path}:{i + 2}: {error}; expected the columns recording, network, part, and shares begin, end"
            ) from None
        if part.part not in PARTS:
            raise CmdanaError(
                f"{path}:{i + 2}: part: found {part.part!r}; expected one of {', '.join(PARTS)}"
            )
        if not 0.0 <= part.begin < part.end <= 1.0:
            raise CmdanaError(
                f"{path}:{i + 2}: found {part.begin:g} to {part.end:g}; expected shares, 0 <= begin < end <= 1"
            )
        plan.append(part)
    have = {p.part for p in plan}
    if not {"train", "calibrate"} <= have or not {"later", "test"} & have:
        raise CmdanaError(
            f"{path}: found {', '.join(sorted(have))}; expected train, calibrate, and later or test"
        )
    return plan


def read_recording(folder: Path, config: Config, cache: Path | None) -> Recording:
    """The recording in a folder, labelled by its labels.csv; connections without a label are unknown."""
    captures = [p for pattern in _CAPTURES for p in sorted(folder.glob(pattern))]
    if len(captures) != 1:
        raise CmdanaError(f"{folder}: found {len(captures)} captures; expected one, and labels.csv")
    truth = folder / "labels.csv"
    if not truth.is_file():
        raise LabelError(f"{truth}: not found; a recording needs its labels")

    def read() -> list[Recording]:
        labels = {captures[0].name: read_labels(truth)}
        seen = Learned("")
        return list(joining(recordings([str(captures[0])], config, labels, seen), seen, truth))

    found = recall(cache, key_of([captures[0], truth]), read)
    if not found:
        raise CmdanaError(f"{captures[0]}: found no connection")
    return replace(found[0], name=folder.name)


def cut(recording: Recording, begin: float, end: float) -> Recording:
    """The stretch between two shares of the recording's time."""
    if (begin, end) == (0.0, 1.0):
        return recording
    c = recording.windows.connections
    first, last = float(c.ts.min()), float(c.end.max())
    share = (c.end - first) / max(last - first, 1e-9)
    rows = np.flatnonzero((share >= begin) & ((share < end) | (end == 1.0)))
    label = None if recording.label is None else recording.label[rows]
    family = recording.family or [""] * len(c)
    return Recording(recording.name, take(recording.windows, rows), label, [family[i] for i in rows.tolist()])


def after(past: Sequence[Recording], now: Recording) -> tuple[Recording, NDArray[np.bool_]]:
    """`now` with the last of `past` before it, labelled unknown, so that it moves the state; and which rows are now."""
    size, blocks = 0, []
    for w in reversed([r.windows for r in past]):
        if size >= _PAST:
            break
        blocks.append(take(w, np.arange(max(len(w) - (_PAST - size), 0), len(w))))
        size += len(blocks[-1])
    n = len(now.windows)
    label = np.zeros(n, np.int8) if now.label is None else now.label
    whole = Recording(
        now.name,
        concat([*reversed(blocks), now.windows]),
        np.concatenate([np.full(size, -1, np.int8), label]),
        [""] * size + list(now.family or [""] * n),
    )
    return whole, np.arange(size + n) >= size


@dataclass(slots=True)
class Judged:
    """The test recordings end to end, with the role of each row."""

    recordings: list[Recording]
    network: list[str]  # of each recording
    part: list[str]
    keep: list[NDArray[np.bool_]]  # of each recording, the rows that are not its past

    def rows(self, network: str, *parts: str) -> NDArray[np.bool_]:
        return np.concatenate(
            [
                k if p in parts and n == network else np.zeros(len(k), np.bool_)
                for k, p, n in zip(self.keep, self.part, self.network, strict=True)
            ]
        )


def evaluate(
    plan: Sequence[Part],
    config: Config,
    foreign: Split | None,
    *,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    variants: Sequence[str] = (SHIPPED,),
    baselines: Sequence[str] = tuple(BASELINES),
    variant_seeds: int = 2,
    cache: Path | None = None,
    progress: Progress = lambda _what, _share: None,
    partial: Callable[[Section], None] = lambda _found: None,
) -> Section:
    """A section for each network. `foreign` are labelled captures of other networks, for what learns from labels.

    Ablations are of what is learned here only, and run on the first `variant_seeds` seeds.
    """
    loaded: dict[Path, Recording] = {}
    pieces: dict[tuple[str, str], list[Recording]] = {}
    for p in plan:
        if p.folder not in loaded:
            progress(f"reading {p.folder.name}", 0.0)
            loaded[p.folder] = read_recording(p.folder, config, cache)
        pieces.setdefault((p.network, p.part), []).append(cut(loaded[p.folder], p.begin, p.end))
    networks = list(dict.fromkeys(p.network for p in plan))
    owners = [n for n in networks if (n, "train") in pieces and (n, "calibrate") in pieces]
    strangers = [n for n in networks if n not in owners]
    found: Section = {}
    for owner in owners:
        there = [owner, *(strangers if owner == owners[0] else [])]
        site = _Site(owner, {k: v for k, v in pieces.items() if k[0] in there}, foreign, config, cache)
        trials: dict[str, list[Trial]] = {}
        ours = (SITE_ONLY, SHIPPED, FOREIGN) if SHIPPED in variants else (SITE_ONLY,)
        ablations = [n for n in variants if n != SHIPPED]
        names = [n for n in (*ours, *baselines, *ablations) if foreign is not None or n not in _TAUGHT]
        for k, name in enumerate(names):
            many = 1 if name in SEEDLESS else variant_seeds if name in ablations else len(seeds)
            for seed in seeds[:many]:
                progress(f"{owner}: {name}, seed {seed}", k / len(names))
                trials.setdefault(name, []).append(site.trial(name, seed))
            for network in there:
                found[network] = site.section(network, trials)
            partial(found)
    return found


_NONE: Final = Trial(np.zeros(0))
_TAUGHT: Final = frozenset({FOREIGN, *WITH_LABELS})  # need labels from elsewhere


class _Site:
    """One network that is learned, and all that is judged with what was learned there."""

    def __init__(
        self,
        owner: str,
        pieces: dict[tuple[str, str], list[Recording]],
        foreign: Split | None,
        config: Config,
        cache: Path | None,
    ) -> None:
        schema = load_schema()
        self.owner, self.foreign, self.config = owner, foreign, config
        self.normal = [_only_benign(r) for r in pieces[owner, "train"]]
        held = [_only_benign(r) for r in pieces[owner, "calibrate"]]
        self.held = [after(self.normal, r)[0] for r in held]
        self.judged = Judged([], [], [], [])
        for (network, part), given in pieces.items():
            if part == "train":
                continue
            for r in held if (network, part) == (owner, "calibrate") else given:
                past = (
                    [] if network != owner else self.normal if part == "calibrate" else [*self.normal, *held]
                )
                whole, now = after(past, r)
                self._judge(whole, now, network, part)
                if network == owner and part != "calibrate":
                    self._judge(r, np.ones(len(r.windows), np.bool_), network, COLD)
        self.corpus = gather(self.judged.recordings, schema)
        self.blocks = [encoded(r.windows, schema) for r in self.judged.recordings]
        self.learn = gather(self.normal, schema)
        if (self.learn.label == 0).sum() < _MIN_CONNECTIONS:
            raise CmdanaError(
                f"{owner}: found {int((self.learn.label == 0).sum())} benign connections to train on, "
                f"expected at least {_MIN_CONNECTIONS}"
            )
        self.mixed = None if foreign is None else gather([*foreign.train, *self.normal], schema)
        self.benign = self.judged.rows(owner, "calibrate") & (self.corpus.label == 0)
        self.store = Store(
            cache,
            schema.digest,
            *(corpus_digest(c) for c in (self.learn, self.corpus, self.mixed) if c is not None),
            code=__name__,
        )
        self.abroad = None if foreign is None else models_of(foreign, cache)

    def _judge(self, recording: Recording, keep: NDArray[np.bool_], network: str, part: str) -> None:
        self.judged.recordings.append(recording)
        self.judged.keep.append(keep)
        self.judged.network.append(network)
        self.judged.part.append(part)

    def trial(self, name: str, seed: int) -> Trial:
        """Scores of everything that is judged."""
        return self.store.trial(name, seed, lambda: self._trial(name, seed))

    def _trial(self, name: str, seed: int) -> Trial:
        if name in BASELINES:
            learn = self.mixed if name in WITH_LABELS and self.mixed is not None else self.learn
            return run_baseline(name, learn, self.corpus, seed)
        recipe = Recipe(seed=seed, behaviour=False)
        if name in VARIANTS and name != SHIPPED:
            recipe = replace(recipe, trees=False, **VARIANTS[name])  # type: ignore[arg-type]
            made = train(self.normal, self.held, recipe=recipe)
        elif name == SITE_ONLY or self.foreign is None or self.abroad is None:
            made = train(self.normal, self.held, recipe=replace(recipe, trees=False))
        else:
            there = self.foreign
            made = self.abroad.checkpoint(
                SHIPPED, seed, lambda: train(there.train, there.calibrate, recipe=recipe)
            )
            if name == FOREIGN:
                made = recalibrate(made, self.held)
            else:
                made = train(self.normal, self.held, recipe=recipe, init=made)
        return judge_with(made, self.corpus, recipe)

    def section(self, network: str, trials: Mapping[str, Sequence[Trial]]) -> Section:
        """Everyone calibrated on the same benign rows of the owner, judged on one network."""
        c = self.corpus
        rows = self.judged.rows(network, "later", "test")
        later = rows & (c.label == 0)
        cold = self.judged.rows(network, COLD)
        begun: dict[str, list[Section]] = {}
        shown: dict[str, list[Trial]] = {}
        told: dict[str, list[Section]] = {}
        realised: dict[str, list[list[float]]] = {}
        for name, ts in trials.items():
            for t in ts:
                for called, score in _ways(name, t, self.abroad is not None):
                    p = fit_tail(score[self.benign]).p_value(score)
                    scores = self._scores(p, _share(called, t), network)
                    p = p.copy()
                    for i, s in scores.items():
                        p[c.bounds[i] : c.bounds[i + 1]] = s.p_value
                    shown.setdefault(called, []).append(Trial(-np.log(p[rows]), p[rows]))
                    if later.any():
                        realised.setdefault(called, []).append(
                            [float((p[later] <= r).mean()) for r in RATES[:2]]
                        )
                    if called in VARIANTS and called != SHIPPED:
                        continue
                    if cold.any():
                        begun.setdefault(called, []).append(self._begun(p, cold))
                    if called in (SHIPPED, UNLABELLED) or called not in told:
                        told.setdefault(called, []).append(self._told(scores))
        out: Section = {
            "own": network == self.owner,
            "trained": int((self.learn.label == 0).sum()),
            "calibrated": int(self.benign.sum()),
            "later": int(later.sum()),
            "realised": realised,
            "cold": begun,
            "incidents": told,
            "recordings": sorted(
                {
                    r.name
                    for r, n in zip(self.judged.recordings, self.judged.network, strict=True)
                    if n == network
                }
            ),
        }
        if (c.label[rows] == 1).any() and (c.label[rows] == 0).any():
            out |= section(shown, self._truth(rows), second=SITE_ONLY)
            for name, table in out["detectors"].items():
                table["labels"] = name in WITH_LABELS or "attack" in trials.get(name, [_NONE])[0].weights
        out["about"] = {
            **out.get("about", {}),
            "data": f"judged {c.digest[:16]}, train {self.learn.digest[:16]}",
        }
        return out

    def _truth(self, rows: NDArray[np.bool_]) -> Truth:
        c = self.corpus
        recording = np.repeat(np.arange(len(c.bounds) - 1), np.diff(c.bounds))[rows]
        stretch = ((c.ts[rows] - c.ts[rows].min()) // _BLOCK).astype(np.int64)
        block = np.unique(recording * (int(stretch.max()) + 1) + stretch, return_inverse=True)[1].astype(
            np.int64
        )
        return Truth(c.label[rows], [c.family[i] for i in np.flatnonzero(rows)], block)

    def _scores(self, p: Floats, share: float, network: str) -> dict[int, Scores]:
        """Of each recording of a network but those of calibration; ours with the site's own history, as it ships."""
        out = {}
        for i, windows in enumerate(self.blocks):
            if self.judged.network[i] != network or self.judged.part[i] == "calibrate":
                continue
            scores = scores_of(p[self.corpus.bounds[i] : self.corpus.bounds[i + 1]])
            out[i] = (
                WithSiteHistory(PrecomputedScores(scores), share=share).receive(windows) if share else scores
            )
        return out

    def _begun(self, p: Floats, rows: NDArray[np.bool_]) -> Section:
        """What the rows judged from an empty state give: realised rates, of all and of the first; detections."""
        c = self.corpus
        benign = rows & (c.label == 0)
        since = np.arange(len(c)) - np.repeat(c.bounds[:-1], np.diff(c.bounds))
        first = benign & (since < _FIRST)
        found: Section = {
            "realised": [float((p[benign] <= r).mean()) for r in RATES[:2]],
            "first": [float((p[first] <= r).mean()) for r in RATES[:2]],
            "benign": int(benign.sum()),
        }
        if (c.label[rows] == 1).any():
            _, macro = judge(-np.log(p[rows]), c.label[rows], [c.family[i] for i in np.flatnonzero(rows)])
            found["macro"] = macro.row()
        return found

    def _told(self, scores: Mapping[int, Scores]) -> Section:
        counted = Counted()
        for i, s in scores.items():
            if self.judged.part[i] == COLD:
                continue
            counted.add(self.judged.recordings[i], self.blocks[i], s, self.config, self.judged.keep[i])
        return counted.section()


_OURS: Final = frozenset({SHIPPED, UNLABELLED, FOREIGN, SITE_ONLY})


def _share(name: str, trial: Trial) -> float:
    """The site's share of the rate for one of ours, as the product gives it; 0: without the site's history."""
    return share_of(trial.weights) if name in _OURS else 0.0


def _ways(name: str, trial: Trial, labels: bool) -> list[tuple[str, Floats]]:
    """A trial as itself and, ours, as it would be without the site's history or without labels."""
    ways = [(name, trial.score)]
    if name == SITE_ONLY:
        ways.append((SITE_MODEL, trial.score))
    if name == SHIPPED:
        ways.append((MODEL_ONLY, trial.score))
        if labels and "attack" in trial.parts:
            left = {k: w for k, w in trial.weights.items() if k != "attack"}
            ways.append((UNLABELLED, weighted(trial.parts, left)))
    return ways


def _only_benign(recording: Recording) -> Recording:
    """Attacks are no part of what is learned as normal: they move the state and teach nothing."""
    if recording.label is None:
        return recording
    label = np.where(recording.label == 1, np.int8(-1), recording.label)
    return replace(recording, label=label, family=[""] * len(label))
