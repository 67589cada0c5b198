"""MySQL: logins and commands with their outcome, as mysql.log has them.

Mirrors src/analyzer/protocol/mysql and scripts/base/protocols/mysql/main.zeek of Zeek 8.2.2.
"""

from __future__ import annotations

from typing import ClassVar, Final

from feature_extractors.content.analyzers.base import (
    NEVER,
    Analyzer,
    Fields,
    Framed,
    ParseError,
    Session,
    text,
)

_COMMANDS: Final = (
    "sleep", "quit", "init_db", "query", "field_list", "create_db", "drop_db", "refresh", "shutdown", "statistics",
    "process_info", "connect", "process_kill", "debug", "ping", "time", "delayed_insert", "change_user", "binlog_dump",
    "table_dump", "connect_out", "register_slave", "prepare", "execute", "long_data", "close_stmt", "reset_stmt",
    "set_option", "fetch", "daemon", "binlog_dump_gtid", "reset_connection",
)  # fmt: skip
_SSL: Final = 0x0800
_MAX_PACKET_BYTES: Final = 64 * 1024  # of one packet that is looked at; longer ones are passed over


class Mysql(Analyzer):
    """The MySQL client/server protocol: one client connection."""

    service: ClassVar[str] = "mysql"
    needs_start: ClassVar[bool] = True

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._streams = (Framed(_MAX_PACKET_BYTES + 4), Framed(_MAX_PACKET_BYTES + 4))
        self._skip = [0, 0]
        self._greeted = False
        self._logged_in = False
        self._entry: Fields | None = None
        self._tls: Analyzer | None = None
        self._state = "idle"  # what the next packet of the server is: of a result, columns, rows, or anything
        self._columns = 0
        self._version = 10
        self._eof_deprecated = False
        self._attributes = False  # queries begin with attributes

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        if self._tls is not None:
            self.session.feed(self._tls, is_orig, ts, data)
            self.done = self._tls.done
            return
        skipped = min(self._skip[is_orig], len(data))
        self._skip[is_orig] -= skipped
        data = data[skipped:]
        stream = self._streams[is_orig]
        stream.feed(data)
        while (head := stream.peek(4)) is not None:
            length = head[0] | head[1] << 8 | head[2] << 16
            if length > _MAX_PACKET_BYTES:
                gone = stream.drop(4 + length)
                self._skip[is_orig] = 4 + length - gone
                return
            packet = stream.take(4 + length)
            if packet is None:
                return
            if is_orig:
                self._client(ts, packet[3], packet[4:])
            else:
                self._server(packet[3], packet[4:])
            if self._hand_on(is_orig, ts, stream):
                return

    def _hand_on(self, is_orig: bool, ts: float, stream: Framed) -> bool:
        """Where the connection has turned to TLS, gives it what is left."""
        if self._tls is None:
            return False
        if len(stream):
            self.session.feed(self._tls, is_orig, ts, stream.rest())
        return True

    def skip(self, is_orig: bool) -> int:
        if self.done:
            return NEVER
        return self._tls.skip(is_orig) if self._tls is not None else self._skip[is_orig]

    def end(self) -> None:
        if self._tls is not None:
            self._tls.end()

    def _client(self, ts: float, sequence: int, packet: bytes) -> None:
        if not self._logged_in:
            if self._greeted and sequence in (1, 2):
                self._login(ts, packet)
            return
        if sequence != 0 or not packet:
            return
        command = packet[0]
        name = _COMMANDS[command] if command < len(_COMMANDS) else f"unknown-{command}"
        self._entry = self.session.log("mysql", ts, {"cmd": name})
        argument = packet[1:].removesuffix(b"\0")
        if command == 3 and self._attributes and argument.startswith(b"\0"):
            argument = argument[2:]  # no attributes, and how many sets of them
        self._entry["arg"] = text(argument)
        if command == 17:
            self._entry["arg"] = text(argument.split(b"\0")[0], 512)
        self._state = "result"
        if name in ("quit", "close_stmt", "long_data"):
            self._entry = None
            self._state = "idle"

    def _login(self, ts: float, packet: bytes) -> None:
        if len(packet) < 4:
            raise ParseError("login_too_short")
        flags = packet[0] | packet[1] << 8
        self.session.confirm(self.service)
        if flags & 0x0200:  # protocol 4.1
            extended = int.from_bytes(packet[:4], "little")
            self._eof_deprecated = bool(extended & 0x01000000)
            self._attributes = bool(extended & 0x08000000)
            if flags & _SSL:
                self._tls = self.session.child("ssl")
                if self._tls is None:
                    self.stop()
                return
            user = packet[32:].split(b"\0", 1)[0]
        else:
            user = packet[5:].split(b"\0", 1)[0]
        self._logged_in = True
        self._state = "login"
        if self._entry is None:
            self._entry = self.session.log("mysql", ts, {"cmd": "login", "arg": text(user, 512)})

    def _server(self, sequence: int, packet: bytes) -> None:
        if not packet:
            return
        if not self._greeted:
            if packet[0] not in (9, 10, 255):
                raise ParseError("no_greeting")
            self._greeted = packet[0] != 255
            self._version = packet[0]
            return
        first = packet[0]
        if self._entry is None or self._state == "idle":
            return
        if first == 0xFF:
            message = packet[3:]
            if message[:1] == b"#":
                message = message[6:]
            self._entry["success"] = False
            self._entry["response"] = text(message, 1024)
            self._finish()
        elif self._state == "login":
            if first == 0:
                self._succeed(packet)
            elif first == 0xFE and len(packet) < 2:
                return
        elif self._state == "result":
            if first == 0:
                self._succeed(packet)
            elif first == 0xFE and len(packet) < 9:
                self._succeed(b"\0\0")
            else:
                self._state = "columns"
        elif first == 0xFE and len(packet) < 9:
            if self._state == "columns" and not self._eof_deprecated:
                self._state = "rows"
            else:
                self._succeed(b"\0\0")
        elif first == 0xFE and self._eof_deprecated and len(packet) < 64:
            self._succeed(b"\0\0")

    def _succeed(self, packet: bytes) -> None:
        if self._entry is not None:
            self._entry["success"] = True
            self._entry["rows"] = _length_encoded(packet[1:])
        self._finish()

    def _finish(self) -> None:
        self._entry = None
        self._state = "idle"


def _length_encoded(raw: bytes) -> int:
    if not raw or raw[0] < 0xFB:
        return raw[0] if raw else 0
    size = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(raw[0], 0)
    return int.from_bytes(raw[1 : 1 + size], "little")
