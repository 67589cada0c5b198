"""Captures of any size, of recorded ones over and over: each round later in time, and with other hosts of its own.

    python -m benchmarks.sizes --out FOLDER [--packets 100 15000 40000 180000 475000] [--bytes 1000000000] [CAPTURE...]

Without captures the busy minutes are taken. A round begins a minute after the end of the one before. In round k every
private IPv4 address of Ethernet frames is another: 10.a becomes 10.(a + k), 172.a another of the sixteen, 192.168.a
192.168.(a + k); so hosts and connections grow in number as the capture does, and no history stands for two of them.
Checksums are left as they are: Zeek, told `-C`, and cmdana do not look at them.
"""

from __future__ import annotations

import argparse
import gzip
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BUSY_MINUTES = (
    Path(__file__).resolve().parents[1] / "tests" / "traces" / "busy-minutes" / "busy-minutes.pcap.gz"
)
PACKETS = (100, 15_000, 40_000, 180_000, 475_000)
BYTES = 1_000_000_000
BETWEEN_ROUNDS = 60  # seconds
_GLOBAL, _RECORD, _LENGTH_AT = 24, 16, 8
_ETHERNET, _TYPE_AT, _SOURCE_AT, _DESTINATION_AT = 1, 12, 26, 30


@dataclass(frozen=True)
class Recorded:
    """The records of a classic little-endian pcap, and where in them each begins."""

    head: bytes
    records: NDArray[np.uint8]
    at: NDArray[np.int64]  # [n + 1]

    @property
    def seconds(self) -> NDArray[np.int64]:
        return self._numbers(0)

    def _numbers(self, offset: int) -> NDArray[np.int64]:
        where = self.at[:-1, None] + offset + np.arange(4)
        return self.records[where].view("<u4")[:, 0].astype(np.int64)

    def round(self, k: int, later: int) -> NDArray[np.uint8]:
        """The records, so many seconds later, with the private addresses of round `k`."""
        out = self.records.copy()
        where = self.at[:-1, None] + np.arange(4)
        out[where] = (self.seconds + later).astype("<u4")[:, None].view(np.uint8)
        frames = self.at[:-1] + _RECORD
        whole = np.diff(self.at) >= _RECORD + _DESTINATION_AT + 4
        frames = frames[whole]
        is_ip = (out[frames + _TYPE_AT] == 8) & (out[frames + _TYPE_AT + 1] == 0)
        for side in (_SOURCE_AT, _DESTINATION_AT):
            _moved(out, frames[is_ip] + side, k)
        return out


def _moved(out: NDArray[np.uint8], at: NDArray[np.int64], k: int) -> None:
    first, second = out[at].astype(np.int64), out[at + 1].astype(np.int64)
    ten, private16 = at[first == 10] + 1, at[(first == 192) & (second == 168)] + 2
    twelve = at[(first == 172) & (second >= 16) & (second < 32)] + 1
    for where in (ten, private16):
        out[where] = (out[where].astype(np.int64) + k) % 256
    out[twelve] = 16 + (out[twelve].astype(np.int64) - 16 + k) % 16


def recorded(capture: Path) -> Recorded:
    """A capture, gzipped or not. Raises `SystemExit` where it is none that can be repeated."""
    raw = capture.read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    if raw[:4] != b"\xd4\xc3\xb2\xa1" or int.from_bytes(raw[20:24], "little") != _ETHERNET:
        raise SystemExit(f"{capture}: only little-endian pcaps of Ethernet, in microseconds, are repeated")
    at, starts = _GLOBAL, []
    while at + _RECORD <= len(raw):
        (captured,) = struct.unpack_from("<I", raw, at + _LENGTH_AT)
        if at + _RECORD + captured > len(raw):
            break
        starts.append(at - _GLOBAL)
        at += _RECORD + captured
    end = at - _GLOBAL
    records = np.frombuffer(raw, np.uint8)[_GLOBAL : _GLOBAL + end]
    return Recorded(raw[:_GLOBAL], records, np.array([*starts, end], np.int64))


def rounds(captures: Sequence[Recorded]) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """The captures over and over, each with where its records begin [n + 1]."""
    begun = now = int(captures[0].seconds.min())
    k = 0
    while True:
        for one in captures:
            seconds = one.seconds
            yield one.round(k, now - int(seconds.min())), one.at
            now += int(seconds.max() - seconds.min()) + BETWEEN_ROUNDS
            if now - begun > 2**31:
                raise SystemExit("the captures last too long to be repeated so often")
        k += 1


def write(captures: Sequence[Recorded], target: Path, packets: int = 0, size: int = 0) -> int:
    """Writes a capture of so many packets, or of about so many bytes, and says how many packets it has."""
    written = 0
    with target.open("wb") as file:
        file.write(captures[0].head)
        for records, at in rounds(captures):
            n = len(at) - 1
            n = min(n, packets - written) if packets else n
            file.write(records[: at[n]].data)
            written += n
            if written == packets if packets else file.tell() >= size:
                return written
    return written


def made(
    sources: Sequence[Path], folder: Path, packets: Sequence[int] = PACKETS, size: int = BYTES
) -> dict[str, Path]:
    """The captures of all sizes in the folder, by what they are."""
    captures = [recorded(source) for source in sources or (BUSY_MINUTES,)]
    found = {f"{n:,} packets": folder / f"{n}.pcap" for n in packets}
    for n, target in zip(packets, found.values(), strict=True):
        write(captures, target, packets=n)
    if size:
        found[f"{size / 1e9:g} GB"] = folder / "large.pcap"
        write(captures, folder / "large.pcap", size=size)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("captures", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--packets", type=int, nargs="*", default=list(PACKETS))
    parser.add_argument("--bytes", type=int, default=BYTES, help="of the last one; 0: none")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for what, path in made(given.captures, given.out, given.packets, given.bytes).items():
        print(f"{what}: {path}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
