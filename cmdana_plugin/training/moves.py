"""The moves an attacker has, made of a site's own connections: each kind of rehearsal is one function.

Every value of a rehearsed connection is one of the site's own, scaled where the kind is about volume or padding, or
that of an attempt that nobody answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.behaviour import Flows, concat_flows, take_flows
from feature_extractors import CONN_STATES

MOST_ROWS: Final = 400  # connections of one rehearsal
_MOST_LAG: Final = 600.0  # seconds between a connection's last packet and its row
_ATTEMPT_TIMEOUT: Final = (
    5.0  # seconds after which an attempt without an answer is over (Zeek's tcp_attempt_delay)
)
_TCP: Final = 6
_UDP: Final = 17
_UNANSWERED: Final = tuple(CONN_STATES.index(s) for s in ("S0", "REJ", "RSTOS0", "RSTRH", "SH"))
_S0, _REJ, _RSTO = (CONN_STATES.index(s) for s in ("S0", "REJ", "RSTO"))
_ADMIN_PORTS: Final = (22, 23, 135, 139, 389, 445, 3389, 5900, 5985, 5986)
_PORTS: Final = (
    21,
    22,
    23,
    25,
    53,
    80,
    88,
    110,
    135,
    139,
    143,
    389,
    443,
    445,
    993,
    1433,
    3306,
    3389,
    5432,
    5900,
    8080,
)
_DNS_PORT: Final = 53
_AT_A_USER: Final = 0.6  # share of rehearsals at hosts that make such connections anyway

Rng = np.random.Generator
Rows = NDArray[np.int64]
_NO_ROWS: Final[Rows] = np.zeros(0, np.int64)
Make = Callable[
    ["Site", Rng, float], "Flows | None"
]  # of a site, the harder the nearer to 1; None: it has nothing for it


_TRIES: Final = 30  # at two hosts of whom one asks what the other does not


class Site:
    """What a site has to rehearse with, each found when it is asked for first."""

    def __init__(self, normal: Flows, begin: float) -> None:
        self.flows = normal
        self.begin = max(begin, float(normal.ts.min()) if len(normal) else begin)
        self.end = float(normal.end.max()) if len(normal) else self.begin
        self.span = max(self.end - self.begin, 1.0)

    @cached_property
    def hosts(self) -> NDArray[np.uint64]:
        """Originators that are the site's own; any where none is."""
        f = self.flows
        own = np.unique(f.orig[f.orig_local])
        return own if len(own) else np.unique(f.orig)

    @cached_property
    def neighbours(self) -> NDArray[np.uint64]:
        """Hosts of the site that are there to be asked."""
        f = self.flows
        own = np.unique(np.concatenate([f.resp[f.resp_local], f.orig[f.orig_local]]))
        return own if len(own) else np.unique(f.resp)

    @cached_property
    def services(self) -> list[Rows]:
        """Rows of each service that was used five times or more."""
        f = self.flows
        known = f.service > 1
        key = np.where(known, f.service.astype(np.int64), 1000 + f.port.astype(np.int64)) * 256 + f.proto
        _, at, n = np.unique(key, return_inverse=True, return_counts=True)
        order = np.argsort(at, kind="stable")
        return [rows for rows in np.split(order, np.cumsum(n)[:-1]) if len(rows) >= 5]

    @cached_property
    def tcp_services(self) -> list[Rows]:
        return [rows for rows in self.services if self.flows.proto[rows[0]] == _TCP] or self.services

    @cached_property
    def answered(self) -> NDArray[np.bool_]:
        return (self.flows.resp_pkts > 0) & ~np.isin(self.flows.state, _UNANSWERED)

    @cached_property
    def telling(self) -> list[Rows]:
        """Services whose logs tell of outcomes."""
        return [rows for rows in self.services if (self.flows.told_by[rows] > 0).any()]

    @cached_property
    def unanswered(self) -> Rows:
        f = self.flows
        return np.flatnonzero(np.isin(f.state, _UNANSWERED) & (f.proto == _TCP))

    @cached_property
    def outward(self) -> Rows:
        """Connections that left the site and were answered; any answered ones where none left."""
        f = self.flows
        out = np.flatnonzero(f.orig_local & ~f.resp_local & self.answered & (f.proto == _TCP))
        return out if len(out) >= 5 else np.flatnonzero(self.answered)

    @cached_property
    def lookups(self) -> Rows:
        f = self.flows
        return np.flatnonzero((f.port == _DNS_PORT) & (f.domain != 0))

    @cached_property
    def administration(self) -> Rows:
        f = self.flows
        return np.flatnonzero(
            np.isin(f.port, _ADMIN_PORTS) & (f.proto == _TCP) & f.resp_local & self.answered
        )

    @cached_property
    def servers(self) -> NDArray[np.uint64]:
        """[n] whom each connection asked, host and port."""
        return self.flows.resp + self.flows.port.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)

    def host(self, rng: Rng, users: Rows = _NO_ROWS) -> np.uint64:
        """Whose machine it is: as often as not one that makes such connections (`users`) anyway."""
        if len(users) and rng.random() < _AT_A_USER:
            own = users[np.isin(self.flows.orig[users], self.hosts)]
            if len(own):
                return np.uint64(self.flows.orig[rng.choice(own)])
        return np.uint64(rng.choice(self.hosts))

    def start(self, rng: Rng, share: float = 0.85) -> float:
        return self.begin + float(rng.uniform(0.0, share)) * self.span

    def any_server(self, rng: Rng, rows: Rows) -> Rows:
        """Those of a service's rows that have one of its servers."""
        return self.server(rows, rng.choice(rows))

    def server(self, rows: Rows, at: int) -> Rows:
        """Those of the rows that have the same server as one."""
        f = self.flows
        own: Rows = rows[(f.resp[rows] == f.resp[at]) & (f.port[rows] == f.port[at])]
        return own


