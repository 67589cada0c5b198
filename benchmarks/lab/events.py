"""What happens to a whole site at once and is no attack: everyone at nine, a roll-out, a failing backup."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

from benchmarks.lab import far
from benchmarks.lab.habits import HABITS, Occasion
from benchmarks.lab.world import ASSETS, Actor, Step, World, words

Told = Iterator[tuple[Actor, list[Step]]]
Plan = Callable[[World, random.Random, float, float, float], Told]  # begin and length in seconds; the squeeze
MORNING = (
    "lease", "set-clock", "ticket", "share", "address-book", "mail-read", "intranet", "staff-page", "browse", "browse",
    "update-check", "work-files", "mail-read", "print-page",
)  # fmt: skip


def nine(world: World, dice: random.Random, begin: float, lasts: float, squeeze: float) -> Told:
    """Everyone comes within the same few minutes, and does at once what opens a day."""
    for actor in _people(world):
        at = begin + lasts * dice.betavariate(2.0, 4.0)
        for habit in MORNING:
            if dice.random() < 0.8:
                yield (
                    actor,
                    _of(habit, Occasion(world, actor, at, random.Random(dice.getrandbits(64)), squeeze)),
                )
            at += dice.expovariate(1.0 / 25.0) / squeeze


def roll_out(world: World, dice: random.Random, begin: float, lasts: float, squeeze: float) -> Told:
    """Every machine takes the same parts from a place that nobody used before, reports, and many start anew."""
    site, own = far.name(far.DOMAINS + dice.randrange(1 << 30), dice), world.sites(inside=True)
    parts = dice.randrange(4, 12)
    for actor in _machines(world):
        at = begin + lasts * dice.random()
        o = Occasion(world, actor, at, random.Random(dice.getrandbits(64)), squeeze)
        urls = [{"url": f"https://{site}/a{number % ASSETS}?part={number}"} for number in range(parts)]
        yield actor, [o.web("download", *urls, limit=60, by_program=False)]
        report = {"url": f"https://{own[0] if own else site}/p0.html", "method": "POST", "body": "state=done"}
        again = Occasion(world, actor, at + 60.0 / squeeze, o.rng, squeeze)
        yield actor, [again.web("send-form", report, by_program=False)]
        if dice.random() < 0.4:
            for habit in ("lease", "set-clock", "ticket", "look-up"):
                yield actor, _of(habit, Occasion(world, actor, at + 120.0 / squeeze, o.rng, squeeze))


def new_poller(world: World, dice: random.Random, begin: float, lasts: float, squeeze: float) -> Told:
    """A monitoring server nobody knew asks every machine, every five minutes, whether it is there and well."""
    name = next((host.name for host in world.hosts if host.role == "newcomer"), None)
    actor = next((a for a in world.actors if not a.family and a.host == name), None)
    if actor is None:
        return
    ports = {
        "web": 443,
        "ssh": 22,
        "mail": 25,
        "database": 5432,
        "cache": 6379,
        "share": 445,
        "directory": 389,
    }
    known = [host for host in world.hosts if host.inside and host.name != actor.host]
    at, pause = begin, 300.0 / squeeze
    while at < begin + lasts:
        o = Occasion(world, actor, at, random.Random(dice.getrandbits(64)), squeeze)
        found = []
        for number, host in enumerate(known):
            after = number * 0.04
            if number % 3 == 0:
                found.append(o.step("poll-devices", "ping", "-n", "-q", "-c", "1", host.address, after=after))
            if "snmp" in host.services:
                argv = (*words("snmpget -v2c -c public -t 1 -r 1"), host.address, "1.3.6.1.2.1.1.3.0")
                found.append(o.step("poll-devices", *argv, after=after))
            offered = [ports[service] for service in host.services if service in ports]
            for port in offered or ([5666] if number % 3 == 1 else []):  # an agent that is not there yet
                knock = {"host": host.address, "port": port, "wait": 2.0}
                found.append(o.client("poll-devices", "knock", after=after, **knock))
        yield actor, found
        at += max(pause, 6.0)


def failing_backup(world: World, dice: random.Random, begin: float, lasts: float, squeeze: float) -> Told:
    """The backup's store has moved or is full; every server tries again, at once and then every minute or five."""
    stores = world.offering("rsync", inside=True)
    if not stores:
        return
    moved = dice.random() < 0.5
    for actor in _machines(world):
        host = world.host(actor.host)
        store = dice.choice(stores)
        if (
            not host.services
            or host.name == store.name
            or "backup" not in world.scenario.roles[host.role or ""]
        ):
            continue
        at, pause = begin + dice.uniform(0.0, 60.0) / squeeze, dice.choice((60.0, 120.0, 300.0)) / squeeze
        while at < begin + lasts:
            o = Occasion(world, actor, at, random.Random(dice.getrandbits(64)), squeeze)
            if moved:
                yield (
                    actor,
                    [
                        o.client("backup", "knock", after=2.0**n - 1.0, host=store.address, port=8730)
                        for n in (0, 1, 2)
                    ],
                )
            else:
                target = f"rsync://{world.name_of(store)}/vault/{host.name}"
                yield actor, [o.step("backup", "rsync", "-t", "--whole-file", world.file(64), target)]
            at += max(pause, 2.0)


