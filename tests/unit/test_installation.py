"""`cmdana init`: a site's first settings, written once, whole, and where Zeek and the detector look for them."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

import madeup
import pytest

from cmdana_plugin import config as configuration
from cmdana_plugin import installation
from cmdana_plugin.installation import Answers, connections_a_day, next_steps, write
from cmdana_plugin.keyfile import read_key
from feature_extractors import CmdanaError

ME = pwd.getpwuid(os.geteuid()).pw_name


def test_what_is_written_is_a_configuration_with_the_answers_and_a_secret_of_its_own(tmp_path: Path) -> None:
    done = write(Answers(250_000, 7.5, ME), tmp_path / "site", unit=True, force=False)
    config = configuration.load(done.configuration)
    assert config.verdict.connections_per_day == 250_000
    assert config.verdict.alerts_per_day == 7.5
    assert Path(config.endpoint.secret_file) == done.secret
    assert len(read_key(done.secret)) == 32
    assert stat.S_IMODE(done.secret.stat().st_mode) == 0o600
    assert done.unit
    unit = done.unit.read_text()
    assert f"User={ME}\n" in unit
    assert f"run --config {done.configuration}\n" in unit
    assert "NoNewPrivileges=yes" in unit


def test_nothing_is_written_over_but_where_it_is_said_and_a_secret_never(tmp_path: Path) -> None:
    first = write(Answers(), tmp_path, unit=False, force=False)
    secret = first.secret.read_bytes()
    first.configuration.write_text("mine")
    with pytest.raises(CmdanaError, match=r"plugin\.toml: is there already; --force"):
        write(Answers(), tmp_path, unit=False, force=False)
    assert first.configuration.read_text() == "mine"
    again = write(Answers(), tmp_path, unit=False, force=True)
    assert again.kept == (first.secret,)
    assert first.secret.read_bytes() == secret
    assert configuration.load(again.configuration)


def test_without_root_it_is_the_user_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    done = write(Answers(), None, unit=None, force=False)
    assert done.configuration == tmp_path / "cmdana" / "plugin.toml"
    assert done.unit is None
    assert not any("systemctl" in line or "secret_file" in line for line in next_steps(done, tmp_path))
    with pytest.raises(CmdanaError, match="--unit: needs root"):
        write(Answers(), None, unit=True, force=True)


def test_root_writes_for_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    owned: list[tuple[Path, int, int]] = []
    monkeypatch.setattr(os, "chown", lambda *what: owned.append(what))
    for name in ("_HOST_FOLDER", "_UNITS"):
        monkeypatch.setattr(installation, name, tmp_path / name)
    (tmp_path / "_UNITS").mkdir()
    user = pwd.getpwnam("nobody")
    done = write(Answers(user="nobody"), None, unit=None, force=False)
    assert done.unit == tmp_path / "_UNITS" / "cmdana.service"
    assert (done.secret, user.pw_uid, user.pw_gid) in owned
    steps = next_steps(done, Path("/opt/scripts"))
    assert "systemctl daemon-reload && systemctl enable --now cmdana" in steps
    assert "    @load /opt/scripts/listen-websocket" in steps


@pytest.mark.parametrize(("answers", "words"), [
    (Answers(user="no-such-user-there"), "--user: found no user 'no-such-user-there'"),
    (Answers(connections_per_day=0), r"plugin\.toml.*connections_per_day"),
])  # fmt: skip
def test_an_answer_that_cannot_be_is_named_and_nothing_written(
    tmp_path: Path, answers: Answers, words: str
) -> None:
    with pytest.raises(CmdanaError, match=words):
        write(answers, tmp_path / "site", unit=False, force=False)
    assert not (tmp_path / "site").exists()


def test_a_folder_that_a_unit_cannot_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CmdanaError, match="no path that a unit can hold"):
        write(Answers(), tmp_path / "my site", unit=True, force=False)


def test_a_day_is_reckoned_from_the_logs(tmp_path: Path) -> None:
    madeup.write_logs(tmp_path / "logs", madeup.verdicts(400, days=2.0, attack=False))
    assert connections_a_day([tmp_path / "logs"]) == pytest.approx(200, rel=0.02)
    madeup.write_logs(tmp_path / "short", madeup.verdicts(50, days=0.01))
    with pytest.raises(CmdanaError, match=r"no hour of conn\.log"):
        connections_a_day([tmp_path / "short"])
