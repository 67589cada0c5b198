"""Frames written field by field, and what the extractor makes of them; for tests that need an exact packet."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from ipaddress import ip_address
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from feature_extractors.extract import Extractor
from feature_extractors.frames import FrameBlock
from feature_extractors.observations import CONN_STATES, Windows, concat

CLIENT, SERVER = "10.0.0.1", "10.0.0.2"
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


class Frame(NamedTuple):
    """A frame, when it was seen, and how long it was on the wire (None: all of it was captured)."""

    data: bytes
    ts: float
    link: int = 1
    length: int | None = None


def ipv4(
    payload: bytes, proto: int, src: str = CLIENT, dst: str = SERVER, ident: int = 1, fragment: int = 0
) -> bytes:
    """`fragment`: the 16 bits of flags and offset."""
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), ident, fragment, 64, proto, 0)
    return head + ip_address(src).packed + ip_address(dst).packed + payload


def ipv6(payload: bytes, proto: int, src: str = "fd00::1", dst: str = "fd00::2") -> bytes:
    head = struct.pack(">IHBB", 0x60000000, len(payload), proto, 64)
    return head + ip_address(src).packed + ip_address(dst).packed + payload


def udp_header(payload: bytes, sport: int = 40000, dport: int = 9999) -> bytes:
    return struct.pack(">HHHH", sport, dport, 8 + len(payload), 0) + payload


def tcp_header(
    payload: bytes = b"", flags: int = ACK, seq: int = 0, ack: int = 0, sport: int = 40000, dport: int = 9999,
    window: int = 64000, options: bytes = b"",
) -> bytes:  # fmt: skip
    offset = (20 + len(options)) // 4 << 4
    return struct.pack(">HHIIBBHHH", sport, dport, seq, ack, offset, flags, window, 0, 0) + options + payload


def ethernet(packet: bytes, kind: int | None = None) -> bytes:
    if kind is None:
        kind = 0x86DD if packet[0] >> 4 == 6 else 0x0800
    return b"\x02" * 6 + b"\x04" * 6 + struct.pack(">H", kind) + packet


def udp(
    payload: bytes = b"x", ts: float = 0.0, back: bool = False, sport: int = 40000, dport: int = 9999
) -> Frame:
    """A datagram from client to server, or back."""
    if back:
        return Frame(ethernet(ipv4(udp_header(payload, dport, sport), 17, SERVER, CLIENT)), ts)
    return Frame(ethernet(ipv4(udp_header(payload, sport, dport), 17)), ts)


def icmp(kind: int, code: int = 0, ts: float = 0.0, back: bool = False, payload: bytes = b"ping") -> Frame:
    message = struct.pack(">BBHI", kind, code, 0, 0) + payload
    return Frame(ethernet(ipv4(message, 1, *((SERVER, CLIENT) if back else (CLIENT, SERVER)))), ts)


class Dialogue:
    """A TCP connection told as letters: `play("S h A")`; capitals are the client's, small letters the server's.

    S SYN, H SYN-ACK, A pure ACK, D 100 bytes of data, F FIN, R RST, K a repetition of the last data, L data that is
    skipped (lost), W a zero window; times advance by `step` seconds.
    """

    def __init__(
        self, sport: int = 40000, dport: int = 9999, ts: float = 0.0, step: float = 0.01, first: int = 1000
    ) -> None:
        self.first = {True: first, False: first + 4000}
        self.seq = dict(self.first)
        self.sport, self.dport, self.ts, self.step = sport, dport, ts, step

    def play(self, letters: str) -> list[Frame]:
        frames = []
        for letter in letters.replace(" ", ""):
            frame = self._frame(letter)
            if frame is not None:
                frames.append(Frame(frame, self.ts))
                self.ts += self.step
        return frames

    def _frame(self, letter: str) -> bytes | None:
        client = letter.isupper()
        kind = letter.upper()
        seq, peer = self.seq[client], self.seq[not client]
        payload, flags, window = b"", ACK, 64000
        if kind in "SH":
            seq = self.first[client]
            self.seq[client] = seq + 1
            flags, peer = (SYN, 0) if kind == "S" else (SYN | ACK, peer)
        elif kind in "DK":
            payload = b"d" * 100
            seq -= 100 if kind == "K" else 0
            self.seq[client] = seq + 100
        elif kind == "L":
            self.seq[client] += 100
            return None
        elif kind == "F":
            flags = FIN | ACK
            self.seq[client] += 1
        elif kind == "R":
            flags = RST | ACK
        elif kind == "W":
            window = 0
        ports = (self.sport, self.dport) if client else (self.dport, self.sport)
        segment = tcp_header(payload, flags, seq, peer, *ports, window)
        return ethernet(ipv4(segment, 6, *((CLIENT, SERVER) if client else (SERVER, CLIENT))))


def block(frames: Sequence[Frame], padding: bytes = b"") -> FrameBlock:
    """The frames as one block, `padding` between them."""
    starts, data, at = [], [], 0
    for frame in frames:
        starts.append(at)
        data.append(frame.data + padding)
        at += len(frame.data) + len(padding)
    sizes = np.array([len(frame.data) for frame in frames], np.int32)
    return FrameBlock(
        data=np.frombuffer(b"".join(data), np.uint8),
        start=np.array(starts, np.int64),
        captured=sizes,
        length=np.array([f.length or len(f.data) for f in frames], np.int32),
        ts=np.array([f.ts for f in frames], np.float64),
        link=np.array([f.link for f in frames], np.int32),
    )


def extract(frames: Sequence[Frame], cuts: Sequence[int] = (), **options: Any) -> tuple[Windows, Extractor]:
    """All windows of the frames, given in blocks that end at `cuts`."""
    extractor = Extractor(**{"content": False, **options})
    edges = [0, *sorted(cuts), len(frames)]
    parts = [extractor.receive(block(frames[a:b])) for a, b in pairwise(edges)]
    return concat([*parts, extractor.finish()]), extractor


def rows(windows: Windows) -> list[dict[str, Any]]:
    """Connections as dictionaries of what tests look at."""
    c = windows.connections
    return [
        {
            "orig": (_text(c.orig_h[i]), int(c.orig_p[i])),
            "resp": (_text(c.resp_h[i]), int(c.resp_p[i])),
            "proto": int(c.ip_proto[i]),
            "state": CONN_STATES[c.conn_state[i]],
            "history": c.history[i].decode(),
            "orig_bytes": int(c.orig_bytes[i]),
            "resp_bytes": int(c.resp_bytes[i]),
            "orig_pkts": int(c.orig_pkts[i]),
            "resp_pkts": int(c.resp_pkts[i]),
            "missed": int(c.missed_bytes[i]),
            "vlan": (int(c.vlan[i]), int(c.inner_vlan[i])),
            "tunneled": bool(c.tunneled[i]),
            "stage": int(c.stage[i]),
            "end": float(c.end[i]),
            "ts": float(c.ts[i]),
        }
        for i in range(len(c))
    ]


def _text(packed: Any) -> str:
    address = ip_address(packed.tobytes())
    return str(getattr(address, "ipv4_mapped", None) or address)
