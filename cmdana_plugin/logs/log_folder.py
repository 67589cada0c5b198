"""The logs of one folder, of whatever format: each opened with its first row, all closed or abandoned together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Generic, Literal, TypeVar

from cmdana_plugin.logs.parquet import ParquetLog, need_pyarrow
from cmdana_plugin.logs.row_lines import Lines
from cmdana_plugin.logs.streams import CONN, Format, LogError, LogWriter, Stream
from cmdana_plugin.logs.tables import APPLICATION

To = Literal["tsv", "json", "parquet"]
Log = TypeVar("Log", bound=LogWriter | ParquetLog)


class LogFolder(Generic[Log]):
    """The open logs of one folder by stream. All methods raise `LogError` where a log cannot be written."""

    def __init__(
        self,
        folder: Path,
        open_log: Callable[[Path, Stream], Log],
        streams: Sequence[Stream] = (),
        *,
        overwrite: bool = True,
    ) -> None:
        """`open_log` makes the log of a stream; `streams` are opened at once, so that they exist even without rows."""
        self._folder = folder
        self._open_log = open_log
        self._overwrite = overwrite
        self._logs: dict[str, Log] = {}
        try:
            for stream in streams:
                self.log(stream)
        except LogError:
            self.abandon()
            raise

    def __contains__(self, path: str) -> bool:
        return path in self._logs

    def log(self, stream: Stream) -> Log:
        """The log of a stream, opened where it is not open yet."""
        if stream.path not in self._logs:
            log = self._open_log(self._folder, stream)
            if not self._overwrite and log.path.exists():
                log.abandon()
                raise LogError(
                    f"{self._folder}: already holds {log.path.name}; choose another --out, or --force to overwrite"
                )
            self._logs[stream.path] = log
        return self._logs[stream.path]

    def write(self, lines: Iterable[Lines]) -> None:
        """Appends lines of conn.log and of application logs to their logs."""
        for stream, first, last, data in lines:
            self.log(CONN if stream == "conn" else APPLICATION[stream]).write_lines(data, first, last)

    def abandon(self) -> None:
        """Deletes what was written; the names of the logs never appear."""
        for log in self._logs.values():
            log.abandon()

    def close(self) -> list[str]:
        """The paths of the logs, which have their names from now on."""
        for log in self._logs.values():
            log.close()
        return [str(log.path) for log in self._logs.values()]

    def unfit(self) -> dict[str, int]:
        """The number of values that a log's columns could not hold, by path; logs that held all are left out."""
        return {str(log.path): log.unfit for log in self._logs.values() if log.unfit}


def opener(to: To) -> Callable[[Path, Stream], LogWriter | ParquetLog]:
    """The function that opens a log of this format. Raises `LogError` where pyarrow is needed and not installed."""
    if to == "parquet":
        need_pyarrow()
        return ParquetLog
    text: Format = to
    return lambda folder, stream: LogWriter(folder, stream, text)
