"""Logs in any dialect, written anew through the process: the same rows, in TSV, JSON and Parquet."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from parsezeeklogs import ParseZeekLogs

from cmdana_plugin.logs.rewriting import rewrite
from feature_extractors.errors import RecordError
from feature_extractors.readers.dialects.files import records
from feature_extractors.readers.dialects.lines import PassedOver
from feature_extractors.readers.dialects.names import log_files

CASES = Path(__file__).parents[2] / "traces" / "logs"
FOLDERS = sorted(
    path for path in CASES.glob("*/*") if path.is_dir() and path.parent.name != "labels-that-join-nothing"
)
parquet = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed")
KINDS = ["tsv", "json", pytest.param("parquet", marks=parquet)]


def convert(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cmdana_plugin.cli", "convert", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )


def rows_of(folder: Path) -> dict[str, list[str]]:
    """Each row of the folder's logs by stream, its fields in order of their names; what is unset is not there."""
    found: dict[str, list[str]] = {}
    for path in log_files(folder):
        for stream, record in records(path, PassedOver()):
            found.setdefault(stream, []).append(json.dumps(record, sort_keys=True))
    return {stream: sorted(rows) for stream, rows in found.items()}


def test_all_cases_are_there() -> None:
    assert len(FOLDERS) == 15


@pytest.mark.parametrize("to", KINDS)
def test_every_dialect_is_written_with_the_same_rows(tmp_path: Path, to: str) -> None:
    for k, folder in enumerate(FOLDERS):
        out = tmp_path / str(k)
        out.mkdir()
        done = rewrite([folder], out, to)  # type: ignore[arg-type]
        assert rows_of(out) == rows_of(folder), folder
        assert sorted(path.stem for path in out.iterdir()) == sorted(done.rows)
        assert {stream: len(rows) for stream, rows in rows_of(folder).items()} == done.rows


@pytest.mark.parametrize("to", KINDS)
def test_the_command_says_what_it_wrote(tmp_path: Path, to: str) -> None:
    folder = CASES / "declared-separator" / "pipe"
    run = convert(folder, "--to", to, "--out", tmp_path / "out", "--json")
    assert (run.returncode, json.loads(run.stdout)["rows"]) == (
        0,
        {"cmdana": 12, "conn": 12, "dns": 6, "notice": 3},
    )
    assert rows_of(tmp_path / "out") == rows_of(folder)
    again = convert(folder, "--to", to, "--out", tmp_path / "out")
    assert again.returncode == 1
    assert "already holds" in again.stderr
    assert convert(folder, "--to", to, "--out", tmp_path / "out", "--force").returncode == 0


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_an_independent_reader_reads_the_tsv(tmp_path: Path, folder: Path) -> None:
    rewrite([folder], tmp_path, "tsv")
    for stream, rows in rows_of(folder).items():
        theirs = list(ParseZeekLogs(str(tmp_path / f"{stream}.log"), output_format="dict"))
        assert len(theirs) == len(rows)
        ours = [json.loads(row) for row in rows]
        assert sorted(str(row["uid"]) for row in theirs) == sorted(str(row["uid"]) for row in ours)
        assert sorted(float(row["ts"]) for row in theirs) == sorted(row["ts"] for row in ours)


def test_what_cannot_be_read_is_told_and_nothing_at_all_is_a_failure(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "dns.log").write_text('{"ts":1.5,"uid":"C1","query":"a"}\nno record\n{"ts":"never","uid":"C2"}\n')
    (logs / "other.json").write_text("{}\n")
    (logs / "readme.log").write_text("hello\n")
    run = convert(logs, "--out", tmp_path / "out", "--json")
    assert run.returncode == 0
    assert json.loads(run.stdout)["rows"] == {"dns": 1}
    assert set(json.loads(run.stdout)["passed_over"]) == {str(path) for path in logs.iterdir()}
    for name in ("dns.log", "other.json", "readme.log"):
        assert f"{logs / name}: " in run.stderr
    (logs / "dns.log").unlink()
    failed = convert(logs, "--out", tmp_path / "none")
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "none").exists()


def test_captures_and_logs_are_not_mixed(tmp_path: Path) -> None:
    (tmp_path / "conn.log").write_text('{"ts":1.5,"uid":"C1"}\n')
    (tmp_path / "a.pcap").write_bytes(b"\xd4\xc3\xb2\xa1" + bytes(20))
    run = convert(tmp_path, "--out", tmp_path / "out")
    assert run.returncode == 1
    assert "convert one kind at a time" in run.stderr


