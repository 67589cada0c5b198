"""Baseline detectors behind one interface: the same features, training rows and metrics as the detector."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cmdana_plugin.detector import Bins, Trees, fit_mixture, fit_trees, learn_bins, standardise, tabulate
from cmdana_plugin.training import Corpus, balance

Table = NDArray[np.float32]
Rows = NDArray[np.bool_]


class Baseline(Protocol):
    """`fit` on the rows that may teach (label 0 benign, 1 malicious), `score` any corpus: higher is odder."""

    def fit(self, corpus: Corpus, rows: Rows, seed: int) -> None: ...

    def score(self, corpus: Corpus) -> NDArray[np.float64]: ...


@dataclass(slots=True)
class OneClass:
    """A one-class detector on benign rows of a flat standardised table of connection and state columns."""

    make: Callable[[Table, int], Callable[[Table], NDArray[np.float64]]]
    state: bool = True
    _scale: NDArray[np.float32] | None = None
    _score: Callable[[Table], NDArray[np.float64]] | None = None

    def fit(self, corpus: Corpus, rows: Rows, seed: int) -> None:
        x = self._table(corpus)[rows & (corpus.label == 0)]
        self._scale = np.stack([np.nanmean(x, axis=0), np.maximum(np.nanstd(x, axis=0), 0.1)]).astype(
            np.float32
        )
        self._score = self.make(standardise(x, self._scale), seed)

    def score(self, corpus: Corpus) -> NDArray[np.float64]:
        assert self._scale is not None
        assert self._score is not None
        return self._score(standardise(self._table(corpus), self._scale))

    def _table(self, corpus: Corpus) -> Table:
        f = corpus.features
        return np.concatenate([f.numeric, corpus.state], axis=1) if self.state else f.numeric


@dataclass(slots=True)
class Volume:
    """Tukey's box-plot rule: how far bytes, packets or duration lie beyond the upper whisker of benign traffic."""

    _upper: NDArray[np.float32] | None = None
    _width: NDArray[np.float32] | None = None

    def fit(self, corpus: Corpus, rows: Rows, seed: int) -> None:
        x = corpus.features.numeric[rows & (corpus.label == 0), :5]
        low, high = np.nanquantile(x, [0.25, 0.75], axis=0)
        self._width = np.maximum(high - low, 0.1).astype(np.float32)
        self._upper = (high + 1.5 * self._width).astype(np.float32)

    def score(self, corpus: Corpus) -> NDArray[np.float64]:
        assert self._upper is not None
        assert self._width is not None
        x = np.nan_to_num(corpus.features.numeric[:, :5], nan=0.0)
        out: NDArray[np.float64] = ((x - self._upper) / self._width).max(axis=1).astype(np.float64)
        return out


@dataclass(slots=True)
class Rarity:
    """The sum over the connection's fields of the surprisal (-log p) of their values among benign traffic."""

    _bins: Bins | None = None
    _surprise: list[NDArray[np.float64]] = field(default_factory=list)

    def _codes(self, corpus: Corpus) -> NDArray[np.int64]:
        assert self._bins is not None
        return np.concatenate(
            [self._bins.codes(corpus.features.numeric), corpus.features.categorical.astype(np.int64)], axis=1
        )

    def fit(self, corpus: Corpus, rows: Rows, seed: int) -> None:
        benign = rows & (corpus.label == 0)
        self._bins = learn_bins(corpus.features.numeric[benign])
        codes = self._codes(corpus)[benign]
        self._surprise = []
        for j in range(codes.shape[1]):
            count = np.bincount(codes[:, j], minlength=64) + 0.5
            self._surprise.append(-np.log(count / count.sum()))

    def score(self, corpus: Corpus) -> NDArray[np.float64]:
        codes = self._codes(corpus)
        out = np.zeros(len(codes))
        for j, surprise in enumerate(self._surprise):
            out += surprise[codes[:, j]]
        return out


