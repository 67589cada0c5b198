"""What was decided about incidents: a small SQLite file that only its owner can read, beside the logs or elsewhere."""

from __future__ import annotations

import os
import pwd
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from feature_extractors import CmdanaError

NAME: Final = "incidents.sqlite"
State = Literal["open", "acknowledged", "benign", "malicious", "known"]
STATES: Final[tuple[State, ...]] = ("open", "acknowledged", "benign", "malicious", "known")
CLOSED: Final[tuple[State, ...]] = ("benign", "malicious", "known")

_APPLICATION: Final = 0x636D6471  # "cmdq": what the file is
_MOST_BYTES: Final = 256 * 1024 * 1024
_MOST_NOTE: Final = 4_000  # characters
_TABLES: Final = (
    "CREATE TABLE incident (id TEXT PRIMARY KEY NOT NULL, state TEXT NOT NULL, note TEXT NOT NULL, "
    "who TEXT NOT NULL, at REAL NOT NULL, connections INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE history (number INTEGER PRIMARY KEY, id TEXT NOT NULL, state TEXT NOT NULL, note TEXT NOT NULL, "
    "who TEXT NOT NULL, at REAL NOT NULL) STRICT",
    "CREATE INDEX history_of ON history (id)",
)


class StoreError(CmdanaError):
    """The file cannot be used; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What somebody said of an incident."""

    state: State
    note: str = ""
    who: str = ""
    at: float = 0.0  # wall clock, seconds since the epoch
    connections: int = 0  # of the incident then

    @property
    def closed(self) -> bool:
        return self.state in CLOSED


OPEN: Final = Decision("open")


class Store:
    """The decisions in one file. Nothing is made before something is decided; every call opens the file anew."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def decisions(self) -> dict[str, Decision]:
        """The latest decision on each incident, by id; nothing where there is no file. Raises `StoreError`."""
        if not os.path.lexists(self.path):
            return {}
        with self._opened(write=False) as db:
            rows = db.execute("SELECT id, state, note, who, at, connections FROM incident").fetchall()
        return {
            mark: Decision(state, note, who, at, connections)
            for mark, state, note, who, at, connections in rows
            if state in STATES
        }

    def history(self, mark: str) -> list[Decision]:
        """All that was decided about an incident, oldest first, the last hundred. Raises `StoreError`."""
        if not os.path.lexists(self.path):
            return []
        with self._opened(write=False) as db:
            rows = db.execute(
                "SELECT state, note, who, at FROM history WHERE id = ? ORDER BY number DESC LIMIT 100",
                (mark,),
            ).fetchall()
        return [Decision(*row) for row in reversed(rows) if row[0] in STATES]

    def version(self) -> tuple[int, int]:
        """Something that changes when a decision is written."""
        found = [0, 0]
        for k, path in enumerate((self.path, self.path.with_name(f"{self.path.name}-wal"))):
            with suppress(OSError):
                found[k] = path.stat().st_mtime_ns
        return found[0], found[1]

    def decide(self, mark: str, state: State, note: str = "", connections: int = 0) -> Decision:
        """Writes a decision; the one that it replaces comes back. An empty note keeps the one there was.

        Raises `StoreError`.
        """
        now, who = time.time(), _user()
        note = note.encode("utf-8", "replace").decode()[:_MOST_NOTE].replace("\0", " ")
        with self._opened(write=True) as db:
            old = db.execute(
                "SELECT state, note, who, at, connections FROM incident WHERE id = ?", (mark,)
            ).fetchone()
            before = Decision(*old) if old and old[0] in STATES else OPEN
            db.execute(
                "INSERT OR REPLACE INTO incident VALUES (?, ?, ?, ?, ?, ?)",
                (mark, state, note or before.note, who, now, min(connections, 2**62)),
            )
            db.execute(
                "INSERT INTO history (id, state, note, who, at) VALUES (?, ?, ?, ?, ?)",
                (mark, state, note, who, now),
            )
        return before

    @contextmanager
    def _opened(self, *, write: bool) -> Iterator[sqlite3.Connection]:
        if write and not os.path.lexists(self.path):
            self._make()
        self._examine()
        try:
            db = sqlite3.connect(self.path.resolve(), timeout=10.0, isolation_level=None)
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: cannot be opened: {error}") from None
        try:
            db.execute("PRAGMA trusted_schema = OFF")
            db.execute("PRAGMA cell_size_check = ON")
            self._check(db)
            db.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            yield db
            db.execute("COMMIT")
        except (sqlite3.Error, OverflowError) as error:
            raise StoreError(f"{self.path}: cannot be {'written' if write else 'read'}: {error}") from None
        finally:
            db.close()

    def _make(self) -> None:
        try:
            os.close(
                os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            )
        except FileExistsError:
            return
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot be made: {error.strerror}; --store names another place"
            ) from None

    def _examine(self) -> None:
        """Refuses a file that another could have put there, before SQLite looks into it."""
        try:
            found = os.lstat(self.path)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be read: {error.strerror}") from None
        if not stat.S_ISREG(found.st_mode):
            raise StoreError(f"{self.path}: is no regular file")
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o077:
            raise StoreError(
                f"{self.path}: others can read or write it (user {found.st_uid}, mode {found.st_mode & 0o777:03o}); "
                "expected your own with mode 600"
            )
        if found.st_size > _MOST_BYTES:
            raise StoreError(f"{self.path}: has more than {_MOST_BYTES >> 20} MiB: no queue of ours")

    def _check(self, db: sqlite3.Connection) -> None:
        """Makes the tables of a new file; refuses one that holds anything but these: no trigger, no view."""
        tables = [
            row[0] for row in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL LIMIT 10")
        ]
        if not tables and os.stat(self.path).st_size == 0:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("BEGIN IMMEDIATE")
            if not db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                for table in _TABLES:
                    db.execute(table)
                db.execute(f"PRAGMA application_id = {_APPLICATION}")
            db.execute("COMMIT")
            return
        (application,) = db.execute("PRAGMA application_id").fetchone()
        if application != _APPLICATION or sorted(tables) != sorted(_TABLES):
            raise StoreError(f"{self.path}: is no queue of cmdana, or one of another version")


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
