"""What rehearsals that hide teach behaviour, and at which price: `cmdana train --rehearsals` by way, behaviour alone.

    python -m benchmarks.hiding PLAN --network NAME [--cache KEPT] [--seeds 1] [--way plain --way searched]

Learned on the network's training days with `calibrate` days as the later ones. Gain: rehearsals that nobody learned
from, among the later days, as drawn, hiding at random, and hiding best of six tries from the very model that is asked:
the share of which a tenth of the connections pass what one in a hundred or a thousand of the site's own do, and the
share of their connections. Price: the attacks of the judged days, connection by connection, macro over families.
Whole detectors on whole days: `cmdana evaluate --days PLAN --only cmdana --only "cmdana, rehearsals searched"`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.behaviour import Bounds, Flows, Streams, behaviour_of, concat_flows, flow_rows, flows_of
from cmdana_plugin.config import Config
from cmdana_plugin.detector import Trees, shipped_checkpoint
from cmdana_plugin.evaluation.metrics import judge
from cmdana_plugin.evaluation.own_network import after
from cmdana_plugin.evaluation.whole_days.page import table
from cmdana_plugin.evaluation.whole_days.plan import Day, in_turn, networks_of, read_days
from cmdana_plugin.training import gather
from cmdana_plugin.training.fit_behaviour import Normal, fit_behaviour, normal_of
from cmdana_plugin.training.rehearsals.hiding import WAYS, hardened
from cmdana_plugin.training.rehearsals.rehearsal import KINDS, Curriculum, drawn, site_of
from feature_extractors.features import load_schema

RATES = (1e-2, 1e-3)
_FOUND = 0.1  # share of a rehearsal's connections with which it counts as seen
_TURNS = 4  # of two rehearsals of each kind
_SEED = 99  # of rehearsals that are asked of


def odds_of(trees: Trees, flows: Flows) -> NDArray[np.float64]:
    return trees.score(Streams(Bounds()).receive(flows).astype(np.float32))


def seen(trees: Trees, normal: Normal, way: str, turns: int = _TURNS) -> list[float]:
    """Of rehearsals among what was not learned from, hidden in this way: for each rate the share seen, and the share of
    their connections.
    """
    n = normal.learned
    own, later = normal.flows, normal.normal & (np.arange(len(normal)) >= n)
    shares: list[list[float]] = [[] for _ in RATES]
    for turn in range(turns):
        rng = np.random.default_rng((_SEED, turn))
        site = site_of(own, float(own.end[n]), normal.normal)
        rehearsals = drawn(site, rng, Curriculum.begin(), 2 * len(KINDS))
        made = hardened(own, rehearsals, site, rng, way, lambda flows: odds_of(trees, flows))
        odds = odds_of(trees, made.flows)
        calm = odds[(made.row >= 0) & later[np.maximum(made.row, 0)]]
        for found, rate in zip(shares, RATES, strict=True):
            over = odds > np.quantile(calm, 1.0 - rate)
            found += [float(over[made.number == r.number].mean()) for r in rehearsals]
    return [
        x for s in shares for x in (float(np.mean(np.array(s) >= _FOUND)), float(np.mean(s)) if s else 0.0)
    ]


def attacks(trees: Trees, past: Flows, days: Sequence[Day]) -> list[float]:
    """Of the judged days' attacks, macro over families: the share of connections at each rate, and AUROC."""
    odds = odds_of(trees, concat_flows([past, *(flows_of(d.encoded, 0) for d in days)]))[len(past) :]
    rows = [flow_rows(d.encoded) for d in days]
    label = np.concatenate([d.truth.label[r] for d, r in zip(days, rows, strict=True)])
    family = [d.truth.family[i] for d, r in zip(days, rows, strict=True) for i in r.tolist()]
    _, macro = judge(odds, label, family)
    return [*macro.tpr[:2], macro.auroc]


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("plan", type=Path)
    ask.add_argument("--network", required=True)
    ask.add_argument("--cache", type=Path)
    ask.add_argument("--seeds", type=int, default=1)
    ask.add_argument("--way", action="append", choices=WAYS)
    asked = ask.parse_args()
    plan = networks_of(read_days(asked.plan))[asked.network]
    days = list(in_turn(plan, Config(), asked.cache, lambda _what, _share: None))
    train = [d.recording() for d in days if d.part == "train"]
    later = [after(train, d.recording())[0] for d in days if d.part == "calibrate"]
    [normal] = normal_of([gather(part, load_schema()) for part in (train, later)], 1.0, one_site=True)
    judged = [d for d in days if d.part == "test"]
    elsewhere = behaviour_of(shipped_checkpoint())
    lines = []
    for seed in range(asked.seeds):
        for way in asked.way or WAYS:
            begun = time.process_time()
            made = fit_behaviour(
                [normal], seed=seed, salt=0, beside=elsewhere.trees if elsewhere else None, hiding=way
            )
            assert made is not None
            spent = time.process_time() - begun
            gain = [seen(made.trees, normal, hidden) for hidden in WAYS]
            words = [f"{g[2]:.3f} ({g[3]:.3f})" for g in gain]
            price = attacks(made.trees, normal.flows, judged)
            lines.append([way, seed, *words, *(f"{x:.3f}" for x in price), f"{spent:.0f}"])
    heads = [f"{hidden}, at 1e-3" for hidden in WAYS]
    print(table(["learned", "seed", *heads, "attacks at 1e-2", "at 1e-3", "AUROC", "seconds"], lines))


if __name__ == "__main__":
    main()
