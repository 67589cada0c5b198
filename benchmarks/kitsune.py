"""Kitsune as it was published, in our own words: how odd each packet of a capture is (Mirsky et al., NDSS 2018).

    python -m benchmarks.kitsune [--map 5000] [--learn 50000] [--out SCORES.npy] CAPTURE

Of each packet's streams (source by MAC and address, source address, channel of two addresses, socket) damped sums over
five windows say how much, how often, how regularly, and how both directions go together: 115 numbers (the paper's
tables I and II). From the first packets is learned which of them go together; a small autoencoder for each such group,
and one more over their errors, learn the next ones, a step for each packet; what comes after is scored by the last
one's error. Of a capture that is shorter than both, a tenth is for the groups and four tenths are for learning. All of
it is compiled, and packets are read by our reader. Nothing is taken from the authors' program but its defaults: groups
of ten at most, hidden layers of three quarters, a rate of .1. Prints how many packets were scored.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from feature_extractors.frames import FrameBlock
from feature_extractors.readers import open_capture

WINDOWS: Final = np.array([5.0, 3.0, 1.0, 0.1, 0.01])  # decay by second, as powers of 2
L: Final = len(WINDOWS)
SOURCE, HOST, CHANNEL, SOCKET, JITTER = range(5)  # kinds of streams; the last is of a channel's pauses
EACH: Final = 23  # numbers of a packet and window
FEATURES: Final = EACH * L
LARGEST: Final = 10  # numbers of one autoencoder
HIDDEN: Final = 0.75
RATE: Final = 0.1
_W, _LS, _SS = range(3)  # damped count, sum and sum of squares
_FIRST: Final = 1 << 12  # places of a table at first

Floats = NDArray[np.float64]


class Streams(NamedTuple):
    """A table of streams of all kinds, by hash; half of it is free at least."""

    key: NDArray[np.uint64]  # 0 free
    sums: Floats  # [S, L, 3]
    last: Floats  # [S] time of the last packet
    apart: Floats  # [S, L] how far that was from the mean
    both: Floats  # [S, L] damped sum of what both directions were apart, at the one whose key is less
    both_last: Floats  # [S]


def new_streams(size: int = _FIRST) -> Streams:
    return Streams(
        np.zeros(size, np.uint64), np.zeros((size, L, 3)), np.zeros(size), np.zeros((size, L)),
        np.zeros((size, L)), np.zeros(size),
    )  # fmt: skip


def grown(streams: Streams) -> Streams:
    """The same with twice the places."""
    larger = new_streams(2 * len(streams.key))
    old = np.flatnonzero(streams.key)
    at = _places(larger.key, streams.key[old])
    for column, into in zip(streams[1:], larger[1:], strict=True):
        into[at] = column[old]
    return larger


@njit
def _mixed(x: Any) -> Any:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit
def _place(keys: Any, key: Any) -> Any:
    """Where a key is or belongs."""
    at = np.int64(_mixed(key) & np.uint64(len(keys) - 1))
    while keys[at] != 0 and keys[at] != key:
        at = (at + 1) & (len(keys) - 1)
    return at


@njit(cache=True)
def _places(keys: Any, wanted: Any) -> Any:
    out = np.empty(len(wanted), np.int64)
    for i in range(len(wanted)):
        out[i] = _place(keys, wanted[i])
        keys[out[i]] = wanted[i]
    return out


@njit
def _number(data: Any, begin: int, size: int) -> Any:
    out = np.uint64(0)
    for k in range(size):
        out = out << np.uint64(8) | np.uint64(data[begin + k])
    return out


@njit
def _address(data: Any, begin: int, size: int) -> Any:
    """The address, or a hash of a long one."""
    if size <= 8:
        return _number(data, begin, size)
    return _mixed(_number(data, begin, 8) + np.uint64(1)) ^ _number(data, begin + 8, 8)


@njit(cache=True)
def read_streams(data: Any, start: Any, captured: Any, ethernet: Any, out: Any) -> None:
    """The streams of each frame in `out` [n, 6]: source, host, channel there and back, socket there and back."""
    for i in range(len(start)):
        at, end = start[i], start[i] + captured[i]
        mac, kind = np.uint64(0), np.uint64(0x0800)
        if ethernet[i] and captured[i] >= 14:
            mac, kind = _number(data, at + 6, 6), _number(data, at + 12, 2)
            at += 14
            if kind == 0x8100 and at + 4 <= end:
                kind = _number(data, at + 2, 2)
                at += 4
        elif captured[i] > 0 and data[at] >> 4 == 6:
            kind = np.uint64(0x86DD)
        orig, resp, orig_p, resp_p = mac, _number(data, start[i], 6) if mac else mac, kind, kind
        header = 0
        if kind == 0x0800 and at + 20 <= end:
            orig, resp = _number(data, at + 12, 4), _number(data, at + 16, 4)
            proto, header = data[at + 9], (data[at] & 15) * 4
        elif kind == 0x86DD and at + 40 <= end:
            orig, resp = _address(data, at + 8, 16), _address(data, at + 24, 16)
            proto, header = data[at + 6], 40
        elif kind == 0x0806 and at + 28 <= end:
            orig, resp = _number(data, at + 14, 4), _number(data, at + 24, 4)
        if header:
            orig_p, resp_p = np.uint64(proto), np.uint64(proto)
            if proto in (6, 17) and at + header + 4 <= end:
                orig_p, resp_p = _number(data, at + header, 2), _number(data, at + header + 2, 2)
        a, b = _mixed(orig + np.uint64(3)), _mixed(resp + np.uint64(3))
        out[i, 0] = _mixed(a ^ _mixed(mac + np.uint64(SOURCE + 11))) | np.uint64(1)
        out[i, 1] = _mixed(a + np.uint64(HOST)) | np.uint64(1)
        out[i, 2] = _mixed(a + np.uint64(3) * b) | np.uint64(1)
        out[i, 3] = _mixed(b + np.uint64(3) * a) | np.uint64(1)
        p, q = _mixed(orig_p + np.uint64(99)), _mixed(resp_p + np.uint64(99))
        out[i, 4] = _mixed(a * p + np.uint64(3) * (b * q)) | np.uint64(1)
        out[i, 5] = _mixed(b * q + np.uint64(3) * (a * p)) | np.uint64(1)


@njit
def _spread(sums: Any) -> Any:
    mean = sums[_LS] / sums[_W]
    return np.sqrt(abs(sums[_SS] / sums[_W] - mean * mean))


@njit
def _taken(streams: Any, key: Any, now: Any, x: Any) -> Any:
    """Enters a value into a stream's sums, which fade; its place."""
    at = _place(streams.key, key)
    elapsed = max(now - streams.last[at], 0.0) if streams.key[at] else 0.0
    streams.key[at] = key
    streams.last[at] = now
    for k in range(L):
        left = 2.0 ** (-WINDOWS[k] * elapsed)
        s = streams.sums[at, k]
        s[_W], s[_LS], s[_SS] = s[_W] * left + 1.0, s[_LS] * left + x, s[_SS] * left + x * x
        streams.apart[at, k] = x - s[_LS] / s[_W]
    return at


