"""How fast conn.log is read, beside plain iteration over its lines: python -m benchmarks.logs [--rows 1000000]

A conn.log of made-up connections is written as Zeek's TSV and as its JSON, and each is read three times: its lines
alone, by `ZeekLogs` into columns, and by `read_rows` record by record (a tenth of the rows). Seconds are of one
processor, code that is compiled is loaded before, and what is compared is the ratio to plain iteration.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import string
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from cmdana_plugin.logs.reader import read_rows
from feature_extractors.readers.zeek_logs import ZeekLogs

COLUMNS: Final = {
    "ts": "time", "uid": "string", "id.orig_h": "addr", "id.orig_p": "port", "id.resp_h": "addr", "id.resp_p": "port",
    "proto": "enum", "service": "string", "duration": "interval", "orig_bytes": "count", "resp_bytes": "count",
    "conn_state": "string", "local_orig": "bool", "local_resp": "bool", "missed_bytes": "count", "history": "string",
    "orig_pkts": "count", "orig_ip_bytes": "count", "resp_pkts": "count", "resp_ip_bytes": "count",
    "tunnel_parents": "set[string]",
}  # fmt: skip
DISTINCT: Final = 20_000  # rows, which then come again


def connections(n: int, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Rows of conn.log; one in ten is of IPv6."""
    rng = random.Random(seed)
    ts = 1_767_225_600.0
    for _ in range(n):
        ts += rng.random() * 0.1
        six = rng.random() < 0.1
        proto, service = rng.choice(
            (("tcp", "ssl"), ("udp", "dns"), ("tcp", "http"), ("tcp", None), ("icmp", None))
        )
        yield {
            "ts": round(ts, 6),
            "uid": "C" + "".join(rng.choices(string.ascii_letters + string.digits, k=17)),
            "id.orig_h": f"fe80::{rng.randrange(65536):x}:1"
            if six
            else f"10.0.{rng.randrange(256)}.{rng.randrange(256)}",
            "id.orig_p": rng.randrange(65536),
            "id.resp_h": "2001:db8::1" if six else f"192.0.2.{rng.randrange(256)}",
            "id.resp_p": 443,
            "proto": proto,
            "service": service,
            "duration": rng.random() * 10 if rng.random() < 0.8 else None,
            "orig_bytes": rng.randrange(10**6),
            "resp_bytes": rng.randrange(10**7),
            "conn_state": rng.choice(("SF", "S0", "REJ", "RSTO")),
            "local_orig": True,
            "local_resp": False,
            "missed_bytes": 0,
            "history": rng.choice(("ShADadFf", "S", "Dd", "ShADadfF")),
            **{
                name: rng.randrange(10**4)
                for name in ("orig_pkts", "orig_ip_bytes", "resp_pkts", "resp_ip_bytes")
            },
        }


def cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "FT"[value]
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def write(folder: Path, rows: int) -> dict[str, Path]:
    """The same connections as TSV and as JSON."""
    made = list(connections(min(rows, DISTINCT)))
    tsv = "".join("\t".join(cell(row.get(name)) for name in COLUMNS) + "\n" for row in made)
    text = "".join(
        json.dumps({k: v for k, v in row.items() if v is not None}, separators=(",", ":")) + "\n"
        for row in made
    )
    head = "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n"
    head += "#fields\t" + "\t".join(COLUMNS) + "\n#types\t" + "\t".join(COLUMNS.values()) + "\n"
    paths = {}
    for name, first, body in (("TSV", head, tsv), ("JSON", "", text)):
        paths[name] = folder / name / "conn.log"
        paths[name].parent.mkdir()
        with open(paths[name], "w") as file:
            file.write(first)
            for _ in range(-(-rows // DISTINCT)):
                file.write(body)
    return paths


def spent(read: Callable[[], int]) -> tuple[int, float]:
    """The number of rows read, and the processor seconds that it took."""
    begun = time.process_time()
    n = read()
    return n, time.process_time() - begun


def lines_of(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(1 for _ in file)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as name:
        for kind, path in write(Path(name), rows).items():
            sum(map(len, ZeekLogs([path])))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            n, plain = spent(lambda path=path: lines_of(path))  # type: ignore[misc]
            n, columns = spent(lambda path=path: sum(map(len, ZeekLogs([path]))))  # type: ignore[misc]
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            some = path.with_name("some.log")
            with open(path, "rb") as whole:
                some.write_bytes(b"".join(line for _, line in zip(range(n // 10), whole, strict=False)))
            m, records = spent(lambda some=some: sum(1 for _ in read_rows(some, "conn")))  # type: ignore[misc]
            print(
                f"{kind}: {n:,} rows in columns in {columns:.2f} s, {columns / plain:.1f} times its lines alone, "
                f"memory {grown / 1024:+.0f} MiB; record by record {records / max(m, 1) * 1e6:.1f} us a row"
            )


if __name__ == "__main__":
    main()
