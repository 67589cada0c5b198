"""The extractor as a whole: blocks do not matter, memory is bounded, early windows come once, payload is handed on."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from handmade import (
    ACK,
    CLIENT,
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
    udp_header,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_extractors import extract as module
from feature_extractors.content.reassembly import Content, ContentLimits
from feature_extractors.content.segments import NEVER, Segments, Wanted
from feature_extractors.extract import Extractor, ExtractorLimits
from feature_extractors.observations import Connections, Packets, Stage, Windows
from feature_extractors.tracker.state import TrackerLimits


def mixture() -> list[Frame]:
    """Several connections interleaved, some over in time, fragments and a tunnel among them, with an answer to DNS."""
    frames: list[Frame] = []
    for n in range(12):
        talk = Dialogue(sport=40000 + n, ts=n * 7.0, step=0.9)
        frames += talk.play(("S h A D a d A F a f A", "S", "S r", "D a d", "S h A D L a D a")[n % 5])
        frames += [udp(b"q" * n, ts=n * 7.0 + 1, dport=53), icmp(8, ts=n * 7.0 + 2)]
        datagram = udp_header(bytes(200), 50000 + n)
        frames.append(Frame(ethernet(ipv4(datagram[:104], 17, ident=n, fragment=0x2000)), n * 7.0 + 3))
        frames.append(Frame(ethernet(ipv4(datagram[104:], 17, ident=n, fragment=13)), n * 7.0 + 4))
        frames.append(Frame(ethernet(ipv4(ipv4(udp_header(b"in"), 17), 4, "192.0.2.1")), n * 7.0 + 5))
    return sorted(frames, key=lambda frame: frame.ts)


def same(a: Windows, b: Windows) -> None:
    for f in fields(Connections):
        x, y = getattr(a.connections, f.name), getattr(b.connections, f.name)
        assert (
            list(x) == list(y) if f.name == "service" else np.array_equal(x, y, equal_nan=x.dtype.kind == "f")
        ), f.name
    for f in fields(Packets):
        x, y = getattr(a.packets, f.name), getattr(b.packets, f.name)
        assert np.array_equal(x, y, equal_nan=x.dtype.kind == "f"), f.name
    assert np.array_equal(a.packet_start, b.packet_start)
    assert np.array_equal(a.log_start, b.log_start)
    assert list(a.logs) == list(b.logs)


@pytest.mark.parametrize("options", [{}, {"early": True}, {"content": True}])
@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, len(mixture())), max_size=12))
def test_windows_do_not_depend_on_how_the_capture_is_cut(options: dict[str, Any], cuts: list[int]) -> None:
    same(extract(mixture(), **options)[0], extract(mixture(), cuts, **options)[0])


def test_windows_come_in_order_of_their_end() -> None:
    end = extract(mixture(), early=True)[0].connections.end
    assert len(end) > 40
    assert (np.diff(end) >= 0).all()


def test_uids_are_zeeks_in_form_different_from_each_other_and_the_same_again() -> None:
    first, again = (extract(mixture())[0].connections.uid for _ in range(2))
    assert (first == again).all()
    assert len(set(first.tolist())) == len(first)
    assert all(uid.startswith(b"C") and uid.isalnum() and len(uid) == 18 for uid in first.tolist())


def test_no_frames_make_no_windows() -> None:
    windows, extractor = extract([])
    assert len(windows) == 0
    assert windows.packet_start.tolist() == [0]
    assert not extractor.counts.by_reason


def test_only_the_first_32_packets_are_kept() -> None:
    windows, _ = extract([udp(bytes([n]) * (n + 1), ts=n / 100) for n in range(50)])
    assert windows.packets.payload.tolist() == list(range(1, 33))
    assert windows.connections.orig_pkts.tolist() == [50]


def test_an_early_window_comes_at_32_packets_and_the_final_one_has_the_same_uid() -> None:
    windows, _ = extract([udp(ts=n / 100) for n in range(40)], early=True)
    found = rows(windows)
    assert [(row["stage"], row["orig_pkts"]) for row in found] == [(Stage.EARLY, 32), (Stage.FINAL, 40)]
    assert len(set(windows.connections.uid.tolist())) == 1
    assert windows.packet_start.tolist() == [0, 32, 64]


def test_an_early_window_comes_after_ten_seconds_of_network_time() -> None:
    frames = [udp(ts=0.0), udp(ts=5.0), udp(ts=10.5), udp(ts=11.0)]
    found = rows(extract(frames, early=True)[0])
    assert [(row["stage"], row["orig_pkts"], row["end"]) for row in found] == [(0, 2, 10.5), (1, 4, 11.0)]


def test_a_connection_over_before_it_is_early_has_no_early_window() -> None:
    found = rows(extract([*Dialogue().play("S r"), udp(ts=30.0, sport=1)], early=True)[0])
    assert [row["stage"] for row in found] == [Stage.FINAL, Stage.FINAL]


def test_a_flood_stays_within_the_bound_and_evictions_are_counted() -> None:
    limits = ExtractorLimits(tracker=TrackerLimits(connections=100))
    frames = [
        Frame(ethernet(ipv4(tcp_header(b"", 2, sport=n % 60000 + 1), 6, f"10.{n // 60000}.0.1")), n * 1e-6)
        for n in range(5000)
    ]
    windows, extractor = extract(frames, limits=limits)
    assert len(windows) == 5000, "each connection is told, whatever its end"
    assert extractor.counts.by_reason["connection_evicted"] == 4900
    assert len(extractor._state.conns) < 400


def test_the_table_grows_with_the_connections_up_to_its_bound() -> None:
    frames = [
        Frame(ethernet(ipv4(udp_header(b"x", n % 50000 + 10_000), 17, f"10.{n // 50000}.0.1")), n * 1e-6)
        for n in range(20_000)
    ]
    windows, extractor = extract(frames)
    assert len(windows) == 20_000
    assert not extractor.counts.by_reason
    assert 20_000 <= len(extractor._state.conns) <= 65_536


def test_more_holes_than_are_waited_for_are_counted() -> None:
    limits = ExtractorLimits(tracker=TrackerLimits(blocks_per_direction=4))
    talk = Dialogue()
    frames = talk.play("S h A D a" + "L D " * 20 + "a")
    _, extractor = extract(frames, limits=limits)
    assert extractor.counts.by_reason == {"tcp_blocks_full": 1}


@pytest.mark.parametrize("name", ["connections", "blocks_per_direction", "fragments"])
def test_a_limit_of_nothing_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: found 0, expected at least 1"):
        TrackerLimits(**{name: 0})


class Recorder:
    """Stands before a `Content`, keeps what it is given, and wants no more of a connection after `enough` bytes."""

    seen: list[tuple[Any, ...]]
    times: list[float]
    enough = NEVER

    def __init__(self, limits: ContentLimits | None = None, logs: bool = False, brief: bool = False) -> None:
        self._content = Content(limits, logs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    def receive(self, segments: Segments) -> Wanted:
        Recorder.times += segments.ts.tolist()
        for i in range(len(segments)):
            begin, size = int(segments.start[i]), int(segments.captured[i])
            payload = segments.data[begin : begin + size].tobytes()
            Recorder.seen.append(
                (int(segments.connection[i]), bool(segments.is_orig[i]), int(segments.offset[i]), payload,
                 int(segments.length[i]), bool(segments.partial[i]), int(segments.resp_p[i]))
            )  # fmt: skip
        k = np.unique(segments.connection)
        bound = np.full(len(k), Recorder.enough)
        return Wanted(k, bound, bound) if Recorder.enough != NEVER else Wanted(k, bound * 0, bound * 0)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    monkeypatch.setattr(module, "Content", Recorder)
    Recorder.seen = []
    Recorder.times = []
    Recorder.enough = NEVER
    return Recorder


def test_payload_is_handed_on_with_its_stream_offset(recorder: type[Recorder]) -> None:
    talk = Dialogue()
    frames = talk.play("S h A D D K a d L D")
    extract(frames, content=True)
    assert [(s[1], s[2], s[4]) for s in recorder.seen] == [
        (True, 0, 100), (True, 100, 100), (True, 100, 100), (False, 0, 100), (True, 300, 100),
    ]  # fmt: skip
    assert all(s[3] == b"d" * 100 and s[0] == 0 and s[5] is False and s[6] == 9999 for s in recorder.seen)


def test_a_stream_met_in_its_middle_begins_at_zero_and_is_partial(recorder: type[Recorder]) -> None:
    extract(Dialogue().play("D D"), content=True)
    assert [(s[2], s[5]) for s in recorder.seen] == [(0, True), (100, True)]


def test_datagrams_and_reassembled_datagrams_are_handed_on_whole(recorder: type[Recorder]) -> None:
    datagram = udp_header(bytes(range(200)))
    frames = [
        udp(b"one", ts=0.0),
        Frame(ethernet(ipv4(datagram[:104], 17, ident=1, fragment=0x2000)), 0.1),
        Frame(ethernet(ipv4(datagram[104:], 17, ident=1, fragment=13)), 0.2),
        udp(b"two", ts=0.3),
    ]
    extract(frames, content=True)
    assert [s[3] for s in recorder.seen] == [b"one", bytes(range(200)), b"two"]
    assert {s[2] for s in recorder.seen} == {-1}


def test_a_snapped_segment_says_how_long_it_was(recorder: type[Recorder]) -> None:
    whole = ethernet(ipv4(tcp_header(b"d" * 100, ACK), 6))
    extract([Frame(whole[:-40], 0.0, 1, len(whole))], content=True)
    assert [(len(s[3]), s[4]) for s in recorder.seen] == [(60, 100)]


@pytest.mark.parametrize(("enough", "handed"), [(150, 2), (200, 1), (NEVER - 1, 1)])
def test_what_is_no_longer_wanted_is_no_longer_handed_on(
    recorder: type[Recorder], enough: int, handed: int
) -> None:
    recorder.enough = enough
    frames = Dialogue().play("S h A D D")
    extract(frames, cuts=[4], content=True)
    assert len(recorder.seen) == handed


def test_a_wish_for_a_connection_that_ended_harms_nobody(recorder: type[Recorder]) -> None:
    recorder.enough = NEVER - 1
    frames = [udp(b"a", ts=0.0), udp(b"b", ts=100.0, sport=2), udp(b"c", ts=200.0, sport=3)]
    extract(frames, cuts=[1, 2], content=True)
    assert [s[3] for s in recorder.seen] == [b"a", b"b", b"c"]


def test_both_sides_of_a_table_of_addresses_are_told_apart() -> None:
    frames = [
        Frame(ethernet(ipv4(udp_header(b"x", a, b), 17, CLIENT, SERVER)), 1.0)
        for a in range(1, 9)
        for b in range(1, 9)
    ]
    assert len(extract(frames)[0]) == 64, "the answer's key differs from the request's only by direction"


def test_counts_can_be_read_at_any_time() -> None:
    extractor = Extractor(content=False)
    assert not extractor.counts.by_reason


def served(holes: set[int], first: int = 1) -> list[Frame]:
    """Two requests, then two pages of 4,000 bytes in segments of 400, those in `holes` never captured.

    `first`: how far behind the SYN the client's payload begins; 1 as it should be.
    """
    request, page = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n", b"x" * 4000
    pages = (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(page) + page) * 2
    told: list[tuple[bool, bytes, int, int, int]] = [
        (True, b"", SYN, 0, 0), (False, b"", SYN | ACK, 0, 1), (True, 2 * request, ACK, first, 1)
    ]  # fmt: skip
    for i in range(0, len(pages), 400):
        if i // 400 not in holes:
            told.append((False, pages[i : i + 400], ACK, 1 + i, first + 2 * len(request)))
            told.append((True, b"", ACK, first + 2 * len(request), 401 + i))
    frames = []
    for i, (client, payload, flags, seq, ack) in enumerate(told):
        ports, ends = ((40000, 80), (CLIENT, SERVER)) if client else ((80, 40000), (SERVER, CLIENT))
        frames.append(Frame(ethernet(ipv4(tcp_header(payload, flags, seq, ack, *ports), 6, *ends)), 0.01 * i))
    return frames


@pytest.mark.parametrize(
    "holes", [{5}, {5, 6, 7}, {2, 5}, {9, 10}, {8, 9, 10}, {15}, {19, 20}, set(range(5, 15))]
)
def test_a_hole_in_a_body_that_is_passed_over_reads_alike_however_it_is_cut(holes: set[int]) -> None:
    frames = served(holes)
    whole = extract(frames, content=True)[0]
    assert whole.logs[0].fields["status_code"] == 200
    for size in (1, 2, 3, 5, 16):
        same(extract(frames, list(range(0, len(frames), size)), content=True)[0], whole)


def test_payload_in_the_syns_own_place_is_read_from_its_second_byte_as_zeek_does() -> None:
    assert [e.fields.get("method") for e in extract(served(set()), content=True)[0].logs] == ["GET", "GET"]
    shifted = extract(served(set(), first=0), content=True)[0].logs
    assert [e.fields.get("method") for e in shifted] == ["ET", "GET"]


def test_payload_bears_network_time_also_where_the_captures_clock_jumps_back(
    recorder: type[Recorder],
) -> None:
    extract([udp(b"a", ts=100.0), udp(b"b", ts=80.0), udp(b"c", ts=101.0)], content=True)
    assert recorder.times == [100.0, 100.0, 101.0]