def expired_certificate(
    world: World, dice: random.Random, begin: float, lasts: float, squeeze: float
) -> Told:
    """The certificate of the site's own pages runs out; agents retry at once and later, people try and give up.

    The server reads its certificate for every handshake, so that replacing the file is all it takes.
    """
    sites = sorted(world.expiring())
    owner = next((a for a in world.actors if not a.family and _has_sites(world, a)), None)
    if owner is None:
        return
    tls = world.run.state / "tls"
    for after, ending in ((0.0, "late"), (lasts, "pem.kept")):
        o = Occasion(world, owner, begin + after, dice, squeeze)
        order = "; ".join(
            f"cp {tls}/{site}.{ending} {tls}/{site}.new && mv {tls}/{site}.new {tls}/{site}.pem"
            for site in sites
        )
        keep = "; ".join(f"cp -n {tls}/{site}.pem {tls}/{site}.pem.kept" for site in sites)
        yield owner, [replace(o.step("renewal", "sh", "-c", f"{keep}; {order}"), root=True)]
    for actor in _machines(world):
        at = begin + dice.uniform(0.0, 300.0) / squeeze
        site, pause = dice.choice(sites), dice.choice((300.0, 600.0, 1800.0)) / squeeze
        while at < begin + lasts:
            o = Occasion(world, actor, at, random.Random(dice.getrandbits(64)), squeeze)
            call = {"url": f"https://{site}/p{dice.randrange(4)}.html"}
            yield actor, [o.web("api-call", call, after=2.0**n - 1.0, by_program=False) for n in range(3)]
            at += max(pause * dice.uniform(0.8, 1.2), 2.0)


def _of(habit: str, o: Occasion) -> list[Step]:
    return list(HABITS[habit](o))


def _machines(world: World) -> list[Actor]:
    return [actor for actor in world.actors if not actor.family and world.host(actor.host).role != "newcomer"]


def _people(world: World) -> list[Actor]:
    return [
        actor
        for actor in _machines(world)
        if not world.host(actor.host).services and _reads_mail(world, actor)
    ]


def _reads_mail(world: World, actor: Actor) -> bool:
    return "browse" in world.scenario.roles[world.host(actor.host).role or ""]


def _has_sites(world: World, actor: Actor) -> bool:
    host = world.host(actor.host)
    return "web" in host.services and host.inside


EVENTS: dict[str, Plan] = {
    "nine": nine, "roll-out": roll_out, "new-poller": new_poller, "failing-backup": failing_backup,
    "expired-certificate": expired_certificate,
}  # fmt: skip
