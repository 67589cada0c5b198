"""Recorded days as text that can be copied: Zeek's rows by connection, whose they are, and the truth of each."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab.scenario import LabError

DAY = 86400.0
CAUSED = 1.0  # seconds in which a server's own question follows the client that made it ask
APART = 5.0  # seconds between what a host does for one reason and for another
_HEAD = ("ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p")
_SLACK = 0.1  # seconds between a label's start and a connection's
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Row:
    """A connection as conn.log has it."""

    orig: str
    orig_p: str
    resp: str
    resp_p: str
    tail: str  # what comes after


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of another log that belongs to it."""

    stream: str
    after: float  # seconds since the connection's first packet
    fuid: str  # where a file's name comes first, else ""
    tail: str


@dataclass(frozen=True, slots=True)
class Source:
    """One recorded day, times in seconds since its midnight."""

    name: str
    story: Mapping[str, Any]
    ts: NDArray[np.float64]  # [n] first packet
    lasts: NDArray[np.float64]  # [n]
    rows: list[Row]
    entries: list[tuple[Entry, ...]]  # of each connection
    malicious: NDArray[np.bool_]
    known: NDArray[np.bool_]  # whether there is a label
    family: list[str]
    owner: list[str]  # address of the host inside that the connection goes back to

    def lives(self) -> dict[str, Rows]:
        """The harmless connections of each host inside, by time."""
        out: dict[str, list[int]] = defaultdict(list)
        for i in np.argsort(self.ts, kind="stable").tolist():
            if self.known[i] and not self.malicious[i]:
                out[self.owner[i]].append(i)
        return {host: np.array(mine, np.int64) for host, mine in out.items()}

    def attacks(self) -> list[Strike]:
        """What one host did of one family; what no attacker stands at an end of goes with the nearest in time."""
        address = {h["name"]: h["address"] for h in self.story["hosts"]}
        found = []
        for f in sorted({self.family[i] for i in np.flatnonzero(self.malicious).tolist()}):
            mine = np.array([i for i in np.flatnonzero(self.malicious).tolist() if self.family[i] == f])
            hosts = sorted({address[a["host"]] for a in self.story["actors"] if a["family"] == f})
            of = {h: [i for i in mine.tolist() if h in (self.rows[i].orig, self.rows[i].resp)] for h in hosts}
            of = {h: some for h, some in of.items() if some}
            if not of:
                continue
            for i in sorted(set(mine.tolist()) - {i for some in of.values() for i in some}):
                at = self.ts[i]
                nearest = min(of, key=lambda h: float(np.abs(self.ts[of[h]] - at).min()))
                of[nearest].append(i)
            taken: set[int] = set()
            for h, some in of.items():
                rows = np.array(sorted(set(some) - taken), np.int64)
                taken |= set(some)
                if len(rows):
                    found.append(Strike(self, f, h, rows[np.argsort(self.ts[rows], kind="stable")]))
        return found


@dataclass(frozen=True, slots=True)
class Strike:
    """An attack of a recording, to be spliced in elsewhere."""

    source: Source
    family: str
    host: str  # address of the attacker
    rows: Rows

    @property
    def begin(self) -> float:
        return float(self.source.ts[self.rows[0]])

    @property
    def lasts(self) -> float:
        return float((self.source.ts[self.rows] + self.source.lasts[self.rows]).max()) - self.begin


