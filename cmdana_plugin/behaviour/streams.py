"""What runs of connections look like: bounded tables of streams, walked in order, and the fields made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.behaviour.fields import Raw, fields_of, names
from cmdana_plugin.behaviour.flows import MOST, Flows, flows_between
from cmdana_plugin.behaviour.persistence import Visits, concat_visits, visits_of
from cmdana_plugin.behaviour.tables import (
    HOST,
    KINDS,
    Groups,
    Marks,
    Rows,
    at_first,
    find_hosts,
    grown,
    new_groups,
    new_marks,
    new_rows,
    slots,
)
from cmdana_plugin.behaviour.walk import WIDTH, walk

BLOCK: Final = 1024  # connections whose raw statistics are held at once
TABLES: Final = ("pairs", "uses", "targets", "domains", "hosts")
# By state, -1 the last: S0, REJ, RSTOS0, RSTRH, SH, SHR, OTH.
_FAILED: Final = np.isin(np.arange(256), (0, 3, 8, 9, 10, 11, 12))
_LOW: Final = 10_000  # ports from which on they are nobody's in particular
_MOST_BITS: Final = 1e6
_MOST_OUTCOMES: Final = 1e6  # of one connection
# The schema's services by what they are for, 1..15; what is not there goes by its port.
_PURPOSE: Final = {
    2: 1, 29: 3, 3: 2, 4: 3, 5: 4, 6: 5, 27: 5, 28: 5, 7: 6, 8: 6, 9: 7, 10: 7, 11: 8, 12: 8, 13: 9, 14: 9, 15: 9,
    16: 9, 26: 9, 17: 10, 18: 10, 19: 10, 31: 10, 20: 11, 22: 12, 24: 13, 25: 13,
}  # fmt: skip
_PURPOSES: Final = np.array(
    [_PURPOSE.get(code, -1) for code in range(max(_PURPOSE) + 2)]
)  # of the last, none


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is remembered: of each host about ten streams, 9 kB where all are used."""

    hosts: int = 32_768

    def slots(self) -> tuple[int, ...]:
        """The capacity of the table of each kind, then of the meetings and of what is alike."""
        return tuple(slots(self.hosts * times) for times in (4, 2, 1, 2, 1, 8, 4))


