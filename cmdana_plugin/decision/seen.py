"""What incidents are made of: the connections of a block as columns to be weighed, and one of them as it is kept."""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.decision.usual.tails import LEAST, MOST
from cmdana_plugin.decision.verdict import Verdict, Verdicts, made_of
from cmdana_plugin.detector import BENIGN, PERSISTENCE
from feature_extractors import CONN_STATES, Connections, Stage, addresses_of
from feature_extractors.features import load_schema

if TYPE_CHECKING:
    from cmdana_plugin.detector import Scores
    from feature_extractors.features import Encoded

_NO_ANSWER: Final = np.array([s in ("S0", "REJ", "RSTOS0", "RSTRH", "SH", "SHR") for s in (*CONN_STATES, "")])
_REJ: Final = CONN_STATES.index("REJ")
_TCP: Final = 6
_RETRY_SECONDS: Final = 60.0  # within which a refused attempt that is made again is no news
_MOST_RETRIES: Final = 65_536  # pairs and ports
_NEW_AN_HOUR: Final = 10.0  # things that a host newly goes to in an hour, at most on average
MAX_NAME: Final = 128  # characters of a name that are kept


class Seen(NamedTuple):
    """One connection, as an incident's facts need it."""

    verdict: Verdict
    end: float  # network time, seconds since the epoch
    evidence: float  # -log10 p
    tried: bool  # never answered, or closed before a byte was said
    sent: int  # bytes of the originator
    got: int
    accepted: int = 0  # how often its logs say so of what was asked for
    refused: int = 0
    asked: tuple[str, str, str] | None = None  # what that was: ("SSH login", "SSH logins", "refused")
    domain: str = ""  # registered domain of the name that it asked for or spoke to
    bits: float = 0.0  # information in names below that domain
    component: str | None = None  # of the score, the oddest
    persistence: float = 0.0  # -log10 of the share of hosts' hours that keep as long to what is new to them
    # -log10 of the share of hosts' hours here in which one connection sends as much, or that come to as much with it:
    volume: float = 0.0
    reach: float = 0.0  # responders that are spoken to,
    guesses: float = 0.0  # logins that are refused,
    tries: float = 0.0  # connections without an answer,
    names: float = 0.0  # information in the names below one domain
    duration: float = 0.0  # seconds, 0 where it is unset

    @property
    def last(self) -> float:
        """Network time of its last packet: its row is made later, of what is not answered by seconds."""
        return min(self.verdict.ts + self.duration, max(self.end, self.verdict.ts))

    @property
    def against(self) -> float:
        """The evidence that it is against its originator."""
        return max(self.evidence, self.persistence, self.volume, self.amount)

    @property
    def amount(self) -> float:
        """The evidence of what its hour has come to with it."""
        return max(self.reach, self.guesses, self.tries, self.names)

    @property
    def service(self) -> str:
        return self.verdict.service_or_port


@dataclass(frozen=True, slots=True)
class Rows:
    """A block of connections [n] in order of their ends."""

    orig: NDArray[np.uint8]  # [n, 16]
    resp: NDArray[np.uint8]
    end: NDArray[np.float64]
    evidence: NDArray[np.float64]
    persistence: NDArray[np.float64]  # as of `Seen`
    tried: NDArray[np.bool_]
    early: NDArray[np.bool_]
    odd: NDArray[np.bool_]  # by itself, at the budget
    rejected: NDArray[np.bool_]  # nobody listens there
    port: NDArray[np.int64]  # of the responder
    counts: NDArray[np.float64]  # [n, len(USUAL)]
    logins: NDArray[np.float64]  # [n] that its logs say were refused
    bits: NDArray[np.float64]  # [n] as of `Seen`
    domain: Sequence[str]
    seen: Callable[[Sequence[int]], list[Seen]]  # those of these rows
    pair: Callable[[int], tuple[str, str, int, str]]  # originator, responder, its port, protocol

    def __len__(self) -> int:
        return len(self.end)


class Retries:
    """Which attempts only repeat one that was refused: a program that wants a server back asks many times a minute."""

    def __init__(self) -> None:
        self._counted: OrderedDict[bytes, float] = OrderedDict()  # network time of the last

    def of(self, rows: Rows, e: NDArray[np.float64]) -> NDArray[np.int64]:
        """Of connections with the evidence `e` [n], those whose pair and port counted less than a minute before."""
        at, again = np.flatnonzero(rows.rejected & (e >= LEAST)), []
        if not len(at):
            return at
        port = rows.port[at].astype(">u4")[:, None].view(np.uint8)
        keys = np.concatenate([rows.orig[at], rows.resp[at], port], axis=1).view("V36").ravel().tolist()
        counted = self._counted
        for i, key, now in zip(at.tolist(), keys, rows.end[at].tolist(), strict=True):
            if abs(now - counted.get(key, -math.inf)) < _RETRY_SECONDS:
                again.append(i)
                continue
            counted[key] = now
            counted.move_to_end(key)
            if len(counted) > _MOST_RETRIES:
                counted.popitem(last=False)
        return np.array(again, np.int64)


class Oddest:
    """Which connections are among the oddest of a responder, until it is `forget`: no others can count against it."""

    def __init__(self, most: int, responders: int) -> None:
        """So many of each responder, of whom so many are held; of any beyond these all are among them."""
        self._most = most
        self._responders = responders
        self._least: dict[str, list[float]] = {}  # a heap of the evidence of each

    def takes(self, s: Seen) -> bool:
        """Whether this one is, of those so far."""
        heap = self._least.get(s.verdict.resp_h)
        if heap is None:
            heap = []
            if len(self._least) < self._responders:
                self._least[s.verdict.resp_h] = heap
        if len(heap) < self._most:
            heapq.heappush(heap, s.evidence)
            return True
        return heapq.heappushpop(heap, s.evidence) < s.evidence

    def forget(self) -> None:
        self._least.clear()


