"""Keys in files: made once, readable by their owner only; that of the state's hashes, and the one shared with Zeek."""

import os
import stat
import threading
from pathlib import Path

import pytest

from cmdana_plugin import keyfile
from cmdana_plugin.config import Endpoint
from cmdana_plugin.endpoint.live import shared_secret
from cmdana_plugin.keyfile import (
    KeyFileError,
    new_secret,
    read_key,
    secret_path,
    state_key_path,
    state_salt,
)
from feature_extractors.errors import CmdanaError


def test_it_lies_where_configured_then_where_systemd_says_then_in_the_home() -> None:
    systemd = {"STATE_DIRECTORY": "/var/lib/cmdana:/other", "XDG_STATE_HOME": "/x"}
    assert state_key_path("/etc/cmdana/key", systemd) == Path("/etc/cmdana/key")
    assert state_key_path("", systemd) == Path("/var/lib/cmdana/state.key")
    assert state_key_path("", {"XDG_STATE_HOME": "/x"}) == Path("/x/cmdana/state.key")
    assert state_key_path("", {}) == Path.home() / ".local/state/cmdana/state.key"


def test_it_is_made_once_for_its_owner_alone_and_another_is_another(tmp_path: Path) -> None:
    here, there = {"XDG_STATE_HOME": str(tmp_path / "a")}, {"XDG_STATE_HOME": str(tmp_path / "b")}
    salt = state_salt("", here)
    path = state_key_path("", here)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [f.name for f in path.parent.iterdir()] == ["state.key"]
    assert state_salt("", here) == salt
    assert state_salt("", there) != salt
    path.unlink()  # how it is rotated
    assert state_salt("", here) != salt


def test_two_that_start_at_once_agree(tmp_path: Path) -> None:
    salts: list[int] = []
    threads = [
        threading.Thread(target=lambda: salts.append(state_salt("", {"XDG_STATE_HOME": str(tmp_path)})))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(salts) == 8
    assert len(set(salts)) == 1


def test_one_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.key"
    state_salt(str(path))
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match=r"others can read it \(mode 640\)"):
        state_salt(str(path))


def test_where_none_can_be_made_each_start_has_its_own_unless_one_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    nowhere = {"XDG_STATE_HOME": str(tmp_path / "file")}
    assert state_salt("", nowhere) != state_salt("", nowhere)
    with pytest.raises(KeyFileError, match=r"\[model\] state_key: .*file/key: cannot be made"):
        state_salt(os.fspath(tmp_path / "file" / "key"), nowhere)


def test_the_shared_secret_lies_where_configured_then_for_the_host_then_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyfile, "_HOST_SECRET", tmp_path / "etc" / "secret")
    assert secret_path("/x/secret", {"XDG_CONFIG_HOME": "/y"}) == Path("/x/secret")
    assert secret_path("", {"XDG_CONFIG_HOME": "/y"}) == Path("/y/cmdana/secret")
    assert secret_path("", {}) == Path.home() / ".config/cmdana/secret"
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "secret").touch()
    assert secret_path("", {}) == tmp_path / "etc" / "secret"


def test_the_shared_secret_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    configured = str(tmp_path / "a" / "secret")
    path = new_secret(configured)
    assert path == Path(configured)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert shared_secret(Endpoint(secret_file=configured)) == read_key(path)
    with pytest.raises(KeyFileError, match="is there already"):
        new_secret(configured)


def test_a_secret_that_is_absent_open_to_others_or_none_stops_the_detector_in_words(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    settings = Endpoint(secret_file=str(path))
    with pytest.raises(
        CmdanaError, match=r"^\[endpoint\] secret_file: .*cannot be read.*doctor --init-secret"
    ):
        shared_secret(settings)
    path.write_text("ab" * 32)
    path.chmod(0o640)
    with pytest.raises(CmdanaError, match="others can read it"):
        shared_secret(settings)
    path.chmod(0o600)
    assert shared_secret(settings) == bytes.fromhex("ab" * 32)
    for words in ("", "ab" * 31, "xy" * 32):
        path.write_text(words)
        with pytest.raises(CmdanaError, match="expected 64 hexadecimal digits"):
            shared_secret(settings)
    assert shared_secret(Endpoint(authentication="none", secret_file=str(path))) is None
