"""What a site has to rehearse with: its connections by service, server and outcome, and copies of them elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.behaviour import Flows, concat_flows, take_flows
from feature_extractors import CONN_STATES

MOST_LAG: Final = 600.0  # seconds between a connection's last packet and its row
# Seconds after which an attempt without an answer is over (Zeek's tcp_attempt_delay).
_ATTEMPT_TIMEOUT: Final = 5.0
TCP: Final = 6
UDP: Final = 17
_UNANSWERED: Final = tuple(CONN_STATES.index(s) for s in ("S0", "REJ", "RSTOS0", "RSTRH", "SH"))
S0, _REJ, RSTO, SF = (CONN_STATES.index(s) for s in ("S0", "REJ", "RSTO", "SF"))
_ADMIN_PORTS: Final = (22, 23, 135, 139, 389, 445, 3389, 5900, 5985, 5986)
_DNS_PORT: Final = 53
_AT_A_USER: Final = 0.6  # share of rehearsals at hosts that make such connections anyway

Rng = np.random.Generator
Rows = NDArray[np.int64]
NO_ROWS: Final[Rows] = np.zeros(0, np.int64)


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
        return [rows for rows in self.services if self.flows.proto[rows[0]] == TCP] or self.services

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
        return np.flatnonzero(np.isin(f.state, _UNANSWERED) & (f.proto == TCP))

    @cached_property
    def outward(self) -> Rows:
        """Connections that left the site and were answered; any answered ones where none left."""
        f = self.flows
        out = np.flatnonzero(f.orig_local & ~f.resp_local & self.answered & (f.proto == TCP))
        return out if len(out) >= 5 else np.flatnonzero(self.answered)

    @cached_property
    def lookups(self) -> Rows:
        f = self.flows
        return np.flatnonzero((f.port == _DNS_PORT) & (f.domain != 0))

    @cached_property
    def administration(self) -> Rows:
        f = self.flows
        return np.flatnonzero(np.isin(f.port, _ADMIN_PORTS) & (f.proto == TCP) & f.resp_local & self.answered)

    @cached_property
    def servers(self) -> NDArray[np.uint64]:
        """[n] whom each connection asked, host and port."""
        return self.flows.resp + self.flows.port.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)

    def host(self, rng: Rng, users: Rows = NO_ROWS) -> np.uint64:
        """Whose machine it is: as often as not one that makes such connections (`users`) anyway."""
        if len(users) and rng.random() < _AT_A_USER:
            own = users[np.isin(self.flows.orig[users], self.hosts)]
            if len(own):
                return np.uint64(self.flows.orig[rng.choice(own)])
        return np.uint64(rng.choice(self.hosts))

    def start(self, rng: Rng, share: float = 0.85) -> float:
        return self.begin + float(rng.uniform(0.0, share)) * self.span

    def any_service(self, rng: Rng, services: Sequence[Rows]) -> Rows:
        """The rows of one of the services; none where there is none."""
        return services[int(rng.integers(len(services)))] if services else NO_ROWS

    def any_server(self, rng: Rng, rows: Rows) -> Rows:
        """Those of a service's rows that have one of its servers."""
        return self.server(rows, rng.choice(rows))

    def server(self, rows: Rows, at: int) -> Rows:
        """Those of the rows that have the same server as one."""
        f = self.flows
        own: Rows = rows[(f.resp[rows] == f.resp[at]) & (f.port[rows] == f.port[at])]
        return own


