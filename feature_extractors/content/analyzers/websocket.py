"""WebSocket frames after an HTTP upgrade; what they carry is looked at as a connection of its own.

Mirrors when src/analyzer/protocol/websocket of Zeek 8.2.2 confirms itself: with the first whole message.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

from feature_extractors.content.analyzers.base import Analyzer, Framed, ParseError, Session

# Frames of the same few bytes in a row: text, binary and continued ones; empty ones of control as well.
_SMALL: Final = [
    re.compile(rb"(?:[\x00-\x02\x80-\x82%s]\x%02x.{%d})++" % (b"" if n else rb"\x88-\x8a", n, n), re.S)
    for n in range(9)
]
_OPCODES: Final = frozenset((0, 1, 2, 8, 9, 10))


class WebSocket(Analyzer):
    """WebSocket (RFC 6455): the frames of both directions."""

    service: ClassVar[str] = "websocket"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._streams = (Framed(16 * 1024), Framed(16 * 1024))
        self._left = [0, 0]  # bytes of the frame under way that did not come yet
        self._masks = [b"", b""]
        self._at = [0, 0]
        self._carries = [False, False]
        self._inside = session.child("pia")

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        stream = self._streams[is_orig]
        stream.feed(data)
        carried: list[bytes] = []
        try:
            while len(stream):
                if self._left[is_orig]:
                    part = stream.take(min(self._left[is_orig], len(stream), 16 * 1024)) or b""
                    self._left[is_orig] -= len(part)
                    self._payload(is_orig, part, carried)
                elif not self._head(is_orig, stream, carried):
                    return
        finally:
            if carried and self._inside is not None:
                self._inside.data(is_orig, ts, b"".join(carried))

    def gap(self, is_orig: bool, length: int) -> None:
        self.stop()

    def end(self) -> None:
        if self._inside is not None:
            self._inside.end()

    def _head(self, is_orig: bool, stream: Framed, carried: list[bytes]) -> bool:
        head = stream.peek(2)
        if head is None:
            return False
        size = head[1] & 0x7F
        if head[1] < len(_SMALL) and (frames := stream.run(_SMALL[size])):  # as many as there are, unmasked
            self.session.confirm(self.service)
            if size and self._inside is not None and not self._inside.done:
                inside = bytearray(frames)
                del inside[:: size + 2]
                del inside[:: size + 1]
                carried.append(bytes(inside))
            return True
        more = {126: 2, 127: 8}.get(size, 0)
        masked = 4 if head[1] & 0x80 else 0
        whole = stream.take(2 + more + masked)
        if whole is None:
            return False
        if head[0] & 15 not in _OPCODES:
            raise ParseError("unknown_opcode")
        if more:
            size = int.from_bytes(whole[2 : 2 + more], "big")
        self._left[is_orig] = size
        self._masks[is_orig] = whole[2 + more :]
        self._at[is_orig] = 0
        self._carries[is_orig] = head[0] & 15 < 8
        if size == 0:
            self.session.confirm(self.service)
        return True

    def _payload(self, is_orig: bool, part: bytes, carried: list[bytes]) -> None:
        if self._left[is_orig] == 0:
            self.session.confirm(self.service)
        mask = self._masks[is_orig]
        if self._inside is None or self._inside.done or not self._carries[is_orig]:
            return
        if mask:
            at = self._at[is_orig] % 4
            key = (mask[at:] + mask[:at]) * (len(part) // 4 + 1)
            n = len(part)
            part = (int.from_bytes(part, "big") ^ int.from_bytes(key[:n], "big")).to_bytes(n, "big")
        self._at[is_orig] += len(part)
        carried.append(part)
