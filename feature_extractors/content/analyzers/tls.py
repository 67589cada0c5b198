"""TLS, SSL and DTLS handshakes: hellos, certificates, and how far they got.

Mirrors src/analyzer/protocol/ssl/*.pac and scripts/base/protocols/ssl/main.zeek of Zeek 8.2.2 (ssl.log, x509.log).
Beside Zeek's fields an entry has the fingerprints of `tls_fingerprints`. Nothing is read once the handshake is over.
"""

from __future__ import annotations

import hashlib
import struct
from typing import ClassVar, Final

from feature_extractors.content.analyzers.base import (
    MAX_CERTIFICATES,
    Analyzer,
    Fields,
    Framed,
    ParseError,
    Reader,
    Session,
    text,
)
from feature_extractors.content.analyzers.der import certificate, matches
from feature_extractors.content.analyzers.files import Carried
from feature_extractors.content.analyzers.tls_fingerprints import ja3, ja3s, ja4_of_hello
from feature_extractors.content.analyzers.tls_names import ALERTS, CIPHERS, GROUPS, VERSIONS, version_name
from feature_extractors.content.analyzers.tls_protocols import protocols_of

MAX_HISTORY: Final = 100  # SSL::max_ssl_history_length
MAX_CHAIN: Final = 20
MAX_HANDSHAKE: Final = 128 * 1024
MAX_LISTED: Final = 8192  # bytes of a hello's lists; one that lists more gets no fingerprint

_TWO: Final = struct.Struct(">HH")
# Extensions of a client hello that are looked into, and which of them where no fingerprint is asked for.
_READ: Final = frozenset((0, 10, 11, 13, 16, 35, 41, 43))
_READ_IN_BRIEF: Final = frozenset((0, 35, 41))

_HISTORY: Final = {
    0: "h", 1: "c", 2: "s", 3: "v", 4: "t", 5: "e", 6: "j", 8: "o", 11: "x", 12: "k", 13: "r", 14: "n", 15: "y",
    16: "g", 20: "f", 21: "w", 22: "u", 23: "a", 24: "p", 254: "m",
}  # fmt: skip
_RETRY: Final = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
_CCS, _ALERT, _HANDSHAKE, _APPLICATION, _HEARTBEAT, _V2 = 20, 21, 22, 23, 24, 300


