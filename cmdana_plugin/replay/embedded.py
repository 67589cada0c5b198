"""Captures in, Zeek's logs out, without Zeek: the embedded engine around the loop of `decision.judge`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
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
from cmdana_plugin.replay.summary import Summary
from feature_extractors import CaptureError, Windows, take
from feature_extractors.readers import find_captures, in_order, open_captures

if TYPE_CHECKING:
    from cmdana_plugin.decision import Judge, Judged
    from cmdana_plugin.replay.extraction_process import Beside
    from feature_extractors import Counts, ExtractorLimits
    from feature_extractors.features import Encoded

_WINDOWS = 8192  # windows scored at once


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
        judge, local = load(blocks.ahead), LocalNets(config.logs.local_nets)
        for judged in judge.judged(_counted(blocks, summary), ahead=True):
            if len(judged.windows):
                _write(judged, writers, local)
            summary.receive(judged)
            progress(summary)
    except BaseException:
        for writer in writers:
            writer.abandon()
        raise
    finally:
        blocks.close()
    for writer in writers:
        writer.close()
    summary.finish(judge)
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

    for windows in extract(captures, config, summary, ready):
        yield encoded(windows, schema), {"frames": summary.frames, "bytes": summary.bytes}
    yield None, {"frames": summary.frames, "bytes": summary.bytes, **_undecoded(summary)}


def _undecoded(summary: Summary) -> dict[str, int]:
    return {f"undecoded {reason}": n for reason, n in summary.undecoded.items()}


def _counted(blocks: Beside, summary: Summary) -> Iterator[Encoded]:
    """The windows alone; what has been read so far goes into `summary`, at the end what was passed over too."""
    for windows, numbers in blocks:
        summary.frames, summary.bytes = numbers.pop("frames"), numbers.pop("bytes")
        summary.undecoded.update({reason.removeprefix("undecoded "): n for reason, n in numbers.items()})
        if windows is not None:
            yield windows


def _write(judged: Judged, writers: Sequence[LogWriter], local: LocalNets) -> None:
    conn, cmdana, notice = writers
    c, verdicts = judged.windows.connections, judged.verdicts
    now, first = float(c.end.max()), float(c.end[0])
    conn.write_columns(conn_columns(c, verdicts, local), now, first)
    cmdana.write_columns(cmdana_columns(c, verdicts), now, first)
    notice.write(map(notice_row, judged.notices), now, first)
