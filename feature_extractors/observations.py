"""The three modalities in Zeek's names: packets, connections and log entries, as columns of a `Windows` block.

A `Windows` block is all that is known of `n` connections over one span each. The embedded engine makes one from a
capture (`extract.Extractor`), the live endpoint from Zeek's events (`endpoint.aligner.Aligner`), training on logs
from a directory of Zeek logs (`readers.zeek_logs`); from here on nobody needs to know which.

Unset stays unset: NaN in a float column, -1 in an integer column, "" in a text column, and no rows for a missing
modality. Zero means zero.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

LogValue = bool | int | float | str | list["LogValue"] | None

MAX_PACKETS: Final = 32  # packets of a connection that the packet modality describes (detector.md, section 3)
MAX_LOG_ENTRIES: Final = (
    256  # log entries of a connection that count, and that are kept where they wait for it
)


class Modality(enum.IntEnum):
    """The three streams, and the state as the fourth thing a verdict may rely on."""

    PACKET = 0
    CONNECTION = 1
    LOG = 2
    STATE = 3


class Stage(enum.IntEnum):
    """Early: at 32 packets or 10 s of a connection that lives on. Final: at its end."""

    EARLY = 0
    FINAL = 1


# Zeek's conn_state, in the order of the code in `Connections.conn_state` (base/protocols/conn/main.zeek).
CONN_STATES: Final = (
    "S0", "S1", "SF", "REJ", "S2", "S3", "RSTO", "RSTR", "RSTOS0", "RSTRH", "SH", "SHR", "OTH",
)  # fmt: skip

# Zeek's `proto` by the IP protocol number that we store; every other number is unknown_transport.
PROTO_NAMES: Final[Mapping[int, str]] = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmp"}


class LogEntry(NamedTuple):  # made in a third of a dataclass' time, and there are many
    """One record of one Zeek log stream that belongs to a connection, with Zeek's field names.

    `stream` is the log's path without extension ("dns", "http", "ssl"). `fields` leaves out `ts`, `uid` and `id`
    and holds set fields only; times and intervals are seconds as float.
    """

    stream: str
    ts: float
    uid: str
    fields: Mapping[str, LogValue]


class LogRow(NamedTuple):
    """One row of one Zeek log stream as it is written: with what `LogEntry` leaves out."""

    written: float  # network time at which Zeek writes it, seconds since the epoch
    stream: str
    ts: float
    uid: str
    orig_h: str
    orig_p: int
    resp_h: str
    resp_p: int
    fields: Mapping[str, LogValue]


@dataclass(frozen=True, slots=True)
class Packets:
    """The first `MAX_PACKETS` packets of each connection, in order of arrival, all connections joined end to end.

    Rows that came from Zeek's events are of the first 16 packets, and their `payload` is unset.
    """

    ts: NDArray[np.float64]  # [P] seconds since the epoch
    is_orig: NDArray[np.bool_]  # [P] sent by the originator
    ip_length: NDArray[np.int32]  # [P] bytes of the IP packet, header included
    payload: NDArray[
        np.int32
    ]  # [P] bytes of transport payload, -1 unset; which an attacker may pad (`perturb`)


@dataclass(frozen=True, slots=True)
class Connections:
    """`n` connections as Zeek's conn.log has them, one row each."""

    uid: NDArray[np.bytes_]  # [n] S20; 'C' plus base62
    ts: NDArray[np.float64]  # [n] seconds since the epoch, of the first packet
    end: NDArray[np.float64]  # [n] network time at which the row was made; the order in which rows are scored
    stage: NDArray[np.int8]  # [n] Stage
    orig_h: NDArray[np.uint8]  # [n, 16] IPv4 as ::ffff:a.b.c.d
    resp_h: NDArray[np.uint8]  # [n, 16]
    orig_p: NDArray[np.uint16]  # [n] ICMP: Zeek's convention, type of the originator
    resp_p: NDArray[np.uint16]  # [n] ICMP: Zeek's convention, type of the answer or the code
    ip_proto: NDArray[np.uint8]  # [n] IP protocol number
    service: Sequence[str]  # [n] Zeek's service: sorted, joined by ",", "" unset
    duration: NDArray[np.float64]  # [n] seconds, NaN unset
    orig_bytes: NDArray[np.int64]  # [n] payload bytes (TCP: by sequence numbers), -1 unset
    resp_bytes: NDArray[np.int64]  # [n]
    conn_state: NDArray[np.int8]  # [n] index into CONN_STATES, -1 unset
    missed_bytes: NDArray[np.int64]  # [n]
    history: NDArray[np.bytes_]  # [n] S64
    orig_pkts: NDArray[np.int64]  # [n]
    orig_ip_bytes: NDArray[np.int64]  # [n]
    resp_pkts: NDArray[np.int64]  # [n]
    resp_ip_bytes: NDArray[np.int64]  # [n]
    vlan: NDArray[np.int32]  # [n] outer VLAN id, -1 unset
    inner_vlan: NDArray[np.int32]  # [n] -1 unset
    tunneled: NDArray[np.bool_]  # [n] seen inside a tunnel that was decapsulated

    def __len__(self) -> int:
        return len(self.ts)


