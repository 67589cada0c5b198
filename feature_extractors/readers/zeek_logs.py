"""Zeek logs of any dialect, number of files and days, as windows: each connection with all that bears its uid.

`ZeekLogs` reads every log at once, in step: connections come in the order in which Zeek wrote them, which is that of
their ends, and the entries of the other logs wait for theirs, a bounded number of them. What is let go is counted, by
file and reason in `passed`, and in `counts`:

`bad_record`                a line that its header or JSON does not explain, or with a value of the wrong type
`half_written_line`         a last line that Zeek had not finished
`line_too_long`             a line of more than 4 MiB
`count_too_large`           a count past 2^62, which was taken as unset
`entry_over_limit`          a log entry of a connection that has `MAX_LOG_ENTRIES` already
`entries_over_memory`       a log entry let go since those that wait take more than 256 MiB
`entry_without_connection`  a log entry whose connection is in none of the logs, or came too late
`not_a_zeek_log`            a file below a directory that is named like a log and is none; it is passed over
`summary_of_connections`    a log that has the rows of conn.log again, such as conn_long.log; it is passed over
`compressed_stream_*`       a compressed file that is cut short or damaged; what came before was read
"""

from __future__ import annotations

import heapq
import itertools
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import numpy as np

from feature_extractors.errors import RecordError
from feature_extractors.frames import Counts
from feature_extractors.observations import (
    Connections,
    LogEntry,
    Packets,
    Windows,
    concat_connections,
    take_connections,
)
from feature_extractors.readers.dialects.conn_rows import ConnRows
from feature_extractors.readers.dialects.entries import Waiting, reads_of
from feature_extractors.readers.dialects.fields import NO_TIME
from feature_extractors.readers.dialects.files import (
    CUT_SHORT,
    DAMAGED,
    NO_LOG,
    SUMMARY,
    Probe,
    holds,
    probe,
    records,
)
from feature_extractors.readers.dialects.lines import (
    HALF_WRITTEN,
    TOO_LARGE,
    TOO_LONG,
    PassedOver,
    Reads,
    Record,
)
from feature_extractors.readers.dialects.names import ABOUT_ZEEK, is_summary, log_files

# Verdicts of others and of our own are no observations.
NOT_JOINED: Final = frozenset(
    {"conn", "notice", "notice_alarm", "intel", "signatures", "cmdana", *ABOUT_ZEEK}
)
_AHEAD_SECONDS: Final = 300.0  # seconds by which the other logs are read ahead of conn.log
REASONS: Final = {
    HALF_WRITTEN: "half_written_line",
    TOO_LONG: "line_too_long",
    TOO_LARGE: "count_too_large",
    NO_LOG: "not_a_zeek_log",
    SUMMARY: "summary_of_connections",
    CUT_SHORT: "compressed_stream_truncated",
    DAMAGED: "compressed_stream_damaged",
}


