"""Times of traffic as text: a date where the year is 1 to 9999, else the number of seconds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

LATEST: Final = 253402300799.0  # seconds since the epoch: the last second of the year 9999
EARLIEST: Final = -62135596800.0  # the first of the year 1


def shown(ts: float, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """A time (seconds since the epoch) in UTC by `form` (strftime); outside the years 1 to 9999 as a number."""
    if EARLIEST <= ts <= LATEST:
        return datetime.fromtimestamp(ts, UTC).strftime(form)
    return f"{ts:.6f}" if abs(ts) < 1e15 else repr(float(ts))
