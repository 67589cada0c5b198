"""Connections as Zeek tracks them: one JIT-compiled loop from frames to ended connections and payload segments.

Mirrors src/packet_analysis/protocol/ip/IPBasedAnalyzer.cc, the UDP, ICMP and unknown transports beside it, and
src/session/. Timers fire in network time before the packet that reaches them, so that results do not depend on how
a capture is cut into blocks.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from . import decode, reasons, state_type  # noqa: F401 -- tells numba of State
from .decode import GRE, ICMP, ICMP6, IP_IN_IP, IPV6_IN_IP, MAX_TUNNELS, TCP, UDP
from .jit import borrowed, entry, helper, i64
from .link import KNOWN_LINKS, WLAN_SUBFRAMES, be16, be32, link_layer
from .observations import MAX_PACKETS
from .state import (
    FOREVER,
    L_CONNECTIONS,
    L_CONTENT,
    L_EARLY,
    N_DECODED,
    N_EXTRA,
    N_FREE,
    N_FREE_BLOCKS,
    N_FREE_KEPT,
    N_HEAP,
    N_ROW_PACKETS,
    N_ROWS,
    N_SEGMENTS,
    N_SERIAL,
    N_UNKNOWN_LINK,
    NONE,
)
from .table import find, hash_key, heap_move, heap_push, heap_remove, insert, remove
from .tcp import (
    ACK,
    CLOSED,
    ESTABLISHED,
    INACTIVE,
    OUTSIDE,
    PARTIAL,
    RESET,
    SYN,
    SYN_ACK_SENT,
    SYN_SENT,
    SYN_TIMEOUT,
    check_history,
    drop_blocks,
    expire_check,
    flip,
    stream_size,
    tcp_segment,
)

MAX_SUBFRAMES: Final = 8  # of an 802.11 aggregate; the largest on the air hold six full packets

# What one frame may need at most; the loop returns for more room before it begins a frame with less.
FRAME_CONNECTIONS: Final = (MAX_TUNNELS + 2) * MAX_SUBFRAMES
FRAME_ROWS: Final = 4 * FRAME_CONNECTIONS
FRAME_EXTRA: Final = 65_536 * FRAME_CONNECTIONS

_UDP_INACTIVITY: Final = 60.0  # also Zeek's first timeout of every TCP connection
_DNS_TIMEOUT: Final = 10.0
_EARLY_SECONDS: Final = 10.0
_SESSION_TIMER: Final = 6.0
_BROADCAST: Final = (0xFFFF << 32) | 0xFFFFFFFF
_S0, _S1, _SF, _REJ, _S2, _S3, _RSTO, _RSTR, _RSTOS0, _RSTRH, _SH, _SHR, _OTH = range(13)  # CONN_STATES
_UNKNOWN_X: Final = 0x400
_MAX_TUNNEL_CHANGES: Final = 5
_KNOWN: Final = tuple(sorted(KNOWN_LINKS))


@entry
def process(
    st: Any, data: Any, starts: Any, captured: Any, lengths: Any, times: Any, links: Any, first: int
) -> int:
    """Tracks frames from `first` on until the block ends or an array in `st` is full; returns the next frame.

    A frame at which the loop stopped is begun again with the next call; its timers go on where they stopped.
    """
    data, size = borrowed(data), len(starts)
    i = first
    while i < size:
        st.clock[0] = max(st.clock[0], times[i])
        if not expire(st, st.clock[0]) or not _room(st):
            return i
        _frame(st, data, starts[i], i64(captured[i]), i64(lengths[i]), times[i], i64(links[i]))
        i += 1
    return i


@helper
def _room(st: Any) -> bool:
    return (
        st.n[N_FREE] >= FRAME_CONNECTIONS
        and st.n[N_FREE_KEPT] >= FRAME_CONNECTIONS
        and st.n[N_FREE_BLOCKS] >= FRAME_CONNECTIONS
        and len(st.rows) - st.n[N_ROWS] >= FRAME_ROWS
        and len(st.row_packets) - st.n[N_ROW_PACKETS] >= FRAME_ROWS * MAX_PACKETS
        and len(st.segments) - st.n[N_SEGMENTS] >= FRAME_CONNECTIONS
        and len(st.extra) - st.n[N_EXTRA] >= FRAME_EXTRA
    )


# Timers.


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
            _emit_early(st, slot, now)
        heap_move(st, slot, _next_timer(c))
    return True


@helper
def _next_timer(c: Any) -> float:
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
        if now - c.last >= _DNS_TIMEOUT - 1.0:
            return True
        c.t_dns = now + _DNS_TIMEOUT
    if c.t_inactive <= now:
        if c.last + c.inactivity <= now:
            return True
        c.t_inactive = c.last + c.inactivity
    return False


@helper
def _reschedule(st: Any, slot: int) -> None:
    """After timers were set: only an earlier one moves the slot in the heap, a later one is found in its time."""
    time = _next_timer(st.conns[slot])
    if time < st.heap_time[slot]:
        heap_move(st, slot, time)


# Frames.


@helper
def _frame(st: Any, block: Any, begin: int, captured: int, length: int, ts: float, link: int) -> None:
    packet = st.packet[0]
    packet.vlan = -1
    packet.inner_vlan = -1
    packet.depth = 0
    packet.encap = 0
    packet.ip_begin = begin
    packet.ip_end = begin + captured
    packet.cap_end = begin + captured
    packet.wire_end = begin + length
    packet.link = link
    packet.rest_end = 0
    _layers(st, block, packet, ts)
    subframes = 1
    while packet.rest_end:  # further frames in an 802.11 aggregate
        if subframes == MAX_SUBFRAMES:
            st.counts[reasons.WLAN_AGGREGATED] += 1
            return
        subframes += 1
        packet.depth = packet.rest_depth
        packet.encap = packet.rest_encap
        packet.ip_begin, packet.ip_end = packet.rest_begin, packet.rest_end
        packet.cap_end = packet.wire_end = packet.rest_end
        packet.link = WLAN_SUBFRAMES
        packet.rest_end = 0
        _layers(st, block, packet, ts)


@helper
def _layers(st: Any, block: Any, packet: Any, ts: float) -> None:
    """Walks from a link layer down through all tunnels."""
    data = block
    whole = False
    link = packet.link
    while True:
        reason = link_layer(data, packet.ip_begin, packet.ip_end, packet.link, packet)
        if whole:
            packet.rest_end = 0  # lies in memory that the next datagram takes
        if reason == 0:
            reason = decode.decode_ip(st, data, packet)
        if reason > 0:
            if packet.depth == 0 and link not in _KNOWN and link != WLAN_SUBFRAMES:
                st.n[N_UNKNOWN_LINK] += 1
                reason = reasons.UNKNOWN_LINK
            st.counts[reason] += 1
            return
        st.n[N_DECODED] += 1
        if reason < 0:
            data = st.whole_readonly
            whole = True
        proto = packet.proto
        if proto in (IP_IN_IP, IPV6_IN_IP, GRE):
            if packet.depth >= MAX_TUNNELS:
                st.counts[reasons.TUNNEL_DEPTH] += 1
                return
            packet.encap = _encap(packet.encap, packet.src_lo ^ packet.dst_lo, packet.src_hi ^ packet.dst_hi)
            if proto == GRE:
                reason = decode.gre(data, packet, packet.begin, packet.end)
            else:
                version = 4 if proto == IP_IN_IP else 6
                reason = decode.ip_in_ip(data, packet, packet.begin, packet.end, version)
        else:
            reason = _transport(st, data, len(block) if whole else -1, packet, ts)
        if reason:
            if reason > 0:
                st.counts[reason] += 1
            return
        packet.depth += 1


@helper
def _encap(outer: int, a: int, b: int) -> int:
    """Names a tunnel within others."""
    h = (outer * 31 + a) * 0x9E3779B1 + b
    return h if h else i64(1)


@helper
def _transport(st: Any, data: Any, extra_base: int, packet: Any, ts: float) -> int:
    """One packet of one connection. Returns 0 if a tunnelled packet is to be looked at next, -1 if not, else why not.

    `extra_base`: -1, or the block's length where `data` is a reassembled datagram, whose payload is copied.
    """
    proto, at = packet.proto, packet.begin
    present = packet.end - at
    least = 20 if proto == TCP else (8 if proto in (UDP, ICMP, ICMP6) else 0)
    if (packet.payload_len and packet.payload_len < least) or present < least:
        return reasons.TRUNCATED_TRANSPORT
    packet.one_way = 0
    if proto in (TCP, UDP):
        packet.src_p = be16(data, at)
        packet.dst_p = be16(data, at + 2)
    elif proto in (ICMP, ICMP6):
        _icmp_ports(data, at, packet)
    else:
        packet.src_p = 0
        packet.dst_p = 0
    key_hash = hash_key(
        st, packet.src_hi, packet.src_lo, packet.src_p, packet.dst_hi, packet.dst_lo, packet.dst_p, proto
    )
    slot = find(st, packet, key_hash)
    if slot != NONE and proto == TCP and _is_reuse(st, slot, data, at):
        close(st, slot, st.clock[0])
        slot = NONE
    if slot == NONE:
        slot = _new_connection(st, data, at, packet, key_hash, ts)
    c = st.conns[slot]
    if c.encap != packet.encap:
        c.encap = packet.encap
        if c.tunnel_changes < _MAX_TUNNEL_CHANGES:
            c.tunnel_changes += 1
        else:
            check_history(st, c, _UNKNOWN_X, ord("X"))
    side = _side(c, packet)
    if proto == TCP:
        length = packet.payload_len if packet.total_len else present
        return _tcp(st, data, extra_base, packet, slot, side, ts, length, present)
    length = packet.payload_len if packet.payload_len else present
    c.last = ts
    e = st.ends[2 * slot + side]
    if proto == UDP:
        declared = be16(data, at + 4)
        is_orig = side == c.orig_side
        check_history(st, c, 1 if is_orig else 2, ord("D") if is_orig else ord("d"))
        _add_size(e, declared - 8)
        _keep(st, data, slot, side, packet, ts, at + 8, length - 8, present - 8, -1, -1, -1)
        _hand_over(st, data, extra_base, slot, side, -1, -1, at + 8, length - 8, present - 8)
        resp_p = c.p1 if c.orig_side == 0 else c.p0
        role = _application_flip(st, slot, side, data, at + 8, min(length, present) - 8, resp_p, packet)
        _count_packet(st, slot, role, packet)
        if c.violated and resp_p not in (2152, 2123):
            return -1
        reason = decode.udp_tunnel(data, packet, at + 8, at + min(length, present), resp_p)
        if reason == 0 and packet.depth >= MAX_TUNNELS:
            check_history(st, c, _UNKNOWN_X, ord("X"))
            return reasons.TUNNEL_DEPTH
        if reason == reasons.BAD_TUNNEL:
            c.violated = 1
        if resp_p != 4754:  # GRE in UDP is named by its addresses
            packet.encap = _encap(packet.encap, c.serial + 1, 0)
        else:
            packet.encap = _encap(packet.encap, packet.src_lo ^ packet.dst_lo, packet.src_hi ^ packet.dst_hi)
        return reason
    if proto in (ICMP, ICMP6):
        _add_size(e, length - 8)
        _keep(st, data, slot, side, packet, ts, at + 8, length - 8, present - 8, -1, -1, -1)
        if present >= length:
            _count_packet(st, slot, side, packet)
        return -1
    _keep(st, data, slot, side, packet, ts, at, length, present, -1, -1, -1)
    _count_packet(st, slot, side, packet)
    return -1


@helper
def _application_flip(
    st: Any, slot: int, side: int, data: Any, at: int, size: int, resp_p: int, packet: Any
) -> int:
    """Zeek's DNS and NTP analyzers turn a connection round when its first message is an answer.

    Returns the side to which Zeek counts this packet: it has the role that the sender had before.
    """
    c = st.conns[slot]
    is_orig = side == c.orig_side
    turn = False
    if resp_p in (53, 137, 5353, 5355) and size >= 12:
        opcode = (i64(data[at + 2]) >> 3) & 0x0F
        if opcode not in (0, 4, 5) and c.p0 != 137 and c.p1 != 137:
            check_history(st, c, _UNKNOWN_X, ord("X"))
        else:
            turn = not c.app and is_orig and data[at + 2] & 0x80 != 0 and not _to_multicast(c)
            c.app = 1
    elif resp_p == 123 and size >= 48:
        mode = data[at] & 0x07
        flow = 1 if is_orig else 2
        turn = not c.app & flow and ((mode == 4 and is_orig) or (mode == 3 and not is_orig))
        if turn:
            c.app |= flow
    if not turn:
        return side
    flip(st, c)
    a, b = st.ends[2 * slot], st.ends[2 * slot + 1]
    a.size, b.size = b.size, a.size  # what was counted stays with the role
    return 1 - side


@helper
def _to_multicast(c: Any) -> bool:
    hi, lo = (c.hi1, c.lo1) if c.orig_side == 0 else (c.hi0, c.lo0)
    if hi == 0 and lo >> 32 == 0xFFFF:
        return (lo >> 28) & 0x0F == 0x0E
    return (hi >> 56) & 0xFF == 0xFF


@helper
def _side(c: Any, packet: Any) -> int:
    """Which endpoint sent it; a host that talks to itself from one port is the originator, as in Zeek."""
    if c.orig_side == 0:
        is_orig = (
            packet.src_lo == c.lo0 and packet.src_hi == c.hi0 and packet.src_p == c.p0
        )  # fmt: skip
    else:
        is_orig = (
            packet.src_lo == c.lo1 and packet.src_hi == c.hi1 and packet.src_p == c.p1
        )  # fmt: skip
    return i64(c.orig_side) if is_orig else i64(1 - c.orig_side)


@helper
def _add_size(e: Any, size: int) -> None:
    e.size = size if e.size < 0 else e.size + size


@helper
def _count_packet(st: Any, slot: int, side: int, packet: Any) -> None:
    e = st.ends[2 * slot + side]
    e.pkts += 1
    e.ip_bytes += packet.total_len
    c = st.conns[slot]
    if c.early_due and not c.early and c.kept == MAX_PACKETS:
        _emit_early(st, slot, st.clock[0])


@helper
def _icmp_ports(data: Any, at: int, packet: Any) -> None:
    """Zeek's convention: the message's type, and its answer's type or, where none is known, its code."""
    kind = i64(data[at])
    answer = -1
    if packet.proto == ICMP:
        if kind in (8, 0):
            answer = 8 - kind
        elif kind in (13, 14, 15, 16, 17, 18):
            answer = kind + 1 if kind % 2 else kind - 1
        elif kind in (9, 10):
            answer = 19 - kind
    elif kind in (128, 129):
        answer = 257 - kind
    elif kind in (133, 134):
        answer = 267 - kind
    elif kind in (135, 136):
        answer = 271 - kind
    elif kind in (130, 131):
        answer = 261 - kind
    elif kind in (139, 140):
        answer = 279 - kind
    elif kind in (144, 145):
        answer = 289 - kind
    packet.src_p = kind
    if answer < 0:
        packet.one_way = 1
        packet.dst_p = i64(data[at + 1])
    else:
        packet.dst_p = answer


