"""What strangers write enters here: captures, TSV and JSON logs, label files. Rows and counts come out, or one line.

Whatever the bytes, nothing else is raised, numbers that come out are finite, and texts can be printed.
"""

from __future__ import annotations

import contextlib
import json
import math
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import made_captures as made
import madeup
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import fuzz_logs
from cmdana_plugin.analyst.alerts import Filter, show_alerts
from cmdana_plugin.decision.notice import ANOMALOUS_HOST
from cmdana_plugin.logs.labels import LabelError, read_labels
from cmdana_plugin.logs.moments import shown
from cmdana_plugin.logs.reader import Held, number, read_rows
from cmdana_plugin.logs.streams import NOTICE, LogWriter
from feature_extractors.errors import CmdanaError, RecordError
from feature_extractors.extract import Extractor
from feature_extractors.frames import MAX_SECONDS
from feature_extractors.observations import Windows
from feature_extractors.readers.dialects.lines import PassedOver
from feature_extractors.readers.native import NativeReader
from feature_extractors.readers.zeek_logs import ZeekLogs

few = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FRAME = (
    bytes(12) + b"\x08\0" + struct.pack(">BBHHHBBH4s4s", 0x45, 0, 36, 0, 0, 64, 17, 0, bytes(4), b"\x0a\0\0\1")
    + struct.pack(">HHHH8s", 1000, 2000, 16, 0, bytes(8))
)  # fmt: skip


def one_capture(ticks: int, *options: bytes, frame: bytes = FRAME) -> bytes:
    return b"".join(
        [made.section(), made.interface(1, b"".join(options)), made.enhanced(frame, len(frame), ticks)]
    )


SECONDS = made.option(9, b"\0")  # ticks of a second


def offset(seconds: int) -> bytes:
    return made.option(14, struct.pack("<q", seconds))


# Captures


@pytest.mark.parametrize(
    ("capture", "ts"),
    [
        (one_capture(253_402_300_800, SECONDS), 253_402_300_800.0),  # the first second of the year 10000
        (one_capture(10**12, SECONDS), 1e12),
        (one_capture(0), 0.0),
        (one_capture(1_500_000, offset(-(2**40))), -(2.0**40) + 1.5),
        (one_capture(1_000_000, offset(2**40)), 2.0**40 + 1.0),
    ],
)
def test_a_time_that_no_calendar_knows_is_carried_as_a_number(
    tmp_path: Path, capture: bytes, ts: float
) -> None:
    (tmp_path / "x.pcapng").write_bytes(capture)
    (block,) = NativeReader(tmp_path / "x.pcapng")
    assert block.ts.tolist() == [ts]


@pytest.mark.parametrize("ticks", [9_000_000_000_001, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_time_in_which_a_second_is_lost_is_a_counted_bad_frame(tmp_path: Path, ticks: int) -> None:
    (tmp_path / "x.pcapng").write_bytes(one_capture(ticks, SECONDS))
    reader = NativeReader(tmp_path / "x.pcapng")
    assert list(reader) == []
    assert reader.counts.by_reason == {"time_out_of_range": 1}


@pytest.mark.parametrize("ts", [-8.9e12, -1.0, 0.0, 253_402_300_800.0, 8.9e12])
def test_connections_of_any_time_end_and_have_no_odd_durations(ts: float) -> None:
    extractor = Extractor()
    windows = extractor.receive(_at(ts))
    windows = windows if len(windows) else extractor.finish()
    assert windows.connections.ts.tolist() == [ts]
    assert np.nan_to_num(windows.connections.duration).max() <= MAX_SECONDS


def _at(ts: float) -> Any:
    from feature_extractors.frames import FrameBlock

    data = np.frombuffer(FRAME, np.uint8)
    size = np.array([len(FRAME)], np.int32)
    return FrameBlock(data, np.zeros(1, np.int64), size, size.copy(), np.array([ts]), np.ones(1, np.int32))


@few
@given(
    st.one_of(
        st.binary(max_size=200),
        st.builds(
            one_capture,
            st.integers(0, 2**64 - 1),
            st.binary(max_size=1).map(lambda b: made.option(9, b)),
            st.integers(-(2**63), 2**63 - 1).map(offset),
            frame=st.binary(min_size=1, max_size=80),
        ),
        st.lists(
            st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=40)),
            max_size=5,
        ).map(lambda rows: made.pcap([]) + b"".join(made.record(d, len(d), s, f) for s, f, d in rows)),
    ),
    st.binary(max_size=20),
    st.integers(0, 400),
)
def test_any_bytes_are_a_capture_or_no_capture(tmp_path: Path, capture: bytes, noise: bytes, at: int) -> None:
    path = tmp_path / "any"
    path.write_bytes(capture[:at] + noise + capture[at + len(noise) :])
    try:
        reader = NativeReader(path)
    except CmdanaError:
        return
    for block in reader:
        assert (np.abs(block.ts) <= MAX_SECONDS).all()
        assert (block.start + block.captured <= len(block.data)).all()
        assert (block.captured <= block.length).all()


