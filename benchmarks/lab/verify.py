"""The labels held against what the clients and servers wrote themselves, independently of the kernel's log."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab.scenario import LabError

SAME = 0.001  # seconds between two readings of one first packet
NEAR = 1.5  # seconds between a connection's first packet and what a client wrote of it
_SSHD = re.compile(r"(?:password|publickey|none) for (?:invalid user )?(\S+) from ([\d.]+) port (\d+)")
Key = tuple[str, str, int]  # protocol, originator, its port


@dataclass(frozen=True)
class Row:
    """What labels.csv says of one connection."""

    ts: float
    resp: tuple[str, int]
    label: str
    family: str
    reason: str


@dataclass(frozen=True)
class Agreement:
    """Counts by source: entries that agree, that disagree, and that are not in the recording (outside to outside)."""

    counts: Mapping[str, Counter[str]]
    wrong: list[str]

    @property
    def fine(self) -> bool:
        return not self.wrong and any(counts["agree"] for counts in self.counts.values())

    def __str__(self) -> str:
        lines = [
            f"{source:<28}{c['agree']:>8} agree{c['disagree']:>6} disagree{c['absent']:>6} not recorded"
            for source, c in self.counts.items()
        ]
        return "\n".join([*lines, *(f"  {line}" for line in self.wrong[:20])])


def verify(folder: Path, conn_log: Path | None = None) -> Agreement:
    """Every connection that a staying client logged, and every login that an SSH server logged (with --keep-logs).

    `conn_log`: what Zeek (or `cmdana replay`) made of the recording; each of its rows needs a label of its own.
    """
    if not (folder / "connections.jsonl").is_file():
        raise LabError(f"{folder}: expected a recording (connections.jsonl beside labels.csv)")
    rows = _rows(folder / "labels.csv")
    story = json.loads((folder / "story.json").read_text(encoding="utf-8"))
    family = {actor["gid"]: actor["family"] for actor in story["actors"]}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    wrong: list[str] = []
    for entry in _lines(folder / "connections.jsonl"):
        orig, resp = tuple(entry["orig"]), tuple(entry["resp"])
        near = [
            row
            for row in rows.get((entry["proto"], *orig), ())
            if row.resp == resp and -NEAR <= entry["opened"] - row.ts <= NEAR + entry.get("waited", 0.0)
        ]
        expected = family[entry["gid"]]
        source = f"clients, {'attackers' if expected else 'users'}"
        if not near:
            counts[source]["absent"] += 1
        elif all(_same(row, expected) for row in near):
            counts[source]["agree"] += 1
        else:
            counts[source]["disagree"] += 1
            wrong.append(f"{entry}: labelled {near[0].label} {near[0].family} ({near[0].reason})")
    for log in sorted(folder.glob("servers/*.sshd.out")):
        host = log.name.split(".")[0]
        address = next(h["address"] for h in story["hosts"] if h["name"] == host)
        _sshd(log, (address, 22), rows, story, counts, wrong)
    if conn_log is not None:
        _zeek(conn_log, rows, counts, wrong)
    return Agreement(counts, wrong)


def _same(row: Row, family: str) -> bool:
    """Whether the label names who opened it, also where an attacker answered or carried it."""
    led_astray = row.reason.startswith("opened by user") and "by attacker" in row.reason
    return (row.label == "malicious", row.family) == (bool(family), family) or (not family and led_astray)


def _zeek(
    conn_log: Path, rows: Mapping[Key, list[Row]], counts: dict[str, Counter[str]], wrong: list[str]
) -> None:
    """Rows of a TSV conn.log, by connection and start."""
    names: list[str] = []
    with conn_log.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            parts = line.rstrip("\n").split("\t")
            if parts[0] == "#fields":
                names = parts[1:]
            if line.startswith("#") or not names:
                continue
            row = dict(zip(names, parts, strict=False))
            key = (row["proto"], row["id.orig_h"], int(row["id.orig_p"]))
            resp = (row["id.resp_h"], int(row["id.resp_p"]))
            if any(r.resp == resp and abs(r.ts - float(row["ts"])) < SAME for r in rows.get(key, ())):
                counts["rows of conn.log"]["agree"] += 1
            else:
                counts["rows of conn.log"]["absent"] += 1
                wrong.append(f"no label: {' '.join(parts[:6])}")


def _sshd(
    log: Path,
    server: tuple[str, int],
    rows: Mapping[Key, list[Row]],
    story: Mapping[str, list[dict[str, str]]],
    counts: dict[str, Counter[str]],
    wrong: list[str],
) -> None:
    """A user's key opens only that user's account, so an accepted key names who came; a password may be guessed."""
    attackers = {actor["name"] for actor in story["actors"] if actor["family"]}
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        found = _SSHD.search(line)
        if found is None or not line.startswith("Accepted publickey"):
            continue
        row = next((r for r in rows.get(("tcp", found[2], int(found[3])), ()) if r.resp == server), None)
        if row is None:
            counts["SSH servers, keys accepted"]["absent"] += 1
        elif (row.label == "malicious") == (found[1] in attackers):
            counts["SSH servers, keys accepted"]["agree"] += 1
        else:
            counts["SSH servers, keys accepted"]["disagree"] += 1
            wrong.append(f"{log.name}: {line}: labelled {row.label} ({row.reason})")


def _rows(path: Path) -> dict[Key, list[Row]]:
    rows: dict[Key, list[Row]] = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as file:
        for r in csv.DictReader(file):
            row = Row(float(r["ts"]), (r["resp_h"], int(r["resp_p"])), r["label"], r["family"], r["reason"])
            rows[(r["proto"], r["orig_h"], int(r["orig_p"]))].append(row)
    return rows


def _lines(path: Path) -> Iterator[dict[str, object]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)