def _made(
    site: Site,
    templates: Rows,
    ts: NDArray[np.float64],
    *,
    lag: NDArray[np.float64] | None = None,
    **columns: Any,
) -> Flows:
    """Copies of the site's connections at other times, with other columns."""
    flows = take_flows(site.flows, templates)
    n = len(templates)
    whole = {
        k: np.broadcast_to(np.asarray(v), (n,)).astype(getattr(flows, k).dtype) for k, v in columns.items()
    }
    # A row is made when the connection is over for whoever watches: as much later than its last packet as the template.
    lag = np.clip(flows.end - flows.ts - flows.duration, 0.0, _MOST_LAG) if lag is None else lag
    return replace(flows, **whole, ts=ts, end=ts + whole.get("duration", flows.duration) + lag)


def _joined(parts: Sequence[Flows]) -> Flows:
    flows = concat_flows(parts)
    return take_flows(flows, np.argsort(flows.ts, kind="stable"))


def _pace(rng: Rng, hard: float, fast: float, slow: float) -> float:
    """Seconds between two steps: from fast to slow, the slower the harder; log-uniform."""
    most = np.log(fast) + (0.3 + 0.7 * hard) * (np.log(slow) - np.log(fast))
    return float(np.exp(rng.uniform(np.log(fast), most)))


def _times(rng: Rng, start: float, pace: float, n: int, jitter: float | None = None) -> NDArray[np.float64]:
    """Starts of `n` connections: evenly with so much jitter (0..1), or without one at random (Poisson)."""
    gaps = pace * (rng.exponential(1.0, n) if jitter is None else rng.uniform(1.0 - jitter, 1.0 + jitter, n))
    ts: NDArray[np.float64] = start + np.cumsum(gaps) - gaps[0]
    return ts


def _number(rng: Rng, hard: float, least: int, most: int) -> int:
    """How many: log-uniform, the fewer the harder."""
    top = most * (least / most) ** (0.7 * hard)
    return max(int(np.exp(rng.uniform(np.log(least), np.log(top)))), least)


def _any_jitter(rng: Rng, hard: float) -> float | None:
    return None if rng.random() < 0.3 else float(rng.uniform(0.0, 0.1 + 0.8 * hard))


def _address(rng: Rng) -> np.uint64:
    """Of a host, or a domain, that nobody here has heard of."""
    return np.uint64(rng.integers(1, 1 << 63))


def _noise(rng: Rng, values: NDArray[np.float64], spread: float) -> NDArray[np.float64]:
    """The values, each a little more or less: padding."""
    return np.round(values * np.exp(rng.normal(0.0, spread, len(values)))) if spread > 0.0 else values


