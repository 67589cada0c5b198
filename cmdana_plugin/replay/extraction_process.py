"""Extraction in a child process whose blocks come over a pipe: it has a core to itself while another scores.

A child of this process, forked before anything heavy is loaded, so that it costs next to nothing to start. What
travels is the columns' bytes, and the little else as `marshal` has it: both ends are one program.
"""

from __future__ import annotations

import contextlib
import io
import marshal
import os
import signal
import struct
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, Final

import numpy as np

from cmdana_plugin.logs import Lines
from cmdana_plugin.replay.gc_policy import settle_for_extraction
from feature_extractors import CaptureError, CmdanaError, Connections
from feature_extractors.confinement import confine
from feature_extractors.features import COLUMNS, Encoded, Features, concat_encoded

Numbers = dict[str, int]
Part = tuple[
    Encoded | None, Numbers, list[Lines]
]  # a block, counts as of then, and lines of logs that go with it

HEAD: Final = struct.Struct("<QQ")  # bytes of what is marshalled, bytes of columns
_ALIGN_BYTES: Final = 64  # columns begin at multiples of it
_BLOCK_WINDOWS: Final = 8192  # windows that are handed on at once
_MAX_WAITING_WINDOWS: Final = 32768  # that wait at most, beside the block that comes: some 40 MB
_MAX_WAITING_LINE_BYTES: Final = 64 * 1024 * 1024  # bytes of lines that wait at most, beside those that come
_AHEAD_WINDOWS: Final = 16384  # that wait where the child is ahead
_WORTHWHILE_WINDOWS: Final = 4096  # windows that are handed on at once where so many come
_PATIENCE_SECONDS: Final = 0.5  # within so many seconds
_LOOK_SECONDS: Final = 5.0  # so often the child is looked at while nothing comes, seconds
# seconds of its processor time without a block; compiling takes one minute at most
_STUCK_CPU_SECONDS: Final = 600.0
_CHILD_NICENESS: Final = 3  # niceness of the child: what it makes waits here, so nothing waits for it
_COLUMNS: Final = tuple(
    (part, field.name)
    for part, kind in (("connections", Connections), ("features", Features))
    for field in fields(kind)
    if field.name != "service"
)


_ours: Final[list[int]] = []  # in the child: its end of the pipe


def lock_in(descriptors: int = 64) -> None:
    """Confines the child process for good (`feature_extractors.confinement.confine.lock_in`).

    Called by its work when all that it needs is loaded and open, before the first byte of traffic is looked at.

    From here on the garbage collector runs seldom (`gc_policy`). It may open so many `descriptors` more.
    """
    settle_for_extraction()
    confine.lock_in(_ours[-1], descriptors)


