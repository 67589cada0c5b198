"""Why a connection is odd, in an analyst's words: fields reset to what was expected, and what that does to the score.

Occlusion to the conditional expectation: each field in turn is set to what the other modalities and the state make
likely, the event is scored again, and the fields whose reset takes away most evidence are named. So a reason is a
measured effect on this score, not a picture of attention.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.detector.calibration import ALONE
from cmdana_plugin.detector.engines.shape import CLASSES, CONNECTION, LOG, PACKET
from cmdana_plugin.detector.inputs import Bins, prepare
from feature_extractors.features import Features, Schema, take_features

if TYPE_CHECKING:
    from cmdana_plugin.detector.cross_modal import CrossModal, EventContext, RawScores

TOP: Final = 3  # reasons given of an event
_EVENTS_AT_ONCE: Final = 64  # events explained at once; bounds memory, changes nothing
Reset = Callable[[Features, NDArray[np.float32], int], None]
_LEAST_ODD: Final = 0.7  # of a field that is named, where there is any that is as odd: p = 0.2


@dataclass(frozen=True, slots=True)
class Field:
    """A group of columns that are reset together, with the words for the oddest of them.

    Columns that follow from one another are one group: an event with other bytes has other rates too.
    """

    name: str
    odd: float  # how odd, -log10 p or spreads: orders the words within a group
    reset: Reset  # in place, row of the variants
    say: Callable[[], str]  # what `words` are: of some sixty fields three are named

    @property
    def words(self) -> str:
        return self.say()


@dataclass(frozen=True, slots=True)
class Explained:
    """The fields of one event, most telling first; `evidence` is the fused evidence of the event as it was."""

    evidence: float
    fields: list[Field]
    without: list[float]  # evidence with the first field reset, with the first two, ...


def reasons(
    detector: CrossModal, seen: EventContext, rows: NDArray[np.int64], top: int = TOP
) -> list[list[str]]:
    """At most `top` reasons in words for each of `rows`, most telling first: fields whose reset lowers the evidence."""
    out: list[list[str]] = []
    for begin in range(0, len(rows), _EVENTS_AT_ONCE):
        some = explain_rows(detector, seen, rows[begin : begin + _EVENTS_AT_ONCE], top)
        for explained in some:
            telling = [f for f in explained.fields if f.odd >= _LEAST_ODD] or explained.fields[:1]
            out.append([f.words for f in telling])
    return out


def explain_rows(
    detector: CrossModal, seen: EventContext, rows: NDArray[np.int64], top: int = TOP
) -> list[Explained]:
    """The fields of each row whose reset lowers the evidence most, by greedy occlusion (Zeiler and Fergus 2014).

    First the field that lowers it most alone, then the next given the first. Rows are searched side by side; none
    changes another's result.
    """
    ones = _repeat(seen, rows)
    outcome = detector.score_context(ones, keep=True)
    assert outcome.log_probability is not None
    start = _evidence(detector, outcome, ones)
    fields = _fields(detector, ones, outcome.log_probability)
    open_ = [_grouped(f) for f in fields]
    chosen: list[list[Field]] = [[] for _ in rows]
    without: list[list[float]] = [[] for _ in rows]
    searching = list(range(len(rows)))
    for _ in range(top):
        searching = [i for i in searching if open_[i]]
        if not searching:
            break
        sizes = [len(open_[i]) for i in searching]
        variants = _repeat(ones, np.repeat(np.array(searching, np.int64), sizes))
        begins = np.concatenate([[0], np.cumsum(sizes)])
        for i, begin in zip(searching, begins[:-1].tolist(), strict=True):
            for k, candidate in enumerate(open_[i]):
                candidate.reset(variants.features, variants.state, begin + k)
        after = evidence_of(detector, variants)
        still = []
        for i, begin, end in zip(searching, begins[:-1].tolist(), begins[1:].tolist(), strict=True):
            best = int(np.argmin(after[begin:end]))
            lowest = float(after[begin + best])
            if lowest < (without[i][-1] if without[i] else float(start[i])) - 1e-6:
                chosen[i].append(open_[i].pop(best))
                chosen[i][-1].reset(ones.features, ones.state, i)  # and so in all that comes of it
                without[i].append(lowest)
                still.append(i)
        searching = still
    return [Explained(float(e), c, w) for e, c, w in zip(start, chosen, without, strict=True)]


def evidence_of(detector: CrossModal, seen: EventContext) -> NDArray[np.float64]:
    """The fused evidence [n] of events, nats, higher is odder, with isolation's added where there is one."""
    return _evidence(detector, detector.score_context(seen), seen)


