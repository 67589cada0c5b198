"""Whether the protocol analyzers run compiled: they do where installation compiled just these sources.

mypyc makes an extension module beside each source, which Python prefers to it, and one library that holds all their
code and is named after the sources' digest. Where that library is missing, or CMDANA_INTERPRETED is set, the sources
are run, so that an edited one never goes unheeded.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Final

_FOLDER: Final = Path(__file__).parent
_LEFT_OUT: Final = ("__init__", "dns_columns")  # the latter is compiled by numba


def sources() -> list[Path]:
    """What is compiled."""
    analyzers = sorted(p for p in (_FOLDER / "analyzers").glob("*.py") if p.stem not in _LEFT_OUT)
    return [_FOLDER / "content.py", *analyzers]


def library() -> str:
    """The module that holds the compiled code of these sources, as they are now, less mypyc's own suffix."""
    stamp = 0
    for path in sources():
        stamp = zlib.crc32(path.read_bytes(), zlib.crc32(path.name.encode(), stamp))
    return f"feature_extractors.ahead_{stamp:08x}"


def built() -> bool:
    """Whether installation compiled the sources as they are now."""
    name = f"{library().rpartition('.')[2]}__mypyc"
    return any((_FOLDER / f"{name}{suffix}").is_file() for suffix in EXTENSION_SUFFIXES)


def choose() -> None:
    """Has Python take the sources where what was compiled is not theirs, or is not wanted."""
    if not any(f"content{suffix}" in os.listdir(_FOLDER) for suffix in EXTENSION_SUFFIXES):
        return
    if os.environ.get("CMDANA_INTERPRETED") or not built():
        sys.meta_path.insert(0, _Sources())


class _Sources(MetaPathFinder):
    """Finds the source of a module that was compiled."""

    def __init__(self) -> None:
        root = _FOLDER.parent
        self._paths = {".".join(p.relative_to(root).with_suffix("").parts): p for p in sources()}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        source = self._paths.get(fullname)
        return None if source is None else spec_from_file_location(fullname, source)
