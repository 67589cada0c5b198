"""Model files mutated at random: each is refused in one line, or loads and gives scores. Nothing else may happen.

    python -m benchmarks.fuzz_models 1000000 --seed 1

Mutates the smallest model that has every part: the header's JSON and length, offsets, types, values of tensors, and
the metadata. Each chunk is judged in a child of its own, so that a fault of memory is seen as one and its seed is
told; a file that makes trouble is kept in --keep.
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
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "tests" / "unit")]

_CHUNK = 1000  # files of one child
_SLOW = 5.0  # seconds of the processor that one file may take
_MEMORY = 8 << 30  # bytes of addresses that a child may have
_place = -1  # the file in which a child says which of its files it is at
_ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 0.5, 1e308, float("nan"), float("inf"), 2**31, 2**63, 10**400, "", "x", "\x1b[2J\n", [], [[]],
    {}, [0] * 50, "\ud800", "9" * 5000,
)  # fmt: skip
_WORDS = (0, 1, 0x7F, 0xFF, 0x7FC00000, 0x7F800000, 0xFF800000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1_000_000)


class Mutator:
    """One file in many wrong ways."""

    def __init__(self, content: bytes) -> None:
        (size,) = struct.unpack_from("<Q", content)
        self.header = content[8 : 8 + size]
        self.data = content[8 + size :]
        self.table: dict[str, Any] = json.loads(self.header)
        self.names = [k for k in self.table if k != "__metadata__"]
        # Most bytes are the network's: the rest would hardly ever be hit.
        self.parts = [k for k in self.names if not k.startswith("network.")]

    def make(self, rng: random.Random) -> bytes:
        header, data, size = self.header, self.data, None
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
            kind = rng.random()
            if kind < 0.40:
                data = self._values(rng, data)
            elif kind < 0.65:
                header = self._meta(rng, header)
            elif kind < 0.82:
                header = self._tensor(rng, header)
            elif kind < 0.94:
                header = _bytes(rng, header)
            elif kind < 0.97:
                data = (
                    data[: rng.randrange(len(data) + 1)]
                    if rng.random() < 0.5
                    else data + b"\0" * rng.randrange(99)
                )
            else:
                size = rng.choice((0, 1, 2**31, 2**63, 2**64 - 1, len(header) + rng.randrange(-9, 9)))
        return struct.pack("<Q", len(header) if size is None else size) + header + data

    def _values(self, rng: random.Random, data: bytes) -> bytes:
        begin, end = self.table[rng.choice(self.parts if rng.random() < 0.8 else self.names)]["data_offsets"]
        if end - begin < 8 or end > len(data):  # the latter where another mutation has cut it off
            return data
        out = bytearray(data)
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
        return bytes(out)

    def _meta(self, rng: random.Random, header: bytes) -> bytes:
        table = _parsed(header) or self.table
        meta = dict(table.get("__metadata__") or {})
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
        return json.dumps(table | {"__metadata__": meta}).encode("utf-8", "replace")

    def _tensor(self, rng: random.Random, header: bytes) -> bytes:
        table = dict(_parsed(header) or self.table)
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
            return json.dumps(table).encode()
        else:
            other = rng.choice(self.names)
            table[name], table[other] = table.get(other), table.get(name)
            return json.dumps(table).encode()
        return json.dumps(table | {name: tensor}).encode()


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
    if isinstance(value, int | float) and rng.random() < 0.4:
        return value * rng.choice((-1, 2, 0.5, 1000))
    return rng.choice(_ODD)


class Judge:
    """Judges a handful of windows with any checkpoint; a network of the same shape is not made anew."""

    def __init__(self, content: bytes) -> None:
        from made_windows import office

        from cmdana_plugin.detector.checkpoint import loads
        from cmdana_plugin.detector.cross_modal import CrossModal
        from feature_extractors.features.encoding import encoded
        from feature_extractors.features.schema import load_schema

        self._load, self._make, self._schema = loads, CrossModal, load_schema()
        self._windows = encoded(office(6, seed=1), self._schema)
        self._detector = CrossModal(loads(content, Path("small"), self._schema), self._schema, hosts=64)
        self._parameters = dict(self._detector.network.named_parameters())

    def judge(self, content: bytes) -> str:
        """`refused`, or `scored`; anything else raises."""
        import torch

        from feature_extractors.errors import CmdanaError

        try:
            checkpoint = self._load(content, Path("m.safetensors"), self._schema)
        except CmdanaError as error:
            line = str(error)
            if not line.isprintable() or len(line) > 500:
                raise AssertionError(f"a line that is none: {line!r}") from error
            return "refused"
        detector = self._detector
        if checkpoint.shape == detector.checkpoint.shape:
            detector.checkpoint = checkpoint
            for name, parameter in self._parameters.items():
                parameter.data = torch.from_numpy(checkpoint.network[name])
            detector.reset()
        else:
            detector = self._make(checkpoint, self._schema, hosts=64)
        scores = detector.receive(self._windows)
        assert len(scores.score) == len(self._windows), "scores of another number"
        assert ((scores.score >= 0) & (scores.score <= 1)).all(), f"a score of {scores.score}"
        assert ((scores.p_value > 0) & (scores.p_value <= 1)).all(), f"a p-value of {scores.p_value}"
        assert np.isfinite(scores.reliance).all(), "a reliance that is no number"
        return "scored"


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
            content = mutator.make(random.Random(f"{seed} {k}"))
            os.pwrite(_place, struct.pack("<Q", k), 0)
            began = time.process_time()
            try:
                found[judge.judge(content)] += 1
            except BaseException:  # noqa: BLE001  # whatever it is, it is what is looked for
                found["raised"] += 1
                (keep / f"raised-{seed}-{k}.safetensors").write_bytes(content)
                print(f"file {k}: {traceback.format_exc()}", file=sys.stderr)
            if time.process_time() - began > _SLOW:
                found["slow"] += 1
                (keep / f"slow-{seed}-{k}.safetensors").write_bytes(content)
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if not status and said:
        return Counter(json.loads(said))
    (k,) = struct.unpack("<Q", os.pread(_place, 8, 0))
    (keep / f"fault-{seed}-{k}.safetensors").write_bytes(mutator.make(random.Random(f"{seed} {k}")))
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
