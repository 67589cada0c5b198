"""What whoever originates connections can change of them: bytes, packets, sizes and times, columns changing together.

Allowed: more bytes, more packets, other packet sizes, delays, a slower pace. Never: fewer bytes, another handshake,
what the responder does, other hosts' traffic, logs. Every function gives windows whose order of `end` may be another.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.training.recording import Recording
from feature_extractors import MAX_PACKETS, Connections, Packets, Windows

_SEGMENT: Final = 1400  # bytes of payload that a packet may be padded to
_JUNK: Final = 512  # bytes


@dataclass(slots=True)
class Changed:
    """The columns of one recording while they are being changed."""

    windows: Windows
    mine: NDArray[np.bool_]  # [n] connections of the attacker
    able: NDArray[np.bool_]  # [n] of these, where the originator sends payload or could


def changed_of(recording: Recording) -> Changed:
    """The recording's windows, to be changed by whoever originates what is malicious in it."""
    c = recording.windows.connections
    assert recording.label is not None
    mine = recording.label == 1
    able = mine & (((c.ip_proto == 6) & (c.orig_bytes > 0)) | ((c.ip_proto == 17) & (c.orig_pkts > 0)))
    return Changed(recording.windows, mine, able)


def _owner(w: Windows) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(w)), np.diff(w.packet_start))


def pad(x: Changed, factor: float = 2.0) -> Windows:
    """The windows with every payload of the originator padded to `factor` times its length, 1,400 bytes at most."""
    w = x.windows
    owner = _owner(w)
    p = w.packets
    hit = x.able[owner] & p.is_orig & (p.payload > 0) & (p.payload < _SEGMENT)
    wanted = ((factor - 1.0) * p.payload).astype(np.int64)
    more = np.where(hit, np.minimum(wanted, _SEGMENT - p.payload), 0).astype(np.int32)
    return _with(
        w,
        replace(p, payload=p.payload + more, ip_length=p.ip_length + more),
        np.bincount(owner, more, len(w)),
    )


def split(x: Changed) -> Windows:
    """The windows with every payload of the originator split into two packets."""
    w = x.windows
    owner = _owner(w)
    p = w.packets
    hit = x.able[owner] & p.is_orig & (p.payload > 1) & (w.connections.ip_proto[owner] == 6)
    rows = np.repeat(np.arange(len(owner)), 1 + hit)
    second = np.zeros(len(rows), np.bool_)
    second[1:] = rows[1:] == rows[:-1]
    first = np.zeros(len(rows), np.bool_)
    first[:-1] = second[1:]
    taken = Packets(**{f.name: getattr(p, f.name)[rows] for f in fields(Packets)})
    half = np.where(
        first, taken.payload // 2, np.where(second, taken.payload - taken.payload // 2, taken.payload)
    )
    header = taken.ip_length - taken.payload
    taken = replace(taken, payload=half.astype(np.int32), ip_length=(half + header).astype(np.int32))
    packets = np.bincount(owner, hit, len(w)).astype(np.int64)
    extra = np.bincount(owner, np.where(hit, p.ip_length - p.payload, 0), len(w)).astype(np.int64)
    return _bounded(_with(w, taken, 0, packets, extra), owner[rows])


def junk(x: Changed, count: int = 1, payload: int = _JUNK) -> Windows:
    """The windows with `count` more packets of the originator at the end, of `payload` bytes without meaning."""
    return _appended(x, count, payload)


def chatter(x: Changed) -> Windows:
    """The windows with three more packets of the originator at the end: empty, or of one byte for datagrams."""
    return _appended(x, 3, 0)


def delay(x: Changed, factor: float = 4.0) -> Windows:
    """The windows with `factor` times the time between the packets of a connection."""
    w, c = x.windows, x.windows.connections
    p = w.packets
    owner = _owner(w)
    stretched = c.ts[owner] + factor * (p.ts - c.ts[owner])
    longer = np.where(x.mine, (factor - 1.0) * np.nan_to_num(c.duration), 0.0)
    when = np.where(x.mine[owner], stretched, p.ts)
    end = c.end + longer
    np.maximum.at(end, owner, np.where(x.mine[owner], when, -np.inf))  # a packet may lie beyond the duration
    duration = np.where(x.mine, factor * c.duration, c.duration)
    return replace(w, packets=replace(p, ts=when), connections=replace(c, duration=duration, end=end))


def pace(x: Changed, factor: float = 10.0, later: NDArray[np.float64] | None = None) -> Windows:
    """The windows with `factor` times the time between connections, each `later` [n] seconds besides."""
    w, c = x.windows, x.windows.connections
    if not x.mine.any():
        return w
    more = 0.0 if later is None else later
    later = np.where(x.mine, (factor - 1.0) * (c.ts - c.ts[x.mine].min()) + more, 0.0)
    return replace(
        w,
        packets=replace(w.packets, ts=w.packets.ts + later[_owner(w)]),
        connections=replace(c, ts=c.ts + later, end=c.end + later),
    )


