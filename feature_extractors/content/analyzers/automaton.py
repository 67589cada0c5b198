"""Patterns over bytes as one finite automaton: each byte is looked at once, whatever patterns and bytes are.

Expressions are read into the places of their byte sets (Glushkov 1961, The abstract theory of automata). A set of
places that may come next is a state; each transition between states is worked out when it is first taken and then
kept, so that what a process ever spends on that is bounded by the product of states and kinds of bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

import numpy as np

from feature_extractors.compiled import code_digest, remembered
from feature_extractors.content.walk import walk

_UNKNOWN: Final = -1  # a transition that nobody has taken; below it, one that completes a pattern
_ESCAPES: Final = {"n": 10, "r": 13, "t": 9, "v": 11, "f": 12}
_ANY: Final = frozenset(range(256))


class Automaton:
    """Patterns that all begin at the first byte; `(?:|.*[\\n\\r])` before one lets it begin on any line.

    An expression is made of bytes, `.` (any byte), `[...]`, `(?:...)`, `|`, `*`, `+`, `?`, `{m}` and `{m,n}`.
    """

    def __init__(self, patterns: dict[int, tuple[str, bool]], soon: int = 0) -> None:
        """`patterns`: expression and whether letters stand for both cases, by the bit that tells it is complete.

        After `soon` bytes most content matches none any more: so many are looked at without a call of compiled code.
        """
        of = hashlib.sha256(f"{code_digest(__name__)} {patterns}".encode()).hexdigest()
        made = remembered(f"automaton of {len(patterns)} patterns", of, lambda: _made(patterns))
        kinds, there, following, last, first = made
        self._kinds = np.frombuffer(kinds, np.uint8)
        self._kind_of: bytes = kinds
        self._there: list[int] = there  # the places whose set holds a byte of this kind
        self._next: list[int] = following  # places that may follow each place, as bits
        self._last: dict[int, int] = last  # bits of the patterns that a place completes
        self._soon = soon
        self._width = len(self._there)
        self._rows: dict[int, int] = {}  # where a state's row begins in the table
        self._states: list[int] = []
        self._table = np.full(64 * self._width, _UNKNOWN, np.int32)
        self._same: dict[int, int] = {}  # what is known of the table, where `soon`
        self._done: dict[int, int] = {}  # what a transition completes
        self.dead = self._row(0)
        self.start = self._row(first)

    def __len__(self) -> int:
        """States made so far."""
        return len(self._states)

    def run(self, state: int, data: bytes, pos: int) -> tuple[int, int, int]:
        """Goes on from `state` with `data` from `pos` on, at most to the next byte that completes a pattern.

        Returns the state then, the offset of the next byte, and the bits of what is complete: 0 at the end of `data`.
        """
        size = len(data)
        if self._soon:
            same, kind_of, dead = self._same, self._kind_of, self.dead
            upto = min(pos + self._soon, size)
            while pos < upto:
                at = state + kind_of[data[pos]]
                known = same.get(at)
                if known is None:
                    known = self._transition(at)
                pos += 1
                if known < 0:
                    return -2 - known, pos, self._done[at]
                state = known
                if state == dead:
                    return state, size, 0
            if pos == size:
                return state, size, 0
        view = np.frombuffer(data, np.uint8)
        while pos < size:
            state, pos = walk(self._table, self._kinds, view, state, pos, self.dead)
            if state >= 0:
                return state, size, 0
            at = -1 - state
            following = int(self._table[at])
            if following == _UNKNOWN:
                following = self._transition(at)
            pos += 1
            if following < 0:
                return -2 - following, pos, self._done[at]
            state = following
        return state, pos, 0

    def explore(self, most: int) -> int:
        """The number of states, after every transition has been worked out; stops beyond `most` states."""
        row = 0
        while row < len(self._states) <= most:
            for kind in range(self._width):
                at = row * self._width + kind
                if self._table[at] == _UNKNOWN:
                    self._transition(at)
            row += 1
        return len(self._states)

    def _row(self, state: int) -> int:
        row = self._rows.get(state)
        if row is None:
            row = self._rows[state] = len(self._states) * self._width
            self._states.append(state)
            if row + self._width > len(self._table):
                self._table = np.concatenate([self._table, np.full(len(self._table), _UNKNOWN, np.int32)])
        return row

    def _transition(self, at: int) -> int:
        taken = self._states[at // self._width] & self._there[at % self._width]
        following, done = 0, 0
        for place in _bits(taken):
            following |= self._next[place]
            done |= self._last.get(place, 0)
        row = self._row(following)
        if done:
            self._done[at] = done
            row = -2 - row
        self._table[at] = row
        if self._soon:
            self._same[at] = row
        return row


def _made(patterns: dict[int, tuple[str, bool]]) -> tuple[bytes, list[int], list[int], dict[int, int], int]:
    """Of patterns: each byte's kind, the places of each kind, what may follow each, what each completes; the first."""
    sets: list[frozenset[int]] = []
    following: list[int] = []
    last: dict[int, int] = {}
    first = 0
    for bit, (expression, any_case) in patterns.items():
        begin, end = _Reader(expression, any_case, sets, following).read()
        first |= begin
        for place in _bits(end):
            last[place] = last.get(place, 0) | bit
    alike: dict[tuple[bool, ...], int] = {}
    kinds = bytes([alike.setdefault(tuple([b in s for s in sets]), len(alike)) for b in range(256)])
    there = [0] * len(alike)
    for byte in range(256):
        there[kinds[byte]] = sum([1 << i for i, s in enumerate(sets) if byte in s])
    return kinds, there, following, last, first


