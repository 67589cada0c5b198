"""The page of results, written from the findings: first what a reader wants to know, then the tables."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from cmdana_plugin import files
from cmdana_plugin.detector import CROSS_MODAL
from cmdana_plugin.evaluation import own_network
from cmdana_plugin.evaluation.adversary import hardening as of_hardening
from cmdana_plugin.evaluation.adversary import networks as of_networks
from cmdana_plugin.evaluation.adversary import page as of_adversary
from cmdana_plugin.evaluation.adversary import poison as of_poison
from cmdana_plugin.evaluation.baselines import BASELINES, WITH_LABELS
from cmdana_plugin.evaluation.metrics import COLUMNS, Floats
from cmdana_plugin.evaluation.protocol import SHIPPED, UNLABELLED, VARIANTS, Section
from cmdana_plugin.evaluation.tables import page as of_heads
from cmdana_plugin.evaluation.transfer import detectors as of_detectors
from cmdana_plugin.evaluation.transfer import missing as of_missing
from cmdana_plugin.evaluation.transfer import page as of_collections
from cmdana_plugin.evaluation.whole_days import page as of_days
from feature_extractors import CmdanaError

_AT2, _AT3, _AUROC = COLUMNS.index("tpr@0.01"), COLUMNS.index("tpr@0.001"), COLUMNS.index("auroc")
_PR = COLUMNS.index("pr")
_CLAIMS: Final = (
    ("static gate", "a gate that moves with the state over a fixed one", 0.02),
    ("concatenation", "cross-modal attention over plain concatenation", 0.05),
    ("random masking", "leaving a modality out over masking at random", 0.0),
    ("no learned memory", "learned memory over counts alone", 0.0),
    ("no state at all", "state over none", 0.10),
)
_ANCHORS: Final = (
    ("NSL-KDD", "kNN / GMM / isolation forest, benign only, trained on the 20 % file", "AUROC .965 / .966 / .947, "
     "TPR at 1 % .53 / .53 / .53, at 0.1 % .16 / .14 / .13"),
    ("NSL-KDD", "random forest / LightGBM at 0.5", "accuracy .771 / .777, F1 .755 / .763, AUROC .963 / .954"),
    ("UNSW-NB15, official split (not ours)", "XGBoost / random forest / MLP at 0.5",
     "accuracy .866 / .864 / .857, FPR .259 / .266 / .282"),
    ("UNSW-NB15, official split (not ours)", "autoencoder / isolation forest, benign only",
     "F1 .417 at FPR .026 / .011 at .015"),
)  # fmt: skip


def check_pages(page: Path) -> None:
    """Raises `CmdanaError` for a page, or one beside it, that has no place for any section, or half of one."""
    for each in (page, squeezed_page(page)):
        if each != page and not each.is_file():
            continue
        text = each.read_text(encoding="utf-8") if each.is_file() else ""
        counts = {mark: text.count(mark) for mark, _ in SECTIONS.values()}
        if wrong := [mark for mark, count in counts.items() if count not in (0, 2)]:
            raise CmdanaError(
                f"{each}: found {wrong[0]} {counts[wrong[0]]} times, expected before and after a section"
            )
        if not any(counts.values()):
            raise CmdanaError(
                f"{each}: expected a page with marks before and after its sections, like {counts.popitem()[0]}"
            )


def squeezed_page(page: Path) -> Path:
    """Where squeezed recordings stand: docs/results-squeezed.md beside docs/results.md."""
    return page.with_name(f"{page.stem}-squeezed{page.suffix}")


def write_pages(found: Mapping[str, Section], page: Path) -> None:
    """Each section of the findings where the page of results, or the one beside it, has its marks.

    What the findings hold nothing of stays as it is.
    """
    check_pages(page)
    for each in (page, squeezed_page(page)):
        if not each.is_file():
            continue
        for name, (mark, _) in SECTIONS.items():
            text = each.read_text(encoding="utf-8")
            if name in found and text.count(mark) == 2:
                before, old, after = text.split(mark)
                new = _section(name, found, old)
                if name == "heads":
                    _draw(found[name], page.parent / "pictures")
                files.replace(each, f"{before}{mark}\n\n{new}\n\n{mark}{after}".encode())


def _draw(heads: Section, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for file, picture in of_heads.pictures(heads).items():
        files.replace(folder / file, picture.encode())


def _section(name: str, found: Mapping[str, Section], before: str = "") -> str:
    """With the parts that stood `before` and that the findings hold nothing of."""
    made = found.get("made", {}).get(name)
    how = f"\n\n`{made['command']}`, code {made['code_digest'][:12]}." if made else ""
    return f"{of_days.with_others(SECTIONS[name][1](found[name]), before)}{how}"


def words(found: Mapping[str, Section]) -> str:
    """The findings in Markdown, all sections."""
    return "\n\n".join(_section(name, found) for name in SECTIONS if name in found) + "\n"


# In short


def _captures_in_short(captures: Section) -> list[str]:
    if SHIPPED not in captures["detectors"]:
        return []
    ours = _mean(captures, SHIPPED)
    lines = [
        f"- **Other captures of the collections that were learned** ({captures['about']['captures']} captures, "
        f"{captures['about']['benign']:,} benign and {captures['about']['malicious']:,} malicious connections, "
        f"{len(captures['families'])} families, of which "
        f"{sum(not f['seen'] for f in captures['families'].values())} kept out of training): "
        f"`cmdana` finds {ours[_AT2]:.2f} of a family's connections at a false-positive rate of 1e-2 and "
        f"{ours[_AT3]:.2f} at 1e-3, macro AUROC {ours[_AUROC]:.2f}. {_verdict(captures, SHIPPED)}"
    ]
    if UNLABELLED in captures["detectors"]:
        mine = _mean(captures, UNLABELLED)
        lines.append(
            f"- **The same without labels**: {mine[_AT2]:.2f} and {mine[_AT3]:.2f}, AUROC {mine[_AUROC]:.2f}. "
            f"{_verdict(captures, UNLABELLED)}"
        )
    told = captures.get("incidents", {}).get(SHIPPED)
    if told:
        lines.append(
            f"- **What an operator is told there**: {_avg(told, 'found'):.1f} of {told[0]['incidents']} incidents, "
            f"{_avg(told, 'false_per_million'):,.0f} false notices per million connections; a found one after "
            f"{_known(told, 'delay')} s and {_known(told, 'within')} of its connections (medians)."
        )
    if UNLABELLED in captures["detectors"]:
        lines += _claims(captures)
    return lines


def _own_in_short(own: Mapping[str, Section]) -> list[str]:
    lines = []
    for network, site in own.items():
        name = _ours(site.get("detectors", {}))
        if name is None:
            continue
        ours, told = _mean(site, name), site["incidents"][name]
        where = (
            f"trained on its own {site['trained']:,} normal connections" if site["own"] else "thresholds only"
        )
        lines.append(
            f"- **{network}** ({where}): {ours[_AT2]:.2f} at 1e-2, {ours[_AT3]:.2f} at 1e-3, "
            f"{_avg(told, 'found'):.1f} of {told[0]['incidents']} incidents found, "
            f"{_avg(told, 'false_per_day'):.1f} false notices a day of recording. {_verdict(site, name)}"
        )
        if name in site["realised"]:
            rates = np.array(site["realised"][name])
            lines.append(
                f"  Nominal 1e-3 became {_list(rates[:, 1], 5)} on {site['later']:,} later normal connections, by seed."
            )
    return lines


def _tables_in_short(tables: Mapping[str, Section]) -> list[str]:
    lines = []
    for name, table in tables.items():
        if SHIPPED not in table["pooled"]:
            continue
        ranked = {n: float(_down(v)[4]) for n, v in table["pooled"].items()}
        rest = {n: a for n, a in ranked.items() if n in BASELINES}
        best = max(rest, key=lambda n: rest[n]) if rest else ""
        lines.append(
            f"- **{name}**: AUROC {ranked[SHIPPED]:.3f} with labels, {ranked.get(UNLABELLED, float('nan')):.3f} without"
            + (f"; best baseline `{best}` {rest[best]:.3f}." if best else ".")
        )
    return lines


def _ours(names: Container[str]) -> str | None:
    """The one of ours that speaks for a network: as it ships, or what is learned there only."""
    return next((n for n in (SHIPPED, own_network.SITE_ONLY) if n in names), None)


def _verdict(section: Section, ours: str) -> str:
    rivals = section.get("against", {}).get(ours)
    if not rivals:
        return ""
    best = max(rivals, key=lambda r: _mean(section, r)[_AT3])
    d = rivals[best]
    low, high = d["interval"]
    word = "ahead of" if low > 0 else "behind" if high < 0 else "level with"
    return (
        f"At 1e-3 it is {word} the best baseline {'with labels too' if best in WITH_LABELS else 'without labels'}, "
        f"`{best}` ({_mean(section, best)[_AT3]:.2f}): {d['difference']:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}."
    )


def _claims(captures: Section) -> list[str]:
    ours = _mean(captures, CROSS_MODAL if CROSS_MODAL in captures["detectors"] else UNLABELLED)
    lines = []
    for name, claim, wanted in _CLAIMS:
        if name in captures["detectors"]:
            d = ours - _mean(captures, name)
            held = "holds" if d[_AT3] >= max(wanted, 0.005) else "fails"
            lines.append(
                f"  - {claim}: {d[_AT3]:+.3f} at 1e-3, {d[_AUROC]:+.3f} in AUROC"
                + (f" (asked for {wanted:+.2f}: {held})" if wanted else "")
            )
    return (
        ["- **What the parts are worth** without labels on other captures of learned collections:", *lines]
        if lines
        else []
    )


# Sections


def _captures(found: Section) -> str:
    about = found["about"]
    out = [
        "## Other captures of the collections that were learned",
        "\n".join(_captures_in_short(found)),
        f"Trained on {about['train']:,} connections, calibrated on {about['calibrate']:,} benign ones of other "
        "captures. "
        f"TPR is read off the test split's own {about['benign']:,} benign rows, macro over families of five or more "
        "connections; 1e-4 would need 50,000 benign rows and is not given. Intervals: 95 %, 1000 paired draws of "
        "whole captures, mean of the seeds.",
        _ranking(found, [n for n in found["detectors"] if n in BASELINES or n in (SHIPPED, UNLABELLED)]),
    ]
    if found.get("against"):
        out += [
            "Macro TPR at 1e-3, difference to each baseline (Holm-corrected over the baselines):",
            _rivals(found),
        ]
    out += ["### Families", _families(found)]
    if found.get("incidents"):
        out += [
            "### Incidents",
            "Verdicts and notices of the whole product at its default budget (20 alerts in 20,000 connections), each "
            "capture from its beginning. An incident is one family in one capture; a notice is false if it rests on "
            "benign connections only. The baselines feed the same decisions with their own calibrated p-values. These "
            "captures last minutes: read rates per million connections, not per day.",
            _incidents(found["incidents"]),
            _delays(found["incidents"]),
        ]
    variants = [n for n in VARIANTS if n in found["detectors"] and n != SHIPPED]
    if variants:
        out += [
            "### Ablations and controls",
            "Of the self-supervised part alone (no trees), each trained anew; differences under two points are noise.",
            _ranking(found, [UNLABELLED, *variants], plain=True),
        ]
    if found.get("components"):
        out += ["Components and ways to fuse, no training anew:", _macros(found["components"], found)]
    if found.get("budgets"):
        out += ["### With few labels", _budgets(found["budgets"])]
    supervised = {n: d["supervised"] for n, d in found["detectors"].items() if d["supervised"]}
    if supervised:
        out += ["### The supervised head as a probability", _supervised(supervised)]
    shown = [n for n in found["detectors"] if n not in VARIANTS or n == SHIPPED]
    realised = {n: d for n in shown if (d := found["detectors"][n]["realised"])}
    out += ["### Nominal and realised false-positive rate on other networks", _realised(realised)]
    out.append(f"Data {about['data']}.")
    return "\n\n".join(p for p in out if p)


def _own(found: Section) -> str:
    out = [
        "## A network of one's own",
        "Learn a network's normal, calibrate on later normal of the same, judge later normal and bad days; all "
        "detectors take their thresholds from the same benign rows. Baselines without labels learn the same normal; "
        "those with labels learn the labelled captures of other networks and this normal. Networks that nobody "
        "learned are judged with what was learned on the first.",
        "\n".join(_own_in_short(found)),
    ]
    for network, site in found.items():
        out.append(f"### {network}")
        known = site.get("about", {})
        if "made" in site:
            out.append(f"`{site['made']['command']}`, code {site['made']['code_digest'][:12]}.")
        out.append(
            f"Recordings {', '.join(site['recordings'])}; {site['trained']:,} normal connections to learn from, "
            f"{site['calibrated']:,} to calibrate, {site['later']:,} later normal ones"
            + (
                f"; judged on {known['benign']:,} benign and {known['malicious']:,} malicious ones, intervals over "
                f"{known['blocks']} stretches of a minute."
                if "benign" in known
                else "."
            )
            + f" Data {known['data']}."
        )
        if "detectors" in site:
            variants = [n for n in VARIANTS if n in site["detectors"] and n != SHIPPED]
            out += [_ranking(site, [n for n in site["detectors"] if n not in variants])]
            out += [_rivals(site), _families(site)]
            if variants:
                out += [
                    "Ablations and controls of what is learned here only, the model alone (no site history), each "
                    "trained anew; differences under two points are noise.",
                    _ranking(site, [own_network.SITE_MODEL, *variants], plain=True),
                ]
        if site["realised"]:
            out.append(_realised(site["realised"]))
        if site.get("cold"):
            out += [_COLD, _cold(site["cold"])]
        out += [_incidents(site["incidents"]), _delays(site["incidents"])]
    return "\n\n".join(p for p in out if p)


def _tables(found: Section) -> str:
    out = [
        "## Flat tables",
        "No packets, logs or past: groups of fields stand in for modalities, the rest of the detector (mixture, trees, "
        "calibration by protocol, fusion) is as it ships. The threshold leaves 1 % of held-back benign training rows "
        "above it; FPR, recall, accuracy and F1 on the test rows are at that threshold, the rest are rankings.",
        "\n".join(_tables_in_short(found)),
    ]
    for name, table in found.items():
        about = table["about"]
        sizes = f"{about['benign']:,} benign and {about['malicious']:,} malicious test rows"
        out.append(f"### {name}\n\n{about['protocol']}. {sizes}. Data {about['data']}.")
        rows = []
        for n in sorted(table["pooled"], key=lambda n: -_down(table["pooled"][n])[4]):
            m, s = _down(table["pooled"][n]), np.array(table["pooled"][n], np.float64).std(axis=0)
            labels = "yes" if table["detectors"].get(n, {}).get("labels") else "no"
            macro = _down(table["detectors"][n]["macro"])[_AT2] if n in table["detectors"] else float("nan")
            rows.append(
                [n, labels, len(table["pooled"][n]), f"{m[4]:.3f} ± {s[4]:.3f}", *(f"{x:.2f}" for x in m[5:8]),
                 f"{macro:.2f}", *(f"{x:.3f}" for x in m[:4])]
            )  # fmt: skip
        head = "detector|labels|seeds|AUROC|TPR at 5 %|1 %|0.1 %|1 %, macro|FPR|recall|accuracy|F1"
        out.append(of_days.table(head.split("|"), rows))
    out += [
        "Published and earlier figures beside them (not all on this protocol):",
        of_days.table(["table", "method", "figures"], _ANCHORS),
    ]
    return "\n\n".join(p for p in out if p)


def _robustness(found: Section) -> str:
    rows = [
        [name, *(f"{np.mean(found['detectors'][d][name]):.2f}" for d in found["detectors"])]
        for name in found["attacks"]
    ]
    return "\n\n".join(
        [
            "## An attacker who owns the originator",
            found["about"],
            of_days.table(["perturbation", *found["detectors"]], rows),
        ]
    )


# By name of a section of the findings: the mark before and after it on a page, and its words.
SECTIONS: Final[Mapping[str, tuple[str, Callable[[Section], str]]]] = {
    "days": (of_days.MARK, of_days.section),
    "collections": (of_collections.MARK, of_collections.words),
    "captures": ("<!-- captures -->", _captures),
    "own": ("<!-- own -->", _own),
    "tabular": ("<!-- tabular -->", _tables),
    "robustness": ("<!-- robustness -->", _robustness),
    "detectors": (of_detectors.MARK, of_detectors.words),
    "missing": (of_missing.MARK, of_missing.words),
    "adversary": (of_adversary.MARK, of_adversary.words),
    "hardening": (of_hardening.MARK, of_hardening.words),
    "descent": (of_networks.MARK, of_networks.words),
    "poison": (of_poison.MARK, of_poison.words),
    "heads": (of_heads.MARK, of_heads.words),
}


# Tables


def _ranking(found: Section, names: Sequence[str], plain: bool = False) -> str:
    names = sorted(
        (n for n in names if n in found["detectors"]), key=lambda n: -np.nan_to_num(_mean(found, n)[_AT3])
    )
    unseen = any(found["detectors"][n]["unseen"] for n in names)
    head = [
        "detector",
        *([] if plain else ["labels"]),
        "seeds",
        "TPR at 1e-2",
        "at 1e-3",
        "interval",
        "AUROC",
    ]
    head += ["PR-AUC", "1 in 1000", "1 in 10,000"] + (["unseen families at 1e-3"] if unseen else [])
    rows = []
    for n in names:
        d = found["detectors"][n]
        m, s = _mean(found, n), np.array(d["macro"], np.float64).std(axis=0)
        low, high = d["interval"]
        rows.append(
            [f"**{n}**" if n == SHIPPED else n, *([] if plain else ["yes" if d["labels"] else "no"]), len(d["macro"]),
             f"{m[_AT2]:.3f} ± {s[_AT2]:.3f}", f"{m[_AT3]:.3f} ± {s[_AT3]:.3f}", f"{low:.2f} to {high:.2f}",
             *(f"{m[k]:.3f}" for k in (_AUROC, _PR, _PR + 1, _PR + 2)),
             *([f"{_down(d['unseen'])[_AT3]:.3f}" if d["unseen"] else ""] if unseen else [])]
        )  # fmt: skip
    return of_days.table(head, rows)


def _rivals(found: Section) -> str:
    rows = []
    for ours, rivals in found.get("against", {}).items():
        for r, d in sorted(rivals.items(), key=lambda x: x[1]["difference"]):
            low, high = d["interval"]
            rows.append([ours, r, f"{d['difference']:+.3f}", f"{low:+.3f} to {high:+.3f}", f"{d['p']:.3f}"])
    return (
        of_days.table(["ours", "baseline", "difference", "95 % interval", "corrected p"], rows)
        if rows
        else ""
    )


def _families(found: Section) -> str:
    first = _ours(found["detectors"])
    shown = [n for n in (first, UNLABELLED) if n is not None and n in found["detectors"]]
    rivals = [n for n in found["detectors"] if n in BASELINES]
    for kind in (True, False):
        mine = [n for n in rivals if (n in WITH_LABELS) == kind]
        if mine:
            shown.append(max(mine, key=lambda n: np.nan_to_num(_mean(found, n)[_AT3])))
    if not shown:
        return ""
    rows = []
    for f, about in found["families"].items():
        row = [f + ("" if about["seen"] else " *"), about["count"]]
        for n in shown:
            m = _down(found["detectors"][n]["families"][f])
            row += [f"{m[_AT2]:.2f}", f"{m[_AT3]:.2f}"]
        rows.append(row)
    head = ["family", "n"]
    for n in shown:
        head += [f"{n} 1e-2", "1e-3"]
    note = (
        "\n\n\\* in no training material." if any(not f["seen"] for f in found["families"].values()) else ""
    )
    return of_days.table(head, rows) + note


def _incidents(told: Mapping[str, Sequence[Section]]) -> str:
    rows = []
    for n, runs in sorted(told.items(), key=lambda x: -_avg(x[1], "found")):
        benign = runs[0]["benign"]
        flagged = f"{1e3 * _avg(runs, 'flagged') / benign:.2f}" if benign else ""
        found = f"{_avg(runs, 'found'):.1f} of {runs[0]['incidents']}"
        counts = [f"{_avg(runs, k):,.1f}" for k in ("notices", "false", "false_per_day")]
        million = f"{_avg(runs, 'false_per_million'):,.0f}"
        rows.append(
            [n, len(runs), found, *counts, million, flagged, _known(runs, "delay"), _known(runs, "within")]
        )
    head = (
        "detector|seeds|incidents found|notices|false|false a day|false per million|benign flagged, per 1000|delay, s|"
        "connections until told"
    )
    return of_days.table(head.split("|"), rows)


def _delays(told: Mapping[str, Sequence[Section]]) -> str:
    name = _ours(told)
    if name is None:
        return ""
    runs = told[name]
    rows = []
    for f, first in runs[0]["families"].items():
        mine = [r["families"][f] for r in runs]
        delay = [m[2] for m in mine if m[2] is not None]
        within = [m[3] for m in mine if m[3] is not None]
        rows.append(
            [f, first[0], f"{np.mean([m[1] for m in mine]):.1f}", f"{np.median(delay):,.1f}" if delay else "",
             f"{np.median(within):,.0f}" if within else ""]
        )  # fmt: skip
    return f"Per family, `{name}`:\n\n" + of_days.table(
        ["family", "incidents", "found", "delay, s", "connections until told"], rows
    )


def _macros(rows: Mapping[str, Sequence[Sequence[float]]], found: Section) -> str:
    whole = {SHIPPED: found["detectors"][SHIPPED]["macro"], **rows}
    means = {n: _down(r) for n, r in whole.items()}
    return of_days.table(
        ["fusion of", "TPR at 1e-2", "at 1e-3", "AUROC"],
        [
            [n, f"{m[_AT2]:.3f}", f"{m[_AT3]:.3f}", f"{m[_AUROC]:.3f}"]
            for n, m in sorted(means.items(), key=lambda x: -x[1][_AT3])
        ],
    )


def _budgets(budgets: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]) -> str:
    rows = []
    for n, r in budgets.items():
        fused = _down(r["fused"])
        trees = _down(r["trees"]) if r["trees"] else fused * np.nan
        rows.append(
            [n, len(r["fused"]), *(_short(x) for k in (_AT2, _AT3, _AUROC) for x in (fused[k], trees[k]))]
        )
    head = "malicious labels|seeds|cmdana at 1e-2|trees alone|cmdana at 1e-3|trees alone|cmdana AUROC|trees alone"
    return of_days.table(head.split("|"), rows)


def _supervised(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    rows = [
        [n, *(f"{np.mean([r[k] for r in runs]):.3f}" for k in ("ece", "brier", "f1", "mcc", "tpr", "fpr"))]
        for n, runs in found.items()
    ]
    return of_days.table(["head of", "ECE", "Brier", "macro F1 at 0.5", "MCC", "recall", "FPR"], rows)


def _realised(found: Mapping[str, Sequence[Sequence[float]]]) -> str:
    rows = []
    for n, runs in found.items():
        a = np.array(runs)
        rows.append([n, _list(a[:, 0], 4), _list(a[:, 1], 5)])
    return of_days.table(["detector", "nominal 1e-2, by seed", "nominal 1e-3, by seed"], rows)


_COLD: Final = (
    "The same connections from an empty state, as after a restart or in a capture of their own: what the nominal rates "
    "become, over all and over the first thousand of each recording, and what is found there."
)


def _cold(found: Mapping[str, Sequence[Section]]) -> str:
    rows = []
    for n, runs in found.items():
        all_of, first = (np.array([r[k] for r in runs]).mean(axis=0) for k in ("realised", "first"))
        macro = _down([r["macro"] for r in runs]) if all("macro" in r for r in runs) else None
        rows.append(
            [n, len(runs), f"{all_of[0]:.4f}", f"{all_of[1]:.5f}", f"{first[0]:.4f}", f"{first[1]:.5f}"]
            + ([f"{macro[_AT2]:.3f}", f"{macro[_AT3]:.3f}"] if macro is not None else ["", ""])
        )
    head = "detector|seeds|nominal 1e-2|nominal 1e-3|first: 1e-2|first: 1e-3|TPR at 1e-2|at 1e-3"
    return of_days.table(head.split("|"), rows)


def _mean(found: Section, name: str) -> Floats:
    return _down(found["detectors"][name]["macro"])


def _down(rows: Sequence[Sequence[float | None]]) -> Floats:
    """Mean over seeds; null, which is NaN, stays unknown."""
    mean: Floats = np.array(rows, np.float64).mean(axis=0)
    return mean


def _avg(runs: Sequence[Section], key: str) -> float:
    return float(np.array([r[key] for r in runs], np.float64).mean())


def _known(runs: Sequence[Section], key: str) -> str:
    values = [r[key] for r in runs if r[key] is not None]
    return f"{np.median(values):,.0f}" if values else ""


def _list(values: Iterable[float], digits: int) -> str:
    return ", ".join(f"{v:.{digits}f}" for v in values)


def _short(x: float) -> str:
    return "" if np.isnan(x) else f"{x:.3f}"
