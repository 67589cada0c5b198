"""How rare the evidence of one host in one hour is: a tail fitted to what normal hosts' hours come to at most.

A host's hour is a block, and the most that a statistic comes to in it a block maximum; above its ninetieth percentile
the tail is a generalised Pareto one (Pickands 1975). How many hosts' hours of a day lie beyond a level is then their
number times the tail, whether or not they depend on one another, since expectations add up. Of several statistics the
rarest counts, and how rare it is that any is so rare is again a tail that is fitted to the blocks: no independence is
assumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

ROLES: Final = 2  # originator, responder
HORIZONS: Final = (3600.0, 86400.0)  # seconds that evidence is looked at together
SIZES: Final = (
    (1, 3, 10, 30),
    (3, 10, 30),
)  # of each horizon, how many of the oddest connections are averaged
STATISTICS: Final = sum(map(len, SIZES))
KEPT: Final = 30  # the oddest connections of a host and horizon, which are all that is needed
ABOVE: Final = 0.1  # share of blocks above the level that a tail begins at
PARAMETERS: Final = 3  # of a tail: the level it begins at, its scale, its shape
ENOUGH_BLOCKS: Final = 200  # hosts' hours from which on a tail is fitted
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


def robust(maxima: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same where a few blocks may be attacks: an exponential tail through quantiles that they do not move."""
    half, level, high = np.quantile(maxima, [0.5, 1.0 - ABOVE, 1.0 - ABOVE / 2])
    scale = max((level - half) / math.log(0.5 / ABOVE), (high - level) / math.log(2.0), _LEAST_SCALE)
    return np.array([level, scale, 0.0])


def tails_of(maxima: Sequence[NDArray[np.float64]]) -> Tails:
    """The tails of block maxima [n, STATISTICS] of each role; of a role with few blocks, those of no learning."""
    out = UNLEARNED.copy()
    for role, blocks in enumerate(maxima):
        if len(blocks) >= ENOUGH_BLOCKS:
            out[role] = _each(blocks, fitted)
    return out


def robust_tails(blocks: NDArray[np.float64]) -> NDArray[np.float64]:
    """The tails of one role's blocks of which a few may be attacks [STATISTICS + 1, PARAMETERS]."""
    return _each(blocks, robust)


def _each(
    blocks: NDArray[np.float64], fit: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    tails = [fit(blocks[:, k]) for k in range(STATISTICS)]
    rarest = np.max([surprise(tail, blocks[:, k]) for k, tail in enumerate(tails)], axis=0)
    return np.stack([*tails, fit(rarest)])


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


def null_maxima(rng: np.random.Generator, blocks: int) -> NDArray[np.float64]:
    """What the hours of normal hosts come to where p-values are uniform but runs of like connections share one.

    A host has a log-normal number of connections in an hour (median 30), in runs of four on average.
    """
    out = np.zeros((blocks, STATISTICS))
    for i in range(blocks):
        runs = max(int(rng.lognormal(math.log(30.0), 1.2)) // 4, 1)
        e = np.minimum(-np.log10(np.repeat(rng.random(runs), rng.geometric(0.25, runs))), 12.0)
        k = 0
        for hours, sizes in zip((1, 8), SIZES, strict=True):
            some = (
                e if hours == 1 else -np.log10(np.repeat(rng.random(runs * 8), rng.geometric(0.25, runs * 8)))
            )
            top = np.sort(some)[::-1][:KEPT]
            for size in sizes:
                out[i, k] = top[:size].sum() / size
                k += 1
    return out


# `tails_of` of `null_maxima`, 20,000 blocks: what holds until a checkpoint brings the tails of its own network.
UNLEARNED: Final[Tails] = np.tile(
    np.array(
        [
            [2.080, 0.477, 0.000],
            [1.945, 0.453, 0.000],
            [1.603, 0.382, 0.000],
            [1.134, 0.304, 0.000],
            [2.873, 0.460, 0.000],
            [2.525, 0.388, 0.000],
            [2.044, 0.312, 0.000],
            [1.515, 0.456, 0.000],
        ]
    ),
    (ROLES, 1, 1),
)  # fmt: skip
