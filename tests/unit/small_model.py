"""The smallest model that has every part: a network of width 2, three trees, a few Gaussians, learned from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from cmdana_plugin.detector.calibration import Strata, fit_tail
from cmdana_plugin.detector.checkpoint import Checkpoint
from cmdana_plugin.detector.engines.shape import Shape
from cmdana_plugin.detector.inputs import EDGES, Bins, Preparation, density_columns, isolation_columns
from cmdana_plugin.detector.mixture import Mixture
from cmdana_plugin.detector.network import Network
from cmdana_plugin.detector.soundness import COMPONENTS
from cmdana_plugin.detector.trees import Trees
from feature_extractors.features.encoding import FIRST_SIZES
from feature_extractors.features.schema import PACKET_FIELDS, Schema, load_schema
from feature_extractors.features.tokens import TOKEN_WIDTH

CLASSES = ("flood", "guess", "scan")


def small_checkpoint(seed: int = 0, schema: Schema | None = None) -> Checkpoint:
    """Of the schema that ships, unless told."""
    schema, rng = schema or load_schema(), np.random.default_rng(seed)
    numeric, state = len(schema.numeric), len(schema.state)
    codes = len(schema.categorical)
    shape = Shape(
        numeric=numeric, categorical=tuple(c.size for c in schema.categorical), state=state,
        packet_width=len(PACKET_FIELDS), log_width=TOKEN_WIDTH, log_buckets=schema.log_buckets,
        targets=(2 * FIRST_SIZES, numeric + codes, sum(schema.summary_target)), width=2, latents=1, heads=1,
    )  # fmt: skip
    torch.manual_seed(seed)
    network = {k: v.detach().numpy() for k, v in Network(shape).state_dict().items()}
    flat = numeric + codes + state + len(schema.summary) + 2 * FIRST_SIZES

    def bins(width: int) -> Bins:
        return Bins(np.sort(rng.normal(2.0, 2.0, (width, EDGES)), axis=1).astype(np.float32))

    def scale(width: int) -> Any:
        return np.stack([rng.normal(1.0, 1.0, width), rng.uniform(0.5, 2.0, width)]).astype(np.float32)

    width = numeric + len(density_columns(schema))
    tails = {name: fit_tail(rng.exponential(1.0, 40)) for name in (*COMPONENTS, "fused", "whole")}
    strata = {
        name: Strata(tails[name], {0: tails[name]}, 500 if name == "isolation" else 2000)
        for name in COMPONENTS
    }
    return Checkpoint(
        shape=shape,
        network=network,
        preparation=Preparation(
            bins(numeric), scale(numeric), bins(2 * FIRST_SIZES), bins(len(schema.summary)), scale(state)
        ),
        mixture=Mixture(
            np.log(np.full(2, 0.5)), rng.normal(size=(2, width)), np.stack([np.eye(width)] * 2), np.zeros(2)
        ),
        trees=_trees(rng, 3, 1, flat),
        attack_classifier=_trees(rng, 3, len(CLASSES), flat),
        isolation=_trees(rng, 3, 1, numeric + len(isolation_columns(schema))),
        classes=CLASSES,
        strata=strata,
        weights={name: 1.0 for name in COMPONENTS if name != "isolation"},
        fused=tails["fused"],
        overall_calibration=Strata(tails["whole"], {3: tails["whole"]}, 500),
        about={"schema_digest": schema.digest, "data_digest": "made up", "name": "small", "recipe": "none"},
    )


def _trees(rng: np.random.Generator, trees: int, outputs: int, width: int) -> Trees:
    """Of two splits and three leaves each."""
    nodes = 5 * trees
    left = np.concatenate([5 * t + np.array([1, 1, 3, 3, 4]) for t in range(trees)])
    leaf = left == np.arange(nodes)
    return Trees(
        root=np.arange(0, nodes, 5, dtype=np.int32),
        output=(np.arange(trees) % outputs).astype(np.int32),
        feature=np.where(leaf, 0, rng.integers(0, width, nodes)).astype(np.int32),
        threshold=np.where(leaf, np.inf, rng.normal(size=nodes)).astype(np.float32),
        left=left.astype(np.int32),
        unset_left=np.ones(nodes, np.bool_),
        value=np.where(leaf, rng.normal(size=nodes), 0.0),
    )


def parts(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Tensors and metadata of a file."""
    with safe_open(str(path), framework="np") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, dict(file.metadata())  # noqa: SIM118
