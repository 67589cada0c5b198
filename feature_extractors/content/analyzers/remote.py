"""Remote desktops and proxies: RDP over TCP and UDP, RFB (VNC), SOCKS.

Mirrors src/analyzer/protocol/{rdp,rfb,socks} and scripts/base/protocols/{rdp,rfb,socks}/main.zeek of Zeek 8.2.2.
"""

from __future__ import annotations

import struct
from typing import ClassVar, Final

from feature_extractors.content.analyzers.base import (
    Analyzer,
    Fields,
    Framed,
    ParseError,
    Reader,
    Session,
    text,
)
from feature_extractors.content.analyzers.ip import address

_RDP_PROTOCOLS: Final = {0: "RDP", 1: "SSL", 2: "HYBRID", 4: "RDSTLS", 8: "HYBRID_EX"}
_RDP_FAILURES: Final = {
    1: "SSL_REQUIRED_BY_SERVER", 2: "SSL_NOT_ALLOWED_BY_SERVER", 3: "SSL_CERT_NOT_ON_SERVER", 4: "INCONSISTENT_FLAGS",
    5: "HYBRID_REQUIRED_BY_SERVER", 6: "SSL_WITH_USER_AUTH_REQUIRED_BY_SERVER",
}  # fmt: skip
_RFB_AUTH: Final = {
    0: "Invalid", 1: "None", 2: "VNC", 16: "Tight", 17: "Ultra", 18: "TLS", 19: "VeNCrypt", 20: "GTK-VNC SASL",
    21: "MD5 hash", 22: "Colin Dean xvp", 30: "Apple Remote Desktop",
}  # fmt: skip
_SOCKS5: Final = {
    0: "succeeded", 1: "general SOCKS server failure", 2: "connection not allowed by ruleset", 3: "Network unreachable",
    4: "Host unreachable", 5: "Connection refused", 6: "TTL expired", 7: "Command not supported",
    8: "Address type not supported",
}  # fmt: skip


_RDP_BUILDS: Final = {
    419: "RDP 4.0", 2195: "RDP 5.0", 2221: "RDP 5.0", 2600: "RDP 5.1", 3790: "RDP 5.2", 6000: "RDP 6.0",
    6001: "RDP 6.1", 6002: "RDP 6.2", 7600: "RDP 7.0", 7601: "RDP 7.1", 9200: "RDP 8.0", 9600: "RDP 8.1",
    25189: "RDP 8.0 (Mac)", 25282: "RDP 8.0 (Mac)",
}  # fmt: skip
_RDP_DEPTHS: Final = {4: "4bit", 8: "8bit", 15: "15bit", 16: "16bit", 24: "24bit"}
_RDP_METHODS: Final = {0: "None", 1: "40bit", 2: "128bit", 8: "56bit", 10: "FIPS"}
_RDP_LEVELS: Final = {0: "None", 1: "Low", 2: "Client compatible", 3: "High", 4: "FIPS"}


def _core_data(entry: Fields, raw: bytes) -> None:
    """What the client says of itself, beyond its name and the size of its desktop."""
    build = int.from_bytes(raw[16:20], "little")
    entry["client_build"] = _RDP_BUILDS.get(build) or f"client_build-{build}"
    if len(raw) < 142:
        return
    depth, flags = raw[136] | raw[137] << 8, raw[140] | raw[141] << 8
    entry["requested_color_depth"] = (
        "32bit" if flags & 2 else _RDP_DEPTHS.get(depth) or f"high_color_depth-{depth}"
    )
    product = raw[142:206].decode("utf-16-le", "replace").split("\0")[0]
    entry["client_dig_product_id"] = text(product.encode("utf-8"))


def _server_certificate(entry: Fields, data: bytes, at: int) -> None:
    if at + 8 > len(data):
        return
    kind, count = struct.unpack_from("<II", data, at)
    entry["cert_type"] = {1: "RSA", 2: "X.509"}.get(kind & 0x7FFFFFFF) or f"cert_type-{kind & 0x7FFFFFFF}"
    entry["cert_permanent"] = kind & 0x80000000 == 0
    entry["cert_count"] = 1 if kind & 0x7FFFFFFF == 1 else min(count, 16)


