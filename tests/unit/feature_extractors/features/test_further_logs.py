"""Logs of Spicy's analyzers, certificates, files, weirds: a model that was taught them sees them, and no other."""

from __future__ import annotations

from dataclasses import fields, replace
from importlib import resources
from json import dumps, loads
from pathlib import Path

import numpy as np
import pytest
from made_windows import office

from cmdana_plugin.endpoint.observed import log_entry
from feature_extractors.errors import SchemaError
from feature_extractors.features import Encoded, Features, encoded, load_schema, schema_of
from feature_extractors.observations import LogEntry, Windows, concat
from feature_extractors.readers.zeek_logs import ZeekLogs

SCHEMA = load_schema()
assert SCHEMA.further is not None
FURTHER = SCHEMA.further
TEXT = (resources.files("feature_extractors.features") / "schema.yaml").read_text()
START = 1_763_769_600.0
COUNTS = ("message_id", "ldap.version", "result_count", "rows", "certificate.key_length", "seen_bytes")
LISTS = ("attributes", "san.dns", "cert_chain_fps")
FLAGS = ("success", "is_orig", "basic_constraints.ca", "established")

# Stream, service, fields -> accepted, refused, and which kind of outcome tells it. Rows as Zeek 8.2.2 writes them.
ROWS: list[tuple[str, str, dict[str, str], int, int, str]] = [
    ("quic", "quic,ssl", {"version": "1", "client_initial_dcid": "a1f0", "client_scid": "(empty)", "server_scid": "c3",
                          "server_name": "shop.example", "client_protocol": "h3", "history": "IISishIH"}, 0, 0, ""),
    ("ldap", "ldap_tcp", {"message_id": "1", "version": "3", "opcode": "bind simple", "result": "success",
                          "object": "cn=reader,dc=firm,dc=example", "argument": "REDACTED"}, 1, 0, "LDAP login"),
    ("ldap", "ldap_tcp", {"message_id": "1", "version": "3", "opcode": "bind simple", "result": "invalid credentials",
                          "diagnostic_message": "data 52e", "object": "cn=admin,dc=firm,dc=example",
                          "argument": "REDACTED"}, 0, 1, "LDAP login"),
    ("ldap_search", "ldap_tcp", {"message_id": "2", "scope": "tree", "deref_aliases": "never",
                                 "base_object": "dc=firm,dc=example", "result_count": "1", "result": "success",
                                 "filter": "(&(objectclass=person)(uid=anna))", "attributes": "mail,cn"}, 1, 0,
     "LDAP search"),
    ("postgresql", "postgresql", {"user": "shop", "database": "orders", "application_name": "psql",
                                  "frontend": "startup", "backend": "auth_ok", "backend_arg": "SASL,SASLContinue",
                                  "success": "T"}, 1, 0, "PostgreSQL login"),
    ("postgresql", "postgresql", {"user": "postgres", "database": "postgres", "frontend": "startup",
                                  "backend": "auth_request,auth_request,error",
                                  "backend_arg": "SASL,SASLContinue,Severity=FATAL,Code=28P01", "success": "F"}, 0, 1,
     "PostgreSQL login"),
    ("postgresql", "postgresql", {"user": "shop", "database": "orders", "frontend": "simple_query",
                                  "frontend_arg": "SELECT 1", "success": "T", "rows": "1"}, 1, 0, "PostgreSQL query"),
    ("redis", "redis", {"cmd.name": "AUTH", "success": "T", "reply.value": "OK"}, 1, 0, "Redis login"),
    ("redis", "redis", {"cmd.name": "auth", "success": "F", "reply.value": "WRONGPASS invalid username"}, 0, 1,
     "Redis login"),
    ("redis", "redis", {"cmd.name": "SET", "cmd.key": "cart:7", "cmd.value": "3", "success": "F",
                        "reply.value": "NOAUTH Authentication required."}, 0, 1, "Redis command"),
    ("files", "http", {"fuid": "FQ1a", "source": "HTTP", "mime_type": "application/x-dosexec", "filename": "a.exe",
                       "is_orig": "F", "seen_bytes": "73802"}, 0, 0, ""),
    ("weird", "", {"name": "bad_HTTP_request", "source": "HTTP"}, 0, 0, ""),
]  # fmt: skip


def kind(stream: str, field: str) -> str:
    """The type of a column, as Zeek names it."""
    if field in COUNTS or f"{stream}.{field}" in COUNTS:
        return "count"
    return "vector[string]" if field in LISTS else "bool" if field in FLAGS else "string"