def _silent(site: Site, rng: Rng, n: int, open_: NDArray[np.bool_] | None = None) -> dict[str, Any]:
    """Columns of `n` attempts at TCP that no program answered: as the site's own that failed, or closed or dropped.

    At a port that is `open_` the originator breaks off.
    """
    f = site.flows
    if len(site.unanswered) >= 5 and rng.random() < 0.5:
        own = rng.choice(site.unanswered, n)
        names = ("state", "duration", "orig_bytes", "resp_bytes", "orig_pkts", "resp_pkts")
        columns = {name: getattr(f, name)[own].copy() for name in names}
        columns["lag"] = np.clip((f.end - f.ts - f.duration)[own], 0.0, _MOST_LAG)
    else:
        closed = rng.random(n) < rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        tries = rng.choice([1.0, 1.0, 2.0, 3.0])
        columns = {
            "state": np.where(closed, _REJ, _S0),
            "duration": np.where(
                closed, rng.uniform(1e-4, 2e-3, n), 0.0 if tries == 1.0 else 2.0**tries - 1.0
            ),
            "orig_bytes": np.zeros(n),
            "resp_bytes": np.zeros(n),
            "orig_pkts": np.where(closed, 1.0, tries),
            "resp_pkts": np.where(closed, 1.0, 0.0),
            "lag": np.where(closed, 0.0, _ATTEMPT_TIMEOUT),
        }
    if open_ is not None and open_.any():
        columns["state"] = np.where(open_, _RSTO, columns["state"])
        columns["duration"] = np.where(open_, rng.uniform(1e-4, 5e-3, n), columns["duration"])
        columns["orig_bytes"] = np.where(open_, 0.0, columns["orig_bytes"])
        columns["resp_bytes"] = np.where(open_, 0.0, columns["resp_bytes"])
        columns["orig_pkts"] = np.where(open_, rng.choice([2.0, 3.0]), columns["orig_pkts"])
        columns["resp_pkts"] = np.where(open_, 1.0, columns["resp_pkts"])
        columns["lag"] = np.where(open_, 0.0, columns["lag"])
    return columns | {"service": 0, "accepted": 0, "refused": 0, "told_by": 0, "domain": 0, "bits": 0.0}


def _refusals(site: Site, rng: Rng, rows: Rows, n: int) -> tuple[Rows, dict[str, Any]]:
    """Templates of a service and their columns: its own refusals, or its acceptances turned."""
    f = site.flows
    own = rows[f.refused[rows] > 0]
    if len(own) and rng.random() < 0.6:
        at = rng.choice(own, n) if rng.random() < 0.5 else np.full(n, rng.choice(own))
        return at, {"accepted": 0}
    told = rows[f.told_by[rows] > 0]
    pool = told if len(told) else rows
    one = rng.random() < 0.6
    at = np.full(n, rng.choice(pool)) if one else rng.choice(pool, n)
    each = int(rng.integers(1, 7)) if rng.random() < 0.3 else 1
    # Where no log tells there is nothing to turn, only to repeat.
    return at, {"accepted": 0, "refused": np.where(f.told_by[at] > 0, each, 0)}


def _sizes(site: Site, rng: Rng, at: Rows, spread: float) -> dict[str, Any]:
    f = site.flows
    return {
        "orig_bytes": _noise(rng, f.orig_bytes[at], spread),
        "resp_bytes": _noise(rng, f.resp_bytes[at], spread),
        "duration": f.duration[at] * np.exp(rng.normal(0.0, 0.1 + spread, len(at))),
    }


def _guess(site: Site, rng: Rng, hard: float) -> Flows | None:
    """One host asks one server again and again, mostly in vain."""
    pools = site.telling if site.telling and rng.random() < 0.7 else site.tcp_services
    if not pools:
        return None
    rows = site.any_server(rng, pools[rng.integers(len(pools))])
    n = _number(rng, hard, 8, 400)
    at, columns = _refusals(site, rng, rows, n)
    ts = _times(rng, site.start(rng), _pace(rng, hard, 0.02, 120.0), n, _any_jitter(rng, hard))
    columns |= _sizes(site, rng, at, float(rng.choice([0.0, 0.03, 0.2])))
    made = _made(site, at, ts, orig=site.host(rng, rows), orig_local=True, **columns)
    if rng.random() < 0.3:  # the last one was right
        last = take_flows(site.flows, np.array([rng.choice(rows)]))
        t = ts[-1:] + 1.0
        made = concat_flows([made, replace(last, ts=t, end=t + last.duration, orig=made.orig[:1])])
    return made


