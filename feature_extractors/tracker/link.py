"""From a frame to the IP packet in it: link layers as Zeek's packet analyzers walk them (src/packet_analysis).

What Zeek passes over and tshark reads is read as well: PPP whose protocol field is one byte (RFC 1661, 6.5) or whose
address and control are left out (6.6), Cisco's HDLC, PPI, PKTAP, AVS, and 802.11 frames with HT control.
"""

from __future__ import annotations

from typing import Any, Final

from feature_extractors.compiled import helper, i64
from feature_extractors.tracker import reasons

# Link types that are read (https://www.tcpdump.org/linktypes.html).
NULL, ETHERNET, PPP, FDDI, RAW_OPENBSD, RAW, PPP_SERIAL, RAW_IP, WLAN, LOOP, LINUX_SLL, PRISM, WLAN_RADIO = (
    0, 1, 9, 10, 14, 12, 50, 101, 105, 108, 113, 119, 127,
)  # fmt: skip
IPV4, IPV6, NFLOG, LINUX_SLL2 = 228, 229, 239, 276
CISCO_HDLC, WLAN_AVS, PPI, PKTAP = 104, 163, 192, 258
WLAN_SUBFRAMES: Final = -1  # ours: what is left of an 802.11 aggregate
KNOWN_LINKS: Final = frozenset(
    (NULL, ETHERNET, PPP, FDDI, RAW_OPENBSD, RAW, PPP_SERIAL, RAW_IP, WLAN, LOOP, LINUX_SLL, PRISM, WLAN_RADIO,
     IPV4, IPV6, NFLOG, LINUX_SLL2, CISCO_HDLC, WLAN_AVS, PPI, PKTAP)
)  # fmt: skip
_KNOWN: Final = tuple(sorted(KNOWN_LINKS))

_MAX_LAYERS: Final = 32  # tags and labels in a row before we stop believing


@helper
def be16(data: Any, at: int) -> int:
    """Two bytes in network order. The caller has checked that they are there."""
    return (i64(data[at]) << 8) | i64(data[at + 1])


@helper
def be32(data: Any, at: int) -> int:
    """Four bytes in network order."""
    return (be16(data, at) << 16) | be16(data, at + 2)


@helper
def _le32(data: Any, at: int) -> int:
    return i64(data[at]) | (i64(data[at + 1]) << 8) | (i64(data[at + 2]) << 16) | (i64(data[at + 3]) << 24)


@helper
def link_layer(data: Any, begin: int, end: int, link: int, packet: Any) -> int:
    """Walks from `begin` to the IP header; sets `ip_begin`, `ip_end` and the VLAN tags. Returns a reason, 0 if IP.

    `end` is the end of the captured bytes. A framing that is not known is none: nothing in it is guessed at.
    """
    at = begin
    if link == ETHERNET:
        return _ethernet(data, at, end, packet)
    if link in (PPI, PKTAP):  # a header that names its length and the link layer that follows it
        if end - at < (8 if link == PPI else 12):
            return reasons.TRUNCATED_LINK
        size = be16(data, at + 2) if link == PPI else _le32(data, at)
        if link == PPI:
            size = (size >> 8) | ((size & 0xFF) << 8)
        link = _le32(data, at + (4 if link == PPI else 8))
        if size < 8 or size >= end - at:
            return reasons.TRUNCATED_LINK
        at += size
        if link in (PPI, PKTAP):
            return reasons.UNKNOWN_LINK
    if link not in _KNOWN and link != WLAN_SUBFRAMES:
        return reasons.UNKNOWN_LINK
    if link == ETHERNET:
        return _ethernet(data, at, end, packet)
    if link == LINUX_SLL:
        if end - at <= 16:
            return reasons.TRUNCATED_LINK
        return _cooked(data, at + 16, end, be16(data, at + 14), packet)
    if link == LINUX_SLL2:
        if end - at <= 20:
            return reasons.TRUNCATED_LINK
        return _cooked(data, at + 20, end, be16(data, at), packet)
    if link in (NULL, LOOP):
        if end - at <= 4:
            return reasons.TRUNCATED_LINK
        family = be32(data, at)
        if family > 0xFFFF:  # the capturing host's byte order
            family = ((family >> 24) & 0xFF) | ((family >> 8) & 0xFF00)
        if family in (2, 10, 24, 28, 30):
            return _ip(at + 4, end, packet)
        return reasons.UNKNOWN_ETHERTYPE
    if link in (PPP, PPP_SERIAL):
        return _ppp(data, at, end, packet)
    if link == CISCO_HDLC:
        if end - at <= 4:
            return reasons.TRUNCATED_LINK
        return _by_ethertype(data, at + 4, end, be16(data, at + 2), packet)
    if link == FDDI:
        if end - at <= 21:
            return reasons.TRUNCATED_LINK
        return _ip(at + 21, end, packet)
    if link == WLAN:
        return _wlan(data, at, end, packet)
    if link == WLAN_RADIO:
        if end - at <= 3:
            return reasons.TRUNCATED_LINK
        header = i64(data[at + 2]) | (i64(data[at + 3]) << 8)
        if header >= end - at:
            return reasons.TRUNCATED_LINK
        return _wlan(data, at + header, end, packet)
    if link == PRISM:
        if end - at <= 144:
            return reasons.TRUNCATED_LINK
        return _wlan(data, at + 144, end, packet)
    if link == WLAN_AVS:
        if end - at <= 8:
            return reasons.TRUNCATED_LINK
        header = be32(data, at + 4)
        if header < 8 or header >= end - at:
            return reasons.TRUNCATED_LINK
        return _wlan(data, at + header, end, packet)
    if link == WLAN_SUBFRAMES:
        return _subframe(data, at, end, packet)
    if link == NFLOG:
        return _nflog(data, at, end, packet)
    return _ip(at, end, packet)