class Tls(Analyzer):
    """TLS (RFC 8446, 5246): one connection over a stream."""

    service: ClassVar[str] = "ssl"
    needs_start: ClassVar[bool] = True
    datagrams: ClassVar[bool] = False

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._records = (Framed(65536), Framed(65536))
        self._messages = (Framed(MAX_HANDSHAKE), Framed(MAX_HANDSHAKE))
        self._awaited = [0, 0]  # bytes of a handshake message, of which a part is there
        self._encrypted = [False, False]
        self._record_version = 0
        self._flipped = False
        self._entry: Fields | None = None
        self._history = ""
        self._version = 0  # negotiated
        self._chosen = 0  # what the server hello's extension says
        self._session_id = b""
        self._empty_ticket_id = False
        self._offered_psk = False
        self._saw_key_exchange = False
        self._chains: tuple[list[str], list[str]] = ([], [])  # server's, client's fingerprints
        self._saw_certificates = False
        self._leaf: Fields = {}
        self._ts = 0.0

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        self._ts = ts
        records = self._records[is_orig]
        records.feed(data)
        while not self.done and (head := records.peek(5)) is not None:
            kind, length = self._record_head(head, is_orig)
            if kind == _APPLICATION and self._encrypted[0] and self._encrypted[1] and self._entry is not None:
                self._encrypted_record(is_orig, kind)  # its content need not have arrived
                continue
            whole = records.take(5 + length)
            if whole is None:
                return
            self._record(is_orig, kind, whole)

    def end(self) -> None:
        self._close()

    def stop(self) -> None:
        super().stop()
        self._close()

    def gap(self, is_orig: bool, length: int) -> None:
        self.stop()

    def _log(self) -> Fields:
        """The connection's entry in ssl.log, begun by whatever is seen first."""
        if self._entry is None:
            self._entry = {"resumed": False, "established": False}
            if not self.session.brief:
                self._entry["ssl_history"] = ""
            self.session.log("ssl", self._ts, self._entry)
        return self._entry

    def _add_history(self, is_client: bool, letter: str) -> None:
        if len(self._history) < MAX_HISTORY:
            self._history += letter.upper() if is_client else letter

    def _close(self) -> None:
        entry = self._entry
        if entry is None or self.session.brief:
            return
        entry["ssl_history"] = self._history
        if self._saw_certificates:
            entry["cert_chain_fps"] = list(self._chains[0])
            entry["client_cert_chain_fps"] = list(self._chains[1])
            server = entry.get("server_name")
            if self._leaf and isinstance(server, str):
                entry["sni_matches_cert"] = matches(server, self._leaf)

    def _record_head(self, head: bytes, is_orig: bool) -> tuple[int, int]:
        """Kind and length of the record with these five first bytes."""
        version = head[1] << 8 | head[2]
        if self._record_version not in (0, 2):
            if version not in (0x300, 0x301, 0x302, 0x303):
                raise ParseError("bad_version_late")
            return head[0], head[3] << 8 | head[4]
        if self._record_version == 2:
            return _V2 + head[2], max(((head[0] & 0x7F) << 8 | head[1]) - 3, 0)
        if head[0] & 0x80:
            offered = head[3] << 8 | head[4]
            if head[2] == 1 and is_orig:
                if offered not in (2, 0x300, 0x301, 0x302, 0x303):
                    raise ParseError("bad_version")
            elif head[2] == 4 and head[4] < 2 and not is_orig:
                self._record_version = 2
            else:
                raise ParseError("not_tls")
            return _V2 + head[2], max(((head[0] & 0x7F) << 8 | head[1]) - 3, 0)
        if version not in (0x300, 0x301, 0x302, 0x303):
            raise ParseError("bad_version")
        if not 20 <= head[0] <= 30:
            raise ParseError("not_tls")
        self._record_version = version
        return head[0], head[3] << 8 | head[4]

    def _record(self, is_orig: bool, kind: int, whole: bytes) -> None:
        if kind >= _V2:
            self._v2(is_orig, kind - _V2, whole)
            return
        if (
            not self._encrypted[is_orig]
            and kind == _APPLICATION
            and self._version not in (2, 0x300, 0x301, 0x302, 0x303)
        ):
            self._encrypted[is_orig] = True
        if self._encrypted[is_orig]:
            self._encrypted_record(is_orig, kind)
            return
        self._plain(is_orig, kind, whole[5:])

    def _plain(self, is_orig: bool, kind: int, body: bytes) -> None:
        is_client = is_orig != self._flipped
        if kind == _HANDSHAKE:
            self._handshake(is_orig, body)
        elif kind == _CCS:
            if not self._is_tls13():
                self._encrypted[is_orig] = True
            self._log()
            self._add_history(is_client, "i")
            if is_client and self._empty_ticket_id and not self._saw_key_exchange:
                self._log()["resumed"] = True
        elif kind == _ALERT:
            entry = self._log()
            for i in range(0, min(len(body), 2 if self._is_tls13() else 20) - 1, 2):
                self._add_history(is_client, "l")
                entry["last_alert"] = ALERTS.get(body[i + 1]) or f"unknown-{body[i + 1]}"
        elif kind == _HEARTBEAT:
            self._log()
            self._add_history(is_client, "b")
        elif kind == _APPLICATION:
            self._log()
        else:
            raise ParseError("unknown_record")

    def _encrypted_record(self, is_orig: bool, kind: int) -> None:
        if self._encrypted[0] and self._encrypted[1]:
            entry = self._log()
            entry["established"] = True
            self.session.at(entry, self._ts)
            self.stop()

    def _is_tls13(self) -> bool:
        return self._version in (0x304, 0xFEFC) or self._version // 0xFF == 0x7F

    def _v2(self, is_orig: bool, kind: int, whole: bytes) -> None:
        """SSLv2 records; a client hello of this form may open a newer connection."""
        reader = Reader(whole, 5)
        if kind == 1:
            version = whole[3] << 8 | whole[4]
            ciphers, session_length, challenge = reader.u16(), reader.u16(), reader.u16()
            reader.skip(ciphers)
            session_id = reader.take(session_length)
            reader.skip(challenge)
            self.session.confirm(self.service)
            self._log()
            self._session_id = session_id
            self._add_history(True, "c")
            if version == 2:
                self._version = 2
        elif kind == 4:
            version = reader.u16()
            if version != 2:
                raise ParseError("bad_version")
            certificate_length, ciphers, connection_id = reader.u16(), reader.u16(), reader.u16()
            reader.skip(certificate_length)
            suites = reader.take(ciphers)
            reader.skip(connection_id)
            entry = self._log()
            self._version = 2
            entry["version"] = version_name(2)
            first = int.from_bytes(suites[:3], "big")
            entry["cipher"] = CIPHERS.get(first) or f"unknown-{first}"
            self._add_history(False, "s")
        elif kind == 2:
            self._log()["established"] = True
            self.stop()
        elif kind == 0:
            self._log()
            self._add_history(is_orig, "l")
        else:
            self.stop()

    def _handshake(self, is_orig: bool, body: bytes) -> None:
        messages = self._messages[is_orig]
        messages.feed(body)
        if len(messages) < self._awaited[is_orig]:
            return
        while not self.done and (head := messages.peek(4)) is not None:
            length = 4 + int.from_bytes(head[1:4], "big")
            whole = messages.take(length)
            self._awaited[is_orig] = length if whole is None else 0
            if whole is None:
                return
            self._message(is_orig, whole[0], Reader(whole, 4))

    def _message(self, is_orig: bool, kind: int, body: Reader) -> None:
        """One whole handshake message."""
        if kind == 1:
            if not is_orig and not self._flipped:
                self._flipped = True
                self._log()
                self._history += "^"
            self._client_hello(body)
        elif kind == 2:
            retry = self._server_hello(body)
            self._log()
            self._add_history(is_orig != self._flipped, "j" if retry else "s")
            return
        elif kind == 11:
            self._certificates(is_orig, body)
        elif kind == 12:
            self._key_exchange(body)
        elif kind == 16:
            self._saw_key_exchange = True
        elif kind == 22 and self.session.logs:
            self._status(is_orig, body)
        elif kind == 3 and self.datagrams:
            pass
        elif kind not in _HISTORY:
            raise ParseError("unknown_handshake")
        self._log()
        self._add_history(is_orig != self._flipped, _HISTORY[kind])

    def _client_hello(self, body: Reader) -> None:
        version = body.u16()
        if version not in VERSIONS and version // 0xFF != 0x7F:
            raise ParseError("unsupported_client_version")
        body.skip(32)
        session_id = body.take(body.u8())
        if self.datagrams:
            body.skip(body.u8())
        suites = body.take(body.u16())
        body.skip(body.u8())
        self.session.confirm(self.service)
        entry = self._log()
        brief = self.session.brief
        read = _READ_IN_BRIEF if brief else _READ
        groups = formats = signatures = versions = b""
        extensions = bytearray()
        protocols: list[bytes] = []
        name = b""
        if body.left >= 2:
            inside = body.sub(min(body.u16(), body.left))
            data = inside.data
            while inside.left >= 4:
                kind, length = inside.unpack(_TWO)
                extensions += data[inside.pos - 4 : inside.pos - 2]
                if kind not in read:
                    inside.skip(length)
                    continue
                extension = inside.sub(length)
                if kind == 0 and extension.left >= 5:
                    extension.skip(3)
                    name = extension.take(min(extension.u16(), extension.left))
                    entry["server_name"] = text(name, 512)
                elif kind == 10 and extension.left >= 2:
                    groups = extension.take(min(extension.u16(), extension.left))
                elif kind == 11 and extension.left >= 1:
                    formats = extension.take(min(extension.u8(), extension.left))
                elif kind == 13 and extension.left >= 2:
                    signatures = extension.take(min(extension.u16(), extension.left))
                elif kind == 16 and extension.left >= 2:
                    protocols = protocols_of(extension)
                elif kind == 35 and extension.left:
                    self._empty_ticket_id = True
                elif kind == 41:
                    self._offered_psk = True
                elif kind == 43 and extension.left >= 1:
                    versions = extension.take(min(extension.u8(), extension.left))
        if session_id and session_id != b"\0" * 32:
            self._session_id = session_id
            self._empty_ticket_id = False
        if brief:
            return
        listed = len(suites) + len(extensions) + len(groups) + len(signatures) + len(versions)
        if listed > MAX_LISTED:
            self.session.counts.add("tls_hello_without_fingerprint")
            return
        entry["ja3"] = ja3(version, suites, bytes(extensions), groups, formats)
        entry["ja4"] = ja4_of_hello(
            self.datagrams, version, versions, bool(name), suites, bytes(extensions), signatures,
            protocols[0] if protocols else b"",
        )  # fmt: skip

    def _server_hello(self, body: Reader) -> bool:
        """Reads a server hello and says whether it asks for another client hello."""
        version = body.u16()
        if version not in VERSIONS and version // 0xFF != 0x7F:
            raise ParseError("unsupported_server_version")
        random = body.take(32)
        session_id = b"" if version // 0xFF == 0x7F else body.take(body.u8())
        cipher = body.u16()
        if version // 0xFF != 0x7F:
            body.skip(1)
        entry = self._log()
        entry["cipher"] = CIPHERS.get(cipher) or f"unknown-{cipher}"
        retry = random == _RETRY
        extensions = bytearray()
        negotiated = version
        if body.left >= 2:
            inside = body.sub(min(body.u16(), body.left))
            while inside.left >= 4:
                kind, length = inside.unpack(_TWO)
                extensions += inside.data[inside.pos - 4 : inside.pos - 2]
                extension = inside.sub(length)
                if kind == 16 and extension.left >= 2:
                    protocols = protocols_of(extension)
                    if protocols:
                        entry["next_protocol"] = text(protocols[0], 255)
                elif kind == 41 and self._offered_psk:
                    entry["resumed"] = True
                elif kind == 43 and extension.left == 2:
                    negotiated = self._chosen = extension.u16()
                elif kind in (40, 51) and extension.left >= 2:
                    group = extension.u16()
                    entry["curve"] = GROUPS.get(group) or f"unknown-{group}"
        self._version = self._chosen or negotiated
        entry["version"] = version_name(self._version)
        if session_id and session_id == self._session_id and not self._is_tls13():
            entry["resumed"] = True
        if self.session.brief:
            return retry
        if len(extensions) <= MAX_LISTED:
            entry["ja3s"] = ja3s(version, cipher, bytes(extensions))
        else:
            self.session.counts.add("tls_hello_without_fingerprint")
        return retry

    def _status(self, is_orig: bool, body: Reader) -> None:
        """A certificate's status that the server has at hand: a file, as Zeek sees it (RFC 6066, 8)."""
        if body.left < 4 or body.u8() != 1:
            return
        response = body.take(min(body.u24(), body.left))
        if response:
            file = Carried(self.session, "SSL", self._ts, is_orig)
            file.take(self._ts, response)
            file.row["mime_type"] = "application/ocsp-response"
            file.finish(self._ts)

    def _key_exchange(self, body: Reader) -> None:
        cipher = self._log().get("cipher")
        if isinstance(cipher, str) and "_ECDH" in cipher and body.left >= 3 and body.u8() == 3:
            curve = body.u16()
            self._log()["curve"] = GROUPS.get(curve) or f"unknown-{curve}"

    def _certificates(self, is_orig: bool, body: Reader) -> None:
        """The certificates of a chain, each once in x509.log; in brief they are passed over, as many as are read."""
        self._log()
        inside = body.sub(min(body.u24(), body.left)) if body.left >= 3 else body
        chain = self._chains[is_orig != self._flipped]
        while inside.left >= 3 and len(chain) < MAX_CHAIN:
            der = inside.take(inside.u24())
            if not der:
                continue
            if self.session.brief:
                chain.append("")
                continue
            self._saw_certificates = True
            fingerprint = hashlib.sha256(der).hexdigest()
            chain.append(fingerprint)
            known = self.session.run.certificates
            if fingerprint not in known:
                try:
                    known[fingerprint] = certificate(der, fingerprint)
                except ParseError:
                    self.session.counts.add("x509_malformed")
                    continue
                if len(known) > MAX_CERTIFICATES:
                    known.popitem(last=False)
            fields = dict(known[fingerprint])
            is_server = chain is self._chains[0]
            fields["host_cert"] = len(chain) == 1
            fields["client_cert"] = not is_server
            if is_server and len(chain) == 1:
                self._leaf = fields
            self.session.log("x509", self._ts, fields)
            if self.session.logs:
                key = f"{fingerprint} {fields['host_cert']} {fields['client_cert']}"
                if not self.session.run.is_new(key, self._ts):
                    self.session.at(fields, -1.0)


