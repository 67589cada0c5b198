"""What every protocol analyzer shares: the session it writes to, readers of fields and lines, and text as Zeek logs it.

An analyzer is fed content in order, `data` for a stream's bytes or one whole datagram, `gap` for bytes that were
never captured, `end` at the connection's end. It says what it found through its `Session` and raises `ParseError`
when the bytes are not its protocol (Zeek's AnalyzerViolation); whoever feeds it then lets it go.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Final

from feature_extractors.content.segments import NEVER
from feature_extractors.frames import Counts
from feature_extractors.observations import LogValue

MAX_TEXT: Final = 4096  # bytes of one logged string (Log::default_max_field_string_bytes)
MAX_ITEMS: Final = 100  # elements of one logged vector or set (Log::default_max_field_container_elements)

MAX_NESTED: Final = 8  # connections inside one another: HTTP's CONNECT, SOCKS, WebSocket
MAX_EXPECTED: Final = 1024  # announced connections that are awaited at once
MAX_SEEN: Final = 65536  # things that are logged once a day
RELOG_AFTER: Final = 86400.0  # seconds; X509::relog_known_certificates_after
WEIRD_THRESHOLD: Final = 25  # rows of one name and connection
MAX_CERTIFICATES: Final = 512  # whose fields are remembered: servers show the same ones again and again
FREE_ENTRIES: Final = (
    256  # log entries of one connection that HTTP and IRC make of however few bytes; then one for each
)
ENTRY_BYTES: Final = 64  # bytes of both directions
IGNORE_VIOLATIONS_AFTER: Final = 10 * 1024  # bytes of a connection; DPD::ignore_violations_after

Fields = dict[str, LogValue]
_BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class ParseError(Exception):
    """These bytes are not, or no longer, the analyzer's protocol. The message is a reason to count, never traffic."""


@dataclass(frozen=True, slots=True)
class ContentLimits:
    """The bounds of protocol analysis; `plugin.toml` names them alike ([content])."""

    pending_bytes: int = 256 * 1024  # out-of-order bytes kept per direction while its hole may still fill
    pending_segments: int = 128  # out-of-order segments kept per direction
    pending_total: int = 64 * 1024 * 1024  # out-of-order bytes kept in all
    log_entries: int = 10_000  # log entries per connection
    log_entries_total: int = 2_000_000  # log entries of connections that are still open
    log_bytes: int = 16 * 1024 * 1024  # about, of the log entries of a connection
    log_bytes_total: int = 512 * 1024 * 1024  # about, of those of connections that are still open
    buffer_bytes: int = 128 * 1024  # of one message that an analyzer waits to see whole
    decoded_bytes: int = 4 * 1024 * 1024  # a compressed HTTP body is measured up to this size
    examined_bytes: int = 256 * 1024 * 1024  # of one connection that one analyzer looks at, unpacked or not
    transactions: int = 100  # requests, queries or commands of a connection that wait for their answer


class Shared:
    """A row of several connections, which is written when the last of them has ended."""

    __slots__ = ("claim_hosts", "claims", "fields", "open", "stream", "ts", "uids")

    def __init__(self, stream: str, ts: float, fields: Fields) -> None:
        self.stream = stream
        self.ts = ts
        self.fields = fields
        self.open = 0  # connections
        self.claim_hosts: dict[int, str] = {}  # the addresses of claims whose connections have ended
        self.claims: list[
            tuple[str, Session, bool]
        ] = []  # which field is which one's originator or responder
        self.uids: list[LogValue] = []  # of those that have ended


class Announcer:
    """The analyzer that announced a data connection and is notified of its file."""

    def brought(self, fuid: str, kind: str) -> None:
        """The file of this id has begun, or is of this kind, where that is not empty."""
        raise NotImplementedError


