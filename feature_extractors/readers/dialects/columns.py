"""Lines of conn.log parsed into columns by compiled code where they are as Zeek writes them; the others are named.

What is taken here means what `log_lines` makes of it, digit by digit; whatever is in any way unusual is left to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feature_extractors.compiled import entry, njit
from feature_extractors.frames import MAX_SECONDS
from feature_extractors.readers.dialects.fields import SHIPPED
from feature_extractors.readers.dialects.values import (
    TENS,
    is_word,
    read_address,
    read_code,
    read_count,
    read_iso,
    read_number,
)

# The columns that are looked for: first times, then addresses, ports, counts, words and texts.
TARGETS: Final = (
    "ts", "duration", "id.orig_h", "id.resp_h", "id.orig_p", "id.resp_p",
    "orig_bytes", "resp_bytes", "missed_bytes", "orig_pkts", "orig_ip_bytes", "resp_pkts", "resp_ip_bytes",
    "vlan", "inner_vlan", "ip_proto",
    "service", "conn_state", "proto", "_path",
    "uid", "history", "tunnel_parents",
)  # fmt: skip
TARGET: Final = {name: i for i, name in enumerate(TARGETS)}
COUNTS: Final = TARGETS[6:16]
WORDS: Final = TARGETS[16:20]

_TS, _DURATION, _ORIG_H, _ORIG_P, _COUNT, _WORD, _UID, _HISTORY, _PARENTS = 0, 1, 2, 4, 6, 16, 20, 21, 22
_SMALL: Final = 7  # of the counts: from here on 16 bits, the last one 8
_N: Final = len(TARGETS)
_ABSENT, _BARE, _TEXT, _EMPTY, _LIST = 0, 1, 2, 3, 4  # what a value is
_HASH_BUCKETS: Final = 1024
_NOT_HERE: Final = -2  # the target of a field that is not read here
_LINE_FEED: Final = 10
_UID_WIDTH, _HISTORY_WIDTH = 20, 64
_SPARE_WORDS: Final = 1024
_WORD_BYTES: Final = 64
_MILLISECONDS_FROM: Final = 6.3e11  # from here on a time may be milliseconds


@dataclass(slots=True)
class Rows:
    """The columns of `n` lines; where `done` is false the line was not parsed and its values mean nothing."""

    done: NDArray[np.bool_]  # [n]
    time: NDArray[np.float64]  # [2, n] ts, and duration, NaN unset
    address: NDArray[np.uint8]  # [2, n, 16] of originator and responder
    port: NDArray[np.uint16]  # [2, n]
    count: NDArray[np.int64]  # [10, n] COUNTS, -1 unset
    word: NDArray[np.int32]  # [4, n] which of `words` WORDS are, -1 unset
    uid: NDArray[np.bytes_]  # [n] S20
    history: NDArray[np.bytes_]  # [n] S64
    tunneled: NDArray[np.bool_]  # [n]
    too_large: NDArray[np.uint8]  # [n] counts past what a connection can have, which are unset


class Table:
    """The dictionary of the words of a log (services, states, protocols), by number."""

    def __init__(self) -> None:
        self.bytes = np.zeros((_SPARE_WORDS, _WORD_BYTES), np.uint8)
        self.size = np.zeros(_SPARE_WORDS, np.int32)
        self.slot = np.full(4 * _SPARE_WORDS, -1, np.int32)
        self.used = np.zeros(1, np.int64)

    def words(self) -> list[str]:
        """The words in order of their numbers."""
        n = int(self.used[0])
        return [bytes(self.bytes[i, : self.size[i]]).decode("ascii") for i in range(n)]


class Columns:
    """The parser of the lines of one log: TSV by the place of a column, JSON by the name of a field."""

    def __init__(self, *, separator: bytes = b"", empty: bytes = b"", unset: bytes = b"") -> None:
        self.table = Table()
        self._separator = separator
        self._empty = np.frombuffer(empty, np.uint8)
        self._unset = np.frombuffer(unset, np.uint8)
        self._place = np.zeros(0, np.int32)
        self._keys = np.zeros(0, np.uint8)
        self._key_start = np.zeros(1, np.int32)
        self._key_target = np.zeros(0, np.int32)
        self._first = np.full(
            _HASH_BUCKETS, -1, np.int32
        )  # of the keys of one length, first and last letter, and so on
        self._next = np.zeros(0, np.int32)

    @classmethod
    def of_tsv(cls, names: Sequence[str], separator: str, empty: str, unset: str) -> Columns:
        """The parser of a TSV log: `names` are Zeek's, in the order of the columns; the separator is one byte."""
        made = cls(separator=separator.encode(), empty=empty.encode(), unset=unset.encode())
        made._place = np.array([TARGET.get(name, -1) for name in names], np.int32)
        return made

    @classmethod
    def of_json(cls, names: Mapping[str, str]) -> Columns:
        """The parser of a JSON log: `names` maps the names of one record to Zeek's; other records may have more."""
        made = cls()
        keys = dict.fromkeys(SHIPPED, _NOT_HERE) | TARGET
        keys |= {name: TARGET.get(zeek, -1) for name, zeek in names.items() if name not in SHIPPED}
        encoded = {name.encode(): target for name, target in keys.items()}
        made._keys = np.frombuffer(b"".join(encoded), np.uint8)
        made._key_start = np.cumsum([0, *map(len, encoded)]).astype(np.int32)
        made._key_target = np.array(list(encoded.values()), np.int32)
        made._next = np.full(len(encoded), -1, np.int32)
        for j, key in reversed(list(enumerate(encoded))):
            if key:
                bucket = _bucket(len(key), key[0], key[-1])
                made._next[j], made._first[bucket] = made._first[bucket], j
        return made

    def read(self, chunk: bytes) -> tuple[Rows, NDArray[np.int64]]:
        """The parsed columns of the lines of a chunk, and the offset of each line and of the chunk's end [n + 1]."""
        data = np.frombuffer(chunk + b"\n", np.uint8)
        edge = np.concatenate([[0], np.flatnonzero(data == _LINE_FEED) + 1])
        n = len(edge) - 1
        rows = Rows(
            np.zeros(n, np.bool_), np.full((2, n), np.nan), np.zeros((2, n, 16), np.uint8), np.zeros((2, n), np.uint16),
            np.full((len(COUNTS), n), -1, np.int64), np.full((len(WORDS), n), -1, np.int32),
            np.zeros(n, f"S{_UID_WIDTH}"), np.zeros(n, f"S{_HISTORY_WIDTH}"), np.zeros(n, np.bool_),
            np.zeros(n, np.uint8),
        )  # fmt: skip
        late = np.zeros((2 * n, 4), np.int64)
        used = _read(
            data, edge, self._separator[0] if self._separator else 0, self._empty, self._unset, self._place, self._keys,
            self._key_start, self._key_target, self._first, self._next, self.table.bytes, self.table.size,
            self.table.slot, self.table.used, TENS, rows.done, rows.time, rows.address, rows.port, rows.count,
            rows.word,
            rows.uid.view(np.uint8).reshape(n, _UID_WIDTH), rows.history.view(np.uint8).reshape(n, _HISTORY_WIDTH),
            rows.tunneled, rows.too_large, late,
        )  # fmt: skip
        # Numbers of more digits than divide exactly.
        late = late[:used]
        rows.time[late[:, 0], late[:, 1]] = [float(chunk[begin:end]) for begin, end in late[:, 2:].tolist()]
        rows.done &= ~(np.abs(np.nan_to_num(rows.time)) > MAX_SECONDS).any(axis=0)
        rows.done &= ~(rows.time[0] >= _MILLISECONDS_FROM)
        return rows, edge


