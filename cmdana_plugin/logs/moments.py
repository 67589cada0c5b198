"""Times of traffic as text: a date where the year is 1 to 9999, else the number of seconds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from feature_extractors import CmdanaError

LATEST: Final = 253402300799.0  # seconds since the epoch: the last second of the year 9999
EARLIEST: Final = -62135596800.0  # the first of the year 1


def shown(ts: float, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """A time (seconds since the epoch) in UTC by `form` (strftime); outside the years 1 to 9999 as a number."""
    if EARLIEST <= ts <= LATEST:
        return datetime.fromtimestamp(ts, UTC).strftime(form)
    return f"{ts:.6f}" if abs(ts) < 1e15 else repr(float(ts))


def parsed(option: str, text: str) -> float:
    """A time of ISO 8601 (UTC unless it says otherwise), seconds since the epoch. Raises `CmdanaError`."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise CmdanaError(f"{option}: found {text!r}; expected a time such as 2026-11-22T14:00") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
