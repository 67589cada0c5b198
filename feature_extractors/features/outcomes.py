"""How what was asked for ended: accepted or refused, as each connection's log entries tell it (`Schema.outcomes`)."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_extractors.features.schema import Outcome, Values
from feature_extractors.observations import MAX_LOG_ENTRIES, LogValue, Windows

_MOST_ATTEMPTS: Final = 1_000_000  # that one entry may count
_REPLY: Final = re.compile(r"(\d{3})(?:[ -]|$)", re.ASCII)


class _Kind(NamedTuple):
    """An outcome as it is looked up."""

    number: int
    field: str
    ends: Mapping[LogValue, int]  # 1 accepted, -1 refused
    usual: type  # of the field's values, which need no second look
    replies: bool  # a text of the field begins with a number
    conditions: tuple[tuple[str, Values, bool], ...]  # a field, values, and whether it must have one of them
    times: str


class Ends(NamedTuple):
    """Of n connections: how often what was asked for ended how, of the kind that they tell most of."""

    accepted: NDArray[np.int32]  # [n]
    refused: NDArray[np.int32]  # [n]
    told_by: NDArray[np.int8]  # [n] 1 + the kind's index in `Schema.outcomes`, 0 where none tells


def ends_of(windows: Windows, outcomes: tuple[Outcome, ...]) -> Ends:
    """What the windows' log entries tell of one kind each: that with most refusals, else most acceptances.

    So the numbers and the kind's words belong together. The kind that the schema names first wins where several tell
    as much. No entry counts for more than one kind, and of a connection its first `MAX_LOG_ENTRIES` count.
    """
    streams = _by_stream(outcomes)
    found: list[int] = []  # entry, kind, accepted and refused, one after the other
    for i, entry in enumerate(windows.logs):
        for kind in streams.get(entry.stream, ()):
            value = entry.fields.get(kind.field)
            if value is None:
                continue
            # Most values are words as they stand in the table, or numbers.
            end = kind.ends.get(value, 0) if type(value) is kind.usual else _end(kind, value)
            if end and (not kind.conditions or _holds(kind, entry.fields)):
                accepted, refused = (1, 0) if end > 0 else (0, 1)
                if kind.times:
                    refused = max(refused, _attempts(entry.fields.get(kind.times)) - accepted)
                found += (i, kind.number, accepted, refused)
                break
    return _summed(found, windows.log_start, len(outcomes))


def _end(kind: _Kind, value: LogValue) -> int:
    if type(value) is list:
        value = value[0] if value else None
    if type(value) is str:
        if kind.replies and (number := _REPLY.match(value)):
            return kind.ends.get(int(number[1]), 0)
        return kind.ends.get(value, 0)
    return kind.ends.get(value, 0) if type(value) in (bool, int, float) else 0


def _holds(kind: _Kind, fields: Mapping[str, LogValue]) -> bool:
    for name, values, there in kind.conditions:
        value = fields.get(name)
        if type(value) is list:
            value = value[0] if value else None
        known = type(value) in (bool, int, float, str) and value in values
        if known != there:
            return False
    return True


def _attempts(value: LogValue) -> int:
    if type(value) is int or (type(value) is float and value == value):
        return int(min(max(value, 0), _MOST_ATTEMPTS))
    return 0


def _summed(found: list[int], start: NDArray[np.int64], kinds: int) -> Ends:
    n = len(start) - 1
    ends = Ends(np.zeros(n, np.int32), np.zeros(n, np.int32), np.zeros(n, np.int8))
    if not found:
        return ends
    entry, kind, accepted, refused = np.array(found, np.int64).reshape(-1, 4).T
    row = np.searchsorted(start, entry, side="right") - 1
    kept = entry - start[row] < MAX_LOG_ENTRIES
    kind, row, accepted, refused = kind[kept], row[kept], accepted[kept], refused[kept]
    told, which = np.unique(row * kinds + kind, return_inverse=True)
    sums = np.stack([np.bincount(which, accepted), np.bincount(which, refused)]).astype(np.int64)
    rows, kind = np.divmod(told, kinds)
    # The last one written of each row stays: most refusals, then most acceptances, then the first kind.
    best = np.lexsort((-kind, sums[0], sums[1]))
    ends.accepted[rows[best]], ends.refused[rows[best]] = sums[:, best]
    ends.told_by[rows[best]] = kind[best] + 1
    return ends


@functools.lru_cache(maxsize=8)
def _by_stream(outcomes: tuple[Outcome, ...]) -> dict[str, list[_Kind]]:
    streams: dict[str, list[_Kind]] = {}
    for number, o in enumerate(outcomes):
        ends: dict[LogValue, int] = {**dict.fromkeys(o.accepted, 1), **dict.fromkeys(o.refused, -1)}
        conditions = (*((f, v, True) for f, v in o.when), *((f, v, False) for f, v in o.unless))
        replies = all(type(value) is int for value in ends)
        usual = int if replies else str
        streams.setdefault(o.stream, []).append(
            _Kind(number, o.field, ends, usual, replies, conditions, o.times)
        )
    return streams
