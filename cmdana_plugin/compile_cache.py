"""What numba has compiled and kept: whether the next command starts at once or compiles first."""

from __future__ import annotations

import os
from pathlib import Path

import feature_extractors


def folder() -> Path:
    """The folder of compiled functions: NUMBA_CACHE_DIR, or beside the packages' own files."""
    return Path(os.environ.get("NUMBA_CACHE_DIR") or Path(feature_extractors.__file__).parent / "__pycache__")


def kept(module: str = "*") -> int:
    """The number of compiled functions in the cache, of `module` or of all modules."""
    packages = [folder()] if os.environ.get("NUMBA_CACHE_DIR") else _packages()
    return sum(1 for place in packages for _ in place.rglob(f"{module}.*.nbi"))


def _packages() -> list[Path]:
    ours = Path(feature_extractors.__file__).parent
    return [ours, ours.parent / "cmdana_plugin"]
