"""labels.csv: the truth about a capture's connections, and how notices compare with it."""

from __future__ import annotations

import csv
import lzma
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from cmdana_plugin.decision import REVISED
from cmdana_plugin.detector import BENIGN
from cmdana_plugin.logs.notice_rows import read_notices
from cmdana_plugin.logs.reader import Field, find_logs, number, read_rows, text
from feature_extractors import CmdanaError, RecordError
from feature_extractors.readers import MAX_LINE, TOO_LONG, PassedOver, seconds

_COLUMNS: Final = ("ts", "proto", "orig_h", "orig_p", "resp_h", "resp_p", "label")
_SLACK_SECONDS: Final = 0.1  # seconds between a label's start and a connection's

Key = tuple[str, frozenset[tuple[str, int]]]


class LabelError(CmdanaError):
    """A label file cannot be used; the message names the file, the line, what was found and expected."""


@dataclass(frozen=True, slots=True)
class Label:
    """The label of one connection: benign or malicious, and its family."""

    ts: float  # start, seconds since the epoch
    label: str  # benign, malicious, unknown
    family: str  # kind of attack, "" for benign
    uid: str = ""  # of the connection, where it is known


@dataclass(slots=True)
class Found:
    """Verdicts and notices counted against labels."""

    # label -> labelled connections that were scored
    connections: Counter[str] = field(default_factory=Counter)
    flagged: Counter[str] = field(default_factory=Counter)  # label -> of these, not benign by verdict
    # family -> (all, flagged, noticed)
    families: dict[str, tuple[int, int, bool]] = field(default_factory=dict)
    # benign, or the kind of attack (first word of a family) -> verdict -> connections
    said: dict[str, dict[str, int]] = field(default_factory=dict)
    true_notices: int = 0  # notices that rest on a malicious connection, at least one
    false_notices: int = 0  # notices that rest on benign connections only
    unlabelled_notices: int = 0  # the rest
    unlabelled: int = 0  # scored connections without a label
    unscored: int = 0  # labelled connections without a score
    passed: PassedOver = field(default_factory=PassedOver)  # lines of the logs that were not read


class Labels:
    """Labels by 5-tuple (either direction) and start time, or uid."""

    def __init__(self, by_key: Mapping[Key, list[Label]]) -> None:
        self.by_key = by_key

    def __len__(self) -> int:
        return sum(map(len, self.by_key.values()))

    def find(
        self, proto: str, orig: tuple[str, int], resp: tuple[str, int], ts: float, uid: str = ""
    ) -> Label | None:
        """The label of the connection that started at `ts`, within a tenth of a second, or else that bears the uid."""
        entries = self.by_key.get((proto, frozenset((orig, resp))), ())
        near = [e for e in entries if abs(e.ts - ts) <= _SLACK_SECONDS]
        if near:
            return min(near, key=lambda e: abs(e.ts - ts))
        return next((e for e in entries if uid and e.uid == uid), None)

    def count(self, folder: Path) -> Found:
        """The verdicts and notices of `folder`'s logs counted against these labels."""
        found = Found()
        seen: set[int] = set()
        all_of: Counter[str] = Counter()
        flagged_of: Counter[str] = Counter()
        truth: dict[str, Label] = {}
        odd_by_host: dict[tuple[str, str], list[Label]] = defaultdict(list)
        by_incident: dict[str, list[Label]] = defaultdict(list)
        for row in self._verdicts(folder, found.passed):
            if row.get("stage") not in ("final", REVISED):
                continue
            orig = (text(row, "id.orig_h"), int(number(row, "id.orig_p", -1.0)))
            resp = (text(row, "id.resp_h"), int(number(row, "id.resp_p", -1.0)))
            label = self.find(text(row, "proto"), orig, resp, number(row, "ts"), text(row, "uid"))
            if label is not None and (incident := text(row, "incident")):
                by_incident[incident].append(label)
            if row.get("stage") == REVISED:
                continue
            if label is None:
                found.unlabelled += 1
                continue
            seen.add(id(label))
            truth[text(row, "uid")] = label
            found.connections[label.label] += 1
            all_of[label.family] += 1
            verdict = text(row, "verdict") or BENIGN
            if label.label != "unknown":
                kind = label.family.partition("-")[0] or label.label
                of = found.said.setdefault(kind, {})
                of[verdict] = of.get(verdict, 0) + 1
            if verdict != BENIGN:
                found.flagged[label.label] += 1
                flagged_of[label.family] += 1
                odd_by_host["originator", orig[0]].append(label)
                odd_by_host["responder", resp[0]].append(label)
        noticed: set[str] = set()
        notices = (row for file in find_logs([folder], "notice") for row in read_notices(file, found.passed))
        for row in notices:
            if incident := text(row, "cmdana.incident"):
                basis = by_incident[incident]
            elif role := text(row, "cmdana.role"):  # of an older version
                basis = odd_by_host[role, text(row, "cmdana.host")]
            else:
                basis = [e for e in [truth.get(text(row, "uid"))] if e]
            words = {e.label for e in basis}
            if "malicious" in words:
                found.true_notices += 1
                noticed.update(e.family for e in basis)
            elif words == {"benign"}:
                found.false_notices += 1
            else:
                found.unlabelled_notices += 1
        found.unscored = len(self) - len(seen)
        found.families = {f: (all_of[f], flagged_of[f], f in noticed) for f in sorted(all_of) if f}
        return found

    @staticmethod
    def _verdicts(folder: Path, passed: PassedOver) -> Iterator[Mapping[str, Field]]:
        for file in find_logs([folder], "cmdana"):
            yield from read_rows(file, "cmdana", passed)


