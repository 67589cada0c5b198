"""What was compiled or computed is of the code as it is now: a constant changed anywhere that it reads is seen."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

import pytest
from numba.core.dispatcher import Dispatcher

from cmdana_plugin.evaluation import cache
from cmdana_plugin.evaluation import protocol as evaluation
from cmdana_plugin.evaluation.protocol import Store, Trial
from cmdana_plugin.evaluation.tables import flat_tables as tabular
from feature_extractors.compiled import mypyc_build as ahead
from feature_extractors.compiled import source_digest as module
from feature_extractors.compiled import wake
from feature_extractors.compiled.source_digest import code_digest, sources

ROOT = Path(__file__).resolve().parents[4]
PACKAGES = ("cmdana_plugin", "feature_extractors")
TRACKER = "feature_extractors.tracker.tracker"


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
COMPILED = [
    n for n, p in MODULES.items() if any(f"\n@{d}" in p.read_text() for d in ("entry\n", "compiled_for("))
]


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both packages, to be changed."""
    there = tmp_path_factory.mktemp("packages")
    left_out = shutil.ignore_patterns("__pycache__", "models", *(f"*{s}" for s in EXTENSION_SUFFIXES))
    for package in PACKAGES:
        shutil.copytree(ROOT / package, there / package, ignore=left_out)
    return there


@pytest.fixture
def changed(copied: Path) -> Iterator[Callable[[str, str], ModuleType]]:
    """Puts something at the end of a file of the copy, and gives `code_digest` as a new process there has it."""
    before: dict[Path, str] = {}

    def change(file: str, more: str) -> ModuleType:
        path = copied / file
        before.setdefault(path, path.read_text())
        path.write_text(before[path] + more)
        place = copied / "feature_extractors" / "compiled" / "source_digest.py"
        spec = importlib.util.spec_from_file_location("feature_extractors.compiled.source_digest", place)
        assert spec is not None
        assert spec.loader is not None
        fresh = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(fresh)
        return fresh

    yield change
    for path, text in before.items():
        path.write_text(text)


