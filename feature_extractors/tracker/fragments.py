"""IP fragments put together again, as Zeek's Frag.cc does: what came first stays, and holes are waited for."""

from __future__ import annotations

from typing import Any, Final

from feature_extractors.compiled import helper, i64
from feature_extractors.tracker import reasons
from feature_extractors.tracker.state import FRAGMENT_BUFFER, N_FRAGMENTS

_TIMEOUT_SECONDS: Final = 300.0  # Zeek's frag_timeout, seconds
_MAX_SPANS: Final = 64  # pieces of one datagram that may stand apart
_MAX_DATAGRAM_BYTES: Final = 65535


@helper
def add_fragment(
    st: Any,
    data: Any,
    packet: Any,
    ident: int,
    offset: int,
    more: bool,
    header_len: int,
    keep: int,
    next_proto: int,
) -> int:
    """Takes one fragment, header of `header_len` bytes at `packet.ip_begin`; `packet.total_len` is its IP length.

    The first `keep` bytes of the header go before the whole payload (IPv6 leaves its fragment header out).
    Returns a reason; 0 when the datagram is whole: then it lies in `st.whole`, `packet.begin` is where its
    payload begins there, `packet.end` where it ends, and `packet.proto` its protocol.
    """
    size = packet.total_len - header_len
    row = _find(st, packet, ident)
    if row < 0:
        row = _take(st, packet, ident)
        f = st.fragments[row]
        f.header_len = min(keep, 512)
        f.next_proto = next_proto
        base = row * FRAGMENT_BUFFER
        for i in range(f.header_len):
            st.fragment_data[base + i] = data[packet.ip_begin + i]
    f = st.fragments[row]
    upper = offset + size
    if offset == 0:
        f.next_proto = next_proto
    if not more:
        f.size = max(f.size, upper)
    elif f.size and upper > f.size:
        f.size = upper
    if size <= 0:
        return reasons.FRAGMENT_HELD
    if upper > _MAX_DATAGRAM_BYTES or not _insert(
        st, f, row, data, packet.ip_begin + header_len, offset, upper
    ):
        f.used = 0
        return reasons.FRAGMENT_BAD
    if f.seq[0] > 0 or f.size == 0 or f.upper[0] < f.size:
        return reasons.FRAGMENT_HELD
    total = i64(f.upper[0])  # at least f.size
    base = row * FRAGMENT_BUFFER
    head = i64(f.header_len)
    if head + total > FRAGMENT_BUFFER:
        f.used = 0
        return reasons.FRAGMENT_BAD
    for i in range(head + total):
        st.whole[i] = st.fragment_data[base + i]
    packet.begin = head
    packet.end = head + total
    packet.proto = f.next_proto
    f.used = 0
    return reasons.OK


@helper
def _find(st: Any, packet: Any, ident: int) -> int:
    for row in range(st.n[N_FRAGMENTS]):
        f = st.fragments[row]
        if (
            f.used
            and f.id == ident
            and f.src_lo == packet.src_lo
            and f.dst_lo == packet.dst_lo
            and f.src_hi == packet.src_hi
            and f.dst_hi == packet.dst_hi
        ):
            if f.expires <= st.clock[0]:
                f.used = 0
                st.counts[reasons.FRAGMENT_EXPIRED] += 1
                return -1
            return row
    return -1


@helper
def _take(st: Any, packet: Any, ident: int) -> int:
    """A free row, or that of the oldest datagram."""
    row, oldest = -1, 0
    for i in range(st.n[N_FRAGMENTS]):
        if not st.fragments[i].used:
            row = i
            break
        if st.fragments[i].expires < st.fragments[oldest].expires:
            oldest = i
    if row < 0:
        if st.n[N_FRAGMENTS] < len(st.fragments):
            row = st.n[N_FRAGMENTS]
            st.n[N_FRAGMENTS] += 1
        else:
            row = oldest
            expired = st.fragments[row].expires <= st.clock[0]
            st.counts[reasons.FRAGMENT_EXPIRED if expired else reasons.FRAGMENT_EVICTED] += 1
    f = st.fragments[row]
    f.used = 1
    f.src_hi, f.src_lo, f.dst_hi, f.dst_lo = packet.src_hi, packet.src_lo, packet.dst_hi, packet.dst_lo
    f.id = ident
    f.expires = st.clock[0] + _TIMEOUT_SECONDS
    f.size = 0
    f.spans = 0
    return row


@helper
def _insert(st: Any, f: Any, row: int, data: Any, source: int, seq: int, upper: int) -> bool:
    """Copies what is new of [seq, upper) and joins the spans. False where too many pieces stand apart."""
    base = row * FRAGMENT_BUFFER + f.header_len
    at = seq
    for i in range(f.spans):
        for j in range(at, min(upper, i64(f.seq[i]))):
            st.fragment_data[base + j] = data[source + j - seq]
        at = max(at, i64(f.upper[i]))
    for j in range(at, upper):
        st.fragment_data[base + j] = data[source + j - seq]
    first = 0
    while first < f.spans and f.upper[first] < seq:
        first += 1
    last = first  # spans [first, last) touch the new one
    low, high = seq, upper
    while last < f.spans and f.seq[last] <= upper:
        low = min(low, i64(f.seq[last]))
        high = max(high, i64(f.upper[last]))
        last += 1
    spans = f.spans - (last - first) + 1
    if spans > _MAX_SPANS:
        return False
    if last == first:
        for i in range(f.spans, first, -1):
            f.seq[i] = f.seq[i - 1]
            f.upper[i] = f.upper[i - 1]
    else:
        for i in range(last, f.spans):
            f.seq[i - (last - first) + 1] = f.seq[i]
            f.upper[i - (last - first) + 1] = f.upper[i]
    f.seq[first] = low
    f.upper[first] = high
    f.spans = spans
    return True
