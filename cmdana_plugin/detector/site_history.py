"""The site's own history: how far a connection lies in the tail of what its service has shown here so far.

What a trained model cannot carry from one network to another (how often this site's hosts log in, how long the names
are that they ask for) is learned from the stream itself: for each service and measure a histogram of the past, and
for its upper tail Hill's estimator (Hill 1975), since sizes, counts and lengths in traffic have Pareto tails. Scored
from the past only. What is far out enters the history with little weight, so that an attack does not become normal.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.detector.scores import (
    Detector,
    Scores,
    beside,
    restore_to,
    score_of,
    significant,
    state_of,
)
from cmdana_plugin.statefile import column, of_text, packed, prefixed, text_array, under, unpacked
from feature_extractors import PROTO_NAMES, Stage
from feature_extractors.compiled import absorbed, begun, ended, entry, hashed, hashed_two, key_of
from feature_extractors.features import Encoded

COMPONENT: Final = "site"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Measure:
    """A quantity of a connection that is compared with the past of its service; higher is odder."""

    words: str
    unit: str
    spread: float  # least mean excess of its tail, in doublings: how much more is nothing unusual


MEASURES: Final = (
    Measure("from the originator", "B", 1.0),
    Measure("from the responder", "B", 1.0),
    Measure("long", "s", 1.0),
    Measure("connections of the pair in a minute", "", 0.5),
    Measure("connections of the originator in a minute", "", 0.5),
    Measure("new responders or ports of the originator in a minute", "", 0.5),
    Measure("characters in the longest name", "", 0.25),
    Measure("from the originator to this responder in ten minutes", "B", 1.0),
)
_ORIG, _RESP, _TIME, _PAIR, _HOST, _NEW, _NAME, _SUM = range(len(MEASURES))

_BINS: Final = 256  # eighths of a doubling: 2^0 .. 2^32
# services and well-known ports that have a history; a new one takes the place of the idlest
_STRATA: Final = 512
_FIRST_UNPRIVILEGED_PORT: Final = 1024  # the lowest port that is nobody's in particular
_TABLE_SLOTS: Final = 1 << 17  # hosts, and pairs, remembered
_WAYS: Final = 8  # places that a host or pair may take; a new one takes that of the idlest
_HALF_LIFE_USES: Final = 1 << 17  # connections after which a host's or pair's past use counts half
_STRATUM_HALF_LIFE_USES: Final = 1 << 20  # likewise a service's
# what a connection without content from the responder counts of a service's use
_UNANSWERED_WEIGHT: Final = 0.01
_MIN_CONNECTIONS: Final = 40  # connections of a service before its tail is believed
_TAIL_SHARE: Final = 0.1  # share of the past that makes the tail
_HALF_LIFE_CONNECTIONS: Final = 20_000.0  # connections of a service after which the past counts half
_ODD_P_VALUE: Final = 0.002  # below this p a connection enters the history with
_ODD_WEIGHT: Final = 0.01  # this weight
# volume, pace, name: what the measures are views of, so Bonferroni's factor
_BONFERRONI_FACTOR: Final = 3
# share of the false-alarm rate that is the site's where the model comes from other networks
_SHARE_LEARNED_ELSEWHERE: Final = 0.5
# where it learned this network: it knows more of what is normal than the tails do
_SHARE_LEARNED_HERE: Final = 0.1


def learned_here(weights: Container[str]) -> bool:
    """Whether a model with these components has learned the network that it judges: only the shipped knows attacks."""
    return "attack" not in weights


def share_of(weights: Container[str]) -> float:
    """The share of the false-alarm rate, 0..1, that the site's history has beside a model with these components."""
    return _SHARE_LEARNED_HERE if learned_here(weights) else _SHARE_LEARNED_ELSEWHERE


