"""A file of Zeek's records, unpacked by what is in it and read in pieces of bounded size."""

from __future__ import annotations

import codecs
import math
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from feature_extractors.errors import CaptureError, RecordError
from feature_extractors.frames import Counts
from feature_extractors.readers.dialects import parquet
from feature_extractors.readers.dialects.fields import REQUIRED
from feature_extractors.readers.dialects.lines import MAX_LINE, TOO_LONG, LogLines, PassedOver, Reads, Record
from feature_extractors.readers.dialects.names import is_known, log_files, named_stream
from feature_extractors.readers.source import ZSTD_MAGIC, Source, open_source, read_exactly

CUT_SHORT: Final = "compressed file ends early"
DAMAGED: Final = "compressed file is damaged"
NO_LOG: Final = "no Zeek log"
SUMMARY: Final = "a summary of connections, no log of an application"

_READ_BYTES: Final = 1024 * 1024
_MAX_DECLARED_STREAMS: Final = 1024  # streams
_PEEK_BYTES: Final = 64 * 1024
_WORDS: Final = {"compressed_stream_truncated": CUT_SHORT, "compressed_stream_damaged": DAMAGED}
_UTF8: Final = codecs.BOM_UTF8
_UTF16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def records(
    path: Path,
    passed: PassedOver,
    *,
    only: Collection[str] | None = None,
    reads: Reads | None = None,
    containing: str | None = None,
    strict: bool = False,
    otherwise: str = "",
    as_bytes: bool = False,
    declared: dict[str, dict[str, str]] | None = None,
) -> Iterator[tuple[str, Record]]:
    """Stream and record of each line of a log, fields set and typed as Zeek has them.

    `only` or `reads` name the fields wanted, `containing` a text that a line must hold to be looked at (before
    unescaping). `otherwise` is the stream where neither the log nor its name tells one, `as_bytes` as in `LogLines`.
    What is passed over is counted, but a line that is no record raises `RecordError` where `strict`, as does a file
    that is no log.
    `declared` takes the columns of each stream that headers name, with the types that they declare ("" none).
    """
    if parquet.is_parquet(path):
        yield from _counted(parquet.records(path, passed, only, declared, reads), passed)
        return
    named = named_stream(path.name)
    stream = otherwise if otherwise and not is_known(named) and not probe(path).others else named
    lines = LogLines(str(path), stream, passed, only, reads=reads, strict=strict, as_bytes=as_bytes)
    columns: Mapping[str, str] = {}
    holding = None if containing is None else _as_written(containing)
    for chunk, whole in chunks(path, passed):
        without = holding is not None and lines.has_format and holding not in chunk
        if without and not chunk.startswith(b"#") and b"\n#" not in chunk:
            continue  # as each of its lines would be
        for line in chunk.split(b"\n"):
            if not line or (
                holding is not None and lines.has_format and not line.startswith(b"#") and holding not in line
            ):
                continue
            found = lines.receive(line, whole=whole)
            if found is None:
                continue
            passed.read += 1
            if declared is not None and lines.declared is not columns:
                columns = lines.declared
                if columns and (found[0] in declared or len(declared) < _MAX_DECLARED_STREAMS):
                    of = declared.setdefault(found[0], {})
                    of.update({name: kind or of.get(name, "") for name, kind in columns.items()})
            yield found
    if strict and (cut := {CUT_SHORT, DAMAGED} & passed.by_file.get(str(path), {}).keys()):
        raise RecordError(f"{path}: {cut.pop()}")


def chunks(path: Path, passed: PassedOver, size: int = _READ_BYTES) -> Iterator[tuple[bytes, bool]]:
    """Pieces of whole lines, about `size` bytes each, without the last line end, and whether there was one.

    Raises `RecordError` for a file that cannot be read.
    """
    counts = Counts()
    source = _opened(path, counts)
    name = str(path)
    buffer = bytearray(size)
    rest, skipping = b"", False
    try:
        while got := source.fill(memoryview(buffer)):
            piece = rest + buffer[:got]
            end = piece.rfind(b"\n")
            if end < 0:
                rest = piece
            else:
                first = piece.index(b"\n")
                too_long = not skipping and first > MAX_LINE
                passed.add(name, TOO_LONG, too_long)
                begin = first + 1 if skipping or too_long else 0
                skipping = False
                rest = piece[end + 1 :]
                if begin <= end:
                    yield bytes(piece[begin:end]), True
            if len(rest) > MAX_LINE:
                passed.add(name, TOO_LONG, not skipping)
                rest, skipping = b"", True
        if rest and not skipping:
            yield bytes(rest), False
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror or error}") from None
    finally:
        source.close()
        for reason, n in counts.by_reason.items():
            passed.add(name, _WORDS.get(reason, reason), n)


class Probe(NamedTuple):
    """What the beginning of a file shows: stream, first time, other streams, or why it is refused."""

    stream: str  # of its first record, by its header or itself before the name; "" where nothing says
    named: str  # the stream that its name says
    others: bool  # there may be records of other streams
    first: float  # time of the first record, seconds since the epoch; infinite without one
    refused: str  # why it is no Zeek log, "" where it is one


def probe(path: Path) -> Probe:
    """The probe of a file's beginning; cached."""
    try:
        found = path.stat()
    except OSError:
        return _probe(str(path), 0, 0, 0)
    return _probe(str(path), found.st_ino, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=65_536)
