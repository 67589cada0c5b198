"""What hostile traffic costs: processor seconds for each megabyte of frames, as a ratio to ordinary traffic.

    python benchmarks/cost.py [KIND ...] [--captures PCAP ...] [--ordinary PCAP] [--size BYTES] [--most RATIO]
    python benchmarks/cost.py --search SECONDS [--seed N] [--keep DIR]

Reads, tracks, analyses and encodes each capture in this process, without a detector. KIND is one of those in
tests/traces/hostile.py, all of them by default; `--captures` adds files. `--search` instead mutates the bytes of
conversations towards what they cost and prints the dearest that it has found for each port; `--keep` leaves their
captures in a folder, for another run with `--captures`. Ratios hold within one run only. Ends with 1 where a kind
lies above `--most`.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "traces")]

import hostile  # noqa: E402

from feature_extractors.extract import Extractor  # noqa: E402
from feature_extractors.features.encoding import encoded  # noqa: E402
from feature_extractors.features.schema import load_schema  # noqa: E402
from feature_extractors.readers.captures import open_capture  # noqa: E402

SCHEMA: Final = load_schema()
PORTS: Final = (
    80,
    443,
    6667,
    21,
    3306,
    25,
    445,
    5222,
    22,
    53,
    88,
    135,
    143,
    502,
    1883,
    3389,
    20000,
    1080,
    9999,
    110,
    5900,
)
WORDS: Final = (
    b"\r\n", b"\n", b" ", b"\r\n\r\n", b"GET / HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n", b"Content-Encoding: gzip\r\n",
    b"Transfer-Encoding: chunked\r\n", b"a: b\r\n", b"220 a\r\n", b"EHLO a\r\n", b"MAIL FROM:<a@b>\r\n",
    b"RCPT TO:<a@b>\r\n", b"DATA\r\n", b"354 \r\n", b"+OK\r\n", b"USER a\r\n", b"NICK a\r\n", b"JOIN a,b,c\r\n",
    b"PRIVMSG a :\x01DCC SEND ", b"SSH-2.0-a\r\n", b"\x16\x03\x03", b"\x16\x03\x01\0\1", b"\x0b\0\1\0",
    b"\x01\0\0\x28\x03\x03", b"\0\0\0\4", b"\0\0\0\x40\xfeSMB", b"\x05\0\0\x03\x10\0\0\0", b"\0\1\0\0\0\6",
    b"\x10\x0c\0\4MQTT\4\2\0\0\0\0", b"\xc0\0", b"\x30\2\0\0", b"\x05\x64\x05\xc0", b"<stream:stream>", b"<a>",
    b"1\r\na\r\n", b"\0\2", b"\0\x0c", b"RFB 003.008\n", b"\x05\1\0", b"\x03\0\0\x0b\6\xe0\0\0", b"a" * 64,
    b" " * 64, b"\0" * 64, b"@", b",\"", b"%",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cost:
    """The processor seconds that one capture costs, and its size in bytes."""

    megabytes: float  # of frames
    packets: int
    connections: int
    seconds: float  # of the processor

    @property
    def rate(self) -> float:
        return self.seconds / max(self.megabytes, 1e-9)


def measured(path: Path, least: float = 0.0) -> Cost:
    """The least cost of repeated readings of a capture, for `least` seconds: other load only adds."""
    best, spent = None, 0.0
    while best is None or spent < least:
        one = _read(path)
        spent += one.seconds
        if best is None or one.seconds < best.seconds:
            best = one
    return best


def _read(path: Path) -> Cost:
    reader, extractor = open_capture(path), Extractor()
    size = packets = connections = 0
    begun = time.process_time()
    for block in reader:
        size += int(block.captured.sum())
        packets += len(block)
        for windows in extractor.parts(block):
            connections += len(windows)
            if len(windows):
                encoded(windows, SCHEMA)
    for windows in extractor.ending():
        connections += len(windows)
        if len(windows):
            encoded(windows, SCHEMA)
    return Cost(size / 1e6, packets, connections, time.process_time() - begun)


# The search.

Part = tuple[bool, bytes]


def conversation(parts: list[Part], port: int, segment: int, size: int) -> list[hostile.Frame]:
    """The frames of `parts` repeated, connection after connection of some 64 KB, until there are `size` bytes."""
    frames: list[hostile.Frame] = []
    made = n = 0
    while made < size:
        talk = hostile.Talk(20000 + n % 40000, port, hostile.START + n)
        said = 0
        while said < 65536:
            for is_orig, data in parts:
                talk.send(is_orig, data, segment)
                said += len(data)
        frames += talk.frames
        made += sum(len(data) for _, data in talk.frames)
        n += 1
    return frames


def mutated(parts: list[Part], rnd: random.Random) -> list[Part]:
    """The parts after one mutation: a word inserted, a piece repeated, removed or moved to the other side, a byte
    changed.
    """
    parts = list(parts)
    for _ in range(rnd.randrange(1, 4)):
        kind, at = rnd.randrange(6), rnd.randrange(len(parts))
        is_orig, data = parts[at]
        cut = rnd.randrange(len(data) + 1)
        if kind == 0:
            data = data[:cut] + rnd.choice(WORDS) + data[cut:]
        elif kind == 1:
            data = data[:cut] + data[cut : cut + rnd.randrange(1, 32)] * rnd.randrange(2, 64) + data[cut:]
        elif kind == 2:
            data = data[:cut] + data[cut + rnd.randrange(1, 32) :]
        elif kind == 3:
            is_orig = not is_orig
        elif kind == 4:
            data = data[:cut] + bytes([rnd.randrange(256)]) + data[cut + 1 :]
        else:
            parts.insert(at, (rnd.random() < 0.5, rnd.choice(WORDS)))
            continue
        parts[at] = is_orig, (data or b"a")[:8192]
    return parts[:16]


def search(seconds: float, seed: int, folder: Path, say: Callable[[str], None]) -> list[tuple[float, Path]]:
    """The most expensive conversations of each port by hill climbing, most expensive first."""
    rnd = random.Random(seed)
    found = []
    until = time.monotonic() + seconds
    for n, port in enumerate(PORTS):
        share = time.monotonic() + (until - time.monotonic()) / (len(PORTS) - n)
        best: tuple[float, list[Part], int] = (
            0.0,
            [(True, rnd.choice(WORDS)), (False, rnd.choice(WORDS))],
            1460,
        )
        tried = 0
        while time.monotonic() < share:
            parts = (
                mutated(best[1], rnd)
                if rnd.random() < 0.8
                else [(rnd.random() < 0.5, rnd.choice(WORDS)) for _ in range(4)]
            )
            segment = rnd.choice((1460, hostile.JUMBO, best[2]))
            path = folder / f"search-{port}.pcap"
            hostile.write(path, conversation(parts, port, segment, 100_000))
            rate = measured(path).rate
            tried += 1
            if rate > best[0]:
                best = rate, parts, segment
        path = folder / f"dearest-{port}.pcap"
        hostile.write(path, conversation(best[1], port, best[2], 1_000_000))
        (folder / f"search-{port}.pcap").unlink(missing_ok=True)
        say(f"port {port}: {tried} tried, {best[0]:.2f} s/MB in segments of {best[2]}: {best[1]!r:.200}")
        found.append((best[0], path))
    return sorted(found, reverse=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND")
    parser.add_argument("--captures", nargs="*", type=Path, default=[])
    parser.add_argument(
        "--ordinary", type=Path, default=ROOT / "tests/traces/busy-minutes/busy-minutes.pcap.gz"
    )
    parser.add_argument("--size", type=int, default=1_000_000, help="bytes of frames of each kind")
    parser.add_argument("--most", type=float, default=5.0, help="the ratio above which a kind is too dear")
    parser.add_argument("--search", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for the captures")
    args = parser.parse_args()
    unknown = set(args.kinds) - set(hostile.KINDS)
    if unknown:
        parser.error(f"KIND: found {', '.join(sorted(unknown))}, expected some of {', '.join(hostile.KINDS)}")
    with tempfile.TemporaryDirectory() as name:
        folder = args.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        captures = dict.fromkeys(args.captures)
        measured(args.ordinary)  # compiles, and fills caches
        if args.search:
            for _, path in search(args.search, args.seed, folder, lambda said: print(said, flush=True)):
                captures[path] = None
        elif args.kinds or not captures:
            for kind in args.kinds or hostile.KINDS:
                path = folder / f"{kind}.pcap"
                hostile.write(path, hostile.KINDS[kind](args.size))
                captures[path] = None
        ordinary = measured(args.ordinary, 1.0)
        print("| traffic | MB of frames | packets | connections | s/MB | µs/packet | ratio |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        dear = []
        for path in (args.ordinary, *captures):
            cost = ordinary if path is args.ordinary else measured(path, 0.3)
            ratio = cost.rate / ordinary.rate
            print(
                f"| {path.name.partition('.')[0]} | {cost.megabytes:.2f} | {cost.packets} | {cost.connections} "
                f"| {cost.rate:.3f} | {cost.seconds / cost.packets * 1e6:.1f} | {ratio:.1f} |",
                flush=True,
            )
            if ratio > args.most:
                dear.append(path.name.partition(".")[0])
        print(f"\nabove {args.most:g}: {', '.join(dear) or 'none'}")
    return 1 if dear else 0


if __name__ == "__main__":
    sys.exit(main())