@dataclass(frozen=True, slots=True)
class _Seen:
    """One block beside the past: the inner detector's scores, and by row and measure [n, M] what is to be told."""

    inner: Scores
    p: NDArray[np.float64]
    values: NDArray[np.float64]
    usual: NDArray[np.float64]


class WithSiteHistory:
    """A `Detector` around another, its p-value joined with that of the site's history (weighted Bonferroni)."""

    def __init__(self, inner: Detector, salt: int = 0, share: float = _SHARE_LEARNED_ELSEWHERE) -> None:
        """`salt`, 128 secret bits, keys the hashes of hosts; `share`, 0..1, is the site's part of the rate."""
        self.inner = inner
        self._share = share
        self._key = key_of(salt)
        self.name = inner.name
        self.schema_digest = inner.schema_digest
        self._strata: dict[str, int] = {}  # the place of each service that has one
        self._names = [""] * _STRATA  # the service of each place
        self._place = np.zeros(_STRATA, _PLACE_TYPE)
        self._past = np.zeros((_STRATA, len(MEASURES), _BINS))
        self._total = np.zeros((_STRATA, len(MEASURES)))  # sums of the above
        self._top = np.zeros((_STRATA, len(MEASURES)), np.int64)  # the last bin that holds anything
        self._hosts = np.zeros(_TABLE_SLOTS, _HOST_TYPE)
        self._pairs = np.zeros(_TABLE_SLOTS, _PAIR_TYPE)
        self._clock = np.zeros(2, np.int64)  # connections so far; services that had a place so far

    def state(self) -> dict[str, NDArray[Any]]:
        """What the site has shown, and what the inner detector knows, as arrays by name."""
        known = np.array([bool(name) for name in self._names])
        columns = {"past": self._past, "total": self._total, "top": self._top} | _split(self._place)
        return (
            prefixed("inner.", state_of(self.inner))
            | packed("services", known, columns)
            | packed("hosts", self._hosts["key"], _split(self._hosts))
            | packed("pairs", self._pairs["key"], _split(self._pairs))
            | {"clock": self._clock.copy(), "names": text_array(self._names)}
        )

    def restore(self, state: Mapping[str, NDArray[Any]], learned: bool = True) -> None:
        """Goes on from a `state`. Raises `ValueError` where it is none."""
        columns = {"past": self._past, "total": self._total, "top": self._top} | _split(self._place)
        services = unpacked("services", state, columns, [_STRATA])
        hosts = unpacked("hosts", state, _split(self._hosts), [_TABLE_SLOTS])
        pairs = unpacked("pairs", state, _split(self._pairs), [_TABLE_SLOTS])
        clock = column(state, "clock", self._clock)
        names = of_text(state, "names")
        if not isinstance(names, list) or len(names) != _STRATA or not all(isinstance(n, str) for n in names):
            raise ValueError(f"names: found other than {_STRATA} names")
        if services["top"].min() < 0 or services["top"].max() >= _BINS:
            raise ValueError(f"services.top: found other than 0..{_BINS - 1}")
        restore_to(self.inner, under("inner.", state), learned)
        self._past, self._total, self._top = services["past"], services["total"], services["top"]
        _join(self._place, services)
        _join(self._hosts, hosts)
        _join(self._pairs, pairs)
        self._clock, self._names = clock, names
        self._strata = {name: place for place, name in enumerate(names) if name}

    def receive(self, windows: Encoded) -> Scores:
        """Scores as the inner detector's, with a component `site`; early windows leave no trace in the history."""
        compared = beside(self.inner, lambda: self._compared(windows)) if len(windows) else None
        scores = self.inner.receive(windows)
        if compared is None:
            return replace(scores, components={**scores.components, COMPONENT: np.zeros(0)})
        p, values, usual = compared()
        site = np.minimum(p.min(axis=1) * _BONFERRONI_FACTOR, 1.0)
        own = scores.p_value / (1.0 - self._share)
        joined = significant(np.minimum(np.minimum(own, site / self._share), 1.0))
        return replace(
            scores,
            p_value=joined,
            score=np.round(score_of(joined), 6),
            components={**scores.components, COMPONENT: np.round(site, 12)},
            seen=_Seen(scores, p, values, usual),
        )

    def beside(self, job: Callable[[], T]) -> Callable[[], T]:
        """As its inner detector's."""
        return beside(self.inner, job)

    def _compared(
        self, windows: Encoded
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """The p-values [n, M] of a block from the past, its values, and the usual ones; then it is part of the past."""
        n, c = len(windows), windows.connections
        values = np.zeros((n, len(MEASURES)))
        values[:, _ORIG] = np.maximum(c.orig_bytes, 0)
        values[:, _RESP] = np.maximum(c.resp_bytes, 0)
        values[:, _TIME] = np.nan_to_num(c.duration)
        values[:, _NAME] = windows.longest_name
        p = np.ones((n, len(MEASURES)))
        usual = np.zeros((n, len(MEASURES)))
        kinds = list(
            zip(
                c.service,
                c.ip_proto.tolist(),
                np.minimum(c.resp_p, _FIRST_UNPRIVILEGED_PORT).tolist(),
                strict=True,
            )
        )
        known = {kind: _service(*kind) for kind in dict.fromkeys(kinds)}
        code = {name: i for i, name in enumerate(dict.fromkeys(known.values()))}
        kind = np.array([code[known[k]] for k in kinds])
        at = np.array([self._strata.get(name, -1) for name in code])
        owner = np.full(_STRATA, -1)  # the service of this block that has the place
        owner[at[at >= 0]] = np.flatnonzero(at >= 0)
        orig, resp = _hashed(c.orig_h, self._key), _hashed(c.resp_h, self._key)
        final = c.stage == Stage.FINAL
        spread = np.array([m.spread for m in MEASURES])
        _walk(
            values, p, usual, kind, at, owner, orig, resp, c.resp_p.astype(np.int64), c.ts, final, spread,
            self._past, self._total, self._top, self._place, self._hosts, self._pairs, self._clock,
            np.uint64(self._key[0]), np.uint64(self._key[1]),
        )  # fmt: skip
        names = list(code)
        for place in np.flatnonzero(owner >= 0).tolist():
            if self._names[place] != names[owner[place]]:
                self._strata.pop(self._names[place], None)
                self._names[place] = names[owner[place]]
        self._strata.update((names[i], place) for place, i in enumerate(owner.tolist()) if i >= 0)
        return p, values, usual

    def explain(self, windows: Encoded, scores: Scores, rows: NDArray[np.int64]) -> list[list[str]]:
        """Reasons in words for `rows`: the site's before the model's where they weigh more."""
        seen = scores.seen
        assert isinstance(seen, _Seen), "scores of another detector"
        of_model = self.inner.explain(windows, seen.inner, rows)
        reasons = []
        for row, others in zip(rows.tolist(), of_model, strict=True):
            own = [_words(seen, row, m) for m in np.argsort(seen.p[row]).tolist() if seen.p[row, m] < 0.01]
            site_leads = scores.components[COMPONENT][row] / self._share <= scores.p_value[row]
            reasons.append(own + others if site_leads else others + own)
        return reasons


def _service(service: str, ip_proto: int, port: int) -> str:
    return (
        service
        or f"{port if port < _FIRST_UNPRIVILEGED_PORT else 'high'}/{PROTO_NAMES.get(ip_proto, ip_proto)}"
    )


def _words(seen: _Seen, row: int, m: int) -> str:
    measure = MEASURES[m]
    value, usual = seen.values[row, m], seen.usual[row, m]
    most = f"9 in 10 here are under {_short(usual)}{measure.unit}".rstrip()
    shown = f"{_short(value)}{measure.unit}".rstrip()
    return f"{shown} {measure.words}: {most} (p={seen.p[row, m]:.1g})"


def _short(x: float) -> str:
    for bound, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= bound:
            return f"{x / bound:.3g} {unit}"
    return f"{x:.3g} "


def _hashed(addresses: NDArray[np.uint8], key: tuple[int, int]) -> NDArray[np.uint64]:
    halves = np.ascontiguousarray(addresses).view(np.uint64).reshape(-1, 2)
    return hashed(key, halves[:, 0], halves[:, 1])


# `used` is when it was used last, in connections, and `uses` how often, the older the less; `key` 0 is nobody.
_PLACE_TYPE: Final = np.dtype([("used", "i8"), ("uses", "f8"), ("number", "i8")])
_HOST_TYPE: Final = np.dtype(
    [("key", "u8"), ("used", "i8"), ("uses", "f8"), ("last", "f8"), ("paced", "f8"), ("new", "f8")]
)
_PAIR_TYPE: Final = np.dtype(
    [
        ("key", "u8"),
        ("used", "i8"),
        ("uses", "f8"),
        ("last", "f8"),
        ("paced", "f8"),
        ("bytes", "f8"),
    ]
)


def _split(table: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {name: table[name] for name in table.dtype.names or ()}


def _join(table: NDArray[Any], columns: Mapping[str, NDArray[Any]]) -> None:
    for name in table.dtype.names or ():
        table[name] = columns[name]


@entry
def _uses(entry, now, fade):  # type: ignore[no-untyped-def]
    return entry.uses * 0.5 ** ((now - entry.used) / fade)


@entry
def _find(table, key, now):  # type: ignore[no-untyped-def]
    """Where the key lies, and True; or the place that it would take, and False."""
    first = int(key % np.uint64(len(table) // _WAYS)) * _WAYS
    idlest, least = first, np.inf
    for at in range(first, first + _WAYS):
        if table[at].key == key:
            return at, True
        uses = _uses(table[at], now, _HALF_LIFE_USES) if table[at].key != 0 else -1.0
        if uses < least:
            idlest, least = at, uses
    return idlest, False


@entry
def _freed(place, past, total, top, at, owner, now):  # type: ignore[no-untyped-def]
    """The place of the service that was used least, now empty."""
    idlest, least = 0, np.inf
    for s in range(len(place)):
        uses = _uses(place[s], now, _STRATUM_HALF_LIFE_USES)
        if uses < least:
            idlest, least = s, uses
    if owner[idlest] >= 0:
        at[owner[idlest]] = -1
    past[idlest] = 0.0
    total[idlest] = 0.0
    top[idlest] = 0
    place[idlest].uses = 0.0
    return idlest


@entry
def _walk(  # type: ignore[no-untyped-def]
    values, p, usual, kind, at, owner, orig, resp, port, ts, final, spread,
    past, total, top, place, hosts, pairs, clock, k0, k1,
):  # fmt: skip
    """Fill the paced measures of each row, its p-values from the past [n, M] and the usual values; then remember."""
    for i in range(len(kind)):
        s = at[kind[i]]
        if s < 0 and final[i]:
            s = _freed(place, past, total, top, at, owner, clock[0])
            clock[1] += 1
            place[s].number = clock[1]
            at[kind[i]] = s
            owner[s] = kind[i]
        number = np.uint64(place[s].number if s >= 0 else 0)  # places are used again, numbers are not
        host_key = hashed_two(k0, k1, orig[i], number) | np.uint64(1)
        a, b, c, d = begun(k0, k1)
        a, b, c, d = absorbed(a, b, c, d, orig[i])
        a, b, c, d = absorbed(a, b, c, d, resp[i])
        a, b, c, d = absorbed(a, b, c, d, number << np.uint64(16) | np.uint64(port[i]))
        pair_key = ended(a, b, c, d) | np.uint64(1)
        host_at, known_host = _find(hosts, host_key, clock[0])
        pair_at, known_pair = _find(pairs, pair_key, clock[0])
        host, pair = hosts[host_at], pairs[pair_at]
        paced = host.paced * 0.5 ** (max(ts[i] - host.last, 0.0) / 60.0) if known_host else 0.0
        new = host.new * 0.5 ** (max(ts[i] - host.last, 0.0) / 60.0) if known_host else 0.0
        gap = max(ts[i] - pair.last, 0.0) if known_pair else 0.0
        pair_paced = pair.paced * 0.5 ** (gap / 60.0) if known_pair else 0.0
        sent = pair.bytes * 0.5 ** (gap / 600.0) if known_pair else 0.0
        values[i, 3] = pair_paced + 1.0
        values[i, 4] = paced + 1.0
        values[i, 5] = new + (0.0 if known_pair else 1.0)
        values[i, 7] = sent + values[i, 0]
        least = 1.0
        for m in range(values.shape[1] if s >= 0 else 0):
            p[i, m], usual[i, m] = _tail(past[s, m], total[s, m], top[s, m], values[i, m], spread[m])
            least = min(least, p[i, m])
        if not final[i]:
            continue
        weight = 1.0 if least >= _ODD_P_VALUE else _ODD_WEIGHT
        for m in range(values.shape[1]):
            b = _bin(values[i, m])
            past[s, m, b] += weight
            top[s, m] = max(top[s, m], b)
            total[s, m] += weight
            if total[s, m] > _HALF_LIFE_CONNECTIONS:
                past[s, m] *= 0.5
                total[s, m] = past[s, m].sum()  # nothing that rounding leaves adds up
        clock[0] += 1
        now = clock[0]
        place[s].uses = _uses(place[s], now, _STRATUM_HALF_LIFE_USES) + (
            1.0 if values[i, 1] > 0.0 else _UNANSWERED_WEIGHT
        )
        place[s].used = now
        host.uses = (_uses(host, now, _HALF_LIFE_USES) if known_host else 0.0) + 1.0
        host.used = now
        host.key = host_key
        host.last = ts[i]
        host.paced = paced + 1.0
        host.new = values[i, 5]
        pair.uses = (_uses(pair, now, _HALF_LIFE_USES) if known_pair else 0.0) + 1.0
        pair.used = now
        pair.key = pair_key
        pair.last = ts[i]
        pair.paced = pair_paced + 1.0
        pair.bytes = values[i, 7]


@entry
def _bin(x):  # type: ignore[no-untyped-def]
    """The histogram bin of a value >= 0: eighths of a doubling of 1 + x."""
    return min(int(8.0 * np.log2(1.0 + x)), _BINS - 1)


@entry
def _tail(past, total, top, x, spread):  # type: ignore[no-untyped-def]
    """One-sided p of `x` given a histogram, its sum and its last bin, and what nine in ten stay under.

    (1, 0) while the histogram is thin.
    """
    if total < _MIN_CONNECTIONS:
        return 1.0, 0.0
    above, u = 0.0, top
    while u > 0 and above + past[u] <= _TAIL_SHARE * total:
        above += past[u]
        u -= 1
    edge = (u + 1) / 8.0  # in doublings; `above` lies at or past it
    usual = 2.0**edge - 1.0
    y = np.log2(1.0 + x)
    if y < edge:
        return 1.0, usual
    excess = 0.0
    for b in range(u + 1, top + 1):
        excess += past[b] * min(
            (b + 0.5) / 8.0 - edge, 4.0 * spread
        )  # a few far ones do not stretch the tail
    mean = max((excess + spread) / (above + 1.0), spread)
    # Each doubling past the edge is as much less likely as the tail so far says, never likelier than it.
    share = (above + 1.0) / (total + 1.0)
    return max(share * np.exp(-(y - edge) / (mean * (1.0 + 1.0 / np.sqrt(above + 1.0)))), 1e-9), usual
