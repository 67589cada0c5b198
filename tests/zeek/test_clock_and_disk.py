"""Beside a real Zeek a disk is full for a while and a clock goes back: nothing ends, and what is lost is counted."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rig import HERE, SCRIPTS, Program, Zeek, can_make_namespaces, namespace, send, wait_for
from test_kills import Run, ended, is_welcome
from test_live import RATE, account, end, finals, more_verdicts, settle
from traffic import dns

pytestmark = [
    pytest.mark.zeek,
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("zeek") is None, reason="needs a real Zeek on the PATH"),
    pytest.mark.skipif(
        not can_make_namespaces(), reason="needs root for a network namespace and for mounting"
    ),
    pytest.mark.timeout(1200),
]
DAY = 86_400.0
BEGAN = 1_780_000_000.0
SHADOW = '[adaptation]\nmode = "shadow"\n'


@pytest.fixture
def ns() -> Iterator[str]:
    with namespace() as name:
        yield name


@contextlib.contextmanager
def disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A disk of its own at the folder, of that size."""
    folder.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k,mode=700", "tmpfs", str(folder)], check=True
    )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that leaves no room on the disk."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return path


def test_a_full_disk_for_the_state_is_told_once_and_judging_goes_on(ns: str, tmp_path: Path) -> None:
    zeek, folder = Zeek(ns, tmp_path / "zeek"), tmp_path / "endpoint"
    folder.mkdir()
    with disk(folder / "state", 96 * 1024) as state:
        endpoint = Run(ns, folder)
        try:
            wait_for(lambda: is_welcome(endpoint, 0), "the handshake")
            sender = send(ns, "dns", str(RATE), "600", "0")
            wait_for(endpoint.snapshot.exists, "a snapshot")
            filler = fill(state)
            wait_for(lambda: "cannot be written: No space left" in endpoint.said(), "the word of it")
            more_verdicts(zeek, "verdicts while the disk is full")
            kept = endpoint.snapshot.read_bytes()
            # One that is killed meanwhile goes on from what is there.
            before = len(endpoint.said())
            endpoint.stop(signal.SIGKILL)
            endpoint = Run(ns, folder)
            wait_for(lambda: is_welcome(endpoint, before), "the handshake")
            assert "state: goes on from" in endpoint.said()[before:]
            more_verdicts(zeek, "verdicts of the second while the disk is full")
            assert endpoint.snapshot.read_bytes() == kept
            wait_for(lambda: endpoint.said().count("cannot be written: No space left") == 2, "its word of it")
            filler.unlink()
            wait_for(lambda: "is written again" in endpoint.said(), "the word that there is room")
            n = end(sender)
            tally = settle(zeek, n)
            account(zeek, n, tally)
            assert endpoint.stop() == 0
            assert endpoint.said().count("cannot be written: No space left") == 2
            assert "Traceback" not in endpoint.said()
        finally:
            for program in (endpoint, zeek):
                program.stop(signal.SIGKILL)


class ZeekElsewhere(Zeek):
    """Zeek with its logs in another folder than its words."""

    def __init__(self, ns: str, folder: Path, logs: Path) -> None:
        self._logs = logs
        super().__init__(ns, folder, f"Log::default_logdir={logs}")

    def rows(self, stream: str) -> list[dict[str, Any]]:
        here, self.folder = self.folder, self._logs
        try:
            return super().rows(stream)
        finally:
            self.folder = here


def test_a_zeek_that_ends_for_want_of_room_is_found_again_when_it_is_back(ns: str, tmp_path: Path) -> None:
    """Zeek aborts where it cannot write a log. What it had told is judged late, and its successor writes it down."""
    with disk(tmp_path / "logs", 64) as logs:
        zeek, endpoint = ZeekElsewhere(ns, tmp_path / "zeek", logs), Run(ns, tmp_path / "endpoint")
        try:
            wait_for(lambda: is_welcome(endpoint, 0), "the handshake")
            sender = send(ns, "dns", str(RATE), "600", "0")
            wait_for(lambda: zeek.process.poll() is not None, "Zeek to end")
            assert "No space left" in zeek.said()
            before = len(endpoint.said())
            end(sender)
            subprocess.run(["mount", "-o", "remount,size=64m", str(logs)], check=True)
            for log in logs.iterdir():
                log.unlink()
            again = ZeekElsewhere(ns, tmp_path / "again", logs)
            try:
                wait_for(lambda: is_welcome(endpoint, before), "the handshake")
                sender = send(ns, "dns", str(RATE), "600", "100000")
                more_verdicts(again, "verdicts for the second Zeek")
                n = end(sender)
                wait_for(lambda: len(again.rows("conn")) == n, "every connection's end")
                wait_for(
                    lambda: {r["uid"] for r in again.rows("conn")} <= set(finals(again)), "every verdict"
                )
                assert again.stop() == 0
                tally = again.tally()
                assert (tally["ended"], tally["unsent"]) == (n, 0)
                assert len(finals(again)) == len(set(finals(again))) == tally["judged"]
            finally:
                again.stop(signal.SIGKILL)
            assert endpoint.stop() == 0
            judged, received = re.findall(r"(\d+) connections_(?:judged|received)", endpoint.said())[-2:]
            assert int(judged) == int(received) >= n
            assert "Traceback" not in endpoint.said()
        finally:
            for program in (endpoint, zeek):
                program.stop(signal.SIGKILL)


