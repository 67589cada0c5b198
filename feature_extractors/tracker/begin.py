"""How a connection begins: its slot, its ports, and which end is the originator."""

from __future__ import annotations

from typing import Any, Final

from feature_extractors.compiled import helper, i64
from feature_extractors.tracker import (
    reasons,
)
from feature_extractors.tracker.decode import ICMP, TCP, UDP
from feature_extractors.tracker.link import be32
from feature_extractors.tracker.rows import close
from feature_extractors.tracker.state import (
    FOREVER,
    L_CONNECTIONS,
    L_EARLY,
    N_FREE,
    N_SERIAL,
    NONE,
)
from feature_extractors.tracker.table import heap_push, insert
from feature_extractors.tracker.tcp import (
    ACK,
    INACTIVE,
    SYN,
    SYN_ACK_SENT,
    SYN_TIMEOUT,
    flip,
)
from feature_extractors.tracker.timers import DNS_TIMEOUT, EARLY_SECONDS, UDP_INACTIVITY, next_timer

_BROADCAST: Final = (0xFFFF << 32) | 0xFFFFFFFF


@helper
def icmp_ports(data: Any, at: int, packet: Any) -> None:
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
def is_reuse(st: Any, slot: int, data: Any, at: int) -> bool:
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
def new_connection(st: Any, data: Any, at: int, packet: Any, key_hash: int, ts: float) -> int:
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
    c.inactivity = UDP_INACTIVITY
    c.t_inactive = ts + UDP_INACTIVITY
    c.t_expire = now + SYN_TIMEOUT if proto == TCP else FOREVER
    c.t_expire2 = FOREVER
    c.t_attempt = FOREVER
    c.t_delete = FOREVER
    c.t_dns = FOREVER
    c.t_early = now + EARLY_SECONDS if c.early_due else FOREVER
    if _starts_flipped(st, data, at, packet) and packet.dst_lo != _BROADCAST:
        flip(st, c)
    resp_p = c.p1 if c.orig_side == 0 else c.p0
    if proto == UDP and resp_p in (53, 137, 5353, 5355):
        c.t_dns = now + DNS_TIMEOUT
    insert(st, slot)
    heap_push(st, slot, next_timer(c))
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
