"""One self-contained page about what the logs of a folder say: no network access and no script needed to read it."""

from __future__ import annotations

import base64
import hashlib
import math
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Final

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from cmdana_plugin import files
from cmdana_plugin.analyst import charts, units
from cmdana_plugin.analyst.conn_facts import facts, record
from cmdana_plugin.analyst.printing import printable
from cmdana_plugin.analyst.timeline import Timeline
from cmdana_plugin.analyst.unfolding import Unfolding, Unfoldings
from cmdana_plugin.decision import (
    ANOMALOUS_HOST,
    DETECTOR_BACK,
    DETECTOR_LOST,
    NOTICE_TYPES,
    REVISED,
    TRAFFIC_DRIFT,
)
from cmdana_plugin.detector import BENIGN
from cmdana_plugin.logs import (
    Field,
    LogError,
    completed,
    find_logs,
    moments,
    number,
    p_value_in,
    read_rows,
    text,
    texts,
    title,
)
from feature_extractors import RecordError
from feature_extractors.readers import ConnRows, PassedOver

RELIANCES: Final = ("packet_reliance", "connection_reliance", "log_reliance", "state_reliance")
BINS: Final = 50  # of the score histogram, over 0..1

_CALIBRATION_P_VALUES: Final = (0.1, 0.01, 0.001, 0.0001)  # p-values at which calibration is checked
_MAX_HOSTS: Final = 200_000  # distinct hosts counted
_MAX_NAMES: Final = 500  # distinct services, models, verdicts counted
_MAX_DAYS: Final = 50_000  # days with notices counted, the first ones met
_MAX_INCIDENTS: Final = 5_000  # incidents held
_MAX_ODD_CONNECTIONS: Final = 2_000  # odd connections held, to name the oddest
_MAX_CHARACTERS: Final = 1_000  # characters of anything held
_MAX_REASONS: Final = 8  # held of one connection or notice
_SHOWN_INCIDENTS: Final = 50
_OPEN_INCIDENTS: Final = 2  # unfolded at once; the others are a line each
_SHOWN_ODD_CONNECTIONS: Final = 20
_SHOWN_HOSTS: Final = 12
_SHOWN_SERVICES: Final = 12
_SHOWN_DAYS: Final = 60
_UID_BYTES: Final = 20  # of a uid in a column of `Connections`
_NO_DATE: Final = "no time, or one out of range"

_CMDANA_FIELDS: Final = frozenset(
    (
        "ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto", "service", "stage", "score",
        "p_value", "threshold", "verdict", "reasons", "model", "incident", *RELIANCES,
    )
)  # fmt: skip


@dataclass(slots=True)
class Row:
    """One odd connection, or the connection that an incident was noticed by."""

    ts: float
    uid: str
    name: str  # originator -> responder service
    score: float
    p_value: float
    verdict: str
    reasons: Sequence[str]
    reliance: Sequence[float]
    facts: str = ""  # from conn.log, in words


@dataclass(slots=True)
class Incident:
    """The notices of one incident; of older logs, of one type about one host, or about one originator, responder and
    port. Words of the latest.
    """

    note: str  # without CMDANA::
    first: float
    last: float
    msg: str
    sub: str
    title: str  # `msg` without the score, which the page gives beside it
    reasons: Sequence[str]
    latest: Sequence[str]  # reasons of the latest connection of a host's incident
    evidence: (
        float | None
    )  # of a host's incident: -log10 of the share of normal hosts' hours that hold as much
    uid: str  # of the connection that the latest notice was raised by
    n: int  # odd connections behind it
    notices: int = 1
    trigger: Row | None = None
    id: str = ""
    kind: str = ""
    technique: str = ""
    limit: float | None = None  # of the evidence, where an incident begins
    lasted: tuple[float, float] | None = None  # first and last seen
    targets: Sequence[str] = ()
    times: list[float] = field(default_factory=list)  # of its notices

    @property
    def merged(self) -> bool:
        return bool(self.id) or self.note == "Anomalous_Host"


