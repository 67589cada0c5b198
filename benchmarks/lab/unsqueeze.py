"""A recording that stands for a day becomes that day: connections move to their times, packets and labels together.

What an actor does once (an occasion, `occasions.py`) begins where the story has it in a day of real length; within it
everything keeps its pace. What a server or a router does of its own moves with the connection that caused it.
"""

from __future__ import annotations

import csv
import datetime
import gzip
import json
import mmap
import struct
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab import flows, occasions
from benchmarks.lab.flows import IDLE, Flow, Key
from benchmarks.lab.scenario import LabError
from benchmarks.lab.truth import COLUMNS

START = datetime.date(2026, 3, 2)  # a Monday
APART = 10.0  # seconds beyond Zeek's timeouts between connections of the same ends that are strangers
ROUNDS = 20  # of moving apart what has the same ends
CHUNK = 1 << 15  # frames written at a time
SPOOFING = "spoof-"
Array = NDArray[np.int64]


@dataclass(frozen=True)
class Moved:
    """What was done to one recording: `exact`, `placed`, `caused`, `linear` connections, by how they were found.

    `exact`: by their ends; `placed`: by the programs that ran; `caused`: with another connection; `linear`: by nothing
    but their time. `kept_apart`: moved further, since they have the ends of another.
    """

    folder: Path
    connections: int
    frames: int
    hours: float
    exact: int
    placed: int
    caused: int
    linear: int
    kept_apart: int

    def __str__(self) -> str:
        return (
            f"{self.folder}: {self.connections} connections, {self.frames} frames, {self.hours:.1f} h; moved by their "
            f"ends {self.exact}, by what ran {self.placed}, with their cause {self.caused}, by time alone "
            f"{self.linear}; kept apart {self.kept_apart}"
        )


@dataclass(frozen=True)
class _Frames:
    """Where each frame lies in the capture, when it was, whose it is."""

    at: Array  # [N] bytes from the capture's start, of the record's header
    size: Array  # [N] bytes of the record
    ts: Array  # [N] microseconds since 1970
    flow: Array  # [N] -1 none
    sender: dict[int, bytes]  # hardware addresses, where a frame belongs to no connection


def unsqueeze(
    recordings: Sequence[Path], out: Path, factor: float | None = None, starts: Sequence[datetime.date] = ()
) -> list[Moved]:
    """Each recording becomes a folder of `out` (a single one `out` itself), each on the day after the one before.

    `factor`: seconds of the day per second of the recording (default: what the recording's story says);
    `starts`: the days, as far as they are not just the next ones.
    """
    if len(starts) > len(recordings):
        raise LabError(f"--start: found {len(starts)} days for {len(recordings)} recordings")
    moved, day = [], START
    for number, folder in enumerate(recordings):
        day = starts[number] if number < len(starts) else day + datetime.timedelta(days=1) if number else day
        place = out if len(recordings) == 1 else out / folder.resolve().name
        moved.append(_one(folder, place, factor, day))
    return moved


