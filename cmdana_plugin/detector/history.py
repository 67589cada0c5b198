"""What the past says about an event: decaying counts, novelty and a learned memory per host, service and pair.

Everything is read before the event is written, so a score never knows its own event. Tables are set-associative
with the least recently used entry of a set replaced: memory is fixed, time per event is constant, and an attacker
who invents addresses displaces the idle, not the busy. Keys are salted hashes; no address is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.statefile import packed, unpacked
from feature_extractors import Connections, Stage
from feature_extractors.compiled import entry, hashed, key_of
from feature_extractors.features import Features

MEMORY: Final = 32  # floats of learned memory per entity
RING: Final = 8  # recent connections of a host that attention looks back on
RING_WIDTH: Final = 16  # floats kept of each of them
KINDS: Final = 3  # originating host, (responder, port), (originator, responder, port)
WAYS: Final = 8  # slots of a set
_INITIAL_SLOTS: Final = 4096  # slots of a table at the beginning
# A count so far tells new from known; beyond this it would only tell the stream's age.
_MAX_COUNT: Final = 50.0

# Offsets in a host's row: four counts each, then single values.
_CONNS, _FAILED, _PEERS, _PORTS, _IN, _IN_PEERS = 0, 4, 8, 12, 16, 20
_SEEN, _ALL_FAILED, _ALL_PEERS, _ALL_PORTS, _ANSWERED, _LAST, _LAST_IN = range(24, 31)
_ORIG_MEAN, _ORIG_VAR, _RESP_MEAN, _RESP_VAR = range(31, 35)
_HOST_WIDTH: Final = 35
# In a pair's row
_P_CONNS, _P_SEEN, _P_LAST, _P_GAP, _P_GAP_VAR = 0, 4, 5, 6, 7
_P_ORIG, _P_ORIG_VAR, _P_RESP, _P_RESP_VAR = range(8, 12)
_PAIR_WIDTH: Final = 12
# In a port's row
_S_SEEN, _S_ORIG, _S_ORIG_VAR, _S_RESP, _S_RESP_VAR, _S_DUR, _S_DUR_VAR = range(7)
_PORT_WIDTH: Final = 7


@dataclass(frozen=True, slots=True)
class Keys:
    """Salted 64-bit hashes [n] of the entities that each event involves; 0 stands for none."""

    orig: NDArray[np.uint64]  # [n]
    resp: NDArray[np.uint64]
    service: NDArray[np.uint64]  # responder and port
    pair: NDArray[np.uint64]  # originator, responder and port
    peers: NDArray[np.uint64]  # originator and responder
    orig_port: NDArray[np.uint64]  # originator and responder's port
    port: NDArray[np.uint64]  # responder's port at the site
    name: NDArray[np.uint64]
    orig_name: NDArray[np.uint64]

    def entity(self, kind: int) -> NDArray[np.uint64]:
        """The keys [n] of the learned memory of one of `KINDS`."""
        return (self.orig, self.service, self.pair)[kind]


@dataclass(frozen=True, slots=True)
class Slots:
    """The slots of the learned memory of each event's entities, and whether they are empty."""

    index: NDArray[np.int64]  # [n, KINDS] -1 where the event may only read and there is nothing to read
    fresh: NDArray[np.bool_]  # [n, KINDS]


