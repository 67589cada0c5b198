"""Learning normal, and known attacks where there are labels: recordings in, a checkpoint out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cmdana_plugin.detector import (
    COMPONENTS,
    CONNECTION,
    ENOUGH_HISTORY,
    KINDS,
    LOG,
    MEMORY,
    MODALITIES,
    PACKET,
    PACKET_LENGTHS,
    RING,
    RING_WIDTH,
    Checkpoint,
    CrossModal,
    EventContext,
    Floats32,
    Keys,
    Network,
    Past,
    Prepared,
    RawScores,
    Remembered,
    Shape,
    Strata,
    Tables,
    Trees,
    component_p_values,
    density_input,
    encoded_together,
    fit_classes,
    fit_isolation,
    fit_mixture,
    fit_strata,
    fit_tail,
    fit_trees,
    fuse,
    history_of,
    isolation_input,
    latent_residual,
    learn_preparation,
    make_keys,
    prepare,
    remember_all,
    segmented_scan,
    tabulate,
    tokens_of,
    whole_p_value,
)
from cmdana_plugin.training.resume import Position, Progressed
from feature_extractors import CmdanaError, Stage, Windows, take
from feature_extractors.compiled import code_digest, entry
from feature_extractors.features import (
    FIRST_SIZES,
    Features,
    Schema,
    concat_features,
    encode,
    load_schema,
    take_features,
)

Progress = Callable[[str, float], None]

PRESUMED: Final = (
    -2
)  # label of windows that are probably benign: they teach normal, never what is not an attack
_CHUNK: Final = 512  # events of one step
_EVENTS: Final = 300_000  # events that the network learns from, repeats included, unless told how many passes
_LARGE: Final = 150_000  # events of a large recording that the network learns from: a day in minutes
_RUN: Final = 16  # steps that follow each other where not all of a large recording is learned from
_MOST_EPOCHS: Final = 40
_DROPOUT: Final = 0.15  # share of events that lose a modality in training
_LEAST_ROWS: Final = 64
_HELD: Final = 0.2  # share of each recording, its last, that p-values are taken from if nothing else is given
_STARTS: Final = 4  # pieces of benign traffic that are also judged from an empty state, as after a restart
_START: Final = 4096  # connections of such a piece, at most
_APART: Final = 250  # connections of one from which on hosts little known are told apart where attacks weigh
_LEAST_KIND: Final = 20  # connections of a kind of attack that may be named


@dataclass(frozen=True, slots=True)
class Recording:
    """One network over one span: windows in stream order, and what is known of them.

    `label` is 1 malicious, 0 benign, -1 unknown for each window; None: all presumed benign. Unknown windows move
    the state and teach nothing.
    """

    name: str
    windows: Windows
    label: NDArray[np.int8] | None = None
    family: Sequence[str] = ()


@dataclass(frozen=True)
class Variant:
    """What ships, at the places where an ablation (`ablations`, docs/results.md) does something else."""

    network: ClassVar[type[Network]] = Network

    def material(self, corpus: Corpus, schema: Schema, seed: int) -> Corpus:
        """A corpus as it is learned from, calibrated on or judged."""
        return corpus

    def prepared(self, prepared: Prepared) -> Prepared:
        """What of it the network is shown."""
        return prepared

    def lesson(self, prepared: Prepared, schema: Schema, rng: np.random.Generator) -> Prepared:
        """What one pass learns from."""
        return prepared

    def past(self, past: Past, rng: np.random.Generator) -> Past:
        """What one step of training takes for the past of its events."""
        return past

    def remembered(self, past: Remembered, seed: int) -> Remembered:
        """What scoring takes for it."""
        return past

    def scored(
        self, detector: CrossModal, prepared: Prepared, outcome: RawScores, seen: EventContext
    ) -> dict[str, NDArray[np.float64]]:
        """The uncalibrated components of scored events."""
        return outcome.raw


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. The defaults are what ships."""

    seed: int = 0
    epochs: int | None = (
        None  # passes; None: as many as a small recording needs and a large one can do without
    )
    rate: float = 2e-3
    width: int = 48
    dropout: float = _DROPOUT
    trees: bool = True
    components: tuple[str, ...] = COMPONENTS
    attack_weight: float = (
        3.0  # of the supervised head in the fusion, the anomaly components together weigh 1
    )
    variant: Variant = Variant()


