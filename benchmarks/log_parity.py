"""How far our log entries agree with Zeek's: per log and field, per set of captures, with examples of differences.

    python benchmarks/log_parity.py CAPTURES GOLDEN [--only SET] [--logs dns,http] [--examples N] [--markdown]

CAPTURES holds the captures, GOLDEN for each a folder of the same name with Zeek's JSON logs. An entry matches where
log and 5-tuple are equal and the times differ by at most 2 ms; of several, the one with most equal fields.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from parity import key, records

from feature_extractors.errors import CaptureError
from feature_extractors.extract import Extractor
from feature_extractors.observations import LogEntry, Windows
from feature_extractors.readers.native import NativeReader

Record = dict[str, Any]
Place = tuple[Any, ...]

# The fields an analyst reads first; other logs are compared in all fields that we know.
MAIN: Mapping[str, tuple[str, ...]] = {
    "dns": (
        "trans_id", "query", "qtype_name", "qclass_name", "rcode_name", "answers", "TTLs", "AA", "RA", "RD", "TC", "Z",
        "rejected", "rtt", "opcode_name", "proto",
    ),
    "http": (
        "method", "uri", "host", "user_agent", "referrer", "status_code", "status_msg", "version", "trans_depth",
        "request_body_len", "response_body_len", "origin", "username", "proxied", "info_code",
    ),
    "ssl": (
        "version", "cipher", "curve", "server_name", "next_protocol", "resumed", "established", "ssl_history",
        "last_alert", "cert_chain_fps", "client_cert_chain_fps", "sni_matches_cert",
    ),
}  # fmt: skip
# Fields that need what analyzers do not have: other connections' addresses, whole files, a site's own networks.
NOT_OURS = frozenset((
    "ts", "uid", "uids", "fuid", "fuids", "orig_fuids", "resp_fuids", "client_cert_fuid", "server_cert_fuid", "path",
    "data_channel.passive", "data_channel.orig_h", "data_channel.resp_h", "data_channel.resp_p", "direction",
    "client_cert_subject", "server_cert_subject", "mime_type", "dcc_mime_type", "dcc_file_name", "dcc_file_size",
    "payload", "tags", "id", "cert_type", "cert_permanent",
))  # fmt: skip
LOGS = (
    "dns", "http", "ssl", "x509", "ssh", "smtp", "ftp", "dhcp", "ntp", "snmp", "modbus", "dnp3", "kerberos", "ntlm",
    "dce_rpc", "smb_mapping", "smb_files", "radius", "sip", "syslog", "mysql", "irc", "rdp", "rfb", "socks",
    "mqtt_connect", "mqtt_publish", "mqtt_subscribe",
)  # fmt: skip
NEAR = 0.002  # seconds


@dataclass
class Tally:
    """What was found of one log."""

    golden: int = 0
    matched: int = 0
    extra: int = 0
    equal: Counter[str] = field(default_factory=Counter)
    compared: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def note(self, kind: str, text: str) -> None:
        if len(self.examples[kind]) < 50:
            self.examples[kind].append(text)

    @property
    def share(self) -> float:
        """Share of compared fields that are equal; 1 where none was compared."""
        compared = sum(self.compared.values())
        return sum(self.equal.values()) / compared if compared else 1.0


def entries(capture: Path) -> dict[Place, list[LogEntry]]:
    """Our log entries of a capture, by log, connection (certificates: fingerprint) and hundredth of a second."""
    found: dict[Place, list[LogEntry]] = defaultdict(list)
    extractor = Extractor()
    for block in NativeReader(capture):
        _gather(extractor.receive(block), found)
    _gather(extractor.finish(), found)
    return found


def _gather(windows: Windows, found: dict[Place, list[LogEntry]]) -> None:
    starts = windows.log_start
    rows = list(records(windows)) if starts[-1] else []
    for i in np.flatnonzero(np.diff(starts)).tolist():
        place = key(rows[i])
        for entry in windows.logs[starts[i] : starts[i + 1]]:
            where = (entry.fields.get("fingerprint"),) if entry.stream == "x509" else place
            found[entry.stream, where, int(entry.ts * 100)].append(entry)


def golden(folder: Path, logs: tuple[str, ...]) -> Iterator[tuple[str, Place, Record]]:
    """Zeek's entries: log, connection, fields."""
    by_uid = {row["uid"]: key(row) for row in _rows(folder / "conn.log")}
    for log in logs:
        for row in _rows(folder / f"{log}.log"):
            if log == "x509":
                yield log, (row.get("fingerprint"),), row
                continue
            uid = row.get("uid") or next(iter(row.get("uids", ())), None)
            if uid in by_uid:
                yield log, by_uid[uid], row


