"""Files: whole or not there, where they were meant to be, and by one writer at a time."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cmdana_plugin import files
from cmdana_plugin.logs.log_folder import LogFolder
from cmdana_plugin.logs.streams import CMDANA, CONN, NOTICE, LogWriter
from cmdana_plugin.replay.embedded import prepared


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_the_place_of_another_in_one_move(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with files.replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert left(tmp_path) == ["x"]


def test_what_fails_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), files.replacing(path):
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert left(tmp_path) == ["x"]


def test_a_link_in_its_place_is_replaced_and_what_it_names_left_alone(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "conn.log").symlink_to(tmp_path / "victim")
    # A name that can be guessed, as this writer's was, waits for it as a link.
    (tmp_path / ".conn.log.partial").symlink_to(tmp_path / "victim")
    writer = LogWriter(tmp_path, CONN, "tsv")
    writer.write_columns([], 0.0)
    writer.close()
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "conn.log").is_symlink()


def test_permissions_are_those_of_any_new_file_or_as_told(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.replace(tmp_path / "plain", b"")
        files.replace(tmp_path / "open", b"", 0o664)
        files.create(tmp_path / "secret", b"")
    finally:
        os.umask(before)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("plain", "open", "secret")}
    assert modes == {"plain": 0o640, "open": 0o664, "secret": 0o600}


def test_a_new_file_never_takes_the_place_of_one(tmp_path: Path) -> None:
    files.create(tmp_path / "key", b"first")
    with pytest.raises(FileExistsError):
        files.create(tmp_path / "key", b"second")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        files.create(tmp_path / "dangling", b"third")
    assert (tmp_path / "key").read_bytes() == b"first"
    assert left(tmp_path) == ["dangling", "key"]


KILLED = """
import os, signal, sys
from pathlib import Path
from cmdana_plugin import files
with files.replacing(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("at work", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_goes_with_the_next_but_not_what_is_at_work(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        files.replace(path, b"while it works")
        assert len(left(tmp_path)) == 2
        other.send_signal(signal.SIGKILL)
    assert path.read_bytes() == b"while it works"
    (tmp_path / ".x.0123456789abcdef.partial").symlink_to("/etc/hostname")
    (tmp_path / ".x.note.partial").write_text("somebody's own")
    files.replace(path, b"whole")
    assert left(tmp_path) == [".x.0123456789abcdef.partial", ".x.note.partial", "x"]
    assert path.read_bytes() == b"whole"


ALONE = """
import sys
from pathlib import Path
from cmdana_plugin import files
with files.alone(Path(sys.argv[1]), sys.argv[2]):
    print("alone", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("name", ["", "model.safetensors"])
def test_two_that_write_the_same_exclude_each_other_until_one_dies(tmp_path: Path, name: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ALONE, tmp_path, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(files.Busy, match="another run of cmdana is writing there"):
            files.alone(tmp_path, name).__enter__()
        with files.alone(tmp_path, "another"):
            pass
        other.send_signal(signal.SIGKILL)
    with files.alone(tmp_path, name):
        assert len(left(tmp_path)) == 1
    assert left(tmp_path) == []


def test_a_lock_file_that_is_a_link_or_a_pipe_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".cmdana.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError):  # noqa: PT011
        files.alone(tmp_path).__enter__()
    (tmp_path / ".labels.csv.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError):  # noqa: PT011
        files.in_turn(tmp_path / "labels.csv").__enter__()
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize("nth", [2, 3, 4])  # the first lock is that of the folder
def test_who_is_told_to_end_while_logs_are_opened_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    out, asked, flock = tmp_path / "new" / "out", [0], files.fcntl.flock

    def interrupted(descriptor: int, how: int) -> None:
        flock(descriptor, how)
        asked[0] += 1
        if asked[0] == nth:
            assert len(list(out.glob(".*.partial"))) == nth - 1
            raise KeyboardInterrupt

    monkeypatch.setattr(files.fcntl, "flock", interrupted)
    with pytest.raises(KeyboardInterrupt), prepared(out, force=False):
        LogFolder(out, lambda folder, stream: LogWriter(folder, stream, "tsv"), (CONN, CMDANA, NOTICE))
    assert asked == [nth]
    assert left(tmp_path) == []
