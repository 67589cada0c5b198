"""MIME bodies taken apart into the files that they hold, line by line: mail, and HTTP's multipart messages.

Mirrors src/analyzer/protocol/mime/MIME.cc of Zeek 8.2.2. Nothing is kept but a line, boundaries and first bytes.
"""

from __future__ import annotations

import binascii
import re
from typing import Final

from feature_extractors.content.analyzers.base import Session
from feature_extractors.content.analyzers.files import Carried

MAX_DEPTH: Final = 32  # entities inside one another
MAX_PARTS: Final = 256  # files of one message
MAX_HEADER: Final = 8192  # bytes of one header with its further lines

_BOUNDARY: Final = re.compile(rb"boundary[ \t]*=[ \t]*(?:\"([^\"]{1,256})\"|([^\s;\"]{1,256}))", re.I)
_FILENAME: Final = re.compile(rb"(?:file)?name[ \t]*\*?=[ \t]*(?:\"([^\"]*)\"?|([^;]*))", re.I)
_NOT_BASE64: Final = re.compile(rb"[^A-Za-z0-9+/=]")
_HEADER, _LEAF, _PREAMBLE, _MESSAGE = range(4)


def filename(value: bytes) -> bytes:
    """The file name of a Content-Disposition or Content-Type header, empty where it has none."""
    at = value.lower().find(b"filename")
    found = _FILENAME.search(value, max(at, 0))
    return (found.group(1) or found.group(2) or b"").strip()[:512] if found else b""


class Holder:
    """The analyzer whose message it is, notified of the files in it."""

    def begins(self, fuid: str, name: bytes) -> None:
        """A file of this name, empty where it has none."""
        raise NotImplementedError

    def is_kind(self, kind: str) -> None:
        """What kind the file is that has ended, if anything is known of it."""
        raise NotImplementedError


class _Entity:
    """A part: its headers, then its body, or the parts in that."""

    __slots__ = ("boundary", "encoding", "header", "held", "name", "owes", "state", "type")

    def __init__(self) -> None:
        self.state = _HEADER
        self.type = b"text/plain"
        self.boundary = b""  # of its parts, with the dashes before it
        self.encoding = b""
        self.name = b""
        self.header = b""
        self.held = b""  # base64 that lacks some of its four letters
        self.owes = False  # a line has ended, which counts once another one comes


class Mime:
    """The parser of one MIME message (RFC 2045, 2046)."""

    def __init__(
        self, session: Session, source: str, is_orig: bool, holder: Holder, depth: int, headers: bytes = b""
    ) -> None:
        """`headers`: the message's Content-Type where its other headers were read already, which `depth` 0 has."""
        self._session = session
        self._source = source
        self._is_orig = is_orig
        self._holder = holder
        self.depth = depth  # of the entity that began last
        self._counts = depth > 0
        self._path = [_Entity()]
        self._file: Carried | None = None
        self._parts = 0
        if headers:
            self._path[0].header = b"Content-Type:" + headers
            self._begin_body(self._path[0])

    def line(self, ts: float, line: bytes) -> None:
        """The next line without its end."""
        if line.startswith(b"--"):
            for i, entity in enumerate(self._path):
                if entity.boundary and line.startswith(entity.boundary):
                    rest = line[len(entity.boundary) :].strip(b" \t")
                    if rest in (b"", b"--"):
                        self._leave(ts, i)
                        if not rest:
                            self._enter()
                        else:
                            entity.boundary = b""
                        return
        entity = self._path[-1]
        if entity.state == _HEADER:
            self._header(entity, line)
        elif entity.state == _LEAF:
            self._data(ts, entity, line)

    def finish(self, ts: float) -> None:
        """The message is over."""
        self._leave(ts, 0)

    def _enter(self) -> None:
        if len(self._path) < MAX_DEPTH:
            self._path.append(_Entity())
            if self._counts:
                self.depth += 1

    def _leave(self, ts: float, upto: int) -> None:
        """Everything inside the entity `upto` of the path is over."""
        entity = self._path[-1]
        if entity.held:
            self._deliver(ts, entity, b"")
        if self._file is not None:
            kind = self._file.finish(ts)
            self._holder.is_kind(kind)
            self._file = None
        del self._path[upto + 1 :]

    def _header(self, entity: _Entity, line: bytes) -> None:
        if line[:1] in (b" ", b"\t") and entity.header:
            if len(entity.header) + len(line) < MAX_HEADER:
                entity.header += line
            return
        self._header_whole(entity)
        entity.header = line[:MAX_HEADER]
        if not line:
            self._begin_body(entity)

    def _header_whole(self, entity: _Entity) -> None:
        name, colon, value = entity.header.partition(b":")
        name = name.strip().lower()
        if not colon or not name.startswith(b"content-"):
            return
        value = value.strip()
        if name == b"content-type":
            entity.type = value.split(b";", 1)[0].strip().lower()
            found = _BOUNDARY.search(value)
            if found is not None and entity.type.startswith(b"multipart/"):
                entity.boundary = b"--" + (found[1] or found[2])
            if b"name" in value.lower():
                entity.name = filename(value) or entity.name
        elif name == b"content-transfer-encoding":
            entity.encoding = value.lower()
        elif name == b"content-disposition" and b"filename" in value.lower():
            entity.name = filename(value) or entity.name

    def _begin_body(self, entity: _Entity) -> None:
        if entity.header:
            self._header_whole(entity)
            entity.header = b""
        if entity.boundary:
            entity.state = _PREAMBLE
        elif entity.type == b"message/rfc822" and len(self._path) < MAX_DEPTH:
            entity.state = _MESSAGE
            self._enter()
        else:
            entity.state = _LEAF

    def _data(self, ts: float, entity: _Entity, line: bytes) -> None:
        if entity.encoding == b"base64":
            letters = entity.held + _NOT_BASE64.sub(b"", line)
            whole = len(letters) // 4 * 4
            entity.held = letters[whole:]
            try:
                data = binascii.a2b_base64(letters[:whole])
            except binascii.Error:
                data = b""
        elif entity.encoding == b"quoted-printable":
            soft = line.endswith(b"=")
            data = (b"\r\n" if entity.owes else b"") + binascii.a2b_qp(line[:-1] if soft else line)
            entity.owes = not soft
        elif len(self._path) > 1:
            data = b"\r\n" + line if entity.owes else line
            entity.owes = True
        else:
            data = line + b"\r\n"
        if data:
            self._deliver(ts, entity, data)

    def _deliver(self, ts: float, entity: _Entity, data: bytes) -> None:
        if self._file is None:
            if self._parts >= MAX_PARTS or not data:
                return
            self._parts += 1
            self._file = Carried(self._session, self._source, ts, self._is_orig, self.depth)
            self._holder.begins(str(self._file.row["fuid"]), entity.name)
            self._file.name(entity.name)
        self._file.take(ts, data)
