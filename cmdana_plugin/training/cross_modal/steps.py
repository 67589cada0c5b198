"""The steps of a pass over the corpus: what the loss of each needs, apart from weights.

A `Plan` is all that follows from the corpus and the order of steps: which rows are encoded together, the events by
entity and the time since each one's last, places in rings, who is asked for what. A `Step` is a plan with what it
names, on the device. Two cut them out of a `Lesson`: `FromArrays`, on the processor, as each is due, and
`on_device.Resident`, where all of it is already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmdana_plugin.detector import (
    CONNECTION,
    LOG,
    MODALITIES,
    PACKET,
    PACKET_LENGTHS,
    RING,
    Prepared,
    encoded_together,
    tokens_of,
)
from cmdana_plugin.training.recording import Corpus
from feature_extractors.compiled import entry
from feature_extractors.features import FIRST_SIZES

# fields that short packet sequences may be asked for, of `targets[PACKET]`
SHORT: Final = np.flatnonzero(np.arange(2 * FIRST_SIZES) % FIRST_SIZES < PACKET_LENGTHS[0])
_MOST_PAIRS: Final = 256  # that are told from each other in one step
_FEWEST_PAIRS: Final = 8

Arrays = dict[str, NDArray[Any]]
Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What is learned from in one epoch; of all `n` events the benign ones are to be foreseen."""

    prepared: Prepared
    ids: NDArray[np.int64]  # [n, KINDS] entities, of each kind from 0
    ts: NDArray[np.float64]  # [n]
    benign: NDArray[np.bool_]  # [n]
    previous: NDArray[np.int64]  # [n, RING] as of `previous_of_entity`


