"""Rehearsed intrusions: a site's own connections at other hosts, times and numbers, as an attacker would have them.

Nothing of a real tool is in them. What is learned from them is what tells a run of connections from this site's own
use: its pace, its spread, its outcomes, its direction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.behaviour import Flows, concat_flows, take_flows
from cmdana_plugin.training.rehearsals.moves import MAKERS, MOST_ROWS
from cmdana_plugin.training.rehearsals.templates import Rng, Site

KINDS: Final = tuple(MAKERS)
_LONGEST: Final = 12 * 3600.0  # seconds from the first connection of a rehearsal to its last
_LEAST_ROWS: Final = 20  # connections of a site with which anything can be rehearsed
_EASIEST: Final = 0.1


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """One intrusion: its connections, and ordinary ones that it is mixed with."""

    kind: int  # 1 + index into KINDS
    number: int  # from 1
    flows: Flows
    beside: Flows | None = None


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """A site's connections with rehearsals among them, in order of `end`."""

    flows: Flows
    kind: NDArray[np.int8]  # [n] 0 the site's own, else 1 + index into KINDS
    number: NDArray[np.int32]  # [n] 0 the site's own or mixed in, else which rehearsal, from 1
    row: NDArray[np.int64]  # [n] of the site's own; -1 of rehearsals and of what is mixed in


@dataclass(frozen=True, slots=True)
class Curriculum:
    """How hard each kind is rehearsed, 0..1: slower, less even, fewer, closer to what the site does."""

    hardness: Mapping[str, float]

    @classmethod
    def begin(cls, hardness: float = 0.4) -> Curriculum:
        return cls(dict.fromkeys(KINDS, hardness))

    def after(self, seen: Mapping[str, float], step: float = 0.4) -> Curriculum:
        """Harder where the model sees more than half of the rehearsed connections (`seen`, 0..1), easier elsewhere."""
        moved = {
            k: float(np.clip(h + step * (seen[k] - 0.5), _EASIEST, 1.0)) if k in seen else h
            for k, h in self.hardness.items()
        }
        return Curriculum(moved)


def rehearsed(
    own: Flows,
    rng: Rng,
    curriculum: Curriculum | None = None,
    count: int = 20,
    kinds: Sequence[str] | None = None,
    begin: float = -np.inf,
    normal: NDArray[np.bool_] | None = None,
) -> Rehearsed:
    """`count` rehearsals drawn anew among a site's own connections, none before network time `begin`.

    They are made of those that are `normal`. A kind that the site has nothing for (a tunnel without DNS) is left out.
    """
    return among(own, drawn(site_of(own, begin, normal), rng, curriculum, count, kinds))


def site_of(own: Flows, begin: float = -np.inf, normal: NDArray[np.bool_] | None = None) -> Site:
    """What a site has to rehearse with: of its connections those that are `normal`, none before `begin`."""
    normal = np.ones(len(own), np.bool_) if normal is None else normal
    return Site(take_flows(own, np.flatnonzero(normal)), begin)


def drawn(
    site: Site,
    rng: Rng,
    curriculum: Curriculum | None = None,
    count: int = 20,
    kinds: Sequence[str] | None = None,
) -> list[Rehearsal]:
    """As many rehearsals, every kind as often as every other, in an order drawn anew."""
    curriculum = curriculum or Curriculum.begin()
    names = list(kinds or KINDS)
    found: list[Rehearsal] = []
    if len(site.flows) < _LEAST_ROWS:
        return found
    order = np.concatenate([rng.permutation(len(names)) for _ in range(count // len(names) + 1)])[:count]
    for i, which in enumerate(order.tolist()):
        name = names[which]
        # What was easy stays in the lesson: a real tool may be as loud as it likes.
        made = MAKERS[name](site, rng, float(rng.uniform(0.0, curriculum.hardness[name])))
        made = made if made is None or not len(made) else bounded(made, site)
        if made is not None and len(made):
            found.append(Rehearsal(1 + KINDS.index(name), i + 1, made))
    return found


def among(own: Flows, rehearsals: Sequence[Rehearsal]) -> Rehearsed:
    """Rehearsals, and what is mixed in with them, among a site's own connections."""
    parts, kind, number = [own], [0], [0]
    for r in rehearsals:
        parts.append(r.flows)
        kind.append(r.kind)
        number.append(r.number)
        if r.beside is not None:
            parts.append(r.beside)
            kind.append(0)
            number.append(0)
    flows = concat_flows(parts)
    sizes = [len(p) for p in parts]
    order = np.argsort(flows.end, kind="stable")
    return Rehearsed(
        take_flows(flows, order),
        np.repeat(np.array(kind, np.int8), sizes)[order],
        np.repeat(np.array(number, np.int32), sizes)[order],
        np.where(order < len(own), order, -1),
    )


def bounded(made: Flows, site: Site) -> Flows:
    """No longer and no more than a rehearsal may be, and within the time there is."""
    rows = np.flatnonzero(
        (made.end <= site.end) & (made.ts >= site.begin) & (made.ts <= made.ts.min() + _LONGEST)
    )
    return take_flows(made, rows[:MOST_ROWS])
