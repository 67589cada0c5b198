"""The bytes of a file, pipe or compressed file as a stream: what has arrived, in pieces of bounded size."""

from __future__ import annotations

import bz2
import importlib.util
import lzma
import os
import select
import stat
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from feature_extractors.errors import CaptureError

if TYPE_CHECKING:
    from feature_extractors.frames import Counts

STDIN: Final = "-"
_HOLD_SECONDS: Final = 0.5  # seconds for which bytes of a live pipe wait for more to come
_INPUT_BYTES: Final = 64 * 1024  # compressed bytes read at a time
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_WINDOW_BYTES: Final = 128 * 1024 * 1024  # bytes of its window; `zstd --long` needs as many
_ZSTD_PIECE_BYTES: Final = 1024  # compressed bytes that are unpacked at a time: 32 MiB at most come of them
_XZ_MEMORY_BYTES: Final = 128 * 1024 * 1024  # bytes an xz dictionary may take; `xz -9` needs 65 MiB


class Source(Protocol):
    """A stream of bytes."""

    def fill(self, view: memoryview) -> int:
        """The number of bytes put at the start of `view`: 0 at the end, fewer than its length where a pipe is slow."""

    def close(self) -> None: ...


class FileSource:
    """A file, or a pipe from which bytes are handed on within half a second of their arrival."""

    def __init__(self, fd: int, *, live: bool, owned: bool) -> None:
        self._fd = fd
        self._owned = owned
        self.live = live
        self._poll = select.poll()
        if live:
            self._poll.register(fd, select.POLLIN)

    def fill(self, view: memoryview) -> int:
        got = os.readv(self._fd, [view])
        deadline = time.monotonic() + _HOLD_SECONDS
        while 0 < got < len(view):
            if self.live and not self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                break
            n = os.readv(self._fd, [view[got:]])
            if n == 0:
                break
            got += n
        return got

    def waiting(self) -> bool:
        """Whether `fill` returns at once."""
        return not self.live or bool(self._poll.poll(0))

    def close(self) -> None:
        if self._owned and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """zlib's decompressor behind the interface that bz2 and lzma have."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        out = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = len(out) < max_length and not self._zlib.unconsumed_tail
        return out


class _Zstd:
    """zstandard's decompressor behind the same interface; so little goes in at once that what comes out is bounded."""

    def __init__(self) -> None:
        import zstandard

        made = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        self._zstd = made.decompressobj()
        self._error: type[Exception] = zstandard.ZstdError
        self._input = b""
        self._output = b""

    @property
    def needs_input(self) -> bool:
        return not self._input and not self._output

    @property
    def eof(self) -> bool:
        return bool(self._zstd.eof) and not self._output

    @property
    def unused_data(self) -> bytes:
        return bytes(self._zstd.unused_data) + self._input

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        self._input += data
        while self._input and not self._output and not self._zstd.eof:
            piece, self._input = self._input[:_ZSTD_PIECE_BYTES], self._input[_ZSTD_PIECE_BYTES:]
            try:
                self._output = self._zstd.decompress(piece)
            except self._error as error:
                raise OSError(str(error)) from None
        out, self._output = self._output[:max_length], self._output[max_length:]
        return out


