"""What was read of a block's TCP segments at once, where the analyzers that they come to find it."""

from __future__ import annotations

from typing import Final

NOTHING: Final = -1
HELLO: Final = -2  # and below: row HELLO - n of `hellos`; from 0 on a row of `heads`

_NO_NUMBERS: Final[list[int]] = []


class Columns:
    """The plain heads of HTTP and hellos of TLS of a block, and which of them the segment at hand begins with.

    All of it says something of the segment's bytes and of nothing else: whoever is handed just these bytes, `segment`
    itself and no copy, may take what `which` says of them in place of reading them.
    """

    __slots__ = ("heads", "hellos", "items", "kinds", "segment", "which", "words")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """The block is done with."""
        self.segment = b""
        self.which = NOTHING
        self.heads = _NO_NUMBERS  # as `http_columns` has them
        self.items = _NO_NUMBERS
        self.words = ""
        self.hellos = _NO_NUMBERS  # as `tls_columns` has them
        self.kinds = b""
