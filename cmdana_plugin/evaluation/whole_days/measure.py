"""The protocol of whole days: who finds which attacks, at how many false incidents, and how soon.

For each network every detector learns the same normal days and takes its thresholds from the same later ones, then all
are shown the judged days in turn, their state kept from day to day. Nothing is chosen on judged days: what a detector
finds "at a budget" is at the level that the calibration days set; the curve is read off the judged days for all alike.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.config import Config
from cmdana_plugin.evaluation.baselines import BASELINES, WITH_LABELS
from cmdana_plugin.evaluation.metrics import LEAST, RATES, judge
from cmdana_plugin.evaluation.own_network import after
from cmdana_plugin.evaluation.whole_days.alarms import BUDGETS, Tally, Truth, most_found, within_budget
from cmdana_plugin.evaluation.whole_days.peers import PEERS
from cmdana_plugin.evaluation.whole_days.plan import Day, Planned, in_turn, networks_of
from cmdana_plugin.evaluation.whole_days.programs import programs_of
from cmdana_plugin.evaluation.whole_days.told import (
    OURS,
    Elsewhere,
    Judged,
    Learned,
    Lesson,
    Listed,
    Teller,
    Told,
    baseline,
)
from cmdana_plugin.training import Recording
from feature_extractors.features import Encoded, take_encoded

Section = dict[str, Any]
Progress = Callable[[str, float], None]
Floats = NDArray[np.float64]

WARM: Final = 20_000  # connections of the past that a detector has seen before the first day that is counted
_FIRST: Final = 1000  # connections after a start that are told apart
_SEEDLESS: Final = frozenset({"volume", "rarity", "knn"})
_NEAR: Final = 0.25  # a realised rate this close to the nominal one is as promised
_MIN_HOURLY: Final = 2000  # benign connections of an hour from which on its rate is shown
NAMES: Final = (*OURS, *BASELINES, *PEERS)


@dataclass(slots=True)
class _Rates:
    """p-values of connections that ended, against the truth; surges and roll-outs are counted apart."""

    p: list[Floats] = field(default_factory=list)
    revised: list[Floats] = field(default_factory=list)
    label: list[NDArray[np.int8]] = field(default_factory=list)
    family: list[str] = field(default_factory=list)
    hour: list[NDArray[np.int64]] = field(default_factory=list)
    hours: int = 0
    first: list[NDArray[np.bool_]] = field(default_factory=list)

    def add(self, told: Told, day: Day) -> None:
        if told.p_value is None or told.revised is None:
            return
        truth = day.truth
        rows = np.flatnonzero(truth.final & ~_part_of_event(truth))
        self.p.append(told.p_value[rows])
        self.revised.append(told.revised[rows])
        self.label.append(truth.label[rows])
        self.family += [truth.family[i] for i in rows.tolist()]
        hour = ((truth.end[rows] - truth.ts.min()) // 3600.0).astype(np.int64) + self.hours
        self.hours = int(hour.max()) + 1 if len(hour) else self.hours
        self.hour.append(hour)
        self.first.append(np.arange(len(rows)) < _FIRST)

    def section(self) -> Section:
        if not self.p:
            return {}
        p, revised = np.concatenate(self.p), np.concatenate(self.revised)
        label, hour = np.concatenate(self.label), np.concatenate(self.hour)
        first = np.concatenate(self.first)
        benign = label == 0
        out: Section = {"realised": [], "hourly": [], "first": []}
        many = np.bincount(hour[benign], minlength=self.hours)
        for r in RATES[:2]:
            out["realised"].append(_share(p[benign] <= r))
            out["first"].append(_share(p[benign & first] <= r))
            said = np.bincount(hour[benign], p[benign] <= r, minlength=self.hours)
            there = many >= max(_MIN_HOURLY * 1e-3 / r, 20)
            rate = said[there] / many[there]
            near = np.abs(rate / r - 1.0) <= _NEAR
            out["hourly"].append(
                [int(there.sum()), _share(near), *(float(q) for q in np.quantile(rate, (0.5, 1.0)))]
                if there.any()
                else [0, float("nan"), float("nan"), float("nan")]
            )
        counts = Counter(f for f, x in zip(self.family, label, strict=True) if x == 1)
        if benign.any() and max(counts.values(), default=0) >= LEAST:
            for name, values in (("prospective", p), ("retrospective", revised)):
                families, macro = judge(-np.log(values), label, self.family)
                out[name] = list(macro.tpr[:2])
                out[f"{name}_families"] = {f: list(j.tpr[:2]) for f, j in families.items()}
        return out


@dataclass(slots=True)
class _Run:
    """One detector with one seed over a network's days."""

    teller: Teller
    fresh: Callable[[], Teller] | None  # the same from an empty state, of what is judged so too
    calm: list[Tally] = field(default_factory=list)  # by level, on calibration days
    judged: list[Tally] = field(default_factory=list)
    cold: Tally = field(default_factory=Tally)
    rates: _Rates = field(default_factory=_Rates)
    cold_rates: _Rates = field(default_factory=_Rates)

    def __post_init__(self) -> None:
        self.calm = [Tally() for _ in self.teller.levels]
        self.judged = [Tally() for _ in self.teller.levels]

    def take(self, day: Day, past: Encoded) -> None:
        told = self.teller.take(day, past)
        for tally, alarms in zip(
            self.calm if day.part == "calibrate" else self.judged, told.alarms, strict=True
        ):
            tally.add(alarms, day.truth)
        if day.part == "calibrate":
            return
        self.rates.add(told, day)
        if self.fresh is not None:
            begun = self.fresh().take(day, past)
            self.cold.add(begun.alarms[0], day.truth)
            self.cold_rates.add(begun, day)

    def section(self) -> Section:
        curve = [t.section() for t in self.judged]
        out: Section = {
            "shipped": curve[self.teller.shipped],
            "curve": [[p["false_per_day"], p["false_per_million"], p["found"]] for p in curve],
            "best": {f"{b:g}": most_found(curve, b) for b in (0.0, *BUDGETS)},
            "budget": {},
            "rates": self.rates.section(),
        }
        for b in BUDGETS:
            k = within_budget(self.calm, b)
            out["budget"][f"{b:g}"] = curve[k] if k >= 0 else None
        if self.fresh is not None:
            out["cold"] = {**self.cold.section(), "rates": self.cold_rates.section()}
        return out


