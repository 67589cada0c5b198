"""Density of benign traffic over standardised columns: a Gaussian mixture with full covariances."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feature_extractors.compiled import entry, padded, product, summing

_PRODUCT_ROWS: Final = 32  # rows of one product
_MAX_TRAINING_ROWS: Final = 50_000  # rows to learn from


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture of K components with full covariance."""

    weight: NDArray[np.float64]  # [K] log weights
    mean: NDArray[np.float64]  # [K, F]
    root: NDArray[np.float64]  # [K, F, F] upper triangular; (x - mean) @ root has unit covariance
    constant: NDArray[np.float64]  # [K] log determinants of root

    def score(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        out = np.empty(len(x))
        _scores(x, *self._side_by_side, self.weight + self.constant, self.mean.shape[1], out)
        return out

    @cached_property
    def _side_by_side(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """All roots in one matrix [F, K * F], and what the means come to under them, negated [K * F]; padded."""
        components, width = self.mean.shape
        roots = np.ascontiguousarray(self.root.transpose(1, 0, 2)).reshape(width, components * width)
        shift = -np.einsum("kf,kfg->kg", self.mean, self.root).ravel()
        return padded(roots), padded(shift)


@entry
def _scores(x, roots, shift, weight, width, out):  # type: ignore[no-untyped-def]
    block = np.empty((_PRODUCT_ROWS, width))
    y, part = np.empty((_PRODUCT_ROWS, roots.shape[1])), np.empty(len(weight))
    for begin in range(0, len(x), _PRODUCT_ROWS):
        n = min(_PRODUCT_ROWS, len(x) - begin)
        for i in range(n):
            for j in range(width):
                block[i, j] = x[begin + i, j]
        product(block, n, roots, shift, y)
        for i in range(n):
            top = -np.inf
            for k in range(len(weight)):
                part[k] = weight[k] - 0.5 * _squares(y, i, k * width, width)
                top = max(top, part[k])
            total = 0.0
            for k in range(len(weight)):
                total += np.exp(part[k] - top)
            out[begin + i] = -(top + np.log(total))


@summing
def _squares(y: NDArray[np.float64], i: int, begin: int, width: int) -> float:
    total = 0.0
    for j in range(begin, begin + width):
        total += y[i, j] * y[i, j]
    return total


def fit_mixture(
    x: NDArray[np.float32], components: int, seed: int, rounds: int = 12, floor: float = 0.05
) -> Mixture:
    """The mixture fitted to benign rows `x` [n, F] by expectation-maximisation, begun at `components` of them.

    `floor` is added to every variance, `rounds` are the steps.

    Of more than `_MAX_TRAINING_ROWS` rows that many are drawn: more would sharpen nothing but take their time.
    """
    rng = np.random.default_rng(seed)
    if len(x) > _MAX_TRAINING_ROWS:
        x = x[rng.choice(len(x), _MAX_TRAINING_ROWS, replace=False)]
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