def _bits(places: int) -> Iterator[int]:
    while places:
        low = places & -places
        yield low.bit_length() - 1
        places ^= low


class _Reader:
    """Reads one expression and enters its places."""

    def __init__(
        self, expression: str, any_case: bool, sets: list[frozenset[int]], following: list[int]
    ) -> None:
        self._said = expression
        self._any_case = any_case
        self._sets = sets
        self._next = following
        self._pos = 0

    def read(self) -> tuple[int, int]:
        """The places where the pattern may begin and end."""
        _, first, last = self._choice()
        assert self._pos == len(self._said), f"{self._said!r}: unbalanced"
        return first, last

    def _peek(self) -> str:
        return self._said[self._pos : self._pos + 1]

    def _choice(self) -> tuple[bool, int, int]:
        """Whether nothing at all will do, and the first and last places."""
        empty, first, last = self._sequence()
        while self._peek() == "|":
            self._pos += 1
            e, f, n = self._sequence()
            empty, first, last = empty or e, first | f, last | n
        return empty, first, last

    def _sequence(self) -> tuple[bool, int, int]:
        empty, first, last = True, 0, 0
        while self._peek() not in ("", "|", ")"):
            for e, f, n in self._repeated():
                self._link(last, f)
                if empty:
                    first |= f
                last = n | (last if e else 0)
                empty = empty and e
        return empty, first, last

    def _repeated(self) -> list[tuple[bool, int, int]]:
        """One item as often as it may or must stand in a row."""
        begin = self._pos
        empty, first, last = self._item()
        end, sign = self._pos, self._peek()
        if sign in ("*", "+"):
            self._pos += 1
            self._link(last, first)
            return [(empty or sign == "*", first, last)]
        if sign == "?":
            self._pos += 1
            return [(True, first, last)]
        if sign != "{":
            return [(empty, first, last)]
        close = self._said.index("}", end)
        least, _, most = self._said[end + 1 : close].partition(",")
        out = [(empty, first, last)]
        for _ in range(int(most or least) - 1):
            self._pos = begin
            out.append(self._item())
        self._pos = close + 1
        return [(e or i >= int(least), f, n) for i, (e, f, n) in enumerate(out)]

    def _item(self) -> tuple[bool, int, int]:
        char = self._peek()
        self._pos += 1
        if char == "(":
            self._pos += 2  # "?:"
            inside = self._choice()
            self._pos += 1
            return inside
        if char == "[":
            there = self._class()
        elif char == ".":
            there = _ANY
        else:
            self._pos -= 1
            there = self._cased({self._byte()})
        self._sets.append(there)
        self._next.append(0)
        place = 1 << (len(self._sets) - 1)
        return False, place, place

    def _class(self) -> frozenset[int]:
        negated = self._peek() == "^"
        self._pos += negated
        there: set[int] = set()
        while self._peek() != "]":
            low = high = self._byte()
            if self._peek() == "-" and self._said[self._pos + 1] != "]":
                self._pos += 1
                high = self._byte()
            there.update(range(low, high + 1))
        self._pos += 1
        cased = self._cased(there)
        return _ANY - cased if negated else cased

    def _cased(self, there: set[int]) -> frozenset[int]:
        letters = {b ^ 32 for b in there if chr(b).isalpha() and b < 128} if self._any_case else set()
        return frozenset(there | letters)

    def _byte(self) -> int:
        char = self._peek()
        self._pos += 1
        if char != "\\":
            return ord(char)
        char = self._peek()
        self._pos += 1
        if char == "x":
            self._pos += 2
            return int(self._said[self._pos - 2 : self._pos], 16)
        return _ESCAPES.get(char, ord(char))

    def _link(self, last: int, first: int) -> None:
        for place in _bits(last):
            self._next[place] |= first
