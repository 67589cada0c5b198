"""The network's steps in compiled code: rows of arrays in, rows of arrays out, each row from itself alone.

Tokens are not padded: a row has as many as it has. The sizes here are those of every network that is trained
(`fits`); layer norms' gain and shift are multiplied into what follows them (`packing`).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from cmdana_plugin.detector.engines.arithmetic import (
    add_rows,
    dot,
    gelu,
    log_of_sum,
    sigmoid,
    softmax_columns,
    standardise_rows,
    tanh,
)
from cmdana_plugin.detector.engines.shape import CLASSES, Shape
from cmdana_plugin.detector.engines.weights import Floats
from cmdana_plugin.detector.history import KINDS, MEMORY, RING, RING_WIDTH
from feature_extractors.compiled import entry, helper, product, strip, wide_strip

_WIDTH, _LATENTS, _HEADS = 48, 2, 4
_HEAD: Final = _WIDTH // _HEADS
_HEAD_PADDED: Final = 16  # a head's values, padded to a strip
_POOLED: Final = _LATENTS * _HEADS
_PAIR: Final = _LATENTS * _WIDTH
_MODALITIES: Final = 3
_OTHERS: Final = (_MODALITIES - 1) * _LATENTS + 1  # tokens that a modality is predicted from
_TOKENS: Final = 16  # of a sequence, at most
_FEW: Final = 8  # rows whose tokens are encoded together
_MANY: Final = 32  # rows of one product
CLASSES_PADDED: Final = 40
NO_CLASS: Final = -1e9  # the bias of what pads them
_ABSENT: Final = np.float32(-1e9)
_LEAST_GATE: Final = np.float32(1e-9)
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


def fits(shape: Shape) -> bool:
    """Whether a network has the sizes that this code is made for, as every one has that is trained."""
    return (shape.width, shape.latents, shape.heads) == (_WIDTH, _LATENTS, _HEADS)


@helper
def _mixed(z: Any, n: int, mix: Any, plain: Any, wide: Any, back: Any) -> None:
    """Puts the layer behind a pooling of `z` [n, 48] in `back`."""
    standardise_rows(z, n, plain)
    product(plain, n, mix.wide, mix.wide_bias, wide)
    gelu(wide, n)
    product(wide, n, mix.back, mix.back_bias, back)
    add_rows(back, z, n)
    standardise_rows(back, n, back)
    for i in range(n):
        for j in range(_WIDTH):
            back[i, j] = back[i, j] * mix.gain[j] + mix.shift[j]


@helper
def _valued(pooled: Any, n: int, value: Any, bias: Any, heads: Any, z: Any) -> None:
    """Puts the values of `n` latents in `z` [n, 48]: each head's part of what it pooled, `pooled` [4 * n, 48]."""
    for h in range(_HEADS):
        w, b = value[h], bias[h]
        for p in range(0, n, 4):
            q, r, s = min(p + 1, n - 1), min(p + 2, n - 1), min(p + 3, n - 1)
            wide_strip(
                pooled,
                p * _HEADS + h,
                q * _HEADS + h,
                r * _HEADS + h,
                s * _HEADS + h,
                w,
                0,
                b,
                heads,
                0,
                1,
                2,
                3,
            )
            for i in range(min(4, n - p)):
                for j in range(_HEAD):
                    z[p + i, h * _HEAD + j] = heads[i, j]


@helper
def _sums(weights: Any, tokens: Any, zeros: Any, pooled: Any, at: int) -> None:
    """Puts sums of `tokens` [T, 48] by `weights` [8, T] in the eight rows of `pooled` from `at` on."""
    for q in range(0, _POOLED, 4):
        for column in range(0, _WIDTH, 16):
            wide_strip(
                weights,
                q,
                q + 1,
                q + 2,
                q + 3,
                tokens,
                column,
                zeros,
                pooled,
                at + q,
                at + q + 1,
                at + q + 2,
                at + q + 3,
            )


class _Scratch(NamedTuple):
    scores: Floats  # [tokens, 8]
    weights: Floats  # flat
    top: Floats  # [8]
    total: Floats  # [8]
    pooled: Floats  # [8 * rows, 48]
    heads: Floats  # [4, 16]
    z: Floats  # [2 * rows, 48]
    plain: Floats
    wide: Floats  # [2 * rows, 96]
    back: Floats