def _spray(site: Site, rng: Rng, hard: float) -> Flows | None:
    """Several hosts, or several servers, a few refusals each."""
    pools = site.telling or site.tcp_services
    if not pools:
        return None
    rows = pools[rng.integers(len(pools))]
    n = _number(rng, hard, 12, 200)
    hosts = rng.choice(site.hosts, min(len(site.hosts), int(rng.integers(1, 6))), replace=False)
    at, columns = _refusals(site, rng, rows if rng.random() < 0.5 else site.any_server(rng, rows), n)
    servers = rng.choice(rows, n)
    ts = _times(rng, site.start(rng), _pace(rng, hard, 0.1, 200.0), n)
    f = site.flows
    columns |= {"resp": f.resp[servers], "port": f.port[servers], "resp_local": f.resp_local[servers]}
    return _made(site, at, ts, orig=hosts[rng.integers(0, len(hosts), n)], orig_local=True, **columns)


def _lookup(site: Site, rng: Rng, host: np.uint64, domain: np.uint64, ts: NDArray[np.float64]) -> Flows:
    at = rng.choice(site.lookups, len(ts))
    return _made(site, at, ts, orig=host, orig_local=True, domain=domain)


def _away(site: Site, rng: Rng, at: Rows) -> dict[str, Any]:
    """Where it goes: a new host or one that many use, with a name that is new, or none, or where the template went."""
    f = site.flows
    name = np.where(f.domain[at] > 0, _address(rng), 0)
    kind = rng.random()
    if kind < 0.35:
        return {"resp": _address(rng), "resp_local": False, "domain": name}
    if kind < 0.5:
        return {"resp": _address(rng), "resp_local": False, "domain": 0}
    if kind < 0.85:
        return {"domain": name}
    return {}


def _beacon(site: Site, rng: Rng, hard: float) -> Flows | None:
    """One host calls home, from every ten seconds to every hour, more or less evenly."""
    pool = site.outward
    if not len(pool):
        return None
    one = rng.choice(pool)
    host = site.host(rng, site.server(pool, one) if rng.random() < 0.5 else pool)
    sleep = float(np.exp(rng.uniform(np.log(10.0), np.log(600.0 * 6.0 ** (2.0 * hard - 1.0)))))
    start = site.start(rng, 0.6)
    n = int(np.clip((site.end - start) / sleep * rng.uniform(0.3, 1.0), 6, MOST_ROWS))
    jitter = float(rng.uniform(0.0, 0.1 + 0.7 * hard))
    ts = _times(rng, start, sleep, n, jitter)
    at = np.full(n, one)
    spread = float(rng.choice([0.0, 0.02, 0.1, 0.1 + 0.5 * hard]))
    columns = _sizes(site, rng, at, spread) | _away(site, rng, at)
    f = site.flows
    if rng.random() < 0.4:  # mostly it has nothing to do
        busy = rng.random(n) < 0.1
        columns["resp_bytes"] = np.where(
            busy, columns["resp_bytes"] * rng.uniform(2.0, 50.0), columns["resp_bytes"]
        )
    columns["duration"] = np.minimum(columns["duration"], sleep * 0.9)
    made = _made(site, at, ts, orig=host, orig_local=True, **columns)
    if len(site.lookups) and (f.domain[at[0]] > 0 or rng.random() < 0.2):
        each = rng.random(n) < rng.choice([0.05, 0.3, 1.0])
        domain = made.domain[0] or _address(rng)
        made = _joined([made, _lookup(site, rng, host, np.uint64(domain), ts[each] - 0.05)])
    return made


