"""The detectors by name beside each other: what each finds, clean and under attack, how fast it is and how large."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from cmdana_plugin.config import Config
from cmdana_plugin.detector import DETECTORS, fit_tail
from cmdana_plugin.evaluation.adversary.attacker import CHANGES, perturbed
from cmdana_plugin.evaluation.metrics import COLUMNS, judge
from cmdana_plugin.evaluation.operator_view import Counted, scores_of
from cmdana_plugin.evaluation.protocol import Section, Split, judge_with
from cmdana_plugin.evaluation.whole_days.page import table
from cmdana_plugin.training import Recipe, gather, train
from feature_extractors.features import encoded, load_schema

Progress = Callable[[str, float], None]

MARK: Final = "<!-- detectors -->"  # before and after this section of a page
ALL: Final = "all"
_ATTACK: Final = "all but splitting together"
_LABELS: Final = {True: "with labels", False: "without"}
_SHOWN: Final = ("tpr@0.01", "tpr@0.001", "auroc")


def evaluate(
    split: Split,
    names: Sequence[str],
    config: Config,
    *,
    seeds: Sequence[int] = (0,),
    epochs: int | None = None,
    progress: Progress = lambda _what, _share: None,
    partial: Callable[[Section], None] = lambda _found: None,
) -> Section:
    """The findings of each detector with labels and without: macro metrics, incidents, connections a second, numbers.

    Speed is of the whole detector over the test split on one thread of the machine that measures, features made
    before; it depends on what else runs there.
    """
    schema = load_schema()
    test = gather(split.test, schema)
    held = gather(split.calibrate, schema)
    pairs = [perturbed(r, CHANGES[_ATTACK]) for r in split.test]
    attacked = gather([r for r, _ in pairs], schema)
    blocks = [encoded(r.windows, schema) for r in split.test]
    found: Section = {"about": {"epochs": epochs, "seeds": len(seeds), "benign": int((test.label == 0).sum())},
                      "detectors": {}}  # fmt: skip
    jobs = [(n, labels, s) for n in names for labels in (True, False) for s in seeds]
    for i, (name, labels, seed) in enumerate(jobs):
        progress(f"{name}, {_LABELS[labels]}, seed {seed}", i / len(jobs))
        recipe = Recipe(seed=seed, behaviour=False, epochs=epochs, detector=name, trees=labels)
        made = train(split.train, split.calibrate, recipe=recipe)
        begun = time.monotonic()
        clean = judge_with(made, test, recipe)
        speed = len(test) / (time.monotonic() - begun)
        under = judge_with(made, attacked, recipe)
        calm = judge_with(made, held, recipe).score[held.label == 0]
        p = fit_tail(calm).p_value(clean.score)
        counted = Counted()
        for r, windows, a, b in zip(split.test, blocks, test.bounds[:-1], test.bounds[1:], strict=True):
            counted.add(r, windows, scores_of(p[a:b]), config)
        told = counted.section()
        row: dict[str, Any] = {
            "clean": _row(clean.score, test.label, test.family),
            "attacked": _against(clean.score, under.score, test.label, attacked.label, attacked.family),
            "incidents": [told["found"], told["incidents"], told["false"]],
            "speed": speed,
            "numbers": int(sum(np.prod(v.shape) for v in made.network.values())),
        }
        found["detectors"].setdefault(f"{name}, {_LABELS[labels]}", []).append(row)
        partial(found)
    return found


def named(names: Sequence[str] | None) -> list[str]:
    """The names of `--detectors`, all of them for `all`."""
    return list(DETECTORS) if names and ALL in names else list(names or ())


def _row(score: Any, label: Any, family: Sequence[str]) -> list[float]:
    row = dict(zip(COLUMNS, judge(score, label, family)[1].row(), strict=True))
    return [row[c] for c in _SHOWN]


def _against(clean: Any, under: Any, label: Any, moved: Any, family: Sequence[str]) -> float:
    """Macro share found at 1e-3 under attack, at the limit of the undisturbed benign rows."""
    limit = np.quantile(clean[label == 0], 1.0 - 1e-3)
    names = np.array(family, dtype=object)
    kinds = [f for f in sorted(set(names[moved == 1])) if ((moved == 1) & (names == f)).sum() >= 5]
    return float(np.mean([(under[(moved == 1) & (names == f)] > limit).mean() for f in kinds]))


def words(found: Section) -> str:
    """The findings in Markdown."""
    rows = []
    for name, runs in found["detectors"].items():
        clean = np.mean([r["clean"] for r in runs], axis=0)
        incidents = np.mean([r["incidents"] for r in runs], axis=0)
        rows.append(
            [name, len(runs), *(f"{x:.3f}" for x in clean), f"{np.mean([r['attacked'] for r in runs]):.3f}",
             f"{incidents[0]:.1f} of {incidents[1]:.0f}", f"{incidents[2]:.1f}",
             f"{np.mean([r['speed'] for r in runs]):,.0f}", f"{runs[0]['numbers']:,}"]
        )  # fmt: skip
    epochs = f", {found['about']['epochs']} passes" if found["about"]["epochs"] else ""
    return "\n\n".join(
        [
            "## Detectors by name",
            "The fixed split of captures, each detector with everything that belongs to it (of the cross-modal one, "
            f"with labels, the trees), {found['about']['seeds']} seed{epochs}. Macro over families; limits read off "
            f"the {found['about']['benign']:,} benign rows. Attacked: TPR at 1e-3 where the originator pads, adds "
            "junk and packets and slows down. Incidents at the default budget, without the site's history. Speed on "
            "one busy core, features made before: read it as a ratio. Numbers: of the network.",
            table(
                ["detector", "seeds", "TPR at 1e-2", "at 1e-3", "AUROC", "attacked, at 1e-3", "incidents found",
                 "false", "connections a second", "numbers"],
                rows,
            ),
        ]
    )  # fmt: skip
