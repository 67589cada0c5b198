"""A shard whose detector has ended is judged by another one's process, which goes on from its state, until it is back.

The folder of the state says who is there: each detector holds the lock of its shard's state as long as it lives, and
whoever waits for one that another has holds a second lock, by which the one that stands in knows to let go. So all of
them must see the same folder, on a file system with locks.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from cmdana_plugin import files, statefile
from cmdana_plugin.endpoint.shards import Shard
from cmdana_plugin.replay import InUse, held

_LOOK_SECONDS: Final = 2.0  # from one look at the others to the next
_APART_SECONDS: Final = 3.0  # by which the second that could stand in waits for the first
_WAIT_SECONDS: Final = 0.2
_END_SECONDS: Final = 60.0  # that one that stands in may take to end


@contextmanager
def own_state(folder: Path, shard: Shard, notify: Callable[[str], None]) -> Iterator[Path]:
    """A context with the path of a shard's state, which nobody else uses meanwhile; waits until it is so.

    Raises `StateError`.
    """
    with ExitStack() as stack:
        asked = False
        while True:
            try:
                path = stack.enter_context(held(folder, shard.name or statefile.NAME))
            except InUse:
                if not shard.name:
                    raise
                if not asked:
                    notify(
                        f"another cmdana has the state of shard {shard} in {folder}: waits until it lets go"
                    )
                    asked = True
                    # Another that waits has asked already.
                    with contextlib.suppress(files.Busy):
                        stack.enter_context(files.alone(folder, _wanted(shard)))
                time.sleep(_WAIT_SECONDS)
                continue
            break
        yield path


def is_wanted(folder: Path, shard: Shard) -> bool:
    """Whether a detector of this shard waits for its state."""
    try:
        return not files.is_free(folder, _wanted(shard))
    except OSError:
        return False  # it is asked again


class StandIns:
    """The processes of one detector that judge for others that have ended.

    `look` is to be asked often. After so many `seconds` in which nobody has had a shard's state, `command` of the shard
    is begun, `most` of them at a time.
    """

    def __init__(
        self,
        folder: Path,
        own: Shard,
        most: int,
        seconds: float,
        command: Callable[[Shard], Sequence[str]],
        notify: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._own = own
        self._most = most
        self._seconds = seconds
        self._command = command
        self._notify = notify
        self._clock = clock
        self._due = clock()
        self._free_since: dict[int, float] = {}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        if most and files.is_free(folder, f"{own.name}{statefile.SUFFIX}"):
            notify(
                f"{folder}: its file system keeps no locks: who has ended is not known, and nobody stands in"
            )
            self._most = 0

    def look(self) -> None:
        """Sees who is there, and begins what is due."""
        now = self._clock()
        if not self._most or now < self._due:
            return
        self._due = now + _LOOK_SECONDS
        for number, process in list(self._processes.items()):
            if process.poll() is not None:
                self._notify(f"no longer stands in for shard {number}/{self._own.of}")
                del self._processes[number]
        for number in range(1, self._own.of + 1):
            if number == self._own.number or number in self._processes:
                continue
            shard = Shard(number, self._own.of)
            try:
                free = files.is_free(self._folder, f"{shard.name}{statefile.SUFFIX}")
            except OSError:
                continue
            if not free:
                self._free_since.pop(number, None)
                continue
            since = self._free_since.setdefault(number, now)
            turn = (self._own.number - number - 1) % self._own.of  # the next after it first
            if now - since >= self._seconds + turn * _APART_SECONDS and len(self._processes) < self._most:
                del self._free_since[number]
                self._notify(f"nobody has had shard {shard} for {now - since:.0f} s: stands in for it")
                self._processes[number] = subprocess.Popen(self._command(shard), stdin=subprocess.DEVNULL)

    def close(self) -> None:
        """Ends all of them, cleanly where they can."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()


def _wanted(shard: Shard) -> str:
    return f"{shard.name}.wanted"
