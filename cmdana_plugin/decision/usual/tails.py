"""How rare the evidence of one host in one hour is: a tail fitted to what normal hosts' hours come to at most.

A host's hour is a block, and the most that a statistic comes to in it a block maximum; above its ninetieth percentile
the tail is a generalised Pareto one (Pickands 1975). How many hosts' hours of a day lie beyond a level is then their
number times the tail, whether or not they depend on one another, since expectations add up. Of several statistics the
rarest counts, and how rare it is that any is so rare is again a tail that is fitted to the blocks: no independence is
assumed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

LEAST: Final = 0.5  # -log10 p below which a connection is no evidence
FIRM: Final = 2.0  # and from which on it keeps an incident open
MOST: Final = 12.0  # that one connection may bring: no single p-value is sure of more
ROLES: Final = 2  # originator, responder
HORIZONS: Final = (
    3600.0,
    86400.0,
    60.0,
)  # seconds that evidence is looked at together; the first is the block
# Of responders the first two alone: what a server is asked in a minute grows with those who use it.
HORIZONS_OF: Final = (3, 2)  # of each role
SIZES: Final = (
    (1, 3, 10, 30),
    (3, 10, 30),
    (10, 30),
)  # of each horizon, how many of the oddest connections are averaged
STATISTICS: Final = sum(map(len, SIZES)) + 1  # and, of originators, how many of an hour are odd
KEPT: Final = 30  # the oddest connections of a host and horizon, which are all that is needed
ABOVE: Final = 0.1  # share of blocks above the level that a tail begins at
PARAMETERS: Final = 3  # of a tail: the level it begins at, its scale, its shape
ENOUGH_BLOCKS: Final = 100  # hosts' hours from which on a tail is fitted
_PRIOR_BLOCKS: Final = 200.0  # that what holds without learning counts as, beside them
_HEAVIEST: Final = 0.5  # shape; a heavier tail has no variance, and no fit is sure of it
_LEAST_SCALE: Final = 0.05

Tails = NDArray[np.float64]  # [ROLES, STATISTICS + 1, PARAMETERS], the last of the rarest of them


def fitted(maxima: NDArray[np.float64]) -> NDArray[np.float64]:
    """The tail of block maxima [n] of normal hosts, by probability-weighted moments (Hosking and Wallis 1987)."""
    level = float(np.quantile(maxima, 1.0 - ABOVE))
    over = np.sort(maxima[maxima > level]) - level
    if len(over) < 10:
        return np.array([level, _LEAST_SCALE, 0.0])
    n = len(over)
    mean = float(over.mean())
    weighted = float((over * (1.0 - (np.arange(1, n + 1) - 0.35) / n)).mean())
    shape = 2.0 - mean / max(mean - 2.0 * weighted, 1e-9)
    shape = float(np.clip(shape, 0.0, _HEAVIEST))
    return np.array([level, max(mean * (1.0 - shape), _LEAST_SCALE), shape])


def tails_of(maxima: Sequence[NDArray[np.float64]], watched: float) -> Tails:
    """The tails of block maxima [n, STATISTICS] of each role; of a role with few blocks, those of no learning.

    `watched` is over how many seconds the blocks lie.
    """
    out = UNLEARNED.copy()
    for role, blocks in enumerate(maxima):
        if len(blocks) >= ENOUGH_BLOCKS:
            out[role] = of_hours(blocks, role, watched)
    return out


def of_hours(blocks: NDArray[np.float64], role: int, watched: float) -> NDArray[np.float64]:
    """The tails of one role's block maxima [n, STATISTICS], and last that of the rarest of them.

    What a day comes to is not known from a few of its hours, whose day had only begun: until a horizon has been
    `watched` twice over, in seconds, its tails are those of no learning.
    """
    horizons = [HORIZONS[h] for h, sizes in enumerate(SIZES) for _ in sizes] + [HORIZONS[0]]
    known = [watched >= 2.0 * horizon for horizon in horizons]
    tails = [
        _shrunk(fitted(blocks[:, k]), len(blocks), UNLEARNED[role, k]) if known[k] else UNLEARNED[role, k]
        for k in range(STATISTICS)
    ]
    rarest = np.max([surprise(tail, blocks[:, k]) for k, tail in enumerate(tails)], axis=0)
    return np.stack([*tails, _shrunk(fitted(rarest), len(blocks), UNLEARNED[role, -1])])


def _shrunk(fit: NDArray[np.float64], n: int, prior: NDArray[np.float64]) -> NDArray[np.float64]:
    """A tail fitted to `n` blocks, drawn toward what holds without learning: of few blocks a tenth is a handful."""
    if prior[0] >= _UNKNOWN[0]:
        return fit
    share = n / (n + _PRIOR_BLOCKS)
    return share * fit + (1.0 - share) * prior


def surprise(tail: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.float64]:
    """-log10 of the share of hosts' hours that come to `value` [n] or more; below the level that the tail begins at, in
    proportion to it.
    """
    level, scale, shape = tail.tolist()
    over = np.maximum(value - level, 0.0) / scale
    nats = over if shape < 1e-6 else np.log1p(shape * over) / shape
    begins = -math.log10(ABOVE)
    out: NDArray[np.float64] = begins * np.minimum(value / max(level, 1e-9), 1.0) + nats / math.log(10.0)
    return out


# How many are odd in an hour follows from how many there are: nobody knows it before hours were seen.
_UNKNOWN: Final = [99.0, 1.0, 0.0]

# What holds until a checkpoint brings the tails of its own network: of hosts with uniform p-values, of whose
# connections runs of four on average share one, thirty in the middle hour (`python -m benchmarks.null_evidence`).
UNLEARNED: Final[Tails] = np.array([
    [
        [2.362, 0.497, 0.000], [2.182, 0.467, 0.001], [1.773, 0.373, 0.039], [1.210, 0.278, 0.000],
        [2.990, 0.438, 0.138], [2.613, 0.472, 0.000], [2.104, 0.319, 0.000], [1.268, 0.398, 0.023],
        [0.504, 0.189, 0.075], _UNKNOWN, [1.559, 0.503, 0.000],
    ],
    [
        [2.094, 0.459, 0.000], [1.917, 0.423, 0.000], [1.499, 0.355, 0.006], [0.855, 0.217, 0.000],
        [2.813, 0.368, 0.097], [2.435, 0.301, 0.137], [1.875, 0.193, 0.069], [0.000, 0.050, 0.000],
        [0.000, 0.050, 0.000], _UNKNOWN, [1.566, 0.398, 0.119],
    ],
])  # fmt: skip
