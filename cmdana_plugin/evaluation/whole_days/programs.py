"""What programs that run elsewhere said of a day, from files beside its recording: theirs is a row of every table.

`alarms-NAME.csv` has the columns ts and host, and role, score, uid and key where they are known; `notice-NAME.log` is a
notice.log of Zeek's, of which each note about a host is an alarm. A day without the file is one of which the program
said nothing.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.evaluation.whole_days.alarms import Alarm, Truth
from cmdana_plugin.logs import number, read_rows, text
from feature_extractors import CmdanaError
from feature_extractors.readers import PassedOver

_MOST: Final = 32  # thresholds of a program's curve
_SPAN: Final = 3600.0  # seconds before an alarm whose connections it rests on, where it names none
_CSV: Final = "alarms-*.csv"
_LOG: Final = "notice-*.log"


def programs_of(folders: Iterable[Path]) -> dict[str, list[float]]:
    """By name of what there are files of in these folders, the scores that are in them: falling, different, few."""
    scores: dict[str, set[float]] = defaultdict(set)
    for folder in folders:
        for name, said in _said(folder):
            scores[name] |= {score for _, _, _, score, _, _ in said}
    return {name: _few(found) for name, found in scores.items()}


def said_of(folder: Path, truth: Truth, uid: NDArray[np.bytes_], shift: float) -> dict[str, list[Alarm]]:
    """The alarms by name; `shift` seconds are added to their times. Raises `CmdanaError`."""
    row_of = {u.decode(): i for i, u in enumerate(uid.tolist())}
    out: dict[str, list[Alarm]] = {}
    for name, said in _said(folder):
        out[name] = []
        for ts, host, role, score, uids, key in said:
            rows = np.array([row_of[u] for u in uids if u in row_of], np.int64)
            if not len(rows):
                rows = _before(truth, host, role, ts + shift)
            out[name].append(Alarm(ts + shift, host, role, score, rows, key))
    return out


_Said = tuple[float, str, str, float, list[str], str]  # ts, host, role, score, uids, key


def _said(folder: Path) -> Iterator[tuple[str, list[_Said]]]:
    for path in sorted(folder.glob(_CSV)):
        yield path.stem.removeprefix("alarms-"), list(_lines(path))
    for path in sorted(folder.glob(_LOG)):
        yield path.stem.removeprefix("notice-"), list(_notices(path))


def _lines(path: Path) -> Iterator[_Said]:
    with path.open(encoding="utf-8", newline="") as file:
        for at, row in enumerate(csv.DictReader(file), 2):
            try:
                yield (
                    float(row["ts"]), row["host"], row.get("role") or "originator", float(row.get("score") or 1.0),
                    (row.get("uid") or "").split(), row.get("key") or "",
                )  # fmt: skip
            except (KeyError, TypeError, ValueError) as error:
                raise CmdanaError(
                    f"{path}:{at}: {error}; expected the columns ts and host, and role, score, uid, key if known"
                ) from None


def _notices(path: Path) -> Iterator[_Said]:
    for row in read_rows(path, "notice", PassedOver()):
        host = text(row, "src") or text(row, "id.orig_h")
        if host:
            uid, note = text(row, "uid"), text(row, "note")
            yield number(row, "ts"), host, "originator", 1.0, [uid] if uid else [], f"{note}|{host}"


def _few(scores: Iterable[float]) -> list[float]:
    falling = sorted(scores, reverse=True) or [1.0]
    if len(falling) <= _MOST:
        return falling
    return [falling[k * (len(falling) - 1) // (_MOST - 1)] for k in range(_MOST)]


def _before(truth: Truth, host: str, role: str, ts: float) -> NDArray[np.int64]:
    """A host's connections in a role that ended in the time before."""
    side = truth.resp if role == "responder" else truth.orig
    return np.flatnonzero((side == host) & (truth.end <= ts + 1e-6) & (truth.end > ts - _SPAN) & truth.final)