@helper
def _is_reuse(st: Any, slot: int, data: Any, at: int) -> bool:
    """Whether a SYN begins a new connection on the same addresses and ports (TCPSessionAdapter::IsReuse)."""
    flags = i64(data[at + 13])
    if (i64(data[at + 12]) >> 4) < 5 or not flags & SYN:
        return False
    c = st.conns[slot]
    o = st.ends[2 * slot + c.orig_side]
    r = st.ends[2 * slot + 1 - c.orig_side]
    started = o
    if flags & ACK:
        if o.state != INACTIVE:
            return False
        started = r
    if not (o.did_close or r.did_close):
        seq = be32(data, at + 4)
        if seq == started.start_seq:
            return False
        if (
            not flags & ACK
            and started.state == SYN_ACK_SENT
            and r.state == INACTIVE
            and seq == r.start_seq & 0xFFFFFFFF
        ):
            return False
    return True


@helper
def _new_connection(st: Any, data: Any, at: int, packet: Any, key_hash: int, ts: float) -> int:
    if len(st.conns) - st.n[N_FREE] >= st.limits[L_CONNECTIONS]:
        st.counts[reasons.CONNECTION_EVICTED] += 1
        close(st, i64(st.heap[0]), st.clock[0])
    st.n[N_FREE] -= 1
    slot = i64(st.free[st.n[N_FREE]])
    c = st.conns[slot]
    proto = packet.proto
    c.hi0, c.lo0, c.hi1, c.lo1 = packet.src_hi, packet.src_lo, packet.dst_hi, packet.dst_lo
    c.p0, c.p1 = packet.src_p, packet.dst_p
    c.key_hash = key_hash
    c.serial = st.n[N_SERIAL]
    st.n[N_SERIAL] += 1
    c.start = ts
    c.last = ts
    c.missed = 0
    c.wanted0 = 0
    c.wanted1 = 0
    c.seen = 0
    c.kept_first = NONE
    c.kept_last = NONE
    c.vlan, c.inner_vlan = packet.vlan, packet.inner_vlan
    c.kept = 0
    c.proto = proto
    c.orig_side = 0
    c.one_way = packet.one_way
    c.is_active = 1
    c.is_partial = 0
    c.first_seen = 0
    c.close_deferred = 0
    c.deferred_event = 0
    c.tunneled = 1 if packet.depth else 0
    c.early = 0
    c.early_due = 1 if st.limits[L_EARLY] else 0
    c.violated = 0
    c.encap = packet.encap
    c.tunnel_changes = 0
    c.app = 0
    c.history_len = 0
    _clear_end(st.ends[2 * slot])
    _clear_end(st.ends[2 * slot + 1])
    now = st.clock[0]
    c.inactivity = _UDP_INACTIVITY
    c.t_inactive = ts + _UDP_INACTIVITY
    c.t_expire = now + SYN_TIMEOUT if proto == TCP else FOREVER
    c.t_expire2 = FOREVER
    c.t_attempt = FOREVER
    c.t_delete = FOREVER
    c.t_dns = FOREVER
    c.t_early = now + _EARLY_SECONDS if c.early_due else FOREVER
    if _starts_flipped(st, data, at, packet) and packet.dst_lo != _BROADCAST:
        flip(st, c)
    resp_p = c.p1 if c.orig_side == 0 else c.p0
    if proto == UDP and resp_p in (53, 137, 5353, 5355):
        c.t_dns = now + _DNS_TIMEOUT
    insert(st, slot)
    heap_push(st, slot, _next_timer(c))
    return slot


