"""Small captures made byte by byte, so that a test knows what is in them; the frames are scapy's."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

START = 1_700_000_000  # seconds since the epoch, of the first frame


class Made(NamedTuple):
    """A frame as a capture should hold it."""

    data: bytes
    length: int  # bytes on the wire
    ts: float
    link: int


def link_layers() -> dict[str, tuple[int, bytes]]:
    """One frame with an IP packet in it for each way of wrapping it: link type and bytes."""
    from scapy.layers.inet import GRE, IP, TCP, UDP, fragment
    from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
    from scapy.layers.l2 import CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Ether, Loopback
    from scapy.layers.vxlan import VXLAN
    from scapy.packet import Raw

    ends = {"src": "10.0.0.1", "dst": "10.0.0.2"}
    tcp = IP(**ends) / TCP(sport=40000, dport=80, flags="S")
    udp6 = IPv6(src="fd00::1", dst="fd00::2") / UDP(sport=5000, dport=53) / Raw(b"x" * 20)
    frame = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    first, second = fragment(IP(id=7, **ends) / UDP(sport=1, dport=2) / Raw(b"y" * 2000), 1400)[:2]
    made = {
        "ethernet": (1, frame / tcp),
        "ethernet and IPv6": (1, frame / udp6),
        "IPv6 with an extension header": (
            1,
            frame / IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrDestOpt() / TCP(sport=1, dport=2),
        ),
        "VLAN": (1, frame / Dot1Q(vlan=5) / tcp),
        "QinQ": (1, frame / Dot1AD(vlan=100) / Dot1Q(vlan=5) / tcp),
        "Linux cooked": (113, CookedLinux() / tcp),
        "Linux cooked 2": (276, CookedLinuxV2(proto=0x0800) / tcp),
        "raw IP": (101, tcp),
        "raw IPv6": (101, udp6),
        "loopback": (0, Loopback(type=2) / tcp),
        "first fragment": (1, frame / first),
        "last fragment": (1, frame / second),
        "GRE": (1, frame / IP(**ends) / GRE() / tcp),
        "VXLAN": (1, frame / IP(**ends) / UDP(sport=9999, dport=4789) / VXLAN(vni=7) / frame / tcp),
        "6in4": (1, frame / IP(proto=41, **ends) / udp6),
    }
    return {name: (link, bytes(packet)) for name, (link, packet) in made.items()}


def frames(n: int, link: int = 1) -> list[Made]:
    """`n` frames of different lengths and times, the second of which was cut when it was captured."""
    return [
        Made(
            bytes((i * 7 + j) % 256 for j in range(40 + 3 * i)),
            40 + 3 * i + (1000 if i == 1 else 0),
            START + i + 1234 * i / 1e6,
            link,
        )
        for i in range(n)
    ]


def pcap(
    made: Sequence[Made],
    *,
    order: str = "<",
    nanoseconds: bool = False,
    link: int | None = None,
    snaplen: int = 262144,
    version: tuple[int, int] = (2, 4),
    kuznetzov: bool = False,
) -> bytes:
    magic = 0xA1B23C4D if nanoseconds else 0xA1B2CD34 if kuznetzov else 0xA1B2C3D4
    number = link if link is not None else made[0].link if made else 1
    out = [struct.pack(order + "IHHiIII", magic, *version, 0, 0, snaplen, number)]
    for frame in made:
        seconds, micros = _split(frame.ts)
        fraction = micros * 1000 + 999 if nanoseconds else micros
        out.append(record(frame.data, frame.length, seconds, fraction, order=order))
        if kuznetzov:
            out[-1] = out[-1][:16] + bytes(8) + out[-1][16:]
    return b"".join(out)


def record(
    data: bytes,
    length: int,
    seconds: int = START,
    fraction: int = 0,
    *,
    captured: int | None = None,
    order: str = "<",
) -> bytes:
    """A pcap record; `captured` may lie about how many bytes follow."""
    said = len(data) if captured is None else captured
    return struct.pack(order + "IIII", seconds, fraction & 0xFFFFFFFF, said, length) + data


def pcapng(made: Sequence[Made], *, order: str = "<", resolution: int | None = None) -> bytes:
    """One section, one interface for each link type among the frames."""
    links = sorted({frame.link for frame in made})
    options = b"" if resolution is None else option(9, bytes([resolution]), order=order)
    out = [section(order=order)]
    out += [interface(link, options, order=order) for link in links]
    units = (
        1_000_000 if resolution is None else 2 ** (resolution & 127) if resolution & 128 else 10**resolution
    )
    for frame in made:
        seconds, micros = _split(frame.ts)
        ticks = seconds * units + -(-micros * units // 1_000_000)
        out.append(enhanced(frame.data, frame.length, ticks, links.index(frame.link), order=order))
    return b"".join(out)


def block(
    kind: int, body: bytes, *, order: str = "<", size: int | None = None, trailer: int | None = None
) -> bytes:
    """A pcapng block; `size` and `trailer` may lie about its length."""
    body += bytes(-len(body) % 4)
    true = len(body) + 12
    said = true if size is None else size
    return (
        struct.pack(order + "II", kind, said)
        + body
        + struct.pack(order + "I", said if trailer is None else trailer)
    )


def section(*, order: str = "<", major: int = 1) -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, major, 0, -1), order=order)


def interface(link: int, options: bytes = b"", *, snaplen: int = 262144, order: str = "<") -> bytes:
    return block(1, struct.pack(order + "HHI", link, 0, snaplen) + options, order=order)


def option(code: int, value: bytes, *, order: str = "<") -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def enhanced(
    data: bytes, length: int, ticks: int, number: int = 0, *, captured: int | None = None, order: str = "<"
) -> bytes:
    said = len(data) if captured is None else captured
    head = struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, said, length)
    return block(6, head + data, order=order)


def old_packet(data: bytes, length: int, ticks: int, number: int = 0, *, order: str = "<") -> bytes:
    head = struct.pack(order + "HHIIII", number, 0, ticks >> 32, ticks & 0xFFFFFFFF, len(data), length)
    return block(2, head + data, order=order)


def simple_packet(data: bytes, length: int, *, order: str = "<") -> bytes:
    return block(3, struct.pack(order + "I", length) + data, order=order)


def _split(ts: float) -> tuple[int, int]:
    """Whole seconds and microseconds, as they were before they became a float."""
    seconds = int(ts)
    return seconds, round((ts - seconds) * 1e6)
