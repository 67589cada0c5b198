"""Traffic made to cost its reader costs a few times what ordinary traffic does; what is cut short is counted."""

from __future__ import annotations

import time
import zlib
from pathlib import Path

import hostile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_segments import Piece, analysed, segments, stream

from feature_extractors.content.analyzers.base import FREE_ENTRIES, MAX_NESTED
from feature_extractors.content.analyzers.http import Http
from feature_extractors.content.analyzers.http_body import EXPANSION, FREE_EXPANSION
from feature_extractors.content.analyzers.mail import _address, _listed
from feature_extractors.content.reassembly import Content, ContentLimits
from feature_extractors.extract import Extractor
from feature_extractors.frames import FrameBlock
from feature_extractors.readers.captures import open_capture
from feature_extractors.tracker.state import NONE

BUSY_MINUTES = Path(__file__).resolve().parents[3] / "traces" / "busy-minutes" / "busy-minutes.pcap.gz"
SIZE = 100_000  # bytes of frames of each kind
MOST = 25  # times ordinary traffic, as a small capture has a start; benchmarks/cost.py asks for 5


def seconds_per_byte(path: Path) -> float:
    extractor, size = Extractor(), 0
    begun = time.process_time()
    for block in open_capture(path):
        size += int(block.captured.sum())
        extractor.receive(block)
    extractor.finish()
    return (time.process_time() - begun) / size


@pytest.fixture(scope="module")
def ordinary() -> float:
    seconds_per_byte(BUSY_MINUTES)  # compiles
    return seconds_per_byte(BUSY_MINUTES)


@pytest.mark.parametrize("kind", hostile.KINDS)
def test_no_kind_costs_much_more_than_ordinary_traffic(kind: str, ordinary: float, tmp_path: Path) -> None:
    path = tmp_path / "made.pcap"
    hostile.write(path, hostile.KINDS[kind](SIZE))
    assert min(seconds_per_byte(path) for _ in range(3)) < MOST * ordinary


