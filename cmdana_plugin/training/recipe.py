"""Hyperparameters of training, and the hooks where an ablation departs from what ships."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.detector import (
    COMPONENTS,
    DEPENDENCY,
    CrossModal,
    EventContext,
    FieldNetwork,
    Network,
    Past,
    Prepared,
    RawScores,
    Remembered,
)
from cmdana_plugin.training.recording import Corpus
from feature_extractors.features import (
    Schema,
)

_MODALITY_DROPOUT: Final = 0.15  # share of events that lose a modality in training


@dataclass(frozen=True)
class Variant:
    """The hooks of training and scoring that an ablation (`evaluation.ablations`) overrides; here, what ships."""

    network: ClassVar[type[Network]] = Network
    fields: ClassVar[type[FieldNetwork] | None] = None  # of a detector over fields; None: its own

    def material(self, corpus: Corpus, schema: Schema, seed: int) -> Corpus:
        """The corpus that is learned from, calibrated on or judged."""
        return corpus

    def prepared(self, prepared: Prepared) -> Prepared:
        """The input that the network is given."""
        return prepared

    def lesson(self, prepared: Prepared, schema: Schema, rng: np.random.Generator) -> Prepared:
        """The input of one epoch, which may be augmented."""
        return prepared

    def past(self, past: Past, rng: np.random.Generator) -> Past:
        """The past of the events of one step of training."""
        return past

    def remembered(self, past: Remembered, seed: int) -> Remembered:
        """The past of events in scoring."""
        return past

    def scored(
        self, detector: CrossModal, prepared: Prepared, outcome: RawScores, seen: EventContext
    ) -> dict[str, NDArray[np.float64]]:
        """The uncalibrated components of scored events, by name [n]."""
        return outcome.raw


@dataclass(frozen=True, slots=True)
class Recipe:
    """Hyperparameters of training; the defaults are what ships."""

    seed: int = 0
    # passes; None: as many as a small recording needs and a large one can do without
    epochs: int | None = None
    rate: float = 2e-3
    # events of one step of the cross-modal network; more make fewer steps, of which a GPU has more in a second, and
    # fewer changes of the weights in a pass
    step_events: int = 512
    width: int = 48
    dropout: float = _MODALITY_DROPOUT
    trees: bool = True
    behaviour: bool = True
    components: tuple[str, ...] = COMPONENTS
    # of the supervised head in the fusion, the anomaly components together weigh 1
    attack_weight: float = 3.0
    variant: Variant = Variant()
    detector: str = DEPENDENCY  # one of `DETECTORS`
    hardening: str = "plain"  # of trees against an attacker's changes, one of `training.WAYS`
    rehearsals: str = "plain"  # how those that behaviour learns from hide, one of `rehearsals.hiding.WAYS`
    # Ablations: fields that behaviour is not told, and nothing that was learned elsewhere; None: all of both.
    blind_to: tuple[str, ...] | None = None
    further_logs: bool = False  # whether the logs under `further` in schema.yaml are learned from
    balancing: str = "weights"  # of the head of a detector over fields, one of `BALANCING`
