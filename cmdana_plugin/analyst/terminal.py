"""Terminal output: progress, the notices as a table, and the summary of a replay."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from cmdana_plugin.analyst.printing import printable, whole_reasons
from cmdana_plugin.analyst.units import plural
from cmdana_plugin.logs import message, moments, notice_columns, sub_message

if TYPE_CHECKING:
    from cmdana_plugin.decision import Notice
    from cmdana_plugin.doctor import Finding
    from cmdana_plugin.logs import Found, Rewritten
    from cmdana_plugin.replay import Progress, Summary

_FILE_COLUMNS = 140  # columns where the output is no terminal
_NARROW_COLUMNS = 120  # columns below which a notice is a block of lines and not a row
_SILENCE_SECONDS = 30.0  # seconds between lines about one step where the output is no terminal
_TABLE_ROWS = 40  # notices shown; the rest are in notice.log


@contextmanager
def progress(quiet: bool = False) -> Iterator[Callable[[Summary], None]]:
    """A context with a function that shows the summary so far in a line on stderr, where that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    console = Console(stderr=True)
    with console.status("reading") as status:

        def update(summary: Summary) -> None:
            status.update(
                f"{summary.frames:,} frames, {summary.connections:,} connections, {len(summary.notices):,} notices"
            )

        yield update


@contextmanager
def hunting(quiet: bool = False) -> Iterator[Callable[[Progress], None]]:
    """A context with a function that shows how far a hunt has come, on stderr: in a line, or every half a minute."""
    if quiet:
        yield lambda _: None
        return

    def words(p: Progress) -> str:
        s = p.summary
        left = (1.0 - p.share) / p.share * p.seconds if p.share > 0.01 and not p.begun else 0.0
        return (
            f"{s.connections:,} connections, {p.share:.0%} of the logs, at {moments.shown(s.last)}, "
            f"{p.pace:,.0f} a second, {plural(len(s.notices), 'notice')}"
            + (f", about {_span(left)} left" if left >= 60 else "")
        )

    if not sys.stderr.isatty():
        told = time.monotonic()

        def line(p: Progress) -> None:
            nonlocal told
            if time.monotonic() - told >= _SILENCE_SECONDS:
                told = time.monotonic()
                print(f"cmdana: {words(p)}", file=sys.stderr, flush=True)

        yield line
        return
    with Console(stderr=True).status("reading") as status:
        yield lambda p: status.update(words(p))


@contextmanager
def steps(quiet: bool = False) -> Iterator[Callable[[str, float], None]]:
    """A context with a function of (what, share done 0..1) that shows progress: a bar, or lines without a terminal."""
    if quiet:
        yield lambda _what, _share: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        last_shown: dict[str, float] = {}  # step -> when it was last spoken of

        def line(what: str, share: float) -> None:
            now = time.monotonic()
            if what not in last_shown:
                console.print(escape(what))
            elif now - last_shown[what] >= _SILENCE_SECONDS:
                console.print(f"{escape(what)} {share:.0%}")
            else:
                return
            last_shown[what] = now

        yield line
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as bar:
        tasks: dict[str, int] = {}

        def update(what: str, share: float) -> None:
            if what not in tasks:
                tasks[what] = int(bar.add_task(escape(what), total=1.0))
            bar.update(tasks[what], completed=share)  # type: ignore[arg-type]  # rich's TaskID is an int

        yield update


def notices(rows: list[Notice], width: int) -> Table:
    """The table of notices in order of time, for a terminal of `width` columns."""
    table = notice_table(width)
    for n in sorted(rows, key=lambda r: r.ts)[:_TABLE_ROWS]:
        add_notice(table, moments.shown(n.ts), n.note, message(n), sub_message(n))
    return table


def notice_table(width: int, *, uids: bool = False, header: bool = True) -> Table:
    """An empty table for `add_notice`: columns where there is room for them, else a block for each notice."""
    table = Table(
        box=None, pad_edge=False, header_style="bold", show_header=header and width >= _NARROW_COLUMNS
    )
    if width < _NARROW_COLUMNS:
        table.add_column("notice", overflow="fold")
        return table
    table.add_column("time (UTC)", no_wrap=True)
    table.add_column("notice", no_wrap=True)
    table.add_column("what, and why")
    if uids:
        table.add_column("uid", no_wrap=True)
    return table


def add_notice(table: Table, time: str, note: str, msg: str, sub: str, uid: str = "") -> None:
    """Adds a notice to the table, its texts made safe to print."""
    kind, name = escape(printable(note.removeprefix("CMDANA::"))), escape(printable(uid))
    what, why = escape(printable(msg)), f"[dim]{escape(whole_reasons(sub))}[/dim]" if sub else ""
    if len(table.columns) == 1:
        table.add_row(f"[bold]{time}  {kind}[/bold]  {name}".rstrip())
        for line in filter(None, (what, why)):
            table.add_row(Padding(line, (0, 0, 0, 2)))
        return
    cells = [time, kind, f"{what}\n{why}" if why else what]
    table.add_row(*cells, *([name] if len(table.columns) > 3 else []))


