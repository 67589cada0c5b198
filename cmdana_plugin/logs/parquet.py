"""One of Zeek's logs as a Parquet file, where pyarrow is installed: `pip install 'cmdana[parquet]'`."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cmdana_plugin.files import Replacement
from cmdana_plugin.logs.streams import LogError, Stream, dumps

_CONTAINER: Final = re.compile(r"(?:set|vector)\[(.*)\]")


def need_pyarrow() -> None:
    """Raises `LogError` where pyarrow is not installed."""
    if importlib.util.find_spec("pyarrow") is None:
        raise LogError("writing Parquet needs pyarrow, which is not installed: pip install 'cmdana[parquet]'")


def arrow_table(stream: Stream, rows: Sequence[Mapping[str, Any]]) -> tuple[Any, int]:
    """The rows as a `pyarrow.Table` with the stream's columns and types, and how many values it could not hold.

    Times are timestamps of microseconds in UTC, intervals seconds; a field that a row lacks is null. Raises `LogError`
    where pyarrow is not installed.
    """
    need_pyarrow()
    import pyarrow

    unfit = 0
    columns = []
    schema = _schema(stream)
    for (name, kind), field in zip(stream.fields, schema, strict=True):
        column, more = _column([row.get(name) for row in rows], kind, field.type)
        columns.append(column)
        unfit += more
    return pyarrow.Table.from_arrays(columns, schema=schema), unfit


class ParquetLog:
    """One log as a Parquet file that gets its name in `close`, with Zeek's path and types in its metadata.

    Times are timestamps of microseconds in UTC, intervals seconds. Each write is a group of rows. A value that its
    column cannot hold is unset, and counted in `unfit`. Raises `LogError` when it cannot be written.
    """

    def __init__(self, folder: Path, stream: Stream) -> None:
        need_pyarrow()
        from pyarrow.parquet import ParquetWriter

        self.path = folder / f"{stream.path}.parquet"
        self.unfit = 0
        self._stream = stream
        try:
            self._replacement = Replacement(self.path)
            self._writer = ParquetWriter(self._replacement.file, _schema(stream))
        except OSError as error:
            raise LogError(f"{self.path}: cannot be written: {error.strerror}") from None

    def write_lines(self, data: bytes, first: float, last: float) -> None:
        """Appends a row group of whole lines of JSON, as `LogWriter.write_lines` takes them."""
        if rows := [json.loads(line) for line in data.split(b"\n") if line]:
            self.write_rows(rows)

    def write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends a row group; a field that a row lacks is null."""
        table, unfit = arrow_table(self._stream, rows)
        self.unfit += unfit
        try:
            self._writer.write_table(table)
        except OSError as error:
            raise LogError(f"{self.path}: cannot be written: {error}") from None

    def close(self) -> None:
        """Writes the footer and gives the file its name."""
        try:
            self._writer.close()
            self._replacement.commit()
        except OSError as error:
            raise LogError(f"{self.path}: cannot be written: {error}") from None

    def abandon(self) -> None:
        """Deletes what was written."""
        self._replacement.abandon()


def _schema(stream: Stream) -> Any:
    import pyarrow

    fields = [pyarrow.field(name, _arrow(kind), metadata={"zeek.type": kind}) for name, kind in stream.fields]
    return pyarrow.schema(fields, metadata={"zeek.path": stream.path})


def _column(values: Sequence[Any], kind: str, of: Any) -> tuple[Any, int]:
    """The values as a column, and how many of them it cannot hold: those are null."""
    import pyarrow

    to = _held(kind)
    try:
        return pyarrow.array([None if v is None else to(v) for v in values], of), 0
    except _NO_FIT:
        pass
    held, unfit = [], 0
    for value in values:
        try:
            held.append(pyarrow.array([None if value is None else to(value)], of)[0].as_py())
        except _NO_FIT:
            held.append(None)
            unfit += 1
    return pyarrow.array(held, of), unfit


_NO_FIT: Final = (TypeError, ValueError, OverflowError)  # pyarrow's own are among them
_FIRST_SECOND: Final = -62_135_596_800  # seconds: the years 1 to 9999, which readers know
_LAST_SECOND: Final = 253_402_300_799


def _arrow(kind: str) -> Any:
    import pyarrow

    if container := _CONTAINER.fullmatch(kind):
        return pyarrow.list_(_arrow(container[1]))
    if kind == "time":
        return pyarrow.timestamp("us", tz="UTC")
    if kind in ("interval", "double"):
        return pyarrow.float64()
    if kind in ("count", "port"):
        return pyarrow.uint64()
    return {"int": pyarrow.int64(), "bool": pyarrow.bool_()}.get(kind, pyarrow.string())


def _held(kind: str) -> Callable[[Any], Any]:
    """What makes a value one that Arrow takes for the type."""
    if container := _CONTAINER.fullmatch(kind):
        element = _held(container[1])
        return lambda values: [None if v is None else element(v) for v in values]
    if kind in ("count", "port", "int", "bool"):
        return _same
    if kind == "time":
        return _micros
    return float if kind in ("interval", "double") else worded


def _same(value: Any) -> Any:
    return value


def _micros(value: float) -> int:
    if not _FIRST_SECOND <= value <= _LAST_SECOND:
        raise ValueError("a year that no calendar has")
    return round(value * 1e6)


def worded(value: Any) -> str:
    """The value as text: itself, or its JSON."""
    return value if isinstance(value, str) else dumps(value)