def _with(
    w: Windows,
    packets: Packets,
    more_bytes: NDArray[Any] | int,
    more_packets: NDArray[Any] | int = 0,
    more_headers: NDArray[Any] | int = 0,
) -> Windows:
    """The originator's totals raised by what its listed packets gained; unset stays unset."""
    c = w.connections
    added = np.broadcast_to(np.asarray(more_bytes, np.int64), (len(w),))
    columns: dict[str, Any] = {
        "orig_bytes": np.where(
            c.orig_bytes >= 0, c.orig_bytes + added, np.where(added > 0, added, c.orig_bytes)
        ),
        "orig_pkts": c.orig_pkts + more_packets,
        "orig_ip_bytes": c.orig_ip_bytes + added + more_headers,
    }
    return replace(w, packets=packets, connections=Connections(**{**_columns(c), **columns}))


def _columns(c: Connections) -> dict[str, Any]:
    return {f.name: getattr(c, f.name) for f in fields(Connections)}


def jitter(x: Changed, factor: float, share: float, rng: np.random.Generator) -> NDArray[np.float64] | None:
    """Seconds [n] by which each connection is later, drawn up to `share` of the mean interval at a pace of `factor`."""
    c = x.windows.connections
    if share == 0.0 or x.mine.sum() < 2:
        return None
    span = factor * float(np.ptp(c.ts[x.mine]))
    mean = span / (int(x.mine.sum()) - 1)
    later: NDArray[np.float64] = np.where(x.mine, rng.uniform(0.0, share * mean, len(c)), 0.0)
    return later


# Columns that change together


def _headers(w: Windows) -> NDArray[np.int64]:
    """Bytes [n] of the headers of a connection's packets with payload: the least that its originator sends."""
    p = w.packets
    header = np.where(w.connections.ip_proto == 17, 28, 52).astype(np.int64)
    mine = p.is_orig & (p.payload > 0) & (p.ip_length > p.payload)
    least = np.full(len(w), np.iinfo(np.int64).max)
    np.minimum.at(least, _owner(w)[mine], (p.ip_length - p.payload)[mine])
    out: NDArray[np.int64] = np.where(least < np.iinfo(np.int64).max, least, header)
    return out


def _appended(x: Changed, count: int, payload: int) -> Windows:
    """`count` packets of the originator after the last of each able connection, a hundredth of a second apart."""
    w, c = x.windows, x.windows.connections
    size = np.where(c.ip_proto == 17, np.maximum(payload, 1), payload)
    header = _headers(w)
    packets = np.where(x.able, count, 0)
    owner = _owner(w)
    position = np.concatenate([np.arange(len(owner)), np.repeat(w.packet_start[1:], packets) - 0.5])
    belongs = np.concatenate([owner, np.repeat(np.arange(len(w)), packets)])
    order = np.argsort(position, kind="stable")
    last = np.repeat(c.ts + np.nan_to_num(c.duration), packets)
    step = np.concatenate([np.arange(1, k + 1) for k in packets]) if packets.sum() else np.zeros(0)
    new: dict[str, Any] = {
        "ts": last + 0.01 * step,
        "is_orig": np.ones(len(last), np.bool_),
        "payload": np.repeat(size, packets),
        "ip_length": np.repeat(size + header, packets),
    }
    joined = {
        f.name: np.concatenate([getattr(w.packets, f.name), new[f.name]])[order].astype(
            getattr(w.packets, f.name).dtype
        )
        for f in fields(Packets)
    }
    out = _with(w, Packets(**joined), packets * size, packets, packets * header)
    longer = np.where(packets > 0, 0.01 * count, 0.0)
    changed = replace(out.connections, duration=np.where(packets > 0, np.nan_to_num(c.duration) + longer, c.duration),
                      end=c.end + longer)  # fmt: skip
    return _bounded(replace(out, connections=changed), belongs[order])


def _bounded(w: Windows, owner: NDArray[np.int64]) -> Windows:
    """The first packets of each connection, with `owner` [P] of all."""
    counts = np.bincount(owner, minlength=len(w.connections))
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    keep = np.arange(len(owner)) - first[owner] < MAX_PACKETS
    start = np.concatenate([[0], np.cumsum(np.minimum(counts, MAX_PACKETS))]).astype(np.int64)
    packets = Packets(**{f.name: getattr(w.packets, f.name)[keep] for f in fields(Packets)})
    return replace(w, packets=packets, packet_start=start)