@dataclass(slots=True)
class Seen:
    """The statistics of the logs of a folder, of bounded size; of final verdicts unless said otherwise."""

    connections: int = 0
    early: int = 0  # early verdicts
    odd: int = 0
    first: float = math.inf  # seconds since the epoch
    last: float = -math.inf
    threshold: float | None = None  # the latest
    thresholds: set[float] = field(default_factory=set)
    models: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    services: dict[str, list[int]] = field(default_factory=dict)  # service -> [connections, odd]
    hosts: set[str] = field(default_factory=set)
    scores: list[int] = field(default_factory=lambda: [0] * BINS)
    # connections with p at or below each
    tails: list[int] = field(default_factory=lambda: [0] * len(_CALIBRATION_P_VALUES))
    odd_reliance: list[float] = field(default_factory=lambda: [0.0] * 5)  # sums of four, and how many
    # connections, odd, with reliance, its four sums
    time: Timeline = field(default_factory=lambda: Timeline(7))
    # "originator|10.0.0.5" -> odd connections
    odd_hosts: Timeline = field(default_factory=lambda: Timeline(1))
    oddest: dict[str, Row] = field(default_factory=dict)  # originator -> its oddest connection
    conn: int = 0  # rows of conn.log
    bytes: float = 0.0  # of IP packets, or of payload where conn.log does not say
    packets: float = 0.0
    incidents: dict[tuple[str, str], Incident] = field(default_factory=dict)
    dropped_incidents: int = 0
    notices: int = 0
    # "originator|10.0.0.5" -> times of its notices
    noticed: dict[str, list[float]] = field(default_factory=dict)
    days: Counter[str] = field(default_factory=Counter)  # date -> notices that count against the budget
    health: list[tuple[float, str, str]] = field(default_factory=list)  # drift and lost detectors, 50 at most
    files: list[tuple[str, int]] = field(default_factory=list)  # log file, rows
    passed: PassedOver = field(default_factory=PassedOver)
    unfoldings: Unfoldings = field(default_factory=Unfoldings)


def gather(folder: Path, progress: Callable[[str, float], None] = lambda _what, _share: None) -> Seen:
    """The statistics of notice.log, cmdana.log and conn.log of the folder, rotated ones too, in one pass each.

    Raises `RecordError` where there is no cmdana.log, or a file that is no Zeek log.
    """
    scored = find_logs([folder], "cmdana")
    if not scored:
        raise RecordError(
            f"{folder}: no cmdana.log there; `cmdana replay --out DIR CAPTURE` or Zeek writes one"
        )
    seen = Seen()
    _each(seen, find_logs([folder], "notice"), "notice", None, lambda row: _notice(seen, row), progress)
    triggers: dict[str, list[Incident]] = {}
    for incident in seen.incidents.values():
        triggers.setdefault(incident.uid or "-", []).append(incident)
    _each(seen, scored, "cmdana", _CMDANA_FIELDS, lambda row: _verdict(seen, row, triggers), progress)
    if not seen.connections and not seen.early and any(str(file) in seen.passed.by_file for file in scored):
        raise RecordError(f"{folder}: no verdict could be read{seen.passed.words()}")
    shown = {i.trigger.uid: i.trigger for i in seen.incidents.values() if i.trigger}
    sized = seen.unfoldings.wanted()
    _connections(seen, find_logs([folder], "conn"), shown, sized, progress)
    return seen