_COMPRESSIONS: Final[tuple[tuple[bytes, Callable[[], _Decompressor]], ...]] = (
    (b"\x1f\x8b\x08", _Gzip),
    (b"BZh", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\x00", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)),
)


class DecompressedSource:
    """The decompressed bytes of a gzip, bzip2, xz or zstd stream, all its members; damage ends it and is counted."""

    def __init__(self, source: PeekedSource, new: Callable[[], _Decompressor], counts: Counts) -> None:
        self._source = source
        self._new = new
        self._decompressor = new()
        self._counts = counts
        self._input = bytearray(_INPUT_BYTES)
        self._pending = b""
        self._ended = False

    def fill(self, view: memoryview) -> int:
        got = 0
        while got < len(view) and not self._ended:
            if not self._pending and self._decompressor.needs_input and not self._decompressor.eof:
                if got and not self._source.waiting():
                    break
                self._pending = self._more()
                if not self._pending:
                    self._end("compressed_stream_truncated")
                    break
            if self._decompressor.eof:
                self._next_member()
                continue
            try:
                out = self._decompressor.decompress(self._pending, len(view) - got)
            except (zlib.error, OSError, lzma.LZMAError, EOFError):
                self._end("compressed_stream_damaged")
                break
            self._pending = b""
            view[got : got + len(out)] = out
            got += len(out)
        return got

    def _more(self) -> bytes:
        return bytes(self._input[: self._source.fill(memoryview(self._input))])

    def _next_member(self) -> None:
        rest = self._decompressor.unused_data.lstrip(b"\0")
        while not rest and not self._ended:  # zeros may pad the file to a block
            more = self._more()
            self._ended = not more
            rest = more.lstrip(b"\0")
        self._decompressor = self._new()
        self._pending = rest

    def _end(self, reason: str) -> None:
        self._ended = True
        self._counts.add(reason)

    def close(self) -> None:
        self._source.close()


class PeekedSource:
    """A source whose first bytes have been looked at and come again."""

    def __init__(self, source: FileSource, n: int) -> None:
        self._source = source
        head = bytearray(n)
        view = memoryview(head)
        got = 0
        while got < n and (more := source.fill(view[got:])):
            got += more
        self.head = bytes(head[:got])
        self._left = self.head

    def fill(self, view: memoryview) -> int:
        got = min(len(self._left), len(view))
        view[:got] = self._left[:got]
        self._left = self._left[got:]
        if got < len(view) and (got == 0 or self._source.waiting()):
            got += self._source.fill(view[got:])
        return got

    def waiting(self) -> bool:
        return bool(self._left) or self._source.waiting()

    def close(self) -> None:
        self._source.close()


def is_live(name: str | Path) -> bool:
    """Whether the bytes can be read once only: standard input, a FIFO, a process substitution."""
    return str(name) == STDIN or not stat.S_ISREG(_stat(name).st_mode)


def open_source(name: str | Path, counts: Counts, *, zstd: bool = False) -> Source:
    """The stream of a file, decompressed where its first bytes say so; "-" is standard input.

    What zstd has packed is unpacked where it is asked for and zstandard is installed.

    Raises `CaptureError` where there is nothing to read.
    """
    live = is_live(name)
    if str(name) == STDIN:
        raw = FileSource(sys.stdin.fileno(), live=not stat.S_ISREG(os.fstat(0).st_mode), owned=False)
    else:
        try:
            raw = FileSource(os.open(name, os.O_RDONLY | os.O_CLOEXEC), live=live, owned=True)
        except OSError as error:
            raise CaptureError(f"cannot read capture {name}: {error.strerror}") from error
    try:
        source = PeekedSource(raw, 6)
    except OSError as error:
        raw.close()
        raise CaptureError(f"cannot read capture {name}: {error.strerror}") from error
    if not source.head:
        raw.close()
        raise CaptureError(f"{label(name)} is empty: expected a capture (pcap or pcapng)")
    for magic, new in _COMPRESSIONS:
        if source.head.startswith(magic):
            return DecompressedSource(source, new, counts)
    if zstd and source.head.startswith(ZSTD_MAGIC) and importlib.util.find_spec("zstandard") is not None:
        return DecompressedSource(source, _Zstd, counts)
    return source


def read_exactly(source: Source, n: int) -> bytes:
    """The next `n` bytes, fewer at the end."""
    data = bytearray(n)
    view = memoryview(data)
    got = 0
    while got < n and (more := source.fill(view[got:])):
        got += more
    return bytes(data[:got])


def label(name: str | Path) -> str:
    return "standard input" if str(name) == STDIN else str(name)


def _stat(name: str | Path) -> os.stat_result:
    try:
        found = os.stat(name)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise CaptureError(f"cannot read capture {name}: {why}") from error
    if stat.S_ISDIR(found.st_mode):
        raise CaptureError(f"cannot read capture {name}: it is a directory, expected a file")
    return found
