"""Zeek logs, TSV or JSON, of any number of files and days, as windows: each connection with all that bears its uid.

`ZeekLogs` reads every log at once, in step: connections come in the order in which Zeek wrote them, which is that of
their ends, and the entries of the other logs wait for theirs, a bounded number of them. What is let go is counted:

`bad_record`                a line that its header or JSON does not explain, or with a value of the wrong type
`half_written_line`         a last line that Zeek had not finished
`line_too_long`             a line of more than 4 MiB
`entry_over_limit`          a log entry of a connection that has `MAX_LOG_ENTRIES` already
`entries_over_memory`       a log entry let go since those that wait take more than 256 MiB
`entry_without_connection`  a log entry whose connection is in none of the logs, or came too late
`not_a_zeek_log`            a file below a directory that is named like a log and is none; it is passed over
`compressed_stream_*`       a compressed file that is cut short or damaged; what came before was read
"""

from __future__ import annotations

import heapq
import json
import math
import re
import socket
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from feature_extractors.errors import CaptureError, RecordError
from feature_extractors.frames import MAX_SECONDS, Counts
from feature_extractors.observations import (
    CONN_STATES,
    MAX_LOG_ENTRIES,
    Connections,
    LogEntry,
    LogValue,
    Packets,
    Stage,
    Windows,
)
from feature_extractors.readers.folders import files_below
from feature_extractors.readers.source import ZSTD_MAGIC, Source, open_source

Record = Mapping[str, LogValue]

REQUIRED: Final = ("ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto")

_FILE_NAME: Final = re.compile(
    r"([a-z][a-z0-9_]*)\.(?:.*\.)?log(?:\.labeled)?(?:\.(?:gz|bz2|xz|zst))?", re.ASCII
)
# Verdicts of others and of our own are no observations.
_NOT_JOINED: Final = frozenset({"conn", "notice", "notice_alarm", "intel", "signatures", "cmdana"})
_LEFT_OUT: Final = frozenset(
    {
        "ts",
        "uid",
        "uids",
        "conn_uids",
        "id.orig_h",
        "id.orig_p",
        "id.resp_h",
        "id.resp_p",
        "label",
        "detailedlabel",
    }
)

_LOG_VALUES: Final = (bool, int, float, str, list)
_OF_FILES: Final = frozenset(
    {"x509", "pe", "ocsp"}
)  # they name a file or certificate instead of a connection

_READ: Final = 1024 * 1024
_MAX_LINE: Final = 4 * 1024 * 1024
_MAX_NAME: Final = 256  # characters of a uid, a file id or a fingerprint
_MAX_FIELDS: Final = 10_000  # of a header
_MAX_DEPTH: Final = 8  # of a JSON value
_MAX_INTEGER: Final = 2**64  # magnitude; Zeek's have 64 bits
_MAX_WAITING: Final = 256 * 1024 * 1024  # bytes of entries that wait, and of what is said of files
_MAX_PENDING: Final = 200_000  # connections for whose row the entries of other logs wait
_MAX_FILES: Final = 65_536  # certificates and files that are remembered
_AHEAD: Final = 300.0  # seconds by which the other logs are read ahead of conn.log

_PROTOCOLS: Final = {"tcp": 6, "udp": 17, "icmp": 1}
_UNKNOWN_PROTOCOL: Final = 255  # IANA's "reserved": Zeek's unknown_transport without ip_proto
_IPV4: Final = bytes(10) + b"\xff\xff"
_STATE_CODES: Final = {state: code for code, state in enumerate(CONN_STATES)}


