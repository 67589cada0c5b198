"""`cmdana explain`: all that the logs know of one uid, and one clear line where they know nothing."""

import io
import json
from pathlib import Path

import madeup
import pytest
from rich.console import Console

from cmdana_plugin.analyst import explain as explain_uid
from cmdana_plugin.analyst.explain import explain, explanation_object
from cmdana_plugin.decision.notice import ANOMALOUS_HOST
from cmdana_plugin.logs.notices import notice_columns
from feature_extractors.errors import RecordError


def history(n: int) -> list[madeup.Verdict]:
    return [madeup.verdict(madeup.START + i, i, "10.0.0.5", "192.0.2.1", 443, "ssl", 0.5) for i in range(n)]


def printed(folder: Path, uid: str, monkeypatch: pytest.MonkeyPatch) -> str:
    out = io.StringIO()
    monkeypatch.setattr(explain_uid, "Console", lambda **_: Console(file=out, width=200, highlight=False))
    explain_uid.show(explain(uid, folder), folder)
    return out.getvalue()


@pytest.mark.parametrize("fmt", ["tsv", "json"])
def test_it_finds_the_row_its_hosts_history_its_notices_and_other_logs(
    tmp_path: Path, fmt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = history(20)
    odd = madeup.verdict(
        rows[10].ts, 10, "10.0.0.5", "203.0.113.9", 443, "ssl", 2.5e-5, ("expected 80-400 B, saw 9 MB",)
    )
    rows[10] = odd
    about_host = notice_columns(madeup.incident(rows[3]))
    others = notice_columns(madeup.incident(rows[4], host="10.9.9.9"))
    madeup.write_logs(tmp_path, rows, fmt, extra=[about_host, others])  # type: ignore[arg-type]
    (tmp_path / "ssl.log").write_text(
        json.dumps({"ts": odd.ts, "uid": odd.uid, "server_name": "example.com\x1b[31m"})
        + "\n"
        + json.dumps({"ts": odd.ts, "uid": "Cother", "server_name": f"quotes {odd.uid}"})
        + "\n"
    )
    (tmp_path / "files.log").write_text(
        json.dumps({"ts": odd.ts, "conn_uids": [odd.uid], "fuid": "F1"}) + "\n"
    )
    (tmp_path / "loaded_scripts.log").write_text(f"not a Zeek log {odd.uid}\n")
    found = explain(odd.uid, tmp_path)
    assert found.verdict["p_value"] == 2.5e-5
    assert found.conn is not None
    assert [r["uid"] for r in found.before] == [r.uid for r in rows[4:10]]
    assert [r["uid"] for r in found.after] == [r.uid for r in rows[11:17]]
    assert (found.host_verdicts, found.host_odd) == (20, 1)
    assert [n["note"] for n in found.notices] == ["CMDANA::Anomalous_Connection", ANOMALOUS_HOST]
    assert [(stream, row.get("uid")) for stream, row in found.related] == [("files", None), ("ssl", odd.uid)]
    json.dumps(explanation_object(found))
    text = printed(tmp_path, odd.uid, monkeypatch)
    for words in (
        "10.0.0.5:40010 -> 203.0.113.9:443/tcp (ssl)", "about 1 in 40,000 connections", "expected 80-400 B, saw 9 MB",
        "20 connections opened in all, 1 odd", "server_name=example.com\\x1b[31m",
        f"cmdana label {odd.uid} benign --logs {tmp_path}",
    ):  # fmt: skip
        assert words in text
    assert "\x1b" not in text


def test_of_an_early_and_a_final_verdict_the_final_one_counts_and_both_are_given(tmp_path: Path) -> None:
    (final,) = history(1)
    madeup.write_logs(tmp_path, [final._replace(stage="early", score=0.1), final])
    found = explain(final.uid, tmp_path)
    assert [r["stage"] for r in found.verdicts] == ["early", "final"]
    assert found.verdict["stage"] == "final"
    assert found.host_verdicts == 1


def test_names_of_attackers_do_not_reach_the_terminal_as_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = madeup.verdict(
        madeup.START, 1, "10.0.0.5", "192.0.2.1", 443, "ssl", 1e-6, (madeup.HOSTILE, "[bold]x[/bold]")
    )
    madeup.write_logs(tmp_path, [odd])
    text = printed(tmp_path, odd.uid, monkeypatch)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[bold]x[/bold]" in text


def test_an_unknown_uid_and_a_folder_without_verdicts_get_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no cmdana\.log there"):
        explain("C1", tmp_path)
    madeup.write_logs(tmp_path, history(3))
    with pytest.raises(RecordError, match=r"no verdict on uid Cnope in the cmdana\.log there"):
        explain("Cnope", tmp_path)


def test_of_a_connection_of_an_incident_the_whole_course_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = "incident-originator-10.0.0.5"
    rows = [
        madeup.verdict(madeup.START + 60.0 * i, i, "10.0.0.5", f"192.0.2.{i}", 22, "ssh", 1e-4)
        for i in range(24)
    ]
    rows = [v._replace(incident=mark) for v in rows]
    before = rows[0]._replace(score=0.2, p_value=0.05, verdict="benign", incident=None)
    revised = before._replace(stage="revised", verdict="anomalous", incident=mark)
    told = notice_columns(madeup.incident(rows[5], odd=24))
    madeup.write_logs(tmp_path, [before, *rows[1:], revised], extra=[told])
    found = explain(before.uid, tmp_path)
    assert [r["stage"] for r in found.verdicts] == ["final", "revised"]
    assert found.verdict["incident"] == mark
    assert (found.host_verdicts, len(found.unfolding.points)) == (24, 24)
    said = explanation_object(found)
    assert said["incident"] == mark
    steps = said["unfolding"]
    assert isinstance(steps, list)
    assert [step["connections"] for step in steps] == [2] * 12
    assert steps[-1]["targets"] == 24
    assert steps[-1]["size"] == 2 * 90_500
    json.dumps(said)
    text = printed(tmp_path, before.uid, monkeypatch)
    assert "turned out to belong to an incident" in text
    assert f"How incident {mark} unfolded" in text
    assert f"Part of incident {mark}: {told['msg']}" in text
    assert "scans: 24 ports of 192.0.2.5 in 5 s" in text
    assert f"If the incident is fine: cmdana decide {mark} known {tmp_path}" in " ".join(text.split())
