"""Charts as inline SVG: plain shapes with CSS classes, drawn once for a desk and once for a phone.

Every function returns both drawings; the style sheet shows the one that fits, so that text keeps its size. Colours
are the style sheet's. Nothing is drawn from text that is not escaped.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from markupsafe import Markup

from cmdana_plugin.logs import moments

# Widths of time columns, seconds; each divides the next, so that narrower columns can be merged into wider ones.
LADDER: Final = (1, 5, 15, 60, 300, 900, 3600, 10800, 21600, 86400, 604800, 2419200, 29030400, 290304000)

_WIDE_PIXELS: Final = 880.0
_NARROW_PIXELS: Final = 328.0


@dataclass(frozen=True, slots=True)
class Lane:
    """The odd connections and notices of one host in one role over time."""

    label: str
    dots: Sequence[tuple[float, int]]  # (middle of the column in seconds since the epoch, odd connections)
    notices: Sequence[float]  # times of its notices


def time_columns(
    title: str,
    unit: str,
    counts: Sequence[tuple[float, int]],
    width: int,
    span: tuple[float, float],
    kind: str,
) -> Markup:
    """A bar chart of counts over time: `counts` are (start of the column, n), columns are `width` seconds wide."""

    def draw(w: float) -> Markup:
        plot = _Plot(w, 132, left=48, bottom=26, top=20)
        most = max((n for _, n in counts), default=0)
        x = plot.time(span)
        bars = [
            _rect(
                x(t), plot.y(n / max(most, 1)), max(x(t + width) - x(t) - 0.6, 1.2), plot.bottom, kind,
                f"{_moment(t)}: {n:,}",
            )
            for t, n in counts
            if n
        ]  # fmt: skip
        return plot.svg(
            title,
            [
                _text(0, 12, f"{unit} per {words(width)}", "unit"),
                *plot.grid([(0.0, "0"), (1.0, f"{most:,}")] if most else [(0.0, "0")]),
                *bars,
                *plot.time_axis(span),
            ],
        )

    return _both(draw)


def histogram(title: str, counts: Sequence[int], threshold: float | None) -> Markup:
    """A histogram of scores in equal bins over 0..1, logarithmic counts, with the threshold and an axis of p-values."""

    def draw(w: float) -> Markup:
        plot = _Plot(w, 250, left=48, bottom=42, top=52)
        most = max(counts, default=0)
        top = math.log10(max(most, 1)) + 0.4
        step = plot.width / len(counts)
        parts: list[Markup] = [_text(0, 12, "connections (logarithmic)", "unit")]
        decades = [10**k for k in range(math.ceil(top)) if math.log10(10**k) + 0.4 <= top + 1e-9]
        parts += plot.grid([((math.log10(n) + 0.4) / top, _short(n)) for n in decades] if most else [])
        for i, n in enumerate(counts):
            if n:
                odd = threshold is not None and (i + 0.5) / len(counts) >= threshold
                height = (math.log10(n) + 0.4) / top
                bar = _rect(
                    plot.left + i * step,
                    plot.y(height),
                    max(step - 1, 1),
                    plot.bottom,
                    "odd" if odd else "all",
                    f"score {i / len(counts):.2f} to {(i + 1) / len(counts):.2f}: {n:,}",
                )
                parts.append(bar)
        parts.append(_line(plot.left, plot.bottom, plot.right, plot.bottom, "axis"))
        for k in range(6) if w > _NARROW_PIXELS else (0, 1, 2, 3, 4, 5):
            parts.append(_text(plot.left + plot.width * k / 5, plot.bottom + 15, f"{k / 5:g}", "tick mid"))
        parts.append(
            _text(plot.left + plot.width / 2, plot.bottom + 32, "score (0 usual, 1 oddest)", "tick mid")
        )
        parts.append(_text(plot.left, 30, "p-value", "tick"))
        for score, p in [(0.25, "0.1"), (0.4, "0.01"), (0.5, "0.001"), (0.625, "1e-5"), (0.75, "1e-9")]:
            if w > _NARROW_PIXELS or p not in ("0.01", "1e-5"):
                at = plot.left + plot.width * score
                parts += [_line(at, 34, at, 40, "axis"), _text(at, 30, p, "tick mid")]
        if threshold is not None:
            at = plot.left + plot.width * threshold
            parts += [
                _line(at, 40, at, plot.bottom, "limit"),
                _text(at + 5, 52, f"threshold {threshold:.3f}", "limit-text"),
            ]
        return plot.svg(title, parts)

    return _both(draw)


def lanes(title: str, rows: Sequence[Lane], span: tuple[float, float]) -> Markup:
    """A timeline, a lane per host: a dot per time column, larger for more odd connections; a tick for each notice."""

    def draw(w: float) -> Markup:
        narrow = w <= _NARROW_PIXELS
        pitch = 40.0 if narrow else 26.0
        gutter = 7.4 * min(max((len(lane.label) for lane in rows), default=0), 33) + 22
        plot = _Plot(w, pitch * len(rows) + 34, left=8 if narrow else gutter, bottom=26, top=8)
        x = plot.time(span)
        parts: list[Markup] = list(plot.time_axis(span, grid=True))
        for i, lane in enumerate(rows):
            y = 8 + pitch * i + (28 if narrow else 13)
            parts.append(_line(plot.left, y, plot.right, y, "lane"))
            where = (plot.left, y - 13, "host") if narrow else (plot.left - 12, y + 4, "host end")
            parts.append(_text(*where[:2], _middle(lane.label, 38 if narrow else 33), where[2]))
            for t, n in lane.dots:
                radius = min(2.4 + 2.2 * math.log10(n), 9.0)
                parts.append(
                    Markup(
                        '<circle cx="{}" cy="{}" r="{}" class="odd dot"><title>{}</title></circle>'
                    ).format(_n(x(t)), _n(y), _n(radius), f"{lane.label} {_moment(t)}: {n:,} odd")
                )
            parts += [_line(x(t), y - 10, x(t), y + 10, "notice") for t in lane.notices]
        return plot.svg(title, parts)

    return _both(draw)


def unfolded(
    title: str,
    evidence: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    gaps: Sequence[tuple[float, float]],
    reached: Sequence[tuple[float, int, int]],
    notices: Sequence[float],
    span: tuple[float, float],
) -> Markup:
    """An incident's connections over time, in strips: how odd each is, its size, the time since the one before, and
    how many hosts and ports had been reached. Upright strokes are its notices.
    """

    def draw(w: float) -> Markup:
        strips = [
            s for s in (_oddness(evidence), _sizes(sizes), _gaps(gaps), _reach(reached)) if s is not None
        ]
        pitch = 74.0
        whole = _Plot(w, pitch * len(strips) + 34, left=48, bottom=26, top=8)
        x = whole.time(span)
        parts: list[Markup] = list(whole.time_axis(span, grid=True))
        parts += [
            _line(x(t), 4, x(t), whole.bottom, "notice thin") for t in notices if span[0] <= t <= span[1]
        ]
        for i, (words_, ticks, dots, lines) in enumerate(strips):
            top = 8 + pitch * i

            def y(share: float, top: float = top) -> float:
                return top + 62 - 44 * share

            parts.append(_text(whole.left, top + 11, words_, "unit"))
            for share, label in ticks:
                parts.append(_line(whole.left, y(share), whole.right, y(share), "grid"))
                parts.append(_text(whole.left - 6, y(share) + 4, label, "tick end"))
            for t, share, kind in dots:
                parts.append(
                    Markup('<circle cx="{}" cy="{}" r="2.4" class="{} dot"/>').format(
                        _n(x(t)), _n(y(share)), kind
                    )
                )
            for kind, line in lines:
                path = " ".join(f"{_n(x(t))},{_n(y(share))}" for t, share in _stepped(line))
                parts.append(Markup('<polyline points="{}" class="{}"/>').format(path, kind))
        return whole.svg(title, parts)

    return _both(draw)


_Strip = tuple[
    str,  # what it shows
    Sequence[tuple[float, str]],  # ticks
    Sequence[tuple[float, float, str]],  # dots: time, height 0..1, class
    Sequence[tuple[str, Sequence[tuple[float, float]]]],  # stepped lines: class, points
]


def _oddness(evidence: Sequence[tuple[float, float]]) -> _Strip | None:
    if not evidence:
        return None
    most = max(3.0, *(e for _, e in evidence))
    every = 1 if most <= 4 else 3
    ticks = [(k / most, "1" if k == 0 else f"1e-{k}") for k in range(0, int(most) + 1, every)]
    dots = [(t, e / most, "odd" if e >= 1.0 else "all") for t, e in evidence]
    return "p-value of each connection", ticks, dots, ()


def _sizes(sizes: Sequence[tuple[float, float]]) -> _Strip | None:
    if not sizes:
        return None
    most = max(3.0, *(math.log10(1.0 + n) for _, n in sizes))
    ticks = [(k / most, _short(10**k)) for k in range(0, int(most) + 1, 3)]
    return "bytes of each", ticks, [(t, math.log10(1.0 + n) / most, "all") for t, n in sizes], ()


def _gaps(gaps: Sequence[tuple[float, float]]) -> _Strip | None:
    if len(gaps) < 2:
        return None
    logs = [(t, math.log10(max(g, 1e-3))) for t, g in gaps]
    low, high = math.floor(min(g for _, g in logs)), math.ceil(max(g for _, g in logs))
    high = max(high, low + 1)
    every = max(1, math.ceil((high - low) / 3))
    ticks = [((k - low) / (high - low), f"{10.0**k:g}") for k in range(low, high + 1, every)]
    return "seconds since the one before", ticks, [(t, (g - low) / (high - low), "all") for t, g in logs], ()


def _reach(reached: Sequence[tuple[float, int, int]]) -> _Strip | None:
    most = max((max(hosts, ports) for _, hosts, ports in reached), default=0)
    if most < 2:
        return None
    lines = [
        ("reach hosts", [(t, hosts / most) for t, hosts, _ in reached]),
        ("reach ports", [(t, ports / most) for t, _, ports in reached]),
    ]
    hosts, ports = reached[-1][1:]
    return (
        f"hosts reached: {hosts:,}; ports (dashed): {ports:,}",
        [(0.0, "0"), (1.0, f"{most:,}")],
        (),
        lines,
    )


def _stepped(line: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """A line that rises at once and then stays; points that change nothing are left out."""
    last: float | None = None
    for t, share in line:
        if last is None:
            yield t, share
        elif share != last:
            yield t, last
            yield t, share
        last = share
    if last is not None and line:
        yield line[-1][0], last


def shares(
    title: str, columns: Sequence[tuple[float, Sequence[float]]], width: int, span: tuple[float, float]
) -> Markup:
    """A stacked area of shares that sum to 1 over time: `columns` are (start in seconds, shares)."""

    def draw(w: float) -> Markup:
        plot = _Plot(w, 190, left=48, bottom=26, top=20)
        x = plot.time(span)
        parts: list[Markup] = [_text(0, 12, f"share of the verdict, mean per {words(width)}", "unit")]
        for t, parts_of in columns:
            below = 0.0
            wide = max(x(t + width) - x(t) - 0.4, 1.2)
            for k, share in enumerate(parts_of):
                if share > 0:
                    parts.append(_rect(x(t), plot.y(below + share), wide, plot.y(below) + 0.0, f"m{k}"))
                below += share
        parts += plot.grid([(0.0, "0"), (0.5, "50 %"), (1.0, "100 %")])
        return plot.svg(title, [*parts, *plot.time_axis(span)])

    return _both(draw)


def meter(title: str, n: float, budget: float) -> Markup:
    """One horizontal bar of a count against its budget, which the dashed line marks."""
    most = max(n, budget) * 1.15
    at = 200 * budget / most
    return Markup(
        '<svg class="bar meter" viewBox="0 0 200 10" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<rect x="0" y="0" width="200" height="10" class="empty-bar"/>'
        '<rect x="0" y="0" width="{}" height="10" class="{}"/>'
        '<rect x="{}" y="0" width="1" height="10" class="mark"/></svg>'
    ).format(title, _n(200 * n / most), "odd" if n > budget else "all", _n(at))


def matrix(title: str, said: Mapping[str, Mapping[str, int]], first: str) -> Markup:
    """A confusion matrix: a row for each truth, a column for each verdict, shaded by its share of the row.

    The row and the column called `first` come first, then the largest; the columns for which there is no room are one.
    """
    total: Counter[str] = Counter()
    for of in said.values():
        total.update(of)
    names = sorted(total, key=lambda name: (name != first, -total[name], name))
    rows = sorted(said, key=lambda name: (name != first, -sum(said[name].values()), name))

    def draw(w: float) -> Markup:
        left, most = (130.0, 10) if w > _NARROW_PIXELS else (90.0, 3)
        columns = [[name] for name in names]
        if len(names) > most:
            columns[most - 1 :] = [names[most - 1 :]]
        plot = _Plot(w, 30.0 * (len(rows) + 1), left=left, bottom=0, top=30)
        wide = plot.width / len(columns)
        parts = []
        for j, column in enumerate(columns):
            x = left + j * wide
            called = column[0] if len(column) == 1 else "others"
            parts.append(_text(x + wide / 2, 20, _middle(called, int(wide / 8)), "mid"))
            for i, row in enumerate(rows):
                y, all_of = 30.0 * (i + 1), max(sum(said[row].values()), 1)
                n = sum(said[row].get(name, 0) for name in column)
                kind = "all" if (row == first) == (called == first) else "odd"
                parts += [
                    Markup(
                        '<g><title>{}</title><rect x="{}" y="{}" width="{}" height="29" class="{}" fill-opacity="{}"/>'
                        "</g>"
                    ).format(
                        f"{row} called {called}: {n:,} of {all_of:,}", _n(x), _n(y), _n(wide - 1), kind,
                        _n(max(0.75 * n / all_of, 0.04)),
                    ),
                    _text(x + wide / 2, y + 19, f"{n:,}", "mid host"),
                ]  # fmt: skip
        parts += [
            _text(left - 8, 30 * i + 49, _middle(row, int(left / 8)), "end host")
            for i, row in enumerate(rows)
        ]
        return plot.svg(title, parts)

    return _both(draw)


def extent(first: float, last: float, span: tuple[float, float]) -> Markup:
    """A small bar that shows where in `span` (seconds) something began and ended."""
    length = max(span[1] - span[0], 1.0)
    begin, end = (min(max((t - span[0]) / length, 0.0), 1.0) * 96 for t in (first, last))
    return Markup(
        '<svg class="extent" viewBox="0 0 100 8" aria-hidden="true"><rect x="0" y="3.5" width="100" height="1" '
        'class="rail"/><rect x="{}" y="0" width="{}" height="8" class="odd"/></svg>'
    ).format(_n(begin), _n(max(end - begin, 0.0) + 4.0))


def days(title: str, counts: Sequence[tuple[str, int]], budget: float) -> Markup:
    """A bar chart of notices per day with the budget as a line; `counts` are (date, notices) in order."""

    def draw(w: float) -> Markup:
        plot = _Plot(w, 170, left=48, bottom=26, top=24)
        most = max([n for _, n in counts] + [budget]) * 1.08
        pitch = plot.width / max(len(counts), 1)
        wide = min(pitch * 0.8, 34.0)
        every = math.ceil(len(counts) * 82 / plot.width)
        parts: list[Markup] = [_text(0, 12, "notices per day (UTC)", "unit")]
        parts += plot.grid([(0.0, "0"), (budget / most, f"{budget:g}")])
        for i, (day, n) in enumerate(counts):
            middle = plot.left + pitch * (i + 0.5)
            if n:
                parts.append(
                    _rect(
                        middle - wide / 2, plot.y(n / most), wide, plot.bottom, "odd" if n > budget else "all"
                    )
                )
            if wide >= 20:
                parts.append(_text(middle, plot.y(n / most) - 4, f"{n:,}", "tick mid"))
            if i % every == 0:
                edge = "start" if middle < plot.left + 30 and wide < 34 else "mid"
                parts.append(_text(middle, plot.bottom + 16, day, f"tick {edge}"))
        at = plot.y(budget / most)
        parts += [
            _line(plot.left, at, plot.right, at, "limit"),
            _text(plot.right, at - 5, f"budget {budget:g} a day", "limit-text end"),
        ]
        return plot.svg(title, parts)

    return _both(draw)


def columns_of(span: tuple[float, float], narrowest: int) -> int:
    """The width in seconds of time columns over `span`: of the ladder, at least `narrowest`, 72 columns at most."""
    length = max(span[1] - span[0], 1.0)
    return next((w for w in LADDER if w >= narrowest and length / w <= 72), LADDER[-1])


def words(seconds: int) -> str:
    """A column width in words, such as "5 minutes"."""
    for size, name in ((604800, "week"), (86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size:
            n = seconds // size
            return name if n == 1 else f"{n:,} {name}s"
    raise AssertionError(seconds)


class _Plot:
    """The frame of one drawing: where its plot area lies, and how values map into it."""

    def __init__(self, width: float, height: float, *, left: float, bottom: float, top: float) -> None:
        self.total, self.height = width, height
        self.left, self.right = left, width - 10
        self.top, self.bottom = top, height - bottom
        self.width = self.right - self.left

    def y(self, share: float) -> float:
        return self.bottom - (self.bottom - self.top) * share

    def time(self, span: tuple[float, float]) -> Callable[[float], float]:
        length = max(span[1] - span[0], 1.0)
        return lambda t: self.left + self.width * min(max((t - span[0]) / length, 0.0), 1.0)

    def grid(self, ticks: Sequence[tuple[float, str]]) -> Iterator[Markup]:
        for share, label in ticks:
            y = self.y(share)
            yield _line(self.left, y, self.right, y, "axis" if share == 0 else "grid")
            yield _text(self.left - 6, y + 4, label, "tick end")

    def time_axis(self, span: tuple[float, float], grid: bool = False) -> Iterator[Markup]:
        x = self.time(span)
        yield _line(self.left, self.bottom, self.right, self.bottom, "axis")
        for t, label in _ticks(span, max(int(self.width // 105), 2)):
            if grid:
                yield _line(x(t), 2, x(t), self.bottom, "grid")
            yield _line(x(t), self.bottom, x(t), self.bottom + 4, "axis")
            edge = "end" if x(t) > self.right - 30 else "mid" if x(t) > self.left + 24 else "start"
            yield _text(x(t), self.bottom + 17, label, f"tick {edge}")

    def svg(self, title: str, parts: Sequence[Markup]) -> Markup:
        name = "narrow" if self.total <= _NARROW_PIXELS else "wide"
        return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
            name, _n(self.total), _n(self.height), title, Markup("").join(parts)
        )


_STEPS: Final = (
    1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800,
    1209600, 2419200, 7776000, 31557600, 157788000, 315576000,
)  # fmt: skip


def _ticks(span: tuple[float, float], most: int) -> Iterator[tuple[float, str]]:
    length = max(span[1] - span[0], 1.0)
    step = next((s for s in _STEPS if length / s <= most), _STEPS[-1])
    form = "%H:%M:%S" if step < 60 else "%H:%M" if step < 86400 else "%Y-%m-%d" if step < 7776000 else "%b %Y"
    t = math.ceil(span[0] / step) * step
    day = ""
    while t <= min(span[1], moments.LATEST):
        when = datetime.fromtimestamp(t, UTC)
        # The day is said where it begins, so that a time of day never stands without its date.
        label = when.strftime(form)
        if step < 86400 and when.strftime("%Y-%m-%d") != day:
            day = when.strftime("%Y-%m-%d")
            label = f"{day} {label}"
        yield t, label
        t += step


def _both(draw: Callable[[float], Markup]) -> Markup:
    return draw(_WIDE_PIXELS) + draw(_NARROW_PIXELS)


def _moment(t: float) -> str:
    return moments.shown(t)


def _rect(x: float, y: float, width: float, bottom: float, kind: str, says: str = "") -> Markup:
    """A bar from `y` down to `bottom`; `says` is shown where a pointer rests on it."""
    inside = Markup("><title>{}</title></rect>").format(says) if says else Markup("/>")
    return Markup('<rect x="{}" y="{}" width="{}" height="{}" class="{}"{}').format(
        _n(x), _n(y), _n(width), _n(max(bottom - y, 0.0)), kind, inside
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(
        _n(x1), _n(y1), _n(x2), _n(y2), kind
    )


def _text(x: float, y: float, text: str, kind: str) -> Markup:
    return Markup('<text x="{}" y="{}" class="{}">{}</text>').format(_n(x), _n(y), kind, text)


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _middle(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most - most // 2 - 1) :]}"


def _short(n: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if n >= size:
            return f"{n // size}{unit}"
    return str(n)


def one_in(p_value: float) -> str:
    """A p-value in words, such as "1 in 40,000"."""
    if p_value <= 0:
        return "none seen"
    n = 1.0 / p_value
    if n < 1.5:
        return "nearly all"
    if n >= 1e9:
        return f"1 in {n:.0e}".replace("e+", "e")
    digits = max(int(math.log10(n)) - 1, 0)
    return f"1 in {round(n / 10**digits) * 10**digits:,}"