class ZeekLogs:
    """The connections of directories (searched to any depth) or files of Zeek logs. Can be iterated again."""

    def __init__(self, paths: Iterable[str | Path], block: int = 4096) -> None:
        """`block` is the number of connections in a `Windows`. Raises `RecordError` where no conn.log can be read."""
        self.counts = Counts()
        self._block = block
        names = [str(path) for path in paths]
        files = [_LogFile(path, stream, self.counts) for path, stream in _log_files(names)]
        self._connections = [file for file in files if file.stream == "conn"]
        self._entries = [file for file in files if file.stream not in _NOT_JOINED]
        if not self._connections:
            raise RecordError(f"no conn.log with connections in {', '.join(names)}: found {_found(files)}")
        self.counts.by_reason.clear()

    def __iter__(self) -> Iterator[Windows]:
        self.counts.by_reason.clear()
        waiting = _Waiting(self.counts)
        entries = _merged(self._entries)
        upcoming = next(entries, None)
        rows: list[_Row] = []
        for end, _, record in _merged(self._connections):
            row = _row(record, end)
            if row is None:
                self.counts.add("bad_record")
                continue
            rows.append(row)
            if len(rows) == self._block:
                while upcoming is not None and upcoming[0] <= end + _AHEAD:
                    waiting.receive(upcoming[1], upcoming[2])
                    upcoming = next(entries, None)
                yield _windows(rows, waiting)
                rows = []
        while upcoming is not None:
            waiting.receive(upcoming[1], upcoming[2])
            upcoming = next(entries, None)
        if rows:
            yield _windows(rows, waiting)
        waiting.finish()


# Files


def _log_files(names: Iterable[str]) -> Iterator[tuple[Path, str]]:
    """Path and stream of the logs named, and of those below the directories named, each once, by their file names."""
    seen: set[Path] = set()
    for name in names:
        path = Path(name)
        if not path.exists():
            raise RecordError(f"cannot read Zeek logs {name}: no such file or directory")
        for file in files_below(path) if path.is_dir() else [path]:
            match = _FILE_NAME.fullmatch(file.name)
            if file.is_dir() or (match is None and file != path) or file.resolve() in seen:
                continue
            seen.add(file.resolve())
            yield file, match[1] if match else ""  # where its name says nothing, its #path has to


def _found(files: list[_LogFile]) -> str:
    streams = sorted({file.stream for file in files if file.stream})
    return f"logs {', '.join(streams)}" if streams else "no Zeek log"


