"""From an IP header to its transport payload: IPv4, IPv6 and its extension headers, fragments, tunnels.

Mirrors Zeek's src/packet_analysis/protocol/ip/IP.cc and src/IP.cc: what Zeek drops is dropped, under a reason.
"""

from __future__ import annotations

from typing import Any, Final

from feature_extractors.compiled import helper, i64
from feature_extractors.tracker import reasons
from feature_extractors.tracker.fragments import add_fragment
from feature_extractors.tracker.link import ETHERNET, RAW, WLAN, be16, be32

TCP, UDP, ICMP, ICMP6, GRE, IP_IN_IP, IPV6_IN_IP = 6, 17, 1, 58, 47, 4, 41
_HOP_OPTIONS, _ROUTING, _FRAGMENT, _ESP, _AUTH, _NO_NEXT, _DEST_OPTIONS, _MOBILITY = (
    0,
    43,
    44,
    50,
    51,
    59,
    60,
    135,
)

MAX_TUNNELS: Final = 4  # Zeek's Tunnel::max_depth
IPV4_MAPPED: Final = 0xFFFF << 32  # low half of ::ffff:0.0.0.0


@helper
def decode_ip(st: Any, data: Any, packet: Any) -> int:
    """Reads the IP packet at `packet.ip_begin`; sets addresses, `proto`, `begin`, `end` and the lengths.

    Returns a reason, 0 if a transport header may follow at `begin`, -1 the same but in `st.whole` rather than in
    `data` (a datagram that was fragmented). An IPv4 length of 0 means all that was captured.
    """
    at, end = packet.ip_begin, packet.ip_end
    captured = end - at
    if captured < 20:
        return reasons.TRUNCATED_IP
    version = i64(data[at]) >> 4
    if version == 4:
        return _ipv4(st, data, packet, at, captured)
    if version == 6:
        if captured < 40:
            return reasons.TRUNCATED_IP
        return _ipv6(st, data, packet, at, captured)
    return reasons.UNKNOWN_IP_VERSION


@helper
def _ipv4(st: Any, data: Any, packet: Any, at: int, captured: int) -> int:
    total = be16(data, at + 2)
    packet.total_len = total
    if total == 0:  # segmentation offloading
        total = packet.cap_end - at
    if packet.wire_end < at + total:
        return reasons.TRUNCATED_IP_LENGTH
    header = (i64(data[at]) & 0x0F) * 4
    if header > total or header > captured or header < 20:
        return reasons.BAD_IP_HEADER
    packet.proto = i64(data[at + 9])
    packet.src_hi = 0
    packet.dst_hi = 0
    packet.src_lo = IPV4_MAPPED | be32(data, at + 12)
    packet.dst_lo = IPV4_MAPPED | be32(data, at + 16)
    flags = be16(data, at + 6)
    if flags & 0x3FFF:
        offset = (flags & 0x1FFF) * 8
        if captured < total:
            if offset != 0:
                return reasons.FRAGMENT_INCOMPLETE
        else:
            more = flags & 0x2000 != 0
            reason = add_fragment(
                st, data, packet, be16(data, at + 4), offset, more, header, header, packet.proto
            )
            return reason if reason else _whole(packet, packet.end & 0xFFFF)
    packet.begin = at + header
    packet.end = at + captured
    packet.payload_len = packet.total_len - header if packet.total_len else 0
    if packet.payload_len:
        packet.end = min(packet.end, packet.begin + packet.payload_len)
    return reasons.OK


@helper
def _whole(packet: Any, total: int) -> int:
    """Points the packet at the reassembled datagram in `State.whole`; `total` is what its length field can say."""
    if packet.begin > total:
        return reasons.BAD_IP_HEADER
    packet.total_len = total
    packet.payload_len = total - packet.begin
    packet.end = total
    packet.ip_begin = 0
    packet.ip_end = total
    packet.wire_end = total
    packet.cap_end = total
    return -1