class Dtls(Tls):
    """DTLS (RFC 6347): one connection over datagrams; fragmented handshake messages are reassembled."""

    service: ClassVar[str] = "dtls"
    needs_start: ClassVar[bool] = False
    datagrams: ClassVar[bool] = True

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._fragments: dict[tuple[bool, int], tuple[int, int, list[tuple[int, bytes]]]] = {}
        self._bad_versions = 0

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        self._ts = ts
        reader = Reader(data)
        while reader.left >= 13 and not self.done:
            if self._version == 0xFEFC and data[reader.pos] & 0xE0 == 0x20:
                return
            kind = reader.u8()
            version = reader.u16()
            epoch = reader.u16()
            reader.skip(6)
            length = reader.u16()
            if version not in (0xFEFF, 0xFEFD):
                self._bad_versions += 1
                if self._bad_versions > 10:
                    self.stop()
                return
            if length > 16384 + 2048:
                raise ParseError("record_too_long")
            body = reader.take(length)
            if epoch:
                self._encrypted[is_orig] = True
                self._encrypted_record(is_orig, kind)
            elif kind == _HANDSHAKE:
                self._fragment(is_orig, Reader(body))
            else:
                self._plain(is_orig, kind, body)

    def _fragment(self, is_orig: bool, reader: Reader) -> None:
        kind = reader.u8()
        total = reader.u24()
        sequence = reader.u16()
        offset = reader.u24()
        length = reader.u24()
        if length > reader.left:
            raise ParseError("fragment_too_short")
        piece = reader.take(length)
        if offset == 0 and length == total:
            self._message(is_orig, kind, Reader(piece))
            return
        if total > MAX_HANDSHAKE or offset + length > total:
            raise ParseError("fragment_past_end")
        known, size, pieces = self._fragments.setdefault((is_orig, sequence), (kind, total, []))
        pieces.append((offset, piece))
        if len(pieces) > 30 or len(self._fragments) > 32:
            raise ParseError("too_many_fragments")
        if sum([len(part) for _, part in pieces]) < size:
            return
        whole = bytearray()
        for start, part in sorted(pieces):
            if start <= len(whole) < start + len(part):
                whole += part[len(whole) - start :]
        if len(whole) == size:
            del self._fragments[is_orig, sequence]
            self._message(is_orig, known, Reader(bytes(whole)))
