"""Others' formulas give what their authors say they give, on connections that one can count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_windows import START, office

from cmdana_plugin.evaluation.whole_days.alarms import Truth, at_level
from cmdana_plugin.evaluation.whole_days.peers import (
    HIGH,
    PEERS,
    beacon_score,
    duration_score,
    evenness,
    histogram_score,
    quartiles,
    severity,
    zeek_guessing,
    zeek_scan,
)
from cmdana_plugin.evaluation.whole_days.programs import programs_of, said_of
from feature_extractors import CONN_STATES, CmdanaError, LogEntry, Windows, take

DAY = 86400.0


def made(
    rows: Sequence[tuple[float, str, str, int, str]], logs: Sequence[LogEntry | None] = (), lasts: float = 1.0
) -> tuple[Windows, Truth]:
    """Rows of (second, originator, responder, port, state) with an entry each."""
    n = len(rows)
    whole = take(office(n, seed=3), np.arange(n))
    ts = START + np.array([r[0] for r in rows])
    c = replace(
        whole.connections,
        ts=ts,
        end=ts + lasts,
        resp_p=np.array([r[3] for r in rows], np.uint16),
        ip_proto=np.full(n, 6, np.uint8),
        conn_state=np.array([CONN_STATES.index(r[4]) for r in rows], np.int8),
        history=np.array([b"S" if r[4] != "SF" else b"ShADadFf" for r in rows]),
        duration=np.full(n, lasts),
        orig_ip_bytes=np.full(n, 300),
        uid=np.array([f"C{i}".encode() for i in range(n)]),
    )
    entries = [[e] if e else [] for e in logs] if logs else [[] for _ in rows]
    start = np.cumsum([0, *map(len, entries)])
    windows = replace(whole, connections=c, logs=[e for some in entries for e in some], log_start=start)
    orig, resp = np.array([r[1] for r in rows]), np.array([r[2] for r in rows])
    label = np.zeros(n, np.int8)
    return windows, Truth(ts, ts + lasts, orig, resp, [""] * n, label, [""] * n, np.ones(n, np.bool_))


def test_quartiles_leave_an_odd_middle_out_of_both_halves() -> None:
    assert quartiles(np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == (1.5, 3.0, 4.5)
    assert quartiles(np.array([1.0, 2.0, 3.0, 4.0])) == (1.5, 2.5, 3.5)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ([60.0] * 20, 1.0),
        ([50.0, 55.0, 60.0, 65.0, 70.0], 0.958),  # symmetric, deviation 5 of 60
        ([10.0, 10.0, 10.0, 60.0, 400.0], 1.0),  # the median is a quartile: no skew; deviation 0
        ([1.0, 2.0, 30.0, 200.0, 900.0], 0.069),  # quartiles 1.5 and 550: skewness .896; deviation 29 of 30
    ],
)
def test_evenness_is_symmetry_and_closeness_to_the_median(x: list[float], expected: float) -> None:
    assert evenness(np.array(x), 1.0) == pytest.approx(expected, abs=0.01)


def test_a_perfect_beacon_scores_one_and_chance_less() -> None:
    every = START + np.arange(0.0, DAY, 60.0)
    same = np.full(len(every), 300.0)
    assert beacon_score(every, same, START, START + DAY) == 1.0
    rng = np.random.default_rng(1)
    chance = START + np.sort(rng.uniform(0, 6 * 3600.0, 400))
    sizes = rng.lognormal(6.0, 2.0, 400)
    assert beacon_score(chance, sizes, START, START + DAY) < 0.6
    assert np.isnan(beacon_score(every[:3], same[:3], START, START + DAY))


def test_the_histogram_may_have_two_heights_and_hours_in_a_row_count() -> None:
    assert histogram_score(np.full(24, 7)) == 1.0
    assert (
        histogram_score(np.array([100, 10] * 12)) == 1.0
    )  # more than 11 bars of two heights; one may be left out
    assert histogram_score(np.array([5] + [0] * 23)) == 0.0
    assert duration_score(np.array([1] * 5 + [0] * 19), 1.0) == 0.0
    assert duration_score(np.array([1] * 6 + [0] * 18), 0.2) == 0.5
    assert duration_score(np.array([1] * 6 + [0] * 12 + [1] * 6), 0.2) == 1.0  # round midnight


def test_severity_is_straight_between_its_thresholds() -> None:
    thresholds = (3600.0, 14400.0, 28800.0, 43200.0)
    assert [severity(x * 3600.0, *thresholds) for x in (0.9, 1, 4, 8, 10, 12, 99)] == pytest.approx(
        [0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.8]
    )


def test_rita_lists_the_pair_that_beacons_outwards_and_nothing_within_the_site() -> None:
    rows = [(60.0 * k, "10.0.0.7", "198.51.100.9", 443, "SF") for k in range(600)]
    rows += [(60.0 * k + 1, "10.0.0.7", "10.0.0.9", 443, "SF") for k in range(600)]
    windows, truth = made(rows)
    alarms = PEERS["rita-beacon"].alarms(windows, truth)
    assert {a.key for a in alarms} == {"10.0.0.7|198.51.100.9"}
    assert {a.host for a in alarms} == {"10.0.0.7"}
    assert all(a.ts - START > 3599.0 for a in alarms)
    assert [a.score for a in alarms] == sorted(a.score for a in alarms)


def test_rita_adds_up_durations_and_tells_servers_by_their_names() -> None:
    names = [LogEntry("ssl", START, "", {"server_name": f"s{k % 2}.example"}) for k in range(10)]
    rows = [(4000.0 * k, "10.0.0.7", "198.51.100.9", 443, "SF") for k in range(10)]
    windows, truth = made(rows, names, lasts=3000.0)
    alarms = PEERS["rita-long"].alarms(windows, truth)
    assert {a.key for a in alarms} == {"10.0.0.7|s0.example", "10.0.0.7|s1.example"}
    assert max(len(a.rows) for a in alarms) == 5


def test_rita_counts_names_asked_for_of_a_domain() -> None:
    asked = [LogEntry("dns", START, "", {"query": f"n{k}.evil.example"}) for k in range(150)]
    rows = [(1.0 * k, "10.0.0.7", "10.0.0.53", 53, "SF") for k in range(150)]
    alarms = PEERS["rita-dns"].alarms(*made(rows, asked))
    assert [(a.host, a.key, len(a.rows)) for a in alarms] == [("10.0.0.7", "dns|evil.example", 150)]
    assert not PEERS["rita-dns"].alarms(*made(rows[:90], asked[:90]))


def test_zeek_tells_a_scan_at_the_25th_host_or_15th_port_within_five_minutes() -> None:
    hosts = [(1.0 * k, "10.0.0.7", f"10.0.1.{k}", 22, "S0") for k in range(30)]
    told = at_level(zeek_scan(*made(hosts)), 1.0)
    assert told[0].ts == START + 24.0 + 1.0
    assert len(told[0].rows) == 25
    ports = [(1.0 * k, "10.0.0.7", "10.0.1.1", 100 + k, "REJ") for k in range(15)]
    assert len(at_level(zeek_scan(*made(ports)), 1.0)) == 1
    assert not at_level(zeek_scan(*made(ports[:14])), 1.0)
    slow = [(30.0 * k, "10.0.0.7", f"10.0.1.{k}", 22, "S0") for k in range(30)]
    assert not at_level(zeek_scan(*made(slow)), 1.0)
    fine = [(1.0 * k, "10.0.0.7", f"10.0.1.{k}", 22, "SF") for k in range(30)]
    assert not zeek_scan(*made(fine))


def test_zeek_tells_guessing_at_the_30th_failed_login() -> None:
    rows = [(1.0 * k, "10.0.0.7", "10.0.1.1", 22, "SF") for k in range(31)]
    failed = [LogEntry("ssh", START, "", {"auth_success": False})] * 31
    told = at_level(zeek_guessing(*made(rows, failed)), 1.0)
    assert len(told[0].rows) == 30
    assert not at_level(zeek_guessing(*made(rows[:29], failed[:29])), 1.0)
    assert not zeek_guessing(*made(rows, [LogEntry("ssh", START, "", {"auth_success": True})] * 31))


def test_what_a_program_said_is_read_from_beside_the_recording(tmp_path: Path) -> None:
    rows = [(600.0 * k, "10.0.0.7", "10.0.1.1", 22, "SF") for k in range(12)]
    windows, truth = made(rows)
    path = tmp_path / "alarms-other.csv"
    path.write_text(f"ts,host,score,uid\n{START + 7000},10.0.0.7,3,C1 C2\n{START + 7100},10.0.0.7,0.5,\n")
    assert programs_of([tmp_path]) == {"other": [3.0, 0.5]}
    first, second = said_of(tmp_path, truth, windows.connections.uid, 100.0)["other"]
    assert (first.ts, first.rows.tolist()) == (START + 7100, [1, 2])
    assert second.rows.tolist() == [6, 7, 8, 9, 10, 11]
    path.write_text("when,host\n1,2\n")
    with pytest.raises(CmdanaError, match=r"alarms-other.csv:2: .*expected the columns ts and host"):
        said_of(tmp_path, truth, windows.connections.uid, 0.0)


def test_what_a_zeek_noticed_is_read_too(tmp_path: Path) -> None:
    windows, truth = made([(600.0 * k, "10.0.0.7", "10.0.1.1", 22, "SF") for k in range(12)])
    (tmp_path / "notice-zeek.log").write_text(
        "#separator \\x09\n#path\tnotice\n#fields\tts\tuid\tnote\tsrc\n#types\ttime\tstring\tenum\taddr\n"
        f"{START + 3000:.6f}\t-\tSSH::Password_Guessing\t10.0.0.7\n"
        f"{START + 3100:.6f}\tC2\tScan::Port_Scan\t10.0.0.7\n"
        f"{START + 3200:.6f}\t-\tCaptureLoss::Too_Much_Loss\t-\n"
    )
    assert programs_of([tmp_path]) == {"zeek": [1.0]}
    first, second = said_of(tmp_path, truth, windows.connections.uid, 0.0)["zeek"]
    assert (first.host, first.key) == ("10.0.0.7", "SSH::Password_Guessing|10.0.0.7")
    assert first.rows.tolist() == [0, 1, 2, 3, 4]
    assert second.rows.tolist() == [2]


def test_every_peer_takes_a_day_without_connections() -> None:
    windows, truth = made([(0.0, "10.0.0.7", "10.0.1.1", 22, "SF")])
    none = np.arange(0)
    empty = Truth(
        *(getattr(truth, f)[none] for f in ("ts", "end", "orig", "resp")),
        [],
        truth.label[none],
        [],
        truth.final[none],
    )
    for peer in PEERS.values():
        assert peer.alarms(take(windows, none), empty) == []
        assert peer.default in (HIGH, 1.0)
