"""Days as long as days are: a plan of recordings, each a day of a network, with its truth, in their order.

A plan (CSV) says which recording (a folder with a capture or Zeek logs, and labels.csv) plays which part for which
network: `train` and `calibrate` are learned from, `later` is calm and `test` has attacks; both are judged. `use` says
whether the days of a network were looked at while choosing anything (`choosing`) or once, at the end (`unseen`).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.config import Config
from cmdana_plugin.evaluation.cache import key_of, recall
from cmdana_plugin.evaluation.own_network import cut
from cmdana_plugin.evaluation.whole_days.alarms import Stretch, Truth, attacks_of
from cmdana_plugin.logs import LabelError, read_labels, rows
from cmdana_plugin.training import Learned, Recording, joining, recordings
from feature_extractors import CmdanaError, Stage, Windows, address_texts
from feature_extractors.features import Encoded, encoded, load_schema
from feature_extractors.readers import log_files

PARTS: Final = ("train", "calibrate", "later", "test")
USES: Final = ("choosing", "unseen")
_CAPTURES: Final = ("*.pcap", "*.pcap.gz", "*.pcapng", "*.pcapng.gz")
_DAY: Final = 86400.0
_SLACK: Final = 0.1  # seconds between a label's start and a connection's
_LARGEST_STORY: Final = 16 * 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Planned:
    """One line of a plan."""

    folder: Path
    network: str
    part: str  # of PARTS
    use: str = "choosing"  # of USES, the same for all of a network
    scenario: str = ""  # the whole recording is one of a surge, a roll-out, ...
    begin: float = 0.0  # shares of the recording's time
    end: float = 1.0


def read_days(path: Path) -> list[Planned]:
    """CSV with the columns recording, network, part and, if wanted, use, scenario, begin, end. Raises `CmdanaError`."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CmdanaError(f"{path}: cannot be read as a plan: {error}") from None
    plan: list[Planned] = []
    for at, row in enumerate(lines, 2):
        try:
            one = Planned(
                path.parent / row["recording"], row["network"], row["part"], row.get("use") or "choosing",
                row.get("scenario") or "", float(row.get("begin") or 0.0), float(row.get("end") or 1.0),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise CmdanaError(
                f"{path}:{at}: {error}; expected the columns recording, network, part, and use, scenario, begin, end"
            ) from None
        for name, found, known in (("part", one.part, PARTS), ("use", one.use, USES)):
            if found not in known:
                raise CmdanaError(f"{path}:{at}: {name}: found {found!r}; expected one of {', '.join(known)}")
        if not 0.0 <= one.begin < one.end <= 1.0:
            raise CmdanaError(
                f"{path}:{at}: found {one.begin:g} to {one.end:g}; expected shares, 0 <= begin < end <= 1"
            )
        plan.append(one)
    for network in dict.fromkeys(p.network for p in plan):
        mine = [p for p in plan if p.network == network]
        if len({p.use for p in mine}) > 1:
            raise CmdanaError(
                f"{path}: {network}: found days of both uses; expected one for all of a network"
            )
        have = {p.part for p in mine}
        if not {"train", "calibrate"} <= have or not {"later", "test"} & have:
            raise CmdanaError(
                f"{path}: {network}: found {', '.join(sorted(have))}; expected train, calibrate, and later or test"
            )
    if not plan:
        raise CmdanaError(f"{path}: holds no day")
    return plan


@dataclass(frozen=True, slots=True)
class Day:
    """A recording that plays a part, with what is known of it."""

    name: str
    part: str
    windows: Windows
    encoded: Encoded
    truth: Truth
    shift: float  # seconds by which its times were moved
    folder: Path

    def recording(self) -> Recording:
        """As it is learned from: attacks move the state and teach nothing."""
        label = np.where(self.truth.label == 1, np.int8(-1), self.truth.label)
        return Recording(self.name, self.windows, label, [""] * len(label))


@dataclass(frozen=True, slots=True)
class Story:
    """What story.json tells of a recording; nothing where there is none."""

    actors: Mapping[str, Sequence[str]]  # family -> addresses of the hosts that attack
    roles: Mapping[str, str]  # address -> role of the host
    stretches: tuple[
        Stretch, ...
    ]  # what its `events` name: {"name", "begin", "end"} in seconds since the epoch


def read_story(folder: Path) -> Story:
    """Raises `CmdanaError` for a story.json that tells something else."""
    path = folder / "story.json"
    if not path.is_file():
        return Story({}, {}, ())
    try:
        if path.stat().st_size > _LARGEST_STORY:
            raise ValueError(f"found more than {_LARGEST_STORY:,} bytes")
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        address = {h["name"]: str(h["address"]) for h in told.get("hosts", ())}
        actors: dict[str, list[str]] = {}
        for a in told.get("actors", ()):
            if a.get("family") and a["host"] in address:
                actors.setdefault(str(a["family"]), []).append(address[a["host"]])
        groups = {g["name"]: g.get("role") or "server" for g in told.get("scenario", {}).get("inside", ())}
        roles = {
            str(h["address"]): _role(h["name"], h.get("inside", True), groups) for h in told.get("hosts", ())
        }
        begin = float(told.get("begin", 0.0))
        stretches = tuple(
            Stretch(str(e["kind"]), begin + float(e["at"]), begin + float(e["until"]))
            for e in told.get("events", ())
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CmdanaError(f"{path}: no story of a recording: {error}") from None
    return Story(actors, roles, stretches)


def _role(name: str, inside: bool, groups: Mapping[str, str]) -> str:
    return groups.get(name) or groups.get(name.rstrip("0123456789")) or ("inside" if inside else "outside")


def read_day(planned: Planned, config: Config, cache: Path | None, not_before: float) -> Day:
    """The day, put at its time of day after `not_before` (seconds since the epoch) if it would begin before.

    Days that were recorded one after another in an hour and given back their real length would else lie over each
    other.
    """
    folder = planned.folder
    recording = cut(_read(folder, config, cache), planned.begin, planned.end)
    if not len(recording.windows):
        raise CmdanaError(
            f"{recording.name}: found no connection between {planned.begin:g} and {planned.end:g} of its time"
        )
    story = read_story(folder)
    windows = recording.windows
    n = len(windows)
    begin = float(windows.connections.ts.min())
    shift = float(np.ceil((not_before - begin) / _DAY) * _DAY) if begin < not_before else 0.0
    windows = moved(windows, shift)
    c = windows.connections
    label = np.full(n, -1, np.int8) if recording.label is None else recording.label
    family = list(recording.family or [""] * n)
    orig, resp = np.array(address_texts(c.orig_h)), np.array(address_texts(c.resp_h))
    final = c.stage == Stage.FINAL
    stretches = tuple(Stretch(s.name, s.begin + shift, s.end + shift) for s in story.stretches)
    if planned.scenario:
        stretches = (Stretch(planned.scenario, float(c.ts.min()), float(c.end.max())),)
    truth = Truth(
        c.ts, c.end, orig, resp, list(c.service), label, family, final,
        attacks_of(np.where(final, label, np.int8(-1)), family, orig, resp, c.ts, c.end, story.actors),
        stretches, story.roles, [] if planned.scenario else _events(folder, windows, orig, resp, shift),
    )  # fmt: skip
    return Day(folder.name, planned.part, windows, encoded(windows, load_schema()), truth, shift, folder)


def _events(
    folder: Path, windows: Windows, orig: NDArray[np.str_], resp: NDArray[np.str_], shift: float
) -> list[str]:
    """The event that labels.csv says each connection is part of ("" none); nothing where it has no such column."""
    by_ends: dict[frozenset[tuple[str, int]], list[tuple[float, str]]] = {}
    told = False
    for _, row in rows(_labels(folder)):
        told = told or "event" in row
        if event := row.get("event"):
            ends = frozenset(((row["orig_h"], int(row["orig_p"])), (row["resp_h"], int(row["resp_p"]))))
            by_ends.setdefault(ends, []).append((float(row["ts"]) + shift, event))
    if not told:
        return []
    c = windows.connections
    out = [""] * len(c)
    if by_ends:
        columns = zip(
            orig.tolist(), c.orig_p.tolist(), resp.tolist(), c.resp_p.tolist(), c.ts.tolist(), strict=True
        )
        for i, (one, one_p, other, other_p, ts) in enumerate(columns):
            found = by_ends.get(frozenset(((one, one_p), (other, other_p))), ())
            out[i] = next((event for at, event in found if abs(at - ts) <= _SLACK), "")
    return out


def _labels(folder: Path) -> Path:
    for name in ("labels.csv", "labels.csv.xz"):
        if (folder / name).is_file():
            return folder / name
    raise LabelError(f"{folder}: found no labels.csv; a day needs its labels")


def _read(folder: Path, config: Config, cache: Path | None) -> Recording:
    labels = _labels(folder)
    captures = [p for pattern in _CAPTURES for p in sorted(folder.glob(pattern))]
    sources = captures or sorted(log_files(folder))
    if len(captures) > 1 or not sources:
        raise CmdanaError(
            f"{folder}: found {len(captures)} captures and no logs; expected one capture, or logs, and labels.csv"
        )
    source = captures[0] if captures else folder

    def read() -> list[Recording]:
        seen = Learned("")
        truth = {source.name: read_labels(labels)}
        return list(joining(recordings([str(source)], config, truth, seen), seen, labels))

    found = recall(cache, key_of([*sources, labels], __name__), read)
    if len(found) != 1:
        raise CmdanaError(f"{source}: found {len(found)} recordings; expected one with connections")
    return replace(found[0], name=folder.name)


def moved(windows: Windows, seconds: float) -> Windows:
    """The same at another time."""
    if not seconds:
        return windows
    c, p = windows.connections, windows.packets
    return replace(
        windows,
        connections=replace(c, ts=c.ts + seconds, end=c.end + seconds),
        packets=replace(p, ts=p.ts + seconds),
        logs=[e._replace(ts=e.ts + seconds) for e in windows.logs],
    )


def networks_of(plan: Sequence[Planned]) -> dict[str, list[Planned]]:
    """The days of each network: what teaches, what calibrates, and what is judged in the order of the plan."""
    judged = PARTS.index("later")
    names = dict.fromkeys(p.network for p in plan)
    return {
        n: sorted((p for p in plan if p.network == n), key=lambda p: min(PARTS.index(p.part), judged))
        for n in names
    }


def in_turn(
    plan: Sequence[Planned],
    config: Config,
    cache: Path | None,
    progress: Callable[[str, float], None],
    before: float = 0.0,
) -> Iterator[Day]:
    """The days of one network, each after the one before, read when they are asked for."""
    for i, planned in enumerate(plan):
        progress(f"reading {planned.folder.name}", i / len(plan))
        day = read_day(planned, config, cache, before)
        before = float(day.truth.ts.max())  # what began last; what lasts longer reaches into the next day
        yield day
