"""The detector: windows in stream order in, scores out, each from the past only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.detector import checkpoint as checkpoints
from cmdana_plugin.detector.calibration import fuse, weighted_bonferroni
from cmdana_plugin.detector.checkpoint import Checkpoint
from cmdana_plugin.detector.engines.engine import Before, Engine, Outcome, engine_of, resident_of
from cmdana_plugin.detector.engines.shape import CLASSES, LOG, MODALITIES, PACKET
from cmdana_plugin.detector.history import KINDS, MEMORY, RING_WIDTH, Tables, make_keys
from cmdana_plugin.detector.inputs import (
    Prepared,
    density_input,
    first_identical_row,
    isolation_input,
    novelty,
    prepare,
)
from cmdana_plugin.detector.networks.names import CROSS_MODAL, DEPENDENCY
from cmdana_plugin.detector.scores import Scores, score_of, significant
from cmdana_plugin.detector.soundness import COMPONENTS
from cmdana_plugin.detector.trees import tabulate
from feature_extractors import Connections, SchemaError, Stage
from feature_extractors.features import (
    Encoded,
    Features,
    Schema,
    concat_features,
    load_schema,
    take_encoded,
    take_features,
)

if TYPE_CHECKING:
    from cmdana_plugin.detector.engines.resident import Resident
    from cmdana_plugin.detector.network import Network
    from cmdana_plugin.detector.networks.elements import FieldNetwork

PREDICTED: Final = ("packets", "connection", "log")  # the component of each modality
_CHUNK_ROWS: Final = 8192  # windows looked at together; bounds memory, changes nothing
_NAMED_PROBABILITY: Final = 0.7  # probability from which on the supervised head names a class
_NAMED_P_VALUE: Final = 1e-2  # p-value below which it does so at all
# connections of a host so far; where the state's count ends it is known
_HISTORY_CONNECTIONS: Final = (5.0, 20.0, 50.0)
DEFAULT_MODEL: Final = "cmdana.safetensors"

_Job = TypeVar("_Job")
T = TypeVar("T")
Floats32 = NDArray[np.float32]
# Memory, ring and how much of it counts, as in `EventContext`
Own = Callable[[Connections], NDArray[np.bool_]]  # which connections [n] are to be scored
Remembered = tuple[Floats32, Floats32, NDArray[np.int32]]


@dataclass(slots=True)
class EventContext:
    """One block with the state before each event: all that scoring and explaining it takes."""

    features: Features
    state: NDArray[np.float32]  # [n, F] raw counts
    memory: NDArray[np.float32]  # [n, KINDS, MEMORY]
    ring: NDArray[np.float32]
    ring_used: NDArray[np.int32]
    stratum: NDArray[np.int64]


@dataclass(slots=True)
class RawScores:
    """Uncalibrated component scores of `n` events; higher is odder."""

    raw: dict[str, NDArray[np.float64]]  # component -> [n], NaN where it does not apply
    gate: NDArray[np.float32]  # [n, 4]
    log_probability: tuple[NDArray[np.float32], ...] | None  # per modality [n, fields, CLASSES]


class CrossModal:
    """The trained `Detector`: network, mixture, trees and isolation forest of a checkpoint, calibrated and fused.

    One instance follows one stream; its state lives as long as the instance.

    `salt` keys the hashes of hosts and names; `hosts` bounds how many are remembered; `threads` work side by side
    while there are cores to `spare` (always, unless told), one otherwise. A checkpoint that was taught the further logs
    of `schema` takes windows with these (`schema_digest`). `network` is a class that torch computes, an ablation's;
    without it our own kernels do, on a processor.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        schema: Schema,
        salt: int = 0,
        hosts: int = 1 << 17,
        device: str = "cpu",
        threads: int = 1,
        spare: Callable[[], bool] | None = None,
        network: type[Network] | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.schema = checkpoint.schema_of(schema)
        self.schema_digest = self.schema.digest
        self.name = checkpoint.about.get("name", "cmdana")
        self._engine: Engine | None = None
        self._resident: Resident | None = None  # what scores chunks on a GPU, where there is one
        self._settle_thread: Callable[[], object] | None = None
        self._set_up(device, network)
        several = threads > 1 and device == "cpu"
        self._pool = ThreadPoolExecutor(threads, "score", self._settle_thread) if several else None
        self._spare = spare
        # Which connections are to be scored, None all: the rest enter the state, and their scores mean nothing.
        self.own: Own | None = None
        self._salt = salt
        self._hosts = hosts
        self._tables = self._made_tables()
        self.seen: EventContext | None = None

    def _set_up(self, device: str, network: type[Network] | None) -> None:
        self._engine = engine_of(self.checkpoint, device, network)
        self._settle_thread = self._engine.settle_thread
        self._resident = resident_of(self._engine, device)

    def _made_tables(self) -> Tables:
        made = Tables if self._resident is None else self._resident.tables
        return made(self._hosts, max(self._hosts // 2, 64), self._hosts * 2)

    @property
    def engine(self) -> Engine:
        """What computes the network."""
        assert self._engine is not None
        return self._engine

    def reset(self) -> None:
        """Empties the state of all hosts, services and pairs, as before the first window."""
        self._tables = self._made_tables()
        self.seen = None

    def state(self) -> dict[str, NDArray[Any]]:
        """What is remembered of hosts, services and pairs, as arrays by name."""
        return self._tables.state()

    def restore(self, state: Mapping[str, NDArray[Any]], learned: bool = True) -> None:
        """Goes on from a `state`, as `Tables.restore`."""
        self._tables.restore(state, learned)
        self.seen = None

    def receive(self, windows: Encoded) -> Scores:
        if len(windows) == 0:
            return self._scores({}, np.zeros((0, 4), np.float32))
        raw, gate, _ = self.raw(windows)
        return self._scores(raw, gate)

    def raw(
        self, windows: Encoded
    ) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float32], NDArray[np.int64]]:
        """Uncalibrated components [n], gate [n, 4] and stratum [n] of windows in stream order.

        Raises `SchemaError` for windows that were encoded by another schema.
        """
        if windows.schema != self.schema_digest:
            raise SchemaError(f"windows encoded by schema {windows.schema}; expected {self.schema_digest}")
        parts, seen = [], []
        resident = self._resident
        blocks = _blocks(windows, _CHUNK_ROWS if resident is None else resident.most)
        for outcome, looked in (
            map(self._advance, blocks) if resident is None else self._advance_on(resident, blocks)
        ):
            parts.append(outcome)
            seen.append(looked)
        self.seen = seen[0] if len(seen) == 1 else _join(seen)
        raw = {name: np.concatenate([p.raw[name] for p in parts]) for name in parts[0].raw}
        gate = np.concatenate([p.gate for p in parts])
        return raw, gate, self.seen.stratum

    def explain(self, windows: Encoded, scores: Scores, rows: NDArray[np.int64]) -> list[list[str]]:
        from cmdana_plugin.detector.reasons import reasons

        assert isinstance(scores.seen, EventContext), "scores of another detector"
        return reasons(self, scores.seen, rows)

    def p_values(
        self, raw: Mapping[str, NDArray[np.float64]], seen: EventContext
    ) -> dict[str, NDArray[np.float64]]:
        """One-sided p-values by component [n] among traffic of their stratum, isolation's among hosts known as well."""
        return component_p_values(self.checkpoint, raw, seen.stratum, history_of(seen.state, self.schema))

    def evidence(self, components: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """The fused evidence [n] of p-values by component (`fuse`), nats, higher is odder, not yet calibrated."""
        names = list(self.checkpoint.weights)
        return fuse(
            np.stack([components[k] for k in names], axis=1),
            np.array([self.checkpoint.weights[k] for k in names]),
        )

    def score_context(self, seen: EventContext, keep: bool = False) -> RawScores:
        """Uncalibrated components of events with the state that `seen` holds; reads no table and changes none."""
        prepared = prepare(seen.features, seen.state, self.checkpoint.preparation, self.schema)
        return self.judge(prepared, seen, self.latents(prepared), keep)

    def _advance(self, block: Encoded) -> tuple[RawScores, EventContext]:
        features, c = block.features, block.connections
        keys = make_keys(c, features, self._salt)
        state, slots = self._tables.counts(c, features, keys, self.schema.spans)
        prepared = prepare(features, state, self.checkpoint.preparation, self.schema)

        def remember(write: Floats32, value: Floats32, recent: Floats32) -> Remembered:
            return self._tables.remember(
                c.ts, c.stage == Stage.EARLY, slots, write, value, self.rate(), recent
            )

        return self.components(prepared, state, remember, None if self.own is None else self.own(c))

    def _advance_on(
        self, resident: Resident, blocks: Iterable[Encoded]
    ) -> Iterator[tuple[RawScores, EventContext]]:
        """The same on a GPU, which computes a block while the processor judges the one before and counts the next."""
        waiting: Callable[[], tuple[RawScores, EventContext]] | None = None
        for block in blocks:
            begun = self._begin(resident, block)
            if waiting is not None:
                yield waiting()
            waiting = begun
        if waiting is not None:
            yield waiting()

    def _begin(self, resident: Resident, block: Encoded) -> Callable[[], tuple[RawScores, EventContext]]:
        features, c = block.features, block.connections
        keys = make_keys(c, features, self._salt)
        state, slots = self._tables.counts(c, features, keys, self.schema.spans)
        prepared = prepare(features, state, self.checkpoint.preparation, self.schema)
        found = resident.submit(self._tables, prepared, c.ts, c.stage == Stage.EARLY, slots)
        own = None if self.own is None else self.own(c)

        def judged() -> tuple[RawScores, EventContext]:
            told = found()
            seen = EventContext(
                features, state, told.memory, told.ring, told.ring_used, stratum_of(features, self.schema)
            )
            every, beside = self.beside_network(prepared, seen, own)
            self._each(beside, self._wanted(len(prepared), own))
            raw = {k: v if own is None else np.where(own, v, 0.0) for k, v in told.raw.items()}
            for m, name in enumerate(PREDICTED):
                there = prepared.present[:, m] if own is None else prepared.present[:, m] & own
                raw[name] = np.where(there, raw[name], np.nan)
            gate = told.gate if own is None else np.where(own[:, None], told.gate, np.float32(1.0))
            return RawScores({k: np.round(v, 5) for k, v in (raw | every).items()}, gate, None), seen

        return judged

    def components(
        self,
        prepared: Prepared,
        state: Floats32,
        remember: Callable[[Floats32, Floats32, Floats32], Remembered],
        own: NDArray[np.bool_] | None = None,
    ) -> tuple[RawScores, EventContext]:
        """Uncalibrated components of events with the counts `state` before them: at run time and at calibration alike.

        `remember` is given what the events write (as `memory_update` has it) and says what was remembered before each.
        Where there is `own` [n], others are not scored.
        """
        latents = self.latents(prepared)
        memory, ring, used = remember(*self.memory_update(latents, prepared))
        seen = EventContext(
            prepared.features, state, memory, ring, used, stratum_of(prepared.features, self.schema)
        )
        return self.judge(prepared, seen, latents, own=own), seen

    def beside(self, job: Callable[[], T]) -> Callable[[], T]:
        """Has a job done by one of the threads meanwhile; without cores to spare, when its result is asked for."""
        pool = self._free()
        return job if pool is None else pool.submit(job).result

    def _free(self) -> ThreadPoolExecutor | None:
        return self._pool if self._spare is None or self._spare() else None

    def _each(self, job: Callable[[_Job], None], jobs: Iterable[_Job]) -> None:
        """Every job once, on all threads. Jobs touch rows of their own, so their order changes nothing."""

        pool = self._free()
        for _ in map(job, jobs) if pool is None else pool.map(job, jobs):
            pass

    def _wanted(self, n: int, own: NDArray[np.bool_] | None) -> Iterator[NDArray[np.int64]]:
        """The blocks of the rows that are to be scored."""
        rows = np.arange(n) if own is None else np.flatnonzero(own)
        for block in self.engine.blocks(len(rows)):
            yield rows[block]

    def rate(self) -> NDArray[np.float32]:
        """The decay rate of the learned memory per second, [KINDS, MEMORY], positive."""
        return self.engine.rate()

    def latents(self, prepared: Prepared) -> NDArray[np.float32]:
        """The latents of each modality [n, 3, latents, width], zero where one is absent; in blocks of fixed size.

        What looks the same in a modality is encoded once.
        """
        n, shape = len(prepared), self.checkpoint.shape
        out = np.zeros((n, MODALITIES, shape.latents, shape.width), np.float32)

        where = [np.flatnonzero(prepared.present[:, m]) for m in range(MODALITIES)]
        first = [_first_identical(prepared, m, rows) for m, rows in enumerate(where)]
        alone = [w[i == w] for w, i in zip(where, first, strict=True)]
        self._each(_run, self.engine.encoding(prepared, alone, out))
        for m, (rows, like) in enumerate(zip(where, first, strict=True)):
            repeated = rows != like
            out[rows[repeated], m] = out[like[repeated], m]
        return out

    def memory_update(
        self, latents: NDArray[np.float32], prepared: Prepared
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """The memory update of events: gate (0..1) and value [n, KINDS, MEMORY], and ring entries [n, RING_WIDTH]."""
        n = len(prepared)
        write = np.empty((n, KINDS, MEMORY), np.float32)
        value, recent = np.empty_like(write), np.empty((n, RING_WIDTH), np.float32)

        def update_block(rows: slice) -> None:
            self.engine.update(latents, prepared.present, rows, (write, value, recent))

        self._each(update_block, self.engine.blocks(n))
        return write, value, recent

    def judge(
        self,
        prepared: Prepared,
        seen: EventContext,
        latents: NDArray[np.float32],
        keep: bool = False,
        own: NDArray[np.bool_] | None = None,
    ) -> RawScores:
        """Uncalibrated components of events from the state before them; with `keep` log probabilities too.

        Only of its `own` [n] rows where it has some: of others they mean nothing.
        """
        n, shape = len(prepared), self.checkpoint.shape
        every, beside = self.beside_network(prepared, seen, own)
        # Of others a number that is none.
        ahead = np.full(n, np.nan) if own is None else np.where(own, np.nan, 0.0)
        raw = {name: np.full(n, np.nan) for name in PREDICTED} | {"next": ahead} | every
        out = Outcome(
            state=np.empty((n, shape.width), np.float32),
            gate=np.ones((n, 4), np.float32),
            residual=np.zeros((n, MODALITIES), np.float32),
            ahead=ahead,
            surprise=tuple(raw[name] for name in PREDICTED),
            chance=tuple(np.zeros((n, t, CLASSES), np.float32) for t in shape.targets) if keep else None,
        )
        before = Before(seen.memory, seen.ring, seen.ring_used)

        def state_block(rows: NDArray[np.int64]) -> None:
            self.engine.state(prepared, before, rows, out)
            beside(rows)

        self._each(state_block, self._wanted(n, own))
        wanted = np.arange(n) if own is None else np.flatnonzero(own)
        self._each(_run, self.engine.predicting(prepared, latents, wanted, out))
        raw["residual"] = out.residual.sum(axis=1) / np.maximum(prepared.present.sum(axis=1), 1)
        return RawScores({k: np.round(v, 5) for k, v in raw.items()}, out.gate, out.chance)

    def beside_network(
        self, prepared: Prepared, seen: EventContext, own: NDArray[np.bool_] | None
    ) -> tuple[dict[str, NDArray[np.float64]], Callable[[NDArray[np.int64]], None]]:
        """The uncalibrated components [n] that no network computes, and what puts those of some rows in them."""
        n, trees, isolation = len(prepared), self.checkpoint.trees, self.checkpoint.isolation
        plain = density_input(prepared, self.schema)
        names = ["density", *(["attack"] if trees else []), *(["isolation"] if isolation else [])]
        # Of rows that are not its own a number that is none.
        raw = {k: np.full(n, np.nan) if own is None else np.where(own, np.nan, 0.0) for k in names}
        wide = isolation_input(prepared, self.schema) if isolation else None
        table = tabulate(seen.features, seen.state) if trees else None

        def put(rows: NDArray[np.int64]) -> None:
            raw["density"][rows] = self.checkpoint.mixture.score(plain[rows])
            if trees is not None and table is not None:
                raw["attack"][rows] = trees.score(table[rows])
            if isolation is not None and wide is not None:
                raw["isolation"][rows] = isolation.score(wide[rows])

        return raw | {"novelty": novelty(seen.state, self.schema)}, put

    def _scores(self, raw: Mapping[str, NDArray[np.float64]], gate: NDArray[np.float32]) -> Scores:
        """Of the events last seen."""
        n = len(gate)
        if n == 0:
            none = np.zeros(0)
            return Scores(none, none, dict.fromkeys(self.checkpoint.strata, none), np.zeros((0, 4)), [])
        assert self.seen is not None
        components = self.p_values(raw, self.seen)
        history = history_of(self.seen.state, self.schema)
        p = overall_p_value(self.checkpoint, self.evidence(components), components, history)
        score = np.round(score_of(p), 6)
        p = significant(p)
        reliance = np.round(self.reliance(gate, components), 6)
        return Scores(
            score=score,
            p_value=p,
            components={k: np.round(v, 12) for k, v in components.items()},
            reliance=reliance / reliance.sum(axis=1, keepdims=True),
            attack=self._attack(raw, p),
            seen=self.seen,
        )

    def reliance(
        self, gate: NDArray[np.float32], components: Mapping[str, NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """How much each modality counts in the verdict of each event [n, 4], by the gate."""
        return gate.astype(np.float64)

    def _attack(self, raw: Mapping[str, NDArray[np.float64]], p: NDArray[np.float64]) -> list[str]:
        """The kind of known attack, named only where the head is sure and the event is odd at all."""
        names, classifier = [""] * len(p), self.checkpoint.attack_classifier
        if classifier is None or "attack" not in raw or self.seen is None:
            return names
        rows = np.flatnonzero((raw["attack"] > 0.0) & (p < _NAMED_P_VALUE))
        if len(rows):
            odds = classifier.scores(tabulate(take_features(self.seen.features, rows), self.seen.state[rows]))
            chance = np.exp(odds - odds.max(axis=1, keepdims=True))
            chance /= chance.sum(axis=1, keepdims=True)
            for row, best, sure in zip(rows, chance.argmax(axis=1), chance.max(axis=1), strict=True):
                if sure >= _NAMED_PROBABILITY:
                    names[row] = self.checkpoint.classes[best]
        return names


def _first_identical(prepared: Prepared, modality: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of the rows the first of them that looks the same in this modality."""
    f = prepared.features
    if modality == PACKET:
        return first_identical_row(f.packets, f.packet_start, rows)
    if modality == LOG:
        return first_identical_row(f.log_tokens, f.log_start, rows)
    fields = np.concatenate([prepared.codes.astype(np.int32), prepared.values.view(np.int32)], axis=1)
    return first_identical_row(fields, np.arange(len(prepared) + 1), rows)


def _run(job: Callable[[], None]) -> None:
    job()


def _blocks(windows: Encoded, size: int) -> Iterator[Encoded]:
    for begin in range(0, len(windows), size):
        rows = np.arange(begin, min(begin + size, len(windows)))
        yield windows if len(rows) == len(windows) else take_encoded(windows, rows)


def stratum_of(features: Features, schema: Schema) -> NDArray[np.int64]:
    """The calibration stratum [n] of each event: its protocol by its service."""
    names = [c.name for c in schema.categorical]
    proto = features.categorical[:, names.index("proto")].astype(np.int64)
    service = features.categorical[:, names.index("service")].astype(np.int64)
    return proto * 64 + service


def history_of(state: NDArray[np.float32], schema: Schema) -> NDArray[np.int64]:
    """How new the originator is [n], by its number of earlier connections: 0 (50 or more) to 3 (fewer than 5)."""
    seen = np.expm1(np.nan_to_num(state[:, schema.state.index("orig_seen")], nan=np.inf))
    return len(_HISTORY_CONNECTIONS) - np.searchsorted(_HISTORY_CONNECTIONS, seen + 0.5, side="right").astype(
        np.int64
    )


def component_p_values(
    checkpoint: Checkpoint,
    raw: Mapping[str, NDArray[np.float64]],
    stratum: NDArray[np.int64],
    history: NDArray[np.int64],
) -> dict[str, NDArray[np.float64]]:
    """One-sided p-values [n] by component among traffic of the same stratum; isolation's among hosts known as well.

    Isolation is not stratified by traffic: within its own stratum a scan is not isolated. It is by how known the host
    is, since a new host would be isolated for that alone.
    """
    return {
        name: s.p_value(raw[name], history if name == "isolation" else stratum)
        for name, s in checkpoint.strata.items()
    }


def overall_p_value(
    checkpoint: Checkpoint,
    evidence: NDArray[np.float64],
    components: Mapping[str, NDArray[np.float64]],
    history: NDArray[np.int64],
) -> NDArray[np.float64]:
    """The p-value [n], 0 < p <= 1, of the fused evidence, joined with isolation's where there is one (Bonferroni)."""
    p = checkpoint.fused.p_value(evidence)
    if "isolation" in components:
        p = weighted_bonferroni(p, components["isolation"])
    return (
        p
        if checkpoint.overall_calibration is None
        else checkpoint.overall_calibration.p_value(-np.log(p), history)
    )


def _join(seen: list[EventContext]) -> EventContext:
    return EventContext(
        features=concat_features([s.features for s in seen]),
        state=np.concatenate([s.state for s in seen]),
        memory=np.concatenate([s.memory for s in seen]),
        ring=np.concatenate([s.ring for s in seen]),
        ring_used=np.concatenate([s.ring_used for s in seen]),
        stratum=np.concatenate([s.stratum for s in seen]),
    )


def detector_of(
    checkpoint: Checkpoint,
    schema: Schema,
    salt: int = 0,
    hosts: int = 1 << 17,
    device: str = "cpu",
    threads: int = 1,
    spare: Callable[[], bool] | None = None,
    network: type[Network] | type[FieldNetwork] | None = None,
) -> CrossModal:
    """The detector that a checkpoint names; arguments as of `CrossModal`."""
    if checkpoint.detector == DEPENDENCY:
        from cmdana_plugin.detector.networks.dependency import DependencyNetwork

        return DependencyNetwork(checkpoint, schema, salt, hosts, "cpu", threads, spare)
    if checkpoint.detector == CROSS_MODAL:
        own = None if network is None or not _is_cross_modal(network) else network
        return CrossModal(checkpoint, schema, salt, hosts, device, threads, spare, own)
    from cmdana_plugin.detector.networks.elements import FieldNetwork
    from cmdana_plugin.detector.networks.of_fields import OfFields

    fields = network if network is not None and issubclass(network, FieldNetwork) else None
    return OfFields(checkpoint, schema, salt, hosts, device, threads, spare, fields)


def _is_cross_modal(network: type[Network] | type[FieldNetwork]) -> TypeGuard[type[Network]]:
    from cmdana_plugin.detector.network import Network

    return issubclass(network, Network)


def load_detector(
    path: Path | None = None,
    device: str = "cpu",
    threads: int = 2,
    salt: int | None = None,
    hosts: int = 1 << 17,
    spare: Callable[[], bool] | None = None,
    own: Own | None = None,
) -> CrossModal:
    """The detector of a checkpoint, or the one that ships. Raises `CmdanaError` or `SchemaError`, one clear line.

    `salt` defaults to one derived from the checkpoint; a site sets its own secret. The rest as in `CrossModal`. Nothing
    else in the process changes: a program of our own has its threads share the cores with `share_cores`.
    """
    schema = load_schema()
    loaded = shipped_checkpoint() if path is None else checkpoints.load(path, schema)
    if salt is None:
        digest = hashlib.sha256(loaded.about.get("data_digest", "").encode()).digest()
        salt = int.from_bytes(digest[:8], "little")
    detector = detector_of(loaded, schema, salt, hosts, device, threads, spare)
    detector.own = own
    return detector


def shipped_checkpoint() -> Checkpoint:
    """The checkpoint that comes with the package, if it is the one that was packed. Raises `CmdanaError` if not."""
    with resources.as_file(resources.files("cmdana_plugin") / "models" / DEFAULT_MODEL) as path:
        return checkpoints.load(path, load_schema(), checkpoints.shipped_model().sha256)


__all__ = [
    "COMPONENTS",
    "CrossModal",
    "EventContext",
    "RawScores",
    "load_detector",
    "shipped_checkpoint",
    "stratum_of",
]