def http_of(content: Content) -> Http:
    found = content._connections[0].root._tried["http"]
    assert isinstance(found, Http)
    return found


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def deflated(body: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(body) + packer.flush()


def reply(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


def test_a_connection_unpacks_a_hundred_times_what_it_sent_and_then_no_more() -> None:
    bomb = deflated(bytes(4_000_000))
    content = Content()
    content.receive(segments(stream([(True, GET), (False, reply(bomb))] * 20, 80)))
    sent = 20 * len(bomb)
    assert http_of(content).examined < 2 * FREE_EXPANSION + EXPANSION * sent + 40 * 1000
    assert content.counts.by_reason["http_body_over_limit"] == 20


def test_an_ordinary_page_is_measured_whole() -> None:
    page = b"".join(b"<tr><td>%d</td><td>%d</td></tr>\n" % (i, i * 7919 % 104729) for i in range(20_000))
    _, entries, content = analysed(stream([(True, GET), (False, reply(deflated(page)))], 80))
    assert entries[0].fields["response_body_len"] == len(page)
    assert not content.counts.by_reason


def test_what_follows_a_packed_body_is_not_kept() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\n\r\n"
    content = Content()
    content.receive(
        segments(stream([(True, GET), (False, head + deflated(b"a") + b"b" * 300_000)], 80, 1000))
    )
    decoder = http_of(content)._sides[0].body.decoder
    assert decoder is not None
    assert len(decoder.unused_data) <= 1000


def test_an_analyzer_that_has_looked_at_too_much_is_let_go_and_counted() -> None:
    said = [(True, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")] * 50
    service, entries, content = analysed(stream(said, 80), ContentLimits(examined_bytes=1000))
    assert content.counts.by_reason["http_over_budget"] == 1
    assert service == "http", "what it found stands"
    assert 15 < len(entries) < 25


@pytest.mark.parametrize("size", [1460, 64, 100_000])
@pytest.mark.parametrize(
    ("port", "by_orig", "said"),
    [
        (80, True, b"GET a HTTP/1.1\r\n\r\n"), (80, False, b"HTTP/1.1 204\r\n\r\n"),
        (6667, True, b"JOIN " + b"a," * 20 + b"\r\n"),
    ],
)  # fmt: skip
def test_more_log_entries_than_their_bytes_come_to_end_an_analyzer_that_is_counted(
    port: int, by_orig: bool, said: bytes, size: int
) -> None:
    first = [(True, GET)] if not by_orig else []
    service, entries, content = analysed(stream([*first, (by_orig, said * 2000)], port, size))
    assert FREE_ENTRIES < len(entries) < 2 * FREE_ENTRIES
    assert content.counts.by_reason[f"{service}_over_budget"] == 1
    _, whole, _ = analysed(stream([*first, (by_orig, said * 2000)], port))
    assert entries == whole, "however it is cut"


def test_the_smallest_requests_that_are_answered_are_all_told() -> None:
    request = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    _, entries, content = analysed(stream([(True, request), (False, answer)] * 3000, 80))
    assert len(entries) == 3000
    assert not content.counts.by_reason


@pytest.mark.parametrize("line", [b"", b"a", b"ab", b"abc"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_lines_too_short_for_a_command_are_passed_over_however_they_come(line: bytes, end: bytes) -> None:
    said = [
        (False, b"220 a\r\n"), (True, (line + end) * 50 + b"MAIL FROM:<a@b>\r\n"), (False, b"250 ok\r\n"),
        (True, (line + end) * 50 + b"RCPT TO:<c@d>\r\n" + line), (False, b"250 ok\r\n"),
    ]  # fmt: skip
    for size in (1, 3, 100_000):
        _, entries, _ = analysed(stream(said, 25, size))
        assert (entries[0].fields["mailfrom"], entries[0].fields["rcptto"]) == ("a@b", ["c@d"])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 100_000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_headers_past_the_most_are_passed_over_however_they_come(size: int, end: bytes) -> None:
    request = b"GET /a HTTP/1.1\r\nHost: a" + end + b"".join(b"A: b%b" % end for _ in range(600)) + end
    said = [(True, request + b"GET /b HTTP/1.1\r\nHost: b\r\n\r\n")]
    _, entries, _ = analysed(stream(said, 80, size))
    assert [(e.fields["uri"], e.fields["host"]) for e in entries] == [("/a", "a"), ("/b", "b")]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 100_000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_mail_body_ends_with_a_dot_alone_however_it_comes(size: int, end: bytes) -> None:
    body = end.join(
        [b"From: a", b"", b".x", b"..", b"a.", b"", b"b" * 40, b". ", b".", b"MAIL FROM:<c@d>", b""]
    )
    said = [
        (False, b"220 a\r\n"), (True, b"MAIL FROM:<a@b>\r\nDATA\r\n"), (False, b"250 ok\r\n354 go on\r\n"),
        (True, body), (False, b"250 done\r\n"),
    ]  # fmt: skip
    _, entries, _ = analysed(stream(said, 25, size))
    assert [e.fields.get("mailfrom") for e in entries][:1] == ["a@b"]
    assert any(e.fields.get("mailfrom") == "c@d" for e in entries)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (b"<a@b>", "a@b"), (b"a" * 16_000, ""), (b"a" * 300 + b"@b", "a" * 128 + "@b"), (b"@b c@d", "c@d"),
        (b"a@@b@c", "b@c"), (b"", ""),
    ],
)  # fmt: skip
def test_an_address_is_found_where_it_was(argument: bytes, expected: str) -> None:
    assert _address(argument) == expected


@pytest.mark.parametrize("size", [1, 3, 8, 20])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_small_chunks_are_read_many_at_once_and_as_one_by_one(size: int, end: bytes) -> None:
    body = bytes(range(120)) * 10
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = b"".join(b"%x%b%b%b" % (len(p), end, p, end) for p in parts) + b"0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for cut in (1, 7, 100_000):
        _, entries, _ = analysed(stream([(True, GET), (False, head + chunks), (True, GET)], 80, cut))
        assert entries[0].fields["response_body_len"] == len(body)
        assert len(entries) == 2


@pytest.mark.parametrize("size", [1, 3, 8, 20])
def test_small_frames_are_read_many_at_once_and_as_one_by_one(size: int) -> None:
    upgrade = b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    inside = b"GET /inside HTTP/1.1\r\nHost: b\r\n\r\n"
    frames = b"".join(
        b"\x82%c%b" % (len(part), part)
        for at in range(0, len(inside), size)
        if (part := inside[at : at + size])
    )
    said = [
        (True, b"GET /outside HTTP/1.1\r\n" + upgrade), (False, b"HTTP/1.1 101 Switching\r\n" + upgrade),
        (True, frames + b"\x82\0" * 50),
    ]  # fmt: skip
    for cut in (1, 5, 100_000):
        service, entries, _ = analysed(stream(said, 80, cut))
        assert [e.fields["uri"] for e in entries] == ["/outside", "/inside"]
        assert service == "http,websocket"


def test_connections_inside_connections_have_an_end() -> None:
    said = [(True, b"CONNECT a HTTP/1.1\r\n\r\n"), (False, b"HTTP/1.1 200 OK\r\n\r\n")] * 2000
    service, entries, content = analysed(stream(said, 80))
    assert service == "http"
    assert len(entries) == MAX_NESTED + 1
    assert content.counts.by_reason["connection_nested_too_deep"] == 1


def test_receivers_are_divided_at_commas_outside_quotes() -> None:
    assert _listed(b'a, "b, c" <d@e>,f') == [b"a", b' "b, c" <d@e>', b"f"]
    assert len(_listed(b',"' * 1024)) > 500


def test_segments_that_wait_are_looked_at_when_their_turn_comes_and_not_before() -> None:
    content = Content()
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    content.receive(segments(stream([(True, GET), (False, head)], 80)))
    ahead = [Piece(False, len(head) + 500 + 2 * i, b"x", 1.0) for i in range(100)]
    in_order = [Piece(False, len(head) + i, b"y", 2.0) for i in range(500)]
    content.receive(segments([*ahead, *in_order]))
    waiting = content._connections[0].streams[False]
    assert len(waiting.pending) == len(waiting.order) == 99
    content.close(np.array([0]), np.array([b"C0"], "S20"))
    assert not waiting.pending
    assert not waiting.order


def block_of(frames: list[hostile.Frame]) -> FrameBlock:
    sizes = np.array([len(data) for _, data in frames], np.int32)
    return FrameBlock(
        data=np.frombuffer(b"".join(data for _, data in frames), np.uint8),
        start=np.cumsum([0, *sizes])[:-1].astype(np.int64),
        captured=sizes,
        length=sizes,
        ts=np.array([ts for ts, _ in frames]),
        link=np.ones(len(frames), np.int32),
    )


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 12)), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_blocks_behind_a_hole_are_kept_as_the_bytes_that_came(pieces: list[tuple[int, int]]) -> None:
    talk = hostile.Talk(40000, 9999)
    for ahead, length in pieces:
        talk.put(True, hostile.PSH | hostile.ACK, b"x" * length, ahead)
    extractor = Extractor()
    extractor.receive(block_of(talk.frames))
    there = {ahead + i for ahead, length in pieces for i in range(length)}
    begins = sorted(b for b in there if b - 1 not in there)
    expected = [(b, next(e for e in range(b, 200) if e not in there)) for b in begins]
    state = extractor._state
    slot = int(np.flatnonzero(state.heap_at != NONE)[0])
    end = state.ends[2 * slot]
    found, at = [], int(end["blocks"])
    while at != NONE:
        found.append((int(state.blocks[at]["seq"]) - 1, int(state.blocks[at]["upper"]) - 1))
        if state.blocks[at]["next"] == NONE:
            assert at == end["last_block"]
        at = int(state.blocks[at]["next"])
    assert found == expected
    assert end["held"] == len(expected)
    assert end["held_bytes"] == len(there)
