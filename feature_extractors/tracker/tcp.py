"""TCP as Zeek sees it: endpoint states, sequence numbers, history, and gaps found by a reassembler of holes.

Mirrors src/packet_analysis/protocol/tcp/TCPSessionAdapter.cc and src/analyzer/protocol/tcp/TCP_{Endpoint,
Reassembler}.cc. The reassembler holds no data: all below `reassembled` was delivered or given up, and what lies
beyond a hole is a list of blocks. Relative sequence numbers count from the SYN, so data begins at 1.
"""

from __future__ import annotations

from typing import Any, Final

from feature_extractors.compiled import helper, i64
from feature_extractors.tracker import reasons
from feature_extractors.tracker.blocks import deliver, drop_blocks, drop_first, insert_block
from feature_extractors.tracker.state import FOREVER, HISTORY, L_BLOCKS, NONE

INACTIVE, SYN_SENT, SYN_ACK_SENT, PARTIAL, ESTABLISHED, CLOSED, RESET = range(7)
FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
# Zeek's defaults in seconds (scripts/base/init-bare.zeek).
ATTEMPT_DELAY: Final = 5.0
CLOSE_DELAY: Final = 5.0
SYN_TIMEOUT: Final = 5.0
SESSION_TIMER: Final = 6.0
LINGER: Final = 5.0
TCP_INACTIVITY: Final = 300.0
INTERACTIVE_INACTIVITY: Final = 3600.0
OUTSIDE: Final = -2  # the stream offset of a segment that belongs to no stream
_TOO_LARGE_SEQ_DELTA: Final = 1048576
_MAX_INITIAL_WINDOW: Final = 16384
_MAX_ABOVE_HOLE: Final = 16384
_EXCESSIVE_DATA_BYTES: Final = 10 * 1024 * 1024
_M32: Final = 0xFFFFFFFF
_SEEN_SYN, _SEEN_FIN, _SEEN_RST, _SEEN_FIN_RST, _SEEN_DATA, _SEEN_ACK, _SEEN_MULTI = (
    1,
    2,
    4,
    8,
    0x10,
    0x20,
    0x40,
)
_ORIG_SEEN, _RESP_SEEN = 1, 2
_CARET, _LOWER = ord("^"), 32


@helper
def add_history(st: Any, c: Any, code: int) -> None:
    """Appends a letter. Zeek's history has no end; ours is cut at `HISTORY` letters, counted."""
    if c.history_len < HISTORY:
        c.history[c.history_len] = code
        c.history_len += 1
    else:
        st.counts[reasons.HISTORY_CUT] += 1


@helper
def check_history(st: Any, c: Any, mask: int, code: int) -> bool:
    """Adds the letter the first time; True if it had been there."""
    if c.seen & mask == 0:
        c.seen |= mask
        add_history(st, c, code)
        return False
    return True


@helper
def flip(st: Any, c: Any) -> None:
    """Swaps originator and responder of a connection (Zeek's Connection::FlipRoles)."""
    c.orig_side = 1 - c.orig_side
    if c.proto == 6:
        c.first_seen = ((c.first_seen & 1) << 1) | (c.first_seen >> 1)
        c.is_partial = 0
    add_history(st, c, _CARET)


@helper
def seq_delta(a: int, b: int) -> int:
    """a - b in 32-bit sequence space, signed."""
    d = (a - b) & _M32
    return d - (1 << 32) if d >= (1 << 31) else d