@dataclass(slots=True)
class Boosted:
    """Gradient-boosted trees (LightGBM) on labels, balanced like the shipped head."""

    columns: int | None = None  # how many of the first columns it may see
    _trees: Trees | None = None

    def fit(self, corpus: Corpus, rows: Rows, seed: int) -> None:
        rows = rows & (corpus.label >= 0)
        x = tabulate(corpus.features, corpus.state)[rows][:, : self.columns]
        self._trees = fit_trees(x, corpus.label[rows] == 1, balance(corpus, rows)[rows], seed, repeats=1)

    def score(self, corpus: Corpus) -> NDArray[np.float64]:
        assert self._trees is not None
        return self._trees.score(tabulate(corpus.features, corpus.state)[:, : self.columns])


@dataclass(slots=True)
class Forest:
    """A random forest on labels (Breiman 2001)."""

    _model: Any = None

    def fit(self, corpus: Corpus, rows: Rows, seed: int) -> None:
        from sklearn.ensemble import RandomForestClassifier

        rows = rows & (corpus.label >= 0)
        x = np.nan_to_num(tabulate(corpus.features, corpus.state)[rows], nan=-1.0)
        self._model = RandomForestClassifier(
            n_estimators=200, min_samples_leaf=2, n_jobs=2, random_state=seed
        )
        self._model.fit(x, corpus.label[rows] == 1, sample_weight=balance(corpus, rows)[rows])
        self._model.n_jobs = 1  # threads add the trees' votes in any order, and so differ in the last bit

    def score(self, corpus: Corpus) -> NDArray[np.float64]:
        x = np.nan_to_num(tabulate(corpus.features, corpus.state), nan=-1.0)
        out: NDArray[np.float64] = self._model.predict_proba(x)[:, 1]
        return out


