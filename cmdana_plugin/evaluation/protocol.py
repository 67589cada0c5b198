"""The protocol: a fixed split by capture, tables per family, baselines and ablations beside, several seeds.

Nothing here is chosen on the test split: thresholds for realised false-positive rates come from calibration, and
TPR at a given FPR is read off the test split's own benign rows, for every detector alike, as a measure of ranking.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin import files
from cmdana_plugin.config import Config
from cmdana_plugin.detector import (
    CROSS_MODAL,
    Checkpoint,
    WithSiteHistory,
    component_p_values,
    fit_strata,
    fit_tail,
    fit_trees,
    fuse,
    history_of,
    overall_p_value,
    stratum_of,
    tabulate,
)
from cmdana_plugin.detector import checkpoint as checkpoints
from cmdana_plugin.evaluation import ablations
from cmdana_plugin.evaluation.baselines import BASELINES, WITH_LABELS
from cmdana_plugin.evaluation.metrics import (
    RATES,
    Floats,
    Resampled,
    draws,
    holm,
    interval,
    judge,
    mean,
    quality,
)
from cmdana_plugin.evaluation.operator_view import Counted, PrecomputedScores, scores_of
from cmdana_plugin.training import Corpus, Recipe, Recording, balance, components, gather, train
from cmdana_plugin.training import fit as training
from feature_extractors import CmdanaError
from feature_extractors.compiled import code_digest
from feature_extractors.features import Encoded, encoded, load_schema

Progress = Callable[[str, float], None]
Section = dict[str, Any]  # one part of the findings: plain numbers and words, as JSON holds them

SHIPPED: Final = "cmdana"
UNLABELLED: Final = "cmdana without labels"
SEEDLESS: Final = ("volume", "rarity", "knn")  # the same whatever the seed
_BUDGETS: Final = (0, 10, 100, 1000)  # malicious connections with a label


@dataclass(slots=True)
class Split:
    train: list[Recording]
    calibrate: list[Recording]
    test: list[Recording]


@dataclass(slots=True)
class Trial:
    """The scores of one detector with one seed on the test split: all that the tables need."""

    score: Floats  # [n] higher is odder
    p_value: Floats | None = None  # [n] calibrated, of detectors that calibrate
    parts: dict[str, Floats] = field(default_factory=dict)  # component -> p-values [n]
    weights: dict[str, float] = field(default_factory=dict)  # component -> its weight in the fusion
    chance: Floats | None = None  # [n] probability of malicious, of a supervised head

    def rows(self, rows: slice | NDArray[np.bool_]) -> Trial:
        return Trial(
            self.score[rows],
            None if self.p_value is None else self.p_value[rows],
            {k: p[rows] for k, p in self.parts.items()},
            self.weights,
            None if self.chance is None else self.chance[rows],
        )


class Store:
    """Trials kept on disk between runs, by what they depend on: data, code, name and seed.

    `code` names the module whose functions make what is kept.
    """

    def __init__(self, folder: Path | None, *depends: str, code: str) -> None:
        self._folder = folder
        self._depends = (*depends, code_digest(code))

    def trial(self, name: str, seed: int, make: Callable[[], Trial]) -> Trial:
        """The trial under this name and seed, made by `make` where it is not stored."""
        if self._folder is None:
            return make()
        key = hashlib.sha256("|".join([*self._depends, name, str(seed)]).encode())
        path = self._folder / f"trial-{key.hexdigest()[:24]}.npz"
        if path.is_file():
            return _read_trial(path)
        made = make()
        self._folder.mkdir(parents=True, exist_ok=True)
        arrays = {"score": made.score} | {f"part.{k}": v for k, v in made.parts.items()}
        arrays |= {f"weight.{k}": np.array(v) for k, v in made.weights.items()}
        arrays |= {k: v for k in ("p_value", "chance") if (v := getattr(made, k)) is not None}
        with files.replacing(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        return made

    def checkpoint(self, name: str, seed: int, make: Callable[[], Checkpoint]) -> Checkpoint:
        assert name == SHIPPED, f"{name}: models of ablations are not kept: nothing on disk tells them apart"
        if self._folder is None:
            return make()
        key = hashlib.sha256("|".join([*self._depends, name, str(seed)]).encode())
        path = self._folder / f"model-{key.hexdigest()[:24]}.safetensors"
        if path.is_file():
            return checkpoints.load(path, load_schema())
        made = make()
        self._folder.mkdir(parents=True, exist_ok=True)
        checkpoints.save(made, path)
        return made


def _read_trial(path: Path) -> Trial:
    with np.load(path, allow_pickle=False) as file:
        a = {k: file[k] for k in file.files}
    return Trial(
        a["score"],
        a.get("p_value"),
        {k.removeprefix("part."): v for k, v in a.items() if k.startswith("part.")},
        {k.removeprefix("weight."): float(v) for k, v in a.items() if k.startswith("weight.")},
        a.get("chance"),
    )


def corpus_digest(corpus: Corpus) -> str:
    """A digest of everything in a corpus that a detector may learn from or be judged by."""
    digest = hashlib.sha256(corpus.digest.encode())
    for array in (corpus.state, corpus.label, corpus.bounds):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update("|".join(corpus.family).encode())
    return digest.hexdigest()[:16]


def read_split(folder: Path, record: Callable[[Path, str], Iterable[Recording]], progress: Progress) -> Split:
    """The labelled captures of `folder` (captures/, captures.csv with the columns capture and split) by their split."""
    rows = split_rows(folder)
    out: dict[str, list[Recording]] = {"train": [], "calibrate": [], "test": []}
    for i, r in enumerate(rows):
        progress("reading", i / len(rows))
        for recording in record(folder / "captures" / r["capture"], r["capture"]):
            out[r["split"]].append(replace(recording, name=r["capture"]))
    return Split(out["train"], out["calibrate"], out["test"])


def split_rows(folder: Path) -> list[dict[str, str]]:
    """The rows of captures.csv that have labelled connections. Raises `CmdanaError`."""
    table = folder / "captures.csv"
    try:
        rows = list(csv.DictReader(table.open(encoding="utf-8")))
    except OSError as error:
        raise CmdanaError(
            f"{table}: {error.strerror}; expected the table of captures with its split"
        ) from error
    parts = ("train", "calibrate", "test")
    return [r for r in rows if r["split"] in parts and (r.get("malicious") != "0" or r.get("benign") != "0")]


# Trials


_OF_THE_NETWORK: Final[Mapping[str, Mapping[str, object]]] = {
    CROSS_MODAL: {},
    "packets alone": {
        "variant": ablations.Only((True, False, False)),
        "components": ("packets", "residual"),
    },
    "connection alone": {
        "variant": ablations.Only((False, True, False)),
        "components": ("connection", "residual", "next"),
    },
    "logs alone": {"variant": ablations.Only((False, False, True)), "components": ("log", "residual")},
    "static gate": {"variant": ablations.StaticGate()},
    "no learned memory": {"variant": ablations.NoMemory()},
    "no state at all": {"variant": ablations.NoState()},
    "from the state alone": {"variant": ablations.StateAlone()},
    "concatenation": {"variant": ablations.Concatenation()},
    "random masking": {"variant": ablations.RandomMask()},
    "no modality dropout": {"dropout": 0.0},
    "control: shuffled time": {"variant": ablations.ShuffledTime()},
    "control: shuffled pairing": {"variant": ablations.ShuffledPairing()},
}
VARIANTS: Final[Mapping[str, Mapping[str, object]]] = {
    SHIPPED: {},
    **{name: {"detector": CROSS_MODAL, **settings} for name, settings in _OF_THE_NETWORK.items()},
    "spatio-temporal": {"detector": "spatio-temporal"},
    "control: permuted columns": {"detector": "spatio-temporal", "variant": ablations.PermutedColumns()},
}


def _parts(
    checkpoint: Checkpoint, corpus: Corpus, recipe: Recipe
) -> tuple[dict[str, Floats], dict[str, float], dict[str, Floats]]:
    """p-values of each component, the weights of the fusion, and what the components were before calibration."""
    schema = load_schema()
    raw, stratum = components(checkpoint, corpus, recipe, schema)
    parts = component_p_values(checkpoint, raw, stratum, history_of(corpus.state, schema))
    return parts, dict(checkpoint.weights), raw


def weighted(parts: Mapping[str, Floats], weights: Mapping[str, float]) -> Floats:
    """The weighted Fisher statistic [n] of named p-values."""
    names = list(weights)
    return fuse(np.stack([parts[k] for k in names], axis=1), np.array([weights[k] for k in names]))


def judge_with(made: Checkpoint, corpus: Corpus, recipe: Recipe) -> Trial:
    """The trial of a trained detector on a corpus, which the recipe's variant may change first."""
    judged = recipe.variant.material(corpus, load_schema(), recipe.seed)
    parts, weights, raw = _parts(made, judged, recipe)
    evidence = weighted(parts, weights)
    chance = 1.0 / (1.0 + np.exp(-raw["attack"])) if "attack" in raw else None
    p = overall_p_value(made, evidence, parts, history_of(judged.state, load_schema()))
    return Trial(-np.log(p), p, parts, weights, chance)


