"""SMTP, POP3 and IMAP: envelopes and headers of mail sent, and when a connection turns to TLS.

Mirrors src/analyzer/protocol/{smtp,pop3,imap} and scripts/base/protocols/smtp/main.zeek of Zeek 8.2.2. Bodies are
passed over line by line and never kept.
"""

from __future__ import annotations

import re
from collections import deque
from typing import ClassVar, Final

from feature_extractors.content.analyzers.base import (
    MAX_ITEMS,
    Analyzer,
    Fields,
    ParseError,
    Session,
    text,
)
from feature_extractors.content.analyzers.lines import Lines
from feature_extractors.content.analyzers.mime import Holder, Mime

_MAIL: Final = re.compile(rb"([A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]++)(?:@([A-Za-z0-9.\[\]:-]{1,255}+))?")
_IP: Final = re.compile(rb"(?<![0-9.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9.])")
_COMMANDS: Final = frozenset((
    b"EHLO", b"HELO", b"MAIL", b"RCPT", b"DATA", b"QUIT", b"RSET", b"VRFY", b"EXPN", b"HELP", b"NOOP", b"STARTTLS",
    b"BDAT", b"ETRN", b"ERROR", b"TURN", b"SEND", b"SOML", b"SAML", b"AUTH", b"X-ANONYMOUSTLS",
))  # fmt: skip
_POP3_COMMANDS: Final = frozenset((
    b"USER", b"PASS", b"APOP", b"CAPA", b"STLS", b"AUTH", b"STAT", b"LIST", b"RETR", b"QUIT", b"UIDL", b"TOP", b"DELE",
    b"NOOP", b"RSET",
))  # fmt: skip
_MAX_HEADERS: Final = 200
_HEADERS: Final = {
    b"MESSAGE-ID": "msg_id", b"IN-REPLY-TO": "in_reply_to", b"SUBJECT": "subject", b"FROM": "from",
    b"REPLY-TO": "reply_to", b"DATE": "date", b"X-MAILER": "user_agent", b"USER-AGENT": "user_agent",
    b"X-USER-AGENT": "user_agent",
}  # fmt: skip


