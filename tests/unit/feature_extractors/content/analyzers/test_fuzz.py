"""Whatever bytes arrive, every analyzer ends, refuses them by its own error at most, and logs values within bounds."""

# ruff: noqa: E501  (a seed is read best on one line)
from __future__ import annotations

import json
from pathlib import Path

import fuzzed
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_segments import Piece, analysed, segments

from feature_extractors.content.analyzers.base import ContentLimits, ParseError, Run, Session
from feature_extractors.content.analyzers.registry import ANALYZERS, create
from feature_extractors.content.reassembly import Content
from feature_extractors.frames import Counts

pytestmark = pytest.mark.slow

# One plausible beginning per protocol and side, from which random changes go deeper than random bytes would.
SEEDS: dict[str, list[tuple[bool, bytes]]] = {
    "ayiya": [(True, b"\x41\x52\x11\x29" + bytes(60))],
    "dce_rpc": [(True, bytes.fromhex("05000b0310000000480000000100000000000000") + bytes(52)),
                (False, bytes.fromhex("05000203100000002000000001000000") + bytes(16))],
    "dhcp": [(True, b"\1\1\6\0" + bytes(232) + b"\x63\x82\x53\x63\x35\1\1\x0c\3abc\xff")],
    "dnp3_tcp": [(True, b"\x05\x64\x05\xc9\x01\x00\x00\x04\xe9\x21" * 3)],
    "dnp3_udp": [(True, b"\x05\x64\x05\xc9\x01\x00\x00\x04\xe9\x21")],
    "dns": [(True, b"\0\7\1\0\0\1\0\0\0\0\0\0\1a\0\0\1\0\1"), (False, b"\0\7\x81\x80\0\1\0\1\0\0\0\0\1a\0\0\1\0\1\xc0\x0c")],
    "dtls": [(True, b"\x16\xfe\xff" + bytes(9) + b"\x40\1\0\0\x34" + bytes(5) + b"\0\0\x34\xfe\xfd" + bytes(60))],
    "ftp": [(False, b"220 hi\r\n"), (True, b"USER a\r\nPASV\r\nRETR x\r\n"), (False, b"227 (1,2,3,4,5,6)\r\n150 9 bytes\r\n")],
    "geneve": [(True, b"\0\0\x65\x58" + bytes(40))],
    "gtpv1": [(True, b"\x32\xff\0\x20" + bytes(8) + b"\x45\0\0\x14" + bytes(30))],
    "http": [(True, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"), (False, b"HTTP/1.1 200 OK\r\n\r\nx")],
    "imap": [(False, b"* OK hi\r\n"), (True, b"1 starttls\r\n"), (False, b"1 OK\r\n")],
    "irc": [(True, b"NICK a\r\nUSER a b c :d\r\nJOIN #x,#y k\r\n"), (False, b":s 001 a :hi\r\n")],
    "krb": [(True, bytes.fromhex("6a81a430819fa103020105a20302010a") + bytes(160))],
    "krb_tcp": [(True, b"\0\0\0\xb4" + bytes.fromhex("6a81a430819fa103020105a20302010a") + bytes(164))],
    "modbus": [(True, b"\0\1\0\0\0\6\1\3\0\0\0\1"), (False, b"\0\1\0\0\0\3\1\x83\2")],
    "mqtt": [(True, b"\x10\x0e\0\4MQTT\4\2\0\x3c\0\2id"), (False, b"\x20\2\0\0"), (True, b"\x30\5\0\1ahi\x82\6\0\1\0\1a\0")],
    "mysql": [(False, b"\x0a\0\0\0\x0a8.0\0" + bytes(5)), (True, b"\x25\0\0\1\5\xa2\0\0" + bytes(28) + b"root\0"),
              (False, b"\7\0\0\2\0\0\0\2\0\0\0"), (True, b"\5\0\0\0\3quit")],
    "ntp": [(True, b"\x23" + bytes(47)), (False, b"\x24\2\6\xec" + bytes(44))],
    "pop3": [(False, b"+OK\r\n"), (True, b"CAPA\r\nSTLS\r\n"), (False, b"+OK\r\nUSER\r\n.\r\n+OK\r\n")],
    "radius": [(True, b"\1\1\0\x1a" + bytes(16) + b"\1\6user"), (False, b"\2\1\0\x14" + bytes(16))],
    "rdp": [(True, b"\3\0\0\x13\x0e\xe0\0\0\0\0\0\1\0\x08\0\3\0\0\0"), (False, b"\3\0\0\x13\x0e\xd0\0\0\x12\x34\0\2\x1f\x08\0\0\0\0\0")],
    "rdpeudp": [(True, b"\xff\xff\xff\xff\0\x40\0\1" + bytes(1200)), (False, bytes(7) + b"\5")],
    "rfb": [(False, b"RFB 003.008\n"), (True, b"RFB 003.008\n"), (False, b"\1\1"), (True, b"\1"), (False, bytes(4))],
    "sip": [(True, b"INVITE sip:a SIP/2.0\r\nVia: x;branch=y\r\nTo: b\r\n\r\n"), (False, b"SIP/2.0 200 OK\r\nTo: b\r\n\r\n")],
    "smb": [(True, b"\0\0\0\x64\xfeSMB\x40\0" + bytes(94)), (False, b"\0\0\0\x64\xfeSMB\x40\0" + bytes(94)),
            (True, b"\0\0\0\x40\xffSMB\x75" + bytes(59))],
    "smtp": [(False, b"220 hi\r\n"), (True, b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"),
             (False, b"250-x\r\n250 y\r\n250 a\r\n250 b\r\n354 go\r\n"), (True, b"Subject: s\r\nTo: a@b\r\n\r\nbody\r\n.\r\n")],
    "snmp": [(True, bytes.fromhex("302902010104067075626c6963a01c020401020304020100020100300e300c06082b060102010101000500"))],
    "socks": [(True, b"\5\1\0"), (False, b"\5\0"), (True, b"\5\1\0\3\1a\0\x50"), (False, b"\5\0\0\1\1\2\3\4\0\x50")],
    "ssh": [(True, b"SSH-2.0-a\r\n"), (False, b"SSH-2.0-b\r\n"), (True, b"\0\0\0\x5c\4\x14" + bytes(16) + b"\0\0\0\1a" * 10 + bytes(20))],
    "ssl": [(True, b"\x16\3\1\0\x31\1\0\0\x2d\3\3" + bytes(32) + b"\0\0\2\x13\1\1\0\0\0"),
            (False, b"\x16\3\3\0\x2c\2\0\0\x28\3\3" + bytes(32) + b"\0\x13\1\0\0\0"), (False, b"\x16\3\3\0\7\x0b\0\0\3\0\0\0")],
    "syslog": [(True, b"<34>hello")],
    "teredo": [(True, b"\x60" + bytes(39)), (False, b"\0\1\0\0" + bytes(9) + b"\x60" + bytes(39))],
    "vxlan": [(True, b"\x08" + bytes(30))],
    "websocket": [(True, b"\x81\x85abcdhello"), (False, b"\x82\x7e\0\3abc")],
    "xmpp": [(True, b"<?xml version='1.0'?><stream:stream xmlns='jabber:client'><starttls/>"), (False, b"<proceed/>")],
}  # fmt: skip
DATAGRAMS = {"ayiya", "dhcp", "dnp3_udp", "dtls", "geneve", "gtpv1", "krb", "ntp", "radius", "rdpeudp", "sip", "snmp",
             "syslog", "teredo", "vxlan"}  # fmt: skip
NAMES = sorted(set(ANALYZERS) - {"ftp-data", "irc-dcc-data", "pia"})

said = st.lists(st.tuples(st.booleans(), st.binary(max_size=300)), max_size=8)
changes = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, 200), st.binary(max_size=4), st.integers(0, 3)), max_size=8
)


