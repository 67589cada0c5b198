"""From scenario, seed and length to every program that will be started: the same seed tells the same story."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from itertools import pairwise

from benchmarks.lab.attacks import ATTACKS, FAMILIES, rng_of
from benchmarks.lab.habits import HABITS, Occasion
from benchmarks.lab.net import Host
from benchmarks.lab.scenario import LabError, Scenario, Timetable
from benchmarks.lab.world import FIRST_GROUP, Actor, Step, World

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
    names = [f"{name}{number or ''}" for number in range(len(parts) // len(_NAMES) + 1) for name in _NAMES]
    rng.shuffle(names)
    gids = list(range(FIRST_GROUP, FIRST_GROUP + len(parts)))
    rng.shuffle(gids)
    return [
        Actor(name, host, gid, family) for name, gid, (host, family) in zip(names, gids, parts, strict=False)
    ]


def steps(world: World, seed: int, seconds: float) -> dict[Actor, list[Step]]:
    """Every actor's programs in time order."""
    scenario = world.scenario
    people = [actor for actor in world.actors if not actor.family]
    attackers = [actor for actor in world.actors if actor.family]
    told: dict[Actor, list[Step]] = {}
    for actor in people:
        role = scenario.roles[world.host(actor.host).role or ""]
        told[actor] = [
            step
            for habit, rate in role.items()
            for step in _habit(world, actor, habit, rate * scenario.busy, seed, seconds)
        ]
    for number, (actor, attack) in enumerate(zip(attackers, scenario.attacks, strict=True)):
        rng = rng_of(seed, attack, number)
        at = rng.uniform(0.0, 1.0 - attack.lasts) if attack.at is None else attack.at
        begin, lasts = at * seconds, min(attack.lasts, 1.0 - at) * seconds - TAIL
        occasion = Occasion(world, actor, begin, rng)
        if attack.kind not in ATTACKS:
            raise LabError(f"scenario {scenario.name}: attack {attack.kind} is not to be had yet")
        told[actor] = list(ATTACKS[attack.kind](occasion, attack, max(1.0, lasts)))
    return {actor: _within(found, seconds) for actor, found in told.items()}


def _within(found: Sequence[Step], seconds: float) -> list[Step]:
    return sorted((step for step in found if step.at < seconds - TAIL), key=lambda step: step.at)


def _habit(
    world: World, actor: Actor, habit: str, per_hour: float, seed: int, seconds: float
) -> Iterator[Step]:
    """Occasions arrive at random at the rate of the hour (a thinned Poisson process)."""
    if habit not in HABITS:
        raise LabError(
            f"scenario {world.scenario.name}: no habit {habit}; there are {', '.join(sorted(HABITS))}"
        )
    table = world.scenario.timetable
    rng = random.Random(f"{seed}/{actor.host}/{habit}")
    highest = per_hour / 3600.0
    for whose in (None, habit):
        highest *= max((1.0, *(surge.factor for surge in table.surges if surge.habit == whose)))
    at = 0.0
    while highest > 0:
        at += rng.expovariate(highest)
        if at > seconds:
            return
        if rng.random() * highest <= per_hour / 3600.0 * activity(table, at, seconds, habit):
            yield from HABITS[habit](Occasion(world, actor, at, random.Random(rng.getrandbits(64))))


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
