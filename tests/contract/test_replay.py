"""`cmdana replay` as a user meets it: the logs of a real capture, always the same, and a clear word on bad input."""

import csv
import gzip
import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cmdana_plugin.logs.reader import read_rows

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "tests/traces/demo/demo.pcap.gz"
LABELS = ROOT / "tests/traces/demo/labels.csv"
MINUTES = ROOT / "tests/traces/busy-minutes"
KINDS = {  # of its attacks, and what an incident of each is called
    "scan-port-tcp": "scan", "ssh-bruteforce": "password guessing", "dns-tunnel-iodine": "tunnel",
    "beacon-tls": "beacon", "exfiltration-tls": "exfiltration",
}  # fmt: skip
CMDANA = [sys.executable, "-m", "cmdana_plugin.cli"]


def cmdana(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CMDANA, *map(str, words)], cwd=cwd, capture_output=True, text=True, check=False, timeout=280
    )


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("*.log"))}


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("replay")
    done = cmdana("replay", "--json", "--out", "out", "--labels", LABELS, DEMO, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "out", json.loads(done.stdout)


def test_every_connection_of_the_capture_is_in_both_logs(replayed: tuple[Path, dict[str, object]]) -> None:
    out, said = replayed
    conn = {str(r["uid"]) for r in read_rows(out / "conn.log")}
    judged = {str(r["uid"]) for r in read_rows(out / "cmdana.log") if r["stage"] == "final"}
    assert conn == judged
    assert len(conn) == said["connections"]
    assert len(conn) > 1000


def families_told(out: Path, labels: Path) -> set[str]:
    """Of which an incident of the attacker or its target says what it is."""
    told = {(r["cmdana.kind"], r["cmdana.host"]) for r in read_rows(out / "notice.log")}
    with labels.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["label"] == "malicious"]
    # Look-ups of a name lie at the site's name server, whose incidents tell of no attack but a tunnel.
    own = [r for r in rows if r["resp_p"] != "53" or KINDS[r["family"]] == "tunnel"]
    return {r["family"] for r in own for end in ("orig_h", "resp_h") if (KINDS[r["family"]], r[end]) in told}


def test_each_recorded_attack_is_told_of_for_what_it_is_and_ordinary_use_alone_is_not(
    replayed: tuple[Path, dict[str, object]],
) -> None:
    out, said = replayed
    found = said["labels"]
    assert isinstance(found, dict)
    assert found["families"].keys() == KINDS.keys()
    assert families_told(out, LABELS) == KINDS.keys()
    assert found["false_notices"] == 0


