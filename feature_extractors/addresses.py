"""Addresses in columns of 16 bytes, IPv4 mapped into IPv6: which are which, and their text and back."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray


def is_ipv4(address: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether each address [n, 16] is IPv4, mapped into IPv6 (RFC 4291, 2.5.5.2)."""
    mapped: NDArray[np.bool_] = (address[:, :10] == 0).all(axis=1) & (address[:, 10:12] == 255).all(axis=1)
    return mapped


def address_texts(column: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> list[str]:
    """The text of each address of a [n, 16] column, as Zeek writes it."""
    raw = np.ascontiguousarray(column).view("V16").ravel().tolist()
    return [_address(a) for a in raw]


def addresses_of(texts: Sequence[str]) -> NDArray[np.uint8]:
    """The addresses [n, 16] of texts as Zeek writes them; zeros for what is none."""
    return np.frombuffer(b"".join(map(_packed, texts)), np.uint8).reshape(-1, 16)


_IPV4_MAPPED_PREFIX: Final = bytes(10) + b"\xff\xff"


@lru_cache(maxsize=65536)
def _address(raw: bytes) -> str:
    if raw[:12] == _IPV4_MAPPED_PREFIX:
        return socket.inet_ntop(socket.AF_INET, raw[12:])
    return socket.inet_ntop(socket.AF_INET6, raw)


@lru_cache(maxsize=65536)
def _packed(text: str) -> bytes:
    try:
        if ":" in text:
            return socket.inet_pton(socket.AF_INET6, text)
        return _IPV4_MAPPED_PREFIX + socket.inet_pton(socket.AF_INET, text)
    except OSError:
        return bytes(16)  # Zeek writes addresses; anything else must still not stop the others
