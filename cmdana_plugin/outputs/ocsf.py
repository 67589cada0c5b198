"""An event as a Detection Finding (class 2004) of the Open Cybersecurity Schema Framework, one line of JSON.

Source: OCSF 1.8.0, `events/findings/detection_finding.json`.
"""

from __future__ import annotations

import json
from typing import Any, Final

from cmdana_plugin.outputs.events import Endpoint, Event, Severity
from cmdana_plugin.outputs.techniques import technique
from cmdana_plugin.outputs.version import VERSION

OCSF_VERSION: Final = "1.8.0"
_CLASS: Final = 2004
_SEVERITY: Final[dict[Severity, tuple[int, str]]] = {
    "info": (1, "Informational"), "low": (2, "Low"), "medium": (3, "Medium"), "high": (4, "High"),
}  # fmt: skip
_ACTIVITIES: Final = {1: "Create", 2: "Update"}
_PROTOCOLS: Final = {"tcp": 6, "udp": 17, "icmp": 1}
_LEARNED: Final = 4  # kind of analytic: Learning (ML/DL)
_UNKNOWN: Final = 0  # direction: cmdana.log does not say which side is ours
_IP_ADDRESS: Final = 2  # kind of observable


def line(event: Event, *, again: bool = False) -> bytes:
    """The event as a line, without its end; `again` where its incident was told of before."""
    return json.dumps(finding(event, again=again), separators=(",", ":")).encode()


def finding(event: Event, *, again: bool = False) -> dict[str, Any]:
    """The event as an object; what is unset is left out."""
    activity = 2 if again else 1
    severity = _SEVERITY[event.severity]
    return {
        "activity_id": activity, "activity_name": _ACTIVITIES[activity],
        "category_uid": 2, "category_name": "Findings", "class_uid": _CLASS, "class_name": "Detection Finding",
        "type_uid": 100 * _CLASS + activity, "type_name": f"Detection Finding: {_ACTIVITIES[activity]}",
        "severity_id": severity[0], "severity": severity[1], "status_id": 1, "status": "New",
        "time": _time(event.ts), "start_time": _time(event.first_seen), "end_time": _time(event.last_seen),
        "message": event.title, "is_alert": event.stream == "notice",
        "metadata": _set({
            "version": OCSF_VERSION, "uid": event.id, "log_name": event.stream, "original_time": repr(event.ts),
            "correlation_uid": event.incident,
            "product": {"name": "cmdana", "vendor_name": "cmdana", "version": VERSION},
        }),
        "finding_info": _finding_info(event),
        "evidences": _evidences(event),
        "observables": _observables(event),
        "unmapped": {name: list(v) if isinstance(v, tuple) else v for name, v in event.facts.items()},
    } | ({} if event.score is None else {"risk_score": round(100 * event.score)})  # fmt: skip


def _finding_info(event: Event) -> dict[str, Any]:
    return _set({
        "uid": event.subject, "title": event.title, "desc": "; ".join(event.reasons)[:2000],
        "types": [event.kind or event.name], "created_time": _time(event.first_seen),
        "first_seen_time": _time(event.first_seen), "last_seen_time": _time(event.last_seen),
        "modified_time": _time(event.ts), "data_sources": ["zeek"],
        "related_events_count": event.connections,
        "analytic": {"type_id": _LEARNED, "type": "Learning (ML/DL)", "name": event.name, "uid": event.name},
        "attacks": _attacks(event.technique),
    })  # fmt: skip


def _evidences(event: Event) -> list[dict[str, Any]]:
    found = _set({"src_endpoint": _end(event.source), "dst_endpoint": _end(event.destination)})
    if event.uid:
        found["connection_info"] = _set({
            "direction_id": _UNKNOWN, "uid": event.uid, "protocol_name": event.proto,
            "protocol_num": _PROTOCOLS.get(event.proto), "community_uid": event.community_id,
        })  # fmt: skip
    listed = [found] if found else []
    of_it = {e.ip for e in (event.source, event.destination) if e}
    listed += [{"src_endpoint": {"ip": a}} for a in event.actors if a not in of_it]
    return listed + [{"dst_endpoint": {"ip": a}} for a in event.targets if a not in of_it]


def _observables(event: Event) -> list[dict[str, Any]]:
    sources = {*event.actors, *([event.source.ip] if event.source else [])}
    return [
        {
            "name": f"evidences[].{'src' if address in sources else 'dst'}_endpoint.ip", "type_id": _IP_ADDRESS,
            "type": "IP Address", "value": address,
        }
        for address in event.addresses
    ]  # fmt: skip


def _attacks(id: str) -> list[dict[str, Any]]:
    found = technique(id)
    if found is None:
        return []
    parent = technique(found.parent) or found
    of: dict[str, Any] = {
        "tactic": {"uid": found.tactic_id, "name": found.tactic},
        "technique": {"uid": parent.id, "name": parent.name, "src_url": parent.url},
    }
    if parent.id != found.id:
        of["sub_technique"] = {"uid": found.id, "name": found.name, "src_url": found.url}
    return [of]


def _end(end: Endpoint | None) -> dict[str, Any]:
    return _set({"ip": end.ip, "port": end.port}) if end else {}


def _set(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, "", [], {})}


def _time(ts: float) -> int:
    return round(1000 * ts)
