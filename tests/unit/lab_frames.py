"""Frames and captures as the laboratory's recorder writes them, with checksums that hold."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from benchmarks.lab import flows

MAC = b"\2" * 6
_NUMBER = {"tcp": 6, "udp": 17, "icmp": 1}


def _sum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frame(
    proto: str,
    src: str,
    sport: int,
    dst: str,
    dport: int,
    flags: int = 0,
    body: bytes = b"",
    *,
    mac: bytes = MAC,
    seq: int = 1,
    ack: int = 1,
) -> bytes:
    """One packet; of ICMP the ports are type and code and `body` is what follows the checksum."""
    source, target = socket.inet_aton(src), socket.inet_aton(dst)
    if proto == "tcp":
        inner, at = struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 0x50, flags, 64240, 0, 0) + body, 16
    elif proto == "udp":
        inner, at = struct.pack("!HHHH", sport, dport, 8 + len(body), 0) + body, 6
    else:
        inner, at = struct.pack("!BBH", sport, dport, 0) + body, 2
    pseudo = b"" if proto == "icmp" else source + target + struct.pack("!BBH", 0, _NUMBER[proto], len(inner))
    inner = inner[:at] + struct.pack("!H", _sum(pseudo + inner)) + inner[at + 2 :]
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(inner), 1, 0, 64, _NUMBER[proto], 0) + source + target
    head = head[:10] + struct.pack("!H", _sum(head)) + head[12:]
    return MAC + mac + b"\x08\x00" + head + inner


def question(name: str) -> bytes:
    return bytes(12) + b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0\0\1\0\1"


def answer(name: str, address: str) -> bytes:
    """To such a question, with one address."""
    asked = question(name)[12:]
    record = b"\xc0\x0c\0\1\0\1" + struct.pack("!IH", 60, 4) + socket.inet_aton(address)
    return struct.pack("!HHHHHH", 0, 0x8180, 1, 1, 0, 0) + asked + record


def capture(path: Path, *frames: tuple[float, bytes]) -> list[flows.Flow]:
    """Written in this order, and read as connections."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for ts, data in frames:
            file.write(struct.pack("<IIII", *divmod(round(ts * 1e6), 1_000_000), len(data), len(data)) + data)
    return flows.read(path)