@njit
def _told(streams: Any, at: int, out: Any, row: int, column: int) -> None:
    for k in range(L):
        s = streams.sums[at, k]
        out[row, k * EACH + column] = s[_W]
        out[row, k * EACH + column + 1] = s[_LS] / s[_W]
        out[row, k * EACH + column + 2] = _spread(s)


@njit
def _told_of_both(streams: Any, at: int, back: Any, now: Any, out: Any, row: int, column: int) -> None:
    """Magnitude, radius, covariance and correlation of a stream and the one the other way."""
    other = _place(streams.key, back)
    known = streams.key[other] != 0 and other != at
    kept = other if known and streams.key[other] < streams.key[at] else at
    elapsed = max(now - streams.both_last[kept], 0.0)
    streams.both_last[kept] = now
    for k in range(L):
        mine = streams.sums[at, k]
        mean, spread = mine[_LS] / mine[_W], _spread(mine)
        theirs_mean = theirs_spread = together = correlation = 0.0
        if known:
            theirs = streams.sums[other, k]
            theirs_mean, theirs_spread = theirs[_LS] / theirs[_W], _spread(theirs)
            weight = theirs[_W] * 2.0 ** (-WINDOWS[k] * max(now - streams.last[other], 0.0))
            streams.both[kept, k] = (
                streams.both[kept, k] * 2.0 ** (-WINDOWS[k] * elapsed)
                + streams.apart[at, k] * streams.apart[other, k]
            )
            together = streams.both[kept, k] / (mine[_W] + weight)
            if spread * theirs_spread > 0.0:
                correlation = together / (spread * theirs_spread)
        to = k * EACH + column
        out[row, to] = np.sqrt(mean * mean + theirs_mean * theirs_mean)
        out[row, to + 1] = np.sqrt(spread**4 + theirs_spread**4)
        out[row, to + 2] = together
        out[row, to + 3] = correlation


