"""Community ID version 1 (Corelight's specification), over columns of connections."""

from __future__ import annotations

import base64
import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

_ICMP_ANSWERS: Final = {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17, 10: 9, 9: 10}
_ICMP6_ANSWERS: Final = {
    128: 129, 129: 128, 133: 134, 134: 133, 135: 136, 136: 135, 130: 131, 131: 130, 139: 140, 140: 139, 144: 145,
    145: 144,
}  # fmt: skip
_PORTED: Final = frozenset((1, 6, 17, 58, 132))
_MAPPED: Final = bytes(10) + b"\xff\xff"


def community_id_v1(
    orig_h: NDArray[np.uint8],
    resp_h: NDArray[np.uint8],
    orig_p: NDArray[np.uint16],
    resp_p: NDArray[np.uint16],
    ip_proto: NDArray[np.uint8],
    seed: int = 0,
) -> list[str]:
    """Community IDs [n] of connections: addresses [n, 16] (IPv4 as ::ffff:a.b.c.d), ports or ICMP type and answer.

    ICMP follows Zeek's ports: the originator's type, and the answer's type or, for a message without answer, its
    code. Other protocols than TCP, UDP, SCTP and ICMP are hashed without ports. `seed`: 0..65535.
    """
    ids = []
    prefix = seed.to_bytes(2, "big")
    for orig, resp, orig_port, resp_port, proto in zip(
        np.ascontiguousarray(orig_h).view("V16").reshape(-1).tolist(),
        np.ascontiguousarray(resp_h).view("V16").reshape(-1).tolist(),
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
        ids.append("1:" + base64.b64encode(digest).decode())
    return ids


def _swapped(port: int) -> int:
    """Where a host talks to itself, Zeek orders the ports as a little-endian host reads them off the wire.

    The specification orders them as numbers; being found beside Zeek's own logs counts for more.
    """
    return (port & 0xFF) << 8 | port >> 8


def _address(packed: bytes) -> bytes:
    return packed[12:] if packed.startswith(_MAPPED) else packed
