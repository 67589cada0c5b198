"""Traffic that is meant to cost its reader: captures of each kind, made byte by byte from a size and a seed.

Each kind is a function of about how many bytes of frames it makes. Checksums are left out: the engine does not ask.
"""

from __future__ import annotations

import gzip
import random
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

Frame = tuple[float, bytes]

START: Final = 1.7e9
ETHERNET: Final = b"\x02\0\0\0\0\1\x02\0\0\0\0\2"
FIN, SYN, PSH, ACK = 1, 2, 8, 16
JUMBO: Final = 65000  # bytes of a segment that offloading has joined


def write(path: Path, frames: list[Frame], link: int = 1) -> None:
    """A pcap of these frames."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, link))
        for ts, data in frames:
            file.write(struct.pack("<IIII", int(ts), int(ts % 1 * 1e6), len(data), len(data)) + data)


def ip4(src: str, dst: str, proto: int, payload: bytes, ident: int = 0, flags: int = 0) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), ident, flags, 64, proto, 0)
    return head + socket.inet_aton(src) + socket.inet_aton(dst) + payload


def ip6(src: bytes, dst: bytes, proto: int, payload: bytes) -> bytes:
    return struct.pack(">IHBB", 6 << 28, len(payload), proto, 64) + src + dst + payload


def eth4(packet: bytes) -> bytes:
    return ETHERNET + b"\x08\0" + packet


def eth6(packet: bytes) -> bytes:
    return ETHERNET + b"\x86\xdd" + packet


def udp(src_p: int, dst_p: int, data: bytes) -> bytes:
    return struct.pack(">HHHH", src_p, dst_p, 8 + len(data), 0) + data


def tcp(src_p: int, dst_p: int, seq: int, ack: int, flags: int, data: bytes = b"") -> bytes:
    return (
        struct.pack(">HHIIBBHHH", src_p, dst_p, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, 0x50, flags, 65535, 0, 0)
        + data
    )


class Talk:
    """A TCP connection written packet by packet. `put` leaves the stream where it is, `send` moves it on."""

    def __init__(self, src_p: int, dst_p: int, ts: float = START, src: str = "10.0.0.1") -> None:
        self._ends = src, "10.0.0.2", src_p, dst_p
        self._at = [1000, 1000]  # responder's, originator's next byte
        self._ts = ts
        self.frames: list[Frame] = []
        self.put(True, SYN)
        self._at[True] += 1
        self.put(False, SYN | ACK)
        self._at[False] += 1
        self.put(True, ACK)

    def put(self, is_orig: bool, flags: int, data: bytes = b"", ahead: int = 0) -> None:
        """One segment, `ahead` bytes beyond what comes next."""
        src, dst, src_p, dst_p = self._ends
        seq, ack = self._at[is_orig] + ahead, self._at[not is_orig]
        if is_orig:
            packet = ip4(src, dst, 6, tcp(src_p, dst_p, seq, ack, flags, data))
        else:
            packet = ip4(dst, src, 6, tcp(dst_p, src_p, seq, ack, flags, data))
        self.frames.append((self._ts, eth4(packet)))
        self._ts += 1e-4

    def send(self, is_orig: bool, data: bytes, size: int = 1460) -> None:
        for begin in range(0, len(data), size):
            part = data[begin : begin + size]
            self.put(is_orig, PSH | ACK, part)
            self._at[is_orig] += len(part)

    def lose(self, is_orig: bool, length: int) -> None:
        """So many bytes never come."""
        self._at[is_orig] += length


def _until(size: int, one: Callable[[int], list[Frame]]) -> list[Frame]:
    """Connection after connection, one second apart, until there are so many bytes."""
    frames: list[Frame] = []
    made = n = 0
    while made < size:
        more = one(n)
        made += sum(len(data) for _, data in more)
        frames += more
        n += 1
    return frames


def _spoken(
    size: int, port: int, first: bytes, line: bytes, segment: int = JUMBO, by_orig: bool = True
) -> list[Frame]:
    """One long connection: the other side's greeting, then the same again and again."""
    talk = Talk(40000, port)
    if first:
        talk.send(not by_orig, first)
    talk.send(by_orig, line * (size // len(line)), segment)
    return talk.frames


def _short(n: int, port: int, said: bytes) -> list[Frame]:
    """The n-th connection, which says this and no more."""
    talk = Talk(20000 + n % 40000, port, START + n)
    talk.send(True, said, JUMBO)
    return talk.frames


def _trickle(size: int, port: int, first: bytes, head: bytes) -> list[Frame]:
    """Connections whose first kilobyte comes byte by byte at its end, where signatures are still looked for."""

    def one(n: int) -> list[Frame]:
        talk = Talk(20000 + n % 40000, port, START + n)
        talk.send(False, first)
        talk.send(True, head[:924])
        talk.send(True, head[924:1022], 1)
        return talk.frames

    return _until(size, one)


# Signatures.


def irc_signature(size: int) -> list[Frame]:
    """What a backtracking matcher of IRC's signature tries in ever new ways."""

    def one(n: int) -> list[Frame]:
        talk = Talk(20000 + n % 40000, 9999, START + n)
        talk.send(False, b"3\n")
        talk.send(True, b"nick" + b" " * 270 + b"\n" * 540 + b"user" + b" " * 270 + b"x" * 270)
        return talk.frames

    return _until(size, one)


def irc_peers(size: int) -> list[Frame]:
    def one(n: int) -> list[Frame]:
        talk = Talk(20000 + n % 40000, 9999, START + n)
        said = b"server " + b"\nserver a 1 1" * 60 + b" " * 500
        talk.send(False, said)
        talk.send(True, said)
        return talk.frames

    return _until(size, one)


def pop3_trickle(size: int) -> list[Frame]:
    return _trickle(size, 9999, b"+OK x\r\n", b"\n" * 1024)


def smtp_trickle(size: int) -> list[Frame]:
    return _trickle(size, 9999, b"220 x\r\n", b"\n" * 1024)


def ftp_trickle(size: int) -> list[Frame]:
    return _trickle(size, 9999, b"220 x\n" + b"\n" * 100, b"\n user" * 200)


def rdp_trickle(size: int) -> list[Frame]:
    return _trickle(size, 9999, b"12345\xd0", b"Duca" * 256)


def signatures_at_random(size: int) -> list[Frame]:
    """Pieces of all signatures in any order: as many states as there are."""
    rnd = random.Random(1)
    pieces = [b"user ", b"nick ", b"\n", b"\r", b" ", b"001 ", b":a ", b"server a 1 :", b"helo", b"Duca", b"rdpd",
              b"McD", b"Cookie: mst", b"230", b"331a", b"capa", b"220 "]  # fmt: skip

    def one(n: int) -> list[Frame]:
        talk = Talk(20000 + n % 40000, 9999, START + n)
        talk.send(False, b"".join(rnd.choice(pieces) for _ in range(100)))
        talk.send(True, b"".join(rnd.choice(pieces) for _ in range(100)))
        return talk.frames

    return _until(size, one)


# Lines.


def http_lines(size: int) -> list[Frame]:
    """Header lines of two bytes in segments of 64 KB."""
    return _until(size, lambda n: _spoken(JUMBO, 80, b"", b"GET / HTTP/1.1\r\n" + b"a\n" * 32400))


def http_many_headers(size: int) -> list[Frame]:
    talk = Talk(40000, 80)
    talk.send(True, b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(size // 13)) + b"\r\n")
    return talk.frames


def http_heads_without_crlf(size: int) -> list[Frame]:
    """Each request's head ends, but not where it is first looked for."""
    request = (
        b"GET / HTTP/1.1\nHost: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\nA: "
        + b"b" * 400
        + b"\n\n"
    )
    return _spoken(size, 80, b"", request)


def http_folded(size: int) -> list[Frame]:
    return _spoken(size, 80, b"", b"GET / HTTP/1.1\r\nHost: a\r\n" + b" b\r\n" * 3000 + b"\r\n")


def http_escapes(size: int) -> list[Frame]:
    return _spoken(size, 80, b"", b"GET /" + b"%" * 12000 + b" HTTP/1.1\r\nHost: a\r\n\r\n")


def mail_addresses(size: int) -> list[Frame]:
    """Arguments in which an address is looked for from every letter."""
    return _spoken(size, 25, b"220 a\r\n", b"RCPT TO:" + b"a" * 16000 + b"\r\n")


def mail_quotes(size: int) -> list[Frame]:
    """Lists of receivers with a comma and a quote in turn."""
    talk = Talk(40000, 25)
    talk.send(False, b"220 a\r\n")
    talk.send(True, b"DATA\r\n")
    talk.send(False, b"354 go on\r\n")
    talk.send(True, (b"To: " + b',"' * 1020 + b"\r\n") * (size // 2050))
    return talk.frames


def mail_bodies(size: int) -> list[Frame]:
    talk = Talk(40000, 25)
    talk.send(False, b"220 a\r\n")
    talk.send(True, b"DATA\r\n")
    talk.send(False, b"354 go on\r\n")
    talk.send(True, b"From: a\r\n\r\n" + b"a\n" * (size // 2), JUMBO)
    return talk.frames


def smtp_empty_lines(size: int) -> list[Frame]:
    return _spoken(size, 25, b"220 a\r\n", b"\n")


def smtp_short_lines(size: int) -> list[Frame]:
    return _spoken(size, 25, b"220 a\r\n", b"a\n")


def pop3_short_lines(size: int) -> list[Frame]:
    return _spoken(size, 110, b"+OK a\r\n", b"a\n")


def pop3_message(size: int) -> list[Frame]:
    talk = Talk(40000, 110)
    talk.send(False, b"+OK a\r\n")
    talk.send(True, b"USER a\r\n")
    talk.send(False, b"+OK a\r\n")
    talk.send(True, b"RETR 1\r\n")
    talk.send(False, b"+OK\r\n" + b"a\n" * (size // 2), JUMBO)
    return talk.frames


def irc_lines(size: int) -> list[Frame]:
    return _spoken(size, 6667, b"", b"\n")


def ftp_digits(size: int) -> list[Frame]:
    talk = Talk(40000, 21)
    talk.send(False, b"220 a\r\n")
    for _ in range(size // 16200):
        talk.send(True, b"RETR a\r\n")
        talk.send(False, b"150 " + b"1" * 16000 + b"\r\n")
    return talk.frames


def xmpp_tags(size: int) -> list[Frame]:
    """A tag that another one interrupts."""

    def one(n: int) -> list[Frame]:
        talk = Talk(20000 + n % 40000, 5222, START + n)
        talk.send(True, b"<" + b"a" * 256 + b"b" * 3500 + b"<>")
        return talk.frames

    return _until(size, one)


def ssh_banners(size: int) -> list[Frame]:
    return _spoken(size, 22, b"", b"a\n", by_orig=False)


def sip_letters(size: int) -> list[Frame]:
    """A request without a version, which may be divided into method and address anywhere."""
    frames: list[Frame] = []
    for i in range(max(size // 1400, 1)):
        frames.append(
            (START + i * 1e-3, eth4(ip4("10.0.0.1", "10.0.0.2", 17, udp(5060, 5060, b"a" * 1340 + b"\r\n"))))
        )
    return frames


# Messages as small as they may be.


def http_chunks(size: int) -> list[Frame]:
    """A body in chunks of one byte."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

    def one(n: int) -> list[Frame]:
        talk = Talk(20000 + n % 40000, 80, START + n)
        talk.send(True, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        talk.send(False, head + b"1\na\n" * 50_000, JUMBO)
        return talk.frames

    return _until(size, one)


def http_requests(size: int) -> list[Frame]:
    """Requests without headers, whose answers never come."""
    return _spoken(size, 80, b"", b"GET a HTTP/1.1\r\n\r\n")


def http_requests_apart(size: int) -> list[Frame]:
    """As many of them on each connection as are read: none is cut short."""
    return _until(size, lambda n: _short(n, 80, b"GET a HTTP/1.1\r\n\r\n" * 360))


def http_answers(size: int) -> list[Frame]:
    """Answers to nothing, without headers."""
    return _spoken(size, 80, b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 204\r\n\r\n", by_orig=False)


def http_connects(size: int) -> list[Frame]:
    """A connection inside a connection inside a connection ..."""

    def one(n: int) -> list[Frame]:
        talk = Talk(20000 + n % 40000, 80, START + n)
        for _ in range(400):
            talk.send(True, b"CONNECT a HTTP/1.1\r\n\r\n")
            talk.send(False, b"HTTP/1.1 200 OK\r\n\r\n")
        return talk.frames

    return _until(size, one)


def websocket_frames(size: int) -> list[Frame]:
    """Frames without content."""
    talk = Talk(40000, 80)
    talk.send(True, b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    talk.send(False, b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    talk.send(False, b"\x82\0" * (size // 2), 16_000)
    return talk.frames


def websocket_bytes(size: int) -> list[Frame]:
    """Frames of one byte."""
    talk = Talk(40000, 80)
    talk.send(True, b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    talk.send(False, b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    talk.send(False, b"\x82\1a" * (size // 3), 16_000)
    return talk.frames


def mqtt_pings(size: int) -> list[Frame]:
    return _spoken(size, 1883, b"", b"\xc0\0")


def xmpp_small_tags(size: int) -> list[Frame]:
    return _spoken(size, 5222, b"", b"<a>")


def dns_empty_messages(size: int) -> list[Frame]:
    return _spoken(size, 53, b"", b"\0\0")


def smb_keepalives(size: int) -> list[Frame]:
    talk = Talk(40000, 445)
    talk.send(True, b"\0\0\0\x44\xfeSMB" + bytes(64) + b"\x85\0\0\0" * (size // 4), JUMBO)
    return talk.frames


def modbus_requests(size: int) -> list[Frame]:
    return _spoken(size, 502, b"", b"\0\1\0\0\0\2\1\1")


def tls_empty_records(size: int) -> list[Frame]:
    return _spoken(size, 443, b"", b"\x16\3\3\0\0")


def ssh_key_exchanges(size: int) -> list[Frame]:
    offer = b"\x14" + bytes(16) + b"\0\0\0\1a" * 10 + bytes(5)
    packet = struct.pack(">IB", len(offer) + 5, 4) + offer + bytes(4)
    talk = Talk(40000, 22)
    talk.send(False, b"SSH-2.0-a\r\n")
    talk.send(True, b"SSH-2.0-a\r\n" + packet * (size // len(packet)), JUMBO)
    return talk.frames


def irc_joins(size: int) -> list[Frame]:
    return _spoken(size, 6667, b"", b"JOIN " + b"a," * 20 + b"\n")


def irc_joins_apart(size: int) -> list[Frame]:
    """As many of them on each connection as are read."""
    return _until(size, lambda n: _short(n, 6667, (b"JOIN " + b"a," * 20 + b"\n") * 13))


def snmp_bindings(size: int) -> list[Frame]:
    """A request whose bindings are all empty."""
    inside = b"\x30\0" * 690
    bindings = b"\x30\x82" + struct.pack(">H", len(inside)) + inside
    fields = b"\2\1\1\2\1\0\2\1\0" + bindings
    pdu = b"\xa0\x82" + struct.pack(">H", len(fields)) + fields
    message = b"\2\1\1\4\1a" + pdu
    whole = b"\x30\x82" + struct.pack(">H", len(message)) + message
    frame = eth4(ip4("10.0.0.1", "10.0.0.2", 17, udp(4000, 161, whole)))
    return [(START + i * 1e-3, frame) for i in range(size // len(frame))]


# Compressed bodies.


def _zeros(length: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(b"\0" * length) + packer.flush()


def http_bombs(size: int) -> list[Frame]:
    """Bodies of 4 KB that unpack to 4 MB."""
    body = _zeros(4_190_000)
    talk = Talk(40000, 80)
    for _ in range(size // (len(body) + 400)):
        talk.send(True, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        talk.send(
            False,
            b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: %d\r\n\r\n" % len(body) + body,
        )
    return talk.frames


def http_bombs_apart(size: int) -> list[Frame]:
    """The same, each on a connection of its own."""
    body = _zeros(4_190_000)

    def one(n: int) -> list[Frame]:
        talk = Talk(20000 + n % 40000, 80, START + n)
        talk.send(True, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        talk.send(False, b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\n\r\n" + body)
        return talk.frames

    return _until(size, one)


def http_past_hole(size: int) -> list[Frame]:
    """Compressed bodies that lack a piece, then what unpacks a thousandfold."""
    body = _zeros(4_194_304)
    talk = Talk(40000, 80)
    for _ in range(size // (len(body) + 400)):
        talk.send(True, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: %d\r\n\r\n"
        talk.send(False, head % (len(body) + 10))
        talk.lose(False, 10)
        talk.send(False, body)
    return talk.frames


def http_after_gzip(size: int) -> list[Frame]:
    """A body that goes on long after what it unpacks to has ended."""
    talk = Talk(40000, 80)
    talk.send(True, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    talk.send(False, b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"a"))
    talk.send(False, b"b" * size)
    return talk.frames


# TLS.


def _hello() -> bytes:
    hello = b"\x03\x03" + b"r" * 32 + b"\0\0\2\0\x2f\1\0"
    return b"\x01" + len(hello).to_bytes(3, "big") + hello


def _record(message: bytes) -> bytes:
    return b"\x16\x03\x03" + struct.pack(">H", len(message)) + message


def tls_tiny_records(size: int) -> list[Frame]:
    """One handshake message in records of one byte."""

    def one(n: int) -> list[Frame]:
        talk = Talk(20000 + n, 443, START + n)
        message = b"\x01\x00\xf0\x00\x03\x03" + b"r" * 12000
        talk.send(True, b"".join(_record(bytes([byte])) for byte in message))
        return talk.frames

    return _until(size, one)


def tls_certificates(size: int) -> list[Frame]:
    """Chains of hundreds of certificates, all new."""

    def one(n: int) -> list[Frame]:
        talk = Talk(20000 + n, 443, START + n)
        chain = b""
        for i in range(400):
            der = b"\x30\x82\x01\x00" + struct.pack(">I", n * 400 + i) + b"\0" * 252
            chain += len(der).to_bytes(3, "big") + der
        body = len(chain).to_bytes(3, "big") + chain
        message = b"\x0b" + len(body).to_bytes(3, "big") + body
        answer = b"\x03\x03" + b"s" * 32 + b"\0\0\x2f\0"
        talk.send(True, _record(_hello()))
        talk.send(False, _record(b"\x02" + len(answer).to_bytes(3, "big") + answer))
        for begin in range(0, len(message), 16000):
            talk.send(False, _record(message[begin : begin + 16000]))
        return talk.frames

    return _until(size, one)


def tls_long_lists(size: int) -> list[Frame]:
    """Hellos with thousands of cipher suites."""

    def one(n: int) -> list[Frame]:
        talk = Talk(20000 + n, 443, START + n)
        suites = random.Random(n).randbytes(30000)
        hello = b"\x03\x03" + b"r" * 32 + b"\0" + struct.pack(">H", len(suites)) + suites + b"\1\0"
        message = b"\x01" + len(hello).to_bytes(3, "big") + hello
        for begin in range(0, len(message), 16000):
            talk.send(True, _record(message[begin : begin + 16000]))
        return talk.frames

    return _until(size, one)


def dtls_fragments(size: int) -> list[Frame]:
    """Handshake messages in overlapping pieces that are never whole."""
    frames: list[Frame] = []
    for i in range(size // 1500):
        piece = (
            b"\x01"
            + (60000).to_bytes(3, "big")
            + struct.pack(">H", i % 32)
            + (i % 29 * 1300).to_bytes(3, "big")
        )
        piece += (1300).to_bytes(3, "big") + b"x" * 1300
        data = b"\x16\xfe\xfd\0\0\0\0\0\0\0\0" + struct.pack(">H", len(piece)) + piece
        frames.append(
            (START + i * 1e-4, eth4(ip4("10.0.0.1", "10.0.0.2", 17, udp(4000 + i // 800, 443, data))))
        )
    return frames


# Datagrams.


def dns_pointers(size: int) -> list[Frame]:
    """Messages of 500 names behind chains of pointers, in IP fragments."""
    frames: list[Frame] = []
    record = struct.pack(">HHIH", 1, 1, 60, 4) + b"1234"
    for i in range(max(size // 9600, 1)):
        body = struct.pack(">6H", i & 0xFFFF, 0x8180, 0, 500, 0, 0)
        body += b"".join(b"\x3f" + b"a" * 63 for _ in range(7)) + b"\x10" + b"b" * 16 + b"\0" + record
        base = 12
        for _ in range(499):
            here = len(body)
            body += b"\x01z" + struct.pack(">H", 0xC000 | base) + record
            base = here
        whole = udp(53, 30000 + i % 30000, body)
        for at in range(0, len(whole), 1480):
            more = 0x2000 if at + 1480 < len(whole) else 0
            packet = ip4(
                "10.0.0.1", "10.0.0.2", 17, whole[at : at + 1480], ident=i + 1 & 0xFFFF, flags=at // 8 | more
            )
            frames.append((START + i * 1e-3, eth4(packet)))
    return frames


def fragments(size: int) -> list[Frame]:
    """256 datagrams under way, each in pieces of 8 bytes that stand apart."""
    frames: list[Frame] = []
    for i in range(size // 42):
        flags = 0x2000 | (4 + 2 * (i // 256 % 60))
        packet = ip4("10.0.0.1", "10.0.0.2", 17, b"y" * 8, ident=i % 256 + 1, flags=flags)
        frames.append((START + i * 1e-5, eth4(packet)))
    return frames


def tunnels(size: int) -> list[Frame]:
    """IP in IP in IP ... forty deep."""
    packet = ip4("10.0.0.1", "10.0.0.2", 17, udp(1, 2, b"x" * 8))
    for depth in range(40):
        packet = ip4(f"10.1.0.{depth}", f"10.2.0.{depth}", 4, packet)
    return [(START + i * 1e-5, eth4(packet)) for i in range(size // len(packet))]


def mpls_labels(size: int) -> list[Frame]:
    frame = ETHERNET + b"\x88\x47" + b"\0\0\0\x40" * 60000
    return [(START + i * 1e-3, frame) for i in range(max(size // len(frame), 1))]


def ip6_extensions(size: int) -> list[Frame]:
    src, dst = bytes(15) + b"\1", bytes(15) + b"\2"
    headers = (
        b"".join(bytes([60, 0]) + b"\1\4\0\0\0\0" for _ in range(8100)) + bytes([17, 0]) + b"\1\4\0\0\0\0"
    )
    frame = eth6(ip6(src, dst, 60, headers + udp(1, 2, b"x" * 8)))
    return [(START + i * 1e-3, frame) for i in range(max(size // len(frame), 1))]


# Segments out of order, and many connections.


def out_of_order(size: int) -> list[Frame]:
    """250 blocks wait behind a hole, then the last one comes again and again."""

    def one(n: int) -> list[Frame]:
        talk = Talk(20000 + n % 40000, 9999, START + n)
        for i in range(250):
            talk.put(True, PSH | ACK, b"x", 10 + 2 * i)
        for _ in range(250):
            talk.put(True, PSH | ACK, b"x", 508)
        return talk.frames

    return _until(size, one)


def backwards(size: int) -> list[Frame]:
    """250 blocks behind a hole, each before the one that came before it."""

    def one(n: int) -> list[Frame]:
        talk = Talk(20000 + n % 40000, 9999, START + n)
        for i in range(250):
            talk.put(True, PSH | ACK, b"x", 600 - 2 * i)
        return talk.frames

    return _until(size, one)


def waiting(size: int) -> list[Frame]:
    """126 segments wait while the bytes before them come one by one."""

    def one(n: int) -> list[Frame]:
        talk = Talk(20000 + n % 40000, 80, START + n)
        talk.send(True, b"POST / HTTP/1.1\r\nContent-Length: 9000000\r\nContent-Encoding: gzip\r\n\r\n")
        for i in range(126):
            talk.put(True, PSH | ACK, b"x", 5000 + 2 * i)
        talk.send(True, b"y" * 400, 1)
        return talk.frames

    return _until(size, one)


def syn_flood(size: int) -> list[Frame]:
    rnd = random.Random(1)
    frames: list[Frame] = []
    for i in range(size // 54):
        src = ".".join(str(rnd.randrange(1, 250)) for _ in range(4))
        packet = ip4(src, "10.0.0.2", 6, tcp(rnd.randrange(1024, 65535), 80, i, 0, SYN))
        frames.append((START + i * 1e-5, eth4(packet)))
    return frames


KINDS: Final[dict[str, Callable[[int], list[Frame]]]] = {
    make.__name__: make
    for make in (
        irc_signature, irc_peers, pop3_trickle, smtp_trickle, ftp_trickle, rdp_trickle, signatures_at_random,
        http_lines, http_many_headers, http_heads_without_crlf, http_folded, http_escapes, mail_addresses,
        mail_quotes, mail_bodies,
        smtp_empty_lines, smtp_short_lines, pop3_short_lines,
        pop3_message, irc_lines, ftp_digits, xmpp_tags, ssh_banners, sip_letters, http_bombs,
        http_bombs_apart, http_past_hole, http_after_gzip, tls_tiny_records, tls_certificates, tls_long_lists,
        dtls_fragments, http_chunks, http_requests, http_requests_apart, http_answers,
        http_connects, websocket_frames, websocket_bytes, mqtt_pings,
        xmpp_small_tags, dns_empty_messages, smb_keepalives, modbus_requests, tls_empty_records, ssh_key_exchanges,
        irc_joins, irc_joins_apart,
        snmp_bindings, dns_pointers, fragments, tunnels, mpls_labels, ip6_extensions, out_of_order,
        backwards, waiting, syn_flood,
    )
}  # fmt: skip
