"""Hellos of TLS read a whole block at a time, JIT-compiled; whatever is odd about one is left to `tls.Tls`.

A hello is plain where a segment begins with its record and holds that whole, and all lengths in it agree. Then what
stands here is exactly what `tls` reads from it, only sooner: where each list is, and which extensions there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feature_extractors.compiled import borrowed, entry, helper, i64

# The numbers of a hello; what has two begins and ends there, in the segment but for the kinds of extensions.
KIND: Final = 0
RECORD_VERSION: Final = 1
RECORD_END: Final = 2
VERSION: Final = 4
SESSION: Final = 5  # two
KINDS: Final = 7  # two
PROTOCOL: Final = 9  # two; the first, of a server -1 where it says none
PSK: Final = 11
# of a client's
SUITES: Final = 12  # two
NAME: Final = 14  # two; -1 for none
GROUPS: Final = 16  # two
FORMATS: Final = 18  # two
SIGNATURES: Final = 20  # two
VERSIONS: Final = 22  # two
TICKET: Final = 24
# of a server's
CIPHER: Final = 12
RETRY: Final = 13
CHOSEN: Final = 14  # a version; -1 for none
GROUP: Final = 15  # -1 for none
ROW: Final = 25
CLIENT: Final = 1
SERVER: Final = 2
MIN_HELLO: Final = 46  # bytes

_HANDSHAKE: Final = 22
_MAX_RECORD: Final = 16384 + 2048  # bytes
_RANDOM: Final = 32  # bytes
_RETRY_RANDOM: Final = np.frombuffer(
    bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c"), np.uint8
)


@dataclass(frozen=True, slots=True)
class Hellos:
    """The plain hellos of a block as columns, each row after the other."""

    rows: list[int]  # ROW numbers of each
    kinds: bytes  # the numbers of extensions, each of two bytes


def read(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    captured: NDArray[np.int32],
    wanted: NDArray[np.int64],
    which: NDArray[np.int64],
    first: int,
) -> Hellos:
    """The plain hellos that the segments with index in `wanted` begin with, of those that begin at `starts` in `data`.

    `which` [s] gets `first - n` where a segment begins with that of row n.
    """
    if not len(wanted):
        return Hellos([], b"")
    rows = np.empty((len(wanted), ROW), np.int64)
    kinds = np.empty(int(captured[wanted].sum()) // 2, np.uint8)
    n, size = _read(data, starts, captured, wanted, which, first, rows, kinds)
    return Hellos(rows[:n].ravel().tolist(), kinds[:size].tobytes())


@entry
def _read(
    data: Any, starts: Any, captured: Any, wanted: Any, which: Any, first: int, rows: Any, kinds: Any
) -> tuple[int, int]:
    data, rows, kinds = borrowed(data), borrowed(rows), borrowed(kinds)
    n, at = i64(0), i64(0)
    for i in wanted:
        begin = i64(starts[i])
        after = _hello(data, begin, begin + i64(captured[i]), rows[n], kinds, at)
        if after >= 0:
            which[i] = first - n
            n += 1
            at = after
    return n, at


@helper
def _u16(data: Any, at: int) -> int:
    return i64(data[at]) << 8 | i64(data[at + 1])


@helper
def _hello(data: Any, base: int, end: int, row: Any, kinds: Any, at: int) -> int:
    """The end of the kinds with those of the hello that stands between `base` and `end`; -1: odd, or none."""
    if end - base < MIN_HELLO or i64(data[base]) != _HANDSHAKE or i64(data[base + 1]) != 3:
        return i64(-1)
    record_end = base + 5 + _u16(data, base + 3)
    kind = i64(data[base + 5])
    hello_end = base + 9 + (i64(data[base + 6]) << 16 | _u16(data, base + 7))
    if (
        i64(data[base + 2]) > 3
        or record_end > end
        or record_end - base > _MAX_RECORD
        or hello_end != record_end
    ):
        return i64(-1)
    if hello_end - base < MIN_HELLO or kind not in (CLIENT, SERVER):
        return i64(-1)
    version = _u16(data, base + 9)
    if version < 0x300 or version > 0x304:
        return i64(-1)
    for k in range(len(row)):
        row[k] = 0
    row[KIND] = kind
    row[RECORD_VERSION] = 0x300 | i64(data[base + 2])
    row[RECORD_END] = record_end - base
    row[VERSION] = version
    pos = base + 11 + _RANDOM
    session = pos + 1
    pos = session + i64(data[pos])
    row[SESSION], row[SESSION + 1] = session - base, pos - base
    pos = (
        _choice(data, base, pos, hello_end, row)
        if kind == CLIENT
        else _chosen(data, base, pos, hello_end, row)
    )
    if pos < 0 or pos > hello_end:
        return i64(-1)
    return _extensions(data, base, pos, hello_end, row, kinds, at)


@helper
def _choice(data: Any, base: int, pos: int, end: int, row: Any) -> int:
    """Reads a client's ciphers and compressions; the offset behind them, -1 where that is past the end."""
    if pos + 2 > end:
        return i64(-1)
    suites = pos + 2
    pos = suites + _u16(data, pos)
    row[SUITES], row[SUITES + 1] = suites - base, pos - base
    row[NAME] = -1
    if pos + 1 > end:
        return i64(-1)
    return pos + 1 + i64(data[pos])


