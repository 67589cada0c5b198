"""Zeek's log formats: conn.log, cmdana.log and notice.log, TSV and JSON, as Zeek itself writes them.

Mirrors src/logging/writers/ascii/Ascii.cc and src/threading/formatters/{Ascii,JSON}.cc: header lines, the order and
types of fields, how unset and empty are written, and how bytes that are no text are escaped.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.decision import Coded, Verdict, Verdicts, coded
from cmdana_plugin.files import Replacement, Resumed
from cmdana_plugin.logs.moments import shown
from feature_extractors import (
    CONN_STATES,
    PROTO_NAMES,
    CmdanaError,
    Connections,
    address_texts,
    community_id_v1,
    is_ipv4,
)

if TYPE_CHECKING:
    from cmdana_plugin.logs.digits import Cells

Format = Literal["tsv", "json"]
Value = bool | int | float | str | Sequence[str] | None

# Arrays hold numbers (NaN, or negative among integers: unset), addresses [n, 16] or texts ("" unset).
Column = Sequence[Value] | NDArray[Any]


class LogError(CmdanaError):
    """A log cannot be written where it was asked for."""


class DiskFullError(LogError):
    """There is no room for it, at present."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One log stream: its path and its fields with Zeek's types, in the order of the columns."""

    path: str
    fields: tuple[tuple[str, str], ...]


CONN: Final = Stream(
    "conn",
    (
        ("ts", "time"), ("uid", "string"),
        ("id.orig_h", "addr"), ("id.orig_p", "port"), ("id.resp_h", "addr"), ("id.resp_p", "port"),
        ("proto", "enum"), ("service", "string"), ("duration", "interval"),
        ("orig_bytes", "count"), ("resp_bytes", "count"), ("conn_state", "string"),
        ("local_orig", "bool"), ("local_resp", "bool"), ("missed_bytes", "count"), ("history", "string"),
        ("orig_pkts", "count"), ("orig_ip_bytes", "count"), ("resp_pkts", "count"), ("resp_ip_bytes", "count"),
        ("tunnel_parents", "set[string]"), ("ip_proto", "count"), ("community_id", "string"),
    ),
)  # fmt: skip

CMDANA: Final = Stream(
    "cmdana",
    (
        ("ts", "time"), ("uid", "string"),
        ("id.orig_h", "addr"), ("id.orig_p", "port"), ("id.resp_h", "addr"), ("id.resp_p", "port"),
        ("proto", "enum"), ("service", "string"), ("community_id", "string"), ("stage", "string"),
        ("score", "double"), ("p_value", "double"), ("threshold", "double"), ("verdict", "string"),
        ("packet_reliance", "double"), ("connection_reliance", "double"), ("log_reliance", "double"),
        ("state_reliance", "double"), ("modalities", "set[string]"), ("reasons", "vector[string]"),
        ("model", "string"), ("incident", "string"),
    ),
)  # fmt: skip

# What a notice rests on, beside the words: CMDANA::NoticeFields of zeek_scripts/types.zeek, `cmdana.` before each name.
NOTICE_FIELDS: Final[Mapping[str, str]] = {
    "verdict": "string", "score": "double", "p_value": "double", "threshold": "double", "role": "string",
    "host": "addr", "peers": "count", "services": "vector[string]", "service_count": "count", "evidence": "double",
    "reasons": "vector[string]", "latest_reasons": "vector[string]", "traffic": "string", "tail": "double",
    "share": "double", "hosts": "count", "window": "interval", "windows": "count",
    "incident": "string", "kind": "string", "technique": "string", "first_seen": "time", "last_seen": "time",
    "connections": "count", "odd": "count", "actors": "vector[string]", "actor_count": "count",
    "targets": "vector[string]", "refused": "count", "sent": "count", "limit": "double",
}  # fmt: skip

NOTICE: Final = Stream(
    "notice",
    (
        ("ts", "time"), ("uid", "string"),
        ("id.orig_h", "addr"), ("id.orig_p", "port"), ("id.resp_h", "addr"), ("id.resp_p", "port"),
        ("fuid", "string"), ("file_mime_type", "string"), ("file_desc", "string"),
        ("proto", "enum"), ("note", "enum"), ("msg", "string"), ("sub", "string"),
        ("src", "addr"), ("dst", "addr"), ("p", "port"), ("n", "count"), ("peer_descr", "string"),
        ("actions", "set[enum]"), ("email_dest", "set[string]"), ("suppress_for", "interval"),
        ("community_id", "string"), *((f"cmdana.{name}", kind) for name, kind in NOTICE_FIELDS.items()),
    ),
)  # fmt: skip


