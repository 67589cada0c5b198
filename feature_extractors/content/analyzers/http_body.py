"""The bodies of HTTP messages: measured, unpacked only for that, named by their first bytes, and never kept.

Mirrors src/analyzer/protocol/{http/HTTP,zip/ZIP}.cc and src/file_analysis/File.cc of Zeek 8.2.2, as far as http.log's
lengths and files.log need it.
"""

from __future__ import annotations

import zlib
from typing import Final

from feature_extractors.content.analyzers.base import Fields, Session, text
from feature_extractors.content.analyzers.files import TIMEOUT, begun, ended
from feature_extractors.content.analyzers.lines import Lines
from feature_extractors.content.analyzers.magic import SNIFF, SNIFF_QUICKLY, mime_type
from feature_extractors.content.analyzers.mime import Holder, Mime

MAX_FILES: Final = 15  # of one message that http.log names (HTTP::max_files_orig)
EXPANSION: Final = 100  # so many times the compressed bytes of a connection are unpacked, and the first
FREE_EXPANSION: Final = 256 * 1024  # bytes besides
_PIECE_BYTES: Final = 64 * 1024  # unpacked at once: as much as a processor's cache holds


class Budget:
    """What the compressed bodies of one connection may still become.

    It knows the session, not the analyzer that knows it: what is in no cycle is freed with its connection.
    """

    __slots__ = ("session", "unpackable", "unpacked")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.unpackable = FREE_EXPANSION
        self.unpacked = 0  # bytes since somebody looked last


class Parts(Holder):
    """A body of several parts, each of which is a file."""

    def __init__(self, session: Session, is_orig: bool, entry: Fields, content_type: bytes) -> None:
        self._entry = entry
        self._direction = "orig" if is_orig else "resp"
        self._lines = Lines()
        self._mime = Mime(session, "HTTP", is_orig, self, 0, content_type)

    def take(self, ts: float, data: bytes) -> None:
        """The next bytes."""
        self._lines.feed(data)
        while (line := self._lines.line()) is not None:
            self._mime.line(ts, line)

    def finish(self, ts: float) -> None:
        """The body ends here."""
        if len(self._lines):
            self._mime.line(ts, self._lines.rest())
        self._mime.finish(ts)

    def begins(self, fuid: str, name: bytes) -> None:
        self._add("fuids", fuid)
        if name:
            self._add("filenames", text(name))

    def is_kind(self, kind: str) -> None:
        if kind:
            self._add("mime_types", kind)

    def _add(self, what: str, said: str) -> None:
        before = self._entry.setdefault(f"{self._direction}_{what}", [])
        if isinstance(before, list) and len(before) < MAX_FILES:
            before.append(said)


