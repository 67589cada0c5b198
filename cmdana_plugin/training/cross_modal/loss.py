"""The training loss of one step's events, with the learned memory carried from step to step (truncated BPTT)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cmdana_plugin.detector import (
    CONNECTION,
    KINDS,
    LOG,
    MEMORY,
    MODALITIES,
    PACKET,
    PACKET_LENGTHS,
    RING,
    RING_WIDTH,
    Network,
    Past,
    Prepared,
    encoded_together,
    latent_residual,
    segmented_scan,
    tokens_of,
)
from cmdana_plugin.training.recipe import Recipe
from cmdana_plugin.training.recording import Corpus
from feature_extractors.compiled import entry
from feature_extractors.features import (
    FIRST_SIZES,
)


def _on(device: torch.device, x: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(x).to(device)


class Learner:
    """A network on its device and the steps that it learns by: in bfloat16 where `mixed`, as CUDA does."""

    def __init__(
        self, network: Network, recipe: Recipe, device: torch.device, mixed: bool | None = None
    ) -> None:
        on_gpu = device.type == "cuda"
        self.network = network.to(device)
        self.optimiser = torch.optim.AdamW(
            network.parameters(), lr=recipe.rate, weight_decay=1e-2, fused=True if on_gpu else None
        )
        self._recipe = recipe
        self._device = device
        self._mixed = on_gpu if mixed is None else mixed

    def begin(self, corpus: Corpus) -> tuple[Carry, Tensor]:
        """What is remembered before a pass: nothing. As `carry` and `ring_store` of `step_loss`."""
        return Carry(corpus.ids, self._device), torch.zeros(len(corpus), RING_WIDTH, device=self._device)

    def step(
        self,
        prepared: Prepared,
        corpus: Corpus,
        rows: NDArray[np.int64],
        benign: NDArray[np.bool_],
        previous: NDArray[np.int64],
        past: tuple[Carry, Tensor],
        rng: np.random.Generator,
    ) -> Tensor | None:
        """Learns from one step's events; the loss before, without a gradient."""
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._mixed):
            loss = step_loss(self.network, prepared, corpus, rows, benign, previous, *past, self._recipe, rng)
        if loss is None:
            return None
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        return loss.detach()


class Carry:
    """The learned memory by entity at the end of the last step, without gradients."""

    def __init__(self, ids: NDArray[np.int64], device: torch.device | None = None) -> None:
        sizes = ids.max(axis=0) + 1
        self.memory = [torch.zeros(int(n), MEMORY, device=device) for n in sizes]
        self.at = [np.full(int(n), -1.0) for n in sizes]


def _read_memory(
    ids: NDArray[np.int64],
    ts: NDArray[np.float64],
    write: Tensor,
    value: Tensor,
    rate: Tensor,
    carry: tuple[Tensor, NDArray[np.float64]] | None,
) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
    """Memory before each event, decayed to its time [n, MEMORY]; after each; and the order by entity.

    The exact scan over all entities at once: events sorted by entity, then stream order.
    """
    device = write.device
    order = np.argsort(ids, kind="stable")
    entity, when = ids[order], ts[order]
    first = np.ones(len(ids), np.bool_)
    first[1:] = entity[1:] != entity[:-1]
    before = np.concatenate([[0.0], _latest(when, first)[:-1]])
    if carry is None:
        start, begun = torch.zeros(len(ids), write.shape[1], device=device), np.zeros(len(ids), np.bool_)
        before[first] = when[first]
    else:
        memory, at = carry
        begun = first & (at[entity] >= 0)
        before[first] = np.where(at[entity[first]] >= 0, at[entity[first]], when[first])
        start = memory[_on(device, entity)] * _on(device, begun)[:, None]
    dt = _on(device, np.maximum(when - before, 0.0).astype(np.float32))
    decay = torch.exp(-rate[None] * dt[:, None])
    index = _on(device, order)
    w, v = write[index], value[index]
    head = _on(device, first)[:, None]
    carried = torch.where(head, decay * start, torch.zeros_like(decay))
    keep = torch.where(head, torch.zeros_like(decay), decay * (1.0 - w))
    after = segmented_scan(keep, w * v + carried * (1.0 - w))
    earlier = torch.cat([torch.zeros_like(after[:1]), after[:-1]])
    read = torch.where(head, carried, decay * earlier)
    back = torch.empty_like(index)
    back[index] = torch.arange(len(index), device=device)
    return read[back], after, order


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


