"""How what was asked for ended: accepted or refused, as each connection's log entries tell it (`Schema.outcomes`)."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_extractors.features.by_stream import Entries
from feature_extractors.features.schema import Outcome, Values
from feature_extractors.observations import MAX_LOG_ENTRIES, LogValue

_MOST_ATTEMPTS: Final = 1_000_000  # that one entry may count
_REPLY: Final = re.compile(r"(\d{3})(?:[ -]|$)", re.ASCII)


class _Question(NamedTuple):
    """What is asked of a stream's entries: one field, for one outcome or several that hang on nothing else."""

    field: str
    ends: Mapping[
        LogValue, int
    ]  # of the field's values: 1 + an outcome's index where accepted, below 0 where refused
    usual: type  # of values that need no second look
    replies: bool  # a text of the field begins with a number
    conditions: tuple[tuple[str, Values, bool], ...]  # a field, values, and whether it must have one of them
    times: str


class Ends(NamedTuple):
    """Of n connections: how often what was asked for ended how, of the kind that they tell most of."""

    accepted: NDArray[np.int32]  # [n]
    refused: NDArray[np.int32]  # [n]
    told_by: NDArray[np.int8]  # [n] 1 + the kind's index in `Schema.outcomes`, 0 where none tells


def ends_of(entries: Mapping[str, Entries], start: NDArray[np.int64], outcomes: tuple[Outcome, ...]) -> Ends:
    """What the log entries tell of one kind each: that with most refusals, else most acceptances.

    So the numbers and the kind's words belong together. The kind that the schema names first wins where several tell
    as much. No entry counts for more than one kind, and of a connection its first `MAX_LOG_ENTRIES` count.
    """
    found: list[tuple[NDArray[np.int64], ...]] = []  # entries, their kinds, accepted and refused
    for stream, questions in _by_stream(outcomes).items():
        if stream not in entries:
            continue
        at, fields = entries[stream]
        code = np.zeros(len(at), np.int64)
        times = np.ones(len(at), np.int64)
        for question in questions:
            told = _told(question, fields)
            if question.times:
                for i in np.flatnonzero(told).tolist():
                    times[i] = max(1, _attempts(fields[i].get(question.times)))
            code = np.where(code == 0, told, code)
        tells = np.flatnonzero(code)
        accepted = (code[tells] > 0).astype(np.int64)
        found.append((at[tells], np.abs(code[tells]) - 1, accepted, times[tells] - accepted))
    return _summed(found, start, len(outcomes))


def _told(question: _Question, fields: list[Mapping[str, LogValue]]) -> NDArray[np.int64]:
    field, ends, usual = question.field, question.ends, question.usual
    told = np.array(
        [
            ends.get(value, 0) if type(value := one.get(field)) is usual else _end(question, value)
            for one in fields
        ],
        np.int64,
    )
    if question.conditions:
        refused = [i for i in np.flatnonzero(told).tolist() if not _holds(question, fields[i])]
        told[refused] = 0
    return told


def _end(question: _Question, value: LogValue) -> int:
    if type(value) is list:
        value = value[0] if value else None
    if type(value) is str and question.replies and (number := _REPLY.match(value)):
        value = int(number[1])
    return question.ends.get(value, 0) if type(value) in (bool, int, float, str) else 0


def _holds(question: _Question, fields: Mapping[str, LogValue]) -> bool:
    for name, values, there in question.conditions:
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


def _summed(found: list[tuple[NDArray[np.int64], ...]], start: NDArray[np.int64], kinds: int) -> Ends:
    n = len(start) - 1
    ends = Ends(np.zeros(n, np.int32), np.zeros(n, np.int32), np.zeros(n, np.int8))
    if not found:
        return ends
    entry, kind, accepted, refused = map(np.concatenate, zip(*found, strict=True))
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
def _by_stream(outcomes: tuple[Outcome, ...]) -> dict[str, list[_Question]]:
    streams: dict[str, list[_Question]] = {}
    for number, o in enumerate(outcomes, 1):
        ends: dict[LogValue, int] = {**dict.fromkeys(o.accepted, number), **dict.fromkeys(o.refused, -number)}
        conditions = (*((f, v, True) for f, v in o.when), *((f, v, False) for f, v in o.unless))
        replies = all(type(value) is int for value in ends)
        usual = int if replies else str
        questions = streams.setdefault(o.stream, [])
        asked = _Question(o.field, ends, usual, replies, conditions, o.times)
        before = questions[-1] if questions else asked
        if before is not asked and before._replace(ends=ends) == asked and not conditions:
            questions[-1] = before._replace(ends={**ends, **before.ends})
        else:
            questions.append(asked)
    return streams
