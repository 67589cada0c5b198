"""What is left out, or shuffled, to measure what it is worth: variants of training, and the networks that they train.

None of it ships. A network of an ablation is never written to disk: nothing there would tell it from the real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cmdana_plugin.detector import (
    MODALITIES,
    CrossModal,
    EventContext,
    FieldNetwork,
    Network,
    Past,
    Predictor,
    Prepared,
    RawScores,
    Remembered,
    Shape,
    SpatioTemporalNetwork,
    stratum_of,
)
from cmdana_plugin.evaluation.masking import hide
from cmdana_plugin.training import Corpus, Variant
from feature_extractors.features import Schema, take_features

if TYPE_CHECKING:
    Raw = dict[str, NDArray[np.float64]]


class _StaticGateNetwork(Network):
    def gate_weights(self, s: Tensor, present: Tensor) -> Tensor:
        return super().gate_weights(torch.zeros_like(s), present)


class _CountsNetwork(Network):
    def read_state(self, state: Tensor, known: Tensor, past: Past) -> Tensor:
        out: Tensor = self.state_norm(self.counts(torch.cat([state, known], dim=1)))
        return out


class _StateNetwork(Network):
    def sources(self, modality: int) -> Sequence[int]:
        return []


class _SideBySide(Predictor):
    """The sources and whether they are there in one row, through one layer."""

    def __init__(self, shape: Shape, targets: int) -> None:
        super().__init__(shape, targets)
        sources = (MODALITIES - 1) * shape.latents + 1
        self.side_by_side = nn.Linear(sources * (shape.width + 1), shape.latents * shape.width)

    def forward(self, state: Tensor, others: Tensor, bias: Tensor) -> Tensor:
        b, _, d = others.shape
        there = (bias > -1e8).to(others.dtype)[:, :, None]
        z = self.side_by_side(torch.cat([others * there, there], dim=2).flatten(1)).view(b, self.latents, d)
        joined: Tensor = self.norm(self.mix(z).add_(z))
        return joined


class _ConcatenationNetwork(Network):
    predictor = _SideBySide


class _OpenNetwork(Network):
    def sources(self, modality: int) -> Sequence[int]:
        return range(MODALITIES)


class _PermutedNetwork(SpatioTemporalNetwork):
    def layout(self, fields: int) -> Tensor:
        return torch.randperm(fields, generator=torch.Generator().manual_seed(1))


@dataclass(frozen=True)
class Only(Variant):
    """The variant that uses some of packets, connection and logs; the others count as missing."""

    modalities: tuple[bool, bool, bool]

    def prepared(self, prepared: Prepared) -> Prepared:
        return replace(prepared, present=prepared.present & np.array(self.modalities))


@dataclass(frozen=True)
class StaticGate(Variant):
    """The network with one set of gate weights for all events."""

    network: ClassVar[type[Network]] = _StaticGateNetwork


@dataclass(frozen=True)
class NoMemory(Variant):
    """The network whose state is counts alone: no learned memory, no ring."""

    network: ClassVar[type[Network]] = _CountsNetwork


@dataclass(frozen=True)
class NoState(NoMemory):
    """The variant without any state: no memory, no counts."""

    def material(self, corpus: Corpus, schema: Schema, seed: int) -> Corpus:
        return replace(corpus, state=np.full_like(corpus.state, np.nan))


@dataclass(frozen=True)
class StateAlone(Variant):
    """The network that predicts every modality from the state alone."""

    network: ClassVar[type[Network]] = _StateNetwork


@dataclass(frozen=True)
class Concatenation(Variant):
    """The network that concatenates the other modalities through one layer, without attention or gate."""

    network: ClassVar[type[Network]] = _ConcatenationNetwork


@dataclass(frozen=True)
class RandomMask(Variant):
    """The variant that predicts fields hidden at random from all the rest (masked modelling), not a modality from
    others.
    """

    network: ClassVar[type[Network]] = _OpenNetwork

    def lesson(self, prepared: Prepared, schema: Schema, rng: np.random.Generator) -> Prepared:
        return hide(prepared, schema, rng)

    def scored(self, detector: CrossModal, prepared: Prepared, outcome: RawScores, seen: EventContext) -> Raw:
        shown = [hide(prepared, detector.schema, k) for k in (0, 1)]
        one, two = (detector.judge(half, seen, detector.latents(half)).raw for half in shown)
        predicted = ("packets", "connection", "log", "residual")
        return outcome.raw | {k: 0.5 * (one[k] + two[k]) for k in predicted}


@dataclass(frozen=True)
class ShuffledTime(Variant):
    """A control: every event has the state of another."""

    def material(self, corpus: Corpus, schema: Schema, seed: int) -> Corpus:
        return replace(corpus, state=corpus.state[np.random.default_rng(seed + 1).permutation(len(corpus))])

    def past(self, past: Past, rng: np.random.Generator) -> Past:
        other = torch.from_numpy(rng.permutation(len(past.memory)))
        return Past(past.memory[other], past.ring[other], past.ring_used[other])

    def remembered(self, past: Remembered, seed: int) -> Remembered:
        memory, ring, used = past
        other = np.random.default_rng(seed).permutation(len(memory))
        return memory[other], ring[other], used[other]


@dataclass(frozen=True)
class PermutedColumns(Variant):
    """A control of the spatio-temporal detector: the fields of its map in an order that means nothing."""

    fields: ClassVar[type[FieldNetwork] | None] = _PermutedNetwork


@dataclass(frozen=True)
class ShuffledPairing(Variant):
    """A control: every event has the packets and logs of another of its service."""

    def material(self, corpus: Corpus, schema: Schema, seed: int) -> Corpus:
        rng = np.random.default_rng(seed + 1)
        stratum = stratum_of(corpus.features, schema)
        other = np.arange(len(corpus))
        for code in np.unique(stratum):
            same = np.flatnonzero(stratum == code)
            other[same] = rng.permutation(same)
        swapped = take_features(corpus.features, other)
        own = corpus.features
        return replace(corpus, features=replace(swapped, numeric=own.numeric, categorical=own.categorical))
