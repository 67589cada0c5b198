"""A confined process: each thing that it has given up is refused by the kernel, and the rest goes on."""

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from feature_extractors.confinement import confine

IN_FORCE = confine.probe()
needs_seccomp = pytest.mark.skipif(not IN_FORCE.seccomp, reason="needs a kernel with seccomp")
needs_landlock = pytest.mark.skipif(not IN_FORCE.landlock, reason="needs a kernel with Landlock")


def told_by_a_child(act: Callable[[int], object]) -> str:
    """What `act`, given the pipe that it is told through, came to in a child: the exception's name, or "done"."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            act(writing)
            said = "done"
        except BaseException as error:  # noqa: BLE001
            said = type(error).__name__
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return said or f"status {status}"


def confined(act: Callable[[], object]) -> str:
    def both(pipe: int) -> None:
        confine.lock_in(pipe)
        act()

    return told_by_a_child(both)


ACTS: dict[str, Callable[[], object]] = {
    "run a program": lambda: os.execv("/bin/true", ["true"]),
    "run one as a child": lambda: subprocess.run(["/bin/true"], check=True),
    "fork": os.fork,
    "a socket": socket.socket,
    "a local socket": lambda: socket.socket(socket.AF_UNIX),
    "a pair of sockets": socket.socketpair,
    "a new file": lambda: open("/tmp/cmdana-new", "w"),
    "a new file without a name": lambda: os.open("/tmp", os.O_TMPFILE | os.O_RDWR),
    "a file in memory": lambda: os.memfd_create("x"),
    "a file that is there": lambda: open(__file__, "r+"),
    "a device": lambda: open("/dev/null", "w"),
    "removing": lambda: os.unlink("/tmp/cmdana-there"),
    "renaming": lambda: os.rename("/tmp/cmdana-there", "/tmp/cmdana-new"),
    "a folder": lambda: os.mkdir("/tmp/cmdana-new"),
    "a link": lambda: os.symlink("/etc", "/tmp/cmdana-new"),
    "permissions": lambda: os.chmod(__file__, 0o644),
    "times": lambda: os.utime(__file__),
    "a signal to the parent": lambda: os.kill(os.getppid(), 0),
    "another user": lambda: os.setuid(os.getuid()),
}


@needs_seccomp
@pytest.mark.parametrize("what", ACTS)
def test_what_is_given_up_is_refused(what: str) -> None:
    there = Path("/tmp/cmdana-there")
    there.write_text("x")
    try:
        assert confined(ACTS[what]) == "PermissionError"
    finally:
        there.unlink()
    assert not os.path.lexists("/tmp/cmdana-new")


@needs_seccomp
def test_more_than_the_limits_cannot_be_had_back() -> None:
    for which in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE, resource.RLIMIT_NOFILE):
        assert confined(lambda which=which: resource.setrlimit(which, (2**30, 2**30))) == "ValueError"  # type: ignore[misc]


def test_reading_computing_and_threads_go_on() -> None:
    def work() -> None:
        assert Path("/etc/hostname").exists() or Path("/etc").is_dir()
        assert open(__file__, "rb").read(3) == b'"""'
        done: list[int] = []
        thread = threading.Thread(target=lambda: done.append(sum(range(1000))))
        thread.start()
        thread.join()
        assert done == [499500]

    assert confined(work) == "done"


@needs_seccomp
def test_a_thread_is_confined_as_well() -> None:
    def work() -> None:
        failed: list[str] = []

        def attempt() -> None:
            try:
                socket.socket()
            except PermissionError:
                failed.append("socket")

        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
        assert failed == ["socket"]

    assert confined(work) == "done"


def test_whatever_else_was_open_for_writing_is_closed(tmp_path: Path) -> None:
    log = open(tmp_path / "log", "w")
    ours, theirs = socket.socketpair()
    for fd in (log.fileno(), ours.fileno()):
        assert confined(lambda fd=fd: os.write(fd, b"x")) == "OSError"  # type: ignore[misc]
    assert confined(lambda: os.write(1, b"x")) == "OSError"
    for thing in (log, ours, theirs):
        thing.close()
    assert (tmp_path / "log").read_bytes() == b""


@needs_landlock
def test_landlock_alone_refuses_what_changes_a_file_and_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confine, "_seccomp", lambda _: False)

    def act(_: int) -> None:
        assert confine.confine().landlock
        for attempt in (lambda: open(tmp_path / "x", "w"), lambda: os.execv("/bin/true", ["true"])):
            with pytest.raises(PermissionError):
                attempt()

    assert told_by_a_child(act) == "done"


def test_a_kernel_without_either_is_told_and_not_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confine, "_seccomp", lambda _: False)
    monkeypatch.setattr(confine, "_landlock", lambda _: 0)
    assert told_by_a_child(confine.lock_in) == "done"
    assert str(confine.probe()) in ("no new privileges, resource limits", "resource limits")
    assert not confine.probe().whole


CHILD = """
import os, sys, time
from feature_extractors.confinement import confine
parent = os.getpid()
if os.fork() == 0:
    confine.end_with_parent(parent)
    print(os.getpid(), flush=True)
    while True:  # as a signature that never ends
        pass
time.sleep(600)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_child_at_work_ends_with_its_parent_however_that_ends(end: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(end)
        parent.wait(30)
    deadline = time.monotonic() + 30
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_refuses_another_architecture_and_fits_the_kernel(machine: str) -> None:
    program = confine._program(confine._MACHINES[machine], False, 1234)
    assert len(program) % 8 == 0
    assert len(program) // 8 < 4096  # BPF_MAXINSNS
    assert program[16:24] == confine._step(confine._RETURN, confine._KILL)
    calls = confine._MACHINES[machine].calls
    assert len(set(calls.values())) == len(calls)
