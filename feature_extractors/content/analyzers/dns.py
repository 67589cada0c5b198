"""DNS, and its kin on the same wire format: mDNS, LLMNR and NetBIOS names; as Zeek's dns.log has them.

Mirrors src/analyzer/protocol/dns/DNS.cc and scripts/base/protocols/dns/main.zeek of Zeek 8.2.2. A message never
costs more than `MAX_NAMES` names of at most 255 labels, whatever its compression pointers say.
"""

from __future__ import annotations

import re
import struct
from collections import deque
from socket import inet_ntoa
from typing import ClassVar, Final

from feature_extractors.content.analyzers.base import Analyzer, Fields, Framed, ParseError, Session, text
from feature_extractors.content.analyzers.dns_columns import Messages
from feature_extractors.content.analyzers.ip import address

MAX_QUERIES: Final = 25  # Zeek's dns_max_queries
MAX_DEPTH: Final = 20  # Zeek's dns_max_compression_chain_depth
MAX_NAMES: Final = 512  # names read of one message; a longer message is cut there and counted
MAX_NAME: Final = 511  # bytes of a name in text
MAX_EXPANDED: Final = 16 * 1024  # bytes of all names of one message, and four times the message's own
NETBIOS: Final = 137

_HEADER: Final = struct.Struct(">6H")
_RR: Final = struct.Struct(">HHIH")
_EMPTY: Final = re.compile(rb"(?:\0\0)*+")
_TWO: Final = struct.Struct(">HH")

# IANA's DNS parameters, as named in scripts/base/protocols/dns/consts.zeek
QTYPES: Final = {
    1: "A", 2: "NS", 3: "MD", 4: "MF", 5: "CNAME", 6: "SOA", 7: "MB", 8: "MG", 9: "MR", 10: "NULL", 11: "WKS",
    12: "PTR", 13: "HINFO", 14: "MINFO", 15: "MX", 16: "TXT", 17: "RP", 18: "AFSDB", 19: "X25", 20: "ISDN", 21: "RT",
    22: "NSAP", 23: "NSAP-PTR", 24: "SIG", 25: "KEY", 26: "PX", 27: "GPOS", 28: "AAAA", 29: "LOC", 30: "NXT",
    31: "EID", 32: "NIMLOC", 33: "SRV", 34: "ATMA", 35: "NAPTR", 36: "KX", 37: "CERT", 38: "A6", 39: "DNAME",
    40: "SINK", 41: "OPT", 42: "APL", 43: "DS", 44: "SSHFP", 45: "IPSECKEY", 46: "RRSIG", 47: "NSEC", 48: "DNSKEY",
    49: "DHCID", 50: "NSEC3", 51: "NSEC3PARAM", 52: "TLSA", 53: "SMIMEA", 55: "HIP", 56: "NINFO", 57: "RKEY",
    58: "TALINK", 59: "CDS", 60: "CDNSKEY", 61: "OPENPGPKEY", 62: "CSYNC", 63: "ZONEMD", 64: "SVCB", 65: "HTTPS",
    99: "SPF", 100: "UINFO", 101: "UID", 102: "GID", 103: "UNSPEC", 104: "NID", 105: "L32", 106: "L64", 107: "LP",
    108: "EUI48", 109: "EUI64", 249: "TKEY", 250: "TSIG", 251: "IXFR", 252: "AXFR", 253: "MAILB", 254: "MAILA",
    255: "*", 256: "URI", 257: "CAA", 32768: "TA", 32769: "DLV", 65281: "WINS", 65282: "WINS-R", 65422: "XPF",
    65521: "INTEGRITY",
}  # fmt: skip
RCODES: Final = (
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSet", "NOTAUTH",
    "NOTZONE", "unassigned-11", "unassigned-12", "unassigned-13", "unassigned-14", "unassigned-15",
)  # fmt: skip
QCLASSES: Final = {1: "C_INTERNET", 2: "C_CSNET", 3: "C_CHAOS", 4: "C_HESIOD", 254: "C_NONE", 255: "C_ANY"}
OPCODES: Final = {0: "query", 1: "iquery", 2: "server-status", 4: "notify", 5: "dynamic-update", 6: "dso"}
NETBIOS_OPCODES: Final = {
    0: "netbios-query", 5: "netbios-registration", 6: "netbios-release", 7: "netbios-wack", 8: "netbios-refresh",
}  # fmt: skip