def read_labels(path: Path) -> Labels:
    """The labels of a labels.csv (or .xz), all its captures as one. Raises `LabelError`."""
    merged: dict[Key, list[Label]] = defaultdict(list)
    for labels in labels_by_capture(path).values():
        for key, entries in labels.by_key.items():
            merged[key] += entries
    return Labels(merged)


def labels_by_capture(path: Path) -> dict[str, Labels]:
    """The labels of a labels.csv (or .xz) by its `capture` column, "" without one.

    Raises `LabelError`.
    """
    by_capture: dict[str, dict[Key, list[Label]]] = defaultdict(lambda: defaultdict(list))
    for at, row in rows(path):
        try:
            orig = (row["orig_h"], int(float(row["orig_p"])))
            resp = (row["resp_h"], int(float(row["resp_p"])))
            ts = seconds(row["ts"])
            if ts is None:
                raise ValueError(f"ts: found {str(row['ts'])[:60]!r}; expected seconds since the epoch")
            label = Label(ts, row["label"], row.get("family") or "", row.get("uid") or "")
        except (TypeError, ValueError, OverflowError) as error:
            raise LabelError(f"{path}:{at}: {error}") from None
        if label.label not in ("benign", "malicious", "unknown"):
            raise LabelError(
                f"{path}:{at}: label: found {label.label!r}; expected benign, malicious or unknown"
            )
        by_capture[row.get("capture") or ""][row["proto"], frozenset((orig, resp))].append(label)
    if not by_capture:
        raise LabelError(f"{path}: holds no label")
    return {capture: Labels(by_key) for capture, by_key in by_capture.items()}


def bounded_lines(file: IO[str], name: str, passed: PassedOver | None) -> Iterator[str]:
    """The lines of a file, each with its end; one longer than the limit is passed over and counted in `passed`.

    Raises `RecordError` for it without `passed`.
    """
    while line := file.readline(MAX_LINE):
        if len(line) < MAX_LINE or line.endswith("\n"):
            yield line
            continue
        while (line := file.readline(MAX_LINE)) and not line.endswith("\n"):
            pass
        if passed is None:
            raise RecordError(f"{name}: found a line of more than {MAX_LINE:,} characters")
        passed.add(name, TOO_LONG)


def rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a label file with their line numbers. Raises `LabelError` for a file of another kind."""
    try:
        file: IO[str] = (
            lzma.open(path, "rt", encoding="utf-8", newline="")
            if path.suffix == ".xz"
            else open(path, encoding="utf-8", newline="")
        )
    except OSError as error:
        raise LabelError(f"{path}: cannot be read: {error.strerror}") from None
    with file:
        try:
            reader = csv.DictReader(bounded_lines(file, str(path), None))
            missing = [c for c in _COLUMNS if c not in (reader.fieldnames or ())]
            if missing:
                raise LabelError(f"{path}: no column {', '.join(missing)}; expected {', '.join(_COLUMNS)}")
            for row in reader:
                yield reader.line_num, row
        except (UnicodeDecodeError, lzma.LZMAError, EOFError, csv.Error) as error:
            raise LabelError(f"{path}: no label file: {error}") from None
