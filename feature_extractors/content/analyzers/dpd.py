"""Which analyzers a connection gets: by well-known port, and by the signatures of its first bytes.

Ports and signatures are those of Zeek 8.2.2 (scripts/base/protocols/*/main.zeek and dpd.sig, scripts/base/
packet-protocols/*/main.zeek); how they are matched mirrors src/analyzer/protocol/pia/PIA.cc: on the first 1,024 bytes
of both directions together, anchored at the beginning of each direction or datagram. All signatures of streams are one
automaton (two: what stands at the beginning, and what may come later), which looks at each byte once.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

from feature_extractors.content.analyzers.automaton import Automaton
from feature_extractors.content.analyzers.base import NEVER, Analyzer, Session

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
    "OPTIONS|GET|HEAD|POST|PUT|DELETE|ACL|BASELINE-CONTROL|BIND|CHECKIN|CHECKOUT|CONNECT|COPY|LABEL|LINK|LOCK|MERGE|"
    "MKACTIVITY|MKCALENDAR|MKCOL|MKREDIRECTREF|MOVE|ORDERPATCH|PATCH|PROPFIND|PROPPATCH|REBIND|REPORT|SEARCH|TRACE|"
    "UNBIND|UNCHECKOUT|UNLINK|UNLOCK|UPDATE|VERSION-CONTROL|BCOPY|BDELETE|BMOVE|BPROPFIND|BPROPPATCH|NOTIFY|POLL|"
    "SUBSCRIBE|UNSUBSCRIBE|X-MS-ENUMATTS|MKWORKSPACE|RPC_IN_DATA|RPC_OUT_DATA"
)
_KRB_REQUEST: Final = r"[\x6a\x6c].{1,4}\x30.{1,4}\xa1\x03\x02\x01\x05\xa2\x03\x02\x01"
_KRB_REPLY: Final = r"[\x6b\x6d\x7e].{1,4}\x30.{1,4}\xa0\x03\x02\x01\x05\xa1\x03\x02\x01"
_BLANKS: Final = r"[ \t\n\v\f\r]*"
_LINE: Final = r"(?:|.*[\n\r])"

_TEREDO_PREFIX: Final = b"\x20\x01\x00\x00"

# What one direction has shown
_HTTP_CLIENT: Final = 1 << 0
_HTTP_SERVER: Final = 1 << 1
_SSH: Final = 1 << 2
_TLS_CLIENT: Final = 1 << 3
_TLS_SERVER: Final = 1 << 4
_DCE_RPC: Final = 1 << 5
_SOCKS_CLIENT: Final = 1 << 6
_SOCKS_SERVER: Final = 1 << 7
_KERBEROS: Final = 1 << 8
_XMPP: Final = 1 << 9
_SMTP_SERVER: Final = 1 << 10
_DNP3: Final = 1 << 11
_POP3_SERVER: Final = 1 << 12
_RFB: Final = 1 << 13
_SMB: Final = 1 << 14
_MQTT: Final = 1 << 15
_RDP_SERVER: Final = 1 << 16
_SMTP_CLIENT: Final = 1 << 17
_POP3_CLIENT: Final = 1 << 18
_IRC_SERVER: Final = 1 << 19
_RDP_CLIENT: Final = 1 << 20
_FTP_CLIENT: Final = 1 << 21
_FTP_SERVER: Final = 1 << 22
_IRC_CLIENT: Final = 1 << 23
_IRC_PEER: Final = 1 << 24
# and the parts of what takes several lines
_GREETED: Final = 1 << 25
_USER: Final = 1 << 26
_NICK: Final = 1 << 27
_SERVER: Final = 1 << 28
_LOGGED_IN: Final = 1 << 29
_SETTLED: Final = _HTTP_SERVER | _SSH | _TLS_CLIENT | _TLS_SERVER  # what begins so is nothing else further on
_PARTS: Final = _GREETED | _USER | _NICK | _SERVER | _LOGGED_IN

# What must stand at the very beginning. A dot stands for any byte, as in Zeek's signatures.
_FIRST: Final = Automaton({
    _HTTP_CLIENT: (_BLANKS + "(?:" + _METHODS + ")", False),
    _HTTP_SERVER: ("HTTP/[0-9]", True),
    _SSH: (r"SSH-[12]\.", True),
    _TLS_CLIENT: (r"\x16\x03[\x00-\x03]..\x01...\x03[\x00-\x03]", False),
    _TLS_SERVER: (r"(?:\x15\x03[\x00-\x03]....)?\x16\x03[\x00-\x03]..\x02...(?:\x03[\x00-\x04]|\x7f[\x00-\x50])",
                  False),
    _DCE_RPC: (r"\x05[\x00\x01][\x00-\x13]", False),
    _SOCKS_CLIENT: (r"\x05.[\x00-\x03\x05-\x09]", False),
    _SOCKS_SERVER: (r"\x05[\x00-\x03\x05-\x09\xff]", False),
    _KERBEROS: (".{4}(?:" + _KRB_REQUEST + "|" + _KRB_REPLY + ")", False),
    _XMPP: (r"(?:<\?xml[^?>]*\?>)?[\n\r ]*<stream:stream [^>]*xmlns='jabber:", False),
    _SMTP_SERVER: (_BLANKS + r"220[ \t\n\v\f\r\-]", False),
    _DNP3: (r"\x05\x64", False),
    _POP3_SERVER: (r"\+OK", False),
    _RFB: ("RFB", False),
    _SMB: (r".{4}[\xfe\xff]SMB", False),
    _MQTT: (".{4,7}MQ", False),
    _RDP_SERVER: (r".{5}\xd0", False),
    _GREETED: (r"[\n\r ]*(?:120|220)[^0-9]", False),
}, soon=16)  # fmt: skip
# What may stand on any line, or anywhere
_LATER: Final = Automaton({
    _SMTP_CLIENT: (_LINE + _BLANKS + "(?:helo|ehlo)", True),
    _POP3_CLIENT: (_LINE + _BLANKS + r"(?:user[ \t\n\v\f\r]|apop[ \t\n\v\f\r]|capa|auth|stls)", True),
    _IRC_SERVER: (_LINE + r"(?::[^ \n\r]+ )?[0-9][0-9][0-9] ", False),
    _RDP_CLIENT: (".*(?:Cookie: mstshash=|Duca.*(?:rdpdr|rdpsnd|drdynvc|cliprdr))", False),
    _RDP_SERVER: (".*McDn", False),
    _USER: (_LINE + " *user ", True),
    _NICK: (_LINE + " *nick ", True),
    _SERVER: (_LINE + " *server +[^ ]+ +[0-9]+ +:", True),
    _LOGGED_IN: (_LINE + " *(?:230|331)[^0-9]", False),
})  # fmt: skip

_DTLS_CLIENT: Final = re.compile(rb"\x16\xfe[\xff\xfd]\x00{7}...\x01.{11}\xfe[\xff\xfd]", re.S)
_KRB: Final = re.compile((_KRB_REQUEST + "|" + _KRB_REPLY).encode(), re.S)  # 21 bytes at most
_SIP_REQUEST: Final = re.compile(rb" SIP/[0-9]\.[0-9]\r\n")
_SIP_REPLY: Final = re.compile(rb" ?SIP/[0-9]\.[0-9](?:\r\n| [0-9]{3} )")
_RDPEUDP: Final = re.compile(rb"\xff{4}...\x01", re.S)


# Most directions never need one of their own: what is empty is made when something goes into it.
_NO_LINES: Final[dict[int, int]] = {}
_NO_CHUNKS: Final[list[tuple[bool, bytes]]] = []


class Head:
    """The first `2 * BUFFER_SIZE` bytes of one direction, each looked at once and then forgotten."""

    __slots__ = ("_first", "_greeted", "_later", "_lines", "_newline", "_nick", "_size", "_user", "seen")

    def __init__(self) -> None:
        self.seen = 0  # which patterns are complete
        self._size = 0
        self._first = _FIRST.start
        self._later = _LATER.start
        self._newline = -1  # offset of the last one in what was looked at
        self._greeted = self._user = self._nick = -1  # offsets behind the first of each
        self._lines = _NO_LINES  # signatures that lack but a line's end, from which offset on

    def feed(self, data: bytes) -> None:
        if self._size + len(data) > 2 * BUFFER_SIZE:
            data = data[: max(2 * BUFFER_SIZE - self._size, 0)]
        base, size = self._size, len(data)
        state, pos = self._first, 0
        while pos < size and state != _FIRST.dead:
            state, pos, complete = _FIRST.run(state, data, pos)
            if complete:
                self.seen |= complete & ~_PARTS
                if complete & _GREETED and self._greeted < 0:
                    self._greeted = base + pos
        self._first = state
        if self.seen & _SETTLED:
            return
        state, pos = self._later, 0
        while pos < size:
            state, pos, complete = _LATER.run(state, data, pos)
            if complete:
                self.seen |= complete & ~_PARTS
                if complete & _PARTS:
                    self._part(complete, data, base, pos)
        self._later = state
        self._look_for_newline(data, base, size)
        self._size += size
        if not self._lines:
            return
        for name, least in list(self._lines.items()):
            at = max(least - base, 0)
            if data.find(b"\n", at) >= 0 or data.find(b"\r", at) >= 0:
                self.seen |= name
                del self._lines[name]

    def _part(self, complete: int, data: bytes, base: int, pos: int) -> None:
        """A line's beginning that counts by what came before it, complete with the byte before `pos`."""
        end = base + pos
        self._look_for_newline(data, base, pos - 1)
        newline = self._newline
        if complete & _LOGGED_IN and 0 <= self._greeted <= newline:
            self.seen |= _FTP_SERVER
        if complete & _SERVER:
            self._await_line(_IRC_PEER, self._lines.get(_IRC_PEER, end + 1))
        if complete & _USER:
            self.seen |= _FTP_CLIENT
            if 0 <= self._nick < newline:
                self._await_client(end + 1)
            if self._user < 0:
                self._user = end
        if complete & _NICK:
            if 0 <= self._user < newline:
                self._await_client(end)
            if self._nick < 0:
                self._nick = end

    def _look_for_newline(self, data: bytes, base: int, end: int) -> None:
        looked_at = max(self._newline + 1 - base, 0)
        last = max(data.rfind(b"\n", looked_at, end), data.rfind(b"\r", looked_at, end))
        if last >= 0:
            self._newline = base + last

    def _await_client(self, least: int) -> None:
        if not self.seen & _IRC_CLIENT:
            self._await_line(_IRC_CLIENT, min(least, self._lines.get(_IRC_CLIENT, least)))

    def _await_line(self, signature: int, least: int) -> None:
        if not self._lines:
            self._lines = {}
        self._lines[signature] = least


