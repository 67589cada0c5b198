"""What each analyzer's protocol says comes out as the rows of Zeek's logs, field by field."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import fuzzed
import numpy as np
import pytest
from made_segments import Piece, segments
from spoken import TALKS, Talk

from feature_extractors.content.analyzers.base import ContentLimits
from feature_extractors.content.reassembly import Content
from feature_extractors.observations import LogRow

TRACES = Path(__file__).parents[4] / "traces"
HOSTS = np.array([[[*[0] * 10, 255, 255, 10, 0, 0, n] for n in (1, 2)]], np.uint8)


def rows_of(
    talk: Talk, size: int = 1 << 20, limits: ContentLimits | None = None
) -> dict[str, list[dict[str, Any]]]:
    """The rows of a conversation by log, in Zeek's order, with their times."""
    content = Content(limits, logs=True)
    at, pieces = {True: 0, False: 0}, []
    for i, (is_orig, data) in enumerate(talk.said):
        for start in range(0, len(data), size if talk.proto == 6 else len(data)):
            part = data[start : start + (size if talk.proto == 6 else len(data))]
            pieces.append(Piece(is_orig, at[is_orig] if talk.proto == 6 else -1, part, float(i), ip_proto=talk.proto,
                                orig_p=talk.orig_p, resp_p=talk.port))  # fmt: skip
            at[is_orig] += len(part)
    content.receive(segments(pieces))
    ends = np.array([[at[True], at[False]]])
    content.close(np.array([0]), np.array([b"C0"], "S20"), ends, HOSTS)
    by_log: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for _, _, stream, ts, fields in content.rows:
        by_log[stream].append({"ts": ts, **fields})
    return by_log


@pytest.mark.parametrize("size", [1 << 20, 61], ids=["whole", "in pieces"])
@pytest.mark.parametrize("name", TALKS)
def test_the_rows_say_what_was_said(name: str, size: int) -> None:
    talk = TALKS[name]
    found = rows_of(talk, size)
    assert set(found) == set(talk.rows)
    for log, expected in talk.rows.items():
        assert len(found[log]) == len(expected), (log, found[log])
        for row, wanted in zip(found[log], expected, strict=True):
            assert {field: row.get(field) for field in wanted} == wanted


def test_files_are_named_by_the_rows_that_carried_them() -> None:
    for name in ("http", "smtp"):
        found = rows_of(TALKS[name])
        named = [
            fuid
            for row in found[name]
            for key in ("orig_fuids", "resp_fuids", "fuids")
            for fuid in row.get(key, ())
        ]
        assert named == [row["fuid"] for row in found["files"]]
        assert len(set(named)) == len(named) > 0
        assert all(fuid.startswith("F") and fuid.isalnum() for fuid in named)


def test_a_lease_names_the_connections_and_hosts_that_made_it() -> None:
    (row,) = rows_of(TALKS["dhcp"])["dhcp"]
    assert (row["uids"], row["client_addr"], row["server_addr"]) == (["C0"], "10.0.0.1", "10.0.0.2")


def test_without_logs_no_row_is_kept_and_the_entries_are_the_same() -> None:
    for talk in TALKS.values():
        said = []
        for logs in (False, True):
            content = Content(logs=logs)
            pieces = [
                Piece(
                    o,
                    -1 if talk.proto == 17 else 0,
                    d,
                    ip_proto=talk.proto,
                    orig_p=talk.orig_p,
                    resp_p=talk.port,
                )
                for o, d in talk.said[:2]
            ]
            content.receive(segments(pieces))
            services, entries, _ = content.close(np.array([0]), np.array([b"C0"], "S20"))
            said.append((services, [(e.stream, e.ts) for e in entries]))
            assert bool(content.rows) <= logs
        assert said[0] == said[1]


def test_rows_are_bounded_and_what_is_left_out_is_counted() -> None:
    request = (True, b"FETCH / HTTP/1.1\r\n\r\n")
    talk = Talk(6, 80, [request] * 40, {})
    few = ContentLimits(log_entries=8)
    content = rows_of(talk, limits=few)
    assert sum(map(len, content.values())) == 8


def test_a_weird_is_told_of_25_times_a_connection() -> None:
    talk = Talk(6, 80, [(True, b"FETCH / HTTP/1.1\r\n\r\n")] * 40, {})
    assert len(rows_of(talk)["weird"]) == 25


def test_whatever_the_bytes_rows_can_be_written_and_features_see_the_same() -> None:
    from cmdana_plugin.logs.row_lines import RowWriter
    from cmdana_plugin.logs.streams import LocalNets

    writers = [RowWriter(fmt, LocalNets([])) for fmt in ("tsv", "json")]
    for line in (TRACES / "fuzzed.txt").read_text().split():
        pieces = fuzzed.pieces(bytes.fromhex(line))
        if not pieces:
            continue
        told = []
        for logs in (False, True):
            content = Content(fuzzed.LIMITS, logs)
            content.receive(segments(pieces))
            services, entries, _ = content.close(np.array([0]), np.array([b"C0"], "S20"), None, HOSTS)
            told.append((services, [(e.stream, e.ts) for e in entries]))
        assert told[0] == told[1], line
        rows = [
            LogRow(written, stream, ts, "C0", "10.0.0.1", 1, "10.0.0.2", 2, fields)
            for _, written, stream, ts, fields in content.rows
        ]
        for writer in writers:
            for some in writer.lines(rows):
                assert all(data.endswith(b"\n") and data.decode() for _, _, _, data in some)
