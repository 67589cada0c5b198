"""Uids that look like Zeek's and are the same for the same capture: 'C' and 17 base62 digits of a 96-bit hash."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_extractors.compiled import entry, helper

_DIGITS = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", np.uint8)


@helper
def _mix(h: Any) -> Any:
    h ^= h >> np.uint64(31)
    h *= np.uint64(0x7FB5D329728EA185)
    h ^= h >> np.uint64(27)
    h *= np.uint64(0x81DADEF4BC2DD44D)
    h ^= h >> np.uint64(33)
    return h


@entry
def _fill(out: Any, parts: Any, digits: Any) -> None:
    for i in range(len(out)):
        a, b = np.uint64(0x243F6A8885A308D3), np.uint64(0x13198A2E03707344)
        for j in range(parts.shape[1]):
            a = _mix(a ^ np.uint64(parts[i, j]))
            b = _mix(b + np.uint64(parts[i, j]) * np.uint64(0x9E3779B97F4A7C15))
        out[i, 0] = 67  # 'C'
        for k in range(1, 11):
            out[i, k] = digits[int(a % np.uint64(62))]
            a = a // np.uint64(62)
        for k in range(11, 18):
            out[i, k] = digits[int(b % np.uint64(62))]
            b = b // np.uint64(62)


def uids(parts: NDArray[np.int64]) -> NDArray[np.bytes_]:
    """Uids [n] S20 of connections described by `parts` [n, k]: start, addresses, ports, protocol, serial number."""
    out = np.zeros((len(parts), 20), np.uint8)
    _fill(out, np.ascontiguousarray(parts), _DIGITS)
    return out.view("S20").reshape(-1)
