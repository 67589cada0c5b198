"""The page as a browser has it: over a folder, one that grows, and a hostile one, of which nothing runs or blocks."""

import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPRedirectHandler, Request, build_opener

import browser
import hostile_names
import madeup
import numpy as np
import pytest
from made_windows import office
from pages import ROOT

from cmdana_plugin import statefile
from cmdana_plugin.config import Adaptation as Settings
from cmdana_plugin.config import Config, State
from cmdana_plugin.decision import Adaptation
from cmdana_plugin.desk.store import NAME, Store
from cmdana_plugin.desk.web import app
from cmdana_plugin.desk.web.columns import BLOCK, Columns
from cmdana_plugin.desk.web.tallies import Tallies
from cmdana_plugin.desk.web.week import week
from cmdana_plugin.detector import Scores
from cmdana_plugin.logs.labels import read_labels
from cmdana_plugin.logs.notices import notice_columns
from cmdana_plugin.logs.streams import NOTICE, LogWriter
from feature_extractors.errors import CmdanaError
from feature_extractors.features import encoded, load_schema

MARK = "10545af1b19d"
AXE = Path(  # axe-core, which `make tools` brings
    os.environ.get("CMDANA_AXE")
    or next(iter(ROOT.glob(".tools/lib/*/site-packages/*/axe.min.js")), "/nonexistent")
)


