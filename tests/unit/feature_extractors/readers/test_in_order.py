"""Several captures are one stream in order of time, whatever the order of their names."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import made_captures
import numpy as np
import pytest
from made_captures import Made

from feature_extractors.frames import FrameBlock
from feature_extractors.readers import first_frame, in_order, open_captures


def written(path: Path, times: list[float], mark: int) -> Path:
    """A capture with a frame at each of the times, whose bytes say which capture and which frame it is."""
    made = [Made(bytes([mark, i >> 8, i & 255]) * 20, 60, ts, 1) for i, ts in enumerate(times)]
    path.write_bytes(made_captures.pcap(made, link=1))
    return path


def stream(paths: list[Path], piece: int | None = None) -> list[tuple[float, int, int]]:
    """(time, capture, frame) in the order in which they come."""
    readers = open_captures(paths, "native")
    if piece:
        for reader in readers:
            reader._piece = piece  # type: ignore[attr-defined]
    out: list[tuple[float, int, int]] = []
    for block in in_order(readers):
        check(block)
        for start, ts in zip(block.start.tolist(), block.ts.tolist(), strict=True):
            mark, high, low = block.data[start : start + 3].tolist()
            out.append((round(ts, 6), mark, high << 8 | low))
    return out


def check(block: FrameBlock) -> None:
    ends = block.start + block.captured
    assert ends.max() <= len(block.data)
    for start, end in zip(block.start.tolist(), ends.tolist(), strict=True):
        frame = block.data[start:end].reshape(-1, 3)
        assert (frame == frame[0]).all()  # the bytes of one frame


def test_captures_come_in_the_order_of_their_first_frames(tmp_path: Path) -> None:
    later = written(tmp_path / "a.pcap", [50.0, 51.0], 1)
    sooner = written(tmp_path / "b.pcap", [10.0, 11.0], 2)
    expected = [(10.0, 2, 0), (11.0, 2, 1), (50.0, 1, 0), (51.0, 1, 1)]
    assert stream([later, sooner]) == stream([sooner, later]) == expected
    assert [first_frame(r) for r in open_captures([later, sooner])] == [50.0, 10.0]


def test_captures_that_overlap_are_merged_frame_by_frame(tmp_path: Path) -> None:
    rng = random.Random(5)
    times = [sorted(round(rng.uniform(0, 100), 6) for _ in range(400)) for _ in range(5)]
    paths = [written(tmp_path / f"{i}.pcap", t, i) for i, t in enumerate(times)]
    expected = sorted((ts, i, k) for i, t in enumerate(times) for k, ts in enumerate(t))
    assert stream(paths) == expected
    for piece in (64, 700, 20_000):  # however the files are cut into blocks
        assert stream(paths, piece) == expected


def test_frames_of_one_moment_come_in_the_order_of_the_names(tmp_path: Path) -> None:
    paths = [written(tmp_path / f"{i}.pcap", [7.0, 7.0], i) for i in range(3)]
    assert stream(paths) == [(7.0, i, k) for i in range(3) for k in range(2)]


def test_a_clock_that_goes_back_within_a_capture_stays_within_it(tmp_path: Path) -> None:
    jumpy = written(tmp_path / "a.pcap", [10.0, 30.0, 5.0, 31.0], 1)
    other = written(tmp_path / "b.pcap", [20.0, 30.5], 2)
    expected = [(10.0, 1, 0), (20.0, 2, 0), (30.0, 1, 1), (5.0, 1, 2), (30.5, 2, 1), (31.0, 1, 3)]
    for piece in (None, 64):
        assert stream([jumpy, other], piece) == expected


def test_captures_without_frames_and_pipes_take_their_place(tmp_path: Path) -> None:
    empty = written(tmp_path / "empty.pcap", [], 9)
    file = written(tmp_path / "a.pcap", [20.0], 1)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    content = written(tmp_path / "b.pcap", [10.0, 30.0], 2).read_bytes()
    feeder = threading.Thread(target=pipe.write_bytes, args=(content,))
    feeder.start()
    assert stream([file, empty, pipe]) == [(10.0, 2, 0), (20.0, 1, 0), (30.0, 2, 1)]
    feeder.join()
    assert np.isinf(first_frame(open_captures([empty])[0]))


@pytest.mark.parametrize("n", [1, 3, 500])
def test_what_is_held_of_many_captures_is_bounded(tmp_path: Path, n: int) -> None:
    path = written(tmp_path / "a.pcap", [1.0], 1)
    readers = open_captures([path] * n, "native")
    assert sum(reader._piece for reader in readers) <= 128 * 1024 * 1024  # type: ignore[attr-defined]
