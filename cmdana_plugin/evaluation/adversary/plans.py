"""What an attacker may do to an attack: the moves of a plan, their cost, and whether what comes out is possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.training import Recording, changed_of, delay, jitter, junk, pace, pad, split
from feature_extractors import Connections, Windows, concat, take

# First words of families whose attacker chooses where its own server listens.
OWN_SERVER: Final = frozenset(
    ("banker", "beacon", "botnet", "c2", "clickfraud", "exfiltration", "loader", "malware", "ransomware", "webshell",
     "windows")
)  # fmt: skip
EXTRA: Final = b"Cmix"  # how names of connections that are mixed in start
_SHORTEST: Final = 1.0  # seconds that an attack takes at least, where its time is a factor


@dataclass(frozen=True, slots=True)
class Plan:
    """The moves of one attacker; the defaults change nothing."""

    pad: float = 1.0  # payloads so many times as long, 1,400 bytes at most
    junk: int = 0  # packets of 256 bytes more at the end of each connection
    split: bool = False  # payloads in two
    delay: float = 1.0  # so many times as long between the packets of a connection
    pace: float = 1.0  # so many times as long between connections
    jitter: float = 0.0  # each connection later by so many mean intervals at most
    hosts: int = 1  # from so many addresses in turn
    mix: float = 0.0  # ordinary connections of the same host for each of the attack's
    port: int = 0  # of the attacker's own server; 0: as it is

    def words(self) -> str:
        """The moves that are made, in short."""
        plain = Plan()
        said = [
            f"{f.name} {getattr(self, f.name):g}" if f.name != "split" else "split"
            for f in fields(self)
            if getattr(self, f.name) != getattr(plain, f.name)
        ]
        return ", ".join(said) or "nothing"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a plan costs, as factors of the attack as it was."""

    time: float
    bytes: float
    connections: float
    hosts: float

    def factor(self) -> float:
        """The greatest of them."""
        return max(self.time, self.bytes, self.connections, self.hosts)


LEVELS: Final[dict[str, Sequence[Any]]] = {
    "pad": (1.0, 1.25, 1.5, 2.0, 4.0),
    "junk": (0, 1, 2, 4),
    "split": (False, True),
    "delay": (1.0, 1.5, 2.0, 4.0, 10.0),
    "pace": (1.0, 1.5, 2.0, 4.0, 10.0, 100.0),
    "jitter": (0.0, 0.25, 0.5, 1.0),
    "hosts": (1, 2, 4, 10),
    "mix": (0.0, 0.25, 0.5, 1.0, 3.0),
    "port": (0, 443, 53),
}


def apply(plan: Plan, recording: Recording, ordinary: Windows, seed: int = 0) -> Recording:
    """The recording as the plan leaves it, in stream order; `ordinary` are connections to mix in.

    Packets, totals, times and order change together; what follows from them (features, counts, state, behaviour) is
    for the detector to compute anew. Mixed in connections are of unknown kind: they are no part of the attack.
    """
    assert recording.label is not None
    rng = np.random.default_rng(seed)
    x = changed_of(recording)
    family = list(recording.family or [""] * len(recording.windows))
    if plan.split:
        x = replace(x, windows=split(x))
    if plan.pad > 1.0:
        x = replace(x, windows=pad(x, plan.pad))
    if plan.junk:
        x = replace(x, windows=junk(x, plan.junk, 256))
    if plan.delay > 1.0:
        x = replace(x, windows=delay(x, plan.delay))
    if plan.pace > 1.0 or plan.jitter > 0.0:
        x = replace(x, windows=pace(x, plan.pace, jitter(x, plan.pace, plan.jitter, rng)))
    windows = x.windows
    if plan.hosts > 1:
        windows = _from_hosts(windows, x.mine, plan.hosts)
    if plan.port and recording.family:
        own = np.array([f.split("-")[0] in OWN_SERVER for f in family], np.bool_)
        windows = _at_port(windows, x.mine & own, plan.port)
    label = recording.label
    if plan.mix > 0.0 and len(ordinary):
        extra = _mixed_in(windows, x.mine, ordinary, plan.mix, rng)
        label = np.concatenate([label, np.full(len(extra), -1, np.int8)])
        family += [""] * len(extra)
        windows = concat([windows, extra])
    order = np.argsort(windows.connections.end, kind="stable")
    return Recording(recording.name, take(windows, order), label[order], [family[i] for i in order.tolist()])


def cost_of(before: Recording, after: Recording) -> Cost:
    """What was paid: mixed in connections count as connections and bytes."""
    a, b = (_size(r) for r in (before, after))
    return Cost(*(max(float(y / x), 1.0) for x, y in zip(a, b, strict=True)))


def _size(recording: Recording) -> tuple[float, float, float, float]:
    assert recording.label is not None
    c = recording.windows.connections
    mine = recording.label == 1
    extra = is_extra(c)
    both = mine | extra
    return (
        max(float(c.end[mine].max() - c.ts[mine].min()), _SHORTEST),
        max(float(np.maximum(c.orig_ip_bytes[both], 0).sum()), 1.0),
        float(both.sum()),
        float(len(np.unique(c.orig_h[mine], axis=0))),
    )


