"""Nothing heavy is imported before it is used: what each command loads, asked of a fresh interpreter."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import cmdana_plugin
from cmdana_plugin import compile_cache
from cmdana_plugin.cli import app, options

ROOT = Path(cmdana_plugin.__file__).parents[1]
SMALL = ROOT / "cmdana_plugin" / "models" / "reference.pcap.gz"
HEAVY = {
    "torch", "numba", "llvmlite", "scapy", "pyshark", "lightgbm", "sklearn", "matplotlib", "pandas", "pyarrow",
    "safetensors", "websockets", "prometheus_client", "jinja2",
}  # fmt: skip
_TOLD = """
import os, sys
from cmdana_plugin.cli.app import main
sys.argv = ["cmdana", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert bool(end.code) is (os.environ.get("FAILS") == "1"), end.code
print(*sys.modules, file=sys.stderr)
"""


def loaded(*words: str, fails: bool = False) -> set[str]:
    """The modules of a process that has run a command, by their tops; of one that `fails`, as it should."""
    done = subprocess.run(
        [sys.executable, "-c", _TOLD, *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "FAILS": str(int(fails))},
        timeout=200,
    )
    names = done.stderr.split()
    # Of numba's runtime libraries are loaded by themselves; the package is where `numba` is.
    return {name.partition(".")[0] for name in names if not name.startswith("numba.")}


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    out = tmp_path_factory.mktemp("judged")
    return out, loaded("replay", str(SMALL), "--out", str(out))


def test_help_loads_nothing_heavy() -> None:
    assert not loaded("--help") & (HEAVY | {"numpy", "yaml"})


@pytest.mark.skipif(not compile_cache.kept("tracker"), reason="first: cmdana doctor --compile")
def test_a_replay_with_the_shipped_model_loads_what_it_needs_alone(judged: tuple[Path, set[str]]) -> None:
    _, modules = judged
    assert "llvmlite" in modules
    assert not sorted(modules & (HEAVY - {"llvmlite", "safetensors"} | {"yaml", "publicsuffixlist"}))


def test_a_replay_never_loads_torch(judged: tuple[Path, set[str]]) -> None:
    _, modules = judged
    assert "numpy" in modules
    assert not sorted(modules & (HEAVY - {"numba", "llvmlite", "safetensors"}))


@pytest.mark.parametrize(
    "content", [b"", b"hello, I am no capture", None], ids=["empty", "no capture", "missing"]
)
def test_what_is_no_capture_is_refused_before_anything_heavy_is_loaded(
    content: bytes | None, tmp_path: Path
) -> None:
    capture = tmp_path / "x.pcap"
    if content is not None:
        capture.write_bytes(content)
    settings = tmp_path / "plugin.toml"
    settings.write_text('[capture]\nreader = "native"\n')
    modules = loaded("replay", str(capture), "--config", str(settings), fails=True)
    assert not sorted(modules & (HEAVY | {"numpy", "yaml", "rich"}))
    assert not (tmp_path / "x").exists()


def test_a_command_loads_its_own_module_of_the_command_line() -> None:
    for module, names in app.MODULES.items():
        there = vars(import_module(f"cmdana_plugin.cli.{module}"))
        assert [name for name in names if not callable(there.get(name))] == []
    registered = [app._name(c) for c in options.app.registered_commands]
    assert sorted(registered) == sorted(name for names in app.MODULES.values() for name in names)


def test_notices_are_read_without_what_judges_them(judged: tuple[Path, set[str]]) -> None:
    folder, _ = judged
    modules = loaded("alerts", str(folder))
    assert "numpy" in modules
    assert not sorted(modules & HEAVY)


@pytest.mark.slow
def test_compiled_code_survives_a_move(judged: tuple[Path, set[str]], tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    for package in ("cmdana_plugin", "feature_extractors"):
        shutil.copytree(ROOT / package, moved / package)
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    environment |= {"PYTHONPATH": str(moved), "NUMBA_DEBUG_CACHE": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import cmdana_plugin; assert '{moved}' in cmdana_plugin.__file__\n{_TOLD}",
         "replay", str(SMALL), "--out", str(tmp_path / "out")],
        capture_output=True, text=True, check=True, cwd=tmp_path, env=environment, timeout=200,
    )  # fmt: skip
    assert "data saved to" not in done.stdout  # as numba tells of its cache
    assert "numba" not in done.stderr.split()
