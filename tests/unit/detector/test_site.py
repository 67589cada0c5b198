"""The site's own history: far out is odd, thin history says nothing, and an attack does not become normal."""

from dataclasses import replace

import numpy as np
import pytest
from made_windows import block_of, office

from cmdana_plugin.detector.scores import Scores
from cmdana_plugin.detector.site_history import COMPONENT, WithSiteHistory
from feature_extractors.features.encoding import Encoded
from feature_extractors.observations import Stage, Windows, concat, take


class Undecided:
    """A detector to which everything is equally likely."""

    name = "undecided"
    schema_digest = ""

    def receive(self, windows: Encoded) -> Scores:
        n = len(windows)
        return Scores(np.zeros(n), np.ones(n), {}, np.full((n, 4), 0.25), [""] * n)

    def explain(self, windows: Encoded, scores: Scores, rows: np.ndarray) -> list[list[str]]:
        return [["the model's reason"] for _ in rows]


def with_orig_bytes(windows: Windows, row: int, size: int) -> Windows:
    sizes = windows.connections.orig_bytes.copy()
    sizes[row] = size
    return replace(windows, connections=replace(windows.connections, orig_bytes=sizes))


def with_name(windows: Windows, row: int, name: str) -> Windows:
    logs = list(windows.logs)
    at = int(windows.log_start[row])
    logs[at] = logs[at]._replace(fields={**logs[at].fields, "query": name})
    return replace(windows, logs=logs)


def last_dns(windows: Windows) -> int:
    return max(i for i, s in enumerate(windows.connections.service) if s == "dns")


def test_ordinary_traffic_is_rarely_odd() -> None:
    scores = WithSiteHistory(Undecided()).receive(block_of(office(6000)))
    for nominal in (0.05, 0.01, 0.001):
        assert (scores.p_value <= nominal).mean() <= nominal


def test_an_upload_a_thousand_times_the_usual_is_odd_and_says_so() -> None:
    windows = office(3000)
    row = last_dns(windows)
    site = WithSiteHistory(Undecided())
    odd = with_orig_bytes(windows, row, 80_000)
    scores = site.receive(block_of(odd))
    assert scores.p_value[row] < 1e-3
    (reasons,) = site.explain(block_of(odd), scores, np.array([row]))
    assert reasons[0].startswith("80 kB from the originator: 9 in 10 here are under")
    assert reasons[-1] == "the model's reason"


def test_a_name_far_longer_than_this_site_asks_for_is_odd() -> None:
    windows = office(3000)
    row = last_dns(windows)
    scores = WithSiteHistory(Undecided()).receive(block_of(with_name(windows, row, "a" * 200 + ".example")))
    assert scores.p_value[row] < 1e-4
    assert scores.score[row] > 0.5


def test_the_first_connections_of_a_service_are_never_odd() -> None:
    windows = office(60)
    scores = WithSiteHistory(Undecided()).receive(
        block_of(with_orig_bytes(windows, last_dns(windows), 10**9))
    )
    assert (scores.components[COMPONENT] == 1.0).all()


def test_an_attack_repeated_a_hundred_times_stays_odd() -> None:
    site = WithSiteHistory(Undecided())
    windows = office(3000)
    site.receive(block_of(windows))
    tunnel = with_name(take(windows, np.array([last_dns(windows)])), 0, "a" * 200 + ".example")
    found = [float(site.receive(block_of(tunnel)).p_value[0]) for _ in range(100)]
    assert max(found) < 1e-3


def test_early_windows_leave_no_trace() -> None:
    windows = office(2000)
    early = replace(
        windows, connections=replace(windows.connections, stage=np.full(len(windows), Stage.EARLY, np.int8))
    )
    one, other = WithSiteHistory(Undecided()), WithSiteHistory(Undecided())
    one.receive(block_of(early))
    assert (one.receive(block_of(windows)).p_value == other.receive(block_of(windows)).p_value).all()