class Rdp(Analyzer):
    """RDP's connection sequence, until TLS or encryption begins."""

    service: ClassVar[str] = "rdp"
    needs_start: ClassVar[bool] = True

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._streams = (Framed(65536), Framed(65536))
        self._entry: Fields | None = None
        self._tls: Analyzer | None = None

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        tls = self._tls
        if tls is not None:
            self.session.feed(tls, is_orig, ts, data)
            self.done = tls.done
            return
        stream = self._streams[is_orig]
        stream.feed(data)
        while self._tls is None and not self.done and (head := stream.peek(4)) is not None:
            if head[0] != 3:
                raise ParseError("not_tpkt")
            length = head[2] << 8 | head[3]
            if length < 7:
                raise ParseError("not_tpkt")
            packet = stream.take(length)
            if packet is None:
                return
            self._packet(is_orig, ts, packet[4:])

    def end(self) -> None:
        if self._tls is not None:
            self._tls.end()

    def _log(self, ts: float) -> Fields:
        if self._entry is None:
            self._entry = self.session.log("rdp", ts, {"cookie": "", "cert_count": 0})
        return self._entry

    def _packet(self, is_orig: bool, ts: float, packet: bytes) -> None:
        kind = packet[1] & 0xF0
        if kind == 0xE0:
            found = packet.find(b"mstshash=")
            if found >= 0:
                self._log(ts)["cookie"] = text(packet[found + 9 :].split(b"\r")[0], 256)
            else:
                self._log(ts)
        elif kind == 0xD0:
            self._negotiated(ts, packet)
        elif kind == 0xF0 and len(packet) > 5:
            content = packet[3:]
            if is_orig and b"Duca" in content:
                self._client_data(ts, content[content.find(b"Duca") + 4 :])
            elif not is_orig and b"McDn" in content:
                self._server_data(ts, content[content.find(b"McDn") + 4 :])

    def _negotiated(self, ts: float, packet: bytes) -> None:
        entry = self._log(ts)
        answer = packet[7:15]
        if len(answer) < 8:
            return
        code = int.from_bytes(answer[4:8], "little")
        if answer[0] == 2:
            entry["security_protocol"] = _RDP_PROTOCOLS.get(code) or f"UNKNOWN-{code}"
            if code:
                entry["result"] = "encrypted"
                self._tls = self.session.child("ssl")
                if self._tls is None:
                    self.stop()
        elif answer[0] == 3:
            entry["result"] = _RDP_FAILURES.get(code) or f"UNKNOWN-{code}"

    def _client_data(self, ts: float, data: bytes) -> None:
        self.session.confirm(self.service)
        entry = self._log(ts)
        reader = Reader(data, 2 if data[:1] >= b"\x80" else 1)
        while reader.left >= 4:
            kind = reader.u16le()
            block = reader.sub(min(max(reader.u16le() - 4, 0), reader.left))
            if kind == 0xC001 and block.left >= 128:
                raw = block.take(block.left)
                entry["desktop_width"] = raw[4] | raw[5] << 8
                entry["desktop_height"] = raw[6] | raw[7] << 8
                name = raw[20:52].decode("utf-16-le", "replace").split("\0")[0]
                entry["client_name"] = text(name.encode("utf-8"))
                if self.session.logs:
                    _core_data(entry, raw)
            elif kind == 0xC003 and block.left >= 4:
                count = min(block.u32le(), 31)
                channels = []
                for _ in range(count):
                    if block.left >= 12:
                        channels.append(text(block.take(12)[:8].split(b"\0")[0]))
                entry["client_channels"] = list(channels)

    def _server_data(self, ts: float, data: bytes) -> None:
        self.session.confirm(self.service)
        entry = self._log(ts)
        entry.setdefault("result", "Success")
        at = data.find(b"\x02\x0c")
        if self.session.logs and at >= 0 and len(data) >= at + 12:
            method, level = struct.unpack_from("<II", data, at + 4)
            entry["encryption_method"] = _RDP_METHODS.get(method) or f"encryption_method-{method}"
            entry["encryption_level"] = _RDP_LEVELS.get(level) or f"encryption_level-{level}"
            entry.setdefault("security_protocol", "RDP")
            if len(data) >= at + 20:
                _server_certificate(entry, data, at + 20 + int.from_bytes(data[at + 12 : at + 16], "little"))


