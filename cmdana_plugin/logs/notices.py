"""Notices as rows of notice.log: `msg` and `sub`, and the fields beside the words.

What an incident is called, `decision.kinds` says; no other place words a notice.

Every field is a column of its own, so that nobody has to read the words; `old_notices` does for logs that lack them.
"""

from __future__ import annotations

from typing import Final

from cmdana_plugin.decision import COMPONENT_WORDS, HostIncident, Notice, TrafficDrift
from cmdana_plugin.detector import ANOMALOUS
from cmdana_plugin.logs.streams import NOTICE, Value

_LOGGED: Final = ("Notice::ACTION_LOG",)  # what Zeek does with a notice on which no policy says more


def message(n: Notice) -> str:
    """The sentence to show: who did what. "" for a notice of neither a connection nor a drift."""
    if n.drift:
        return _drift_message(n.drift)
    if n.incident:
        return _incident_message(n.incident)
    if not n.verdict:
        return ""
    v = n.verdict
    return (
        f"{connection_title(v.orig_h, v.resp_h, v.service_or_port, v.verdict)} "
        f"(score {v.score:.3f}, threshold {v.threshold:.3f})"
    )


def connection_title(orig_h: str, resp_h: str, service: str, verdict: str) -> str:
    """What is said of one connection, without its score; `verdict` is anomalous or the name of a known attack."""
    claim = "is unlike this network's normal" if verdict == ANOMALOUS else f"looks like {verdict}"
    return f"{orig_h} -> {resp_h} {service} {claim}"


def sub_message(n: Notice) -> str:
    """The reasons, separated by `; `."""
    parts = list(_reasons(n))
    if n.incident:
        if n.incident.technique:
            parts.append(f"MITRE ATT&CK {n.incident.technique}")
        if latest := _latest_reasons(n):
            parts.append(f"latest: {latest[0]}")
            parts += latest[1:]
    if n.drift:
        parts.append(f"{_done(n.drift)}: calibrate or train again if this is the new normal")
    return "; ".join(parts)


def _done(drift: TrafficDrift) -> str:
    """What was done about it."""
    if drift.becomes is None:
        return "done: nothing, verdicts are by the model's own calibration"
    return (
        f"done: verdicts are calibrated on this traffic, a p-value of {drift.tail:g} counts as {drift.becomes:.2g}; "
        "evidence against hosts is not"
    )


def notice_fields(n: Notice) -> dict[str, Value]:
    """The fields of `NOTICE_FIELDS` that a notice has, by their names there."""
    fields: dict[str, Value] = {"reasons": _reasons(n)}
    if v := n.verdict:
        fields |= {
            "verdict": v.verdict, "score": v.score, "p_value": v.p_value, "threshold": v.threshold,
            "services": (v.service_or_port,), "service_count": 1,
        }  # fmt: skip
    if i := n.incident:
        fields |= {
            "role": i.role,
            "host": i.host,
            "peers": i.peers,
            "services": i.services,
            "service_count": i.service_count,
            "evidence": i.evidence,
            "latest_reasons": _latest_reasons(n),
            "incident": i.id,
            "kind": i.kind,
            "first_seen": i.first_seen,
            "last_seen": i.last_seen,
            "connections": i.connections,
            "odd": i.odd,
            "actors": i.hosts,
            "actor_count": i.host_count,
            "targets": i.targets,
            "refused": i.refused,
            "sent": i.sent,
            "limit": i.limit,
        }
        if i.technique:
            fields["technique"] = i.technique  # fmt: skip
    if d := n.drift:
        fields |= {
            "traffic": d.traffic, "tail": d.tail, "share": d.share, "hosts": d.hosts, "window": d.window,
            "windows": d.windows,
        }  # fmt: skip
    return {name: value for name, value in fields.items() if value != ()}


def notice_columns(n: Notice) -> dict[str, Value]:
    """The columns of notice.log that a notice fills, by name."""
    columns: dict[str, Value] = {
        "ts": n.ts, "note": n.note, "msg": message(n), "sub": sub_message(n), "actions": _LOGGED, "email_dest": (),
        "suppress_for": n.suppress_for,
    }  # fmt: skip
    if v := n.verdict:
        columns |= {
            "uid": v.uid, "id.orig_h": v.orig_h, "id.orig_p": v.orig_p, "id.resp_h": v.resp_h, "id.resp_p": v.resp_p,
            "proto": v.proto, "community_id": v.community_id,
        }  # fmt: skip
        if not n.incident:
            columns |= {"src": v.orig_h, "dst": v.resp_h, "p": v.resp_p}
    if i := n.incident:
        columns |= {"src" if i.role == "originator" else "dst": i.host, "n": i.connections}
    if n.drift:
        columns["n"] = n.drift.connections
    return columns | {f"cmdana.{name}": value for name, value in notice_fields(n).items()}


def notice_row(n: Notice) -> tuple[Value, ...]:
    """One row of notice.log, in the order of `NOTICE.fields`."""
    columns = notice_columns(n)
    return tuple(columns.get(name) for name, _ in NOTICE.fields)


def _incident_message(i: HostIncident) -> str:
    others = i.host_count - 1
    more = f" (and {others:,} more host{'s' if others > 1 else ''})" if others > 0 else ""
    return f"{i.host}{more} {i.headline}"


def _drift_message(d: TrafficDrift) -> str:
    return (
        f"{d.traffic} is no longer as the model learned it: {d.share:.0%} of {d.connections:,} connections of "
        f"{d.hosts:,} hosts in {_span(d.window)} have a p-value of {d.tail:g} or less, where {d.tail:.0%} were "
        f"promised; so for {d.windows} times in a row"
    )


def _span(seconds: float) -> str:
    for unit, size in (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0)):
        if seconds >= size and seconds % size == 0:
            count = int(seconds // size)
            return f"one {unit}" if count == 1 else f"{count} {unit}s"
    return f"{seconds:g} seconds"


def _reasons(n: Notice) -> tuple[str, ...]:
    """Why it was raised: of an incident, the strongest pieces of evidence."""
    if n.drift:
        return tuple(f"{COMPONENT_WORDS[name]} in {share:.0%}" for name, share in n.drift.components)
    if n.incident:
        return n.incident.why
    return n.verdict.reasons if n.verdict else ()


def _latest_reasons(n: Notice) -> tuple[str, ...]:
    """Of the connection that an incident was noticed by, where they were looked for field by field."""
    return n.verdict.reasons if n.verdict and n.explained else ()
