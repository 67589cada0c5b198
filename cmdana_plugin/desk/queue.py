"""The queue: incidents with what was decided about them, ranked, the first of each day within the budget ahead."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from cmdana_plugin.analyst import alerts
from cmdana_plugin.desk.incidents import Incident
from cmdana_plugin.desk.stakes import Rank, rank
from cmdana_plugin.desk.store import CLOSED, OPEN, Decision
from feature_extractors import CmdanaError

MOST_A_DAY: Final = 10  # incidents of a day that are shown ahead, whatever the budget
_UNDECIDED: Final[tuple[str, ...]] = ("open", "acknowledged")
_GROWN: Final = 1.5  # times the connections at the decision, from which on an incident has grown since


class Entry(NamedTuple):
    """One place in the queue."""

    incident: Incident
    rank: Rank
    decision: Decision
    ahead: bool  # among those of its day that the budget has room for

    @property
    def grown(self) -> bool:
        """Whether it has gone on since it was decided about."""
        return self.decision.at > 0 and self.incident.connections > _GROWN * max(self.decision.connections, 1)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries are asked for; an unset criterion admits all."""

    states: tuple[str, ...] = _UNDECIDED
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None = None
    kind: str = ""
    since: float | None = None
    until: float | None = None
    ahead_only: bool = False

    @classmethod
    def parse(
        cls,
        state: str = "",
        host: str | None = None,
        kind: str | None = None,
        since: str | None = None,
        until: str | None = None,
        ahead_only: bool = False,
    ) -> Wanted:
        """What options or a page's fields ask for. Raises `CmdanaError` naming the option."""
        groups = {"": _UNDECIDED, "all": (), "closed": CLOSED}
        names = ("open", "acknowledged", *CLOSED)
        if state not in (*groups, *names):
            raise CmdanaError(f"--state: found {state!r}; expected one of {', '.join(names)}, closed, all")
        of = alerts.Filter.parse(host=host, note=None, since=since, until=until)
        states = groups.get(state, (state,))
        return cls(states, of.network, (kind or "").lower(), of.since, of.until, ahead_only)

    def takes(self, e: Entry) -> bool:
        i = e.incident
        if self.states and e.decision.state not in self.states:
            return False
        if self.kind and self.kind not in (i.kind.lower(), i.note.lower()):
            return False
        if (self.since is not None and i.last < self.since) or (
            self.until is not None and i.first >= self.until
        ):
            return False
        if self.ahead_only and not e.ahead:
            return False
        hosts = {i.host, *i.actors, *i.targets}
        return self.network is None or any(_within(h, self.network) for h in hosts)


def a_day(alerts_per_day: float) -> int:
    """How many incidents of a day are shown ahead of the others under a budget."""
    return max(min(int(alerts_per_day), MOST_A_DAY), 1)


def queue(
    incidents: Sequence[Incident],
    decisions: Mapping[str, Decision],
    clients: Mapping[str, int],
    alerts_per_day: float,
) -> list[Entry]:
    """All incidents in their order: those ahead of their day first, each part by rank.

    Of a day, those that are not closed are counted against the budget; a closed one is ahead of nothing.
    """
    ranked = [(rank(i, clients), i, decisions.get(i.id, OPEN)) for i in incidents]
    ranked.sort(key=lambda item: (-item[0].total, -item[1].last, item[1].id))
    room: Counter[str] = Counter()
    out = []
    most = a_day(alerts_per_day)
    for r, i, decision in ranked:
        ahead = not decision.closed and room[i.day] < most
        room[i.day] += ahead
        out.append(Entry(i, r, decision, ahead))
    return sorted(out, key=lambda e: not e.ahead)


def entry_object(e: Entry) -> dict[str, object]:
    """An entry as an object for `--json`."""
    i = e.incident
    return {
        "id": i.id, "state": e.decision.state, "note": e.decision.note, "decided_by": e.decision.who or None,
        "decided_at": e.decision.at or None, "grown_since": e.grown, "ahead": e.ahead, "rank": round(e.rank.total, 3),
        "why_here": list(e.rank.words), "clients": e.rank.clients, "type": f"CMDANA::{i.note}", "kind": i.kind or None,
        "title": i.title, "host": i.host, "role": i.role, "first": i.first, "last": i.last,
        "connections": i.connections, "odd": i.odd, "hosts": list(i.actors), "host_count": i.actor_count,
        "targets": list(i.targets), "peers": i.peers, "services": list(i.services), "service_count": i.service_count,
        "technique": i.technique or None, "refused": i.refused, "sent": i.sent, "evidence": i.evidence,
        "limit": i.limit, "reasons": list(i.reasons), "latest_reasons": list(i.latest), "uid": i.uid,
        "community_id": i.community_id or None, "notices": len(i.times),
    }  # fmt: skip


def _within(address: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    try:
        return ipaddress.ip_address(address) in network
    except ValueError:
        return False
