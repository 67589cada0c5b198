"""Captures whose size is the attack are read in memory that does not grow with them, to the frames that they hold."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import odd_captures
import pytest

from feature_extractors.errors import CaptureError
from feature_extractors.extract import Extractor
from feature_extractors.readers.native import NativeReader

MOST = 96 << 20  # bytes that reading may take: a window of 64 MiB that xz asks for, or some blocks of 16 MiB


@pytest.mark.parametrize("kind", odd_captures.KINDS)
def test_it_is_read_to_its_frames_in_bounded_memory(kind: str, tmp_path: Path) -> None:
    make, n, frames, connections, bad = odd_captures.KINDS[kind]
    path = tmp_path / "capture"
    path.write_bytes(make(n))
    reader, extractor = NativeReader(path), Extractor()
    read = ended = 0
    tracemalloc.start()
    for block in reader:
        read += len(block)
        ended += len(extractor.receive(block))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    ended += len(extractor.finish())
    assert (read, ended, dict(reader.counts.by_reason)) == (frames, connections, bad)
    assert peak < MOST


@pytest.mark.parametrize("times", [2, 5])
def test_what_is_packed_again_is_refused_by_its_first_bytes(times: int, tmp_path: Path) -> None:
    path = tmp_path / "capture"
    path.write_bytes(odd_captures.nested(times))
    with pytest.raises(CaptureError, match="1f8b"):
        NativeReader(path)