_Pending = tuple[Fields, float]


class _Malformed(Exception):
    """The rest of this message cannot be read; what was read stands."""


class _Message:
    """One message under the cursor: names with their compression, and how many more may be read."""

    __slots__ = ("data", "end", "names", "netbios", "odd", "pos", "room", "seen")

    def __init__(self, data: bytes, netbios: bool) -> None:
        self.data = data
        self.end = len(data)
        self.pos = 12
        self.netbios = netbios
        self.names = MAX_NAMES
        self.room = MAX_EXPANDED + 4 * len(data)  # bytes that names may still become
        self.odd: list[str] = []  # what weird.log tells of it
        self.seen: dict[int, bytes] = {}  # names by the offset that a pointer to them gives

    def name(self) -> bytes:
        """The name under the cursor, labels joined by dots, as sent. Leaves the cursor behind it."""
        self.names -= 1
        if self.names < 0:
            raise _Malformed
        start = self.pos
        data = self.data
        out = None
        if start + 1 < self.end and data[start] >= 0xC0:
            target = (data[start] & 0x3F) << 8 | data[start + 1]
            if target < start:
                out = self.seen.get(target)
        if out is None:
            out, self.pos = self._labels(start, self.end, 0)
        else:
            self.pos = start + 2
        if len(out) > MAX_NAME:
            out = out[:MAX_NAME]
        self.room -= len(out)
        if self.room < 0:
            raise _Malformed
        self.seen[start] = out
        return out

    def _labels(self, pos: int, end: int, depth: int) -> tuple[bytes, int]:
        data = self.data
        labels: list[bytes] = []
        size = 0
        while pos < end:
            n = data[pos]
            if n == 0:
                pos += 1
                break
            if pos + 1 >= end:
                pos = end
                break
            if n >= 0xC0:
                target = (n & 0x3F) << 8 | data[pos + 1]
                if target < pos:
                    known = self.seen.get(target)
                    if known is None:
                        known = b""
                        if depth < MAX_DEPTH:
                            self.names -= 1
                            if self.names < 0:
                                raise _Malformed
                            known = self._labels(target, pos, depth + 1)[0]
                        else:
                            self.odd.append("DNS_max_compression_chain_depth_exceeded")
                        self.seen[target] = known
                    if known:
                        labels.append(known)
                else:
                    self.odd.append("DNS_label_forward_compress_offset")
                pos += 2
                break
            pos += 1
            if n > end - pos:
                self.odd.append("DNS_label_len_gt_pkt")
                pos = end
                break
            if n > 63 and not self.netbios:
                self.odd.append("DNS_label_too_long")
                break
            if size + n >= MAX_NAME:
                self.odd.append("DNS_label_len_gt_name_len")
                break
            size += n + 1
            labels.append(data[pos : pos + n])
            pos += n
        return b".".join(labels), pos


