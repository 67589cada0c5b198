"""The wire: what is read back is what was meant, and what is malformed is refused by name."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import madeup
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdana_plugin.decision.notice import (
    ANOMALOUS_CONNECTION,
    TRAFFIC_DRIFT,
    Notice,
    TrafficDrift,
)
from cmdana_plugin.decision.verdict import NO_VERDICTS, Verdict, Verdicts, coded
from cmdana_plugin.endpoint import observed, wire
from cmdana_plugin.endpoint.observed import ConnectionRow
from cmdana_plugin.endpoint.wire import Alive, Event, PeerError, WireError
from cmdana_plugin.logs.streams import NOTICE_FIELDS
from feature_extractors.observations import LogEntry

ROOT = Path(__file__).parents[3]

ROW = ConnectionRow(
    uid="CHhAvVGS1DHFjwGM9", orig_h="10.0.0.1", resp_h="2001:db8::1", conn_state="SF", history="ShADadFf",
    service="ssl", ts=100.5, end=101.5, duration=1.0, stage=1, orig_p=1024, resp_p=443, ip_proto=6, missed_bytes=0,
    orig_pkts=5, orig_ip_bytes=300, resp_pkts=4, resp_ip_bytes=400, tunneled=0, orig_bytes=10, resp_bytes=20,
    vlan=-1, inner_vlan=-1, packets=[0, 60, 0, 500_000, 60, 44],
)  # fmt: skip
LOG = {"ts": 100.6, "uid": "CHhAvVGS1DHFjwGM9", "id": {"orig_h": "10.0.0.1"}, "query": "a.example"}


def told(row: ConnectionRow) -> list[Any]:
    """The connection as `CMDANA::publish_connection` words it."""
    counts = row[9:-1] if row.vlan != -1 else row[9:-3]
    return [" ".join(map(str, row[:9])), list(counts), row.packets]


def nested(levels: int, kind: Any) -> Any:
    """A value in so many lists, or in so many names."""
    value: Any = 1
    for _ in range(levels):
        value = [value] if kind is list else {kind: value}
    return value


def payload(r: list[Any], /, **changes: Any) -> str:
    finals = sum(one[1][0] == 1 for one in r if type(one) is list and one[1:] and type(one[1]) is list)
    message = {
        "v": wire.WIRE_VERSION, "node": "zeek", "run": "zeek-1", "to": "me", "seq": 1, "before": 0,
        "finals": finals, "records": len(r), "now": 102.0, "last": False, "r": r,
    }  # fmt: skip
    return json.dumps(message | changes, separators=(",", ":"))


def test_a_batch_keeps_every_field_in_its_place() -> None:
    batch = observed.decode_batch(payload([["dns", LOG], told(ROW)]))
    assert (batch.node, batch.run, batch.seq, batch.before, batch.finals, batch.last) == (
        "zeek",
        "zeek-1",
        1,
        0,
        1,
        False,
    )
    assert batch.connections == [ROW]
    assert batch.logs == [LogEntry("dns", 100.6, "CHhAvVGS1DHFjwGM9", {"query": "a.example"})]
    assert len(batch.log_bytes) == 1
    assert batch.log_bytes[0] > len("a.example")


def test_the_head_is_read_without_decoding_and_only_from_our_own_form() -> None:
    assert observed.head(payload([told(ROW)] * 3, finals=2)) == (2, 3)
    assert observed.head("") == observed.head("{}") == observed.head('{"v":2,"node":"a\\"b"') == (0, 0)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("uid", "C\n", "uid: found 'C\\n'; expected 1 to 20 letters and digits"),
        ("uid", "C" * 21, "uid: found"),
        ("stage", 2, "stage: found '[2, 2]'; expected 0..1"),
        ("orig_p", 65536, "orig_p: found"),
        ("orig_p", True, "orig_p: found 'True'; expected int"),
        ("orig_p", None, "orig_p: found 'None'; expected int"),
        ("ts", 1e300, "ts: found"),
        ("ts", "x", "expected ts, end and duration in seconds"),
        ("end", "nan", "end: found"),
        ("service", "a b", "expected 9 words of a connection"),
        ("orig_bytes", -2, "orig_bytes: found"),
        ("orig_bytes", 2**64, "orig_bytes: found"),
        ("packets", {}, "expected a connection, or a log in full or in brief"),
        ("packets", [0, 1], "packets: found '[0, 1]'; expected three numbers for each of at most 64"),
        ("packets", [0] * 195, "packets: found"),
        ("packets", [0, "x", 2], "packets: found"),
        ("packets", [0, 1.5, 2], "packets: found"),
        ("packets", [0, 2**54, 2], "packets: found"),
    ],
)
def test_a_record_with_a_field_of_the_wrong_kind_is_passed_over_by_name(
    field: str, value: object, words: str
) -> None:
    row = ROW._replace(**{field: value})
    batch = observed.decode_batch(payload([told(ROW), told(row), told(ROW)], finals=3))
    assert words in batch.why
    assert (batch.bad, batch.connections) == (1, [ROW, ROW])  # and the others are taken


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected JSON"),
        ("[]", "expected a JSON object"),
        ("[" * 100_000, "expected JSON"),
        (payload([told(ROW)], v=1), "found wire version 1; expected 8: install the same version"),
        (payload([], seq=-1), "seq: found '-1'"),
        (payload([], now=True), "now: found 'True'"),
        (payload([]).replace("102.0", "NaN"), "found NaN"),
        (payload([], r={}), "r: found"),
        (payload([told(ROW)], records=2), "records: found '2'; expected 1, as many as there are"),
        (payload([told(ROW)], finals=0), "finals: found '0'; expected as many as there are"),
        (payload([["weird", {"ts": 1.0, "uid": "C1"}]], finals=1), "finals: found '1'; expected as many"),
        (payload([], seq=0).replace('"seq":0', '"seq":' + "9" * 5000), "expected JSON"),
        (payload([], seq=0).replace('"seq":0', '"seq":' + "9" * 400), "seq: found"),
        (payload([]).replace("102.0", "1e999"), "now: found 'inf'; expected a finite number"),
        (payload([]).replace("102.0", "1" + "0" * 400), "now: found"),
        (payload([], node="x" * 300), "node: found"),
        (payload([], to=7), "to: found '7'; expected str"),
    ],
)
def test_a_message_of_the_wrong_form_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(WireError) as refusal:
        observed.decode_batch(text)
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ([told(ROW)[0], [1], []], "found '1 counts'; expected 12 to 14 in a connection"),
        (["x"], "expected a connection, or a log in full or in brief"),
        ([], "expected a connection, or a log in full or in brief"),
        (7, "expected a connection, or a log in full or in brief"),
        (["conn", "C1 1.0", 7], "expected a stream that is told in brief"),
        (["dns", "C1 1.0 A NOERROR - 1", "a.example"], "as many fields as it has"),
        (["dns", "C1 1.0 A NOERROR x 1", "a.example", None], "rtt: found 'x'; expected a number"),
        (["dns", "C1 nan A NOERROR - 1", "a.example", None], "ts: found 'nan'"),
        (["dns", "C1 1.0 A NOERROR - " + "9" * 400, "a.example", None], "answers: found"),
        (["dns", "C1 1.0 A NOERROR - " + "9" * 5000, "a.example", None], "answers: found"),
        (["weird", {"ts": 10**400, "uid": "C1"}], "ts: found"),
        (["weird", {"ts": 1.0, "uid": "C1", "n": 10**400}], "n: found"),
        (["weird", {"ts": 1.0, "uid": "C1", "n": [10**400]}], "n: found"),
        (["weird", {"ts": 1.0, "uid": "C1", "n": nested(200, "x")}], "n.x"),
        (["weird", {"ts": 1.0, "uid": "C1", "n": nested(200, list)}], "n: found"),
        (["weird", {"ts": 1.0, "uid": "C1", "n": dict.fromkeys(map(str, range(101)))}], "n: found"),
    ],
)
def test_a_record_that_cannot_be_is_counted_in_words_and_the_others_are_taken(
    record: Any, words: str
) -> None:
    batch = observed.decode_batch(payload([["weird", {"ts": 1.0, "uid": "C1"}], record, told(ROW)], finals=1))
    assert words in batch.why
    assert (batch.bad, batch.connections, len(batch.logs)) == (1, [ROW], 1)


@pytest.mark.parametrize("deep", ["[" * 950 + "]" * 950, '{"a":' * 950 + "1" + "}" * 950])
def test_nesting_that_python_can_just_read_is_a_bad_record(deep: str) -> None:
    with ThreadPoolExecutor(1) as fresh:  # whose stack is not that of whoever runs the tests
        for record in ("7", '["weird",{"ts":1.0,"uid":"C1","n":7}]', '["weird",[7]]'):
            text = payload([["@"]]).replace('["@"]', record.replace("7", deep))
            assert fresh.submit(observed.decode_batch, text).result().bad == 1


def test_half_a_character_is_shown_as_a_question_mark_and_a_whole_one_stays() -> None:
    told_in_full = ["weird", {"ts": 1.0, "uid": "C1", "name": "@"}]
    for said, read in (
        (r"\ud800", "?"), (r"\ud83d\udc3e", "\U0001f43e"), (r"\\ud800", r"\ud800"), ("\udcff", "?"),
        (r"\udfff\ud800x", "??x"),
    ):  # fmt: skip
        (entry,) = observed.decode_batch(payload([told_in_full]).replace('"@"', f'"{said}"')).logs
        assert entry.fields == {"name": read}


@given(st.text() | st.binary().map(repr))
def test_no_text_at_all_breaks_the_decoder(text: str) -> None:
    for decode in (observed.decode_batch, wire.decode_welcome):
        with pytest.raises(WireError):
            decode(text)


@given(st.binary())
def test_no_frame_at_all_breaks_the_decoder(frame: bytes) -> None:
    with contextlib.suppress(WireError):
        assert not isinstance(wire.decode_frame(frame), Event)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_an_event_in_a_frame_comes_back_as_it_was(topic: str, text: str) -> None:
    event = Event(topic, "CMDANA::verdicts", text)
    assert wire.decode_frame(wire.encode_frame(event).encode()) == event


def test_an_error_frame_is_the_peers_complaint() -> None:
    frame = b'{"type":"error","code":"deserialization_failed","context":"failed to create Zeek event"}'
    assert wire.decode_frame(frame) == PeerError("deserialization_failed", "failed to create Zeek event")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"duration": 0.5}, {"duration": 0.5}),
        ({"watched": {"port": 80, "proto": "tcp"}}, {"watched": 80}),
        (
            {"certificate": {"version": 3, "key": {"length": 2}}},
            {"certificate.version": 3, "certificate.key.length": 2},
        ),
        ({"ports": [{"port": 80, "proto": "tcp"}, {"port": 1, "proto": "udp"}]}, {"ports": [80, 1]}),
        ({"uri": "x" * 5000, "names": ["y" * 5000] * 200}, {"uri": "x" * 4096, "names": ["y" * 4096] * 100}),
        ({"unset": None, "empty": [], "zero": 0, "no": False}, {"empty": [], "zero": 0, "no": False}),
    ],
)
def test_log_fields_are_flat_and_bear_zeeks_names(fields: Any, expected: Any) -> None:
    entry = observed.log_entry("x", {"ts": 1.0, "uid": "C1"} | fields)
    assert entry is not None
    assert entry.fields == expected


@pytest.mark.parametrize(
    "record", [{"ts": 1.0}, {"uid": "C1"}, {"ts": "1", "uid": "C1"}, {"ts": 1, "uid": "a b"}, {}]
)
def test_a_log_record_that_belongs_to_no_connection_is_none(record: Any) -> None:
    assert observed.log_entry("weird", record) is None


@pytest.mark.parametrize(
    ("brief", "expected"),
    [
        (
            ["dns", "C1 1.5 A NOERROR 0.25 2", "\\xffx.example", [60.0, 7.5]],
            LogEntry("dns", 1.5, "C1", {
                "qtype_name": "A", "rcode_name": "NOERROR", "rtt": 0.25, "answers": 2, "query": "\\xffx.example",
                "TTLs": [60.0, 7.5],
            }),
        ),
        (["dns", "C1 1.5 - - - -", None, None], LogEntry("dns", 1.5, "C1", {})),
        (
            ["http", "C1 1.5 0 512 200", "GET", "-", "/", "", None, ["text/html"], None],
            LogEntry("http", 1.5, "C1", {
                "request_body_len": 0, "response_body_len": 512, "status_code": 200, "method": "GET", "host": "-",
                "uri": "/", "user_agent": "", "resp_mime_types": ["text/html"],
            }),
        ),
        (
            ["ssl", "C1 1.5 TLSv13 - x25519 unknown_ca", True, False, "a.example", None],
            LogEntry("ssl", 1.5, "C1", {
                "version": "TLSv13", "curve": "x25519", "last_alert": "unknown_ca", "established": True,
                "resumed": False, "server_name": "a.example",
            }),
        ),
    ],
)  # fmt: skip
def test_a_log_told_in_brief_has_the_fields_and_the_types_of_one_told_in_full(
    brief: list[Any], expected: LogEntry
) -> None:
    (entry,) = observed.decode_batch(payload([brief])).logs
    assert entry == expected
    assert {name: type(v) for name, v in entry.fields.items()} == {
        name: type(v) for name, v in expected.fields.items()
    }


def test_a_certificate_needs_no_uid() -> None:
    entry = observed.log_entry("x509", {"ts": 1.0, "fingerprint": "ab"})
    assert entry == LogEntry("x509", 1.0, "", {"fingerprint": "ab"})


def verdict(**changes: Any) -> Verdict:
    fields: dict[str, Any] = {
        "ts": 100.5, "uid": "C1", "orig_h": "10.0.0.1", "orig_p": 1024, "resp_h": "10.0.0.2", "resp_p": 53,
        "proto": "udp", "service": None, "community_id": "1:x", "stage": "final", "score": 0.5, "p_value": 0.001,
        "threshold": 0.4, "verdict": "anomalous", "packet_reliance": 0.25, "connection_reliance": 0.25,
        "log_reliance": 0.25, "state_reliance": 0.25, "modalities": ("packet",), "reasons": ("a \"b\" \\ \n",),
        "model": "m-1",
    }  # fmt: skip
    return Verdict(**fields | changes)


def block(*verdicts: Verdict) -> Verdicts:
    """As columns; all bear the threshold and the model of the first."""
    columns: dict[str, Any] = {
        name: [getattr(v, name) for v in verdicts]
        for name in Verdicts.__slots__
        if hasattr(verdicts[0], name)
    }
    columns["reliance"] = [
        [v.packet_reliance, v.connection_reliance, v.log_reliance, v.state_reliance] for v in verdicts
    ]
    for name in ("proto", "service", "stage", "verdict", "modalities"):
        columns[name] = coded(columns[name])
    for name in ("ts", "uid", "orig_p", "resp_p", "community_id", "score", "p_value", "reliance"):
        columns[name] = np.array(columns[name])
        if columns[name].dtype.kind == "U":
            columns[name] = columns[name].astype(np.bytes_)
    return Verdicts(**columns | {"threshold": verdicts[0].threshold, "model": verdicts[0].model})


def test_verdicts_cross_as_zeek_types_in_events_of_bounded_size() -> None:
    notice = Notice(1.0, ANOMALOUS_CONNECTION, "id", verdict())
    events = wire.encode_verdicts("t", block(*[verdict()] * 600), [notice])
    bodies = [json.loads(e.payload) for e in events]
    assert [len(b["uid"]) for b in bodies] == [256, 256, 88]
    assert [len(b["notices"]) for b in bodies] == [0, 0, 1]
    assert [(b["finals"], b["earlies"]) for b in bodies] == [(256, 0), (256, 0), (88, 0)]
    first = bodies[0]
    columns = {name: value[0] for name, value in first.items() if isinstance(value, list) and value}
    assert (columns["orig_p"], columns["proto"], columns["service"], columns["modalities"]) == (
        1024,
        2,
        "",
        1,
    )
    assert (columns["stage"], columns["score"], columns["p_value"]) == (1, 0.5, 0.001)
    assert (first["model"], first["threshold"]) == ("m-1", 0.4)
    assert columns["odd"] == {"i": 0, "verdict": "anomalous", "reasons": ['a "b" \\ \n']}
    assert (bodies[2]["notices"][0]["p"], bodies[2]["notices"][0]["orig_p"]) == ("53/udp", "1024/udp")


@pytest.mark.parametrize(
    ("odd", "told"),
    [([], [0]), ([3], [1]), (range(600), [256, 256, 88]), (range(300, 600), [256, 44])],
)
def test_benign_verdicts_that_nobody_writes_down_are_counted_only(
    odd: Sequence[int], told: list[int]
) -> None:
    plain, early = verdict(verdict="benign", reasons=()), verdict(verdict="benign", reasons=(), stage="early")
    verdicts = block(*[verdict(uid=f"C{i}") if i in odd else early if i % 2 else plain for i in range(600)])
    bodies = [json.loads(e.payload) for e in wire.encode_verdicts("t", verdicts, [], benign=False)]
    assert [len(b["uid"]) for b in bodies] == told
    assert [uid for b in bodies for uid in b["uid"]] == [f"C{i}" for i in odd]
    assert [o["i"] for b in bodies for o in b["odd"]] == [i for n in told for i in range(n)]
    finals = verdicts.stage.count("final")
    assert (sum(b["finals"] for b in bodies), sum(b["earlies"] for b in bodies)) == (finals, 600 - finals)


def test_benign_verdicts_of_an_incident_are_written_down_whoever_writes_none() -> None:
    plain = verdict(verdict="benign", reasons=())
    verdicts = block(plain._replace(uid="C1"), plain._replace(uid="C2", incident="i"))
    (body,) = (json.loads(e.payload) for e in wire.encode_verdicts("t", verdicts, [], benign=False))
    assert (body["uid"], body["incident"], body["odd"], body["finals"]) == (["C2"], ["i"], [], 2)


def test_verdicts_on_earlier_connections_cross_last_and_are_no_new_connections() -> None:
    revised = verdict(stage="revised", incident="i")
    bodies = [json.loads(e.payload) for e in wire.encode_verdicts("t", block(verdict()), [], block(revised))]
    assert [(b["finals"], b["earlies"], b["stage"], b["incident"]) for b in bodies] == [
        (1, 0, [1], [""]),
        (0, 0, [2], ["i"]),
    ]


def test_notices_cross_without_verdicts() -> None:
    notices = [Notice(1.0, ANOMALOUS_CONNECTION, str(k), verdict()) for k in range(300)]
    bodies = [json.loads(e.payload) for e in wire.encode_verdicts("t", NO_VERDICTS, notices)]
    assert [(len(b["uid"]), len(b["notices"])) for b in bodies] == [(0, 256), (0, 44)]


def test_a_notice_crosses_in_words_and_as_the_fields_that_zeek_knows() -> None:
    types = (ROOT / "zeek_scripts" / "types.zeek").read_text()
    raised, fields = (re.findall(r"^\t\t(\w+): ", types.split(f"type {name}: record {{")[1].split("};")[0], re.M)
                      for name in ("RaisedNotice", "NoticeFields"))  # fmt: skip
    assert fields == list(NOTICE_FIELDS)
    drift = TrafficDrift("dns", 0.01, 0.25, 2000, 8, 3600.0, 3, (("connection", 0.5),))
    alone, of_host, of_traffic = (
        wire._notice(n)
        for n in (
            Notice(1.0, ANOMALOUS_CONNECTION, "id", verdict()),
            madeup.incident(verdict(), "responder", odd=20),
            Notice(1.0, TRAFFIC_DRIFT, "id", drift=drift),
        )
    )
    for body in (alone, of_host, of_traffic):
        assert body.keys() <= set(raised)
        assert body["fields"].keys() <= set(fields)
        json.dumps(body, allow_nan=False)
    assert alone["fields"] == {
        "verdict": "anomalous", "score": 0.5, "p_value": 0.001, "threshold": 0.4, "services": ("53/udp",),
        "service_count": 1, "reasons": ('a "b" \\ \n',),
    }  # fmt: skip
    assert (of_host["src"], of_host["dst"], of_host["p"], of_host["n"]) == (None, "10.0.0.2", None, 20)
    assert of_host["fields"]["latest_reasons"] == ('a "b" \\ \n',)
    assert (of_host["identifier"], of_host["fields"]["technique"]) == ("incident-responder-10.0.0.2", "T1046")
    assert (of_traffic["uid"], of_traffic["n"], of_traffic["fields"]["windows"]) == (None, 2000, 3)


def test_no_verdicts_are_no_events() -> None:
    assert wire.encode_verdicts("t", NO_VERDICTS, []) == []


def test_the_sample_has_every_kind_of_thing_in_it() -> None:
    batch = observed.decode_batch(observed.sample())
    assert {row.stage for row in batch.connections} == {0, 1}
    assert {row.ip_proto for row in batch.connections} == {6, 17}
    assert {":" in row.orig_h for row in batch.connections} == {True, False}
    assert {bool(row.packets) for row in batch.connections} == {True, False}
    assert {entry.stream for entry in batch.logs} == {*observed.BRIEF, "weird"}


def test_the_heartbeat_comes_back_as_it_was() -> None:
    alive = Alive("0.1", "m", "d", 7, 2, finished="r", leaving=True, runs=("r", "s"), endpoint="e")
    assert wire.decode_alive(wire.encode_alive("t", alive).payload) == alive
