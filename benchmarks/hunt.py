"""What it takes to hunt an archive, and to keep what is known of a large site.

    python -m benchmarks.hunt make LOGS ARCHIVE [--connections 1000000]
    python -m benchmarks.hunt run ARCHIVE [--workers 1 2] [--ray local] [--model site.safetensors]
    python -m benchmarks.hunt state [--hosts 1000000]
    python -m benchmarks.hunt paper ARCHIVE [--model site.safetensors]

`make` repeats a folder of JSON logs day after day, each with uids of its own. `run` times `cmdana hunt` whole, start-up
included, with the memory of all its processes, and names a digest of what it wrote, so that two runs can be compared;
with `--ray` its actors score. `state` fills the tables of a judge as so many hosts do, and says how
long a snapshot holds up verdicts, takes, and is read. `paper` measures each stage of a hunt by itself, in processor
time for a connection, and says from that how many connections a second 1 to 16 scoring processes come to.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import string
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

DAY = 86_400.0
OF_THE_DAY = "\\ue000"
CORES = (1, 2, 4, 8, 16)
# What names a connection or a file.
NAMING = frozenset({"uid", "uids", "conn_uids", "fuid", "orig_fuids", "resp_fuids", "cert_chain_fuids"})


def make(logs: Path, archive: Path, connections: int) -> int:
    """The number of connections written."""
    patterns = {log.name: _pattern(log) for log in sorted(logs.glob("*.log"))}
    each = len(patterns["conn.log"][0])
    done = 0
    for day in range((connections + each - 1) // each):
        folder = archive / f"day-{day:04d}"
        folder.mkdir(parents=True)
        for name, (times, between) in patterns.items():
            moved = (repr(round(ts + day * DAY, 6)) for ts in times)
            text = "".join(map("".join, zip(between, moved, strict=False))) + between[-1]
            (folder / name).write_text(text.replace(OF_THE_DAY, _digits(day)), encoding="utf-8")
        done += each
    return done


def _pattern(log: Path) -> tuple[list[float], list[str]]:
    """The times of a log's rows, and what stands between them, with `OF_THE_DAY` in names of connections and files."""
    times, rows = [], []
    for line in log.open(encoding="utf-8"):
        row = json.loads(line)
        times.append(row["ts"])
        row["ts"] = ""
        for name in row.keys() & NAMING:
            value = row[name]
            row[name] = _named(value) if isinstance(value, str) else [_named(one) for one in value]
        rows.append(json.dumps(row, separators=(",", ":")) + "\n")
    return times, "".join(rows).replace('"ts":""', '"ts":\0').split("\0")


def _named(name: str) -> str:
    """A uid or fuid for each day, of the same length: what is longer than a uid of Zeek's joins nothing."""
    return name[:-3] + "\ue000"


