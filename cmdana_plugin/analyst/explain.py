"""Everything that the logs of a folder say about one verdict: the row, its host's history, its notices, other logs."""

from __future__ import annotations

import bisect
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from cmdana_plugin.analyst.charts import one_in
from cmdana_plugin.analyst.conn_facts import facts
from cmdana_plugin.analyst.printing import printable, whole_reasons
from cmdana_plugin.analyst.report import RELIANCES
from cmdana_plugin.analyst.unfolding import Unfolding
from cmdana_plugin.analyst.units import plural, size, when
from cmdana_plugin.decision import REVISED
from cmdana_plugin.detector import BENIGN
from cmdana_plugin.logs import (
    Field,
    Held,
    find_logs,
    number,
    p_value_in,
    read_notices,
    read_rows,
    text,
    texts,
)
from feature_extractors import RecordError
from feature_extractors.readers import (
    NO_LOG,
    SUMMARY,
    ConnRows,
    PassedOver,
    is_summary,
    log_files,
    probe,
    records,
)

Rows = Sequence[Mapping[str, Field]]

_VERDICTS_AROUND: Final = 6  # verdicts of the host shown before and after
_MAX_RELATED_ROWS: Final = 50  # rows of other logs
_MAX_NOTICES: Final = 20
_UID_BYTES: Final = 20  # of a uid in a column of `Connections`
_BAR_CHARACTERS: Final = 30  # characters of a full bar
_NOT_RELATED: Final = ("cmdana", "notice", "conn")
_STAGE_WORDS: Final = {
    "early": ", an early verdict: the connection was still open",
    REVISED: ", a verdict revised: it turned out to belong to an incident",
}
_EVERYWHERE: Final = frozenset(("ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p"))


@dataclass(frozen=True, slots=True)
class Explanation:
    """The rows of the logs about one uid, and its host's verdicts around it."""

    verdicts: Rows  # early and final, in order of time
    conn: Mapping[str, Field] | None
    before: Rows  # verdicts of the same originator
    after: Rows
    host_verdicts: int  # final verdicts of the originator in all
    host_odd: int
    notices: Rows  # that name the uid, or the originator or responder as an odd host
    related: Sequence[tuple[str, Mapping[str, Field]]]  # log stream, row
    passed: PassedOver
    unfolding: Unfolding = field(default_factory=Unfolding)  # of the incident that the connection belongs to

    @property
    def verdict(self) -> Mapping[str, Field]:
        return self.verdicts[-1]


def explain(uid: str, folder: Path, *, around: bool = True) -> Explanation:
    """What the logs of `folder` hold about `uid`; without `around` nothing of its host's and incident's other
    connections, which takes the longest. Raises `RecordError` for one that they do not hold.
    """
    scored = find_logs([folder], "cmdana")
    if not scored:
        raise RecordError(
            f"{folder}: no cmdana.log there; `cmdana replay --out DIR CAPTURE` or Zeek writes one"
        )
    passed = PassedOver()
    held = Held(passed)
    for row in _rows(scored, "cmdana", uid, passed):
        if text(row, "uid") == uid:
            held.add(row)
    verdicts = sorted(held.rows, key=_ts)
    if not verdicts:
        raise RecordError(
            f"{folder}: no verdict on uid {printable(uid, 60)} in the cmdana.log there{passed.words()}"
        )
    chosen = verdicts[-1]
    orig, resp = text(chosen, "id.orig_h"), text(chosen, "id.resp_h")
    incident = text(chosen, "incident")
    before, after, count, odd = _history(scored, orig, uid, _ts(chosen)) if around else ((), (), 0, 0)
    conns = _rows(find_logs([folder], "conn"), "conn", uid, passed)
    conn = next((r for r in conns if text(r, "uid") == uid), None)
    held = Held(passed)
    for file in find_logs([folder], "notice"):
        for row in read_notices(file, passed):
            named = incident and text(row, "cmdana.incident") == incident
            if named or text(row, "uid") == uid or text(row, "cmdana.host") in (orig, resp):
                held.add(row, str(file))
    notices = held.rows
    own = {"", incident}
    notices.sort(key=lambda r: (text(r, "cmdana.incident") not in own, text(r, "uid") != uid, _ts(r)))
    unfolding = _unfolding(folder, scored, incident) if around else Unfolding()
    related: list[tuple[str, Mapping[str, Field]]] = []
    for stream, row in _others(folder, uid, passed):
        named = any(value == uid or (isinstance(value, list) and uid in value) for value in row.values())
        if named and len(related) < _MAX_RELATED_ROWS:
            related.append((stream, row))
    return Explanation(
        verdicts, conn, before, after, count, odd, notices[:_MAX_NOTICES], related, passed, unfolding
    )


def explanation_object(found: Explanation) -> Mapping[str, object]:
    """The explanation as an object for `--json`."""
    return {
        "verdicts": list(found.verdicts),
        "usual_traffic_as_odd": one_in(p_value_in(found.verdict)),
        "conn": found.conn,
        "host": {
            "address": text(found.verdict, "id.orig_h"),
            "verdicts": found.host_verdicts,
            "odd": found.host_odd,
            "before": list(found.before),
            "after": list(found.after),
        },
        "incident": text(found.verdict, "incident") or None,
        "unfolding": [step._asdict() | {"size": _known(step.size)} for step in found.unfolding.steps()],
        "notices": list(found.notices),
        "related": [{"log": stream, "record": row} for stream, row in found.related],
        "passed_over": found.passed.object(),
    }