def named_by_the_face(origin: str) -> dict[str, str]:
    """The module of each name that the stub beside a room's `__init__` offers."""
    stub = MODULES[origin].with_suffix(".pyi") if origin in MODULES else ROOT
    if not stub.is_file():
        return {}
    return {
        alias.name: f"{origin}.{node.module or alias.name}"
        for node in ast.walk(ast.parse(stub.read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def imported(name: str) -> set[str]:
    """Our modules that a module names in an import statement, by Python's own parser."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            face = named_by_the_face(origin)
            inner = {face.get(alias.name, f"{origin}.{alias.name}") for alias in node.names}
            found |= inner if inner <= MODULES.keys() else inner | {origin}
    return found & MODULES.keys()


def test_a_module_brings_along_all_that_it_imports() -> None:
    needs = {name: imported(name) for name in MODULES}
    for name, path in MODULES.items():
        if path.name == "__init__.py":
            continue
        reached, waiting = set(), [name]
        while waiting:
            one = waiting.pop()
            if one not in reached:
                reached.add(one)
                waiting += needs[one]
        expected = {str(MODULES[one].relative_to(ROOT)) for one in reached}
        assert {file for file in sources(name) if file.endswith(".py")} == expected, name


def test_a_package_stands_for_all_its_modules_and_an_unknown_name_is_refused() -> None:
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "feature_extractors").rglob("*.py")}
    assert files | {"feature_extractors/features/schema.yaml"} == set(sources("feature_extractors"))
    with pytest.raises(ModuleNotFoundError, match=r"feature_extractors\.trackers"):
        code_digest("feature_extractors.trackers")


@pytest.mark.parametrize("name", COMPILED)
def test_a_constant_changed_in_any_module_that_compiled_code_reads_changes_its_key(
    name: str, changed: Callable[[str, str], ModuleType]
) -> None:
    unchanged = code_digest(name)
    own = changed(sources(name)[0], "").code_digest(name)
    assert own == unchanged, "the same code elsewhere is the same"
    for file in sources(name):
        constant = "\nANOTHER = 8\n" if file.endswith(".py") else "\n# another line\n"
        assert changed(file, constant).code_digest(name) != unchanged, file
        changed(file, "")


@pytest.mark.parametrize(
    ("names", "file"),
    [
        ((TRACKER,), "feature_extractors/observations.py"),  # whose MAX_PACKETS the tracker reads
        ((evaluation.__name__,), "cmdana_plugin/evaluation/masking.py"),
        ((tabular.__name__,), "cmdana_plugin/evaluation/protocol.py"),
        (cache._CODE, "feature_extractors/features/schema.yaml"),
        (cache._CODE, "cmdana_plugin/logs/labels.py"),
        (tuple(ahead.modules()), "feature_extractors/content/segments.py"),
    ],
)
def test_what_lists_of_names_once_lacked_is_covered(names: tuple[str, ...], file: str) -> None:
    assert file in sources(*names)


def test_what_code_does_not_read_leaves_its_key_alone(changed: Callable[[str, str], ModuleType]) -> None:
    fresh = changed("cmdana_plugin/analyst/report.py", "\nANOTHER = 8\n")
    assert fresh.code_digest(TRACKER) == code_digest(TRACKER)
    assert fresh.code_digest(*ahead.modules()) == code_digest(*ahead.modules())


def test_all_that_numba_keeps_it_keeps_under_this_digest() -> None:
    wake()
    found = 0
    for name in MODULES:
        if name == "cmdana_plugin.cli.__main__":
            continue
        for value in vars(import_module(name)).values():
            if isinstance(value, Dispatcher) and value.py_func.__module__ == name:
                kept = getattr(value._cache, "_cache_file", None)
                found += kept is not None
                assert kept is None or kept._source_stamp == code_digest(name), value
    assert found > 30
    assert {n for n in COMPILED if n.startswith("feature_extractors.")} > {
        TRACKER,
        "feature_extractors.features.encoding",
    }


def test_trials_are_made_anew_for_other_code_and_only_then(tmp_path: Path) -> None:
    made = []

    def make() -> Trial:
        made.append(1)
        return Trial(score=evaluation.np.zeros(3))

    for code, times in (
        ("cmdana_plugin.evaluation.protocol", 1),
        ("cmdana_plugin.evaluation.protocol", 1),
        ("cmdana_plugin.detector.trees", 2),
    ):
        Store(tmp_path, "data", code=code).trial("volume", 0, make)
        assert len(made) == times, code


def test_each_file_is_read_once() -> None:
    for name in COMPILED:
        code_digest(name)
    files = {file for name in COMPILED for file in sources(name)}
    before = module._read.cache_info().misses
    for name in COMPILED:
        code_digest(name)
    assert module._read.cache_info().misses == before
    assert len(files) <= module._read.cache_info().currsize


KEPT = """
from handmade import extract, udp
print(len(extract([udp(ts=n / 100) for n in range(40)], content=False)[0].packets.ts))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)  # the tracker is compiled again, and first where no earlier test has needed it
def test_the_tracker_keeps_fewer_packets_once_it_is_told_so(copied: Path) -> None:
    """The smallest case: 32 made 8 in another module than the tracker's, beside a cache that holds the code for 32."""
    there = copied / "feature_extractors"
    for kept_here in (ROOT / "feature_extractors").rglob("__pycache__/*.nb[ic]"):
        place = copied / kept_here.relative_to(ROOT)
        place.parent.mkdir(exist_ok=True)
        shutil.copy(kept_here, place)
    paths = os.pathsep.join(map(str, (copied, ROOT / "tests" / "traces")))
    given = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")} | {"PYTHONPATH": paths}

    def kept(**more: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", KEPT],
            env=given | more,
            capture_output=True,
            text=True,
            check=True,
            cwd="/",
        )
        return int(done.stdout)

    assert kept() == 32
    assert list(there.rglob("tracker.process-*.nbc"))
    place = there / "observations.py"
    text = place.read_text()
    assert "MAX_PACKETS: Final = 32" in text
    try:
        place.write_text(text.replace("MAX_PACKETS: Final = 32", "MAX_PACKETS: Final = 8"))
        assert kept(NUMBA_OPT="0") == 8  # compiled in half the time
    finally:
        place.write_text(text)
