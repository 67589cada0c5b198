"""What docs/deploy holds for other programs fits what cmdana writes: pipeline, template, dashboard, Sigma rules.

There is no Elasticsearch here: the pipeline's few kinds of processors are interpreted as its reference describes them.
"""

from __future__ import annotations

import csv
import json
import operator
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import exported
import madeup
import pytest
import yaml
from pages import ROOT

from cmdana_plugin.logs.streams import CMDANA, NOTICE
from cmdana_plugin.outputs import Order, export

DEPLOY: Final = ROOT / "docs" / "deploy"
PIPELINE: Final = json.loads((DEPLOY / "elastic" / "ingest-pipeline.json").read_text())
TEMPLATE: Final = json.loads((DEPLOY / "elastic" / "index-template.json").read_text())
BOARD: Final = [json.loads(line) for line in (DEPLOY / "elastic" / "kibana.ndjson").read_text().splitlines()]
RULES: Final = {p.name: yaml.safe_load(p.read_text()) for p in sorted((DEPLOY / "sigma").glob("*.yml"))}


def mapped(properties: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(field, type) of the template."""
    for name, about in properties.items():
        if "properties" in about:
            yield from mapped(about["properties"], f"{prefix}{name}.")
        else:
            yield prefix + name, about["type"]


MAPPED: Final = dict(mapped(TEMPLATE["template"]["mappings"]["properties"]))


def test_the_template_maps_what_is_exported_with_the_types_of_the_schema(tmp_path: Path) -> None:
    logs = exported.written(tmp_path / "logs", exported.rows())
    export(Order([logs], "ecs", str(tmp_path / "out"), verdicts=True), print, follow=False)
    for line in (tmp_path / "out").read_text().splitlines():
        assert [f for f in flat(json.loads(line)) if f not in MAPPED] == []
    published = Path(__file__).parent / "published" / "ecs-9.4.0-fields.csv"
    types = {r["field"]: r["type"] for r in csv.DictReader(published.read_text().splitlines()[1:])}
    same = {"match_only_text": "text"}
    ours = {f: t for f, t in MAPPED.items() if f.partition(".")[0] not in ("cmdana", "zeek", "error")}
    assert {f: t for f, t in ours.items() if same.get(types[f], types[f]) != t} == {}


def flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in document.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def simulated(document: dict[str, Any]) -> dict[str, Any]:
    """What the pipeline makes of a document; raises for a processor that it does not know."""
    for step in PIPELINE["processors"]:
        ((kind, at),) = step.items()
        where, _, name = at["field"].rpartition(".")
        holder = document
        for part in where.split(".") if where and kind != "dot_expander" else ():
            holder = holder.setdefault(part, {}) if kind in ("set", "append") else holder.get(part, {})
        if kind == "dot_expander":
            if at["field"] in document:
                document.setdefault(where, {})[name] = document.pop(at["field"])
        elif kind == "date":
            assert at["formats"] == ["UNIX"]
            document[at["target_field"]] = float(document[at["field"]])
        elif kind == "set":
            holder[name] = at["value"]
        elif kind == "append":
            values = [
                document[v[3:-3].split(".")[0]][v[3:-3].split(".")[1]] if v[0] == "{" else v
                for v in at["value"]
            ]
            holder[name] = [*holder.get(name, []), *values]
        elif kind == "remove":
            assert name in holder or at["ignore_missing"]
            holder.pop(name, None)
        elif kind == "rename":
            if name in holder:
                *to, last = at["target_field"].split(".")
                into = document
                for part in to:
                    into = into.setdefault(part, {})
                into[last] = holder.pop(name)
        else:
            raise AssertionError(f"no such processor here: {kind}")
    return document


def test_the_pipeline_makes_fields_of_the_template_of_every_field_of_cmdana_log(tmp_path: Path) -> None:
    logs = exported.written(tmp_path / "logs", exported.rows(), "json")
    for line in (logs / "cmdana.log").read_text().splitlines():
        made = simulated(json.loads(line))
        assert [f for f in flat(made) if f not in MAPPED] == []
        assert made["source"]["ip"] == "10.0.0.5"
        assert made["related"]["ip"] == ["10.0.0.5", "192.0.2.1"]
        assert made["@timestamp"] == madeup.START
    targets = [s["rename"]["field"] for s in PIPELINE["processors"] if "rename" in s]
    assert {"ts", *targets} == {name for name, _ in CMDANA.fields}  # none is forgotten


def test_the_dashboard_shows_fields_that_are_there_and_holds_what_it_names() -> None:
    there = {(o["type"], o["id"]) for o in BOARD}
    for made in BOARD:
        assert [r for r in made["references"] if (r["type"], r["id"]) not in there] == []
        fields = list(made["attributes"].get("columns", []))
        if "visState" in made["attributes"]:
            state = json.loads(made["attributes"]["visState"])
            fields += [a["params"]["field"] for a in state["aggs"] if "field" in a["params"]]
        assert [f for f in fields if f not in MAPPED] == []
        json.loads(made["attributes"].get("kibanaSavedObjectMeta", {}).get("searchSourceJSON", "{}"))
    (board,) = [o for o in BOARD if o["type"] == "dashboard"]
    panels = json.loads(board["attributes"]["panelsJSON"])
    assert {p["panelRefName"] for p in panels} == {r["name"] for r in board["references"]}


MODIFIERS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "": lambda found, wanted: found == wanted, "gte": operator.ge,
    "startswith": lambda found, wanted: str(found).startswith(wanted),
    "contains": lambda found, wanted: wanted in str(found),
}  # fmt: skip


def meets(rule: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Whether a row meets the rule: the part of Sigma that the rules use, its condition as it stands."""
    met = {}
    for name, wanted in rule["detection"].items():
        if name == "condition":
            continue
        met[name] = all(
            row.get(key.partition("|")[0]) is not None
            and any(
                MODIFIERS[key.partition("|")[2]](row[key.partition("|")[0]], w)
                for w in (value if isinstance(value, list) else [value])
            )
            for key, value in wanted.items()
        )
    return bool(eval(rule["detection"]["condition"], {"__builtins__": {}}, met))


@pytest.mark.parametrize("name", RULES)
def test_a_rule_of_sigma_names_fields_of_the_log_that_it_is_for(name: str) -> None:
    rule = RULES[name]
    assert {"title", "id", "status", "description", "logsource", "detection", "level"} <= rule.keys()
    stream = {"notice": NOTICE, "cmdana": CMDANA}[rule["logsource"]["service"]]
    fields = {f for f, _ in stream.fields}
    used = {
        key.partition("|")[0] for part in rule["detection"].values() if isinstance(part, dict) for key in part
    }
    assert used | set(rule.get("fields", ())) <= fields
    assert len({r["id"] for r in RULES.values()}) == len(RULES)


@pytest.mark.parametrize(("name", "row", "met"), [
    ("incident", {"note": "CMDANA::Anomalous_Host", "cmdana.evidence": 4.2}, True),
    ("incident", {"note": "CMDANA::Anomalous_Host", "cmdana.evidence": 3.9}, False),
    ("incident", {"note": "SSH::Password_Guessing", "cmdana.evidence": 4.2}, False),
    ("grave_kind", {"note": "CMDANA::Known_Attack", "cmdana.kind": "beacon"}, True),
    ("grave_kind", {"note": "CMDANA::Anomalous_Host", "cmdana.kind": "scan"}, False),
    ("very_odd_remote_login", {"stage": "final", "score": 0.7, "service": "ssh", "id.resp_p": 2222}, True),
    ("very_odd_remote_login", {"stage": "final", "score": 0.7, "id.resp_p": 445}, True),
    ("very_odd_remote_login", {"stage": "final", "score": 0.7, "service": "dns", "id.resp_p": 53}, False),
    ("very_odd_remote_login", {"stage": "final", "score": 0.5, "service": "ssh", "id.resp_p": 22}, False),
    ("detector_lost", {"note": "CMDANA::Detector_Lost"}, True),
])  # fmt: skip
def test_a_rule_of_sigma_meets_what_it_says(name: str, row: Mapping[str, Any], met: bool) -> None:
    assert meets(RULES[f"cmdana_{name}.yml"], row) == met


def test_the_rules_of_sigma_are_read_by_its_own_library() -> None:
    collection = pytest.importorskip(
        "sigma.collection", reason="needs pySigma, whose licence is LGPL: by hand"
    )
    for path in (DEPLOY / "sigma").glob("*.yml"):
        assert collection.SigmaCollection.from_yaml(path.read_text()).errors == []
