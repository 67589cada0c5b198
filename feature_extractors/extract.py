"""From blocks of frames to windows: the embedded engine's extractor, `receive` and `finish`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from feature_extractors.addresses import address_texts
from feature_extractors.compiled import new_key
from feature_extractors.content import Content, ContentLimits, Row, Segments, Wanted
from feature_extractors.errors import CaptureError
from feature_extractors.frames import Counts, FrameBlock
from feature_extractors.observations import (
    MAX_LOG_ENTRIES,
    MAX_PACKETS,
    Connections,
    LogEntry,
    LogRow,
    Packets,
    Stage,
    Windows,
)
from feature_extractors.observations import concat as concat_windows
from feature_extractors.tracker import (
    BLOCK,
    CONNECTION,
    ENDPOINT,
    FRAGMENT_BUFFER,
    FRAGMENTS,
    FRAME_CONNECTIONS,
    FRAME_EXTRA,
    KEPT,
    KNOWN_LINKS,
    L_CONNECTIONS,
    N_DECODED,
    N_EXTRA,
    N_FREE,
    N_FREE_BLOCKS,
    N_FREE_KEPT,
    N_ROW_PACKETS,
    N_ROWS,
    N_SEED,
    N_SEED_2,
    N_SEGMENTS,
    N_UNKNOWN_LINK,
    NONE,
    PACKET,
    REASONS,
    ROW,
    ROW_PACKET,
    SEGMENT,
    State,
    TrackerLimits,
    likely_server_ports,
    refusal,
    tracker,
    uids,
)

G = TypeVar("G", bound=np.generic)

# Streams whose rows Zeek writes at the time that they carry; others at the connection's end, unless an analyzer said.
AT_ONCE: Final = frozenset(("modbus", "ntp", "weird", "x509", "irc"))

ROWS_ALONE: Final = frozenset(("files", "weird"))  # streams that have rows and no entries

_ENDED_CONNECTIONS: Final = 16_384  # ended connections between two looks at them
_BLOCK_SEGMENTS: Final = 4096


@dataclass(frozen=True, slots=True)
class ExtractorLimits:
    """The bounds of what the extractor may hold."""

    tracker: TrackerLimits = field(default_factory=TrackerLimits)
    content: ContentLimits = field(default_factory=ContentLimits)


class Extractor:
    """Frames in, windows out, in order of `end`; the same windows however the capture is cut into blocks.

    `early`: connections that live on after 32 packets or 10 s give an early window too, without log entries.
    `content`: payload is analysed for log entries and `service`. `logs`: also for the rows of Zeek's logs, which
    `rows` hands out. `brief`: unless `logs`, entries go without most of what neither a model nor an outcome reads
    (`Schema.reads`): the windows encode to the same.
    """

    def __init__(
        self,
        limits: ExtractorLimits | None = None,
        early: bool = False,
        content: bool = True,
        logs: bool = False,
        brief: bool = False,
    ) -> None:
        self._limits = limits or ExtractorLimits()
        self._content = Content(self._limits.content, logs, brief) if content else None
        self._logs = logs
        self._rows: list[LogRow] = []
        self._state = _new_state(self._limits.tracker, early, content)
        self._links: set[int] = set()
        self._frames = 0
        self._latest = -np.inf  # time of any frame so far
        self._backwards = 0  # frames whose time lies before that of an earlier one

    @property
    def counts(self) -> Counts:
        """The counts of what was passed over or dropped so far, by reason."""
        counts = Counts()
        for name, n in zip(REASONS, self._state.counts.tolist(), strict=True):
            if not name.startswith("_"):
                counts.add(name, n)
        counts.add("time_goes_back", self._backwards)
        if self._content is not None:
            counts.by_reason.update(self._content.counts.by_reason)
        return counts

    def rows(self) -> list[LogRow]:
        """The rows of the connections that ended since the last call, of each connection in the order it has them."""
        rows, self._rows = self._rows, []
        return rows

    def receive(self, block: FrameBlock) -> Windows:
        """The windows of connections that end by the last frame of the block, in order of `end`."""
        return _joined(list(self.parts(block)))

    def parts(self, block: FrameBlock) -> Iterator[Windows]:
        """As `receive`, at most 16,384 windows at a time: the whole block must be taken before the next is begun."""
        self._frames += len(block)
        if len(block) and block.link.min() == block.link.max():
            self._links.add(int(block.link[0]))
        else:
            self._links.update(np.unique(block.link).tolist())
        self._watch(block.ts)
        data, start, captured = _readonly(block.data), _readonly(block.start), _readonly(block.captured)
        length, ts, link = _readonly(block.length), _readonly(block.ts), _readonly(block.link)
        at = 0
        while True:
            at = tracker.process(self._state, data, start, captured, length, ts, link, at)
            yield self._drain(block.data)
            if at == len(block):
                return
            self._grow()

    def _watch(self, ts: NDArray[np.float64]) -> None:
        """Counts frames that come late: as in Zeek, the clock stands still for them."""
        if not len(ts):
            return
        latest = np.maximum.accumulate(ts)
        if ts[0] < self._latest or latest[-1] > ts[-1] or not np.array_equal(latest, ts):
            self._backwards += int((ts < np.maximum(latest, self._latest)).sum())
        self._latest = max(self._latest, float(latest[-1]))

    def finish(self) -> Windows:
        """The windows of all connections still open, which end now, as in Zeek when it stops.

        Raises as `ending` does.
        """
        return _joined(list(self.ending()))

    def ending(self) -> Iterator[Windows]:
        """As `finish`, at most 16,384 windows at a time: a flood leaves a quarter of a million.

        Raises `CaptureError` where not one frame could be decoded because of the capture's link type.
        """
        n = self._state.n
        if self._frames and not n[N_DECODED] and n[N_UNKNOWN_LINK] == self._frames:
            raise CaptureError(refusal(self._links - KNOWN_LINKS or self._links))
        slots = np.flatnonzero(self._state.heap_at != NONE).astype(np.int32)
        order = slots[np.argsort(self._state.conns["serial"][slots])]
        at = 0
        while True:
            at = tracker.finish(self._state, order, at)
            yield self._drain(np.zeros(0, np.uint8))
            if at == len(order):
                return

    def _grow(self) -> None:
        """Doubles what ran short; the limits bound it all, since each thing belongs to a connection."""
        st = self._state
        if st.n[N_FREE] < FRAME_CONNECTIONS:
            old = len(st.conns)
            new = min(2 * old, max(int(st.limits[L_CONNECTIONS]), old) + 2 * FRAME_CONNECTIONS)
            table = np.full(_table_size(new), NONE, np.int32)
            heap_at = np.full(new, NONE, np.int32)
            heap_at[:old] = st.heap_at
            free = np.empty(new, np.int32)
            free[: st.n[N_FREE]] = st.free[: st.n[N_FREE]]
            free[st.n[N_FREE] : st.n[N_FREE] + new - old] = np.arange(new - 1, old - 1, -1)
            st.n[N_FREE] += new - old
            st = _replace(
                st,
                conns=_longer(st.conns, new),
                ends=_longer(st.ends, 2 * new),
                free=free,
                table=table,
                heap=_longer(st.heap, new),
                heap_at=heap_at,
                heap_time=_longer(st.heap_time, new),
            )
            tracker.rehash(st, np.flatnonzero(heap_at != NONE).astype(np.int32))
        if st.n[N_FREE_KEPT] < FRAME_CONNECTIONS:
            kept, free = _longer_pool(st.kept, st.free_kept, int(st.n[N_FREE_KEPT]))
            st.n[N_FREE_KEPT] += len(kept) // 2
            st = _replace(st, kept=kept, free_kept=free)
        if st.n[N_FREE_BLOCKS] < FRAME_CONNECTIONS:
            blocks, free = _longer_pool(st.blocks, st.free_blocks, int(st.n[N_FREE_BLOCKS]))
            st.n[N_FREE_BLOCKS] += len(blocks) // 2
            st = _replace(st, blocks=blocks, free_blocks=free)
        self._state = st

    def _drain(self, data: NDArray[np.uint8]) -> Windows:
        """Hands the segments to the analyzers, and makes windows of the rows."""
        st = self._state
        if self._content is not None and st.n[N_SEGMENTS]:
            rows = st.segments[: st.n[N_SEGMENTS]]
            segments = _segments(rows, data, st.extra[: st.n[N_EXTRA]])
            self._want(self._content.receive(segments))
        st.n[N_SEGMENTS] = 0
        st.n[N_EXTRA] = 0
        windows = self._windows(st.rows[: st.n[N_ROWS]], st.row_packets[: st.n[N_ROW_PACKETS]])
        st.n[N_ROWS] = 0
        st.n[N_ROW_PACKETS] = 0
        return windows

    def _want(self, wanted: Wanted) -> None:
        if len(wanted.connection):
            order = np.argsort(wanted.connection)
            tracker.want(
                self._state, wanted.connection[order], wanted.orig_from[order], wanted.resp_from[order]
            )

    def _windows(self, rows: NDArray[np.void], kept: NDArray[np.void]) -> Windows:
        names = _uids(rows)
        service = [""] * len(rows)
        logs: list[LogEntry] = []
        log_start = np.zeros(len(rows) + 1, np.int64)
        if self._content is not None and len(rows):
            final = np.flatnonzero(rows["stage"] == Stage.FINAL)
            ends = np.stack([rows["orig_bytes"][final], rows["resp_bytes"][final]], axis=1)
            hosts = _hosts(rows, final) if self._logs else None
            services, logs, starts = self._content.close(rows["serial"][final], names[final], ends, hosts)
            for i, name in zip(final.tolist(), services, strict=True):
                service[i] = name
            log_start[final + 1] = np.diff(starts)
            log_start = np.cumsum(log_start)
            if self._content.rows:
                self._rows += _log_rows(self._content.rows, rows, names, final)
        packet_start = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(rows["packets"], out=packet_start[1:])
        return Windows(
            connections=_connections(rows, names, service),
            packets=Packets(**{name: kept[name].copy() for name in ROW_PACKET.names or ()}),
            packet_start=packet_start,
            logs=logs,
            log_start=log_start,
        )


def _new_state(limits: TrackerLimits, early: bool, content: bool) -> State:
    n = min(4096, max(2 * FRAME_CONNECTIONS, limits.connections + FRAME_CONNECTIONS))
    counters = np.zeros(16, np.int64)
    counters[N_FREE] = n
    counters[N_FREE_KEPT] = 4 * n
    counters[N_FREE_BLOCKS] = 1024
    # They change where things lie, never what comes out.
    counters[N_SEED : N_SEED_2 + 1] = np.array(new_key(), np.uint64).view(np.int64)
    whole = np.zeros(FRAGMENT_BUFFER, np.uint8)
    return State(
        conns=np.zeros(n, CONNECTION),
        ends=np.zeros(2 * n, ENDPOINT),
        free=np.arange(n - 1, -1, -1, dtype=np.int32),
        table=np.full(_table_size(n), NONE, np.int32),
        heap=np.zeros(n, np.int32),
        heap_at=np.full(n, NONE, np.int32),
        heap_time=np.zeros(n, np.float64),
        kept=np.zeros(4 * n, KEPT),
        free_kept=np.arange(4 * n - 1, -1, -1, dtype=np.int32),
        blocks=np.zeros(1024, BLOCK),
        free_blocks=np.arange(1023, -1, -1, dtype=np.int32),
        rows=np.zeros(_ENDED_CONNECTIONS, ROW),
        row_packets=np.zeros(_ENDED_CONNECTIONS * MAX_PACKETS, ROW_PACKET),
        segments=np.zeros(_BLOCK_SEGMENTS, SEGMENT),
        extra=np.zeros(2 * FRAME_EXTRA, np.uint8),
        fragments=np.zeros(limits.fragments, FRAGMENTS),
        fragment_data=np.zeros(limits.fragments * FRAGMENT_BUFFER, np.uint8),
        whole=whole,
        whole_readonly=_readonly(whole),
        packet=np.zeros(1, PACKET),
        n=counters,
        clock=np.zeros(1, np.float64),
        counts=np.zeros(len(REASONS), np.int64),
        server_ports=likely_server_ports(),
        limits=np.array([limits.connections, limits.blocks_per_direction, early, content], np.int64),
    )


def _replace(st: State, **arrays: NDArray[Any]) -> State:
    return State(**{f.name: arrays.get(f.name, getattr(st, f.name)) for f in fields(st) if f.init})


def _readonly(column: NDArray[G]) -> NDArray[G]:
    """A contiguous view that cannot be written: the loop is compiled once, for such arrays."""
    view = np.ascontiguousarray(column).view()
    view.flags.writeable = False
    return view


def _table_size(slots: int) -> int:
    return 1 << (2 * slots - 1).bit_length()


def _longer(old: NDArray[G], size: int) -> NDArray[G]:
    new = np.zeros(size, old.dtype)
    new[: len(old)] = old
    return new


def _longer_pool(
    pool: NDArray[np.void], free: NDArray[np.int32], n: int
) -> tuple[NDArray[np.void], NDArray[np.int32]]:
    size = len(pool)
    longer = np.empty(2 * size, np.int32)
    longer[:n] = free[:n]
    longer[n : n + size] = np.arange(2 * size - 1, size - 1, -1)
    return _longer(pool, 2 * size), longer


def _segments(rows: NDArray[np.void], data: NDArray[np.uint8], extra: NDArray[np.uint8]) -> Segments:
    columns = {name: rows[name].copy() for name in SEGMENT.names or () if name != "slot"}
    return Segments(data=np.concatenate([data, extra]) if len(extra) else data, **columns)


def _uids(rows: NDArray[np.void]) -> NDArray[np.bytes_]:
    parts = np.empty((len(rows), 6), np.int64)
    parts[:, 0] = rows["ts"].copy().view(np.int64)
    parts[:, 1] = rows["side0_hi"]
    parts[:, 2] = rows["side0_lo"]
    parts[:, 3] = rows["orig_lo"] ^ rows["resp_lo"] ^ rows["orig_hi"] ^ rows["resp_hi"]
    parts[:, 4] = (rows["p0"].astype(np.int64) << 24) | (rows["p1"].astype(np.int64) << 8) | rows["proto"]
    parts[:, 5] = rows["serial"]
    return uids(parts)


def _address(hi: NDArray[np.int64], lo: NDArray[np.int64]) -> NDArray[np.uint8]:
    halves = np.stack([hi, lo], axis=1).astype(">i8")
    return halves.view(np.uint8).reshape(len(hi), 16)


def _connections(rows: NDArray[np.void], names: NDArray[np.bytes_], service: list[str]) -> Connections:
    columns = {
        name: rows[column].copy()
        for name, column in (
            ("ts", "ts"), ("end", "end"), ("stage", "stage"), ("orig_p", "orig_p"), ("resp_p", "resp_p"),
            ("ip_proto", "proto"), ("duration", "duration"), ("orig_bytes", "orig_bytes"),
            ("resp_bytes", "resp_bytes"), ("conn_state", "conn_state"), ("missed_bytes", "missed"),
            ("orig_pkts", "orig_pkts"), ("orig_ip_bytes", "orig_ip_bytes"), ("resp_pkts", "resp_pkts"),
            ("resp_ip_bytes", "resp_ip_bytes"), ("vlan", "vlan"), ("inner_vlan", "inner_vlan"),
            ("tunneled", "tunneled"),
        )
    }  # fmt: skip
    return Connections(
        uid=names,
        service=service,
        orig_h=_address(rows["orig_hi"], rows["orig_lo"]),
        resp_h=_address(rows["resp_hi"], rows["resp_lo"]),
        history=rows["history"].copy().view("S64").reshape(-1),
        **columns,
    )


def _hosts(rows: NDArray[np.void], which: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Addresses of originator and responder [n, 2, 16] of these rows."""
    sides = [_address(rows[f"{side}_hi"][which], rows[f"{side}_lo"][which]) for side in ("orig", "resp")]
    return np.stack(sides, axis=1)


