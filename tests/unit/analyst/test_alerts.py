"""`cmdana alerts`: the notices of any Zeek log as a table, filtered, and followed while they come."""

import io
import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import madeup
import pytest
from rich.console import Console

from cmdana_plugin.analyst import alerts
from cmdana_plugin.analyst.alerts import Filter, notice_logs, show_alerts, tail
from cmdana_plugin.analyst.terminal import add_notice, notice_table
from cmdana_plugin.decision.notice import ANOMALOUS_HOST
from cmdana_plugin.logs.notices import notice_columns
from cmdana_plugin.logs.reader import Field
from cmdana_plugin.logs.streams import NOTICE, LogWriter, Value
from feature_extractors.errors import CmdanaError, RecordError

ONE = notice_columns(
    madeup.notice(
        madeup.verdict(madeup.START, 1, "10.0.0.5", "192.0.2.1", 443, "ssl", 1e-4)._replace(uid="C1")
    )
)
ONE |= {"cmdana.score": 0.6}
SCANNING = madeup.verdict(madeup.START + 60, 2, "2001:db8::5", "2001:db8::6", 445, None, 1e-9)
HOST = notice_columns(madeup.incident(SCANNING._replace(uid="C2"), odd=3))


def write(path: Path, *notices: Mapping[str, Value], fmt: str = "tsv") -> Path:
    log = LogWriter(path.parent, replace(NOTICE, path=path.name.removesuffix(".log")), fmt)  # type: ignore[arg-type]
    log.write(map(madeup.row, notices), madeup.START)
    log.close()
    return path


def wanted(**words: str | float | None) -> Filter:
    return Filter.parse(**{"host": None, "note": None, "since": None, "until": None, **words})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "uids"),
    [
        ({}, ["C1", "C2"]),
        ({"host": "10.0.0.0/8"}, ["C1"]),
        ({"host": "2001:db8::/32"}, ["C2"]),
        ({"host": "192.0.2.1"}, ["C1"]),
        ({"host": "172.16.0.1"}, []),
        ({"note": "Anomalous_Host"}, ["C2"]),
        ({"note": "CMDANA::Anomalous_Connection"}, ["C1"]),
        ({"since": "2025-11-22T00:00:30"}, ["C2"]),
        ({"until": "2025-11-22T00:00:30Z"}, ["C1"]),
        ({"since": "2025-11-22T01:00:30+01:00"}, ["C2"]),
        ({"min_score": 0.7}, ["C2"]),  # an incident has no score of its own
    ],
)
@pytest.mark.parametrize("fmt", ["tsv", "json"])
def test_filters_let_through_what_they_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: dict[str, str], uids: list[str], fmt: str
) -> None:
    write(tmp_path / "notice.log", HOST, ONE, fmt=fmt)
    show_alerts([tmp_path], wanted(**words), follow=False, form="json")
    assert [json.loads(line)["uid"] for line in capsys.readouterr().out.splitlines()] == uids


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"host": "printer"}, "--host: found 'printer'; expected an address or a network"),
        ({"note": "Odd"}, "--type: found 'Odd'; expected one of Anomalous_Connection"),
        ({"since": "yesterday"}, "--since: found 'yesterday'; expected a time such as"),
    ],
)
def test_a_wrong_filter_is_named(words: dict[str, str], message: str) -> None:
    with pytest.raises(CmdanaError) as error:
        wanted(**words)
    assert str(error.value).startswith(message)


def test_other_notices_broken_lines_and_names_of_attackers_do_no_harm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(
        tmp_path / "notice.log", ONE | {"note": "SSH::Password_Guessing"}, ONE | {"sub": madeup.HOSTILE},
        ONE | {"cmdana.score": None, "src": "no address", "dst": None},
    )  # fmt: skip
    with path.open("a") as log:
        log.write("broken\n")
    show_alerts([path], wanted(host="10.0.0.0/8", min_score=0.5), follow=False, form="table")
    said = capsys.readouterr()
    assert "\x1b" not in said.out
    assert "\u202e" not in said.out
    assert "Password_Guessing" not in said.out
    assert "passed over 1 line: fields do not match the header" in said.err


