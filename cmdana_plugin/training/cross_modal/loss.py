"""The training loss of one step's events, with the learned memory carried from step to step (truncated BPTT)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cmdana_plugin.detector import (
    CONNECTION,
    MEMORY,
    MODALITIES,
    RING,
    RING_WIDTH,
    Network,
    Past,
    latent_residual,
    segmented_scan,
)
from cmdana_plugin.training.cross_modal.on_device import Resident, room_on, size_of
from cmdana_plugin.training.cross_modal.steps import (
    SHORT,
    Batch,
    FromArrays,
    Lesson,
    Part,
    Source,
    Step,
    moved,
)
from cmdana_plugin.training.recipe import Recipe


class Learner:
    """A network on its device and the steps that it learns by: in bfloat16 where `mixed`, as CUDA does.

    The corpus lies on the device where it takes no more than `room` bytes there, by default half of a GPU's free
    memory; else the rows of each step are moved, of which a warning tells.
    """

    def __init__(
        self,
        network: Network,
        recipe: Recipe,
        device: torch.device,
        mixed: bool | None = None,
        room: int | None = None,
    ) -> None:
        on_gpu = device.type == "cuda"
        self.network = network.to(device)
        self.optimiser = torch.optim.AdamW(
            network.parameters(), lr=recipe.rate, weight_decay=1e-2, fused=True if on_gpu else None
        )
        self._recipe = recipe
        self._device = device
        self._mixed = on_gpu if mixed is None else mixed
        self._room = room
        self._short = torch.from_numpy(SHORT).to(device)
        self._source: tuple[Lesson, Source] | None = None

    def begin(self, lesson: Lesson, chunks: Sequence[NDArray[np.int64]]) -> tuple[Carry, Iterator[Step]]:
        """What is remembered before a pass, nothing, and its steps, each of the rows of a chunk."""
        if self._source is None or self._source[0] is not lesson:
            self._source = None  # two corpora never lie there together
            self._source = lesson, self._source_of(lesson)
        return Carry(lesson.ids, self._device), self._source[1].steps(chunks)

    def _source_of(self, lesson: Lesson) -> Source:
        room = room_on(self._device) if self._room is None else self._room
        size = size_of(lesson)
        if size <= room:
            return Resident(lesson, self._device)
        if self._device.type == "cuda" or self._room is not None:
            warnings.warn(
                f"training: the corpus takes {size >> 20} MiB and {self._device} has room for {room >> 20}; the rows "
                "of each step are copied there, which is slower",
                RuntimeWarning,
                stacklevel=3,
            )
        return FromArrays(lesson, self._device)

    def step(self, step: Step, carry: Carry, rng: np.random.Generator) -> Tensor | None:
        """Learns from one step's events; the loss before, without a gradient."""
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._mixed):
            loss = step_loss(self.network, step, carry, self._recipe, rng, self._short)
        if loss is None:
            return None
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        return loss.detach()


class Carry:
    """What is remembered at the end of the last step, without gradients."""

    def __init__(self, ids: NDArray[np.int64], device: torch.device | None = None) -> None:
        # by entity, those of each kind after the kind's before, as `Clock` has them
        self.memory = torch.zeros(int((ids.max(axis=0) + 1).sum()), MEMORY, device=device)
        self.ring = torch.zeros(
            len(ids), RING_WIDTH, device=device
        )  # what each event wrote in its host's ring


