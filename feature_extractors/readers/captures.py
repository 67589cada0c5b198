"""Readers: a capture, or a directory of Zeek logs, as blocks of columns. The file's first bytes choose how."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

from feature_extractors.errors import CaptureError
from feature_extractors.frames import Counts, Reader
from feature_extractors.readers.heads import FOREIGN, UnknownFormatError, is_capture
from feature_extractors.readers.source import STDIN, open_source, read_exactly

ReaderName = Literal["auto", "native", "scapy", "pyshark"]

_PIECE_BYTES: Final = 4 * 1024 * 1024
_ALL_PIECES_BYTES: Final = 128 * 1024 * 1024  # of all captures that are open together
_MIN_PIECE_BYTES: Final = 64 * 1024


def open_captures(sources: Sequence[str | Path], reader: ReaderName = "auto") -> list[Reader]:
    """The readers of captures that are read side by side; their buffers together are bounded.

    Raises as `open_capture`.
    """
    piece = max(_MIN_PIECE_BYTES, min(_PIECE_BYTES, _ALL_PIECES_BYTES // max(len(sources), 1)))
    return [open_capture(source, reader, piece) for source in sources]


def open_capture(source: str | Path, reader: ReaderName = "auto", piece: int = _PIECE_BYTES) -> Reader:
    """The reader of a capture, which reads `piece` bytes at a time; "-" is standard input.

    `auto` is our own reader for pcap and pcapng (also in gzip, bzip2 or xz), and tshark, where it is installed, for
    whatever else tshark knows. Raises `CaptureError` in one line that names the file, what was found in it and what
    was expected.
    """
    if reader == "scapy":
        from feature_extractors.readers.scapy_reader import ScapyReader

        return ScapyReader(source)
    if reader == "pyshark":
        from feature_extractors.readers.pyshark_reader import PysharkReader

        return PysharkReader(source)
    from feature_extractors.readers.native import NativeReader

    try:
        return NativeReader(source, piece)
    except UnknownFormatError as error:
        if reader == "native" or str(source) == STDIN:
            raise
        from feature_extractors.readers.pyshark_reader import PysharkReader, missing_parts

        missing = missing_parts()
        if missing:
            raise CaptureError(f"{error}; tshark may know more formats, but {missing}") from error
        try:
            return PysharkReader(source)
        except CaptureError as refused:
            raise CaptureError(f"{error}; tshark knows no traffic in it either") from refused


def find_captures(paths: Iterable[str | Path]) -> list[Path]:
    """The files named, and in sorted order those below the directories named that begin as a capture does.

    Raises `CaptureError` for a path that does not exist and for a directory without captures.
    """
    found: list[Path] = []
    for name in paths:
        path = Path(name)
        if str(name) == STDIN or not path.is_dir():
            if str(name) != STDIN and not path.exists():
                raise CaptureError(f"cannot read capture {name}: no such file or directory")
            found.append(path)
            continue
        below = [file for file in _walk(path) if begins_as_capture(file)]
        if not below:
            raise CaptureError(
                f"no capture below the directory {name}: no file in it begins as pcap or pcapng does"
            )
        found += below
    return found


def _walk(directory: Path) -> list[Path]:
    files: list[Path] = []
    for here, directories, names in os.walk(directory):
        directories.sort()
        files += [Path(here, name) for name in names]
    return sorted(files)


def begins_as_capture(file: Path) -> bool:
    """Whether it is a file whose first bytes are those of a capture, packed or not."""
    if not file.is_file():
        return False
    try:
        source = open_source(file, Counts())
    except CaptureError:
        return False
    try:
        head = read_exactly(source, 16)
    except OSError:
        return False
    finally:
        source.close()
    return is_capture(head) or head.startswith(FOREIGN)
