"""What every protocol analyzer shares: the session it writes to, readers of fields and lines, and text as Zeek logs it.

An analyzer is fed content in order, `data` for a stream's bytes or one whole datagram, `gap` for bytes that were
never captured, `end` at the connection's end. It says what it found through its `Session` and raises `ParseError`
when the bytes are not its protocol (Zeek's AnalyzerViolation); whoever feeds it then lets it go.
"""

from __future__ import annotations

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
MAX_CERTIFICATES: Final = 512  # whose fields are remembered: servers show the same ones again and again
FREE_ENTRIES: Final = (
    256  # log entries of one connection that HTTP and IRC make of however few bytes; then one for each
)
ENTRY_BYTES: Final = 64  # bytes of both directions
IGNORE_VIOLATIONS_AFTER: Final = 10 * 1024  # bytes of a connection; DPD::ignore_violations_after

Fields = dict[str, LogValue]


class ParseError(Exception):
    """These bytes are not, or no longer, the analyzer's protocol. The message is a reason to count, never traffic."""


@dataclass(frozen=True, slots=True)
class ContentLimits:
    """Bounds on what one run of protocol analysis may hold; `plugin.toml` names them alike."""

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


@dataclass(slots=True)
class Run:
    """What the connections of one run share: bounds, counts, and what one connection tells of another."""

    limits: ContentLimits
    counts: Counts
    create: Callable[[str, Session], Analyzer | None] | None = None  # makes the analyzer of a name
    entries_open: int = 0  # log entries of connections that are still open
    bytes_open: int = 0  # about, that these take
    expected: OrderedDict[int, tuple[str, float]] = field(default_factory=OrderedDict)  # by responder port
    transactions: OrderedDict[int, tuple[Fields, float, float]] = field(
        default_factory=OrderedDict
    )  # DHCP's, by xid
    certificates: OrderedDict[str, Fields] = field(default_factory=OrderedDict)  # of x509.log, by fingerprint

    def expect(self, port: int, service: str, ts: float) -> None:
        """A connection to this responder port is announced, as FTP and IRC do for their data."""
        self.expected[port] = service, ts
        if len(self.expected) > MAX_EXPECTED:
            self.expected.popitem(last=False)


class Session:
    """One connection as its analyzers see it: who speaks on which port, what is confirmed, what is logged."""

    __slots__ = (
        "counts", "entries", "had_gap", "ip_proto", "last_bytes", "limits", "log_bytes", "nested", "orig_p",
        "partial", "resp_p", "run", "services", "size",
    )  # fmt: skip

    def __init__(self, ip_proto: int, orig_p: int, resp_p: int, run: Run) -> None:
        self.ip_proto = ip_proto
        self.orig_p = orig_p
        self.resp_p = resp_p
        self.run = run
        self.limits = run.limits
        self.counts = run.counts
        self.services: dict[str, None] = {}  # confirmed, in order; a dict stands for an ordered set
        self.entries: list[tuple[str, float, Fields]] = []
        self.log_bytes = 0  # about, that the entries take
        self.last_bytes = 0  # of these the last entry's, when it was new
        self.partial = False  # a TCP connection whose beginning was not captured
        self.had_gap = False
        self.size = 0  # payload bytes of both directions so far
        self.nested = 0  # connections inside it, each in the one before

    def confirm(self, service: str) -> None:
        """The content is this protocol beyond doubt, as Zeek's analyzer of that name confirms it."""
        self.services[service] = None

    def log(self, stream: str, ts: float, fields: Fields) -> Fields:
        """Adds one log entry, whose fields may still be filled in; an entry without fields is never handed out."""
        run, limits = self.run, self.limits
        if len(self.entries) >= limits.log_entries or run.entries_open >= limits.log_entries_total:
            self.counts.add("log_entries_over_limit")
            return fields
        if self.log_bytes >= limits.log_bytes or run.bytes_open >= limits.log_bytes_total:
            self.counts.add("log_bytes_over_limit")
            return fields
        size = about_bytes(fields)
        # What was filled in of the entry before is known now.
        new = size + about_bytes(self.entries[-1][2]) - self.last_bytes if self.entries else size
        self.last_bytes = size
        self.log_bytes += new
        run.bytes_open += new
        run.entries_open += 1
        self.entries.append((stream, ts, fields))
        return fields

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
        entries, self.entries = self.entries, []
        self.run.entries_open -= len(entries)
        self.run.bytes_open -= self.log_bytes
        self.log_bytes = self.last_bytes = 0
        return entries


