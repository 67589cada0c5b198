"""An ablation: fields hidden at random and guessed from all the rest, instead of a whole modality left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.detector import CLASSES, Prepared
from feature_extractors.features import FIRST_SIZES, Schema


def hide(prepared: Prepared, schema: Schema, chosen: np.random.Generator | int) -> Prepared:
    """The events with about half of their fields hidden and to be predicted, the rest shown.

    At random for training; for scoring, 0 and 1 hide what the other shows: fields and packets in turn, logs whole.
    """
    n, fields = prepared.codes.shape
    numeric = prepared.values.shape[1]
    f = prepared.features
    connection: NDArray[np.bool_]
    if isinstance(chosen, int):
        connection = np.broadcast_to(np.arange(fields) % 2 == chosen, (n, fields))
        order = np.arange(len(f.packets)) - np.repeat(f.packet_start[:-1], np.diff(f.packet_start))
        packets = order % 2 == chosen
        logs = np.repeat(np.array([chosen == 1]), n)
    else:
        connection = chosen.random((n, fields)) < 0.5
        packets = chosen.random((len(f.packets),)) < 0.5
        logs = chosen.random((n,)) < 0.5
    sizes = [c.size for c in schema.categorical]
    unset = np.concatenate([np.arange(numeric) * CLASSES, numeric * CLASSES + np.cumsum([0, *sizes[:-1]])])
    shown_packets = f.packets.copy()
    shown_packets[packets, :3] = 0.0  # its place is known, its direction, size and gap are not
    shown_logs = f.log_tokens.copy()
    shown_logs[np.repeat(logs, np.diff(f.log_start)), 1:] = 0
    asked = (
        _asked(prepared.targets[0], _first(packets, f.packet_start)),
        _asked(prepared.targets[1], connection),
        _asked(prepared.targets[2], np.broadcast_to(logs[:, None], prepared.targets[2].shape)),
    )
    return replace(
        prepared,
        codes=np.where(connection, unset, prepared.codes),
        values=np.where(connection[:, :numeric], np.float32(0.0), prepared.values),
        targets=asked,
        features=replace(f, packets=shown_packets, log_tokens=shown_logs),
    )


def _asked(targets: NDArray[np.int64], hidden: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.where(hidden, targets, -1)


def _first(hidden: NDArray[np.bool_], start: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the sizes and gaps of the first packets belong to a hidden packet, [n, 2 * FIRST_SIZES]."""
    n = len(start) - 1
    out = np.zeros((n, FIRST_SIZES), np.bool_)
    for k in range(FIRST_SIZES):
        there = np.flatnonzero(start[:-1] + k < start[1:])
        out[there, k] = hidden[start[there] + k]
    return np.concatenate([out, out], axis=1)
