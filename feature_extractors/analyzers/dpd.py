"""Which analyzers a connection gets: by well-known port, and by the signatures of its first bytes.

Ports and signatures are those of Zeek 8.2.2 (scripts/base/protocols/*/main.zeek and dpd.sig, scripts/base/
packet-protocols/*/main.zeek); how they are matched mirrors src/analyzer/protocol/pia/PIA.cc: on the first 1,024 bytes
of both directions together, anchored at the beginning of each direction or datagram.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import ClassVar, Final

from feature_extractors.analyzers.base import NEVER, Analyzer, Session

BUFFER_SIZE: Final = 1024  # dpd_buffer_size
MAX_CHUNKS: Final = 100  # dpd_max_packets

TCP_PORTS: Final[dict[int, str]] = {
    **dict.fromkeys((80, 81, 631, 3128, 8000, 8080, 8888), "http"),
    **dict.fromkeys((443, 465, 563, 585, 614, 636, 989, 990, 992, 993, 995, 5223), "ssl"),
    **dict.fromkeys((6666, 6667, 6668, 6669), "irc"),
    **dict.fromkeys((21, 2811), "ftp"),
    **dict.fromkeys((1434, 3306), "mysql"),
    **dict.fromkeys((25, 587), "smtp"),
    **dict.fromkeys((139, 445), "smb"),
    **dict.fromkeys((5222, 5269), "xmpp"),
    22: "ssh", 53: "dns", 88: "krb_tcp", 135: "dce_rpc", 143: "imap", 502: "modbus", 1883: "mqtt", 3389: "rdp",
    20000: "dnp3_tcp",
}  # fmt: skip
TCP_TWO: Final[dict[int, tuple[str, ...]]] = {1080: ("http", "socks")}
UDP_PORTS: Final[dict[int, str]] = {
    **dict.fromkeys((53, 137, 5353, 5355), "dns"),
    **dict.fromkeys((67, 68, 4011), "dhcp"),
    **dict.fromkeys((161, 162), "snmp"),
    **dict.fromkeys((2123, 2152), "gtpv1"),
    88: "krb", 123: "ntp", 443: "dtls", 514: "syslog", 1812: "radius", 3389: "rdpeudp", 3544: "teredo",
    4789: "vxlan", 5060: "sip", 5072: "ayiya", 6081: "geneve", 20000: "dnp3_udp",
}  # fmt: skip

_METHODS: Final = (
    b"OPTIONS|GET|HEAD|POST|PUT|DELETE|ACL|BASELINE-CONTROL|BIND|CHECKIN|CHECKOUT|CONNECT|COPY|LABEL|LINK|LOCK|MERGE|"
    b"MKACTIVITY|MKCALENDAR|MKCOL|MKREDIRECTREF|MOVE|ORDERPATCH|PATCH|PROPFIND|PROPPATCH|REBIND|REPORT|SEARCH|TRACE|"
    b"UNBIND|UNCHECKOUT|UNLINK|UNLOCK|UPDATE|VERSION-CONTROL|BCOPY|BDELETE|BMOVE|BPROPFIND|BPROPPATCH|NOTIFY|POLL|"
    b"SUBSCRIBE|UNSUBSCRIBE|X-MS-ENUMATTS|MKWORKSPACE|RPC_IN_DATA|RPC_OUT_DATA"
)

_TEREDO_PREFIX: Final = b"\x20\x01\x00\x00"
_Match = Callable[[bytes], object]


def _rule(pattern: bytes, flags: int = 0) -> _Match:
    """Anchored; a dot stands for any byte, as in Zeek's signatures."""
    return re.compile(pattern, flags | re.S).match


