"""A capture in, Zeek's logs out, without a model: through the process that extraction has to itself."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import hostile
import pytest
import spoken
from parsezeeklogs import ParseZeekLogs

from cmdana_plugin.config import Config, Logs
from cmdana_plugin.logs.reader import read_rows
from cmdana_plugin.logs.streams import LogError
from cmdana_plugin.replay.conversion import convert
from cmdana_plugin.replay.embedded import prepared
from feature_extractors.errors import CaptureError

BUSY_MINUTES = Path(__file__).parents[2] / "traces" / "busy-minutes" / "busy-minutes.pcap.gz"
LOGS = {"conn", *(log for talk in spoken.TALKS.values() for log in talk.rows)}


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "spoken.pcap"
    hostile.write(path, [(frame.ts, frame.data) for frame in spoken.frames()])
    return path


@pytest.mark.parametrize("fmt", ["tsv", "json"])
def test_every_log_is_written_and_its_uids_are_conn_logs(tmp_path: Path, capture: Path, fmt: str) -> None:
    summary = convert([capture], tmp_path, Config(logs=Logs(format=fmt, streams="all")))
    assert {path.stem for path in tmp_path.iterdir()} == LOGS
    assert sorted(summary.logs) == sorted(str(tmp_path / f"{log}.log") for log in LOGS)
    assert summary.connections == len(spoken.TALKS)
    uids = {row["uid"] for row in read_rows(tmp_path / "conn.log")}
    assert len(uids) == len(spoken.TALKS)
    for log in LOGS - {"conn"}:
        for row in read_rows(tmp_path / f"{log}.log"):
            assert uids.issuperset(row["uids"] if log == "dhcp" else [row["uid"]])


def test_the_same_capture_has_the_same_logs(tmp_path: Path, capture: Path) -> None:
    config = Config(logs=Logs(format="json", streams="all"))
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        convert([capture], tmp_path / name, config)
    for log in LOGS:
        one, other = ((tmp_path / name / f"{log}.log").read_bytes() for name in ("one", "other"))
        assert one == other
        assert all(json.loads(line) for line in one.splitlines())


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed")
def test_an_independent_reader_reads_every_log_of_the_busy_minutes(tmp_path: Path) -> None:
    convert([BUSY_MINUTES], tmp_path, Config(logs=Logs(format="tsv", streams="all")))
    logs = sorted(tmp_path.glob("*.log"))
    assert {"conn", "dns", "files", "http", "ssh", "ssl", "syslog", "x509"} < {log.stem for log in logs}
    for log in logs:
        theirs = [
            json.loads(row) for row in ParseZeekLogs(log, output_format="json", safe_headers=False) if row
        ]
        ours = list(read_rows(log))
        assert [row["ts"] for row in theirs] == pytest.approx([row["ts"] for row in ours])


def test_parquet_has_the_rows_of_json(tmp_path: Path, capture: Path) -> None:
    for to in ("json", "parquet"):
        (tmp_path / to).mkdir()
        convert([capture], tmp_path / to, Config(), to=to)  # type: ignore[arg-type]
    for log in LOGS:
        rows = list(read_rows(tmp_path / "json" / f"{log}.log"))
        found = list(read_rows(tmp_path / "parquet" / f"{log}.parquet"))
        assert [json.dumps(row, sort_keys=True) for row in found] == [
            json.dumps(row, sort_keys=True) for row in rows
        ]


def test_without_pyarrow_parquet_is_refused_in_words(tmp_path: Path, capture: Path) -> None:
    words = ["cmdana_plugin.cli", "convert", str(capture), "--to", "parquet", "--out", str(tmp_path / "out")]
    hidden = f"import sys, runpy; sys.modules['pyarrow'] = None; sys.argv = {words!r}; "
    run = subprocess.run(
        [sys.executable, "-c", hidden + "runpy.run_module(sys.argv[0], run_name='__main__')"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "pip install 'cmdana[parquet]'" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_no_capture_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "x.pcap").write_bytes(b"no capture at all")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(CaptureError):
        convert([tmp_path / "x.pcap"], out, Config(logs=Logs(streams="all")))
    assert list(out.iterdir()) == []


def test_a_folder_that_holds_an_applications_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "http.log").write_text("mine")
    with pytest.raises(LogError, match=r"already holds http\.log"), prepared(tmp_path, force=False):
        pass