def tcp_signatures(orig: bytes, resp: bytes, is_orig: bool) -> list[str]:
    """The analyzers that the first bytes of both directions ask for, now that there is more of direction `is_orig`."""
    heads = Head(), Head()
    heads[1].feed(orig)
    heads[0].feed(resp)
    return _asked_for(heads[1].seen, heads[0].seen, is_orig)


def _asked_for(orig: int, resp: int, is_orig: bool) -> list[str]:
    """The same by what the originator and the responder have shown."""
    found: list[str] = []
    mine = orig if is_orig else resp
    if not mine:
        return found
    if is_orig:
        if mine & _TLS_CLIENT:
            found.append("ssl")
        elif mine & _HTTP_CLIENT:
            found.append("http")
        if orig & resp & _IRC_PEER:
            found.append("irc")
    else:
        if mine & _HTTP_SERVER:
            found.append("http")
        elif mine & _TLS_SERVER:
            found.append("ssl")
        if mine & _DNP3:
            found.append("dnp3_tcp")
    if mine & _DCE_RPC:
        found.append("dce_rpc")
    if mine & _SMB:
        found.append("smb")
    if mine & _KERBEROS:
        found.append("krb_tcp")
    if mine & _MQTT:
        found.append("mqtt")
    if mine & _XMPP:
        found.append("xmpp")
    if orig and resp:
        _pairs(orig, resp, found)
    return found