def run_baseline(name: str, learn: Corpus, judged: Corpus, seed: int) -> Trial:
    """The trial of a baseline fitted on one corpus and judged on another."""
    baseline = BASELINES[name]()
    baseline.fit(learn, np.ones(len(learn), np.bool_), seed)
    score = baseline.score(judged)
    chance = None
    if name in WITH_LABELS:
        chance = score if name == "forest" else 1.0 / (1.0 + np.exp(-score))
    return Trial(score, chance=chance)


def calibrated(trial: Trial, benign: NDArray[np.bool_]) -> Trial:
    """The trial with p-values from the benign rows, by one rule for every detector."""
    return replace(trial, p_value=fit_tail(trial.score[benign]).p_value(trial.score))


# What the tables need


def evaluate(
    split: Split,
    config: Config,
    *,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    variants: Sequence[str] = tuple(VARIANTS),
    baselines: Sequence[str] = tuple(BASELINES),
    variant_seeds: int = 2,
    cache: Path | None = None,
    progress: Progress = lambda _what, _share: None,
    partial: Callable[[Section], None] = lambda _found: None,
) -> Section:
    """The findings of every detector on the split.

    Ablations run on the first `variant_seeds` seeds, baselines and cmdana on all.
    """
    schema = load_schema()
    learn = gather(split.train, schema)
    judged = gather([*split.calibrate, *split.test], schema)
    begin = int(judged.bounds[len(split.calibrate)])
    benign = (np.arange(len(judged)) < begin) & (judged.label == 0)
    tested = slice(begin, len(judged))
    store = Store(cache, schema.digest, *map(corpus_digest, (learn, judged)), code=__name__)
    models = models_of(split, cache)
    trials: dict[str, list[Trial]] = {}
    plan = [(n, s) for n in baselines for s in (seeds[:1] if n in SEEDLESS else seeds)]
    plan += [(n, s) for n in variants for s in (seeds if n == SHIPPED else seeds[:variant_seeds])]

    def make(name: str, seed: int) -> Trial:
        if name in BASELINES:
            return run_baseline(name, learn, judged, seed)
        settings = {} if name == SHIPPED else {"trees": False, **VARIANTS[name]}
        recipe = replace(Recipe(seed=seed, behaviour=False), **settings)  # type: ignore[arg-type]
        if settings:
            made = train(split.train, split.calibrate, recipe=recipe)
        else:
            made = models.checkpoint(name, seed, lambda: train(split.train, split.calibrate, recipe=recipe))
        return judge_with(made, judged, recipe)

    label, family = judged.label[tested], judged.family[tested]
    bounds = judged.bounds[len(split.calibrate) :] - begin
    truth = Truth(label, family, blocks_of(bounds), frozenset(f for f in learn.family if f))
    sampled = truth.sampled()

    def found_so_far() -> Section:
        shown = {n: [t.rows(tested) for t in ts] for n, ts in trials.items()}
        found = section(shown, truth, sampled)
        found["about"] |= {
            "train": len(learn),
            "calibrate": int(benign.sum()),
            "captures": len(split.test),
            "data": f"train {learn.digest[:16]}, calibrate and test {judged.digest[:16]}",
        }
        return found

    for i, (name, seed) in enumerate(plan):
        progress(f"{name}, seed {seed}", i / len(plan))
        made = store.trial(name, seed, lambda n=name, s=seed: make(n, s))  # type: ignore[misc]
        trials.setdefault(name, []).append(calibrated(made, benign))
        if name == SHIPPED and all("attack" in t.parts for t in trials[name]):
            trials.setdefault(UNLABELLED, []).append(calibrated(without(made, ("attack",)), benign))
        if i % 8 == 7:
            partial(found_so_far())
    found = found_so_far()
    if SHIPPED in trials:
        shown = [t.rows(tested) for t in trials[SHIPPED]]
        found["components"] = _by_component(shown, truth)
        progress("label budgets", 0.98)
        found["budgets"] = _by_budget(trials[SHIPPED], learn, judged, benign, tested, seeds[:2])
    progress("incidents", 0.99)
    blocks = [encoded(r.windows, load_schema()) for r in split.test]
    found["incidents"] = {
        name: [_told(t.rows(tested), bounds, split.test, blocks, config, name not in BASELINES)
               for t in (ts[:1] if name in BASELINES else ts)]
        for name, ts in trials.items() if name in BASELINES or name in (SHIPPED, UNLABELLED)
    }  # fmt: skip
    return found


