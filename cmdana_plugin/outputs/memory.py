"""Which events were sent, in a small file, so that the next run sends only what is new."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Final

from cmdana_plugin import files
from feature_extractors import CmdanaError

_MOST: Final = 50_000  # ids kept, the newest
_MOST_BYTES: Final = 8 * 1024 * 1024


class Memory:
    """The ids of events sent; without a path, of this run only. Raises `CmdanaError` where the file is no such list."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._changed = False
        if path is not None and path.exists():
            self._ids.update(dict.fromkeys(_read(path)))

    def __contains__(self, id: str) -> bool:
        return id in self._ids

    def add(self, id: str) -> None:
        """Remembers an event; past 50,000 the oldest are forgotten."""
        self._ids[id] = None
        self._changed = True
        while len(self._ids) > _MOST:
            self._ids.popitem(last=False)

    def keep(self) -> None:
        """Writes the file, if there is one and anything is new."""
        if self._path is None or not self._changed:
            return
        try:
            files.replace(self._path, json.dumps(list(self._ids)).encode(), 0o600)
        except OSError as error:
            raise CmdanaError(f"{self._path}: cannot be written: {error.strerror}") from None
        self._changed = False


def _read(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MOST_BYTES))
    except OSError as error:
        raise CmdanaError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(i, str) for i in found):
        raise CmdanaError(
            f"{path}: found no list of events sent; expected a file that --remember has written"
        )
    return found[-_MOST:]
