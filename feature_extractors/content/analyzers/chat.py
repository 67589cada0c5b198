"""IRC and XMPP: who joins what under which name, and when a connection turns to TLS.

Mirrors src/analyzer/protocol/{irc,xmpp} and scripts/base/protocols/irc/main.zeek of Zeek 8.2.2.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

from feature_extractors.content.analyzers.base import Fields, ParseError, Session, crowded, text
from feature_extractors.content.analyzers.lines import Lines
from feature_extractors.content.analyzers.mail import LineProtocol

_COMMANDS: Final = frozenset((
    "ADMIN", "AWAY", "CNOTICE", "CPRIVMSG", "CONNECT", "DIE", "ENCAP", "ERROR", "INFO", "INVITE", "ISON", "JOIN",
    "KICK", "KILL", "KNOCK", "LINKS", "LIST", "LUSERS", "MODE", "MOTD", "NAMES", "NAMESX", "NICK", "NOTICE", "OPER",
    "PART", "PASS", "PING", "PONG", "PRIVMSG", "QUIT", "REHASH", "RULES", "SERVER", "SERVICE", "SERVLIST", "SQUERY",
    "SQUIT", "SETNAME", "SILENCE", "STATS", "SUMMON", "TIME", "TOPIC", "TRACE", "UHNAMES", "USER", "USERHOST", "USERIP",
    "USERS", "WALLOPS", "WATCH", "WHO", "WHOIS", "WHOWAS", "STARTTLS",
))  # fmt: skip
_DCC: Final = re.compile(rb"\x01DCC (?:SEND|CHAT|TSEND|TSEND) (\S{1,255}+) (\d{1,10}) (\d{1,5})")
_MAX_LINE_BYTES: Final = 512


class Irc(LineProtocol):
    """Registration, joins and announced file transfers."""

    service: ClassVar[str] = "irc"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._lines = (Lines(_MAX_LINE_BYTES * 16), Lines(_MAX_LINE_BYTES * 16))
        self._nick: str | None = None
        self._user: str | None = None
        self._addl: str | None = None  # what was said last, which Zeek goes on saying
        self._confirmed = False
        self._made = 0  # log entries
        self._said = 0  # bytes of lines, of both sides

    def _pass(self, is_orig: bool, lines: Lines) -> bool:
        lines.past_empty()
        return True

    def _line(self, is_orig: bool, ts: float, line: bytes) -> None:
        self._said += len(line) + 2
        line = line.strip(b" ")
        if line[:1] == b"@":
            line = line.partition(b" ")[2].lstrip(b" ")
        if line[:1] == b":":
            line = line.partition(b" ")[2].lstrip(b" ")
        if not line:
            return
        if len(line) < 3:
            raise ParseError("line_too_short")
        if line[:1].isdigit():
            if not (line[:3].isdigit() and line[3:4] == b" "):
                raise ParseError("bad_reply_number")
            if line[:3] == b"670" and not is_orig:
                self._start_tls()
            return
        word, _, rest = line.partition(b" ")
        command = text(word, 32).upper()
        if is_orig and not self._confirmed and command in _COMMANDS:
            self._confirmed = True
            self.session.confirm(self.service)
        if command in ("PRIVMSG", "NOTICE", "SQUERY"):
            self._dcc(ts, rest)
        if is_orig:
            self._client(ts, command, rest)

    def _client(self, ts: float, command: str, rest: bytes) -> None:
        if command == "NICK":
            nick = text(rest.split(b" ")[0].lstrip(b":"), 128)
            self._entry(ts, command, nick)
            self._nick = nick
        elif command == "USER":
            parts = [part for part in rest.split(b" ", 64) if part]
            real = parts[3].removeprefix(b":") if len(parts) > 3 else b""
            real += b"".join([part + b" " for part in parts[4:]])  # as Zeek puts it together
            user = text(parts[0], 128) if parts else ""
            host = text(parts[1], 128) if len(parts) > 1 else ""
            server = text(parts[2], 128) if len(parts) > 2 else ""
            self._entry(ts, command, user, f"{host} {server} {text(real, 256)}")
            self._user = user
        elif command == "JOIN":
            channels, _, keys = rest.lstrip(b" ").lstrip(b":").partition(b" ")
            passwords = keys.split(b",")
            for i, channel in enumerate(channels.split(b",")[:20]):
                if self.done or self.session.full():
                    continue
                key = passwords[i] if i < len(passwords) else b""
                self._entry(
                    ts, command, text(channel, 128), f" with channel key: '{text(key, 128)}'" if key else ""
                )

    def _entry(self, ts: float, command: str, value: str, addl: str | None = None) -> None:
        if self.done or self.session.full():
            return
        self._made += 1
        if crowded(self._made, self._said):
            self.session.drop(self)
            return
        fields: Fields = {"command": command, "value": value}
        if self._nick is not None:
            fields["nick"] = self._nick
        if self._user is not None:
            fields["user"] = self._user
        if addl is not None:
            self._addl = addl
        if self._addl is not None:
            fields["addl"] = self._addl
        self.session.log("irc", ts, fields)

    def _dcc(self, ts: float, rest: bytes) -> None:
        found = _DCC.search(rest[:1024])
        if not found:
            return
        port = int(found[3])
        if 0 < port < 65536:
            self.session.run.expect(port, "irc-dcc-data", ts)


_TAG: Final = re.compile(rb"<(/?[?:0-9A-Za-z]{1,256}+)[^<>]{0,4096}+>")
_IDLE: Final = re.compile(rb"(?:<[/?]?[0-9A-Za-z]{1,6}>)*+")  # tags too short to be any that matter
_MAX_STREAM_BYTES: Final = 64 * 1024


class Xmpp(LineProtocol):
    """XMPP's tags until it turns to TLS or a login shows that it will not."""

    service: ClassVar[str] = "xmpp"
    needs_start: ClassVar[bool] = True

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._held = [b"", b""]
        self._wants_tls = False

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        turned = self._tls is not None
        if turned:
            super().data(is_orig, ts, data)
            return
        held = self._held[is_orig] + data
        pos = 0
        while True:
            if (idle := _IDLE.match(held, pos)) is not None:
                pos = idle.end()
            start = held.find(b"<", pos)
            if start < 0:
                pos = len(held)
                break
            end = held.find(b">", start)
            if end < 0:
                pos = start
                break
            tag = _TAG.match(held, start, end + 1)
            if tag is None:
                raise ParseError("not_a_tag")
            pos = end + 1
            self._tag(is_orig, tag[1])
            if self._tls is not None or self.done:
                return
        self._held[is_orig] = held[pos:]
        if len(self._held[is_orig]) > 4096:
            raise ParseError("tag_too_long")

    def _tag(self, is_orig: bool, name: bytes) -> None:
        local = name.rpartition(b":")[2]
        if is_orig and name == b"stream:stream":
            self.session.confirm(self.service)
        if name in (b"success", b"message", b"db:result", b"db:verify", b"presence"):
            self.stop()
        elif is_orig and local == b"starttls":
            self._wants_tls = True
        elif not is_orig and local == b"proceed" and self._wants_tls:
            self._start_tls()
