"""What has been compiled and kept: whether the next command starts at once or compiles first."""

from __future__ import annotations

import os
import py_compile
import re
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Final

import feature_extractors
from feature_extractors.compiled import ready

_COMPILED: Final = re.compile(r"^@(?:entry|compiled_for)\b", re.MULTILINE)
_TRAINING: Final = "cmdana_plugin.training."
_WITH_TORCH: Final = re.compile(r"^(?:import|from) torch\b", re.MULTILINE)


def folder() -> Path:
    """The folder of compiled functions: NUMBA_CACHE_DIR, or beside the packages' own files."""
    return Path(os.environ.get("NUMBA_CACHE_DIR") or Path(feature_extractors.__file__).parent / "__pycache__")


def kept(module: str = "") -> int:
    """The number of functions that are kept as their sources are now, of `module` or of all modules.

    Where nothing was ever kept, of those in numba's cache, which may be of other sources.
    """
    if ready.there():
        return len(ready.names(module))
    packages = [folder()] if os.environ.get("NUMBA_CACHE_DIR") else _packages()
    return sum(1 for place in packages for _ in place.rglob(f"{module or '*'}.*.nbi"))


def keep() -> int:
    """Keeps all that numba's cache has, for commands to load without numba. The number of functions."""
    for place in _packages():
        for path in sorted(place.rglob("*.py")):
            name = ".".join(path.relative_to(place.parent).with_suffix("").parts)
            source = path.read_text(encoding="utf-8")
            if name not in sys.modules and (name.startswith(_TRAINING) or _WITH_TORCH.search(source)):
                continue  # who trains, or has torch judge, has it loaded
            if _COMPILED.search(source):
                import_module(name)
    from feature_extractors.compiled import keeping

    return keeping.keep()


def keep_what_was_compiled() -> None:
    """As `keep`, where numba has compiled in this process: the next command starts at once."""
    if f"{feature_extractors.__name__}.compiled.with_numba" in sys.modules:
        keep()


def keep_bytecode() -> None:
    """Has the bytecode written of all modules that are loaded, where Python was told not to, or could not as yet."""
    for module in list(sys.modules.values()):
        source, cached = getattr(module, "__file__", None), getattr(module, "__cached__", None)
        if not isinstance(source, str) or not isinstance(cached, str):
            continue  # such as torch puts in the place of modules
        if source.endswith(".py") and not os.path.exists(cached):
            with suppress(OSError, py_compile.PyCompileError):
                py_compile.compile(source, cached, doraise=True)


def _packages() -> list[Path]:
    ours = Path(feature_extractors.__file__).parent
    return [ours, ours.parent / "cmdana_plugin"]