@helper
def _ip(at: int, end: int, packet: Any) -> int:
    packet.ip_begin = at
    packet.ip_end = end
    return reasons.OK


@helper
def _ethernet(data: Any, begin: int, end: int, packet: Any) -> int:
    at = begin
    if end - at <= 16:
        return reasons.TRUNCATED_LINK
    if data[at + 12] == 0x89 and data[at + 13] == 0x03:  # Cisco FabricPath
        if end - at <= 30:
            return reasons.TRUNCATED_LINK
        at += 16
    return _by_ethertype(data, at + 14, end, be16(data, at + 12), packet)


@helper
def _by_ethertype(data: Any, begin: int, end: int, ethertype: int, packet: Any) -> int:
    """What follows an Ethernet header whose type field said `ethertype`; tags are taken off one by one."""
    at, kind = begin, ethertype
    for _ in range(_MAX_LAYERS):
        if kind in (0x0800, 0x86DD):
            return _ip(at, end, packet)
        if kind in (0x8100, 0x88A8, 0x9100):
            if end - at <= 4:
                return reasons.TRUNCATED_LINK
            tag = be16(data, at) & 0xFFF
            if packet.vlan < 0:
                packet.vlan = tag
            else:
                packet.inner_vlan = tag
            kind = be16(data, at + 2)
            at += 4
        elif kind <= 1500:
            return _ieee_802_3(data, at, min(end, at + kind), packet)
        elif kind in (0x0806, 0x8035):
            return reasons.NO_IP_ARP
        elif kind == 0x8847:
            return _mpls(data, at, end, packet)
        elif kind == 0x8864:
            return _pppoe(data, at, end, packet)
        elif kind == 0x8926:  # Cisco VN-Tag
            if end - at <= 6:
                return reasons.TRUNCATED_LINK
            kind = be16(data, at + 4)
            at += 6
            if kind not in (0x8100, 0x88A8, 0x9100):
                return reasons.UNKNOWN_ETHERTYPE
        elif kind == 0x88E7:  # provider backbone bridge: an Ethernet header follows 4 bytes on
            if end - at <= 20:
                return reasons.TRUNCATED_LINK
            kind = be16(data, at + 16)
            at += 18
        else:
            return reasons.UNKNOWN_ETHERTYPE
    return reasons.UNKNOWN_ETHERTYPE


@helper
def _ieee_802_3(data: Any, at: int, end: int, packet: Any) -> int:
    """802.3 with a length: SNAP may carry IP, LLC and raw IPX do not."""
    if end - at < 2:
        return reasons.TRUNCATED_LINK
    if data[at] != 0xAA or data[at + 1] != 0xAA:
        return reasons.NO_IP_LLC
    if end - at < 3:
        return reasons.TRUNCATED_LINK
    header = 3 if data[at + 2] & 0x03 == 0x03 else 4
    if end - at < header + 5:
        return reasons.TRUNCATED_LINK
    at += header
    kind = be16(data, at + 3)
    if be16(data, at) == 0 and data[at + 2] == 0 and kind in (0x0800, 0x86DD):
        return _ip(at + 5, end, packet)
    return reasons.NO_IP_LLC


@helper
def _mpls(data: Any, at: int, end: int, packet: Any) -> int:
    while True:
        if end - at <= 4:
            return reasons.TRUNCATED_LINK
        bottom = data[at + 2] & 1
        at += 4
        if bottom:
            return _ip(at, end, packet)


@helper
def _pppoe(data: Any, at: int, end: int, packet: Any) -> int:
    if end - at <= 8:
        return reasons.TRUNCATED_LINK
    return _ppp_protocol(data, at + 6, min(end, at + 6 + be16(data, at + 4)), packet)