@helper
def _scratch(rows: int, tokens: int) -> Any:
    return _Scratch(
        np.empty((rows * tokens, _POOLED), np.float32),
        np.empty(_POOLED * tokens, np.float32),
        np.empty(_POOLED, np.float32),
        np.empty(_POOLED, np.float32),
        np.empty((rows * _POOLED, _WIDTH), np.float32),
        np.empty((4, _HEAD_PADDED), np.float32),
        np.empty((rows * _LATENTS, _WIDTH), np.float32),
        np.empty((rows * _LATENTS, _WIDTH), np.float32),
        np.empty((rows * _LATENTS, _PAIR), np.float32),
        np.empty((rows * _LATENTS, _WIDTH), np.float32),
    )


@helper
def _pool(
    x: Any, first: Any, count: int, w: Any, t: Any, rows: Any, at: int, out: Any, modality: int
) -> None:
    """Puts the latents of `count` rows in `out`; those of row k are pooled of tokens `first[k]` to `first[k + 1]`."""
    standardise_rows(x, first[count], x)
    product(x, first[count], w.score, w.score_bias, t.scores)
    for k in range(count):
        begin, end = first[k], first[k + 1]
        weights = t.weights[: _POOLED * (end - begin)].reshape((_POOLED, end - begin))
        softmax_columns(t.scores, begin, end, t.top, t.total, weights)
        _sums(weights, x[begin:end], w.zeros, t.pooled, k * _POOLED)
    _valued(t.pooled, count * _LATENTS, w.value, w.value_bias, t.heads, t.z)
    _mixed(t.z, count * _LATENTS, w.mix, t.plain, t.wide, t.back)
    for k in range(count):
        for m in range(_LATENTS):
            for j in range(_WIDTH):
                out[rows[at + k], modality, m, j] = t.back[k * _LATENTS + m, j]


@entry
def encode_connections(codes, values, rows, code, slope, pool, out, modality):  # type: ignore[no-untyped-def]
    """Latents of connection records in `out` [n, 3, 2, 48]."""
    fields, numeric = codes.shape[1], slope.shape[0]
    x = np.empty((_FEW * fields, _WIDTH), np.float32)
    first = np.arange(_FEW + 1) * fields
    t = _scratch(_FEW, fields)
    for at in range(0, len(rows), _FEW):
        count = min(_FEW, len(rows) - at)
        for k in range(count):
            row = rows[at + k]
            for f in range(fields):
                c, v = codes[row, f], values[row, f] if f < numeric else _ZERO
                for j in range(_WIDTH):
                    x[k * fields + f, j] = code[c, j]
                if f < numeric:
                    for j in range(_WIDTH):
                        x[k * fields + f, j] += v * slope[f, j]
        _pool(x, first, count, pool, t, rows, at, out, modality)


@helper
def _thought(x: Any, n: int, w: Any, plain: Any, more: Any) -> None:
    standardise_rows(x, n, plain)
    product(plain, n, w.think, w.think_bias, more)
    gelu(more, n)
    add_rows(x, more, n)


@entry
def encode_packets(packets, start, rows, w, pool, out, modality):  # type: ignore[no-untyped-def]
    """Latents of packet sequences in `out`, each from its first sixteen packets."""
    each = packets.shape[1]
    given = np.empty((_FEW * _TOKENS, 3 * each), np.float32)
    x = np.empty((_FEW * _TOKENS, _WIDTH), np.float32)
    plain = np.empty((_FEW * _TOKENS, _WIDTH), np.float32)
    more = np.empty((_FEW * _TOKENS, _WIDTH), np.float32)
    first = np.zeros(_FEW + 1, np.int64)
    t = _scratch(_FEW, _TOKENS)
    for at in range(0, len(rows), _FEW):
        count = min(_FEW, len(rows) - at)
        n = 0
        for k in range(count):
            begin = start[rows[at + k]]
            length = min(start[rows[at + k] + 1] - begin, _TOKENS)
            for i in range(length):
                for j in range(each):
                    given[n, j] = packets[begin + i - 1, j] if i > 0 else _ZERO
                    given[n, each + j] = packets[begin + i, j]
                    given[n, 2 * each + j] = packets[begin + i + 1, j] if i + 1 < length else _ZERO
                n += 1
            first[k + 1] = n
        product(given, n, w.read, w.read_bias, x)
        gelu(x, n)
        _thought(x, n, w, plain, more)
        _pool(x, first, count, pool, t, rows, at, out, modality)


