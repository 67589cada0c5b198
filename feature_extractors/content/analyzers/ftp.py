"""FTP commands with their replies, and the data connections they announce, as ftp.log and `service` have them.

Mirrors src/analyzer/protocol/ftp/FTP.cc and scripts/base/protocols/ftp/main.zeek of Zeek 8.2.2. Analyzers do not know
addresses, so `arg` of file commands is the path alone, announced connections are known by port, and an address that is
this connection's own is named by its side.
"""

from __future__ import annotations

import re
from collections import deque
from typing import ClassVar, Final

from feature_extractors.content.analyzers.base import (
    Analyzer,
    Announcer,
    Fields,
    ParseError,
    Session,
    text,
)
from feature_extractors.content.analyzers.files import Carried
from feature_extractors.content.analyzers.ip import address
from feature_extractors.content.analyzers.lines import Lines
from feature_extractors.content.analyzers.magic import mime_type
from feature_extractors.content.analyzers.mail import LineProtocol

_LOGGED: Final = frozenset((
    "APPE", "DELE", "RETR", "STOR", "STOU", "ACCT", "PORT", "PASV", "EPRT", "EPSV",
))  # fmt: skip
_MAX_PENDING: Final = 20  # FTP::max_pending_commands
_FILES: Final = frozenset(("APPE", "DELE", "RETR", "STOR", "STOU"))
_QUOTED: Final = re.compile(rb'"((?:[^"]|"")*)"')
_UP: Final = re.compile(rb"(?:^|/)(?!\.\./)[^/]+/\.\.(?=/|\Z)")
ORIGINATOR: Final = "<orig>"  # whoever writes the row knows the address
RESPONDER: Final = "<resp>"
_GUESTS: Final = frozenset(("anonymous", "ftp", "ftpuser", "guest"))
_PORT: Final = re.compile(rb"(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3})")
_EPRT: Final = re.compile(rb"\|[12]\|([0-9a-fA-F.:]{2,45})\|(\d{1,5})\|")
_EPSV: Final = re.compile(rb"\|\|\|(\d{1,5})\|")
_COMMAND: Final = re.compile(rb"[ \t]*([A-Za-z]{3,4})(?:[ \t]+(.*))?\Z", re.S)
_COMMANDS: Final = frozenset((
    "USER", "PASS", "ACCT", "CWD", "CDUP", "SMNT", "REIN", "QUIT", "PORT", "PASV", "MODE", "TYPE", "STRU", "ALLO",
    "REST", "STOR", "STOU", "RETR", "LIST", "NLST", "APPE", "RNFR", "RNTO", "DELE", "RMD", "MKD", "PWD", "ABOR", "SYST",
    "STAT", "HELP", "SITE", "NOOP", "AUTH", "ADAT", "PROT", "PBSZ", "CCC", "MIC", "CONF", "ENC", "FEAT", "OPTS", "EPRT",
    "EPSV", "LANG", "MDTM", "MLSD", "MLST", "SIZE", "CLNT", "LPRT", "LPSV", "XCWD", "XMKD", "XPWD", "XRMD",
    "XCUP", "MACB",
    "HOST",
))  # fmt: skip


class _Transfers(Announcer):
    """The rows that the files of announced connections belong to."""

    def __init__(self) -> None:
        self.row: Fields | None = None  # of the command under way
        self.known: Fields = {}  # what came before the row

    def brought(self, fuid: str, kind: str) -> None:
        into = self.known if self.row is None else self.row
        into["fuid"] = fuid
        if kind:
            into["mime_type"] = kind


