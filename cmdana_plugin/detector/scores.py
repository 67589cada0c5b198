"""How odd a block of windows is: what a detector answers, before anyone decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from feature_extractors.features import Encoded

BENIGN: Final = "benign"  # what is said of a connection, where it is not the name of an attack
ANOMALOUS: Final = "anomalous"


@dataclass(frozen=True, slots=True)
class Scores:
    """One row per window, in the windows' order."""

    # [n] 0..1, higher is odder: x / (x + 3) with x = -log10(p_value); .5 is p = 1e-3
    score: NDArray[np.float64]
    p_value: NDArray[np.float64]  # [n] calibrated tail probability, 0 < p <= 1, lower is odder
    # name -> [n] one-sided p-value, NaN where it does not apply
    components: Mapping[str, NDArray[np.float64]]
    reliance: NDArray[np.float64]  # [n, 4] in the order of `Modality`; rows sum to 1, missing is 0
    attack: Sequence[str]  # [n] class named by a supervised head, "" where it names none
    seen: object = None  # what the detector saw of the block, of use to its `explain` alone


class Detector(Protocol):
    """Scores blocks of windows in stream order against the state that earlier windows left behind.

    A window is scored from the past only: its own content enters the state after its score. Early windows are
    scored and leave no trace in the state.
    """

    name: str  # name and version for the `model` column
    schema_digest: str

    def receive(self, windows: Encoded) -> Scores: ...

    def explain(self, windows: Encoded, scores: Scores, rows: NDArray[np.int64]) -> list[list[str]]:
        """Reasons in an analyst's words for the given rows of a block and its scores, most telling first.

        May be asked while a later block is scored.
        """
        ...


def score_of(p_value: NDArray[np.float64]) -> NDArray[np.float64]:
    """The score of a tail probability, 0..1, strictly falling in `p_value`."""
    x = -np.log10(np.clip(p_value, 1e-300, 1.0))
    return x / (x + 3.0)


def p_value_of(score: float) -> float:
    """The inverse of `score_of` for 0 <= score < 1."""
    return float(10.0 ** (-3.0 * score / (1.0 - score)))


def significant(p_value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positive values [n] to six significant digits, as the logs have them."""
    at = np.floor(np.log10(p_value)).astype(np.int64)
    scale = _POWERS[5 - at]
    rounded: NDArray[np.float64] = np.rint(p_value * scale) / scale
    return rounded


_POWERS: Final = np.array([float(f"1e{k}") for k in range(309)])  # of ten
