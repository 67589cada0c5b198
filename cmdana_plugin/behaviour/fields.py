"""The behaviour fields: each a line of `schema.yaml`, whose name says which statistic it is, or has a function here.

`pair_conns_1h` is a sum of a stream over a horizon, `pair_interval_cv` a statistic of the stream by itself. What is
made of several has a function of its name below.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.behaviour.flows import Flows
from cmdana_plugin.behaviour.tables import (
    DOMAIN,
    HORIZONS,
    HOST,
    KINDS,
    ORIG,
    PAIR,
    RESP,
    SUMS_OF,
    TARGET,
    USE,
)
from cmdana_plugin.behaviour.walk import (
    AT_AGE,
    AT_BITS,
    AT_EVIDENCE,
    AT_GAIN,
    AT_GAP,
    AT_MINUTES,
    AT_RHYTHM,
    AT_SEEN,
    AT_SUMS,
    AT_SURPRISE,
    AT_TENS,
    WIDTH,
)
from feature_extractors import SchemaError
from feature_extractors.features import load_schema

Floats = NDArray[np.float32]
_KINDS: Final = {"pair": PAIR, "use": USE, "target": TARGET, "domain": DOMAIN, "host": HOST}
_SUMS: Final = (
    "conns",
    "failed",
    "refused",
    "accepted",
    "sent",
    "received",
    "others",
    "ports",
    "young",
    "bits",
)
_OVER: Final = ("1m", "10m", "1h", "1d", "1w")
_LOGARITHMS: Final = ("refused", "accepted", "sent", "received", "lasts")
_RHYTHM: Final = ("interval", "interval_cv", "off_beat", "sent_cv")
# By itself: its column, and whether its logarithm is taken.
_ALONE: Final = {
    "seen": (AT_SEEN, True), "age": (AT_AGE, True), "idle": (AT_GAP, True), "surprise": (AT_SURPRISE, False),
    "slow_bits": (AT_BITS, False), "gain": (AT_GAIN, False), "evidence": (AT_EVIDENCE, True),
    "minutes": (AT_MINUTES, False), "tens": (AT_TENS, False),
    **{name: (AT_RHYTHM + i, name == "interval") for i, name in enumerate(_RHYTHM)},
}  # fmt: skip
_SURPRISING: Final = np.float32(5.0)  # bits of a first contact, of which more tell nothing more
# Which kinds have it, where not all do.
_ONLY: Final = {
    "surprise": (PAIR, DOMAIN), "minutes": (PAIR, DOMAIN), "tens": (PAIR, DOMAIN),
    **dict.fromkeys(("slow_bits", "gain", "evidence"), (PAIR, USE, TARGET, HOST)),
    **dict.fromkeys(_RHYTHM, (PAIR, USE, DOMAIN)),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Raw:
    """Statistics [n, KINDS, WIDTH] as `walk` leaves them, and the connections themselves."""

    of: Floats
    flows: Flows

    def sum(self, kind: int, which: int, horizon: int) -> Floats:
        return self.of[:, kind, AT_SUMS + which * len(HORIZONS) + horizon]


def _share(part: Floats, other: Floats) -> Floats:
    share: Floats = part / (part + other + np.float32(1.0))
    return share


def _amount(x: NDArray[Any]) -> Floats:
    logarithm: Floats = np.log1p(x).astype(np.float32)
    return logarithm


def pair_sent_share(raw: Raw) -> Floats:
    return _share(raw.sum(PAIR, ORIG, 3), raw.sum(PAIR, RESP, 3))


def domain_sent_share(raw: Raw) -> Floats:
    return _share(raw.sum(DOMAIN, ORIG, 3), raw.sum(DOMAIN, RESP, 3))


def host_sent_share(raw: Raw) -> Floats:
    return _share(raw.sum(HOST, ORIG, 2), raw.sum(HOST, RESP, 2))


def leaves(raw: Raw) -> Floats:
    return (raw.flows.orig_local & ~raw.flows.resp_local).astype(np.float32)


def enters(raw: Raw) -> Floats:
    return (~raw.flows.orig_local & raw.flows.resp_local).astype(np.float32)


def refused(raw: Raw) -> Floats:
    return _amount(raw.flows.refused)


def accepted(raw: Raw) -> Floats:
    return _amount(raw.flows.accepted)


def sent(raw: Raw) -> Floats:
    return _amount(raw.flows.orig_bytes)


def received(raw: Raw) -> Floats:
    return _amount(raw.flows.resp_bytes)


def lasts(raw: Raw) -> Floats:
    return _amount(raw.flows.duration * 1e3)


def tcp(raw: Raw) -> Floats:
    is_tcp: Floats = (raw.flows.proto == 6).astype(np.float32)
    return is_tcp


_MADE: Final[dict[str, Callable[[Raw], Floats]]] = {
    f.__name__: f
    for f in (
        pair_sent_share,
        domain_sent_share,
        host_sent_share,
        leaves,
        enters,
        refused,
        accepted,
        sent,
        received,
        lasts,
        tcp,
    )
}


def _column(name: str) -> tuple[int, bool] | None:
    """The column of the flattened statistics that a name stands for, and whether its logarithm is taken."""
    kind, _, rest = name.partition("_")
    if kind not in _KINDS:
        return None
    base = _KINDS[kind] * WIDTH
    if rest in _ALONE:
        if _KINDS[kind] not in _ONLY.get(rest, range(KINDS)):
            return None
        column, logarithm = _ALONE[rest]
        return base + column, logarithm
    which, _, over = rest.rpartition("_")
    if which not in _SUMS or over not in _OVER or _SUMS.index(which) not in SUMS_OF[_KINDS[kind]]:
        return None
    return base + AT_SUMS + _SUMS.index(which) * len(HORIZONS) + _OVER.index(over), True


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where in a row of fields stands what, and of which column of the statistics it is made."""

    of_amounts: NDArray[np.int64]  # places of logarithms
    amounts: NDArray[np.int64]  # columns
    of_others: NDArray[np.int64]
    others: NDArray[np.int64]
    surprises: NDArray[np.int64]  # places of both kinds, of first contacts
    made: tuple[tuple[int, str], ...]  # places of what has a function


