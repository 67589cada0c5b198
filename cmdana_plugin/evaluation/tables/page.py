"""Heads that name classes in Markdown: figures of each, and the confusion matrix of the best and of the networks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from cmdana_plugin.evaluation.tables.picture import confusion_picture
from cmdana_plugin.evaluation.whole_days.page import PART, table

MARK: Final = "<!-- heads -->"  # before and after this section of a page
_FIGURES: Final = ("macro_f1", "weighted_f1", "accuracy", "mcc", "fpr")


def words(found: Mapping[str, Any]) -> str:
    """The findings, for people who compare them with published figures."""
    out = [
        "## Heads that name classes",
        "Flat tables, test rows as they are; balancing touches training rows alone. FPR: share of benign rows called "
        "an attack. Called unknown: rows whose energy is below that of all but one in a hundred training rows, which "
        "the other figures do not use.",
    ]
    for name, task in found.items():
        about, heads = task["about"], task["heads"]
        ranked = _ranked(heads)
        out += [
            PART.format(name),
            f"### {name}: classes",
            f"{about['protocol']}. {about['epochs']} passes of the networks.",
            table(
                ["head, balancing", "seeds", "macro F1", "weighted F1", "accuracy", "MCC", "FPR", "called unknown"],
                [[n, len(heads[n]), *(f"{_mean(heads[n], f):.3f}" for f in _FIGURES),
                  f"{np.mean([r['unknown']['shown_called_unknown'] for r in heads[n]]):.3f}"] for n in ranked],
            ),
            f"By class, `{ranked[0]}` (first seed): rows are the truth, columns what was said.",
            _matrix(heads[ranked[0]][0]),
            f"![{name}: rows are the truth, columns what was said](pictures/{_file(name)})",
        ]  # fmt: skip
        networks = [n for n in ranked if not n.startswith("boosted")]
        if networks and networks[0] != ranked[0]:
            out += [f"The best network, `{networks[0]}`:", _matrix(heads[networks[0]][0])]
        if made := task.get("made"):
            out.append(f"`{made['command']}`, code {made['code_digest'][:12]}.")
        out.append(PART.format(name))
    return "\n\n".join(out)


def pictures(found: Mapping[str, Any]) -> dict[str, str]:
    """The confusion matrix of each task's best head as SVG, by file name."""
    out = {}
    for name, task in found.items():
        best = _ranked(task["heads"])[0]
        out[_file(name)] = confusion_picture(task["heads"][best][0], f"{name}: {best}")
    return out


def _file(task: str) -> str:
    return f"heads-{re.sub('[^a-z0-9]+', '-', task.lower())}.svg"


def _ranked(heads: Mapping[str, Any]) -> list[str]:
    return sorted(heads, key=lambda n: -_mean(heads[n], "macro_f1"))


def _mean(runs: Sequence[Mapping[str, Any]], figure: str) -> float:
    return float(np.mean([r[figure] for r in runs]))


def _matrix(run: Mapping[str, Any]) -> str:
    """The confusion matrix with precision and recall of each class."""
    rows = [
        [
            name,
            *line[:-1],
            f"{recall:.2f}" if recall is not None and recall == recall else "",
            f"{precision:.2f}",
        ]
        for name, line, recall, precision in zip(
            run["names"], run["matrix"], run["recall"], run["precision"], strict=True
        )
    ]
    return table(["truth", *run["names"], "recall", "precision"], rows)
