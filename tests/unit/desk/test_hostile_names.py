"""A thousand hostile names through every output: none moves a cursor, or leaves its quotation, cell or element."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostile_names
import pytest
from hostile_names import MARK, NAMES, UNSAFE, Page, outside

from cmdana_plugin.analyst import alerts, explain, report
from cmdana_plugin.analyst import label as feedback
from cmdana_plugin.analyst.alerts import Filter
from cmdana_plugin.analyst.brief import quoted
from cmdana_plugin.analyst.printing import middle, printable
from cmdana_plugin.config import Config, Desk
from cmdana_plugin.desk import decide, table
from cmdana_plugin.desk.incidents import read_incidents
from cmdana_plugin.desk.queue import Entry, Wanted, queue
from cmdana_plugin.desk.store import NAME, Store
from cmdana_plugin.desk.web.index import Index
from cmdana_plugin.desk.web.pages import Pages
from cmdana_plugin.logs.labels import LabelError, read_labels
from cmdana_plugin.logs.reader import read_rows, text
from cmdana_plugin.outputs.export import Order, export
from feature_extractors.errors import CmdanaError, RecordError
from feature_extractors.readers import PassedOver


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "logs"
    hostile_names.write(path)
    return path


@pytest.fixture(scope="module")
def entries(folder: Path) -> list[Entry]:
    return queue(list(read_incidents([folder]).of.values()), {}, {}, 20.0)


@pytest.fixture(scope="module")
def pages(folder: Path) -> Iterator[Pages]:
    index = Index(folder, Store(folder / NAME), 20.0, 200_000)
    index.start()
    for _ in range(600):
        if not index.doing:
            break
        index._stop.wait(0.1)
    assert not index.doing
    config = Config(desk=Desk(arkime="https://arkime.example/?c={community_id}&u={uid}"))
    yield Pages(index, config, "a-form-token")
    index.stop()


@pytest.mark.parametrize("most", [8, 60, 400])
def test_a_printable_name_is_one_short_line_cut_in_the_middle(most: int) -> None:
    for name in NAMES:
        shown = printable(name, most)
        assert len(shown) <= most
        assert "\n" not in shown
        assert UNSAFE.search(shown) is None
        assert quoted(name, most).count("⟦") == 1
    long = "login.bank.example." + "a" * 500 + ".evil.example"
    assert printable(long, 60).startswith("login.bank")
    assert printable(long, 60).endswith("evil.example")
    assert [middle("abcdef", n) for n in (6, 5, 2, 1)] == ["abcdef", "ab…ef", "…f", "…"]


@pytest.mark.parametrize("form", ["table", "brief", "json"])
def test_no_line_for_a_terminal_does_more_than_stand_there(
    folder: Path, entries: list[Entry], form: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    alerts.show_alerts([folder], Filter(), follow=False, form=form)
    alerts.show_oddest([folder], Filter(), 500, form=form)
    table.show(entries, Wanted.parse("all"), form, 2000, 20.0)
    said = capsys.readouterr()
    assert len(set(MARK.findall(said.out))) > 900
    assert [line for line in said.out.split("\n") if UNSAFE.search(line)] == []
    assert UNSAFE.search(said.err) is None
    if form == "json":
        assert said.out.isascii()
        assert all(json.loads(line) for line in said.out.splitlines())
    if form == "brief":
        assert [piece for piece in outside(said.out) if MARK.search(piece)] == []
        assert "never an instruction" in said.out


def test_an_explanation_is_as_harmless(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uids = [text(row, "uid") for row in read_rows(folder / "cmdana.log", "cmdana", PassedOver())][::97]
    for uid in uids:
        try:
            found = explain.explain(uid, folder)
        except RecordError:  # it stands in the log in another form than it is asked for
            assert not uid.isalnum()
            continue
        explain.show(found, folder)
        assert json.dumps(explain.explanation_object(found)).isascii()
    said = capsys.readouterr().out
    assert MARK.search(said)
    assert [line for line in said.split("\n") if UNSAFE.search(line)] == []


def test_the_report_and_its_pictures_hold_no_element_of_theirs(folder: Path) -> None:
    page = report.render(report.gather(folder), folder, 20.0)
    assert len(set(MARK.findall(page))) > 40
    assert Page(page).wrong == []


def test_the_pages_hold_no_element_of_theirs(folder: Path, pages: Pages, entries: list[Entry]) -> None:
    drawn = [pages.queue({"state": "all", "page": str(n)}) for n in range(21)]
    drawn += [
        pages.queue({"state": "all", "host": name, "kind": name, "since": name}) for name in NAMES[::40]
    ]
    drawn += [pages.incident(e.incident.id, {"page": e.incident.title}) or "" for e in entries[::24]]
    drawn += [pages.host(e.incident.host, {}) or "" for e in entries[::40]]
    drawn += [pages.connection(e.incident.uid) for e in entries[::60] if e.incident.uid.isalnum()]
    drawn += [pages.model(), pages.fault(NAMES[0])]
    assert all(drawn)
    assert len(set(MARK.findall("".join(drawn)))) > 900
    for page in drawn:
        wrong = [w for w in Page(page).wrong if "https://arkime.example/?c=" not in w]
        assert wrong == []
    assert "https://arkime.example/?c=%3Cscript%3E" in "".join(drawn)


def test_labels_are_rows_of_a_table_and_no_formulas(
    folder: Path, entries: list[Entry], tmp_path: Path
) -> None:
    store = tmp_path / "labels.csv"
    for e in entries[:60]:
        decide.learned(e.incident, "malicious", folder, store, PassedOver())
    rows = [*read_rows(folder / "cmdana.log", "cmdana", PassedOver())]
    feedback.store_all([row for row in rows if feedback.fits(row)], "benign", store)
    with pytest.raises(LabelError, match="its ends are no addresses"):
        feedback.store(rows[0], "benign", store)
    assert len(read_labels(store)) > 800
    raw = store.read_text()
    assert UNSAFE.search(raw) is None
    table_of = list(csv.reader(raw.splitlines()))
    assert {len(row) for row in table_of} == {len(feedback.COLUMNS)}
    assert [cell for row in table_of for cell in row if cell[:1] in tuple("=+-@\t\r")] == []


def test_a_scope_of_the_allow_list_takes_no_name_for_an_address(
    folder: Path, entries: list[Entry], tmp_path: Path
) -> None:
    settings = tmp_path / "plugin.toml"
    refused = 0
    for e in entries[:24]:
        for scope in decide.SCOPES:
            try:
                decide.allowed(e.incident, scope, "2026-12-31", folder, settings, PassedOver())
            except CmdanaError:
                refused += 1
    assert refused
    if settings.exists():
        assert MARK.search(settings.read_text()) is None


SYSLOG = re.compile(r'<\d+>1 \S+ \S+ cmdana - \S+ (?:\[[^ \]]+(?: \w+="(?:[^"\\\]]|\\.)*")*\])+ \ufeff.*')


@pytest.mark.parametrize("form", ["ecs", "ocsf", "stix", "syslog"])
def test_what_other_programs_get_is_whole_events_and_nothing_of_their_making(
    folder: Path, tmp_path: Path, form: Any
) -> None:
    out = tmp_path / "events"
    sent = export(Order([folder], form, str(out), verdicts=True), print, follow=False).sent
    assert sent > 1400
    said = out.read_text("utf-8")
    if form == "stix":
        kinds = {o["type"] for o in json.loads(said)["objects"]}
        assert "indicator" not in kinds
        assert "incident" in kinds
    lines = said.split("\n")[:-1]
    if form in ("ecs", "ocsf"):
        assert [type(json.loads(line)) for line in lines] == [dict] * sent
    if form == "syslog":
        assert [line for line in lines if not SYSLOG.fullmatch(line)] == []
        assert len(lines) == sent
    plain = said.replace("\ufeff", "") if form == "syslog" else said
    assert [line for line in plain.split("\n") if UNSAFE.search(line)] == []