def _probe(name: str, _inode: int, _size: int, _changed: int) -> Probe:
    path = Path(name)
    named = named_stream(path.name)
    try:
        if parquet.is_parquet(path):
            stream, record = next(parquet.records(path, PassedOver()), (parquet.named(path), {}))
            return Probe(stream, named, stream != named, _time(record), "")
        return _first(path, named)
    except RecordError as error:
        return Probe("", named, False, math.inf, str(error))


def _first(path: Path, named: str) -> Probe:
    lines = LogLines(str(path), named, PassedOver())
    missing = ""
    for chunk, whole in chunks(path, PassedOver(), size=_PEEK_BYTES):
        for line in chunk.split(b"\n"):
            found = lines.receive(line, whole=whole) if line else None
            if found is None:
                continue
            stream, record = found
            if stream == "conn":
                without = _missing(record if lines.layout is None else lines.layout.names)
                missing = missing or without  # said of the first, if others are no better
                if without:
                    continue
            has_format = stream != lines.stream  # by the record itself
            return Probe(stream, named, stream != named or has_format, _time(record), "")
    if lines.layout is not None and lines.stream == "conn":
        missing = missing or _missing(lines.layout.names)
    if missing:
        raise RecordError(f"{path}: {missing}")
    stream = lines.stream if lines.has_format or _is_empty(path) else named
    return Probe(stream, named, stream != named, math.inf, "")


def _missing(names: Collection[str]) -> str:
    for column in REQUIRED:
        if column not in names:
            return f"found no column {column}, only {', '.join(sorted(names)[:50]) or 'none'}"
    return ""


def _time(record: Record) -> float:
    ts = record.get("ts")
    return float(ts) if isinstance(ts, int | float) else math.inf


def holds(path: Path, stream: str) -> bool:
    """Whether a log is of the stream, or has a record of it among others."""
    about = probe(path)
    if about.stream == stream or not about.others:
        return about.stream == stream
    found = path.stat()
    return _holds(str(path), stream, found.st_ino, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=4096)
def _holds(name: str, stream: str, _inode: int, _size: int, _changed: int) -> bool:
    # Whatever tells the stream has its name in it, or that which shippers give it.
    found = records(Path(name), PassedOver(), only=("ts",), containing=stream)
    return any(has_format == stream for has_format, _ in found)


def logs_of(path: Path, stream: str) -> list[Path]:
    """The logs below a folder that may hold records of the stream, the present one last, by their first records."""
    found = [(probe(file), file) for file in log_files(path)]
    mine = [
        (about.first, file)
        for about, file in found
        if holds(file, stream) or (about.refused and about.named == stream)
    ]
    return [file for _, file in sorted(mine, key=lambda m: (m[1].name == f"{stream}.log", m[0], str(m[1])))]


def _is_empty(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except OSError:
        return False


def _as_written(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _counted(found: Iterator[tuple[str, Record]], passed: PassedOver) -> Iterator[tuple[str, Record]]:
    for one in found:
        passed.read += 1
        yield one


class _Empty:
    def fill(self, view: memoryview) -> int:
        return 0

    def close(self) -> None:
        pass


class _Before:
    """A source with bytes before it that were read already."""

    def __init__(self, head: bytes, source: Source) -> None:
        self._head = head
        self._source = source

    def fill(self, view: memoryview) -> int:
        if self._head:
            got = min(len(self._head), len(view))
            view[:got] = self._head[:got]
            self._head = self._head[got:]
            return got
        return self._source.fill(view)

    def close(self) -> None:
        self._source.close()


class _Utf16:
    """UTF-16 as UTF-8: what a Windows shell makes of a log that it prints into a file."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._decoder = codecs.getincrementaldecoder("utf-16")("backslashreplace")
        self._buffer = bytearray(_READ_BYTES // 4)
        self._ready = b""
        self._ended = False

    def fill(self, view: memoryview) -> int:
        while not self._ready and not self._ended:
            got = self._source.fill(memoryview(self._buffer))
            self._ended = not got
            words = self._decoder.decode(bytes(self._buffer[:got]), final=self._ended)
            self._ready = words.encode("utf-8", "backslashreplace")
        got = min(len(self._ready), len(view))
        view[:got] = self._ready[:got]
        self._ready = self._ready[got:]
        return got

    def close(self) -> None:
        self._source.close()


def _opened(path: Path, counts: Counts) -> Source:
    try:
        source = open_source(path, counts, zstd=True)
    except CaptureError as error:
        if path.is_file() and _is_empty(path):
            return _Empty()
        if not path.exists():
            raise RecordError(
                f"{path}: cannot be read: No such file or directory: it is gone, rotated away? try again"
            ) from None
        why = error.__cause__.strerror if isinstance(error.__cause__, OSError) else None
        raise RecordError(f"{path}: cannot be read: {why or error}") from None
    head = read_exactly(source, 4)
    if head == ZSTD_MAGIC:
        source.close()
        raise RecordError(
            f"{path}: is compressed with zstd; install zstandard, or unpack it: zstd -d {path.name}"
        )
    if head.startswith(_UTF8):
        return _Before(head[len(_UTF8) :], source)
    whole = _Before(head, source)
    return _Utf16(whole) if head.startswith(_UTF16) else whole