def new(name: str) -> tuple[object, Session]:
    session = Session(17 if name in DATAGRAMS else 6, 40000, 443, Run(ContentLimits(), Counts(), create))
    analyzer = create(name, session)
    assert analyzer is not None
    return analyzer, session


def read(name: str, talk: list[tuple[bool, bytes]]) -> Session:
    """Feeds an analyzer as Content would; anything it raises but `ParseError` fails the test."""
    analyzer, session = new(name)
    for i, (is_orig, data) in enumerate(talk):
        if analyzer.done:
            break
        session.size += len(data)
        try:
            analyzer.data(is_orig, float(i), data)
        except ParseError:
            break
        assert analyzer.skip(is_orig) >= 0
        if i % 3 == 2:
            analyzer.gap(is_orig, 10)
    analyzer.end()
    for _, _, fields in session.take():
        assert len(json.dumps(fields)) < 2_000_000
    return session


def test_every_analyzer_has_a_seed() -> None:
    assert set(SEEDS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(talk=said)
def test_random_bytes_are_refused_or_read(name: str, talk: list[tuple[bool, bytes]]) -> None:
    read(name, talk)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(edits=changes, cut=st.integers(1, 400))
def test_plausible_bytes_with_changes_are_refused_or_read(
    name: str, edits: list[tuple[int, int, bytes, int]], cut: int
) -> None:
    talk = [(o, bytearray(d)) for o, d in SEEDS[name]]
    for which, where, what, removed in edits:
        data = talk[which % len(talk)][1]
        at = where % (len(data) + 1)
        data[at : at + removed] = what
    if name in DATAGRAMS:
        read(name, [(o, bytes(d[:cut])) for o, d in talk] * 2)
    else:
        read(name, [(o, bytes(d[i : i + cut])) for o, d in talk for i in range(0, len(d), cut)][:400])


@pytest.mark.parametrize("name", sorted(set(NAMES) - DATAGRAMS))
def test_a_stream_byte_by_byte_reads_as_a_whole_one(name: str) -> None:
    whole, pieces = new(name), new(name)
    for is_orig, data in SEEDS[name]:
        for one in [data]:
            whole[1].feed(whole[0], is_orig, 1.0, one)
        for i in range(len(data)):
            pieces[1].feed(pieces[0], is_orig, 1.0, data[i : i + 1])
    for analyzer, _ in (whole, pieces):
        analyzer.end()
    if name not in ("smb", "ssh"):  # these two judge by segments, as Zeek's do
        assert whole[1].services == pieces[1].services
        assert [e[::2] for e in whole[1].entries] == [e[::2] for e in pieces[1].entries]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.builds(
            Piece,
            st.booleans(),
            st.integers(-50, 2000) | st.just(2**40),
            st.binary(max_size=80),
            st.floats(0, 100),
            st.integers(-1, 200),
            st.integers(0, 2),
            st.just(6),
            st.just(40000),
            st.sampled_from([21, 25, 53, 80, 139, 443, 502, 3306, 9999]),
            st.booleans(),
        ),
        max_size=30,
    )
)
def test_any_segments_are_put_together_or_counted(pieces: list[Piece]) -> None:
    for piece in pieces:
        piece.length = max(piece.length, len(piece.data))
    content = Content(ContentLimits(pending_segments=4))
    content.receive(segments(pieces))
    assert all(len(s.pending) <= 5 for c in content._connections.values() for s in c.streams)
    assert content._pending_total == sum(
        s.pending_bytes for c in content._connections.values() for s in c.streams
    )


