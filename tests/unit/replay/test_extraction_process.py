"""Extraction in a process of its own: what arrives is what was sent, and every way to end is told apart."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import fields

import numpy as np
import pytest
from made_windows import office, without_logs

from cmdana_plugin.logs.row_lines import Lines
from cmdana_plugin.replay.extraction_process import ChildProcess, Part
from feature_extractors.errors import CaptureError
from feature_extractors.features.encoding import COLUMNS, Encoded, concat_encoded, encoded, take_encoded
from feature_extractors.features.schema import load_schema

Blocks = Iterator[Part]


def made_up(n: int) -> Encoded:
    return encoded(office(n), load_schema())


def test_windows_arrive_as_they_were_sent_in_order_and_whole() -> None:
    sent = [made_up(3), encoded(without_logs(office(7)), load_schema()), made_up(200), made_up(1)]

    def work() -> Blocks:
        for i, block in enumerate(sent):
            yield block, {"frames": i}, [Lines("dns", 1.0, 2.0, b"line %d\n" % i)]
        yield None, {"frames": 9, "undecoded x": 2}, []

    *blocks, last = list(ChildProcess(work))
    assert last == (None, {"frames": 9, "undecoded x": 2}, [])
    lines = [line for _, _, some in blocks for line in some]
    assert lines == [("dns", 1.0, 2.0, b"line %d\n" % i) for i in range(len(sent))]
    assert [numbers["frames"] for _, numbers, _ in blocks][-1] == 3
    found, expected = concat_encoded([b for b, _, _ in blocks if b is not None]), concat_encoded(sent)
    assert found.schema == expected.schema == load_schema().digest
    assert list(found.connections.service) == list(expected.connections.service)
    assert list(found.domain) == list(expected.domain)
    assert any(expected.domain)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
        assert getattr(found, name).dtype == getattr(expected, name).dtype, name
    assert expected.longest_name.max() > 0
    assert expected.accepted.max() > 0
    for part in ("connections", "features"):
        for field in fields(getattr(expected, part)):
            if field.name != "service":
                a, b = (
                    getattr(getattr(found, part), field.name),
                    getattr(getattr(expected, part), field.name),
                )
                assert a.dtype == b.dtype, field.name
                assert a.flags.aligned, field.name
                np.testing.assert_array_equal(a, b)


def test_what_waits_is_handed_on_together_and_never_more_than_fits() -> None:
    sizes = [3, 4000, 4000, 4000, 5, 9000, 7]

    def work() -> Blocks:
        for i, n in enumerate(sizes):
            yield take_encoded(made_up(1), np.zeros(n, np.int64)), {"frames": i}, []

    blocks = []
    for windows, numbers, _ in ChildProcess(work):
        assert windows is not None
        blocks.append((len(windows), numbers["frames"]))
        time.sleep(0.3)  # a slow reader
    assert sum(n for n, _ in blocks) == sum(sizes)
    assert len(blocks) < len(sizes)
    assert all(n <= 8192 or n == 9000 for n, _ in blocks)
    assert [last for _, last in blocks] == sorted(last for _, last in blocks)


def test_it_is_ahead_when_much_waits_and_when_nothing_more_comes() -> None:
    def work() -> Blocks:
        yield made_up(2), {}, []
        time.sleep(1.0)
        for _ in range(6):
            yield take_encoded(made_up(1), np.zeros(8000, np.int64)), {}, []

    beside = ChildProcess(work)
    blocks = iter(beside)
    next(blocks)
    assert not beside.ahead()
    next(blocks)
    deadline = time.monotonic() + 10.0
    while not beside.ahead() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert beside.ahead()
    assert sum(1 for _ in blocks) == 5
    assert beside.ahead()


def test_what_the_work_refuses_is_said_here() -> None:
    def work() -> Blocks:
        yield made_up(2), {}, []
        raise CaptureError("x.pcap: is none")

    blocks = iter(ChildProcess(work))
    next(blocks)
    with pytest.raises(CaptureError, match=r"^x\.pcap: is none$"):
        next(blocks)


def test_a_killed_process_is_no_end_of_the_capture() -> None:
    def work() -> Blocks:
        yield made_up(2), {}, []
        os.kill(os.getpid(), signal.SIGKILL)

    beside = ChildProcess(work)
    with pytest.raises(CaptureError, match=r"^extraction was killed by SIGKILL; is memory short\?$"):
        list(beside)
    beside.close()


def test_a_bug_crashes_both(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> Blocks:
        yield made_up(2), {}, []
        raise ZeroDivisionError

    with pytest.raises(RuntimeError):
        list(ChildProcess(work))
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_closing_ends_the_process_however_much_it_still_has() -> None:
    def work() -> Blocks:
        yield made_up(1), {"pid": os.getpid()}, []
        while True:
            yield made_up(500), {"pid": os.getpid()}, []

    beside = ChildProcess(work)
    _, numbers, _ = next(iter(beside))
    time.sleep(0.1)
    beside.close()
    beside.close()
    with pytest.raises(ProcessLookupError):
        os.kill(numbers["pid"], 0)


def test_closing_lets_a_reader_in_another_thread_go() -> None:
    def work() -> Blocks:
        yield made_up(1), {}, []
        time.sleep(600)

    beside, read = ChildProcess(work), []
    reader = threading.Thread(target=lambda: read.extend(beside))
    reader.start()
    deadline = time.monotonic() + 60.0
    while not read and time.monotonic() < deadline:
        time.sleep(0.01)
    beside.close()
    reader.join(60.0)
    assert not reader.is_alive()
    assert len(read) == 1


def test_few_windows_are_handed_on_though_no_more_come() -> None:
    def work() -> Blocks:
        yield made_up(1), {"at": 1}, []
        time.sleep(60)

    beside = ChildProcess(work)
    windows, numbers, _ = next(iter(beside))
    beside.close()
    assert (len(windows or ()), numbers) == (1, {"at": 1})


def test_a_stream_of_few_at_a_time_is_handed_on_in_larger_blocks() -> None:
    def work() -> Blocks:
        for k in range(40):
            yield made_up(10), {"at": k}, []
            time.sleep(0.005)

    beside = ChildProcess(work)
    sizes = [len(windows) for windows, _, _ in beside if windows is not None]
    assert sum(sizes) == 400
    assert len(sizes) < 20


def test_a_child_that_computes_without_end_is_an_error_in_words() -> None:
    def work() -> Blocks:
        yield made_up(1), {"frames": 1}, []
        while True:
            pass

    blocks = ChildProcess(work, stuck=0.2)
    with pytest.raises(CaptureError, match="without getting on, after 1 blocks"):
        list(blocks)
    with pytest.raises(ProcessLookupError):
        os.kill(blocks._child, 0)


def test_a_child_that_waits_is_let_be() -> None:
    def work() -> Blocks:
        time.sleep(1.0)
        yield made_up(1), {"frames": 1}, []

    assert len(list(ChildProcess(work, stuck=0.1))) == 1
