"""Made-up connections for decisions."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.decision.seen import Rows, Seen
from cmdana_plugin.decision.usual.tails import MOST
from cmdana_plugin.decision.verdict import Verdict


def connection(
    end: float, p: float, *, orig: str = "10.0.0.5", resp: str = "10.0.0.9", port: int = 80, service: str | None = None,
    tried: bool = False, sent: int = 100, got: int = 1000, word: str = "", domain: str = "", bits: float = 0.0,
) -> Seen:  # fmt: skip
    """One that took no time."""
    verdict = Verdict(
        ts=end, uid=f"C{orig}-{port}-{end:.3f}", orig_h=orig, orig_p=40000, resp_h=resp, resp_p=port, proto="tcp",
        service=service, community_id="1:x", stage="final", score=0.5, p_value=p, threshold=0.5,
        verdict=word or ("anomalous" if p <= 1e-3 else "benign"), packet_reliance=0.2, connection_reliance=0.5,
        log_reliance=0.1, state_reliance=0.2, modalities=("packet", "connection"), reasons=(), model="m",
    )  # fmt: skip
    evidence = min(-float(np.log10(p)), MOST)
    sent, got = (0, 0) if tried else (sent, got)
    return Seen(
        verdict,
        end,
        evidence,
        tried,
        sent,
        got,
        domain=domain,
        bits=bits,
        component="density" if p <= 0.1 else None,
    )


def asked(
    end: float, p: float, what: tuple[str, str, str], *, refused: int = 0, accepted: int = 0, **like: Any
) -> Seen:
    """One whose logs say how what was asked for ended."""
    s = connection(end, p, **like)
    return s._replace(asked=what, refused=refused, accepted=accepted)


def rows(seen: Sequence[Seen], rejected: bool = False) -> Rows:
    """These as a block; `rejected`, every one of them by a host where nobody listens."""

    def addresses(name: str) -> NDArray[np.uint8]:
        return np.stack([_bytes(getattr(s.verdict, name)) for s in seen])

    def some(which: Sequence[int]) -> list[Seen]:
        return [seen[i] for i in which]

    def pair(i: int) -> tuple[str, str, int, str]:
        v = seen[i].verdict
        return v.orig_h, v.resp_h, v.resp_p, v.proto

    return Rows(
        addresses("orig_h"), addresses("resp_h"), np.array([s.end for s in seen]),
        np.array([s.evidence for s in seen]), np.array([s.persistence for s in seen]),
        np.array([s.tried for s in seen]),
        np.array([s.verdict.stage == "early" for s in seen]), np.array([s.verdict.verdict != "benign" for s in seen]),
        np.full(len(seen), rejected), np.array([s.verdict.resp_p for s in seen]),
        np.array([[1.0, s.tried, s.refused, s.sent] for s in seen]),
        np.array([s.refused if s.asked and "login" in s.asked[0] else 0.0 for s in seen]),
        np.array([s.bits for s in seen], float), [s.domain for s in seen], some, pair,
    )  # fmt: skip


def _bytes(address: str) -> NDArray[np.uint8]:
    ip = ipaddress.ip_address(address)
    mapped = ip if ip.version == 6 else ipaddress.ip_address(f"::ffff:{ip}")
    return np.frombuffer(mapped.packed, np.uint8)
