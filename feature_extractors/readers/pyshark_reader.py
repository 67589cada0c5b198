"""pyshark, and so tshark, as reader of the formats that we do not know ourselves: snoop, Network Monitor, ERF.

It is slow (hundreds of frames a second) and dissects next to nothing: tshark is asked for the raw frames only.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

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


class PysharkReader:
    """The frames of one capture as tshark reads them."""

    def __init__(self, name: str | Path) -> None:
        """Raises `CaptureError` where pyshark or tshark is absent, or does not know the file as a capture."""
        missing = missing_parts()
        if missing:
            raise CaptureError(f"cannot read {label(name)} with pyshark: {missing}")
        if is_live(name):
            raise CaptureError(f"cannot read {label(name)} with pyshark: it is a pipe, expected a file")
        self.counts = Counts()
        self._path = Path(name)
        _check(self._path)

    def __iter__(self) -> Iterator[FrameBlock]:
        self.counts.by_reason.clear()
        return gather(self._frames(), self.counts)

    def _frames(self) -> Iterator[RawFrame]:
        from pyshark import FileCapture
        from pyshark.capture.capture import TSharkCrashException

        loop = asyncio.new_event_loop()
        options = ["-n", "-j", "frame frame_raw"]
        for dissector in _DISSECTORS:
            options += ["--disable-protocol", dissector]
        capture = FileCapture(
            self._path,
            keep_packets=False,
            use_json=True,
            include_raw=True,
            eventloop=loop,
            custom_parameters=options,
        )
        try:
            for packet in capture:
                frame = self._frame(packet)
                if frame is not None:
                    yield frame
        except KeyError as error:  # pyshark's parser wants a time in every frame
            raise CaptureError(f"pyshark cannot read on in {self._path}: a frame has no {error}") from error
        except TSharkCrashException:
            pass  # whether it is seen here is a matter of chance; a second run tells
        finally:
            _close(capture, loop)
        if _tshark(self._path, "-w", os.devnull).returncode:
            self.counts.add("capture_truncated")

    def _frame(self, packet: Any) -> RawFrame | None:
        info = packet.frame_info._all_fields
        link = _LINKS.get(int(info["frame.encap_type"]))
        if link is None:
            self.counts.add("unknown_link_type")
            return None
        whole, _, fraction = info["frame.time_epoch"].partition(".")
        micros = int(fraction[:6].ljust(6, "0"))
        ts = seconds(int(whole), -micros if whole.startswith("-") else micros, 1_000_000)
        data = packet.get_raw_packet() if "frame_raw" in packet else b""
        return RawFrame(data, int(info["frame.len"]), ts, link)


def missing_parts() -> str:
    """What to install before pyshark can read, "" if nothing."""
    if importlib.util.find_spec("pyshark") is None:
        return "pyshark is not installed; try: pip install 'cmdana[pyshark]'"
    if shutil.which("tshark") is None:
        return "the program tshark is not on the PATH; on Debian and Ubuntu try: apt install tshark"
    return ""


def _check(path: Path) -> None:
    """Raises `CaptureError` where tshark knows no capture of an IP network in the file."""
    if path.stat().st_size == 0:
        raise CaptureError(f"{path} is empty: expected a capture")
    ran = _tshark(path, "-c", "1", "-T", "fields", "-e", "frame.encap_type")
    encapsulation = ran.stdout.split()
    if not encapsulation and ran.returncode:
        why = [line for line in ran.stderr.splitlines() if line.startswith("tshark:")] or [
            f"exit {ran.returncode}"
        ]
        raise CaptureError(f"tshark cannot read {path}: {why[-1].removeprefix('tshark: ')}")
    if encapsulation and int(encapsulation[0]) not in _LINKS:
        raise CaptureError(
            f"{path} holds frames of Wireshark's encapsulation {encapsulation[0]}, expected those of an IP network,"
            " such as Ethernet"
        )


def _tshark(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["tshark", "-n", "-r", str(path), *options]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL
    )


def _close(capture: Any, loop: asyncio.AbstractEventLoop) -> None:
    """Leaves no tshark behind, whether it ended, failed, or is still at work."""
    from pyshark.capture.capture import TSharkCrashException

    processes = list(capture._running_processes)
    with contextlib.suppress(TSharkCrashException):  # its failure was counted where its output ended
        capture.close()
    capture._running_processes.clear()
    for process in processes:
        process._transport.close()
    loop.run_until_complete(asyncio.sleep(0))  # lets the transports close their pipes
    loop.close()
