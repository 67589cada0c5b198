"""SMB 1 and 2 heads and DCE-RPC: shares, files and pipes, remote operations, and the logins that precede them.

Mirrors src/analyzer/protocol/{smb,dce-rpc} and scripts/base/protocols/{smb,dce-rpc}/main.zeek of Zeek 8.2.2, as far
as smb_mapping.log, smb_files.log, dce_rpc.log, ntlm.log, kerberos.log and `service` need it. Contents of files are
passed over.
"""

from __future__ import annotations

from typing import ClassVar, Final
from uuid import UUID

from feature_extractors.content.analyzers.base import (
    NEVER,
    Analyzer,
    Fields,
    Framed,
    ParseError,
    Reader,
    Session,
    text,
)
from feature_extractors.content.analyzers.dce_rpc_names import ENDPOINTS, OPERATIONS
from feature_extractors.content.analyzers.smb_contents import Contents
from feature_extractors.content.analyzers.windows_auth import Gssapi, Ntlm

MAX_MESSAGE: Final = 256 * 1024  # of one SMB message that is looked at whole; of a longer one, the head
MAX_ERRORS: Final = 32  # segments that are no DCE-RPC before we stop looking
_HEAD_BYTES: Final = 4096
_IGNORED: Final = {
    "winreg": frozenset((
        "BaseRegCloseKey", "BaseRegGetVersion", "BaseRegOpenKey", "BaseRegQueryValue", "BaseRegDeleteKeyEx",
        "OpenLocalMachine", "BaseRegEnumKey", "OpenClassesRoot",
    )),
    "spoolss": frozenset(("RpcSplOpenPrinter", "RpcClosePrinter")),
    "wkssvc": frozenset(("NetrWkstaGetInfo",)),
}  # fmt: skip
_PIPES: Final = {
    "winreg": "338cd001-2244-31f1-aaaa-900038001003", "spoolss": "12345678-1234-abcd-ef00-0123456789ab",
    "srvsvc": "4b324fc8-1670-01d3-1278-5a47bf6ee188",
}  # fmt: skip
_PIPE_NAMES: Final = frozenset((
    "spoolss", "winreg", "samr", "srvsvc", "netdfs", "lsarpc", "wkssvc", "MsFteWds",
))  # fmt: skip
_SHARES2: Final = {1: "DISK", 2: "PIPE", 3: "PRINT"}
_DELETE_ON_CLOSE: Final = 0x1000
_SECONDS_1601_TO_1970: Final = 11644473600


