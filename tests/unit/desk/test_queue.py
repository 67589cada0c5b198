"""The queue: ranked by evidence and stake, the day's ten ahead; decisions are kept, and teach what they should."""

import json
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import madeup
import pytest

from cmdana_plugin import config
from cmdana_plugin.decision.allow import AllowList
from cmdana_plugin.desk import decide, table
from cmdana_plugin.desk.incidents import MOST, Incidents, one, read_incidents
from cmdana_plugin.desk.queue import Wanted, a_day, queue
from cmdana_plugin.desk.stakes import clients_of, rank
from cmdana_plugin.desk.store import NAME, OPEN, Store, StoreError
from cmdana_plugin.logs.labels import read_labels
from cmdana_plugin.logs.notices import notice_columns
from cmdana_plugin.logs.reader import read_rows
from feature_extractors.errors import CmdanaError, RecordError
from feature_extractors.readers import PassedOver

DAY = 86400.0


def incident(i: int, day: int = 0, **words: Any) -> madeup.Notice:
    v = madeup.verdict(madeup.START + day * DAY + 60.0 * i, i, f"10.0.1.{i}", "192.0.2.1", 445, None, 1e-6)
    made = madeup.incident(v)
    assert made.incident is not None
    said = {
        "id": f"{day:02x}{i:010x}",
        "first_seen": v.ts,
        "last_seen": v.ts + 5.0,
        "host": f"10.0.1.{i}",
        **words,
    }
    return replace(made, incident=replace(made.incident, **said))


def folder_of(folder: Path, notices: Sequence[madeup.Notice], rows: Sequence[madeup.Verdict] = ()) -> Path:
    madeup.write_logs(folder, rows, extra=[notice_columns(n) for n in notices])
    return folder


def test_an_incident_is_one_entry_as_its_latest_notice_tells_it(tmp_path: Path) -> None:
    first, later = incident(1, connections=20), incident(1, connections=200, headline="scans: 99 ports")
    folder_of(tmp_path, [first, replace(later, ts=later.ts + 60)])
    found = read_incidents([tmp_path])
    (i,) = found.of.values()
    assert (i.connections, i.title, len(i.times)) == (200, "10.0.1.1 scans: 99 ports", 2)
    assert dict(found.days) == {"2025-11-22": 2}
    assert one(found.of, i.id[:6]) is i
    with pytest.raises(RecordError, match="no incident has this id"):
        one(found.of, "ff")


def test_of_more_incidents_than_are_held_the_oldest_go() -> None:
    found = Incidents()
    told = notice_columns(incident(1))
    for k in range(MOST + 10):
        row = {
            **told,
            "ts": madeup.START + k,
            "cmdana.incident": f"i{k}",
            "cmdana.reasons": ["x" * 9000] * 99,
        }
        found.receive(row)  # type: ignore[arg-type]
    assert len(found.of) + found.let_go == MOST + 10
    assert f"i{MOST + 9}" in found.of
    assert "i0" not in found.of
    assert max(len("".join(i.reasons)) for i in found.of.values()) < 4000


def test_more_evidence_and_more_at_stake_stand_higher(tmp_path: Path) -> None:
    weak, strong, wide, many = (
        incident(1, evidence=1.8), incident(2, evidence=4.0), incident(3, evidence=1.8, peers=40),
        incident(4, evidence=1.8, host_count=12),
    )  # fmt: skip
    busy = incident(5, evidence=1.8, targets=("192.0.2.77",))
    found = read_incidents([folder_of(tmp_path, [weak, strong, wide, many, busy])])
    of = {i.host: rank(i, {"192.0.2.77": 30}).total for i in found.of.values()}
    assert all(of[f"10.0.1.{k}"] > of["10.0.1.1"] for k in (2, 3, 4, 5))
    order = queue(list(found.of.values()), {}, {"192.0.2.77": 30}, 20.0)
    assert [e.incident.host for e in order][-1] == "10.0.1.1"


def test_who_uses_a_host_is_counted_in_the_connection_log(tmp_path: Path) -> None:
    rows = [
        madeup.verdict(
            madeup.START + k,
            k,
            f"10.0.0.{k % 5 + 1}",
            "192.0.2.7" if k % 2 else "2001:db8::7",
            53,
            "dns",
            0.5,
        )
        for k in range(40)
    ]
    folder_of(tmp_path, [], rows)
    counts = clients_of(tmp_path, ["192.0.2.7", "2001:db8::7", "10.9.9.9", "no address"], PassedOver())
    assert counts == {"192.0.2.7": 5, "2001:db8::7": 5}