class ZeekLogs:
    """The connections of directories (searched to any depth) or files of Zeek logs. Can be iterated again."""

    def __init__(
        self,
        paths: Iterable[str | Path],
        block: int = 4096,
        fields: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        """`block` is the most connections in a `Windows`, `fields` what entries of each stream have (None: all).

        An entry that has none of them is there all the same. Raises `RecordError` where no conn.log can be read.
        """
        self.counts = Counts()
        self.passed = PassedOver()
        self._block = block
        self._fields = fields
        self._left_out = PassedOver()
        names = [str(path) for path in paths]
        files = list(_log_files(names, self._left_out))
        self._connections = [f for f in files if f.stream == "conn" or f.others]
        self._entries = [f for f in files if f.stream not in NOT_JOINED or f.others]
        if not any(holds(f.path, "conn") for f in self._connections):
            raise RecordError(
                f"no conn.log with connections in {', '.join(names)}: found {_found(files)}{self._left_out.words()}"
            )
        sizes = sorted((f.first, f.path.stat().st_size if f.path.exists() else 0) for f in self._connections)
        self._begin = [first for first, _ in sizes]
        self._bytes = [0, *itertools.accumulate(n for _, n in sizes)]

    def __iter__(self) -> Iterator[Windows]:
        self.counts.by_reason.clear()
        self.passed = PassedOver({name: reasons.copy() for name, reasons in self._left_out.by_file.items()})
        try:
            yield from self._windows()
        finally:
            for reasons in self.passed.by_file.values():
                for reason, n in reasons.items():
                    self.counts.add(REASONS.get(reason, "bad_record"), n)

    def begun(self, now: float) -> float:
        """About the share, 0..1, of conn.log's bytes in files that had begun by network time `now`."""
        files = bisect_right(self._begin, now)
        return self._bytes[files] / max(self._bytes[-1], 1)

    def _windows(self) -> Iterator[Windows]:
        waiting = Waiting(self.counts, self._fields)
        reads = None if self._fields is None else reads_of(self._fields)
        entries = _merged_entries(self._entries, self.passed, reads)
        upcoming = next(entries, None)
        held: Connections | None = None
        for connections in _pieces(_merged_connections(self._connections, self.passed), self._block):
            if held is not None:
                while upcoming is not None and upcoming[0] <= held.end[-1] + _AHEAD_SECONDS:
                    waiting.receive(upcoming[1], upcoming[2])
                    upcoming = next(entries, None)
                yield joined(held, waiting)
            held = connections
        while upcoming is not None:
            waiting.receive(upcoming[1], upcoming[2])
            upcoming = next(entries, None)
        if held is not None:
            yield joined(held, waiting)
        waiting.finish()


# Files


class _LogFile:
    """One log file: its stream, the time of its first record, and its records."""

    def __init__(self, path: Path, about: Probe) -> None:
        self.path = path
        self.stream = about.stream
        self.others = about.others
        self.first = about.first

    def connections(self, passed: PassedOver) -> Iterator[Connections]:
        """The connections in the order of the lines; `end` is about the time of writing, and never goes back."""
        latest = -math.inf
        for block in ConnRows(self.path, passed).blocks():
            np.maximum.accumulate(block.end, out=block.end)
            np.maximum(block.end, latest, out=block.end)
            latest = float(block.end[-1])
            yield block

    def entries(self, passed: PassedOver, reads: Reads | None) -> Iterator[tuple[float, str, Record]]:
        """Time, stream and record of what is no connection; the time never goes back, as Zeek's does not."""
        latest, known, summary = -math.inf, "", is_summary("")
        mine = PassedOver() if self.others else passed  # the connections' reading counts these lines
        for stream, record in records(self.path, mine, reads=reads):
            ts = record.get("ts")
            if stream in NOT_JOINED:
                continue
            if stream != known:
                known, summary = stream, is_summary(stream)
            if summary:
                passed.add(str(self.path), SUMMARY)
                continue
            if not isinstance(ts, int | float) or isinstance(ts, bool):
                passed.add(str(self.path), NO_TIME)
                continue
            latest = max(latest, ts)
            yield latest, stream, record


def _log_files(names: Iterable[str], left_out: PassedOver) -> Iterator[_LogFile]:
    """The logs named, and those below the directories named, each once. Raises `RecordError`."""
    seen: set[Path] = set()
    for name in names:
        path = Path(name)
        if not path.exists():
            raise RecordError(f"cannot read Zeek logs {name}: no such file or directory")
        for file in log_files(path):
            if file.is_dir() or file.resolve() in seen:
                continue
            seen.add(file.resolve())
            about = probe(file)
            if about.refused and (file == path or about.named == "conn"):
                raise RecordError(about.refused)
            if about.refused:
                left_out.add(str(file), NO_LOG)
            elif is_summary(about.stream) and not about.others:
                left_out.add(str(file), SUMMARY)
            else:
                yield _LogFile(file, about)


def _found(files: list[_LogFile]) -> str:
    streams = sorted({file.stream for file in files if file.stream})
    return f"logs {', '.join(streams)}" if streams else "no Zeek log"


# In order of time


def _merged_entries(
    files: Iterable[_LogFile], passed: PassedOver, reads: Reads | None
) -> Iterator[tuple[float, str, Record]]:
    """Time, stream and record of all files in order of time; a file is open only while its time has come."""
    waiting = deque(sorted(files, key=lambda file: (file.first, file.stream, str(file.path))))
    heap: list[tuple[float, str, int, Record, Iterator[tuple[float, str, Record]]]] = []
    opened = 0
    while heap or waiting:
        while waiting and (not heap or waiting[0].first <= heap[0][0]):
            entries = waiting.popleft().entries(passed, reads)
            first = next(entries, None)
            if first is not None:
                heapq.heappush(heap, (first[0], first[1], opened, first[2], entries))
                opened += 1
        if not heap:
            return
        time, stream, number, record, entries = heap[0]
        yield time, stream, record
        following = next(entries, None)
        if following is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (following[0], following[1], number, following[2], entries))


def _merged_connections(files: Iterable[_LogFile], passed: PassedOver) -> Iterator[Connections]:
    """The connections of all files in the order of their ends; a file is open only while its time has come."""
    waiting = deque(sorted(files, key=lambda file: (file.first, str(file.path))))
    held: list[tuple[Connections, Iterator[Connections]]] = []
    while held or waiting:
        while waiting and (not held or waiting[0].first <= min(part.end[-1] for part, _ in held)):
            blocks = waiting.popleft().connections(passed)
            first = next(blocks, None)
            if first is not None:
                held.append((first, blocks))
        if not held:
            return
        if len(held) == 1:
            part, blocks = held[0]
            yield part
            following = next(blocks, None)
            held = [] if following is None else [(following, blocks)]
            continue
        upto = min(part.end[-1] for part, _ in held)
        ready, left = [], []
        for part, blocks in held:
            n = int(np.searchsorted(part.end, upto, "right"))
            ready.append(_cut(part, 0, n))
            rest = _cut(part, n, len(part)) if n < len(part) else next(blocks, None)
            if rest is not None:
                left.append((rest, blocks))
        held = left
        together = concat_connections(ready)
        yield take_connections(together, np.argsort(together.end, kind="stable"))


def _pieces(parts: Iterable[Connections], most: int) -> Iterator[Connections]:
    for part in parts:
        for at in range(0, len(part), most):
            yield _cut(part, at, at + most) if len(part) > most else part


def _cut(connections: Connections, begin: int, end: int) -> Connections:
    columns: dict[str, Any] = {f.name: getattr(connections, f.name)[begin:end] for f in fields(Connections)}
    return Connections(**columns)


def joined(connections: Connections, waiting: Waiting) -> Windows:
    n = len(connections)
    logs: list[LogEntry] = []
    log_start = np.zeros(n + 1, np.int64)
    if waiting:
        for i, name in enumerate(connections.uid.tolist()):
            logs += waiting.take(name.decode("ascii"))
            log_start[i + 1] = len(logs)
    return Windows(
        connections=connections,
        packets=_NO_PACKETS,
        packet_start=np.zeros(n + 1, np.int64),
        logs=logs,
        log_start=log_start,
    )


_NO_PACKETS: Final = Packets(
    ts=np.empty(0, np.float64),
    is_orig=np.empty(0, np.bool_),
    ip_length=np.empty(0, np.int32),
    payload=np.empty(0, np.int32),
)
