"""The queue on a terminal: a table, JSON objects, or text for language models; and what comes to it, as it comes."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from cmdana_plugin.analyst import alerts, brief, printable, units
from cmdana_plugin.desk.incidents import Incidents
from cmdana_plugin.desk.queue import Entry, Wanted, entry_object, queue
from cmdana_plugin.desk.store import Store
from cmdana_plugin.logs import completed, is_notice, moments

Form = Literal["table", "json", "brief"]

_FILE_COLUMNS = 140  # columns where the output is no terminal
_COLOURS = {"open": "bold", "malicious": "bold red", "acknowledged": "cyan"}


def show(
    entries: Sequence[Entry], wanted: Wanted, form: Form, most: int, budget: float, logs: Path = Path()
) -> None:
    """Prints the entries that are wanted, `most` at most, those ahead of their day first; of `logs`."""
    found = [e for e in entries if wanted.takes(e)]
    ahead = sum(e.ahead for e in found)
    if form == "json":
        for e in found[:most]:
            print(json.dumps(entry_object(e)))
        return
    if form == "brief":
        print(
            f"{min(len(found), most):,} of {len(entries):,} incidents of cmdana, most urgent first. {brief.HEAD}"
        )
        for e in found[:most]:
            print(in_brief(e))
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_COLUMNS)
    if not found:
        console.print(
            "no incident"
            + ("" if not entries else f" of this kind; {units.plural(len(entries), 'incident')} in all")
        )
        return
    lines(console, found[:most], logs)
    more = [f"{ahead:,} within the budget of {budget:g} a day", f"{len(found) - ahead:,} beyond"]
    if len(found) > most:
        more.append(f"{len(found) - most:,} not shown (--most)")
    console.print(f"[dim]{units.plural(len(found), 'incident')}: {', '.join(more)}[/dim]")


def follow(folder: Path, so_far: Incidents, wanted: Wanted, form: Form, store: Store, budget: float) -> None:
    """Prints incidents as notices tell of them, from now on, without end."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_COLUMNS)
    for row in filter(is_notice, alerts.tail(folder / "notice.log" if folder.is_dir() else folder)):
        told = so_far.receive(completed(row))
        if told is None:
            continue
        entries = queue(list(so_far.of.values()), store.decisions(), {}, budget)
        found = [e for e in entries if e.incident is told and wanted.takes(e)]
        if form == "table":
            lines(console, found, folder)
        for e in found if form != "table" else ():
            print(json.dumps(entry_object(e)) if form == "json" else in_brief(e), flush=True)


def lines(console: Console, entries: Sequence[Entry], logs: Path = Path()) -> None:
    """Prints entries, each with its first reasons below it, and the command that explains it with what is in `logs`."""
    for e in entries:
        i = e.incident
        mark = "[bold]●[/bold]" if e.ahead else "[dim]○[/dim]"
        state = e.decision.state + (", grown since" if e.grown else "")
        colour = _COLOURS.get(e.decision.state, "dim")
        head = Table.grid(padding=(0, 2), expand=False)
        for _ in range(5):
            head.add_column(no_wrap=True)
        head.add_row(
            mark, f"{e.rank.total:4.1f}", f"{moments.shown(i.first)}",
            f"[{colour}]{state}[/{colour}]", f"[dim]{escape(printable(i.id, 40))}[/dim]",
        )  # fmt: skip
        console.print(head)
        console.print(Padding(f"[bold]{escape(printable(i.title, 240))}[/bold]", (0, 0, 0, 9)))
        for line in _below(e, logs):
            console.print(Padding(line, (0, 0, 0, 9)))


def in_brief(e: Entry) -> str:
    """One entry on one line, what is quoted from traffic marked."""
    i = e.incident
    of = [
        f"rank {e.rank.total:.1f} ({', '.join(e.rank.words)})",
        f"{e.decision.state}{' and grown since' if e.grown else ''}",
        f"{units.between(i.first, i.last)} UTC",
        brief.quoted(i.title, 240),
        f"kind {brief.quoted(i.kind, 40)}" if i.kind else "",
        f"{units.plural(i.connections, 'connection')}, {i.odd:,} odd",
        f"hosts {brief.quoted_all(i.actors)}",
        f"toward {brief.quoted_all(i.targets)}" if i.targets else "",
        f"services {brief.quoted_all(i.services, 40)}" if i.services else "",
        f"evidence {i.evidence:.1f}, limit {i.limit or 0.0:.1f}" if i.evidence is not None else "",
        f"because {brief.quoted_all(i.reasons)}" if i.reasons else "",
        f"MITRE ATT&CK {brief.quoted(i.technique, 20)}" if i.technique else "",
        f"uid {brief.quoted(i.uid, 40)}" if i.uid else "",
        f"note {json.dumps(e.decision.note, ensure_ascii=False)}" if e.decision.note else "",
    ]
    return f"- incident {brief.quoted(i.id, 64)}: " + "; ".join(filter(None, of))


def _below(e: Entry, logs: Path) -> Iterator[str]:
    i = e.incident
    for reason in i.reasons[:3]:
        yield escape(printable(reason, 240))
    facts = [f"rank: {', '.join(e.rank.words)}"]
    if i.technique:
        facts.append(f"ATT&CK {printable(i.technique, 20)}")
    yield f"[dim]{escape('; '.join(facts))}[/dim]"
    if i.uid:
        folder = logs if logs.is_dir() else logs.parent
        where = "" if folder == Path() else f" {printable(shlex.quote(str(folder)))}"
        yield f"[dim]{escape(f'cmdana explain {printable(i.uid, 40)}{where}')}[/dim]"
    if e.decision.note:
        when = moments.shown(e.decision.at)
        yield f"[dim]{escape(printable(f'{e.decision.who}, {when}: {e.decision.note}', 400))}[/dim]"
