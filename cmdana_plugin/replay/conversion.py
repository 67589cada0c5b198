"""Captures in, Zeek's logs out, without anybody judging what is in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cmdana_plugin.config import Config
from cmdana_plugin.logs import CONN, Lines, LocalNets, conn_lines
from cmdana_plugin.replay.embedded import Logs, application_lines, extract
from cmdana_plugin.replay.summary import Summary
from feature_extractors import Windows

if TYPE_CHECKING:
    from cmdana_plugin.replay.extraction_process import Part


def convert(
    captures: Sequence[Path | str],
    out: Path,
    config: Config,
    progress: Callable[[Summary], None] = lambda _: None,
) -> Summary:
    """Writes conn.log and every application's log of the captures to `out`, in the format of `config.logs`.

    Raises `CaptureError` or `LogError`; then nothing is left in `out`.
    """
    from cmdana_plugin.replay.extraction_process import Beside  # and numba, for which a process is forked

    summary = Summary([str(c) for c in captures])
    blocks = Beside(lambda: _extracted(captures, config))
    try:
        logs = Logs(out, config.logs.format, (CONN,))
        try:
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
    return summary


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