@entry
def _read(  # type: ignore[no-untyped-def]
    data, edge, separator, empty, unset, place, keys, key_start, key_target, first_key, next_key, words, word_size,
    slot, used, tens, done, time, address, port, count, word, uid, history, tunneled, too_large, late
):  # fmt: skip
    begin, end, kind = np.zeros(_N, np.int64), np.zeros(_N, np.int64), np.zeros(_N, np.int64)
    following = np.full(len(key_target) + 1, -1, np.int64)
    waiting = 0
    for i in range(len(edge) - 1):
        at, upto = edge[i], edge[i + 1] - 1
        if upto > at and data[upto - 1] == 13:  # CR
            upto -= 1
        kind[:] = _ABSENT
        if separator:
            cut = _cells(data, at, upto, separator, empty, unset, place, begin, end, kind)
        else:
            cut = _fields(
                data, at, upto, keys, key_start, key_target, first_key, next_key, following, begin, end, kind
            )
        if not cut or (separator == 0 and _bare_words(kind)):
            continue
        late_here = waiting
        good = kind[_TS] != _ABSENT
        for which in range(2):
            if kind[which] == _ABSENT or not good:
                continue
            got, value = read_number(data, begin[which], end[which], tens)
            if got == 1:
                time[which, i] = value
            elif got == 2:
                late[waiting, 0], late[waiting, 1] = which, i
                late[waiting, 2], late[waiting, 3] = begin[which], end[which]
                waiting += 1
            elif which == 0:
                good, time[0, i] = read_iso(data, begin[0], end[0])
            else:
                good = False
        for which in range(2):
            if good:
                good = kind[_ORIG_H + which] != _ABSENT and read_address(
                    data, begin[_ORIG_H + which], end[_ORIG_H + which], address[which, i]
                )
            if good:
                got, value = read_count(data, begin[_ORIG_P + which], end[_ORIG_P + which])
                good = kind[_ORIG_P + which] != _ABSENT and got == 1 and value <= 0xFFFF
                port[which, i] = value if good else 0
        for which in range(len(COUNTS)):
            t = _COUNT + which
            if good and kind[t] != _ABSENT:
                got, value = read_count(data, begin[t], end[t])
                if which >= _SMALL:
                    good = got == 1 and value <= (0xFF if which == len(COUNTS) - 1 else 0xFFFF)
                    count[which, i] = value
                elif got == 2:
                    too_large[i] += 1
                else:
                    good = got == 1
                    count[which, i] = value
        for which in range(len(WORDS)):
            t = _WORD + which
            if good and kind[t] != _ABSENT:
                word[which, i] = read_code(data, begin[t], end[t], words, word_size, slot, used)
                good = word[which, i] >= 0
        if good:
            size = end[_UID] - begin[_UID]
            good = kind[_UID] != _ABSENT and 0 < size <= _UID_WIDTH and is_word(data, begin[_UID], end[_UID])
        if good and kind[_HISTORY] != _ABSENT:
            good = end[_HISTORY] - begin[_HISTORY] <= _HISTORY_WIDTH and is_word(
                data, begin[_HISTORY], end[_HISTORY]
            )
        if not good:
            waiting = late_here
            too_large[i] = 0
            continue
        for k in range(begin[_UID], end[_UID]):
            uid[i, k - begin[_UID]] = data[k]
        if kind[_HISTORY] != _ABSENT:
            for k in range(begin[_HISTORY], end[_HISTORY]):
                history[i, k - begin[_HISTORY]] = data[k]
        tunneled[i] = kind[_PARENTS] in (_BARE, _TEXT, _LIST)
        done[i] = True
    return waiting


