"""Logs of any dialect in, logs as Zeek writes them out: one of each stream."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

from cmdana_plugin.logs.log_folder import LogFolder, To, opener
from cmdana_plugin.logs.parquet import ParquetLog, worded
from cmdana_plugin.logs.streams import CMDANA, CONN, NOTICE, LogWriter, Stream, dumps
from cmdana_plugin.logs.tables import APPLICATION
from feature_extractors import LogValue, RecordError
from feature_extractors.readers import (
    NO_FIT,
    NO_LOG,
    TYPES,
    PassedOver,
    flattened,
    log_files,
    probe,
    records,
    seconds,
    unescaped,
)

MOST_STREAMS: Final = 200
MOST_FIELDS: Final = 10_000  # of a stream
NO_STREAM: Final = "no telling of which log"
TOO_MANY_STREAMS: Final = f"of more than {MOST_STREAMS} logs"
TOO_MANY_FIELDS: Final = f"more than {MOST_FIELDS:,} fields in one log"
CHANGED: Final = "written while it was read"
UNFIT: Final = "a value that its column cannot hold, taken as unset"

_MAX_WAITING_BYTES: Final = 32 * 1024 * 1024  # bytes of rows that wait to be written, of all streams together
_MAX_WAITING_ROWS: Final = 65_536  # of a stream that wait
_PATH: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}", re.ASCII)
_KNOWN: Final = {stream.path: stream for stream in (CONN, CMDANA, NOTICE, *APPLICATION.values())}
_TIMES: Final = {
    path: frozenset(name for name, kind in stream.fields if kind == "time" and name != "ts")
    for path, stream in _KNOWN.items()
}
_TYPE: Final = re.compile(r"(?:set\[|vector\[)?[a-z_]{1,32}\]?", re.ASCII)
_CONTAINER: Final = re.compile(r"(?:set|vector)\[(.*)\]")


@dataclass(slots=True)
class Rewritten:
    """The outcome of `rewrite`: what was read, written, refused and passed over."""

    files: list[str]  # that were read, in this order
    rows: dict[str, int] = field(default_factory=dict)  # by stream
    logs: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # why files could not be read
    passed: PassedOver = field(default_factory=PassedOver)


def rewrite(
    paths: Sequence[Path],
    out: Path,
    to: To,
    progress: Callable[[str, float], None] = lambda _what, _share: None,
    *,
    over: bool = True,
) -> Rewritten:
    """Writes the rows of all logs of `paths` (files, or folders to any depth) to `out`, one log for each stream.

    The logs are read in the order of their first records. A field has the type that a header declares, else Zeek's
    own, else one that its values fit; so they are read twice, but for JSON, which needs no types. `over`: logs of the
    same name may go. Raises `RecordError` where no row could be read, or `LogError`; then nothing is left in `out`.
    """
    files = list(_in_order(paths))
    done = Rewritten([str(file) for file in files])
    written = LogFolder(out, opener(to), overwrite=over)
    try:
        streams = {} if to == "json" else _streams(files, progress)
        rows = _Rows(written, streams, to)
        for k, file in enumerate(files):
            for path, record in _records(file, done.passed, done.refused):
                rows.add(path, record, str(file), done.passed)
            progress("writing", (k + 1) / len(files))
        rows.flush()
        done.rows = rows.written
        if not done.rows:
            why = "; ".join(done.refused[:3]) or f"{', '.join(map(str, paths[:3]))}: no record could be read"
            raise RecordError(why + done.passed.words())
        done.logs = written.close()
    except BaseException:
        written.abandon()
        raise
    for log, n in written.unfit().items():
        done.passed.add(log, UNFIT, n)
    return done


def _in_order(paths: Iterable[Path]) -> Iterator[Path]:
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise RecordError(f"{path}: does not exist; expected Zeek logs or a folder that holds them")
        for file in log_files(path):
            found.setdefault(file.resolve(), file)
    about = [(probe(file).first, str(file), file) for file in found.values()]
    yield from (file for _, _, file in sorted(about))


def _records(
    file: Path, passed: PassedOver, refused: list[str], declared: dict[str, dict[str, str]] | None = None
) -> Iterator[tuple[str, Mapping[str, LogValue]]]:
    """Stream and record of each row that can be written; what cannot is counted."""
    name = str(file)
    try:
        for path, record in records(file, passed, declared=declared):
            if not _PATH.fullmatch(path):
                passed.add(name, NO_STREAM)
            elif "ts" not in record and path not in _KNOWN:
                passed.add(name, NO_LOG)
            else:
                try:
                    yield path, _plain(path, record)
                except (ValueError, RecursionError):
                    passed.add(name, NO_FIT)
    except RecordError as error:
        passed.add(name, NO_LOG)
        refused.append(str(error))


def _plain(path: str, record: Mapping[str, LogValue]) -> Mapping[str, Any]:
    """The record without records in it, times as numbers where Zeek has times."""
    if any(isinstance(value, dict) for value in record.values()):
        record = flattened(record)
    named = _TIMES.get(path, frozenset()) & record.keys()
    times = {name: seconds(record[name]) for name in named if isinstance(record[name], str)}
    known = {name: value for name, value in times.items() if value is not None}
    return {**record, **known} if known else record


# Rows on their way


class _Rows:
    """Rows that wait until there are enough of them to write."""

    def __init__(
        self, written: LogFolder[LogWriter | ParquetLog], streams: Mapping[str, Stream], to: To
    ) -> None:
        self.written: dict[str, int] = {}
        self._logs = written
        self._streams = dict(streams)
        self._to = to
        self._names: dict[str, frozenset[str]] = {
            path: frozenset(name for name, _ in stream.fields) for path, stream in streams.items()
        }
        self._line: dict[str, Callable[[Mapping[str, Any]], str]] = {}
        if to == "tsv":
            self._line = {path: _tsv(stream) for path, stream in streams.items()}
        self._waiting: dict[str, list[Any]] = {}
        self._times: dict[str, tuple[float, float]] = {}
        self._size = 0

    def add(self, path: str, record: Mapping[str, Any], file: str, passed: PassedOver) -> None:
        """One row, which is written sooner or later, or counted."""
        if self._to == "json":
            if path not in self._streams:
                if len(self._streams) == MOST_STREAMS:
                    passed.add(file, TOO_MANY_STREAMS)
                    return
                self._streams[path] = Stream(path, ())
            row: Any = dumps(record)
            size = len(row)
        else:
            if path not in self._streams:
                passed.add(file, TOO_MANY_STREAMS if len(self._streams) == MOST_STREAMS else CHANGED)
                return
            if not self._names[path].issuperset(record):
                full = len(self._names[path]) == MOST_FIELDS
                passed.add(file, TOO_MANY_FIELDS if full else CHANGED)
                return
            row, size = record, 256
            if self._to == "tsv":
                try:
                    row = self._line[path](record)
                except (TypeError, ValueError):  # another kind of value than when it was looked at
                    passed.add(file, CHANGED)
                    return
                size = len(row)
            else:
                size += sum(64 + len(v) if isinstance(v, str) else 64 * len(v) if isinstance(v, list) else 64
                            for v in record.values())  # fmt: skip
        waiting = self._waiting.setdefault(path, [])
        waiting.append(row)
        ts = float(record["ts"]) if isinstance(record.get("ts"), int | float) else 0.0
        self._times[path] = self._times.get(path, (ts, ts))[0], ts
        self._size += size
        if self._size > _MAX_WAITING_BYTES:
            self.flush()
        elif len(waiting) == _MAX_WAITING_ROWS:
            self._flush(path)

    def flush(self) -> None:
        """Writes all that waits."""
        for path in list(self._waiting):
            self._flush(path)
        self._size = 0

    def _flush(self, path: str) -> None:
        rows = self._waiting.pop(path, [])
        if not rows:
            return
        log = self._logs.log(self._headed(path))
        if isinstance(log, ParquetLog):
            log.write_rows(rows)
        else:
            log.write_lines(
                ("\n".join(rows) + "\n").encode("utf-8", "backslashreplace"), *self._times.pop(path)
            )
        self.written[path] = self.written.get(path, 0) + len(rows)

    def _headed(self, path: str) -> Stream:
        """The stream, its names as they may stand in a header."""
        fields = self._streams[path].fields
        return Stream(
            path, fields if self._to != "tsv" else tuple((_SPECIAL.sub(_escaped, n), k) for n, k in fields)
        )


# Types


class _Seen:
    """What values a field has had."""

    __slots__ = ("element", "high", "kinds", "low")

    def __init__(self) -> None:
        self.kinds: set[type] = set()
        self.low = self.high = 0
        self.element: _Seen | None = None

    def add(self, value: Any) -> None:
        if value is None:
            return
        kind = type(value)
        self.kinds.add(kind)
        if kind is int:
            if value < self.low:
                self.low = value
            elif value > self.high:
                self.high = value
        elif kind is list:
            if self.element is None:
                self.element = _Seen()
            for one in value:
                self.element.add(one)

    def fits(self, kind: str) -> bool:
        """Whether a column of the type holds them all."""
        if not self.kinds:
            return True
        if container := _CONTAINER.fullmatch(kind):
            return self.kinds == {list} and (self.element is None or self.element.fits(container[1]))
        if kind in ("time", "interval", "double"):
            return self.kinds <= {int, float}
        if kind in ("count", "port"):
            return self.kinds == {int} and self.low >= 0 and self.high < 1 << 64
        if kind == "int":
            return self.kinds == {int} and self.low >= -(1 << 63) and self.high < 1 << 63
        return self.kinds == {bool if kind == "bool" else str}

    def kind(self) -> str:
        """The type of a column that holds them all."""
        for kind in ("bool", "count", "int", "double"):
            if self.fits(kind) and self.kinds:
                return kind
        if self.kinds == {list}:
            inner = self.element.kind() if self.element is not None else "string"
            return "vector[string]" if "[" in inner else f"vector[{inner}]"
        return "string"


def _streams(files: Sequence[Path], progress: Callable[[str, float], None]) -> dict[str, Stream]:
    """The streams of the files with the fields that any of their rows has."""
    seen: dict[str, dict[str, _Seen]] = {}
    declared: dict[str, dict[str, str]] = {}
    for k, file in enumerate(files):
        for path, record in _records(file, PassedOver(), [], declared):
            fields = seen.get(path)
            if fields is None:
                if len(seen) == MOST_STREAMS:
                    continue
                fields = seen[path] = {}
            for name in declared.get(path, ()) if not fields else ():
                fields[name] = _Seen()
            new = record.keys() - fields.keys()
            if len(fields) + len(new) > MOST_FIELDS:
                continue
            for name, value in record.items():
                if name in new:
                    fields[name] = _Seen()
                fields[name].add(value)
        progress("looking", (k + 1) / len(files))
    return {path: _stream(path, fields, declared.get(path, {})) for path, fields in seen.items()}


def _stream(path: str, fields: Mapping[str, _Seen], declared: Mapping[str, str]) -> Stream:
    known = dict(_KNOWN[path].fields) if path in _KNOWN else {}
    order = list(fields)
    if not declared:
        place = dict(zip(known, count(), strict=False))
        first = {"ts": -1}
        order.sort(key=lambda name: first.get(name, place.get(name, len(place))))
    kinds = {}
    for name in order:
        seen = fields[name]
        wanted = (declared.get(name), known.get(name), TYPES.get(name))
        kinds[name] = (
            next((kind for kind in wanted if kind and _TYPE.fullmatch(kind) and seen.fits(kind)), None)
            or seen.kind()
        )
    return Stream(path, tuple(kinds.items()))


# TSV

_SPECIAL: Final = re.compile(r"[\x00-\x1f\x7f\\]|[\ud800-\udfff]")
_NOT_ZEEKS: Final = re.compile(r"[\x00-\x1f\x7f]|\\(?!x[0-9a-f]{2})|[\ud800-\udfff]")


def _escaped(match: re.Match[str]) -> str:
    char = match.group()
    return "\\\\" if char == "\\" else "".join(f"\\x{b:02x}" for b in char.encode("utf-8", "surrogatepass"))


def _text(value: Any) -> str:
    """The value as it stands in TSV, so that it is read as it was. Zeek's own escapes in it stay as they are."""
    value = worded(value)
    if not value:
        return "(empty)"
    if value in ("-", "(empty)"):
        return f"\\x{ord(value[0]):02x}{value[1:]}"
    if "\\" in value and unescaped(kept := _NOT_ZEEKS.sub(_escaped, value)) == value:
        return kept
    return _SPECIAL.sub(_escaped, value) if not value.isprintable() or "\\" in value else value


def _word(kind: str) -> Callable[[Any], str]:
    if container := _CONTAINER.fullmatch(kind):
        element = _word(container[1])
        return lambda values: ",".join(
            "-" if v is None else element(v).replace(",", "\\x2c") for v in values
        ) or "(empty)"  # fmt: skip
    if kind in ("time", "interval"):
        return "{:.6f}".format
    if kind == "double":
        return lambda value: repr(float(value))
    if kind in ("count", "int", "port"):
        return "{:d}".format
    return {"bool": lambda value: "T" if value else "F"}.get(kind, _text)


def _tsv(stream: Stream) -> Callable[[Mapping[str, Any]], str]:
    words = [(name, _word(kind)) for name, kind in stream.fields]

    def line(record: Mapping[str, Any]) -> str:
        get = record.get
        return "\t".join(["-" if (value := get(name)) is None else word(value) for name, word in words])

    return line
