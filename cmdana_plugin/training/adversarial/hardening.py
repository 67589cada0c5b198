"""Adversarial training of trees: connections as an attacker would change them, among what is learned.

Everybody's connections are changed, attackers' and others': else what a change leaves behind would itself be the mark
of an attack. Ways, by name: `plain` learns nothing of it; `drawn` learns one changed copy of each connection, by its
label; `searched` the copy that a plain model is most wrong about; `consistent` that copy again, asking for the score
that the plain model gave to the connection as it was (TRADES: Zhang et al. 2019), not for its label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.detector import Trees, fit_trees, tabulate
from cmdana_plugin.training.adversarial import changes
from cmdana_plugin.training.recording import Recording, gather
from feature_extractors import CmdanaError, take
from feature_extractors.features import Schema, load_schema

PLAIN: Final = "plain"
WAYS: Final = (PLAIN, "drawn", "searched", "consistent")
COPIES: Final = 6  # of each recording, each changed in its own way
# What is changed, and how much at most: by a factor of four. An attacker may go further.
LEVELS: Final[Mapping[str, Sequence[Any]]] = {
    "split": (True,),
    "pad": (1.25, 1.5, 2.0, 4.0),
    "junk": (1, 2, 4),
    "delay": (1.5, 2.0, 4.0),
    "pace": (1.5, 2.0, 4.0),
    "jitter": (0.25, 0.5, 1.0),
}
_JUNK: Final = 256  # bytes of a packet
_MOVES: Final = 3  # of a copy, at most


def checked(way: str) -> str:
    """The name of a way. Raises `CmdanaError` for another."""
    if way not in WAYS:
        raise CmdanaError(f"--hardening: found {way}, expected one of {', '.join(WAYS)}")
    return way


def changed(recording: Recording, rng: np.random.Generator) -> tuple[Recording, NDArray[np.int64]]:
    """The recording, in stream order, where every originator makes the same one to three moves; each row's index [n] in
    the original."""
    chosen = rng.choice(list(LEVELS), int(rng.integers(1, _MOVES + 1)), replace=False).tolist()
    level = {name: of[int(rng.integers(len(of)))] for name, of in LEVELS.items() if name in chosen}
    everyone = replace(recording, label=np.ones(len(recording.windows), np.int8))
    x = changes.changed_of(everyone)
    if "split" in level:
        x = replace(x, windows=changes.split(x))
    if "pad" in level:
        x = replace(x, windows=changes.pad(x, level["pad"]))
    if "junk" in level:
        x = replace(x, windows=changes.junk(x, level["junk"], _JUNK))
    if "delay" in level:
        x = replace(x, windows=changes.delay(x, level["delay"]))
    if "pace" in level or "jitter" in level:
        pace = level.get("pace", 1.0)
        x = replace(x, windows=changes.pace(x, pace, changes.jitter(x, pace, level.get("jitter", 0.0), rng)))
    order = np.argsort(x.windows.connections.end, kind="stable")
    return replace(everyone, windows=take(x.windows, order), label=None, family=()), order


def copies_of(
    recordings: Sequence[Recording], copies: int, seed: int, schema: Schema | None = None
) -> list[NDArray[np.float32]]:
    """Tables [n, F] of the rows of `recordings` in their order, changed: one for each copy; by the schema that ships
    unless told.
    """
    schema = schema or load_schema()
    rng = np.random.default_rng(seed)
    recordings = [r for r in recordings if len(r.windows)]
    bounds = np.cumsum([0, *(len(r.windows) for r in recordings)])
    out = []
    for _ in range(copies):
        pairs = [changed(r, rng) for r in recordings]
        corpus = gather([r for r, _ in pairs], schema)
        back = np.concatenate([at + b for (_, at), b in zip(pairs, bounds[:-1], strict=True)])
        table = tabulate(corpus.features, corpus.state)
        ordered = np.empty_like(table)
        ordered[back] = table
        out.append(ordered)
    return out


def hardened(
    way: str,
    clean: NDArray[np.float32],
    copies: Sequence[NDArray[np.float32]],
    malicious: NDArray[np.bool_],
    weight: NDArray[np.float64],
    seed: int,
    repeats: int = 1,
) -> Trees:
    """Trees that learned rows `clean` [n, F], and one changed copy of each in this way; both weigh alike.

    Raises `CmdanaError` for another way.
    """
    if checked(way) == PLAIN:
        return fit_trees(clean, malicious, weight, seed, repeats=repeats)
    plain = fit_trees(clean, malicious, weight, seed, repeats=1)
    if way == "drawn":
        which = np.random.default_rng(seed).integers(0, len(copies), len(clean))
    else:
        odds = np.stack([plain.score(c) for c in copies])
        which = np.where(malicious, odds.argmin(axis=0), odds.argmax(axis=0))
    other = np.stack(copies)[which, np.arange(len(clean))]
    table, said, weights = [clean, other], [malicious, malicious], [weight, weight]
    if way == "consistent":
        # Cross-entropy against a chance p is that of a malicious row of weight p and of a benign one of weight 1 - p.
        chance = 1.0 / (1.0 + np.exp(-plain.score(clean)))
        table = [clean, other, other]
        said = [malicious, np.ones(len(clean), np.bool_), np.zeros(len(clean), np.bool_)]
        weights = [weight, weight * chance, weight * (1.0 - chance)]
    return fit_trees(
        np.concatenate(table), np.concatenate(said), 0.5 * np.concatenate(weights), seed, repeats=repeats
    )
