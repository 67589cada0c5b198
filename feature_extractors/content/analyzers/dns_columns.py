"""Plain DNS messages read a whole block at a time, JIT-compiled; whatever is odd about one is left to `dns.Dns`.

A message is plain where it is an ordinary query or answer whose names end as they should and whose records are of
the frequent types; then what stands here is exactly what `dns` reads from it, only sooner. Malformed, truncated,
looping and rare messages are never judged here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feature_extractors.compiled import borrowed, entry, helper, i64

# One message: header, the last question's name in the text and type, and which answers are its own.
MESSAGE: Final = np.dtype(
    [
        ("trans_id", "u2"), ("flags", "u2"), ("queries", "u2"), ("records", "i4"),
        ("begin", "i4"), ("end", "i4"), ("plain", "?"), ("qtype", "u2"), ("qclass", "u2"),
        ("first", "i4"), ("last", "i4"),
    ]
)  # fmt: skip
# One answer of which Zeek says something: text, and the name it belongs to.
ANSWER: Final = np.dtype(
    [("ttl", "u4"), ("begin", "i4"), ("end", "i4"), ("plain", "?"), ("owner", "i4"), ("owner_end", "i4"),
     ("owner_plain", "?")]
)  # fmt: skip

_A, _NS, _CNAME, _SOA, _PTR, _MX, _TXT, _AAAA, _SRV, _A6, _SPF = 1, 2, 5, 6, 12, 15, 16, 28, 33, 38, 99
_UNLOGGED_TYPES: Final = (13, 29, 32, 41, 64, 65, 249, 250, 257, 65534)  # records that Zeek does not log
_UNKNOWN_TYPES: Final = (10,)  # `<unknown type=...>`, but frequent in tunnels
_MAX_NAME_BYTES: Final = 250  # bytes; a longer name is odd
_MAX_JUMPS: Final = 16  # compression pointers in one name
_MAX_RECORDS: Final = 100
_MAX_QUERIES: Final = 25
_DOT: Final = 46


@dataclass(frozen=True, slots=True)
class Messages:
    """The plain DNS messages of a block as columns; `text` holds names in lower case and answers as text."""

    which: list[int]  # [s] index into `rows`, -1 where the datagram is no plain message
    rows: list[tuple[Any, ...]]  # MESSAGE
    answers: list[tuple[Any, ...]]  # ANSWER
    text: bytes
    words: str  # the same, each byte one character


def read(
    data: NDArray[np.uint8], starts: NDArray[np.int64], captured: NDArray[np.int32], wanted: NDArray[np.int64]
) -> Messages:
    """The plain DNS messages among the datagrams with index in `wanted`, of those that begin at `starts` in `data`."""
    which = np.full(len(starts), -1, np.int64)
    if not len(wanted):
        return Messages(which.tolist(), [], [], b"", "")
    size = int(captured[wanted].sum())
    rows = np.empty(len(wanted), MESSAGE)
    answers = np.empty(size // 11 + 1, ANSWER)
    text = np.empty(8 * size + 4096, np.uint8)
    n, n_answers, n_text = _read(data, starts, captured, wanted, which, rows, answers, text)
    raw = text[:n_text].tobytes()
    return Messages(
        which.tolist(), rows[:n].tolist(), answers[:n_answers].tolist(), raw, raw.decode("latin-1")
    )


@entry
def _read(
    data: Any, starts: Any, captured: Any, wanted: Any, which: Any, rows: Any, answers: Any, text: Any
) -> tuple[int, int, int]:
    data, answers, text = borrowed(data), borrowed(answers), borrowed(text)
    n, n_answers, at = i64(0), i64(0), i64(0)
    for i in wanted:
        found, new_answers, new_at = _message(
            data, i64(starts[i]), i64(captured[i]), rows[n], answers, n_answers, text, at
        )
        if found:
            which[i] = n
            n += 1
            n_answers = new_answers
            at = new_at
    return n, n_answers, at


@helper
def _u16(data: Any, at: int) -> int:
    return i64(data[at]) << 8 | i64(data[at + 1])


@helper
def _message(
    data: Any, base: int, size: int, row: Any, answers: Any, n: int, text: Any, at: int
) -> tuple[bool, int, int]:
    """Whether the datagram is a plain message, and how many answers and bytes of text there are now."""
    if size < 12:
        return False, n, at
    flags, queries, count = _u16(data, base + 2), _u16(data, base + 4), _u16(data, base + 6)
    if flags >> 11 & 15 or queries > _MAX_QUERIES or count > _MAX_RECORDS:
        return False, n, at
    row.trans_id = _u16(data, base)
    row.flags = flags
    row.queries = queries
    row.records = count + _u16(data, base + 8) + _u16(data, base + 10)
    row.first = n
    row.begin = row.end = 0
    row.plain = True
    row.qtype = row.qclass = 0
    pos = i64(12)
    for _ in range(queries):
        row.begin = at
        pos, at, plain = _name(data, base, pos, size, text, at)
        if pos < 0 or pos + 4 > size:
            return False, n, at
        row.end = at
        row.plain = plain
        row.qtype = _u16(data, base + pos)
        row.qclass = _u16(data, base + pos + 2)
        pos += 4
    for _ in range(count):
        if n >= len(answers):
            return False, n, at
        answer = answers[n]
        answer.owner = at
        pos, at, answer.owner_plain = _name(data, base, pos, size, text, at)
        if pos < 0 or pos + 10 > size:
            return False, n, at
        answer.owner_end = at
        pos, at, text_end = _record(data, base, pos, size, answer, text, at)
        if pos < 0:
            return False, n, at
        n += text_end
    row.last = n
    return True, n, at


@helper
def _record(
    data: Any, base: int, pos: int, size: int, answer: Any, text: Any, at: int
) -> tuple[int, int, int]:
    """Reads a record behind its name: the offset behind it (-1: odd), the end of the text, 1 if it says something."""
    kind, length = _u16(data, base + pos), _u16(data, base + pos + 8)
    answer.ttl = _u16(data, base + pos + 4) << 16 | _u16(data, base + pos + 6)
    pos += 10
    end = pos + length
    if end > size or length == 0 or at + 4 * length + 64 > len(text):
        return i64(-1), at, i64(0)
    answer.begin = at
    answer.plain = True
    if kind == _A:
        if length != 4:
            return i64(-1), at, i64(0)
        at = _dotted(data, base + pos, text, at)
    elif kind in (_AAAA, _A6):
        if length < 16:
            return i64(-1), at, i64(0)
        at = _colons(data, base + pos, text, at)
        if at < 0:
            return i64(-1), i64(0), i64(0)
        end = pos + 16
    elif kind in (_CNAME, _PTR, _NS):
        end, at, answer.plain = _name(data, base, pos, size, text, at)
    elif kind == _MX:
        after, at, answer.plain = _name(data, base, pos + 2, size, text, at)
        end = max(end, after) if after >= 0 else after
    elif kind == _SRV:
        after, at, answer.plain = _name(data, base, pos + 6, size, text, at)
        end = end if after >= 0 else after
    elif kind == _SOA:
        after, at, answer.plain = _name(data, base, pos, size, text, at)
        if after < 0:
            return i64(-1), at, i64(0)
        after, _, _ = _name(data, base, after, size, text, at)
        if after < 0 or after + 20 > size:
            return i64(-1), at, i64(0)
        end = max(end, after + 20)
    elif kind in (_TXT, _SPF):
        at, answer.plain = _strings(data, base, pos, end, kind, text, at)
        if at < 0:
            return i64(-1), i64(0), i64(0)
    elif kind in _UNLOGGED_TYPES:
        return end, at, i64(0)
    elif kind in _UNKNOWN_TYPES:
        for letter in (60, 117, 110, 107, 110, 111, 119, 110, 32, 116, 121, 112, 101, 61):  # "<unknown type="
            text[at] = letter
            at += 1
        at = _decimal(kind, text, at)
        text[at] = 62
        at += 1
    else:
        return i64(-1), at, i64(0)
    answer.end = at
    return end, at, i64(1)


@helper
def _name(data: Any, base: int, pos: int, end: int, text: Any, at: int) -> tuple[int, int, bool]:
    """Writes a name in lower case; the offset behind it (-1: odd), the end of the text, whether it is plain ASCII."""
    after, jumps, size, plain, first = i64(-1), i64(0), i64(0), True, True
    if at + _MAX_NAME_BYTES + 1 > len(text):
        return i64(-1), at, False
    while True:
        if pos >= end:
            return i64(-1), at, False
        n = i64(data[base + pos])
        if n == 0:
            return (pos + 1 if after < 0 else after), at, plain
        if pos + 1 >= end:
            return i64(-1), at, False
        if n >= 0xC0:
            target = (n & 0x3F) << 8 | i64(data[base + pos + 1])
            jumps += 1
            if target >= pos or jumps > _MAX_JUMPS:
                return i64(-1), at, False
            if after < 0:
                after = pos + 2
            end = pos
            pos = target
            continue
        pos += 1
        size += n + 1
        if n > 63 or n > end - pos or size > _MAX_NAME_BYTES:
            return i64(-1), at, False
        if not first:
            text[at] = _DOT
            at += 1
        first = False
        for k in range(pos, pos + n):
            b = i64(data[base + k])
            if b < 32 or b > 126:
                plain = False
            text[at] = b + 32 if 65 <= b <= 90 else b
            at += 1
        pos += n


@helper
def _strings(data: Any, base: int, pos: int, end: int, kind: int, text: Any, at: int) -> tuple[int, bool]:
    """Writes `TXT <length> <string>` for each string; -1 where one runs out of the record, or several are no text."""
    plain, several = True, False
    while pos < end:
        n = i64(data[base + pos])
        if pos + 1 + n > end or at + n + 16 > len(text):
            return i64(-1), False
        if several:
            text[at] = 32
            at += 1
        for letter in (84, 88, 84) if kind == _TXT else (83, 80, 70):
            text[at] = letter
            at += 1
        text[at] = 32
        at = _decimal(n, text, at + 1)
        text[at] = 32
        at += 1
        for k in range(pos + 1, pos + 1 + n):
            b = i64(data[base + k])
            if b < 32 or b > 126:
                plain = False
            text[at] = b
            at += 1
        pos += 1 + n
        if several and not plain:
            return i64(-1), False
        if pos < end and not plain:
            return i64(-1), False
        several = True
    return at, plain


@helper
def _decimal(value: int, text: Any, at: int) -> int:
    digits = i64(1)
    while value >= 10**digits:
        digits += 1
    for k in range(digits - 1, -1, -1):
        text[at + k] = 48 + value % 10
        value //= 10
    return at + digits


@helper
def _dotted(data: Any, pos: int, text: Any, at: int) -> int:
    for k in range(4):
        if k:
            text[at] = _DOT
            at += 1
        at = _decimal(i64(data[pos + k]), text, at)
    return at


@helper
def _colons(data: Any, pos: int, text: Any, at: int) -> int:
    """An IPv6 address as inet_ntop writes it; -1 for those that begin with zeros and may hold an IPv4 address."""
    if _u16(data, pos) == 0:
        return i64(-1)
    best, most, begin = i64(-1), i64(1), i64(0)
    while begin < 8:
        k = begin
        while k < 8 and _u16(data, pos + 2 * k) == 0:
            k += 1
        if k - begin > most:
            best, most = begin, k - begin
        begin = k + 1
    k = i64(0)
    while k < 8:
        if k == best:
            text[at] = 58
            text[at + 1] = 58
            at += 2
            k += most
            continue
        if k and k != best + (most if best >= 0 else 9):
            text[at] = 58
            at += 1
        group = _u16(data, pos + 2 * k)
        shift = i64(12)
        while shift and group >> shift == 0:
            shift -= 4
        while shift >= 0:
            digit = group >> shift & 15
            text[at] = 48 + digit if digit < 10 else 87 + digit
            at += 1
            shift -= 4
        k += 1
    return at
