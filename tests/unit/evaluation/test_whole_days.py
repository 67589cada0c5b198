"""A plan of days is followed: what is learned is not judged, all take their thresholds from the same calm days."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_windows import changed, is_scan, office

from cmdana_plugin.behaviour import names
from cmdana_plugin.config import Config
from cmdana_plugin.evaluation.command import load_findings, save_findings
from cmdana_plugin.evaluation.page import SECTIONS, write_pages
from cmdana_plugin.evaluation.whole_days import measure, told
from cmdana_plugin.evaluation.whole_days import page as of_days
from cmdana_plugin.evaluation.whole_days.alarms import Stretch, Truth, attacks_of
from cmdana_plugin.evaluation.whole_days.plan import Day, Planned, moved, networks_of, read_days, read_story
from feature_extractors import CmdanaError, Stage, address_texts
from feature_extractors.features import encoded, load_schema

PLAN = """recording,network,part,use,scenario
monday,office,train,unseen,
tuesday,office,calibrate,unseen,
wednesday,office,test,unseen,
thursday,office,later,unseen,roll-out
"""
DAY = 86400.0


def made(planned: Planned, number: int) -> Day:
    scan = 60 if planned.part == "test" else 0
    windows = moved(office(1500, seed=number, scan=scan, gap=20.0), number * DAY)
    label = is_scan(windows).astype(np.int8)
    windows = changed(windows, resp_p=np.where(label == 1, np.uint16(22), windows.connections.resp_p))
    c = windows.connections
    family = ["scan" if x else "" for x in label]
    orig, resp = np.array(address_texts(c.orig_h)), np.array(address_texts(c.resp_h))
    attacks = attacks_of(label, family, orig, resp, c.ts, c.end, {})
    stretches = (
        (Stretch(planned.scenario, float(c.ts.min()), float(c.end.max())),) if planned.scenario else ()
    )
    truth = Truth(
        c.ts, c.end, orig, resp, list(c.service), label, family, c.stage == Stage.FINAL, attacks, stretches
    )
    return Day(
        planned.folder.name,
        planned.part,
        windows,
        encoded(windows, load_schema()),
        truth,
        0.0,
        planned.folder,
    )


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    def in_turn(plan: Sequence[Planned], *_: object) -> Iterator[Day]:
        names = ["monday", "tuesday", "wednesday", "thursday"]
        return (made(p, names.index(p.folder.name)) for p in plan)

    monkeypatch.setattr(measure, "in_turn", in_turn)
    (tmp_path / "plan.csv").write_text(PLAN)
    only = ("gaussians", "zeek-scan", "rita")
    return measure.evaluate(read_days(tmp_path / "plan.csv"), Config(), only=only)


def test_days_are_measured_from_a_plan(found: dict[str, Any], tmp_path: Path) -> None:
    site = found["office"]
    assert site["use"] == "unseen"
    assert site["about"]["days"] == {
        "train": ["monday"], "calibrate": ["tuesday"], "later": ["thursday"], "test": ["wednesday"]
    }  # fmt: skip
    assert (site["about"]["attacks"], site["about"]["judged_days"]) == (1, 2.0)
    scan = site["detectors"]["zeek-scan"]["runs"][0]
    assert (scan["shipped"]["found"], scan["shipped"]["false"]) == (1, 0)
    assert scan["shipped"]["families"]["scan"][3] == 25  # told at the 25th host
    assert scan["budget"]["1"]["found"] == 1
    assert scan["best"]["0"] == 1.0
    assert scan["shipped"]["stretches"] == {"roll-out": [1, 0]}
    mixture = site["detectors"]["gaussians"]["runs"][0]
    assert mixture["rates"]["prospective"][0] > 0.9
    assert 0.0 <= mixture["rates"]["realised"][0] < 0.1
    assert mixture["rates"]["retrospective"][0] >= mixture["rates"]["prospective"][0]
    assert [p[2] for p in mixture["curve"]] == sorted(p[2] for p in mixture["curve"])
    page = tmp_path / "results.md"
    kept = "\n".join(f"{mark}kept {name}{mark}" for name, (mark, _) in SECTIONS.items() if name != "days")
    page.write_text(f"before\n{of_days.MARK}old{of_days.MARK}\n{kept}")
    findings = {
        "days": found,
        "made": {"days": {"command": "cmdana evaluate --days p.csv", "code_digest": "0" * 32}},
    }
    save_findings(findings, tmp_path / "f.json")
    write_pages(load_findings(tmp_path / "f.json"), page)
    text = page.read_text()
    assert text.startswith(f"before\n{of_days.MARK}\n\n## Whole days")
    assert "### office: unseen until now, looked at once" in text
    assert "`cmdana evaluate --days p.csv`" in text
    assert "old" not in text.split(of_days.MARK)[1].split()
    assert kept in text  # what the findings hold nothing of
    findings["days"] = {"plant": found["office"]}
    write_pages(findings, page)
    both = page.read_text().split(of_days.MARK)[1]
    for network in ("plant", "office"):  # the second is of the run before
        assert both.count(f"### {network}: unseen until now") == 1
    write_pages(findings, page)
    assert page.read_text().split(of_days.MARK)[1] == both


def test_once_an_incident_is_known_its_connections_count_by_what_those_like_them_bring() -> None:
    windows = encoded(office(40, seed=1, scan=20), load_schema())
    scan = np.flatnonzero(is_scan(office(40, seed=1, scan=20)))
    other = next(i for i in range(len(windows)) if i not in scan)
    members = told._Members({})
    members._rows["known"] = [(int(i), int(i)) for i in (*scan, other)]
    members._rows["never told"] = [(int(other) + 1, int(other) + 1)]
    members._told["known"] = "originator"
    p = np.full(len(windows), 0.5)
    p[scan], p[other] = 1e-3, 1e-3
    revised = members.revised(p, windows)
    assert revised[scan] == pytest.approx(1e-3 / (1.0 + 2.0 * len(scan)))
    assert revised[other] == pytest.approx(1e-3 / 3.0)
    left = np.setdiff1d(np.arange(len(windows)), [*scan, other])
    assert (revised[left] == p[left]).all()


def test_a_network_that_is_measured_anew_leaves_the_others_answers_and_tables() -> None:
    def text(*networks: str) -> str:
        answers = "\n".join(f"- **{n}** {told} <!-- in short: {n} -->" for n, told in parts(networks))
        tables = "\n\n".join(
            f"<!-- part: {n} -->\n\n### {n}\n\n{told}\n\n<!-- part: {n} -->" for n, told in parts(networks)
        )
        return f"## In short: whole days\n\n{answers}\n\n## Whole days\n\n{tables}"

    def parts(networks: tuple[str, ...]) -> list[tuple[str, str]]:
        return [(n.split()[0], n) for n in networks]

    assert of_days.with_others(text("office again"), text("office", "plant")) == text("office again", "plant")
    assert of_days.with_others(text("plant"), "nothing yet") == text("plant")


def test_squeezed_results_go_to_the_page_beside(tmp_path: Path) -> None:
    page, beside = tmp_path / "results.md", tmp_path / "results-squeezed.md"
    captures, own = SECTIONS["captures"][0], SECTIONS["own"][0]
    page.write_text(f"{captures}{captures}")
    beside.write_text(f"squeezed {own}{own}")
    site = {
        "own": True, "trained": 1, "calibrated": 1, "later": 0, "realised": {}, "incidents": {}, "recordings": ["x"],
        "about": {"data": "abc"},
    }  # fmt: skip
    write_pages({"own": {"here": site}}, page)
    assert "### here" in beside.read_text()
    assert "### here" not in page.read_text()


@pytest.mark.parametrize(
    ("plan", "error"),
    [
        ("recording,network\na,b\n", "'part'"),
        (PLAN.replace("train", "learn"), "part: found 'learn'"),
        (PLAN.replace("unseen", "secret"), "use: found 'secret'"),
        (PLAN.replace("test,unseen", "test,choosing"), "days of both uses"),
        (PLAN.replace("calibrate", "train"), "expected train, calibrate"),
        ("recording,network,part\n", "holds no day"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused_in_one_line(tmp_path: Path, plan: str, error: str) -> None:
    (tmp_path / "plan.csv").write_text(plan)
    with pytest.raises(CmdanaError, match=error) as caught:
        read_days(tmp_path / "plan.csv")
    assert "\n" not in str(caught.value)


def test_what_teaches_comes_first_and_what_is_judged_stays_in_the_order_of_the_plan(tmp_path: Path) -> None:
    head, *lines = PLAN.splitlines()
    (tmp_path / "plan.csv").write_text("\n".join([head, *lines[1:], lines[0]]))
    (days,) = networks_of(read_days(tmp_path / "plan.csv")).values()
    assert [d.part for d in days] == ["train", "calibrate", "test", "later"]


def test_a_story_tells_attackers_roles_and_events(tmp_path: Path) -> None:
    assert read_story(tmp_path).actors == {}
    told = {
        "begin": 1000.0,
        "hosts": [
            {"name": "desk7", "address": "10.0.0.7", "inside": True},
            {"name": "web", "address": "10.0.0.80", "inside": True},
            {"name": "host1", "address": "198.51.100.1", "inside": False},
        ],
        "actors": [{"host": "desk7", "family": "scan"}, {"host": "web", "family": ""}],
        "events": [{"kind": "roll-out", "at": 60.0, "until": 120.0}],
        "scenario": {"inside": [{"name": "desk", "role": "clerk"}, {"name": "web", "role": None}]},
    }
    (tmp_path / "story.json").write_text(json.dumps(told))
    story = read_story(tmp_path)
    assert story.actors == {"scan": ["10.0.0.7"]}
    assert story.roles == {"10.0.0.7": "clerk", "10.0.0.80": "server", "198.51.100.1": "outside"}
    assert story.stretches == (Stretch("roll-out", 1060.0, 1120.0),)
    (tmp_path / "story.json").write_text('{"hosts": 3}')
    with pytest.raises(CmdanaError, match=r"story\.json: no story"):
        read_story(tmp_path)


def test_what_is_asked_for_by_name_only_is_not_measured_otherwise() -> None:
    by_default = [name for name in measure.OURS if measure._by_default(name, False)]
    assert by_default == [
        "cmdana as shipped",
        "cmdana calibrated",
        "cmdana",
        "cmdana without behaviour",
    ]
    assert measure._by_default("gaussians", False)
    assert not measure._by_default("boosted", False)
    assert measure._by_default("boosted", True)


def test_what_an_ablation_of_behaviour_leaves_out_is_there_to_be_left_out() -> None:
    alone, *parts = told._PARTS.values()
    assert not alone[1]
    for words, pattern in parts:
        left = [name for name in names() if re.search(pattern, name)]
        assert 5 < len(left) < len(names()) - 20, words