USUAL: Final = ("connections", "tries", "refused", "sent")  # what is counted of a host by day


def in_vain(c: Connections) -> NDArray[np.bool_]:
    """Which connections [n] were never answered, or closed before a byte was said."""
    nothing_said = (c.ip_proto == _TCP) & (c.orig_bytes <= 0) & (c.resp_bytes <= 0)
    found: NDArray[np.bool_] = _NO_ANSWER[c.conn_state] | nothing_said
    return found


def rows_of(
    windows: Encoded,
    verdicts: Verdicts,
    scores: Scores,
    oddest: Callable[[Sequence[int]], Sequence[str | None]],
) -> Rows:
    """The connections of a block."""
    c = windows.connections
    n = len(windows)
    sent, got = np.maximum(c.orig_bytes, 0), np.maximum(c.resp_bytes, 0)
    tried = in_vain(c)
    accepted, refused, told_by = windows.accepted, windows.refused, windows.told_by
    bits, domain = np.nan_to_num(windows.subdomain_bits).astype(np.float64), windows.domain
    with np.errstate(divide="ignore"):
        evidence = np.clip(-np.log10(scores.p_value), 0.0, MOST)
    persistence = _persistence(scores)
    duration = np.maximum(np.nan_to_num(c.duration), 0.0)
    asked = _outcomes()

    def seen(rows: Sequence[int]) -> list[Seen]:
        at = np.asarray(rows, np.int64)
        columns = [column[at].tolist() for column in (c.end, evidence, tried, sent, got, accepted, refused)]
        told = [asked[k - 1] if 0 < k <= len(asked) else None for k in told_by[at].tolist()]
        names = [domain[i][:MAX_NAME] for i in rows]
        more = (
            told,
            names,
            bits[at].tolist(),
            oddest(rows),
            persistence[at].tolist(),
            *([[0.0] * len(at)] * len(_AMOUNTS)),
            duration[at].tolist(),
        )
        return made_of(Seen, verdicts.rows(rows), *columns, *more)

    def pair(i: int) -> tuple[str, str, int, str]:
        return verdicts.orig_h[i], verdicts.resp_h[i], int(verdicts.resp_p[i]), verdicts.proto[i]

    return Rows(
        c.orig_h, c.resp_h, c.end, evidence, persistence, tried, c.stage == Stage.EARLY, verdicts.verdict.code != 0,
        c.conn_state == _REJ, c.resp_p.astype(np.int64),
        np.stack([np.ones(n), tried, refused, sent], axis=1).astype(np.float64),
        np.where(_of_logins()[told_by], refused, 0).astype(np.float64), bits, domain, seen, pair,
    )  # fmt: skip


def rows_of_seen(seen: Sequence[Seen]) -> Rows:
    """Connections that others have judged, none of them early, in order of their ends."""
    n = len(seen)

    def pair(i: int) -> tuple[str, str, int, str]:
        v = seen[i].verdict
        return v.orig_h, v.resp_h, v.resp_p, v.proto

    return Rows(
        addresses_of([s.verdict.orig_h for s in seen]), addresses_of([s.verdict.resp_h for s in seen]),
        np.array([s.end for s in seen], np.float64), np.array([s.evidence for s in seen], np.float64),
        np.zeros(n), np.array([s.tried for s in seen], np.bool_), np.zeros(n, np.bool_),
        np.array([s.verdict.verdict != BENIGN for s in seen], np.bool_), np.zeros(n, np.bool_),
        np.zeros(n, np.int64), np.zeros((n, len(USUAL))), np.zeros(n), np.zeros(n), [""] * n,
        lambda rows: [seen[i] for i in rows], pair,
    )  # fmt: skip


_AMOUNTS: Final = ("volume", "reach", "guesses", "tries", "names")  # in the order of `MEASURES`


def with_amounts(
    seen: Callable[[Sequence[int]], list[Seen]], beyond: NDArray[np.float64]
) -> Callable[[Sequence[int]], list[Seen]]:
    """The same connections, with what `beyond` [n, MEASURES] holds when they are asked for."""

    def with_them(rows: Sequence[int]) -> list[Seen]:
        pairs = zip(seen(rows), beyond[np.asarray(rows, np.int64)].tolist(), strict=True)
        return [s._replace(**dict(zip(_AMOUNTS, each, strict=True))) if any(each) else s for s, each in pairs]

    return with_them


def _persistence(scores: Scores) -> NDArray[np.float64]:
    share = scores.components.get(PERSISTENCE)
    if share is None:
        return np.zeros(len(scores.p_value))
    return np.clip(-np.log10(_NEW_AN_HOUR * np.nan_to_num(share, nan=1.0)), 0.0, MOST)


def _outcomes() -> Sequence[tuple[str, str, str]]:
    """What is asked for, by `told_by` less one: singular, plural, and how it ends where it is refused."""
    return [(o.one, o.many, o.ended) for o in load_schema().outcomes]


@cache
def _of_logins() -> NDArray[np.bool_]:
    """By `told_by`, whether it tells of logins; not where every login begins with a refusal (401 of HTTP and SIP)."""
    return np.array([False] + ["login" in o.one and bool(o.accepted) for o in load_schema().outcomes])
