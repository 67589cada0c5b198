"""Flows of a small made-up site, of which a test changes what it is about."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np

from cmdana_plugin.behaviour.fields import _column
from cmdana_plugin.behaviour.flows import Flows, concat_flows, take_flows
from cmdana_plugin.behaviour.streams import Streams, _possible
from cmdana_plugin.behaviour.tables import KINDS
from cmdana_plugin.behaviour.walk import WIDTH

START = 1_763_769_600.0


def flows(n: int, **columns: Any) -> Flows:
    """`n` connections a minute apart of one host with one web server; single values are of all."""
    ts = START + 60.0 * np.arange(n)
    given: dict[str, Any] = {
        "ts": ts, "end": ts + 0.5, "orig": 3, "resp": 5, "orig_local": True, "resp_local": False, "port": 443,
        "proto": 6, "service": 4, "state": 2, "duration": 0.5,
        "orig_bytes": 500.0, "resp_bytes": 4000.0, "orig_pkts": 8.0,
        "resp_pkts": 9.0, "accepted": 0, "refused": 0, "told_by": 0, "domain": 0, "bits": 0.0,
    }  # fmt: skip
    given |= columns
    if "ts" in columns and "end" not in columns:
        given["end"] = np.asarray(columns["ts"]) + 0.5
    kinds = {f.name: str(f.type) for f in fields(Flows)}
    made = {}
    for name, value in given.items():
        kind = kinds[name].split("np.")[1].rstrip("]")
        made[name] = np.broadcast_to(np.asarray(value), (n,)).astype(kind)
    return Flows(**made)


def site(n: int, seed: int = 1, hosts: int = 20, gap: float = 20.0, begin: float = START) -> Flows:
    """`n` connections of hosts that look names up, browse and fetch mail, in order of their end."""
    rng = np.random.default_rng(seed)
    ts = begin + np.cumsum(rng.exponential(gap, n))
    what = rng.integers(0, 3, n)
    made = flows(
        n,
        ts=ts,
        duration=rng.exponential(1.0, n),
        orig=100 + rng.integers(0, hosts, n),
        resp=np.choose(what, [np.full(n, 7), 1000 + rng.zipf(1.5, n) % 50, np.full(n, 9)]),
        port=np.choose(what, [53, 443, 993]),
        proto=np.choose(what, [17, 6, 6]),
        service=np.choose(what, [2, 4, 27]),
        resp_local=what != 1,
        orig_bytes=rng.lognormal(6, 1, n),
        resp_bytes=rng.lognormal(8, 2, n),
        domain=np.where(what == 1, 50 + rng.integers(0, 9, n), 0),
    )
    made = replace(made, end=made.ts + made.duration)
    return take_flows(made, np.argsort(made.end, kind="stable"))


def merged(*parts: Flows) -> Flows:
    """The parts in order of their end."""
    one = concat_flows(parts)
    return take_flows(one, np.argsort(one.end, kind="stable"))


def statistics(streams: Streams, f: Flows, *wanted: str, teach: bool = True) -> np.ndarray:
    """Of each connection the statistics of these names [n, len(wanted)], without logarithms; fields or not."""
    raw = streams._walked(_possible(f), np.full(len(f), teach)).reshape(len(f), KINDS * WIDTH)
    columns = [_column(name) for name in wanted]
    return raw[:, [column[0] for column in columns if column is not None]]
