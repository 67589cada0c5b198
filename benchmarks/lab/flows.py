"""The recording's connections, cut as Zeek cuts them, with the few header values the shortcut test asks for."""

from __future__ import annotations

import gzip
import math
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from benchmarks.lab.scenario import LabError

IDLE = {"tcp": 300.0, "udp": 60.0, "icmp": 60.0}  # seconds, Zeek's defaults
ATTEMPT, LINGER = (
    5.0,
    5.0,
)  # of a TCP connection with one side seen: after its SYN; after its end, Zeek's timers
# Zeek's timers of a TCP connection of which one side was seen: after its SYN; after its end, looked at every ROUND.
ATTEMPT, LINGER, ROUND = 5.0, 5.0, 6.0
DNS_IDLE = 10.0  # and for DNS, a question after its session's end
FRAGMENTED = 4096  # datagrams in several frames that are remembered
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp"}
Key = tuple[str, str, int, str, int]  # protocol, originator, its port, responder, its port
_COUNTERPART = {8: 0, 0: 8, 13: 14, 14: 13}  # ICMP request and reply, as in Zeek's icmp analyzer
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
# Zeek's likely_server_ports, but for high ones of UDP: who answers from one of them, and was not asked in the
# recording, is the responder all the same.
SERVER_PORTS = {
    "tcp": frozenset((
        21, 22, 25, 53, 79, 80, 81, 88, 135, 139, 143, 443, 445, 465, 502, 563, 585, 587, 614, 631, 636, 989, 990, 992,
        993, 995, 1080, 1434, 1883, 2811, 3128, 3306, 3389, 5222, 5223, 5269, 6666, 6667, 6668, 6669, 8000, 8080, 8888,
        20000,
    )),
    "udp": frozenset((53, 67, 88, 123, 137, 161, 162, 443, 514, 1812, 2123, 2152, 3389, 3544, 4011)),
    "icmp": frozenset[int](),
}  # fmt: skip
BROADCAST = "255.255.255.255"


@dataclass
class Flow:
    """One connection; grows while the capture is read."""

    key: Key
    start: float
    last: float
    packets: list[int] = field(default_factory=lambda: [0, 0])  # by originator, by responder
    payload: list[int] = field(default_factory=lambda: [0, 0])  # of payload
    flags: list[int] = field(default_factory=lambda: [0, 0])  # all TCP flags seen
    ttl: list[int] = field(default_factory=lambda: [0, 0])  # of the first packet each way
    window: list[int] = field(default_factory=lambda: [0, 0])
    mss: list[int] = field(default_factory=lambda: [0, 0])
    macs: bytes = b""  # of the responder and of the originator
    carriers: set[bytes] = field(default_factory=set)  # hardware addresses that frames came from
    questions: set[str] = field(default_factory=set)  # DNS names asked for
    answers: dict[str, str] = field(
        default_factory=dict
    )  # addresses that DNS answers gave, and to which name
    cause: Key | None = None  # of an ICMP error: the connection that it is about
    answer_after: float | None = None  # seconds until the responder's first packet

    @property
    def closed(self) -> bool:
        both = self.flags[0] & self.flags[1]
        return bool(both & _FIN or (self.flags[0] | self.flags[1]) & _RST)


def read(capture: Path) -> list[Flow]:
    """Every connection of the capture in order of its first packet."""
    walk = Walk()
    for ts, frame in frames(capture):
        walk.receive(ts, frame)
    return walk.flows


class Walk:
    """The connections of a capture, frame by frame."""

    def __init__(self) -> None:
        self.flows: list[Flow] = []
        self._opened: dict[Key, Flow] = {}
        self._fragmented: dict[
            bytes, Flow
        ] = {}  # of a datagram in several frames: the connection of the first

    def receive(self, ts: float, frame: bytes) -> Flow | None:
        """The connection to which this frame belongs, if it belongs to one."""
        flow = _frame(ts, frame, self._opened, self.flows)
        if len(frame) < 34 or frame[12:14] != b"\x08\x00" or not (frame[20] & 0x3F or frame[21]):
            return flow
        datagram = frame[18:20] + frame[23:24] + frame[26:34]
        if flow is None:
            return self._fragmented.get(datagram)
        if len(self._fragmented) >= FRAGMENTED:
            self._fragmented.clear()
        self._fragmented[datagram] = flow
        return flow


