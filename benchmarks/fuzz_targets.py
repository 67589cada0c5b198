"""What is fuzzed, many inputs in one go: protocol analyzers by conversations, decoders and tracker by frames."""

from __future__ import annotations

import ast
import importlib
import marshal
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout, suppress
from io import StringIO
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, Final, Protocol

import numpy as np

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "traces")]

from marks import Covered, Marks  # noqa: E402
from mutation import MOST_PARTS, Mutator, Talk, decoded  # noqa: E402

_FOLDER: Final = ROOT / "feature_extractors"
# Of content.analyzers, what is compiled by numba or kept by its own name: the same for both.
_AS_INSTALLED: Final = ("automaton", "dns_columns")
_LARGEST_PART: Final = 2048
_LARGEST_ENTRY: Final = 1_000_000  # bytes


class Target(Protocol):
    name: str
    marks: Marks
    batch: int  # conversations in one go
    mutator: Mutator
    about: str

    def seeds(self) -> list[Talk]:
        """Those of tests/traces."""

    def more_seeds(self, captures: Path | None) -> Iterator[list[Talk]]:
        """Others, some at a time, of which those are kept that reach something new."""

    def mutant(self, talk: Talk, other: Talk) -> tuple[Talk, int]:
        """A mutant, and as how many inputs it counts."""

    def run(self, talks: Sequence[Talk]) -> None:
        """Reads the conversations as one capture; whatever it raises is a fault."""