_HTTP_CLIENT: Final = _rule(rb"[ \t\n\v\f\r]*(?:" + _METHODS + rb")")
_HTTP_SERVER: Final = _rule(rb"HTTP/[0-9]", re.I)
_SSH: Final = _rule(rb"SSH-[12]\.", re.I)
_TLS_SERVER: Final = _rule(
    rb"(?:\x15\x03[\x00-\x03]....)?\x16\x03[\x00-\x03]..\x02...(?:\x03[\x00-\x04]|\x7f[\x00-\x50])"
)
_TLS_CLIENT: Final = _rule(rb"\x16\x03[\x00-\x03]..\x01...\x03[\x00-\x03]")
_DTLS_CLIENT: Final = _rule(rb"\x16\xfe[\xff\xfd]\x00{7}...\x01.{11}\xfe[\xff\xfd]")
_DCE_RPC: Final = _rule(rb"\x05[\x00\x01][\x00-\x13]")
_SOCKS5_CLIENT: Final = _rule(rb"\x05.[\x00-\x03\x05-\x09]")
_SOCKS5_SERVER: Final = _rule(rb"\x05[\x00-\x03\x05-\x09\xff]")
_KRB_REQUEST: Final = _rule(rb"[\x6a\x6c].{1,4}\x30.{1,4}\xa1\x03\x02\x01\x05\xa2\x03\x02\x01")
_KRB_REPLY: Final = _rule(rb"[\x6b\x6d\x7e].{1,4}\x30.{1,4}\xa0\x03\x02\x01\x05\xa1\x03\x02\x01")
_SIP_REQUEST: Final = _rule(rb".* SIP/[0-9]\.[0-9]\r\n")
_SIP_REPLY: Final = _rule(rb" ?SIP/[0-9]\.[0-9](?:\r\n| [0-9]{3} )")
_XMPP: Final = _rule(rb"(?:<\?xml[^?>]*\?>)?[\n\r ]*<stream:stream [^>]*xmlns='jabber:")
_RDPEUDP: Final = _rule(rb"\xff{4}...\x01")
_SMTP_SERVER: Final = _rule(rb"[ \t\n\v\f\r]*220[ \t\n\v\f\r-]")
_SMTP_CLIENT: Final = _rule(rb"(?:|.*[\n\r])[ \t\n\v\f\r]*(?:helo|ehlo)", re.I)
_FTP_SERVER: Final = _rule(rb"[\n\r ]*(?:120|220)[^0-9].*[\n\r] *(?:230|331)[^0-9]")
_FTP_CLIENT: Final = _rule(rb"(?:|.*[\n\r]) *user ", re.I)
_POP3_CLIENT: Final = _rule(
    rb"(?:|.*[\r\n])[ \t\n\v\f\r]*(?:user[ \t\n\v\f\r]|apop[ \t\n\v\f\r]|capa|auth|stls)", re.I
)
_IRC_SERVER: Final = _rule(rb"(?:|.*[\n\r])(?::[^ \n\r]+ )?[0-9][0-9][0-9] ")
_IRC_CLIENT1: Final = _rule(rb"(?:|.*[\r\n]) *user +.+[\n\r]+ *nick +.*[\r\n]", re.I)
_IRC_CLIENT2: Final = _rule(rb"(?:|.*[\r\n]) *nick +.+[\r\n]+ *user +.+[\r\n]", re.I)
_IRC_PEER: Final = _rule(rb"(?:|.*[\r\n]) *server +[^ ]+ +[0-9]+ +:.+[\r\n]", re.I)
_RDP_CLIENT: Final = _rule(rb".*(?:Cookie: mstshash=|Duca.*(?:rdpdr|rdpsnd|drdynvc|cliprdr))")
_RDP_SERVER: Final = _rule(rb"(?:.{5}\xd0|.*McDn)")


def tcp_signatures(orig: bytes, resp: bytes, is_orig: bool) -> list[str]:
    """The analyzers that the first bytes of both directions ask for, now that there is more of direction `is_orig`.

    The selective half of each pair of signatures is looked at first, so that loose ones are seldom tried.
    """
    found: list[str] = []
    mine = orig if is_orig else resp
    first = mine[0]
    if is_orig:
        if first == 0x16 and _TLS_CLIENT(mine):
            found.append("ssl")
        elif _HTTP_CLIENT(mine):
            found.append("http")
        if (
            resp
            and _has(mine, b" :")
            and _has(mine.lower(), b"server")
            and _IRC_PEER(mine)
            and _IRC_PEER(resp)
        ):
            found.append("irc")
    else:
        if first in b"Hh" and _HTTP_SERVER(mine):
            found.append("http")
        elif first in (0x15, 0x16) and _TLS_SERVER(mine):
            found.append("ssl")
        if mine.startswith(b"\x05\x64"):
            found.append("dnp3_tcp")
    if first == 5 and _DCE_RPC(mine):
        found.append("dce_rpc")
    if len(mine) > 7 and mine[4] in (0xFE, 0xFF) and mine[5:8] == b"SMB":
        found.append("smb")
    if len(mine) > 12 and mine[4] in b"\x6a\x6b\x6c\x6d\x7e":
        kerberos = mine[4:40]
        if _KRB_REQUEST(kerberos) or _KRB_REPLY(kerberos):
            found.append("krb_tcp")
    if mine.find(b"MQ", 4, 9) >= 4:
        found.append("mqtt")
    if first in b"<\r\n " and _XMPP(mine):
        found.append("xmpp")
    if orig and resp:
        _pairs(orig, resp, found)
    return found