def models_of(split: Split, cache: Path | None) -> Store:
    """The store of detectors trained on the split."""
    schema = load_schema()
    return Store(
        cache,
        schema.digest,
        *(corpus_digest(gather(s, schema)) for s in (split.train, split.calibrate)),
        code=training.__name__,
    )


def _told(
    trial: Trial,
    bounds: NDArray[np.int64],
    recordings: Sequence[Recording],
    blocks: Sequence[Encoded],
    config: Config,
    ours: bool,
) -> Section:
    """What an operator would have been told: each recording from its beginning; ours with the site's own history."""
    assert trial.p_value is not None
    counted = Counted()
    for r, windows, a, b in zip(recordings, blocks, bounds[:-1], bounds[1:], strict=True):
        scores = scores_of(trial.p_value[a:b])
        if ours:
            scores = WithSiteHistory(PrecomputedScores(scores)).receive(windows)
        counted.add(r, windows, scores, config)
    return counted.section()


@dataclass(frozen=True, slots=True)
class Truth:
    """Labels, families and blocks of the rows of a test set."""

    label: NDArray[np.int8]
    family: Sequence[str]
    block: NDArray[np.int64]  # what is drawn together: a capture, an hour, neighbouring rows
    taught: frozenset[str] = frozenset()  # families that somebody may have learned from

    def sampled(self, rounds: int = 1000) -> Resampled:
        return draws(self.label, self.family, self.block, rounds)


