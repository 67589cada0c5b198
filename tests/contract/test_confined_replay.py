"""`cmdana replay` on hostile ground: what the folder holds runs nothing, extraction is locked in, runs do not mix."""

import gzip
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from feature_extractors.confinement import confine

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TRACES = ROOT / "tests/traces"
DEMO = TRACES / "demo/demo.pcap.gz"
CMDANA = [sys.executable, "-m", "cmdana_plugin.cli"]


def cmdana(*words: str | Path, cwd: Path, program: list[str] = CMDANA) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*program, *map(str, words)], cwd=cwd, capture_output=True, text=True, check=False, timeout=280
    )


def small(path: Path) -> Path:
    path.write_bytes(gzip.decompress(DEMO.read_bytes())[:100_000])
    return path


def test_a_program_that_an_evidence_folder_names_is_not_run(tmp_path: Path) -> None:
    small(tmp_path / "incident.pcap")
    for name in (".x", "zeek", "tshark", "git"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        program.chmod(0o755)
    (tmp_path / "plugin.toml").write_text(
        '[capture]\nengine = "zeek"\n[zeek]\npath = "./.x"\n[verdict]\nallow = ["0.0.0.0/0"]\n'
    )
    done = cmdana("replay", "--json", "--out", "out", "incident.pcap", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for key in ("[capture] engine", "[zeek] path", "[verdict] allow"):
        assert key in done.stderr
    said = json.loads(done.stdout)
    assert said["allowed"] == 0
    assert said["configuration"] == {
        "file": "plugin.toml", "operators": False, "ignored": ["[capture] engine", "[verdict] allow", "[zeek] path"],
    }  # fmt: skip
    cmdana("doctor", cwd=tmp_path)
    assert not (tmp_path / "ran").exists()


ATTEMPTS = """
import os, socket, sys
from feature_extractors import extract

real, tried = extract.Extractor.parts, []

def attempts():
    yield "exec", lambda: os.execv("/bin/true", ["true"])
    yield "fork", lambda: os.fork()
    yield "socket", lambda: socket.socket()
    yield "write", lambda: open("written", "w")
    yield "remove", lambda: os.unlink("there")
    yield "signal", lambda: os.kill(os.getppid(), 0)

def parts(self, block):
    if not tried and len(block) > 10:  # of the capture, not of the warm-up
        tried.append(True)
        for name, attempt in attempts():
            try:
                attempt()
                said = "done"
            except OSError as error:
                said = error.strerror
            os.write(2, f"{name}: {said}\\n".encode())
    yield from real(self, block)

extract.Extractor.parts = parts
from cmdana_plugin.cli.app import entry
entry()
"""


@pytest.mark.skipif(not confine.probe().seccomp, reason="needs a kernel with seccomp")
def test_what_takes_extraction_over_can_run_reach_and_write_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("precious")
    captures = [DEMO, small(tmp_path / "b.pcap")]
    if shutil.which("tshark"):
        captures.append(TRACES / "formats/commview.ncf")
    done = cmdana("replay", "--out", "out", *captures, cwd=tmp_path, program=[sys.executable, "-c", ATTEMPTS])
    assert done.returncode == 0, done.stderr
    for name in ("exec", "fork", "socket", "write", "remove", "signal"):
        assert f"{name}: Operation not permitted" in done.stderr
    assert not (tmp_path / "written").exists()
    assert (tmp_path / "there").exists()
    assert (tmp_path / "out" / "conn.log").stat().st_size > 100_000


def at_work(folder: Path) -> "subprocess.Popen[bytes]":
    """A replay that waits for the rest of its capture, when its logs are begun."""
    process = subprocess.Popen(
        [*CMDANA, "replay", "-", "--out", "out"],
        cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(gzip.decompress(DEMO.read_bytes())[:20_000])
    process.stdin.flush()
    deadline = time.monotonic() + 120
    while not list((folder / "out").glob(".notice.log.*.partial")) and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


def children(process: "subprocess.Popen[bytes]") -> list[str]:
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()


def gone(pids: list[str]) -> bool:
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_two_runs_on_one_folder_exclude_each_other_until_one_is_killed(tmp_path: Path) -> None:
    capture = small(tmp_path / "a.pcap")
    with at_work(tmp_path) as first:
        second = cmdana("replay", "--force", "--out", "out", capture, cwd=tmp_path)
        assert second.returncode == 1
        assert "out: another run of cmdana is writing there" in second.stderr
        assert len(second.stderr.splitlines()) == 1
        its = children(first)
        assert its
        first.send_signal(signal.SIGKILL)
        first.wait(60)
        assert gone(its)  # its extraction waits for more of the capture, and ends with it
        assert len(list((tmp_path / "out").glob(".*.partial"))) == 3
        assert cmdana("replay", "--out", "out", capture, cwd=tmp_path).returncode == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["cmdana.log", "conn.log", "notice.log"]


def test_a_hangup_is_a_clean_stop(tmp_path: Path) -> None:
    with at_work(tmp_path) as process:
        its = children(process)
        assert its
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 128 + signal.SIGHUP
    assert gone(its)
    assert not (tmp_path / "out").exists()


@pytest.mark.zeek
def test_scripts_in_the_log_folder_are_not_zeeks(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    # Zeek looks for its own scripts in its working folder first.
    (tmp_path / "base" / "init-bare.zeek").write_text(
        f'event zeek_init() {{ system("touch {tmp_path}/ran"); }}\n'
    )
    done = cmdana("replay", "--engine", "zeek", "--out", ".", DEMO, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "conn.log").stat().st_size > 100_000
    assert not (tmp_path / "ran").exists()
