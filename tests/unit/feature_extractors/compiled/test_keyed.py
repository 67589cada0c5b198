"""Hashes of tables that strangers fill: without the key nobody makes two entries meet, nor lie near each other."""

import struct
from itertools import product

import numpy as np
import pytest

from feature_extractors.compiled.keyed import hashed, key_of
from feature_extractors.extract import Extractor
from feature_extractors.frames import FrameBlock
from feature_extractors.tracker.state import NONE

MASK = 2**64 - 1


def sip_1_3(key: tuple[int, int], words: list[int]) -> int:
    """SipHash-1-3 of whole words, as the paper writes it down."""

    def rotated(x: int, by: int) -> int:
        return (x << by | x >> 64 - by) & MASK

    v = [
        key[0] ^ 0x736F6D6570736575,
        key[1] ^ 0x646F72616E646F6D,
        key[0] ^ 0x6C7967656E657261,
        key[1] ^ 0x7465646279746573,
    ]

    def turn() -> None:
        v[0] = (v[0] + v[1]) & MASK
        v[1] = rotated(v[1], 13) ^ v[0]
        v[0] = rotated(v[0], 32)
        v[2] = (v[2] + v[3]) & MASK
        v[3] = rotated(v[3], 16) ^ v[2]
        v[0] = (v[0] + v[3]) & MASK
        v[3] = rotated(v[3], 21) ^ v[0]
        v[2] = (v[2] + v[1]) & MASK
        v[1] = rotated(v[1], 17) ^ v[2]
        v[2] = rotated(v[2], 32)

    for word in words:
        v[3] ^= word
        turn()
        v[0] ^= word
    v[2] ^= 0xFF
    for _ in range(3):
        turn()
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def test_it_is_siphash() -> None:
    rng = np.random.default_rng(1)
    columns = [rng.integers(0, 2**64, 50, np.uint64) for _ in range(3)]
    key = key_of(0x0F0E0D0C0B0A09080706050403020100)
    expected = [sip_1_3(key, [int(c[i]) for c in columns]) for i in range(50)]
    assert hashed(key, *columns).tolist() == expected


def patterned(t: int, n: int) -> list[tuple[int, int]]:
    """Halves of addresses whose differences cancel in one xor-shift by 32, and so in any hash that begins with it."""
    some = [u << 64 - t | u << 32 - t for u in range(n)]
    return [(0x20010DB800000000 ^ a, 0x20010DB800010000 ^ b) for a, b in product(some, some)]


def consecutive(n: int) -> list[tuple[int, int]]:
    return [(0x20010DB800000000 + a, 0x20010DB800010000 + b) for a, b in product(range(n), range(n))]


def frames(pairs: list[tuple[int, int]]) -> FrameBlock:
    """A packet of an unknown protocol between each pair of addresses."""
    ip = b"".join(
        bytes(12) + b"\x86\xdd" + struct.pack(">IHBBQQQQ", 6 << 28, 8, 253, 64, a, 0, b, 0) + bytes(8)
        for a, b in pairs
    )
    n, size = len(pairs), len(ip) // len(pairs)
    same = np.full(n, size, np.int32)
    return FrameBlock(
        np.frombuffer(ip, np.uint8), np.arange(n) * size, same, same.copy(), 1.7e9 + np.arange(n) * 1e-5,
        np.ones(n, np.int32),
    )  # fmt: skip


@pytest.mark.parametrize("pairs", [patterned(10, 128), patterned(16, 64), consecutive(64)])
def test_addresses_chosen_to_meet_lie_apart_in_the_trackers_table(pairs: list[tuple[int, int]]) -> None:
    extractor = Extractor(content=False)
    extractor.receive(frames(pairs))
    st = extractor._state
    used = np.flatnonzero(st.table != NONE)
    assert len(used) == len(pairs)
    home = st.conns["key_hash"][st.table[used]] & (len(st.table) - 1)
    assert ((used - home) & (len(st.table) - 1)).mean() < 2.0


def test_two_keys_give_the_same_windows() -> None:
    one, other = Extractor(content=False), Extractor(content=False)
    for extractor in (one, other):
        extractor.receive(frames(patterned(8, 16)))
    assert (one._state.n[10:] != other._state.n[10:]).any()
    assert one.finish().connections.uid.tolist() == other.finish().connections.uid.tolist()
