"""Packets sniffed beside Zeek are joined with its connections by community id and time, bounded and counted."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from handmade import Dialogue, Frame, block, extract, icmp, udp

from cmdana_plugin.endpoint.sniffed import Sniffed, Sniffer
from feature_extractors.observations import Packets, Windows, take
from feature_extractors.readers.scapy_reader import ScapySniffer

START = 1_700_000_000.0


def conversations() -> list[Frame]:
    frames = Dialogue(sport=40001, ts=START).play("S h A D a d A F a f A")
    frames += Dialogue(sport=40002, ts=START + 0.001).play("S h A D a D a")
    frames += [udp(b"ask", START + 0.5, sport=40003, dport=53), udp(b"answer", START + 0.6, True, 40003, 53)]
    frames += [icmp(8, ts=START + 0.7), icmp(0, ts=START + 0.8, back=True), icmp(3, 1, ts=START + 0.9)]
    return sorted(frames, key=lambda frame: frame.ts)


def through_zeek(windows: Windows) -> Windows:
    """What Zeek's events tell of the packets: time, direction and size."""
    p = windows.packets
    n = len(p.ts)
    unset = {
        f.name: np.full(n, np.nan if getattr(p, f.name).dtype.kind == "f" else -1, getattr(p, f.name).dtype)
        for f in fields(Packets)
        if f.name not in ("ts", "is_orig", "ip_length")
    }
    return replace(windows, packets=replace(p, **unset))


def same_packets(a: Windows, b: Windows) -> None:
    assert a.packet_start.tolist() == b.packet_start.tolist()
    for f in fields(Packets):
        x, y = getattr(a.packets, f.name), getattr(b.packets, f.name)
        assert np.array_equal(x, y, equal_nan=x.dtype.kind == "f"), f.name


@pytest.mark.parametrize("over", [False, True], ids=["still open here", "over here too"])
def test_zeeks_connections_get_the_packets_that_were_sniffed(over: bool) -> None:
    frames = conversations()
    whole, _ = extract(frames)
    sniffed = Sniffed(100)
    for k in range(0, len(frames), 3):
        sniffed.receive(block(frames[k : k + 3]))
    if over:
        sniffed.receive(block([udp(ts=START + 1000.0)]))
    same_packets(sniffed.complete(through_zeek(whole)), whole)
    assert sniffed.counts.by_reason == {"packets_sniffed": len(whole)}


def test_looking_at_an_open_connection_changes_nothing_of_it() -> None:
    frames = conversations()
    whole, _ = extract(frames)
    sniffed = Sniffed(100)
    for frame in frames:
        sniffed.receive(block([frame]))
        sniffed.complete(through_zeek(whole))
    same_packets(sniffed.complete(through_zeek(whole)), whole)


def test_the_same_ends_at_another_time_are_another_connection() -> None:
    early = Dialogue(sport=40001, ts=START).play("S h A D a F f A")
    late = Dialogue(sport=40001, ts=START + 5, first=90_000).play("S h A R")
    whole, _ = extract(early + late)
    assert len(whole) == 2
    sniffed = Sniffed(100)
    sniffed.receive(block(early + late))
    same_packets(sniffed.complete(through_zeek(whole)), whole)


def test_a_connection_that_began_before_the_sniffing_keeps_what_zeek_told() -> None:
    frames = Dialogue(sport=40001, ts=START).play("S h A D a F f A")
    told = through_zeek(extract(frames)[0])
    sniffed = Sniffed(100)
    sniffed.receive(block(frames[4:]))
    same_packets(sniffed.complete(told), told)
    assert sniffed.counts.by_reason == {"packets_not_sniffed": 1}


def test_packets_without_zeeks_are_as_good() -> None:
    frames = conversations()
    whole, _ = extract(frames)
    none = np.array([], np.int64)
    bare = replace(
        whole,
        packets=Packets(**{f.name: getattr(whole.packets, f.name)[none] for f in fields(Packets)}),
        packet_start=np.zeros(len(whole) + 1, np.int64),
    )
    sniffed = Sniffed(100)
    sniffed.receive(block(frames))
    same_packets(sniffed.complete(bare), whole)


def test_roles_are_zeeks() -> None:
    frames = [udp(b"ask", START, sport=40003), udp(b"answer", START + 0.1, True, 40003)]
    whole, _ = extract(frames)
    c = whole.connections
    turned = replace(
        whole,
        connections=replace(c, orig_h=c.resp_h, resp_h=c.orig_h, orig_p=c.resp_p, resp_p=c.orig_p),
    )
    sniffed = Sniffed(100)
    sniffed.receive(block(frames))
    assert sniffed.complete(turned).packets.is_orig.tolist() == [False, True]


def test_what_is_held_is_bounded_and_what_is_let_go_is_counted() -> None:
    sniffed = Sniffed(10)
    windows = []
    for k in range(10):
        frames = [udp(ts=START + 100 * k + n, sport=1000 + 10 * k + n) for n in range(10)]
        windows.append(extract(frames)[0])
        sniffed.receive(block(frames))
    sniffed.receive(block([udp(ts=START + 10_000)]))
    assert sniffed.counts.by_reason["sniffed_connections_forgotten"] == 90
    sniffed.complete(take(windows[0], np.arange(10)))
    assert sniffed.counts.by_reason["packets_not_sniffed"] == 10
    sniffed.complete(windows[-1])
    assert sniffed.counts.by_reason["packets_sniffed"] == 10


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or not Path("/sys/class/net/lo").exists(), reason="needs root")
def test_the_packets_of_a_live_connection_are_joined_with_zeeks_record_of_it() -> None:
    reader = ScapySniffer("lo")
    sniffed = Sniffed(100, reader.counts)
    sniffer = Sniffer(reader, sniffed, reader.stop, lambda _: None)
    sniffer.start()
    try:
        with socket.socket(type=socket.SOCK_DGRAM) as server, socket.socket(type=socket.SOCK_DGRAM) as client:
            server.bind(("127.0.0.1", 0))
            began = time.time()
            client.sendto(b"\0" * 64, server.getsockname())
            _, back = server.recvfrom(100)
            server.sendto(bytes(range(64)), back)
            client.recvfrom(100)
            frames = [udp(b"\0" * 64, began, sport=back[1], dport=server.getsockname()[1])]
        told = through_zeek(extract(frames)[0])
        here = np.array([[0] * 10 + [255, 255, 127, 0, 0, 1]], np.uint8)
        connections = replace(told.connections, orig_h=here, resp_h=here, end=np.array([began + 1.0]))
        told = replace(told, connections=connections)
        deadline = time.monotonic() + 30
        while not sniffed.counts.by_reason["packets_sniffed"] and time.monotonic() < deadline:
            time.sleep(0.1)
            joined = sniffed.complete(told)
    finally:
        sniffer.stop()
    assert joined.packets.is_orig.tolist() == [True, False]
    assert joined.packets.payload.tolist() == [64, 64]