def frames(capture: Path) -> Iterator[tuple[float, bytes]]:
    """Time and bytes of each frame of a pcap file as tcpdump writes it, gzipped or not."""
    opener = gzip.open if capture.suffix == ".gz" else open
    with opener(capture, "rb") as file:
        yield from _records(file, capture)  # type: ignore[arg-type]


def _records(file: IO[bytes], capture: Path) -> Iterator[tuple[float, bytes]]:
    head = file.read(24)
    magic = struct.unpack("<I", head[:4])[0] if len(head) == 24 else 0
    if magic not in (0xA1B2C3D4, 0xA1B23C4D):
        raise LabError(f"{capture}: not a capture of this laboratory (little-endian pcap)")
    unit = 1e-6 if magic == 0xA1B2C3D4 else 1e-9
    while len(record := file.read(16)) == 16:
        seconds, fraction, size, _ = struct.unpack("<IIII", record)
        frame = file.read(size)
        if len(frame) < size:
            return
        yield seconds + fraction * unit, frame


def _frame(ts: float, frame: bytes, opened: dict[Key, Flow], flows: list[Flow]) -> Flow | None:
    if len(frame) < 34 or frame[12:14] != b"\x08\x00":
        return None
    header = (frame[14] & 15) * 4
    protocol = PROTOCOLS.get(frame[23])
    if protocol is None or struct.unpack("!H", frame[20:22])[0] & 0x1FFF:
        return None
    body = frame[14 + header : 14 + struct.unpack("!H", frame[16:18])[0]]
    source, target = socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])
    if len(body) < 8:
        return None
    flags, window, size = 0, 0, len(body) - 8
    cause = None
    if protocol == "icmp":
        source_port, target_port = body[0], _COUNTERPART.get(body[0], body[1])
        if body[0] in (3, 11, 12) and len(body) >= 36:
            cause = _quoted(body[8:])
    else:
        source_port, target_port = struct.unpack("!HH", body[:4])
        if protocol == "tcp" and len(body) >= 20:
            flags, window, size = (
                body[13],
                struct.unpack("!H", body[14:16])[0],
                len(body) - (body[12] >> 4) * 4,
            )
    key = (protocol, source, source_port, target, target_port)
    flow, side = _find(key, ts, flags, opened, flows)
    if flow.packets[side] == 0:
        flow.ttl[side], flow.window[side] = frame[22], window
        flow.mss[side] = _mss(body) if flags & _SYN else 0
        if side == 0:
            flow.cause = cause
        flow.macs = flow.macs or (frame[:12] if side == 0 else frame[6:12] + frame[:6])
        if side == 1 and flow.packets[0] and flow.answer_after is None:
            flow.answer_after = ts - flow.start
    flow.packets[side] += 1
    flow.carriers.add(frame[6:12])
    flow.payload[side] += size
    flow.flags[side] |= flags
    flow.last = ts
    if protocol == "udp" and target_port == 53 and size > 12:
        flow.questions.add(_question(body[8:]))
    elif protocol == "udp" and source_port == 53 and size > 12:
        flow.answers |= _answers_of(body[8:])
    return flow


