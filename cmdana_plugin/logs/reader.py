"""Rows of Zeek logs as the writers of `logs` and Zeek itself leave them: TSV or JSON, plain or gzip, rotated or not."""

from __future__ import annotations

import gzip
import json
import math
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

from feature_extractors import RecordError
from feature_extractors.readers import files_below

Field = bool | int | float | str | list[str] | None
Skipped = Counter[str]  # reason -> lines that were passed over

MOST_HELD: Final = 128 * 1024 * 1024  # bytes of rows that a command holds at once
MAX_LINE: Final = 4 * 1024 * 1024  # characters
_MAX_FIELDS: Final = 10_000  # of a header
_MAX_DEPTH: Final = 8  # of a JSON value
_MAX_MAGNITUDE: Final = 2**64  # the largest magnitude of an integer; Zeek's have 64 bits
_MAX_DIGITS: Final = 20

_OUT_OF_RANGE: Final = "a number out of range"
_NO_TIME: Final = "no time, or one out of range"
_ESCAPED: Final = re.compile(rb"\\x([0-9a-f]{2})|\\\\")


class _BadRow(ValueError):
    """A line that is no record; the message is the reason to count."""


class Held:
    """Rows that are kept, `MOST_HELD` bytes of them; those past that are counted in `skipped`."""

    def __init__(self, skipped: Skipped) -> None:
        self.rows: list[Mapping[str, Field]] = []
        self._skipped = skipped
        self._left = MOST_HELD

    def add(self, row: Mapping[str, Field]) -> bool:
        """Keeps the row; False where there is no room."""
        size = 256 + sum(64 + _size(value) for value in row.values())
        if size > self._left:
            self._skipped[f"more than {MOST_HELD >> 20} MiB of rows at once"] += 1
            return False
        self._left -= size
        self.rows.append(row)
        return True


