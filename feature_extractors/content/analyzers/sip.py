"""SIP over UDP: requests with their replies, as sip.log has them.

Mirrors src/analyzer/protocol/sip and scripts/base/protocols/sip/main.zeek of Zeek 8.2.2: only a reply confirms the
service, and the responder's messages are read as replies.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

from feature_extractors.content.analyzers.base import (
    MAX_ITEMS,
    Analyzer,
    Fields,
    ParseError,
    Session,
    number,
    text,
)

_REQUEST: Final = re.compile(
    rb"[^a-zA-Z0-9_.!%*+`'~-]*+([a-zA-Z0-9_.!%*+`'~-]++)[ \t]*+([!-~]+)[ \t]*SIP/([0-9]+\.[0-9]+)"
)
_REPLY: Final = re.compile(rb"SIP/([0-9]+\.[0-9]+)[ \t]*([0-9]{3})[ \t]*(.*)", re.S)
_HEADER: Final = re.compile(rb"([^: \t]++)[ \t]*+:[ \t]*+(.*)", re.S)
_TAG: Final = re.compile(rb";[ ]?tag=")
_BRANCH: Final = re.compile(rb";[ ]?branch")
_MAX_HEADERS: Final = 200


class Sip(Analyzer):
    """SIP (RFC 3261): one entry per dialogue under way."""

    service: ClassVar[str] = "sip"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._pending: dict[int, Fields] = {}
        self._request = 0
        self._response = 0
        self._began: dict[int, float] = {}

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        if b"\n" not in data or data == b"\r\n":
            return  # a keep-alive
        is_orig = data[:4] != b"SIP/"  # whoever sends it, a reply is the responder's
        head, _, _ = data.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n", _MAX_HEADERS + 1)
        first = lines[0]
        if is_orig:
            found = _REQUEST.match(first)
            if found is None:
                raise ParseError("not_a_request")
            entry = self._entry(ts, self._request)
            entry["method"] = text(found[1], 128)
            entry["uri"] = text(found[2], 1024)
        else:
            found = _REPLY.match(first)
            if found is None:
                raise ParseError("not_a_reply")
            self.session.confirm(self.service)
            entry = self._entry(ts, self._response)
            entry["status_code"] = int(found[2])
            entry["status_msg"] = text(found[3], 512)
        for line in lines[1 : _MAX_HEADERS + 1]:
            header = _HEADER.match(line)
            if header is None:
                if line:
                    raise ParseError("bad_header")
                continue
            name = header[1].upper()
            if is_orig:
                if self._request not in self._pending:
                    self._request += 1
                entry = self._entry(ts, self._request)
                _request_header(entry, name, header[2])
            else:
                if self._response not in self._pending:
                    self._response += 1
                entry = self._entry(ts, self._response)
                _reply_header(entry, name, header[2])
        if not is_orig:
            self._replied(ts, entry)

    def _entry(self, ts: float, n: int) -> Fields:
        entry = self._pending.get(n)
        if entry is None:
            if len(self._pending) >= self.session.limits.transactions:
                self._pending.clear()
                self._began.clear()
            self._began[n] = ts
            entry = self._pending[n] = self.session.log("sip", ts, {
                "trans_depth": self._request, "request_path": [], "response_path": [],
            })  # fmt: skip
        return entry

    def _replied(self, ts: float, entry: Fields) -> None:
        """A reply is whole: Zeek writes what is known, and after a provisional one goes on with the same row."""
        if self.session.logs:
            known: Fields = {name: list(v) if isinstance(v, list) else v for name, v in entry.items()}
            self.session.add("sip", self._began.get(self._response, ts), known, ts)
        code = entry.get("status_code")
        is_final = isinstance(code, int) and not 100 <= code < 200
        if is_final:
            self._pending.pop(self._response, None)
            self.session.at(entry, -1.0)
        ends = entry.get("method") == "BYE" and isinstance(code, int) and 200 <= code < 300
        if "method" not in entry or ends:
            if 0 in self._pending:
                self.session.at(self._pending[0], -1.0)
            self._pending.clear()
            self._began.clear()
            self._request = self._response = 0


def _request_header(entry: Fields, name: bytes, value: bytes) -> None:
    if name == b"CALL-ID":
        entry["call_id"] = text(value, 512)
    elif name in (b"CONTENT-LENGTH", b"L"):
        entry["request_body_len"] = number(value) or 0
    elif name == b"CSEQ":
        entry["seq"] = text(value, 128)
    elif name == b"DATE":
        entry["date"] = text(value, 128)
    elif name in (b"FROM", b"F"):
        entry["request_from"] = text(_TAG.split(value, 1)[0], 1024)
    elif name == b"REPLY-TO":
        entry["reply_to"] = text(value, 1024)
    elif name in (b"SUBJECT", b"S"):
        entry["subject"] = text(value, 1024)
    elif name in (b"TO", b"T"):
        entry["request_to"] = text(value, 1024)
    elif name == b"USER-AGENT":
        entry["user_agent"] = text(value, 1024)
    elif name in (b"VIA", b"V"):
        _path(entry, "request_path", value)


def _reply_header(entry: Fields, name: bytes, value: bytes) -> None:
    if name in (b"CONTENT-LENGTH", b"L"):
        entry["response_body_len"] = number(value) or 0
    elif name in (b"CONTENT-TYPE", b"C"):
        entry["content_type"] = text(value, 256)
    elif name == b"WARNING":
        entry["warning"] = text(value, 1024)
    elif name in (b"FROM", b"F"):
        entry["response_from"] = text(_TAG.split(value, 1)[0], 1024)
    elif name in (b"TO", b"T"):
        entry["response_to"] = text(value, 1024)
    elif name in (b"VIA", b"V"):
        _path(entry, "response_path", value)


def _path(entry: Fields, name: str, value: bytes) -> None:
    path = entry.get(name)
    if isinstance(path, list) and len(path) < MAX_ITEMS:
        path.append(text(_BRANCH.split(value, 1)[0], 512))