def _console(site: Site, rng: Rng, hard: float) -> Flows | None:
    """Somebody works through one server: bursts with pauses between."""
    inside = rng.random() < 0.5
    rows = site.outward if not inside else site.tcp_services[rng.integers(len(site.tcp_services))]
    rows = rows[site.answered[rows]]
    if not len(rows):
        return None
    n = _number(rng, hard, 15, 200)
    gaps = np.exp(rng.normal(np.log(_pace(rng, hard, 0.5, 30.0)), 1.2, n))
    gaps[rng.random(n) < 0.08] *= 40.0
    ts = site.start(rng, 0.7) + np.cumsum(gaps)
    own = site.any_server(rng, rows)
    at = rng.choice(own, n)
    columns = _sizes(site, rng, at, 0.4)
    if not inside:
        columns |= _away(site, rng, at)
    return _made(site, at, ts, orig=site.host(rng, own if inside else rows), orig_local=True, **columns)


def _targets(site: Site, rng: Rng, n: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_], bool]:
    """Hosts to be asked [n], whether anyone is there, and whether they are the site's."""
    outside = rng.random() < 0.15
    there = (rng.random(n) < rng.uniform(0.05, 0.9)) if not outside else np.zeros(n, np.bool_)
    made_up = np.array([_address(rng) for _ in range(n)], np.uint64)
    known = rng.permutation(site.neighbours)
    known = np.resize(known, n)
    return np.where(there, known, made_up), there, not outside


def _sweep(site: Site, rng: Rng, hard: float) -> Flows | None:
    """One port of many hosts, fast or one every few minutes."""
    n = _number(rng, hard, 15, MOST_ROWS)
    pace = _pace(rng, hard, 0.002, 1.0) if rng.random() < 0.5 else _pace(rng, hard, 2.0, 400.0)
    ts = _times(rng, site.start(rng, 0.7), pace, n, _any_jitter(rng, hard))
    resp, there, local = _targets(site, rng, n)
    udp = rng.random() < 0.15
    ports = np.array(rng.choice(_PORTS, rng.choice([1, 1, 2, 4]), replace=False))
    port = ports[rng.integers(0, len(ports), n)]
    columns = _silent(site, rng, n, there & (rng.random(n) < rng.uniform(0.0, 0.6)))
    if udp:
        columns |= {"state": _S0, "resp_pkts": 0.0, "duration": 0.0, "orig_pkts": 1.0}
    at = rng.integers(0, len(site.flows), n)
    made = _made(
        site, at, ts, orig=site.host(rng), orig_local=True, resp=resp, resp_local=local, port=port,
        proto=_UDP if udp else _TCP, **columns,
    )  # fmt: skip
    # At those that have the service the scanner may look at what answers.
    rows = site.tcp_services[rng.integers(len(site.tcp_services))] if site.tcp_services else _NO_ROWS
    rows = rows[site.answered[rows]]
    if len(rows) and rng.random() < 0.3:
        k = min(len(rows), int(rng.integers(1, 8)))
        more = rng.choice(rows, k, replace=False)
        made = _joined([made, _made(site, more, rng.choice(ts, k) + 0.1, orig=made.orig[0], orig_local=True)])
    return made


def _ports(site: Site, rng: Rng, hard: float) -> Flows | None:
    """Many ports of one host or a few."""
    n = _number(rng, hard, 15, MOST_ROWS)
    pace = _pace(rng, hard, 0.0005, 0.5) if rng.random() < 0.6 else _pace(rng, hard, 1.0, 300.0)
    ts = _times(rng, site.start(rng, 0.7), pace, n, _any_jitter(rng, hard))
    victims = rng.choice(
        site.neighbours, min(len(site.neighbours), int(rng.choice([1, 1, 2, 4]))), replace=False
    )
    most = int(rng.choice([1024, 10_000, 65_535]))
    port = (
        rng.permutation(most)[: min(n, most)] + 1
        if rng.random() < 0.7
        else np.resize(rng.permutation(_PORTS), n)
    )
    port = np.resize(port, n)
    used = np.unique(site.flows.port[np.isin(site.flows.resp, victims)])
    columns = _silent(site, rng, n, np.isin(port, used))
    udp = rng.random() < 0.15
    if udp:
        columns |= {"state": _S0, "resp_pkts": 0.0, "duration": 0.0, "orig_pkts": 1.0}
    at = rng.integers(0, len(site.flows), n)
    return _made(
        site, at, ts, orig=site.host(rng), orig_local=True, resp=victims[rng.integers(0, len(victims), n)],
        resp_local=True, port=port, proto=_UDP if udp else _TCP, **columns,
    )  # fmt: skip