class LineProtocol(Analyzer):
    """An analyzer of a line protocol that may turn to TLS."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._lines = (Lines(), Lines())
        self._tls: Analyzer | None = None

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        if self._tls is not None:
            self.session.feed(self._tls, is_orig, ts, data)
            self.done = self._tls.done
            return
        lines = self._lines[is_orig]
        lines.feed(data)
        while not self.done:
            if not self._pass(is_orig, lines):
                return
            line = lines.line()
            if line is None:
                return
            self._line(is_orig, ts, line)
            if self._hand_on(is_orig, ts, lines):
                return

    def _pass(self, is_orig: bool, lines: Lines) -> bool:
        """Passes over lines that say nothing; False where it takes more bytes to know how many they are."""
        return True

    def _hand_on(self, is_orig: bool, ts: float, lines: Lines) -> bool:
        """Where the connection has turned to TLS, gives it what is left."""
        if self._tls is None:
            return False
        if len(lines):
            self.session.feed(self._tls, is_orig, ts, lines.rest())
        return True

    def end(self) -> None:
        if self._tls is not None:
            self._tls.end()

    def _line(self, is_orig: bool, ts: float, line: bytes) -> None:
        raise NotImplementedError

    def _start_tls(self) -> None:
        self._tls = self.session.child("ssl")
        if self._tls is None:
            self.stop()


class _Files(Holder):
    """The files of mails, which smtp.log names."""

    def __init__(self) -> None:
        self.row: Fields = {}

    def begins(self, fuid: str, name: bytes) -> None:
        named = self.row.get("fuids")
        if isinstance(named, list) and len(named) < MAX_ITEMS:
            named.append(fuid)

    def is_kind(self, kind: str) -> None:
        """smtp.log does not say."""


class Smtp(LineProtocol):
    """SMTP (RFC 5321): mail transactions."""

    service: ClassVar[str] = "smtp"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._entry: Fields | None = None
        self._active = False  # the entry has an envelope
        self._helo: bytes | None = None
        self._sent = 0
        self._waiting: deque[bytes] = deque()  # commands without a reply
        self._continued = False
        self._replied = b">"
        self._state = "command"
        self._headers = 0
        self._in_header = False
        self._name = b""
        self._value = b""
        self._chunk = 0
        self._last = False  # the chunk under way is the last of its mail
        self._in_mail = False  # of chunks
        self._mail = Lines()  # what chunks hold
        self._files = _Files()
        self._mime: Mime | None = None
        self._depth = 0  # parts of mails so far

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        if is_orig and self._chunk and self._tls is None:
            n = min(self._chunk, len(data))
            self._chunked(ts, data[:n])
            data = data[n:]
            if not data:
                return
        super().data(is_orig, ts, data)

    def _hand_on(self, is_orig: bool, ts: float, lines: Lines) -> bool:
        if is_orig and self._chunk and self._tls is None and len(lines):
            self._chunked(ts, lines.take(self._chunk))
        return super()._hand_on(is_orig, ts, lines)

    def _chunked(self, ts: float, data: bytes) -> None:
        """What is in a chunk (RFC 3030), whole lines of which are looked at."""
        self._chunk -= len(data)
        if not self.session.logs:
            return
        self._mail.feed(data)
        while (line := self._mail.line()) is not None:
            self._mail_line(ts, line)
        if not self._chunk and self._last:
            self._chunks_end(ts)

    def _chunks_end(self, ts: float) -> None:
        if len(self._mail):
            self._mail_line(ts, self._mail.rest())
        self._mail_ends(ts)
        self._in_mail = False

    def _mail_begins(self, entry: Fields) -> None:
        self._in_header, self._headers = True, 0
        if self.session.logs:
            self._files.row = entry
            self._depth += 1
            self._mime = Mime(self.session, "SMTP", True, self._files, self._depth)

    def _mail_ends(self, ts: float) -> None:
        self._header()
        if self._mime is not None:
            self._mime.finish(ts)
            self._depth = self._mime.depth
            self._mime = None

    def _log(self, ts: float) -> Fields:
        if self._entry is None:
            self._entry = {"trans_depth": self._sent + 1, "tls": False}
            if self._helo is not None:
                self._entry["helo"] = text(self._helo, 512)
            if self.session.logs:
                self._entry["fuids"] = []
            self.session.log("smtp", ts, self._entry)
        return self._entry

    def end(self) -> None:
        super().end()
        if self._mime is not None:
            self._mail_ends(self._ts)
        if self._entry is not None and not self._active and not self._entry.get("tls"):
            self.session.at(self._entry, -1.0)
        if self._entry is not None and not self._active and self._sent:
            self._entry.clear()
            self.session.at(self._entry, -1.0)

    def _line(self, is_orig: bool, ts: float, line: bytes) -> None:
        line = line.rstrip(b"\r")
        self._ts = ts
        if not is_orig:
            self._reply(ts, line)
        elif self._state == "data":
            if line == b".":
                self._mail_ends(ts)
                self._state = "command"
                self._wait(b".")
                return
            self._mail_line(ts, line[1:] if line.startswith(b".") else line)
        elif self._state == "auth":
            self._state = "command"
            self._wait(b"***")
            self.session.confirm(self.service)
        else:
            self._command(ts, line)

    def _pass(self, is_orig: bool, lines: Lines) -> bool:
        if not is_orig:
            return True
        if self._state == "data":
            return self._in_header or self._mime is not None or lines.past_body()
        if self._state != "auth":
            lines.past_short(3)  # no command is as short
        return True

    def _wait(self, command: bytes) -> None:
        if len(self._waiting) < self.session.limits.transactions * 10:
            self._waiting.append(command)

    def _command(self, ts: float, line: bytes) -> None:
        word, _, argument = line.lstrip().partition(b" ")
        word = word.upper()
        argument = argument.strip()
        if word not in _COMMANDS:
            return
        self.session.confirm(self.service)
        self._wait(word)
        entry = self._log(ts)
        if word in (b"HELO", b"EHLO"):
            self._helo = argument
            entry["helo"] = text(argument, 512)
        elif word == b"MAIL" and argument[:5].upper() == b"FROM:":
            if self._active:
                self._next(ts)
                entry = self._log(ts)
            sender = _address(argument[5:])
            if sender:
                entry["mailfrom"] = sender
            self._active = True
        elif word == b"RCPT" and argument[:3].upper() == b"TO:":
            receiver = _address(argument[3:])
            receivers = entry.setdefault("rcptto", [])
            if (
                receiver
                and isinstance(receivers, list)
                and len(receivers) < MAX_ITEMS
                and receiver not in receivers
            ):
                receivers.append(receiver)
            self._active = True
        elif word == b"DATA":
            self._state = "data?"
        elif word == b"BDAT":
            size = argument.split(b" ")[0]
            self._chunk = int(size) if size.isdigit() and len(size) < 12 else 0
            self._last = argument.upper().endswith(b" LAST")
            if not self._in_mail and self.session.logs:
                self._in_mail = True
                self._mail_begins(entry)
            if self._last and not self._chunk and self.session.logs:
                self._chunks_end(ts)

    _ts: float = 0.0

    def _mail_line(self, ts: float, line: bytes) -> None:
        if self._mime is not None:
            self._mime.line(ts, line)
        if not self._in_header:
            return
        if line[:1] in (b" ", b"\t") and self._name:
            if len(self._value) + len(line) < 4096:
                self._value += (
                    b" " * (line[:1] == b" ") + (b"\t" if line[:1] == b"\t" else b"") + line.strip()
                )
            return
        self._header()
        if not line:
            self._in_header = False
            return
        name, colon, value = line.partition(b":")
        self._headers += 1
        if colon and self._headers <= _MAX_HEADERS:
            self._name, self._value = name.strip().upper(), value.lstrip()

    def _header(self) -> None:
        name, value, self._name = self._name, self._value, b""
        entry = self._entry
        if not name or entry is None:
            return
        if name in _HEADERS:
            entry[_HEADERS[name]] = text(value)
        elif name == b"RECEIVED":
            if "first_received" in entry:
                entry["second_received"] = entry["first_received"]
            entry["first_received"] = text(value)
            if self.session.logs:
                _add_host(entry, value)
        elif name in (b"TO", b"CC"):
            found: list[str] = []
            for part in _listed(value[:2048]):
                if part.strip() and len(found) < MAX_ITEMS:
                    found.append(text(part.strip()))
            entry[name.lower().decode("ascii")] = list(dict.fromkeys(found))
        elif name == b"X-ORIGINATING-IP":
            ip = _IP.search(value)
            if ip:
                entry["x_originating_ip"] = ip.group().decode("ascii")

    def _reply(self, ts: float, line: bytes) -> None:
        code = int(line[:3]) if line[:3].isdigit() and len(line) >= 3 else -1
        if not 100 <= code <= 599:
            raise ParseError("reply_code_out_of_range")
        if not self._continued:
            self._replied = self._waiting.popleft() if self._waiting else self._replied
        self._continued = line[3:4] == b"-"
        entry = self._log(ts)
        entry["last_reply"] = (
            f"{code} {text(line[4:] if self._continued else line[3:].lstrip(), 512)}".rstrip(" ")
        )
        if not line[4:].strip():
            entry["last_reply"] = f"{code} "
        if self._replied in (b"STARTTLS", b"X-ANONYMOUSTLS") and code == 220 and not self._continued:
            entry["tls"] = True
            self._start_tls()
        elif code == 354 and self._state == "data?":
            self._state = "data"
            self._mail_begins(entry)
        elif self._state == "data?" and code >= 400:
            self._state = "command"
        elif code == 334:
            self._state = "auth"
        elif self._replied == b"." and not self._continued:
            self._sent += 1
            self._replied = b">"
            self._next(ts)
        elif self._replied == b"BDAT" and not self._continued and self._last and self.session.logs:
            self._sent += 1
            self._last = False
            self._next(ts)

    def _next(self, ts: float) -> None:
        if self._entry is not None:
            self.session.at(self._entry, ts)
        self._entry = None
        self._active = False


def _add_host(entry: Fields, received: bytes) -> None:
    """The host that a mail was received from, to those before it: the second address named, or the only one."""
    found = _IP.findall(received[:2048])
    if not found:
        return
    host = found[1 if len(found) > 1 else 0].decode("ascii")
    path = entry.setdefault("path", [])
    if isinstance(path, list) and path[-1:] != [host] and len(path) < MAX_ITEMS:
        path.append(host)


def _address(argument: bytes) -> str:
    """The mail address in an argument of MAIL or RCPT; "" where there is none, as for the empty reverse path."""
    for found in _MAIL.finditer(argument):
        if found[2]:
            return text(found[1][-128:] + b"@" + found[2], 512)
    return ""


def _listed(value: bytes) -> list[bytes]:
    """The parts between commas outside quotes, which are paired from the end: only a comma with an even number of
    quotes behind it counts.
    """
    parts: list[bytes] = []
    begin, quoted = 0, value.count(b'"') % 2 == 1
    for at, byte in enumerate(value):
        if byte == 34:
            quoted = not quoted
        elif byte == 44 and not quoted:
            parts.append(value[begin:at])
            begin = at + 1
    parts.append(value[begin:])
    return parts


class Pop3(LineProtocol):
    """POP3 as far as it shows itself: logins, capabilities, TLS."""

    service: ClassVar[str] = "pop3"
    needs_start: ClassVar[bool] = True

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._waiting: deque[bytes] = deque()
        self._multiline = False

    def _pass(self, is_orig: bool, lines: Lines) -> bool:
        if is_orig:
            lines.past_short(2)
        elif self._multiline:
            return lines.past_body()
        return True

    def _line(self, is_orig: bool, ts: float, line: bytes) -> None:
        word = line.strip().partition(b" ")[0].upper()
        if is_orig:
            if word in _POP3_COMMANDS and len(self._waiting) < self.session.limits.transactions:
                self._waiting.append(word)
            return
        if self._multiline:
            self._multiline = line != b"."
            return
        command = self._waiting[0] if self._waiting else b""
        if word in (b"+OK", b"-ERR") and self._waiting:
            self._waiting.popleft()
        if word == b"+OK":
            if command in (b"USER", b"CAPA", b"STLS", b"PASS", b"APOP"):
                self.session.confirm(self.service)
            if command == b"STLS":
                self._start_tls()
            self._multiline = command in (b"CAPA", b"LIST", b"RETR", b"UIDL", b"TOP")
        elif word not in (b"-ERR", b"+", b"") or (word == b"+" and command != b"AUTH"):
            raise ParseError("unknown_server_command")


class Imap(LineProtocol):
    """IMAP until it turns to TLS or a login shows that it will not."""

    service: ClassVar[str] = "imap"
    needs_start: ClassVar[bool] = True

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._tls_tag: bytes | None = None

    def _line(self, is_orig: bool, ts: float, line: bytes) -> None:
        tag, _, rest = line.partition(b" ")
        exact = rest.partition(b" ")[0]
        command = exact.lower()
        if not is_orig and tag == b"*" and command == b"ok":
            self.session.confirm(self.service)
        if is_orig and (exact == b"capability" or command == b"starttls"):
            self.session.confirm(self.service)
        if exact in (b"authenticate", b"login", b"examine", b"create", b"list", b"fetch"):
            self.session.confirm(self.service)
            self.stop()
        elif is_orig and command == b"starttls":
            self._tls_tag = tag
        elif not is_orig and self._tls_tag is not None and tag == self._tls_tag and command == b"ok":
            self._start_tls()
