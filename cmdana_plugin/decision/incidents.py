"""Scores against the alert budget: verdicts, and notices in which the odd connections of one host are one incident."""

from __future__ import annotations

import ipaddress
import math
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from cmdana_plugin.config import ConfigError, Incident
from cmdana_plugin.config import Verdict as Budget
from cmdana_plugin.decision.notice import (
    ANOMALOUS_CONNECTION,
    ANOMALOUS_HOST,
    KNOWN_ATTACK,
    MAX_COUNTED,
    HostIncident,
    Notice,
    Role,
)
from cmdana_plugin.decision.verdict import Verdict
from cmdana_plugin.detector import ANOMALOUS, BENIGN, score_of

_EVIDENCE_HALF_LIFE: Final = 3600.0  # seconds; evidence of an hour ago counts half
_MOST_EVIDENCE: Final = 12.0  # decades that one connection may bring: no single p-value is sure of more
_GROWTH: Final = 10  # an open incident is noticed again each time it has grown tenfold
_NAMED_SERVICES: Final = 3  # of an incident


def threshold(budget: Budget) -> float:
    """The score at which a verdict is no longer benign: the budget's share of all connections, as a tail."""
    share = min(budget.alerts_per_day / budget.connections_per_day, 0.5)
    return float(score_of(np.array(share)))


