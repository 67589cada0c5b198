"""What installation brings is what the program imports: nothing more, and nothing less."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[3]
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OWN: Final = {"cmdana_plugin", "feature_extractors"}
# From elsewhere: Debian's python3-broker, and what comes with jinja2, pydantic and numba.
BESIDE: Final = {"broker", "markupsafe", "pydantic_core", "llvmlite"}


def distributions(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=~ ]", r, maxsplit=1)[0].lower().replace("_", "-") for r in requirements}


def imported() -> set[str]:
    """The top-level names that the program's modules import, anywhere in them."""
    found: set[str] = set()
    for path in (p for package in OWN for p in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - OWN - BESIDE


def test_every_dependency_is_imported_and_every_import_is_a_dependency() -> None:
    of = importlib.metadata.packages_distributions()
    used = {d.lower().replace("_", "-") for name in imported() for d in of.get(name, [name])[:1]}
    needed = distributions(PROJECT["dependencies"])
    optional = distributions(
        [r for part in ("pyshark", "parquet", "ray", "serve") for r in PROJECT["optional-dependencies"][part]]
    )
    assert needed <= used
    assert used <= needed | optional


def test_zkg_is_told_of_our_dependencies_in_pairs_as_it_reads_them() -> None:
    """Names and versions in turn (zkg's `dependencies`): a word more, and it shows all of them wrong."""
    meta = configparser.ConfigParser()
    meta.read(ROOT / "zkg.meta")
    words = meta["package"]["external_depends"].split()
    told = dict(zip(words[::2], words[1::2], strict=True))
    assert told["pip:cmdana"] == f">={PROJECT['version']}"
    assert (
        told["python3"]
        .removeprefix(">=")
        .startswith(PROJECT["requires-python"].split(",")[0].removeprefix(">="))
    )
    assert all(re.fullmatch(r">=\d+\.\d+\.\d+", version) for version in told.values())
