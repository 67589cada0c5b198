"""Every format holds against what its makers publish, whatever stands in the logs."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import exported
import hostile_names
import jsonschema
import pytest
import stix2

from cmdana_plugin.decision import kinds
from cmdana_plugin.outputs import Order, ecs, export, ocsf, stix, syslog
from cmdana_plugin.outputs.events import Event, of_notice, of_verdict
from cmdana_plugin.outputs.techniques import technique

PUBLISHED = Path(__file__).parent / "published"
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


@pytest.fixture(scope="module", params=["tsv", "json"])
def logs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [*exported.rows(), *exported.hostile_rows()]
    return exported.written(tmp_path_factory.mktemp("logs"), rows, request.param)


def lines(logs: Path, form: Any, tmp_path: Path, **more: Any) -> list[bytes]:
    out = tmp_path / "out"
    export(Order([logs], form, str(out), **more), print, follow=False)
    return out.read_bytes().splitlines()


def leaves(found: object, name: str = "") -> Iterator[tuple[str, object]]:
    """(dotted name, value) of all values in an object."""
    if isinstance(found, dict):
        for key, value in found.items():
            yield from leaves(value, f"{name}.{key}" if name else key)
    elif isinstance(found, list):
        for value in found:
            yield from leaves(value, f"{name}[]")
    else:
        yield name, found


def test_ecs_has_the_published_fields_with_their_types(logs: Path, tmp_path: Path) -> None:
    text = (PUBLISHED / "ecs-9.4.0-fields.csv").read_text().splitlines()
    fields = {r["field"]: r for r in csv.DictReader(text[1:])}
    found = [json.loads(line) for line in lines(logs, "ecs", tmp_path, verdicts=True)]
    assert len(found) == len(exported.rows()) + len(exported.NAMES) + 1
    types = {
        "keyword": str,
        "ip": str,
        "date": str,
        "long": int,
        "match_only_text": str,
        "float": (int, float),
    }
    for document in found:
        for name, value in leaves(document):
            if name.startswith(("cmdana.", "zeek.")):
                continue
            field = fields[name.replace("[]", "")]
            assert ("[]" in name) == (field["array"] == "array"), name
            assert isinstance(value, types[field["type"]]), name
        datetime.fromisoformat(document["@timestamp"])
        assert document["event"]["start"] <= document["event"]["end"]


def test_ocsf_findings_are_valid_against_the_published_class(logs: Path, tmp_path: Path) -> None:
    schema = json.loads((PUBLISHED / "ocsf-1.8.0-detection-finding.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    found = [json.loads(line) for line in lines(logs, "ocsf", tmp_path, verdicts=True)]
    for finding in found:
        validator.validate(finding)
        assert finding["type_uid"] == 100 * finding["class_uid"] + finding["activity_id"]
    with pytest.raises(jsonschema.ValidationError):  # it is no schema that takes everything
        validator.validate({**found[0], "severity_id": "high"})
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**found[0], "src_endpoint": {}})
    told = [f for f in found if f["finding_info"]["uid"].startswith("incident-originator")]
    assert [f["activity_name"] for f in told] == ["Create", "Update"]
    assert told[1]["finding_info"]["attacks"][0]["sub_technique"]["uid"] == "T1021.004"


def test_a_stix_bundle_is_one_that_its_makers_library_takes(logs: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle.json"
    export(Order([logs], "stix", str(out)), print, follow=False)
    bundle = stix2.parse(out.read_text(), allow_custom=False)
    by_id = {o["id"]: o for o in bundle.objects}
    assert len(by_id) == len(bundle.objects)
    incidents = [o for o in bundle.objects if o["type"] == "incident"]
    assert len(incidents) == 2 + len(exported.NAMES)  # the odd connection, and the one that was told twice
    for made in bundle.objects:
        refs = [v for k, v in made.items() if k.endswith("_ref")] + [
            r for k, v in made.items() if k.endswith("_refs") for r in v
        ]
        assert [r for r in refs if r not in by_id] == []
        if made["type"] in ("ipv4-addr", "ipv6-addr"):  # the library makes the id of the standard
            again = {"ipv4-addr": stix2.IPv4Address, "ipv6-addr": stix2.IPv6Address}[made["type"]]
            assert again(value=made["value"])["id"] == made["id"]
        if made["type"] == "network-traffic":
            fields = {k: v for k, v in made.items() if k not in ("type", "id", "spec_version")}
            assert stix2.NetworkTraffic(**fields)["id"] == made["id"]


def test_the_same_incident_has_the_same_ids_in_every_bundle() -> None:
    first, again = (of_notice(row) for row in exported.rows()[1:3])  # type: ignore[arg-type]
    ids = [{o["id"] for o in stix.bundle([e])["objects"] if o["type"] == "incident"} for e in (first, again)]
    assert ids[0] == ids[1]
    both = stix.bundle([again, first])["objects"]
    assert [o["modified"] for o in both if o["type"] == "incident"] == [
        o["modified"] for o in stix.bundle([again])["objects"] if o["type"] == "incident"
    ]


SYSLOG = re.compile(  # RFC 5424, section 6
    rb"<(?P<pri>\d{1,3})>1 (?P<ts>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) (?P<host>[\x21-\x7e]{1,255}) cmdana - "
    rb"(?P<msgid>[\x21-\x7e]{1,32}) "
    rb'(?P<sd>(?:\[[\x21\x23-\x3c\x3e-\x5c\x5e-\x7e]{1,32}(?: [a-z_A-Z]+="(?:[^"\\\]]|\\["\\\]])*")*\])+) '
    rb"\xef\xbb\xbf(?P<msg>.*)",
)


def test_syslog_is_the_grammar_of_its_rfc_and_one_line(logs: Path, tmp_path: Path) -> None:
    found = lines(logs, "syslog", tmp_path, verdicts=True)
    assert len(found) == len(exported.rows()) + len(exported.NAMES) + 1
    for line in found:
        match = SYSLOG.fullmatch(line)
        assert match, line
        assert len(line) <= 2048
        assert 0 <= int(match["pri"]) <= 191
        match["msg"].decode()


@pytest.mark.parametrize("form", ["ecs", "ocsf", "stix", "syslog"])
def test_no_text_of_the_traffic_leaves_unescaped_or_unbounded(logs: Path, form: Any, tmp_path: Path) -> None:
    hostile = [of_notice({**row, "proto": row["msg"], "note": row["msg"]}) for row in exported.hostile_rows()]  # type: ignore[arg-type]
    words = {
        "ecs": ecs.document, "ocsf": ocsf.finding, "stix": lambda e: stix.bundle([e]),
        "syslog": lambda e: {"m": syslog.message(e, "host\nname").decode().replace("\ufeff", "")},
    }[form]  # fmt: skip
    for event in hostile:
        made = words(event)
        assert len(json.dumps(made)) < 64_000
        for name, value in leaves(made):
            if isinstance(value, str):
                shown = (
                    value.replace("\n", "") if name.endswith("content") else value
                )  # a note has lines of ours
                assert not UNSAFE.search(shown), (name, shown)
            elif isinstance(value, float | int):
                assert abs(value) <= 2**53


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("thousand") / "logs"
    hostile_names.write(folder)
    return folder


@pytest.mark.parametrize("form", ["ecs", "ocsf", "stix", "syslog"])
def test_a_thousand_hostile_names_stand_in_every_format_and_do_nothing(
    thousand: Path, form: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    counts = export(Order([thousand], form, str(out), verdicts=True), print, follow=False)
    made = out.read_bytes()
    assert counts.sent > 900
    assert len(set(hostile_names.MARK.findall(made.decode()))) > 900
    if form == "syslog":
        assert [line for line in made.splitlines() if not SYSLOG.fullmatch(line)] == []
        assert [
            w for w in made.decode().replace("\ufeff", "").split("\n") if hostile_names.UNSAFE.search(w)
        ] == []
        return
    assert made.isascii()
    objects = [json.loads(made)] if form == "stix" else [json.loads(line) for line in made.splitlines()]
    texts = [
        v for o in objects for name, v in leaves(o) if isinstance(v, str) and not name.endswith("content")
    ]
    assert [t for t in texts if hostile_names.UNSAFE.search(t)] == []


def test_every_address_is_one_and_every_time_in_the_calendar() -> None:
    event = of_notice({
        "note": "CMDANA::Anomalous_Host", "ts": 1e300, "id.orig_h": "10.0.0.1; rm -rf", "id.resp_h": "fe80::1%eth0",
        "id.resp_p": 70_000.0, "cmdana.first_seen": -5.0, "cmdana.last_seen": float("nan"), "cmdana.score": -3.0,
    })  # fmt: skip
    assert event.source is None
    assert event.destination
    assert (event.destination.ip, event.destination.port) == ("fe80::1", None)
    assert 0 <= event.first_seen <= event.last_seen <= event.ts == 253402300799.0
    assert event.score == 0.0
    for made in (ecs.line(event), ocsf.line(event), stix.line(event), syslog.message(event, "h")):
        assert made


def test_a_row_without_anything_is_exported_all_the_same() -> None:
    for event in (of_notice({}), of_verdict({})):
        assert isinstance(event, Event)
        for made in (ecs.line(event), ocsf.line(event), stix.line(event), syslog.message(event, "")):
            assert made


def test_every_technique_that_an_incident_may_bear_has_its_name() -> None:
    named = set(re.findall(r"\bT\d{4}(?:\.\d{3})?\b", Path(kinds.__file__).read_text()))
    assert len(named) > 10
    assert [t for t in sorted(named) if technique(t) is None or technique(t.partition(".")[0]) is None] == []


@pytest.mark.parametrize(("note", "kind", "evidence", "severity"), [
    ("Known_Attack", "known attack", 2.0, "high"), ("Anomalous_Host", "scan", 2.0, "medium"),
    ("Anomalous_Host", "scan", 3.7, "high"), ("Anomalous_Host", "exfiltration", 1.8, "high"),
    ("Anomalous_Connection", "", 0.0, "low"), ("Traffic_Drift", "", 0.0, "info"), ("Detector_Lost", "", 0.0, "medium"),
])  # fmt: skip
def test_how_grave_it_is(note: str, kind: str, evidence: float, severity: str) -> None:
    row = {"note": f"CMDANA::{note}", "cmdana.kind": kind, "cmdana.evidence": evidence, "cmdana.limit": 1.6}
    assert of_notice(row).severity == severity  # type: ignore[arg-type]
