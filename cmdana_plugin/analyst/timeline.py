"""Sums over time in bounded space."""

from __future__ import annotations

from typing import Final

from cmdana_plugin.analyst import charts

_MOST_CELLS: Final = 50_000  # cells of a timeline; past it its columns widen


class Timeline:
    """Sums per key and time column; when there are too many cells, columns widen up the ladder of `charts.LADDER`."""

    def __init__(self, values: int) -> None:
        self.width: int = charts.LADDER[0]  # seconds
        self.cells: dict[
            tuple[str, int], list[float]
        ] = {}  # (key, column) -> sums; column * width is its start
        self.dropped = 0  # sums that found no room even in the widest columns
        self._values = values

    def add(self, key: str, ts: float, *values: float) -> None:
        """Adds `values` to the column of `ts` (seconds since the epoch)."""
        at = (key, int(ts // self.width))
        cell = self.cells.get(at)
        if cell is None:
            if len(self.cells) >= _MOST_CELLS and not self._widen():
                self.dropped += 1
                return
            cell = self.cells.setdefault((key, int(ts // self.width)), [0.0] * self._values)
        for i, value in enumerate(values):
            cell[i] += value

    def columns(self, width: int) -> dict[tuple[str, int], list[float]]:
        """The cells in columns of `width` seconds, a multiple of the present width."""
        merged: dict[tuple[str, int], list[float]] = {}
        for (key, column), cell in self.cells.items():
            into = merged.setdefault((key, column * self.width // width), [0.0] * self._values)
            for i, value in enumerate(cell):
                into[i] += value
        return merged

    def _widen(self) -> bool:
        while len(self.cells) >= _MOST_CELLS // 2:
            wider = charts.LADDER.index(self.width) + 1
            if wider == len(charts.LADDER):
                return len(self.cells) < _MOST_CELLS
            self.cells = self.columns(charts.LADDER[wider])
            self.width = charts.LADDER[wider]
        return True