def render(
    seen: Seen,
    folder: Path,
    alerts_per_day: float,
    said: Mapping[str, Mapping[str, int]] | None = None,
) -> str:
    """The page as HTML. Notices are counted against `alerts_per_day`; `said` counts verdicts by what labels say."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates = resources.files("cmdana_plugin.analyst") / "templates"
    style = (templates / "report.css").read_text(encoding="utf-8")
    environment.filters |= {
        name: getattr(units, name)
        for name in ("when", "between", "count", "size", "span", "plural", "percent")
    }
    environment.filters |= {"shown": printable, "one_in": charts.one_in, "word": shlex.quote}
    template = environment.from_string((templates / "report.html.j2").read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return template.render(
        style=Markup(style),  # noqa: S704  # our own file
        style_digest=digest,
        folder=printable(str(folder)),
        seen=seen,
        budget=alerts_per_day,
        made=units.when(datetime.now(UTC).timestamp()),
        most_hosts=_MAX_HOSTS,
        incidents=_ranked(seen)[:_SHOWN_INCIDENTS],
        opened=_OPEN_INCIDENTS,
        extent=lambda i: charts.extent(i.first, i.last, _span_of(seen)),
        against=lambda i: charts.meter(
            f"evidence {i.evidence:.1f}, limit {i.limit:.1f}", i.evidence, i.limit
        ),
        unfolded=lambda i: _unfolded(seen, i),
        meter=lambda n: charts.meter(f"{n:,} of a budget of {alerts_per_day:g}", n, alerts_per_day),
        lasted=units.span(seen.last - seen.first) if seen.connections else "",
        oddest=_oddest(seen),
        services=_services(seen),
        tails=[(p, n) for p, n in zip(_CALIBRATION_P_VALUES, seen.tails, strict=True)],
        days=_budget(seen),
        reliance=_mean_reliance(seen),
        pictures=_pictures(seen, alerts_per_day) if seen.connections else {},
        host_lanes=min(_SHOWN_HOSTS, len({key for key, _ in seen.odd_hosts.cells})),
        hosts_odd=len({key for key, _ in seen.odd_hosts.cells}),
        truth=charts.matrix("Verdicts by what the labels say", said, BENIGN) if said else "",
    )


def write(page: str, path: Path) -> None:
    """Writes the page in one move. Raises `LogError` when it cannot be written."""
    try:
        files.replace(path, page.encode())
    except OSError as error:
        raise LogError(f"{path}: cannot be written: {error.strerror}") from None


def summary_object(seen: Seen, path: Path, alerts_per_day: float) -> Mapping[str, object]:
    """The page's numbers as an object for `--json`."""
    return {
        "report": str(path),
        "connections": seen.connections,
        "early_verdicts": seen.early,
        "odd": seen.odd,
        "first": seen.first if seen.connections else None,
        "last": seen.last if seen.connections else None,
        "threshold": seen.threshold,
        "models": dict(seen.models),
        "verdicts": dict(seen.verdicts),
        "notices": seen.notices,
        "notices_per_day": dict(sorted(seen.days.items())),
        "alerts_per_day": alerts_per_day,
        "incidents": [
            {
                "note": i.note,
                "first": i.first,
                "last": i.last,
                "msg": i.msg,
                "sub": i.sub,
                "uid": i.uid,
                "n": i.n,
            }
            for i in _ranked(seen)[:_SHOWN_INCIDENTS]
        ],
        "files": [{"path": name, "rows": rows} for name, rows in seen.files],
        "passed_over": seen.passed.object(),
    }


def _each(
    seen: Seen,
    files: Sequence[Path],
    stream: str,
    only: frozenset[str] | None,
    take: Callable[[Mapping[str, Field]], None],
    progress: Callable[[str, float], None],
) -> None:
    for k, file in enumerate(files):
        rows = 0
        for row in read_rows(file, stream, seen.passed, only):
            # Times from a log are the traffic's: a row without a time that a calendar knows cannot be placed.
            if not 0 <= number(row, "ts", -1.0) <= moments.LATEST:
                seen.passed.add(str(file), _NO_DATE)
                continue
            take(row)
            rows += 1
        seen.files.append((str(file), rows))
        progress(f"reading {stream}.log", (k + 1) / len(files))