def evaluate(
    plan: Sequence[Planned],
    config: Config,
    foreign: Sequence[Recording] = (),
    *,
    seeds: Sequence[int] = (0,),
    only: Sequence[str] | None = None,
    cache: Path | None = None,
    progress: Progress = lambda _what, _share: None,
    partial: Callable[[Section], None] = lambda _found: None,
) -> Section:
    """A section for each network of the plan."""
    found: Section = {}
    for network, days in networks_of(plan).items():
        found[network] = _network(days, config, foreign, seeds, only, cache, progress)
        partial(found)
    return found


def _network(
    plan: Sequence[Planned],
    config: Config,
    foreign: Sequence[Recording],
    seeds: Sequence[int],
    only: Sequence[str] | None,
    cache: Path | None,
    progress: Progress,
) -> Section:
    network = plan[0].network
    learned = list(in_turn([p for p in plan if p.part in ("train", "calibrate")], config, cache, progress))
    normal = [d.recording() for d in learned if d.part == "train"]
    held = [after(normal, d.recording())[0] for d in learned if d.part == "calibrate"]
    lesson = Lesson(normal, held, list(foreign))
    names = [n for n in (*OURS, *BASELINES) if (n in only if only else _by_default(n, bool(foreign)))]
    runs: dict[str, list[_Run]] = {}
    for k, name in enumerate(names):
        seeded = OURS[name].seeded if name in OURS else name not in _SEEDLESS
        for seed in seeds if seeded else seeds[:1]:
            progress(f"{network}: {name}, seed {seed}", k / len(names))
            made = OURS[name].learn(lesson, seed) if name in OURS else baseline(name, lesson, seed)
            again = _again(made, config) if name in OURS and seed == seeds[0] else None
            runs.setdefault(name, []).append(_Run(Judged(made, config), again))
    for name, peer in PEERS.items():
        if not only or name in only:
            runs[name] = [_Run(Listed(peer), None)]
    for name, levels in programs_of(dict.fromkeys(p.folder for p in plan)).items():
        runs[name] = [_Run(Elsewhere(name, levels), None)]
    about = _About()
    for day in learned:
        about.learned(day)
    past = _last([d for d in learned if d.part == "train"][-1])
    every = [run for some in runs.values() for run in some]
    for run in every:
        if isinstance(run.teller, Judged):
            run.teller.warm(past)
    for day in learned:
        if day.part == "calibrate":
            for run in every:
                run.take(day, past)
            past = _last(day)
    before = max(float(d.truth.ts.max()) for d in learned)
    del learned, lesson, normal, held
    rest = [p for p in plan if p.part in ("later", "test")]
    for i, day in enumerate(in_turn(rest, config, cache, lambda _what, _share: None, before)):
        progress(f"{network}: judging {day.name}", i / len(rest))
        about.judged(day)
        for run in every:
            run.take(day, past)
        past = _last(day)
    return {
        "use": plan[0].use,
        "about": about.section(),
        "detectors": {
            name: {**_known(name), "runs": [run.section() for run in some]} for name, some in runs.items()
        },
    }