class Dns(Analyzer):
    """Queries paired with their answers by transaction id; over TCP, messages behind their two-byte lengths."""

    service: ClassVar[str] = "dns"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._brief = session.brief
        self._netbios = NETBIOS in (session.orig_p, session.resp_p)
        self._long_labels = session.resp_p == NETBIOS
        self._first: tuple[int, Fields, float] | None = None
        self._queries: dict[int, deque[_Pending]] = {}
        self._replies: dict[int, deque[_Pending]] = {}
        self._proto = "udp" if session.ip_proto == 17 else "tcp"
        self._streams = (Framed(65536 + 2), Framed(65536 + 2)) if session.ip_proto == 6 else None

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        if self._streams is None:
            self._message(ts, data)
            return
        stream = self._streams[is_orig]
        stream.feed(data)
        while (head := stream.peek(2)) is not None:
            length = head[0] << 8 | head[1]
            if not length and stream.past(_EMPTY):
                continue
            whole = stream.take(2 + length)
            if whole is None:
                return
            self._message(ts, whole[2:])

    def _message(self, ts: float, data: bytes) -> None:
        if len(data) < 12:
            self.session.weird(ts, "DNS_truncated_len_lt_hdr_len", "DNS")
            return
        trans_id, flags, queries, answers, authorities, additional = _HEADER.unpack_from(data)
        opcode = flags >> 11 & 15
        if opcode not in (0, 4, 5) and not self._netbios:
            self.session.weird(ts, "DNS_unknown_opcode", "DNS", str(opcode))
            return
        entry, began = self._pair(ts, trans_id, flags, opcode, queries, answers + authorities + additional)
        if queries > MAX_QUERIES:
            self.session.weird(ts, "DNS_Conn_count_too_large", "DNS")
            raise ParseError("dns_count_too_large")
        message = _Message(data, self._long_labels)
        try:
            if opcode == 5 and not self._netbios:
                self._update(message, flags, queries, answers, authorities, entry)
            else:
                for _ in range(queries):
                    self._question(message, flags, opcode, entry, bool(answers + authorities + additional))
                for _ in range(answers):
                    self._answer(message, flags, ts, entry, began)
            if flags >= 0x8000:
                self.session.at(entry, ts)
            self.session.confirm(self.service)
        except _Malformed:
            if message.names < 0 or message.room < 0:
                self.session.counts.add("dns_too_many_names")
        for odd in message.odd:
            self.session.weird(ts, odd, "DNS")

    def plain(self, ts: float, messages: Messages, which: int) -> None:
        """Takes a datagram that was read with its block, as `data` takes any other. Not for NetBIOS."""
        row = messages.rows[which]
        trans_id, flags, queries, records, begin, end, plain, qtype, qclass, first, last = row
        if flags < 0x8000 and self._first is None and not self._replies:  # as _pair has it, the frequent case
            entry = self._begun(trans_id)
            self.session.log("dns", ts, entry)
            self._first = trans_id, entry, ts
            began = ts
        else:
            entry, began = self._pair(ts, trans_id, flags, 0, queries, records)
        if queries and flags < 0x8000:
            if not self._brief:
                self._asked(entry, flags, qtype, qclass)
            entry["qtype_name"] = QTYPES.get(qtype) or f"query-{qtype}"
            entry["query"] = messages.words[begin:end] if plain else text(messages.text[begin:end])
        if last > first and flags >= 0x8000:
            words, answers = messages.words, messages.answers[first:last]
            if "query" not in entry:
                _, _, _, _, owner, owner_end, owner_plain = answers[0]
                entry["query"] = (
                    words[owner:owner_end] if owner_plain else text(messages.text[owner:owner_end])
                )
            if not self._brief:
                entry["AA"] = flags & 0x400 != 0
                entry["RA"] = flags & 0x80 != 0
            if "rtt" not in entry and ts != began:
                entry["rtt"] = ts - began
            for ttl, begin, end, plain, _, _, _ in answers:
                if end > begin:
                    said = words[begin:end] if plain else text(messages.text[begin:end])
                    self._say(entry, said, float(ttl))
        if flags >= 0x8000:
            self.session.at(entry, ts)
        self.session.confirm(self.service)

    def _begun(self, trans_id: int) -> Fields:
        """The fields of a new entry, an ordinary query's."""
        if self._brief:
            return {"proto": self._proto}
        return {
            "proto": self._proto, "trans_id": trans_id, "AA": False, "TC": False, "RD": False, "RA": False,
            "Z": 0, "rejected": False, "opcode": 0, "opcode_name": "query",
        }  # fmt: skip

    def _asked(self, entry: Fields, flags: int, qtype: int, qclass: int) -> None:
        """What dns.log says of a query beside its name and the name of its type."""
        entry["RD"] = flags & 0x100 != 0
        entry["TC"] = flags & 0x200 != 0
        entry["Z"] = flags >> 4 & 7
        entry["qclass"] = qclass
        entry["qclass_name"] = QCLASSES.get(qclass) or f"qclass-{qclass}"
        entry["qtype"] = qtype

    def _pair(
        self, ts: float, trans_id: int, flags: int, opcode: int, queries: int, records: int
    ) -> tuple[Fields, float]:
        """The entry this message belongs to, and when it began: a new one, or that of the message's counterpart."""
        is_query = flags < 0x8000
        found: Fields | None = None
        began = ts
        if opcode not in (0, 4, 5):
            return {}, ts
        if is_query:
            waiting = self._replies.get(trans_id)
            if waiting:
                found, began = waiting.popleft()
                if not waiting:
                    del self._replies[trans_id]
        elif self._first is not None and self._first[0] == trans_id:
            _, found, began = self._first
            self._first = None
            if self._queries:
                self._first = self._promote(trans_id)
        elif trans_id in self._queries:
            queue = self._queries[trans_id]
            found, began = queue.popleft()
            if not queue:
                del self._queries[trans_id]
        if found is None:
            found = self._begun(trans_id)
            self.session.log("dns", ts, found)
            if not is_query:
                self._enqueue(self._replies, trans_id, found, ts)
            elif self._first is None:
                self._first = trans_id, found, ts
            else:
                self._enqueue(self._queries, trans_id, found, ts)
        if not is_query:
            found["rcode_name"] = RCODES[flags & 15]
        if self._brief:
            return found, began
        found["opcode"] = opcode
        if self._netbios:
            found["opcode_name"] = NETBIOS_OPCODES.get(opcode) or f"netbios-opcode-{opcode}"
        else:
            found["opcode_name"] = OPCODES.get(opcode) or f"opcode-{opcode}"
        if not is_query:
            rcode = flags & 15
            found["rcode"] = rcode
            if rcode and not queries:
                found["rejected"] = True
            if queries and not records:
                found["rejected"] = True
        return found, began

    def _promote(self, trans_id: int) -> tuple[int, Fields, float]:
        """Takes a waiting query to the fast place: one of this id before any other."""
        if trans_id not in self._queries:
            trans_id = next(iter(self._queries))
        queue = self._queries[trans_id]
        fields, ts = queue.popleft()
        if not queue:
            del self._queries[trans_id]
        return trans_id, fields, ts

    def _enqueue(self, table: dict[int, deque[_Pending]], trans_id: int, fields: Fields, ts: float) -> None:
        queue = table.get(trans_id)
        if queue is None:
            if len(table) > self.session.limits.transactions // 2:
                table.clear()
            queue = table[trans_id] = deque()
        elif len(queue) > self.session.limits.transactions // 2:
            queue.clear()
        queue.append((fields, ts))

    def _question(self, message: _Message, flags: int, opcode: int, entry: Fields, has_records: bool) -> None:
        raw = message.name()
        pos = message.pos
        if pos + 4 > message.end:
            message.odd.append("DNS_truncated_quest_too_short")
            raise _Malformed
        qtype, qclass = _TWO.unpack_from(message.data, pos)
        message.pos = pos + 4
        if flags >= 0x8000 or opcode not in (0, 4, 5):
            return
        if not self._brief:
            self._asked(entry, flags, qtype, qclass)
        name = QTYPES.get(qtype) or f"query-{qtype}"
        query = raw.lower()
        if self._long_labels:
            query = netbios_name(query) or query
            if name == "SRV":
                name = "NBSTAT"
        entry["qtype_name"] = name
        entry["query"] = text(query)

    def _answer(self, message: _Message, flags: int, ts: float, entry: Fields, began: float) -> None:
        name = message.name()
        pos = message.pos
        data = message.data
        if pos + 10 > message.end:
            message.odd.append("DNS_truncated_ans_too_short")
            raise _Malformed
        rtype, rclass, ttl, length = _RR.unpack_from(data, pos)
        pos += 10
        end = pos + length
        if end > message.end or (length == 0 and pos < message.end):
            message.odd.append(
                "DNS_truncated_RR_rdlength_lt_len" if end > message.end else "DNS_zero_rdlength"
            )
            raise _Malformed
        message.pos = pos
        if rtype == 1:
            if length != 4:
                raise _Malformed
            said: str | None = inet_ntoa(data[pos:end])
        elif rtype in (28, 38):
            if length < 16:
                raise _Malformed
            said = address(data[pos : pos + 16])
            end = pos + 16
        elif rtype in (5, 12, 2):
            said = text(message.name().lower())
            end = message.pos
        else:
            said = _other(message, rtype, rclass, name, pos, end, self._long_labels)
            if rtype in (6, 15):
                end = max(end, message.pos)
        message.pos = end
        if said is None or flags < 0x8000 or not entry:
            return
        if "query" not in entry:
            entry["query"] = text(name.lower())
        if not self._brief:
            entry["AA"] = flags & 0x400 != 0
            entry["RA"] = flags & 0x80 != 0
        if "rtt" not in entry and ts != began:
            entry["rtt"] = ts - began
        if said:
            self._say(entry, said, float(ttl))

    def _say(self, entry: Fields, said: str, ttl: float) -> None:
        answers = entry.get("answers")
        if answers is None:
            entry["answers"] = [said]
            entry["TTLs"] = [ttl]
        elif isinstance(answers, list) and len(answers) < 100:
            answers.append(said)
            ttls = entry["TTLs"]
            if isinstance(ttls, list):
                ttls.append(ttl)

    def _update(
        self, message: _Message, flags: int, zones: int, prerequisites: int, updates: int, entry: Fields
    ) -> None:
        """A dynamic update (RFC 2136): one zone, what must hold, and what to change."""
        if zones != 1:
            raise _Malformed
        message.name()
        if message.pos + 4 > message.end:
            raise _Malformed
        rtype = _TWO.unpack_from(message.data, message.pos)[0]
        message.pos += 4
        if rtype != 6:
            raise _Malformed
        for _ in range(prerequisites + updates):
            message.name()
            pos = message.pos
            if pos + 10 > message.end:
                raise _Malformed
            length = _RR.unpack_from(message.data, pos)[3]
            if pos + 10 + length > message.end:
                raise _Malformed
            message.pos = pos + 10 + length