def read_source(folder: Path, logs: Path) -> Source:
    """The recording in `folder`, whose logs (TSV) lie in `logs`. Raises `LabError`."""
    try:
        story = json.loads((folder / "story.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LabError(f"{folder}: no story.json that can be read: {error}") from None
    names, lines = _table(logs / "conn.log")
    if tuple(names[:6]) != _HEAD:
        raise LabError(
            f"{logs / 'conn.log'}: found the columns {', '.join(names[:6])}; expected {', '.join(_HEAD)}"
        )
    cells = [line.split("\t", 6) for line in lines]
    if not cells:
        raise LabError(f"{folder}: found no connection")
    ts = np.array([float(c[0]) for c in cells])
    zero = math.floor(ts.min() / DAY) * DAY
    at = names.index("duration") - 6
    took = [c[6].split("\t", at + 1)[at] for c in cells]
    lasts = np.array([0.0 if t == "-" else float(t) for t in took])
    rows = [Row(*c[2:]) for c in cells]
    row_of = {c[1]: i for i, c in enumerate(cells)}
    entries: list[list[Entry]] = [[] for _ in rows]
    for path in sorted(logs.glob("*.log")):
        if path.stem in ("conn", "cmdana", "notice"):
            continue
        for i, entry in _entries(path, row_of, ts):
            entries[i].append(entry)
    kind, family = _truth(folder / "labels.csv", rows, ts)
    return Source(
        folder.name, story, ts - zero, lasts, rows, [tuple(some) for some in entries], kind == 1, kind >= 0, family,
        _owners(story, rows, ts),
    )  # fmt: skip


def _table(path: Path) -> tuple[list[str], list[str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise LabError(f"{path}: cannot be read: {error.strerror}") from None
    names = next((line.split("\t")[1:] for line in lines if line.startswith("#fields")), [])
    return names, [line for line in lines if line and not line.startswith("#")]


def _entries(path: Path, row_of: Mapping[str, int], ts: NDArray[np.float64]) -> list[tuple[int, Entry]]:
    """Rows that name their connection; others (x509, dhcp) stay behind."""
    names, lines = _table(path)
    with_file = names[:2] == ["ts", "fuid"]
    if tuple(names[:1] + names[2:7] if with_file else names[:6]) != _HEAD:
        return []
    out = []
    for line in lines:
        when, *rest = line.split("\t", 7 if with_file else 6)
        fuid = rest.pop(0) if with_file else ""
        i = row_of.get(rest[0])
        if i is not None:
            out.append((i, Entry(path.stem, float(when) - float(ts[i]), fuid, rest[5])))
    return out


def _truth(path: Path, rows: Sequence[Row], ts: NDArray[np.float64]) -> tuple[NDArray[np.int8], list[str]]:
    """Of each connection 1 malicious, 0 benign, -1 unknown, and its family: by its ends and the label's start."""
    by_ends: dict[tuple[str, frozenset[tuple[str, str]]], list[tuple[float, str, str]]] = defaultdict(list)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for r in csv.DictReader(file):
                ends = frozenset(((r["orig_h"], r["orig_p"]), (r["resp_h"], r["resp_p"])))
                by_ends[r["proto"], ends].append((float(r["ts"]), r["label"], r["family"]))
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise LabError(f"{path}: no labels of a recording: {error}") from None
    kind, family = np.full(len(rows), -1, np.int8), [""] * len(rows)
    for i, row in enumerate(rows):
        proto = row.tail.split("\t", 1)[0]
        ends = frozenset(((row.orig, row.orig_p), (row.resp, row.resp_p)))
        near = [one for one in by_ends.get((proto, ends), ()) if abs(one[0] - ts[i]) <= _SLACK]
        if near:
            _, label, family[i] = min(near, key=lambda one: abs(one[0] - ts[i]))
            kind[i] = {"benign": 0, "malicious": 1}.get(label, -1)
    return kind, family


def _owners(story: Mapping[str, Any], rows: Sequence[Row], ts: NDArray[np.float64]) -> list[str]:
    """The host inside that opened a connection, or made a server open it; of what comes from outside, the target."""
    inside = {h["address"]: bool(h["services"]) for h in story["hosts"] if h["inside"]}
    owner = [""] * len(rows)
    last: dict[str, tuple[float, str]] = {}
    for i in np.argsort(ts, kind="stable").tolist():
        row = rows[i]
        mine = row.orig if row.orig in inside else row.resp
        if inside.get(row.orig) and row.orig in last and ts[i] - last[row.orig][0] <= CAUSED:
            mine = last[row.orig][1]
        owner[i] = mine
        if inside.get(row.resp) and row.orig in inside and row.orig != row.resp:
            last[row.resp] = float(ts[i]), mine
    return owner


def occasions(ts: NDArray[np.float64], rows: Rows) -> list[Rows]:
    """A host's connections in groups that are apart by some seconds."""
    if not len(rows):
        return []
    cuts = np.flatnonzero(np.diff(ts[rows]) > APART) + 1
    return np.split(rows, cuts)


def renamed(text: str, addresses: Mapping[str, str], files: str) -> str:
    """A row's text with other addresses, and other names of its files where `files` has three letters for them."""
    for old, new in addresses.items():
        if old in text:
            text = re.sub(rf"(?<![\d.]){re.escape(old)}(?![\d.])", new, text)
    return _FUID.sub(lambda m: f"F{files}{m[0][4:]}", text) if files else text


_FUID = re.compile(r"(?<![0-9A-Za-z])F[0-9A-Za-z]{15,17}(?![0-9A-Za-z])")
WITH_FILES = frozenset(("files", "http", "smtp", "ftp", "irc", "smb_files", "kerberos"))
