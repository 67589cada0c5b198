"""Numbers, times and sizes formatted for people."""

from __future__ import annotations

from cmdana_plugin.logs import moments


def when(ts: float) -> str:
    """A time (seconds since the epoch) as date and time in UTC."""
    return moments.shown(ts)


def between(first: float, last: float) -> str:
    """A span between two times in UTC; a date that they share stands once."""
    one, other = when(first), when(last)
    if one == other:
        return one
    return f"{one} to {other[11:] if one[:10] == other[:10] else other}"


def count(n: float) -> str:
    """A number with thousands separators."""
    return f"{n:,.0f}"


def size(n: float) -> str:
    """A number of bytes in B, kB, MB or GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:,.3g} TB"


def percent(share: float) -> str:
    """A share (0 to 1) as a percentage."""
    return f"{share * 100:.0f}\u00a0%" if share == 0 or share >= 0.1 else f"{share * 100:.2g}\u00a0%"


def span(seconds: float) -> str:
    """A duration in seconds, minutes, hours or days."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h" if seconds < 172800 else f"{seconds / 86400:.3g} days"


def plural(n: int, one: str, many: str | None = None) -> str:
    """A count with its noun: "1 notice", "2,000 notices"."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"
