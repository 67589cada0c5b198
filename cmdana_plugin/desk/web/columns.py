"""The verdicts of a folder as columns in memory, of bounded number: what the live page searches and counts."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.analyst import report
from cmdana_plugin.decision import REVISED
from cmdana_plugin.detector import BENIGN
from cmdana_plugin.logs import Field, moments, number, p_value_in, text

FIELDS: Final = frozenset(
    (
        "ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto", "service", "stage", "score",
        "p_value", "threshold", "verdict", "model", "incident", *report.RELIANCES,
    )
)  # fmt: skip
ROW: Final = np.dtype([
    ("ts", "f8"), ("uid", "S20"), ("orig", "i4"), ("resp", "i4"), ("orig_p", "u2"), ("resp_p", "u2"),
    ("proto", "i2"), ("service", "i2"), ("score", "f4"), ("evidence", "f4"), ("incident", "i4"), ("verdict", "i2"),
    ("odd", "?"), ("counts", "?"), ("reliance", "u1", (4,)),
])  # fmt: skip
BLOCK: Final = 65_536  # rows
MOST_HOSTS: Final = 400_000  # told apart; others are "other hosts"
_MOST_WORDS: Final = 5_000  # services
_MOST_INCIDENTS: Final = 50_000
_MOST_MODELS: Final = 50

Rows = NDArray[np.void]


class Words:
    """A dictionary of texts by number, bounded: past its bound all are number 0."""

    def __init__(self, most: int, rest: str, characters: int = 64) -> None:
        self.words = [rest]
        self._codes: dict[str, int] = {}
        self._most = most
        self._characters = characters

    def code(self, word: str) -> int:
        """The number of a text, given to it if need be."""
        word = word[: self._characters]
        known = self._codes.get(word)
        if known is None:
            if len(self.words) >= self._most:
                return 0
            known = self._codes[word] = len(self.words)
            self.words.append(word)
        return known

    def find(self, word: str) -> int:
        """The number of a text, -1 where there is none."""
        return self._codes.get(word[: self._characters], -1)


class Columns:
    """Rows of cmdana.log in blocks of `BLOCK`; the oldest block goes when there are more than `most` rows.

    One thread adds, others read: a block never changes but by rows at its end.
    """

    def __init__(self, most: int) -> None:
        self.hosts = Words(MOST_HOSTS, "other hosts")
        self.services = Words(_MOST_WORDS, "other services")
        self.protocols = Words(30, "other")
        self.verdicts = Words(200, "other")
        self.incidents = Words(_MOST_INCIDENTS, "")
        self.models: Counter[str] = Counter()
        self.threshold: float | None = None  # the latest
        self.early = 0
        self.bad = 0  # rows that say nothing
        self.let_go = 0  # rows of blocks that went
        self.total = 0
        self._most_blocks = max(most // BLOCK, 2)
        self._blocks: list[tuple[Rows, int]] = []
        self._gone = 0  # blocks that went
        self._lock = threading.Lock()

    def add(self, row: Mapping[str, Field]) -> bool:
        """Whether a row of cmdana.log was taken in; early verdicts are counted only."""
        ts, score = number(row, "ts", -1.0), number(row, "score", math.nan)
        p = p_value_in(row, math.nan)
        if not (0.0 <= ts <= moments.LATEST and 0.0 <= score <= 1.0 and 0.0 <= p <= 1.0):
            self.bad += 1
            return False
        stage = text(row, "stage")
        if stage == "early":
            self.early += 1
            return False
        with self._lock:
            if not self._blocks or self._blocks[-1][1] == BLOCK:
                self._blocks.append((np.zeros(BLOCK, ROW), 0))
                if len(self._blocks) > self._most_blocks:
                    self.let_go += self._blocks.pop(0)[1]
                    self._gone += 1
            block, n = self._blocks[-1]
        verdict = text(row, "verdict") or BENIGN
        reliance = [number(row, name, math.nan) for name in report.RELIANCES]
        known = all(0.0 <= r <= 1.0 for r in reliance)
        incident = text(row, "incident")
        block[n] = (
            ts, text(row, "uid").encode("utf-8", "replace")[:20], self.hosts.code(text(row, "id.orig_h")),
            self.hosts.code(text(row, "id.resp_h")), _port(row, "id.orig_p"), _port(row, "id.resp_p"),
            self.protocols.code(text(row, "proto")),
            self.services.code(text(row, "service")) if row.get("service") else -1,
            score, min(-math.log10(p), 12.0) if p > 0.0 else 12.0,
            self.incidents.code(incident) if incident else -1, self.verdicts.code(verdict), verdict != BENIGN,
            stage != REVISED, tuple(round(255 * r) if known else 0 for r in reliance),
        )  # fmt: skip
        with self._lock:
            self._blocks[-1] = (block, n + 1)
        self.total += 1
        if stage != REVISED:
            model = text(row, "model")[:100]
            if model in self.models or len(self.models) < _MOST_MODELS:
                self.models[model] += 1
            threshold = number(row, "threshold", -1.0)
            if 0.0 <= threshold <= 1.0:
                self.threshold = threshold
        return True

    def __len__(self) -> int:
        with self._lock:
            return sum(n for _, n in self._blocks)

    def blocks(self) -> Iterator[Rows]:
        """The rows there are now, oldest block first, not to be changed."""
        for _, rows in self.numbered():
            yield rows

    def numbered(self) -> Iterator[tuple[int, Rows]]:
        """The same, each block with a number that no other ever has."""
        with self._lock:
            now, first = list(self._blocks), self._gone
        for at, (block, n) in enumerate(now, first):
            yield at, block[:n]

    def of_incident(self, mark: str, most: int) -> tuple[Rows, int]:
        """The rows of an incident, each connection once, in order of time, `most` at most, and how many there are."""
        code = self.incidents.find(mark)
        return self._chosen(lambda b: b["incident"] == code, most) if code > 0 else (_NONE, 0)

    def of_host(self, host: str, most: int) -> tuple[Rows, int]:
        """The rows of a host's final verdicts, on either side, the last `most`, and how many there are."""
        code = self.hosts.find(host)
        if code <= 0:
            return _NONE, 0
        return self._chosen(lambda b: ((b["orig"] == code) | (b["resp"] == code)) & b["counts"], most)

    def of_uid(self, uid: str) -> Rows:
        """The rows that bear a uid, a few."""
        name = uid.encode("utf-8", "replace")[:20]
        return self._chosen(lambda b: b["uid"] == name, 16)[0]

    def _chosen(self, which, most: int) -> tuple[Rows, int]:  # type: ignore[no-untyped-def]
        found: list[Rows] = []
        count = held = 0
        for block in reversed(list(self.blocks())):
            rows = block[which(block)]
            count += len(rows)
            if len(rows) and held < most:
                found.append(rows[max(len(rows) - (most - held), 0) :])
                held += len(found[-1])
        if not found:
            return _NONE, 0
        rows = np.concatenate(found)
        return rows[np.argsort(rows["ts"], kind="stable")], count

    def clients(self, hosts: list[str]) -> dict[str, int]:
        """How many hosts open connections to each of these."""
        codes = np.array(sorted({c for h in hosts if (c := self.hosts.find(h)) > 0}), np.int64)
        if not len(codes):
            return {}
        pairs: list[NDArray[np.int64]] = []
        for block in self.blocks():
            of = block[np.isin(block["resp"], codes)]
            pairs.append(np.unique(of["resp"].astype(np.int64) << 32 | of["orig"].astype(np.int64)))
        used, n = np.unique(np.unique(np.concatenate(pairs)) >> 32, return_counts=True) if pairs else ((), ())
        return {self.hosts.words[int(c)]: int(k) for c, k in zip(used, n, strict=True)}

    def service(self, row: np.void) -> str:
        """The service of a row, or its port."""
        code = int(row["service"])
        return (
            self.services.words[code]
            if code >= 0
            else f"{int(row['resp_p'])}/{self.protocols.words[int(row['proto'])]}"
        )


_NONE: Final[Rows] = np.zeros(0, ROW)


def _port(row: Mapping[str, Field], name: str) -> int:
    return int(min(max(number(row, name), 0.0), 65535.0))
