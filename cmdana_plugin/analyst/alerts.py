"""The notices of `notice.log` as a table: from Zeek or from us, TSV or JSON, rotated or growing."""

from __future__ import annotations

import heapq
import ipaddress
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cmdana_plugin.analyst import brief
from cmdana_plugin.analyst.printing import printable
from cmdana_plugin.analyst.terminal import add_notice, notice_table
from cmdana_plugin.decision import ANOMALOUS_HOST, NOTICE_TYPES
from cmdana_plugin.logs import (
    Field,
    Held,
    completed,
    find_logs,
    is_notice,
    moments,
    nothing_read,
    number,
    p_value_in,
    print_passed_over,
    read_notices,
    read_rows,
    text,
    texts,
)
from feature_extractors import CmdanaError, RecordError
from feature_extractors.readers import MAX_LINE, TOO_LONG, LogLines, PassedOver

Form = Literal["table", "json", "brief"]

_MOST_UIDS: Final = 500_000  # of incidents' connections that are known from the others
_OF_ODDEST: Final = frozenset(
    (
        "ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto", "service", "stage", "score",
        "p_value", "threshold", "verdict", "reasons", "incident", "community_id",
    )
)  # fmt: skip
_POLL_SECONDS: Final = 0.5  # seconds between looks at a growing log
_CHUNK_BYTES: Final = 1024 * 1024  # bytes of a growing log that are looked at together