class _LogFile:
    """One log file: its stream, the time of its first record, and its records."""

    def __init__(self, path: Path, stream: str, counts: Counts) -> None:
        self.path = path
        self.stream = stream
        self._counts = counts
        first = next(self.records(), None)
        self.first = math.inf if first is None else first[0]

    def records(self) -> Iterator[tuple[float, Record]]:
        """Time and record. The time is about that of writing: it never goes back, as Zeek's does not."""
        latest = -math.inf
        for record in self._parsed():
            ts = _time(record.get("ts"))
            if ts is None:
                self._counts.add("bad_record")
                continue
            if self.stream == "conn":
                duration = record.get("duration")
                if isinstance(duration, int | float) and 0 <= duration <= MAX_SECONDS:
                    ts += duration
            latest = max(latest, ts)
            yield latest, record

    def _parsed(self) -> Iterator[Record]:
        header: dict[str, str] = {}
        parse: Callable[[str], Record] | None = None
        json_checked = False
        refused: RecordError | None = None  # why the first JSON record could not be used
        for line, whole in _lines(self._open(), self._counts):
            if line.startswith(b"#"):
                parse = self._header_line(_text(line), header, parse)
                continue
            if not line.strip():
                continue
            is_json = line.startswith(b"{")
            if not whole and not (is_json and line.endswith(b"}")):
                self._counts.add("half_written_line")
                continue
            if not is_json and parse is None and not json_checked:
                if self.stream not in ("conn", ""):  # a Zeek's directory holds stdout.log and the like too
                    self._counts.add("not_a_zeek_log")
                    return
                zstd = " (try zstd -d)" if line.startswith(ZSTD_MAGIC) else ""
                raise RecordError(
                    f"{self.path} is no Zeek log: found {_text(line[:40])!r}{zstd}, expected a #fields line or a JSON"
                    " object"
                )
            try:
                if is_json:
                    record = _checked(json.loads(_json_text(line)))
                elif parse is not None:
                    record = parse(_text(line))
                else:
                    raise ValueError("neither JSON nor under a header")
            except (ValueError, RecursionError):
                self._counts.add("bad_record")
                continue
            if is_json and not json_checked:
                try:
                    self._check_columns(record)
                except RecordError as error:  # of this row alone, if others are better
                    refused = refused or error
                    self._counts.add("bad_record")
                    continue
                json_checked = True
            yield record
        if refused is not None and not json_checked:
            raise refused

    def _open(self) -> Source:
        try:
            return open_source(self.path, self._counts)
        except CaptureError as error:
            if self.path.is_file() and self.path.stat().st_size == 0:
                return _Empty()
            if not self.path.exists():
                raise RecordError(
                    f"cannot read Zeek log {self.path}: it is gone, rotated away? try again"
                ) from error
            raise RecordError(f"cannot read Zeek log {self.path}: {error}") from error

    def _header_line(
        self, line: str, header: dict[str, str], parse: Callable[[str], Record] | None
    ) -> Callable[[str], Record] | None:
        if line.startswith("#separator "):
            header.clear()
            header["separator"] = _unescape(line.removeprefix("#separator ").rstrip("\r")) or "\t"
            return parse
        separator = header.get("separator", "\t")
        key, _, rest = line.rstrip("\r").partition(separator)
        header[key[1:]] = rest
        if key == "#path" and not self.stream:
            self.stream = rest
        if key != "#types":
            return parse
        names = header.get("fields", "").split(separator, _MAX_FIELDS)
        types = rest.split(separator, _MAX_FIELDS)
        if len(names) > _MAX_FIELDS:
            raise RecordError(f"{self.path}: found more than {_MAX_FIELDS:,} #fields")
        if len(names) != len(types):
            raise RecordError(f"{self.path}: found {len(types)} #types, expected {len(names)} as in #fields")
        self._check_columns(names)
        return _TsvLine(names, types, header, separator)

    def _check_columns(self, names: Iterable[str]) -> None:
        if self.stream != "conn":
            return
        has = set(names)
        for column in REQUIRED:
            if column not in has:
                raise RecordError(
                    f"{self.path}: found no column {column}, only {', '.join(sorted(has)) or 'none'}"
                )


class _Empty:
    def fill(self, view: memoryview) -> int:
        return 0

    def close(self) -> None:
        pass


def _lines(source: Source, counts: Counts) -> Iterator[tuple[bytes, bool]]:
    """The lines without their end, and whether they had one."""
    buffer = bytearray(_READ)
    rest = b""
    skipping = False
    try:
        while got := source.fill(memoryview(buffer)):
            lines = (rest + buffer[:got]).split(b"\n")
            rest = lines.pop()
            for line in lines:
                if not skipping:
                    yield line, True
                skipping = False
            if len(rest) > _MAX_LINE:
                counts.add("line_too_long", not skipping)
                skipping = True
                rest = b""
        if rest and not skipping:
            yield rest, False
    finally:
        source.close()


def _merged(files: Iterable[_LogFile]) -> Iterator[tuple[float, str, Record]]:
    """Time, stream and record of all files in order of time; a file is open only while its time has come."""
    waiting = deque(sorted(files, key=lambda file: (file.first, file.stream, str(file.path))))
    heap: list[tuple[float, str, int, Record, Iterator[tuple[float, Record]]]] = []
    opened = 0
    while heap or waiting:
        while waiting and (not heap or waiting[0].first <= heap[0][0]):
            file = waiting.popleft()
            records = file.records()
            first = next(records, None)
            if first is not None:
                heapq.heappush(heap, (first[0], file.stream, opened, first[1], records))
                opened += 1
        if not heap:
            return
        time, stream, number, record, records = heap[0]
        yield time, stream, record
        following = next(records, None)
        if following is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (following[0], stream, number, following[1], records))


# Values


def _text(line: bytes) -> str:
    return line.decode("utf-8", "backslashreplace")


