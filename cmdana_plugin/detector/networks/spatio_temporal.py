"""Spatio-temporal fusion (S3) as a detector: convolutions over the fields as a map, an LSTM over the host's past."""

from __future__ import annotations

import math
from typing import ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmdana_plugin.detector.engines.shape import Shape
from cmdana_plugin.detector.history import RING_WIDTH
from cmdana_plugin.detector.networks.elements import OTHER, Batch, Elements, FieldNetwork, Told
from cmdana_plugin.detector.networks.encoders import SpatioTemporal, channel_attention

SPANS: Final = (3, 5, 7)  # pixels that the parallel convolutions look at
_PIXEL: Final = 4  # numbers of a field in the map
_EACH: Final = 16  # channels of each parallel convolution


class SpatialAttention(nn.Module):
    """Parallel convolutions 3, 5 and 7 over a map, joined, with attention to channels, then to places (CBAM).

    Norms are of each row (groups of channels), not of the batch: a score must not depend on its neighbours.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.parallel = nn.ModuleList(nn.Conv2d(channels, _EACH, k, padding=k // 2) for k in SPANS)
        self.norm = nn.GroupNorm(len(SPANS), len(SPANS) * _EACH)
        self.join = nn.Conv2d(len(SPANS) * _EACH, out, 3, padding=1)
        self.joined = nn.GroupNorm(4, out)
        self.channels = channel_attention(out)
        self.places = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of a map [B, channels, H, W]: mean and greatest of every channel [B, 2 * out], and the places' weights."""
        x = F.gelu(self.norm(torch.cat([c(x) for c in self.parallel], dim=1)))
        x = F.gelu(self.joined(self.join(x)))
        of_channels = torch.sigmoid(self.channels(x.mean(dim=(2, 3))) + self.channels(x.amax(dim=(2, 3))))
        x = x * of_channels[:, :, None, None]
        seen = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        of_places = torch.sigmoid(self.places(seen))
        x = x * of_places
        return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1), of_places[:, 0]


class SpatialMap(nn.Module):
    """Elements [B, F, d] as the pixels of a square map, in the order given, under `SpatialAttention`."""

    order: Tensor

    def __init__(self, order: Tensor, width: int, out: int) -> None:
        super().__init__()
        self.side = math.isqrt(len(order) - 1) + 1
        self.register_buffer("order", order, persistent=False)
        self.look = SpatialAttention(width, out)

    def forward(self, x: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """What is seen [B, 2 * out], and how much each element counts [B, F]; nothing of those that are not there."""
        x = x * there[..., None]
        pixels = F.pad(x[:, self.order], (0, 0, 0, self.side**2 - x.shape[1]))
        seen, places = self.look(pixels.transpose(1, 2).unflatten(2, (self.side, self.side)))
        weights = torch.zeros_like(x[..., 0])
        weights[:, self.order] = places.flatten(1)[:, : x.shape[1]]
        return seen, weights * there


class SpatioTemporalNetwork(FieldNetwork):
    """Fields of a connection as a map, its packets and its host's last connections as sequences, fused."""

    name: ClassVar[str] = "spatio-temporal"

    def __init__(self, shape: Shape, kinds: int) -> None:
        super().__init__(shape, kinds)
        d = shape.width
        self.elements = Elements(shape, _PIXEL)
        self.spatial = SpatialMap(self.layout(len(self.elements.modality)), _PIXEL, d)
        self.packets = SpatioTemporal(shape.packet_width, d)
        self.past = SpatioTemporal(RING_WIDTH, d)
        self.fuse = nn.Sequential(nn.Linear(4 * d, 2 * d), nn.GELU(), nn.Linear(2 * d, d), nn.LayerNorm(d))
        self.odd = nn.Linear(d, 1)
        self.kind = nn.Linear(d, OTHER + kinds)

    def layout(self, fields: int) -> Tensor:
        """The field at each place of the map, row by row: as the schema has them."""
        return torch.arange(fields)

    def forward(self, batch: Batch) -> Told:
        x, there = self.elements(batch)
        spatial, weights = self.spatial(x, there)
        packets = self.packets(batch.packets, batch.packet_mask)
        past = self.past(*self.with_past(batch))
        fused = self.fuse(torch.cat([spatial, packets, past], dim=1))
        weights = 0.75 * weights / weights.sum(dim=1, keepdim=True)
        weights = torch.cat([weights, torch.full_like(weights[:, :1], 0.25)], dim=1)
        return Told(fused, self.odd(fused)[:, 0], None, self.kind(fused), weights)
