"""A capture of one host that says everything that could break a reader of its words: attacker's bytes."""

from __future__ import annotations

import struct
from pathlib import Path

LONG = 64 * 1024
NASTY = b"\xff\xfe\x00\r\n\"'\\\x1b[31m\xe2\x80\xae{}[]%s\xc3\x28"


def write(path: Path) -> int:
    """Writes the capture; how many connections are in it."""
    import logging

    logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.packet import Raw
    from scapy.utils import wrpcap

    frames = []
    now = 1_700_000_000.0

    def add(packet: IP) -> None:
        nonlocal now
        now += 0.001
        packet.time = now
        frames.append(packet)

    def udp(port: int, resp_port: int, ask: bytes, answer: bytes) -> None:
        add(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=port, dport=resp_port) / Raw(ask))
        add(IP(src="10.0.0.2", dst="10.0.0.1") / UDP(sport=resp_port, dport=port) / Raw(answer))

    def tcp(port: int, resp_port: int, ask: bytes, answer: bytes) -> None:
        a = {"sport": port, "dport": resp_port}
        b = {"sport": resp_port, "dport": port}
        to, back = IP(src="10.0.0.1", dst="10.0.0.2"), IP(src="10.0.0.2", dst="10.0.0.1")
        add(to / TCP(**a, flags="S", seq=99))
        add(back / TCP(**b, flags="SA", seq=499, ack=100))
        add(to / TCP(**a, flags="A", seq=100, ack=500))
        at = 100
        for start in range(0, len(ask), 1400):
            part = ask[start : start + 1400]
            add(to / TCP(**a, flags="PA", seq=at, ack=500) / Raw(part))
            at += len(part)
        add(back / TCP(**b, flags="PA", seq=500, ack=at) / Raw(answer))
        end = 500 + len(answer)
        add(to / TCP(**a, flags="FA", seq=at, ack=end))
        add(back / TCP(**b, flags="FA", seq=end, ack=at + 1))
        add(to / TCP(**a, flags="A", seq=at + 1, ack=end + 1))

    # One DNS name for each single byte, and the nasty ones together.
    labels = [bytes([b]) + b"x" for b in range(256)] + [NASTY, b"\xff" * 63]
    for k, label in enumerate(labels):
        name = bytes([len(label)]) + label + b"\x07example\x00"
        head = struct.pack("!HHHHHH", k, 0x0100, 1, 0, 0, 0)
        answer = struct.pack("!HHHHHH", k, 0x8180, 1, 0, 0, 0)
        udp(2000 + k, 53, head + name + b"\x00\x10\x00\x01", answer + name + b"\x00\x10\x00\x01")

    reply = (
        b"HTTP/1.1 200 "
        + NASTY.replace(b"\r\n", b"")
        + b"\r\nServer: \xff\xfe\x00\r\nContent-Length: 2\r\n\r\nok"
    )
    words = NASTY.replace(b"\r\n", b"")
    requests = [
        b"GET /" + words + b" HTTP/1.1\r\nHost: " + words + b"\r\nUser-Agent: " + words + b"\r\n\r\n",
        b"GET /" + b"\xff" * LONG + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nUser-Agent: " + b"\"\\\x01" * (LONG // 3) + b"\r\nReferer: " + b"\xe9" * LONG + b"\r\n\r\n",
        words + b" / HTTP/1.1\r\nHost: " + b"A" * LONG + b"\r\n\r\n",
    ]  # fmt: skip
    for k, request in enumerate(requests):
        tcp(3000 + k, 80, request, reply)
    for k, name in enumerate((words, b"\xff" * 255, b"a\x00b", b"x" * 16000)):
        tcp(4000 + k, 443, _client_hello(name), b"\x15\x03\x03\x00\x02\x02\x28")
    tcp(5000, 22, b"SSH-2.0-" + words + b"\r\n", b"SSH-2.0-\xff\xfe\r\n")
    tcp(5001, 21, b"USER " + words + b"\r\nPASS \xff\xff\r\n", b"220 " + words + b"\r\n331 \xff\r\n")
    tcp(
        5002,
        25,
        b"EHLO \xff" + words + b"\r\nMAIL FROM:<\xff@" + b"y" * 5000 + b">\r\n",
        b"220 \xff\xfe\r\n250 ok\r\n",
    )
    wrpcap(str(path), frames)
    return len(labels) + len(requests) + 4 + 3


def _client_hello(name: bytes) -> bytes:
    entry = b"\x00" + struct.pack("!H", len(name)) + name
    sni = struct.pack("!HHH", 0, len(entry) + 2, len(entry)) + entry
    body = (
        b"\x03\x03"
        + bytes(32)
        + b"\x00"
        + b"\x00\x02\x13\x01"
        + b"\x01\x00"
        + struct.pack("!H", len(sni))
        + sni
    )
    handshake = b"\x01" + struct.pack("!I", len(body))[1:] + body
    return b"\x16\x03\x01" + struct.pack("!H", len(handshake)) + handshake