def _one(folder: Path, out: Path, factor: float | None, day: datetime.date) -> Moved:
    capture = _recording(folder)
    story = json.loads((folder / "story.json").read_text(encoding="utf-8"))
    if "unsqueezed" in story:
        raise LabError(f"{folder}: was unsqueezed before")
    hours = story["scenario"]["timetable"]["hours"]
    if factor is None:
        factor = hours * 3600.0 / story["seconds"] if hours else 1.0
    if not 1.0 <= factor <= 1000.0:
        raise LabError(f"--factor: found {factor:g}, expected 1 to 1000")
    if out.exists() and any(out.iterdir()):
        raise LabError(f"{out}: not empty; give a new folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    begin = occasions.zero(folder, story)
    midnight = datetime.datetime.combine(day, datetime.time(), datetime.UTC).timestamp()
    clock = _Clock(begin, midnight + story["scenario"]["timetable"]["start_hour"] * 3600.0, factor)
    with _mapped(capture) as data:
        walk = flows.Walk()
        frames = _walk(data, capture, walk)
        rows = _rows(folder / "labels.csv", walk.flows)
        log = occasions.read(folder, story, begin)
        tree = occasions.Assigner(walk.flows, [row["reason"] for row in rows], log, story).tree()
        shifts, kept_apart = _shifts(walk.flows, rows, tree, clock)
        ts = _times(frames, walk.flows, shifts, log, story, clock)
        in_file = np.maximum.accumulate(
            frames.ts
        )  # a recorder's clock goes back by microseconds; its order stays
        order = np.argsort(in_file + (ts - frames.ts), kind="stable")
        _write(data, frames, ts, order, out / f"{story['capture']}.pcap")
    _label(rows, walk.flows, shifts, tree, out / "labels.csv")
    _logs(folder, out, log, shifts, walk.flows, clock)
    _story(out, story, clock, hours)
    caused = sum(parent >= 0 for parent in tree.parent)
    placed = sum(occasion is not None for occasion in tree.occasion)
    return Moved(
        out, len(walk.flows), len(ts), float(ts[order[-1]] - ts[order[0]]) / 3.6e9 if len(ts) else 0.0, tree.exact,
        placed - tree.exact, caused, len(walk.flows) - placed - caused, kept_apart,
    )  # fmt: skip


@dataclass(frozen=True)
class _Clock:
    """The recording's zero and the day's, in seconds since 1970."""

    begin: float
    day: float
    factor: float

    def shift(self, at: float, began: float) -> float:
        """How far what was planned for `at` (seconds after zero) and began at `began` moves."""
        return self.day + at * self.factor - began

    def linear(self, ts: float) -> float:
        return self.shift(ts - self.begin, ts)


def _recording(folder: Path) -> Path:
    lacking = [
        name
        for name in ("story.json", "labels.csv", "programs.jsonl", "connections.jsonl")
        if not (folder / name).is_file()
    ]
    captures = sorted(folder.glob("*.pcap*"))
    if lacking or not captures:
        raise LabError(f"{folder}: expected a recording, found no {lacking[0] if lacking else 'capture'}")
    return captures[0]


@contextmanager
def _mapped(capture: Path) -> Iterator[memoryview]:
    """The capture's bytes; only a gzipped one is held in memory."""
    if capture.suffix == ".gz":
        with gzip.open(capture, "rb") as packed:
            yield memoryview(packed.read())
        return
    with capture.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        try:
            yield view
        finally:
            view.release()


def _walk(data: memoryview, capture: Path, walk: flows.Walk) -> _Frames:
    if len(data) < 24 or bytes(data[:4]) != b"\xd4\xc3\xb2\xa1":
        raise LabError(f"{capture}: not a capture of this laboratory (little-endian pcap, microseconds)")
    number: dict[int, int] = {}
    columns = tuple(array("q") for _ in range(4))
    senders: dict[int, bytes] = {}
    at = 24
    while at + 16 <= len(data):
        seconds, fraction, size, _ = struct.unpack_from("<IIII", data, at)
        if at + 16 + size > len(data):
            break
        frame = bytes(data[at + 16 : at + 16 + size])
        flow = walk.receive(seconds + fraction * 1e-6, frame)
        if flow is not None and id(flow) not in number:
            number[id(flow)] = len(walk.flows) - 1
        which = -1 if flow is None else number[id(flow)]
        for column, value in zip(
            columns, (at, 16 + size, seconds * 1_000_000 + fraction, which), strict=True
        ):
            column.append(value)
        if flow is None:
            senders[len(columns[0]) - 1] = frame[6:12]
        at += 16 + size
    return _Frames(*(np.array(column, np.int64) for column in columns), senders)


def _rows(path: Path, found: Sequence[Flow]) -> list[dict[str, str]]:
    """The labels, in the order of the connections, which is how they were written."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    by_connection: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        by_connection[tuple(row[c] for c in ("ts", "proto", "orig_h", "orig_p", "resp_h", "resp_p"))].append(
            row
        )
    ordered = []
    for flow in found:
        same = by_connection.get((f"{flow.start:.6f}", *map(str, flow.key)))
        if not same:
            raise LabError(f"{path}: no label for the connection {flow.key} at {flow.start:.6f}")
        ordered.append(same.pop(0))
    return ordered


def _shifts(
    found: Sequence[Flow], rows: Sequence[Mapping[str, str]], tree: occasions.Tree, clock: _Clock
) -> tuple[Array, int]:
    """Microseconds by which each connection moves; how many had to be kept apart from another with the same ends."""
    moves = np.zeros(len(found))
    for number, parent in enumerate(tree.parent):
        if parent >= 0:
            continue
        occasion = tree.occasion[number]
        spoofer = rows[number]["family"].startswith(SPOOFING)
        if occasion is None or (spoofer and rows[number]["reason"].startswith("opened by attacker")):
            moves[number] = clock.linear(found[number].start)
        else:
            moves[number] = clock.shift(occasion.at, occasion.began)
    shifts = np.rint(moves * 1e6).astype(np.int64)
    root = np.array([_root(tree.parent, number) for number in range(len(found))], np.int64)
    kept: set[int] = set()
    for _ in range(ROUNDS):
        shifts = shifts[root]
        late = _keep_apart(found, shifts)
        if not late:
            break
        kept |= late.keys()
        for number, more in late.items():  # with all that it caused
            shifts[root[number]] += more
    return shifts[root], len(kept)


def _root(parents: Sequence[int], number: int) -> int:
    """The first cause; where causes go in a circle, any of it."""
    seen = set()
    while parents[number] >= 0 and number not in seen:
        seen.add(number)
        number = parents[number]
    return number


def _keep_apart(found: Sequence[Flow], shifts: Array) -> dict[int, int]:
    """By how many microseconds connections must wait for others with the same ends, until every timer has run out.

    Those that move alike keep what lay between them.
    """
    groups: dict[Key, list[int]] = defaultdict(list)
    for number, flow in enumerate(found):
        proto, *ends = flow.key
        one, two = (ends[0], ends[1]), (ends[2], ends[3])
        groups[(proto, *min(one, two), *max(one, two))].append(number)
    late: dict[int, int] = {}
    for (proto, *_), same in groups.items():
        same.sort(key=lambda number: found[number].start * 1e6 + shifts[number])
        for before, after in pairwise(same):
            if shifts[before] == shifts[after]:
                continue
            ended = round(found[before].last * 1e6) + int(shifts[before]) + late.get(before, 0)
            wait = (
                ended
                + int((IDLE[proto] + APART) * 1e6)
                - round(found[after].start * 1e6)
                - int(shifts[after])
            )
            if wait > 0:
                late[after] = wait
    return late


def _times(
    frames: _Frames,
    found: Sequence[Flow],
    shifts: Array,
    log: occasions.Log,
    story: Mapping[str, Any],
    clock: _Clock,
) -> Array:
    """When each frame is on the day; one that belongs to no connection goes with the nearest of its host."""
    whole = frames.flow >= 0
    ts = frames.ts.copy()
    ts[whole] += shifts[frames.flow[whole]]
    by_address: dict[str, list[int]] = defaultdict(list)
    for number, flow in enumerate(found):
        for address in {flow.key[1], flow.key[3]}:
            by_address[address].append(number)
    starts = {a: np.array([found[n].start for n in own]) for a, own in by_address.items()}
    hosts = {bytes.fromhex(h["mac"].replace(":", "")): h for h in story["hosts"]}
    spoofed = _spoofed(log, story)
    for number in np.flatnonzero(~whole):
        at = frames.ts[number] * 1e-6
        host = hosts.get(frames.sender[int(number)], {"name": "", "address": ""})
        own = by_address.get(host["address"], [])
        if not own or any(began - 1.0 <= at <= ended + 5.0 for began, ended in spoofed.get(host["name"], ())):
            ts[number] += round(clock.linear(at) * 1e6)
            continue
        place = int(np.searchsorted(starts[host["address"]], at))
        near = min(own[max(0, place - 1) : place + 1], key=lambda n: abs(found[n].start - at))
        ts[number] += shifts[near]
    return ts


def _spoofed(log: occasions.Log, story: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """When which host spoofed: what it says then has no connection, and is spread over the attack's part of the day."""
    spoofers = {actor["gid"] for actor in story["actors"] if actor["family"].startswith(SPOOFING)}
    times: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for entry, _ in log.of_entry:
        if entry.get("gid") in spoofers and "ended" in entry:
            times[entry["host"]].append((entry["began"], entry["ended"]))
    return times


def _write(data: memoryview, frames: _Frames, ts: Array, order: Array, path: Path) -> None:
    with path.open("wb") as file:
        file.write(data[:24])
        for first in range(0, len(order), CHUNK):
            parts: list[bytes | memoryview] = []
            for number in order[first : first + CHUNK].tolist():
                at, size = int(frames.at[number]), int(frames.size[number])
                parts.append(struct.pack("<II", *divmod(int(ts[number]), 1_000_000)))
                parts.append(data[at + 8 : at + size])
            file.write(b"".join(parts))


def _label(
    rows: Sequence[Mapping[str, str]], found: Sequence[Flow], shifts: Array, tree: occasions.Tree, path: Path
) -> None:
    """labels.csv in the order of the day, with the event that a connection is part of."""
    starts = np.array([round(flow.start * 1e6) for flow in found], np.int64) + shifts
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*COLUMNS, "event"))
        for number in np.argsort(starts, kind="stable").tolist():
            occasion = tree.occasion[_root(tree.parent, number)]
            row = {**rows[number], "ts": f"{starts[number] // 1_000_000}.{starts[number] % 1_000_000:06d}"}
            writer.writerow((*(row[column] for column in COLUMNS), occasion.event if occasion else ""))


