"""The moves an attacker has, made of a site's own connections: each kind of rehearsal is one function.

Every value of a rehearsed connection is one of the site's own, scaled where the kind is about volume or padding, or
that of an attempt that nobody answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.behaviour import Flows, concat_flows, take_flows
from cmdana_plugin.training.rehearsals.templates import (
    MOST_LAG,
    RSTO,
    S0,
    SF,
    TCP,
    UDP,
    Rng,
    Rows,
    Site,
    jitter_of,
    joined,
    made_of,
    new_address,
    number_of,
    pace_of,
    refusals,
    silent,
    sizes_of,
    times_of,
)

MOST_ROWS: Final = 400  # connections of one rehearsal
_PORTS: Final = (
    21, 22, 23, 25, 53, 80, 88, 110, 135, 139, 143, 389, 443, 445, 993, 1433, 3306, 3389, 5432, 5900, 8080
)  # fmt: skip
_TRIES: Final = 30  # at two hosts of whom one asks what the other does not

# Of a site, the harder the nearer to 1; None where it has nothing for it.
Make = Callable[[Site, Rng, float], Flows | None]


def _guess(site: Site, rng: Rng, hard: float) -> Flows | None:
    """One host asks one server again and again, mostly in vain."""
    pools = site.telling if site.telling and rng.random() < 0.7 else site.tcp_services
    if not pools:
        return None
    rows = site.any_server(rng, pools[rng.integers(len(pools))])
    n = number_of(rng, hard, 8, 400)
    at, columns = refusals(site, rng, rows, n)
    ts = times_of(rng, site.start(rng), pace_of(rng, hard, 0.02, 120.0), n, jitter_of(rng, hard))
    columns |= sizes_of(site, rng, at, float(rng.choice([0.0, 0.03, 0.2])))
    made = made_of(site, at, ts, orig=site.host(rng, rows), orig_local=True, **columns)
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
    n = number_of(rng, hard, 12, 200)
    hosts = rng.choice(site.hosts, min(len(site.hosts), int(rng.integers(1, 6))), replace=False)
    at, columns = refusals(site, rng, rows if rng.random() < 0.5 else site.any_server(rng, rows), n)
    servers = rng.choice(rows, n)
    ts = times_of(rng, site.start(rng), pace_of(rng, hard, 0.1, 200.0), n)
    f = site.flows
    columns |= {"resp": f.resp[servers], "port": f.port[servers], "resp_local": f.resp_local[servers]}
    return made_of(site, at, ts, orig=hosts[rng.integers(0, len(hosts), n)], orig_local=True, **columns)


def _lookup(site: Site, rng: Rng, host: np.uint64, domain: np.uint64, ts: NDArray[np.float64]) -> Flows:
    at = rng.choice(site.lookups, len(ts))
    return made_of(site, at, ts, orig=host, orig_local=True, domain=domain)


def _away(site: Site, rng: Rng, at: Rows) -> dict[str, Any]:
    """Where it goes: a new host or one that many use, with a name that is new, or none, or where the template went."""
    f = site.flows
    name = np.where(f.domain[at] > 0, new_address(rng), 0)
    kind = rng.random()
    if kind < 0.35:
        return {"resp": new_address(rng), "resp_local": False, "domain": name}
    if kind < 0.5:
        return {"resp": new_address(rng), "resp_local": False, "domain": 0}
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
    ts = times_of(rng, start, sleep, n, jitter)
    at = np.full(n, one)
    spread = float(rng.choice([0.0, 0.02, 0.1, 0.1 + 0.5 * hard]))
    columns = sizes_of(site, rng, at, spread) | _away(site, rng, at)
    f = site.flows
    if rng.random() < 0.4:  # mostly it has nothing to do
        busy = rng.random(n) < 0.1
        columns["resp_bytes"] = np.where(
            busy, columns["resp_bytes"] * rng.uniform(2.0, 50.0), columns["resp_bytes"]
        )
    columns["duration"] = np.minimum(columns["duration"], sleep * 0.9)
    made = made_of(site, at, ts, orig=host, orig_local=True, **columns)
    if len(site.lookups) and (f.domain[at[0]] > 0 or rng.random() < 0.2):
        each = rng.random(n) < rng.choice([0.05, 0.3, 1.0])
        domain = made.domain[0] or new_address(rng)
        made = joined([made, _lookup(site, rng, host, np.uint64(domain), ts[each] - 0.05)])
    return made


def _console(site: Site, rng: Rng, hard: float) -> Flows | None:
    """Somebody works through one server: bursts with pauses between."""
    inside = rng.random() < 0.5
    rows = site.any_service(rng, site.tcp_services) if inside else site.outward
    rows = rows[site.answered[rows]]
    if not len(rows):
        return None
    n = number_of(rng, hard, 15, 200)
    gaps = np.exp(rng.normal(np.log(pace_of(rng, hard, 0.5, 30.0)), 1.2, n))
    gaps[rng.random(n) < 0.08] *= 40.0
    ts = site.start(rng, 0.7) + np.cumsum(gaps)
    own = site.any_server(rng, rows)
    at = rng.choice(own, n)
    columns = sizes_of(site, rng, at, 0.4)
    if not inside:
        columns |= _away(site, rng, at)
    return made_of(site, at, ts, orig=site.host(rng, own if inside else rows), orig_local=True, **columns)


def _targets(site: Site, rng: Rng, n: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_], bool]:
    """Hosts to be asked [n], whether anyone is there, and whether they are the site's."""
    outside = rng.random() < 0.15
    there = (rng.random(n) < rng.uniform(0.05, 0.9)) if not outside else np.zeros(n, np.bool_)
    made_up = np.array([new_address(rng) for _ in range(n)], np.uint64)
    known = rng.permutation(site.neighbours)
    known = np.resize(known, n)
    return np.where(there, known, made_up), there, not outside