def _json_text(line: bytes) -> str:
    """The line with bytes that are not UTF-8 escaped, and the escapes escaped as JSON asks."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return re.sub(
            r"[\udc80-\udcff]",
            lambda m: f"\\\\x{ord(m[0]) - 0xDC00:02x}",
            line.decode("utf-8", "surrogateescape"),
        )


def _time(value: LogValue) -> float | None:
    """Seconds since the epoch of Zeek's three ways to write a time in JSON; `None` for what is no time."""
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError):
            return None
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not abs(value) <= 1000.0 * MAX_SECONDS
    ):
        return None
    seconds = value / 1000.0 if value > 1e11 else float(value)
    return seconds if abs(seconds) <= MAX_SECONDS else None


def _checked(value: Any, depth: int = 0) -> Any:
    """A JSON value with lone surrogates escaped. Raises `ValueError` where no log of Zeek's holds such a one."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, list | dict):
        if depth == _MAX_DEPTH:
            raise ValueError(f"nested deeper than {_MAX_DEPTH}")
        if isinstance(value, list):
            return [_checked(v, depth + 1) for v in value]
        return {_checked(k): _checked(v, depth + 1) for k, v in value.items()}
    if isinstance(value, float):
        return _finite(value)
    return _integer(value) if isinstance(value, int) else value


def _finite(value: str | float) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"found {number}, expected a finite number")
    return number


def _integer(value: str | int) -> int:
    if isinstance(value, str):
        if len(value) > 20:  # digits of 64 bits
            raise ValueError(f"found {len(value)} digits, expected 20 at most")
        value = int(value)
    if not -_MAX_INTEGER <= value <= _MAX_INTEGER:
        raise ValueError("found an integer of more than 64 bits")
    return value


class _TsvLine:
    """A line of a TSV log as a record of the fields that are set, by the types of its header."""

    def __init__(self, names: list[str], types: list[str], header: Mapping[str, str], separator: str) -> None:
        self._separator = separator
        self._unset = header.get("unset_field", "-")
        self._empty = header.get("empty_field", "(empty)")
        within = header.get("set_separator", ",")
        self._columns = [(name, self._reader(kind, within)) for name, kind in zip(names, types, strict=True)]

    def __call__(self, line: str) -> Record:
        """Raises `ValueError` where the line does not fit the header."""
        values = line.rstrip("\r").split(self._separator, len(self._columns))
        unset = self._unset
        return {
            name: read(value)
            for (name, read), value in zip(self._columns, values, strict=True)
            if value != unset
        }

    def _reader(self, kind: str, within: str) -> Callable[[str], LogValue]:
        container = re.fullmatch(r"(?:set|vector|table)\[(.*)\]", kind)
        if container:
            element = self._reader(container[1], within) if "[" not in container[1] else str

            def elements(value: str) -> LogValue:
                if value == self._empty:
                    return []
                return [None if part == self._unset else element(part) for part in value.split(within)]

            return elements
        if kind in ("time", "interval", "double"):
            return _finite
        if kind in ("count", "int", "port"):
            return _integer
        if kind == "bool":
            return _bool
        return lambda value: "" if value == self._empty else _unescape(value)


def _bool(value: str) -> bool:
    if value not in ("T", "F"):
        raise ValueError(f"found {value!r}, expected T or F")
    return value == "T"


_ESCAPES: Final = re.compile(rb"\\x([0-9a-fA-F]{2})|\\\\")
_BAD_CONTROLS: Final = re.compile(rb"[\x00-\x07\x0b\x0e-\x1f\x7f]")


def _unescape(value: str) -> str:
    """Zeek's `\\xHH` and `\\\\` undone, and then done again as Zeek's JSON does (util.cc, escape_utf8).

    There a string that is not UTF-8, or holds a control character other than white space, has these and all bytes
    above 0x7e as `\\xhh`.
    """
    if "\\" not in value:
        return value
    raw = _ESCAPES.sub(lambda m: bytes.fromhex(m[1].decode()) if m[1] else b"\\", value.encode())
    if not _BAD_CONTROLS.search(raw):
        try:
            return raw.decode()
        except UnicodeDecodeError:
            pass
    return "".join(chr(b) if 32 <= b < 127 or b in b"\b\f\n\r\t" else f"\\x{b:02x}" for b in raw)


# Joining


class _Waiting:
    """Log entries that wait for their connection's row; the oldest connections are the first to go."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._entries: OrderedDict[str, list[LogEntry]] = OrderedDict()
        self._bytes = 0  # about, of the entries
        self._shown = _Shown()

    def receive(self, stream: str, record: Record) -> None:
        ts = _time(record["ts"])
        assert ts is not None
        fields = {
            name: value
            for name, value in record.items()
            if isinstance(value, _LOG_VALUES) and name not in _LEFT_OUT and not name.startswith("_")
        }
        named: LogValue
        if stream in _OF_FILES:
            named = record.get("fingerprint", record.get("id"))
            uids = [] if _too_long(named) else self._shown.described(named, stream, fields)
        else:
            named = _file_shown(record)
            uids = _uids(record)
        if _too_long(named) or any(map(_too_long, uids)):
            self._counts.add("bad_record")
            return
        for uid in uids:
            self._add(LogEntry(stream, ts, uid, fields))
        if stream in ("ssl", "files"):
            for uid in uids:
                for stream_of_file, said in self._shown.by_connection(named, uid):
                    self._add(LogEntry(stream_of_file, ts, uid, said))

    def take(self, uid: str) -> list[LogEntry]:
        """The entries of a connection, in order of time."""
        entries = self._entries.pop(uid, None)
        if entries is None:
            return []
        self._bytes -= sum(map(_entry_size, entries))
        entries.sort(key=lambda entry: entry.ts)
        return entries

    def finish(self) -> None:
        self._counts.add("entry_without_connection", sum(len(entries) for entries in self._entries.values()))
        self._entries.clear()

    def _add(self, entry: LogEntry) -> None:
        held = self._entries.get(entry.uid)
        if held is None:
            self._entries[entry.uid] = [entry]
            if len(self._entries) > _MAX_PENDING:
                self._drop("entry_without_connection")
        elif len(held) < MAX_LOG_ENTRIES:
            held.append(entry)
        else:
            self._counts.add("entry_over_limit")
            return
        self._bytes += _entry_size(entry)
        while self._bytes > _MAX_WAITING:
            self._drop("entries_over_memory")

    def _drop(self, reason: str) -> None:
        _, dropped = self._entries.popitem(last=False)
        self._bytes -= sum(map(_entry_size, dropped))
        self._counts.add(reason, len(dropped))


