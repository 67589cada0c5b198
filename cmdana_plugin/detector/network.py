"""The network: one encoder per modality, a gate moved by the past, and predictors in which no modality sees itself.

Our reading of cross-modal dynamic attention: queries come from the state before the event, keys and values from the
other modalities, and a weight per modality is computed anew for every event from that state. A missing modality is
a mask, never a zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmdana_plugin.detector.engines.shape import CLASSES, CONNECTION, MODALITIES, Shape
from cmdana_plugin.detector.history import KINDS, MEMORY, RING, RING_WIDTH

_HALF_LIVES: Final = (1.0, 7 * 86400.0)  # seconds, shortest and longest at the start of training


@dataclass(slots=True)
class Past:
    """The state of each event's entities before it, as tensors."""

    memory: Tensor  # [B, KINDS, MEMORY]
    ring: Tensor  # [B, RING, RING_WIDTH]
    ring_used: Tensor  # [B]


def _softmax_of_tokens(scores: Tensor) -> Tensor:
    """Softmax [B, H, T] over the tokens of scores [B, T, H]; a short axis is summed unrolled, which is faster."""
    if scores.shape[1] < 16:
        return scores.softmax(dim=1).transpose(1, 2)
    return scores.transpose(1, 2).softmax(dim=2)


class Pool(nn.Module):
    """Attention pooling: softmax attention over tokens with `latents` learned queries per head."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d = shape.width
        self.latents, self.heads = shape.latents, shape.heads
        self.norm = nn.LayerNorm(d)
        self.score = nn.Linear(d, shape.latents * shape.heads)
        self.value = nn.Linear(d, d)
        self.mix = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))
        self.out = nn.LayerNorm(d)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The pooled tokens [B, latents, d] of `x` [B, T, d] under `mask` [B, T]; zeros for rows without a token."""
        b, _, d = x.shape
        x = self.norm(x)
        scores = self.score(x)
        if mask is not None:
            scores = scores.masked_fill_(~mask[:, :, None], -1e9)
        # Weights sum to one, so values may be taken of what was pooled instead of every token.
        pooled = torch.bmm(_softmax_of_tokens(scores), x).view(b, self.latents, self.heads, d)
        z = torch.einsum("bmhd,hcd->bmhc", pooled, self.value.weight.view(self.heads, -1, d))
        z = z.reshape(b, self.latents, d) + self.value.bias
        out: Tensor = self.out(self.mix(z).add_(z))
        return out


class ConnectionEncoder(nn.Module):
    """Latents of connection records: one token for each field, then attention pooling."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.code = nn.Embedding(shape.numeric * CLASSES + sum(shape.categorical), shape.width)
        self.slope = nn.Parameter(torch.randn(shape.numeric, shape.width) * 0.1)
        self.pool = Pool(shape)
        self.numeric = shape.numeric

    def forward(self, codes: Tensor, values: Tensor) -> Tensor:
        x = self.code(codes)
        x[:, : self.numeric].addcmul_(values[:, :, None], self.slope)
        out: Tensor = self.pool(x, None)
        return out


class PacketEncoder(nn.Module):
    """Latents of packet sequences: a convolution over neighbouring packets, then attention pooling."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.read = nn.Linear(3 * shape.packet_width, shape.width)
        self.think = nn.Sequential(nn.LayerNorm(shape.width), nn.Linear(shape.width, shape.width), nn.GELU())
        self.pool = Pool(shape)

    def forward(self, packets: Tensor, mask: Tensor) -> Tensor:
        packets = packets * mask[:, :, None]
        before = F.pad(packets, (0, 0, 1, 0))[:, :-1]
        after = F.pad(packets, (0, 0, 0, 1))[:, 1:]
        x = F.gelu(self.read(torch.cat([before, packets, after], dim=-1)))
        out: Tensor = self.pool(self.think(x).add_(x), mask)
        return out


