"""Message authentication by the secret that Zeek and the detector share (HMAC, RFC 2104).

A sealed payload is 64 hexadecimal digits of HMAC-SHA256 and then the message, a JSON object. The key depends on the
direction (to Zeek, from it, between detectors), and the event's name goes into the digest, so that no message passes
for one of another kind. Messages to Zeek and to other detectors are stamped with the instance of the detector and a
number that only grows; those of Zeek state the instance that they are meant for, its run and its own number
(`session.py`): what has been said once cannot be said again by another. The other half is `zeek_scripts/seal.zeek`.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Callable, Sequence
from typing import Final

from cmdana_plugin.endpoint.wire import EVIDENCE, OBSERVATIONS, WELCOME, Event, PeerError
from feature_extractors import Counts

DIGITS: Final = 64
_OURS: Final = frozenset((OBSERVATIONS, WELCOME, EVIDENCE))
_WHY: Final = (
    "is the secret there ([endpoint] secret_file) the one that Zeek has (CMDANA::secret_file), or does somebody else "
    "publish there?"
)


class Seal:
    """Authenticates messages to and from Zeek; without a secret it numbers them only, and accepts everybody's."""

    def __init__(self, secret: bytes | None, instance: str) -> None:
        self.instance = instance
        self.counts = Counts()
        self._to_zeek = _keyed(secret, b"cmdana detector") if secret else None
        self._from_zeek = _keyed(secret, b"cmdana zeek") if secret else None
        self._between = _keyed(secret, b"cmdana evidence") if secret else None
        self._n = 0
        self._lock = threading.Lock()

    def send(self, event: Event, send: Callable[[Event], None]) -> None:
        """Sends the event, numbered and authenticated; thread-safe, numbers go out in their order."""
        with self._lock:
            self._n += 1
            payload = f'{event.payload[:-1]},"instance":"{self.instance}","n":{self._n}}}'
            key = self._between if event.name == EVIDENCE else self._to_zeek
            if key is not None:
                payload = _digest(key, event.name, payload.encode()) + payload
            send(Event(event.topic, event.name, payload))

    def opened(self, received: Sequence[Event | PeerError]) -> tuple[list[Event | PeerError], str]:
        """The authentic events among those received, stripped of their seal, and the first fault in words ("" none).

        Runs before anything else looks at what came, so that a stranger's messages take no place in a queue.
        """
        if self._from_zeek is None:
            return self._plain(received)
        good: list[Event | PeerError] = []
        fault = ""
        for event in received:
            if not isinstance(event, Event) or event.name not in _OURS:
                good.append(event)
                continue
            body = self._body(event)
            if body is None:
                self.counts.add("message_not_authentic")
                fault = fault or f"{event.topic}: a message is not authentic; {_WHY}"
            else:
                good.append(Event(event.topic, event.name, body))
        return good, fault

    def _body(self, event: Event) -> str | None:
        given, body = event.payload[:DIGITS], event.payload[DIGITS:]
        try:
            content = body.encode()
            mark = given.encode("ascii")
        except UnicodeEncodeError:  # a lone surrogate, which Zeek does not write
            return None
        key = self._between if event.name == EVIDENCE else self._from_zeek
        wanted = _digest(key, event.name, content)
        return body if hmac.compare_digest(wanted.encode(), mark) else None

    def _plain(self, received: Sequence[Event | PeerError]) -> tuple[list[Event | PeerError], str]:
        good: list[Event | PeerError] = []
        fault = ""
        for event in received:
            if isinstance(event, Event) and event.name in _OURS and not event.payload.startswith("{"):
                self.counts.add("message_not_authentic")
                fault = fault or (
                    f"{event.topic}: a message is sealed or no JSON object, and [endpoint] authentication is "
                    '"none"; is CMDANA::authentication "none" too?'
                )
            else:
                good.append(event)
        return good, fault


def sealed_by_zeek(secret: bytes, event: Event) -> Event:
    """The event as a Zeek with this secret publishes it; for a stand-in of Zeek."""
    mark = _digest(_keyed(secret, b"cmdana zeek"), event.name, event.payload.encode())
    return Event(event.topic, event.name, mark + event.payload)


def opened_by_zeek(secret: bytes, event: Event) -> Event | None:
    """The event as a Zeek with this secret reads it, None where it refuses it; for a stand-in of Zeek."""
    body = event.payload[DIGITS:]
    wanted = _digest(_keyed(secret, b"cmdana detector"), event.name, body.encode())
    return Event(event.topic, event.name, body) if wanted == event.payload[:DIGITS] else None


def _keyed(secret: bytes | None, direction: bytes) -> hmac.HMAC:
    assert secret
    return hmac.new(hmac.digest(secret, direction, hashlib.sha256), digestmod=hashlib.sha256)


def _digest(keyed: hmac.HMAC | None, name: str, content: bytes) -> str:
    assert keyed is not None
    mark = keyed.copy()
    mark.update(name.encode())
    mark.update(content)
    return mark.hexdigest()
