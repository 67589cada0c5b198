"""The live page drawn: what each address shows, from the index, as HTML that needs no script to be read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any, Final
from urllib.parse import quote, urlencode

import numpy as np
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from cmdana_plugin.analyst import charts, explain, facts, printable, report, units
from cmdana_plugin.config import Config
from cmdana_plugin.desk.incidents import Incident
from cmdana_plugin.desk.queue import Wanted, a_day
from cmdana_plugin.desk.store import STATES
from cmdana_plugin.desk.web.adapted import KeptState
from cmdana_plugin.desk.web.columns import Rows
from cmdana_plugin.desk.web.index import Index
from cmdana_plugin.desk.web.tallies import TAILS, Tallies, mean_shares
from cmdana_plugin.desk.web.week import week
from cmdana_plugin.logs import moments, number, p_value_in, text, texts
from feature_extractors import CmdanaError

_PAGE: Final = 50  # entries, or connections, on one page
_DRAWN: Final = 1500  # connections of an incident that are drawn; of more, some
_HELD: Final = 20_000  # connections of an incident, or of a host, that are looked at
_TOP: Final = 15
_DAYS: Final = 60
_PIVOTS: Final = ("arkime", "zui", "kibana")
_NAMES: Final = ("packets", "connection", "logs", "state")
_QUIET: Final = ("ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p")


@dataclass(frozen=True, slots=True)
class Line:
    """A connection as a row of a table."""

    ts: float
    uid: str
    orig: str
    resp: str
    service: str
    score: float
    p_value: float
    verdict: str
    odd: bool
    size: float | None


class Pages:
    """Every page of one desk. Nothing here changes anything."""

    def __init__(self, index: Index, config: Config, form_token: str) -> None:
        """`form_token` goes into forms; "" for a page that only shows."""
        self._index = index
        self._config = config
        self._kept = KeptState(config)
        self._form = form_token
        self._tallies = Tallies(index.columns)
        folder = resources.files("cmdana_plugin.desk.web") / "templates"
        sources = {f.name: f.read_text(encoding="utf-8") for f in folder.iterdir() if f.name.endswith(".j2")}
        self._environment = Environment(
            loader=DictLoader(sources),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        named = ("when", "between", "count", "size", "span", "plural", "percent")
        self._environment.filters |= {name: getattr(units, name) for name in named}
        self._environment.filters |= {
            "shown": printable, "one_in": charts.one_in, "path": lambda word: quote(str(word), safe=""),
            "state": lambda word: word.replace("_", " "), "iso": lambda t: moments.shown(t, "%Y-%m-%dT%H:%M:%SZ"),
        }  # fmt: skip

    def fault(self, words: str) -> str:
        """A page that says what is wrong."""
        return self._drawn("fault.html.j2", "Not found", words=words)

    def queue(self, query: Mapping[str, str]) -> str:
        """The queue, filtered and paged as the query says."""
        entries, fault = self._index.entries()
        given = {name: query.get(name, "")[:100] for name in ("state", "host", "kind", "since", "until")}
        wrong = ""
        try:
            wanted = Wanted.parse(*(given[n] if n == "state" else given[n] or None for n in given))  # type: ignore[arg-type]
        except CmdanaError as error:
            wanted, wrong = Wanted(), str(error)
        found = [e for e in entries if wanted.takes(e)]
        page, pages = _page(query, len(found))
        shown = found[page * _PAGE : (page + 1) * _PAGE]
        states = Counter(e.decision.state for e in entries)
        days = self._index.incidents.days
        latest = max(days, default="")
        kinds = sorted({e.incident.kind for e in entries if e.incident.kind})[:40]
        return self._drawn(
            "queue.html.j2",
            "Queue",
            entries=shown,
            found=len(found),
            all=len(entries),
            states=states,
            given=given,
            wrong=wrong or fault,
            page=page,
            pages=pages,
            kinds=kinds,
            a_day=a_day(self._index.alerts_per_day),
            ahead=sum(e.ahead for e in found),
            latest=latest,
            noticed=days[latest],
            all_states=STATES,
            turn=lambda n: (
                "/?" + urlencode({**{k: v for k, v in given.items() if v}, "page": n}, errors="replace")
            ),
            most=max((e.rank.total for e in entries), default=1.0),
            let_go=self._index.incidents.let_go,
        )

    def incident(self, mark: str, query: Mapping[str, str]) -> str | None:
        """One incident; None where there is none of this id."""
        entries, fault = self._index.entries()
        entry = next((e for e in entries if e.incident.id == mark), None)
        if entry is None:
            return None
        i = entry.incident
        rows, count = self._index.columns.of_incident(i.id, _HELD)
        page, pages = _page(query, len(rows))
        history = []
        if entry.decision.at and not fault:
            history = self._index.store.history(i.id)
        return self._drawn(
            "incident.html.j2",
            i.title,
            e=entry,
            i=i,
            lines=self._lines(rows[page * _PAGE : (page + 1) * _PAGE]),
            count=count,
            held=len(rows),
            page=page,
            pages=pages,
            fault=fault,
            history=history,
            states=STATES,
            turn=lambda n: f"/incident/{_quoted(i.id)}?page={n}#connections",
            names=_NAMES,
            course=self._course(i, rows),
            relied=self._relied(rows),
            pivots=self._pivots(i),
            against=self._against(i),
            technique=i.technique.replace(".", "/") if i.technique[:1] == "T" else "",
            peers=Counter(self._host(r) for r in _other_end(rows, i.role)).most_common(_TOP),
        )

    def host(self, host: str, query: Mapping[str, str]) -> str | None:
        """One host; None where no log names it."""
        rows, count = self._index.columns.of_host(host, 10 * _HELD)
        entries, _ = self._index.entries()
        incidents = [e for e in entries if host in (e.incident.host, *e.incident.actors, *e.incident.targets)]
        if not count and not incidents:
            return None
        code = self._index.columns.hosts.find(host)
        mine = rows["orig"] == code
        latest = rows[::-1]
        page, pages = _page(query, len(rows))
        return self._drawn(
            "host.html.j2",
            f"Host {printable(host, 64)}",
            host=host,
            count=count,
            held=len(rows),
            incidents=incidents[:50],
            opened=int(mine.sum()),
            odd=int(rows["odd"].sum()),
            page=page,
            pages=pages,
            clients=len(np.unique(rows["orig"][~mine])),
            lines=self._lines(latest[page * _PAGE : (page + 1) * _PAGE]),
            to=self._table(rows[mine], "resp"),
            of=self._table(rows[~mine], "orig"),
            pictures=self._over_time(rows),
            services=self._services(rows),
            week=week(rows["ts"]) if count else None,
            turn=lambda n: f"/host/{_quoted(host)}?page={n}#connections",
        )

    def connection(self, uid: str) -> str:
        """All that the logs say of one connection. Raises `RecordError` where they do not."""
        found = explain.explain(uid[:64], self._index.folder, around=False)
        v = found.verdict
        reliance = [number(v, name, math.nan) for name in report.RELIANCES]
        related = [
            (
                stream,
                [
                    (k, _value(value))
                    for k, value in row.items()
                    if k not in _QUIET and value not in (None, "", [])
                ],
            )
            for stream, row in found.related
        ]
        return self._drawn(
            "connection.html.j2",
            f"Connection {printable(uid, 40)}",
            v=v,
            uid=text(v, "uid"),
            score=number(v, "score"),
            threshold=number(v, "threshold", 1.0),
            p_value=p_value_in(v),
            reasons=texts(v, "reasons"),
            facts=facts(found.conn) if found.conn else "",
            related=related,
            reliance=[r for r in reliance if 0.0 <= r <= 1.0],
            names=_NAMES,
            notices=found.notices,
            passed=list(found.passed.lines())[:20],
            odd=(text(v, "verdict") or "benign") != "benign",
            orig=text(v, "id.orig_h"),
            resp=text(v, "id.resp_h"),
            ts=number(v, "ts"),
            service=text(v, "service") or f"{text(v, 'id.resp_p')}/{text(v, 'proto')}",
            incident=text(v, "incident"),
            pivots=self._links(
                text(v, "community_id"), text(v, "uid"), number(v, "ts"), number(v, "ts") + 3600.0
            ),
        )

    def model(self) -> str:
        """What the folder tells of the detector: budget, calibration, drift, what was passed over."""
        index, columns = self._index, self._index.columns
        tally = self._tallies.all()
        connections, first, last = tally.connections, tally.first, tally.last
        relied: dict[int, list[float]] = {}
        if connections:
            width = charts.columns_of((first, last), charts.LADDER[0])
            relied = self._tallies.relied(width)
        span = (first, max(last, first + 1.0)) if connections else (0.0, 1.0)
        days = self._days(first, last)
        pictures: dict[str, Markup] = {}
        if connections:
            pictures["scores"] = charts.histogram(
                "How many connections had which score", tally.scores.tolist(), columns.threshold
            )
            if relied:
                pictures["reliance"] = charts.shares(
                    "What the verdicts relied on, over time", sorted(relied.items()), width, span
                )
        if len(days) > 1:
            pictures["days"] = charts.days("Notices per day against the budget", days, index.alerts_per_day)
        return self._drawn(
            "model.html.j2",
            "Model",
            connections=connections,
            odd=tally.odd,
            tails=list(zip(TAILS, tally.tails.tolist(), strict=True)),
            budget=index.alerts_per_day,
            threshold=columns.threshold,
            models=columns.models.most_common(5),
            days=days,
            health=sorted(index.incidents.health)[-50:][::-1],
            passed=list(index.passed.lines())[:40],
            faults=index.faults,
            bad=columns.bad,
            early=columns.early,
            let_go=columns.let_go,
            adapted=self._kept.adapted(),
            pictures=pictures,
            names=_NAMES,
            first=first if connections else None,
            last=last,
        )

    # --- What pages are made of ---

    def _drawn(self, template: str, title: str, **words: Any) -> str:
        return self._environment.get_template(template).render(
            title=title,
            folder=printable(str(self._index.folder), 200),
            doing=self._index.doing,
            connections_held=len(self._index.columns),
            form=self._form,
            version=self._index.version,
            **words,
        )

    def _host(self, code: int) -> str:
        return self._index.columns.hosts.words[code]

    def _lines(self, rows: Rows) -> list[Line]:
        c = self._index.columns
        return [
            Line(
                float(r["ts"]),
                r["uid"].decode("utf-8", "replace"),
                self._host(int(r["orig"])),
                self._host(int(r["resp"])),
                c.service(r),
                float(r["score"]),
                10.0 ** -float(r["evidence"]),
                c.verdicts.words[int(r["verdict"])],
                bool(r["odd"]),
                self._index.sizes.get(bytes(r["uid"])),
            )
            for r in rows
        ]

    def _course(self, i: Incident, rows: Rows) -> Markup | None:
        """The incident's connections drawn over time: how odd, how large, how far apart, how many reached."""
        if len(rows) < 2:
            return None
        other = "resp" if i.role == "originator" else "orig"
        hosts = _so_far(rows[other].astype(np.int64))
        ports = _so_far(rows["resp_p"].astype(np.int64) * 32 + rows["proto"])
        gaps = np.diff(rows["ts"])
        some = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _DRAWN)).astype(int))
        ts = rows["ts"].tolist()
        sizes = [
            (ts[k], self._index.sizes[u])
            for k in some.tolist()
            if (u := bytes(rows["uid"][k])) in self._index.sizes
        ]
        return charts.unfolded(
            f"How incident {printable(i.id, 64)} unfolded",
            [(ts[k], float(rows["evidence"][k])) for k in some.tolist()],
            sizes,
            [(ts[k], float(gaps[k - 1])) for k in some.tolist() if k],
            [(ts[k], int(hosts[k]), int(ports[k])) for k in some.tolist()],
            i.times,
            (ts[0], max(ts[-1], ts[0] + 1.0)),
        )

    def _against(self, i: Incident) -> Markup | None:
        if i.evidence is None or not i.limit:
            return None
        return charts.meter(f"evidence {i.evidence:.1f}, limit {i.limit:.1f}", i.evidence, i.limit)

    def _relied(self, rows: Rows) -> Markup | None:
        """What the verdicts on an incident's connections relied on, over time."""
        if len(rows) < 2:
            return None
        span = (float(rows["ts"][0]), max(float(rows["ts"][-1]), float(rows["ts"][0]) + 1.0))
        width = charts.columns_of(span, charts.LADDER[0])
        shares = mean_shares(rows, width)
        return (
            charts.shares("What the verdicts relied on, over time", sorted(shares.items()), width, span)
            if shares
            else None
        )

    def _over_time(self, rows: Rows) -> list[Markup]:
        if len(rows) < 2:
            return []
        span = (float(rows["ts"][0]), max(float(rows["ts"][-1]), float(rows["ts"][0]) + 1.0))
        width = charts.columns_of(span, charts.LADDER[0])
        out = []
        for what, unit, kind, of in (
            ("Connections over time", "connections", "all", rows),
            ("Odd connections over time", "odd connections", "odd", rows[rows["odd"]]),
        ):
            if len(of):
                at, n = np.unique((of["ts"] // width).astype(np.int64), return_counts=True)
                counts = [(float(a) * width, int(k)) for a, k in zip(at, n, strict=True)]
                out.append(charts.time_columns(what, unit, counts, width, span, kind))
        return out

    def _table(self, rows: Rows, end: str) -> list[tuple[str, int, int]]:
        """The hosts at one end of most rows: host, connections, odd ones."""
        codes, at, n = np.unique(rows[end], return_inverse=True, return_counts=True)
        odd = np.bincount(at, weights=rows["odd"], minlength=len(codes))
        order = np.argsort(-n, kind="stable")[:_TOP]
        return [(self._host(int(codes[k])), int(n[k]), int(odd[k])) for k in order]

    def _services(self, rows: Rows) -> list[tuple[str, int, int]]:
        counts: Counter[str] = Counter()
        odd: Counter[str] = Counter()
        key = (
            (rows["service"].astype(np.int64) << 32)
            | (rows["resp_p"].astype(np.int64) << 8)
            | rows["proto"].astype(np.int64)
        )
        key = np.where(rows["service"] >= 0, rows["service"].astype(np.int64) << 32, key)
        _, where, at, n = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
        strange = np.bincount(at, weights=rows["odd"], minlength=len(n)) if len(rows) else n
        for k in np.argsort(-n, kind="stable")[:200]:
            name = self._index.columns.service(rows[int(where[k])])
            counts[name] += int(n[k])
            odd[name] += int(strange[k])
        return [(name, k, odd[name]) for name, k in counts.most_common(_TOP)]

    def _days(self, first: float, last: float) -> list[tuple[str, int]]:
        days = self._index.incidents.days
        dates = set(days)
        if last >= first:
            end = datetime.fromtimestamp(last, UTC).date()
            span = min(int((last - first) // 86400) + 1, _DAYS)
            dates |= {(end - timedelta(days=k)).isoformat() for k in range(span)}
        return [(day, days[day]) for day in sorted(dates)[-_DAYS:]]

    def _pivots(self, i: Incident) -> list[tuple[str, str]]:
        return self._links(i.community_id, i.uid, i.first, i.last)

    def _links(self, community_id: str, uid: str, first: float, last: float) -> list[tuple[str, str]]:
        """Name and address of what else knows of a connection, where it is configured."""
        out = []
        of = {"community_id": community_id, "uid": uid, "first": f"{first:.0f}", "last": f"{last + 1:.0f}"}
        for name in _PIVOTS:
            address = getattr(self._config.desk, name)
            if address and (community_id or "{community_id}" not in address):
                for key, value in of.items():
                    address = address.replace(f"{{{key}}}", _quoted(value))
                out.append((name.capitalize(), address))
        return out


def _quoted(word: object) -> str:
    """A text as a part of an address; what no encoding has becomes a question mark."""
    return quote(str(word), safe="", errors="replace")


def _page(query: Mapping[str, str], n: int) -> tuple[int, int]:
    pages = max(-(-n // _PAGE), 1)
    asked = query.get("page", "0")
    page = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 7 else 0
    return min(page, pages - 1), pages


def _other_end(rows: Rows, role: str) -> list[int]:
    found: list[int] = rows["resp" if role == "originator" else "orig"].tolist()
    return found


def _so_far(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """At each value, how many different ones there have been."""
    _, first = np.unique(values, return_index=True)
    new = np.zeros(len(values), int)
    new[first] = 1
    return np.cumsum(new)


def _value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
