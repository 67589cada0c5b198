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
from cmdana_plugin.endpoint.wire import WIRE_VERSION

pytestmark = [
    pytest.mark.zeek,
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("zeek") is None, reason="needs a real Zeek on the PATH"),
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root for a network namespace"),
]
RATE = 50  # connections a second
LONG = 600  # seconds of traffic, which every test ends sooner


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


def traffic(ns: str, first: int = 0, rate: int = RATE) -> Any:
    """DNS connections until `end`."""
    return send(ns, "dns", str(rate), str(LONG), str(first))


def end(sender: Any) -> int:
    """How many connections were made."""
    sender.terminate()
    out, _ = sender.communicate()
    return int(out)


def more_verdicts(zeek: Zeek, what: str) -> None:
    enough = len(finals(zeek)) + RATE
    wait_for(lambda: len(finals(zeek)) > enough, what)


def settle(zeek: Zeek, n: int) -> dict[str, int]:
    """Waits until all connections have ended and no verdict comes any more, stops Zeek, and gives its tally."""
    wait_for(lambda: len(zeek.rows("conn")) == n, "every connection's end")
    seen = -1

    def quiet() -> bool:
        nonlocal seen
        before, seen = seen, len(finals(zeek))
        if seen < n:
            time.sleep(3)
        return seen in (before, n)

    wait_for(quiet, "the last verdict")
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


def notices(zeek: Zeek, note: str) -> list[dict[str, Any]]:
    return [r for r in zeek.rows("notice") if r["note"] == note]


def before_first(zeek: Zeek) -> int:
    """Connections that ended before the first detector was there, as Zeek said when it came."""
    found = re.search(r"detector found: .*; (\d+) connections ended unjudged", zeek.said())
    assert found is not None
    return int(found[1])


def lost_notices(zeek: Zeek) -> list[dict[str, Any]]:
    return notices(zeek, "CMDANA::Detector_Lost")


def test_every_connection_of_a_quiet_run_is_judged(ns: str, zeek: Zeek, endpoint: Endpoint) -> None:
    sender = traffic(ns)
    more_verdicts(zeek, "the first verdicts")
    n = end(sender)
    tally = settle(zeek, n)
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
        sender = traffic(ns)
        more_verdicts(zeek, "the first verdicts")
        n = end(sender)
        wait_for(lambda: len(finals(zeek)) == n, "every verdict")
        assert endpoint.stop() == 0
        wait_for(lambda: lost_notices(zeek), "the notice")
        tally = settle(zeek, n)
    finally:
        zeek.stop(signal.SIGKILL)
    assert account(zeek, n, tally) == 0
    assert [r["sub"].split(";")[0] for r in lost_notices(zeek)] == ["it was stopped"]


def test_a_killed_endpoint_is_noticed_and_its_successor_goes_on(
    ns: str, zeek: Zeek, endpoint: Endpoint, tmp_path: Path
) -> None:
    sender = traffic(ns)
    more_verdicts(zeek, "the first verdicts")
    judged = len(finals(zeek))
    endpoint.stop(signal.SIGKILL)
    wait_for(lambda: lost_notices(zeek), "the notice")
    unjudged = len(zeek.rows("conn"))
    wait_for(lambda: len(zeek.rows("conn")) > unjudged + RATE, "connections that nobody judges")
    second = Endpoint(ns, tmp_path / "second")
    more_verdicts(zeek, "verdicts of the second endpoint")
    n = end(sender)
    tally = settle(zeek, n)
    second.stop()
    unanswered = account(zeek, n, tally)
    assert tally["unsent"] >= RATE
    assert unanswered <= unjudged - judged + RATE  # what ended from the kill to the notice
    assert "detector is back" in zeek.said()
    (back,) = notices(zeek, "CMDANA::Detector_Back")
    assert back["n"] == tally["unsent"] - before_first(zeek)


def test_a_clean_stop_loses_nothing_that_was_sent(ns: str, zeek: Zeek, endpoint: Endpoint) -> None:
    sender = traffic(ns)
    more_verdicts(zeek, "the first verdicts")
    assert endpoint.stop() == 0
    unjudged = len(zeek.rows("conn"))
    wait_for(lambda: len(zeek.rows("conn")) > unjudged + RATE, "connections that nobody judges")
    n = end(sender)
    tally = settle(zeek, n)
    assert account(zeek, n, tally) == 0
    assert tally["unsent"] >= RATE
    assert [r["sub"].split(";")[0] for r in lost_notices(zeek)] == ["it was stopped"]
    assert re.search(rf"stopped: .*\b{tally['judged']} connections_judged", endpoint.said())