@njit(cache=True)
def describe(begin: Any, keys: Any, ts: Any, length: Any, streams: Any, room: Any, out: Any) -> Any:
    """The numbers of packets from `begin` on in `out` [n, 115]. Returns how far there was room, and what is left."""
    for i in range(begin, len(ts)):
        if room < 5:
            return i, room
        now, x = ts[i], float(length[i])
        column = 0
        pause_key = _mixed(keys[i, 2] + np.uint64(JITTER)) | np.uint64(1)
        channel = _place(streams.key, keys[i, 2])
        pause = max(now - streams.last[channel], 0.0) if streams.key[channel] else 0.0
        for kind in range(4):
            key = keys[i, kind if kind < 3 else 4]
            room -= 1 if streams.key[_place(streams.key, key)] == 0 else 0
            at = _taken(streams, key, now, x)
            _told(streams, at, out, i, column)
            column += 3
            if kind >= CHANNEL:
                _told_of_both(streams, at, keys[i, 3 if kind == CHANNEL else 5], now, out, i, column)
                column += 4
        room -= 1 if streams.key[_place(streams.key, pause_key)] == 0 else 0
        at = _taken(streams, pause_key, now, pause)
        _told(streams, at, out, i, column)
    return len(ts), room


def described(blocks: Iterable[FrameBlock]) -> Iterable[NDArray[np.float64]]:
    """The numbers [n, 115] of the packets of each block."""
    streams, free = new_streams(), _FIRST // 2
    for block in blocks:
        keys = np.empty((len(block), 6), np.uint64)
        read_streams(block.data, block.start, block.captured, block.link == 1, keys)
        out, done = np.zeros((len(block), FEATURES)), 0
        while done < len(block):
            done, free = describe(done, keys, block.ts, block.length, streams, free, out)
            if done < len(block):
                free += len(streams.key) // 2
                streams = grown(streams)
        yield out


def groups_of(table: Floats, largest: int = LARGEST) -> list[list[int]]:
    """Columns that go together: a tree of what is nearest by correlation, cut where no part is larger than that."""
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = 1.0 - np.nan_to_num(np.corrcoef(table, rowvar=False))
    np.fill_diagonal(apart, np.inf)
    trees: list[Any] = list(range(len(apart)))  # a leaf, or two trees and their leaves
    leaves = [[i] for i in trees]
    alive = np.ones(len(apart), np.bool_)
    for _ in range(len(apart) - 1):
        a, b = sorted(np.unravel_index(np.argmin(apart), apart.shape))
        trees[a], leaves[a] = (trees[a], trees[b], leaves[a], leaves[b]), leaves[a] + leaves[b]
        alive[b] = False
        apart[a] = apart[:, a] = np.minimum(apart[a], apart[b])
        apart[b] = apart[:, b] = apart[a, a] = np.inf
        apart[a, ~alive] = np.inf
        apart[~alive, a] = np.inf

    def cut(tree: Any, of: list[int]) -> list[list[int]]:
        if len(of) <= largest:
            return [of]
        left, right, of_left, of_right = tree
        return cut(left, of_left) + cut(right, of_right)

    root = int(np.flatnonzero(alive)[0])
    return cut(trees[root], leaves[root])


class Ensemble(NamedTuple):
    """Autoencoders side by side, each of its own columns; the last one's columns are the others' errors."""

    columns: NDArray[np.int64]  # [A, width], of which `size` count
    size: NDArray[np.int64]  # [A]
    hidden: NDArray[np.int64]  # [A]
    weights: Floats  # [A, width, hidden], both ways
    hidden_bias: Floats  # [A, hidden]
    bias: Floats  # [A, width]
    low: Floats  # [A, width] least and most so far, which an input is put between
    high: Floats  # [A, width]


