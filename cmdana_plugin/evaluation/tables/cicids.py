"""CICIDS2017 in its corrected version (Engelen et al. 2021, Liu et al. 2022): five days of flows with their columns.

The files (monday.csv to friday.csv) are not part of this project. Attempted attacks, which never reached their target,
are neither benign nor attacks and are left out, as the authors advise.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.evaluation.tables.flat_tables import Table, Task
from feature_extractors import CmdanaError

DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday")
_LEARNED: Final = 3  # days, the first, that are learned from
# Never a field: who, when, which row, and what the truth is. Ports tell one laboratory's hosts.
_NOT_FIELDS: Final = frozenset(
    ("id", "flow id", "src ip", "src port", "dst ip", "dst port", "timestamp", "label", "attempted category")
)
_MOST: Final = 3_000_000  # rows of all days
_BLOCK: Final = 50_000  # rows that are held as text
_GROUPS: Final = 4


def cicids2017(folder: Path) -> list[Task]:
    """Monday to Wednesday teach, Thursday and Friday judge: attacks that come later than what was learned.

    Raises `CmdanaError` for a folder without the days, for other columns and for more rows than 3,000,000.
    """
    names: list[str] | None = None
    parts, labels, days, protocols = [], [], [], []
    total = 0
    for d, day in enumerate(DAYS):
        path = folder / f"{day}.csv"
        for header, rows in _blocks(path):
            if names is None:
                names = header
            elif names != header:
                raise CmdanaError(f"{path}: other columns than {DAYS[0]}.csv; expected the same in each day")
            numbers, said, proto = _numbers(path, header, rows)
            keep = np.array(["attempted" not in s.lower() for s in said], np.bool_)
            total += int(keep.sum())
            if total > _MOST:
                raise CmdanaError(f"{folder}: more than {_MOST:,} rows")
            parts.append(numbers[keep])
            labels += [s for s, k in zip(said, keep.tolist(), strict=True) if k]
            protocols += [p for p, k in zip(proto, keep.tolist(), strict=True) if k]
            days.append(np.full(int(keep.sum()), d))
    day_of = np.concatenate(days) if days else np.zeros(0, np.int64)
    learn, test = np.flatnonzero(day_of < _LEARNED), np.flatnonzero(day_of >= _LEARNED)
    if not len(learn) or not len(test):
        raise CmdanaError(
            f"{folder}: found {len(learn)} rows of the first three days and {len(test)} of the others"
        )
    numeric = np.nan_to_num(np.concatenate(parts).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    wide = np.abs(numeric[learn]).max(axis=0) > 10
    numeric[:, wide] = np.sign(numeric[:, wide]) * np.log1p(np.abs(numeric[:, wide]))
    common = [p for p, _ in Counter(protocols[i] for i in learn).most_common(8)]
    code = np.array([common.index(p) + 1 if p in common else 0 for p in protocols], np.int64)
    family = ["" if s.lower() == "benign" else s.lower() for s in labels]
    fields = numeric.shape[1]
    whole = Table(
        numeric.astype(np.float32), code[:, None], (len(common) + 1,),
        np.concatenate([np.arange(fields) * _GROUPS // fields, [0]]), code,
        np.array([f != "" for f in family], np.int8), family,
    )  # fmt: skip
    about = "Monday to Wednesday to Thursday and Friday, attempted attacks left out"
    return [Task("CICIDS2017, corrected", about, whole.take(learn), whole.take(test))]


def _blocks(path: Path) -> Iterator[tuple[list[str], list[list[str]]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [h.strip().lower() for h in next(reader, [])]
            missing = [c for c in ("label", "protocol", "flow duration") if c not in header]
            if missing:
                raise CmdanaError(
                    f"{path}: no column {', '.join(missing)}; expected the corrected CICIDS2017, as in monday.csv"
                )
            rows: list[list[str]] = []
            for row in reader:
                if len(row) != len(header):
                    raise CmdanaError(
                        f"{path}: found {len(row)} columns in line {reader.line_num}; expected {len(header)}"
                    )
                rows.append(row)
                if len(rows) == _BLOCK:
                    yield header, rows
                    rows = []
            if rows:
                yield header, rows
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise CmdanaError(f"{path}: cannot be read: {error}") from None


def _numbers(
    path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[NDArray[np.float32], list[str], list[str]]:
    label, protocol = header.index("label"), header.index("protocol")
    fields = [j for j, h in enumerate(header) if h not in _NOT_FIELDS and j != protocol]
    try:
        numbers = np.array([[float(r[j] or 0) for j in fields] for r in rows], np.float32)
    except ValueError as error:
        raise CmdanaError(f"{path}: {error}; expected numbers in all columns but names and times") from None
    return numbers, [r[label].strip() for r in rows], [r[protocol] for r in rows]