@dataclass(slots=True)
class Run:
    """The state that all connections of a run share: bounds, counters, announced connections, logged certificates."""

    limits: ContentLimits
    counts: Counts
    create: Callable[[str, Session], Analyzer | None] | None = None  # makes the analyzer of a name
    entries_open: int = 0  # log entries of connections that are still open
    bytes_open: int = 0  # about, that these take
    expected: OrderedDict[int, tuple[str, float, Announcer | None]] = field(
        default_factory=OrderedDict
    )  # by responder port
    transactions: OrderedDict[int, tuple[Fields, float, float]] = field(
        default_factory=OrderedDict
    )  # DHCP's, by xid
    certificates: OrderedDict[str, Fields] = field(default_factory=OrderedDict)  # of x509.log, by fingerprint
    logs: bool = False  # rows of Zeek's logs are asked for, with what no feature reads
    brief: bool = False  # what is dear and read by no feature is not logged, x509 not at all
    files: int = 0  # that were given an id
    sharing: dict[int, Shared] = field(
        default_factory=dict
    )  # rows that several connections make, by identity
    seen: OrderedDict[str, float] = field(
        default_factory=OrderedDict
    )  # what is logged once a day, and when it was

    def fuid(self, ts: float) -> str:
        """An id for a file that begins now, the same in every run over the same traffic."""
        self.files += 1
        number = int.from_bytes(
            hashlib.blake2b(f"{self.files} {ts}".encode(), digest_size=12).digest(), "big"
        )
        out = "F"
        for _ in range(16):
            number, digit = divmod(number, 62)
            out += _BASE62[digit]
        return out

    def is_new(self, what: str, ts: float) -> bool:
        """Whether `what` was not logged within a day before; of so many such things as are remembered."""
        then = self.seen.get(what)
        if then is not None and ts - then < RELOG_AFTER:
            return False
        self.seen[what] = ts
        if len(self.seen) > MAX_SEEN:
            self.seen.popitem(last=False)
        return True

    def expect(self, port: int, service: str, ts: float, announcer: Announcer | None = None) -> None:
        """A connection to this responder port is announced, as FTP and IRC do for their data."""
        self.expected[port] = service, ts, announcer
        if len(self.expected) > MAX_EXPECTED:
            self.expected.popitem(last=False)


# Most connections never need one of their own: what is empty is made when something goes into it.
_NOT_WRITTEN: Final[dict[int, float]] = {}
_NO_SHARED: Final[list[Shared]] = []
_NO_WEIRDS: Final[dict[str, int]] = {}
_NO_SERVICES: Final[dict[str, None]] = {}
_NO_ENTRIES: Final[list[tuple[str, float, Fields]]] = []