def _entry_size(entry: LogEntry) -> int:
    """About the bytes that the entry takes; the same whenever it is asked."""
    return 512 + sum(128 + _value_size(value) for value in entry.fields.values())


def _value_size(value: LogValue) -> int:
    if isinstance(value, str):
        return len(value)
    return sum(64 + _value_size(v) for v in value) if isinstance(value, list) else 0


class _Shown:
    """Certificates and files: which connections showed them, and what their own log says, whichever is met first."""

    def __init__(self) -> None:
        self._uids: OrderedDict[str, list[str]] = OrderedDict()
        self._said: OrderedDict[str, tuple[str, Mapping[str, LogValue]]] = OrderedDict()
        self._bytes = 0  # about, of what was said

    def by_connection(self, name: LogValue, uid: str) -> Iterator[tuple[str, Mapping[str, LogValue]]]:
        """Notes that the connection showed it; yields stream and fields of what is known of it already."""
        if not isinstance(name, str):
            return
        if name in self._said:
            yield self._said[name]
            return
        uids = self._uids.setdefault(name, [])
        if uid not in uids and len(uids) < MAX_LOG_ENTRIES:
            uids.append(uid)
        _bound(self._uids)

    def described(self, name: LogValue, stream: str, fields: Mapping[str, LogValue]) -> list[str]:
        """Keeps what a log says of it; returns the connections that showed it before."""
        if not isinstance(name, str):
            return []
        before = self._said.pop(name, None)
        self._said[name] = stream, fields
        self._bytes += _entry_size(LogEntry(stream, 0.0, "", fields))
        if before is not None:
            self._bytes -= _entry_size(LogEntry(before[0], 0.0, "", before[1]))
        while len(self._said) > _MAX_FILES or self._bytes > _MAX_WAITING:
            _, (old, said) = self._said.popitem(last=False)
            self._bytes -= _entry_size(LogEntry(old, 0.0, "", said))
        return self._uids.pop(name, [])


