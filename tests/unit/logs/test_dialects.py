"""Every command says the same of a log, whatever dialect it is in: the cases of tests/traces/logs, and their like.

The folders under `tests/traces/logs` hold the same made-up connections, verdicts and notices in the forms that Zeek's
options, its supervisor, logrotate, Corelight and shippers leave; `json-ts-millis/epoch` is Zeek's JSON as it is by
default.
"""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import json
import lzma
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmdana_plugin.analyst import explain, label, report
from cmdana_plugin.analyst.alerts import Filter, show_alerts
from cmdana_plugin.analyst.anonymise import anonymise
from cmdana_plugin.config import Config
from cmdana_plugin.logs import labels_by_capture
from cmdana_plugin.logs.reader import read_rows
from cmdana_plugin.training.sources import Learned, joining, recordings
from feature_extractors.errors import CmdanaError, RecordError
from feature_extractors.observations import Connections, concat
from feature_extractors.readers.zeek_logs import ZeekLogs

CASES = Path(__file__).parents[2] / "traces" / "logs"
PLAIN = CASES / "json-ts-millis" / "epoch"
ODD = "CYgPLPeRF87038j1TA"  # a connection with a verdict, a notice and an entry of dns.log beside it
WHOLE = (
    "json-ts-millis/epoch", "json-ts-millis/millis", "json-ts-string/string", "scope-separator/underscore",
    "scope-separator/underscore-tsv", "declared-separator/pipe", "compressed-logs/xz", "compressed-logs/bz2",
)  # fmt: skip


def connections_of(folder: Path) -> tuple[Connections, list[tuple[str, str]], dict[str, dict[str, int]]]:
    """What train, calibrate and evaluate read: connections, the streams and uids of entries, what was passed over."""
    logs = ZeekLogs([folder])
    windows = concat(list(logs))
    return windows.connections, [(e.stream, e.uid) for e in windows.logs], logs.passed.object()


