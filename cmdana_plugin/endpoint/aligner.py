"""Stream join by uid of what Zeek observes: batches in, blocks of complete windows out."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.endpoint.observed import Batch, ConnectionRow
from feature_extractors import (
    CONN_STATES,
    MAX_LOG_ENTRIES,
    MAX_PACKETS,
    Connections,
    Counts,
    LogEntry,
    Packets,
    Stage,
    Windows,
    addresses_of,
)

_STATE_CODE: Final = {name: code for code, name in enumerate(CONN_STATES)}
# seconds that workers of a cluster may be apart; a greater step back is another capture
_MAX_SKEW: Final = 60.0
# x509 entries remembered by fingerprint, as Zeek logs each certificate once a day
_CERTIFICATES: Final = 10_000

_CERTIFICATES_SHARE: Final = 4  # their part of the bytes that log entries may hold, beside these


@dataclass(slots=True)
class _Pending:
    entries: list[LogEntry] = field(default_factory=list)
    bytes: int = 0


class Aligner:
    """Joins log entries to their connection and packs ended connections into `Windows`, in order of `end`.

    Zeek publishes a connection after its logs, so a window is complete when its connection arrives; a log that
    arrives later is counted (`late_log` within the memory of the last uids) and passed over. A modality that has
    not arrived is empty. State is bounded by `max_uids` and `max_bytes` over all pending log entries; past a bound
    the uid longest without a new entry is let go and counted.
    """

    def __init__(self, max_uids: int = 100_000, max_bytes: int = 256 * 1024 * 1024) -> None:
        self.counts = Counts()
        self._max_uids = max_uids
        self._max_bytes = max_bytes
        self._pending: OrderedDict[str, _Pending] = OrderedDict()
        self._pending_bytes = 0
        self._certificates: OrderedDict[str, tuple[LogEntry, int]] = OrderedDict()
        self._certificate_bytes = 0
        self._ended: set[str] = set()
        self._ended_in_turn: deque[str] = deque()
        self._end = -np.inf

    def receive(self, batches: Sequence[Batch]) -> Windows:
        """The windows that these batches complete, early ones among them, in order of `end`."""
        rows: list[ConnectionRow] = []
        logs: list[list[LogEntry]] = []
        for batch in batches:
            for entry, size in zip(batch.logs, batch.log_bytes, strict=True):
                self._keep(entry, size)
            for row in batch.connections:
                rows.append(row)
                logs.append(self._logs_of(row))
        order = sorted(range(len(rows)), key=lambda i: rows[i].end)
        windows = pack([rows[i] for i in order], [logs[i] for i in order])
        self._forward(windows.connections.end)
        return windows

    def finish(self) -> None:
        """Counts the log entries whose connection never came, and drops them."""
        self.counts.add("log_without_connection", sum(len(p.entries) for p in self._pending.values()))
        self._pending.clear()
        self._pending_bytes = 0

    def _keep(self, entry: LogEntry, size: int) -> None:
        if entry.stream == "x509":
            fingerprint = entry.fields.get("fingerprint")
            if isinstance(fingerprint, str):
                self._certificate_bytes += size - self._certificates.pop(fingerprint, (entry, 0))[1]
                self._certificates[fingerprint] = entry, size
                while (
                    len(self._certificates) > _CERTIFICATES
                    or self._certificate_bytes > self._max_bytes // _CERTIFICATES_SHARE
                ):
                    self._certificate_bytes -= self._certificates.popitem(last=False)[1][1]
                    self.counts.add("certificate_forgotten")
            return
        if entry.uid in self._ended:
            self.counts.add("late_log")
            return
        pending = self._pending.setdefault(entry.uid, _Pending())
        self._pending.move_to_end(entry.uid)
        if len(pending.entries) >= MAX_LOG_ENTRIES:
            self.counts.add("log_beyond_window")
            return
        pending.entries.append(entry)
        pending.bytes += size
        self._pending_bytes += size
        while len(self._pending) > self._max_uids or self._pending_bytes > self._max_bytes:
            _, evicted = self._pending.popitem(last=False)
            self._pending_bytes -= evicted.bytes
            self.counts.add("log_evicted", len(evicted.entries))

    def _logs_of(self, row: ConnectionRow) -> list[LogEntry]:
        if row.stage == Stage.EARLY:
            pending = self._pending.get(row.uid)
            return self._with_certificates(row.uid, list(pending.entries)) if pending else []
        if row.uid not in self._ended:
            self._ended.add(row.uid)
            self._ended_in_turn.append(row.uid)
            if len(self._ended) > self._max_uids:
                self._ended.remove(self._ended_in_turn.popleft())
        pending = self._pending.pop(row.uid, None)
        if pending is None:
            return []
        self._pending_bytes -= pending.bytes
        return self._with_certificates(row.uid, pending.entries)

    def _with_certificates(self, uid: str, entries: list[LogEntry]) -> list[LogEntry]:
        for entry in [e for e in entries if e.stream == "ssl"]:
            chain = entry.fields.get("cert_chain_fps")
            for fingerprint in chain if isinstance(chain, list) else ():
                known = self._certificates.get(fingerprint) if isinstance(fingerprint, str) else None
                if known is not None and len(entries) < MAX_LOG_ENTRIES:
                    entries.append(LogEntry("x509", entry.ts, uid, known[0].fields))
        entries.sort(key=lambda e: e.ts)
        return entries

    def _forward(self, end: NDArray[np.float64]) -> None:
        """Lifts an `end` that lies a little before what was scored already to that time, in place."""
        if not len(end):
            return
        behind = (end < self._end) & (end > self._end - _MAX_SKEW)
        self.counts.add("connection_behind_others", int(behind.sum()))
        end[behind] = self._end
        self._end = float(end.max()) if end[-1] >= self._end - _MAX_SKEW else float(end[-1])


def pack(rows: Sequence[ConnectionRow], logs: Sequence[Sequence[LogEntry]]) -> Windows:
    """Connection rows and their log entries as a block of windows, in the order given."""
    n = len(rows)
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(ConnectionRow._fields)
    c = dict(zip(ConnectionRow._fields, columns, strict=True))
    connections = Connections(
        uid=np.array([u.encode() for u in c["uid"]], "S20"),
        ts=np.array(c["ts"], np.float64),
        end=np.array(c["end"], np.float64),
        stage=np.array(c["stage"], np.int8),
        orig_h=addresses_of(c["orig_h"]),
        resp_h=addresses_of(c["resp_h"]),
        orig_p=np.array(c["orig_p"], np.uint16),
        resp_p=np.array(c["resp_p"], np.uint16),
        ip_proto=np.array([p if p < 256 else 255 for p in c["ip_proto"]], np.uint8),
        service=[",".join(sorted(s.split(","))) for s in c["service"]],
        duration=np.array([np.nan if v < 0 else v for v in c["duration"]], np.float64),
        orig_bytes=_counts(c["orig_bytes"]),
        resp_bytes=_counts(c["resp_bytes"]),
        conn_state=np.array([_STATE_CODE.get(s, -1) for s in c["conn_state"]], np.int8),
        missed_bytes=_counts(c["missed_bytes"]),
        history=np.array([h.encode("ascii", "replace") for h in c["history"]], "S64"),
        orig_pkts=_counts(c["orig_pkts"]),
        orig_ip_bytes=_counts(c["orig_ip_bytes"]),
        resp_pkts=_counts(c["resp_pkts"]),
        resp_ip_bytes=_counts(c["resp_ip_bytes"]),
        vlan=np.array(c["vlan"], np.int32),
        inner_vlan=np.array(c["inner_vlan"], np.int32),
        tunneled=np.array(c["tunneled"], np.bool_),
    )
    log_start = np.zeros(n + 1, np.int64)
    np.cumsum([len(entries) for entries in logs], out=log_start[1:])
    packets, packet_start = _packets(c["packets"], connections.ts)
    return Windows(
        connections=connections,
        packets=packets,
        packet_start=packet_start,
        logs=[entry for entries in logs for entry in entries],
        log_start=log_start,
    )


def _packets(described: Sequence[list[int]], ts: NDArray[np.float64]) -> tuple[Packets, NDArray[np.int64]]:
    """Time, direction and size of each packet, from what each side of its connection had sent by then."""
    start = np.zeros(len(described) + 1, np.int64)
    np.cumsum([min(len(d) // 3, MAX_PACKETS) for d in described], out=start[1:])
    packet_values = np.array([v for d in described for v in d[: 3 * MAX_PACKETS]], np.float64)
    at, orig, resp = packet_values.reshape(-1, 3).T
    n = len(at)
    first = np.zeros(n, np.bool_)
    first[start[:-1][np.diff(start) > 0]] = True
    orig_before, resp_before = (np.where(first, 0.0, np.roll(side, 1)) for side in (orig, resp))
    by_orig, by_resp = orig - orig_before, resp - resp_before
    # One packet adds to one side. Where it seems to have changed both, Zeek has changed the roles in between.
    turned = (by_orig < 0) | (by_resp < 0) | ((by_orig > 0) & (by_resp > 0))
    is_orig = np.where(turned, orig > resp_before, by_orig > 0)
    turns = np.cumsum(turned)
    later = np.repeat(np.append(turns, 0)[start[1:] - 1], np.diff(start)) - turns
    packets = Packets(
        ts=np.repeat(ts, np.diff(start)) + at / 1e6,
        is_orig=is_orig ^ (later % 2 == 1),
        ip_length=_clip(by_orig + by_resp, np.int32),
        payload=np.full(n, -1, np.int32),
    )
    return packets, start


def _clip(column: NDArray[np.float64], dtype: type[np.signedinteger]) -> NDArray[np.signedinteger]:
    return np.clip(column, -1, np.iinfo(dtype).max).astype(dtype)


def _counts(column: Sequence[int]) -> NDArray[np.int64]:
    return np.array([min(v, 2**63 - 1) for v in column], np.int64)
