"""Zeek's logs while Zeek writes them: what has been appended since the last look, joined as `ZeekLogs` joins it.

Zeek writes a connection's row after those of its applications, but each log reaches the disk by itself, within a second
or two of the others: a connection waits that long for its rows. Logs may be moved away, be begun anew under the same
name or another, or be cut to nothing; what was written before is read to its end first. Counted, beside the reasons of
`zeek_logs`:

`log_cut`            a log that became shorter than it had been read; it is read from its beginning
`log_unreadable`     a log that could not be opened, or is no log; it is passed over until it is another file
`waited_too_few`     a connection handed on before its time, since too many waited
"""

from __future__ import annotations

import heapq
import math
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

from feature_extractors.errors import RecordError
from feature_extractors.frames import Counts
from feature_extractors.observations import Connections, Windows, concat_connections
from feature_extractors.readers.dialects.conn_rows import ConnRows
from feature_extractors.readers.dialects.entries import Waiting
from feature_extractors.readers.dialects.fields import NO_TIME
from feature_extractors.readers.dialects.lines import MAX_LINE, TOO_LONG, LogLines, PassedOver, Record
from feature_extractors.readers.dialects.names import PACKED, is_summary, may_be_log, named_stream
from feature_extractors.readers.zeek_logs import NOT_JOINED, REASONS, joined

_WAIT_SECONDS: Final = 3.0  # that a connection waits for its rows
_READ_BYTES: Final = 1024 * 1024
_MOST_BYTES: Final = 16 * _READ_BYTES  # of one log at one look
_MOST_WAITING: Final = 65_536  # connections that wait
_MOST_LOGS: Final = 256  # logs that are open
_AHEAD_SECONDS: Final = (
    5.0  # by which rows of applications may be of later times than the end of their connection
)
_STEP_BACK: Final = 60.0  # seconds; what lies further back is another capture's


