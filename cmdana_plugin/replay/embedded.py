"""Captures in, Zeek's logs out, without Zeek: the embedded engine around the loop of `pipeline`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cmdana_plugin import files
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
from feature_extractors import CaptureError, Windows, take
from feature_extractors.compiled import seldom_collected
from feature_extractors.readers import find_captures, in_order, open_captures

if TYPE_CHECKING:
    from cmdana_plugin.decision import Judge, Notice
    from cmdana_plugin.detector import Scores
    from cmdana_plugin.replay.extraction_process import Beside
    from feature_extractors import Counts, ExtractorLimits
    from feature_extractors.features import Encoded

_WINDOWS = 8192  # windows scored at once


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
    forgotten: int = 0  # hosts whose evidence was let go
    undecoded: Counter[str] = field(default_factory=Counter)
    model: str = ""
    threshold: float = 0.0


def limits_of(config: Config) -> ExtractorLimits:
    """The extractor's limits as `plugin.toml` sets them."""
    from feature_extractors import ExtractorLimits
    from feature_extractors.content import ContentLimits
    from feature_extractors.tracker import TrackerLimits

    return ExtractorLimits(
        TrackerLimits(**config.tracker.model_dump()), ContentLimits(**config.content.model_dump())
    )


@contextmanager
def prepared(folder: Path, force: bool) -> Iterator[None]:
    """The folder for the logs, made if need be; where what is done inside fails, a folder that was made goes again.

    Raises `LogError` where it cannot be used or already holds such logs, `Busy` where another process writes there.
    """
    if folder.exists() and not folder.is_dir():
        raise LogError(f"{folder}: is a file; --out needs a folder")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = ExitStack()
        held.enter_context(files.alone(folder))
    except OSError as error:
        _remove_empty(made)
        raise LogError(f"{folder}: cannot be written: {error.strerror}") from None
    try:
        with held:
            _refuse_logs(folder, force)
            yield
    except BaseException:
        _remove_empty(made)
        raise


def _refuse_logs(folder: Path, force: bool) -> None:
    there = [name for s in (CONN, CMDANA, NOTICE) if (folder / (name := f"{s.path}.log")).exists()]
    if there and not force:
        raise LogError(
            f"{folder}: already holds {', '.join(there)}; choose another --out, or --force to overwrite"
        )


def _remove_empty(folders: Sequence[Path]) -> None:
    with suppress(OSError):  # what holds anything by now stays
        for folder in folders:
            folder.rmdir()


def sources(names: Sequence[str]) -> list[Path | str]:
    """The captures named, folders walked in sorted order, "-" for standard input. Raises `CaptureError`."""
    return [source for name in names for source in ([name] if name == "-" else find_captures([Path(name)]))]


def extract(
    captures: Sequence[Path | str],
    config: Config,
    summary: Summary,
    opened: Callable[[], object] = lambda: None,
) -> Iterator[Windows]:
    """The windows of the captures, read as one stream in order of time, whatever the order of their names.

    `opened` is called when all of them are open and nothing of their traffic has been looked at.
    Raises `CaptureError` for the first that is no capture, before anything is read from any of them.
    """
    from feature_extractors import Extractor  # compiled code, which a parent of the process never loads

    readers = open_captures(captures, config.capture.reader)
    extractor = Extractor(limits_of(config))
    opened()
    for block in in_order(readers):
        summary.frames += len(block)
        summary.bytes += int(block.captured.sum())
        for windows in extractor.parts(block):
            yield from _parts(windows)
    try:
        for windows in extractor.ending():
            yield from _parts(windows)
    except CaptureError as error:
        raise CaptureError(f"{', '.join(map(str, captures))}: {error}") from None
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
    load: Callable[[Callable[[], bool]], Judge],
    progress: Callable[[Summary], None] = lambda _: None,
) -> Summary:
    """Writes conn.log, cmdana.log and notice.log of the captures to `out`, and says what it saw.

    Extraction runs in a process of its own while `load` brings the detector, and beside the scoring after that;
    `load` is given what says whether extraction leaves cores to it for now. Raises `CaptureError`, `LogError`, or what
    `load` raises; then nothing is left in `out`.
    """
    summary = Summary([str(c) for c in captures])
    from cmdana_plugin.replay.extraction_process import (
        Beside,  # and numba, which both processes need: loaded once
    )

    blocks = Beside(lambda: _extracted(captures, config))
    writers: list[LogWriter] = []
    try:
        for stream in (CONN, CMDANA, NOTICE):
            writers.append(LogWriter(out, stream, config.logs.format))
        judge = load(blocks.ahead)
        with seldom_collected():
            _consume(judge, config, summary, blocks, writers, progress)
    except BaseException:
        for writer in writers:
            writer.abandon()
        raise
    finally:
        blocks.close()
    for writer in writers:
        writer.close()
    summary.suppressed = judge.decider.suppressed
    summary.allowed = judge.decider.allowed
    summary.forgotten = judge.decider.forgotten
    summary.model = judge.detector.name
    summary.threshold = judge.decider.threshold
    return summary


def _extracted(
    captures: Sequence[Path | str], config: Config
) -> Iterator[tuple[Encoded | None, dict[str, int]]]:
    """The windows, with frames and bytes so far; at the end none, and the counts of what was passed over."""
    from cmdana_plugin.replay.extraction_process import lock_in
    from feature_extractors import warm_up
    from feature_extractors.features import encoded, load_schema

    summary, schema = Summary([]), load_schema()

    def ready() -> None:
        warm_up()
        lock_in()

    with seldom_collected():
        for windows in extract(captures, config, summary, ready):
            yield encoded(windows, schema), {"frames": summary.frames, "bytes": summary.bytes}
    yield None, {"frames": summary.frames, "bytes": summary.bytes, **_undecoded(summary)}


def _undecoded(summary: Summary) -> dict[str, int]:
    return {f"undecoded {reason}": n for reason, n in summary.undecoded.items()}


def _consume(
    judge: Judge,
    config: Config,
    summary: Summary,
    blocks: Beside,
    writers: Sequence[LogWriter],
    progress: Callable[[Summary], None],
) -> None:
    """A block is decided on and written while the next one is scored."""
    conn, cmdana, notice = writers
    local = LocalNets(config.logs.local_nets)

    def conclude(windows: Encoded, scores: Scores, frames: int, size: int) -> None:
        judged = judge.conclude(windows, scores)
        c = windows.connections
        now, first = float(c.end.max()), float(c.end[0])
        verdicts = judged.verdicts
        conn.write_columns(conn_columns(c, verdicts, local), now, first)
        cmdana.write_columns(cmdana_columns(c, verdicts), now, first)
        notice.write(map(notice_row, judged.notices), now, first)
        summary.frames, summary.bytes = frames, size
        summary.connections += len(c)
        summary.first = min(summary.first or float(c.ts.min()), float(c.ts.min()))
        summary.last = max(summary.last, now)
        summary.verdicts.update(verdicts.verdict.counted())
        summary.notices += judged.notices
        progress(summary)

    with ThreadPoolExecutor(1, "conclude") as beside:
        before: Future[None] | None = None
        for windows, numbers in blocks:
            frames, size = numbers.pop("frames"), numbers.pop("bytes")
            scores = judge.detector.receive(windows) if windows is not None else None
            if before is not None:
                before.result()
            if windows is not None and scores is not None:
                before = beside.submit(conclude, windows, scores, frames, size)
                continue
            summary.frames, summary.bytes = frames, size
            summary.undecoded.update({reason.removeprefix("undecoded "): n for reason, n in numbers.items()})
