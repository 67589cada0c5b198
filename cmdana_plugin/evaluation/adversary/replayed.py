"""A plan in real packets: the attack's capture rewritten as the plan says, and replayed, to see whether it can be.

Frames of the attack's connections are found by their ends and times. Their payload is padded, split and followed by
junk, sequence numbers and acknowledgements move with it, times, source addresses and ports are the plan's. What the
content then means is for the analyzers to say: padding inside a protocol is no longer that protocol. Two things differ
from the columns on purpose, since packets cannot do them otherwise: junk comes before a connection is closed, and what
closes it comes so much later.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin import files
from cmdana_plugin.config import Config
from cmdana_plugin.evaluation.adversary.plans import Plan, is_extra
from cmdana_plugin.replay import Summary, extract
from cmdana_plugin.training import Recording, changed_of
from feature_extractors import Connections, Windows, concat, take
from feature_extractors.readers import open_capture

_SEGMENT: Final = 1400  # bytes that payload may be padded to
_JUNK: Final = 256  # bytes of a packet of junk
_STEP: Final = 0.01  # seconds between packets of junk
_NEAR: Final = 0.1  # seconds by which a packet may lie outside its connection's row
_TCP, _UDP = 6, 17
_FIN, _SYN, _RST = 1, 2, 4
_ETHERNET, _RAW = 1, (12, 14, 101)
# Columns that a replay is compared in, and what of a difference is none (relative).
COLUMNS: Final = ("orig_bytes", "orig_pkts", "orig_ip_bytes", "resp_bytes", "resp_pkts", "conn_state", "history",
                  "duration", "logs")  # fmt: skip
_SAME: Final = 0.01

Ends = tuple[bytes, int, bytes, int, int]


@dataclass(slots=True)
class _Frame:
    """One frame of a connection over IP, taken apart; the IP header without options is written anew."""

    ts: float
    link: bytes  # header below IP
    ip: bytes  # header, options included
    ports: tuple[int, int]
    seq: int  # TCP only, as is what follows
    ack: int
    flags: int
    rest: bytes  # of the transport header behind what stands above, options included
    payload: bytes
    proto: int
    src: bytes
    dst: bytes

    def bytes(self) -> bytes:
        if self.proto == _TCP:
            head = struct.pack(
                ">HHIIBB",
                *self.ports,
                self.seq & 0xFFFFFFFF,
                self.ack & 0xFFFFFFFF,
                (20 + len(self.rest) - 6) << 2,
                self.flags,
            )
            transport = head + self.rest + self.payload
        else:
            transport = struct.pack(">HHHH", *self.ports, 8 + len(self.payload), 0) + self.payload
        ip = bytearray(self.ip)
        if ip[0] >> 4 == 4:
            struct.pack_into(">H", ip, 2, len(ip) + len(transport))
            ip[12:16], ip[16:20] = self.src[-4:], self.dst[-4:]
            struct.pack_into(">H", ip, 10, 0)
            struct.pack_into(">H", ip, 10, _checksum(bytes(ip)))
        else:
            struct.pack_into(">H", ip, 4, len(ip) - 40 + len(transport))
            ip[8:24], ip[24:40] = self.src, self.dst
        return self.link + bytes(ip) + transport


def _checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@dataclass(slots=True)
class _Flow:
    """One connection of the attack, and how far its sequence numbers have moved."""

    row: int
    able: bool
    begin: float
    duration: float
    later: float  # seconds that it begins later
    orig: bytes  # address and port of the originator
    orig_p: int
    source: bytes  # that it is given
    port: int
    frames: list[_Frame] = field(default_factory=list)


def rewritten(capture: Path, before: Recording, after: Recording, plan: Plan, out: Path) -> int:
    """Writes the capture as it would be had the attacker followed the plan; the number of connections rewritten.

    `after` is what `plans.apply` made of `before`, which is the capture's. Mixed in connections are not written: they
    are other captures'.
    """
    flows, of = _flows(before, after, plan)
    frames: list[tuple[float, bytes]] = []
    link = _ETHERNET
    for block in open_capture(capture):
        for i in range(len(block)):
            start, kind = int(block.start[i]), int(block.link[i])
            data = block.data[start : start + int(block.captured[i])].tobytes()
            link = kind
            frame = _taken_apart(data, float(block.ts[i]), kind, int(block.length[i]))
            flow = None if frame is None else _owner(frame, of)
            if frame is None or flow is None:
                frames.append((float(block.ts[i]), data))
            else:
                flow.frames.append(frame)
    for flow in flows:
        frames += [(f.ts, f.bytes()) for f in _changed(flow, plan)]
    frames.sort(key=lambda f: f[0])
    with files.replacing(out) as file:
        file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 1 << 18, link))
        for ts, data in frames:
            seconds = int(ts)
            file.write(struct.pack("<IIII", seconds, int((ts - seconds) * 1e9), len(data), len(data)) + data)
    return sum(bool(flow.frames) for flow in flows)


def _flows(before: Recording, after: Recording, plan: Plan) -> tuple[list[_Flow], dict[Ends, list[_Flow]]]:
    """The attack's connections, and the same by their ends either way."""
    x = changed_of(before)
    a, b = before.windows.connections, after.windows.connections
    row_of = {uid: i for i, uid in enumerate(b.uid.tolist())}
    flows: list[_Flow] = []
    of: dict[Ends, list[_Flow]] = defaultdict(list)
    for i in np.flatnonzero(x.mine & np.isin(a.ip_proto, (_TCP, _UDP))).tolist():
        j = row_of[a.uid[i]]
        flow = _Flow(
            i, bool(x.able[i]), float(a.ts[i]), float(np.nan_to_num(a.duration[i])), float(b.ts[j] - a.ts[i]),
            a.orig_h[i].tobytes(), int(a.orig_p[i]), b.orig_h[j].tobytes(), int(b.resp_p[j]),
        )  # fmt: skip
        flows.append(flow)
        ends = (flow.orig, flow.orig_p, a.resp_h[i].tobytes(), int(a.resp_p[i]), int(a.ip_proto[i]))
        of[ends].append(flow)
        of[(ends[2], ends[3], ends[0], ends[1], ends[4])].append(flow)
    return flows, of


