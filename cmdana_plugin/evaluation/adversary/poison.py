"""Poisoning: what an attacker gains by what it sends before its attack, to whoever learns from it or remembers it.

Into training material: labels that are wrong, and attacks among what is taken for normal, of learning and calibration
alike. Into state and site history: a slow drip of the attack's own connections among a day of ordinary ones, before
the attack itself; counts, memory, behaviour, site history and adaptation are what the product makes of that day.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.config import Config
from cmdana_plugin.detector import fit_tail
from cmdana_plugin.evaluation.adversary.plans import moved_to
from cmdana_plugin.evaluation.adversary.search import EACH, MOST, Victim, attacks_of, noticed
from cmdana_plugin.evaluation.baselines import BASELINES
from cmdana_plugin.evaluation.metrics import COLUMNS, LEAST, Floats, judge
from cmdana_plugin.evaluation.protocol import SHIPPED, Section, Split, judge_with
from cmdana_plugin.evaluation.whole_days.page import table
from cmdana_plugin.training import Recipe, Recording, gather, train
from feature_extractors import Windows, concat, take
from feature_extractors.features import load_schema

Progress = Callable[[str, float], None]

MARK: Final = "<!-- poison -->"  # before and after this section of a page
NAMES: Final = (SHIPPED, *BASELINES)
DEFAULT: Final = (SHIPPED, "boosted", "gaussians")
SHARES: Final = (0.0, 0.02, 0.1)  # of training material
FLIPPED: Final = "labels flipped"
AS_NORMAL: Final = "attacks as normal"
WAYS: Final = (FLIPPED, AS_NORMAL)
DRIPS: Final = (0.0, 0.02, 0.1, 0.5)  # of a day's ordinary connections
_DAY: Final = 86400.0  # seconds
_ORDINARY: Final = 1000  # connections of the day before
_NOMINAL: Final = 1e-3
_SHOWN: Final = ("tpr@0.01", "tpr@0.001", "auroc")
_DRIP: Final = b"Cdrip"


def poisoned(recordings: Sequence[Recording], share: float, way: str, seed: int) -> list[Recording]:
    """The recordings with wrong labels.

    `FLIPPED`: of all labelled connections the `share`, at random, says the contrary. `AS_NORMAL`: of what is taken for
    normal the `share` are attacks, every family with as many of its own as there are. Raises `ValueError` otherwise.
    """
    rng = np.random.default_rng(seed)
    label = np.concatenate([_label(r) for r in recordings])
    family = np.array([f for r in recordings for f in (r.family or [""] * len(r.windows))], dtype=object)
    if way == FLIPPED:
        hit = (label >= 0) & (rng.random(len(label)) < share)
        label = np.where(hit, 1 - label, label).astype(np.int8)
    elif way == AS_NORMAL:
        count = round(share * int((label == 0).sum()))
        label[in_turn(np.flatnonzero(label == 1), family, count, rng)] = 0
    else:
        raise ValueError(f"poisoning {way!r}: expected one of {', '.join(WAYS)}")
    bounds = np.cumsum([0, *(len(r.windows) for r in recordings)])
    return [
        replace(r, label=label[a:b], family=list(family[a:b]))
        for r, a, b in zip(recordings, bounds[:-1], bounds[1:], strict=True)
    ]


def _label(recording: Recording) -> NDArray[np.int8]:
    return np.zeros(len(recording.windows), np.int8) if recording.label is None else recording.label


def in_turn(
    rows: NDArray[np.int64], family: NDArray[Any], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """So many of the rows, of each family in turn."""
    rows = rng.permutation(rows)
    turn: dict[str, int] = {}
    place = []
    for row in rows.tolist():
        place.append(turn.get(family[row], 0))
        turn[family[row]] = place[-1] + 1
    found: NDArray[np.int64] = rows[np.argsort(place, kind="stable")[:count]]
    return found


def of_training(
    split: Split,
    names: Sequence[str],
    *,
    shares: Sequence[float] = SHARES,
    seeds: Sequence[int] = (0,),
    epochs: int | None = None,
    progress: Progress = lambda _what, _share: None,
    partial: Callable[[Section], None] = lambda _found: None,
) -> Section:
    """By detector, way and share: macro metrics on the test split, whose own benign rows set the limits, and the macro
    share at a nominal 1e-3, by p-values from the poisoned benign rows of the calibrate split."""
    schema = load_schema()
    test = gather(split.test, schema)
    found: Section = {}
    jobs = [(n, w, x, s) for n in names for w in WAYS for x in shares for s in seeds]
    known: dict[tuple[str, int], list[float]] = {}
    for i, (name, way, share, seed) in enumerate(jobs):
        progress(f"{name}: {way}, {share:.0%}", i / len(jobs))
        if share == 0.0 and (name, seed) in known:
            row = known[name, seed]
        else:
            learn = poisoned(split.train, share, way, seed)
            held = poisoned(split.calibrate, share, way, seed)
            row = _row(*_scores(name, seed, epochs, learn, held, split), test.label, test.family)
            known.setdefault((name, seed), row)
        found.setdefault(name, {}).setdefault(way, {}).setdefault(f"{share:g}", []).append(row)
        partial(found)
    return found


def _scores(
    name: str, seed: int, epochs: int | None, learn: list[Recording], held: list[Recording], split: Split
) -> tuple[Floats, Floats]:
    """Scores of the test split, and of what is taken for benign in the calibrate split."""
    schema = load_schema()
    test, calm = gather(split.test, schema), gather(held, schema)
    if name in BASELINES:
        corpus = gather(learn, schema)
        model = BASELINES[name]()
        model.fit(corpus, np.ones(len(corpus), np.bool_), seed)
        return model.score(test), model.score(calm)[calm.label == 0]
    recipe = Recipe(seed=seed, behaviour=False, epochs=epochs)
    made = train(learn, held, recipe=recipe)
    return judge_with(made, test, recipe).score, judge_with(made, calm, recipe).score[calm.label == 0]


def _row(score: Floats, calm: Floats, label: NDArray[np.int8], family: Sequence[str]) -> list[float]:
    row = dict(zip(COLUMNS, judge(score, label, family)[1].row(), strict=True))
    p = fit_tail(calm).p_value(score)
    names = np.array(family, dtype=object)
    mine = [(label == 1) & (names == f) for f in sorted(set(names[label == 1]))]
    nominal = [float((p[rows] <= _NOMINAL).mean()) for rows in mine if rows.sum() >= LEAST]
    return [*(row[c] for c in _SHOWN), float(np.mean(nominal)), float((p[label == 0] <= _NOMINAL).mean())]


# The drip


def dripped(
    recording: Recording, ordinary: Windows, share: float, seed: int = 0, count: int = _ORDINARY
) -> Recording:
    """The attack after a day of `count` ordinary connections, and of `share` times as many of its own among them.

    Those are at random times, of unknown label: what is asked is whether the attack itself is found.
    """
    rng = np.random.default_rng(seed)
    assert recording.label is not None
    begin = float(recording.windows.connections.ts.min())
    rows = np.flatnonzero(recording.label == 1)
    parts = [recording.windows]
    for source, many, uid in (
        (np.arange(len(ordinary)), count, b"Cuse"),
        (rows, round(share * count), _DRIP),
    ):
        of = ordinary if uid != _DRIP else recording.windows
        chosen = take(of, np.sort(source[rng.integers(0, len(source), many)]))
        lasts = float(np.max(chosen.connections.end - chosen.connections.ts, initial=0.0))
        first = begin - _DAY - lasts
        parts.append(moved_to(chosen, np.sort(rng.uniform(first, first + _DAY, many)), uid))
    windows = concat(parts)
    more = len(windows) - len(recording.windows)
    label = np.concatenate([recording.label, np.full(more, -1, np.int8)])
    family = [*recording.family, *[""] * more]
    order = np.argsort(windows.connections.end, kind="stable")
    return Recording(recording.name, take(windows, order), label[order], [family[i] for i in order.tolist()])


def of_state(
    victims: Mapping[str, Victim],
    recordings: Sequence[Recording],
    ordinary: Windows,
    config: Config,
    *,
    each: int = EACH,
    most: int = MOST,
    families: int | None = None,
    seed: int = 0,
    progress: Progress = lambda _what, _share: None,
) -> Section:
    """By victim: of attacks the share that a notice rests on after the drip, and where one rests on the drip itself."""
    attacks = attacks_of(recordings, each, most, families)
    found: Section = {}
    jobs = [(n, x) for n in victims for x in DRIPS]
    for i, (name, share) in enumerate(jobs):
        progress(f"{name}: a drip of {share:.0%}", i / len(jobs))
        told, drip = [], []
        for r in attacks:
            after = dripped(r, ordinary, share, seed)
            assert after.label is not None
            uids = after.windows.connections.uid
            rests, _ = noticed(victims[name], after, config, adapting=True)
            told.append(any(u in rests for u in uids[after.label == 1].tolist()))
            drip.append(any(u.startswith(_DRIP) for u in rests))
        both = [a or b for a, b in zip(told, drip, strict=True)]
        row = [float(np.mean(x)) for x in (told, drip, both)]
        found.setdefault(name, {})[f"{share:g}"] = [*row, len(attacks)]
    return found


def evaluate(
    split: Split,
    names: Sequence[str],
    victims: Mapping[str, Victim],
    ordinary: Windows,
    config: Config,
    *,
    families: int | None = None,
    seeds: Sequence[int] = (0,),
    epochs: int | None = None,
    progress: Progress = lambda _what, _share: None,
    partial: Callable[[Section], None] = lambda _found: None,
) -> Section:
    """The findings of both kinds of poisoning; of the drip before attacks of so many families, drawn."""
    found: Section = {"about": {"seeds": len(seeds), "epochs": epochs}}
    found["state"] = of_state(
        victims, split.test, ordinary, config, families=families, seed=seeds[0], progress=progress
    )
    partial(found)
    found["training"] = of_training(
        split, names, seeds=seeds, epochs=epochs, progress=progress,
        partial=lambda training: partial({**found, "training": training}),
    )  # fmt: skip
    return found


def words(found: Mapping[str, Any]) -> str:
    """The findings in Markdown."""
    about = found["about"]
    rows = []
    for name, ways in found.get("training", {}).items():
        for way, shares in ways.items():
            whole = np.mean(shares["0"], axis=0)
            for share, runs in shares.items():
                if share == "0" and way != WAYS[0]:
                    continue
                row = np.mean(runs, axis=0)
                lost = 100.0 * (whole - row)
                rows.append(
                    [name, "nothing" if share == "0" else way, f"{float(share):.0%}", *(f"{x:.3f}" for x in row),
                     "" if share == "0" else f"{lost[0]:+.1f}, {lost[1]:+.1f}, {lost[3]:+.1f}"]
                )  # fmt: skip
    drips = [
        [name, f"{float(share):.0%}", f"{told:.2f}", f"{drip:.2f}", f"{both:.2f}"]
        for name, of in found["state"].items()
        for share, (told, drip, both, _) in of.items()
    ]
    attacks = next(iter(next(iter(found["state"].values())).values()))[-1]
    passes = f", {about['epochs']} passes of the network" if about["epochs"] else ""
    return "\n\n".join(
        [
            "## Poisoning",
            "Training material with wrong labels, of learning and of calibration alike: so many labels flipped at "
            "random, or attacks (of every family in turn) as so much of what is taken for normal. Macro over families "
            "on the test split, whose labels are right: at limits read off its benign rows, and at a nominal 1e-3 by "
            "p-values from the poisoned benign rows, with the rate that this became. Lost: points at 1e-2, 1e-3 and "
            f"the nominal 1e-3. {about['seeds']} seed{'' if about['seeds'] == 1 else 's'}{passes}.",
            table(
                ["detector", "poison", "share", "TPR at 1e-2", "at 1e-3", "AUROC", "at nominal 1e-3",
                 "which became", "lost"],
                rows,
            ),
            f"A slow drip into state, site history, behaviour and adaptation: each of {attacks} attacks of as many "
            f"families after a day of {_ORDINARY:,} ordinary connections, among them, at random times, so many of the "
            "attack's own. Share of attacks of which a notice tells; of which one tells during the drip; and either.",
            table(["detector", "drip", "attack told", "drip told", "either"], drips),
        ]
    )  # fmt: skip
