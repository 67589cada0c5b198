"""Training: recordings in, a checkpoint of normal, and of known attacks where there are labels, out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from cmdana_plugin.behaviour import Bounds, behaviour_of, with_behaviour
from cmdana_plugin.detector import (
    CROSS_MODAL,
    DEPENDENCY,
    NETWORKS,
    OTHER,
    Checkpoint,
    FieldNetwork,
    Network,
    Prepared,
    Shape,
    Trees,
    density_input,
    fit_classes,
    fit_conditionals,
    fit_isolation,
    fit_mixture,
    fit_tail,
    isolation_input,
    learn_preparation,
    prepare,
    shipped_checkpoint,
    tabulate,
    trees_fault,
)
from cmdana_plugin.training.adversarial import hardening
from cmdana_plugin.training.calibrate import calibrated_on
from cmdana_plugin.training.cross_modal.loss import Learner
from cmdana_plugin.training.cross_modal.resume import Position, Progressed
from cmdana_plugin.training.cross_modal.steps import lesson_of
from cmdana_plugin.training.fit_behaviour import fit_behaviour, normal_of
from cmdana_plugin.training.fit_fields import fit_fields
from cmdana_plugin.training.recipe import Recipe
from cmdana_plugin.training.recording import (
    MIN_ROWS,
    PRESUMED,
    Corpus,
    Recording,
    balance,
    gather,
    with_cold_starts,
)
from feature_extractors import CmdanaError
from feature_extractors.compiled import code_digest
from feature_extractors.features import (
    Features,
    Schema,
    load_schema,
    take_features,
)

Progress = Callable[[str, float], None]
# events that the network learns from, repeats included, unless told how many passes
_TRAINING_EVENTS: Final = 300_000
# events of a large recording that the network learns from: a day in minutes
_LARGE_RECORDING_EVENTS: Final = 150_000
# events, in steps that follow each other, where not all of a large recording is learned from
_CONSECUTIVE_EVENTS: Final = 8192
_MAX_EPOCHS: Final = 40
# Share of each recording, its last, that p-values are taken from if nothing else is given.
CALIBRATION_FRACTION: Final = 0.2
_MIN_ATTACK_CONNECTIONS: Final = 20  # connections of a kind of attack that may be named


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
    salt: int | None = None,
    hosts: int | None = None,
    device: str = "cpu",
) -> Checkpoint:
    """A checkpoint trained on `recordings` and calibrated on `calibration`, or on the last fifth by time of each
    recording.

    With labels, malicious windows teach the boosted trees only, never what is normal. `init` starts from an
    earlier model and keeps its trees where there are no labels: to name kinds of attack, not to be weighed. `inspect`
    is shown the corpus before anything is learned from it. `keep` names a file in which an interrupted training is
    kept and from which it goes on. `salt` keys the hashes of the hosts of one site, whose past then goes along, of so
    many `hosts` at most; without it recordings are of networks that have nothing to do with each other. The same
    recordings, recipe and machine give the same checkpoint, unless the training was interrupted. On a
    `device` of CUDA a cross-modal network learns in bfloat16, to other weights; all else is the processor's.
    """
    recipe = recipe or Recipe()
    schema = _schema_of(recipe, init)
    if hardening.checked(recipe.hardening) != hardening.PLAIN:
        if recipe.detector in NETWORKS:
            raise CmdanaError(
                f"--hardening: found detector {recipe.detector}, expected {DEPENDENCY} or {CROSS_MODAL}, whose trees "
                "it is for"
            )
        recordings = list(recordings)  # which are changed when the rest is learned
    torch.manual_seed(recipe.seed)
    cold_starts: list[Recording] = []
    corpus = gather(
        with_cold_starts(recordings, cold_starts, 0.0 if calibration is not None else CALIBRATION_FRACTION),
        schema,
        salt=salt or 0,
    )
    inspect(corpus)
    learn = np.ones(len(corpus), np.bool_)
    held = (
        None
        if calibration is None
        else gather(with_cold_starts(calibration, cold_starts, 1.0), schema, salt=salt or 0)
    )
    if held is None:
        for a, b in zip(corpus.bounds[:-1], corpus.bounds[1:], strict=True):
            learn[b - int((b - a) * CALIBRATION_FRACTION) : b] = False
    benign = learn & ((corpus.label == 0) | (corpus.label == PRESUMED))
    if benign.sum() < MIN_ROWS:
        raise CmdanaError(
            f"training: found {int(benign.sum())} benign connections, expected at least {MIN_ROWS}"
        )
    corpus = recipe.variant.material(corpus, schema, recipe.seed)
    how = (
        learn_preparation(_rows(corpus.features, benign), corpus.state[benign])
        if init is None or recipe.detector == DEPENDENCY  # of whose tables nothing is gone on from
        else init.preparation
    )
    prepared = recipe.variant.prepared(prepare(corpus.features, corpus.state, how, schema))
    labelled = recipe.trees and bool((corpus.label[learn] == 1).any())
    trees, attack_classifier, classes = (
        (init.trees, init.attack_classifier, init.classes) if init is not None else (None, None, ())
    )
    kinds = _named_kinds(corpus, learn) if labelled else classes
    of_fields = recipe.detector in NETWORKS
    if recipe.detector == DEPENDENCY:
        shape = _shape(prepared, schema, recipe)
        arrays: Mapping[str, NDArray[np.float32]] = fit_conditionals(prepared, benign, schema).arrays()
        made_of_fields = np.zeros((0, 0), np.float32)
    else:
        network = _network(prepared, schema, recipe, init, kinds)
        kind = _kinds_of(corpus, learn, kinds) if labelled else np.full(len(corpus), -1)
        kept = Progressed(keep, _key(corpus, recipe, init, schema)) if keep and not of_fields else None
        made_of_fields = _fit_network(
            network, prepared, corpus, benign, kind, recipe, progress, kept, schema, device
        )
        shape = network.shape
        arrays = {k: v.detach().cpu().numpy() for k, v in network.state_dict().items()}
    if of_fields:
        mixture = fit_mixture(made_of_fields, 8, recipe.seed)
    else:
        mixture = fit_mixture(density_input(prepared, schema)[benign], 12, recipe.seed)
    if labelled and not of_fields:
        progress("trees", 0.0)
        trees = _fit_trees(corpus, learn, recipe, recordings, schema)
        attack_classifier, classes = _fit_classes(corpus, learn, recipe)
    elif labelled:
        classes = kinds
    alone = labelled or of_fields
    draft = Checkpoint(
        detector=recipe.detector,
        shape=shape,
        network=arrays,
        preparation=how,
        mixture=mixture,
        trees=trees,
        attack_classifier=attack_classifier,
        classes=classes,
        isolation=None if alone else fit_isolation(isolation_input(prepared, schema)[benign], recipe.seed),
        strata={},
        weights={},
        fused=fit_tail(np.zeros(0)),
        overall_calibration=None,
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
    untaught = of_fields and not labelled
    if untaught or (init is not None and not (corpus.label[learn] == 1).any()):
        # Trees that were shown neither this network's normal nor an attack on it drown what was learned of it
        # (docs/results.md, a network of one's own). They go on naming kinds of attack.
        recipe = replace(recipe, components=tuple(k for k in recipe.components if k != "attack"))
    if held is not None:
        held = recipe.variant.material(held, schema, recipe.seed)
        made = calibrated_on(draft, held, held.label == 0, cold_starts, recipe, schema)
    else:
        held_out = ~learn & (corpus.label == 0)
        if held_out.sum() < MIN_ROWS:
            held_out = corpus.label == 0
        made = calibrated_on(draft, corpus, held_out, cold_starts, recipe, schema)
    return _with_behaviour(made, corpus, held, recipe, schema, salt, hosts, init, progress)


def _schema_of(recipe: Recipe, init: Checkpoint | None) -> Schema:
    """What is learned from: the schema of the model to start from, else with the further logs where they are wanted.

    Raises `CmdanaError` where they are, and the model to start from was not taught them.
    """
    schema = load_schema()
    further = schema.further if recipe.further_logs else schema
    assert further is not None
    if init is None:
        return further
    own = init.schema_of(schema)
    if recipe.further_logs and own is not further:
        raise CmdanaError(
            "--further-logs: found a model to start from that was not taught them; train without --init, or without "
            "--further-logs"
        )
    return own


def _with_behaviour(
    made: Checkpoint,
    corpus: Corpus,
    held: Corpus | None,
    recipe: Recipe,
    schema: Schema,
    salt: int | None,
    hosts: int | None,
    init: Checkpoint | None,
    progress: Progress,
) -> Checkpoint:
    """The checkpoint with what was learned of behaviour, or where that is nothing, with what `init` knew."""
    learned = None
    if recipe.behaviour and not trees_fault():
        parts = [c for c in (corpus, held) if c is not None]
        normal = normal_of(parts, 1.0 if held is not None else 1.0 - CALIBRATION_FRACTION, salt is not None)
        bounds = Bounds() if hosts is None else Bounds(hosts)
        alone = salt is None or recipe.blind_to is not None
        elsewhere = None if alone else behaviour_of(shipped_checkpoint())
        learned = fit_behaviour(
            normal,
            seed=recipe.seed,
            salt=salt,
            bounds=bounds,
            beside=elsewhere.trees if elsewhere else None,
            hiding=recipe.rehearsals,
            blind_to=recipe.blind_to or (),
            progress=progress,
        )
    if learned is None and init is not None:
        learned = behaviour_of(init)
    return with_behaviour(made, learned)


def _network(
    prepared: Prepared, schema: Schema, recipe: Recipe, init: Checkpoint | None, kinds: Sequence[str]
) -> Network | FieldNetwork:
    fields = recipe.variant.fields or NETWORKS.get(recipe.detector)
    if init is not None:
        if init.detector != recipe.detector or (fields is not None and init.classes != kinds):
            raise CmdanaError(
                f"training: found a model of detector {init.detector} to start from, expected {recipe.detector}"
                + (" with the same kinds of attack" if init.detector == recipe.detector else "")
            )
        network = recipe.variant.network(init.shape) if fields is None else fields(init.shape, len(kinds))
        network.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in init.network.items()})
        return network
    shape = _shape(prepared, schema, recipe)
    return recipe.variant.network(shape) if fields is None else fields(shape, len(kinds))


def _shape(prepared: Prepared, schema: Schema, recipe: Recipe) -> Shape:
    f = prepared.features
    packets, connection, logs = prepared.targets
    return Shape(
        numeric=f.numeric.shape[1],
        categorical=tuple(c.size for c in schema.categorical),
        state=prepared.state.shape[1],
        packet_width=f.packets.shape[1],
        log_width=f.log_tokens.shape[1],
        log_buckets=schema.log_buckets,
        targets=(packets.shape[1], connection.shape[1], logs.shape[1]),
        width=recipe.width,
    )


def _fit_network(
    network: Network | FieldNetwork,
    prepared: Prepared,
    corpus: Corpus,
    benign: NDArray[np.bool_],
    kind: NDArray[np.int64],
    recipe: Recipe,
    progress: Progress,
    kept: Progressed | None,
    schema: Schema,
    device: str,
) -> NDArray[np.float32]:
    """Trains a network in place; of one over fields, what it made of the benign rows [benign, width]."""
    threads = torch.get_num_threads()
    # One thread: small products do not gain from more, and sums shared out otherwise give other weights.
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # memory that has faded away must not slow arithmetic down
    try:
        if isinstance(network, FieldNetwork):
            return fit_fields(network, prepared, corpus, benign, kind, recipe, progress)
        _fit(network, prepared, corpus, benign, recipe, progress, kept, schema, torch.device(device))
        return np.zeros((0, 0), np.float32)
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


def _fit(
    network: Network,
    prepared: Prepared,
    corpus: Corpus,
    benign: NDArray[np.bool_],
    recipe: Recipe,
    progress: Progress,
    kept: Progressed | None,
    schema: Schema,
    device: torch.device,
) -> None:
    rng = np.random.default_rng(recipe.seed)
    learner = Learner(network, recipe, device)
    optimiser = learner.optimiser
    lesson = lesson_of(corpus, prepared, benign)
    plan = _steps_of(corpus, benign, recipe, rng)
    epochs = recipe.epochs or min(max(_TRAINING_EVENTS // int(benign.sum()), 1), _MAX_EPOCHS)
    total = epochs * len(plan)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.rate, total_steps=max(total, 2), pct_start=0.15
    )
    position = (kept.load(network, optimiser, schedule) if kept else None) or Position()
    what = "network, where it was interrupted" if position.step else "network"
    network.train()
    while position.epoch < epochs:
        if position.at_epoch is not None:
            rng.bit_generator.state = position.at_epoch
        position.at_epoch = rng.bit_generator.state
        shown = recipe.variant.lesson(prepared, schema, rng)
        if shown is not lesson.prepared:
            lesson = replace(lesson, prepared=shown)
        chunks = _steps_of(corpus, benign, recipe, rng)
        if position.chunk:
            rng.bit_generator.state = position.at_chunk
        carry, steps = learner.begin(lesson, chunks[position.chunk :])
        for step in steps:
            learner.step(step, carry, rng)
            position.chunk += 1
            position.step += 1
            if position.step < total:
                schedule.step()
            if kept:
                kept.save(network, optimiser, schedule, rng, position)
            progress(what, position.step / total)
        position.epoch, position.chunk, position.at_epoch = position.epoch + 1, 0, None
    network.eval().cpu()


def _key(corpus: Corpus, recipe: Recipe, init: Checkpoint | None, schema: Schema) -> str:
    """Names all that a training starts from."""
    start = "" if init is None else init.about.get("data_digest", "")
    digest = hashlib.sha256(f"{corpus.digest} {recipe!r} {start} {schema.digest}".encode())
    digest.update(corpus.label.tobytes())
    return digest.hexdigest()


def _steps_of(
    corpus: Corpus, benign: NDArray[np.bool_], recipe: Recipe, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """The events of each step of one pass."""
    size = recipe.step_events
    most = max(_LARGE_RECORDING_EVENTS // size, 1) if recipe.epochs is None else None
    run = max(_CONSECUTIVE_EVENTS // size, 1)
    return _spread(_chunks(corpus.bounds, benign, size, rng), benign, most, run, rng)


def _chunks(
    bounds: NDArray[np.int64], useful: NDArray[np.bool_], least: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Recordings in random order, each whole and in time order unless longer than a chunk; others left out."""
    out, held, size = [], [], 0
    for r in rng.permutation(len(bounds) - 1):
        a, b = bounds[r], bounds[r + 1]
        if not useful[a:b].any():
            continue
        for begin in range(a, b, least):
            rows = np.arange(begin, min(begin + least, b))
            held.append(rows)
            size += len(rows)
            if size >= least:
                out.append(np.concatenate(held))
                held, size = [], 0
    if held:
        out.append(np.concatenate(held))
    return out


