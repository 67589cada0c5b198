"""Heads that name classes, on flat tables: the networks by name and boosted trees, with each way of balancing.

A flat table has no packets and no past: of the networks what looks at the fields is left, the parallel convolutions
with their attention (S3), and residual attention over fields (S2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cmdana_plugin.detector import (
    CLASSES,
    ResidualFields,
    SpatialMap,
    class_weights,
    drawn,
    energy,
    fit_classes,
    fit_trees,
    head_loss,
    learn_bins,
    standardise,
)
from cmdana_plugin.evaluation.tables.flat_tables import Table, Task
from cmdana_plugin.evaluation.tables.multiclass import confusion, figures

Progress = Callable[[str, float], None]
Section = dict[str, Any]

BALANCED: Final = "weights"  # the way of balancing unless another is named
NAMES: Final = ("boosted", "residual-attention", "spatio-temporal", "spatio-temporal, permuted columns")
EPOCHS: Final = 3
_BENIGN: Final = "benign"
_ROWS: Final = 512  # of one step
_RATE: Final = 2e-3
_WIDTH: Final = 32
_UNKNOWN: Final = 0.01  # share of training rows whose energy is below the least
_SOFTENED: Final = 0.5  # power of a class's size that its weight goes down with
_DEPTH: Final = 80  # trees of each class


class TableNetwork(nn.Module):
    """Classes of the rows of a table from their fields, each a bin's vector plus its value along a direction."""

    def __init__(self, table: Table, classes: int, name: str, seed: int) -> None:
        super().__init__()
        fields, self.numeric = len(table.group), table.numeric.shape[1]
        self.spatial = name.startswith("spatio")
        width = 4 if self.spatial else _WIDTH
        self.code = nn.Embedding(fields * CLASSES, width)
        self.slope = nn.Parameter(torch.randn(self.numeric, width) * 0.1)
        order = torch.arange(fields)
        if name.endswith("permuted columns"):
            order = torch.randperm(fields, generator=torch.Generator().manual_seed(seed + 1))
        self.body: nn.Module = (
            SpatialMap(order, width, _WIDTH) if self.spatial else ResidualFields(_WIDTH, heads=4)
        )
        inside = (2 if self.spatial else 3) * _WIDTH
        self.head = nn.Sequential(
            nn.Linear(inside, 2 * _WIDTH), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * _WIDTH, classes)
        )

    def forward(self, codes: Tensor, values: Tensor) -> Tensor:
        """The logits [B, classes] of codes [B, fields] and standardised numbers [B, numeric]."""
        x = self.code(codes + torch.arange(codes.shape[1]) * CLASSES)
        x = torch.cat([x[:, : self.numeric] + values[:, :, None] * self.slope, x[:, self.numeric :]], dim=1)
        there = torch.ones(x.shape[:2], dtype=torch.bool)
        out: Tensor = self.head(self.body(x, there)[0])
        return out


def classes_of(task: Task) -> list[str]:
    """The names of the classes that training shows, benign first."""
    return [_BENIGN, *sorted({f for f in task.learn.family if f})]


def evaluate(
    tasks: Sequence[Task],
    *,
    seeds: Sequence[int] = (0,),
    names: Sequence[str] = NAMES,
    balancing: Sequence[str] = (BALANCED,),
    epochs: int = EPOCHS,
    progress: Progress = lambda _what, _share: None,
    partial: Callable[[Section], None] = lambda _found: None,
) -> Section:
    """The findings of every head on every task, by seed: figures of the confusion matrix over the test rows.

    Only training rows are weighed or drawn more often; test rows are as they are.
    """
    found: Section = {}
    jobs = [(t, n, b, s) for t in tasks for n in names for b in balancing for s in seeds]
    for i, (task, name, way, seed) in enumerate(jobs):
        progress(f"{task.name}: {name}, {way}, seed {seed}", i / len(jobs))
        classes = classes_of(task)
        code = {c: k for k, c in enumerate(classes)}
        kind = np.array([code[f or _BENIGN] for f in task.learn.family])
        truth = np.array([code.get(f or _BENIGN, -1) for f in task.test.family])
        shown = truth >= 0  # a class that training has never shown cannot be named
        fit = _boosted if name == "boosted" else _network
        said, known = fit(task, kind, len(classes), name, way, seed, epochs)
        one = figures(confusion(truth[shown], said[shown], len(classes)), classes)
        one["unknown"] = {
            "left_out": int((~shown).sum()),
            "called_unknown": float((~known)[~shown].mean()) if (~shown).any() else None,
            "shown_called_unknown": float((~known)[shown].mean()),
        }
        table = found.setdefault(
            task.name, {"about": {"protocol": task.about, "epochs": epochs}, "heads": {}}
        )
        table["heads"].setdefault(f"{name}, {way}", []).append(one)
        partial(found)
    return found


def _boosted(
    task: Task, kind: NDArray[np.int64], classes: int, name: str, way: str, seed: int, epochs: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Classes of the test rows by trees, which know weights only, and no unknown class."""
    weight = np.ones(len(kind)) if way == "none" else class_weights(kind, classes, _SOFTENED)
    if classes == 2:
        trees = fit_trees(task.learn.flat(), kind == 1, weight, seed, rounds=_DEPTH, repeats=1)
        said = (trees.score(task.test.flat()) > 0.0).astype(np.int64)
    else:
        trees = fit_classes(task.learn.flat(), kind, weight, seed, rounds=_DEPTH)
        said = trees.scores(task.test.flat()).argmax(axis=1)
    return said, np.ones(len(said), np.bool_)


def _network(
    task: Task, kind: NDArray[np.int64], classes: int, name: str, way: str, seed: int, epochs: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    bins = learn_bins(task.learn.numeric)
    x = np.ma.masked_invalid(task.learn.numeric)
    mean, spread = x.mean(axis=0).filled(0.0), x.std(axis=0).filled(0.0)
    scale = np.stack([mean, np.maximum(spread, 0.1)]).astype(np.float32)

    def inputs(table: Table) -> tuple[Tensor, Tensor]:
        codes = np.concatenate([bins.codes(table.numeric), table.codes], axis=1)
        return torch.from_numpy(codes), torch.from_numpy(standardise(table.numeric, scale))

    codes, values = inputs(task.learn)
    weight = class_weights(kind, classes, _SOFTENED)
    prior = torch.from_numpy((np.bincount(kind, minlength=classes) / len(kind)).astype(np.float32))
    network = TableNetwork(task.learn, classes, name, seed)
    optimiser = torch.optim.AdamW(network.parameters(), _RATE, weight_decay=1e-2)
    steps = max(epochs * len(kind) // _ROWS, 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps + 1, pct_start=0.15)
    for _ in range(steps):
        rows = drawn(weight, _ROWS, way, rng)
        part = torch.from_numpy(rows)
        loss = head_loss(
            network(codes[part], values[part]), torch.from_numpy(kind[rows]),
            torch.from_numpy(weight[rows].astype(np.float32)), prior, way,
        )  # fmt: skip
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    network.eval()

    def logits(codes: Tensor, values: Tensor) -> Tensor:
        with torch.inference_mode():
            parts = torch.arange(len(codes)).split(4096)
            return torch.cat([network(codes[p], values[p]) for p in parts])

    some = torch.from_numpy(rng.permutation(len(kind))[:20_000])
    least = torch.quantile(energy(logits(codes[some], values[some])), _UNKNOWN)
    told = logits(*inputs(task.test))
    return told.argmax(dim=1).numpy(), (energy(told) >= least).numpy()
