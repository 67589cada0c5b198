"""The fuzzer finds what is planted: it keeps what reaches a branch, makes a fault small, tells a slow input."""

import sys
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "benchmarks"))

import fuzz  # noqa: E402
from marks import Covered, Marks  # noqa: E402
from mutation import MOST_PARTS, Mutator, Talk, decoded, encoded  # noqa: E402

TOKENS = [[b"HELO ", b"\r\n", b"\x00\x10"]]
TALK: Talk = (3, [(1, b"HELO a\r\n"), (0, b"\x16\x03\x01\x00\x04abcd"), (1, b"12 34\n")])


class Planted:
    """Has a branch for each of the bytes A, B, C once the one before was reached, and fails after the last."""

    name = "planted"
    batch = 16
    about = "made up"

    def __init__(self, rng: Random, slow: bytes = b"") -> None:
        self.marks = Marks()
        self.mutator = Mutator(rng, [[b"A", b"B", b"C"]], 4, 256)
        self._slow = slow
        for i in range(3):
            self.marks.new(f"here:{i}")

    def seeds(self) -> list[Talk]:
        return [(0, [(1, b"xyz")])]

    def more_seeds(self, captures: Path | None) -> list[list[Talk]]:
        return []

    def mutant(self, talk: Talk, other: Talk) -> tuple[Talk, int]:
        return self.mutator.mutant(talk, other), 1

    def run(self, talks: list[Talk]) -> None:
        for _, parts in talks:
            said = b"".join(data for _, data in parts)
            for i, end in enumerate((b"A", b"AB", b"ABC")):
                if end in said:
                    self.marks.bytes[i] = 1
            assert b"ABCA" not in said, "planted"
            if self._slow and self._slow in said:
                begun = time.thread_time()
                while time.thread_time() - begun < 2 * fuzz.BOUND:
                    pass


def worker(tmp_path: Path, slow: bytes = b"") -> fuzz.Worker:
    rng = Random(7)
    return fuzz.Worker(Planted(rng, slow), rng, tmp_path, fuzz.BlackBox(tmp_path / "box", 1 << 20))


def test_a_planted_fault_is_reached_by_steps_and_made_small(tmp_path: Path) -> None:
    found = worker(tmp_path)
    found.begin()
    while not found.tally.faults and found.tally.inputs < 200_000:
        found.batch()
    assert found.tally.faults
    assert [b"".join(d for _, d in parts) for _, parts in found.corpus.talks][-1].count(b"ABC")
    _, parts = decoded(bytes.fromhex((tmp_path / "planted-fault-1.txt").read_text().split()[0]))
    assert b"".join(data for _, data in parts) == b"ABCA"


def test_an_input_that_takes_too_long_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "BOUND", 0.004)
    found = worker(tmp_path, slow=b"A")
    found.begin()
    while not found.tally.kinds and found.tally.inputs < 20_000:
        found.batch()
    assert set(found.tally.kinds) == {"slow"}
    assert found.tally.slowest >= 2 * fuzz.BOUND
    assert b"A" in bytes.fromhex((tmp_path / "planted-fault-1.txt").read_text().split()[0])


def test_what_was_read_last_outlives_the_process(tmp_path: Path) -> None:
    fuzz.BlackBox(tmp_path / "box", 1 << 16).write(5, [TALK])
    box = fuzz.BlackBox(tmp_path / "box", 1 << 16)
    assert box.number() == 5
    assert box.talks() == [TALK]


def test_mutants_follow_from_the_seed_and_are_kept_as_they_were() -> None:
    def some() -> list[Talk]:
        mutator = Mutator(Random(3), TOKENS, 8, 64)
        return [mutator.mutant(TALK, TALK) for _ in range(2000)]

    made = some()
    assert made == some()
    assert len({encoded(talk) for talk in made}) > 1000
    assert all(decoded(encoded(talk)) == talk for talk in made)
    assert all(len(data) <= 64 or len(parts) <= MOST_PARTS for _, parts in made for _, data in parts)


def test_a_length_before_a_change_may_still_tell_how_much_follows() -> None:
    record = (0, [(1, b"\x16\x03\x01\x00\x04abcd")])
    mutator = Mutator(Random(3), TOKENS, 1, 256)
    grown = [
        data
        for _, parts in (mutator.mutant(record, record) for _ in range(5000))
        for _, data in parts
        if data.startswith(b"\x16\x03\x01") and len(data) > 9
    ]
    mended = [data for data in grown if int.from_bytes(data[3:5], "big") == len(data) - 5]
    assert len(mended) > len(grown) / 25


@pytest.mark.parametrize("said", ["a", "ab", "b", ""])
def test_marks_tell_the_branches_taken_and_change_nothing(said: str, tmp_path: Path) -> None:
    source = tmp_path / "sample.py"
    source.write_text(
        '"""A sample."""\n\n\ndef f(x: str) -> int:\n    """Doc."""\n    if "a" in x and "b" in x:\n        return 2\n'
        '    return 1 if x and ("a" in x or "b" in x) else 0\n'
    )
    marks = Marks()
    finder = Covered(marks)
    try:
        finder._paths["covered.sample"] = source
        module = __import__("covered.sample").sample
    finally:
        sys.meta_path.remove(finder)
        sys.modules.pop("covered.sample", None)
    marks.clear()
    assert module.f(said) == {"a": 1, "ab": 2, "b": 1, "": 0}[said]
    taken = {marks.lines[i] for i in marks.taken()}
    assert "sample.py:4" in taken
    assert ("sample.py:6" in taken) == (said != "") or said == ""
    assert module.f.__doc__ == "Doc."
    first = len(marks.taken())
    marks.learn()
    assert not marks.fresh()
    module.f("ab")
    assert marks.fresh() == (said != "ab")
    assert first >= 2


def test_compiled_loops_leave_marks_and_take_no_index_below_0(tmp_path: Path) -> None:
    source = tmp_path / "compiled_sample.py"
    source.write_text(
        "from numba import njit\n\n\ndef plain(x):\n    return x\n\n\n@njit\ndef f(data, i):\n"
        "    if i > 2 or data[i] == 7:\n        return -1\n    return data[i]\n"
    )
    marks = Marks()
    finder = Covered(marks)
    name = "feature_extractors.compiled_sample"
    try:
        finder._paths[name] = source
        module = __import__(name).compiled_sample
    finally:
        sys.meta_path.remove(finder)
        sys.modules.pop(name, None)
    data = np.array([5, 6, 7, 8], np.uint8)
    assert (module.plain(3), module.f(data, 1)) == (3, 6)
    taken = {marks.lines[i] for i in marks.taken()}
    assert taken == {"compiled_sample.py:9", "compiled_sample.py:10"}
    marks.learn()
    marks.clear()
    assert module.f(data, 0) == 5
    assert not marks.fresh()
    assert module.f(data, 3) == -1
    assert marks.fresh()
    with pytest.raises(IndexError, match="below 0"):
        module.f(data, -1)
