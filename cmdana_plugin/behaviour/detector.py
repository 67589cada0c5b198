"""A detector beside another: what runs of connections look like, joined with what each connection looks like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.behaviour.fields import names, told
from cmdana_plugin.behaviour.flows import Flows, flow_rows, flows_between, flows_of
from cmdana_plugin.behaviour.model import Behaviour, behaviour_of, mark_of
from cmdana_plugin.behaviour.past import ending_before, packed, unpacked
from cmdana_plugin.behaviour.persistence import LATELY, RARE, Persistence, Visits, concat_visits, words
from cmdana_plugin.behaviour.streams import Bounds, Streams
from cmdana_plugin.behaviour.suspicion import Suspicion
from cmdana_plugin.detector import (
    PERSISTENCE,
    Checkpoint,
    Detector,
    Scores,
    Unsound,
    beside,
    restore_to,
    score_of,
    significant,
    state_of,
)
from cmdana_plugin.statefile import prefixed, under
from feature_extractors import CONN_STATES, CmdanaError
from feature_extractors.features import Encoded

COMPONENT: Final = "behaviour"

T = TypeVar("T")
_SEEN: Final = "host_seen"
_REASONS: Final = 3  # fields that are named
_TELLING: Final = 0.3  # log odds that a field must account for to be named
_MIN_P_VALUE: Final = 1e-30
_SHARE: Final = 0.5  # of the rate of false alarms, 0..1, that is behaviour's
_TREES: Final = "attack"  # the component of such a model
_OTH: Final = CONN_STATES.index("OTH")
_TCP: Final = 6
_FEW: Final = float(np.log1p(200.0))  # connections of an originator from which on it has a past
# Tries that failed or were refused, from which on a stranger is part of a run of them: by its own, and at what it asks.
_IN_VAIN: Final = {
    "host_failed_10m": 10.0, "host_refused_10m": 10.0, "target_failed_10m": 50.0, "target_refused_1h": 50.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Seen:
    """One block beside its past: the inner detector's scores, and what behaviour saw of its final connections."""

    inner: Scores
    rows: NDArray[np.int64]  # [k] the rows of the block of which behaviour has a say
    table: NDArray[np.float32]  # [k, B]
    visits: Visits  # of these
    lasting: NDArray[np.float64]  # [k] how rare their persistence is
    leads: NDArray[np.bool_]  # [n] whether behaviour is what is odd


class _Runs(NamedTuple):
    """What behaviour makes of `k` connections."""

    table: NDArray[np.float32]  # [k, B] the fields
    p_value: NDArray[np.float64]  # [k]
    visits: Visits
    lasting: NDArray[np.float64]  # [k] how rare their persistence is