@dataclass(slots=True)
class Corpus:
    """All recordings as features, in order, each with its own state."""

    features: Features
    state: NDArray[np.float32]
    ids: NDArray[np.int64]  # [n, KINDS] entity of each event, no two recordings share one
    ts: NDArray[np.float64]
    early: NDArray[np.bool_]  # connections that are still to end: they move no state
    label: NDArray[np.int8]
    family: list[str]
    bounds: NDArray[np.int64]  # [recordings + 1] first event of each
    digest: str
    names: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.features)


def gather(recordings: Iterable[Recording], schema: Schema, seed: int = 0) -> Corpus:
    """Encode recordings one by one; their state never mixes. Raises `CmdanaError` where there is nothing."""
    features, states, ids, ts, early, label, family, bounds, names = [], [], [], [], [], [], [], [0], []
    used = np.zeros(KINDS, np.int64)
    digest = hashlib.sha256()
    for r in recordings:
        n = len(r.windows)
        if n == 0:
            continue
        f = encode(r.windows, schema)
        keys = make_keys(r.windows.connections, f, seed)
        size = max(1024, 2 * n)
        x, _ = Tables(size, size, 4 * size).counts(r.windows.connections, f, keys, schema.spans)
        own = _entities(keys)
        ids.append(own + used)
        used += own.max(axis=0) + 1
        features.append(f)
        states.append(x)
        ts.append(r.windows.connections.ts)
        early.append(r.windows.connections.stage == Stage.EARLY)
        label.append(np.zeros(n, np.int8) if r.label is None else r.label)
        family += list(r.family) if r.family else [""] * n
        bounds.append(bounds[-1] + n)
        names.append(r.name)
        for part in (f.numeric, f.categorical, f.packets, f.log_tokens):
            digest.update(np.ascontiguousarray(part).tobytes())
    if not features:
        raise CmdanaError(
            "training: found no connection in what was given, expected captures or logs with traffic"
        )
    return Corpus(
        concat_features(features), np.concatenate(states), np.concatenate(ids), np.concatenate(ts),
        np.concatenate(early), np.concatenate(label), family, np.array(bounds), digest.hexdigest(), names,
    )  # fmt: skip