class DceRpc(Analyzer):
    """One stream of DCE-RPC calls, on its own connection or in one named pipe."""

    service: ClassVar[str] = "dce_rpc"
    forgiven: ClassVar[bool] = True

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._streams = (Framed(65536), Framed(65536))
        self._errors = 0
        self._contexts: dict[int, str] = {}
        self._uuid: str | None = None
        self._pipe: str | None = None
        self._calls: dict[int, tuple[int, int]] = {}  # context and operation, by call id
        self._operations: dict[int, int] = {}  # the last operation asked for, by context
        self._asked = 0.0  # when the last call was made: Zeek takes it for the time of every answer after it
        self._ntlm: Ntlm | None = None
        self._gssapi: Gssapi | None = None

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        try:
            self._deliver(is_orig, ts, data)
        except ParseError:
            self._errors += 1
            if self._errors > MAX_ERRORS:
                raise
            self._streams[is_orig].rest()  # what comes next may begin with a fragment again

    def _deliver(self, is_orig: bool, ts: float, data: bytes) -> None:
        stream = self._streams[is_orig]
        stream.feed(data)
        while (head := stream.peek(16)) is not None:
            if head[0] != 5:
                raise ParseError("unknown_version")
            order = "little" if head[4] & 0x10 else "big"
            length = int.from_bytes(head[8:10], order)  # type: ignore[arg-type]
            auth = int.from_bytes(head[10:12], order)  # type: ignore[arg-type]
            if length < 16 + auth + (8 if auth else 0):
                raise ParseError("fragment_too_short")
            fragment = stream.take(length)
            if fragment is None:
                return
            body_end = length - auth - (8 if auth else 0)
            self._fragment(ts, head, Reader(fragment, 16, body_end), order)
            self.session.confirm(self.service)
            if auth:
                self._authenticate(ts, fragment[body_end], fragment[body_end + 8 :])

    def end(self) -> None:
        self._calls.clear()

    def _fragment(self, ts: float, head: bytes, body: Reader, order: str) -> None:
        kind = head[2]
        if not head[3] & 1:
            return

        def number(size: int) -> int:
            return int.from_bytes(body.take(size), order)  # type: ignore[arg-type]

        call = int.from_bytes(head[12:16], order)  # type: ignore[arg-type]
        if kind in (11, 14):
            body.skip(8)
            count = number(1)
            body.skip(3)
            for _ in range(count):
                if body.left < 24:
                    raise ParseError("context_too_short")
                context = number(2)
                syntaxes = number(1)
                body.skip(1)
                raw = body.take(16)
                uuid = str(UUID(bytes_le=raw) if order == "little" else UUID(bytes=raw))
                body.skip(4 + min(20 * syntaxes, max(body.left - 4, 0)))
                if len(self._contexts) < 256:
                    self._contexts[context] = uuid
                self._uuid = uuid
        elif kind in (12, 15):
            body.skip(8)
            address = body.take(number(2)).rstrip(b"\0")
            if address and kind == 12:
                self._pipe = text(address, 256)
        elif kind == 0:
            body.skip(4)
            context, operation = number(2), number(2)
            self._asked = ts
            if len(self._operations) < 256:
                self._operations[context] = operation
            if len(self._calls) >= self.session.limits.transactions:
                self._calls.clear()
            self._calls[call] = context, operation
        elif kind == 2:
            body.skip(4)
            self._response(ts, call, number(2))

    def _response(self, ts: float, call: int, context: int) -> None:
        asked = self._calls.pop(call, None)
        operation = self._operations.get(context, 0)
        began = self._asked or ts
        if self._uuid is None and self._pipe is not None:
            name = self._pipe.lower().rsplit("\\pipe\\", 1)[-1]
            self._uuid = _PIPES.get(name)
        uuid = self._contexts.get(context, self._uuid)
        if uuid is None:
            return
        if asked:
            operation = asked[1]
        endpoint = ENDPOINTS.get(uuid) or f"unknown-{uuid}"
        done = OPERATIONS.get(uuid, {}).get(operation) or f"unknown-{operation}"
        if done in _IGNORED.get(endpoint, ()):
            return
        fields: Fields = {"endpoint": endpoint, "operation": done}
        if ts != began:
            fields["rtt"] = ts - began
        if self._pipe is not None:
            fields["named_pipe"] = self._pipe
        self.session.log("dce_rpc", began, fields)
        self.session.at(fields, ts)

    def _authenticate(self, ts: float, kind: int, blob: bytes) -> None:
        if kind == 9:
            if self._gssapi is None:
                self._gssapi = Gssapi(self.session)
            self.session.feed(self._gssapi, True, ts, blob)
        elif kind == 10:
            if self._ntlm is None:
                self._ntlm = Ntlm(self.session)
            self.session.feed(self._ntlm, True, ts, blob)