class Visitor:
    """Somebody with the address: what the page answers."""

    def __init__(self, address: str) -> None:
        self.base, self.token = address.split("/?token=")
        self._opener = build_opener(_NoRedirects)

    def get(self, path: str) -> tuple[int, str]:
        return self._ask(Request(self.base + path, headers={"Authorization": f"Bearer {self.token}"}))

    def post(self, path: str, **form: str) -> int:
        headers = {"Authorization": f"Bearer {self.token}", "Origin": self.base}
        return self._ask(Request(self.base + path, urlencode(form).encode(), headers))[0]

    def news(self, n: int) -> list[str]:
        """The first `n` events of what is told of news."""
        request = Request(self.base + "/news", headers={"Authorization": f"Bearer {self.token}"})
        with self._opener.open(request, timeout=30) as told:
            return [told.readline().decode().strip() for _ in range(3 * n)][::3]

    def read(self) -> None:
        """Waits until the logs have been read."""
        for _ in range(300):
            if json.loads(self.get("/queue.json")[1])["reading"] is None:
                return
            time.sleep(0.1)
        raise AssertionError("still reading")

    def _ask(self, request: Request) -> tuple[int, str]:
        try:
            with self._opener.open(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:  # type: ignore[override]
        return None


@contextmanager
def served(folder: Path, write: bool = False, config: Config | None = None) -> Iterator[Visitor]:
    """The page of a folder, served by a thread of this process as `cmdana serve` serves it."""
    said: list[str] = []
    ready = threading.Event()

    def notify(line: str) -> None:
        said.append(line)
        ready.set()

    def run() -> None:
        app.serve(
            folder, config or Config(), store=folder / NAME, labels=folder / "labels.csv", host="127.0.0.1", port=0,
            names=(), write=write, rows=200_000, notify=notify, until=ended,
        )  # fmt: skip

    ended = threading.Event()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield Visitor(said[0])
    finally:
        ended.set()
        thread.join(30)
        assert not thread.is_alive()


def logs(folder: Path) -> Path:
    """A folder with one incident of forty connections among three hundred others."""
    rows = madeup.verdicts(300, attack=False)
    scan = [
        madeup.verdict(
            madeup.START + 3600 + k, 1000 + k, "10.0.0.66", f"10.0.1.{k % 9 + 1}", 20 + k, None, 1e-5
        )._replace(incident=MARK, stage="revised" if k % 2 else "final")
        for k in range(40)
    ]
    told = madeup.incident(scan[-1], odd=40)
    assert told.incident is not None
    of = replace(told.incident, id=MARK, first_seen=scan[0].ts, last_seen=scan[-1].ts)
    madeup.write_logs(folder, [*rows, *scan], extra=[notice_columns(replace(told, incident=of))])
    return folder


def test_every_page_says_what_the_logs_hold(tmp_path: Path) -> None:
    with served(logs(tmp_path)) as visitor:
        visitor.read()
        status, page = visitor.get(f"/incident/{MARK}")
        assert status == 200
        for words in (
            "10.0.0.66 scans: 40 ports",
            "20 attempts without an answer",
            "hosts reached: 9",
            "90.5 kB",
            "T1046",
        ):
            assert words in page
        assert page.count("/connection/C") >= 40
        assert visitor.get("/")[1].count("<li class=") == len(re.findall("/incident/", visitor.get("/")[1]))
        assert MARK not in visitor.get("/?kind=beacon")[1]
        assert "--since: found" in visitor.get("/?since=soon")[1].replace("&#39;", "'")
        assert "20 odd" in visitor.get("/host/10.0.0.66")[1]
        assert "C00000000000001039" in visitor.get("/connection/C00000000000001039")[1]
        assert (
            "340 connections judged" not in visitor.get("/model")[1]
        )  # the revised ones are not counted again
        assert "320 connections judged" in visitor.get("/model")[1]
        for path in ("/incident/nope", "/host/192.0.2.254", "/connection/nope", "/nope", "/static/../app.py"):
            assert visitor.get(path)[0] == 404
        assert visitor.post(f"/incident/{MARK}/decide", state="benign") == 403  # read only
    assert not (tmp_path / NAME).exists()


def test_the_model_page_says_what_has_been_adapted(tmp_path: Path) -> None:
    kept = tmp_path / "state"
    config = Config(state=State(folder=str(kept)))
    with served(logs(tmp_path), config=config) as visitor:
        visitor.read()
        assert "Not known here: " in visitor.get("/model")[1]
        kept.mkdir()
        adaptation = Adaptation(Settings(), on=True)
        keep(kept, adaptation)
        assert "nothing has been adapted" in visitor.get("/model")[1]
        block = encoded(office(600), load_schema())
        p = np.random.default_rng(1).uniform(size=600) ** 2 / 4  # ten times too odd
        adaptation.receive(block, Scores(p, p, {}, np.full((600, 4), 0.25), [""] * 600))
        keep(kept, adaptation)
        page = visitor.get("/model")[1]
        assert re.search(
            r'<td class="words">all</td><td class="number">0\.\d+</td><td class="number">[45]\d\d<', page
        )
        assert "state of 2026-11-22T00:00:00" in page
        file = kept / "state.safetensors"
        file.write_bytes(file.read_bytes()[:100])
        assert "is cut short or no state" in visitor.get("/model")[1]


def keep(folder: Path, adaptation: Adaptation) -> None:
    """Puts a state there that is of an adaptation alone."""
    arrays = statefile.prefixed("adaptation.", adaptation.state())
    about = {"model": "site", "written": "2026-11-22T00:00:00"}
    statefile.write(folder / "state.safetensors", statefile.State(about, {**arrays, "other": np.zeros(9)}))


def test_the_page_decides_where_it_may(tmp_path: Path) -> None:
    with served(logs(tmp_path), write=True) as visitor:
        visitor.read()
        form = re.findall('name="form" value="([^"]+)"', visitor.get(f"/incident/{MARK}")[1])[0]
        assert (
            visitor.post(f"/incident/{MARK}/decide", form=form, state="malicious", note="<b>seen</b>") == 303
        )
        assert visitor.post(f"/incident/{MARK}/decide", form=form, state="nonsense") == 400
        assert "&lt;b&gt;seen&lt;/b&gt;" in visitor.get(f"/incident/{MARK}")[1]
        assert MARK in visitor.get("/?state=malicious")[1]
    (decision,) = Store(tmp_path / NAME).decisions().values()
    assert (decision.state, decision.note, decision.connections) == ("malicious", "<b>seen</b>", 40)
    assert {e.label for entries in read_labels(tmp_path / "labels.csv").by_key.values() for e in entries} == {
        "malicious"
    }


def test_what_is_written_meanwhile_is_told(tmp_path: Path) -> None:
    logs(tmp_path)
    (tmp_path / "notice.log").rename(tmp_path / "later")
    with served(tmp_path) as visitor:
        visitor.read()
        assert json.loads(visitor.get("/queue.json")[1])["incidents"] == []
        later = (tmp_path / "later").read_text()
        with (tmp_path / "notice.log").open("w") as growing:
            growing.write(later[:-40])  # a half-written line is no row yet
            growing.flush()
            time.sleep(1.5)
            before = len(json.loads(visitor.get("/queue.json")[1])["incidents"])
            growing.write(later[-40:])
        told = visitor.news(1)
        assert told == ["event: changed"]
        for _ in range(100):
            now = json.loads(visitor.get("/queue.json")[1])["incidents"]
            if len(now) > before:
                break
            time.sleep(0.1)
        assert MARK in {i["id"] for i in now}


def test_rows_past_the_bound_let_the_oldest_go() -> None:
    columns = Columns(2 * BLOCK)
    row = {
        "ts": 1.0, "uid": "C1", "id.orig_h": "10.0.0.1", "id.resp_h": "10.0.0.2", "id.orig_p": 1, "id.resp_p": 2,
        "proto": "tcp", "stage": "final", "score": 0.5, "p_value": 0.001, "verdict": "anomalous",
    }  # fmt: skip
    for k in range(BLOCK):
        columns.add({**row, "ts": float(k)})
    blocks = columns._blocks
    blocks.append(blocks[0])
    columns.add({**row, "uid": "C2", "incident": "i", "service": "dns"})
    assert (len(columns), columns.let_go) == (BLOCK + 1, BLOCK)
    assert columns.of_host("10.0.0.1", 10)[1] == BLOCK + 1
    found, n = columns.of_incident("i", 10)
    assert (n, columns.service(found[0]), columns.clients(["10.0.0.2"])) == (1, "dns", {"10.0.0.2": 1})
    for bad in ({"score": 2.0}, {"p_value": None}, {"ts": -1.0}):
        assert not columns.add({**row, **bad})
    assert columns.bad == 3


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with (
        served(logs(tmp_path)) as visitor,
        pytest.raises(CmdanaError, match=r"cannot listen on 127\.0\.0\.1 port"),
    ):
        app._listening("127.0.0.1", int(visitor.base.rsplit(":", 1)[1]))


def hostile(folder: Path) -> Path:
    """Names of every kind, rows cut and doubled, files that are none, and a pipe that nobody writes."""
    hostile_names.write(folder)
    with (folder / "cmdana.log").open("a") as log:
        log.write('{"ts": 1e999, "uid": "C1"}\n[[[[[[[\n\x00\x00\x00\n{"ts": "soon"}\n{"uid":')
    with (folder / "notice.log").open("ab") as raw:
        raw.write(b'\xff\xfe\n{"note": "CMDANA::Anomalous_Host", "ts": -5}\n' + b"x" * 100_000)
    os.mkfifo(folder / "conn.fifo.log")
    os.mkfifo(folder / "ssl.log")
    (folder / "dns.log").symlink_to("/dev/zero")
    (folder / "http.log.gz").write_bytes(b"\x1f\x8b\x08\x00broken")
    return folder


@pytest.mark.skipif(browser.CHROMIUM is None, reason="needs Chromium")
def test_a_hostile_folder_runs_nothing_in_a_real_browser(tmp_path: Path) -> None:
    with served(hostile(tmp_path)) as visitor, browser.browser() as window:
        visitor.read()
        assert window.look(f"{visitor.base}/", 1200).text.startswith("cmdana")  # not known yet: no logs
        window.look(f"{visitor.base}/?token={visitor.token}", 1200)
        incidents = json.loads(visitor.get("/queue.json?state=all")[1])["incidents"]
        assert len(incidents) > 900
        script = next(i for i in incidents if "<script>" in i["title"] and i["id"].isalnum())
        pages = ["/?state=all", f"/incident/{script['id']}", f"/connection/{script['uid']}", "/model"]
        for k, path in enumerate(pages):
            seen = window.look(
                visitor.base + path, 390 if k % 2 else 1200, dark=bool(k % 2),
                after="typeof window.hacked + document.querySelectorAll('iframe, img, base, object').length",
            )  # fmt: skip
            assert seen.found == "undefined0"
            assert [line for line in seen.console if "net::ERR_ABORTED" not in line] == []
            assert {re.sub(r"^.*?:\d+", "", url) for url in seen.requests} <= {
                "/static/report.css", "/static/desk.css", "/static/desk.js", "/static/icon.svg", "/news",
            }  # fmt: skip
            assert seen.scroll_width <= (390 if k % 2 else 1200)


@pytest.mark.slow
@pytest.mark.skipif(
    browser.CHROMIUM is None or not AXE.exists(),
    reason="needs Chromium, and axe-core (make tools, or CMDANA_AXE)",
)
def test_axe_finds_nothing(tmp_path: Path) -> None:
    run = "axe.run().then(r => r.violations.filter(v => v.impact != 'minor').map(v => v.id + v.nodes[0].html).join())"
    with served(logs(tmp_path), write=True) as visitor, browser.browser() as window:
        visitor.read()
        window.look(f"{visitor.base}/?token={visitor.token}", 1200)
        for path in (
            "/",
            f"/incident/{MARK}",
            "/host/10.0.0.66",
            "/model",
            "/connection/C00000000000001039",
            "/nope",
        ):
            for width, dark in ((1200, False), (390, True)):
                seen = window.look(visitor.base + path, width, dark=dark, after=f"{AXE.read_text()};{run}")
                assert seen.found == "", (path, width)


def test_a_notice_more_is_one_entry_more(tmp_path: Path) -> None:
    logs(tmp_path)
    with served(tmp_path) as visitor:
        visitor.read()
        before = len(json.loads(visitor.get("/queue.json?state=all")[1])["incidents"])
        again = madeup.incident(
            madeup.verdict(madeup.START + 9e4, 7, "10.0.3.3", "192.0.2.9", 22, "ssh", 1e-7)
        )
        (tmp_path / "more").mkdir()
        log = LogWriter(tmp_path / "more", NOTICE, "tsv")
        log.write([madeup.row(notice_columns(again))], madeup.START + 9e4)
        log.close()
        row = (tmp_path / "more" / "notice.log").read_text().splitlines()[-2]
        with (tmp_path / "notice.log").open("a") as growing:
            growing.write(row + "\n")
        for _ in range(100):
            if len(json.loads(visitor.get("/queue.json?state=all")[1])["incidents"]) == before + 1:
                return
            time.sleep(0.1)
        raise AssertionError("not seen")


def test_a_week_is_drawn_by_day_and_hour() -> None:
    drawn = week(np.array([madeup.START, madeup.START + 60, madeup.START + 86400 * 2 + 3600 * 5]))
    assert "<title>Sat 00:00: 2</title>" in drawn
    assert "<title>Mon 05:00: 1</title>" in drawn
    assert "most, 2, on Sat at 00:00; 2 days of the week have any" in drawn
    assert drawn.count("<rect") == 168


def test_what_is_counted_of_full_blocks_is_what_all_rows_come_to() -> None:
    columns = Columns(2 * BLOCK)
    tallies = Tallies(columns)
    row = {
        "uid": "C1", "id.orig_h": "10.0.0.1", "id.resp_h": "10.0.0.2", "proto": "tcp", "stage": "final", "score": 0.5,
        "p_value": 0.001, "verdict": "anomalous", "packet_reliance": 0.25, "connection_reliance": 0.75,
        "log_reliance": 0.0, "state_reliance": 0.0,
    }  # fmt: skip
    for k in range(BLOCK + 10):
        columns.add({**row, "ts": float(k), "stage": "revised" if k % 10 == 9 else "final"})
        if k == BLOCK - 10:
            assert tallies.all().connections == BLOCK - BLOCK // 10 - 8
    whole = tallies.all()
    assert (whole.connections, whole.odd) == (BLOCK + 10 - (BLOCK + 10) // 10,) * 2
    assert (whole.first, whole.last) == (0.0, BLOCK + 9.0)
    assert (whole.tails.tolist(), int(whole.scores[25])) == ([whole.connections] * 3 + [0], whole.connections)
    for width in (3600, 21600):
        relied = tallies.relied(width)
        assert sorted(relied) == [t * width for t in range(-(-(BLOCK + 10) // width))]
        assert all(share == pytest.approx([64 / 255, 191 / 255, 0.0, 0.0]) for share in relied.values())
    # When the oldest block has gone, it counts no more, however numbers and memory are given anew.
    for _ in range(2 * BLOCK):
        columns.add({**row, "ts": 1e6, "verdict": "benign"})
    assert columns.let_go == 2 * BLOCK
    after = tallies.all()
    held = np.concatenate([block[block["counts"]] for block in columns.blocks()])
    assert (after.connections, after.odd) == (len(held), int(held["odd"].sum()))
    assert after.first == float(held["ts"].min())