ATTACKS = {
    "a megabyte without a line end": [(True, b"a" * 1_000_000)],
    "a megabyte of line ends": [(True, b"\r\n" * 500_000)],
    "a megabyte of nulls": [(True, b"\0" * 1_000_000)],
    "a megabyte of FF": [(True, b"\xff" * 1_000_000)],
    "a megabyte of spaces": [(False, b" " * 1_000_000)],
    "digits and lines": [(False, b"220 a\n" * 100_000)],
}  # fmt: skip


@pytest.mark.parametrize("what", ATTACKS)
@pytest.mark.parametrize("port", [21, 22, 25, 80, 110, 139, 143, 443, 1080, 3306, 5222, 6667, 9999])
def test_floods_on_any_port_end(what: str, port: int) -> None:
    offset = {True: 0, False: 0}
    pieces = []
    for is_orig, data in ATTACKS[what]:
        for start in range(0, len(data), 1400):
            part = data[start : start + 1400]
            pieces.append(Piece(is_orig, offset[is_orig], part, 1.0, resp_p=port))
            offset[is_orig] += len(part)
    _, entries, _ = analysed(pieces)
    assert all(len(str(e.fields)) < 50_000 for e in entries)


def test_tiny_segments_that_nearly_match_signatures_end() -> None:
    teasing = b"nick a\nuser" * 90
    pieces = [Piece(True, i * 10, teasing[i * 10 : i * 10 + 10], resp_p=9999) for i in range(99)]
    pieces += [Piece(False, i * 5, b"220 a"[:5], resp_p=9999) for i in range(40)]
    analysed(pieces)


KEPT = (Path(__file__).resolve().parents[4] / "traces" / "fuzzed.txt").read_text().split()


def test_every_input_kept_by_the_fuzzer_harms_nothing_and_reads_alike_in_blocks() -> None:
    assert len(KEPT) > 200
    for line in KEPT:
        fuzzed.check(bytes.fromhex(line))