def log(folder: Path, stream: str, rows: list[tuple[str, dict[str, str]]], json: bool) -> None:
    """A log of these rows, by uid, in Zeek's format."""
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    path = folder / f"{stream}.log"
    if json:
        path.write_text("".join(as_json(stream, uid, row) + "\n" for uid, row in rows))
        return
    id_fields = ("ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p")
    id_types = ("time", "string", "addr", "port", "addr", "port")
    ends = "10.0.1.7\t50000\t10.0.2.9\t389"
    path.write_text("\n".join([
        "#separator \\x09", "#set_separator\t,", "#empty_field\t(empty)", "#unset_field\t-", f"#path\t{stream}",
        "\t".join(("#fields", *id_fields, *names)), "\t".join(("#types", *id_types, *(kind(stream, n) for n in names))),
        *("\t".join([f"{START + 1:.6f}", uid, ends, *(row.get(n, "-") for n in names)]) for uid, row in rows), "",
    ]))  # fmt: skip


def as_json(stream: str, uid: str, row: dict[str, str]) -> str:

    def value(name: str, text: str) -> object:
        how = kind(stream, name)
        if how == "count":
            return int(text)
        return text == "T" if how == "bool" else text.split(",") if how == "vector[string]" else text

    values = {name: value(name, text) for name, text in row.items() if text != "(empty)"}
    return dumps({"_path": stream, "ts": START + 1, "uid": uid, **values})


def conn(folder: Path, services: list[str]) -> None:
    names = ("ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto", "service", "duration",
             "orig_bytes", "resp_bytes", "conn_state", "missed_bytes", "history", "orig_pkts", "orig_ip_bytes",
             "resp_pkts", "resp_ip_bytes")  # fmt: skip
    types = ("time", "string", "addr", "port", "addr", "port", "enum", "string", "interval", "count", "count", "string",
             "count", "string", "count", "count", "count", "count")  # fmt: skip
    rows = [
        f"{START + 2:.6f}\tC{i}\t10.0.1.7\t{50000 + i}\t10.0.2.9\t389\ttcp\t{service or '-'}\t0.5\t90\t80"
        "\tSF\t0\tShADadFf\t6\t400\t5\t340"
        for i, service in enumerate(services)
    ]
    head = [
        "#separator \\x09",
        "#set_separator\t,",
        "#empty_field\t(empty)",
        "#unset_field\t-",
        "#path\tconn",
    ]
    (folder / "conn.log").write_text(
        "\n".join([*head, "\t".join(("#fields", *names)), "\t".join(("#types", *types)), *rows, ""])
    )


def read(folder: Path, json: bool) -> Windows:
    """The windows of a folder with every row of `ROWS`, each in a connection of its own."""
    conn(folder, [service for _, service, *_ in ROWS])
    for stream in dict.fromkeys(row[0] for row in ROWS):
        mine = [(f"C{i}", row[2]) for i, row in enumerate(ROWS) if row[0] == stream]
        log(folder, stream, mine, json)
    return concat(list(ZeekLogs([folder], fields=FURTHER.reads())))


@pytest.mark.parametrize("json", [False, True])
def test_every_row_is_read_and_tells_what_came_of_it(tmp_path: Path, json: bool) -> None:
    block = encoded(read(tmp_path, json), FURTHER)
    row_of = {uid.decode(): i for i, uid in enumerate(block.connections.uid.tolist())}
    for k, (stream, _, row, accepted, refused, told) in enumerate(ROWS):
        i = row_of[f"C{k}"]
        seen = {f.name for f in FURTHER.log_fields if f.stream == stream} & row.keys()
        assert np.diff(block.features.log_start)[i] == len(seen), stream
        assert (int(block.accepted[i]), int(block.refused[i])) == (accepted, refused), row
        kinds = FURTHER.outcomes[block.told_by[i] - 1].one if block.told_by[i] else ""
        assert kinds == told


def nested(row: dict[str, object]) -> dict[str, object]:
    """Columns with dots as records in one another, as `to_json` renders them."""
    out: dict[str, object] = {}
    for name, value in row.items():
        *outer, last = name.split(".")
        place = out
        for part in outer:
            place = place.setdefault(part, {})  # type: ignore[assignment]
        place[last] = value
    return out


def test_a_running_zeek_tells_the_same_of_every_row(tmp_path: Path) -> None:
    by_uid = {e.uid: e for e in read(tmp_path, json=True).logs}
    for k, (stream, _, row, *_) in enumerate(ROWS):
        told = log_entry(stream, nested(loads(as_json(stream, f"C{k}", row))))
        assert told is not None
        assert by_uid[f"C{k}"].fields.items() <= told.fields.items()