@functools.cache
def _plan() -> _Plan:
    places, columns, logarithms, made = [], [], [], []
    for place, name in enumerate(names()):
        if name in _MADE:
            made.append((place, name))
        elif (column := _column(name)) is not None:
            places.append(place)
            columns.append(column[0])
            logarithms.append(column[1])
        else:
            raise SchemaError(
                f"behaviour: found {name!r}, expected a statistic of a stream or a function of fields.py"
            )
    at, of, amount = np.array(places), np.array(columns), np.array(logarithms)
    surprises = at[of % WIDTH == AT_SURPRISE]
    return _Plan(at[amount], of[amount], at[~amount], of[~amount], surprises, tuple(made))


@functools.cache
def names() -> tuple[str, ...]:
    """The names of the fields, in the order of their columns."""
    return tuple(field.name for field in load_schema().behaviour)


def fields_of(raw: Raw) -> Floats:
    """The fields [n, B] in the schema's order; NaN where there is nothing to tell."""
    plan = _plan()
    out = np.empty((len(raw.of), len(names())), np.float32)
    statistics = raw.of.reshape(len(raw.of), KINDS * WIDTH)
    amounts = statistics.take(plan.amounts, axis=1)
    out[:, plan.of_amounts] = np.log1p(amounts, out=amounts)
    out[:, plan.of_others] = statistics.take(plan.others, axis=1)
    # What is new enough is new: how new a rehearsal or a recording makes it is no matter.
    out[:, plan.surprises] = np.minimum(out[:, plan.surprises], _SURPRISING)
    for place, name in plan.made:
        out[:, place] = _MADE[name](raw)
    return out


@functools.cache
def _logarithms() -> NDArray[np.bool_]:
    """[B] whether a field is the logarithm of what its words name."""
    out = np.isin(names(), _LOGARITHMS)
    out[_plan().of_amounts] = True
    return out


def told(place: int, seen: float, usual: float) -> str:
    """A field of one connection in words: what was seen against what is usual, with their unit."""
    field = load_schema().behaviour[place]
    values = [_short(_linear(place, x), field.unit) for x in (seen, usual)]
    return f"{field.words}: {values[0]}, usual {values[1]}"


def _linear(place: int, x: float) -> float:
    value = float(np.expm1(x)) if _logarithms()[place] else x
    return value / 1e3 if names()[place] == lasts.__name__ else value


def _short(x: float, unit: str) -> str:
    if not np.isfinite(x):
        return "unknown"
    for bound, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if unit == "B" and abs(x) >= bound:
            return f"{x / bound:.3g} {prefix}B"
    digits = f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"
    return f"{digits} {unit}".rstrip()