@helper
def _clear_end(e: Any) -> None:
    e.start_seq = e.last_seq = e.ack_seq = e.seq_wraps = e.ack_wraps = 0
    e.fin_seq = e.hist_syn = e.hist_fin = e.hist_rst = 0
    e.size = -1
    e.reassembled = e.trimmed = 1
    e.pkts = e.ip_bytes = 0
    e.fin_cnt = e.rxmt_cnt = e.win0_cnt = e.gap_cnt = 0
    e.rxmt_next = e.win0_next = e.gap_next = 1
    e.blocks = e.last_block = e.finger = NONE
    e.held = 0
    e.held_bytes = 0
    e.ttl = -1
    e.state = e.prev_state = INACTIVE
    e.did_close = e.did_eof = e.skip = 0


@helper
def _starts_flipped(st: Any, data: Any, at: int, packet: Any) -> bool:
    """Whether the first packet comes from the likely server (WantConnection in TCP.cc and UDP.cc)."""
    if packet.proto == UDP:
        return st.server_ports[65536 + packet.src_p] and not st.server_ports[65536 + packet.dst_p]
    if packet.proto != TCP:
        return False
    flags = i64(data[at + 13])
    if flags & SYN and not flags & ACK:
        return False
    if not st.server_ports[packet.src_p]:
        return False
    if st.server_ports[packet.dst_p]:
        return not flags & SYN and packet.src_p < packet.dst_p
    return True


