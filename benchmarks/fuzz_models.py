"""Model files mutated at random: each is refused in one line, or loads and gives scores. Nothing else may happen.

    python -m benchmarks.fuzz_models 1000000 --seed 1

Mutates the smallest model that has every part: the header's JSON and length, offsets, types, values of tensors, and
the metadata. Each chunk is judged in a child of its own, so that a fault of memory is seen as one and its seed is
told; a file that makes trouble is kept in --keep.

What a mutation left alone is not checked or computed again: a file in which only values or metadata differ is not
parsed, a part whose tensors are the untouched file's is not checked, and components that no changed tensor enters are
those of the untouched model. One file in 64 goes the whole way besides, and must come to the same.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "tests" / "unit")]

_CHUNK = 2000  # files of one child
_WHOLE_WAY = 64  # of so many files one is read the whole way as well
_SLOW = 5.0  # seconds of the processor that one file may take
_MEMORY = 8 << 30  # bytes of addresses that a child may have
_place = -1  # the file in which a child says which of its files it is at
_ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 0.5, 1e308, float("nan"), float("inf"), 2**31, 2**63, 10**400, "", "x", "\x1b[2J\n", [], [[]],
    {}, [0] * 50, "\ud800", "9" * 5000,
)  # fmt: skip
_WORDS = (0, 1, 0x7F, 0xFF, 0x7FC00000, 0x7F800000, 0xFF800000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1_000_000)


@dataclass(slots=True)
class Mutant:
    """A mutated model file, not yet written."""

    table: dict[str, Any]  # what the header says
    data: bytes
    header: bytes | None  # None: `table` as JSON
    size: int | None = None  # the header's length, where it is a lie
    alike: bool = True  # only values and metadata differ from the file that it was
    touched: frozenset[str] = frozenset()  # tensors whose values may differ

    def content(self) -> bytes:
        header = self.written()
        return struct.pack("<Q", len(header) if self.size is None else self.size) + header + self.data

    def written(self) -> bytes:
        if self.header is None:
            self.header = json.dumps(self.table).encode("utf-8", "replace")
        return self.header


class Mutator:
    """A generator of mutants of one model file."""

    def __init__(self, content: bytes) -> None:
        (size,) = struct.unpack_from("<Q", content)
        self.header = content[8 : 8 + size]
        self.data = content[8 + size :]
        self.table: dict[str, Any] = json.loads(self.header)
        self.names = [k for k in self.table if k != "__metadata__"]
        # Most bytes are the network's: the rest would hardly ever be hit.
        self.parts = [k for k in self.names if not k.startswith("network.")]

    def make(self, rng: random.Random) -> Mutant:
        made = Mutant(self.table, self.data, self.header)
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
            kind = rng.random()
            if kind < 0.40:
                self._values(rng, made)
                continue
            if kind < 0.65:
                self._meta(rng, made)
                continue
            made.alike = False
            if kind < 0.82:
                made.table, made.header = self._tensor(rng, made.table), None
            elif kind < 0.94:
                made.header = _bytes(rng, made.written())
                made.table = _parsed(made.header) or self.table
            elif kind < 0.97 and rng.random() < 0.5:
                made.data = made.data[: rng.randrange(len(made.data) + 1)]
            elif kind < 0.97:
                made.data += b"\0" * rng.randrange(99)
            else:
                made.size = rng.choice(
                    (0, 1, 2**31, 2**63, 2**64 - 1, len(made.written()) + rng.randrange(-9, 9))
                )
        return made

    def _values(self, rng: random.Random, made: Mutant) -> None:
        name = rng.choice(self.parts if rng.random() < 0.8 else self.names)
        begin, end = self.table[name]["data_offsets"]
        if end - begin < 8 or end > len(made.data):  # the latter where another mutation has cut it off
            return
        out = bytearray(made.data)
        at = begin + rng.randrange(end - begin - 7) // 4 * 4
        if rng.random() < 0.3:
            out[at + rng.randrange(4)] ^= 1 << rng.randrange(8)
        elif rng.random() < 0.5:
            struct.pack_into("<I", out, at, rng.choice(_WORDS))
        elif rng.random() < 0.5:
            struct.pack_into(
                "<d", out, at, rng.choice((float("nan"), float("inf"), -1.0, 1e300, 1e-300, 0.5))
            )
        else:
            out[begin:end] = out[at : at + 4] * ((end - begin) // 4) + bytes((end - begin) % 4)
        made.data = bytes(out)
        made.touched |= {name}

    def _meta(self, rng: random.Random, made: Mutant) -> None:
        meta = dict(made.table.get("__metadata__") or {})
        name = rng.choice(sorted(meta) or ["x"])
        try:
            value = json.loads(meta.get(name, ""))
            text = json.dumps(_changed(rng, value))
        except (ValueError, RecursionError):
            text = rng.choice((json.dumps(rng.choice(_ODD)), "[" * 10_000, ""))
        if rng.random() < 0.2:
            text = _bytes(rng, text.encode()).decode("utf-8", "replace")
        meta[name] = text
        if rng.random() < 0.05:
            del meta[name]
        made.table, made.header = made.table | {"__metadata__": meta}, None

    def _tensor(self, rng: random.Random, before: dict[str, Any]) -> dict[str, Any]:
        table = dict(before)
        name = rng.choice([k for k in table if k != "__metadata__"] or self.names)
        tensor = dict(table.get(name) or {})
        what = rng.randrange(6)
        shape = list(tensor.get("shape") or [1])
        if what == 0:
            tensor["dtype"] = rng.choice(
                ("F32", "F64", "I32", "I64", "BOOL", "U8", "BF16", "F8_E4M3", "F4", "x")
            )
        elif what == 1:
            shape[rng.randrange(len(shape))] = rng.choice((0, 1, 3, -1, 2**32, 2**63))
            tensor["shape"] = shape
        elif what == 2:  # the same number of values, otherwise
            tensor["shape"] = (
                [*reversed(shape)] if rng.random() < 0.5 else [int(np.prod(shape, dtype=np.float64))]
            )
        elif what == 3:
            offsets = list(tensor.get("data_offsets") or [0, 0])
            offsets[rng.randrange(2) % len(offsets)] = rng.choice((0, 4, 2**31, 2**63, len(self.data)))
            tensor["data_offsets"] = offsets
        elif what == 4:
            table[rng.choice((f"{name}.x", "network.x", "tail.log.1", "trees.depth", "\x1b"))] = table.pop(
                name
            )
            return table
        else:
            other = rng.choice(self.names)
            table[name], table[other] = table.get(other), table.get(name)
            return table
        return table | {name: tensor}


def _parsed(header: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(header)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and all(isinstance(v, dict) for v in found.values()) else None


def _bytes(rng: random.Random, text: bytes) -> bytes:
    out = bytearray(text or b" ")
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(out))
        if rng.random() < 0.5:
            out[at] = rng.randrange(256)
        else:
            out[at : at + rng.randrange(3)] = rng.choice(
                (b'"', b"{", b"[", b",", b"9", b"\\", b"\x00", b"\xff", b"")
            )
            out = out or bytearray(b" ")
    return bytes(out)


def _changed(rng: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {("x" if k == name else k): v for k, v in value.items()}
        return value | {name: _changed(rng, value[name])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], _changed(rng, value[at]), *value[at + 1 :]]
    if isinstance(value, int | float) and abs(value) < 2**1000 and rng.random() < 0.4:
        return value * rng.choice((-1, 2, 0.5, 1000))
    return rng.choice(_ODD)


class Known:
    """The checks of `soundness`, less those of what the untouched file has passed."""

    def __init__(self, sound: Any, tensors: dict[str, Any], meta: dict[str, str], schema: Any) -> None:
        self._sound, self._meta = sound, meta
        self._shape = sound.shape_of(meta, schema)
        self._classes = sound.classes_of(meta)
        self._detector = sound.detector_of(meta)
        self._weights = sound.weights_of(meta, tensors, self._detector)
        self._tails = sound.tails_of(meta, tensors, self._weights)
        self.groups: set[str] = set()  # whose tensors differ

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sound, name)

    def check_names(self, tensors: Any) -> None:
        """The names are the untouched file's."""

    def tails_of(self, meta: dict[str, str], tensors: Any, weights: dict[str, float]) -> Any:
        if "tail" in self.groups or meta.get("tails") != self._meta["tails"] or weights != self._weights:
            return self._sound.tails_of(meta, tensors, weights)
        return self._tails

    def check_network(self, shape: Any, tensors: Any, detector: str, classes: int) -> None:
        if "network" in self.groups or (shape, detector) != (self._shape, self._detector):
            self._sound.check_network(shape, tensors, detector, classes)

    def check_preparation(self, tensors: Any, schema: Any) -> None:
        if "preparation" in self.groups:
            self._sound.check_preparation(tensors, schema)

    def check_mixture(self, tensors: Any, width: int) -> None:
        if "mixture" in self.groups or self._meta.get("detector") != self._detector:
            self._sound.check_mixture(tensors, width)

    def check_trees(self, prefix: str, tensors: Any, schema: Any, outputs: int) -> None:
        if prefix in self.groups or (prefix == "namer" and outputs != len(self._classes)):
            self._sound.check_trees(prefix, tensors, schema, outputs)


