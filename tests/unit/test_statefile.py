"""What was learned of a site is put on disk whole, checked, for its owner alone; what cannot be used is set aside."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmdana_plugin import statefile
from cmdana_plugin.replay.keeping import Keeper, begun, held, restore
from cmdana_plugin.statefile import State, StateError

ABOUT = {"schema": "s", "behaviour": "b", "key": "k", "network": "n"}


def some() -> State:
    rng = np.random.default_rng(1)
    arrays: dict[str, Any] = {
        "a": rng.normal(size=(3, 4)), "b": np.array([True, False]), "c": np.zeros((0, 5), np.float32),
        "d": np.arange(7, dtype=np.uint16), "e": statefile.text_array({"x": [1, 2.5, None, "ä"]}),
    }  # fmt: skip
    return State(dict(ABOUT), arrays)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    statefile.write(path, some())
    found = statefile.read(path)
    assert found.about == {**ABOUT, "format": "1"}
    assert list(found.arrays) != []
    for name, array in some().arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
        assert found.arrays[name].dtype == array.dtype
    assert statefile.of_text(found.arrays, "e") == {"x": [1, 2.5, None, "ä"]}
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_part_is_read_alone(tmp_path: Path) -> None:
    statefile.write(tmp_path / "s", some())
    found = statefile.read(tmp_path / "s", only="a")
    assert list(found.arrays) == ["a"]
    np.testing.assert_array_equal(found.arrays["a"], some().arrays["a"])


def test_others_safetensors_read_it_too(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    statefile.write(tmp_path / "s", some())
    np.testing.assert_array_equal(load_file(tmp_path / "s")["a"], some().arrays["a"])


def test_cut_or_changed_anywhere_it_is_refused_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    statefile.write(path, some())
    whole = path.read_bytes()
    rng = np.random.default_rng(2)
    for n in rng.integers(0, len(whole), 60).tolist():
        for bad in (whole[:n], whole[:n] + bytes([whole[n] ^ 1 << int(rng.integers(8))]) + whole[n + 1 :]):
            path.write_bytes(bad)
            with pytest.raises(StateError):
                statefile.read(path)
    path.write_bytes(whole)
    path.chmod(0o640)
    with pytest.raises(StateError, match=r"others can read it \(mode 640\); chmod 600"):
        statefile.read(path)
    with pytest.raises(StateError, match="cannot be read: No such file"):
        statefile.read(tmp_path / "none")


class Judge:
    """Knows one array."""

    def __init__(self) -> None:
        self.known = np.zeros(3)

    def state(self) -> dict[str, Any]:
        return {"known": self.known}

    def restore(self, state: Any, learned: bool = True) -> None:
        self.known = statefile.column(state, "known", np.zeros(3))
        self.learned = learned


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "other"}, r"other fields \(schema\)"),
        ({"key": "other"}, r"another key.*state_key"),
        ({}, "expected"),
    ],
)
def test_a_state_of_another_kind_is_set_aside_and_not_overwritten(
    tmp_path: Path, change: dict[str, str], words: str
) -> None:
    path, said = tmp_path / "state.safetensors", []
    arrays = {"known": np.arange(3.0)} if change else {"known": np.arange(4.0)}
    statefile.write(path, State({**ABOUT, **change}, arrays))
    before = path.read_bytes()
    judge, *_ = begun(lambda: (Judge(), ABOUT), path, said.append)  # type: ignore[arg-type, return-value]
    assert judge.known.tolist() == [0, 0, 0]  # type: ignore[attr-defined]
    assert not path.exists()
    assert (tmp_path / "state.refused-1.safetensors").read_bytes() == before
    assert len(said) == 1
    with pytest.raises(StateError, match=words):
        restore(judge, path, State({**ABOUT, **change}, arrays), ABOUT)


def test_another_model_of_the_same_schema_takes_over_what_is_not_its_network_s(tmp_path: Path) -> None:
    path, said = tmp_path / "state.safetensors", []
    statefile.write(path, State({**ABOUT, "network": "older"}, {"known": np.arange(3.0)}))
    judge, *_ = begun(lambda: (Judge(), ABOUT), path, said.append)  # type: ignore[arg-type, return-value]
    assert judge.known.tolist() == [0, 1, 2]  # type: ignore[attr-defined]
    assert not judge.learned  # type: ignore[attr-defined]
    assert "another model wrote it" in said[0]


def test_nobody_else_uses_a_folder_meanwhile(tmp_path: Path) -> None:
    with (
        held(tmp_path / "known"),
        pytest.raises(StateError, match="another cmdana goes on from this state"),
        held(tmp_path / "known"),
    ):
        pass
    assert (tmp_path / "known").stat().st_mode & 0o777 == 0o700


def waited(keeper: Keeper) -> None:
    deadline = time.monotonic() + 30
    while keeper._child is not None and time.monotonic() < deadline:
        keeper.look()
        time.sleep(0.01)
    assert keeper._child is None


def test_a_snapshot_is_of_the_moment_at_which_it_was_begun(tmp_path: Path) -> None:
    path, now, known, said = tmp_path / "state", [0.0], np.zeros(100_000), []
    keeper = Keeper(path, 60.0, lambda: State(ABOUT, {"known": known}), said.append, clock=lambda: now[0])
    keeper.look()
    assert not path.exists()
    now[0] = 61.0
    keeper.look()
    known[:] = 7.0  # while the child writes
    waited(keeper)
    assert statefile.read(path).arrays["known"].max() == 0.0
    keeper.close()
    assert statefile.read(path).arrays["known"].min() == 7.0
    assert keeper.written == 2
    assert not said


def test_where_it_cannot_be_written_the_old_one_is_left_and_it_is_told_once(tmp_path: Path) -> None:
    path, now, said = tmp_path / "state", [0.0], []
    statefile.write(path, some())
    before = path.read_bytes()

    def gather() -> State:
        raise OSError(28, os.strerror(28))

    keeper = Keeper(path, 1.0, gather, said.append, clock=lambda: now[0])
    for now[0] in (2.0, 4.0, 3.0, 6.0):
        keeper.look()
        waited(keeper)
    assert path.read_bytes() == before
    assert said == [
        f"state: {path}: cannot be written: {os.strerror(28)}; the one before is left, and it is tried again"
    ]
    assert keeper.failed == 3
    keeper._gather = some
    keeper.close()
    assert said[1:] == [f"state: {path}: is written again"]


def test_a_child_that_is_killed_leaves_the_old_one(tmp_path: Path) -> None:
    path, said = tmp_path / "state", []
    statefile.write(path, some())
    before = path.read_bytes()

    def gather() -> State:
        os.kill(os.getpid(), 9)
        return some()

    keeper = Keeper(path, 0.0, gather, said.append)
    keeper.look()
    keeper._due = float("inf")
    waited(keeper)
    assert path.read_bytes() == before
    assert "ended before it was written" in said[0]
