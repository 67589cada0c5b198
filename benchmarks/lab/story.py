"""From scenario, seed and length to every program that will be started: the same seed tells the same story."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from benchmarks.lab.attacks import ATTACKS, FAMILIES, rng_of
from benchmarks.lab.events import EVENTS
from benchmarks.lab.habits import HABITS, Occasion
from benchmarks.lab.net import Host
from benchmarks.lab.scenario import LabError, Scenario, Timetable
from benchmarks.lab.world import FIRST_GROUP, Actor, Step, World

# What machines do by the clock, at even intervals and at night as well.
BY_THE_CLOCK = frozenset(("telemetry", "sensor", "set-clock", "poll-devices", "health-check", "inventory"))
POOL = 4  # times the names below: more than any scenario has actors, so that another's number moves nobody's name
TAIL = 3.0  # seconds before the end in which nothing new starts
_NAMES = [
    "anna",
    "ben",
    "carla",
    "david",
    "elena",
    "felix",
    "greta",
    "hugo",
    "ines",
    "jonas",
    "klara",
    "leon",
    "maria",
    "nils",
    "olga",
    "paul",
    "quinn",
    "rosa",
    "simon",
    "tina",
    "ugo",
    "vera",
    "walter",
    "xenia",
    "yusuf",
    "zoe",
    "adam",
    "berta",
    "cem",
    "dora",
    "emil",
    "frida",
    "georg",
    "hanna",
    "ivan",
    "judith",
    "karl",
    "lara",
    "max",
    "nora",
    "oskar",
]


def order_of_addresses(site: int) -> list[int]:
    """A shuffle of address slots: an address must not tell a role."""
    order = list(range(240))
    random.Random(f"{site}/addresses").shuffle(order)
    return order


def cast(scenario: Scenario, hosts: Sequence[Host], seed: int, site: int | None = None) -> list[Actor]:
    """One actor per host with a role, one per attack, names and group ids dealt blindly.

    People are the same wherever `site` (default: the seed) is.
    """
    parts = [(host.name, "") for host in hosts if host.role]
    dealer = random.Random(f"{seed}/places")
    parts += [
        (dealer.choice(scenario.candidates(attack)), FAMILIES[attack.kind]) for attack in scenario.attacks
    ]
    rng = random.Random(f"{seed if site is None else site}/cast")
    often = max(POOL, len(parts) // len(_NAMES) + 1)
    names = [f"{name}{number or ''}" for number in range(often) for name in _NAMES]
    rng.shuffle(names)
    gids = list(range(FIRST_GROUP, FIRST_GROUP + len(names)))
    rng.shuffle(gids)
    return [
        Actor(name, host, gid, family) for name, gid, (host, family) in zip(names, gids, parts, strict=False)
    ]


def steps(world: World, seed: int, seconds: float) -> dict[Actor, list[Step]]:
    """Every actor's programs in time order."""
    scenario = world.scenario
    squeeze = squeeze_of(scenario, seconds)
    people = [actor for actor in world.actors if not actor.family]
    attackers = [actor for actor in world.actors if actor.family]
    told: dict[Actor, list[Step]] = {}
    for actor in people:
        role = dict(scenario.roles[world.host(actor.host).role or ""])
        if actor.host in scenario.scanners:
            role["inventory"] = scenario.scanners[actor.host]
        told[actor] = []
        for habit, rate in role.items():
            for found in _habit(world, actor, habit, rate * scenario.busy, seed, seconds):
                told[actor] += _numbered(found, told[actor])
    for number, event in enumerate(scenario.events):
        dice = random.Random(f"{seed}/event/{number}/{event.kind}")
        for actor, found in EVENTS[event.kind](
            world, dice, event.at * seconds, event.lasts * seconds, squeeze
        ):
            told[actor] += _numbered([replace(step, event=event.kind) for step in found], told[actor])
    for number, (actor, attack) in enumerate(zip(attackers, scenario.attacks, strict=True)):
        rng = rng_of(seed, attack, number)
        at = rng.uniform(0.0, 1.0 - attack.lasts) if attack.at is None else attack.at
        begin, lasts = at * seconds, min(attack.lasts, 1.0 - at) * seconds - TAIL
        occasion = Occasion(world, actor, begin, rng, squeeze)
        if attack.kind not in ATTACKS:
            raise LabError(f"scenario {scenario.name}: attack {attack.kind} is not to be had yet")
        steps_ = ATTACKS[attack.kind](occasion, attack, max(1.0, lasts))
        told[actor] = [
            replace(step, occasion=place if step.apart else 0) for place, step in enumerate(steps_, start=1)
        ]
    return {actor: _within(found, seconds) for actor, found in told.items()}