@entry
def encode_logs(tokens, start, rows, w, pool, out, modality):  # type: ignore[no-untyped-def]
    """Latents of log sequences in `out`, each from its first sixteen tokens; entry 0 of the table is no word."""
    x = np.empty((_FEW * _TOKENS, _WIDTH), np.float32)
    plain = np.empty((_FEW * _TOKENS, _WIDTH), np.float32)
    more = np.empty((_FEW * _TOKENS, _WIDTH), np.float32)
    first = np.zeros(_FEW + 1, np.int64)
    t = _scratch(_FEW, _TOKENS)
    for at in range(0, len(rows), _FEW):
        count = min(_FEW, len(rows) - at)
        n = 0
        for k in range(count):
            begin = start[rows[at + k]]
            for i in range(begin, begin + min(start[rows[at + k] + 1] - begin, _TOKENS)):
                for j in range(_WIDTH):
                    x[n, j] = _ZERO
                for word in range(tokens.shape[1]):
                    bucket = tokens[i, word]
                    if bucket != 0:
                        for j in range(_WIDTH):
                            x[n, j] += w.read[bucket, j]
                n += 1
            first[k + 1] = n
        _thought(x, n, w, plain, more)
        _pool(x, first, count, pool, t, rows, at, out, modality)


@entry
def memory_updates(latents, present, begin, end, w, write, value, recent):  # type: ignore[no-untyped-def]
    """What events write: gate and value [n, KINDS, MEMORY], and ring entries [n, RING_WIDTH]."""
    given = np.empty((_MANY, _MODALITIES * (_WIDTH + 1)), np.float32)
    v, plain = np.empty((_MANY, _WIDTH), np.float32), np.empty((_MANY, _WIDTH), np.float32)
    written, short = np.empty((_MANY, KINDS * MEMORY), np.float32), np.empty((_MANY, RING_WIDTH), np.float32)
    gates, values = write.reshape((-1, KINDS * MEMORY)), value.reshape((-1, KINDS * MEMORY))
    for at in range(begin, end, _MANY):
        n = min(_MANY, end - at)
        for i in range(n):
            for m in range(_MODALITIES):
                for j in range(_WIDTH):
                    given[i, m * _WIDTH + j] = np.float32(0.5) * (
                        latents[at + i, m, 0, j] + latents[at + i, m, 1, j]
                    )
                given[i, _MODALITIES * _WIDTH + m] = _ONE if present[at + i, m] else _ZERO
        product(given, n, w.summary, w.summary_bias, v)
        gelu(v, n)
        standardise_rows(v, n, plain)
        product(plain, n, w.write, w.write_bias, written)
        sigmoid(written, n, gates[at : at + n])
        product(plain, n, w.value, w.value_bias, written)
        tanh(written, n, values[at : at + n])
        product(plain, n, w.recent, w.recent_bias, short)
        for i in range(n):
            for j in range(RING_WIDTH):
                recent[at + i, j] = short[i, j]


@helper
def _looked_back(query: Any, i: int, ring: Any, row: int, used: int, chance: Any, given: Any) -> None:
    """Puts what attention over the ring's `used` entries sees behind the memory in `given`."""
    for j in range(RING_WIDTH):
        given[i, KINDS * MEMORY + j] = _ZERO
    top = _ABSENT
    for r in range(used):
        score = _ZERO
        for j in range(RING_WIDTH):
            score += query[i, j] * ring[row, r, j]
        chance[r] = score / np.float32(4.0)  # the root of RING_WIDTH
        top = max(top, chance[r])
    total = _ZERO
    for r in range(used):
        chance[r] = np.exp(chance[r] - top)
        total += chance[r]
    for r in range(used):
        for j in range(RING_WIDTH):
            given[i, KINDS * MEMORY + j] += chance[r] / total * ring[row, r, j]