@helper
def _tcp(
    st: Any,
    data: Any,
    extra_base: int,
    packet: Any,
    slot: int,
    side: int,
    ts: float,
    length: int,
    present: int,
) -> int:
    at = packet.begin
    header = (i64(data[at + 12]) >> 4) * 4
    if header < 20 or header > length or header > present:
        return reasons.BAD_TCP_HEADER
    length -= header
    present -= header
    seq, ack = be32(data, at + 4), be32(data, at + 8)
    flags = i64(data[at + 13])
    window = be16(data, at + 14)
    e = st.ends[2 * slot + side]
    retransmit, gap = 0, 0
    if e.state != INACTIVE and length:
        ahead = (seq - e.last_seq) & 0xFFFFFFFF
        retransmit = 1 if ahead >= 1 << 31 else 0
        gap = 1 if 0 < ahead < 1 << 31 else 0
    before = e.reassembled - 1
    offset = tcp_segment(st, slot, side, ts, seq, ack, flags, window, length, present)
    _keep(st, data, slot, side, packet, ts, at + header, length, present, flags, retransmit, gap)
    if length and offset != OUTSIDE:
        skip = 1 if offset < 0 else 0
        begin = at + header + skip
        length, present = length - skip, present - skip
        _hand_over(st, data, extra_base, slot, side, offset + skip, before, begin, length, present)
    _count_packet(st, slot, side, packet)
    _reschedule(st, slot)
    return -1