class WithBehaviour:
    """A detector whose p-value is joined with that of behaviour (weighted Bonferroni: valid however both depend).

    Only connections that have ended have a behaviour; of the others the inner detector's word stands.
    """

    def __init__(
        self,
        inner: Detector,
        behaviour: Behaviour,
        salt: int = 0,
        bounds: Bounds | None = None,
        strangers: bool = True,
    ) -> None:
        """`salt`, 128 secret bits, keys the hashes of hosts; a past that was learned under another is left out.

        Raises `CmdanaError` where the past is none, or more than the bounds allow.
        """
        self.inner = inner
        self.name = inner.name
        self.schema_digest = inner.schema_digest
        self._behaviour = behaviour
        # Whether originators with next to no past are judged too, whatever they do.
        self._strangers = strangers
        self._salt = salt
        self._streams = Streams(bounds or Bounds())
        self._suspicion = Suspicion()
        self._persistence = Persistence()
        self._past = behaviour.past if behaviour.site == mark_of(salt) else {}
        if self._past:
            try:
                self._streams.restore(self._past)
            except ValueError as error:
                raise CmdanaError(f"model: behaviour: {error}; see [behaviour] max_hosts") from None

    def receive(self, windows: Encoded) -> Scores:
        """Scores as the inner detector's, with a component `behaviour`; early windows leave no trace in the streams.

        The component `persistence` is no part of the p-value: it is told of hosts, not of connections.
        """
        n = len(windows)
        judged = beside(self.inner, lambda: self._runs(windows)) if n else None
        scores = self.inner.receive(windows)
        component = np.full(n, np.nan)
        if judged is None:
            nothing = {COMPONENT: component, PERSISTENCE: component}
            return replace(scores, components={**scores.components, **nothing})
        rows, (table, p, visits, lasting) = flow_rows(windows), judged()
        component[rows] = p
        persistence = np.full(n, np.nan)
        persistence[rows[lasting < 1.0]] = lasting[lasting < 1.0]
        counts = np.isfinite(p) & (self._strangers | is_known(table) | is_in_vain(table))
        rows, p, table = rows[counts], p[counts], table[counts]
        visits, lasting = visits.take(counts), lasting[counts]
        joined, leads = scores.p_value.copy(), np.zeros(n, np.bool_)
        own, runs = scores.p_value[rows] / (1.0 - _SHARE), p / _SHARE
        joined[rows] = np.minimum(own, runs)
        leads[rows] = runs < own
        joined = significant(np.clip(joined, _MIN_P_VALUE, 1.0))
        return replace(
            scores,
            p_value=joined,
            score=np.round(score_of(joined), 6),
            components={
                **scores.components,
                COMPONENT: np.round(component, 12),
                PERSISTENCE: np.round(persistence, 12),
            },
            seen=_Seen(scores, rows, table, visits, lasting, leads),
        )

    def beside(self, job: Callable[[], T]) -> Callable[[], T]:
        """As its inner detector's."""
        return beside(self.inner, job)

    def _runs(self, windows: Encoded) -> _Runs:
        """Of what ended in a block, which then is part of the past."""
        flows = flows_of(windows, self._salt)
        if self._past and len(flows):
            begin, ended = float(flows.end[0]), float(self._past["clock"][0])
            if begin < ended:
                self._streams.restore(ending_before(self._past, begin))
            if begin - ended < LATELY:
                self._persistence.watched_since(self._streams.since())
            self._past = {}
        return self._judged(flows)

    def _judged(self, flows: Flows) -> _Runs:
        """Of hosts against whom there is evidence, streams learn nothing slow."""
        parts: list[_Runs] = []
        begin = 0
        while begin < len(flows) or not parts:
            part = flows_between(flows, begin, begin + self._suspicion.left())
            teach = ~self._suspicion.of(part.orig)
            table, visits = self._streams.visited(part, teach)
            p = p_values(self._behaviour, table, part)
            parts.append(_Runs(table, p, visits, self._persistence.receive(visits, part.end, teach)))
            if len(part) and self._suspicion.hear(part.orig, part.end, p):
                self._streams.matter(*self._suspicion.suspects())
            begin += max(len(part), 1)
        return _Runs(
            np.concatenate([runs.table for runs in parts]),
            np.concatenate([runs.p_value for runs in parts]),
            concat_visits([runs.visits for runs in parts]),
            np.concatenate([runs.lasting for runs in parts]),
        )

    def state(self) -> dict[str, NDArray[Any]]:
        """What the streams came to, and what the inner detector knows, as arrays by name."""
        return (
            prefixed("inner.", state_of(self.inner))
            | prefixed("streams.", packed(self._streams.state()))
            | prefixed("suspicion.", self._suspicion.state())
            | prefixed("persistence.", self._persistence.state())
        )

    def restore(self, state: Mapping[str, NDArray[Any]], learned: bool = True) -> None:
        """Goes on from a `state`. Raises `ValueError` where it is none, or more than the bounds allow."""
        try:
            streams = unpacked(under("streams.", state))
            suspicion = Suspicion()
            suspicion.restore(under("suspicion.", state))
            persistence = Persistence()
            persistence.restore(under("persistence.", state))
        except (Unsound, KeyError) as fault:
            raise ValueError(f"behaviour: found no {fault}") from None
        self._streams.restore(streams)
        self._suspicion, self._persistence = suspicion, persistence
        self._past = {}
        restore_to(self.inner, under("inner.", state), learned)

    def explain(self, windows: Encoded, scores: Scores, rows: NDArray[np.int64]) -> list[list[str]]:
        """The reasons of whichever is odder first."""
        seen = scores.seen
        assert isinstance(seen, _Seen), "scores of another detector"
        of_inner = self.inner.explain(windows, seen.inner, rows)
        at = np.full(len(windows), -1)
        at[seen.rows] = np.arange(len(seen.rows))
        out = []
        for row, others in zip(rows.tolist(), of_inner, strict=True):
            own = self._words(seen.table[at[row]]) if at[row] >= 0 else []
            lasts = (
                [words(seen.visits, seen.lasting, at[row])]
                if at[row] >= 0 and seen.lasting[at[row]] < RARE
                else []
            )
            out.append(lasts + (own + others if seen.leads[row] else others + own))
        return out

    def _words(self, seen: NDArray[np.float32]) -> list[str]:
        """The fields without which the row would be least like an intrusion: what was seen against the usual."""
        usual = self._behaviour.usual
        width = len(usual)
        # The row, and the row with one field after another as it usually is.
        table = np.tile(seen, (width + 1, 1))
        table[np.arange(1, width + 1), np.arange(width)] = usual
        odds = self._behaviour.trees.score(table)
        # That there is nothing is no reason to read.
        more = np.where(np.isnan(seen), -np.inf, odds[0] - odds[1:])
        most = np.argsort(-more, kind="stable")[:_REASONS].tolist()
        return [told(f, float(seen[f]), float(usual[f])) for f in most if more[f] > _TELLING]


