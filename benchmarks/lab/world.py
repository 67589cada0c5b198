"""What habits, attacks and services know of the network they live in: hosts, names, accounts, content."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.lab import far
from benchmarks.lab.net import Host, Run
from benchmarks.lab.scenario import Scenario

FIRST_GROUP = 20_000
ASSETS = 8  # parts of every site: /a0 ... /a7
PAGES = 12  # and pages: /p0.html ... /p11.html
FILES_KB = (1, 4, 16, 64, 256, 1024)  # what users have to send: file-1k ... file-1024k


def words(line: str) -> list[str]:
    """A fixed part of an argument list, as one would type it; never anything from outside."""
    return line.split()


@dataclass(frozen=True)
class Actor:
    """Who starts programs: its group id is the truth's key and nothing on the wire shows it."""

    name: str
    host: str
    gid: int
    family: str = ""  # kind of attack; empty for ordinary use

    @property
    def uid(self) -> int:
        return self.gid


@dataclass(frozen=True)
class Step:
    """One program, started at `at` seconds after the recording's start, ended after `limit` seconds at the latest.

    With a `task` no program is started: the actor's own client (programs/person.py), which runs all along, does it.
    """

    at: float
    what: str
    argv: tuple[str, ...]
    limit: float = 30.0
    env: Mapping[str, str] = field(default_factory=dict)
    feed: str = ""
    root: bool = False  # some tools want user 0; the group stays the actor's
    task: Mapping[str, Any] | None = None
    apart: bool = False  # of an attack: an occasion of its own, which moves alone when a day is unsqueezed
    occasion: int = 0  # programs of one actor with the same number belong together; numbered by story.steps
    event: str = ""  # the surge that it is part of


@dataclass(frozen=True)
class World:
    """One laid-out scenario; everything a planner may ask.

    `far`: names of sites that nobody listed (far.py) and the story mentions.
    """

    scenario: Scenario
    run: Run
    hosts: Sequence[Host]
    actors: Sequence[Actor]
    far: frozenset[str] = frozenset()
    squeeze: float = 1.0  # how many seconds of a day one second of the recording stands for

    def lasting(self, seconds: float) -> int:
        """A time to live of the day, in the recording: what is remembered there must be forgotten as soon."""
        return max(1, round(seconds / self.squeeze))

    def offering(self, service: str, *, inside: bool | None = None) -> list[Host]:
        return [h for h in self.hosts if service in h.services and (inside is None or h.inside == inside)]

    def host(self, name: str) -> Host:
        return next(h for h in self.hosts if h.name == name)

    def name_of(self, host: Host) -> str:
        """The name clients use: hosts outside are known by their first site."""
        if host.inside:
            return f"{host.name}.{self.scenario.domain}"
        return host.sites[0] if host.sites else f"{host.name}.net.example"

    def sites(self, *, inside: bool) -> list[str]:
        """Web sites that are listed in the scenario."""
        found = []
        for host in self.offering("web", inside=inside):
            names = host.sites or (("www", "intranet") if inside else ("www.site.example",))
            found += [f"{n}.{self.scenario.domain}" if inside else n for n in names]
        return found

    def prefixes(self) -> list[str]:
        """Of the servers outside that have sites which nobody listed."""
        return [host.prefix for host in self.hosts if host.prefix]

    def serving(self, site: str) -> Host | None:
        """The host that has this site."""
        if far.is_far(site) and (prefixes := self.prefixes()):
            chosen = prefixes[far.place(site, prefixes)[0]]
            return next(host for host in self.hosts if host.prefix == chosen)
        return next((host for host in self.hosts if site in host.sites), None)

    def free_addresses(self) -> list[str]:
        """Inside addresses where nobody answers."""
        import ipaddress

        used = {h.address for h in self.hosts}
        net = ipaddress.ip_network(self.scenario.network)
        return [str(a) for a in list(net.hosts())[1:250] if str(a) not in used]

    def expiring(self) -> set[str]:
        """Sites inside whose certificate runs out during the recording."""
        late = any(event.kind == "expired-certificate" for event in self.scenario.events)
        return set(self.sites(inside=True)) if late else set()

    def ca(self) -> str:
        return str(self.run.state / "tls" / "ca.pem")

    def file(self, kilobytes: int) -> str:
        """A file of about this size that users may send."""
        size = min(FILES_KB, key=lambda k: abs(k - kilobytes))
        return str(self.run.state / "files" / f"file-{size}k")

    def home(self, actor: Actor) -> Path:
        return self.run.state / "home" / actor.name

    def password(self, name: str) -> str:
        return f"{name}-{random.Random(f'{self.scenario.kin}/{name}').randrange(10**6):06d}"
