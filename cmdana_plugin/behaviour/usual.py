"""An entity's own usual: the most that an hour showed, learned hour by hour, and what those of like behaviour show.

The hour that is running is no part of it, so a run of connections does not become its own usual.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from cmdana_plugin.behaviour.tables import ALPHABET, CLUSTERS, MEAN, NOW, PEAK, VAR, M
from feature_extractors.compiled import helper

_OWN_HOURS: Final = 200.0  # that an entity's usual is made of, at most
_GROUP_HOURS: Final = 2000.0
_PRIOR_HOURS: Final = 2.0  # that the usual of its like weighs in an entity's own
_FLOOR: Final = 0.05  # variance of a logarithm that is nothing unusual
_PEAK_FADING: Final = 0.995  # of the most of all, by hour
_ALIKE: Final = 0.8  # cosine from which a host belongs to a cluster
_OF_A_CLUSTER: Final = 0.02  # least weight of a host in its cluster's centre


@helper
def learn_usual(own: Any, hours: Any, group: Any, every: Any) -> None:
    """The hour that is over enters; `own` is [M, 4], the others [M, 3]."""
    w = max(1.0 / (hours + 1.0), 1.0 / _OWN_HOURS)
    for m in range(M):
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
def against(x: Any, own: Any, hours: Any, group: Any, every: Any) -> Any:
    """Spreads above the own usual, those above that of its like, and how far above the most of all, of one measure.

    NaN where neither has been learned.
    """
    if every[0] == 0.0:
        return np.nan, np.nan, np.nan
    n = group[0]
    a = _PRIOR_HOURS / (n + _PRIOR_HOURS)
    mean = (1.0 - a) * group[1] + a * every[1]
    var = (1.0 - a) * group[2] + a * every[2]
    theirs = (x - mean) / np.sqrt(var + _FLOOR)
    b = _PRIOR_HOURS / (hours + _PRIOR_HOURS)
    own_mean = (1.0 - b) * own[MEAN] + b * mean
    own_var = (1.0 - b) * own[VAR] + b * var
    return (x - own_mean) / np.sqrt(own_var + _FLOOR), theirs, x - max(own[PEAK], own_mean)


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
