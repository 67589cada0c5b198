"""`cmdana export`: notices, and odd verdicts if wanted, in another program's format, to a file or over a road."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from cmdana_plugin import files
from cmdana_plugin.analyst import alerts
from cmdana_plugin.logs import (
    Field,
    Held,
    completed,
    find_logs,
    is_notice,
    nothing_read,
    number,
    print_passed_over,
    read_notices,
    read_rows,
    text,
)
from cmdana_plugin.outputs import ecs, ocsf, stix, syslog
from cmdana_plugin.outputs.delivery import Counts, Sender, Waiting
from cmdana_plugin.outputs.events import Event, of_notice, of_verdict
from cmdana_plugin.outputs.memory import Memory
from cmdana_plugin.outputs.roads import ReaderGone, in_the_open, road_to
from feature_extractors import CmdanaError
from feature_extractors.readers import PassedOver

Format = Literal["ecs", "ocsf", "stix", "syslog"]
FORMATS: Final[tuple[Format, ...]] = ("ecs", "ocsf", "stix", "syslog")
_ATTEMPTS: Final = 6  # for an event of what is there already: half a minute
_LOOK_SECONDS: Final = 0.5  # seconds between looks at whether to end
_KEEP_SECONDS: Final = 2.0  # seconds between writings of the memory
_MOST_INCIDENTS: Final = 100_000  # that are known to have been told of
_TYPES: Final = {
    "ecs": "application/json", "ocsf": "application/json", "stix": "application/stix+json;version=2.1",
    "syslog": "application/syslog-msg",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Order:
    """What is exported, and where to."""

    logs: Sequence[Path]
    format: Format = "ecs"
    to: str = "-"
    wanted: alerts.Filter = field(default_factory=alerts.Filter)
    verdicts: bool = False  # rows of cmdana.log that are not benign, too
    incident: str = ""  # only this one
    remember: Path | None = None
    key: bytes | None = None  # that requests of HTTP are signed with
    ca_file: Path | None = None
    force: bool = False


def export(order: Order, notify: Callable[[str], None], *, follow: bool) -> Counts:
    """Sends what is there, oldest first; with `follow`, then what comes, until it is interrupted.

    Raises `RecordError` where there is no log, `CmdanaError` where the receiver cannot be reached or an option is
    none.
    """
    if in_the_open(order.to):
        notify(f"{order.to}: goes unencrypted to another host; tls:// or https:// would not")
    counts = Counts()
    memory = Memory(order.remember)
    worded = _Worded(order.format)
    if "://" not in order.to and order.to != "-" and not follow:
        _written(order, worded, memory, counts)
        return counts
    road = road_to(
        order.to, frame=_octets if order.format == "syslog" else _lines, content_type=_TYPES[order.format],
        key=order.key, ca_file=order.ca_file,
    )  # fmt: skip
    sender = Sender(road, counts, notify, attempts=None if follow else _ATTEMPTS)
    try:
        if follow:
            notify(f"{order.to}: waiting for what comes")
            _followed(order, worded, memory, counts, sender)
        elif order.format == "stix" and order.to == "-":
            sender.send(json.dumps(stix.bundle(_there(order)), indent=1).encode())
        else:
            for event in _there(order):
                _sent(event.id, worded(event), memory, counts, sender)
    except KeyboardInterrupt:
        if not follow:  # else the way to end it
            raise
    except ReaderGone:
        raise BrokenPipeError from None
    except OSError as error:
        raise CmdanaError(f"{order.to}: {error.strerror or error}; {counts.words()}") from None
    finally:
        memory.keep()
        road.close()
    return counts


class _Worded:
    """Events in the words of a format; knows which incidents it has told of."""

    def __init__(self, format: Format) -> None:
        self._format = format
        self._host = socket.gethostname()
        self._told: dict[str, None] = {}

    def __call__(self, event: Event) -> bytes:
        if self._format == "ecs":
            return ecs.line(event)
        if self._format == "stix":
            return stix.line(event)
        if self._format == "syslog":
            return syslog.message(event, self._host)
        again = event.subject in self._told
        self._told[event.subject] = None
        if len(self._told) > _MOST_INCIDENTS:
            del self._told[next(iter(self._told))]
        return ocsf.line(event, again=again)


def _written(order: Order, worded: _Worded, memory: Memory, counts: Counts) -> None:
    """Writes a file that is whole or not there."""
    out = Path(order.to)
    if out.is_dir():
        raise CmdanaError(f"--to {out}: is a folder; expected a file to write")
    if out.exists() and not order.force:
        raise CmdanaError(f"--to {out}: is there already; --force writes over it, --follow appends")
    events = _there(order)
    try:
        with files.replacing(out) as file:
            if order.format == "stix":
                file.write(json.dumps(stix.bundle(_new(events, memory, counts)), indent=1).encode() + b"\n")
            else:
                for event in _new(events, memory, counts):
                    file.write(worded(event) + b"\n")
    except OSError as error:
        raise CmdanaError(f"--to {out}: cannot be written: {error.strerror}") from None
    memory.keep()


def _new(events: Sequence[Event], memory: Memory, counts: Counts) -> Iterator[Event]:
    for event in events:
        if event.id in memory:
            counts.known += 1
            continue
        memory.add(event.id)
        counts.sent += 1
        yield event


def _sent(id: str, body: bytes, memory: Memory, counts: Counts, sender: Sender) -> None:
    if id in memory:
        counts.known += 1
        return
    sender.send(body)
    memory.add(id)  # refused ones too: they would be again


def _there(order: Order) -> list[Event]:
    """The events of the logs that are there, in order of time."""
    files_of = {"notice": find_logs(order.logs, "notice")}
    if order.verdicts:
        files_of["cmdana"] = find_logs(order.logs, "cmdana")
    every = [f for found in files_of.values() for f in found]
    if not every:
        raise CmdanaError(f"{', '.join(map(str, order.logs))}: no notice.log there")
    passed = PassedOver()
    held = Held(passed)
    marks: list[str] = []
    for stream, found in files_of.items():
        for file in found:
            rows = read_notices(file, passed) if stream == "notice" else read_rows(file, "cmdana", passed)
            for row in rows:
                if _asked(row, stream, order) and held.add(row, str(file)):
                    marks.append(stream)
    nothing_read(passed, every)
    print_passed_over(passed)
    events = [_event(row, stream) for row, stream in zip(held.rows, marks, strict=True)]
    return sorted(events, key=lambda e: e.ts)


def _followed(order: Order, worded: _Worded, memory: Memory, counts: Counts, sender: Sender) -> None:
    """Sends what is there and what comes, until Ctrl-C or SIGTERM; what waits then is not sent."""
    waiting = Waiting(counts)
    folders = [p for p in order.logs if p.is_dir()] or [order.logs[-1].parent]
    growing = {"notice": folders[-1] / "notice.log"} | (
        {"cmdana": folders[-1] / "cmdana.log"} if order.verdicts else {}
    )
    faults: list[CmdanaError] = []  # of the readers
    readers = [
        threading.Thread(target=_reads, args=(path, stream, order, worded, waiting, faults), daemon=True)
        for stream, path in growing.items()
    ]
    rotated = [p for p in find_logs(order.logs, "notice") if p.resolve() not in
               {g.resolve() for g in growing.values()}]  # fmt: skip
    passed = PassedOver()
    for file in rotated:
        for row in read_notices(file, passed):
            if _asked(row, "notice", order):
                event = of_notice(row)
                _sent(event.id, worded(event), memory, counts, sender)
    print_passed_over(passed)
    for reader in readers:
        reader.start()
    kept = time.monotonic()
    while not faults:
        item = waiting.get(_LOOK_SECONDS)
        if item is not None:
            _sent(*item, memory, counts, sender)
        if time.monotonic() - kept > _KEEP_SECONDS:
            memory.keep()
            kept = time.monotonic()
    raise faults[0]


def _reads(
    path: Path, stream: str, order: Order, worded: _Worded, waiting: Waiting, faults: list[CmdanaError]
) -> None:
    """Puts the events of a growing log into the queue; what ends it is told in `faults`."""
    try:
        for row in alerts.tail(path, stream, begin=True):
            found = completed(row) if stream == "notice" else row
            if (stream != "notice" or is_notice(row)) and _asked(found, stream, order):
                event = _event(found, stream)
                waiting.put((event.id, worded(event)))
    except (CmdanaError, OSError) as error:
        faults.append(error if isinstance(error, CmdanaError) else CmdanaError(f"{path}: {error.strerror}"))


def _asked(row: Mapping[str, Field], stream: str, order: Order) -> bool:
    if stream == "cmdana":
        if text(row, "verdict") in ("", "benign") or text(row, "stage") == "early":
            return False
        if order.incident and text(row, "incident") != order.incident:
            return False
        return (
            order.wanted.note is None
            and {**row, "note": "", "cmdana.score": number(row, "score")} in order.wanted
        )
    return row in order.wanted and order.incident in ("", text(row, "cmdana.incident"))


def _event(row: Mapping[str, Field], stream: str) -> Event:
    return of_notice(row) if stream == "notice" else of_verdict(row)


def _lines(event: bytes) -> bytes:
    return event + b"\n"


def _octets(event: bytes) -> bytes:
    """A frame of syslog over a stream: its length before it (RFC 6587, 3.4.1; RFC 5425, 4.3)."""
    return b"%d %s" % (len(event), event)
