"""Community ID version 1 (Corelight's specification), over columns of connections."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feature_extractors.addresses import is_ipv4

_ICMP_ANSWERS: Final = {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17, 10: 9, 9: 10}
_ICMP6_ANSWERS: Final = {
    128: 129, 129: 128, 133: 134, 134: 133, 135: 136, 136: 135, 130: 131, 131: 130, 139: 140, 140: 139, 144: 145,
    145: 144,
}  # fmt: skip
_PORTED: Final = frozenset((1, 6, 17, 58, 132))
_ID: Final = "S30"  # "1:" and 20 bytes in base64
_IPV4_MAPPED_PREFIX: Final = bytes(10) + b"\xff\xff"


def community_id_v1(
    orig_h: NDArray[np.uint8],
    resp_h: NDArray[np.uint8],
    orig_p: NDArray[np.uint16],
    resp_p: NDArray[np.uint16],
    ip_proto: NDArray[np.uint8],
    seed: int = 0,
) -> NDArray[np.bytes_]:
    """The Community IDs [n] (S30) of connections: addresses [n, 16] (IPv4 mapped), ports, or ICMP type and answer.

    ICMP follows Zeek's ports: the originator's type, and the answer's type or, for a message without answer, its
    code. Other protocols than TCP, UDP, SCTP and ICMP are hashed without ports. `seed`: 0..65535.
    """
    orig_h, resp_h = np.ascontiguousarray(orig_h), np.ascontiguousarray(resp_h)
    usual = ((ip_proto == 6) | (ip_proto == 17)) & is_ipv4(orig_h) & is_ipv4(resp_h)
    if usual.all():
        return _of_ipv4(orig_h, resp_h, orig_p, resp_p, ip_proto, seed)
    ids = np.empty(len(usual), _ID)
    for rows, way in ((usual, _of_ipv4), (~usual, _one_by_one)):
        ids[rows] = way(orig_h[rows], resp_h[rows], orig_p[rows], resp_p[rows], ip_proto[rows], seed)
    return ids


def _of_ipv4(
    orig_h: NDArray[np.uint8],
    resp_h: NDArray[np.uint8],
    orig_p: NDArray[np.uint16],
    resp_p: NDArray[np.uint16],
    ip_proto: NDArray[np.uint8],
    seed: int,
) -> NDArray[np.bytes_]:
    """TCP and UDP over IPv4, put in order all at once: `_one_by_one` takes three times as long."""
    sides = [
        np.ascontiguousarray(a[:, 12:]).view(">u4").reshape(-1).astype(np.int64) << 16 | p.byteswap()
        for a, p in ((orig_h, orig_p), (resp_h, resp_p))
    ]
    turned = sides[0] > sides[1]
    rows = np.zeros(len(turned), [("seed", ">u2"), ("src", ">u4"), ("dst", ">u4"), ("proto", "u1"), ("pad", "u1"),
                                  ("sport", ">u2"), ("dport", ">u2")])  # fmt: skip
    rows["seed"], rows["proto"] = seed, ip_proto
    rows["src"], rows["dst"] = (np.where(turned, b, a) >> 16 for a, b in (sides, sides[::-1]))
    rows["sport"], rows["dport"] = (np.where(turned, b, a) for a, b in ((orig_p, resp_p), (resp_p, orig_p)))
    raw, width = rows.tobytes(), rows.itemsize
    sha1, encode = hashlib.sha1, binascii.b2a_base64
    return np.array(
        [
            b"1:" + encode(sha1(raw[k : k + width], usedforsecurity=False).digest(), newline=False)
            for k in range(0, len(raw), width)
        ],
        _ID,
    )


def _one_by_one(
    orig_h: NDArray[np.uint8],
    resp_h: NDArray[np.uint8],
    orig_p: NDArray[np.uint16],
    resp_p: NDArray[np.uint16],
    ip_proto: NDArray[np.uint8],
    seed: int,
) -> NDArray[np.bytes_]:
    ids = []
    prefix = seed.to_bytes(2, "big")
    for orig, resp, orig_port, resp_port, proto in zip(
        orig_h.view("V16").reshape(-1).tolist(),
        resp_h.view("V16").reshape(-1).tolist(),
        orig_p.tolist(),
        resp_p.tolist(),
        ip_proto.tolist(),
        strict=True,
    ):
        src, dst, sport, dport = _address(orig), _address(resp), orig_port, resp_port
        answers = _ICMP_ANSWERS if proto == 1 else _ICMP6_ANSWERS
        one_way = proto in (1, 58) and answers.get(sport) != dport
        if not one_way and (src, _swapped(sport)) > (dst, _swapped(dport)):
            src, dst, sport, dport = dst, src, dport, sport
        tuple_bytes = prefix + src + dst + bytes((proto, 0))
        if proto in _PORTED:
            tuple_bytes += sport.to_bytes(2, "big") + dport.to_bytes(2, "big")
        digest = hashlib.sha1(tuple_bytes, usedforsecurity=False).digest()
        ids.append(b"1:" + base64.b64encode(digest))
    return np.array(ids, _ID)


def _swapped(port: int) -> int:
    """Where a host talks to itself, Zeek orders the ports as a little-endian host reads them off the wire.

    The specification orders them as numbers; being found beside Zeek's own logs counts for more.
    """
    return (port & 0xFF) << 8 | port >> 8


def _address(packed: bytes) -> bytes:
    return packed[12:] if packed.startswith(_IPV4_MAPPED_PREFIX) else packed