class LogEncoder(nn.Module):
    """Latents of log sequences: embedded field and value tokens, then attention pooling."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.bucket = nn.Embedding(shape.log_buckets, shape.width, padding_idx=0)
        self.think = nn.Sequential(nn.LayerNorm(shape.width), nn.Linear(shape.width, shape.width), nn.GELU())
        self.pool = Pool(shape)

    def forward(self, logs: Tensor, mask: Tensor) -> Tensor:
        b, t, w = logs.shape
        x = F.embedding_bag(logs.view(b * t, w), self.bucket.weight, mode="sum", padding_idx=0).view(b, t, -1)
        out: Tensor = self.pool(self.think(x).add_(x), mask)
        return out


class Predictor(nn.Module):
    """Cross-modal attention: one modality predicted with queries from the state, keys and values from the others."""

    def __init__(self, shape: Shape, targets: int) -> None:
        super().__init__()
        d = shape.width
        self.latents, self.heads, self.targets = shape.latents, shape.heads, targets
        self.query = nn.Linear(d, shape.latents * d)
        self.key = nn.Linear(d, d)
        self.value = nn.Linear(d, d)
        self.mix = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))
        self.norm = nn.LayerNorm(d)
        self.widen = nn.Linear(shape.latents * d, 2 * d)
        self.classes = nn.Linear(2 * d, targets * CLASSES)

    def __call__(self, state: Tensor, others: Tensor, bias: Tensor) -> Tensor:
        out: Tensor = super().__call__(state, others, bias)
        return out

    def forward(self, state: Tensor, others: Tensor, bias: Tensor) -> Tensor:
        """The predicted latents [B, latents, d] from state [B, d], other tokens [B, N, d] and their log weights [B, N].

        A weight of -inf masks a token.
        """
        b, _, d = others.shape
        h, c = self.heads, d // self.heads
        # Keys are taken of the query and values of what was pooled, not of every token; what a key's bias adds is
        # the same for all tokens and falls out of the softmax.
        q = self.query(state).view(b, self.latents, h, c)
        q = torch.einsum("bmhc,hcd->bmhd", q, self.key.weight.view(h, c, d)).reshape(b, -1, d)
        scores = torch.baddbmm(bias[:, :, None], others, q.transpose(1, 2), alpha=c**-0.5)
        pooled = torch.bmm(_softmax_of_tokens(scores), others).view(b, self.latents, h, d)
        z = torch.einsum("bmhd,hcd->bmhc", pooled, self.value.weight.view(h, c, d))
        z = z.reshape(b, self.latents, d) + self.value.bias
        out: Tensor = self.norm(self.mix(z).add_(z))
        return out

    def decode(self, z: Tensor, fields: Tensor | None = None) -> Tensor:
        """Logits [B, targets, CLASSES] of the latents that `forward` gave; of `fields` (indices) alone where given."""
        z = F.gelu(self.widen(z.flatten(1)))
        if fields is None:
            logits: Tensor = self.classes(z)
            return logits.view(len(z), self.targets, CLASSES)
        weight = self.classes.weight.view(self.targets, CLASSES, -1)[fields].flatten(0, 1)
        bias = self.classes.bias.view(self.targets, CLASSES)[fields].flatten()
        return F.linear(z, weight, bias).view(len(z), len(fields), CLASSES)


class Network(nn.Module):
    """The neural network, in the steps that training, scoring and explaining take alike.

    `encode` each modality; `memory_update`, what is remembered of the event; `read_state`, the state before it;
    `gate_weights` and `gate_bias`, how much each source counts; `forward`, one modality predicted from the others and
    the state; `look_ahead`, the connection predicted from the state alone.
    """

    predictor: ClassVar[type[Predictor]] = Predictor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d = shape.width
        self.shape = shape
        self.packets, self.connection, self.logs = (
            PacketEncoder(shape),
            ConnectionEncoder(shape),
            LogEncoder(shape),
        )
        self.summary = nn.Sequential(nn.Linear(3 * d + 3, d), nn.GELU(), nn.LayerNorm(d))
        self.write = nn.Linear(d, KINDS * MEMORY)
        self.value = nn.Linear(d, KINDS * MEMORY)
        self.recent = nn.Linear(d, RING_WIDTH)
        lives = torch.logspace(0, 1, MEMORY, base=_HALF_LIVES[1] / _HALF_LIVES[0]) * _HALF_LIVES[0]
        self.log_half_life = nn.Parameter(lives.log().repeat(KINDS, 1))
        self.counts = nn.Sequential(nn.Linear(2 * shape.state, d), nn.GELU(), nn.Linear(d, d))
        self.look_back = nn.Linear(d, RING_WIDTH)
        self.remember = nn.Linear(KINDS * MEMORY + RING_WIDTH, d)
        self.state_norm = nn.LayerNorm(d)
        self.gate = nn.Sequential(nn.Linear(d + 3, d), nn.GELU(), nn.Linear(d, 4))
        self.predictors = nn.ModuleList(self.predictor(shape, n) for n in shape.targets)
        self.next = nn.Sequential(
            nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, shape.targets[1] * CLASSES)
        )

    def encode(self, modality: int, tokens: Tensor, other: Tensor) -> Tensor:
        """Latents [B, latents, d] of one modality: codes and values of connections, tokens and their mask of others.

        Each row from itself alone. Rows without a token give nothing of use: their modality is not present.
        """
        encoder = (self.packets, self.connection, self.logs)[modality]
        out: Tensor = encoder(tokens, other)
        return out

    def memory_update(self, z: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What an event writes: gate and value [B, KINDS, MEMORY], and its entry in the ring [B, RING_WIDTH]."""
        v = self.summary(torch.cat([z.mean(dim=2).flatten(1), present.to(z.dtype)], dim=1))
        b = len(z)
        write = torch.sigmoid(self.write(v)).view(b, KINDS, MEMORY)
        return write, torch.tanh(self.value(v)).view(b, KINDS, MEMORY), self.recent(v)

    def rate(self) -> Tensor:
        """The decay rate of the memory per second, [KINDS, MEMORY], positive."""
        return 0.6931472 * torch.exp(-self.log_half_life)

    def read_state(self, state: Tensor, known: Tensor, past: Past) -> Tensor:
        """The state vector before the event [B, d]: counts, memory, and attention over the host's recent events."""
        counts = self.counts(torch.cat([state, known], dim=1))
        query = self.look_back(counts)
        scores = torch.einsum("bk,brk->br", query, past.ring) / RING_WIDTH**0.5
        there = torch.arange(RING, device=scores.device)[None] < past.ring_used[:, None]
        weights = scores.masked_fill(~there, -1e9).softmax(dim=1) * there
        seen = torch.einsum("br,brk->bk", weights, past.ring)
        remembered: Tensor = self.state_norm(
            counts + self.remember(torch.cat([past.memory.flatten(1), seen], dim=1))
        )
        return remembered

    def gate_weights(self, s: Tensor, present: Tensor) -> Tensor:
        """The dynamic gate [B, 4] over packets, connection, logs and state; a missing one gets nothing."""
        there = torch.cat([present, torch.ones_like(present[:, :1])], dim=1)
        logits = self.gate(torch.cat([s, present.to(s.dtype)], dim=1))
        weights: Tensor = logits.masked_fill(~there, -1e9).softmax(dim=1)
        return weights

    def gate_bias(self, gate: Tensor, present: Tensor) -> Tensor:
        """The gate as log weights of all tokens [B, 3 * latents + 1]; one of a missing modality counts for nothing."""
        m = self.shape.latents
        bias = torch.log(gate.clamp_min(1e-9))
        bias = torch.cat([bias[:, :MODALITIES].masked_fill(~present, -1e9), bias[:, MODALITIES:]], dim=1)
        return torch.cat([bias[:, :MODALITIES].repeat_interleave(m, dim=1), bias[:, MODALITIES:]], dim=1)

    def sources(self, modality: int) -> Sequence[int]:
        """The modalities that `modality` is predicted from: all others."""
        return [j for j in range(MODALITIES) if j != modality]

    def __call__(
        self, modality: int, z: Tensor, s: Tensor, bias: Tensor, fields: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        out: tuple[Tensor, Tensor] = super().__call__(modality, z, s, bias, fields)
        return out

    def forward(
        self, modality: int, z: Tensor, s: Tensor, bias: Tensor, fields: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One modality predicted from the others and the state: latents [B, latents, d] and logits of its fields.

        `z` [B, 3, latents, d] are the latents of all modalities, of which its own are not looked at; `s` the state;
        `bias` what `gate_bias` gave, by which what is absent cannot leak; `fields` (indices) of which logits are
        wanted, [B, fields, CLASSES], all unless named.
        """
        m, sources, predictor = self.shape.latents, self.sources(modality), self._predictor(modality)
        tokens = torch.cat([*(z[:, j] for j in sources), s[:, None]], dim=1)
        there = torch.cat(
            [*(bias[:, j * m : (j + 1) * m] for j in sources), bias[:, MODALITIES * m :]], dim=1
        )
        expected = predictor(s, tokens, there)
        return expected, predictor.decode(expected, fields)

    def _predictor(self, modality: int) -> Predictor:
        found = self.predictors[modality]
        assert isinstance(found, Predictor)
        return found

    def look_ahead(self, s: Tensor) -> Tensor:
        """Logits of the connection's fields predicted from the state alone, [B, targets, CLASSES]."""
        logits: Tensor = self.next(s)
        return logits.view(len(s), self.shape.targets[CONNECTION], CLASSES)


def latent_residual(expected: Tensor, seen: Tensor) -> Tensor:
    """The mean squared error [B] between `expected` and `seen` latents [B, latents, d]; no gradient flows to `seen`."""
    return (expected - seen.detach()).pow(2).mean(dim=(1, 2))


def segmented_scan(keep: Tensor, add: Tensor) -> Tensor:
    """The linear recurrence h_t = keep_t * h_{t-1} + add_t [n, ...] by a parallel prefix scan (Blelloch 1990).

    `keep` is 0 where a segment begins. Exact up to rounding, log2(n) steps, differentiable.
    """
    n, step = len(keep), 1
    while step < n:
        add = torch.cat([add[:step], add[step:] + keep[step:] * add[:-step]])
        keep = torch.cat([keep[:step], keep[step:] * keep[:-step]])
        step *= 2
    return add
