"""Drift: traffic as calibrated is quiet, a whole kind of traffic that moved is one notice, odd hosts are none."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from made_windows import START, office

from cmdana_plugin.config import Drift
from cmdana_plugin.decision.drift import DriftMonitor
from cmdana_plugin.decision.judge import COMPONENT_WORDS
from cmdana_plugin.decision.notice import TRAFFIC_DRIFT, Notice
from cmdana_plugin.detector.scores import Scores, score_of
from feature_extractors.observations import Stage, Windows, take

HOUR = 3600.0


def scored(p: np.ndarray) -> Scores:
    n = len(p)
    components = {"connection": p, "log": np.full(n, np.nan), "site": np.full(n, 0.5)}
    return Scores(score_of(p), p, components, np.full((n, 4), 0.25), [""] * n)


def hours(windows: Windows, n: float) -> Windows:
    """The same connections, spread evenly over `n` hours from the full hour on."""
    c = windows.connections
    start = np.ceil(START / HOUR) * HOUR
    return replace(
        windows, connections=replace(c, end=start + np.linspace(0.0, n * HOUR - 1.0, len(windows)))
    )


def watch(
    windows: Windows, p: np.ndarray, settings: Drift | None = None, cuts: Sequence[int] = ()
) -> tuple[DriftMonitor, list[Notice]]:
    monitor = DriftMonitor(settings or Drift(), COMPONENT_WORDS)
    notices = []
    for rows in np.split(np.arange(len(windows)), list(cuts)):
        notices += monitor.receive(take(windows, rows), scored(p[rows]))
    return monitor, notices


def uniform(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=n)


def test_traffic_as_calibrated_never_drifts() -> None:
    windows = hours(office(20_000), 20.5)
    for seed in range(10):
        monitor, notices = watch(windows, uniform(20_000, seed))
        assert notices == []
        assert all(lift.lift < 3.0 for lift in monitor.lifts.values())
    assert {"dns", "ssl"} <= set(monitor.lifts)


def test_a_service_that_has_moved_on_all_hosts_is_one_notice_that_says_how_far() -> None:
    windows = hours(office(20_000), 10.5)
    p = uniform(20_000)
    dns = np.array([s == "dns" for s in windows.connections.service])
    p[dns & (windows.connections.end > windows.connections.end[6000])] **= 4  # a quarter at 0.01 or less
    monitor, (notice,) = watch(windows, p)
    assert notice.note == TRAFFIC_DRIFT
    assert notice.identifier == "drift|dns"
    assert notice.verdict is None
    drift = notice.drift
    assert drift is not None
    assert (drift.traffic, drift.tail, drift.window, drift.windows) == ("dns", 0.01, HOUR, 3)
    assert drift.share > 0.2
    assert drift.connections > drift.hosts > 1
    assert [name for name, share in drift.components if share > 0.5] == ["connection"]
    assert monitor.lifts["dns"].moved
    assert not monitor.lifts["ssl"].moved


@pytest.mark.parametrize("desks", [(5,), (5, 6, 7)])
def test_hosts_that_are_odd_in_all_they_do_are_no_drift(desks: tuple[int, ...]) -> None:
    windows = hours(office(20_000), 8.5)
    p = uniform(20_000)
    worst = np.isin(windows.connections.orig_h[:, 15], desks)
    loud = np.concatenate([np.arange(20_000), np.repeat(np.flatnonzero(worst), 10)])
    loud = loud[np.argsort(windows.connections.end[loud], kind="stable")]
    p[worst] = 1e-5
    _, notices = watch(take(windows, loud), p[loud])
    assert notices == []


def test_drift_that_lasts_is_told_once_a_day_and_anew_when_it_comes_back() -> None:
    windows = hours(office(60_000), 60.5)
    p = uniform(60_000) ** 4
    start = windows.connections.end[0]
    at = (windows.connections.end - start) / HOUR

    def told() -> list[float]:
        return [(n.ts - start) / HOUR for n in watch(windows, p)[1] if n.identifier == "drift|dns"]

    assert told() == pytest.approx([3, 27, 51], abs=0.01)
    p[(at > 12) & (at < 16)] = 0.5
    assert told() == pytest.approx([3, 19, 43], abs=0.01)


def test_one_odd_hour_is_no_drift_and_neither_are_hours_with_a_gap_between_them() -> None:
    windows = hours(office(20_000), 20.5)
    p = uniform(20_000)
    at = (windows.connections.end - windows.connections.end[0]) / HOUR
    p[(at > 3) & (at < 5)] = 1e-3
    assert watch(windows, p)[1] == []
    p = np.full(20_000, 1e-3)
    kept = np.flatnonzero(np.floor(at) % 3 != 2)
    assert watch(take(windows, kept), p[kept])[1] == []


def test_blocks_do_not_matter() -> None:
    windows = hours(office(6000), 6.5)
    p = uniform(6000) ** 4
    whole = watch(windows, p, Drift(least=50))[1]
    assert whole
    assert watch(windows, p, Drift(least=50), cuts=range(7, 6000, 101))[1] == whole


def test_early_verdicts_do_not_count() -> None:
    windows = hours(office(6000), 6.5)
    early = replace(
        windows, connections=replace(windows.connections, stage=np.full(6000, Stage.EARLY, np.int8))
    )
    assert watch(early, np.full(6000, 1e-4))[1] == []


@pytest.mark.parametrize("n", [700, 5000])
def test_more_kinds_of_traffic_than_there_is_room_for_share_one(n: int) -> None:
    windows = office(n)
    many = replace(
        windows, connections=replace(windows.connections, service=[f"made-up {i}" for i in range(n)])
    )
    monitor, _ = watch(hours(many, 1.5), uniform(n), Drift(least=1, hosts=1))
    assert len(monitor.lifts) <= 512


def test_a_scan_of_many_ports_takes_no_service_its_name() -> None:
    windows = hours(office(20_000), 10.5)
    monitor = DriftMonitor(Drift(), COMPONENT_WORDS)
    c = windows.connections
    first = take(windows, np.zeros(600, np.int64))
    scanned = replace(
        first,
        connections=replace(
            first.connections, service=[""] * 600, resp_p=np.arange(1, 601).astype(np.uint16),
            end=np.full(600, c.end[0] - HOUR),
        ),
    )  # fmt: skip
    monitor.receive(scanned, scored(np.full(600, 0.5)))
    monitor.receive(windows, scored(uniform(20_000)))
    assert {"dns", "ssl"} <= set(monitor.lifts)