class Body:
    """The body of the message under way in one direction."""

    __slots__ = (
        "_budget",
        "_first",
        "_is_orig",
        "decoder",
        "file",
        "filename",
        "holed",
        "length",
        "missing",
        "multipart",
        "offered",
        "parts",
        "sniffed",
        "total",
        "ts",
        "undecodable",
    )  # fmt: skip

    def __init__(self, budget: Budget, is_orig: bool) -> None:
        self._budget = budget
        self._is_orig = is_orig
        self.reset()

    def reset(self) -> None:
        """A new message begins."""
        self.length = 0  # as Zeek counts it
        self.decoder: zlib._Decompress | None = None
        self.holed = False  # a compressed body that lacks a piece
        self.undecodable = False  # what cannot be decompressed is not counted any more, only what is missing
        self.sniffed = False
        self._first = b""
        self.filename = b""
        self.file: Fields | None = None  # its row of files.log
        self.total = -1  # bytes that the file has, as the headers say
        self.missing = 0
        self.offered = False  # what comes need not be shown, so nobody knows whether it was missing
        self.ts = 0.0  # when the last of it came
        self.multipart = b""  # the Content-Type, where it is one of several parts
        self.parts: Parts | None = None

    def unpack(self, kind: bytes) -> None:
        """The body is encoded so."""
        if kind in (b"gzip", b"x-gzip"):
            self.decoder = zlib.decompressobj(31)
        elif kind == b"deflate":
            self.decoder = zlib.decompressobj(-15)
        else:
            return
        self.total = -1

    def take(self, ts: float, data: bytes, entry: Fields) -> None:
        """The next bytes, of the message whose row of http.log is `entry`."""
        if self.undecodable:
            return
        if self.decoder is not None:
            data = self._decoded(data) if not self.holed else self._decoded_past_hole(data)
        self.length += len(data)
        session = self._budget.session
        if session.logs and data:
            if self.multipart and not self.holed:
                if self.parts is None:
                    self.parts = Parts(session, self._is_orig, entry, self.multipart)
                    self.sniffed = True
                self.parts.take(ts, data)
                return
            if self.file is not None and ts - self.ts > TIMEOUT:
                self.file["timedout"] = True
            self.ts = ts
            if self.file is None:
                self._begin(ts, entry)
        if not self.sniffed:
            enough = SNIFF if session.logs else SNIFF_QUICKLY
            self._first += data[: enough - len(self._first)]
            if len(self._first) >= enough:
                self._sniff(entry)

    def passed(self, ts: float, length: int) -> None:
        """So many bytes came that nobody looked at, or never came."""
        self.length += length
        self.holed = True
        self.ts = max(self.ts, ts)
        if not self.offered:
            self.missing += length

    def finish(self, ts: float, entry: Fields) -> None:
        """The body ends here."""
        if not self.sniffed:
            self._sniff(entry)
        self.decoder = None
        if self.parts is not None:
            self.parts.finish(ts)
            self.parts = None
        file = self.file
        if file is not None:
            self.file = None
            file["seen_bytes"] = self.length - self.missing
            file["missing_bytes"] = self.missing
            ended(self._budget.session, file, self.ts, ts)

    def _begin(self, ts: float, entry: Fields) -> None:
        session = self._budget.session
        self.file = begun(session, "HTTP", ts, self._is_orig)
        if self.total > 0:
            self.file["total_bytes"] = self.total
        if self.filename:
            self.file["filename"] = text(self.filename)
        fuids = entry.setdefault("orig_fuids" if self._is_orig else "resp_fuids", [])
        if isinstance(fuids, list) and len(fuids) < MAX_FILES:
            fuids.append(self.file["fuid"])

    def _sniff(self, entry: Fields) -> None:
        """Names the kind of body by its first bytes, which are then forgotten."""
        self.sniffed = True
        if not self.length:
            return
        direction = "orig" if self._is_orig else "resp"
        kind = mime_type(self._first)
        self._first = b""
        if kind:
            entry[f"{direction}_mime_types"] = [kind]
            if self.file is not None:
                self.file["mime_type"] = kind
        if self.filename:
            entry[f"{direction}_filenames"] = [text(self.filename)]

    def _decoded(self, data: bytes) -> bytes:
        """The first bytes of the body as it was before compression; the rest only adds to its length.

        Past the limit or where it is broken, nothing more is unpacked. One connection may unpack so many times what it
        sent: beyond that lies a bomb.
        """
        decoder = self.decoder
        assert decoder is not None
        if decoder.eof:
            return b""  # it would keep what follows, and copy it with each call
        budget = self._budget
        session = budget.session
        room = session.limits.decoded_bytes - self.length
        budget.unpackable += EXPANSION * len(data)
        first, rest, more = b"", data, 0
        while True:
            try:
                out = decoder.decompress(rest, max(min(room, _PIECE_BYTES), 1))
            except zlib.error:
                self.decoder = None
                session.counts.add("http_body_not_decoded")
                self.undecodable = self.length > 0
                return b"" if self.undecodable else data
            rest = decoder.unconsumed_tail
            room -= len(out)
            budget.unpackable -= len(out)
            budget.unpacked += len(out)
            if first:
                more += len(out)
            else:
                first = out
            if room <= 0 or budget.unpackable <= 0:
                self.decoder = None
                session.counts.add("http_body_over_limit")
                break
            if not rest and len(out) < _PIECE_BYTES:
                break
        self.length += more
        return first

    def _decoded_past_hole(self, data: bytes) -> bytes:
        """What Zeek still makes of a compressed body behind a hole: 4 KiB at a time, and one fresh start.

        Mirrors src/analyzer/protocol/zip/ZIP.cc, since the length that is logged depends on it. Returns the first
        bytes, and adds the rest to the length.
        """
        first, decoder, rest, restarts = b"", self.decoder, data, True
        assert decoder is not None
        budget = self._budget
        session = budget.session
        budget.unpackable += EXPANSION * len(data)
        limit = session.limits.decoded_bytes
        if decoder.eof:
            rest = b""
        while rest and self.length + len(first) < limit:
            if budget.unpackable <= 0:
                self.decoder, self.undecodable = None, True
                session.counts.add("http_body_over_limit")
                break
            try:
                out = decoder.decompress(rest, 4096)
            except zlib.error:
                if not restarts:
                    self.decoder, self.undecodable = None, True
                    session.counts.add("http_body_not_decoded")
                    break
                decoder = self.decoder = zlib.decompressobj(-15)
            else:
                rest = decoder.unconsumed_tail
                budget.unpackable -= len(out)
                budget.unpacked += len(out)
                if first:
                    self.length += len(out)
                else:
                    first = out
            restarts = False
        return first
