"""RADIUS authentication: a request and its result in one entry, as radius.log has it.

Mirrors src/analyzer/protocol/radius and scripts/base/protocols/radius/main.zeek of Zeek 8.2.2.
"""

from __future__ import annotations

from typing import ClassVar

from feature_extractors.content.analyzers.base import Analyzer, Fields, ParseError, Session, text
from feature_extractors.content.analyzers.ip import address


class Radius(Analyzer):
    """RADIUS (RFC 2865): access requests, challenges and their result."""

    service: ClassVar[str] = "radius"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._entry: Fields | None = None
        self._began = 0.0

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        if len(data) < 20:
            raise ParseError("message_too_short")
        attributes: dict[int, bytes] = {}
        pos = 20
        while pos < len(data):
            if pos + 2 > len(data) or data[pos + 1] < 2 or pos + data[pos + 1] > len(data):
                raise ParseError("attribute_too_long")
            attributes.setdefault(data[pos], data[pos + 2 : pos + data[pos + 1]])
            pos += data[pos + 1]
        self.session.confirm(self.service)
        entry = self._entry
        if entry is None:
            self._began = ts
            entry = self._entry = self.session.log("radius", ts, {"result": "unknown"})
        code = data[0]
        if code == 1:
            if 1 in attributes:
                entry.setdefault("username", text(attributes[1]))
            if 31 in attributes:
                entry.setdefault("mac", normal_mac(text(attributes[31])))
            if 66 in attributes:
                entry.setdefault("tunnel_client", text(attributes[66]))
            if 77 in attributes:
                entry.setdefault("connect_info", text(attributes[77]))
        elif code == 11:
            if len(attributes.get(8, b"")) == 4:
                entry.setdefault("framed_addr", address(attributes[8]))
            if 18 in attributes:
                entry.setdefault("reply_msg", text(attributes[18]))
        elif code in (2, 3):
            entry["result"] = "success" if code == 2 else "failed"
            if ts != self._began:
                entry["ttl"] = ts - self._began
            self._entry = None


def normal_mac(said: str) -> str:
    """A MAC address in any usual notation as aa:bb:cc:dd:ee:ff; what is none comes back in lower case."""
    digits = "".join(c for c in said.lower() if c in "0123456789abcdef")
    parts = [digits[i : i + 2] for i in range(0, len(digits), 2)]
    return ":".join(parts) if len(parts) in (6, 8) and len(digits) % 2 == 0 else said.lower()