class Session:
    """One connection as its analyzers see it: who speaks on which port, what is confirmed, what is logged."""

    __slots__ = (
        "announcer", "brief", "counts", "entries", "had_gap", "ip_proto", "last_bytes", "limits", "log_bytes", "logs",
        "nested", "orig_p", "partial", "resp_p", "rows", "run", "services", "shared", "size", "weirds", "written",
    )  # fmt: skip

    def __init__(self, ip_proto: int, orig_p: int, resp_p: int, run: Run) -> None:
        self.ip_proto = ip_proto
        self.orig_p = orig_p
        self.resp_p = resp_p
        self.run = run
        self.limits = run.limits
        self.counts = run.counts
        self.services = _NO_SERVICES  # confirmed, in order; a dict stands for an ordered set
        self.entries = _NO_ENTRIES
        self.log_bytes = 0  # about, that the entries take
        self.last_bytes = 0  # of these the last entry's, when it was new
        self.logs = run.logs
        self.brief = run.brief
        self.rows = _NO_ENTRIES  # of logs that no feature reads
        self.written = _NOT_WRITTEN  # when Zeek writes an entry, by its identity; negative: it does not
        self.shared = _NO_SHARED
        self.announcer: Announcer | None = None  # of this connection
        self.weirds = _NO_WEIRDS  # how often each was met
        self.partial = False  # a TCP connection whose beginning was not captured
        self.had_gap = False
        self.size = 0  # payload bytes of both directions so far
        self.nested = 0  # connections inside it, each in the one before

    def confirm(self, service: str) -> None:
        """Adds a service: the content is this protocol beyond doubt (Zeek's AnalyzerConfirmation)."""
        if not self.services:
            self.services = {}
        self.services[service] = None

    def _over_limit(self) -> bool:
        """Whether no more may be held of this connection or of all, which is counted."""
        run, limits = self.run, self.limits
        if (
            len(self.entries) + len(self.rows) >= limits.log_entries
            or run.entries_open >= limits.log_entries_total
        ):
            self.counts.add("log_entries_over_limit")
            return True
        if self.log_bytes >= limits.log_bytes or run.bytes_open >= limits.log_bytes_total:
            self.counts.add("log_bytes_over_limit")
            return True
        return False

    def log(self, stream: str, ts: float, fields: Fields) -> Fields:
        """The fields of a new log entry, which may still be filled in; an entry without fields is never handed out."""
        run = self.run
        if self._over_limit():
            return fields
        size = about_bytes(fields)
        # What was filled in of the entry before is known now.
        new = size + about_bytes(self.entries[-1][2]) - self.last_bytes if self.entries else size
        self.last_bytes = size
        self.log_bytes += new
        run.bytes_open += new
        run.entries_open += 1
        if not self.entries:
            self.entries = []
        self.entries.append((stream, ts, fields))
        return fields

    def add(self, stream: str, ts: float, fields: Fields, written: float = -1.0) -> Fields:
        """As `log` where rows of logs are asked for, of a log that no feature reads; else it does nothing.

        `written` is when Zeek writes the row, negative: see `at`.
        """
        if not self.logs or self._over_limit():
            return fields
        run = self.run
        size = about_bytes(fields)
        self.log_bytes += size
        run.bytes_open += size
        run.entries_open += 1
        if not self.rows:
            self.rows = []
        self.rows.append((stream, ts, fields))
        if written >= 0:
            self.at(fields, written)
        return fields

    def at(self, fields: Fields, ts: float) -> None:
        """Zeek writes this entry at `ts`, or not at all where that is negative."""
        if self.logs:
            if not self.written:
                self.written = {}
            self.written[id(fields)] = ts

    def share(self, stream: str, ts: float, fields: Fields) -> None:
        """This connection, too, makes the row of these fields, an entry of some connection, which began at `ts`."""
        if not self.logs:
            return
        sharing = self.run.sharing
        shared = sharing.get(id(fields))
        if shared is None:
            shared = sharing[id(fields)] = Shared(stream, ts, fields)
            self.at(fields, -1.0)
        if shared not in self.shared:
            shared.open += 1
            if not self.shared:
                self.shared = []
            self.shared.append(shared)

    def claim(self, fields: Fields, name: str, is_orig: bool) -> None:
        """A field of a row that this connection shares is its originator's address, or its responder's."""
        shared = self.run.sharing.get(id(fields)) if self.logs else None
        if shared is not None and len(shared.claims) < MAX_ITEMS:
            shared.claims.append((name, self, is_orig))

    def first(self, what: str) -> bool:
        """Whether this is asked of `what` for the first time on this connection."""
        return self._met(f" {what}") == 1

    def _met(self, name: str) -> int:
        """How often a name was met, this time included."""
        if not self.weirds:
            self.weirds = {}
        met = self.weirds[name] = self.weirds.get(name, 0) + 1
        return met

    def weird(self, ts: float, name: str, source: str = "", addl: str = "") -> None:
        """Something odd that Zeek tells of in weird.log, each name 25 times a connection (sampling_threshold).

        `addl` says more of it, in Zeek's words.
        """
        if not self.logs:
            return
        if self._met(name) > WEIRD_THRESHOLD:
            return
        said: Fields = {"name": name, "notice": False, "peer": "zeek"}
        if addl:
            said["addl"] = addl
        if source:
            said["source"] = source
        self.add("weird", ts, said, ts)

    def full(self) -> bool:
        """Whether one more log entry would be one too many; then it is counted as such."""
        if len(self.entries) < self.limits.log_entries:
            return False
        self.counts.add("log_entries_over_limit")
        return True

    def child(self, name: str) -> Analyzer | None:
        """A new analyzer for what this connection carries inside or turns to; None where nobody makes any.

        Each connection inside another is a call inside a call, so there is an end to them.
        """
        if name == "pia":
            if self.nested >= MAX_NESTED:
                self.counts.add("connection_nested_too_deep")
                return None
            self.nested += 1
        return self.run.create(name, self) if self.run.create else None

    def feed(self, analyzer: Analyzer, is_orig: bool, ts: float, data: bytes) -> None:
        """Hands content to an analyzer; one that refuses it is let go, and its service with it.

        Mirrors scripts/base/frameworks/analyzer/dpd.zeek: no service is lost for what comes after 10 KB, nor on a
        connection that was not captured whole.
        """
        if analyzer.done:
            return
        analyzer.examined += len(data)
        if analyzer.examined > self.limits.examined_bytes:
            self.drop(analyzer)
            return
        try:
            analyzer.data(is_orig, ts, data)
        except ParseError as error:
            self.counts.add(f"{analyzer.service}_{error}")
            analyzer.refused = True
            analyzer.stop()
            keeps = analyzer.forgiven or self.partial or self.had_gap or self.size > IGNORE_VIOLATIONS_AFTER
            if not keeps:
                self.services.pop(analyzer.service, None)

    def drop(self, analyzer: Analyzer) -> None:
        """Lets go of an analyzer that this connection has given more to do than it may; what it found stands."""
        self.counts.add(f"{analyzer.service}_over_budget")
        analyzer.stop()

    def take(self) -> list[tuple[str, float, Fields]]:
        """The entries, which are no longer this session's, nor are the rows that no feature reads."""
        entries, self.entries = self.entries, _NO_ENTRIES
        self.run.entries_open -= len(entries) + len(self.rows)
        self.run.bytes_open -= self.log_bytes
        self.log_bytes = self.last_bytes = 0
        return entries


