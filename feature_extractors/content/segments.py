"""Transport payload on its way from the tracker to the protocol analyzers, and what they still want of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

NEVER: Final = 2**62  # a stream offset no segment reaches: nothing more is wanted


@dataclass(frozen=True, slots=True)
class Segments:
    """`s` payloads in order of arrival, as they came: duplicates, overlaps and out-of-order ones included.

    `connection` is the tracker's serial number, unique in a run; 0, 1, 2 ... in order of each connection's first
    packet. `is_orig` is who sent it as known then; a connection that changes sides later is told by `flip`.
    `data` is read-only and lives as long as somebody holds it: copy what is to outlive the call.
    """

    data: NDArray[np.uint8]  # [bytes]
    connection: NDArray[np.int64]  # [s]
    is_orig: NDArray[np.bool_]  # [s]
    ts: NDArray[np.float64]  # [s] network time, seconds since the epoch; never falls
    offset: NDArray[
        np.int64
    ]  # [s] of the first byte in this direction's TCP stream (0: after the SYN, or the
    #                                 first byte seen where the SYN was missed; may be negative then); -1: a datagram
    before: NDArray[
        np.int64
    ]  # [s] stream offset up to which the direction had come without a hole before; -1: datagram
    start: NDArray[np.int64]  # [s] of the first byte in data
    captured: NDArray[np.int32]  # [s] bytes present in data
    length: NDArray[np.int32]  # [s] bytes of payload on the wire, at least `captured`
    ip_proto: NDArray[np.uint8]  # [s]
    orig_p: NDArray[np.uint16]  # [s]
    resp_p: NDArray[np.uint16]  # [s]
    partial: NDArray[np.bool_]  # [s] TCP: the beginning was missed (Zeek's IsPartial), as known then

    def __len__(self) -> int:
        return len(self.connection)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Bounds on what analysis still wants: segments of these connections that end beyond these stream offsets.

    A datagram counts as ending at offset 0: any bound above 0 stops them. `NEVER` ends a direction. Connections
    that are not named keep what they had (all is wanted from the start).
    """

    connection: NDArray[np.int64]  # [k]
    orig_from: NDArray[np.int64]  # [k] stream offset in the originator's direction
    resp_from: NDArray[np.int64]  # [k]
