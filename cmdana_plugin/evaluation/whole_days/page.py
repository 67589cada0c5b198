"""The part of the page of results that whole days give: what comes first there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from cmdana_plugin.evaluation.whole_days.alarms import BUDGETS
from cmdana_plugin.evaluation.whole_days.told import CHIEF, OURS

Section = Mapping[str, Any]

MARK: Final = "<!-- days -->"  # stands before and after this part of a page of results
# A part of a section stands between two of these; a line that sums it up ends with the other.
PART: Final = "<!-- part: {} -->"
_SHORT: Final = "<!-- in short: {} -->"
_IN_SHORT: Final = "## In short: whole days\n"
_TABLES: Final = "## Whole days\n"
_DAYS: Final = (
    "An **attack** is what one host does of one family in one day. It is found by an alarm that comes between its "
    "first packet and an hour after its end, names the attacker or a host at an end of its connections, and rests on "
    "connections of which at least a tenth are the attack's. Alarms that are true of no attack are false; false alarms "
    "about one host, each within an hour of the one before, are one **false incident**. All detectors learn the same "
    "normal days and take their thresholds from the same calibration days. *At a budget* is the laxest setting at "
    "which the calibration days have at most so many false incidents a day, with what the judged days really had; "
    "*the best point* is read off the judged days, for all alike, so it ranks and promises nothing. A day is 24 hours "
    "or the part of it that a site records. Delay: from the attack's first packet, and the attack's connections that "
    "had ended, medians of what is found. *Incident known*: a connection of an incident that was told has its p-value "
    "divided by one and what those like it in the incident (in vain, or of one service with one other end) bring, "
    "-log10 p beyond one in ten of each."
)


def section(found: Mapping[str, Section]) -> str:
    """All of it: the answers, the tables."""
    return "\n\n".join(p for p in (in_short(found), words(found)) if p)


def with_others(new: str, old: str) -> str:
    """A section `new` with the parts of `old` that it lacks (of days: networks): their answers, their tables."""
    for name in dict.fromkeys(re.findall(PART.format("(.+?)"), old)):
        mark = PART.format(name)
        if mark in new:
            continue
        if answers := [line for line in old.splitlines() if line.endswith(_SHORT.format(name))]:
            head, _, rest = new.partition(_TABLES)
            new = "\n".join([head.rstrip() or _IN_SHORT, *answers, "", _TABLES]) + rest
        new = f"{new}\n\n{mark}{old.split(mark)[1]}{mark}"
    return new


def in_short(found: Mapping[str, Section]) -> str:
    """The answers as sentences; every figure from the findings."""
    lines = []
    for network, site in found.items():
        about, detectors = site["about"], site["detectors"]
        name = _chief(detectors)
        if name is None or not about["attacks"]:
            continue
        runs = detectors[name]["runs"]
        lines.append(
            f"- **{network}** ({_use(site)}; {about['attacks']} attacks of {about['families']} families in "
            f"{about['judged_days']:.3g} days, {about['judged_hours']:.0f} hours): `{name}` finds "
            f"{_mean(runs, _shipped('found')):.1f} of them at {_mean(runs, _shipped('false_per_day')):.1f} false "
            f"incidents a day ({_mean(runs, _shipped('false_per_million')):,.0f} per million connections); at most 3 a "
            f"day by calibration: {_budget(runs, 3.0)}. Told after {_med(runs, 'delay')} s and "
            f"{_med(runs, 'within')} connections. Of a family's connections at 1e-3 "
            f"{_rate(runs, 'prospective', 1)} are told at the time, {_rate(runs, 'retrospective', 1)} once the "
            f"incident is known. {_rivals(detectors)} {_SHORT.format(network)}"
        )
    return _IN_SHORT + "\n" + "\n".join(lines) if lines else ""


def words(found: Mapping[str, Section]) -> str:
    """The tables of every network."""
    out = [f"{_TABLES}\n{_DAYS}"]
    for network, site in found.items():
        mark = PART.format(network)
        out += [mark, *_network(network, site), mark]
    return "\n\n".join(p for p in out if p)


def _network(network: str, site: Section) -> list[str]:
    about, detectors = site["about"], site["detectors"]
    counts = about["counts"]
    made = site.get("made")
    listed = "; ".join(
        f"{part}: {', '.join(names)} ({counts[part][0]:,} benign, {counts[part][1]:,} malicious, "
        f"{counts[part][2]:,} unknown connections)"
        for part, names in about["days"].items()
    )
    out = [
        f"### {network}: {_use(site)}",
        f"{listed}. Judged are {about['judged_days']:.3g} days, {about['judged_hours']:.1f} hours, "
        f"{about['attacks']} attacks of {about['families']} families. Data {about['data']}"
        + (f"; `{made['command']}`, code {made['code_digest'][:12]}." if made else "."),
        _incidents(detectors),
        _curve(detectors),
        _connections(detectors),
        _cold(detectors),
        _stretches(detectors),
        _where(detectors),
        _families(detectors),
        _who(detectors),
    ]
    return [p for p in out if p]


def _use(site: Section) -> str:
    return "looked at while choosing" if site["use"] == "choosing" else "unseen until now, looked at once"


def _chief(detectors: Mapping[str, Any]) -> str | None:
    return next((n for n in (CHIEF, *OURS) if n in detectors), None)


def _rivals(detectors: Mapping[str, Any]) -> str:
    """The best of others at three false incidents a day, by the best point of each curve."""
    said = []
    for kind, word in (("baseline", "best baseline"), ("peer", "best peer")):
        mine = [n for n, d in detectors.items() if d["kind"] == kind]
        if mine:
            best = max(mine, key=lambda n: _rank(detectors[n]["runs"]))
            said.append(f"{word} `{best}` {_best(detectors[best]['runs'], '3'):.2f}")
    name = _chief(detectors)
    if not said or name is None:
        return ""
    return (
        f"Share found at the best point with at most 3 a day: {_best(detectors[name]['runs'], '3'):.2f}, "
        f"{', '.join(said)}."
    )


def _incidents(detectors: Mapping[str, Any]) -> str:
    head = [
        "detector",
        "is",
        "seeds",
        "found as it ships",
        "false a day",
        "per million",
        "delay, s",
        "connections",
    ]
    head += [f"found (false) at a budget of {b:g} a day" for b in BUDGETS]
    head += [f"best at {b}" for b in ("0", *(f"{x:g}" for x in BUDGETS))]
    rows = []
    for n in sorted(detectors, key=lambda n: -_rank(detectors[n]["runs"])):
        runs = detectors[n]["runs"]
        attacks = runs[0]["shipped"]["attacks"]
        rows.append(
            [
                f"**{n}**" if n == CHIEF else n,
                detectors[n]["kind"] + (", with labels" if detectors[n].get("labels") else ""),
                len(runs),
                f"{_mean(runs, _shipped('found')):.1f} of {attacks}",
                f"{_mean(runs, _shipped('false_per_day')):,.1f}",
                f"{_mean(runs, _shipped('false_per_million')):,.0f}",
                _med(runs, "delay"),
                _med(runs, "within"),
                *(_budget(runs, b) for b in BUDGETS),
                *(_said(_best(runs, key), ".2f") for key in ("0", *(f"{x:g}" for x in BUDGETS))),
            ]
        )
    return table(head, rows)


def _curve(detectors: Mapping[str, Any]) -> str:
    """The first seed's curve of the chief and of the best of the others, from strict to lax."""
    rows = []
    for n in _shown(detectors):
        points = detectors[n]["runs"][0]["curve"]
        kept = [p for i, p in enumerate(points) if i == 0 or p != points[i - 1]]
        rows.append(
            [n, "; ".join(f"{found:.0f} at {day:,.1f}" for day, _, found in kept[:16] if day is not None)]
        )
    return "Found at false incidents a day, from strict to lax (FROC):\n\n" + table(
        ["detector", "curve"], rows
    )


