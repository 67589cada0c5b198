"""Recordings as they are learned from: windows with labels in, one corpus of features and state out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.behaviour import Flows, flow_rows, flows_of
from cmdana_plugin.detector import (
    KINDS,
    Keys,
    Tables,
    make_keys,
)
from feature_extractors import CmdanaError, Stage, Windows, take
from feature_extractors.features import (
    Features,
    Schema,
    concat_features,
    encoded,
)

# label of windows that are probably benign: they teach normal, never what is not an attack
PRESUMED: Final = -2
# pieces of benign traffic that are also judged from an empty state, as after a restart
_COLD_START_PIECES: Final = 4
_COLD_START_CONNECTIONS: Final = 4096  # connections of such a piece, at most
MIN_ROWS: Final = 64


@dataclass(frozen=True, slots=True)
class Recording:
    """Labelled windows of one network over one span, in stream order.

    `label` is 1 malicious, 0 benign, -1 unknown for each window; None: all presumed benign. Unknown windows move
    the state and teach nothing.
    """

    name: str
    windows: Windows
    label: NDArray[np.int8] | None = None
    family: Sequence[str] = ()


@dataclass(slots=True)
class Corpus:
    """The features of all recordings in order, each recording with a state of its own."""

    features: Features
    state: NDArray[np.float32]
    ids: NDArray[np.int64]  # [n, KINDS] entity of each event, no two recordings share one
    ts: NDArray[np.float64]
    early: NDArray[np.bool_]  # connections that are still to end: they move no state
    label: NDArray[np.int8]
    family: list[str]
    bounds: NDArray[np.int64]  # [recordings + 1] first event of each
    digest: str
    names: list[str] = field(default_factory=list)
    flows: list[Flows] = field(default_factory=list)  # of each recording, the connections that have ended
    flow_rows: list[NDArray[np.int64]] = field(default_factory=list)  # which events these are

    def __len__(self) -> int:
        return len(self.features)


def gather(recordings: Iterable[Recording], schema: Schema, seed: int = 0, salt: int = 0) -> Corpus:
    """The corpus of recordings, each encoded from an empty state. Raises `CmdanaError` where there is nothing.

    `salt` keys the hashes of hosts in their flows.
    """
    features, states, ids, ts, early, label, family, bounds, names = [], [], [], [], [], [], [], [0], []
    flows, flows_rows = [], []
    used = np.zeros(KINDS, np.int64)
    digest = hashlib.sha256()
    for r in recordings:
        n = len(r.windows)
        if n == 0:
            continue
        block = encoded(r.windows, schema)
        f = block.features
        keys = make_keys(r.windows.connections, f, seed)
        size = max(1024, 2 * n)
        x, _ = Tables(size, size, 4 * size).counts(r.windows.connections, f, keys, schema.spans)
        own = entities_of(keys)
        ids.append(own + used)
        used += own.max(axis=0) + 1
        features.append(f)
        states.append(x)
        ts.append(r.windows.connections.ts)
        early.append(r.windows.connections.stage == Stage.EARLY)
        label.append(np.zeros(n, np.int8) if r.label is None else r.label)
        family += list(r.family) if r.family else [""] * n
        flows.append(flows_of(block, salt))
        flows_rows.append(flow_rows(block) + bounds[-1])
        bounds.append(bounds[-1] + n)
        names.append(r.name)
        for part in (f.numeric, f.categorical, f.packets, f.log_tokens):
            digest.update(np.ascontiguousarray(part).tobytes())
    if not features:
        raise CmdanaError(
            "training: found no connection in what was given, expected captures or logs with traffic"
        )
    return Corpus(
        concat_features(features), np.concatenate(states), np.concatenate(ids), np.concatenate(ts),
        np.concatenate(early), np.concatenate(label), family, np.array(bounds), digest.hexdigest(), names, flows,
        flows_rows,
    )  # fmt: skip


def with_cold_starts(
    recordings: Iterable[Recording], cold_starts: list[Recording], share: float
) -> Iterator[Recording]:
    """The same recordings; benign pieces of the last `share` of each are appended to `cold_starts`.

    A detector that begins knows no host. Pieces that are recordings of their own show what is normal then.
    """
    for r in recordings:
        n = len(r.windows)
        label = np.zeros(n, np.int8) if r.label is None else r.label
        benign = np.flatnonzero(label == 0)
        benign = benign[benign >= n - int(n * share)]
        if len(benign) >= _COLD_START_PIECES * MIN_ROWS:
            for piece in np.array_split(np.arange(benign[0], benign[-1] + 1), _COLD_START_PIECES):
                rows = piece[:_COLD_START_CONNECTIONS]
                known = np.where(label[rows] == 0, np.int8(0), np.int8(-1))
                cold_starts.append(Recording(r.name, take(r.windows, rows), known))
        yield r


def balance(corpus: Corpus, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Sample weights [n]: both classes alike; within a class a group counts by the square root of its size.

    Groups are families among the malicious and recordings' collections among the benign, so that neither a flood
    of one kind nor one chatty device drowns the rest. From the given rows only, never from what is judged.
    """
    group = np.array([f or "" for f in corpus.family], dtype=object)
    owner = np.repeat(np.array(_collections(corpus.names), dtype=object), np.diff(corpus.bounds))
    group = np.where(corpus.label == 1, group, owner)
    weight = np.zeros(len(corpus))
    for label in (0, 1):
        mine = rows & (corpus.label == label)
        for g in set(group[mine]):
            same = mine & (group == g)
            weight[same] = 1.0 / np.sqrt(same.sum())
        if mine.any():
            weight[mine] *= 0.5 * rows.sum() / weight[mine].sum()
    return weight


def _collections(names: Sequence[str]) -> list[str]:
    """The folder below what all names have in common: captures that were made together."""
    parts = [PurePath(n).parts for n in names]
    depth = 0
    while all(len(p) > depth + 1 for p in parts) and len({p[depth] for p in parts}) == 1:
        depth += 1
    return [p[depth] if len(p) > depth + 1 else "" for p in parts]


def entities_of(keys: Keys) -> NDArray[np.int64]:
    return np.stack([np.unique(keys.entity(k), return_inverse=True)[1] for k in range(KINDS)], axis=1).astype(
        np.int64
    )
