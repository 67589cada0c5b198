"""Short conversations of many protocols, each with the rows that Zeek's logs have of it.

Written by hand from the protocols' specifications; the values expected follow from the bytes, not from our analyzers.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import handmade
from made_segments import Said

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Talk:
    """Who says what to which port, and the rows expected by log: the fields that are named, of each row in order."""

    proto: int
    port: int
    said: list[Said]
    rows: Mapping[str, list[Row]]
    orig_p: int = 40000


def der(tag: int, content: bytes) -> bytes:
    """One element of DER, short or long."""
    if len(content) < 128:
        return bytes([tag, len(content)]) + content
    return bytes([tag, 0x82]) + len(content).to_bytes(2, "big") + content


def _name(name: str) -> bytes:
    return b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0"


def _dns() -> Talk:
    question = _name("www.example.com") + struct.pack(">HH", 1, 1)
    query = struct.pack(">6H", 0x1234, 0x0100, 1, 0, 0, 0) + question
    answer = (
        struct.pack(">6H", 0x1234, 0x8180, 1, 1, 0, 0) + question
        + b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 300, 4) + bytes([192, 0, 2, 7])
    )  # fmt: skip
    row = {
        "proto": "udp", "trans_id": 0x1234, "rtt": 1.0, "query": "www.example.com", "qclass": 1,
        "qclass_name": "C_INTERNET", "qtype": 1, "qtype_name": "A", "rcode": 0, "rcode_name": "NOERROR", "AA": False,
        "TC": False, "RD": True, "RA": True, "Z": 0, "answers": ["192.0.2.7"], "TTLs": [300.0], "rejected": False,
    }  # fmt: skip
    return Talk(17, 53, [(True, query), (False, answer)], {"dns": [row]})


def _http() -> Talk:
    body = b"<html><body>It works, it really does.</body></html>"
    form = (
        b"--xx\r\nContent-Disposition: form-data; name=\"f\"; filename=\"notes.txt\"\r\n\r\nten letters and more\r\n"
        b"--xx--\r\n"
    )  # fmt: skip
    asked = (
        b"GET /a%20b?c HTTP/1.1\r\nHost: intranet.example\r\nUser-Agent: curl/8\r\nReferer: http://from.example/\r\n"
        b"Authorization: Basic " + base64.b64encode(b"anna:secret") + b"\r\nX-Forwarded-For: 192.0.2.9\r\n\r\n"
    )  # fmt: skip
    posted = (
        b"POST /up HTTP/1.1\r\nHost: intranet.example\r\nContent-Type: multipart/form-data; boundary=xx\r\n"
        b"Content-Length: %d\r\n\r\n" % len(form)
    ) + form  # fmt: skip
    return Talk(6, 80, [
        (True, asked),
        (False, b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(body) + body),
        (True, posted),
        (False, b"HTTP/1.1 204 No Content\r\n\r\n"),
        (True, b"FETCH / HTTP/1.1\r\nHost: intranet.example\r\n\r\n"),
    ], {
        "http": [
            {
                "trans_depth": 1, "method": "GET", "host": "intranet.example", "uri": "/a b?c", "version": "1.1",
                "referrer": "http://from.example/", "user_agent": "curl/8", "username": "anna", "status_code": 200,
                "status_msg": "OK", "request_body_len": 0, "response_body_len": len(body), "tags": [],
                "proxied": ["X-FORWARDED-FOR -> 192.0.2.9"], "resp_mime_types": ["text/html"],
            },
            {
                "trans_depth": 2, "method": "POST", "uri": "/up", "request_body_len": len(form), "status_code": 204,
                "orig_filenames": ["notes.txt"], "orig_mime_types": ["text/plain"],
            },
            {"trans_depth": 3, "method": "FETCH", "response_body_len": 0},
        ],
        "files": [
            {
                "source": "HTTP", "depth": 0, "mime_type": "text/html", "duration": 0.0, "is_orig": False,
                "seen_bytes": len(body), "total_bytes": len(body), "missing_bytes": 0, "timedout": False,
            },
            {"source": "HTTP", "filename": "notes.txt", "mime_type": "text/plain", "is_orig": True, "seen_bytes": 20},
        ],
        "weird": [{"name": "unknown_HTTP_method", "addl": "FETCH", "notice": False, "peer": "zeek"}],
    })  # fmt: skip


def _smtp() -> Talk:
    mail = (
        b"Received: from relay.example ([192.0.2.55]) by mx.example\r\nFrom: Anna <anna@example.org>\r\n"
        b"To: bert@example.com, \"C, D\" <cd@example.com>\r\nSubject: Hello\r\n"
        b"Date: Mon, 30 Nov 2026 10:00:00 +0000\r\n"
        b"Message-ID: <1@example.org>\r\nContent-Type: multipart/mixed; boundary=\"zz\"\r\n\r\n"
        b"--zz\r\n\r\nplain words here\r\n--zz\r\nContent-Type: application/pdf; name=\"a.pdf\"\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\n" + base64.b64encode(b"%PDF-1.4 nothing in it")
        + b"\r\n--zz--\r\n.\r\n"
    )  # fmt: skip
    return Talk(6, 25, [
        (False, b"220 mx.example ESMTP\r\n"), (True, b"EHLO client.example\r\n"), (False, b"250 mx.example\r\n"),
        (True, b"MAIL FROM:<anna@example.org>\r\n"), (False, b"250 ok\r\n"),
        (True, b"RCPT TO:<bert@example.com>\r\n"), (False, b"250 ok\r\n"),
        (True, b"DATA\r\n"), (False, b"354 go on\r\n"), (True, mail), (False, b"250 queued as 7\r\n"),
        (True, b"QUIT\r\n"), (False, b"221 bye\r\n"),
    ], {
        "smtp": [{
            "trans_depth": 1, "helo": "client.example", "mailfrom": "anna@example.org", "rcptto": ["bert@example.com"],
            "date": "Mon, 30 Nov 2026 10:00:00 +0000", "from": "Anna <anna@example.org>", "subject": "Hello",
            "to": ["bert@example.com", "\"C, D\" <cd@example.com>"], "msg_id": "<1@example.org>",
            "last_reply": "250 queued as 7", "tls": False, "path": ["192.0.2.55"],
        }],
        "files": [
            {"source": "SMTP", "depth": 2, "mime_type": "text/plain", "seen_bytes": 16, "is_orig": True},
            {"source": "SMTP", "depth": 3, "mime_type": "application/pdf", "filename": "a.pdf", "seen_bytes": 22},
        ],
    })  # fmt: skip


def _ftp() -> Talk:
    return Talk(6, 21, [
        (False, b"220 ready\r\n"), (True, b"USER anonymous\r\n"), (False, b"331 guest ok\r\n"),
        (True, b"PASS me@example.org\r\n"), (False, b"230 in\r\n"), (True, b"CWD /pub\r\n"), (False, b"250 ok\r\n"),
        (True, b"PASV\r\n"), (False, b"227 Entering Passive Mode (192,0,2,8,19,137)\r\n"),
        (True, b"RETR list.txt\r\n"), (False, b"150 Opening (1234 bytes)\r\n"), (False, b"226 done\r\n"),
        (True, b"STOR mine.txt\r\n"),
    ], {
        "ftp": [
            {
                "user": "anonymous", "password": "me@example.org", "command": "PASV", "reply_code": 227,
                "reply_msg": "Entering Passive Mode (192,0,2,8,19,137)", "data_channel.passive": True,
                "data_channel.orig_h": "<orig>", "data_channel.resp_h": "192.0.2.8", "data_channel.resp_p": 5001,
            },
            {"command": "RETR", "arg": "/pub/list.txt", "file_size": 1234, "reply_code": 226, "reply_msg": "done"},
            {"command": "STOR", "arg": "/pub/mine.txt"},
        ],
    })  # fmt: skip


def _smb2(command: int, body: bytes, *, answer: bool, message: int, tree: int = 0, status: int = 0) -> bytes:
    head = b"\xfeSMB" + struct.pack(
        "<HHIHHIIQIIQ", 64, 0, status, command, 1, int(answer), 0, message, 0, tree, 1
    )
    whole = head + bytes(16) + body
    return len(whole).to_bytes(4, "big") + whole


def _smb() -> Talk:
    path, name, data = "\\\\srv\\docs".encode("utf-16-le"), "plan.txt".encode("utf-16-le"), b"to be written!"
    fid = struct.pack("<QQ", 5, 2)
    times = [int((t + 11644473600) * 1e7) for t in (1000, 2000, 3000, 4000)]
    create = (
        struct.pack("<HBBIQQIIIIIHHII", 57, 0, 0, 2, 0, 0, 0x12019F, 0, 7, 1, 0, 120, len(name), 0, 0) + name
    )
    created = struct.pack("<HBBI4QQQII", 89, 0, 0, 1, *times, 4096, 14, 0, 0) + fid + bytes(8)
    return Talk(6, 445, [
        (True, _smb2(3, struct.pack("<HHHH", 9, 0, 72, len(path)) + path, answer=False, message=1)),
        (False, _smb2(3, struct.pack("<HBBIII", 16, 1, 0, 0, 0, 0), answer=True, message=1, tree=7)),
        (True, _smb2(5, create, answer=False, message=2, tree=7)),
        (False, _smb2(5, created, answer=True, message=2, tree=7)),
        (True, _smb2(9, struct.pack("<HHIQ", 49, 112, len(data), 0) + fid + bytes(16) + data, answer=False, message=3,
                     tree=7)),
        (True, _smb2(6, struct.pack("<HHI", 24, 0, 0) + fid, answer=False, message=4, tree=7)),
    ], {
        "smb_mapping": [{"path": "\\\\srv\\docs", "share_type": "DISK"}],
        "smb_files": [{
            "action": "SMB::FILE_OPEN", "path": "\\\\srv\\docs", "name": "plan.txt", "size": 14,
            "times.created": 1000.0, "times.accessed": 2000.0, "times.modified": 3000.0, "times.changed": 4000.0,
        }],
        "files": [{"source": "SMB", "filename": "plan.txt", "seen_bytes": 14, "total_bytes": 14, "is_orig": True}],
    })  # fmt: skip


def _dce_rpc() -> Talk:
    epm = bytes.fromhex("0883afe11f5dc91191a408002b14a0fa")
    ndr = bytes.fromhex("045d888aeb1cc9119fe808002b104860")

    def pdu(kind: int, body: bytes, call: int) -> bytes:
        return struct.pack("<BBBBIHHI", 5, 0, kind, 3, 0x10, 16 + len(body), 0, call) + body

    bind = struct.pack("<HHIBBHHBB", 4280, 4280, 0, 1, 0, 0, 0, 1, 0) + epm + struct.pack("<I", 3) + ndr
    bind += struct.pack("<I", 2)
    ack = struct.pack("<HHI", 4280, 4280, 1) + struct.pack("<H", 4) + b"135\0" + bytes(2)
    return Talk(6, 135, [
        (True, pdu(11, bind, 1)), (False, pdu(12, ack, 1)),
        (True, pdu(0, struct.pack("<IHH", 0, 0, 3), 2)), (False, pdu(2, struct.pack("<IHBB", 0, 0, 0, 0), 2)),
    ], {"dce_rpc": [{"rtt": 1.0, "named_pipe": "135", "endpoint": "epmapper", "operation": "ept_map"}]})  # fmt: skip


def _kerberos() -> Talk:
    def context(n: int, content: bytes) -> bytes:
        return der(0xA0 + n, content)

    def principal(kind: int, *names: str) -> bytes:
        parts = b"".join(der(0x1B, name.encode()) for name in names)
        return der(0x30, context(0, der(2, bytes([kind]))) + context(1, der(0x30, parts)))

    body = der(0x30, b"".join((
        context(0, der(3, bytes([0, 0x40, 0x80, 0, 0]))), context(1, principal(1, "anna")),
        context(2, der(0x1B, b"EXAMPLE.ORG")), context(3, principal(2, "krbtgt", "EXAMPLE.ORG")),
        context(5, der(0x18, b"20370913024805Z")), context(7, der(2, b"\x01")), context(8, der(0x30, der(2, b"\x12"))),
    )))  # fmt: skip
    request = der(
        0x6A, der(0x30, context(1, der(2, b"\x05")) + context(2, der(2, b"\x0a")) + context(4, body))
    )
    error = der(0x7E, der(0x30, b"".join((
        context(0, der(2, b"\x05")), context(1, der(2, b"\x1e")), context(4, der(0x18, b"20261130100000Z")),
        context(5, der(2, b"\x00")), context(6, der(2, b"\x06")), context(9, der(0x1B, b"EXAMPLE.ORG")),
        context(10, principal(2, "krbtgt", "EXAMPLE.ORG")),
    ))))  # fmt: skip
    return Talk(17, 88, [(True, request), (False, error)], {"kerberos": [{
        "request_type": "AS", "client": "anna/EXAMPLE.ORG", "service": "krbtgt/EXAMPLE.ORG", "success": False,
        "error_msg": "KDC_ERR_C_PRINCIPAL_UNKNOWN", "till": 2136422885.0, "forwardable": True, "renewable": True,
    }]})  # fmt: skip


def _rdp() -> Talk:
    ask = b"Cookie: mstshash=anna\r\n" + b"\x01\x00\x08\x00\x03\x00\x00\x00"
    request = bytes([len(ask) + 6, 0xE0, 0, 0, 0, 0, 0]) + ask
    confirm = bytes([14, 0xD0, 0, 0, 0x12, 0x34, 0]) + b"\x02\x00\x08\x00\x01\x00\x00\x00"
    return Talk(6, 3389, [
        (True, struct.pack(">BBH", 3, 0, 4 + len(request)) + request),
        (False, struct.pack(">BBH", 3, 0, 4 + len(confirm)) + confirm),
    ], {"rdp": [{"cookie": "anna", "security_protocol": "SSL", "result": "encrypted", "cert_count": 0}]})  # fmt: skip


def _dhcp() -> Talk:
    def message(op: int, kind: int, your: bytes, *options: tuple[int, bytes]) -> bytes:
        head = struct.pack(">BBBBIHH4s4s4s4s16s", op, 1, 6, 0, 77, 0, 0, bytes(4), your, bytes(4), bytes(4),
                           bytes.fromhex("0200000000aa") + bytes(10))  # fmt: skip
        told = b"".join(bytes([c, len(v)]) + v for c, v in ((53, bytes([kind])), *options))
        return head + bytes(192) + b"\x63\x82\x53\x63" + told + b"\xff"

    address = bytes([192, 0, 2, 33])
    return Talk(17, 67, [
        (True, message(1, 3, bytes(4), (12, b"laptop"), (50, address))),
        (False, message(2, 5, address, (51, struct.pack(">I", 3600)), (15, b"example.org"))),
    ], {"dhcp": [{
        "mac": "02:00:00:00:00:aa", "host_name": "laptop", "domain": "example.org", "requested_addr": "192.0.2.33",
        "assigned_addr": "192.0.2.33", "lease_time": 3600.0, "msg_types": ["REQUEST", "ACK"], "duration": 1.0,
    }]}, 68)  # fmt: skip


def _ntp() -> Talk:
    at = 2208988800 + 1000
    message = struct.pack(">BBbbhHhH4s8I", 0x24, 2, 6, -20, 0, 0x4000, 0, 0x2000, bytes([192, 0, 2, 1]),
                          at, 0, at, 0x80000000, at, 0, at, 0)  # fmt: skip
    return Talk(17, 123, [(False, message)], {"ntp": [{
        "version": 4, "mode": 4, "stratum": 2, "poll": 64.0, "precision": 2.0**-20, "root_delay": 0.25,
        "root_disp": 0.125, "ref_id": "192.0.2.1", "ref_time": 1000.0, "org_time": 1000.5, "num_exts": 0,
    }]})  # fmt: skip


def _snmp() -> Talk:
    oid = der(6, bytes.fromhex("2b06010201010100"))

    def message(kind: int, value: bytes) -> bytes:
        bindings = der(0x30, der(0x30, oid + value))
        pdu = der(kind, der(2, b"\x01") + der(2, b"\0") + der(2, b"\0") + bindings)
        return der(0x30, der(2, b"\x01") + der(4, b"public") + pdu)

    return Talk(17, 161, [(True, message(0xA0, der(5, b""))), (False, message(0xA2, der(4, b"a switch")))], {"snmp": [{
        "duration": 1.0, "version": "2c", "community": "public", "get_requests": 1, "get_bulk_requests": 0,
        "get_responses": 1, "set_requests": 0, "display_string": "a switch",
    }]})  # fmt: skip


def _modbus() -> Talk:
    return Talk(6, 502, [
        (True, struct.pack(">HHHBBHH", 9, 0, 6, 1, 3, 0, 2)), (False, struct.pack(">HHHBBB", 9, 0, 3, 1, 0x83, 2)),
    ], {"modbus": [
        {"tid": 9, "unit": 1, "func": "READ_HOLDING_REGISTERS", "pdu_type": "REQ"},
        {"func": "READ_HOLDING_REGISTERS_EXCEPTION", "pdu_type": "RESP", "exception": "ILLEGAL_DATA_ADDRESS"},
    ]})  # fmt: skip


def _dnp3() -> Talk:
    from feature_extractors.content.analyzers.industrial import dnp3_crc

    def frame(control: int, user: bytes) -> bytes:
        head = b"\x05\x64" + bytes([5 + len(user), control]) + struct.pack("<HH", 4, 3)
        return b"".join(part + struct.pack("<H", dnp3_crc(part)) for part in (head, user))

    return Talk(6, 20000, [
        (True, frame(0xC4, bytes([0xC0, 0xC0, 1, 60, 2, 6]))), (False, frame(0x44, bytes([0xC0, 0xC0, 0x81, 0x10, 0]))),
    ], {"dnp3": [{"fc_request": "READ", "fc_reply": "RESPONSE", "iin": 0x1000}]})  # fmt: skip


def _mysql() -> Talk:
    def packet(n: int, body: bytes) -> bytes:
        return len(body).to_bytes(3, "little") + bytes([n]) + body

    login = struct.pack("<IIB", 0x0000A285, 1 << 24, 33) + bytes(23) + b"anna\0\0"
    denied = b"\xff" + struct.pack("<H", 1146) + b"#42S02No such table"
    return Talk(6, 3306, [
        (False, packet(0, b"\x0a8.0.1\0" + bytes(40))), (True, packet(1, login)),
        (False, packet(2, b"\0\0\0\2\0\0\0")), (True, packet(0, b"\3select 1 from t")), (False, packet(1, denied)),
        (True, packet(0, b"\1")),
    ], {"mysql": [
        {"cmd": "login", "arg": "anna", "success": True, "rows": 0},
        {"cmd": "query", "arg": "select 1 from t", "success": False, "response": "No such table"},
        {"cmd": "quit", "arg": ""},
    ]})  # fmt: skip


def _sip() -> Talk:
    head = b"Via: SIP/2.0/UDP 192.0.2.4;branch=1\r\nFrom: <sip:anna@example.org>;tag=1\r\n"
    head += b"To: <sip:bert@example.org>\r\n"
    own = b"Call-ID: 7@here\r\nCSeq: 1 INVITE\r\nUser-Agent: phone\r\nContent-Length: 0\r\n\r\n"
    return Talk(17, 5060, [
        (True, b"INVITE sip:bert@example.org SIP/2.0\r\n" + head + own),
        (False, b"SIP/2.0 180 Ringing\r\n" + head + b"Content-Length: 0\r\n\r\n"),
        (False, b"SIP/2.0 200 OK\r\n" + head + b"Content-Type: application/sdp\r\nContent-Length: 0\r\n\r\n"),
    ], {"sip": [
        {
            "trans_depth": 0, "method": "INVITE", "uri": "sip:bert@example.org", "status_code": 180,
            "status_msg": "Ringing", "request_from": "<sip:anna@example.org>", "call_id": "7@here", "seq": "1 INVITE",
            "request_path": ["SIP/2.0/UDP 192.0.2.4"], "user_agent": "phone",
        },
        {"method": "INVITE", "status_code": 200, "status_msg": "OK", "content_type": "application/sdp"},
    ]})  # fmt: skip


def _irc() -> Talk:
    return Talk(6, 6667, [
        (True, b"NICK anna\r\nUSER an host srv :Anna B C\r\n"), (False, b":srv 001 anna :Welcome\r\n"),
        (True, b"JOIN #talk,#work key\r\n"),
    ], {"irc": [
        {"command": "NICK", "value": "anna"},
        {"command": "USER", "value": "an", "nick": "anna", "addl": "host srv AnnaB C "},
        {"command": "JOIN", "value": "#talk", "user": "an", "addl": " with channel key: 'key'"},
        {"command": "JOIN", "value": "#work", "addl": ""},
    ]})  # fmt: skip


TALKS: Mapping[str, Talk] = {
    made.__name__[1:]: made()
    for made in (
        _dce_rpc, _dhcp, _dnp3, _dns, _ftp, _http, _irc, _kerberos, _modbus, _mysql, _ntp, _rdp, _sip, _smb, _smtp,
        _snmp,
    )
}  # fmt: skip


def frames() -> Iterator[handmade.Frame]:
    """All conversations one after another, each as a connection of its own, a minute apart."""
    for n, talk in enumerate(TALKS.values()):
        yield from _connection(talk, 60.0 * (n + 1), talk.orig_p if talk.orig_p < 1024 else 40000 + n)


def _connection(talk: Talk, ts: float, orig_p: int) -> Iterator[handmade.Frame]:
    sides = {True: (handmade.CLIENT, handmade.SERVER), False: (handmade.SERVER, handmade.CLIENT)}

    def packet(is_orig: bool, transport: bytes, when: float) -> handmade.Frame:
        return handmade.Frame(handmade.ethernet(handmade.ipv4(transport, talk.proto, *sides[is_orig])), when)

    def ports(is_orig: bool) -> tuple[int, int]:
        return (orig_p, talk.port) if is_orig else (talk.port, orig_p)

    if talk.proto == 17:
        for i, (is_orig, data) in enumerate(talk.said):
            yield packet(is_orig, handmade.udp_header(data, *ports(is_orig)), ts + i)
        return
    seq = {True: 1001, False: 5001}
    for is_orig, flags, number, peer in (
        (True, handmade.SYN, 1000, 0), (False, handmade.SYN | handmade.ACK, 5000, 1001),
        (True, handmade.ACK, 1001, 5001),
    ):  # fmt: skip
        yield packet(is_orig, handmade.tcp_header(b"", flags, number, peer, *ports(is_orig)), ts)
    for i, (is_orig, data) in enumerate(talk.said):
        segment = handmade.tcp_header(data, handmade.ACK, seq[is_orig], seq[not is_orig], *ports(is_orig))
        yield packet(is_orig, segment, ts + 0.1 * (i + 1))
        seq[is_orig] += len(data)
