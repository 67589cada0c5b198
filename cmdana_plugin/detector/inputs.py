"""Features as the network takes them: bins learned on benign traffic, standardised values, padded tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.detector.engines.shape import CLASSES, CONNECTION, LOG, PACKET
from feature_extractors.compiled import entry
from feature_extractors.features import Features, Schema

BLOCK: Final = 1024  # rows of one computation at most
_MIN_GROUP_ROWS: Final = 128  # rows for which a computation of their own pays
PACKET_LENGTHS: Final = (4, 16)  # tokens that packet sequences are padded to
LOG_LENGTHS: Final = (8, 16)  # tokens that log sequences are padded to
_BINS: Final = CLASSES - 4  # between unset, zero, over and under
EDGES: Final = _BINS + 1  # of the bins of a column
_OVER, _UNDER = CLASSES - 2, CLASSES - 1


@dataclass(frozen=True, slots=True)
class Bins:
    """Quantile edges of each column, learned on benign traffic. Codes: 0 unset, 1 zero, 2.. bins, over, under."""

    edges: NDArray[np.float32]  # [F, _BINS + 1] rising, first the least and last the greatest value seen

    def codes(self, values: NDArray[np.float32]) -> NDArray[np.int64]:
        """The bin [n, F] of each value [n, F], 0..CLASSES - 1."""
        out: NDArray[np.int64] = _digitise(np.ascontiguousarray(values, np.float32), self.edges)
        return out

    def spans(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The least and greatest value [F, CLASSES] of each code's bin, in the column's own scale; of unset none."""
        low, high = np.full((2, len(self.edges), CLASSES), np.nan)
        low[:, 1] = high[:, 1] = 0.0
        low[:, 2:_OVER], high[:, 2:_OVER] = self.edges[:, :-1], self.edges[:, 1:]
        low[:, _OVER], high[:, _OVER] = self.edges[:, -1], np.inf
        low[:, _UNDER], high[:, _UNDER] = -np.inf, self.edges[:, 0]
        return low, high


def learn_bins(values: NDArray[np.float32]) -> Bins:
    """Equal-count bins (quantiles) of the columns of `values` [n, F], over what is set and not zero."""
    edges = np.zeros((values.shape[1], EDGES), np.float32)
    for j in range(values.shape[1]):
        x = values[:, j]
        x = x[np.isfinite(x) & (x != 0)]
        if len(x):
            # Interpolated, and so rounded: rising all the same.
            edges[j] = np.maximum.accumulate(np.quantile(x, np.linspace(0, 1, EDGES)))
    return Bins(edges)


@entry
def _digitise(values: NDArray[np.float32], edges: NDArray[np.float32]) -> NDArray[np.int64]:
    n, width = values.shape
    last = edges.shape[1] - 1
    out = np.zeros((n, width), np.int64)
    for i in range(n):
        for j in range(width):
            x = values[i, j]
            if x != x:
                continue
            if x == 0:
                out[i, j] = 1
            elif x > edges[j, last]:
                out[i, j] = _OVER
            elif x < edges[j, 0]:
                out[i, j] = _UNDER
            else:
                out[i, j] = 2 + min(max(np.searchsorted(edges[j], x, side="right") - 1, 0), last - 1)
    return out


@dataclass(frozen=True, slots=True)
class Preparation:
    """Bins, means and spreads of the features, learned on benign traffic before the network."""

    numeric: Bins
    numeric_scale: NDArray[np.float32]  # [2, F] mean and spread
    first_packets: Bins
    summary: Bins
    state_scale: NDArray[np.float32]  # [2, F]


def learn_preparation(features: Features, state: NDArray[np.float32]) -> Preparation:
    return Preparation(
        numeric=learn_bins(features.numeric),
        numeric_scale=_scale(features.numeric),
        first_packets=learn_bins(features.first_packets),
        summary=learn_bins(features.log_summary),
        state_scale=_scale(state),
    )