def blocks_of(bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))


def section(
    trials: Mapping[str, Sequence[Trial]],
    test: Truth,
    sampled: Resampled | None = None,
    ours: str = SHIPPED,
    second: str = UNLABELLED,
) -> Section:
    """The tables of all detectors over a test set, as plain numbers."""
    taught = test.taught
    benign = test.label == 0
    if sampled is None:
        sampled = test.sampled()
    macros = {n: np.mean([sampled.macro(t.score) for t in ts], axis=0) for n, ts in trials.items()}
    detectors = {}
    for name, ts in trials.items():
        judged = [judge(t.score, test.label, test.family) for t in ts]
        unseen = [[j for f, j in families.items() if f not in taught] for families, _ in judged]
        detectors[name] = {
            "labels": name in WITH_LABELS or "attack" in ts[0].parts,
            "macro": [m.row() for _, m in judged],
            "unseen": [mean(u, 0).row() for u in unseen] if taught and all(unseen) else [],
            "families": {f: [families[f].row() for families, _ in judged] for f in judged[0][0]},
            "interval": interval(macros[name]),
            "realised": [[float((t.p_value[benign] <= r).mean()) for r in RATES[:2]]
                         for t in ts if t.p_value is not None],
            "supervised": [asdict(quality(t.chance[test.label >= 0], (test.label == 1)[test.label >= 0]))
                           for t in ts if t.chance is not None],
        }  # fmt: skip
    families, _ = judge(np.zeros(len(benign)), test.label, test.family)
    found: Section = {
        "about": {
            "connections": len(benign),
            "benign": int(benign.sum()),
            "malicious": int((test.label == 1).sum()),
            "blocks": len(np.unique(test.block)),
        },
        "families": {f: {"count": j.count, "seen": f in taught} for f, j in families.items()},
        "detectors": detectors,
    }
    if ours in trials or second in trials:
        found["against"] = _against(macros, ours, second, trials)
    return found


