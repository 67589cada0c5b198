"""Texts from the network, made safe to print."""

from __future__ import annotations

import re

# Control characters, bidirectional overrides, separators, lone surrogates, and what takes no room or is no text: what
# could move a cursor, turn a line round, or hide a word.
_UNSAFE = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\xad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180f\\u200b-\\u200f\\u2028-\\u202e"
    "\\u2060-\\u206f\\u3164\\ud800-\\udfff\\ufe00-\\ufe0f\\ufeff\\uffa0\\ufff0-\\uffff\\U000e0000-\\U000e0fff]"
    "|(?<=[\\u0300-\\u036f]{3})[\\u0300-\\u036f]"  # letters under a heap of marks, which reach into other lines
)


def printable(text: str, most: int = 400) -> str:
    """A text from the network made safe to print: escapes for what is not printable, cut in the middle to `most`."""
    return middle(_UNSAFE.sub(_escape, middle(text, most)), most)


def whole_reasons(text: str, most: int = 400) -> str:
    """Reasons with "; " between them, made safe to print, `most` characters at most: whole ones, … for those left out.

    The first are of most evidence, the last of the latest connection; those between are left out.
    """
    parts = [printable(part, most // 2 - 2) for part in text.split("; ")]
    if len("; ".join(parts)) <= most:
        return "; ".join(parts)
    begin: list[str] = []
    end: list[str] = []
    room = most - 1
    while True:
        to = begin if len(begin) <= len(end) else end
        part = parts[len(begin)] if to is begin else parts[-1 - len(end)]
        room -= len(part) + 2
        if room < 0:
            return "; ".join([*begin, "…", *reversed(end)])
        to.append(part)


def middle(text: str, most: int) -> str:
    """A text of `most` characters at most: beginning and end, where names tell most, with … between."""
    if len(text) <= most:
        return text
    return f"{text[: most - most // 2 - 1]}…{text[len(text) - most // 2 :]}"


def _escape(found: re.Match[str]) -> str:
    n = ord(found[0])
    return f"\\x{n:02x}" if n < 0x100 else f"\\u{n:04x}" if n < 0x10000 else f"\\U{n:08x}"