def show(found: Explanation, logs: Path) -> None:
    """Prints the explanation for a person; `logs` is the folder that it comes from."""
    console = Console(highlight=False)
    v = found.verdict
    _say(console, f"[bold]{escape(_name(v))}[/bold]")
    stage = _STAGE_WORDS.get(text(v, "stage"), "")
    _say(console, f"{when(_ts(v))} UTC, uid {_safe(v, 'uid')}{stage}")
    if found.conn:
        _say(console, escape(printable(facts(found.conn))))
    score, threshold, p_value = number(v, "score"), number(v, "threshold", 1.0), p_value_in(v)
    odd = (text(v, "verdict") or BENIGN) != BENIGN
    _say(console, "")
    word = f"[bold red]{_safe(v, 'verdict')}[/bold red]" if odd else "benign"
    side = "at or above" if score >= threshold else "below"
    _say(console, f"Verdict: {word}, score {score:.3f}, {side} the threshold of {threshold:.3f}")
    _say(console, f"p-value {p_value:.3g}: {_in_words(p_value)}")
    if text(v, "incident"):
        # The last notice of an incident knows most of it.
        told = [row for row in found.notices if text(row, "cmdana.incident") == text(v, "incident")]
        words = f": {_safe(max(told, key=_ts), 'msg')}" if told else ""
        _say(console, f"[bold]Part of incident {_safe(v, 'incident')}{words}[/bold]")
    reasons = texts(v, "reasons")
    if reasons:
        _say(console, "\n[bold]Why[/bold]")
        for reason in reasons:
            _say(console, f"  {escape(printable(reason))}")
    if all(v.get(name) is not None for name in RELIANCES):
        there = set(texts(v, "modalities"))
        _say(console, "\n[bold]What the score relied on[/bold]")
        for name in RELIANCES:
            kind = name.removesuffix("_reliance")
            share = min(max(number(v, name), 0.0), 1.0)
            absent = there and kind != "state" and kind not in there
            bar = "█" * round(share * _BAR_CHARACTERS)
            _say(console, f"  {kind:<11}{share:>5.0%}  {bar}{'  [dim]not there[/dim]' if absent else ''}")
    host = escape(printable(text(v, "id.orig_h")))
    _say(
        console,
        f"\n[bold]{host} around that time[/bold] "
        f"({plural(found.host_verdicts, 'connection')} opened in all, {found.host_odd:,} odd)",
    )
    console.print(_timeline(found))
    if len(found.unfolding.points) > 1:
        _say(console, f"\n[bold]How incident {_safe(v, 'incident')} unfolded[/bold] (hosts and ports so far)")
        console.print(_course(found.unfolding))
    if found.notices:
        _say(console, "\n[bold]Notices about it, or about its hosts[/bold]")
        for row in found.notices:
            kind = escape(printable(text(row, "note").removeprefix("CMDANA::")))
            _say(console, f"  {when(_ts(row))}  {kind}: {_safe(row, 'msg')}")
            if text(row, "sub"):
                _say(console, f"  [dim]{escape(whole_reasons(text(row, 'sub')))}[/dim]")
    if found.related:
        _say(console, "\n[bold]Other logs[/bold]")
        for stream, row in found.related:
            shown = ", ".join(
                f"{k}={printable(_value(value), 80)}"
                for k, value in row.items()
                if k not in _EVERYWHERE and value not in (None, "", [])
            )
            _say(console, f"  [bold]{escape(stream)}[/bold]  {escape(printable(shown, 600))}")
    folder = "" if logs == Path() else escape(printable(shlex.quote(str(logs))))
    if text(v, "incident"):
        hint = f"cmdana decide {_safe(v, 'incident')} known {folder}".rstrip()
        _say(console, f"\nIf the incident is fine: [bold]{hint}[/bold]; --allow says it for what is like it")
    elif odd:
        hint = f"cmdana label {_safe(v, 'uid')} benign{f' --logs {folder}' if folder else ''}"
        _say(console, f"\nIf it is fine: [bold]{hint}[/bold]; --allow says it for all like it")
    for line in found.passed.lines():
        _say(console, f"[dim]{escape(printable(line))}[/dim]")


def _unfolding(folder: Path, scored: Sequence[Path], incident: str) -> Unfolding:
    found = Unfolding()
    if not incident:
        return found
    for row in _rows(scored, "cmdana", incident, PassedOver()):  # counted before
        if text(row, "incident") == incident and row.get("stage") != "early":
            found.add(row)
    wanted = {p.uid.encode()[:_UID_BYTES]: p.uid for p in found.points}
    for file in find_logs([folder], "conn"):
        for c in ConnRows(file, PassedOver()).blocks():
            for i, name in enumerate(c.uid.tolist()):
                if (uid := wanted.get(name)) is not None:
                    found.sizes[uid] = float(max(int(c.orig_bytes[i]), 0) + max(int(c.resp_bytes[i]), 0))
    return found


