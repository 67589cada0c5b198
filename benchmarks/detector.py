"""How fast what ships judges and learns, and what a million hosts cost: rates of one run.

    python -m benchmarks.detector [--threads 2] [--rounds 5] [--connections 50000] [--block 8192] [--profile]
                                  [--no-training] [CAPTURE...]

What is judged are made-up office connections, or those of the captures, by what `cmdana replay` and `cmdana run` load
and with their threads (`cli.judging.load_detector_of`). By stage, each with all before it: the network with the
histories of hosts, behaviour, the site's history (all that scores), and the whole loop with verdicts, evidence,
incidents and notices, which as in a replay scores one block ahead. Connections per second of wall and of processor
time, the best of the rounds, for other work on the machine only adds; each round begins with no past. `--profile` adds
where the loop's time goes, of one thread.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cmdana_plugin.cli.judging import judge_of, load_detector_of
from cmdana_plugin.config import Config
from cmdana_plugin.decision import Judge
from cmdana_plugin.detector import restore_to, state_of
from cmdana_plugin.detector.history import Tables, make_keys
from cmdana_plugin.notebook import extract, read
from feature_extractors.features.encoding import (
    Encoded,
    concat_encoded,
    encode,
    encoded,
    take_encoded,
)
from feature_extractors.features.schema import load_schema
from feature_extractors.observations import Windows

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit"))
from made_windows import changed, office

GOAL = 60_000  # connections a second on two cores, scored, behaviour included


def cut(block: Encoded, size: int) -> list[Encoded]:
    """The block in blocks of `size` rows."""
    return [take_encoded(block, np.arange(i, min(i + size, len(block)))) for i in range(0, len(block), size)]


def begun(threads: int, first: Encoded) -> Judge:
    """A judge without a past, whose detector has been used once: what is made at its first block is no rate."""
    loaded = load_detector_of(Config(), threads=threads)
    before = state_of(loaded.detector)
    loaded.detector.receive(first)
    restore_to(loaded.detector, before)
    return judge_of(loaded, Config())


def stages(blocks: Sequence[Encoded], threads: int) -> dict[str, Callable[[], Callable[[], object]]]:
    """By name: what makes ready, and gives what is timed."""

    def scored(layers: int) -> Callable[[], Callable[[], object]]:
        def ready() -> Callable[[], object]:
            detector = begun(threads, blocks[0]).detector
            for _ in range(layers):
                detector = detector.inner  # type: ignore[attr-defined]
            return lambda: [detector.receive(block) for block in blocks]

        return ready

    def judged() -> Callable[[], object]:
        judge = begun(threads, blocks[0])
        return lambda: [len(j.verdicts) for j in judge.judged(blocks, ahead=True)]

    return {
        "network and histories": scored(2),
        "with behaviour": scored(1),
        "all that scores": scored(0),
        "verdicts and incidents too": judged,
    }


def timed(run: Callable[[], object]) -> tuple[float, float]:
    wall, busy = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - busy


def rates(name: str, n: int, taken: Sequence[tuple[float, float]]) -> str:
    wall, busy = (min(column) for column in zip(*taken, strict=True))
    return f"{name:28s} {n / wall:12,.0f}/s wall {n / busy:12,.0f}/s of processor time {1e6 * busy / n:8.1f} us each"


def profiled(blocks: Sequence[Encoded]) -> None:
    """Where the loop's time goes, of one thread's processor time."""
    judge = begun(1, blocks[0])
    profile = cProfile.Profile(time.thread_time)
    profile.enable()
    for _ in judge.judged(blocks):
        pass
    profile.disable()
    pstats.Stats(profile).sort_stats("tottime").print_stats(40)


def memory(windows: Windows, hosts: int) -> float:
    """GiB at the peak that histories of so many hosts take beyond what is there."""
    schema, n = load_schema(), len(windows)
    features = encode(windows, schema)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    large = Tables(hosts, learned=False)
    rng = np.random.default_rng(0)
    for _ in range(0, hosts, n):
        c = changed(windows, orig_h=rng.integers(0, 256, (n, 16)).astype(np.uint8)).connections
        large.counts(c, features, make_keys(c, features, 1), schema.spans)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("captures", nargs="*", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=50_000)
    parser.add_argument("--block", type=int, default=8192)
    parser.add_argument("--hosts", type=int, default=1_000_000)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--no-training", dest="training", action="store_false")
    given = parser.parse_args()
    schema = load_schema()
    made = office(given.connections, seed=1)
    for name in given.captures or [None]:
        if name is None:
            block = encoded(made, schema)
        else:
            block = concat_encoded([encoded(windows, schema) for windows in extract(read(name))])
        blocks, n = cut(block, given.block), len(block)
        for _ in begun(given.threads, blocks[0]).judged(blocks[:2]):  # compile and warm up
            pass
        what = stages(blocks, given.threads)
        taken: dict[str, list[tuple[float, float]]] = {stage: [] for stage in what}
        for _ in range(given.rounds):  # in turn, so that what else the machine does meets all alike
            for stage, ready in what.items():
                taken[stage].append(timed(ready()))
        print(f"{name or 'made-up office'}: {n:,} connections, {given.threads} threads")
        for stage, rounds in taken.items():
            print(rates(stage, n, rounds), flush=True)
        rate = n / min(wall for wall, _ in taken["all that scores"])
        print(
            f"goal of {GOAL:,} a second scored: {'met' if rate >= GOAL else f'missed, {rate / GOAL:.2f} of it'}"
        )
        if given.profile:
            profiled(blocks)
    if given.captures or not given.training:
        return
    from cmdana_plugin.training.fit import train
    from cmdana_plugin.training.recipe import Recipe
    from cmdana_plugin.training.recording import Recording

    print(rates("encode", len(made), [timed(lambda: encode(made, schema)) for _ in range(given.rounds)]))
    learned = timed(lambda: train([Recording("made", made)], recipe=Recipe(epochs=1)))
    print(rates("training, per pass", len(made), [learned]))
    print(f"{given.hosts:,} hosts: {memory(made, given.hosts):.2f} GiB more at the peak")


if __name__ == "__main__":
    main()
