"""Finding a connection by its key, and its next timer: a hash table and an indexed heap over the tracker's slots."""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import helper, i64
from .keyed import absorbed, begun, ended
from .state import N_HEAP, N_SEED, N_SEED_2, NONE


@helper
def hash_key(st: Any, hi0: int, lo0: int, p0: int, hi1: int, lo1: int, p1: int, proto: int) -> int:
    """A keyed hash, 0..2**62, the same for both directions.

    The two ends stand in order, so that both directions are the same words; two IPv4 addresses and their ports are
    two words, told from the five of IPv6 by the first.
    """
    k0, k1 = np.uint64(st.n[N_SEED]), np.uint64(st.n[N_SEED_2])
    a, b, c, d = begun(k0, k1)
    if hi0 == 0 and hi1 == 0 and lo0 >> 32 == 0xFFFF and lo1 >> 32 == 0xFFFF:
        one, other = (lo0 & 0xFFFFFFFF) << 16 | p0, (lo1 & 0xFFFFFFFF) << 16 | p1
        a, b, c, d = absorbed(a, b, c, d, np.uint64(min(one, other) | proto << 48))
        a, b, c, d = absorbed(a, b, c, d, np.uint64(max(one, other)))
    else:
        if hi0 > hi1 or (hi0 == hi1 and (lo0 > lo1 or (lo0 == lo1 and p0 > p1))):
            hi0, lo0, p0, hi1, lo1, p1 = hi1, lo1, p1, hi0, lo0, p0
        a, b, c, d = absorbed(a, b, c, d, np.uint64(1 << 56 | proto << 48 | p0 << 16 | p1))
        a, b, c, d = absorbed(a, b, c, d, np.uint64(hi0))
        a, b, c, d = absorbed(a, b, c, d, np.uint64(lo0))
        a, b, c, d = absorbed(a, b, c, d, np.uint64(hi1))
        a, b, c, d = absorbed(a, b, c, d, np.uint64(lo1))
    return i64(ended(a, b, c, d) >> np.uint64(2))


@helper
def _forth(c: Any, packet: Any) -> bool:
    """Whether the packet goes from side 0 to side 1."""
    return (
        c.lo0 == packet.src_lo
        and c.lo1 == packet.dst_lo
        and c.p0 == packet.src_p
        and c.p1 == packet.dst_p
        and c.hi0 == packet.src_hi
        and c.hi1 == packet.dst_hi
    )


@helper
def _back(c: Any, packet: Any) -> bool:
    """Whether the packet goes from side 1 to side 0."""
    return (
        c.lo0 == packet.dst_lo
        and c.lo1 == packet.src_lo
        and c.p0 == packet.dst_p
        and c.p1 == packet.src_p
        and c.hi0 == packet.dst_hi
        and c.hi1 == packet.src_hi
    )


@helper
def find(st: Any, packet: Any, key_hash: int) -> int:
    """The slot of the packet's connection, in either direction; `NONE` if there is none."""
    mask = len(st.table) - 1
    at = key_hash & mask
    while True:
        slot = st.table[at]
        if slot == NONE:
            return NONE
        c = st.conns[slot]
        if (
            c.key_hash == key_hash
            and c.proto == packet.proto
            and c.one_way == packet.one_way
            and (_forth(c, packet) or (not c.one_way and _back(c, packet)))
        ):
            return i64(slot)
        at = (at + 1) & mask


@helper
def insert(st: Any, slot: int) -> None:
    """Enters the slot under its `key_hash`. The table is never more than half full."""
    mask = len(st.table) - 1
    at = st.conns[slot].key_hash & mask
    while st.table[at] != NONE:
        at = (at + 1) & mask
    st.table[at] = slot


@helper
def remove(st: Any, slot: int) -> None:
    """Takes the slot out and moves those behind it up, so that no tombstone is left."""
    mask = len(st.table) - 1
    at = st.conns[slot].key_hash & mask
    while st.table[at] != slot:
        at = (at + 1) & mask
    hole = at
    while True:
        at = (at + 1) & mask
        other = st.table[at]
        if other == NONE:
            break
        home = st.conns[other].key_hash & mask
        if ((at - home) & mask) >= ((at - hole) & mask):
            st.table[hole] = other
            hole = at
    st.table[hole] = NONE


@helper
def heap_push(st: Any, slot: int, time: float) -> None:
    """Puts the slot into the heap, to be looked at by `time`."""
    at = st.n[N_HEAP]
    st.n[N_HEAP] += 1
    st.heap_time[slot] = time
    st.heap[at] = slot
    st.heap_at[slot] = at
    _up(st, at)


@helper
def heap_move(st: Any, slot: int, time: float) -> None:
    """Changes the time by which the slot is looked at."""
    earlier = time < st.heap_time[slot]
    st.heap_time[slot] = time
    if earlier:
        _up(st, i64(st.heap_at[slot]))
    else:
        _down(st, i64(st.heap_at[slot]))


@helper
def heap_remove(st: Any, slot: int) -> None:
    at = i64(st.heap_at[slot])
    st.heap_at[slot] = NONE
    st.n[N_HEAP] -= 1
    last = st.n[N_HEAP]
    if at == last:
        return
    moved = st.heap[last]
    st.heap[at] = moved
    st.heap_at[moved] = at
    _up(st, at)
    _down(st, i64(st.heap_at[moved]))


@helper
def _up(st: Any, begin: int) -> None:
    at = begin
    slot = st.heap[at]
    time = st.heap_time[slot]
    while at > 0:
        parent = (at - 1) >> 2
        other = st.heap[parent]
        if st.heap_time[other] <= time:
            break
        st.heap[at] = other
        st.heap_at[other] = at
        at = parent
    st.heap[at] = slot
    st.heap_at[slot] = at


@helper
def _down(st: Any, begin: int) -> None:
    at = begin
    size = st.n[N_HEAP]
    slot = st.heap[at]
    time = st.heap_time[slot]
    while True:
        first = 4 * at + 1
        if first >= size:
            break
        best = first
        best_time = st.heap_time[st.heap[first]]
        for child in range(first + 1, min(first + 4, size)):
            t = st.heap_time[st.heap[child]]
            if t < best_time:
                best, best_time = child, t
        if best_time >= time:
            break
        other = st.heap[best]
        st.heap[at] = other
        st.heap_at[other] = at
        at = best
    st.heap[at] = slot
    st.heap_at[slot] = at
