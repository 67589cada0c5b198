"""Certificates, files and weirds for a model that was taught them: from a capture and from its logs the same."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from cmdana_plugin.config import Config, Logs
from cmdana_plugin.replay import Summary, extract
from cmdana_plugin.replay.conversion import convert
from feature_extractors.features import encoded, load_schema
from feature_extractors.observations import concat
from feature_extractors.readers.zeek_logs import ZeekLogs

pytestmark = pytest.mark.slow

BUSY_MINUTES = Path(__file__).parents[1] / "traces" / "busy-minutes" / "busy-minutes.pcap.gz"
FURTHER = load_schema().further


def test_a_capture_and_its_logs_come_to_the_same(tmp_path: Path) -> None:
    assert FURTHER is not None
    capture = tmp_path / "some.pcap"
    with gzip.open(BUSY_MINUTES) as whole:
        capture.write_bytes(whole.read(1_500_000))
    (tmp_path / "logs").mkdir()
    convert([capture], tmp_path / "logs", Config(logs=Logs(streams="all")))
    roads = (
        concat(list(extract([capture], Config(), Summary([]), whole=True))),
        concat(list(ZeekLogs([tmp_path / "logs"], fields=FURTHER.reads()))),
    )
    a, b = (encoded(windows, FURTHER) for windows in roads)
    at = {uid: i for i, uid in enumerate(b.connections.uid.tolist())}
    rows = np.array([at[uid] for uid in a.connections.uid.tolist()])
    for stream in ("x509", "files", "weird"):
        columns = [i for i, name in enumerate(FURTHER.summary) if name.startswith(f"{stream}.")]
        seen, read = a.features.log_summary[:, columns], b.features.log_summary[rows][:, columns]
        there = np.isfinite(seen).any(axis=1)
        assert there.any() or stream == "weird"
        assert np.array_equal(there, np.isfinite(read).any(axis=1)), stream
        assert np.allclose(seen[there], read[there], equal_nan=True, atol=1e-5), stream
