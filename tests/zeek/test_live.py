"""A live Zeek with an endpoint that dies, hangs, is cut off or comes late: nothing is lost without being counted."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rig import Endpoint, Zeek, can_make_namespaces, inside, namespace, send, wait_for

from cmdana_plugin.endpoint.broker import bindings
from cmdana_plugin.endpoint.transport import TransportError

pytestmark = [
    pytest.mark.zeek,
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("zeek") is None, reason="needs a real Zeek on the PATH"),
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root for a network namespace"),
    # Kills, cuts and restarts in real time: on a busy machine they measure the machine.
    pytest.mark.skipif(not os.environ.get("CMDANA_LIVE"), reason="needs a quiet machine: set CMDANA_LIVE=1"),
]
RATE = 50  # connections a second


@pytest.fixture
def ns() -> Iterator[str]:
    with namespace() as name:
        yield name


@pytest.fixture
def zeek(ns: str, tmp_path: Path) -> Iterator[Zeek]:
    program = Zeek(ns, tmp_path / "zeek")
    yield program
    program.stop(signal.SIGKILL)


@pytest.fixture
def endpoint(ns: str, zeek: Zeek, tmp_path: Path) -> Iterator[Endpoint]:
    program = Endpoint(ns, tmp_path / "endpoint")
    welcomed(program)
    yield program
    program.stop(signal.SIGKILL)


def welcomed(endpoint: Endpoint, times: int = 1) -> None:
    wait_for(lambda: endpoint.said().count("welcomes us") >= times, "the handshake")


def finals(zeek: Zeek) -> list[str]:
    return [r["uid"] for r in zeek.rows("cmdana") if r["stage"] == "final"]


def sent_by(sender: Any) -> int:
    out, _ = sender.communicate()
    return int(out)


def traffic(ns: str, seconds: float, first: int = 0, rate: int = RATE) -> Any:
    return send(ns, "dns", str(rate), str(seconds), str(first))


def settle(zeek: Zeek) -> dict[str, int]:
    """Waits until no verdict comes any more, stops Zeek, and gives its tally."""
    seen = -1

    def quiet() -> bool:
        nonlocal seen
        before, seen = seen, len(zeek.rows("conn")) + len(finals(zeek))
        time.sleep(4)
        return before == seen

    wait_for(quiet, "the traffic to end")
    assert zeek.stop() == 0
    return zeek.tally()


def account(zeek: Zeek, n: int, tally: dict[str, int]) -> int:
    """Zeek's own logs are whole and every connection is accounted for; how many were sent and not answered."""
    logged = [r["uid"] for r in zeek.rows("conn")]
    assert len(logged) == n
    assert tally["ended"] == n == tally["sent"] + tally["unsent"]
    judged = finals(zeek)
    assert len(judged) == len(set(judged)) == tally["judged"]
    assert set(judged) <= set(logged)
    return tally["sent"] - tally["judged"]


def lost_notices(zeek: Zeek) -> list[dict[str, Any]]:
    return [r for r in zeek.rows("notice") if r["note"] == "CMDANA::Detector_Lost"]


def test_every_connection_of_a_quiet_run_is_judged(ns: str, zeek: Zeek, endpoint: Endpoint) -> None:
    n = sent_by(traffic(ns, 5))
    tally = settle(zeek)
    assert account(zeek, n, tally) == 0
    assert tally["unsent"] == 0
    assert not lost_notices(zeek)
    row = zeek.rows("cmdana")[0]
    assert (row["modalities"].sort(), row["service"], row["verdict"]) == (None, "dns", "benign")


def test_brokers_bindings_carry_the_same(ns: str, tmp_path: Path) -> None:
    try:
        bindings()
    except TransportError as absent:
        pytest.skip(str(absent))
    zeek = Zeek(ns, tmp_path / "zeek", listen="listen-broker")
    try:
        endpoint = Endpoint(
            ns, tmp_path / "endpoint", config='[endpoint]\ntransport = "broker"\nreconnect_max = 1.0\n'
        )
        welcomed(endpoint)
        n = sent_by(traffic(ns, 5))
        wait_for(lambda: len(finals(zeek)) == n, "every verdict")
        assert endpoint.stop() == 0
        tally = settle(zeek)
    finally:
        zeek.stop(signal.SIGKILL)
    assert account(zeek, n, tally) == 0
    assert [r["sub"] for r in lost_notices(zeek)] == ["it was stopped"]


