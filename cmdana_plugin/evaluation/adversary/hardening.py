"""What adversarial training of trees (`cmdana_plugin.training.adversarial`) gains under attack, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.config import Config
from cmdana_plugin.detector import Trees, tabulate
from cmdana_plugin.evaluation.adversary import search
from cmdana_plugin.evaluation.adversary.attacker import CHANGES, NONE, WORST, kept, perturbed
from cmdana_plugin.evaluation.metrics import COLUMNS, LEAST, judge
from cmdana_plugin.evaluation.protocol import Section, Split
from cmdana_plugin.evaluation.whole_days.page import table
from cmdana_plugin.evaluation.whole_days.told import Streamed
from cmdana_plugin.training import COPIES, WAYS, Corpus, balance, copies_of, gather, hardened
from feature_extractors import Windows
from feature_extractors.features import load_schema

Progress = Callable[[str, float], None]

MARK: Final = "<!-- hardening -->"  # before and after this section of a page
TREES: Final = "boosted"  # their name among what is hardened
DEFAULT: Final = (TREES, "residual-attention")
ALL: Final = "all"
_TOGETHER: Final = "all but splitting together"
_SHOWN: Final = ("tpr@0.01", "tpr@0.001", "auroc")


def named(ways: Sequence[str] | None) -> list[str]:
    """The ways of `--hardening`, all of them for `all`."""
    return list(WAYS) if ways and ALL in ways else list(ways or ())


@dataclass(slots=True)
class OfTrees:
    """Trees as a baseline: fitted elsewhere."""

    trees: Trees

    def fit(self, corpus: Corpus, rows: NDArray[np.bool_], seed: int) -> None:
        raise AssertionError("fitted elsewhere")

    def score(self, corpus: Corpus) -> NDArray[np.float64]:
        return self.trees.score(tabulate(corpus.features, corpus.state))


def evaluate(
    split: Split,
    ordinary: Windows,
    config: Config,
    ways: Sequence[str] = WAYS,
    *,
    seeds: Sequence[int] = (0,),
    tries: int = search.TRIES,
    families: int | None = None,
    progress: Progress = lambda _what, _share: None,
    partial: Callable[[Section], None] = lambda _found: None,
) -> Section:
    """The findings of trees hardened in each way: what they find clean, changed by a list, and against the search."""
    schema = load_schema()
    learn, held, test = (gather(part, schema) for part in (split.train, split.calibrate, split.test))
    progress("changing the test split", 0.0)
    changed, orders = {NONE: test}, {NONE: np.arange(len(test))}
    for name, change in CHANGES.items():
        made = [perturbed(r, change) for r in split.test]
        changed[name] = gather([r for r, _ in made], schema)
        orders[name] = np.concatenate([o + a for (_, o), a in zip(made, test.bounds[:-1], strict=True)])
    family = np.array(test.family, dtype=object)
    bad = test.label == 1
    kinds = [f for f in sorted(set(family[bad])) if (bad & (family == f)).sum() >= LEAST]
    rows = learn.label >= 0
    malicious, weight = learn.label[rows] == 1, balance(learn, rows)[rows]
    clean = tabulate(learn.features, learn.state)[rows]
    found: Section = {
        "about": {"copies": COPIES, "tries": tries, "seeds": len(seeds), "families": len(kinds),
                  "benign": int((test.label == 0).sum()), "drawn": families},
        "budgets": list(search.BUDGETS),
        "ways": {},
    }  # fmt: skip
    for seed in seeds:
        progress(f"seed {seed}: copies", 0.05)
        copies = [c[rows] for c in copies_of(split.train, COPIES, seed)]
        for i, way in enumerate(ways):
            progress(f"{way}, seed {seed}", 0.1 + 0.9 * i / len(ways))
            model = OfTrees(hardened(way, clean, copies, malicious, weight, seed))
            scores = {what: model.score(corpus) for what, corpus in changed.items()}
            row = dict(zip(COLUMNS, judge(scores[NONE], test.label, test.family)[1].row(), strict=True))
            normal = model.score(held)[held.label == 0]
            victim = search.Victim(lambda m=model, s=normal, w=way: Streamed(w, m, s))  # type: ignore[misc]
            told = search.evaluate(
                {way: victim}, split.test, ordinary, config, families=families, tries=tries, seeds=(seed,)
            )
            against = told["detectors"][way]
            one: dict[str, Any] = {
                "clean": [row[c] for c in _SHOWN],
                "changed": kept(scores, orders, test.label, family, kinds),
                "attacks": len(against["attacks"]),
                "found": against["found"],
                "benign": against["benign"],
            }
            found["ways"].setdefault(way, []).append(one)
            partial(found)
    return found


def words(found: Mapping[str, Any]) -> str:
    """The findings in Markdown: gain and price of each way in one table."""
    about, budgets = found["about"], found["budgets"]
    rows = []
    for way, runs in found["ways"].items():
        clean = np.mean([r["clean"] for r in runs], axis=0)
        list_of = [np.mean([r["changed"][what] for r in runs]) for what in (_TOGETHER, WORST)]
        told = np.mean([r["found"] for r in runs], axis=0)
        benign = np.mean([r["benign"] for r in runs], axis=0)
        rows.append(
            [way, len(runs), *(f"{x:.3f}" for x in clean), *(f"{x:.3f}" for x in list_of),
             f"{benign[0]:.1f} of {benign[1]:.0f}", *(f"{x:.2f}" for x in told)]
        )  # fmt: skip
    return "\n\n".join(
        [
            "## Adversarial training",
            f"Boosted trees of the training captures, which also learn one changed copy of every connection out of "
            f"{about['copies']} (one to three moves of an attacker's, at a factor of four at most; benign "
            "connections are changed too): drawn, or the one that plain trees are most wrong about, by its label "
            "(searched) or by the score that plain trees gave to the connection as it was (consistent, as TRADES). "
            f"Price: macro over {about['families']} families on the test split as it is, limits read off its "
            f"{about['benign']:,} benign rows, and benign captures noticed. Gain: at 1e-3 where an originator changes "
            "all but splitting, and the worst of seven changes for each connection; and the share of attacks that a "
            f"notice still rests on after a search of {about['tries']} plans each, by what the attacker pays at most"
            f"{' (of families drawn)' if about.get('drawn') else ''}. "
            f"{about['seeds']} seed{'' if about['seeds'] == 1 else 's'}.",
            table(
                ["learned", "seeds", "TPR at 1e-2", "at 1e-3", "AUROC", "changed, at 1e-3", "worst of seven",
                 "benign captures noticed", *(f"found at x{b:g}" for b in budgets)],
                rows,
            ),
        ]
    )  # fmt: skip
