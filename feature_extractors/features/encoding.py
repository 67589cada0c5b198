"""Observations as numbers in schema order: `encode(windows, schema) -> Features`, vectorised, the same everywhere.

`encoded` keeps the connections beside them, which is all that scoring and the logs need: so what crosses from one
process to another is columns alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feature_extractors.addresses import is_ipv4
from feature_extractors.compiled import entry
from feature_extractors.features.by_stream import Entries, by_stream
from feature_extractors.features.domains import domains_of
from feature_extractors.features.outcomes import ends_of
from feature_extractors.features.schema import Categorical, Schema
from feature_extractors.features.tokens import NAMES, log_tokens
from feature_extractors.observations import (
    PROTO_NAMES,
    Connections,
    Packets,
    Windows,
    concat_connections,
    joined,
    ragged,
    take_connections,
)

FIRST_SIZES: Final = 8  # packets whose size and gap stand in `Features.first_packets`


@dataclass(frozen=True, slots=True)
class Features:
    """`n` windows as numbers. Unset is NaN in numbers and 0 in codes; rows as in the windows.

    Row i owns packets [packet_start[i], packet_start[i+1]) and likewise log tokens.
    """

    numeric: NDArray[np.float32]  # [n, len(schema.numeric)] scaled as the schema says
    categorical: NDArray[np.int16]  # [n, len(schema.categorical)] codes
    packets: NDArray[np.float32]  # [P, 4] direction -1/1, log length / 8, log gap / 8, index / first
    packet_start: NDArray[np.int64]  # [n + 1]
    first_packets: NDArray[np.float32]  # [n, 2 * FIRST_SIZES] log lengths signed by direction, then log gaps
    log_tokens: NDArray[np.int16]  # [L, TOKEN_WIDTH] buckets 1..schema.log_buckets-1, 0 none
    log_start: NDArray[np.int64]  # [n + 1]
    log_summary: NDArray[np.float32]  # [n, len(schema.summary)] largest magnitude, first hashed value
    name: NDArray[np.uint64]  # [n] hash of the name of the peer, 0 where none is known

    def __len__(self) -> int:
        return len(self.numeric)


def take_features(features: Features, rows: NDArray[np.int64]) -> Features:
    """The given rows, in the given order."""
    packet_rows, packet_start = ragged(features.packet_start, rows)
    log_rows, log_start = ragged(features.log_start, rows)
    columns: dict[str, Any] = {
        "packets": features.packets[packet_rows],
        "packet_start": packet_start,
        "log_tokens": features.log_tokens[log_rows],
        "log_start": log_start,
    }
    columns |= {f.name: getattr(features, f.name)[rows] for f in fields(Features) if f.name not in columns}
    return Features(**columns)


def concat_features(parts: Sequence[Features]) -> Features:
    """The parts joined end to end. Raises `ValueError` where there is none."""
    if not parts:
        raise ValueError("concat_features needs at least one part")
    columns: dict[str, Any] = {}
    for f in fields(Features):
        arrays = [getattr(p, f.name) for p in parts]
        columns[f.name] = (
            joined(arrays) if f.name in ("packet_start", "log_start") else np.concatenate(arrays)
        )
    return Features(**columns)


@dataclass(frozen=True, slots=True)
class Encoded:
    """`n` windows as numbers, and their connections: what scoring, deciding, explaining and the logs need of them."""

    connections: Connections
    features: Features
    schema: str  # digest of the schema in whose terms they are
    modalities: NDArray[np.bool_]  # [n, 3] in the order of `Modality`, which of them were seen
    longest_name: NDArray[np.int64]  # [n] characters of the longest name in its logs, 0 where there is none
    accepted: NDArray[np.int32]  # [n] how often its logs say that what was asked for was accepted,
    refused: NDArray[np.int32]  # [n] or refused, both of the kind that they tell most of:
    told_by: NDArray[np.int8]  # [n] 1 + its index in `Schema.outcomes`, 0 where none tells
    domain: Sequence[str]  # [n] registered domain of its DNS query, TLS server name or HTTP host, "" none
    subdomain_bits: NDArray[np.float32]  # [n] information left of that in its DNS queries, bits

    def __len__(self) -> int:
        return len(self.connections)


COLUMNS: Final = (
    "modalities",
    "longest_name",
    "accepted",
    "refused",
    "told_by",
    "subdomain_bits",
)  # own arrays


def encoded(windows: Windows, schema: Schema) -> Encoded:
    """The windows as all that comes after knows them."""
    entries, start = by_stream(windows.logs), windows.log_start
    ends, domains = ends_of(entries, start, schema.outcomes), domains_of(entries, start)
    return Encoded(
        connections=windows.connections,
        features=_encoded(windows, entries, schema),
        schema=schema.digest,
        modalities=_modalities_of(windows),
        longest_name=_longest_name_of(entries, start),
        accepted=ends.accepted,
        refused=ends.refused,
        told_by=ends.told_by,
        domain=domains.domain,
        subdomain_bits=domains.bits,
    )


def take_encoded(block: Encoded, rows: NDArray[np.int64]) -> Encoded:
    """The given rows, in the given order."""
    return Encoded(
        connections=take_connections(block.connections, rows),
        features=take_features(block.features, rows),
        schema=block.schema,
        domain=[block.domain[i] for i in rows],
        **{name: getattr(block, name)[rows] for name in COLUMNS},
    )


def concat_encoded(blocks: Sequence[Encoded]) -> Encoded:
    """The blocks, of one schema, joined end to end. Raises `ValueError` where there is none."""
    if not blocks:
        raise ValueError("concat_encoded needs at least one block")
    return Encoded(
        connections=concat_connections([b.connections for b in blocks]),
        features=concat_features([b.features for b in blocks]),
        schema=blocks[0].schema,
        domain=[name for b in blocks for name in b.domain],
        **{name: np.concatenate([getattr(b, name) for b in blocks]) for name in COLUMNS},
    )


def _modalities_of(windows: Windows) -> NDArray[np.bool_]:
    """Which modalities were seen of each window [n, 3], in the order of `Modality`; the connection always is."""
    packets, logs = np.diff(windows.packet_start) > 0, np.diff(windows.log_start) > 0
    return np.stack([packets, np.ones(len(windows), np.bool_), logs], axis=1)


def _longest_name_of(entries: Mapping[str, Entries], start: NDArray[np.int64]) -> NDArray[np.int64]:
    """Characters of the longest name that each window's logs ask for [n], 0 where there is none."""
    longest = np.zeros(len(start) - 1, np.int64)
    for stream, names in NAMES.items():
        if stream not in entries:
            continue
        at, found = entries[stream]
        row = np.searchsorted(start, at, side="right") - 1
        for name in names:
            length = [len(v) if type(v := fields.get(name)) is str else 0 for fields in found]
            np.maximum.at(longest, row, np.array(length, np.int64))
    return longest


