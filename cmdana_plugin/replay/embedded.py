"""Captures in, Zeek's logs out, without Zeek: the embedded engine around the loop of `decision.judge`."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cmdana_plugin import files
from cmdana_plugin.config import Config
from cmdana_plugin.logs import (
    APPLICATION,
    CMDANA,
    CONN,
    NOTICE,
    Lines,
    LocalNets,
    LogError,
    LogFolder,
    LogWriter,
    cmdana_pieces,
    conn_columns,
    notice_row,
)
from cmdana_plugin.replay.summary import Summary
from feature_extractors import CaptureError, Windows, concat, take
from feature_extractors.readers import find_captures, in_order, open_captures

if TYPE_CHECKING:
    from cmdana_plugin.decision import Judge, Judged
    from cmdana_plugin.replay.extraction_process import ChildProcess, Part
    from feature_extractors import Counts, ExtractorLimits, LogRow
    from feature_extractors.features import Encoded

_OF_CAPTURES = (".pcap", ".pcapng", ".cap", ".dmp", ".trace", ".gz", ".bz2", ".xz", ".zst")
_BLOCK_WINDOWS = 8192  # windows scored at once
_TOGETHER = 2048  # windows encoded at once, where there are as many: a block costs what some 200 windows do


def limits_of(config: Config) -> ExtractorLimits:
    """The extractor's limits of the tables [tracker] and [content] of `plugin.toml`."""
    from feature_extractors import ExtractorLimits
    from feature_extractors.content import ContentLimits
    from feature_extractors.tracker import TrackerLimits

    return ExtractorLimits(
        TrackerLimits(**config.tracker.model_dump()), ContentLimits(**config.content.model_dump())
    )


def folder_for(captures: Sequence[str]) -> Path:
    """The folder, in the working folder, for what comes of these captures: `incident` for `day/incident.pcap.gz`.

    Of a folder of captures it is `NAME-replayed`, of standard input `capture`; of several captures, of the first.
    """
    first = Path(captures[0])
    if captures[0] != "-" and first.is_dir():
        return Path(f"{first.resolve().name or 'root'}-replayed")
    name = first.name
    while (suffix := Path(name).suffix.lower()) in _OF_CAPTURES and len(name) > len(suffix):
        name = name[: -len(suffix)]
    name = name.strip(".- ") or "capture"
    return Path(f"{name}-replayed" if name == first.name and os.path.lexists(name) else name)


@contextmanager
def prepared(folder: Path, force: bool) -> Iterator[None]:
    """A context in which the folder for the logs exists and is locked; one that it made goes again where it fails.

    Raises `LogError` where it cannot be used or already holds such logs, `Busy` where another process writes there.
    """
    if folder.exists() and not folder.is_dir():
        raise LogError(f"{folder}: is a file; --out needs a folder")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with ExitStack() as held:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(files.alone(folder))
            except OSError as error:
                raise LogError(f"{folder}: cannot be written: {error.strerror}") from None
            held.callback(files.abandon_all, folder)
            _refuse_logs(folder, force)
            yield
    except BaseException:
        _remove_empty(made)
        raise


def _refuse_logs(folder: Path, force: bool) -> None:
    there = [
        name
        for s in (CONN, CMDANA, NOTICE, *APPLICATION.values())
        for kind in ("log", "parquet")
        if (folder / (name := f"{s.path}.{kind}")).exists()
    ]
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
    rows: Callable[[list[LogRow]], object] | None = None,
    brief: bool = False,
    whole: bool = False,
) -> Iterator[Windows]:
    """The windows of the captures, read as one stream in order of time, whatever the order of their names.

    `opened` is called when all of them are open and nothing of their traffic has been looked at; `rows`, where it is
    given, is handed the rows of application logs before the windows of the connections that they belong to. Without it
    and with `brief`, entries go without most of what no feature reads, as `Extractor` says; with `whole` there are
    those of files and weirds too, which else only `rows` has.
    Raises `CaptureError` for the first that is no capture, before anything is read from any of them.
    """
    from feature_extractors import Extractor  # compiled code, which a parent of the process never loads

    readers = open_captures(captures, config.capture.reader)
    extractor = Extractor(limits_of(config), logs=rows is not None or whole, brief=brief)
    opened()
    for block in in_order(readers):
        summary.frames += len(block)
        summary.bytes += int(block.captured.sum())
        for windows in extractor.parts(block):
            yield from _parts(_with_rows(windows, extractor.rows(), rows, whole))
    try:
        for windows in extractor.ending():
            yield from _parts(_with_rows(windows, extractor.rows(), rows, whole))
    except CaptureError as error:
        raise CaptureError(f"{', '.join(map(str, captures))}: {error}") from None
    merge_counts(summary.undecoded, (extractor.counts, *(r.counts for r in readers)))


def _with_rows(
    windows: Windows, there: list[LogRow], rows: Callable[[list[LogRow]], object] | None, whole: bool
) -> Windows:
    """The windows as `extract` hands them out, once `rows` has got what is `there`."""
    if rows is not None:
        rows(there)
    if not whole:
        return windows
    from feature_extractors import with_rows

    return with_rows(windows, there)


def _parts(windows: Windows) -> Iterator[Windows]:
    """At most `_BLOCK_WINDOWS` rows at a time: a flood or the end of a capture ends a quarter of a million at once."""
    if len(windows) <= _BLOCK_WINDOWS:
        if len(windows):
            yield windows
        return
    for first in range(0, len(windows), _BLOCK_WINDOWS):
        yield take(windows, np.arange(first, min(first + _BLOCK_WINDOWS, len(windows))))


