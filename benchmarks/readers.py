"""How fast captures are read: our own reader against scapy's raw reader, in turn in one run, as ratios.

    python -m benchmarks.readers [CAPTURE...]

Without a capture it makes three: ordinary (packets of mixed size), dense (minimal packets) and bulk (full packets).
Of several rounds the best counts, for all alike, in processor time, so that what else runs on the machine and its disk
are not measured: each reader is one thread.
"""

from __future__ import annotations

import argparse
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from feature_extractors.readers.captures import open_capture

MADE = {
    "ordinary": (60, 60, 200, 590, 1514),
    "dense": (60,),
    "bulk": (1514,),
}  # bytes of each packet, in turn
MADE_BYTES = 64 * 1024 * 1024


def made_captures(folder: Path) -> Iterator[Path]:
    for name, sizes in MADE.items():
        record = b"".join(struct.pack("<IIII", 1_700_000_000, 0, size, size) + bytes(size) for size in sizes)
        path = folder / name
        path.write_bytes(
            struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1) + record * (MADE_BYTES // len(record))
        )
        yield path


def read(path: Path, reader: str) -> tuple[int, float]:
    """Packets, and the seconds of processor time that reading them took."""
    begin = time.process_time()
    packets = sum(len(block) for block in open_capture(path, "scapy" if reader == "scapy" else "native"))
    return packets, time.process_time() - begin


def raw_scapy(path: Path) -> tuple[int, float]:
    """scapy's raw reader alone, without our blocks."""
    from scapy.utils import RawPcapReader

    begin = time.process_time()
    with RawPcapReader(str(path)) as packets:
        n = sum(1 for _ in packets)
    return n, time.process_time() - begin


def measure(path: Path, rounds: int) -> None:
    path.read_bytes()
    best: dict[str, float] = {}
    packets = 0
    for _ in range(rounds):
        for name in ("native", "scapy raw", "scapy"):
            packets, seconds = raw_scapy(path) if name == "scapy raw" else read(path, name)
            best[name] = min(seconds, best.get(name, seconds))
    ratios = " ".join(f"{name}: {packets / seconds / 1e6:.3f}M/s" for name, seconds in best.items())
    print(
        f"{path.name}: {packets} packets; {ratios};"
        f" native is {best['scapy raw'] / best['native']:.0f} times scapy's raw reader"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("captures", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for path in options.captures or made_captures(Path(folder)):
            measure(path, options.rounds)


if __name__ == "__main__":
    main()