def _digits(day: int) -> str:
    digits = string.digits + string.ascii_letters
    return digits[day // 3844 % 62] + digits[day // 62 % 62] + digits[day % 62]


def run(archive: Path, workers: Sequence[int], model: str, ray: str) -> None:
    from benchmarks.replay import timed

    for n in workers:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            command = [
                sys.executable,
                "-m",
                "cmdana_plugin.cli",
                "hunt",
                str(archive.resolve()),
                "--out",
                str(out),
            ]
            command += ["--workers", str(n), "--json", *(["--model", model] if model else [])]
            command += ["--ray", ray] if ray else []
            seconds, processor, peak = timed(command, Path(folder), watched=True)
            written = hashlib.sha256()
            rows = 0
            for log in ("cmdana.log", "notice.log"):
                for line in (out / log).open("rb"):
                    if not line.startswith(b"#"):  # #open and #close are of the clock
                        rows += log == "cmdana.log"
                        written.update(line)
            print(
                f"{n} scoring{' with Ray' if ray else ''}: {rows:,} verdicts in {seconds:.0f} s, "
                f"{rows / seconds:,.0f} a second, {processor:.0f} s of processors, {peak / 1024:,.0f} MiB at most, "
                f"logs {written.hexdigest()[:16]}",
                flush=True,
            )


def state(hosts: int) -> None:
    from cmdana_plugin import statefile
    from cmdana_plugin.cli.judging import load_with_origin
    from cmdana_plugin.config import Config, Model
    from cmdana_plugin.replay.keeping import Keeper, restore, state_of

    config = Config(model=Model(max_hosts=hosts, threads=1))
    judge, about = load_with_origin(config)
    rng = np.random.default_rng(1)
    inner: Any = judge.detector
    while hasattr(inner, "inner"):
        inner = inner.inner
    tables = inner._tables
    for name in ("hosts", "services", "pairs", "marks"):
        table = getattr(tables, name)
        while len(table.keys) < table.capacity:
            tables._grow(table, np.zeros((0, 3), np.int64))
        table.keys[:] = rng.integers(1, 1 << 63, len(table.keys)).astype(np.uint64)
        table.used[:] = 1
    size = sum(a.nbytes for a in judge.state().values())
    print(f"{hosts:,} hosts: {size / 1e6:,.0f} MB, {size / hosts:,.0f} bytes a host")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        keeper = Keeper(path, 0.0, lambda: state_of(judge, about, 0.0), print)
        began = time.perf_counter()
        keeper.look()
        keeper._due = np.inf
        while keeper._child is not None:
            time.sleep(0.05)
            keeper.look()
        print(
            f"snapshot: held up for {keeper.pause * 1e3:.0f} ms, written after {time.perf_counter() - began:.1f} s, "
            f"{path.stat().st_size / 1e6:,.0f} MB"
        )
        other, _ = load_with_origin(config)
        began = time.perf_counter()
        restore(other, path, statefile.read(path), about)
        print(f"restored in {time.perf_counter() - began:.1f} s")


def paper(archive: Path, model: str) -> None:
    """Reading and deciding are one process each; of scoring, the state is everybody's and the network one's share."""
    from cmdana_plugin.cli.judging import judge_of, load_detector_of
    from cmdana_plugin.config import Config, Model
    from cmdana_plugin.logs import CMDANA, NOTICE, LogFolder, LogWriter
    from cmdana_plugin.replay.archives import _write
    from cmdana_plugin.replay.extraction_process import packed_part
    from cmdana_plugin.replay.scoring_parts import Turn
    from feature_extractors.features import encoded, load_schema
    from feature_extractors.readers import ZeekLogs

    config, schema = Config(model=Model(path=model, threads=1)), load_schema()
    some = []
    began = time.process_time()
    for windows in ZeekLogs([archive], fields=schema.reads()):
        some.append(encoded(windows, schema))
        if sum(map(len, some)) >= 50_000:
            break
    n = sum(map(len, some))
    reading = (time.process_time() - began) / n

    def of(turn: Turn) -> tuple[float, list[Any]]:
        detector = load_detector_of(config, own=turn.own, threads=1).detector
        detector.receive(some[0])
        began = time.process_time()
        scores = [detector.receive(block) for block in some[1:]]
        return (time.process_time() - began) / (n - len(some[0])), scores

    whole, scores = of(Turn(1, 1))
    state_alone, _ = of(Turn(2, 1))  # whose turn never comes
    brought = load_detector_of(config, threads=1)
    judge = judge_of(brought, config)
    with tempfile.TemporaryDirectory() as folder:
        logs = LogFolder(Path(folder), lambda f, s: LogWriter(f, s, "tsv"), (CMDANA, NOTICE))
        began = time.process_time()
        for block, found in zip(some[1:], scores, strict=True):
            # Reasons of notices are a scoring process's work.
            judge._left = judge._now = -np.inf
            _write(judge.conclude(block, found), logs)
        deciding = (time.process_time() - began) / (n - len(some[0]))
        logs.abandon()
    sent = sum(len(part) for block in some for part in packed_part(block, {}, [])[1]) / n
    print(f"of {n:,} connections, microseconds of a processor each: reading {reading * 1e6:.0f}, "
          f"state {state_alone * 1e6:.0f}, network {(whole - state_alone) * 1e6:.0f}, deciding {deciding * 1e6:.0f}; "
          f"{sent:,.0f} bytes to each scoring process")  # fmt: skip
    for k in CORES:
        scoring = state_alone + (whole - state_alone) / k
        slowest = max(reading, deciding, scoring)
        names = {reading: "reading", deciding: "deciding", scoring: "scoring"}
        print(f"{k:>2} scoring beside a reading and a deciding process: {1 / slowest:,.0f} a second, held back by "
              f"{names[slowest]}, {sent * k / slowest / 1e6:,.0f} MB a second between them")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("make", "run", "state", "paper"))
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--connections", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--hosts", type=int, default=1_000_000)
    parser.add_argument("--ray", default="", metavar="ADDRESS")
    parser.add_argument("--model", default="")
    given = parser.parse_args()
    if given.what == "make":
        logs, archive = given.paths
        shutil.rmtree(archive, ignore_errors=True)
        print(f"{archive}: {make(logs, archive, given.connections):,} connections")
    elif given.what == "run":
        run(given.paths[0], given.workers, given.model, given.ray)
    elif given.what == "state":
        state(given.hosts)
    else:
        paper(given.paths[0], given.model)


if __name__ == "__main__":
    main()
