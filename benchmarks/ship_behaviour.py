"""Learns the behaviour that ships: from every benign network at hand, beside the shipped model, which stays as it is.

    python -m benchmarks.ship_behaviour OUT --captures DATA --recordings FOLDER [FOLDER ...]

DATA is a folder of labelled captures as `cmdana evaluate` reads it (its train and calibrate splits teach, its test
split does not), each FOLDER a recording of a laboratory: one capture and its labels.csv. What is labelled malicious
moves the streams and teaches nothing: real tools are never rehearsed. Then: put OUT in the place of the shipped model
and run `python -m cmdana_plugin.replay.reference`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cmdana_plugin.behaviour import with_behaviour
from cmdana_plugin.config import Config
from cmdana_plugin.detector import checkpoint, shipped_checkpoint
from cmdana_plugin.evaluation.command import captures_split
from cmdana_plugin.evaluation.own_network import read_recording
from cmdana_plugin.replay import with_reference
from cmdana_plugin.training.fit_behaviour import fit_behaviour, held_out, normal_of
from cmdana_plugin.training.recording import Recording, gather
from feature_extractors import CmdanaError
from feature_extractors.features import load_schema

_LEARNED = 0.8  # share of each recording that is learned from; the rest calibrates


def networks(captures: Path | None, folders: list[Path], cache: Path | None) -> Iterator[Recording]:
    """Recordings with something benign in them."""
    if captures is not None:
        split = captures_split(captures, None, Config(), cache, lambda _what, _share: None)
        yield from (r for r in (*split.train, *split.calibrate) if r.label is None or (r.label == 0).any())
    for folder in folders:
        yield read_recording(folder, Config(), cache)


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("out", type=Path, help="the checkpoint to write")
    ask.add_argument("--captures", type=Path, help="folder of labelled captures")
    ask.add_argument(
        "--recordings", type=Path, nargs="*", default=[], help="folders of laboratory recordings"
    )
    ask.add_argument("--cache", type=Path, help="folder that keeps what captures hold")
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument(
        "--held-out", action="store_true", help="also judge each kind of rehearsal by the others alone"
    )
    asked = ask.parse_args()
    started, schema, made = time.monotonic(), load_schema(), shipped_checkpoint()
    try:
        corpus = gather(networks(asked.captures, asked.recordings, asked.cache), schema)
        normal = normal_of([corpus], _LEARNED, one_site=False)
        learned = fit_behaviour(
            normal, seed=asked.seed,
            progress=lambda _what, share: print(f"{share:.0%}", end=" ", flush=True),
        )  # fmt: skip
    except CmdanaError as error:
        print(error, file=sys.stderr)
        return 1
    if learned is None:
        print("too little benign traffic to learn behaviour from", file=sys.stderr)
        return 1
    checkpoint.save(with_reference(with_behaviour(made, learned)), asked.out)
    benign = int(sum(r.normal.sum() for r in normal))
    print(
        f"\n{asked.out}: behaviour of {benign:,} benign connections in {len(normal)} recordings, "
        f"{len(learned.trees.root)} trees, {time.monotonic() - started:.0f} s"
    )
    if asked.held_out:
        for kind, rates in held_out(normal, asked.seed).items():
            print(
                f"{kind}: {', '.join(f'{np.round(rate, 3)}' for rate in rates)} at 1e-2, 1e-3 without its like"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
