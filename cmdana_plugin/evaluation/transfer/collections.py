"""Leave-one-collection-out: learn from all other collections of captures, judge this one, and so all in turn."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.detector import NETWORKS, fit_tail, stratum_of
from cmdana_plugin.evaluation.baselines import BASELINES
from cmdana_plugin.evaluation.metrics import Floats
from cmdana_plugin.evaluation.protocol import (
    SEEDLESS,
    SHIPPED,
    UNLABELLED,
    Section,
    Split,
    Store,
    Trial,
    corpus_digest,
    judge_with,
    run_baseline,
    without,
)
from cmdana_plugin.evaluation.transfer.metrics import Apart, judged, self_calibrated
from cmdana_plugin.training import Corpus, Recipe, Recording, gather, train
from feature_extractors import CmdanaError
from feature_extractors.features import load_schema

Progress = Callable[[str, float], None]

NAMES: Final = (SHIPPED, *NETWORKS, *BASELINES)
SELF_CALIBRATED: Final = ", self-calibrated"  # within each capture, of what came before
_KINDS: Final = 1 << 16  # more than there are strata
_MIN_BENIGN: Final = 200  # connections of the others to calibrate on


@dataclass(frozen=True, slots=True)
class Fold:
    """A collection and what is learned before it is judged: recordings of all others, by their split."""

    name: str
    train: list[Recording]
    calibrate: list[Recording]
    judged: list[Recording]


def collections_in(folder: Path) -> dict[str, str]:
    """The collection of each capture (captures.csv, column set). Raises `CmdanaError` where there is no such column."""
    table = folder / "captures.csv"
    with table.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if "set" not in (reader.fieldnames or ()):
            raise CmdanaError(f"{table}: no column set; expected the collection of each capture")
        return {r["capture"]: r["set"] for r in reader}


def folds(split: Split, collection: Mapping[str, str]) -> list[Fold]:
    """A fold for each collection. Raises `CmdanaError` for fewer than three: nothing would be left to learn from."""
    learned, held = [*split.train, *split.test], list(split.calibrate)
    names = sorted({collection[r.name] for r in (*learned, *held)})
    if len(names) < 3:
        raise CmdanaError(f"collections: found {', '.join(names) or 'none'}; expected three or more")

    def of(recordings: Iterable[Recording], name: str, wanted: bool) -> list[Recording]:
        return [r for r in recordings if (collection[r.name] == name) is wanted]

    out = []
    for name in names:
        mine = [*of(learned, name, True), *of(held, name, True)]
        others = of(held, name, False)
        if sum(_benign(r) for r in others) < _MIN_BENIGN:
            raise CmdanaError(
                f"collections: without {name} fewer than {_MIN_BENIGN} benign connections to calibrate on"
            )
        out.append(Fold(name, of(learned, name, False), others, mine))
    return out


def _benign(recording: Recording) -> int:
    return len(recording.windows) if recording.label is None else int((recording.label == 0).sum())


def evaluate(
    split: Split,
    collection: Mapping[str, str],
    *,
    seeds: Sequence[int] = (0,),
    only: Sequence[str] | None = None,
    epochs: int | None = None,
    cache: Path | None = None,
    progress: Progress = lambda _what, _share: None,
    partial: Callable[[Section], None] = lambda _found: None,
) -> Section:
    """The findings of every detector over all collections, each judged by what knows nothing of it.

    p-values come from benign connections of the calibrate split of the other collections, by one rule for all.
    """
    schema = load_schema()
    plan = folds(split, collection)
    names = [n for n in NAMES if only is None or n in only]
    jobs = [(n, s) for n in names for s in (seeds[:1] if n in SEEDLESS else seeds)]
    trials: dict[tuple[str, int], list[Trial]] = {}
    truth = _truth(plan)
    digests, kinds = [], []
    for k, fold in enumerate(plan):
        learn, held, here = (gather(part, schema) for part in (fold.train, fold.calibrate, fold.judged))
        benign = held.label == 0
        kinds.append(stratum_of(here.features, schema))
        digest = [corpus_digest(c) for c in (learn, held, here)]
        digests.append("".join(digest))
        store = Store(cache, schema.digest, *digest, str(epochs), code=__name__)
        for j, (name, seed) in enumerate(jobs):
            progress(f"without {fold.name}: {name}, seed {seed}", (k + j / len(jobs)) / len(plan))

            def make(name: str = name, seed: int = seed, fold: Fold = fold) -> Trial:
                return _trial(name, seed, epochs, fold, learn, held, here)  # noqa: B023 -- called at once

            both = store.trial(name, seed, make)
            trials.setdefault((name, seed), []).append(_calibrated(both, benign))
            if name == SHIPPED and "attack" in both.parts:
                trials.setdefault((UNLABELLED, seed), []).append(
                    _calibrated(without(both, ("attack",)), benign)
                )
    found: Section = {"about": _about(truth, digests, epochs), "detectors": {}}
    kind = truth.capture * _KINDS + np.concatenate(kinds)
    for (name, _), parts in trials.items():
        score = np.concatenate([t.score for t in parts])
        p = np.concatenate([t.p_value for t in parts if t.p_value is not None])
        found["detectors"].setdefault(name, []).append(judged(score, p, truth))
        own = self_calibrated(score, kind)
        p = np.exp(-np.maximum(own, 0.0))
        found["detectors"].setdefault(f"{name}{SELF_CALIBRATED}", []).append(judged(own, p, truth))
        partial(found)
    return found


def _trial(
    name: str, seed: int, epochs: int | None, fold: Fold, learn: Corpus, held: Corpus, here: Corpus
) -> Trial:
    """Of the rows to calibrate on, then of the rows to be judged."""
    if name in BASELINES:
        parts = [run_baseline(name, learn, c, seed) for c in (held, here)]
    else:
        recipe = Recipe(seed=seed, behaviour=False, epochs=epochs)
        if name in NETWORKS:
            recipe = Recipe(seed=seed, behaviour=False, epochs=epochs, detector=name)
        made = train(fold.train, fold.calibrate, recipe=recipe)
        parts = [judge_with(made, c, recipe) for c in (held, here)]
    a, b = parts
    return Trial(
        np.concatenate([a.score, b.score]),
        parts={k: np.concatenate([a.parts[k], b.parts[k]]) for k in a.parts},
        weights=a.weights,
    )


def _calibrated(both: Trial, benign: NDArray[np.bool_]) -> Trial:
    """The rows to be judged, with p-values from the benign rows before them, and scores that folds have in common."""
    n = len(benign)
    p: Floats = fit_tail(both.score[:n][benign]).p_value(both.score[n:])
    return Trial(-np.log(p), p)


def _truth(plan: Sequence[Fold]) -> Apart:
    label, family, collection, capture = [], [], [], []
    i = 0
    for k, fold in enumerate(plan):
        for r in fold.judged:
            n = len(r.windows)
            if n == 0:
                continue
            label.append(np.zeros(n, np.int8) if r.label is None else r.label)
            family += list(r.family) if r.family else [""] * n
            collection.append(np.full(n, k))
            capture.append(np.full(n, i))
            i += 1
    return Apart(
        np.concatenate(label), np.array(family, dtype=str), np.concatenate(collection), np.concatenate(capture),
        [f.name for f in plan],
    )  # fmt: skip


def _about(truth: Apart, digests: Sequence[str], epochs: int | None) -> Section:
    bad = truth.label == 1
    return {
        "collections": len(truth.names),
        "with_benign": int((np.bincount(truth.collection[truth.benign_weight() > 0]) > 0).sum()),
        "benign": int((truth.label == 0).sum()),
        "malicious": int(bad.sum()),
        "captures": int(truth.capture.max()) + 1,
        "epochs": epochs,
        "data": hashlib.sha256("".join(digests).encode()).hexdigest()[:16],
    }