def _size(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(64 + _size(v) for v in value)
    if isinstance(value, dict):
        return sum(64 + len(k) + _size(v) for k, v in value.items())
    return 8


def find_logs(paths: Iterable[Path], stream: str) -> list[Path]:
    """The logs of one stream that are named or lie in the folders named, rotated ones before the current one.

    Rotation is told by Zeek's names: `notice.log`, `notice.2026-11-22-14-00-00.log`, `notice-26-11-22_14.00.00.log`,
    `notice.14:00:00-15:00:00.log.gz`. A folder may hold none. Raises `RecordError` for a path that does not exist.
    """
    name = re.compile(re.escape(stream) + r"([.-]\d.*)?\.log(\.gz)?")
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            there = [f for f in files_below(path) if name.fullmatch(f.name)]
            files += sorted(there, key=lambda f: (f.name == f"{stream}.log", str(f)))
        elif path.exists():
            files.append(path)
        else:
            raise RecordError(f"{path}: does not exist; expected a {stream}.log or a folder that holds one")
    return files


def read_rows(
    path: Path,
    only: Collection[str] | None = None,
    containing: str | None = None,
    skipped: Skipped | None = None,
) -> Iterator[Mapping[str, Field]]:
    """Each record with its set fields typed by the header: times, intervals and doubles as float, sets as list.

    `only` names the fields wanted (missing ones stay out), `containing` a text that a line must hold to be looked at
    (before unescaping). A last line that is cut in the middle is passed over; a line that is no record, that is too
    long or holds a number that Zeek cannot write is counted in `skipped`: numbers of rows are finite, integers have
    64 bits, and texts have no lone surrogates. Raises `RecordError` for a file that is no Zeek log, and without
    `skipped` for a line that is no record.
    """
    try:
        file: IO[str] = (
            gzip.open(path, "rt", encoding="utf-8", errors="backslashreplace", newline="\n")
            if path.suffix == ".gz"
            else open(path, encoding="utf-8", errors="backslashreplace", newline="\n")
        )
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from None
    with file:
        try:
            yield from parse_rows(
                bounded_lines(file, str(path), skipped), str(path), only, containing, skipped
            )
        except (gzip.BadGzipFile, zlib.error) as error:
            raise RecordError(f"{path}: no gzip file: {error}") from None
        except EOFError:
            # gzip ends early where the file is still being written or was cut: what came before it counts.
            if skipped is None:
                raise RecordError(f"{path}: the gzip file ends early") from None
            skipped["gzip file ends early"] += 1
        except OSError as error:
            raise RecordError(f"{path}: cannot be read: {error.strerror}") from None


def bounded_lines(file: IO[str], name: str, skipped: Skipped | None) -> Iterator[str]:
    """The lines, each with its end; one that is too long is passed over piece by piece and counted.

    Raises `RecordError` for it without `skipped`.
    """
    while line := file.readline(MAX_LINE):
        if len(line) < MAX_LINE or line.endswith("\n"):
            yield line
            continue
        while (line := file.readline(MAX_LINE)) and not line.endswith("\n"):
            pass
        if skipped is None:
            raise RecordError(f"{name}: found a line of more than {MAX_LINE:,} characters")
        skipped["line too long"] += 1


def parse_rows(
    lines: Iterator[str] | IO[str],
    name: str,
    only: Collection[str] | None = None,
    containing: str | None = None,
    skipped: Skipped | None = None,
) -> Iterator[Mapping[str, Field]]:
    """`read_rows` over lines; `name` is for messages."""
    names: list[str] = []
    wanted: list[tuple[int, str, Callable[[str], Field]]] = []
    json_seen = False
    for line in lines:
        if not line.endswith("\n"):
            return
        if line.startswith("#"):
            if line.startswith("#fields\t"):
                names, wanted = line.rstrip("\r\n").split("\t", _MAX_FIELDS + 1)[1:], []
                if len(names) > _MAX_FIELDS:
                    raise RecordError(f"{name}: found more than {_MAX_FIELDS:,} fields in the header")
            elif line.startswith("#types\t"):
                types = line.rstrip("\r\n").split("\t", _MAX_FIELDS + 1)[1:]
                if len(types) != len(names):
                    raise RecordError(
                        f"{name}: found {len(types)} types for {len(names)} fields in the header"
                    )
                pairs = enumerate(zip(names, types, strict=True))
                wanted = [(i, n, _reader(t)) for i, (n, t) in pairs if only is None or n in only]
            continue
        if containing is not None and containing not in line:
            continue
        try:
            if line.startswith("{"):
                row = _record(line)
                json_seen = True
                yield row
            elif line != "\n":
                if not names and json_seen:
                    raise _BadRow("no JSON record")
                if not names:
                    raise RecordError(f"{name}: no Zeek log: found neither a #fields header nor JSON records")
                cells = line.rstrip("\r\n").split("\t", len(names))
                if len(cells) != len(names):
                    raise ValueError(f"a line of {len(cells)} fields; the header names {len(names)}")
                yield {n: read(cells[i]) for i, n, read in wanted if cells[i] != "-"}
        except (ValueError, RecursionError) as error:
            if skipped is None:
                raise RecordError(f"{name}: found a line that is no record: {error}") from None
            reason = "no JSON record" if line.startswith("{") else "fields do not match the header"
            skipped[str(error) if isinstance(error, _BadRow) else reason] += 1


def passed_over(skipped: Skipped) -> str:
    """What was passed over, as the end of a sentence; "" for nothing."""
    words = ", ".join(f"{n:,} ({reason})" for reason, n in skipped.items())
    return f"; lines passed over: {words}" if words else ""


def number(row: Mapping[str, Field], field: str, default: float = 0.0) -> float:
    """A numeric field of a row, finite, or `default` where it is unset or no such number."""
    value = row.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        return default
    return float(value)


def text(row: Mapping[str, Field], field: str) -> str:
    """A field of a row as text, "" where it is unset."""
    value = row.get(field)
    return "" if value is None else str(value)


def texts(row: Mapping[str, Field], field: str) -> list[str]:
    """A set or vector of a row, empty where it is unset."""
    value = row.get(field)
    return [str(v) for v in value] if isinstance(value, list) else []


_LARGEST: Final = sys.float_info.max


def _record(line: str) -> dict[str, Field]:
    """A line of a JSON log. Raises `ValueError`, or `RecursionError`."""
    row = json.loads(line)
    if isinstance(row.get("ts"), str):
        row["ts"] = _iso(row["ts"])
    elif "ts" in row and (isinstance(row["ts"], bool) or not isinstance(row["ts"], int | float)):
        raise _BadRow(_NO_TIME)
    return {checked(name): checked(value) for name, value in row.items()}


def checked(value: Any, depth: int = 0) -> Any:
    """A JSON value with lone surrogates escaped, where a log can hold it. Raises `ValueError`."""
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-8", "backslashreplace").decode("utf-8")  # lone surrogates
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _BadRow(_OUT_OF_RANGE)
    elif isinstance(value, int):
        if not -_MAX_MAGNITUDE <= value <= _MAX_MAGNITUDE:
            raise _BadRow(_OUT_OF_RANGE)
    elif isinstance(value, list | dict):
        if depth == _MAX_DEPTH:
            raise _BadRow("nested too deeply")
        if isinstance(value, list):
            return [checked(v, depth + 1) for v in value]
        return {checked(k): checked(v, depth + 1) for k, v in value.items()}
    return value


def _iso(stamp: str) -> float:
    try:
        when = datetime.fromisoformat(stamp)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except OverflowError:
        raise _BadRow(_NO_TIME) from None


def _double(cell: str) -> float:
    value = float(cell)
    if not math.isfinite(value):
        raise _BadRow(_OUT_OF_RANGE)
    return value


def _whole(cell: str) -> int:
    if len(cell) > _MAX_DIGITS or not -_MAX_MAGNITUDE <= (value := int(cell)) <= _MAX_MAGNITUDE:
        raise _BadRow(_OUT_OF_RANGE)
    return value


def _reader(kind: str) -> Callable[[str], Field]:
    if kind.startswith(("set[", "vector[")):
        return _list
    if kind in ("time", "interval", "double"):
        return _double
    if kind in ("count", "int", "port"):
        return _whole
    if kind == "bool":
        return "T".__eq__
    return _string


def _list(cell: str) -> list[str]:
    return [] if cell == "(empty)" else [_string(c) for c in cell.split(",")]


def _string(cell: str) -> str:
    if cell == "(empty)":
        return ""
    if "\\" not in cell:
        return cell
    raw = _ESCAPED.sub(lambda m: bytes.fromhex(m[1].decode()) if m[1] else b"\\", cell.encode("utf-8"))
    return raw.decode("utf-8", "backslashreplace")
