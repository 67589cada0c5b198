"""Data that waits above a hole of the stream: a sorted list of blocks, as Zeek's reassembler holds them."""

from __future__ import annotations

from typing import Any

from feature_extractors.compiled import helper, i64
from feature_extractors.tracker.state import N_FREE_BLOCKS, NONE


@helper
def drop_first(st: Any, e: Any) -> None:
    b = e.blocks
    e.blocks = st.blocks[b].next
    e.held -= 1
    e.held_bytes -= st.blocks[b].upper - st.blocks[b].seq
    if e.finger == b:
        e.finger = NONE
    if e.blocks == NONE:
        e.last_block = NONE
    st.free_blocks[st.n[N_FREE_BLOCKS]] = b
    st.n[N_FREE_BLOCKS] += 1


@helper
def drop_blocks(st: Any, e: Any) -> None:
    """Frees all waiting blocks."""
    while e.blocks != NONE:
        drop_first(st, e)


@helper
def deliver(st: Any, e: Any) -> None:
    """Delivers the blocks that begin at or before `reassembled`."""
    while e.blocks != NONE and st.blocks[e.blocks].seq <= e.reassembled:
        e.reassembled = max(e.reassembled, st.blocks[e.blocks].upper)
        drop_first(st, e)


@helper
def insert_block(st: Any, e: Any, begin: int, end: int) -> None:
    """Enters [begin, end) into the sorted list, joined with the blocks that it touches.

    The place is looked for from the end or from the block entered last, where it lies behind one of them: blocks that
    come in order cost the same however many wait.
    """
    seq, upper = begin, end
    previous = i64(NONE)
    b = i64(e.blocks)
    for known in (i64(e.finger), i64(e.last_block)):
        if known != NONE and st.blocks[known].upper < seq:
            previous = known
            b = i64(st.blocks[known].next)
    while b != NONE and st.blocks[b].upper < seq:
        previous = b
        b = i64(st.blocks[b].next)
    while b != NONE and st.blocks[b].seq <= upper:
        seq = min(seq, st.blocks[b].seq)
        upper = max(upper, st.blocks[b].upper)
        following = i64(st.blocks[b].next)
        st.free_blocks[st.n[N_FREE_BLOCKS]] = b
        st.n[N_FREE_BLOCKS] += 1
        e.held -= 1
        e.held_bytes -= st.blocks[b].upper - st.blocks[b].seq
        b = following
    st.n[N_FREE_BLOCKS] -= 1
    new = i64(st.free_blocks[st.n[N_FREE_BLOCKS]])
    st.blocks[new].seq = seq
    st.blocks[new].upper = upper
    st.blocks[new].next = b
    if previous == NONE:
        e.blocks = new
    else:
        st.blocks[previous].next = new
    if b == NONE:
        e.last_block = new
    e.finger = new
    e.held += 1
    e.held_bytes += upper - seq
