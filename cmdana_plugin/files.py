"""Files written so that nobody else decides where, and that nothing half-written is ever found under its name.

A file is written under a name that none has, opened without following links, in the folder that it is for; when it is
whole it is on the disk, and then it is moved. Whoever writes holds a lock on what he writes, which the kernel takes
away when he dies: so a file left behind is known from one at work, and goes with the next that is written there.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EACCES, EAGAIN, EINVAL
from pathlib import Path
from typing import IO, Final

from feature_extractors import CmdanaError

LOCK: Final = ".cmdana.lock"  # of a folder, as long as somebody writes there
_SUFFIX: Final = ".partial"
_BUSY: Final = (EAGAIN, EACCES)
_AT_WORK: Final[set[Path]] = set()  # temporary files of this process: known by name before they are there
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Busy(CmdanaError):
    """Another process writes there; the message says where."""


class Replacement:
    """A file that is written beside `path` and takes its name in `commit`; `abandon` leaves nothing behind.

    Its permissions are `mode`, or those of any new file here. All methods raise `OSError`.
    """

    def __init__(self, path: Path, mode: int | None = None) -> None:
        self.path = path
        self._folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _remove_left_behind(self._folder, path.name)
            self._name, descriptor = _opened(self._folder, path, mode)
        except BaseException:
            os.close(self._folder)
            raise
        self.file: IO[bytes] = open(descriptor, "wb")

    @property
    def partial(self) -> Path:
        """The path of the temporary file until `commit`."""
        return self.path.parent / self._name

    def commit(self, *, over: bool = True) -> None:
        """Syncs the file to disk and renames it. Raises `FileExistsError` where the name is taken and not `over`."""
        try:
            self.file.flush()
            os.fsync(self.file.fileno())
            if over:
                os.rename(self._name, self.path.name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            else:
                os.link(
                    self._name, self.path.name, src_dir_fd=self._folder, dst_dir_fd=self._folder,
                    follow_symlinks=False,
                )  # fmt: skip
                os.unlink(self._name, dir_fd=self._folder)
            with suppress(OSError):  # not every file system can
                os.fsync(self._folder)
        except BaseException:
            self.abandon()
            raise
        self._close()

    def abandon(self) -> None:
        """Deletes the temporary file; does nothing a second time or after `commit`."""
        if self._folder >= 0:
            with suppress(OSError):
                os.unlink(self._name, dir_fd=self._folder)
            self._close()

    def _close(self) -> None:
        with suppress(OSError):  # what it could not write has been told of, or is of no use
            self.file.close()
        os.close(self._folder)
        self._folder = -1
        _AT_WORK.discard(self.partial)


class Appended:
    """A file that others read while it grows; where it was moved away, it is begun anew under its name.

    All methods raise `OSError`; what is no regular file, or a link, is refused.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def size(self) -> int:
        """How many bytes the file under the name has now; it is there from now on."""
        if self._descriptor >= 0 and not self._is_there():
            self.close()
        if self._descriptor < 0:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            self._descriptor = os.open(self.path, flags, 0o666)
            if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                self.close()
                raise OSError(EINVAL, "is no regular file")
        return os.fstat(self._descriptor).st_size

    def write(self, data: bytes) -> None:
        """Appends to the file that `size` was asked of, all of it or nothing."""
        begin = os.fstat(self._descriptor).st_size
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._descriptor, begin)
            raise

    def close(self) -> None:
        """Closes the file; does nothing a second time."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self.path, follow_symlinks=False))
        except OSError:
            return False


class Resumed:
    """A file that grows at `partial`, over several runs if need be, and takes its name in `commit`.

    It begins with the first `size` bytes of what an earlier run has left there. All methods raise `OSError`.
    """

    def __init__(self, path: Path, partial: Path, size: int = 0) -> None:
        self.path = path
        self.partial = partial
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self.file: IO[bytes] = open(os.open(partial, flags, 0o600), "r+b")
        if os.fstat(self.file.fileno()).st_size < size:
            self.file.close()
            raise OSError(EINVAL, f"is shorter than the {size:,} bytes that were written")
        self.file.truncate(size)
        self.file.seek(size)

    def settled(self) -> int:
        """How many bytes it has, all of them on the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return self.file.tell()

    def commit(self) -> None:
        """Gives it its name and the mode of any new file here."""
        self.settled()
        mask = os.umask(0o077)
        os.umask(mask)
        os.fchmod(self.file.fileno(), 0o666 & ~mask)
        self.file.close()
        self.partial.rename(self.path)

    def abandon(self) -> None:
        """Leaves it where it is, for who goes on."""
        with suppress(OSError):
            self.file.close()


def abandon_all(folder: Path) -> None:
    """Deletes what replacements of this process have left in `folder`, for who was told to end while he opened them.

    An exception that a signal raises may come between the making of a file and the first hold of it.
    """
    for partial in [path for path in _AT_WORK if path.parent == folder]:
        with suppress(OSError):
            partial.unlink()
        _AT_WORK.discard(partial)