@helper
def tcp_segment(
    st: Any,
    slot: int,
    side: int,
    ts: float,
    seq: int,
    ack: int,
    flags: int,
    window: int,
    length: int,
    captured: int,
) -> int:
    """The stream offset of the payload of one segment, `length` bytes, `captured` of them present.

    The offset is 0 for the first byte after the SYN, -1 where the payload begins in the SYN's own place, as in
    captures made by hand (Zeek passes over that byte), and `OUTSIDE` where the segment lies outside the stream.
    """
    c = st.conns[slot]
    e = st.ends[2 * slot + side]
    p = st.ends[2 * slot + 1 - side]
    is_orig = side == c.orig_side  # as Zeek's argument: not updated by a flip on the way
    _set_partial_status(c, flags, is_orig)
    in_sequence = length if not flags & RST else 0
    segment_len = in_sequence + (1 if flags & SYN else 0) + (1 if flags & FIN else 0)
    past = (seq + segment_len) & _M32
    _init_endpoint(e, flags, seq, past)
    rel_seq, underflow = _relative_seq(e, seq, e.last_seq, e.seq_wraps)
    _update_history(st, c, e, side, flags, rel_seq, length)
    if window == 0 and not flags & RST and p.state != CLOSED and e.state != RESET:
        e.win0_cnt, e.win0_next = _scaled(st, c, side, ord("W"), e.win0_cnt, e.win0_next)
    if not (e.did_close and p.did_close):
        c.last = ts
    if flags & FIN:
        e.fin_cnt += 1
        e.fin_seq = rel_seq + segment_len
    rel_ack = i64(0)
    if flags & ACK:
        if p.state == INACTIVE:
            rel_ack = i64(1)
            start = (ack - 1) & _M32
            p.start_seq = start
            p.ack_seq = start
            p.last_seq = start
        else:
            rel_ack, low = _relative_seq(p, ack, p.ack_seq, p.ack_wraps)
            if low:
                rel_ack = i64(0)
            elif not flags & RST:
                delta = seq_delta(ack, p.ack_seq)
                if not (ack == 0 and delta > _TOO_LARGE_SEQ_DELTA) and delta > 0:
                    if ack < p.ack_seq:
                        p.ack_wraps += 1
                    p.ack_seq = ack
    _update_last_seq(st, c, e, side, past, flags, length)
    closing, event = _state_machine(st, c, e, p, side, ts, seq, ack, flags, length, is_orig)
    if flags & ACK:
        _ack_received(st, c, p, e, 1 - side, rel_ack)
    c.first_seen |= _ORIG_SEEN if is_orig else _RESP_SEEN
    data_seq = rel_seq + 1 if flags & SYN else rel_seq
    if length > 0 and not flags & RST and not underflow and captured >= length:
        _data_sent(st, c, e, p, side, data_seq, length)
    _check_eof(st, c, e, p, side)
    if closing:
        _connection_closed(c, e, p, event)
    return data_seq - 1 if not underflow and not flags & RST else i64(OUTSIDE)


@helper
def _set_partial_status(c: Any, flags: int, is_orig: bool) -> None:
    if is_orig:
        if not c.first_seen & _ORIG_SEEN:
            c.is_partial = 1 if (not flags & SYN or flags & ACK) else 0
    elif not c.first_seen & _RESP_SEEN and not c.is_partial:
        c.is_partial = 0 if flags & SYN else 1


@helper
def _restart(e: Any, start: int, last: int) -> None:
    e.start_seq = start
    e.ack_seq = start
    e.last_seq = last


@helper
def _init_endpoint(e: Any, flags: int, seq: int, past: int) -> None:
    syn = flags & SYN
    if e.state == INACTIVE:
        if syn:
            _restart(e, seq, past)
        else:  # as though a SYN had been seen; the first packet is no duplicate
            _restart(e, (seq - 1) & _M32, seq)
    elif e.state in (SYN_SENT, SYN_ACK_SENT):
        if syn and seq != e.start_seq:
            _restart(e, seq, past)
    elif e.state in (ESTABLISHED, PARTIAL):
        if syn:
            _restart(e, seq, past)
    elif e.state == RESET and syn and e.prev_state == INACTIVE:
        _restart(e, seq, past)


@helper
def _relative_seq(e: Any, base: int, last: int, wraps: int) -> tuple[int, bool]:
    """`base` relative to the endpoint's start, and whether it lies before it."""
    w = wraps
    delta = seq_delta(base, last)
    if delta < 0:
        if w and base > last:
            w -= 1
    elif delta > 0 and base < last:
        w += 1
    if w == 0:
        rel = seq_delta(base, e.start_seq)
        return rel, rel < 0
    return (w << 32) + base - e.start_seq, False


@helper
def _endpoint_history(st: Any, c: Any, side: int, mask: int, code: int) -> bool:
    if code in (ord("A"), ord("D")) and c.history_len == 1 and c.history[0] == ord("H"):
        # Began with a SYN-ACK and goes on productively: no stealth scan, so the SYN was missed.
        flip(st, c)
        c.history[0] = _CARET
        c.history[1] = ord("h")
        c.history_len = 2
        c.first_seen |= _ORIG_SEEN
    if side != c.orig_side:
        return check_history(st, c, mask << 16, code + _LOWER)
    return check_history(st, c, mask, code)


@helper
def _sided(c: Any, side: int, code: int) -> int:
    return code if side == c.orig_side else code + _LOWER