@pytest.mark.parametrize("size", [1, 7, 500])
def test_the_stream_may_be_cut_anywhere(size: int) -> None:
    windows = office(1500, scan=100)
    whole = WithSiteHistory(Undecided()).receive(block_of(windows))
    site = WithSiteHistory(Undecided())
    parts = [
        site.receive(block_of(take(windows, np.arange(b, min(b + size, len(windows))))))
        for b in range(0, len(windows), size)
    ]
    assert (np.concatenate([p.p_value for p in parts]) == whole.p_value).all()


def test_the_score_uses_only_the_past() -> None:
    windows = office(2000)
    before = WithSiteHistory(Undecided()).receive(block_of(take(windows, np.arange(1000))))
    whole = WithSiteHistory(Undecided()).receive(block_of(windows))
    assert (whole.p_value[:1000] == before.p_value).all()


def test_an_empty_block_is_no_trouble() -> None:
    assert (
        len(WithSiteHistory(Undecided()).receive(block_of(take(office(5), np.zeros(0, np.int64)))).score) == 0
    )


def scan(windows: Windows, ports: int) -> Windows:
    """Attempts at so many closed ports, one each, before the given traffic."""
    c = windows.connections
    rows = take(windows, np.zeros(ports, np.int64))
    at = np.arange(ports)
    attempts = replace(
        rows.connections,
        uid=np.array([b"Cscan%013d" % i for i in at], "S20"),
        ts=c.ts[0] - 60.0 + at * 1e-3,
        end=c.ts[0] - 60.0 + at * 1e-3,
        orig_h=np.tile(np.array([0] * 10 + [255, 255, 203, 0, 113, 9], np.uint8), (ports, 1)),
        resp_p=(1 + at % 1023).astype(np.uint16),
        ip_proto=np.where(at < 1023, 6, 17).astype(np.uint8),
        service=[""] * ports,
        conn_state=np.zeros(ports, np.int8),
        orig_bytes=np.zeros(ports, np.int64),
        resp_bytes=np.full(ports, -1, np.int64),
    )
    return replace(rows, connections=attempts, logs=[], log_start=np.zeros(ports + 1, np.int64))


@pytest.mark.parametrize("ports", [600, 2000])
def test_closed_ports_that_were_scanned_blur_no_service(ports: int) -> None:
    windows = office(3000)
    alone, scanned = WithSiteHistory(Undecided()), WithSiteHistory(Undecided())
    scanned.receive(block_of(scan(windows, ports)))
    assert (scanned.receive(block_of(windows)).p_value == alone.receive(block_of(windows)).p_value).all()


def test_a_service_keeps_its_history_through_a_scan() -> None:
    windows = office(4000)
    first, rest = take(windows, np.arange(2000)), take(windows, np.arange(2000, 4000))
    alone, scanned = WithSiteHistory(Undecided()), WithSiteHistory(Undecided())
    alone.receive(block_of(first))
    scanned.receive(block_of(first))
    scanned.receive(block_of(scan(rest, 2000)))
    assert (scanned.receive(block_of(rest)).p_value == alone.receive(block_of(rest)).p_value).all()


def test_a_scan_may_be_cut_anywhere() -> None:
    windows = concat([scan(office(800), 900), office(800)])
    whole, cut = WithSiteHistory(Undecided()), WithSiteHistory(Undecided())
    parts = [
        cut.receive(block_of(take(windows, np.arange(b, min(b + 64, len(windows))))))
        for b in range(0, len(windows), 64)
    ]
    assert (np.concatenate([p.p_value for p in parts]) == whole.receive(block_of(windows)).p_value).all()
    assert whole._strata == cut._strata


def test_the_key_changes_where_things_lie_and_nothing_else() -> None:
    windows = office(3000, scan=200)
    one = WithSiteHistory(Undecided(), 1).receive(block_of(windows))
    assert (WithSiteHistory(Undecided(), 2**127 + 5).receive(block_of(windows)).p_value == one.p_value).all()
