"""Two passes over captures or logs: on a network that no model has learned, one that looks before one that judges.

What the stream's own p-values are is known in whole before the first verdict, which `decision.adaptation` makes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from cmdana_plugin.replay.extraction_process import ChildProcess, Part

if TYPE_CHECKING:
    from cmdana_plugin.decision import Judge


class TwoPasses:
    """A child process that reads, and one that reads the same `again` if a judge looks first. `close` ends both."""

    def __init__(self, work: Callable[[], Iterator[Part]], *, again: bool, together: bool = True) -> None:
        # Forked before the other one has a thread here.
        self._again = ChildProcess(work, together=together, waits=True) if again else None
        self._now = ChildProcess(work, together=together)

    def ahead(self) -> bool:
        """Whether what reads needs no core for now."""
        return self._now.ahead()

    def judging(self, judge: Judge) -> ChildProcess:
        """What is to be judged, once the judge has looked if that is of use. Raises `CmdanaError`."""
        if self._again is not None and judge.adaptation.looks_first:
            judge.look(windows for windows, _, _ in self._now if windows is not None)
            self._now.close()
            self._now, self._again = self._again, None
            self._now.begin()
        return self._now

    def close(self) -> None:
        """Ends what reads."""
        self._now.close()
        if self._again is not None:
            self._again.close()
