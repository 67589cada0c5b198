"""The roads on which events leave: a file, standard output, UDP, TCP, TLS, a Unix socket, HTTP. They decide nothing.

A road's `send` raises `Refused` for what will never be taken, and `OSError` for what may be later.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ipaddress
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import SplitResult, urlsplit

from cmdana_plugin import files
from cmdana_plugin.outputs.version import VERSION
from feature_extractors import CmdanaError

_TIMEOUT: Final = 10.0  # seconds for a connection, and for each answer
_MOST_ANSWER: Final = 65536  # bytes of an answer that are looked at
_MOST_WAIT: Final = 300.0  # seconds that a receiver may have us wait
_LATER: Final = frozenset({408, 425, 429, 500, 502, 503, 504})  # what a server says that cannot now
_SCHEMES: Final = ("udp", "tcp", "tls", "unix", "http", "https")
Frame = Callable[[bytes], bytes]


class Refused(Exception):
    """The receiver will not take this event, however often it is sent."""


class ReaderGone(Exception):
    """Nobody reads standard output any more."""


class Later(OSError):
    """The receiver cannot take anything now, and says for how many seconds."""

    def __init__(self, words: str, seconds: float) -> None:
        super().__init__(words)
        self.seconds = min(max(seconds, 0.0), _MOST_WAIT)


class Road(Protocol):
    """Where events go."""

    def send(self, event: bytes) -> None: ...

    def close(self) -> None: ...


class Lines:
    """Standard output, or a file that grows: one event a line."""

    def __init__(self, path: Path | None) -> None:
        self._file = files.Growing(path) if path else None

    def send(self, event: bytes) -> None:
        """Writes the event as a line."""
        if self._file:
            self._file.write(event + b"\n")
        else:
            try:
                sys.stdout.buffer.write(event + b"\n")
                sys.stdout.buffer.flush()
            except BrokenPipeError:
                raise ReaderGone from None

    def close(self) -> None:
        """Closes the file."""
        if self._file:
            self._file.close()


class Datagrams:
    """UDP, or a Unix socket of datagrams: one event each, and nobody says whether it has come."""

    def __init__(self, family: socket.AddressFamily, address: tuple[str, int] | str) -> None:
        self._family = family
        self._address = address
        self._socket: socket.socket | None = None

    def send(self, event: bytes) -> None:
        """Sends the event as one datagram."""
        try:
            if self._socket is None:
                self._socket = socket.socket(self._family, socket.SOCK_DGRAM)
                self._socket.settimeout(_TIMEOUT)
                self._socket.connect(self._address)
            self._socket.send(event)
        except OSError as error:
            self.close()
            if error.errno == _TOO_LONG:
                raise Refused(f"{len(event):,} bytes are more than a datagram holds") from None
            raise

    def close(self) -> None:
        """Closes the socket; the next event opens it anew."""
        if self._socket:
            self._socket.close()
            self._socket = None


_TOO_LONG: Final = 90  # EMSGSIZE


class Stream:
    """TCP or TLS, opened anew where it was lost; what was on the way then is lost, as is usual with syslog."""

    def __init__(self, address: tuple[str, int], tls: ssl.SSLContext | None, frame: Frame) -> None:
        self._address = address
        self._tls = tls
        self._frame = frame
        self._socket: socket.socket | None = None

    def send(self, event: bytes) -> None:
        """Sends the event in its frame."""
        try:
            if self._socket is not None and self._gone(self._socket):
                self.close()
            if self._socket is None:
                self._socket = self._opened()
            self._socket.sendall(self._frame(event))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Closes the connection; the next event opens it anew."""
        if self._socket:
            self._socket.close()
            self._socket = None

    def _opened(self) -> socket.socket:
        plain = socket.create_connection(self._address, timeout=_TIMEOUT)
        if self._tls is None:
            return plain
        try:
            return self._tls.wrap_socket(plain, server_hostname=self._address[0])
        except BaseException:
            plain.close()
            raise

    @staticmethod
    def _gone(s: socket.socket) -> bool:
        """Whether the receiver has closed: nobody answers in syslog, so what can be read is the end."""
        if not select.select([s], [], [], 0)[0]:
            return False
        s.setblocking(False)  # of TLS there may be something to read that is no data
        try:
            return s.recv(4096) == b""
        except (ssl.SSLWantReadError, BlockingIOError):
            return False
        finally:
            s.settimeout(_TIMEOUT)


