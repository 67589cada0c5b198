"""Missing modalities: what a detector that learned with packets and logs finds without them, and one that never had."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from cmdana_plugin.detector import NETWORKS
from cmdana_plugin.evaluation.baselines import BASELINES
from cmdana_plugin.evaluation.metrics import COLUMNS, judge
from cmdana_plugin.evaluation.protocol import (
    SHIPPED,
    Section,
    Split,
    Store,
    Trial,
    corpus_digest,
    judge_with,
    run_baseline,
)
from cmdana_plugin.evaluation.whole_days.page import table
from cmdana_plugin.training import Recipe, Recording, gather, train
from feature_extractors import Packets
from feature_extractors.features import load_schema

Progress = Callable[[str, float], None]

MARK: Final = "<!-- missing -->"  # before and after this section of a page
NAMES: Final = (SHIPPED, *NETWORKS, *BASELINES)
DEFAULT: Final = (SHIPPED, "boosted")
LEFT_OUT: Final[Mapping[str, tuple[str, ...]]] = {
    "nothing": (),
    "packets": ("packets",),
    "logs": ("logs",),
    "both": ("packets", "logs"),
}
_SHOWN: Final = ("tpr@0.01", "tpr@0.001", "auroc")


def stripped(recordings: Iterable[Recording], modalities: Sequence[str]) -> list[Recording]:
    """The recordings without these modalities (packets, logs), as where nobody records them; connections stay."""
    out = []
    for r in recordings:
        w = r.windows
        nothing = np.zeros(len(w) + 1, np.int64)
        if "packets" in modalities:
            none = Packets(**{f.name: getattr(w.packets, f.name)[:0] for f in fields(Packets)})
            w = replace(w, packets=none, packet_start=nothing)
        if "logs" in modalities:
            w = replace(w, logs=[], log_start=nothing)
        out.append(replace(r, windows=w))
    return out


def evaluate(
    split: Split,
    *,
    seeds: Sequence[int] = (0,),
    only: Sequence[str] | None = None,
    epochs: int | None = None,
    cache: Path | None = None,
    progress: Progress = lambda _what, _share: None,
) -> Section:
    """Macro metrics on the test split by what is left out: of what learned with all, and of what learned without."""
    schema = load_schema()
    names = [n for n in NAMES if n in (only or DEFAULT)]
    found: Section = {"about": {"epochs": epochs, "seeds": len(seeds)}, "with": {}, "without": {}}
    parts = {
        what: Split(*(stripped(s, gone) for s in (split.train, split.calibrate, split.test)))
        for what, gone in LEFT_OUT.items()
    }
    tests = {what: gather(s.test, schema) for what, s in parts.items()}
    whole = tests["nothing"]
    for i, name in enumerate(names):
        for seed in seeds:
            for j, what in enumerate(LEFT_OUT):
                progress(f"{name} without {what}", (i + j / len(LEFT_OUT)) / len(names))
                learn = gather(parts[what].train, schema)
                asked = tests if what == "nothing" else {what: tests[what]}
                store = Store(cache, schema.digest, *map(corpus_digest, (learn, *asked.values())), str(epochs),
                              code=__name__)  # fmt: skip

                def make(name: str = name, seed: int = seed, what: str = what, asked=asked) -> Trial:  # type: ignore[no-untyped-def]
                    return _trial(name, seed, epochs, parts[what], asked)

                trial = store.trial(f"{name} missing {what}", seed, make)
                for k, of in enumerate(asked):
                    score = trial.score[k * len(whole) : (k + 1) * len(whole)]
                    row = dict(zip(COLUMNS, judge(score, whole.label, whole.family)[1].row(), strict=True))
                    put = found["with" if what == "nothing" else "without"].setdefault(name, {})
                    put.setdefault(of, []).append([row[c] for c in _SHOWN])
    return found


def _trial(name: str, seed: int, epochs: int | None, split: Split, asked: Mapping[str, Any]) -> Trial:
    if name in BASELINES:
        learn = gather(split.train, load_schema())
        return Trial(np.concatenate([run_baseline(name, learn, c, seed).score for c in asked.values()]))
    recipe = Recipe(seed=seed, behaviour=False, epochs=epochs)
    if name in NETWORKS:
        recipe = replace(recipe, detector=name)
    made = train(split.train, split.calibrate, recipe=recipe)
    return Trial(np.concatenate([judge_with(made, c, recipe).score for c in asked.values()]))


def words(found: Section) -> str:
    """The findings in Markdown."""
    rows = []
    for name, by in found["with"].items():
        for what in LEFT_OUT:
            learned = np.mean(by[what], axis=0)
            never = np.mean(found["without"][name][what], axis=0) if what != "nothing" else None
            rows.append([name, what, *(f"{x:.3f}" for x in learned),
                         *(["", "", ""] if never is None else [f"{x:.3f}" for x in never])])  # fmt: skip
    epochs = f", {found['about']['epochs']} passes" if found["about"]["epochs"] else ""
    return "\n\n".join(
        [
            "## Missing modalities",
            "Captures of the test split from which packets or logs are taken away before anything is computed, as "
            "where they are not recorded: judged by what learned with all of them, and by what learned without. "
            f"Macro over families, {found['about']['seeds']} seed{epochs}. Limits are read off the benign rows, "
            "without them too.",
            table(
                ["detector", "left out", "learned with: TPR at 1e-2", "at 1e-3", "AUROC",
                 "learned without: TPR at 1e-2", "at 1e-3", "AUROC"],
                rows,
            ),
        ]
    )  # fmt: skip
