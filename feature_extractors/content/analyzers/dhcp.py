"""DHCP: one entry per transaction, which belongs to the connection that began it, as in dhcp.log.

Mirrors src/analyzer/protocol/dhcp and scripts/base/protocols/dhcp/main.zeek of Zeek 8.2.2. Analyzers do not know who
speaks, so `client_addr` is what the client says or is assigned, and `server_addr` what the server calls itself.
"""

from __future__ import annotations

import struct
from typing import ClassVar, Final

from feature_extractors.content.analyzers.base import MAX_ITEMS, Analyzer, Fields, ParseError, text
from feature_extractors.content.analyzers.ip import address

_HEAD: Final = struct.Struct(">BBBBIHH4s4s4s4s16s")
_COOKIE: Final = b"\x63\x82\x53\x63"
_TYPES: Final = {
    1: "DISCOVER", 2: "OFFER", 3: "REQUEST", 4: "DECLINE", 5: "ACK", 6: "NAK", 7: "RELEASE", 8: "INFORM",
    9: "FORCERENEW", 10: "LEASEQUERY", 11: "LEASEUNASSIGNED", 12: "LEASEUNKNOWN", 13: "LEASEACTIVE",
    14: "BULKLEASEQUERY", 15: "LEASEQUERYDONE", 16: "ACTIVELEASEQUERY", 17: "LEASEQUERYSTATUS", 18: "TLS",
}  # fmt: skip
_WATCH_SECONDS: Final = 30.0  # DHCP::max_txid_watch_time
_SILENCE_SECONDS: Final = 5.0  # after which a transaction is over
_EXPIRY_SECONDS: Final = 10.0  # before which nobody looks whether it is
_MAX_TRANSACTIONS: Final = 1024


class Dhcp(Analyzer):
    """DHCP (RFC 2131): messages joined by transaction id."""

    service: ClassVar[str] = "dhcp"

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        if len(data) < 240:
            raise ParseError("message_too_short")
        op, _, _, _, xid, _, _, client, your, _, _, chaddr = _HEAD.unpack_from(data)
        cookie = data[236:240]
        options = _options(data, 240)
        kind = options.get(53, b"\0")[:1] or b"\0"
        if kind == b"\0":
            raise ParseError("no_message_type")
        if cookie != _COOKIE:
            raise ParseError("bad_cookie")
        self.session.confirm(self.service)
        entry = self._transaction(xid, ts)
        types = entry["msg_types"]
        if isinstance(types, list) and len(types) < MAX_ITEMS:
            types.append(_TYPES.get(kind[0]) or f"Unknown-{kind[0]}")
        mac = ":".join(f"{b:02x}" for b in chaddr[:6])
        if op == 1 and is_orig and (self.session.orig_p == 68 or self.session.resp_p == 67):
            self._client(entry, options, client, mac)
            self.session.claim(entry, "client_addr", True)
        else:
            self._server(entry, options, your, mac)
            if your != b"\0\0\0\0":
                self.session.claim(entry, "server_addr", is_orig)

    def _transaction(self, xid: int, ts: float) -> Fields:
        """The entry of this transaction. A connection that closed has handed out its entry: a late message is lost."""
        transactions = self.session.run.transactions
        found = transactions.get(xid)
        if (
            found is not None
            and (ts - found[2] > _SILENCE_SECONDS or ts - found[1] > _WATCH_SECONDS)
            and ts - found[1] > _EXPIRY_SECONDS
        ):
            found = None
        if found is None:
            fields: Fields = {"duration": 0.0, "msg_types": []}
            self.session.log("dhcp", ts, fields)
            transactions.pop(xid, None)
            transactions[xid] = fields, ts, ts
            self.session.share("dhcp", ts, fields)
            if len(transactions) > _MAX_TRANSACTIONS:
                transactions.popitem(last=False)
            return fields
        fields, began, _ = found
        transactions[xid] = fields, began, ts
        self.session.share("dhcp", began, fields)
        fields["duration"] = ts - began
        return fields

    def _client(self, entry: Fields, options: dict[int, bytes], client: bytes, mac: str) -> None:
        if client != b"\0\0\0\0":
            entry["client_addr"] = address(client)
        if 12 in options:
            entry["host_name"] = text(options[12], 255)
        if 81 in options:
            entry["client_fqdn"] = _fqdn(options[81])
        if len(options.get(61, b"")) >= 7 and options[61][0] == 1:
            entry["mac"] = ":".join(f"{b:02x}" for b in options[61][1:7])
        else:
            entry.setdefault("mac", mac)
        if len(options.get(50, b"")) == 4:
            entry["requested_addr"] = address(options[50])
        if 56 in options:
            entry["client_message"] = text(options[56], 255)

    def _server(self, entry: Fields, options: dict[int, bytes], your: bytes, mac: str) -> None:
        entry.setdefault("mac", mac)
        if your != b"\0\0\0\0":
            entry["assigned_addr"] = address(your)
            entry.setdefault("client_addr", address(your))
            if len(options.get(54, b"")) == 4:
                entry["server_addr"] = address(options[54])
        if 15 in options:
            entry["domain"] = text(options[15].rstrip(b"\0"), 255)
        if len(options.get(51, b"")) == 4:
            entry["lease_time"] = float(int.from_bytes(options[51], "big"))
        if 56 in options:
            entry["server_message"] = text(options[56], 255)


def _options(data: bytes, pos: int) -> dict[int, bytes]:
    """Options by code, the first of each. Raises `ParseError` where they do not end as they should."""
    options: dict[int, bytes] = {}
    while pos < len(data):
        code = data[pos]
        pos += 1
        if code == 255:
            return options
        if code == 0:
            continue
        if pos >= len(data) or pos + 1 + data[pos] > len(data):
            raise ParseError("option_too_short")
        options.setdefault(code, data[pos + 1 : pos + 1 + data[pos]])
        pos += 1 + data[pos]
    raise ParseError("options_without_end")


def _fqdn(option: bytes) -> str:
    if len(option) < 3:
        return ""
    if not option[0] & 4:
        return text(option[3:], 255)
    labels, pos = [], 3
    while pos < len(option) and option[pos]:
        labels.append(option[pos + 1 : pos + 1 + option[pos]])
        pos += 1 + option[pos]
    return text(b".".join(labels) + b".", 255)
