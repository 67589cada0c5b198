"""DNS messages: queries paired with answers, names with their compression, and what an attacker may try."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_segments import Said, analysed, datagrams, stream

from feature_extractors.content.analyzers.base import ContentLimits, Run, Session
from feature_extractors.content.analyzers.dns import Dns
from feature_extractors.content.analyzers.dns_columns import read
from feature_extractors.frames import Counts


def header(trans_id: int, flags: int, *counts: int) -> bytes:
    return struct.pack(">6H", trans_id, flags, *(list(counts) + [0] * 4)[:4])


def name(text: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode("latin-1") for part in text.split(".")) + b"\0"


def query(text: str, qtype: int = 1, trans_id: int = 7, flags: int = 0x0100) -> bytes:
    return header(trans_id, flags, 1) + name(text) + struct.pack(">HH", qtype, 1)


def record(rtype: int, data: bytes, ttl: int = 60, owner: bytes = b"\xc0\x0c") -> bytes:
    return owner + struct.pack(">HHIH", rtype, 1, ttl, len(data)) + data


def answer(text: str, *records: bytes, qtype: int = 1, trans_id: int = 7, rcode: int = 0) -> bytes:
    head = header(trans_id, 0x8180 | rcode, 1, len(records))
    return head + name(text) + struct.pack(">HH", qtype, 1) + b"".join(records)


def fields(said: list[Said], port: int = 53) -> list[dict[str, object]]:
    return [dict(e.fields) for e in analysed(datagrams(said, port))[1]]


A = record(1, bytes([192, 0, 2, 1]))

RECORDS = [
    (1, bytes([192, 0, 2, 1]), "192.0.2.1"),
    (28, bytes.fromhex("20010db8000000000000000000000001"), "2001:db8::1"),
    (28, bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 9]), "192.0.2.9"),
    (5, name("Other.Example"), "other.example"),
    (2, name("ns.example"), "ns.example"),
    (12, b"\3www\xc0\x0c", "www.example.com"),
    (15, b"\0\x0a" + name("mail.example"), "mail.example"),
    (16, b"\3abc\2de", "TXT 3 abc TXT 2 de"),
    (6, name("ns.example") + name("admin.example") + bytes(20), "ns.example"),
    (33, bytes(6) + name("host.example"), "host.example"),
    (43, b"\0\1\x08\2abcd", "DS 8 2"),
    (48, b"\1\1\3\x08key", "DNSKEY 8"),
    (44, b"\1\1\xab\xcd", "SSHFP: abcd"),
    (9999, b"x", "<unknown type=9999>"),
]  # fmt: skip


@pytest.mark.parametrize(("rtype", "data", "said"), RECORDS)
def test_an_answer_says_what_zeek_says(rtype: int, data: bytes, said: str) -> None:
    entry = fields([(True, query("example.com")), (False, answer("example.com", record(rtype, data)))])[0]
    assert entry["answers"] == [said]
    assert entry["TTLs"] == [60.0]
    assert entry["rtt"] == 1.0


def test_a_query_and_its_answer_are_one_entry() -> None:
    service, entries, _ = analysed(
        datagrams([(True, query("WWW.Example.com")), (False, answer("www.example.com", A, rcode=0))], 53)
    )
    assert service == "dns"
    assert [e.stream for e in entries] == ["dns"]
    assert entries[0].fields == {
        "proto": "udp", "trans_id": 7, "AA": False, "TC": False, "RD": True, "RA": True, "Z": 0, "rejected": False,
        "opcode": 0, "opcode_name": "query", "query": "www.example.com", "qtype": 1, "qtype_name": "A", "qclass": 1,
        "qclass_name": "C_INTERNET", "rcode": 0, "rcode_name": "NOERROR", "rtt": 1.0, "answers": ["192.0.2.1"],
        "TTLs": [60.0],
    }  # fmt: skip


def test_answers_find_their_queries_by_transaction() -> None:
    said = [(True, query(f"n{i}.example", trans_id=i)) for i in range(5)]
    said += [(False, answer(f"n{i}.example", A, trans_id=i)) for i in (3, 1, 4, 0, 2)]
    found = fields(said)
    assert [e["query"] for e in found] == [f"n{i}.example" for i in range(5)]
    assert all("answers" in e for e in found)


def test_an_answer_without_a_query_stands_alone() -> None:
    (entry,) = fields([(False, answer("example.com", A))])
    assert entry["query"] == "example.com"
    assert "qtype" not in entry


def test_a_refusal_without_records_is_rejected() -> None:
    (entry,) = fields([(True, query("no.example")), (False, answer("no.example", rcode=5))])
    assert (entry["rejected"], entry["rcode_name"]) == (True, "REFUSED")


def test_netbios_names_are_decoded() -> None:
    encoded = "FHEPFCELEHFCEPFFFACACACACACACAAA"
    message = header(1, 0x0110, 1) + b"\x20" + encoded.encode() + b"\0" + struct.pack(">HH", 0x20, 1)
    (entry,) = fields([(True, message)], 137)
    assert entry["query"] == "WORKGROUP"


def test_bytes_that_are_no_text_are_escaped() -> None:
    (entry,) = fields([(True, query("a\xff\x01.example"))])
    assert entry["query"] == "a\\xff\\x01.example"


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_over_tcp_messages_follow_their_lengths(size: int) -> None:
    def framed(message: bytes) -> bytes:
        return struct.pack(">H", len(message)) + message

    said = [(True, framed(query("a.example"))), (False, framed(answer("a.example", A)))]
    service, entries, _ = analysed(stream(said, 53, size))
    assert service == "dns"
    assert entries[0].fields["answers"] == ["192.0.2.1"]


@pytest.mark.parametrize("cut", range(60))
def test_a_message_cut_anywhere_is_no_error(cut: int) -> None:
    message = answer("example.com", A)[:cut]
    service, _, _ = analysed(datagrams([(True, query("example.com")), (False, message)], 53))
    assert service == "dns"


HOSTILE = {
    "a pointer to itself": header(1, 0x8180, 1, 1) + b"\xc0\x0c" + bytes(4) + record(5, b"\xc0\x12"),
    "pointers in a ring": header(1, 0x8180, 1, 1) + b"\xc0\x0e\xc0\x0c" + bytes(8),
    "a forward pointer": header(1, 0x8180, 1, 1) + b"\xc0\xff" + bytes(300),
    "labels past the end": header(1, 0x0100, 1) + b"\x3fabc",
    "more records than bytes": header(1, 0x8180, 1, 65535) + name("a") + bytes(4),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_names_end(what: str) -> None:
    analysed(datagrams([(False, HOSTILE[what])], 53))


def test_a_message_full_of_compressed_names_costs_no_more_than_its_bound() -> None:
    labels = b"".join(b"\x01a" for _ in range(120)) + b"\0"
    many = b"".join(record(5, b"\xc0" + bytes([12 + 2 * (i % 100)])) for i in range(4000))
    message = header(1, 0x8180, 1, 4000) + labels + bytes(4) + many
    _, entries, content = analysed(datagrams([(False, message)] * 5, 53))
    assert len(entries[0].fields["answers"]) <= 100
    assert content.counts.by_reason["dns_too_many_names"] == 5


def test_too_many_questions_are_no_dns() -> None:
    assert analysed(datagrams([(True, header(1, 0, 26) + bytes(200))], 53))[0] == ""


def test_unanswered_queries_are_forgotten_in_time() -> None:
    said = [(True, query("a.example", trans_id=i)) for i in range(3000)]
    _, entries, _ = analysed(datagrams(said, 53))
    assert len(entries) == 3000


def both_ways(said: list[Said]) -> tuple[list[object], list[object]]:
    """The entries of a conversation read with its block, and those of the same one read message by message."""
    session = Session(17, 40000, 53, Run(ContentLimits(), Counts()))
    analyzer = Dns(session)
    for i, (is_orig, message) in enumerate(said):
        session.feed(analyzer, is_orig, float(i), message)
    slow = [(ts, f) for _, ts, f in session.take() if f]
    return [(e.ts, dict(e.fields)) for e in analysed(datagrams(said, 53))[1]], slow


@pytest.mark.parametrize(("rtype", "data", "said"), RECORDS)
def test_a_message_read_with_its_block_says_the_same(rtype: int, data: bytes, said: str) -> None:
    fast, slow = both_ways(
        [(True, query("Example.com", rtype)), (False, answer("Example.com", record(rtype, data), A))]
    )
    assert fast == slow
    assert said in str(fast)


changes = st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=4)
records = st.lists(st.sampled_from(RECORDS), max_size=4)


@settings(max_examples=400, deadline=None)
@given(records, changes, st.integers(0, 150), st.binary(min_size=1, max_size=9))
def test_whatever_is_wrong_with_a_message_it_reads_alike_both_ways(
    some: list[tuple[int, bytes, str]], wrong: list[tuple[int, int]], cut: int, label: bytes
) -> None:
    names = f"{label.decode('latin-1').replace('.', '-')}.example"
    reply = bytearray(answer(names, *(record(kind, data) for kind, data, _ in some)))
    for at, value in wrong:
        reply[at % len(reply)] = value
    if cut < 100:
        reply = reply[: len(reply) - cut % len(reply)]
    first = query(names)
    fast, slow = both_ways([(True, first), (False, bytes(reply)), (False, bytes(reply))])
    assert fast == slow


def test_ordinary_messages_are_read_with_their_block_and_odd_ones_are_not() -> None:
    ordinary = [
        query("a.example"),
        answer("a.example", A),
        answer("b.example", record(5, name("c.example")), A),
    ]
    odd = [b"", query("a.example")[:-1], answer("a.example", A)[:-1], answer("a.example", record(1, b"abc")),
           header(7, 0x0100, 1) + b"\xc0\x0c\0\1\0\1", header(7, 0x0100, 26)]  # fmt: skip
    sizes = [len(m) for m in ordinary + odd]
    found = read(
        np.frombuffer(b"".join(ordinary + odd), np.uint8),
        np.cumsum([0, *sizes])[:-1].astype(np.int64), np.array(sizes, np.int32), np.arange(len(sizes)),
    )  # fmt: skip
    assert found.which == [0, 1, 2, -1, -1, -1, -1, -1, -1]