class Tables:
    """Bounded set-associative tables of counts and learned memory (LRU within a set).

    `hosts`, `pairs` and `marks` are capacities in entries, rounded up to a power of two; not `learned`: without memory.

    They begin small and double when a set is full, until the capacity is reached: a short capture pays for no more
    memory than it needs, and nothing is displaced before its time.
    """

    def __init__(
        self, hosts: int = 1 << 20, pairs: int = 1 << 19, marks: int = 1 << 21, learned: bool = True
    ) -> None:
        self.hosts = _Table(hosts, _HOST_WIDTH)
        self.services = _Table(max(hosts // 4, WAYS), 1)
        self.pairs = _Table(pairs, _PAIR_WIDTH)
        self.marks = _Table(marks, 1)
        self.ports = _Table(1 << 14, _PORT_WIDTH)
        self._entities = (self.hosts, self.services, self.pairs)
        self._learned = learned
        self._forget()

    def state(self) -> dict[str, NDArray[Any]]:
        """All that is remembered, as arrays by name."""
        out: dict[str, NDArray[Any]] = {}
        for name in _NAMES:
            table: _Table = getattr(self, name)
            out |= packed(name, table.keys, self._columns(name, self._learned))
        return out

    def restore(self, state: Mapping[str, NDArray[Any]], learned: bool = True) -> None:
        """Goes on from a `state`; where not `learned`, without its memory, which is in another network's terms.

        Raises `ValueError` where it is none, or holds more than this may.
        """
        learned = learned and self._learned
        found = {}
        for name in _NAMES:
            table: _Table = getattr(self, name)
            sizes = [n for n in _sizes(table.capacity) if n >= min(table.capacity, _INITIAL_SLOTS)]
            found[name] = unpacked(name, state, self._columns(name, learned), sizes)
        rings = [found["hosts"]["ring_used"]] if learned else []
        if min(int(used.min()) for used in (*rings, *(c["used"] for c in found.values()))) < 0:
            raise ValueError("tables: found uses below none")
        for name, columns in found.items():
            table = getattr(self, name)
            table.keys, table.used, table.rows = columns["keys"], columns["used"], columns["values"]
        if not learned:
            self._forget()
            return
        for k, name in enumerate(_LEARNED):
            self._put_learned(k, found[name])

    def _forget(self) -> None:
        """Empties the learned memory, of as many slots as there are."""
        slots = [len(t.keys) if self._learned else 0 for t in self._entities]
        self._memory = [np.zeros((n, MEMORY), np.float32) for n in slots]
        self._memory_at = [np.zeros(n) for n in slots]
        self._ring = np.zeros((slots[0], RING, RING_WIDTH), np.float32)
        self._ring_used = np.zeros(slots[0], np.int32)

    def _columns(self, name: str, learned: bool) -> dict[str, NDArray[Any]]:
        table: _Table = getattr(self, name)
        columns: dict[str, NDArray[Any]] = {"keys": table.keys, "used": table.used, "values": table.rows}
        return columns | (self._learned_of(_LEARNED.index(name)) if learned and name in _LEARNED else {})

    def _learned_of(self, k: int) -> dict[str, NDArray[Any]]:
        """What is learned of the entities of kind `k`, by slot: memory, its time, and of hosts the ring."""
        columns: dict[str, NDArray[Any]] = {"memory": self._memory[k], "memory_at": self._memory_at[k]}
        return columns if k else columns | {"ring": self._ring, "ring_used": self._ring_used}

    def _put_learned(self, k: int, columns: Mapping[str, NDArray[Any]]) -> None:
        self._memory[k], self._memory_at[k] = columns["memory"], columns["memory_at"]
        if k == 0:
            self._ring, self._ring_used = columns["ring"], columns["ring_used"]

    def _move_learned(self, k: int, moved: NDArray[np.int64]) -> None:
        """Twice the slots, each of the old ones where `moved` says."""
        self._put_learned(k, {name: _spread(x, moved) for name, x in self._learned_of(k).items()})

    def counts(
        self, c: Connections, features: Features, keys: Keys, spans: tuple[float, ...]
    ) -> tuple[NDArray[np.float32], Slots]:
        """The schema's state columns [n, F] of events in stream order, each from its past only, and its memory slots.

        Each event is entered after its own row is read; early ones leave no trace.
        """
        n = len(c)
        failed = np.isin(c.conn_state, (0, 3, 7, 8, 9, 10)) | ((c.ip_proto == 17) & (c.resp_pkts == 0))
        size = np.stack(
            [
                np.log1p(np.maximum(c.orig_ip_bytes, 0)),
                np.log1p(np.maximum(c.resp_ip_bytes, 0)),
                np.log1p(np.nan_to_num(np.maximum(c.duration, 0.0)) * 1e3),
            ],
            axis=1,
        )
        out = np.empty((n, 28 + 22), np.float32)
        index = np.full((n, KINDS), -1, np.int64)
        fresh = np.zeros((n, KINDS), np.bool_)
        t, done = self, 0
        tables = (t.hosts, t.services, t.pairs, t.marks, t.ports)
        while True:
            done, full = _count(
                done, c.ts, c.stage == Stage.EARLY, failed, c.resp_pkts > 0, size, np.array(spans),
                keys.orig, keys.resp, keys.service, keys.pair, keys.peers, keys.orig_port, keys.port,
                keys.name, keys.orig_name,
                t.hosts.keys, t.hosts.used, t.hosts.rows, t.services.keys, t.services.used, t.services.rows,
                t.pairs.keys, t.pairs.used, t.pairs.rows, t.marks.keys, t.marks.used, t.marks.rows,
                t.ports.keys, t.ports.used, t.ports.rows,
                np.array([len(x.keys) < x.capacity for x in tables]), out, index, fresh,
            )  # fmt: skip
            if done == n:
                return out, Slots(index, fresh)
            self._grow(tables[full], index[:done])

    def _grow(self, table: _Table, index: NDArray[np.int64]) -> None:
        """Double a table, and what lies beside it; `index` are slots given out in this call, set right in place."""
        moved = table.grow()
        if not self._learned:
            return
        for k, owner in enumerate(self._entities):
            if owner is not table:
                continue
            self._move_learned(k, moved)
            known = index[:, k] >= 0
            index[known, k] = moved[index[known, k]]

    def remember(
        self,
        ts: NDArray[np.float64],
        early: NDArray[np.bool_],
        slots: Slots,
        write: NDArray[np.float32],
        value: NDArray[np.float32],
        rate: NDArray[np.float32],
        recent: NDArray[np.float32],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
        """The learned memory and ring before each event, which are then updated, event by event.

        `write` (gate, 0..1) and `value` are [n, KINDS, MEMORY], `rate` [KINDS, MEMORY] per second, `recent`
        [n, RING_WIDTH] what the host's ring keeps of each event. Returns memory before each event, decayed to
        its time [n, KINDS, MEMORY]; the ring before it [n, RING, RING_WIDTH], oldest first; and how many of it count.
        """
        n = len(ts)
        read = np.zeros((n, KINDS, MEMORY), np.float32)
        for k in range(KINDS):
            _scan(
                ts, early, slots.index[:, k], slots.fresh[:, k], write[:, k], value[:, k], rate[k],
                self._memory[k], self._memory_at[k], read[:, k],
            )  # fmt: skip
        ring = np.zeros((n, RING, RING_WIDTH), np.float32)
        used = np.zeros(n, np.int32)
        _look_back(
            early, slots.index[:, 0], slots.fresh[:, 0], recent, self._ring, self._ring_used, ring, used
        )
        return read, ring, used


def remember_all(
    ts: NDArray[np.float64],
    early: NDArray[np.bool_],
    ids: NDArray[np.int64],
    write: NDArray[np.float32],
    value: NDArray[np.float32],
    rate: NDArray[np.float32],
    recent: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """What `Tables.remember` gives from an empty state where no entity of `ids` [n, KINDS] is ever displaced."""
    n = len(ts)
    size = ids.max(axis=0) + 1 if n else np.zeros(KINDS, np.int64)
    fresh = np.zeros((n, KINDS), np.bool_)  # what begins empty needs no clearing
    read = np.zeros((n, KINDS, MEMORY), np.float32)
    for k in range(KINDS):
        memory, at = np.zeros((size[k], MEMORY), np.float32), np.zeros(size[k])
        _scan(ts, early, ids[:, k], fresh[:, k], write[:, k], value[:, k], rate[k], memory, at, read[:, k])
    ring, used = np.zeros((n, RING, RING_WIDTH), np.float32), np.zeros(n, np.int32)
    rings = np.zeros((size[0], RING, RING_WIDTH), np.float32)
    _look_back(early, ids[:, 0], fresh[:, 0], recent, rings, np.zeros(size[0], np.int32), ring, used)
    return read, ring, used


def join_hosts(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """The rows of hosts that two have counted: as an originator by who has seen more of it, as a responder together.

    What decays is taken as it stands.
    """
    out = np.where((one[:, _SEEN] >= other[:, _SEEN])[:, None], one, other)
    added = [*range(_IN, _IN_PEERS + 4), _ANSWERED]
    out[:, added] = one[:, added] + other[:, added]
    out[:, _LAST_IN] = np.maximum(one[:, _LAST_IN], other[:, _LAST_IN])
    return out


def join_ports(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """The rows of ports that two have seen: means and variances by how often."""
    seen = one[:, :1] + other[:, :1]
    out = (one * one[:, :1] + other * other[:, :1]) / np.maximum(seen, 1e-9)
    out[:, :1] = seen
    joined: NDArray[Any] = out.astype(one.dtype)
    return joined


_LEARNED: Final = ("hosts", "services", "pairs")  # those beside which memory lies
_NAMES: Final = ("hosts", "services", "pairs", "marks", "ports")


def _sizes(capacity: int) -> list[int]:
    return [1 << k for k in range(capacity.bit_length())]


class _Table:
    """`capacity` is the most slots, of which `_INITIAL_SLOTS` or fewer are there at the beginning."""

    def __init__(self, capacity: int, width: int) -> None:
        self.capacity = 1 << max(int(np.ceil(np.log2(max(capacity, WAYS)))), 3)
        size = min(self.capacity, _INITIAL_SLOTS)
        self.keys = np.zeros(size, np.uint64)
        self.used = np.zeros(size, np.int64)  # tick of last use, 0 never
        self.rows = np.zeros((size, width), np.float32 if width < _PAIR_WIDTH else np.float64)

    def grow(self) -> NDArray[np.int64]:
        """Twice the slots. Returns where each of the old ones went, [old slots]; those that were free too."""
        moved = _split(self.keys)
        self.keys, self.used = _spread(self.keys, moved), _spread(self.used, moved)
        self.rows = _spread(self.rows, moved)
        return moved


_Column = TypeVar("_Column", bound=np.generic)


def _spread(column: NDArray[_Column], moved: NDArray[np.int64]) -> NDArray[_Column]:
    out = np.zeros((2 * len(column), *column.shape[1:]), column.dtype)
    out[moved] = column
    return out


@entry
def _split(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Each set becomes two, told apart by the next bit of the key; a way keeps its place within the set."""
    moved = np.arange(len(keys))
    sets = np.uint64(len(keys) // WAYS)
    for j in range(len(keys)):
        if keys[j] != 0 and (keys[j] >> np.uint64(8)) & sets:
            moved[j] = j + len(keys)
    return moved


def make_keys(c: Connections, features: Features, salt: int) -> Keys:
    """The keyed hashes of each window's entities under a site's `salt` (128 bits, kept secret)."""
    secret = key_of(salt)

    def keys(kind: int, one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.uint64]:
        return hashed(secret, np.full(len(one), kind, np.uint64), one, other) | np.uint64(1)

    orig, resp = keys(0, *_halves(c.orig_h)), keys(0, *_halves(c.resp_h))
    icmp = (c.ip_proto == 1) | (c.ip_proto == 58)
    port = keys(1, np.where(icmp, 0, c.resp_p).astype(np.uint64), c.ip_proto.astype(np.uint64))
    peers = keys(2, orig, resp)
    named = features.name != 0
    return Keys(
        orig=orig,
        resp=resp,
        service=keys(3, resp, port),
        pair=keys(4, peers, port),
        peers=peers,
        orig_port=keys(5, orig, port),
        port=port,
        name=np.where(named, keys(6, features.name, features.name), np.uint64(0)),
        orig_name=np.where(named, keys(7, orig, features.name), np.uint64(0)),
    )


def _halves(address: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    halves = np.ascontiguousarray(address).view(np.uint64).reshape(-1, 2)
    return halves[:, 0], halves[:, 1]


@entry
def _find(keys: NDArray[np.uint64], key: np.uint64) -> int:
    """The slot of `key`, or -1."""
    base = int((key >> np.uint64(8)) % np.uint64(len(keys) // WAYS)) * WAYS
    for j in range(base, base + WAYS):
        if keys[j] == key:
            return j
    return -1


@entry
def _room(keys: NDArray[np.uint64], key: np.uint64, want: int) -> bool:
    """Whether `key` has its slot, or its set has `want` free ones."""
    base = int((key >> np.uint64(8)) % np.uint64(len(keys) // WAYS)) * WAYS
    free = 0
    for j in range(base, base + WAYS):
        if keys[j] == key:
            return True
        free += keys[j] == 0
    return free >= want


@entry
def _claim(  # type: ignore[no-untyped-def]
    keys, used, rows, key, tick
):
    """The slot of `key`, taken from the least recently used of its set where it has none yet."""
    base = int((key >> np.uint64(8)) % np.uint64(len(keys) // WAYS)) * WAYS
    oldest = base
    for j in range(base, base + WAYS):
        if keys[j] == key:
            used[j] = tick
            return j, False
        if used[j] < used[oldest]:
            oldest = j
    keys[oldest] = key
    used[oldest] = tick
    rows[oldest, :] = 0.0
    return oldest, True


@entry
def _decayed(row, at, dt, spans, out, to):  # type: ignore[no-untyped-def]
    for k in range(4):
        out[to + k] = np.log1p(row[at + k] * np.exp(-dt / spans[k]))


@entry
def _bump(row, at, dt, spans, by):  # type: ignore[no-untyped-def]
    for k in range(4):
        row[at + k] = row[at + k] * np.exp(-dt / spans[k]) + by


@entry
def _odd(x: float, mean: float, var: float, seen: float) -> float:
    """How many usual spreads above or below the usual; unset until three were seen."""
    return (x - mean) / np.sqrt(var + 0.05) if seen >= 3 else np.nan


@entry
def _learn(row, at, x, seen):  # type: ignore[no-untyped-def]
    """Mean and variance, exact at first, forgetting over about fifty events."""
    w = max(1.0 / (seen + 1.0), 0.02)
    delta = x - row[at]
    row[at] += w * delta
    row[at + 1] = (1.0 - w) * (row[at + 1] + w * delta * delta)


@entry
def _count(  # type: ignore[no-untyped-def]
    begin, ts, early, failed, answered, size, spans,
    orig, resp, service, pair, peers, orig_port, port, name, orig_name,
    host_keys, host_used, hosts, service_keys, service_used, services, pair_keys, pair_used, pairs,
    mark_keys, mark_used, marks, port_keys, port_used, ports, may_grow, out, index, fresh,
):  # fmt: skip
    """Events from `begin` on. Returns how far it came, and which table must grow before it can go on."""
    empty_host = np.zeros(_HOST_WIDTH, hosts.dtype)
    empty_pair = np.zeros(_PAIR_WIDTH, pairs.dtype)
    empty_port = np.zeros(_PORT_WIDTH, ports.dtype)
    # Ticks go on from call to call: the largest ever used is at some port.
    tick = port_used.max()
    for i in range(begin, len(ts)):
        if not early[i]:
            if may_grow[0] and not (_room(host_keys, orig[i], 2) and _room(host_keys, resp[i], 2)):
                return i, 0
            if may_grow[1] and not _room(service_keys, service[i], 1):
                return i, 1
            if may_grow[2] and not _room(pair_keys, pair[i], 1):
                return i, 2
            if may_grow[3] and not (
                _room(mark_keys, peers[i], 4)
                and _room(mark_keys, orig_port[i], 4)
                and (name[i] == 0 or (_room(mark_keys, name[i], 4) and _room(mark_keys, orig_name[i], 4)))
            ):
                return i, 3
            if may_grow[4] and not _room(port_keys, port[i], 1):
                return i, 4
        tick += 1
        now = ts[i]
        o = _find(host_keys, orig[i])
        r = _find(host_keys, resp[i])
        p = _find(pair_keys, pair[i])
        s = _find(port_keys, port[i])
        v = _find(service_keys, service[i])
        ho = hosts[o] if o >= 0 else empty_host
        hr = hosts[r] if r >= 0 else empty_host
        hp = pairs[p] if p >= 0 else empty_pair
        hs = ports[s] if s >= 0 else empty_port
        known_peer = _find(mark_keys, peers[i])
        known_port = _find(mark_keys, orig_port[i])
        dt = max(now - ho[_LAST], 0.0) if ho[_SEEN] > 0 else 0.0
        dt_in = max(now - hr[_LAST_IN], 0.0)
        dt_pair = max(now - hp[_P_LAST], 0.0) if hp[_P_SEEN] > 0 else 0.0
        f = out[i]
        _decayed(ho, _CONNS, dt, spans, f, 0)
        _decayed(ho, _FAILED, dt, spans, f, 4)
        _decayed(ho, _PEERS, dt, spans, f, 8)
        _decayed(ho, _PORTS, dt, spans, f, 12)
        _decayed(hr, _IN, dt_in, spans, f, 16)
        _decayed(hr, _IN_PEERS, dt_in, spans, f, 20)
        _decayed(hp, _P_CONNS, dt_pair, spans, f, 24)
        seen = ho[_SEEN]
        f[28] = ho[_ALL_FAILED] / seen if seen > 0 else np.nan
        f[29] = ho[_ALL_PEERS] / seen if seen > 0 else np.nan
        f[30] = ho[_ALL_PORTS] / seen if seen > 0 else np.nan
        f[31] = np.log1p(min(seen, _MAX_COUNT))
        f[32] = np.log1p(min(hp[_P_SEEN], _MAX_COUNT))
        f[33] = np.log1p(min(services[v, 0], _MAX_COUNT)) if v >= 0 else 0.0
        f[34] = np.log1p(min(hs[_S_SEEN], _MAX_COUNT))
        if name[i] != 0:
            m = _find(mark_keys, name[i])
            f[35] = np.log1p(min(marks[m, 0], _MAX_COUNT)) if m >= 0 else 0.0
            m = _find(mark_keys, orig_name[i])
            f[36] = np.log1p(min(marks[m, 0], _MAX_COUNT)) if m >= 0 else 0.0
        else:
            f[35] = np.nan
            f[36] = np.nan
        f[37] = np.log1p(min(marks[known_port, 0], _MAX_COUNT)) if known_port >= 0 else 0.0
        f[38] = np.log1p(min(hr[_ANSWERED], _MAX_COUNT))
        f[39] = np.log1p(dt * 1e3) if seen > 0 else np.nan
        gap = np.log1p(dt_pair * 1e3)
        f[40] = gap if hp[_P_SEEN] > 0 else np.nan
        f[41] = _odd(gap, hp[_P_GAP], hp[_P_GAP_VAR], hp[_P_SEEN] - 1.0)
        f[42] = np.sqrt(hp[_P_GAP_VAR]) if hp[_P_SEEN] >= 3 else np.nan
        f[43] = _odd(size[i, 0], hs[_S_ORIG], hs[_S_ORIG_VAR], hs[_S_SEEN])
        f[44] = _odd(size[i, 1], hs[_S_RESP], hs[_S_RESP_VAR], hs[_S_SEEN])
        f[45] = _odd(size[i, 2], hs[_S_DUR], hs[_S_DUR_VAR], hs[_S_SEEN])
        f[46] = _odd(size[i, 0], ho[_ORIG_MEAN], ho[_ORIG_VAR], seen)
        f[47] = _odd(size[i, 1], ho[_RESP_MEAN], ho[_RESP_VAR], seen)
        f[48] = _odd(size[i, 0], hp[_P_ORIG], hp[_P_ORIG_VAR], hp[_P_SEEN])
        f[49] = _odd(size[i, 1], hp[_P_RESP], hp[_P_RESP_VAR], hp[_P_SEEN])
        if early[i]:
            index[i, 0], index[i, 1], index[i, 2] = o, v, p
            continue
        bad = 1.0 if failed[i] else 0.0
        new_peer = 1.0 if known_peer < 0 else 0.0
        new_port = 1.0 if known_port < 0 else 0.0
        o, fresh[i, 0] = _claim(host_keys, host_used, hosts, orig[i], tick)
        ho = hosts[o]
        _bump(ho, _CONNS, dt, spans, 1.0)
        _bump(ho, _FAILED, dt, spans, bad)
        _bump(ho, _PEERS, dt, spans, new_peer)
        _bump(ho, _PORTS, dt, spans, new_port)
        _learn(ho, _ORIG_MEAN, size[i, 0], ho[_SEEN])
        _learn(ho, _RESP_MEAN, size[i, 1], ho[_SEEN])
        ho[_SEEN] += 1.0
        ho[_ALL_FAILED] += bad
        ho[_ALL_PEERS] += new_peer
        ho[_ALL_PORTS] += new_port
        ho[_LAST] = max(now, ho[_LAST])
        if _find(host_keys, resp[i]) < 0 and not answered[i]:
            # An address that never answered is remembered by whoever asked, not as a host of its own.
            pass
        else:
            r, _ = _claim(host_keys, host_used, hosts, resp[i], tick)
            hr = hosts[r]
            _bump(hr, _IN, dt_in, spans, 1.0)
            _bump(hr, _IN_PEERS, dt_in, spans, new_peer)
            hr[_ANSWERED] += 1.0 if answered[i] else 0.0
            hr[_LAST_IN] = max(now, hr[_LAST_IN])
        v, fresh[i, 1] = _claim(service_keys, service_used, services, service[i], tick)
        services[v, 0] += 1.0
        p, fresh[i, 2] = _claim(pair_keys, pair_used, pairs, pair[i], tick)
        hp = pairs[p]
        _bump(hp, _P_CONNS, dt_pair, spans, 1.0)
        if hp[_P_SEEN] > 0:
            _learn(hp, _P_GAP, gap, hp[_P_SEEN] - 1.0)
        _learn(hp, _P_ORIG, size[i, 0], hp[_P_SEEN])
        _learn(hp, _P_RESP, size[i, 1], hp[_P_SEEN])
        hp[_P_SEEN] += 1.0
        hp[_P_LAST] = max(now, hp[_P_LAST])
        s, _ = _claim(port_keys, port_used, ports, port[i], tick)
        hs = ports[s]
        _learn(hs, _S_ORIG, size[i, 0], hs[_S_SEEN])
        _learn(hs, _S_RESP, size[i, 1], hs[_S_SEEN])
        _learn(hs, _S_DUR, size[i, 2], hs[_S_SEEN])
        hs[_S_SEEN] += 1.0
        m, _ = _claim(mark_keys, mark_used, marks, peers[i], tick)
        marks[m, 0] += 1.0
        m, _ = _claim(mark_keys, mark_used, marks, orig_port[i], tick)
        marks[m, 0] += 1.0
        if name[i] != 0:
            m, _ = _claim(mark_keys, mark_used, marks, name[i], tick)
            marks[m, 0] += 1.0
            m, _ = _claim(mark_keys, mark_used, marks, orig_name[i], tick)
            marks[m, 0] += 1.0
        index[i, 0], index[i, 1], index[i, 2] = o, v, p
    return len(ts), -1


@entry
def _scan(ts, early, slot, fresh, write, value, rate, memory, at, read):  # type: ignore[no-untyped-def]
    width = memory.shape[1]
    for i in range(len(ts)):
        j = slot[i]
        if j < 0:
            continue
        if fresh[i]:
            memory[j, :] = 0.0
            at[j] = ts[i]
        dt = np.float32(max(ts[i] - at[j], 0.0))
        for k in range(width):
            kept = memory[j, k] * np.exp(-rate[k] * dt)
            read[i, k] = kept
            if not early[i]:
                memory[j, k] = kept * (np.float32(1.0) - write[i, k]) + write[i, k] * value[i, k]
        if not early[i]:
            at[j] = max(at[j], ts[i])


@entry
def _look_back(early, slot, fresh, recent, ring, used, out, count):  # type: ignore[no-untyped-def]
    for i in range(len(slot)):
        j = slot[i]
        if j < 0:
            continue
        if fresh[i]:
            used[j] = 0
        have = min(used[j], RING)
        for k in range(have):
            out[i, k] = ring[j, (used[j] - have + k) % RING]
        count[i] = have
        if not early[i]:
            ring[j, used[j] % RING] = recent[i]
            used[j] += 1
            if used[j] >= 1 << 30:
                used[j] = RING + used[j] % RING
