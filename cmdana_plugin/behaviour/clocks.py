"""Two clocks that predict a stream's next connection: one learned over days, with back-off, and the last minutes' own.

A stream's connection is three symbols. The slow clock knows how often each stood in the stream, in streams of its
kind whose hosts behave alike, and anywhere; what an hour showed enters when the hour is over, and no hour much. The
fast clock knows the last sixteen. Where the fast one predicts better than the slow, something new repeats itself.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from cmdana_plugin.behaviour.tables import ALPHABET, RING, SYMBOLS
from feature_extractors.compiled import helper

_PRIOR: Final = 4.0  # connections that the coarser level weighs in the finer
_FAST_PRIOR: Final = 2.0  # and the slow clock in the fast
_FADING: Final = 0.9  # of the fast clock, by connection
_WEIGHTS: Final = _FADING ** np.arange(RING)
_WHOLE: Final = np.concatenate([np.zeros(1), np.cumsum(_WEIGHTS)])
_LEAST, _MOST = -2.0, 3.0  # nats that one symbol may bring
_DRIFT: Final = 0.3  # nats that a connection may bring without adding evidence
_HALF_LIFE: Final = 3600.0  # seconds after which evidence counts half
_OF_AN_HOUR: Final = 64.0  # connections that an hour may teach
_MEMORY: Final = 2000.0  # connections that a slow clock remembers


@helper
def gap_symbol(gap: Any) -> Any:
    """0..15: a millisecond to a day, in steps of 1.75 doublings; 15 too where there is none before."""
    return min(max(int((np.log2(min(gap, 1e9) + 1e-3) + 10.0) / 1.75), 0), ALPHABET - 1)


@helper
def size_symbol(x: Any) -> Any:
    """0..15: halves of a doubling, eight doublings apart the same."""
    return int(2.0 * np.log2(1.0 + x)) & (ALPHABET - 1)


@helper
def predicted(own: Any, group: Any, every: Any, codes: Any, have: Any, at: Any, symbols: Any) -> Any:
    """(bits that the slow clock needed, nats that the fast one gained); `have` of `codes` count, the last at `at`."""
    bits, gain = 0.0, 0.0
    for s in range(SYMBOLS):
        symbol = symbols[s]
        p = 1.0 / ALPHABET
        for table in (every, group, own):
            p = (table[s, symbol] + _PRIOR * p) / (table[s, ALPHABET] + _PRIOR)
        hits = 0.0
        for k in range(have):
            hits += _WEIGHTS[k] if codes[(at - k) & (RING - 1), s] == symbol else 0.0
        q = (hits + _FAST_PRIOR * p) / (_WHOLE[have] + _FAST_PRIOR)
        bits -= np.log2(p)
        gain += min(max(np.log(q / p), _LEAST), _MOST)
    return bits, gain


@helper
def evidence_after(evidence: Any, elapsed: Any, gain: Any) -> Any:
    """The sum of gains, fading with time, that never falls below nothing (Page 1954)."""
    return max(evidence * 0.5 ** (elapsed / _HALF_LIFE) + gain - _DRIFT, 0.0)


@helper
def learn_hour(own: Any, group: Any, every: Any, hour: Any) -> None:
    """What an hour of the stream showed enters all levels; `hour` [SYMBOLS, ALPHABET + 1] is emptied."""
    for s in range(SYMBOLS):
        shown = hour[s, ALPHABET]
        if shown == 0.0:
            continue
        weight = min(1.0, _OF_AN_HOUR / shown)
        for table in (own, group, every):
            for a in range(ALPHABET + 1):
                table[s, a] += weight * hour[s, a]
            if table[s, ALPHABET] > _MEMORY:
                for a in range(ALPHABET + 1):
                    table[s, a] *= 0.5
        for a in range(ALPHABET + 1):
            hour[s, a] = 0.0
