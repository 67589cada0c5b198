"""Recordings kept on disk between evaluations, so that captures are read once: plain arrays and JSON, never pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin import files
from cmdana_plugin.config import writable_by_others
from cmdana_plugin.training import Recording
from feature_extractors import CmdanaError, Connections, LogEntry, Packets, Windows, concat, take
from feature_extractors.compiled import code_digest

_CODE: Final = (
    "cmdana_plugin.evaluation.cache",
    "cmdana_plugin.training.sources",
)  # what reads and labels captures, and keeps it


def key_of(sources: Iterable[Path], *more: str) -> str:
    """The cache key of sources: a digest of them, of `more` and of the code that reads sources."""
    digest = hashlib.sha256(code_digest(*_CODE).encode())
    for path in sources:
        there = path.stat()
        digest.update(f"{path.resolve()}|{there.st_size}|{there.st_mtime_ns}\n".encode())
    for words in more:
        digest.update(f"{words}\n".encode())
    return digest.hexdigest()[:24]


def recall(folder: Path | None, key: str, make: Callable[[], list[Recording]]) -> list[Recording]:
    """The recordings kept under `key`, or those that `make` gives, kept from now on; `folder` None keeps nothing."""
    if folder is None:
        return make()
    refuse_shared(folder)
    path = folder / f"{key}.npz"
    if path.is_file():
        return _read(path)
    made = make()
    folder.mkdir(parents=True, exist_ok=True)
    _write(made, path)
    return made


def refuse_shared(folder: Path) -> None:
    """Raises `CmdanaError` for a folder of kept results that others can write: they would be believed."""
    if folder.exists() and (why := writable_by_others(folder.stat())):
        raise CmdanaError(f"--cache: {folder}: {why}; expected a folder that only its owner can write")


def _write(recordings: Sequence[Recording], path: Path) -> None:
    whole = concat([r.windows for r in recordings])
    bounds = np.cumsum([0] + [len(r.windows) for r in recordings])
    arrays: dict[str, NDArray[Any]] = {
        "packet_start": whole.packet_start,
        "log_start": whole.log_start,
        "bounds": bounds,
        "label": np.concatenate(
            [np.zeros(len(r.windows), np.int8) if r.label is None else r.label for r in recordings]
        ),
    }
    arrays |= {
        f"c.{f.name}": getattr(whole.connections, f.name) for f in fields(Connections) if f.name != "service"
    }
    arrays |= {f"p.{f.name}": getattr(whole.packets, f.name) for f in fields(Packets)}
    words = {
        "names": [r.name for r in recordings],
        "family": [f for r in recordings for f in (r.family or [""] * len(r.windows))],
        "service": list(whole.connections.service),
        "logs": [[e.stream, e.ts, e.uid, e.fields] for e in whole.logs],
    }
    arrays["words"] = np.frombuffer(json.dumps(words).encode(), np.uint8)
    with files.replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _read(path: Path) -> list[Recording]:
    with np.load(path, allow_pickle=False) as arrays:
        a = {k: arrays[k] for k in arrays.files}
    words = json.loads(a["words"].tobytes())
    columns: dict[str, Any] = {
        f.name: words["service"] if f.name == "service" else a[f"c.{f.name}"] for f in fields(Connections)
    }
    whole = Windows(
        Connections(**columns),
        Packets(**{f.name: a[f"p.{f.name}"] for f in fields(Packets)}),
        a["packet_start"],
        [LogEntry(stream, ts, uid, told) for stream, ts, uid, told in words["logs"]],
        a["log_start"],
    )
    out = []
    for name, begin, end in zip(words["names"], a["bounds"][:-1], a["bounds"][1:], strict=True):
        rows = slice(int(begin), int(end))
        out.append(
            Recording(name, take(whole, np.arange(begin, end)), a["label"][rows], words["family"][rows])
        )
    return out