def test_in_busy_minutes_what_is_dense_is_told_of_for_what_it_is_and_false_alarms_are_few(
    tmp_path: Path,
) -> None:
    labels = MINUTES / "labels.csv"
    done = cmdana(
        "replay", "--json", "--labels", labels, "--out", "out", MINUTES / "busy-minutes.pcap.gz", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["labels"]
    dense = {"scan-port-tcp", "ssh-bruteforce", "dns-tunnel-iodine"}
    assert families_told(tmp_path / "out", labels) >= dense
    assert found["false_notices"] <= 0.25 * found["true_notices"]


def test_reasons_are_given_for_every_verdict_that_is_not_benign(
    replayed: tuple[Path, dict[str, object]],
) -> None:
    out, _ = replayed
    odd = [r for r in read_rows(out / "cmdana.log") if r["verdict"] != "benign"]
    assert odd
    for row in odd:
        assert row["reasons"]
        shares = [float(str(row[f"{m}_reliance"])) for m in ("packet", "connection", "log", "state")]
        assert sum(shares) == pytest.approx(1.0, abs=0.01)


@pytest.mark.slow
def test_the_same_capture_gives_the_same_logs_byte_for_byte(
    replayed: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    out, _ = replayed
    plain = tmp_path / "demo.pcap"
    plain.write_bytes(gzip.decompress(DEMO.read_bytes()))
    for reader in ("native", "scapy"):
        (tmp_path / "plugin.toml").write_text(f'[capture]\nreader = "{reader}"\n')
        done = cmdana("replay", "--out", reader, plain, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert digests(tmp_path / reader) == digests(out), reader


def test_whether_the_applications_logs_are_asked_for_changes_no_other_log(
    replayed: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    out, _ = replayed
    assert cmdana("replay", "--logs", "all", "--out", "all", DEMO, cwd=tmp_path).returncode == 0
    all_of_them = digests(tmp_path / "all")
    assert {"dns.log", "ssl.log", "x509.log"} <= all_of_them.keys()
    assert digests(out).items() <= all_of_them.items()


def test_a_pipe_is_read_as_a_file_is(replayed: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    out, _ = replayed
    with gzip.open(DEMO) as plain:
        done = subprocess.run(
            [*CMDANA, "replay", "--out", "piped", "-"],
            cwd=tmp_path, input=plain.read(), capture_output=True, check=False, timeout=280,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "piped") == digests(out)


@pytest.mark.slow
def test_json_logs_hold_the_same_records(replayed: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    out, _ = replayed
    (tmp_path / "plugin.toml").write_text('[logs]\nformat = "json"\n')
    assert cmdana("replay", "--out", "json", DEMO, cwd=tmp_path).returncode == 0
    for name in ("conn.log", "cmdana.log", "notice.log"):
        tsv, other = list(read_rows(out / name)), list(read_rows(tmp_path / "json" / name))
        assert [r.get("uid") for r in tsv] == [r.get("uid") for r in other]
        assert [float(str(r["ts"])) for r in tsv] == [float(str(r["ts"])) for r in other]


TRUNCATED = gzip.decompress(DEMO.read_bytes())[:100_001] if DEMO.exists() else b""

BAD_INPUT = [
    # name, content (None: no file), arguments, exit status, what the line says
    ("missing.pcap", None, [], 1, "missing.pcap"),
    ("empty.pcap", b"", [], 1, "empty.pcap"),
    ("text.pcap", b"hello, I am no capture\n" * 10, [], 1, "text.pcap"),
    ("head.pcap", b"\xd4\xc3\xb2\xa1\x02\x00", [], 1, "head.pcap"),
    ("link.pcap", b"\xd4\xc3\xb2\xa1\x02\x00\x04\x00" + bytes(8) + b"\xff\xff\x00\x00" + b"\xf0\x00\x00\x00"
     + bytes(8) + b"\x04\x00\x00\x00\x04\x00\x00\x00" + b"abcd", [], 1, "link.pcap: found frames of Ethernet with H"),
    ("fine.pcap", TRUNCATED, ["--config", "nowhere.toml"], 1, "nowhere.toml"),
    ("fine.pcap", TRUNCATED, ["--model", "nowhere.safetensors"], 1, "nowhere.safetensors"),
    ("fine.pcap", TRUNCATED, ["--labels", "nowhere.csv"], 1, "nowhere.csv"),
    ("fine.pcap", TRUNCATED, ["--engine", "steam"], 2, "steam"),
    ("fine.pcap", TRUNCATED, ["--nonsense"], 2, "nonsense"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "content", "arguments", "status", "says"), BAD_INPUT)
def test_bad_input_is_one_clear_line_and_leaves_nothing_behind(
    name: str, content: bytes | None, arguments: list[str], status: int, says: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = cmdana("replay", "--out", "out", *arguments, name, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    if status == 1:
        assert done.stderr.startswith("cmdana: ")
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_failed_run_leaves_a_folder_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert cmdana("replay", "--out", "out", "missing.pcap", cwd=tmp_path).returncode == 1
    assert list((tmp_path / "out").iterdir()) == []
    assert cmdana("replay", "--out", "new/er/out", "missing.pcap", cwd=tmp_path).returncode == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_truncated_capture_is_judged_as_far_as_it_goes_and_the_cut_is_counted(tmp_path: Path) -> None:
    (tmp_path / "cut.pcap").write_bytes(TRUNCATED)
    done = cmdana("replay", "--out", "out", "--json", "cut.pcap", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["connections"] > 0
    assert said["undecoded"]["capture_truncated"] == 1


@pytest.mark.slow
def test_logs_that_are_there_are_not_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "cut.pcap").write_bytes(TRUNCATED)
    (tmp_path / "cut").mkdir()
    log = tmp_path / "cut" / "conn.log"  # in the folder named after the capture
    log.write_text("precious\n")
    done = cmdana("replay", "cut.pcap", cwd=tmp_path)
    assert done.returncode == 1
    assert "already holds conn.log" in done.stderr
    assert log.read_text() == "precious\n"
    assert cmdana("replay", "--force", "cut.pcap", cwd=tmp_path).returncode == 0
    assert log.read_text() != "precious\n"


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.pcap").write_bytes(TRUNCATED)
    (tmp_path / "out").write_text("")
    done = cmdana("replay", "--out", "out", "cut.pcap", cwd=tmp_path)
    assert (done.returncode, "is a file; --out needs a folder" in done.stderr) == (1, True)


@pytest.mark.parametrize(("told", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_that_is_told_to_end_leaves_nothing_behind(
    tmp_path: Path, told: signal.Signals, status: int
) -> None:
    # A shell's background jobs ignore Ctrl-C, and so would what they start.
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from cmdana_plugin.cli.app import entry; entry()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, "replay", "-", "--out", "out"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(gzip.decompress(DEMO.read_bytes())[:20_000])
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while not list((tmp_path / "out").glob(".conn.log.*.partial")) and time.monotonic() < deadline:
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert children
        process.send_signal(told)
        assert process.wait(60) == status
    assert not (tmp_path / "out").exists()
    assert not any(Path(f"/proc/{child}").exists() for child in children)
