"""Whether the protocol analyzers run compiled: they do where installation compiled just these sources.

mypyc makes an extension module beside each source, which Python prefers to it, and one library that holds all their
code and is named after the digest of the sources and of what they import, since mypyc compiles constants of other
modules into their users. Where that library is missing, or CMDANA_INTERPRETED is set, the sources are run, so that an
edited one never goes unheeded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Final

from feature_extractors.compiled.source_digest import code_digest

_FOLDER: Final = Path(__file__).parent
_CONTENT: Final = _FOLDER.parent / "content"
_LEFT_OUT: Final = ("__init__", "dns_columns")  # the latter is compiled by numba


def sources() -> list[Path]:
    """The source files that mypyc compiles."""
    analyzers = sorted(p for p in (_CONTENT / "analyzers").glob("*.py") if p.stem not in _LEFT_OUT)
    return [_CONTENT / "reassembly.py", *analyzers]


def modules() -> dict[str, Path]:
    """The source files that mypyc compiles, by module name."""
    return {".".join(p.relative_to(_FOLDER.parents[1]).with_suffix("").parts): p for p in sources()}


def library() -> str:
    """The name of the extension module for the sources as they are now, less mypyc's own suffix."""
    return f"{__package__}.analyzers_{code_digest(*modules())[:8]}"


def built() -> bool:
    """Whether installation compiled the sources as they are now."""
    name = f"{library().rpartition('.')[2]}__mypyc"
    return any((_FOLDER / f"{name}{suffix}").is_file() for suffix in EXTENSION_SUFFIXES)


def choose() -> None:
    """Makes Python import the sources where the extension modules are not theirs, or not wanted."""
    if not any(f"reassembly{suffix}" in os.listdir(_CONTENT) for suffix in EXTENSION_SUFFIXES):
        return
    if os.environ.get("CMDANA_INTERPRETED") or not built():
        sys.meta_path.insert(0, _Sources())


class _Sources(MetaPathFinder):
    """Finds the source of a module that was compiled."""

    def __init__(self) -> None:
        self._paths = modules()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        source = self._paths.get(fullname)
        return None if source is None else spec_from_file_location(fullname, source)
