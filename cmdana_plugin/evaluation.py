"""The protocol: a fixed split by capture, tables per family, baselines and ablations beside, several seeds.

Nothing here is chosen on the test split: thresholds for realised false-positive rates come from calibration, and
TPR at a given FPR is read off the test split's own benign rows, for every detector alike, as a measure of ranking.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.baselines import BASELINES, WITH_LABELS
from cmdana_plugin.calibration import fuse
from cmdana_plugin.checkpoint import Checkpoint
from cmdana_plugin.training import Corpus, Recipe, Recording, components, gather, train
from feature_extractors.errors import CmdanaError
from feature_extractors.schema import load_schema

Progress = Callable[[str, float], None]

_SEEDLESS: Final = ("volume", "rarity", "knn")  # the same whatever the seed
LEAST: Final = 5  # connections that a family needs to be judged
RATES: Final = (1e-2, 1e-3, 1e-4)


@dataclass(frozen=True, slots=True)
class Judged:
    """One family against the benign rows of the whole set."""

    count: int
    tpr: tuple[float, ...]  # at RATES, NaN where benign rows are too few
    auroc: float
    pr: float  # average precision at the native prevalence
    pr_rare: float  # the same with malicious rows weighted down to one in a thousand

    def row(self) -> tuple[float, ...]:
        return (*self.tpr, self.auroc, self.pr, self.pr_rare)


@dataclass(slots=True)
class Run:
    """One detector, one seed, on the test split."""

    detector: str
    seed: int
    families: dict[str, Judged]
    macro: Judged
    realised: dict[float, float] = field(
        default_factory=dict
    )  # nominal -> realised FPR, calibrated detectors only


@dataclass(slots=True)
class Split:
    train: list[Recording]
    calibrate: list[Recording]
    test: list[Recording]


def judge(
    score: NDArray[np.float64], label: NDArray[np.int8], family: Sequence[str]
) -> tuple[dict[str, Judged], Judged]:
    """Per family and macro. Raises `CmdanaError` where one of the classes is missing."""
    calm = np.sort(score[label == 0])
    names = np.array(family, dtype=object)
    bad = label == 1
    kinds = {str(f): score[bad & (names == f)] for f in sorted(set(names[bad]))}
    kinds = {f: s for f, s in kinds.items() if len(s) >= LEAST}
    if not len(calm) or not kinds:
        raise CmdanaError(
            f"evaluation: found {len(calm)} benign rows and {len(kinds)} families of {LEAST} or more; expected both"
        )
    families = {f: _judged(calm, s) for f, s in kinds.items()}
    table = np.array([j.row() for j in families.values()])
    mean = table.mean(axis=0)
    k = len(RATES)
    return families, Judged(
        int(bad.sum()), tuple(mean[:k]), float(mean[k]), float(mean[k + 1]), float(mean[k + 2])
    )


def _judged(calm: NDArray[np.float64], s: NDArray[np.float64]) -> Judged:
    tpr = tuple(
        float((s > np.quantile(calm, 1.0 - r)).mean()) if len(calm) * r >= 5.0 else float("nan")
        for r in RATES
    )
    below = np.searchsorted(calm, s, side="left")
    ties = np.searchsorted(calm, s, side="right") - below
    auroc = float((below + 0.5 * ties).mean() / len(calm))
    weight = 1e-3 / (1.0 - 1e-3) * len(calm) / len(s)
    return Judged(len(s), tpr, auroc, _precision(calm, s, 1.0), _precision(calm, s, weight))


def _precision(calm: NDArray[np.float64], s: NDArray[np.float64], weight: float) -> float:
    """Average precision, a benign row of equal score counted first."""
    order = np.sort(s)[::-1]
    false = len(calm) - np.searchsorted(calm, order, side="left")
    true = weight * np.arange(1, len(order) + 1)
    return float((true / (true + false)).mean())


def interval(
    a: NDArray[np.float64],
    corpus: Corpus,
    b: NDArray[np.float64] | None = None,
    rate: float = 1e-3,
    rounds: int = 200,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % bootstrap interval of macro TPR at `rate`, or of the difference to `b`, recordings drawn with replacement.

    Paired: both detectors are judged on the same draws. A family or benign traffic that a draw misses is left out.
    """
    rng = np.random.default_rng(seed)
    names = np.array(corpus.family, dtype=object)
    rows_of = [np.arange(x, y) for x, y in zip(corpus.bounds[:-1], corpus.bounds[1:], strict=True)]
    counts = {f: int(((names == f) & (corpus.label == 1)).sum()) for f in set(names)}
    found = []
    for _ in range(rounds):
        rows = np.concatenate([rows_of[i] for i in rng.integers(0, len(rows_of), len(rows_of))])
        label, family = corpus.label[rows], names[rows]
        if not (label == 0).any():
            continue
        kinds = [f for f in set(family[label == 1]) if counts[f] >= LEAST]

        def macro(score: NDArray[np.float64], rows=rows, label=label, family=family, kinds=kinds) -> float:  # type: ignore[no-untyped-def]
            s = score[rows]
            limit = np.quantile(s[label == 0], 1.0 - rate)
            return float(np.mean([(s[(label == 1) & (family == f)] > limit).mean() for f in kinds]))

        if kinds:
            found.append(macro(a) - (macro(b) if b is not None else 0.0))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def read_split(folder: Path, record: Callable[[Path, str], Iterable[Recording]], progress: Progress) -> Split:
    """The labelled captures of `folder` (captures/, captures.csv with the columns capture and split) by their split."""
    table = folder / "captures.csv"
    try:
        rows = list(csv.DictReader(table.open(encoding="utf-8")))
    except OSError as error:
        raise CmdanaError(
            f"{table}: {error.strerror}; expected the table of captures with its split"
        ) from error
    out: dict[str, list[Recording]] = {"train": [], "calibrate": [], "test": []}
    rows = [r for r in rows if r["split"] in out and (r["malicious"] != "0" or r["benign"] != "0")]
    for i, r in enumerate(rows):
        progress("reading", i / len(rows))
        for recording in record(folder / "captures" / r["capture"], r["capture"]):
            out[r["split"]].append(replace(recording, name=r["capture"]))
    return Split(out["train"], out["calibrate"], out["test"])