def lesson_of(corpus: Corpus, prepared: Prepared, benign: NDArray[np.bool_]) -> Lesson:
    return Lesson(prepared, corpus.ids, corpus.ts, benign, previous_of_entity(corpus.ids[:, 0]))


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one modality that are asked for the same fields: those of `SHORT`, or all."""

    modality: int
    rows: str | None  # the name of their places among those that are asked; None: all of them
    size: int
    short: bool


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What a step of `n` events, `kept` of them to be foreseen, needs but for weights. See `lay_out` for its arrays."""

    n: int
    kept: int
    groups: tuple[tuple[int, int], ...]  # modality and padded length of what is encoded together
    parts: tuple[Part, ...]
    pairs: tuple[int, ...]  # modalities of which enough stand beside a connection
    several: NDArray[np.bool_]  # [kept] whether it has more than one modality


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A plan, its arrays and what they name of the corpus, on the device."""

    plan: Plan
    at: Batch
    encoded: list[tuple[Tensor, Tensor]]  # of each group, the arguments of `Network.encode`
    state: Tensor  # [kept, F]
    known: Tensor  # [kept, F]
    # Of each part, then of the connection to come: classes, -1 where not asked, and where their logits lie among
    # all, flat; None: in order.
    wanted: list[tuple[Tensor, Tensor | None]]


class Source(Protocol):
    """Where steps come from."""

    def steps(self, chunks: Sequence[NDArray[np.int64]]) -> Iterator[Step]:
        """The steps of one pass, which begins anew; each of the rows of a chunk."""
        ...


class Clock:
    """When each entity was last seen in a pass, by steps; -1 never. Entities of all kinds lie one after the other."""

    def __init__(self, ids: NDArray[np.int64]) -> None:
        sizes = ids.max(axis=0) + 1
        self.before = np.concatenate([[0], np.cumsum(sizes[:-1])])  # entities of the kinds before
        self.at = np.full(int(sizes.sum()), -1.0)
        self.local = np.full(len(ids), -1, np.int64)  # of the events of a step, their places in it


def lay_out(lesson: Lesson, rows: NDArray[np.int64], clock: Clock) -> tuple[Plan, Arrays]:
    """The plan of the step of these rows, with its arrays by name; the clock goes on.

    rows [n], of the corpus; present [n, MODALITIES]; rows.g and encoded [sum of g], of group g rows of the corpus,
    and places of all groups in [n * MODALITIES]; those of `_turns`; inside and back [n, RING], the previous events'
    places in the step and rows, 0 where none, of which near and seen [n, RING] tell, and used [n], how many; kept
    [kept], places, where that is not all; asked [kept], rows; there [kept, MODALITIES]; some [any], flat places of
    what is there; pair.m, places; and of part p of some rows alone part.p, places, and asked.p, rows.
    """
    prepared, n = lesson.prepared, len(rows)
    present = prepared.present[rows]
    clock.local[rows] = np.arange(n)
    arrays: Arrays = {"rows": rows, "present": present}
    groups, places = [], []
    for g, (m, chosen, length) in enumerate(
        encoded_together(prepared.features, [rows[present[:, m]] for m in range(MODALITIES)])
    ):
        groups.append((m, length))
        arrays[f"rows.{g}"] = chosen
        places.append(clock.local[chosen] * MODALITIES + m)
    arrays["encoded"] = np.concatenate(places)
    arrays |= _turns(lesson.ids[rows] + clock.before, lesson.ts[rows], clock.at)
    back = lesson.previous[rows]
    seen = back >= 0
    inside = np.where(seen, clock.local[back], -1)
    arrays |= {
        "inside": np.maximum(inside, 0), "back": np.maximum(back, 0), "near": inside >= 0, "seen": seen,
        "used": seen.sum(axis=1),
    }  # fmt: skip
    clock.local[rows] = -1
    kept = np.flatnonzero(lesson.benign[rows])
    if len(kept) < n:
        arrays["kept"] = kept
    asked, there = rows[kept], present[kept]
    arrays |= {"asked": asked, "there": there, "some": np.flatnonzero(there)}
    pairs = []
    for m in (PACKET, LOG):
        both = np.flatnonzero(there[:, m] & there[:, CONNECTION])[:_MOST_PAIRS]
        if len(both) >= _FEWEST_PAIRS:
            pairs.append(m)
            arrays[f"pair.{m}"] = both
    parts: list[Part] = []
    for m, found, short in _parts(prepared, asked, there):
        name = None if len(found) == len(kept) else f"part.{len(parts)}"
        if name is not None:
            arrays[name], arrays[f"asked.{len(parts)}"] = found, asked[found]
        parts.append(Part(m, name, len(found), short))
    plan = Plan(n, len(kept), tuple(groups), tuple(parts), tuple(pairs), there.sum(axis=1) > 1)
    return plan, arrays


def _parts(
    prepared: Prepared, asked: NDArray[np.int64], there: NDArray[np.bool_]
) -> Iterator[tuple[int, NDArray[np.int64], bool]]:
    """Modality, places of the rows that have it, and whether they are asked for `SHORT` alone.

    Short packet sequences have few fields to ask for, so only those are decoded.
    """
    for m in range(MODALITIES):
        have = np.flatnonzero(there[:, m])
        parts = [(have, False)]
        if m == PACKET:
            start = prepared.features.packet_start
            short = (start[asked[have] + 1] - start[asked[have]]) <= PACKET_LENGTHS[0]
            parts = [(have[short], True), (have[~short], False)]
        yield from ((m, rows, short) for rows, short in parts if len(rows))


def _turns(entities: NDArray[np.int64], ts: NDArray[np.float64], at: NDArray[np.float64]) -> Arrays:
    """The events of a step by entity, then stream order, each kind for itself; `at` goes on to the step's end.

    order [n * KINDS] and its inverse, flat in [n, KINDS]; entity [n * KINDS] in that order; head [n, KINDS], the
    first of its entity; dt [n, KINDS] seconds since the one before; last [any], flat places of each entity's last,
    and ends [any], whose those are.
    """
    n, kinds = entities.shape
    order, back = np.empty((2, n, kinds), np.int64)
    head, dt = np.ones((n, kinds), np.bool_), np.empty((n, kinds), np.float32)
    sorted_entities = np.empty((n, kinds), np.int64)
    last, ends = [], []
    for k in range(kinds):
        turn = np.argsort(entities[:, k], kind="stable")
        entity, when = entities[turn, k], ts[turn]
        first = head[:, k]
        first[1:] = entity[1:] != entity[:-1]
        latest = _latest(when, np.ascontiguousarray(first))
        before = np.concatenate([[0.0], latest[:-1]])
        begun = at[entity[first]]
        before[first] = np.where(begun >= 0, begun, when[first])
        dt[:, k] = np.maximum(when - before, 0.0)
        order[:, k], sorted_entities[:, k] = turn * kinds + k, entity
        back[turn, k] = np.arange(n) * kinds + k
        final = np.flatnonzero(np.append(first[1:], True))
        last.append(final * kinds + k)
        ends.append(entity[final])
        at[entity[final]] = np.maximum(at[entity[final]], latest[final])
    return {
        "order": order.ravel(), "inverse": back.ravel(), "entity": sorted_entities.ravel(), "head": head, "dt": dt,
        "last": np.concatenate(last), "ends": np.concatenate(ends),
    }  # fmt: skip


@entry
def _latest(when: NDArray[np.float64], first: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The greatest time so far within each segment: captures may jump back."""
    out = when.copy()
    for i in range(1, len(when)):
        if not first[i] and out[i - 1] > out[i]:
            out[i] = out[i - 1]
    return out