def _scale(x: NDArray[np.float32]) -> NDArray[np.float32]:
    known = np.isfinite(x)
    count = np.maximum(known.sum(axis=0), 1)
    filled = np.where(known, x, 0.0)
    mean = filled.sum(axis=0) / count
    spread = np.sqrt((np.where(known, x - mean, 0.0) ** 2).sum(axis=0) / count)
    return np.stack([mean, np.maximum(spread, 0.1)]).astype(np.float32)


def standardise(x: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """The standard scores [n, F] of columns: spreads from the mean, clipped to -6..6, 0 where unset (NaN)."""
    out: NDArray[np.float32] = np.nan_to_num(np.clip((x - scale[0]) / scale[1], -6.0, 6.0), nan=0.0).astype(
        np.float32
    )
    return out


@dataclass(slots=True)
class Prepared:
    """The network's input of `n` events, ready to be cut into blocks."""

    codes: NDArray[np.int64]  # [n, numeric + categorical] offset into one table
    values: NDArray[np.float32]  # [n, numeric]
    state: NDArray[np.float32]  # [n, F]
    known: NDArray[np.float32]  # [n, F] 1 where the state column is set
    present: NDArray[np.bool_]  # [n, 3]
    targets: tuple[
        NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]
    ]  # [n, fields] classes, -1 not asked
    features: Features

    def __len__(self) -> int:
        return len(self.codes)