def _notice(seen: Seen, row: Mapping[str, Field]) -> None:
    note = text(row, "note")
    if note not in NOTICE_TYPES:
        return
    row, ts = completed(row), number(row, "ts")
    msg, sub = text(row, "msg")[:_MAX_CHARACTERS], text(row, "sub")[: 4 * _MAX_CHARACTERS]
    if note in (TRAFFIC_DRIFT, DETECTOR_LOST, DETECTOR_BACK):
        if len(seen.health) < 50:
            seen.health.append((ts, note.removeprefix("CMDANA::"), f"{msg} {sub}".strip()))
        return
    seen.notices += 1
    day = _date(ts)
    if day in seen.days or len(seen.days) < _MAX_DAYS:
        seen.days[day] += 1
    src, dst = text(row, "src")[:64], text(row, "dst")[:64]
    host = text(row, "cmdana.host")[:64]
    who = f"{text(row, 'cmdana.role')}|{host}"[:80] if host else f"originator|{src}"
    times = seen.noticed.setdefault(who, []) if len(seen.noticed) < _MAX_INCIDENTS else []
    if len(times) < 200:
        times.append(ts)
    mark = text(row, "cmdana.incident")[:64]
    about = (
        mark or who
        if note == ANOMALOUS_HOST or mark
        else f"{src}|{dst}|{text(row, 'p')}/{text(row, 'proto')}"
    )
    if mark:
        note = ANOMALOUS_HOST
    known = seen.incidents.get((note, about))
    if known is None and len(seen.incidents) >= _MAX_INCIDENTS:
        seen.dropped_incidents += 1
        return
    latest = Incident(
        text(row, "note").removeprefix("CMDANA::"), ts, ts, msg, sub, title(row)[:_MAX_CHARACTERS],
        _cut(row, "cmdana.reasons"), _cut(row, "cmdana.latest_reasons"),
        number(row, "cmdana.evidence") if "cmdana.evidence" in row else None,
        text(row, "uid")[:_MAX_CHARACTERS], max(int(number(row, "n")), 1), id=mark, kind=text(row, "cmdana.kind")[:80],
        technique=text(row, "cmdana.technique")[:40], targets=_cut(row, "cmdana.targets"),
        limit=number(row, "cmdana.limit") if "cmdana.limit" in row else None,
        lasted=(number(row, "cmdana.first_seen"), number(row, "cmdana.last_seen")) if mark else None, times=[ts],
    )  # fmt: skip
    if known is not None:
        latest, older = (latest, known) if ts >= known.last else (known, latest)
        latest.first, latest.n = min(latest.first, older.first), max(latest.n, older.n)
        latest.notices = known.notices + 1
        latest.times = sorted([*older.times, *latest.times])[:200]
    seen.incidents[note, about] = latest


def _cut(row: Mapping[str, Field], field: str) -> list[str]:
    """A vector of texts, short enough to be held."""
    return [reason[:_MAX_CHARACTERS] for reason in texts(row, field)[:_MAX_REASONS]]


def _verdict(seen: Seen, row: Mapping[str, Field], triggers: Mapping[str, Sequence[Incident]]) -> None:
    ts = number(row, "ts")
    score, p_value = number(row, "score", math.nan), p_value_in(row, math.nan)
    if not (0 <= score <= 1 and 0 <= p_value <= 1):
        seen.passed.add("cmdana.log", "score or p_value missing or out of range")
        return
    verdict = text(row, "verdict") or BENIGN
    odd = verdict != BENIGN
    reliance = [number(row, name, math.nan) for name in RELIANCES]
    known_reliance = all(0 <= r <= 1 for r in reliance)
    raised = triggers.get(text(row, "uid")[:_MAX_CHARACTERS], ())
    if odd or raised:
        found = _row(row, ts, score, p_value, verdict, reliance if known_reliance else ())
        for incident in raised:
            if incident.trigger is None or score >= incident.trigger.score:
                incident.trigger = found
        if odd:
            _keep_oddest(seen, found)
    seen.unfoldings.verdict(row)
    if row.get("stage") == "early":
        seen.early += 1
    if row.get("stage") in ("early", REVISED):
        return
    seen.connections += 1
    seen.first, seen.last = min(seen.first, ts), max(seen.last, ts)
    threshold = row.get("threshold")
    if isinstance(threshold, float) and 0 <= threshold <= 1:
        seen.threshold = threshold
        if len(seen.thresholds) < 100:
            seen.thresholds.add(threshold)
    orig, resp = text(row, "id.orig_h")[:64], text(row, "id.resp_h")[:64]
    if len(seen.hosts) < _MAX_HOSTS:
        seen.hosts.add(orig)
        seen.hosts.add(resp)
    _tally(seen.models, text(row, "model"))
    _tally(seen.verdicts, verdict)
    service = text(row, "service") or f"{text(row, 'id.resp_p')}/{text(row, 'proto')}"
    service = service[:64]
    if service not in seen.services and len(seen.services) >= _MAX_NAMES:
        service = "others"
    counts = seen.services.setdefault(service, [0, 0])
    counts[0] += 1
    seen.scores[min(int(score * BINS), BINS - 1)] += 1
    for i, tail in enumerate(_CALIBRATION_P_VALUES):
        if p_value > tail:
            break
        seen.tails[i] += 1
    sums = reliance if known_reliance else (0.0, 0.0, 0.0, 0.0)
    seen.time.add("", ts, 1.0, odd, known_reliance, *sums)
    if odd:
        seen.odd += 1
        counts[1] += 1
        if known_reliance:
            for i, r in enumerate((*reliance, 1.0)):
                seen.odd_reliance[i] += r
        seen.odd_hosts.add(f"originator|{orig}", ts, 1.0)
        seen.odd_hosts.add(f"responder|{resp}", ts, 1.0)


