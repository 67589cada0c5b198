"""Connections as behaviour sees them: who, whom, when, how much and how it ended; no address and no content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feature_extractors import Stage
from feature_extractors.compiled import hashed, key_of
from feature_extractors.features import Encoded, load_schema

MOST: Final = 1e15  # bytes, packets or seconds: what is more is no count
_GLOBAL: Final = 2  # code of the first of the schema's scopes of addresses


@dataclass(frozen=True, slots=True)
class Flows:
    """`n` connections that have ended, in order of their end. What was not seen is 0; nothing is NaN."""

    ts: NDArray[np.float64]  # [n] seconds since the epoch, of the first packet
    end: NDArray[np.float64]  # [n] network time at which the row was made
    orig: NDArray[np.uint64]  # [n] salted hash of the originator's address
    resp: NDArray[np.uint64]  # [n]
    orig_local: NDArray[np.bool_]  # [n] an address that is not routed in the Internet
    resp_local: NDArray[np.bool_]  # [n]
    port: NDArray[np.int32]  # [n] responder's; 0 for ICMP
    proto: NDArray[np.int8]  # [n] IP protocol number, 127 for those above
    service: NDArray[np.int16]  # [n] the schema's code: 0 unset, 1 not listed, 2.. listed
    state: NDArray[np.int8]  # [n] index into CONN_STATES, -1 unset
    duration: NDArray[np.float64]  # [n] seconds
    orig_bytes: NDArray[np.float64]  # [n] payload bytes
    resp_bytes: NDArray[np.float64]  # [n]
    orig_pkts: NDArray[np.float64]  # [n]
    resp_pkts: NDArray[np.float64]  # [n]
    accepted: NDArray[np.int32]  # [n] how often its logs say that something asked for was accepted
    refused: NDArray[np.int32]  # [n] likewise refused
    told_by: NDArray[np.int8]  # [n] 0 nobody, else 1 + index into the schema's outcomes
    domain: NDArray[np.uint64]  # [n] salted hash of the registered domain, 0 none
    bits: NDArray[np.float32]  # [n] information in what stands left of it in its DNS queries

    def __len__(self) -> int:
        return len(self.ts)


def take_flows(flows: Flows, rows: NDArray[np.int64]) -> Flows:
    """The given rows, in the given order."""
    columns: dict[str, Any] = {f.name: getattr(flows, f.name)[rows] for f in fields(Flows)}
    return Flows(**columns)


def flows_between(flows: Flows, begin: int, end: int) -> Flows:
    """The rows from `begin` on and before `end`, as views."""
    columns: dict[str, Any] = {f.name: getattr(flows, f.name)[begin:end] for f in fields(Flows)}
    return Flows(**columns)


def concat_flows(parts: Sequence[Flows]) -> Flows:
    """The parts joined end to end. Raises `ValueError` where there is none."""
    if not parts:
        raise ValueError("concat_flows needs at least one part")
    columns: dict[str, Any] = {
        f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Flows)
    }
    return Flows(**columns)


def flow_rows(windows: Encoded) -> NDArray[np.int64]:
    """Which rows of a block `flows_of` takes: the final ones, in the order of the block, which is that of their end."""
    return np.flatnonzero(windows.connections.stage == Stage.FINAL)


def flows_of(windows: Encoded, salt: int) -> Flows:
    """The final connections of a block under a site's `salt` (128 bits, kept secret)."""
    rows, key = flow_rows(windows), key_of(salt)
    c, codes = windows.connections, windows.features.categorical[rows]
    columns = {field.name: at for at, field in enumerate(load_schema().categorical)}
    icmp = (c.ip_proto[rows] == 1) | (c.ip_proto[rows] == 58)

    def amount(column: NDArray[Any]) -> NDArray[np.float64]:
        return np.clip(np.nan_to_num(column[rows].astype(np.float64)), 0.0, MOST)

    domains = [windows.domain[row] for row in rows.tolist()]
    known = {name: _domain_hash(name, salt) for name in dict.fromkeys(domains)}
    return Flows(
        ts=c.ts[rows],
        end=c.end[rows],
        orig=_address_hash(c.orig_h[rows], key),
        resp=_address_hash(c.resp_h[rows], key),
        orig_local=codes[:, columns["orig_scope"]] != _GLOBAL,
        resp_local=codes[:, columns["resp_scope"]] != _GLOBAL,
        port=np.where(icmp, 0, c.resp_p[rows]).astype(np.int32),
        proto=np.minimum(c.ip_proto[rows], 127).astype(np.int8),
        service=codes[:, columns["service"]],
        state=c.conn_state[rows],
        duration=amount(c.duration),
        orig_bytes=amount(c.orig_bytes),
        resp_bytes=amount(c.resp_bytes),
        orig_pkts=amount(c.orig_pkts),
        resp_pkts=amount(c.resp_pkts),
        accepted=windows.accepted[rows],
        refused=windows.refused[rows],
        told_by=windows.told_by[rows],
        domain=np.array([known[name] for name in domains], np.uint64),
        bits=windows.subdomain_bits[rows],
    )


def _address_hash(addresses: NDArray[np.uint8], key: tuple[int, int]) -> NDArray[np.uint64]:
    halves = np.ascontiguousarray(addresses).view(np.uint64).reshape(-1, 2)
    return hashed(key, halves[:, 0], halves[:, 1]) | np.uint64(1)


def _domain_hash(name: str, salt: int) -> int:
    if not name:
        return 0
    secret = (salt & (1 << 128) - 1).to_bytes(16, "little")
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), key=secret, digest_size=8).digest()
    return int.from_bytes(digest, "little") | 1
