"""From frames to transport: every wrapping leads to the same datagram, and what cannot be read is counted."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Any

import pytest
from handmade import Frame, ethernet, extract, ipv4, ipv6, rows, tcp_header, udp_header

from feature_extractors import extract as module
from feature_extractors.errors import CaptureError

INNER = ipv4(udp_header(b"hello"), 17)
INNER6 = ipv6(udp_header(b"hello"), 17)
V4_ENDS = (("10.0.0.1", 40000), ("10.0.0.2", 9999))
V6_ENDS = (("fd00::1", 40000), ("fd00::2", 9999))
LLC = b"\xaa\xaa\x03\x00\x00\x00"
RADIOTAP = struct.pack("<BBHI", 0, 0, 8, 0)


def wlan(packet: bytes, control: int = 0x08) -> bytes:
    return bytes([control, 0x01]) + bytes(22) + LLC + b"\x08\x00" + packet


def aggregate(*packets: bytes) -> bytes:
    out = bytes([0x88, 0x01]) + bytes(22) + b"\x80\x00"
    for packet in packets:
        body = LLC + b"\x08\x00" + packet
        out += bytes(12) + struct.pack(">H", len(body)) + body
        out += bytes(len(body) % 4)  # as Zeek pads
    return out


def outer_udp(payload: bytes, port: int) -> bytes:
    return ethernet(ipv4(udp_header(payload, 50000, port), 17, "192.0.2.1", "192.0.2.2"))


LINKS = {
    "Ethernet": (1, ethernet(INNER)),
    "one VLAN tag": (1, ethernet(struct.pack(">HH", 7, 0x0800) + INNER, 0x8100)),
    "QinQ": (1, ethernet(struct.pack(">HHHH", 100, 0x8100, 7, 0x0800) + INNER, 0x88A8)),
    "802.3 with SNAP": (1, ethernet(LLC + b"\x08\x00" + INNER, len(INNER) + 8)),
    "MPLS, two labels": (1, ethernet(b"\x00\x01\x00\x40\x00\x02\x01\x40" + INNER, 0x8847)),
    "PPPoE": (1, ethernet(struct.pack(">BBHHH", 0x11, 0, 1, len(INNER) + 2, 0x21) + INNER, 0x8864)),
    "backbone bridge": (1, ethernet(bytes(4) + ethernet(INNER), 0x88E7)),
    "VN-Tag": (1, ethernet(bytes(4) + struct.pack(">HHH", 0x8100, 7, 0x0800) + INNER, 0x8926)),
    "FabricPath": (1, bytes(12) + b"\x89\x03" + bytes(2) + ethernet(INNER)),
    "Linux cooked": (113, bytes(14) + b"\x08\x00" + INNER),
    "Linux cooked 2": (276, b"\x08\x00" + bytes(18) + INNER),
    "loopback, little endian": (0, struct.pack("<I", 2) + INNER),
    "loopback, big endian": (0, struct.pack(">I", 2) + INNER),
    "OpenBSD loopback": (108, struct.pack(">I", 2) + INNER),
    "raw IP": (101, INNER),
    "raw IP, BSD": (12, INNER),
    "IPv4 only": (228, INNER),
    "PPP": (9, b"\x00\x21" + INNER),
    "PPP in HDLC": (9, b"\xff\x03\x00\x21" + INNER),
    "PPP serial": (50, b"\xff\x03\x00\x21" + INNER),
    "802.11": (105, wlan(INNER)),
    "802.11 with radiotap": (127, RADIOTAP + wlan(INNER)),
    "802.11 with prism": (119, bytes(144) + wlan(INNER)),
    "802.11 aggregate": (105, aggregate(INNER)),
    "NFLOG": (
        239,
        b"\x02\x00\x00\x00" + struct.pack("<HH", 5, 1) + b"abcd" + struct.pack("<HH", 4, 9) + INNER,
    ),
    "FDDI": (10, bytes(21) + INNER),
    "PPPoE, protocol of one byte": (
        1, ethernet(struct.pack(">BBHHB", 0x11, 0, 1, len(INNER) + 1, 0x21) + INNER, 0x8864),
    ),
    "PPP, protocol of one byte": (9, b"\x21" + INNER),
    "PPP in HDLC, protocol of one byte": (50, b"\xff\x03\x21" + INNER),
    "PPP in HDLC without address and control": (50, b"\x00\x21" + INNER),
    "PPP in HDLC without either, protocol of one byte": (50, b"\x21" + INNER),
    "Cisco HDLC": (104, b"\x0f\x00\x08\x00" + INNER),
    "Cisco HDLC as PPP serial": (50, b"\x0f\x00\x08\x00" + INNER),
    "PPI around Ethernet": (192, struct.pack("<BBHI", 0, 0, 8, 1) + ethernet(INNER)),
    "PPI with fields around 802.11": (192, struct.pack("<BBHIHHI", 0, 0, 16, 105, 2, 4, 7) + wlan(INNER)),
    "PKTAP around Ethernet": (258, struct.pack("<III", 108, 1, 1) + bytes(96) + ethernet(INNER)),
    "PKTAP around raw IP": (258, struct.pack("<III", 108, 1, 12) + bytes(96) + INNER),
    "802.11 with AVS": (163, struct.pack(">II", 0x80211001, 64) + bytes(56) + wlan(INNER)),
    "802.11 with HT control": (
        105, bytes([0x88, 0x81]) + bytes(22) + bytes(2) + bytes(4) + LLC + b"\x08\x00" + INNER,
    ),
}  # fmt: skip

TUNNELS = {
    "IP in IP": ethernet(ipv4(INNER, 4, "192.0.2.1", "192.0.2.2")),
    "6in4": ethernet(ipv4(INNER6, 41, "192.0.2.1", "192.0.2.2")),
    "GRE": ethernet(ipv4(b"\x00\x00\x08\x00" + INNER, 47, "192.0.2.1", "192.0.2.2")),
    "GRE with key and sequence": ethernet(ipv4(b"\x30\x00\x08\x00" + bytes(8) + INNER, 47)),
    "GRE with Ethernet": ethernet(ipv4(b"\x00\x00\x65\x58" + ethernet(INNER), 47)),
    "ERSPAN I": ethernet(ipv4(b"\x00\x00\x88\xbe" + ethernet(INNER), 47)),
    "ERSPAN II": ethernet(ipv4(b"\x10\x00\x88\xbe" + bytes(4) + bytes(8) + ethernet(INNER), 47)),
    "ERSPAN III": ethernet(ipv4(b"\x10\x00\x22\xeb" + bytes(4) + bytes(12) + ethernet(INNER), 47)),
    "PPTP": ethernet(ipv4(b"\x20\x01\x88\x0b" + bytes(4) + b"\xff\x03\x00\x21" + INNER, 47)),
    "VXLAN": outer_udp(b"\x08" + bytes(7) + ethernet(INNER), 4789),
    "Geneve": outer_udp(b"\x00\x00\x65\x58" + bytes(4) + ethernet(INNER), 6081),
    "Geneve with options": outer_udp(b"\x01\x00\x08\x00" + bytes(4) + bytes(4) + INNER, 6081),
    "GTPv1": outer_udp(struct.pack(">BBHI", 0x30, 255, len(INNER), 1) + INNER, 2152),
    "Teredo": outer_udp(INNER6, 3544),
    "Teredo with origin": outer_udp(bytes(8) + INNER6, 3544),
    "AYIYA": outer_udp(b"\x40\x00\x01\x29" + bytes(4) + bytes(16) + INNER6, 5072),
    "GRE in UDP": outer_udp(b"\x00\x00\x08\x00" + INNER, 4754),
}


@pytest.mark.parametrize("name", LINKS)
def test_every_link_layer_leads_to_the_same_datagram(name: str) -> None:
    link, data = LINKS[name]
    windows, extractor = extract([Frame(data, 1.0, link)])
    (row,) = rows(windows)
    assert (row["orig"], row["resp"], row["proto"]) == (*V4_ENDS, 17)
    assert row["orig_pkts"] == 1
    assert not extractor.counts.by_reason


@pytest.mark.parametrize(("link", "data", "named"), [
    (195, INNER, "IEEE 802.15.4 (link type 195)"),
    (195, ethernet(INNER), "IEEE 802.15.4 (link type 195)"),
    (147, INNER, "a framing without a known name (link type 147)"),
    (192, struct.pack("<BBHI", 0, 0, 8, 195) + INNER, "PPI around a framing that is not read (link type 192)"),
    (258, struct.pack("<III", 12, 1, 258) + INNER, "PKTAP around a framing that is not read (link type 258)"),
])  # fmt: skip
def test_a_framing_that_is_not_known_is_refused_by_its_name_and_never_guessed_at(
    link: int, data: bytes, named: str
) -> None:
    with pytest.raises(CaptureError, match=re.escape(named)) as refused:
        extract([Frame(data, float(i), link) for i in range(3)])
    assert "editcap" in str(refused.value)


def test_beside_frames_that_are_read_an_unknown_framing_is_counted() -> None:
    windows, extractor = extract([Frame(ethernet(INNER), 1.0), Frame(INNER, 2.0, 195)])
    assert len(windows) == 1
    assert extractor.counts.by_reason == {"unknown_link_type": 1}


@pytest.mark.parametrize("size", [0, 7, 2**16 - 1])
def test_a_header_that_names_no_possible_length_holds_no_packet(size: int) -> None:
    windows, extractor = extract(
        [Frame(struct.pack("<BBHI", 0, 0, size, 1) + ethernet(INNER), 1.0, 192), Frame(ethernet(INNER), 2.0)]
    )
    assert len(windows) == 1
    assert extractor.counts.by_reason == {"truncated_link_header": 1}


def test_time_that_goes_back_is_counted_whatever_the_blocks() -> None:
    times = [1.0, 3.0, 2.0, 2.5, 4.0, 0.5]
    _, extractor = extract([Frame(ethernet(INNER), ts) for ts in times])
    assert extractor.counts.by_reason == {"time_goes_back": 3}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Ethernet", (-1, -1)), ("one VLAN tag", (7, -1)), ("QinQ", (100, 7)), ("VN-Tag", (7, -1))],
)
def test_vlan_tags_are_kept_outer_first(name: str, expected: tuple[int, int]) -> None:
    link, data = LINKS[name]
    windows, _ = extract([Frame(data, 1.0, link)])
    assert rows(windows)[0]["vlan"] == expected


@pytest.mark.parametrize("name", TUNNELS)
def test_a_tunnelled_datagram_is_a_connection_of_its_own(name: str) -> None:
    windows, _ = extract([Frame(TUNNELS[name], 1.0)])
    inner = [row for row in rows(windows) if row["tunneled"]]
    assert [(row["orig"], row["resp"]) for row in inner] in ([V4_ENDS], [V6_ENDS])
    outer = [row for row in rows(windows) if not row["tunneled"]]
    assert len(outer) == (
        1 if " in UDP" in name or name[0] in "VTA" or name.startswith(("Geneve", "GTP")) else 0
    )


def test_each_frame_of_an_80211_aggregate_counts() -> None:
    second = ipv4(udp_header(b"other", 40001), 17)
    windows, _ = extract([Frame(aggregate(INNER, second), 1.0, 105)])
    assert sorted(row["orig"][1] for row in rows(windows)) == [40000, 40001]


def test_an_endless_aggregate_is_followed_so_far_and_the_rest_counted() -> None:
    many = [ipv4(udp_header(b"x", 21_000 + n), 17) for n in range(300)]
    windows, extractor = extract([Frame(aggregate(*many), 1.0 + n / 10, 105) for n in range(40)])
    assert sorted(row["orig"][1] for row in rows(windows)) == list(range(21_000, 21_008))
    assert extractor.counts.by_reason == {"wlan_aggregated_rest": 40}


def test_a_reassembled_tower_of_tunnels_hands_every_floor_on() -> None:
    packet = ipv4(udp_header(b"bottom" * 1000), 17)
    for _ in range(4):
        packet = ipv4(
            udp_header(b"\x08" + bytes(7) + ethernet(packet), 50000, 4789), 17, "192.0.2.1", "192.0.2.2"
        )
    parts = [Frame(part, 1.0 + n / 100) for n, part in enumerate(pieces(packet[20:], 1400))]
    windows, _ = extract(parts * 30, content=True)
    assert sorted(row["orig_pkts"] for row in rows(windows)) == [30, 30, 90], (
        "three floors have the same ends"
    )


def test_a_tunnel_deeper_than_zeek_follows_is_counted_and_let_go() -> None:
    packet = INNER
    for _ in range(5):
        packet = ipv4(packet, 4)
    windows, extractor = extract([Frame(ethernet(packet), 1.0)])
    assert not len(windows)
    assert extractor.counts.by_reason == {"tunnel_too_deep": 1}


DAMAGED = {
    "truncated_link_header": (1, ethernet(INNER)[:15]),
    "unknown_ethertype": (1, ethernet(INNER, 0x1234)),
    "truncated_ip": (1, ethernet(INNER[:19])),
    "unknown_ip_version": (101, b"\x55" + INNER[1:]),
    "truncated_ip_length": (1, ethernet(INNER[:2] + b"\xff\xff" + INNER[4:])),
    "bad_ip_header": (1, ethernet(b"\x44" + INNER[1:])),
    "esp": (1, ethernet(ipv6(bytes(20), 50))),
    "mobility": (1, ethernet(ipv6(b"\x3b\x00" + bytes(6), 135))),
    "ipv6_no_next_header": (1, ethernet(ipv6(bytes(20), 59))),
    "truncated_transport_header": (1, ethernet(ipv4(bytes(7), 17))),
    "bad_tcp_header": (1, ethernet(ipv4(tcp_header()[:12] + b"\x40" + bytes(7), 6))),
    "bad_tunnel_header": (1, ethernet(ipv4(b"\x00\x07\x08\x00" + INNER, 47))),
    "tunnel_without_ip": (1, outer_udp(b"\x00\x00\x12\x34" + bytes(5), 6081)),
    "fragment_bad": (1, ethernet(ipv4(bytes(40), 17, fragment=0x1FFF))),
    "wlan_without_data": (105, wlan(INNER, 0x48)),
    "wlan_encrypted": (105, bytes([0x88, 0x41]) + bytes(40)),
}


@pytest.mark.parametrize("reason", DAMAGED)
def test_what_cannot_be_decoded_is_counted_by_reason(reason: str) -> None:
    link, data = DAMAGED[reason]
    _, extractor = extract([Frame(data, 1.0, link)])
    assert extractor.counts.by_reason == {reason: 1}


@pytest.mark.parametrize("name", ["Ethernet", "802.11 with radiotap", "NFLOG", "Linux cooked 2", "QinQ"])
def test_a_frame_cut_anywhere_is_a_smaller_truth_or_a_reason(name: str) -> None:
    link, data = LINKS[name]
    for size in range(len(data)):
        windows, extractor = extract([Frame(data[:size], 1.0, link, len(data))])
        assert len(windows) + sum(extractor.counts.by_reason.values()) >= 1, size


def test_bytes_beyond_the_ip_length_are_padding() -> None:
    windows, _ = extract([Frame(ethernet(INNER) + bytes(20), 1.0)])
    assert windows.packets.payload.tolist() == [5]


def test_an_ip_length_of_zero_means_all_that_was_captured() -> None:
    packet = ipv4(tcp_header(b"d" * 50, 2), 6)
    windows, _ = extract([Frame(ethernet(packet[:2] + b"\x00\x00" + packet[4:]), 1.0)])
    assert windows.packets.payload.tolist() == [50]
    assert windows.connections.orig_ip_bytes.tolist() == [0], "Zeek adds up what the header says"


def test_a_routing_header_with_segments_left_names_the_destination() -> None:
    last = bytes.fromhex("fd000000000000000000000000000009")
    routing = bytes([17, 2, 0, 1]) + bytes(4) + last
    windows, _ = extract([Frame(ethernet(ipv6(routing + udp_header(b"hello"), 43)), 1.0)])
    assert rows(windows)[0]["resp"] == ("fd00::9", 9999)


def pieces(datagram: bytes, size: int, version: int = 4) -> list[bytes]:
    out = []
    for at in range(0, len(datagram), size):
        more = at + size < len(datagram)
        part = datagram[at : at + size]
        if version == 4:
            out.append(ethernet(ipv4(part, 17, ident=77, fragment=(0x2000 if more else 0) | at // 8)))
        else:
            header = struct.pack(">BBHI", 17, 0, at | more, 77)
            out.append(ethernet(ipv6(header + part, 44)))
    return out


@pytest.fixture
def payloads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The payload that is handed on to the analyzers."""
    seen: list[bytes] = []
    real = module._segments

    def segments(*given: Any) -> Any:
        made = real(*given)
        ends = zip(made.start.tolist(), made.captured.tolist(), strict=True)
        seen.extend(made.data[at : at + size].tobytes() for at, size in ends)
        return made

    monkeypatch.setattr(module, "_segments", segments)
    return seen


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("order", "whole"),
    [
        ((0, 1, 2, 3), True),
        ((3, 2, 1, 0), True),
        ((2, 0, 3, 1), True),
        ((0, 0, 1, 1, 2, 3), True),
        ((0, 1, 3), False),
        ((1, 2, 3), False),
    ],
)
def test_fragments_make_a_datagram_in_any_order_once_all_are_there(
    version: int, order: Sequence[int], whole: bool, payloads: list[bytes]
) -> None:
    parts = pieces(udp_header(bytes(range(256)) * 4), 264, version)
    windows, _ = extract([Frame(parts[i], 1.0 + n) for n, i in enumerate(order)], content=True)
    if not whole:
        assert not len(windows)
        return
    (row,) = rows(windows)
    assert row["orig_pkts"] == 1
    assert windows.packets.payload.tolist() == [1024]
    assert payloads == [bytes(range(256)) * 4]


