"""The dependency network: each field of a connection expected from one field of another modality, by tables.

A dependency network (Heckerman et al., "Dependency networks for inference, collaborative filtering, and data
visualization", JMLR 1, 2000) of one parent for each field at most: a table of P(class of the field | class of its
parent), drawn towards P(class of the field). No field is expected from its own modality, but for the kind of traffic
(protocol, service, port), which all may ask. So a modality never sees itself, as in the cross-modal network, and a
connection costs some seventy look-ups. Tables hold no past: the state comes in by the other components.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.detector.cross_modal import (
    PREDICTED,
    CrossModal,
    EventContext,
    Floats32,
    RawScores,
    Remembered,
    stratum_of,
)
from cmdana_plugin.detector.engines.shape import CLASSES, CONNECTION, LOG, MODALITIES, PACKET, STATE
from cmdana_plugin.detector.history import Tables
from cmdana_plugin.detector.inputs import Prepared, prepare
from feature_extractors.compiled import entry
from feature_extractors.features import Schema

if TYPE_CHECKING:
    from cmdana_plugin.detector.network import Network

NO_PARENT: Final = -1
_PRIOR: Final = 20.0  # connections that the field's own distribution counts for beside each class of a parent
_UNSEEN: Final = 0.1  # connections that a class never seen counts for
_BLOCK_ROWS: Final = 2048  # rows of one computation: what threads share out
_KIND: Final = ("proto", "service", "resp_port")  # fields of a connection that tell its kind
# The modality whose evidence a component of the fusion is of; isolation and attacks look at all of them.
_OWNER: Final = {
    "packets": PACKET,
    "connection": CONNECTION,
    "density": CONNECTION,
    "log": LOG,
    "novelty": STATE,
}


@dataclass(frozen=True, slots=True)
class Conditionals:
    """What each field is expected from, and how likely each of its classes is then.

    Fields are those of packets, connection and logs in turn. `Checkpoint.network` has both by the same names.
    """

    parent: NDArray[np.int32]  # [F] another field, or NO_PARENT
    log_probability: Floats32  # [F, CLASSES of the parent, CLASSES], of a field without parent all alike

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """As a checkpoint keeps them."""
        return {"parent": self.parent.astype(np.float32), "log_probability": self.log_probability}


def conditionals_of(arrays: Mapping[str, NDArray[np.float32]]) -> Conditionals:
    """What `Conditionals.arrays` gave."""
    return Conditionals(arrays["parent"].astype(np.int32), arrays["log_probability"])


def parents_allowed(prepared: Prepared, schema: Schema) -> NDArray[np.bool_]:
    """Whether a field may be expected from another [F, F]: from other modalities, and from the kind of traffic."""
    sizes = [targets.shape[1] for targets in prepared.targets]
    modality = np.repeat(np.arange(MODALITIES), sizes)
    allowed: NDArray[np.bool_] = modality[:, None] != modality[None, :]
    first = sizes[PACKET] + len(schema.numeric)
    allowed[:, [first + j for j, c in enumerate(schema.categorical) if c.name in _KIND]] = True
    np.fill_diagonal(allowed, False)
    return allowed


def fit_conditionals(prepared: Prepared, rows: NDArray[np.bool_], schema: Schema) -> Conditionals:
    """What `rows` [n] of normal connections teach: the parent of each field by likelihood and BIC (Schwarz 1978)."""
    seen = _flat(prepared)[rows]
    asked, codes = seen >= 0, np.maximum(seen, 0)
    fields = seen.shape[1]
    allowed = parents_allowed(prepared, schema)
    parent = np.full(fields, NO_PARENT, np.int32)
    out = np.empty((fields, CLASSES, CLASSES), np.float32)
    for f in range(fields):
        own = codes[asked[:, f]]
        alone = np.bincount(own[:, f], minlength=CLASSES) + _UNSEEN
        usual = alone / alone.sum()
        out[f] = np.log(usual)
        best = (alone * np.log(usual)).sum()
        for g in np.flatnonzero(allowed[f]).tolist():
            pairs = own[:, g] * CLASSES + own[:, f]
            joint = np.bincount(pairs, minlength=CLASSES * CLASSES).reshape(CLASSES, CLASSES)
            total = joint.sum(axis=1, keepdims=True)
            log_p = np.log((joint + _PRIOR * usual) / (total + _PRIOR))
            more = np.count_nonzero(joint) - np.count_nonzero(
                alone >= 1.0
            )  # parameters beyond the field's own
            found = (joint * log_p).sum() - 0.5 * np.log(max(len(own), 2)) * max(more, 0)
            if found > best:
                best, parent[f], out[f] = found, g, log_p
    return Conditionals(parent, out)


class DependencyNetwork(CrossModal):
    """A `Detector` whose components `packets`, `connection` and `log` come from tables of what goes with what.

    There is no gate: the reliance of a verdict is each modality's share of the evidence. Arguments as of `CrossModal`;
    it computes on the processor whatever the device.
    """

    def _set_up(self, device: str, network: type[Network] | None) -> None:
        self._conditionals = conditionals_of(self.checkpoint.network)

    def _made_tables(self) -> Tables:
        return Tables(self._hosts, max(self._hosts // 2, 64), self._hosts * 2, learned=False)

    def components(
        self,
        prepared: Prepared,
        state: Floats32,
        remember: Callable[[Floats32, Floats32, Floats32], Remembered],
        own: NDArray[np.bool_] | None = None,
    ) -> tuple[RawScores, EventContext]:
        n = len(prepared)
        seen = EventContext(
            prepared.features, state, np.zeros((n, 0, 0), np.float32), np.zeros((n, 0, 0), np.float32),
            np.zeros(n, np.int32), stratum_of(prepared.features, self.schema),
        )  # fmt: skip
        return self._judged(prepared, seen, own=own), seen

    def score_context(self, seen: EventContext, keep: bool = False) -> RawScores:
        prepared = prepare(seen.features, seen.state, self.checkpoint.preparation, self.schema)
        return self._judged(prepared, seen, keep)

    def _judged(
        self,
        prepared: Prepared,
        seen: EventContext,
        keep: bool = False,
        own: NDArray[np.bool_] | None = None,
    ) -> RawScores:
        n = len(prepared)
        rows = np.arange(n) if own is None else np.flatnonzero(own)
        fields, bounds = _flat(prepared), np.cumsum([0, *self.checkpoint.shape.targets])
        odd = np.full((n, MODALITIES), np.nan)
        raw, beside = self.beside_network(prepared, seen, own)
        told = self._conditionals

        def block(mine: NDArray[np.int64]) -> None:
            _surprise(mine, fields, bounds, prepared.present, told.parent, told.log_probability, odd)
            beside(mine)

        self._each(block, (rows[b : b + _BLOCK_ROWS] for b in range(0, len(rows), _BLOCK_ROWS)))
        raw = {name: odd[:, m] for m, name in enumerate(PREDICTED)} | raw
        chance = self._chance(fields, bounds) if keep else None
        return RawScores({k: np.round(v, 5) for k, v in raw.items()}, np.ones((n, 4), np.float32), chance)

    def _chance(self, fields: NDArray[np.int64], bounds: NDArray[np.int64]) -> tuple[Floats32, ...]:
        told = self._conditionals
        context = np.where(told.parent < 0, 0, np.maximum(fields[:, told.parent], 0))
        every = told.log_probability[np.arange(fields.shape[1]), context]
        return tuple(every[:, a:b] for a, b in pairwise(bounds.tolist()))

    def reliance(self, gate: Floats32, components: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        out = np.zeros(gate.shape)
        for name, weight in self.checkpoint.weights.items():
            if name in _OWNER:
                out[:, _OWNER[name]] += weight * np.nan_to_num(-np.log(components[name]))
        out[out.sum(axis=1) <= 0.0] = 1.0  # nothing odd at all: each as much
        return out


def _flat(prepared: Prepared) -> NDArray[np.int64]:
    """The classes [n, F] of all modalities' fields side by side; -1 not asked."""
    return np.concatenate(prepared.targets, axis=1)


@entry
def _surprise(rows, fields, bounds, present, parent, log_probability, out):  # type: ignore[no-untyped-def]
    """Puts the mean negative log probability of what is set in `out` [n, modalities], where the modality is there."""
    for i in rows:
        for m in range(len(bounds) - 1):
            if not present[i, m]:
                continue
            total, asked = 0.0, 0
            for f in range(bounds[m], bounds[m + 1]):
                seen = fields[i, f]
                if seen < 0:
                    continue
                given = max(fields[i, parent[f]], 0) if parent[f] >= 0 else 0
                total -= log_probability[f, given, seen]
                asked += 1
            out[i, m] = total / max(asked, 1)