def _connections(detectors: Mapping[str, Any]) -> str:
    rows = []
    for n, d in detectors.items():
        runs = [r for r in d["runs"] if r["rates"]]
        if not runs:
            continue
        rates = [r["rates"] for r in runs]
        rows.append(
            [
                n,
                *(_rate(runs, name, k) for name in ("prospective", "retrospective") for k in (0, 1)),
                *(f"{_mean(rates, _of('realised', k)):.5f}" for k in (0, 1)),
                *_hourly(rates, 0),
                *_hourly(rates, 1),
            ]
        )
    if not rows:
        return ""
    head = (
        "detector|TPR at 1e-2, at the time|at 1e-3|at 1e-2, incident known|at 1e-3|nominal 1e-2 became|1e-3 became|"
        "hours within 25 % of 1e-2|worst hour|hours within 25 % of 1e-3|worst hour"
    )
    return (
        "Per connection, macro over families of five or more; the rates on benign connections, over all and by hour "
        "(hours with enough of them):\n\n" + table(head.split("|"), rows)
    )


def _hourly(rates: Sequence[Section], k: int) -> list[str]:
    hours = [r["hourly"][k] for r in rates if r["hourly"][k][0]]
    if not hours:
        return ["", ""]
    return [f"{np.mean([h[1] for h in hours]):.2f} of {hours[0][0]}", f"{np.max([h[3] for h in hours]):.4f}"]


def _cold(detectors: Mapping[str, Any]) -> str:
    rows = []
    for n, d in detectors.items():
        for run in d["runs"][:1]:
            if "cold" in run:
                c, rates = run["cold"], run["cold"]["rates"]
                rows.append(
                    [n, f"{c['found']} of {c['attacks']}", f"{c['false_per_day']:,.1f}",
                     *(_said(_number(x), ".5f") for x in (*rates["realised"], *rates["first"]))]
                )  # fmt: skip
    if not rows:
        return ""
    head = "detector|found|false a day|nominal 1e-2 became|1e-3 became|first thousand of a day: 1e-2|1e-3"
    return "Each judged day from an empty state, as after a restart:\n\n" + table(head.split("|"), rows)