def new_ensemble(groups: list[list[int]], seed: int = 0) -> Ensemble:
    sizes = np.array([*map(len, groups), len(groups)])
    width = int(sizes.max())
    hidden = np.ceil(HIDDEN * sizes).astype(np.int64)
    columns = np.zeros((len(sizes), width), np.int64)
    for a, group in enumerate([*groups, list(range(len(groups)))]):
        columns[a, : len(group)] = group
    rng = np.random.default_rng(seed)
    shape = (len(sizes), width, int(hidden.max()))
    weights = rng.uniform(-1.0, 1.0, shape) / sizes[:, None, None]
    flat = (len(sizes), width)
    return Ensemble(
        columns, sizes, hidden, weights, np.zeros((len(sizes), shape[2])), np.zeros(flat),
        np.full(flat, np.inf), np.full(flat, -np.inf),
    )  # fmt: skip


@njit
def _sigmoid(x: Any) -> Any:
    return 1.0 / (1.0 + np.exp(-x))


@njit
def _error(e: Any, a: int, given: Any, learns: Any, x: Any, h: Any, y: Any) -> Any:
    """Root mean square error of one autoencoder; where it `learns`, after which it takes a step down its square."""
    n, m = e.size[a], e.hidden[a]
    w, low, high = e.weights[a], e.low[a], e.high[a]
    for i in range(n):
        value = given[e.columns[a, i]]
        if learns:
            low[i], high[i] = min(low[i], value), max(high[i], value)
        x[i] = (value - low[i]) / (high[i] - low[i] + 1e-16)
    for j in range(m):
        total = e.hidden_bias[a, j]
        for i in range(n):
            total += x[i] * w[i, j]
        h[j] = _sigmoid(total)
    error = 0.0
    for i in range(n):
        total = e.bias[a, i]
        for j in range(m):
            total += h[j] * w[i, j]
        y[i] = _sigmoid(total)
        error += (x[i] - y[i]) ** 2
    if learns:
        for i in range(n):  # the slope of what goes into each output
            y[i] = (y[i] - x[i]) * y[i] * (1.0 - y[i])
        for j in range(m):
            back = 0.0
            for i in range(n):
                back += y[i] * w[i, j]
            back *= h[j] * (1.0 - h[j])
            e.hidden_bias[a, j] -= RATE * back
            for i in range(n):
                w[i, j] -= RATE * (y[i] * h[j] + back * x[i])
        for i in range(n):
            e.bias[a, i] -= RATE * y[i]
    return np.sqrt(error / n)


@njit(cache=True)
def passed(e: Any, table: Any, learns: Any) -> Any:
    """The last autoencoder's error of each row [n]."""
    width, last = e.columns.shape[1], len(e.size) - 1
    x, h, y = np.empty(width), np.empty(e.hidden_bias.shape[1]), np.empty(width)
    errors, out = np.empty(last), np.empty(len(table))
    for row in range(len(table)):
        for a in range(last):
            errors[a] = _error(e, a, table[row], learns, x, h, y)
        out[row] = _error(e, last, errors, learns, x, h, y)
    return out


def scores(blocks: Iterable[FrameBlock], mapping: int, learning: int) -> Floats:
    """The score of each packet after the first `mapping` and `learning` ones."""
    out: list[Floats] = []
    waiting: list[Floats] = []
    ensemble, learned = None, 0
    for numbers in described(blocks):
        table = numbers
        if ensemble is None:
            waiting.append(numbers)
            if sum(map(len, waiting)) < mapping:
                continue
            table = np.concatenate(waiting)
            ensemble = new_ensemble(groups_of(table[:mapping]))
            table = table[mapping:]
            waiting.clear()
        left = max(min(learning - learned, len(table)), 0)
        if left:
            passed(ensemble, table[:left], True)
            learned += left
        if left < len(table):
            out.append(passed(ensemble, table[left:], False))
    return np.concatenate(out) if out else np.zeros(0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("capture", type=Path)
    parser.add_argument("--map", type=int, default=5000, help="packets to find groups by")
    parser.add_argument("--learn", type=int, default=50_000, help="packets after these to learn from")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    n = sum(map(len, open_capture(given.capture)))
    mapping, learning = given.map, given.learn
    if n <= mapping + learning:
        mapping, learning = max(n // 10, 2), n * 4 // 10
    found = scores(open_capture(given.capture), mapping, learning)
    if given.out:
        np.save(given.out, found)
    print(f"{n:,} packets, {len(found):,} scored, 99 in 100 below {np.quantile(found, 0.99):.4f}")


if __name__ == "__main__":
    from benchmarks import kitsune  # under its own name, by which compiled code is found again

    kitsune.main()
