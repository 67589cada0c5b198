"""Bounded tables of what is known of pairs, uses, targets, domains and hosts: who matters least goes first.

Tables are set-associative. An entry is worth what it was used for, the more where it was answered, and fades with the
connections since; evidence of its host is worth more than any use. What is new takes the place of what is worth least
in its set, so a flood of invented sources displaces its own.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_extractors.compiled import entry, helper

HORIZONS: Final = (60.0, 600.0, 3600.0, 86_400.0, 604_800.0)  # seconds in which a sum decays to 1/e
KINDS: Final = 5
PAIR, USE, TARGET, DOMAIN, HOST = range(KINDS)
# Sums that decay over each horizon.
SUMS: Final = 10
CONNS, FAILED, REFUSED, ACCEPTED, ORIG, RESP, OTHERS, PORTS, YOUNG, BITS = range(SUMS)
# Which of them each kind has.
SUMS_OF: Final = (
    (CONNS, FAILED, REFUSED, ORIG, RESP, YOUNG),
    (CONNS, FAILED, REFUSED, ORIG, OTHERS, YOUNG, BITS),
    (CONNS, FAILED, REFUSED, ORIG, OTHERS, YOUNG, BITS),
    (CONNS, ORIG, RESP, BITS),
    (CONNS, FAILED, REFUSED, ACCEPTED, ORIG, RESP, OTHERS, PORTS, YOUNG, BITS),
)
RING: Final = 16  # last connections, or visits, of a stream
SHAPE: Final = 2  # of which stand: interval, bytes from the originator
SYMBOLS: Final = 3  # that a stream's connection is predicted as
ALPHABET: Final = 16
WAYS: Final = 8
FADE: Final = 604_800.0  # seconds in which what an entry was worth falls to 1/e
_LITTLE_TIME: Final = 600.0  # seconds in which nothing falls
UNANSWERED: Final = 0.01  # what a connection without content from the responder is worth
GROUPS: Final = 4096
CLUSTERS: Final = 16
_AT_FIRST: Final = 1024


class Rows(NamedTuple):
    """The columns of one kind of stream, by slot."""

    keys: NDArray[np.uint64]  # 0 nobody
    used: NDArray[np.float64]  # seconds since the epoch
    worth: NDArray[np.float32]
    ends: NDArray[np.float64]  # beginning of the last connection
    first: NDArray[np.float64]  # of the first connection that was to be learned from
    seen: NDArray[np.float32]  # connections, [n, 2] all and those that were to be learned from
    hour: NDArray[np.int64]
    held: NDArray[
        np.float32
    ]  # [n, 4] evidence of the clocks, surprise of the first contact, cluster, importance
    visits: NDArray[np.float32]  # how often it was there, connections at once being one visit
    visited: NDArray[np.float64]  # when the last of them began
    sums: NDArray[np.float32]  # [n, SUMS, horizons]
    ring: NDArray[np.float32]  # [n, RING, SHAPE]
    codes: NDArray[np.uint8]  # [n, RING, SYMBOLS]
    slow: NDArray[np.float32]  # [n, 2, SYMBOLS, ALPHABET + 1] learned; of this hour; last their sum
    active: NDArray[np.uint64]  # [n, 2] which of the last 64 minutes and ten minutes
    slot_of: NDArray[np.int64]  # [n, 2] the last of these


class Groups(NamedTuple):
    """What those of like behaviour share."""

    keys: NDArray[np.uint64]
    used: NDArray[np.float64]
    worth: NDArray[np.float32]
    slow: NDArray[np.float32]  # [GROUPS + KINDS, SYMBOLS, ALPHABET + 1]; the last KINDS are of all
    centre: NDArray[np.float32]  # [CLUSTERS, ALPHABET] what its hosts use, of length 1
    members: NDArray[np.float32]  # [CLUSTERS]


class Marks(NamedTuple):
    """When, or how often, two met."""

    keys: NDArray[np.uint64]
    used: NDArray[np.float64]
    worth: NDArray[np.float32]
    value: NDArray[np.float64]


def new_rows(size: int) -> Rows:
    f4, n = np.float32, size
    return Rows(
        keys=np.zeros(n, np.uint64), used=np.zeros(n), worth=np.zeros(n, f4), ends=np.zeros(n), first=np.zeros(n),
        seen=np.zeros((n, 2), f4), hour=np.zeros(n, np.int64), held=np.zeros((n, 4), f4),
        visits=np.zeros(n, f4), visited=np.zeros(n), sums=np.zeros((n, SUMS, len(HORIZONS)), f4),
        ring=np.zeros((n, RING, SHAPE), f4),
        codes=np.zeros((n, RING, SYMBOLS), np.uint8), slow=np.zeros((n, 2, SYMBOLS, ALPHABET + 1), f4),
        active=np.zeros((n, 2), np.uint64), slot_of=np.zeros((n, 2), np.int64),
    )  # fmt: skip


def new_groups() -> Groups:
    f4 = np.float32
    return Groups(
        keys=np.zeros(GROUPS, np.uint64), used=np.zeros(GROUPS), worth=np.zeros(GROUPS, f4),
        slow=np.zeros((GROUPS + KINDS, SYMBOLS, ALPHABET + 1), f4),
        centre=np.zeros((CLUSTERS, ALPHABET), f4), members=np.zeros(CLUSTERS, f4),
    )  # fmt: skip


def new_marks(size: int) -> Marks:
    return Marks(np.zeros(size, np.uint64), np.zeros(size), np.zeros(size, np.float32), np.zeros(size))


def slots(bound: int) -> int:
    """The capacity of a table: the next power of two."""
    return 1 << max(int(np.ceil(np.log2(max(bound, WAYS)))), 3)


def at_first(capacity: int) -> int:
    """How many of its slots a table begins with."""
    return min(capacity, _AT_FIRST)


def grown(table: Any, capacity: int) -> Any:
    """The table with twice the slots: each set becomes two, told apart by the next bit of the key.

    The columns of the one given are not to be used any more: where there is room behind them for all of `capacity`,
    which is made the first time and costs nothing until it is used, they grow in their place.
    """
    n = len(table.keys)
    moved = _moved(table.keys)

    def spread(column: NDArray[Any]) -> NDArray[Any]:
        room = column.base
        if room is None or len(room) != capacity:
            room = np.zeros((capacity, *column.shape[1:]), column.dtype)
            room[:n] = column
        out: NDArray[Any] = room[: 2 * n]
        out[moved + n] = out[moved]
        out[moved] = 0
        return out

    return type(table)(*map(spread, table))


def _moved(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The slots of those that belong to the second of the two sets that theirs becomes."""
    sets = np.uint64(len(keys) // WAYS)
    return np.flatnonzero((keys != 0) & ((keys >> np.uint64(8)) & sets != 0))


@helper
def mixed(x: Any) -> Any:
    """A permutation of 64 bits (Steele et al. 2014, SplitMix64): for sums of what is hashed with a secret already."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@helper
def key_of(one: Any, other: Any, number: Any) -> Any:
    """The key of two hashes and a number, never 0."""
    return mixed(one ^ mixed(other + np.uint64(number) * np.uint64(0x9E3779B97F4A7C15))) | np.uint64(1)


@helper
def host_key(orig: Any) -> Any:
    return key_of(orig, np.uint64(13), 0)


@helper
def find(keys: Any, key: Any) -> Any:
    """The slot of `key`, or -1."""
    base = np.int64((key >> np.uint64(8)) & np.uint64(len(keys) // WAYS - 1)) * WAYS
    for j in range(base, base + WAYS):
        if keys[j] == key:
            return j
    return np.int64(-1)


@helper
def claimed(keys: Any, used: Any, worth: Any, key: Any, now: Any) -> Any:
    """The slot for a `key` that has none: a free one of its set, else the one that is worth least.

    The second value says whether somebody had it.
    """
    base = np.int64((key >> np.uint64(8)) & np.uint64(len(keys) // WAYS - 1)) * WAYS
    least, at = np.inf, base
    for j in range(base, base + WAYS):
        if keys[j] == 0:
            return j, False
        value = np.log(worth[j] + 1e-9) - (now - used[j]) / FADE
        if value < least:
            least, at = value, j
    return at, True


@helper
def full(keys: Any, key: Any) -> Any:
    """Whether the set of `key`, which has no slot, has none that is free."""
    base = np.int64((key >> np.uint64(8)) & np.uint64(len(keys) // WAYS - 1)) * WAYS
    used = 0
    for j in range(base, base + WAYS):
        used += keys[j] != 0
    return used == WAYS


@helper
def used_again(used: Any, worth: Any, slot: Any, now: Any, more: Any) -> None:
    """Another use of an entry that is worth `more`."""
    if now - used[slot] > _LITTLE_TIME:
        worth[slot] *= np.exp((used[slot] - now) / FADE)
    worth[slot] = min(worth[slot] + more, 1e9)
    used[slot] = max(now, used[slot])


@entry
def find_hosts(keys: NDArray[np.uint64], orig: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The slot of each originator, or -1."""
    out = np.empty(len(orig), np.int64)
    for i in range(len(orig)):
        out[i] = find(keys, host_key(orig[i]))
    return out
