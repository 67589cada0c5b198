"""Events as a STIX 2.1 bundle: each incident, what was observed, the technique, and why, in notes.

Source: STIX Version 2.1 (OASIS Standard). Whatever is about the same incident has the same ids in every export, so that
who takes the bundle in twice has it once. A bundle names hosts of the network that it comes from.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from cmdana_plugin.outputs.events import Endpoint, Event
from cmdana_plugin.outputs.techniques import technique

_OBSERVABLES: Final = uuid.UUID("00abedb4-aa42-466c-9c01-fed23315a9b7")  # the standard's, section 2.9
_OURS: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://docs.zeek.org/cmdana/stix")
_BEGAN: Final = "2026-01-01T00:00:00.000Z"  # when the identity and the techniques were made, for good
_MOST_OBSERVED: Final = 999_999_999
_SOFTWARE: Final = "cmdana"


def line(event: Event) -> bytes:
    """A bundle of one event, without the line's end."""
    return json.dumps(bundle([event]), separators=(",", ":")).encode()


def bundle(events: Iterable[Event]) -> dict[str, Any]:
    """One bundle; of what several events tell of the same incident, the latest counts."""
    objects: dict[str, dict[str, Any]] = {}
    for event in sorted(events, key=lambda e: e.ts):
        if event.addresses:  # drift and a lost detector are nobody's incidents
            objects |= {made["id"]: made for made in _objects(event)}
    ids = "\n".join(f"{o['id']} {o.get('modified', '')}" for o in objects.values())
    return {
        "type": "bundle", "id": f"bundle--{uuid.uuid5(_OURS, ids)}",
        **({"objects": list(objects.values())} if objects else {}),
    }  # fmt: skip


def _objects(event: Event) -> list[dict[str, Any]]:
    me = _identity()
    seen = _observables(event)
    observed = _object(
        "observed-data", event, first_observed=_time(event.first_seen), last_observed=_time(event.last_seen),
        number_observed=min(max(event.connections or 1, 1), _MOST_OBSERVED), object_refs=[o["id"] for o in seen],
    )  # fmt: skip
    incident = _object(
        "incident", event, name=event.title, description="; ".join(event.reasons)[:4000] or event.title
    )
    note = _object(
        "note", event, abstract=event.title, object_refs=[incident["id"], observed["id"]],
        content="\n".join((*event.reasons, *_pointers(event))) or event.title,
    )  # fmt: skip
    made = [me, *seen, observed, incident, note, _related(event, incident, observed)]
    if found := technique(event.technique):
        pattern = {
            "type": "attack-pattern", "spec_version": "2.1", "id": f"attack-pattern--{uuid.uuid5(_OURS, found.id)}",
            "created": _BEGAN, "modified": _BEGAN, "created_by_ref": me["id"], "name": found.name,
            "external_references": [{"source_name": "mitre-attack", "external_id": found.id, "url": found.url}],
        }  # fmt: skip
        sighting = _object(
            "sighting", event, sighting_of_ref=pattern["id"], observed_data_refs=[observed["id"]],
            where_sighted_refs=[me["id"]], first_seen=_time(event.first_seen), last_seen=_time(event.last_seen),
            count=min(max(event.connections or 1, 1), _MOST_OBSERVED),
        )  # fmt: skip
        made += [pattern, sighting, _related(event, incident, pattern)]
    return made


def _identity() -> dict[str, Any]:
    return {
        "type": "identity", "spec_version": "2.1", "id": f"identity--{uuid.uuid5(_OURS, _SOFTWARE)}",
        "created": _BEGAN, "modified": _BEGAN, "name": _SOFTWARE, "identity_class": "system",
    }  # fmt: skip


def _object(kind: str, event: Event, **fields: Any) -> dict[str, Any]:
    created = min(event.first_seen, event.ts)
    return {
        "type": kind, "spec_version": "2.1", "id": f"{kind}--{uuid.uuid5(_OURS, f'{kind} {event.subject}')}",
        "created_by_ref": _identity()["id"], "created": _time(created),
        "modified": _time(max(created, event.ts, event.last_seen)), **fields,
    }  # fmt: skip


def _related(event: Event, one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    made = _object(
        "relationship", event, relationship_type="related-to", source_ref=one["id"], target_ref=other["id"]
    )
    return made | {"id": f"relationship--{uuid.uuid5(_OURS, one['id'] + other['id'])}"}


def _observables(event: Event) -> list[dict[str, Any]]:
    made = {address: _address(address) for address in event.addresses}
    found = list(made.values())
    if event.source and event.destination and event.proto:
        found.append(_traffic(event, event.source, event.destination, made))
    return found


def _address(address: str) -> dict[str, Any]:
    kind = "ipv6-addr" if ":" in address else "ipv4-addr"
    return {"type": kind, "spec_version": "2.1", "id": _observable(kind, value=address), "value": address}


def _traffic(
    event: Event, source: Endpoint, destination: Endpoint, by: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    version = "ipv6" if ":" in source.ip else "ipv4"
    fields: dict[str, Any] = {
        "protocols": [version, event.proto.lower(), *(s for s in event.service.lower().split(",") if s)],
        "src_ref": by[source.ip]["id"], "dst_ref": by[destination.ip]["id"],
    }  # fmt: skip
    if event.proto in ("tcp", "udp"):
        ports = {"src_port": source.port, "dst_port": destination.port}
        fields |= {name: port for name, port in ports.items() if port is not None}
    return {
        "type": "network-traffic",
        "spec_version": "2.1",
        "id": _observable("network-traffic", **fields),
        **fields,
    }


def _observable(kind: str, **fields: Any) -> str:
    """The deterministic id of the standard: a UUIDv5 of the fields that identify, as canonical JSON."""
    words = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"{kind}--{uuid.uuid5(_OBSERVABLES, words)}"


def _pointers(event: Event) -> list[str]:
    said = {"uid": event.uid, "community id": event.community_id, "incident": event.incident}
    return [f"{name}: {value}" for name, value in said.items() if value]


def _time(ts: float) -> str:
    return datetime.fromtimestamp(ts, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
