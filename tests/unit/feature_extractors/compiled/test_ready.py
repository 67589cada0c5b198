"""What was compiled is loaded without numba: of the sources as they are, for the very types it was compiled for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numba import typeof

from cmdana_plugin import compile_cache
from feature_extractors.compiled import code_digest, keeping, ready

ROOT = Path(ready.__file__).resolve().parents[2]
HISTORY = "cmdana_plugin.detector.history"
RECORD = np.dtype([("a", "<u2"), ("b", "?"), ("c", "<i8")])
SMALL = ROOT / "cmdana_plugin" / "models" / "reference.pcap.gz"
_TOLD = """
import sys
from cmdana_plugin.cli.app import main
sys.argv = ["cmdana", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
from feature_extractors.compiled import ready
print("LACKED", *ready.missed_functions, "numba" * ("numba" in sys.modules), file=sys.stderr)
"""


class Pair(NamedTuple):
    one: Any
    other: Any


def readonly(array: Any) -> Any:
    array.setflags(write=False)
    return array


@pytest.mark.parametrize(
    "value",
    [
        0, -1, 2**63 - 1, -(2**63), 2**63, 1.5, True, np.uint64(3), np.int32(3), np.float32(2), np.bool_(True),
        np.float64(2), np.zeros(3), np.zeros((3, 4), np.float32), np.zeros((3, 4), order="F"), np.zeros((4, 4))[::2],
        np.zeros(8)[::2], np.zeros(0, np.int8), np.zeros((2, 3, 4))[:, 1:], readonly(np.zeros(3, np.uint8)),
        np.frombuffer(b"abc", np.uint8), np.zeros(4, RECORD), readonly(np.zeros(4, RECORD)), (1, 2.0),
        Pair(np.zeros(3), Pair(1, np.zeros((1, 2), np.int16))), np.zeros(3, np.bool_), np.zeros((1, 1)),
    ],
    ids=lambda v: f"{type(v).__name__} {getattr(v, 'dtype', v)}",
)  # fmt: skip
def test_arguments_are_told_apart_as_numba_does(value: Any) -> None:
    assert ready.kinds((value,)) == ready._kinds_of([keeping._spelled(typeof(value))])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.zeros(3), np.zeros(3, np.float32)),
        (np.zeros(3), np.zeros(6)[::2]),
        (np.zeros(3), readonly(np.zeros(3))),
        (np.zeros(3), np.zeros((3, 1))),
        (1, 1.0),
        (1, True),
        (1, 2**63),
        (np.zeros(1, RECORD), np.zeros(1, np.dtype([("a", "<u2"), ("b", "?"), ("c", "<f8")]))),
        (Pair(1, 2), (1, 2)),
    ],
)
def test_code_for_one_type_is_not_called_with_another(one: Any, other: Any) -> None:
    assert ready.kinds((one,)) != ready.kinds((other,))


@pytest.mark.parametrize(
    "dtype",
    [
        np.dtype("<f8"), np.dtype("S21"), RECORD, np.dtype([("x", "<i4", (3,)), ("y", RECORD)]),
        np.dtype({"names": ["a", "b"], "formats": ["<i4", "<u8"], "offsets": [4, 8], "itemsize": 24}),
    ],
)  # fmt: skip
def test_a_type_of_elements_is_put_in_words_and_back(dtype: np.dtype[Any]) -> None:
    assert ready.dtype_of(ready.words_of(dtype)) == dtype


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where nothing has been kept as yet."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(ready, "SHIPPED", tmp_path / "shipped" / "none")
    ready.forget()
    yield tmp_path
    ready.forget()


def kept_in(folder: Path, **changed: Any) -> None:
    """Keeps one function of which there is no code."""
    head = {
        "made_by": ready.made_by(), "triple": "", "features": [], "values": {"seven": ("of seven", 7)},
        "functions": {f"{HISTORY}:_scan": (code_digest(HISTORY), [])},
    }  # fmt: skip
    from llvmlite import binding

    head |= {"triple": binding.get_process_triple(), **changed}
    (folder / f"{ready.NAME}.kept").write_bytes(ready.packed(head, b""))
    ready.forget()


def test_what_is_kept_of_the_sources_as_they_are_is_found(folder: Path) -> None:
    assert not ready.there()
    kept_in(folder)
    assert (compile_cache.kept(), compile_cache.kept("history"), compile_cache.kept("tracker")) == (1, 1, 0)


@pytest.mark.parametrize(
    "changed",
    [
        {"functions": {f"{HISTORY}:_scan": ("0" * 32, [])}},
        {"made_by": "another numba"},
        {"features": ["not-of-this-processor"]},
        {"triple": "vax-dec-vms"},
    ],
    ids=lambda c: next(iter(c)),
)
def test_what_was_kept_for_others_is_not(changed: dict[str, Any], folder: Path) -> None:
    kept_in(folder, **changed)
    assert compile_cache.kept() == 0


@pytest.mark.parametrize("content", [b"", b"nonsense", ready._MAGIC, ready._MAGIC + b"\xff" * 20])
def test_a_file_that_is_damaged_is_as_none(content: bytes, folder: Path) -> None:
    (folder / f"{ready.NAME}.kept").write_bytes(content)
    ready.forget()
    assert not ready.there()
    assert ready.remembered("seven", "of seven", lambda: 8) == 8


def test_code_is_of_the_file_that_was_opened_though_another_has_its_name_by_now(tmp_path: Path) -> None:
    path = tmp_path / "functions"
    head = {"values": {}, "functions": {}}
    path.write_bytes(ready.packed(head, b"..the code"))
    opened = ready._File(path)
    keeping._replace(
        path, ready.packed({**head, "made_by": "an update"}, b"what a process at work knows nothing of")
    )
    assert opened.code(ready.Overload(2, 8, "", "", [])) == b"the code"


def test_a_value_is_remembered_of_what_it_was_made_of_alone(folder: Path) -> None:
    kept_in(folder)
    assert ready.remembered("seven", "of seven", lambda: 8) == 7
    assert ready.remembered("seven", "of another seven", lambda: 8) == 8


def test_what_another_process_remembered_stays_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    for values in ({"one": ("a", 1), "two": ("b", 2)}, {"two": ("c", 3)}):
        monkeypatch.setattr(ready, "values", values)
        ready.forget()
        keeping.keep()
    found = ready.kept_values()
    ready.forget()
    assert {name: found[name] for name in ("one", "two")} == {"one": ("a", 1), "two": ("c", 3)}


@pytest.mark.slow
@pytest.mark.long
def test_nothing_is_compiled_any_more_after_everything_was(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "NUMBA_DEBUG_CACHE": "1"}

    def done(*words: str) -> tuple[str, str]:
        ran = subprocess.run(
            [sys.executable, "-c", _TOLD, *words],
            capture_output=True, text=True, check=True, cwd=ROOT, env=environment, timeout=900,
        )  # fmt: skip
        return ran.stdout, ran.stderr

    def compiled() -> dict[str, int]:
        """What numba has made so far, and when."""
        return {str(p): p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.nbc")}

    done("doctor", "--compile")
    first = compiled()
    assert len(first) > 40
    done("doctor", "--compile")
    assert compiled() == first
    out = str(tmp_path / "out")
    for words in (
        ("replay", str(SMALL), "--out", out),
        ("replay", str(SMALL), "--out", f"{out}-all", "--logs", "all"),
        ("convert", str(SMALL), "--out", f"{out}-logs"),
        ("hunt", f"{out}-all", "--out", f"{out}-hunted"),
        ("alerts", out),
        ("incidents", out),
        ("report", out, "--out", str(tmp_path / "report.html")),
    ):
        said, lacked = done(*words)
        assert lacked.splitlines()[-1].split() == ["LACKED"], words
        assert "[cache]" not in said, words