def about_bytes(fields: Fields) -> int:
    """About the bytes that the fields of a log entry take."""
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

    def over(self) -> bool:
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
        self._buffer = bytearray()
        self._pos = 0
        self.limit = limit

    def __len__(self) -> int:
        return len(self._buffer) - self._pos

    def feed(self, data: bytes) -> None:
        if self._pos:
            del self._buffer[: self._pos]
            self._pos = 0
        if len(self._buffer) + len(data) > self.limit + 65536:
            raise ParseError("message_too_long")
        self._buffer += data

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
        self._buffer.clear()
        self._pos = 0
        return out


_CHUNK: Final = re.compile(rb"([0-9a-fA-F]{1,2})\r?\n")
_TINY: Final = 8  # bytes of chunks that are read many at once
_HELD: Final = [re.compile(rb"0?%d\r?\n(.{%d})\r?\n" % (n, n), re.S) for n in range(_TINY + 1)]
_RUNS: Final = [re.compile(rb"(?:0?%d\r?\n.{%d}\r?\n)++" % (n, n), re.S) for n in range(_TINY + 1)]
_EMPTY: Final = re.compile(rb"(?:\r?\n)*+")
_SHORT: Final = [re.compile(rb"(?:[^\r\n]{0,%d}+\r?\n)*+" % n) for n in range(4)]
_DOT: Final = re.compile(rb"\n\.\r?\n")
_BLANK: Final = re.compile(rb"\n\r?\n")