def made_of(
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
    lag = np.clip(flows.end - flows.ts - flows.duration, 0.0, MOST_LAG) if lag is None else lag
    return replace(flows, **whole, ts=ts, end=ts + whole.get("duration", flows.duration) + lag)


def joined(parts: Sequence[Flows]) -> Flows:
    flows = concat_flows(parts)
    return take_flows(flows, np.argsort(flows.ts, kind="stable"))


def pace_of(rng: Rng, hard: float, fast: float, slow: float) -> float:
    """Seconds between two steps: from fast to slow, the slower the harder; log-uniform."""
    most = np.log(fast) + (0.3 + 0.7 * hard) * (np.log(slow) - np.log(fast))
    return float(np.exp(rng.uniform(np.log(fast), most)))


def times_of(rng: Rng, start: float, pace: float, n: int, jitter: float | None = None) -> NDArray[np.float64]:
    """Starts of `n` connections: evenly with so much jitter (0..1), or without one at random (Poisson)."""
    gaps = pace * (rng.exponential(1.0, n) if jitter is None else rng.uniform(1.0 - jitter, 1.0 + jitter, n))
    ts: NDArray[np.float64] = start + np.cumsum(gaps) - gaps[0]
    return ts


def number_of(rng: Rng, hard: float, least: int, most: int) -> int:
    """How many: log-uniform, the fewer the harder."""
    top = most * (least / most) ** (0.7 * hard)
    return max(int(np.exp(rng.uniform(np.log(least), np.log(top)))), least)


def jitter_of(rng: Rng, hard: float) -> float | None:
    return None if rng.random() < 0.3 else float(rng.uniform(0.0, 0.1 + 0.8 * hard))


def new_address(rng: Rng) -> np.uint64:
    """Of a host, or a domain, that nobody here has heard of."""
    return np.uint64(rng.integers(1, 1 << 63))


def padded(rng: Rng, values: NDArray[np.float64], spread: float) -> NDArray[np.float64]:
    """The values, each a little more or less: padding."""
    return np.round(values * np.exp(rng.normal(0.0, spread, len(values)))) if spread > 0.0 else values


def silent(site: Site, rng: Rng, n: int, open_: NDArray[np.bool_] | None = None) -> dict[str, Any]:
    """Columns of `n` attempts at TCP that no program answered: as the site's own that failed, or closed or dropped.

    At a port that is `open_` the originator breaks off.
    """
    f = site.flows
    if len(site.unanswered) >= 5 and rng.random() < 0.5:
        own = rng.choice(site.unanswered, n)
        names = ("state", "duration", "orig_bytes", "resp_bytes", "orig_pkts", "resp_pkts")
        columns = {name: getattr(f, name)[own].copy() for name in names}
        columns["lag"] = np.clip((f.end - f.ts - f.duration)[own], 0.0, MOST_LAG)
    else:
        closed = rng.random(n) < rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        tries = rng.choice([1.0, 1.0, 2.0, 3.0])
        columns = {
            "state": np.where(closed, _REJ, S0),
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
        columns["state"] = np.where(open_, RSTO, columns["state"])
        columns["duration"] = np.where(open_, rng.uniform(1e-4, 5e-3, n), columns["duration"])
        columns["orig_bytes"] = np.where(open_, 0.0, columns["orig_bytes"])
        columns["resp_bytes"] = np.where(open_, 0.0, columns["resp_bytes"])
        columns["orig_pkts"] = np.where(open_, rng.choice([2.0, 3.0]), columns["orig_pkts"])
        columns["resp_pkts"] = np.where(open_, 1.0, columns["resp_pkts"])
        columns["lag"] = np.where(open_, 0.0, columns["lag"])
    return columns | {"service": 0, "accepted": 0, "refused": 0, "told_by": 0, "domain": 0, "bits": 0.0}


def refusals(site: Site, rng: Rng, rows: Rows, n: int) -> tuple[Rows, dict[str, Any]]:
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


def sizes_of(site: Site, rng: Rng, at: Rows, spread: float) -> dict[str, Any]:
    f = site.flows
    return {
        "orig_bytes": padded(rng, f.orig_bytes[at], spread),
        "resp_bytes": padded(rng, f.resp_bytes[at], spread),
        "duration": f.duration[at] * np.exp(rng.normal(0.0, 0.1 + spread, len(at))),
    }