class Following(Program):
    """`cmdana run --follow`, as it is, with the shipped model; no incident has rows revised."""

    def __init__(self, ns: str, folder: Path, current: Path, out: Path) -> None:
        folder.mkdir()
        (folder / "plugin.toml").write_text(
            f'[endpoint]\nlog_seconds = 1.0\n[model]\nstate_key = "{folder / "key"}"\n[logs]\nformat = "json"\n'
            '[verdict]\nallow = ["10.0.0.0/8"]\n'
        )
        words = ("run", "--from-start", "--follow", current, "--out", out, "--config", folder / "plugin.toml")
        super().__init__(ns, folder, "following", sys.executable, "-m", "cmdana_plugin.cli", *words)


def test_where_there_is_no_room_for_verdicts_they_are_counted_until_there_is(ns: str, tmp_path: Path) -> None:
    zeek = Zeek(ns, tmp_path / "zeek", "Log::default_rotation_interval=0sec")
    with disk(tmp_path / "out", 64) as out:
        following = Following(ns, tmp_path / "following", zeek.folder, out)
        try:
            wait_for(lambda: "is ready; waiting" in following.said(), "the detector")
            sender = send(ns, "dns", str(RATE), "600", "0")
            wait_for(lambda: "cannot be written: No space left" in following.said(), "the word of it")
            full = len(zeek.rows("conn"))
            wait_for(lambda: len(zeek.rows("conn")) > full + 2 * RATE, "more connections")
            assert following.process.poll() is None
            subprocess.run(["mount", "-o", "remount,size=64m", str(out)], check=True)
            wait_for(lambda: "is written again" in following.said(), "the word that there is room")
            n = end(sender)
            wait_for(lambda: len(zeek.rows("conn")) == n, "every connection's end")
            assert zeek.stop() == 0
            assert following.stop() == 0
            judged = re.search(
                rf"stopped: .*\b(\d+) cmdana_rows_not_written, {n} connections_judged", following.said()
            )
            assert judged is not None, following.said()
            lines = (out / "cmdana.log").read_text().splitlines()
            uids = [json.loads(line)["uid"] for line in lines]
            assert len(uids) == len(set(uids))
            assert len(uids) + int(judged[1]) == n
            assert int(judged[1]) > RATE
            assert following.said().count("No space left") == 1
        finally:
            for program in (following, zeek):
                program.stop(signal.SIGKILL)


