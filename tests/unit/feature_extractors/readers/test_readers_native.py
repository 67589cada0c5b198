"""Our own reader of pcap and pcapng: every form of the formats, hostile lengths, pipes, compression, and refusals."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import made_captures as make
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_captures import START, Made

from feature_extractors.errors import CaptureError
from feature_extractors.frames import Reader
from feature_extractors.readers import native
from feature_extractors.readers.captures import find_captures, open_capture
from feature_extractors.readers.native import MAX_FRAME, NativeReader


def frames_of(reader: Reader) -> list[Made]:
    found = []
    for block in reader:
        for row in range(len(block)):
            start, captured, length = int(block.start[row]), int(block.captured[row]), int(block.length[row])
            assert 0 <= start < start + captured <= len(block.data)
            assert captured <= length
            data = block.data[start : start + captured].tobytes()
            found.append(Made(data, length, float(block.ts[row]), int(block.link[row])))
    return found


def read(content: bytes, folder: Path) -> tuple[list[Made], dict[str, int]]:
    file = folder / "capture"
    file.write_bytes(content)
    reader = NativeReader(file)
    return frames_of(reader), dict(reader.counts.by_reason)


def one(data: bytes = b"abcd", length: int | None = None, ts: float = float(START), link: int = 1) -> Made:
    return Made(data, len(data) if length is None else length, ts, link)


HEADER = make.pcap([])
REC = make.record(b"abcd", 4)
EPB = make.enhanced(b"abcd", 4, START * 1_000_000)
SECTION = make.section() + make.interface(1)


def swapped_lengths(version: tuple[int, int]) -> bytes:
    return make.pcap([], version=version) + struct.pack("<IIII", START, 0, 60, 4) + b"abcd"


PCAPS: dict[str, tuple[bytes, list[Made], dict[str, int]]] = {
    "Kuznetzov's longer record header": (make.pcap(make.frames(3), kuznetzov=True), make.frames(3), {}),
    "lengths swapped before 2.3": (swapped_lengths((2, 2)), [one(length=60)], {}),
    "lengths swapped in 2.3 where they must be": (swapped_lengths((2, 3)), [one(length=60)], {}),
    "DG/UX": (swapped_lengths((543, 0)), [one(length=60)], {}),
    "captured more than the snapshot length": (
        make.pcap([], snaplen=3) + REC, [one(b"abc", 4)], {"captured_over_snaplen": 1},
    ),
    "no snapshot length": (make.pcap([one()], snaplen=0), [one()], {}),
    "captured more than was on the wire": (HEADER + make.record(b"abcd", 2), [one()], {"captured_over_length": 1}),
    "no bytes": (HEADER + make.record(b"", 0) + make.record(b"ab", 0) + REC, [one()], {"empty_frame": 2}),
    "a length that no record has": (
        HEADER + REC + make.record(b"abcd", 4, captured=MAX_FRAME + 1) + REC, [one()], {"bad_record_length": 1},
    ),
    "the longest record": (HEADER + make.record(bytes(MAX_FRAME), MAX_FRAME), [one(bytes(MAX_FRAME))], {}),
    "microseconds below zero, as libpcap has them": (
        HEADER + make.record(b"abcd", 4, fraction=-250_000), [one(ts=START - 0.25)], {},
    ),
    "microseconds of more than a second": (
        HEADER + make.record(b"abcd", 4, fraction=1_500_000), [one(ts=START + 1.5)], {},
    ),
    "seconds after 2038": (HEADER + make.record(b"abcd", 4, 0xF0000000), [one(ts=float(0xF0000000))], {}),
    "wire length beyond 31 bits": (
        HEADER + make.record(b"abcd", 0xFFFFFFFF), [one(length=0x7FFFFFFF)], {},
    ),
    "cut in a record header": (HEADER + REC + REC[:9], [one()], {"capture_truncated": 1}),
}  # fmt: skip


def of_resolution(value: bytes, ticks: int, offset: int | None = None) -> bytes:
    options = make.option(9, value)
    if offset is not None:
        options += make.option(14, struct.pack("<q", offset))
    return (
        make.section() + make.interface(1, options + make.option(0, b"")) + make.enhanced(b"abcd", 4, ticks)
    )


PCAPNGS: dict[str, tuple[bytes, list[Made], dict[str, int]]] = {
    "sections of both byte orders": (
        make.pcapng(make.frames(2)) + make.pcapng(make.frames(3, link=101), order=">"),
        make.frames(2) + make.frames(3, link=101), {},
    ),
    "a section forgets the interfaces of the last": (
        SECTION + EPB + make.section() + EPB, [one()], {"unknown_interface": 1},
    ),
    "milliseconds": (of_resolution(b"\x03", START * 1000 + 250), [one(ts=START + 0.25)], {}),
    "nanoseconds are cut to microseconds": (
        of_resolution(b"\x09", START * 10**9 + 250_000_999), [one(ts=START + 0.25)], {},
    ),
    "seconds": (of_resolution(b"\x00", START), [one()], {}),
    "units of 2^-10 s": (of_resolution(b"\x8a", (START << 10) + 256), [one(ts=START + 0.25)], {}),
    "units of 2^-32 s": (of_resolution(b"\xa0", (START << 32) + (1 << 30)), [one(ts=START + 0.25)], {}),
    "units of 2^-63 s": (of_resolution(b"\xbf", 3 << 61), [one(ts=0.75)], {}),
    "a resolution too fine for 64 bits": (
        of_resolution(b"\x14", 1), [], {"bad_interface": 1, "unknown_interface": 1},
    ),
    "a time offset": (of_resolution(b"\x06", 250_000, START), [one(ts=START + 0.25)], {}),
    "an absurd time offset": (
        of_resolution(b"\x06", 0, 1 << 62), [], {"bad_interface": 1, "unknown_interface": 1},
    ),
    "an option longer than its block": (
        make.section() + make.interface(1, struct.pack("<HH", 9, 400)) + EPB, [one()], {},
    ),
    "an interface description too short": (
        make.section() + make.block(1, b"\1\0\0\0") + EPB, [], {"bad_interface": 1, "unknown_interface": 1},
    ),
    "a frame of an interface that was never described": (
        SECTION + make.enhanced(b"abcd", 4, 0, number=7) + EPB, [one()], {"unknown_interface": 1},
    ),
    "a packet without time": (SECTION + make.simple_packet(b"abcd", 4), [one(ts=0.0)], {}),
    "the old packet block": (SECTION + make.old_packet(b"abcd", 9, START * 1_000_000), [one(length=9)], {}),
    "blocks of unknown types": (SECTION + make.block(0xBAD, b"x" * 99) + EPB + make.block(5, b""), [one()], {}),
    "a block that says it holds more than it does": (
        SECTION + make.enhanced(b"abcd", 4, 0, captured=400) + EPB, [one()], {"bad_packet_block": 1},
    ),
    "a packet block without room for its head": (
        SECTION + make.block(6, b"1234") + make.block(3, b"") + EPB, [one()], {"bad_packet_block": 2},
    ),
    "a block shorter than any": (SECTION + EPB + make.block(6, b"", size=8) + EPB, [one()], {"bad_record_length": 1}),
    "a block length that is no multiple of 4": (
        SECTION + EPB + make.block(7, b"1234", size=17), [one()], {"bad_record_length": 1},
    ),
    "a block of gigabytes": (SECTION + EPB + make.block(7, b"", size=0xFFFFFFFC), [one()], {"bad_record_length": 1}),
    "two lengths of one block that differ": (
        SECTION + EPB + make.block(7, b"1234", trailer=20), [one()], {"bad_record_length": 1},
    ),
    "a later section of another version": (
        SECTION + EPB + make.section(major=2) + EPB, [one()], {"bad_section": 1},
    ),
    "a later section of no byte order": (
        SECTION + EPB + make.block(0x0A0D0D0A, bytes(16)), [one()], {"bad_section": 1},
    ),
    "a section of 28 bytes cut short": (SECTION + EPB + make.section()[:20], [one()], {"capture_truncated": 1}),
    "captured more than the snapshot length": (
        make.section() + make.interface(1, snaplen=3) + EPB, [one(b"abc", 4)], {"captured_over_snaplen": 1},
    ),
    "more interfaces than we keep": (
        make.section() + make.interface(1) * 4098 + EPB, [one()], {"bad_interface": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PCAPS)
def test_a_pcap_is_read_as_libpcap_reads_it(name: str, tmp_path: Path) -> None:
    content, expected, reasons = PCAPS[name]
    assert read(content, tmp_path) == (expected, reasons)


@pytest.mark.parametrize("name", PCAPNGS)
def test_a_pcapng_is_read_block_by_block(name: str, tmp_path: Path) -> None:
    content, expected, reasons = PCAPNGS[name]
    assert read(content, tmp_path) == (expected, reasons)


@pytest.mark.parametrize("size", [64, 65, 100, 127, 1000])
@pytest.mark.parametrize("name", ["pcap", "pcapng", "pcapng of two orders"])
def test_where_a_read_ends_changes_nothing(
    name: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make.frames(60)
    content = {
        "pcap": make.pcap(made),
        "pcapng": make.pcapng(made),
        "pcapng of two orders": make.pcapng(made[:30]) + make.pcapng(made[30:], order=">"),
    }[name]
    monkeypatch.setattr(native.NativeReader.__init__, "__defaults__", (size,))
    assert read(content, tmp_path) == (made, {})


def test_memory_does_not_grow_with_the_capture(tmp_path: Path) -> None:
    file = tmp_path / "capture"
    frame = make.record(bytes(1400), 1400)
    with file.open("wb") as out:
        out.write(HEADER)
        for _ in range(48):
            out.write(frame * 1000)
    reader = NativeReader(file)
    tracemalloc.start()
    frames = sum(len(block) for block in reader)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert frames == 48_000
    assert peak < file.stat().st_size / 3


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "gzip of several members": lambda b: gzip.compress(b[:100]) + gzip.compress(b[100:]),
    "gzip padded with zeros": lambda b: gzip.compress(b) + bytes(1000),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.mark.parametrize("packed", PACKED)
def test_a_compressed_capture_is_read_as_it_is(packed: str, tmp_path: Path) -> None:
    assert read(PACKED[packed](make.pcap(make.frames(50))), tmp_path) == (make.frames(50), {})


@pytest.mark.slow
@pytest.mark.parametrize("packed", ["gzip", "bzip2", "xz"])
def test_a_compressed_capture_cut_short_or_damaged_yields_what_came_before(
    packed: str, tmp_path: Path
) -> None:
    whole = make.frames(3000)
    content = PACKED[packed](make.pcap(whole))
    frames, reasons = read(content[: len(content) - 12], tmp_path)
    assert frames == whole[: len(frames)]
    assert "compressed_stream_truncated" in reasons
    middle = len(content) // 2
    frames, reasons = read(content[:middle] + b"\xff" * 64 + content[middle + 64 :], tmp_path)
    assert frames == whole[: len(frames)]
    assert "compressed_stream_damaged" in reasons


def test_a_pipe_hands_on_what_has_arrived_before_more_comes() -> None:
    out, into = os.pipe()
    try:
        os.write(into, make.pcap(make.frames(2)))
        blocks = iter(NativeReader(f"/dev/fd/{out}"))
        assert (
            len(next(blocks)) == 2
        )  # the writer has closed nothing: waiting for a full block would never end
        os.write(into, REC + REC[:5])
        assert len(next(blocks)) == 1
        os.write(into, REC[5:])
        assert len(next(blocks)) == 1
        os.close(into)
        into = -1
        assert list(blocks) == []
    finally:
        os.close(out)
        if into >= 0:
            os.close(into)


def test_a_pipe_comes_once_only() -> None:
    out, into = os.pipe()
    os.write(into, make.pcap(make.frames(2)))
    os.close(into)
    reader = NativeReader(f"/dev/fd/{out}")
    assert frames_of(reader) == make.frames(2)
    with pytest.raises(RuntimeError, match="comes once only"):
        iter(reader)
    os.close(out)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_standard_input_is_a_capture_too(pack: Callable[[bytes], bytes]) -> None:
    program = "import sys\nfrom feature_extractors.readers import open_capture\nprint(sum(map(len, open_capture('-'))))"
    content = pack(make.pcapng(make.frames(7)))
    ran = subprocess.run([sys.executable, "-c", program], input=content, capture_output=True, check=True)
    assert ran.stdout == b"7\n"


REFUSED = {
    "empty": (b"", ["is empty", "expected a capture"]),
    "gzip of nothing": (gzip.compress(b""), ["nothing in it", "expected pcap, pcapng"]),
    "a log of Zeek": (b"#separator \\x09\n", ["no capture", "a Zeek log? `cmdana hunt` judges those"]),
    "text": (b"hello world", ["no capture", "68656c6c", "expected pcap, pcapng"]),
    "zstd": (b"\x28\xb5\x2f\xfd1234", ["zstd", "zstd -dc"]),
    "two bytes": (b"\xd4\xc3", ["no capture", "d4c3"]),
    "pcap cut in its header": (HEADER[:10], ["ends within its pcap header", "found 10 bytes, expected 24"]),
    "pcap of version 1.0": (make.pcap([], version=(1, 0)), ["pcap of version 1.0", "expected 2.0 to 2.4"]),
    "pcap of version 2.9": (make.pcap([], version=(2, 9)), ["pcap of version 2.9"]),
    "pcapng cut in its header": (make.section()[:10], ["ends within its pcapng header", "found 10 bytes"]),
    "pcapng of no byte order": (make.block(0x0A0D0D0A, bytes(16)), ["no pcapng", "00000000", "1a2b3c4d"]),
    "pcapng of version 2": (make.section(major=2), ["pcapng of version 2.0", "expected 1.x"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_capture_is_refused_in_one_line_that_says_what_it_is(name: str, tmp_path: Path) -> None:
    content, words = REFUSED[name]
    file = tmp_path / "capture.pcap"
    file.write_bytes(content)
    with pytest.raises(CaptureError) as error:
        open_capture(file, "native")
    message = str(error.value)
    assert str(file) in message
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_what_cannot_be_opened_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"nowhere: No such file"):
        open_capture(tmp_path / "nowhere")
    with pytest.raises(CaptureError, match=r"is a directory, expected a file"):
        open_capture(tmp_path)
    closed = tmp_path / "closed"
    closed.write_bytes(HEADER)
    closed.chmod(0)
    if not os.access(closed, os.R_OK):  # root may read everything
        with pytest.raises(CaptureError, match=r"closed: Permission denied"):
            open_capture(closed)


def test_captures_are_found_by_what_they_are_and_in_order(tmp_path: Path) -> None:
    below = tmp_path / "b" / "deep"
    below.mkdir(parents=True)
    (tmp_path / "b" / "z.bin").write_bytes(make.pcap([]))
    (below / "a").write_bytes(gzip.compress(make.pcapng([])))
    (tmp_path / "a.pcap").write_bytes(b"not what it is called")
    (tmp_path / "empty.pcap").write_bytes(b"")
    (tmp_path / "c.snoop").write_bytes(b"snoop\0\0\0\0\0\0\2")
    named = tmp_path / "a.pcap"
    expected = [below / "a", tmp_path / "b" / "z.bin", tmp_path / "c.snoop"]
    assert find_captures([tmp_path]) == expected
    assert find_captures([named, "-", tmp_path / "b"]) == [named, Path("-"), *expected[:2]]
    (tmp_path / "none").mkdir()
    with pytest.raises(CaptureError, match="no capture below the directory"):
        find_captures([tmp_path / "none"])
    with pytest.raises(CaptureError, match="nowhere: no such file or directory"):
        find_captures([tmp_path / "nowhere"])


@pytest.mark.skipif(shutil.which("editcap") is None, reason="needs editcap to make a snoop file")
def test_a_format_we_do_not_know_goes_to_tshark(tmp_path: Path) -> None:
    link, data = make.link_layers()["ethernet"]
    made = [Made(data, len(data), START + 0.25, link)]
    (tmp_path / "capture").write_bytes(make.pcap(made))
    subprocess.run(["editcap", "-F", "snoop", tmp_path / "capture", tmp_path / "snoop"], check=True)
    assert frames_of(open_capture(tmp_path / "snoop")) == made


def test_without_tshark_the_refusal_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    file = tmp_path / "trace"
    file.write_bytes(b"snoop\0\0\0" + bytes(40))
    for reader in ("auto", "pyshark"):
        with pytest.raises(CaptureError, match="apt install tshark") as error:
            open_capture(file, reader)  # type: ignore[arg-type]
        assert str(file) in str(error.value)


@pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark")
def test_tshark_has_ended_before_the_first_of_its_frames_is_read(tmp_path: Path) -> None:
    file = tmp_path / "capture"
    file.write_bytes(make.pcap(make.frames(400) * 50))
    frames = iter(open_capture(file, "pyshark"))
    assert not _children()
    next(frames)
    assert not _children()


@pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark")
def test_tshark_is_killed_when_its_frames_cannot_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "capture"
    file.write_bytes(make.pcap(make.frames(400) * 50))
    monkeypatch.setattr("tempfile.NamedTemporaryFile", lambda **_: open("/dev/full", "r+b", buffering=0))
    with pytest.raises(CaptureError, match=r"cannot keep the frames of .* No space left"):
        open_capture(file, "pyshark")
    assert not _children()


def _children() -> list[str]:
    """Names of this process's living children that are tshark's."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        state, parent = rest.split()[:2]
        if int(parent) == os.getpid() and state != "Z" and name in ("tshark", "dumpcap"):
            found.append(name)
    return found