def train(
    recordings: Iterable[Recording],
    calibration: Iterable[Recording] | None = None,
    *,
    recipe: Recipe | None = None,
    init: Checkpoint | None = None,
    name: str = "cmdana",
    progress: Progress = lambda _what, _share: None,
    inspect: Callable[[Corpus], None] = lambda _corpus: None,
    keep: Path | None = None,
) -> Checkpoint:
    """Learn from `recordings`; calibrate on `calibration`, or on the last fifth by time of each recording.

    With labels, malicious windows teach the boosted trees only, never what is normal. `init` starts from an
    earlier model and keeps its trees where there are no labels: to name kinds of attack, not to be weighed. `inspect`
    is shown the corpus before anything is learned from it. `keep` names a file in which an interrupted training is
    kept and from which it goes on. The same recordings, recipe and machine give the same checkpoint, unless the
    training was interrupted.
    """
    recipe = recipe or Recipe()
    schema = load_schema()
    torch.manual_seed(recipe.seed)
    cold_starts: list[Recording] = []
    corpus = gather(
        with_cold_starts(recordings, cold_starts, 0.0 if calibration is not None else _HELD), schema
    )
    inspect(corpus)
    learn = np.ones(len(corpus), np.bool_)
    held = None if calibration is None else gather(with_cold_starts(calibration, cold_starts, 1.0), schema)
    if held is None:
        for a, b in zip(corpus.bounds[:-1], corpus.bounds[1:], strict=True):
            learn[b - int((b - a) * _HELD) : b] = False
    benign = learn & ((corpus.label == 0) | (corpus.label == PRESUMED))
    if benign.sum() < _LEAST_ROWS:
        raise CmdanaError(
            f"training: found {int(benign.sum())} benign connections, expected at least {_LEAST_ROWS}"
        )
    corpus = recipe.variant.material(corpus, schema, recipe.seed)
    how = (
        learn_preparation(_rows(corpus.features, benign), corpus.state[benign])
        if init is None
        else init.preparation
    )
    prepared = recipe.variant.prepared(prepare(corpus.features, corpus.state, how, schema))
    network = _network(prepared, schema, recipe, init)
    threads = torch.get_num_threads()
    # One thread: small products do not gain from more, and sums shared out otherwise give other weights.
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # memory that has faded away must not slow arithmetic down
    try:
        kept = Progressed(keep, _key(corpus, recipe, init, schema)) if keep else None
        _fit(network, prepared, corpus, benign, recipe, progress, kept)
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)
    mixture = fit_mixture(density_input(prepared, schema)[benign], 12, recipe.seed)
    labelled = recipe.trees and bool((corpus.label[learn] == 1).any())
    trees, namer, classes = (init.trees, init.namer, init.classes) if init is not None else (None, None, ())
    if labelled:
        progress("trees", 0.0)
        trees = _fit_trees(corpus, learn, recipe)
        namer, classes = _fit_classes(corpus, learn, recipe)
    draft = Checkpoint(
        shape=network.shape,
        network={k: v.detach().cpu().numpy() for k, v in network.state_dict().items()},
        preparation=how,
        mixture=mixture,
        trees=trees,
        namer=namer,
        classes=classes,
        isolation=None if labelled else fit_isolation(isolation_input(prepared, schema)[benign], recipe.seed),
        strata={},
        weights={},
        fused=fit_tail(np.zeros(0)),
        whole=None,
        about={
            "schema_digest": schema.digest,
            "data_digest": corpus.digest,
            "seed": str(recipe.seed),
            "code_digest": code_digest(__name__),
            "recipe": repr(recipe),
            "name": name,
            "connections": str(len(corpus)),
            "recordings": str(len(corpus.bounds) - 1),
        },
    )
    if init is not None and not (corpus.label[learn] == 1).any():
        # Trees that were shown neither this network's normal nor an attack on it drown what was learned of it
        # (docs/results.md, a network of one's own). They go on naming kinds of attack.
        recipe = replace(recipe, components=tuple(k for k in recipe.components if k != "attack"))
    if held is not None:
        held = recipe.variant.material(held, schema, recipe.seed)
        return _calibrated(draft, held, held.label == 0, cold_starts, recipe, schema)
    held_out = ~learn & (corpus.label == 0)
    if held_out.sum() < _LEAST_ROWS:
        held_out = corpus.label == 0
    return _calibrated(draft, corpus, held_out, cold_starts, recipe, schema)


def with_cold_starts(
    recordings: Iterable[Recording], cold_starts: list[Recording], share: float
) -> Iterator[Recording]:
    """The same recordings; from the last `share` of each that has benign windows enough, pieces into `cold_starts`.

    A detector that begins knows no host. Pieces that are recordings of their own show what is normal then.
    """
    for r in recordings:
        n = len(r.windows)
        label = np.zeros(n, np.int8) if r.label is None else r.label
        benign = np.flatnonzero(label == 0)
        benign = benign[benign >= n - int(n * share)]
        if len(benign) >= _STARTS * _LEAST_ROWS:
            for piece in np.array_split(np.arange(benign[0], benign[-1] + 1), _STARTS):
                rows = piece[:_START]
                known = np.where(label[rows] == 0, np.int8(0), np.int8(-1))
                cold_starts.append(Recording(r.name, take(r.windows, rows), known))
        yield r


@dataclass(slots=True)
class Sample:
    """Benign events that p-values are taken from."""

    raw: dict[str, NDArray[np.float64]]  # component -> [n]
    stratum: NDArray[np.int64]
    history: NDArray[np.int64]  # of `history_of`; all 0 where it is not to be told apart

    def and_(self, more: Sample) -> Sample:
        return Sample(
            {k: np.concatenate([v, more.raw[k]]) for k, v in self.raw.items()},
            np.concatenate([self.stratum, more.stratum]),
            np.concatenate([self.history, more.history]),
        )