def valid(before: Recording, after: Recording) -> list[str]:
    """What of a plan's outcome cannot be: [] where all holds that an originator cannot change."""
    assert before.label is not None
    assert after.label is not None
    a, b = before.windows.connections, after.windows.connections
    row = {uid: i for i, uid in enumerate(b.uid.tolist())}
    at = np.array([row.get(uid, -1) for uid in a.uid.tolist()])
    wrong = []
    if (at < 0).any() or len(row) != len(b):
        return ["connections are lost, or two have one uid"]
    mine = before.label == 1
    for name in ("resp_bytes", "resp_pkts", "resp_ip_bytes", "conn_state", "ip_proto", "history"):
        x, y = getattr(a, name), getattr(b, name)[at]
        if not np.array_equal(x, y):
            wrong.append(f"{name} is the responder's, or fixed")
    for name in ("orig_bytes", "orig_pkts", "orig_ip_bytes"):
        if (getattr(b, name)[at] < getattr(a, name)).any():
            wrong.append(f"{name} fell")
    if (np.nan_to_num(b.duration[at]) < np.nan_to_num(a.duration) - 1e-6).any():
        wrong.append("a connection is shorter")
    if (b.ts[at] < a.ts - 1e-6).any():
        wrong.append("a connection is earlier")
    others = ~mine
    if not np.array_equal(a.ts[others], b.ts[at][others]):
        wrong.append("others' connections moved")
    if (np.diff(b.end) < 0).any():
        wrong.append("not in stream order")
    # Captures may hold such themselves.
    out, back = (_misplaced(w) for w in (before.windows, after.windows))
    mixed = _misplaced(take(after.windows, np.flatnonzero(is_extra(b))))
    if (np.array(back) > np.array(out) + np.array(mixed)).any():
        wrong.append("packets are outside their connection, or out of order")
    return wrong


def _misplaced(windows: Windows) -> tuple[int, int]:
    """How many packets lie outside their connection, and before the one before."""
    c, p = windows.connections, windows.packets
    owner = np.repeat(np.arange(len(windows)), np.diff(windows.packet_start))
    outside = (p.ts < c.ts[owner] - 1e-5) | (p.ts > c.end[owner] + 1e-5)
    earlier = (np.diff(p.ts) < -1e-5) & (owner[1:] == owner[:-1])
    return int(outside.sum()), int(earlier.sum())


def _with(windows: Windows, **columns: object) -> Windows:
    c = windows.connections
    return replace(
        windows,
        connections=Connections(**{**{f.name: getattr(c, f.name) for f in fields(c)}, **columns}),
    )


def _from_hosts(windows: Windows, mine: NDArray[np.bool_], hosts: int) -> Windows:
    """Attackers' connections from addresses in turn, the first its own."""
    orig = windows.connections.orig_h.copy()
    turn = np.zeros(len(orig), np.int64)
    turn[mine] = np.arange(int(mine.sum())) % hosts
    orig[mine, 15] = (orig[mine, 15].astype(np.int64) ^ turn[mine]).astype(np.uint8)
    return _with(windows, orig_h=orig)


def _at_port(windows: Windows, mine: NDArray[np.bool_], port: int) -> Windows:
    c = windows.connections
    to = mine & np.isin(c.ip_proto, (6, 17)) & (np.array([s == "" for s in c.service]))
    return _with(windows, resp_p=np.where(to, port, c.resp_p).astype(c.resp_p.dtype))


def _mixed_in(
    windows: Windows, mine: NDArray[np.bool_], ordinary: Windows, share: float, rng: np.random.Generator
) -> Windows:
    """Ordinary connections as of the attacker's host, spread over the time of the attack."""
    c = windows.connections
    count = max(round(share * int(mine.sum())), 1)
    chosen = take(ordinary, np.sort(rng.integers(0, len(ordinary), count)))
    first, last = float(c.ts[mine].min()), float(c.end[mine].max())
    host = c.orig_h[np.flatnonzero(mine)[0]]
    moved = moved_to(chosen, np.sort(rng.uniform(first, max(last, first + _SHORTEST), count)), EXTRA)
    return _with(moved, orig_h=np.tile(host, (count, 1)))


def moved_to(windows: Windows, begin: NDArray[np.float64], uid: bytes) -> Windows:
    """The connections as they are, each beginning at `begin` [n], under names of their own that start with `uid`."""
    c = windows.connections
    later = begin - c.ts
    owner = np.repeat(np.arange(len(windows)), np.diff(windows.packet_start))
    names = np.array([b"%s%d" % (uid, i) for i in range(len(windows))], dtype=c.uid.dtype)
    moved = replace(
        windows,
        packets=replace(windows.packets, ts=windows.packets.ts + later[owner]),
        logs=[entry._replace(ts=entry.ts + later[i]) for i, entry in _owned(windows)],
    )
    return _with(moved, ts=begin, end=c.end + later, uid=names)


def _owned(windows: Windows) -> list[tuple[int, Any]]:
    owner = np.repeat(np.arange(len(windows)), np.diff(windows.log_start))
    return list(zip(owner.tolist(), windows.logs, strict=True))


def is_extra(c: Connections) -> NDArray[np.bool_]:
    """[n] what was mixed in."""
    return np.char.startswith(c.uid, EXTRA)
