"""End to end: `cmdana replay` against `zeek -r` on the same captures, in turn in one run, as ratios.

    python -m benchmarks.replay [--rounds 3] [--grow BYTES] CAPTURE...
    python -m benchmarks.replay --sizes --rounds 5 [CAPTURE...]

`--sizes` makes captures of 100, 15,000, 40,000, 180,000 and 475,000 packets and of a gigabyte out of what was recorded
(the busy minutes, unless others are named; `benchmarks/sizes.py`), and a dense one, and says of each whether the goal
is met: at most Zeek's time and .4 s on the first three, twice, two and a half and four times as fast on the others, no
slower on the dense one. It wants two idle cores and 3 GB below TMPDIR.

Time is wall time of the whole command, start-up included, and processor time, which other work on the machine disturbs
less; memory is that of all its processes together, from a first round that is not timed: to look at it takes time.
`--grow` joins the captures over and over, each round later in time and with other hosts' ports left alone, until BYTES
are reached: memory must not follow. Without Zeek on the PATH the ratio is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks import sizes
from benchmarks.extract import dense

# By name of the file, what must hold of our seconds and Zeek's, and its words.
_Goal = tuple[Callable[[float, float], bool], str]
_CLOSE: Final[_Goal] = (lambda ours, zeek: ours <= zeek + 0.4, "Zeek's time and .4 s")
GOALS: Final[dict[str, _Goal]] = {
    "100.pcap": _CLOSE,
    "15000.pcap": _CLOSE,
    "40000.pcap": _CLOSE,
    "180000.pcap": (lambda ours, zeek: zeek >= 2 * ours, "2 times as fast"),
    "475000.pcap": (lambda ours, zeek: zeek >= 2.5 * ours, "2.5 times as fast"),
    "large.pcap": (lambda ours, zeek: zeek >= 4 * ours, "4 times as fast"),
    "dense.pcap": (lambda ours, zeek: zeek >= ours, "no slower"),
}
DENSE_PACKETS: Final = 320_000

GLOBAL = struct.Struct("<IHHiIII")
RECORD = struct.Struct("<IIII")


def timed(command: list[str], folder: Path, watched: bool) -> tuple[float, float, int]:
    """Wall and processor seconds, and peak KiB, of one run with the processes that it starts.

    Memory, where it is `watched`, is the sum of their proportional set sizes, looked at ten times a second, and once a
    second after twenty. Raises `RuntimeError` with stderr when it fails.
    """
    with (folder / "stderr").open("w+b") as err:
        start = time.perf_counter()
        child = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=err)
        peak = 0
        while True:
            found, status, usage = os.wait4(child.pid, os.WNOHANG if watched else 0)
            if found:
                break
            peak = max(peak, sum(map(resident, family(child.pid))))
            past = time.perf_counter() - start
            time.sleep(0.01 if past < 1 else 0.1 if past < 20 else 1.0)  # to look takes processor time too
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        if child.returncode:
            err.seek(0)
            raise RuntimeError(f"{command[0]} failed: {err.read().decode()[-500:]}")
    # The kernel's own most counts what this process held when the other began.
    return seconds, usage.ru_utime + usage.ru_stime, peak or usage.ru_maxrss


def family(pid: int) -> list[int]:
    """A process and those that it and they have started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(p for child in children for p in family(int(child)))]


def resident(pid: int) -> int:
    """Proportional set size, KiB; 0 where the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def grow(captures: list[Path], size: int, target: Path) -> None:
    """Joins classic little-endian pcaps of one link type to about `size` bytes, each round an hour later."""
    parts = []
    for capture in captures:
        raw = capture.read_bytes()
        if raw[:4] != b"\xd4\xc3\xb2\xa1":
            raise SystemExit(f"{capture}: --grow joins little-endian microsecond pcaps only")
        parts.append(raw)
    with target.open("wb") as out:
        out.write(parts[0][: GLOBAL.size])
        shift = 0
        while out.tell() < size:
            for raw in parts:
                view, at, rows = bytearray(raw[GLOBAL.size :]), 0, 0
                while at + RECORD.size <= len(view):
                    seconds, micros, captured, length = RECORD.unpack_from(view, at)
                    RECORD.pack_into(view, at, (seconds + shift) & 0xFFFFFFFF, micros, captured, length)
                    at += RECORD.size + captured
                    rows += 1
                out.write(view)
            shift += 3600


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("captures", nargs="*", type=Path)
    parser.add_argument("--sizes", action="store_true", help="captures of all sizes, made of these")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--grow", type=int, default=0)
    parser.add_argument(
        "--cold",
        action="store_true",
        help="leave out the round that warms the file cache; the first is watched and timed",
    )
    arguments = parser.parse_args()
    zeek = shutil.which("zeek")
    cmdana = [sys.executable, "-m", "cmdana_plugin.cli"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        captures = [c.resolve() for c in arguments.captures]
        if arguments.sizes:
            captures = [*sizes.made(captures, folder).values(), folder / "dense.pcap"]
            dense(captures[-1], DENSE_PACKETS)
        elif not captures:
            parser.error("which captures?")
        elif arguments.grow:
            grown = folder / "grown.pcap"
            grow(captures, arguments.grow, grown)
            captures = [grown]
        for capture in captures:
            ours: list[tuple[float, float, int]] = []
            theirs: list[tuple[float, float, int]] = []
            peak = zeek_peak = 0
            # The first round warms the file cache and is watched, not timed; of one alone both are told.
            for i in range(1 if arguments.cold else 0, arguments.rounds + 1):
                watched = i == 0 or (arguments.cold and i == 1)
                one = timed([*cmdana, "replay", "--force", "--out", "ours", str(capture)], folder, watched)
                ours += [one] if i else []
                peak = max(peak, one[2])
                if zeek:
                    other = timed([zeek, "-C", "-r", str(capture)], folder, watched)
                    theirs += [other] if i else []
                    zeek_peak = max(zeek_peak, other[2])
            row = {
                "capture": capture.name,
                "bytes": capture.stat().st_size,
                "seconds": round(statistics.median(s for s, _, _ in ours), 3),
                "processor_seconds": round(statistics.median(c for _, c, _ in ours), 3),
                "peak_mib": peak // 1024,
            }
            if theirs:
                row["zeek_seconds"] = round(statistics.median(s for s, _, _ in theirs), 3)
                row["zeek_processor_seconds"] = round(statistics.median(c for _, c, _ in theirs), 3)
                row["zeek_peak_mib"] = zeek_peak // 1024
                row["times_as_fast_as_zeek"] = round(
                    statistics.median(t / o for (t, _, _), (o, _, _) in zip(theirs, ours, strict=True)), 2
                )
            if theirs and arguments.sizes:
                holds, goal = GOALS[capture.name]
                row |= {"goal": goal, "met": holds(row["seconds"], row["zeek_seconds"])}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