def about_bytes(fields: Fields) -> int:
    """An estimate of the memory of a log entry's fields, bytes."""
    size = 512 + 64 * len(fields)
    for value in fields.values():
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, list):
            for item in value:
                size += 64 + (len(item) if isinstance(item, str) else 0)
    return size


class Analyzer:
    """One protocol on one connection. Subclasses say what they do with `data`; the rest has a default."""

    service: ClassVar[str]  # the name of Zeek's analyzer in lower case, as conn.log's `service` has it
    needs_start: ClassVar[bool] = False  # refuses TCP connections whose beginning was missed, as Zeek's does
    forgiven: ClassVar[bool] = False  # keeps its service whatever comes later (DPD::ignore_violations)
    done: bool = False  # nothing more is wanted
    refused: bool = False  # and that because the content was not this protocol
    examined: int = 0  # bytes that it was given, and those that it made of them

    def __init__(self, session: Session) -> None:
        self.session = session

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        """Takes the next bytes of a stream, or one datagram. Raises `ParseError`."""
        raise NotImplementedError

    def gap(self, is_orig: bool, length: int) -> None:
        """`length` bytes of the stream are missing here. By default the stream cannot be understood any more."""
        self.stop()

    def end(self) -> None:
        """The connection has ended."""

    def skip(self, is_orig: bool) -> int:
        """How many of the following bytes of this direction need not be delivered (NEVER: none matter again)."""
        return NEVER if self.done else 0

    def stop(self) -> None:
        """Nothing more is wanted in either direction."""
        self.done = True

    def is_finished(self) -> bool:
        """Whether nothing more is wanted, asked anew after content was handed in."""
        return self.done


def crowded(entries: int, said: int) -> bool:
    """Whether so many log entries are more than so many bytes of lines, of both directions, come to."""
    return entries > FREE_ENTRIES + said // ENTRY_BYTES


