"""Calibration that follows the site: what a p-value has come to mean on the stream itself, by kind of traffic.

Split conformal prediction over a sliding sample (Gibbs and Candes 2021, in bounded steps): of each hour some
connections of each originator are kept, the oddest originators left out, and the tails that a model was calibrated
with give way, by so many decades an hour, to those of the sample. They do so only where that makes less of a
connection: what follows the stream raises no alarm. On a network that the model has never seen the first sample stands
at once. Where the stream can be read twice (`look`) that is of its whole first day, and then the attacks of a whole day
are in it: so it gives way only as far as most originators have it by themselves, too. Everything is told by pieces of
the stream, so that no verdict depends on how it is cut.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.config import Adaptation as Settings
from cmdana_plugin.detector import Scores, fit_strata, score_of, significant
from cmdana_plugin.statefile import column, of_text, text_array
from feature_extractors import PROTO_NAMES, Stage
from feature_extractors.compiled import hashed
from feature_extractors.features import Encoded

PIECE: Final = 512  # final connections
KINDS: Final = 48  # of traffic, the rest as one
KEPT: Final = 30_000  # connections of the sample
LOOKED: Final = 250_000  # connections that a first pass hears at most
EACH: Final = 200  # of an originator and hour
GRID: Final = np.arange(0.0, 12.01, 0.25)  # -log10 p at which the map is known
_AT_FIRST: Final = 256  # connections that a first sample takes
_LEAST: Final = 64  # connections of an hour that is learned from
_OWN: Final = 200  # connections from which on a kind of traffic has a tail of its own
_ALONE: Final = 500  # and from which on it stands on its own
_ODDEST: Final = 0.05  # share of originators left out in any case
_SUSPECTS: Final = 0.2  # and of those against whom there is much
_MUCH: Final = 12.0  # -log10 p beyond 1 in 100 each, summed
_SHARE: Final = 0.4  # of originators that have no more than what stands for a p-value
_HOSTS: Final = 5  # originators from which on most of them say what the network has
_HOUR: Final = 3600.0
_DAY: Final = 24 * _HOUR  # of network time that a first pass hears at most
_FIRST_UNPRIVILEGED_PORT: Final = 1024
_HISTORY: Final = 48  # maps remembered
_KEY: Final = (0x61646170, 0x74)  # of a table that lives an hour and tells nobody apart for others

_COLUMNS: Final = {
    "kind": np.int16, "x": np.float64, "pending.host": np.uint64, "pending.kind": np.int16, "pending.x": np.float64,
    "pending.mapped": np.float64,
}  # fmt: skip

Floats = NDArray[np.float64]


class Adaptation:
    """Scores in, scores out, their p-values as the site's own traffic has them."""

    def __init__(self, settings: Settings, on: bool) -> None:
        self.on = on
        self._step = settings.step
        self._names: dict[str, int] = {}
        self._map = np.tile(
            GRID, (KINDS + 1, 1)
        )  # what stands for each -log10 p; the last row of all traffic
        self._own = np.zeros(KINDS + 1, np.bool_)  # kinds whose row is their own
        self._kind = np.zeros(0, np.int16)  # the sample
        self._x = np.zeros(0)
        self._pending: list[tuple[NDArray[np.uint64], NDArray[np.int16], Floats, Floats]] = []
        self._taken: dict[int, int] = {}  # connections of an originator since the last sample
        self._count = 0  # final connections so far
        self._hour = -1
        self._hours = 0  # samples so far
        self._history: list[list[float]] = []  # time and the map of all traffic, the latest last
        self._looked = -np.inf  # network time up to which a first pass has heard the stream
        self._heard = 0  # final connections that it has heard
        self._began = np.inf  # and network time at which it began

    @property
    def looks_first(self) -> bool:
        """Whether a first of two passes is of use: nothing of the stream is known yet."""
        return self.on and not self._count and not self._hours

    def look(self, windows: Encoded, scores: Scores) -> bool:
        """The first of two passes over a stream: hears a block; whether to go on looking."""
        c = windows.connections
        final = np.flatnonzero(c.stage == Stage.FINAL)
        if not len(final):
            return True
        self._began = min(self._began, float(c.end[final[0]]))
        whole = len(final)
        final = final[c.end[final] < self._began + _DAY][: LOOKED - self._heard]
        if not len(final):
            return False
        x, kind = -np.log10(scores.p_value[final]), self._kinds(windows)[final]
        hosts, hour = np.ascontiguousarray(c.orig_h[final]), c.end[final] // _HOUR
        for begin, end in itertools.pairwise([0, *(np.flatnonzero(np.diff(hour)) + 1).tolist(), len(final)]):
            if hour[begin] != self._hour:
                self._taken.clear()
                self._hour = int(hour[begin])
            rows = slice(begin, end)
            self._hear(hosts[rows], kind[rows], x[rows], x[rows])
        self._heard += len(final)
        self._looked = max(self._looked, float(c.end[final[-1]]))
        return len(final) == whole and self._heard < LOOKED

    def looked(self) -> None:
        """Ends the first pass: what it has heard is what the second one begins with."""
        self._taken.clear()
        self._hour = -1
        if self._heard >= _AT_FIRST:
            host, kind, x, _ = (np.concatenate(part) for part in zip(*self._pending, strict=True))
            self._take_sample(self._looked, _as_most_have_it(host, kind, x))
        else:
            self._pending.clear()

    def receive(self, windows: Encoded, scores: Scores) -> Scores:
        """The scores of a block, each by what was known before its piece."""
        if not self.on or not len(windows):
            return scores
        c = windows.connections
        x = -np.log10(scores.p_value)
        kind = self._kinds(windows)
        final = c.stage == Stage.FINAL
        # Where pieces end: a row after so many final ones.
        so_far = self._count + np.cumsum(final)
        piece = (so_far - final) // PIECE
        cuts = [0, *(np.flatnonzero(np.diff(piece)) + 1).tolist(), len(x)]
        out = np.empty(len(x))
        for begin, end in itertools.pairwise(cuts):
            rows = slice(begin, end)
            out[rows] = self._mapped(kind[rows], x[rows])
            mine = np.flatnonzero(final[rows]) + begin
            if len(mine):
                new = mine[c.end[mine] > self._looked]  # what the first pass has not heard
                self._hear(np.ascontiguousarray(c.orig_h[new]), kind[new], x[new], out[new])
                self._count += len(mine)
                if self._count % PIECE == 0:
                    self._learn(float(c.end[mine[-1]]))
        p = significant(np.clip(10.0**-out, 1e-30, 1.0))
        return replace(scores, p_value=p, score=np.round(score_of(p), 6) + 0.0)

    def told(self) -> list[tuple[str, int, float]]:
        """Of each kind of traffic that has a map, last of all: name, connections of the sample, what 1e-3 becomes."""
        at = int(np.searchsorted(GRID, 3.0))
        names = [*(name for name, k in self._names.items() if k < KINDS and self._own[k]), ""]
        out = []
        for name in names:
            k = self._names.get(name, KINDS)
            n = int((self._kind == k).sum()) if name else len(self._kind)
            out.append((name, n, float(10.0 ** -self._map[k, at])))
        return out

    def becomes(self, kind: str, p_value: float) -> float | None:
        """What a p-value of the model's counts as for a kind of traffic by now; None where nothing is adapted."""
        if not self._hours:
            return None
        code = np.array([self._names.get(kind, KINDS)], np.int16)
        return float(10.0 ** -self._mapped(code, np.array([-np.log10(p_value)]))[0])

    def past(self) -> list[tuple[float, float]]:
        """Of the last samples: network time, and what a p-value of 1e-3 became by them."""
        at = 1 + int(np.searchsorted(GRID, 3.0))
        return [(line[0], float(10.0 ** -line[at])) for line in self._history]

    def state(self) -> dict[str, NDArray[Any]]:
        """All of it, as arrays by name."""
        none = (np.zeros(0, np.uint64), np.zeros(0, np.int16), np.zeros(0), np.zeros(0))
        host, kind, x, mapped = (np.concatenate(part) for part in zip(none, *self._pending, strict=True))
        numbers = {"names": list(self._names), "count": self._count, "hour": self._hour, "hours": self._hours}
        if np.isfinite(self._looked):
            numbers["looked"] = self._looked
        return {
            "map": self._map, "own": self._own, "kind": self._kind, "x": self._x, "pending.host": host,
            "pending.kind": kind, "pending.x": x, "pending.mapped": mapped,
            "taken": np.array([*self._taken.items()], np.uint64).reshape(-1, 2),
            "history": np.array(self._history).reshape(-1, 1 + len(GRID)), "numbers": text_array(numbers),
        }  # fmt: skip

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Goes on from a `state`. Raises `ValueError` where it is none."""
        numbers = of_text(state, "numbers")
        found, rows = column(state, "map", self._map), {}
        own = column(state, "own", self._own)
        for name, kind in _COLUMNS.items():
            array = state.get(name)
            if array is None or array.dtype != kind or array.ndim != 1:
                raise ValueError(f"adaptation.{name}: found no such column")
            rows[name] = array
        taken, history = state.get("taken"), state.get("history")
        if (
            taken is None
            or history is None
            or taken.shape[1:] != (2,)
            or history.shape[1:] != (1 + len(GRID),)
        ):
            raise ValueError("adaptation: found no history")
        if (np.diff(found, axis=1) < 0).any() or not np.isfinite(found).all():
            raise ValueError("adaptation.map: found one that does not rise")
        try:
            names = {str(name): min(k, KINDS) for k, name in enumerate(numbers["names"])}
            count, hour, hours = (int(numbers[name]) for name in ("count", "hour", "hours"))
            looked = float(numbers.get("looked", -np.inf))
        except (KeyError, TypeError) as error:
            raise ValueError(f"adaptation: found no {error}") from None
        self._map, self._own, self._names, self._count, self._hour, self._hours = (
            found,
            own,
            names,
            count,
            hour,
            hours,
        )
        self._looked = looked
        self._kind, self._x = rows["kind"], rows["x"]
        self._pending = [tuple(rows[f"pending.{part}"] for part in ("host", "kind", "x", "mapped"))]  # type: ignore[list-item]
        self._taken = {int(host): int(n) for host, n in taken.tolist()}
        self._history = history.tolist()

    def _kinds(self, windows: Encoded) -> NDArray[np.int16]:
        c = windows.connections
        ports = np.minimum(c.resp_p, _FIRST_UNPRIVILEGED_PORT).tolist()
        codes: dict[tuple[str, int, int], int] = {}
        out = np.empty(len(c), np.int16)
        for i, kind in enumerate(zip(c.service, c.ip_proto.tolist(), ports, strict=True)):
            code = codes.get(kind)
            if code is None:
                code = codes[kind] = self._code(*kind)
            out[i] = code
        return out

    def _code(self, service: str, proto: int, port: int) -> int:
        where = port if port < _FIRST_UNPRIVILEGED_PORT else "high ports"
        name = service or f"{where}/{PROTO_NAMES.get(proto, proto)}"
        if name not in self._names and len(self._names) < KINDS:
            self._names[name] = len(self._names)
        return self._names.get(name, KINDS)

    def _mapped(self, kind: NDArray[np.int16], x: Floats) -> Floats:
        out = np.empty(len(x))
        which = np.where(self._own[kind], kind, KINDS)
        for k in np.unique(which).tolist():
            rows = which == k
            line = self._map[k]
            # Past the grid as far as at its end.
            beyond = np.maximum(x[rows] - GRID[-1], 0.0)
            out[rows] = np.interp(x[rows], GRID, line) + beyond
        return np.maximum(out, 0.0)

    def _hear(self, orig_h: NDArray[np.uint8], kind: NDArray[np.int16], x: Floats, mapped: Floats) -> None:
        """Keeps of each originator the first few connections."""
        halves = orig_h.view(np.uint64).reshape(-1, 2)
        host = hashed(_KEY, halves[:, 0], halves[:, 1])
        kept = []
        for i, h in enumerate(host.tolist()):
            n = self._taken.get(h, 0)
            if n < EACH:
                self._taken[h] = n + 1
                kept.append(i)
        if kept:
            self._pending.append((host[kept], kind[kept], x[kept], mapped[kept]))

    def _learn(self, now: float) -> None:
        """At the end of a piece: whether an hour is over, or there is enough for a first sample or twice that."""
        hour = int(now // _HOUR)
        n = sum(len(part[0]) for part in self._pending)
        over = hour != self._hour and n >= _LEAST
        if over or n >= max(_AT_FIRST, len(self._x)):
            self._hour = hour
            self._take_sample(now)

    def _take_sample(self, now: float, least: Mapping[int, Floats] | None = None) -> None:
        host, kind, x, mapped = (np.concatenate(part) for part in zip(*self._pending, strict=True))
        left = _without_the_oddest(host, mapped)
        self._pending.clear()
        self._taken.clear()
        self._kind = np.concatenate([self._kind, kind[left]])[-KEPT:]
        self._x = np.concatenate([self._x, x[left]])[-KEPT:]
        step = self._step if self._hours else np.inf
        self._hours += 1
        self._move(step, least or {})
        self._history = [*self._history, [now, *self._map[KINDS].tolist()]][-_HISTORY:]

    def _move(self, step: float, least: Mapping[int, Floats]) -> None:
        strata = fit_strata(self._x, self._kind.astype(np.int64), least=_OWN, enough=_ALONE)
        for k in [KINDS, *(k for k in strata.each if k < KINDS)]:
            told = -np.log10(strata.p_value(GRID, np.full(len(GRID), k if k < KINDS else -1)))
            wanted = np.maximum.accumulate(np.maximum(np.minimum(told, GRID), least.get(k, 0.0)))
            first = not self._own[k]
            before = self._map[KINDS] if first else self._map[k]
            self._map[k] = np.maximum.accumulate(before + np.clip(wanted - before, -step, step))
            self._own[k] = True


def _without_the_oddest(host: NDArray[np.uint64], x: Floats) -> NDArray[np.bool_]:
    """Which rows are left without the originators that are oddest, and those against whom there is much."""
    unique, first, at = np.unique(host, return_index=True, return_inverse=True)
    odd = np.bincount(at, np.maximum(x - 2.0, 0.0), len(unique))
    order = np.lexsort((first, -odd))
    much = int((odd >= _MUCH).sum())
    n = (
        max(int(np.ceil(_ODDEST * len(unique))), min(much, int(_SUSPECTS * len(unique))))
        if len(unique) > 4
        else 0
    )
    gone = np.zeros(len(unique), np.bool_)
    gone[order[:n]] = True
    return np.asarray(~gone[at], np.bool_)


def _as_most_have_it(host: NDArray[np.uint64], kind: NDArray[np.int16], x: Floats) -> Mapping[int, Floats]:
    """What stands for each -log10 p of `GRID` as most originators have it, by kind of traffic; `KINDS` of all."""
    lines = {KINDS: _of_most(host, x, GRID)}
    for k in range(KINDS):
        rows = np.flatnonzero(kind == k)
        if len(rows):
            lines[k] = _of_most(host[rows], x[rows], lines[KINDS])
    return lines


def _of_most(host: NDArray[np.uint64], x: Floats, beyond: Floats) -> Floats:
    """What stands for each -log10 p of `GRID` so that four in ten originators have no more than was promised.

    Of each originator the quantiles of its own `x` count, down to one connection of it: what fewer than six in ten
    have is nothing of the network's. Where fewer than `_HOSTS` have so many connections it goes on as `beyond` does.
    """
    order = np.lexsort((x, host))
    _, first, n = np.unique(host[order], return_index=True, return_counts=True)
    x = x[order]
    shown, meant = [0.0], [0.0]
    for level in GRID[1:]:
        many = n * 10.0**-level >= np.log(2.0)  # half of those that have so many have one there
        if many.sum() < _HOSTS:
            break
        at = first[many] + np.ceil((n[many] - 1) * (1.0 - 10.0**-level)).astype(np.int64)
        shown.append(max(float(np.quantile(x[at], _SHARE)), float(level), shown[-1]))
        meant.append(float(level))
    further = meant[-1] + beyond - np.interp(shown[-1], GRID, beyond)
    line = np.where(shown[-1] < GRID, further, np.interp(GRID, shown, meant))
    return np.asarray(np.maximum.accumulate(np.minimum(line, GRID)), np.float64)
