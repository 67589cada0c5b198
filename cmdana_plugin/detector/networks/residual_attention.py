"""Residual attention (S2) as a detector: a = softmax(W x), z = sum a x, and how odd each x is, f(z - x), learned."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from cmdana_plugin.detector.engines.shape import Shape
from cmdana_plugin.detector.history import RING_WIDTH
from cmdana_plugin.detector.networks.elements import OTHER, Batch, Elements, FieldNetwork, Told
from cmdana_plugin.detector.networks.encoders import ResidualAttention, softmax


class ResidualFields(nn.Module):
    """Residual attention over elements [B, F, d] of which some are there: what is left of each, r = g(z - x)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, heads)
        self.mix = nn.Linear(heads * width, width)
        self.residual = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, there: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What all say, mean and most of what is left [B, 3 * d]; what is left of each; weights [B, F]."""
        x = self.norm(x)
        a = softmax(self.score(x), there)
        z = self.mix(torch.einsum("bfh,bfd->bhd", a, x).flatten(1))
        r = self.residual(z[:, None] - x)
        shown = there[..., None].to(r.dtype)
        mean = (r * shown).sum(dim=1) / shown.sum(dim=1)
        most = r.masked_fill(~there[..., None], -1e9).amax(dim=1)
        return torch.cat([z, mean, most], dim=1), r, a.mean(dim=2)


class ResidualAttentionNetwork(FieldNetwork):
    """Elements are the fields of a connection; beside them, if `recent`, the last connections of its host.

    f is learned with labels where there are any (`kinds`), and without from fields that were exchanged for those of
    another connection (`each`, `odd`).
    """

    name: ClassVar[str] = "residual-attention"
    recent: ClassVar[bool] = True

    def __init__(self, shape: Shape, kinds: int) -> None:
        super().__init__(shape, kinds)
        d, heads = shape.width, shape.heads
        self.elements = Elements(shape, d)
        self.fields = ResidualFields(d, heads)
        self.each = nn.Linear(d, 1)
        self.past = ResidualAttention(RING_WIDTH, d, heads)
        self.fuse = nn.Sequential(nn.Linear(4 * d, 2 * d), nn.GELU(), nn.Linear(2 * d, d), nn.LayerNorm(d))
        self.odd = nn.Linear(d, 1)
        self.kind = nn.Linear(d, OTHER + kinds)

    def forward(self, batch: Batch) -> Told:
        x, there = self.elements(batch)
        fields, r, a = self.fields(x, there)
        each = self.each(r)[..., 0].masked_fill(~there, -20.0)
        past = self.past(*self.with_past(batch)) if self.recent else torch.zeros_like(r[:, 0])
        fused = self.fuse(torch.cat([fields, past], dim=1))
        odd = torch.logsumexp(torch.cat([each, self.odd(fused)], dim=1), dim=1)
        weights = torch.cat([a * (0.75 if self.recent else 1.0),
                             torch.full_like(each[:, :1], 0.25 if self.recent else 0.0)], dim=1)  # fmt: skip
        return Told(fused, odd, each, self.kind(fused), weights)


class ResidualFieldsNetwork(ResidualAttentionNetwork):
    """The variant that looks at the fields of a connection alone."""

    name: ClassVar[str] = "residual-attention-fields"
    recent: ClassVar[bool] = False