class Reader:
    """Cuts fixed fields off the front of bytes; what is not there raises `ParseError`."""

    __slots__ = ("data", "end", "pos")

    def __init__(self, data: bytes, pos: int = 0, end: int | None = None) -> None:
        self.data = data
        self.pos = pos
        self.end = len(data) if end is None else end

    @property
    def left(self) -> int:
        return self.end - self.pos

    def _advance(self, n: int) -> int:
        pos = self.pos
        if n < 0 or pos + n > self.end:
            raise ParseError("message_too_short")
        self.pos = pos + n
        return pos

    def skip(self, n: int) -> None:
        self._advance(n)

    def take(self, n: int) -> bytes:
        pos = self._advance(n)
        return self.data[pos : pos + n]

    def u8(self) -> int:
        return self.data[self._advance(1)]

    def u16(self) -> int:
        pos = self._advance(2)
        return self.data[pos] << 8 | self.data[pos + 1]

    def u24(self) -> int:
        return int.from_bytes(self.take(3), "big")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def u16le(self) -> int:
        pos = self._advance(2)
        return self.data[pos] | self.data[pos + 1] << 8

    def u32le(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64le(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack_from(self.data, self._advance(layout.size))

    def sub(self, n: int) -> Reader:
        pos = self._advance(n)
        return Reader(self.data, pos, pos + n)


class Framed:
    """Keeps one direction's bytes until a whole message is there, never more than `limit`.

    `feed` appends; `take(n)` hands out n bytes or None. Bytes are moved once per message, not once per segment.
    """

    __slots__ = ("_buffer", "_pos", "limit")

    def __init__(self, limit: int) -> None:
        self._buffer: bytes | bytearray = b""  # one segment as it came, or what several came to
        self._pos = 0
        self.limit = limit

    def __len__(self) -> int:
        return len(self._buffer) - self._pos

    def feed(self, data: bytes) -> None:
        buffer, pos = self._buffer, self._pos
        left = len(buffer) - pos
        if left + len(data) > self.limit + 65536:
            raise ParseError("message_too_long")
        self._pos = 0
        if not left:
            self._buffer = data
            return
        if not isinstance(buffer, bytearray):
            buffer = self._buffer = bytearray(buffer)
        del buffer[:pos]
        buffer += data

    def peek(self, n: int) -> bytes | None:
        if len(self._buffer) - self._pos < n:
            return None
        return bytes(self._buffer[self._pos : self._pos + n])

    def take(self, n: int) -> bytes | None:
        """The next n bytes, or None while they are not all there. Raises `ParseError` where n exceeds the limit."""
        if n > self.limit:
            raise ParseError("message_too_long")
        if len(self._buffer) - self._pos < n:
            return None
        out = bytes(self._buffer[self._pos : self._pos + n])
        self._pos += n
        return out

    def line(self, most: int) -> bytes | None:
        """The next line with its LF, or None. Raises `ParseError` where none has ended in more than `most` bytes."""
        end = self._buffer.find(b"\n", self._pos)
        if end < 0:
            if len(self._buffer) - self._pos > most:
                raise ParseError("banner_too_long")
            return None
        out = bytes(self._buffer[self._pos : end + 1])
        self._pos = end + 1
        return out

    def run(self, what: re.Pattern[bytes]) -> bytes:
        """Takes what matches here."""
        found = what.match(self._buffer, self._pos)
        if found is None:
            return b""
        self._pos = found.end()
        return found[0]

    def past(self, what: re.Pattern[bytes]) -> bool:
        """Passes over what matches here, and says whether that is anything."""
        found = what.match(self._buffer, self._pos)
        if found is None or found.end() == self._pos:
            return False
        self._pos = found.end()
        return True

    def past_lines(self, line: re.Pattern[bytes]) -> None:
        """Passes over whole lines up to one that begins so; `line` matches that beginning, or LF and it."""
        if line.match(self._buffer, self._pos):
            return
        found = line.search(self._buffer, self._pos)
        last = self._buffer.rfind(b"\n", self._pos) if found is None else found.start()
        if last >= 0:
            self._pos = last + 1

    def drop(self, n: int) -> int:
        """Passes over up to n buffered bytes and says how many there were."""
        n = min(n, len(self._buffer) - self._pos)
        self._pos += n
        return n

    def rest(self) -> bytes:
        out = bytes(self._buffer[self._pos :])
        self._buffer = b""
        self._pos = 0
        return out


_BAD_ASCII: Final = re.compile("[\x00-\x07\x0b\x0e-\x1f\x7f-\x9f\ue000-\uf8ff\ufff0-\uffff]")
_ESCAPED: Final = tuple(
    chr(b) if 32 <= b < 127 or b in (8, 9, 10, 12, 13) else f"\\x{b:02x}" for b in range(256)
)


def text(raw: bytes, limit: int = MAX_TEXT) -> str:
    r"""Bytes as Zeek's JSON logs have them: UTF-8, or every byte that is not plain ASCII as `\xNN`.

    Mirrors escape_utf8 in Zeek's util.cc: one bad sequence, unprintable control or private code point makes the whole
    string escaped. Never longer than four characters per byte of `limit`.
    """
    if len(raw) > limit:
        raw = raw[:limit]
    if raw.isascii() and (plain := raw.decode("ascii")).isprintable():
        return plain
    try:
        out = raw.decode("utf-8")
    except UnicodeDecodeError:
        pass
    else:
        if not _BAD_ASCII.search(out):
            return out
    return "".join([_ESCAPED[b] for b in raw])


def number(raw: bytes, base: int = 10, digits: int = 18) -> int | None:
    """A whole number as Zeek's atoi_n reads it: leading blanks, then digits up to the first other byte."""
    raw = raw.lstrip(b" \t")
    if base == 10 and raw.isdigit() and len(raw) <= digits:
        return int(raw)
    alphabet = b"0123456789abcdefABCDEF"[: 10 if base == 10 else 22]
    n = 0
    while n < len(raw) and n <= digits and raw[n] in alphabet:
        n += 1
    if n == 0 or n > digits:
        return None
    return int(raw[:n], base)


__all__ = [
    "MAX_ITEMS", "MAX_TEXT", "NEVER", "Analyzer", "ContentLimits", "Fields", "Framed", "ParseError", "Reader", "Run",
    "Session", "crowded", "number", "text",
]  # fmt: skip
