"""The traffic of a learning phase: connections in blocks on disk, so that a stop loses nothing.

A folder beside the model to be, readable by its owner only. It holds what a training needs (the columns of `Windows`
and the log entries), so addresses and names too, and is deleted when the model has been made. Each block is written
beside its name and moved onto it; at worst the connections of the last half minute are lost.
"""

from __future__ import annotations

import io
import json
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from cmdana_plugin import files
from feature_extractors import (
    CONN_STATES,
    CmdanaError,
    Connections,
    Counts,
    LogEntry,
    Packets,
    Stage,
    Windows,
    concat,
    take,
)

FORMAT: Final = 1
_ABOUT: Final = "about.json"
_BLOCK_CONNECTIONS: Final = 4096  # connections that are written together
_MAX_WAIT_SECONDS: Final = 30.0  # seconds that fewer wait for more
# Seconds without a connection that count as observed: a longer silence may be a dead Zeek.
_MAX_SILENCE_SECONDS: Final = 600.0
_MAX_HOSTS: Final = 10_000  # hosts whose odd connections are counted
_KEPT_HOSTS: Final = 1000  # of these, kept on disk
_MAX_BLOCK_BYTES: Final = 1 << 30  # of a block, unpacked


class SpoolError(CmdanaError):
    """The folder of a learning phase cannot be used; the message says why and what to do."""


def is_spool(path: Path) -> bool:
    """Whether the folder is one of a learning phase."""
    return (path / _ABOUT).is_file()


