"""What the live page knows of a folder: read once in the background, then as the logs grow; pages see what there is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from cmdana_plugin.analyst import alerts
from cmdana_plugin.desk.incidents import Incidents
from cmdana_plugin.desk.queue import Entry, queue
from cmdana_plugin.desk.store import Store, StoreError
from cmdana_plugin.desk.web.columns import FIELDS, Columns
from cmdana_plugin.logs import Field, completed, find_logs, is_notice, read_notices, read_rows
from feature_extractors import RecordError
from feature_extractors.readers import ConnRows, PassedOver

_POLL_SECONDS: Final = 1.0
_MOST_SIZES: Final = 400_000  # connections of incidents whose bytes are known
_MOST_FAULTS: Final = 50
_STALE_SECONDS: Final = 30.0  # after which who uses which host is counted anew, while logs grow


class Index:
    """The incidents and verdicts of one folder. `version` rises with every change."""

    def __init__(self, folder: Path, store: Store, alerts_per_day: float, rows: int) -> None:
        self.folder = folder
        self.store = store
        self.alerts_per_day = alerts_per_day
        self.incidents = Incidents()
        self.columns = Columns(rows)
        self.sizes: dict[bytes, float] = {}  # uid -> bytes both ways
        self.faults: list[str] = []  # files that cannot be read, and why
        self.passed = PassedOver()
        self.version = 0
        self.doing = "finding the logs"  # "" when all is read and waited for
        self.read_at = 0.0  # wall clock, when all there was had been read
        self._clients: tuple[float, int, dict[str, int]] = (0.0, -1, {})
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begins to read, in threads that end with the process."""
        self._threads = [threading.Thread(target=self._read, name="cmdana-desk", daemon=True)]
        self._threads[0].start()

    def stop(self) -> None:
        """Ends reading, within a second or so."""
        self._stop.set()
        for thread in self._threads:
            thread.join(5.0)

    def entries(self) -> tuple[list[Entry], str]:
        """The queue as it is now, and what is wrong with the file of decisions, "" for nothing."""
        fault = ""
        try:
            decisions = self.store.decisions()
        except StoreError as error:
            decisions, fault = {}, str(error)
        with self._lock:
            incidents = list(self.incidents.of.values())
        return queue(incidents, decisions, self.clients(), self.alerts_per_day), fault

    def clients(self) -> dict[str, int]:
        """How many hosts use each host of an incident; counted anew every half a minute at most."""
        at, n, counts = self._clients
        now, total = time.monotonic(), len(self.incidents.of) + self.columns.total
        if total == n or (self.read_at and now - at < _STALE_SECONDS):
            return counts
        if not self.read_at and now - at < 2.0:
            return counts
        with self._lock:
            hosts = {h for i in self.incidents.of.values() for h in (*i.actors, *i.targets)}
        counts = self.columns.clients(list(hosts))
        self._clients = (now, total, counts)
        return counts

    def _read(self) -> None:
        live = {name: self.folder / f"{name}.log" for name in ("notice", "cmdana")}
        notices = self._all("notice", live["notice"], None, self._notice)
        verdicts = self._all("cmdana", live["cmdana"], FIELDS, self._verdict)
        with suppress(StopIteration):
            for what, rows in (("incidents", notices), ("verdicts", verdicts)):
                self.doing = f"reading {what}"
                while next(rows):
                    if self._stop.is_set():
                        return
            self.doing = "reading sizes"
            self._measure()
        self.doing, self.read_at = "", time.time()
        self.version += 1
        while not self._stop.wait(_POLL_SECONDS):
            new = 0
            for rows in (notices, verdicts):
                while next(rows, False) and not self._stop.is_set():
                    new += 1
            self.version += new > 0

    def _all(
        self,
        stream: str,
        live: Path,
        only: frozenset[str] | None,
        take: Callable[[Mapping[str, Field]], None],
    ) -> Iterator[bool]:
        """Reads the logs of a stream that there are, then the one that grows; true for each row, false at rest."""
        try:
            files = [f for f in find_logs([self.folder], stream) if f != live or not _plain(live)]
        except RecordError as error:
            self._fault(str(error))
            files = []
        for file in files:
            try:
                of = read_notices(file, self.passed) if stream == "notice" else read_rows(
                    file, stream, self.passed, only
                )  # fmt: skip
                for row in of:
                    take(row)
                    yield True
            except (RecordError, OSError) as error:
                self._fault(str(error))
        while True:
            try:
                for grown in alerts.growing(live, stream, self.passed, whole=True, only=only):
                    if grown is not None:
                        take(grown)
                    yield grown is not None
            except (RecordError, OSError) as error:
                self._fault(str(error))
                while True:
                    yield False

    def _notice(self, row: Mapping[str, Field]) -> None:
        if is_notice(row):
            with self._lock:
                self.incidents.receive(completed(row))
            self.version += 1

    def _verdict(self, row: Mapping[str, Field]) -> None:
        self.columns.add(row)
        if self.columns.total % 50_000 == 0:
            self.version += 1
            self.doing = f"reading verdicts: {self.columns.total:,} so far" if self.doing else ""

    def _measure(self) -> None:
        """The sizes of incidents' connections, from conn.log."""
        wanted: set[bytes] = set()
        for block in self.columns.blocks():
            wanted.update(block["uid"][block["incident"] > 0].tolist())
            if len(wanted) > _MOST_SIZES:
                break
        for file in find_logs([self.folder], "conn") if wanted else ():
            try:
                for c in ConnRows(file, self.passed).blocks():
                    for i, uid in enumerate(c.uid.tolist()):
                        if uid in wanted:
                            self.sizes[uid] = float(
                                max(int(c.orig_bytes[i]), 0) + max(int(c.resp_bytes[i]), 0)
                            )
                    if self._stop.is_set():
                        return
            except (RecordError, OSError) as error:
                self._fault(str(error))

    def _fault(self, what: str) -> None:
        if len(self.faults) < _MOST_FAULTS and what not in self.faults:
            self.faults.append(what)


def _plain(path: Path) -> bool:
    """Whether a log can be read as it grows: a regular file that is neither packed nor Parquet."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            begin = file.read(6)
    except OSError:
        return False
    return not begin.startswith(
        (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PAR1", b"\xff\xfe", b"\xfe\xff")
    )
