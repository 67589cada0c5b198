"""Zeek logs as windows: what a line means, which connection an entry belongs to, and what is let go."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import made_archive
import numpy as np
import pytest
from shared_data import FOLDER

from feature_extractors.errors import RecordError
from feature_extractors.features import COLUMNS, concat_encoded, encoded, load_schema
from feature_extractors.observations import (
    CONN_STATES,
    MAX_LOG_ENTRIES,
    Connections,
    Stage,
    Windows,
    concat,
)
from feature_extractors.readers.dialects import entries, lines
from feature_extractors.readers.dialects.fields import checked
from feature_extractors.readers.zeek_logs import ZeekLogs

CONN_TYPES = {
    "ts": "time", "uid": "string", "id.orig_h": "addr", "id.orig_p": "port", "id.resp_h": "addr", "id.resp_p": "port",
    "proto": "enum", "service": "string", "duration": "interval", "orig_bytes": "count", "resp_bytes": "count",
    "conn_state": "string", "missed_bytes": "count", "history": "string", "orig_pkts": "count",
    "orig_ip_bytes": "count", "resp_pkts": "count", "resp_ip_bytes": "count", "tunnel_parents": "set[string]",
    "ip_proto": "count", "vlan": "int", "local_orig": "bool",
}  # fmt: skip
DNS_TYPES = {
    "ts": "time", "uid": "string", "id.orig_h": "addr", "id.orig_p": "port", "id.resp_h": "addr", "id.resp_p": "port",
    "proto": "enum", "query": "string", "rtt": "interval", "AA": "bool", "answers": "vector[string]",
    "TTLs": "vector[interval]", "trans_id": "count",
}  # fmt: skip
HEAD = "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n"


def conn(uid: str = "C1", ts: float = 100.0, **more: Any) -> dict[str, Any]:
    ends = {
        "id.orig_h": "10.0.0.1",
        "id.orig_p": 40000,
        "id.resp_h": "10.0.0.2",
        "id.resp_p": 53,
        "proto": "udp",
    }
    return {"ts": ts, "uid": uid} | ends | more


def as_json(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def as_tsv(path: str, types: dict[str, str], *records: dict[str, Any]) -> str:
    head = f"{HEAD}#path\t{path}\n#open\t2026-11-22-00-00-00\n"
    head += "#fields\t" + "\t".join(types) + "\n#types\t" + "\t".join(types.values()) + "\n"
    return (
        head + "".join("\t".join(_text(r.get(f)) for f in types) + "\n" for r in records) + "#close\t2026\n"
    )


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "TF"[not value]
    if isinstance(value, list):
        return ",".join(_text(v).replace(",", "\\x2c") for v in value) if value else "(empty)"
    if isinstance(value, float):
        return f"{value:.6f}"
    if value in ("-", "", "(empty)"):
        return {"-": "\\x2d", "": "(empty)", "(empty)": "\\x28empty)"}[value]
    return str(value).replace("\\", "\\\\").replace("\t", "\\x09").replace("\n", "\\x0a")


def read(*paths: Path, block: int = 4096) -> tuple[Windows, dict[str, int]]:
    logs = ZeekLogs(paths, block)
    return concat(list(logs)), dict(logs.counts.by_reason)


def entries_of(windows: Windows) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    start = windows.log_start
    return {
        uid.decode(): [(e.stream, dict(e.fields)) for e in windows.logs[start[i] : start[i + 1]]]
        for i, uid in enumerate(windows.connections.uid)
    }


def same(a: Windows, b: Windows) -> bool:
    columns = all(
        getattr(a.connections, f.name) == getattr(b.connections, f.name)
        if f.name == "service"
        else np.array_equal(
            getattr(a.connections, f.name),
            getattr(b.connections, f.name),
            equal_nan=f.name in ("ts", "end", "duration"),
        )
        for f in fields(Connections)
    )
    return columns and list(a.logs) == list(b.logs) and np.array_equal(a.log_start, b.log_start)


FULL = conn(
    "CFull", 100.25, service="ssl,http", duration=2.5, orig_bytes=149, resp_bytes=0, conn_state="SF", missed_bytes=7,
    history="ShADad", orig_pkts=8, orig_ip_bytes=573, resp_pkts=5, resp_ip_bytes=431, tunnel_parents=["C0"],
    ip_proto=17, vlan=5, local_orig=True,
)  # fmt: skip


def test_a_row_of_conn_log_means_what_zeek_means(tmp_path: Path) -> None:
    (tmp_path / "conn.log").write_text(as_json(FULL))
    windows, counts = read(tmp_path)
    c = windows.connections
    assert (c.uid[0], c.ts[0], c.end[0], c.stage[0]) == (b"CFull", 100.25, 102.75, Stage.FINAL)
    assert bytes(c.orig_h[0]) == bytes(10) + b"\xff\xff\x0a\0\0\x01"
    assert (c.orig_p[0], c.resp_p[0], c.ip_proto[0], c.service[0]) == (40000, 53, 17, "http,ssl")
    assert (c.duration[0], c.orig_bytes[0], c.resp_bytes[0]) == (2.5, 149, 0)
    assert (CONN_STATES[c.conn_state[0]], c.missed_bytes[0], c.history[0]) == ("SF", 7, b"ShADad")
    assert (c.orig_pkts[0], c.orig_ip_bytes[0], c.resp_pkts[0], c.resp_ip_bytes[0]) == (8, 573, 5, 431)
    assert (c.vlan[0], c.inner_vlan[0], c.tunneled[0]) == (5, -1, True)
    assert (len(windows.packets.ts), len(windows.logs), counts) == (0, 0, {})


def test_unset_stays_unset(tmp_path: Path) -> None:
    (tmp_path / "conn.log").write_text(as_tsv("conn", CONN_TYPES, conn()))
    c = read(tmp_path)[0].connections
    assert np.isnan(c.duration[0])
    assert c.end[0] == c.ts[0] == 100.0
    assert (c.service[0], c.history[0], c.conn_state[0]) == ("", b"", -1)
    unset = (c.orig_bytes, c.resp_bytes, c.missed_bytes, c.orig_pkts, c.resp_ip_bytes, c.vlan)
    assert [int(column[0]) for column in unset] == [-1] * 6
    assert not c.tunneled[0]


@pytest.mark.parametrize(
    ("more", "number"),
    [
        ({"proto": "tcp"}, 6),
        ({"proto": "udp"}, 17),
        ({"proto": "icmp"}, 1),
        ({"proto": "icmp", "id.orig_h": "fe80::1", "id.resp_h": "ff02::1"}, 58),
        ({"proto": "unknown_transport", "ip_proto": 132}, 132),
        ({"proto": "unknown_transport"}, 255),
    ],
)
def test_the_protocol_is_a_number_with_and_without_ip_proto(
    more: dict[str, Any], number: int, tmp_path: Path
) -> None:
    (tmp_path / "conn.log").write_text(as_json(conn(**more)))
    assert read(tmp_path)[0].connections.ip_proto[0] == number


@pytest.mark.parametrize(
    ("written", "ts"),
    [
        (1545402975.921971, 1545402975.921971),
        (1545402975921, 1545402975.921),
        ("2018-12-21T14:36:15.5Z", 1545402975.5),
    ],
)
def test_the_three_ways_to_write_a_time_in_json_are_read(written: Any, ts: float, tmp_path: Path) -> None:
    (tmp_path / "conn.log").write_text(as_json(conn(ts=written)))
    assert read(tmp_path)[0].connections.ts[0] == ts


def test_tsv_and_json_of_the_same_records_give_equal_windows(tmp_path: Path) -> None:
    dns = [
        conn(
            "C1",
            100.0,
            query="a.example",
            rtt=0.25,
            AA=False,
            answers=["192.0.2.1", "x,y"],
            TTLs=[300.0, 60.5],
        ),
        conn("CFull", 100.5, query="-", AA=True, answers=[], trans_id=7),
        conn("CFull", 100.75, query="", answers=[None, "b"]),
        conn("C1", 101.0, query="tab\there \\ back\nslash (empty)"),
        conn("C1", 101.5, query="(empty)"),
    ]
    tsv, plain = tmp_path / "tsv", tmp_path / "json"
    for folder in (tsv, plain):
        folder.mkdir()
    (tsv / "conn.log").write_text(as_tsv("conn", CONN_TYPES, conn(), FULL))
    (tsv / "dns.log").write_text(as_tsv("dns", DNS_TYPES, *dns))
    (plain / "conn.log").write_text(as_json(conn(), FULL))
    (plain / "dns.log").write_text(as_json(*dns))
    one, other = read(tsv), read(plain)
    assert one[1] == other[1] == {}
    assert same(one[0], other[0])
    assert len(one[0].logs) == 5
    first = {"proto": "udp", "query": "-", "AA": True, "answers": [], "trans_id": 7}
    assert entries_of(one[0])["CFull"][0] == ("dns", first)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("\\x0a", "\n"),
        ("\\\\x0a", "\\x0a"),
        ("\\xc3\\xa9", "é"),
        ("é", "é"),
        ("\\xff\\xFE!", "\\xff\\xfe!"),
        ("\\x01\\x02__MSBROWSE__\\x02", "\\x01\\x02__MSBROWSE__\\x02"),
        ("é\\x00", "\\xc3\\xa9\\x00"),
        ("(empty)", ""),
        ("\\x2d", "-"),
        ("\\xZZ", "\\xZZ"),
    ],
)
def test_escapes_of_tsv_are_undone_as_zeek_makes_them(written: str, meant: str, tmp_path: Path) -> None:
    (tmp_path / "conn.log").write_text(as_json(conn()))
    line = "\t".join(["100.0", "C1", "10.0.0.1", "1", "10.0.0.2", "53", "-", written] + ["-"] * 5)
    (tmp_path / "dns.log").write_text(as_tsv("dns", DNS_TYPES) + line + "\n")
    assert entries_of(read(tmp_path)[0])["C1"] == [("dns", {"query": meant})]


def test_bytes_that_are_not_utf8_stay_readable(tmp_path: Path) -> None:
    (tmp_path / "conn.log").write_bytes(as_json(conn()).encode())
    (tmp_path / "dns.log").write_bytes(b'{"ts":100.0,"uid":"C1","query":"\xff.example"}\n')
    assert entries_of(read(tmp_path)[0])["C1"] == [("dns", {"query": "\\xff.example"})]


def test_entries_join_their_connection_across_files_days_and_rotations(tmp_path: Path) -> None:
    first, second = tmp_path / "2026-11-22", tmp_path / "2026-11-23"
    first.mkdir()
    second.mkdir()
    day = 86400.0
    with gzip.open(first / "conn.23:00:00-00:00:00.log.gz", "wt") as file:
        file.write(as_tsv("conn", CONN_TYPES, conn("C1", day - 100)))
    with gzip.open(first / "dns.2026-11-22-23-00-00.log.gz", "wt") as file:
        file.write(as_json(conn("C2", day - 1, query="over midnight"), conn("C1", day - 99, query="early")))
    (second / "conn.log").write_text(as_json(conn("C2", day - 2, duration=900.0), conn("C3", day + 1000)))
    (second / "http.log").write_text(
        as_json(conn("C2", day + 800, uri="/late"), conn("C3", day + 1001, uri="/x"))
    )
    windows, counts = read(tmp_path, block=1)
    assert [uid.decode() for uid in windows.connections.uid] == ["C1", "C2", "C3"]
    uris = {
        uid: [f.get("query", f.get("uri")) for _, f in found] for uid, found in entries_of(windows).items()
    }
    assert uris == {"C1": ["early"], "C2": ["over midnight", "/late"], "C3": ["/x"]}
    assert counts == {}


def test_connections_of_two_sensors_come_merged_in_the_order_of_their_ends(tmp_path: Path) -> None:
    for name, times in (("a", [100.0, 300.0, 500.0]), ("b", [200.0, 400.0, 600.0])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "conn.log").write_text(as_json(*(conn(f"C{t:.0f}", t) for t in times)))
    windows, _ = read(tmp_path, block=2)
    assert windows.connections.end.tolist() == [100.0, 200.0, 300.0, 400.0, 500.0, 600.0]


def test_certificates_and_files_join_the_connections_that_showed_them(tmp_path: Path) -> None:
    (tmp_path / "conn.log").write_text(as_json(conn("C1"), conn("C2"), conn("C3"), conn("C4", 500.0)))
    shown = {"cert_chain_fps": ["ab12", "cd34"]}
    (tmp_path / "ssl.log").write_text(
        as_json(conn("C1", 100.0, **shown), conn("C2", 100.0, **shown), conn("C4", 500.0, **shown))
    )
    (tmp_path / "x509.log").write_text(
        as_json({"ts": 100.1, "fingerprint": "ab12", "certificate.version": 3})
    )
    (tmp_path / "files.log").write_text(
        as_json({"ts": 100.0, "fuid": "F1", "conn_uids": ["C3"], "source": "HTTP"})
    )
    (tmp_path / "pe.log").write_text(as_json({"ts": 100.1, "id": "F1", "machine": "I386"}))
    windows, counts = read(tmp_path)
    streams = {uid: [stream for stream, _ in found] for uid, found in entries_of(windows).items()}
    assert streams == {
        "C1": ["ssl", "x509"],
        "C2": ["ssl", "x509"],
        "C3": ["files", "pe"],
        "C4": ["ssl", "x509"],
    }
    assert counts == {}


@pytest.mark.parametrize("stream", ["notice", "cmdana"])
def test_verdicts_are_no_observations(stream: str, tmp_path: Path) -> None:
    (tmp_path / "conn.log").write_text(as_json(conn()))
    (tmp_path / f"{stream}.log").write_text(as_json(conn(note="X")))
    assert len(read(tmp_path)[0].logs) == 0


def test_labels_do_not_leak_into_entries(tmp_path: Path) -> None:
    (tmp_path / "conn.log.labeled").write_text(as_json(conn(label="Malicious")))
    (tmp_path / "http.log.labeled").write_text(as_json(conn(uri="/", label="Malicious", detailedlabel="x")))
    windows, _ = read(tmp_path)
    assert [set(entry.fields) & {"uri", "label", "detailedlabel"} for entry in windows.logs] == [{"uri"}]


def test_at_most_so_many_entries_of_a_connection_are_kept(tmp_path: Path) -> None:
    (tmp_path / "conn.log").write_text(as_json(conn(duration=50.0)))
    (tmp_path / "dns.log").write_text(
        as_json(*(conn(ts=100.0 + i, query=str(i)) for i in range(MAX_LOG_ENTRIES + 3)))
    )
    windows, counts = read(tmp_path)
    assert [entry.fields["query"] for entry in windows.logs] == [str(i) for i in range(MAX_LOG_ENTRIES)]
    assert counts == {"entry_over_limit": 3}


def test_entries_that_wait_in_vain_are_bounded_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "_MAX_PENDING", 2)
    (tmp_path / "conn.log").write_text(as_json(conn("C9")))
    (tmp_path / "dns.log").write_text(as_json(*(conn(f"C{i}", query="x") for i in range(5))))
    windows, counts = read(tmp_path)
    assert (len(windows.logs), counts) == (0, {"entry_without_connection": 5})


def test_entries_that_wait_are_bounded_in_bytes_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "_MAX_WAITING", 250_000)
    (tmp_path / "conn.log").write_text(as_json(*(conn(f"C{i}") for i in range(5))))
    (tmp_path / "dns.log").write_text(as_json(*(conn(f"C{i}", query="x" * 100_000) for i in range(5))))
    windows, counts = read(tmp_path)
    assert [entry.uid for entry in windows.logs] == ["C3", "C4"]
    assert counts == {"entries_over_memory": 3}


def test_a_uid_that_none_can_be_is_a_bad_record(tmp_path: Path) -> None:
    (tmp_path / "conn.log").write_text(as_json(conn("C1")))
    (tmp_path / "dns.log").write_text(as_json(conn("C" * 100_000, query="x"), conn("C1", query="x")))
    windows, counts = read(tmp_path)
    assert (len(windows.logs), counts) == (1, {"bad_record": 1})


def test_a_uid_longer_than_zeeks_joins_by_what_a_connection_bears_of_it(tmp_path: Path) -> None:
    uid = "C" + "0123456789abcdef" * 2
    (tmp_path / "conn.log").write_text(as_json(conn(uid)))
    (tmp_path / "dns.log").write_text(as_json(conn(uid, query="x")))
    windows, counts = read(tmp_path)
    assert ([entry.fields["query"] for entry in windows.logs], counts) == (["x"], {})
    assert windows.connections.uid.tolist() == [uid[:20].encode()]


@pytest.mark.parametrize("field", ["id.orig_p", "id.resp_p"])
def test_a_connection_without_a_port_is_a_bad_record(tmp_path: Path, field: str) -> None:
    whole, without = conn("C1"), conn("C2")
    del without[field]
    (tmp_path / "conn.log").write_text(as_json(whole, without))
    windows, counts = read(tmp_path)
    assert (windows.connections.uid.tolist(), counts) == ([b"C1"], {"bad_record": 1})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ts", 10**400), ("ts", 1e20), ("ts", -1e13), ("ts", True), ("ts", [1]), ("ts", {}), ("ts", "9999-13-31"),
        ("duration", 1e300), ("duration", 10**400), ("duration", True), ("orig_bytes", 10**400), ("orig_pkts", True),
        ("orig_bytes", 1e300), ("id.orig_h", [1]), ("id.orig_h", "1.2.3.4\0"), ("service", 1),
        ("conn_state", []), ("history", {"a": []}), ("proto", [[[[[[[[[[1]]]]]]]]]]),
    ],
)  # fmt: skip
def test_a_value_that_no_connection_can_have_makes_a_bad_record(
    tmp_path: Path, field: str, value: object
) -> None:
    (tmp_path / "conn.log").write_text(as_json(conn("C1"), {**conn("C2"), field: value}))
    windows, counts = read(tmp_path)
    assert (windows.connections.uid.tolist(), counts) == ([b"C1"], {"bad_record": 1})


def test_a_first_row_without_columns_is_a_bad_record_where_others_have_them(tmp_path: Path) -> None:
    (tmp_path / "conn.log").write_text('{"ts":1.0}\n{}\n' + as_json(conn("C1")))
    windows, counts = read(tmp_path)
    assert (windows.connections.uid.tolist(), counts["bad_record"]) == ([b"C1"], 2)


def test_a_schema_may_change_within_a_file_and_new_columns_are_nobodys_trouble(tmp_path: Path) -> None:
    other = {"uid": "string", "ts": "time", "from_the_future": "string"} | CONN_TYPES
    (tmp_path / "conn.log").write_text(
        as_tsv("conn", CONN_TYPES, conn("C1")) + as_tsv("conn", other, conn("C2", from_the_future="x"))
    )
    windows, counts = read(tmp_path)
    assert (windows.connections.uid.tolist(), counts) == ([b"C1", b"C2"], {})


HEADER_ONLY = as_tsv("conn", CONN_TYPES)
ROW = as_json(conn())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ROW + ROW[:-20], "half_written_line"),
        (as_tsv("conn", CONN_TYPES, conn()).removesuffix("#close\t2026\n") + "101.0\tC2\t10.0", "half_written_line"),
        (ROW + '{"ts": 1, \n', "bad_record"),
        (ROW + "[" * 100000 + "\n", "bad_record"),
        (ROW + "[]\n", "bad_record"),
        (ROW + '{"a":' * 100000 + "\n", "bad_record"),
        (ROW + as_json(conn(ts="noon")), "bad_record"),
        (ROW + '{"ts": NaN, "uid": "C"}\n', "bad_record"),
        (ROW + as_json(conn(**{"id.orig_p": 70000})), "bad_record"),
        (ROW + as_json(conn(**{"id.orig_h": "not an address"})), "bad_record"),
        (ROW + as_json(conn(orig_bytes=-1)), "bad_record"),
        (ROW + as_json(conn(conn_state="??")), "bad_record"),
        (ROW + as_json(conn(uid=["C"])), "bad_record"),
        (as_tsv("conn", CONN_TYPES, conn()) + "101.0\ttoo\tfew\n", "bad_record"),
        (ROW + "x" * (5 << 20) + "\n", "line_too_long"),
    ],
)  # fmt: skip
def test_a_line_that_makes_no_sense_is_counted_and_the_rest_is_read(
    text: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "conn.log").write_text(text)
    windows, counts = read(tmp_path)
    assert (len(windows), counts) == (1, {reason: 1})


def test_the_last_json_line_counts_although_its_end_of_line_is_missing(tmp_path: Path) -> None:
    (tmp_path / "conn.log").write_text(ROW.rstrip("\n"))
    assert len(read(tmp_path)[0]) == 1


def test_header_without_rows_and_empty_files_are_no_connections(tmp_path: Path) -> None:
    (tmp_path / "conn.log").write_text(HEADER_ONLY)
    (tmp_path / "dns.log").write_text("")
    logs = ZeekLogs([tmp_path])
    assert (list(logs), logs.counts.by_reason) == ([], {})


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("dns.log", as_json(conn()), ["no conn.log", "found logs dns"]),
        ("notes.txt", "hello", ["no conn.log", "no Zeek log"]),
        ("conn.log", as_json({"ts": 1.0, "uid": "C"}), ["conn.log", "no column id.orig_h", "ts, uid"]),
        ("conn.log", as_tsv("conn", {"ts": "time", "uid": "string"}), ["no column id.orig_h", "ts, uid"]),
        ("conn.log", "some text\n", ["conn.log", "found 'some text'", "#fields"]),
        ("conn.log", "#fields\ta\tb\n#types\tstring\n", ["conn.log", "found 1 #types, expected 2"]),
    ],
)
def test_logs_that_cannot_be_read_are_refused_by_name(
    name: str, text: str, words: list[str], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(RecordError) as error:
        ZeekLogs([tmp_path])
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_only_named_like_a_log_is_passed_over_and_counted(tmp_path: Path) -> None:
    (tmp_path / "conn.log").write_text(as_json(conn()))
    (tmp_path / "stderr.log").write_text("listening on eth0\n")
    windows, counts = read(tmp_path)
    assert (len(windows), counts) == (1, {"not_a_zeek_log": 1})


def test_a_log_named_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "conn.log").write_text(as_json(conn()))
    (tmp_path / "current").symlink_to(tmp_path / "conn.log")
    assert len(read(tmp_path, tmp_path / "conn.log", tmp_path / "current")[0]) == 1


def test_a_missing_path_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"nowhere: no such file or directory"):
        ZeekLogs([tmp_path / "nowhere"])


def test_the_size_of_blocks_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "conn.log").write_text(as_json(*(conn(f"C{i}", 100.0 + 40 * i) for i in range(20))))
    (tmp_path / "dns.log").write_text(
        as_json(*(conn(f"C{i}", 100.0 + 40 * i, query=str(i)) for i in range(20)))
    )
    whole, _ = read(tmp_path)
    assert len(whole) == len(whole.logs) == 20
    assert all(same(read(tmp_path, block=block)[0], whole) for block in (1, 3, 7, 20))


@pytest.mark.data
@pytest.mark.parametrize("n", [3, 3000], ids=["one_by_one", "compiled"])
def test_a_day_gives_the_same_numbers_whether_it_is_tsv_or_json(tmp_path: Path, n: int) -> None:
    """Zeek writes intervals to the microsecond in TSV, and what two times as doubles differ by in JSON."""
    spans = np.random.default_rng(3).uniform(0.0001, 0.9, (n, 2))
    rows, queries = [], []
    for i, (lasted, rtt) in enumerate(spans.tolist()):
        began = 1_772_607_697.058112 + i
        ends = {"duration": round(began + lasted, 6) - began}
        rows.append(conn(f"C{i}", began, service="dns", orig_bytes=40, history="Dd", conn_state="SF", **ends))
        took = round(began + rtt, 6) - began
        queries.append(
            conn(f"C{i}", began, query=f"host{i}.example.org", rtt=took, answers=["10.0.0.9"], TTLs=[took])
        )
    for name in ("json", "tsv"):
        (tmp_path / name).mkdir()
    (tmp_path / "json" / "conn.log").write_text(as_json(*rows))
    (tmp_path / "json" / "dns.log").write_text(as_json(*queries))
    (tmp_path / "tsv" / "conn.log").write_text(as_tsv("conn", CONN_TYPES, *rows))
    (tmp_path / "tsv" / "dns.log").write_text(as_tsv("dns", DNS_TYPES, *queries))
    schema = load_schema()
    json_, tsv = (encoded(read(tmp_path / name)[0], schema) for name in ("json", "tsv"))
    assert len(json_) == n
    for f in fields(json_.features):
        assert np.array_equal(
            getattr(json_.features, f.name),
            getattr(tsv.features, f.name),
            equal_nan=f.name in ("numeric", "first_packets", "log_summary"),
        ), f.name
    assert np.array_equal(json_.connections.end, tsv.connections.end)


def test_fields_that_nobody_reads_may_be_left_out(tmp_path: Path) -> None:
    made_archive.archive(tmp_path, n=300)
    schema = load_schema()
    whole = concat_encoded([encoded(w, schema) for w in ZeekLogs([tmp_path])])
    brief = ZeekLogs([tmp_path], fields=schema.reads())
    told = [entry for w in brief for entry in w.logs]
    assert {entry.stream for entry in told} >= {"dns", "http", "ssl"}
    assert all(entry.fields.keys() <= schema.reads().get(entry.stream, set()) for entry in told)
    found = concat_encoded([encoded(w, schema) for w in brief])
    for f in fields(found.features):
        assert np.array_equal(
            getattr(found.features, f.name),
            getattr(whole.features, f.name),
            equal_nan=f.name in ("numeric", "first_packets", "log_summary"),
        ), f.name
    assert found.domain == whole.domain
    assert any(found.domain)
    for name in COLUMNS:
        assert np.array_equal(getattr(found, name), getattr(whole, name)), name


@pytest.mark.parametrize(
    "line",
    [
        b'{"ts": 1.5, "query": "caf\xc3\xa9", "n": 18446744073709551616}',
        b'{"query": "half \\ud800 a pair", "and": "\\ud83d\\ude00"}',
        b'{"query": "bytes \xff\xfe"}',
        b'{"caf\xc3\xa9": [1, [2, [3]], {"a": [true, null]}], "x": -0.0}',
        b'{"n": 18446744073709551617}',
        b'{"n": NaN}',
        b'{"n": 1e999}',
        b'{"n": [1, -18446744073709551617]}',
        b'{"n": ' + b"[" * 9 + b"]" * 9 + b"}",
        b'{"n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a": 1, "a": 2}',
        b'{"a": 01}',
        b'{"a": "\x01"}',
        b"[1]",
        b'{"a": 1',
        b"",
    ],
)
def test_json_means_what_pythons_own_reader_makes_of_it(line: bytes) -> None:
    def found(read: Callable[[bytes], Any]) -> Any:
        try:
            return read(line)
        except lines.BadRecord as error:
            return str(error)
        except (ValueError, RecursionError):
            return None

    assert found(lines._json) == found(lambda line: checked(json.loads(lines._json_text(line))))


def test_golden_logs_are_read_whole(tmp_path: Path) -> None:
    archive = FOLDER / "golden.tar.xz"
    if not archive.is_file():
        pytest.skip("the shared data is not here: golden.tar.xz not found beside the project")
    connections = captures = 0
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.name.endswith("/conn.log"):
                continue
            file = tar.extractfile(member)
            assert isinstance(file, io.BufferedReader)
            content = file.read()
            path = tmp_path / "conn.log"
            path.write_bytes(content)
            windows, counts = read(path)
            assert (len(windows), counts) == (content.count(b"\n"), {}), member.name
            connections += len(windows)
            captures += 1
            if captures == 200:
                break
    assert captures == 200
    assert connections > 1000
