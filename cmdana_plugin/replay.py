"""Captures in, Zeek's logs out, without Zeek: the embedded engine around the loop of `pipeline`."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cmdana_plugin.config import Config
from cmdana_plugin.logs import (
    CMDANA,
    CONN,
    NOTICE,
    LocalNets,
    LogError,
    LogWriter,
    cmdana_columns,
    conn_columns,
    notice_row,
)
from feature_extractors.analyzers.base import ContentLimits
from feature_extractors.errors import CaptureError
from feature_extractors.extract import Extractor, ExtractorLimits
from feature_extractors.frames import Counts
from feature_extractors.observations import Windows, take
from feature_extractors.readers import find_captures, open_capture
from feature_extractors.state import TrackerLimits

if TYPE_CHECKING:
    from cmdana_plugin.pipeline import Judge
    from cmdana_plugin.verdict import Notice

_WINDOWS = 8192  # windows scored at once
_WAITING_BLOCKS = 4  # blocks of windows between extraction and scoring


@dataclass(slots=True)
class Summary:
    """What a replay saw and did; every field a plain number so that it prints and travels as JSON."""

    captures: list[str]
    frames: int = 0
    bytes: int = 0
    connections: int = 0
    first: float = 0.0  # network time of the first connection
    last: float = 0.0
    verdicts: Counter[str] = field(default_factory=Counter)
    notices: list[Notice] = field(default_factory=list)
    suppressed: int = 0
    allowed: int = 0
    undecoded: Counter[str] = field(default_factory=Counter)
    model: str = ""
    threshold: float = 0.0


def limits_of(config: Config) -> ExtractorLimits:
    """The extractor's limits as `plugin.toml` sets them."""
    return ExtractorLimits(
        TrackerLimits(**config.tracker.model_dump()), ContentLimits(**config.content.model_dump())
    )


def prepare(folder: Path, force: bool) -> None:
    """Makes the folder for the logs. Raises `LogError` where it cannot be used or already holds such logs."""
    if folder.exists() and not folder.is_dir():
        raise LogError(f"{folder}: is a file; --out needs a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".cmdana.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise LogError(f"{folder}: cannot be written: {error.strerror}") from None
    there = [name for s in (CONN, CMDANA, NOTICE) if (folder / (name := f"{s.path}.log")).exists()]
    if there and not force:
        raise LogError(
            f"{folder}: already holds {', '.join(there)}; choose another --out, or --force to overwrite"
        )


def sources(names: Sequence[str]) -> list[Path | str]:
    """The captures named, folders walked in sorted order, "-" for standard input. Raises `CaptureError`."""
    return [source for name in names for source in ([name] if name == "-" else find_captures([Path(name)]))]


def extract(captures: Sequence[Path | str], config: Config, summary: Summary) -> Iterator[Windows]:
    """The windows of the captures, read one after another as one stream in time order.

    Raises `CaptureError` for the first that is no capture, before anything is read from any of them.
    """
    readers = [open_capture(capture, config.capture.reader) for capture in captures]
    extractor = Extractor(limits_of(config))
    for reader in readers:
        for block in reader:
            summary.frames += len(block)
            summary.bytes += int(block.captured.sum())
            yield from _parts(extractor.receive(block))
    try:
        windows = extractor.finish()
    except CaptureError as error:
        raise CaptureError(f"{', '.join(map(str, captures))}: {error}") from None
    yield from _parts(windows)
    merge_counts(summary.undecoded, (extractor.counts, *(r.counts for r in readers)))


def _parts(windows: Windows) -> Iterator[Windows]:
    """At most `_WINDOWS` rows at a time: a flood or the end of a capture ends a quarter of a million at once."""
    if len(windows) <= _WINDOWS:
        if len(windows):
            yield windows
        return
    for first in range(0, len(windows), _WINDOWS):
        yield take(windows, np.arange(first, min(first + _WINDOWS, len(windows))))


def merge_counts(into: Counter[str], parts: Iterable[Counts]) -> None:
    """Adds counters by reason."""
    for part in parts:
        into.update(part.by_reason)


def replay(
    captures: Sequence[Path | str],
    out: Path,
    config: Config,
    load: Callable[[], Judge],
    progress: Callable[[Summary], None] = lambda _: None,
) -> Summary:
    """Writes conn.log, cmdana.log and notice.log of the captures to `out`, and says what it saw.

    Extraction runs in a thread of its own while `load` brings the detector, and beside the scoring after that.
    Raises `CaptureError`, `LogError`, or what `load` raises; then nothing is left in `out`.
    """
    summary = Summary([str(c) for c in captures])
    waiting: queue.Queue[Windows | BaseException | None] = queue.Queue(_WAITING_BLOCKS)
    stop = threading.Event()
    producer = threading.Thread(target=_produce, args=(captures, config, summary, waiting, stop), daemon=True)
    producer.start()
    writers = [LogWriter(out, stream, config.logs.format) for stream in (CONN, CMDANA, NOTICE)]
    try:
        judge = load()
        _consume(judge, config, summary, waiting, writers, progress)
    except BaseException:
        stop.set()
        for writer in writers:
            writer.abandon()
        raise
    for writer in writers:
        writer.close()
    summary.suppressed = judge.decider.suppressed
    summary.allowed = judge.decider.allowed
    summary.model = judge.detector.name
    summary.threshold = judge.decider.threshold
    return summary


def _produce(
    captures: Sequence[Path | str],
    config: Config,
    summary: Summary,
    waiting: queue.Queue[Windows | BaseException | None],
    stop: threading.Event,
) -> None:
    last: BaseException | None = None
    try:
        for windows in extract(captures, config, summary):
            while not stop.is_set():
                try:
                    waiting.put(windows, timeout=0.2)
                    break
                except queue.Full:
                    continue
            if stop.is_set():
                return
    except BaseException as error:  # noqa: BLE001  # handed to the consumer, which raises it
        last = error
    while not stop.is_set():
        try:
            waiting.put(last, timeout=0.2)
            return
        except queue.Full:
            continue


def _consume(
    judge: Judge,
    config: Config,
    summary: Summary,
    waiting: queue.Queue[Windows | BaseException | None],
    writers: Sequence[LogWriter],
    progress: Callable[[Summary], None],
) -> None:
    conn, cmdana, notice = writers
    local = LocalNets(config.logs.local_nets)
    while (item := waiting.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        judged = judge.receive(item)
        c = item.connections
        now, first = float(c.end.max()), float(c.end[0])
        verdicts = judged.verdicts
        conn.write_columns(conn_columns(c, verdicts, local), now, first)
        cmdana.write_columns(cmdana_columns(verdicts), now, first)
        notice.write(map(notice_row, judged.notices), now, first)
        summary.connections += len(c)
        summary.first = min(summary.first or float(c.ts.min()), float(c.ts.min()))
        summary.last = max(summary.last, now)
        summary.verdicts.update(verdicts.verdict)
        summary.notices += judged.notices
        progress(summary)
