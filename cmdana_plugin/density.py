"""How far an event lies from calm traffic in plain numbers: a Gaussian mixture over whitened columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Mixture:
    """Full-covariance Gaussians; `score` is the negative log likelihood, higher is odder."""

    weight: NDArray[np.float64]  # [K] log weights
    mean: NDArray[np.float64]  # [K, F]
    root: NDArray[np.float64]  # [K, F, F] x @ root has unit covariance
    constant: NDArray[np.float64]  # [K] log determinants of root

    def score(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        parts = np.empty((len(x), len(self.weight)))
        for k in range(len(self.weight)):
            y = np.einsum("nf,fg->ng", x - self.mean[k], self.root[k])
            parts[:, k] = self.weight[k] + self.constant[k] - 0.5 * (y * y).sum(axis=1)
        top = parts.max(axis=1)
        likelihood: NDArray[np.float64] = top + np.log(np.exp(parts - top[:, None]).sum(axis=1))
        return -likelihood


def fit_mixture(
    x: NDArray[np.float32], components: int, seed: int, rounds: int = 12, floor: float = 0.05
) -> Mixture:
    """Expectation-maximisation from `components` rows of `x`; `floor` is added to every variance."""
    rng = np.random.default_rng(seed)
    n, width = x.shape
    components = max(1, min(components, n // (2 * width) or 1))
    mean = x[rng.choice(n, components, replace=n < components)].astype(np.float64)
    cover = np.broadcast_to(
        np.cov(x, rowvar=False) + floor * np.eye(width), (components, width, width)
    ).copy()
    share = np.full(components, 1.0 / components)
    mixture = _mixture(share, mean, cover)
    for _ in range(rounds):
        parts = np.empty((n, components))
        for k in range(components):
            y = (x - mixture.mean[k]) @ mixture.root[k]
            parts[:, k] = mixture.weight[k] + mixture.constant[k] - 0.5 * (y * y).sum(axis=1)
        parts -= parts.max(axis=1, keepdims=True)
        parts = np.exp(parts)
        parts /= parts.sum(axis=1, keepdims=True)
        total = parts.sum(axis=0) + 1e-6
        share = total / total.sum()
        mean = parts.T @ x / total[:, None]
        for k in range(components):
            d = x - mean[k]
            cover[k] = (d * parts[:, k : k + 1]).T @ d / total[k] + floor * np.eye(width)
        mixture = _mixture(share, mean, cover)
    return mixture


def _mixture(share: NDArray[np.float64], mean: NDArray[np.float64], cover: NDArray[np.float64]) -> Mixture:
    root = np.linalg.inv(np.linalg.cholesky(cover)).transpose(0, 2, 1)
    constant = np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1)
    return Mixture(np.log(share), mean, np.ascontiguousarray(root), constant)
