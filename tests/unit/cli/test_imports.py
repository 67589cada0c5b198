"""Nothing heavy is imported before it is used: what each command loads, asked of a fresh interpreter."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cmdana_plugin

ROOT = Path(cmdana_plugin.__file__).parents[1]
SMALL = ROOT / "cmdana_plugin" / "models" / "reference.pcap.gz"
HEAVY = {
    "torch", "numba", "llvmlite", "scapy", "pyshark", "lightgbm", "sklearn", "matplotlib", "pandas", "pyarrow",
    "safetensors", "websockets", "prometheus_client", "jinja2",
}  # fmt: skip
_TOLD = """
import sys
from cmdana_plugin.cli.app import app
sys.argv = ["cmdana", *sys.argv[1:]]
try:
    app()
except SystemExit as end:
    assert not end.code, end.code
print(*sys.modules, file=sys.stderr)
"""


def loaded(*words: str) -> set[str]:
    """The modules of a process that has run a command, by their tops."""
    done = subprocess.run(
        [sys.executable, "-c", _TOLD, *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=200,
    )
    return {name.partition(".")[0] for name in done.stderr.split()}


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    out = tmp_path_factory.mktemp("judged")
    return out, loaded("replay", str(SMALL), "--out", str(out))


def test_help_loads_nothing_heavy() -> None:
    assert not loaded("--help") & (HEAVY | {"numpy", "yaml"})


def test_a_replay_with_the_shipped_model_never_loads_torch(judged: tuple[Path, set[str]]) -> None:
    _, modules = judged
    assert "numba" in modules
    assert not sorted(modules & (HEAVY - {"numba", "llvmlite", "safetensors"}))


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
    assert "data loaded from" in done.stdout
    assert "data saved to" not in done.stdout
