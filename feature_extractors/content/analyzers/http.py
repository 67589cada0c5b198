"""HTTP/1: requests and responses with their headers, paired; what bodies hold is `http_body`'s.

Mirrors src/analyzer/protocol/http/HTTP.cc and scripts/base/protocols/http/main.zeek of Zeek 8.2.2. Bodies of known
length are passed over without being looked at beyond their first bytes, but for compressed ones.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

from feature_extractors.content.analyzers.base import (
    MAX_ITEMS,
    NEVER,
    Analyzer,
    Fields,
    ParseError,
    Session,
    crowded,
    number,
    text,
)
from feature_extractors.content.analyzers.http_body import Body, Budget
from feature_extractors.content.analyzers.http_words import (
    PROXY_HEADERS,
    WRITTEN,
    read_as,
    unescape,
    username,
)
from feature_extractors.content.analyzers.lines import Lines
from feature_extractors.content.analyzers.mime import filename

MAX_HEADERS: Final = 512  # header lines of one message; what follows is not looked at
MAX_CHUNKS: Final = 100_000  # chunks of one body

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VERSION: Final = re.compile(rb"[0-9]\.[0-9]")
_RANGE: Final = re.compile(rb"bytes\s+([0-9]{1,15})\s*-\s*([0-9]{1,15})\s*/\s*([0-9]{1,15}|\*)?")

# Methods that Zeek knows (HTTP::http_methods)
_METHODS: Final = frozenset((
    b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE", b"CONNECT", b"PROPFIND", b"PROPPATCH", b"MKCOL",
    b"COPY", b"MOVE", b"LOCK", b"UNLOCK", b"POLL", b"REPORT", b"SUBSCRIBE", b"BMOVE", b"SEARCH",
))  # fmt: skip

# What a direction waits for
_LINE, _HEADERS, _BODY, _CHUNK_SIZE, _CHUNK, _CHUNK_END, _TRAILER, _TO_END, _NOTHING, _OLD_REPLY = range(10)
# bytes of a body that are not looked at, though what is missing is to be logged
_WORTH_PASSING: Final = 1024 * 1024
_BODIES: Final = frozenset((_BODY, _CHUNK, _TO_END))


# What most sides never need one of their own of; nothing is ever put into these.
_NO_ENTRY: Final[Fields] = {}
_NOT_FOLDED: Final[list[bytes]] = []


class _Side:
    """One direction: where its parser stands, and the message under way."""

    __slots__ = (
        "body", "chunks", "close", "content_length", "entry", "expects_body", "folded", "headers",
        "left", "lines", "name", "ongoing", "state", "upgrade", "upgrade_to", "value", "value_size", "version",
    )  # fmt: skip

    def __init__(self, body: Body) -> None:
        self.lines = Lines()
        self.body = body
        self.state = _LINE
        self.entry = _NO_ENTRY
        self.ongoing = False
        self.version = b""
        self.close = False
        self.reset(True)

    def reset(self, expects_body: bool | None) -> None:
        self.body.reset()
        self.expects_body = expects_body  # None: maybe
        self.content_length = -1
        self.left = 0
        self.chunks = -1  # -1: not chunked
        self.headers = 0
        self.name = b""
        self.value = b""
        self.folded = _NOT_FOLDED  # what further lines add to the value
        self.value_size = 0
        self.upgrade = False
        self.upgrade_to = b""


class Http(Analyzer):
    """Requests paired with responses in order; `CONNECT` and upgrades hand on to what the connection turns to."""

    service: ClassVar[str] = "http"
    needs_start: ClassVar[bool] = True

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        budget = self._budget = Budget(session)
        self._sides = (_Side(Body(budget, False)), _Side(Body(budget, True)))  # responder's, originator's
        self._methods: list[bytes] = []  # of requests without a response
        self._pending: dict[int, Fields] = {}  # entries by number of the transaction
        self._request = 0
        self._response = 0
        self._depth = 0
        self._said = 0  # bytes of lines, of both sides
        self._connect = False
        self._code = 0
        self._inside: Analyzer | None = None
        self._ts = 0.0

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        if self._inside is not None:
            self.session.feed(self._inside, is_orig, ts, data)
            return
        self._ts = ts = max(ts, self._ts)
        side = self._sides[is_orig]
        lines, budget = side.lines, self._budget
        if side.state == _OLD_REPLY:  # an answer of HTTP/0.9 is a body alone
            self._begin_reply(side, b"0.9", 0, b"<empty>", True)
            side.state = _TO_END
        if len(lines) or side.state not in _BODIES:
            lines.feed(data)
            data = b""
        while True:
            state = side.state
            if state in _BODIES:
                wanted = NEVER if state == _TO_END else side.left
                if len(lines):
                    body = lines.take(wanted)
                elif len(data) > wanted:
                    body = data[:wanted]
                    lines.feed(data[wanted:])
                    data = b""
                elif data:
                    body, data = data, b""
                else:
                    return
                side.body.take(ts, body, side.entry)
                if budget.unpacked:
                    self.examined += budget.unpacked
                    budget.unpacked = 0
                if state == _TO_END:
                    continue
                side.left -= len(body)
                if side.left == 0:
                    if state == _BODY:
                        self._done(is_orig)
                    else:
                        side.state = _CHUNK_END
                continue
            if state == _NOTHING:
                lines.rest()
                return
            if state == _CHUNK_SIZE and (few := lines.chunks(MAX_CHUNKS - 1 - side.chunks))[1]:
                side.chunks += few[1]
                side.body.take(ts, few[0], side.entry)
                continue
            before = len(lines)
            if state == _HEADERS and (block := lines.block()) is not None:
                self._said += before - len(lines)
                self._header_block(is_orig, side, block)
            elif state in (_HEADERS, _TRAILER) and side.headers >= MAX_HEADERS:
                self._header_whole(is_orig, side)
                if not lines.past_blank():
                    return
                self._header_line(is_orig, side, b"")
            else:
                line = lines.line()
                if line is None:
                    return
                self._said += before - len(lines)
                self._line(is_orig, side, line)
            if self.done or self._hand_on(is_orig, ts, lines):
                return

    def _hand_on(self, is_orig: bool, ts: float, lines: Lines) -> bool:
        """Where the connection has turned to something else, gives it what is left."""
        if self._inside is None:
            return False
        if len(lines):
            self.session.feed(self._inside, is_orig, ts, lines.rest())
        return True

    def gap(self, is_orig: bool, length: int) -> None:
        if self._inside is not None:
            self._inside.gap(is_orig, length)
            return
        side = self._sides[is_orig]
        if side.state in (_BODY, _CHUNK) and length <= side.left and not len(side.lines):
            side.left -= length
            side.body.passed(self._ts, length)
            if side.left == 0:
                if side.state == _BODY:
                    self._done(is_orig)
                else:
                    side.state = _CHUNK_END
            return
        if is_orig:
            self._interrupt(True)
            self._interrupt(False)
            self._sides[1].state = _NOTHING
        else:
            self._interrupt(False)
        side.state = _NOTHING
        if all(s.state == _NOTHING for s in self._sides):
            self.stop()

    def skip(self, is_orig: bool) -> int:
        if self._inside is not None:
            return self._inside.skip(is_orig)
        side = self._sides[is_orig]
        if self.done or side.state == _NOTHING:
            return NEVER
        body = side.body
        if (
            body.parts is not None
            or body.decoder is not None
            or body.undecodable
            or not body.sniffed
            or side.state not in (_BODY, _CHUNK)
        ):
            return 0
        if not self.session.logs:
            return side.left
        # The last byte is wanted, for the time at which the file ends; all are where some were missing before.
        if self.session.had_gap or side.left < _WORTH_PASSING or body.parts is not None:
            return 0
        body.offered = True
        return side.left - 1

    def end(self) -> None:
        if self._inside is not None:
            self._inside.end()
            return
        for is_orig in (True, False):
            self._interrupt(is_orig)

    def _line(self, is_orig: bool, side: _Side, line: bytes) -> None:
        state = side.state
        if state == _LINE:
            if is_orig:
                self._request_line(side, line)
            else:
                self._status_line(side, line)
        elif state in (_HEADERS, _TRAILER):
            self._header_line(is_orig, side, line)
        elif state == _CHUNK_SIZE:
            size = number(line, 16) or 0
            side.chunks += 1
            if size > 0 and side.chunks < MAX_CHUNKS:
                side.left = size
                side.state = _CHUNK
            else:
                side.state = _TRAILER
                side.name = b""
        elif state == _CHUNK_END:
            side.state = _CHUNK_SIZE

    def _request_line(self, side: _Side, line: bytes) -> None:
        token = _TOKEN.match(line)
        if token is None or not (rest := line[token.end() :]).startswith((b" ", b"\t")):
            if not line:
                return
            self._bad_request(line, token is None)
            raise ParseError("not_a_request_line")
        rest = rest.lstrip(b" \t")
        at = len(rest) - 9
        if at < 0 or rest[at:-3] != b" HTTP/":  # nearly all end so
            upper = rest.upper()
            at = upper.rfind(b" HTTP/")
            if at < 0:
                at = upper.rfind(b"\tHTTP/")
        version = b"0.9"
        if rest[:5].upper() == b"HTTP/":
            uri, version = b"", rest[5:]
        elif at >= 0:
            uri, version = rest[:at].rstrip(b" \t"), rest[at + 6 :]
        else:
            uri = rest[:-1] if b" " in rest else rest  # Zeek, too, loses the last character here
        method = token.group()
        if version == b"0.9" and (len(method) < 3 or not uri):
            self._bad_request(line, False)
            raise ParseError("not_a_request_line")
        if not _VERSION.match(version):
            version = b"0.0"
        side.version = version[:3]
        self.session.confirm(self.service)
        if len(self._methods) < self.session.limits.transactions:
            self._methods.append(method)
        if method.upper() == b"CONNECT":
            self._connect = True
        self._request = max(self._request, self._response)
        if len(self._pending) > self.session.limits.transactions:
            self._pending.clear()
            self._response = self._request
        self._request += 1
        entry = self._open(self._request)
        entry["method"] = text(method)
        if method not in _METHODS:
            self.session.weird(self._ts, "unknown_HTTP_method", "", text(method))
        entry["uri"] = text(unescape(uri))
        side.entry = entry
        side.reset(None)
        side.ongoing = True
        side.state = _HEADERS
        if version == b"0.9":
            if method != b"GET":
                self.session.weird(self._ts, "invalid_http_09_request_method", "HTTP", text(method))
            reply = self._sides[0]
            if reply.state == _LINE:
                reply.state = _OLD_REPLY

    def _bad_request(self, line: bytes, no_method: bool) -> None:
        with_version = no_method and line[-9:-3].upper() == b" HTTP/"
        self.session.weird(
            self._ts, "bad_HTTP_request_with_version" if with_version else "bad_HTTP_request", "HTTP"
        )

    def _status_line(self, side: _Side, line: bytes) -> None:
        if line[:5].upper() != b"HTTP/":
            if not line:
                return
            raise ParseError("not_a_reply_line")
        parts = line[5:].split(None, 2)
        if len(parts) < 2 or len(parts[1]) < 3 or line[5:6] in (b" ", b"\t"):
            raise ParseError("not_a_reply_line")
        code = int(parts[1][:3]) if parts[1][:3].isdigit() else 0
        reason = parts[2] if len(parts) > 2 else b""
        version = parts[0][:3] if _VERSION.match(parts[0]) else b"0.0"
        if self._methods:
            self.session.confirm(self.service)
        method = self._methods[0] if self._methods else b""
        nothing = method.upper() == b"HEAD" or 100 <= code < 200 or code in (204, 304)
        has_reason = len(parts) > 2 or line.endswith((b" ", b"\t"))
        self._begin_reply(side, version, code, reason if has_reason else b"<empty>", not nothing)

    def _begin_reply(self, side: _Side, version: bytes, code: int, reason: bytes, has_body: bool) -> None:
        if self._connect and code != 200:
            self._connect = False
        current = self._pending.get(self._response)
        status = current.get("status_code") if current is not None else None
        if current is None or (isinstance(status, int) and not 100 <= status <= 199):
            self._response += 1
        entry = self._open(self._response)
        entry["status_code"] = code
        if not self.session.brief:
            entry["status_msg"] = text(reason)
            entry["version"] = version.decode("ascii")
        if 100 <= code <= 199:
            entry["info_code"] = code
            entry["info_msg"] = text(reason)
        self._code = code
        side.version = version
        side.entry = entry
        side.reset(has_body)
        side.ongoing = True
        side.state = _HEADERS

    def _open(self, transaction: int) -> Fields:
        entry = self._pending.get(transaction)
        if entry is None:
            self._depth += 1
            entry = {"trans_depth": self._depth, "request_body_len": 0, "response_body_len": 0}
            if crowded(self._depth, self._said):
                self.session.drop(self)
                return entry
            if self.session.logs:
                entry["tags"] = []
            self.session.log("http", self._ts, entry)
            self._pending[transaction] = entry
        return entry

    def _header_block(self, is_orig: bool, side: _Side, block: list[bytes]) -> None:
        """All remaining header lines at once, none of them folded."""
        room = max(MAX_HEADERS - side.headers, 0)
        side.headers += min(len(block), room)
        if len(block) > room:
            del block[room:]
        self._header_whole(is_orig, side)
        for line in block:
            if (colon := line.find(b":")) < 0:
                continue
            name = line[:colon]
            read = WRITTEN.get(name)
            if read is None:
                read = read_as(name)
            if read:
                self._header(is_orig, side, read, line[colon + 1 :].strip(b" \t\r\n"))
        self._headers_done(is_orig, side)

    def _header_line(self, is_orig: bool, side: _Side, line: bytes) -> None:
        if line[:1] in (b" ", b"\t") and side.name:
            side.headers += 1
            if side.value_size + len(line) <= 8192:
                if not side.folded:
                    side.folded = []
                side.folded.append(line.strip())
                side.value_size += 1 + len(side.folded[-1])
            return
        self._header_whole(is_orig, side)
        if not line:
            if side.state == _TRAILER:
                self._done(is_orig)
            else:
                self._headers_done(is_orig, side)
            return
        side.headers += 1
        if side.headers > MAX_HEADERS:
            return
        name, colon, value = line.partition(b":")
        if colon:
            side.name = name.strip().upper()
            side.value = value.strip(b" \t\r\n")
            side.value_size = len(side.value)

    def _header_whole(self, is_orig: bool, side: _Side) -> None:
        """The header under way has no further lines; one of a trailer is not looked at."""
        if side.name and side.state == _HEADERS:
            value = b" ".join([side.value, *side.folded]) if side.folded else side.value
            self._header(is_orig, side, side.name, value)
        side.name = b""
        side.folded = _NOT_FOLDED

    def _header(self, is_orig: bool, side: _Side, name: bytes, value: bytes) -> None:
        entry = side.entry
        if name == b"CONTENT-LENGTH":
            side.content_length = number(value) or 0
        elif name == b"TRANSFER-ENCODING":
            other = self._sides[1] if self._sides[1].ongoing else self._sides[0]
            if value[:7].lower() == b"chunked" and other.version == b"1.1":
                side.chunks = 0
        elif name == b"CONTENT-ENCODING":
            side.body.unpack(value.split(b";")[0].strip().lower())
        elif name == b"CONTENT-TYPE":
            if value.split(b";")[0].strip().lower().startswith(b"multipart/"):
                side.body.multipart = value[:1024]
            if value.lower().find(b"name") >= 0:
                side.body.filename = filename(value) or side.body.filename
        elif name == b"CONTENT-DISPOSITION" and b"filename" in value.lower():
            side.body.filename = filename(value) or side.body.filename
        elif name == b"CONTENT-RANGE" and not is_orig and self._code == 206:
            span = _RANGE.match(value)
            if span and int(span[2]) >= int(span[1]):
                side.content_length = max(side.content_length, int(span[2]) - int(span[1]) + 1)
                side.body.total = int(span[3]) if span[3] and span[3].isdigit() else 0
        elif is_orig:
            if name == b"HOST":
                entry["host"] = text(value)
            elif name == b"USER-AGENT":
                entry["user_agent"] = text(value)
            elif name == b"REFERER":
                entry["referrer"] = text(value)
            elif name == b"ORIGIN":
                entry["origin"] = text(value)
            elif name in PROXY_HEADERS:
                proxied = entry.setdefault("proxied", [])
                said = f"{text(name)} -> {text(value)}"
                if isinstance(proxied, list) and said not in proxied and len(proxied) < MAX_ITEMS:
                    proxied.append(said)
            elif name in (b"AUTHORIZATION", b"PROXY-AUTHORIZATION") and value[:6].lower() == b"basic ":
                entry["username"] = username(value)
        elif name == b"CONNECTION":
            token = value.split(b",")[0].strip().lower()
            if token == b"close":
                side.close = True
            elif token == b"upgrade":
                side.upgrade = True
        elif name == b"UPGRADE":
            side.upgrade_to = value.split(b",")[0].strip()[:64]

    def _headers_done(self, is_orig: bool, side: _Side) -> None:
        if not is_orig and self._connect:
            self._connect = False
            self._inside = self.session.child("pia")
            self._finish(False)
            if self._inside is None:
                self.stop()
            return
        if side.expects_body is False:
            self._done(is_orig)
        elif side.chunks >= 0:
            side.state = _CHUNK_SIZE
        elif side.content_length > 0:
            if side.body.total < 0 and side.body.decoder is None:
                side.body.total = side.content_length
            side.left = side.content_length
            side.state = _BODY
        elif side.content_length == 0:
            self._done(is_orig)
        elif self._sides[0].close or side.body.decoder is not None or side.expects_body:
            side.state = _TO_END
        else:
            self._done(is_orig)

    def _finish(self, is_orig: bool) -> None:
        """The message under way has ended here: its lengths are known."""
        side = self._sides[is_orig]
        if not side.ongoing:
            return
        side.ongoing = False
        side.body.finish(self._ts, side.entry)
        side.entry["request_body_len" if is_orig else "response_body_len"] = side.body.length
        if is_orig:
            return
        status = side.entry.get("status_code")
        if isinstance(status, int) and 100 <= status <= 199:
            return
        self.session.at(side.entry, self._ts)
        self._pending.pop(self._response, None)
        if self._methods:
            del self._methods[0]

    def _done(self, is_orig: bool) -> None:
        side = self._sides[is_orig]
        upgrades = not is_orig and self._code == 101 and side.upgrade and side.upgrade_to
        self._finish(is_orig)
        side.state = _LINE
        if upgrades:
            kind = "websocket" if side.upgrade_to.lower() == b"websocket" else "pia"
            self._inside = self.session.child(kind)
            if self._inside is None:
                self.stop()

    def _interrupt(self, is_orig: bool) -> None:
        self._finish(is_orig)
        self._sides[is_orig].state = _NOTHING