def with_behaviour_beside(
    inner: Detector, checkpoint: Checkpoint, salt: int = 0, bounds: Bounds | None = None
) -> Detector:
    """The detector with what its checkpoint says of behaviour; as it is where that is nothing.

    Raises `CmdanaError` where it cannot be used.
    """
    behaviour = behaviour_of(checkpoint)
    if behaviour is None:
        return inner
    # Of hosts of whom nothing is known yet, as in a capture of minutes, trees know more, but for runs in vain.
    return WithBehaviour(inner, behaviour, salt, bounds, strangers=_TREES not in checkpoint.weights)


def is_known(table: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether the originator has a past [n]."""
    return np.asarray(table[:, names().index(_SEEN)] >= _FEW, np.bool_)


def is_in_vain(table: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether a connection is in a run of many that failed or were refused [n]."""
    at = [names().index(field) for field in _IN_VAIN]
    least = np.log1p(np.array(list(_IN_VAIN.values())))
    run: NDArray[np.bool_] = (table[:, at] >= least).any(axis=1)
    return run


def has_direction(flows: Flows) -> NDArray[np.bool_]:
    """Whether it is known who asked whom [n]: of TCP without a beginning and without content it is not."""
    nothing = (flows.orig_bytes == 0) & (flows.resp_bytes == 0)
    direction: NDArray[np.bool_] = ~((flows.state == _OTH) & (flows.proto == _TCP) & nothing)
    return direction


def p_values(behaviour: Behaviour, table: NDArray[np.float32], flows: Flows) -> NDArray[np.float64]:
    """Of connections and their fields [n, B]: how likely normal ones are to look as much like an intrusion.

    NaN where it is not known who asked whom.
    """
    odds = np.round(behaviour.trees.score(table), 5)
    p = np.where(is_known(table), behaviour.known.p_value(odds), behaviour.unknown.p_value(odds))
    return np.where(has_direction(flows), p, np.nan)
