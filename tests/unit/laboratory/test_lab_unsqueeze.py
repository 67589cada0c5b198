"""A recording that stands for a day becomes the day: times move, connections and their labels stay what they were."""

from __future__ import annotations

import csv
import datetime
import json
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from lab_frames import MAC, answer, capture, frame, question

from benchmarks.lab import flows, rates, truth, unsqueeze
from benchmarks.lab.__main__ import main
from benchmarks.lab.scenario import LabError, load
from cmdana_plugin.config import Config
from cmdana_plugin.replay import convert

pytestmark = pytest.mark.slow

BEGIN = 1_000.0
HOURS, SECONDS = 12.0, 900.0
FACTOR = HOURS * 3600 / SECONDS
DAY = datetime.datetime(2026, 3, 2, 7, tzinfo=datetime.UTC).timestamp()  # the story starts at seven
DESK, DNS, WEB, NS, ROUTER = "10.0.0.5", "10.0.0.2", "10.0.0.9", "198.51.100.3", "10.0.0.1"
CARD = bytes.fromhex("020000000005")
USER, THIEF = 20001, 20002
SYN, FIN, ACK, PUSH = 2, 1, 16, 8


def talk(ts: float, port: int, after: float = 0.01, server: str = WEB) -> list[tuple[float, bytes]]:
    """A whole TCP connection from the desk, `after` seconds between its packets."""
    ours, theirs = (DESK, port, server, 443), (server, 443, DESK, port)
    told = [
        ("o", SYN, b"", 1, 0), ("r", SYN | ACK, b"", 1, 2), ("o", ACK, b"", 2, 2), ("o", PUSH | ACK, b"hello", 2, 2),
        ("r", PUSH | ACK, b"world", 2, 7), ("o", FIN | ACK, b"", 7, 7), ("r", FIN | ACK, b"", 7, 8),
        ("o", ACK, b"", 8, 8),
    ]  # fmt: skip
    return [
        (
            ts + number * after,
            frame("tcp", *(ours if side == "o" else theirs), flags, body, seq=seq, ack=ack, mac=CARD),
        )
        for number, (side, flags, body, seq, ack) in enumerate(told)
    ]


