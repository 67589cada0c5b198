"""A short recording in real namespaces, where root and the programs are there; skipped visibly elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.lab import check, net

NEEDED = (*net.TOOLS, "nginx", "unbound", "named", "sshd", "curl", "dig", "ncat", "nmap", "ssh", "ping")
MISSING = [tool for tool in NEEDED if shutil.which(tool, path=net.search_path()) is None]
ROOT = Path(__file__).parents[3]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="the laboratory makes network namespaces: needs root"),
    pytest.mark.skipif(net.closed_folder() is not None, reason="nobody but root may read this checkout"),
    pytest.mark.skipif(bool(MISSING), reason=f"the laboratory's programs are missing: {', '.join(MISSING)}"),
]

SCENARIO = """
name: tiny
about: two desks for a few seconds
network: 10.77.0.0/24
page_kb: 1
busy: 20
wander: 0.1
link: {delay_ms: 2, jitter_ms: 1}
inside:
  - {name: dns, services: [resolver, ssh]}
  - {name: web, services: [web]}
  - {name: desk, count: 2, role: clerk}
outside:
  - {name: ns, services: [names]}
  - {name: host, services: [web], sites: [www.a.example, www.b.example, x.c.example]}
roles:
  clerk: {browse: 150, look-up: 200, intranet: 100, ping: 60}
attacks:
  - {kind: port-scan, host: desk, at: 0.1, lasts: 0.5, pace: 0.2}
  - {kind: beacon-http, host: desk, at: 0.0, lasts: 1.0, pace: 8.0}
"""


def may_make_namespaces() -> bool:
    made = subprocess.run(("ip", "netns", "add", f"{net.PREFIX}-try-x"), capture_output=True, check=False)
    subprocess.run(("ip", "netns", "del", f"{net.PREFIX}-try-x"), capture_output=True, check=False)
    return made.returncode == 0


@pytest.fixture(autouse=True)
def free_laboratory() -> None:
    """One recording at a time: two would starve each other."""
    if not may_make_namespaces():
        pytest.skip("no network namespaces may be made here")
    if busy := net.living():
        pytest.skip(f"a laboratory is recording already: {busy[0]}")


def start(folder: Path, seconds: int) -> subprocess.Popen[str]:
    (folder / "tiny.yaml").write_text(SCENARIO, encoding="utf-8")
    argv = (sys.executable, "-m", "benchmarks.lab", "record", "--scenario", str(folder / "tiny.yaml"))
    return subprocess.Popen(
        (*argv, "--seconds", str(seconds), "--out", str(folder / "out")),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run_of(process: subprocess.Popen[str]) -> str | None:
    for folder in net.STATE.glob("*"):
        if (folder / "pid").is_file() and (folder / "pid").read_text() == str(process.pid):
            return folder.name
    return None


def left_behind(ident: str) -> list[str]:
    spaces = subprocess.run(("ip", "netns", "list"), capture_output=True, text=True, check=True).stdout
    found = [line for line in spaces.splitlines() if line.startswith(f"{net.PREFIX}-{ident}-")]
    return [
        *found,
        *map(str, net.ETC_NETNS.glob(f"{net.PREFIX}-{ident}-*")),
        *map(str, net.STATE.glob(ident)),
    ]


def still_running(ident: str, folder: Path) -> list[str]:
    """Processes that name the run or write to its folder, a moment after it ended."""
    deadline = time.monotonic() + 5.0
    while True:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if (
                    f"{net.PREFIX}-{ident}" in line
                    or f"{net.STATE}/{ident}" in line
                    or f"{folder}/out" in line
                ):
                    found.append(line)
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def wait_for_frames(process: subprocess.Popen[str], folder: Path) -> str:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        found = folder / "out" / "capture.pcap"
        if found.is_file() and found.stat().st_size > 1000 and (ident := run_of(process)):
            return ident
        time.sleep(0.2)
    raise AssertionError(f"no recording began: {process.communicate(timeout=30)}")


@pytest.mark.timeout(240)
def test_a_recording_is_labelled_whole_and_leaves_nothing_behind(tmp_path: Path) -> None:
    process = start(tmp_path, 12)
    ident = wait_for_frames(process, tmp_path)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert left_behind(ident) == []
    assert still_running(ident, tmp_path) == []
    labels = (tmp_path / "out" / "labels.csv").read_text().splitlines()
    assert sum(",benign," in line for line in labels) > 50
    assert sum(",malicious," in line for line in labels) > 10
    assert not any(",unknown," in line for line in labels)
    assert "frames dropped by the recorder: 0" in out
    link = json.loads((tmp_path / "out" / "story.json").read_text())["scenario"]["link"]
    assert (link["delay_ms"] == 0) == ("no netem" in err)
    recording = check.load(tmp_path / "out")
    assert set(recording.features[:, 0]) <= {63.0, 64.0}


@pytest.mark.timeout(240)
def test_stopped_early_it_still_writes_what_it_has_and_cleans_up(tmp_path: Path) -> None:
    process = start(tmp_path, 600)
    ident = wait_for_frames(process, tmp_path)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "stopped early" in err
    assert (tmp_path / "out" / "labels.csv").is_file()
    assert left_behind(ident) == []
    assert still_running(ident, tmp_path) == []


@pytest.mark.timeout(240)
def test_after_a_crash_clean_removes_namespaces_processes_and_files(tmp_path: Path) -> None:
    process = start(tmp_path, 600)
    ident = wait_for_frames(process, tmp_path)
    process.kill()
    process.wait(timeout=30)
    assert left_behind(ident)
    assert still_running(ident, tmp_path)
    done = subprocess.run(
        (sys.executable, "-m", "benchmarks.lab", "clean"), cwd=ROOT, check=True, timeout=120
    )
    assert done.returncode == 0
    assert left_behind(ident) == []
    assert still_running(ident, tmp_path) == []


@pytest.mark.timeout(240)
def test_what_cannot_be_set_up_is_told_in_one_line_and_nothing_is_left(tmp_path: Path) -> None:
    scenario = SCENARIO.replace("10.77.0.0/24", "10.77.0.0/24\ndomain: not-a-zone." + "x" * 70 + ".example")
    (tmp_path / "tiny.yaml").write_text(scenario, encoding="utf-8")
    argv = (sys.executable, "-m", "benchmarks.lab", "record", "--scenario", str(tmp_path / "tiny.yaml"))
    done = subprocess.run(
        (*argv, "--seconds", "10", "--out", str(tmp_path / "out")),
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("lab: ")]
    assert len(said) == 1
    assert "openssl req" in said[0]
    assert not (tmp_path / "out").exists()
    assert "Traceback" not in done.stderr


def test_a_server_started_apart_writes_nothing_into_the_machines_own_notes(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    note, apart = tmp_path / "log" / "btmp", ROOT / "benchmarks" / "lab" / "programs" / "apart.py"
    note.write_text("kept")
    look = "import os, sys; print(os.listdir(sys.argv[1])); open(sys.argv[1] + '/btmp', 'w').write('lost')"
    argv = (
        sys.executable,
        str(apart),
        str(tmp_path / "log"),
        sys.executable,
        "-c",
        look,
        str(tmp_path / "log"),
    )
    done = subprocess.run(
        ("unshare", "--mount", *argv), check=True, timeout=60, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"
    assert note.read_text() == "kept"
