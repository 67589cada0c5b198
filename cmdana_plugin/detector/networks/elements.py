"""A connection as a row of elements, one for each field: what the networks by name are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cmdana_plugin.detector.engines.shape import CLASSES, CONNECTION, LOG, PACKET, Shape
from cmdana_plugin.detector.history import RING, RING_WIDTH
from cmdana_plugin.detector.inputs import Prepared

STATE: Final = 3
PACKETS: Final = 16  # packets of the packet map
OTHER: Final = 2  # outputs of the head before the named kinds: benign, malicious


@dataclass(slots=True)
class Batch:
    """`B` connections as tensors, beside the summaries of the last connections of each one's originator."""

    codes: Tensor  # [B, numeric + categorical] offset into one table
    values: Tensor  # [B, numeric]
    state: Tensor  # [B, S]
    known: Tensor  # [B, S] 1 where the state column is set
    first: Tensor  # [B, first packets] classes, -1 unset
    logs: Tensor  # [B, log fields] classes, -1 unset
    packets: Tensor  # [B, PACKETS, W]
    packet_mask: Tensor  # [B, PACKETS]
    present: Tensor  # [B, 3]
    ring: Tensor  # [B, RING, RING_WIDTH] oldest first
    ring_used: Tensor  # [B]


@dataclass(slots=True)
class Told:
    """What a network says of `B` connections."""

    fused: Tensor  # [B, width]
    odd: Tensor  # [B] log odds that what is seen does not belong together
    each: Tensor | None  # [B, F] the same of each element, where the network asks it of each
    kinds: Tensor  # [B, OTHER + kinds] logits
    weights: Tensor  # [B, F + 1] how much each element counts, and the past last; rows sum to 1


def modality_of_elements(shape: Shape) -> NDArray[np.int64]:
    """The modality [F] of each element: packets, connection, logs or state."""
    return np.repeat(
        [CONNECTION, STATE, PACKET, LOG],
        [shape.targets[CONNECTION], shape.state, shape.targets[PACKET], shape.targets[LOG]],
    )


class Elements(nn.Module):
    """One vector for each field [B, F, width]: its bin's, plus its value times the field's own direction."""

    offset: Tensor

    def __init__(self, shape: Shape, width: int) -> None:
        super().__init__()
        self.shape = shape
        self.code = nn.Embedding(shape.numeric * CLASSES + sum(shape.categorical), width)
        flat = shape.targets[PACKET] + shape.targets[LOG]
        self.flat = nn.Embedding(flat * (CLASSES + 1), width)
        self.slope = nn.Parameter(torch.randn(shape.numeric, width) * 0.1)
        self.state_slope = nn.Parameter(torch.randn(shape.state, width) * 0.3)
        self.state_place = nn.Parameter(torch.randn(2, shape.state, width) * 0.3)  # unset, set
        self.register_buffer("offset", torch.arange(flat) * (CLASSES + 1) + 1, persistent=False)
        self.modality = torch.from_numpy(modality_of_elements(shape))

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The elements, and which are there [B, F]: those of a modality that is missing are not."""
        x = self.code(batch.codes)
        x[:, : self.shape.numeric].addcmul_(batch.values[:, :, None], self.slope)
        known = batch.known[:, :, None]
        place = self.state_place[0] + known * (self.state_place[1] - self.state_place[0])
        state = place + (batch.state * batch.known)[:, :, None] * self.state_slope
        classes = torch.cat([batch.first, batch.logs], dim=1)
        flat = self.flat(classes.clamp(-1, CLASSES - 1) + self.offset)
        there = torch.cat([batch.present, torch.ones_like(batch.present[:, :1])], dim=1)[:, self.modality]
        return torch.cat([x, state, flat], dim=1), there


class Summary(nn.Module):
    """A connection in a few numbers, from itself and the counts before it alone: what its host's past holds of it."""

    def __init__(self, shape: Shape, width: int) -> None:
        super().__init__()
        self.code = nn.Embedding(shape.numeric * CLASSES + sum(shape.categorical), width)
        self.values = nn.Linear(shape.numeric + 2 * shape.state, width)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.GELU(), nn.Linear(width, RING_WIDTH), nn.Tanh())

    def forward(self, codes: Tensor, values: Tensor, state: Tensor, known: Tensor) -> Tensor:
        x = F.embedding_bag(codes, self.code.weight, mode="mean")
        out: Tensor = self.out(x + self.values(torch.cat([values, state * known, known], dim=1)))
        return out


