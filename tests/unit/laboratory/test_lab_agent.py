"""The launcher of one host: programs at their time, a bound on how many live, and nothing that outlives it."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lab import agent


def step(at: float, *argv: str, limit: float = 5.0) -> dict[str, Any]:
    return {"at": at, "what": "test", "argv": argv, "limit": limit, "gid": os.getgid(), "uid": os.getuid()}


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with time for us, and no change of user, which needs root."""
    monkeypatch.setattr(agent, "crowded", lambda: False)
    start = subprocess.Popen

    def unprivileged(*args: Any, user: int, group: int, extra_groups: list[int], **kept: Any) -> Any:
        return start(*args, **kept)

    monkeypatch.setattr(agent.subprocess, "Popen", unprivileged)


def play(
    folder: Path, steps: list[dict[str, Any]], at_once: int = 4, ago: float = 0.0
) -> list[dict[str, Any]]:
    (folder / "plan").write_text("".join(json.dumps(s) + "\n" for s in steps), encoding="utf-8")
    agent.main(str(folder / "plan"), str(folder / "log"), str(time.time() - ago), str(at_once))
    return [json.loads(line) for line in (folder / "log").read_text(encoding="utf-8").splitlines()]


@pytest.mark.usefixtures("quiet")
def test_each_program_is_logged_with_its_end(tmp_path: Path) -> None:
    done = play(tmp_path, [step(0, "true"), step(0, "false"), step(0, "/no/such/program")])
    assert sorted(d["status"] for d in done) == [-1, 0, 1]
    assert "No such file" in next(d["error"] for d in done if d["status"] == -1)


@pytest.mark.usefixtures("quiet")
def test_no_more_programs_live_than_allowed(tmp_path: Path) -> None:
    done = play(tmp_path, [step(0, "sleep", "0.3") for _ in range(4)], at_once=1)
    spans = sorted((d["began"], d["ended"]) for d in done)
    assert all(one[1] <= two[0] + 0.05 for one, two in itertools.pairwise(spans))


@pytest.mark.usefixtures("quiet")
def test_a_program_beyond_its_limit_is_ended(tmp_path: Path) -> None:
    (done,) = play(tmp_path, [step(0, "sleep", "60", limit=0.2)])
    assert done["status"] != 0
    assert done["ended"] - done["began"] < 10


@pytest.mark.usefixtures("quiet")
def test_what_is_far_too_late_is_skipped_and_says_so(tmp_path: Path) -> None:
    (done,) = play(tmp_path, [step(0, "true")], ago=agent.LATE + 5)
    assert done["error"] == "skipped: late"


def test_a_crowded_machine_starts_nothing_until_it_is_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "crowded", lambda: True)
    monkeypatch.setattr(agent, "LATE", 0.3)
    (done,) = play(tmp_path, [step(0, "true")])
    assert done["error"] == "skipped: late"


@pytest.mark.parametrize(("running", "expected"), [(1, False), (100_000, True)])
def test_crowded_is_read_from_the_kernels_count(running: int, expected: bool, tmp_path: Path) -> None:
    (tmp_path / "load").write_text(f"1.00 1.00 1.00 {running}/200000 7\n", encoding="ascii")
    assert agent.crowded(str(tmp_path / "load")) is expected


def test_a_recording_ahead_of_others_bears_a_larger_crowd(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("os.nice", lambda _: 0)
    (tmp_path / "load").write_text("1.00 1.00 1.00 20/200 7\n", encoding="ascii")
    assert agent.crowded(str(tmp_path / "load"))
    monkeypatch.setattr("os.nice", lambda _: -5)
    assert not agent.crowded(str(tmp_path / "load"))


def test_an_orphan_ends_by_itself(tmp_path: Path) -> None:
    (tmp_path / "plan").write_text(json.dumps(step(3600, "true")) + "\n", encoding="utf-8")
    argv = [
        sys.executable,
        agent.__file__,
        str(tmp_path / "plan"),
        str(tmp_path / "log"),
        str(time.time()),
        "1",
    ]
    launcher = f"import subprocess, time; print(subprocess.Popen({argv!r}).pid, flush=True); time.sleep(1.5)"
    said = subprocess.run(
        (sys.executable, "-c", launcher), stdout=subprocess.PIPE, text=True, check=True, timeout=60
    )
    pid = int(said.stdout)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _lives(pid):
        time.sleep(0.1)
    assert not _lives(pid)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
