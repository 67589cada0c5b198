"""Learns the detector that ships from labelled captures; the shipped model's behaviour goes along as it is.

    python -m benchmarks.ship_detector OUT --captures DATA

DATA is a folder of labelled captures as `cmdana evaluate` reads it: its train split teaches, its calibrate split
calibrates, its test split does neither. Then:
put OUT in the place of the shipped model and run `python -m cmdana_plugin.replay.reference`.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

from cmdana_plugin.behaviour import behaviour_of, with_behaviour
from cmdana_plugin.config import Config
from cmdana_plugin.detector import checkpoint, shipped_checkpoint
from cmdana_plugin.evaluation.command import captures_split
from cmdana_plugin.replay import with_reference
from cmdana_plugin.training import Recipe, train
from feature_extractors import CmdanaError


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("out", type=Path, help="the checkpoint to write")
    ask.add_argument("--captures", type=Path, required=True, help="folder of labelled captures")
    ask.add_argument("--cache", type=Path, help="folder that keeps what captures hold")
    ask.add_argument("--seed", type=int, default=0)
    asked = ask.parse_args()
    started, shipped = time.monotonic(), shipped_checkpoint()
    try:
        split = captures_split(asked.captures, None, Config(), asked.cache, lambda _what, _share: None)
        made = train(
            split.train,
            split.calibrate,
            recipe=Recipe(seed=asked.seed, behaviour=False),
            name=shipped.about["name"],
        )
    except CmdanaError as error:
        print(error, file=sys.stderr)
        return 1
    made = replace(made, incidents=shipped.incidents)
    checkpoint.save(with_reference(with_behaviour(made, behaviour_of(shipped))), asked.out)
    print(
        f"{asked.out}: {made.detector} of {made.about['connections']} connections in {made.about['recordings']} "
        f"recordings, {time.monotonic() - started:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