def _part_of_event(truth: Truth) -> NDArray[np.bool_]:
    """Whether a connection [n] is part of a surge, a roll-out or the like, as far as that is told."""
    names = {s.name for s in truth.stretches}
    if not truth.event or not names:
        return np.zeros(len(truth), np.bool_)
    return np.array([event in names for event in truth.event], np.bool_)


def _last(day: Day) -> Encoded:
    n = len(day.encoded)
    return take_encoded(day.encoded, np.arange(max(n - WARM, 0), n))


def _by_default(name: str, labels: bool) -> bool:
    """Whether a detector is measured where none is named; `labels` says that there are some to learn from."""
    return not OURS[name].asked if name in OURS else labels or name not in WITH_LABELS


def _again(made: Learned, config: Config) -> Callable[[], Teller]:
    return lambda: Judged(made, config, (1.0,))


def _known(name: str) -> Section:
    """What a detector is, for the page."""
    if name in OURS:
        return {"kind": "ours", "words": OURS[name].words}
    if name in BASELINES:
        return {"kind": "baseline", "words": "", "labels": name in WITH_LABELS}
    return {"kind": "peer", "words": PEERS[name].words if name in PEERS else "the program itself"}


@dataclass(slots=True)
class _About:
    """What the days of a network hold."""

    names: dict[str, list[str]] = field(default_factory=dict)  # part -> its days
    counts: dict[str, list[int]] = field(default_factory=dict)  # part -> [benign, malicious, unknown]
    days: float = 0.0  # judged
    hours: float = 0.0
    attacks: int = 0
    families: set[str] = field(default_factory=set)
    digest: Any = field(default_factory=hashlib.sha256)

    def learned(self, day: Day) -> None:
        truth = day.truth
        self.names.setdefault(day.part, []).append(day.name)
        counts = self.counts.setdefault(day.part, [0, 0, 0])
        for k, label in enumerate((0, 1, -1)):
            counts[k] += int(((truth.label == label) & truth.final).sum())
        for column in (truth.ts, truth.end, truth.label):
            self.digest.update(np.ascontiguousarray(column).tobytes())

    def judged(self, day: Day) -> None:
        self.learned(day)
        self.days += day.truth.days
        self.hours += day.truth.hours
        self.attacks += len(day.truth.attacks)
        self.families |= {a.family for a in day.truth.attacks}

    def section(self) -> Section:
        return {
            "days": self.names,
            "counts": self.counts,
            "judged_days": self.days,
            "judged_hours": self.hours,
            "attacks": self.attacks,
            "families": len(self.families),
            "data": self.digest.hexdigest()[:16],
        }


def _share(of: NDArray[np.bool_]) -> float:
    return float(of.mean()) if len(of) else float("nan")
