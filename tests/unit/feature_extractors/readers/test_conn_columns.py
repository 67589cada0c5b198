"""conn.log in compiled columns: the same, digit by digit, as the same lines read one by one."""

from __future__ import annotations

import json
import random
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import fuzz_logs
from feature_extractors.observations import Connections, concat_connections
from feature_extractors.readers.dialects import conn_rows
from feature_extractors.readers.dialects.conn_rows import ConnRows
from feature_extractors.readers.dialects.lines import PassedOver

NAMES = [name for name, _, _ in fuzz_logs.STREAMS["conn"]]


def read(
    path: Path, compiled_from: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Connections | None, PassedOver]:
    monkeypatch.setattr(conn_rows, "COMPILED_FROM", compiled_from)
    passed = PassedOver()
    blocks = list(ConnRows(path, passed).blocks())
    return concat_connections(blocks) if blocks else None, passed


def assert_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, PassedOver]:
    """How many connections there are, read both ways."""
    one, passed = read(path, 0, monkeypatch)
    other, also = read(path, 1 << 60, monkeypatch)
    assert passed == also
    assert (one is None) == (other is None)
    if one is None or other is None:
        return 0, passed
    for f in fields(Connections):
        a, b = getattr(one, f.name), getattr(other, f.name)
        if f.name == "service":
            assert a == b
        else:
            assert a.dtype == b.dtype
            assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), f.name
    return len(one), passed


ADDRESSES = (
    "10.0.0.1", "255.255.255.255", "256.1.1.1", "1.2.3", "01.2.3.4", "1.2.3.4.5", "::", "::1", "1::", "fe80::1",
    "2001:db8::a:b",
    "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "1::8:9::1", "1:2:3:4:5:6:7:8:9", "1:2", ":1", "1:", ":::",
    "12345::", "::ffff:1.2.3.4", "ABCD::EF", "g::1", "fe80::1%eth0", "",
)  # fmt: skip
NUMBERS = (
    "0", "00", "7", "1.5", "1.", ".5", "-1", "1e5", "0.1", "0.30000000000000004", "9007199254740993",
    "123456789012345678",
    "0.07518219947814941", "0.9518219947814941", "1767225605.180579", "1767225605180", "1767225605180579",
    "9" * 19, "9" * 25,
    "18446744073709551615", "18446744073709551616", "4611686018427387903", "4611686018427387904", "65535", "65536",
    "1_0",
    "2026-01-01T00:00:05.180579Z", "2026-01-01T00:00:05Z", "2024-02-29T23:59:59.9Z", "2023-02-29T00:00:00Z",
    "2026-13-01T00:00:00Z", "2026-01-31T24:00:00Z", "1969-12-31T23:59:59Z", "2026-01-01T00:00:05.1805791Z", "nan",
    "2026-01-01T00:00:05", "100000000000.5", "640000000000", "8999999999999", "9000000000001", "T", "x",
)  # fmt: skip
WORDS = (
    "dns", "ssl,http", "http,ssl", "", "(empty)", "-", "SF", "S0", "??", "TCP", "tcp", "icmp", "unknown_transport", "é",
    "a\\x2cb",
)  # fmt: skip


def odd_cell(rng: random.Random, name: str) -> str:
    if name in ("id.orig_h", "id.resp_h"):
        return rng.choice(ADDRESSES)
    if name in ("service", "conn_state", "proto", "history", "uid"):
        return rng.choice((*WORDS, "C" * 20, "C" * 21, "h" * 64, "h" * 65))
    return rng.choice(NUMBERS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("as_json", [False, True])
def test_odd_cells_mean_the_same_in_columns(
    as_json: bool, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    lines = []
    for i in range(1500):
        cells: dict[str, Any] = {name: value for name, _, value in fuzz_logs.STREAMS["conn"]}
        cells["uid"] = f"C{i}"
        for name in rng.sample(NAMES, rng.choice((0, 1, 1, 2))):
            cells[name] = odd_cell(rng, name)
        if as_json:
            bare = {
                "ts",
                "id.orig_p",
                "id.resp_p",
                "duration",
                "ip_proto",
                *(n for n in NAMES if n[:5] in ("orig_", "resp_")),
            }
            parts = [
                f'"{n}":{v}' if n in bare and rng.random() < 0.8 else f'"{n}":{json.dumps(v)}'
                for n, v in cells.items()
                if rng.random() < 0.99
            ]
            lines.append("{" + rng.choice((",", ", ")).join(parts) + "}")
        else:
            lines.append("\t".join(cells.values()))
    head = "" if as_json else fuzz_logs.header("conn").decode()
    path = tmp_path / "conn.log"
    path.write_text(head + "\n".join(lines) + "\n")
    n, passed = assert_same(path, monkeypatch)
    assert 300 < n < 1500
    assert n + sum(v for r, v in passed.by_file[str(path)].items() if "unset" not in r) == 1500


@pytest.mark.parametrize("as_json", [False, True])
def test_mutated_lines_mean_the_same_in_columns(
    as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(5)
    head = b"" if as_json else fuzz_logs.header("conn")
    path = tmp_path / "conn.log"
    path.write_bytes(head + b"\n".join(fuzz_logs.line(rng, "conn", as_json) for _ in range(3000)) + b"\n")
    assert assert_same(path, monkeypatch)[0] > 100


def test_another_header_in_the_middle_changes_the_columns_from_there_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = {name: value for name, _, value in fuzz_logs.STREAMS["conn"]}
    kinds = {name: kind for name, kind, _ in fuzz_logs.STREAMS["conn"]}
    turned = list(reversed(NAMES))
    text = fuzz_logs.header("conn").decode() + "\t".join(cells.values()) + "\n"
    text += "#fields\t" + "\t".join(turned) + "\n#types\t" + "\t".join(kinds[n] for n in turned) + "\n"
    text += (
        "\t".join(cells[n] for n in turned) + "\n#path\tdns\n" + "\t".join(cells[n] for n in turned) + "\n"
    )
    path = tmp_path / "conn.log"
    path.write_text(text)
    assert assert_same(path, monkeypatch)[0] == 2


def test_records_of_other_streams_between_are_left_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {
        "ts": 1.5,
        "uid": "C1",
        "id.orig_h": "10.0.0.1",
        "id.orig_p": 1,
        "id.resp_h": "::1",
        "id.resp_p": 2,
        "proto": "udp",
    }
    rows = [{"_path": path, **row} for path in ("conn", "dns", "conn_red", "conn", "http")]
    path = tmp_path / "all.log"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + json.dumps(row) + "\n")
    assert assert_same(path, monkeypatch)[0] == 2
