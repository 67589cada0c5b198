"""The log entries of a block of windows by their stream, which is how all that is read of them is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_extractors.observations import LogEntry, LogValue


class Entries(NamedTuple):
    """Those of one stream, in the order of the block."""

    at: NDArray[np.int64]  # their index among all entries
    fields: list[Mapping[str, LogValue]]


def by_stream(logs: Sequence[LogEntry]) -> dict[str, Entries]:
    """The entries of each stream that has any."""
    rows: dict[str, list[int]] = {}
    for i, one in enumerate(logs):
        rows.setdefault(one.stream, []).append(i)
    return {
        stream: Entries(np.array(at, np.int64), [logs[i].fields for i in at]) for stream, at in rows.items()
    }
