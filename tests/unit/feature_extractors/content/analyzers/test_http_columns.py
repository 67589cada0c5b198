"""HTTP's heads read a block at a time: the same as line by line, whatever is wrong with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_segments import Said, stream
from read_alike import MODES, both_ways, changed, pieces_of

from feature_extractors.content.analyzers.columns import NOTHING
from feature_extractors.content.analyzers.http_columns import HEAD, HEADERS, METHODS, Heads, read
from feature_extractors.content.reassembly import ContentLimits

REQUEST = (
    b"GET /a?b=c HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n"
    b"Referer: http://example.com/\r\nConnection: keep-alive\r\n\r\n"
)
REPLY = (
    b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 5\r\n"
    b"Connection: Keep-Alive\r\n\r\n"
)


def heads_of(*messages: bytes, behind: bytes = b"") -> tuple[list[int], Heads]:
    """Which row stands for each message, and the rows; `behind` stands in memory where they end."""
    sizes = [len(m) for m in messages]
    which = np.full(len(messages), NOTHING, np.int64)
    data = np.frombuffer(b"".join(messages) + behind, np.uint8)
    begins = np.cumsum([0, *sizes])[:-1].astype(np.int64)
    heads = read(data, begins, np.array(sizes, np.int32), np.arange(len(sizes)), which)
    return which.tolist(), heads


def test_the_columns_of_a_request_say_what_its_head_says() -> None:
    which, heads = heads_of(REQUEST + b"body")
    assert which == [0]
    is_request, line, size, lines, method, version, plain, begin, end, first, last = heads.rows
    assert (is_request, line, size, lines, version, plain) == (1, 21, len(REQUEST), 5, 1, 1)
    assert METHODS[method] == b"GET"
    assert heads.words[begin:end] == "/a?b=c"
    assert (first, last) == (0, 3)
    assert heads.words[end:] == "www.example.comcurl/8.5.0http://example.com/"


def test_plain_heads_are_read_with_their_block_and_odd_ones_are_not() -> None:
    plain = [REQUEST, REPLY, b"POST / HTTP/1.0\r\n\r\nbody", b"HTTP/1.0 404 Not Found\r\n\r\n",
             b"GET /%41\xff HTTP/1.1\r\nHOST:\tx \r\nvia:\r\n\r\n"]  # fmt: skip
    odd = [
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\nHost: abc\n\n",
        b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
        b"GET HTTP/1.1 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"get / HTTP/1.1\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\nabcdefg",
        b"HTTP/1.1 200  \r\n\r\nabcdefg",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 20x OK\r\n\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
    ]
    which, _ = heads_of(*plain, *odd)
    assert which == [0, 1, 2, 3, 4, *[NOTHING] * len(odd)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("talk", [
    [(True, REQUEST), (False, REPLY + b"hello"), (True, REQUEST * 3), (False, (REPLY + b"hello") * 3)],
    [(True, b"HEAD / HTTP/1.1\r\n\r\n"), (False, REPLY), (True, REQUEST), (False, b"HTTP/1.1 304 Not\r\n\r\n")],
    [(True, b"PUT / HTTP/1.1\r\nContent-Length: 4\r\n\r\nab"), (False, b"HTTP/1.1 100 Continue\r\n\r\n"),
     (True, b"cd"), (False, b"HTTP/1.1 204 No\r\n\r\n")],
    [(True, REQUEST), (False, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + REPLY)],
    [(True, REQUEST), (False, b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\1a")],
    [(True, b"CONNECT a:80 HTTP/1.1\r\n\r\n"), (False, b"HTTP/1.1 200 OK\r\n\r\n"), (True, REQUEST), (False, REPLY)],
    [(True, REQUEST), (False, b"HTTP/1.0 200 OK\r\n\r\nall of it"), (False, b"and more")],
    [(False, REPLY), (True, REQUEST)],
])  # fmt: skip
@pytest.mark.parametrize("port", [80, 1080, 9999])
def test_a_conversation_reads_alike_both_ways(talk: list[Said], port: int, mode: str) -> None:
    fast, slow = both_ways(stream(talk, port), mode)
    assert fast == slow


def test_what_is_said_beside_much_too_little_is_dropped_both_ways() -> None:
    talk = [(True, b"GET / HTTP/1.1\r\n\r\n")] * 600
    fast, slow = both_ways(stream(talk, 80))
    assert fast == slow
    assert fast[-1]["http_over_budget"] == 1


lines = st.sampled_from([
    b"GET / HTTP/1.1", b"POST /a HTTP/1.0", b"HEAD /%41%u0042 HTTP/1.1", b"OPTIONS * HTTP/1.1",
    b"GET /\xc3\xa4 HTTP/1.1", b"CONNECT a:80 HTTP/1.1", b"FOO / HTTP/1.1", b"GET /", b"GET / HTTP/0.9",
    b"GET / HTTP/1.7", b"DELETE /a b HTTP/1.1", b"PUT http/ HTTP/1.1", b"PROPFIND / http/1.1",
    b"HTTP/1.1 200 OK", b"HTTP/1.0 404 Not  Found ", b"HTTP/1.1 100 Continue", b"HTTP/1.1 206 Part",
    b"HTTP/1.1 304 \xff", b"HTTP/1.1 101 Up", b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"http/1.1 200 OK",
])  # fmt: skip
names = st.sampled_from([*HEADERS, b"Accept", b"X", b"x-a_b", b"a b", b""]).flatmap(
    lambda name: st.sampled_from([name, name.lower(), name.title(), name + b" "])
)
values = st.sampled_from([
    b"0", b"5", b"12", b"007", b"5x", b"-1", b"9" * 19, b"", b"chunked", b"Chunked, gzip", b"gzip",
    b"text/html", b"keep-alive", b"KEEP-ALIVE", b"close", b"Upgrade, a", b"websocket",
    b"multipart/form-data; boundary=x", b"\x0bMultipart/mixed", b"text/x; NAME=\"a.txt\"",
    b"attachment; filename=a", b"bytes 0-4/10", b"Basic YTpi", b"a\tb", b"\xc3\xa4\xff", b"x" * 5000,
])  # fmt: skip
blanks = st.sampled_from([b" ", b"", b"\t ", b"  "])
headers = st.builds(lambda n, b, v, e, c: n + c + b + v + e, names, blanks, values,
                    st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b" \r\n", b"\n", b"\r\n\t"]),
                    st.sampled_from([b":", b":", b":", b""]))  # fmt: skip
bodies = st.sampled_from([b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"\r\n", REQUEST, REPLY + b"hello"])
messages = st.builds(
    lambda line, end, some, body: line + end + b"".join(some) + b"\r\n" + body,
    lines, st.sampled_from([b"\r\n", b"\r\n", b"\n"]), st.lists(headers, max_size=5), bodies,
)  # fmt: skip
changes = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=3)
talks = st.lists(st.tuples(st.booleans(), messages, changes), min_size=1, max_size=6)


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    talks,
    st.sampled_from([1 << 20, 1 << 20, 150, 40]),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=2),
    st.sampled_from([80, 80, 1080, 9999]),
    st.sampled_from(MODES),
    st.integers(1, 8),
)
def test_whatever_is_wrong_with_a_head_it_reads_alike_both_ways(
    talk: list[tuple[bool, bytes, list[tuple[int, int]]]],
    size: int,
    again: list[tuple[int, int]],
    port: int,
    mode: str,
    block: int,
) -> None:
    said = [(is_orig, changed(message, wrong)) for is_orig, message, wrong in talk]
    limits = ContentLimits(transactions=3, log_entries=5)
    fast, slow = both_ways(pieces_of(said, port, size, again), mode, limits, block)
    assert fast == slow


@settings(max_examples=300, deadline=None)
@given(messages | st.just(REQUEST), changes, st.integers(0, 400), st.binary(min_size=1, max_size=40))
def test_what_lies_behind_a_segment_is_not_looked_at(
    message: bytes, wrong: list[tuple[int, int]], cut: int, behind: bytes
) -> None:
    message = changed(message, wrong)[:cut] or b"GET"
    alone: Any = heads_of(message)
    assert heads_of(message, behind=behind) == alone
    assert heads_of(message, behind=b"\r\n\r\n") == alone
    assert all(end <= len(message) for end in alone[1].rows[2::HEAD])
