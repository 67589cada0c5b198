"""Files that are read and written over SMB, as files.log has them: by their ids, in pieces at any offset.

Mirrors scripts/base/protocols/smb/files.zeek of Zeek 8.2.2.
"""

from __future__ import annotations

from typing import Final

from feature_extractors.content.analyzers.base import Session, text
from feature_extractors.content.analyzers.files import Carried

MAX_OPEN: Final = 128  # files of one connection that are known at once


class Contents:
    """The contents of the files of one SMB connection, as they pass."""

    __slots__ = ("_carried", "_ends", "_names", "_session")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._names: dict[int, tuple[str, int]] = {}  # and sizes, by file id
        self._carried: dict[int, Carried] = {}
        self._ends: dict[int, int] = {}  # offset behind the last byte that came, by file id

    def opened(self, fid: int, name: str, size: int) -> None:
        """A file of so many bytes goes by this id."""
        if not self._session.logs:
            return
        if len(self._names) >= MAX_OPEN:
            self._names.pop(next(iter(self._names)))
        self._names[fid] = name, size

    def piece(self, ts: float, is_orig: bool, fid: int, offset: int, data: bytes, length: int) -> None:
        """`length` bytes from `offset` on, of which `data` are at hand."""
        if not self._session.logs or fid not in self._names or not length:
            return
        carried = self._carried.get(fid)
        if carried is None:
            if len(self._carried) >= MAX_OPEN:
                self.closed(ts, next(iter(self._carried)))
            name, size = self._names[fid]
            carried = self._carried[fid] = Carried(self._session, "SMB", ts, is_orig)
            carried.row["filename"] = text(name.encode("utf-8"))
            if size:
                carried.row["total_bytes"] = size
            self._ends[fid] = 0
        carried.take(ts, data)
        carried.unseen(length - len(data))
        self._ends[fid] = max(self._ends[fid], offset + length)

    def closed(self, ts: float, fid: int) -> None:
        """Nobody uses the id any more."""
        self._names.pop(fid, None)
        carried = self._carried.pop(fid, None)
        if carried is not None:
            seen = carried.row["seen_bytes"]
            end = self._ends.pop(fid, 0)
            if isinstance(seen, int) and end > seen:
                carried.passed(end - seen)
            carried.finish(ts)

    def end(self, ts: float) -> None:
        """The connection is over."""
        for fid in list(self._carried):
            self.closed(ts, fid)