@dataclass(slots=True)
class LateFusion:
    """One small network per modality on the flat table, their log odds added: fusion without attention."""

    epochs: int = 30
    _parts: list[tuple[slice, nn.Module]] = field(default_factory=list)
    _scale: NDArray[np.float32] | None = None

    def fit(self, corpus: Corpus, rows: Rows, seed: int) -> None:
        torch.manual_seed(seed)
        rows = rows & (corpus.label >= 0)
        table = tabulate(corpus.features, corpus.state)[rows]
        self._scale = np.stack([_mean(table), _spread(table)]).astype(np.float32)
        x = torch.from_numpy(standardise(table, self._scale))
        y = torch.from_numpy((corpus.label[rows] == 1).astype(np.float32))
        w = torch.from_numpy(balance(corpus, rows)[rows].astype(np.float32))
        f = corpus.features
        widths = [f.numeric.shape[1] + f.categorical.shape[1], corpus.state.shape[1]]
        cuts = np.cumsum([0, *widths, f.log_summary.shape[1], f.first_packets.shape[1]])
        self._parts = [
            (
                slice(int(a), int(b)),
                nn.Sequential(nn.Linear(int(b - a), 48), nn.GELU(), nn.Dropout(0.2), nn.Linear(48, 1)),
            )
            for a, b in itertools.pairwise(cuts)
        ]
        modules = nn.ModuleList(m for _, m in self._parts)
        optimiser = torch.optim.AdamW(modules.parameters(), 2e-3, weight_decay=1e-2)
        for _ in range(self.epochs):
            for rows_now in torch.randperm(len(x)).split(512):
                optimiser.zero_grad()
                loss = nn.functional.binary_cross_entropy_with_logits(
                    self._odds(x[rows_now]), y[rows_now], w[rows_now]
                )
                loss.backward()
                optimiser.step()
        modules.eval()

    def score(self, corpus: Corpus) -> NDArray[np.float64]:
        assert self._scale is not None
        x = torch.from_numpy(standardise(tabulate(corpus.features, corpus.state), self._scale))
        with torch.inference_mode():
            out: NDArray[np.float64] = self._odds(x).numpy().astype(np.float64)
        return out

    def _odds(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([m(x[:, s])[:, 0] for s, m in self._parts]).sum(dim=0)


@dataclass(slots=True)
class Recurrent:
    """A GRU over the host's last connections that predicts the next one's numbers; the score is its error."""

    epochs: int = 5
    _model: nn.Module | None = None
    _out: nn.Module | None = None
    _scale: NDArray[np.float32] | None = None

    def fit(self, corpus: Corpus, rows: Rows, seed: int) -> None:
        torch.manual_seed(seed)
        benign = np.flatnonzero(rows & (corpus.label == 0))
        numeric = corpus.features.numeric
        self._scale = np.stack([_mean(numeric[benign]), _spread(numeric[benign])]).astype(np.float32)
        width = numeric.shape[1]
        gru, out = nn.GRU(width, 48, batch_first=True), nn.Linear(48, width)
        self._model, self._out = gru, out
        optimiser = torch.optim.AdamW([*gru.parameters(), *out.parameters()], 2e-3)
        x, before = self._sequences(corpus)
        for _ in range(self.epochs):
            for part in torch.from_numpy(np.random.default_rng(seed).permutation(benign)).split(512):
                optimiser.zero_grad()
                self._error(x, before, part).mean().backward()
                optimiser.step()

    def score(self, corpus: Corpus) -> NDArray[np.float64]:
        x, before = self._sequences(corpus)
        with torch.inference_mode():
            parts = [self._error(x, before, p) for p in torch.arange(len(corpus)).split(2048)]
        out: NDArray[np.float64] = torch.cat(parts).numpy().astype(np.float64)
        return out

    def _sequences(self, corpus: Corpus) -> tuple[torch.Tensor, torch.Tensor]:
        from cmdana_plugin.training import previous_of_entity

        assert self._scale is not None
        x = torch.from_numpy(standardise(corpus.features.numeric, self._scale))
        return x, torch.from_numpy(previous_of_entity(corpus.ids[:, 0]))

    def _error(self, x: torch.Tensor, before: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        assert self._model is not None
        assert self._out is not None
        there = before[rows] >= 0
        past = x[before[rows].clamp_min(0)] * there[:, :, None]
        hidden, _ = self._model(torch.cat([torch.zeros_like(past[:, :1]), past], dim=1))
        last = hidden[torch.arange(len(rows)), there.sum(dim=1)]
        error: torch.Tensor = (self._out(last) - x[rows]).pow(2).mean(dim=1)
        return error


def _mean(x: Table) -> NDArray[np.float64]:
    known = np.isfinite(x)
    out: NDArray[np.float64] = np.where(known, x, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return out


def _spread(x: Table) -> NDArray[np.float64]:
    known = np.isfinite(x)
    squares = (np.where(known, x - _mean(x), 0.0) ** 2).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    out: NDArray[np.float64] = np.maximum(np.sqrt(squares), 0.1)
    return out


def _forest_of_isolation(x: Table, seed: int) -> Callable[[Table], NDArray[np.float64]]:
    from sklearn.ensemble import IsolationForest

    model = IsolationForest(n_estimators=200, random_state=seed).fit(x)
    return lambda t: -np.asarray(model.score_samples(t), np.float64)


def _neighbours(x: Table, seed: int) -> Callable[[Table], NDArray[np.float64]]:
    from sklearn.neighbors import NearestNeighbors

    model = NearestNeighbors(n_neighbors=5).fit(x)
    return lambda t: np.asarray(model.kneighbors(t)[0].mean(axis=1), np.float64)


def _gaussians(x: Table, seed: int) -> Callable[[Table], NDArray[np.float64]]:
    return fit_mixture(x, 16, seed).score


def _autoencoder(x: Table, seed: int) -> Callable[[Table], NDArray[np.float64]]:
    torch.manual_seed(seed)
    width = x.shape[1]
    narrow = max(2, width // 4)
    model = nn.Sequential(
        nn.Linear(width, 48),
        nn.GELU(),
        nn.Linear(48, narrow),
        nn.GELU(),
        nn.Linear(narrow, 48),
        nn.GELU(),
        nn.Linear(48, width),
    )
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    data = torch.from_numpy(x)
    for _ in range(20):
        for rows in torch.randperm(len(data)).split(256):
            optimiser.zero_grad()
            (model(data[rows]) - data[rows]).pow(2).mean().backward()
            optimiser.step()

    def score(t: Table) -> NDArray[np.float64]:
        with torch.inference_mode():
            y = torch.from_numpy(t)
            out: NDArray[np.float64] = (model(y) - y).pow(2).mean(dim=1).numpy().astype(np.float64)
        return out

    return score


def _kitsune(x: Table, seed: int, size: int = 10) -> Callable[[Table], NDArray[np.float64]]:
    """Small autoencoders over clusters of correlated columns, and one over their errors (Mirsky et al., NDSS 2018)."""
    correlation: NDArray[np.float64] = np.nan_to_num(np.atleast_2d(np.corrcoef(x, rowvar=False)))
    left, clusters = list(range(x.shape[1])), []
    while left:
        near = sorted(left, key=lambda j: -abs(correlation[left[0], j]))[:size]
        clusters.append(near)
        left = [j for j in left if j not in near]
    members = [_autoencoder(np.ascontiguousarray(x[:, c]), seed + i) for i, c in enumerate(clusters)]

    def errors(t: Table) -> Table:
        parts = [m(np.ascontiguousarray(t[:, c])) for m, c in zip(members, clusters, strict=True)]
        return np.log1p(np.stack(parts, axis=1)).astype(np.float32)

    final = _autoencoder(errors(x), seed)
    return lambda t: final(errors(t))


def _forest(x: Table, malicious: Rows, seed: int) -> Callable[[Table], NDArray[np.float64]]:
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(n_estimators=200, min_samples_leaf=2, n_jobs=1, random_state=seed)
    model.fit(x, malicious)
    return lambda t: np.asarray(model.predict_proba(t)[:, 1], np.float64)


def _boosted(x: Table, malicious: Rows, seed: int) -> Callable[[Table], NDArray[np.float64]]:
    trees = fit_trees(x, malicious, np.ones(len(x)), seed, repeats=1)
    return lambda t: 1.0 / (1.0 + np.exp(-trees.score(t)))


# Of flat standardised tables: fit(rows, malicious, seed), and whether it learns from labels.
DETECTORS_OF_TABLES: Final[
    dict[str, tuple[Callable[[Table, Rows, int], Callable[[Table], NDArray[np.float64]]], bool]]
] = {
    "isolation-forest": (lambda x, _, seed: _forest_of_isolation(x, seed), False),
    "knn": (lambda x, _, seed: _neighbours(x, seed), False),
    "gaussians": (lambda x, _, seed: _gaussians(x, seed), False),
    "autoencoder": (lambda x, _, seed: _autoencoder(x, seed), False),
    "forest": (_forest, True),
    "boosted": (_boosted, True),
}

BASELINES: Final[dict[str, Callable[[], Baseline]]] = {
    "volume": Volume,
    "rarity": Rarity,
    "isolation-forest": lambda: OneClass(_forest_of_isolation),
    "knn": lambda: OneClass(_neighbours),
    "gaussians": lambda: OneClass(_gaussians),
    "autoencoder": lambda: OneClass(_autoencoder),
    "kitsune": lambda: OneClass(_kitsune),
    "gru": Recurrent,
    "late-fusion": LateFusion,
    "forest": Forest,
    "boosted": Boosted,
    # The connection's own fields only: what conn.log alone gives.
    "boosted-conn": lambda: Boosted(25),
}
WITH_LABELS: Final = frozenset({"late-fusion", "forest", "boosted", "boosted-conn"})