def test_a_killed_endpoint_is_noticed_and_its_successor_goes_on(
    ns: str, zeek: Zeek, endpoint: Endpoint, tmp_path: Path
) -> None:
    sender = traffic(ns, 20)
    wait_for(lambda: len(finals(zeek)) > RATE, "the first verdicts")
    endpoint.stop(signal.SIGKILL)
    wait_for(lambda: lost_notices(zeek), "the notice")
    time.sleep(3)
    before = len(finals(zeek))
    second = Endpoint(ns, tmp_path / "second")
    wait_for(lambda: len(finals(zeek)) > before + RATE, "verdicts of the second endpoint")
    n = sent_by(sender)
    tally = settle(zeek)
    second.stop()
    unanswered = account(zeek, n, tally)
    assert tally["unsent"] > 0
    assert unanswered < 5 * RATE
    assert "detector is back" in zeek.said()


def test_a_clean_stop_loses_nothing_that_was_sent(ns: str, zeek: Zeek, endpoint: Endpoint) -> None:
    sender = traffic(ns, 10)
    wait_for(lambda: len(finals(zeek)) > RATE, "the first verdicts")
    assert endpoint.stop() == 0
    n = sent_by(sender)
    tally = settle(zeek)
    assert account(zeek, n, tally) == 0
    assert tally["unsent"] > 0
    assert [r["sub"] for r in lost_notices(zeek)] == ["it was stopped"]
    assert re.search(rf"stopped: .*\b{tally['judged']} connections_judged", endpoint.said())


@pytest.mark.parametrize("seconds", [60])
def test_a_network_that_is_cut_comes_back_without_help(
    ns: str, zeek: Zeek, endpoint: Endpoint, seconds: float
) -> None:
    sender = traffic(ns, seconds + 40)
    wait_for(lambda: len(finals(zeek)) > RATE, "the first verdicts")
    inside(ns, "ip", "link", "set", "lo", "down").wait()
    time.sleep(seconds)
    before = len(finals(zeek))
    inside(ns, "ip", "link", "set", "lo", "up").wait()
    wait_for(lambda: len(finals(zeek)) > before + RATE, "verdicts after the cut")
    n = sent_by(sender)
    tally = settle(zeek)
    account(zeek, n, tally)
    assert lost_notices(zeek)
    assert "detector is back" in zeek.said()
    assert "reconnecting" in endpoint.said()


def test_a_zeek_that_is_killed_and_started_again_is_found_again(
    ns: str, zeek: Zeek, endpoint: Endpoint, tmp_path: Path
) -> None:
    first = traffic(ns, 5)
    wait_for(lambda: len(finals(zeek)) > RATE, "the first verdicts")
    sent_by(first)
    zeek.stop(signal.SIGKILL)
    again = Zeek(ns, tmp_path / "again")
    welcomed(endpoint, times=2)
    n = sent_by(traffic(ns, 5, first=100_000))
    tally = settle(again)
    assert account(again, n, tally) == 0
    assert "reconnecting" in endpoint.said()


def test_what_a_slow_endpoint_drops_is_counted_and_zeek_is_not_held_up(
    ns: str, zeek: Zeek, tmp_path: Path
) -> None:
    config = "[endpoint]\nqueue_records = 200\nbatch_records = 20\n"
    slow = Endpoint(ns, tmp_path / "slow", slow=2.0, config=config)
    welcomed(slow)
    n = sent_by(traffic(ns, 15, rate=200))
    tally = settle(zeek)
    unanswered = account(zeek, n, tally)
    slow.stop()
    counted = Counter({what: int(k) for k, what in re.findall(r"(\d+) (connections_\w+)", slow.said())})
    assert counted["connections_dropped_full_queue"] > 0
    assert unanswered == tally["sent"] - counted["connections_judged"]
    assert counted["connections_received"] == tally["sent"]
    assert unanswered == counted["connections_dropped_full_queue"] + counted["connections_unjudged_at_stop"]
    assert not lost_notices(zeek)


def test_an_endpoint_of_another_wire_version_is_refused_in_words_on_both_sides(
    ns: str, zeek: Zeek, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    program = Endpoint(ns, folder, wire=2)
    words = "found wire version {}; expected {}: install the same version"
    wait_for(lambda: words.format(1, 2) in program.said(), "the endpoint's words")
    wait_for(lambda: words.format(2, 1) in zeek.said(), "Zeek's words")
    program.stop()
