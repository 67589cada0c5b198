"""SipHash-1-3 (Aumasson and Bernstein 2012): hashes for tables that strangers fill.

Who does not know the 128 bits of the key can make no two entries meet, nor lie near each other.
"""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_extractors.compiled.jit import entry, helper


def new_key() -> tuple[int, int]:
    """A key of 128 random bits from the operating system, as two words."""
    return secrets.randbits(64), secrets.randbits(64)


def key_of(salt: int) -> tuple[int, int]:
    """The key of a salt of up to 128 bits."""
    return salt & 0xFFFFFFFFFFFFFFFF, salt >> 64 & 0xFFFFFFFFFFFFFFFF


@helper
def begun(k0: Any, k1: Any) -> Any:
    """The initial state of a hash under a key, four words."""
    return (
        k0 ^ np.uint64(0x736F6D6570736575),
        k1 ^ np.uint64(0x646F72616E646F6D),
        k0 ^ np.uint64(0x6C7967656E657261),
        k1 ^ np.uint64(0x7465646279746573),
    )


@helper
def _rotated(x: Any, by: int) -> Any:
    return (x << np.uint64(by)) | (x >> np.uint64(64 - by))


@helper
def _round(a: Any, b: Any, c: Any, d: Any) -> Any:
    a += b
    b = _rotated(b, 13) ^ a
    a = _rotated(a, 32)
    c += d
    d = _rotated(d, 16) ^ c
    a += d
    d = _rotated(d, 21) ^ a
    c += b
    b = _rotated(b, 17) ^ c
    c = _rotated(c, 32)
    return a, b, c, d


@helper
def absorbed(a: Any, b: Any, c: Any, d: Any, word: Any) -> Any:
    """The state after one more word of the message."""
    a, b, c, d = _round(a, b, c, d ^ word)
    return a ^ word, b, c, d


@helper
def ended(a: Any, b: Any, c: Any, d: Any) -> Any:
    """The hash, 64 bits. The length is not hashed: it has to follow from the words."""
    a, b, c, d = _round(a, b, c ^ np.uint64(0xFF), d)
    a, b, c, d = _round(a, b, c, d)
    a, b, c, d = _round(a, b, c, d)
    return a ^ b ^ c ^ d


@helper
def hashed_two(k0: Any, k1: Any, one: Any, other: Any) -> Any:
    """The hash, 64 bits, of a message of two words."""
    a, b, c, d = begun(k0, k1)
    a, b, c, d = absorbed(a, b, c, d, one)
    a, b, c, d = absorbed(a, b, c, d, other)
    return ended(a, b, c, d)


@entry
def _hashed(words: NDArray[np.uint64], k0: np.uint64, k1: np.uint64, out: NDArray[np.uint64]) -> None:
    for i in range(words.shape[0]):
        a, b, c, d = begun(k0, k1)
        for j in range(words.shape[1]):
            a, b, c, d = absorbed(a, b, c, d, words[i, j])
        out[i] = ended(a, b, c, d)


def hashed(key: tuple[int, int], *columns: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The hash of each row [n] of the columns [n], the same number of them for all keys of a table."""
    out = np.empty(len(columns[0]), np.uint64)
    _hashed(np.stack(columns, axis=1), np.uint64(key[0]), np.uint64(key[1]), out)
    return out
