"""Rehearsals by an attacker who hides: slower, less even, padded, from more hosts, among ordinary use.

Ways, by name, as of labelled attacks (`training.adversarial`): `plain` hides nothing; `drawn` draws one plan for each
rehearsal; `searched` draws several and keeps the one whose connections the model that there is finds least odd.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.behaviour import Flows, take_flows
from cmdana_plugin.training.rehearsals.rehearsal import Rehearsal, Rehearsed, among, bounded
from cmdana_plugin.training.rehearsals.templates import Rng, Site
from feature_extractors import CmdanaError

PLAIN: Final = "plain"
WAYS: Final = (PLAIN, "drawn", "searched")
PLANS: Final = 6  # of a search for one rehearsal, the plan that changes nothing included
# What an attacker changes, and how much at most: by a factor of four.
LEVELS: Final[Mapping[str, Sequence[float]]] = {
    "pace": (1.5, 2.0, 4.0),  # times as long between connections
    "jitter": (0.25, 0.5, 1.0),  # mean intervals later, at most
    "pad": (1.25, 1.5, 2.0, 4.0),  # times as many bytes
    "hosts": (2.0, 4.0),  # from so many of the site's in turn
    "mix": (0.25, 0.5, 1.0),  # ordinary connections for each
}
_MOVES: Final = 3  # of a plan, at most
_SEGMENT: Final = 1400.0  # bytes of a packet
FIRST_STEPS: Final = 3  # connections of a rehearsal that are like any other

# The log odds [n] of a stream of connections.
Judge = Callable[[Flows], NDArray[np.float64]]


def checked_way(way: str) -> str:
    """The name of a way. Raises `CmdanaError` for another."""
    if way not in WAYS:
        raise CmdanaError(f"--rehearsals: found {way}, expected one of {', '.join(WAYS)}")
    return way


def hardened(
    own: Flows, rehearsals: Sequence[Rehearsal], site: Site, rng: Rng, way: str, judge: Judge | None
) -> Rehearsed:
    """The rehearsals among a site's own connections, each hidden in this way; without a judge none is searched."""
    if checked_way(way) == "drawn":
        return among(own, [planned(r, site, rng) for r in rehearsals])
    if way == PLAIN or judge is None or not rehearsals:
        return among(own, rehearsals)
    # All of one draw are judged together: they are few among what is the site's own.
    draws = [list(rehearsals), *([planned(r, site, rng) for r in rehearsals] for _ in range(PLANS - 1))]
    oddness = np.stack([_oddness(among(own, draw), rehearsals, judge) for draw in draws])
    return among(own, [draws[k][i] for i, k in enumerate(oddness.argmin(axis=0).tolist())])


def _oddness(made: Rehearsed, rehearsals: Sequence[Rehearsal], judge: Judge) -> NDArray[np.float64]:
    """The mean log odds of each rehearsal's connections, its first steps aside."""
    odds = judge(made.flows)
    out = []
    for r in rehearsals:
        rows = np.flatnonzero(made.number == r.number)
        out.append(float(odds[rows[FIRST_STEPS:] if len(rows) > FIRST_STEPS else rows].mean()))
    return np.array(out)


def planned(rehearsal: Rehearsal, site: Site, rng: Rng) -> Rehearsal:
    """The rehearsal by one to three moves; as it was where there is no time for them."""
    chosen = rng.choice(list(LEVELS), int(rng.integers(1, _MOVES + 1)), replace=False).tolist()
    plan = {name: float(rng.choice(of)) for name, of in LEVELS.items() if name in chosen}
    flows = rehearsal.flows
    ts = _later(flows, site, plan.get("pace", 1.0), plan.get("jitter", 0.0), rng)
    flows = replace(flows, ts=ts, end=flows.end + (ts - flows.ts))
    order = np.argsort(flows.ts, kind="stable")
    flows = take_flows(flows, order)
    if len(bounded(flows, site)) < len(flows):
        return rehearsal
    if (pad := plan.get("pad", 1.0)) > 1.0:
        sent = np.round(flows.orig_bytes * pad)
        flows = replace(
            flows, orig_bytes=sent, orig_pkts=np.maximum(flows.orig_pkts, np.ceil(sent / _SEGMENT))
        )
    host = flows.orig[0]
    if "hosts" in plan and (flows.orig == host).all():
        flows = replace(flows, orig=_in_turn(host, len(flows), int(plan["hosts"]), site, rng))
    beside = _ordinary(flows, host, plan["mix"], site, rng) if "mix" in plan else None
    return replace(rehearsal, flows=flows, beside=beside)


def _later(flows: Flows, site: Site, pace: float, jitter: float, rng: Rng) -> NDArray[np.float64]:
    """Starts [n] of a slower rehearsal, which begins earlier where else it would outlast the site's own use."""
    first = float(flows.ts.min())
    after = pace * (flows.ts - first)
    if jitter and len(flows) > 1:
        after = after + rng.uniform(0.0, jitter * float(np.ptp(after)) / (len(flows) - 1), len(flows))
    longest = float((after + flows.end - flows.ts).max())
    out: NDArray[np.float64] = min(first, max(site.end - longest, site.begin)) + after
    return out


def _in_turn(host: np.uint64, n: int, hosts: int, site: Site, rng: Rng) -> NDArray[np.uint64]:
    others = site.hosts[site.hosts != host]
    more = rng.choice(others, min(hosts - 1, len(others)), replace=False)
    out: NDArray[np.uint64] = np.append(np.array([host], np.uint64), more)[np.arange(n) % (1 + len(more))]
    return out


def _ordinary(flows: Flows, host: np.uint64, share: float, site: Site, rng: Rng) -> Flows:
    """What the host does anyway, or where it does nothing what others do, once more during the attack."""
    own = np.flatnonzero(site.flows.orig == host)
    rows = rng.choice(own if len(own) else len(site.flows), max(round(share * len(flows)), 1))
    made = take_flows(site.flows, rows)
    ts = np.sort(rng.uniform(flows.ts.min(), flows.end.max(), len(rows)))
    return replace(made, ts=ts, end=ts + (made.end - made.ts), orig=np.full(len(rows), host))
