"""Fuzzing guided by coverage, thousands of inputs a second: decoders and tracker by frames, analyzers by conversations.

    python benchmarks/fuzz.py [analyzers|frames] [--inputs N] [--minutes M] [--seed S] [--keep DIR]

Inputs are mutants of those that reached branches no other had, first of those that tests/traces keeps; many are read
in one go, singly only where one of them reached something new or failed. What must hold of each stands with the
targets in fuzz_targets.py: nothing raised, the same said by compiled and interpreted code and however the traffic is
cut, nothing held afterwards. Processor time of an input is bounded (so that a paused machine is no fault), and so is
the memory of the process. An analyzer's input is one connection; of frames each mutated frame counts.

Each target runs in a process of its own; one that dies or hangs is a fault like any other, and another goes on. DIR
holds the inputs kept so far, which a later run begins with, and each fault as NAME-fault-N.txt, its smallest input in
hexadecimal digits first, which `--read FILE` reads again. `--add` extends the traces by what they do not reach.
"""

from __future__ import annotations

import argparse
import gc
import json
import marshal
import mmap
import os
import re
import resource
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from mutation import Talk, decoded, encoded  # noqa: E402

NAMES: Final = ("frames", "analyzers")
TRACES: Final = {"frames": "fuzzed_frames.txt", "analyzers": "fuzzed.txt"}
BOUND: Final = 0.05  # processor seconds that an input may take, read as often as its target reads it
BOUND_BYTE: Final = 20e-6  # and for each of its bytes
HANG: Final = 60.0  # processor seconds after which inputs read in one go count as hanging
GROWTH: Final = 256 << 20  # bytes by which the process may grow after its first minute
SPIKE: Final = 96 << 20  # and by which one batch may push its peak
_HEAD: Final = struct.Struct("<qq")  # of the black box: number of the batch, its length


@dataclass
class Tally:
    """The counts of a fuzzing run."""

    inputs: int = 0
    conversations: int = 0
    edges: int = 0
    of: int = 0
    kept: int = 0
    faults: int = 0
    seconds: float = 0.0  # by the clock
    processor: float = 0.0
    slowest: float = 0.0  # processor seconds
    slowest_bytes: int = 0
    grown: int = 0  # bytes
    about: str = ""
    kinds: dict[str, int] = field(default_factory=dict)  # faults, by what they say

    def __str__(self) -> str:
        rate = self.inputs / max(self.processor, 1e-9)
        return (
            f"{self.inputs:,} inputs in {self.conversations:,} conversations, {self.edges} of {self.of} branches, "
            f"{self.kept} kept, {self.faults} faults, "
            f"slowest {1000 * self.slowest:.1f} ms of {self.slowest_bytes} bytes, grown by "
            f"{self.grown >> 20} MiB; {self.processor:,.0f} s of the processor in {self.seconds:,.0f} s: "
            f"{rate:,.0f} inputs a second"
        )


class BlackBox:
    """What is being read, in a file that outlives the process: number of the batch and its conversations."""

    def __init__(self, path: Path, size: int = 1 << 24) -> None:
        if not path.exists() or path.stat().st_size < size:
            path.write_bytes(bytes(size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), size)

    def write(self, number: int, talks: list[Talk]) -> None:
        data = marshal.dumps(talks)
        self._map[: _HEAD.size + len(data)] = _HEAD.pack(number, len(data)) + data

    def number(self) -> int:
        return int(_HEAD.unpack(self._map[: _HEAD.size])[0])

    def talks(self) -> list[Talk]:
        size = _HEAD.unpack(self._map[: _HEAD.size])[1]
        return marshal.loads(self._map[_HEAD.size : _HEAD.size + size]) if size else []


class Corpus:
    """Inputs that reached a branch which no earlier one had."""

    def __init__(self, rng: Random) -> None:
        self._random = rng.random
        self.talks: list[Talk] = []
        self._owner: dict[int, int] = {}  # by branch: the smallest input that takes it
        self._edges: list[int] = []
        self._sizes: list[int] = []

    def add(self, talk: Talk, edges: list[int]) -> None:
        size = len(encoded(talk))
        at = len(self.talks)
        self.talks.append(talk)
        self._sizes.append(size)
        for edge in edges:
            old = self._owner.get(edge)
            if old is None:
                self._edges.append(edge)
            if old is None or size < self._sizes[old]:
                self._owner[edge] = at

    def pick(self) -> Talk:
        """By a branch as often as by age, the latest more often than the first."""
        random = self._random
        if self._edges and random() < 0.5:
            return self.talks[self._owner[self._edges[int(random() * len(self._edges))]]]
        return self.talks[int(random() ** 0.5 * len(self.talks))]


