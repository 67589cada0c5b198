"""Canaries: rehearsed intrusions as connections among a site's own, to ask a whole detector what it finds.

What behaviour learns from (`training.rehearsals`) is told in hashes and amounts. Here it is put back into the words of
Zeek, at addresses of the site or at new ones, so that it goes the way of any other connection, up to the notice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.behaviour import Flows, flow_rows, flows_of, take_flows
from cmdana_plugin.training.rehearsals.rehearsal import KINDS, Curriculum, rehearsed
from cmdana_plugin.training.rehearsals.templates import Rng
from feature_extractors import CONN_STATES, Connections, Packets, Stage, Windows
from feature_extractors.features import (
    Encoded,
    Schema,
    concat_encoded,
    encoded,
    schema_of,
    take_encoded,
)

_HARDNESS: Final = 0.4
_HEADERS: Final = {6: 40, 17: 28}  # bytes of a packet before its payload, by IP protocol number
_HISTORY: Final = {"S0": b"S", "REJ": b"Sr", "SF": b"ShADadFf", "RSTO": b"ShADadR"}
_UDP_HISTORY: Final = b"Dd"
_EPHEMERAL: Final = (32768, 61000)


@dataclass(frozen=True, slots=True)
class Trial:
    """A site's own connections that have ended with canaries among them, in order of their end."""

    windows: Encoded
    canary: NDArray[np.int32]  # [n] 0 the site's own, else which canary, from 1
    kind: NDArray[np.int8]  # [n] 0 the site's own, else 1 + index into KINDS

    @property
    def names(self) -> list[str]:
        """[n] kind and number of the canary, "" the site's own."""
        return [
            f"{KINDS[k - 1]} {n}" if n else ""
            for n, k in zip(self.canary.tolist(), self.kind.tolist(), strict=True)
        ]


def trial_of(own: Encoded, rng: Rng, count: int) -> Trial:
    """`count` canaries among the site's own connections; a kind that there is nothing for is left out."""
    salt = int.from_bytes(rng.bytes(16), "little")
    rows = flow_rows(own)
    flows = flows_of(own, salt)
    made = rehearsed(flows, rng, Curriculum.begin(_HARDNESS), count)
    new = np.flatnonzero(made.number > 0)
    parts = [take_encoded(own, rows)]
    if len(new):
        parts.append(_encoded(take_flows(made.flows, new), own, rows, flows, rng))
    whole = concat_encoded(parts)
    canary = np.concatenate([np.zeros(len(rows), np.int32), made.number[new]])
    kind = np.concatenate([np.zeros(len(rows), np.int8), made.kind[new]])
    order = np.argsort(whole.connections.end, kind="stable")
    return Trial(take_encoded(whole, order), canary[order], kind[order])


def _encoded(made: Flows, own: Encoded, rows: NDArray[np.int64], flows: Flows, rng: Rng) -> Encoded:
    schema = schema_of(own.schema)
    addresses = _Addresses(own, rows, flows)
    names = {int(h): own.domain[row] for h, row in zip(flows.domain.tolist(), rows.tolist(), strict=True)}
    names[0] = ""
    block = encoded(_windows(made, addresses, schema, rng), schema)
    return replace(
        block,
        accepted=made.accepted.astype(np.int32),
        refused=made.refused.astype(np.int32),
        told_by=made.told_by.astype(np.int8),
        domain=[names.get(h) or f"{h:x}.example" for h in made.domain.tolist()],
        subdomain_bits=made.bits.astype(np.float32),
    )


def _windows(made: Flows, addresses: _Addresses, schema: Schema, rng: Rng) -> Windows:
    n = len(made)
    services = next(f for f in schema.categorical if f.name == "service").values
    state = [CONN_STATES[s] if s >= 0 else "" for s in made.state.tolist()]
    tcp = made.proto == 6
    header = np.array([_HEADERS.get(p, 28) for p in made.proto.tolist()], np.int64)
    whole = {
        name: getattr(made, name).astype(np.int64)
        for name in ("orig_bytes", "resp_bytes", "orig_pkts", "resp_pkts")
    }
    connections = Connections(
        uid=np.array([b"Ccanary%d" % i for i in range(n)], "S20"),
        ts=made.ts,
        end=made.end,
        stage=np.full(n, int(Stage.FINAL), np.int8),
        orig_h=addresses.of(made.orig, made.orig_local),
        resp_h=addresses.of(made.resp, made.resp_local),
        orig_p=rng.integers(*_EPHEMERAL, n).astype(np.uint16),
        resp_p=made.port.astype(np.uint16),
        ip_proto=made.proto.astype(np.uint8),
        service=[services[code - 2] if code >= 2 else "" for code in made.service.tolist()],
        duration=np.where(made.duration > 0, made.duration, np.nan),
        conn_state=made.state,
        missed_bytes=np.zeros(n, np.int64),
        history=np.array(
            [_HISTORY.get(s, b"") if t else _UDP_HISTORY for s, t in zip(state, tcp, strict=True)], "S64"
        ),
        orig_ip_bytes=whole["orig_bytes"] + header * whole["orig_pkts"],
        resp_ip_bytes=whole["resp_bytes"] + header * whole["resp_pkts"],
        vlan=np.full(n, -1, np.int32),
        inner_vlan=np.full(n, -1, np.int32),
        tunneled=np.zeros(n, np.bool_),
        **whole,
    )
    none = Packets(np.zeros(0), np.zeros(0, np.bool_), np.zeros(0, np.int32), np.zeros(0, np.int32))
    nothing = np.zeros(n + 1, np.int64)
    return Windows(connections, none, nothing, [], nothing)


class _Addresses:
    """The site's addresses by their hash; a new host has one that is made of its hash."""

    def __init__(self, own: Encoded, rows: NDArray[np.int64], flows: Flows) -> None:
        c = own.connections
        self._known: dict[int, bytes] = {}
        for hashes, column in ((flows.orig, c.orig_h), (flows.resp, c.resp_h)):
            found, first = np.unique(hashes, return_index=True)
            for h, row in zip(found.tolist(), rows[first].tolist(), strict=True):
                self._known[h] = column[row].tobytes()

    def of(self, hashes: NDArray[np.uint64], local: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """[n, 16]"""
        out = [
            self._known.get(h) or _new(h, own) for h, own in zip(hashes.tolist(), local.tolist(), strict=True)
        ]
        return np.frombuffer(b"".join(out), np.uint8).reshape(-1, 16).copy()


def _new(h: int, local: bool) -> bytes:
    mapped = bytes(10) + b"\xff\xff"
    return mapped + (b"\x0a" if local else b"\x0b") + (h & 0xFFFFFF).to_bytes(3, "big")
