"""Evidence against hosts to incidents: they open, grow, merge, grow quiet and close; one is a notice that is updated.

No single odd connection is needed, and one alone seldom is enough. `alerts_per_day` is how many hosts' hours of normal
use a day may look like an incident: their number times the tail of `tails`, a sum of expectations, which holds whatever
the hosts have in common. What many hosts do at once is one incident, and so is what one host reaches through another.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.config import Incident
from cmdana_plugin.config import Verdict as Budget
from cmdana_plugin.decision.allow import AllowList
from cmdana_plugin.decision.evidence import BLOCK, Evidence
from cmdana_plugin.decision.facts import TRIES, Facts, Pair, Strand, strand_of, tally
from cmdana_plugin.decision.kinds import UNUSUAL, Setting, is_remote, named
from cmdana_plugin.decision.notice import (
    ANOMALOUS_CONNECTION,
    ANOMALOUS_HOST,
    KNOWN_ATTACK,
    MAX_COUNTED,
    HostIncident,
    Notice,
    Role,
)
from cmdana_plugin.decision.past import ROLES_OF, Past, role_of
from cmdana_plugin.decision.seen import USUAL, Oddest, Retries, Rows, Seen, rows_of_seen, with_amounts
from cmdana_plugin.decision.stored import made, plain
from cmdana_plugin.decision.usual.amounts import MEASURES
from cmdana_plugin.decision.usual.habits import Habits
from cmdana_plugin.decision.usual.tails import KEPT, LEAST, Tails
from cmdana_plugin.decision.verdict import Verdict
from cmdana_plugin.detector import ANOMALOUS, BENIGN, score_of
from cmdana_plugin.statefile import of_text, prefixed, text_array, under

REVISED: Final = "revised"  # the stage of a row about a connection that turned out to belong to an incident
_GROWTH: Final = 10  # an open incident is noticed again each time it has grown tenfold
_NEWS: Final = 8.0  # evidence (-log10 p beyond one in ten each) from which on a further thing is told of
_FAST: Final = 0.5  # connections a second that are a burst of their own
_NAMED: Final = 3  # services of an incident
_HOSTS: Final = 8  # and hosts and targets
_MOST_CASES: Final = 512  # hosts with an incident that is open or may go on
_MOST_ENDED: Final = 4096  # incidents remembered after that
_COMMON: Final = 3  # hosts that do the same unusual thing, from which on it is the site's and not theirs
_MOST_HOSTS: Final = 256  # that do the same thing in one incident
_MOST_NEAR: Final = 256
_PER_HOST: Final = 25  # connections of a day for each hour of a host, until the hosts have been counted
_DAY: Final = 86400.0


def threshold(budget: Budget) -> float:
    """The score at which a verdict is no longer benign: the budget's share of all connections, as a tail."""
    share = min(budget.alerts_per_day / budget.connections_per_day, 0.5)
    return float(score_of(np.array(share)))


@dataclass(slots=True)
class Decided:
    """What came of a block."""

    notices: dict[int, list[Notice]] = field(default_factory=dict)  # by row
    incident: dict[int, str] = field(default_factory=dict)  # by row, of rows of an incident
    revised: list[tuple[int, Verdict]] = field(default_factory=list)  # earlier connections, after this row
    elsewhere: list[Seen] = field(
        default_factory=list
    )  # the oddest of an hour to responders that others watch


@dataclass(slots=True)
class _Case:
    """An incident as it grows."""

    id: str
    role: Role
    host: str
    opened: float
    until: float  # network time of the last connection that belonged to it
    facts: Facts
    evidence: float
    hosts: dict[str, None]  # that do it, `_MOST_HOSTS` at most
    chain: list[str]  # hosts in the order in which one reached the next
    usual: Mapping[str, float]
    alone: bool = False
    told: int = 0  # connections when it was noticed last
    looked: int = 0  # and when it was looked at last
    reach: int = 0  # hosts at the other end when it was noticed last
    kind: str = ""
    lead: str = ""  # the strand that it was last noticed for
    # Of the last notice by strand and originator: network time, and the evidence of what it told most of.
    strands_told: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    paces: dict[str, float] = field(default_factory=dict)  # a second, by strand, when it was noticed last


