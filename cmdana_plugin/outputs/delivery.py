"""Events on their way: a bounded queue, and attempts with back-off until the receiver takes or refuses each."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cmdana_plugin.outputs.roads import Later, Refused, Road

MOST_WAITING: Final = 10_000  # events in the queue; past it the oldest are dropped and counted
MOST_BYTES: Final = 64 * 1024 * 1024  # likewise their bytes
_FIRST_WAIT: Final = 0.5  # seconds before the second attempt; doubles, with jitter, up to:
_LONGEST_WAIT: Final = 60.0
Item = tuple[str, bytes]  # id of an event, what is sent


@dataclass(slots=True)
class Counts:
    """What has become of the events."""

    sent: int = 0
    refused: int = 0
    dropped: int = 0  # from a full queue
    retries: int = 0
    known: int = 0  # sent by an earlier run

    def words(self) -> str:
        """One line that says so."""
        more = {
            "refused by the receiver": self.refused, "dropped from a full queue": self.dropped,
            "that had been sent": self.known, "attempts repeated": self.retries,
        }  # fmt: skip
        return ", ".join([f"{self.sent:,} events sent", *(f"{n:,} {what}" for what, n in more.items() if n)])


@dataclass(slots=True)
class Waiting:
    """A bounded queue between a reader and the sender."""

    counts: Counts
    most: int = MOST_WAITING
    most_bytes: int = MOST_BYTES
    _bytes: int = 0
    _items: deque[Item] = field(default_factory=deque)
    _there: threading.Condition = field(default_factory=threading.Condition)

    def put(self, item: Item) -> None:
        """Appends; where it is full the oldest makes room and is counted."""
        with self._there:
            self._items.append(item)
            self._bytes += len(item[1])
            while len(self._items) > self.most or self._bytes > self.most_bytes:
                self._bytes -= len(self._items.popleft()[1])
                self.counts.dropped += 1
            self._there.notify()

    def get(self, seconds: float) -> Item | None:
        """The oldest, or None where none has come in so many seconds."""
        with self._there:
            if not self._items:
                self._there.wait(seconds)
            if not self._items:
                return None
            item = self._items.popleft()
            self._bytes -= len(item[1])
            return item


class Sender:
    """Sends one event after the other, again and again where the receiver cannot take it."""

    def __init__(
        self,
        road: Road,
        counts: Counts,
        notify: Callable[[str], None],
        *,
        attempts: int | None = None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        """`attempts` for each event, without end where it is None."""
        self._road = road
        self._counts = counts
        self._notify = notify
        self._attempts = attempts
        self._wait = wait
        self._failing = False

    def send(self, event: bytes) -> bool:
        """Whether the receiver took it: False where it refuses. Raises `OSError` after the last attempt."""
        tried = 0
        while True:
            try:
                self._road.send(event)
            except Refused as why:
                self._counts.refused += 1
                if self._counts.refused & (self._counts.refused - 1) == 0:  # the 1st, 2nd, 4th, 8th ...
                    self._notify(f"the receiver refuses an event: {why}; {self._counts.refused:,} so far")
                return False
            except OSError as error:
                tried += 1
                if self._attempts is not None and tried >= self._attempts:
                    raise
                if not self._failing:
                    self._notify(f"cannot send: {error.strerror or error}; goes on trying")
                self._failing = True
                self._counts.retries += 1
                self._wait(max(backoff(tried), error.seconds if isinstance(error, Later) else 0.0))
                continue
            if self._failing:
                self._notify("sends again")
                self._failing = False
            self._counts.sent += 1
            return True


def backoff(tried: int, jitter: Callable[[], float] = random.random) -> float:
    """Seconds before the next attempt after so many: half to the whole of a span that doubles, a minute at most."""
    span = min(_FIRST_WAIT * 2.0 ** min(tried, 20), _LONGEST_WAIT)
    return span * (0.5 + 0.5 * jitter())
