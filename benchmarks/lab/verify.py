"""The labels held against what the clients and servers wrote themselves, independently of the kernel's log."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from benchmarks.lab.scenario import LabError

SAME = 0.001  # seconds between two readings of one first packet
CLOCK = 0.05  # seconds between a launcher's look at its programs and what they did
NEAR = 1.5  # seconds between a connection's first packet and what a client wrote of it
_SSHD = re.compile(r"(?:password|publickey|none) for (?:invalid user )?(\S+) from ([\d.]+) port (\d+)")
_ADDRESS = re.compile(r"(?<![\d.])(?:\d+\.){3}\d+(?:/\d+)?(?![\d.])")
_OPENED = re.compile(r"opened by (?:user|attacker) (\S+) on \S+")
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
    """Every connection that a staying client logged, every login that an SSH server logged (with --keep-logs), and
    where a launcher's programs were sent.

    `conn_log`: what Zeek (or `cmdana replay`) made of the recording; each of its rows needs a label of its own.
    """
    if not all((folder / name).is_file() for name in ("connections.jsonl", "programs.jsonl", "labels.csv")):
        raise LabError(
            f"{folder}: expected a recording (connections.jsonl and programs.jsonl beside labels.csv)"
        )
    try:
        return _compare(folder, conn_log)
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(f"{folder}: not as `record` writes it ({type(error).__name__}: {error})") from None


def _compare(folder: Path, conn_log: Path | None) -> Agreement:
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
    _launched(folder, rows, story, counts, wrong)
    if conn_log is not None:
        _zeek(conn_log, rows, counts, wrong)
    return Agreement(counts, wrong)


def _same(row: Row, family: str) -> bool:
    """Whether the label names who opened it, also where an attacker answered or carried it."""
    led_astray = row.reason.startswith("opened by user") and "by attacker" in row.reason
    return (row.label == "malicious", row.family) == (bool(family), family) or (not family and led_astray)


def _launched(
    folder: Path,
    rows: Mapping[Key, list[Row]],
    story: Mapping[str, list[dict[str, Any]]],
    counts: dict[str, Counter[str]],
    wrong: list[str],
) -> None:
    """Connections begun while only programs with addresses on their command lines ran for an actor: to one of those."""
    names = {actor["gid"]: actor["name"] for actor in story["actors"]}
    ran: dict[str, list[tuple[float, float, list[IPv4Network]]]] = defaultdict(list)
    for entry in _lines(folder / "programs.jsonl"):
        if entry["what"] != "person" and "ended" in entry:
            times = entry["began"] - CLOCK, entry["ended"] + CLOCK
            ran[names[entry["gid"]]].append((*times, _targets(entry.get("argv", ()))))
    attackers = {actor["name"] for actor in story["actors"] if actor["family"]}
    for (proto, source_address, _), found in rows.items():
        for row in found:
            who = _OPENED.fullmatch(row.reason)
            if who is None or proto == "icmp":
                continue
            running = [targets for began, ended, targets in ran[who[1]] if began <= row.ts <= ended]
            if not running or not all(running):
                continue
            source = f"launchers, {'attackers' if who[1] in attackers else 'users'}"
            ends = (
                IPv4Address(source_address),
                IPv4Address(row.resp[0]),
            )  # of half a connection either may be first
            if any(end in net for end in ends for targets in running for net in targets):
                counts[source]["agree"] += 1
            else:
                counts[source]["disagree"] += 1
                wrong.append(f"{row}: {who[1]} ran only programs with other addresses")


def _targets(argv: Sequence[str]) -> list[IPv4Network]:
    """Addresses that a program was sent to; none where those on its line are asked about or handed out."""
    plain = [word for word in argv if " " not in word and argv[0] not in ("dig", "dnsmasq")]
    return [IPv4Network(found, strict=False) for word in plain for found in _ADDRESS.findall(word)]


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


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)