# Rows of logs

KINDS = [
    "time",
    "string",
    "addr",
    "port",
    "count",
    "int",
    "double",
    "interval",
    "bool",
    "set[string]",
    "vector[double]",
]
CELLS = st.one_of(
    st.sampled_from(fuzz_logs.ODD), st.text(max_size=20), st.integers().map(str), st.floats().map(str)
)


def sound(value: object) -> bool:
    """Whether a value can be counted with and printed."""
    if isinstance(value, str):
        return bool(value.encode("utf-8")) or not value
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return abs(value) <= 2**64
    if isinstance(value, list | dict):
        return (
            all(map(sound, value)) if isinstance(value, list) else all(map(sound, [*value, *value.values()]))
        )
    return value is None


def rows_of(path: Path) -> list[Any]:
    """What `read_rows` and `ZeekLogs` make of a log."""
    try:
        rows = list(read_rows(path, passed=PassedOver()))
    except RecordError:
        rows = []
    blocks: list[Windows] = []
    with contextlib.suppress(RecordError):
        blocks = list(ZeekLogs([path]))
    for block in blocks:
        assert (np.abs(block.connections.ts) <= MAX_SECONDS).all()
        assert not (np.abs(np.nan_to_num(block.connections.duration)) > MAX_SECONDS).any()
    return rows


@few
@given(
    st.lists(
        st.tuples(st.sampled_from(KINDS), st.lists(CELLS, min_size=3, max_size=3)), min_size=1, max_size=8
    )
)
def test_any_cells_of_a_tsv_log_are_rows_or_counted(
    tmp_path: Path, columns: list[tuple[str, list[str]]]
) -> None:
    names = "\t".join(["ts", *(f"f{i}" for i in range(len(columns)))])
    kinds = "\t".join(["time", *(kind for kind, _ in columns)])
    lines = ["\t".join(["1.5", *(cells[i] for _, cells in columns)]) for i in range(3)]
    text = f"#separator \\x09\n#path\tconn\n#fields\t{names}\n#types\t{kinds}\n" + "\n".join(lines) + "\n"
    path = tmp_path / "conn.log"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    for row in rows_of(path):
        assert all(map(sound, row.values()))


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.just("\ud800")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)
NAMES = st.sampled_from([name for name, _, _ in fuzz_logs.STREAMS["conn"]])