@dataclass(frozen=True, slots=True)
class Windows:
    """The three modalities of `n` connections: row i owns packets [packet_start[i], packet_start[i+1]), and likewise
    logs.
    """

    connections: Connections
    packets: Packets
    packet_start: NDArray[np.int64]  # [n + 1]
    logs: Sequence[LogEntry]
    log_start: NDArray[np.int64]  # [n + 1]

    def __len__(self) -> int:
        return len(self.connections)


def take(windows: Windows, rows: NDArray[np.int64]) -> Windows:
    """The windows of `rows`, in the order given; time and memory are linear in what is taken."""
    packet_rows, packet_start = ragged(windows.packet_start, rows)
    log_rows, log_start = ragged(windows.log_start, rows)
    return Windows(
        connections=take_connections(windows.connections, rows),
        packets=Packets(**{f.name: getattr(windows.packets, f.name)[packet_rows] for f in fields(Packets)}),
        packet_start=packet_start,
        logs=[windows.logs[i] for i in log_rows],
        log_start=log_start,
    )


def take_connections(connections: Connections, rows: NDArray[np.int64]) -> Connections:
    """The connections of `rows`, in the order given."""
    columns: dict[str, Any] = {
        f.name: [connections.service[i] for i in rows]
        if f.name == "service"
        else getattr(connections, f.name)[rows]
        for f in fields(Connections)
    }
    return Connections(**columns)


def concat_connections(parts: Sequence[Connections]) -> Connections:
    """The connections of all parts, one or more, joined end to end."""
    columns: dict[str, Any] = {
        f.name: [s for c in parts for s in c.service]
        if f.name == "service"
        else np.concatenate([getattr(c, f.name) for c in parts])
        for f in fields(Connections)
    }
    return Connections(**columns)


def concat(blocks: Sequence[Windows]) -> Windows:
    """The windows of all blocks, joined end to end. Raises `ValueError` where there is none."""
    if not blocks:
        raise ValueError("concat needs at least one block of windows")
    return Windows(
        connections=concat_connections([b.connections for b in blocks]),
        packets=Packets(
            **{f.name: np.concatenate([getattr(b.packets, f.name) for b in blocks]) for f in fields(Packets)}
        ),
        packet_start=joined([b.packet_start for b in blocks]),
        logs=[entry for b in blocks for entry in b.logs],
        log_start=joined([b.log_start for b in blocks]),
    )


def ragged(start: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The indices of the elements that `rows` own in a ragged array (CSR offsets `start`), and their new offsets."""
    lengths = start[rows + 1] - start[rows]
    new = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=new[1:])
    return np.arange(new[-1]) - np.repeat(new[:-1] - start[rows], lengths), new


def joined(starts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The offsets of a ragged array whose parts, with offsets `starts`, are joined end to end."""
    offsets = np.cumsum([0] + [int(s[-1]) for s in starts])
    return np.concatenate([[0]] + [s[1:] + o for s, o in zip(starts, offsets, strict=False)]).astype(np.int64)