class Analyzers:
    """Conversations, each a connection of its own in one block of segments, through `Content`.

    They are read twice: as Python with marks, in one block, and as installed (compiled, if the analyzers are), in some
    blocks and only what is still wanted. Both must say the same.
    """

    name = "analyzers"
    batch = 128

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.marks = Marks()
        names = [p.stem for p in sorted((_FOLDER / "content" / "analyzers").glob("*.py"))]
        python = [f"content.analyzers.{n}" for n in names if n not in ("__init__", *_AS_INSTALLED)]
        # Messages that are read with their block are read by the same compiled code for both.
        loaded = Covered(
            self.marks, ["content.reassembly", *python], [f"content.analyzers.{n}" for n in _AS_INSTALLED]
        )
        import fuzzed
        from made_segments import segments

        from feature_extractors.compiled import mypyc_build
        from feature_extractors.content import reassembly
        from feature_extractors.extract import Extractor

        self._input, self._segments = fuzzed, segments
        self._extractor = Extractor
        self._covered: Any = importlib.import_module("covered.content.reassembly").Content
        self._installed: Any = reassembly.Content
        compiled = mypyc_build.built() and not str(reassembly.__file__).endswith(".py")
        self.about = "compiled" if compiled else "not compiled"
        self.mutator = Mutator(rng, self._tokens(loaded), len(fuzzed.PORTS), 2048)

    def _tokens(self, loaded: Covered) -> list[list[bytes]]:
        """By port: the constants of its analyzer, and some of the modules that it imports."""
        dpd, registry = (
            importlib.import_module(f"covered.content.analyzers.{n}") for n in ("dpd", "registry")
        )
        everything = sorted(set().union(*(loaded.tokens[n] for n in loaded.tokens)))
        by_port = []
        for i, port in enumerate(self._input.PORTS):
            is_udp = i >= self._input.FIRST_UDP
            name = (dpd.UDP_PORTS if is_udp else dpd.TCP_PORTS).get(port)
            module = getattr(registry.ANALYZERS.get(name), "__module__", "").rpartition(".")[2]
            if not module:
                by_port.append(everything)
                continue
            tree = ast.parse((_FOLDER / "content" / "analyzers" / f"{module}.py").read_text())
            imported = {
                str(n.module).rpartition(".")[2] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)
            } - {"base", "registry", "reassembly", module}
            others = sorted(set().union(*(loaded.tokens.get(n, set()) for n in imported)))
            some = self._rng.sample(others, min(150, len(others)))
            by_port.append(sorted(loaded.tokens[module]) + some)
        return by_port

    def seeds(self) -> list[Talk]:
        lines = (ROOT / "tests" / "traces" / "fuzzed.txt").read_text().split()
        return [decoded(bytes.fromhex(line)) for line in lines]

    def more_seeds(self, captures: Path | None) -> Iterator[list[Talk]]:
        """What the tests of the analyzers have said, then what connections of captures say."""
        yield from _some(self._said_in_tests(), self.batch)
        for path in _files(captures):
            heard = _Heard()
            extractor = self._extractor()
            extractor._content = heard
            for block in _blocks(path):
                extractor.receive(block)
            talks = [self._talk(*first, parts) for first, parts in heard.connections.values()]
            yield from _some(talks, self.batch)

    def _talk(self, ip_proto: int, port: int, parts: Sequence[tuple[bool, bytes]]) -> Talk:
        first = self._input.FIRST_UDP
        ports = self._input.PORTS
        some = ports[first:] if ip_proto == 17 else ports[:first]
        kind = some.index(port if port in some else 9999) + (first if ip_proto == 17 else 0)
        return kind, [(int(is_orig), data[:_LARGEST_PART]) for is_orig, data in parts[:MOST_PARTS]]

    def _said_in_tests(self) -> list[Talk]:
        import made_segments
        import pytest

        said: list[Talk] = []
        segments = made_segments.segments

        def listening(pieces: Sequence[Any]) -> Any:
            for number in {p.connection for p in pieces}:
                own = [p for p in pieces if p.connection == number]
                said.append(self._talk(own[0].ip_proto, own[0].resp_p, [(p.is_orig, p.data) for p in own]))
            return segments(pieces)

        made_segments.segments = listening
        try:
            folder = ROOT / "tests" / "unit" / "feature_extractors" / "content"
            some = [folder / "test_content.py", *sorted((folder / "analyzers").glob("test_[!f]*.py"))]
            with redirect_stdout(StringIO()):
                pytest.main([*map(str, some), "-q", "-p", "no:cacheprovider"])
        finally:
            made_segments.segments = segments
        return said

    def mutant(self, talk: Talk, other: Talk) -> tuple[Talk, int]:
        return self.mutator.mutant(talk, other), 1

    def run(self, talks: Sequence[Talk]) -> None:
        pieces = [p for i, (kind, parts) in enumerate(talks) for p in self._input.connection(kind, parts, i)]
        if not pieces:
            return
        pieces.sort(key=lambda p: p.ts)  # connections side by side
        serials = np.unique([p.connection for p in pieces])
        ends = {s: [0, 0] for s in serials.tolist()}
        for p in pieces:
            side = ends[p.connection]
            side[not p.is_orig] = max(side[not p.is_orig], p.offset + p.length)
        reached = np.array(list(ends.values()))
        whole = self._covered(self._input.LIMITS)
        whole.receive(self._segments(pieces))
        said = self._closed(whole, serials, reached)
        cut = self._installed(self._input.LIMITS)
        wanted: dict[int, tuple[int, int]] = {}
        times = self._rng.randrange(4) if len(talks) > 1 else len(pieces) - 1
        edges = {0, len(pieces), *(self._rng.randrange(len(pieces)) for _ in range(times))}
        if len(talks) == 1:
            edges.update(range(len(pieces)))
        for a, b in pairwise(sorted(edges)):
            some = [p for p in pieces[a:b] if self._is_wanted(p, wanted)]
            if not some:
                continue
            answer = cut.receive(self._segments(some))
            wanted.update(
                zip(
                    answer.connection.tolist(),
                    zip(answer.resp_from.tolist(), answer.orig_from.tolist(), strict=True),
                    strict=True,
                )
            )
        assert self._closed(cut, serials, reached) == said, "read otherwise when cut, or when compiled"

    @staticmethod
    def _is_wanted(piece: Any, wanted: dict[int, tuple[int, int]]) -> bool:
        bounds = wanted.get(piece.connection)
        if bounds is None:
            return True
        return bool(
            (piece.offset + piece.length if piece.offset >= 0 else 0) > bounds[piece.is_orig]
            or not bounds[piece.is_orig]
        )

    def _closed(self, content: Any, serials: Any, reached: Any) -> tuple[list[str], list[bytes], list[int]]:
        services, entries, starts = content.close(serials, serials.astype("S20"), reached)
        limits = self._input.LIMITS
        assert not content._connections, "a connection is still held"
        assert content._pending_total == 0, "bytes are still held"
        assert content._run.entries_open == content._run.bytes_open == 0, "entries are still held"
        assert (np.diff(starts) <= limits.log_entries).all(), "too many entries"
        return services, _written(entries), starts.tolist()