@few
@given(
    st.lists(st.dictionaries(NAMES, JSON, max_size=8), min_size=1, max_size=4),
    st.binary(max_size=3),
    st.integers(0, 99),
)
def test_any_values_of_a_json_log_are_rows_or_counted(
    tmp_path: Path, records: list[dict[str, Any]], noise: bytes, at: int
) -> None:
    whole = {
        name: json.loads(fuzz_logs._json(value, kind)) for name, kind, value in fuzz_logs.STREAMS["conn"]
    }
    text = "".join(json.dumps({**whole, **record}) + "\n" for record in [{}, *records]).encode()
    path = tmp_path / "conn.log"
    path.write_bytes(text[:at] + noise + text[at:])
    for row in rows_of(path):
        assert all(map(sound, row))
        assert all(map(sound, row.values()))
        assert math.isfinite(number(row, "ts"))
        assert math.isfinite(number(row, "orig_bytes"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"ts":1.5,"n":NaN}', "a number out of range"),
        ('{"ts":1.5,"n":1e400}', "a number out of range"),
        ('{"ts":1.5,"n":%s}' % ("9" * 400), "a number out of range"),
        ('{"ts":1.5,"n":%s}' % ("9" * 5000), "no JSON record"),
        ('{"ts":-Infinity}', "a number out of range"),
        ('{"ts":true}', "no time, or one out of range"),
        ('{"ts":[1]}', "no time, or one out of range"),
        ('{"ts":1.5,"n":%s}' % ("[" * 20 + "]" * 20), "nested too deeply"),
        ('{"ts":1.5,"n":%s}' % ("[" * 100_000 + "]" * 100_000), "no JSON record"),
        ('{"ts":1.5,"n":"%s"}' % ("x" * 5_000_000), "line too long"),
        ("[1,2]", "no JSON record"),
    ],
)
def test_a_json_row_that_zeek_cannot_have_written_is_counted_by_reason(
    tmp_path: Path, line: str, reason: str
) -> None:
    path = tmp_path / "notice.log"
    path.write_text('{"ts":1.0}\n' + line + '\n{"ts":2.0}\n', encoding="utf-8")
    skipped = PassedOver()
    assert [number(row, "ts") for row in read_rows(path, passed=skipped)] == [1.0, 2.0]
    assert skipped.by_file == {str(path): {reason: 1}}


@pytest.mark.parametrize(
    ("kind", "cell", "reason"),
    [
        ("count", "9" * 400, "a number out of range"),
        ("count", "9" * 5000, "a number out of range"),
        ("double", "inf", "a number out of range"),
        ("double", "nan", "a number out of range"),
        ("interval", "1e400", "a number out of range"),
        ("count", "many", "fields do not match the header"),
        ("string", "x" * 5_000_000, "line too long"),
    ],
)
def test_a_tsv_row_that_zeek_cannot_have_written_is_counted_by_reason(
    tmp_path: Path, kind: str, cell: str, reason: str
) -> None:
    path = tmp_path / "conn.log"
    path.write_text(f"#fields\tts\tx\n#types\ttime\t{kind}\n1.0\t-\n2.0\t{cell}\n3.0\t-\n", encoding="utf-8")
    skipped = PassedOver()
    assert [number(row, "ts") for row in read_rows(path, passed=skipped)] == [1.0, 3.0]
    assert skipped.by_file == {str(path): {reason: 1}}


def test_a_time_in_words_past_the_last_year_is_carried_as_a_number(tmp_path: Path) -> None:
    (tmp_path / "x.log").write_text('{"ts":"9999-12-31T23:59:59-23:59"}\n')
    (row,) = read_rows(tmp_path / "x.log")
    assert shown(number(row, "ts")) == "253402387139.000000"


def test_a_boolean_where_a_number_stands_is_no_number() -> None:
    assert number({"score": True}, "score", -1.0) == -1.0


def test_a_lone_surrogate_is_read_as_its_escape(tmp_path: Path) -> None:
    (tmp_path / "x.log").write_text('{"ts":1.0,"msg":"a\\ud800b"}\n', encoding="utf-8")
    (row,) = read_rows(tmp_path / "x.log")
    assert row["msg"] == "a\\ud800b"


def test_a_header_of_a_million_fields_is_refused_in_words(tmp_path: Path) -> None:
    wide = "\t".join(["f"] * 1_000_000)
    path = tmp_path / "conn.log"
    path.write_text(f"#separator \\x09\n#path\tconn\n#fields\t{wide}\n#types\t{wide}\n", encoding="utf-8")
    for read in (read_rows, lambda p: ZeekLogs([p])):
        with pytest.raises(RecordError, match="more than 10,000"):
            list(read(path))


