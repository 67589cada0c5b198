"""HTTP: requests with their responses, bodies measured and never kept, and connections that turn to something else."""

from __future__ import annotations

import zlib

import pytest
from made_segments import Piece, Said, analysed, stream

from feature_extractors.content.analyzers.http import unescape
from feature_extractors.content.analyzers.magic import mime_type
from feature_extractors.content.analyzers.mime import filename
from feature_extractors.content.reassembly import ContentLimits

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def entries(said: list[Said], size: int = 1 << 20, port: int = 80) -> list[dict[str, object]]:
    return [dict(e.fields) for e in analysed(stream(said, port, size))[1]]


def reply(head: bytes, body: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + body


def gzipped(body: bytes) -> bytes:
    squeeze = zlib.compressobj(wbits=31)
    return squeeze.compress(body) + squeeze.flush()


BODIES = [
    ("of known length", reply(b"Content-Length: 5", b"12345"), 5),
    ("of no length", reply(b"Content-Length: 0"), 0),
    ("in chunks", reply(b"Transfer-Encoding: chunked", b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n"), 7),
    ("in chunks with a trailer", reply(b"Transfer-Encoding: chunked", b"1\r\na\r\n0\r\nX: y\r\n\r\n"), 1),
    ("until the end", reply(b"Connection: close", b"123456789"), 9),
    ("compressed", reply(b"Content-Encoding: gzip\r\nContent-Length: 41", gzipped(b"a" * 5000).ljust(41, b"\0")), 5000),
]  # fmt: skip


@pytest.mark.parametrize(("what", "answer", "length"), BODIES, ids=[b[0] for b in BODIES])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_body_is_measured(what: str, answer: bytes, length: int, size: int) -> None:
    (entry,) = entries([(True, GET), (False, answer)], size)
    assert entry["response_body_len"] == length


def test_a_transaction_says_what_zeek_says() -> None:
    request = (
        b"POST /a%20b?q=1 HTTP/1.1\r\nHost: example.com:8080\r\nUser-Agent: curl/8\r\nReferer: http://r/\r\n"
        b"Origin: http://o\r\nVia: 1.1 proxy\r\nAuthorization: Basic dXNlcjpzZWNyZXQ=\r\n"
        b"Content-Length: 11\r\n\r\nabcd=efghij"
    )
    (entry,) = entries([(True, request), (False, reply(b"Content-Length: 10", b"ok, thanks"))])
    assert entry == {
        "trans_depth": 1, "method": "POST", "uri": "/a b?q=1", "host": "example.com:8080", "user_agent": "curl/8",
        "referrer": "http://r/", "origin": "http://o", "proxied": ["VIA -> 1.1 proxy"], "username": "user",
        "request_body_len": 11, "response_body_len": 10, "status_code": 200, "status_msg": "OK", "version": "1.1",
        "orig_mime_types": ["text/plain"], "resp_mime_types": ["text/plain"],
    }  # fmt: skip
    assert "secret" not in str(entry)


def test_pipelined_requests_meet_their_responses_in_order() -> None:
    requests = b"".join(b"GET /%d HTTP/1.1\r\n\r\n" % i for i in range(4))
    answers = b"".join(reply(b"Content-Length: %d" % i, b"x" * i) for i in range(4))
    found = entries([(True, requests), (False, answers)])
    assert [(e["uri"], e["response_body_len"], e["trans_depth"]) for e in found] == [
        (f"/{i}", i, i + 1) for i in range(4)
    ]


def test_an_answer_to_head_has_no_body() -> None:
    said = [(True, b"HEAD / HTTP/1.1\r\n\r\n"), (False, reply(b"Content-Length: 99")), (True, GET)]
    found = entries([*said, (False, reply(b"Content-Length: 1", b"x"))])
    assert [e["response_body_len"] for e in found] == [0, 1]


def test_an_interim_answer_is_not_the_answer() -> None:
    (entry,) = entries([(True, GET), (False, b"HTTP/1.1 100 Continue\r\n\r\n" + reply(b"Content-Length: 0"))])
    assert (entry["info_code"], entry["status_code"]) == (100, 200)


def test_a_proxied_connection_shows_what_is_inside() -> None:
    said = [
        (True, b"CONNECT h:22 HTTP/1.1\r\n\r\n"), (False, b"HTTP/1.1 200 OK\r\n\r\n"), (True, b"SSH-2.0-a\r\n"),
        (False, b"SSH-2.0-b\r\n"),
    ]  # fmt: skip
    _, found, _ = analysed(stream(said, 8080))
    assert [e.stream for e in found] == ["http", "ssh"]


def test_an_upgrade_to_websocket_is_followed() -> None:
    upgrade = b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    service, _, _ = analysed(stream([(True, GET), (False, upgrade), (False, b"\x81\x02hi")], 80))
    assert service == "http,websocket"


def test_what_is_no_http_loses_the_service() -> None:
    assert analysed(stream([(True, GET), (False, b"220 ready\r\n")], 80))[0] == ""


def test_what_is_no_http_after_ten_kilobytes_keeps_the_service() -> None:
    said = [
        (True, GET),
        (False, reply(b"Content-Length: 11000", b"x" * 11000)),
        (True, GET),
        (False, b"rubbish\r\n"),
    ]
    assert analysed(stream(said, 80))[0] == "http"


def test_a_gap_within_a_body_is_counted_to_it() -> None:
    pieces = stream([(True, GET), (False, reply(b"Content-Length: 3000", b"x" * 1500))], 80)
    last = pieces[-1]
    pieces.append(Piece(False, last.offset + len(last.data) + 500, b"x" * 1000, 9.0))
    (entry,) = [e.fields for e in analysed(pieces)[1]]
    assert entry["response_body_len"] == 3000


HOSTILE = {
    "a header that never ends": [(True, b"GET / HTTP/1.1\r\nX: " + b"a" * 300_000)],
    "a million headers": [(True, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000 + b"\r\n")],
    "a huge length": [(True, GET), (False, reply(b"Content-Length: 999999999999999999", b"x"))],
    "a length that is no number": [(True, GET), (False, reply(b"Content-Length: -5", b"x"))],
    "a chunk of unspeakable size": [(True, GET), (False, reply(b"Transfer-Encoding: chunked", b"f" * 300 + b"\r\n"))],
    "tiny chunks": [(True, GET), (False, reply(b"Transfer-Encoding: chunked", b"1\r\na\r\n" * 30_000))],
    "a line of percent signs": [(True, b"GET /" + b"%" * 60_000 + b" HTTP/1.1\r\n\r\n")],
    "nulls": [(True, b"\0" * 60_000)],
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_traffic_is_read_in_bounds(what: str) -> None:
    _, found, _ = analysed(stream(HOSTILE[what], 80, 1400))
    assert all(len(str(e.fields)) < 20_000 for e in found)


def test_a_bomb_is_measured_up_to_the_limit_only() -> None:
    bomb = gzipped(b"\0" * 10_000_000)
    head = b"Content-Encoding: gzip\r\nContent-Length: %d" % len(bomb)
    _, found, content = analysed(
        stream([(True, GET), (False, reply(head, bomb))], 80), ContentLimits(decoded_bytes=100_000)
    )
    assert found[0].fields["response_body_len"] <= 100_000 + len(bomb)
    assert content.counts.by_reason["http_body_over_limit"] == 1


@pytest.mark.parametrize(
    ("uri", "undone"),
    [(b"/a", b"/a"), (b"/%41%zz%", b"/A%zz%"), (b"%u0041", b"A"), (b"%%41", b"A"), (b"%u1234", b"\x12\x34")],
)
def test_escapes_are_undone(uri: bytes, undone: bytes) -> None:
    assert unescape(uri) == undone


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (b'attachment; filename="a b.exe"', b"a b.exe"),
        (b"inline; filename=x.pdf; y", b"x.pdf"),
        (b"inline", b""),
    ],
)
def test_file_names_are_found(header: bytes, name: bytes) -> None:
    assert filename(header) == name


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        (b"MZ\x90\0", "application/x-dosexec"), (b"<html>", "text/html"), (b'{"a": 1}', "text/json"),
        (b"plain words", "text/plain"), (b"\0\1\2\3", None), (b"", None), (b"%PDF-1.4", "application/pdf"),
    ],
)  # fmt: skip
def test_kinds_are_told_by_first_bytes(first: bytes, kind: str | None) -> None:
    assert mime_type(first) == kind
