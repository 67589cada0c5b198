"""How far the embedded engine agrees with Zeek: per set of golden logs, per field, with an example of each difference.

    python benchmarks/parity.py CAPTURES GOLDEN [--only SET] [--no-service] [--markdown]

CAPTURES holds the captures, GOLDEN for each a folder of the same name with Zeek's JSON logs. A connection matches
where the 5-tuple is equal and the start differs by at most 50 ms; one whose ends are swapped counts as flipped.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from feature_extractors.community_id import community_id_v1
from feature_extractors.errors import CaptureError
from feature_extractors.extract import Extractor
from feature_extractors.observations import CONN_STATES, PROTO_NAMES, Windows
from feature_extractors.readers.native import NativeReader

Record = dict[str, Any]
FIELDS = (
    "duration", "orig_bytes", "resp_bytes", "conn_state", "missed_bytes", "history", "orig_pkts", "orig_ip_bytes",
    "resp_pkts", "resp_ip_bytes", "service", "community_id",
)  # fmt: skip
NEAR = 0.05  # seconds


@dataclass
class Tally:
    """What was found in one set."""

    golden: int = 0
    matched: int = 0
    flipped: int = 0
    extra: int = 0
    equal: Counter[str] = field(default_factory=Counter)
    compared: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def note(self, kind: str, text: str) -> None:
        if len(self.examples[kind]) < 400:
            self.examples[kind].append(text)


def ours(capture: Path, content: bool) -> Iterator[Record]:
    """Our conn.log of a capture."""
    extractor = Extractor(content=content)
    for block in NativeReader(capture):
        yield from records(extractor.receive(block))
    yield from records(extractor.finish())


def records(windows: Windows) -> Iterator[Record]:
    """Rows of conn.log, with Zeek's names and what Zeek leaves unset left out."""
    c = windows.connections
    ids = community_id_v1(c.orig_h, c.resp_h, c.orig_p, c.resp_p, c.ip_proto).astype(str).tolist()
    for i in range(len(c)):
        row: Record = {
            "ts": float(c.ts[i]),
            "uid": c.uid[i].decode(),
            "id.orig_h": address(c.orig_h[i].tobytes()),
            "id.orig_p": int(c.orig_p[i]),
            "id.resp_h": address(c.resp_h[i].tobytes()),
            "id.resp_p": int(c.resp_p[i]),
            "proto": PROTO_NAMES.get(int(c.ip_proto[i]), "unknown_transport"),
            "service": c.service[i],
            "conn_state": CONN_STATES[c.conn_state[i]],
            "missed_bytes": int(c.missed_bytes[i]),
            "history": c.history[i].decode(),
            "community_id": ids[i],
        }
        for name in ("orig_pkts", "orig_ip_bytes", "resp_pkts", "resp_ip_bytes"):
            row[name] = int(getattr(c, name)[i])
        if c.duration[i] == c.duration[i]:
            row["duration"] = float(c.duration[i])
            row["orig_bytes"] = int(c.orig_bytes[i])
            row["resp_bytes"] = int(c.resp_bytes[i])
        yield row


def address(packed: bytes) -> str:
    six = ipaddress.IPv6Address(packed)
    return str(six.ipv4_mapped or six)


def key(row: Record) -> tuple[Any, ...]:
    hosts = [str(ipaddress.ip_address(row[name])) for name in ("id.orig_h", "id.resp_h")]
    return (row["proto"], hosts[0], row["id.orig_p"], hosts[1], row["id.resp_p"])


def same(name: str, golden: Record, own: Record) -> bool:
    a, b = golden.get(name), own.get(name)
    if name == "duration":
        x, y = float(a or 0), float(b or 0)
        return abs(x - y) <= 1e-4 + 1e-6 * abs(x)
    if name == "service":
        return set(filter(None, (a or "").split(","))) == set(filter(None, (b or "").split(",")))
    if name in ("conn_state", "history", "community_id"):
        return (a or "") == (b or "")
    return (a or 0) == (b or 0)


