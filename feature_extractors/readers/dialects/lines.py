"""Lines of a Zeek log, TSV or JSON, as records with Zeek's names, types and times, whatever dialect they are in."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from feature_extractors.errors import RecordError
from feature_extractors.observations import LogValue
from feature_extractors.readers.dialects.fields import (
    LARGEST_COUNT,
    LARGEST_INTEGER,
    MAX_FIELDS,
    NO_FIT,
    NO_JSON,
    NO_TIME,
    NUMBERS,
    OUT_OF_RANGE,
    STREAM,
    TYPES,
    BadRecord,
    Plan,
    checked,
    default_columns,
    ecs_duration,
    plan_of,
    renamed,
    seconds,
    stream_told,
    unwrapped,
)
from feature_extractors.readers.dialects.names import stream_of, told_stream

Record = Mapping[str, LogValue]
Reads = Mapping[str, Collection[str]]  # the fields that are read of each stream; under "" those of any other

MAX_LINE: Final = 4 * 1024 * 1024  # bytes
HALF_WRITTEN: Final = "half-written last line"
TOO_LONG: Final = "line too long"
TOO_LARGE: Final = "a count past 2^62, taken as unset"

_MAX_DIGITS: Final = 20  # of 64 bits
_MAX_SHAPES: Final = 4096  # of JSON records, of which it is kept how they are read
_MAX_STREAMS: Final = 64  # of records of one shape
_COUNTS: Final = (
    "orig_bytes", "resp_bytes", "missed_bytes", "orig_pkts", "orig_ip_bytes", "resp_pkts", "resp_ip_bytes",
)  # fmt: skip
_SEPARATORS: Final = ("\t", ",", ";", "|")  # of a log without a header
_ABOUT_CONNECTIONS: Final = frozenset(("uid", "id.orig_h", "fuid", "note", "fingerprint"))
_TELLING: Final = frozenset(STREAM)
_OF_CAPTURES: Final = frozenset((".pcap", ".pcapng", ".cap"))
_CAPTURE: Final = "; captures are for `cmdana replay`"
_DECLARED: Final = re.compile(r"(\W{1,4})separator (.*)", re.ASCII | re.DOTALL)


@dataclass(slots=True)
class PassedOver:
    """Counters of lines passed over, by file and reason (a few fixed texts), and of records read."""

    by_file: dict[str, Counter[str]] = field(default_factory=dict)
    read: int = 0

    def add(self, file: str, reason: str, n: int = 1) -> None:
        """Counts `n` lines of a file."""
        if n:
            self.by_file.setdefault(file, Counter())[reason] += n

    def total(self) -> int:
        """The number of lines passed over."""
        return sum(sum(reasons.values()) for reasons in self.by_file.values())

    def lines(self) -> Iterator[str]:
        """A sentence for each file and reason."""
        for file, reasons in self.by_file.items():
            for reason, n in reasons.items():
                yield f"{file}: passed over {n:,} {'line' if n == 1 else 'lines'}: {reason}"

    def words(self) -> str:
        """What was passed over, as the end of a sentence; "" for nothing."""
        has_format = "; ".join(
            f"{file}: " + ", ".join(f"{n:,} ({reason})" for reason, n in reasons.items())
            for file, reasons in self.by_file.items()
        )
        return f"; lines passed over: {has_format}" if has_format else ""

    def object(self) -> dict[str, dict[str, int]]:
        """For `--json`: file -> reason -> lines."""
        return {file: dict(reasons) for file, reasons in self.by_file.items()}


class Layout(NamedTuple):
    """The format of the lines of a TSV log: columns, types and separators."""

    names: Sequence[str]  # Zeek's
    types: Sequence[str]
    separator: str
    within: str  # of a set or vector
    unset: str
    empty: str
    quoted: bool  # as CSV has it


class _Shape:
    """The fields of a JSON record by their names: how they are read."""

    __slots__ = ("plan", "simple", "telling", "wanted")

    def __init__(self, names: tuple[str, ...]) -> None:
        self.plan = plan_of(names)
        zeek = {name for _, name, _ in self.plan}
        self.simple = "ts" in names or not _ABOUT_CONNECTIONS.isdisjoint(zeek)  # it stands in no other
        self.telling = not _TELLING.isdisjoint(names)
        self.wanted: dict[str, Plan] = {}  # of it, by stream


class LogLines:
    """One log, line by line. The stream is the header's `#path`, a record's `_path`, or else what it began with."""

    def __init__(
        self,
        name: str,
        stream: str,
        passed: PassedOver,
        only: Collection[str] | None = None,
        *,
        reads: Reads | None = None,
        strict: bool = False,
        as_bytes: bool = False,
    ) -> None:
        """`name` is for messages, `only` the fields wanted, or those that `reads` has of the stream; None: all.

        `strict`: a line that is no record raises `RecordError`.

        Texts of TSV come as Zeek's JSON has them, or where `as_bytes` as the bytes that they were, control characters
        among them.
        """
        self.name = name
        self.stream = stream
        self.layout: Layout | None = None
        self.declared: Mapping[
            str, str
        ] = {}  # the columns that the header names, and their types, "" where it has none
        self.is_json = False
        self.json_names: Sequence[str] = ()  # of the latest JSON record that stands in no other
        self._passed = passed
        self._only = only
        self._reads = reads
        self._strict = strict
        self._text = _decoded if as_bytes else unescaped
        self._prefix = "#"
        self._header: dict[str, str] = {}
        self._cells: list[tuple[int, str, Callable[[str], LogValue]]] = []
        self._lasted = False  # durations are of ECS
        self._shapes: OrderedDict[tuple[str, ...], _Shape] = OrderedDict()

    @property
    def has_format(self) -> bool:
        """Whether the format of the log is known, from a header or a record."""
        return self.layout is not None or self.is_json

    def receive(self, line: bytes, *, whole: bool = True) -> tuple[str, Record] | None:
        """Stream and record of a line without its end; `None` for a header, an empty line, and what was counted.

        `whole`: it had an end. Raises `RecordError` where the first line shows that this is no Zeek log.
        """
        if line.endswith(b"\r"):
            line = line[:-1]
        start = line[:1]
        if start == b"#" and self._prefix == "#":
            self._header_line(_text(line))
            return None
        if not line.strip():
            return None
        if start == b"[" and line[1:].lstrip()[:1] == b"{":  # an array of records
            line, start = line[1:].lstrip(), b"{"
        elif self.layout is None and line.strip() in (b"[", b"]", b","):
            return None
        if start == b"{":
            return self._json_line(line, whole)
        if self.layout is None and self._first_line(_text(line)):
            return None
        if not whole:
            self._bad(HALF_WRITTEN)
            return None
        return self._tsv_line(line)

    def receive_row(self, row: dict[str, Any]) -> tuple[str, Record] | None:
        """Stream and record of a row that is a JSON object already, as `receive`."""
        try:
            self.is_json = True
            return self._known(checked(row))
        except (ValueError, RecursionError) as error:
            self._bad(str(error) if isinstance(error, BadRecord) else NO_FIT, str(error))
            return None

    # TSV

    def _header_line(self, line: str) -> None:
        key = line[len(self._prefix) :]
        if key.startswith("separator "):
            self._header = {"separator": _plain(key.removeprefix("separator ")) or "\t"}
            return
        separator = self._header.get("separator", "\t")
        key, _, rest = key.partition(separator)
        self._header[key] = rest
        if key == "path" and 0 < len(rest) <= 64:
            self.stream = told_stream(rest.strip())
            if self.layout is not None:
                self._choose_cells()
        elif key == "fields":
            names = rest.split(separator, MAX_FIELDS)
            if len(names) > MAX_FIELDS:
                raise RecordError(f"{self.name}: found more than {MAX_FIELDS:,} fields in the header")
            self._header.pop("types", None)
            self._lay_out(names, None)
        elif key == "types" and "fields" in self._header:
            names = self._header["fields"].split(separator)
            types = rest.split(separator, MAX_FIELDS + 1)
            if len(names) != len(types):
                raise RecordError(
                    f"{self.name}: found {len(types)} #types, expected {len(names)} as in #fields"
                )
            self._lay_out(names, types)

    def _lay_out(self, names: Sequence[str], types: Sequence[str] | None, *, quoted: bool = False) -> None:
        header = self._header
        plan = renamed(names)
        zeek = [plan[name] for name in names]
        self.declared = dict(zip(zeek, types or [""] * len(zeek), strict=True))
        self.layout = Layout(
            zeek,
            types or [TYPES.get(name, "string") for name in zeek],
            header.get("separator", "\t"),
            _plain(header.get("set_separator", "")) or ",",
            _plain(header.get("unset_field", "-")),
            _plain(header.get("empty_field", "(empty)")),
            quoted,
        )
        self._lasted = "event.duration" in plan
        self._choose_cells()

    def _choose_cells(self) -> None:
        layout, only = self.layout, self._wanted(self.stream)
        assert layout is not None
        self._cells = [
            (i, name, _reader(kind, layout, name, self._text, lasted=self._lasted))
            for i, (name, kind) in enumerate(zip(layout.names, layout.types, strict=True))
            if only is None or name in only
        ]

    def _wanted(self, stream: str) -> Collection[str] | None:
        return self._only if self._reads is None else self._reads.get(stream, self._reads[""])

    def _first_line(self, line: str) -> bool:
        """Whether a line before any header is one: of another prefix, or the names of the columns alone.

        Raises `RecordError` where it is neither that nor a line of columns in Zeek's own order.
        """
        declared = _DECLARED.fullmatch(line)
        if declared is not None and not self.is_json:
            self._prefix = declared[1]
            self._header_line(line)
            return True
        if self._prefix != "#" and line.startswith(self._prefix):
            self._header_line(line)
            return True
        if self.is_json:
            self._bad(NO_JSON)
            return True
        for separator in _SEPARATORS:
            names = _split(line, separator, quoted=separator != "\t")
            plan = renamed(names) if 2 < len(names) <= MAX_FIELDS else {}
            zeek = set(plan.values())
            if len(plan) == len(names) and "ts" in zeek and zeek & _ABOUT_CONNECTIONS:
                self._header = {"separator": separator}
                self._lay_out(names, None, quoted=separator != "\t")
                return True
        for separator in _SEPARATORS:
            cells = _split(line, separator, quoted=separator != "\t")
            found = default_columns(cells) if len(cells) <= MAX_FIELDS else None
            if found is not None:
                self._header = {"separator": separator}
                self.stream = found[0]
                self._lay_out(found[1], None, quoted=separator != "\t")
                return False
        raise RecordError(
            f"{self.name}: no Zeek log: found {line[:40]!r}, expected a #fields line, a JSON object, or a first line "
            f"of columns that are Zeek's{_CAPTURE if _OF_CAPTURES & set(Path(self.name).suffixes) else ''}"
        )

    def _tsv_line(self, line: bytes) -> tuple[str, Record] | None:
        layout = self.layout
        assert layout is not None
        text = _text(line)
        try:
            cells = self.cells(text)
            if len(cells) != len(layout.names):
                raise ValueError(f"a line of {len(cells)} fields; the header names {len(layout.names)}")
            unset = layout.unset
            record: dict[str, LogValue] = {
                name: read(cells[i])
                for i, name, read in self._cells
                if cells[i] != unset and (cells[i] or not layout.quoted)
            }
            return self.stream, self._counted(self.stream, record)
        except (ValueError, csv.Error) as error:
            self._bad(str(error) if isinstance(error, BadRecord) else NO_FIT, str(error))
            return None

    def cells(self, line: str) -> list[str]:
        """The raw cells of a line of TSV that was a record."""
        layout = self.layout
        assert layout is not None
        if layout.quoted and '"' in line:
            return next(csv.reader([line], delimiter=layout.separator), [])
        return line.split(layout.separator, len(layout.names))

    def joined(self, cells: Sequence[str]) -> str:
        """The line of TSV that holds these raw cells."""
        layout = self.layout
        assert layout is not None
        if not layout.quoted:
            return layout.separator.join(cells)
        line = io.StringIO(newline="")
        csv.writer(line, delimiter=layout.separator, lineterminator="").writerow(cells)
        return line.getvalue()

    # JSON

    def _json_line(self, line: bytes, whole: bool) -> tuple[str, Record] | None:
        line = line.strip()
        if line.endswith((b",", b"]")) and not line.endswith(b"}"):
            line = line.rstrip(b",] \t")
        if not whole and not line.endswith(b"}"):
            self._bad(HALF_WRITTEN)
            return None
        try:
            row = _json(line)
            if type(row) is not dict:
                raise BadRecord(NO_JSON)
            self.is_json = True
            return self._known(row)
        except (ValueError, RecursionError) as error:
            self._bad(str(error) if isinstance(error, BadRecord) else NO_JSON, str(error))
            return None

    def _known(self, row: dict[str, Any]) -> tuple[str, Record]:
        """Stream and record of a `checked` JSON object, names and values as Zeek has them. Raises `ValueError`."""
        names = tuple(row)
        shape = self._shape(names)
        if shape.simple and dict not in map(type, row.values()):
            told = stream_told(row) if shape.telling else ""
            self.json_names = names
        else:
            told, row = unwrapped(row)
            shape = self._shape(tuple(row))
        stream = stream_of(told) if told else self.stream
        plan = shape.wanted.get(stream)
        if plan is None:
            only = self._wanted(stream)
            plan = tuple(field for field in shape.plan if only is None or field[1] in only)
            if len(shape.wanted) < _MAX_STREAMS:
                shape.wanted[stream] = plan
        record: dict[str, LogValue] = {}
        for name, zeek, read in plan:
            value = row[name]
            if value is not None:
                record[zeek] = value if read is None else read(value)
        if "ts" in record:
            ts = seconds(record["ts"])
            if ts is None:
                raise BadRecord(NO_TIME)
            record["ts"] = ts
        return stream, self._counted(stream, record)

    def _shape(self, names: tuple[str, ...]) -> _Shape:
        shape = self._shapes.get(names)
        if shape is None:
            if len(names) > MAX_FIELDS:
                raise BadRecord(f"more than {MAX_FIELDS:,} fields")
            shape = self._shapes[names] = _Shape(names)
            if len(self._shapes) > _MAX_SHAPES:
                self._shapes.popitem(last=False)
        return shape

    def _counted(self, stream: str, record: dict[str, LogValue]) -> dict[str, LogValue]:
        """The record without counts that no connection can have."""
        if stream == "conn":
            for name in _COUNTS:
                value = record.get(name)
                if isinstance(value, int | float) and LARGEST_COUNT < value <= LARGEST_INTEGER:
                    del record[name]
                    self._passed.add(self.name, TOO_LARGE)
        return record

    def _bad(self, reason: str, why: str = "") -> None:
        if self._strict and reason != HALF_WRITTEN:
            raise RecordError(f"{self.name}: found a line that is no record: {why or reason}")
        self._passed.add(self.name, reason)


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


def _json(line: bytes) -> Any:
    """What a line of JSON says, `checked`. Raises `ValueError` where it is none."""
    try:
        row = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError):  # a text with bytes that are not UTF-8, or half of a pair
        return checked(json.loads(_json_text(line)))
    # Texts are texts and doubles finite: what is left is how large integers are, and how deep lists.
    for value in row.values() if type(row) is dict else ():
        kind = type(value)
        if kind is int:
            if abs(value) > LARGEST_INTEGER:
                raise BadRecord(OUT_OF_RANGE)
        elif kind is dict or (kind is list and not _HARMLESS.issuperset(map(type, value))):
            checked(value, 1)
    return row


_HARMLESS: Final = frozenset((str, float, bool))


def _split(line: str, separator: str, *, quoted: bool) -> list[str]:
    if quoted and '"' in line:
        try:
            return next(csv.reader([line], delimiter=separator), [])
        except csv.Error:
            return []
    return line.split(separator, MAX_FIELDS + 1)


def _plain(word: str) -> str:
    """A word of a header, its escapes undone: `\\x7c` is `|`."""
    return _decoded(word)


def _reader(
    kind: str, layout: Layout, name: str, text: Callable[[str], str], *, lasted: bool = False
) -> Callable[[str], LogValue]:
    if name == "ts" or kind == "time":
        return _time if name == "ts" else _time_or_number
    container = re.fullmatch(r"(?:set|vector|table|array|list)\[(.*)\]", kind)
    if container:
        element = _reader(container[1], layout, "", text) if "[" not in container[1] else str

        def elements(cell: str) -> LogValue:
            if cell == layout.empty:
                return []
            return [None if part == layout.unset else element(part) for part in cell.split(layout.within)]

        return elements
    if name == "duration" and lasted:
        return ecs_duration
    if kind not in NUMBERS and TYPES.get(name) in NUMBERS:
        kind = TYPES[name]  # a header of strings alone
    if kind in ("interval", "double"):
        return _finite
    if kind in ("count", "int", "port"):
        return _integer
    if kind == "bool":
        return _bool
    empty = layout.empty
    return lambda cell: "" if cell == empty else text(cell)


def _time(cell: str) -> float:
    value = seconds(cell)
    if value is None:
        raise BadRecord(NO_TIME)
    return value


def _time_or_number(cell: str) -> float:
    value = seconds(cell)
    return _finite(cell) if value is None else value


def _finite(cell: str) -> float:
    value = float(cell)
    if not math.isfinite(value):
        raise BadRecord(OUT_OF_RANGE)
    return value


def _integer(cell: str) -> int:
    if len(cell) > _MAX_DIGITS or not -LARGEST_INTEGER <= (value := int(cell)) <= LARGEST_INTEGER:
        raise BadRecord(OUT_OF_RANGE)
    return value


def _bool(cell: str) -> bool:
    if cell not in ("T", "F", "true", "false"):
        raise ValueError(f"found {cell[:40]!r}, expected T or F")
    return cell in ("T", "true")


_ESCAPES: Final = re.compile(rb"\\x([0-9a-fA-F]{2})|\\\\")
_BAD_CONTROLS: Final = re.compile(rb"[\x00-\x07\x0b\x0e-\x1f\x7f]")


def _decoded(value: str) -> str:
    """Zeek's `\\xHH` and `\\\\` undone; bytes that are no text stay visible."""
    if "\\" not in value:
        return value
    raw = _ESCAPES.sub(lambda m: bytes.fromhex(m[1].decode()) if m[1] else b"\\", value.encode())
    return raw.decode("utf-8", "backslashreplace")


def unescaped(value: str) -> str:
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
