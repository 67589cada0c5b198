"""Rows of Zeek logs as the writers of `logs` and Zeek itself leave them: TSV or JSON, plain or gzip, rotated or not."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

from feature_extractors.errors import RecordError
from feature_extractors.readers.folders import files_below

Field = bool | int | float | str | list[str] | None
Skipped = Counter[str]  # reason -> lines that were passed over

_ESCAPED: Final = re.compile(rb"\\x([0-9a-f]{2})|\\\\")


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
    (before unescaping). A last line that is cut in the middle is passed over; a line that is no record is counted in
    `skipped`. Raises `RecordError` for a file that is no Zeek log, and without `skipped` for a line that is no record.
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
            yield from parse_rows(file, str(path), only, containing, skipped)
        except (gzip.BadGzipFile, zlib.error) as error:
            raise RecordError(f"{path}: no gzip file: {error}") from None
        except EOFError:
            # gzip ends early where the file is still being written or was cut: what came before it counts.
            if skipped is None:
                raise RecordError(f"{path}: the gzip file ends early") from None
            skipped["gzip file ends early"] += 1
        except OSError as error:
            raise RecordError(f"{path}: cannot be read: {error.strerror}") from None


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
    for line in lines:
        if not line.endswith("\n"):
            return
        if line.startswith("#"):
            if line.startswith("#fields\t"):
                names, wanted = line.rstrip("\r\n").split("\t")[1:], []
            elif line.startswith("#types\t"):
                types = line.rstrip("\r\n").split("\t")[1:]
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
                row = json.loads(line)
                if isinstance(row.get("ts"), str):
                    row["ts"] = _iso(row["ts"])
                yield row
            elif line != "\n":
                if not names:
                    raise RecordError(f"{name}: no Zeek log: found neither a #fields header nor JSON records")
                cells = line.rstrip("\r\n").split("\t")
                if len(cells) != len(names):
                    raise ValueError(f"a line of {len(cells)} fields; the header names {len(names)}")
                yield {n: read(cells[i]) for i, n, read in wanted if cells[i] != "-"}
        except (ValueError, RecursionError) as error:
            if skipped is None:
                raise RecordError(f"{name}: found a line that is no record: {error}") from None
            skipped["no JSON record" if line.startswith("{") else "fields do not match the header"] += 1


def number(row: Mapping[str, Field], field: str, default: float = 0.0) -> float:
    """A numeric field of a row, or `default` where it is unset or no number."""
    value = row.get(field)
    return float(value) if isinstance(value, int | float) else default


def text(row: Mapping[str, Field], field: str) -> str:
    """A field of a row as text, "" where it is unset."""
    value = row.get(field)
    return "" if value is None else str(value)


def texts(row: Mapping[str, Field], field: str) -> list[str]:
    """A set or vector of a row, empty where it is unset."""
    value = row.get(field)
    return [str(v) for v in value] if isinstance(value, list) else []


def _iso(stamp: str) -> float:
    when = datetime.fromisoformat(stamp)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _reader(kind: str) -> Callable[[str], Field]:
    if kind.startswith(("set[", "vector[")):
        return _list
    if kind in ("time", "interval", "double"):
        return float
    if kind in ("count", "int", "port"):
        return int
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
