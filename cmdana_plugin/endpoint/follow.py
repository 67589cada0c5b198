"""Judging connections of the logs that Zeek writes to disk: nothing of ours runs in Zeek, verdicts go to own logs."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cmdana_plugin.detector import BENIGN
from cmdana_plugin.logs import CMDANA, NOTICE, AppendedLog, DiskFullError, cmdana_pieces, notice_row
from cmdana_plugin.replay import settle_for_live
from feature_extractors.features import Encoded, encoded, schema_of
from feature_extractors.readers import FollowedLogs

if TYPE_CHECKING:
    from cmdana_plugin.config import Config
    from cmdana_plugin.decision import Judge, Judged
    from cmdana_plugin.logs import Column

_LOOK_SECONDS: Final = 0.5  # between two looks at the logs
_LONELY_SECONDS: Final = 30.0  # without a log of connections, after which the operator is told


def follow(
    settings: Config,
    load: Callable[[], Judge],
    logs: FollowedLogs,
    out: Path,
    *,
    until: Callable[[], bool] = lambda: False,
    notify: Callable[[str], None],
    quiet: bool = False,
) -> int:
    """The exit status of judging what Zeek writes to its logs, until SIGTERM, SIGINT or `until` (asked twice a second).

    cmdana.log and notice.log grow in `out`. Where `until` ends it, `logs`
    can be gone on with; else what waited is judged at the end. Raises `CmdanaError`.
    """
    judge = load()
    settle_for_live()
    stop = threading.Event()
    before = {s: signal.signal(s, lambda *_: stop.set()) for s in (signal.SIGTERM, signal.SIGINT)}
    followed = _Following(judge, logs, out, settings, notify, quiet)
    notify(f"model {judge.detector.name} is ready; waiting for connections that Zeek writes down")
    try:
        followed.run(lambda: stop.is_set() or until(), stop)
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
        followed.close()
    counts = ", ".join(f"{n} {what}" for what, n in sorted(followed.counters().items()) if n)
    notify("stopped: " + (counts or "nothing seen"))
    return 0


class _Following:
    def __init__(
        self,
        judge: Judge,
        logs: FollowedLogs,
        out: Path,
        settings: Config,
        notify: Callable[[str], None],
        quiet: bool,
    ) -> None:
        self._judge = judge
        self._logs = logs
        self._notify = notify
        self._every = 0.0 if quiet else settings.endpoint.counts_seconds
        self._schema = schema_of(judge.detector.schema_digest)
        self._cmdana = AppendedLog(out, CMDANA, settings.logs.format)
        self._notices = AppendedLog(out, NOTICE, settings.logs.format)
        self._counts: Counter[str] = Counter()
        self._missed: Counter[str] = Counter()  # rows for which there is no room at present

    def run(self, over: Callable[[], bool], stop: threading.Event) -> None:
        for judged in self._judge.judged(self._blocks(over, stop)):
            if len(judged.windows):
                self._write(judged)

    def counters(self) -> dict[str, int]:
        """What was judged, and what the reading let go, by name."""
        return dict(self._counts + self._missed + Counter(self._logs.counts.by_reason))

    def close(self) -> None:
        self._cmdana.close()
        self._notices.close()

    def _blocks(self, over: Callable[[], bool], stop: threading.Event) -> Iterator[Encoded]:
        began = due = time.monotonic()
        told = False
        while not over():
            windows = self._logs.look()
            if windows is not None:
                yield encoded(windows, self._schema)
            now = time.monotonic()
            if not told and not self._logs.follows_connections and now - began > _LONELY_SECONDS:
                told = True
                self._notify("no conn.log there yet; is it the folder that Zeek writes to? waiting for it")
            if self._every and now - due >= self._every:
                due = now
                self._notify(self._words())
            if windows is None:
                stop.wait(_LOOK_SECONDS)
        if stop.is_set() and (rest := self._logs.rest()) is not None:
            yield encoded(rest, self._schema)

    def _words(self) -> str:
        counts = self._counts
        passed = sum(self._logs.counts.by_reason.values())
        return (
            f"{counts['connections_judged']:,} connections judged, {counts['odd_verdicts']:,} odd verdicts, "
            f"{counts['notices']:,} notices, {self._logs.waiting:,} connections wait for their rows, "
            f"{passed:,} lines or files passed over"
        )

    def _write(self, judged: Judged) -> None:
        c, verdicts = judged.windows.connections, judged.verdicts
        now = float(c.end.max())
        for columns in cmdana_pieces(c, verdicts, judged.revised):
            self._put(self._cmdana, columns, now)
        if judged.notices:
            self._put(self._notices, list(zip(*map(notice_row, judged.notices), strict=True)), now)
        self._counts["connections_judged"] += len(c)
        self._counts["odd_verdicts"] += sum(n for (_, word), n in judged.counts.items() if word != BENIGN)
        self._counts["notices"] += len(judged.notices)

    def _put(self, log: AppendedLog, columns: Sequence[Column], now: float) -> None:
        """Writes rows; where there is no room they are counted, and judging goes on."""
        name = f"{log.path.stem}_rows_not_written"
        try:
            log.write_columns(columns, now)
        except DiskFullError as full:
            if not self._missed[name]:
                self._notify(f"{full}; judging goes on, and rows that are not written are counted")
            self._missed[name] += len(columns[0])
            return
        if missed := self._missed.pop(name, 0):
            self._counts[name] += missed
            self._notify(f"{log.path}: is written again; {missed:,} rows were not")