# What is kept and handed on.


@helper
def _keep(
    st: Any, data: Any, slot: int, side: int, packet: Any, ts: float, begin: int, length: int, present: int,
    flags: int, retransmit: int, gap: int,
) -> None:  # fmt: skip
    """Describes one of the connection's first packets."""
    c = st.conns[slot]
    if c.kept >= MAX_PACKETS:
        return
    st.n[N_FREE_KEPT] -= 1
    row = i64(st.free_kept[st.n[N_FREE_KEPT]])
    k = st.kept[row]
    if c.kept_last == NONE:
        c.kept_first = row
    else:
        st.kept[c.kept_last].next = row
    c.kept_last = row
    c.kept += 1
    k.next = NONE
    k.ts = ts
    k.side = side
    k.ip_length = packet.total_len if packet.total_len else packet.end - packet.ip_begin
    k.payload = max(length, 0)
    k.flags = flags
    k.retransmit = retransmit
    k.gap = gap
    if flags >= 0:
        k.window = be16(data, packet.begin + 14)
        k.options = _options(data, packet.begin + 20, begin)
    else:
        k.window = -1
        k.options = -1
    e = st.ends[2 * slot + side]
    if e.ttl < 0:
        e.ttl = packet.ttl
    k.ttl_delta = packet.ttl - e.ttl
    _describe(st, data, begin, min(length, present), k)


