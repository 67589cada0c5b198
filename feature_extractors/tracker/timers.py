"""Connections that time ends: all timers due by a moment fire in their order."""

from __future__ import annotations

from typing import Any, Final

from feature_extractors.compiled import helper, i64
from feature_extractors.observations import MAX_PACKETS
from feature_extractors.tracker.decode import TCP
from feature_extractors.tracker.rows import FRAME_ROWS, close, emit_early
from feature_extractors.tracker.state import (
    FOREVER,
    N_HEAP,
    N_ROW_PACKETS,
    N_ROWS,
)
from feature_extractors.tracker.table import heap_move
from feature_extractors.tracker.tcp import (
    INACTIVE,
    SYN_ACK_SENT,
    SYN_SENT,
    expire_check,
)

UDP_INACTIVITY: Final = 60.0  # also Zeek's first timeout of every TCP connection
DNS_TIMEOUT: Final = 10.0
EARLY_SECONDS: Final = 10.0
_SESSION_TIMER: Final = 6.0


@helper
def expire(st: Any, now: float) -> bool:
    """Fires all timers due by `now`; False where the rows are full before all have fired."""
    while st.n[N_HEAP]:
        slot = i64(st.heap[0])
        if st.heap_time[slot] > now:
            return True
        if len(st.rows) - st.n[N_ROWS] < FRAME_ROWS:
            return False
        if len(st.row_packets) - st.n[N_ROW_PACKETS] < FRAME_ROWS * MAX_PACKETS:
            return False
        c = st.conns[slot]
        if _is_over(st, slot, now):
            close(st, slot, now)
            continue
        if c.t_early <= now:
            emit_early(st, slot, now)
        heap_move(st, slot, next_timer(c))
    return True


@helper
def next_timer(c: Any) -> float:
    return min(c.t_inactive, c.t_expire, c.t_expire2, c.t_attempt, c.t_delete, c.t_dns, c.t_early)


@helper
def _is_over(st: Any, slot: int, now: float) -> bool:
    """Whether a timer that is due by `now` removes the connection; the others are set anew."""
    c = st.conns[slot]
    if c.t_delete <= now:
        return True
    if c.proto == TCP:
        o = st.ends[2 * slot + c.orig_side]
        r = st.ends[2 * slot + 1 - c.orig_side]
        if c.t_attempt <= now:
            c.t_attempt = FOREVER
            if c.is_active and o.state in (SYN_SENT, SYN_ACK_SENT) and r.state == INACTIVE:
                return True
        if c.t_expire <= now:
            c.t_expire = FOREVER
            if c.is_active:
                if expire_check(c, o, r, now):
                    return True
                c.t_expire = now + _SESSION_TIMER
        if c.t_expire2 <= now:
            c.t_expire2 = FOREVER
            if c.is_active:
                if expire_check(c, o, r, now):
                    return True
                c.t_expire2 = now + _SESSION_TIMER
    elif c.t_dns <= now:
        if now - c.last >= DNS_TIMEOUT - 1.0:
            return True
        c.t_dns = now + DNS_TIMEOUT
    if c.t_inactive <= now:
        if c.last + c.inactivity <= now:
            return True
        c.t_inactive = c.last + c.inactivity
    return False


@helper
def reschedule(st: Any, slot: int) -> None:
    """After timers were set: only an earlier one moves the slot in the heap, a later one is found in its time."""
    time = next_timer(st.conns[slot])
    if time < st.heap_time[slot]:
        heap_move(st, slot, time)