class ChildProcess:
    """An iterator of the parts that `work` yields in a forked child process, in its order.

    What waits when the reader comes back is handed on as one block, for which it waits a little where that is few:
    a large one takes a third less of a detector's time for each window; not so where nothing is to be put `together`.
    Iterating raises the `CmdanaError` of `work` as
    a `CaptureError`, as it does where the child was killed or has computed for `stuck` seconds without a block, and
    `RuntimeError` where it died of a bug. `close` ends it at any time, and it ends with this process too. One that
    `waits` does nothing before it is told to `begin`.
    """

    def __init__(
        self,
        work: Callable[[], Iterator[Part]],
        stuck: float = _STUCK_CPU_SECONDS,
        together: bool = True,
        waits: bool = False,
    ) -> None:
        reading, writing = os.pipe()
        waiting, self._told = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        confine.ready()
        self._child = os.fork()
        if self._child == 0:
            os.close(reading)
            os.close(self._told)
            confine.end_with_parent(parent)
            os.nice(_CHILD_NICENESS)
            _run(work, writing, waiting)
        os.close(writing)
        os.close(waiting)
        self._pipe = open(reading, "rb", buffering=0)
        self._blocks: deque[_Block | None] = deque()
        self._rows = 0  # of the blocks that wait
        self._bytes = 0  # of lines that wait
        self._moved = threading.Condition()
        self._closed = False
        self._ended = False
        self._stuck = stuck
        self._together = together
        self._received = 0  # blocks so far
        self._looked = -1, 0.0  # blocks, and the child's processor time, when nothing came for the first time
        if not waits:
            self.begin()

    def begin(self) -> None:
        """Has the child begin: what is forked after that is forked beside a thread."""
        os.write(self._told, b"!")
        os.close(self._told)
        self._told = -1
        threading.Thread(target=self._receive, daemon=True).start()

    def __iter__(self) -> Iterator[Part]:
        while blocks := self._take():
            kind, header, _ = blocks[-1]
            if kind == "failed":
                raise CaptureError(header)
            if kind == "end":
                self.close()
                return
            parts = [b for _, s, data in blocks if (b := unpacked_part(s, data)) is not None]
            lines = [Lines(*line) for _, s, _ in blocks for line in s["lines"]]
            yield (
                concat_encoded(parts) if len(parts) > 1 else parts[0] if parts else None,
                header["numbers"],
                lines,
            )
        if self._closed:
            return
        self._closed = True
        _, status = os.waitpid(self._child, 0)
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            raise CaptureError(f"extraction was killed by {name}; is memory short?")
        raise RuntimeError("extraction ended before its end: see above")

    def ahead(self) -> bool:
        """Whether the child needs no core for now: it has ended, or `_AHEAD_WINDOWS` windows or more wait."""
        return self._ended or self._rows >= _AHEAD_WINDOWS

    def close(self) -> None:
        """Ends the child if it is still at work."""
        if self._closed:
            return
        self._closed = True
        if self._told >= 0:
            os.close(self._told)
            self._pipe.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # the reader, in another thread, was at its end just now
            os.waitpid(self._child, 0)
        with self._moved:  # lets the thread come to the pipe's end, and a reader in another thread go
            self._blocks.clear()
            self._moved.notify_all()

    def _take(self) -> list[_Block]:
        """What waits, as much as makes one block; none at the pipe's end, or once closed."""
        with self._moved:
            while not self._moved.wait_for(
                lambda: self._blocks or self._closed, min(_LOOK_SECONDS, self._stuck)
            ):
                self._look()
            if self._closed:
                return []
            if self._together:
                self._moved.wait_for(self._worth_taking, _PATIENCE_SECONDS)
            taken: list[_Block] = []
            rows = 0
            while self._blocks and (block := self._blocks[0]) is not None:
                mergeable = self._together and block[0] == "block" and block[1]["columns"] is not None
                if taken and (not mergeable or rows + _rows_of(block) > _BLOCK_WINDOWS):
                    break
                taken.append(block)
                self._blocks.popleft()
                rows += _rows_of(block)
                if not mergeable:
                    break
            self._rows -= rows
            self._bytes -= sum(map(_bytes_of, taken))
            self._moved.notify()
            return taken

    def _look(self) -> None:
        """Ends a child that computes and computes. One that waits, for the disk or for a processor, is let be."""
        used = _processor_seconds(self._child)
        blocks, since = self._looked
        if blocks != self._received:
            self._looked = self._received, used
        elif used - since > self._stuck:
            self.close()
            raise CaptureError(
                f"extraction has computed for {used - since:.0f} s without getting on, after {blocks} blocks; "
                "please report this capture as a fault"
            )

    def _worth_taking(self) -> bool:
        last = self._blocks[-1] if self._blocks else None
        return self._rows >= _WORTHWHILE_WINDOWS or last is None or not _rows_of(last)

    def _receive(self) -> None:
        """Takes blocks off the pipe as they come, so that the child seldom waits."""
        try:
            while (head := read_whole(self._pipe, HEAD.size)) is not None:
                words, columns = HEAD.unpack(head)
                header, data = read_whole(self._pipe, words), read_whole(self._pipe, columns)
                if header is None or data is None:
                    break
                kind, value = marshal.loads(header)  # noqa: S302  # written by ourselves
                self._put((kind, value, np.frombuffer(data, np.uint8)))
        finally:
            self._pipe.close()
            self._put(None)

    def _put(self, block: _Block | None) -> None:
        with self._moved:
            self._moved.wait_for(
                lambda: (
                    self._closed
                    or (self._rows < _MAX_WAITING_WINDOWS and self._bytes < _MAX_WAITING_LINE_BYTES)
                )
            )
            if not self._closed:
                self._blocks.append(block)
                self._received += 1
                self._rows += 0 if block is None else _rows_of(block)
                self._bytes += 0 if block is None else _bytes_of(block)
                self._ended |= block is None or block[0] == "end"
            self._moved.notify()


