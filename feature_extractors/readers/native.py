"""Our own reader of pcap and pcapng: big reads, and a compiled walk that finds the frames in them.

What is let go is counted by reason:

`capture_truncated`          the file ends in the middle of a record; every whole one was read
`bad_record_length`          a length that no record can have; nothing after it can be found, so reading ends there
`bad_section`                a pcapng section header of unknown byte order or version; reading ends there
`captured_over_snaplen`      a frame longer than the snapshot length, cut to it
`captured_over_length`       a frame with more bytes captured than were on the wire; the wire length is raised
`empty_frame`                a frame of no bytes, passed over as Zeek does
`unknown_interface`          a pcapng frame of an interface that was never described, passed over
`bad_packet_block`           a pcapng packet block that cannot hold the frame it tells of, passed over
`bad_interface`              a pcapng interface description that makes no sense; its frames are passed over
`time_out_of_range`          a frame more than `MAX_SECONDS` from the epoch, where a double holds no milliseconds
`compressed_stream_*`        the compressed file is cut short or damaged; what came before was read

Time is what Zeek makes of it: libpcap hands Zeek whole microseconds, so finer times are cut, not rounded, to them.
(Seconds are unsigned, as the format's description has them; libpcap's end in 2038.) A time that no calendar knows is
still a number of seconds, and is carried as one.
A frame check sequence that the header announces stays on the frame, as with Zeek: IP says where its packet ends.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_extractors.compiled import borrowed, compiled_for, njit
from feature_extractors.errors import CaptureError
from feature_extractors.frames import MAX_SECONDS, Counts, FrameBlock
from feature_extractors.readers.heads import (
    KUZNETZOV,
    NANOSECONDS,
    PCAP_MAGICS,
    PCAPNG_MAGIC,
    read_header,
    section_order,
)
from feature_extractors.readers.source import Source, is_live, label, open_source

MAX_FRAME: Final = 262_144  # bytes of one frame; libpcap's MAXIMUM_SNAPLEN
_MAX_PCAPNG_BLOCK: Final = 16 * 1024 * 1024  # bytes of one pcapng block, as libpcap has it
_MAX_INTERFACES: Final = 4096  # of one pcapng section
_MAX_OPTIONS: Final = 1000  # of an interface description that are looked at; there are twenty kinds
PIECE: Final = 4 * 1024 * 1024  # bytes asked for at a time

_SECTION: Final = 0x0A0D0D0A

# What a walk ends with.
_MORE: Final = 0  # the rest of the bytes is a part of a record
_FULL: Final = 1  # no room for another frame
_BAD: Final = 2  # no record can be as long as this one says
_NEW_SECTION: Final = 3
_NEW_INTERFACE: Final = 4

_REASONS: Final = (
    "captured_over_snaplen",
    "captured_over_length",
    "empty_frame",
    "unknown_interface",
    "bad_packet_block",
    "time_out_of_range",
)

_inline = njit(inline="always")


@_inline
def _u32(data, at, swapped):  # type: ignore[no-untyped-def]
    a = np.uint32(data[at])
    b = np.uint32(data[at + 1])
    c = np.uint32(data[at + 2])
    d = np.uint32(data[at + 3])
    if swapped:
        return np.int64(np.uint32((a << 24) | (b << 16) | (c << 8) | d))
    return np.int64(np.uint32(a | (b << 8) | (c << 16) | (d << 24)))


@_inline
def _put(out_start, out_captured, out_length, tally, n, start, captured, length, snaplen):  # type: ignore[no-untyped-def]
    """The frame as row `n`, cleaned as libpcap and Zeek would; returns the rows there are then."""
    if captured > snaplen:
        captured = snaplen
        tally[0] += 1
    if captured == 0 or length == 0:
        tally[2] += 1
        return n
    if captured > length:
        length = captured
        tally[1] += 1
    out_start[n] = start
    out_captured[n] = captured
    out_length[n] = min(length, 0x7FFFFFFF)
    return n + 1


@compiled_for(
    "UniTuple(int64, 3)(uint8[::1], int64, int64, boolean, int64, boolean, int64, int64, int64,"
    " int64[::1], int32[::1], int32[::1], float64[::1], int64[::1])"
)
def _walk_pcap(  # type: ignore[no-untyped-def]
    data, pos, end, swapped, header, nanoseconds, lengths, snaplen, n, start, captured, length, ts, tally
):
    """The records from `pos` on, until `end`. Returns rows, position of the first record not taken, and why."""
    data, start, captured, length = borrowed(data), borrowed(start), borrowed(captured), borrowed(length)
    ts, tally = borrowed(ts), borrowed(tally)
    while True:
        if pos + header > end:
            return n, pos, _MORE
        if n == len(start):
            return n, pos, _FULL
        seconds = _u32(data, pos, swapped)
        fraction = _u32(data, pos + 4, swapped)
        cap = _u32(data, pos + 8, swapped)
        wire = _u32(data, pos + 12, swapped)
        if lengths == 2 or (lengths == 1 and cap > wire):
            cap, wire = wire, cap
        if cap > MAX_FRAME:
            return n, pos, _BAD
        if pos + header + cap > end:
            return n, pos, _MORE
        if (
            fraction >= 1 << 31 and not swapped
        ):  # libpcap: a signed number, in files of this machine's byte order
            fraction -= 1 << 32
        if nanoseconds:
            fraction = int(fraction / 1000.0)
        ts[n] = seconds + fraction / 1e6
        n = _put(start, captured, length, tally, n, pos + header, cap, wire, snaplen)
        pos += header + cap


@_inline
def _seconds(ticks, units, offset):  # type: ignore[no-untyped-def]
    """`ticks` of `1/units` seconds as Zeek gets them: whole seconds, plus whole microseconds."""
    whole = ticks // units
    rest = ticks - whole * units
    million = np.uint64(1_000_000)
    if units % million == 0:
        micros = rest // (units // million)
    elif rest < np.uint64(1 << 44):
        micros = rest * million // units
    else:
        micros = np.uint64(float(rest) / float(units) * 1e6)
    return float(whole) + float(offset) + float(micros) / 1e6


@compiled_for(
    "UniTuple(int64, 3)(uint8[::1], int64, int64, boolean, int64[::1], uint64[::1], int64[::1], int64[::1], int64,"
    " int64, int64[::1], int32[::1], int32[::1], float64[::1], int32[::1], int64[::1])"
)
def _walk_pcapng(  # type: ignore[no-untyped-def]
    data, pos, end, swapped, if_link, if_units, if_offset, if_snaplen, interfaces,
    n, start, captured, length, ts, link, tally
):  # fmt: skip
    """The blocks from `pos` on, until `end` or a block that is not about frames. Returns as `_walk_pcap` does."""
    data, start, captured, length = borrowed(data), borrowed(start), borrowed(captured), borrowed(length)
    ts, link, tally = borrowed(ts), borrowed(link), borrowed(tally)
    if_link, if_units = borrowed(if_link), borrowed(if_units)
    if_offset, if_snaplen = borrowed(if_offset), borrowed(if_snaplen)
    while True:
        if pos + 12 > end:
            return n, pos, _MORE
        if n == len(start):
            return n, pos, _FULL
        kind = _u32(data, pos, swapped)
        if kind == _SECTION:  # the same in both byte orders, and its length is in its own
            return n, pos, _NEW_SECTION
        size = _u32(data, pos + 4, swapped)
        if size < 12 or size % 4 or size > _MAX_PCAPNG_BLOCK:
            return n, pos, _BAD
        if pos + size > end:
            return n, pos, _MORE
        if _u32(data, pos + size - 4, swapped) != size:
            return n, pos, _BAD
        if kind == 1:
            return n, pos, _NEW_INTERFACE
        if kind in (2, 3, 6):
            fixed = 4 if kind == 3 else 20
            room = size - 12 - fixed
            if room < 0:
                tally[4] += 1
                pos += size
                continue
            interface = np.int64(0)
            if kind == 6:
                interface = _u32(data, pos + 8, swapped)
            elif kind == 2:
                both = _u32(data, pos + 8, swapped)
                interface = both >> 16 if swapped else both & 0xFFFF
            if interface >= interfaces or if_units[interface] == 0:
                tally[3] += 1
                pos += size
                continue
            ticks = np.uint64(0)
            if kind == 3:
                wire = _u32(data, pos + 8, swapped)
                cap = min(wire, if_snaplen[interface])
            else:
                high = np.uint64(_u32(data, pos + 12, swapped))
                ticks = (high << np.uint64(32)) | np.uint64(_u32(data, pos + 16, swapped))
                cap = _u32(data, pos + 20, swapped)
                wire = _u32(data, pos + 24, swapped)
            if cap > room or cap > MAX_FRAME:
                tally[4] += 1
                pos += size
                continue
            when = _seconds(ticks, if_units[interface], if_offset[interface])
            if abs(when) > MAX_SECONDS:
                tally[5] += 1
                pos += size
                continue
            ts[n] = when
            link[n] = if_link[interface]
            n = _put(start, captured, length, tally, n, pos + 8 + fixed, cap, wire, if_snaplen[interface])
        pos += size


class _Rows:
    """Room for the rows of one block, used again for the next."""

    def __init__(self, n: int) -> None:
        self.start = np.empty(n, np.int64)
        self.captured = np.empty(n, np.int32)
        self.length = np.empty(n, np.int32)
        self.ts = np.empty(n, np.float64)
        self.link = np.empty(n, np.int32)

    def block(self, data: NDArray[np.uint8], n: int) -> FrameBlock:
        return FrameBlock(
            data,
            self.start[:n].copy(),
            self.captured[:n].copy(),
            self.length[:n].copy(),
            self.ts[:n].copy(),
            self.link[:n].copy(),
        )


class _Pcap(NamedTuple):
    """What the global header of a pcap says."""

    swapped: bool
    record_header: int  # bytes
    nanoseconds: bool
    lengths: int  # captured and wire length: 0 in order, 1 swapped where that makes sense, 2 swapped
    snaplen: int
    link: int


class NativeReader:
    """The frames of one pcap or pcapng. A regular file can be read again; a pipe comes once only."""

    def __init__(self, name: str | Path, piece: int = PIECE) -> None:
        """`piece`: bytes asked for at a time. Raises `CaptureError` where `name` is no such capture."""
        self.counts = Counts()
        self._name = name
        self._piece = piece
        self.once = is_live(name)
        opened = self._open()
        self._opened: tuple[Source, bytes] | None = opened
        if not self.once:
            opened[0].close()
            self._opened = None

    def __iter__(self) -> Iterator[FrameBlock]:
        if self.once and self._opened is None:
            raise RuntimeError(f"{label(self._name)} comes once only and was read already")
        self.counts.by_reason.clear()
        opened, self._opened = self._opened or self._open(), None
        return self._blocks(*opened)

    def _open(self) -> tuple[Source, bytes]:
        source = open_source(self._name, self.counts)
        try:
            return source, read_header(source, label(self._name))
        except CaptureError:
            source.close()
            raise

    def _blocks(self, source: Source, head: bytes) -> Iterator[FrameBlock]:
        is_pcapng = head.startswith(PCAPNG_MAGIC)
        walk = _PcapngWalk() if is_pcapng else _PcapWalk(_pcap(head))
        tally = np.zeros(len(_REASONS), np.int64)
        rows = _Rows(self._piece // 32)
        rest: NDArray[np.uint8] = np.frombuffer(head if is_pcapng else b"", np.uint8)
        try:
            while True:
                data = np.empty(len(rest) + self._piece, np.uint8)
                data[: len(rest)] = rest
                got = source.fill(data[len(rest) :].data)
                if got == 0:
                    if len(rest):
                        self.counts.add("capture_truncated")
                    return
                end = len(rest) + got
                if got < self._piece // 2:
                    data = data[:end].copy()
                pos, why = 0, _FULL
                while why == _FULL:
                    n, pos, why = walk(data, pos, end, rows, tally, self.counts)
                    self._count(tally)
                    if n:
                        yield rows.block(data, n)
                if why == _BAD:
                    return
                rest = data[pos:end]
        except OSError as error:
            raise CaptureError(f"cannot read on in {label(self._name)}: {error.strerror}") from error
        finally:
            source.close()

    def _count(self, tally: NDArray[np.int64]) -> None:
        for reason, n in zip(_REASONS, tally, strict=True):
            self.counts.add(reason, int(n))
        tally[:] = 0


class _PcapWalk:
    def __init__(self, header: _Pcap) -> None:
        self._header = header

    def __call__(
        self,
        data: NDArray[np.uint8],
        pos: int,
        end: int,
        rows: _Rows,
        tally: NDArray[np.int64],
        counts: Counts,
    ) -> tuple[int, int, int]:
        h = self._header
        n, pos, why = _walk_pcap(
            data, pos, end, h.swapped, h.record_header, h.nanoseconds, h.lengths, h.snaplen,
            0, rows.start, rows.captured, rows.length, rows.ts, tally,
        )  # fmt: skip
        rows.link[:n] = h.link
        if why == _BAD:
            counts.add("bad_record_length")
        return n, pos, why


class _PcapngWalk:
    """The state of the section: its byte order and its interfaces."""

    def __init__(self) -> None:
        self._swapped = False
        self._interfaces = 0
        self._link = np.zeros(_MAX_INTERFACES, np.int64)
        self._units = np.zeros(_MAX_INTERFACES, np.uint64)  # ticks in a second, 0 where the interface is bad
        self._offset = np.zeros(_MAX_INTERFACES, np.int64)  # seconds
        self._snaplen = np.zeros(_MAX_INTERFACES, np.int64)

    def __call__(
        self,
        data: NDArray[np.uint8],
        pos: int,
        end: int,
        rows: _Rows,
        tally: NDArray[np.int64],
        counts: Counts,
    ) -> tuple[int, int, int]:
        n = 0
        while True:
            n, pos, why = _walk_pcapng(
                data, pos, end, self._swapped, self._link, self._units, self._offset, self._snaplen, self._interfaces,
                n, rows.start, rows.captured, rows.length, rows.ts, rows.link, tally,
            )  # fmt: skip
            if why == _NEW_SECTION:
                size = self._section(data[pos:end])
                if size < 0:
                    counts.add("bad_section")
                    return n, pos, _BAD
                if pos + size > end:
                    return n, pos, _MORE
                pos += size
            elif why == _NEW_INTERFACE:
                size = int.from_bytes(data[pos + 4 : pos + 8].tobytes(), "big" if self._swapped else "little")
                self._interface(data[pos + 8 : pos + size - 4].tobytes(), counts)
                pos += size
            else:
                if why == _BAD:
                    counts.add("bad_record_length")
                return n, pos, why

    def _section(self, data: NDArray[np.uint8]) -> int:
        """Bytes of the section header at the start of `data` (may be past its end), -1 if it makes no sense."""
        head = data[:16].tobytes()
        if len(head) < 16:
            return 16
        order = section_order(head)
        if order is None:
            return -1
        size, _, major = struct.unpack_from(order + "IIH", head, 4)
        if major != 1 or size < 28 or size % 4 or size > _MAX_PCAPNG_BLOCK:
            return -1
        self._swapped = order == ">"
        self._interfaces = 0
        return int(size)

    def _interface(self, body: bytes, counts: Counts) -> None:
        i = self._interfaces
        if i == _MAX_INTERFACES:
            counts.add("bad_interface")
            return
        self._interfaces += 1
        order = ">" if self._swapped else "<"
        self._units[i] = 0
        if len(body) < 8:
            counts.add("bad_interface")
            return
        link, _, snaplen = struct.unpack_from(order + "HHI", body)
        units: int | None = 1_000_000
        offset = 0
        at = 8
        for _ in range(_MAX_OPTIONS):
            if at + 4 > len(body):
                break
            code, size = struct.unpack_from(order + "HH", body, at)
            value = body[at + 4 : at + 4 + size]
            if code == 0 or len(value) < size:
                break
            if code == 9 and size >= 1:
                units = _units(value[0])
            elif code == 14 and size >= 8:
                offset = struct.unpack_from(order + "q", value)[0]
            at += 4 + (size + 3) // 4 * 4
        if units is None or abs(offset) > 1 << 40:
            counts.add("bad_interface")
            return
        self._link[i] = link
        self._units[i] = units
        self._offset[i] = offset
        self._snaplen[i] = snapshot_length(snaplen)


def snapshot_length(declared: int) -> int:
    """The snapshot length as libpcap takes it: 0 and nonsense mean none."""
    return declared if 0 < declared < 1 << 31 else MAX_FRAME


def _pcap(head: bytes) -> _Pcap:
    order, number = PCAP_MAGICS[head[:4]]
    major, minor, _, _, snaplen, link = struct.unpack(order + "HHiIII", head[4:])
    return _Pcap(
        swapped=order == ">",
        record_header=24 if number == KUZNETZOV else 16,
        nanoseconds=number == NANOSECONDS,
        lengths=2 if major == 543 or minor < 3 else 1 if minor == 3 else 0,
        snaplen=snapshot_length(snaplen) + 14 * (number == KUZNETZOV),
        link=link & 0x03FFFFFF,
    )


def _units(resolution: int) -> int | None:
    """Ticks in a second of pcapng's if_tsresol, `None` where 64 bits cannot hold them."""
    if resolution & 0x80:
        return int(2 ** (resolution & 0x7F)) if resolution & 0x7F < 64 else None
    return int(10**resolution) if resolution < 20 else None