@helper
def _ipv6(st: Any, data: Any, packet: Any, at: int, captured: int) -> int:
    total = be16(data, at + 4) + 40
    packet.total_len = total
    if packet.wire_end < at + total:
        return reasons.TRUNCATED_IP_LENGTH
    packet.src_hi = (be32(data, at + 8) << 32) | be32(data, at + 12)
    packet.src_lo = (be32(data, at + 16) << 32) | be32(data, at + 20)
    packet.dst_hi = (be32(data, at + 24) << 32) | be32(data, at + 28)
    packet.dst_lo = (be32(data, at + 32) << 32) | be32(data, at + 36)
    begin, last = _extensions(data, packet, at, at + 40, at + captured, i64(data[at + 6]))
    header = begin - at
    if header > total or header > captured:
        return reasons.BAD_IP_HEADER
    if last == _FRAGMENT:
        word = be16(data, begin - 6)
        if captured < total:
            if word & 0xFFF8:
                return reasons.FRAGMENT_INCOMPLETE
        else:
            more = word & 1 != 0
            ident = be32(data, begin - 4)
            offset = word & 0xFFF8
            reason = add_fragment(st, data, packet, ident, offset, more, header, header - 8, packet.proto)
            if reason:
                return reason
            begin, last = _extensions(
                st.whole_readonly, packet, 0, packet.begin, packet.end, i64(packet.proto)
            )
            packet.begin = begin
            return _upper(packet, last, _whole(packet, ((packet.end - 40) & 0xFFFF) + 40))
    packet.begin = begin
    packet.end = at + captured
    packet.payload_len = total - header
    if packet.payload_len:
        packet.end = min(packet.end, packet.begin + packet.payload_len)
    return _upper(packet, last, reasons.OK)


@helper
def _upper(packet: Any, last: int, answer: int) -> int:
    if last == _ESP:
        return reasons.ESP
    if last == _MOBILITY:
        return reasons.MOBILITY
    return reasons.NO_NEXT_HEADER if packet.proto == _NO_NEXT else answer


@helper
def _extensions(data: Any, packet: Any, ip: int, begin: int, end: int, first: int) -> tuple[int, int]:
    """Walks IPv6 extension headers from `begin`; returns where they end and the type of the last, -1 if none.

    Sets `proto` to the last header's next header; a routing header with segments left replaces the destination, a
    home address option the source, as Zeek has it.
    """
    at, kind, last = begin, first, -1
    routed = False
    home = False
    while kind in (_HOP_OPTIONS, _ROUTING, _DEST_OPTIONS, _FRAGMENT, _AUTH, _ESP, _MOBILITY):
        if end - at < 2:
            break
        if kind == _FRAGMENT:
            size = 8
        elif kind == _AUTH:
            size = (i64(data[at + 1]) + 2) * 4
        elif kind == _ESP:
            size = 8
        else:
            size = (i64(data[at + 1]) + 1) * 8
        if size > end - at:
            break
        following = _NO_NEXT if kind == _ESP else i64(data[at])
        if kind == _ROUTING and not routed and size >= 24 and data[at + 3] > 0:
            words = i64(data[at + 1])
            style = data[at + 2]
            if (style == 0 and words >= 2 and words % 2 == 0) or (style == 2 and words == 2):
                routed = True
                tail = at + size - 16
                packet.dst_hi = (be32(data, tail) << 32) | be32(data, tail + 4)
                packet.dst_lo = (be32(data, tail + 8) << 32) | be32(data, tail + 12)
        if kind == _DEST_OPTIONS and not home:
            home = _home_address(data, packet, at + 2, at + size)
        last = kind
        at += size
        kind = following
        if last in (_FRAGMENT, _ESP, _MOBILITY):
            break
    packet.proto = kind
    return at, last


@helper
def _home_address(data: Any, packet: Any, begin: int, end: int) -> bool:
    at = begin
    while at < end:
        if data[at] == 0:
            at += 1
            continue
        if end - at < 2 or end - at < 2 + i64(data[at + 1]):
            return False
        size = i64(data[at + 1])
        if data[at] == 201 and size == 16:
            packet.src_hi = (be32(data, at + 2) << 32) | be32(data, at + 6)
            packet.src_lo = (be32(data, at + 10) << 32) | be32(data, at + 14)
            return True
        at += 2 + size
    return False


# Tunnels. Each function looks at the payload [begin, end) and, where a packet lies inside, points
# `packet.ip_begin`, `ip_end`, `wire_end`, `cap_end` and `link` at it and returns 0; else a reason.