class Frames:
    """Conversations of frames, one after the other in one block, through the whole extractor.

    Decoders and tracker are compiled with marks and checks of every index. Whole and cut into some blocks, with tables
    that lie otherwise, the frames must come to the same; each counts somewhere, each connection ends once, and all
    room is given back.
    """

    name = "frames"
    batch = 192

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.marks = Marks()
        modules = [
            n
            for n in ("decode", "fragments", "link", "table", "tcp", "tracker")
            if (_FOLDER / "tracker" / f"{n}.py").exists()
        ]
        loaded = Covered(
            self.marks,
            compiled=[f"tracker.{n}" for n in modules] + [f"content.analyzers.{n}" for n in _AS_INSTALLED],
        )
        import fuzzed_frames

        from feature_extractors import extract
        from feature_extractors.content.analyzers.base import ContentLimits
        from feature_extractors.observations import Stage, concat
        from feature_extractors.tracker import state

        self._input, self._extract, self._state, self._concat = fuzzed_frames, extract, state, concat
        self._final = Stage.FINAL
        self._limits = [
            extract.ExtractorLimits(
                state.TrackerLimits(connections=n, blocks_per_direction=b, fragments=f),
                ContentLimits(pending_bytes=4096, pending_segments=8, log_entries=64, buffer_bytes=8192),
            )
            for n, b, f in ((32, 4, 4), (200, 8, 16), (4096, 256, 256))
        ]
        tokens = sorted(
            set().union(*(loaded.tokens[n] for n in modules if n in loaded.tokens)) | set(_HEADERS)
        )
        self.mutator = Mutator(rng, [tokens], len(fuzzed_frames.LINKS), 2048)
        self.about = "compiled, every index checked"

    def seeds(self) -> list[Talk]:
        lines = (ROOT / "tests" / "traces" / "fuzzed_frames.txt").read_text().split()
        return [decoded(bytes.fromhex(line)) for line in lines]

    def more_seeds(self, captures: Path | None) -> Iterator[list[Talk]]:
        """Frames of captures, some in a row from each."""
        links = self._input.LINKS
        for path in _files(captures):
            for block in _blocks(path):
                talks = []
                for first in range(0, min(len(block), 64 * MOST_PARTS), MOST_PARTS):
                    parts = []
                    for i in range(first, min(first + MOST_PARTS, len(block))):
                        begin, size = int(block.start[i]), min(int(block.captured[i]), _LARGEST_PART)
                        parts.append((1, block.data[begin : begin + size].tobytes()))
                    if (link := int(block.link[first])) in links:
                        talks.append((links.index(link), parts))
                yield from _some(talks, self.batch)
                break

    def mutant(self, talk: Talk, other: Talk) -> tuple[Talk, int]:
        mutant, n = self.mutator.every_part(talk, other, 0.8)
        rng = self._rng
        if rng.random() < 0.3 and mutant[1]:
            parts = mutant[1]
            k = rng.randrange(len(parts))
            parts[k] = parts[k][0], _answer(parts[k][1])
        return mutant, n

    def block(self, talks: Sequence[Talk]) -> Any:
        frames = self._input
        data = [part for _, parts in talks for _, part in parts]
        flags = np.array([f for _, parts in talks for f, _ in parts], np.int64)
        links = np.array(
            [frames.LINKS[kind % len(frames.LINKS)] for kind, parts in talks for _ in parts], np.int32
        )
        sizes = np.array([len(d) for d in data], np.int32)
        start = np.zeros(len(data), np.int64)
        np.cumsum(sizes[:-1], out=start[1:])
        return self._extract.FrameBlock(
            np.frombuffer(b"".join(data), np.uint8),  # no byte between frames, and none after the last
            start,
            sizes,
            sizes + np.array((0, 40, 1500, 60_000), np.int32)[flags >> 3 & 3],
            1e9 + np.cumsum(np.array(frames.PAUSES)[flags & 7]),
            links,
        )

    def run(self, talks: Sequence[Talk]) -> None:
        block = self.block(talks)
        n = len(block)
        if not n:
            return
        limits = self._limits[self._rng.randrange(3) if len(talks) > 1 else 0]
        columns = ("start", "captured", "length", "ts", "link")
        edges = [0, *sorted(self._rng.randrange(n + 1) for _ in range(self._rng.randrange(4))), n]
        if len(talks) == 1:
            edges = list(range(n + 1))
        cut = [
            self._extract.FrameBlock(block.data, *(getattr(block, c)[a:b] for c in columns))
            for a, b in pairwise(edges)
        ]
        assert self._tracked([block], limits) == self._tracked(cut, limits), "cutting changed what came of it"

    def _tracked(self, blocks: Sequence[Any], limits: Any) -> tuple[str, list[str], list[bytes]]:
        extractor = self._extract.Extractor(limits, early=True)
        windows = self._concat([*(extractor.receive(b) for b in blocks), extractor.finish()])
        st, names = extractor._state, self._state
        n = st.n
        assert n[names.N_DECODED] + st.counts.sum() >= sum(map(len, blocks)), "a frame counts nowhere"
        stages = windows.connections.stage
        assert (stages == self._final).sum() == n[names.N_SERIAL], "a connection that does not end once"
        assert n[names.N_FREE] == len(st.conns), "a connection is still held"
        assert n[names.N_FREE_KEPT] == len(st.kept), "a packet is still held"
        assert n[names.N_FREE_BLOCKS] == len(st.blocks), "a block is still held"
        assert (np.diff(windows.connections.end) >= 0).all(), "rows out of order"
        return self._input.said(windows), windows.connections.service, _written(windows.logs)