def _stretches(detectors: Mapping[str, Any]) -> str:
    first = next(iter(detectors.values()))["runs"][0]["shipped"]["stretches"]
    if not first:
        return ""
    rows = [
        [n, *(f"{np.mean([r['shipped']['stretches'][s][1] for r in d['runs']]):.1f}" for s in first)]
        for n, d in detectors.items()
    ]
    head = ["detector", *(f"{s} ({times[0]}x)" for s, times in first.items())]
    return "False incidents during surges and roll-outs, counted apart, as it ships:\n\n" + table(head, rows)


def _where(detectors: Mapping[str, Any]) -> str:
    rows = []
    for n in _shown(detectors):
        runs = detectors[n]["runs"]
        rows.append([n, *(_counts(runs, key) for key in ("roles", "services"))])
    return "Where false incidents come from, as it ships:\n\n" + table(["detector", "host", "service"], rows)


def _counts(runs: Sequence[Section], key: str) -> str:
    total: Counter[str] = Counter()
    for r in runs:
        total.update(r["shipped"][key])
    return ", ".join(f"{name} {many / len(runs):.1f}" for name, many in total.most_common(8))


def _families(detectors: Mapping[str, Any]) -> str:
    shown = _shown(detectors)
    if not shown:
        return ""
    first = detectors[shown[0]]["runs"]
    rows = []
    for f, about in first[0]["shipped"]["families"].items():
        row: list[object] = [f, about[0]]
        for n in shown:
            row.append(f"{np.mean([r['shipped']['families'][f][1] for r in detectors[n]['runs']]):.1f}")
        delay = [x for r in first if (x := r["shipped"]["families"][f][2]) is not None]
        within = [x for r in first if (x := r["shipped"]["families"][f][3]) is not None]
        row += [f"{np.median(delay):,.0f}" if delay else "", f"{np.median(within):,.0f}" if within else ""]
        for name in ("prospective_families", "retrospective_families"):
            rate = [_number(x[1]) for r in first if r["rates"] and (x := r["rates"].get(name, {}).get(f))]
            row.append(_said(float(np.mean(rate)), ".2f") if rate else "")
        rows.append(row)
    if not rows:
        return ""
    head = [
        "family",
        "attacks",
        *(f"`{n}`" for n in shown),
        "delay, s",
        "connections",
        "TPR at 1e-3",
        "incident known",
    ]
    return f"Attacks found by family, as it ships; the last four columns are of `{shown[0]}`:\n\n" + table(
        head, rows
    )


def _shown(detectors: Mapping[str, Any]) -> list[str]:
    """The chief, and the best of the baselines and of the peers."""
    chief = _chief(detectors)
    out = [] if chief is None else [chief]
    for kind in ("baseline", "peer"):
        mine = [n for n, d in detectors.items() if d["kind"] == kind]
        if mine:
            out.append(max(mine, key=lambda n: _rank(detectors[n]["runs"])))
    return out


def _who(detectors: Mapping[str, Any]) -> str:
    said = [f"**{n}**: {d['words']}" for n, d in detectors.items() if d["words"] and d["kind"] != "baseline"]
    return "; ".join(said) + "." if said else ""


def _of(key: str, k: int) -> Callable[[Section], float | None]:
    return lambda of: of[key][k]


def _shipped(key: str) -> Callable[[Section], float | None]:
    return lambda run: run["shipped"][key]


def _mean(runs: Sequence[Section], of: Callable[[Section], float | None]) -> float:
    return float(np.mean([_number(of(r)) for r in runs]))


def _number(x: float | None) -> float:
    """What is not known is null in the findings."""
    return float("nan") if x is None else x


def _said(x: float, form: str) -> str:
    return "" if x != x else format(x, form)


def _med(runs: Sequence[Section], key: str) -> str:
    values = [x for r in runs if (x := r["shipped"][key]) is not None]
    return f"{np.median(values):,.0f}" if values else ""


def _best(runs: Sequence[Section], key: str) -> float:
    return _mean(runs, lambda r: r["best"][key]) if runs else float("nan")


def _rank(runs: Sequence[Section]) -> float:
    best = _best(runs, "3")
    return -1.0 if best != best else best


def _budget(runs: Sequence[Section], budget: float) -> str:
    """Found, and the false incidents a day that it really had; a dash where even the strictest setting has more."""
    there = [x for r in runs if (x := r["budget"][f"{budget:g}"]) is not None]
    if not there:
        return "-"
    found, false = (np.mean([_number(p[k]) for p in there]) for k in ("found", "false_per_day"))
    return f"{found:.1f} ({false:.1f})" + (
        "" if len(there) == len(runs) else f", {len(there)} of {len(runs)} seeds"
    )


def _rate(runs: Sequence[Section], name: str, k: int) -> str:
    return _said(_mean(runs, lambda r: r["rates"][name][k] if r["rates"].get(name) else None), ".2f")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(x) for x in row) + " |" for row in rows])
