"""An entity's own usual: the most that an hour showed, learned hour by hour, and what those of like behaviour show.

The hour that is running is no part of it, so a run of connections does not become its own usual.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from cmdana_plugin.behaviour.tables import (
    ABOVE,
    ALPHABET,
    BY,
    CLUSTERS,
    FROM,
    MEAN,
    NOW,
    PEAK,
    VAR,
)
from feature_extractors.compiled import helper

_OWN_HOURS: Final = 200.0  # that an entity's usual is made of, at most
_GROUP_HOURS: Final = 2000.0
_PRIOR_HOURS: Final = 2.0  # that the usual of its like weighs in an entity's own
_FLOOR: Final = 0.05  # variance of a logarithm that is nothing unusual
_PEAK_FADING: Final = 0.995  # of the most of all, by hour
_ALIKE: Final = 0.8  # cosine from which a host belongs to a cluster
_OF_A_CLUSTER: Final = 0.02  # least weight of a host in its cluster's centre


@helper
def learn_usual(own: Any, hours: Any, count: Any, group: Any, every: Any) -> None:
    """The hour that is over enters, of `count` measures; `own` is [M, ABOVE + 1], the others [M, 3]."""
    w = max(1.0 / (hours + 1.0), 1.0 / _OWN_HOURS)
    for m in range(count):
        x = own[m, NOW]
        d = x - own[m, MEAN]
        own[m, MEAN] += w * d
        own[m, VAR] = (1.0 - w) * (own[m, VAR] + w * d * d)
        own[m, PEAK] = max(own[m, PEAK] * _PEAK_FADING, x)
        own[m, NOW] = 0.0
        for g in (group, every):
            v = max(1.0 / (g[m, 0] + 1.0), 1.0 / _GROUP_HOURS)
            d = x - g[m, 1]
            g[m, 0] = min(g[m, 0] + 1.0, _GROUP_HOURS)
            g[m, 1] += v * d
            g[m, 2] = (1.0 - v) * (g[m, 2] + v * d * d)


@helper
def compare_with(own: Any, hours: Any, count: Any, group: Any, every: Any) -> None:
    """What this hour of an entity is compared with: its own usual, backed by that of its like, and that backed by all.

    Where nothing has been learned the inverse spread is 0.
    """
    b = _PRIOR_HOURS / (hours + _PRIOR_HOURS)
    for m in range(count):
        a = _PRIOR_HOURS / (group[m, 0] + _PRIOR_HOURS)
        mean = (1.0 - a) * group[m, 1] + a * every[m, 1]
        var = (1.0 - a) * group[m, 2] + a * every[m, 2]
        known = 1.0 if every[m, 0] > 0.0 else 0.0
        own[m, FROM] = (1.0 - b) * own[m, MEAN] + b * mean
        own[m, BY] = known / np.sqrt((1.0 - b) * own[m, VAR] + b * var + _FLOOR)
        own[m, ABOVE] = max(own[m, PEAK], own[m, FROM])


@helper
def cluster_of(uses: Any, before: Any, centre: Any, members: Any) -> Any:
    """The cluster (1.., 0 none) of a host that uses services as in `uses` [ALPHABET]; it moves the centre a little."""
    total = 0.0
    for a in range(ALPHABET):
        total += uses[a]
    if total <= 0.0:
        return before
    best, nearest, free = -1.0, -1, -1
    for k in range(CLUSTERS):
        if members[k] <= 0.0 and centre[k, 0] + centre[k].sum() == 0.0:
            if free < 0:
                free = k
            continue
        alike = 0.0
        for a in range(ALPHABET):
            alike += centre[k, a] * np.sqrt(uses[a] / total)
        if alike > best:
            best, nearest = alike, k
    if best < _ALIKE and free >= 0:
        nearest = free
    if before > 0:
        members[before - 1] -= 1.0
    members[nearest] += 1.0
    w = 1.0 if nearest == free else max(1.0 / (members[nearest] + 1.0), _OF_A_CLUSTER)
    norm = 0.0
    for a in range(ALPHABET):
        centre[nearest, a] += w * (np.sqrt(uses[a] / total) - centre[nearest, a])
        norm += centre[nearest, a] * centre[nearest, a]
    for a in range(ALPHABET):
        centre[nearest, a] /= np.sqrt(norm)
    return nearest + 1
