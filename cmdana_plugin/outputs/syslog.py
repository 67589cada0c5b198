"""An event as a message of syslog: RFC 5424, facility local0, its facts as structured data.

32473 is the enterprise number that RFC 5612 keeps for examples: this project has none of its own.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from cmdana_plugin.outputs.events import Event, Severity
from cmdana_plugin.outputs.version import VERSION

_LOCAL0: Final = 16
_SEVERITY: Final[dict[Severity, int]] = {"info": 6, "low": 5, "medium": 4, "high": 3}
_MOST_BYTES: Final = 2048  # what RFC 5424 (6.1) says that receivers should take
_ENTERPRISE: Final = "cmdana@32473"


def message(event: Event, host: str) -> bytes:
    """The event as one message of at most 2,048 bytes, without a frame; `host` is who says so."""
    when = datetime.fromtimestamp(event.ts, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    head = (
        f"<{8 * _LOCAL0 + _SEVERITY[event.severity]}>1 {when} {_name(host, 255)} cmdana - "
        f'{_name(event.name, 32)} [origin software="cmdana" swVersion="{_value(VERSION)}"]{_facts(event)} '
    ).encode()
    words = "; ".join((event.title, *event.reasons)).encode()
    room = _MOST_BYTES - len(head) - len(_BOM)
    return head + _BOM + words[:room].decode("utf-8", "ignore").encode()


_BOM: Final = b"\xef\xbb\xbf"  # says that the words are UTF-8


def _facts(event: Event) -> str:
    pairs: dict[str, object] = {
        "id": event.id, "incident": event.incident, "kind": event.kind, "technique": event.technique, "uid": event.uid,
        "src": event.source and event.source.ip, "spt": event.source and event.source.port,
        "dst": event.destination and event.destination.ip, "dpt": event.destination and event.destination.port,
        "proto": event.proto, "service": event.service, "community_id": event.community_id, "score": event.score,
        "evidence": event.facts.get("evidence"), "connections": event.connections,
    }  # fmt: skip
    said = "".join(f' {name}="{_value(str(v)[:80])}"' for name, v in pairs.items() if v not in (None, ""))
    return f"[{_ENTERPRISE}{said}]"


def _value(words: str) -> str:
    return re.sub(r'(["\\\]])', r"\\\1", words)


def _name(words: str, most: int) -> str:
    """What the header may hold: printable ASCII without spaces, "-" for nothing."""
    return re.sub(r"[^\x21-\x7e]", "_", words)[:most] or "-"
