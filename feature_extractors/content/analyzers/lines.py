"""The lines of one direction, however its bytes come, and the chunks of a body that stand between them."""

from __future__ import annotations

import re
from typing import Final

_CHUNK: Final = re.compile(rb"([0-9a-fA-F]{1,2})\r?\n")
_TINY_CHUNK_BYTES: Final = 8  # bytes of chunks that are read many at once
_HELD: Final = [re.compile(rb"0?%d\r?\n(.{%d})\r?\n" % (n, n), re.S) for n in range(_TINY_CHUNK_BYTES + 1)]
_RUNS: Final = [
    re.compile(rb"(?:0?%d\r?\n.{%d}\r?\n)++" % (n, n), re.S) for n in range(_TINY_CHUNK_BYTES + 1)
]
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
        self._buffer: bytes | bytearray = b""  # one segment as it came, or what several came to
        self._pos = 0  # what lies before it was handed out
        self._from = 0  # no line end lies between `_pos` and this offset
        self._blank_from = 0  # no CRLF CRLF begins between `_pos` and this offset
        self._no_block = 0  # what begins before this offset is no block
        self._within = False  # `past_blank` or `past_body` has begun and not ended
        self.limit = limit

    def __len__(self) -> int:
        return len(self._buffer) - self._pos

    def feed(self, data: bytes) -> None:
        buffer, pos = self._buffer, self._pos
        if pos:
            self._pos = 0
            self._from = max(self._from - pos, 0)
            self._blank_from = max(self._blank_from - pos, 0)
            self._no_block = max(self._no_block - pos, 0)
        if pos == len(buffer):
            self._buffer = data
            return
        if not isinstance(buffer, bytearray):
            buffer = self._buffer = bytearray(buffer)
        del buffer[:pos]
        buffer += data

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
            if 0 < size <= _TINY_CHUNK_BYTES:
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