def prepare(features: Features, state: NDArray[np.float32], how: Preparation, schema: Schema) -> Prepared:
    numeric = how.numeric.codes(features.numeric)
    categorical = features.categorical.astype(np.int64)
    sizes = [c.size for c in schema.categorical]
    offsets = np.concatenate(
        [np.arange(numeric.shape[1]) * CLASSES, numeric.shape[1] * CLASSES + np.cumsum([0, *sizes[:-1]])]
    )
    packets = how.first_packets.codes(features.first_packets)
    packets[np.isnan(features.first_packets)] = -1
    packets[:, features.first_packets.shape[1] // 2] = -1  # the first packet's gap is always zero
    wanted = np.flatnonzero(schema.summary_target)
    hashed = np.array(schema.summary_hashed)[wanted]
    chosen = features.log_summary[:, wanted]
    logs = Bins(how.summary.edges[wanted]).codes(chosen)
    logs = np.where(hashed, np.nan_to_num(chosen, nan=0.0).astype(np.int64), logs)
    logs[np.isnan(chosen)] = -1
    return Prepared(
        codes=np.concatenate([numeric, categorical], axis=1) + offsets,
        values=standardise(features.numeric, how.numeric_scale),
        state=standardise(state, how.state_scale),
        known=np.isfinite(state).astype(np.float32),
        present=np.stack(
            [
                np.diff(features.packet_start) > 0,
                np.ones(len(features), np.bool_),
                np.diff(features.log_start) > 0,
            ],
            axis=1,
        ),
        targets=(packets, np.concatenate([numeric, categorical], axis=1), logs),
        features=features,
    )


def isolation_columns(schema: Schema) -> list[int]:
    """The indices of the isolation forest's state columns: all but the counts over the longest span."""
    longest = f"_{max(schema.spans):g}s"
    return [i for i, name in enumerate(schema.state) if not name.endswith(longest)]


def density_columns(schema: Schema) -> list[int]:
    """The indices of the mixture's state columns.

    Only what compares an event with the usual, and the counts of the shortest span: the others tell how old the
    stream is, go on growing beyond what a recording may have shown, and begin at nothing after a restart.
    """
    shortest = f"_{min(schema.spans):g}s"
    return [
        i
        for i, name in enumerate(schema.state)
        if "_vs_" in name or name.endswith(("_share", shortest)) or name in ("pair_beat", "pair_jitter")
    ]


def groups(
    start: NDArray[np.int64], rows: NDArray[np.int64], lengths: tuple[int, ...]
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """The rows that have tokens, with the shortest padded length that holds them, a group for each length."""
    have = start[rows + 1] - start[rows]
    least = 0
    for length in lengths:
        chosen = rows[(have > least) & ((have <= length) | (length == lengths[-1]))]
        if len(chosen):
            yield chosen, length
        least = length


def first_identical_row(
    tokens: NDArray[np.generic], start: NDArray[np.int64], rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each of the rows the first of `rows` whose tokens [start[row], start[row + 1]) are the same, bit for bit.

    Four in five rows of logs are another's, and nearly all rows of a scan.
    """
    words = np.ascontiguousarray(tokens).view(np.uint32).reshape(-1)
    each = words.size // max(len(tokens), 1)
    out: NDArray[np.int64] = _alike(words, start * each, rows, 1 << (2 * len(rows) | 1).bit_length())
    return out


@entry
def _alike(words, start, rows, slots):  # type: ignore[no-untyped-def]
    table = np.full(slots, -1, np.int64)  # the first row of each kind
    out = np.empty(len(rows), np.int64)
    for i in range(len(rows)):
        begin, end = start[rows[i]], start[rows[i] + 1]
        h = np.uint64(end - begin)
        for k in range(begin, end):
            h = (h ^ np.uint64(words[k])) * np.uint64(0x9E3779B97F4A7C15)
            h ^= h >> np.uint64(29)
        slot = np.int64(h & np.uint64(slots - 1))
        while table[slot] >= 0:
            at, k = start[table[slot]], 0
            if start[table[slot] + 1] - at == end - begin:
                while k < end - begin and words[at + k] == words[begin + k]:
                    k += 1
                if k == end - begin:
                    break
            slot = (slot + 1) & (slots - 1)
        if table[slot] < 0:
            table[slot] = rows[i]
        out[i] = table[slot]
    return out


def group_by_requested_fields(
    targets: NDArray[np.int64], rows: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64] | None]]:
    """Groups of rows that ask for the same fields of `targets` [n, F] (-1: not asked), with the fields' indices.

    Small groups come together, with None for all fields.
    """
    asked = targets[rows] >= 0
    bits = np.zeros((len(rows), -(-targets.shape[1] // 32) * 4), np.uint8)
    packed = np.packbits(asked, axis=1)
    bits[:, : packed.shape[1]] = packed
    every = np.arange(len(rows) + 1)
    kinds, kind, count = np.unique(
        first_identical_row(bits, every, every[:-1]), return_inverse=True, return_counts=True
    )
    for k in np.flatnonzero(count >= _MIN_GROUP_ROWS):
        yield rows[kind == k], np.flatnonzero(asked[kinds[k]])
    few = rows[count[kind] < _MIN_GROUP_ROWS]
    if len(few):
        yield few, None


def encoded_together(
    f: Features, where: Sequence[NDArray[np.int64]]
) -> Iterator[tuple[int, NDArray[np.int64], int]]:
    """Modality, rows that have it (`where`, by modality) and the shortest padded length that holds their tokens."""
    if len(where[CONNECTION]):
        yield CONNECTION, where[CONNECTION], 0
    for modality, start, lengths in (
        (PACKET, f.packet_start, PACKET_LENGTHS),
        (LOG, f.log_start, LOG_LENGTHS),
    ):
        for rows, length in groups(start, where[modality], lengths):
            yield modality, rows, length


def isolation_input(prepared: Prepared, schema: Schema) -> NDArray[np.float32]:
    """The input of the isolation forest [n, F], standardised: numeric fields and the columns of `isolation_columns`."""
    return np.concatenate([prepared.values, prepared.state[:, isolation_columns(schema)]], axis=1)


def density_input(prepared: Prepared, schema: Schema) -> NDArray[np.float32]:
    """The input of the Gaussian mixture [n, F], standardised: numeric fields and the columns of `density_columns`."""
    return np.concatenate([prepared.values, prepared.state[:, density_columns(schema)]], axis=1)


def novelty(state: NDArray[np.float32], schema: Schema) -> NDArray[np.float64]:
    """The novelty [n] of the event's peer, port and name to the host and the site; 0..1, higher is newer.

    0 where nothing of it is known.
    """
    columns = [
        schema.state.index(k)
        for k in ("pair_seen", "port_seen", "orig_uses_port", "name_seen", "orig_name_seen")
    ]
    rare = np.exp(-state[:, columns].astype(np.float64))
    known = np.isfinite(rare).sum(axis=1)
    mean: NDArray[np.float64] = np.nansum(rare, axis=1) / np.maximum(known, 1)
    return mean