def fused_evidence(checkpoint: Checkpoint, corpus: Corpus, recipe: Recipe) -> NDArray[np.float64]:
    """The detector's fused evidence [n] of every event of a corpus."""
    raw, stratum = components(checkpoint, corpus, recipe, load_schema())
    names = list(checkpoint.weights)
    p = np.stack([checkpoint.strata[k].p_value(raw[k], stratum) for k in names], axis=1)
    return fuse(p, np.array([checkpoint.weights[k] for k in names]))


def run_detector(
    name: str, split: Split, test: Corpus, recipe: Recipe
) -> tuple[Run, NDArray[np.float64], Checkpoint]:
    """Train one variant, score the test split."""
    from cmdana_plugin.training import _ablate

    made = train(split.train, split.calibrate, recipe=recipe)
    judged = replace(test, state=test.state.copy())
    _ablate(judged, recipe, load_schema())
    evidence = fused_evidence(made, judged, recipe)
    families, macro = judge(evidence, test.label, test.family)
    p = made.fused.p_value(evidence)
    calm = test.label == 0
    return (
        Run(name, recipe.seed, families, macro, {r: float((p[calm] <= r).mean()) for r in RATES[:2]}),
        evidence,
        made,
    )


def run_baseline(name: str, learn: Corpus, test: Corpus, seed: int) -> tuple[Run, NDArray[np.float64]]:
    baseline = BASELINES[name]()
    baseline.fit(learn, np.ones(len(learn), np.bool_), seed)
    score = baseline.score(test)
    families, macro = judge(score, test.label, test.family)
    return Run(name, seed, families, macro), score


VARIANTS: Final[Mapping[str, Mapping[str, object]]] = {
    "cmdana": {},
    "cmdana without labels": {"trees": False},
    "anomaly: connection only": {"trees": False, "modalities": (False, True, False)},
    "anomaly: static gate": {"trees": False, "static_gate": True},
    "anomaly: no learned memory": {"trees": False, "use_memory": False},
    "anomaly: no state at all": {"trees": False, "use_memory": False, "use_counts": False},
    "anomaly: from the state alone": {"trees": False, "cross": False},
    "anomaly: no modality dropout": {"trees": False, "dropout": 0.0},
    "control: shuffled time": {"trees": False, "shuffle_time": True},
    "control: shuffled pairing": {"trees": False, "shuffle_pairing": True},
}


@dataclass(slots=True)
class Findings:
    """Everything measured; `save` and `load` as JSON so that a page can be written again."""

    runs: list[Run]
    intervals: dict[str, tuple[float, float]]
    about: dict[str, str]

    def of(self, detector: str) -> list[Run]:
        return [r for r in self.runs if r.detector == detector]

    def names(self) -> Iterator[str]:
        return iter(dict.fromkeys(r.detector for r in self.runs))


