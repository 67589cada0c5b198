"""A confusion matrix as a picture: an SVG of its own, for a page and whoever looks at it by day or by night."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from markupsafe import Markup

_CELL: Final = 46  # pixels
_NAMES: Final = 118  # to the left, and at most above
_STYLE: Final = Markup(
    "text{font:12px system-ui,sans-serif;fill:#24292f}.n{text-anchor:middle}.r{text-anchor:end}.light{fill:#fff}"
    ".c{fill:#0550ae}.g{fill:none;stroke:#8c959f;stroke-width:.5}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.c{fill:#4493f8}}"
)
_DARK: Final = 0.55  # share from which on a cell's number is light


def confusion_picture(run: Mapping[str, Any], title: str) -> str:
    """The matrix of a run (`multiclass.figures`): a row for each true class, shaded by its share of the row."""
    names, matrix = run["names"], run["matrix"]
    columns = [*names, *(["unknown"] if any(line[-1] for line in matrix) else [])]
    parts = [Markup('<text x="{}" y="14">{}</text>').format(_NAMES, title)]
    top = 30 + 7 * max(map(len, columns))
    for j, name in enumerate(columns):
        x = _NAMES + j * _CELL + _CELL / 2
        parts.append(
            Markup('<text transform="translate({:g} {:g}) rotate(-60)">{}</text>').format(x, top - 6, name)
        )
    for i, (name, line) in enumerate(zip(names, matrix, strict=True)):
        y = top + i * _CELL
        parts.append(Markup('<text class="r" x="{}" y="{:g}">{}</text>').format(_NAMES - 8, y + 27, name))
        total = max(sum(line), 1)
        for j, count in enumerate(line[: len(columns)]):
            share = count / total
            x = _NAMES + j * _CELL
            said = Markup("{} called {}: {:,} ({:.0%})").format(name, columns[j], count, share)
            light = " light" if share >= _DARK else ""
            parts.append(
                Markup(
                    '<g><title>{}</title><rect class="c" x="{}" y="{}" width="{}" height="{}" fill-opacity="{:.3f}"/>'
                    '<rect class="g" x="{}" y="{}" width="{}" height="{}"/>'
                    '<text class="n{}" x="{:g}" y="{:g}">{}</text></g>'
                ).format(
                    said, x, y, _CELL, _CELL, share, x, y, _CELL, _CELL, light, x + _CELL / 2, y + 27, f"{count:,}"
                )
            )  # fmt: skip
    width, height = _NAMES + len(columns) * _CELL + 40, top + len(names) * _CELL + 8
    return str(
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" width="{}" role="img" aria-label="{}">'
            "<style>{}</style>{}</svg>\n"
        ).format(width, height, width, title, _STYLE, Markup("").join(parts))
    )