def _pairs(orig: int, resp: int, found: list[str]) -> None:
    """Signatures that ask for one pattern in each direction."""
    if orig & resp & _SSH:
        found.append("ssh")
    if orig & resp & _RFB:
        found.append("rfb")
    if resp & _POP3_SERVER and orig & _POP3_CLIENT:
        found.append("pop3")
    if resp & _SMTP_SERVER and orig & _SMTP_CLIENT:
        found.append("smtp")
    if resp & _FTP_SERVER and orig & _FTP_CLIENT:
        found.append("ftp")
    if orig & _IRC_CLIENT and resp & _IRC_SERVER:
        found.append("irc")
    if resp & _SOCKS_SERVER and orig & _SOCKS_CLIENT:
        found.append("socks")
    if orig & _RDP_CLIENT and resp & _RDP_SERVER:
        found.append("rdp")
    if resp & _RDP_CLIENT and orig & _RDP_SERVER:
        found.append("rdp")


def udp_signatures(datagram: bytes) -> list[str]:
    """The analyzers that one datagram asks for."""
    found: list[str] = []
    if not datagram:
        return found
    first = datagram[0]
    if datagram[236:240] == b"\x63\x82\x53\x63":
        found.append("dhcp")
    if first == 0x16 and _DTLS_CLIENT.match(datagram):
        found.append("dtls")
    elif first == 0xFF and 1132 <= len(datagram) <= 1232 and _RDPEUDP.match(datagram):
        found.append("rdpeudp")
    elif datagram.startswith(b"\x05\x64"):
        found.append("dnp3_udp")
    elif first in b"\x6a\x6b\x6c\x6d\x7e" and _KRB.match(datagram):
        found.append("krb")
    if datagram.find(b"MQ", 4, 9) >= 4:
        found.append("mqtt")
    if (first >> 4 == 6 or (first == 0 and datagram[1:2] in (b"\0", b"\1"))) and _teredo(datagram):
        found.append("teredo")
    if datagram.find(b"SIP/", 0, 2048) >= 0 and (_SIP_REPLY.match(datagram) or _SIP_REQUEST.search(datagram)):
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
        self._orig_asks = self._resp_asks = ""  # what each side's first bytes asked for
        self.ignored = False  # signatures are still looked for, but no analyzer hears what is missing
        self._udp = session.ip_proto == 17
        self._matching = True
        self._heads: tuple[Head, Head] | None = None  # responder's, originator's first bytes, of TCP
        self._chunks = _NO_CHUNKS
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
        self.ignored = False
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
            heads = self._heads
            if heads is None:
                heads = self._heads = Head(), Head()
            heads[is_orig].feed(data)
            found = _asked_for(heads[1].seen, heads[0].seen, is_orig)
        if not self._chunks:
            self._chunks = []
        self._chunks.append((is_orig, data))
        self._size += len(data)
        for name in found:
            if is_orig:
                self._orig_asks = name
            else:
                self._resp_asks = name
            if name in ("http", "ssl") and self._tried.get(name) in there:
                continue  # one that refuses this very packet is there until its end; it may come back with the next
            added = self._add(name)
            if added is not None and not (added.needs_start and session.partial):
                self._replay(added, ts)
        both_agree = self._orig_asks == self._resp_asks and self._orig_asks in ("http", "ssl")
        if both_agree or self._size > BUFFER_SIZE or len(self._chunks) > MAX_CHUNKS:
            self._matching = False
            self._chunks = _NO_CHUNKS
        self._settle()

    def sole_analyzer(self) -> Analyzer | None:
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
        ignored = True
        for analyzer in self._analyzers:
            if not analyzer.done:
                analyzer.gap(is_orig, length)
                ignored = ignored and analyzer.done
        self.ignored = ignored
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