class FollowedLogs:
    """The connections that Zeek appends to the logs in one folder, from now on.

    With `from_start` what `conn.log` and its kin hold already comes first, not what logs moved away before hold.

    `look` is to be asked again and again; `rest` once at the end. Raises `RecordError` where there is no such folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        from_start: bool = False,
        wait: float = _WAIT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts = Counts()
        self._folder = folder
        self._wait = wait
        self._clock = clock
        self._logs: dict[tuple[int, int], _Log] = {}  # by device and inode
        self._refused: set[tuple[int, int]] = set()
        self._joining = Waiting(self.counts)
        self._held: deque[tuple[float, Connections]] = deque()  # when they were read
        # Rows of applications in order of their times, as Zeek's logs are merged: time, stream, number, when read, row.
        self._entries: list[tuple[float, str, int, float, Record]] = []
        self._number = 0
        self._end = -np.inf  # of the connection read last
        if not folder.is_dir():
            raise RecordError(f"{folder}: is no folder; expected the one that Zeek writes its logs to")
        self._open(from_start, beginning=False)

    @property
    def waiting(self) -> int:
        """The number of connections that wait for their rows."""
        return sum(len(connections) for _, connections in self._held)

    @property
    def follows_connections(self) -> bool:
        """Whether there is a log of connections among those that are followed."""
        return any(log.stream == "conn" for log in self._logs.values())

    def look(self) -> Windows | None:
        """The connections whose time has come, in order of `end`; None where there are none."""
        self._open(True, beginning=True)
        self._read()
        due, now = [], self._clock()
        self._hand_over(now - self._wait, -np.inf)
        waiting = self.waiting
        while self._held and (self._held[0][0] + self._wait <= now or waiting > _MOST_WAITING):
            read, connections = self._held.popleft()
            if read + self._wait > now:
                self.counts.add("waited_too_few", len(connections))
            waiting -= len(connections)
            due.append(connections)
        return self._joined(due)

    def rest(self) -> Windows | None:
        """All that has been written and not handed on, without waiting; the logs are closed."""
        self._open(True, beginning=True)
        self._read()
        self._hand_over(np.inf, np.inf)
        windows = self._joined([connections for _, connections in self._held])
        self._held.clear()
        for log in self._logs.values():
            log.close()
        self._logs.clear()
        self._joining.finish()
        return windows

    def _joined(self, due: list[Connections]) -> Windows | None:
        if not due:
            return None
        connections = concat_connections(due)
        self._hand_over(-np.inf, float(connections.end[-1]) + _AHEAD_SECONDS)
        return joined(connections, self._joining)

    def _in_order(self, rows: Connections) -> Connections:
        """The same with ends that never go back, as Zeek's writing does not, unless it is to another day."""
        end = rows.end
        np.maximum.accumulate(end, out=end)
        if end[0] > self._end - _STEP_BACK:
            np.maximum(end, self._end, out=end)
        self._end = float(end[-1])
        return rows

    def _hand_over(self, read: float, ts: float) -> None:
        """Lets the rows of applications be joined that were read up to `read`, or are of times up to `ts`, in order."""
        while self._entries and (self._entries[0][0] <= ts or self._entries[0][3] <= read):
            _, stream, _, _, record = heapq.heappop(self._entries)
            self._joining.receive(stream, record)

    def _open(self, from_start: bool, *, beginning: bool) -> None:
        """Opens the logs that are there and were not; closes those that have been moved away and read.

        At their beginning, or at their end but for `NAME.log` where `from_start`.
        """
        there: dict[tuple[int, int], Path] = {}
        try:
            names = sorted(os.listdir(self._folder))
        except OSError:  # moved away for a moment, as zeekctl does at midnight
            return
        for name in names:
            path = self._folder / name
            stream = named_stream(name)
            if name.endswith(PACKED) or not may_be_log(path) or is_summary(stream):
                continue
            if stream in NOT_JOINED and stream != "conn":
                continue
            try:
                about = os.stat(path, follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISREG(about.st_mode):
                there[about.st_dev, about.st_ino] = path
        for key in [k for k in self._logs if k not in there]:
            # What was written between the last look and its going is read first.
            if self._logs[key].gone and self._logs[key].at_end:
                self._logs.pop(key).close()
            else:
                self._logs[key].gone = True
        self._refused &= there.keys()
        for key, path in there.items():
            if key in self._logs or key in self._refused:
                continue
            try:
                if len(self._logs) >= _MOST_LOGS:
                    raise OSError
                stream = named_stream(path.name)
                whole = beginning or (from_start and path.name == f"{stream}.log")
                self._logs[key] = _Log(path, stream, whole, self.counts)
            except (OSError, RecordError):
                self.counts.add("log_unreadable")
                self._refused.add(key)

    def _read(self) -> None:
        now = self._clock()
        # Applications' rows first: those of a connection whose row is read in this look are on the disk or come soon.
        for log in sorted(self._logs.values(), key=lambda log: log.stream == "conn"):
            try:
                if log.stream == "conn":
                    self._held += ((now, self._in_order(rows)) for rows in log.connections())
                else:
                    for ts, stream, record in log.records():
                        self._number += 1
                        heapq.heappush(self._entries, (ts, stream, self._number, now, record))
                        if len(self._entries) > _MOST_WAITING:
                            self._hand_over(-np.inf, self._entries[0][0])
            except (OSError, RecordError):
                self.counts.add("log_unreadable")
                self._refused.add(log.key)
                self._logs.pop(log.key).close()


class _Log:
    """One log that grows."""

    def __init__(self, path: Path, stream: str, from_start: bool, counts: Counts) -> None:
        self.stream = stream
        self.at_end = False  # as of the last look
        self.gone = False
        self._path = path
        self._counts = counts
        self._passed = PassedOver()
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        about = os.fstat(descriptor)
        self.key = about.st_dev, about.st_ino
        self._file = open(descriptor, "rb", buffering=0)
        self._size = 0  # that has been read
        self._rest, self._skipping = b"", False
        self._latest = -math.inf
        self._lines, self._rows = self._readers()
        if not from_start:
            self._skip()

    def close(self) -> None:
        self._file.close()

    def connections(self) -> Iterator[Connections]:
        """The rows that have come, of a log of connections."""
        for chunk in self._chunks():
            yield from self._rows.receive(chunk)
        self._told()

    def records(self) -> Iterator[tuple[float, str, Record]]:
        """Time, stream and record of the lines that have come, of another log; the time never goes back."""
        for chunk in self._chunks():
            for line in chunk.split(b"\n"):
                found = self._lines.receive(line) if line else None
                if found is None or found[0] in NOT_JOINED:
                    continue
                ts = found[1].get("ts")
                if isinstance(ts, bool) or not isinstance(ts, int | float):
                    self._passed.add(str(self._path), NO_TIME)
                    continue
                self._latest = max(self._latest, ts)
                yield self._latest, *found
        self._told()

    def _readers(self) -> tuple[LogLines, ConnRows]:
        return LogLines(str(self._path), self.stream, self._passed), ConnRows(self._path, self._passed)

    def _skip(self) -> None:
        """Passes over what is there, but for what says how it is written."""
        begun = True
        with open(os.dup(self._file.fileno()), "rb") as file:
            while line := file.readline(MAX_LINE):
                whole = line.endswith(b"\n")
                if begun and whole and (line.startswith(b"#") or not self._lines.has_format):
                    self._lines.receive(line[:-1])
                    self._rows.learn(line[:-1])
                if whole:
                    self._size = file.tell()
                begun = whole
        self._file.seek(self._size)
        self._passed.by_file.clear()

    def _chunks(self) -> Iterator[bytes]:
        """Whole lines that have come, in pieces without the last line end."""
        if os.fstat(self._file.fileno()).st_size < self._size:
            self._counts.add("log_cut")
            self._file.seek(0)
            self._size = 0
            self._rest, self._skipping = b"", False
            self._lines, self._rows = self._readers()
        most = self._size + _MOST_BYTES
        self.at_end = False
        while self._size < most:
            got = self._file.read(_READ_BYTES)
            if not got:
                self.at_end = True
                return
            self._size += len(got)
            piece = self._rest + got
            end = piece.rfind(b"\n")
            if end < 0:
                self._rest = piece
            else:
                begin = piece.index(b"\n") + 1 if self._skipping else 0
                self._skipping = False
                self._rest = piece[end + 1 :]
                if begin <= end:
                    yield piece[begin:end]
            if len(self._rest) > MAX_LINE:
                self._passed.add(str(self._path), TOO_LONG, not self._skipping)
                self._rest, self._skipping = b"", True

    def _told(self) -> None:
        for reasons in self._passed.by_file.values():
            for reason, n in reasons.items():
                self._counts.add(REASONS.get(reason, "bad_record"), n)
        self._passed.by_file.clear()