def test_a_certificate_is_its_connections(tmp_path: Path) -> None:
    conn(tmp_path, ["ssl"])
    log(tmp_path, "ssl", [("C0", {"version": "TLSv12", "established": "T", "cert_chain_fps": "ab12"})], False)
    said = {"fingerprint": "ab12", "certificate.subject": "CN=shop.example", "certificate.issuer": "CN=Anyone",
            "certificate.key_length": "2048", "certificate.sig_alg": "sha256WithRSAEncryption",
            "san.dns": "shop.example,www.shop.example", "basic_constraints.ca": "F"}  # fmt: skip
    log(tmp_path, "x509", [("-", said)], False)
    block = encoded(concat(list(ZeekLogs([tmp_path], fields=FURTHER.reads()))), FURTHER)
    summary = dict(zip(FURTHER.summary, block.features.log_summary[0].tolist(), strict=True))
    assert summary["x509.certificate.subject.length"] == pytest.approx(np.log1p(len("CN=shop.example")))
    assert summary["x509.san.dns"] == pytest.approx(np.log1p(2))
    assert np.diff(block.features.log_start)[0] == 2 + 6  # version, established; all that is read of it


def with_further(windows: Windows) -> Windows:
    """The same with an entry of each further stream behind those of every connection."""
    logs: list[LogEntry] = []
    start = [0]
    for i in range(len(windows)):
        own = windows.logs[windows.log_start[i] : windows.log_start[i + 1]]
        ts = float(windows.connections.ts[i])
        more = [
            LogEntry(stream, ts, "", dict(row))
            for stream, _, row, *_ in ROWS
            if stream not in ("files", "weird")
        ]
        logs += [*own, *more]
        start.append(len(logs))
    return replace(windows, logs=logs, log_start=np.array(start, np.int64))


def same(a: Features, b: Features) -> bool:
    return all(
        np.array_equal(getattr(a, f.name), getattr(b, f.name), equal_nan=f.name != "name") for f in fields(a)
    )


def test_whoever_was_not_taught_them_sees_none_of_them() -> None:
    windows = office(60)
    assert same(encoded(windows, SCHEMA).features, encoded(with_further(windows), SCHEMA).features)


def test_whoever_was_taught_them_sees_all_else_as_before() -> None:
    plain, more = (encoded(office(60), schema).features for schema in (SCHEMA, FURTHER))
    k = len(SCHEMA.summary)
    assert np.isnan(more.log_summary[:, k:]).all()
    assert same(plain, replace(more, log_summary=more.log_summary[:, :k]))


def test_a_connection_has_no_more_tokens_than_before() -> None:
    block: Encoded = encoded(with_further(office(30)), FURTHER)
    assert np.diff(block.features.log_start).max() == FURTHER.log_tokens


def test_the_digest_tells_who_was_taught_them(tmp_path: Path) -> None:
    path = tmp_path / "schema.yaml"
    path.write_text(TEXT.replace("  weird:\n    - {name: name, kind: enum, target: true}\n", ""))
    without_weird = load_schema(path)
    assert without_weird.digest == SCHEMA.digest != FURTHER.digest
    assert without_weird.further is not None
    assert without_weird.further.digest not in (SCHEMA.digest, FURTHER.digest)
    assert schema_of(FURTHER.digest) == FURTHER
    assert schema_of(SCHEMA.digest) == schema_of("") == schema_of("another") == SCHEMA
    assert FURTHER.log_fields[: len(SCHEMA.log_fields)] == SCHEMA.log_fields
    assert {"quic", "ldap", "redis"} & SCHEMA.reads().keys() == {"ldap", "redis"}  # outcomes are for all


def test_a_stream_that_every_model_has_cannot_be_a_further_one(tmp_path: Path) -> None:
    path = tmp_path / "schema.yaml"
    path.write_text(TEXT.replace("\nfurther:\n", "\nfurther:\n  dns:\n    - {name: query, kind: name}\n"))
    with pytest.raises(SchemaError, match=r"further: found \['dns'\]"):
        load_schema(path)


def test_of_a_chain_the_first_certificate_counts_as_in_logs() -> None:
    """cmdana's own reading of captures tells of all of them."""
    windows = office(3)
    said = [
        {"certificate.subject": s, "host_cert": s == "CN=a", "client_cert": s == "CN=c"}
        for s in ("CN=a", "CN=b")
    ]
    logs = [*windows.logs, *(LogEntry("x509", float(windows.connections.ts[2]), "", dict(f)) for f in said)]
    start = windows.log_start.copy()
    start[3:] += 2
    block = encoded(replace(windows, logs=logs, log_start=start), FURTHER)
    assert (
        np.diff(block.features.log_start)[2] == np.diff(encoded(windows, FURTHER).features.log_start)[2] + 1
    )