def _lateral(site: Site, rng: Rng, hard: float) -> Flows | None:
    """A host that is no administrator's goes from server to server with administrators' services."""
    rows = site.administration
    if len(rows) < 3:
        f = site.flows
        rows = np.flatnonzero(site.answered & f.resp_local & (f.proto == _TCP))
    if not len(rows):
        return None
    f = site.flows
    users, uses = np.unique(f.orig[rows], return_counts=True)
    idle = np.setdiff1d(site.hosts, users[uses >= 3])
    host = np.uint64(rng.choice(idle if len(idle) else site.hosts))
    hops = int(rng.integers(3, 13))
    victims = rng.choice(site.neighbours, min(hops, len(site.neighbours)), replace=False)
    each = rng.integers(1, 5, len(victims))
    to = np.repeat(victims, each)
    n = len(to)
    service = rows[f.port[rows] == f.port[rng.choice(rows)]] if rng.random() < 0.7 else rows
    at = rng.choice(service, n)
    ts = _times(rng, site.start(rng, 0.6), _pace(rng, hard, 1.0, 1500.0), n)
    columns = _sizes(site, rng, at, 0.1)
    if rng.random() < 0.4:  # some are shut
        shut = rng.random(n) < rng.uniform(0.1, 0.6)
        silent = _silent(site, rng, n)
        lag = np.clip((f.end - f.ts - f.duration)[at], 0.0, _MOST_LAG)
        for name, value in silent.items():
            before = lag if name == "lag" else columns.get(name, getattr(f, name)[at])
            columns[name] = np.where(shut, value, before)
    return _made(site, at, ts, orig=host, orig_local=True, resp=to, resp_local=True, **columns)


def _scaled(site: Site, rng: Rng, at: Rows, up: float, spread: float) -> dict[str, Any]:
    """More from the originator: bytes, packets, time."""
    f = site.flows
    more = up * np.exp(rng.normal(0.0, spread, len(at)))
    sent = np.maximum(f.orig_bytes[at], 200.0) * more
    return {
        "orig_bytes": np.round(sent),
        "orig_pkts": np.maximum(f.orig_pkts[at], np.round(sent / 1400.0)),
        "resp_pkts": np.maximum(f.resp_pkts[at], np.round(sent / 2800.0)),
        "duration": np.maximum(f.duration[at], 1e-3) * rng.uniform(1.0, 20.0),
    }


def _bulk(site: Site, rng: Rng, hard: float) -> Flows | None:
    """A host sends out far more than it does, in a few connections."""
    if not len(site.outward):
        return None
    n = int(rng.integers(1, 6))
    at = np.full(n, rng.choice(site.outward))
    up = float(np.exp(rng.uniform(np.log(20.0), np.log(3000.0 ** (1.0 - 0.4 * hard)))))
    ts = _times(rng, site.start(rng), _pace(rng, hard, 1.0, 300.0), n)
    columns = _scaled(site, rng, at, up, 0.3) | _away(site, rng, at)
    return _made(site, at, ts, orig=site.host(rng, site.outward), orig_local=True, **columns)


def _leak(site: Site, rng: Rng, hard: float) -> Flows | None:
    """The same, little by little over hours."""
    if not len(site.outward):
        return None
    n = _number(rng, hard, 8, 80)
    at = np.full(n, rng.choice(site.outward))
    up = float(np.exp(rng.uniform(np.log(4.0), np.log(200.0 ** (1.0 - 0.4 * hard)))))
    pace = _pace(rng, hard, 20.0, 1200.0)
    ts = _times(rng, site.start(rng, 0.6), pace, n, _any_jitter(rng, hard))
    columns = _scaled(site, rng, at, up, 0.2) | _away(site, rng, at)
    columns["duration"] = np.minimum(columns["duration"], pace)
    return _made(site, at, ts, orig=site.host(rng, site.outward), orig_local=True, **columns)


