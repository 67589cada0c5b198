"""The files below a folder, each once, through links to folders too: zeekctl's `logs/current` is one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def files_below(folder: Path) -> Iterator[Path]:
    """Regular files below `folder` in order; what two links lead to comes once, and no ring is walked.

    Folders below it whose name begins with a dot (an environment of Python, a repository's own) are passed by.
    """
    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [n for n in sorted(folders) if not n.startswith(".") and _new(Path(place, n), seen)]
        for name in sorted(files):
            path = Path(place, name)
            if path.is_file() and _new(path, seen):
                yield path


def _new(path: Path, seen: set[tuple[int, int]]) -> bool:
    try:
        found = path.stat()
    except OSError:  # gone since it was listed
        return False
    known = (found.st_dev, found.st_ino) in seen
    seen.add((found.st_dev, found.st_ino))
    return not known