def step_loss(
    network: Network,
    prepared: Prepared,
    corpus: Corpus,
    rows: NDArray[np.int64],
    benign: NDArray[np.bool_],
    previous: NDArray[np.int64],
    carry: Carry,
    ring_store: Tensor,
    recipe: Recipe,
    rng: np.random.Generator,
) -> Tensor | None:
    """The loss of one step's events, a scalar; None where none of them is to be learned from.

    Where the network is: there `carry` and `ring_store` [events, RING_WIDTH], what each wrote in its host's ring, lie
    as well, and are updated. Under autocast what is remembered stays in single precision.
    """
    device = network.log_half_life.device
    present = prepared.present[rows].copy()
    z = torch.zeros(len(rows), MODALITIES, network.shape.latents, network.shape.width, device=device)
    local = np.full(len(corpus), -1, np.int64)
    local[rows] = np.arange(len(rows))
    for m, chosen, length in encoded_together(
        prepared.features, [rows[present[:, m]] for m in range(MODALITIES)]
    ):
        tokens, other = tokens_of(prepared, m, chosen, length, len(chosen))
        seen = network.encode(m, tokens.to(device), other.to(device)).float()
        z = z.index_put((_on(device, local[chosen]), torch.tensor(m, device=device)), seen)
    there = _on(device, present)
    z = z * there[:, :, None, None]
    write, value, recent = (x.float() for x in network.memory_update(z, there))
    rate = network.rate()
    memory = []
    for k in range(KINDS):
        ids = corpus.ids[rows, k]
        read, after, order = _read_memory(
            ids, corpus.ts[rows], write[:, k], value[:, k], rate[k], (carry.memory[k], carry.at[k])
        )
        memory.append(read)
        entity = ids[order]
        last = np.flatnonzero(np.append(entity[1:] != entity[:-1], True))
        carry.memory[k][_on(device, entity[last])] = after[_on(device, last)].detach()
        np.maximum.at(carry.at[k], ids, corpus.ts[rows])
    back = previous[rows]
    inside = _on(device, np.where(back >= 0, local[back], -1))
    stored = ring_store[_on(device, np.maximum(back, 0))]
    ring = torch.where((inside >= 0)[:, :, None], recent[inside.clamp_min(0)], stored)
    ring = ring * _on(device, back >= 0)[:, :, None]
    ring_store[_on(device, rows)] = recent.detach()
    past = Past(torch.stack(memory, dim=1), ring, _on(device, (back >= 0).sum(axis=1)))
    past = recipe.variant.past(past, rng)
    # Only benign events are predicted; the others have moved the state, and that was all.
    kept = np.flatnonzero(benign[rows])
    if not len(kept):
        return None
    index = _on(device, kept)
    past = Past(past.memory[index], past.ring[index], past.ring_used[index])
    z, there, asked = z[index], there[index], rows[kept]
    s = network.read_state(_on(device, prepared.state[asked]), _on(device, prepared.known[asked]), past)
    # A modality that is late or lost must not surprise: sometimes one of them is taken away as a source.
    dropped = there.clone()
    lost = _on(device, rng.random(len(kept)) < recipe.dropout) & (there.sum(dim=1) > 1)
    which = _on(device, rng.integers(0, MODALITIES, len(kept)))
    dropped[lost, which[lost]] = False
    gate = network.gate_weights(s, dropped)
    bias = network.gate_bias(gate, dropped)
    sources = z * dropped[:, :, None, None]
    loss = torch.zeros((), device=device)
    for m in range(MODALITIES):
        loss = loss + _prediction_loss(network, m, z, sources, s, bias, prepared, asked, there[:, m])
    loss = loss + 0.5 * F.cross_entropy(*_asked(network.look_ahead(s), prepared.targets[CONNECTION][asked]))
    if there.any():
        loss = loss + 0.1 * F.relu(0.5 - z[there].std(dim=0, correction=0)).mean()
    loss = loss + 0.1 * _pairs(z, there)
    floor = -(gate.clamp_min(1e-9).log() * gate).sum(dim=1)
    return loss + 0.01 * F.relu(0.5 - floor).mean()


def _prediction_loss(
    network: Network,
    modality: int,
    z: Tensor,
    sources: Tensor,
    s: Tensor,
    bias: Tensor,
    prepared: Prepared,
    asked: NDArray[np.int64],
    there: Tensor,
) -> Tensor:
    """How badly one modality was foreseen where it is there: its fields' negative log likelihood, half its residual.

    Short packet sequences have few fields to ask for, so only those are decoded.
    """
    device = z.device
    have = np.flatnonzero(there.cpu().numpy())
    if not len(have):
        return torch.zeros((), device=device)
    targets = prepared.targets[modality]
    parts: list[tuple[NDArray[np.int64], Tensor | None]] = [(have, None)]
    if modality == PACKET:
        start = prepared.features.packet_start
        short = (start[asked[have] + 1] - start[asked[have]]) <= PACKET_LENGTHS[0]
        first = np.flatnonzero(np.arange(targets.shape[1]) % FIRST_SIZES < PACKET_LENGTHS[0])
        parts = [(have[short], _on(device, first)), (have[~short], None)]
    total, count, far = torch.zeros((), device=device), 0, torch.zeros((), device=device)
    for rows, fields in parts:
        if not len(rows):
            continue
        index = _on(device, rows)
        expected, field_logits = network(modality, sources[index], s[index], bias[index], fields)
        far = far + latent_residual(expected, z[index, modality]).sum()
        wanted = targets[asked[rows]] if fields is None else targets[asked[rows]][:, fields.cpu().numpy()]
        logits, classes = _asked(field_logits, wanted)
        total, count = total + F.cross_entropy(logits, classes, reduction="sum"), count + len(classes)
    return total / max(count, 1) + 0.5 * far / len(have) / MODALITIES


def _asked(logits: Tensor, targets: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    wanted = _on(logits.device, targets)
    asked = wanted >= 0
    return logits[asked], wanted[asked]


def _pairs(z: Tensor, there: Tensor) -> Tensor:
    """InfoNCE: the packets and the connection of one event belong together, and so do logs and connection."""
    loss = torch.zeros((), device=z.device)
    for m in (PACKET, LOG):
        rows = torch.nonzero(there[:, m] & there[:, CONNECTION])[:256, 0]
        if len(rows) < 8:
            continue
        a = F.normalize(z[rows, m].mean(dim=1), dim=1)
        b = F.normalize(z[rows, CONNECTION].mean(dim=1), dim=1)
        loss = loss + F.cross_entropy(a @ b.T / 0.1, torch.arange(len(rows), device=z.device))
    return loss
