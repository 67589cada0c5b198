"""A connection's row and its end: what the loop writes of it, and what it frees.

States as Zeek's conn_state() in scripts/base/protocols/conn/main.zeek names them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from feature_extractors.compiled import helper, i64
from feature_extractors.tracker.blocks import drop_blocks
from feature_extractors.tracker.decode import MAX_TUNNELS, TCP, UDP
from feature_extractors.tracker.state import (
    FOREVER,
    N_FREE,
    N_FREE_KEPT,
    N_ROW_PACKETS,
    N_ROWS,
    NONE,
)
from feature_extractors.tracker.table import heap_remove, remove
from feature_extractors.tracker.tcp import (
    CLOSED,
    ESTABLISHED,
    INACTIVE,
    PARTIAL,
    RESET,
    SYN_ACK_SENT,
    SYN_SENT,
    stream_size,
)

MAX_SUBFRAMES: Final = 8  # of an 802.11 aggregate; the largest on the air hold six full packets

# What one frame may need at most; the loop returns for more room before it begins a frame with less.
FRAME_CONNECTIONS: Final = (MAX_TUNNELS + 2) * MAX_SUBFRAMES
FRAME_ROWS: Final = 4 * FRAME_CONNECTIONS
FRAME_EXTRA: Final = 65_536 * FRAME_CONNECTIONS

_S0, _S1, _SF, _REJ, _S2, _S3, _RSTO, _RSTR, _RSTOS0, _RSTRH, _SH, _SHR, _OTH = range(13)  # CONN_STATES


@helper
def close(st: Any, slot: int, now: float) -> None:
    """Writes the connection's final row and frees all that it held."""
    c = st.conns[slot]
    emit(st, slot, now, 1)
    row = i64(c.kept_first)
    while row != NONE:
        st.free_kept[st.n[N_FREE_KEPT]] = row
        st.n[N_FREE_KEPT] += 1
        row = i64(st.kept[row].next)
    drop_blocks(st, st.ends[2 * slot])
    drop_blocks(st, st.ends[2 * slot + 1])
    heap_remove(st, slot)
    remove(st, slot)
    st.free[st.n[N_FREE]] = slot
    st.n[N_FREE] += 1


@helper
def emit_early(st: Any, slot: int, now: float) -> None:
    c = st.conns[slot]
    if not c.early:
        c.early = 1
        c.t_early = FOREVER
        emit(st, slot, now, 0)


@helper
def emit(st: Any, slot: int, now: float, stage: int) -> None:
    c = st.conns[slot]
    row = st.rows[st.n[N_ROWS]]
    st.n[N_ROWS] += 1
    side = i64(c.orig_side)
    o = st.ends[2 * slot + side]
    r = st.ends[2 * slot + 1 - side]
    row.serial = c.serial
    row.stage = stage
    row.ts = c.start
    row.end = now
    row.side0_hi, row.side0_lo = c.hi0, c.lo0
    row.p0, row.p1 = c.p0, c.p1
    if side == 0:
        row.orig_hi, row.orig_lo, row.resp_hi, row.resp_lo = c.hi0, c.lo0, c.hi1, c.lo1
        row.orig_p, row.resp_p = c.p0, c.p1
    else:
        row.orig_hi, row.orig_lo, row.resp_hi, row.resp_lo = c.hi1, c.lo1, c.hi0, c.lo0
        row.orig_p, row.resp_p = c.p1, c.p0
    row.proto = c.proto
    row.tunneled = c.tunneled != 0
    row.vlan, row.inner_vlan = c.vlan, c.inner_vlan
    row.missed = c.missed
    row.orig_pkts, row.orig_ip_bytes = o.pkts, o.ip_bytes
    row.resp_pkts, row.resp_ip_bytes = r.pkts, r.ip_bytes
    duration = c.last - c.start
    if duration > 0:
        row.duration = duration
        if c.proto == TCP:
            row.orig_bytes = stream_size(o, r)
            row.resp_bytes = stream_size(r, o)
        else:
            row.orig_bytes = max(o.size, 0)
            row.resp_bytes = max(r.size, 0)
    else:
        row.duration = np.nan
        row.orig_bytes = -1
        row.resp_bytes = -1
    row.conn_state = _conn_state(c, o, r)
    for i in range(len(row.history)):
        row.history[i] = c.history[i] if i < c.history_len else 0
    row.packets = c.kept
    k = i64(c.kept_first)
    while k != NONE:
        source = st.kept[k]
        target = st.row_packets[st.n[N_ROW_PACKETS]]
        st.n[N_ROW_PACKETS] += 1
        target.ts = source.ts
        target.is_orig = source.side == side
        target.ip_length = source.ip_length
        target.payload = source.payload
        k = i64(source.next)


@helper
def _conn_state(c: Any, o: Any, r: Any) -> int:
    """Zeek's conn_state() in scripts/base/protocols/conn/main.zeek."""
    if c.proto == UDP:
        if o.size >= 0:
            return _SF if r.size >= 0 else _S0
        return _SHR if r.size >= 0 else _OTH
    if c.proto != TCP:
        return _OTH
    os, rs = o.state, r.state
    if rs == RESET:
        if os in (SYN_SENT, SYN_ACK_SENT) or (
            os == RESET and stream_size(o, r) == 0 and stream_size(r, o) == 0
        ):
            return _REJ
        return _RSTRH if os in (INACTIVE, PARTIAL) else _RSTR
    if os == RESET:
        if rs not in (INACTIVE, PARTIAL):
            return _RSTO
        return _RSTOS0 if _aborted_attempt(c) else _OTH
    if rs == CLOSED and os == CLOSED:
        return _SF
    if os == CLOSED:
        return _SH if rs in (INACTIVE, PARTIAL) else _S2
    if rs == CLOSED:
        return _SHR if os in (INACTIVE, PARTIAL) else _S3
    if os == SYN_SENT and rs == INACTIVE:
        return _S0
    return _S1 if os == ESTABLISHED and rs == ESTABLISHED else _OTH


@helper
def _aborted_attempt(c: Any) -> bool:
    """Whether the history is `^?S[^HAFGIQ]*R.*`."""
    at = 0
    if c.history_len and c.history[0] == ord("^"):
        at = 1
    if at >= c.history_len or c.history[at] != ord("S"):
        return False
    for i in range(at + 1, c.history_len):
        if c.history[i] == ord("R"):
            return True
        if c.history[i] in (ord("H"), ord("A"), ord("F"), ord("G"), ord("I"), ord("Q")):
            return False
    return False
