"""Zeek's WebSocket API (`/v1/messages/json`) as a transport: ws or wss, frames as bytes."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import ssl
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from websockets.exceptions import WebSocketException
from websockets.frames import Frame, Opcode
from websockets.protocol import Event as WebSocketEvent
from websockets.sync.client import ClientConnection, connect

from cmdana_plugin.endpoint.transport import Disconnected, Received, TransportError
from cmdana_plugin.endpoint.wire import MAX_PAYLOAD, Event, WireError, decode_ack, decode_frame, encode_frame

# The library logs a lost connection with a traceback; we tell it in one line.
_SILENT: Final = logging.getLogger("cmdana.websockets")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False
_NO_TLS: Final = (
    "; does Zeek offer TLS here (CMDANA::websocket_cert_file), or is it ws://? does it ask for a certificate "
    "(CMDANA::websocket_ca_file; ours is [endpoint] cert_file and key_file)?"
)
_OPEN_SECONDS: Final = 10.0  # seconds
_MAX_FRAMES_AT_ONCE: Final = 64  # frames given by one receive
_MAX_FRAGMENTS: Final = 1024  # of one message; Zeek cuts one into pieces of 32 KiB
_PING_SECONDS: Final = 10.0  # seconds; a cut network is noticed after two of them


class WebSocketTransport:
    """A client of Zeek's WebSocket server, subscribed to one topic prefix.

    A frame that is no message of Zeek's is a bad peer: it is counted in `refused_frames` and passed over.
    """

    endpoint = ""

    def __init__(
        self, url: str, topic: str, version: str, *, ca_file: str = "", cert_file: str = "", key_file: str = "",
        name: str = "cmdana",
    ) -> None:  # fmt: skip
        """`name` and `version` are what Zeek writes of the client in cluster.log."""
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise TransportError(
                f"[endpoint] url: found {url!r}; expected ws://HOST:PORT/v1/messages/json or wss://"
            )
        self._url = url
        self._topic = topic
        self._client = f"{name}/{version}"
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "wss" else 80)
        self._tls = _tls(ca_file, cert_file, key_file) if parts.scheme == "wss" else None
        self._connection: ClientConnection | None = None
        self._stack = contextlib.ExitStack()
        self.refused_frames = 0

    def open(self) -> str:
        """Connects, subscribes, and waits for Zeek's acknowledgement; the endpoint's id and version. Raises
        `TransportError`.
        """
        try:
            sock = socket.create_connection((self._host, self._port), timeout=_OPEN_SECONDS)
        except OSError as error:
            raise TransportError(
                f"{self._url}: nobody listens there ({error.strerror or error}); "
                "does Zeek run, and does it load cmdana/listen-websocket?"
            ) from None
        stack = contextlib.ExitStack()
        try:
            # A socket of our own keeps an http_proxy of the environment out of the way to our own Zeek.
            connection = stack.enter_context(
                connect(
                    self._url, sock=sock, ssl=self._tls, compression=None, max_size=MAX_PAYLOAD,
                    open_timeout=_OPEN_SECONDS, close_timeout=2.0, ping_interval=_PING_SECONDS,
                    ping_timeout=_PING_SECONDS, logger=_SILENT,
                    additional_headers={"X-Application-Name": self._client},
                    create_connection=_Bounded,
                )
            )  # fmt: skip
        except ssl.SSLError as error:
            sock.close()
            hint = "" if isinstance(error, ssl.SSLCertVerificationError) else _NO_TLS
            raise TransportError(f"{self._url}: TLS fails: {_words(error)}{hint}") from None
        except (WebSocketException, EOFError, TimeoutError, OSError) as error:
            sock.close()
            hint = _NO_TLS if self._tls else "; does Zeek expect TLS here (wss://)?"
            raise TransportError(
                f"{self._url}: no WebSocket handshake: {error or 'no answer'}{hint}"
            ) from None
        try:
            connection.send(json.dumps([self._topic]))
            self.endpoint, zeek = decode_ack(_bytes(connection, _OPEN_SECONDS))
        except (WireError, WebSocketException, TimeoutError, OSError) as error:
            with contextlib.suppress(WebSocketException, OSError):
                connection.close()
            raise TransportError(
                f"{self._url}: Zeek does not acknowledge us: {error or 'no answer'}"
            ) from None
        self._connection, self._stack = connection, stack
        return f"Zeek {zeek} at {self._url} (as {self.endpoint})"

    def receive(self, timeout: float) -> Sequence[Received]:
        """The events and errors in the frames received within `timeout` seconds. Raises `Disconnected`."""
        connection = self._connection
        if connection is None:
            raise Disconnected
        received: list[Received] = []
        try:
            while len(received) < _MAX_FRAMES_AT_ONCE:
                frame = _bytes(connection, 0 if received else timeout)
                try:
                    event = decode_frame(frame)
                except WireError:
                    self.refused_frames += 1
                    continue
                if event is not None:
                    received.append(event)
        except TimeoutError:
            pass
        except (WebSocketException, OSError) as closed:
            if not received:
                raise Disconnected(str(closed)) from None
        return received

    def send(self, event: Event) -> None:
        """Sends one event as a text frame. Raises `Disconnected`."""
        connection = self._connection
        if connection is None:
            raise Disconnected
        try:
            connection.send(encode_frame(event))
        except (WebSocketException, OSError) as closed:
            raise Disconnected(str(closed)) from None

    def close(self) -> None:
        """Closes the connection (RFC 6455, 7); waits at most two seconds for Zeek's close frame."""
        self._connection = None
        with contextlib.suppress(WebSocketException, OSError):
            self._stack.close()


def _bytes(connection: ClientConnection, timeout: float) -> bytes:
    frame = connection.recv(timeout=timeout, decode=False)
    return frame if isinstance(frame, bytes) else frame.encode("utf-8", "surrogateescape")


class _Bounded(ClientConnection):
    """Cuts off a peer that never ends a message: fragments of no bytes are no part of the library's bound."""

    _fragments = 0

    def process_event(self, event: WebSocketEvent) -> None:
        if isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._fragments = 0 if event.fin else self._fragments + 1
            if self._fragments > _MAX_FRAGMENTS:
                with contextlib.suppress(OSError):
                    self.socket.shutdown(socket.SHUT_RDWR)
                return
        super().process_event(event)


def _tls(ca_file: str, cert_file: str, key_file: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise TransportError(
            f"[endpoint] ca_file: {ca_file}: found {_words(error)}; expected a PEM file of certificates"
        ) from None
    if bool(cert_file) != bool(key_file):
        found, absent = ("cert_file", "key_file") if cert_file else ("key_file", "cert_file")
        raise TransportError(f"[endpoint] {found}: found without {absent}; a client certificate needs both")
    if cert_file:
        try:
            context.load_cert_chain(cert_file, key_file, password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise TransportError(
                f"[endpoint] cert_file, key_file: {cert_file}, {key_file}: found {_words(error)}; expected a PEM "
                "certificate and its key without a password"
            ) from None
    return context


def _no_password() -> str:
    """In place of OpenSSL's question at the terminal."""
    return ""


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