class Worker:
    """The process that runs mutants in a target and keeps what is new."""

    def __init__(self, target: Any, rng: Random, keep: Path, box: BlackBox) -> None:
        self.target = target
        self.marks = target.marks
        self.name = target.name
        self.keep = keep
        self.box = box
        self.corpus = Corpus(rng)
        self.tally = Tally(about=target.about)
        self.number = 0
        self._peak = 0
        self._usual = 0.0  # processor seconds of a batch

    # One input.

    def fails(self, talks: list[Talk]) -> BaseException | None:
        self.number += 1
        self.box.write(self.number, talks)
        try:
            self.target.run(talks)
        except Exception as error:  # noqa: BLE001  # each is a fault to be told
            return error
        return None

    def single(self, talk: Talk) -> None:
        """Reads an input by itself and keeps it where it takes a new branch."""
        self.marks.clear()
        begun = time.thread_time()
        self.report([talk], self.fails([talk]))
        took = time.thread_time() - begun
        if self.marks.fresh():
            new = set(self.marks.taken()[self.marks.ever[self.marks.taken()] == 0].tolist())
            talk = self._trimmed(talk, new)
            self.marks.clear()
            self.fails([talk])
            taken = self.marks.taken().tolist()
            self.marks.learn()
            self.corpus.add(talk, taken)
            with (self.keep / f"{self.name}.txt").open("a") as file:
                file.write(encoded(talk).hex() + "\n")
        if took > self.tally.slowest:
            self.clock(talk)

    def search(self, talks: list[Talk]) -> None:
        """Looks by halves for those of the inputs that take a branch for the first time."""
        half = len(talks) // 2
        for some in (talks[:half], talks[half:]):
            if len(some) == 1:
                self.single(some[0])
            elif some:
                self.marks.clear()
                self.fails(some)
                if self.marks.fresh():
                    self.search(some)

    def _trimmed(self, talk: Talk, edges: set[int]) -> Talk:
        """The input without what it does not need to take these branches, as far as some tries show."""

        def holds(candidate: Talk) -> bool:
            self.marks.clear()
            return self.fails([candidate]) is None and edges <= set(self.marks.taken().tolist())

        return shrunk(talk, holds, 24)

    def clock(self, talk: Talk) -> None:
        """Takes the processor seconds of an input, the least of three where it seems slow."""
        took = float("inf")
        for _ in range(3):
            begun = time.thread_time()
            self.fails([talk])
            took = min(took, time.thread_time() - begun)
            if took <= min(self.tally.slowest, BOUND):
                return
        size = len(encoded(talk))
        self.tally.slowest, self.tally.slowest_bytes = took, size
        (self.keep / f"{self.name}-slowest.txt").write_text(encoded(talk).hex() + "\n")
        if took > BOUND + BOUND_BYTE * size:
            self.report([talk], None, "slow")

    # Faults.

    def report(self, talks: list[Talk], error: BaseException | None, note: str = "") -> None:
        """Counts a fault; the first of its kind is made small and written down."""
        if error is None and not note:
            return
        self.tally.faults += 1
        kind = note or kind_of(error)
        first = kind not in self.tally.kinds
        self.tally.kinds[kind] = self.tally.kinds.get(kind, 0) + 1
        if not first:
            return
        smallest = talks
        if error is not None:
            alone = [t for t in talks if (e := self.fails([t])) is not None and kind_of(e) == kind]
            if alone:
                small = min(alone, key=lambda t: len(encoded(t)))
                smallest = [
                    shrunk(small, lambda t: (e := self.fails([t])) is not None and kind_of(e) == kind, 600)
                ]
        text = "".join(traceback.format_exception(error)) if error is not None else note
        path = self.keep / f"{self.name}-fault-{len(self.tally.kinds)}.txt"
        path.write_text("\n".join(encoded(t).hex() for t in smallest) + "\n\n" + text)
        print(f"{self.name}: {kind}: {path}", flush=True)

    # The run.

    def begin(self, captures: Path | None = None) -> None:
        """Compiles, and reads what earlier runs kept, then what else there is to begin with."""
        seeds = self.target.seeds()
        path = self.keep / f"{self.name}.txt"
        if path.exists():
            seeds += [decoded(bytes.fromhex(line)) for line in path.read_text().split()]
        self.target.run(seeds[:1])
        for talk in seeds:
            self.marks.clear()
            self.report([talk], self.fails([talk]))
            self.marks.learn()
            self.corpus.add(talk, self.marks.taken().tolist())
        for talks in self.target.more_seeds(captures):
            self.marks.clear()
            self.report(talks, self.fails(talks))
            if self.marks.fresh():
                self.search(talks)

    def run(self, inputs: int, seconds: float) -> None:
        begun, begun_processor = time.monotonic(), time.process_time()
        gc.collect()
        gc.freeze()
        gc.disable()  # cycles are looked for between batches, not in a time that is taken
        settled, told, said, parent = 0, 0.0, 0.0, os.getppid()
        while (
            self.tally.inputs < inputs
            and (now := time.monotonic() - begun) < seconds
            and os.getppid() == parent
        ):
            self.batch()
            if self.number % 512 < 2:
                gc.collect()
            if now - told > 5:
                told = now
                self.update(now, time.process_time() - begun_processor)
                if not settled and now > min(60, seconds / 4):
                    settled = resident()
                    self._peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
                elif settled:
                    self.tally.grown = max(self.tally.grown, resident() - settled)
                    if self.tally.grown > GROWTH and "memory grows" not in self.tally.kinds:
                        self.report([], None, "memory grows")
                self.save()
            if now - said > 60:
                said = now
                print(f"{self.name}: {self.tally}", flush=True)
        self.update(time.monotonic() - begun, time.process_time() - begun_processor)
        self.save()

    def batch(self) -> None:
        talks: list[Talk] = []
        counted = 0
        pick = self.corpus.pick
        for _ in range(self.target.batch):
            talk, n = self.target.mutant(pick(), pick())
            talks.append(talk)
            counted += n
        self.marks.clear()
        begun = time.thread_time()
        error = self.fails(talks)
        spent = time.thread_time() - begun
        self.tally.inputs += counted
        self.tally.conversations += len(talks)
        fresh = self.marks.fresh()
        if error is not None:
            self.report(talks, error)
        if fresh:
            now = self.marks.now.copy()
            self.search(talks)
            self.marks.now[:] = now
            self.marks.learn()  # what came of several together, or of the way they were cut
        if self._peak:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
            if peak - self._peak > SPIKE:
                self.report(talks, None, "memory of one batch")
            self._peak = max(peak, self._peak)
        more, self._usual = spent - self._usual, self._usual + (spent - self._usual) / 64
        if more > max(BOUND / 2, self.tally.slowest):  # else none of them took more
            for talk in talks:
                self.clock(talk)

    def update(self, seconds: float, processor: float) -> None:
        tally = self.tally
        tally.edges, tally.of, tally.kept = (
            int(self.marks.ever.sum()),
            self.marks.used,
            len(self.corpus.talks),
        )
        tally.seconds, tally.processor = seconds, processor

    def save(self) -> None:
        (self.keep / f"{self.name}.json").write_text(json.dumps(self.tally.__dict__))


