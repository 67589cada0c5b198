"""What an incident puts at stake: how many use its hosts, how far it reaches, and its place in the queue."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.desk.incidents import Incident
from cmdana_plugin.logs import find_logs
from feature_extractors import RecordError
from feature_extractors.readers import ConnRows, PassedOver

MOST_HOSTS: Final = 4096  # of incidents, whose clients are counted
_MOST_PAIRS: Final = 2_000_000  # of a client and such a host
_DECADES: Final = 4.0  # of evidence beyond the limit that count: more is as certain
_STEPS: Final = 2.0  # decades of clients, of hosts reached and of hosts that do it, that count
_RECOGNISED: Final = 1.0  # decades that a likeness to labelled attacks is worth


@dataclass(frozen=True, slots=True)
class Rank:
    """Where an incident stands, in decades, and what that is made of."""

    total: float
    evidence: float  # beyond where an incident begins
    clients: int  # hosts that use the most used of its own hosts
    stake: float
    words: Sequence[str]


def rank(incident: Incident, clients: Mapping[str, int]) -> Rank:
    """The rank of an incident; `clients` says of hosts how many others open connections to them."""
    beyond = 0.0
    if incident.evidence is not None:
        beyond = incident.evidence - (incident.limit or 1.0)
    elif incident.p_value:
        beyond = -math.log10(max(incident.p_value, 1e-12)) - 3.0
    beyond = min(max(beyond, 0.0), _DECADES)
    words = [f"evidence {beyond:.1f} past the limit"]
    stake = 0.0
    used = max((clients.get(h, 0) for h in (*incident.actors, *incident.targets)), default=0)
    for n, what in (
        (used - 1, f"a host that {used:,} use"),
        (incident.peers - 1, f"reaches {incident.peers:,} hosts" if incident.role == "originator" else
         f"from {incident.peers:,} hosts"),
        (incident.actor_count - 1, f"{incident.actor_count:,} hosts do it"),
    ):  # fmt: skip
        if n > 0:
            stake += min(math.log10(1.0 + n), _STEPS)
            words.append(what)
    if incident.known:
        stake += _RECOGNISED
        words.append("recognised from labelled attacks")
    return Rank(beyond + stake, beyond, used, stake, words)


def clients_of(folder: Path, hosts: Sequence[str], passed: PassedOver) -> dict[str, int]:
    """How many hosts open connections to each of these, by the conn.log of a folder; nothing where it has none."""
    wanted = _keys(hosts)
    if not wanted:
        return {}
    keys = np.array(sorted(wanted), "S16")
    pairs: set[bytes] = set()
    for file in find_logs([folder], "conn"):
        try:
            for block in ConnRows(file, passed).blocks():
                both = _used(block.orig_h, block.resp_h, keys)
                if len(pairs) < _MOST_PAIRS:
                    pairs.update(both)
        except RecordError:
            continue  # told where the logs are read
    counts: dict[str, int] = {}
    for pair in pairs:
        host = wanted[pair[16:]]
        counts[host] = counts.get(host, 0) + 1
    return counts


def _used(orig: NDArray[np.uint8], resp: NDArray[np.uint8], keys: NDArray[np.bytes_]) -> list[bytes]:
    """The distinct pairs (originator, responder), 32 bytes each, of those whose responder is one of `keys`."""
    there = (
        np.ascontiguousarray(resp).view("S16").reshape(-1)
    )  # of equal width: what numpy strips is equal too
    of = np.flatnonzero(np.isin(there, keys))
    if not len(of):
        return []
    both = np.ascontiguousarray(np.hstack([orig[of], resp[of]])).view("S32").reshape(-1)
    return [pair.ljust(32, b"\0") for pair in np.unique(both).tolist()]


def _keys(hosts: Sequence[str]) -> dict[bytes, str]:
    keys: dict[bytes, str] = {}
    for host in hosts[:MOST_HOSTS]:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            continue
        packed = address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed
        keys[packed] = host
    return keys
