"""What a real Zeek writes: its TSV and its JSON of one capture are the same windows."""

from __future__ import annotations

import gzip
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from feature_extractors.observations import LogValue, Windows, concat
from feature_extractors.readers.zeek_logs import ZeekLogs

BUSY_MINUTES = Path(__file__).parents[1] / "traces" / "busy-minutes" / "busy-minutes.pcap.gz"
MICROSECOND = 1.5e-6  # Zeek's TSV rounds times and intervals to it


def logs_of(capture: Path, folder: Path, *options: str) -> Windows:
    folder.mkdir()
    command = ["zeek", "-D", "-C", "-r", str(capture), *options]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    logs = ZeekLogs([folder])
    windows = concat(list(logs))
    assert set(logs.counts.by_reason) <= {"entry_over_limit"}
    return windows


def near(a: LogValue, b: LogValue) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(near, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=0, abs_tol=MICROSECOND)
    return type(a) is type(b) and a == b


@pytest.mark.zeek
@pytest.mark.skipif(shutil.which("zeek") is None, reason="needs zeek on the PATH")
def test_tsv_and_json_of_a_real_zeek_are_the_same_windows(tmp_path: Path) -> None:
    capture = tmp_path / "busy-minutes.pcap"
    capture.write_bytes(gzip.decompress(BUSY_MINUTES.read_bytes()))
    tsv = logs_of(capture, tmp_path / "tsv")
    plain = logs_of(capture, tmp_path / "json", "LogAscii::use_json=T")
    assert len(tsv) == len(plain) > 100
    assert tsv.connections.uid.tolist() == plain.connections.uid.tolist()
    assert np.allclose(tsv.connections.duration, plain.connections.duration, 0, MICROSECOND, equal_nan=True)
    assert tsv.connections.history.tolist() == plain.connections.history.tolist()
    assert np.array_equal(tsv.connections.orig_bytes, plain.connections.orig_bytes)
    assert len(tsv.logs) == len(plain.logs) > 100
    for one, other in zip(tsv.logs, plain.logs, strict=True):
        assert (one.stream, one.uid, set(one.fields)) == (other.stream, other.uid, set(other.fields))
        assert all(near(value, other.fields[name]) for name, value in one.fields.items()), (one, other)