@helper
def _chosen(data: Any, base: int, pos: int, end: int, row: Any) -> int:
    """Reads a server's cipher and compression; the offset behind them, -1 where that is past the end."""
    if pos + 3 > end:
        return i64(-1)
    row[CIPHER] = _u16(data, pos)
    row[CHOSEN] = row[GROUP] = row[PROTOCOL] = -1
    row[RETRY] = 1
    for k in range(_RANDOM):
        if data[base + 11 + k] != _RETRY_RANDOM[k]:
            row[RETRY] = 0
    return pos + 3


@helper
def _extensions(data: Any, base: int, pos: int, end: int, row: Any, kinds: Any, at: int) -> int:
    """Reads the extensions, and writes their kinds: the end of the kinds, -1 where one is longer than its place."""
    row[KINDS] = at
    if pos + 2 <= end:
        end = min(pos + 2 + _u16(data, pos), end)
        pos += 2
        while pos + 4 <= end:
            kind = _u16(data, pos)
            after = pos + 4 + _u16(data, pos + 2)
            if after > end:
                return i64(-1)
            kinds[at] = data[pos]
            kinds[at + 1] = data[pos + 1]
            at += 2
            if row[KIND] == CLIENT:
                _offered(data, base, kind, pos + 4, after, row)
            else:
                _answered(data, base, kind, pos + 4, after, row)
            pos = after
    row[KINDS + 1] = at
    return at


@helper
def _offered(data: Any, base: int, kind: int, pos: int, end: int, row: Any) -> None:
    """One extension of a client."""
    size = end - pos
    if kind == 0 and size >= 5:
        row[NAME] = pos + 5 - base
        row[NAME + 1] = min(pos + 5 + _u16(data, pos + 3), end) - base
    elif kind == 10 and size >= 2:
        row[GROUPS] = pos + 2 - base
        row[GROUPS + 1] = min(pos + 2 + _u16(data, pos), end) - base
    elif kind == 11 and size >= 1:
        row[FORMATS] = pos + 1 - base
        row[FORMATS + 1] = min(pos + 1 + i64(data[pos]), end) - base
    elif kind == 13 and size >= 2:
        row[SIGNATURES] = pos + 2 - base
        row[SIGNATURES + 1] = min(pos + 2 + _u16(data, pos), end) - base
    elif kind == 16 and size >= 2:
        row[PROTOCOL] = row[PROTOCOL + 1] = 0
        _protocol(data, base, pos, end, row)
    elif kind == 35 and size:
        row[TICKET] = 1
    elif kind == 41:
        row[PSK] = 1
    elif kind == 43 and size >= 1:
        row[VERSIONS] = pos + 1 - base
        row[VERSIONS + 1] = min(pos + 1 + i64(data[pos]), end) - base


@helper
def _answered(data: Any, base: int, kind: int, pos: int, end: int, row: Any) -> None:
    """One extension of a server."""
    size = end - pos
    if kind == 16 and size >= 2:
        _protocol(data, base, pos, end, row)
    elif kind == 41:
        row[PSK] = 1
    elif kind == 43 and size == 2:
        row[CHOSEN] = _u16(data, pos)
    elif kind in (40, 51) and size >= 2:
        row[GROUP] = _u16(data, pos)


@helper
def _protocol(data: Any, base: int, pos: int, end: int, row: Any) -> None:
    """The first protocol of a list, where it has one."""
    end = min(pos + 2 + _u16(data, pos), end)
    begin = pos + 3
    if begin <= end and begin + i64(data[begin - 1]) <= end:
        row[PROTOCOL] = begin - base
        row[PROTOCOL + 1] = begin + i64(data[begin - 1]) - base
