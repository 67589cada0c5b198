"""The tracker's memory: the records of connections, endpoints, kept packets and everything around them, as arrays.

All of it is one `State`, which the JIT-compiled loop takes as its single argument (`state_type`). Rows are reused;
which rows are free is a stack. A connection's two endpoints lie at `2 * slot` and `2 * slot + 1`; the first is the
sender of the first packet, and `orig_side` says which of them is the originator, so that a flip swaps one bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from feature_extractors.compiled import needs

if TYPE_CHECKING:
    from feature_extractors.tracker import state_type  # noqa: F401 -- compiled code rests on it too

FOREVER: Final = 1e300  # a time that never comes
NONE: Final = -1  # no such row
HISTORY: Final = 64  # letters of history kept; Zeek has no limit

PACKET = np.dtype(
    [
        ("src_hi", "i8"), ("src_lo", "i8"), ("dst_hi", "i8"), ("dst_lo", "i8"),
        ("ip_begin", "i8"),  # of the IP header
        ("ip_end", "i8"),  # end of the captured bytes that may belong to it
        ("wire_end", "i8"),  # where the frame would end had it been captured whole
        ("cap_end", "i8"),  # end of the captured frame
        ("begin", "i8"),  # of the transport header
        ("end", "i8"),  # end of its captured bytes
        ("payload_len", "i8"),  # transport bytes by the IP header; 0 where the IP length is 0 (offloading)
        ("total_len", "i8"),  # of the IP packet by its header
        ("proto", "i4"), ("vlan", "i4"), ("inner_vlan", "i4"),
        ("link", "i4"),  # what begins at ip_begin of the next layer
        ("src_p", "i4"), ("dst_p", "i4"),
        ("rest_begin", "i8"), ("rest_end", "i8"), ("rest_encap", "i8"), ("rest_depth", "u1"),  # of an aggregate
        ("encap", "i8"),  # the tunnels around it, 0: none
        ("one_way", "u1"),  # an ICMP message that is never answered
        ("depth", "u1"),  # tunnels around it
    ]
)  # fmt: skip

CONNECTION = np.dtype(
    [
        ("hi0", "i8"), ("lo0", "i8"), ("hi1", "i8"), ("lo1", "i8"),  # addresses of side 0 and 1
        ("p0", "i4"), ("p1", "i4"),
        ("key_hash", "i8"),
        ("serial", "i8"),
        ("start", "f8"), ("last", "f8"),
        ("inactivity", "f8"),  # seconds
        ("t_inactive", "f8"), ("t_expire", "f8"), ("t_expire2", "f8"), ("t_attempt", "f8"),
        ("t_delete", "f8"), ("t_dns", "f8"), ("t_early", "f8"),  # when each timer fires
        ("missed", "i8"),
        ("encap", "i8"),
        ("wanted0", "i8"), ("wanted1", "i8"),  # stream offsets beyond which side 0's and 1's payload is wanted
        ("seen", "u4"),  # history letters given, as Zeek's hist_seen
        ("kept_first", "i4"), ("kept_last", "i4"),
        ("vlan", "i4"), ("inner_vlan", "i4"),
        ("kept", "u1"), ("proto", "u1"), ("orig_side", "u1"), ("one_way", "u1"),
        ("is_active", "u1"), ("is_partial", "u1"), ("first_seen", "u1"),
        ("close_deferred", "u1"), ("deferred_event", "u1"),
        ("tunneled", "u1"), ("early", "u1"), ("early_due", "u1"), ("violated", "u1"),
        ("tunnel_changes", "u1"), ("app", "u1"),
        ("history_len", "u1"),
        ("history", "u1", (HISTORY,)),
    ]
)  # fmt: skip

ENDPOINT = np.dtype(
    [
        ("start_seq", "i8"), ("last_seq", "i8"), ("ack_seq", "i8"), ("seq_wraps", "i8"), ("ack_wraps", "i8"),
        ("fin_seq", "i8"), ("hist_syn", "i8"), ("hist_fin", "i8"), ("hist_rst", "i8"),
        ("size", "i8"),  # UDP and ICMP: payload bytes, -1 before the first
        ("reassembled", "i8"),  # TCP: relative sequence number up to which data was delivered
        ("trimmed", "i8"),  # TCP: up to which it was acknowledged
        ("pkts", "i8"), ("ip_bytes", "i8"),
        ("fin_cnt", "i4"), ("rxmt_cnt", "i4"), ("rxmt_next", "i4"), ("win0_cnt", "i4"), ("win0_next", "i4"),
        ("gap_cnt", "i4"), ("gap_next", "i4"),
        ("blocks", "i4"),  # first undelivered block
        ("last_block", "i4"),  # last of them
        ("finger", "i4"),  # the one entered last, where the next is looked for first; NONE where it is gone
        ("held", "i4"),  # undelivered blocks
        ("held_bytes", "i8"),  # in them
        ("state", "u1"), ("prev_state", "u1"), ("did_close", "u1"), ("did_eof", "u1"), ("skip", "u1"),
    ]
)  # fmt: skip

KEPT = np.dtype(
    [
        ("ts", "f8"), ("ip_length", "i4"), ("payload", "i4"), ("next", "i4"), ("side", "u1"),
    ]
)  # fmt: skip

BLOCK = np.dtype([("seq", "i8"), ("upper", "i8"), ("next", "i4")])

ROW = np.dtype(
    [
        ("serial", "i8"), ("ts", "f8"), ("end", "f8"),
        ("orig_hi", "i8"), ("orig_lo", "i8"), ("resp_hi", "i8"), ("resp_lo", "i8"),
        ("side0_hi", "i8"), ("side0_lo", "i8"),
        ("duration", "f8"), ("orig_bytes", "i8"), ("resp_bytes", "i8"), ("missed", "i8"),
        ("orig_pkts", "i8"), ("orig_ip_bytes", "i8"), ("resp_pkts", "i8"), ("resp_ip_bytes", "i8"),
        ("packets", "i8"),  # how many of the kept packets are this row's
        ("vlan", "i4"), ("inner_vlan", "i4"),
        ("orig_p", "u2"), ("resp_p", "u2"), ("p0", "u2"), ("p1", "u2"),
        ("proto", "u1"), ("stage", "i1"), ("conn_state", "i1"), ("tunneled", "?"),
        ("history", "u1", (HISTORY,)),
    ]
)  # fmt: skip

ROW_PACKET = np.dtype(
    [
        ("ts", "f8"), ("ip_length", "i4"), ("payload", "i4"), ("is_orig", "?"),
    ]
)  # fmt: skip

SEGMENT = np.dtype(
    [
        ("connection", "i8"), ("ts", "f8"), ("offset", "i8"), ("before", "i8"), ("start", "i8"), ("captured", "i4"),
        ("length", "i4"),
        ("slot", "i4"), ("orig_p", "u2"), ("resp_p", "u2"), ("ip_proto", "u1"), ("is_orig", "?"), ("partial", "?"),
    ]
)  # fmt: skip

FRAGMENTS = np.dtype(
    [
        ("src_hi", "i8"), ("src_lo", "i8"), ("dst_hi", "i8"), ("dst_lo", "i8"), ("id", "i8"),
        ("expires", "f8"),
        ("size", "i8"),  # of the whole payload, 0 while unknown
        ("header_len", "i4"),
        ("next_proto", "i4"),
        ("used", "u1"),
        ("spans", "i4"),  # how many of seq/upper are in use, sorted, none touching another
        ("seq", "i4", (64,)), ("upper", "i4", (64,)),
    ]
)  # fmt: skip

FRAGMENT_BUFFER: Final = 65536 + 512  # a header and the largest payload

# Where in `State.n` each counter of the tracker lies.
(
    N_SERIAL,
    N_FREE,
    N_FREE_KEPT,
    N_FREE_BLOCKS,
    N_ROWS,
    N_ROW_PACKETS,
    N_SEGMENTS,
    N_EXTRA,
    N_HEAP,
    N_FRAGMENTS,
) = range(10)
N_DECODED, N_UNKNOWN_LINK, N_SEED, N_SEED_2 = range(10, 14)  # the seeds: the key of the table's hash


@dataclass(frozen=True, slots=True)
class State:
    """The state of the tracker between frames, as arrays, which grow between two calls of the loop."""

    conns: NDArray[np.void]  # [c] CONNECTION
    ends: NDArray[np.void]  # [2c] ENDPOINT
    free: NDArray[np.int32]  # [c] stack of free slots
    table: NDArray[np.int32]  # [power of two, at least 2c] slots by hash, NONE where empty
    heap: NDArray[np.int32]  # [c] slots, earliest timer first
    heap_at: NDArray[np.int32]  # [c] where in the heap a slot lies, NONE if free
    heap_time: NDArray[np.float64]  # [c] when the slot is looked at next
    kept: NDArray[np.void]  # [k] KEPT
    free_kept: NDArray[np.int32]  # [k] stack
    blocks: NDArray[np.void]  # [b] BLOCK
    free_blocks: NDArray[np.int32]  # [b] stack
    rows: NDArray[np.void]  # [r] ROW, connections that ended in this call
    row_packets: NDArray[np.void]  # [r * 32] ROW_PACKET
    segments: NDArray[np.void]  # [s] SEGMENT
    extra: NDArray[np.uint8]  # [x] payload that does not lie in the block of frames
    fragments: NDArray[np.void]  # [f] FRAGMENTS
    fragment_data: NDArray[np.uint8]  # [f * FRAGMENT_BUFFER]
    whole: NDArray[np.uint8]  # [FRAGMENT_BUFFER] the packet just reassembled
    whole_readonly: NDArray[np.uint8]  # the same memory
    packet: NDArray[np.void]  # [1] PACKET being decoded
    n: NDArray[np.int64]  # [16] the counters above
    clock: NDArray[np.float64]  # [1] network time, never going back
    counts: NDArray[np.int64]  # [len(REASONS)]
    server_ports: NDArray[np.bool_]  # [2 * 65536] Zeek's likely_server_ports, TCP before UDP
    limits: NDArray[np.int64]  # [4] connections, blocks per endpoint, early windows wanted, content wanted
    addresses: NDArray[np.int64] = field(init=False)  # where each of the above lies, and how long it is

    def __post_init__(self) -> None:
        addresses = []
        for name, dtype in ARRAYS.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.ndim != 1 or not array.flags.c_contiguous:
                raise ValueError(
                    f"state {name}: found {array.dtype} {array.shape}, expected {dtype} in one row"
                )
            addresses += [array.ctypes.data, len(array)]
        object.__setattr__(self, "addresses", np.array(addresses, np.int64))

    @property
    def pointer(self) -> int:
        """The address of `addresses`; the state must outlive its use."""
        return int(self.addresses.ctypes.data)


# The element type of each array in `State`, in its order.
ARRAYS: Final = {
    "conns": CONNECTION, "ends": ENDPOINT, "free": np.dtype(np.int32), "table": np.dtype(np.int32),
    "heap": np.dtype(np.int32), "heap_at": np.dtype(np.int32), "heap_time": np.dtype(np.float64), "kept": KEPT,
    "free_kept": np.dtype(np.int32), "blocks": BLOCK, "free_blocks": np.dtype(np.int32), "rows": ROW,
    "row_packets": ROW_PACKET, "segments": SEGMENT, "extra": np.dtype(np.uint8), "fragments": FRAGMENTS,
    "fragment_data": np.dtype(np.uint8), "whole": np.dtype(np.uint8), "whole_readonly": np.dtype(np.uint8),
    "packet": PACKET, "n": np.dtype(np.int64), "clock": np.dtype(np.float64), "counts": np.dtype(np.int64),
    "server_ports": np.dtype(np.bool_), "limits": np.dtype(np.int64),
}  # fmt: skip


L_CONNECTIONS, L_BLOCKS, L_EARLY, L_CONTENT = range(4)


@dataclass(frozen=True, slots=True)
class TrackerLimits:
    """The bounds of the connection table; what is evicted is counted."""

    connections: int = 262_144  # at once; the one whose timer is next makes room
    blocks_per_direction: int = 256  # out-of-order blocks waiting for a hole to be filled
    fragments: int = 256  # datagrams being reassembled; the oldest makes room

    def __post_init__(self) -> None:
        for name, least in (("connections", 1), ("blocks_per_direction", 1), ("fragments", 1)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"tracker limit {name}: found {getattr(self, name)}, expected at least {least}"
                )


_TCP_SERVERS: Final = (
    21, 2811, 22, 25, 587, 53, 79, 80, 81, 88, 135, 139, 143, 445, 443, 465, 502, 563, 585, 614, 631, 636, 989, 990,
    992, 993, 995, 1080, 1434, 1883, 3128, 3306, 3389, 5222, 5223, 5269, 6666, 6667, 6668, 6669, 8000, 8080, 8888,
    20000,
)  # fmt: skip
_UDP_SERVERS: Final = (
    53, 67, 88, 123, 137, 161, 162, 443, 514, 1812, 2123, 2152, 3389, 3544, 4011, 4754, 4789, 5060, 5072, 5353, 5355,
    6081, 20000,
)  # fmt: skip


def likely_server_ports() -> NDArray[np.bool_]:
    """Zeek's `likely_server_ports` after the base scripts have registered theirs: 65536 of TCP, then of UDP."""
    ports = np.zeros((2, 65536), np.bool_)
    ports[0, list(_TCP_SERVERS)] = True
    ports[1, list(_UDP_SERVERS)] = True
    return ports.reshape(-1)


needs("feature_extractors.tracker.state_type")  # tells numba of `State`