class Words(NamedTuple):
    """The text columns of `n` connections for a log; `Verdicts` has the same attributes."""

    orig_h: Sequence[str]
    resp_h: Sequence[str]
    proto: Coded
    service: Coded
    community_id: NDArray[np.bytes_]


def words_of(c: Connections) -> Words:
    """The text columns of connections that are not judged."""
    return Words(
        orig_h=address_texts(c.orig_h),
        resp_h=address_texts(c.resp_h),
        proto=Coded(c.ip_proto.astype(np.int64), _PROTOS),
        service=coded(service or None for service in c.service),
        community_id=community_id_v1(c.orig_h, c.resp_h, c.orig_p, c.resp_p, c.ip_proto),
    )


_PROTOS: Final = tuple(PROTO_NAMES.get(number, "unknown_transport") for number in range(256))


def conn_lines(connections: Connections, local: LocalNets, fmt: Format) -> bytes:
    """The lines of conn.log, without a header, of connections that are not judged."""
    form = _TSV if fmt == "tsv" else _JSON
    return form.lines(CONN, conn_columns(connections, words_of(connections), local))


def conn_columns(connections: Connections, verdicts: Verdicts | Words, local: LocalNets) -> list[Column]:
    """The columns of conn.log in the order of `CONN.fields`; text columns are those of `verdicts`."""
    c, v = connections, verdicts
    none = Coded(np.full(len(c), -1), ())
    return [
        c.ts, c.uid, c.orig_h, c.orig_p, c.resp_h, c.resp_p, v.proto, v.service, c.duration, c.orig_bytes,
        c.resp_bytes, Coded(c.conn_state.astype(np.int64), CONN_STATES), local.each(v.orig_h), local.each(v.resp_h),
        c.missed_bytes, c.history, c.orig_pkts, c.orig_ip_bytes, c.resp_pkts, c.resp_ip_bytes, none, c.ip_proto,
        v.community_id,
    ]  # fmt: skip


def cmdana_columns(connections: Connections, verdicts: Verdicts) -> list[Column]:
    """The columns of cmdana.log in the order of `CMDANA.fields`, which is that of `Verdict`."""
    c, v = connections, verdicts
    same = np.zeros(len(v), np.int64)
    return [
        c.ts, c.uid, c.orig_h, c.orig_p, c.resp_h, c.resp_p, v.proto, v.service, v.community_id, v.stage,
        v.score, v.p_value, Coded(same, (v.threshold,)), v.verdict, *v.reliance.T, v.modalities, v.reasons,
        Coded(same, (v.model,)), v.incident,
    ]  # fmt: skip


def cmdana_pieces(
    connections: Connections, verdicts: Verdicts, revised: Sequence[tuple[int, Verdict]] = ()
) -> Iterator[list[Column]]:
    """All verdicts of a block in the order in which they were reached: pieces of the columns of cmdana.log.

    `revised` are verdicts on earlier connections, each with the row after which it was reached, in their order.
    """
    columns, begin = cmdana_columns(connections, verdicts), 0
    for row, again in groupby(revised, itemgetter(0)):
        yield [_cut(column, begin, row + 1) for column in columns]
        yield list(zip(*(verdict for _, verdict in again), strict=True))
        begin = row + 1
    if begin < len(connections):
        yield [_cut(column, begin, len(connections)) for column in columns]


def _cut(column: Column, begin: int, end: int) -> Column:
    return Coded(column.code[begin:end], column.words) if isinstance(column, Coded) else column[begin:end]


