"""The wire: what is read back is what was meant, and what is malformed is refused by name."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdana_plugin.endpoint import wire
from cmdana_plugin.endpoint.wire import Alive, ConnectionRow, Event, PeerError, WireError
from cmdana_plugin.verdict import ANOMALOUS_CONNECTION, Notice, Verdict
from feature_extractors.observations import LogEntry

ROW: list[Any] = [
    1, "CHhAvVGS1DHFjwGM9", 100.5, 101.5, "10.0.0.1", 1024, "2001:db8::1", 443, 6, "ssl", 1.0, 10, 20, "SF", 0,
    "ShADadFf", 5, 300, 4, 400, None, None, 0, {"at": [0.0, 0.5], "orig": [60, 60], "resp": [0, 44]},
]  # fmt: skip
LOG = {"ts": 100.6, "uid": "CHhAvVGS1DHFjwGM9", "id": {"orig_h": "10.0.0.1"}, "query": "a.example"}


def payload(records: list[Any], **changes: Any) -> str:
    message = {
        "v": 2, "node": "zeek", "run": "zeek-1", "seq": 1, "before": 0, "finals": 1, "records": len(records),
        "now": 102.0, "last": False, "r": records,
    }  # fmt: skip
    return json.dumps(message | changes, separators=(",", ":"))


def test_a_batch_keeps_every_field_in_its_place() -> None:
    batch = wire.decode_batch(payload([["l", "dns", LOG], ["c", *ROW]]))
    assert (batch.node, batch.run, batch.seq, batch.before, batch.finals, batch.last) == (
        "zeek",
        "zeek-1",
        1,
        0,
        1,
        False,
    )
    assert batch.connections == [ConnectionRow(*ROW)]
    assert batch.logs == [LogEntry("dns", 100.6, "CHhAvVGS1DHFjwGM9", {"query": "a.example"})]
    assert len(batch.log_bytes) == 1
    assert batch.log_bytes[0] > len("a.example")


def test_the_head_is_read_without_decoding_and_only_from_our_own_form() -> None:
    assert wire.head(payload([["c", *ROW]] * 3, finals=2)) == (2, 3)
    assert wire.head("") == wire.head("{}") == wire.head('{"v":2,"node":"a\\"b"') == (0, 0)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("uid", 7, "uid: found '7'; expected str"),
        ("uid", "C\n", "uid: found 'C\\n'; expected 1 to 20 letters and digits"),
        ("uid", "C" * 21, "uid: found"),
        ("stage", 2, "stage: found '[2, 2]'; expected 0..1"),
        ("orig_p", 65536, "orig_p: found"),
        ("orig_p", True, "orig_p: found 'True'; expected int"),
        ("orig_p", None, "orig_p: found 'None'; expected int"),
        ("ts", 1e300, "ts: found"),
        ("orig_bytes", -1, "orig_bytes: found"),
        ("orig_bytes", 2**64, "orig_bytes: found"),
        ("packets", [1, 2, 3], "packets: found"),
        ("packets", {}, "packets: found '{}'; expected an object of at, orig, resp"),
        ("packets", {"at": [0], "orig": [1], "resp": 2}, "packets.resp: found '2'; expected an array"),
        ("packets", {"at": [0], "orig": ["x"], "resp": [2]}, "packets.orig: found"),
        ("packets", {"at": [0], "orig": [1], "resp": [-2]}, "packets.resp: found"),
        ("packets", {"at": [1e300], "orig": [1], "resp": [2]}, "packets.at: found"),
        ("packets", {"at": [0], "orig": [1, 2], "resp": [2]}, "arrays of one length"),
        ("packets", {"at": [0] * 65, "orig": [1] * 65, "resp": [2] * 65}, "arrays of one length, at most 64"),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused_by_name(field: str, value: object, words: str) -> None:
    row = ConnectionRow(*ROW)._replace(**{field: value})
    with pytest.raises(WireError) as refusal:
        wire.decode_batch(payload([["c", *row]]))
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected JSON"),
        ("[]", "expected a JSON object"),
        ("[" * 100_000, "expected JSON"),
        (payload([["c", *ROW]], v=1), "found wire version 1; expected 2: install the same version"),
        (payload([["c", *ROW[:-1]]]), "found '23 fields'; expected 24 in a connection"),
        (payload([["x"]]), "found 'x'; expected"),
        (payload([[]]), "expected an array that begins with its kind"),
        (payload([["l", "dns"]]), 'expected ["l", stream, fields]'),
        (payload([], seq=-1), "seq: found '-1'"),
        (payload([], now=True), "now: found 'True'"),
        (payload([]).replace("102.0", "NaN"), "found NaN"),
        (payload([], r={}), "r: found"),
    ],
)
def test_a_message_of_the_wrong_form_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(WireError) as refusal:
        wire.decode_batch(text)
    assert words in str(refusal.value)


@given(st.text() | st.binary().map(repr))
def test_no_text_at_all_breaks_the_decoder(text: str) -> None:
    for decode in (wire.decode_batch, wire.decode_welcome):
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
    entry = wire.log_entry("x", {"ts": 1.0, "uid": "C1"} | fields)
    assert entry is not None
    assert entry.fields == expected


@pytest.mark.parametrize(
    "record", [{"ts": 1.0}, {"uid": "C1"}, {"ts": "1", "uid": "C1"}, {"ts": 1, "uid": "a b"}, {}]
)
def test_a_log_record_that_belongs_to_no_connection_is_none(record: Any) -> None:
    assert wire.log_entry("weird", record) is None


def test_a_certificate_needs_no_uid() -> None:
    entry = wire.log_entry("x509", {"ts": 1.0, "fingerprint": "ab"})
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


def test_verdicts_cross_as_zeek_types_in_events_of_bounded_size() -> None:
    notice = Notice(1.0, ANOMALOUS_CONNECTION, "odd", "why", "id", proto="tcp", orig_p=None, p=80)
    events = wire.encode_verdicts("t", [verdict()] * 600, [notice])
    bodies = [json.loads(e.payload) for e in events]
    assert [len(b["verdicts"]) for b in bodies] == [256, 256, 88]
    assert [len(b["notices"]) for b in bodies] == [1, 0, 0]
    first = bodies[0]["verdicts"][0]
    assert [(b["finals"], b["earlies"]) for b in bodies] == [(256, 0), (256, 0), (88, 0)]
    assert (first["id"]["orig_p"], first["id"]["resp_p"], first["service"], first["modalities"]) == (
        "1024/udp",
        "53/udp",
        None,
        ["packet"],
    )
    assert first["reasons"] == ['a "b" \\ \n']
    assert (bodies[0]["notices"][0]["p"], bodies[0]["notices"][0]["orig_p"]) == ("80/tcp", None)
    assert (
        json.loads(wire.encode_verdicts("t", [verdict(proto="unknown_transport")], [])[0].payload)[
            "verdicts"
        ][0]["id"]["orig_p"]
        == "1024/unknown"
    )


def test_no_verdicts_are_no_events() -> None:
    assert wire.encode_verdicts("t", [], []) == []


def test_the_heartbeat_comes_back_as_it_was() -> None:
    alive = Alive("i", "0.1", "m", "d", 7, 2, finished="r", leaving=True)
    assert wire.decode_alive(wire.encode_alive("t", alive).payload) == alive
