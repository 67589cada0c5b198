"""Every command of the documentation is run, page by page, in the order of the page, in a folder as it assumes.

Only what would take hours is shortened: passes of a training, seeds and detectors of an evaluation. What waits for a
Zeek is run until it says so and then stopped; what needs a Zeek is skipped, visibly, where there is none.
"""

from __future__ import annotations

import csv
import glob
import gzip
import json
import os
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from made_tables import nsl
from pages import ROOT, of_pages, whole

from cmdana_plugin.cli import app as cli
from cmdana_plugin.logs.reader import read_rows, text
from cmdana_plugin.training.spool import Spool
from feature_extractors.readers.zeek_logs import ZeekLogs

UID = "CHhAvVGS1DHFjwGM9"  # the uid of the pages
BUSY_MINUTES = ROOT / "tests" / "traces" / "busy-minutes"
INCIDENT = "10545af1b19d"  # and the incident
FRAMES = 5000  # of the busy minutes' capture: its beginning and the scan
SHORTER = {
    "train": ["--epochs", "1"],
    "evaluate": ["--seeds", "1", "--variant-seeds", "1", "--only", "volume"],
}
# Hours of work on any data, or another cluster: whether they are understood is asked here, what they do in tests/unit.
LONG = {
    "--attack",
    "--collections",
    "--detectors",
    "--hardening",
    "--heads",
    "--missing",
    "--poison",
    "--ray",
}
WAITING = re.compile("nobody listens|waiting|with this address")

COMMANDS = of_pages(whole)