def _sweep(site: Site, rng: Rng, hard: float) -> Flows | None:
    """One port of many hosts, fast or one every few minutes."""
    n = number_of(rng, hard, 15, MOST_ROWS)
    pace = pace_of(rng, hard, 0.002, 1.0) if rng.random() < 0.5 else pace_of(rng, hard, 2.0, 400.0)
    ts = times_of(rng, site.start(rng, 0.7), pace, n, jitter_of(rng, hard))
    resp, there, local = _targets(site, rng, n)
    udp = rng.random() < 0.15
    ports = np.array(rng.choice(_PORTS, rng.choice([1, 1, 2, 4]), replace=False))
    port = ports[rng.integers(0, len(ports), n)]
    columns = silent(site, rng, n, there & (rng.random(n) < rng.uniform(0.0, 0.6)))
    if udp:
        columns |= {"state": S0, "resp_pkts": 0.0, "duration": 0.0, "orig_pkts": 1.0}
    at = rng.integers(0, len(site.flows), n)
    made = made_of(
        site, at, ts, orig=site.host(rng), orig_local=True, resp=resp, resp_local=local, port=port,
        proto=UDP if udp else TCP, **columns,
    )  # fmt: skip
    # At those that have the service the scanner may look at what answers.
    rows = site.any_service(rng, site.tcp_services)
    rows = rows[site.answered[rows]]
    if len(rows) and rng.random() < 0.3:
        k = min(len(rows), int(rng.integers(1, 8)))
        more = rng.choice(rows, k, replace=False)
        made = joined(
            [made, made_of(site, more, rng.choice(ts, k) + 0.1, orig=made.orig[0], orig_local=True)]
        )
    return made


def _ports(site: Site, rng: Rng, hard: float) -> Flows | None:
    """Many ports of one host or a few."""
    n = number_of(rng, hard, 15, MOST_ROWS)
    pace = pace_of(rng, hard, 0.0005, 0.5) if rng.random() < 0.6 else pace_of(rng, hard, 1.0, 300.0)
    ts = times_of(rng, site.start(rng, 0.7), pace, n, jitter_of(rng, hard))
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
    columns = silent(site, rng, n, np.isin(port, used))
    udp = rng.random() < 0.15
    if udp:
        columns |= {"state": S0, "resp_pkts": 0.0, "duration": 0.0, "orig_pkts": 1.0}
    at = rng.integers(0, len(site.flows), n)
    return made_of(
        site, at, ts, orig=site.host(rng), orig_local=True, resp=victims[rng.integers(0, len(victims), n)],
        resp_local=True, port=port, proto=UDP if udp else TCP, **columns,
    )  # fmt: skip


def _lateral(site: Site, rng: Rng, hard: float) -> Flows | None:
    """A host that is no administrator's goes from server to server with administrators' services."""
    rows = site.administration
    if len(rows) < 3:
        f = site.flows
        rows = np.flatnonzero(site.answered & f.resp_local & (f.proto == TCP))
    if not len(rows):
        return None
    f = site.flows
    users, uses = np.unique(f.orig[rows], return_counts=True)
    idle = np.setdiff1d(site.hosts, users[uses >= 3])
    host = np.uint64(rng.choice(idle if len(idle) else site.hosts))
    hops = int(rng.integers(1, 13))
    victims = rng.choice(site.neighbours, min(hops, len(site.neighbours)), replace=False)
    each = rng.integers(1, 5, len(victims)) if hops > 2 else rng.integers(4, 16, len(victims))
    to = np.repeat(victims, each)
    n = len(to)
    service = rows[f.port[rows] == f.port[rng.choice(rows)]] if rng.random() < 0.7 else rows
    at = rng.choice(service, n)
    ts = times_of(rng, site.start(rng, 0.6), pace_of(rng, hard, 1.0, 1500.0), n)
    columns = sizes_of(site, rng, at, 0.1)
    if rng.random() < 0.4:  # some are shut
        shut = rng.random(n) < rng.uniform(0.1, 0.6)
        nobody = silent(site, rng, n)
        lag = np.clip((f.end - f.ts - f.duration)[at], 0.0, MOST_LAG)
        for name, value in nobody.items():
            before = lag if name == "lag" else columns.get(name, getattr(f, name)[at])
            columns[name] = np.where(shut, value, before)
    return made_of(site, at, ts, orig=host, orig_local=True, resp=to, resp_local=True, **columns)


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
    ts = times_of(rng, site.start(rng), pace_of(rng, hard, 1.0, 300.0), n)
    columns = _scaled(site, rng, at, up, 0.3) | _away(site, rng, at)
    return made_of(site, at, ts, orig=site.host(rng, site.outward), orig_local=True, **columns)


