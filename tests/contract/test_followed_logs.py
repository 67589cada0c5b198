"""Logs that Zeek writes while they are followed get the verdicts that the same logs get when they are whole."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from cmdana_plugin.cli.judging import load_judge
from cmdana_plugin.config import Config, Logs
from cmdana_plugin.endpoint import follow
from cmdana_plugin.logs import CMDANA, AppendedLog, LogError
from cmdana_plugin.replay import convert
from feature_extractors.features import encoded, load_schema
from feature_extractors.readers import FollowedLogs, PassedOver, ZeekLogs, records

BUSY_MINUTES = Path(__file__).parents[1] / "traces" / "busy-minutes" / "busy-minutes.pcap.gz"
JSON = Config(logs=Logs(format="json"))


def judged_whole(folder: Path, out: Path) -> list[tuple[str, float, str]]:
    """The verdicts of logs that are whole."""
    judge, schema = load_judge(JSON), load_schema()
    log = AppendedLog(out, CMDANA, "json")
    for judged in judge.judged(encoded(windows, schema) for windows in ZeekLogs([folder])):
        log.write(judged.rows(), 0.0)
    return scored(log.path)


def scored(path: Path) -> list[tuple[str, float, str]]:
    """uid, score and verdict of each row, rows that revise others among them, whose place the blocks decide."""
    return sorted(
        (str(r["uid"]), float(r["score"]), str(r["verdict"]))  # type: ignore[arg-type]
        for _, r in records(path, PassedOver())
    )


def notes(path: Path) -> list[str]:
    return [str(record["note"]) for _, record in records(path, PassedOver())] if path.exists() else []


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    convert([BUSY_MINUTES], folder, Config(logs=Logs(format="json", streams="all")))
    return folder


@pytest.fixture
def no_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)


@pytest.mark.usefixtures("no_signals")
def test_logs_that_are_followed_get_the_verdicts_of_whole_ones_and_a_second_run_goes_on(
    logs: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    load = partial(load_judge, JSON)
    whole = tmp_path / "whole"
    whole.mkdir()
    looked = iter([False, False, True])
    followed = FollowedLogs(logs, from_start=True, wait=0.0)
    assert follow(JSON, load, followed, tmp_path, until=lambda: next(looked), notify=said.append) == 0
    found = scored(tmp_path / "cmdana.log")
    assert found == judged_whole(logs, whole)
    assert notes(tmp_path / "notice.log")
    assert "2901 connections_judged" in said[-1]
    # What is there is gone on with, what was moved away is begun anew, another format is refused.
    looked = iter([False, True])
    again = FollowedLogs(logs, from_start=True, wait=0.0)
    follow(JSON, load, again, tmp_path, until=lambda: next(looked), notify=said.append)
    assert len(scored(tmp_path / "cmdana.log")) == 2 * len(found)
    with pytest.raises(LogError, match=r"cmdana\.log: is there in another format"):
        follow(Config(), load, again, tmp_path, until=lambda: True, notify=said.append)


@pytest.mark.zeek
@pytest.mark.skipif(shutil.which("zeek") is None, reason="needs zeek on the PATH")
def test_a_real_zeeks_logs_are_judged_as_they_come_and_again_after_they_were_moved_away(
    tmp_path: Path,
) -> None:
    capture, theirs, out, whole = (
        tmp_path / name for name in ("busy-minutes.pcap", "current", "out", "whole")
    )
    capture.write_bytes(gzip.decompress(BUSY_MINUTES.read_bytes()))
    theirs.mkdir()
    # Zeek reading a capture has a minute of traffic's rows in its buffers.
    (tmp_path / "patient.toml").write_text("[endpoint]\nlog_seconds = 12.0\n")
    run = subprocess.Popen(
        [sys.executable, "-m", "cmdana_plugin.cli", "run", "--from-start", "--follow", str(theirs), "--out",
         str(out), "--config", str(tmp_path / "patient.toml")],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "HOME": str(tmp_path)}, cwd=tmp_path,
    )  # fmt: skip
    assert run.stderr is not None
    said: list[str] = []
    reading = threading.Thread(target=lambda: said.extend(run.stderr or ()), daemon=True)
    reading.start()
    try:
        for turn in range(2):
            zeek = ["zeek", "-C", "-r", str(capture), f"LogAscii::use_json={'FT'[turn]}"]
            subprocess.run(zeek, cwd=theirs, check=True, capture_output=True)
            if turn == 0:
                deadline = time.monotonic() + 60
                while not (out / "cmdana.log").exists() and time.monotonic() < deadline:
                    time.sleep(0.2)
                time.sleep(1.0)
                first = scored(out / "cmdana.log")
                whole.mkdir()
                expected = judged_whole(theirs, whole)
                for log in theirs.glob("*.log"):
                    log.rename(log.with_name(f"{log.stem}.2026-11-22-00-00-00.log"))
        time.sleep(1.5)
    finally:
        run.send_signal(signal.SIGTERM)
        assert run.wait(60) == 0
        reading.join(10)
    assert first == expected
    assert len(scored(out / "cmdana.log")) >= len(expected) + 2800, said
    assert "Anomalous_Host" in " ".join(notes(out / "notice.log"))
