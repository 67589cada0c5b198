"""What nobody reads is not computed where no logs are asked for, and what is read of the entries stays the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import fuzzed
import numpy as np
import pytest
from made_segments import Piece, segments
from spoken import TALKS

from cmdana_plugin.config import Config
from cmdana_plugin.replay import Summary
from cmdana_plugin.replay.embedded import extract
from feature_extractors.content.reassembly import Content
from feature_extractors.features import encoded, load_schema
from feature_extractors.observations import LogEntry, concat

TRACES = Path(__file__).parents[3] / "traces"
BUSY_MINUTES = TRACES / "busy-minutes" / "busy-minutes.pcap.gz"
SCHEMA = load_schema()
READS = SCHEMA.reads()


def equal(one: Any, other: Any, where: str = "") -> None:
    """Asserts that two frozen columns of columns hold the same."""
    for f in fields(one):
        a, b, name = getattr(one, f.name), getattr(other, f.name), f"{where}{f.name}"
        if is_dataclass(a):
            equal(a, b, f"{name}.")
        elif isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, name
            assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), name
        else:
            assert a == b or list(a) == list(b), name


def left_out(whole: Sequence[LogEntry], brief: Sequence[LogEntry]) -> dict[str, set[str]]:
    """The fields by stream that brief entries lack; asserts that they lack nothing that is read."""
    kept = [entry for entry in whole if entry.stream != "x509"]
    out: dict[str, set[str]] = defaultdict(set)
    assert [(e.stream, e.ts, e.uid) for e in kept] == [(e.stream, e.ts, e.uid) for e in brief]
    for entry, short in zip(kept, brief, strict=True):
        assert entry.fields.items() >= short.fields.items()
        missing = entry.fields.keys() - short.fields.keys()
        assert not missing & READS.get(entry.stream, set())
        out[entry.stream] |= missing
    if len(kept) < len(whole):
        assert "x509" not in READS
        out["x509"] = {"all"}
    return out


def test_busy_minutes_encode_to_the_same_with_brief_entries() -> None:
    whole, brief = (
        concat(list(extract([BUSY_MINUTES], Config(), Summary([]), brief=b))) for b in (False, True)
    )
    equal(encoded(whole, SCHEMA), encoded(brief, SCHEMA))
    out = left_out(whole.logs, brief.logs)
    assert {"qclass", "trans_id", "rejected"} <= out["dns"]
    assert {"ja3", "ja3s", "ja4", "cert_chain_fps", "ssl_history"} <= out["ssl"]
    assert out["x509"]
    assert out["ssh"] >= {"hassh", "hassh_server"}
    assert "ref_time" in out["ntp"]


def test_who_asks_for_rows_gets_whole_entries() -> None:
    rows: list[Any] = []
    asked = concat(list(extract([BUSY_MINUTES], Config(), Summary([]), rows=rows.extend, brief=True)))
    plain = concat(list(extract([BUSY_MINUTES], Config(), Summary([]))))
    whole = {stream: set[str]() for stream in ("dns", "ssl", "x509")}
    for entry in asked.logs:
        whole.get(entry.stream, set()).update(entry.fields)
    assert {"qclass", "rcode"} <= whole["dns"]
    assert {"ja3", "cert_chain_fps"} <= whole["ssl"]
    assert "certificate.subject" in whole["x509"]
    assert {"ja3", "qclass"} <= {name for entry in plain.logs for name in entry.fields}
    assert "certificate.subject" in {name for row in rows for name in row.fields}


def read(pieces: Sequence[Piece], brief: bool) -> tuple[list[str], list[LogEntry]]:
    content = Content(fuzzed.LIMITS, brief=brief)
    content.receive(segments(list(pieces)))
    services, entries, _ = content.close(np.array([0]), np.array([b"C0"], "S20"))
    return services, entries


def alike(pieces: Sequence[Piece]) -> None:
    (services, whole), (again, brief) = read(pieces, False), read(pieces, True)
    assert services == again
    left_out(whole, brief)


@pytest.mark.parametrize("name", TALKS)
def test_every_protocol_says_what_is_read(name: str) -> None:
    talk = TALKS[name]
    at, pieces = {True: 0, False: 0}, []
    for i, (is_orig, data) in enumerate(talk.said):
        offset = at[is_orig] if talk.proto == 6 else -1
        pieces.append(
            Piece(is_orig, offset, data, float(i), ip_proto=talk.proto, orig_p=talk.orig_p, resp_p=talk.port)
        )
        at[is_orig] += len(data)
    alike(pieces)


def test_hostile_bytes_are_read_alike() -> None:
    for line in (TRACES / "fuzzed.txt").read_text().split():
        if pieces := fuzzed.pieces(bytes.fromhex(line)):
            alike(pieces)
