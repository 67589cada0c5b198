"""What the connections of an incident come to: how many, of whom, to whom, how often, how much; everything bounded."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias, TypeVar

import numpy as np

from cmdana_plugin.decision.seen import Seen
from cmdana_plugin.decision.usual.tails import FIRM

K = TypeVar("K")
W = TypeVar("W")
TRIES: Final = "tries"  # the strand of what was never answered, to whichever port
MOST: Final = 4096  # ports, and targets, told apart in a strand
_STRANDS: Final = 16
_ROOM: Final = 12_288  # ports, targets and sources told apart in an incident
_RING: Final = 64  # intervals, and names, that are remembered
_LIKE: Final = 0.3  # share of evident connections from which on those like them belong to an incident
_BURST: Final = 50
_FEW: Final = 12  # connections that stand for all
_STRONGEST: Final = 24  # connections that are remembered for their evidence
_PART: Final = 0.1  # of the evidence of the strongest strand, from which on an incident is about another too
_TOGETHER: Final = 0.05  # times the median: connections so near belong to one call


@dataclass(slots=True)
class Strand:
    """The connections of an incident of one service or port, or those that were never answered."""

    name: str
    first: float = math.inf
    last: float = -math.inf
    connections: int = 0
    evident: int = 0  # of which, by themselves, less usual than one in ten
    evidence: float = 0.0  # their sum beyond that
    targets: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    ports: set[str] = field(default_factory=set)
    sent: int = 0
    got: int = 0
    accepted: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    refused: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    domains: Counter[str] = field(default_factory=Counter)
    bits: Counter[str] = field(default_factory=Counter)  # by domain
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)  # of `bits`, from when until when
    known: Counter[str] = field(default_factory=Counter)  # attacks that a supervised model names
    kept: Counter[str] = field(default_factory=Counter)  # connections by new domain or host that is kept to
    longest: float = 0.0  # -log10 of the share of hosts' hours in which what is new lasts as long
    volume: float = 0.0  # of those in which one connection sends as much,
    reach: float = 0.0  # as many hosts are spoken to,
    guesses: float = 0.0  # as many logins refused,
    tries: float = 0.0  # as many connections not answered,
    names: float = 0.0  # as much information in names below one domain
    begun: deque[float] = field(default_factory=lambda: deque(maxlen=_RING))
    latest: deque[str] = field(default_factory=lambda: deque(maxlen=_FEW))  # uids of what is evident

    def add(self, s: Seen, against: float, most: int = MOST) -> int:
        """Takes in a connection; how many more ports, targets and sources are told apart, `most` of each at most."""
        v, targets, sources, ports = s.verdict, self.targets, self.sources, self.ports
        before = len(targets) + len(sources) + len(ports)
        ts, last, target, source = v.ts, s.last, v.resp_h, v.orig_h
        self.first = min(self.first, ts)
        self.last = max(self.last, last)
        self.connections += 1
        if against >= 1.0:
            self.evident += 1
            self.evidence += against - 1.0
            self.latest.append(v.uid)
        if target in targets or len(targets) < most:
            targets[target] += 1
        if source in sources or len(sources) < most:
            sources[source] += 1
        if len(ports) < most:
            ports.add(f"{v.resp_p}/{v.proto}")
        self.sent += s.sent
        self.got += s.got
        if s.asked is not None:
            tally(self.accepted, s.asked, s.accepted)
            tally(self.refused, s.asked, s.refused)
        domain = s.domain
        if domain:
            tally(self.domains, domain, most=_RING)
            tally(self.bits, domain, round(s.bits), most=_RING)
            if domain in self.bits:
                first, until = self.spans.get(domain, (ts, last))
                self.spans[domain] = min(first, ts), max(until, last)
        if v.verdict not in ("benign", "anomalous"):
            tally(self.known, v.verdict, most=_RING)
        if s.persistence >= 1.0:
            tally(self.kept, domain or target, most=_RING)
            self.longest = max(self.longest, s.persistence)
        self.volume = max(self.volume, s.volume)
        self.reach = max(self.reach, s.reach)
        self.guesses = max(self.guesses, s.guesses)
        self.tries = max(self.tries, s.tries)
        self.names = max(self.names, s.names)
        self.begun.append(ts)
        return len(targets) + len(sources) + len(ports) - before

    @property
    def target(self) -> str:
        """The host that most are to."""
        return self.targets.most_common(1)[0][0] if self.targets else ""

    @property
    def lasted(self) -> float:
        return max(self.last - self.first, 0.0)

    def a_second(self) -> float:
        """How many there have been a second, of the latest half a hundred; 0 of fewer."""
        times = np.sort(np.array(self.begun))
        return (_BURST - 1) / max(float(times[-1] - times[-_BURST]), 1e-3) if len(times) >= _BURST else 0.0

    def pace(self) -> float:
        """As `a_second`, of connections in the order in which they came: a rough one that costs nothing."""
        if len(self.begun) < _BURST:
            return 0.0
        return (_BURST - 1) / max(abs(self.begun[-1] - self.begun[-_BURST]), 1e-3)

    def beat(self) -> tuple[float, float, int] | None:
        """Seconds between calls, their spread (half of them differ by less, as a share), and how many there were."""
        times = np.sort(np.array(self.begun))
        gaps = np.diff(times)
        gaps = gaps[gaps > _TOGETHER * np.median(gaps)] if len(gaps) else gaps
        if len(gaps) < 5:
            return None
        middle = float(np.median(gaps))
        return middle, float(np.median(np.abs(gaps - middle)) / max(middle, 1e-9)), len(gaps)


@dataclass(slots=True)
class Pair:
    """The connections of one strand with one host or domain at the other end, where there was evidence."""

    connections: int = 1
    evident: int = 1
    evidence: float = 0.0  # as a strand's
    told: float = 0.0  # of that, what the last notice that spoke of it knew
    uids: deque[str] = field(default_factory=lambda: deque(maxlen=_FEW))  # of the latest


Taken: TypeAlias = tuple[Strand, Pair | None]  # what a connection was taken into


@dataclass(slots=True)
class Facts:
    """The strands of an incident, and what they have in common."""

    role: str = "originator"  # of the incident's host
    strands: dict[str, Strand] = field(default_factory=dict)
    # By strand and who is at the other end: the domain where one is named, else the host.
    pairs: dict[tuple[str, str], Pair] = field(default_factory=dict)
    tried_by: dict[str, Pair] = field(default_factory=dict)  # by originator, what it tried of whomever
    components: Counter[str] = field(
        default_factory=Counter
    )  # of the score, the oddest of each evident connection
    strongest: list[tuple[float, str]] = field(default_factory=list)  # evidence and uid of a few
    connections: int = 0
    evident: int = 0
    first: float = math.inf
    last: float = -math.inf
    held: int = 0  # ports, targets and sources told apart

    def take(self, s: Seen) -> Taken | None:
        """Takes in a connection of one of the incident's hosts; None where it is of the host's ordinary use.

        It is of the incident by itself, or is like others of which a good part are: tries to whomever, the same with
        the same host.
        """
        against, name = s.against, strand_of(s)
        key = name, self._other(s)
        strand, pair = self.strands.get(name), self.pairs.get(key)
        if pair is not None:
            pair.connections += 1
        if against < FIRM:
            if name == TRIES and strand is not None and strand.evident >= 3:
                if strand.evident < _LIKE * strand.connections:
                    return None
            elif pair is None or pair.evident < _LIKE * pair.connections:
                return None
        return self._added(s, against, key, strand, pair)

    def add(self, s: Seen) -> Taken:
        """Takes in a connection that is of the incident."""
        name = strand_of(s)
        key = name, self._other(s)
        return self._added(s, s.against, key, self.strands.get(name), self.pairs.get(key))

    def of(self, s: Seen) -> tuple[Strand | None, Pair | None]:
        """What is known of connections like this one: the strand, and of that those with the same host."""
        name = strand_of(s)
        return self.strands.get(name), self.pairs.get((name, self._other(s)))

    def _other(self, s: Seen) -> str:
        if self.role == "originator":
            return s.domain or s.verdict.resp_h
        return s.verdict.orig_h

    def _added(
        self, s: Seen, against: float, key: tuple[str, str], strand: Strand | None, pair: Pair | None
    ) -> Taken:
        name = key[0]
        if strand is None:
            if len(self.strands) >= _STRANDS:
                least = min(self.strands, key=lambda k: self.strands[k].evidence)
                gone = self.strands.pop(least)
                self.held -= len(gone.targets) + len(gone.sources) + len(gone.ports)
            strand = self.strands[name] = Strand(name)
        self.held += strand.add(s, against, MOST if self.held < _ROOM else 1)
        self.connections += 1
        uid = s.verdict.uid
        self.first = min(self.first, s.verdict.ts)
        self.last = max(self.last, s.last)
        if against >= 1.0:
            self.evident += 1
            pair = _brought(self.pairs, key, against, uid)
            if name == TRIES and self.role == "originator":
                _brought(self.tried_by, s.verdict.orig_h, against, uid)
            if s.component is not None:
                tally(self.components, s.component)
            self.strongest.append((against, uid))
            if len(self.strongest) > _STRONGEST:
                self.strongest = sorted(self.strongest, reverse=True)[: _STRONGEST // 2]
        return strand, pair

    def ordered(self) -> Sequence[Strand]:
        """The strands, those of most evidence first."""
        return sorted(self.strands.values(), key=lambda s: (-s.evidence, s.name))

    def main(self) -> Sequence[Strand]:
        """Those that the incident is about: a stray connection of a busy host is no part of when and of whom it is."""
        strands = self.ordered()
        return [s for s in strands if s.evidence >= _PART * strands[0].evidence]

    @property
    def reach(self) -> int:
        """Hosts at the other end of what was tried in vain, as far as they are told apart."""
        tries = self.strands.get(TRIES)
        if tries is None:
            return 0
        return len(tries.targets if self.role == "originator" else tries.sources)

    def targets(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for strand in self.strands.values():
            total.update(strand.targets)
        return total

    def services(self) -> Counter[str]:
        """How many connections there are of each service or port."""
        total: Counter[str] = Counter()
        for strand in self.strands.values():
            if strand.name != TRIES:
                total[strand.name] += strand.connections
            else:
                total.update(dict.fromkeys(sorted(strand.ports)[:MOST], 1))
        return total


def _brought(pairs: dict[K, Pair], key: K, against: float, uid: str) -> Pair | None:
    """Of whom a connection is evidence; None where there is no room."""
    pair = pairs.get(key)
    if pair is not None:
        pair.evident += 1
    elif len(pairs) < MOST:
        pair = pairs[key] = Pair()
    if pair is not None:
        pair.evidence += against - 1.0
        pair.uids.append(uid)
    return pair


def strand_of(s: Seen) -> str:
    return TRIES if s.tried else s.service


def tally(counts: Counter[W], word: W, n: int = 1, most: int = MOST) -> None:
    """Counts `word`, unless it is one too many to be told apart."""
    if n and (word in counts or len(counts) < most):
        counts[word] += n
