"""State that outlives a process: restored at the start, kept every minute by a child that has its memory as it was."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cmdana_plugin import files, statefile
from cmdana_plugin.statefile import State, StateError
from feature_extractors.confinement import confine

if TYPE_CHECKING:
    from cmdana_plugin.decision import Judge, Judged

_STUCK_SECONDS: Final = 300.0  # after which a child that writes is given up
_NICENESS: Final = 10
_ANEW: Final = "knows nothing of before"
_SAYS: Final = {
    "schema": "other fields (schema)",
    "behaviour": "other behaviour fields",
    "key": "another key",
}


def refusal(about: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """Why a state of such origin cannot be used here, "" where it can."""
    for name, words in _SAYS.items():
        if about.get(name) != expected.get(name):
            hint = "; [model] state_key has the key that hosts are hashed with" if name == "key" else ""
            found, wanted = about.get(name, "none"), expected.get(name, "none")
            return f"was made with {words}: found {found:.16}, expected {wanted:.16}{hint}"
    return ""


def restore(judge: Judge, path: Path, state: State, expected: Mapping[str, str]) -> str:
    """Has the judge go on from a state; in words what could not be carried over. Raises `StateError`.

    After that a judge that raised is not to be used.
    """
    if why := refusal(state.about, expected):
        raise StateError(f"{path}: {why}")
    learned = state.about.get("network") == expected.get("network")
    try:
        judge.restore(state.arrays, learned)
    except ValueError as error:
        raise StateError(f"{path}: {error}") from None
    return (
        ""
        if learned
        else "another model wrote it: what its network remembered is left behind, counts are kept"
    )


class InUse(StateError):
    """Another process goes on from a state."""


def begun(
    load: Callable[[], tuple[Judge, Mapping[str, str]]],
    path: Path,
    notify: Callable[[str], None],
    seed: Path | None = None,
) -> tuple[Judge, Mapping[str, str], str]:
    """A judge that goes on from the state at `path`, or else at `seed`, where there is one that can be used; else a new
    one. With what a state has to agree with, and in words what it goes on from.

    One at `path` that cannot be used is set aside, which is told. Raises what `load` raises, and `OSError`.
    """
    judge, about = load()
    if not path.exists() and seed is not None and seed.exists():
        try:
            state = statefile.read(seed)
            left = restore(judge, seed, state, about)
        except StateError as error:
            notify(f"state: {error}; begins anew")
            return *load(), _ANEW
        notify(f"state: begins with {seed}, {_when(state.about)}" + (f"; {left}" if left else ""))
        return judge, about, f"goes on from {seed.name}, {_when(state.about)}"
    if not path.exists():
        notify(f"state: {path}: none yet, begins anew")
        return judge, about, _ANEW
    try:
        state = statefile.read(path)
        left = restore(judge, path, state, about)
    except StateError as error:
        aside = statefile.set_aside(path)
        notify(f"state: {error}; set aside as {aside.name}, begins anew")
        return *load(), _ANEW
    notify(f"state: goes on from {path}, {_when(state.about)}" + (f"; {left}" if left else ""))
    return judge, about, f"goes on from {path.name}, {_when(state.about)}"


@contextmanager
def held(folder: Path, name: str = statefile.NAME) -> Iterator[Path]:
    """A context with the path of the state in a folder, made for its owner alone, which nobody else uses meanwhile.

    Raises `StateError` where it cannot be, `InUse` where another process has it.
    """
    path = folder / f"{name}{statefile.SUFFIX}"
    with ExitStack() as stack:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            stack.enter_context(files.alone(folder, path.name))
        except files.Busy:
            raise InUse(
                f"{path}: another cmdana goes on from this state; name another [state] folder"
            ) from None
        except OSError as error:
            raise StateError(f"{path}: cannot be used: {error.strerror}") from None
        yield path


def state_of(judge: Judge, about: Mapping[str, str], network_time: float) -> State:
    """All that a judge knows between two blocks, of this origin."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return State({**about, "written": now, "network_time": f"{network_time:.6f}"}, judge.state())


def _when(about: Mapping[str, str]) -> str:
    return f"written {about.get('written', 'at an unknown time')}"