def capture(path: Path, times: list[float], first: int) -> int:
    """A capture of DNS connections at these times, and how many they are."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for k, ts in enumerate(times):
            for late, frame in enumerate(dns(first + k)):
                at = ts + 0.01 * late
                file.write(struct.pack("<IIII", int(at), int(at % 1 * 1e6), len(frame), len(frame)) + frame)
    return len(times)


class Reading(Program):
    """Zeek that reads a capture once the detector is there, and ends when all is judged."""

    def __init__(self, ns: str, folder: Path, capture: Path) -> None:
        super().__init__(
            ns, folder, "zeek", "zeek", "-C", "-r", capture, SCRIPTS, SCRIPTS / "replay.zeek", HERE / "live.zeek",
            f"CMDANA::secret_file={folder / 'secret'}",
        )  # fmt: skip


def has_found(zeek: Program) -> bool:
    return "detector found" in zeek.said()


def test_network_time_that_goes_back_loses_nothing_and_ends_nothing(ns: str, tmp_path: Path) -> None:
    """Within one Zeek, which goes on with the latest time; from one Zeek to the next, beside one detector; and from
    one detector to the next, whose state is of later times.
    """
    steady = [BEGAN + 0.05 * k for k in range(1000)]
    back = [ts - jump for ts, jump in zip(steady, [60.0] * 400 + [DAY] * 300 + [7200.0] * 300, strict=True)]
    folder, told = tmp_path / "endpoint", 0
    endpoint = Run(ns, folder, more=SHADOW)
    try:
        for turn, days in enumerate((0, 2, 1)):
            n = capture(
                tmp_path / f"{turn}.pcap", [ts - days * DAY for ts in steady + back + steady], 10_000 * turn
            )
            if turn == 2:
                assert endpoint.stop() == 0
                endpoint = Run(ns, folder, more=SHADOW)
            zeek = Reading(ns, tmp_path / f"zeek-{turn}", tmp_path / f"{turn}.pcap")
            try:
                wait_for(partial(has_found, zeek), "the detector", 300.0)
                assert zeek.process.wait(240) == 0, zeek.said()
            finally:
                zeek.stop(signal.SIGKILL)
            tally = json.loads(zeek.said().split("TALLY ", 1)[1].splitlines()[0])
            # Where time goes back, Zeek makes two connections of a query and its answer.
            ended = len(
                [line for line in (zeek.folder / "conn.log").read_text().splitlines() if line[0] != "#"]
            )
            assert (tally["ended"], tally["sent"], tally["judged"]) == (ended, ended, ended)
            assert ended >= n
            told += ended
        assert endpoint.stop() == 0
    finally:
        endpoint.stop(signal.SIGKILL)
    said = endpoint.said()
    assert "Traceback" not in said
    assert said.count("state: goes on from") == 1
    # Of what a shadow model may learn, days that were over are left out, and that is told.
    abouts = (folder / "state" / "quarantine").glob("*/about.json")
    kept = sum(json.loads(about.read_text())["connections"] for about in abouts)
    (left,) = re.findall(r"quarantine: .*: ([\d,]+) connections of days gone by", said)
    assert kept + int(left.replace(",", "")) == told


class Clock:
    """The wall clock of the programs that begin while `monkeypatch` holds; see clock.c."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        library, self._path = folder / "clock.so", folder / "clock"
        subprocess.run(
            ["cc", "-O1", "-shared", "-fPIC", "-o", library, HERE / "clock.c", "-ldl"],
            check=True,
        )
        self.set_by(0.0)
        monkeypatch.setenv("CMDANA_TEST_CLOCK", str(self._path))
        monkeypatch.setenv("LD_PRELOAD", str(library))

    def set_by(self, seconds: float) -> None:
        """From now on it is so many seconds later than the machine's."""
        with self._path.open("r+b" if self._path.exists() else "wb", buffering=0) as file:
            file.write(struct.pack("=q", int(seconds * 1e9)))


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_wall_clock_that_is_set_back_stops_nothing_and_loses_nothing(
    ns: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zeek's time stands still until the clock has passed it; the detector, killed meanwhile, goes on as it was."""
    clock = Clock(tmp_path, monkeypatch)
    zeek, endpoint = Zeek(ns, tmp_path / "zeek"), Run(ns, tmp_path / "endpoint", more=SHADOW)
    try:
        wait_for(lambda: is_welcome(endpoint, 0), "the handshake")
        sender = send(ns, "dns", str(RATE), "600", "0")
        more_verdicts(zeek, "verdicts")
        wait_for(endpoint.snapshot.exists, "a snapshot")
        clock.set_by(-3600.0)
        written = endpoint.snapshot.stat().st_ino
        wait_for(lambda: endpoint.snapshot.stat().st_ino != written, "a snapshot by the wrong clock")
        before = len(endpoint.said())
        endpoint.stop(signal.SIGKILL)
        endpoint = Run(ns, tmp_path / "endpoint", more=SHADOW)
        wait_for(lambda: is_welcome(endpoint, before), "the handshake by the wrong clock")
        assert "state: goes on from" in endpoint.said()[before:]
        clock.set_by(0.0)
        more_verdicts(zeek, "verdicts once the clock is right")
        n, told = end(sender), ended(zeek)
        assert told >= n  # where time has gone back, Zeek makes two connections of a query and its answer
        assert (
            account(zeek, told, settle(zeek, told)) <= 3 * RATE
        )  # what ended from the kill until Zeek saw it
        assert endpoint.stop() == 0
        assert "Traceback" not in endpoint.said()
    finally:
        for program in (endpoint, zeek):
            program.stop(signal.SIGKILL)
