"""How far the logs that we write agree with Zeek's: per log and field, with examples of differences.

    python benchmarks/log_parity.py CAPTURES GOLDEN [--only SET] [--logs dns,http] [--examples N] [--markdown]
                                    [--having] [--written FOLDER]

CAPTURES holds the captures, GOLDEN for each a folder of the same name with Zeek's JSON logs. Each capture's logs are
written to disk as `cmdana convert CAPTURE --to json` writes them, and read back; with --written they are those that
`cmdana replay --logs all` or `cmdana convert` has left in folders of the same names. A row matches where log and
addresses are equal (a certificate: its fingerprint; a weird: its name too) and the times differ by at most 2 ms; of
several, the one with most equal fields. All fields are compared but those that name a file or a connection: of them,
how many there are, and whether each is in the log that it names.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmdana_plugin.logs.row_lines import RowWriter
from cmdana_plugin.logs.streams import LocalNets
from cmdana_plugin.logs.tables import APPLICATION
from feature_extractors.errors import CaptureError
from feature_extractors.extract import Extractor
from feature_extractors.observations import LogRow
from feature_extractors.readers.native import NativeReader

Record = dict[str, Any]
Place = tuple[Any, ...]

# Site::private_address_space, which is local by default
LOCAL = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
    "255.255.255.255/32", "::/128", "::1/128", "100::/64", "2001:2::/48", "2001:db8::/32", "fc00::/7", "fe80::/10",
)  # fmt: skip
LOGS = (
    "dns", "http", "ssl", "files", "x509", "ssh", "weird", "smtp", "ftp", "smb_files", "smb_mapping", "dce_rpc",
    "kerberos", "ntlm", "rdp", "dhcp", "ntp", "snmp", "modbus", "dnp3", "mysql", "sip", "irc", "radius", "rfb", "socks",
    "syslog", "mqtt_connect", "mqtt_publish", "mqtt_subscribe",
)  # fmt: skip
IDS = frozenset((
    "uid", "uids", "fuid", "fuids", "orig_fuids", "resp_fuids", "client_cert_fuid", "server_cert_fuid", "parent_fuid",
))  # fmt: skip
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


def write(capture: Path, folder: Path) -> None:
    """Writes our application logs of a capture to the folder, as JSON. Raises `CaptureError`."""
    extractor, rows = Extractor(logs=True), list[LogRow]()
    for block in NativeReader(capture):
        extractor.receive(block)
        rows += extractor.rows()
    extractor.finish()
    rows += extractor.rows()
    for lines in RowWriter("json", LocalNets(LOCAL)).lines(rows):
        for stream, _, _, data in lines:
            with (folder / f"{stream}.log").open("ab") as file:
                file.write(data)


def place(log: str, row: Record) -> Place:
    """What two rows of the same thing have in common."""
    if log == "x509":
        return (row.get("fingerprint"),)
    if log == "dhcp":
        return (row.get("mac"),)
    own = tuple(row.get(name) for name in ("id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p"))
    return (*own, row["name"]) if log == "weird" else own


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


def unresolved(folder: Path) -> list[str]:
    """Ids of connections and files that no row of the log that they name has."""
    uids = {row["uid"] for row in _rows(folder / "conn.log")}
    fuids = {row["fuid"] for row in _rows(folder / "files.log")}
    prints = {row["fingerprint"] for row in _rows(folder / "x509.log")}
    missing = []
    for log in LOGS:
        for row in _rows(folder / f"{log}.log"):
            if uids:
                missing += [
                    f"{log}: {u}" for u in (row.get("uid"), *row.get("uids", ())) if u and u not in uids
                ]
            named = [
                row.get("fuid"),
                *row.get("fuids", ()),
                *row.get("orig_fuids", ()),
                *row.get("resp_fuids", ()),
            ]
            missing += [f"{log}: {f}" for f in named if f and f not in fuids]
            chains = (*row.get("cert_chain_fps", ()), *row.get("client_cert_chain_fps", ()))
            missing += [f"{log}: {p}" for p in chains if p not in prints]
    return missing


def compare(
    capture: Path, folder: Path, logs: tuple[str, ...], tallies: dict[str, Tally], written: Path | None = None
) -> None:
    """Adds one capture to the tallies by log; its logs lie in `written`, or are written now."""
    if written is None:
        with tempfile.TemporaryDirectory() as made:
            try:
                write(capture, Path(made))
            except CaptureError as error:
                print(f"{capture}: {error}", file=sys.stderr)
                return
            compare(capture, folder, logs, tallies, Path(made))
            return
    for missing in unresolved(written):
        tallies["joins"].note("missing", f"{folder.name} {missing}")
        tallies["joins"].extra += 1
    for log in logs:
        own: dict[tuple[Place, int], list[Record]] = defaultdict(list)
        for row in _rows(written / f"{log}.log"):
            own[place(log, row), int(row["ts"] * 100)].append(row)
        compare_log(log, own, folder, tallies[log])


def compare_log(log: str, own: dict[tuple[Place, int], list[Record]], folder: Path, tally: Tally) -> None:
    """Adds one log to its tally."""
    known = [name for name, _ in APPLICATION[log].fields if name != "ts" and not name.startswith("id.")]
    for row in _rows(folder / f"{log}.log"):
        tally.golden += 1
        own_place = place(log, row)
        slots = {int((row["ts"] - NEAR) * 100), int((row["ts"] + NEAR) * 100)}
        candidates = [
            (slot, e)
            for slot in slots
            for e in own.get((own_place, slot), ())
            if abs(e["ts"] - row["ts"]) <= NEAR
        ]
        where = f"{folder.name} {own_place} ts={row['ts']}"
        if not candidates:
            tally.note("missing", f"{where} {json.dumps(row)[:300]}")
            continue
        names = [name for name in {*known, *row} if name != "ts" and not name.startswith("id.")]
        slot, best = max(candidates, key=lambda c: sum(_same(n, row, c[1]) for n in names))
        slot_rows = own[own_place, slot]
        del slot_rows[next(i for i, e in enumerate(slot_rows) if e is best)]
        tally.matched += 1
        for name in names:
            a, b = row.get(name), best.get(name)
            if a is None and b is None:
                continue
            tally.compared[name] += 1
            if _same(name, row, best):
                tally.equal[name] += 1
            else:
                tally.note(name, f"{where} golden {a!r} ours {b!r}")
    for (own_place, _), rest in own.items():
        tally.extra += len(rest)
        for row in rest[:1]:
            tally.note("extra", f"{folder.name} {own_place} ts={row['ts']} {row}"[:400])


def _same(name: str, a: Record, b: Record) -> bool:
    one, other = a.get(name), b.get(name)
    if name in IDS:
        return type(one) is type(other) and (not isinstance(one, list) or len(one) == len(other))
    return same(one, other)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("captures", type=Path)
    parser.add_argument("golden", type=Path)
    parser.add_argument("--only", default="", help="captures whose path begins so")
    parser.add_argument("--having", action="store_true", help="only captures with one of these logs")
    parser.add_argument("--logs", default=",".join(LOGS))
    parser.add_argument("--examples", type=int, default=0, help="of each difference")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--written", type=Path, help="folders of logs that were written already, in JSON")
    arguments = parser.parse_args()
    logs = tuple(arguments.logs.split(","))
    tallies: dict[str, Tally] = defaultdict(Tally)
    for folder in sorted(p.parent for p in arguments.golden.rglob("conn.log")):
        name = folder.relative_to(arguments.golden)
        capture = arguments.captures / name
        wanted = not arguments.having or any((folder / f"{log}.log").is_file() for log in logs)
        if wanted and str(name).startswith(arguments.only) and capture.is_file():
            compare(capture, folder, logs, tallies, arguments.written / name if arguments.written else None)
    if arguments.markdown:
        print("| log | golden | matched | extra | equal fields |\n|---|---:|---:|---:|---:|")
    for log in (*logs, "joins"):
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
