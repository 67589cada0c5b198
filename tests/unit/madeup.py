"""Made-up verdicts and notices, written with the project's own writers, for tests of what reads them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from cmdana_plugin.decision.notice import ANOMALOUS_CONNECTION, ANOMALOUS_HOST, HostIncident, Notice, Role
from cmdana_plugin.decision.verdict import Verdict
from cmdana_plugin.detector.scores import score_of
from cmdana_plugin.logs.notices import notice_columns
from cmdana_plugin.logs.streams import CMDANA, CONN, NOTICE, Format, LogWriter, Value

START = 1_763_769_600.0  # 2025-11-22 00:00:00 UTC
SERVICES = ("dns", "ssl", "http", None, "ntp", "ssh", "dns,quic")
HOSTILE = "<script>alert(1)</script>\"'&\x00\x1b[31m\u202e{{ 7*7 }}" + "A" * 3000

VERDICT = Verdict(
    ts=1469000000.123456, uid="CHhAvVGS1DHFjwGM9", orig_h="10.0.0.5", orig_p=40000, resp_h="2001:db8::1", resp_p=53,
    proto="udp", service=None, community_id="1:abc=", stage="final", score=0.612345, p_value=2.5e-5,
    threshold=0.5, verdict="anomalous", packet_reliance=0.25, connection_reliance=0.25, log_reliance=0.25,
    state_reliance=0.25, modalities=("packet", "connection"),
    reasons=("expected 80-400 B, saw 9 MB", "name a\tb\n\\x"), model="default",
)  # fmt: skip


def verdicts(n: int, days: float = 2.0, seed: int = 1, attack: bool = True) -> list[Verdict]:
    """`n` verdicts in order of time: uniform p-values, and with `attack` one scanning and one beaconing host."""
    rng = random.Random(seed)
    made = []
    for i in range(n):
        ts = START + days * 86400 * i / n
        p = max(rng.random(), 1e-6)
        orig, resp, port = (
            f"10.0.{rng.randrange(4)}.{rng.randrange(1, 60)}",
            f"192.0.2.{rng.randrange(1, 250)}",
            443,
        )
        service = rng.choice(SERVICES)
        reasons: Sequence[str] = ()
        if attack and 0.4 < i / n < 0.43 and rng.random() < 0.5:
            orig, resp, port, service, p = (
                "10.0.0.66",
                f"10.0.1.{rng.randrange(1, 250)}",
                445,
                None,
                10 ** -rng.uniform(3.5, 6),
            )
            reasons = (
                "unusual for 10.0.0.66: first connection to 445/tcp, p=1e-5",
                "expected an answer, saw none",
            )
        elif attack and rng.random() < 0.002:
            orig, resp, p = "10.0.2.7", "203.0.113.9", 10 ** -rng.uniform(3.5, 9)
            reasons = ("expected 80-400 B from 10.0.2.7 to ssl, saw 9 MB, p=2e-5",)
        made.append(verdict(ts, i, orig, resp, port, service, p, reasons))
    return made


def verdict(
    ts: float,
    i: int,
    orig: str,
    resp: str,
    port: int,
    service: str | None,
    p: float,
    reasons: Sequence[str] = (),
) -> Verdict:
    """One verdict whose score follows from its p-value, at the threshold of the default budget."""
    score = float(score_of(p))  # type: ignore[arg-type]  # a scalar is an array of one
    rng = random.Random(i)
    gate = [rng.random() + 0.2 for _ in range(4)]
    shares = [round(g / sum(gate), 4) for g in gate]
    return Verdict(
        ts=ts, uid=f"C{i:017d}", orig_h=orig, orig_p=40000 + i % 20000, resp_h=resp, resp_p=port, proto="tcp",
        service=service, community_id="1:abc=", stage="final", score=round(score, 6),
        p_value=float(f"{p:.6g}"), threshold=0.5,
        verdict="anomalous" if score >= 0.5 else "benign", packet_reliance=shares[0], connection_reliance=shares[1],
        log_reliance=shares[2], state_reliance=shares[3], modalities=("packet", "connection"),
        reasons=tuple(reasons) or (("a reason",) if score >= 0.5 else ()), model="made-up 1",
    )  # fmt: skip


def notice(v: Verdict) -> Notice:
    """A notice about one connection."""
    return Notice(v.ts, ANOMALOUS_CONNECTION, f"{v.orig_h}|{v.resp_h}", v)


def incident(v: Verdict, role: Role = "originator", host: str = "", odd: int = 2) -> Notice:
    """A notice about an incident of `odd` connections to or from one other host, dns and 445/tcp, noticed by `v`."""
    orig = role == "originator"
    host, peer = host or (v.orig_h if orig else v.resp_h), v.resp_h if orig else v.orig_h
    of_host = HostIncident(
        id=f"incident-{role}-{host}", role=role, host=host, kind="scan",
        headline=f"scans: {odd} ports of {peer} in 5 s" if orig else f"is scanned: {odd} ports in 5 s from {peer}",
        technique="T1046", first_seen=START, last_seen=START + 5.0, connections=odd, odd=odd - 1, hosts=(host,),
        host_count=1, targets=(peer,), peers=1, services=("dns", "445/tcp"), service_count=2, refused=0, sent=1200,
        evidence=3.4, limit=1.7, why=("20 attempts without an answer in 5 s", "a reason; of two parts"),
        uids=(v.uid,),
    )  # fmt: skip
    return Notice(v.ts, ANOMALOUS_HOST, of_host.id, v, explained=True, incident=of_host, suppress_for=0.0)


def row(columns: Mapping[str, Value]) -> tuple[Value, ...]:
    """A row of notice.log with these columns and no others."""
    return tuple(columns.get(name) for name, _ in NOTICE.fields)


def write_logs(
    folder: Path, rows: Sequence[Verdict], fmt: Format = "tsv", extra: Sequence[Mapping[str, Value]] = ()
) -> None:
    """cmdana.log, notice.log (of odd connections, and rows with the columns `extra`) and conn.log."""
    folder.mkdir(parents=True, exist_ok=True)
    told: set[tuple[str, str, int]] = set()
    cmdana, raised, conn = (LogWriter(folder, stream, fmt) for stream in (CMDANA, NOTICE, CONN))
    for v in rows:
        cmdana.write([v], v.ts)
        pair = v.orig_h, v.resp_h, v.resp_p
        if v.verdict != "benign" and pair not in told:
            told.add(pair)
            raised.write([row(notice_columns(notice(v)))], v.ts)
        conn.write(
            [(
                v.ts, v.uid, v.orig_h, v.orig_p, v.resp_h, v.resp_p, v.proto, v.service, 1.5, 500, 90_000, "SF", True,
                False, 0, "ShADadFf", 10, 1020, 80, 94160, None, 6, v.community_id,
            )],
            v.ts,
        )  # fmt: skip
    raised.write(map(row, extra), rows[-1].ts if rows else START)
    for log in (cmdana, raised, conn):
        log.close()