def _owner(frame: _Frame, of: dict[Ends, list[_Flow]]) -> _Flow | None:
    ends = (frame.src, frame.ports[0], frame.dst, frame.ports[1], frame.proto)
    there = [f for f in of.get(ends, ()) if f.begin - _NEAR <= frame.ts]
    return max(there, key=lambda f: f.begin) if there else None


def _taken_apart(data: bytes, ts: float, link: int, length: int) -> _Frame | None:
    """The frame, if it is whole TCP or UDP over IP; payload that was not captured is zeros."""
    if link == _ETHERNET:
        at = 12
        while data[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
            at += 4
        at += 2
        if data[at - 2 : at] not in (b"\x08\x00", b"\x86\xdd"):
            return None
    elif link in _RAW:
        at = 0
    else:
        return None
    if len(data) < at + 20:
        return None
    if data[at] >> 4 == 4:
        header, whole = (data[at] & 15) * 4, int.from_bytes(data[at + 2 : at + 4], "big")
        proto, src, dst = data[at + 9], data[at + 12 : at + 16], data[at + 16 : at + 20]
        src, dst = (b"\0" * 10 + b"\xff\xff" + x for x in (src, dst))
        if int.from_bytes(data[at + 6 : at + 8], "big") & 0x3FFF:
            return None  # a fragment
        whole = whole or length - at  # offloaded to the network card
    elif len(data) >= at + 40:
        header, whole = 40, 40 + int.from_bytes(data[at + 4 : at + 6], "big")
        proto, src, dst = data[at + 6], data[at + 8 : at + 24], data[at + 24 : at + 40]
    else:
        return None
    inner = data[at + header : at + whole]
    inner += b"\0" * (whole - header - len(inner))
    if proto == _TCP and len(inner) >= 20:
        size = (inner[12] >> 4) * 4
        ports = struct.unpack(">HH", inner[:4])
        seq, ack = struct.unpack(">II", inner[4:12])
        return _Frame(ts, data[:at], data[at : at + header], ports, seq, ack, inner[13], inner[14:size],
                      inner[size:], proto, src, dst)  # fmt: skip
    if proto == _UDP and len(inner) >= 8:
        return _Frame(ts, data[:at], data[at : at + header], struct.unpack(">HH", inner[:4]), 0, 0, 0, b"", inner[8:],
                      proto, src, dst)  # fmt: skip
    return None


def _changed(flow: _Flow, plan: Plan) -> Iterator[_Frame]:
    """The frames of a connection as the plan has them."""
    gained: dict[int, int] = {}  # sequence number behind a segment -> bytes that it gained
    junk = plan.junk if flow.able else 0
    closing = 0.0
    sent: _Frame | None = None  # the originator's last before it is closed

    def moved(seq: int) -> int:
        return seq + sum(n for behind, n in gained.items() if (seq - behind) & 0xFFFFFFFF < 1 << 31)

    def out(f: _Frame, **more: Any) -> _Frame:
        own = (f.src, f.ports[0]) == (flow.orig, flow.orig_p)
        ports = (f.ports[0], flow.port) if own else (flow.port, f.ports[1])
        src, dst = (flow.source, f.dst) if own else (f.src, flow.source)
        ts = flow.begin + plan.delay * (f.ts - flow.begin) + flow.later + closing
        return replace(f, **{"ts": ts, "ports": ports, "src": src, "dst": dst, **more})

    def of_junk() -> Iterator[_Frame]:
        nonlocal closing
        if sent is None:
            return
        behind = sent.seq + len(sent.payload)
        at = moved(behind)
        for k in range(junk):
            closing += _STEP
            yield out(
                sent, payload=b"\0" * _JUNK, seq=at + k * _JUNK, flags=sent.flags & ~(_SYN | _FIN) | 0x18
            )
        gained[behind] = gained.get(behind, 0) + junk * _JUNK

    frames = sorted(flow.frames, key=lambda f: f.ts)
    for f in frames:
        own = (f.src, f.ports[0]) == (flow.orig, flow.orig_p)
        tcp = f.proto == _TCP
        if tcp and junk and f.flags & (_FIN | _RST) and sent is not None:
            yield from of_junk()
            junk = 0
        if not own:
            yield out(f, ack=moved(f.ack)) if tcp else out(f)
            continue
        parts = [f.payload]
        if plan.split and flow.able and tcp and len(f.payload) > 1:
            parts = [f.payload[: len(f.payload) // 2], f.payload[len(f.payload) // 2 :]]
        seq = f.seq
        for k, part in enumerate(parts):
            more = 0
            if flow.able and 0 < len(part) < _SEGMENT and plan.pad > 1.0:
                more = min(int((plan.pad - 1.0) * len(part)), _SEGMENT - len(part))
            last = k == len(parts) - 1
            flags = f.flags if last else f.flags & ~(_FIN | 8)
            yield out(f, payload=part + b"\0" * more, seq=moved(seq), flags=flags)
            seq += len(part)
            if tcp and more:
                gained.setdefault(seq, more)
        if not f.flags & (_SYN | _FIN | _RST) or not tcp:
            sent = f
    if junk and frames:
        if sent is None or sent.proto == _TCP:
            yield from of_junk()
        else:
            sent = replace(sent, ts=max(f.ts for f in frames))
            for _ in range(junk):
                closing += _STEP
                yield out(sent, payload=b"\0" * _JUNK)


def replayed(capture: Path, after: Recording, config: Config) -> Recording:
    """The recording of a rewritten capture, labelled as `after` is, by ends and beginning.

    With the connections that were mixed in, which are no part of the capture.
    """
    windows = concat(list(extract([capture], config, Summary([str(capture)]))))
    assert after.label is not None
    mixed = np.flatnonzero(is_extra(after.windows.connections))
    label, family = np.full(len(windows) + len(mixed), -1, np.int8), [""] * (len(windows) + len(mixed))
    for i, j in _pairs(after.windows, windows):
        label[j], family[j] = after.label[i], after.family[i] if after.family else ""
    windows = concat([windows, take(after.windows, mixed)])
    order = np.argsort(windows.connections.end, kind="stable")
    return Recording(after.name, take(windows, order), label[order], [family[i] for i in order.tolist()])


def _pairs(a: Windows, b: Windows) -> list[tuple[int, int]]:
    """Rows of `a` and of `b` that are the same connection."""

    def ends(c: Connections, i: int) -> Any:
        return (
            c.orig_h[i].tobytes(),
            int(c.orig_p[i]),
            c.resp_h[i].tobytes(),
            int(c.resp_p[i]),
            int(c.ip_proto[i]),
        )

    there: dict[Any, list[int]] = defaultdict(list)
    for j in range(len(b)):
        there[ends(b.connections, j)].append(j)
    out = []
    for i in range(len(a)):
        near = [
            j for j in there[ends(a.connections, i)] if abs(b.connections.ts[j] - a.connections.ts[i]) < _NEAR
        ]
        if near:
            out.append((i, min(near, key=lambda j: abs(b.connections.ts[j] - a.connections.ts[i]))))
    return out


def compared(after: Recording, again: Recording) -> dict[str, float]:
    """Of the attack's connections the share that the replay has, and of these that is the same by column."""
    a, b = after.windows, again.windows
    assert after.label is not None
    mine = [(i, j) for i, j in _pairs(a, b) if after.label[i] == 1]
    found = {"there": len(mine) / max(int((after.label == 1).sum()), 1)}
    at, to = (
        (np.array(x, np.int64) for x in zip(*mine, strict=True)) if mine else (np.zeros(0, np.int64),) * 2
    )
    for name in COLUMNS:
        if name == "logs":
            same = np.array([_streams(a, i) == _streams(b, j) for i, j in mine])
        else:
            x, y = getattr(a.connections, name)[at], getattr(b.connections, name)[to]
            same = x == y if x.dtype.kind in "S" or name == "conn_state" else _near(x, y)
        found[name] = float(same.mean()) if mine else 0.0
    return found


def _near(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.bool_]:
    x, y = np.nan_to_num(x.astype(np.float64)), np.nan_to_num(y.astype(np.float64))
    out: NDArray[np.bool_] = np.abs(x - y) <= _SAME * np.maximum(np.abs(x), 1.0) + 5 * _STEP
    return out


def _streams(w: Windows, i: int) -> list[str]:
    return sorted(e.stream for e in w.logs[int(w.log_start[i]) : int(w.log_start[i + 1])])


def check(
    capture: Path, before: Recording, after: Recording, plan: Plan, folder: Path, config: Config
) -> tuple[dict[str, float], Recording]:
    """How a plan's outcome compares with its replay, and the replay itself; the capture is written into `folder`."""
    out = folder / "attack.pcap"
    rewritten(capture, before, after, plan, out)
    again = replayed(out, after, config)
    return compared(after, again), again


def mean_of(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([r[name] for r in rows])) for name in rows[0]} if rows else {}
