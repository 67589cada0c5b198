"""The same connections, replayed without Zeek and told by one over the live road, come to the same, digit by digit."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cmdana_plugin
from cmdana_plugin.cli.judging import load_judge
from cmdana_plugin.config import Config, Endpoint
from cmdana_plugin.decision.notice import Notice
from cmdana_plugin.decision.verdict import Verdict
from cmdana_plugin.endpoint import wire
from cmdana_plugin.endpoint.live import Live
from cmdana_plugin.endpoint.transport import Received
from cmdana_plugin.endpoint.wire import Event
from cmdana_plugin.logs.notices import sub_message
from feature_extractors.addresses import address_texts
from feature_extractors.observations import CONN_STATES, Stage, Windows, concat, take

pytestmark = pytest.mark.slow

BUSY_MINUTES = Path(__file__).parents[1] / "traces" / "busy-minutes" / "busy-minutes.pcap.gz"
CONNECTIONS = 1200  # a scan is among them
BATCH = 100


class Memory:
    """A transport without a network: `come` is what the endpoint is told, `sent` what it answers."""

    endpoint = ""

    def __init__(self) -> None:
        self.come: queue.Queue[Received] = queue.Queue()
        self.sent: list[Event] = []

    def open(self) -> str:
        return "memory"

    def receive(self, timeout: float) -> Sequence[Received]:
        try:
            return [self.come.get(timeout=timeout)]
        except queue.Empty:
            return []

    def send(self, event: Event) -> None:
        self.sent.append(event)

    def close(self) -> None:
        pass


def told(windows: Windows, i: int) -> list[Any]:
    """A row as `CMDANA::publish_connection` tells it, its logs in full before it."""
    c, p = windows.connections, windows.packets
    uid, ts = c.uid[i].decode(), float(c.ts[i])
    orig, resp = address_texts(c.orig_h[i : i + 1])[0], address_texts(c.resp_h[i : i + 1])[0]
    state = CONN_STATES[c.conn_state[i]] if c.conn_state[i] >= 0 else ""
    times = ts, float(c.end[i]), -1.0 if np.isnan(c.duration[i]) else float(c.duration[i])
    words = " ".join([uid, orig, resp, state, c.history[i].decode(), c.service[i], *map(repr, times)])
    names = (
        "stage", "orig_p", "resp_p", "ip_proto", "missed_bytes", "orig_pkts", "orig_ip_bytes", "resp_pkts",
        "resp_ip_bytes", "tunneled", "orig_bytes", "resp_bytes", "vlan", "inner_vlan",
    )  # fmt: skip
    packets, sums = [], [0, 0]
    for k in range(windows.packet_start[i], windows.packet_start[i + 1]):
        sums[not p.is_orig[k]] += int(p.ip_length[k])
        packets += [round((p.ts[k] - ts) * 1e6), *sums]
    logs = windows.logs[windows.log_start[i] : windows.log_start[i + 1]]
    records: list[Any] = [[e.stream, {"ts": e.ts, "uid": uid, **e.fields}] for e in logs]
    return [*records, [words, [int(getattr(c, name)[i]) for name in names], packets]]


def messages(windows: Windows, to: str) -> Iterator[Event]:
    n = len(windows)
    for seq, begin in enumerate(range(0, n, BATCH), 1):
        rows = range(begin, min(begin + BATCH, n))
        records = [record for i in rows for record in told(windows, i)]
        message = {
            "v": wire.WIRE_VERSION, "node": "zeek", "run": "run-1", "to": to, "seq": seq, "before": begin,
            "finals": len(rows), "records": len(records), "now": 0.0, "last": rows.stop == n, "r": records,
        }  # fmt: skip
        yield Event("observations", wire.OBSERVATIONS, json.dumps(message, separators=(",", ":")))


@pytest.fixture(scope="module")
def windows() -> Windows:
    """The first connections of the busy minutes, at microseconds as Zeek tells them."""
    blocks: list[Windows] = []
    for block in cmdana_plugin.extract(cmdana_plugin.read(BUSY_MINUTES)):
        blocks.append(block)
        if sum(map(len, blocks)) >= CONNECTIONS:
            break
    whole = concat(blocks)
    certified = {e.uid for e in whole.logs if e.stream == "x509"}  # told apart, by fingerprint
    rows = [i for i, uid in enumerate(whole.connections.uid.tolist()) if uid.decode() not in certified]
    whole = take(whole, np.array(rows[:CONNECTIONS]))
    assert (whole.connections.stage == Stage.FINAL).all()
    first = np.repeat(whole.connections.ts, np.diff(whole.packet_start))
    at = first + np.rint((whole.packets.ts - first) * 1e6) / 1e6
    return replace(whole, packets=replace(whole.packets, ts=at))


def live(windows: Windows) -> tuple[list[Verdict], list[Notice], list[dict[str, Any]]]:
    """What the endpoint judges, and what it tells Zeek."""
    transport = Memory()
    endpoint = Live(Endpoint(batch_seconds=0.01), load_judge(Config()), transport, lambda _: None)
    for event in messages(windows, endpoint.session.identity.instance):
        transport.come.put(event)
    endpoint.start()
    verdicts, notices = [], []
    try:
        for judged in endpoint.judged(0.1, lambda: endpoint.session.finished):
            verdicts += list(judged.verdicts)
            notices += judged.notices
    finally:
        endpoint.drain.stop()
    return verdicts, notices, [json.loads(e.payload) for e in transport.sent if e.name == wire.VERDICTS]


def test_verdicts_reasons_and_notices_are_the_same_live_and_offline(windows: Windows) -> None:
    (expected,) = load_judge(Config()).judged([cmdana_plugin.encode(windows)])
    verdicts, notices, answers = live(windows)
    assert len(verdicts) == len(windows)
    differing = [(a, b) for a, b in zip(verdicts, expected.verdicts, strict=True) if a != b]
    assert differing == []
    assert notices == expected.notices
    odd = {v.uid: v.reasons for v in expected.verdicts if v.verdict != "benign"}
    assert len(odd) > 20
    assert all(odd.values())
    assert len(notices) > 3
    said = [(a["uid"][o["i"]], tuple(o["reasons"])) for a in answers for o in a["odd"]]
    assert any(v.stage == "revised" for v in expected.rows())
    # A verdict that raises an incident's notice has reasons, odd by itself or not.
    assert sorted(said) == sorted((v.uid, v.reasons) for v in expected.rows() if v.reasons)
    assert [n["sub"] for a in answers for n in a["notices"]] == [sub_message(n) for n in expected.notices]