class LocalNets:
    """The site's networks: whether an address lies in one of them, as Zeek's Site::is_local_addr."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(n, strict=False) for n in networks]
        self._known: dict[str, bool] = {}

    def __call__(self, address: str) -> bool:
        known = self._known.get(address)
        if known is None:
            ip = ipaddress.ip_address(address)
            known = any(ip in n for n in self._networks if n.version == ip.version)
            if len(self._known) >= 65536:
                self._known.clear()
            self._known[address] = known
        return known

    def each(self, addresses: Sequence[str]) -> Coded:
        """Whether each of `addresses` is local, as a column of booleans."""
        known = {address: int(self(address)) for address in set(addresses)}
        return Coded(np.array([known[address] for address in addresses], np.int64), (False, True))


class LogWriter:
    """One log file that gets its name in `close` (`files.Replacement`): nothing half-written is ever found.

    The times of opening and closing in the header are network time, as Zeek's are when it reads a capture.
    Raises `LogError` when it cannot be written.
    """

    unfit: Final = 0  # values that a column could not hold: text holds all

    def __init__(
        self, folder: Path, stream: Stream, fmt: Format, kept: tuple[Path, int] | None = None
    ) -> None:
        """`kept` is where an earlier run has left the file's first so many bytes, and this one leaves it too."""
        self.path = folder / f"{stream.path}.log"
        self._stream = stream
        self._tsv = fmt == "tsv"
        self._form = _TSV if self._tsv else _JSON
        self._now = 0.0
        try:
            self._replacement = Resumed(self.path, *kept) if kept else Replacement(self.path)
        except OSError as error:
            raise LogError(f"{kept[0] if kept else self.path}: cannot be written: {error.strerror}") from None
        self._file = self._replacement.file
        self._opened = bool(kept and kept[1])

    def write(self, rows: Iterable[tuple[Value, ...]], now: float, opened: float | None = None) -> None:
        """Appends rows, values in the order of the stream's fields; else as `write_columns`."""
        self.write_columns(list(zip(*rows, strict=True)), now, opened)

    def write_columns(self, columns: Sequence[Column], now: float, opened: float | None = None) -> None:
        """Appends rows as columns in the order of the stream's fields, at network time `now` (seconds since the epoch).

        `opened` is the time that the header names if this is the first write; without it `now`.
        """
        try:
            self._open(now if opened is None else opened)
            self._now = now
            if columns:
                self._file.write(self._form.lines(self._stream, columns))
        except OSError as error:
            raise LogError(f"{self.path}: cannot be written: {error.strerror}") from None

    def write_lines(self, data: bytes, first: float, last: float) -> None:
        """Appends whole lines; `first` and `last` are the network times of the first and the last of them."""
        try:
            self._open(first)
            self._now = last
            self._file.write(data)
        except OSError as error:
            raise LogError(f"{self.path}: cannot be written: {error.strerror}") from None

    def settled(self) -> int:
        """How many bytes a `kept` file has so far, all of them on the disk."""
        assert isinstance(self._replacement, Resumed)
        try:
            return self._replacement.settled()
        except OSError as error:
            raise LogError(f"{self.path}: cannot be written: {error.strerror}") from None

    def close(self) -> None:
        """Writes the closing header line (TSV) and gives the file its name."""
        try:
            self._open(self._now)
            if self._tsv:
                self._file.write(f"#close\t{_stamp(self._now)}\n".encode())
            self._replacement.commit()
        except OSError as error:
            raise LogError(f"{self.path}: cannot be written: {error.strerror}") from None

    def abandon(self) -> None:
        """Deletes what was written, unless it is kept."""
        self._replacement.abandon()

    def _open(self, now: float) -> None:
        if self._tsv and not self._opened:
            self._file.write(_header(self._stream, now).encode())
        self._opened = True


def lines_of(stream: Stream, columns: Sequence[Column], fmt: Format) -> bytes:
    """Rows as lines without a header; columns in the order of the stream's fields."""
    return (_TSV if fmt == "tsv" else _JSON).lines(stream, columns)


def header_of(stream: Stream, fmt: Format, now: float) -> bytes:
    """What stands before the first line of a log that was opened at `now`, seconds since the epoch."""
    return _header(stream, now).encode() if fmt == "tsv" else b""


def _stamp(now: float) -> str:
    return shown(now, "%Y-%m-%d-%H-%M-%S")


def _header(stream: Stream, now: float) -> str:
    names = "\t".join(name for name, _ in stream.fields)
    types = "\t".join(kind for _, kind in stream.fields)
    return (
        "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n"
        f"#path\t{stream.path}\n#open\t{_stamp(now)}\n#fields\t{names}\n#types\t{types}\n"
    )


# A block is written column by column: what repeats in a column is put into words once.