def _evidence(detector: CrossModal, outcome: RawScores, seen: EventContext) -> NDArray[np.float64]:
    components = detector.p_values(outcome.raw, seen)
    evidence = detector.evidence(components)
    return evidence - ALONE * np.log(components["isolation"]) if "isolation" in components else evidence


_MOST_FACTOR: Final = math.log(1e6)
_OF_ANY_FIRST_CONTACT: Final = frozenset(("pair_conns", "pair_seen", "pair_idle"))  # that they are 0
_GROUPS: Final = {
    "orig_bytes": "orig_volume", "orig_pkts": "orig_volume", "orig_packet_size": "orig_volume",
    "byte_balance": "orig_volume", "packet_balance": "orig_volume", "payload_share": "orig_volume",
    "resp_bytes": "resp_volume", "resp_pkts": "resp_volume", "resp_packet_size": "resp_volume",
    "duration": "pace", "byte_rate": "pace", "packet_rate": "pace",
    "conn_state": "course", "history_orig": "course", "history_resp": "course", "history_length": "course",
    "service": "service", "resp_port": "service",
    "pair_seen": "novelty", "service_seen": "novelty", "port_seen": "novelty", "name_seen": "novelty",
    "orig_name_seen": "novelty", "orig_uses_port": "novelty", "resp_serves": "novelty", "orig_seen": "novelty",
    "orig_conns": "orig_past", "orig_failed": "orig_past", "orig_new_peers": "orig_past", "orig_idle": "orig_past",
    "orig_new_services": "orig_past", "orig_failed_share": "orig_past", "orig_peer_share": "orig_past",
    "orig_service_share": "orig_past",
    "resp_conns": "resp_past", "resp_new_peers": "resp_past",
    "pair_conns": "pair_past", "pair_idle": "pair_past", "pair_beat": "pair_past", "pair_jitter": "pair_past",
    "orig_bytes_vs_port": "usual_volume", "resp_bytes_vs_port": "usual_volume", "duration_vs_port": "usual_volume",
    "orig_bytes_vs_host": "usual_volume", "resp_bytes_vs_host": "usual_volume",
    "orig_bytes_vs_pair": "usual_volume", "resp_bytes_vs_pair": "usual_volume",
}  # fmt: skip


def _grouped(fields: list[Field]) -> list[Field]:
    groups: dict[str, list[Field]] = {}
    for f in fields:
        stem = f.name.rsplit(".", 1)[0] if f.name.endswith((".length", ".entropy", ".digits")) else f.name
        groups.setdefault(_GROUPS.get(f.name, stem), []).append(f)
    return [
        Field(name, max(m.odd for m in members), _all(members), max(members, key=lambda m: m.odd).say)
        for name, members in groups.items()
    ]


def _all(members: list[Field]) -> Reset:
    def reset(features: Features, state: NDArray[np.float32], row: int) -> None:
        for m in members:
            m.reset(features, state, row)

    return reset


def _repeat(seen: EventContext, rows: NDArray[np.int64]) -> EventContext:
    """A copy of these rows, to be changed."""
    return replace(
        seen,
        features=take_features(seen.features, rows),
        state=seen.state[rows].copy(),
        memory=seen.memory[rows],
        ring=seen.ring[rows],
        ring_used=seen.ring_used[rows],
        stratum=seen.stratum[rows],
    )


