"""A search against one detector: for every attack the plan that hides it best for what it costs.

Greedy and evolutionary: each step changes the best plans so far by one move, among plans of any cost; a curve then says
what is still found of attacks whose attackers pay so much at most. Every outcome is checked (`plans.valid`), and judged
by the whole product from an empty state: what follows from changed packets and times is computed anew. The plan that
hides an attack cheapest is also written as a capture and replayed (`replayed`), where there is one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.config import Config
from cmdana_plugin.decision import Judge
from cmdana_plugin.detector import Detector
from cmdana_plugin.evaluation.adversary.plans import LEVELS, Plan, apply, cost_of, valid
from cmdana_plugin.evaluation.adversary.replayed import check
from cmdana_plugin.evaluation.operator_view import PrecomputedScores
from cmdana_plugin.training import Recording
from feature_extractors import Windows
from feature_extractors.features import encoded, load_schema

Progress = Callable[[str, float], None]
Section = dict[str, Any]

BUDGETS: Final = (1.0, 1.5, 2.0, 4.0, 10.0, 100.0)  # of the greatest factor of cost
TRIES: Final = 24  # plans judged for each attack
EACH: Final = 1  # attacks of a family
MOST: Final = 300  # connections of an attack
_PARENTS: Final = 3
_SINGLE: Final = 9  # of the first tries: one move each


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one plan: whether a notice rests on the attack, and the greatest score among its connections."""

    plan: Plan
    cost: float
    found: bool
    score: float


@dataclass(frozen=True, slots=True)
class Victim:
    """What is attacked: a detector from an empty state, and how rare evidence against hosts is where it learned."""

    make: Callable[[], Detector]
    tails: NDArray[np.float64] | None = None


def noticed(
    victim: Victim, recording: Recording, config: Config, *, adapting: bool = False
) -> tuple[set[bytes], NDArray[np.float64]]:
    """The uids of the connections that notices rest on, and the scores [n] of all, from an empty state."""
    block = encoded(recording.windows, load_schema())
    scores = victim.make().receive(block)
    rests: set[bytes] = set()
    # Known scores are not explained: nobody reads these notices.
    judge = Judge(PrecomputedScores(scores), config, victim.tails, adapting=adapting)
    for judged in judge.judged([block]):
        for notice in judged.notices:
            if notice.verdict is not None:
                uids = notice.incident.uids if notice.incident else (notice.verdict.uid,)
                rests.update(uid.encode() for uid in uids)
    return rests, scores.score


def outcome_of(victim: Victim, recording: Recording, config: Config) -> tuple[bool, float]:
    """Whether a notice rests on a malicious connection of the recording, and the greatest score of one."""
    assert recording.label is not None
    rests, score = noticed(victim, recording, config)
    mine = recording.label == 1
    return not rests.isdisjoint(recording.windows.connections.uid[mine].tolist()), float(score[mine].max())


def _is_noticed(victim: Victim, recording: Recording, config: Config) -> bool:
    """Whether anything of a recording is noticed, whoever does it."""
    everything = replace(recording, label=np.ones(len(recording.windows), np.int8))
    return outcome_of(victim, everything, config)[0]


def search(
    victim: Victim,
    recording: Recording,
    ordinary: Windows,
    config: Config,
    *,
    tries: int = TRIES,
    seed: int = 0,
) -> list[Outcome]:
    """All that was tried against one attack, the attack as it is first.

    The first tries are one move each; then the least found, cheapest plans so far are changed by one or two moves.
    Plans that would lead to what cannot be are not judged.
    """
    rng = np.random.default_rng(seed)
    done: dict[Plan, Outcome] = {}

    def tried(plan: Plan) -> None:
        after = apply(plan, recording, ordinary, seed)
        if valid(recording, after):
            return
        found, score = outcome_of(victim, after, config)
        done[plan] = Outcome(plan, cost_of(recording, after).factor(), found, score)

    tried(Plan())
    names = list(LEVELS)
    for name in rng.permutation(names).tolist()[: min(_SINGLE, tries - 1)]:
        tried(replace(Plan(), **{name: _level(name, rng)}))
    attempts = 0
    while len(done) < tries and attempts < 10 * tries:
        attempts += 1
        # Any cost is of use: parents are the best at a budget that is drawn.
        budget = float(rng.choice(BUDGETS[1:]))
        able = [o for o in done.values() if o.cost <= budget]
        parents = sorted(able, key=lambda o: (o.found, o.score, o.cost))[:_PARENTS]
        plan = parents[int(rng.integers(len(parents)))].plan
        for name in rng.choice(names, int(rng.integers(1, 3)), replace=False).tolist():
            plan = replace(plan, **{name: _level(name, rng)})
        if plan not in done:
            tried(plan)
    return list(done.values())


def _level(name: str, rng: np.random.Generator) -> Any:
    levels = LEVELS[name]
    return levels[int(rng.integers(1, len(levels)))]