def _connections(
    seen: Seen,
    files: Sequence[Path],
    shown: Mapping[str, Row],
    sized: Mapping[str, Unfolding],
    progress: Callable[[str, float], None],
) -> None:
    """Adds up the columns of conn.log, and puts those connections into words that the page shows."""
    by_uid = {uid.encode()[:_UID_BYTES]: uid for uid in (*shown, *sized)}
    for k, file in enumerate(files):
        rows = 0
        for c in ConnRows(file, seen.passed).blocks():
            dated = (c.ts >= 0.0) & (c.ts <= moments.LATEST)
            seen.passed.add(str(file), _NO_DATE, int(np.count_nonzero(~dated)))
            for packets, ip_bytes, payload in (
                (c.orig_pkts, c.orig_ip_bytes, c.orig_bytes),
                (c.resp_pkts, c.resp_ip_bytes, c.resp_bytes),
            ):
                sent = np.where(ip_bytes > 0, ip_bytes, payload)
                seen.bytes += float(sent[dated & (sent > 0)].sum(dtype=np.float64))
                seen.packets += float(packets[dated & (packets > 0)].sum(dtype=np.float64))
            rows += int(np.count_nonzero(dated))
            uids = c.uid.tolist()
            if not by_uid.keys().isdisjoint(uids):
                for i in np.flatnonzero(dated).tolist():
                    uid = by_uid.get(uids[i])
                    if uid is None:
                        continue
                    row = record(c, i)
                    if uid in shown:
                        shown[uid].facts = facts(row)
                    if uid in sized:
                        sized[uid].sizes[uid] = number(row, "orig_bytes") + number(row, "resp_bytes")
        seen.conn += rows
        seen.files.append((str(file), rows))
        progress("reading conn.log", (k + 1) / len(files))


def _row(
    row: Mapping[str, Field], ts: float, score: float, p_value: float, verdict: str, reliance: Sequence[float]
) -> Row:
    service = text(row, "service") or f"{text(row, 'id.resp_p')}/{text(row, 'proto')}"
    name = f"{text(row, 'id.orig_h')} -> {text(row, 'id.resp_h')} {service}"[:_MAX_CHARACTERS]
    reasons = _cut(row, "reasons")
    return Row(
        ts,
        text(row, "uid")[:_MAX_CHARACTERS],
        name,
        score,
        p_value,
        verdict[:_MAX_CHARACTERS],
        reasons,
        reliance,
    )


