"""Content puts streams together, asks for no more than it needs, and stays within its bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_segments import Piece, analysed, bounds, segments, stream

from feature_extractors.content.reassembly import Content, ContentLimits
from feature_extractors.content.segments import NEVER

REQUEST = b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n"
REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
TALK = [(True, REQUEST), (False, REPLY), (True, REQUEST), (False, REPLY)]


def described(pieces: list[Piece]) -> list[tuple[str, object, object]]:
    service, entries, _ = analysed(pieces)
    return [(service, e.fields.get("uri"), e.fields.get("response_body_len")) for e in entries]


EXPECTED = [("http", "/a", 5), ("http", "/a", 5)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 1000])
def test_the_same_conversation_reads_alike_however_it_is_cut(size: int) -> None:
    assert described(stream(TALK, 80, size)) == EXPECTED


def test_what_is_repeated_or_overlaps_is_read_once() -> None:
    pieces = stream(TALK, 80, 10)
    twice = [p for piece in pieces for p in (piece, piece)]
    longer = [Piece(p.is_orig, max(p.offset - 0, 0), p.data, p.ts) for p in twice]
    assert described(longer) == EXPECTED


def test_a_segment_that_comes_late_is_put_in_its_place() -> None:
    first, second, *rest = stream(TALK[:1], 80, 12)
    reply = stream(TALK[:2], 80)[-1]
    assert described([second, *rest, first, reply]) == EXPECTED[:1]


def test_a_hole_is_given_up_when_the_peer_speaks_on() -> None:
    pieces = stream([(True, REQUEST)], 80, 12)
    missing = pieces.pop(1)
    reply = Piece(False, 0, REPLY, 2.0)
    _, _, content = analysed([*pieces, reply])
    assert content.counts.by_reason["tcp_content_gap"] == 1
    assert len(missing.data) == 12


def test_waiting_segments_are_bounded_in_bytes_and_number() -> None:
    limits = ContentLimits(pending_bytes=1000, pending_segments=10)
    content = Content(limits)
    ahead = [Piece(True, 100 + 20 * i, b"x" * 10, 1.0) for i in range(200)]
    content.receive(segments(ahead))
    stream_ = content._connections[0].streams[True]
    assert len(stream_.pending) <= 10
    assert stream_.pending_bytes <= 1000
    assert content._pending_total == stream_.pending_bytes
    assert content.counts.by_reason["tcp_content_gap"] > 0


def test_a_body_is_not_wanted_once_its_length_is_known() -> None:
    content = Content()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 2000
    wanted = content.receive(segments(stream([(True, REQUEST), (False, head)], 80)))
    assert bounds(wanted)[0] == (0, len(head) - 2000 + 1000000)
    last = Piece(False, len(head) - 2000 + 1000000 - 10, b"x" * 10, 3.0)
    content.receive(
        segments([last, Piece(False, last.offset + 10, REPLY, 4.0), Piece(True, len(REQUEST), REQUEST, 5.0)])
    )
    _, entries, _ = content.close(np.array([0]), np.array([b"C0"], "S20"))
    assert entries[0].fields["response_body_len"] == 1000000
    assert "tcp_content_gap" not in content.counts.by_reason


def test_content_that_nobody_knows_is_never_wanted_again() -> None:
    content = Content()
    wanted = content.receive(segments(stream([(True, b"\0" * 3000)], 9999)))
    assert bounds(wanted) == {0: (NEVER, NEVER)}


def test_datagrams_that_nobody_knows_are_never_wanted_again() -> None:
    content = Content()
    pieces = [Piece(True, -1, b"\1" * 600, float(i), ip_proto=17, resp_p=9999) for i in range(3)]
    assert bounds(content.receive(segments(pieces))) == {0: (NEVER, NEVER)}


def test_payload_that_was_not_captured_whole_is_missing() -> None:
    whole = stream([(True, REQUEST)], 80)[0]
    _, entries, content = analysed([Piece(True, 0, whole.data[:10], length=len(whole.data))])
    assert not entries
    assert content.counts.by_reason["tcp_payload_not_captured"] == 1


@pytest.mark.parametrize("cut_off", [1, 2, 50])
def test_of_a_capture_cut_short_what_is_whole_again_is_still_recognised(cut_off: int) -> None:
    short = [Piece(True, 1000 * i, b"GET", length=1000, ts=float(i), resp_p=9999) for i in range(cut_off)]
    at = 1000 * cut_off
    talk = [Piece(True, at, REQUEST, ts=60.0, resp_p=9999), Piece(False, 0, REPLY, ts=61.0, resp_p=9999)]
    service, entries, content = analysed([*short, *talk])
    assert (service, [e.fields["uri"] for e in entries]) == ("http", ["/a"])
    assert content.counts.by_reason["tcp_payload_not_captured"] == cut_off


def test_a_connection_whose_beginning_was_missed_gets_no_http() -> None:
    pieces = stream(TALK, 80)
    for piece in pieces:
        piece.partial = True
    assert analysed(pieces)[0] == ""


def test_log_entries_are_bounded_and_the_rest_counted() -> None:
    _, entries, content = analysed(stream(TALK * 20, 80), ContentLimits(log_entries=7))
    assert len(entries) == 7
    assert content.counts.by_reason["log_entries_over_limit"] == 40 - 7


def test_log_entries_are_bounded_in_bytes_too() -> None:
    _, entries, content = analysed(stream(TALK * 20, 80), ContentLimits(log_bytes=8000))
    assert 2 <= len(entries) <= 16
    assert content.counts.by_reason["log_bytes_over_limit"] == 40 - len(entries)
    assert content._run.bytes_open == 0


def test_a_flip_before_content_chooses_analyzers_anew() -> None:
    content = Content()
    content.receive(segments([Piece(True, 0, b"", orig_p=80, resp_p=40000)]))
    content.flip(0)
    content.receive(segments(stream(TALK, 80)))
    services, entries, _ = content.close(np.array([0]), np.array([b"C0"], "S20"))
    assert services == ["http"]
    assert len(entries) == 2


def test_a_closed_connection_leaves_nothing_behind() -> None:
    content = Content()
    content.receive(segments([*stream(TALK, 80), Piece(True, 5000, b"late")]))
    content.close(np.array([0]), np.array([b"C0"], "S20"))
    assert not content._connections
    assert content._pending_total == 0
    assert content._run.entries_open == 0


def test_a_connection_without_content_has_no_service() -> None:
    services, entries, start = Content().close(np.array([4, 9]), np.array([b"C4", b"C9"], "S20"))
    assert (services, entries, start.tolist()) == (["", ""], [], [0, 0, 0])


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 40))
def test_any_order_of_segments_gives_the_same_entries_while_nothing_is_lost(random, size: int) -> None:
    pieces = stream([(True, REQUEST * 3)], 80, size)
    random.shuffle(pieces)
    assert [e.fields["uri"] for e in analysed(pieces, ContentLimits(pending_segments=1000))[1]] == ["/a"] * 3


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.booleans())
def test_what_was_not_wanted_changes_no_entry(size: int, aborted: bool) -> None:
    body = b"x" * 3000
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(body) * (2 if aborted else 1)) + body
    pieces = stream([(True, REQUEST), (False, reply)], 80, size * 50)
    ends = np.array([[len(REQUEST), len(reply)]])
    one, many = Content(), Content()
    one.receive(segments(pieces))
    wanted = (0, 0)
    for piece in pieces:
        if piece.offset + len(piece.data) > wanted[0 if piece.is_orig else 1]:
            wanted = bounds(many.receive(segments([piece]))).get(0, wanted)
    entries = [c.close(np.array([0]), np.array([b"C0"], "S20"), ends)[:2] for c in (one, many)]
    assert entries[0] == entries[1]
    assert entries[0][1][0].fields["response_body_len"] == len(body)


def test_an_analyzer_that_has_read_all_it_wants_is_not_begun_again_by_a_signature() -> None:
    hello = b"SSH-1.5-1.2.26\n"
    key = bytes([0, 0, 0, 5, 0, 0, 0, 3]) + bytes(5)  # the session key, after which all is encrypted
    pieces = stream([(False, hello), (True, hello), (True, key), (True, b"secret"), (False, b"secret")], 22)
    assert [name for name, _, _ in described(pieces)] == ["ssh"]
