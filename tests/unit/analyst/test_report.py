"""The report: true to the logs, one page that loads nothing, and safe to open whatever the traffic was called."""

import base64
import gzip
import hashlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import browser
import madeup
import pytest

from cmdana_plugin.analyst import charts, report
from cmdana_plugin.decision.notice import DETECTOR_LOST
from cmdana_plugin.decision.verdict import Verdict
from cmdana_plugin.logs.notices import notice_columns
from cmdana_plugin.logs.streams import LogError
from feature_extractors.errors import RecordError


def odd(ts: float, i: int, orig: str = "10.0.0.66", reasons: Sequence[str] = ("a reason",)) -> Verdict:
    return madeup.verdict(ts, i, orig, "192.0.2.1", 445, None, 1e-5, reasons)


def usual(ts: float, i: int, service: str | None = "dns") -> Verdict:
    return madeup.verdict(ts, i, "10.0.0.5", "10.0.0.1", 53, service, 0.5)


def page_of(folder: Path) -> str:
    return report.render(report.gather(folder), folder, 20.0)


def test_it_counts_what_the_logs_say(tmp_path: Path) -> None:
    rows = [
        usual(madeup.START, 1),
        odd(madeup.START + 1, 2)._replace(stage="early"),
        odd(madeup.START + 2, 2),
        usual(madeup.START + 90_000, 3, None),
    ]
    madeup.write_logs(tmp_path, rows)
    seen = report.gather(tmp_path)
    assert (seen.connections, seen.early, seen.odd, seen.conn) == (3, 1, 1, 4)
    assert (seen.first, seen.last) == (madeup.START, madeup.START + 90_000)
    assert seen.services == {"dns": [1, 0], "445/tcp": [1, 1], "53/tcp": [1, 0]}
    assert seen.tails == [1, 1, 1, 1]  # one connection at p = 1e-5, under every level
    assert sum(seen.scores) == 3
    assert seen.scores[int(rows[2].score * report.BINS)] == 1
    assert seen.hosts == {"10.0.0.5", "10.0.0.1", "10.0.0.66", "192.0.2.1"}
    assert seen.bytes == 4 * (1020 + 94160)
    assert dict(seen.days) == {"2025-11-22": 1}
    (incident,) = seen.incidents.values()
    assert incident.note == "Anomalous_Connection"
    assert incident.trigger is not None
    assert incident.trigger.facts == "lasted 1.5 s, sent 500 B, got 90 kB, state SF, history ShADadFf"


def test_every_form_of_the_logs_gives_the_same_report(tmp_path: Path) -> None:
    rows = madeup.verdicts(600)
    madeup.write_logs(tmp_path / "tsv", rows)
    madeup.write_logs(tmp_path / "json", rows, "json")
    rotated = tmp_path / "rotated"
    for part, name in ((rows[:300], "2025-11-22"), (rows[300:], "2025-11-23")):
        madeup.write_logs(tmp_path / "part", part)
        (rotated / name).mkdir(parents=True)
        for stream in ("cmdana", "conn"):
            data = gzip.compress((tmp_path / "part" / f"{stream}.log").read_bytes())
            (rotated / name / f"{stream}.00:00:00-00:00:00.log.gz").write_bytes(data)
    shutil.copy(tmp_path / "tsv" / "notice.log", rotated)
    tsv, json, split = (report.gather(tmp_path / name) for name in ("tsv", "json", "rotated"))
    for other in (json, split):
        assert other.connections == tsv.connections == 600
        assert other.odd == tsv.odd > 0
        assert other.scores == tsv.scores
        assert other.services == tsv.services
        assert other.incidents.keys() == tsv.incidents.keys()
        for one, same in zip(other.incidents.values(), tsv.incidents.values(), strict=True):
            one.evidence, same.evidence = (i.evidence and float(f"{i.evidence:.6g}") for i in (one, same))
            assert one == same
        assert other.time.cells == tsv.time.cells