def _fields(
    detector: CrossModal, seen: EventContext, chances: tuple[NDArray[np.float32], ...]
) -> list[list[Field]]:
    prepared = prepare(seen.features, seen.state, detector.checkpoint.preparation, detector.schema)
    stems: dict[str, list[int]] = {}
    for i, name in enumerate(detector.schema.state):
        stems.setdefault(_stem(name, detector.schema), []).append(i)
    mean, spread = detector.checkpoint.preparation.state_scale
    resets = {name: _set_state(np.array(columns), mean[columns]) for name, columns in stems.items()}
    far = np.nan_to_num((seen.state - mean) / spread)
    expected = _expected(detector, prepared.targets, [np.exp(c.astype(np.float64)) for c in chances])
    return [
        [
            *_fields_of(detector.schema, seen.features, row, expected),
            *_state_fields(detector.schema, stems, resets, seen.state[row], far[row].tolist(), mean),
        ]
        for row in range(len(prepared))
    ]


def _fields_of(schema: Schema, features: Features, row: int, expected: _Expected) -> list[Field]:
    """Everything of a row of `features` that can be reset."""
    out: list[Field] = []
    values: list[float] = features.numeric[row].tolist()
    for j, (n, value, (p, low, high, middle)) in enumerate(
        zip(schema.numeric, values, expected.numeric[row], strict=True)
    ):
        say = partial(_numeric_words, schema, j, low, high, value, p)
        out.append(Field(n.name, -math.log10(p), _set_numeric(j, middle), say))
    connection = expected.chance[CONNECTION][row, len(schema.numeric) :]
    codes: list[int] = features.categorical[row].tolist()
    for j, (c, code) in enumerate(zip(schema.categorical, codes, strict=True)):
        likely = int(connection[j, : c.size].argmax())
        if likely != code:
            p = _rarity(connection[j], code)
            say = partial(_categorical_words, schema, j, likely, code, p)
            out.append(Field(c.name, -math.log10(p), _set_categorical(j, likely), say))
    logs = expected.chance[LOG][row]
    for k, (j, span) in enumerate(zip(expected.asked, expected.summary[row], strict=True)):
        x = float(features.log_summary[row, j])
        if not math.isfinite(x):
            continue
        name, what = schema.summary[j], schema.summary_words[j]
        if schema.summary_hashed[j]:
            p, to = _rarity(logs[k], int(x)), float(logs[k].argmax())
            say = partial(_unusual, what, p)
        else:
            p, low, high, to = span
            say = partial(_summary_words, name, what, low, high, x, p)
        out.append(Field(name, -math.log10(p), _set_summary(j, to), say))
    if np.isfinite(features.first_packets[row]).any():
        p = expected.packets[row]
        say = partial(_unusual, "sizes and times of the first packets", p)
        out.append(Field("packets", -math.log10(p), _drop_packets, say))
    return out


def _state_fields(
    schema: Schema,
    stems: dict[str, list[int]],
    resets: dict[str, Reset],
    state: NDArray[np.float32],
    far: list[float],
    mean: NDArray[np.float32],
) -> list[Field]:
    """What a row's `state` says, `far` from the mean in spreads; `stems`: columns by name without their span."""
    out: list[Field] = []
    values: list[float] = state.tolist()
    for name, columns in stems.items():
        i = max(columns, key=lambda i: abs(far[i]))
        if math.isfinite(values[i]) and not (name in _OF_ANY_FIRST_CONTACT and values[i] <= 0.0):
            say = partial(_state_words, schema, i, values[i], float(mean[i]))
            out.append(Field(name, abs(far[i]), resets[name], say))
    return out


def _stem(name: str, schema: Schema) -> str:
    for span in schema.spans:
        name = name.removesuffix(f"_{span:g}s")
    return name


