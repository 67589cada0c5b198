"""The other side of each transport, on real parts: a WebSocket server with Zeek's protocol, and a Broker endpoint."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from cmdana_plugin.endpoint.live import Live
from cmdana_plugin.endpoint.seal import DIGITS, opened_by_zeek, sealed_by_zeek
from cmdana_plugin.endpoint.wire import (
    ALIVE,
    EVIDENCE,
    OBSERVATIONS,
    WELCOME,
    WIRE_VERSION,
    Event,
    decode_frame,
    encode_frame,
)

ACK = {"type": "ack", "endpoint": "a3587bce-websocket-0", "version": "8.2.2"}
REFUSED = {"type": "error", "code": "deserialization_failed", "context": "failed to create Zeek event"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(0.01)


def step(live: Live, timeout: float) -> None:
    """One micro-batch judged and answered, where anything comes in time."""
    asked = itertools.count()
    for _ in live.judged(timeout, lambda: next(asked) > 0):
        pass


def instance_of(peer: Any) -> str:
    """The detector that said hello last; waits for it."""
    said: list[str] = []

    def hello() -> bool:
        said.extend(e.payload for e in list(peer.received) if e.name == ALIVE)
        return bool(said)

    wait_for(hello, "the hello", 300)
    return json.loads(said[-1])["instance"]


def welcome(
    instance: str,
    *,
    n: int = 1,
    run: str = "run-1",
    accepted: bool = True,
    topic: str = "observations",
    **more: Any,
) -> Event:
    words = {"v": WIRE_VERSION, "node": "zeek", "run": run, "zeek": "8.2.2", "accepted": accepted, "why": "",
             "to": instance, "n": n, "parted": False}  # fmt: skip
    return Event(topic, WELCOME, json.dumps(words | more))


class WebSocketPeer:
    """Zeek's WebSocket API as the recorded frames show it: subscription, ack, data-messages, errors.

    What detectors tell one another it passes on, as Zeek does.

    With a secret it seals what it publishes and keeps of what it receives only what is sealed, without the seal.
    """

    def __init__(
        self, known: tuple[str, ...] = ("CMDANA::verdicts", "CMDANA::alive"), secret: bytes | None = None
    ) -> None:
        self.secret = secret
        self.sealed: list[Event] = []  # what came, as it came
        self.port = free_port()
        self.received: list[Event] = []
        self.passed_on: list[Event] = []
        self.headers: list[str] = []
        self._known = known
        self._server: Server | None = None
        self._clients: dict[ServerConnection, list[str]] = {}

    def start(self, tls: ssl.SSLContext | None = None) -> None:
        self._server = serve(self._talk, "127.0.0.1", self.port, ssl=tls, max_size=None, ping_interval=None)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self.drop()
            self._server.shutdown()
            self._server = None

    def drop(self) -> None:
        for client in list(self._clients):
            # No goodbye, as of a Zeek that was killed.
            with contextlib.suppress(OSError):
                client.socket.shutdown(socket.SHUT_RDWR)
        wait_for(lambda: not self._clients, "the clients to be gone")

    def subscribed(self) -> bool:
        return bool(self._clients)

    def publish(self, event: Event) -> None:
        if self.secret and event.name in (OBSERVATIONS, WELCOME):
            event = sealed_by_zeek(self.secret, event)
        self.publish_as_it_is(event)

    def publish_as_it_is(self, event: Event) -> None:
        self.send_raw(encode_frame(event).encode(), event.topic)

    def publish_foreign(self, topic: str) -> None:
        frame = json.loads(encode_frame(Event(topic, "Some::other", "x")))
        frame["data"][2]["data"][1]["data"] = [{"@data-type": "count", "data": 1}] * 2
        self.send_raw(json.dumps(frame).encode(), topic)

    def send_raw(self, frame: bytes, topic: str) -> None:
        for client, topics in list(self._clients.items()):
            if any(topic.startswith(t) for t in topics):
                client.send(frame, text=True)

    def _talk(self, client: ServerConnection) -> None:
        assert client.request is not None
        self.headers.append(client.request.headers.get("X-Application-Name", ""))
        topics = json.loads(client.recv())
        client.send(json.dumps(ACK))
        self._clients[client] = topics
        try:
            while True:
                event = decode_frame(client.recv(decode=False))
                if isinstance(event, Event) and event.name == EVIDENCE:
                    self.passed_on.append(event)
                    self.publish_as_it_is(event)
                elif isinstance(event, Event) and event.name in self._known:
                    self.sealed.append(event)
                    opened = opened_by_zeek(self.secret, event) if self.secret else event
                    assert opened is not None, f"not sealed: {event.payload[: DIGITS + 20]}"
                    self.received.append(opened)
                else:
                    client.send(json.dumps(REFUSED))
        except ConnectionClosed:
            pass
        finally:
            del self._clients[client]


class Relay:
    """A cable to a port on loopback that can be cut; what connects afterwards gets a new one."""

    def __init__(self, to: int) -> None:
        program = Path(__file__).with_name("relay.py")
        self._process = subprocess.Popen(
            [sys.executable, program, str(to)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def cut(self) -> None:
        self._process.send_signal(signal.SIGUSR1)

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


class BrokerPeer:
    """A Broker endpoint that listens, as Zeek does with `listen-broker`."""

    def __init__(self, broker: Any) -> None:
        self._own_port = free_port()
        self._relay = Relay(self._own_port)
        self.port = self._relay.port
        self.received: list[Event] = []
        self._broker = broker
        self._endpoint: Any = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        options = self._broker.BrokerOptions()
        options.disable_ssl = True
        self._endpoint = self._broker.Endpoint(self._broker.Configuration(options))
        self._subscriber = self._endpoint.make_subscriber("verdicts", 1000)
        assert self._endpoint.listen("127.0.0.1", self._own_port) == self._own_port
        self._stop.clear()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._endpoint.shutdown()
            self._relay.stop()
            self._thread = self._endpoint = self._subscriber = None

    def drop(self) -> None:
        self._relay.cut()
        wait_for(lambda: not self._endpoint.peers(), "the peer to be gone")

    def subscribed(self) -> bool:
        return bool(self._endpoint.peers())

    def publish(self, event: Event) -> None:
        self._endpoint.publish(event.topic, self._broker.zeek.Event(event.name, event.payload))

    def publish_foreign(self, topic: str) -> None:
        self._endpoint.publish(topic, self._broker.zeek.Event("Some::other", 1, 2))

    def _read(self) -> None:
        while not self._stop.wait(0.01):
            if self._subscriber.available():
                for topic, data in self._subscriber.poll():
                    event = self._broker.zeek.Event(data)
                    self.received.append(Event(topic, event.name(), event.args()[0]))


@contextlib.contextmanager
def running(peer: Any) -> Iterator[Any]:
    peer.start()
    try:
        yield peer
    finally:
        peer.stop()