def _flood(site: Site, rng: Rng, hard: float) -> Flows | None:
    """One service is asked by more, or held longer, than it can bear."""
    rows = site.any_server(rng, site.tcp_services[rng.integers(len(site.tcp_services))])
    n = _number(rng, hard, 40, MOST_ROWS)
    ts = _times(rng, site.start(rng), _pace(rng, hard, 0.0005, 0.5), n)
    f = site.flows
    at = np.full(n, rng.choice(rows))
    way = rng.random()
    if way < 0.4:
        columns = _silent(site, rng, n)
    elif way < 0.7:  # whole requests
        columns = _sizes(site, rng, at, 0.05)
    else:  # held open with next to nothing
        held = rng.uniform(5.0, 300.0)
        columns = {
            "duration": held * rng.uniform(0.5, 1.5, n),
            "orig_bytes": np.minimum(f.orig_bytes[at], rng.uniform(10.0, 400.0)),
            "resp_bytes": 0.0,
            "accepted": 0,
            "refused": 0,
        }
    spoofed = rng.random() < 0.3
    orig: Any = np.array([_address(rng) for _ in range(n)], np.uint64) if spoofed else site.host(rng, rows)
    return _made(site, at, ts, orig=orig, orig_local=not spoofed or rng.random() < 0.5, **columns)


def _tunnel(site: Site, rng: Rng, hard: float) -> Flows | None:
    """One domain is asked for ever new names that carry what should not leave."""
    if len(site.lookups) < 5:
        return None
    n = _number(rng, hard, 20, MOST_ROWS)
    at = rng.choice(site.lookups, n)
    ts = _times(rng, site.start(rng, 0.7), _pace(rng, hard, 0.02, 60.0), n)
    bits = rng.uniform(40.0, 250.0 - 150.0 * hard) * rng.uniform(0.7, 1.2, n)
    f = site.flows
    return _made(
        site, at, ts, orig=site.host(rng, site.lookups), orig_local=True, domain=_address(rng), bits=bits,
        orig_bytes=f.orig_bytes[at] + np.round(bits / 4.0),
        resp_bytes=f.resp_bytes[at] + np.round(rng.uniform(0.0, 200.0) * rng.random(n)),
    )  # fmt: skip


def _dga(site: Site, rng: Rng, hard: float) -> Flows | None:
    """One host looks for domains that do not exist."""
    if len(site.lookups) < 5:
        return None
    f = site.flows
    n = _number(rng, hard, 12, 300)
    own = site.lookups[f.refused[site.lookups] > 0]
    told = site.lookups[f.told_by[site.lookups] > 0]
    at = rng.choice(own if len(own) and rng.random() < 0.5 else told if len(told) else site.lookups, n)
    ts = _times(rng, site.start(rng, 0.7), _pace(rng, hard, 0.02, 120.0), n)
    found = rng.random(n) < rng.uniform(0.0, 0.1)
    told_of = f.told_by[at] > 0
    domains = np.array([_address(rng) for _ in range(n)], np.uint64)
    return _made(
        site, at, ts, orig=site.host(rng, site.lookups), orig_local=True, domain=domains, bits=0.0,
        accepted=told_of & found, refused=told_of & ~found,
    )  # fmt: skip


def _twin(site: Site, rng: Rng, hard: float) -> Flows | None:
    """What one host does at servers that another never asks, done by that other."""
    f = site.flows
    for _ in range(_TRIES):
        a, b = site.host(rng), site.host(rng)
        if a == b:
            continue
        rows = np.flatnonzero((f.orig == a) & f.resp_local)
        rows = rows[~np.isin(site.servers[rows], site.servers[f.orig == b])]
        if len(rows) < 8:
            continue
        first = int(rng.integers(0, len(rows) - 7))
        width = float(np.exp(rng.uniform(np.log(30.0), np.log(6 * 3600.0))))
        rows = rows[first:]
        rows = rows[f.ts[rows] <= f.ts[rows[0]] + width][: _number(rng, hard, 8, 300)]
        if len(rows) < 8:
            continue
        ts = f.ts[rows] - f.ts[rows].min() + site.start(rng, 0.7)
        return _made(site, rows, ts, orig=b, orig_local=True)
    return None


MAKERS: Final[Mapping[str, Make]] = {
    "guess": _guess,
    "spray": _spray,
    "beacon": _beacon,
    "console": _console,
    "sweep": _sweep,
    "ports": _ports,
    "lateral": _lateral,
    "bulk": _bulk,
    "leak": _leak,
    "flood": _flood,
    "tunnel": _tunnel,
    "dga": _dga,
    "twin": _twin,
}
