"""Columns of values as the lines of a log, compiled: texts are given, numbers are formatted here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feature_extractors.compiled import entry, njit

# What a cell holds. A cell is 64 bits: a number's, or where its text lies.
WORD: Final = 0  # index of a word, -1 unset
COUNT: Final = 1  # an integer, negative: unset
SECONDS: Final = 2  # a double with six decimals, NaN unset
DOUBLE: Final = 3  # a double with six significant digits, NaN unset
TEXT: Final = 4  # where a text of fixed width begins that zero bytes may end, empty: unset
IPV4: Final = 5  # an address, unless it is negative: then -1 less the index of a word

_WIDEST: Final = np.array([0, 20, 26, 26, 0, 15])  # bytes of a cell of each kind at most; 0: by its text
_MAX_SECONDS: Final = 9e12  # seconds that six decimals are told of, in 64 bits
_LOWEST_POWER: Final = 323  # the powers of ten begin at its negative
_POWERS: Final = np.array([float(f"1e{k}") for k in range(-_LOWEST_POWER, 309)])


@dataclass(frozen=True, slots=True)
class Cells:
    """One column [n]: its kind, what its cells hold, and the texts that they name."""

    kind: int
    cell: NDArray[np.int64]  # [n]
    text: NDArray[np.uint8]  # the words end to end, or the texts
    start: NDArray[np.int64]  # [words + 1] where each begins; none but for words
    width: int = 0  # of a text


_NO_TEXT: Final = np.zeros(0, np.uint8)
_NO_START: Final = np.zeros(1, np.int64)


def worded(code: NDArray[np.int64], words: Sequence[bytes], kind: int = WORD) -> Cells:
    """A dictionary-encoded column [n] of kind WORD or IPV4: `words` [k] by `code` [n], -1 unset."""
    start = np.zeros(len(words) + 1, np.int64)
    np.cumsum([len(w) for w in words], out=start[1:])
    return Cells(kind, code, np.frombuffer(b"".join(words), np.uint8), start)


def counted(column: NDArray[np.integer]) -> Cells:
    """A column of integers [n]; negative: unset."""
    return Cells(COUNT, column.astype(np.int64), _NO_TEXT, _NO_START)


def measured(column: NDArray[np.float64], kind: int) -> Cells | None:
    """A column of doubles [n] of kind SECONDS or DOUBLE, NaN unset; None where one is out of the range of the kind."""
    size = np.abs(column)
    if (size > (_MAX_SECONDS if kind == SECONDS else 1e300)).any():
        return None
    if kind == DOUBLE and ((size > 0) & (size < 1e-300)).any():
        return None
    return Cells(kind, np.ascontiguousarray(column, np.float64).view(np.int64), _NO_TEXT, _NO_START)


def texts(column: NDArray[np.bytes_]) -> Cells | None:
    """A column of texts [n] of fixed width, empty: unset; None where one needs escaping (not in `[A-Za-z0-9+/=:^]`)."""
    width = column.dtype.itemsize
    text = np.ascontiguousarray(column).view(np.uint8).reshape(-1)
    if not _PLAIN[text].all():
        return None
    return Cells(TEXT, np.arange(len(column), dtype=np.int64) * width, text, _NO_START, width)


_PLAIN: Final = np.zeros(256, np.bool_)
_PLAIN[list(b"\0+/=:^0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")] = True


def join(
    columns: Sequence[Cells],
    around: Sequence[tuple[bytes, bytes, bytes | None]],
    *,
    between: bytes,
    begin: bytes,
    end: bytes,
    short: bool,
) -> bytes:
    """The lines of a log, UTF-8. `around` has prefix, suffix and the text of an unset value for each column.

    Where that text is None an unset value is left out, with its separator `between`. `begin` and `end` enclose a
    line. `short`: seconds have no trailing zeros.
    """
    n = len(columns[0].cell)
    base = np.cumsum([0] + [len(c.text) for c in columns])
    word = np.cumsum([0] + [len(c.start) for c in columns])
    fixed = worded(_NO_START, [u or b"" for _, _, u in around] + [p for a, z, _ in around for p in (a, z)])
    size = n * (len(begin) + len(end) + len(between) * len(columns) + len(fixed.text))
    for c in columns:
        size += n * (int(_WIDEST[c.kind]) + c.width)
        if c.kind in (WORD, IPV4):
            at = c.cell if c.kind == WORD else -1 - c.cell
            length = np.diff(c.start)
            size += int(length[at[at >= 0]].sum())
    out = np.empty(size, np.uint8)
    used = _join(
        np.array([c.kind for c in columns]),
        np.stack([c.cell for c in columns]),
        np.concatenate([c.text for c in columns]),
        base,
        np.concatenate([c.start for c in columns]),
        word,
        np.array([c.width for c in columns]),
        np.array([u is None for _, _, u in around]),
        fixed.text,
        fixed.start,
        np.frombuffer(between, np.uint8),
        np.frombuffer(begin, np.uint8),
        np.frombuffer(end, np.uint8),
        short,
        _POWERS,
        out,
    )
    return out[:used].tobytes()


@entry
def _join(  # type: ignore[no-untyped-def]
    kinds, cells, text, base, start, word, width, drop, fixed, edge, between, begin, end, short, powers, out
):  # fmt: skip
    at = 0
    columns = len(kinds)
    values = cells.view(np.float64)
    for i in range(cells.shape[1]):
        at = _copy(begin, 0, len(begin), out, at)
        first = True
        for c in range(columns):
            kind, cell = kinds[c], cells[c, i]
            unset = False
            if kind in (WORD, COUNT):
                unset = cell < 0
            elif kind in (SECONDS, DOUBLE):
                unset = np.isnan(values[c, i])
            elif kind == TEXT:
                unset = width[c] == 0 or text[base[c] + cell] == 0
            if unset and drop[c]:
                continue
            if not first:
                at = _copy(between, 0, len(between), out, at)
            first = False
            if unset:
                at = _copy(fixed, edge[c], edge[c + 1], out, at)
                continue
            around = columns + 2 * c
            at = _copy(fixed, edge[around], edge[around + 1], out, at)
            if kind == WORD or (kind == IPV4 and cell < 0):
                w = word[c] + (cell if kind == WORD else -1 - cell)
                at = _copy(text, base[c] + start[w], base[c] + start[w + 1], out, at)
            elif kind == COUNT:
                at = _digits(cell, 1, out, at)
            elif kind == SECONDS:
                at = _seconds(values[c, i], short, out, at)
            elif kind == DOUBLE:
                at = _double(values[c, i], powers, out, at)
            elif kind == TEXT:
                upto = 0
                while upto < width[c] and text[base[c] + cell + upto] != 0:
                    upto += 1
                at = _copy(text, base[c] + cell, base[c] + cell + upto, out, at)
            else:
                for shift in (24, 16, 8, 0):
                    at = _digits((cell >> shift) & 255, 1, out, at)
                    if shift:
                        out[at] = 46  # .
                        at += 1
            at = _copy(fixed, edge[around + 1], edge[around + 2], out, at)
        at = _copy(end, 0, len(end), out, at)
    return at


@njit(nogil=True)
def _copy(text, first, upto, out, at):  # type: ignore[no-untyped-def]
    for k in range(first, upto):
        out[at] = text[k]
        at += 1
    return at


@njit(nogil=True)
def _digits(x, least, out, at):  # type: ignore[no-untyped-def]
    """An integer >= 0 with at least so many digits."""
    size, rest = 1, x // 10
    while rest > 0:
        rest //= 10
        size += 1
    size = max(size, least)
    for k in range(size):
        out[at + size - 1 - k] = 48 + x % 10
        x //= 10
    return at + size


@njit(nogil=True)
def _seconds(x, short, out, at):  # type: ignore[no-untyped-def]
    """As "%.6f"; `short` without the zeros at its end, but for the first."""
    micros = np.int64(np.rint(abs(x) * 1e6))
    if x < 0.0:
        out[at] = 45  # -
        at += 1
    at = _digits(micros // 1000000, 1, out, at)
    out[at] = 46
    at = _digits(micros % 1000000, 6, out, at + 1)
    if short:
        while out[at - 1] == 48 and out[at - 2] != 46:
            at -= 1
    return at


@njit(nogil=True)
def _double(x, powers, out, at):  # type: ignore[no-untyped-def]
    """The shortest text of what "%.6g" means: 0.25, 1.0, 2.5e-05."""
    if x < 0.0:
        out[at] = 45
        at += 1
        x = -x
    if x == 0.0:
        for c in (48, 46, 48):
            out[at] = c
            at += 1
        return at
    e = np.int64(np.floor(np.log10(x)))
    digits = np.int64(np.rint(x * powers[323 + 5 - e]))
    if digits < 100000:  # the logarithm was rounded up
        e -= 1
        digits = np.int64(np.rint(x * powers[323 + 5 - e]))
    elif digits >= 1000000:
        e += 1
        digits = (digits + 5) // 10
    size = 6
    while size > 1 and digits % 10 == 0:
        digits //= 10
        size -= 1
    if e < -4 or e >= 16:
        first = digits
        for _ in range(size - 1):
            first //= 10
        out[at] = 48 + first
        at += 1
        if size > 1:
            out[at] = 46
            tail = digits
            scale = np.int64(1)
            for _ in range(size - 1):
                scale *= 10
            at = _digits(tail % scale, size - 1, out, at + 1)
        out[at] = 101  # e
        out[at + 1] = 45 if e < 0 else 43
        return _digits(abs(e), 2, out, at + 2)
    if e < 0:
        out[at] = 48
        out[at + 1] = 46
        at += 2
        for _ in range(-1 - e):
            out[at] = 48
            at += 1
        return _digits(digits, size, out, at)
    whole = e + 1  # digits before the point
    if size <= whole:
        at = _digits(digits, size, out, at)
        for _ in range(whole - size):
            out[at] = 48
            at += 1
        out[at] = 46
        out[at + 1] = 48
        return at + 2
    scale = np.int64(1)
    for _ in range(size - whole):
        scale *= 10
    at = _digits(digits // scale, whole, out, at)
    out[at] = 46
    return _digits(digits % scale, size - whole, out, at + 1)
