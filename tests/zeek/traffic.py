"""Frames onto an interface: `traffic.py IFACE dns RATE SECONDS [FIRST]` or `traffic.py IFACE loop CAPTURE PPS SECONDS`.

`dns` makes RATE connections a second, each one DNS query with its answer, no two alike; `loop` sends the frames of
an Ethernet capture again and again. Ends after SECONDS, or at SIGTERM. Prints how many connections or frames were
sent.
"""

from __future__ import annotations

import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path


def _sum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _udp(src: bytes, sport: int, dst: bytes, dport: int, payload: bytes) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(payload), 1, 0, 64, 17, 0, src, dst)
    head = head[:10] + struct.pack("!H", _sum(head)) + head[12:]
    return bytes(12) + b"\x08\x00" + head + struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload


def dns(k: int) -> tuple[bytes, bytes]:
    """The k-th query and answer; a new client address every 50,000."""
    client = bytes((10, 1 + k // 50_000 % 250, 0, 1 + k % 200))
    server, port = bytes((10, 0, 0, 53)), 1025 + k // 200 % 60_000
    name = f"h{k}".encode()
    question = bytes((len(name),)) + name + b"\x07example\x00\x00\x01\x00\x01"
    query = struct.pack("!HHHHHH", k & 0xFFFF, 0x0100, 1, 0, 0, 0) + question
    answer = struct.pack("!HHHHHH", k & 0xFFFF, 0x8180, 1, 1, 0, 0) + question
    answer += b"\xc0\x0c\x00\x01\x00\x01" + struct.pack("!IH4s", 60, 4, client)
    return _udp(client, port, server, 53, query), _udp(server, 53, client, port, answer)


def frames(capture: Path) -> list[bytes]:
    """The frames of a classic pcap in this machine's byte order."""
    data = capture.read_bytes()
    at, found = 24, []
    while at + 16 <= len(data):
        length = struct.unpack_from("=I", data, at + 8)[0]
        found.append(data[at + 16 : at + 16 + length])
        at += 16 + length
    return found


def paced(rate: float, seconds: float) -> Iterator[int]:
    """Counts up at `rate` a second for `seconds`, in bursts of ten milliseconds; what is late is made up."""
    start, k = time.monotonic(), 0
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    while not told:
        elapsed = time.monotonic() - start
        if elapsed >= seconds:
            return
        while k < rate * elapsed:
            yield k
            k += 1
        time.sleep(0.01)


def main(interface: str, kind: str, *words: str) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((interface, 0))
        sent = 0
        if kind == "dns":
            first = int(words[2]) if len(words) > 2 else 0
            for k in paced(float(words[0]), float(words[1])):
                for frame in dns(first + k):
                    wire.send(frame)
                sent += 1
        else:
            loop = frames(Path(words[0]))
            for k in paced(float(words[1]), float(words[2])):
                try:
                    wire.send(loop[k % len(loop)])
                except OSError:
                    continue  # longer than the interface takes
                sent += 1
    print(sent, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