def test_notices_of_one_host_are_one_incident_whether_zeek_or_we_wrote_them(tmp_path: Path) -> None:
    v = odd(madeup.START, 2)._replace(resp_h="10.0.0.9", verdict="benign")
    ours = notice_columns(madeup.incident(v, "responder"))
    zeeks = notice_columns(madeup.incident(v._replace(ts=madeup.START + 60), "responder", odd=20))
    zeeks |= {"src": "10.0.0.66"}  # Zeek fills in the other side of a notice about a connection
    madeup.write_logs(tmp_path, [v], extra=[ours, zeeks])
    (incident,) = report.gather(tmp_path).incidents.values()
    assert (incident.notices, incident.n, incident.msg) == (2, 20, zeeks["msg"])
    assert (incident.first, incident.last) == (madeup.START, madeup.START + 60)
    assert incident.trigger is not None


def test_an_incident_tells_the_reasons_of_all_from_those_of_its_latest_connection(tmp_path: Path) -> None:
    v = odd(madeup.START, 1, reasons=("one thing", "another; and more"))._replace(verdict="benign")
    madeup.write_logs(tmp_path, [v], extra=[notice_columns(madeup.incident(v))])
    (incident,) = report.gather(tmp_path).incidents.values()
    assert incident.reasons == ["20 attempts without an answer in 5 s", "a reason; of two parts"]
    assert incident.latest == ["one thing", "another; and more"]
    assert incident.evidence == 3.4
    page = page_of(tmp_path)
    assert "<li>another; and more</li>" in page
    assert (
        "Evidence 3.4: 1 in 2,500 hours of normal hosts hold as much; an incident begins at 1.7, 1 in 50."
        in page
    )


def test_the_page_gives_the_score_of_a_connection_beside_its_title_and_not_in_it(tmp_path: Path) -> None:
    madeup.write_logs(tmp_path, [odd(madeup.START, 1, reasons=("evidence 1 decades; latest: x",))])
    (incident,) = report.gather(tmp_path).incidents.values()
    assert (
        incident.msg
        == "10.0.0.66 -> 192.0.2.1 445/tcp is unlike this network's normal (score 0.625, threshold 0.500)"
    )
    assert incident.title == "10.0.0.66 -> 192.0.2.1 445/tcp is unlike this network's normal"
    assert (incident.reasons, incident.latest, incident.evidence) == (
        ["evidence 1 decades; latest: x"],
        [],
        None,
    )


def test_a_notice_log_of_an_older_version_gives_incidents_by_host(tmp_path: Path) -> None:
    rows = [odd(madeup.START + i, i, reasons=("one thing", "another")) for i in range(30)]
    v = rows[29]
    scan = {
        "ts": v.ts, "uid": v.uid, "note": "CMDANA::Anomalous_Host", "src": v.orig_h, "n": 20,
        "msg": "10.0.0.66 is behind 20 odd connections to 1 host (445/tcp)",
        "sub": "resembles attacks seen in training; evidence 8 decades; latest: one thing; another",
    }  # fmt: skip
    madeup.write_logs(tmp_path, rows, extra=[scan, scan | {"ts": v.ts + 60, "n": 200}])
    seen = report.gather(tmp_path)
    assert len(seen.incidents) == 2
    found = seen.incidents["CMDANA::Anomalous_Host", "originator|10.0.0.66"]
    assert (found.notices, found.n, found.evidence) == (2, 200, 8.0)
    assert (found.reasons, found.latest) == (["resembles attacks seen in training"], ["one thing", "another"])
    assert found.trigger is not None


def test_an_incident_is_drawn_as_it_unfolded_and_its_revised_rows_are_no_new_connections(
    tmp_path: Path,
) -> None:
    rows = [
        odd(madeup.START + 5.0 * i, i)._replace(resp_p=i, incident="incident-originator-10.0.0.66")
        for i in range(40)
    ]
    before = [usual(madeup.START - 9, 90)._replace(orig_h="10.0.0.66")]
    revised = [v._replace(stage="revised", verdict="anomalous", incident=rows[0].incident) for v in before]
    notices = [notice_columns(madeup.incident(rows[k], odd=n)) for k, n in ((2, 3), (39, 40))]
    madeup.write_logs(tmp_path, [*before, *rows, *revised], extra=notices)
    seen = report.gather(tmp_path)
    assert seen.connections == 41
    (incident,) = [i for i in seen.incidents.values() if i.id]
    unfolding = seen.unfoldings.of[incident.id]
    assert len(unfolding.points) == 41
    assert incident.times == [rows[2].ts, rows[39].ts]
    assert unfolding.reached()[-1][1:] == (2, 41)
    assert sum(step.connections for step in unfolding.steps()) == 41
    page = page_of(tmp_path)
    assert "How incident incident-originator-10.0.0.66 unfolded" in page
    assert "hosts reached: 2; ports (dashed): 41" in page
    assert "MITRE ATT&amp;CK T1046" in page


