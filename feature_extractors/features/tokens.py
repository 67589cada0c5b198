"""Log entries as tokens: field, kind, and hashed or measured value, so many for each window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feature_extractors.compiled import absorbed, begun, ended, entry
from feature_extractors.features.by_stream import Entries
from feature_extractors.features.schema import Schema
from feature_extractors.observations import LogValue

TOKEN_WIDTH: Final = 8  # field, value, length, entropy, digits, other signs, end, beginning
MAX_TEXT: Final = 256  # characters of a log value that are looked at
_NAME, _TEXT, _ENUM, _NUMBER, _COUNT = range(5)
_KINDS: Final = {"name": _NAME, "text": _TEXT, "enum": _ENUM, "number": _NUMBER, "count": _COUNT}
_HASHED_VALUES: Final = 30  # codes of a hashed summary column: 1..30
NAMES: Final = {"dns": ("query",), "http": ("uri", "host"), "ssl": ("server_name",)}  # whose length tells
# The name by which a connection's peer was asked for, first found wins.
_PEER_NAMES: Final = {("dns", "query"), ("ssl", "server_name"), ("http", "host")}


def _text(value: LogValue) -> str:
    if isinstance(value, list):
        value = value[0] if value else ""
    return value[:MAX_TEXT] if isinstance(value, str) else str(value)[:MAX_TEXT]


def _number(value: LogValue) -> float:
    """The value as a magnitude; NaN where it is none. A list counts by its largest."""
    if isinstance(value, list):
        return max([v if type(v) is float else _number(v) for v in value], default=float("nan"))
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _shown(certificates: Entries) -> Entries:
    """The first of the responder's chain, which is all that logs tell of a connection's certificates."""
    own = [
        i
        for i, f in enumerate(certificates.fields)
        if f.get("host_cert") is not False and f.get("client_cert") is not True
    ]
    return Entries(certificates.at[own], [certificates.fields[i] for i in own])


def log_tokens(
    entries: Mapping[str, Entries], start: NDArray[np.int64], schema: Schema
) -> tuple[NDArray[np.int16], NDArray[np.int64], NDArray[np.float32], NDArray[np.uint64]]:
    """Tokens, where each window's begin [n + 1], summary columns [n, fields], and the peer's name hashed [n]."""
    streams: dict[str, list[tuple[str, int, int, bool]]] = {}
    for number, f in enumerate(schema.log_fields):
        streams.setdefault(f.stream, []).append(
            (f.name, number, _KINDS[f.kind], (f.stream, f.name) in _PEER_NAMES)
        )
    n = len(start) - 1
    texts: list[str] = []
    columns: list[
        tuple[NDArray[np.int64], list[float] | None, int, bool]
    ] = []  # entries, numbers, field, peer
    for stream, wanted in streams.items():
        if stream not in entries:
            continue
        at, found = entries[stream] if stream != "x509" else _shown(entries[stream])
        for name, number, kind, is_peer in wanted:
            every = [f.get(name) for f in found]
            values = [v for v in every if v is not None]
            if not values:
                continue
            there = at if len(values) == len(at) else at[[v is not None for v in every]]
            numbers: list[float] | None = None
            if kind <= _ENUM:
                texts += [v[:MAX_TEXT] if type(v) is str else _text(v) for v in values]
            else:
                texts += [""] * len(values)
                numbers = [
                    v
                    if type(v) is float
                    else float(len(v))
                    if kind == _COUNT and isinstance(v, list | str)
                    else _number(v)
                    for v in values
                ]
            columns.append((there, numbers, number, is_peer))
    summary = np.full((n, len(schema.summary)), np.nan, np.float32)
    names = np.zeros(n, np.uint64)
    if not texts:
        return np.zeros((0, TOKEN_WIDTH), np.int16), np.zeros(n + 1, np.int64), summary, names
    raw = "\0".join(texts).encode("utf-8", "surrogatepass")
    if raw.count(0) != len(texts) - 1:  # a value that holds our separator
        raw = "\0".join(t.replace("\0", "\1") for t in texts).encode("utf-8", "surrogatepass")
    buffer = np.frombuffer(raw, np.uint8)
    ends = np.concatenate([np.flatnonzero(buffer == 0), [len(buffer)]])
    begins = np.concatenate([[0], ends[:-1] + 1])
    sizes = [len(there) for there, *_ in columns]
    entry_of = np.concatenate([there for there, *_ in columns])
    in_order = np.argsort(entry_of, kind="stable")  # by entry, within it by field
    tokens, counts = _fill_tokens(
        buffer,
        begins[in_order],
        ends[in_order],
        np.concatenate([np.zeros(len(t)) if v is None else np.array(v) for t, v, *_ in columns])[in_order],
        np.repeat([number for _, _, number, _ in columns], sizes)[in_order],
        np.repeat([is_peer for *_, is_peer in columns], sizes)[in_order],
        np.array([_KINDS[f.kind] for f in schema.log_fields], np.int64),
        np.array([f.column for f in schema.log_fields], np.int64),
        np.searchsorted(start, entry_of[in_order], side="right") - 1,
        schema.log_tokens,
        schema.log_buckets,
        summary,
        names,
    )
    log_start = np.zeros(n + 1, np.int64)
    np.cumsum(counts, out=log_start[1:])
    return tokens, log_start, summary, names


@entry
def _mix(x: int) -> np.uint64:
    h = np.uint64(x)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@entry
def _hash_bytes(buffer: NDArray[np.uint8], begin: int, end: int) -> np.uint64:
    """FNV-1a over lower-cased ASCII, so that 0x20 tricks in names change nothing."""
    h = np.uint64(0xCBF29CE484222325)
    for i in range(begin, end):
        x = buffer[i]
        if 65 <= x <= 90:
            x = np.uint8(x + 32)
        h = (h ^ np.uint64(x)) * np.uint64(0x100000001B3)
    return h


@entry
def _hash_name(buffer: NDArray[np.uint8], begin: int, end: int) -> np.uint64:
    """SipHash-1-3 over lower-cased ASCII: nobody finds a name that is taken for one that the site knows.

    The key is no secret, since names must be the same to every process; the histories' keys are made of this under
    the site's own.
    """
    a, b, c, d = begun(np.uint64(0x636D64616E61206E), np.uint64(0x616D657320686173))
    word = np.uint64(end - begin)
    for i in range(begin, end):
        x = buffer[i]
        if 65 <= x <= 90:
            x = np.uint8(x + 32)
        word = word << np.uint64(8) | np.uint64(x)
        if (i - begin) % 7 == 6:  # seven letters to a word, beside the length
            a, b, c, d = absorbed(a, b, c, d, word)
            word = np.uint64(end - begin)
    a, b, c, d = absorbed(a, b, c, d, word)
    return ended(a, b, c, d)


@entry
def _bucket(field: int, slot: int, code: np.uint64, buckets: int) -> int:
    h = _mix(code * np.uint64(1024) + np.uint64(field * 8 + slot) + np.uint64(0x9E3779B97F4A7C15))
    return 1 + int(h % np.uint64(buckets - 1))


@entry
def _fill_tokens(
    buffer: NDArray[np.uint8],
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    numbers: NDArray[np.float64],
    which: NDArray[np.int64],
    named: NDArray[np.bool_],
    kinds: NDArray[np.int64],
    columns: NDArray[np.int64],
    row: NDArray[np.int64],
    per_row: int,
    buckets: int,
    summary: NDArray[np.float32],
    names: NDArray[np.uint64],
) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    counts = np.zeros(len(summary), np.int64)
    tokens = np.zeros((len(which), TOKEN_WIDTH), np.int16)
    seen = np.zeros(256, np.int64)
    used = 0
    for t in range(len(which)):
        i, field = row[t], which[t]
        kind, column = kinds[field], columns[field]
        begin, end = begins[t], ends[t]
        keep = counts[i] < per_row
        if keep:
            counts[i] += 1
            tokens[used, 0] = _bucket(field, 0, np.uint64(0), buckets)
        if kind >= _NUMBER:
            x = numbers[t]
            if x == x:
                size = (
                    np.log1p(min(max(x, 0.0), 1e18))
                    if kind == _COUNT
                    # Milliseconds; of the microseconds that a log has in every format.
                    else np.log1p(np.rint(min(max(x, 0.0), 1e15) * 1e6) / 1e6 * 1e3)
                )
                if not summary[i, column] >= size:
                    summary[i, column] = size
                if keep:
                    tokens[used, 1] = _bucket(field, 1, np.uint64(int(size * 2.0)), buckets)
        elif kind == _ENUM:
            h = _hash_bytes(buffer, begin, end)
            if summary[i, column] != summary[i, column]:
                summary[i, column] = 1 + int(_mix(h) % np.uint64(_HASHED_VALUES))
            if keep:
                tokens[used, 1] = _bucket(field, 1, h, buckets)
        else:
            n = end - begin
            digits = others = 0
            for j in range(begin, end):
                x = buffer[j]
                seen[x] += 1
                if 48 <= x <= 57:
                    digits += 1
                elif not (65 <= x <= 90 or 97 <= x <= 122):
                    others += 1
            entropy = 0.0
            for j in range(begin, end):
                x = buffer[j]
                if seen[x]:
                    p = seen[x] / n
                    entropy -= p * np.log2(p)
                    seen[x] = 0
            size = np.log1p(float(n))
            share = digits / n if n else 0.0
            for k, value in enumerate((size, entropy, share)):
                if not summary[i, column + k] >= value:
                    summary[i, column + k] = value
            if named[t] and n and names[i] == 0:
                names[i] = _hash_name(buffer, begin, end) | np.uint64(1)
            if keep:
                tail = end
                if kind == _NAME:
                    while tail > begin and buffer[tail - 1] != 46:
                        tail -= 1
                else:
                    tail = max(begin, end - 3)
                tokens[used, 2] = _bucket(field, 2, np.uint64(int(size * 3.0)), buckets)
                tokens[used, 3] = _bucket(field, 3, np.uint64(int(entropy * 2.0)), buckets)
                tokens[used, 4] = _bucket(field, 4, np.uint64(int(share * 7.99)), buckets)
                tokens[used, 5] = _bucket(
                    field, 5, np.uint64(int((others / n if n else 0.0) * 7.99)), buckets
                )
                tokens[used, 6] = _bucket(field, 6, _hash_bytes(buffer, tail, end), buckets)
                tokens[used, 7] = _bucket(field, 7, _hash_bytes(buffer, begin, min(begin + 3, end)), buckets)
        if keep:
            used += 1
    return tokens[:used].copy(), counts