def _leak(site: Site, rng: Rng, hard: float) -> Flows | None:
    """The same, little by little over hours."""
    if not len(site.outward):
        return None
    n = number_of(rng, hard, 8, 80)
    at = np.full(n, rng.choice(site.outward))
    up = float(np.exp(rng.uniform(np.log(4.0), np.log(200.0 ** (1.0 - 0.4 * hard)))))
    pace = pace_of(rng, hard, 20.0, 1200.0)
    ts = times_of(rng, site.start(rng, 0.6), pace, n, jitter_of(rng, hard))
    columns = _scaled(site, rng, at, up, 0.2) | _away(site, rng, at)
    columns["duration"] = np.minimum(columns["duration"], pace)
    return made_of(site, at, ts, orig=site.host(rng, site.outward), orig_local=True, **columns)


def _flood(site: Site, rng: Rng, hard: float) -> Flows | None:
    """One service is asked by more, or held longer, than it can bear."""
    service = site.any_service(rng, site.tcp_services)
    if not len(service):
        return None
    rows = site.any_server(rng, service)
    n = number_of(rng, hard, 40, MOST_ROWS)
    ts = times_of(rng, site.start(rng), pace_of(rng, hard, 0.0005, 3.0), n)
    f = site.flows
    at = np.full(n, rng.choice(rows))
    way = rng.random()
    if way < 0.4:
        columns = silent(site, rng, n, np.full(n, rng.random() < 0.5))
    elif way < 0.6:  # whole requests
        columns = sizes_of(site, rng, at, 0.05)
    elif way < 0.75:  # opened and closed without a word
        columns = {
            "state": rng.choice([SF, RSTO]), "duration": rng.uniform(1e-4, 5e-3, n), "orig_bytes": 0.0,
            "resp_bytes": 0.0, "orig_pkts": 4.0, "resp_pkts": 3.0, "service": 0, "accepted": 0, "refused": 0,
            "told_by": 0, "domain": 0, "bits": 0.0,
        }  # fmt: skip
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
    orig: Any = np.array([new_address(rng) for _ in range(n)], np.uint64) if spoofed else site.host(rng, rows)
    return made_of(site, at, ts, orig=orig, orig_local=not spoofed or rng.random() < 0.5, **columns)


def _tunnel(site: Site, rng: Rng, hard: float) -> Flows | None:
    """One domain is asked for ever new names that carry what should not leave."""
    if len(site.lookups) < 5:
        return None
    n = number_of(rng, hard, 20, MOST_ROWS)
    at = rng.choice(site.lookups, n)
    ts = times_of(rng, site.start(rng, 0.7), pace_of(rng, hard, 0.02, 60.0), n)
    bits = rng.uniform(40.0, 250.0 - 150.0 * hard) * rng.uniform(0.7, 1.2, n)
    f = site.flows
    return made_of(
        site, at, ts, orig=site.host(rng, site.lookups), orig_local=True, domain=new_address(rng), bits=bits,
        orig_bytes=f.orig_bytes[at] + np.round(bits / 4.0),
        resp_bytes=f.resp_bytes[at] + np.round(rng.uniform(0.0, 200.0) * rng.random(n)),
    )  # fmt: skip


def _dga(site: Site, rng: Rng, hard: float) -> Flows | None:
    """One host looks for domains that do not exist."""
    if len(site.lookups) < 5:
        return None
    f = site.flows
    n = number_of(rng, hard, 12, 300)
    own = site.lookups[f.refused[site.lookups] > 0]
    told = site.lookups[f.told_by[site.lookups] > 0]
    at = rng.choice(own if len(own) and rng.random() < 0.5 else told if len(told) else site.lookups, n)
    ts = times_of(rng, site.start(rng, 0.7), pace_of(rng, hard, 0.02, 120.0), n)
    found = rng.random(n) < rng.uniform(0.0, 0.1)
    told_of = f.told_by[at] > 0
    domains = np.array([new_address(rng) for _ in range(n)], np.uint64)
    return made_of(
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
        rows = rows[f.ts[rows] <= f.ts[rows[0]] + width][: number_of(rng, hard, 8, 300)]
        if len(rows) < 8:
            continue
        ts = f.ts[rows] - f.ts[rows].min() + site.start(rng, 0.7)
        return made_of(site, rows, ts, orig=b, orig_local=True)
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
