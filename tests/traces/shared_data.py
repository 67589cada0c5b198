"""The shared labelled captures, where a checkout has them beside it; tests that use them carry the marker `data`."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data"


def members(archive: str, wanted: Callable[[str], bool], most: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of up to `most` files of an archive of the shared data; skips the test where it is absent."""
    path = FOLDER / archive
    if not path.is_file():
        pytest.skip(f"the shared data is not here: {path.name} not found beside the project")
    with tarfile.open(path) as tar:
        for member in tar:
            if most == 0:
                return
            if member.isfile() and wanted(member.name):
                file = tar.extractfile(member)
                assert file is not None
                most -= 1
                yield member.name, file.read()
