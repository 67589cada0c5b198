"""Mutants of conversations: bytes, fields, lines and segments changed, with lengths mended as often as not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import Final

Part = tuple[int, bytes]  # flags, bytes of a segment or frame
Talk = tuple[int, list[Part]]  # what kind of conversation, and what is said in it

MOST_PARTS: Final = 24  # as many as tests/traces/fuzzed_frames.py reads
EXTREMES: Final = (
    0, 1, 2, 4, 5, 6, 7, 8, 0x11, 0x14, 0x29, 0x2C, 0x2F, 0x3A, 0x3F, 0x40, 0x45, 0x60, 0x7F, 0x80, 0x81, 0xC0, 0xF0,
    0xFE, 0xFF,
)  # fmt: skip
NUMBERS: Final = (
    b"0", b"1", b"00", b"-1", b"7", b"99", b"127", b"255", b"256", b"999", b"1024", b"4096", b"65535", b"65536",
    b"2147483647", b"2147483648", b"4294967295", b"4294967296", b"9223372036854775807", b"18446744073709551616",
    b"1" * 19, b"9" * 40, b"1e9", b"0x10", b"ffffffff", b"",
)  # fmt: skip
_DIGITS: Final = re.compile(rb"[0-9]+")
# How many bytes more than stand from its own first one on a length of two bytes may count: what stands before it, as of
# IP, UDP and TPKT; or fewer, as of TLS, of a word that is padded before it, and of IPv6.
_COUNTED: Final = frozenset((8, 4, 2, 0, -2, -3, -4, -6, -8, -36))
_NEAR: Final = 48  # how far before a change a length may stand that counts it


def encoded(talk: Talk) -> bytes:
    """As tests/traces keeps it: the kind, then flags, two bytes of length and the bytes of each part."""
    out = bytearray([talk[0]])
    for flags, data in talk[1]:
        out += bytes([flags, len(data) >> 8, len(data) & 0xFF]) + data
    return bytes(out)


def decoded(data: bytes, most: int = MOST_PARTS) -> Talk:
    at, parts = 1, []
    while at + 3 <= len(data) and len(parts) < most:
        size = data[at + 1] << 8 | data[at + 2]
        parts.append((data[at], data[at + 3 : at + 3 + size]))
        at += 3 + size
    return data[0] if data else 0, parts


class Mutator:
    """Makes mutants; `tokens` by kind, `largest` bytes in one part."""

    def __init__(self, rng: Random, tokens: Sequence[Sequence[bytes]], kinds: int, largest: int) -> None:
        self._random = rng.random
        self._tokens = tokens
        self._kinds = kinds
        self._largest = largest

    def _below(self, n: int) -> int:
        return int(self._random() * n)

    def mutant(self, talk: Talk, other: Talk) -> Talk:
        """A conversation that differs from `talk` in one to some changes, some of them taken from `other`."""
        kind, parts = talk[0], list(talk[1])
        changes = 1
        while changes < 6 and self._random() < 0.5:
            changes += 1
        for _ in range(changes):
            if not parts or self._random() < 0.25:
                kind, parts = self._rearranged(kind, parts, other)
            else:
                self._edited(parts, kind, other)
        return kind, parts[:MOST_PARTS]

    def every_part(self, talk: Talk, other: Talk, share: float) -> tuple[Talk, int]:
        """As `mutant`, each part changed with probability `share`; and how many of them are changed."""
        kind, parts = talk[0], list(talk[1])
        if not parts or self._random() < 0.3:
            kind, parts = self._rearranged(kind, parts, other)
        parts = parts[:MOST_PARTS]
        changed = 0
        for i, (flags, old) in enumerate(parts):
            if self._random() < share:
                data = bytearray(old)
                self._change(data, kind, other)
                if self._random() < 0.4:
                    self._change(data, kind, other)
                if data != old:
                    changed += 1
                    parts[i] = flags, bytes(data[: self._largest])
        return (kind, parts), changed

    def _edited(self, parts: list[Part], kind: int, other: Talk) -> None:
        i = self._below(len(parts))
        flags, old = parts[i]
        data = bytearray(old)
        self._change(data, kind, other)
        parts[i] = flags, bytes(data[: self._largest])

    def _rearranged(self, kind: int, parts: list[Part], other: Talk) -> tuple[int, list[Part]]:
        below = self._below
        what = below(12)
        theirs = other[1]
        if not parts:
            return other[0], list(theirs) or [(1, b"\0")]
        i = below(len(parts))
        flags, data = parts[i]
        if what == 0 and len(data) > 1:
            at = 1 + below(len(data) - 1)
            parts[i : i + 1] = [(flags & ~6, data[:at]), (flags & ~6, data[at:])]
        elif what == 1:  # all of it anew in pieces of one size
            size = 1 + below(1 + below(40))
            cut = [(f, d[k : k + size]) for f, d in parts[i:] for k in range(0, max(len(d), 1), size)]
            parts[i:] = cut[: MOST_PARTS - i]
        elif what == 2 and i + 1 < len(parts):
            parts[i : i + 2] = [(flags, data + parts[i + 1][1])]
        elif what == 3:
            k = below(len(parts))
            parts[i], parts[k] = parts[k], parts[i]
        elif what == 4:
            parts.insert(below(len(parts) + 1), parts[i])
        elif what == 5 and len(parts) > 1:
            del parts[i]
        elif what == 6:
            parts[i] = flags ^ (1 << below(8)), data
        elif what == 7:
            parts[i] = flags ^ 1, data
        elif what == 8 and theirs:
            parts.insert(i, theirs[below(len(theirs))])
        elif what == 9 and theirs:
            parts[i:] = theirs[below(len(theirs)) :]
        elif what == 10 and theirs:
            parts += theirs
        elif self._random() < 0.2:
            kind = below(self._kinds)
        return kind, parts

    def _change(self, data: bytearray, kind: int, other: Talk) -> None:
        random, below = self._random, self._below
        n = len(data)
        if not n:
            data += self._token(kind)
            return
        at = int(n * random() * random()) if random() < 0.5 else below(n)
        what = below(16)
        if what == 0:
            data[at] ^= 1 << below(8)
        elif what == 1:
            data[at] = EXTREMES[below(len(EXTREMES))]
        elif what == 2:
            data[at] = (data[at] + below(9) - 4) & 0xFF
        elif what in (3, 4):
            self._number(data, at)
        elif what in (5, 6):
            self._replace(data, at, 0, self._token(kind))
        elif what in (7, 8):
            token = self._token(kind)
            data[at : at + len(token)] = token
        elif what == 9:
            self._replace(data, at, 1 + below(1 + below(min(n - at, 64))), b"")
        elif what == 10:
            self._replace(data, below(n + 1), 0, data[at : at + 1 + below(64)])
        elif what == 11 and other[1]:
            theirs = other[1][below(len(other[1]))][1]
            k = below(len(theirs) + 1)
            piece = theirs[k : k + 1 + below(64)]
            self._replace(data, at, len(piece) if random() < 0.5 else 0, piece)
        elif what == 12:
            if random() < 0.5:
                del data[at:]
            else:
                data += bytes([EXTREMES[below(len(EXTREMES))]]) * below(64)
        elif what == 13:
            self._digits(data)
        elif what == 14:
            self._lines(data)
        elif random() < 0.2:  # many times the same
            self._replace(data, at, 0, data[at : at + 1 + below(16)] * below(60))
        else:
            data[at] = below(256)

    def _token(self, kind: int) -> bytes:
        tokens = self._tokens[kind % len(self._tokens)]
        if self._random() < 0.1:
            tokens = self._tokens[self._below(len(self._tokens))]
        return tokens[self._below(len(tokens))] if tokens else b"\0"

    def _number(self, data: bytearray, at: int) -> None:
        """A number of two to eight bytes becomes an extreme, one more or less, or the count of what follows it."""
        width = (2, 2, 3, 4, 4, 8)[self._below(6)]
        order = "big" if self._random() < 0.7 else "little"
        end = at + width
        if end > len(data):
            return
        what = self._below(4)
        if what == 0:
            value = (
                0,
                1,
                0x7F,
                0x80,
                0xFF,
                0x100,
                0x7FFF,
                0x8000,
                0xFFFF,
                0x10000,
                -1,
                1 << 31,
                (1 << 31) - 1,
            )[self._below(13)]
        elif what == 1:
            value = int.from_bytes(data[at:end], order) + self._below(33) - 16
        elif what == 2:
            value = len(data) - end + self._below(5) - 2
        else:
            value = self._below(len(data) + 2)
        data[at:end] = (value % (1 << 8 * width)).to_bytes(width, order)

    def _replace(self, data: bytearray, at: int, old: int, new: bytes | bytearray) -> None:
        """Puts `new` where `old` bytes stood; lengths before it that reached to the end still do, as often as not."""
        n, more = len(data), len(new) - old
        random = self._random
        if more and random() < 0.5:
            for p in range(max(0, at - _NEAR), at - 1):
                left = n - p
                a, b = data[p], data[p + 1]
                if (a << 8 | b) - left in _COUNTED and random() < 0.6:
                    value = (a << 8 | b) + more
                    if 0 <= value < 65536:
                        data[p], data[p + 1] = value >> 8, value & 0xFF
                elif (b << 8 | a) - left in _COUNTED and random() < 0.4:
                    value = (b << 8 | a) + more
                    if 0 <= value < 65536:
                        data[p], data[p + 1] = value & 0xFF, value >> 8
                elif a == left - 1 and 0 <= a + more < 128 and random() < 0.6:
                    data[p] = a + more
        data[at : at + old] = new

    def _digits(self, data: bytearray) -> None:
        found = [m.span() for m in _DIGITS.finditer(data)]
        if found:
            begin, end = found[self._below(len(found))]
            data[begin:end] = NUMBERS[self._below(len(NUMBERS))]

    def _lines(self, data: bytearray) -> None:
        lines = data.split(b"\n")
        i, k = self._below(len(lines)), self._below(len(lines))
        what = self._below(4)
        if what == 0:
            lines[i], lines[k] = lines[k], lines[i]
        elif what == 1:
            lines.insert(k, lines[i])
        elif what == 2:
            lines[i] = lines[i].rstrip(b"\r") if lines[i].endswith(b"\r") else lines[i] + b"\r"
        else:
            del lines[i]
        data[:] = b"\n".join(lines)
