"""pyshark as reader of what tshark prints, for formats that we do not know: snoop, Network Monitor, CommView, K12, ERF.

tshark is called by its absolute path, confined (`confinement.programs`), told to write no file, and dissects next
to nothing: what it prints are the raw frames, which are kept in a temporary file without a name until they are
read. pyshark takes them apart and starts nothing: it would run the program that a `config.ini` of the working folder
names.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import struct
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

from feature_extractors.confinement import programs
from feature_extractors.errors import CaptureError
from feature_extractors.frames import Counts, FrameBlock
from feature_extractors.readers.gather import RawFrame, gather, seconds
from feature_extractors.readers.source import is_live, label

# LINKTYPE numbers by Wireshark's encapsulation (wiretap/wtap.h).
_LINKS: Final = {
    1: 1, 3: 8, 4: 9, 7: 101, 15: 0, 20: 105, 23: 127, 25: 113, 26: 107, 28: 104, 129: 228, 130: 229,
    141: 239, 210: 276,
}  # fmt: skip
_DISSECTORS: Final = ("eth", "sll", "null", "ip", "ipv6", "ppp", "wlan", "radiotap", "fr", "chdlc", "nflog")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CPU_SECONDS: Final = 60  # of CPU time for any file, and another for each
_BYTES_PER_SECOND: Final = 64 * 1024  # of a file, which may be compressed
_MEMORY_BYTES: Final = 4 * 1024**3
_MAX_FRAME_BYTES: Final = 4 * 1024**2  # bytes of a frame in words: two digits a byte, and little besides
_STDERR_BYTES: Final = 4096  # bytes of what it says in the end
_HEAD: Final = struct.Struct("<dqii")  # time, bytes on the wire, LINKTYPE, bytes that follow


class PysharkReader:
    """The frames of one capture as tshark reads them."""

    def __init__(self, name: str | Path) -> None:
        """Raises `CaptureError` where pyshark or tshark is absent, or knows the file as no capture of an IP network."""
        missing = missing_parts()
        if missing:
            raise CaptureError(f"cannot read {label(name)} with pyshark: {missing}")
        if is_live(name):
            raise CaptureError(f"cannot read {label(name)} with pyshark: it is a pipe, expected a file")
        self.counts = Counts()
        self.once = False
        self._parse = _parser()
        self._path = Path(name)
        if self._path.stat().st_size == 0:
            raise CaptureError(f"{self._path} is empty: expected a capture")
        self._found = Counts()  # by tshark, at each reading the same
        try:
            with tempfile.NamedTemporaryFile(prefix="cmdana-") as file:
                self._read(file)
                file.flush()
                # To be read only: what can be written to is closed where traffic is looked at (`confine.lock_in`).
                self._kept = open(file.name, "rb", buffering=0)
        except OSError as error:
            raise CaptureError(
                f"cannot keep the frames of {self._path} in {tempfile.gettempdir()}: {error.strerror}"
            ) from error

    def __iter__(self) -> Iterator[FrameBlock]:
        self.counts.by_reason.clear()
        self.counts.by_reason.update(self._found.by_reason)
        return gather(self._frames(), self.counts)

    def _frames(self) -> Iterator[RawFrame]:
        at = 0
        fd = self._kept.fileno()
        while head := os.pread(fd, _HEAD.size, at):
            ts, length, link, captured = _HEAD.unpack(head)
            at += _HEAD.size
            yield RawFrame(os.pread(fd, captured, at), length, ts, link)
            at += captured

    def _read(self, file: IO[bytes]) -> None:
        program = programs.find("tshark")
        assert program is not None
        command = [program, "-n", "-r", os.path.abspath(self._path), "-T", "json", "-x", "-J", "frame"]
        for dissector in _DISSECTORS:
            command += ["--disable-protocol", dissector]
        most = _CPU_SECONDS + self._path.stat().st_size // _BYTES_PER_SECOND
        frames = 0
        with programs.confined(command, seconds=most, memory=_MEMORY_BYTES) as tshark:
            assert tshark.stdout is not None
            assert tshark.stderr is not None
            # What it says first may fill its pipe: little is said on stderr, and that in the end.
            for packet in _packets(tshark.stdout):
                frame = self._frame(packet)
                if frame is None:
                    continue
                if not frames and frame.link < 0:
                    raise CaptureError(
                        f"{self._path} holds frames of Wireshark's encapsulation {-1 - frame.link}, expected those "
                        "of an IP network, such as Ethernet"
                    )
                frames += 1
                if frame.link < 0:
                    self._found.add("unknown_link_type")
                    continue
                file.write(_HEAD.pack(frame.ts, frame.length, frame.link, len(frame.data)))
                file.write(frame.data)
            message = tshark.stderr.read(_STDERR_BYTES).decode("utf-8", "replace")
            status = tshark.wait()
        if status < 0:
            name = signal.Signals(-status).name
            raise CaptureError(
                f"tshark was killed by {name} while it read {self._path}; it may take {most} seconds of CPU time and "
                f"{_MEMORY_BYTES // 1024**3} GiB"
            )
        if status and not frames:
            why = [line for line in message.splitlines() if line.startswith("tshark:")] or [f"exit {status}"]
            raise CaptureError(f"tshark cannot read {self._path}: {why[-1].removeprefix('tshark: ')}")
        if not frames and self._found.by_reason["unreadable_frame"]:
            # A text or a picture is one frame of a file to tshark.
            raise CaptureError(f"tshark finds no frame in {self._path} that a network carried")
        if status:
            self._found.add("capture_truncated")

    def _frame(self, words: bytes) -> RawFrame | None:
        """What is told of a frame, its link type -1 less Wireshark's encapsulation where we know none."""
        try:
            packet = self._parse(words, deduplicate_fields=False)
            encapsulation = int(packet.frame_info.encap_type)
            ts = _time(str(packet.sniff_timestamp))
            # `get_raw_packet` would copy all that it has for each byte.
            data = bytes.fromhex(packet.frame_raw.value) if "frame_raw" in packet else b""
            if packet.length < 0:
                raise ValueError(packet.length)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
            self._found.add("unreadable_frame")
            return None
        length = min(packet.length, 0x7FFFFFFF)
        return RawFrame(data, length, ts, _LINKS.get(encapsulation, -1 - encapsulation))


