"""Calibration: a checkpoint and a sample of benign events in, the calibrated checkpoint out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from cmdana_plugin.behaviour import behaviour_of, with_behaviour
from cmdana_plugin.detector import (
    ENOUGH_HISTORY,
    Checkpoint,
    CrossModal,
    EventContext,
    Floats32,
    Network,
    Remembered,
    Strata,
    component_p_values,
    detector_of,
    fit_strata,
    fit_tail,
    fuse,
    history_of,
    overall_p_value,
    prepare,
    remember_all,
)
from cmdana_plugin.training.fit_behaviour import normal_of, recalibrated
from cmdana_plugin.training.recipe import Recipe
from cmdana_plugin.training.recording import Corpus, Recording, gather, with_cold_starts
from feature_extractors.features import (
    Schema,
    load_schema,
)

# Connections of one from which on hosts little known are told apart where attacks weigh.
_MIN_CONNECTIONS_PER_STRATUM: Final = 250


@dataclass(slots=True)
class Sample:
    """The scores of a calibration sample of benign events."""

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


def calibrated_on(
    draft: Checkpoint,
    corpus: Corpus,
    benign: NDArray[np.bool_],
    cold_starts: Sequence[Recording],
    recipe: Recipe,
    schema: Schema,
) -> Checkpoint:
    """A calibrated checkpoint, half on benign rows of a corpus with their own past, half on cold starts."""
    sample = _sample(draft, corpus, benign, recipe, schema)
    if cold_starts:
        again = recipe.variant.material(gather(cold_starts, schema), schema, recipe.seed)
        sample = sample.and_(_sample(draft, again, again.label == 0, recipe, schema))
    if (
        "attack" in recipe.components
        and draft.trees is not None
        and all(len(r.windows) < _MIN_CONNECTIONS_PER_STRATUM for r in cold_starts)
    ):
        # Trees on few connections of many networks: told apart further they overfit.
        sample.history[:] = 0
    return calibrate(draft, sample, recipe)


def calibrate(checkpoint: Checkpoint, benign: Sample, recipe: Recipe | None = None) -> Checkpoint:
    """The same checkpoint with its p-values taken from these benign events."""
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
    out = replace(checkpoint, strata=strata, weights=weights, overall_calibration=None)
    p = component_p_values(out, benign.raw, benign.stratum, benign.history)
    evidence = fuse(np.stack([p[k] for k in weights], axis=1), np.array(list(weights.values())))
    out = replace(out, fused=fit_tail(evidence))
    if not benign.history.any():
        return out
    whole = -np.log(overall_p_value(out, evidence, p, benign.history))
    return replace(out, overall_calibration=fit_strata(whole, benign.history, enough=ENOUGH_HISTORY))


def recalibrate(
    checkpoint: Checkpoint, recordings: Iterable[Recording], salt: int | None = None
) -> Checkpoint:
    """The same checkpoint calibrated on later benign traffic of a site, whose hosts are hashed under `salt`."""
    schema = checkpoint.schema_of(load_schema())
    cold_starts: list[Recording] = []
    corpus = gather(with_cold_starts(recordings, cold_starts, 1.0), schema, salt=salt or 0)
    recipe = Recipe(components=tuple(checkpoint.strata))
    made = calibrated_on(checkpoint, corpus, corpus.label == 0, cold_starts, recipe, schema)
    behaviour = behaviour_of(made)
    if behaviour is None:
        return made
    normal = normal_of([corpus], 0.0, salt is not None)
    return with_behaviour(made, recalibrated(behaviour, normal, salt))


def components(
    checkpoint: Checkpoint, corpus: Corpus, recipe: Recipe, schema: Schema
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.int64]]:
    """Uncalibrated components of every event of a corpus, each recording from an empty state, and their strata.

    The detector's own, as at run time, but that no table is ever full.
    """
    variant = recipe.variant
    network = variant.fields or (None if variant.network is Network else variant.network)
    detector = detector_of(checkpoint, schema, hosts=64, threads=torch.get_num_threads(), network=network)
    raw, seen = components_with(detector, corpus, recipe, schema)
    return raw, seen.stratum


def components_with(
    detector: CrossModal, corpus: Corpus, recipe: Recipe, schema: Schema
) -> tuple[dict[str, NDArray[np.float64]], EventContext]:
    """The same of a detector that is there already, and what it saw of the events."""
    variant, checkpoint = recipe.variant, detector.checkpoint
    prepared = variant.prepared(prepare(corpus.features, corpus.state, checkpoint.preparation, schema))

    def remember(write: Floats32, value: Floats32, recent: Floats32) -> Remembered:
        past = remember_all(corpus.ts, corpus.early, corpus.ids, write, value, detector.rate(), recent)
        return variant.remembered(past, recipe.seed)

    outcome, seen = detector.components(prepared, corpus.state, remember)
    return variant.scored(detector, prepared, outcome, seen), seen
