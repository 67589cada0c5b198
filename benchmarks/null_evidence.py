"""Tails of evidence against hosts whose p-values are uniform: prints the table `decision.usual.tails` begins with."""

from __future__ import annotations

import argparse
import math

import numpy as np

from cmdana_plugin.decision.evidence import BLOCK, Evidence
from cmdana_plugin.decision.usual.tails import PARAMETERS, ROLES, STATISTICS, tails_of

RUN = 4.0  # connections of a host that share a p-value, on average
MIDDLE, SPREAD = 30.0, 1.2  # connections of a host in an hour: median, and spread of their logarithm
PEERS = 200


def maxima(hours: int, hosts: int, seed: int) -> list[np.ndarray]:
    """What the hours of `hosts` come to at most, by role."""
    rng = np.random.default_rng(seed)
    evidence = Evidence(np.ones((ROLES, STATISTICS + 1, PARAMETERS)), 4 * (hosts + PEERS), 1800.0)
    key = np.arange(1, hosts + PEERS + 1).astype(np.uint64) << np.uint64(3)
    rate = rng.lognormal(math.log(MIDDLE / RUN), SPREAD, hosts)
    for hour in range(hours):
        runs = rng.poisson(rate)
        length = rng.geometric(1.0 / RUN, runs.sum())
        host = np.repeat(np.repeat(np.arange(hosts), runs), length)
        e = np.repeat(-np.log10(rng.random(len(length))), length)
        peer = np.repeat(hosts + rng.integers(0, PEERS, len(length)), length)
        end = (
            hour * BLOCK
            + np.repeat(rng.random(len(length)) * (BLOCK - 60.0), length)
            + rng.random(len(host)) * 60.0
        )
        order = np.argsort(end)
        n = len(order)
        no = np.zeros(n, np.bool_)
        evidence.weigh(
            0, key[host[order]], key[peer[order]] + np.uint64(1), end[order], np.minimum(e[order], 12.0), np.zeros(n),
            no, no, ~no, np.zeros(n, np.int64), np.zeros(n),
        )  # fmt: skip
        evidence.turn()
    return [evidence.blocks(role) for role in range(ROLES)]


def main() -> None:
    """The table, as it stands in the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hosts", type=int, default=120)
    args = parser.parse_args()
    for role, tails in enumerate(tails_of(maxima(60, args.hosts, args.seed), 60 * BLOCK)):
        print(f"role {role}")
        for level, scale, shape in tails:
            print(f"            [{level:.3f}, {scale:.3f}, {shape:.3f}],")


if __name__ == "__main__":
    main()