FUZZ = settings(
    max_examples=int(os.environ.get("CMDANA_FUZZ_EXAMPLES", "200")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
MAGICS = [
    HEADER,
    make.pcap([], order=">", nanoseconds=True),
    make.pcap([], kuznetzov=True),
    make.section(),
    SECTION,
]
WHOLE = [
    make.pcap(make.frames(4)),
    make.pcap(make.frames(4), order=">", nanoseconds=True),
    make.pcapng(make.frames(4)),
    make.pcapng(make.frames(3), order=">", resolution=9) + SECTION + EPB,
    SECTION + make.simple_packet(b"abcd", 4) + make.old_packet(b"abcd", 4, 1) + make.block(7, b"1234"),
    gzip.compress(make.pcap(make.frames(4))),
]


def check_anything(content: bytes, folder: Path) -> None:
    try:
        frames, _ = read(content, folder)
    except CaptureError:
        return
    assert sum(len(frame.data) for frame in frames) <= max(len(content), 1 << 20)
    assert all(np.isfinite(frame.ts) for frame in frames)


@FUZZ
@given(st.sampled_from(MAGICS), st.binary(max_size=300))
def test_arbitrary_bytes_give_no_frame_outside_the_file(tmp_path: Path, magic: bytes, rest: bytes) -> None:
    check_anything(magic + rest, tmp_path)


@FUZZ
@given(
    st.sampled_from(WHOLE),
    st.lists(
        st.tuples(st.integers(0, 400), st.sampled_from([0, 1, 4, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)),
        max_size=8,
    ),
    st.integers(0, 400),
)
def test_a_mutated_capture_gives_no_frame_outside_the_file(
    tmp_path: Path, whole: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    content = bytearray(whole)
    for at, value in changes:
        content[at % len(content)] = value
    check_anything(bytes(content[: max(len(content) - cut, 1)]), tmp_path)