@entry
def states(state, known, memory, ring, used, present, rows, w, out, gate):  # type: ignore[no-untyped-def]
    """The state before each event [n, 48], and its gate [n, 4]."""
    columns = state.shape[1]
    given = np.empty((_MANY, 2 * columns), np.float32)
    counts = np.empty((_MANY, _WIDTH), np.float32)
    hidden = np.empty((_MANY, _WIDTH), np.float32)
    s = np.empty((_MANY, _WIDTH), np.float32)
    query, past = (
        np.empty((_MANY, RING_WIDTH), np.float32),
        np.empty((_MANY, KINDS * MEMORY + RING_WIDTH), np.float32),
    )
    with_present = np.empty((_MANY, _WIDTH + _MODALITIES), np.float32)
    logits, chance = np.empty((_MANY, 8), np.float32), np.empty(RING, np.float32)
    remembered = memory.reshape((-1, KINDS * MEMORY))
    for at in range(0, len(rows), _MANY):
        n = min(_MANY, len(rows) - at)
        for i in range(n):
            for j in range(columns):
                given[i, j] = state[rows[at + i], j]
                given[i, columns + j] = known[rows[at + i], j]
        product(given, n, w.first, w.first_bias, hidden)
        gelu(hidden, n)
        product(hidden, n, w.second, w.second_bias, counts)
        product(counts, n, w.look, w.look_bias, query)
        for i in range(n):
            for j in range(KINDS * MEMORY):
                past[i, j] = remembered[rows[at + i], j]
            _looked_back(query, i, ring, rows[at + i], used[rows[at + i]], chance, past)
        product(past, n, w.remember, w.remember_bias, s)
        add_rows(s, counts, n)
        standardise_rows(s, n, s)
        for i in range(n):
            for j in range(_WIDTH):
                s[i, j] = s[i, j] * w.gain[j] + w.shift[j]
                out[rows[at + i], j] = s[i, j]
                with_present[i, j] = s[i, j]
            for m in range(_MODALITIES):
                with_present[i, _WIDTH + m] = _ONE if present[rows[at + i], m] else _ZERO
        product(with_present, n, w.gate, w.gate_bias, hidden)
        gelu(hidden, n)
        product(hidden, n, w.weigh, w.weigh_bias, logits)
        for i in range(n):
            top = logits[i, _MODALITIES]
            for m in range(_MODALITIES):
                if present[rows[at + i], m]:
                    top = max(top, logits[i, m])
            total = _ZERO
            for m in range(_MODALITIES + 1):
                there = m == _MODALITIES or present[rows[at + i], m]
                gate[rows[at + i], m] = np.exp(logits[i, m] - top) if there else _ZERO
                total += gate[rows[at + i], m]
            for m in range(_MODALITIES + 1):
                gate[rows[at + i], m] /= total


@helper
def _logits(y: Any, a: int, b: int, c: int, d: int, w: Any, bias: Any, logits: Any) -> None:
    """Puts the classes of one field of four rows in `logits` [4, 40]."""
    wide_strip(y, a, b, c, d, w, 0, bias, logits, 0, 1, 2, 3)
    wide_strip(y, a, b, c, d, w, 16, bias, logits, 0, 1, 2, 3)
    strip(y, a, b, c, d, w, 32, bias, logits, 0, 1, 2, 3)


@helper
def _surprises(y: Any, n: int, targets: Any, rows: Any, w: Any, work: Any, out: Any) -> None:
    """Puts the mean negative log probability of what is set in `out` (class -1: not asked)."""
    logits, asking, total, count = work
    for i in range(n):
        total[i] = _ZERO
        count[i] = _ZERO
    for f in range(w.classes.shape[0]):
        k = 0
        for i in range(n):
            if targets[rows[i], f] >= 0:
                asking[k] = i
                k += 1
        classes, bias = w.classes[f], w.classes_bias[f]
        for p in range(0, k, 4):
            a, b, c, d = (
                asking[p],
                asking[min(p + 1, k - 1)],
                asking[min(p + 2, k - 1)],
                asking[min(p + 3, k - 1)],
            )
            _logits(y, a, b, c, d, classes, bias, logits)
            for q in range(min(4, k - p)):
                i = asking[p + q]
                total[i] += log_of_sum(logits, q, CLASSES_PADDED) - logits[q, targets[rows[i], f]]
                count[i] += _ONE
    for i in range(n):
        out[rows[i]] = total[i] / max(count[i], _ONE)


@helper
def _chances(y: Any, n: int, rows: Any, w: Any, logits: Any, out: Any) -> None:
    """Puts the log probability of every class of every field in `out` [n, fields, CLASSES]."""
    for f in range(w.classes.shape[0]):
        for p in range(0, n, 4):
            _logits(
                y,
                p,
                min(p + 1, n - 1),
                min(p + 2, n - 1),
                min(p + 3, n - 1),
                w.classes[f],
                w.classes_bias[f],
                logits,
            )
            for q in range(min(4, n - p)):
                whole = log_of_sum(logits, q, CLASSES_PADDED)
                for c in range(CLASSES):
                    out[rows[p + q], f, c] = logits[q, c] - whole


@helper
def _work() -> Any:
    return (
        np.empty((4, CLASSES_PADDED), np.float32),
        np.empty(_MANY, np.int64),
        np.empty(_MANY, np.float32),
        np.empty(_MANY, np.float32),
    )