class Lines:
    """Cuts one direction's bytes into lines ended by LF or CRLF; a line longer than `limit` is cut there.

    A lone CR stays in the line, as in Zeek's ContentLine with its default of CR and LF both ending lines off. Whatever
    the bytes, and however they come, each is looked at a fixed number of times.
    """

    __slots__ = ("_blank_from", "_buffer", "_from", "_no_block", "_pos", "_within", "limit")

    def __init__(self, limit: int = 16 * 1024) -> None:
        self._buffer = bytearray()
        self._pos = 0  # what lies before it was handed out
        self._from = 0  # no line end lies between `_pos` and this offset
        self._blank_from = 0  # no CRLF CRLF begins between `_pos` and this offset
        self._no_block = 0  # what begins before this offset is no block
        self._within = False  # `past_blank` or `past_body` has begun and not ended
        self.limit = limit

    def __len__(self) -> int:
        return len(self._buffer) - self._pos

    def feed(self, data: bytes) -> None:
        pos = self._pos
        if pos:
            del self._buffer[:pos]
            self._pos = 0
            self._from = max(self._from - pos, 0)
            self._blank_from = max(self._blank_from - pos, 0)
            self._no_block = max(self._no_block - pos, 0)
        self._buffer += data

    def line(self) -> bytes | None:
        """The next whole line without its end, or None. Call until None before feeding more."""
        buffer, pos = self._buffer, self._pos
        end = buffer.find(b"\n", max(self._from, pos), pos + self.limit + 1)
        if end < 0:
            if len(buffer) - pos > self.limit:
                self._pos = pos + self.limit
                return bytes(buffer[pos : self._pos])
            self._from = len(buffer)
            return None
        self._pos = end + 1
        if end > pos and buffer[end - 1] == 13:
            end -= 1
        return bytes(buffer[pos:end])

    def block(self) -> list[bytes] | None:
        """The lines up to the next empty one, which is passed over; None unless all are there, unfolded, with CRLF."""
        buffer, pos = self._buffer, self._pos
        if pos < self._no_block or buffer.startswith((b"\r\n", b"\n"), pos):
            return None
        end = buffer.find(b"\r\n\r\n", max(self._blank_from, pos), pos + self.limit + 4)
        if end < 0:
            self._blank_from = max(min(len(buffer), pos + self.limit + 4) - 3, pos)
            if len(buffer) - pos >= self.limit + 4:
                self._no_block = pos + self.limit
            return None
        self._blank_from = end
        out = bytes(buffer[pos:end])
        lines = out.split(b"\r\n")
        if out.count(b"\n") != len(lines) - 1 or out.find(b"\n ") >= 0 or out.find(b"\n\t") >= 0:
            self._no_block = end + 4
            return None
        self._pos = end + 4
        return lines

    def past_blank(self) -> bool:
        """Passes over whole lines up to and including the next empty one; False while that has not come."""
        buffer, pos = self._buffer, self._pos
        if not self._within:
            if buffer.startswith(b"\n", pos) or buffer.startswith(b"\r\n", pos):
                self._pos = pos + (1 if buffer.startswith(b"\n", pos) else 2)
                return True
            if len(buffer) - pos < 2:
                return False
            self._within = True
        found = _BLANK.search(buffer, pos)
        if found is not None:
            self._pos = found.end()
            self._within = False
            return True
        keep = 2 if buffer.endswith(b"\n\r") else 1 if buffer.endswith(b"\n") else 0
        self._pos = max(len(buffer) - keep, pos)
        return False

    def past_empty(self) -> None:
        """Passes over empty lines at once."""
        found = _EMPTY.match(self._buffer, self._pos)
        if found is not None:
            self._pos = found.end()

    def past_short(self, most: int) -> None:
        """Passes over whole lines of so many characters at most, 3 at the most, all at once."""
        found = _SHORT[most].match(self._buffer, self._pos)
        if found is not None:
            self._pos = found.end()

    def past_body(self) -> bool:
        """Passes over whole lines up to the one that is a dot alone, which stays; False while that has not come."""
        buffer, pos = self._buffer, self._pos
        if not self._within and buffer.startswith((b".\n", b".\r\n"), pos):
            return True
        found = _DOT.search(buffer, pos)
        if found is not None:
            self._pos = found.start() + 1
            self._within = False
            return True
        if len(buffer) - pos < 4:
            return False
        self._within = True
        last = buffer.rfind(b"\n", max(len(buffer) - 3, pos))
        self._pos = last if last >= 0 else len(buffer)
        return False

    def chunks(self, most: int) -> tuple[bytes, int]:
        """What the whole small chunks at the front hold (RFC 9112, 7.1), and how many they are, at most `most`.

        Stops before whatever is not that: a chunk of no or many bytes, an extension, one that is not all there.
        """
        buffer, pos, out, n = self._buffer, self._pos, bytearray(), 0
        while n < most and (head := _CHUNK.match(buffer, pos)) is not None:
            begin = head.end()
            size = int(head[1], 16)
            if 0 < size <= _TINY:
                run = _RUNS[size].match(buffer, pos)
                held = _HELD[size].findall(buffer, pos, run.end()) if run is not None else []
                if run is not None and 1 < len(held) <= most - n:
                    out += b"".join(held)
                    pos = run.end()
                    n += len(held)
                    continue
            end = begin + size
            after = end + 2 if buffer.startswith(b"\r\n", end) else end + 1
            if end == begin or after > len(buffer) or buffer[after - 1] != 10:
                break
            out += buffer[begin:end]
            pos = after
            n += 1
        self._pos = pos
        return bytes(out), n

    def take(self, n: int) -> bytes:
        """Up to n bytes as they are, line ends included."""
        begin = self._pos
        self._pos = min(begin + n, len(self._buffer))
        return bytes(self._buffer[begin : self._pos])

    def rest(self) -> bytes:
        return self.take(len(self))


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
    "MAX_ITEMS", "MAX_TEXT", "NEVER", "Analyzer", "ContentLimits", "Fields", "Framed", "Lines", "ParseError", "Reader",
    "Run", "Session", "crowded", "number", "text",
]  # fmt: skip
