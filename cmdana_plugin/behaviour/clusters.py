"""Hosts of like behaviour: clusters by what they use services for."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from cmdana_plugin.behaviour.tables import ALPHABET, CLUSTERS
from feature_extractors.compiled import helper

_ALIKE: Final = 0.8  # cosine from which a host belongs to a cluster
_OF_A_CLUSTER: Final = 0.02  # least weight of a host in its cluster's centre


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