class Judge:
    """Judges a handful of windows with any checkpoint; a network of the same shape is not made anew."""

    def __init__(self, content: bytes) -> None:
        from made_windows import office

        from cmdana_plugin.detector import checkpoint, cross_modal, inputs, trees
        from feature_extractors.features.encoding import encoded
        from feature_extractors.features.schema import load_schema

        self._checkpoint, self._make, self._schema = checkpoint, cross_modal.CrossModal, load_schema()
        self._windows = encoded(office(6, seed=1), self._schema)
        self._detector = self._make(
            checkpoint.loads(content, Path("small"), self._schema), self._schema, hosts=64
        )
        self._parameters = dict(self._detector.engine.network.named_parameters())
        self._tensors, self._meta = checkpoint._opened(content)
        self._places = Mutator(content).table
        self._known = Known(checkpoint.sound, self._tensors, self._meta, self._schema)
        # What the untouched model says of the windows, and what its parts are given.
        self._whole = self._detector.checkpoint
        self._raw, self._gate, _ = self._detector.raw(self._windows)
        seen = self._detector.seen
        assert seen is not None
        self._seen = seen
        prepared = inputs.prepare(seen.features, seen.state, self._whole.preparation, self._schema)
        self._plain = cross_modal.density_input(prepared, self._schema)
        self._wide = cross_modal.isolation_input(prepared, self._schema)
        self._table = trees.tabulate(seen.features, seen.state)

    def judge(self, content: bytes) -> str:
        """`refused`, or `scored`; anything else raises."""
        return self._came_to(lambda: self._loaded(content))[0]

    def judge_mutant(self, mutant: Mutant, whole_way: bool = False) -> str:
        """As `judge`, without what the mutant shares with the untouched file; or both ways."""
        text = mutant.table.get("__metadata__")
        if not mutant.alike or not isinstance(text, dict) or not all(map(_plain, text.values())):
            found = self._came_to(lambda: self._compared(mutant.content()))
        else:
            found = self._came_to(lambda: self._rebuilt(mutant, text))
        if whole_way:
            expected = self._came_to(lambda: self._loaded(mutant.content()))
            # Of several faults safetensors' order, which is none, says which is met first.
            same = found == expected if mutant.alike else found[::2] == expected[::2]
            assert same, f"{found} in short, {expected} the whole way"
        return found[0]

    def _came_to(self, load: Callable[[], tuple[Any, Any]]) -> tuple[str, str, list[float]]:
        """Whether it was refused or scored, in which words, and the scores."""
        from feature_extractors.errors import CmdanaError

        try:
            checkpoint, receive = load()
        except CmdanaError as error:
            line = str(error)
            if not line.isprintable() or len(line) > 500:
                raise AssertionError(f"a line that is none: {line!r}") from error
            return "refused", line, []
        scores = receive(checkpoint)
        assert len(scores.score) == len(self._windows), "scores of another number"
        assert ((scores.score >= 0) & (scores.score <= 1)).all(), f"a score of {scores.score}"
        assert ((scores.p_value > 0) & (scores.p_value <= 1)).all(), f"a p-value of {scores.p_value}"
        assert np.isfinite(scores.reliance).all(), "a reliance that is no number"
        return "scored", "", [*scores.score.tolist(), *scores.p_value.tolist()]

    def _loaded(self, content: bytes) -> tuple[Any, Any]:
        return self._checkpoint.loads(content, Path("m.safetensors"), self._schema), self._received

    def _compared(self, content: bytes) -> tuple[Any, Any]:
        """As `_loaded`; where it differs from the untouched model is looked for in its tensors."""
        opened = self._checkpoint._opened
        kept: list[dict[str, Any]] = []

        def remembered(content: bytes) -> Any:
            tensors, meta = opened(content)
            kept.append(tensors)
            return tensors, meta

        self._checkpoint._opened = remembered
        try:
            checkpoint = self._checkpoint.loads(content, Path("m.safetensors"), self._schema)
        finally:
            self._checkpoint._opened = opened
        tensors = kept[0]
        changed = {
            name
            for name, x in tensors.items()
            if name not in self._tensors or not _equal(x, self._tensors[name])
        }
        return self._scoring(
            checkpoint, {n.partition(".")[0] for n in changed | self._tensors.keys() - tensors.keys()}
        )

    def _scoring(self, checkpoint: Any, groups: set[str]) -> tuple[Any, Any]:
        if groups & {"network", "preparation"} or checkpoint.shape != self._whole.shape:
            return checkpoint, self._received
        return checkpoint, lambda checkpoint: self._calibrated(checkpoint, groups)

    def _received(self, checkpoint: Any) -> Any:
        import torch

        detector = self._detector
        if checkpoint.shape == self._whole.shape:
            detector.checkpoint = checkpoint
            for name, parameter in self._parameters.items():
                parameter.data = torch.from_numpy(checkpoint.network[name])
            detector.reset()
        else:
            detector = self._make(checkpoint, self._schema, hosts=64)
        return detector.receive(self._windows)

    def _rebuilt(self, mutant: Mutant, meta: dict[str, str]) -> tuple[Any, Any]:
        tensors = dict(self._tensors)
        for name in mutant.touched:
            begin, end = self._places[name]["data_offsets"]
            old = tensors[name]
            tensors[name] = np.frombuffer(mutant.data[begin:end], old.dtype).reshape(old.shape)
        self._known.groups = groups = {name.partition(".")[0] for name in mutant.touched}
        opened, sound = self._checkpoint._opened, self._checkpoint.sound
        self._checkpoint._opened = lambda content: (tensors, meta)
        self._checkpoint.sound = self._known
        try:
            checkpoint = self._checkpoint.loads(b"", Path("m.safetensors"), self._schema)
        finally:
            self._checkpoint._opened, self._checkpoint.sound = opened, sound
        return self._scoring(checkpoint, groups)

    def _calibrated(self, checkpoint: Any, groups: set[str]) -> Any:
        """Scores where network and preparation are the untouched model's."""
        raw = dict(self._raw)
        if "mixture" in groups:
            raw["density"] = np.round(checkpoint.mixture.score(self._plain), 5)
        for name, forest, table in (
            ("attack", checkpoint.trees, self._table), ("isolation", checkpoint.isolation, self._wide)
        ):  # fmt: skip
            if forest is None:
                del raw[name]
            elif {"attack": "trees"}.get(name, name) in groups:
                raw[name] = np.round(forest.score(table), 5)
        self._detector.checkpoint, self._detector.seen = checkpoint, self._seen
        return self._detector._scores(raw, self._gate)