@helper
def _scaled(st: Any, c: Any, side: int, code: int, count: int, threshold: int) -> tuple[int, int]:
    """Counts one more; a letter at 1, 10, 100 ..."""
    count += 1
    if count == threshold:
        add_history(st, c, _sided(c, side, code))
        if threshold >= 1_000_000_000:
            return i64(0), i64(threshold)
        return i64(count), i64(threshold) * 10
    return i64(count), i64(threshold)


@helper
def _update_history(st: Any, c: Any, e: Any, side: int, flags: int, rel_seq: int, length: int) -> None:
    syn, fin, rst = flags & SYN, flags & FIN, flags & RST
    bits = (1 if syn else 0) + (1 if fin else 0) + (1 if rst else 0)
    if bits > 1:
        if fin and rst:
            _endpoint_history(st, c, side, _SEEN_FIN_RST, ord("I"))
        else:
            _endpoint_history(st, c, side, _SEEN_MULTI, ord("Q"))
    elif syn:
        code = ord("H") if flags & ACK else ord("S")
        if _endpoint_history(st, c, side, _SEEN_SYN, code) and rel_seq != e.hist_syn:
            add_history(st, c, _sided(c, side, code))
        e.hist_syn = rel_seq
    elif fin:
        if _endpoint_history(st, c, side, _SEEN_FIN, ord("F")) and rel_seq + length != e.hist_fin:
            add_history(st, c, _sided(c, side, ord("F")))
        e.hist_fin = rel_seq + length
    elif rst:
        if _endpoint_history(st, c, side, _SEEN_RST, ord("R")) and rel_seq != e.hist_rst:
            add_history(st, c, _sided(c, side, ord("R")))
        e.hist_rst = rel_seq
    elif length:
        _endpoint_history(st, c, side, _SEEN_DATA, ord("D"))
    elif flags & ACK:
        _endpoint_history(st, c, side, _SEEN_ACK, ord("A"))


@helper
def _update_last_seq(st: Any, c: Any, e: Any, side: int, past: int, flags: int, length: int) -> None:
    delta = seq_delta(past, e.last_seq)
    if flags & (SYN | RST) and (delta > _TOO_LARGE_SEQ_DELTA or delta < -_TOO_LARGE_SEQ_DELTA):
        return
    if flags & FIN and e.last_seq == (e.start_seq + 1) & _M32:
        _advance(e, past)
    elif e.state == RESET:
        return
    elif delta > 0:
        _advance(e, past)
    elif length > 0:
        e.rxmt_cnt, e.rxmt_next = _scaled(st, c, side, ord("T"), e.rxmt_cnt, e.rxmt_next)


@helper
def _advance(e: Any, past: int) -> None:
    if past < e.last_seq:
        e.seq_wraps += 1
    e.last_seq = past


@helper
def _set_state(c: Any, e: Any, p: Any, state: int) -> None:
    if state == e.state:
        return
    if state > SYN_ACK_SENT and e.state <= SYN_ACK_SENT and p.state <= SYN_ACK_SENT:
        set_inactivity(c, TCP_INACTIVITY)
    e.prev_state = e.state
    e.state = state


@helper
def set_inactivity(c: Any, seconds: float) -> None:
    """Zeek's SetInactivityTimeout: a new time starts the timer anew from the last packet."""
    if seconds != c.inactivity:
        c.inactivity = seconds
        c.t_inactive = c.last + seconds


@helper
def _state_machine(
    st: Any,
    c: Any,
    e: Any,
    p: Any,
    side: int,
    ts: float,
    seq: int,
    ack: int,
    flags: int,
    length: int,
    is_orig: bool,
) -> tuple[bool, bool]:
    """Returns whether this endpoint closes, and whether Zeek would raise an event about it."""
    closing, event = False, False
    if e.state == INACTIVE:
        closing, event = _from_inactive(st, c, e, p, side, ts, seq, ack, flags, length, is_orig)
    elif e.state in (SYN_SENT, SYN_ACK_SENT):
        if flags & FIN:
            _set_state(c, e, p, CLOSED)
            closing = event = True
        if flags & RST:
            _set_state(c, e, p, RESET)
            c.is_active = 0
            closing = True
    elif e.state in (ESTABLISHED, PARTIAL):
        if flags & SYN and e.state == PARTIAL and p.state == INACTIVE and not flags & ACK:
            _set_state(c, e, p, SYN_SENT)
        if flags & FIN and not flags & RST:
            _set_state(c, e, p, CLOSED)
            if p.state == RESET and p.prev_state == CLOSED:
                _set_state(c, p, e, CLOSED)
            closing = event = True
        if flags & RST:
            _set_state(c, e, p, RESET)
            closing = True
            if p.state != RESET or p.prev_state != ESTABLISHED:
                c.is_active = 0
    elif e.state == CLOSED and flags & RST and p.state != CLOSED:
        _set_state(c, e, p, RESET)
        if not e.did_close:
            closing = True
    return closing, event