def recording(folder: Path) -> Path:
    """A desk's user and an intruder there; each line says what it is for."""
    user, thief = "opened by user anna on desk", "opened by attacker ben on desk"
    quoted = frame("udp", DESK, 41000, WEB, 9999, body=b"x")[14:]
    frames = [
        # 10 s: a name is asked for, the resolver asks on, and the page is fetched
        (1010.00, frame("udp", DESK, 50000, DNS, 53, body=question("a.example"))),
        (1010.01, frame("udp", DNS, 50001, NS, 53, body=question("a.example"))),
        (1010.02, frame("udp", NS, 53, DNS, 50001, body=answer("a.example", WEB))),
        (1010.03, frame("udp", DNS, 53, DESK, 50000, body=answer("a.example", WEB))),
        *talk(1010.05, 40000),
        # 11 s: the same ports again, for something else; and a long talk that began before and ends after the next
        *talk(1011.00, 40000),
        *talk(1010.50, 40001, after=2.0),
        (1011.20, b"\xff" * 6 + CARD + b"\x08\x06" + bytes(28)),  # of no connection
        # 20 s: nobody is there, as the router says
        (1020.00, frame("udp", DESK, 41000, WEB, 9999, body=b"x")),
        (1020.01, frame("icmp", ROUTER, 3, DESK, 3, body=bytes(4) + quoted)),
        # 30 s, 40 s: the intruder, each by itself
        *talk(1030.00, 40002),
        *talk(1040.00, 40003),
        # 50 s, 130 s: one exchange with a gap longer than any timer
        (1050.00, frame("udp", DESK, 42000, WEB, 514, body=b"one")),
        (1130.00, frame("udp", DESK, 42000, WEB, 514, body=b"two")),
    ]  # fmt: skip
    frames.sort(key=lambda pair: pair[0])
    folder.mkdir()
    reasons = {50000: user, 40000: user, 40001: user, 41000: user, 40002: thief, 40003: thief, 42000: user}
    labels = []
    for flow in capture(folder / "capture.pcap", *frames):
        why = reasons.get(flow.key[2], "opened by a server's own program")
        family = "beacon-tls" if why is thief else ""
        labels.append(truth.Label(flow, "malicious" if family else "benign", family, why))
    truth.write(labels, folder / "labels.csv", "capture")
    programs: list[dict[str, Any]] = [
        program(USER, 1, 10.0, 1009.99, 1010.20, "curl https://a.example/", event="nine"),
        program(USER, 2, 11.0, 1010.99, 1011.10, f"ncat {WEB} 443"),
        program(USER, 3, 10.5, 1010.49, 1024.60, "curl https://a.example/long"),
        program(USER, 4, 20.0, 1019.99, 1020.10, f"ncat -u {WEB} 9999"),
        program(THIEF, 1, 30.0, 1030.00, 1030.10, f"curl https://{WEB}/"),
        program(THIEF, 2, 40.0, 1040.00, 1040.10, f"curl https://{WEB}/"),
        program(USER, 5, 50.0, 1050.00, 1130.00, f"logger -n {WEB}"),
        {"host": "desk", "gid": USER, "what": "person", "began": 1000.0, "ended": 1900.0, "argv": []},
    ]
    log = {
        "host": "desk",
        "gid": USER,
        "what": "x",
        "proto": "tcp",
        "orig": [DESK, 40001],
        "resp": [WEB, 443],
    }
    (folder / "programs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in programs), encoding="utf-8")
    opened = json.dumps({**log, "opened": 1010.5, "at": 10.5, "occasion": 3}) + "\n"
    (folder / "connections.jsonl").write_text(opened, encoding="utf-8")
    office = load("office").model_dump(mode="json")
    story = {
        "capture": "capture", "seed": 1, "site": 1, "seconds": SECONDS, "begin": BEGIN, "scenario": office,
        "events": [{"kind": "nine", "at": 10.0, "until": 20.0}],
        "actors": [
            {"name": "anna", "host": "desk", "gid": USER, "family": ""},
            {"name": "ben", "host": "desk", "gid": THIEF, "family": "beacon-tls"},
        ],
        "hosts": [
            {"name": "desk", "address": DESK, "mac": "02:00:00:00:00:05", "inside": True, "services": []},
            {"name": "dns", "address": DNS, "mac": "02:00:00:00:00:02", "inside": True, "services": ["resolver"]},
            {"name": "web", "address": WEB, "mac": "02:00:00:00:00:09", "inside": True, "services": ["web"]},
            {"name": "ns", "address": NS, "mac": "02:00:00:00:00:03", "inside": False, "services": ["names"]},
        ],
    }  # fmt: skip
    (folder / "story.json").write_text(json.dumps(story), encoding="utf-8")
    return folder


def program(
    gid: int, occasion: int, at: float, began: float, ended: float, line: str, **more: str
) -> dict[str, Any]:
    told = {
        "host": "desk",
        "gid": gid,
        "what": "x",
        "began": began,
        "ended": ended,
        "status": 0,
        "argv": line.split(),
    }
    return {**told, "at": at, "occasion": occasion, **more}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def ends(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(
        row[name] for name in ("proto", "orig_h", "orig_p", "resp_h", "resp_p", "label", "family", "reason")
    )


@pytest.fixture
def moved(tmp_path: Path) -> tuple[Path, Path]:
    squeezed = recording(tmp_path / "squeezed")
    assert main(["unsqueeze", str(squeezed), "--out", str(tmp_path / "day")]) == 0
    return squeezed, tmp_path / "day"


def test_the_day_has_the_same_connections_and_each_keeps_its_label(moved: tuple[Path, Path]) -> None:
    squeezed, day = moved
    assert Counter(map(ends, rows(day))) == Counter(map(ends, rows(squeezed)))
    found = flows.read(day / "capture.pcap")
    assert [(f"{flow.start:.6f}", *map(str, flow.key)) for flow in found] == [
        tuple(row[name] for name in ("ts", "proto", "orig_h", "orig_p", "resp_h", "resp_p"))
        for row in rows(day)
    ]
    before = {
        (f.key, tuple(f.packets), tuple(f.payload), round(f.last - f.start, 5))
        for f in flows.read(squeezed / "capture.pcap")
    }
    assert {(f.key, tuple(f.packets), tuple(f.payload), round(f.last - f.start, 5)) for f in found} == before


def test_our_engine_reads_the_day_as_the_same_connections(moved: tuple[Path, Path], tmp_path: Path) -> None:
    logged = []
    for folder in moved:
        out = tmp_path / f"logs-{folder.name}"
        out.mkdir()
        convert([folder / "capture.pcap"], out, Config())
        lines = (out / "conn.log").read_text(encoding="utf-8").splitlines()
        names = next(line.split("\t")[1:] for line in lines if line.startswith("#fields"))
        logged.append(
            [dict(zip(names, line.split("\t"), strict=True)) for line in lines if not line.startswith("#")]
        )
    squeezed, day = logged
    kept = (
        "id.orig_h",
        "id.orig_p",
        "id.resp_h",
        "id.resp_p",
        "proto",
        "conn_state",
        "history",
        "duration",
        "orig_pkts",
    )
    assert Counter(tuple(row[k] for k in kept) for row in day) == Counter(
        tuple(row[k] for k in kept) for row in squeezed
    )
    labelled = {(row["ts"], row["proto"], row["orig_h"], row["orig_p"]) for row in rows(moved[1])}
    assert {(row["ts"], row["proto"], row["id.orig_h"], row["id.orig_p"]) for row in day} == labelled


@pytest.mark.parametrize(
    ("port", "starts"),
    [
        (50000, [10.0 * FACTOR + 0.01]),  # the program began late by as much, and asked then
        (50001, [10.0 * FACTOR + 0.02]),  # the resolver for it
        (40002, [30.0 * FACTOR]),
        (40003, [40.0 * FACTOR]),  # the intruder's occasions move each by itself
        (42000, [50.0 * FACTOR, 50.0 * FACTOR + 80.0]),  # within one occasion nothing changes
        (40001, [10.5 * FACTOR + 0.01]),
        (41000, [20.0 * FACTOR + 0.01]),
        (3, [20.0 * FACTOR + 0.02]),  # the router's word goes with what it quotes
    ],
)
def test_what_is_done_once_begins_where_the_story_has_it(
    moved: tuple[Path, Path], port: int, starts: list[float]
) -> None:
    found = [float(row["ts"]) - DAY for row in rows(moved[1]) if row["orig_p"] == str(port)]
    assert found == pytest.approx(starts, abs=1e-5)


def test_strangers_with_the_same_ends_do_not_meet(moved: tuple[Path, Path]) -> None:
    one, two = (flow for flow in flows.read(moved[1] / "capture.pcap") if flow.key[2] == 40000)
    assert two.start - one.last > flows.IDLE["tcp"]
    assert {one.packets[0], two.packets[0]} == {5}


def test_frames_of_no_connection_go_with_their_host(moved: tuple[Path, Path]) -> None:
    squeezed, day = moved
    arp = [ts for ts, whole in flows.frames(day / "capture.pcap") if whole[12:14] == b"\x08\x06"]
    assert len(arp) == 1
    assert any(0.0 <= arp[0] - flow.start < 1.0 for flow in flows.read(day / "capture.pcap"))
    assert sum(1 for _ in flows.frames(day / "capture.pcap")) == sum(
        1 for _ in flows.frames(squeezed / "capture.pcap")
    )


def test_logs_and_story_move_too_and_events_are_marked(moved: tuple[Path, Path]) -> None:
    _, day = moved
    programs = [
        json.loads(line) for line in (day / "programs.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert programs[0]["began"] - DAY == pytest.approx(10.0 * FACTOR)
    assert programs[0]["ended"] - programs[0]["began"] == pytest.approx(0.21)
    opened = json.loads((day / "connections.jsonl").read_text(encoding="utf-8"))
    assert opened["opened"] - DAY == pytest.approx(10.5 * FACTOR + 0.01, abs=2e-3)
    story = json.loads((day / "story.json").read_text(encoding="utf-8"))
    assert (story["begin"], story["seconds"]) == (DAY, HOURS * 3600)
    assert story["events"] == [{"kind": "nine", "at": 480.0, "until": 960.0}]
    assert {row["orig_p"] for row in rows(day) if row["event"] == "nine"} == {"50000", "50001", "40000"}


def test_several_recordings_become_days_in_a_row(tmp_path: Path) -> None:
    two = [recording(tmp_path / name) for name in ("monday", "tuesday", "later")]
    start = [datetime.date(2026, 5, 4)]
    for number, found in enumerate(unsqueeze.unsqueeze(two, tmp_path / "out", starts=start)):
        story = json.loads((found.folder / "story.json").read_text(encoding="utf-8"))
        begun = datetime.datetime.fromtimestamp(story["begin"], datetime.UTC)
        assert (begun.date() - start[0]).days == number
        assert begun.hour == 7


def test_what_cannot_be_moved_is_refused_in_one_line(moved: tuple[Path, Path], tmp_path: Path) -> None:
    squeezed, day = moved
    for folders, more, said in (
        ([day], {}, "was unsqueezed before"),
        ([tmp_path / "nothing"], {}, "expected a recording"),
        ([squeezed], {"factor": 0.5}, "--factor: found 0.5"),
        ([squeezed], {"starts": [datetime.date(2026, 1, 1)] * 2}, "found 2 days for 1"),
    ):
        with pytest.raises(LabError, match=said):
            unsqueeze.unsqueeze(folders, tmp_path / "again", **more)  # type: ignore[arg-type]
    (squeezed / "labels.csv").write_text(
        (squeezed / "labels.csv").read_text(encoding="utf-8").replace("40002", "40009"), encoding="utf-8"
    )
    with pytest.raises(LabError, match="no label for the connection"):
        unsqueeze.unsqueeze([squeezed], tmp_path / "unlabelled")


def test_all_frames_of_a_datagram_stay_together(tmp_path: Path) -> None:
    whole = frame("udp", DESK, 5, WEB, 6, body=bytes(64))
    head, body = whole[14:34], whole[34:]
    parts = []
    for offset, more in ((0, 0x2000), (32, 0)):
        piece = body[offset : offset + 32] if more else body[offset:]
        fields = struct.pack("!HHH", 20 + len(piece), 7, more | offset // 8)
        parts.append(whole[:14] + head[:2] + fields + head[8:] + piece)
    walk = flows.Walk()
    assert [walk.receive(1.0, part) is walk.flows[0] for part in parts] == [True, True]
    assert walk.receive(1.0, MAC * 2 + b"\x08\x06" + bytes(28)) is None


def test_rates_count_what_hosts_ask_for_themselves_and_what_is_new_on_the_next_day(tmp_path: Path) -> None:
    monday, tuesday = (recording(tmp_path / name) for name in ("monday", "tuesday"))
    found = rates.measure([monday])
    assert found.connections == 7  # of the user; neither the resolver's own nor the intruder's
    assert found.new_peers is None
    assert found.failed_tcp == 0.0
    assert found.failed == pytest.approx(3 / 7)
    assert found.dns == pytest.approx(1 / 7)
    assert found.looked_up == 1.0
    assert rates.measure([monday, tuesday]).new_names == 0.0
    assert "new peers, of a host's on a day                 0.000" in str(rates.measure([monday, tuesday]))
