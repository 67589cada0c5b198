"""The rows of conn.log as columns: most lines at once, compiled, and one by one those that are in any way unusual."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feature_extractors.frames import MAX_SECONDS
from feature_extractors.observations import (
    CONN_STATES,
    Connections,
    Stage,
    concat_connections,
    take_connections,
)
from feature_extractors.readers.dialects import parquet
from feature_extractors.readers.dialects.columns import COUNTS, WORDS, Columns, Rows
from feature_extractors.readers.dialects.fields import REQUIRED, renamed, zeek_name
from feature_extractors.readers.dialects.files import chunks
from feature_extractors.readers.dialects.lines import TOO_LARGE, Layout, LogLines, PassedOver, Record
from feature_extractors.readers.dialects.names import named_stream

NO_CONNECTION: Final = "no connection: a value missing, or none that it can have"

COMPILED_FROM: Final = 256 * 1024  # bytes that are worth loading compiled code for
_PROTOCOLS: Final = {"tcp": 6, "udp": 17, "icmp": 1}
_UNKNOWN_PROTOCOL: Final = 255  # IANA's "reserved": Zeek's unknown_transport without ip_proto
_IPV4: Final = bytes(10) + b"\xff\xff"
_STATE_CODES: Final = {state: code for code, state in enumerate(CONN_STATES)}
_NO_STATE: Final = -2
_COLUMNS: Final = tuple(f.name for f in fields(Connections) if f.name != "stage")
_TYPES: Final = {
    "time": ("ts",),
    "interval double": ("duration",),
    "addr string": ("id.orig_h", "id.resp_h"),
    "port count": ("id.orig_p", "id.resp_p"),
    "count int": COUNTS,
    "string enum": (*WORDS, "uid", "history"),
    "set[string] vector[string] table[string]": ("tunnel_parents",),
}
_KINDS: Final = {name: kinds.split() for kinds, names in _TYPES.items() for name in names}

_Row = tuple[
    bytes, float, float, bytes, bytes, int, int, int, str, float, int, int, int, int, bytes, int, int, int, int, int,
    int, bool,
]  # fmt: skip


class ConnRows:
    """The reader of the conn.log in one file, which may hold other streams too."""

    def __init__(self, path: Path, passed: PassedOver) -> None:
        self._path = path
        self._name = str(path)
        self._passed = passed
        self._lines = LogLines(self._name, named_stream(path.name), passed)
        self._columns: Columns | None = None
        self._of: tuple[Layout | None, str] = (None, "")  # what `_columns` was made for

    def blocks(self) -> Iterator[Connections]:
        """The connections in the order of the lines, none empty; `end` is when Zeek wrote each, about.

        Raises `RecordError` for a file that is no log.
        """
        if parquet.is_parquet(self._path):
            yield from self._of_parquet()
            return
        for chunk, whole in chunks(self._path, self._passed):
            yield from filter(len, self._block(chunk, whole))

    def learn(self, line: bytes) -> None:
        """Takes a line for how the log is written, and for nothing else."""
        self._lines.receive(line)

    def receive(self, chunk: bytes) -> Iterator[Connections]:
        """The connections of whole lines, without the last line end, that follow what came before; none empty."""
        return filter(len, self._block(chunk, True))

    def _of_parquet(self) -> Iterator[Connections]:
        rows: list[_Row] = []
        for stream, record in parquet.records(self._path, self._passed):
            self._take(rows, stream, record)
            if len(rows) == 4096:
                yield _connections(rows)
                rows = []
        if rows:
            yield _connections(rows)

    def _block(self, chunk: bytes, whole: bool) -> Iterator[Connections]:
        at = 0
        while at <= len(chunk):
            rows: list[_Row] = []
            while at <= len(chunk) and not (len(chunk) - at >= COMPILED_FROM and whole and self._can()):
                end = chunk.find(b"\n", at)
                end = len(chunk) if end < 0 else end
                found = self._lines.receive(chunk[at:end], whole=whole) if end > at else None
                if found is not None:
                    self._take(rows, *found)
                at = end + 1
            if rows:
                yield _connections(rows)
            if at <= len(chunk):
                connections, at = self._compiled(chunk, at)
                yield connections

    def _take(self, rows: list[_Row], stream: str, record: Record) -> None:
        if stream == "conn":
            row = row_of(record)
            if row is None:
                self._passed.add(self._name, NO_CONNECTION)
            else:
                self._passed.read += 1
                rows.append(row)

    def _can(self) -> bool:
        """Whether the compiled reader can take what follows; makes it ready."""
        lines = self._lines
        if lines.layout is not None and not lines.is_json:
            if self._header() != self._of:
                self._of = self._header()
                self._columns = _of_tsv(lines.layout) if lines.stream == "conn" else None
        elif lines.is_json and lines.layout is None:
            if self._columns is None and lines.json_names:
                self._columns = _of_json(lines.json_names)
        else:
            self._columns = None
        return self._columns is not None

    def _header(self) -> tuple[Layout | None, str]:
        return self._lines.layout, self._lines.stream

    def _compiled(self, chunk: bytes, at: int) -> tuple[Connections, int]:
        """The connections of the chunk from `at` on, as far as the header stays the same, and how far that is."""
        assert self._columns is not None
        piece = chunk[at:] if at else chunk
        rows, edge = self._columns.read(piece)
        states, services, protocols, streams = self._meanings()
        n = len(rows.done)
        state = states[rows.word[1]]
        protocol = protocols[rows.word[2]]
        path = rows.word[3]
        done = rows.done & (state != _NO_STATE) & (protocol >= 0)
        done &= (path < 0) & (self._lines.stream == "conn") | (streams[path] & (path >= 0))
        late: list[tuple[int, _Row]] = []
        begin, upto = edge.tolist(), n
        for i in np.flatnonzero(~done).tolist():
            line = piece[begin[i] : begin[i + 1] - 1]
            found = self._lines.receive(line) if line else None
            if found is not None:
                taken: list[_Row] = []
                self._take(taken, *found)
                late += [(i, row) for row in taken]
            elif self._header() != self._of and not self._lines.is_json:
                upto = i + 1  # another header
                break
        done[upto:] = False
        self._passed.read += int(done.sum())
        self._passed.add(self._name, TOO_LARGE, int(rows.too_large[done].sum()))
        if self._lines.is_json and int(done.sum()) * 2 < n:
            self._columns = None  # made anew for the fields that there are now
        return _together(rows, done, late, state, protocol, services), at + begin[upto] if upto < n else len(
            chunk
        ) + 1

    def _meanings(self) -> tuple[NDArray[np.int8], list[str], NDArray[np.int16], NDArray[np.bool_]]:
        """Of each word met, and last of none: its conn_state, service, protocol (-1 unknown), whether it is conn."""
        assert self._columns is not None
        words = self._columns.table.words()
        return (
            np.array([*(_STATE_CODES.get(w, _NO_STATE) for w in words), -1], np.int8),
            [*map(_services, words), ""],
            np.array(
                [*(_PROTOCOLS.get(w, -1 if w != "unknown_transport" else 255) for w in words), 255], np.int16
            ),
            np.array([*(w in ("conn", "connection", "connections") for w in words), False], np.bool_),
        )


def _of_tsv(layout: Layout) -> Columns | None:
    if (
        layout.quoted
        or len(layout.separator.encode()) != 1
        or any(name not in layout.names for name in REQUIRED)
    ):
        return None
    kinds = dict(zip(layout.names, layout.types, strict=True))
    if any(kinds[name] not in _KINDS[name] for name in kinds if name in _KINDS):
        return None
    if not (layout.empty.isascii() and layout.unset.isascii()):
        return None
    return Columns.of_tsv(layout.names, layout.separator, layout.empty, layout.unset)


def _of_json(names: Sequence[str]) -> Columns | None:
    plan = renamed(names)
    zeek = set(plan.values())
    if any(name not in zeek for name in REQUIRED) or any(plan[name] != zeek_name(name) for name in names):
        return None
    return Columns.of_json(plan)


# One by one


def row_of(record: Record) -> _Row | None:
    """A record of conn.log in the order of the columns of `Connections`; `None` where a value makes no sense."""
    get: Callable[[str], Any] = record.get
    try:
        uid, proto, state = get("uid"), get("proto"), get("conn_state")
        orig_h, resp_h = _address(get("id.orig_h")), _address(get("id.resp_h"))
        number = get("ip_proto")
        if number is None:
            number = _PROTOCOLS.get(proto, _UNKNOWN_PROTOCOL)
            if number == 1 and not orig_h.startswith(_IPV4):
                number = 58
        ts = get("ts")
        if isinstance(ts, bool) or not abs(ts) <= MAX_SECONDS:
            return None
        duration = get("duration")
        lasted = math.nan if duration is None else _duration(duration)
        service = get("service") or ""
        return (
            uid.encode("ascii"),
            float(ts),
            written(ts, lasted),
            orig_h,
            resp_h,
            _port(get("id.orig_p")),
            _port(get("id.resp_p")),
            _count(number, 0xFF),
            _services(",".join(service) if isinstance(service, list) else service),
            lasted,
            _count(get("orig_bytes")),
            _count(get("resp_bytes")),
            -1 if state is None else _STATE_CODES[state],
            _count(get("missed_bytes")),
            (get("history") or "").encode("ascii"),
            _count(get("orig_pkts")),
            _count(get("orig_ip_bytes")),
            _count(get("resp_pkts")),
            _count(get("resp_ip_bytes")),
            _count(get("vlan"), 0xFFFF),
            _count(get("inner_vlan"), 0xFFFF),
            bool(get("tunnel_parents")),
        )
    except (ValueError, TypeError, KeyError, OSError, AttributeError, OverflowError):
        return None


def written(ts: float, duration: float) -> float:
    """The time, about, at which Zeek wrote the row of a connection: its end, seconds since the epoch."""
    return ts + duration if 0 <= duration <= MAX_SECONDS else float(ts)


def _port(value: Any) -> int:
    """A port. Raises `ValueError` where there is none."""
    if value is None:
        raise ValueError("found no port")
    return _count(value, 0xFFFF)


def _count(value: Any, most: int = (1 << 62) - 1) -> int:
    """A count, -1 where unset. Raises `ValueError` outside 0..most."""
    if value is None:
        return -1
    if isinstance(value, bool):
        raise ValueError(f"found {value}, expected a count")
    count = int(value)
    if not 0 <= count <= most:
        raise ValueError(f"found {count}, expected 0 to {most}")
    return count


def _duration(value: Any) -> float:
    """Seconds, to the microsecond. Raises `ValueError` where no connection can last so long."""
    if isinstance(value, bool) or not abs(seconds := float(value)) <= MAX_SECONDS:
        raise ValueError(f"found {value}, expected seconds")
    return round(seconds * 1e6) / 1e6


@lru_cache(maxsize=65_536)
def _address(text: str) -> bytes:
    """16 bytes. Raises `OSError` where it is no address."""
    return (
        socket.inet_pton(socket.AF_INET6, text)
        if ":" in text
        else _IPV4 + socket.inet_pton(socket.AF_INET, text)
    )


@lru_cache(maxsize=4096)
def _services(text: str) -> str:
    return ",".join(sorted(text.split(",")))


# Columns


def _connections(rows: list[_Row]) -> Connections:
    n = len(rows)
    (
        uid, ts, end, orig_h, resp_h, orig_p, resp_p, ip_proto, service, duration, orig_bytes, resp_bytes, conn_state,
        missed_bytes, history, orig_pkts, orig_ip_bytes, resp_pkts, resp_ip_bytes, vlan, inner_vlan, tunneled,
    ) = zip(*rows, strict=True)  # fmt: skip
    return Connections(
        uid=np.array(uid, "S20"),
        ts=np.array(ts, np.float64),
        end=np.array(end, np.float64),
        stage=np.full(n, Stage.FINAL, np.int8),
        orig_h=np.frombuffer(bytearray().join(orig_h), np.uint8).reshape(n, 16),
        resp_h=np.frombuffer(bytearray().join(resp_h), np.uint8).reshape(n, 16),
        orig_p=np.array(orig_p, np.uint16),
        resp_p=np.array(resp_p, np.uint16),
        ip_proto=np.array(ip_proto, np.uint8),
        service=list(service),
        duration=np.array(duration, np.float64),
        orig_bytes=np.array(orig_bytes, np.int64),
        resp_bytes=np.array(resp_bytes, np.int64),
        conn_state=np.array(conn_state, np.int8),
        missed_bytes=np.array(missed_bytes, np.int64),
        history=np.array(history, "S64"),
        orig_pkts=np.array(orig_pkts, np.int64),
        orig_ip_bytes=np.array(orig_ip_bytes, np.int64),
        resp_pkts=np.array(resp_pkts, np.int64),
        resp_ip_bytes=np.array(resp_ip_bytes, np.int64),
        vlan=np.array(vlan, np.int32),
        inner_vlan=np.array(inner_vlan, np.int32),
        tunneled=np.array(tunneled, np.bool_),
    )


def _together(
    rows: Rows,
    done: NDArray[np.bool_],
    late: list[tuple[int, _Row]],
    state: NDArray[np.int8],
    protocol: NDArray[np.int16],
    services: list[str],
) -> Connections:
    """Compiled rows and those read one by one, in the order of the lines."""
    ts, duration = rows.time
    duration = np.rint(duration * 1e6) / 1e6  # as TSV has it
    end = np.where((duration >= 0) & (duration <= MAX_SECONDS), ts + duration, ts)
    four = (rows.address[0, :, :12] == np.frombuffer(_IPV4, np.uint8)).all(axis=1)
    number = np.where(rows.count[9] >= 0, rows.count[9], np.where((protocol == 1) & ~four, 58, protocol))
    count = rows.count
    keep = slice(None) if done.all() else np.flatnonzero(done)
    made = Connections(
        uid=rows.uid[keep], ts=ts[keep], end=end[keep], stage=np.full(len(ts), Stage.FINAL, np.int8)[keep],
        orig_h=rows.address[0][keep], resp_h=rows.address[1][keep], orig_p=rows.port[0][keep],
        resp_p=rows.port[1][keep], ip_proto=number.astype(np.uint8)[keep],
        service=[services[code] for code in rows.word[0][keep].tolist()], duration=duration[keep],
        orig_bytes=count[0][keep], resp_bytes=count[1][keep], conn_state=state[keep], missed_bytes=count[2][keep],
        history=rows.history[keep], orig_pkts=count[3][keep], orig_ip_bytes=count[4][keep], resp_pkts=count[5][keep],
        resp_ip_bytes=count[6][keep], vlan=count[7].astype(np.int32)[keep], inner_vlan=count[8].astype(np.int32)[keep],
        tunneled=rows.tunneled[keep],
    )  # fmt: skip
    if not late:
        return made
    both = concat_connections([made, _connections([row for _, row in late])])
    place = np.concatenate([np.flatnonzero(done), [i for i, _ in late]])
    return take_connections(both, np.argsort(place, kind="stable"))
