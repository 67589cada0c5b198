"""What judges runs of connections best: encoders of an entity's last connections, or statistics of them with trees.

    python -m benchmarks.sequences PLAN --network NAME [--cache KEPT] [--rows 60000] [--passes 3] [--seeds 1]

All learn the same rehearsals on the network's training days (`training.rehearsals`), without a label of an attack, and
are asked of rehearsals that are drawn anew and of the real attacks of the judged days: macro over families, at the
threshold that a share of the judged days' own normal connections passes. Ablations take columns from the trees; each
kind of rehearsal is held out once, to see whether the others teach to see it; the control shuffles each originator's
connections in time, and what only their order tells must vanish.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cmdana_plugin.behaviour import Bounds, Flows, Streams, concat_flows, flow_rows, flows_of, take_flows
from cmdana_plugin.config import Config
from cmdana_plugin.detector.networks.encoders import ENCODERS, encoder
from cmdana_plugin.evaluation.metrics import judge
from cmdana_plugin.evaluation.whole_days.plan import Day, in_turn, networks_of, read_days
from cmdana_plugin.training.fit_behaviour import Lesson, fit_lessons
from cmdana_plugin.training.rehearsals.rehearsal import KINDS, Curriculum, rehearsed
from feature_extractors import CONN_STATES, CmdanaError
from feature_extractors.features import load_schema

LAST = 32  # connections of an originator that an encoder sees
_WIDTH = 32
_BATCH = 512
_LESSONS = 4
_TREES = 200
_RATES = (1e-2, 1e-3)
WITHOUT: Mapping[str, tuple[str, ...]] = {
    "outcomes": ("refused", "accepted"),
    "slow clock": ("_slow_bits", "_surprise", "_gain", "_evidence"),
    "gain of the fast clock": ("_gain", "_evidence"),
    "rhythm": ("_interval", "_off_beat", "_cv", "_minutes", "_tens"),
    "first contacts": ("_young", "_others", "_age", "_ports"),
    "volume": ("sent", "received"),
}


def tokens(flows: Flows) -> NDArray[np.float32]:
    """Each connection [n, d] as an encoder sees it, but for what it has to do with the newest."""
    f = flows
    state = np.stack([f.state == CONN_STATES.index(s) for s in ("S0", "REJ", "SF", "RSTO", "OTH")], axis=1)
    amounts = np.stack(
        [f.duration, f.orig_bytes, f.resp_bytes, f.orig_pkts, f.resp_pkts, f.accepted, f.refused, f.bits],
        axis=1,
    )
    service = np.clip(f.service.astype(np.int64), 0, 31)
    code = np.random.default_rng(0).normal(0.0, 1.0, (32, 6))[service]
    rest = np.stack([f.proto == 6, f.proto == 17, f.resp_local, f.port < 1024, f.domain != 0], axis=1)
    return np.concatenate([np.log1p(amounts) / 5.0, state, code, rest], axis=1).astype(np.float32)


class Runs:
    """The last connections of the originator of each of some rows."""

    def __init__(self, flows: Flows, rows: NDArray[np.int64]) -> None:
        order = np.argsort(flows.orig, kind="stable")
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        first = np.searchsorted(flows.orig[order], flows.orig)  # where the originator's begin
        at = place[rows][:, None] - np.arange(LAST - 1, -1, -1)
        self.mask = at >= first[rows][:, None]
        self.rows = order[np.maximum(at, 0)]
        self.flows = flows
        self._tokens = tokens(flows)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, some: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        f, rows = self.flows, self.rows[some]
        now = rows[:, -1:]
        gap = np.diff(f.ts[rows], axis=1, prepend=f.ts[rows[:, :1]])
        beside = [
            f.resp[rows] == f.resp[now], f.port[rows] == f.port[now], (f.domain[rows] == f.domain[now]),
            np.log1p(np.maximum(f.ts[now] - f.ts[rows], 0.0)) / 5.0, np.log1p(np.maximum(gap, 0.0)) / 5.0,
        ]  # fmt: skip
        x = np.concatenate([self._tokens[rows], np.stack(beside, axis=2).astype(np.float32)], axis=2)
        return torch.from_numpy(x), torch.from_numpy(self.mask[some])


class Judge(torch.nn.Module):
    """An encoder with log odds at its end."""

    def __init__(self, name: str, inputs: int) -> None:
        super().__init__()
        self.encoder = encoder(name, inputs, _WIDTH)
        self.out = torch.nn.Linear(_WIDTH, 1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        odds: torch.Tensor = self.out(self.encoder(x, mask))[:, 0]
        return odds

    @torch.no_grad()
    def score(self, runs: Runs) -> NDArray[np.float64]:
        self.eval()
        parts = [
            self(*runs.batch(np.arange(a, min(a + 4096, len(runs))))).numpy()
            for a in range(0, len(runs), 4096)
        ]
        return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)


def fitted(
    name: str, runs: list[Runs], kind: NDArray[np.int8], weight: NDArray[np.float64], passes: int, seed: int
) -> Judge:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    bounds = np.cumsum([0, *(len(r) for r in runs)])
    model = Judge(name, runs[0].batch(np.zeros(1, np.int64))[0].shape[2])
    steps = passes * sum(-(-len(r) // _BATCH) for r in runs)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for _ in range(passes):
        for which in rng.permutation(len(runs)).tolist():
            rows = rng.permutation(len(runs[which]))
            for begin in range(0, len(rows), _BATCH):
                some = rows[begin : begin + _BATCH]
                at = bounds[which] + some
                odds = model(*runs[which].batch(some))
                truth = torch.from_numpy((kind[at] > 0).astype(np.float32))
                each = torch.nn.functional.binary_cross_entropy_with_logits(odds, truth, reduction="none")
                loss = (each * torch.from_numpy(weight[at].astype(np.float32))).mean()
                optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                schedule.step()
    return model


def lesson(
    flows: Flows, rng: np.random.Generator, keep: float, shuffled: bool = False
) -> tuple[Lesson, Runs]:
    """Fields and last connections of the rows of one lesson."""
    made = rehearsed(flows, rng, Curriculum.begin(float(rng.uniform(0.3, 0.9))), 20)
    whole, row = _shuffled(made.flows, rng) if shuffled else (made.flows, np.arange(len(made.flows)))
    kind, number = made.kind[row], made.number[row]
    table = Streams(Bounds()).receive(whole)
    late = np.arange(len(row)) > len(row) // 4
    chosen = np.flatnonzero((number > 0) | (rng.random(len(row)) < keep) & late)
    weight = np.ones(len(chosen))
    for which in np.unique(number[number > 0]).tolist():
        mine = number[chosen] == which
        weight[mine] = 1.0 / np.sqrt(max(mine.sum(), 1))
    return Lesson(table[chosen].astype(np.float32), kind[chosen], weight), Runs(whole, chosen)


def _shuffled(flows: Flows, rng: np.random.Generator) -> tuple[Flows, NDArray[np.int64]]:
    """Each originator's connections in another order, and which each is: times stay, what happens at them is drawn."""
    rows = np.arange(len(flows))
    order = np.argsort(flows.orig, kind="stable")
    cuts = np.flatnonzero(np.diff(flows.orig[order])) + 1
    for part in np.split(order, cuts):
        rows[part] = rng.permutation(part)
    return replace(take_flows(flows, rows), ts=flows.ts, end=flows.end, orig=flows.orig), rows


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("plan", type=Path)
    ask.add_argument("--network", required=True)
    ask.add_argument("--cache", type=Path)
    ask.add_argument("--rows", type=int, default=60_000, help="normal rows of all lessons")
    ask.add_argument("--passes", type=int, default=3)
    ask.add_argument("--seeds", type=int, default=1)
    ask.add_argument("--only", nargs="*", default=None)
    asked = ask.parse_args()
    torch.set_num_threads(1)
    try:
        plan = networks_of(read_days(asked.plan))[asked.network]
    except (CmdanaError, KeyError) as error:
        print(f"{asked.plan}: {error}", file=sys.stderr)
        return 1
    quiet = lambda _what, _share: None  # noqa: E731
    learned = list(
        in_turn([p for p in plan if p.part in ("train", "calibrate")], Config(), asked.cache, quiet)
    )
    past = concat_flows([flows_of(d.encoded, 0) for d in learned])
    before = max(float(d.truth.ts.max()) for d in learned)
    judged = list(in_turn([p for p in plan if p.part == "test"], Config(), asked.cache, quiet, before))
    at = Judged(past, judged)
    print(f"{asked.network}: {len(past):,} normal connections to learn from, {len(at.label):,} judged")
    for seed in range(asked.seeds):
        _measure(past, at, asked, seed)
    return 0


