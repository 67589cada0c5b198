"""Throughput against shards, and what the shards tell one another.

    python -m benchmarks.shards LOGS [--copies 32] [--shards 1 2 4 8 16] [--model site.safetensors]

A large site is made of one folder of Zeek logs: so many copies of its hosts, each in a network of its own and some
seconds later, that ask the same servers outside. For each number of shards the detectors take turns on this one
processor, block by block, as they would side by side, and tell one another what they would. What is printed is their
processor time: a site with a core for each goes as fast as the busiest of them. What Zeek's manager passes on is added
up: connections as `CMDANA::publish_connection` words them (without their packets and logs), verdicts, and evidence.
Verdicts and incidents are held against those of one detector.
"""

from __future__ import annotations

import argparse
import gc
import ipaddress
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SECRET = bytes(range(32))
BLOCK = 4096  # connections of the whole site at once
APART = 7.0  # seconds between two copies
PRIVATE = [ipaddress.ip_network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")]


@dataclass
class Shard:
    """One detector, and what it took."""

    judge: Any
    seconds: float = 0.0
    connections: int = 0
    told: Counter[str] = field(default_factory=Counter)


@dataclass
class Outcome:
    odd: set[str]
    incidents: set[tuple[str, str]]
    notices: int


def large_site(logs: Path, copies: int) -> Any:
    """All of its windows, encoded, in order of their end."""
    from feature_extractors import concat
    from feature_extractors.features import concat_encoded, encoded, load_schema, take_encoded
    from feature_extractors.readers import ZeekLogs

    one, schema = concat(list(ZeekLogs([logs]))), load_schema()
    plain = encoded(one, schema)
    parts = []
    for copy in range(copies):
        c = plain.connections
        moved = replace(
            c, ts=c.ts + APART * copy, end=c.end + APART * copy, orig_h=_moved(c.orig_h, copy),
            resp_h=_moved(c.resp_h, copy), uid=np.array([b"%b%d" % (u[:14], copy) for u in c.uid.tolist()], "S20"),
        )  # fmt: skip
        parts.append(replace(plain, connections=moved))
    whole = concat_encoded(parts)
    return take_encoded(whole, np.argsort(whole.connections.end, kind="stable"))


def _moved(addresses: NDArray[np.uint8], copy: int) -> NDArray[np.uint8]:
    """Private addresses in the network of a copy: 10.N.x.y, their third and fourth byte kept."""
    from feature_extractors import address_texts, addresses_of

    def moved(text: str) -> str:
        ip = ipaddress.ip_address(text)
        if ip.version == 4 and any(ip in network for network in PRIVATE):
            return ".".join(["10", str(copy), *text.split(".")[2:]])
        return text

    known = {text: moved(text) for text in set(address_texts(addresses))}
    return addresses_of([known[text] for text in address_texts(addresses)])


def worded(site: Any) -> float:
    """Bytes of a connection in a batch, the mean of at most 10,000."""
    from feature_extractors import CONN_STATES, address_texts

    c, rows = site.connections, range(0, len(site), max(len(site) // 10_000, 1))
    orig, resp, size = address_texts(c.orig_h), address_texts(c.resp_h), 0
    for i in rows:
        words = (
            c.uid[i].decode(), orig[i], resp[i], CONN_STATES[c.conn_state[i]], c.history[i].decode(), c.service[i],
            f"{c.ts[i]:.6f}", f"{c.end[i]:.6f}", f"{c.duration[i]:.6f}",
        )  # fmt: skip
        counts = (
            1, c.orig_p[i], c.resp_p[i], c.ip_proto[i], 0, c.orig_pkts[i], c.orig_ip_bytes[i], c.resp_pkts[i],
            c.resp_ip_bytes[i], 0, c.orig_bytes[i], c.resp_bytes[i],
        )  # fmt: skip
        size += len(f'["{" ".join(words)}",[{",".join(map(str, counts))}],[]],')
    return size / len(rows)


def blocks(site: Any) -> Iterator[Any]:
    from feature_extractors.features import take_encoded

    for begin in range(0, len(site), BLOCK):
        yield take_encoded(site, np.arange(begin, min(begin + BLOCK, len(site))))


def judged(site: Any, shards: int, model: str) -> tuple[list[Shard], Outcome]:
    """What so many detectors make of it, in turn."""
    from cmdana_plugin.cli.judging import _of_shard, load_judge
    from cmdana_plugin.config import Config, Model
    from cmdana_plugin.endpoint.shards import Shares, decode_evidence, encode_evidence
    from cmdana_plugin.endpoint.wire import encode_verdicts
    from feature_extractors.features import take_encoded

    shares = Shares(shards, SECRET)
    config = Config(model=Model(path=model, threads=1))
    them = [Shard(load_judge(_of_shard(config, f"{k}/{shards}"))) for k in range(1, shards + 1)]
    for k, one in enumerate(them, 1):
        if shards > 1:
            one.judge.share(lambda resp, k=k: shares.of_all(resp) == k)
    outcome = Outcome(set(), set(), 0)
    nothing = take_encoded(site, np.zeros(0, np.int64))

    def take(one: Shard, done: Any) -> None:
        for event in encode_verdicts("v", done.verdicts, done.notices, benign=True):
            one.told["verdicts"] += len(event.payload)
        outcome.notices += len(done.notices)
        outcome.incidents |= {(n.incident.role, n.incident.host) for n in done.notices if n.incident}
        outcome.odd |= {done.verdicts.uid[i] for i in np.flatnonzero(done.verdicts.verdict.code != 0)}

    for block in blocks(site):
        owner = shares.of_all(block.connections.orig_h)
        waiting: list[list[str]] = [[] for _ in them]
        for k, one in enumerate(them, 1):
            part = take_encoded(block, np.flatnonzero(owner == k))
            if not len(part):
                continue
            began = time.process_time()
            done = one.judge.conclude(part, one.judge.detector.receive(part))
            one.connections += len(part)
            events, _ = encode_evidence(
                done.elsewhere, shares, "t", {n: f"{n:016x}" for n in range(1, shards + 1)}
            )
            one.seconds += time.process_time() - began
            one.told["rows"] += len(done.elsewhere)
            for event in events:
                one.told["evidence"] += len(event.payload) + 64
                number = int(event.topic.split("/")[1])
                waiting[number - 1].append(event.payload[:-1] + ',"instance":"x","n":1}')
            take(one, done)
        for one, payloads in zip(them, waiting, strict=True):
            if payloads:
                began = time.process_time()
                done = one.judge.overheard(nothing, [s for p in payloads for s in decode_evidence(p).seen])
                one.seconds += time.process_time() - began
                take(one, done)
    return them, outcome


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("logs", type=Path)
    parser.add_argument("--copies", type=int, default=32)
    parser.add_argument("--shards", type=int, nargs="+", default=(1, 2, 4, 8, 16))
    parser.add_argument("--model", default="")
    given = parser.parse_args()
    site = large_site(given.logs, given.copies)
    n, hosts = len(site), len(np.unique(site.connections.orig_h, axis=0))
    print(f"{n:,} connections of {hosts:,} originators in {given.copies} copies of {given.logs.name}")
    print(f"{worded(site):,.0f} bytes of a connection as Zeek words it, without packets and logs")
    first: Outcome | None = None
    for shards in given.shards:
        them, outcome = judged(site, shards, given.model)
        first = first or outcome
        _tell(them, outcome, first, n)
        del them
        gc.collect()


def _tell(them: Sequence[Shard], outcome: Outcome, first: Outcome, n: int) -> None:
    busiest = max(one.seconds for one in them)
    told = sum((one.told for one in them), Counter[str]())
    largest = max(one.connections for one in them) / n
    spent = sum(s.seconds for s in them) / n * 1e6
    print(
        f"{len(them):>2} shards: {n / busiest:,.0f} connections a second, {spent:.0f} us of a processor each, the "
        f"largest shard has {largest:.1%}; {told['rows'] / n:.3f} rows, {told['evidence'] / n:,.0f} bytes of evidence, "
        f"{told['verdicts'] / n:,.0f} bytes of verdicts a connection; {len(outcome.odd):,} odd, "
        f"{len(outcome.odd ^ first.odd) / n:.2%} of verdicts are others than one detector's; {len(outcome.incidents)} "
        f"incidents, {len(outcome.incidents & first.incidents)} of {len(first.incidents)} the same hosts', "
        f"{outcome.notices} notices",
        flush=True,
    )


if __name__ == "__main__":
    main()