def _logs(
    folder: Path, out: Path, log: occasions.Log, shifts: Array, found: Sequence[Flow], clock: _Clock
) -> None:
    """programs.jsonl and connections.jsonl on the clock of the day."""
    with (out / "programs.jsonl").open("w", encoding="utf-8") as file:
        for entry, occasion in log.of_entry:
            shift = (
                clock.linear(entry["began"]) if occasion is None else clock.shift(occasion.at, occasion.began)
            )
            times = {key: round(entry[key] + shift, 3) for key in ("began", "ended") if key in entry}
            file.write(json.dumps({**entry, **times}) + "\n")
    by_key: dict[Key, list[int]] = defaultdict(list)
    for number, flow in enumerate(found):
        by_key[flow.key].append(number)
    with (out / "connections.jsonl").open("w", encoding="utf-8") as file:
        for entry, _ in log.of_opened:
            at = float(entry["opened"])
            own = by_key.get((entry["proto"], *entry["orig"], *entry["resp"]), [])
            near = min(own, key=lambda n: abs(found[n].start - at), default=None)
            shift = clock.linear(at) if near is None else float(shifts[near]) * 1e-6
            times = {key: round(entry[key] + shift, 3) for key in ("opened", "asked") if key in entry}
            file.write(json.dumps({**entry, **times}) + "\n")


def _story(out: Path, story: dict[str, Any], clock: _Clock, hours: float | None) -> None:
    events = [
        {**event, "at": event["at"] * clock.factor, "until": event["until"] * clock.factor}
        for event in story.get("events", ())
    ]
    told = {
        **story, "begin": clock.day, "seconds": story["seconds"] * clock.factor, "events": events,
        "unsqueezed": {"factor": clock.factor, "recorded": clock.begin, "seconds": story["seconds"]},
    }  # fmt: skip
    (out / "story.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
