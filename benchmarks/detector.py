"""How fast the detector scores and learns, and what a million hosts cost: rates of one run, on made-up office traffic.

    python -m benchmarks.detector [--threads 2] [--connections 50000] [--device cpu]

Prints connections per second of wall and of processor time by stage: encode, counts, whole detector, training.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch

from cmdana_plugin.detector.cross_modal import CrossModal, shipped_checkpoint
from cmdana_plugin.detector.history import Tables, make_keys
from cmdana_plugin.training.fit import train
from cmdana_plugin.training.recipe import Recipe
from cmdana_plugin.training.recording import Recording
from feature_extractors.features.encoding import encode, encoded, take_encoded
from feature_extractors.features.schema import load_schema

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit"))
from made_windows import changed, office


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--connections", type=int, default=50_000)
    parser.add_argument("--hosts", type=int, default=1_000_000)
    parser.add_argument(
        "--device", default="cpu", help="cpu or cuda, for the detector; training is on the CPU"
    )
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    schema = load_schema()
    windows = office(given.connections, seed=1)
    n = len(windows)
    detector = CrossModal(shipped_checkpoint(), schema, device=given.device, threads=given.threads)
    block = encoded(windows, schema)
    detector.receive(take_encoded(block, np.arange(2000)))  # compile and warm up
    detector.reset()
    features = encode(windows, schema)
    keys = make_keys(windows.connections, features, 1)
    tables = Tables(1 << 17, 1 << 16, 1 << 18)
    stages = {
        "encode": lambda: encode(windows, schema),
        "counts": lambda: tables.counts(windows.connections, features, keys, schema.spans),
        "detector, whole": lambda: detector.receive(block),
        "training, per pass": lambda: train([Recording("made", windows)], recipe=Recipe(epochs=1)),
    }
    for name, run in stages.items():
        wall, busy = time.perf_counter(), time.process_time()
        run()
        wall, busy = time.perf_counter() - wall, time.process_time() - busy
        print(f"{name:20s} {n / wall:12,.0f}/s wall {n / busy:12,.0f}/s of processor time")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    large = Tables(given.hosts)
    rng = np.random.default_rng(0)
    for _ in range(0, given.hosts, n):
        many = changed(windows, orig_h=rng.integers(0, 256, (n, 16)).astype(np.uint8))
        f = features
        _, slots = large.counts(many.connections, f, make_keys(many.connections, f, 1), schema.spans)
        gate = np.zeros((n, 3, 32), np.float32)
        large.remember(
            many.connections.ts,
            np.zeros(n, np.bool_),
            slots,
            gate,
            gate,
            np.zeros((3, 32), np.float32),
            np.ones((n, 16), np.float32),
        )
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{given.hosts:,} hosts: {(after - before) / 2**20:.2f} GiB more at the peak")


if __name__ == "__main__":
    main()
