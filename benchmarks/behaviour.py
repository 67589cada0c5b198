"""What behaviour costs beside the detector: both over the same blocks in turn, on made-up office traffic.

    python -m benchmarks.behaviour [--connections 40000] [--block 1024]

Prints microseconds of processor time for each connection, on one thread, and the ratio, which a busy machine changes
little; and what the tables take where they are full.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from cmdana_plugin.behaviour.flows import flows_of
from cmdana_plugin.behaviour.streams import Bounds, Streams
from cmdana_plugin.detector.cross_modal import CrossModal, shipped_checkpoint
from cmdana_plugin.detector.site_history import WithSiteHistory
from feature_extractors.features.encoding import encoded, take_encoded
from feature_extractors.features.schema import load_schema

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit"))
from made_flows import flows
from made_windows import office

SALT = 77


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=40_000)
    parser.add_argument("--block", type=int, default=1024)
    given = parser.parse_args()
    torch.set_num_threads(1)
    schema = load_schema()
    whole = encoded(office(given.connections, seed=1, desks=200), schema)
    detector = WithSiteHistory(CrossModal(shipped_checkpoint(), schema, threads=1))
    streams = Streams()
    spent = {"detector": 0.0, "flows": 0.0, "streams": 0.0}
    counted = 0
    for begin in range(0, len(whole), given.block):
        block = take_encoded(whole, np.arange(begin, min(begin + given.block, len(whole))))
        at = [time.process_time()]
        detector.receive(block)
        at.append(time.process_time())
        seen = flows_of(block, SALT)
        at.append(time.process_time())
        streams.receive(seen)
        at.append(time.process_time())
        if begin >= len(whole) // 4:  # compiled, and past the first growth
            counted += len(block)
            for name, took in zip(spent, np.diff(at), strict=True):
                spent[name] += took
    for name, seconds in spent.items():
        print(f"{name:10s} {1e6 * seconds / counted:8.2f} us of processor time for each connection")
    print(f"behaviour  {(spent['flows'] + spent['streams']) / spent['detector']:8.1%} of the detector's")
    bound = Bounds()
    full = Streams(bound)
    n, step = 4 * bound.hosts, 20_000
    for begin in range(0, n, step):
        one = begin + np.arange(step, dtype=np.uint64)
        full.receive(
            flows(
                step, ts=1e9 + one, orig=one // 4 * 7919 + 1, resp=one * 104_729 + 1, domain=one % 50_000 + 1
            )
        )
    size = sum(a.nbytes for a in full.state().values())
    print(
        f"memory     {size / 2**20:8.0f} MiB at {bound.hosts} hosts of four peers each; evicted {full.evicted()}"
    )


if __name__ == "__main__":
    main()
