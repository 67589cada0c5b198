"""How what was asked for ended, and whose names were asked: from a capture, told by a Zeek, and from logs the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_one_road import messages

import cmdana_plugin
from cmdana_plugin.config import Config, Logs
from cmdana_plugin.endpoint.aligner import Aligner
from cmdana_plugin.endpoint.live import _log_streams
from cmdana_plugin.endpoint.observed import BRIEF, decode_batch
from cmdana_plugin.replay.conversion import convert
from feature_extractors.features import Encoded, encoded, load_schema
from feature_extractors.observations import LogEntry, LogValue, Windows, concat, take
from feature_extractors.readers.zeek_logs import ZeekLogs

pytestmark = pytest.mark.slow

BUSY_MINUTES = Path(__file__).parents[1] / "traces" / "busy-minutes" / "busy-minutes.pcap.gz"
SCHEMA = load_schema()


@pytest.fixture(scope="module")
def windows() -> Windows:
    return concat([w for w in cmdana_plugin.extract(cmdana_plugin.read(BUSY_MINUTES)) if len(w)])


def told(block: Encoded) -> dict[str, tuple[Any, ...]]:
    """What stands of each connection in the columns that behaviour reads."""
    columns = (block.accepted, block.refused, block.told_by, block.domain, block.subdomain_bits)
    return dict(zip(block.connections.uid.tolist(), zip(*map(list, columns), strict=True), strict=True))


def briefly(record: list[Any]) -> list[Any]:
    """A log record as `CMDANA::compact_renderers` tell it where all that is read of it is told in brief."""
    stream, fields = record
    streams, brief = _log_streams(SCHEMA.digest)
    assert stream in streams
    if stream not in brief:
        return record
    names, others = BRIEF[stream]

    def word(value: LogValue) -> str:
        return "-" if value is None else str(len(value)) if isinstance(value, list) else str(value)

    words: Sequence[str] = [word(fields.get(name)) for name in names]
    return [stream, " ".join(words), *(fields.get(name) for name in others)]


def by_a_zeek(windows: Windows) -> Encoded:
    """As a Zeek tells it that tells what it is asked for, and of that no more than it is asked for."""
    asked, _ = _log_streams(SCHEMA.digest)
    batches = []
    for event in messages(windows, "detector"):
        message = json.loads(event.payload)
        logs = [r for r in message["r"] if type(r[1]) is not dict or r[0] in asked]
        message["r"] = [briefly(r) if type(r[1]) is dict else r for r in logs]
        message["records"] = len(logs)
        batch = decode_batch(json.dumps(message))
        assert batch.bad == 0, batch.why
        batches.append(batch)
    return encoded(Aligner().receive(batches), SCHEMA)


def test_what_a_zeek_tells_comes_to_the_same(windows: Windows) -> None:
    from_capture = told(encoded(windows, SCHEMA))
    assert told(by_a_zeek(windows)) == from_capture
    kinds = {SCHEMA.outcomes[row[2] - 1].stream for row in from_capture.values() if row[2]}
    assert {"dns", "http", "ssh", "smtp", "ntlm"} <= kinds
    assert sum(row[1] for row in from_capture.values()) > 300
    assert max(row[4] for row in from_capture.values()) > 500


@pytest.mark.parametrize("form", ["tsv", "json"])
def test_logs_come_to_the_same(windows: Windows, form: Any, tmp_path: Path) -> None:
    convert([BUSY_MINUTES], tmp_path, Config(logs=Logs(format=form, streams="all")))
    from_logs = encoded(concat(list(ZeekLogs([tmp_path]))), SCHEMA)
    assert told(from_logs) == told(encoded(windows, SCHEMA))


def test_many_requests_of_one_connection_count_the_same_on_both_roads(windows: Windows) -> None:
    """A guesser that keeps its connection, and a tunnel that keeps its port: more than anybody holds of one."""
    rows = []
    for stream in ("http", "dns"):
        at = [i for i, entry in enumerate(windows.logs) if entry.stream == stream]
        rows.append(int(np.searchsorted(windows.log_start, at[0], side="right") - 1))
    few = replace(take(windows, np.array(rows)), logs=[], log_start=np.zeros(3, np.int64))
    guesses = [{"status_code": 401, "uri": f"/{i}"} for i in range(300)]
    asked = [{"query": f"{'abcdefghij' * 5}{i}.evil.example", "rcode_name": "NXDOMAIN"} for i in range(300)]
    starts, uids = few.connections.ts.tolist(), few.connections.uid.tolist()
    logs = [
        LogEntry(stream, starts[row], uids[row].decode(), f)
        for row, (stream, told) in enumerate((("http", guesses), ("dns", asked)))
        for f in told
    ]  # fmt: skip
    many = replace(few, logs=logs, log_start=np.array([0, 300, 600], np.int64))
    found = encoded(many, SCHEMA)
    assert found.refused.tolist() == [256, 256]
    assert found.domain[1] == "evil.example"
    assert told(by_a_zeek(many)) == told(found)