def _pairs(orig: bytes, resp: bytes, found: list[str]) -> None:
    """Signatures that ask for one pattern in each direction."""
    first = resp[0]
    if first in b"Ss" and _SSH(resp) and _SSH(orig):
        found.append("ssh")
    if resp.startswith(b"RFB") and orig.startswith(b"RFB"):
        found.append("rfb")
    if resp.startswith(b"+OK") and _POP3_CLIENT(orig):
        found.append("pop3")
    if first in b"12 \t\n\v\f\r":
        if _SMTP_SERVER(resp) and _SMTP_CLIENT(orig):
            found.append("smtp")
        if _FTP_SERVER(resp) and _FTP_CLIENT(orig):
            found.append("ftp")
    if first in b"0123456789: \t\r\v\f" or _has(resp, b"\n"):
        lower = orig.lower()
        if (
            _has(lower, b"nick ")
            and _has(lower, b"user ")
            and (_IRC_CLIENT1(orig) or _IRC_CLIENT2(orig))
            and _IRC_SERVER(resp)
        ):
            found.append("irc")
    if first == 5 and _SOCKS5_SERVER(resp) and _SOCKS5_CLIENT(orig):
        found.append("socks")
    for one, other in ((orig, resp), (resp, orig)):
        may_answer = other[5:6] == b"\xd0" or _has(other, b"McDn")
        if (
            may_answer
            and (_has(one, b"mstshash=") or _has(one, b"Duca"))
            and _RDP_CLIENT(one)
            and _RDP_SERVER(other)
        ):
            found.append("rdp")


def _has(data: bytes, piece: bytes) -> bool:
    """What `piece in data` says, which would take twice the time: it first tries to read `piece` as a number."""
    return data.find(piece) >= 0


def udp_signatures(datagram: bytes) -> list[str]:
    """The analyzers that one datagram asks for."""
    found: list[str] = []
    if not datagram:
        return found
    first = datagram[0]
    if datagram[236:240] == b"\x63\x82\x53\x63":
        found.append("dhcp")
    if first == 0x16 and _DTLS_CLIENT(datagram):
        found.append("dtls")
    elif first == 0xFF and 1132 <= len(datagram) <= 1232 and _RDPEUDP(datagram):
        found.append("rdpeudp")
    elif datagram.startswith(b"\x05\x64"):
        found.append("dnp3_udp")
    elif first in b"\x6a\x6b\x6c\x6d\x7e" and (_KRB_REQUEST(datagram) or _KRB_REPLY(datagram)):
        found.append("krb")
    if datagram.find(b"MQ", 4, 9) >= 4:
        found.append("mqtt")
    if (first >> 4 == 6 or (first == 0 and datagram[1:2] in (b"\0", b"\1"))) and _teredo(datagram):
        found.append("teredo")
    if datagram.find(b"SIP/", 0, 2048) >= 0 and (_SIP_REPLY(datagram) or _SIP_REQUEST(datagram)):
        found.append("sip")
    return found


def _teredo(datagram: bytes) -> bool:
    """TeredoAnalyzer::DetectProtocol: an IPv6 packet to or from Teredo's prefix, or one behind Teredo's headers."""
    if len(datagram) < 40:
        return False
    if datagram[0] >> 4 == 6:
        return datagram[8:12] == _TEREDO_PREFIX or datagram[24:28] == _TEREDO_PREFIX
    pos = 0
    if datagram[1] == 1:
        pos = 13 + datagram[2] + datagram[3]
    if datagram[pos : pos + 2] == b"\0\0":
        pos += 8
    return pos > 0 and len(datagram) - pos >= 40 and datagram[pos] >> 4 == 6