class Ftp(LineProtocol):
    """FTP (RFC 959): one control connection."""

    service: ClassVar[str] = "ftp"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._user = "<unknown>"
        self._password: str | None = None
        self._pending: deque[tuple[str, bytes, float]] = deque()
        self._entry: Fields | None = None
        self._continued = 0
        self._auth = b""
        self._cwd = b"."
        self._transfers = _Transfers()
        self._channel: Fields = {}  # the data connection that was announced last
        self._replied: Fields = {}  # the last reply

    def _pass(self, is_orig: bool, lines: Lines) -> bool:
        if is_orig or self._continued:
            lines.past_empty()
        return True

    def _line(self, is_orig: bool, ts: float, line: bytes) -> None:
        if is_orig:
            self._request(ts, line)
        else:
            self._reply(ts, line)

    def _request(self, ts: float, line: bytes) -> None:
        found = _COMMAND.match(line.rstrip(b"\r"))
        if not found:
            return
        command = found[1].decode("ascii").upper()
        if command not in _COMMANDS:
            return
        argument = found[2] or b""
        self.session.confirm(self.service)
        if command == "AUTH":
            self._auth = argument
        elif command == "USER":
            self._user = text(argument, 128)
        elif command == "PASS":
            self._password = text(argument, 128)
        elif command in ("PORT", "EPRT"):
            self._announce(argument, ts, False)
        if len(self._pending) < self.session.limits.transactions:
            self._pending.append((command, argument, ts))

    def _reply(self, ts: float, line: bytes) -> None:
        code = int(line[:3]) if len(line) >= 3 and line[:3].isdigit() else 0
        if self._continued:
            if code != self._continued or line[3:4] != b" ":
                return
            self._continued = 0
        elif code == 0:
            raise ParseError("no_reply_code")
        elif code < 100:
            raise ParseError("bad_reply_code")
        elif line[3:4] == b"-":
            self._continued = code
            return
        elif len(line) > 3 and line[3:4] != b" ":
            raise ParseError("bad_reply_line")
        message = line[3:].lstrip()
        if code == 234 and self._auth == b"TLS":
            self._start_tls()
        if code in (227, 229):
            self._announce(message, ts, True)
        if self.session.logs:
            self._replied = {"reply_code": code, "reply_msg": text(message, 4096)}
        if not self._pending:
            return
        command, argument, began = self._pending[0]
        if code in (250, 257):
            self._moved(command, argument, message)
        if not 100 <= code <= 199:
            self._pending.popleft()
        if command not in _LOGGED:
            return
        entry = self._entry
        if entry is None:
            entry = self._row(command, argument)
            self.session.log("ftp", began, entry)
        self._entry = entry if 100 <= code <= 199 else None
        entry["reply_code"] = code
        entry["reply_msg"] = text(message, 4096)
        if code == 150 and command == "RETR" and (size := _size(message)) is not None:
            entry["file_size"] = size

    def _row(self, command: str, argument: bytes) -> Fields:
        entry: Fields = {"user": self._user, "command": command}
        if self._password is not None:
            entry["password"] = self._password if self._user.lower() in _GUESTS else "<hidden>"
        if self.session.logs:
            if command in _FILES:
                argument = _path(self._cwd, argument)
                entry.update(self._transfers.known)
                self._transfers.row = entry
            entry.update(self._channel)
            self._channel = {}
        if argument:
            entry["arg"] = text(argument, 4096)
        return entry

    def end(self) -> None:
        super().end()
        if not self.session.logs:
            return
        for i, (command, argument, began) in enumerate(self._pending):
            if i >= _MAX_PENDING:
                break
            if command in _LOGGED and (i or self._entry is None):
                entry = self._row(command, argument)
                entry.update(self._replied)
                self.session.add("ftp", began, entry)

    def _moved(self, command: str, argument: bytes, message: bytes) -> None:
        """What the reply says of the folder that the client is in."""
        if command == "CWD":
            self._cwd = _path(self._cwd, argument)
        elif command == "CDUP":
            self._cwd = _path(self._cwd, b"/..")
        elif command in ("PWD", "XPWD") and (quoted := _QUOTED.search(message)) is not None:
            self._cwd = quoted[1][:4096]

    def _announce(self, said: bytes, ts: float, passive: bool) -> None:
        """A data connection is to come to the port in these words."""
        found = _PORT.search(said)
        host = ""
        if found:
            port = int(found[5]) << 8 | int(found[6])
            host = address(bytes([min(int(found[i]), 255) for i in range(1, 5)]))
        else:
            extended = _EPRT.search(said) or _EPSV.search(said)
            if not extended:
                return
            port = int(extended[extended.lastindex or 1])
            if extended.lastindex == 2:
                host = text(extended[1], 45)
        if 0 < port < 65536:
            self._transfers.row, self._transfers.known = None, {}
            self.session.run.expect(port, "ftp-data", ts, self._transfers)
            if self.session.logs:
                self._channel = {
                    "data_channel.passive": passive, "data_channel.orig_h": ORIGINATOR if passive else RESPONDER,
                    "data_channel.resp_h": host or RESPONDER, "data_channel.resp_p": port,
                }  # fmt: skip


def _size(said: bytes) -> int | None:
    """The number before the first "bytes" that has one, at most its last 18 digits."""
    at = -1
    while (at := said.find(b" bytes", at + 1)) >= 0:
        begin = at
        while begin > max(at - 18, 0) and 48 <= said[begin - 1] <= 57:
            begin -= 1
        if begin < at:
            return int(said[begin:at])
    return None


def _path(folder: bytes, file: bytes) -> bytes:
    """The file's path from the folder that the client is in, without the folders that it leaves again."""
    joined = file if file.startswith(b"/") else folder + (b"" if folder.endswith(b"/") else b"/") + file
    joined = joined[:4096]
    while b"/.." in joined:
        shorter = _UP.sub(b"", joined, 1)
        if shorter == joined:
            break
        joined = shorter
    return joined


class Announced(Analyzer):
    """A connection that another one announced: its service is known, its content is one file, as files.log has it."""

    service: ClassVar[str] = "announced"

    def __init__(self, session: Session, service: str) -> None:
        super().__init__(session)
        session.confirm(service)
        self._source = "FTP_DATA" if service == "ftp-data" else "IRC_DATA"
        self._file: Carried | None = None
        self._ts = 0.0
        if not session.logs:
            self.stop()

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        self._ts = ts
        if self._file is None:
            self._file = Carried(self.session, self._source, ts, is_orig)
            self._told(mime_type(data) or "")
        self._file.take(ts, data)

    def gap(self, is_orig: bool, length: int) -> None:
        if self._file is not None:
            self._file.passed(length)

    def end(self) -> None:
        if self._file is not None:
            self._told(self._file.finish(self._ts))

    def _told(self, kind: str) -> None:
        announcer = self.session.announcer
        if announcer is not None and self._file is not None:
            announcer.brought(str(self._file.row["fuid"]), kind)
