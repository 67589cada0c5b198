"""Archives are hunted through: the same verdicts however the work is shared out, stopped and gone on with."""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import made_archive
import numpy as np
import pytest
from small_model import small_checkpoint

from cmdana_plugin.cli.archive import _judge
from cmdana_plugin.cli.judging import load_detector_of, load_judge, load_with_origin
from cmdana_plugin.config import Adaptation, Config, Model
from cmdana_plugin.detector import checkpoint as checkpoints
from cmdana_plugin.replay import Lasting, ScoringProcesses, Wanted, hunt
from cmdana_plugin.replay.archives import FOLDER
from feature_extractors import CmdanaError
from feature_extractors.features import encoded, load_schema
from feature_extractors.readers import ZeekLogs


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    checkpoints.save(small_checkpoint(), path)
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    made_archive.archive(folder)
    return folder


def hunted(
    archive: Path, out: Path, model: Path, workers: int = 1, start: Any = None, **more: Any
) -> dict[str, bytes]:
    """The logs of a hunt."""
    adaptation = Adaptation(passes=more.pop("passes", 1))
    config = Config(model=Model(path=str(model), threads=1), adaptation=adaptation)

    def load(turn: Any) -> Any:
        return load_detector_of(config, None, own=turn.own, threads=1)

    scoring = ScoringProcesses(load, workers, start) if workers > 1 else None
    out.mkdir(exist_ok=True)
    try:
        wanted = Wanted([str(archive)], **{k: more.pop(k) for k in ("since", "until") if k in more})
        hunt(
            wanted,
            out,
            config,
            load,
            judge_of=lambda brought: _judge(config, brought),
            scoring=scoring,
            **more,
        )
    finally:
        if scoring is not None:
            scoring.close()
    return {log.name: log.read_bytes() for log in out.glob("*.log")}