@contextmanager
def replacing(path: Path, mode: int | None = None) -> Iterator[IO[bytes]]:
    """A context with a file to write, which replaces `path` at its end, but not where it fails. Raises `OSError`."""
    replacement = Replacement(path, mode)
    try:
        yield replacement.file
    except BaseException:
        replacement.abandon()
        raise
    replacement.commit()


def replace(path: Path, content: bytes, mode: int | None = None) -> None:
    """Replaces the content of `path` atomically. Raises `OSError`."""
    with replacing(path, mode) as file:
        file.write(content)


def create(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Creates a file of this content atomically. Raises `FileExistsError` where there is one, or `OSError`."""
    if os.path.lexists(path):
        raise FileExistsError(path)
    new = Replacement(path, mode)
    try:
        new.file.write(content)
    except BaseException:
        new.abandon()
        raise
    new.commit(over=False)


class Growing:
    """A file that whole lines are appended to, made anew where it was moved away. All methods raise `OSError`."""

    def __init__(self, path: Path, mode: int = 0o640) -> None:
        self._path = path
        self._mode = mode
        self._file = -1

    def write(self, line: bytes) -> None:
        """Appends a line, end and all, in one piece."""
        if self._file >= 0 and not self._named():
            self.close()
        if self._file < 0:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.open(self._path, flags, self._mode)
        while line:
            line = line[os.write(self._file, line) :]

    def close(self) -> None:
        """Closes the file; the next line opens it anew."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _named(self) -> bool:
        """Whether the file that is open still has its name."""
        try:
            there = os.lstat(self._path)
        except FileNotFoundError:
            return False
        mine = os.fstat(self._file)
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


@contextmanager
def alone(folder: Path, name: str = "") -> Iterator[None]:
    """A context in which no other process writes the same file, or the same folder where there is no `name`.

    Raises `Busy`, or `OSError` where the folder cannot be written.
    """
    lock = f".{name}.lock" if name else LOCK
    with folder_of(folder) as place:
        held = _held(place, lock, wait=False)
        if held is None:
            raise Busy(
                f"{folder / name}: another run of cmdana is writing there; wait for it, or choose another --out"
            )
        try:
            yield
        finally:
            # Before it is let go: who comes next looks whether the lock that it got is still the one there.
            with suppress(OSError):
                os.unlink(lock, dir_fd=place)
            os.close(held)


def is_free(folder: Path, name: str) -> bool:
    """Whether no process is `alone` with a file now. Raises `OSError` where the folder cannot be read."""
    with folder_of(folder) as place:
        try:
            seen = os.open(
                f".{name}.lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=place
            )
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(seen, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in _BUSY
        finally:
            os.close(seen)
        return True


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """A context in which no other process changes the file; waits for it.

    Raises `OSError` where its folder cannot be written.
    """
    with folder_of(path.parent) as place:
        held = _held(place, f".{path.name}.lock", wait=True)
        assert held is not None
        try:
            yield
        finally:
            os.close(held)


@contextmanager
def folder_of(path: Path) -> Iterator[int]:
    """A context with a descriptor of a folder, for `dir_fd`. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def lock_file(path: Path) -> int | None:
    """A descriptor that holds the lock of a lock file (flock), made if need be; None where another process has it."""
    with folder_of(path.parent) as place:
        return _held(place, path.name, wait=False)


def _held(folder: int, name: str, *, wait: bool) -> int | None:
    while True:
        held = os.open(
            name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600, dir_fd=folder
        )
        try:
            fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in _BUSY:
                os.close(held)
                return None
            # A file system without locks: nothing is excluded there.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(held), os.stat(name, dir_fd=folder, follow_symlinks=False)):
                return held
        os.close(held)  # whoever had it has taken it away


def _opened(folder: int, path: Path, mode: int | None) -> tuple[str, int]:
    while True:
        partial = path.parent / f".{path.name[:200]}.{secrets.token_hex(8)}{_SUFFIX}"
        _AT_WORK.add(partial)
        try:
            descriptor = os.open(partial.name, _NEW, 0o666 if mode is None else mode, dir_fd=folder)
        except OSError as error:
            _AT_WORK.discard(partial)
            if not isinstance(error, FileExistsError):
                raise
            continue
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if mode is not None:
            os.fchmod(descriptor, mode)
        if os.fstat(descriptor).st_nlink:  # none, if it was taken for left behind just now
            return partial.name, descriptor
        os.close(descriptor)
        _AT_WORK.discard(partial)


def _remove_left_behind(folder: int, name: str) -> None:
    """What a process that was killed left of a file of this name: nobody holds its lock."""
    begins = f".{name[:200]}."
    for other in os.listdir(folder):
        token = other[len(begins) : -len(_SUFFIX)]
        if not (other.startswith(begins) and other.endswith(_SUFFIX) and len(token) == 16):
            continue
        try:
            left = os.open(other, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
        except OSError:
            continue  # a link, or not ours to read
        try:
            if stat.S_ISREG(os.fstat(left).st_mode):
                fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(other, dir_fd=folder)
        except OSError:
            pass  # at work, or not ours to remove
        finally:
            os.close(left)