def encode(windows: Windows, schema: Schema) -> Features:
    """The windows in the schema's terms. Deterministic; a row depends on its own window only."""
    return _encoded(windows, by_stream(windows.logs), schema)


def _encoded(windows: Windows, entries: Mapping[str, Entries], schema: Schema) -> Features:
    c = windows.connections
    packets, packet_start, first = _packets(windows.packets, windows.packet_start, schema.first_packets)
    tokens, log_start, summary, name = log_tokens(entries, windows.log_start, schema)
    return Features(
        numeric=_numeric(c, schema),
        categorical=np.stack([_CODES[f.name](c, f) for f in schema.categorical], axis=1).astype(np.int16),
        packets=packets,
        packet_start=packet_start,
        first_packets=first,
        log_tokens=tokens,
        log_start=log_start,
        log_summary=summary,
        name=name,
    )


def _unset(values: NDArray[np.int64]) -> NDArray[np.float64]:
    out = values.astype(np.float64)
    out[values < 0] = np.nan
    return out


def _share(part: NDArray[np.float64], rest: NDArray[np.float64]) -> NDArray[np.float64]:
    whole = part + rest
    out: NDArray[np.float64] = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return out


def _ratio(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = np.divide(a, b, out=np.full(len(a), np.nan), where=b > 0)
    return out


def _numeric(c: Connections, schema: Schema) -> NDArray[np.float32]:
    orig, resp = _unset(c.orig_bytes), _unset(c.resp_bytes)
    orig_pkts, resp_pkts = _unset(c.orig_pkts), _unset(c.resp_pkts)
    orig_ip, resp_ip = _unset(c.orig_ip_bytes), _unset(c.resp_ip_bytes)
    payload = np.nan_to_num(orig) + np.nan_to_num(resp)
    # Zeek's clock has microseconds: its TSV has these alone, its JSON what two times as doubles differ by.
    duration = np.rint(c.duration * 1e6) / 1e6
    # A rate over less than a millisecond says more about the clock than about the traffic.
    lasted = np.maximum(duration, 1e-3)
    columns = {
        "duration": duration,
        "orig_bytes": orig,
        "resp_bytes": resp,
        "orig_pkts": orig_pkts,
        "resp_pkts": resp_pkts,
        "orig_packet_size": _ratio(orig_ip, orig_pkts),
        "resp_packet_size": _ratio(resp_ip, resp_pkts),
        "missed_bytes": _unset(c.missed_bytes),
        "byte_rate": payload / lasted,
        "packet_rate": (orig_pkts + resp_pkts) / lasted,
        "byte_balance": _share(np.nan_to_num(orig), np.nan_to_num(resp)),
        "packet_balance": _share(orig_pkts, resp_pkts),
        "history_length": np.char.str_len(c.history).astype(np.float64),
        "payload_share": np.minimum(_ratio(payload, orig_ip + resp_ip), 1.0),
    }
    out = np.empty((len(c), len(schema.numeric)), np.float32)
    for j, field in enumerate(schema.numeric):
        x = columns[field.name]
        if field.name == "duration":
            out[:, j] = np.log1p(np.maximum(x, 0.0) * 1e3)  # milliseconds, so that short ones differ
        else:
            out[:, j] = np.log1p(np.maximum(x, 0.0)) if field.scale == "log" else x
    return out


def _listed(values: Sequence[str], codes: Categorical) -> NDArray[np.int64]:
    code = {v: i + 2 for i, v in enumerate(codes.values)} | {"": 0}
    return np.array([code.get(v, 1) for v in values], np.int64)


def _proto(c: Connections, f: Categorical) -> NDArray[np.int64]:
    table = np.ones(256, np.int64)
    for number, word in PROTO_NAMES.items():
        table[number] = f.values.index(word) + 2
    return table[c.ip_proto]


def _service(c: Connections, f: Categorical) -> NDArray[np.int64]:
    """The listed service that the schema names first, where several were found on one connection."""
    order = {v: i + 2 for i, v in enumerate(f.values)}
    codes = {
        s: 0 if not s else min((order[p] for p in s.split(",") if p in order), default=1)
        for s in set(c.service)
    }
    return np.fromiter((codes[s] for s in c.service), np.int64, len(c))


def _resp_port(c: Connections, f: Categorical) -> NDArray[np.int64]:
    """Well-known ports by name; 0 any other (an icmp code is no port)."""
    table = np.zeros(65536, np.int64)
    table[:1024] = 1
    for i, port in enumerate(f.values):
        table[int(port)] = i + 2
    return np.where(_is_icmp(c), 0, table[c.resp_p])


def _orig_port(c: Connections, f: Categorical) -> NDArray[np.int64]:
    return np.where(_is_icmp(c), 0, 2 + np.searchsorted([1024, 49152], c.orig_p, side="right"))


def _is_icmp(c: Connections) -> NDArray[np.bool_]:
    return (c.ip_proto == 1) | (c.ip_proto == 58)


def _icmp_type(c: Connections, f: Categorical) -> NDArray[np.int64]:
    table = np.ones(65536, np.int64)
    for i, kind in enumerate(f.values):
        table[int(kind)] = i + 2
    return np.where(_is_icmp(c), table[c.orig_p], 0)


def _ip_version(c: Connections, f: Categorical) -> NDArray[np.int64]:
    return np.where(is_ipv4(c.orig_h), 2, 3)


def _scope(address: NDArray[np.uint8], f: Categorical) -> NDArray[np.int64]:
    """RFC 6890 in broad strokes: what kind of address it is, never which."""
    four = is_ipv4(address)
    a, b, last = address[:, 12], address[:, 13], address[:, 15]
    first, second = address[:, 0], address[:, 1]
    nil6 = (address[:, :15] == 0).all(axis=1)
    tests = [
        ("unspecified", (four & (a == 0)) | (nil6 & (last == 0))),
        ("loopback", (four & (a == 127)) | (nil6 & (last == 1))),
        ("broadcast", four & (address[:, 12:] == 255).all(axis=1)),
        ("multicast", (four & (a >= 224) & (a < 240)) | (~four & (first == 255))),
        ("link-local", (four & (a == 169) & (b == 254)) | (~four & (first == 254) & (second & 0xC0 == 0x80))),
        (
            "private",
            (four & ((a == 10) | ((a == 172) & (b & 0xF0 == 16)) | ((a == 192) & (b == 168))))
            | (~four & (first & 0xFE == 0xFC)),
        ),
    ]
    return np.select(
        [t for _, t in tests], [f.values.index(w) + 2 for w, _ in tests], f.values.index("global") + 2
    )


def _history(side: int) -> Callable[[Connections, Categorical], NDArray[np.int64]]:
    def codes(c: Connections, f: Categorical) -> NDArray[np.int64]:
        width = c.history.dtype.itemsize
        letters = np.ascontiguousarray(c.history).view(np.uint8).reshape(len(c), width)
        return _history_codes(letters, side, f.hashed)

    return codes


@entry
def _history_codes(letters: NDArray[np.uint8], side: int, buckets: int) -> NDArray[np.int64]:
    """A hash of the first three letters of one side: upper case the originator (0), lower case the responder (1)."""
    n, width = letters.shape
    out = np.zeros(n, np.int64)
    for i in range(n):
        code, seen = 0, 0
        for j in range(width):
            x = letters[i, j]
            if (side == 0 and 65 <= x <= 90) or (side == 1 and 97 <= x <= 122):
                code = code * 31 + int(x)
                seen += 1
                if seen == 3:
                    break
        if seen:
            out[i] = 2 + code % buckets
    return out


_CODES: Final[dict[str, Callable[[Connections, Categorical], NDArray[np.int64]]]] = {
    "proto": _proto,
    "conn_state": lambda c, f: np.where(c.conn_state < 0, 0, c.conn_state + 2),
    "service": _service,
    "resp_port": _resp_port,
    "orig_port": _orig_port,
    "orig_scope": lambda c, f: _scope(c.orig_h, f),
    "resp_scope": lambda c, f: _scope(c.resp_h, f),
    "ip_version": _ip_version,
    "icmp_type": _icmp_type,
    "history_orig": _history(0),
    "history_resp": _history(1),
}


def _packets(
    p: Packets, start: NDArray[np.int64], first: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    kept = np.minimum(np.diff(start), first)
    new = np.zeros(len(start), np.int64)
    np.cumsum(kept, out=new[1:])
    tokens = np.empty((int(new[-1]), 4), np.float32)
    sizes = np.full((len(kept), 2 * FIRST_SIZES), np.nan, np.float32)
    _fill_packets(p.ts, p.is_orig, p.ip_length, start, new, first, tokens, sizes)
    return tokens, new, sizes


@entry
def _fill_packets(
    ts: NDArray[np.float64],
    is_orig: NDArray[np.bool_],
    length: NDArray[np.int32],
    start: NDArray[np.int64],
    new: NDArray[np.int64],
    first: int,
    tokens: NDArray[np.float32],
    sizes: NDArray[np.float32],
) -> None:
    for i in range(len(start) - 1):
        for k in range(new[i + 1] - new[i]):
            j = start[i] + k
            way = 1.0 if is_orig[j] else -1.0
            size = np.log1p(max(float(length[j]), 0.0))
            gap = np.log1p(max(ts[j] - ts[j - 1], 0.0) * 1e3) if k else 0.0
            out = new[i] + k
            tokens[out, 0] = way
            tokens[out, 1] = size / 8.0
            tokens[out, 2] = gap / 8.0
            tokens[out, 3] = k / first
            if k < FIRST_SIZES:
                sizes[i, k] = way * size
                sizes[i, FIRST_SIZES + k] = gap