@pytest.fixture(autouse=True, scope="module")
def pieces() -> Iterator[None]:
    """Has blocks and turns be small, so that a small archive has several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cmdana_plugin.replay.archives._BLOCK", 400)
        patch.setattr("cmdana_plugin.replay.scoring_parts.TURN", 64)
        patch.setattr("cmdana_plugin.detector.inputs.BLOCK", 64)
        patch.setattr("cmdana_plugin.detector.engines.compiled._BLOCK", 64)
        yield


@pytest.fixture(scope="module")
def alone(archive: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return hunted(archive, tmp_path_factory.mktemp("alone"), model)


@pytest.mark.parametrize("passes", [1, 2])
def test_the_verdicts_are_those_of_the_judge_over_the_same_logs(
    archive: Path, model: Path, alone: dict[str, bytes], tmp_path: Path, passes: int
) -> None:
    judge = load_judge(Config(model=Model(path=str(model), threads=1)))
    blocks = [encoded(w, load_schema()) for w in ZeekLogs([archive])]
    logs = alone
    if passes == 2:
        judge.look(blocks)
        logs = hunted(archive, tmp_path / "twice", model, passes=2)
        assert logs["cmdana.log"] != alone["cmdana.log"]
    rows = [v for judged in judge.judged(blocks) for v in judged.rows()]
    lines = [line.split("\t") for line in logs["cmdana.log"].decode().splitlines() if line[0] != "#"]
    assert [(line[1], line[9], line[13]) for line in lines] == [(v.uid, v.stage, v.verdict) for v in rows]
    assert {line[9] for line in lines} == {"final", "revised"}
    assert len(logs["notice.log"].splitlines()) > 9


@pytest.mark.parametrize("workers", [2, 4, 7])
def test_however_many_share_the_work_the_logs_are_the_same(
    archive: Path, model: Path, alone: dict[str, bytes], tmp_path: Path, workers: int
) -> None:
    assert hunted(archive, tmp_path / "out", model, workers) == alone


def test_a_hunt_that_is_stopped_goes_on_where_it_was(
    archive: Path, model: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop_at(n: int) -> Callable[[Any], None]:
        def look(progress: Any) -> None:
            if progress.summary.connections >= n and list((out / FOLDER).glob("state*")):
                raise Stop

        return look

    out, said = tmp_path / "out", []
    for n in (1, 900):
        with pytest.raises(Stop):
            hunted(archive, out, model, every=0.0, progress=stop_at(n), notify=said.append)
    assert not list(out.glob("*.log"))
    assert oct((out / FOLDER / "state.safetensors").stat().st_mode & 0o777) == "0o600"
    assert hunted(archive, out, model, workers=2, every=0.0, notify=said.append) == alone
    assert [line.split(",")[0][:14] for line in said] == ["goes on after "] * 2
    assert not (out / FOLDER).exists()


def test_an_interrupted_hunt_of_other_logs_is_not_gone_on_with(
    archive: Path, model: Path, tmp_path: Path
) -> None:
    def stop(_: Any) -> None:
        if list((out / FOLDER).glob("state*")):
            raise KeyboardInterrupt

    moved, out = tmp_path / "moved", tmp_path / "out"
    shutil.copytree(archive, moved)
    with pytest.raises(KeyboardInterrupt):
        hunted(moved, out, model, every=0.0, progress=stop)
    with pytest.raises(CmdanaError, match="of another span; --force begins anew"):
        hunted(moved, out, model, until=1e12)
    lines = (moved / "2026-01-01" / "conn.log").read_text().splitlines()
    (moved / "2026-01-01" / "conn.log").write_text("\n".join(lines[100:]) + "\n")
    with pytest.raises(CmdanaError, match="the logs are others than when the hunt was interrupted"):
        hunted(moved, out, model)
    path = out / FOLDER / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CmdanaError, match="is cut short"):
        hunted(moved, out, model)
    assert hunted(moved, out, model, force=True)


def test_a_span_is_judged_by_the_time_at_which_connections_ended(
    archive: Path, model: Path, tmp_path: Path
) -> None:
    ends = np.concatenate([w.connections.end for w in ZeekLogs([archive])])
    since, until = float(ends[300]), float(ends[900])
    found = hunted(archive, tmp_path / "out", model, since=since, until=until)["cmdana.log"].decode()
    uids = {line.split("\t")[1] for line in found.splitlines() if line[0] != "#"}
    assert len(uids) == int(((ends >= since) & (ends < until)).sum())


def test_a_detector_goes_on_from_its_last_snapshot_as_if_nothing_had_been(
    archive: Path, model: Path, tmp_path: Path
) -> None:
    """As beside a Zeek: blocks come, a snapshot is taken between two of them, the process is gone."""
    config = Config(model=Model(path=str(model), threads=1))
    blocks = [encoded(w, load_schema()) for w in ZeekLogs([archive], 200)]
    expected = [list(judged.rows()) for judged in load_judge(config).judged(blocks)]
    path, said = tmp_path / "state.safetensors", []
    lasting = Lasting(path, 0.0, lambda: load_with_origin(config), said.append)
    for judged in lasting.begin().judged(blocks[:3]):
        lasting.look(judged)
        while lasting.keeper and lasting.keeper._child:
            lasting.keeper._due = float("inf")
            lasting.keeper.look()
        assert lasting.keeper
        lasting.keeper._due = 0.0
    del lasting  # killed: it has closed nothing
    again = Lasting(path, 60.0, lambda: load_with_origin(config), said.append)
    found = [list(judged.rows()) for judged in again.begin().judged(blocks[3:])]
    assert found == expected[3:]
    assert [line.split(",")[0] for line in said] == [
        f"state: {path}: none yet", f"state: goes on from {path}",
    ]  # fmt: skip


def command(
    archive: Path, out: Path, workers: int, seconds: float = 0.05, **more: Any
) -> subprocess.Popen[bytes]:
    """A hunt in a process of its own; its configuration lies beside the archive."""
    toml = archive.parent / "plugin.toml"
    line = [sys.executable, "-m", "cmdana_plugin.cli", "hunt", str(archive), "--config", str(toml), "--json"]
    line += ["--out", str(out), "--workers", str(workers)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


def children_of(pid: int) -> list[int]:
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return []


def damaged(archive: Path) -> int:
    """Puts lines that are no records among the connections of the first day; the number of them."""
    log = archive / "2026-01-01" / "conn.log"
    lines = log.read_text().splitlines(keepends=True)
    for i in range(0, 50, 10):
        lines[i] += '{"ts": 1, "uid"\n'
    log.write_text("".join(lines))
    return 5


def finals(out: Path) -> list[str]:
    rows = [line.split("\t") for line in (out / "cmdana.log").read_text().splitlines() if line[0] != "#"]
    return [row[1] for row in rows if row[9] == "final"]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_whichever_process_is_killed_when_it_says_so_and_goes_on_and_nothing_is_lost_or_twice(
    model: Path, tmp_path: Path
) -> None:
    archive, rng = tmp_path / "archive", np.random.default_rng(5)
    connections = len(made_archive.archive(archive, n=14_000))
    bad = damaged(archive)
    (tmp_path / "plugin.toml").write_text(f'[model]\npath = "{model}"\n[state]\nseconds = 0.05\n')
    whole = command(archive, tmp_path / "whole", 1)
    said, err = whole.communicate()
    assert whole.returncode == 0, err.decode()
    assert json.loads(said)["connections"] == connections
    assert sum(sum(reasons.values()) for reasons in json.loads(said)["passed_over"].values()) == bad
    out, killed, state = tmp_path / "out", [], tmp_path / "out" / FOLDER / "state.safetensors"
    while True:
        child = command(archive, out, int(rng.integers(1, 3)))
        before = state.stat().st_mtime_ns if state.exists() else 0
        at_work = (
            len(killed) >= 2 and rng.random() < 0.5
        )  # as soon as a snapshot is new; else at its beginning
        while child.poll() is None and len(killed) < 8:
            if (state.exists() and state.stat().st_mtime_ns != before) if at_work else children_of(child.pid):
                time.sleep(float(rng.uniform(0.0, 0.3)))
                victims = [child.pid] if len(killed) % 2 == 0 else children_of(child.pid)
                if victims and child.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(rng.choice(victims)), signal.SIGKILL)
                        killed.append("part" if len(killed) % 2 else "hunt")
                break
            time.sleep(0.01)
        said, err = child.communicate()
        if child.returncode == 0:
            break
        if child.returncode != -signal.SIGKILL:
            assert child.returncode == 1, err.decode()
            last = err.decode().strip().splitlines()[-1]
            assert "killed by SIGKILL" in last or "has ended; is memory short?" in last, err.decode()
    assert {"hunt", "part"} <= set(killed), killed
    for name in ("cmdana.log", "notice.log"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    uids = finals(out)
    assert len(uids) == len(set(uids)) == connections
    assert json.loads(said)["connections"] == connections
    assert sum(sum(reasons.values()) for reasons in json.loads(said)["passed_over"].values()) == bad


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_full_disk_ends_it_in_a_line_and_it_goes_on_when_there_is_room(
    archive: Path, model: Path, tmp_path: Path
) -> None:
    """The kernel lets no file grow beyond so many bytes: fewer than the logs have, then fewer than a state."""
    here = tmp_path / "archive"
    shutil.copytree(archive, here)
    (tmp_path / "plugin.toml").write_text(
        f'[model]\npath = "{model}"\nthreads = 1\n[state]\nseconds = 0.001\n'
    )
    whole, out = tmp_path / "whole", tmp_path / "out"
    first = command(here, whole, 1)
    first.communicate()  # what it says may be more than a pipe holds
    assert first.returncode == 0
    for room, what in ((40_000, "log"), (1_000_000, "state.safetensors")):
        full = command(
            here, out, 1, preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (room, room))
        )
        _, err = full.communicate()
        assert full.returncode == 1, err.decode()
        lines = err.decode().strip().splitlines()
        assert f"{what}: cannot be written: File too large" in lines[-1]
        assert not any("Traceback" in line for line in lines)
        assert not list(out.glob("*.log"))
    again = command(here, out, 1)
    said, err = again.communicate()
    assert again.returncode == 0, err.decode()
    uids = finals(out)
    assert len(uids) == len(set(uids)) == json.loads(said)["connections"]
    for name in ("cmdana.log", "notice.log"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize("left", [0.5, 0.0, 0.001], ids=["half", "nothing", "less_than_a_head"])
def test_a_snapshot_that_was_cut_is_said_and_not_gone_on_from(
    archive: Path, model: Path, alone: dict[str, bytes], tmp_path: Path, left: float
) -> None:
    def stop(_: Any) -> None:
        if list((out / FOLDER).glob("state*")):
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        hunted(archive, out, model, every=0.0, progress=stop)
    path = out / FOLDER / "state.safetensors"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * left)])
    with pytest.raises(CmdanaError, match=r"state\.safetensors.*--force begins anew"):
        hunted(archive, out, model)
    assert not list(out.glob("*.log"))
    assert path.exists()
    assert hunted(archive, out, model, force=True) == alone


@pytest.fixture
def cmdana(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs `cmdana` with words: its exit status, and what it printed."""
    from cmdana_plugin.cli import app as cli

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["cmdana", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return run


def test_the_command_says_what_is_wrong_in_a_line(
    tmp_path: Path, model: Path, archive: Path, cmdana: Callable[..., tuple[int, str, str]]
) -> None:
    def said(*words: str) -> str:
        status, _, err = cmdana("hunt", *words, "--model", str(model))
        assert status == 1
        return err

    out = str(tmp_path / "out")
    assert "no such file or directory" in said(str(tmp_path / "nowhere"), "--out", out)
    assert "no conn.log with connections" in said(str(tmp_path), "--out", out)
    assert "expected a time such as" in said(str(archive), "--out", out, "--since", "yesterday")
    assert "needs [state] folder" in said(str(archive), "--out", out, "--state")
    assert not (tmp_path / "out").exists()


def test_what_one_day_taught_is_known_on_the_next(
    tmp_path: Path, archive: Path, model: Path, cmdana: Callable[..., tuple[int, str, str]]
) -> None:
    toml = tmp_path / "plugin.toml"
    toml.write_text(f'[model]\npath = "{model}"\nthreads = 1\n[state]\nfolder = "known"\n')
    for day, begins in (("2026-01-01", False), ("2026-01-02", True)):
        words = ["--config", str(toml), "--state", "--json", "--out", str(tmp_path / day)]
        status, out, err = cmdana("hunt", str(archive / day), *words)
        assert status == 0, err
        assert json.loads(out)["connections"] > 700
        assert ("goes on from" in err) == begins
    whole = hunted(archive, tmp_path / "whole", model)["cmdana.log"].decode().splitlines()
    second = (tmp_path / "2026-01-02" / "cmdana.log").read_text().splitlines()
    rows = [line for line in second if line[0] != "#"]
    assert rows == [line for line in whole if line[0] != "#"][-len(rows) :]
    status, out, _ = cmdana("state", "show", str(tmp_path / "known"), "--json")
    assert json.loads(out)["model"] == "small"
    assert json.loads(out)["hosts"] > 12
    status, out, _ = cmdana("adapt", "status", str(tmp_path / "known"))
    assert "of all traffic" in out
    status, out, _ = cmdana("adapt", "roll-back", str(tmp_path / "known"))
    assert (status, out) == (0, "the model's own calibration holds: nothing has been adapted\n")
    status, out, _ = cmdana("state", "export", str(tmp_path / "known"), "--out", str(tmp_path / "site.state"))
    assert (tmp_path / "site.state").read_bytes() == (tmp_path / "known" / "state.safetensors").read_bytes()
