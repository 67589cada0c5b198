"""Notices: their words, their columns, and logs of versions that wrote words only."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import madeup
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdana_plugin.decision.notice import KNOWN_ATTACK, TRAFFIC_DRIFT, Notice, TrafficDrift
from cmdana_plugin.logs.notice_rows import completed, read_notices, title
from cmdana_plugin.logs.notices import message, notice_columns, notice_row, sub_message
from cmdana_plugin.logs.old_notices import old_notice
from cmdana_plugin.logs.reader import read_rows
from cmdana_plugin.logs.streams import NOTICE, NOTICE_FIELDS, LogWriter
from feature_extractors.readers import PassedOver

V = madeup.verdict(
    madeup.START, 1, "10.0.0.5", "192.0.2.1", 443, "ssl", 1e-4, ("one thing", "another, and more")
)
HOST = madeup.incident(V, odd=20)
DRIFT = Notice(
    madeup.START, TRAFFIC_DRIFT, "drift|dns",
    drift=TrafficDrift("dns", 0.01, 0.253, 2000, 8, 3600.0, 3, (("connection", 0.53), ("log", 0.3))),
)  # fmt: skip


def host(**changes: Any) -> Notice:
    assert HOST.incident is not None
    return replace(HOST, incident=replace(HOST.incident, **changes))


@pytest.mark.parametrize(
    ("notice", "msg", "sub"),
    [
        (
            madeup.notice(V),
            "10.0.0.5 -> 192.0.2.1 ssl is unlike this network's normal (score 0.571, threshold 0.500)",
            "one thing; another, and more",
        ),
        (
            Notice(1.0, KNOWN_ATTACK, "i", V._replace(service=None, verdict="port scan")),
            "10.0.0.5 -> 192.0.2.1 443/tcp looks like port scan (score 0.571, threshold 0.500)",
            "one thing; another, and more",
        ),
        (
            HOST,
            "10.0.0.5 scans: 20 ports of 192.0.2.1 in 5 s",
            "20 attempts without an answer in 5 s; a reason; of two parts; MITRE ATT&CK T1046; "
            "latest: one thing; another, and more",
        ),
        (
            replace(host(role="responder", host="192.0.2.1", technique="", host_count=3), explained=False),
            "192.0.2.1 (and 2 more hosts) scans: 20 ports of 192.0.2.1 in 5 s",
            "20 attempts without an answer in 5 s; a reason; of two parts",
        ),
        (
            DRIFT,
            "dns is no longer as the model learned it: 25% of 2,000 connections of 8 hosts in one hour have a p-value "
            "of 0.01 or less, where 1% were promised; so for 3 times in a row",
            "connection record does not fit the packets, logs and history in 53%; log entries do not fit the packets, "
            "connection record and history in 30%; done: nothing, verdicts are by the model's own calibration: "
            "calibrate or train again if this is the new normal",
        ),
        (
            replace(DRIFT, drift=replace(DRIFT.drift, components=(), becomes=0.2512)),
            "dns is no longer as the model learned it: 25% of 2,000 connections of 8 hosts in one hour have a p-value "
            "of 0.01 or less, where 1% were promised; so for 3 times in a row",
            "done: verdicts are calibrated on this traffic, a p-value of 0.01 counts as 0.25; evidence against hosts "
            "is not: calibrate or train again if this is the new normal",
        ),
    ],
)  # fmt: skip
def test_each_notice_has_its_words(notice: Notice, msg: str, sub: str) -> None:
    assert (message(notice), sub_message(notice)) == (msg, sub)


@pytest.mark.parametrize("fmt", ["tsv", "json"])
def test_every_field_is_a_column_that_reads_back(tmp_path: Path, fmt: Any) -> None:
    log = LogWriter(tmp_path, NOTICE, fmt)
    log.write(map(notice_row, (madeup.notice(V), HOST, DRIFT)), madeup.START)
    log.close()
    alone, of_host, of_traffic = read_rows(tmp_path / "notice.log")
    assert (alone["cmdana.score"], alone["cmdana.p_value"], alone["cmdana.threshold"]) == (
        V.score,
        V.p_value,
        0.5,
    )
    assert alone["cmdana.verdict"] == "anomalous"
    assert alone["cmdana.services"] == ["ssl"]
    assert alone["cmdana.reasons"] == ["one thing", "another, and more"]
    assert "cmdana.role" not in alone
    assert (of_host["cmdana.role"], of_host["cmdana.host"], of_host["cmdana.peers"]) == (
        "originator",
        "10.0.0.5",
        1,
    )
    assert (of_host["cmdana.services"], of_host["cmdana.service_count"]) == (["dns", "445/tcp"], 2)
    assert (of_host["cmdana.evidence"], of_host["cmdana.limit"]) == (3.4, 1.7)
    assert of_host["cmdana.reasons"] == ["20 attempts without an answer in 5 s", "a reason; of two parts"]
    assert (of_host["cmdana.incident"], of_host["cmdana.kind"], of_host["cmdana.technique"]) == (
        "incident-originator-10.0.0.5",
        "scan",
        "T1046",
    )
    assert (of_host["cmdana.first_seen"], of_host["cmdana.last_seen"]) == (madeup.START, madeup.START + 5)
    assert (of_host["cmdana.connections"], of_host["cmdana.odd"], of_host["cmdana.actors"]) == (
        20,
        19,
        ["10.0.0.5"],
    )
    assert of_host["cmdana.targets"] == ["192.0.2.1"]
    assert of_host["cmdana.latest_reasons"] == alone["cmdana.reasons"]
    assert (of_host["n"], of_host["src"], of_host.get("dst")) == (20, "10.0.0.5", None)
    assert (of_traffic["cmdana.traffic"], of_traffic["cmdana.tail"], of_traffic["cmdana.share"]) == (
        "dns",
        0.01,
        0.253,
    )
    assert (of_traffic["cmdana.window"], of_traffic["cmdana.windows"], of_traffic["cmdana.hosts"]) == (
        3600.0,
        3,
        8,
    )
    assert "uid" not in of_traffic
    assert {f"cmdana.{name}" for name in NOTICE_FIELDS} == {
        name for row in (alone, of_host, of_traffic) for name in row if name.startswith("cmdana.")
    }


def test_the_title_is_the_message_without_the_score(tmp_path: Path) -> None:
    alone, of_host = ({**notice_columns(n)} for n in (madeup.notice(V), HOST))
    alone["cmdana.services"], of_host["cmdana.services"] = ["ssl"], ["dns"]  # as a reader gives them
    assert title(alone) == "10.0.0.5 -> 192.0.2.1 ssl is unlike this network's normal"  # type: ignore[arg-type]
    assert title(of_host) == of_host["msg"]  # type: ignore[arg-type]


# A notice.log that version 0.1.0 wrote, shortened.
OLD = """#separator \\x09
#path\tnotice
#fields\tts\tuid\tid.orig_h\tid.resp_h\tproto\tnote\tmsg\tsub\tsrc\tdst\tp\tn
#types\ttime\tstring\taddr\taddr\tenum\tenum\tstring\tstring\taddr\taddr\tport\tcount
1.0\tC1\t10.20.0.120\t10.20.0.186\ttcp\tCMDANA::Known_Attack\t10.20.0.120 -> 10.20.0.186 25/tcp looks like \
scan (score 0.510, threshold 0.500)\tduration: expected 22.2 us-26.8 ms, saw 5.01 us, p=4e-05\t10.20.0.120\t\
10.20.0.186\t25\t-
2.0\tC2\t10.20.0.120\t10.20.0.186\ttcp\tCMDANA::Anomalous_Host\t10.20.0.120 is behind 20 odd connections to 2 hosts \
(5900/tcp, 1025/tcp, 554/tcp and 8 more)\tresembles attacks seen in training; new to this host, service or pair; \
evidence 89 decades; latest: failed connections of the originator in 1 s: 36.6, usual is 0.209; packets from \
originator: expected 1-5, saw 3, p=3e-02\t10.20.0.120\t10.20.0.186\t-\t20
3.0\tC3\t10.20.0.141\t2001:db8::1\tudp\tCMDANA::Anomalous_Host\t2001:db8::1 receives 300 odd connections from \
256 or more hosts (dns)\tevidence 10 decades\t10.20.0.141\t2001:db8::1\t-\t300
4.0\tC4\t10.20.0.141\t10.20.0.81\tudp\tCMDANA::Anomalous_Connection\t10.20.0.141 -> 10.20.0.81 dns,quic is unlike this \
network's normal (score 0.669, threshold 0.500)\t-\t10.20.0.141\t10.20.0.81\t53\t-
5.0\t-\t-\t-\t-\tCMDANA::Traffic_Drift\t22/tcp is no longer as the model learned it: 25% of 2,000 connections of 1,008 \
hosts in 2 hours have a p-value of 0.01 or less, where 1% were promised; so for 3 times in a row\tnot what this host's \
history foretells in 53%; calibrate or train again if this is the new normal\t-\t-\t-\t2000
6.0\t-\t-\t-\t-\tCMDANA::Detector_Lost\tThe CMDANA detector is gone\tit was stopped\t-\t-\t-\t0
7.0\tC7\t10.20.0.1\t10.20.0.2\ttcp\tSSH::Password_Guessing\t10.20.0.1 is behind 3 odd connections\t-\t-\t-\t-\t-
8.0\tC8\t10.20.0.1\t10.20.0.2\ttcp\tCMDANA::Anomalous_Host\tworded by the site\tin its own; way\t-\t-\t-\t-
"""


def test_a_log_that_holds_words_only_is_read_with_the_fields_of_today(tmp_path: Path) -> None:
    (tmp_path / "notice.log").write_text(OLD)
    rows = list(read_notices(tmp_path / "notice.log", PassedOver()))
    fields = [
        {name.removeprefix("cmdana."): v for name, v in row.items() if name.startswith("cmdana.")}
        for row in rows
    ]
    assert fields == [
        {
            "verdict": "scan", "score": 0.51, "threshold": 0.5, "services": ["25/tcp"], "service_count": 1,
            "reasons": ["duration: expected 22.2 us-26.8 ms, saw 5.01 us, p=4e-05"],
        },
        {
            "role": "originator", "host": "10.20.0.120", "peers": 2, "services": ["5900/tcp", "1025/tcp", "554/tcp"],
            "service_count": 11, "evidence": 89.0,
            "reasons": ["resembles attacks seen in training", "new to this host, service or pair"],
            "latest_reasons": [
                "failed connections of the originator in 1 s: 36.6, usual is 0.209",
                "packets from originator: expected 1-5, saw 3, p=3e-02",
            ],
        },
        {
            "role": "responder", "host": "2001:db8::1", "peers": 256, "services": ["dns"], "service_count": 1,
            "evidence": 10.0,
        },
        {
            "verdict": "anomalous", "score": 0.669, "threshold": 0.5, "services": ["dns,quic"], "service_count": 1,
        },
        {
            "traffic": "22/tcp", "share": 0.25, "tail": 0.01, "hosts": 1008, "window": 7200.0, "windows": 3,
            "reasons": ["not what this host's history foretells in 53%"],
        },
        {},
        {"reasons": ["in its own; way"]},
    ]  # fmt: skip
    assert [row["uid"] for row in rows if "cmdana.role" in row] == ["C2", "C3"]


@pytest.mark.parametrize("notice", [madeup.notice(V), DRIFT])
def test_words_of_today_say_what_the_columns_do(notice: Notice) -> None:
    columns = {name: list(v) if isinstance(v, tuple) else v for name, v in notice_columns(notice).items()}
    read = old_notice({name: columns[name] for name in ("note", "msg", "sub")})  # type: ignore[dict-item]
    for name, value in read.items():
        said = columns[f"cmdana.{name}"]
        near = pytest.approx(said, abs=0.005) if isinstance(said, float) else said
        assert value == near, name


def test_a_row_of_today_is_left_as_it_is() -> None:
    row = {"note": "CMDANA::Anomalous_Host", "msg": "10.0.0.1 is behind 3 odd connections", "cmdana.peers": 3}
    assert completed(row) is row


@given(
    st.text(max_size=300),
    st.text(max_size=300),
    st.sampled_from(["Anomalous_Host", "Known_Attack", "Traffic_Drift"]),
)
def test_no_words_at_all_break_the_reader_of_old_ones(msg: str, sub: str, note: str) -> None:
    fields = old_notice({"note": f"CMDANA::{note}", "msg": msg, "sub": sub})
    assert fields.keys() <= NOTICE_FIELDS.keys()


@pytest.mark.parametrize(
    "msg",
    [
        "10.0.0.5 is behind 3 odd connections to 2 hosts (" + "a, " * 100_000 + ")",
        "a -> b " + "c " * 100_000 + "looks like " * 1000 + "(score 0.510, threshold",
        "x" * 200_000 + " is no longer as the model learned it: ",
    ],
)
def test_endless_words_of_a_notice_are_looked_at_in_part(msg: str) -> None:
    for note in ("Anomalous_Host", "Known_Attack", "Traffic_Drift"):
        assert old_notice({"note": f"CMDANA::{note}", "msg": msg, "sub": "why"}) == {"reasons": ["why"]}


def test_nothing_else_parses_what_a_notice_says() -> None:
    root = Path(__file__).parents[3] / "cmdana_plugin"
    words = re.compile(r"is behind|\breceives\b.*odd|looks like \{|odd connections (to|from)|['\"]latest: ")
    saying = {str(f.relative_to(root)) for f in root.rglob("*.py") if words.search(f.read_text())}
    assert saying == {"logs/notices.py", "logs/old_notices.py"}