@entry
def look_ahead(state, targets, rows, w, out):  # type: ignore[no-untyped-def]
    """How surprising the connection is to the state alone, in `out` [n]."""
    s, y, work = np.empty((_MANY, _WIDTH), np.float32), np.empty((_MANY, _PAIR), np.float32), _work()
    for at in range(0, len(rows), _MANY):
        n = min(_MANY, len(rows) - at)
        for i in range(n):
            for j in range(_WIDTH):
                s[i, j] = state[rows[at + i], j]
        product(s, n, w.wide, w.wide_bias, y)
        gelu(y, n)
        _surprises(y, n, targets, rows[at : at + n], w, work, out)


@entry
def predict(  # type: ignore[no-untyped-def]
    modality, latents, state, gate, present, targets, rows, w, residual, surprise, chance
):
    """One modality of `rows` predicted from the others and the state: residual, surprise, and chances where kept.

    The chances of every field are put in `chance` [n, fields, CLASSES], unless it has no rows.
    """
    s = np.empty((_MANY, _WIDTH), np.float32)
    others = np.empty((_MANY * _OTHERS, _WIDTH), np.float32)
    bias, weights = np.empty(_OTHERS, np.float32), np.empty((_POOLED, _OTHERS), np.float32)
    query, keys = np.empty((_MANY, _PAIR), np.float32), np.empty((_MANY * _POOLED, _WIDTH), np.float32)
    pooled, heads = np.empty((_MANY * _POOLED, _WIDTH), np.float32), np.empty((4, _HEAD_PADDED), np.float32)
    z = np.empty((_MANY * _LATENTS, _WIDTH), np.float32)
    plain = np.empty((_MANY * _LATENTS, _WIDTH), np.float32)
    back = np.empty((_MANY * _LATENTS, _WIDTH), np.float32)
    wide, y = np.empty((_MANY * _LATENTS, _PAIR), np.float32), np.empty((_MANY, _PAIR), np.float32)
    work = _work()
    by_head = query.reshape((_MANY * _POOLED, _HEAD))
    for at in range(0, len(rows), _MANY):
        n = min(_MANY, len(rows) - at)
        for i in range(n):
            row = rows[at + i]
            k = i * _OTHERS
            for m in range(_MODALITIES):
                if m != modality:
                    for latent in range(_LATENTS):
                        for j in range(_WIDTH):
                            others[k, j] = latents[row, m, latent, j]
                        k += 1
            for j in range(_WIDTH):
                others[k, j] = state[row, j]
                s[i, j] = state[row, j]
        product(s, n, w.query, w.query_bias, query)
        for h in range(_HEADS):
            key = w.key[h]
            for p in range(0, n * _LATENTS, 4):
                last = n * _LATENTS - 1
                a, b = p * _HEADS + h, min(p + 1, last) * _HEADS + h
                c, d = min(p + 2, last) * _HEADS + h, min(p + 3, last) * _HEADS + h
                for column in range(0, _WIDTH, 16):
                    wide_strip(by_head, a, b, c, d, key, column, w.zeros, keys, a, b, c, d)
        for i in range(n):
            row = rows[at + i]
            k = 0
            for m in range(_MODALITIES):
                if m != modality:
                    weight = np.log(max(gate[row, m], _LEAST_GATE)) if present[row, m] else _ABSENT
                    for _ in range(_LATENTS):
                        bias[k] = weight
                        k += 1
            bias[k] = np.log(max(gate[row, _MODALITIES], _LEAST_GATE))
            for q in range(_POOLED):
                top = _ABSENT
                for t in range(_OTHERS):
                    weights[q, t] = bias[t] + dot(others, i * _OTHERS + t, keys, i * _POOLED + q)
                    top = max(top, weights[q, t])
                total = _ZERO
                for t in range(_OTHERS):
                    weights[q, t] = np.exp(weights[q, t] - top)
                    total += weights[q, t]
                for t in range(_OTHERS):
                    weights[q, t] /= total
            _sums(weights, others[i * _OTHERS : (i + 1) * _OTHERS], w.zeros, pooled, i * _POOLED)
        _valued(pooled, n * _LATENTS, w.value, w.value_bias, heads, z)
        _mixed(z, n * _LATENTS, w.mix, plain, wide, back)
        for i in range(n):
            row = rows[at + i]
            total = _ZERO
            for latent in range(_LATENTS):
                for j in range(_WIDTH):
                    apart = back[i * _LATENTS + latent, j] - latents[row, modality, latent, j]
                    total += apart * apart
            residual[row, modality] = total / np.float32(_PAIR)
        product(back.reshape((_MANY, _PAIR)), n, w.fields.wide, w.fields.wide_bias, y)
        gelu(y, n)
        _surprises(y, n, targets, rows[at : at + n], w.fields, work, surprise)
        if len(chance):
            _chances(y, n, rows[at : at + n], w.fields, work[0], chance)
