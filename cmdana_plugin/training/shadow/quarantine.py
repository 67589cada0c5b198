"""The days of a site that a shadow model may learn from: held back until they are over, and no host may say much.

While the detector judges, each day's connections (of network time) go into a folder of their own. Of a day that is
over no host teaches more than one connection in a hundred, and none that had an incident meanwhile, or has one open:
who drips into what is learned must wait, be quiet, and then is one of many.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin import files
from cmdana_plugin.decision import Judged
from cmdana_plugin.statefile import of_text
from cmdana_plugin.training.recording import Recording
from cmdana_plugin.training.spool import Spool, SpoolError, is_spool
from feature_extractors import Connections, Windows, address_texts, concat, take

FOLDER: Final = "quarantine"  # in the folder of the state
DAYS: Final = 4  # that are over and kept
MOST_OF_A_HOST: Final = 0.01  # of a day's connections
_DAY: Final = 86_400.0
_PRESENT: Final = "present"  # names the day that goes on
_DIGITS: Final = 6
_INCIDENTS: Final = "decider.incidents"


class Quarantine:
    """Where the present day's connections go. `close` at the end.

    What cannot be written is told once, and the judging goes on without it.
    """

    def __init__(self, folder: Path, most: int, notify: Callable[[str], None]) -> None:
        """At most `most` connections of all days are kept, of each day the latest."""
        self._folder = folder / FOLDER
        self._notify = notify
        self._most = max(most // (DAYS + 1), 1)
        self._spool: Spool | None = None
        self._day: int | None = -1  # None: no longer
        self._gone_by = 0  # connections that came when their day was over, since it was last told
        self._over = 0  # connections of the day that an earlier run let go

    def keep(self, windows: Windows) -> None:
        """Appends a block, in order of `end`."""
        if self._day is None or not len(windows):
            return
        try:
            self._keep(windows)
        except (SpoolError, OSError) as error:
            self._day = None
            self._notify(
                f"quarantine: {error}; nothing more is gathered for a shadow model until the next start"
            )

    def _keep(self, windows: Windows) -> None:
        day = (windows.connections.end // _DAY).astype(np.int64)
        assert self._day is not None
        self._gone_by += int((day < self._day).sum())
        for one in np.unique(day[day >= self._day]).tolist():
            if one != self._day:
                self._turn(one)
            assert self._spool is not None
            rows = np.flatnonzero(day == one)
            self._spool.add(windows if len(rows) == len(windows) else take(windows, rows))

    def look(self, judged: Judged) -> None:
        """Remembers the hosts of incidents."""
        if self._spool is None:
            return
        for notice in judged.notices:
            if notice.incident is not None:
                for host in (notice.incident.host, *notice.incident.hosts):
                    self._spool.suspect(host)

    def close(self) -> None:
        """Writes what waits, and lets the day go."""
        with suppress(SpoolError):
            self._end()

    def _end(self) -> None:
        spool, self._spool = self._spool, None
        if spool is not None:
            spool.close()
            if left := [
                f"{n:,} {why}"
                for n, why in (
                    (self._gone_by, "connections of days gone by (is a clock set back?)"),
                    (spool.dropped - self._over, "connections, the earliest ([learning] max_connections)"),
                )
                if n
            ]:
                day = datetime.fromtimestamp((self._day or 0) * _DAY, UTC)
                self._notify(f"quarantine: left out on {day:%Y-%m-%d}: {', '.join(left)}")
            self._gone_by = 0

    def _turn(self, day: int) -> None:
        self._end()
        self._day = day
        name = _name(day)
        days = _days(self._folder)
        later = [path for path in days if path.name > name]
        for old in [*[path for path in days if path.name < name][:-DAYS], *later[DAYS:]]:
            shutil.rmtree(old, ignore_errors=True)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._spool = Spool(self._folder / name, self._most, create=True)
        self._over = self._spool.dropped
        # Which day goes on: where a clock was ahead, later ones are there.
        files.replace(self._folder / _PRESENT, name.encode(), 0o600)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Days that are over, the earliest first, and who has nothing to say in any of them."""

    days: list[Recording]
    silent: frozenset[str]  # addresses


def quarantined(folder: Path, state: Mapping[str, NDArray[Any]]) -> Quarantined:
    """What may be learned of the days in a folder, by the `state` of its judge; not the present, which may go on."""
    silent = set(_with_incidents(state))
    days = []
    for path in _over(folder / FOLDER):
        spool = Spool(path)
        try:
            blocks = list(spool.windows())
            silent |= set(spool.odd)
        finally:
            spool.close()
        if blocks:
            days.append(Recording(path.name, concat(blocks)))
    return Quarantined([taught(day, silent) for day in days], frozenset(silent))


def taught(day: Recording, silent: Collection[str], most: float = MOST_OF_A_HOST) -> Recording:
    """The day with all unknown but what may be learned: of each originator evenly among its connections."""
    c = day.windows.connections
    label = np.full(len(c), -1, np.int8)
    each = max(int(most * len(c)), 1)
    for host, rows in _by_originator(c):
        if host not in silent:
            label[rows[np.unique(np.linspace(0, len(rows) - 1, min(each, len(rows))).astype(np.int64))]] = 0
    label[np.isin(address_texts(c.resp_h), list(silent))] = -1
    return Recording(day.name, day.windows, label, [""] * len(c))


def _by_originator(c: Connections) -> Iterator[tuple[str, NDArray[np.int64]]]:
    hosts, at = np.unique(np.ascontiguousarray(c.orig_h).view("V16").ravel(), return_inverse=True)
    order = np.argsort(at, kind="stable")
    texts = address_texts(hosts.view(np.uint8).reshape(-1, 16))
    yield from zip(texts, np.split(order, np.cumsum(np.bincount(at))[:-1]), strict=True)


def _over(folder: Path) -> list[Path]:
    """The days before the present one."""
    days = _days(folder)
    try:
        present = (folder / _PRESENT).read_text(encoding="ascii")[:_DIGITS]
    except (OSError, UnicodeDecodeError):
        present = days[-1].name if days else ""
    return [path for path in days if path.name < present]


def _name(day: int) -> str:
    """Of a day's folder: they sort as the days do."""
    return f"{day:0{_DIGITS}d}"


def _days(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_spool(path)) if folder.is_dir() else []


def _with_incidents(state: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    """The hosts of incidents, open and ended, that a state knows."""
    if _INCIDENTS not in state:
        return
    told = of_text(state, _INCIDENTS)
    yield from (str(host) for _, host, _ in told["hosts"])
    for incident in told["ended"]:
        yield from (str(incident["host"]), *map(str, incident["hosts"]))