class FieldNetwork(nn.Module):
    """A network over the fields of a connection and its host's last connections, in the steps that all take.

    `expected_*` are the logarithms of how often benign traffic had each class of each field: for words, not scores.
    """

    name: ClassVar[str]
    elements: Elements
    least_energy: Tensor

    def __init__(self, shape: Shape, kinds: int) -> None:
        super().__init__()
        self.shape = shape
        self.kinds = kinds  # that have a name
        self.summary = Summary(shape, shape.width)
        for m in (PACKET, CONNECTION, LOG):
            self.register_buffer(f"expected_{m}", torch.zeros(shape.targets[m], CLASSES))
        self.register_buffer("least_energy", torch.zeros(1))  # of a connection that is of a known kind

    def __call__(self, batch: Batch) -> Told:
        out: Told = super().__call__(batch)
        return out

    def with_past(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The summaries of the host's last connections and this one, newest last, and which there are."""
        own = self.summary(batch.codes, batch.values, batch.state, batch.known)
        place = torch.arange(RING, device=own.device)[None]
        there = torch.cat(
            [place < batch.ring_used[:, None], torch.ones_like(own[:, :1], dtype=torch.bool)], 1
        )
        return torch.cat([batch.ring, own[:, None]], dim=1), there


def batch_of(
    prepared: Prepared,
    rows: NDArray[np.int64],
    ring: NDArray[np.float32] | Tensor,
    used: NDArray[np.int32] | Tensor,
    size: int | None = None,
    device: torch.device | None = None,
) -> Batch:
    """The rows of `prepared`, with their rings [rows, RING, RING_WIDTH], padded with zeros to `size` rows."""
    n = size or len(rows)

    def padded(x: NDArray[np.generic] | Tensor) -> Tensor:
        t = x if isinstance(x, Tensor) else torch.from_numpy(np.ascontiguousarray(x))
        if len(t) < n:
            t = torch.cat([t, t.new_zeros(n - len(t), *t.shape[1:])])
        return t if device is None else t.to(device)

    packets, mask = _packets(prepared, rows)
    return Batch(
        padded(prepared.codes[rows]), padded(prepared.values[rows]), padded(prepared.state[rows]),
        padded(prepared.known[rows]), padded(prepared.targets[PACKET][rows]), padded(prepared.targets[LOG][rows]),
        padded(packets), padded(mask), padded(prepared.present[rows]), padded(ring), padded(used),
    )  # fmt: skip


def _packets(prepared: Prepared, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    f = prepared.features
    place = f.packet_start[rows][:, None] + np.arange(PACKETS)
    mask = (place < f.packet_start[rows + 1][:, None]) & prepared.present[rows, PACKET][:, None]
    if not len(f.packets):
        return np.zeros((len(rows), PACKETS, f.packets.shape[1]), np.float32), mask
    out = f.packets[np.minimum(place, len(f.packets) - 1)] * mask[:, :, None]
    return out.astype(np.float32), mask


def shapes_of(network: type[FieldNetwork], shape: Shape, kinds: int) -> dict[str, tuple[int, ...]]:
    """The shape of every array of a network by name, without allocating any."""
    with torch.device("meta"):
        return {k: tuple(v.shape) for k, v in network(shape, kinds).state_dict().items()}


def by_modality(
    weights: NDArray[np.float32], modality: Sequence[int] | NDArray[np.int64]
) -> NDArray[np.float32]:
    """The weights [n, F + 1] of elements and the past summed by modality [n, 4]."""
    owner = np.concatenate([np.asarray(modality), [STATE]])
    return np.stack([weights[:, owner == m].sum(axis=1) for m in range(4)], axis=1).astype(np.float32)