@helper
def ip_in_ip(data: Any, packet: Any, begin: int, end: int, version: int) -> int:
    """IP in IP, 6in4 and the like: the inner length must fill the outer payload (Zeek's IPTunnel)."""
    size = end - begin
    if size < (40 if version == 6 else 20) or i64(data[begin]) >> 4 != version:
        return reasons.BAD_TUNNEL
    inner = be16(data, begin + 4) + 40 if version == 6 else be16(data, begin + 2)
    if inner != size:
        return reasons.BAD_TUNNEL
    return _inner(packet, begin, end, 0, RAW)


@helper
def _inner(packet: Any, begin: int, end: int, missing: int, link: int) -> int:
    """`missing`: bytes of the frame that were not captured."""
    packet.ip_begin = begin
    packet.ip_end = end
    packet.cap_end = end
    packet.wire_end = end + missing
    packet.link = link
    return reasons.OK


@helper
def gre(data: Any, packet: Any, begin: int, end: int) -> int:
    """GRE versions 0 and 1 (PPTP), with Ethernet, ERSPAN I-III or Aruba's 802.11 inside (Zeek's GRE.cc)."""
    size = end - begin
    if size < 4:
        return reasons.BAD_TUNNEL
    flags = be16(data, begin)
    kind = be16(data, begin + 2)
    version = flags & 7
    header = 4
    for bit in (0x8000, 0x2000, 0x1000, 0x0080):
        if flags & bit:
            header += 4
    if version > 1 or flags & 0x4078:
        return reasons.BAD_TUNNEL
    if version == 1:
        if kind != 0x880B or size < header + 4:
            return reasons.BAD_TUNNEL
        inner = be16(data, begin + header + 2)
        if inner not in (0x0021, 0x0057):
            return reasons.BAD_TUNNEL
        return ip_in_ip(data, packet, begin + header + 4, end, 4 if inner == 0x0021 else 6)
    span = 0
    link = RAW
    ether = 0
    if kind in (0x6558, 0x88BE):
        ether = 14
        if size <= header + ether:
            return reasons.BAD_TUNNEL
        link = ETHERNET
        if kind == 0x88BE and flags & 0x1000:
            span = 8
    elif kind == 0x22EB:
        ether, span = 14, 12
        if size <= header + ether + span:
            return reasons.BAD_TUNNEL
        link = ETHERNET
        if data[begin + header + span - 1] & 1:
            if size <= header + ether + span + 8:
                return reasons.BAD_TUNNEL
            span = 20
    elif kind == 0x9000 or (
        kind & 0x8200 == 0x8200 and kind & 0x0F == 0 and (kind & 0x0100 == 0 or kind <= 0x8370)
    ):
        if size <= header:
            return reasons.BAD_TUNNEL
        link = WLAN
    if size < header + ether + span:
        return reasons.BAD_TUNNEL
    return _inner(packet, begin + header + span, end, 0, link)


@helper
def udp_tunnel(data: Any, packet: Any, begin: int, end: int, resp_p: int) -> int:
    """What Zeek looks for inside UDP, by the responder's port; -1 where there is no tunnel to look for."""
    missing = packet.wire_end - packet.cap_end
    size = end - begin
    if resp_p == 4789:
        if size < 8 or not data[begin] & 0x08:
            return reasons.BAD_TUNNEL
        if size == 8:
            return reasons.TUNNEL_WITHOUT_IP
        return _inner(packet, begin + 8, end, missing, ETHERNET)
    if resp_p == 6081:
        return _geneve(data, packet, begin, end, missing)
    if resp_p in (2152, 2123):
        return _gtp(data, packet, begin, end, missing)
    if resp_p == 4754:
        return gre(data, packet, begin, end)
    if resp_p == 3544 or _looks_teredo(data, begin, end):
        return _teredo(data, packet, begin, end, missing)
    if resp_p == 5072 or (size >= 3 and data[begin + 1] == 0x52 and data[begin + 2] == 0x11):
        return _ayiya(data, packet, begin, end, missing)
    return -1