class Streams:
    """The state of all streams; connections are received in the order of their end."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self._capacity = (bounds or Bounds()).slots()
        self._kinds: tuple[Rows, ...] = tuple(new_rows(at_first(size)) for size in self._capacity[:KINDS])
        self._meetings = new_marks(at_first(self._capacity[KINDS]))
        self._likes = new_marks(self._capacity[KINDS + 1])
        self._groups = new_groups()
        self._clock = np.zeros(2)
        self._evicted = np.zeros(KINDS + 2, np.int64)

    def receive(self, flows: Flows, teach: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """The behaviour fields [n, B] of connections, each from its past and itself; NaN where none can be.

        Connections that are not to `teach` count, but nothing slow is learned from them.
        """
        return self.visited(flows, teach)[0]

    def visited(
        self, flows: Flows, teach: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], Visits]:
        """As `receive`, and how much of late each connection's host has been where it goes."""
        n = len(flows)
        learned = np.ones(n, np.bool_) if teach is None else np.ascontiguousarray(teach, np.bool_)
        out = np.empty((n, len(names())), np.float32)
        visits = [visits_of(np.empty((0, KINDS, WIDTH), np.float32))]
        for begin in range(0, n, BLOCK):
            rows = slice(begin, begin + BLOCK)
            part = _possible(flows_between(flows, begin, begin + BLOCK))
            raw = self._walked(part, learned[rows])
            out[rows] = fields_of(Raw(raw, part))
            visits.append(visits_of(raw))
        return out, concat_visits(visits)

    def matter(self, orig: NDArray[np.uint64], evidence: NDArray[np.float64]) -> None:
        """Hosts (as in `Flows.orig`) with evidence against them; they and their streams are the last to be evicted."""
        hosts = self._kinds[HOST]
        at = find_hosts(hosts.keys, orig)
        known = at >= 0
        hosts.held[at[known], 3] = np.maximum(evidence[known], 0.0)
        hosts.worth[at[known]] = np.minimum(hosts.worth[at[known]] + np.maximum(evidence[known], 0.0), 1e9)

    def since(self) -> float:
        """Network time of the first connection that a host still known was learned by; inf where there is none."""
        first = self._kinds[HOST].first[self._kinds[HOST].keys != 0]
        return float(first[first > 0.0].min(initial=np.inf))

    def evicted(self) -> Mapping[str, int]:
        """How many entries of each table gave their place to another so far."""
        return dict(zip((*TABLES, "meetings", "likes"), self._evicted.tolist(), strict=True))

    def state(self) -> dict[str, NDArray[Any]]:
        """All that was learned, as arrays by name."""
        tables: dict[str, Any] = dict(zip(TABLES, self._kinds, strict=True))
        tables |= {"meetings": self._meetings, "likes": self._likes, "groups": self._groups}
        arrays = {
            f"{name}.{column}": getattr(table, column).copy()
            for name, table in tables.items()
            for column in table._fields
        }
        return arrays | {"clock": self._clock.copy(), "evicted": self._evicted.copy()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Goes on from a `state`. Raises `ValueError` where it is none, or holds more than the bounds allow."""
        tables = [
            _restored(name, Rows, new_rows, size, state)
            for name, size in zip(TABLES, self._capacity, strict=False)
        ]
        meetings = _restored("meetings", Marks, new_marks, self._capacity[KINDS], state)
        likes = _restored("likes", Marks, new_marks, self._capacity[KINDS + 1], state)
        groups = _restored("groups", Groups, lambda _: new_groups(), 0, state)
        clock, evicted = (
            _column(state, name, like) for name, like in (("clock", self._clock), ("evicted", self._evicted))
        )
        self._kinds, self._meetings, self._likes, self._groups = tuple(tables), meetings, likes, groups
        self._clock, self._evicted = clock, evicted

    def _walked(self, flows: Flows, teach: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The raw statistics [n, KINDS, WIDTH]."""
        n, done = len(flows), 0
        out = np.empty((n, KINDS, WIDTH), np.float32)
        tcp = flows.proto == 6
        answered = flows.resp_bytes > 0
        # Never answered, or closed before a byte was said.
        silent = ~answered & (flows.orig_bytes <= 0)
        failed = np.where(tcp, _FAILED[flows.state.astype(np.uint8)] | silent, ~answered)
        use, purpose = _uses(flows)
        while True:
            sizes = [len(t.keys) for t in self._kinds] + [len(self._meetings.keys)]
            open_ended = np.array(sizes) < self._capacity[: KINDS + 1]
            done, full = walk(
                done, flows.ts, flows.end, flows.orig, flows.resp, flows.port, flows.proto, use, purpose, failed,
                answered, flows.duration, flows.orig_bytes, flows.resp_bytes, flows.accepted, flows.refused,
                flows.domain, flows.bits, teach, self._kinds, self._groups, self._meetings, self._likes,
                open_ended, self._clock, self._evicted, out,
            )  # fmt: skip
            if done == n:
                return out
            self._grow(full)

    def _grow(self, table: int) -> None:
        if table == KINDS:
            self._meetings = grown(self._meetings, self._capacity[KINDS])
        else:
            size = self._capacity[table]
            self._kinds = tuple(grown(t, size) if k == table else t for k, t in enumerate(self._kinds))


def _uses(flows: Flows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What each connection is used for: the service, or the port where none was seen; and its purpose, 0..15."""
    code, port = flows.service.astype(np.int64), np.clip(flows.port.astype(np.int64), 0, 65_535)
    proto = flows.proto.astype(np.int64) & 127
    by_port = 64 + np.where(port < _LOW, port, _LOW) * 128 + proto
    use = np.where(code >= 2, code, by_port)
    known = _PURPOSES[np.clip(code, 0, len(_PURPOSES) - 1)]
    return use, np.where(known >= 0, known, np.where(port < 1024, 14, np.where(port < _LOW, 15, 0)))


def _possible(flows: Flows) -> Flows:
    """The flows with amounts that can be."""

    def amount(x: NDArray[Any], most: float = MOST) -> NDArray[Any]:
        return np.fmin(np.fmax(x.astype(np.float64), 0.0), most).astype(x.dtype)  # NaN is 0

    return replace(
        flows,
        duration=amount(flows.duration),
        orig_bytes=amount(flows.orig_bytes),
        resp_bytes=amount(flows.resp_bytes),
        accepted=amount(flows.accepted, _MOST_OUTCOMES),
        refused=amount(flows.refused, _MOST_OUTCOMES),
        bits=amount(flows.bits, _MOST_BITS),
    )


def _column(state: Mapping[str, NDArray[Any]], name: str, like: NDArray[Any]) -> NDArray[Any]:
    found = state.get(name)
    if found is None or found.dtype != like.dtype or found.shape != like.shape:
        seen = "nothing" if found is None else f"{found.dtype}{list(found.shape)}"
        raise ValueError(f"{name}: found {seen}, expected {like.dtype}{list(like.shape)}")
    return np.array(found)


def _restored(name: str, kind: Any, new: Any, capacity: int, state: Mapping[str, NDArray[Any]]) -> Any:
    keys = state.get(f"{name}.keys")
    size = 0 if keys is None or keys.ndim != 1 else len(keys)
    if capacity and (size > capacity or size < at_first(capacity) or size & (size - 1)):
        raise ValueError(f"{name}: found {size} entries, expected a power of two up to {capacity}")
    empty = new(size)
    return kind(*(_column(state, f"{name}.{column}", getattr(empty, column)) for column in kind._fields))
