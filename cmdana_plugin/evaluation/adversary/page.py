"""The search against detectors in Markdown: what is still found, by what the attacker pays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from cmdana_plugin.evaluation.adversary.replayed import COLUMNS, mean_of
from cmdana_plugin.evaluation.whole_days.page import table

MARK: Final = "<!-- adversary -->"  # before and after this section of a page


def words(found: Mapping[str, Any]) -> str:
    """The findings, for people who ask what an attacker has to pay not to be found."""
    about, budgets = found["about"], found["budgets"]
    out = [
        "## An attacker who searches",
        f"{about['attacks']} attacks of {about['families']} families (captures of the test split with "
        f"{about['most']} connections at most, the largest {about['each']} of a family), each against each "
        "detector from an empty state: "
        f"{about['tries']} plans by greedy and evolutionary search over padding, more packets, splitting, delay within "
        "and between connections, jitter, several source hosts, ordinary use mixed in and, where the server is the "
        "attacker's own, its port. Connections, packets, order and what follows from them (counts, state, behaviour) "
        "are computed again, every outcome passes a check of what an originator can change, and cost is the greatest "
        "of "
        f"four factors: time, bytes, connections, hosts. {about['seeds']} seed. An attack is found where a notice "
        "rests on it. At a factor of 1 nothing may cost more.",
        "Share of all attacks that are found whatever is tried at that cost:",
        table(
            ["detector", "benign captures noticed", "attacks", *(f"x{b:g}" for b in budgets)],
            [
                [n, "{} of {}".format(*d["benign"]), len(d["attacks"]), *(f"{x:.2f}" for x in d["found"])]
                for n, d in found["detectors"].items() if d["attacks"]
            ],
        ),
        "The same of the attacks that are found as they are, and of all as the search goes on (after one try, a third, "
        "two thirds, all of them, at any cost): a search that no longer finds anything new with more tries would say "
        "less about the detector than about itself.",
        table(
            ["detector", *(f"x{b:g}" for b in budgets), "1 try", "a third", "two thirds", "all"],
            [
                [n, *(f"{x:.2f}" for x in d["kept"] or [float("nan")] * len(budgets)),
                 *(f"{x:.2f}" for x in d["as_it_goes_on"])]
                for n, d in found["detectors"].items() if d["attacks"]
            ],
        ),
    ]  # fmt: skip
    out += _replayed(found["detectors"])
    for name, detector in found["detectors"].items():
        families: dict[str, list[Any]] = {}
        for row in detector["attacks"]:
            families.setdefault(row["family"], []).append(row)
        moves: Counter[str] = Counter()
        for row in detector["attacks"]:
            if row["cheapest"] is not None and row["found"][0]:
                moves.update(move.split(" ")[0] for move in row["cheapest"][0].split(", "))
        said = ", ".join(f"{move} {count}" for move, count in moves.most_common())
        known = {f: rows for f, rows in families.items() if any(r["found"][0] for r in rows)}
        out += [
            f"By family, `{name}`" + (f" (moves of the cheapest plans that hide: {said})" if said else "") + ":",
            table(
                ["family", "attacks", *(f"x{b:g}" for b in budgets), "cheapest plan that hides one"],
                [[f, len(rows), *(sum(r["found"][i] for r in rows) for i in range(len(budgets))), _cheapest(rows)]
                 for f, rows in sorted(known.items())],
            ),
            f"Not found as they are: {', '.join(sorted(families.keys() - known.keys())) or 'none'}.",
        ]  # fmt: skip
    return "\n\n".join(out)


def _replayed(detectors: Mapping[str, Any]) -> list[str]:
    """Whether plans that hide can be: their captures against what was computed of them."""
    rows = []
    for name, detector in detectors.items():
        checked = [r["replayed"] for r in detector["attacks"] if "replayed" in r]
        if checked:
            same = mean_of([c["same"] for c in checked])
            hidden = sum(not c["found"] for c in checked)
            rows.append([name, f"{hidden} of {len(checked)}", *(f"{x:.2f}" for x in same.values())])
    if not rows:
        return []
    return [
        "The cheapest plan that hides an attack, in real packets: its capture rewritten (padding inside the payload, "
        "junk before a connection is closed, sequence numbers moved along) and replayed. How many still hide, and the "
        "mean share of an attack's connections that are there and the same as computed, by column (within a "
        "hundredth). What a protocol's analyzer makes of padding and junk is what differs most.",
        table(["detector", "still hide", "there", *COLUMNS], rows),
    ]


def _cheapest(rows: list[Any]) -> str:
    plans = [r["cheapest"] for r in rows if r["cheapest"] is not None and r["found"][0]]
    if not plans:
        return ""
    words, cost = min(plans, key=lambda p: p[1])
    return f"{words} (x{cost:.2f})"