def _sample(
    draft: Checkpoint, corpus: Corpus, benign: NDArray[np.bool_], recipe: Recipe, schema: Schema
) -> Sample:
    raw, stratum = components(draft, corpus, recipe, schema)
    return Sample(
        {k: v[benign] for k, v in raw.items()}, stratum[benign], history_of(corpus.state, schema)[benign]
    )


def _calibrated(
    draft: Checkpoint,
    corpus: Corpus,
    benign: NDArray[np.bool_],
    cold_starts: Sequence[Recording],
    recipe: Recipe,
    schema: Schema,
) -> Checkpoint:
    """Calibrated on the benign rows of a corpus with the past they had, and on streams that begin with benign rows."""
    sample = _sample(draft, corpus, benign, recipe, schema)
    if cold_starts:
        again = recipe.variant.material(gather(cold_starts, schema), schema, recipe.seed)
        sample = sample.and_(_sample(draft, again, again.label == 0, recipe, schema))
    if (
        "attack" in recipe.components
        and draft.trees is not None
        and all(len(r.windows) < _APART for r in cold_starts)
    ):
        # Trees on few connections of many networks: told apart further they overfit.
        sample.history[:] = 0
    return calibrate(draft, sample, recipe)


def calibrate(checkpoint: Checkpoint, benign: Sample, recipe: Recipe | None = None) -> Checkpoint:
    """The same detector, its p-values taken from these benign events."""
    recipe = recipe or Recipe()
    strata: dict[str, Strata] = {}
    for k in (k for k in benign.raw if k in recipe.components):
        strata[k] = (
            fit_strata(benign.raw[k], benign.history, enough=ENOUGH_HISTORY)
            if k == "isolation"
            else fit_strata(benign.raw[k], benign.stratum)
        )
    anomaly = [k for k in strata if k not in ("attack", "isolation")]
    weights = {k: 1.0 / len(anomaly) for k in anomaly}
    if "attack" in strata:
        weights["attack"] = recipe.attack_weight
    out = replace(checkpoint, strata=strata, weights=weights, whole=None)
    p = component_p_values(out, benign.raw, benign.stratum, benign.history)
    evidence = fuse(np.stack([p[k] for k in weights], axis=1), np.array(list(weights.values())))
    out = replace(out, fused=fit_tail(evidence))
    if not benign.history.any():
        return out
    whole = -np.log(whole_p_value(out, evidence, p, benign.history))
    return replace(out, whole=fit_strata(whole, benign.history, enough=ENOUGH_HISTORY))


def recalibrate(checkpoint: Checkpoint, recordings: Iterable[Recording]) -> Checkpoint:
    """Calibrate an existing detector on later benign traffic of a site."""
    schema = load_schema()
    cold_starts: list[Recording] = []
    corpus = gather(with_cold_starts(recordings, cold_starts, 1.0), schema)
    recipe = Recipe(components=tuple(checkpoint.strata))
    return _calibrated(checkpoint, corpus, corpus.label == 0, cold_starts, recipe, schema)


def components(
    checkpoint: Checkpoint, corpus: Corpus, recipe: Recipe, schema: Schema
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.int64]]:
    """Uncalibrated components of every event of a corpus, each recording from an empty state, and their strata.

    The detector's own, as at run time, but that no table is ever full.
    """
    variant = recipe.variant
    detector = CrossModal(
        checkpoint, schema, hosts=64, threads=torch.get_num_threads(), network=variant.network
    )
    prepared = variant.prepared(prepare(corpus.features, corpus.state, checkpoint.preparation, schema))

    def remember(write: Floats32, value: Floats32, recent: Floats32) -> Remembered:
        past = remember_all(corpus.ts, corpus.early, corpus.ids, write, value, detector.rate(), recent)
        return variant.remembered(past, recipe.seed)

    outcome, seen = detector.components(prepared, corpus.state, remember)
    return variant.scored(detector, prepared, outcome, seen), seen.stratum


# The network