def test_rotated_notices_come_first_and_a_folder_without_any_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no notice\.log there"):
        notice_logs([tmp_path])
    write(tmp_path / "notice.log", ONE)
    write(tmp_path / "notice.2025-11-21-00-00-00.log", HOST)
    write(tmp_path / "notice_alarm.log", ONE)
    assert [f.name for f in notice_logs([tmp_path])] == ["notice.2025-11-21-00-00-00.log", "notice.log"]


@pytest.mark.parametrize("there", [True, False])
def test_following_gives_what_is_written_later_through_rotation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    monkeypatch.setattr(alerts, "_POLL_SECONDS", 0.01)
    path = tmp_path / "notice.log"
    if there:
        write(path, ONE, fmt="json")
    came: list[Mapping[str, Field]] = []
    opened, first, done = threading.Event(), threading.Event(), threading.Event()

    def follow() -> None:
        rows = tail(path)
        opened.set()
        for row in rows:
            came.append(row)
            first.set()
            if len(came) == 2:
                done.set()
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    opened.wait(30)
    while not first.wait(0.05):  # the follower reads from where it opened the file, whenever that was
        with path.open("a") as log:
            log.write(json.dumps({"ts": 1.0, "note": ANOMALOUS_HOST, "uid": "C8"}) + "\n")
    path.rename(tmp_path / "notice.2025-11-22-00-00-00.log")
    path.write_text(json.dumps({"ts": 2.0, "note": ANOMALOUS_HOST, "uid": "C9"}) + "\n")
    assert done.wait(60)
    assert came[0]["uid"] == "C8"
    assert came[1]["uid"] in ("C8", "C9")


@pytest.mark.parametrize(("least", "uids"), [(0.6, ["C1"]), (0.62, [])])
def test_a_notice_of_an_older_version_is_shown_with_the_columns_of_the_present_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], least: float, uids: list[str]
) -> None:
    words = {
        "msg": "10.0.0.5 -> 192.0.2.1 ssl looks like scan (score 0.610, threshold 0.500)",
        "sub": "one; two",
    }
    old = {name: value for name, value in ONE.items() if not name.startswith("cmdana.")}
    write(tmp_path / "notice.log", old | words | {"note": "CMDANA::Known_Attack"}, fmt="json")
    show_alerts([tmp_path], wanted(min_score=least), follow=False, form="json")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["uid"] for row in rows] == uids
    assert [row["cmdana.verdict"] for row in rows] == ["scan"] * len(uids)


@pytest.mark.parametrize("width", [60, 80, 119, 120, 160])
def test_notices_fit_the_terminal_with_every_word(width: int) -> None:
    table = notice_table(width, uids=True)
    add_notice(
        table, "2026-11-22 14:00:00", "CMDANA::Anomalous_Host", "10.0.0.66 is behind it", "why " * 40, "C1"
    )
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= 8
    words = " ".join(lines).split()
    assert words.count("why") == 40 + (width >= 120)  # and the header's
    assert {"Anomalous_Host", "C1", "10.0.0.66"} <= set(words)


def test_the_oddest_below_the_threshold_are_neither_noticed_nor_of_an_incident(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        madeup.verdict(madeup.START + i, i, "10.0.0.5" if i % 2 else "10.0.0.6", "192.0.2.1", 443, "ssl", p)
        for i, p in enumerate([0.9, 0.002, 1e-6, 0.004, 0.003, 0.0015])
    ]
    revised = rows[1]._replace(stage="revised", verdict="anomalous", incident="i1")
    early = rows[3]._replace(stage="early", score=0.499)
    madeup.write_logs(tmp_path, [*rows, early, revised])
    for words, n, uids in (
        ({}, 3, [5, 4, 3]),
        ({}, 1, [5]),
        ({"host": "10.0.0.6"}, 9, [4, 0]),
        ({"min_score": 0.4}, 9, [5, 4, 3]),
        ({"until": "2025-11-22T00:00:04"}, 9, [3, 0]),
    ):
        alerts.show_oddest([tmp_path], wanted(**words), n, form="json")  # type: ignore[arg-type]
        found = [json.loads(line)["uid"] for line in capsys.readouterr().out.splitlines()]
        assert found == [rows[i].uid for i in uids]
    alerts.show_oddest([tmp_path], wanted(), 1, form="table")
    assert "2025-11-22 00:00:05" in capsys.readouterr().out
    with pytest.raises(RecordError, match=r"no cmdana\.log there"):
        alerts.show_oddest([tmp_path / "notice.log"][:0], wanted(), 1, form="table")