def _against(
    macros: Mapping[str, Floats], ours: str, second: str, trials: Mapping[str, Sequence[Trial]]
) -> Section:
    """Ours minus each baseline in macro TPR at 1e-3, paired over draws; `second` minus those without labels."""
    out: Section = {}
    pairs = {
        ours: [n for n in trials if n in BASELINES],
        second: [n for n in trials if n in BASELINES and n not in WITH_LABELS],
    }
    for mine, rivals in pairs.items():
        if mine not in macros or not rivals:
            continue
        differences = {r: macros[mine] - macros[r] for r in rivals}
        corrected = holm(differences)
        out[mine] = {
            r: {"difference": float(d.mean()), "interval": interval(d), "p": corrected[r]}
            for r, d in differences.items()
        }
    return out


def without(trial: Trial, names: Sequence[str]) -> Trial:
    """The trial whose fusion leaves out the components `names`."""
    weights = {k: w for k, w in trial.weights.items() if k not in names}
    return Trial(weighted(trial.parts, weights), parts={k: trial.parts[k] for k in weights}, weights=weights)


def _by_component(trials: Sequence[Trial], test: Truth) -> Section:
    """Macro of each component alone, of the fusion without it, and of other ways to fuse."""
    out: Section = {}

    def put(name: str, score: Callable[[Trial], Floats]) -> None:
        out[name] = [judge(score(t), test.label, test.family)[1].row() for t in trials]

    for k in trials[0].weights:
        put(f"{k} alone", lambda t, k=k: -np.log(np.nan_to_num(t.parts[k], nan=1.0)))  # type: ignore[misc]
        put(f"without {k}", lambda t, k=k: without(t, (k,)).score)  # type: ignore[misc]
    put("smallest p-value", lambda t: -np.log(np.nanmin(np.stack(list(t.parts.values())), axis=0)))
    put("equal weights", lambda t: weighted(t.parts, dict.fromkeys(t.weights, 1.0)))
    return out


def _by_budget(
    trials: Sequence[Trial],
    learn: Corpus,
    judged: Corpus,
    benign: NDArray[np.bool_],
    tested: slice,
    seeds: Sequence[int],
) -> Section:
    """Macro of the fusion, and of boosted trees alone, when only so many malicious connections have a label."""
    stratum = stratum_of(judged.features, load_schema())
    lessons, table = tabulate(learn.features, learn.state), tabulate(judged.features, judged.state)
    label, family = judged.label[tested], judged.family[tested]
    bad = np.flatnonzero(learn.label == 1)
    out: Section = {}
    for budget in _BUDGETS:
        rows: dict[str, list[list[float]]] = {"fused": [], "trees": []}
        for seed, trial in zip(seeds, trials, strict=False):
            if budget == 0:
                rows["fused"].append(judge(without(trial, ("attack",)).score[tested], label, family)[1].row())
                continue
            chosen = np.random.default_rng(seed).choice(bad, min(budget, len(bad)), replace=False)
            keep = learn.label == 0
            keep[chosen] = True
            weight = balance(learn, keep)[keep]
            trees = fit_trees(lessons[keep], learn.label[keep] == 1, weight, seed, repeats=1)
            odds = trees.score(table)
            p = fit_strata(odds[benign], stratum[benign]).p_value(odds, stratum)
            score = weighted({**trial.parts, "attack": p}, trial.weights)
            rows["fused"].append(judge(score[tested], label, family)[1].row())
            rows["trees"].append(judge(odds[tested], label, family)[1].row())
        out[str(budget)] = rows
    return out