class Decider:
    """Connections in, notices out. Early verdicts may open an incident, and are not counted in it."""

    def __init__(
        self,
        budget: Budget,
        incident: Incident,
        tails: Tails | None = None,
        key: tuple[int, int] | None = None,
        *,
        at_home: bool = False,
    ) -> None:
        self.threshold = threshold(budget)
        self.suppressed = 0  # incidents that went on after they had grown quiet, and were not noticed anew
        self.allowed = 0  # connections on the allow-list that else would have counted
        self.evidence = Evidence(tails, incident.max_hosts, incident.quiet, key, at_home=at_home)
        self._budget = budget
        self._quiet = incident.quiet
        self._allow = AllowList(budget.allow)
        self._known: dict[tuple[int, str, str, int, str], bool] = {}  # whether these are allowed, by era
        self._cases: OrderedDict[tuple[Role, str], _Case] = OrderedDict()  # by host that does it
        self._by_place: dict[int, _Case] = {}
        self._ended: deque[HostIncident] = deque(maxlen=_MOST_ENDED)
        self._past = Past()
        self._habits = Habits(incident.max_hosts)
        self._hour: int | None = None
        self._near: dict[str, float] = {}  # what came nearest to an alarm, by originator
        # Which responders [n, 16] are ours to watch; None: all.
        self.ours: Callable[[NDArray[np.uint8]], NDArray[np.bool_]] | None = None
        self._elsewhere = Oddest(KEPT, incident.max_hosts)
        self._retries = Retries()
        self._set_limit()

    @property
    def forgotten(self) -> int:
        """Hosts whose evidence was let go, and that were not counted among whom one spoke to, to keep the bounds."""
        return self.evidence.forgotten + self._habits.uncounted

    def state(self) -> dict[str, NDArray[Any]]:
        """Evidence, incidents and habits, as arrays by name."""
        cases = {case.id: case for case in [*self._cases.values(), *self._by_place.values()]}
        text = {
            "suppressed": self.suppressed,
            "allowed": self.allowed,
            "cases": [plain(case) for case in cases.values()],
            "hosts": [[role, host, case.id] for (role, host), case in self._cases.items()],
            "places": [[place, case.id] for place, case in self._by_place.items()],
            "ended": [plain(incident) for incident in self._ended],
            "near": list(self._near.items()),
            "hour": self._hour,
            "past": self._past.state(),
        }
        return (
            prefixed("evidence.", self.evidence.state())
            | prefixed("habits.", self._habits.state())
            | {"incidents": text_array(text)}
        )

    def restore(self, state: Mapping[str, NDArray[Any]], learned: bool = True) -> None:
        """Goes on from a `state`, without what hours came to by another model (not `learned`).

        Raises `ValueError` where it is none, or of a table of another size.
        """
        text = of_text(state, "incidents")
        try:
            cases = {case.id: case for case in (made(_Case, c) for c in text["cases"])}
            by_host = OrderedDict(((role_of(r), str(h)), cases[i]) for r, h, i in text["hosts"])
            by_place = {int(place): cases[i] for place, i in text["places"]}
            ended = [made(HostIncident, incident) for incident in text["ended"]]
            near = {str(host): float(e) for host, e in text["near"]}
            hour = None if text["hour"] is None else int(text["hour"])
            suppressed, allowed = int(text["suppressed"]), int(text["allowed"])
            past = Past()
            past.restore(text["past"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"incidents: found no {error}") from None
        self.evidence.restore(under("evidence.", state), learned)
        self._habits.restore(under("habits.", state))
        self._cases, self._by_place, self._near, self._hour = by_host, by_place, near, hour
        self._ended, self._past = deque(ended, _MOST_ENDED), past
        self.suppressed, self.allowed = suppressed, allowed

    def overheard(self, seen: Sequence[Seen]) -> Decided:
        """What odd connections of others' originators come to against responders that are ours."""
        rows = rows_of_seen(seen)
        out = self.receive(rows, overheard=True)
        for i, incident in out.incident.items():
            out.revised.append((i, _revised(seen[i].verdict, incident)))
        return out

    def receive(self, rows: Rows, *, overheard: bool = False) -> Decided:
        """What a block of the stream comes to; however the stream is cut, the same."""
        out = Decided()
        if not len(rows):
            return out
        ours = np.ones(len(rows), np.bool_) if overheard or self.ours is None else self.ours(rows.resp)
        orig, resp = self.evidence.keys(rows.orig, 0), self.evidence.keys(rows.resp, 1)
        e, host = self._counted(rows)
        owner, told = np.full(len(rows), -1), np.zeros(len(rows))
        # Of what is allowed nothing counts.
        counts = ~rows.early & (e > 0.0)
        beyond = np.zeros((len(rows), len(MEASURES)))
        rows = replace(rows, seen=with_amounts(rows.seen, beyond))
        hour = np.floor(rows.end / BLOCK).astype(np.int64)
        cuts = [0, *(np.flatnonzero(np.diff(hour)) + 1).tolist(), len(rows)]
        for begin, stop in itertools.pairwise(cuts):
            self._turn(int(hour[begin]))
            each = slice(begin, stop)
            brought = e[each].copy()
            if not overheard:
                e[each] = self._habits.beyond(orig[each], brought)
                amounts = self._habits.amounts(
                    orig[each], resp[each], rows.counts[each, USUAL.index("sent")], rows.logins[each],
                    rows.tried[each], rows.bits[each], rows.domain[begin:stop], counts[each],
                )  # fmt: skip
                beyond[each] = self._habits.beyond_others(amounts)
                host[each] = np.maximum(host[each], beyond[each].max(axis=1))
            at = begin
            while at < stop:
                upto = self.evidence.upto(rows.end, at, stop)
                row, place = self.evidence.weigh(
                    at, orig[:upto], resp[:upto], rows.end[:upto], e[:upto], host[:upto], rows.tried[:upto],
                    rows.early[:upto], ours, owner, told, overheard=overheard,
                )  # fmt: skip
                self._gather(rows, at, row, np.maximum(e, host), ours, owner, told, out)
                if place >= 0:
                    self._alarm(rows, row, place, int(orig[row]), float(told[row]), out)
                at = row + 1 if place >= 0 else upto
            if not overheard:
                teaches = ~rows.early[each] & (owner[each] < 0)
                self._habits.count(amounts, rows.counts[each], brought, teaches)
        return out

    def incidents(self) -> list[HostIncident]:
        """All that there have been of late, as known by now: those that are over first."""
        unique = {case.id: case for case in self._cases.values()}
        now = [self._described(case)[0] for case in sorted(unique.values(), key=lambda c: c.opened)]
        return [*self._ended, *now]

    def nearest(self) -> list[tuple[float, str]]:
        """The evidence against the originators that came nearest to an alarm without being one, most first."""
        known = {host for _, host in self._cases} | {i.host for i in self._ended}
        return sorted(((e, host) for host, e in self._near.items() if host not in known), reverse=True)

    def _counted(self, rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """-log10 p and persistence, 0 of what is allowed and of what is only tried again."""
        e, host = rows.evidence.copy(), rows.persistence.copy()
        again = self._retries.of(rows, e)
        e[again] = host[again] = 0.0
        if not self._allow:
            return e, host
        for i in np.flatnonzero(np.maximum(e, host) >= LEAST).tolist():
            pair, now = rows.pair(i), float(rows.end[i])
            key = (self._allow.era(now), *pair)
            allowed = self._known.get(key)
            if allowed is None:
                if len(self._known) >= 65536:
                    self._known.clear()
                allowed = self._known[key] = self._allow.allows(pair, now)
            if allowed:
                self.allowed += bool(rows.odd[i])
                e[i] = host[i] = 0.0
        return e, host

    def _turn(self, hour: int) -> None:
        """Ends the hour that was counted if `hour` is another one; one back is a node of a cluster that lags."""
        if self._hour is not None and self._hour - 1 <= hour <= self._hour:
            return
        self._elsewhere.forget()
        if self._hour is not None:
            self.evidence.turn()
            self._habits.turn(min(max(hour - self._hour, 1), 24 * 7))
            if hour // 24 != self._hour // 24:
                self.evidence.next_day()
                self._habits.next_day()
            self._set_limit()
        self._hour = hour

    def _set_limit(self) -> None:
        hours = self.evidence.a_day(self._budget.connections_per_day / _PER_HOST)
        self.evidence.set_limit(max(math.log10(hours / self._budget.alerts_per_day), 1.0))

    def _gather(
        self, rows: Rows, begin: int, end: int, e: NDArray[np.float64], ours: NDArray[np.bool_],
        owner: NDArray[np.int64], told: NDArray[np.float64], out: Decided,
    ) -> None:  # fmt: skip
        """The connections before the next alarm: those of open incidents to these, what is odd among the rest kept."""
        part = slice(begin, end)
        wanted = np.flatnonzero(((owner[part] >= 0) | (e[part] >= 1.0)) & ~rows.early[part]) + begin
        at = wanted.tolist()
        places, evidence, here = owner[wanted].tolist(), told[wanted].tolist(), ours[wanted].tolist()
        for i, place, against, mine, s in zip(at, places, evidence, here, rows.seen(at), strict=True):
            case = self._by_place.get(place) if place >= 0 else None
            if case is None:
                self._past.keep(s)
                if not mine and self._elsewhere.takes(s):
                    out.elsewhere.append(s)
                self._remember_near(s.verdict.orig_h, against)
                continue
            taken = case.facts.take(s)
            if taken is None:
                continue
            out.incident[i] = case.id
            case.until = s.end
            case.evidence = max(case.evidence, against)
            notice = self._growth(case, s, *taken)
            if notice is not None:
                out.notices.setdefault(i, []).append(notice)

    def _remember_near(self, host: str, evidence: float) -> None:
        if evidence <= self._near.get(host, 0.0):
            return
        self._near[host] = evidence
        if len(self._near) >= _MOST_NEAR:
            self._near = dict(sorted(self._near.items(), key=lambda item: -item[1])[: _MOST_NEAR // 4])

    def _alarm(self, rows: Rows, row: int, place: int, key: int, evidence: float, out: Decided) -> None:
        """Opens an incident, or finds the one that this belongs to."""
        (s,) = rows.seen([row])
        self._bound(s.end)
        which = self.evidence.role(place)
        common = self.evidence.limit + self.evidence.everybody(which)
        if evidence < common:  # what everybody does at the same time is no incident of one
            self.evidence.raise_limit(which, common, s.end)
            if not rows.early[row]:
                self._past.keep(s)
            return
        role = ROLES_OF[which]
        host = s.verdict.orig_h if role == "originator" else s.verdict.resp_h
        earlier = self._past.of(role, host, s)
        case = self._cases.get((role, host))
        resumed = case is not None
        if case is None:
            case = self._same_thing(role, host, s, [*earlier, s])
        new = case is None
        if case is None:
            mark = hashlib.blake2s(f"{role}|{host}|{s.verdict.ts:.6f}".encode(), digest_size=6).hexdigest()
            usual = self._habits.usual(key) if role == "originator" else {}
            case = _Case(mark, role, host, s.end, s.end, Facts(role), evidence, {}, [host], usual)
        if len(case.hosts) < _MOST_HOSTS:
            case.hosts[host] = None
        self._by_place[place] = case
        self._cases[role, host] = case
        self._cases.move_to_end((role, host))
        self.evidence.hold(place, s.end)
        other = self.evidence.place(self.evidence.keys(rows.resp[row : row + 1], 1)[0])
        # Who else speaks to a responder is not known where others have hosts of their own.
        case.alone = (
            role == "originator" and self.ours is None and other >= 0 and self.evidence.alone(other)
            and len(case.hosts) == 1
        )  # fmt: skip
        if role == "originator":
            self._habits.uncount(key, [o.evidence for o in earlier if o.end // _DAY == s.end // _DAY])
        for old in earlier:
            case.facts.add(old)
            out.revised.append((row, _revised(old.verdict, case.id)))
        case.until, case.evidence = s.end, max(case.evidence, evidence)
        if not rows.early[row]:
            case.facts.add(s)
            out.incident[row] = case.id
        elif new:
            case.facts.add(s._replace(evidence=max(s.evidence, 1.0)))
        self.suppressed += resumed
        # One more host of a few is told of, where it is known what they do; a roll-out is told of once.
        joined = not new and not resumed and len(case.hosts) < _COMMON and case.kind != UNUSUAL
        notice = self._told(case, s) if new or joined else self._growth(case, s, *case.facts.of(s))
        if notice is not None:
            out.notices.setdefault(row, []).append(notice)

    def _same_thing(self, role: Role, host: str, s: Seen, seen: Sequence[Seen]) -> _Case | None:
        """The open incident that a host's evidence belongs to: others do the same, or one of them has reached it."""
        if role == "responder":
            return None
        main, domain = _mostly(seen)
        for case in list(self._cases.values())[::-1]:
            if case.role != role or s.end - case.until > self._quiet:
                continue
            # Where no service was spoken nobody has got further: a scanned host is no hop.
            spoken = [strand for w, strand in case.facts.strands.items() if "/" not in w and is_remote(w)]
            if any(host in strand.targets for strand in spoken):
                for hop in (case.chain, [host]):
                    if host not in hop:
                        hop.append(host)
                return case
            top = case.facts.ordered()[0]
            if domain and domain in top.domains:
                return case
            if not domain and main == (top.name, top.target) and main[0] != TRIES:
                return case
        return None

    def _growth(self, case: _Case, s: Seen, strand: Strand | None, pair: Pair | None) -> Notice | None:
        """A notice where an incident has grown or reaches tenfold, or is by now known for what it is.

        `strand` and `pair` are what is known of connections like `s`: of an early verdict, which is not counted, there
        may be none.
        """
        facts = case.facts
        n, news = facts.connections, self._news(case, s, strand, pair)
        if pair is not None and not pair.told and self._is_amount(case, s):
            news = pair
        if news is None and s.tried:
            tried = facts.tried_by.get(s.verdict.orig_h)
            if tried is not None and tried.evident >= _GROWTH:  # of a few nobody can say what they are
                news = self._news(case, s, strand, tried)
        if case.kind == UNUSUAL and len(case.hosts) >= _COMMON and (news is None or news.told):
            return None  # a surge or a roll-out: once is enough
        if news is not None:
            return self._told(case, s, news.uids)
        if strand is not None and (facts.reach >= _GROWTH * case.reach or self._faster(case, strand, s)):
            return self._told(case, s, strand.latest)
        if n >= _GROWTH * case.told:
            return self._told(case, s)
        if case.kind == UNUSUAL and n >= 1.5 * case.looked:
            case.looked = n
            if named(facts, self._setting(case), 1).kind != UNUSUAL:
                return self._told(case, s)
        return None

    def _news(self, case: _Case, s: Seen, strand: Strand | None, pair: Pair | None) -> Pair | None:
        """What the host by now does beside what was told, or to somebody else after a while."""
        if strand is None or pair is None or pair.evidence < max(_NEWS, _GROWTH * pair.told):
            return None
        last, known = case.strands_told.get((strand.name, s.verdict.orig_h), (-math.inf, 0.0))
        since = abs(s.end - last)
        new = since > self._quiet or pair.evidence >= _GROWTH * known
        again = since > self._quiet / 2 and pair.evidence >= known / 2  # as hard, to another
        return pair if new or again or (s.domain and not pair.told) else None

    def _is_amount(self, case: _Case, s: Seen) -> bool:
        """Whether by what its hour has come to the host would be an incident with this one, and it is not yet told."""
        limit = self.evidence.limit
        last, _ = case.strands_told.get((strand_of(s), s.verdict.orig_h), (-math.inf, 0.0))
        return s.volume >= limit or (s.amount >= limit and abs(s.end - last) > self._quiet)

    def _faster(self, case: _Case, strand: Strand, s: Seen) -> bool:
        """Whether the host does by now ten times as much a second of a strand as when it was told of last."""
        last, _ = case.strands_told.get((strand.name, s.verdict.orig_h), (-math.inf, 0.0))
        if abs(s.end - last) < self._quiet / 6:
            return False
        return strand.pace() >= max(_GROWTH * case.paces.get(strand.name, 0.0), _FAST)

    def _told(self, case: _Case, s: Seen, news: Collection[str] = ()) -> Notice:
        """A notice; `news` are uids of what is new since the last."""
        case.lead = strand_of(s) if news else ""
        incident, known = self._described(case)
        if news:
            incident = replace(incident, news=True, uids=tuple(news))
        _, this = case.facts.of(s)
        for (strand, _), pair in case.facts.pairs.items():
            # News tells of its strand alone, but of all of that.
            if pair is this or (pair.evidence >= _NEWS / 2 and (not news or strand == strand_of(s))):
                pair.told = pair.evidence
                of_strand = strand, s.verdict.orig_h
                _, before = case.strands_told.get(of_strand, (0.0, 0.0))
                case.strands_told[of_strand] = s.end, max(before, pair.evidence)
        for by, pair in case.facts.tried_by.items():
            if not news or by == s.verdict.orig_h:
                pair.told = pair.evidence
        case.paces = {name: strand.pace() for name, strand in case.facts.strands.items()}
        case.told = case.looked = max(case.facts.connections, 1)
        case.reach = max(case.facts.reach, 1)
        case.kind = incident.kind
        note = ANOMALOUS_CONNECTION if incident.connections == 1 else ANOMALOUS_HOST
        return Notice(
            ts=s.verdict.ts,
            note=KNOWN_ATTACK if known else note,
            identifier=case.id,
            verdict=s.verdict,
            incident=incident,
            suppress_for=0.0,
        )

    def _setting(self, case: _Case) -> Setting:
        return Setting(case.role, case.usual, case.alone and len(case.hosts) == 1, tuple(case.chain))

    def _described(self, case: _Case) -> tuple[HostIncident, bool]:
        """The incident, and whether a supervised model knows it."""
        facts, setting = case.facts, self._setting(case)
        words = named(facts, setting, self._budget.max_reasons, case.lead)
        strands, main = facts.ordered(), facts.main()
        peers: Counter[str] = Counter()
        for strand in main:
            for host, n in (strand.targets if case.role == "originator" else strand.sources).items():
                tally(peers, host, n)
        services = facts.services()
        known = sum(n for strand in strands for n in strand.known.values())
        return HostIncident(
            id=case.id,
            role=case.role,
            host=case.host,
            kind=words.kind,
            headline=words.headline,
            technique=words.technique,
            first_seen=min(strand.first for strand in main),
            last_seen=max(strand.last for strand in main),
            connections=facts.connections,
            odd=facts.evident,
            hosts=tuple(itertools.islice(case.hosts, _HOSTS)),
            host_count=len(case.hosts),
            targets=tuple(host for host, _ in peers.most_common(_HOSTS)),
            peers=min(len(peers), MAX_COUNTED),
            services=tuple(name for name, _ in services.most_common(_NAMED)),
            service_count=min(len(services), MAX_COUNTED),
            refused=sum(n for strand in strands for n in strand.refused.values()),
            sent=sum(strand.sent for strand in strands),
            evidence=round(case.evidence, 2),
            limit=round(self.evidence.limit, 2),
            why=words.why,
            uids=tuple(uid for _, uid in sorted(facts.strongest, reverse=True)[:12]),
        ), 2 * known > max(facts.evident, 1)

    def _bound(self, now: float) -> None:
        """Lets go of what is over for good, and of what is too much: the least evidence first."""
        over = self._quiet + self._budget.suppress_for
        gone = [key for key, case in self._cases.items() if abs(now - case.until) > over]
        if len(self._cases) - len(gone) > _MOST_CASES:
            left = set(self._cases).difference(gone)
            gone.append(min(left, key=lambda key: (self._cases[key].until, self._cases[key].evidence)))
        ended = {case.id: case for case in map(self._cases.pop, gone)}
        still = {case.id for case in self._cases.values()}
        for mark, case in ended.items():
            if mark not in still:
                self._ended.append(self._described(case)[0])
        if ended:
            self._by_place = {place: case for place, case in self._by_place.items() if case.id in still}


def _mostly(seen: Sequence[Seen]) -> tuple[tuple[str, str], str]:
    """Strand and target, and the domain, that most of the evidence is about."""
    pairs: defaultdict[tuple[str, str], float] = defaultdict(float)
    domains: defaultdict[str, float] = defaultdict(float)
    for s in seen:
        pairs[strand_of(s), s.verdict.resp_h] += s.against
        domains[s.domain] += s.against
    domain = max(domains, key=lambda name: domains[name])
    return max(pairs, key=lambda pair: pairs[pair]), domain if 2 * domains[domain] > sum(
        pairs.values()
    ) else ""


def _revised(v: Verdict, incident: str) -> Verdict:
    word = ANOMALOUS if v.verdict == BENIGN else v.verdict
    reasons = v.reasons or (f"belongs to incident {incident}",)
    return v._replace(stage=REVISED, verdict=word, reasons=reasons, incident=incident)