class Smb(Analyzer):
    """SMB over NetBIOS or TCP."""

    service: ClassVar[str] = "smb"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._streams = (Framed(MAX_MESSAGE), Framed(MAX_MESSAGE))
        self._skip = [0, 0]
        self._lost = True  # no message has begun yet where we look
        self._chunks = 0
        self._pipes: dict[int, DceRpc] = {}
        self._pipe_trees: set[int] = set()
        self._ntlm: Ntlm | None = None
        self._gssapi: Gssapi | None = None
        self._trees: dict[int, str] = {}
        self._shares: dict[int, str] = {}
        self._asked: dict[
            tuple[int, int], tuple[str, int, float]
        ] = {}  # by command and message: a name or file, when
        self._seen: set[tuple[object, ...]] = set()
        self._contents = Contents(session)
        self._ts = 0.0

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        if self._lost:
            if data[4:8] not in (b"\xfeSMB", b"\xffSMB"):
                return
            self._lost = False
        try:
            self._deliver(is_orig, ts, data)
        except ParseError:
            if not (self.session.partial or self.session.had_gap):
                raise
            # A connection seen in parts: wait for a segment that begins with a message.
            self._lost = True
            self._skip = [0, 0]
            self._streams = (Framed(MAX_MESSAGE), Framed(MAX_MESSAGE))

    def end(self) -> None:
        self._contents.end(self._ts)

    def _deliver(self, is_orig: bool, ts: float, data: bytes) -> None:
        self._ts = ts
        skipped = min(self._skip[is_orig], len(data))
        self._skip[is_orig] -= skipped
        stream = self._streams[is_orig]
        stream.feed(data[skipped:])
        while (head := stream.peek(4)) is not None:
            length = int.from_bytes(head[1:4], "big") if head[0] == 0 else head[2] << 8 | head[3]
            if head[0] not in (0, 0x81, 0x82, 0x83, 0x84, 0x85):
                raise ParseError("not_netbios")
            if length > MAX_MESSAGE - 4:
                start = stream.peek(_HEAD_BYTES)
                if start is None:
                    break
                self._message(is_orig, ts, start[4:])
                gone = stream.drop(4 + length)
                self._skip[is_orig] = 4 + length - gone
                break
            whole = stream.take(4 + length)
            if whole is None:
                break
            if head[0] == 0 and length:
                self._message(is_orig, ts, whole[4:])
        self._chunks += 1
        if self._chunks == 3:
            self.session.confirm(self.service)

    def gap(self, is_orig: bool, length: int) -> None:
        if length <= self._skip[is_orig]:
            self._skip[is_orig] -= length
        else:
            self._lost = True
            self._skip = [0, 0]
            self._streams = (Framed(MAX_MESSAGE), Framed(MAX_MESSAGE))

    def skip(self, is_orig: bool) -> int:
        return NEVER if self.done else self._skip[is_orig]

    def _message(self, is_orig: bool, ts: float, message: bytes) -> None:
        if message[:4] == b"\xfeSMB":
            self._smb2(is_orig, ts, message)
        elif message[:4] == b"\xffSMB":
            self._smb1(is_orig, ts, message)
        elif message[:4] != b"\xfdSMB":
            raise ParseError("not_smb")

    def _remember(self, ts: float, command: int, message: int, name: str, number: int = 0) -> None:
        if len(self._asked) >= self.session.limits.transactions:
            self._asked.clear()
        self._asked[command, message] = name, number, ts

    def _pipe(self, fid: int, is_orig: bool, ts: float, data: bytes) -> None:
        """Hands what passes through a pipe to its own DCE-RPC analyzer."""
        if not data:
            return
        pipe = self._pipes.get(fid)
        if pipe is None:
            if len(self._pipes) >= 256:
                self._pipes.clear()
            pipe = self._pipes[fid] = DceRpc(self.session)
        self.session.feed(pipe, is_orig, ts, data)

    def _login(self, is_orig: bool, ts: float, blob: bytes) -> None:
        if len(blob) < 8:
            return
        if self._ntlm is None:
            self._ntlm = Ntlm(self.session)
        if blob[:7] == b"NTLMSSP":
            self.session.feed(self._ntlm, is_orig, ts, blob)
            return
        if self._gssapi is None:
            self._gssapi = Gssapi(self.session, self._ntlm)
        self.session.feed(self._gssapi, is_orig, ts, blob)

    def _mapped(
        self, ts: float, tree: int, path: str, kind: str, service: str | None, system: str | None
    ) -> None:
        if len(self._trees) < 1024:
            self._trees[tree] = path
            self._shares[tree] = kind
        if kind == "PIPE":
            self._pipe_trees.add(tree)
        fields: Fields = {"path": path, "share_type": kind}
        if service:
            fields["service"] = service
        if system:
            fields["native_file_system"] = system
        self.session.log("smb_mapping", ts, fields)

    def _opened(
        self, ts: float, tree: int, name: str, size: int, times: list[float] | None, deletes: bool = False
    ) -> None:
        path = self._trees.get(tree)
        fields: Fields = {
            "action": "SMB::PRINT_OPEN" if self._shares.get(tree) == "PRINT" else "SMB::FILE_OPEN", "name": name,
            "size": size,
        }  # fmt: skip
        if self._shares.get(tree) == "PIPE":
            return
        if path is not None:
            fields["path"] = path
        if times is not None:
            created, accessed, written, changed = times
            identity = (name, path, size, created, written, changed)
            if identity in self._seen:
                return
            if len(self._seen) < 10_000:
                self._seen.add(identity)
            fields["times.modified"] = written
            fields["times.accessed"] = accessed
            fields["times.created"] = created
            fields["times.changed"] = changed
        self.session.log("smb_files", ts, fields)
        if deletes:
            self.session.add("smb_files", ts, {**fields, "action": "SMB::FILE_DELETE"})

    def _smb2(self, is_orig: bool, ts: float, message: bytes) -> None:
        """One message or a chain of related ones; at most 64 of a chain are read."""
        pos = 0
        for _ in range(64):
            if len(message) - pos < 64:
                raise ParseError("header_too_short")
            head = Reader(message, pos, pos + 64)
            head.skip(12)
            command = head.u16le()
            head.skip(2)
            flags = head.u32le()
            following = head.u32le()
            identifier = head.u64le()
            head.skip(4)
            tree = 0 if flags & 2 else head.u32le()
            end = pos + following if 64 <= following <= len(message) - pos else len(message)
            status = int.from_bytes(message[pos + 8 : pos + 12], "little")
            answer = bool(flags & 1)
            self._command2(is_orig, ts, command, answer, status, identifier, tree, message[pos:end])
            if end == len(message):
                return
            pos = end

    def _command2(
        self,
        is_orig: bool,
        ts: float,
        command: int,
        answer: bool,
        status: int,
        identifier: int,
        tree: int,
        message: bytes,
    ) -> None:
        body = Reader(message, 64)
        size = body.u16le() if body.left >= 2 else 0
        if command == 0 and answer and size == 65:
            offset = int.from_bytes(message[64 + 56 : 64 + 58], "little")
            length = int.from_bytes(message[64 + 58 : 64 + 60], "little")
            self._login(False, ts, message[offset : offset + length])
        elif command == 1:
            where = 64 + (4 if answer else 12)
            offset = int.from_bytes(message[where : where + 2], "little")
            length = int.from_bytes(message[where + 2 : where + 4], "little")
            if size == (9 if answer else 25):
                self._login(not answer, ts, message[offset : offset + length])
        elif command == 3:
            if not answer and size == 9:
                offset, length = Reader(message, 68).u16le(), Reader(message, 70).u16le()
                self._remember(ts, 3, identifier, _utf16(message[offset : offset + length]))
            elif answer and size == 16 and (asked := self._asked.pop((3, identifier), None)):
                self._mapped(asked[2], tree, asked[0], _SHARES2.get(message[66], "UNKNOWN"), None, None)
        elif command == 4 and not answer:
            self._pipe_trees.discard(tree)
        elif command == 5:
            self._create2(ts, answer, size, identifier, tree, message)
        elif command in (6, 8, 9, 11):
            self._io2(ts, command, answer, size, identifier, tree, message)

    def _create2(
        self, ts: float, answer: bool, size: int, identifier: int, tree: int, message: bytes
    ) -> None:
        if not answer and size == 57:
            offset, length = Reader(message, 64 + 44).u16le(), Reader(message, 64 + 46).u16le()
            name = _utf16(message[offset : offset + length])
            if name in _PIPE_NAMES and tree not in self._pipe_trees and len(self._pipe_trees) < 1024:
                self._pipe_trees.add(tree)
                self._shares[tree] = "PIPE"
            self._remember(ts, 5, identifier, name, Reader(message, 64 + 40).u32le() & _DELETE_ON_CLOSE)
        elif answer and (asked := self._asked.pop((5, identifier), None)) and size == 89:
            body = Reader(message, 64 + 8)
            times = [body.u64le() / 1e7 - _SECONDS_1601_TO_1970 for _ in range(4)]
            body.skip(8)
            size = body.u64le()
            self._opened(asked[2], tree, asked[0] or "<share_root>", size, times, bool(asked[1]))
            if tree not in self._pipe_trees and len(message) >= 144:
                self._contents.opened(_file_id(message, 128), asked[0] or "<share_root>", size)

    def _io2(
        self, ts: float, command: int, answer: bool, size: int, identifier: int, tree: int, message: bytes
    ) -> None:
        """Reads, writes, pipe calls and closes, as far as they concern pipes."""
        if command == 6:
            if not answer and size == 24:
                fid = _file_id(message, 64 + 8)
                self._pipes.pop(fid, None)
                self._contents.closed(ts, fid)
        elif command == 8:
            if not answer and size == 49:
                begins = str(Reader(message, 72).u64le())
                self._remember(ts, 8, identifier, begins, _file_id(message, 64 + 16))
            elif answer and size == 17 and (asked := self._asked.pop((8, identifier), None)):
                length = Reader(message, 68).u32le()
                data = message[message[66] : message[66] + length]
                if tree in self._pipe_trees:
                    self._pipe(asked[1], False, ts, data)
                else:
                    self._contents.piece(ts, False, asked[1], int(asked[0]), data, length)
        elif command == 9:
            if not answer and size == 49:
                offset, length = Reader(message, 66).u16le(), Reader(message, 68).u32le()
                fid, data = _file_id(message, 64 + 16), message[offset : offset + length]
                if tree in self._pipe_trees:
                    self._pipe(fid, True, ts, data)
                else:
                    self._contents.piece(ts, True, fid, Reader(message, 72).u64le(), data, length)
        elif Reader(message, 68).u32le() == 0x0011C017:
            where = 64 + (24 if not answer else 32)
            offset, length = Reader(message, where).u32le(), Reader(message, where + 4).u32le()
            fid = _file_id(message, 64 + 8)
            self._pipe(fid, not answer, ts, message[offset : offset + length])

    def _smb1(self, is_orig: bool, ts: float, message: bytes) -> None:
        if len(message) < 33:
            raise ParseError("header_too_short")
        command = message[4]
        flags2 = message[10] | message[11] << 8
        tree = message[24] | message[25] << 8
        identifier = message[30] | message[31] << 8
        unicode = bool(flags2 & 0x8000)
        words = Reader(message, 33)
        count = message[32]
        if words.left < 2 * count + 2:
            return
        answer = bool(message[9] & 0x80)
        parameters = words.take(2 * count)
        content = words.take(min(words.u16le(), words.left))
        start = words.pos - len(content)
        if (
            command == 0x72
            and answer
            and count == 17
            and int.from_bytes(parameters[19:23], "little") & 0x80000000
        ):
            self._login(False, ts, content[16:])
        elif command == 0x73 and count in (12, 4):
            where = 14 if count == 12 else 6
            length = parameters[where] | parameters[where + 1] << 8
            self._login(not answer, ts, content[:length])
        elif command == 0x75:
            self._tree1(ts, answer, count, tree, identifier, unicode, parameters, content, start)
        elif command == 0xA2:
            self._create1(ts, answer, count, tree, identifier, unicode, parameters, content, start)
        elif command == 0x25:
            self._transaction1(ts, answer, unicode, parameters, content, message)
        elif command in (0x2E, 0x2F) and tree in self._pipe_trees:
            self._io1(ts, command, answer, parameters, message)

    def _tree1(
        self, ts: float, answer: bool, count: int, tree: int, identifier: int, unicode: bool, parameters: bytes,
        content: bytes, start: int,
    ) -> None:  # fmt: skip
        if not answer and count == 4:
            password = parameters[6] | parameters[7] << 8
            path, _ = _string1(content, password, unicode, start)
            self._remember(ts, 0x75, identifier, path)
        elif answer and count >= 2 and (asked := self._asked.pop((0x75, identifier), None)):
            service = content.split(b"\0")[0]
            system = _string1(content, len(service) + 1, unicode, start)[0]
            kind = "PIPE" if service == b"IPC" else "PRINT" if service == b"LPT1:" else "DISK"
            self._mapped(asked[2], tree, asked[0], kind, text(service, 64), system or None)

    def _create1(
        self, ts: float, answer: bool, count: int, tree: int, identifier: int, unicode: bool, parameters: bytes,
        content: bytes, start: int,
    ) -> None:  # fmt: skip
        if not answer and count == 24:
            name = _string1(content, 0, unicode, start)[0]
            if name.lstrip("\\") in _PIPE_NAMES and len(self._pipe_trees) < 1024:
                self._pipe_trees.add(tree)
            self._remember(ts, 0xA2, identifier, name)
        elif answer and (asked := self._asked.pop((0xA2, identifier), None)) and count >= 34:
            body = Reader(parameters, 11)
            times = [body.u64le() / 1e7 - _SECONDS_1601_TO_1970 for _ in range(4)]
            body.skip(12)
            size = body.u64le()
            if tree in self._pipe_trees:
                self.session.log(
                    "smb_files", asked[2], {"action": "SMB::FILE_OPEN", "name": asked[0], "size": 0}
                )
            else:
                self._opened(asked[2], tree, asked[0], size, times)

    def _transaction1(
        self, ts: float, answer: bool, unicode: bool, parameters: bytes, content: bytes, message: bytes
    ) -> None:
        """Transactions on \\PIPE\\ carry DCE-RPC both ways."""
        if not answer and len(parameters) >= 28:
            length = parameters[22] | parameters[23] << 8
            offset = parameters[24] | parameters[25] << 8
            name = content.replace(b"\0", b"")
            if b"\\PIPE\\" in name[:64].upper():
                self._in_transaction = True
                self._pipe(0, True, ts, message[offset : offset + length])
            else:
                self._in_transaction = False
        elif answer and len(parameters) >= 20 and self._in_transaction:
            length = parameters[12] | parameters[13] << 8
            offset = parameters[14] | parameters[15] << 8
            self._pipe(0, False, ts, message[offset : offset + length])

    _in_transaction: bool = False

    def _io1(self, ts: float, command: int, answer: bool, parameters: bytes, message: bytes) -> None:
        if command == 0x2F and not answer and len(parameters) >= 24:
            length = parameters[20] | parameters[21] << 8
            offset = parameters[22] | parameters[23] << 8
            self._pipe(0, True, ts, message[offset : offset + length])
        elif command == 0x2E and answer and len(parameters) >= 24:
            length = parameters[10] | parameters[11] << 8
            offset = parameters[12] | parameters[13] << 8
            self._pipe(0, False, ts, message[offset : offset + length])


def _file_id(message: bytes, where: int) -> int:
    """Zeek's number of a file: the sum of the two halves of its id."""
    reader = Reader(message, where)
    return (reader.u64le() + reader.u64le()) & 0xFFFFFFFFFFFFFFFF


def _utf16(raw: bytes) -> str:
    return text(raw[:2048].decode("utf-16-le", "replace").rstrip("\0").encode("utf-8"))


def _string1(content: bytes, pos: int, unicode: bool, start: int) -> tuple[str, int]:
    """A string of SMB 1 in the data block that begins at `start`, and where it ends; Unicode is aligned to two."""
    if not unicode:
        end = content.find(b"\0", pos)
        end = len(content) if end < 0 else end
        return text(content[pos:end][:1024]), end + 1
    if (start + pos) % 2:
        pos += 1
    end = pos
    while end + 1 < len(content) and content[end : end + 2] != b"\0\0":
        end += 2
    return _utf16(content[pos:end]), end + 2
