"""The client that stays, against real servers on loopback: what it opens stands in its log."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lab import verify
from benchmarks.lab.habits import PROGRAMS
from benchmarks.lab.scenario import LabError
from benchmarks.lab.truth import COLUMNS


class Page(BaseHTTPRequestHandler):
    """Keeps connections; asks for a password under /private."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        wanted = self.path.startswith("/private") and "Authorization" not in self.headers
        self.send_response(401 if wanted else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def port() -> Any:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def play(folder: Path, *tasks: dict[str, Any]) -> list[dict[str, Any]]:
    lines = (json.dumps({"at": 0.0, "what": "test", "ca": "", **task}) + "\n" for task in tasks)
    (folder / "tasks").write_text("".join(lines), encoding="utf-8")
    argv = ("python3", "-IS", str(PROGRAMS / "person.py"), str(folder / "tasks"), str(time.time()))
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    return [json.loads(line) for line in done.stdout.splitlines()]


def web(port: int, *paths: str, **more: Any) -> dict[str, Any]:
    requests = [{"url": f"http://127.0.0.1:{port}{path}"} for path in paths]
    return {"do": "web", "requests": requests, "agent": "test", **more}


def test_requests_share_a_connection_unless_they_should_not(port: int, tmp_path: Path) -> None:
    kept = play(tmp_path, web(port, "/a", "/b", "/c"))
    assert sum("opened" in entry for entry in kept) == 1
    apart = play(tmp_path, web(port, "/a", "/b", "/c", apart=True))
    assert sum("opened" in entry for entry in apart) == 3
    assert apart[-1]["result"] == "200 200 200"


def test_a_password_and_a_form_are_sent(port: int, tmp_path: Path) -> None:
    assert play(tmp_path, web(port, "/private/x"))[-1]["result"] == "401"
    assert play(tmp_path, web(port, "/private/x", auth="anna:secret"))[-1]["result"] == "200"
    form = {"url": f"http://127.0.0.1:{port}/", "method": "POST", "body": "a=1"}
    assert play(tmp_path, {"do": "web", "requests": [form], "agent": "t"})[-1]["result"] == "200"


def test_a_refused_connection_is_an_outcome_not_a_crash(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = taken.getsockname()[1]
        said = play(tmp_path, {"do": "knock", "host": "127.0.0.1", "port": closed})
    assert said[-1]["result"].startswith("ConnectionRefusedError")


def test_what_is_far_too_late_is_skipped_and_says_so(tmp_path: Path) -> None:
    (said,) = play(tmp_path, {"do": "knock", "host": "127.0.0.1", "port": 1, "at": -60.0})
    assert said["error"] == "skipped: late"


def recording(folder: Path, label: str, family: str) -> Path:
    """One connection that the client of attacker 20001 wrote down, labelled as asked."""
    row = ("c", "", "100.000000", "tcp", "10.0.0.5", "4000", "10.0.0.9", "443", label, family, "strict", "")
    (folder / "labels.csv").write_text(f"{','.join(COLUMNS)}\n{','.join(row)}\n", encoding="utf-8")
    actor = {"name": "ben", "host": "desk", "gid": 20001, "family": "beacon-tls"}
    story = {"actors": [actor], "hosts": []}
    (folder / "story.json").write_text(json.dumps(story), encoding="utf-8")
    entry = {"host": "desk", "gid": 20001, "opened": 100.01, "what": "beacon-tls", "proto": "tcp"}
    entry |= {"orig": ["10.0.0.5", 4000], "resp": ["10.0.0.9", 443]}
    (folder / "connections.jsonl").write_text(json.dumps(entry) + "\n", encoding="utf-8")
    (folder / "programs.jsonl").write_text("", encoding="utf-8")
    return folder


def test_labels_are_held_against_what_the_client_wrote(tmp_path: Path) -> None:
    assert verify.verify(recording(tmp_path, "malicious", "beacon-tls")).fine
    wrong = verify.verify(recording(tmp_path, "benign", ""))
    assert not wrong.fine
    assert "labelled benign" in str(wrong)


@pytest.mark.parametrize(
    ("argv", "agree", "disagree"),
    [
        (("nmap", "-p", "443", "10.0.0.9"), 1, 0),
        (("nmap", "-p", "443", "10.0.0.0/28"), 1, 0),
        (("nmap", "-p", "443", "10.0.0.16/28"), 0, 1),
        (("ncat", "-z", "10.0.0.90", "443"), 0, 1),
        (("curl", "https://www.a.example/"), 0, 0),  # a name: where that leads is not on its line
        (("dig", "-x", "10.0.0.90"), 0, 0),  # asked about, not asked
    ],
)
def test_labels_are_held_against_where_programs_were_sent(
    argv: tuple[str, ...], agree: int, disagree: int, tmp_path: Path
) -> None:
    folder = recording(tmp_path, "malicious", "beacon-tls")
    labels = folder / "labels.csv"
    labels.write_text(
        labels.read_text().replace("strict,", "strict,opened by attacker ben on desk"), encoding="utf-8"
    )
    program = {"gid": 20001, "began": 99.0, "ended": 101.0, "what": "port-scan", "argv": argv}
    (folder / "programs.jsonl").write_text(json.dumps(program) + "\n", encoding="utf-8")
    found = verify.verify(folder)
    counts = found.counts.get("launchers, attackers", {})
    assert (counts.get("agree", 0), counts.get("disagree", 0)) == (agree, disagree)
    assert found.fine == (not disagree)


@pytest.mark.parametrize("name", ["story.json", "labels.csv", "programs.jsonl", "connections.jsonl"])
def test_of_a_recording_that_is_broken_one_clear_line(name: str, tmp_path: Path) -> None:
    (recording(tmp_path, "malicious", "beacon-tls") / name).write_text('{"a"\n{"a":\n', encoding="utf-8")
    with pytest.raises(LabError, match="not as `record` writes it"):
        verify.verify(tmp_path)


def test_without_a_recording_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="expected a recording"):
        verify.verify(tmp_path)


def test_a_pool_finds_its_server_or_learns_that_it_moved(port: int, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        gone = closed.getsockname()[1]
        said = play(
            tmp_path,
            {"do": "pool", "host": "127.0.0.1", "port": port, "count": 5},
            {"do": "pool", "host": "127.0.0.1", "port": gone, "count": 5},
        )
    assert sorted(entry["result"] for entry in said if "result" in entry) == ["0 of 5 open", "5 of 5 open"]
    assert sum("opened" in entry for entry in said) == 5


def test_what_is_forgotten_is_open_until_the_client_is_ended(port: int, tmp_path: Path) -> None:
    tasks = ({"do": "forget"}, {"do": "forget", "path": "/p0.html"}, {"do": "check"})
    lines = (
        json.dumps({"at": 0.0, "what": "test", "host": "127.0.0.1", "port": port, **task}) for task in tasks
    )
    (tmp_path / "tasks").write_text("\n".join(lines), encoding="utf-8")
    argv = ("python3", "-IS", str(PROGRAMS / "person.py"), str(tmp_path / "tasks"), str(time.time()))
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [json.loads(process.stdout.readline()) for _ in range(6)]
        assert process.poll() is None
        process.kill()
    results = sorted(entry["result"] for entry in said if "result" in entry)
    assert results[1:] == ["open", "up"]
    assert int(results[0]) > 0
    assert sum("opened" in entry for entry in said) == 3