def _log_rows(
    found: list[Row], rows: NDArray[np.void], names: NDArray[np.bytes_], final: NDArray[np.int64]
) -> list[LogRow]:
    """The rows with the connections that they belong to: the index of each is one of `final`."""
    which = final[sorted({index for index, *_ in found})]
    ends = rows["end"][which].tolist()
    orig_h = address_texts(_address(rows["orig_hi"][which], rows["orig_lo"][which]))
    resp_h = address_texts(_address(rows["resp_hi"][which], rows["resp_lo"][which]))
    orig_p, resp_p = rows["orig_p"][which].tolist(), rows["resp_p"][which].tolist()
    uid = [name.decode("ascii") for name in names[which].tolist()]
    at = {index: i for i, index in enumerate(sorted({index for index, *_ in found}))}
    out = []
    for index, written, stream, ts, entry in found:
        i = at[index]
        said = written or (ts if stream in AT_ONCE else ends[i])
        out.append(LogRow(said, stream, ts, uid[i], orig_h[i], orig_p[i], resp_h[i], resp_p[i], entry))
    return out


def _joined(parts: list[Windows]) -> Windows:
    some = [part for part in parts if len(part)]
    return concat_windows(some) if len(some) > 1 else (some or parts)[0]


__all__ = ["Extractor", "ExtractorLimits"]


def with_rows(windows: Windows, rows: Iterable[LogRow]) -> Windows:
    """The windows, and of `rows`, which are of their connections, those of `ROWS_ALONE` as entries in order of time."""
    own: dict[str, list[LogEntry]] = {}
    for row in rows:
        if row.stream in ROWS_ALONE:
            own.setdefault(row.uid, []).append(LogEntry(row.stream, row.ts, row.uid, row.fields))
    if not own:
        return windows
    logs: list[LogEntry] = []
    start = np.zeros(len(windows) + 1, np.int64)
    bounds = windows.log_start.tolist()
    for i, uid in enumerate(windows.connections.uid.tolist()):
        entries = list(windows.logs[bounds[i] : bounds[i + 1]])
        if more := own.pop(uid.decode("ascii"), None):
            entries = sorted([*entries, *more], key=lambda entry: entry.ts)[:MAX_LOG_ENTRIES]
        logs += entries
        start[i + 1] = len(logs)
    return replace(windows, logs=logs, log_start=start)
