"""Against whom behaviour has evidence of late: what they do is not learned from, and their streams are the last to go.

Told anew at the end of each piece of so many connections from the beginning of the stream, so that a verdict does not
depend on the blocks in which the stream comes.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

PIECE: Final = 256  # connections
_LEAST: Final = 2.0  # -log10 p from which on a connection is evidence
_ENOUGH: Final = 12.0  # -log10 p beyond that, summed and faded: of six connections at 1e-4
_FADE: Final = 3600.0  # seconds in which evidence falls to 1/e
_MOST: Final = 4096  # hosts


class Suspicion:
    """The evidence against originators, as hashed in `Flows.orig`."""

    def __init__(self) -> None:
        self._count = 0  # connections so far
        self._evidence: dict[int, tuple[float, float]] = {}  # host: evidence, network time that it is of
        self._heard: list[tuple[NDArray[np.uint64], NDArray[np.float64], NDArray[np.float64]]] = []
        self._hosts = np.zeros(0, np.uint64)
        self._held = np.zeros(0)
        self._gone = self._hosts  # that were suspected until this piece

    def left(self) -> int:
        """Connections that the piece still has room for."""
        return PIECE - self._count % PIECE

    def of(self, orig: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether there is enough against the originators [n]."""
        return np.isin(orig, self._hosts) if len(self._hosts) else np.zeros(len(orig), np.bool_)

    def hear(self, orig: NDArray[np.uint64], end: NDArray[np.float64], p: NDArray[np.float64]) -> bool:
        """Takes in the p-values [n] of connections of one piece; whether the piece is over and there may be others."""
        self._count += len(orig)
        odd = np.flatnonzero(p < 10.0**-_LEAST)
        self._heard.append((orig[odd], end[odd], -np.log10(p[odd]) - _LEAST))
        if self._count % PIECE:
            return False
        suspected = self._hosts
        hosts, ends, more = (np.concatenate(column) for column in zip(*self._heard, strict=True))
        self._heard.clear()
        if not len(hosts) and not len(self._hosts):
            return False
        for host, now, e in zip(hosts.tolist(), ends.tolist(), more.tolist(), strict=True):
            before, at = self._evidence.get(host, (0.0, now))
            left = float(np.exp(-(now - at) / _FADE)) if now > at else 1.0
            self._evidence[host] = before * left + e, max(now, at)
        now = float(end.max())
        evidence, at_time = np.array(list(self._evidence.values())).reshape(-1, 2).T
        left_now = evidence * np.exp(-np.maximum(now - at_time, 0.0) / _FADE)
        faded = dict(zip(self._evidence, left_now.tolist(), strict=True))
        self._evidence = {h: self._evidence[h] for h, e in faded.items() if e > 0.1}
        if len(self._evidence) > _MOST:
            most = sorted(self._evidence, key=lambda h: (-faded[h], h))[:_MOST]
            self._evidence = {h: self._evidence[h] for h in most}
        enough = sorted(h for h in self._evidence if faded[h] >= _ENOUGH)
        self._hosts = np.array(enough, np.uint64)
        self._gone = np.setdiff1d(suspected, self._hosts)
        self._held = np.array([faded[h] for h in enough])
        return True

    def suspects(self) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
        """Hosts and the evidence against each; 0 of those against whom there is no longer enough."""
        return np.concatenate([self._hosts, self._gone]), np.concatenate(
            [self._held, np.zeros(len(self._gone))]
        )

    def state(self) -> dict[str, NDArray[Any]]:
        """All of it, as arrays by name."""
        hosts = list(self._evidence)
        heard = self._heard or [(np.zeros(0, np.uint64), np.zeros(0), np.zeros(0))]
        columns = [np.concatenate(column) for column in zip(*heard, strict=True)]
        return {
            "count": np.array([self._count]), "hosts": np.array(hosts, np.uint64),
            "evidence": np.array([self._evidence[h] for h in hosts]).reshape(-1, 2), "suspects": self._hosts,
            "held": self._held, "heard.hosts": columns[0], "heard.ends": columns[1], "heard.evidence": columns[2],
        }  # fmt: skip

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Goes on from a `state`."""
        self._count = int(state["count"][0])
        pairs = [(float(e), float(at)) for e, at in state["evidence"]]
        self._evidence = dict(zip(state["hosts"].tolist(), pairs, strict=True))
        self._hosts, self._held = state["suspects"], state["held"]
        self._heard = [(state["heard.hosts"], state["heard.ends"], state["heard.evidence"])]
