"""What a transport is, and the thread that always drains one: bounded, counted, reconnecting."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from cmdana_plugin.endpoint.observed import head
from cmdana_plugin.endpoint.seal import Seal
from cmdana_plugin.endpoint.shards import Shard
from cmdana_plugin.endpoint.wire import Event, PeerError
from feature_extractors import CmdanaError, Counts

if TYPE_CHECKING:
    from cmdana_plugin.config import Endpoint

Received = Event | PeerError

_POLL_SECONDS: Final = 0.2  # seconds that one receive waits, which bounds how late a stop is seen

_ARREARS: Final = 10
_MAX_BATCH_BYTES: Final = 32 * 1024 * 1024  # taken together
_MESSAGE_OVERHEAD_BYTES: Final = 400  # bytes that a message takes besides its payload
_HEARTBEAT_SECONDS: Final = 1.0  # seconds between two heartbeats


class TransportError(CmdanaError):
    """Zeek cannot be reached this way; the message says where, why, and what to look at."""


class Disconnected(Exception):
    """An open transport has lost its peer."""


class Transport(Protocol):
    """A message transport to Zeek. `send` may be called from another thread than `receive`."""

    endpoint: str  # what Zeek calls our connection; "" where it does not say

    def open(self) -> str:
        """Connects and subscribes; the peer's address and version in words. Raises `TransportError`."""
        ...

    def receive(self, timeout: float) -> Sequence[Received]:
        """The messages received within `timeout` seconds, [] for none. Raises `Disconnected`."""
        ...

    def send(self, event: Event) -> None:
        """Publishes one event. Raises `Disconnected`."""
        ...

    def close(self) -> None:
        """Closes the connection; may be called in any state and more than once."""
        ...


class Inbox:
    """A bounded queue of messages that wait to be judged: in records and bytes; the oldest are dropped, and counted,
    first.
    """

    def __init__(self, max_records: int, counts: Counts, max_bytes: int = 256 * 1024 * 1024) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._counts = counts
        self._waiting: deque[tuple[Received, int, float, int]] = deque()
        self._records = 0
        self._bytes = 0
        self._changed = threading.Condition()

    def __len__(self) -> int:
        """Records waiting."""
        return self._records

    def lag(self, now: float) -> float:
        """The seconds for which the oldest message has waited, by the clock of `put`."""
        with self._changed:
            return max(now - self._waiting[0][2], 0.0) if self._waiting else 0.0

    def put(self, received: Sequence[Received], now: float) -> None:
        """Appends a message; never blocks. `now` is the arrival in seconds of any steady clock."""
        with self._changed:
            for event in received:
                connections, records = head(event.payload) if isinstance(event, Event) else (0, 0)
                size = _MESSAGE_OVERHEAD_BYTES + (
                    sys.getsizeof(event.payload) if isinstance(event, Event) else 0
                )
                self._waiting.append((event, max(records, 1), now, size))
                self._records += max(records, 1)
                self._bytes += size
                self._counts.add("connections_received", connections)
            while (self._records > self._max_records or self._bytes > self._max_bytes) and len(
                self._waiting
            ) > 1:
                event, records, _, size = self._waiting.popleft()
                self._records -= records
                self._bytes -= size
                self._counts.add("records_dropped_full_queue", records)
                if isinstance(event, Event):
                    self._counts.add("connections_dropped_full_queue", head(event.payload)[0])
            self._changed.notify()

    def forget(self) -> None:
        """Drops, and counts, all that still waits."""
        with self._changed:
            for event, records, _, _ in self._waiting:
                self._counts.add("records_unjudged_at_stop", records)
                if isinstance(event, Event):
                    self._counts.add("connections_unjudged_at_stop", head(event.payload)[0])
            self._waiting.clear()
            self._records = self._bytes = 0

    def take(
        self, max_records: int, gather: float, timeout: float, clock: Callable[[], float]
    ) -> list[Received]:
        """Up to about `max_records` records, waiting until the first has lain for `gather` seconds to get so many.

        Where more are waiting, up to `_ARREARS` times as many: judging costs less for each in a larger block, so
        arrears are caught up with; but not more than `_MAX_BATCH_BYTES` and one message. Returns an empty list after
        `timeout` seconds without any.
        """
        deadline = clock() + timeout
        with self._changed:
            while True:
                if self._waiting:
                    due = self._waiting[0][2] + gather
                    if self._records >= max_records or clock() >= due:
                        break
                else:
                    due = deadline
                    if clock() >= deadline:
                        return []
                self._changed.wait(max(min(due, deadline) - clock(), 0.001))
                if clock() >= deadline and not self._waiting:
                    return []
            if self._records > 2 * max_records:
                max_records *= _ARREARS
            taken: list[Received] = []
            records = weight = 0
            while self._waiting and (
                not taken or (records + self._waiting[0][1] <= max_records and weight <= _MAX_BATCH_BYTES)
            ):
                event, n, _, size = self._waiting.popleft()
                self._records -= n
                self._bytes -= size
                records += n
                weight += size
                taken.append(event)
            return taken


