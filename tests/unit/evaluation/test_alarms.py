"""What counts as found and what as false, on days so small that one can count along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from cmdana_plugin.evaluation.whole_days.alarms import (
    Alarm,
    Stretch,
    Tally,
    Truth,
    at_level,
    attacks_of,
    levels_of,
    most_found,
    within_budget,
)

HOUR = 3600.0
EVIL, DESK, WEB = "10.0.0.66", "10.0.0.7", "10.0.0.80"


def day(
    rows: Sequence[tuple[float, str, str, int, str]],
    actors: dict[str, list[str]] | None = None,
    stretches: tuple[Stretch, ...] = (),
) -> Truth:
    """Rows of (hour, originator, responder, label, family), each of a second."""
    ts = np.array([r[0] * HOUR for r in rows])
    orig, resp = np.array([r[1] for r in rows]), np.array([r[2] for r in rows])
    label = np.array([r[3] for r in rows], np.int8)
    family = [r[4] for r in rows]
    attacks = attacks_of(label, family, orig, resp, ts, ts + 1.0, actors or {})
    final = np.ones(len(rows), np.bool_)
    roles = {DESK: "clerk", WEB: "server"}
    return Truth(
        ts, ts + 1.0, orig, resp, ["http"] * len(rows), label, family, final, attacks, stretches, roles
    )


SCAN = [(2.0 + i / 100, EVIL, WEB, 1, "scan") for i in range(10)]
CALM = [(float(i), DESK, WEB, 0, "") for i in range(12)]


def alarm(hour: float, host: str, rows: Sequence[int], score: float = 1.0, key: str = "") -> Alarm:
    return Alarm(hour * HOUR, host, "originator", score, np.array(rows, np.int64), key)


def tally(truth: Truth, *alarms: Alarm) -> Tally:
    out = Tally()
    out.add(alarms, truth)
    return out


@pytest.mark.parametrize(
    ("what", "told", "found", "false"),
    [
        ("the attacker while it runs", alarm(2.05, EVIL, [12, 13, 14, 15]), 1, 0),
        ("its victim", alarm(2.05, WEB, [12, 13]), 1, 0),
        ("within the hour after", alarm(2.9, EVIL, [12, 13]), 1, 0),
        ("later than that", alarm(4.0, EVIL, [12, 13]), 0, 1),
        ("before it began", alarm(1.9, EVIL, [12, 13]), 0, 1),
        ("somebody else", alarm(2.05, DESK, [12, 13]), 0, 1),
        ("the right host for other reasons", alarm(2.05, WEB, [0, 1, 2]), 0, 1),
        ("less than a tenth of it is the attack", alarm(2.05, WEB, [*range(11), 12]), 0, 1),
        ("nothing", alarm(2.05, EVIL, []), 0, 1),
    ],
)
def test_an_alarm_is_true_if_it_names_who_is_in_it_while_it_runs_and_rests_on_it(
    what: str, told: Alarm, found: int, false: int
) -> None:
    counted = tally(day([*CALM, *SCAN]), told)
    assert (counted.found, counted.false) == (found, false), what


def test_false_alarms_about_a_host_within_an_hour_are_one_incident_and_others_their_own() -> None:
    truth = day([*CALM, *SCAN])
    counted = tally(
        truth,
        alarm(5.0, DESK, [5]), alarm(5.9, DESK, [5]), alarm(6.8, DESK, [6]),  # one, each within an hour of the last
        alarm(8.5, DESK, [8]),  # later: another
        alarm(5.0, WEB, [5]),  # another host
    )  # fmt: skip
    assert (counted.false, counted.alarms) == (3, 5)
    assert counted.roles == {"clerk": 2, "server": 1}
    assert counted.services == {"http": 3}


def test_the_same_alarm_again_is_not_counted() -> None:
    counted = tally(
        day(CALM), alarm(1.0, DESK, [1], key="pair"), alarm(3.0, DESK, [3], key="pair"), alarm(5.0, DESK, [5])
    )
    assert (counted.alarms, counted.false) == (2, 2)


def test_an_alarm_that_grows_may_come_true() -> None:
    truth = day([*CALM, *SCAN])
    counted = tally(truth, alarm(1.5, EVIL, [1], key="a"), alarm(2.05, EVIL, [12, 13], key="a"))
    assert (counted.alarms, counted.false, counted.found) == (1, 1, 1)


def test_an_alarm_may_name_several_hosts() -> None:
    rows = np.array([12, 13], np.int64)
    told = Alarm(2.05 * HOUR, DESK, "originator", 1.0, rows, also=(EVIL,))
    assert tally(day([*CALM, *SCAN], {"scan": [EVIL]}), told).found == 1


def test_two_hosts_that_scan_are_two_attacks_and_one_that_scans_twice_is_one() -> None:
    two = [*SCAN, *((6.0 + i / 100, DESK, WEB, 1, "scan") for i in range(4))]
    truth = day([*CALM, *two], {"scan": [EVIL, DESK]})
    assert [(a.family, sorted(a.hosts), len(a.rows)) for a in truth.attacks] == [
        ("scan", [EVIL], 10),
        ("scan", [DESK], 4),
    ]
    assert tally(truth, alarm(2.05, EVIL, [12])).found == 1


def test_what_a_resolver_asks_for_an_attacker_belongs_to_the_attack_nearest_in_time() -> None:
    asked = [(2.5, "10.0.0.53", "198.51.100.1", 1, "tunnel"), (9.0, "10.0.0.53", "198.51.100.1", 1, "tunnel")]
    own = [(2.4, EVIL, "10.0.0.53", 1, "tunnel"), (9.1, DESK, "10.0.0.53", 1, "tunnel")]
    truth = day([*asked, *own], {"tunnel": [EVIL, DESK]})
    assert {tuple(a.hosts): a.rows.tolist() for a in truth.attacks} == {(EVIL,): [0, 2], (DESK,): [1, 3]}


def test_the_delay_runs_from_the_first_packet_and_counts_connections_that_ended() -> None:
    counted = tally(day([*CALM, *SCAN]), alarm(2.055, EVIL, [12, 13]), alarm(2.09, EVIL, [12]))
    assert counted.section()["families"]["scan"] == [1, 1, pytest.approx(0.055 * HOUR), 6.0]


def test_of_connections_that_end_at_the_same_time_those_judged_after_the_alarm_do_not_count() -> None:
    truth = day([*CALM, *[(2.0, EVIL, WEB, 1, "scan")] * 50])
    told = alarm(truth.end[len(CALM)] / HOUR, EVIL, [len(CALM), len(CALM) + 8])
    assert tally(truth, told).section()["families"]["scan"][3] == 9.0


def test_unknown_connections_make_an_alarm_neither_true_nor_false() -> None:
    counted = tally(day([(1.0, DESK, WEB, -1, ""), *CALM]), alarm(1.0, DESK, [0]), alarm(3.0, DESK, [0, 3]))
    assert (counted.unlabelled, counted.false) == (1, 1)


def test_what_is_false_during_a_roll_out_is_counted_apart() -> None:
    truth = day(CALM, stretches=(Stretch("roll-out", 5 * HOUR, 6 * HOUR),))
    counted = tally(truth, alarm(5.5, DESK, [5]), alarm(5.6, WEB, [5]), alarm(9.0, DESK, [9]))
    assert counted.false == 1
    assert counted.stretches == {"roll-out": [1, 2]}


def test_where_connections_say_what_they_are_part_of_an_alarm_is_about_what_most_of_its_are() -> None:
    truth = replace(
        day(CALM, stretches=(Stretch("roll-out", 5 * HOUR, 6 * HOUR),)), event=["roll-out"] * 4 + [""] * 8
    )
    counted = tally(truth, alarm(5.5, DESK, [5]), alarm(9.0, WEB, [2, 3, 8]), alarm(3.0, DESK, [3, 8, 9]))
    assert counted.false == 2
    assert counted.stretches == {"roll-out": [1, 1]}


def test_a_curve_takes_the_best_point_that_is_quiet_enough() -> None:
    truth = day([*CALM, *SCAN])
    alarms = [
        alarm(2.05, EVIL, [12], 0.5), alarm(4.0, DESK, [4], 0.9), alarm(8.0, DESK, [8], 0.2), alarm(9.5, WEB, [9], 0.1)
    ]  # fmt: skip
    levels = levels_of(alarms)
    assert levels == [0.9, 0.5, 0.2, 0.1]
    curve = [tally(truth, *at_level(alarms, level)).section() for level in levels]
    assert [(p["found"], p["false"]) for p in curve] == [(0, 1), (1, 1), (1, 2), (1, 3)]
    assert [most_found(curve, budget) for budget in (0.0, 1.0)] == [0.0, 1.0]


def test_calm_days_alone_choose_the_level_of_a_budget() -> None:
    calm = [Tally(days=2.0, false=n) for n in (0, 2, 2, 7, 1)]
    assert [within_budget(calm, b) for b in (0.0, 1.0, 3.0, 10.0)] == [0, 2, 2, 4]
    assert within_budget([Tally(days=1.0, false=5)], 1.0) == -1


def test_days_are_as_long_as_they_are() -> None:
    assert day(CALM).days == 1.0
    assert day([(0.0, DESK, WEB, 0, ""), (1.2, DESK, WEB, 0, "")]).days == pytest.approx(0.05, abs=0.001)
    assert day([(0.0, DESK, WEB, 0, ""), (47.0, DESK, WEB, 0, "")]).days == 2.0