def _find(key: Key, ts: float, flags: int, opened: dict[Key, Flow], flows: list[Flow]) -> tuple[Flow, int]:
    protocol, source, source_port, target, target_port = key
    reverse = (protocol, target, target_port, source, source_port)
    one_way = protocol == "icmp" and source_port not in _COUNTERPART  # an error answers nothing, as in Zeek
    for side, candidate in ((0, key),) if one_way else ((0, key), (1, reverse)):
        flow = opened.get(candidate)
        if flow is None:
            continue
        again = flags & (_SYN | _ACK) == _SYN and flow.closed
        if (
            ts - flow.last <= (DNS_IDLE if target_port == 53 and protocol == "udp" else IDLE[protocol])
            and not again
            and not (protocol == "tcp" and _given_up(flow, ts))
        ):
            return flow, side
        del opened[candidate]
    side = 0
    if _answers(key, flags):
        key, side = reverse, 1  # the recording missed the question
    flow = opened[key] = Flow(key, ts, ts)
    flows.append(flow)
    return flow, side


def _given_up(flow: Flow, ts: float) -> bool:
    """Whether Zeek has done with a connection that only one side of was seen of, when a packet comes at `ts`."""
    if all(flow.packets):
        return False
    if not (flow.flags[0] | flow.flags[1]) & (_FIN | _RST):
        return bool(flow.flags[0] & _SYN) and ts > flow.start + ATTEMPT
    rounds = max(0, math.floor((flow.last + LINGER - flow.start - ATTEMPT) / ROUND) + 1)
    return ts > flow.start + ATTEMPT + rounds * ROUND


def _answers(key: Key, flags: int) -> bool:
    """Whether a connection's first packet comes from its responder (Zeek's WantConnection)."""
    protocol, _, source_port, target, target_port = key
    if protocol == "tcp" and flags & (_SYN | _ACK) == _SYN:
        return False
    likely = SERVER_PORTS[protocol]
    if protocol == "tcp" and {source_port, target_port} <= likely:
        return not flags & _SYN and source_port < target_port
    return source_port in likely and target_port not in likely and target != BROADCAST


def _quoted(packet: bytes) -> Key | None:
    """The connection of the packet that an ICMP error quotes."""
    protocol = PROTOCOLS.get(packet[9])
    header = (packet[0] & 15) * 4
    if protocol is None or len(packet) < header + 4:
        return None
    source, target = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
    if protocol == "icmp":
        kind = packet[header]
        return (protocol, source, kind, target, _COUNTERPART.get(kind, packet[header + 1]))
    ports = struct.unpack("!HH", packet[header : header + 4])
    return (protocol, source, ports[0], target, ports[1])


def _mss(tcp: bytes) -> int:
    options = tcp[20 : (tcp[12] >> 4) * 4]
    while len(options) > 1 and options[0] != 0:
        if options[0] == 1:
            options = options[1:]
            continue
        if options[0] == 2 and len(options) >= 4:
            return int.from_bytes(options[2:4], "big")
        options = options[max(2, options[1]) :]
    return 0


def _question(message: bytes) -> str:
    """The first name of a DNS message, in lower case."""
    labels, at = [], 12
    while at < len(message) and 0 < message[at] < 64:
        labels.append(message[at + 1 : at + 1 + message[at]].decode("latin-1").lower())
        at += 1 + message[at]
    return ".".join(labels)


def _answers_of(message: bytes) -> dict[str, str]:
    """The IPv4 addresses in a DNS answer and the name that was asked for; none where it is cut."""
    name, found = _question(message), {}
    try:
        asked, given = struct.unpack("!HH", message[4:8])
        at = 12
        for _ in range(asked):
            at = _after_name(message, at) + 4
        for _ in range(given):
            at = _after_name(message, at)
            kind, _, _, size = struct.unpack("!HHIH", message[at : at + 10])
            if kind == 1 and size == 4:
                found[socket.inet_ntoa(message[at + 10 : at + 14])] = name
            at += 10 + size
    except (struct.error, IndexError, OSError):
        pass
    return found


def _after_name(message: bytes, at: int) -> int:
    while message[at] and message[at] < 64:
        at += 1 + message[at]
    return at + (2 if message[at] >= 64 else 1)
