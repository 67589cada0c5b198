"""What a shadow model may learn from: days that are over, little of each host, nothing of those with incidents."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_windows import office

from cmdana_plugin.statefile import text_array
from cmdana_plugin.training import Quarantine, Recording, quarantined
from cmdana_plugin.training.shadow.quarantine import DAYS, FOLDER, taught
from feature_extractors import Windows, address_texts

DAY = 86_400.0
NONE: dict[str, Any] = {}


def of_day(day: int, n: int = 600) -> Windows:
    """Connections of a day, counted from one that begins at midnight."""
    windows = office(n, desks=40)
    c = windows.connections
    by = np.ceil(c.ts.min() / DAY) * DAY - c.ts.min() + day * DAY + 10.0
    return replace(windows, connections=replace(c, ts=c.ts + by, end=c.end + by))


def gathered(folder: Path, days: int, most: int = 100_000) -> list[str]:
    lines: list[str] = []
    quarantine = Quarantine(folder, most, lines.append)
    for day in range(days):
        for _ in range(3):
            quarantine.keep(of_day(day))
    quarantine.close()
    return lines


def incident(host: str, *others: str) -> Any:
    notices = [
        SimpleNamespace(incident=None),
        SimpleNamespace(incident=SimpleNamespace(host=host, hosts=others)),
    ]
    return SimpleNamespace(notices=notices)


def test_days_that_are_over_are_learned_from_and_the_latest_is_left(tmp_path: Path) -> None:
    assert gathered(tmp_path, 3) == []
    found = quarantined(tmp_path, NONE)
    assert len(found.days) == 2
    assert all(len(day.windows) == 1800 for day in found.days)
    assert found.silent == frozenset()


def test_only_so_many_days_are_kept(tmp_path: Path) -> None:
    gathered(tmp_path, DAYS + 3)
    assert len(quarantined(tmp_path, NONE).days) == DAYS


def test_connections_of_a_day_gone_by_are_left_out_and_told_of(tmp_path: Path) -> None:
    lines: list[str] = []
    quarantine = Quarantine(tmp_path, 100_000, lines.append)
    for day in (0, 1, 0, 1, 2):
        quarantine.keep(of_day(day))
    quarantine.close()
    assert [len(day.windows) for day in quarantined(tmp_path, NONE).days] == [600, 1200]
    (line,) = lines
    assert re.fullmatch(r"quarantine: left out on \d{4}-\d\d-\d\d: 600 connections of days gone by .*", line)


def test_connections_over_the_bound_are_let_go_and_told_of(tmp_path: Path) -> None:
    lines: list[str] = []
    quarantine = Quarantine(tmp_path, 5 * 4000, lines.append)
    for day in (0, 1):
        for _ in range(4):
            quarantine.keep(of_day(day, 4096))
    quarantine.close()
    assert len(lines) == 2
    for line in lines:
        assert re.search(r": 12,288 connections, the earliest \(\[learning\] max_connections\)$", line)


def test_a_clock_that_was_ahead_for_a_while_leaves_the_present_day_alone(tmp_path: Path) -> None:
    for day in (0, 400, 1, 2):  # each from a start of its own
        quarantine = Quarantine(tmp_path, 100_000, print)
        quarantine.keep(of_day(day))
        quarantine.close()
    first, second = (int(day.name) for day in quarantined(tmp_path, NONE).days)
    assert second == first + 1


def test_of_no_host_more_than_one_in_a_hundred_is_learned(tmp_path: Path) -> None:
    windows = of_day(0, 4000)
    day = taught(Recording("day", windows), ())
    assert day.label is not None
    learned = day.label == 0
    _, many = np.unique(windows.connections.orig_h[learned], axis=0, return_counts=True)
    assert many.max() == 40
    assert learned.sum() == 40 * 40
    # Evenly over the day: half of it in the first half.
    assert learned[:2000].sum() == pytest.approx(800, abs=40)


def test_hosts_of_incidents_teach_nothing_at_either_end(tmp_path: Path) -> None:
    lines: list[str] = []
    quarantine = Quarantine(tmp_path, 100_000, lines.append)
    for day in range(3):
        quarantine.keep(of_day(day))
        quarantine.look(incident("10.0.1.7", "10.0.1.8") if day == 1 else SimpleNamespace(notices=[]))
    quarantine.close()
    state = {
        "decider.incidents": text_array(
            {
                "hosts": [["originator", "10.0.1.9", "a"]],
                "ended": [{"host": "10.0.1.10", "hosts": ["10.0.1.11"]}],
            }
        )
    }
    found = quarantined(tmp_path, state)
    silent = {f"10.0.1.{i}" for i in range(7, 12)}
    assert found.silent == silent
    for day in found.days:
        assert day.label is not None
        c = day.windows.connections
        at_either_end = np.isin(address_texts(c.orig_h), list(silent)) | np.isin(
            address_texts(c.resp_h), list(silent)
        )
        assert at_either_end.any()
        assert (day.label[at_either_end] == -1).all()
        assert (day.label[~at_either_end] == 0).any()


def test_what_cannot_be_written_is_told_once_and_judging_goes_on(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("in the way")
    lines = gathered(tmp_path, 3)
    assert len(lines) == 1
    assert "nothing more is gathered" in lines[0]