def _network(prepared: Prepared, schema: Schema, recipe: Recipe, init: Checkpoint | None) -> Network:
    if init is not None:
        network = recipe.variant.network(init.shape)
        network.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in init.network.items()})
        return network
    f = prepared.features
    return recipe.variant.network(
        Shape(
            numeric=f.numeric.shape[1],
            categorical=tuple(c.size for c in schema.categorical),
            state=prepared.state.shape[1],
            packet_width=f.packets.shape[1],
            log_width=f.log_tokens.shape[1],
            log_buckets=schema.log_buckets,
            targets=(
                prepared.targets[0].shape[1],
                prepared.targets[1].shape[1],
                prepared.targets[2].shape[1],
            ),
            width=recipe.width,
        )
    )


def _fit(
    network: Network,
    prepared: Prepared,
    corpus: Corpus,
    benign: NDArray[np.bool_],
    recipe: Recipe,
    progress: Progress,
    kept: Progressed | None,
) -> None:
    rng = np.random.default_rng(recipe.seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=1e-2)
    previous = previous_of_entity(corpus.ids[:, 0])
    most = _LARGE // _CHUNK if recipe.epochs is None else None
    plan = _spread(_chunks(corpus.bounds, benign, rng), benign, most, rng)
    epochs = recipe.epochs or min(max(_EVENTS // int(benign.sum()), 1), _MOST_EPOCHS)
    total = epochs * len(plan)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.rate, total_steps=max(total, 2), pct_start=0.15
    )
    position = (kept.load(network, optimiser, schedule) if kept else None) or Position()
    what = "network, where it was interrupted" if position.step else "network"
    network.train()
    whole = prepared
    while position.epoch < epochs:
        if position.at_epoch is not None:
            rng.bit_generator.state = position.at_epoch
        position.at_epoch = rng.bit_generator.state
        prepared = recipe.variant.lesson(whole, load_schema(), rng)
        chunks = _spread(_chunks(corpus.bounds, benign, rng), benign, most, rng)
        if position.chunk:
            rng.bit_generator.state = position.at_chunk
        carry = _Carry(corpus.ids)
        ring_store = np.zeros((len(corpus), RING_WIDTH), np.float32)
        for rows in chunks[position.chunk :]:
            loss = _loss(network, prepared, corpus, rows, benign, previous, carry, ring_store, recipe, rng)
            if loss is not None:
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimiser.step()
            position.chunk += 1
            position.step += 1
            if position.step < total:
                schedule.step()
            if kept:
                kept.save(network, optimiser, schedule, rng, position)
            progress(what, position.step / total)
        position.epoch, position.chunk, position.at_epoch = position.epoch + 1, 0, None
    network.eval()


def _key(corpus: Corpus, recipe: Recipe, init: Checkpoint | None, schema: Schema) -> str:
    """Names all that a training starts from."""
    start = "" if init is None else init.about.get("data_digest", "")
    digest = hashlib.sha256(f"{corpus.digest} {recipe!r} {start} {schema.digest}".encode())
    digest.update(corpus.label.tobytes())
    return digest.hexdigest()


def _chunks(
    bounds: NDArray[np.int64], useful: NDArray[np.bool_], rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Recordings in random order, each whole and in time order unless longer than a chunk; others left out."""
    out, held, size = [], [], 0
    for r in rng.permutation(len(bounds) - 1):
        a, b = bounds[r], bounds[r + 1]
        if not useful[a:b].any():
            continue
        for begin in range(a, b, _CHUNK):
            rows = np.arange(begin, min(begin + _CHUNK, b))
            held.append(rows)
            size += len(rows)
            if size >= _CHUNK:
                out.append(np.concatenate(held))
                held, size = [], 0
    if held:
        out.append(np.concatenate(held))
    return out


def _spread(
    chunks: list[NDArray[np.int64]], useful: NDArray[np.bool_], most: int | None, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """At most so many of the chunks, in runs that follow each other, drawn from all of the time there is."""
    if most is None or len(chunks) <= most:
        return chunks
    chunks = [rows for rows in chunks if useful[rows].any()]
    runs = len(chunks) // _RUN
    drawn = np.sort(rng.choice(runs, min(most // _RUN, runs), replace=False))
    return [rows for run in drawn.tolist() for rows in chunks[run * _RUN : (run + 1) * _RUN]]


class _Carry:
    """Learned memory at the end of the last chunk, by entity; detached."""

    def __init__(self, ids: NDArray[np.int64]) -> None:
        sizes = ids.max(axis=0) + 1
        self.memory = [torch.zeros(int(n), MEMORY) for n in sizes]
        self.at = [np.full(int(n), -1.0) for n in sizes]


def _read_memory(
    ids: NDArray[np.int64],
    ts: NDArray[np.float64],
    write: Tensor,
    value: Tensor,
    rate: Tensor,
    carry: tuple[Tensor, NDArray[np.float64]] | None,
) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
    """Memory before each event, decayed to its time [n, MEMORY]; after each; and the order by entity.

    The exact scan over all entities at once: events sorted by entity, then stream order.
    """
    order = np.argsort(ids, kind="stable")
    entity, when = ids[order], ts[order]
    first = np.ones(len(ids), np.bool_)
    first[1:] = entity[1:] != entity[:-1]
    before = np.concatenate([[0.0], _latest(when, first)[:-1]])
    if carry is None:
        start, begun = torch.zeros(len(ids), write.shape[1]), np.zeros(len(ids), np.bool_)
        before[first] = when[first]
    else:
        memory, at = carry
        begun = first & (at[entity] >= 0)
        before[first] = np.where(at[entity[first]] >= 0, at[entity[first]], when[first])
        start = memory[torch.from_numpy(entity)] * torch.from_numpy(begun)[:, None]
    dt = torch.from_numpy(np.maximum(when - before, 0.0).astype(np.float32))
    decay = torch.exp(-rate[None] * dt[:, None])
    index = torch.from_numpy(order)
    w, v = write[index], value[index]
    head = torch.from_numpy(first)[:, None]
    carried = torch.where(head, decay * start, torch.zeros_like(decay))
    keep = torch.where(head, torch.zeros_like(decay), decay * (1.0 - w))
    after = segmented_scan(keep, w * v + carried * (1.0 - w))
    earlier = torch.cat([torch.zeros_like(after[:1]), after[:-1]])
    read = torch.where(head, carried, decay * earlier)
    back = torch.empty_like(index)
    back[index] = torch.arange(len(index))
    return read[back], after, order


@entry
def _latest(when: NDArray[np.float64], first: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The greatest time so far within each segment: captures may jump back."""
    out = when.copy()
    for i in range(1, len(when)):
        if not first[i] and out[i - 1] > out[i]:
            out[i] = out[i - 1]
    return out


@entry
def previous_of_entity(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of the last `RING` events of the same entity, oldest first, -1 none: [n, RING]."""
    last = np.full((ids.max() + 1, RING), -1, np.int64)
    out = np.full((len(ids), RING), -1, np.int64)
    for i in range(len(ids)):
        row = last[ids[i]]
        have = 0
        for k in range(RING):
            if row[k] >= 0:
                out[i, have] = row[k]
                have += 1
        for k in range(RING - 1):
            row[k] = row[k + 1]
        row[RING - 1] = i
    return out


def _loss(
    network: Network,
    prepared: Prepared,
    corpus: Corpus,
    rows: NDArray[np.int64],
    benign: NDArray[np.bool_],
    previous: NDArray[np.int64],
    carry: _Carry,
    ring_store: NDArray[np.float32],
    recipe: Recipe,
    rng: np.random.Generator,
) -> Tensor | None:
    """What the network makes of one step's events; None where they moved the state and had nothing to teach."""
    present = prepared.present[rows].copy()
    z = torch.zeros(len(rows), MODALITIES, network.shape.latents, network.shape.width)
    local = np.full(len(corpus), -1, np.int64)
    local[rows] = np.arange(len(rows))
    for m, chosen, length in encoded_together(
        prepared.features, [rows[present[:, m]] for m in range(MODALITIES)]
    ):
        seen = network.encode(m, *tokens_of(prepared, m, chosen, length, len(chosen)))
        z = z.index_put((torch.from_numpy(local[chosen]), torch.tensor(m)), seen)
    there = torch.from_numpy(present)
    z = z * there[:, :, None, None]
    write, value, recent = network.memory_update(z, there)
    rate = network.rate()
    memory = []
    for k in range(KINDS):
        ids = corpus.ids[rows, k]
        read, after, order = _read_memory(
            ids, corpus.ts[rows], write[:, k], value[:, k], rate[k], (carry.memory[k], carry.at[k])
        )
        memory.append(read)
        entity = ids[order]
        last = np.flatnonzero(np.append(entity[1:] != entity[:-1], True))
        carry.memory[k][torch.from_numpy(entity[last])] = after[torch.from_numpy(last)].detach()
        np.maximum.at(carry.at[k], ids, corpus.ts[rows])
    back = previous[rows]
    inside = torch.from_numpy(np.where(back >= 0, local[back], -1))
    stored = torch.from_numpy(ring_store[np.maximum(back, 0)])
    ring = torch.where((inside >= 0)[:, :, None], recent[inside.clamp_min(0)], stored)
    ring = ring * torch.from_numpy(back >= 0)[:, :, None]
    ring_store[rows] = recent.detach().numpy()
    past = Past(torch.stack(memory, dim=1), ring, torch.from_numpy((back >= 0).sum(axis=1)))
    past = recipe.variant.past(past, rng)
    # Only benign events are predicted; the others have moved the state, and that was all.
    kept = np.flatnonzero(benign[rows])
    if not len(kept):
        return None
    index = torch.from_numpy(kept)
    past = Past(past.memory[index], past.ring[index], past.ring_used[index])
    z, there, asked = z[index], there[index], rows[kept]
    s = network.read_state(
        torch.from_numpy(prepared.state[asked]), torch.from_numpy(prepared.known[asked]), past
    )
    # A modality that is late or lost must not surprise: sometimes one of them is taken away as a source.
    dropped = there.clone()
    lost = torch.from_numpy(rng.random(len(kept)) < recipe.dropout) & (there.sum(dim=1) > 1)
    which = torch.from_numpy(rng.integers(0, MODALITIES, len(kept)))
    dropped[lost, which[lost]] = False
    gate = network.gate_weights(s, dropped)
    bias = network.gate_bias(gate, dropped)
    sources = z * dropped[:, :, None, None]
    loss = torch.zeros(())
    for m in range(MODALITIES):
        loss = loss + _prediction_loss(network, m, z, sources, s, bias, prepared, asked, there[:, m])
    loss = loss + 0.5 * F.cross_entropy(*_asked(network.look_ahead(s), prepared.targets[CONNECTION][asked]))
    if there.any():
        loss = loss + 0.1 * F.relu(0.5 - z[there].std(dim=0, correction=0)).mean()
    loss = loss + 0.1 * _pairs(z, there)
    floor = -(gate.clamp_min(1e-9).log() * gate).sum(dim=1)
    return loss + 0.01 * F.relu(0.5 - floor).mean()


def _prediction_loss(
    network: Network,
    modality: int,
    z: Tensor,
    sources: Tensor,
    s: Tensor,
    bias: Tensor,
    prepared: Prepared,
    asked: NDArray[np.int64],
    there: Tensor,
) -> Tensor:
    """How badly one modality was foreseen where it is there: its fields' negative log likelihood, half its residual.

    Short packet sequences have few fields to ask for, so only those are decoded.
    """
    have = np.flatnonzero(there.numpy())
    if not len(have):
        return torch.zeros(())
    targets = prepared.targets[modality]
    parts: list[tuple[NDArray[np.int64], Tensor | None]] = [(have, None)]
    if modality == PACKET:
        start = prepared.features.packet_start
        short = (start[asked[have] + 1] - start[asked[have]]) <= PACKET_LENGTHS[0]
        first = np.flatnonzero(np.arange(targets.shape[1]) % FIRST_SIZES < PACKET_LENGTHS[0])
        parts = [(have[short], torch.from_numpy(first)), (have[~short], None)]
    total, count, far = torch.zeros(()), 0, torch.zeros(())
    for rows, fields in parts:
        if not len(rows):
            continue
        index = torch.from_numpy(rows)
        expected, said = network(modality, sources[index], s[index], bias[index], fields)
        far = far + latent_residual(expected, z[index, modality]).sum()
        wanted = targets[asked[rows]] if fields is None else targets[asked[rows]][:, fields.numpy()]
        logits, classes = _asked(said, wanted)
        total, count = total + F.cross_entropy(logits, classes, reduction="sum"), count + len(classes)
    return total / max(count, 1) + 0.5 * far / len(have) / MODALITIES


def _asked(logits: Tensor, targets: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    wanted = torch.from_numpy(targets)
    asked = wanted >= 0
    return logits[asked], wanted[asked]


def _pairs(z: Tensor, there: Tensor) -> Tensor:
    """InfoNCE: the packets and the connection of one event belong together, and so do logs and connection."""
    loss = torch.zeros(())
    for m in (PACKET, LOG):
        rows = torch.nonzero(there[:, m] & there[:, CONNECTION])[:256, 0]
        if len(rows) < 8:
            continue
        a = F.normalize(z[rows, m].mean(dim=1), dim=1)
        b = F.normalize(z[rows, CONNECTION].mean(dim=1), dim=1)
        loss = loss + F.cross_entropy(a @ b.T / 0.1, torch.arange(len(rows)))
    return loss


# The trees


def _fit_trees(corpus: Corpus, learn: NDArray[np.bool_], recipe: Recipe) -> Trees:
    rows = learn & (corpus.label >= 0)
    return fit_trees(
        tabulate(corpus.features, corpus.state)[rows],
        corpus.label[rows] == 1,
        balance(corpus, rows)[rows],
        recipe.seed * 1000,
    )


def _fit_classes(
    corpus: Corpus, learn: NDArray[np.bool_], recipe: Recipe
) -> tuple[Trees | None, tuple[str, ...]]:
    """Kinds are the first word of the families ("scan" of "scan-port-tcp"); one needs `_LEAST_KIND` connections."""
    bad = learn & (corpus.label == 1)
    kind = np.array([f.split("-")[0] for f in corpus.family], dtype=object)
    names, counts = np.unique(kind[bad].astype(str), return_counts=True)
    classes = tuple(str(n) for n, c in zip(names, counts, strict=True) if n and c >= _LEAST_KIND)
    if len(classes) < 3:
        return None, ()
    rows = bad & np.isin(kind.astype(str), classes)
    code = np.searchsorted(np.array(classes), kind[rows].astype(str))
    weight = balance(corpus, rows)[rows]
    table = tabulate(corpus.features, corpus.state)[rows]
    return fit_classes(table, code, weight, recipe.seed), classes


def balance(corpus: Corpus, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights [n]: both classes alike; within a class a group counts by the root of its size.

    Groups are families among the malicious and recordings' collections among the benign, so that neither a flood
    of one kind nor one chatty device drowns the rest. From the given rows only, never from what is judged.
    """
    group = np.array([f or "" for f in corpus.family], dtype=object)
    owner = np.repeat(np.array(_collections(corpus.names), dtype=object), np.diff(corpus.bounds))
    group = np.where(corpus.label == 1, group, owner)
    weight = np.zeros(len(corpus))
    for label in (0, 1):
        mine = rows & (corpus.label == label)
        for g in set(group[mine]):
            same = mine & (group == g)
            weight[same] = 1.0 / np.sqrt(same.sum())
        if mine.any():
            weight[mine] *= 0.5 * rows.sum() / weight[mine].sum()
    return weight


# Small things


def _collections(names: Sequence[str]) -> list[str]:
    """The folder below what all names have in common: captures that were made together."""
    parts = [PurePath(n).parts for n in names]
    depth = 0
    while all(len(p) > depth + 1 for p in parts) and len({p[depth] for p in parts}) == 1:
        depth += 1
    return [p[depth] if len(p) > depth + 1 else "" for p in parts]


def _entities(keys: Keys) -> NDArray[np.int64]:
    return np.stack([np.unique(keys.entity(k), return_inverse=True)[1] for k in range(KINDS)], axis=1).astype(
        np.int64
    )


def _rows(features: Features, chosen: NDArray[np.bool_]) -> Features:
    return take_features(features, np.flatnonzero(chosen))