def _known(x: float) -> float | None:
    return x if x == x else None


def _rows(
    files: Sequence[Path], stream: str, containing: str, passed: PassedOver
) -> Iterator[Mapping[str, Field]]:
    for file in files:
        yield from read_rows(file, stream, passed, containing=containing)


def _history(files: Sequence[Path], orig: str, uid: str, at: float) -> tuple[Rows, Rows, int, int]:
    """The final verdicts on `orig` nearest in time before and after `at`, how many there are, and how many odd."""
    before: list[tuple[float, int, Mapping[str, Field]]] = []
    after: list[tuple[float, int, Mapping[str, Field]]] = []
    count = odd = 0
    for i, row in enumerate(_rows(files, "cmdana", orig, PassedOver())):  # counted before
        if text(row, "id.orig_h") != orig or row.get("stage") in ("early", REVISED):
            continue
        count += 1
        odd += (text(row, "verdict") or BENIGN) != BENIGN
        if text(row, "uid") == uid:
            continue
        ts = _ts(row)
        near, drop = (before, 0) if ts <= at else (after, -1)
        bisect.insort(near, (ts, i, row))
        if len(near) > _VERDICTS_AROUND:
            del near[drop]
    return [r for _, _, r in before], [r for _, _, r in after], count, odd


def _others(folder: Path, uid: str, passed: PassedOver) -> Iterator[tuple[str, Mapping[str, Field]]]:
    """Stream and record of the other logs of the folder on lines with the uid, in the order of the files' names."""
    for file in log_files(folder):
        about = probe(file)
        if about.refused:
            passed.add(str(file), NO_LOG)
        elif is_summary(about.stream):
            passed.add(str(file), SUMMARY)
        elif about.others or about.stream not in _NOT_RELATED:
            counts = passed if about.stream not in _NOT_RELATED else PassedOver()
            for stream, row in records(file, counts, containing=uid, as_bytes=True):
                if stream not in _NOT_RELATED:
                    yield stream, row


def _course(unfolding: Unfolding) -> Table:
    """An incident in steps of equal length, with a bar for the connections of each; a date where it is another one."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("time (UTC)", "connections", "", "oddest p", "hosts", "ports", "bytes"):
        table.add_column(column, no_wrap=True)
    steps = unfolding.steps()
    most, date = max(step.connections for step in steps), ""
    for step in steps:
        begin = when(step.begin)
        same, date = begin[:10] == date, begin[:10]
        table.add_row(
            f"{begin[11:]:>{len(begin)}}" if same else begin,
            f"{step.connections:,}",
            "█" * max(round(step.connections / most * _BAR_CHARACTERS / 3), 1),
            f"{10.0**-step.evidence:.0e}",
            f"{step.targets:,}",
            f"{step.ports:,}",
            size(step.size) if step.size == step.size else "",
        )
    return table


def _timeline(found: Explanation) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("", "time (UTC)", "to", "score", ""):
        table.add_column(column, no_wrap=True)
    at = _ts(found.verdict)
    rows = [*found.before, found.verdict, *found.after]
    for row in rows:
        this = row is found.verdict
        score = number(row, "score")
        odd = (text(row, "verdict") or BENIGN) != BENIGN
        style = "bold" if this else "" if odd else "dim"
        service = text(row, "service") or f"{text(row, 'id.resp_p')}/{text(row, 'proto')}"
        gap = _ts(row) - at
        table.add_row(
            ">" if this else "",
            when(_ts(row)) if this else f"{'+' if gap >= 0 else '-'}{_gap(abs(gap))}",
            escape(printable(f"{text(row, 'id.resp_h')} {service}", 60)),
            f"{score:.3f}",
            f"[red]{escape(printable(text(row, 'verdict'), 40))}[/red]" if odd else "",
            style=style,
        )
    return table


def _say(console: Console, line: str) -> None:
    if not console.is_terminal:
        console.print(line, highlight=False, soft_wrap=True)
        return
    indent = len(line) - len(line.lstrip(" "))
    console.print(Padding(line.lstrip(" "), (0, 0, 0, indent)), highlight=False)


def _safe(row: Mapping[str, Field], field: str) -> str:
    return escape(printable(text(row, field)))


def _name(row: Mapping[str, Field]) -> str:
    orig, resp = text(row, "id.orig_h"), text(row, "id.resp_h")
    service = f" ({text(row, 'service')})" if text(row, "service") else ""
    return printable(
        f"{orig}:{text(row, 'id.orig_p')} -> {resp}:{text(row, 'id.resp_p')}/{text(row, 'proto')}{service}"
    )


def _in_words(p_value: float) -> str:
    if p_value >= 0.5:
        return "as usual as most of the traffic that the model was calibrated on"
    return f"of the traffic that the model was calibrated on, about {one_in(p_value)} connections is as odd or odder"


def _value(value: Field) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _gap(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _ts(row: Mapping[str, Field]) -> float:
    return number(row, "ts")