def netbios_name(encoded: bytes) -> bytes:
    """The NetBIOS name behind its half-byte encoding (RFC 1001, 14.1), unpadded; empty if it is none."""
    if len(encoded) != 32:
        return b""
    out = bytearray()
    for high, low in zip(encoded.upper()[::2], encoded.upper()[1::2], strict=True):
        if not (65 <= high <= 80 and 65 <= low <= 80):
            return b""
        byte = (high - 65) << 4 | low - 65
        if not (33 <= byte <= 126 or byte == 32 or byte < 3):
            break
        out.append(byte)
    return bytes(out[:15]).rstrip(b" \0")


def _strings(data: bytes, pos: int, end: int) -> list[bytes]:
    out = []
    while pos < end:
        n = data[pos]
        if pos + 1 + n > end:
            break
        out.append(data[pos + 1 : pos + 1 + n])
        pos += 1 + n
    return out


def _other(
    message: _Message, rtype: int, rclass: int, name: bytes, pos: int, end: int, netbios: bool
) -> str | None:
    """What dns.log says of a record of a rarer type; None where Zeek says nothing at all. Raises `_Malformed`."""
    data = message.data
    length = end - pos
    if rtype in (16, 99):
        kind = QTYPES[rtype]
        return " ".join(f"{kind} {len(s)} {text(s)}" for s in _strings(data, pos, end))
    if rtype == 6:
        said = text(message.name().lower())
        message.name()
        if message.pos + 20 > message.end:
            raise _Malformed
        message.pos += 20
        return said
    if rtype == 15:
        message.pos = pos + 2
        return text(message.name().lower())
    if rtype == 33:
        if netbios:
            return None
        message.pos = pos + 6
        return text(message.name().lower())
    if rtype == 46 and length >= 18:
        message.pos = pos + 18
        return f"RRSIG {_TWO.unpack_from(data, pos)[0]} {text(message.name().lower()) or '<Root>'}"
    if rtype == 48 and length >= 4:
        return f"DNSKEY {data[pos + 3]}"
    if rtype == 43 and length >= 4:
        return f"DS {data[pos + 2]} {data[pos + 3]}"
    if rtype == 47:
        return f"NSEC {text(name.lower())} {text(message.name().lower())}"
    if rtype == 50:
        return "NSEC3"
    if rtype == 51:
        return "NSEC3PARAM"
    if rtype == 44 and length >= 2:
        return "SSHFP: " + data[pos + 2 : end].hex()
    if rtype == 35 and length >= 5:
        order, preference = _TWO.unpack_from(data, pos)
        parts = _strings(data, pos + 4, end)[:3]
        if len(parts) < 3:
            raise ParseError("dns_naptr_too_short")
        message.pos = pos + 4 + sum(len(p) + 1 for p in parts)
        tail = " ".join(filter(None, (text(parts[2]), text(message.name()))))
        return f"NAPTR {order} {preference} {text(parts[0])} {text(parts[1])} {tail}"
    if rtype == 11:
        return ""
    if rtype in (13, 32, 41, 64, 65, 249, 250, 257, 65534, 29):
        return None
    return f"<unknown type={rtype}>"