@helper
def _ppp(data: Any, at: int, end: int, packet: Any) -> int:
    """PPP with or without address and control (RFC 1662), or Cisco's HDLC, which PPP in HDLC may turn out to be."""
    if end - at <= 4:
        return reasons.TRUNCATED_LINK
    if data[at] in (0x0F, 0x8F) and data[at + 1] == 0:
        return _by_ethertype(data, at + 4, end, be16(data, at + 2), packet)
    if data[at] == 0xFF and data[at + 1] == 0x03:
        at += 2
    return _ppp_protocol(data, at, end, packet)


@helper
def _ppp_protocol(data: Any, at: int, end: int, packet: Any) -> int:
    """What follows PPP's protocol field, which is one byte where that is odd and two otherwise."""
    if end - at <= 2:
        return reasons.TRUNCATED_LINK
    size = 2 - (data[at] & 1)
    kind = i64(data[at]) if size == 1 else be16(data, at)
    if kind in (0x0021, 0x0057):
        return _ip(at + size, end, packet)
    if kind == 0x0281:
        return _mpls(data, at + size, end, packet)
    return reasons.UNKNOWN_ETHERTYPE


@helper
def _cooked(data: Any, at: int, end: int, kind: int, packet: Any) -> int:
    """Linux cooked capture: Zeek looks for IP and ARP only; a VLAN tag is taken off here as well."""
    if kind in (0x0800, 0x86DD):
        return _ip(at, end, packet)
    if kind in (0x8100, 0x88A8):
        return _by_ethertype(data, at, end, kind, packet)
    return reasons.NO_IP_ARP if kind in (0x0806, 0x8035) else reasons.UNKNOWN_ETHERTYPE


@helper
def _wlan(data: Any, begin: int, end: int, packet: Any) -> int:
    """IEEE 802.11 data frames, aggregates of them included."""
    at = begin
    header = 24
    if end - at <= header:
        return reasons.TRUNCATED_LINK
    control = i64(data[at])
    if not (control >> 2) & 0x02 or (control >> 4) & 0x04:
        return reasons.WLAN_NO_DATA
    if data[at + 1] & 0x03 == 0x03:
        header += 6
    if end - at <= header:
        return reasons.TRUNCATED_LINK
    aggregated = False
    if (control >> 4) & 0x08:
        aggregated = data[at + header] & 0x80 != 0
        if data[at + 1] & 0x40:
            return reasons.WLAN_ENCRYPTED
        header += 6 if data[at + 1] & 0x80 else 2  # HT control comes after QoS control
    if end - at <= header:
        return reasons.TRUNCATED_LINK
    at += header
    return _subframe(data, at, end, packet) if aggregated else _llc(data, at, end, packet)


@helper
def _subframe(data: Any, at: int, end: int, packet: Any) -> int:
    """One frame of an aggregate; what follows it is noted as the rest."""
    if end - at < 14:
        return reasons.TRUNCATED_LINK
    size = be16(data, at + 12)
    if end - at < size + 14:
        return reasons.TRUNCATED_LINK
    following = at + 14 + size
    if end - following >= size % 4:  # Zeek's padding
        following += size % 4
    if following < end:
        packet.rest_begin = following
        packet.rest_end = end
        packet.rest_depth = packet.depth
        packet.rest_encap = packet.encap
    return _llc(data, at + 14, at + 14 + size, packet)


@helper
def _llc(data: Any, at: int, end: int, packet: Any) -> int:
    if end - at < 8:
        return reasons.TRUNCATED_LINK
    if (
        data[at] != 0xAA
        or data[at + 1] != 0xAA
        or data[at + 2] != 0x03
        or be16(data, at + 3) != 0
        or data[at + 5]
    ):
        return reasons.NO_IP_LLC
    kind = be16(data, at + 6)
    if kind in (0x0800, 0x86DD):
        return _ip(at + 8, end, packet)
    return reasons.NO_IP_ARP if kind in (0x0806, 0x8035) else reasons.UNKNOWN_ETHERTYPE


@helper
def _nflog(data: Any, begin: int, end: int, packet: Any) -> int:
    at = begin
    if end - at <= 4:
        return reasons.TRUNCATED_LINK
    family = i64(data[at])
    if data[at + 1] != 0 or family not in (2, 10):
        return reasons.UNKNOWN_ETHERTYPE
    at += 4
    while end - at > 4:
        size = i64(data[at]) | (i64(data[at + 1]) << 8)
        kind = i64(data[at + 2]) | (i64(data[at + 3]) << 8)
        if kind == 9:
            return _ip(at + 4, end, packet)
        if size < 4:
            return reasons.TRUNCATED_LINK
        at += (size + 3) & ~3
    return reasons.TRUNCATED_LINK
