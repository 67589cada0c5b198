"""The laboratory's truth: who opened a connection, told by the kernel's own log and joined with the frames."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from pathlib import Path

import pytest
from lab_frames import capture, frame, question

from benchmarks.lab import flows, truth, writeup
from benchmarks.lab.net import Host
from benchmarks.lab.scenario import LabError, load
from benchmarks.lab.world import Actor

TRACES = Path(__file__).parents[2] / "traces"
DESK = Host("desk", "n", "10.0.0.5", "02:00:00:00:00:05", True, (), "clerk", ())
DNS = Host("dns", "n", "10.0.0.2", "02:00:00:00:00:02", True, ("resolver",), None, ())
USER, THIEF = Actor("anna", "desk", 20001), Actor("ben", "desk", 20002, "beacon-tls")
ACTORS = (USER, THIEF)


def opened(tmp_path: Path, *lines: str) -> truth.Events:
    for host in (DESK, DNS):
        (tmp_path / f"{host.name}.log").write_text("\n".join(lines), encoding="utf-8")
    return truth.events({h.name: tmp_path / f"{h.name}.log" for h in (DESK, DNS)}, (DESK, DNS))


def event(ts: float, proto: str, src: str, sport: int, dst: str, dport: int, mark: int) -> str:
    return f"{ts:.6f} {proto} {src} {sport} {dst} {dport} {mark}"


def test_the_same_host_can_hold_both_classes(tmp_path: Path) -> None:
    seen = capture(
        tmp_path / "c.pcap",
        (10.0, frame("tcp", "10.0.0.5", 40000, "10.0.0.9", 443, 2)),
        (11.0, frame("tcp", "10.0.0.5", 40001, "10.0.0.9", 443, 2)),
    )
    known = opened(
        tmp_path,
        event(10.01, "tcp", "10.0.0.5", 40000, "10.0.0.9", 443, USER.gid),
        event(11.01, "tcp", "10.0.0.5", 40001, "10.0.0.9", 443, THIEF.gid),
    )
    found = truth.label(seen, known, ACTORS, set())
    assert [(f.label, f.family) for f in found] == [("benign", ""), ("malicious", "beacon-tls")]


def test_a_port_used_again_belongs_to_its_latest_opener(tmp_path: Path) -> None:
    one = frame("tcp", "10.0.0.5", 40000, "10.0.0.9", 443, 2)
    reset = frame("tcp", "10.0.0.9", 443, "10.0.0.5", 40000, 4)
    seen = capture(tmp_path / "c.pcap", (10.0, one), (10.1, reset), (50.0, one), (50.1, reset))
    known = opened(
        tmp_path,
        event(10.01, "tcp", "10.0.0.5", 40000, "10.0.0.9", 443, USER.gid),
        event(50.01, "tcp", "10.0.0.5", 40000, "10.0.0.9", 443, THIEF.gid),
    )
    assert [f.label for f in truth.label(seen, known, ACTORS, set())] == ["benign", "malicious"]


def test_what_the_resolver_asks_belongs_to_whoever_asked_the_resolver(tmp_path: Path) -> None:
    seen = capture(
        tmp_path / "c.pcap",
        (9.0, frame("udp", "10.0.0.2", 50003, "198.51.100.3", 53, body=question("evil.example"))),
        (10.0, frame("udp", "10.0.0.5", 50000, "10.0.0.2", 53, body=question("evil.example"))),
        (10.001, frame("udp", "10.0.0.2", 50001, "198.51.100.3", 53, body=question("EVIL.example"))),
        (20.0, frame("udp", "10.0.0.2", 50002, "198.51.100.3", 53, body=question("evil.example"))),
        (21.0, frame("udp", "10.0.0.2", 50004, "198.51.100.3", 53, body=question("good.example"))),
    )
    known = opened(
        tmp_path,
        event(9.0, "udp", "10.0.0.2", 50003, "198.51.100.3", 53, 0),
        event(10.0, "udp", "10.0.0.5", 50000, "10.0.0.2", 53, THIEF.gid),
        event(10.0, "udp", "10.0.0.2", 50001, "198.51.100.3", 53, 0),
        event(20.0, "udp", "10.0.0.2", 50002, "198.51.100.3", 53, 0),
        event(21.0, "udp", "10.0.0.2", 50004, "198.51.100.3", 53, 0),
    )
    assert [f.label for f in truth.label(seen, known, ACTORS, {"10.0.0.2"})] == [
        "benign",
        "malicious",
        "malicious",
        "malicious",  # a late retry of what only the attacker ever asked for
        "benign",
    ]


def test_a_forged_source_is_still_its_senders(tmp_path: Path) -> None:
    seen = capture(
        tmp_path / "c.pcap", (10.0, frame("udp", "10.0.0.77", 5000, "10.0.0.2", 53, body=question("a.b")))
    )
    known = opened(tmp_path, event(10.0, "udp", "10.0.0.77", 5000, "10.0.0.2", 53, THIEF.gid))
    assert truth.label(seen, known, ACTORS, {"10.0.0.2"})[0].label == "malicious"


def test_what_nobody_opened_is_unknown_never_benign(tmp_path: Path) -> None:
    seen = capture(tmp_path / "c.pcap", (10.0, frame("tcp", "10.0.0.5", 1, "10.0.0.9", 2, 2)))
    assert truth.label(seen, opened(tmp_path), ACTORS, set())[0].label == "unknown"


def test_odd_packets_without_an_event_are_found_in_the_set(tmp_path: Path) -> None:
    seen = capture(tmp_path / "c.pcap", (10.0, frame("tcp", "10.0.0.5", 4000, "10.0.0.9", 22, 0x29)))
    (tmp_path / "desk.opened").write_text(
        "elements = { 10.0.0.5 . 4000 . 10.0.0.9 . 22 . 20002 }", encoding="utf-8"
    )
    assert truth.label(seen, opened(tmp_path), ACTORS, set())[0].label == "malicious"


def test_errors_both_ways_are_two_connections_as_in_zeek(tmp_path: Path) -> None:
    def error(src: str, dst: str) -> bytes:
        whole = bytearray(frame("udp", src, 0, dst, 0, body=bytes(28)))
        whole[23] = 1
        whole[34:36] = b"\3\3"
        return bytes(whole)

    there, back = error("10.0.0.5", "10.0.0.9"), error("10.0.0.9", "10.0.0.5")
    assert len(capture(tmp_path / "c.pcap", (1.0, there), (2.0, back), (3.0, there))) == 2


def test_whom_an_attackers_program_answered_was_led_astray(tmp_path: Path) -> None:
    key = ("tcp", "10.0.0.5", 4000, "10.0.0.9", 80)
    seen = capture(
        tmp_path / "c.pcap", (10.0, frame(*key, 2)), (11.0, frame("tcp", "10.0.0.5", 4001, "10.0.0.9", 80, 2))
    )
    events = opened(
        tmp_path, event(10.0, *key, 20001), event(11.0, "tcp", "10.0.0.5", 4001, "10.0.0.9", 80, 20001)
    )
    (tmp_path / "desk.answered").write_text(
        "elements = { 10.0.0.5 . 4000 . 10.0.0.9 . 80 . 20002 }", encoding="utf-8"
    )
    led = truth.answered({"desk": tmp_path / "desk.log"})
    labels = truth.label(seen, events, ACTORS, set(), led)
    assert [(found.label, found.family) for found in labels] == [("malicious", "beacon-tls"), ("benign", "")]


def test_what_a_spoofing_neighbour_carries_is_its_doing(tmp_path: Path) -> None:
    key = ("tcp", "10.0.0.5", 4000, "10.0.0.9", 80)
    carrier = bytes.fromhex("020000000007")
    carried = bytearray(frame(*key, 2))
    carried[6:12] = carrier
    seen = capture(tmp_path / "c.pcap", (10.0, frame(*key, 2)), (10.001, bytes(carried)))
    spoofer = Actor("eve", "other", 20003, "spoof-arp")
    events, hardware = opened(tmp_path, event(10.0, *key, 20001)), {carrier: ("other", "10.0.0.7")}
    (found,) = truth.label(seen, events, (*ACTORS, spoofer), set(), {}, hardware)
    assert (found.label, found.family) == ("malicious", "spoof-arp")
    assert "opened by user anna" in found.reason


def test_a_file_that_is_no_capture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pcap").write_bytes(b"hello")
    with pytest.raises(LabError, match="not a capture"):
        flows.read(tmp_path / "x.pcap")


@pytest.mark.parametrize("name", ["demo", "busy-minutes"])
def test_every_connection_of_a_shipped_recording_has_a_label_and_both_classes_share_hosts(name: str) -> None:
    with (TRACES / name / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) >= set(truth.COLUMNS)
    keys = {(r["proto"], r["orig_h"], int(r["orig_p"]), r["resp_h"], int(r["resp_p"])) for r in rows}
    found = flows.read(TRACES / name / f"{name}.pcap.gz")
    assert {flow.key for flow in found} == keys
    classes = Counter(r["label"] for r in rows)
    assert classes["benign"] > 1500
    assert classes["malicious"] > 300
    assert classes["unknown"] == 0
    hosts = {label: {r["orig_h"] for r in rows if r["label"] == label} for label in classes}
    assert hosts["malicious"] <= hosts["benign"]
    assert len({r["family"] for r in rows if r["family"]}) == 5


@pytest.mark.parametrize(("name", "most"), [("demo", 5.0), ("busy-minutes", 3.0)])
def test_the_shipped_recordings_stay_small(name: str, most: float) -> None:
    capture = TRACES / name / f"{name}.pcap.gz"
    assert capture.stat().st_size < most * 1024 * 1024
    with gzip.open(capture) as file:
        assert file.read(4) == b"\xd4\xc3\xb2\xa1"


def test_a_recording_whose_laboratory_was_killed_can_still_be_labelled(tmp_path: Path) -> None:
    capture(tmp_path / "c.pcap", (10.0, frame("tcp", "10.0.0.5", 40000, "10.0.0.9", 443, 2)))
    (tmp_path / writeup.TRUTH).mkdir()
    opened(tmp_path / writeup.TRUTH, event(10.01, "tcp", "10.0.0.5", 40000, "10.0.0.9", 443, THIEF.gid))
    cut = '{"began": 1, "status": 0}\n{"began": 2, "error": "skipped: late"}\n{"beg'
    (tmp_path / writeup.TRUTH / "desk.jsonl").write_text(cut, encoding="utf-8")
    writeup.tell(tmp_path, load("demo"), (1, 1), 60, (DESK, DNS), ACTORS, "c")
    assert "skipped because the machine was late: 1" in writeup.write_up(tmp_path)
    with (tmp_path / "labels.csv").open(encoding="utf-8", newline="") as file:
        assert [(r["label"], r["family"]) for r in csv.DictReader(file)] == [("malicious", "beacon-tls")]
    assert not (tmp_path / writeup.TRUTH).exists()
    with pytest.raises(LabError, match="not written up"):
        writeup.write_up(tmp_path)


def test_of_a_talk_half_seen_the_answers_still_belong_to_who_asked(tmp_path: Path) -> None:
    log = opened(tmp_path, event(10.0, "tcp", "10.0.0.5", 40000, "10.0.0.9", 443, 20002))
    seen = capture(
        tmp_path / "c.pcap",
        (10.1, frame("tcp", "10.0.0.9", 443, "10.0.0.5", 40000, 18)),  # SYN and ACK: the SYN went another way
        (10.2, frame("tcp", "10.0.0.9", 443, "10.0.0.5", 40000, 17)),
    )
    (found,) = truth.label(seen, log, ACTORS, set())
    assert found.flow.key == ("tcp", "10.0.0.5", 40000, "10.0.0.9", 443)
    assert (found.label, found.family) == ("malicious", "beacon-tls")


def test_a_responder_on_a_port_that_zeek_does_not_know_is_labelled_the_other_way_round(
    tmp_path: Path,
) -> None:
    log = opened(tmp_path, event(10.0, "tcp", "10.0.0.5", 40000, "10.0.0.9", 5432, 20001))
    seen = capture(tmp_path / "c.pcap", (10.1, frame("tcp", "10.0.0.9", 5432, "10.0.0.5", 40000, 18)))
    (found,) = truth.label(seen, log, ACTORS, set())
    assert found.flow.key == ("tcp", "10.0.0.9", 5432, "10.0.0.5", 40000)
    assert (found.label, found.reason) == ("benign", "opened by user anna on desk")


@pytest.mark.parametrize(
    ("later", "flags", "flows_"),
    [
        (4.0, 16, 1),  # an ACK within five seconds of a SYN that nobody was seen to answer
        (6.0, 16, 2),  # and after them: Zeek has given the attempt up
        (4.0, 4, 1),
    ],
)
def test_what_only_one_side_says_is_cut_as_zeek_cuts_it(
    later: float, flags: int, flows_: int, tmp_path: Path
) -> None:
    frames = [(10.0, frame("tcp", "10.0.0.5", 40000, "10.0.0.9", 443, 2))]
    frames.append((10.0 + later, frame("tcp", "10.0.0.5", 40000, "10.0.0.9", 443, flags)))
    assert len(capture(tmp_path / "c.pcap", *frames)) == flows_


def test_after_its_end_a_half_seen_connection_lasts_until_zeeks_next_look(tmp_path: Path) -> None:
    def count(*times: float) -> int:
        fin = [(at, frame("tcp", "10.0.0.5", 40000, "10.0.0.9", 443, 17)) for at in times]
        return len(
            capture(tmp_path / "c.pcap", (10.0, frame("tcp", "10.0.0.5", 40000, "10.0.0.9", 443, 2)), *fin)
        )

    assert count(10.5, 20.5) == 1  # looked at after 5 s (5 s of silence are not over) and after 11
    assert count(10.5, 21.5) == 2


def test_an_address_asked_for_by_raw_frames_is_told_by_card_and_program(tmp_path: Path) -> None:
    anywhere = frame("udp", "0.0.0.0", 68, "255.255.255.255", 67, body=b"x" * 240)
    seen = capture(tmp_path / "c.pcap", (10.0, anywhere), (100.0, anywhere))
    hardware = {b"\2" * 6: ("desk", "10.0.0.5")}
    raw = {"desk": [(9.5, 20.0, 20001), (99.0, 120.0, 20001), (99.5, 105.0, 20002)]}
    first, second = truth.label(seen, opened(tmp_path), ACTORS, set(), hardware=hardware, raw=raw)
    assert (first.label, first.family) == ("benign", "")
    assert (second.label, second.family) == ("malicious", "beacon-tls")
    (neither, _) = truth.label(seen, opened(tmp_path), ACTORS, set(), hardware=hardware)
    assert neither.label == "unknown"


def test_two_who_ask_for_an_address_at_once_share_a_connection_and_neither_carries_it(tmp_path: Path) -> None:
    anywhere = frame("udp", "0.0.0.0", 68, "255.255.255.255", 67, body=b"x" * 240)
    other = bytearray(anywhere)
    other[6:12] = bytes.fromhex("020000000007")
    seen = capture(tmp_path / "c.pcap", (10.0, anywhere), (10.5, bytes(other)))
    hardware = {b"\2" * 6: ("desk", "10.0.0.5"), bytes(other[6:12]): ("other", "10.0.0.7")}
    raw = {"desk": [(9.5, 20.0, 20001)], "other": [(10.2, 20.0, 20004)]}
    actors = (*ACTORS, Actor("eve", "other", 20003, "spoof-arp"), Actor("bob", "other", 20004))
    (found,) = truth.label(seen, opened(tmp_path), actors, set(), hardware=hardware, raw=raw)
    assert (found.label, found.family) == ("benign", "")


def test_of_the_launchers_log_only_what_speaks_past_the_kernel_counts(tmp_path: Path) -> None:
    lines = [
        '{"began": 1.0, "ended": 2.0, "gid": 7, "what": "lease"}',
        '{"began": 1.0, "ended": 2.0, "gid": 8, "what": "browse"}',
        '{"beg',
    ]
    (tmp_path / "desk.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = truth.raw_programs({"desk": tmp_path / "desk.jsonl", "none": tmp_path / "none.jsonl"})
    assert found == {"desk": [(1.0, 2.0, 7)]}