def squeeze_of(scenario: Scenario, seconds: float) -> float:
    """How many seconds of the day one second of the recording stands for."""
    hours = scenario.timetable.hours
    return 1.0 if hours is None else hours * 3600.0 / seconds


def _numbered(found: Iterable[Step], before: Sequence[Step]) -> list[Step]:
    """The programs of one occasion, under the next number."""
    number = before[-1].occasion + 1 if before else 1
    return [replace(step, occasion=number) for step in found]


def _within(found: Sequence[Step], seconds: float) -> list[Step]:
    return sorted((step for step in found if step.at < seconds - TAIL), key=lambda step: step.at)


def _habit(
    world: World, actor: Actor, habit: str, per_hour: float, seed: int, seconds: float
) -> Iterator[list[Step]]:
    """Occasions arrive at random at the rate of the hour (a thinned Poisson process), or by the clock."""
    if habit not in HABITS:
        raise LabError(
            f"scenario {world.scenario.name}: no habit {habit}; there are {', '.join(sorted(HABITS))}"
        )
    table = world.scenario.timetable
    rng = random.Random(f"{seed}/{actor.host}/{habit}")
    squeeze = squeeze_of(world.scenario, seconds)

    def occasion(at: float) -> list[Step]:
        return list(HABITS[habit](Occasion(world, actor, at, random.Random(rng.getrandbits(64)), squeeze)))

    if habit in BY_THE_CLOCK:
        yield from map(occasion, _by_the_clock(actor, habit, per_hour, rng, seconds))
        return
    highest = per_hour / 3600.0
    for whose in (None, habit):
        highest *= max((1.0, *(surge.factor for surge in table.surges if surge.habit == whose)))
    at = 0.0
    while highest > 0:
        at += rng.expovariate(highest)
        if at > seconds:
            return
        if rng.random() * highest <= per_hour / 3600.0 * activity(table, at, seconds, habit):
            yield occasion(at)


def _by_the_clock(
    actor: Actor, habit: str, per_hour: float, rng: random.Random, seconds: float
) -> Iterator[float]:
    """Each machine has its interval, from a third of the usual one to three of it, kept more or less exactly."""
    if per_hour <= 0:
        return
    own = random.Random(f"{actor.name}/{habit}")
    pause = 3600.0 / per_hour * math.exp(own.uniform(-1.1, 1.1))
    jitter = own.choice((0.0, 0.02, 0.1, 0.3))
    at = pause * rng.random()
    while at < seconds:
        yield at
        at += pause * (1.0 + jitter * rng.uniform(-1.0, 1.0))


def activity(table: Timetable, at: float, seconds: float, habit: str = "") -> float:
    """How busy people are at this second of the recording: 1 at work, little at night, more in a surge."""
    level = 1.0
    if table.hours is not None:
        level = _day((table.start_hour + at / seconds * table.hours) % 24.0, table.workday)
    for surge in table.surges:
        if surge.habit in (None, habit) and surge.at <= at / seconds <= surge.at + surge.lasts:
            level *= surge.factor
    return level


def _day(hour: float, workday: tuple[float, float]) -> float:
    """Two humps with lunch between them; a twentieth is left at night."""
    first, last = workday
    if not first <= hour <= last:
        return 0.05
    lunch = (first + last) / 2
    return min(
        1.0,
        0.25 + 0.75 * abs(math.sin(math.pi * (hour - first) / (last - first) * 2))
        if abs(hour - lunch) > 2
        else 0.6,
    )


def in_time_order(found: Sequence[Step]) -> bool:
    """Whether an agent can play these steps one after the other."""
    return all(one.at <= two.at for one, two in pairwise(found))
