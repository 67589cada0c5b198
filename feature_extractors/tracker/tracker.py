"""Connections as Zeek tracks them: one JIT-compiled loop from frames to ended connections and payload segments.

Mirrors src/packet_analysis/protocol/ip/IPBasedAnalyzer.cc, the UDP, ICMP and unknown transports beside it, and
src/session/. Timers fire in network time before the packet that reaches them, so that results do not depend on how
a capture is cut into blocks.
"""

from __future__ import annotations

from typing import Any, Final

from feature_extractors.compiled import borrowed, entry, helper, i64
from feature_extractors.observations import MAX_PACKETS
from feature_extractors.tracker import (
    decode,
    reasons,
)
from feature_extractors.tracker.begin import icmp_ports, is_reuse, new_connection
from feature_extractors.tracker.decode import GRE, ICMP, ICMP6, IP_IN_IP, IPV6_IN_IP, MAX_TUNNELS, TCP, UDP
from feature_extractors.tracker.link import WLAN_SUBFRAMES, be16, be32, link_layer
from feature_extractors.tracker.rows import (
    FRAME_CONNECTIONS,
    FRAME_EXTRA,
    FRAME_ROWS,
    MAX_SUBFRAMES,
    close,
    emit_early,
)
from feature_extractors.tracker.state import (
    L_CONTENT,
    N_DECODED,
    N_EXTRA,
    N_FREE,
    N_FREE_BLOCKS,
    N_FREE_KEPT,
    N_ROW_PACKETS,
    N_ROWS,
    N_SEGMENTS,
    N_UNKNOWN_LINK,
    NONE,
)
from feature_extractors.tracker.table import find, hash_key, insert
from feature_extractors.tracker.tcp import (
    OUTSIDE,
    check_history,
    flip,
    tcp_segment,
)
from feature_extractors.tracker.timers import expire, reschedule

_UNKNOWN_X: Final = 0x400
_MAX_TUNNEL_CHANGES: Final = 5


@entry
def process(
    st: Any, data: Any, starts: Any, captured: Any, lengths: Any, times: Any, links: Any, first: int
) -> int:
    """The next frame to track, after those from `first` on until the block ends or an array in `st` is full.

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
    while True:
        reason = link_layer(data, packet.ip_begin, packet.ip_end, packet.link, packet)
        if whole:
            packet.rest_end = 0  # lies in memory that the next datagram takes
        if reason == 0:
            reason = decode.decode_ip(st, data, packet)
        if reason > 0:
            if reason == reasons.UNKNOWN_LINK:
                st.n[N_UNKNOWN_LINK] += 1
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
        icmp_ports(data, at, packet)
    else:
        packet.src_p = 0
        packet.dst_p = 0
    key_hash = hash_key(
        st, packet.src_hi, packet.src_lo, packet.src_p, packet.dst_hi, packet.dst_lo, packet.dst_p, proto
    )
    slot = find(st, packet, key_hash)
    if slot != NONE and proto == TCP and is_reuse(st, slot, data, at):
        close(st, slot, st.clock[0])
        slot = NONE
    if slot == NONE:
        slot = new_connection(st, data, at, packet, key_hash, ts)
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
        _keep(st, slot, side, packet, ts, length - 8)
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
        _keep(st, slot, side, packet, ts, length - 8)
        if present >= length:
            _count_packet(st, slot, side, packet)
        return -1
    _keep(st, slot, side, packet, ts, length)
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
        emit_early(st, slot, st.clock[0])


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
    before = st.ends[2 * slot + side].reassembled - 1
    offset = tcp_segment(st, slot, side, ts, seq, ack, flags, window, length, present)
    _keep(st, slot, side, packet, ts, length)
    if length and offset != OUTSIDE:
        skip = 1 if offset < 0 else 0
        begin = at + header + skip
        length, present = length - skip, present - skip
        _hand_over(st, data, extra_base, slot, side, offset + skip, before, begin, length, present)
    _count_packet(st, slot, side, packet)
    reschedule(st, slot)
    return -1


@helper
def _keep(st: Any, slot: int, side: int, packet: Any, ts: float, length: int) -> None:
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


@entry
def finish(st: Any, order: Any, first: int) -> int:
    """The next index into `order`, after the connections in its slots from `first` on have ended or rows are full."""
    i = first
    while i < len(order) and len(st.rows) - st.n[N_ROWS] >= FRAME_ROWS:
        if len(st.row_packets) - st.n[N_ROW_PACKETS] < FRAME_ROWS * MAX_PACKETS:
            break
        close(st, i64(order[i]), st.clock[0])
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
