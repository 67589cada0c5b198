"""Captures whose size or numbers are the attack: each kind is a function of how many there are of what it repeats."""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Callable
from typing import Final

import hostile
import made_captures as make

QUESTION: Final = hostile.eth4(
    hostile.ip4("10.0.0.1", "10.0.0.2", 17, hostile.udp(1000, 53, b"\0\1\1\0\0\1\0\0\0\0\0\0\1a\0\0\1\0\1"))
)
MICROSECONDS: Final = make.START * 1_000_000
SECONDS: Final = make.option(9, b"\0")  # ticks of a second


def _syn(port: int) -> bytes:
    return hostile.eth4(hostile.ip4("10.0.0.1", "10.0.0.2", 6, hostile.tcp(port, 80, 1, 0, hostile.SYN)))


def _one(number: int = 0) -> bytes:
    return make.enhanced(QUESTION, len(QUESTION), MICROSECONDS, number)


def zeros(n: int) -> bytes:
    """Megabytes of zeros behind a header, a thousandth of them in the file."""
    return gzip.compress(make.pcap([]) + bytes(n << 20))


def empty_members(n: int) -> bytes:
    """A capture without frames, and compressed nothings."""
    return gzip.compress(make.pcap([])) + gzip.compress(b"") * n


def nested(n: int) -> bytes:
    """Compressed so many times over."""
    content = make.pcap([])
    for _ in range(n):
        content = gzip.compress(content)
    return content


def far_dictionary(n: int) -> bytes:
    """Packed with the largest window that a preset of xz asks memory for."""
    return lzma.compress(make.pcap([]) + bytes(n), preset=9)


def interfaces(n: int) -> bytes:
    return make.section() + make.interface(1) * n + _one(n - 1)


def sections(n: int) -> bytes:
    return (make.section() + make.interface(1) + _one()) * n


def long_blocks(n: int) -> bytes:
    """Blocks of an unknown kind, 16 MiB each."""
    return make.section() + make.interface(1) + make.block(0x0BAD, bytes((16 << 20) - 12)) * n + _one()


def empty_options(n: int) -> bytes:
    return make.section() + make.interface(1, make.option(2, b"") * n) + _one()


def section_of_another_length(n: int) -> bytes:
    head = make.block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, n))
    return head + make.interface(1) + _one()


def endless_section(n: int) -> bytes:
    head = struct.pack("<IIIHHq", 0x0A0D0D0A, 0xFFFFFFF0, 0x1A2B3C4D, 1, 0, -1)
    return head + bytes(n)


def longest_frame(n: int) -> bytes:
    """Of zeros, at the last second that pcap can tell."""
    return (
        make.pcap([])
        + make.record(bytes(n), 0xFFFFFFFF, 0xFFFFFFFF, -1)
        + make.record(QUESTION, len(QUESTION))
    )


def microseconds_of_an_hour(n: int) -> bytes:
    return make.pcap([]) + make.record(QUESTION, len(QUESTION), 0xFFFFFFFF, n)


def jumbogram(n: int) -> bytes:
    """An IPv6 payload longer than its length field can say (RFC 2675)."""
    ends = bytes(15) + b"\1" + bytes(15) + b"\2"
    options = bytes([17, 0, 0xC2, 4]) + struct.pack(">I", n + 16)
    packet = (
        struct.pack(">IHBB", 6 << 28, 0, 0, 64) + ends + options + hostile.udp(1, 2, b"")[:4] + bytes(4 + n)
    )
    frame = hostile.eth6(packet)
    return make.pcap([]) + make.record(frame, len(frame))


def far_then_back(n: int) -> bytes:
    """One attempt thousands of years ahead, then ordinary ones."""
    out = make.section() + make.interface(1, SECONDS) + make.interface(1)
    out += make.enhanced(_syn(1000), len(_syn(1000)), 10**11)
    for i in range(n):
        frame = _syn(2000 + i)
        out += make.enhanced(frame, len(frame), MICROSECONDS + 1000 * i, 1)
    return out


def at_zero(n: int) -> bytes:
    return make.section() + make.interface(1) + make.enhanced(QUESTION, len(QUESTION), 0) * n


# Each with how many, the frames, connections and bad records that are read of it, and whether it is one at all.
KINDS: Final[dict[str, tuple[Callable[[int], bytes], int, int, int, dict[str, int]]]] = {
    "zeros": (zeros, 64, 0, 0, {"empty_frame": 4 << 20}),
    "empty members": (empty_members, 20_000, 0, 0, {}),
    "far dictionary": (far_dictionary, 1000, 0, 0, {"empty_frame": 62, "capture_truncated": 1}),
    "interfaces": (interfaces, 20_000, 0, 0, {"bad_interface": 20_000 - 4096, "unknown_interface": 1}),
    "sections": (sections, 5000, 5000, 1, {}),
    "long blocks": (long_blocks, 2, 1, 1, {}),
    "empty options": (empty_options, 500_000, 1, 1, {}),
    "section of another length": (section_of_another_length, 5, 1, 1, {}),
    "endless section": (endless_section, 64, 0, 0, {"bad_section": 1}),
    "longest frame": (longest_frame, 262_144, 2, 1, {}),
    "microseconds of an hour": (microseconds_of_an_hour, 2**31 - 1, 1, 1, {}),
    "jumbogram": (jumbogram, 100_000, 1, 0, {}),
    "far then back": (far_then_back, 50, 51, 51, {}),
    "at zero": (at_zero, 2, 2, 1, {}),
}
