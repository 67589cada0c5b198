"""Projected gradient descent through a network over fields, on what an originator can raise of a connection.

Its variables are three factors of each connection: bytes, packets and duration, from one to a budget. Every field that
follows from them is computed again at every step, by the formulas of the features, so that a connection stays possible;
bins are looked up anew. A look-up has no slope: descent may leave it without one, or give it that of what is looked up
a step to either side (BPDA: Athalye et al. 2018). Counts of the past stay as they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmdana_plugin.detector import (
    CLASSES,
    CONNECTION,
    LOG,
    PACKET,
    FieldNetwork,
    OfFields,
    Told,
    batch_of,
    prepare,
)
from cmdana_plugin.training import Corpus, Recipe, components_with
from feature_extractors import Connections
from feature_extractors.features import load_schema

Section = dict[str, Any]

BUDGETS: Final = (1.0, 1.5, 2.0, 4.0, 10.0)
STEPS: Final = (1, 5, 20)
_RANDOM: Final = 20  # draws beside, at the same budgets
_ROWS: Final = 512
_HEADER: Final = 40.0  # bytes of an IP and transport header that one more packet brings
_BESIDE: Final = 0.25  # spreads of a field to either side, over which a look-up's slope is taken
# Numeric fields that follow from what the originator raises.
FOLLOWS: Final = ("duration", "orig_bytes", "orig_pkts", "orig_packet_size", "byte_rate", "packet_rate",
                  "byte_balance", "packet_balance", "payload_share")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Raw:
    """What is known of connections before features are made of it, as tensors [n]; NaN unset."""

    duration: Tensor
    orig_bytes: Tensor
    resp_bytes: Tensor
    orig_pkts: Tensor
    resp_pkts: Tensor
    orig_ip: Tensor
    resp_ip: Tensor
    able: Tensor  # whether the originator sends anything that could be more


def raw_of(c: Connections) -> Raw:
    def known(x: NDArray[Any]) -> Tensor:
        y = x.astype(np.float64)
        return torch.from_numpy(np.where(y < 0, np.nan, y))

    able = ((c.ip_proto == 6) & (c.orig_bytes > 0)) | ((c.ip_proto == 17) & (c.orig_pkts > 0))
    return Raw(
        torch.from_numpy(c.duration.astype(np.float64)), known(c.orig_bytes), known(c.resp_bytes),
        known(c.orig_pkts), known(c.resp_pkts), known(c.orig_ip_bytes), known(c.resp_ip_bytes),
        torch.from_numpy(able),
    )  # fmt: skip


def numeric_of(raw: Raw, u: Tensor, numeric: Tensor) -> Tensor:
    """The numeric fields [n, F] where bytes, packets and duration are exp(u) [n, 3] times as many.

    `numeric` are the fields as they are: what does not follow from the three stays.
    """
    more, packets, longer = (torch.where(raw.able, u[:, k].exp(), 1.0) for k in range(3))
    orig = raw.orig_bytes * more
    pkts = raw.orig_pkts * packets
    ip = raw.orig_ip + (orig - raw.orig_bytes).nan_to_num(0.0) + _HEADER * (pkts - raw.orig_pkts)
    duration = raw.duration * longer
    payload = orig.nan_to_num(0.0) + raw.resp_bytes.nan_to_num(0.0)
    lasted = torch.where(duration.isnan(), torch.nan, duration.clamp_min(1e-3))
    columns = {
        "duration": torch.log1p(duration.clamp_min(0.0) * 1e3),
        "orig_bytes": torch.log1p(orig.clamp_min(0.0)),
        "orig_pkts": torch.log1p(pkts),
        "orig_packet_size": torch.log1p(torch.where(pkts > 0, ip / pkts.clamp_min(1.0), torch.nan)),
        "byte_rate": torch.log1p(payload / lasted),
        "packet_rate": torch.log1p((pkts + raw.resp_pkts) / lasted),
        "byte_balance": torch.where(payload > 0, orig.nan_to_num(0.0) / payload.clamp_min(1e-9), torch.nan),
        "packet_balance": torch.where(
            pkts + raw.resp_pkts > 0, pkts / (pkts + raw.resp_pkts).clamp_min(1e-9), torch.nan
        ),
        "payload_share": (payload / (ip + raw.resp_ip).clamp_min(1e-9)).clamp_max(1.0),
    }
    out = numeric.clone()
    for j, field in enumerate(load_schema().numeric):
        if field.name in columns:
            out[:, j] = torch.where(raw.able, columns[field.name].to(out.dtype), numeric[:, j])
    return out


@dataclass(frozen=True, slots=True)
class Target:
    """Connections before a trained network, and what the network is given of them."""

    detector: OfFields
    prepared: Any  # `Prepared`
    ring: NDArray[np.float32]
    used: NDArray[np.int32]
    raw: Raw
    numeric: Tensor

    def told(self, rows: NDArray[np.int64], u: Tensor, sloped: bool = True) -> Told:
        """What the network says of rows [rows] that are changed by `u` [rows, 3]; gradients flow to `u`.

        `sloped` lets them flow through the bins too.
        """
        network: FieldNetwork = self.detector.fields
        batch = batch_of(self.prepared, rows, self.ring[rows], self.used[rows])
        at = torch.from_numpy(rows)
        raw = Raw(*(getattr(self.raw, name)[at] for name in Raw.__slots__))
        x = numeric_of(raw, u, self.numeric[at])
        how = self.detector.checkpoint.preparation
        mean, spread = torch.from_numpy(how.numeric_scale)
        values = ((x - mean) / spread).float()
        batch.values = values.clamp(-6.0, 6.0).nan_to_num(0.0)

        def codes(moved: float) -> Tensor:
            there = (x.detach() + moved * spread).numpy().astype(np.float32)
            found = torch.from_numpy(how.numeric.codes(there))
            return found + torch.arange(found.shape[1]) * CLASSES

        now = codes(0.0)
        batch.codes = torch.cat([now, batch.codes[:, now.shape[1] :]], dim=1)
        if not (sloped and u.requires_grad):
            return network(batch)
        rise = network.elements.code(codes(_BESIDE)) - network.elements.code(codes(-_BESIDE))
        flow = (values - values.detach()).nan_to_num(0.0)[:, :, None] * rise / (2.0 * _BESIDE)
        with _added(network, flow):
            return network(batch)

    def odds(self, rows: NDArray[np.int64], u: Tensor, sloped: bool = True) -> Tensor:
        """Log odds of being malicious [rows], as `told` has them."""
        kinds = self.told(rows, u, sloped).kinds
        return torch.logsumexp(kinds[:, 1:], dim=1) - kinds[:, 0]


@contextmanager
def _added(network: FieldNetwork, flow: Tensor) -> Iterator[None]:
    """The network with `flow` [B, numeric, width] added to the elements of its numeric fields."""

    def add(_module: Any, _given: Any, out: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, there = out
        return torch.cat([x[:, : flow.shape[1]] + flow, x[:, flow.shape[1] :]], dim=1), there

    hook = network.elements.register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


def target_of(
    detector: OfFields, corpus: Corpus, connections: Connections, recipe: Recipe
) -> tuple[Target, NDArray[np.float64]]:
    """The connections of a corpus before a detector's network, and the head's log odds [n] of them as they are."""
    schema = load_schema()
    raw, seen = components_with(detector, corpus, recipe, schema)
    prepared = prepare(corpus.features, corpus.state, detector.checkpoint.preparation, schema)
    target = Target(detector, prepared, seen.ring, seen.ring_used, raw_of(connections),
                    torch.from_numpy(corpus.features.numeric))  # fmt: skip
    return target, raw["attack"]


def descend(
    target: Target, rows: NDArray[np.int64], budget: float, steps: int, seed: int = 0, sloped: bool = True
) -> tuple[NDArray[np.float64], Tensor]:
    """The least log odds [rows] on a way of so many steps against the sign of the gradient, within the budget.

    With the change [rows, 3] at which each was reached.
    """
    most = float(np.log(budget))
    generator = torch.Generator().manual_seed(seed)
    out, at = np.empty(len(rows)), torch.zeros(len(rows), 3)
    for begin in range(0, len(rows), _ROWS):
        part = rows[begin : begin + _ROWS]
        u, best = torch.zeros(len(part), 3), torch.zeros(len(part), 3)
        with torch.no_grad():
            least = target.odds(part, u)
        if steps > 1:  # from within, where more than one step is left to come back
            u = most * 0.5 * torch.rand(len(part), 3, generator=generator)
        for step in range(steps + 1):
            u = u.detach().requires_grad_(step < steps)
            with torch.set_grad_enabled(step < steps):
                odds = target.odds(part, u, sloped)
            better = odds.detach() < least
            least = torch.where(better, odds.detach(), least)
            best = torch.where(better[:, None], u.detach(), best)
            if step < steps:
                (slope,) = torch.autograd.grad(odds.sum(), u)
                u = (u.detach() - (2.0 * most / steps) * slope.nan_to_num(0.0).sign()).clamp(0.0, most)
        out[begin : begin + _ROWS] = least.numpy()
        at[begin : begin + _ROWS] = best
    return out, at


def at_random(
    target: Target, rows: NDArray[np.int64], budget: float, draws: int, seed: int = 0
) -> NDArray[np.float64]:
    """The least log odds [rows] of so many changes drawn at random within the budget."""
    generator = torch.Generator().manual_seed(seed)
    most = float(np.log(budget))
    out = np.empty(len(rows))
    with torch.no_grad():
        for begin in range(0, len(rows), _ROWS):
            part = rows[begin : begin + _ROWS]
            least = target.odds(part, torch.zeros(len(part), 3))
            for _ in range(draws):
                u = most * torch.rand(len(part), 3, generator=generator)
                least = torch.minimum(least, target.odds(part, u))
            out[begin : begin + _ROWS] = least.numpy()
    return out


def kept_by(target: Target, bad: NDArray[np.int64], limit: float, steps: Sequence[int] = STEPS) -> Section:
    """Shares of rows `bad` above the limit by the attacker's way and budget, and whether gradients are masked.

    They are where more steps or a greater budget hide less, or where chance hides more than descent with as many looks.
    """

    def share(odds: NDArray[np.float64]) -> float:
        return float((odds > limit).mean())

    whole = share(descend(target, bad, 1.0, 1)[0])
    kept: dict[str, list[float]] = {}
    for sloped, called in ((True, ""), (False, ", look-ups without slope")):
        for s in steps if sloped else steps[-2:-1]:
            kept[f"{s} step{'s' if s > 1 else ''}{called}"] = [
                whole,
                *(share(descend(target, bad, b, s, sloped=sloped)[0]) for b in BUDGETS[1:]),
            ]
    random = [whole, *(share(at_random(target, bad, b, _RANDOM)) for b in BUDGETS[1:])]
    last = kept[f"{steps[-1]} steps"]
    rises = any(b > a + 1e-9 for a, b in itertools.pairwise(last))
    worse = last[-1] > min(kept[w][-1] for w in kept) + _NOISE
    return {
        "rows": len(bad),
        "able": float(target.raw.able[torch.from_numpy(bad)].double().mean()),
        "kept": {**kept, f"{_RANDOM} at random": random},
        "budgets": list(BUDGETS),
        "masked": bool(rises or worse or last[-1] > random[-1] + _NOISE),
    }


_NOISE: Final = 0.005  # share of rows by which a way may be behind another


def places(target: Target, rows: NDArray[np.int64], u: Tensor) -> dict[str, float]:
    """Where the network's attention lies, of rows changed by `u`: mean weight by who can change the element."""
    network = target.detector.fields
    modality = network.elements.modality.numpy()
    names = [f.name for f in load_schema().numeric]
    theirs = np.isin(np.arange(len(modality)), [j for j, n in enumerate(names) if n in FOLLOWS])
    weights = []
    with torch.no_grad():
        for begin in range(0, len(rows), _ROWS):
            part = slice(begin, begin + _ROWS)
            weights.append(target.told(rows[part], u[part]).weights.numpy())
    mean = np.concatenate(weights).mean(axis=0)
    own = mean[:-1]
    return {
        "raised by the attacker": float(own[theirs].sum()),
        "connection, else": float(own[(modality == CONNECTION) & ~theirs].sum()),
        "packets": float(own[modality == PACKET].sum()),
        "logs": float(own[modality == LOG].sum()),
        "counts": float(own[(modality != CONNECTION) & (modality != PACKET) & (modality != LOG)].sum()),
        "past": float(mean[-1]),
    }