class Judged:
    """The judged days after what was learned from, with their truth."""

    def __init__(self, past: Flows, days: list[Day]) -> None:
        rows = [flow_rows(d.encoded) for d in days]
        self.flows = concat_flows([past, *(flows_of(d.encoded, 0) for d in days)])
        self.at = np.arange(len(past), len(self.flows))
        self.label = np.concatenate([d.truth.label[r] for d, r in zip(days, rows, strict=True)])
        family = [d.truth.family[i] for d, r in zip(days, rows, strict=True) for i in r.tolist()]
        self.family = np.array(family, dtype=object)
        self.fields = Streams(Bounds()).receive(self.flows)[self.at].astype(np.float32)

    def found(self, odds: NDArray[np.float64], order: NDArray[np.int64] | None = None) -> tuple[float, ...]:
        """TPR at each of the rates, and AUROC, macro over families."""
        order = np.arange(len(odds)) if order is None else order
        _, macro = judge(odds, self.label[order], self.family[order].tolist())
        return (*macro.tpr[:2], macro.auroc)


def _measure(past: Flows, at: Judged, asked: argparse.Namespace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    keep = min(asked.rows / (_LESSONS * len(past)), 1.0)
    made = [lesson(past, rng, keep) for _ in range(_LESSONS)]
    fresh, fresh_runs = lesson(past, np.random.default_rng(1000 + seed), keep)
    names = [f.name for f in load_schema().behaviour]

    def wanted(name: str) -> bool:
        return asked.only is None or name.strip() in asked.only

    def told(
        name: str,
        lesson_odds: NDArray[np.float64],
        kind: NDArray[np.int8],
        seen: tuple[float, ...],
        seconds: float,
    ) -> None:
        least = [float(np.quantile(lesson_odds[kind == 0], 1.0 - r)) for r in _RATES]
        kinds = [kind == k for k in np.unique(kind[kind > 0])]
        own = [float(np.mean([(lesson_odds[k] > t).mean() for k in kinds])) for t in least]
        words = (
            f"rehearsed {own[0]:.3f} {own[1]:.3f}   attacks {seen[0]:.3f} {seen[1]:.3f}  AUROC {seen[2]:.3f}"
        )
        print(f"{name:38} {words}   {seconds:.0f} s", flush=True)

    ways: dict[str, tuple[str, ...]] = {"statistics with trees": ()}
    ways |= {f"  without {what}": parts for what, parts in WITHOUT.items()}
    for name, parts in ways.items():
        if wanted(name):
            begun = time.process_time()
            kept = np.array([not any(p in n for p in parts) for n in names])
            trees = fit_lessons([_only(x, kept) for x, _ in made], seed, _TREES)
            spent = time.process_time() - begun
            seen = at.found(trees.score(_masked(at.fields, kept)))
            told(name, trees.score(_masked(fresh.table, kept)), fresh.kind, seen, spent)
    if wanted("kinds held out"):
        _held_out([x for x, _ in made], fresh, seed)
    if wanted("time shuffled"):
        begun = time.process_time()
        trees = fit_lessons(
            [lesson(past, rng, keep, shuffled=True)[0] for _ in range(_LESSONS)], seed, _TREES
        )
        other = lesson(past, np.random.default_rng(1000 + seed), keep, shuffled=True)[0]
        flows, row = _shuffled(take_flows(at.flows, at.at), rng)
        whole = concat_flows([take_flows(at.flows, np.arange(at.at[0])), flows])
        fields = Streams(Bounds()).receive(whole)[at.at].astype(np.float32)
        seen = at.found(trees.score(fields), row)
        told("  time shuffled", trees.score(other.table), other.kind, seen, time.process_time() - begun)
    kind = np.concatenate([x.kind for x, _ in made])
    weight = np.concatenate([x.weight for x, _ in made])
    kinds = np.unique(kind[kind > 0])
    for k in kinds:
        weight[kind == k] *= 1.0 / (len(kinds) * weight[kind == k].sum())
    weight[kind == 0] *= 1.0 / weight[kind == 0].sum()
    weight *= len(weight) / weight.sum()
    runs, base = Runs(at.flows, at.at), None
    for name in filter(wanted, ENCODERS):
        begun = time.process_time()
        model = fitted(name, [r for _, r in made], kind, weight, asked.passes, seed)
        spent = time.process_time() - begun
        odds, own = model.score(runs), model.score(fresh_runs)
        told(name, own, fresh.kind, at.found(odds), spent)
        base = base or fit_lessons([x for x, _ in made], seed, _TREES)
        both = at.found(odds + base.score(at.fields))
        told(f"  {name} and trees", own + base.score(fresh.table), fresh.kind, both, spent)


def _held_out(made: list[Lesson], fresh: Lesson, seed: int) -> None:
    """Of each kind of rehearsal the share that is seen by who learned it too, and by who learned all others."""
    whole = fit_lessons(made, seed, _TREES)
    print(f"{'  kinds held out':38} seen at 1e-2 and 1e-3, learned and not")
    for k in np.unique(fresh.kind[fresh.kind > 0]).tolist():
        others = [Lesson(x.table[x.kind != k], x.kind[x.kind != k], x.weight[x.kind != k]) for x in made]
        shares = []
        for trees in (whole, fit_lessons(others, seed, _TREES)):
            odds = trees.score(fresh.table)
            least = [float(np.quantile(odds[fresh.kind == 0], 1.0 - r)) for r in _RATES]
            shares += [float((odds[fresh.kind == k] > t).mean()) for t in least]
        print(
            f"    {KINDS[k - 1]:34} {shares[0]:.2f} {shares[1]:.2f}   {shares[2]:.2f} {shares[3]:.2f}",
            flush=True,
        )


def _masked(table: NDArray[np.float32], kept: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.where(kept, table, np.float32(np.nan))


def _only(x: Lesson, kept: NDArray[np.bool_]) -> Lesson:
    return Lesson(_masked(x.table, kept), x.kind, x.weight.copy())


if __name__ == "__main__":
    sys.exit(main())