@dataclass(frozen=True, slots=True)
class _RowFormat:
    """How one format puts a value of each of Zeek's types into words, and a line together."""

    word: Mapping[str, Callable[[Any], str]]
    between: bytes
    begin: bytes
    end: bytes
    short: bool  # no zeros at the end of decimals
    quoted: bool  # texts stand in quotes

    def lines(self, stream: Stream, columns: Sequence[Column]) -> bytes:
        """The columns as lines."""
        from cmdana_plugin.logs import digits as lines  # compiled code, which a reader of logs does not need

        cells, around = [], []
        for (name, kind), column in zip(stream.fields, columns, strict=True):
            cells.append(self._cells(kind, column))
            quote = '"' if self.quoted and cells[-1].kind in (lines.TEXT, lines.IPV4) else ""
            around.append(self._around(name, quote))
        return lines.join(
            cells, around, between=self.between, begin=self.begin, end=self.end, short=self.short
        )  # fmt: skip

    def _around(self, name: str, quote: str) -> tuple[bytes, bytes, bytes | None]:
        if not self.quoted:
            return b"", b"", b"-"
        return f"{dumps(name)}:{quote}".encode(), quote.encode(), None

    def _cells(self, kind: str, column: Column) -> Cells:
        from cmdana_plugin.logs import digits as to

        made: Cells | None = None
        if isinstance(column, np.ndarray):
            if column.dtype.kind == "S":
                made = to.texts(column)
            elif column.dtype.kind == "f":
                made = to.measured(column, to.DOUBLE if kind == "double" else to.SECONDS)
            elif column.ndim == 2:
                made = _addresses(column)
            else:
                made = to.counted(column)
            if made is not None:
                return made
            column = [None if v != v or v == b"" else v for v in column.tolist()]
            column = [v.decode("ascii", "surrogateescape") if isinstance(v, bytes) else v for v in column]
        few = column if isinstance(column, Coded) else coded(column)
        word = self.word[kind]
        return to.worded(few.code, [word(v).encode() for v in few.words])


def _addresses(column: NDArray[np.uint8]) -> Cells:
    from cmdana_plugin.logs import digits as to

    cell = np.ascontiguousarray(column[:, 12:]).view(">u4").reshape(-1).astype(np.int64)
    other = np.flatnonzero(~is_ipv4(column))
    few = coded(address_texts(column[other]))
    cell[other] = -1 - few.code
    return to.worded(cell, [str(v).encode() for v in few.words], to.IPV4)


# --- TSV ---

_SPECIAL: Final = re.compile(r"[\x00-\x1f\x7f\\]|[\ud800-\udfff]")
_SPECIAL_IN_SET: Final = re.compile(r"[\x00-\x1f\x7f\\,]|[\ud800-\udfff]")


def _escape_match(match: re.Match[str]) -> str:
    char = match.group()
    if char == "\\":
        return "\\\\"
    return "".join(f"\\x{b:02x}" for b in char.encode("utf-8", "surrogatepass"))


def _text(value: str, special: re.Pattern[str] = _SPECIAL) -> str:
    # A value that reads like unset or empty is escaped in its first character, as Zeek does.
    if value in ("-", "(empty)"):
        return f"\\x{ord(value[0]):02x}{value[1:]}"
    return special.sub(_escape_match, value) if special.search(value) else value


def _tsv_string(value: str) -> str:
    return _text(value) or "(empty)"


def _tsv_double(value: float) -> str:
    return repr(float(f"{value:.6g}"))


def _tsv_bool(value: bool) -> str:
    return "T" if value else "F"


def _tsv_strings(value: Sequence[str]) -> str:
    return ",".join(_text(v, _SPECIAL_IN_SET) or "(empty)" for v in value) if value else "(empty)"


def _tsv_seconds(value: float) -> str:
    return f"{value:.6f}"


_TSV: Final = _RowFormat(
    word={
        "time": _tsv_seconds,
        "interval": _tsv_seconds,
        "double": _tsv_double,
        "bool": _tsv_bool,
        "string": _tsv_string,
        "count": str,
        "port": str,
        "addr": str,
        "enum": str,
        "set[string]": _tsv_strings,
        "set[enum]": _tsv_strings,
        "vector[string]": _tsv_strings,
    },
    between=b"\t",
    begin=b"",
    end=b"\n",
    short=False,
    quoted=False,
)


# --- JSON ---

dumps: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def _json_seconds(value: float) -> str:
    return repr(round(float(value), 6))


def _json_value(value: Value) -> str:
    if isinstance(value, str):
        return dumps(_plain(value))
    if isinstance(value, list | tuple):
        return dumps([_plain(v) for v in value])
    return dumps(value)


def _plain(value: str) -> str:
    # A lone surrogate has no UTF-8; Zeek's JSON writes bytes that are no UTF-8 as \xNN.
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if not value.isascii() else value


_JSON: Final = _RowFormat(
    word={kind: _json_seconds if kind in ("time", "interval") else _json_value for kind in _TSV.word},
    between=b",",
    begin=b"{",
    end=b"}\n",
    short=True,
    quoted=True,
)