def close(a: Any, b: Any) -> bool:
    """Whether two values are the same but for the digits that milliseconds lose."""
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= 0.001
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(close(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(close, a, b))
    return type(a) is type(b) and a == b


def told(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What alerts, report, explain and label say of a folder."""
    show_alerts([folder], Filter(), follow=False, form="json")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    wanted = (
        "ts",
        "uid",
        "id.orig_h",
        "id.orig_p",
        "id.resp_h",
        "id.resp_p",
        "note",
        "msg",
        "sub",
        "src",
        "p",
    )
    page = dict(report.summary_object(report.gather(folder), Path(), 20.0))
    del page["files"]
    found = explain.explain(ODD, folder)
    explain.show(found, folder)
    said = capsys.readouterr().out.replace(str(folder), "FOLDER")
    return {
        "alerts": [{name: row.get(name) for name in wanted} for row in rows],
        "report": page,
        # The made-up TSV parts a reason at its comma, which Zeek would have escaped.
        "explain": said.replace("\n   saw 9 s", ", saw 9 s"),
        "label": {
            k: v for k, v in label._label_row(label.find(ODD, folder), "benign", "", "").items() if k != "ts"
        },
        "labelled at": float(label._label_row(label.find(ODD, folder), "benign", "", "")["ts"]),
    }


def same_traffic(folder: Path, other: Path) -> bool:
    one, entries, _ = connections_of(folder)
    two, others, _ = connections_of(other)
    return (
        one.uid.tolist() == two.uid.tolist()
        and np.allclose(one.ts, two.ts, 0, 0.001)
        and np.array_equal(one.orig_h, two.orig_h)
        and np.array_equal(one.orig_bytes, two.orig_bytes)
        and one.conn_state.tolist() == two.conn_state.tolist()
        and list(one.service) == list(two.service)
        and entries == others
    )


@pytest.mark.parametrize("case", WHOLE)
def test_every_command_says_the_same_of_every_dialect(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert same_traffic(CASES / case, PLAIN)
    assert connections_of(CASES / case)[2] == {}
    one, other = told(CASES / case, capsys), told(PLAIN, capsys)
    for command, said in one.items():
        assert close(said, other[command]), command


@pytest.mark.parametrize("case", WHOLE)
def test_what_is_anonymised_is_read_again_in_the_same_dialect(case: str, tmp_path: Path) -> None:
    done = anonymise(CASES / case, tmp_path / "out", bytes(32))
    assert {name.split(".")[0]: rows for name, rows in done.files.items()} == {
        "conn": 12, "cmdana": 12, "dns": 6, "notice": 3,
    }  # fmt: skip
    assert (done.not_logs, done.passed.by_file) == ([], {})
    connections, entries, passed = connections_of(tmp_path / "out")
    assert (len(connections), len(entries), passed) == (12, 6, {})
    assert not any("192.0.2." in path.read_bytes().decode("latin-1") for path in (tmp_path / "out").iterdir())


@pytest.mark.parametrize(("case", "entries"), [
    ("supervisor", 0), ("logrotate", 0), ("streaming", 6), ("one-file", 6),
])  # fmt: skip
def test_the_stream_is_told_by_the_log_before_its_name(case: str, entries: int, tmp_path: Path) -> None:
    connections, found, passed = connections_of(CASES / "stream-by-file-name" / case)
    assert (len(set(connections.uid.tolist())), len(found), passed) == (12, entries, {})
    done = anonymise(CASES / "stream-by-file-name" / case, tmp_path / "out", bytes(32))
    assert sum(done.files.values()) == 12 + entries
    again, found, passed = connections_of(tmp_path / "out")
    assert (len(again), len(found), passed) == (12, entries, {})


def test_a_folder_without_verdicts_or_notices_says_so_although_a_file_holds_several_streams() -> None:
    folder = CASES / "stream-by-file-name" / "one-file"
    with pytest.raises(RecordError, match=r"no notice\.log there"):
        show_alerts([folder], Filter(), follow=False, form="json")
    with pytest.raises(RecordError, match=r"no cmdana\.log there"):
        report.gather(folder)


def test_summaries_of_connections_are_no_logs_of_applications() -> None:
    connections, entries, passed = connections_of(CASES / "connection-summaries" / "logs")
    assert (len(connections), entries) == (12, [])
    assert sorted(Path(name).name for name in passed) == ["conn_long.log", "conn_red.log", "open_conn.log"]


def test_counts_past_what_a_connection_can_have_are_unset_and_the_row_counts() -> None:
    connections, _, passed = connections_of(CASES / "counts-past-62-bits" / "logs")
    assert (len(connections), (connections.orig_bytes == -1).sum(), (connections.resp_bytes == -1).sum()) == (
        12,
        1,
        1,
    )
    assert list(passed.values()) == [{"a count past 2^62, taken as unset": 2}]


def test_a_log_without_a_header_is_read_by_the_names_in_its_first_line(tmp_path: Path) -> None:
    connections, _, passed = connections_of(CASES / "tsv-without-meta" / "logs")
    assert (len(connections), passed) == (12, {})
    lines = (CASES / "tsv-without-meta" / "logs" / "conn.log").read_text().splitlines(keepends=True)
    (tmp_path / "conn.log").write_text("".join(lines[1:]))
    assert same_traffic(
        tmp_path, CASES / "tsv-without-meta" / "logs"
    )  # Zeek's own columns in Zeek's own order
    (tmp_path / "conn.log").write_text("".join("\t".join(line.split("\t")[2:]) for line in lines[1:]))
    with pytest.raises(RecordError, match="expected a #fields line, a JSON object, or a first line"):
        ZeekLogs([tmp_path])


# Labels


LABELS = CASES / "labels-that-join-nothing"


def learned(labels: Path) -> Learned:
    seen = Learned("")
    list(joining(recordings([str(LABELS / "logs")], Config(), labels_by_capture(labels), seen), seen, labels))
    return seen


@pytest.mark.parametrize("name", ["seconds", "millis", "an-hour-off"])
def test_labels_join_by_time_or_else_by_the_uid_beside_the_addresses(name: str) -> None:
    seen = learned(LABELS / f"labels-{name}.csv")
    assert (seen.benign, seen.malicious, seen.labels, seen.joined) == (110, 20, 20, 20)


def without_uids(path: Path, rows: slice, hours: float = 1.0) -> None:
    with open(LABELS / "labels-seconds.csv", newline="") as file:
        labels = list(csv.DictReader(file))
    for row in labels[rows]:
        row["uid"], row["ts"] = "", f"{float(row['ts']) + hours * 3600:.6f}"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, labels[0])
        writer.writeheader()
        writer.writerows(labels)


def test_labels_that_join_no_connection_are_said_and_refused_where_none_does(tmp_path: Path) -> None:
    without_uids(tmp_path / "some.csv", slice(5))
    seen = learned(tmp_path / "some.csv")
    assert (seen.malicious, seen.labels, seen.joined) == (15, 20, 15)
    assert any("5 of 20 labels join no connection" in warning for warning in seen.warnings())
    without_uids(tmp_path / "none.csv", slice(None))
    with pytest.raises(CmdanaError, match=r"none\.csv: none of 20 labels joins a connection"):
        learned(tmp_path / "none.csv")


# Others of the same kinds, made of the plain ones


def plain(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (PLAIN / f"{name}.log").read_text().splitlines()]


def written(folder: Path, make: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    for name in ("conn", "dns", "cmdana", "notice"):
        (folder / f"{name}.log").write_text("".join(json.dumps(make(row)) + "\n" for row in plain(name)))
    return folder


def nested(row: dict[str, Any]) -> dict[str, Any]:
    ends = {name[3:]: row.pop(name) for name in list(row) if name.startswith("id.")}
    return {**row, "id": ends}


def stamped(form: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def make(row: dict[str, Any]) -> dict[str, Any]:
        from datetime import UTC, datetime

        return {**row, "ts": datetime.fromtimestamp(row["ts"], UTC).strftime(form)}

    return make


DIALECTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "nested id": nested,
    "colons": lambda row: {name.replace("id.", "id:"): value for name, value in row.items()},
    "microseconds": lambda row: {**row, "ts": round(row["ts"] * 1e6)},
    "nanoseconds": lambda row: {**row, "ts": round(row["ts"] * 1e6) * 1000},
    "milliseconds in words": lambda row: {**row, "ts": str(int(row["ts"] * 1000))},
    "ISO with zone": stamped("%Y-%m-%dT%H:%M:%S.%fZ"),
    "ISO without a zone": stamped("%Y-%m-%dT%H:%M:%S.%f"),
    "ISO with a space": stamped("%Y-%m-%d %H:%M:%S.%f+00:00"),
    "Kibana": stamped("%b %d, %Y @ %H:%M:%S.%f"),
    "Logstash": lambda row: {"@timestamp": row.pop("ts"), "@version": "1", **row},
    "Kafka": lambda row: {"a_name": row},
    "Elasticsearch": lambda row: {"_index": "zeek", "_source": row},
    "Filebeat": lambda row: {"@timestamp": "2027-01-01T00:00:00Z", "message": json.dumps(row)},
    "numbers in words": lambda row: {
        name: str(v) if isinstance(v, int | float) and not isinstance(v, bool) else v for name, v in row.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_shippers_make_of_the_same_logs_is_read_alike(
    dialect: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path, DIALECTS[dialect])
    if dialect == "Kafka":
        for path in folder.iterdir():
            path.write_text(path.read_text().replace('"a_name"', f'"{path.stem}"'))
    assert same_traffic(folder, PLAIN)
    one, other = told(folder, capsys), told(PLAIN, capsys)
    for command, said in one.items():
        assert close(said, other[command]), command


@pytest.mark.parametrize("separator", [",", ";", "|", "\t"])
def test_columns_exported_with_their_names_are_read_by_them(separator: str, tmp_path: Path) -> None:
    rows = plain("conn")
    names = list(dict.fromkeys(name for row in reversed(rows) for name in row))
    with open(tmp_path / "conn.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, names, delimiter=separator, restval="", quoting=csv.QUOTE_MINIMAL)
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "dns.log").write_bytes((PLAIN / "dns.log").read_bytes())
    assert same_traffic(tmp_path, PLAIN)


def test_an_array_of_records_one_a_line_is_read(tmp_path: Path) -> None:
    for name in ("conn", "dns"):
        text = ",\n".join(map(json.dumps, plain(name)))
        (tmp_path / f"{name}.json").write_text(f"[\n{text}\n]\n" if name == "conn" else f"[{text}]")
    assert same_traffic(tmp_path, PLAIN)


@pytest.mark.parametrize("row", [
    {"cmdana.score": 0.9, "cmdana.p_value": 0.5}, {"cmdana_score": 0.9, "cmdana_p_value": 0.5},
    {"cmdana": {"score": 0.9, "p_value": 0.5}}, {"cmdana_score": "0.9", "cmdana_p_value": "0.5"},
])  # fmt: skip
def test_what_a_notice_says_in_fields_has_any_scope_separator(row: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "notice.log").write_text(
        json.dumps({"ts": 1.0, "note": "CMDANA::Anomalous_Host"} | row) + "\n"
    )
    (read,) = read_rows(tmp_path / "notice.log", "notice")
    assert (read["cmdana.score"], read["cmdana.p_value"]) == (0.9, 0.5)


ECS = {
    "uid": "zeek.session_id", "id.orig_h": "source.ip", "id.orig_p": "source.port", "id.resp_h": "destination.ip",
    "id.resp_p": "destination.port", "proto": "network.transport", "service": "network.protocol",
    "orig_ip_bytes": "source.bytes", "resp_ip_bytes": "destination.bytes", "orig_pkts": "source.packets",
    "resp_pkts": "destination.packets", "conn_state": "zeek.connection.state", "history": "zeek.connection.history",
    "orig_bytes": "zeek.connection.orig_bytes", "resp_bytes": "zeek.connection.resp_bytes",
    "missed_bytes": "zeek.connection.missed_bytes",
}  # fmt: skip


def ecs(row: dict[str, Any]) -> dict[str, Any]:
    made = {ECS.get(name, name): value for name, value in row.items() if name not in ("ts", "duration")}
    made |= {
        "@timestamp": f"{np.datetime64(round(row['ts'] * 1e6), 'us')}Z",
        "event.dataset": "zeek.connection",
    }
    if "duration" in row:
        made["event.duration"] = round(row["duration"] * 1e9)
    return made | {"event.module": "zeek", "agent.name": "sensor", "network.bytes": 1}


def objects(flat: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in flat.items():
        *outer, last = name.split(".")
        into = made
        for part in outer:
            into = into.setdefault(part, {})
        into[last] = value
    return made


@pytest.mark.parametrize("make", [ecs, lambda row: objects(ecs(row))], ids=["dotted", "objects"])
def test_connections_under_elastics_names_are_the_same_connections(
    make: Callable[[dict[str, Any]], dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "filebeat.ndjson").write_text("".join(json.dumps(make(row)) + "\n" for row in plain("conn")))
    (tmp_path / "dns.log").write_bytes((PLAIN / "dns.log").read_bytes())
    assert same_traffic(tmp_path, PLAIN)
    one, two = connections_of(tmp_path)[0], connections_of(PLAIN)[0]
    assert np.allclose(one.duration, two.duration, 0, 1e-6, equal_nan=True)
    assert one.resp_ip_bytes.tolist() == two.resp_ip_bytes.tolist()


TSV = CASES / "scope-separator" / "underscore-tsv"


@pytest.mark.parametrize("change", [
    lambda data: b"\xef\xbb\xbf" + data,
    lambda data: data.decode().encode("utf-16"),
    lambda data: b"\xfe\xff" + data.decode().encode("utf-16-be"),
    lambda data: data.replace(b"\n", b"\r\n"),
    lambda data: data.replace(b"\\x09", b"\\x01").replace(b"\t", b"\x01"),
    lambda data: data.replace(b"\\x09", b"\\x7c\\x7c").replace(b"\t", b"||"),
    lambda data: data.replace(b"#", b"//", 1).replace(b"\n#", b"\n//"),
    lambda data: data.replace(b"(empty)", b"EMPTY").replace(b"field\t-", b"field\tnone").replace(b"\t-", b"\tnone"),
    gzip.compress, bz2.compress, lzma.compress,
    lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]),
], ids=[
    "utf-8 mark", "utf-16 little", "utf-16 big", "carriage returns", "control", "two signs", "prefix", "words", "gzip",
    "bz2", "xz", "members",
])  # fmt: skip
def test_bytes_are_told_by_what_they_are(
    change: Callable[[bytes], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in TSV.iterdir():
        (tmp_path / path.name).write_bytes(change(path.read_bytes()))
    assert same_traffic(tmp_path, PLAIN)
    assert close(told(tmp_path, capsys)["alerts"], told(PLAIN, capsys)["alerts"])


def test_zstd_is_read_where_its_library_is_and_named_where_it_is_not(tmp_path: Path) -> None:
    program = shutil.which("zstd")
    if program is None:
        pytest.skip("zstd is not on the PATH")
    for path in PLAIN.iterdir():
        subprocess.run([program, "-q", str(path), "-o", str(tmp_path / f"{path.name}.zst")], check=True)
    try:
        import zstandard  # noqa: F401
    except ImportError:
        with pytest.raises(
            RecordError, match=r"compressed with zstd; install zstandard, or unpack it: zstd -d"
        ):
            ZeekLogs([tmp_path])
        return
    assert same_traffic(tmp_path, PLAIN)
    packed = (tmp_path / "conn.log.zst").read_bytes()
    (tmp_path / "conn.log.zst").write_bytes(packed[:-20])
    logs = ZeekLogs([tmp_path])
    list(logs)
    assert logs.counts.by_reason["compressed_stream_truncated"] == 1


def test_parquet_is_read_where_its_library_is_and_named_where_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conn.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(RecordError, match=r"pip install 'cmdana\[parquet\]'|is no whole Parquet file"):
        ZeekLogs([tmp_path])
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for name in ("conn", "dns", "cmdana", "notice"):
        rows = [
            {**row, "ts": np.datetime64(round(row["ts"] * 1e6), "us").astype(object)} for row in plain(name)
        ]
        parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
    assert same_traffic(tmp_path, PLAIN)


@pytest.mark.parametrize("line", ["{", '{"ts": true}', "some words"])
def test_where_nothing_could_be_read_every_command_refuses_with_what_was_passed_over(
    line: str, tmp_path: Path
) -> None:
    for name in ("conn", "cmdana", "notice"):
        (tmp_path / f"{name}.log").write_text(f"{line}\n" * 3)
    for command in (
        lambda: show_alerts([tmp_path], Filter(), follow=False, form="json"),
        lambda: report.gather(tmp_path),
        lambda: explain.explain(ODD, tmp_path),
        lambda: label.find(ODD, tmp_path),
        lambda: anonymise(tmp_path, tmp_path / "out", bytes(32)),
    ):
        with pytest.raises(RecordError, match=r"3 \(no|no Zeek log|no record|no verdict|holds no Zeek log"):
            command()
    seen = Learned("")
    with contextlib.suppress(RecordError):
        list(recordings([str(tmp_path)], Config(), {}, seen))
        assert (seen.connections, list(seen.logs.by_file)) == (0, [str(tmp_path / "conn.log")])
