"""Why a connection is odd, in an analyst's words: fields reset to what was expected, and what that does to the score.

Occlusion to the conditional expectation: each field in turn is set to what the other modalities and the state make
likely, the event is scored again, and the fields whose reset takes away most evidence are named. So a reason is a
measured effect on this score, not a picture of attention.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.batch import Bins, prepare
from cmdana_plugin.model import CONNECTION, LOG, PACKET
from feature_extractors.encode import Features, take_features
from feature_extractors.schema import Schema

if TYPE_CHECKING:
    from cmdana_plugin.detector import CrossModal, Seen

TOP: Final = 3


@dataclass(frozen=True, slots=True)
class Field:
    """One thing that can be reset: how, and what to say about it."""

    name: str
    reset: Callable[[Features, NDArray[np.float32], int], None]  # in place, row of the variants
    words: str


@dataclass(frozen=True, slots=True)
class Explained:
    """The fields of one event, most telling first; `evidence` is the fused evidence of the event as it was."""

    evidence: float
    fields: list[Field]
    without: list[float]  # evidence with the first field reset, with the first two, ...


def reasons(detector: CrossModal, seen: Seen, row: int, top: int = TOP) -> list[str]:
    """At most `top` reasons; a field that takes no evidence away is no reason."""
    return [f.words for f in explain_row(detector, seen, row, top).fields]


def explain_row(detector: CrossModal, seen: Seen, row: int, top: int = TOP) -> Explained:
    """Greedy: the field whose reset lowers the evidence most, then the next given the first."""
    one = _repeat(seen, row, 1)
    outcome = detector.look(one, keep=True)
    start = float(evidence_of(detector, one)[0])
    candidates = _fields(detector, one, outcome.log_probability)
    chosen: list[Field] = []
    without: list[float] = []
    lowest = start
    while len(chosen) < top and candidates:
        variants = _repeat(seen, row, len(candidates))
        for i, candidate in enumerate(candidates):
            for f in [*chosen, candidate]:
                f.reset(variants.features, variants.state, i)
        after = evidence_of(detector, variants)
        best = int(np.argmin(after))
        if after[best] >= lowest - 1e-6:
            break
        lowest = float(after[best])
        chosen.append(candidates.pop(best))
        without.append(lowest)
    return Explained(start, chosen, without)


def evidence_of(detector: CrossModal, seen: Seen) -> NDArray[np.float64]:
    """The fused evidence [n] of events as given."""
    return detector.evidence(detector.p_values(detector.look(seen).raw, seen.stratum))


def _repeat(seen: Seen, row: int, times: int) -> Seen:
    rows = np.full(times, row, np.int64)
    f = take_features(seen.features, rows)
    return replace(
        seen,
        features=f,
        state=seen.state[rows].copy(),
        memory=seen.memory[rows],
        ring=seen.ring[rows],
        ring_used=seen.ring_used[rows],
        stratum=seen.stratum[rows],
    )


def _fields(detector: CrossModal, one: Seen, chances: tuple[NDArray[np.float32], ...] | None) -> list[Field]:
    assert chances is not None
    schema, how = detector.schema, detector.checkpoint.preparation
    prepared = prepare(one.features, one.state, how, schema)
    out: list[Field] = []
    connection = np.exp(chances[CONNECTION][0].astype(np.float64))
    for j, numeric in enumerate(schema.numeric):
        p, low, high, middle = _expected(
            connection[j], int(prepared.targets[CONNECTION][0, j]), how.numeric, j
        )
        saw = _size(float(one.features.numeric[0, j]), numeric.unit, numeric.scale, numeric.name)
        words = f"expected {_span(low, high, numeric.unit, numeric.scale, numeric.name)} {numeric.words}, saw {saw}, p={p:.0e}"
        out.append(Field(numeric.name, _set_numeric(j, middle), words))
    start = len(schema.numeric)
    for j, category in enumerate(schema.categorical):
        code = int(one.features.categorical[0, j])
        chance = connection[start + j, : category.size]
        likely = int(chance.argmax())
        if likely != code:
            p = float(connection[start + j][connection[start + j] <= connection[start + j, code]].sum())
            words = f"expected {category.words} {_value(category.values, likely)}, saw {_value(category.values, code)}, p={p:.0e}"
            out.append(Field(category.name, _set_categorical(j, likely), words))
    wanted = np.flatnonzero(schema.summary_target)
    logs = np.exp(chances[LOG][0].astype(np.float64))
    calm = detector.checkpoint.preparation.summary
    for k, j in enumerate(wanted):
        x = float(one.features.log_summary[0, j])
        if not np.isfinite(x):
            continue
        if schema.summary_hashed[j]:
            likely = int(logs[k].argmax())
            words = f"unusual {schema.summary_words[j]}, p={_rarity(logs[k], int(x)):.0e}"
            out.append(Field(schema.summary[j], _set_summary(j, float(likely)), words))
        else:
            p, low, high, middle = _expected(logs[k], int(prepared.targets[LOG][0, k]), calm, j)
            unit, scale = (
                ("", "share") if schema.summary[j].endswith((".entropy", ".digits")) else ("", "log")
            )
            words = f"expected {_span(low, high, unit, scale, '')} {schema.summary_words[j]}, saw {_size(x, unit, scale, '')}, p={p:.0e}"
            out.append(Field(schema.summary[j], _set_summary(j, middle), words))
    packets = chances[PACKET][0].astype(np.float64)
    if np.isfinite(one.features.first_packets[0]).any():
        asked = prepared.targets[PACKET][0]
        p = min((_rarity(np.exp(packets[k]), int(c)) for k, c in enumerate(asked) if c >= 0), default=1.0)
        out.append(
            Field("packets", _drop_packets, f"unusual sizes and times of the first packets, p={p:.0e}")
        )
    mean, spread = how.state_scale
    for name in dict.fromkeys(_stem(s, schema) for s in schema.state):
        columns = [i for i, s in enumerate(schema.state) if _stem(s, schema) == name]
        far = np.nan_to_num((one.state[0, columns] - mean[columns]) / spread[columns])
        i = columns[int(np.abs(far).argmax())]
        if not np.isfinite(one.state[0, i]):
            continue
        way = "more" if far[np.abs(far).argmax()] > 0 else "less"
        words = f"{schema.state_words[i]}: {_plain(schema.state[i], float(one.state[0, i]))}, {way} than the usual {_plain(schema.state[i], float(mean[i]))}"
        out.append(Field(name, _set_state(columns, mean[columns]), words))
    return out


def _stem(name: str, schema: Schema) -> str:
    for span in schema.spans:
        name = name.removesuffix(f"_{span:g}s")
    return name


def _rarity(chance: NDArray[np.float64], code: int) -> float:
    """Probability of everything that is no likelier than what was seen."""
    return float(max(chance[chance <= chance[code]].sum(), 1e-12))


def _expected(
    chance: NDArray[np.float64], code: int, bins: Bins, column: int
) -> tuple[float, float, float, float]:
    """p of what was seen, the central 80 % of what was expected, and its middle, in the column's own scale."""
    order = np.array(
        [1, len(chance) - 1, *range(2, len(chance) - 2), len(chance) - 2]
    )  # zero, under, bins, over
    mass = np.cumsum(chance[order])
    mass /= max(mass[-1], 1e-12)
    low = bins.words(column, int(order[min(np.searchsorted(mass, 0.1), len(order) - 1)]))[0]
    high = bins.words(column, int(order[min(np.searchsorted(mass, 0.9), len(order) - 1)]))[1]
    inner = bins.words(column, int(order[min(np.searchsorted(mass, 0.5), len(order) - 1)]))
    least, most = float(bins.edges[column][0]), float(bins.edges[column][-1])
    low, high = max(low, min(least, 0.0)), min(high, most)
    middle = float(np.clip(np.mean(np.clip(inner, -1e9, 1e9)), min(least, 0.0), most))
    if chance[0] > 0.5:
        middle = float("nan")
    return _rarity(chance, code), low, high, middle