@njit(nogil=True)
def _bare_words(kind):  # type: ignore[no-untyped-def]
    """Whether JSON has a number where a text is due."""
    for t in range(_N):  # noqa: SIM110  # compiled
        if kind[t] == _BARE and (t in (_ORIG_H, _ORIG_H + 1) or t >= _WORD):
            return True
    return False


@njit(nogil=True)
def _cells(data, at, upto, separator, empty, unset, place, begin, end, kind):  # type: ignore[no-untyped-def]
    """Where the cells of a line of TSV lie; whether there are as many as columns, and none with an escape."""
    if at == upto or data[at] == 35:  # #
        return False
    column, first = 0, at
    for k in range(at, upto + 1):
        if k < upto and data[k] != separator:
            if data[k] == 92 and column < len(place) and place[column] >= 0:  # backslash
                return False
            continue
        if column >= len(place):
            return False
        t = place[column]
        if t >= 0:
            if kind[t] != _ABSENT:
                return False
            if not _same(data, first, k, unset):
                if first == k:
                    return False
                begin[t], end[t] = first, k
                kind[t] = _BARE
                if _same(data, first, k, empty):
                    if t in (_WORD, _HISTORY):
                        kind[t] = _ABSENT
                    elif t == _PARENTS:
                        kind[t] = _EMPTY
                    else:
                        return False
        first = k + 1
        column += 1
    return column == len(place)