def typed(tmp_path: Path, stream: str) -> dict[str, str]:
    lines = (tmp_path / f"{stream}.log").read_text().splitlines()
    names, kinds = (
        next(line for line in lines if line.startswith(key)).split("\t")[1:] for key in ("#fields", "#types")
    )
    return dict(zip(names, kinds, strict=True))


def test_types_are_declared_else_zeeks_else_of_the_values(tmp_path: Path) -> None:
    one, other = tmp_path / "one.log", tmp_path / "other.log"
    one.write_text(
        "#separator \\x09\n#path\tdns\n#fields\tts\tuid\trtt\tsite.a\tsite.b\n"
        "#types\ttime\tstring\tinterval\tsubnet\tset[addr]\n"
        "1.5\tC1\t0.25\t10.0.0.0/8\t10.0.0.1,10.0.0.2\n"
    )
    other.write_text(
        '{"_path":"dns","ts":2.5,"uid":"C2","TTLs":[1.0],"site":{"c":1,"d":-1,"e":1.5,"f":true,"g":[1,2],"h":"x"},"m":1}\n'
        '{"_path":"dns","ts":3.5,"uid":"C3","m":"one"}\n'
    )
    rewrite([other, one], tmp_path, "tsv")
    assert typed(tmp_path, "dns") == {
        "ts": "time", "uid": "string", "rtt": "interval", "site.a": "subnet", "site.b": "set[addr]",
        "TTLs": "vector[interval]", "site.c": "count", "site.d": "int", "site.e": "double", "site.f": "bool",
        "site.g": "vector[count]", "site.h": "string", "m": "string",
    }  # fmt: skip
    found = [record for _, record in records(tmp_path / "dns.log", PassedOver())]
    assert [record["ts"] for record in found] == [1.5, 2.5, 3.5]
    assert found[1] == {
        "ts": 2.5, "uid": "C2", "TTLs": [1.0], "site.c": 1, "site.d": -1, "site.e": 1.5, "site.f": True,
        "site.g": [1, 2], "site.h": "x", "m": "1",
    }  # fmt: skip


def hostile_rows() -> Iterator[dict[str, Any]]:
    texts = (
        "-", "(empty)", "", "a,b", "tab\there", "line\nend", "\\x41", "\\xff", "\\", "\\\\x00", "é", "é\\xff", "\u2028",
        "\\x", "#close", "\\xc3\\xa9", "x" * 5000,
    )  # fmt: skip
    for k, text in enumerate(texts):
        yield {
            "ts": k + 0.5,
            "uid": "C1",
            "query": text,
            "answers": [text, "b"],
            "n": 2**64 - 1,
            "z": [None, text],
            "m": [1],
        }
    yield {"ts": 100.0, "uid": "C2", "a\tb\n": 1, "id": {"orig_h": "1.2.3.4", "deep": {"x": [{"y": 1}]}}}
    yield {"ts": 9e9, "uid": "C3", "m": "no list", "n": -1, "big": -(2**63) - 1}


@pytest.mark.parametrize("to", KINDS)
def test_whatever_a_row_holds_it_is_read_as_it_was(tmp_path: Path, to: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    given = list(hostile_rows())
    log = tmp_path / "in" / "dns.log"
    log.write_text("".join(json.dumps(row) + "\n" for row in given))
    before = [record for _, record in records(log, PassedOver())]
    rewrite([log], tmp_path / "out", to)  # type: ignore[arg-type]
    passed = PassedOver()
    (written,) = (tmp_path / "out").iterdir()
    after = [record for _, record in records(written, passed)]
    assert len(after) == len(before) == len(given)
    assert not passed.by_file
    for one, other in zip(before[:-2], after, strict=False):
        mixed = {} if to == "json" else {"n": float(2**64), "m": "[1]"}  # in one column, of one type
        assert {**one, **mixed} == other
    assert after[-1]["ts"] == 9e9


def test_a_stream_gives_no_path(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "x.log").write_text("#separator \\x09\n#path\t../../evil\n#fields\tts\tuid\n1.5\tC1\n")
    with pytest.raises(RecordError, match="no telling"):
        rewrite([tmp_path / "in"], tmp_path / "out", "tsv")
    assert not list((tmp_path / "out").iterdir())
