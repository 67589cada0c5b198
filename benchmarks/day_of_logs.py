"""A day of Zeek logs made by looping real ones, and what an operator waits for on it: reading, training, the report.

    python -m benchmarks.day_of_logs make GOLDEN DAY [--connections 1000000]
    python -m benchmarks.day_of_logs read DAY         # reading and encoding alone
    python -m benchmarks.day_of_logs verdicts DAY     # writes a cmdana.log and a notice.log of that size beside it
    time cmdana train --out site.safetensors DAY
    time cmdana report DAY -o day.html

GOLDEN holds one folder of JSON logs for each capture. Each loop takes all captures, each moved to a time of its own
and with uids of its own; the logs are cut by the hour, as zeekctl does.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmdana_plugin.decision.incidents import Decider
    from cmdana_plugin.decision.notice import Notice
    from cmdana_plugin.decision.verdict import Verdict

DAY = 86400.0
START = 1_763_769_600.0  # 2025-11-22 00:00:00 UTC
HOUR = 3600


def captures(golden: Path, longest: float) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """The records of each capture, times from its first; captures that last longer than `longest` seconds left out."""
    for conn in sorted(golden.rglob("conn.log")):
        rows = [
            (log.name.removesuffix(".log"), json.loads(line))
            for log in sorted(conn.parent.glob("*.log"))
            for line in log.read_text(encoding="utf-8").splitlines()
        ]
        rows = [(stream, row) for stream, row in rows if isinstance(row.get("ts"), int | float)]
        first = min(row["ts"] for _, row in rows)
        if max(written(stream, row) for stream, row in rows) - first < longest:
            for _, row in rows:
                row["ts"] -= first
            yield rows


def written(stream: str, row: dict[str, Any]) -> float:
    """The time, about, at which Zeek wrote the record, seconds since the epoch."""
    return float(row["ts"] + (row.get("duration") or 0.0 if stream == "conn" else 0.0))


def make(golden: Path, day: Path, connections: int, seed: int = 1) -> int:
    """The number of connections of the day that is written."""
    rng = random.Random(seed)
    parts = list(captures(golden, DAY / 24))
    each = sum(stream == "conn" for rows in parts for stream, _ in rows)
    loops = -(-connections // each)
    made = 0
    waiting: dict[tuple[str, int], list[tuple[float, str]]] = defaultdict(list)
    for loop in range(loops):
        for k, rows in enumerate(parts):
            start = START + (loop + rng.random()) * (DAY - DAY / 24) / loops
            mark = f"{loop:02d}{k:04d}"
            for stream, row in rows:
                if stream == "conn" and made >= connections:
                    continue
                made += stream == "conn"
                moved = {**row, "ts": round(row["ts"] + start, 6)}
                if "uid" in moved:
                    moved["uid"] = f"{moved['uid'][:12]}{mark}"
                for field in ("uids", "conn_uids"):
                    if field in moved:
                        moved[field] = [f"{uid[:12]}{mark}" for uid in moved[field]]
                at = written(stream, moved)
                waiting[stream, int((at - START) // HOUR)].append(
                    (at, json.dumps(moved, separators=(",", ":")))
                )
    for (stream, hour), lines in waiting.items():
        folder = day / "2025-11-22"
        folder.mkdir(parents=True, exist_ok=True)
        lines.sort(key=lambda item: item[0])
        name = f"{stream}.{hour:02d}:00:00-{hour + 1:02d}:00:00.log"
        (folder / name).write_text("".join(f"{line}\n" for _, line in lines), encoding="utf-8")
    return made


def read(day: Path) -> None:
    """Times reading, and encoding with the state, apart."""
    from cmdana_plugin.detector.history import Tables, make_keys
    from feature_extractors.features.encoding import encode
    from feature_extractors.features.schema import load_schema
    from feature_extractors.readers.zeek_logs import ZeekLogs

    schema = load_schema()
    tables = Tables(1 << 17, 1 << 16, 1 << 18)
    spent = {"reading": 0.0, "encoding": 0.0, "state": 0.0}
    n = entries = 0
    at = time.process_time()
    for windows in ZeekLogs([day]):
        now = time.process_time()
        spent["reading"] += now - at
        features = encode(windows, schema)
        at = time.process_time()
        spent["encoding"] += at - now
        tables.counts(
            windows.connections, features, make_keys(windows.connections, features, 1), schema.spans
        )
        now, at = at, time.process_time()
        spent["state"] += at - now
        n += len(windows)
        entries += len(windows.logs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    shares = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in spent.items())
    print(f"{n:,} connections, {entries:,} log entries: {shares} of processor time; peak {peak:.0f} MiB")


def verdicts(day: Path, seed: int = 1) -> None:
    """A verdict for each connection of the day with a uniform p-value, and the notices that the decider raises."""
    from cmdana_plugin.config import Incident
    from cmdana_plugin.config import Verdict as Budget
    from cmdana_plugin.decision.incidents import Decider
    from cmdana_plugin.decision.verdict import Verdict
    from cmdana_plugin.detector.scores import score_of
    from cmdana_plugin.logs.notices import notice_row
    from cmdana_plugin.logs.reader import find_logs, number, read_rows, text
    from cmdana_plugin.logs.streams import CMDANA, NOTICE, LogWriter

    rng = random.Random(seed)
    decider = Decider(Budget(connections_per_day=1_000_000), Incident())
    cmdana, notice = LogWriter(day, CMDANA, "tsv"), LogWriter(day, NOTICE, "tsv")
    rows: list[Verdict] = []
    ends: list[float] = []
    for file in find_logs([day], "conn"):
        for row in read_rows(file, "conn"):
            p = float(f"{max(rng.random(), 1e-7):.6g}")
            score = round(float(score_of(p)), 6)  # type: ignore[arg-type]  # a scalar is an array of one
            odd = score >= decider.threshold
            end = number(row, "ts") + number(row, "duration")
            verdict = Verdict(
                ts=number(row, "ts"), uid=text(row, "uid"), orig_h=text(row, "id.orig_h"),
                orig_p=int(number(row, "id.orig_p")), resp_h=text(row, "id.resp_h"),
                resp_p=int(number(row, "id.resp_p")), proto=text(row, "proto"), service=text(row, "service") or None,
                community_id=text(row, "community_id"), stage="final", score=score, p_value=p,
                threshold=decider.threshold, verdict="anomalous" if odd else "benign", packet_reliance=0.0,
                connection_reliance=0.5, log_reliance=0.2, state_reliance=0.3, modalities=("connection",),
                reasons=("unlike any traffic seen in training (p=0.0001)",) if odd else (), model="made-up 1",
            )  # fmt: skip
            rows.append(verdict)
            ends.append(end)
            if len(rows) == 8192:
                cmdana.write(rows, end)
                notice.write([notice_row(n) for n in _noticed(decider, rows, ends)], end)
                rows.clear()
                ends.clear()
    cmdana.write(rows, end)
    notice.write([notice_row(n) for n in _noticed(decider, rows, ends)], end)
    cmdana.close()
    notice.close()


def _noticed(decider: Decider, verdicts: Sequence[Verdict], ends: Sequence[float]) -> list[Notice]:
    """The notices that a block of verdicts gives rise to."""
    import numpy as np

    from cmdana_plugin.decision.seen import Seen, rows_of_seen

    if not verdicts:
        return []
    seen = [
        Seen(verdicts[i], ends[i], -float(np.log10(verdicts[i].p_value)), False, 0, 0, component="density")
        for i in np.argsort(ends, kind="stable").tolist()
    ]
    decided = decider.receive(rows_of_seen(seen))
    return [n for row in sorted(decided.notices) for n in decided.notices[row]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("golden", type=Path)
    making.add_argument("day", type=Path)
    making.add_argument("--connections", type=int, default=1_000_000)
    for name in ("read", "verdicts"):
        commands.add_parser(name).add_argument("day", type=Path)
    words = parser.parse_args()
    if words.command == "make":
        print(f"{make(words.golden, words.day, words.connections):,} connections")
    elif words.command == "read":
        read(words.day)
    else:
        verdicts(words.day)


if __name__ == "__main__":
    main()
