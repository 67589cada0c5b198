"""Metrics of an evaluation with several classes, from its confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def confusion(truth: NDArray[np.int64], said: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """The confusion matrix [classes, classes + 1]: rows by truth, columns by what was said, the last one unknown."""
    at = np.where(said < 0, classes, said)
    return np.bincount(truth * (classes + 1) + at, minlength=classes * (classes + 1)).reshape(
        classes, classes + 1
    )


def figures(matrix: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    """The figures of a confusion matrix whose first class is benign traffic.

    Macro and weighted F1 and accuracy, recall and precision by class, Matthews' correlation (Gorodkin 2004 for several
    classes), and the share of benign rows called an attack. What was called unknown counts as wrong, and as no alarm.
    """
    classes = len(names)
    m = matrix.astype(np.float64)
    right = np.diagonal(m[:, :classes])
    of_truth, of_said = m.sum(axis=1), m[:, :classes].sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(of_truth > 0, right / of_truth, np.nan)
        precision = np.where(of_said > 0, right / of_said, 0.0)
        f1 = np.where(of_truth > 0, 2.0 * right / np.maximum(of_truth + of_said, 1.0), np.nan)
    total = of_truth.sum()
    every = m.sum(axis=0)
    product = float((of_truth * every[:classes]).sum())
    root = float(np.sqrt(max(total**2 - (every**2).sum(), 0.0) * max(total**2 - (of_truth**2).sum(), 0.0)))
    return {
        "names": list(names),
        "matrix": matrix.tolist(),
        "accuracy": float(right.sum() / total),
        "macro_f1": float(np.nanmean(f1)),
        "weighted_f1": float(np.nansum(f1 * of_truth) / total),
        "mcc": float((right.sum() * total - product) / root) if root else 0.0,
        "fpr": float(m[0, 1:classes].sum() / max(of_truth[0], 1.0)),
        "recall": recall.tolist(),
        "precision": precision.tolist(),
    }