def shrunk(talk: Talk, holds: Callable[[Talk], bool], tries: int) -> Talk:
    """A smaller input of which the same holds, found in so many tries."""
    while tries > 0:
        for candidate in _smaller(talk):
            tries -= 1
            if holds(candidate):
                talk = candidate
                break
            if tries <= 0:
                return talk
        else:
            return talk
    return talk


def _smaller(talk: Talk) -> Iterator[Talk]:
    kind, parts = talk
    for i in range(len(parts) - 1, -1, -1):
        if len(parts) > 1:
            yield kind, parts[:i] + parts[i + 1 :]
    for i, (flags, data) in enumerate(parts):
        size = len(data) // 2
        while size:
            for at in range(len(data) - size, -1, -size):
                yield kind, [*parts[:i], (flags, data[:at] + data[at + size :]), *parts[i + 1 :]]
            size //= 2


def kind_of(error: BaseException) -> str:
    """The kind of a fault: its message without numbers, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [f for f in frames if "feature_extractors" in f.filename] or frames
    said = re.sub(r"\d+", "N", str(error).partition("\n")[0])[:80]
    return f"{type(error).__name__} {said} at {Path(inside[-1].filename).name}:{inside[-1].lineno}"


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


# The processes.


def supervise(name: str, args: argparse.Namespace) -> Tally:
    """The counts of a target run to its end, with a new process for each that dies or hangs."""
    total, deaths, begun = Tally(), 0, time.monotonic()
    box = BlackBox(args.keep / f"{name}.box")
    while True:
        box.write(0, [])
        report = args.keep / f"{name}.json"
        report.unlink(missing_ok=True)
        left = args.minutes * 60 - (time.monotonic() - begun)
        process = subprocess.Popen(
            [
                sys.executable, __file__, name, "--worker", "--keep", str(args.keep), "--seed", str(args.seed + deaths),
                "--inputs", str(args.inputs - total.inputs), "--minutes", str(left / 60),
                *(("--captures", str(args.captures)) if args.captures else ()),
            ],
            env=os.environ | checked(args.keep) | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
        )  # fmt: skip
        hung = watch(process, box)
        if report.exists():
            add(total, json.loads(report.read_text()))
        if not process.returncode or time.monotonic() - begun > args.minutes * 60:
            return total
        deaths += 1
        total.faults += 1
        what = f"hangs after {HANG:.0f} s" if hung else f"dies with status {process.returncode}"
        total.kinds[what] = total.kinds.get(what, 0) + 1
        path = args.keep / f"{name}-death-{deaths}.txt"
        path.write_text("\n".join(encoded(t).hex() for t in box.talks()) + f"\n\n{what}\n")
        print(f"{name}: {what}: {path}", flush=True)
        if not box.number() or deaths >= 20:
            return total  # before it had read anything, or again and again


def checked(keep: Path) -> dict[str, str]:
    """What has numba check every index; its cache does not tell such code from other."""
    return {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str((keep / "numba").resolve())}


def watch(process: subprocess.Popen[bytes], box: BlackBox) -> bool:
    """Waits for a worker; one that reads the same for too long is ended, and the answer is True."""
    last, since = -1, 0.0
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(2)
            return False
        number, used = box.number(), processor(process.pid)
        if number != last or not number:
            last, since = number, used
        elif used - since > HANG:
            process.kill()
            process.wait()
            return True


def processor(pid: int) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def add(total: Tally, part: dict[str, Any]) -> None:
    for name in ("inputs", "conversations", "faults", "seconds", "processor"):
        setattr(total, name, getattr(total, name) + part[name])
    for name in ("edges", "of", "kept", "grown"):
        setattr(total, name, max(getattr(total, name), part[name]))
    if part["slowest"] > total.slowest:
        total.slowest, total.slowest_bytes = part["slowest"], part["slowest_bytes"]
    total.about = part["about"]
    for kind, n in part["kinds"].items():
        total.kinds[kind] = total.kinds.get(kind, 0) + n


def extend(worker: Worker) -> None:
    """Puts into the traces of the tests what they do not reach, the smallest inputs first."""
    trace = ROOT / "tests" / "traces" / TRACES[worker.name]
    reached: set[int] = set()
    for talk in worker.target.seeds():
        worker.marks.clear()
        worker.fails([talk])
        reached |= set(worker.marks.taken().tolist())
    before, added = len(reached), []
    kept = (worker.keep / f"{worker.name}.txt").read_text().split()
    while kept:  # always the one that reaches most, until none reaches anything
        taken = {}
        for line in kept:
            worker.marks.clear()
            if worker.fails([decoded(bytes.fromhex(line))]) is None:
                taken[line] = set(worker.marks.taken().tolist()) - reached
        kept = [line for line, edges in taken.items() if edges]
        if kept:
            best = max(kept, key=lambda line: (len(taken[line]) / (40 + len(line)), line))
            added.append(best)
            reached |= taken[best]
            kept.remove(best)
    trace.write_text(trace.read_text() + "".join(line + "\n" for line in added))
    print(f"{worker.name}: {len(added)} inputs added, {before} to {len(reached)} branches")


def read(worker: Worker, path: Path) -> int:
    """Reads the inputs in a file, up to its first empty line: all in one go, then one by one."""
    talks = [decoded(bytes.fromhex(line)) for line in path.read_text().partition("\n\n")[0].split()]
    faults = 0
    for some in [talks, *([t] for t in talks)]:
        begun = time.thread_time()
        error = worker.fails(some)
        took = time.thread_time() - begun
        faults += error is not None
        if error is not None or len(talks) < 3:
            print(f"{len(some)} inputs, {1000 * took:.1f} ms, {kind_of(error) if error else 'no fault'}")
            if error:
                traceback.print_exception(error)
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "targets", nargs="*", choices=NAMES, default=list(NAMES), help="both, unless one is named"
    )
    parser.add_argument("--inputs", type=int, default=10_000_000, help="of each target")
    parser.add_argument("--minutes", type=float, default=60, help="at most, of each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path("fuzzed"), metavar="DIR")
    parser.add_argument("--captures", type=Path, metavar="DIR", help="captures to begin with as well")
    parser.add_argument(
        "--read", type=Path, metavar="FILE", help="inputs to read again, of the one target named"
    )
    parser.add_argument("--add", action="store_true", help="extend tests/traces by what was kept")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.keep.mkdir(parents=True, exist_ok=True)
    faults = 0
    for name in args.targets:
        if args.worker or args.read or args.add:
            os.environ |= checked(args.keep)  # before numba is loaded
            from fuzz_targets import TARGETS

            rng = Random(args.seed)
            worker = Worker(TARGETS[name](rng), rng, args.keep, BlackBox(args.keep / f"{name}.box"))
            if args.read:
                faults += read(worker, args.read)
            elif args.add:
                extend(worker)
            else:
                worker.begin(args.captures)
                worker.run(args.inputs, args.minutes * 60)
            continue
        tally = supervise(name, args)
        faults += tally.faults
        print(f"{name} ({tally.about}): {tally}", flush=True)
        for kind, n in sorted(tally.kinds.items()):
            print(f"  {n} x {kind}")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