class AllowList:
    """Connections that never raise a notice: an address or network on either side, or `A -> B[:port/proto]`.

    Raises `ConfigError` for an entry of another form.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        self._either: list[_Network] = []
        self._pairs: list[tuple[_Network, _Network, int | None, str | None]] = []
        for entry in entries:
            try:
                self._add(entry)
            except ValueError:
                raise ConfigError(
                    f"[verdict] allow: found {entry!r}; expected an address, a network, "
                    "or 'originator -> responder' with ':port/proto' after it if wanted"
                ) from None

    def _add(self, entry: str) -> None:
        if "->" not in entry:
            self._either.append(ipaddress.ip_network(entry.strip(), strict=False))
            return
        orig, resp = (side.strip() for side in entry.split("->"))
        port = proto = None
        if "/" in resp and resp.rsplit("/", 1)[1] in ("tcp", "udp", "icmp"):
            resp, proto = resp.rsplit("/", 1)
            resp, text = resp.rsplit(":", 1)
            port = int(text)
        sides = [ipaddress.ip_network(s.strip("[]"), strict=False) for s in (orig, resp)]
        self._pairs.append((sides[0], sides[1], port, proto))

    def __contains__(self, verdict: Verdict) -> bool:
        if not self._either and not self._pairs:
            return False
        orig, resp = ipaddress.ip_address(verdict.orig_h), ipaddress.ip_address(verdict.resp_h)
        if any(_within(a, n) for n in self._either for a in (orig, resp)):
            return True
        return any(
            _within(orig, o)
            and _within(resp, r)
            and port in (None, verdict.resp_p)
            and proto in (None, verdict.proto)
            for o, r, port, proto in self._pairs
        )


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _within(address: ipaddress.IPv4Address | ipaddress.IPv6Address, network: _Network) -> bool:
    return address.version == network.version and address in network


@dataclass(slots=True)
class _Evidence:
    """What has gathered against one host in one role."""

    sum: float = 0.0  # decades
    last: float = -math.inf  # network time of the last connection that counted
    odd: int = 0  # connections at or above the threshold since evidence began
    next_notice: int = 0  # the size at which an open incident is noticed again; 0 while none is open
    peers: set[str] = field(default_factory=set)  # `MAX_COUNTED` at most, as are services
    services: Counter[str] = field(default_factory=Counter)  # or ports
    components: Counter[str] = field(default_factory=Counter)  # the oddest of each connection


class Decider:
    """Verdicts in, notices out; one-sided CUSUM of evidence per host and role (Page 1954).

    A connection brings -log10(p) decades, less an allowance, never below a sum of zero; past `evidence` the host is
    an incident, and its connections no longer raise notices of their own until `quiet` seconds pass without an odd
    one. The sum is over final verdicts; an early one may raise a notice, which its final one then does not repeat.
    """

    def __init__(self, budget: Budget, incident: Incident) -> None:
        self.threshold = threshold(budget)
        self.forgotten = 0  # hosts let go to keep the bound
        self.suppressed = 0  # notices not raised because the same one was raised lately
        self.allowed = 0  # odd connections on the allow-list
        self._budget = budget
        self._incident = incident
        self._counts = 10.0**-incident.allowance * (1.0 + 1e-9)  # p-values above it bring no evidence
        self._allow = AllowList(budget.allow)
        self._hosts: dict[Role, OrderedDict[str, _Evidence]] = {
            "originator": OrderedDict(),
            "responder": OrderedDict(),
        }  # by role and address, the one longest untouched first; together `max_hosts` at most
        self._raised: OrderedDict[tuple[str, str], float] = OrderedDict()

    def benign(self, p_value: float, orig_h: str, resp_h: str, now: float) -> None:
        """Weighs the final verdict on a benign connection, which raises nothing."""
        originators, responders = self._hosts.values()
        if p_value > self._counts and orig_h not in originators and resp_h not in responders:
            return
        decades = self._decades(p_value)
        evidence = self._evidence("originator", orig_h, decades, now)
        if evidence is None or evidence.next_notice == 0:
            self._evidence("responder", resp_h, decades, now)

    def receive(self, verdict: Verdict, now: float, component: str | None = None) -> list[Notice]:
        """The notices that this verdict gives rise to at network time `now`; `component` is its score's oddest."""
        if verdict.verdict == BENIGN:
            if verdict.stage != "early":
                self.benign(verdict.p_value, verdict.orig_h, verdict.resp_h, now)
            return []
        if verdict in self._allow:
            self.allowed += 1
            return []
        if verdict.stage == "early":
            return self._connection_notice(verdict, now) if not self._in_incident(verdict, now) else []
        decades = self._decades(verdict.p_value)
        notices: list[Notice] = []
        sides: tuple[tuple[Role, str, str], ...] = (
            ("originator", verdict.orig_h, verdict.resp_h),
            ("responder", verdict.resp_h, verdict.orig_h),
        )
        for role, host, peer in sides:
            evidence = self._evidence(role, host, decades, now)
            if evidence is None:
                continue
            _remember(evidence, verdict, peer, component)
            notice = self._incident_notice(evidence, role, host, verdict)
            if notice:
                notices.append(notice)
            if evidence.next_notice:
                return notices  # an originator's incident explains its connections; its targets are none of their own
        return notices + self._connection_notice(verdict, now)

    def _decades(self, p_value: float) -> float:
        return min(-math.log10(max(p_value, 1e-300)), _MOST_EVIDENCE) - self._incident.allowance

    def _in_incident(self, verdict: Verdict, now: float) -> bool:
        sides = zip(self._hosts.values(), (verdict.orig_h, verdict.resp_h), strict=True)
        return any(
            e is not None and e.next_notice > 0 and now - e.last <= self._incident.quiet
            for e in (hosts.get(host) for hosts, host in sides)
        )

    def _evidence(self, role: Role, host: str, decades: float, now: float) -> _Evidence | None:
        hosts = self._hosts[role]
        evidence = hosts.get(host)
        if evidence is None:
            if decades <= 0:
                return None
            if sum(map(len, self._hosts.values())) >= self._incident.max_hosts:
                max(self._hosts.values(), key=len).popitem(last=False)
                self.forgotten += 1
            evidence = hosts[host] = _Evidence(last=now)
        else:
            hosts.move_to_end(host)
        elapsed = max(now - evidence.last, 0.0)
        if evidence.next_notice and elapsed > self._incident.quiet:
            evidence = hosts[host] = _Evidence(last=now)
            elapsed = 0.0
        evidence.sum = max(evidence.sum * 0.5 ** (elapsed / _EVIDENCE_HALF_LIFE) + decades, 0.0)
        if decades > 0 or not evidence.next_notice:
            evidence.last = now
        if evidence.sum == 0.0 and not evidence.next_notice:
            del hosts[host]
            return None
        return evidence

    def _incident_notice(self, evidence: _Evidence, role: Role, host: str, verdict: Verdict) -> Notice | None:
        if evidence.next_notice == 0:
            if evidence.sum < self._incident.evidence or evidence.odd < 2:
                return None
            evidence.next_notice = evidence.odd * _GROWTH
        elif evidence.odd >= evidence.next_notice:
            evidence.next_notice *= _GROWTH
        else:
            return None
        incident = HostIncident(
            role=role,
            host=host,
            odd=evidence.odd,
            peers=len(evidence.peers),
            services=_most_common(evidence.services, _NAMED_SERVICES),
            service_count=len(evidence.services),
            evidence=evidence.sum,
            components=_most_common(evidence.components, self._budget.max_reasons),
        )
        return Notice(
            ts=verdict.ts,
            note=ANOMALOUS_HOST,
            identifier=f"{role}|{host}|{evidence.odd}",
            verdict=verdict,
            incident=incident,
            suppress_for=self._budget.suppress_for,
        )

    def _connection_notice(self, verdict: Verdict, now: float) -> list[Notice]:
        known = verdict.verdict != ANOMALOUS
        note = KNOWN_ATTACK if known else ANOMALOUS_CONNECTION
        identifier = f"{verdict.orig_h}|{verdict.resp_h}|{verdict.resp_p}/{verdict.proto}"
        if known:
            identifier += f"|{verdict.verdict}"
        last = self._raised.get((note, identifier))
        if last is not None and now - last < self._budget.suppress_for:
            self.suppressed += 1
            return []
        self._raised[note, identifier] = now
        self._raised.move_to_end((note, identifier))
        while len(self._raised) > self._incident.max_hosts:
            self._raised.popitem(last=False)
        return [
            Notice(
                ts=verdict.ts,
                note=note,
                identifier=identifier,
                verdict=verdict,
                suppress_for=self._budget.suppress_for,
            )
        ]


def _remember(evidence: _Evidence, verdict: Verdict, peer: str, component: str | None) -> None:
    evidence.odd += 1
    if len(evidence.peers) < MAX_COUNTED:
        evidence.peers.add(peer)
    _tally(evidence.services, verdict.service_or_port)
    if component is not None:
        _tally(evidence.components, component)


def _tally(counts: Counter[str], word: str) -> None:
    if word in counts or len(counts) < MAX_COUNTED:
        counts[word] += 1


def _most_common(counts: Counter[str], most: int) -> tuple[str, ...]:
    return tuple(word for word, _ in counts.most_common(most))
