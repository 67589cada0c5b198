"""The small captures of these tests, byte by byte: `make_traces.py FOLDER` writes dns.pcap and https.pcap."""

from __future__ import annotations

import struct
import sys
from pathlib import Path


def _ip(src: str, dst: str, proto: int, payload: bytes) -> bytes:
    ends = b"".join(bytes(map(int, a.split("."))) for a in (src, dst))
    return (
        b"\0" * 12
        + b"\x08\0"
        + struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, proto, 0)
        + ends
        + payload
    )


def _udp(src: str, sport: int, dst: str, dport: int, payload: bytes) -> bytes:
    return _ip(src, dst, 17, struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload)


def _tcp(
    src: str, sport: int, dst: str, dport: int, seq: int, ack: int, flags: int, payload: bytes = b""
) -> bytes:
    return _ip(
        src, dst, 6, struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 0x50, flags, 64240, 0, 0) + payload
    )


def _write(path: Path, frames: list[bytes], gap: float = 0.1) -> None:
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for k, frame in enumerate(frames):
            at = round(k * gap * 1e6)
            file.write(
                struct.pack("<IIII", 1_700_000_000 + at // 10**6, at % 10**6, len(frame), len(frame)) + frame
            )


def main(folder: Path) -> None:
    question = b"\x03www\x07example\x00\x00\x01\x00\x01"
    query = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + question
    answer = struct.pack("!HHHHHH", 7, 0x8180, 1, 0, 0, 0) + question
    a, b = "10.0.0.1", "10.0.0.53"
    _write(folder / "dns.pcap", [_udp(a, 2000, b, 53, query), _udp(b, 53, a, 2000, answer)])
    c, d = (a, 3000, "10.0.0.2", 8443), ("10.0.0.2", 8443, a, 3000)
    talk = [_tcp(*c, 99, 0, 2), _tcp(*d, 499, 100, 18), _tcp(*c, 100, 500, 16)]
    for k in range(40):
        talk += [
            _tcp(*c, 100 + 5 * k, 500 + 7 * k, 24, b"hello"),
            _tcp(*d, 500 + 7 * k, 105 + 5 * k, 24, b"goodbye"),
        ]
    talk += [_tcp(*c, 300, 780, 17), _tcp(*d, 780, 301, 17), _tcp(*c, 301, 781, 16)]
    _write(folder / "long.pcap", talk)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