@helper
def _geneve(data: Any, packet: Any, begin: int, end: int, missing: int) -> int:
    if end - begin < 8:
        return reasons.BAD_TUNNEL
    if i64(data[begin]) >> 6 != 0:
        return reasons.TUNNEL_WITHOUT_IP
    at = begin + 8 + (i64(data[begin]) & 0x3F) * 4
    if at > end:
        return reasons.BAD_TUNNEL
    if at == end:
        return reasons.TUNNEL_WITHOUT_IP
    kind = be16(data, begin + 2)
    if kind == 0x6558:
        return _inner(packet, at, end, missing, ETHERNET)
    if kind in (0x0800, 0x86DD):
        return _inner(packet, at, end, missing, RAW)
    return reasons.TUNNEL_WITHOUT_IP


@helper
def _gtp(data: Any, packet: Any, begin: int, end: int, missing: int) -> int:
    """GTPv1 user data; control messages are not tunnels and count as none."""
    if end - begin < 8:
        return reasons.BAD_TUNNEL
    flags = i64(data[begin])
    if flags >> 5 != 1:
        return reasons.BAD_TUNNEL
    if not flags & 0x10 or data[begin + 1] != 255:
        return -1
    at = begin + 8
    if flags & 7:
        if end - at < 4:
            return reasons.BAD_TUNNEL
        following = data[at + 3]
        at += 4
        if flags & 4:
            while following != 0 or at == begin + 12:
                if end - at < 1:
                    return reasons.BAD_TUNNEL
                size = i64(data[at]) * 4
                if size < 4 or size > end - at:
                    return reasons.BAD_TUNNEL
                following = data[at + size - 1]
                at += size
    if at >= end:
        return reasons.BAD_TUNNEL
    version = i64(data[at]) >> 4
    if version not in (4, 6):
        return reasons.BAD_TUNNEL
    reason = ip_in_ip(data, packet, at, end, version)
    if reason == 0:
        packet.wire_end += missing
    return reason


@helper
def _teredo(data: Any, packet: Any, begin: int, end: int, missing: int) -> int:
    at = begin
    found_origin = False
    found_auth = False
    while True:
        if end - at < 2:
            return reasons.BAD_TUNNEL
        tag = be16(data, at)
        if tag == 0:
            if found_origin or end - at < 8:
                return reasons.BAD_TUNNEL
            found_origin = True
            at += 8
        elif tag == 1:
            if found_origin or found_auth or end - at < 4:
                return reasons.BAD_TUNNEL
            size = 13 + i64(data[at + 2]) + i64(data[at + 3])
            if end - at < size:
                return reasons.BAD_TUNNEL
            found_auth = True
            at += size
        else:
            break
    if tag >> 12 != 6 or end - at < 40:
        return reasons.BAD_TUNNEL
    inner = be16(data, at + 4) + 40
    if inner > end - at or (inner < end - at and not (inner == 40 and data[at + 6] == _NO_NEXT)):
        return reasons.BAD_TUNNEL
    return _inner(packet, at, end, missing, RAW)


@helper
def _looks_teredo(data: Any, begin: int, end: int) -> bool:
    """Zeek's test for Teredo on other ports: an IPv6 header with 2001::/32 on one side, or Teredo's own headers."""
    size = end - begin
    if size < 40:
        return False
    first, second = i64(data[begin]), i64(data[begin + 1])
    if first >> 4 != 6 and (first != 0 or second > 1):
        return False
    if first >> 4 == 6 and (be32(data, begin + 8) == 0x20010000 or be32(data, begin + 24) == 0x20010000):
        return True
    at = begin
    kind = second
    if kind == 1:
        skip = 13 + i64(data[begin + 2]) + i64(data[begin + 3])
        if size < skip + 40:
            return False
        at += skip
        kind = be16(data, at)
    if kind == 0:
        return end - at >= 48 and i64(data[at + 8]) >> 4 == 6
    return False


@helper
def _ayiya(data: Any, packet: Any, begin: int, end: int, missing: int) -> int:
    if end - begin < 8:
        return reasons.BAD_TUNNEL
    at = begin + 8 + (1 << (i64(data[begin]) >> 4)) + (i64(data[begin + 1]) >> 4) * 4
    if at > end:
        return reasons.BAD_TUNNEL
    if data[begin + 2] & 0x0F != 1:
        return -1
    if at == end or data[begin + 3] not in (IP_IN_IP, IPV6_IN_IP):
        return reasons.TUNNEL_WITHOUT_IP
    return _inner(packet, at, end, missing, RAW)