def _equal(a: Any, b: Any) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _plain(text: object) -> bool:
    """Whether safetensors takes it for text: no surrogates."""
    return isinstance(text, str) and (text.isascii() or text.encode("utf-8", "ignore").decode() == text)


def chunk(mutator: Mutator, seed: int, first: int, count: int, judge: Judge, keep: Path) -> Counter[str]:
    """In a child: what became of these files. One that faults is told by the child's end."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        found: Counter[str] = Counter()
        for k in range(first, first + count):
            os.pwrite(_place, struct.pack("<Q", k), 0)
            mutant = mutator.make(random.Random(f"{seed} {k}"))
            began = time.process_time()
            try:
                found[judge.judge_mutant(mutant, whole_way=k % _WHOLE_WAY == 0)] += 1
            except BaseException:  # noqa: BLE001  # whatever it is, it is what is looked for
                found["raised"] += 1
                (keep / f"raised-{seed}-{k}.safetensors").write_bytes(mutant.content())
                print(f"file {k}: {traceback.format_exc()}", file=sys.stderr)
            if time.process_time() - began > _SLOW:
                found["slow"] += 1
                (keep / f"slow-{seed}-{k}.safetensors").write_bytes(mutant.content())
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if not status and said:
        return Counter(json.loads(said))
    (k,) = struct.unpack("<Q", os.pread(_place, 8, 0))
    (keep / f"fault-{seed}-{k}.safetensors").write_bytes(mutator.make(random.Random(f"{seed} {k}")).content())
    print(f"file {k}: the process ended with {os.waitstatus_to_exitcode(status)}", file=sys.stderr)
    return Counter({"fault": 1, "not reached": first + count - k - 1})


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path("fuzzed-models"))
    asked = parser.parse_args()
    from small_model import small_checkpoint

    from cmdana_plugin.detector import checkpoint as checkpoints

    global _place  # noqa: PLW0603  # opened once, for every child
    asked.keep.mkdir(parents=True, exist_ok=True)
    model = asked.keep / "small.safetensors"
    checkpoints.save(small_checkpoint(), model)
    content = model.read_bytes()
    judge = Judge(content)
    assert judge.judge(content) == "scored"
    place = asked.keep / ".place"
    _place = os.open(place, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    mutator, found, began = Mutator(content), Counter[str](), time.monotonic()
    for first in range(0, asked.files, _CHUNK):
        found += chunk(mutator, asked.seed, first, min(_CHUNK, asked.files - first), judge, asked.keep)
    took = time.monotonic() - began
    rate = f"{asked.files / took:,.0f}/s"
    print(f"{asked.files:,} files of {len(content):,} bytes, seed {asked.seed}: {dict(found)}, {rate}")
    place.unlink()
    return int(any(found[k] for k in ("raised", "fault", "slow")))


if __name__ == "__main__":
    sys.exit(main())
