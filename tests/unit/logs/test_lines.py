"""Lines of a log put together by compiled code: the same text that Python's own formatting gives."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmdana_plugin.decision.verdict import coded
from cmdana_plugin.logs import digits as lines
from cmdana_plugin.logs.reader import read_rows
from cmdana_plugin.logs.streams import CMDANA, CONN, LogWriter
from feature_extractors.addresses import address_texts


def one(cells: lines.Cells | None, *, short: bool = False) -> list[str]:
    """Each cell as a line."""
    assert cells is not None
    whole = lines.join([cells], [(b"", b"", b"-")], between=b"\t", begin=b"", end=b"\n", short=short)
    return whole.decode().split("\n")[:-1]


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.floats(-1e12, 1e12), min_size=1))
def test_seconds_have_six_decimals(values: list[float]) -> None:
    told = one(lines.measured(np.array(values), lines.SECONDS))
    for text, value in zip(told, values, strict=True):
        assert len(text.split(".")[1]) == 6
        # An exact tie of a decimal may be told either way.
        assert abs(float(text) - value) <= 0.5000001e-6 + abs(value) * 2**-52


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.integers(0, 4_294_967_295_000_000), min_size=1))
def test_times_of_a_capture_are_told_as_python_tells_them(micros: list[int]) -> None:
    values = [m / 1e6 for m in micros]
    assert one(lines.measured(np.array(values), lines.SECONDS)) == [f"{v:.6f}" for v in values]
    short = one(lines.measured(np.array(values), lines.SECONDS), short=True)
    assert [float(t) for t in short] == values
    assert not any(t.endswith("0") and not t.endswith(".0") for t in short)


@given(
    st.lists(st.floats(1e-299, 1e299) | st.floats(0.0, 1.0) | st.integers(0, 10**7).map(float), min_size=1)
)
def test_doubles_have_six_significant_digits_in_their_shortest_form(values: list[float]) -> None:
    values = [float(f"{v:.6g}") for v in values]
    values += [-v for v in values if v]
    kept = [v for v in values if v == 0.0 or abs(v) >= 1e-299]
    assert one(lines.measured(np.array(kept), lines.DOUBLE)) == [repr(v) for v in kept]


def test_what_cannot_be_put_so_is_left_to_python() -> None:
    for value in (math.inf, 1e13, -1e13):
        assert lines.measured(np.array([value]), lines.SECONDS) is None
    for value in (math.inf, 1e301, 1e-301):
        assert lines.measured(np.array([value]), lines.DOUBLE) is None
    for text in (b"a\tb", b"-", b"(empty)", b"\xff", b'"', b"a\0b"):
        found = lines.texts(np.array([text], "S9"))
        assert found is None or one(found) == [text.split(b"\0")[0].decode()]
    assert lines.texts(np.array([b"a\tb"])) is None


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.integers(-1, 2**62), min_size=1))
def test_counts_are_told_and_negative_ones_are_unset(values: list[int]) -> None:
    assert one(lines.counted(np.array(values))) == [str(v) if v >= 0 else "-" for v in values]


def rows(n: int) -> dict[str, object]:
    rng = np.random.default_rng(1)
    mapped = np.zeros((n, 16), np.uint8)
    mapped[:, 10:12] = 255
    mapped[:, 12:] = rng.integers(0, 256, (n, 4))
    six = rng.integers(0, 256, (n, 16)).astype(np.uint8)
    mixed = np.where(rng.random((n, 1)) < 0.5, mapped, six)
    return {
        "ts": rng.random(n) * 2e9,
        "uid": np.array([f"C{k}" for k in range(n)], "S20"),
        "id.orig_h": mixed,
        "id.resp_h": mapped,
        "id.orig_p": rng.integers(0, 65536, n).astype(np.uint16),
        "id.resp_p": rng.integers(0, 65536, n).astype(np.uint16),
        "proto": coded(["tcp"] * n),
        "service": coded([None if k % 2 else "dns,\x01 odd\t" for k in range(n)]),
        "duration": np.where(rng.random(n) < 0.3, np.nan, rng.random(n) * 100),
        "orig_bytes": rng.integers(-1, 5, n),
        "history": np.array([b"" if k % 3 else b"^Sd" for k in range(n)], "S64"),
        "local_orig": [bool(k % 2) for k in range(n)],
    }


@pytest.mark.parametrize("fmt", ["tsv", "json"])
def test_arrays_read_back_as_the_rows_that_they_are(tmp_path, fmt: str) -> None:  # type: ignore[no-untyped-def]
    n = 500
    given = rows(n)
    none = coded([None] * n)
    log = LogWriter(tmp_path, CONN, fmt)  # type: ignore[arg-type]
    log.write_columns([given.get(name, none) for name, _ in CONN.fields], 1.0)  # type: ignore[misc]
    log.close()
    found = list(read_rows(log.path))
    assert len(found) == n
    orig = address_texts(given["id.orig_h"])  # type: ignore[arg-type]
    for i, row in enumerate(found):
        assert row["uid"] == f"C{i}"
        assert row["id.orig_h"] == orig[i]
        assert row["id.orig_p"] == given["id.orig_p"][i]  # type: ignore[index]
        assert row.get("service") == given["service"][i]  # type: ignore[index]
        assert ("duration" in row) == (not math.isnan(given["duration"][i]))  # type: ignore[index]
        assert row.get("orig_bytes", -1) == given["orig_bytes"][i]  # type: ignore[index]
        assert ("history" in row) == (i % 3 == 0)
        assert row["local_orig"] == bool(i % 2)
        assert "tunnel_parents" not in row


def test_json_lines_are_json_whatever_is_unset(tmp_path) -> None:  # type: ignore[no-untyped-def]
    columns = [coded([None, None]) for _ in CMDANA.fields]
    log = LogWriter(tmp_path, CMDANA, "json")
    log.write_columns(columns, 1.0)
    columns[5] = np.array([1, -1])  # type: ignore[call-overload]
    columns[-1] = coded(["m", None])
    log.write_columns(columns, 1.0)
    log.close()
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == [
        {}, {}, {"id.resp_p": 1, "incident": "m"}, {}
    ]  # fmt: skip
