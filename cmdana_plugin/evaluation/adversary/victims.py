"""The detectors that the search is set on: the product with a model, and baselines of the same training captures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from cmdana_plugin.behaviour import Bounds, with_behaviour_beside
from cmdana_plugin.config import Config
from cmdana_plugin.detector import (
    Checkpoint,
    Detector,
    WithSiteHistory,
    checkpoint,
    detector_of,
    share_of,
    shipped_checkpoint,
)
from cmdana_plugin.evaluation.adversary.search import Victim
from cmdana_plugin.evaluation.baselines import BASELINES
from cmdana_plugin.evaluation.protocol import Split
from cmdana_plugin.evaluation.whole_days.told import Streamed
from cmdana_plugin.training import gather
from feature_extractors import Windows, concat, take
from feature_extractors.features import load_schema

OURS: Final = "cmdana"
NAMES: Final = (OURS, *BASELINES)
DEFAULT: Final = (OURS, "boosted")
_HOSTS: Final = 1 << 12  # that a victim remembers: captures have fewer
_ORDINARY: Final = 500  # connections to mix in


def victims_of(split: Split, names: Sequence[str], config: Config) -> dict[str, Victim]:
    """Victims by name; ours is the model of `[model] path`, or the shipped one. Raises `CmdanaError` for no model."""
    schema = load_schema()
    out: dict[str, Victim] = {}
    for name in names:
        if name == OURS:
            model = (
                checkpoint.load(Path(config.model.path), schema)
                if config.model.path
                else shipped_checkpoint()
            )
            out[name] = Victim(lambda model=model: product(model), model.incidents)  # type: ignore[misc]
            continue
        learn, held = gather(split.train, schema), gather(split.calibrate, schema)
        baseline = BASELINES[name]()
        baseline.fit(learn, np.ones(len(learn), np.bool_), 0)
        normal = baseline.score(held)[held.label == 0]
        out[name] = Victim(lambda b=baseline, s=normal, n=name: Streamed(n, b, s))  # type: ignore[misc]
    return out


def product(model: Checkpoint) -> Detector:
    """The detector of a model as `cmdana replay` has it, from its beginning."""
    schema = load_schema()
    inner = with_behaviour_beside(detector_of(model, schema, hosts=_HOSTS), model, bounds=Bounds(_HOSTS))
    return WithSiteHistory(inner, share=share_of(model.weights))


def ordinary_of(split: Split) -> Windows:
    """Benign connections of the calibrate split, to mix in."""
    parts, count = [], 0
    for r in split.calibrate:
        if r.label is not None and count < _ORDINARY:
            rows = np.flatnonzero(r.label == 0)[: max(_ORDINARY // 10, 1)]
            parts.append(take(r.windows, rows))
            count += len(rows)
    return concat(parts)
