"""Nobody, beside a live Zeek and a detector: whatever any local user says, nothing is believed and nothing ends."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import HERE, Endpoint, Zeek, can_make_namespaces, inside, namespace, wait_for
from stranger import KINDS
from test_live import account, end, finals, more_verdicts, settle, traffic, welcomed

pytestmark = [
    pytest.mark.zeek,
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("zeek") is None, reason="needs a real Zeek on the PATH"),
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root for a network namespace"),
]
PORT = "27759"


@pytest.fixture
def ns() -> Iterator[str]:
    with namespace() as name:
        yield name


def attacked(ns: str, folder: Path, what: str) -> str:
    """What the stranger said as it ended."""
    said = folder / f"{what}.out"
    with said.open("wb") as out:
        process = inside(ns, sys.executable, HERE / "stranger.py", PORT, what, stdout=out, stderr=out)
        process.wait(120)
    return said.read_text()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("control", [False, True], ids=["", "with a controllee"])
def test_nobody_forges_displaces_blinds_or_stops_anything(ns: str, tmp_path: Path, control: bool) -> None:
    more = ["frameworks/control/controllee"] if control else []
    zeek = Zeek(ns, tmp_path / "zeek", "CMDANA::never_after=1hr", *more)
    endpoint = Endpoint(ns, tmp_path / "endpoint")
    try:
        welcomed(endpoint)
        sender = traffic(ns)
        more_verdicts(zeek, "the first verdicts")
        for what in KINDS:
            assert attacked(ns, tmp_path, what).endswith("done\n"), (tmp_path / f"{what}.out").read_text()
            more_verdicts(
                zeek, f"verdicts after {what}; Zeek: {zeek.process.poll()}, {endpoint.process.poll()}"
            )
            assert zeek.process.poll() is None, what
            assert endpoint.process.poll() is None, endpoint.said()
            assert zeek.rows("notice") == [], what
        n = end(sender)
        tally = settle(zeek, n)
        assert endpoint.stop() == 0
    finally:
        endpoint.stop(signal.SIGKILL)
        zeek.stop(signal.SIGKILL)
    assert account(zeek, n, tally) == 0
    assert tally["unsent"] == before_the_detector(zeek)
    assert "Cforged" not in finals(zeek)
    assert tally["refused"] > 500
    assert "is not authentic" in zeek.said()
    assert "is not authentic" in endpoint.said()
    assert "connections_lost" not in endpoint.said()
    assert zeek.said().count("detector found") == 1
    assert "detector is back" not in zeek.said()


def before_the_detector(zeek: Zeek) -> int:
    """Traffic begins when the detector is there."""
    return 0 if "0 connections ended unjudged" in zeek.said() else -1


def test_without_a_secret_nobody_is_believed_and_zeek_goes_on(ns: str, tmp_path: Path) -> None:
    folder = tmp_path / "zeek"
    zeek = Zeek(ns, folder, "CMDANA::secret_file=/no/such/file", "CMDANA::never_after=1sec")
    endpoint = Endpoint(ns, tmp_path / "endpoint")
    try:
        wait_for(lambda: "cannot read the secret in /no/such/file" in zeek.said(), "Zeek's words")
        wait_for(lambda: "does it have our secret" in endpoint.said(), "the endpoint's words")
        wait_for(lambda: zeek.rows("notice"), "the notice")
        assert zeek.rows("notice")[0]["note"] == "CMDANA::Detector_Lost"
        assert "this Zeek has no secret" in zeek.rows("notice")[0]["sub"]
        assert zeek.stop() == 0
    finally:
        endpoint.stop(signal.SIGKILL)
        zeek.stop(signal.SIGKILL)


def test_with_another_secret_both_say_so(ns: str, tmp_path: Path) -> None:
    zeek = Zeek(ns, tmp_path / "zeek")
    (tmp_path / "endpoint").mkdir()
    other = tmp_path / "endpoint" / "other"
    other.touch(0o600)
    other.write_text("ab" * 32)
    endpoint = Endpoint(ns, tmp_path / "endpoint", config=f'[endpoint]\nsecret_file = "{other}"\n')
    try:
        wait_for(lambda: "a message is not authentic" in zeek.said(), "Zeek's words")
        wait_for(lambda: "does it have our secret" in endpoint.said(), "the endpoint's words")
    finally:
        endpoint.stop(signal.SIGKILL)
        zeek.stop(signal.SIGKILL)


def test_without_authentication_all_goes_on_and_both_warn_as_they_start(ns: str, tmp_path: Path) -> None:
    zeek = Zeek(ns, tmp_path / "zeek", "CMDANA::authentication=none")
    endpoint = Endpoint(ns, tmp_path / "endpoint", config='[endpoint]\nauthentication = "none"\n')
    try:
        welcomed(endpoint)
        sender = traffic(ns)
        more_verdicts(zeek, "the first verdicts")
        n = end(sender)
        tally = settle(zeek, n)
    finally:
        endpoint.stop(signal.SIGKILL)
        zeek.stop(signal.SIGKILL)
    assert account(zeek, n, tally) == 0
    assert 'CMDANA::authentication is "none": whoever reaches' in zeek.said()
    assert '[endpoint] authentication = "none": whoever reaches' in endpoint.said()