# Resets


def _set_numeric(column: int, to: float) -> Callable[[Features, NDArray[np.float32], int], None]:
    def reset(features: Features, state: NDArray[np.float32], row: int) -> None:
        features.numeric[row, column] = to

    return reset


def _set_categorical(column: int, to: int) -> Callable[[Features, NDArray[np.float32], int], None]:
    def reset(features: Features, state: NDArray[np.float32], row: int) -> None:
        features.categorical[row, column] = to

    return reset


def _set_summary(column: int, to: float) -> Callable[[Features, NDArray[np.float32], int], None]:
    def reset(features: Features, state: NDArray[np.float32], row: int) -> None:
        features.log_summary[row, column] = to

    return reset


def _set_state(
    columns: list[int], to: NDArray[np.float32]
) -> Callable[[Features, NDArray[np.float32], int], None]:
    def reset(features: Features, state: NDArray[np.float32], row: int) -> None:
        state[row, columns] = to

    return reset


def _drop_packets(features: Features, state: NDArray[np.float32], row: int) -> None:
    """Only the flat view is reset; the tokens stay, for they cannot be made likely one by one."""
    features.first_packets[row] = np.nan


# Words


def _value(values: tuple[str, ...], code: int) -> str:
    if code == 0:
        return "none"
    if code == 1:
        return "another"
    return values[code - 2] if code - 2 < len(values) else f"pattern {code - 2}"


def _size(x: float, unit: str, scale: str, name: str) -> str:
    if not np.isfinite(x):
        return "none"
    if scale == "share":
        return f"{x:.2g}"
    value = float(np.expm1(x))
    if name == "duration":
        value /= 1e3
        return f"{value:.2g} s" if value < 100 else f"{value:.0f} s"
    if unit.startswith("B"):
        for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if value >= factor:
                return f"{value / factor:.3g} {letter}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def _span(low: float, high: float, unit: str, scale: str, name: str) -> str:
    a, b = _size(low, unit, scale, name), _size(high, unit, scale, name)
    if a == b:
        return a
    number, _, rest = a.partition(" ")
    return f"{number}-{b}" if rest == b.partition(" ")[2] else f"{a}-{b}"


def _plain(name: str, x: float) -> str:
    """A state column in everyday numbers."""
    if name.endswith("_share") or "_vs_" in name or name in ("pair_beat", "pair_jitter"):
        return f"{x:.2g}"
    value = float(np.expm1(x))
    if name.endswith("_idle"):
        return f"{value / 1e3:.3g} s"
    return f"{value:.3g}"