# p of what was seen, the central 80 % of what was expected, and its middle, in a column's own scale.
_Span = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class _Expected:
    """What was expected of `n` rows."""

    chance: list[NDArray[np.float64]]  # [n, F, CLASSES] of each modality's fields
    numeric: list[list[_Span]]  # [n][numeric]
    asked: list[int]  # the summary columns that are expected anything of
    summary: list[list[_Span]]  # [n][asked]
    packets: list[float]  # [n] p of the rarest thing about the first packets


def _expected(
    detector: CrossModal, targets: Sequence[NDArray[np.int64]], chance: list[NDArray[np.float64]]
) -> _Expected:
    schema, how = detector.schema, detector.checkpoint.preparation
    asked = np.flatnonzero(schema.summary_target)
    n = len(schema.numeric)
    rare = np.where(targets[PACKET] >= 0, _rarities(chance[PACKET], targets[PACKET]), 1.0)
    return _Expected(
        chance,
        _spans(chance[CONNECTION][:, :n], targets[CONNECTION][:, :n], how.numeric),
        asked.tolist(),
        _spans(chance[LOG], targets[LOG], Bins(how.summary.edges[asked])),
        rare.min(axis=1, initial=1.0).tolist(),
    )


def _rarities(chance: NDArray[np.float64], code: NDArray[np.int64]) -> NDArray[np.float64]:
    """Probability [n, F] of everything that is no likelier than what was seen."""
    own = np.take_along_axis(chance, code[..., None], axis=-1)
    found: NDArray[np.float64] = np.maximum(np.where(chance <= own, chance, 0.0).sum(axis=-1), 1e-12)
    return found


def _rarity(chance: NDArray[np.float64], code: int) -> float:
    return float(_rarities(chance, np.array(code)))


def _spans(chance: NDArray[np.float64], code: NDArray[np.int64], bins: Bins) -> list[list[_Span]]:
    order = np.array([1, CLASSES - 1, *range(2, CLASSES - 2), CLASSES - 2])  # zero, under, bins, over
    mass = np.cumsum(chance[:, :, order], axis=-1)
    mass /= np.maximum(mass[:, :, -1:], 1e-12)
    lower, inner, upper = (
        order[np.minimum((mass < part).sum(axis=-1), len(order) - 1)] for part in (0.1, 0.5, 0.9)
    )
    begins, ends = bins.spans()
    column = np.arange(len(begins))
    least, most = np.minimum(bins.edges[:, 0], 0.0), bins.edges[:, -1]
    low, high = np.maximum(begins[column, lower], least), np.minimum(ends[column, upper], most)
    middle = (np.clip(begins[column, inner], -1e9, 1e9) + np.clip(ends[column, inner], -1e9, 1e9)) / 2
    middle = np.minimum(np.maximum(middle, least), most)
    middle[chance[:, :, 0] > 0.5] = np.nan
    spans = np.stack([_rarities(chance, code), low, high, middle], axis=-1)
    return [[tuple(span) for span in row] for row in spans.tolist()]


# Resets


def _set_numeric(column: int, to: float) -> Reset:
    def reset(features: Features, state: NDArray[np.float32], row: int) -> None:
        features.numeric[row, column] = to

    return reset


def _set_categorical(column: int, to: int) -> Reset:
    def reset(features: Features, state: NDArray[np.float32], row: int) -> None:
        features.categorical[row, column] = to

    return reset


def _set_summary(column: int, to: float) -> Reset:
    def reset(features: Features, state: NDArray[np.float32], row: int) -> None:
        features.log_summary[row, column] = to

    return reset


def _set_state(columns: NDArray[np.int64], to: NDArray[np.float32]) -> Reset:
    def reset(features: Features, state: NDArray[np.float32], row: int) -> None:
        state[row, columns] = to

    return reset


def _drop_packets(features: Features, state: NDArray[np.float32], row: int) -> None:
    """Only the flat view is reset; the tokens stay, for they cannot be made likely one by one."""
    features.first_packets[row] = np.nan


# Words