@helper
def _options(data: Any, begin: int, end: int) -> int:
    """16-bit FNV-1a over the kinds of the TCP options in their order; 0xCBF2 ^ ... of none is a constant."""
    h = np.uint32(0x811C9DC5)
    at = begin
    while at < end:
        kind = i64(data[at])
        h = np.uint32((h ^ np.uint32(kind)) * np.uint32(0x01000193))
        if kind == 0:
            break
        if kind == 1:
            at += 1
            continue
        if at + 1 >= end or data[at + 1] < 2:
            break
        at += i64(data[at + 1])
    return i64((h >> np.uint32(16)) ^ (h & np.uint32(0xFFFF)))


@helper
def _describe(st: Any, data: Any, begin: int, size: int, k: Any) -> None:
    """Entropy in bits per byte, and the share of printable ASCII."""
    if size <= 0:
        k.entropy = np.nan
        k.printable = np.nan
        return
    seen = st.histogram
    printable, total = i64(0), 0.0
    if size <= 128:  # fewer bytes than it takes to look through all values
        for i in range(begin, begin + size):
            seen[data[i]] += 1
        for i in range(begin, begin + size):
            b = i64(data[i])
            count = i64(seen[b])
            seen[b] = 0
            total += st.log2[count]
            printable += count if 32 <= b < 127 else 0
    else:
        i, end = begin, begin + size - 3
        while i < end:  # four tables, so that equal neighbours need not wait for each other
            seen[data[i]] += 1
            seen[256 + i64(data[i + 1])] += 1
            seen[512 + i64(data[i + 2])] += 1
            seen[768 + i64(data[i + 3])] += 1
            i += 4
        while i < begin + size:
            seen[data[i]] += 1
            i += 1
        for b in range(256):
            count = i64(seen[b]) + seen[256 + b] + seen[512 + b] + seen[768 + b]
            seen[b] = seen[256 + b] = seen[512 + b] = seen[768 + b] = 0
            total += st.log2[count] if count < len(st.log2) else count * np.log2(np.float64(count))
            printable += count if 32 <= b < 127 else 0
    k.entropy = max(np.log2(np.float64(size)) - total / size, 0.0)
    k.printable = printable / size


@helper
def _hand_over(
    st: Any, data: Any, extra_base: int, slot: int, side: int, offset: int, before: int, begin: int,
    length: int, present: int,
) -> None:  # fmt: skip
    """Appends a segment if its connection's content is still wanted."""
    c = st.conns[slot]
    wanted = c.wanted0 if side == 0 else c.wanted1
    size = max(min(length, present), 0)
    if not st.limits[L_CONTENT] or length <= 0 or max(offset, 0) + (length if offset >= 0 else 1) <= wanted:
        return
    s = st.segments[st.n[N_SEGMENTS]]
    st.n[N_SEGMENTS] += 1
    s.connection = c.serial
    s.slot = slot
    s.ts = st.clock[0]  # what Zeek logs: network time, also where the capture's clock jumps back
    s.offset = offset
    s.before = before
    s.captured = size
    s.length = length
    s.ip_proto = c.proto
    s.is_orig = side == c.orig_side
    s.partial = c.is_partial != 0
    s.orig_p = c.p0 if c.orig_side == 0 else c.p1
    s.resp_p = c.p1 if c.orig_side == 0 else c.p0
    if extra_base < 0:
        s.start = begin
    else:
        at = st.n[N_EXTRA]
        s.start = extra_base + at
        for i in range(size):
            st.extra[at + i] = data[begin + i]
        st.n[N_EXTRA] += size