def test_of_overlapping_fragments_the_first_stays(payloads: list[bytes]) -> None:
    datagram = udp_header(b"a" * 56)
    first = ethernet(ipv4(datagram[:40], 17, ident=5, fragment=0x2000))
    clash = ethernet(ipv4(b"b" * 40, 17, ident=5, fragment=3))
    windows, _ = extract([Frame(first, 1.0), Frame(clash, 1.1)], content=True)
    assert windows.packets.payload.tolist() == [56]
    assert payloads == [b"a" * 32 + b"b" * 24]


def test_fragments_of_two_datagrams_are_told_apart_and_the_oldest_makes_room() -> None:
    from feature_extractors.extract import ExtractorLimits
    from feature_extractors.tracker.state import TrackerLimits

    limits = ExtractorLimits(tracker=TrackerLimits(fragments=2))
    frames = [Frame(ethernet(ipv4(bytes(24), 17, ident=i, fragment=0x2000)), 1.0 + i / 10) for i in range(5)]
    windows, extractor = extract(frames, limits=limits)
    assert not len(windows)
    assert extractor.counts.by_reason == {"fragment_evicted": 3}


def test_unknown_link_frames_among_others_are_counted() -> None:
    windows, extractor = extract([Frame(b"\x00" * 60, 1.0, 147), Frame(ethernet(INNER), 2.0)])
    assert len(windows) == 1
    assert extractor.counts.by_reason == {"unknown_link_type": 1}
