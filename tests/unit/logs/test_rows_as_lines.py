"""Rows of application logs as an independent reader has them, in either format, and as they join."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import handmade
import pytest
import spoken
from parsezeeklogs import ParseZeekLogs

from cmdana_plugin.logs.row_lines import RowWriter
from cmdana_plugin.logs.streams import Format, LocalNets, LogWriter
from cmdana_plugin.logs.tables import APPLICATION
from feature_extractors.extract import Extractor
from feature_extractors.observations import LogRow

LOCAL = LocalNets(["10.0.0.0/8"])
OWN = ("uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p")


def all_rows() -> list[LogRow]:
    extractor = Extractor(logs=True)
    extractor.receive(handmade.block(list(spoken.frames())))
    extractor.finish()
    return extractor.rows()


def written(folder: Path, fmt: Format, rows: list[LogRow]) -> dict[str, Path]:
    writers: dict[str, LogWriter] = {}
    for lines in RowWriter(fmt, LOCAL).lines(rows):
        for stream, first, last, data in lines:
            if stream not in writers:
                writers[stream] = LogWriter(folder, APPLICATION[stream], fmt)
            writers[stream].write_lines(data, first, last)
    for writer in writers.values():
        writer.close()
    return {stream: writer.path for stream, writer in writers.items()}


def test_an_independent_reader_reads_every_stream(tmp_path: Path) -> None:
    rows = all_rows()
    paths = written(tmp_path, "tsv", rows)
    assert set(paths) == {log for talk in spoken.TALKS.values() for log in talk.rows}
    for stream, path in paths.items():
        read = [
            r for r in ParseZeekLogs(str(path), output_format="json", safe_headers=False) if r is not None
        ]
        read = [json.loads(r) for r in read]
        assert len(read) == sum(row.stream == stream for row in rows)
        names = [name for name, _ in APPLICATION[stream].fields]
        for row in read:
            assert list(row) == [name for name in names if name in row]  # it leaves out what is unset


def test_tsv_and_json_say_the_same(tmp_path: Path) -> None:
    from cmdana_plugin.logs.reader import read_rows

    rows = all_rows()
    (tmp_path / "tsv").mkdir()
    (tmp_path / "json").mkdir()
    tsv, plain = (written(tmp_path / fmt, fmt, rows) for fmt in ("tsv", "json"))
    assert tsv.keys() == plain.keys()
    for stream, path in tsv.items():
        for one, other in zip(read_rows(path), read_rows(plain[stream]), strict=True):
            assert one.keys() == other.keys()
            assert all(same(one[name], other[name]) for name in one), (stream, one, other)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, str) and isinstance(b, float):
        a = float(a)  # our reader of TSV takes what is in a vector for text
    if isinstance(a, float | int) and isinstance(b, float | int):
        return abs(a - b) < 1e-6
    return bool(a == b)


def test_uids_and_fuids_join(tmp_path: Path) -> None:
    read = {
        stream: [json.loads(line) for line in path.read_text().splitlines()]
        for stream, path in written(tmp_path, "json", all_rows()).items()
    }
    files = {row["fuid"]: row for row in read["files"]}
    for stream, key in (("http", "orig_fuids"), ("http", "resp_fuids"), ("smtp", "fuids")):
        for row in read[stream]:
            for fuid in row.get(key, ()):
                assert [files[fuid][name] for name in OWN] == [row[name] for name in OWN]
    (lease,) = read["dhcp"]
    assert len(lease["uids"]) == 1


def test_rows_come_in_the_order_in_which_zeek_writes_them(tmp_path: Path) -> None:
    row = LogRow(5.0, "dns", 1.0, "C1", "10.0.0.1", 1, "10.0.0.2", 53, {"query": "late"})
    rows = [row, row._replace(written=2.0, ts=1.5, fields={"query": "soon"})]
    path = written(tmp_path, "json", rows)["dns"]
    assert [json.loads(line)["query"] for line in path.read_text().splitlines()] == ["soon", "late"]


@pytest.mark.parametrize(("value", "cell"), [
    ("a\tb", "a\\x09b"), ("-", "\\x2d"), ("", "(empty)"), ("\\x00", "\\x00"), ("a\\b", "a\\\\b"), ("é", "é"),
])  # fmt: skip
def test_texts_are_escaped_as_zeek_escapes_them(tmp_path: Path, value: str, cell: str) -> None:
    row = LogRow(1.0, "dns", 1.0, "C1", "10.0.0.1", 1, "10.0.0.2", 53, {"query": value})
    path = written(tmp_path, "tsv", [row])["dns"]
    columns = [name for name, _ in APPLICATION["dns"].fields]
    (line,) = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert line.split("\t")[columns.index("query")] == cell


def test_what_addresses_make_is_filled_in(tmp_path: Path) -> None:
    paths = written(tmp_path, "json", all_rows())
    transfer = json.loads(paths["ftp"].read_text().splitlines()[0])
    assert transfer["data_channel.orig_h"] == transfer["id.orig_h"] == handmade.CLIENT
    mail = json.loads(paths["smtp"].read_text())
    assert mail["path"] == [handmade.SERVER, handmade.CLIENT, "192.0.2.55"]
    assert all(
        isinstance(json.loads(line)["local_orig"], bool) for line in paths["files"].read_text().splitlines()
    )
