"""The notices of `notice.log` as a table: from Zeek or from us, TSV or JSON, rotated or growing."""

from __future__ import annotations

import ipaddress
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

from rich.console import Console

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
    print_passed_over,
    read_notices,
    texts,
)
from feature_extractors import CmdanaError, RecordError
from feature_extractors.readers import MAX_LINE, TOO_LONG, LogLines, PassedOver

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
        ts = number(row, "ts")
        if (self.since is not None and ts < self.since) or (self.until is not None and ts >= self.until):
            return False
        if self.min_score and row["note"] != ANOMALOUS_HOST and number(row, "cmdana.score") < self.min_score:
            return False
        if self.network is None:
            return True
        named = {str(row[f]) for f in ("src", "dst", "id.orig_h", "id.resp_h") if row.get(f)}
        named.update(texts(row, "cmdana.actors"), texts(row, "cmdana.targets"))
        return any(_within(a, self.network) for a in named)


def show_alerts(paths: Sequence[Path], wanted: Filter, *, follow: bool, as_json: bool) -> None:
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
        _print(rows, as_json, none)
        return
    try:
        _print(rows, as_json, none)
        for row in map(completed, filter(is_notice, tail(growing))):
            if row in wanted:
                _print([row], as_json)
    except KeyboardInterrupt:  # the way to end it
        return


def notice_logs(paths: Iterable[Path]) -> list[Path]:
    """The notice logs named or found in the folders named, rotated ones first. Raises `RecordError` for none."""
    files = find_logs(paths, "notice")
    if not files:
        raise RecordError(f"{', '.join(map(str, paths))}: no notice.log there")
    return files


def tail(path: Path) -> Iterator[Mapping[str, Field]]:
    """The records written to `path` from now on, through rotation, without end; the file need not exist yet."""
    file: IO[bytes] | None = None
    passed = PassedOver()
    lines = LogLines(str(path), "notice", passed, as_bytes=True)
    if path.exists():
        file = path.open("rb")
        _header(file, lines)
    rest, ended, too_long = b"", False, False
    while True:
        chunk = file.read(_CHUNK_BYTES) if file else b""
        if chunk:
            *whole, rest = (rest + chunk).split(b"\n")
            if whole and too_long:  # its end
                too_long = False
                del whole[0]
            if len(rest) > MAX_LINE:
                passed.add(str(path), TOO_LONG, not too_long)
                rest, too_long = b"", True
            for line in whole:
                found = lines.receive(line)
                if found is not None and found[0] == "notice":
                    yield found[1]
            sys.stdout.flush()
            print_passed_over(passed)
            passed.by_file.clear()
            continue
        try:
            if file is None or ended:
                following = path.open("rb")
                if file:
                    file.close()
                file, rest, ended, too_long = following, b"", False, False
                lines = LogLines(str(path), "notice", passed, as_bytes=True)
                continue
            # What was written just before the file was moved away is read before the next one.
            ended = path.stat().st_ino != os.fstat(file.fileno()).st_ino
        except FileNotFoundError:
            ended = True
        if not ended or not path.exists():
            time.sleep(_POLL_SECONDS)


def _header(file: IO[bytes], lines: LogLines) -> None:
    """Reads to the end of the file for what it says of how it is written."""
    begun = True  # at the beginning of a line
    while line := file.readline(MAX_LINE):
        if begun and (line.startswith(b"#") or not lines.has_format):
            lines.receive(line.rstrip(b"\n"))
        begun = line.endswith(b"\n")


def _print(rows: Sequence[Mapping[str, Field]], as_json: bool, none: str = "") -> None:
    if as_json:
        for row in rows:
            print(json.dumps(row))
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


def _within(address: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    try:
        return ipaddress.ip_address(address) in network
    except ValueError:
        return False


def _time(option: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise CmdanaError(f"{option}: found {text!r}; expected a time such as 2026-11-22T14:00") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
