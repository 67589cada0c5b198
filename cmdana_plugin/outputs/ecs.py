"""An event as one line of JSON in the Elastic Common Schema, as Filebeat, Vector and Logstash pass it on.

Source: ECS 9.4 (`generated/ecs/ecs_flat.yml`); `zeek.session_id` is what Filebeat's module for Zeek calls a uid.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

from cmdana_plugin.outputs.events import Endpoint, Event, Severity
from cmdana_plugin.outputs.techniques import technique
from cmdana_plugin.outputs.version import VERSION

ECS_VERSION: Final = "9.4.0"
_SEVERITY: Final[dict[Severity, int]] = {
    "info": 1,
    "low": 21,
    "medium": 47,
    "high": 73,
}  # as Elastic's own rules
_TRANSPORTS: Final = {"tcp": "tcp", "udp": "udp", "icmp": "icmp"}


def line(event: Event) -> bytes:
    """The event as a line, without its end."""
    return json.dumps(document(event), separators=(",", ":")).encode()


def document(event: Event) -> dict[str, Any]:
    """The event as an object; what is unset is left out."""
    made: dict[str, Any] = {
        "@timestamp": _time(event.ts),
        "ecs": {"version": ECS_VERSION},
        "message": event.title,
        "event": _set({
            "kind": "alert" if event.stream == "notice" else "event",
            "category": ["network", "intrusion_detection"], "type": ["info"],
            "module": "cmdana", "dataset": f"cmdana.{event.stream}", "id": event.id,
            "severity": _SEVERITY[event.severity], "risk_score": event.score and round(100 * event.score, 2),
            "start": _time(event.first_seen), "end": _time(event.last_seen), "reason": "; ".join(event.reasons)[:2000],
        }),
        "rule": _set({"name": event.name, "category": event.kind, "ruleset": "cmdana"}),
        "observer": {"vendor": "cmdana", "product": "cmdana", "type": "ids", "version": VERSION},
        "cmdana": {name: list(v) if isinstance(v, tuple) else v for name, v in event.facts.items()},
    }  # fmt: skip
    made |= _set({
        "source": _end(event.source, event.sent), "destination": _end(event.destination, None),
        "network": _set({
            "transport": _TRANSPORTS.get(event.proto), "protocol": event.service.lower(),
            "community_id": event.community_id,
            "type": event.source and ("ipv6" if ":" in event.source.ip else "ipv4"),
        }),
        "related": _set({"ip": list(event.addresses)}),
        "zeek": _set({"session_id": event.uid}),
        "threat": _threat(event.technique),
    })  # fmt: skip
    return made


def _threat(id: str) -> dict[str, Any]:
    found = technique(id)
    if found is None:
        return {}
    parent = technique(found.parent) or found
    of: dict[str, Any] = {"id": [parent.id], "name": [parent.name], "reference": [parent.url]}
    if parent.id != found.id:
        of["subtechnique"] = {"id": [found.id], "name": [found.name], "reference": [found.url]}
    return {
        "framework": "MITRE ATT&CK", "technique": of, "tactic": {"id": [found.tactic_id], "name": [found.tactic]},
    }  # fmt: skip


def _end(end: Endpoint | None, sent: int | None) -> dict[str, Any]:
    return _set({"ip": end.ip, "address": end.ip, "port": end.port, "bytes": sent}) if end else {}


def _set(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, "", [], {})}


def _time(ts: float) -> str:
    return datetime.fromtimestamp(ts, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