class Posts:
    """HTTP or HTTPS: one event a request, signed where there is a key. Redirections are not followed.

    The signature is `sha256=` and the HMAC-SHA256, in hexadecimal, of the time (`X-Cmdana-Timestamp`, seconds since the
    epoch), a dot, and the body.
    """

    def __init__(
        self,
        url: SplitResult,
        tls: ssl.SSLContext | None,
        key: bytes | None,
        content_type: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._url = url
        self._tls = tls
        self._key = key
        self._type = content_type
        self._clock = clock

    def send(self, event: bytes) -> None:
        """Posts the event, and reads the answer."""
        host, port = self._url.hostname or "", self._url.port
        connection = (
            http.client.HTTPSConnection(host, port, timeout=_TIMEOUT, context=self._tls)
            if self._tls
            else http.client.HTTPConnection(host, port, timeout=_TIMEOUT)
        )
        path = (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")
        try:
            connection.request("POST", path, event, self._headers(event))
            answer = connection.getresponse()
            answer.read(_MOST_ANSWER)
        except http.client.HTTPException as error:
            raise OSError(f"no answer of HTTP: {type(error).__name__}") from None
        finally:
            connection.close()
        if answer.status in _LATER:
            raise Later(f"status {answer.status}", _seconds(answer.headers.get("Retry-After", "")))
        if not 200 <= answer.status < 300:
            raise Refused(f"status {answer.status}")

    def close(self) -> None:
        """Does nothing: each request has a connection of its own."""

    def _headers(self, event: bytes) -> dict[str, str]:
        headers = {"Content-Type": self._type, "User-Agent": f"cmdana/{VERSION}", "Connection": "close"}
        if self._key:
            stamp = str(int(self._clock()))
            digest = hmac.new(self._key, stamp.encode() + b"." + event, hashlib.sha256).hexdigest()
            headers |= {"X-Cmdana-Timestamp": stamp, "X-Cmdana-Signature": f"sha256={digest}"}
        return headers


def road_to(
    to: str, *, frame: Frame, content_type: str, key: bytes | None = None, ca_file: Path | None = None
) -> Road:
    """The road to `to`: "-", a file, or an address such as `tls://host:6514`. Raises `CmdanaError` for another."""
    if to == "-":
        return Lines(None)
    if "://" not in to:
        return Lines(Path(to))
    try:
        url = urlsplit(to)
        host, port = url.hostname, url.port
    except ValueError as error:
        raise CmdanaError(f"--to {to}: {error}") from None
    if url.scheme not in _SCHEMES:
        raise CmdanaError(
            f"--to {to}: found {url.scheme}://; expected a file, - or one of {', '.join(_SCHEMES)}"
        )
    if url.username is not None or url.fragment:
        raise CmdanaError(f"--to {to}: a user or a fragment is not taken there")
    if url.scheme == "unix":
        if url.netloc or not url.path:
            raise CmdanaError(f"--to {to}: expected unix:// and a path, such as unix:///dev/log")
        return Datagrams(socket.AF_UNIX, url.path)
    if not host:
        raise CmdanaError(f"--to {to}: found no host")
    if url.scheme in ("http", "https"):
        return Posts(url, _trust(ca_file) if url.scheme == "https" else None, key, content_type)
    if url.path not in ("", "/") or url.query:
        raise CmdanaError(f"--to {to}: found a path; {url.scheme}:// takes a host and a port")
    address = host, port if port is not None else _PORTS[url.scheme]
    if url.scheme == "udp":
        return Datagrams(socket.AF_INET6 if ":" in host else socket.AF_INET, address)
    return Stream(address, _trust(ca_file) if url.scheme == "tls" else None, frame)


def in_the_open(to: str) -> bool:
    """Whether events would go to another host without encryption."""
    if "://" not in to:
        return False
    url = urlsplit(to)
    if url.scheme not in ("udp", "tcp", "http"):
        return False
    try:
        return not ipaddress.ip_address(url.hostname or "").is_loopback
    except ValueError:
        return url.hostname != "localhost"


_PORTS: Final = {"udp": 514, "tcp": 601, "tls": 6514}


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise CmdanaError(f"--ca-file {ca_file}: {error.strerror or error}") from None


def _seconds(words: str) -> float:
    return float(words) if words.isascii() and words.isdigit() and len(words) < 6 else 0.0
