"""How odd a block of windows is: what a detector answers, before anyone decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from feature_extractors.features import Encoded

BENIGN: Final = "benign"  # what is said of a connection, where it is not the name of an attack
ANOMALOUS: Final = "anomalous"

T = TypeVar("T")


# The component that speaks against an originator as a whole, and is no part of a connection's p-value: the share of
# what hosts newly go to that they keep to as long, NaN where that is nothing.
PERSISTENCE: Final = "persistence"


@dataclass(frozen=True, slots=True)
class Scores:
    """Anomaly scores of a block, one row per window in the windows' order; scores and p-values say the same thing."""

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

    def receive(self, windows: Encoded) -> Scores:
        """The scores of a block [n], after which its final windows are part of the state."""
        ...

    def explain(self, windows: Encoded, scores: Scores, rows: NDArray[np.int64]) -> list[list[str]]:
        """Reasons in an analyst's words for the given rows of a block, most telling first, [] where there are none.

        May be asked while a later block is scored.
        """
        ...


@runtime_checkable
class Lasting(Protocol):
    """A detector whose state can outlive it."""

    def state(self) -> dict[str, NDArray[Any]]:
        """All that it knows of the stream so far."""
        ...

    def restore(self, state: Mapping[str, NDArray[Any]], learned: bool = True) -> None:
        """Goes on from a state; without what only the network that wrote it understands where not `learned`.

        Raises `ValueError` where it is none.
        """
        ...


@runtime_checkable
class Threaded(Protocol):
    """A detector with threads that can do something else as well."""

    def beside(self, job: Callable[[], T]) -> Callable[[], T]:
        """Has a job done while others are; what waits for its result."""
        ...


def beside(detector: Detector, job: Callable[[], T]) -> Callable[[], T]:
    """Has a job done while the detector is at work, where it has threads and cores to spare, else when it is asked for.

    What is returned waits for the result, and is to be asked once.
    """
    return detector.beside(job) if isinstance(detector, Threaded) else job


def state_of(detector: Detector) -> dict[str, NDArray[Any]]:
    """What a detector knows; nothing where it keeps nothing."""
    return detector.state() if isinstance(detector, Lasting) else {}


def restore_to(detector: Detector, state: Mapping[str, NDArray[Any]], learned: bool = True) -> None:
    """Has it go on from there. Raises `ValueError` where it is no state of such a detector."""
    if isinstance(detector, Lasting):
        detector.restore(state, learned)


def score_of(p_value: NDArray[np.float64]) -> NDArray[np.float64]:
    """The score [n] of tail probabilities [n]: x / (x + 3) with x = -log10 p, 0..1, higher is odder, .5 at p = 1e-3."""
    x = -np.log10(np.clip(p_value, 1e-300, 1.0))
    return x / (x + 3.0)


def p_value_of(score: float) -> float:
    """The tail probability of a score, 0 <= score < 1: the inverse of `score_of`."""
    return float(10.0 ** (-3.0 * score / (1.0 - score)))


def taken(scores: Scores, rows: NDArray[np.int64], seen: object) -> Scores:
    """The scores of some rows of a block."""
    return replace(
        scores,
        score=scores.score[rows],
        p_value=scores.p_value[rows],
        components={name: p[rows] for name, p in scores.components.items()},
        reliance=scores.reliance[rows],
        attack=[scores.attack[i] for i in rows.tolist()],
        seen=seen,
    )


def significant(p_value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positive values [n] rounded to six significant digits, which the logs have of them."""
    at = np.floor(np.log10(p_value)).astype(np.int64)
    scale = _POWERS[5 - at]
    rounded: NDArray[np.float64] = np.rint(p_value * scale) / scale
    return rounded


_POWERS: Final = np.array([float(f"1e{k}") for k in range(309)])  # of ten
