"""The log writers: what Zeek would write, readable by an independent reader, and nothing half-written."""

import json
from pathlib import Path

import madeup
import pytest
from madeup import VERDICT
from parsezeeklogs import ParseZeekLogs

from cmdana_plugin.decision.notice import ANOMALOUS_CONNECTION
from cmdana_plugin.logs.reader import read_rows
from cmdana_plugin.logs.streams import CMDANA, NOTICE, LocalNets, LogError, LogWriter


def written(tmp_path: Path, fmt: str, stream=CMDANA, rows=None) -> Path:  # type: ignore[no-untyped-def]
    log = LogWriter(tmp_path, stream, fmt)  # type: ignore[arg-type]
    log.write(rows or [VERDICT], now=1469000001.0)
    log.close()
    return log.path


def test_tsv_has_zeeks_header_and_network_time(tmp_path: Path) -> None:
    lines = written(tmp_path, "tsv").read_text().splitlines()
    assert lines[:4] == ["#separator \\x09", "#set_separator\t,", "#empty_field\t(empty)", "#unset_field\t-"]
    assert lines[4] == "#path\tcmdana"
    assert lines[5] == "#open\t2016-07-20-07-33-21"
    assert lines[6].startswith("#fields\tts\tuid\tid.orig_h")
    assert lines[7].startswith("#types\ttime\tstring\taddr")
    assert lines[8].startswith(
        "1469000000.123456\tCHhAvVGS1DHFjwGM9\t10.0.0.5\t40000\t2001:db8::1\t53\tudp\t-\t1:abc=\t"
    )
    assert lines[8].split("\t")[19] == "expected 80-400 B\\x2c saw 9 MB,name a\\x09b\\x0a\\\\x"
    assert lines[9] == "#close\t2016-07-20-07-33-21"


@pytest.mark.parametrize("fmt", ["tsv", "json"])
def test_an_independent_reader_of_zeek_logs_reads_it(tmp_path: Path, fmt: str) -> None:
    path = written(tmp_path, fmt)
    if fmt == "tsv":
        (row,) = list(ParseZeekLogs(str(path), output_format="json"))
        parsed = json.loads(row)
    else:
        parsed = json.loads(path.read_text())
    assert parsed["uid"] == "CHhAvVGS1DHFjwGM9"
    assert float(parsed["ts"]) == 1469000000.123456
    assert float(parsed["p_value"]) == 2.5e-5


@pytest.mark.parametrize("fmt", ["tsv", "json"])
def test_what_is_written_reads_back_the_same(tmp_path: Path, fmt: str) -> None:
    (row,) = read_rows(written(tmp_path, fmt))
    assert row["score"] == 0.612345
    assert row["reasons"] == list(VERDICT.reasons)
    assert row["modalities"] == ["packet", "connection"]
    assert "service" not in row


def test_values_that_read_like_unset_or_empty_are_told_apart(tmp_path: Path) -> None:
    notices = [{"ts": 1.0, "note": ANOMALOUS_CONNECTION, "msg": m, "sub": ""} for m in ("-", "(empty)", "é")]
    path = written(tmp_path, "tsv", NOTICE, map(madeup.row, notices))
    assert [r["msg"] for r in read_rows(path)] == ["-", "(empty)", "é"]
    assert [r["sub"] for r in read_rows(path)] == ["", "", ""]


def test_bytes_that_are_no_text_are_written_as_zeek_writes_them(tmp_path: Path) -> None:
    odd = {"ts": 1.0, "note": ANOMALOUS_CONNECTION, "msg": "name \udcff\x00"}
    for fmt in ("tsv", "json"):
        text = written(tmp_path, fmt, NOTICE, [madeup.row(odd)]).read_bytes()
        text.decode("utf-8")
        assert b"\\x" in text or b"\\u" in text


def test_an_abandoned_log_leaves_nothing_behind(tmp_path: Path) -> None:
    log = LogWriter(tmp_path, CMDANA, "tsv")
    log.write([VERDICT], now=1.0)
    log.abandon()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="cannot be written"):
        LogWriter(tmp_path / "nowhere", CMDANA, "tsv")


def test_local_networks_are_the_sites() -> None:
    local = LocalNets(["10.0.0.0/8", "fe80::/10"])
    assert [local(a) for a in ("10.1.2.3", "11.0.0.1", "fe80::1", "2001:db8::1")] == [
        True,
        False,
        True,
        False,
    ]
