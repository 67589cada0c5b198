"""The corpus of a training where the network learns: moved to the device once, and steps gathered there by row.

Per step nothing is copied there. What follows from the order of steps alone is laid out for a whole pass on the
processor, goes over in one piece for each type of number, and is kept as long as passes take the same steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmdana_plugin.detector import CONNECTION, MODALITIES, PACKET
from cmdana_plugin.training.cross_modal.steps import (
    SHORT,
    Arrays,
    Batch,
    Clock,
    Lesson,
    Plan,
    Step,
    lay_out,
)

_SHARE: Final = 0.5  # of a GPU's free memory that the corpus may take; network and steps need far less
_PLAN_BYTES: Final = 640  # of an event in the plan of a pass, at most

# what is kept in fewer bytes than the processor computes in: codes of one table, classes below 128
_NARROW: Final = {"codes": torch.int32} | {f"targets{m}": torch.int8 for m in range(MODALITIES)}


class Resident:
    """Steps whose rows are gathered on the device."""

    def __init__(self, lesson: Lesson, device: torch.device) -> None:
        self._lesson = lesson
        self._device = device
        self._columns = {
            name: torch.from_numpy(x).to(dtype=_NARROW.get(name)).to(device)
            for name, x in _columns(lesson).items()
        }
        self._short = torch.from_numpy(SHORT).to(device)
        self._laid_out: tuple[list[NDArray[np.int64]], list[tuple[Plan, Batch]]] = [], []

    def steps(self, chunks: Sequence[NDArray[np.int64]]) -> Iterator[Step]:
        return (self._step(plan, at) for plan, at in self._plans(chunks))

    def _plans(self, chunks: Sequence[NDArray[np.int64]]) -> list[tuple[Plan, Batch]]:
        before, plans = self._laid_out
        if len(before) != len(chunks) or not all(map(np.array_equal, before, chunks)):
            del plans
            self._laid_out = [], []  # two passes' never lie there together
            clock = Clock(self._lesson.ids)
            laid_out = [lay_out(self._lesson, rows, clock) for rows in chunks]
            there = together([arrays for _, arrays in laid_out], self._device)
            plans = [(plan, at) for (plan, _), at in zip(laid_out, there, strict=True)]
            self._laid_out = list(chunks), plans
        return plans

    def _step(self, plan: Plan, at: Batch) -> Step:
        columns = self._columns
        asked = at["asked"]
        wanted: list[tuple[Tensor, Tensor | None]] = []
        for p, part in enumerate(plan.parts):
            rows = asked if part.rows is None else at[f"asked.{p}"]
            wanted.append((self._wanted(part.modality, rows, part.short), None))
        wanted.append((self._wanted(CONNECTION, asked, False), None))
        return Step(
            plan,
            at,
            [self._encoded(m, at[f"rows.{g}"], length) for g, (m, length) in enumerate(plan.groups)],
            columns["state"].index_select(0, asked),
            columns["known"].index_select(0, asked),
            wanted,
        )

    def _encoded(self, modality: int, rows: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """As `tokens_of`."""
        columns = self._columns
        if modality == CONNECTION:
            return columns["codes"].index_select(0, rows), columns["values"].index_select(0, rows)
        name = "packet" if modality == PACKET else "log"
        begin = columns[f"{name}_start"].index_select(0, rows)[:, None]
        end = columns[f"{name}_start"].index_select(0, rows + 1)[:, None]
        place = begin + torch.arange(length, device=self._device)
        mask, tokens = place < end, columns[f"{name}_tokens"]
        found = tokens.index_select(0, place.clamp_max(len(tokens) - 1).flatten())
        found = found.view(len(rows), length, -1).masked_fill(~mask[:, :, None], 0)
        return found if modality == PACKET else found.int(), mask

    def _wanted(self, modality: int, rows: Tensor, short: bool) -> Tensor:
        found = self._columns[f"targets{modality}"].index_select(0, rows)
        return (found.index_select(1, self._short) if short else found).flatten().long()


def room_on(device: torch.device) -> int:
    """The bytes that a corpus may take there; of the processor, where it lies anyway, none."""
    return int(torch.cuda.mem_get_info(device)[0] * _SHARE) if device.type == "cuda" else 0


def size_of(lesson: Lesson) -> int:
    """The bytes of a corpus on the device, with the plan of a pass."""
    held = sum(
        x.size * (_NARROW[name].itemsize if name in _NARROW else x.itemsize)
        for name, x in _columns(lesson).items()
    )
    return held + len(lesson.ts) * _PLAN_BYTES


def together(parts: Sequence[Arrays], device: torch.device) -> list[Batch]:
    """The arrays of all parts on the device, moved as one for each type of number: views of that."""
    out: list[Batch] = [{} for _ in parts]
    where: dict[np.dtype[Any], list[tuple[int, str, NDArray[Any]]]] = {}
    for i, arrays in enumerate(parts):
        for name, x in arrays.items():
            where.setdefault(x.dtype, []).append((i, name, x))
    for found in where.values():
        whole = torch.from_numpy(np.concatenate([x.ravel() for _, _, x in found])).to(device)
        pieces = whole.split([math.prod(x.shape) for _, _, x in found])
        for (i, name, x), piece in zip(found, pieces, strict=True):
            out[i][name] = piece.view(x.shape)
    return out


def _columns(lesson: Lesson) -> Arrays:
    prepared, f = lesson.prepared, lesson.prepared.features
    columns: Arrays = {
        "codes": prepared.codes, "values": prepared.values, "state": prepared.state, "known": prepared.known,
        "packet_tokens": f.packets, "packet_start": f.packet_start, "log_tokens": f.log_tokens,
        "log_start": f.log_start,
    }  # fmt: skip
    return columns | {f"targets{m}": x for m, x in enumerate(prepared.targets)}
