"""How to train, and where an ablation does something else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.detector import (
    COMPONENTS,
    CrossModal,
    EventContext,
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
    """What ships, at the places where an ablation (`ablations`, docs/results.md) does something else."""

    network: ClassVar[type[Network]] = Network

    def material(self, corpus: Corpus, schema: Schema, seed: int) -> Corpus:
        """A corpus as it is learned from, calibrated on or judged."""
        return corpus

    def prepared(self, prepared: Prepared) -> Prepared:
        """What of it the network is shown."""
        return prepared

    def lesson(self, prepared: Prepared, schema: Schema, rng: np.random.Generator) -> Prepared:
        """What one pass learns from."""
        return prepared

    def past(self, past: Past, rng: np.random.Generator) -> Past:
        """What one step of training takes for the past of its events."""
        return past

    def remembered(self, past: Remembered, seed: int) -> Remembered:
        """What scoring takes for it."""
        return past

    def scored(
        self, detector: CrossModal, prepared: Prepared, outcome: RawScores, seen: EventContext
    ) -> dict[str, NDArray[np.float64]]:
        """The uncalibrated components of scored events."""
        return outcome.raw


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. The defaults are what ships."""

    seed: int = 0
    # passes; None: as many as a small recording needs and a large one can do without
    epochs: int | None = None
    rate: float = 2e-3
    width: int = 48
    dropout: float = _MODALITY_DROPOUT
    trees: bool = True
    components: tuple[str, ...] = COMPONENTS
    # of the supervised head in the fusion, the anomaly components together weigh 1
    attack_weight: float = 3.0
    variant: Variant = Variant()
