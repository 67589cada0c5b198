"""A score against the budget: the verdict on a connection, as it crosses to Zeek and into cmdana.log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=tuple[Any, ...])


@dataclass(frozen=True, slots=True, eq=False)
class Coded(Sequence[Any]):
    """A dictionary-encoded column: row i is `words[code[i]]`, unset (None) where the code is -1."""

    code: NDArray[np.int64]  # [n] -1 unset
    words: Sequence[Any]

    def __len__(self) -> int:
        return len(self.code)

    @overload
    def __getitem__(self, i: int) -> Any: ...
    @overload
    def __getitem__(self, i: slice) -> list[Any]: ...
    def __getitem__(self, i: int | slice) -> Any:
        if isinstance(i, slice):
            return list(self)[i]
        code = self.code[i]
        return self.words[code] if code >= 0 else None

    def __iter__(self) -> Iterator[Any]:
        return iter(self._named(self.code))

    def of(self, rows: NDArray[np.int64]) -> list[Any]:
        """The values of `rows`, None where unset."""
        return self._named(self.code[rows])

    def _named(self, code: NDArray[np.int64]) -> list[Any]:
        words = (*self.words, None)  # -1 is the last
        return [words[k] for k in code.tolist()]

    def counted(self) -> Counter[Any]:
        """The number of rows of each value that is set."""
        many = np.bincount(self.code[self.code >= 0], minlength=len(self.words)).tolist()
        return Counter({word: n for word, n in zip(self.words, many, strict=True) if n})


def coded(column: Iterable[Any]) -> Coded:
    """The dictionary encoding of a column, None unset, words in order of their first appearance."""
    values = list(column)
    words = [word for word in dict.fromkeys(values) if word is not None]
    index = {None: -1} | {word: code for code, word in enumerate(words)}
    return Coded(np.fromiter(map(index.__getitem__, values), np.int64, len(values)), words)


class Verdict(NamedTuple):
    """One row of cmdana.log, in Zeek's names and the order of its columns; only `service` may be unset."""

    ts: float  # of the connection, seconds since the epoch
    uid: str
    orig_h: str
    orig_p: int
    resp_h: str
    resp_p: int
    proto: str  # tcp, udp, icmp, unknown_transport
    service: str | None
    community_id: str
    stage: str  # early, final, revised
    score: float  # 0..1, higher is odder
    p_value: float  # calibrated tail probability
    threshold: float  # on the score: at or above it the verdict is not benign
    verdict: str  # BENIGN, ANOMALOUS or the name of a known attack
    packet_reliance: float  # the four reliances are 0..1 and sum to 1
    connection_reliance: float
    log_reliance: float
    state_reliance: float
    modalities: tuple[str, ...]  # which of packet, connection, log were there
    reasons: tuple[str, ...]  # in words, most telling first; empty for benign
    model: str
    incident: str | None = None  # that the connection belongs to

    @property
    def service_or_port(self) -> str:
        """The service, or the responder's port such as 22/tcp."""
        return self.service or f"{self.resp_p}/{self.proto}"


