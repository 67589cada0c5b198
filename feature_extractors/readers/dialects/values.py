"""Cells of conn.log as values, compiled: numbers, times, addresses, words; what is in any way unusual is refused."""

from __future__ import annotations

from typing import Final

import numpy as np

from feature_extractors.compiled import njit
from feature_extractors.readers.dialects.fields import LARGEST_COUNT

# below it, and with so few decimals, dividing by a power of ten rounds once
_MAX_EXACT_INTEGER: Final = 1 << 53
_MAX_EXACT_DECIMALS: Final = 22
TENS: Final = np.array([10.0**k for k in range(_MAX_EXACT_DECIMALS + 1)])


@njit(nogil=True)
def is_word(data, first, upto):  # type: ignore[no-untyped-def]
    """Whether a cell is of printable ASCII, without an escape."""
    for k in range(first, upto):  # noqa: SIM110  # compiled
        if data[k] < 33 or data[k] > 126 or data[k] == 92:
            return False
    return True


@njit(nogil=True)
def read_number(data, first, upto, tens):  # type: ignore[no-untyped-def]
    """(1, value) of digits and a point; (2, 0) where they are more than divide exactly; (0, 0) of all else."""
    value, size, decimals, point = np.int64(0), 0, 0, False
    for k in range(first, upto):
        c = data[k]
        if c == 46 and not point:
            point = True
            continue
        if c < 48 or c > 57:
            return 0, 0.0
        size += 1
        decimals += point
        if size <= 18:
            value = value * 10 + np.int64(c - 48)
    if size == 0 or size > 40 or data[first] == 46 or (point and decimals == 0):
        return 0, 0.0
    if size > 18 or value > _MAX_EXACT_INTEGER or decimals > _MAX_EXACT_DECIMALS:
        return 2, 0.0
    return 1, value / tens[decimals]


@njit(nogil=True)
def read_count(data, first, upto):  # type: ignore[no-untyped-def]
    """(1, value) of digits; (2, 0) of more than a connection can have in 64 bits; (0, -1) of all else."""
    size = upto - first
    if size == 0 or size > 20:
        return 0, np.int64(-1)
    value = np.int64(0)
    for k in range(first, min(upto, first + 18)):
        c = data[k]
        if c < 48 or c > 57:
            return 0, np.int64(-1)
        value = value * 10 + np.int64(c - 48)
    if size <= 18:
        return 1, value
    tail = np.uint64(value)
    for k in range(first + 18, upto):
        c = data[k]
        if c < 48 or c > 57:
            return 0, np.int64(-1)
        digit = np.uint64(c - 48)
        if tail > np.uint64(1844674407370955161) or (
            tail == np.uint64(1844674407370955161) and digit > np.uint64(5)
        ):
            return 0, np.int64(-1)
        tail = tail * np.uint64(10) + digit
    if tail > np.uint64(LARGEST_COUNT):
        return 2, np.int64(0)
    return 1, np.int64(tail)


@njit(nogil=True)
def _two(data, k):  # type: ignore[no-untyped-def]
    a, b = np.int64(data[k]) - 48, np.int64(data[k + 1]) - 48
    return a * 10 + b if 0 <= a <= 9 and 0 <= b <= 9 else np.int64(-1)


@njit(nogil=True)
def read_iso(data, first, upto):  # type: ignore[no-untyped-def]
    """Seconds of 2026-01-01T00:00:05.180579Z, with up to six decimals; whether it is such a time."""
    size = upto - first
    if size < 20 or size > 27 or data[upto - 1] != 90:  # Z
        return False, 0.0
    if data[first + 4] != 45 or data[first + 7] != 45 or data[first + 10] != 84:
        return False, 0.0
    if data[first + 13] != 58 or data[first + 16] != 58:
        return False, 0.0
    century, year = _two(data, first), _two(data, first + 2)
    month, day = _two(data, first + 5), _two(data, first + 8)
    hour, minute, second = _two(data, first + 11), _two(data, first + 14), _two(data, first + 17)
    if (
        century < 0
        or year < 0
        or hour < 0
        or hour > 23
        or minute < 0
        or minute > 59
        or second < 0
        or second > 59
    ):
        return False, 0.0
    year += 100 * century
    if month < 1 or month > 12 or day < 1 or day > 28 + (month != 2) * 2 or year < 1970:
        return False, 0.0  # the days at the end of a month are left to a calendar
    micros, scale = np.int64(0), np.int64(1000000)
    if size > 20:
        if data[first + 19] != 46 or size == 21:
            return False, 0.0
        for k in range(first + 20, upto - 1):
            c = np.int64(data[k]) - 48
            if c < 0 or c > 9:
                return False, 0.0
            scale //= 10
            micros += c * scale
    shifted = year - (month <= 2)
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    days = 365 * shifted + shifted // 4 - shifted // 100 + shifted // 400 + of_year - 719468
    whole = ((days * 24 + hour) * 60 + minute) * 60 + second
    return True, (whole * 1000000 + micros) / 1e6


