"""Leave-one-collection-out in Markdown: the main table of captures."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from cmdana_plugin.evaluation.whole_days.page import table

MARK: Final = "<!-- collections -->"  # before and after this section of a page


def words(found: dict[str, Any]) -> str:
    """The findings, for people who want to know what is found on a network like none that was learned."""
    about = found["about"]
    rows = []
    for name, runs in found["detectors"].items():
        macro = np.mean([r["macro"] for r in runs], axis=0)
        family = np.mean([r["families"] for r in runs], axis=0)
        nominal, limit = (np.mean([r["captures"][k] for r in runs], axis=0) for k in ("nominal", "at_limit"))
        rows.append(
            [name, len(runs), *(f"{x:.3f}" for x in macro), *(f"{x:.3f}" for x in family[:2]),
             f"{nominal[0]:.2f} at {nominal[1]:.3f}", f"{limit[0]:.2f}"]
        )  # fmt: skip
    rows.sort(key=lambda r: -float(r[2]))
    best = found["detectors"][rows[0][0]]
    first = found["detectors"][rows[0][0]][0]
    out = [
        "## Networks like none that was learned",
        f"Leave-one-collection-out: {about['collections']} collections of captures, {about['captures']} captures, "
        f"{about['benign']:,} benign and {about['malicious']:,} malicious connections. Each collection in turn is "
        "judged by what learned from all others and took its p-values from benign captures of others. Macro over the "
        f"{len(first['collections'])} collections with attacks of the mean over their families of five or more "
        f"connections; the limit of a false-positive rate is the one at which the "
        f"{about['with_benign']} collections with twenty or "
        "more benign connections, each counting alike, have that rate on average (read off them, for every detector "
        "alike: a ranking, no promise). Captures: share of attack captures with an alarm on a malicious connection, "
        "at the share of benign captures with any; at the nominal 1e-3, and at the limit that leaves .02 of them. "
        "Self-calibrated: each score (-ln p) less half of the quantile .9 of the earlier ones of its protocol and "
        "service in its capture.",
        table(
            ["detector", "seeds", "TPR at 1e-2", "at 1e-3", "AUROC", "families: at 1e-2", "at 1e-3",
             "captures at nominal 1e-3", "at .02"],
            rows,
        ),
        f"By collection, `{rows[0][0]}`:",
        table(
            ["collection", "benign", "nominal 1e-2 became", "1e-3 became", "TPR at 1e-2", "at 1e-3", "AUROC"],
            [_of_collection(name, best, first) for name in sorted({*first["collections"], *first["realised"]})],
        ),
        f"Data {about['data']}" + (f"; {about['epochs']} passes" if about["epochs"] else "") + ".",
    ]  # fmt: skip
    return "\n\n".join(out)


def _of_collection(name: str, runs: list[dict[str, Any]], first: dict[str, Any]) -> list[str]:
    benign = np.mean([r["realised"][name] for r in runs], axis=0) if name in first["realised"] else None
    bad = np.mean([r["collections"][name] for r in runs], axis=0) if name in first["collections"] else None
    return [
        name,
        *(["", "", ""] if benign is None else [f"{benign[0]:,.0f}", f"{benign[1]:.3f}", f"{benign[2]:.4f}"]),
        *(["", "", ""] if bad is None else [f"{x:.2f}" for x in bad]),
    ]
