"""Windows of a small made-up office: desks ask names, browse, poll and print; optionally one desk scans."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np

from feature_extractors.features.encoding import Encoded, encoded
from feature_extractors.features.schema import load_schema
from feature_extractors.observations import CONN_STATES, Connections, LogEntry, Packets, Windows

START = 1_763_769_600.0
NAMES = (
    "intranet.firm.example",
    "mail.firm.example",
    "www.news.example",
    "cdn.shop.example",
    "time.firm.example",
)


def address(last: int, net: int = 1) -> list[int]:
    return [0] * 10 + [255, 255, 10, 0, net, last]


def office(n: int, seed: int = 1, scan: int = 0, desks: int = 12, gap: float = 2.0) -> Windows:
    """`n` ordinary connections in stream order and, in their middle, `scan` probes by one desk."""
    rng = random.Random(seed)
    rows, packets, logs = [], [], []
    now = START
    for i in range(n + scan):
        probing = n // 2 <= i < n // 2 + scan
        now += 0.01 if probing else rng.expovariate(1.0 / gap)
        desk = rng.randrange(2, 2 + desks)
        entries: list[LogEntry] = []
        name = rng.choice(NAMES)
        if probing:
            row = (now, 66, 200 + i % 40, 20 + i % 900, 6, "", np.nan, -1, -1, "S0", b"S", 1, 44, 0, 0)
            sizes = [(True, 44)]
        elif i % 3 == 0:
            sent, got = len(name) + 12 + rng.randrange(4), len(name) + 28 + rng.randrange(40)
            took = rng.uniform(0.001, 0.03)
            row = (now, desk, 1, 53, 17, "dns", took, sent, got, "SF", b"Dd", 1, sent + 28, 1, got + 28)
            fields = {
                "query": name,
                "qtype_name": "A",
                "rcode_name": "NOERROR",
                "answers": ["10.0.2.9"],
                "TTLs": [300.0],
                "rtt": took,
            }
            entries = [LogEntry("dns", now, "", fields)]
            sizes = [(True, sent + 28), (False, got + 28)]
        elif i % 3 == 1:
            sent, got = rng.randrange(300, 600), rng.randrange(2000, 60000)
            k = got // 1400 + 4
            row = (
                now,
                desk,
                9,
                443,
                6,
                "ssl",
                rng.uniform(0.1, 9),
                sent,
                got,
                "SF",
                b"ShADadFf",
                k,
                sent + 52 * k,
                k,
                got + 52 * k,
            )
            fields = {
                "version": "TLSv13",
                "cipher": "TLS_AES_128_GCM_SHA256",
                "server_name": name,
                "established": True,
            }
            entries = [LogEntry("ssl", now, "", fields)]
            sizes = [(True, 60), (False, 60), (True, 52), (True, 52 + sent), (False, 1500)] + [
                (False, 1500)
            ] * min(k, 14)
        else:
            sent, got = rng.randrange(80, 160), rng.randrange(200, 900)
            row = (
                now,
                desk,
                9,
                80,
                6,
                "http",
                rng.uniform(0.01, 1),
                sent,
                got,
                "SF",
                b"ShADadFf",
                6,
                sent + 312,
                5,
                got + 260,
            )
            fields = {
                "method": "GET",
                "host": name,
                "uri": "/status",
                "status_code": 200,
                "user_agent": "agent/1.0",
            }
            entries = [LogEntry("http", now, "", fields)]
            sizes = [(True, 60), (False, 60), (True, 52), (True, 52 + sent), (False, 52 + got), (True, 52)]
        rows.append(row)
        packets.append([(now + 0.002 * k, way, size) for k, (way, size) in enumerate(sizes)])
        logs.append(entries)
    return _windows(rows, packets, logs)


def _windows(rows, packets, logs) -> Windows:  # type: ignore[no-untyped-def]
    n = len(rows)
    (ts, orig, resp, port, proto, service, duration, sent, got, state, history, op, oib, rp, rib) = zip(
        *rows, strict=True
    )
    flat = [p for connection in packets for p in connection]
    ts = np.array(ts)
    duration = np.array(duration, float)
    connections = Connections(
        uid=np.array([f"C{i}".encode() for i in range(n)], "S20"), ts=ts, end=ts + np.nan_to_num(duration),
        stage=np.ones(n, np.int8), orig_h=np.array([address(a) for a in orig], np.uint8),
        resp_h=np.array([address(a, 2) for a in resp], np.uint8), orig_p=np.arange(n).astype(np.uint16) % 16000 + 49152,
        resp_p=np.array(port, np.uint16), ip_proto=np.array(proto, np.uint8), service=list(service), duration=duration,
        orig_bytes=np.array(sent, np.int64), resp_bytes=np.array(got, np.int64),
        conn_state=np.array([CONN_STATES.index(s) for s in state], np.int8), missed_bytes=np.zeros(n, np.int64),
        history=np.array(history, "S64"), orig_pkts=np.array(op, np.int64), orig_ip_bytes=np.array(oib, np.int64),
        resp_pkts=np.array(rp, np.int64), resp_ip_bytes=np.array(rib, np.int64), vlan=np.full(n, -1, np.int32),
        inner_vlan=np.full(n, -1, np.int32), tunneled=np.zeros(n, np.bool_),
    )  # fmt: skip
    made = Packets(
        ts=np.array([p[0] for p in flat]), is_orig=np.array([p[1] for p in flat], np.bool_),
        ip_length=np.array([p[2] for p in flat], np.int32),
        payload=np.array([max(p[2] - 52, 0) for p in flat], np.int32),
    )  # fmt: skip
    return Windows(
        connections,
        made,
        np.cumsum([0] + [len(p) for p in packets]).astype(np.int64),
        [e for entries in logs for e in entries],
        np.cumsum([0] + [len(e) for e in logs]).astype(np.int64),
    )


def changed(windows: Windows, **columns: object) -> Windows:
    """The same windows with some columns of their connections replaced."""
    return replace(windows, connections=replace(windows.connections, **columns))  # type: ignore[arg-type]


def block_of(windows: Windows) -> Encoded:
    """The windows as a detector receives them."""
    return encoded(windows, load_schema())


def without_logs(windows: Windows) -> Windows:
    return replace(windows, logs=[], log_start=np.zeros(len(windows) + 1, np.int64))


def is_scan(windows: Windows) -> np.ndarray:
    return np.asarray(windows.connections.orig_h[:, 15] == 66)