def _keep_oddest(seen: Seen, row: Row) -> None:
    # One scan would fill the list: an originator is named once.
    orig = row.name.split(" ", 1)[0]
    known = seen.oddest.get(orig)
    if known is not None and known.score >= row.score:
        return
    seen.oddest[orig] = row
    if len(seen.oddest) > _MAX_ODD_CONNECTIONS:
        seen.oddest = dict(
            sorted(seen.oddest.items(), key=lambda kept: -kept[1].score)[: _MAX_ODD_CONNECTIONS // 2]
        )


def _oddest(seen: Seen) -> list[tuple[Row, int]]:
    """The oddest connection of each originator, and how many odd ones it has in all."""
    totals: Counter[str] = Counter()
    for (who, _), cell in seen.odd_hosts.cells.items():
        role, host = who.split("|", 1)
        if role == "originator":
            totals[host] += int(cell[0])
    rows = sorted(seen.oddest.items(), key=lambda item: (-item[1].score, item[1].ts))[:_SHOWN_ODD_CONNECTIONS]
    return [(row, max(totals[orig], 1)) for orig, row in rows]


def _ranked(seen: Seen) -> list[Incident]:
    def rank(incident: Incident) -> tuple[bool, int, float, float]:
        score = incident.trigger.score if incident.trigger else 0.0
        return (not incident.merged, -incident.n, -score, incident.first)

    return sorted(seen.incidents.values(), key=rank)


def _services(seen: Seen) -> list[tuple[str, int, int]]:
    rows = sorted(((s, n, odd) for s, (n, odd) in seen.services.items()), key=lambda r: (-r[1], r[0]))
    rest = rows[_SHOWN_SERVICES:]
    more = [(f"{len(rest)} more", sum(r[1] for r in rest), sum(r[2] for r in rest))] if rest else []
    return rows[:_SHOWN_SERVICES] + more


def _mean_reliance(seen: Seen) -> list[tuple[str, Sequence[float]]]:
    all_sums = [sum(cell[i] for cell in seen.time.cells.values()) for i in (3, 4, 5, 6, 2)]
    rows: list[tuple[str, Sequence[float]]] = []
    for name, sums in (("all connections", all_sums), ("odd connections", seen.odd_reliance)):
        if sums[4]:
            rows.append((name, [s / sums[4] for s in sums[:4]]))
    return rows


def _budget(seen: Seen) -> list[tuple[str, int]]:
    if not seen.connections and not seen.days:
        return []
    dates = set(seen.days)
    if seen.connections:
        first, last = int(seen.first // 86400), int(seen.last // 86400)
        # A day without a notice shows that the budget was not used; a span of years would only be empty columns.
        dates |= {_date(d * 86400.0) for d in range(max(first, last - _SHOWN_DAYS + 1), last + 1)}
    return [(day, seen.days[day]) for day in sorted(dates)[-_SHOWN_DAYS:]]


def _span_of(seen: Seen) -> tuple[float, float]:
    return (seen.first, max(seen.last, seen.first + 1.0)) if seen.connections else (0.0, 1.0)


def _pictures(seen: Seen, alerts_per_day: float) -> dict[str, Markup]:
    span = _span_of(seen)
    width = charts.columns_of(span, seen.time.width)
    columns = sorted((c * width, cell) for (_, c), cell in seen.time.columns(width).items())
    pictures = {
        "connections": charts.time_columns(
            "Connections over time", "connections", [(t, int(c[0])) for t, c in columns], width, span, "all"
        ),
        "odd": charts.time_columns(
            "Odd connections over time",
            "odd connections",
            [(t, int(c[1])) for t, c in columns],
            width,
            span,
            "odd",
        ),
        "scores": charts.histogram("How many connections had which score", seen.scores, seen.threshold),
        "days": charts.days("Notices per day against the budget", _budget(seen), alerts_per_day),
    }
    relied = [(t, [s / c[2] for s in c[3:7]]) for t, c in columns if c[2]]
    if relied:
        pictures["reliance"] = charts.shares("What the verdicts relied on, over time", relied, width, span)
    if seen.odd_hosts.cells:
        pictures["hosts"] = charts.lanes("Odd connections by host over time", _lanes(seen, span), span)
    return pictures


def _unfolded(seen: Seen, incident: Incident) -> Markup | None:
    """The course of an incident of more than one connection, drawn."""
    found = seen.unfoldings.of.get(incident.id)
    if found is None or len(found.points) < 2:
        return None
    points = found.ordered()
    return charts.unfolded(
        f"How incident {incident.id} unfolded",
        [(p.ts, p.evidence) for p in points],
        [(p.ts, found.sizes[p.uid]) for p in points if p.uid in found.sizes],
        found.gaps(),
        found.reached(),
        incident.times,
        found.span(),
    )


def _lanes(seen: Seen, span: tuple[float, float]) -> list[charts.Lane]:
    width = charts.columns_of(span, seen.odd_hosts.width)
    dots: dict[str, list[tuple[float, int]]] = {}
    for (who, column), cell in seen.odd_hosts.columns(width).items():
        dots.setdefault(who, []).append((min((column + 0.5) * width, span[1]), int(cell[0])))
    ranked = sorted(dots.items(), key=lambda item: (-sum(n for _, n in item[1]), item[0]))[:_SHOWN_HOSTS]
    lanes = []
    for who, found in ranked:
        role, host = who.split("|", 1)
        label = f"{printable(host, 60)} →" if role == "originator" else f"→ {printable(host, 60)}"
        lanes.append(charts.Lane(label, found, seen.noticed.get(who, ())))
    return lanes


def _tally(counter: Counter[str], name: str) -> None:
    name = name[:_MAX_CHARACTERS]
    if name in counter or len(counter) < _MAX_NAMES:
        counter[name] += 1


def _date(ts: float) -> str:
    return moments.shown(ts, "%Y-%m-%d")
