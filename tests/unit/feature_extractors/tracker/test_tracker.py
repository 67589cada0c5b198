"""Connections in Zeek's terms: tables of dialogues, and what conn.log says of them. A real Zeek agrees."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from handmade import (
    ACK,
    CLIENT,
    FIN,
    RST,
    SERVER,
    SYN,
    Dialogue,
    Frame,
    ethernet,
    extract,
    icmp,
    ipv4,
    rows,
    tcp_header,
    udp,
)


class Case(NamedTuple):
    """Letters of a dialogue, and state, history, bytes of originator and responder, missed bytes."""

    letters: str
    state: str
    history: str
    orig_bytes: int = 0
    resp_bytes: int = 0
    missed: int = 0


DIALOGUES = {
    "a whole connection": Case("S h A D a d A F a f A", "SF", "ShADadFf", 100, 100),
    "an attempt without answer": Case("S S S", "S0", "S"),
    "a rejected attempt": Case("S r", "REJ", "Sr"),
    "established, not closed": Case("S h A D a", "S1", "ShADa", 100, 0),
    "a handshake and no more": Case("S h A", "S1", "ShA"),
    "closed by the originator only": Case("S h A D a F a", "S2", "ShADaF", 100, 0),
    "closed by the responder only": Case("S h A D a f A", "S3", "ShADaf", 100, 0),
    "reset by the originator": Case("S h A D a R", "RSTO", "ShADaR", 100, 0),
    "reset by the responder": Case("S h A D r", "RSTR", "ShADr", 100, 0),
    "SYN, then reset by the originator": Case("S R", "RSTOS0", "SR"),
    "a SYN-ACK scan, its sender the originator": Case("h R", "REJ", "Hr"),
    "SYN, then FIN": Case("S F", "SH", "SF"),
    "a SYN-ACK, then FIN by its sender": Case("h f", "SH", "HF"),
    "mid-stream": Case("D a d A", "OTH", "DadA", 100, 100),
    "mid-stream, the responder first": Case("d A D a", "OTH", "DadA", 100, 100),
    "a SYN-ACK that goes on productively": Case("h A D a", "OTH", "^hADa", 100, 0),
    "one retransmission": Case("S h A D K a", "S1", "ShADTa", 100, 0),
    "eleven retransmissions make two letters": Case("S h A D KKKKKKKKKKK a", "S1", "ShADTTa", 100, 0),
    "a zero window": Case("S h A D w D", "S1", "ShADaw", 200, 0),
    "a hole that the peer acknowledged": Case("S h A D L a D a", "S1", "ShADaG", 300, 0, 100),
    "a hole at the end": Case("S h A D L F a f", "SF", "ShADFaGf", 200, 0, 100),
}


def play(name: str) -> list[Frame]:
    return Dialogue().play(DIALOGUES[name].letters)


def told_by_zeek(frames: list[Frame], folder: Path) -> list[dict[str, Any]]:
    """conn.log of a real Zeek."""
    pcap = folder / "frames.pcap"
    with pcap.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for frame in frames:
            ts = round(frame.ts * 1e6)
            size = len(frame.data)
            file.write(struct.pack("<IIII", ts // 1_000_000, ts % 1_000_000, size, frame.length or size))
            file.write(frame.data)
    subprocess.run(
        ["zeek", "-C", "-r", str(pcap), "LogAscii::use_json=T"], cwd=folder, check=True, capture_output=True
    )
    log = folder / "conn.log"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.mark.parametrize("name", DIALOGUES)
def test_a_dialogue_has_zeeks_state_history_and_bytes(name: str) -> None:
    case = DIALOGUES[name]
    windows, _ = extract(play(name))
    (row,) = rows(windows)
    assert (row["state"], row["history"]) == (case.state, case.history)
    assert (max(row["orig_bytes"], 0), max(row["resp_bytes"], 0)) == (case.orig_bytes, case.resp_bytes)
    assert row["missed"] == case.missed


def stealthy(flags: int) -> list[Frame]:
    return [Frame(ethernet(ipv4(tcp_header(b"", flags), 6)), 1.0)]


STEALTH = {
    "FIN and RST": (FIN | RST, "I"),
    "SYN and FIN": (SYN | FIN, "Q"),
    "FIN alone": (FIN, "F"),
    "ACK alone": (ACK, "A"),
    "nothing": (0, ""),
    "SYN-ACK alone": (SYN | ACK, "H"),
}


@pytest.mark.parametrize("name", STEALTH)
def test_a_stealth_scan_leaves_its_letter(name: str) -> None:
    flags, history = STEALTH[name]
    (row,) = rows(extract(stealthy(flags))[0])
    assert row["history"] == history


@pytest.mark.parametrize(
    ("sport", "dport", "swapped"),
    [
        (40000, 53, False),
        (53, 40000, True),
        (53, 53, False),
        (137, 138, True),
        (40000, 40001, False),
        (123, 53, False),
    ],
)
def test_udp_from_a_likely_server_port_is_an_answer(sport: int, dport: int, swapped: bool) -> None:
    (row,) = rows(extract([udp(sport=sport, dport=dport)])[0])
    assert row["orig"] == ((SERVER, dport) if swapped else (CLIENT, sport))
    assert (row["state"], row["history"]) == (("SHR", "^d") if swapped else ("S0", "D"))


def test_a_broadcast_answer_is_not_turned_round() -> None:
    frame = Frame(
        ethernet(ipv4(struct.pack(">HHHH", 67, 68, 12, 0) + b"dhcp", 17, SERVER, "255.255.255.255")), 1.0
    )
    (row,) = rows(extract([frame])[0])
    assert row["orig"] == (SERVER, 67)


def test_a_dns_answer_first_turns_the_connection_round_as_zeeks_analyzer_does() -> None:
    answer = struct.pack(">HHHHHH", 1, 0x8180, 1, 0, 0, 0) + b"\x01a\x00\x00\x01\x00\x01"
    (row,) = rows(extract([udp(answer, sport=5353, dport=5353)])[0])
    assert (row["orig"][0], row["history"]) == (SERVER, "D^")


@pytest.mark.parametrize(
    ("kind", "code", "answer", "ports"),
    [
        (8, 0, 0, (8, 0)),
        (13, 0, 14, (13, 14)),
        (3, 1, None, (3, 1)),
        (11, 0, None, (11, 0)),
        (10, 0, 9, (10, 9)),
    ],
)
def test_icmp_pairs_requests_with_answers(
    kind: int, code: int, answer: int | None, ports: tuple[int, int]
) -> None:
    frames = [icmp(kind, code, 1.0)]
    if answer is not None:
        frames.append(icmp(answer, 0, 1.5, back=True))
    (row,) = rows(extract(frames)[0])
    assert (row["orig"][1], row["resp"][1]) == ports
    assert row["resp_pkts"] == (answer is not None)
    assert row["state"] == "OTH"


def test_an_unanswerable_icmp_message_from_either_side_is_two_connections() -> None:
    windows, _ = extract([icmp(3, 1, 1.0), icmp(3, 1, 1.1, back=True)])
    assert len(windows) == 2


TIMEOUTS = {
    "UDP after a minute": ([udp(ts=0), udp(ts=59), udp(ts=120)], [2, 1]),
    "UDP within a minute": ([udp(ts=0), udp(ts=59), udp(ts=118)], [3]),
    "DNS after ten seconds": ([udp(ts=0, dport=53), udp(ts=8, dport=53), udp(ts=20, dport=53)], [2, 1]),
    "ICMP after a minute": ([icmp(8, ts=0), icmp(8, ts=61)], [1, 1]),
    "an attempt after five seconds": (Dialogue().play("S") + Dialogue(ts=6).play("S"), [1, 1]),
    "an established connection lives five minutes": (
        Dialogue(step=100.0).play("S") + Dialogue(ts=1.0).play("h"),
        [1],
    ),
}


@pytest.mark.parametrize("name", TIMEOUTS)
def test_what_is_silent_long_enough_is_over(name: str) -> None:
    frames, packets = TIMEOUTS[name]
    found = rows(extract(frames)[0])
    assert [row["orig_pkts"] for row in found] == packets


@pytest.mark.parametrize(("pause", "connections"), [(290.0, 1), (310.0, 2)])
def test_tcp_is_over_after_five_silent_minutes(pause: float, connections: int) -> None:
    talk = Dialogue()
    frames = talk.play("S h A D a")
    talk.ts += pause
    assert len(extract(frames + talk.play("D a"))[0]) == connections


def test_interactive_services_may_be_silent_for_an_hour() -> None:
    talk = Dialogue(dport=22)
    frames = talk.play("S h A D a")
    talk.ts += 3000
    assert len(extract(frames + talk.play("D a"))[0]) == 1


def test_a_closed_connection_lingers_five_seconds_and_ends_at_the_packet_that_finds_it() -> None:
    talk = Dialogue(ts=100.0)
    late = [udp(ts=104.0), udp(ts=105.2), udp(ts=200.0)]
    found = rows(extract(talk.play("S h A F f A") + late)[0])
    assert [(row["proto"], row["end"]) for row in found] == [(6, 105.2), (17, 200.0), (17, 200.0)]


def test_a_new_syn_on_the_same_ports_is_a_new_connection() -> None:
    first, second = Dialogue(), Dialogue(ts=1.0, first=90_000)
    found = rows(extract(first.play("S h A D a F f A") + second.play("S h A D a"))[0])
    assert [row["state"] for row in found] == ["SF", "S1"]


def test_out_of_order_data_is_no_gap_once_it_came() -> None:
    talk = Dialogue()
    frames = talk.play("S h A D D D a")
    frames[3], frames[4] = frames[4], frames[3]
    (row,) = rows(extract(frames)[0])
    assert (row["missed"], row["orig_bytes"]) == (0, 300)


def test_time_may_jump_back_and_network_time_does_not() -> None:
    found = rows(extract([udp(ts=1000.0), udp(ts=10.0, sport=1), udp(ts=1001.0, sport=2)])[0])
    assert [row["end"] for row in found] == sorted(row["end"] for row in found)
    assert found[0]["ts"] == 10.0, "it was over, by network time, when the next packet came"


def test_a_host_may_talk_to_itself() -> None:
    frames = [Frame(ethernet(ipv4(struct.pack(">HHHH", 7, 7, 12, 0) + b"echo", 17, CLIENT, CLIENT)), 1.0)] * 2
    (row,) = rows(extract(frames)[0])
    assert (row["orig_pkts"], row["resp_pkts"]) == (2, 0)


def test_a_packet_is_described_once() -> None:
    talk = Dialogue()
    windows, _ = extract(talk.play("S h A D K L D a"))
    p = windows.packets
    assert p.is_orig.tolist() == [True, False, True, True, True, True, False]
    assert p.payload.tolist() == [0, 0, 0, 100, 100, 100, 0]
    assert p.ip_length.tolist() == [40, 40, 40, 140, 140, 140, 40]


@pytest.mark.zeek
@pytest.mark.skipif(not shutil.which("zeek"), reason="needs a real Zeek on the PATH")
def test_a_real_zeek_tells_the_same(tmp_path: Path) -> None:
    """All cases one after the other, hours apart, in one run."""
    cases = {
        **{name: play(name) for name in DIALOGUES},
        **{name: stealthy(flags) for name, (flags, _) in STEALTH.items()},
        **{name: frames for name, (frames, _) in TIMEOUTS.items()},
    }
    together = [
        frame._replace(ts=frame.ts + 100_000.0 * n)
        for n, frames in enumerate(cases.values(), 1)
        for frame in frames
    ]
    golden = told_by_zeek(together, tmp_path)
    for n, (name, frames) in enumerate(cases.items(), 1):
        begun = 100_000.0 * n
        assert sorted(
            (round(r["ts"] - begun, 3), r["conn_state"], r.get("history", ""), r.get("orig_bytes", -1),
             r.get("resp_bytes", -1), r["missed_bytes"], r["orig_pkts"], r["resp_pkts"])
            for r in golden if begun <= r["ts"] < begun + 100_000
        ) == sorted(
            (round(r["ts"], 3), r["state"], r["history"], r["orig_bytes"],
             r["resp_bytes"], r["missed"], r["orig_pkts"], r["resp_pkts"])
            for r in rows(extract(frames)[0])
        ), name  # fmt: skip
