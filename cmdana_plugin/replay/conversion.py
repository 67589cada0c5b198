"""Captures in, Zeek's logs out, without a detector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cmdana_plugin.config import Config
from cmdana_plugin.logs import CONN, Format, Lines, LocalNets, LogFolder, To, conn_lines, opener
from cmdana_plugin.replay.embedded import application_lines, extract, sources
from cmdana_plugin.replay.summary import Summary
from feature_extractors import CaptureError, RecordError, Windows
from feature_extractors.readers import (
    PassedOver,
    begins_as_capture,
    is_parquet,
    log_files,
    may_be_log,
    named_stream,
    records,
)

if TYPE_CHECKING:
    from cmdana_plugin.replay.extraction_process import Part


def convert(
    captures: Sequence[Path | str],
    out: Path,
    config: Config,
    progress: Callable[[Summary], None] = lambda _: None,
    *,
    to: To | None = None,
) -> Summary:
    """Writes conn.log and every application's log of the captures to `out`, in the format of `config.logs` or `to`.

    Raises `CaptureError` or `LogError`; then nothing is left in `out`.
    """
    from cmdana_plugin.replay.extraction_process import (
        ChildProcess,  # and numba, for which a process is forked
    )

    summary = Summary([str(c) for c in captures])
    to = config.logs.format if to is None else to
    crossing: Format = "json" if to == "parquet" else to  # how lines come from the other process
    logs_of = config.logs.model_copy(update={"format": crossing})
    config = config.model_copy(update={"logs": logs_of})
    logs = LogFolder(out, opener(to))
    blocks = ChildProcess(lambda: _extracted(captures, config))
    try:
        try:
            logs.log(CONN)
            for _, numbers, lines in blocks:
                logs.write(lines)
                summary.frames, summary.bytes = numbers.pop("frames"), numbers.pop("bytes")
                summary.connections = numbers.pop("connections")
                summary.undecoded.update(numbers)
                progress(summary)
        except BaseException:
            logs.abandon()
            raise
    finally:
        blocks.close()
    summary.logs = logs.close()
    if unfit := sum(logs.unfit().values()):
        summary.undecoded["values_unset"] = unfit
    return summary


def captures_or_logs(names: Sequence[str]) -> tuple[list[Path | str], list[Path]]:
    """The captures, or the Zeek logs, among the files and folders named; what is no log is taken to be a capture.

    Raises `CaptureError` where there are both, and as `find_captures`.
    """
    captures: list[Path | str] = []
    logs: list[Path] = []
    for name in names:
        path = Path(name)
        if name != "-" and path.is_dir():
            found = [file for file in log_files(path) if not begins_as_capture(file)]
            with suppress(CaptureError):
                captures += sources([name])
            if any(_is_log(file) for file in found):
                logs.append(path)
            elif not captures:
                raise CaptureError(f"{name}: holds no capture and no Zeek log")
        elif name != "-" and path.is_file() and not begins_as_capture(path) and _may_be_log(path):
            logs.append(path)
        else:
            captures += sources([name])
    if captures and logs:
        raise CaptureError(
            f"found captures ({captures[0]}) and logs ({logs[0]}); convert one kind at a time, by its files' names"
        )
    return captures, logs


def _may_be_log(path: Path) -> bool:
    return (may_be_log(path) and bool(named_stream(path.name))) or _is_log(path)


def _is_log(path: Path) -> bool:
    """Whether a record can be read from it."""
    try:
        return next(records(path, PassedOver()), None) is not None
    except RecordError:
        return is_parquet(path)  # and no pyarrow, as reading it will say


def _extracted(captures: Sequence[Path | str], config: Config) -> Iterator[Part]:
    """Lines alone, with counts so far; at the end those of what was passed over."""
    from cmdana_plugin.replay.extraction_process import lock_in
    from feature_extractors import Extractor, warm_up

    summary = Summary([])
    made, rows = application_lines(config)
    local, fmt = LocalNets(config.logs.local_nets), config.logs.format
    conn_lines(
        Extractor(content=False).finish().connections, local, fmt
    )  # compiled code is loaded before the lock

    def ready() -> None:
        warm_up()
        lock_in()

    def counts() -> dict[str, int]:
        return {"frames": summary.frames, "bytes": summary.bytes, "connections": summary.connections}

    def connections(windows: Windows) -> Lines:
        c = windows.connections
        summary.connections += len(c)
        return Lines("conn", float(c.end[0]), float(c.end.max()), conn_lines(c, local, fmt))

    for windows in extract(captures, config, summary, ready, rows):
        yield None, counts(), [connections(windows)]
        while lines := next(made):
            yield None, counts(), lines
    yield None, {**counts(), **summary.undecoded}, []
