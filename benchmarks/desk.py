"""What the live page takes over a day of many connections: to be read, and to answer meanwhile and afterwards.

    python -m benchmarks.desk [--connections 1000000] [--incidents 1000]
    python -m benchmarks.desk --counting        what the page of the model counts alone, some seconds

The logs are made up: every thousandth connection is odd, and belongs to an incident. The page is `cmdana serve` in a
process of its own, asked over its socket.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cmdana_plugin.desk.web.columns import BLOCK, ROW, Columns
from cmdana_plugin.desk.web.tallies import Tallies

START = 1_763_769_600.0  # 2025-11-22 00:00:00 UTC
DAY = 86_400.0
HOSTS = 2_000
TIMES = 15  # that each page is asked for


def made(folder: Path, connections: int, incidents: int) -> None:
    """Writes conn.log, cmdana.log and notice.log, as JSON."""
    every = max(connections // (incidents * 5), 1)  # five odd connections of each incident
    with (folder / "conn.log").open("w") as conn, (folder / "cmdana.log").open("w") as verdicts:
        for i in range(connections):
            odd = i % every == 0
            k = i // every % incidents
            ends = {
                "ts": round(START + i * DAY / connections, 6), "uid": f"C{i:017d}",
                "id.orig_h": host(k if odd else i * 7), "id.orig_p": 40_000 + i % 20_000,
                "id.resp_h": host(i * 13 + 1), "id.resp_p": 443, "proto": "tcp",
            }  # fmt: skip
            words = json.dumps({**ends, "service": "ssl"})[:-1]
            conn.write(
                f'{words}, "duration": 0.5, "orig_bytes": {i % 9000}, "resp_bytes": {i % 70000}, "conn_state": "SF"}}\n'
            )
            row = {
                "stage": "final", "score": 0.7 if odd else 0.1, "p_value": 1e-4 if odd else 0.6, "threshold": 0.5,
                "verdict": "anomalous" if odd else "benign", "packet_reliance": 0.25, "connection_reliance": 0.25,
                "log_reliance": 0.25, "state_reliance": 0.25, "modalities": ["connection"], "reasons": [],
                "model": "made",
            } | ({"incident": f"{k:012x}"} if odd else {})  # fmt: skip
            verdicts.write(f"{words}, {json.dumps(row)[1:]}\n")
    with (folder / "notice.log").open("w") as notices:
        for k in range(incidents):
            told = {
                "ts": START + k * DAY / incidents, "uid": f"C{k * every:017d}", "note": "CMDANA::Anomalous_Host",
                "msg": f"{host(k)} scans: 40 ports", "sub": "40 attempts without an answer", "src": host(k),
                "cmdana.incident": f"{k:012x}", "cmdana.kind": "scan", "cmdana.host": host(k),
                "cmdana.role": "originator", "cmdana.odd": 5, "cmdana.connections": 5,
                "cmdana.evidence": 2.0 + k % 4, "cmdana.limit": 1.6,
            }  # fmt: skip
            notices.write(json.dumps(told) + "\n")


def host(i: int) -> str:
    i %= HOSTS
    return f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}"


class Page:
    """Somebody who looks."""

    def __init__(self, address: str) -> None:
        self._at, token = address.removeprefix("http://").split("/?token=")
        self._headers = {"Authorization": f"Bearer {token}"}

    def get(self, path: str) -> tuple[float, bytes]:
        """Seconds until all of the answer is there, and the answer."""
        begun = time.perf_counter()
        asked = http.client.HTTPConnection(self._at, timeout=60)
        asked.request("GET", path, headers=self._headers)
        answer = asked.getresponse()
        body = answer.read()
        asked.close()
        assert answer.status == 200, (path, answer.status)
        return time.perf_counter() - begun, body


def measured(folder: Path, connections: int) -> Iterator[str]:
    command = [sys.executable, "-m", "cmdana_plugin.cli", "serve", str(folder), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as serving:
        try:
            assert serving.stdout
            page = Page(
                next(said for line in serving.stdout if "token=" in (said := json.loads(line)["said"]))
            )
            begun, meanwhile = time.perf_counter(), []
            while json.loads(page.get("/queue.json")[1])["reading"] is not None:
                meanwhile.append(page.get("/")[0])
                time.sleep(0.2)
            yield f"read in {time.perf_counter() - begun:.0f} s, {processor_seconds(serving.pid):.0f} s of a processor"
            yield f"the queue meanwhile: {told(meanwhile)}"
            for name, path in (
                ("the queue", "/"), ("its tenth page", "/?page=9"), ("an incident", f"/incident/{7:012x}"),
                ("a host", f"/host/{host(7)}"), ("the model", "/model"),
                ("a connection with its rows of all logs", f"/connection/C{connections // 2:017d}"),
            ):  # fmt: skip
                answers = [page.get(path) for _ in range(TIMES)]
                yield f"{name}: {told([t for t, _ in answers])}, {len(answers[0][1]) / 1000:,.0f} kB"
            yield f"memory at most: {most_memory(serving.pid):,.0f} MB"
        finally:
            serving.terminate()


def counting(connections: int) -> Iterator[str]:
    """What the page of the model counts of so many verdicts in memory, asked for twice."""
    columns, draw = Columns(2 * connections), np.random.default_rng(1)
    for begin in range(0, connections, BLOCK):
        rows = np.zeros(BLOCK, ROW)
        rows["ts"] = START + np.arange(begin, begin + BLOCK) * DAY / connections
        rows["score"], rows["evidence"] = draw.uniform(size=BLOCK), draw.exponential(0.43, BLOCK)
        rows["counts"], rows["reliance"] = True, 64
        columns._blocks.append((rows, min(BLOCK, connections - begin)))
    tallies = Tallies(columns)
    for which in ("first", "next"):
        begun = time.process_time()
        n, relied = tallies.all().connections, len(tallies.relied(3600))
        yield f"the {which} visit: {time.process_time() - begun:.3f} s of a processor, {n:,} rows, {relied} hours"


def told(seconds: list[float]) -> str:
    if not seconds:
        return "not asked"
    return f"{statistics.median(seconds):.2f} s, at worst {max(seconds):.2f} s"


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def most_memory(pid: int) -> float:
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=1_000_000)
    parser.add_argument("--incidents", type=int, default=1_000)
    parser.add_argument("--counting", action="store_true")
    chosen = parser.parse_args()
    if chosen.counting:
        print("\n".join(counting(chosen.connections)))
        return
    with tempfile.TemporaryDirectory() as folder:
        made(Path(folder), chosen.connections, chosen.incidents)
        print(f"{chosen.connections:,} connections, {chosen.incidents:,} incidents")
        for line in measured(Path(folder), chosen.connections):
            print(line, flush=True)


if __name__ == "__main__":
    main()
