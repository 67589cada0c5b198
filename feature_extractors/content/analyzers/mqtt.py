"""MQTT 3: connects, subscriptions and publications, without what is published.

Mirrors src/analyzer/protocol/mqtt and scripts/base/protocols/mqtt/main.zeek of Zeek 8.2.2.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

from feature_extractors.content.analyzers.base import (
    MAX_ITEMS,
    Analyzer,
    Fields,
    Framed,
    ParseError,
    Reader,
    Session,
    text,
)

_LOGGED_PAYLOAD_BYTES: Final = 100  # bytes of a message that are logged (MQTT::max_payload_size)
_QOS: Final = ("at most once", "at least once", "exactly once", "unknown")
_VERSIONS: Final = {3: "3.1", 4: "3.1.1", 5: "5.0"}
_RETURN: Final = (
    "Connection Accepted", "Refused: unacceptable protocol version", "Refused: identifier rejected",
    "Refused: server unavailable", "Refused: bad user name or password", "Refused: not authorized",
)  # fmt: skip


_EMPTY: Final = re.compile(
    rb"(?:[^\x10-\x3f\x80-\x8f\xa0-\xaf]\0)*+", re.S
)  # of these kinds, it says nothing


class Mqtt(Analyzer):
    """MQTT 3.1.1 (OASIS): one client connection."""

    service: ClassVar[str] = "mqtt"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._streams = (Framed(65536), Framed(65536))
        self._skip = [0, 0]
        self._connect: Fields | None = None
        self._waiting: dict[tuple[str, int], Fields] = {}

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        skipped = min(self._skip[is_orig], len(data))
        self._skip[is_orig] -= skipped
        stream = self._streams[is_orig]
        stream.feed(data[skipped:])
        while (head := stream.peek(2)) is not None:
            if not head[1] and stream.past(_EMPTY):
                continue
            size, length = 1, 0
            while True:
                part = stream.peek(size + 1)
                if part is None:
                    return
                length |= (part[size] & 0x7F) << 7 * (size - 1)
                size += 1
                if not part[size - 1] & 0x80:
                    break
                if size > 4:
                    raise ParseError("length_too_long")
            if length > 60000:
                # A long publication: its head tells enough.
                start = stream.peek(min(len(stream), size + 4096)) or b""
                if len(start) < size + 4096:
                    return
                self._packet(is_orig, ts, head[0], Reader(start, size), length)
                gone = stream.drop(size + length)
                self._skip[is_orig] = size + length - gone
                return
            whole = stream.take(size + length)
            if whole is None:
                return
            self._packet(is_orig, ts, head[0], Reader(whole, size), length)

    def skip(self, is_orig: bool) -> int:
        return super().skip(is_orig) or self._skip[is_orig]

    def _packet(self, is_orig: bool, ts: float, first: int, body: Reader, length: int) -> None:
        kind = first >> 4
        if kind == 1:
            name = body.take(body.u16())
            version = body.u8()
            body.skip(3)
            client = body.take(body.u16())
            self.session.confirm(self.service)
            self._connect = self.session.log("mqtt_connect", ts, {
                "proto_name": text(name, 64), "proto_version": _VERSIONS.get(version) or f"unknown-{version}",
                "client_id": text(client, 512),
            })  # fmt: skip
        elif kind == 2 and self._connect is not None:
            body.skip(1)
            code = body.u8()
            self._connect["connect_status"] = _RETURN[code] if code < len(_RETURN) else "unknown"
        elif kind == 3:
            self._publish(is_orig, ts, first, body, length)
        elif kind in (8, 10):
            self._subscribe(ts, kind, body)
        elif kind in (4, 7, 9, 11) and body.left >= 2:
            self._acknowledge(kind, body)

    def _publish(self, is_orig: bool, ts: float, first: int, body: Reader, length: int) -> None:
        qos = first >> 1 & 3
        begin = body.pos
        topic = body.take(body.u16())
        identifier = body.u16() if qos else 0
        self.session.confirm(self.service)
        entry = self.session.log("mqtt_publish", ts, {
            "from_client": is_orig, "retain": bool(first & 1), "qos": _QOS[qos],
            "status": "incomplete" if qos else "ok",
            "topic": text(topic, 1024), "payload_len": length - (body.pos - begin),
        })  # fmt: skip
        if self.session.logs:
            entry["payload"] = text(body.take(min(body.left, _LOGGED_PAYLOAD_BYTES)))
        if qos:
            self._remember("publish", identifier, entry)

    def _subscribe(self, ts: float, kind: int, body: Reader) -> None:
        identifier = body.u16()
        topics: list[str] = []
        levels: list[int] = []
        while body.left >= 2 and len(topics) < MAX_ITEMS:
            topics.append(text(body.take(body.u16()), 512))
            if kind == 8:
                levels.append(body.u8())
        fields: Fields = {
            "action": "MQTT::SUBSCRIBE" if kind == 8 else "MQTT::UNSUBSCRIBE", "topics": list(topics), "ack": False,
        }  # fmt: skip
        if kind == 8:
            fields["qos_levels"] = list(levels)
        self._remember(
            "subscribe" if kind == 8 else "unsubscribe",
            identifier,
            self.session.log("mqtt_subscribe", ts, fields),
        )

    def _remember(self, what: str, identifier: int, entry: Fields) -> None:
        if len(self._waiting) >= self.session.limits.transactions:
            self._waiting.clear()
        self._waiting[what, identifier] = entry

    def _acknowledge(self, kind: int, body: Reader) -> None:
        what = {9: "subscribe", 11: "unsubscribe"}.get(kind, "publish")
        entry = self._waiting.pop((what, body.u16()), None)
        if entry is None:
            return
        if what == "publish":
            entry["status"] = "ok"
            return
        entry["ack"] = True
        if kind == 9 and body.left:
            entry["granted_qos_level"] = body.u8()