def test_each_loss_is_told_however_soon_it_follows_another_and_what_was_missed_with_the_return(
    ns: str, zeek: Zeek, endpoint: Endpoint, tmp_path: Path
) -> None:
    sender = traffic(ns)
    more_verdicts(zeek, "the first verdicts")
    for k, how in enumerate((signal.SIGTERM, signal.SIGKILL, signal.SIGTERM), 1):
        endpoint.stop(how)
        wait_for(lambda k=k: len(lost_notices(zeek)) == k, "the notice of the loss")
        unjudged = len(zeek.rows("conn"))
        wait_for(lambda n=unjudged: len(zeek.rows("conn")) > n + RATE, "connections that nobody judges")
        endpoint = Endpoint(ns, tmp_path / f"endpoint-{k}")
        wait_for(lambda k=k: len(notices(zeek, "CMDANA::Detector_Back")) == k, "the notice of the return")
    more_verdicts(zeek, "verdicts of the last")
    n = end(sender)
    tally = settle(zeek, n)
    endpoint.stop()
    account(zeek, n, tally)
    missed = [r["n"] for r in notices(zeek, "CMDANA::Detector_Back")]
    assert sum(missed) == tally["unsent"] - before_first(zeek)
    assert min(missed) >= RATE
    for lost in lost_notices(zeek):
        assert re.search(r"; last heard of at \d+\.\d+; \d+ connections that it was told of", lost["sub"])


def test_a_zeek_to_which_no_detector_comes_says_so(ns: str, tmp_path: Path) -> None:
    zeek = Zeek(ns, tmp_path / "zeek", "CMDANA::never_after=3sec")
    try:
        wait_for(lambda: lost_notices(zeek), "the notice")
        (lost,) = lost_notices(zeek)
        assert lost["msg"].startswith("No CMDANA detector has come since Zeek started")
    finally:
        zeek.stop(signal.SIGKILL)


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(0, id="until it is noticed"),
        pytest.param(
            60,
            id="a minute",
            marks=pytest.mark.skipif(not os.environ.get("CMDANA_LIVE"), reason="long: set CMDANA_LIVE=1"),
        ),
    ],
)
def test_a_network_that_is_cut_comes_back_without_help(
    ns: str, zeek: Zeek, endpoint: Endpoint, seconds: float
) -> None:
    sender = traffic(ns)
    more_verdicts(zeek, "the first verdicts")
    inside(ns, "ip", "link", "set", "lo", "down").wait()
    time.sleep(seconds)
    wait_for(lambda: lost_notices(zeek), "the notice")
    wait_for(lambda: "reconnecting" in endpoint.said(), "the endpoint's word of it")
    inside(ns, "ip", "link", "set", "lo", "up").wait()
    more_verdicts(zeek, "verdicts after the cut")
    n = end(sender)
    account(zeek, n, settle(zeek, n))
    assert "detector is back" in zeek.said()


def test_a_zeek_that_is_killed_and_started_again_is_found_again(
    ns: str, zeek: Zeek, endpoint: Endpoint, tmp_path: Path
) -> None:
    first = traffic(ns)
    more_verdicts(zeek, "the first verdicts")
    zeek.stop(signal.SIGKILL)
    end(first)
    again = Zeek(ns, tmp_path / "again")
    welcomed(endpoint, times=2)
    sender = traffic(ns, first=100_000)
    more_verdicts(again, "verdicts for the second Zeek")
    n = end(sender)
    tally = settle(again, n)
    assert account(again, n, tally) == 0
    assert "reconnecting" in endpoint.said()


def test_what_a_slow_endpoint_drops_is_counted_and_zeek_is_not_held_up(
    ns: str, zeek: Zeek, tmp_path: Path
) -> None:
    config = "[endpoint]\nqueue_records = 200\nbatch_records = 20\n"
    slow = Endpoint(ns, tmp_path / "slow", slow=2.0, config=config)
    welcomed(slow)
    sender = traffic(ns, rate=200)
    wait_for(lambda: len(zeek.rows("conn")) > 1500, "connections")
    n = end(sender)
    tally = settle(zeek, n)
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
    ours, other = WIRE_VERSION, WIRE_VERSION + 1
    program = Endpoint(ns, folder, wire=other)
    words = "found wire version {}; expected {}: install the same version"
    wait_for(lambda: words.format(ours, other) in program.said(), "the endpoint's words")
    wait_for(lambda: words.format(other, ours) in zeek.said(), "Zeek's words")
    program.stop()
