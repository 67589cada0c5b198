"""A log that grows for as long as the detector follows Zeek's, and that others may read and rotate meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Final

from cmdana_plugin.files import Appended
from cmdana_plugin.logs.streams import (
    Column,
    DiskFullError,
    Format,
    LogError,
    Stream,
    Value,
    header_of,
    lines_of,
)

_FULL: Final = (ENOSPC, EDQUOT)


class AppendedLog:
    """Rows appended to `folder`/NAME.log, which is begun anew where it was moved away.

    A log that is there is gone on with, if it is of this format. All methods raise `LogError`, those that write
    `DiskFullError` where nothing but room is wanting; then nothing of it was written.
    """

    def __init__(self, folder: Path, stream: Stream, fmt: Format) -> None:
        self.path = folder / f"{stream.path}.log"
        self._stream = stream
        self._format = fmt
        self._file = Appended(self.path)
        self._refuse_other_format()

    def write(self, rows: Iterable[tuple[Value, ...]], now: float) -> None:
        """Appends rows, values in the order of the stream's fields; else as `write_columns`."""
        self.write_columns(list(zip(*rows, strict=True)), now)

    def write_columns(self, columns: Sequence[Column], now: float) -> None:
        """Appends rows as columns in the order of the stream's fields, at network time `now` (seconds since epoch).

        Whole lines come at once, so that who reads meanwhile sees no half ones.
        """
        try:
            head = b"" if self._file.size() else header_of(self._stream, self._format, now)
            self._file.write(head + (lines_of(self._stream, columns, self._format) if columns else b""))
        except OSError as error:
            kind = DiskFullError if error.errno in _FULL else LogError
            raise kind(f"{self.path}: cannot be written: {error.strerror}") from None

    def close(self) -> None:
        """Closes the file; a later write opens it again."""
        self._file.close()

    def _refuse_other_format(self) -> None:
        try:
            with self.path.open("rb") as file:
                begin = file.read(1)
        except FileNotFoundError:
            return
        except OSError as error:
            raise LogError(f"{self.path}: cannot be read: {error.strerror}") from None
        if begin and (begin == b"{") != (self._format == "json"):
            raise LogError(
                f"{self.path}: is there in another format: found {begin!r} first, [logs] format is {self._format}; "
                "move it away"
            )