def merge_counts(into: Counter[str], parts: Iterable[Counts]) -> None:
    """Adds the counts by reason of `parts` to `into`."""
    for part in parts:
        into.update(part.by_reason)


def replay(
    captures: Sequence[Path | str],
    out: Path,
    config: Config,
    load: Callable[[Callable[[], bool]], Judge],
    progress: Callable[[Summary], None] = lambda _: None,
    schema: str = "",
) -> Summary:
    """The summary of a replay that writes the logs of the captures to `out`, as `config.logs.streams` asks for.

    Extraction runs in a process of its own while `load` brings the detector, and beside the scoring after that;
    `load` is given what says whether extraction leaves cores to it for now. `schema` is the digest of the model's, ""
    where it was not taught the further logs. Raises `CaptureError`, `LogError`, or what `load` raises; then nothing is
    left in `out`.
    """
    summary = Summary([str(c) for c in captures])
    from cmdana_plugin.replay.two_passes import TwoPasses
    from feature_extractors.compiled import hashed, new_key

    hashed(new_key(), np.zeros(1, np.uint64))  # what loads compiled code is loaded once, for both processes
    passes = TwoPasses(
        lambda: _extracted(captures, config, schema),
        again="-" not in captures and config.adaptation.reads_twice,
    )
    try:
        logs = LogFolder(
            out,
            lambda folder, stream: LogWriter(folder, stream, config.logs.format),
            (CMDANA, NOTICE) if config.logs.streams == "none" else (CONN, CMDANA, NOTICE),
        )
        try:
            judge, local = load(passes.ahead), LocalNets(config.logs.local_nets)
            blocks = passes.judging(judge)
            for judged in judge.judged(_counted(blocks, summary, logs), ahead=True):
                if len(judged.windows):
                    _write(judged, logs, local)
                summary.receive(judged)
                progress(summary)
        except BaseException:
            logs.abandon()
            raise
    finally:
        passes.close()
    summary.logs = logs.close()
    summary.finish(judge)
    return summary


def _extracted(captures: Sequence[Path | str], config: Config, digest: str) -> Iterator[Part]:
    """The windows in terms of the schema of this digest, with frames and bytes so far; at the end none, and the counts
    of what was passed over.
    """
    from cmdana_plugin.replay.extraction_process import lock_in
    from feature_extractors import warm_up
    from feature_extractors.features import encoded, schema_of

    summary, schema = Summary([]), schema_of(digest)
    further = schema.further is None
    made, rows = (repeat([]), None) if config.logs.streams != "all" else application_lines(config)

    def ready() -> None:
        warm_up()
        lock_in()

    found = extract(captures, config, summary, ready, rows, brief=not further, whole=further)
    for windows in _together(found):
        numbers = {"frames": summary.frames, "bytes": summary.bytes}
        lines = next(made)
        while more := next(made):
            yield None, dict(numbers), lines
            lines = more
        yield encoded(windows, schema), numbers, lines
    numbers = {"frames": summary.frames, "bytes": summary.bytes}
    while lines := next(made):
        yield None, dict(numbers), lines
    yield None, {**numbers, **_undecoded(summary)}, []


def _together(parts: Iterable[Windows]) -> Iterator[Windows]:
    """The same windows, `_TOGETHER` or more at a time, until there are no more."""
    waiting: list[Windows] = []
    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting)) >= _TOGETHER:
            yield concat(waiting) if len(waiting) > 1 else part
            waiting = []
    if waiting:
        yield concat(waiting)


def application_lines(config: Config) -> tuple[Iterator[list[Lines]], Callable[[list[LogRow]], None]]:
    """An iterator of formatted lines, [] where none are ready, and the function that takes their rows."""
    from cmdana_plugin.logs import RowWriter

    waiting: deque[list[LogRow]] = deque()
    writer = RowWriter(config.logs.format, LocalNets(config.logs.local_nets))

    def made() -> Iterator[list[Lines]]:
        while True:
            if waiting:
                yield from writer.lines(waiting.popleft())
            else:
                yield []

    def take_rows(rows: list[LogRow]) -> None:
        if rows:
            waiting.append(rows)

    return made(), take_rows


def _undecoded(summary: Summary) -> dict[str, int]:
    return {f"undecoded {reason}": n for reason, n in summary.undecoded.items()}


def _counted(blocks: ChildProcess, summary: Summary, logs: LogFolder[LogWriter]) -> Iterator[Encoded]:
    """The windows alone; what has been read so far goes into `summary`, at the end what was passed over too.

    Lines of application logs are written as they come.
    """
    for windows, numbers, lines in blocks:
        logs.write(lines)
        summary.frames, summary.bytes = numbers.pop("frames"), numbers.pop("bytes")
        summary.undecoded.update({reason.removeprefix("undecoded "): n for reason, n in numbers.items()})
        if windows is not None:
            yield windows


def _write(judged: Judged, logs: LogFolder[LogWriter], local: LocalNets) -> None:
    c, verdicts = judged.windows.connections, judged.verdicts
    now, first = float(c.end.max()), float(c.end[0])
    if "conn" in logs:
        logs.log(CONN).write_columns(conn_columns(c, verdicts, local), now, first)
    for columns in cmdana_pieces(c, verdicts, judged.revised):
        logs.log(CMDANA).write_columns(columns, now, first)
    logs.log(NOTICE).write(map(notice_row, judged.notices), now, first)