def compare(capture: str, golden: list[Record], own: list[Record], tally: Tally) -> None:
    """Matches each golden connection with the nearest of ours, each once."""
    index: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for row in own:
        index[key(row)].append(row)
    for row in golden:
        tally.golden += 1
        k = key(row)
        best: tuple[float, Record, tuple[Any, ...]] | None = None
        for candidate in (k, (k[0], k[3], k[4], k[1], k[2])):
            for other in index.get(candidate, ()):
                distance = abs(other["ts"] - row["ts"])
                if distance <= NEAR and (best is None or distance < best[0]):
                    best = (distance, other, candidate)
        where = f"{capture} ts={row['ts']} {row['proto']} {k[1]}:{k[2]} > {k[3]}:{k[4]}"
        if best is None:
            tally.note("unmatched", f"{where} history={row.get('history')} {row.get('conn_state')}")
            continue
        index[best[2]].remove(best[1])
        tally.matched += 1
        if best[2] != k:
            tally.flipped += 1
            tally.note("flipped", f"{where} golden {row.get('history')} ours {best[1].get('history')}")
            continue
        for name in FIELDS:
            if name not in row and name not in best[1]:
                continue
            tally.compared[name] += 1
            if same(name, row, best[1]):
                tally.equal[name] += 1
            else:
                tally.note(name, f"{where} golden {row.get(name)!r} ours {best[1].get(name)!r} "
                           f"(history {row.get('history')} / {best[1].get('history')})")  # fmt: skip
    for rest in index.values():
        for row in rest:
            tally.extra += 1
            tally.note("extra", f"{capture} ts={row['ts']} {key(row)} {row['history']} {row['conn_state']}")


def golden_log(folder: Path) -> list[Record]:
    path = folder / "conn.log"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def run(captures: Path, golden: Path, only: str | None, content: bool) -> dict[str, Tally]:
    tallies: dict[str, Tally] = defaultdict(Tally)
    for path in sorted(p for p in captures.rglob("*") if p.is_file()):
        name = path.relative_to(captures).as_posix()
        if only and not name.startswith(only):
            continue
        tally = tallies[name.split("/")[0]]
        try:
            rows = list(ours(path, content))
        except CaptureError as error:
            tally.note("capture", f"{name}: {error}")
            rows = []
        compare(name, golden_log(golden / name), rows, tally)
    return tallies


def report(tallies: dict[str, Tally], examples: int) -> None:
    total = Tally()
    print("| set | golden | matched | flipped | extra | " + " | ".join(FIELDS) + " |")
    print("|---|" + "---:|" * (4 + len(FIELDS)))
    for name, t in [*sorted(tallies.items()), ("all", total)]:
        if t is not total:
            for part in ("golden", "matched", "flipped", "extra"):
                setattr(total, part, getattr(total, part) + getattr(t, part))
            total.equal.update(t.equal)
            total.compared.update(t.compared)
        if not t.golden:
            continue
        cells = [f"{100 * t.equal[f] / max(t.compared[f], 1):.2f}" for f in FIELDS]
        matched = f"{100 * t.matched / t.golden:.2f}"
        print(f"| {name} | {t.golden} | {matched} | {t.flipped} | {t.extra} | " + " | ".join(cells) + " |")
    for kind in ("capture", "unmatched", "extra", "flipped", *FIELDS):
        lines = [line for t in tallies.values() for line in t.examples.get(kind, ())]
        if lines:
            print(f"\n{kind}: {len(lines)}")
            for line in lines[:examples]:
                print("  " + line)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("captures", type=Path)
    parser.add_argument("golden", type=Path)
    parser.add_argument("--only", help="captures whose name begins so")
    parser.add_argument("--no-service", action="store_true", help="without the analysis of content")
    parser.add_argument("--examples", type=int, default=3)
    args = parser.parse_args()
    report(run(args.captures, args.golden, args.only, not args.no_service), args.examples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
