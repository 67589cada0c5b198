"""Logs that grow are read as they will be when they are whole, however they come, are moved away and begun anew."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from cmdana_plugin.config import Config, Logs
from cmdana_plugin.replay import convert
from feature_extractors.errors import RecordError
from feature_extractors.observations import Connections, Windows, concat
from feature_extractors.readers import FollowedLogs, LogLines, PassedOver, ZeekLogs

BUSY_MINUTES = Path(__file__).parents[3] / "traces" / "busy-minutes" / "busy-minutes.pcap.gz"


@pytest.fixture(scope="module", params=["tsv", "json"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    convert([BUSY_MINUTES], folder, Config(logs=Logs(format=request.param, streams="all")))
    return folder


def timed_lines(path: Path) -> Iterator[tuple[float, bytes]]:
    """The lines of a log and when each is written, about: a connection's at its end; what stands above them first."""
    latest = -np.inf
    lines = LogLines(str(path), path.stem, PassedOver())
    for line in path.read_bytes().splitlines(keepends=True):
        found = lines.receive(line[:-1])
        if found is not None:
            ts, duration = (float(found[1].get(name, 0.0)) for name in ("ts", "duration"))  # type: ignore[arg-type]
            latest = max(latest, ts + duration if path.stem == "conn" else ts)
        yield (np.inf if line.startswith(b"#close") else latest), line


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Zeek:
    """Writes logs that are there already once more, in order of time, as if they came now."""

    def __init__(self, whole: Path, into: Path) -> None:
        self.into = into
        self.lines = {path.name: list(timed_lines(path)) for path in sorted(whole.glob("*.log"))}
        self.torn = dict.fromkeys(self.lines, 0)  # bytes of the next line that are written already
        times = [t for lines in self.lines.values() for t, _ in lines if np.isfinite(t)]
        self.first, self.last = min(times), max(times)
        self.header = {
            name: b"".join(line for t, line in lines if t == -np.inf) for name, lines in self.lines.items()
        }

    def write(self, share: float, only: str = "", torn: int = 0) -> None:
        """What is written when `share` of the time is over, and so many bytes of the line that follows."""
        now = self.first + share * (self.last - self.first) if share < 1.0 else np.inf
        for name, lines in self.lines.items():
            if only not in name:
                continue
            with (self.into / name).open("ab") as file:
                while lines and lines[0][0] <= now:
                    file.write(lines.pop(0)[1][self.torn[name] :])
                    self.torn[name] = 0
                if lines and torn > self.torn[name]:
                    file.write(lines[0][1][self.torn[name] : torn])
                    self.torn[name] = min(torn, len(lines[0][1]))

    def finish_lines(self) -> None:
        for name, lines in self.lines.items():
            if self.torn[name]:
                with (self.into / name).open("ab") as file:
                    file.write(lines.pop(0)[1][self.torn[name] :])
                self.torn[name] = 0

    def rotate(self, to: str) -> None:
        """Moves the logs away by a name with `to` in it and begins them anew, each with its header."""
        self.finish_lines()
        for name in self.lines:
            if (self.into / name).exists():
                (self.into / name).rename(self.into / to.format(name.removesuffix(".log")))
                (self.into / name).write_bytes(self.header[name])


def same(found: list[Windows], expected: list[Windows]) -> None:
    one, other = concat(found), concat(expected)
    for field in fields(Connections):
        a, b = getattr(one.connections, field.name), getattr(other.connections, field.name)
        assert np.array_equal(a, b, equal_nan=field.name == "duration"), field.name
    assert one.log_start.tolist() == other.log_start.tolist()
    for row, entry in zip(one.logs, other.logs, strict=True):
        assert (row.stream, row.ts, row.uid, row.fields) == (entry.stream, entry.ts, entry.uid, entry.fields)


def looks(logs: FollowedLogs, clock: Clock, seconds: float = 1.0) -> Iterator[Windows]:
    clock.now += seconds
    found = logs.look()
    if found is not None:
        yield found


@pytest.mark.parametrize("moved", ["", "{}.2026-11-22-00-00-00.log", "../{}.2026-11-22-00-00-00.log"])
def test_what_comes_in_pieces_and_is_moved_away_is_what_the_whole_logs_say(
    whole: Path, tmp_path: Path, moved: str
) -> None:
    clock, into = Clock(), tmp_path / "current"
    into.mkdir()
    zeek, logs = Zeek(whole, into), FollowedLogs(into, clock=clock)
    found: list[Windows] = []
    for turn in range(12):
        zeek.write(turn / 12, torn=7 * turn)
        found += looks(logs, clock)
        if moved and turn in (3, 8):
            zeek.write((turn + 0.5) / 12, torn=40)
            zeek.rotate(moved.replace("22", f"2{turn}"))
    zeek.write(1.0)
    found += looks(logs, clock, 10.0)
    found += looks(logs, clock, 10.0)
    rest = logs.rest()
    assert rest is None
    same(found, list(ZeekLogs([whole])))
    assert not {r for r in logs.counts.by_reason if r not in ("entry_without_connection", "entry_over_limit")}