def _numeric_words(schema: Schema, column: int, low: float, high: float, saw: float, p: float) -> str:
    n = schema.numeric[column]
    expected = _span(low, high, n.unit, n.scale, n.name)
    return f"{n.words}: expected {expected}, saw {_size(saw, n.unit, n.scale, n.name)}, p={p:.0e}"


def _categorical_words(schema: Schema, column: int, likely: int, code: int, p: float) -> str:
    c = schema.categorical[column]
    if c.hashed:
        return _unusual(c.words, p)
    return f"{c.words}: expected {_value(c.values, likely)}, saw {_value(c.values, code)}, p={p:.0e}"


def _summary_words(name: str, what: str, low: float, high: float, x: float, p: float) -> str:
    a, b, saw = (_logged(name, value) for value in (low, high, x))
    return f"{what}: expected {a if a == b else f'{a} to {b}'}, saw {saw}, p={p:.0e}"


def _state_words(schema: Schema, column: int, saw: float, usual: float) -> str:
    name, words = schema.state[column], schema.state_words[column]
    if _is_comparison(name):
        return f"{words}: {_rounded(abs(saw))} spreads {'above' if saw > 0.0 else 'below'}"
    a, b = (_plain(name, value) for value in (saw, usual))
    return f"{words}: {a}, usual is {b}"


def _rounded(x: float) -> str:
    return f"{x:,.0f}" if x >= 10.0 else f"{x:.2g}"


def _is_comparison(name: str) -> bool:
    """Whether a state column tells how many of its usual spreads something is off what is usual."""
    return "_vs_" in name or name == "pair_beat"


def _unusual(what: str, p: float) -> str:
    return f"unusual {what}, p={p:.0e}"


def _value(values: tuple[str, ...], code: int) -> str:
    if code == 0:
        return "none"
    if code == 1:
        return "another"
    return values[code - 2] if code - 2 < len(values) else "another"


def _logged(name: str, x: float) -> str:
    """A column of log entries in its unit: what is a number there is kept in thousandths."""
    part = name.rsplit(".", 1)[-1]
    if part in ("entropy", "digits"):
        return f"{x:.2g}"
    if part == "length":
        return _size(x, "characters", "log", part)
    if part in ("TTLs", "rtt"):
        return _size(x, "", "log", "duration")
    if part.endswith(("_len", "_attempts")):
        return _size(float(np.log1p(np.expm1(x) / 1e3)), "B" if part.endswith("_len") else "", "log", part)
    return _size(x, "", "log", part)


def _size(x: float, unit: str, scale: str, name: str) -> str:
    if not np.isfinite(x):
        return "none"
    if scale == "share":
        return f"{x:.2g}"
    value = float(np.expm1(x))
    if name == "duration":
        for factor, short in ((1e3, "s"), (1.0, "ms"), (1e-3, "us")):
            if value >= factor or short == "us":
                return f"{_three(value / factor)} {short}" if value else "0 s"
    if unit.startswith("B"):
        for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if value >= factor:
                return f"{_three(value / factor)} {letter}{unit}"
    return f"{_three(value)} {unit}".rstrip()


def _three(x: float) -> str:
    """Of three digits, or as many as it has before the point."""
    return f"{x:,.0f}" if x >= 1000.0 else f"{x:.3g}"


def _span(low: float, high: float, unit: str, scale: str, name: str) -> str:
    a, b = _size(low, unit, scale, name), _size(high, unit, scale, name)
    if a == b:
        return a
    number, _, rest = a.partition(" ")
    return f"{number}-{b}" if rest == b.partition(" ")[2] else f"{a}-{b}"


def _plain(name: str, x: float) -> str:
    """A state column in everyday numbers."""
    if name.endswith("_share"):
        return f"{x:.2g}"
    if name == "pair_jitter":
        return f"a factor of {_rounded(math.exp(min(x, _MOST_FACTOR)))}"
    value = float(np.expm1(x))
    if name.endswith("_idle"):
        return f"{_three(value / 1e3)} s"
    return _three(value)
