"""What a fuzzer's bytes mean to the analyzers, and what must hold of any of them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from made_segments import Piece, segments

from feature_extractors.content.reassembly import Content, ContentLimits
from feature_extractors.content.segments import NEVER
from feature_extractors.observations import LogEntry

PORTS = (
    80, 443, 6667, 21, 3306, 25, 445, 5222, 22, 53, 88, 135, 143, 502, 1883, 3389, 20000, 1080, 9999, 110, 5900,
    53, 137, 5353, 67, 161, 2152, 88, 123, 443, 514, 1812, 3389, 3544, 4789, 5060, 5072, 6081, 20000, 9999,
)  # fmt: skip
FIRST_UDP = 21
MAX_SEGMENTS = 64
LIMITS = ContentLimits(
    pending_bytes=4096, pending_segments=8, log_entries=64, buffer_bytes=8192, decoded_bytes=65536
)


def pieces(data: bytes) -> list[Piece]:
    """The segments that these bytes stand for."""
    at, parts = 1, []
    while at + 3 <= len(data) and len(parts) < MAX_SEGMENTS:
        length = data[at + 1] << 8 | data[at + 2]
        parts.append((data[at], data[at + 3 : at + 3 + length]))
        at += 3 + length
    return connection(data[0] if data else 0, parts)


def connection(kind: int, parts: Sequence[tuple[int, bytes]], number: int = 0) -> list[Piece]:
    """The segments of connection `number`, by the byte that chooses the port and the flags and payload of each."""
    kind %= len(PORTS)
    is_udp = kind >= FIRST_UDP
    out, reached = [], [0, 0]
    for flags, payload in parts:
        is_orig = bool(flags & 1)
        if flags & 2:
            reached[is_orig] += flags >> 4
        missing = flags >> 4 if flags & 4 else 0
        out.append(
            Piece(
                is_orig, -1 if is_udp else reached[is_orig], payload, float(len(out)), len(payload) + missing,
                connection=number, ip_proto=17 if is_udp else 6, resp_p=PORTS[kind],
            )
        )  # fmt: skip
        reached[is_orig] += len(payload) + missing
    return [p for p in out if p.length]


def said(parts: list[list[Piece]], everything: list[Piece]) -> tuple[list[str], list[LogEntry]]:
    """Services and entries, the segments handed over in these parts, and only those still wanted."""
    content = Content(LIMITS)
    wanted = [0, 0]
    for part in parts:
        some = [p for p in part if max(p.offset, 0) + (p.length if p.offset >= 0 else 1) > wanted[p.is_orig]]
        if some:
            answer = content.receive(segments(some))
            if len(answer.connection):
                wanted = [int(answer.resp_from[0]), int(answer.orig_from[0])]
    ends = np.array(
        [[max([p.offset + p.length for p in everything if p.is_orig == o], default=0) for o in (True, False)]]
    )
    services, entries, _ = content.close(np.array([0]), np.array([b"C0"], "S20"), ends)
    assert content._pending_total == 0, "bytes are still held"
    assert content._run.entries_open == 0, "entries are still held"
    assert len(entries) <= LIMITS.log_entries, "too many entries"
    assert all(w <= NEVER for w in wanted)
    return services, entries


def check(data: bytes) -> None:
    """Asserts that these bytes harm nothing and read alike whole and segment by segment."""
    everything = pieces(data)
    if not everything:
        return
    whole = said([everything], everything)
    single = said([[p] for p in everything], everything)
    assert whole == single, "blocks changed the entries"
    for entry in whole[1]:
        text = json.dumps(dict(entry.fields))
        assert len(text) < 2_000_000, "an entry without bounds"