class Lasting:
    """A judge that goes on from what is in a folder, and leaves there what it knows."""

    def __init__(
        self,
        path: Path,
        seconds: float,
        load: Callable[[], tuple[Judge, Mapping[str, str]]],
        notify: Callable[[str], None],
        seed: Path | None = None,
    ) -> None:
        """`seed` is what to begin with where there is nothing at `path` yet."""
        self.known = ""  # what it goes on from, in words, once it has begun
        self._seed = seed
        self._path = path
        self._seconds = seconds
        self._load = load
        self._notify = notify
        self._network_time = 0.0
        self.keeper: Keeper | None = None

    def begin(self) -> Judge:
        """The judge, as `begun` has it."""
        judge, about, self.known = begun(self._load, self._path, self._notify, self._seed)

        def gather() -> State:
            return state_of(judge, about, self._network_time)

        self.keeper = Keeper(self._path, self._seconds, gather, self._notify)
        return judge

    def look(self, judged: Judged) -> None:
        """To be told of each block, when nothing but what came of it has changed the judge."""
        if len(judged.windows):
            self._network_time = float(judged.windows.connections.end[-1])
        if self.keeper is not None:
            self.keeper.look()

    def close(self, network_time: float = 0.0) -> None:
        """Puts on disk what is known at the end, which is at `network_time` where no block has told that."""
        self._network_time = self._network_time or network_time
        if self.keeper is not None:
            self.keeper.close()
            self.keeper = None


class Keeper:
    """Writes what `gather` gives to `path` every so many `seconds`, when it is asked between two blocks.

    A forked child gathers and writes: whoever judges is held up by the fork alone. What could not be written is told
    once, and the old file is left.
    """

    def __init__(
        self,
        path: Path,
        seconds: float,
        gather: Callable[[], State],
        notify: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.pause = 0.0  # longest that a fork took, seconds
        self.written = 0
        self.failed = 0
        self._seconds = seconds
        self._gather = gather
        self._notify = notify
        self._clock = clock
        self._due = clock() + seconds
        self._child: tuple[int, int, float] | None = None  # its number, what it says, since when

    def look(self) -> None:
        """Begins a snapshot if one is due, and sees how the last one went. To be asked between two blocks."""
        if self._child is not None:
            self._reap()
        if self._child is None and self._clock() >= self._due:
            self._due = self._clock() + self._seconds
            self._fork()

    def close(self) -> None:
        """Writes a last snapshot, itself."""
        if self._child is not None:
            self._end(self._child[0])
            os.close(self._child[1])
            self._child = None
        self._told(_written(self.path, self._gather))

    def _fork(self) -> None:
        reading, writing = os.pipe()
        confine.ready()
        parent, began = os.getpid(), time.perf_counter()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                confine.end_with_parent(parent)
                for which in (signal.SIGTERM, signal.SIGHUP):
                    signal.signal(which, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                os.nice(_NICENESS)
                os.write(writing, _written(self.path, self._gather).encode()[:4000])
                status = 0
            finally:
                os._exit(status)
        self.pause = max(self.pause, time.perf_counter() - began)
        os.close(writing)
        self._child = child, reading, self._clock()

    def _reap(self) -> None:
        assert self._child is not None
        child, reading, since = self._child
        ended, status = os.waitpid(child, os.WNOHANG)
        if not ended and self._clock() - since < _STUCK_SECONDS:
            return
        if not ended:
            self._end(child)
            said = f"took more than {_STUCK_SECONDS:.0f} s and was given up"
        else:
            ready, _, _ = select.select([reading], [], [], 0)
            said = os.read(reading, 4096).decode(errors="replace") if ready else ""
            said = said or ("ended before it was written" if status else "")
        os.close(reading)
        self._child = None
        self._told(said)

    def _end(self, child: int) -> None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    def _told(self, fault: str) -> None:
        if fault:
            self.failed += 1
            if self.failed == 1:
                self._notify(f"state: {self.path}: {fault}; the one before is left, and it is tried again")
            return
        self.written += 1
        if self.failed:
            self.failed = 0
            self._notify(f"state: {self.path}: is written again")


def _written(path: Path, gather: Callable[[], State]) -> str:
    """Why it could not be, "" where it was."""
    try:
        statefile.write(path, gather())
    except OSError as error:
        return f"cannot be written: {error.strerror}"
    except MemoryError:
        return "cannot be written: memory is short"
    return ""
