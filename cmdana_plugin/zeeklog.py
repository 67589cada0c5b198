"""Rows of one Zeek log as the writers of `logs` and Zeek itself leave them: TSV or JSON, by field name."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Final

from feature_extractors.errors import RecordError

Field = bool | int | float | str | list[str] | None

_ESCAPED: Final = re.compile(r"\\x([0-9a-f]{2})|\\\\")


def read_rows(path: Path) -> Iterator[Mapping[str, Field]]:
    """Each record with its set fields typed by the header: times, intervals and doubles as float, sets as list.

    A last line that is cut in the middle is passed over. Raises `RecordError` for a file that is no Zeek log.
    """
    try:
        file: IO[str] = (
            gzip.open(path, "rt", encoding="utf-8", errors="backslashreplace")
            if path.suffix == ".gz"
            else open(path, encoding="utf-8", errors="backslashreplace")
        )
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from None
    with file:
        yield from parse_rows(file, str(path))


def parse_rows(lines: Iterator[str] | IO[str], name: str) -> Iterator[Mapping[str, Field]]:
    """`read_rows` over lines; `name` is for messages."""
    names: list[str] = []
    types: list[str] = []
    for line in lines:
        if not line.endswith("\n"):
            return
        text = line[:-1]
        if text.startswith("{"):
            try:
                row = json.loads(text)
            except ValueError as error:
                raise RecordError(f"{name}: found a line that is no JSON record: {error}") from None
            yield row
        elif text.startswith("#fields\t"):
            names = text.split("\t")[1:]
        elif text.startswith("#types\t"):
            types = text.split("\t")[1:]
        elif text and not text.startswith("#"):
            cells = text.split("\t")
            if len(cells) != len(names) or len(types) != len(names):
                raise RecordError(
                    f"{name}: found a line of {len(cells)} fields; the header names {len(names)}"
                )
            yield {n: _typed(t, c) for n, t, c in zip(names, types, cells, strict=True) if c != "-"}


def _typed(kind: str, cell: str) -> Field:
    if kind.startswith(("set[", "vector[")):
        return [] if cell == "(empty)" else [_plain(c) for c in cell.split(",")]
    if kind in ("time", "interval", "double"):
        return float(cell)
    if kind in ("count", "int", "port"):
        return int(cell)
    if kind == "bool":
        return cell == "T"
    return "" if cell == "(empty)" else _plain(cell)


def _plain(cell: str) -> str:
    if "\\" not in cell:
        return cell
    raw = _ESCAPED.sub(lambda m: chr(int(m[1], 16)) if m[1] else "\\", cell)
    try:
        return raw.encode("latin-1").decode("utf-8") if not cell.isascii() or not raw.isascii() else raw
    except UnicodeError:
        return raw
