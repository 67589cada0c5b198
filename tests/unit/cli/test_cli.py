"""The command line: every command helps, faults are one line with status 1, wrong usage is status 2."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import madeup
import pytest
import typer

from cmdana_plugin import files
from cmdana_plugin.cli import app as cli
from cmdana_plugin.cli.judging import Reload
from cmdana_plugin.cli.options import configured

COMMANDS: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
NAMES = sorted(COMMANDS)


class Said:
    """What a command printed, and its exit status."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def cmdana(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Runs `cmdana` with words in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Said:
        monkeypatch.setattr("sys.argv", ["cmdana", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return Said(int(end.value.code or 0), said.out, said.err)

    return run


@pytest.fixture
def logs(tmp_path: Path) -> list[madeup.Verdict]:
    """Made-up logs in logs/: the 7th verdict is odd."""
    rows = [
        madeup.verdict(madeup.START + i, i, "10.0.0.5", "192.0.2.1", 443, "ssl", 1e-6 if i == 7 else 0.5)
        for i in range(20)
    ]
    madeup.write_logs(tmp_path / "logs", rows)
    return rows


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_a_sentence_for_each_option(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    for parameter in command.params:
        if parameter.param_type_name == "option" and parameter.name != "help":
            assert parameter.help, f"{name} {parameter.name}"


@pytest.mark.parametrize("name", NAMES)
def test_every_command_ends_its_help_with_an_example_that_it_understands(name: str) -> None:
    epilog = COMMANDS[name].epilog or ""
    assert epilog.startswith(f"Example: cmdana {name} ")
    COMMANDS[name].make_context(name, epilog.split()[3:])


@pytest.mark.parametrize("name", NAMES)
def test_every_command_speaks_json(name: str) -> None:
    assert "--json" in {o for p in COMMANDS[name].params for o in p.opts}


@pytest.mark.parametrize("name", NAMES)
def test_help_fits_a_terminal_of_80_columns_and_the_list_of_commands_is_not_cut(
    name: str,
    cmdana,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for words in ([], [name]):
        out = cmdana(*words, "--help").out
        assert max(map(len, out.splitlines())) <= 80
        assert "..." not in out.split("Commands:")[-1] or words


def test_the_version_is_said(cmdana) -> None:  # type: ignore[no-untyped-def]
    assert cmdana("--version").out.startswith("cmdana ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["detect"], "No such command 'detect'; `cmdana -h` has what there is"),
        (["report", "--colour"], "No such option: --colour"),
        (["replay"], "Missing argument 'captures'; `cmdana replay -h` has what there is"),
        (["serve", "logs", "--port", "many"], "Invalid value for '--port'"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(cmdana, words: list[str], said: str) -> None:  # type: ignore[no-untyped-def]
    ran = cmdana(*words)
    assert ran.status == 2
    assert ran.err.startswith(f"cmdana: {said}")
    assert ran.err.count("\n") == 1


def test_without_a_command_the_help_is_shown(cmdana) -> None:  # type: ignore[no-untyped-def]
    assert cmdana().status == 2
    assert "Usage" in cmdana("--help").out


def test_a_foreseen_fault_is_one_line_and_status_1(cmdana) -> None:  # type: ignore[no-untyped-def]
    for words in (
        ["report", "nowhere"],
        ["explain", "C1", "nowhere"],
        ["alerts", "nowhere"],
        ["alerts", "--host", "printer"],
        ["label", "C1", "benign", "--logs", "nowhere"],
        ["label", "C1", "malicious", "--allow"],
        ["label", "C1", "benign", "--family", "scan"],
        ["anonymise", "nowhere", "--key", "absent", "--out", "out"],
        ["report", ".", "--config", "absent.toml"],
        ["train", "nowhere", "--out", "nowhere/x.safetensors"],
    ):
        said = cmdana(*words)
        assert said.status == 1, words
        assert said.err.startswith("cmdana: ")
        assert said.err.count("\n") == 1
        assert said.out == ""


def test_a_report_is_written_once_unless_forced(cmdana, logs, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    said = cmdana("report", "logs")
    assert said.status == 0
    assert "report.html: 20 connections, 1 notice" in said.out
    page = (tmp_path / "report.html").read_text()
    assert "is there already" in cmdana("report", "logs").err
    assert (tmp_path / "report.html").read_text() == page
    answer = json.loads(cmdana("report", "logs", "--force", "--json").out)
    assert (answer["connections"], answer["odd"], answer["notices"]) == (20, 1, 1)


def test_a_verdict_is_explained_labelled_and_allowed(  # type: ignore[no-untyped-def]
    cmdana, logs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "mine"))
    uid = logs[7].uid
    assert "about 1 in 1,000,000 connections" in cmdana("explain", uid, "logs").out
    assert json.loads(cmdana("explain", uid, "logs", "--json").out)["host"]["verdicts"] == 20
    assert "labels.csv: " in cmdana("label", uid, "malicious", "--family", "beacon", "--logs", "logs").out
    said = cmdana("label", uid, "benign", "--logs", "logs", "--allow")
    assert "is benign, was malicious" in said.out
    assert (
        'allow = ["10.0.0.5 -> 192.0.2.1:443/tcp"]'
        in (tmp_path / "mine" / "cmdana" / "plugin.toml").read_text()
    )
    answer = json.loads(cmdana("label", uid, "benign", "--logs", "logs", "--allow", "--json").out)
    assert answer["before"] == "benign"
    assert answer["allowed"] is False


def test_a_broken_configuration_stops_a_label_before_anything_is_written(
    cmdana, logs, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "plugin.toml").write_text("[verdict]\nallowed = []\n")
    said = cmdana("label", logs[7].uid, "benign", "--logs", "logs", "--allow")
    assert said.status == 1
    assert "did you mean 'allow'?" in said.err
    assert not (tmp_path / "labels.csv").exists()


def test_alerts_print_one_object_per_notice(cmdana, logs) -> None:  # type: ignore[no-untyped-def]
    (line,) = cmdana("alerts", "logs", "--json").out.splitlines()
    assert json.loads(line)["uid"] == logs[7].uid
    assert "no notices that match" in cmdana("alerts", "logs", "--host", "10.9.9.9").out


def test_logs_are_anonymised_with_a_new_key(cmdana, logs, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    said = cmdana("anonymise", "logs", "--key", "site.key", "--new-key", "--out", "shared")
    assert said.status == 0
    assert "10.0.0.5" not in (tmp_path / "shared" / "cmdana.log").read_text()
    again = cmdana("anonymise", "logs", "--key", "site.key", "--out", "again", "--json")
    assert json.loads(again.out)["files"] == {"cmdana.log": 20, "conn.log": 20, "notice.log": 1}
    assert (tmp_path / "again" / "conn.log").read_text() == (tmp_path / "shared" / "conn.log").read_text()


def test_the_doctors_status_follows_what_is_broken(
    cmdana, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    from cmdana_plugin import doctor

    ill = doctor.Finding("x", "wrong", "\x1b[31mbroken", "mend it")
    well = doctor.Finding("y", "missing", "not there", "only if you need it")
    monkeypatch.setattr(doctor, "examine", lambda *_: iter([ill, well]))
    said = cmdana("doctor")
    assert said.status == 1
    assert "\x1b[31m" not in said.out
    assert "wrong   x: \\x1b[31mbroken\n        mend it" in said.out
    monkeypatch.setattr(doctor, "examine", lambda *_: iter([well]))
    said = cmdana("doctor", "--json")
    assert said.status == 0
    assert json.loads(said.out)[0]["state"] == "missing"


def test_the_command_ends_with_the_status_of_what_it_did_and_all_that_it_said(tmp_path: Path) -> None:
    def run(*arguments: str, stdout: int | IO[bytes] = subprocess.PIPE) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "cmdana_plugin.cli", *arguments]
        return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, check=False, cwd=tmp_path)

    said = run("--version")
    assert (said.returncode, said.stdout[:7]) == (0, b"cmdana ")
    missing = run("replay", "nowhere.pcap")
    assert missing.returncode == 1
    assert missing.stderr.count(b"\n") == 1
    assert run("nonsense").returncode == 2
    with open("/dev/full", "wb") as full:
        lost = run("--version", stdout=full)
    assert lost.returncode == 1
    assert lost.stderr == b"cmdana: cannot write: No space left on device\n"


def test_a_hangup_has_run_begin_anew_unless_the_new_configuration_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[model]\nthreads = 1\n")
    told: list[str] = []
    reload = Reload(configured(file, told.append).config, file, told.append)
    before = signal.getsignal(signal.SIGHUP)
    with reload.on_sighup():
        assert not reload.wanted()
        file.write_text("[model]\nthread = 2\n")
        os.kill(os.getpid(), signal.SIGHUP)
        assert not reload.wanted()
        assert "goes on as before" in told[-1]
        assert reload.settings.model.threads == 1
        file.write_text("[model]\nthreads = 2\n")
        os.kill(os.getpid(), signal.SIGHUP)
        assert reload.wanted()
        assert reload.settings.model.threads == 2
        assert reload.taken()
        assert not reload.wanted()
        assert not reload.taken()
    assert signal.getsignal(signal.SIGHUP) == before


def test_two_that_write_one_file_exclude_each_other(cmdana, logs, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with files.alone(tmp_path, "report.html"):
        said = cmdana("report", "logs", "--out", "report.html")
    assert said.status == 1
    assert "report.html: another run of cmdana is writing there" in said.err
    assert cmdana("report", "logs", "--out", "report.html").status == 0
    with files.alone(tmp_path / "logs"):
        said = cmdana("anonymise", "logs", "--key", "site.key", "--new-key", "--out", "logs")
    assert "another run of cmdana is writing there" in said.err
    assert cmdana("report", "logs", "--out", "report.html", "--force").status == 0
    assert not list(tmp_path.glob(".*"))
