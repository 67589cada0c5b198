"""What every reader of captures must do alike: the same frames, times, lengths and link types from the same file."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import made_captures as make
import numpy as np
import pytest
from made_captures import Made
from shared_data import members

from feature_extractors.frames import Reader
from feature_extractors.readers.captures import ReaderName, open_capture

pytestmark = pytest.mark.slow

HAS_TSHARK = shutil.which("tshark") is not None
READERS = [
    "native",
    "scapy",
    pytest.param("pyshark", marks=pytest.mark.skipif(not HAS_TSHARK, reason="needs tshark")),
]


def frames_of(reader: Reader) -> list[Made]:
    found = []
    for block in reader:
        assert block.data.dtype == np.uint8
        for row in range(len(block)):
            start, captured = int(block.start[row]), int(block.captured[row])
            assert 0 <= start <= start + captured <= len(block.data)
            data = block.data[start : start + captured].tobytes()
            found.append(Made(data, int(block.length[row]), float(block.ts[row]), int(block.link[row])))
    return found


def two_links() -> list[Made]:
    return [frame._replace(link=1 if i % 2 else 101) for i, frame in enumerate(make.frames(6))]


def of_link(name: str) -> Callable[[], tuple[bytes, list[Made]]]:
    def made() -> tuple[bytes, list[Made]]:
        link, data = make.link_layers()[name]
        frames = [Made(data, len(data), make.START + 0.25, link)]
        return make.pcap(frames), frames

    return made


LINK_LAYERS = [
    "ethernet", "ethernet and IPv6", "IPv6 with an extension header", "VLAN", "QinQ", "Linux cooked", "Linux cooked 2",
    "raw IP", "raw IPv6", "loopback", "first fragment", "last fragment", "GRE", "VXLAN", "6in4",
]  # fmt: skip
CAPTURES: dict[str, Callable[[], tuple[bytes, list[Made]]]] = {
    "little-endian pcap": lambda: (make.pcap(make.frames(5)), make.frames(5)),
    "big-endian pcap": lambda: (make.pcap(make.frames(5), order=">"), make.frames(5)),
    "nanosecond pcap": lambda: (make.pcap(make.frames(5), nanoseconds=True), make.frames(5)),
    "big-endian nanosecond pcap": lambda: (
        make.pcap(make.frames(5), nanoseconds=True, order=">"),
        make.frames(5),
    ),
    "pcap that announces a frame check sequence": lambda: (
        make.pcap(make.frames(3), link=1 | 1 << 26 | 2 << 28),
        make.frames(3),
    ),
    "pcap in gzip": lambda: (gzip.compress(make.pcap(make.frames(5))), make.frames(5)),
    "pcapng": lambda: (make.pcapng(make.frames(5)), make.frames(5)),
    "big-endian pcapng": lambda: (make.pcapng(make.frames(5), order=">"), make.frames(5)),
    "nanosecond pcapng": lambda: (make.pcapng(make.frames(5), resolution=9), make.frames(5)),
    "pcapng in units of 2^-20 s": lambda: (make.pcapng(make.frames(1), resolution=128 + 20), make.frames(1)),
    "pcapng of two interfaces": lambda: (make.pcapng(two_links()), two_links()),
    "pcapng in gzip": lambda: (gzip.compress(make.pcapng(make.frames(5))), make.frames(5)),
    "pcap without frames": lambda: (make.pcap([]), []),
} | {f"pcap of {name}": of_link(name) for name in LINK_LAYERS}


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_finds_the_frames_that_were_put_in(
    reader: ReaderName, capture: str, tmp_path: Path
) -> None:
    content, expected = CAPTURES[capture]()
    file = tmp_path / "capture"
    file.write_bytes(content)
    opened = open_capture(file, reader)
    assert frames_of(opened) == expected
    assert opened.counts.by_reason == {}


def test_all_link_layers_are_among_the_captures() -> None:
    assert set(LINK_LAYERS) == set(make.link_layers())


@pytest.mark.parametrize("cut", [1, 30, 49 + 16 - 1])
@pytest.mark.parametrize("whole", ["pcap", "pcapng"])
@pytest.mark.parametrize("reader", READERS)
def test_a_file_cut_within_a_packet_yields_all_whole_ones_and_is_counted(
    reader: ReaderName, whole: str, cut: int, tmp_path: Path
) -> None:
    content = (make.pcap if whole == "pcap" else make.pcapng)(make.frames(4))
    file = tmp_path / "capture"
    file.write_bytes(content[:-cut])
    opened = open_capture(file, reader)
    assert frames_of(opened) == make.frames(3)
    assert opened.counts.by_reason == {"capture_truncated": 1}


@pytest.mark.parametrize("reader", READERS)
def test_a_frame_of_no_bytes_is_passed_over_and_counted(reader: ReaderName, tmp_path: Path) -> None:
    first, second = make.frames(2)
    file = tmp_path / "capture"
    file.write_bytes(make.pcap([first, Made(b"", 0, make.START, 1), second]))
    opened = open_capture(file, reader)
    assert frames_of(opened) == [first, second]
    assert opened.counts.by_reason == {"empty_frame": 1}


@pytest.mark.parametrize("reader", READERS)
def test_a_file_can_be_read_again_and_is_counted_anew(reader: ReaderName, tmp_path: Path) -> None:
    file = tmp_path / "capture"
    file.write_bytes(make.pcap(make.frames(3))[:-1])
    opened = open_capture(file, reader)
    assert frames_of(opened) == frames_of(opened) == make.frames(2)
    assert opened.counts.by_reason == {"capture_truncated": 1}


@pytest.mark.data
def test_scapy_and_our_own_reader_agree_on_real_captures(tmp_path: Path) -> None:
    compared = 0
    file = tmp_path / "capture"
    for archive in ("mixed.tar.xz", "variety.tar.xz"):
        for name, content in members(archive, lambda name: "/captures/" in f"/{name}", most=60):
            file.write_bytes(content)
            native, scapy = open_capture(file, "native"), open_capture(file, "scapy")
            assert frames_of(native) == frames_of(scapy), name
            assert native.counts == scapy.counts, name
            compared += 1
    assert compared > 60


@pytest.mark.data
@pytest.mark.skipif(not HAS_TSHARK, reason="needs tshark")
def test_tshark_and_our_own_reader_agree_on_real_captures(tmp_path: Path) -> None:
    compared = 0
    file = tmp_path / "capture"
    for name, content in members("variety.tar.xz", lambda name: name.endswith("cap"), most=40):
        file.write_bytes(content)
        expected = frames_of(native := open_capture(file, "native"))
        if len(expected) > 200 or native.counts.by_reason:
            continue
        if any(frame.link != 1 or frame.length > 65535 for frame in expected):
            continue  # a record so damaged that each program makes another time of it
        assert frames_of(open_capture(file, "pyshark")) == expected, name
        compared += 1
    assert compared >= 5