class _Taken(torch.autograd.Function):
    """Rows of which none is taken twice: so their gradients are put back, and need not be added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = x.shape
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (rows,) = ctx.saved_tensors
        (gradient,) = gradients
        return gradient.new_zeros(ctx.shape).index_copy_(0, rows, gradient), None


def _taken(x: Tensor, rows: Tensor | None) -> Tensor:
    """`x[rows]`, where no row stands twice; None: all of `x`."""
    if rows is None:
        return x.view_as(x)  # a place of its own, where gradients are added up before they go on
    out: Tensor = _Taken.apply(x, rows)  # type: ignore[no-untyped-call]
    return out


def read_memory(at: Batch, write: Tensor, value: Tensor, rate: Tensor, memory: Tensor) -> Tensor:
    """Memory before each event, decayed to its time [n, KINDS, MEMORY]; `memory` goes on to the step's end.

    The exact scan over all entities at once: events sorted by entity, then stream order, each kind for itself.
    """
    shape, head = write.shape, at["head"][:, :, None]
    decay = torch.exp(-rate[None] * at["dt"][:, :, None])
    w, v = (_taken(x.flatten(0, 1), at["order"]).view(shape) for x in (write, value))
    start = memory.index_select(0, at["entity"]).view(shape)
    carried = torch.where(head, decay * start, torch.zeros_like(decay))
    keep = torch.where(head, torch.zeros_like(decay), decay * (1.0 - w))
    after = segmented_scan(keep, w * v + carried * (1.0 - w))
    earlier = torch.cat([torch.zeros_like(after[:1]), after[:-1]])
    read = torch.where(head, carried, decay * earlier)
    memory.index_copy_(0, at["ends"], after.detach().flatten(0, 1).index_select(0, at["last"]))
    return _taken(read.flatten(0, 1), at["inverse"]).view(shape)


def step_loss(
    network: Network, step: Step, carry: Carry, recipe: Recipe, rng: np.random.Generator, short: Tensor
) -> Tensor | None:
    """The loss of one step's events, a scalar; None where none of them is to be learned from.

    All lies where the network does; the carry goes on. Under autocast what is remembered stays in single precision.
    `short` is `SHORT`. Every size is known before, so that none is asked of a GPU, which would have to be waited for.
    """
    plan, at = step.plan, step.at
    seen = [
        network.encode(m, *given).float() for (m, _), given in zip(plan.groups, step.encoded, strict=True)
    ]
    latents = torch.cat(seen)
    z = latents.new_zeros(plan.n * MODALITIES, *latents.shape[1:]).index_copy(0, at["encoded"], latents)
    z = z.view(plan.n, MODALITIES, *latents.shape[1:])
    write, value, recent = (x.float() for x in network.memory_update(z, at["present"]))
    memory = read_memory(at, write, value, network.rate(), carry.memory)
    stored = carry.ring.index_select(0, at["back"].flatten()).view(plan.n, RING, RING_WIDTH)
    ring = torch.where(at["near"][:, :, None], recent[at["inside"]], stored) * at["seen"][:, :, None]
    carry.ring.index_copy_(0, at["rows"], recent.detach())
    past = recipe.variant.past(Past(memory, ring, at["used"]), rng)
    # Only benign events are predicted; the others have moved the state, and that was all.
    if not plan.kept:
        return None
    kept, there = at.get("kept"), at["there"]
    past = Past(_taken(past.memory, kept), _taken(past.ring, kept), _taken(past.ring_used, kept))
    z = _taken(z, kept)
    s = network.read_state(step.state, step.known, past)
    # A modality that is late or lost must not surprise: sometimes one of them is taken away as a source.
    hidden = moved(torch.from_numpy(_hidden(plan.several, recipe.dropout, rng)), z.device)
    dropped = there & (torch.arange(MODALITIES, device=z.device) != hidden[:, None])
    gate = network.gate_weights(s, dropped)
    bias = network.gate_bias(gate, dropped)
    sources = z * dropped[:, :, None, None]
    loss = torch.zeros((), device=z.device)
    *wanted, ahead = step.wanted
    for m in range(MODALITIES):
        parts = [
            (p, None if p.rows is None else at[p.rows], asked)
            for p, asked in zip(plan.parts, wanted, strict=True)
            if p.modality == m
        ]
        loss = loss + _prediction_loss(network, m, z, sources, s, bias, parts, short)
    nats, count = _nats(network.look_ahead(s), ahead)
    loss = loss + 0.5 * (nats / count.clamp_min(1))
    if len(at["some"]):
        loss = loss + 0.1 * F.relu(0.5 - _taken(z.flatten(0, 1), at["some"]).std(dim=0, correction=0)).mean()
    loss = loss + 0.1 * _pairs(z, {m: at[f"pair.{m}"] for m in plan.pairs})
    floor = -(gate.clamp_min(1e-9).log() * gate).sum(dim=1)
    return loss + 0.01 * F.relu(0.5 - floor).mean()


def _hidden(several: NDArray[np.bool_], share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Which modality is taken away from each event [kept], -1 none; of those that have several, about a share."""
    lost = (rng.random(len(several)) < share) & several
    return np.where(lost, rng.integers(0, MODALITIES, len(several)), -1)


def _prediction_loss(
    network: Network,
    modality: int,
    z: Tensor,
    sources: Tensor,
    s: Tensor,
    bias: Tensor,
    parts: Sequence[tuple[Part, Tensor | None, tuple[Tensor, Tensor | None]]],
    short: Tensor,
) -> Tensor:
    """How badly one modality was foreseen where it is there: its fields' negative log likelihood, half its residual.

    Of each part with its rows and what it is asked.
    """
    total, far = torch.zeros((2,), device=z.device)
    have = sum(part.size for part, _, _ in parts)
    if not have:
        return total
    count = torch.zeros((), dtype=torch.long, device=z.device)
    for part, rows, asked in parts:
        fields = short if part.short else None
        expected, logits = network(
            modality, _taken(sources, rows), _taken(s, rows), _taken(bias, rows), fields
        )
        far = far + latent_residual(expected, _taken(z[:, modality].detach(), rows)).sum()
        nats, number = _nats(logits, asked)
        total, count = total + nats, count + number
    return total / count.clamp_min(1) + 0.5 * far / have / MODALITIES


def _nats(logits: Tensor, wanted: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor]:
    """The negative log likelihood of all classes that are asked, and their number."""
    classes, places = wanted
    each = F.cross_entropy(_taken(logits.flatten(0, 1), places), classes, ignore_index=-1, reduction="none")
    return each.sum(), (classes >= 0).sum()


def _pairs(z: Tensor, both: dict[int, Tensor]) -> Tensor:
    """InfoNCE: the packets and the connection of one event belong together, and so do logs and connection."""
    loss = torch.zeros((), device=z.device)
    for m, rows in both.items():
        a = F.normalize(_taken(z[:, m], rows).mean(dim=1), dim=1)
        b = F.normalize(_taken(z[:, CONNECTION], rows).mean(dim=1), dim=1)
        loss = loss + F.cross_entropy(a @ b.T / 0.1, torch.arange(len(rows), device=z.device))
    return loss
