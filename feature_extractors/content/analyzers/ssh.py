"""SSH until its keys are exchanged: versions, negotiated algorithms, the host key, and fingerprints of both sides.

Mirrors src/analyzer/protocol/ssh/*.pac, SSH.cc and scripts/base/protocols/ssh/main.zeek of Zeek 8.2.2. Beside Zeek's
fields an entry has `hassh` and `hassh_server` (Salesforce HASSH, BSD-3-Clause). Whether a login worked is guessed as
Zeek guesses it, from the lengths of the first encrypted packets.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from typing import ClassVar, Final

from feature_extractors.content.analyzers.base import (
    NEVER,
    Analyzer,
    Fields,
    Framed,
    ParseError,
    Reader,
    Session,
    text,
)

MAX_PACKET: Final = 256 * 1024  # bytes of one packet before the keys are exchanged
_NEWKEYS, _KEXINIT = 21, 20
_ENCRYPTED_WATCHED: Final = 30  # encrypted segments of the server after which no login is awaited

_BANNER: Final = re.compile(rb"\n?SSH-", re.I)

_Offer = list[list[bytes]]


class Ssh(Analyzer):
    """SSH (RFC 4253): one connection, until its keys are exchanged."""

    service: ClassVar[str] = "ssh"
    needs_start: ClassVar[bool] = True

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._streams = (Framed(MAX_PACKET), Framed(MAX_PACKET))
        self._banners: list[bytes | None] = [None, None]
        self._offers: list[_Offer | None] = [None, None]
        self._keyed = [False, False]
        self._entry: Fields | None = None
        self._ts = 0.0
        self._encrypted = 0
        self._service_accept = 0
        self._failure = 0
        self._attempts = 0
        self._client_spoke = False
        self._first_version = False
        self._skipped_banner = False

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        self._ts = ts
        if self._keyed[is_orig]:
            self._encrypted_segment(is_orig, len(data))
            return
        stream = self._streams[is_orig]
        stream.feed(data)
        if self._banners[is_orig] is None and not self._banner(is_orig, stream):
            return
        while (head := stream.peek(6)) is not None:
            if self._first_version:
                self._packet1(is_orig, head, stream)
                return
            length = int.from_bytes(head[:4], "big")
            if not 2 <= length <= MAX_PACKET - 4:
                raise ParseError("packet_too_long")
            packet = stream.take(4 + length)
            if packet is None:
                return
            # Padding may take the type as well; mypyc cuts nothing backwards.
            end = max(len(packet) - packet[4], 6)
            self._packet(is_orig, packet[5], packet[6:end])
            if self._keyed[is_orig]:
                left = stream.rest()
                if left:
                    self._encrypted_segment(is_orig, len(left))
                return

    def skip(self, is_orig: bool) -> int:
        return NEVER if self.done else 0

    def _log(self) -> Fields:
        if self._entry is None:
            self._entry = self.session.log("ssh", self._ts, {"auth_attempts": 0})
        return self._entry

    def _banner(self, is_orig: bool, stream: Framed) -> bool:
        """Reads lines until one is the version; true once it is there."""
        if not is_orig:
            stream.past_lines(_BANNER)
        while (said := stream.line(4096)) is not None:
            line = said.rstrip(b"\r\n")
            if line[:4].upper() == b"SSH-":
                self._banners[is_orig] = line
                entry = self._log()
                entry["client" if is_orig else "server"] = text(line, 512)
                self._version(entry)
                return True
            if is_orig:
                raise ParseError("no_banner")
        return False

    def _version(self, entry: Fields) -> None:
        server, client = self._banners
        if not server or not client or len(server) < 5 or len(client) < 5:
            return
        spoken = [{1, 2} if banner[4:8] == b"1.99" else {banner[4] - 48} for banner in (server, client)]
        common = spoken[0] & spoken[1] & {1, 2}
        if common:
            entry["version"] = max(common)
        self._first_version = entry.get("version") == 1

    def _packet1(self, is_orig: bool, head: bytes, stream: Framed) -> None:
        """SSH 1: the client's session key (message 3) ends what can be read."""
        length = int.from_bytes(head[:4], "big")
        pad = 8 - length % 8
        start = stream.peek(4 + pad + 1)
        if start is None:
            return
        if is_orig and start[4 + pad] == 3:
            self.session.confirm(self.service)
            self.stop()
        elif stream.drop(4 + pad + length) < 4 + pad + length:
            self.stop()

    def _packet(self, is_orig: bool, kind: int, payload: bytes) -> None:
        if kind == _KEXINIT:
            self._offer(is_orig, payload)
        elif kind == _NEWKEYS and self._offers[0] is not None and self._offers[1] is not None:
            self.session.confirm(self.service)
            self._log()
            self._keyed[is_orig] = True
        elif kind in (31, 33) and not is_orig:
            self._host_key(kind, payload)

    def _offer(self, is_orig: bool, payload: bytes) -> None:
        reader = Reader(payload, 16)
        lists = []
        for _ in range(10):
            names = reader.take(reader.u32()).split(b",")
            lists.append(names[:200])
        self._offers[is_orig] = lists
        entry = self._log()
        chosen = [lists[i] for i in ((0, 2, 4, 6) if is_orig else (0, 3, 5, 7))]
        said = ";".join(",".join(text(n, 64) for n in names) for names in chosen)
        digest = hashlib.md5(said.encode(), usedforsecurity=False).hexdigest()
        entry["hassh" if is_orig else "hassh_server"] = digest
        server, client = self._offers
        if server is None or client is None:
            return
        entry["kex_alg"] = _agreed(client[0], server[0])
        entry["host_key_alg"] = _agreed(client[1], server[1])
        for name, there in (("cipher_alg", 2), ("mac_alg", 4), ("compression_alg", 6)):
            to_server = _agreed(client[there], server[there])
            to_client = _agreed(client[there + 1], server[there + 1])
            entry[name] = (
                to_server if to_server == to_client else f"To server: {to_server}, to client: {to_client}"
            )

    def _host_key(self, kind: int, payload: bytes) -> None:
        """The server's key is the first string of a key exchange reply; a Diffie-Hellman group is no such reply."""
        if len(payload) < 8:
            return
        length = int.from_bytes(payload[:4], "big")
        key = payload[4 : 4 + length]
        if len(key) != length or len(key) < 8:
            return
        name = int.from_bytes(key[:4], "big")
        if not 4 <= name <= 64 or not key[4 : 4 + name].isascii() or b"-" not in key[4 : 4 + name]:
            return
        digest = b64encode(hashlib.sha256(key).digest()).decode("ascii")
        self._log()["host_key_fingerprint"] = f"SHA256:{digest[:32]}"  # as long as Zeek's

    def _encrypted_segment(self, is_orig: bool, length: int) -> None:
        """Guesses the outcome of a login from the lengths of encrypted segments, as SSH_Analyzer::ProcessEncrypted."""
        if is_orig:
            self._client_spoke = True
            return
        if not self._client_spoke:
            return
        self._encrypted += 1
        entry = self._log()
        if not self._service_accept:
            self._service_accept = length
        elif length + 16 == self._service_accept:
            self._attempt(entry, True)
            self.stop()
        elif not self._failure:
            if not self._skipped_banner and length - self._service_accept > 256:
                self._skipped_banner = True
            else:
                self._failure = length
        elif length == self._failure:
            self._attempt(entry, False)
        if self._encrypted > _ENCRYPTED_WATCHED:
            self.stop()

    def _attempt(self, entry: Fields, success: bool) -> None:
        compression = entry.get("compression_alg")
        if compression in ("zlib", "zlib@openssh.com"):
            return
        self._attempts += 1
        entry["auth_attempts"] = self._attempts
        entry["auth_success"] = success


def _agreed(client: list[bytes], server: list[bytes]) -> str:
    offered = set(server)
    for name in client:
        if name in offered:
            return text(name, 128)
    return "Algorithm negotiation failed"