@helper
def _from_inactive(
    st: Any,
    c: Any,
    e: Any,
    p: Any,
    side: int,
    ts: float,
    seq: int,
    ack: int,
    flags: int,
    length: int,
    is_orig: bool,
) -> tuple[bool, bool]:
    closing, event = False, False
    if flags & SYN:
        if is_orig:
            _set_state(c, e, p, SYN_ACK_SENT if flags & ACK else SYN_SENT)
            c.t_attempt = ts + ATTEMPT_DELAY
        else:
            if not flags & ACK and p.state == SYN_ACK_SENT and seq == e.start_seq:
                # SYN and SYN-ACK were captured the wrong way round.
                c.is_partial = 0
                flip(st, c)
                _set_state(c, p, e, ESTABLISHED)
                c.first_seen |= _ORIG_SEEN
            if p.state == SYN_SENT:
                _set_state(c, p, e, ESTABLISHED)
            _set_state(c, e, p, ESTABLISHED)
            if p.state != PARTIAL:
                resp_p = c.p1 if c.orig_side == 0 else c.p0
                if resp_p in (21, 22, 23, 513):
                    set_inactivity(c, INTERACTIVE_INACTIVITY)
    if flags & FIN:
        _set_state(c, e, p, CLOSED)
        closing = event = True
    if flags & RST:
        _set_state(c, e, p, RESET)
        rejected = p.state == ESTABLISHED if is_orig else p.state in (SYN_SENT, SYN_ACK_SENT)
        closing = True
        event = not rejected
    if e.state == INACTIVE:  # no control flag
        orig_state = e.state if side == c.orig_side else p.state
        if not is_orig and length == 0 and orig_state == SYN_SENT:
            pass  # acknowledges the SYN before answering it
        elif flags & ACK and p.state == ESTABLISHED:
            _set_state(c, e, p, ESTABLISHED)
            c.is_partial = 0
            c.first_seen |= _ORIG_SEEN if is_orig else _RESP_SEEN
        else:
            _set_state(c, e, p, PARTIAL)
    return closing, event


@helper
def _connection_closed(c: Any, e: Any, p: Any, event: bool) -> None:
    if _data_pending(e, p):
        c.close_deferred = 1
        if not c.deferred_event:
            c.deferred_event = 1 if event else 0
        return
    c.close_deferred = 0
    if e.did_close:
        return
    e.did_close = 1
    if e.state == RESET or p.did_close or p.state == INACTIVE:
        if e.prev_state != INACTIVE or p.state != INACTIVE:
            if c.deferred_event:
                event = True
                c.deferred_event = 0
            if event:
                c.is_active = 0
        c.t_expire = FOREVER
        c.t_expire2 = FOREVER
        c.t_attempt = FOREVER
        c.t_delete = c.last + CLOSE_DELAY
    elif e.prev_state != INACTIVE:
        c.t_expire2 = c.last + SESSION_TIMER


@helper
def expire_check(c: Any, o: Any, r: Any, now: float) -> bool:
    """Zeek's ExpireTimer: whether the connection is over by `now`. `o`, `r`: the endpoints."""
    if c.last + LINGER >= now:
        return False
    states = (o.state, r.state)
    if (o.did_close and r.did_close) or (
        (o.did_close or r.did_close) and (RESET in states or INACTIVE in states)
    ):
        return True
    return r.state == INACTIVE and o.state == INACTIVE


@helper
def stream_size(e: Any, p: Any) -> int:
    """Payload bytes by sequence numbers, Zeek's TCP_Endpoint::Size."""
    if e.prev_state == SYN_SENT and e.state == RESET and p.state == INACTIVE and not _no_data_acked(e):
        return i64(0)
    last = (e.seq_wraps << 32) + e.last_seq
    acked = (e.ack_wraps << 32) + e.ack_seq
    size = max(last, acked) - e.start_seq
    if size != 0:
        size -= 1
    if e.fin_cnt > 0 and size != 0:
        size -= 1
    return size


