"""Rows of Zeek logs, one stream at a time, in whatever dialect they are, and what of them was passed over."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from cmdana_plugin.detector import p_value_of
from feature_extractors import LogValue, RecordError
from feature_extractors.readers import HALF_WRITTEN, PassedOver, logs_of, records

Field = LogValue

MOST_HELD: Final = 128 * 1024 * 1024  # bytes of rows that a command holds at once
TOO_MANY: Final = f"more than {MOST_HELD >> 20} MiB of rows at once"


class Held:
    """A bounded list of rows, `MOST_HELD` bytes at most; rows past that are counted in `passed`."""

    def __init__(self, passed: PassedOver) -> None:
        self.rows: list[Mapping[str, Field]] = []
        self._passed = passed
        self._left = MOST_HELD

    def add(self, row: Mapping[str, Field], file: str = "") -> bool:
        """Whether the row of a file was kept: False where there is no room."""
        size = 256 + sum(64 + _size(value) for value in row.values())
        if size > self._left:
            self._passed.add(file or "all", TOO_MANY)
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
    """The files named, and those in the folders named that hold records of one stream, oldest first.

    The stream is what a log says itself, and only then what its name says. A folder may hold none. Raises
    `RecordError` for a path that does not exist.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise RecordError(f"{path}: does not exist; expected a {stream}.log or a folder that holds one")
        files += logs_of(path, stream) if path.is_dir() else [path]
    return files


def read_rows(
    path: Path,
    stream: str = "",
    passed: PassedOver | None = None,
    only: Collection[str] | None = None,
    containing: str | None = None,
) -> Iterator[Mapping[str, Field]]:
    """The records of one stream ("": of any) in a log, each the set fields by name, typed: times and doubles are float.

    `only` names the fields wanted (missing ones stay out), `containing` a text that a line must hold to be looked at
    (before unescaping). A line that is no record, that is too long or holds a number that Zeek cannot write is counted
    in `passed`: numbers of rows are finite, integers have 64 bits, and texts have no lone surrogates. A log that does
    not tell its stream is taken to be of this one. Raises `RecordError` for a file that is no Zeek log, and without
    `passed` for a line that is no record.
    """
    counts = PassedOver() if passed is None else passed
    for of, record in records(
        path, counts, only=only, containing=containing, strict=passed is None, otherwise=stream, as_bytes=True
    ):
        if not stream or of == stream:
            yield record


def nothing_read(passed: PassedOver, files: Sequence[Path]) -> None:
    """Raises `RecordError` where there were lines in the files, and none of them could be read."""
    reasons = {reason for by_reason in passed.by_file.values() for reason in by_reason}
    if not passed.read and reasons - {HALF_WRITTEN}:
        raise RecordError(f"{', '.join(map(str, files[:3]))}: no record could be read{passed.words()}")


def print_passed_over(passed: PassedOver) -> None:
    """Prints on stderr what was passed over, a line for each file and reason."""
    for line in passed.lines():
        print(f"cmdana: {line}", file=sys.stderr)


def number(row: Mapping[str, Field], field: str, default: float = 0.0) -> float:
    """A numeric field of a row as a finite float, or `default` where it is unset, no number, or not finite."""
    value = row.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        return default
    return float(value)


def p_value_in(row: Mapping[str, Field], default: float = 1.0) -> float:
    """The p-value of a row of cmdana.log, 0 to 1; `default` where it is unset.

    Zeek writes doubles in TSV with six decimals, so that a p-value below 5e-7 stands there as 0. Then it is computed
    from `score`, which holds the same number on a logarithmic scale (`score_of`), to four significant digits.
    """
    value = number(row, "p_value", default)
    score = number(row, "score", -1.0)
    return p_value_of(score) if value == 0.0 and 0.0 <= score < 1.0 else value


def text(row: Mapping[str, Field], field: str) -> str:
    """A field of a row as text, "" where it is unset."""
    value = row.get(field)
    return "" if value is None else str(value)


def texts(row: Mapping[str, Field], field: str) -> list[str]:
    """The elements of a set or vector of a row as texts, [] where it is unset."""
    value = row.get(field)
    return [str(v) for v in value] if isinstance(value, list) else []


_LARGEST: Final = sys.float_info.max