def _rows(path: Path) -> Iterator[Record]:
    if path.is_file():
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)


def same(a: object, b: object) -> bool:
    """Equal values; sets in any order, times and intervals within 10 microseconds."""
    if isinstance(a, float) and isinstance(b, float | int):
        return abs(a - b) <= 1e-5 + 1e-9 * abs(a)
    if isinstance(a, list) and isinstance(b, list):
        return sorted(map(str, a)) == sorted(map(str, b))
    return a == b


def compare(capture: Path, folder: Path, logs: tuple[str, ...], tallies: dict[str, Tally]) -> None:
    """Adds one capture to the tallies by log."""
    try:
        own = entries(capture)
    except CaptureError as error:
        print(f"{capture}: {error}", file=sys.stderr)
        return
    known: dict[str, set[str]] = defaultdict(set)
    for (log, _, _), found in own.items():
        for entry in found:
            known[log].update(entry.fields)
    for log, place, row in golden(folder, logs):
        tally = tallies[log]
        tally.golden += 1
        names = MAIN.get(log) or tuple(sorted({
            name for name in {*row, *known[log]} - NOT_OURS
            if not name.startswith(("id.", "ja3", "ja4", "hassh")) and (name in row or name in known[log])
        }))  # fmt: skip
        slots = {int((row["ts"] - NEAR) * 100), int((row["ts"] + NEAR) * 100)}
        candidates = [
            e for slot in slots for e in own.get((log, place, slot), ()) if abs(e.ts - row["ts"]) <= NEAR
        ]
        where = f"{folder.name} {place} ts={row['ts']}"
        if not candidates:
            tally.note("missing", f"{where} {json.dumps(row)[:300]}")
            continue
        best = max(candidates, key=lambda e: sum(same(row.get(n), e.fields.get(n)) for n in names))
        slot_entries = own[log, place, int(best.ts * 100)]
        del slot_entries[next(i for i, e in enumerate(slot_entries) if e is best)]
        tally.matched += 1
        for name in names:
            a, b = row.get(name), best.fields.get(name)
            if a is None and b is None:
                continue
            tally.compared[name] += 1
            if same(a, b):
                tally.equal[name] += 1
            else:
                tally.note(name, f"{where} golden {a!r} ours {b!r}")
    for (log, place, _), rest in own.items():
        if log in logs:
            tallies[log].extra += len(rest)
            for entry in rest[:1]:
                tallies[log].note("extra", f"{folder.name} {place} ts={entry.ts} {dict(entry.fields)}"[:400])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("captures", type=Path)
    parser.add_argument("golden", type=Path)
    parser.add_argument("--only", default="", help="captures whose path begins so")
    parser.add_argument("--logs", default=",".join(LOGS))
    parser.add_argument("--examples", type=int, default=0, help="of each difference")
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    logs = tuple(arguments.logs.split(","))
    tallies: dict[str, Tally] = defaultdict(Tally)
    for folder in sorted(p.parent for p in arguments.golden.rglob("conn.log")):
        name = folder.relative_to(arguments.golden)
        capture = arguments.captures / name
        if str(name).startswith(arguments.only) and capture.is_file():
            compare(capture, folder, logs, tallies)
    if arguments.markdown:
        print("| log | golden | matched | extra | equal fields |\n|---|---:|---:|---:|---:|")
    for log in logs:
        tally = tallies[log]
        if not tally.golden and not tally.extra:
            continue
        if arguments.markdown:
            print(f"| {log} | {tally.golden} | {tally.matched} | {tally.extra} | {tally.share:.2%} |")
            continue
        print(
            f"{log}: {tally.golden} golden, {tally.matched} matched, {tally.extra} extra, {tally.share:.2%} equal"
        )
        for name in sorted(tally.compared):
            if tally.equal[name] < tally.compared[name]:
                print(f"    {name}: {tally.equal[name]}/{tally.compared[name]}")
                for example in tally.examples[name][: arguments.examples]:
                    print(f"        {example}")
        for kind in ("missing", "extra"):
            for example in tally.examples[kind][: arguments.examples]:
                print(f"    {kind}: {example}")


if __name__ == "__main__":
    main()
