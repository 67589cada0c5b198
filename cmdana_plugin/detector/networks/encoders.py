"""Encoders of the last connections of an entity: a sequence and its mask in, one vector out, by name.

All of them take `x` [n, k, d], the oldest first and the newest, which is the one that is judged, last, and `mask`
[n, k], where there is one; they give [n, width]. What stands where there is none is not looked at, whatever it holds,
so that a short past may be padded at either end or between, and rows do not know of each other. A row without any
gives a vector too, the same for all such rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SPANS: Final = (3, 5, 7)  # connections that the convolutions look at together
_HEADS: Final = 4
_LAYERS: Final = 2
_FURTHEST: Final = 64  # places from the newest that a transformer tells apart; further ones look alike


class Encoder(nn.Module):
    """What the encoders of this module have in common."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width  # of the output

    def __call__(self, x: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = super().__call__(x, mask)
        return out

    def weights(self, x: Tensor, mask: Tensor) -> Tensor:
        """How much each element counts [n, k], 0..1; rows sum to 1 where there is an element, to 0 elsewhere."""
        raise NotImplementedError


class Mean(Encoder):
    """The newest element beside the mean of all: what an encoder must beat to be worth its cost."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__(width)
        self.read = nn.Sequential(
            nn.Linear(2 * inputs, 2 * width), nn.GELU(), nn.Linear(2 * width, width), nn.LayerNorm(width)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x, there, last = packed(x, mask)
        mean = torch.bmm(_even(there)[:, None], x)[:, 0]
        out: Tensor = self.read(torch.cat([mean, newest(x, last)], dim=1))
        return out

    def weights(self, x: Tensor, mask: Tensor) -> Tensor:
        return _even(mask)


class ResidualAttention(Encoder):
    """Attention over the elements and what of the newest it does not explain: a = softmax(W x), z = sum a x, f(z - x).

    The order of the elements before the newest is not looked at.
    """

    def __init__(self, inputs: int, width: int, heads: int = _HEADS) -> None:
        super().__init__(width)
        self.embed = nn.Sequential(nn.Linear(inputs, width), nn.LayerNorm(width))
        self.score = nn.Linear(width, heads)
        self.residual = nn.Sequential(
            nn.Linear(heads * width, 2 * width), nn.GELU(), nn.Linear(2 * width, width), nn.LayerNorm(width)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x, there, last = packed(x, mask)
        x = self.embed(x)
        z = torch.einsum("nkh,nkd->nhd", softmax(self.score(x), there), x)
        out: Tensor = self.residual((z - newest(x, last)[:, None]).flatten(1))
        return out

    def weights(self, x: Tensor, mask: Tensor) -> Tensor:
        return softmax(self.score(self.embed(_without_hidden(x, mask))), mask).mean(dim=2)


class SpatioTemporal(Encoder):
    """Convolutions over 3, 5 and 7 elements beside a bidirectional LSTM, with attention to channels, then to times."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__(width)
        half = width // 2
        self.convolutions = nn.ModuleList(nn.Conv1d(inputs, half, k, padding=k // 2) for k in _SPANS)
        self.norm = nn.LayerNorm(len(_SPANS) * half)
        self.channels = channel_attention(len(_SPANS) * half)
        self.times = nn.Linear(len(_SPANS) * half, 1)
        self.forwards = nn.LSTM(inputs, half, batch_first=True)
        self.backwards = nn.LSTM(inputs, half, batch_first=True)
        self.attention = nn.Sequential(nn.Linear(2 * half, half), nn.Tanh(), nn.Linear(half, 1))
        self.fuse = nn.Sequential(
            nn.Linear((len(_SPANS) + 4) * half, 2 * width), nn.GELU(), nn.Linear(2 * width, width), nn.LayerNorm(width)
        )  # fmt: skip

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x, there, last = packed(x, mask)
        spatial, recurrent = self._read(x, there, last)
        apart = (softmax(self.times(spatial), there) * spatial).sum(dim=1)
        summed = (softmax(self.attention(recurrent), there) * recurrent).sum(dim=1)
        out: Tensor = self.fuse(torch.cat([apart, summed, newest(recurrent, last)], dim=1))
        return out

    def weights(self, x: Tensor, mask: Tensor) -> Tensor:
        x, there, last = packed(x, mask)
        spatial, recurrent = self._read(x, there, last)
        both = softmax(self.times(spatial), there) + softmax(self.attention(recurrent), there)
        back = torch.zeros_like(both[..., 0])
        order = torch.sort(~mask, dim=1, stable=True).indices
        return back.scatter(1, order, 0.5 * both[..., 0])

    def _read(self, x: Tensor, there: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """The convolutions after attention to their channels [n, k, .], and the LSTM both ways [n, k, .]."""
        shown = there[..., None].to(x.dtype)
        spatial = torch.cat([c(x.transpose(1, 2)) for c in self.convolutions], dim=1).transpose(1, 2)
        spatial = F.gelu(self.norm(spatial)) * shown
        mean = spatial.sum(dim=1) / shown.sum(dim=1).clamp_min(1.0)
        most = spatial.masked_fill(~there[..., None], -1e9).amax(dim=1) * there.any(dim=1, keepdim=True)
        spatial = spatial * torch.sigmoid(self.channels(mean) + self.channels(most))[:, None]
        # What follows the last element changes nothing before it; backwards, each row is turned at its own end.
        k = x.shape[1]
        turned = (last[:, None] - torch.arange(k, device=x.device)) % k
        back = turned[..., None]
        ahead, _ = self.forwards(x)
        behind, _ = self.backwards(x.gather(1, back.expand(-1, -1, x.shape[2])))
        behind = behind.gather(1, back.expand(-1, -1, behind.shape[2]))
        return spatial, torch.cat([ahead, behind], dim=2) * shown


class Transformer(Encoder):
    """A small transformer (pre-norm) with learned places, counted from the newest element, which is read at the end."""

    def __init__(self, inputs: int, width: int, heads: int = _HEADS, layers: int = _LAYERS) -> None:
        super().__init__(width)
        self.embed = nn.Linear(inputs, width)
        self.place = nn.Embedding(_FURTHEST, width)
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
        self.out = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h, _, last = self._run(x, mask)
        out: Tensor = self.out(newest(h, last))
        return out

    def weights(self, x: Tensor, mask: Tensor) -> Tensor:
        _, seen, last = self._run(x, mask)
        each = seen.gather(1, last[:, None, None].expand(-1, 1, seen.shape[2]))[:, 0]
        order = torch.sort(~mask, dim=1, stable=True).indices
        return torch.zeros_like(each).scatter(1, order, each) * mask

    def _run(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The last layer's output [n, k, width], what it looked at [n, k, k] and where the newest stands [n]."""
        x, there, last = packed(x, mask)
        ago = (last[:, None] - torch.arange(x.shape[1], device=x.device)).clamp(0, _FURTHEST - 1)
        h = self.embed(x) + self.place(ago)
        shown = there.clone()
        shown[:, 0] = True  # of a row without any, a softmax over nothing
        seen = h
        for layer in self.layers:
            h, seen = layer(h, shown)
        return h, seen, last


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.read = nn.Linear(width, 3 * width)
        self.write = nn.Linear(width, width)
        self.mix = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, h: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        n, k, d = h.shape
        q, key, value = self.read(self.before(h)).view(n, k, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ key.transpose(2, 3) * (d // self.heads) ** -0.5
        weights = scores.masked_fill(~shown[:, None, None], -torch.inf).softmax(dim=3)
        h = h + self.write((weights @ value).transpose(1, 2).reshape(n, k, d))
        return h + self.mix(self.between(h)), weights.mean(dim=1)


def packed(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Elements that are there first, in their order, then zeros: `x` and `mask` so, and the place [n] of the last."""
    there, order = torch.sort(mask.to(torch.uint8), dim=1, descending=True, stable=True)
    x = _without_hidden(x, mask).gather(1, order[..., None].expand(-1, -1, x.shape[2]))
    return x, there.bool(), (mask.sum(dim=1) - 1).clamp_min(0)


def newest(x: Tensor, last: Tensor) -> Tensor:
    """The elements [n, d] of `x` [n, k, d] at the places `last` [n]."""
    return x.gather(1, last[:, None, None].expand(-1, 1, x.shape[2]))[:, 0]


def softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the elements [n, k, h] that are there (`mask` [n, k]); zeros for rows without any."""
    weights: Tensor = scores.masked_fill(~mask[..., None], -1e9).softmax(dim=1) * mask[..., None]
    return weights


def channel_attention(channels: int) -> nn.Sequential:
    """The shared network of channel attention (Woo et al. 2018, CBAM): squeezed to an eighth and back."""
    few = max(channels // 8, 4)
    return nn.Sequential(nn.Linear(channels, few), nn.GELU(), nn.Linear(few, channels))


def _without_hidden(x: Tensor, mask: Tensor) -> Tensor:
    return x.masked_fill(~mask[..., None], 0.0)


def _even(mask: Tensor) -> Tensor:
    there = mask.to(torch.get_default_dtype())
    return there / there.sum(dim=1, keepdim=True).clamp_min(1.0)


ENCODERS: Final[Mapping[str, Callable[[int, int], Encoder]]] = {
    "mean": Mean,
    "residual-attention": ResidualAttention,
    "spatio-temporal": SpatioTemporal,
    "transformer": Transformer,
}


def encoder(name: str, inputs: int, width: int = 64) -> Encoder:
    """The encoder of that name for elements of `inputs` columns; `width`, of the output, is a multiple of 4.

    Raises `ValueError` for other names and widths.
    """
    if name not in ENCODERS:
        raise ValueError(f"encoder {name!r}: expected one of {', '.join(ENCODERS)}")
    if width < _HEADS or width % _HEADS:
        raise ValueError(f"encoder width {width}: expected a multiple of {_HEADS}")
    return ENCODERS[name](inputs, width)
