"""The networks over a connection's fields: what they learn without labels, and with them, and how long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cmdana_plugin.detector import (
    CLASSES,
    CONNECTION,
    LOG,
    OTHER,
    PACKET,
    FieldNetwork,
    Prepared,
    batch_of,
    drawn,
    energy,
    head_loss,
)
from cmdana_plugin.training.cross_modal.steps import previous_of_entity
from cmdana_plugin.training.recipe import Recipe
from cmdana_plugin.training.recording import Corpus, balance

_EVENTS: Final = 120_000  # that a network learns from, repeats included, unless told how many passes
_ROWS: Final = 256  # of one step
_LEAST, _MOST = 0.03, 0.4  # share of a connection's fields that are another's
_KNOWN: Final = 0.01  # share of the known attacks whose energy is below the least
_SMALLEST: Final = 1e-4  # share that an unseen class of a field counts as


def fit_fields(
    network: FieldNetwork,
    prepared: Prepared,
    corpus: Corpus,
    benign: NDArray[np.bool_],
    kind: NDArray[np.int64],
    recipe: Recipe,
    progress: Callable[[str, float], None],
) -> NDArray[np.float32]:
    """Trains the network; what it makes of benign rows [rows, width], 20,000 at most.

    Without labels it learns to tell connections from such in which fields, a whole modality or the past are another
    connection's (Clark et al. 2020 for tokens). `kind` [n] is the class of rows that teach the head: 0 benign, 1
    malicious, `OTHER` and above a named kind, -1 none; all -1: no head.
    """
    rng = np.random.default_rng(recipe.seed)
    previous = previous_of_entity(corpus.ids[:, 0])
    normal, taught = np.flatnonzero(benign), np.flatnonzero(kind >= 0)
    labelled = bool((kind[taught] > 0).any()) if len(taught) else False
    weight = balance(corpus, kind >= 0)[taught] if labelled else np.ones(0)
    weight = weight / weight.mean() if labelled else weight
    share = np.bincount(kind[taught], minlength=OTHER + network.kinds) / max(len(taught), 1)
    prior = torch.from_numpy(share.astype(np.float32))
    epochs = recipe.epochs or max(_EVENTS // len(normal), 1)
    steps = max(min(epochs * len(normal), 2 * _EVENTS) // _ROWS, 20)
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, total_steps=steps, pct_start=0.15)
    network.train()
    for step in range(steps):
        rows = normal[rng.integers(0, len(normal), _ROWS)]
        loss = _exchanged(network, prepared, rows, previous, rng)
        if labelled:
            chosen = drawn(weight, _ROWS, recipe.balancing, rng)
            told = network(
                batch_of(prepared, taught[chosen], *_past(network, prepared, taught[chosen], previous))
            )
            truth = torch.from_numpy(kind[taught[chosen]])
            loss = loss + head_loss(
                told.kinds,
                truth,
                torch.from_numpy(weight[chosen].astype(np.float32)),
                prior,
                recipe.balancing,
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        progress("network", (step + 1) / steps)
    network.eval()
    _say_what_is_usual(network, prepared, normal)
    some = rng.permutation(normal)[:20_000]
    fused, _ = _seen(network, prepared, some, previous)
    named = taught[kind[taught] >= OTHER]
    if len(named):
        _, logits = _seen(network, prepared, rng.permutation(named)[:5_000], previous)
        network.least_energy[:] = torch.quantile(energy(torch.from_numpy(logits)), _KNOWN)
    return fused


def _past(
    network: FieldNetwork, prepared: Prepared, rows: NDArray[np.int64], previous: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """The summaries of each row's host's last connections, through which gradients flow, and how many there are."""
    before = previous[rows]
    used = (before >= 0).sum(axis=1)
    unique, at = np.unique(np.maximum(before, 0), return_inverse=True)
    own = network.summary(
        torch.from_numpy(prepared.codes[unique]), torch.from_numpy(prepared.values[unique]),
        torch.from_numpy(prepared.state[unique]), torch.from_numpy(prepared.known[unique]),
    )  # fmt: skip
    ring = own[torch.from_numpy(at.reshape(before.shape))]
    return ring * torch.from_numpy(before >= 0)[..., None], torch.from_numpy(used)


def _exchanged(
    network: FieldNetwork,
    prepared: Prepared,
    rows: NDArray[np.int64],
    previous: NDArray[np.int64],
    rng: np.random.Generator,
) -> Tensor:
    """The loss of telling half of the rows as they are from the other half with something of another row in them."""
    n, half = len(rows), len(rows) // 2
    ring, used = _past(network, prepared, rows, previous)
    batch = batch_of(prepared, rows, ring, used)
    other = torch.from_numpy(rng.permutation(n))
    modality = network.elements.modality
    fields = len(modality)
    share = torch.from_numpy(rng.uniform(_LEAST, _MOST, n).astype(np.float32))
    swap = torch.from_numpy(rng.random((n, fields)).astype(np.float32)) < share[:, None]
    whole = torch.from_numpy(
        rng.integers(0, 5, n)
    )  # one modality, or for 4 the past, and of some fields otherwise
    alone = torch.from_numpy(rng.random(n) < 0.5)
    swap = torch.where(alone[:, None], modality[None] == whole[:, None], swap)
    past = alone & (whole == 4)
    changed = torch.arange(n) >= half
    swap &= changed[:, None]
    past &= changed
    c, s = batch.codes.shape[1], batch.state.shape[1]
    p = batch.first.shape[1]
    codes, state, first, logs = swap.split([c, s, p, fields - c - s - p], dim=1)
    v = batch.values.shape[1]
    differs = torch.cat(
        [batch.codes != batch.codes[other], (batch.state != batch.state[other]) | (batch.known != batch.known[other]),
         batch.first != batch.first[other], batch.logs != batch.logs[other]], dim=1,
    )  # fmt: skip
    packets = first.any(dim=1)
    batch.values = torch.where(codes[:, :v], batch.values[other], batch.values)
    batch.codes = torch.where(codes, batch.codes[other], batch.codes)
    batch.known = torch.where(state, batch.known[other], batch.known)
    batch.state = torch.where(state, batch.state[other], batch.state)
    batch.first = torch.where(first, batch.first[other], batch.first)
    batch.logs = torch.where(logs, batch.logs[other], batch.logs)
    batch.packets = torch.where(packets[:, None, None], batch.packets[other], batch.packets)
    batch.packet_mask = torch.where(packets[:, None], batch.packet_mask[other], batch.packet_mask)
    batch.ring = torch.where(past[:, None, None], batch.ring[other], batch.ring)
    batch.ring_used = torch.where(past, batch.ring_used[other], batch.ring_used)
    there = torch.cat([batch.present, torch.ones_like(batch.present[:, :1])], dim=1)[:, modality]
    wrong = swap & differs & there
    told = network(batch)
    # What was exchanged for the same is as it was.
    odd = (wrong.any(dim=1) | past).float()
    loss = F.binary_cross_entropy_with_logits(told.odd, odd)
    if told.each is not None:
        each = F.binary_cross_entropy_with_logits(told.each, wrong.float(), reduction="none")
        loss = loss + 4.0 * (each * there).sum() / there.sum()
    return loss


def _seen(
    network: FieldNetwork, prepared: Prepared, rows: NDArray[np.int64], previous: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the network makes of rows [rows, width], and the head's logits."""
    fused, kinds = [], []
    with torch.inference_mode():
        for begin in range(0, len(rows), 512):
            part = rows[begin : begin + 512]
            told = network(batch_of(prepared, part, *_past(network, prepared, part, previous)))
            fused.append(told.fused.numpy())
            kinds.append(told.kinds.numpy())
    return np.concatenate(fused), np.concatenate(kinds)


def _say_what_is_usual(network: FieldNetwork, prepared: Prepared, normal: NDArray[np.int64]) -> None:
    """How often normal traffic has each class of each field, for words."""
    for modality in (PACKET, CONNECTION, LOG):
        targets = prepared.targets[modality][normal]
        usual = np.full((targets.shape[1], CLASSES), _SMALLEST)
        for j in range(targets.shape[1]):
            known = targets[:, j][targets[:, j] >= 0]
            usual[j] += np.bincount(np.minimum(known, CLASSES - 1), minlength=CLASSES) / max(len(known), 1)
        usual /= usual.sum(axis=1, keepdims=True)
        getattr(network, f"expected_{modality}")[:] = torch.from_numpy(np.log(usual).astype(np.float32))