def _packets(printed: IO[bytes]) -> Iterator[bytes]:
    """The packets in a list of tshark's, each in lines of its own; of one that is too large what fits, in vain."""
    packet = bytearray()
    while line := printed.readline(_MAX_FRAME_BYTES):
        begins = line.startswith(b"  {")
        if begins and packet:
            yield bytes(packet)
            packet.clear()
        if (begins or packet) and len(packet) < _MAX_FRAME_BYTES:
            packet += line
        if packet and line.startswith(b"  }"):
            yield bytes(packet.rstrip(b",\n"))
            packet.clear()
    if packet:
        yield bytes(packet)


def _time(words: str) -> float:
    if "T" in words:  # from tshark 4.6 on
        since = datetime.fromisoformat(words) - _EPOCH
        return seconds(since.days * 86400 + since.seconds, since.microseconds, 1_000_000)
    whole, _, fraction = words.partition(".")
    micros = int(fraction[:6].ljust(6, "0"))
    return seconds(int(whole), -micros if whole.startswith("-") else micros, 1_000_000)


def _parser() -> Callable[..., Any]:
    try:
        from pyshark.tshark.output_parser.tshark_json import packet_from_json_packet
    except OSError as error:
        raise CaptureError(f"pyshark needs to know the working folder: {error.strerror}") from error
    parse: Callable[..., Any] = packet_from_json_packet
    return parse


def missing_parts() -> str:
    """What to install before pyshark can read, "" if nothing."""
    if importlib.util.find_spec("pyshark") is None:
        return "pyshark is not installed; try: pip install 'cmdana[pyshark]'"
    if programs.find("tshark") is None:
        return "the program tshark is not on the PATH; on Debian and Ubuntu try: apt install tshark"
    return ""
