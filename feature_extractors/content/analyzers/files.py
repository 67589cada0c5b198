"""Files that connections carry, as files.log has them: rows that begin with a file's first byte and end with it.

Mirrors src/file_analysis/File.cc and scripts/base/frameworks/files/main.zeek of Zeek 8.2.2.
"""

from __future__ import annotations

from typing import Final

from feature_extractors.content.analyzers.base import Fields, Session, text
from feature_extractors.content.analyzers.magic import SNIFF, mime_type

TIMEOUT: Final = (
    120.0  # seconds without a byte after which Zeek lets go of a file (default_file_timeout_interval)
)
# Kinds of file that Zeek looks into.
_ANALYZERS: Final = {"application/x-dosexec": "PE", "application/ocsp-response": "OCSP_REPLY"}


def begun(session: Session, source: str, ts: float, is_orig: bool, depth: int = 0) -> Fields:
    """The row of a file whose first bytes have come."""
    file: Fields = {
        "fuid": session.run.fuid(ts), "source": source, "depth": depth, "analyzers": [], "duration": 0.0,
        "is_orig": is_orig, "seen_bytes": 0, "missing_bytes": 0, "overflow_bytes": 0, "timedout": False, "ts": ts,
    }  # fmt: skip
    return session.add("files", ts, file)


def ended(session: Session, file: Fields, last: float, ts: float) -> None:
    """The file is over at `ts`; its last byte came at `last`."""
    begin = file.pop("ts", last)
    if isinstance(begin, float):
        file["duration"] = max(last - begin, 0.0)
    kind = file.get("mime_type")
    if isinstance(kind, str) and kind in _ANALYZERS:
        file["analyzers"] = [_ANALYZERS[kind]]
    session.at(file, ts)


class Carried:
    """One file whose bytes come in order: counted, named by its first bytes, not kept."""

    __slots__ = ("_first", "_last", "_session", "_sniffed", "_total", "row")

    def __init__(self, session: Session, source: str, ts: float, is_orig: bool, depth: int = 0) -> None:
        self._session = session
        self._first = b""
        self._sniffed = False
        self._last = ts
        self._total = -1
        self.row = begun(session, source, ts, is_orig, depth)

    def expect(self, total: int) -> None:
        """The file has so many bytes."""
        self._total = total
        self.row["total_bytes"] = total

    def name(self, name: bytes) -> None:
        """The file is called so, if that is not empty."""
        if name:
            self.row["filename"] = text(name)

    def take(self, ts: float, data: bytes) -> None:
        """The next bytes."""
        self._last = max(self._last, ts)
        seen = self.row["seen_bytes"]
        self.row["seen_bytes"] = (seen if isinstance(seen, int) else 0) + len(data)
        if not self._sniffed:
            self._first += data[: SNIFF - len(self._first)]
            if len(self._first) >= SNIFF:
                self._sniff()

    def unseen(self, length: int) -> None:
        """So many bytes came that are not at hand."""
        seen = self.row["seen_bytes"]
        self.row["seen_bytes"] = (seen if isinstance(seen, int) else 0) + length

    def passed(self, length: int) -> None:
        """So many bytes never came."""
        missing = self.row["missing_bytes"]
        self.row["missing_bytes"] = (missing if isinstance(missing, int) else 0) + length

    def finish(self, ts: float) -> str:
        """The file is over; the kind it is, empty where nothing is known of it."""
        if not self._sniffed:
            self._sniff()
        ended(self._session, self.row, self._last, ts)
        kind = self.row.get("mime_type")
        return kind if isinstance(kind, str) else ""

    def _sniff(self) -> None:
        self._sniffed = True
        kind = mime_type(self._first)
        self._first = b""
        if kind:
            self.row["mime_type"] = kind