def test_a_connection_waits_for_rows_that_come_after_its_own_but_not_for_ever(
    whole: Path, tmp_path: Path
) -> None:
    clock = Clock()
    zeek, logs = Zeek(whole, tmp_path), FollowedLogs(tmp_path, wait=3.0, clock=clock)
    zeek.write(1.0, "conn")
    assert not list(looks(logs, clock))
    assert logs.waiting
    zeek.write(1.0)
    assert not list(looks(logs, clock))
    found = list(looks(logs, clock, 3.0))
    same(found, list(ZeekLogs([whole])))
    assert not logs.waiting


def test_what_was_there_before_is_passed_over_unless_asked_for(whole: Path, tmp_path: Path) -> None:
    clock = Clock()
    zeek = Zeek(whole, tmp_path)
    zeek.write(0.7, torn=20)
    zeek.finish_lines()
    logs = FollowedLogs(tmp_path, clock=clock)
    before = sum(not line.startswith(b"#") for line in (tmp_path / "conn.log").read_bytes().splitlines())
    zeek.write(1.0)
    (found,) = [*looks(logs, clock), *looks(logs, clock, 9.0)]
    everything = concat(list(ZeekLogs([whole])))
    assert len(found) == len(everything) - before
    assert found.connections.uid.tolist() == everything.connections.uid[before:].tolist()


def test_a_log_that_is_cut_to_nothing_is_read_from_its_beginning(whole: Path, tmp_path: Path) -> None:
    clock, data = Clock(), (whole / "conn.log").read_bytes()
    logs = FollowedLogs(tmp_path, wait=0.0, clock=clock)
    (tmp_path / "conn.log").write_bytes(data)
    (first,) = looks(logs, clock)
    os.truncate(tmp_path / "conn.log", 0)
    assert not list(looks(logs, clock))
    with (tmp_path / "conn.log").open("ab") as file:
        file.write(data[: len(data) // 2].rpartition(b"\n")[0] + b"\n")
    (again,) = looks(logs, clock)
    assert 0 < len(again) < len(first)
    assert logs.counts.by_reason["log_cut"] == 1


def test_what_is_no_log_or_damaged_is_counted_and_passed_over(whole: Path, tmp_path: Path) -> None:
    clock, data = Clock(), (whole / "conn.log").read_bytes()
    (tmp_path / "target").write_bytes(data)
    (tmp_path / "dns.log").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "http.log")
    (tmp_path / "ssl.log").write_bytes(os.urandom(4096))
    (tmp_path / "conn.2025.log.gz").write_bytes(b"\x1f\x8b" + os.urandom(64))
    logs = FollowedLogs(tmp_path, from_start=True, wait=0.0, clock=clock)
    (tmp_path / "conn.log").write_bytes(data + b"\x00\xff garbage\n" + b'{"ts": "never"}\n')
    (found,) = looks(logs, clock)
    assert len(found) == len(concat(list(ZeekLogs([whole / "conn.log"]))))
    assert sum(logs.counts.by_reason.values()) >= 2


def test_a_folder_that_is_not_there_is_refused_and_one_that_goes_for_a_moment_is_waited_for(
    whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecordError, match="is no folder; expected the one that Zeek writes its logs to"):
        FollowedLogs(tmp_path / "nowhere")
    clock, folder = Clock(), tmp_path / "current"
    folder.mkdir()
    logs = FollowedLogs(folder, wait=0.0, clock=clock)
    folder.rename(tmp_path / "old")
    assert logs.look() is None
    folder.mkdir()
    (folder / "conn.log").write_bytes((whole / "conn.log").read_bytes())
    assert len(next(looks(logs, clock)))


def test_too_many_that_wait_are_handed_on_early_and_counted(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feature_extractors.readers.following._MOST_WAITING", 100)
    (tmp_path / "conn.log").write_bytes(b"")
    logs = FollowedLogs(tmp_path, wait=60.0, clock=Clock())
    (tmp_path / "conn.log").write_bytes((whole / "conn.log").read_bytes())
    found = logs.look()
    assert found is not None
    assert logs.counts.by_reason["waited_too_few"] == len(found)
    assert logs.waiting <= 100
