"""Other programs, found and called so that neither the folder we stand in nor a file's name chooses what runs."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from feature_extractors.confinement import confine

_PLAIN: Final = ("LANG", "LC_ALL", "LC_CTYPE", "TZ")  # what words and times look like
# seconds by the clock for each second of CPU time that a program may take
_CLOCK_SECONDS_PER_CPU_SECOND: Final = 4
_USUAL: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find(name: str) -> str | None:
    """The absolute path of a program; a bare name is searched on the PATH.

    Passed over there: empty and relative entries, the working folder by whatever name, folders and programs that
    everybody can write.
    """
    if os.path.isabs(name):
        return name if _runs(name) else None
    if os.sep in name or not name:
        return None
    here = _identity(os.curdir)
    for folder in os.environ.get("PATH", _USUAL).split(os.pathsep):
        if not os.path.isabs(folder) or _identity(folder) in (None, here) or _anybodys(folder):
            continue
        path = os.path.join(folder, name)
        if _runs(path) and not _anybodys(path):
            return path
    return None


def environment(home: str, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a program: next to nothing of our own, so no settings, plugins or libraries.

    `home` is its own folder, for settings and temporary files."""
    kept = {name: os.environ[name] for name in _PLAIN if name in os.environ}
    return {
        **kept,
        "PATH": _USUAL,
        "HOME": home,
        "TMPDIR": home,
        "XDG_CONFIG_HOME": home,
        "XDG_DATA_HOME": home,
        "XDG_CACHE_HOME": home,
        **(more or {}),
    }


@contextmanager
def confined(
    command: Sequence[str], *, seconds: int, memory: int, environ: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A context with a running program that can read files and write to its two pipes only; killed at its end.

    `command` begins with an absolute path. It has an empty folder of its own as working folder and home, which it
    cannot write to either, `seconds` of CPU time, `memory` bytes, no network (`confine.confine`), and ends with us.
    """
    parent = os.getpid()
    confine.ready()

    def give_up() -> None:
        confine.end_with_parent(parent)
        confine.limit(memory=memory, seconds=seconds)
        confine.confine(programs=True)

    with tempfile.TemporaryDirectory(prefix="cmdana-") as folder:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(folder, environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=give_up,  # noqa: PLW1509  # it takes no lock: ctypes and system calls
        )
        timer = threading.Timer(_CLOCK_SECONDS_PER_CPU_SECOND * seconds, process.kill)
        timer.daemon = True
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            process.kill()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
            process.wait()


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _anybodys(path: str) -> bool:
    return bool(os.stat(path).st_mode & stat.S_IWOTH)


def _runs(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)
