"""Scoring shared out: what each of several that share it knows and answers, however it is reached.

What a connection's score rests on (its host's, its service's and the site's past) is the same in every one, since each
of them receives every block; only the network, which is most of the work, is asked of the own rows alone. So the
scores are those of one process, to the last bit, whatever the number of parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.detector import Detector, Scores, restore_to, state_of, taken
from cmdana_plugin.replay.extraction_process import unpacked_part
from feature_extractors import CmdanaError, Connections
from feature_extractors.features import Encoded

_HELD: Final = 4  # blocks whose scores can still be explained
_ALIGN: Final = 64


TURN: Final = 1024  # rows, as many as the detector computes at once


@dataclass(frozen=True, slots=True)
class Turn:
    """The `index`-th (1..of) of `of` that take a block's rows in turns of `TURN`.

    What is computed together is the same however many there are, and so is what comes out, to the last bit.
    """

    index: int
    of: int

    def __str__(self) -> str:
        return f"{self.index} of {self.of}"

    def own(self, connections: Connections) -> NDArray[np.bool_]:
        """Which of the connections [n] of a block it is this one's turn to score."""
        mine: NDArray[np.bool_] = np.arange(len(connections)) // TURN % self.of == self.index - 1
        return mine


class ScoringError(CmdanaError):
    """A process that scores could not begin, or has ended before its time."""


class Loaded(NamedTuple):
    """A detector, and what else its checkpoint says."""

    detector: Detector
    tails: NDArray[np.float64] | None  # of evidence against hosts
    about: Mapping[str, str]  # what a state has to agree with
    key: tuple[int, int] | None = None  # of the judge's hashes of hosts
    at_home: bool = False  # it has learned the network that it judges


Load = Callable[[Turn], Loaded]  # the detector that scores one part


Answer = tuple[Any, NDArray[np.uint8]]  # what it says, and the arrays of it
Columns = list[bytes | memoryview]


class Part(Protocol):
    """One of those that share the work, as whoever shares it out sees it: answers come in the order of questions."""

    turn: Turn

    def begin(self) -> None:
        """Begins to answer."""

    def ready(self) -> Answer:
        """What it says when it can be asked. Raises `ScoringError` where it never can."""

    def ask(self, kind: str, value: Any, data: Columns) -> Future[Answer]:
        """The answer, in time. It raises `ScoringError` where there is none."""

    def close(self) -> None:
        """Ends it."""


class Scorer:
    """A detector that scores its turns of every block. Raises `CmdanaError` where there is none."""

    def __init__(self, load: Load, turn: Turn) -> None:
        self._detector, self._tails, self._about, self._key, self._at_home = load(turn)
        self._turn = turn
        self._held: dict[int, tuple[Encoded, Scores]] = {}

    def hello(self) -> tuple[dict[str, Any], Columns]:
        """What whoever shares the work out has to know of it."""
        words, columns = packed_arrays({} if self._tails is None else {"tails": self._tails})
        about = {
            "schema": self._detector.schema_digest,
            "about": dict(self._about),
            "key": self._key,
            "at_home": self._at_home,
        }
        return {"name": self._detector.name, **about, **words}, columns

    def answer(self, kind: str, value: Any, data: NDArray[np.uint8]) -> tuple[Any, Columns]:
        """What it says to a question."""
        detector = self._detector
        if kind == "block":
            windows = unpacked_part(value, data)
            assert windows is not None
            scores = detector.receive(windows)
            number = value["numbers"]["number"]
            self._held[number] = windows, scores
            self._held.pop(number - _HELD, None)
            rows = np.flatnonzero(self._turn.own(windows.connections))
            return _packed_scores(taken(scores, rows, None))
        if kind == "explain":
            windows, scores = self._held[value["number"]]
            return detector.explain(windows, scores, np.array(value["rows"])), []
        if kind == "state":
            return packed_arrays(state_of(detector))
        try:
            restore_to(detector, arrays_of(value, data), value["learned"])
        except ValueError as error:
            return str(error) or "no state", []
        return "", []


def _packed_scores(scores: Scores) -> tuple[dict[str, Any], Columns]:
    arrays = {f"component {name}": p for name, p in scores.components.items()}
    arrays |= {"score": scores.score, "p_value": scores.p_value, "reliance": scores.reliance}
    header, data = packed_arrays(arrays)
    return {**header, "attack": list(scores.attack)}, data


def scores_of(header: dict[str, Any], data: NDArray[np.uint8]) -> Scores:
    arrays = arrays_of(header, data)
    return Scores(
        score=arrays["score"],
        p_value=arrays["p_value"],
        components={
            name.removeprefix("component "): p for name, p in arrays.items() if name.startswith("component ")
        },
        reliance=arrays["reliance"],
        attack=header["attack"],
    )


def packed_arrays(arrays: Mapping[str, NDArray[Any]]) -> tuple[dict[str, Any], Columns]:
    data: Columns = []
    columns = []
    for name, array in arrays.items():
        whole = np.ascontiguousarray(array)
        columns.append((name, whole.dtype.str, whole.shape))
        data += [whole.reshape(-1).view(np.uint8).data, bytes(-whole.nbytes % _ALIGN)]
    return {"arrays": columns}, data


def arrays_of(header: dict[str, Any], data: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    out, at = {}, 0
    for name, kind, shape in header["arrays"]:
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        out[name] = data[at : at + size].view(kind).reshape(shape)
        at += size + -size % _ALIGN
    return out