@dataclass(frozen=True, slots=True)
class Verdicts(Sequence[Verdict]):
    """The verdicts of a block as columns; a `Verdict` is made where one is asked for by its row."""

    ts: NDArray[np.float64]  # [n], as are all arrays but one
    uid: NDArray[np.bytes_]
    orig_h: Sequence[str]
    orig_p: NDArray[np.uint16]
    resp_h: Sequence[str]
    resp_p: NDArray[np.uint16]
    proto: Coded
    service: Coded
    community_id: NDArray[np.bytes_]
    stage: Coded
    score: NDArray[np.float64]
    p_value: NDArray[np.float64]
    threshold: float
    verdict: Coded
    reliance: NDArray[np.float64]  # [n, 4] in the order of `Modality`
    modalities: Coded
    reasons: list[tuple[str, ...]]  # may be told better until the block is handed on
    model: str
    incident: list[str | None]  # likewise may be told until then

    def __len__(self) -> int:
        return len(self.ts)

    @overload
    def __getitem__(self, i: int) -> Verdict: ...
    @overload
    def __getitem__(self, i: slice) -> list[Verdict]: ...
    def __getitem__(self, i: int | slice) -> Verdict | list[Verdict]:
        if isinstance(i, slice):
            return list(self.rows(range(*i.indices(len(self)))))
        return next(self.rows((i,)))

    def __iter__(self) -> Iterator[Verdict]:
        return self.rows(range(len(self)))

    def rows(self, rows: Sequence[int]) -> Iterator[Verdict]:
        """The verdicts of `rows`, with the reasons that they have by now."""
        same = len(rows)
        columns = {name: self.of(name, rows) for name in _COLUMNS}
        columns |= {"threshold": [self.threshold] * same, "model": [self.model] * same}
        reliance = self.reliance[list(rows)].T.tolist() if same else [[]] * 4
        columns |= dict(zip(_RELIANCE, reliance, strict=True))
        return iter(made_of(Verdict, *[columns[name] for name in Verdict._fields]))

    def counted(self) -> dict[tuple[str, str], int]:
        """The number of verdicts by stage and verdict, such as ("final", "benign")."""
        stages, words = self.stage.words, self.verdict.words
        each = np.bincount(self.stage.code * len(words) + self.verdict.code).tolist()
        pairs = [(stage, word) for stage in stages for word in words]
        return {pair: n for pair, n in zip(pairs, each, strict=False) if n}

    def of(self, name: str, rows: Sequence[int]) -> list[Any]:
        """The values of the column `name` in `rows`, in Python's own types."""
        column = getattr(self, name)
        if isinstance(column, Coded):
            return column.of(np.asarray(rows, np.int64))
        if isinstance(column, np.ndarray):
            chosen = column[np.asarray(rows, np.int64)]
            values: list[Any] = (chosen.astype(str) if chosen.dtype.kind == "S" else chosen).tolist()
            return values
        return [column[i] for i in rows]


def made_of(kind: type[T], *columns: Iterable[Any]) -> list[T]:
    """The rows of these columns, one for each field, as named tuples of a kind: a fourth of the time of calling it."""
    return list(map(partial(tuple.__new__, kind), zip(*columns, strict=True)))


_RELIANCE: Final = ("packet_reliance", "connection_reliance", "log_reliance", "state_reliance")
# those that are one of `Verdicts`
_COLUMNS: Final = tuple(name for name in Verdict._fields if name not in (*_RELIANCE, "threshold", "model"))

_NONE: Final = coded(())
NO_VERDICTS: Final = Verdicts(
    np.zeros(0), np.zeros(0, "S1"), (), np.zeros(0, np.uint16), (), np.zeros(0, np.uint16), _NONE, _NONE,
    np.zeros(0, "S1"), _NONE, np.zeros(0), np.zeros(0), threshold=0.0, verdict=_NONE, reliance=np.zeros((0, 4)),
    modalities=_NONE, reasons=[], model="", incident=[],
)  # fmt: skip


def verdicts_of(rows: Sequence[Verdict]) -> Verdicts:
    """These, of one model and threshold, as columns."""
    if not rows:
        return NO_VERDICTS
    of = dict(zip(Verdict._fields, zip(*rows, strict=True), strict=True))
    return Verdicts(
        ts=np.array(of["ts"]),
        uid=np.array(of["uid"], "S"),
        orig_h=of["orig_h"],
        orig_p=np.array(of["orig_p"], np.uint16),
        resp_h=of["resp_h"],
        resp_p=np.array(of["resp_p"], np.uint16),
        proto=coded(of["proto"]),
        service=coded(of["service"]),
        community_id=np.array(of["community_id"], "S"),
        stage=coded(of["stage"]),
        score=np.array(of["score"]),
        p_value=np.array(of["p_value"]),
        threshold=rows[0].threshold,
        verdict=coded(of["verdict"]),
        reliance=np.array([of[name] for name in _RELIANCE]).T,
        modalities=coded(of["modalities"]),
        reasons=list(of["reasons"]),
        model=rows[0].model,
        incident=list(of["incident"]),
    )
