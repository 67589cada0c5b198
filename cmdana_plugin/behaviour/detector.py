"""A detector beside another: what runs of connections look like, joined with what each connection looks like."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.behaviour.fields import names, told
from cmdana_plugin.behaviour.flows import Flows, flow_rows, flows_of
from cmdana_plugin.behaviour.model import Behaviour, behaviour_of, mark_of
from cmdana_plugin.behaviour.past import ending_before
from cmdana_plugin.behaviour.streams import Bounds, Streams
from cmdana_plugin.detector import Checkpoint, Detector, Scores, score_of, significant
from feature_extractors import CONN_STATES, CmdanaError
from feature_extractors.features import Encoded

COMPONENT: Final = "behaviour"
_SEEN: Final = "host_seen"
_REASONS: Final = 3  # fields that are named
_TELLING: Final = 0.3  # log odds that a field must account for to be named
_MIN_P_VALUE: Final = 1e-30
_INNER: Final = (
    0.5  # weight of the inner detector's evidence, whose single connections are many; behaviour's is 1
)
_OTH: Final = CONN_STATES.index("OTH")
_TCP: Final = 6
_FEW: Final = float(np.log1p(200.0))  # connections of an originator from which on it has a past


@dataclass(frozen=True, slots=True)
class _Seen:
    """One block beside its past: the inner detector's scores, and what behaviour saw of its final connections."""

    inner: Scores
    rows: NDArray[np.int64]  # [k] which rows of the block
    table: NDArray[np.float32]  # [k, B]
    weight: NDArray[np.float64]  # [n] evidence of behaviour less that of the inner detector


class WithBehaviour:
    """A detector whose evidence is summed with that of behaviour (Fisher's), calibrated on later normal traffic.

    Only connections that have ended have a behaviour; of the others the inner detector's word stands.
    """

    def __init__(
        self, inner: Detector, behaviour: Behaviour, salt: int = 0, bounds: Bounds | None = None
    ) -> None:
        """`salt`, 128 secret bits, keys the hashes of hosts; a past that was learned under another is left out.

        Raises `CmdanaError` where the past is none, or more than the bounds allow.
        """
        self.inner = inner
        self.name = inner.name
        self.schema_digest = inner.schema_digest
        self._behaviour = behaviour
        self._salt = salt
        self._streams = Streams(bounds or Bounds())
        self._past = behaviour.past if behaviour.site == mark_of(salt) else {}
        if self._past:
            try:
                self._streams.restore(self._past)
            except ValueError as error:
                raise CmdanaError(f"model: behaviour: {error}; see [behaviour] max_hosts") from None

    def receive(self, windows: Encoded) -> Scores:
        """Scores as the inner detector's, with a component `behaviour`; early windows leave no trace in the streams."""
        scores = self.inner.receive(windows)
        n = len(windows)
        component = np.full(n, np.nan)
        rows = flow_rows(windows)
        if not n:
            return replace(scores, components={**scores.components, COMPONENT: component})
        flows = flows_of(windows, self._salt)
        if self._past and len(flows):
            if float(flows.end[0]) < float(self._past["clock"][0]):
                self._streams.restore(ending_before(self._past, float(flows.end[0])))
            self._past = {}
        table = self._streams.receive(flows).astype(np.float32)
        p = p_values(self._behaviour, table, flows)
        component[rows] = p
        joined = scores.p_value.copy()
        rows, p = rows[np.isfinite(p)], p[np.isfinite(p)]
        joined[rows] = self._behaviour.joined.p_value(evidence(scores.p_value[rows], p))
        joined = significant(np.clip(joined, _MIN_P_VALUE, 1.0))
        weight = np.full(n, -np.inf)
        weight[rows] = _INNER * np.log(scores.p_value[rows]) - np.log(p)
        return replace(
            scores,
            p_value=joined,
            score=np.round(score_of(joined), 6),
            components={**scores.components, COMPONENT: np.round(component, 12)},
            seen=_Seen(scores, flow_rows(windows), table, weight),
        )

    def explain(self, windows: Encoded, scores: Scores, rows: NDArray[np.int64]) -> list[list[str]]:
        """The reasons of whichever has the more evidence first."""
        seen = scores.seen
        assert isinstance(seen, _Seen), "scores of another detector"
        of_inner = self.inner.explain(windows, seen.inner, rows)
        at = np.full(len(windows), -1)
        at[seen.rows] = np.arange(len(seen.rows))
        out = []
        for row, others in zip(rows.tolist(), of_inner, strict=True):
            own = self._words(seen.table[at[row]]) if at[row] >= 0 else []
            out.append(own + others if seen.weight[row] > 0.0 else others + own)
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
    return inner if behaviour is None else WithBehaviour(inner, behaviour, salt, bounds)


def is_known(table: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether the originator has a past [n]."""
    return np.asarray(table[:, names().index(_SEEN)] >= _FEW, np.bool_)


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


def evidence(inner: NDArray[np.float64], behaviour: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fisher's weighted sum of two p-values [n], which need not be independent: the sum is calibrated as it comes."""
    total: NDArray[np.float64] = -_INNER * np.log(np.clip(inner, _MIN_P_VALUE, 1.0)) - np.log(behaviour)
    return total