def summary(s: Summary, out: Path, found: Found | None) -> None:
    """Prints the notices and counts of a replay."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_COLUMNS)
    shown = latest(s)
    if shown:
        console.print(notices(shown, console.width))
        if len(shown) > _TABLE_ROWS:
            console.print(f"... and {len(shown) - _TABLE_ROWS:,} more in {out / 'notice.log'}")
        console.print()
    odd = sum(n for word, n in s.verdicts.items() if word != "benign")
    span = s.last - s.first
    frames = f"in {plural(s.frames, 'frame')} " if s.frames else ""
    console.print(
        f"{plural(s.connections, 'connection')} {frames}over {_span(span)}: "
        f"{odd:,} odd at a threshold of {s.threshold:.3f}, "
        f"{plural(len(s.incidents), 'incident')} in {plural(len(s.notices), 'notice')}"
        + (f", {s.suppressed:,} repetitions suppressed" if s.suppressed else "")
        + (f", {s.allowed:,} on the allow-list" if s.allowed else "")
        + (f", evidence against {s.forgotten:,} hosts let go" if s.forgotten else "")
    )
    if s.undecoded:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in s.undecoded.most_common())
        console.print(f"passed over, cut or late: {reasons}")
    for line in not_said(s):
        console.print(escape(printable(line)))
    if found is not None:
        labelled(console, found)
    logs = ", ".join(s.logs or [str(out / name) for name in _LOGS])
    console.print(escape(printable(f"logs: {logs} (model {s.model})", 4000)))


def latest(s: Summary) -> list[Notice]:
    """One notice for each incident, as known at the end, and the notices about nothing of the kind."""
    known = {incident.id: incident for incident in s.incidents}
    first: dict[str, Notice] = {}
    for n in s.notices:
        if n.incident is not None:
            told = first.setdefault(n.identifier, n)
            now = known.get(n.identifier, n.incident)
            first[n.identifier] = replace(told, incident=now, note=n.note)
    return [*first.values(), *(n for n in s.notices if n.incident is None)]


def not_said(s: Summary) -> Iterator[str]:
    """What no incident came of: what lay just below, and what cannot be seen in this material."""
    if not s.incidents:
        yield "no incident"
    if s.nearest:
        hosts = ", ".join(f"{host} ({evidence:.1f})" for evidence, host in s.nearest)
        yield f"just below an incident, which begins at an evidence of {s.limit:.1f}: {hosts}"
    if s.unseen:
        yield f"what this material cannot show: {'; '.join(s.unseen)}"


_LOGS: Final = ("conn.log", "cmdana.log", "notice.log")  # of an engine that does not say


def converted(s: Summary) -> None:
    """Prints the outcome of converting captures."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_COLUMNS)
    console.print(f"{plural(s.connections, 'connection')} in {plural(s.frames, 'frame')}")
    if s.undecoded:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in s.undecoded.most_common())
        console.print(f"passed over, cut or late: {reasons}")
    console.print(escape(printable(f"logs: {', '.join(s.logs)}", 4000)))


def converted_object(s: Summary) -> Mapping[str, object]:
    """The same as an object for `--json`."""
    return {
        "captures": s.captures, "frames": s.frames, "bytes": s.bytes, "connections": s.connections,
        "undecoded": dict(s.undecoded), "logs": s.logs,
    }  # fmt: skip


def rewritten(done: Rewritten) -> None:
    """Prints the outcome of rewriting logs."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_COLUMNS)
    rows = ", ".join(f"{stream} {n:,}" for stream, n in done.rows.items())
    console.print(escape(printable(f"rows: {rows}", 4000)))
    console.print(escape(printable(f"logs: {', '.join(done.logs)}", 4000)))


def rewritten_object(done: Rewritten) -> Mapping[str, object]:
    """The outcome of rewriting logs as an object for `--json`."""
    return {
        "files": done.files, "rows": done.rows, "logs": done.logs, "refused": done.refused,
        "passed_over": done.passed.object(),
    }  # fmt: skip


def labelled(console: Console, found: Found) -> None:
    """Prints detections and false alarms against the labels."""
    benign, malicious = found.connections["benign"], found.connections["malicious"]
    console.print("\nagainst the capture's own labels:")
    for family, (n, flagged, noticed) in found.families.items():
        console.print(
            f"  {family:<24} {flagged:>6,} of {n:,} connections odd; {'noticed' if noticed else 'MISSED'}"
        )
    console.print(
        f"  attacks: {found.flagged['malicious']:,} of {malicious:,} connections odd; {found.true_notices} notices\n"
        f"  false alarms: {found.flagged['benign']:,} of {benign:,} benign connections odd; "
        f"{found.false_notices} notices rest on benign connections only"
    )
    if found.unlabelled or found.unscored:
        console.print(f"  without a label: {found.unlabelled:,}; labelled but not scored: {found.unscored:,}")
    for line in found.passed.lines():
        console.print(f"  {escape(printable(line))}")


def summary_object(s: Summary, out: Path, found: Found | None) -> Mapping[str, object]:
    """The same as an object for `--json`."""
    # asdict would rebuild a Counter from its pairs and count those.
    plain = asdict(replace(s, verdicts=Counter(), undecoded=Counter(), notices=[]))
    plain["nearest"] = [{"evidence": e, "host": host} for e, host in s.nearest]
    plain |= {"verdicts": dict(s.verdicts), "undecoded": dict(s.undecoded)}
    plain["notices"] = [notice_columns(n) for n in s.notices]
    whole = {
        **plain,
        "logs": s.logs or [str(out / name) for name in _LOGS],
    }
    if found is not None:
        counted = asdict(
            replace(found, connections=Counter(), flagged=Counter(), passed=type(found.passed)())
        )
        counters = {name: dict(getattr(found, name)) for name in ("connections", "flagged")}
        del counted["passed"]
        whole["labels"] = {**counted, **counters, "skipped": found.passed.object()}
    return whole


def finding(f: Finding) -> None:
    """Prints a finding of `cmdana doctor`, with advice where something is wrong or missing."""
    console = Console(highlight=False, soft_wrap=True)
    colour = "red" if f.fails else "green" if f.state == "ok" else "yellow"
    console.print(f"[{colour}]{f.state:<7}[/{colour}] {f.what}: {escape(printable(f.found))}")
    if f.advice and f.state != "ok":
        console.print(f"        [dim]{escape(f.advice)}[/dim]")


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"