def _too_long(name: LogValue) -> bool:
    """Whether no uid, file id or fingerprint can be as long."""
    return isinstance(name, str) and len(name) > _MAX_NAME


def _bound(table: OrderedDict[str, Any]) -> None:
    if len(table) > _MAX_FILES:
        table.popitem(last=False)


def _uids(record: Record) -> list[str]:
    """The connections of a record: dhcp.log names several, as files.log did before Zeek 5."""
    uid = record.get("uid")
    if uid is not None:
        return [uid] if isinstance(uid, str) else []
    several = record.get("uids", record.get("conn_uids"))
    return [u for u in several if isinstance(u, str)] if isinstance(several, list) else []


def _file_shown(record: Record) -> LogValue:
    """The certificate of the responder, or the file, that a record of ssl.log or files.log is about."""
    chain = record.get("cert_chain_fps", record.get("cert_chain_fuids"))
    return chain[0] if isinstance(chain, list) and chain else record.get("fuid")


# Columns

_Row = tuple[
    bytes, float, float, bytes, bytes, int, int, int, str, float, int, int, int, int, bytes, int, int, int, int, int,
    int, bool,
]  # fmt: skip


def _row(record: Record, end: float) -> _Row | None:
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
        duration = get("duration")
        return (
            uid.encode("ascii"),
            _time(record["ts"]),
            end,
            orig_h,
            resp_h,
            _port(get("id.orig_p")),
            _port(get("id.resp_p")),
            _count(number, 0xFF),
            _services(get("service") or ""),
            math.nan if duration is None else _duration(duration),
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
        )  # type: ignore[return-value]  # `records` lets no record through whose ts is no time
    except (ValueError, TypeError, KeyError, OSError, AttributeError, OverflowError):
        return None


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
    """Seconds. Raises `ValueError` where no connection can last so long."""
    if isinstance(value, bool) or not abs(seconds := float(value)) <= MAX_SECONDS:
        raise ValueError(f"found {value}, expected seconds")
    return seconds


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


def _windows(rows: list[_Row], waiting: _Waiting) -> Windows:
    n = len(rows)
    (
        uid, ts, end, orig_h, resp_h, orig_p, resp_p, ip_proto, service, duration, orig_bytes, resp_bytes, conn_state,
        missed_bytes, history, orig_pkts, orig_ip_bytes, resp_pkts, resp_ip_bytes, vlan, inner_vlan, tunneled,
    ) = zip(*rows, strict=True)  # fmt: skip
    logs: list[LogEntry] = []
    log_start = np.zeros(n + 1, np.int64)
    for i, name in enumerate(uid):
        logs += waiting.take(name.decode("ascii"))
        log_start[i + 1] = len(logs)
    return Windows(
        connections=Connections(
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
        ),
        packets=_NO_PACKETS,
        packet_start=np.zeros(n + 1, np.int64),
        logs=logs,
        log_start=log_start,
    )


_NO_PACKETS: Final = Packets(
    ts=np.empty(0, np.float64),
    is_orig=np.empty(0, np.bool_),
    ip_length=np.empty(0, np.int32),
    payload=np.empty(0, np.int32),
    flags=np.empty(0, np.int16),
    window=np.empty(0, np.int32),
    ttl_delta=np.empty(0, np.int16),
    entropy=np.empty(0, np.float32),
    printable=np.empty(0, np.float32),
    retransmit=np.empty(0, np.int8),
    gap=np.empty(0, np.int8),
    options=np.empty(0, np.int32),
)