@helper
def _no_data_acked(e: Any) -> bool:
    acked = (e.ack_wraps << 32) + e.ack_seq
    return acked in (e.start_seq, e.start_seq + 1)


@helper
def _is_clean(e: Any) -> bool:
    return e.state == ESTABLISHED or (e.state == CLOSED and e.prev_state == ESTABLISHED)


@helper
def _has_blocks(e: Any) -> bool:
    """Whether Zeek's reassembler would hold data, delivered or not, that was not acknowledged."""
    return not e.skip and (e.reassembled > e.trimmed or e.blocks != NONE)


@helper
def _data_pending(e: Any, p: Any) -> bool:
    if e.skip:
        return False
    delivered = e.start_seq + e.reassembled
    last = (e.seq_wraps << 32) + e.last_seq
    if last < delivered:
        return False
    if delivered not in (last - 1, last):
        return True
    return e.state != RESET and _has_blocks(p)


@helper
def _check_eof(st: Any, c: Any, e: Any, p: Any, side: int) -> None:
    if not e.did_eof and (e.fin_cnt > 0 or e.state in (CLOSED, RESET)) and not _data_pending(e, p):
        e.did_eof = 1
        if c.close_deferred:
            _connection_closed(c, e, p, c.deferred_event != 0)
            c.close_deferred = 0


@helper
def _gap(st: Any, c: Any, e: Any, p: Any, side: int, length: int) -> None:
    if _is_clean(e) and _is_clean(p):
        e.gap_cnt, e.gap_next = _scaled(st, c, side, ord("G"), e.gap_cnt, e.gap_next)
        c.missed += length


@helper
def _undelivered(st: Any, c: Any, e: Any, p: Any, side: int, up_to: int) -> None:
    if up_to <= 2 and c.is_partial:
        return
    if not e.skip:
        while e.blocks != NONE and st.blocks[e.blocks].seq < up_to:
            seq = st.blocks[e.blocks].seq
            if seq > e.reassembled:
                _gap(st, c, e, p, side, seq - e.reassembled)
                e.reassembled = seq
            deliver(st, e)
        if up_to > e.reassembled:
            _gap(st, c, e, p, side, up_to - e.reassembled)
    e.reassembled = max(e.reassembled, up_to)


@helper
def _trim(st: Any, c: Any, e: Any, p: Any, side: int, seq: int) -> None:
    if seq > e.reassembled:
        _undelivered(st, c, e, p, side, seq)
    while e.blocks != NONE and st.blocks[e.blocks].upper <= seq:
        drop_first(st, e)
    if e.blocks != NONE and st.blocks[e.blocks].seq == e.reassembled:
        deliver(st, e)
    e.trimmed = seq


@helper
def _ack_received(st: Any, c: Any, e: Any, p: Any, side: int, rel_ack: int) -> None:
    seq = rel_ack
    if e.fin_cnt > 0 and seq >= e.fin_seq:
        seq = e.fin_seq - 1
    if seq <= e.trimmed:
        return
    _trim(st, c, e, p, side, seq)
    _check_eof(st, c, e, p, side)


@helper
def _data_sent(st: Any, c: Any, e: Any, p: Any, side: int, begin: int, length: int) -> None:
    if e.skip:
        return
    seq, upper = begin, begin + length
    acked = (e.ack_wraps << 32) + e.ack_seq - e.start_seq
    if seq < acked:
        if upper <= acked:
            return
        seq = acked
    if upper > e.trimmed:
        seq = max(seq, e.trimmed, e.reassembled)
        if seq < upper:
            if seq == e.reassembled and e.blocks == NONE:
                e.reassembled = upper
            else:
                insert_block(st, e, seq, upper)
                deliver(st, e)
            if _no_data_acked(e) and stream_size(e, p) > _MAX_INITIAL_WINDOW and e.reassembled >= upper:
                e.trimmed = max(e.trimmed, e.reassembled)
    held = e.held_bytes
    tail = st.blocks[e.last_block].upper if e.blocks != NONE else e.reassembled
    if (_no_data_acked(e) and tail - e.reassembled > _MAX_ABOVE_HOLE) or (
        held + max(e.reassembled - e.trimmed, 0) > _EXCESSIVE_DATA_BYTES
    ):
        drop_blocks(st, e)
        e.skip = 1
    elif e.held > st.limits[L_BLOCKS]:
        st.counts[reasons.BLOCKS_FULL] += 1
        drop_blocks(st, e)
        e.skip = 1
