"""Features as tensors: tokens and rows padded to the sizes that torch computes on."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmdana_plugin.detector.engines.shape import CONNECTION, PACKET
from cmdana_plugin.detector.inputs import Prepared
from feature_extractors.compiled import entry
from feature_extractors.features import Features

_ROW_MULTIPLE: Final = 16  # of which the number of rows of a computation is a multiple, padded


def tokens_of(
    prepared: Prepared, modality: int, rows: NDArray[np.int64], length: int, size: int
) -> tuple[Tensor, Tensor]:
    """The two arguments of `Network.encode` for rows and a length of `encoded_together`, padded to `size` rows."""
    if modality == CONNECTION:
        return pad_rows(prepared.codes[rows], size), pad_rows(prepared.values[rows], size)
    pad = pad_packets if modality == PACKET else pad_logs
    return pad(prepared.features, rows, length, size)


def pad_packets(features: Features, rows: NDArray[np.int64], length: int, size: int) -> tuple[Tensor, Tensor]:
    """Packet tokens [size, length, 4] and their mask [size, length]; rows beyond `rows` are padding."""
    out = np.zeros((size, length, features.packets.shape[1]), np.float32)
    mask = np.zeros((size, length), np.bool_)
    _pad(features.packets, features.packet_start, rows, out, mask)
    return torch.from_numpy(out), torch.from_numpy(mask)


def pad_logs(features: Features, rows: NDArray[np.int64], length: int, size: int) -> tuple[Tensor, Tensor]:
    out = np.zeros((size, length, features.log_tokens.shape[1]), np.int64)
    mask = np.zeros((size, length), np.bool_)
    _pad(features.log_tokens, features.log_start, rows, out, mask)
    return torch.from_numpy(out), torch.from_numpy(mask)


def block_size(rows: int) -> int:
    """The padded number of rows of a block that holds `rows`, a multiple of 16, `BLOCK` at most.

    Products over so few terms add them in the same order for any number of rows that is a multiple of 16, so that a
    score does not depend on its neighbours; where a library should not keep to that, scores are rounded far above the
    difference.
    """
    return -(-rows // _ROW_MULTIPLE) * _ROW_MULTIPLE


def pad_rows(x: NDArray[np.generic], size: int) -> Tensor:
    """`x` with zero rows appended up to `size`."""
    if len(x) == size:
        return torch.from_numpy(np.ascontiguousarray(x))
    out = np.zeros((size, *x.shape[1:]), x.dtype)
    out[: len(x)] = x
    return torch.from_numpy(out)


@entry
def _pad(tokens, start, rows, out, mask):  # type: ignore[no-untyped-def]
    for i in range(len(rows)):
        r = rows[i]
        for k in range(min(start[r + 1] - start[r], out.shape[1])):
            for j in range(out.shape[2]):
                out[i, k, j] = tokens[start[r] + k, j]
            mask[i, k] = True
