"""Plain HTTP/1 heads read a whole block at a time, JIT-compiled; whatever is odd about one is left to `http.Http`.

A head is plain where a segment begins with it and holds it whole: an ordinary request or status line, and header lines
that end in CRLF, none of them folded. Then what stands here is exactly what `http` reads from it, only sooner. A
header is judged here where it is frequent; of others it is said where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feature_extractors.compiled import borrowed, entry, helper, i64

METHODS: Final = (b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"PROPFIND")
# Headers that `http` reads, by their number in `items`: of requests, the first four of them text; of both; of replies.
HEADERS: Final = (
    b"HOST", b"USER-AGENT", b"REFERER", b"ORIGIN", b"AUTHORIZATION", b"PROXY-AUTHORIZATION", b"FORWARDED",
    b"X-FORWARDED-FOR", b"X-FORWARDED-FROM", b"CLIENT-IP", b"VIA", b"XROXY-CONNECTION", b"PROXY-CONNECTION",
    b"CONTENT-LENGTH", b"CONTENT-TYPE", b"TRANSFER-ENCODING", b"CONTENT-ENCODING", b"CONTENT-DISPOSITION",
    b"CONNECTION", b"CONTENT-RANGE", b"UPGRADE",
)  # fmt: skip
_TEXTS, _LENGTH, _TYPE, _CONNECTION = 4, 13, 14, 18
NUMBER: Final = (
    -1
)  # in place of a header: Content-Length, whose number stands in place of the value's beginning
TEXT: Final = -2  # and below: the header TEXT - n, whose value stands in the text

# Of a head: whether it is a request; bytes of its first line, and of all of it; lines of headers; number of the method,
# or status; version; whether URI or reason are plain, and where they stand, in the text or else in the segment; where
# its items begin and end.
HEAD: Final = 11
# Of an item: which header, and where its value begins and ends, in the segment or in the text.
ITEM: Final = 3

MIN_HEAD: Final = 16
_MAX_HEAD: Final = 8192  # bytes; a longer one is odd
_MAX_LINES: Final = 100
_MIN_LINE: Final = 6  # bytes of a header that is an item
_MAX_TEXT: Final = 4096  # bytes of a value; a longer one is cut by `http`
_MAX_DIGITS: Final = 18  # of a number
_CR, _LF, _TAB, _SPACE, _COLON, _PERCENT, _H, _T = 13, 10, 9, 32, 58, 37, 72, 84


def _codes(name: bytes) -> tuple[int, int, int]:
    """A name of at most 24 bytes in lower case as three numbers, as `_header` makes them."""
    first, second, third = (int.from_bytes(name.lower()[k : k + 8], "big") for k in (0, 8, 16))
    return first, second, third


_METHOD_CODES: Final = np.array([int.from_bytes(name, "big") for name in METHODS], np.int64)
_NAME_CODES: Final = np.array([(len(name), *_codes(name)) for name in HEADERS], np.int64)
_HTTP_1: Final = int.from_bytes(b"HTTP/1.", "big")
_HTTP: Final = int.from_bytes(b"http/", "big")
_KEEP, _ALIVE, _ = _codes(b"keep-alive")
_MULTIPART: Final = _codes(b"multipart/")[0]
_NAME: Final = _codes(b"name")[0]


@dataclass(frozen=True, slots=True)
class Heads:
    """The plain heads of a block as columns, each row after the other."""

    rows: list[int]  # HEAD numbers of each
    items: list[int]  # ITEM numbers of each
    words: str  # printable ASCII


def read(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    captured: NDArray[np.int32],
    wanted: NDArray[np.int64],
    which: NDArray[np.int64],
) -> Heads:
    """The plain heads that the segments with index in `wanted` begin with, of those that begin at `starts` in `data`.

    `which` [s] gets the row of each segment that does.
    """
    if not len(wanted):
        return Heads([], [], "")
    size = int(np.minimum(captured[wanted], _MAX_HEAD).sum())
    rows = np.empty((len(wanted), HEAD), np.int64)
    items = np.empty((size // _MIN_LINE + 1, ITEM), np.int64)
    text = np.empty(size, np.uint8)
    n, n_items, n_text = _read(data, starts, captured, wanted, which, rows, items, text)
    said = text[:n_text].tobytes().decode("ascii")
    return Heads(rows[:n].ravel().tolist(), items[:n_items].ravel().tolist(), said)


@entry
def _read(
    data: Any, starts: Any, captured: Any, wanted: Any, which: Any, rows: Any, items: Any, text: Any
) -> tuple[int, int, int]:
    data, rows, items, text = borrowed(data), borrowed(rows), borrowed(items), borrowed(text)
    n, n_items, at = i64(0), i64(0), i64(0)
    for i in wanted:
        begin = i64(starts[i])
        end = begin + min(i64(captured[i]), _MAX_HEAD)
        found, new_items, new_at = _head(data, begin, end, rows[n], items, n_items, text, at)
        if found:
            which[i] = n
            n += 1
            n_items = new_items
            at = new_at
    return n, n_items, at


@helper
def _head(
    data: Any, begin: int, end: int, row: Any, items: Any, n: int, text: Any, at: int
) -> tuple[bool, int, int]:
    """Whether a plain head stands between `begin` and `end`, and how many items and bytes of text there are now."""
    if end - begin < MIN_HEAD:
        return False, n, at
    row[0] = 0 if i64(data[begin]) == _H and i64(data[begin + 1]) == _T else 1
    if row[0]:
        pos, at = _request_line(data, begin, end, row, text, at)
    else:
        pos, at = _status_line(data, begin, end, row, text, at)
    if pos < 0:
        return False, n, at
    row[1] = pos - begin
    row[9] = n
    lines = i64(0)
    while True:
        if pos + 1 >= end:
            return False, n, at
        if i64(data[pos]) == _CR:
            break
        lines += 1
        if lines > _MAX_LINES:
            return False, n, at
        pos, n, at = _header(data, begin, pos, end, row[0], items, n, text, at)
        if pos < 0:
            return False, n, at
    if i64(data[pos + 1]) != _LF:
        return False, n, at
    row[2] = pos + 2 - begin
    row[3] = lines
    row[10] = n
    return True, n, at


@helper
def _request_line(data: Any, begin: int, end: int, row: Any, text: Any, at: int) -> tuple[int, int]:
    """The offset behind the line (-1: odd), and the end of the text."""
    pos, code = begin, i64(0)
    while pos < begin + 8 and i64(data[pos]) != _SPACE:
        code = code << 8 | i64(data[pos])
        pos += 1
    row[4] = -1
    for k in range(len(_METHOD_CODES)):
        if _METHOD_CODES[k] == code:
            row[4] = k
    if row[4] < 0 or i64(data[pos]) != _SPACE:
        return i64(-1), at
    pos += 1
    uri, plain = pos, True
    while pos < end and i64(data[pos]) != _SPACE:
        b = i64(data[pos])
        if b < _SPACE or b == 127:
            return i64(-1), at
        if b > 127 or b == _PERCENT:
            plain = False
        pos += 1
    size = pos - uri
    if size == 0 or pos + 11 > end or _lower(data, uri, min(uri + 5, pos)) == _HTTP:
        return i64(-1), at
    version = _version(data, pos + 1)
    if version < 0 or i64(data[pos + 9]) != _CR or i64(data[pos + 10]) != _LF:
        return i64(-1), at
    row[5] = version
    at = _said(data, uri, pos, begin, plain, row, text, at)
    return pos + 11, at


@helper
def _status_line(data: Any, begin: int, end: int, row: Any, text: Any, at: int) -> tuple[int, int]:
    """The offset behind the line (-1: odd), and the end of the text."""
    version = _version(data, begin)
    if version < 0 or i64(data[begin + 8]) != _SPACE or i64(data[begin + 12]) != _SPACE:
        return i64(-1), at
    status = i64(0)
    for k in range(begin + 9, begin + 12):
        digit = i64(data[k]) - 48
        if digit < 0 or digit > 9:
            return i64(-1), at
        status = 10 * status + digit
    row[4] = status
    row[5] = version
    reason = begin + 13
    pos, plain = reason, True
    while pos < end and i64(data[pos]) != _CR:
        b = i64(data[pos])
        if b < _SPACE or b == 127:
            return i64(-1), at
        if b > 127:
            plain = False
        pos += 1
    if pos == reason or pos + 1 >= end or i64(data[reason]) == _SPACE or i64(data[pos + 1]) != _LF:
        return i64(-1), at
    at = _said(data, reason, pos, begin, plain, row, text, at)
    return pos + 2, at


@helper
def _version(data: Any, pos: int) -> int:
    """0 or 1 for the eight bytes HTTP/1.0 or HTTP/1.1, else -1."""
    if _number(data, pos, pos + 7) != _HTTP_1:
        return i64(-1)
    digit = i64(data[pos + 7]) - 48
    return digit if 0 <= digit <= 1 else i64(-1)


@helper
def _said(data: Any, begin: int, end: int, base: int, plain: bool, row: Any, text: Any, at: int) -> int:
    """Says where the URI or the reason stands, and writes it to the text where it is plain. The end of the text."""
    if plain and end - begin <= _MAX_TEXT:
        row[6], row[7], row[8] = 1, at, at + end - begin
        return _written(data, begin, end, text, at)
    row[6], row[7], row[8] = 0, begin - base, end - base
    return at


@helper
def _header(
    data: Any, base: int, pos: int, end: int, is_request: int, items: Any, n: int, text: Any, at: int
) -> tuple[int, int, int]:
    """Reads one line: the offset behind it (-1: odd), how many items and bytes of text there are now."""
    name = pos
    first, second, third = i64(0), i64(0), i64(0)
    while pos < end:
        b = i64(data[pos])
        if b == _COLON:
            break
        if 65 <= b <= 90:
            b += 32
        elif not (97 <= b <= 122 or 48 <= b <= 57 or b in (45, 95)):
            return i64(-1), n, at
        k = pos - name
        if k < 8:
            first = first << 8 | b
        elif k < 16:
            second = second << 8 | b
        elif k < 24:
            third = third << 8 | b
        pos += 1
    size = pos - name
    begin = pos + 1
    if size == 0 or begin >= end:
        return i64(-1), n, at
    pos, plain = begin, True
    while pos < end:
        b = i64(data[pos])
        if b == _CR:
            break
        if b == _LF:
            return i64(-1), n, at
        if b < _SPACE or b > 126:
            plain = False
        pos += 1
    after = pos + 2
    if after >= end or i64(data[pos + 1]) != _LF:
        return i64(-1), n, at
    b = i64(data[after])
    if b in (_SPACE, _TAB):  # the next line goes on with this one
        return i64(-1), n, at
    which = _which(size, first, second, third)
    if which < 0 or (which >= _CONNECTION if is_request else which < _LENGTH):
        return after, n, at  # nobody reads it, there
    while begin < pos and (i64(data[begin]) == _SPACE or i64(data[begin]) == _TAB):
        begin += 1
    while begin < pos and (i64(data[pos - 1]) == _SPACE or i64(data[pos - 1]) == _TAB):
        pos -= 1
    if plain and which < _TEXTS and pos - begin <= _MAX_TEXT:
        items[n, 0], items[n, 1], items[n, 2] = TEXT - which, at, at + pos - begin
        return after, n + 1, _written(data, begin, pos, text, at)
    number = _digits(data, begin, pos) if which == _LENGTH else i64(-1)
    if number >= 0:
        items[n, 0], items[n, 1], items[n, 2] = NUMBER, number, 0
        return after, n + 1, at
    if plain and which == _TYPE and not _tells(data, begin, pos):
        return after, n, at
    if which == _CONNECTION and _is_keep_alive(data, begin, pos):
        return after, n, at
    items[n, 0], items[n, 1], items[n, 2] = which, begin - base, pos - base
    return after, n + 1, at


@helper
def _which(size: int, first: int, second: int, third: int) -> int:
    """The number of the header with a name of this size, -1 for one that nobody reads."""
    for k in range(len(_NAME_CODES)):
        same_begin = _NAME_CODES[k, 0] == size and _NAME_CODES[k, 1] == first
        if same_begin and _NAME_CODES[k, 2] == second and _NAME_CODES[k, 3] == third:
            return i64(k)
    return i64(-1)


@helper
def _is_keep_alive(data: Any, begin: int, end: int) -> bool:
    if end - begin != 10:
        return False
    return bool(_lower(data, begin, begin + 8) == _KEEP and _lower(data, begin + 8, end) == _ALIVE)


@helper
def _tells(data: Any, begin: int, end: int) -> bool:
    """Whether a Content-Type says more than its kind: that of parts, or the name of a file."""
    if end - begin >= 10 and _lower(data, begin, begin + 8) == _MULTIPART:
        return True
    last = i64(0)
    for k in range(begin, end):
        last = (last << 8 | i64(data[k]) | 32) & 0xFFFFFFFF
        if last == _NAME:
            return True
    return False


@helper
def _digits(data: Any, begin: int, end: int) -> int:
    """The number that stands there, and nothing else; else -1."""
    if end == begin or end - begin > _MAX_DIGITS:
        return i64(-1)
    number = i64(0)
    for k in range(begin, end):
        digit = i64(data[k]) - 48
        if digit < 0 or digit > 9:
            return i64(-1)
        number = 10 * number + digit
    return number


@helper
def _number(data: Any, begin: int, end: int) -> int:
    """Up to eight bytes as a number."""
    number = i64(0)
    for k in range(begin, end):
        number = number << 8 | i64(data[k])
    return number


@helper
def _lower(data: Any, begin: int, end: int) -> int:
    """Up to eight bytes as a number, their letters in lower case; other bytes may be taken for one another."""
    number = i64(0)
    for k in range(begin, end):
        number = number << 8 | i64(data[k]) | 32
    return number


@helper
def _written(data: Any, begin: int, end: int, text: Any, at: int) -> int:
    """Writes these bytes to the text; the end of it."""
    for k in range(begin, end):
        text[at] = data[k]
        at += 1
    return at