def test_ten_of_a_day_stand_ahead_and_fewer_where_the_budget_is_smaller(tmp_path: Path) -> None:
    notices = [incident(k, day, evidence=2.0 + k / 10) for day in (0, 1) for k in range(1, 15)]
    found = list(read_incidents([folder_of(tmp_path, notices)]).of.values())
    entries = queue(found, {}, {}, 20.0)
    assert [e.ahead for e in entries] == [True] * 20 + [False] * 8
    assert {e.incident.day for e in entries[:20]} == {"2025-11-22", "2025-11-23"}
    assert sum(e.ahead for e in queue(found, {}, {}, 3.0)) == 6
    assert [a_day(b) for b in (0.2, 3.9, 10, 500)] == [1, 3, 10, 10]
    closed = {e.incident.id: replace(OPEN, state="benign") for e in entries[:5]}
    again = queue(found, closed, {}, 20.0)
    assert sum(e.ahead for e in again) == 20
    assert not any(e.ahead for e in again if e.decision.closed)


@pytest.mark.parametrize(("words", "hosts"), [
    ({}, {1, 2}),
    ({"state": "all"}, {1, 2, 3}),
    ({"state": "closed"}, {3}),
    ({"state": "benign"}, {3}),
    ({"host": "10.0.1.2"}, {2}),
    ({"host": "192.0.2.0/24"}, {1, 2}),
    ({"kind": "Scan"}, {1, 2}),
    ({"kind": "beacon"}, set()),
    ({"since": "2025-11-22T00:01:30"}, {2}),
    ({"until": "2025-11-22T00:01:30"}, {1}),
])  # fmt: skip
def test_filters_let_through_what_they_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: dict[str, str], hosts: set[int]
) -> None:
    found = list(read_incidents([folder_of(tmp_path, [incident(k) for k in (1, 2, 3)])]).of.values())
    store = Store(tmp_path / NAME)
    store.decide(f"00{3:010x}", "benign", "mine", 2)
    entries = queue(found, store.decisions(), {}, 20.0)
    table.show(entries, Wanted.parse(**words), "json", 50, 20.0)
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {int(e["host"].split(".")[-1]) for e in shown} == hosts
    for form in ("table", "brief"):
        table.show(entries, Wanted.parse(**words), form, 50, 20.0)  # type: ignore[arg-type]
        said = capsys.readouterr().out
        assert {k for k in (1, 2, 3) if f"10.0.1.{k} scans" in said} == hosts


@pytest.mark.parametrize("form", ["table", "json", "brief"])
def test_what_comes_is_told_as_it_comes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, form: Any
) -> None:
    folder_of(tmp_path, [incident(1), incident(2)])
    rows = [*read_rows(tmp_path / "notice.log", "notice")]
    monkeypatch.setattr(
        "cmdana_plugin.desk.table.alerts.tail", lambda _path: iter([{"note": "Other"}, *rows])
    )
    store = Store(tmp_path / NAME)
    store.decide(f"00{2:010x}", "benign")
    table.follow(tmp_path, Incidents(), Wanted.parse(), form, store, 20.0)
    said = capsys.readouterr().out
    assert "10.0.1.1 scans" in said
    assert "10.0.1.2 scans" not in said


def test_decisions_are_kept_for_their_owner_alone(tmp_path: Path) -> None:
    store = Store(tmp_path / NAME)
    assert store.decisions() == {}
    assert not store.path.exists()  # nothing is made before something is decided
    assert store.decide("a", "acknowledged", "looking", 5) == OPEN
    before = store.decide("a", "known", "", 50)
    assert (before.state, before.note, before.connections) == ("acknowledged", "looking", 5)
    (now,) = store.decisions().values()
    assert (now.state, now.note, now.closed) == ("known", "looking", True)
    assert [d.state for d in store.history("a")] == ["acknowledged", "known"]
    assert os.stat(store.path).st_mode & 0o777 == 0o600
    with sqlite3.connect(store.path) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_file_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_text("not a database at all" * 100)
    path.chmod(0o600)
    with pytest.raises(StoreError, match="cannot be read: file is not a database"):
        Store(path).decisions()
    path.chmod(0o644)
    with pytest.raises(StoreError, match="others can read or write it"):
        Store(path).decisions()
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(StoreError, match="is no regular file"):
        Store(path).decisions()
    path.unlink()
    Store(path).decide("a", "open")
    with sqlite3.connect(path) as db:
        db.execute("CREATE TRIGGER t AFTER INSERT ON incident BEGIN DELETE FROM history; END")
    with pytest.raises(StoreError, match="is no queue of cmdana"):
        Store(path).decide("a", "benign")