# The end of a connection.


@helper
def close(st: Any, slot: int, now: float) -> None:
    """Writes the connection's final row and frees all that it held."""
    c = st.conns[slot]
    _emit(st, slot, now, 1)
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
def _emit_early(st: Any, slot: int, now: float) -> None:
    c = st.conns[slot]
    if not c.early:
        c.early = 1
        c.t_early = FOREVER
        _emit(st, slot, now, 0)


@helper
def _emit(st: Any, slot: int, now: float, stage: int) -> None:
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
        target.flags = source.flags
        target.window = source.window
        target.ttl_delta = source.ttl_delta
        target.entropy = source.entropy
        target.printable = source.printable
        target.retransmit = source.retransmit
        target.gap = source.gap
        target.options = source.options
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


@entry
def finish(st: Any, order: Any, first: int) -> int:
    """Ends the connections in the slots `order` from `first` on, until the rows are full; returns the next."""
    i = first
    while i < len(order) and len(st.rows) - st.n[N_ROWS] >= FRAME_ROWS:
        if len(st.row_packets) - st.n[N_ROW_PACKETS] < FRAME_ROWS * MAX_PACKETS:
            break
        close(st, i64(order[i]), st.clock[0])
        i += 1
    return i


@entry
def peek(st: Any, hosts: Any, ports: Any, protos: Any, first: int) -> int:
    """Writes a row, as it is now, for each of the given connections that is open; stops where the rows are full.

    `hosts` [n, 4] and `ports` [n, 2]: the halves of both addresses, and both ports, the originator's first. Returns
    the next connection to look for.
    """
    packet = st.packet[0]
    i = first
    while i < len(protos) and len(st.rows) - st.n[N_ROWS] >= FRAME_ROWS:
        if len(st.row_packets) - st.n[N_ROW_PACKETS] < FRAME_ROWS * MAX_PACKETS:
            break
        packet.src_hi, packet.src_lo = hosts[i, 0], hosts[i, 1]
        packet.dst_hi, packet.dst_lo = hosts[i, 2], hosts[i, 3]
        packet.src_p, packet.dst_p = ports[i, 0], ports[i, 1]
        packet.proto = protos[i]
        packet.one_way = 0
        key_hash = hash_key(
            st, packet.src_hi, packet.src_lo, packet.src_p, packet.dst_hi, packet.dst_lo, packet.dst_p,
            packet.proto,
        )  # fmt: skip
        slot = find(st, packet, key_hash)
        if slot == NONE and packet.proto in (ICMP, ICMP6):
            packet.one_way = 1
            slot = find(st, packet, key_hash)
        if slot != NONE:
            _emit(st, slot, st.clock[0], 0)
        i += 1
    return i


@entry
def want(st: Any, serials: Any, orig_from: Any, resp_from: Any) -> None:
    """Notes from which stream offsets on payload of connections among the segments is wanted, if they still live.

    `serials` are sorted.
    """
    for i in range(st.n[N_SEGMENTS]):
        serial = st.segments[i].connection
        low, high = i64(0), i64(len(serials))
        while low < high:
            middle = (low + high) // 2
            if serials[middle] < serial:
                low = middle + 1
            else:
                high = middle
        if low == len(serials) or serials[low] != serial:
            continue
        c = st.conns[st.segments[i].slot]
        if c.serial == serial:
            if c.orig_side == 0:
                c.wanted0, c.wanted1 = orig_from[low], resp_from[low]
            else:
                c.wanted0, c.wanted1 = resp_from[low], orig_from[low]


@entry
def rehash(st: Any, slots: Any) -> None:
    """Enters the slots in use into an empty table."""
    for i in range(len(slots)):
        insert(st, i64(slots[i]))
