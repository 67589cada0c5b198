"""The kernel's messages about new connections, read as the kernel writes them."""

from __future__ import annotations

import socket
import struct

import pytest

from benchmarks.lab import tracker


def attribute(kind: int, body: bytes) -> bytes:
    size = 4 + len(body)
    return struct.pack("=HH", size, kind) + body + bytes(-size % 4)


def message(proto: int, source: str, target: str, ports: bytes, mark: int | None) -> bytes:
    """As nf_conntrack_netlink's ctnetlink_conntrack_event: header, nfgenmsg, tuple, mark."""
    ends = attribute(1, socket.inet_aton(source)) + attribute(2, socket.inet_aton(target))
    tuple_ = attribute(0x8001, ends) + attribute(0x8002, attribute(1, bytes([proto])) + ports)
    body = attribute(0x8001, tuple_) + attribute(3, bytes(4))
    if mark is not None:
        body += attribute(8, struct.pack("!I", mark))
    return struct.pack("=IHHIIBBH", 20 + len(body), 0x100, 0x600, 0, 0, 2, 0, 0) + body


def ports(source: int, target: int) -> bytes:
    return attribute(2, struct.pack("!H", source)) + attribute(3, struct.pack("!H", target))


ECHO = attribute(4, b"\0\7") + attribute(5, b"\x08") + attribute(6, b"\0")


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (
            message(6, "10.0.0.5", "10.0.0.9", ports(4000, 443), 20001),
            ["tcp 10.0.0.5 4000 10.0.0.9 443 20001"],
        ),
        (message(17, "10.0.0.5", "10.0.0.2", ports(5353, 53), None), ["udp 10.0.0.5 5353 10.0.0.2 53 0"]),
        (message(1, "10.0.0.5", "10.0.0.9", ECHO, 1), ["icmp 10.0.0.5 8 10.0.0.9 0 1"]),
        (message(47, "10.0.0.5", "10.0.0.9", b"", 1), []),
        (b"", []),
        (b"\4\0\0\0", []),
    ],
)
def test_a_message_becomes_a_line(data: bytes, lines: list[str]) -> None:
    assert list(tracker.events(data)) == lines


def test_several_messages_in_one_datagram_are_all_read() -> None:
    one = message(6, "10.0.0.5", "10.0.0.9", ports(1, 2), 7)
    assert len(list(tracker.events(one * 3))) == 3