def test_a_scan_takes_one_line_of_the_oddest_and_says_how_many_there_were(tmp_path: Path) -> None:
    rows = [odd(madeup.START + i, i)._replace(resp_p=i) for i in range(1, 60)]
    rows += [odd(madeup.START + 90, 90, orig="10.0.0.7")]
    madeup.write_logs(tmp_path, rows)
    page = page_of(tmp_path)
    oddest = page.split('<section id="oddest">')[1].split("</section>")[0]
    assert oddest.count("10.0.0.66") == 1
    assert '<td class="number" data-name="odd in all">59</td>' in oddest
    assert "10.0.0.7" in oddest


def test_the_command_that_says_more_names_the_folder_as_a_shell_takes_it(tmp_path: Path) -> None:
    folder = tmp_path / "my logs"
    madeup.write_logs(folder, [odd(madeup.START, 1)])
    assert f"<code>cmdana explain C{1:017d} &#39;{folder}&#39;</code>" in page_of(folder)


def test_every_link_of_the_page_leads_to_a_section_of_it(tmp_path: Path) -> None:
    madeup.write_logs(tmp_path, madeup.verdicts(300))
    page = page_of(tmp_path)
    links = re.findall(r'href="([^"]*)"', page)
    assert len(links) == 8
    assert [link for link in links if f'id="{link[1:]}"' not in page] == []


def test_labels_give_a_matrix_of_verdicts_whose_rest_is_one_column_and_whose_words_are_text(
    tmp_path: Path,
) -> None:
    madeup.write_logs(tmp_path, [usual(madeup.START, 1)])
    seen = report.gather(tmp_path)
    assert 'id="labels"' not in report.render(seen, tmp_path, 20.0)
    said = {
        "<b>scan": {f"kind{i}": 20 - i for i in range(11)} | {"benign": 2},
        "benign": {"benign": 98, "anomalous": 1},
    }
    page = report.render(seen, tmp_path, 20.0, said)
    assert 'id="labels"' in page
    assert "<title>benign called benign: 98 of 99</title>" in page
    assert "<title>&lt;b&gt;scan called benign: 2 of 167</title>" in page
    # Ten columns on a desk: benign, the eight most frequent verdicts, and the rest: 12 + 11 + 10 connections.
    assert "<title>&lt;b&gt;scan called others: 33 of 167</title>" in page
    assert "<b>scan" not in page


def test_whatever_traffic_is_called_the_page_holds_no_markup_or_control_of_its_own(tmp_path: Path) -> None:
    name = madeup.HOSTILE
    rows = [odd(madeup.START, 1, reasons=(name,))._replace(service=name, model=name, verdict=name, uid=name)]
    lost = {"ts": 1.0, "note": DETECTOR_LOST, "msg": name, "sub": name}
    madeup.write_logs(tmp_path, rows, extra=[lost])
    page = page_of(tmp_path)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&amp;\\x00\\x1b[31m\\u202e{{ 7*7 }}" in page
    assert "<script" not in page
    assert not re.search("[\x00-\x08\x0e-\x1f\u202a-\u202e]", page)
    assert "A" * 1000 not in page


def test_the_page_loads_nothing_and_its_policy_allows_its_own_style_only(tmp_path: Path) -> None:
    madeup.write_logs(tmp_path, madeup.verdicts(300))
    page = page_of(tmp_path)
    for word in ("http://", "https://", "src=", "url(", "@import", "<link", "<script", " style=", "onload"):
        assert word not in page, word
    style = page.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in page


def test_broken_lines_are_said_on_the_page_and_the_rest_is_reported(tmp_path: Path) -> None:
    madeup.write_logs(tmp_path, [usual(madeup.START, 1), usual(madeup.START + 1, 2)], "json")
    with (tmp_path / "cmdana.log").open("a") as log:
        log.write('{"ts":1,"score":\n{"ts":-5,"score":0.1,"p_value":0.5}\n{"ts":1,"uid":"C"}\n{"ts":5,"sco')
    seen = report.gather(tmp_path)
    assert seen.connections == 2
    page = report.render(seen, tmp_path, 20.0)
    for words in ("no JSON record (1)", "no time, or one out of range (1)", "missing or out of range (1)"):
        assert words in page


@pytest.mark.parametrize(
    "rows", [[], [usual(madeup.START, 1)._replace(stage="early")]], ids=["none", "early"]
)
def test_logs_without_a_final_verdict_give_a_page_that_says_so(tmp_path: Path, rows: list[Verdict]) -> None:
    madeup.write_logs(tmp_path, rows)
    page = page_of(tmp_path)
    assert "no final verdict" in page
    assert "No notice of cmdana" in page


def test_logs_of_an_older_version_without_reliance_or_threshold_still_report(tmp_path: Path) -> None:
    (tmp_path / "cmdana.log").write_text(
        '{"ts":5.0,"uid":"C1","score":0.9,"p_value":1e-9,"verdict":"anomalous"}\n'
    )
    page = page_of(tmp_path)
    assert "1 connection of" in page
    assert "What the verdicts relied on" not in page


def test_a_folder_without_verdicts_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no cmdana\.log there"):
        report.gather(tmp_path)


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"nowhere/report\.html: cannot be written: No such file"):
        report.write("page", tmp_path / "nowhere" / "report.html")