class Spool:
    """The blocks of one learning phase, begun or continued. One process at a time holds it."""

    def __init__(
        self,
        folder: Path,
        most: int = 2_000_000,
        *,
        create: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`most` connections are kept, the latest. Raises `SpoolError`."""
        self.folder = folder
        self.counts = Counts()
        self.seen = 0.0  # seconds of network time observed, stops left out
        self.connections = 0
        self.dropped = 0  # connections let go to keep the bound
        self.odd: Counter[str] = Counter()  # originator -> connections that the model before found odd
        self._most = most
        self._clock = clock
        self._blocks: dict[int, int] = {}  # number -> connections
        self._waiting: list[Windows] = []
        self._since = 0.0  # when the first of these came
        self._last = -np.inf  # network time of the latest connection of this run
        if create:
            try:
                folder.mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                raise SpoolError(f"{folder}: cannot be made: {error.strerror}") from None
        elif not is_spool(folder):
            raise SpoolError(f"{folder}: holds no {_ABOUT} of a learning phase")
        self._lock = self._held()
        self._read_about()

    @property
    def waiting(self) -> int:
        """The number of connections that are not on disk yet."""
        return sum(map(len, self._waiting))

    def add(self, windows: Windows) -> None:
        """Appends a block, in order of `end`; early windows are left out, since their connection is still to end."""
        final = np.flatnonzero(windows.connections.stage == Stage.FINAL)
        if len(final):
            kept = windows if len(final) == len(windows) else take(windows, final)
            now = float(kept.connections.end.max())
            if np.isneginf(self._last):
                self._last = float(kept.connections.end.min())
            # From one end to the next, however they are batched: only a silence is cut short.
            steps = np.diff(
                np.sort(kept.connections.end[kept.connections.end > self._last]), prepend=self._last
            )
            self.seen += float(np.minimum(steps, _MAX_SILENCE_SECONDS).sum())
            self._last = max(self._last, now)
            if not self._waiting:
                self._since = self._clock()
            self._waiting.append(kept)
            self.connections += len(kept)
        if self._waiting and (
            self.waiting >= _BLOCK_CONNECTIONS or self._clock() - self._since >= _MAX_WAIT_SECONDS
        ):
            self.flush()

    def suspect(self, host: str) -> None:
        """Counts an odd connection of this originator, by the verdict of the present model."""
        if host in self.odd or len(self.odd) < _MAX_HOSTS:
            self.odd[host] += 1

    def flush(self) -> None:
        """Writes the connections that wait. Raises `SpoolError`."""
        if self._waiting:
            windows = concat(self._waiting)
            number = max(self._blocks, default=0) + 1
            self._write(f"{number:08d}.npz", _packed(windows))
            self._blocks[number] = len(windows)
            self._waiting.clear()
            held = sum(self._blocks.values())
            while held > self._most and len(self._blocks) > 1:
                oldest = min(self._blocks)
                (self.folder / f"{oldest:08d}.npz").unlink(missing_ok=True)
                n = self._blocks.pop(oldest)
                held -= n
                self.dropped += n
        about = {
            "format": FORMAT,
            "seen": round(self.seen, 3),
            "connections": self.connections,
            "dropped": self.dropped,
            "blocks": {str(number): n for number, n in self._blocks.items()},
            "odd": dict(self.odd.most_common(_KEPT_HOSTS)),
        }
        self._write(_ABOUT, json.dumps(about).encode())

    def windows(self) -> Iterator[Windows]:
        """The blocks on disk in order; one that is damaged is counted as `learning_block_damaged` and passed over."""
        for number in sorted(self._blocks):
            try:
                yield _unpacked((self.folder / f"{number:08d}.npz").read_bytes())
            except (
                OSError, ValueError, TypeError, KeyError, EOFError, RecursionError, NotImplementedError, RuntimeError,
                zipfile.BadZipFile, zlib.error,
            ):  # fmt: skip  # whatever a file that is no block of ours makes the readers raise
                self.counts.add("learning_block_damaged")

    def close(self) -> None:
        """Writes the connections that wait and unlocks the folder."""
        try:
            self.flush()
        finally:
            self._lock.close()

    def delete(self) -> None:
        """Deletes the folder: the model has been made."""
        for path in [*self.folder.glob("*.npz"), *self.folder.glob(".*.partial"), self.folder / _ABOUT]:
            path.unlink(missing_ok=True)
        self._lock.close()
        (self.folder / ".lock").unlink(missing_ok=True)
        self.folder.rmdir()

    def _held(self) -> IO[bytes]:
        try:
            lock = files.lock_file(self.folder / ".lock")
        except OSError as error:
            raise SpoolError(f"{self.folder}: cannot be written: {error.strerror}") from None
        if lock is None:
            raise SpoolError(f"{self.folder}: another `cmdana train` uses it")
        return open(lock, "rb", buffering=0)

    def _read_about(self) -> None:
        path = self.folder / _ABOUT
        if not path.exists():
            return
        try:
            about = json.loads(path.read_bytes())
            found = about["format"]
            if found == FORMAT:
                seen = float(about["seen"])
                if not 0.0 <= seen < 1e12:
                    raise ValueError(f"seen: found {seen}")
                self.seen, self.connections = seen, _count(about["connections"])
                self.dropped = _count(about["dropped"])
                self._blocks = {int(number): _count(n) for number, n in about["blocks"].items()}
                self.odd.update({str(host)[:64]: _count(n) for host, n in about["odd"].items()})
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            RecursionError,
        ) as error:
            raise SpoolError(f"{path}: is damaged ({error}); delete {self.folder} to begin anew") from None
        if found != FORMAT:
            raise SpoolError(
                f"{path}: found format {found!r}, expected {FORMAT}: made by another version of cmdana"
            )

    def _write(self, name: str, content: bytes) -> None:
        try:
            files.replace(self.folder / name, content, 0o600)
        except OSError as error:
            raise SpoolError(f"{self.folder / name}: cannot be written: {error.strerror}") from None


def _packed(windows: Windows) -> bytes:
    arrays: dict[str, Any] = {"packet_start": windows.packet_start, "log_start": windows.log_start}
    for field in fields(Connections):
        arrays[f"connections.{field.name}"] = np.asarray(getattr(windows.connections, field.name))
    if not len(windows.connections.service):
        arrays["connections.service"] = np.zeros(0, "U1")
    for field in fields(Packets):
        arrays[f"packets.{field.name}"] = getattr(windows.packets, field.name)
    logs = [[e.stream, e.ts, e.uid, dict(e.fields)] for e in windows.logs]
    arrays["logs"] = np.frombuffer(json.dumps(logs).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _unpacked(content: bytes) -> Windows:
    """Raises `ValueError` and its kin for what is no block: each column is compared with what `Windows` says of it."""
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        if sum(member.file_size for member in packed.infolist()) > _MAX_BLOCK_BYTES:
            raise ValueError(f"more than {_MAX_BLOCK_BYTES:,} bytes unpacked")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        connections: dict[str, Any] = {f.name: arrays[f"connections.{f.name}"] for f in fields(Connections)}
        packets = {f.name: arrays[f"packets.{f.name}"] for f in fields(Packets)}
        packet_start, log_start = arrays["packet_start"], arrays["log_start"]
        parsed = json.loads(arrays["logs"].tobytes())
    logs = [_entry(*one) for one in parsed]
    n = len(connections["ts"])
    for kind, columns, size in ((Connections, connections, n), (Packets, packets, len(packets["ts"]))):
        for field in fields(kind):
            _column(field.name, columns[field.name], size)
    for start, owned in ((packet_start, len(packets["ts"])), (log_start, len(logs))):
        if start.dtype != np.int64 or start.shape != (n + 1,) or start[0] != 0 or start[-1] != owned:
            raise ValueError("rows that own what is not there")
        if (np.diff(start) < 0).any():
            raise ValueError("rows that own less than nothing")
    for name in ("ts", "end"):
        if not np.isfinite(connections[name]).all():
            raise ValueError(f"{name}: found no finite time")
    if n and not ((connections["conn_state"] >= -1) & (connections["conn_state"] < len(CONN_STATES))).all():
        raise ValueError("conn_state: found none of Zeek's")
    connections["service"] = connections["service"].tolist()
    return Windows(Connections(**connections), Packets(**packets), packet_start, logs, log_start)


def _column(name: str, column: np.ndarray[Any, Any], size: int) -> None:
    shape = (size, 16) if name in ("orig_h", "resp_h") else (size,)
    fits = column.dtype.kind == "U" if name == "service" else column.dtype == _COLUMN_TYPES[name]
    if not fits or column.shape != shape:
        raise ValueError(f"{name}: found {column.dtype} {column.shape}")


def _entry(stream: object, ts: object, uid: object, parsed: object) -> LogEntry:
    if not (isinstance(stream, str) and isinstance(uid, str) and isinstance(parsed, dict)):
        raise ValueError("logs: found no entry")
    if isinstance(ts, bool) or not isinstance(ts, (int, float)) or not abs(ts) < 1e300:
        raise ValueError("logs: found no time")
    return LogEntry(stream, float(ts), uid, parsed)


def _count(x: object) -> int:
    if not isinstance(x, int) or isinstance(x, bool) or not 0 <= x < 1 << 53:
        raise ValueError(f"found {str(x)[:40]!r}, expected a count")
    return x


_COLUMN_TYPES: Final = {
    "uid": "S20", "ts": "f8", "end": "f8", "stage": "i1", "orig_h": "u1", "resp_h": "u1", "orig_p": "u2",
    "resp_p": "u2", "ip_proto": "u1", "duration": "f8", "orig_bytes": "i8", "resp_bytes": "i8", "conn_state": "i1",
    "missed_bytes": "i8", "history": "S64", "orig_pkts": "i8", "orig_ip_bytes": "i8", "resp_pkts": "i8",
    "resp_ip_bytes": "i8", "vlan": "i4", "inner_vlan": "i4", "tunneled": "?", "is_orig": "?", "ip_length": "i4",
    "payload": "i4", "flags": "i2", "window": "i4", "ttl_delta": "i2", "entropy": "f4", "printable": "f4",
    "retransmit": "i1", "gap": "i1", "options": "i4",
}  # fmt: skip