class Drain(threading.Thread):
    """The thread that keeps a transport connected and drained, so that Zeek never buffers for us.

    `hello` gives the events to send on every new connection, which Zeek calls as it is told, `overhear` those to send
    at once on what has come, `beat` those to send every second, from this thread because the one that judges may be
    long at it. All that goes passes `seal`, and what comes and is not authentic goes no further. What happens is told
    to `notify` in lines for the operator.
    """

    def __init__(
        self,
        transport: Transport,
        inbox: Inbox,
        hello: Callable[[str], Sequence[Event]],
        overhear: Callable[[Sequence[Received]], Sequence[Event]],
        beat: Callable[[], Sequence[Event]],
        notify: Callable[[str], None],
        seal: Seal,
        reconnect: tuple[float, float] = (0.5, 30.0),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name="cmdana-drain", daemon=True)
        self.counts = Counts()
        self._transport = transport
        self._inbox = inbox
        self._hello = hello
        self._overhear = overhear
        self._beat = beat
        self._notify = notify
        self._seal = seal
        self._faults = 0
        self._least, self._most = reconnect
        self._clock = clock
        self._stop_asked = threading.Event()
        self._open = threading.Event()
        self.crashed: BaseException | None = None

    @property
    def connected(self) -> bool:
        """Whether the transport is connected now."""
        return self._open.is_set()

    def send(self, events: Sequence[Event]) -> int:
        """The number of events that were sent; the rest are counted."""
        for sent, event in enumerate(events):
            try:
                if not self.connected:
                    raise Disconnected
                self._seal.send(event, self._transport.send)
            except Disconnected:
                self.counts.add("events_unsent", len(events) - sent)
                return sent
        return len(events)

    def stop(self) -> None:
        """Ends the thread, which closes the transport; waits for one attempt to connect at most."""
        self._stop_asked.set()
        self.join(15.0)

    def run(self) -> None:
        """Runs the thread; an exception is kept in `crashed` for the main thread to raise."""
        try:
            self._keep_connected()
        except BaseException as bug:  # noqa: BLE001 - handed to the main thread, which raises it
            self.crashed = bug

    def _keep_connected(self) -> None:
        delay, last_error = self._least, ""
        while not self._stop_asked.is_set():
            try:
                peer = self._transport.open()
            except TransportError as error:
                self.counts.add("connects_failed")
                if str(error) != last_error:
                    last_error = str(error)
                    self._notify(f"{last_error}; trying again")
                # Full jitter: many endpoints that lost one Zeek must not come back as one.
                self._stop_asked.wait(random.uniform(self._least / 2, delay))
                delay = min(2 * delay, self._most)
                continue
            if self._stop_asked.is_set():
                self._transport.close()
                return
            delay, last_error = self._least, ""
            self.counts.add("connects")
            self._notify(f"connected to {peer}")
            self._open.set()
            self.send(self._hello(self._transport.endpoint))
            due = self._clock() + _HEARTBEAT_SECONDS
            try:
                while not self._stop_asked.is_set():
                    if self._clock() >= due:
                        due = self._clock() + _HEARTBEAT_SECONDS
                        self.send(self._beat())
                    received = self._transport.receive(_POLL_SECONDS)
                    if received:
                        self._take_in(received)
            except Disconnected as lost:
                self.counts.add("disconnects")
                if not self._stop_asked.is_set():
                    self._notify(f"lost {peer}{f': {lost}' if str(lost) else ''}; reconnecting")
            finally:
                self._open.clear()
                self._transport.close()
            self._stop_asked.wait(random.uniform(0, self._least))

    def _take_in(self, received: Sequence[Received]) -> None:
        good, fault = self._seal.opened(received)
        if fault:
            # A stranger may send as much as he likes: one line for the first, the second, the fourth and so on.
            before, self._faults = self._faults, self._seal.counts.by_reason["message_not_authentic"]
            if before.bit_length() != self._faults.bit_length():
                self._notify(fault if not before else f"{fault} ({self._faults} such messages by now)")
        if good:
            self._inbox.put(good, self._clock())
            self.send(self._overhear(good))


def make_transport(endpoint: Endpoint, version: str) -> Transport:
    """The transport that `plugin.toml` names. Raises `TransportError` where it cannot work at all."""
    shard = Shard.parsed(endpoint.shard)
    if endpoint.transport == "broker":
        if shard.of > 1:
            raise TransportError(
                f'[endpoint] shard: found "{shard}" with transport = "broker"; shards hear of one another through the '
                'WebSocket alone: transport = "websocket"'
            )
        from cmdana_plugin.endpoint.broker import BrokerTransport

        return BrokerTransport(
            endpoint.broker_host, endpoint.broker_port, endpoint.topic_events,
            ssl=endpoint.broker_ssl, ca_file=endpoint.ca_file, cert_file=endpoint.cert_file,
            key_file=endpoint.key_file,
        )  # fmt: skip
    from cmdana_plugin.endpoint.websocket import WebSocketTransport

    return WebSocketTransport(
        endpoint.url, shard.topic(endpoint.topic_events), version,
        ca_file=endpoint.ca_file, cert_file=endpoint.cert_file, key_file=endpoint.key_file,
    )  # fmt: skip