_Block = tuple[str, Any, np.ndarray[tuple[int], np.dtype[np.uint8]]]


def _processor_seconds(pid: int) -> float:
    """What a process has used so far; 0 where the system does not say."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            after = file.read().rpartition(b")")[2].split()  # the name before it may hold anything
    except OSError:
        return 0.0
    return (int(after[11]) + int(after[12])) / os.sysconf("SC_CLK_TCK")


def _rows_of(block: _Block) -> int:
    """The windows of a block; none in what is not one."""
    kind, header, _ = block
    return len(header["service"]) if kind == "block" and header["columns"] is not None else 0


def _bytes_of(block: _Block) -> int:
    """The bytes of lines that come with a block; none in what is not one."""
    kind, header, _ = block
    return sum(len(data) for *_, data in header["lines"]) if kind == "block" else 0


def _run(work: Callable[[], Iterator[Part]], writing: int, waiting: int) -> None:
    """The child, from its first breath to its last: it must not go on in its parent's code."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told too, and ends us
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if not os.read(waiting, 1):
            return  # nobody wants it any more
        os.close(waiting)
        _ours.append(writing)
        with open(writing, "wb", buffering=0) as pipe:
            try:
                for part in work():
                    send(pipe, "block", *packed_part(*part))
                send(pipe, "end", None, [])
                status = 0
            except CmdanaError as error:
                send(pipe, "failed", str(error), [])
                status = 0
            except BrokenPipeError:
                pass  # nobody wants it any more
            except BaseException:  # noqa: BLE001  # a bug: said before the parent sees the end of the pipe
                traceback.print_exc()
                sys.stderr.flush()
    finally:
        os._exit(status)


def packed_part(
    block: Encoded | None, numbers: Numbers, lines: list[Lines]
) -> tuple[dict[str, Any], list[bytes | memoryview]]:
    """What is marshalled of a block, and its columns padded to `_ALIGN_BYTES`."""
    line_tuples = [tuple(line) for line in lines]
    if block is None:
        return {"numbers": numbers, "columns": None, "lines": line_tuples}, []
    arrays = [getattr(getattr(block, part), name) for part, name in _COLUMNS]
    arrays += [getattr(block, name) for name in COLUMNS]
    data: list[bytes | memoryview] = []
    for array in map(np.ascontiguousarray, arrays):
        data += [array.view(np.uint8).reshape(-1).data, bytes(-array.nbytes % _ALIGN_BYTES)]
    header = {
        "numbers": numbers,
        "lines": line_tuples,
        "columns": [(a.dtype.str, a.shape) for a in arrays],
        "service": list(block.connections.service),
        "domain": list(block.domain),
        "schema": block.schema,
    }
    return header, data


def unpacked_part(header: dict[str, Any], data: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> Encoded | None:
    if header["columns"] is None:
        return None
    arrays, at = [], 0
    for kind, shape in header["columns"]:
        dtype = np.dtype(kind)
        size = int(np.prod(shape)) * dtype.itemsize
        arrays.append(data[at : at + size].view(dtype).reshape(shape))
        at += size + -size % _ALIGN_BYTES
    parts: dict[str, dict[str, Any]] = {"connections": {"service": header["service"]}, "features": {}}
    for (part, name), array in zip(_COLUMNS, arrays, strict=False):
        parts[part][name] = array
    return Encoded(
        connections=Connections(**parts["connections"]),
        features=Features(**parts["features"]),
        schema=header["schema"],
        domain=header["domain"],
        **dict(zip(COLUMNS, arrays[len(_COLUMNS) :], strict=True)),
    )


def send(pipe: io.FileIO, kind: str, value: Any, data: list[bytes | memoryview]) -> None:
    header = marshal.dumps((kind, value))
    for part in (HEAD.pack(len(header), sum(map(len, data))), header, *data):
        view = memoryview(part)
        while view:
            view = view[pipe.write(view) :]


def read_whole(pipe: io.FileIO, size: int) -> bytearray | None:
    """Exactly so many bytes; None where the pipe ends before."""
    out = bytearray(size)
    view = memoryview(out)
    while view:
        n = pipe.readinto(view)
        if not n:
            return None
        view = view[n:]
    return out