class RdpUdp(Analyzer):
    """RDP's UDP transport: a SYN and its answer."""

    service: ClassVar[str] = "rdpeudp"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._syn = False

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        if len(data) < 8:
            raise ParseError("message_too_short")
        flags = data[6] << 8 | data[7]
        if is_orig:
            if flags & 1 and data[:4] == b"\xff\xff\xff\xff":
                self._syn = True
        elif self._syn and flags & 5:
            self.session.confirm(self.service)
            self.stop()


class Rfb(Analyzer):
    """RFB's handshake: versions, authentication, the desktop's name and size."""

    service: ClassVar[str] = "rfb"
    needs_start: ClassVar[bool] = True

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._streams = (Framed(65536), Framed(65536))
        self._entry: Fields | None = None
        self._minor = 0
        self._auth = -1
        self._step = ["version", "version"]

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        stream = self._streams[is_orig]
        stream.feed(data)
        while not self.done and self._advance(is_orig, ts, stream):
            pass

    def _log(self, ts: float) -> Fields:
        if self._entry is None:
            self._entry = self.session.log("rfb", ts, {})
        return self._entry

    def _advance(self, is_orig: bool, ts: float, stream: Framed) -> bool:
        """Reads the next part of one direction; false while it is not all there or not this side's turn."""
        step = self._step[is_orig]
        if step == "version":
            said = stream.take(12)
            if said is None:
                return False
            if said[:4] != b"RFB " or not said[4:7].isdigit() or not said[8:11].isdigit():
                raise ParseError("no_version")
            side = "client" if is_orig else "server"
            entry = self._log(ts)
            entry[f"{side}_major_version"] = said[4:7].decode("ascii")
            entry[f"{side}_minor_version"] = said[8:11].decode("ascii")
            if is_orig:
                self.session.confirm(self.service)
                self._minor = int(said[8:11])
                self._step = ["types", "choice"]
            return True
        if step == "types" and not is_orig:
            return self._types(ts, stream)
        if step == "choice" and is_orig and self._auth == -1:
            chosen = stream.take(1)
            if chosen is None:
                return False
            self._chosen(ts, chosen[0])
            return True
        if step == "result" and not is_orig:
            if self._auth == 2 and stream.take(16) is None:
                return False
            self._step[0] = "outcome"
            return True
        if step == "outcome" and not is_orig:
            outcome = stream.take(4)
            if outcome is None:
                return False
            self._log(ts)["auth"] = outcome == b"\0\0\0\0"
            self._step[0] = "init"
            return True
        if step == "response" and is_orig:
            if stream.take(16) is None:
                return False
            self._step[1] = "share"
            return True
        if step == "share" and is_orig:
            flag = stream.take(1)
            if flag is None:
                return False
            self._log(ts)["share_flag"] = flag != b"\0"
            self._step[1] = "done"
            return False
        if step == "init" and not is_orig:
            return self._init(ts, stream)
        return False

    def _types(self, ts: float, stream: Framed) -> bool:
        if self._minor < 7:
            chosen = stream.take(4)
            if chosen is None:
                return False
            self._chosen(ts, chosen[3])
            return True
        count = stream.peek(1)
        if count is None or stream.take(1 + count[0]) is None:
            return False
        self._step[0] = "result" if self._auth != -1 else "wait"
        return True

    def _chosen(self, ts: float, kind: int) -> None:
        if kind > 255:
            raise ParseError("bad_security_type")
        self._auth = kind
        self._log(ts)["authentication_method"] = _RFB_AUTH.get(kind) or "RealVNC" if kind < 129 else "unknown"
        if kind == 1:
            self._step = ["outcome" if self._minor >= 8 else "init", "share"]
        elif kind == 2:
            self._step = ["result", "response"]
        else:
            self.stop()

    def _init(self, ts: float, stream: Framed) -> bool:
        head = stream.peek(24)
        if head is None:
            return False
        length = int.from_bytes(head[20:24], "big")
        if length > 4096:
            raise ParseError("name_too_long")
        whole = stream.take(24 + length)
        if whole is None:
            return False
        entry = self._log(ts)
        entry["width"] = whole[0] << 8 | whole[1]
        entry["height"] = whole[2] << 8 | whole[3]
        entry["desktop_name"] = text(whole[24:], 512)
        self.stop()
        return False


