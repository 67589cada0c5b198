"""Broker's Python bindings as a transport: those of Zeek's own build, or Debian's `python3-broker`.

Bindings and Zeek must be of one Broker version: the bindings of the same Zeek are the safe choice. The package
named `broker` on the public index is another thing, and is recognised.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import select
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from cmdana_plugin.endpoint.transport import Disconnected, Received, TransportError
from cmdana_plugin.endpoint.wire import Event

_PLACES: Final = (
    "/usr/local/zeek/lib/zeek/python",
    "/opt/zeek/lib/zeek/python",
    "/usr/lib/zeek/python",
    "/usr/lib/python3/dist-packages",
)
_QUEUE_MESSAGES: Final = 4096  # messages that Broker holds for us; we drain it at once into our own
_CONNECT_SECONDS: Final = 10.0  # seconds for a handshake
_POLL_SECONDS: Final = 0.05  # seconds from one look at it to the next
_UNPEER_SECONDS: Final = 2.0  # that leaving a peer may take


def bindings() -> ModuleType:
    """The module `broker`, from where Python looks or from the usual places. Raises `TransportError`."""
    try:
        module = importlib.import_module("broker")
    except ImportError:
        module = _from_usual_places()
    if not hasattr(module, "Endpoint"):
        raise TransportError(
            f"[endpoint] transport = \"broker\": found another package named 'broker' in {module.__file__}; "
            "expected Broker's Python bindings: uninstall that one and put Zeek's lib/zeek/python on PYTHONPATH"
        )
    return module


class BrokerTransport:
    """A Broker endpoint that peers with one Zeek and subscribes to one topic prefix."""

    endpoint = ""

    def __init__(
        self, host: str, port: int, topic: str, *, ssl: bool = True, ca_file: str = "", cert_file: str = "",
        key_file: str = "",
    ) -> None:  # fmt: skip
        files = {"ca_file": ca_file, "cert_file": cert_file, "key_file": key_file}
        if any(files.values()) and not all(files.values()):
            # With an authority and no certificate of its own, Broker ends the whole process.
            raise TransportError(
                f"[endpoint] {', '.join(name for name, path in files.items() if path)}: found without "
                f"{' and '.join(name for name, path in files.items() if not path)}; Broker needs all three, or none"
            )
        for name, path in files.items():
            if path and not Path(path).is_file():
                raise TransportError(f"[endpoint] {name}: found no file {path}; expected a PEM file")
        self._broker: Any = bindings()
        self._host = host
        self._port = port
        self._topic = topic
        self._ssl = ssl
        self._files = files
        self._endpoint: Any = None
        self._subscriber: Any = None
        self._status: Any = None
        self._parked: tuple[Any, Any, Any] | None = (
            None  # an endpoint that lost its peer, and its subscribers
        )
        self._lost = False
        self._ever_lost = False  # the endpoint, before this peering
        self._lock = threading.Lock()

    def open(self) -> str:
        """Peers and subscribes; the peer's address.

        Broker reconnects by itself only while open; we close and open anew instead.
        """
        endpoint, subscriber, status = self._parked or self._made()
        if not self._peered(endpoint, status):
            where = f"{self._host}:{self._port}"
            if self._parked is None:
                endpoint.shutdown()
            tls = "on" if self._ssl else "off"
            raise TransportError(
                f"broker {where}: no peering; does Zeek run there with cmdana/listen-broker, is TLS ({tls} here, "
                "[endpoint] broker_ssl) the same as its Broker::disable_ssl, and do its certificates "
                "(Broker::ssl_cafile and kin) and [endpoint] ca_file, cert_file and key_file belong together?"
            )
        with self._lock:
            self._endpoint, self._subscriber, self._status = endpoint, subscriber, status
            self._lost, self._parked = False, None
        return f"Broker {self._broker.Version.string()} peer at {self._host}:{self._port}"

    def _made(self) -> tuple[Any, Any, Any]:
        """An endpoint, its subscriber and its status."""
        broker = self._broker
        options = broker.BrokerOptions()
        options.disable_ssl = not self._ssl
        configuration = broker.Configuration(options)
        if self._files["ca_file"]:
            configuration.openssl_cafile = self._files["ca_file"]
        if self._files["cert_file"]:
            configuration.openssl_certificate = self._files["cert_file"]
            configuration.openssl_key = self._files["key_file"]
        endpoint = broker.Endpoint(configuration)
        make = getattr(endpoint, "make_safe_subscriber", endpoint.make_subscriber)
        subscriber = make(self._topic, _QUEUE_MESSAGES)
        status = getattr(endpoint, "make_safe_status_subscriber", endpoint.make_status_subscriber)(True)
        return endpoint, subscriber, status

    def receive(self, timeout: float) -> Sequence[Received]:
        """The events that have come within `timeout` seconds. Waits on the descriptor: `get` would hold the GIL."""
        with self._lock:
            subscriber, status = self._subscriber, self._status
        if subscriber is None:
            raise Disconnected
        select.select([subscriber.fd(), status.fd()], [], [], timeout)
        if status.available() and any(map(self._is_loss, status.poll())):
            self._lost = True
        received: list[Received] = []
        if subscriber.available():
            for topic, data in subscriber.poll():
                event = self._event(topic, data)
                if event is not None:
                    received.append(event)
        if self._lost and not received:
            raise Disconnected("the peer is gone")
        return received

    def send(self, event: Event) -> None:
        """Publishes one Zeek event. Raises `Disconnected`."""
        with self._lock:
            if self._endpoint is None or self._lost:
                raise Disconnected
            self._endpoint.publish(event.topic, self._broker.zeek.Event(event.name, event.payload))

    def close(self) -> None:
        """Closes the endpoint; what was published before is delivered first.

        An endpoint that has ever lost its peer is kept for the next `open`: to shut it down may wait for ever for an
        actor that does not end (seen with Broker 1.4), and holds the interpreter's lock meanwhile.
        """
        with self._lock:
            endpoint, kept = self._endpoint, (self._endpoint, self._subscriber, self._status)
            self._endpoint = self._subscriber = self._status = None
        if endpoint is None:
            return
        if not (self._lost or self._ever_lost):
            endpoint.shutdown()
            return
        if not self._ever_lost:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(endpoint))  # nor may the interpreter's end destroy it
        self._ever_lost, self._parked = True, kept
        if not self._lost:
            endpoint.unpeer_nosync(self._host, self._port)
            deadline = time.monotonic() + _UNPEER_SECONDS
            while endpoint.peers() and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)

    def _peered(self, endpoint: Any, status: Any) -> bool:
        """Waits for the handshake, not longer than `_CONNECT_SECONDS`.

        `Endpoint.peer` would wait for ever for a peer that accepts the connection and says nothing, and hold the
        interpreter's lock meanwhile, so that nothing else in the process would go on either.
        """
        if status.available():
            status.poll()  # of an earlier peer
        endpoint.peer_nosync(self._host, self._port, 0.0)
        deadline = time.monotonic() + _CONNECT_SECONDS
        while time.monotonic() < deadline:
            if any(peer.status == self._broker.PeerStatus.Peered for peer in endpoint.peers()):
                return True
            select.select([status.fd()], [], [], _POLL_SECONDS)
            if status.available() and any(map(self._is_loss, status.poll())):
                return False
        return False

    def _event(self, topic: str, data: object) -> Event | None:
        broker = self._broker
        make = getattr(broker.zeek, "SafeEvent", broker.zeek.Event)
        event = make(data)
        valid = getattr(event, "valid", None)
        if valid is not None and not valid():
            return None
        arguments = event.args()
        if len(arguments) != 1:
            return None
        payload = arguments[0]
        if isinstance(payload, bytes):
            payload = payload.decode("utf-8", "backslashreplace")
        return Event(topic, event.name(), payload) if isinstance(payload, str) else None

    def _is_loss(self, status: Any) -> bool:
        code = status.code()
        return code in (self._broker.SC.PeerLost, self._broker.SC.PeerRemoved) or isinstance(
            status, self._broker.Error
        )


def _from_usual_places() -> ModuleType:
    for place in _PLACES:
        init = Path(place) / "broker" / "__init__.py"
        if not init.is_file():
            continue
        # Only this one package from there: the whole folder would shadow the installed ones.
        spec = importlib.util.spec_from_file_location(
            "broker", init, submodule_search_locations=[str(init.parent)]
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["broker"] = module
        try:
            spec.loader.exec_module(module)
        except ImportError:
            del sys.modules["broker"]  # made for another Python
            continue
        return module
    raise TransportError(
        '[endpoint] transport = "broker": found no Python bindings of Broker; expected those of your Zeek '
        '(PYTHONPATH=$(zeek-config --python_dir)) or Debian\'s python3-broker; or use transport = "websocket"'
    )