def cut(capture: Path, out: Path, frames: int) -> None:
    """The first frames of a gzipped little-endian pcap."""
    data = gzip.decompress(capture.read_bytes())
    at = 24
    for _ in range(frames):
        at += 16 + struct.unpack_from("<I", data, at + 8)[0]
    out.write_bytes(data[:at])


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["cmdana", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("capture") / "incident.pcap"
    cut(BUSY_MINUTES / "busy-minutes.pcap.gz", path, FRAMES)
    return path


@pytest.fixture(scope="module")
def logs(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `replay` makes of the capture; one of its odd connections bears the uid of the pages."""
    folder = tmp_path_factory.mktemp("replayed") / "logs"
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert run(monkeypatch, "replay", str(capture), "--out", str(folder)) == 0
    first = next(iter(read_rows(folder / "notice.log")))
    for log in folder.glob("*.log"):
        named = log.read_text().replace(text(first, "uid"), UID)
        log.write_text(named.replace(text(first, "cmdana.incident"), INCIDENT))
    return folder


@pytest.fixture(scope="module")
def folders(capture: Path, logs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each page, made with its first command: capture, logs, labelled material, plugin.toml."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{free.getsockname()[1]}/v1/messages/json"
    settings = re.sub(r'^url = "[^"]*"', f'url = "{url}"', (ROOT / "plugin.toml").read_text(), flags=re.M)
    settings = settings.replace('secret_file = ""', 'secret_file = "secret"')
    made: dict[str, Path] = {}
    for page, _ in COMMANDS:
        if page in made:
            continue
        folder = made[page] = tmp_path_factory.mktemp("page")
        (folder / "plugin.toml").write_text(settings)
        operators = folder / "config" / "cmdana"
        operators.mkdir(parents=True)
        (operators / "plugin.toml").write_text(settings)  # only here are secrets and addresses taken
        if (page, "cmdana doctor --init-secret") not in COMMANDS:
            for place in (operators, folder):  # beside each of the two
                (place / "secret").touch(0o600)
                (place / "secret").write_text("ab" * 32)
        for name in ("incident.pcap", "yesterday.pcap"):
            (folder / name).symlink_to(capture)
        for name in ("logs", "var/log/zeek/2026-11-21", "var/log/zeek/2026-11-22"):
            shutil.copytree(logs, folder / name)
        (folder / "tests").symlink_to(ROOT / "tests")
        (folder / "docs").mkdir()
        for name in ("results.md", "results-squeezed.md"):
            shutil.copy(ROOT / "docs" / name, folder / "docs")
        with (BUSY_MINUTES / "labels.csv").open() as file:
            rows = list(csv.DictReader(file))
        labelled(folder / "labels.csv", rows, [""])
        if "researcher" in page:
            material(folder, capture, rows)
        if "engineer" in page:
            spool = Spool(folder / "live.safetensors.learning", create=True)
            for windows in ZeekLogs([folder / "logs"]):
                spool.add(windows)
            spool.close()
    return made


def labelled(path: Path, rows: list[dict[str, str]], captures: list[str]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "capture": name} for name in captures for row in rows)


def material(folder: Path, capture: Path, rows: list[dict[str, str]]) -> None:
    """data/ and the recordings of the plan, all of them the same small capture."""
    data = folder / "data"
    (data / "captures").mkdir(parents=True)
    parts = {f"{part}.pcap": part for part in ("train", "calibrate", "test")}
    for name in parts:
        shutil.copy(capture, data / "captures" / name)
    (data / "captures.csv").write_text(
        "capture,split\n" + "".join(f"{name},{part}\n" for name, part in parts.items())
    )
    labelled(data / "labels.csv", rows, list(parts))
    (data / "tabular").mkdir()
    nsl(data / "tabular")
    page = (ROOT / "docs" / "researcher.md").read_text()
    plans = [part.split("```")[0] for part in page.split("```\nrecording,network,")[1:]]
    for name, plan in zip(("plan.csv", "days.csv"), plans, strict=True):
        (folder / name).write_text(f"recording,network,{plan}")
    for name in {line.split(",")[0] for plan in plans for line in plan.splitlines()[1:]}:
        (folder / name).mkdir()
        cut(BUSY_MINUTES / "busy-minutes.pcap.gz", folder / name / "capture.pcap", FRAMES // 2)
        labelled(folder / name / "labels.csv", rows, [""])


@pytest.mark.slow
@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_the_commands_of_the_page_do_what_it_says(
    page: str,
    command: str,
    folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = folders[page]
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    # The page's folder stands for the machine.
    command = command.replace("/var/log/", "var/log/").replace("/usr/local/zeek/logs/current", "logs")
    words = [w for word in shlex.split(command)[1:] for w in sorted(glob.glob(word)) or [word]]
    if words[0].startswith("-"):
        return  # tests/unit/cli/test_completion.py
    if words[0] in ("run", "serve") or "--live" in words or "--follow" in words:
        waits(words, folder)
        return
    if LONG.intersection(words):
        typer.main.get_command(cli.app).commands[words[0]].make_context(words[0], words[1:])  # type: ignore[attr-defined]
        return
    if "zeek" in words and shutil.which("zeek") is None:
        pytest.skip("needs zeek on the PATH")
    assert run(monkeypatch, *words, *SHORTER.get(words[0], ())) == 0, capsys.readouterr().err


def waits(words: list[str], folder: Path) -> None:
    """Runs a command that ends only when it is told to: it says what it waits for, and ends well."""
    # A shell's background job ignores Ctrl-C, and so would all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "cmdana_plugin.cli", *words], cwd=folder, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert process.stdout
        for line in process.stdout:
            if WAITING.search(line) or ("--follow" in words and "connection" in line):
                break
        else:
            raise AssertionError(f"{words} ended with {process.wait()}")
        process.send_signal(signal.SIGINT if "--follow" in words else signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode in ((0,) if "--live" not in words else (0, 1))
    finally:
        process.kill()
        process.wait()


def test_every_command_prints_json_that_parses_and_nothing_else(
    logs: Path,
    capture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(logs, "logs")
    (tmp_path / "tables").mkdir()
    nsl(tmp_path / "tables", 300)
    (tmp_path / "kept.toml").write_text('[state]\nfolder = "known"\n')
    said: dict[str, list[object]] = {}
    for command in (
        f"replay {capture} --out replayed",
        "convert logs --to json --out converted",
        "hunt logs --out hunted --state --config kept.toml",
        "state show known",
        "adapt status known",
        "train --out m.safetensors --epochs 1 logs",
        "calibrate --out c.safetensors --model m.safetensors logs",
        "alerts logs",
        "incidents logs",
        f"decide {INCIDENT} benign logs",
        "export logs --to events.ndjson",
        f"explain {UID} logs",
        f"label {UID} benign --logs logs",
        "report logs --out report.html",
        "anonymise logs --key site.key --new-key --out shared",
        "evaluate --tabular tables --out f.json --seeds 1 --only volume",
        "init --into site",
        "doctor",
    ):
        name, *words = shlex.split(command)
        capsys.readouterr()
        code = run(monkeypatch, name, *words, "--json")
        out = capsys.readouterr().out
        assert code == 0 or name in ("doctor", "init"), command
        said[name] = (
            [json.loads(line) for line in out.splitlines()]
            if name in ("alerts", "incidents")
            else [json.loads(out)]
        )
        assert all(json.loads(json.dumps(value, allow_nan=False)) == value for value in said[name])
    # `run` speaks a line at a time while it lasts (tests/contract), `serve` has no end (tests/unit/desk)
    assert set(said) == set(commands()) - {"run", "serve"}
    assert said["alerts"]
    assert said["incidents"]


def commands() -> list[str]:
    return list(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]