def rows_of(mark: str, n: int, ports: int = 1) -> list[madeup.Verdict]:
    return [
        madeup.verdict(
            madeup.START + k, k, "10.0.1.1", f"192.0.2.{k % 3 + 1}", 161 + k % ports, None, 1e-5
        )._replace(incident=mark, stage="revised" if k % 2 else "final")
        for k in range(n)
    ]


def test_a_closed_incident_teaches_the_next_training(tmp_path: Path) -> None:
    mark = f"00{1:010x}"
    folder_of(
        tmp_path,
        [incident(1)],
        [*rows_of(mark, 9), madeup.verdict(madeup.START, 99, "10.0.0.9", "192.0.2.9", 80, "http", 0.5)],
    )
    (i,) = [i for i in read_incidents([tmp_path]).of.values() if i.id == mark]
    store = tmp_path / "labels.csv"
    for state, label in (("malicious", "malicious"), ("benign", "benign"), ("known", "unknown")):
        assert decide.learned(i, state, tmp_path, store, PassedOver()) == (9, 0)
        found = [e for entries in read_labels(store).by_key.values() for e in entries]
        assert len(found) == 9
        assert {e.label for e in found} == {label}
    assert decide.learned(i, "acknowledged", tmp_path, store, PassedOver()) == (0, 0)


@pytest.mark.parametrize(("scope", "ports", "inside", "outside"), [
    ("host", 1, ("10.0.1.1", "198.51.100.1", 22, "tcp"), ("10.0.1.2", "198.51.100.1", 22, "tcp")),
    ("pair", 1, ("10.0.1.1", "192.0.2.2", 161, "tcp"), ("10.0.1.1", "192.0.2.2", 22, "tcp")),
    ("behaviour", 1, ("10.0.1.1", "198.51.100.1", 161, "tcp"), ("10.0.1.1", "198.51.100.1", 22, "tcp")),
    ("behaviour", 90, ("10.0.1.1", "198.51.100.1", 22, "tcp"), ("198.51.100.1", "10.0.1.1", 22, "tcp")),
])  # fmt: skip
def test_what_is_allowed_is_as_wide_as_its_scope(
    tmp_path: Path, scope: decide.Scope, ports: int, inside: Any, outside: Any
) -> None:
    mark = f"00{1:010x}"
    folder_of(tmp_path, [incident(1)], rows_of(mark, 200, ports))
    (i,) = [i for i in read_incidents([tmp_path]).of.values() if i.id == mark]
    settings = tmp_path / "conf" / "plugin.toml"
    entries = decide.allowed(i, scope, "2025-12-31", tmp_path, settings, PassedOver())
    assert set(entries) <= set(config.load(settings).verdict.allow)
    allow = AllowList(entries)
    assert allow.allows(inside, madeup.START)
    assert not allow.allows(outside, madeup.START)
    assert not allow.allows(inside, madeup.START + 60 * DAY)


def test_what_is_too_wide_or_no_day_is_said(tmp_path: Path) -> None:
    mark = f"00{1:010x}"
    rows = [r._replace(resp_h=f"192.0.2.{k + 1}") for k, r in enumerate(rows_of(mark, 40))]
    folder_of(tmp_path, [incident(1)], rows)
    (i,) = [i for i in read_incidents([tmp_path]).of.values() if i.id == mark]
    with pytest.raises(CmdanaError, match="40 pairs of hosts are no pair"):
        decide.allowed(i, "pair", "", tmp_path, tmp_path / "plugin.toml", PassedOver())
    with pytest.raises(CmdanaError, match="--until: found 'soon'"):
        decide.allowed(i, "host", "soon", tmp_path, tmp_path / "plugin.toml", PassedOver())