class Detector(Analyzer):
    """Feeds the analyzers of one connection, or of what it tunnels, and adds those that signatures ask for."""

    service: ClassVar[str] = "pia"
    _retried: frozenset[str] = frozenset()

    def __init__(self, session: Session, names: tuple[str, ...] = ()) -> None:
        super().__init__(session)
        self._analyzers: list[Analyzer] = []
        self._tried: dict[str, Analyzer] = {}
        self._agreed = ["", ""]  # what the responder's and the originator's first bytes asked for
        self.deaf = False  # signatures are still looked for, but no analyzer hears what is missing
        self._udp = session.ip_proto == 17
        self._matching = True
        self._heads = [b"", b""]  # responder's, originator's first bytes
        self._chunks: list[tuple[bool, bytes]] = []
        self._size = 0
        for name in names:
            self._add(name)

    def _add(self, name: str) -> Analyzer | None:
        """A new analyzer of that name beside those there are; None where there is one, or nobody makes any.

        One that refused the content is tried once more, as Zeek's signatures may attach it again.
        """
        tried = self._tried.get(name)
        if tried is not None and (not tried.refused or name in self._retried):
            return None
        if tried is not None:
            self._retried = self._retried | {name}
        analyzer = self.session.child(name)
        if analyzer is None:
            return None
        self._tried[name] = analyzer
        self._analyzers.append(analyzer)
        return analyzer

    def _replay(self, analyzer: Analyzer, ts: float) -> None:
        """Hands what was seen so far to a new analyzer, as if it came now.

        All of it, even if the analyzer refuses a part: Zeek lets go of analyzers only after the packet.
        """
        refused = False
        for is_orig, data in self._chunks:
            analyzer.done = False
            self.session.feed(analyzer, is_orig, ts, data)
            refused = refused or analyzer.done
        analyzer.done = refused

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        session = self.session
        if not self._matching:
            done = True
            for analyzer in self._analyzers:
                if not analyzer.done:
                    if not (analyzer.needs_start and session.partial):
                        session.feed(analyzer, is_orig, ts, data)
                    done = done and analyzer.done
            self.done = self.done or done
            return
        self.deaf = False
        there = [analyzer for analyzer in self._analyzers if not analyzer.done]
        for analyzer in there:
            if not (analyzer.needs_start and session.partial):
                session.feed(analyzer, is_orig, ts, data)
        if self._udp:
            if session.services and not self._chunks:
                return  # the port was right: a known service's datagrams need no signatures
            found = udp_signatures(data)
        else:
            if not data:
                return
            self._heads[is_orig] = (self._heads[is_orig] + data)[: 2 * BUFFER_SIZE]
            found = tcp_signatures(self._heads[1], self._heads[0], is_orig)
        self._chunks.append((is_orig, data))
        self._size += len(data)
        for name in found:
            self._agreed[is_orig] = name
            if name in ("http", "ssl") and self._tried.get(name) in there:
                continue  # one that refuses this very packet is there until its end; it may come back with the next
            added = self._add(name)
            if added is not None and not (added.needs_start and session.partial):
                self._replay(added, ts)
        both_agree = self._agreed[0] == self._agreed[1] and self._agreed[0] in ("http", "ssl")
        if both_agree or self._size > BUFFER_SIZE or len(self._chunks) > MAX_CHUNKS:
            self._matching = False
            self._chunks = []
            self._heads = [b"", b""]
        self._settle()

    def only(self) -> Analyzer | None:
        """The one analyzer that every further datagram goes to and to nothing else; None where there is more to it."""
        if self._udp and len(self._analyzers) == 1 and not self._chunks and self._matching:
            return None if self._analyzers[0].done else self._analyzers[0]
        return None

    def _settle(self) -> None:
        if not self._matching:
            for analyzer in self._analyzers:
                if not analyzer.done:
                    return
            self.done = True

    def gap(self, is_orig: bool, length: int) -> None:
        deaf = True
        for analyzer in self._analyzers:
            if not analyzer.done:
                analyzer.gap(is_orig, length)
                deaf = deaf and analyzer.done
        self.deaf = deaf
        self._settle()

    def skip(self, is_orig: bool) -> int:
        if self._matching:
            return 0
        least = NEVER
        for analyzer in self._analyzers:
            if not analyzer.done and (least := min(least, analyzer.skip(is_orig))) == 0:
                break
        return least

    def end(self) -> None:
        for analyzer in self._analyzers:
            analyzer.end()