@njit(nogil=True)
def read_address(data, first, upto, out):  # type: ignore[no-untyped-def]
    """Whether a cell is an IPv4 address, or an IPv6 address in hexadecimal; its 16 bytes go into `out`."""
    size = upto - first
    if size < 2 or size > 39:
        return False
    for k in range(first, min(upto, first + 5)):
        if data[k] == 58:
            return _address6(data, first, upto, out)
    part, value, digits = 0, 0, 0
    for k in range(10):
        out[k] = 0
    out[10] = out[11] = 255
    for k in range(first, upto + 1):
        c = data[k] if k < upto else 46
        if c == 46:
            if digits == 0 or value > 255 or part > 3:
                return False
            out[12 + part] = value
            part, value, digits = part + 1, 0, 0
        elif 48 <= c <= 57:
            if digits == 3 or (digits > 0 and value == 0):
                return False
            value = value * 10 + (c - 48)
            digits += 1
        else:
            return False
    return part == 4


@njit(nogil=True)
def _address6(data, first, upto, out):  # type: ignore[no-untyped-def]
    groups, gap, value, digits = 0, -1, 0, 0
    for k in range(16):
        out[k] = 0
    k = first
    if data[k] == 58:
        if k + 1 >= upto or data[k + 1] != 58:
            return False
        gap = 0
        k += 2
    while k < upto:
        c = data[k]
        if c == 58:
            if k + 1 < upto and data[k + 1] == 58:
                if gap >= 0 or digits == 0:
                    return False
                if groups > 7:
                    return False
                out[2 * groups], out[2 * groups + 1] = value >> 8, value & 255
                groups, value, digits = groups + 1, 0, 0
                gap = groups
                k += 2
                continue
            if digits == 0 or groups > 6 or k + 1 == upto:
                return False
            out[2 * groups], out[2 * groups + 1] = value >> 8, value & 255
            groups, value, digits = groups + 1, 0, 0
        else:
            if 48 <= c <= 57:
                digit = c - 48
            elif 97 <= c <= 102:
                digit = c - 87
            elif 65 <= c <= 70:
                digit = c - 55
            else:
                return False
            if digits == 4:
                return False
            value = value * 16 + digit
            digits += 1
        k += 1
    if digits:
        if groups > 7:
            return False
        out[2 * groups], out[2 * groups + 1] = value >> 8, value & 255
        groups += 1
    if gap < 0:
        return groups == 8
    if groups > 7:
        return False
    moved = groups - gap
    for j in range(2 * moved - 1, -1, -1):
        to = 16 - 2 * moved + j
        out[to] = out[2 * gap + j]
        if to != 2 * gap + j:
            out[2 * gap + j] = 0
    return True


@njit(nogil=True)
def read_code(data, first, upto, words, size, slot, used):  # type: ignore[no-untyped-def]
    """The number of a word in the dictionary, where it is entered; -1 where it is none, or there are too many."""
    length = upto - first
    if length == 0 or length > words.shape[1] or not is_word(data, first, upto):
        return -1
    mixed = np.uint32(2166136261)
    for k in range(first, upto):
        mixed = np.uint32((mixed ^ np.uint32(data[k])) * np.uint32(16777619))
    at = np.int64(mixed) & (len(slot) - 1)
    while slot[at] >= 0:
        known = slot[at]
        if size[known] == length:
            same = True
            for k in range(length):
                if words[known, k] != data[first + k]:
                    same = False
                    break
            if same:
                return known
        at = (at + 1) & (len(slot) - 1)
    new = used[0]
    if new == words.shape[0]:
        return -1
    for k in range(length):
        words[new, k] = data[first + k]
    size[new] = length
    slot[at] = new
    used[0] = new + 1
    return new
