"""The last odd connections of each host, in case they turn out to belong to an incident."""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from typing import Any, Final

from cmdana_plugin.decision.evidence import BLOCK
from cmdana_plugin.decision.facts import strand_of
from cmdana_plugin.decision.notice import Role
from cmdana_plugin.decision.seen import Seen
from cmdana_plugin.decision.stored import made, plain

ROLES_OF: Final[tuple[Role, Role]] = ("originator", "responder")
_EACH: Final = 64  # of a host
_ALL: Final = 32768
_DAY: Final = 86400.0


class Past:
    """So many of each host, and of all hosts."""

    def __init__(self) -> None:
        self._hosts: OrderedDict[tuple[Role, str], deque[Seen]] = OrderedDict()
        self._held = 0

    def state(self) -> dict[str, Any]:
        """The connections, each once, and which each host has."""
        unique = {id(s): s for ring in self._hosts.values() for s in ring}
        at = {key: i for i, key in enumerate(unique)}
        hosts = [[*key, [at[id(s)] for s in ring]] for key, ring in self._hosts.items()]
        return {"seen": [plain(s) for s in unique.values()], "hosts": hosts}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`. Raises `KeyError`, `TypeError` or `ValueError` where it is none."""
        seen = [made(Seen, s) for s in state["seen"]]
        for role, host, rows in state["hosts"]:
            self._hosts[role_of(role), str(host)] = deque((seen[int(i)] for i in rows), _EACH)
        self._held = sum(map(len, self._hosts.values()))

    def keep(self, s: Seen) -> None:
        """For both its hosts."""
        for role, host in zip(ROLES_OF, (s.verdict.orig_h, s.verdict.resp_h), strict=True):
            ring = self._hosts.get((role, host))
            if ring is None:
                ring = self._hosts[role, host] = deque(maxlen=_EACH)
            else:
                self._hosts.move_to_end((role, host))
            self._held += len(ring) < _EACH
            ring.append(s)
        while self._held > 2 * _ALL:
            # Of the hosts that are longest unseen, the one with least against it goes.
            some = list(itertools.islice(self._hosts, 8))
            least = min(some, key=lambda k: max(s.against for s in self._hosts[k]))
            self._held -= len(self._hosts.pop(least))

    def of(self, role: Role, host: str, s: Seen) -> list[Seen]:
        """Takes out what belongs to an incident that opens with `s`: of the last hour, and of the day what is alike."""
        ring = self._hosts.pop((role, host), None)
        if ring is None:
            return []
        self._held -= len(ring)
        like = strand_of(s), s.verdict.resp_h
        return [
            old
            for old in ring
            if 0.0 <= s.end - old.end <= BLOCK
            or (0.0 <= s.end - old.end <= _DAY and (strand_of(old), old.verdict.resp_h) == like)
        ]


def role_of(word: object) -> Role:
    """The role that a word of a state stands for."""
    return "responder" if word == "responder" else "originator"
