"""SNMP: one entry per connection that counts what was asked and answered, as snmp.log does.

Mirrors src/analyzer/protocol/snmp and scripts/base/protocols/snmp/main.zeek of Zeek 8.2.2: only an answer from the
responder confirms the service.
"""

from __future__ import annotations

from typing import ClassVar, Final

from feature_extractors.content.analyzers.base import Analyzer, Fields, ParseError, Session, text
from feature_extractors.content.analyzers.der import Item, integer, item, items, value

_VERSIONS: Final = {0: "1", 1: "2c", 3: "3"}
_COUNTED: Final = {0xA0: "get_requests", 0xA1: "get_requests", 0xA2: "get_responses", 0xA3: "set_requests",
                   0xA5: "get_bulk_requests"}  # fmt: skip
_DESCRIPTION: Final = bytes.fromhex("2b06010201010100")
_UPTIME: Final = bytes.fromhex("2b06010201010300")


class Snmp(Analyzer):
    """SNMP v1, v2c and v3 as far as it is not encrypted."""

    service: ClassVar[str] = "snmp"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._entry: Fields | None = None
        self._began = 0.0

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        outer = item(data, 0, len(data))
        if outer[0] != 0x30:
            raise ParseError("not_a_sequence")
        parts = items(outer)
        first = next(parts, None)
        if first is None or first[0] != 2:
            raise ParseError("no_version")
        version = integer(first)
        name = _VERSIONS.get(version)
        if name is None:
            if not is_orig:
                self.session.confirm(self.service)
            return
        community = b""
        pdu: Item | None = None
        if version < 3:
            said = next(parts, None)
            if said is None or said[0] != 4:
                raise ParseError("no_community")
            community = value(said)
            pdu = next(parts, None)
        else:
            community, pdu = _version3(parts)
        if not is_orig:
            self.session.confirm(self.service)
        if pdu is None:
            return
        entry = self._entry
        if entry is None:
            self._began = ts
            entry = self._entry = self.session.log("snmp", ts, {
                "duration": 0.0, "version": name, "get_requests": 0, "get_bulk_requests": 0, "get_responses": 0,
                "set_requests": 0,
            })  # fmt: skip
        if "community" not in entry and (version < 3 or (community and pdu[0] != 4)):  # 4: encrypted
            entry["community"] = text(community, 255)
        entry["duration"] = ts - self._began
        counter = _COUNTED.get(pdu[0])
        if counter is not None:
            self._bindings(entry, counter, pdu, ts)

    def _bindings(self, entry: Fields, counter: str, pdu: Item, ts: float) -> None:
        fields = list(items(pdu))
        if len(fields) < 4:
            raise ParseError("pdu_too_short")
        count = 0
        for binding in items(fields[3]):
            count += 1
            if counter != "get_responses" or count > 64:
                continue
            pair = list(items(binding))
            if len(pair) != 2:
                raise ParseError("bad_binding")
            oid = value(pair[0])
            if oid == _DESCRIPTION and pair[1][0] == 4:
                entry["display_string"] = text(value(pair[1]), 1024)
            elif oid == _UPTIME and pair[1][0] == 0x43:
                entry["up_since"] = ts - int.from_bytes(value(pair[1])[:8], "big") / 100
        total = entry[counter]
        entry[counter] = count + (total if isinstance(total, int) else 0)


def _version3(parts: object) -> tuple[bytes, Item | None]:
    """The user's name and the PDU of an SNMPv3 message; no PDU where it is encrypted."""
    rest = list(parts)  # type: ignore[call-overload]
    if len(rest) < 3:
        raise ParseError("header_too_short")
    user = b""
    inside = value(rest[1])
    if inside:
        security = list(items(item(inside, 0, len(inside))))
        if len(security) >= 4:
            user = value(security[3])
    if rest[2][0] != 0x30:
        return user, rest[2]
    scoped = list(items(rest[2]))
    return user, scoped[2] if len(scoped) > 2 else rest[2]
