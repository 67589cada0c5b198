"""Signatures as one automaton: it matches what the expressions match, and looks at each byte once."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_extractors.content.analyzers import dpd
from feature_extractors.content.analyzers.automaton import Automaton
from feature_extractors.content.analyzers.dpd import Head, tcp_signatures

EXPRESSIONS = (
    ("ab", False),
    ("a?b", False),
    ("a*b", False),
    ("a+b", False),
    ("a{2}b", False),
    ("a{1,3}b", False),
    ("(?:a|bb)c", False),
    ("(?:|.*[\\n\\r]) *ab", True),
    (".*a.*b", False),
    ("[^ab]c", False),
    ("[a-c]+\\x00", False),
    ("\\x16[\\x00-\\x03]..\\x02", False),
)


@pytest.mark.parametrize(("expression", "any_case"), EXPRESSIONS)
@given(data=st.lists(st.sampled_from(list(b"abcABC \n\r\0\1\2\x16")), max_size=12).map(bytes))
@settings(max_examples=100, deadline=None)
def test_an_expression_is_complete_just_where_the_library_says(
    expression: str, any_case: bool, data: bytes
) -> None:
    automaton = Automaton({1: (expression, any_case)})
    flags = re.S | (re.I if any_case else 0)
    expected = next(
        (n for n in range(len(data) + 1) if re.fullmatch(expression.encode(), data[:n], flags)), None
    )
    _, pos, complete = automaton.run(automaton.start, data, 0)
    assert (pos if complete else None) == expected
    for soon in (1, 3, 64):
        other = Automaton({1: (expression, any_case)}, soon)
        assert other.run(other.start, data, 0) == automaton.run(automaton.start, data, 0)


def test_there_are_few_states_and_no_traffic_makes_more() -> None:
    assert dpd._FIRST.explore(4000) < 2000
    assert dpd._LATER.explore(4000) < 1000


@pytest.mark.parametrize(
    ("orig", "resp", "expected"),
    [
        (b"USER a b c :d\r\nNICK e\r\n", b":srv 001 e :hello\r\n", ["irc"]),
        (b"nick e\r\nuser a b c :d\r\n", b"001 e\r\n", ["irc"]),
        (b"nick e user a\r\n", b"001 e\r\n", []),
        (b"user \nnick e\r\n", b"001 e\r\n", []),
        (b"nick e\r\nuser a", b"001 e\r\n", []),
        (b"EHLO a\r\n", b"220 mail\r\n", ["smtp"]),
        (b"USER a\r\n", b"220 ftp\r\n331 go on\r\n", ["ftp"]),
        (b"USER a\r\n", b"220 ftp 331 no line\r\n", []),
        (b"USER a\r\n", b"+OK\r\n", ["pop3"]),
        (b"GET / HTTP/1.1\r\n", b"", ["http"]),
        (b"\3\0\0\1\2Cookie: mstshash=a", b"\3\0\0\1\2\xd0", ["rdp"]),
        (b"\5\1\0", b"\5\0", ["dce_rpc", "socks"]),
    ],
)
def test_signatures_ask_for_what_they_did(orig: bytes, resp: bytes, expected: list[str]) -> None:
    assert tcp_signatures(orig, resp, True) == expected


PIECES = (
    b"user ", b"NICK ", b"\n", b"\r", b" ", b"001 ", b":a 002 ", b"server a 1 :b", b"helo", b"220 ", b"331\n", b"Duca",
    b"rdpdr", b"McDn", b"+OK", b"\5", b"\0", b"\x16\3\1", b"GET", b"apop\t", b"x",
)  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=10), st.integers(1, 7))
@settings(max_examples=300, deadline=None)
def test_a_head_shows_the_same_however_it_is_cut(pieces: list[bytes], size: int) -> None:
    data = b"".join(pieces)
    whole, cut = Head(), Head()
    whole.feed(data)
    for begin in range(0, len(data), size):
        cut.feed(data[begin : begin + size])
    assert whole.seen == cut.seen


def test_what_made_a_backtracking_matcher_hang_takes_no_time() -> None:
    begun = time.process_time()
    for k in (10, 50, 135):
        orig = b"nick" + b" " * (2 * k) + b"\n" * (4 * k) + b"user" + b" " * (2 * k) + b"x" * (2 * k)
        assert tcp_signatures(orig, b"3\n", True) == []
    assert time.process_time() - begun < 2
