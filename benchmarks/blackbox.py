"""Black-box attacks of the Adversarial Robustness Toolbox on trees: Square, and HopSkipJump, which sees decisions only.

    python -m benchmarks.blackbox CAPTURES [--cache KEPT] [--rows 40] [--hardening plain --hardening searched]

Needs `pip install 'cmdana[adversary]'`. An attacker's variables are three factors of a connection, of bytes, packets
and duration, from one to a budget: what cannot be raised is masked, what follows is computed again, so that every
connection that is asked about is possible. Beside both: as many draws at random as Square may ask. HopSkipJump begins
with as many draws, and fails where none of them hides.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cmdana_plugin.config import Config
from cmdana_plugin.detector import Trees, tabulate
from cmdana_plugin.evaluation.adversary.gradient import Raw, numeric_of, raw_of
from cmdana_plugin.evaluation.command import captures_split
from cmdana_plugin.evaluation.whole_days.page import table
from cmdana_plugin.training import COPIES, WAYS, Corpus, balance, copies_of, gather, hardened
from feature_extractors import Connections, concat
from feature_extractors.features import load_schema

BUDGETS = (1.5, 2.0, 4.0, 10.0)
_SIDES = {"Square": 3}  # a factor is the mean of so many times so many pixels where an attack is for pictures
_RATE = 1e-3
Floats = NDArray[np.float64]


class Row:
    """One connection before trees: what factors x [N, 3, side, side] in 0..1 of the budget make of its log odds."""

    def __init__(self, trees: Trees, row: NDArray[np.float32], raw: Raw, limit: float) -> None:
        self.trees, self.row, self.raw, self.limit = trees, row, raw, limit
        self.asked = 0

    def odds(self, x: NDArray[Any], budget: float) -> Floats:
        u = torch.from_numpy(x.reshape(len(x), 3, -1).mean(axis=2) * math.log(budget))
        n = len(self.raw_numeric)
        many = Raw(*(getattr(self.raw, name).expand(len(u)) for name in Raw.__slots__))
        numeric = torch.from_numpy(np.tile(self.raw_numeric, (len(u), 1)))
        rows = np.tile(self.row, (len(u), 1))
        rows[:, :n] = numeric_of(many, u, numeric).numpy()
        self.asked += len(u)
        return self.trees.score(rows)

    @property
    def raw_numeric(self) -> NDArray[np.float32]:
        return self.row[: len(load_schema().numeric)]

    def chances(self, budget: float) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
        """Chances [N, 2] of not being found and being found, for a classifier of the toolbox."""

        def predict(x: NDArray[Any]) -> NDArray[np.float32]:
            found = 1.0 / (1.0 + np.exp(-(self.odds(x, budget) - self.limit)))
            return np.stack([1.0 - found, found], axis=1).astype(np.float32)

        return predict


def hidden_by(row: Row, budget: float, ways: Sequence[str], queries: int, seed: int) -> dict[str, bool]:
    """Whether each way hides the connection within the budget."""
    logging.getLogger("art").setLevel(logging.ERROR)  # it says where it begins with nothing
    from art.attacks.evasion import HopSkipJump, SquareAttack
    from art.estimators.classification import BlackBoxClassifierNeuralNetwork

    np.random.seed(seed)  # the toolbox draws from numpy's own state
    out = {}
    for way in ways:
        side = _SIDES.get(way, 1)
        shape = (3, side, side)
        start = np.zeros((1, *shape), np.float32)
        model = BlackBoxClassifierNeuralNetwork(
            row.chances(budget), shape, 2, channels_first=True, clip_values=(0.0, 1.0)
        )
        if way == "Square":
            attack = SquareAttack(
                model, norm=np.inf, eps=1.0, max_iter=queries, p_init=0.5, nb_restarts=1, verbose=False
            )
            x = attack.generate(start, y=np.array([[0.0, 1.0]]))
        elif way == "HopSkipJump":
            attack = HopSkipJump(
                model, norm=np.inf, max_iter=3, max_eval=40, init_eval=15, init_size=queries, verbose=False
            )
            x = attack.generate(start)
        else:
            x = np.random.default_rng(seed).random((queries, *shape))
        out[way] = bool((row.odds(np.asarray(x), budget) <= row.limit).any())
    return out


WAYS_OF_ATTACK = ("at random", "Square", "HopSkipJump")


def attacked(
    trees: Trees, corpus: Corpus, connections: Connections, count: int, queries: int, seed: int
) -> list[tuple[str, list[float]]]:
    """By way, the share of found malicious connections that still is, by budget."""
    rows = tabulate(corpus.features, corpus.state)
    odds = trees.score(rows)
    limit = float(np.quantile(odds[corpus.label == 0], 1.0 - _RATE))
    raw = raw_of(connections)
    able = np.flatnonzero((corpus.label == 1) & (odds > limit) & raw.able.numpy())
    chosen = np.random.default_rng(seed).permutation(able)[:count]
    kept: dict[str, list[float]] = {way: [] for way in WAYS_OF_ATTACK}
    for budget in BUDGETS:
        found: dict[str, list[bool]] = {way: [] for way in WAYS_OF_ATTACK}
        for i in chosen.tolist():
            one = Row(trees, rows[i], Raw(*(getattr(raw, name)[i : i + 1] for name in Raw.__slots__)), limit)
            for way, hidden in hidden_by(one, budget, WAYS_OF_ATTACK, queries, seed + i).items():
                found[way].append(not hidden)
        for way, x in found.items():
            kept[way].append(float(np.mean(x)))
    return list(kept.items())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hardening", action="append", choices=WAYS)
    a = parser.parse_args()
    schema = load_schema()
    split = captures_split(a.folder, None, Config(), a.cache, lambda _what, _share: None)
    learn, test = gather(split.train, schema), gather(split.test, schema)
    connections = concat([r.windows for r in split.test if len(r.windows)]).connections
    rows = learn.label >= 0
    clean, malicious = tabulate(learn.features, learn.state)[rows], learn.label[rows] == 1
    weight = balance(learn, rows)[rows]
    lines = []
    copies: list[NDArray[np.float32]] = []
    for way in a.hardening or WAYS[:1]:
        if way != WAYS[0] and not copies:
            copies = [c[rows] for c in copies_of(split.train, COPIES, a.seed)]
        trees = hardened(way, clean, copies, malicious, weight, a.seed)
        for attack, kept in attacked(trees, test, connections, a.rows, a.queries, a.seed):
            lines.append([way, attack, *(f"{x:.2f}" for x in kept)])
    print(table(["trees", "attack", *(f"x{b:g}" for b in BUDGETS)], lines))


if __name__ == "__main__":
    main()