def attacks_of(
    recordings: Sequence[Recording], each: int, most: int, families: int | None = None
) -> list[Recording]:
    """At most so many recordings of each family, the largest of those with at most so many connections.

    `families` draws so many of the families, always the same; None takes all.
    """
    out: list[Recording] = []
    count: dict[str, int] = {}
    for r in sorted(recordings, key=lambda r: (-len(r.windows), r.name)):
        if r.label is None or not (r.label == 1).any() or len(r.windows) > most:
            continue
        bad = [f for f, label in zip(r.family, r.label.tolist(), strict=True) if label == 1 and f]
        family = max(sorted(set(bad)), key=bad.count) if bad else ""
        if family and count.get(family, 0) < each:
            count[family] = count.get(family, 0) + 1
            out.append(replace(r, family=[family if label == 1 else "" for label in r.label.tolist()]))
    if families is None:
        return out
    drawn = set(np.random.default_rng(0).permutation(sorted(count))[:families].tolist())
    return [r for r in out if _family(r) in drawn]


def evaluate(
    victims: Mapping[str, Victim],
    recordings: Sequence[Recording],
    ordinary: Windows,
    config: Config,
    *,
    each: int = EACH,
    most: int = MOST,
    families: int | None = None,
    tries: int = TRIES,
    seeds: Sequence[int] = (0,),
    captures: Path | None = None,
    progress: Progress = lambda _what, _share: None,
    partial: Callable[[Section], None] = lambda _found: None,
) -> Section:
    """The findings of the search against each victim: attacks found by the budget of their attackers.

    An attack that is not found as it is stays unfound. A list of fixed plans beside the search is its first tries.
    `captures` is the folder that recordings are named after; None replays nothing.
    """
    chosen = attacks_of(recordings, each, most, families)
    jobs = [(n, r, s) for n in victims for r in chosen for s in seeds]
    found: Section = {
        "about": {"attacks": len(chosen), "families": len({_family(r) for r in chosen}), "tries": tries,
                  "seeds": len(seeds), "most": most, "each": each},
        "budgets": list(BUDGETS),
        "detectors": {},
    }  # fmt: skip
    calm = [
        r for r in recordings if r.label is not None and (r.label == 0).any() and not (r.label == 1).any()
    ]
    calm = [r for r in calm if len(r.windows) <= most]
    for name in victims:
        progress(f"{name}: benign captures", 0.0)
        false = [_is_noticed(victims[name], r, config) for r in calm]
        found["detectors"][name] = {"attacks": [], "benign": [sum(false), len(calm)]}
    for i, (name, recording, seed) in enumerate(jobs):
        progress(f"against {name}: {recording.name}", i / len(jobs))
        outcomes = search(victims[name], recording, ordinary, config, tries=tries, seed=seed)
        table = found["detectors"][name]
        row = _row(recording, outcomes)
        hiding = _cheapest(outcomes)
        if captures is not None and hiding is not None and outcomes[0].found:
            after = apply(hiding.plan, recording, ordinary, seed)
            with tempfile.TemporaryDirectory() as folder:
                same, again = check(
                    captures / recording.name, recording, after, hiding.plan, Path(folder), config
                )
            there = again.label is not None and bool((again.label == 1).any())
            row["replayed"] = {"same": same, "found": there and outcome_of(victims[name], again, config)[0]}
        table["attacks"].append(row)
        table |= _curves(table["attacks"])
        if i % 8 == 7:
            partial(found)
    return found


def _family(recording: Recording) -> str:
    return next(f for f in recording.family if f)


def _row(recording: Recording, outcomes: Sequence[Outcome]) -> Section:
    """Whether it is found at each budget, after all tries and after a third and two thirds of them."""
    third = max(len(outcomes) // 3, 1)

    def at(budget: float, tries: Sequence[Outcome]) -> bool:
        return all(o.found for o in tries if o.cost <= budget * 1.0001)

    cheapest = _cheapest(outcomes)
    return {
        "name": recording.name,
        "family": _family(recording),
        "found": [at(b, outcomes) for b in BUDGETS],
        "early": [all(o.found for o in outcomes[:k]) for k in (1, third, 2 * third, len(outcomes))],
        "score": [max(o.score for o in outcomes[:1]), min(o.score for o in outcomes)],
        "cheapest": None if cheapest is None else [cheapest.plan.words(), cheapest.cost],
    }


def _cheapest(outcomes: Sequence[Outcome]) -> Outcome | None:
    """Of what hides the attack what costs least."""
    return min((o for o in outcomes if not o.found), key=lambda o: o.cost, default=None)


def _curves(rows: Sequence[Section]) -> Section:
    """Shares found by budget, of all and of those found as they are; and as the search goes on."""
    first = [r for r in rows if r["found"][0]]
    return {
        "found": np.mean([r["found"] for r in rows], axis=0).tolist(),
        "kept": np.mean([r["found"] for r in first], axis=0).tolist() if first else [],
        "as_it_goes_on": np.mean([r["early"] for r in rows], axis=0).tolist(),
    }