def test_types_nested_three_thousand_deep_and_an_empty_separator_are_read(tmp_path: Path) -> None:
    kind = "set[" * 3000 + "string" + "]" * 3000
    for first in ("#separator \\x09", "#separator "):
        (tmp_path / "dns.log").write_text(
            f"{first}\n#path\tdns\n#fields\tts\tx\n#types\ttime\t{kind}\n1.0\ta\n"
        )
        madeup.write_logs(tmp_path, madeup.verdicts(3))
        assert sum(map(len, ZeekLogs([tmp_path]))) == 3


def test_rows_are_held_up_to_a_number_of_bytes_and_the_others_counted() -> None:
    skipped = PassedOver()
    held = Held(skipped)
    kept = sum(held.add({"msg": "m" * 1_000_000}) for _ in range(200))
    assert kept == len(held.rows) < 135
    assert skipped.by_file == {"all": {"more than 128 MiB of rows at once": 200 - kept}}


# Times in words


@pytest.mark.parametrize(
    ("ts", "words"),
    [
        (0.0, "1970-01-01 00:00:00"),
        (253_402_300_799.0, "9999-12-31 23:59:59"),
        (253_402_300_800.0, "253402300800.000000"),
        (-1e12, "-1000000000000.000000"),
        (1e20, "1e+20"),
    ],
)
def test_what_no_calendar_knows_is_told_as_a_number(ts: float, words: str) -> None:
    assert shown(ts) == words


@pytest.mark.parametrize("fmt", ["tsv", "json"])
@pytest.mark.parametrize("ts", [253_402_300_800.0, -1e12, 8.9e12])
def test_notices_of_any_time_are_written_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ts: float, fmt: Any
) -> None:
    log = LogWriter(tmp_path, NOTICE, fmt)
    log.write([madeup.row({"ts": ts, "note": ANOMALOUS_HOST, "msg": "10.0.0.1 is behind it"})], ts)
    log.close()
    (row,) = read_rows(tmp_path / "notice.log")
    assert number(row, "ts") == ts
    show_alerts([tmp_path], Filter(), follow=False, form="table")
    assert f"{ts:.6f}" in capsys.readouterr().out


# Label files


@few
@given(
    st.lists(
        st.lists(st.one_of(CELLS, st.sampled_from(["benign", "udp", "53", "1.5"])), max_size=9), max_size=4
    ),
    st.sampled_from(["", "\ufeff", "\0", '"']),
)
def test_any_label_file_is_labels_or_one_line(tmp_path: Path, rows: list[list[str]], before: str) -> None:
    text = before + "ts,proto,orig_h,orig_p,resp_h,resp_p,label,family\n1.5,udp,a,1,b,2,benign,\n"
    path = tmp_path / "labels.csv"
    path.write_bytes((text + "\n".join(map(",".join, rows))).encode("utf-8", "surrogatepass"))
    try:
        labels = read_labels(path)
    except LabelError:
        return
    assert all(math.isfinite(label.ts) for some in labels.by_key.values() for label in some)


@pytest.mark.parametrize("cell", ["inf", "1e400", "nan", "9" * 5000])
@pytest.mark.parametrize("column", [0, 3, 5])
def test_a_label_with_a_number_out_of_range_is_refused_in_words(
    tmp_path: Path, column: int, cell: str
) -> None:
    cells = ["1.5", "udp", "a", "1", "b", "2", "benign"]
    cells[column] = cell
    path = tmp_path / "labels.csv"
    path.write_text("ts,proto,orig_h,orig_p,resp_h,resp_p,label\n" + ",".join(cells) + "\n")
    with pytest.raises(LabelError, match=r"labels\.csv:2"):
        read_labels(path)


# All readers of logs over mutated folders; benchmarks/fuzz_logs.py runs millions of lines


@pytest.mark.parametrize("seed", [0, 7, 2000, 5000])
def test_mutated_folders_of_logs_are_read_or_refused_in_words(tmp_path: Path, seed: int) -> None:
    import random

    fuzz_logs.folder(random.Random(seed), tmp_path, 500)
    assert fuzz_logs.tried(tmp_path, Counter()) == []