@entry
def previous_of_entity(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of the last `RING` events of the same entity, oldest first, -1 none: [n, RING]."""
    last = np.full((ids.max() + 1, RING), -1, np.int64)
    out = np.full((len(ids), RING), -1, np.int64)
    for i in range(len(ids)):
        row = last[ids[i]]
        have = 0
        for k in range(RING):
            if row[k] >= 0:
                out[i, have] = row[k]
                have += 1
        for k in range(RING - 1):
            row[k] = row[k + 1]
        row[RING - 1] = i
    return out


class FromArrays:
    """Steps whose rows are cut from arrays of the processor and moved to the device as each is due."""

    def __init__(self, lesson: Lesson, device: torch.device) -> None:
        self._lesson = lesson
        self._device = device

    def steps(self, chunks: Sequence[NDArray[np.int64]]) -> Iterator[Step]:
        clock = Clock(self._lesson.ids)
        for rows in chunks:
            plan, arrays = lay_out(self._lesson, rows, clock)
            yield self._step(plan, arrays)

    def _step(self, plan: Plan, arrays: Arrays) -> Step:
        prepared, device = self._lesson.prepared, self._device
        encoded = []
        for g, (m, length) in enumerate(plan.groups):
            chosen = arrays[f"rows.{g}"]
            tokens, other = tokens_of(prepared, m, chosen, length, len(chosen))
            encoded.append((moved(tokens, device), moved(other, device)))
        wanted: list[tuple[Tensor, Tensor | None]] = []
        asked = arrays["asked"]
        for p, part in enumerate(plan.parts):
            targets = prepared.targets[part.modality][asked if part.rows is None else arrays[f"asked.{p}"]]
            wanted.append(self._wanted(targets[:, SHORT] if part.short else targets))
        wanted.append(self._wanted(prepared.targets[CONNECTION][asked]))
        return Step(
            plan,
            {name: moved(torch.from_numpy(x), device) for name, x in arrays.items()},
            encoded,
            moved(torch.from_numpy(prepared.state[asked]), device),
            moved(torch.from_numpy(prepared.known[asked]), device),
            wanted,
        )

    def _wanted(self, targets: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        flat = targets.ravel()
        places = np.flatnonzero(flat >= 0)
        return moved(torch.from_numpy(flat[places]), self._device), moved(
            torch.from_numpy(places), self._device
        )


def moved(x: Tensor, device: torch.device) -> Tensor:
    """A tensor of the processor on the device; a GPU takes it when it comes to it, from memory that stays in place."""
    if device.type != "cuda":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)