def _spread(
    chunks: list[NDArray[np.int64]],
    useful: NDArray[np.bool_],
    most: int | None,
    run: int,
    rng: np.random.Generator,
) -> list[NDArray[np.int64]]:
    """At most so many of the chunks, in runs of `run` that follow each other, drawn from all of the time there is."""
    if most is None or len(chunks) <= most:
        return chunks
    chunks = [rows for rows in chunks if useful[rows].any()]
    runs = len(chunks) // run
    drawn = np.sort(rng.choice(runs, min(most // run, runs), replace=False))
    return [rows for k in drawn.tolist() for rows in chunks[k * run : (k + 1) * run]]


def _fit_trees(
    corpus: Corpus, learn: NDArray[np.bool_], recipe: Recipe, recordings: Iterable[Recording], schema: Schema
) -> Trees:
    rows = learn & (corpus.label >= 0)
    copies: list[NDArray[np.float32]] = []
    if recipe.hardening != hardening.PLAIN:
        copies = [
            c[rows] for c in hardening.copies_of(list(recordings), hardening.COPIES, recipe.seed, schema)
        ]
    return hardening.hardened(
        recipe.hardening,
        tabulate(corpus.features, corpus.state)[rows],
        copies,
        corpus.label[rows] == 1,
        balance(corpus, rows)[rows],
        recipe.seed * 1000,
        repeats=3,
    )


def _fit_classes(
    corpus: Corpus, learn: NDArray[np.bool_], recipe: Recipe
) -> tuple[Trees | None, tuple[str, ...]]:
    """Trees that tell kinds of attack apart, with the kinds' names: the first word of each family ("scan" of
    "scan-port-tcp") with `_MIN_ATTACK_CONNECTIONS` or more. (None, ()) where there are too few kinds.
    """
    classes = _named_kinds(corpus, learn)
    if not classes:
        return None, ()
    code = _kinds_of(corpus, learn & (corpus.label == 1), classes) - OTHER
    rows = code >= 0
    weight = balance(corpus, rows)[rows]
    table = tabulate(corpus.features, corpus.state)[rows]
    return fit_classes(table, code[rows], weight, recipe.seed), classes


def _named_kinds(corpus: Corpus, learn: NDArray[np.bool_]) -> tuple[str, ...]:
    """The kinds of attack with rows enough; none where there are fewer than three."""
    kind = _first_words(corpus)[learn & (corpus.label == 1)]
    names, counts = np.unique(kind, return_counts=True)
    classes = tuple(str(n) for n, c in zip(names, counts, strict=True) if n and c >= _MIN_ATTACK_CONNECTIONS)
    return classes if len(classes) >= 3 else ()


def _kinds_of(corpus: Corpus, learn: NDArray[np.bool_], classes: Sequence[str]) -> NDArray[np.int64]:
    """The class [n] of rows that teach: 0 benign, 1 malicious of no kind in `classes`, then those; -1 none."""
    code = {name: OTHER + i for i, name in enumerate(classes)}
    malicious = np.array([code.get(name, 1) for name in _first_words(corpus).tolist()])
    return np.where(learn & (corpus.label >= 0), np.where(corpus.label == 1, malicious, 0), -1)


def _first_words(corpus: Corpus) -> NDArray[np.str_]:
    return np.array([f.split("-")[0] for f in corpus.family], dtype=str)


def _rows(features: Features, chosen: NDArray[np.bool_]) -> Features:
    return take_features(features, np.flatnonzero(chosen))
