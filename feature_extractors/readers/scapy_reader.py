"""scapy's raw readers as readers of frames; scapy dissects nothing here.

scapy knows less of pcapng than our own reader: it ignores if_tsoffset and the byte order and interfaces of further
sections, and it knows neither Kuznetzov's pcap nor pcap before version 2.4.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from feature_extractors.errors import CaptureError
from feature_extractors.frames import Counts, FrameBlock
from feature_extractors.readers.gather import RawFrame, gather, seconds
from feature_extractors.readers.heads import PCAPNG_MAGIC, read_header
from feature_extractors.readers.native import MAX_FRAME, snapshot_length
from feature_extractors.readers.source import Source, is_live, label, open_source

_BUFFER_BYTES: Final = 256 * 1024
_MAX_READ_BYTES: Final = 16 * 1024 * 1024  # bytes that no record reaches


class ScapyReader:
    """The frames of one pcap or pcapng as scapy reads them. A pipe comes once only."""

    def __init__(self, name: str | Path) -> None:
        """Raises `CaptureError` where `name` is no such capture, or scapy is not installed."""
        _require_scapy()
        self.counts = Counts()
        self._name = name
        self.once = is_live(name)
        file = self._open()
        self._opened: _File | None = file
        if not self.once:
            file.close()
            self._opened = None

    def __iter__(self) -> Iterator[FrameBlock]:
        if self.once and self._opened is None:
            raise RuntimeError(f"{label(self._name)} comes once only and was read already")
        self.counts.by_reason.clear()
        file, self._opened = self._opened or self._open(), None
        return gather(self._frames(file), self.counts)

    def _open(self) -> _File:
        source = open_source(self._name, self.counts)
        try:
            return _File(source, read_header(source, label(self._name)))
        except CaptureError:
            source.close()
            raise

    def _frames(self, file: _File) -> Iterator[RawFrame]:
        from scapy.utils import RawPcapNgReader, RawPcapReader, Scapy_Exception

        logging.getLogger("scapy.runtime").setLevel(logging.ERROR)  # what it warns of is counted
        try:
            reader: Any = (RawPcapNgReader if file.is_pcapng else RawPcapReader)(file)
            read = self._pcapng if file.is_pcapng else self._pcap
            while True:
                file.begin_record()
                try:
                    yield from read(reader)
                except EOFError:
                    break
            if file.truncated:
                self.counts.add("capture_truncated")
            elif not file.ended:
                self.counts.add("bad_record_length")
        except Scapy_Exception as error:
            raise CaptureError(f"scapy cannot read {label(self._name)}: {error}") from error
        finally:
            file.close()

    def _pcap(self, reader: Any) -> Iterator[RawFrame]:
        data, meta = reader._read_packet(size=MAX_FRAME)
        if meta.caplen > MAX_FRAME or len(data) < meta.caplen:
            raise EOFError
        snaplen = snapshot_length(reader.snaplen)
        self.counts.add("captured_over_snaplen", len(data) > snaplen)
        signed = reader.endian == "<" and meta.usec >= 1 << 31  # as libpcap has it
        fraction = meta.usec - (1 << 32) if signed else meta.usec
        ts = seconds(meta.sec, fraction, 1_000_000_000 if reader.nano else 1_000_000)
        yield RawFrame(data[:snaplen], meta.wirelen, ts, reader.linktype & 0x03FFFFFF)

    def _pcapng(self, reader: Any) -> Iterator[RawFrame]:
        found = reader._read_block(size=MAX_FRAME)
        if found is None:
            return
        data, meta = found
        ticks = ((meta.tshigh or 0) << 32) + (meta.tslow or 0)
        whole, fraction = divmod(ticks, meta.tsresol)
        ts = seconds(whole, fraction, meta.tsresol)
        yield RawFrame(data, meta.wirelen, ts, meta.linktype)


def _require_scapy() -> None:
    """Raises `CaptureError`: whoever redistributes cmdana may have left scapy out (docs/licences.md)."""
    if importlib.util.find_spec("scapy") is None:
        raise CaptureError("scapy is not installed, which this reads with; pip install scapy")


class _File:
    """A source as the file object that scapy reads; remembers whether the last record was whole."""

    def __init__(self, source: Source, head: bytes) -> None:
        self.name = "capture"
        self.is_pcapng = head.startswith(PCAPNG_MAGIC)
        self.ended = False  # at the end, between two records
        self.truncated = False  # at the end, within a record
        self._source = source
        self._buffer = bytearray(_BUFFER_BYTES)
        self._ready = head
        self._at = 0
        self._in_record = True

    def begin_record(self) -> None:
        self._in_record = False

    def read(self, n: int) -> bytes:
        if n > _MAX_READ_BYTES:
            raise EOFError
        while len(self._ready) - self._at < n:
            got = self._source.fill(memoryview(self._buffer))
            if got == 0:
                break
            self._ready = self._ready[self._at :] + bytes(self._buffer[:got])
            self._at = 0
        out = self._ready[self._at : self._at + n]
        self._at += len(out)
        if len(out) < n:
            self.ended = not self._in_record and not out
            self.truncated = self.truncated or not self.ended
        self._in_record = True
        return out

    def close(self) -> None:
        self._source.close()
