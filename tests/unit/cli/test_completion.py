"""Completion as a person has it: installed from a shell, and there when the next shell is opened and Tab is pressed."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from pages import ROOT


class Shell:
    """An interactive shell on a terminal of its own, in a home of its own."""

    def __init__(self, words: list[str], home: Path) -> None:
        environment = {
            "HOME": str(home), "PATH": f"{home / 'bin'}:{os.environ['PATH']}", "TERM": "dumb", "PS1": "$ ",
            "SHELL": words[0], "LANG": "C.UTF-8",
        }  # fmt: skip
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:  # pragma: no cover - the child becomes the shell
            os.chdir(home)
            os.execve(words[0], words, environment)

    def type(self, keys: str, expected: str, seconds: float = 60.0) -> str:
        """What the terminal shows after `keys`, until it holds `expected`."""
        os.write(self._terminal, keys.encode())
        shown, until = "", time.monotonic() + seconds
        while expected not in shown:
            ready, _, _ = select.select([self._terminal], [], [], max(until - time.monotonic(), 0.0))
            if not ready:
                raise AssertionError(f"no {expected!r} after {keys!r}, but {shown!r}")
            shown += re.sub(
                "\x1b\\[[?0-9;]*[a-zA-Z]", "", os.read(self._terminal, 4096).decode(errors="replace")
            )
        return shown

    def end(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._terminal)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose bin holds this checkout's cmdana."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "cmdana"
    command.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from cmdana_plugin.cli.app import main\nmain()\n"
    )
    command.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("shell", "options", "start"),
    [("bash", ["--noprofile"], ".bashrc"), ("zsh", ["--no-globalrcs"], ".zshrc")],
)
def test_tab_completes_once_completion_is_installed_and_the_shell_opened_anew(
    shell: str, options: list[str], start: str, home: Path
) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"needs {shell} on the PATH")
    (home / start).write_text("")  # without one, zsh asks what to do
    first = Shell([program, *options, "-i"], home)
    try:
        first.type("echo rea''dy\n", "ready")
        first.type("cmdana --install-completion; echo do''ne\n", "done")
    finally:
        first.end()
    assert "cmdana" in (home / start).read_text() or (home / ".zfunc" / "_cmdana").exists()
    second = Shell([program, *options, "-i"], home)
    try:
        second.type("echo rea''dy\n", "ready")
        if shell == "zsh":  # the first Tab of a session only loads what the installation wrote
            second.type("cmdana calib\t", "calib\a")
            second.type("\t", "rate ")
        else:
            second.type("cmdana calib\t", "calibrate ")
        second.type("--alerts\t", "--alerts-per-day")
    finally:
        second.end()
