"""Originators shared out among detectors by a keyed hash, and what the detectors tell one another of responders.

Every host belongs to one shard: its connections as an originator are told to that shard's detector alone, and what
speaks against it as a responder is told by the others to that one. The other half is `CMDANA::part_of` in
`zeek_scripts/seal.zeek`.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.decision import MOST, Seen, Verdict
from cmdana_plugin.endpoint.wire import (
    EVIDENCE,
    MAX_NUMBER,
    MAX_TEXT,
    WIRE_VERSION,
    Event,
    dump,
    message_of,
    natural,
    refused,
    typed,
    word,
)
from feature_extractors import address_texts

_BLOCK_BYTES: Final = 64  # of SHA-256
_PAD: Final = 0x36  # as of an HMAC's inner digest
_MAX_KNOWN: Final = 65_536  # addresses whose shard is remembered
MAX_ROWS: Final = 256  # connections in one message


class Shares:
    """The shard of each address, of `shards` under a secret; without one, of everybody's knowledge."""

    def __init__(self, shards: int, secret: bytes | None) -> None:
        self.shards = shards
        key = (
            hmac.digest(secret, b"cmdana shards", hashlib.sha256).ljust(_BLOCK_BYTES, b"\0")
            if secret
            else b""
        )
        self._keyed = hashlib.sha256(bytes(byte ^ _PAD for byte in key))
        self._known: dict[bytes, int] = {}

    def of(self, address: str) -> int:
        """The shard, 1 to `shards`, of an address in Zeek's words."""
        digest = self._keyed.copy()
        digest.update(address.encode())
        return int.from_bytes(digest.digest()[:4], "big") % self.shards + 1

    def of_all(self, addresses: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The shards [n] of addresses [n, 16]."""
        if len(self._known) > _MAX_KNOWN:
            self._known.clear()
        rows = [row.tobytes() for row in addresses]
        new = [i for i, row in enumerate(rows) if row not in self._known]
        for i, text in zip(new, address_texts(addresses[new]), strict=True):
            self._known[rows[i]] = self.of(text)
        return np.array([self._known[row] for row in rows], np.int64)


@dataclass(frozen=True, slots=True)
class Shard:
    """One of so many: its number from 1 on."""

    number: int = 1
    of: int = 1

    @classmethod
    def parsed(cls, text: str) -> Shard:
        """The shard that `[endpoint] shard` names; "" is all there is."""
        number, _, of = text.partition("/")
        return cls(int(number), int(of)) if text else cls()

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def name(self) -> str:
        """Of its state's file; "" for the only one."""
        return f"shard-{self.number}-of-{self.of}" if self.of > 1 else ""

    def topic(self, topic_events: str) -> str:
        """On which its detector listens; none is the beginning of another's."""
        return f"{topic_events}/{self}" if self.of > 1 else topic_events


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one detector tells another: odd connections whose responders are the other's."""

    instance: str  # of the one that tells
    n: int  # grows with each message of it
    to: str  # the instance that it is meant for
    seen: Sequence[Seen]


def encode_evidence(
    seen: Sequence[Seen], shares: Shares, topic_events: str, detectors: Mapping[int, str]
) -> tuple[list[Event], int]:
    """The events by which others are told of connections to their responders, and how many connections there is nobody
    to be told of; `detectors` are the instances by shard.
    """
    by_shard: defaultdict[int, list[Seen]] = defaultdict(list)
    for s in seen:
        by_shard[shares.of(s.verdict.resp_h)].append(s)
    events, untold = [], 0
    for number, some in sorted(by_shard.items()):
        if not detectors.get(number):
            untold += len(some)
            continue
        topic = Shard(number, shares.shards).topic(topic_events)
        for begin in range(0, len(some), MAX_ROWS):
            # JSON has named tuples as lists.
            body = {"v": WIRE_VERSION, "to": detectors[number], "seen": some[begin : begin + MAX_ROWS]}
            events.append(Event(topic, EVIDENCE, dump(body)))
    return events, untold


def decode_evidence(payload: str) -> Evidence:
    """What a payload tells. Raises `WireError` where something in it cannot be."""
    message = message_of(EVIDENCE, payload)
    rows = typed(message, "seen", list)
    if len(rows) > MAX_ROWS:
        raise refused("seen", f"{len(rows)} connections", f"at most {MAX_ROWS}")
    return Evidence(
        word(message, "instance"), natural(message, "n"), word(message, "to"), [_seen(row) for row in rows]
    )


def _seen(row: Any) -> Seen:
    # By hand: `decision.made` takes four times as long, and every shard does this for all others.
    if (
        type(row) is not list
        or len(row) != len(_SEEN)
        or type(row[0]) is not list
        or len(row[0]) != len(_VERDICT)
    ):
        raise refused("seen", row, "a connection")
    for names, kinds, values in ((Verdict._fields, _VERDICT, row[0]), (Seen._fields[1:], _SEEN[1:], row[1:])):
        for name, kind, value in zip(names, kinds, values, strict=True):
            if type(value) not in kind:
                raise refused(name, value, "a connection's")
            if type(value) is list and not all(type(word) is str for word in value):
                raise refused(name, value, "words")
    v = Verdict._make(tuple(value) if type(value) is list else value for value in row[0])
    s = Seen._make([v, *(tuple(value) if type(value) is list else value for value in row[1:])])
    numbers = (
        v.ts,
        v.score,
        v.p_value,
        v.threshold,
        *v[14:18],
        s.end,
        s.bits,
        s.sent,
        s.got,
        s.accepted,
        s.refused,
    )
    if not all(-MAX_NUMBER < x < MAX_NUMBER for x in numbers):
        raise refused("seen", row, "finite numbers")
    if not 0.0 <= s.evidence <= MOST:
        raise refused("evidence", s.evidence, f"0..{MOST}")
    if not (_is_address(v.orig_h) and _is_address(v.resp_h)):
        raise refused("seen", row, "a connection between two addresses")
    texts = (
        v.uid,
        v.proto,
        v.service or "",
        v.community_id,
        v.verdict,
        v.model,
        *v.reasons,
        s.domain,
        *(s.asked or ()),
    )
    ports = 0 <= v.orig_p <= 65535 >= v.resp_p >= 0
    if (
        max(map(len, texts)) > MAX_TEXT
        or len(v.reasons) > _MAX_REASONS
        or not ports
        or len(s.asked or "123") != 3
    ):
        raise refused("seen", row, "texts and ports of a connection")
    return s


def _kinds(of: type) -> list[frozenset[type]]:
    """The types in which JSON has the fields of a named tuple."""
    out = []
    for kind in get_type_hints(of).values():
        each = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        plain = {list if get_origin(k) is tuple or hasattr(k, "_fields") else k for k in each}
        out.append(frozenset(plain | ({int} if float in plain else set())))
    return out


@lru_cache(maxsize=65_536)
def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


_MAX_REASONS: Final = 20
_VERDICT: Final = _kinds(Verdict)
_SEEN: Final = _kinds(Seen)
