"""The parameters of a network as the compiled kernels take them; `packing` makes them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Mix(NamedTuple):
    """What stands behind each pooling: a layer of its own, added, then normed."""

    wide: Floats  # [48, 96]
    wide_bias: Floats
    back: Floats  # [96, 48]
    back_bias: Floats
    gain: Floats  # [48]
    shift: Floats


class PoolWeights(NamedTuple):
    """Attention pooling of tokens."""

    score: Floats  # [48, 8]
    score_bias: Floats
    value: Floats  # [4, 48, 16]
    value_bias: Floats  # [4, 16]
    zeros: Floats  # [48]
    mix: Mix


class TokenWeights(NamedTuple):
    """From what a token is given as to the token."""

    read: Floats  # [K, 48]: a layer of packets, the table of log tokens
    read_bias: Floats
    think: Floats  # [48, 48]
    think_bias: Floats


class UpdateWeights(NamedTuple):
    """What an event writes."""

    summary: Floats  # [147, 48]
    summary_bias: Floats
    write: Floats  # [48, 96]
    write_bias: Floats
    value: Floats
    value_bias: Floats
    recent: Floats  # [48, 16]
    recent_bias: Floats


class StateWeights(NamedTuple):
    """The state before an event, and the gate."""

    first: Floats  # [2 * columns, 48]
    first_bias: Floats
    second: Floats  # [48, 48]
    second_bias: Floats
    look: Floats  # [48, 16]
    look_bias: Floats
    remember: Floats  # [112, 48]
    remember_bias: Floats
    gain: Floats  # [48]
    shift: Floats
    gate: Floats  # [51, 48]
    gate_bias: Floats
    weigh: Floats  # [48, 8]
    weigh_bias: Floats


class FieldWeights(NamedTuple):
    """From a row to the classes of its fields."""

    wide: Floats  # [48 or 96, 96]
    wide_bias: Floats
    classes: Floats  # [fields, 96, 40]
    classes_bias: Floats  # [fields, 40]


class PredictorWeights(NamedTuple):
    """Cross-modal attention."""

    query: Floats  # [48, 96]
    query_bias: Floats
    key: Floats  # [4, 12, 48]
    value: Floats  # [4, 48, 16]
    value_bias: Floats  # [4, 16]
    zeros: Floats  # [48]
    mix: Mix
    fields: FieldWeights
