"""The folder of numba's cache: never in a folder that others can write, since it runs what it finds there."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

_VARIABLE: Final = "NUMBA_CACHE_DIR"
_PACKAGES: Final = ("feature_extractors", "cmdana_plugin")

_refused: list[str] = []


def choose() -> None:
    """Sets NUMBA_CACHE_DIR to a private folder where the cache would else be open to others. Before numba is loaded."""
    wanted = os.environ.get(_VARIABLE)
    if wanted:
        why = (
            "it is relative"
            if not os.path.isabs(wanted)
            else _open_to_others(Path(wanted), (os.geteuid(), 0))
        )
        place = wanted
    else:
        why, place = _packages()
    if not why:
        return
    private = _private()
    _refused.append(f"its cache is not {place}, since {why}, but {private}")
    os.environ[_VARIABLE] = str(private)


def refused() -> str:
    """The folder that `choose` refused, and why, in words; "" for none."""
    return _refused[-1] if _refused else ""


def users() -> list[Path]:
    """The user's own folder for what is compiled, if he has one that is his alone."""
    folder = _home()
    return [] if folder is None or _open_to_others(folder, (os.geteuid(), 0)) else [folder]


def _packages() -> tuple[str, str]:
    """numba keeps a module's code beside its source; whoever may write the source may write that."""
    root = Path(__file__).resolve().parents[2]
    for folder in (Path(place) for package in _PACKAGES for place, _, _ in os.walk(root / package)):
        if folder.name == "__pycache__":
            continue
        try:
            owner = folder.stat().st_uid
        except OSError:
            continue
        cache = folder / "__pycache__"
        if cache.exists() and (why := _open_to_others(cache, (os.geteuid(), 0, owner), above=False)):
            return why, str(cache)
    return "", ""


def _open_to_others(folder: Path, owners: tuple[int, ...], *, above: bool = True) -> str:
    """Why somebody else could write the folder, or put another in its place; "" where nobody can."""
    real = Path(os.path.realpath(folder))
    for place in (real, *(real.parents if above else ())):
        try:
            found = place.stat()
        except OSError:
            continue  # it will be made, below a folder that is looked at too
        sticky = place != real and found.st_mode & stat.S_ISVTX
        if found.st_uid not in owners:
            return f"user {found.st_uid} owns {place}"
        if found.st_mode & stat.S_IWOTH and not sticky:
            return f"everybody can write {place}"
    return ""


def _home() -> Path | None:
    home = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(home):
        home = os.path.join(os.environ.get("HOME", ""), ".cache")
    return Path(home) / "cmdana" / "numba" if os.path.isabs(home) else None


def _private() -> Path:
    """A folder of this user's alone, in his cache; where there is no such, one of this process's."""
    folder = _home()
    if folder is not None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            pass
        else:
            if not _open_to_others(folder, (os.geteuid(), 0)):
                return folder
    import tempfile

    return Path(tempfile.mkdtemp(prefix="cmdana-numba-"))