class Socks(Analyzer):
    """SOCKS 5: what was asked for and granted; what then passes is looked at as a connection of its own.

    SOCKS 4 is refused: Zeek 8.2.2 never confirms it.
    """

    service: ClassVar[str] = "socks"
    needs_start: ClassVar[bool] = True

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._streams = (Framed(4096), Framed(4096))
        self._entry: Fields | None = None
        self._inside: Analyzer | None = None
        self._version = 0
        self._step = ["greeting", "greeting"]
        self._method = 0

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        if self._inside is not None:
            self._inside.data(is_orig, ts, data)
            self.done = self._inside.done
            return
        stream = self._streams[is_orig]
        stream.feed(data)
        while not self.done and self._advance(is_orig, ts, stream):
            pass
        self._hand_on(ts)

    def _hand_on(self, ts: float) -> None:
        """Once the way is open, gives what was sent already to what is inside."""
        if self._inside is not None:
            for side in (True, False):
                rest = self._streams[side].rest()
                if rest:
                    self._inside.data(side, ts, rest)

    def gap(self, is_orig: bool, length: int) -> None:
        if self._inside is not None:
            self._inside.gap(is_orig, length)
        else:
            self.stop()

    def skip(self, is_orig: bool) -> int:
        return self._inside.skip(is_orig) if self._inside is not None else super().skip(is_orig)

    def end(self) -> None:
        if self._inside is not None:
            self._inside.end()

    def _log(self, ts: float) -> Fields:
        if self._entry is None:
            self._entry = self.session.log("socks", ts, {"version": self._version})
        return self._entry

    def _advance(self, is_orig: bool, ts: float, stream: Framed) -> bool:
        if is_orig:
            return self._request(ts, stream)
        return self._reply(ts, stream)

    def _request(self, ts: float, stream: Framed) -> bool:
        head = stream.peek(2)
        if head is None:
            return False
        if self._step[1] == "greeting":
            if head[0] != 5:
                raise ParseError("unknown_version")
            self._version = 5
            if stream.take(2 + head[1]) is None:
                return False
            self._step[1] = "wait"
            return True
        if self._step[1] == "login":
            user = stream.peek(2 + head[1] + 1)
            if user is None or (whole := stream.take(len(user) + user[-1])) is None:
                return False
            self._log(ts)["user"] = text(whole[2 : 2 + head[1]], 255)
            self._step[1] = "wait"
            return True
        if self._step[1] == "request":
            asked = self._address(stream)
            if asked is None:
                return False
            code, reserved, host, name, port = asked
            if reserved or not 1 <= code <= 3:
                raise ParseError("bad_request")
            entry = self._log(ts)
            if host:
                entry["request.host"] = host
            if name:
                entry["request.name"] = name
            entry["request_p"] = port
            self._step[1] = "done"
        return False

    def _reply(self, ts: float, stream: Framed) -> bool:
        step = self._step[0]
        if step == "greeting":
            chosen = stream.take(2)
            if chosen is None:
                return False
            if chosen[0] != 5:
                raise ParseError("unknown_version")
            if chosen[1] not in (0, 2):
                self.stop()
                return False
            self._step = ["login", "login"] if chosen[1] == 2 else ["reply", "request"]
            return True
        if step == "login":
            if stream.take(2) is None:
                return False
            self._step = ["reply", "request"]
            return True
        if step == "reply":
            answer5 = self._address(stream)
            if answer5 is None:
                return False
            code, _, host, name, port = answer5
            entry = self._log(ts)
            entry["status"] = _SOCKS5.get(code) or f"unknown-{code}"
            if host:
                entry["bound.host"] = host
            if name:
                entry["bound.name"] = name
            entry["bound_p"] = port
            self._open()
        return False

    def _open(self) -> None:
        self.session.confirm(self.service)
        self._inside = self.session.child("pia")
        if self._inside is None:
            self.stop()

    def _address(self, stream: Framed) -> tuple[int, int, str, str, int] | None:
        """Code, reserved byte, address or name, and port of a SOCKS 5 message; None while it is not all there."""
        head = stream.peek(5)
        if head is None:
            return None
        if head[0] != 5:
            raise ParseError("unknown_version")
        size = {1: 4, 3: 1 + head[4], 4: 16}.get(head[3])
        if size is None:
            raise ParseError("bad_address_type")
        whole = stream.take(4 + size + 2)
        if whole is None:
            return None
        raw = whole[4:-2]
        port = whole[-2] << 8 | whole[-1]
        if head[3] == 3:
            return head[1], head[2], "", text(raw[1:], 255), port
        return head[1], head[2], address(raw), "", port
