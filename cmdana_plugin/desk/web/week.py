"""A host's week drawn: a cell for each hour of each day of the week, stronger for more connections."""

from __future__ import annotations

from typing import Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_THURSDAY: Final = 3  # the first of January 1970
_LEFT: Final = 34  # of the cells, in the drawing's units, as are all sizes
_TOP: Final = 16
_CELL: Final = 12


def week(ts: NDArray[np.float64]) -> Markup:
    """Connections that began at `ts` (seconds since the epoch) by day of the week and hour (UTC)."""
    hours = (ts // 3600).astype(np.int64)
    day, hour = (hours // 24 + _THURSDAY) % 7, hours % 24
    counts = np.bincount(day * 24 + hour, minlength=168).reshape(7, 24)
    most = max(int(counts.max()), 1)
    parts = [
        Markup('<text x="{}" y="11" class="tick mid">{}</text>').format(_LEFT + _CELL * (h + 0.5), f"{h:02d}")
        for h in range(0, 24, 6)
    ]
    for d, name in enumerate(_DAYS):
        y = _TOP + d * _CELL
        parts.append(Markup('<text x="0" y="{}" class="tick">{}</text>').format(y + 10, name))
        for h in range(24):
            n = int(counts[d, h])
            shade = 0.18 + 0.82 * (np.log1p(n) / np.log1p(most)) if n else 0.0
            parts.append(
                Markup(
                    '<rect x="{}" y="{}" width="11" height="11" class="{}" fill-opacity="{}"><title>{}</title></rect>'
                ).format(
                    _LEFT + _CELL * h, y, "all" if n else "empty-bar", f"{shade if n else 1.0:.2f}",
                    f"{name} {h:02d}:00: {n:,}",
                )
            )  # fmt: skip
    busiest = np.unravel_index(int(counts.argmax()), counts.shape)
    says = (
        f"Connections by day of the week and hour (UTC); most, {most:,}, on {_DAYS[int(busiest[0])]} at "
        f"{int(busiest[1]):02d}:00; {int((counts.sum(axis=1) > 0).sum())} days of the week have any"
    )
    return Markup('<svg class="week" viewBox="0 0 322 102" role="img" aria-label="{}">{}</svg>').format(
        says, Markup("").join(parts)
    )
