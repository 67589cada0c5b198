"""Zeek's records in a Parquet file, where pyarrow is installed: `pip install cmdana[parquet]`."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Collection, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from feature_extractors.errors import RecordError
from feature_extractors.readers.dialects.lines import LogLines, PassedOver, Reads, Record
from feature_extractors.readers.dialects.names import named_stream, told_stream

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_MAGIC: Final = b"PAR1"
_BATCH_ROWS: Final = 4096  # of a batch
_MAX_GROUP_BYTES: Final = 1024 * 1024 * 1024  # bytes of a group of rows, unpacked


def is_parquet(path: Path) -> bool:
    """Whether the file begins as a Parquet file does."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == _MAGIC
    except OSError:
        return False


def named(path: Path) -> str:
    """The stream that the file's name, or that of its folder, says it holds."""
    own, parent = named_stream(path.name), named_stream(path.parent.name)
    return own if own and not own.startswith(("part", "data")) else parent or own


def records(
    path: Path,
    passed: PassedOver,
    only: Collection[str] | None = None,
    declared: dict[str, dict[str, str]] | None = None,
    reads: Reads | None = None,
) -> Iterator[tuple[str, Record]]:
    """Stream and record of each row; `declared` as in `files.records`.

    Raises `RecordError` for a damaged file, and where pyarrow is absent.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise RecordError(
            f"{path}: is a Parquet file, and pyarrow is not installed: pip install 'cmdana[parquet]'"
        )
    from pyarrow import ArrowException

    lines = LogLines(str(path), named(path), passed, only, reads=reads)
    try:
        yield from _rows(path, lines, {} if declared is None else declared)
    except (ArrowException, OSError) as error:
        raise RecordError(f"{path}: is no whole Parquet file: {str(error)[:200]}") from None


def _rows(path: Path, lines: LogLines, declared: dict[str, dict[str, str]]) -> Iterator[tuple[str, Record]]:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path, memory_map=False) as file:
        _bounded(path, file)
        schema = file.schema_arrow
        zeek_path = (schema.metadata or {}).get(b"zeek.path", b"").decode("utf-8", "backslashreplace")
        if 0 < len(zeek_path) <= 64:  # as our own writer says it
            lines.stream = told_stream(zeek_path)
            kinds = {
                f.name: (f.metadata or {}).get(b"zeek.type", b"").decode("ascii", "replace") for f in schema
            }
            declared.setdefault(lines.stream, {}).update(kinds)
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
            for row in batch.to_pylist():
                found = lines.receive_row(_plain(row))
                if found is not None:
                    yield found


def _bounded(path: Path, file: ParquetFile) -> None:
    for group in range(file.metadata.num_row_groups):
        size = file.metadata.row_group(group).total_byte_size
        if size > _MAX_GROUP_BYTES:
            raise RecordError(
                f"{path}: found a group of rows of {size >> 20:,} MiB, expected {_MAX_GROUP_BYTES >> 20:,} MiB at most"
            )


def _plain(value: Any) -> Any:
    """The value as JSON would hold it."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, date):
        return value.isoformat()
    return value if isinstance(value, str | int | float | bool | None) else json.dumps(str(value))