@njit(nogil=True)
def _fields(  # type: ignore[no-untyped-def]
    data, at, upto, keys, key_start, key_target, first_key, next_key, following, begin, end, kind
):  # fmt: skip
    """Where the values of a line of JSON lie; whether it is one object of plain values that JSON allows so."""
    if at == upto or data[at] != 123 or data[upto - 1] != 125:  # { }
        return False
    k, last, before = at + 1, upto - 1, len(key_target)
    while True:
        while k < last and data[k] == 32:
            k += 1
        if k >= last or data[k] != 34:  # "
            return False
        first = k + 1
        t = -1
        j = following[before]  # what came after such a key the last time
        if j >= 0:
            k = first + key_start[j + 1] - key_start[j]
            if k < last and data[k] == 34 and _same_key(data, first, k, keys, key_start, j):
                t = key_target[j]
            else:
                j = -1
        if j < 0:
            k = _text_end(data, first, last)
            if k < 0:
                return False
            j = first_key[_bucket(k - first, data[first], data[k - 1])] if k > first else -1
            while j >= 0:
                if _same_key(data, first, k, keys, key_start, j):
                    t = key_target[j]
                    break
                j = next_key[j]
            following[before] = j
        before = j if j >= 0 else len(key_target)
        if t == _NOT_HERE:
            return False
        k += 1
        while k < last and data[k] == 32:
            k += 1
        if k >= last or data[k] != 58:  # :
            return False
        k += 1
        while k < last and data[k] == 32:
            k += 1
        if k >= last or (t >= 0 and kind[t] != _ABSENT):
            return False
        found = _BARE
        first = k
        if data[k] == 34:
            first = k + 1
            k = _text_end(data, first, last)
            if k < 0:
                return False
            upon = k
            k += 1
            found = _TEXT
            if t >= 0 and first == upon:
                if t not in (_WORD, _HISTORY):
                    return False
                found = _ABSENT
        elif data[k] == 91:  # [
            upon = k
            k = _list_end(data, k + 1, last)
            if k < 0 or (t >= 0 and t != _PARENTS):
                return False
            found = _LIST if k > upon + 2 else _EMPTY
        else:
            k = _bare_end(data, k, last)
            if k < 0:
                return False
            upon = k
            if data[first] in (116, 102, 110):  # true, false, null
                if t >= 0 and data[first] != 110:
                    return False
                found = _ABSENT
        if t >= 0:
            begin[t], end[t], kind[t] = first, upon, found
        while k < last and data[k] == 32:
            k += 1
        if k == last:
            return True
        if data[k] != 44:  # ,
            return False
        k += 1


@njit(nogil=True)
def _text_end(data, k, last):  # type: ignore[no-untyped-def]
    """Where a JSON text without escapes, and of ASCII, ends; -1 where it is another."""
    while k < last:
        c = data[k]
        if c == 34:
            return k
        if c < 32 or c >= 127 or c == 92:
            return -1
        k += 1
    return -1


@njit(nogil=True)
def _list_end(data, k, last):  # type: ignore[no-untyped-def]
    """Past the end of a JSON array of texts; -1 where it is another."""
    if k < last and data[k] == 93:  # ]
        return k + 1
    while k < last and data[k] == 34:
        k = _text_end(data, k + 1, last)
        if k < 0 or k + 1 >= last:
            return -1
        k += 1
        if data[k] == 93:
            return k + 1
        if data[k] != 44:
            return -1
        k += 1
    return -1


@njit(nogil=True)
def _bare_end(data, k, last):  # type: ignore[no-untyped-def]
    """Past a JSON number without an exponent, of at most 19 digits, or true, false and null; -1 for all else."""
    size, first = 0, k
    c = data[k]
    if c in (116, 102, 110):
        want = 5 if c == 102 else 4
        if k + want > last:
            return -1
        if c == 116 and not (data[k + 1] == 114 and data[k + 2] == 117 and data[k + 3] == 101):
            return -1
        if c == 110 and not (data[k + 1] == 117 and data[k + 2] == 108 and data[k + 3] == 108):
            return -1
        if c == 102 and not (
            data[k + 1] == 97 and data[k + 2] == 108 and data[k + 3] == 115 and data[k + 4] == 101
        ):
            return -1
        return k + want
    if c == 45:  # -
        k += 1
        first = k
    while k < last and 48 <= data[k] <= 57:
        k += 1
        size += 1
    if size == 0 or size > 20 or (size > 1 and data[first] == 48):
        return -1
    if size == 20:  # as far as 64 bits
        _, value = read_count(data, first, k)
        if value < 0:
            return -1
    if k < last and data[k] == 46:
        k += 1
        first = k
        while k < last and 48 <= data[k] <= 57:
            k += 1
        if k == first or k - first > 30:
            return -1
    return k


@njit(nogil=True)
def _bucket(size, first, last):  # type: ignore[no-untyped-def]
    return (np.int64(size) * 37 + np.int64(first) * 101 + np.int64(last) * 13) & (_HASH_BUCKETS - 1)


@njit(nogil=True)
def _same(data, first, upto, text):  # type: ignore[no-untyped-def]
    if upto - first != len(text):
        return False
    for k in range(len(text)):  # noqa: SIM110  # compiled
        if data[first + k] != text[k]:
            return False
    return True


@njit(nogil=True)
def _same_key(data, first, upto, keys, key_start, j):  # type: ignore[no-untyped-def]
    size = key_start[j + 1] - key_start[j]
    if upto - first != size:
        return False
    for k in range(size):  # noqa: SIM110  # compiled
        if data[first + k] != keys[key_start[j] + k]:
            return False
    return True