def evaluate(
    split: Split,
    *,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    variants: Sequence[str] = tuple(VARIANTS),
    baselines: Sequence[str] = tuple(BASELINES),
    variant_seeds: int = 2,
    progress: Progress = lambda _what, _share: None,
    partial: Callable[[Findings], None] = lambda _found: None,
) -> Findings:
    """Every detector on the split. Ablations run on the first `variant_seeds` seeds, baselines and cmdana on all."""
    schema = load_schema()
    learn, test = gather(split.train, schema), gather(split.test, schema)
    runs: list[Run] = []
    scores: dict[str, NDArray[np.float64]] = {}
    about = {
        "data digest": f"train {learn.digest[:16]}, test {test.digest[:16]}",
        "connections": f"train {len(learn)}, test {len(test)} ({int((test.label == 0).sum())} benign, "
        f"{int((test.label == 1).sum())} malicious)",
    }
    intervals: dict[str, tuple[float, float]] = {}
    plan = [(n, s) for n in baselines for s in (seeds[:1] if n in _SEEDLESS else seeds)]
    plan += [(n, s) for n in variants for s in (seeds if n == "cmdana" else seeds[:variant_seeds])]
    for i, (name, seed) in enumerate(plan):
        progress(f"{name}, seed {seed}", i / len(plan))
        if name in BASELINES:
            run, score = run_baseline(name, learn, test, seed)
        else:
            recipe = replace(Recipe(seed=seed), **VARIANTS[name])  # type: ignore[arg-type]
            run, score, _ = run_detector(name, split, test, recipe)
        runs.append(run)
        if name not in scores:
            scores[name] = score
            intervals[name] = interval(score, test)
            if "cmdana" in scores and (name in BASELINES or name == "cmdana"):
                for rival in (k for k in scores if k in BASELINES):
                    intervals[f"cmdana minus {rival}"] = interval(scores["cmdana"], test, scores[rival])
        partial(Findings(runs, intervals, about))
    return Findings(runs, intervals, about)


def save_findings(findings: Findings, path: Path) -> None:
    rows = [
        {"detector": r.detector, "seed": r.seed, "macro": r.macro.row(), "count": r.macro.count,
         "realised": list(r.realised.items()), "families": {f: [j.count, *j.row()] for f, j in r.families.items()}}
        for r in findings.runs
    ]  # fmt: skip
    path.write_text(
        json.dumps({"runs": rows, "intervals": findings.intervals, "about": findings.about}, indent=1)
    )


def load_findings(path: Path) -> Findings:
    table = json.loads(path.read_text(encoding="utf-8"))
    k = len(RATES)
    runs = [
        Run(
            r["detector"], r["seed"],
            {f: Judged(int(v[0]), tuple(v[1 : k + 1]), *v[k + 1 :]) for f, v in r["families"].items()},
            Judged(r["count"], tuple(r["macro"][:k]), *r["macro"][k:]),
            {float(a): float(b) for a, b in r["realised"]},
        )
        for r in table["runs"]
    ]  # fmt: skip
    return Findings(runs, {k: (v[0], v[1]) for k, v in table["intervals"].items()}, table["about"])


def tables(findings: Findings) -> str:
    """The measured part of docs/results.md."""
    lines = [f"- {k}: {v}" for k, v in findings.about.items()]
    lines += [
        "",
        "| detector | labels | seeds | TPR at 1e-2 | TPR at 1e-3 | its interval | AUROC | PR-AUC | PR-AUC, 1 in 1000 |",
        "|---|---|---:|---:|---:|---|---:|---:|---:|",
    ]
    names = sorted(findings.names(), key=lambda n: -np.mean([r.macro.tpr[1] for r in findings.of(n)]))
    for name in names:
        runs = findings.of(name)
        m = np.array([r.macro.row() for r in runs])
        mean, spread = m.mean(axis=0), m.std(axis=0)
        low, high = findings.intervals.get(name, (float("nan"), float("nan")))
        labels = "yes" if name in WITH_LABELS or name == "cmdana" else "no"
        k = len(RATES)
        lines.append(
            f"| {name} | {labels} | {len(runs)} | {mean[0]:.3f} ± {spread[0]:.3f} | {mean[1]:.3f} ± {spread[1]:.3f} | "
            f"{low:.3f} to {high:.3f} | {mean[k]:.3f} | {mean[k + 1]:.3f} | {mean[k + 2]:.3f} |"
        )
    for name, (low, high) in findings.intervals.items():
        if " minus " in name:
            lines += [
                "",
                f"Macro TPR at 1e-3, {name}: 95 % interval {low:+.3f} to {high:+.3f} (first seed, paired).",
            ]
    shipped = findings.of("cmdana")
    if shipped:
        lines += [
            "",
            "Nominal against realised false-positive rate of `cmdana` on other networks, by seed:",
            "",
        ]
        lines += ["| nominal | realised |", "|---:|---|"]
        lines += [f"| {r:g} | {', '.join(f'{run.realised[r]:.4f}' for run in shipped)} |" for r in RATES[:2]]
        rivals = [n for n in names if n in BASELINES]
        best = rivals[0] if rivals else None
        lines += [
            "",
            "Per family, mean over seeds (`cmdana`"
            + (f", beside the best baseline `{best}`" if best else "")
            + "):",
            "",
        ]
        lines += [
            "| family | n | TPR at 1e-2 | TPR at 1e-3 | AUROC | baseline at 1e-2 | baseline at 1e-3 |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        for f, j in shipped[0].families.items():
            mine = np.mean([r.families[f].row() for r in shipped], axis=0)
            theirs = (
                np.mean([r.families[f].row() for r in findings.of(best)], axis=0) if best else mine * np.nan
            )
            lines.append(
                f"| {f} | {j.count} | {mine[0]:.2f} | {mine[1]:.2f} | {mine[len(RATES)]:.2f} | "
                f"{theirs[0]:.2f} | {theirs[1]:.2f} |"
            )
    return "\n".join(lines) + "\n"
