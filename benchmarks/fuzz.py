"""Mutates real frames for a while and tracks them with bounds checks on: any read out of bounds ends the run.

    NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=fuzz-cache python benchmarks/fuzz.py CAPTURES [--seconds 600] [--keep DIR]

Numba checks no index unless it is told to, so the run refuses to begin without. Frames are cut, joined, repeated,
their bytes flipped, set to extremes and copied about, their times and link types shuffled. Each round checks that
every frame counts somewhere, that rows come in order of `end`, and that cutting the round into blocks changes nothing.
A failing round is kept in DIR as a pcap-like .npz, from which a test can be made.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feature_extractors.errors import CaptureError
from feature_extractors.extract import Extractor, ExtractorLimits
from feature_extractors.frames import FrameBlock
from feature_extractors.observations import Windows, concat
from feature_extractors.readers.native import NativeReader
from feature_extractors.tracker.link import KNOWN_LINKS
from feature_extractors.tracker.state import TrackerLimits

EXTREMES = np.array(
    [0, 1, 2, 4, 5, 6, 7, 17, 41, 44, 47, 0x3F, 0x40, 0x45, 0x60, 0x7F, 0x80, 0xF0, 0xFE, 0xFF], np.uint8
)
PAUSES = (0.0,) * 6 + (0.001,) * 8 + (0.5, 0.5, 6.0, 70.0, 400.0, -30.0)  # seconds between two frames
LINKS = np.array(sorted(KNOWN_LINKS), np.int32)


def corpus(captures: Path, rng: np.random.Generator, most: int = 40_000) -> list[tuple[bytes, int]]:
    """Frames and link types from many captures, a few of each."""
    frames: dict[tuple[bytes, int], None] = {}
    paths = [p for p in sorted(captures.rglob("*")) if p.is_file()]
    for i in rng.permutation(len(paths)):
        try:
            block = next(iter(NativeReader(paths[i])), None)
        except CaptureError:
            continue
        if block is None or not len(block):
            continue
        for k in rng.choice(len(block), min(40, len(block)), replace=False):
            begin = int(block.start[k])
            data = block.data[begin : begin + min(int(block.captured[k]), 2000)].tobytes()
            frames[(data, int(block.link[k]))] = None
        if len(frames) >= most:
            break
    return list(frames)


def mutate(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    frame = np.frombuffer(data, np.uint8).copy()
    for _ in range(int(rng.integers(0, 6))):
        if not len(frame):
            break
        at = int(rng.integers(0, min(len(frame), 120)))
        kind = rng.integers(0, 8)
        if kind == 0:
            frame[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            frame[at] = rng.choice(EXTREMES)
        elif kind == 2:
            frame = frame[: int(rng.integers(0, len(frame) + 1))]
        elif kind == 3:
            frame = np.concatenate([frame[:at], np.frombuffer(other, np.uint8)])[:2000]
        elif kind == 4:
            frame = np.concatenate([frame[: at + 8], frame[at:]])[:2000]
        elif kind == 5:
            frame[at : at + 2] = rng.choice(EXTREMES, 2)[: len(frame[at : at + 2])]
        elif kind == 6:
            frame = np.concatenate([frame[:14], frame])[:2000]
        else:
            frame[at] = rng.integers(0, 256)
    return frame.tobytes()


def a_round(frames: list[tuple[bytes, int]], rng: np.random.Generator) -> FrameBlock:
    """One block of some 300 frames, many of them relatives."""
    size = int(rng.integers(1, 300))
    chosen = rng.integers(0, len(frames), size)
    made, links = [], []
    for i in chosen:
        data, link = frames[int(i)]
        for _ in range(int(rng.integers(1, 4))):
            made.append(mutate(data, frames[int(rng.integers(0, len(frames)))][0], rng))
            links.append(link if rng.random() < 0.97 else int(rng.choice(LINKS)))
    sizes = np.array([len(m) for m in made], np.int32)
    return FrameBlock(
        data=np.frombuffer(b"".join(made), np.uint8),  # no byte between frames, and none after the last
        start=np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64),
        captured=sizes,
        length=(sizes + rng.choice([0, 0, 0, 1, 40, 60000], len(sizes))).astype(np.int32),
        ts=np.cumsum(rng.choice(PAUSES, len(sizes))),
        link=np.array(links, np.int32),
    )  # fmt: skip


def track(blocks: list[FrameBlock]) -> tuple[Windows, Extractor]:
    limits = ExtractorLimits(tracker=TrackerLimits(connections=200, blocks_per_direction=8, fragments=16))
    extractor = Extractor(limits, early=True)
    parts = [extractor.receive(block) for block in blocks]
    return concat([*parts, extractor.finish()]), extractor


def cut(block: FrameBlock, at: NDArray[np.int64]) -> list[FrameBlock]:
    edges = [0, *sorted(at.tolist()), len(block)]
    return [
        FrameBlock(
            block.data, *(getattr(block, name)[a:b] for name in ("start", "captured", "length", "ts", "link"))
        )
        for a, b in pairwise(edges)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("captures", type=Path)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path("."))
    args = parser.parse_args()
    if os.environ.get("NUMBA_BOUNDSCHECK") != "1":
        print("NUMBA_BOUNDSCHECK: found nothing, expected 1", file=sys.stderr)
        return 2
    rng = np.random.default_rng(args.seed)
    frames = corpus(args.captures, rng)
    track([a_round(frames, rng)])  # compiles
    deadline = time.monotonic() + args.seconds
    rounds = packets = rows = 0
    while time.monotonic() < deadline:
        block = a_round(frames, rng)
        try:
            windows, _ = track([block])
            pieces, _ = track(cut(block, rng.integers(0, len(block) + 1, 3)))
            assert (np.diff(windows.connections.end) >= 0).all(), "rows out of order"
            assert (windows.connections.uid == pieces.connections.uid).all(), "cutting changed the rows"
            assert (windows.connections.history == pieces.connections.history).all(), (
                "cutting changed histories"
            )
        except CaptureError:
            continue
        except BaseException:
            path = args.keep / f"fuzz-{args.seed}-{rounds}.npz"
            np.savez(path, **{name: getattr(block, name) for name in FrameBlock.__slots__})
            print(f"round {rounds} of seed {args.seed} failed; its frames are in {path}", file=sys.stderr)
            raise
        rounds += 1
        packets += len(block)
        rows += len(windows)
    print(f"{rounds} rounds, {packets} frames, {rows} rows: no fault")
    return 0


if __name__ == "__main__":
    sys.exit(main())