@dataclass(frozen=True, slots=True)
class Filter:
    """A predicate on notices; an unset criterion admits all."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None = None
    note: str | None = None
    since: float | None = None
    until: float | None = None
    min_score: float = 0.0

    @classmethod
    def parse(
        cls,
        *,
        host: str | None,
        note: str | None,
        since: str | None,
        until: str | None,
        min_score: float = 0.0,
    ) -> Filter:
        """The filter that options of the command line describe. Raises `CmdanaError` naming the option."""
        network = None
        if host is not None:
            try:
                network = ipaddress.ip_network(host, strict=False)
            except ValueError:
                raise CmdanaError(f"--host: found {host!r}; expected an address or a network") from None
        if note is not None:
            note = note if note.startswith("CMDANA::") else f"CMDANA::{note}"
            if note not in NOTICE_TYPES:
                short = ", ".join(t.removeprefix("CMDANA::") for t in NOTICE_TYPES)
                raise CmdanaError(f"--type: found {note.removeprefix('CMDANA::')!r}; expected one of {short}")
        return cls(network, note, _time("--since", since), _time("--until", until), min_score)

    def __contains__(self, row: Mapping[str, Field]) -> bool:
        """Whether a notice, with the columns of the present version, is one of them."""
        if self.note is not None and row["note"] != self.note:
            return False
        if not self._then(row):
            return False
        if self.min_score and row["note"] != ANOMALOUS_HOST and number(row, "cmdana.score") < self.min_score:
            return False
        if self.network is None:
            return True
        named = {str(row[f]) for f in ("src", "dst", "id.orig_h", "id.resp_h") if row.get(f)}
        named.update(texts(row, "cmdana.actors"), texts(row, "cmdana.targets"))
        return any(_within(a, self.network) for a in named)

    def takes(self, row: Mapping[str, Field]) -> bool:
        """Whether a row of cmdana.log is about one of the connections that are looked for."""
        if number(row, "score") < self.min_score or not self._then(row):
            return False
        ends = (text(row, "id.orig_h"), text(row, "id.resp_h"))
        return self.network is None or any(_within(a, self.network) for a in ends)

    def _then(self, row: Mapping[str, Field]) -> bool:
        ts = number(row, "ts")
        return not (
            (self.since is not None and ts < self.since) or (self.until is not None and ts >= self.until)
        )


def show_alerts(paths: Sequence[Path], wanted: Filter, *, follow: bool, form: Form) -> None:
    """Prints the notices that `wanted` lets through, in order of time; with `follow`, those to come as well.

    Raises `RecordError` where there is no notice.log, or one that cannot be read.
    """
    # Zeek makes notice.log with its first notice: who follows may come before it.
    growing = [p / "notice.log" if p.is_dir() else p for p in paths][-1]
    files = find_logs(paths, "notice") if follow else notice_logs(paths)
    passed = PassedOver()
    held = Held(passed)
    for file in files:
        for row in read_notices(file, passed):
            if row in wanted:
                held.add(row, str(file))
    rows = sorted(held.rows, key=lambda r: number(r, "ts"))
    if not follow:
        nothing_read(passed, files)
    print_passed_over(passed)
    none = "no notices" + (" that match" if wanted != Filter() else "")
    if not follow:
        _print(rows, form, none)
        return
    try:
        _print(rows, form, none)
        for row in map(completed, filter(is_notice, tail(growing))):
            if row in wanted:
                _print([row], form)
    except KeyboardInterrupt:  # the way to end it
        return


def show_oddest(paths: Sequence[Path], wanted: Filter, n: int, *, form: Form) -> None:
    """Prints the `n` connections that were highest below the threshold, and are of no incident, oddest first.

    Raises `RecordError` where there is no cmdana.log, or one that cannot be read.
    """
    files = find_logs(paths, "cmdana")
    if not files:
        raise RecordError(f"{', '.join(map(str, paths))}: no cmdana.log there")
    passed = PassedOver()
    in_incidents: set[str] = set()  # uids of what turned out to belong to one
    found: list[tuple[float, int, Mapping[str, Field]]] = []  # a heap, the lowest first
    order = itertools.count()
    for file in files:
        for row in read_rows(file, "cmdana", passed, only=_OF_ODDEST):
            if text(row, "incident"):
                if len(in_incidents) < _MOST_UIDS:
                    in_incidents.add(text(row, "uid"))
                continue
            score, threshold = number(row, "score", math.nan), number(row, "threshold", 1.0)
            below = 0.0 <= score < threshold and text(row, "stage") == "final"
            if below and wanted.takes(row):
                heapq.heappush(found, (score, -next(order), row))
                if len(found) > 2 * n + 1000:
                    found = heapq.nlargest(n + 500, found)
                    heapq.heapify(found)
    nothing_read(passed, files)
    print_passed_over(passed)
    rows = [row for _, _, row in sorted(found, reverse=True) if text(row, "uid") not in in_incidents][:n]
    if form == "json":
        for row in rows:
            print(json.dumps(row))
        return
    if form == "brief" and rows:
        print(f"The {len(rows):,} connections highest below the threshold. {brief.HEAD}")
        for row in rows:
            print(
                f"- {moments.shown(number(row, 'ts'))} UTC; score {number(row, 'score'):.3f}; "
                f"{brief.quoted(_name(row), 120)}; uid {brief.quoted(text(row, 'uid'), 40)}"
            )
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    if not rows:
        console.print("no connection below the threshold")
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("time (UTC)", "score", "p-value", "connection", "uid"):
        table.add_column(column, no_wrap=column != "connection", overflow="fold")
    for row in rows:
        why = "; ".join(texts(row, "reasons"))
        table.add_row(
            moments.shown(number(row, "ts")),
            f"{number(row, 'score'):.3f}",
            f"{p_value_in(row):.2g}",
            escape(printable(_name(row), 120)) + (f"\n[dim]{escape(printable(why))}[/dim]" if why else ""),
            escape(printable(text(row, "uid"), 40)),
        )
    console.print(table)
    thresholds = {number(row, "threshold", 1.0) for row in rows}
    limits = " to ".join(f"{t:.3f}" for t in sorted({min(thresholds), max(thresholds)}))
    console.print(f"[dim]threshold {limits}; `cmdana explain UID` says more of one[/dim]")


def _name(row: Mapping[str, Field]) -> str:
    service = text(row, "service") or f"{text(row, 'id.resp_p')}/{text(row, 'proto')}"
    return f"{text(row, 'id.orig_h')} -> {text(row, 'id.resp_h')} {service}"


def notice_logs(paths: Iterable[Path]) -> list[Path]:
    """The notice logs named or found in the folders named, rotated ones first. Raises `RecordError` for none."""
    files = find_logs(paths, "notice")
    if not files:
        raise RecordError(f"{', '.join(map(str, paths))}: no notice.log there")
    return files


def tail(path: Path, stream: str = "notice", *, begin: bool = False) -> Iterator[Mapping[str, Field]]:
    """The records of a stream written to `path` from now on, through rotation, without end.

    The file need not exist yet. `begin` gives those first that it holds already.
    """
    passed = PassedOver()
    for row in growing(path, stream, passed, whole=begin):
        if row is not None:
            yield row
            continue
        sys.stdout.flush()
        print_passed_over(passed)
        passed.by_file.clear()
        time.sleep(_POLL_SECONDS)


def growing(
    path: Path, stream: str, passed: PassedOver, *, whole: bool = False, only: Collection[str] | None = None
) -> Iterator[Mapping[str, Field] | None]:
    """The records of a stream written to `path` from now on (with `whole`, those there are first), without end.

    None where nothing is new: the caller waits, and asks again. Through rotation; the file need not exist yet. `only`
    names the fields wanted. What is no regular file is passed over in silence. Raises `RecordError` for no Zeek log.
    """
    file: IO[bytes] | None = None
    lines = LogLines(str(path), stream, passed, only, as_bytes=True)
    if path.is_file():
        file = path.open("rb")
        if not whole:
            _header(file, lines)
    rest, ended, too_long = b"", False, False
    while True:
        chunk = file.read(_CHUNK_BYTES) if file else b""
        if chunk:
            *whole_lines, rest = (rest + chunk).split(b"\n")
            if whole_lines and too_long:  # its end
                too_long = False
                del whole_lines[0]
            if len(rest) > MAX_LINE:
                passed.add(str(path), TOO_LONG, not too_long)
                rest, too_long = b"", True
            for line in whole_lines:
                found = lines.receive(line)
                if found is not None and found[0] == stream:
                    yield found[1]
            continue
        try:
            if (file is None or ended) and path.is_file():
                following = path.open("rb")
                if file:
                    file.close()
                file, rest, ended, too_long = following, b"", False, False
                lines = LogLines(str(path), stream, passed, only, as_bytes=True)
                continue
            # What was written just before the file was moved away is read before the next one.
            ended = file is not None and path.stat().st_ino != os.fstat(file.fileno()).st_ino
        except OSError:
            ended = True
        if not ended or not path.is_file():
            yield None


def _header(file: IO[bytes], lines: LogLines) -> None:
    """Reads to the end of the file for what it says of how it is written."""
    begun = True  # at the beginning of a line
    while line := file.readline(MAX_LINE):
        if begun and (line.startswith(b"#") or not lines.has_format):
            lines.receive(line.rstrip(b"\n"))
        begun = line.endswith(b"\n")


def _print(rows: Sequence[Mapping[str, Field]], form: Form, none: str = "") -> None:
    if form == "json":
        for row in rows:
            print(json.dumps(row))
        return
    if form == "brief":
        if none:
            print(f"{len(rows):,} notices of cmdana. {brief.HEAD}" if rows else none)
        for row in rows:
            print(_brief(row))
        return
    # A pipe or a file has no width of its own; lines of it are better long than broken in three.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    if not rows:
        if none:
            console.print(none)
        return
    table = notice_table(console.width, uids=True, header=bool(none))
    for row in rows:
        when = moments.shown(number(row, "ts")) if "ts" in row else "-"
        add_notice(table, when, *(str(row.get(field, "")) for field in ("note", "msg", "sub", "uid")))
    console.print(table)


def _brief(row: Mapping[str, Field]) -> str:
    of = text(row, "cmdana.incident")
    parts = [
        moments.shown(number(row, "ts")) + " UTC",
        brief.quoted(text(row, "note").removeprefix("CMDANA::"), 40),
        brief.quoted(text(row, "msg"), 240),
        f"because {brief.quoted_all(texts(row, 'cmdana.reasons'))}" if row.get("cmdana.reasons") else "",
        f"incident {brief.quoted(of, 40)}" if of else "",
        f"uid {brief.quoted(text(row, 'uid'), 40)}" if row.get("uid") else "",
    ]
    return "- " + "; ".join(filter(None, parts))


def _within(address: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    try:
        return ipaddress.ip_address(address) in network
    except ValueError:
        return False


def _time(option: str, text: str | None) -> float | None:
    return None if text is None else moments.parsed(option, text)
