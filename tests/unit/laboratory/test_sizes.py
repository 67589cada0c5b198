"""Captures of any size, made of small ones: as many packets as asked for, later each round, of other hosts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.sizes import made, recorded, rounds
from feature_extractors import Extractor
from feature_extractors.readers import open_capture

SMALL = Path(__file__).resolve().parents[3] / "cmdana_plugin" / "models" / "reference.pcap.gz"


def ends(capture: Path) -> tuple[int, int, int, set[bytes]]:
    """Packets, connections, how often time goes back, and originators of a capture."""
    extractor, packets, connections = Extractor(content=False), 0, 0
    hosts: set[bytes] = set()
    for block in open_capture(capture):
        packets += len(block)
        for windows in extractor.parts(block):
            connections += len(windows)
            hosts |= {row.tobytes() for row in windows.connections.orig_h}
    for windows in extractor.ending():
        connections += len(windows)
        hosts |= {row.tobytes() for row in windows.connections.orig_h}
    return packets, connections, extractor.counts.by_reason["time_goes_back"], hosts


def test_captures_have_as_many_packets_as_asked_for_and_hosts_grow_with_them(tmp_path: Path) -> None:
    n = len(recorded(SMALL).at) - 1
    found = made([SMALL], tmp_path, (10, n, 3 * n), size=0)
    few, once, thrice = (ends(path) for path in found.values())
    assert (few[0], once[0], thrice[0]) == (10, n, 3 * n)
    assert thrice[1:3] == (3 * once[1], 3 * once[2])
    assert once[3] < thrice[3]
    assert len(thrice[3]) > 2 * len(once[3])


def test_a_capture_of_so_many_bytes_ends_with_the_round_that_reaches_them(tmp_path: Path) -> None:
    found = made([SMALL], tmp_path, (), size=100_000)
    (large,) = found.values()
    one = len(recorded(SMALL).records)
    assert 100_000 <= large.stat().st_size < 100_000 + one + 24
    assert (large.stat().st_size - 24) % one == 0


def test_the_first_round_is_the_capture_as_it_was() -> None:
    small = recorded(SMALL)
    records, at = next(rounds([small]))
    assert np.array_equal(records, small.records)
    assert np.array_equal(at, small.at)