def test_a_timeline_widens_its_columns_instead_of_growing() -> None:
    timeline = report.Timeline(1)
    for i in range(200_000):
        timeline.add("", i * 7.0, 1.0)
    assert len(timeline.cells) <= 50_000
    assert timeline.width in charts.LADDER
    assert timeline.width > 1
    assert sum(cell[0] for cell in timeline.cells.values()) == 200_000
    assert sum(cell[0] for cell in timeline.columns(timeline.width * 10 // 10).values()) == 200_000


def test_a_timeline_of_more_hosts_than_it_may_hold_counts_what_it_drops() -> None:
    timeline = report.Timeline(1)
    for i in range(60_000):
        timeline.add(str(i), 0.0, 1.0)
    assert len(timeline.cells) == 50_000
    assert timeline.dropped == 10_000


def test_each_width_of_a_time_column_divides_the_next() -> None:
    assert all(b % a == 0 for a, b in zip(charts.LADDER, charts.LADDER[1:], strict=False))


@pytest.mark.parametrize(
    ("p_value", "words"),
    [
        (1.0, "nearly all"),
        (0.5, "1 in 2"),
        (0.001, "1 in 1,000"),
        (2.5e-5, "1 in 40,000"),
        (1e-12, "1 in 1e12"),
    ],
)
def test_a_p_value_is_said_as_a_person_says_it(p_value: float, words: str) -> None:
    assert charts.one_in(p_value) == words


@pytest.mark.skipif(browser.CHROMIUM is None, reason="chromium is not on the PATH")
def test_a_real_browser_shows_it_at_phone_and_desk_width_light_and_dark(tmp_path: Path) -> None:
    rows = madeup.verdicts(3000)
    far = odd(rows[-1].ts + 1, 9001, orig="2001:db8:1111:2222:3333:4444:5555:6666")
    rows += [far._replace(service=madeup.HOSTILE)]
    madeup.write_logs(tmp_path, rows)
    path = tmp_path / "report.html"
    report.write(page_of(tmp_path), path)
    pictures = set()
    with browser.browser() as chromium:
        for width in (360, 1200):
            for dark in (False, True):
                seen = chromium.look(path, width, dark=dark)
                assert seen.console == []
                assert seen.requests == []
                assert seen.scroll_width <= width
                assert seen.visible_svgs >= 6
                assert "3,001 connections of" in seen.text
                assert "<script>alert(1)</script>" in seen.text  # as words
                pictures.add(seen.png)
    assert len(pictures) == 4


@pytest.mark.skipif(browser.CHROMIUM is None, reason="chromium is not on the PATH")
def test_on_paper_every_incident_is_unfolded(tmp_path: Path) -> None:
    rows = [odd(madeup.START + 4000 * i, i, f"10.0.{i}.66", [f"reason number {i}"]) for i in range(1, 6)]
    madeup.write_logs(tmp_path, rows)
    path = tmp_path / "report.html"
    report.write(page_of(tmp_path), path)
    with browser.browser() as chromium:
        assert "Raised by 10.0.5.66" not in chromium.look(path, 800).text
        assert "Raised by 10.0.5.66" in chromium.look(path, 800, media="print").text
