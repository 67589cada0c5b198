"""scapy has a licence other than ours: its reader alone imports it, when used; all else goes without."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from feature_extractors.errors import CaptureError

ROOT = Path(__file__).parents[3]
READER = ROOT / "feature_extractors/readers/scapy_reader.py"
SOURCES = [p for folder in ("cmdana_plugin", "feature_extractors") for p in (ROOT / folder).rglob("*.py")]


def imported(node: ast.AST) -> set[str]:
    """The packages that a statement, or anything below it, imports."""
    found: set[str] = set()
    for each in ast.walk(node):
        if isinstance(each, ast.Import):
            found |= {name.name.partition(".")[0] for name in each.names}
        elif isinstance(each, ast.ImportFrom) and each.module:
            found.add(each.module.partition(".")[0])
    return found


def test_the_reader_alone_imports_scapy() -> None:
    assert [p for p in SOURCES if "scapy" in imported(ast.parse(p.read_text()))] == [READER]


def test_it_is_imported_only_when_it_is_used() -> None:
    body = ast.parse(READER.read_text()).body
    outside = [n for n in body if not isinstance(n, ast.FunctionDef | ast.ClassDef)]
    assert outside
    assert not any("scapy" in imported(n) for n in outside)


def test_where_it_was_left_out_its_reader_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from feature_extractors.readers.scapy_reader import ScapyReader

    for name in [name for name in sys.modules if name.partition(".")[0] == "scapy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(CaptureError, match="scapy is not installed"):
        ScapyReader(ROOT / "tests/traces/busy-minutes/busy-minutes.pcap.gz")


@pytest.mark.parametrize(("lock", "holds"), [
    ("requirements-demo.lock", {"numpy", "numba", "safetensors", "setuptools", "starlette"}),
    ("requirements.lock", {"numpy", "numba", "scapy", "safetensors", "setuptools", "mypy", "lightgbm"}),
    ("requirements-test.lock", {"numpy", "numba", "safetensors", "pytest", "ruff", "stix2"}),
])  # fmt: skip
def test_every_dependency_but_torch_has_its_hashes_and_the_version_of_the_constraints(
    lock: str, holds: set[str]
) -> None:
    lines = (ROOT / lock).read_text().replace("\\\n", " ").splitlines()
    locked = [line for line in lines if line.strip() and not line.startswith("#")]
    constraints = (ROOT / "constraints.txt").read_text().lower().replace("_", "-").split()
    pins = dict(line.split("==") for line in constraints)
    names = set()
    for line in locked:
        name, version = line.split()[0].split("==")
        names.add(name)
        assert "--hash=sha256:" in line, f"{name} has no hash"
        if "sys_platform == 'win32'" not in line:
            assert pins[name] == version, f"{name}: make lock"
    assert "torch" not in names
    assert holds <= names
    if lock != "requirements-test.lock":  # what the program needs, and no more
        assert not {"pytest", "ruff", "pyshark", "pyarrow"} & names
    if lock == "requirements-demo.lock":  # what the demonstration needs, and no more
        assert not {"scipy", "scikit-learn", "lightgbm", "scapy", "mypy", "sympy"} & names
