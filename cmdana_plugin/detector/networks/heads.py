"""Supervised heads: what a class counts, by name, and when a row is of no known class."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

BALANCING: Final = ("none", "weights", "sampler", "focal", "logit-adjustment")
_FOCUS: Final = 2.0  # exponent of the focal loss


def class_weights(kind: NDArray[np.int64], classes: int, power: float = 1.0) -> NDArray[np.float64]:
    """The weight of each row [n], mean 1: one over the size of its class to the `power`. Of training rows only."""
    count = np.bincount(kind, minlength=classes).astype(np.float64)
    weight = 1.0 / np.maximum(count, 1.0)[kind] ** power
    out: NDArray[np.float64] = weight / weight.mean()
    return out


def drawn(
    weight: NDArray[np.float64], size: int, balancing: str, rng: np.random.Generator
) -> NDArray[np.int64]:
    """So many rows to learn from, with replacement: by weight for a sampler, each alike otherwise."""
    if balancing != "sampler":
        return rng.integers(0, len(weight), size)
    reach = np.cumsum(weight)
    at = np.searchsorted(reach, rng.random(size) * reach[-1], side="right")
    found: NDArray[np.int64] = np.minimum(at, len(weight) - 1).astype(np.int64)
    return found


def head_loss(logits: Tensor, kind: Tensor, weight: Tensor, prior: Tensor, balancing: str) -> Tensor:
    """The mean loss of logits [B, K] for classes [B] with rows' weights [B] and classes' shares [K] in training.

    `weights` multiplies each row's loss, `sampler` has drawn by them, `focal` lessens what is told right already (Lin
    et al. 2017), `logit-adjustment` adds the logarithm of the share while learning (Menon et al. 2021).

    Raises `ValueError` for another name.
    """
    if balancing not in BALANCING:
        raise ValueError(f"balancing {balancing!r}: expected one of {', '.join(BALANCING)}")
    if balancing == "logit-adjustment":
        logits = logits + torch.log(prior.clamp_min(1e-6))
    each = F.cross_entropy(logits, kind, reduction="none")
    if balancing == "weights":
        return (each * weight).mean()
    if balancing == "focal":
        return ((1.0 - torch.exp(-each)) ** _FOCUS * each).mean()
    return each.mean()


def energy(logits: Tensor) -> Tensor:
    """How much speaks for any known class [B]: log-sum-exp of the logits (Liu et al. 2020); low is unknown."""
    return torch.logsumexp(logits, dim=1)