class _Heard:
    """In the place of `Content`: remembers how each connection begins, and wants all of it."""

    def __init__(self) -> None:
        self.connections: dict[int, tuple[tuple[int, int], list[tuple[bool, bytes]]]] = {}

    def receive(self, s: Any) -> Any:
        from feature_extractors.content.segments import Wanted

        for i, serial in enumerate(s.connection.tolist()):
            first = int(s.ip_proto[i]), int(s.resp_p[i])
            _, parts = self.connections.setdefault(serial, (first, []))
            if len(parts) < MOST_PARTS:
                begin = int(s.start[i])
                parts.append((bool(s.is_orig[i]), s.data[begin : begin + int(s.captured[i])].tobytes()))
        return Wanted(*(np.zeros(0, np.int64) for _ in range(3)))

    def close(self, connections: Any, _uids: Any, _ends: Any) -> Any:
        return [""] * len(connections), [], np.zeros(len(connections) + 1, np.int64)


def _files(folder: Path | None) -> list[Path]:
    """Captures of up to two megabytes, the small ones first."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.stat().st_size < 2_000_000] if folder else []
    return sorted(files, key=lambda p: (p.stat().st_size, p))


def _blocks(path: Path) -> Iterator[Any]:
    from feature_extractors.errors import CaptureError
    from feature_extractors.readers.native import NativeReader

    with suppress(CaptureError):
        yield from NativeReader(path)


def _some(talks: list[Talk], size: int) -> Iterator[list[Talk]]:
    return (talks[i : i + size] for i in range(0, len(talks), size))


def _written(entries: Sequence[Any]) -> list[bytes]:
    """Log entries as bytes, which are cheaper to make and to compare than JSON, and tell -0.0 from 0.0."""
    texts = [marshal.dumps((e.stream, e.ts, e.uid, e.fields), 2) for e in entries]
    assert max(map(len, texts), default=0) < _LARGEST_ENTRY, "an entry without bounds"
    return texts


def _answer(frame: bytes) -> bytes:
    """The same frame from the other side, where it is Ethernet with IPv4 or raw IPv4."""
    for at in (14, 0, 16, 18):
        if frame[at : at + 1] == b"\x45" and len(frame) >= at + 24:
            ip = frame[at:]
            return frame[:at] + ip[:12] + ip[16:20] + ip[12:16] + ip[22:24] + ip[20:22] + ip[24:]
    return frame


_V4: Final = bytes.fromhex("45000028000100004006000000000001") + b"\x0a\0\0\2"
_V6: Final = bytes.fromhex("6000000000140640") + bytes(15) + b"\1" + bytes(15) + b"\2"
_HEADERS: Final = (
    _V4, _V6, b"\x08\x00" + _V4, b"\x86\xdd" + _V6, b"\x81\0\0\5", b"\x88\x47\0\0\1\xff",
    b"\x88\x64\x11\0\0\1\0\x2a\0\x21",
    b"\x2f", b"\x04", b"\x29", b"\x2c", b"\x2b", b"\x3c", b"\0\0\x08\0", b"\x20\0\x88\x0b",
    b"\0\0\x65\x58", b"\x10\0\x88\xbe", b"\x12\xb5",
    b"\x17\xc1", b"\x08\x68", b"\x0d\xd8", b"\x13\xd0", b"\x12\x92", b"\0\x35", b"\0\x50", b"\x01\xbb",
    b"\x50\x02\xff\xff", b"\x50\x12\xff\xff", b"\x50\x10\0\0", b"\x50\x11\1\0", b"\x50\x18\1\0", b"\x50\x04\0\0",
    b"\x20\0", b"\0\xb9", b"\0\x01", b"\0\x08", b"\xaa\xaa\x03\0\0\0\x08\0", b"\1\1\1\1", b"\2\4\5\xb4",
)  # fmt: skip
TARGETS: Final = {"frames": Frames, "analyzers": Analyzers}
