"""A trained detector on disk: safetensors with everything that fixes its scores; never pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialised

from cmdana_plugin import files
from cmdana_plugin.batch import Bins, Preparation
from cmdana_plugin.calibration import ENOUGH, ENOUGH_HISTORY, Strata, Tail
from cmdana_plugin.density import Mixture
from cmdana_plugin.model import Shape, parameters_of
from cmdana_plugin.trees import Trees
from feature_extractors.errors import CmdanaError, SchemaError
from feature_extractors.schema import Schema

FORMAT: Final = 2


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What `train` makes and `load_detector` reads."""

    shape: Shape
    network: Mapping[str, NDArray[np.float32]]
    preparation: Preparation
    mixture: Mixture
    trees: Trees | None  # malicious or not
    namer: Trees | None  # which of `classes`
    isolation: Trees | None  # how soon an event is parted from calm traffic; only where no attack weighs
    classes: tuple[str, ...]  # names that the supervised head may give, empty without labels
    strata: Mapping[str, Strata]  # calibration of each component
    weights: Mapping[str, float]  # of each component in the fusion
    fused: Tail  # calibration of the fused evidence
    whole: (
        Strata | None
    )  # of the whole, -log p, by how well the originator is known; where calm traffic was plenty
    about: Mapping[str, str]  # schema_digest, data_digest, seed, revision, created_with, name


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write to a temporary name first, so that a reader never sees half a model."""
    tensors: dict[str, NDArray[Any]] = {f"network.{k}": v for k, v in checkpoint.network.items()}
    p = checkpoint.preparation
    tensors |= {
        "preparation.numeric": p.numeric.edges,
        "preparation.numeric_scale": p.numeric_scale,
        "preparation.first_packets": p.first_packets.edges,
        "preparation.summary": p.summary.edges,
        "preparation.state_scale": p.state_scale,
    }
    tensors |= _arrays("mixture", checkpoint.mixture)
    if checkpoint.trees is not None:
        tensors |= _arrays("trees", checkpoint.trees)
    if checkpoint.namer is not None:
        tensors |= _arrays("namer", checkpoint.namer)
    if checkpoint.isolation is not None:
        tensors |= _arrays("isolation", checkpoint.isolation)
    tails: dict[str, list[float]] = {}
    for name, tail in _tails(checkpoint):
        tensors[f"tail.{name}"] = np.stack([tail.order, tail.above])
        tails[name] = [tail.size, tail.start, tail.shape, tail.scale]
    meta = {
        "format": str(FORMAT),
        "shape": json.dumps(parameters_of(checkpoint.shape)),
        "classes": json.dumps(list(checkpoint.classes)),
        "weights": json.dumps(dict(checkpoint.weights)),
        "tails": json.dumps(tails),
    }
    whole = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
    # With the mode that any new file has here: a service's user reads what root trained.
    files.replace(path, serialised(whole, dict(checkpoint.about) | meta))


def load(path: Path, schema: Schema) -> Checkpoint:
    """Raises `CmdanaError` where the file is no checkpoint, `SchemaError` where it was made with another schema."""
    try:
        with safe_open(str(path), framework="np") as file:
            meta = dict(file.metadata() or {})
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    except (OSError, SafetensorError) as error:
        raise CmdanaError(f"{path}: found no readable model ({error}), expected safetensors") from error
    if meta.get("format") != str(FORMAT):
        raise CmdanaError(f"{path}: found model format {meta.get('format')!r}, expected {FORMAT}")
    if meta.get("schema_digest") != schema.digest:
        raise SchemaError(
            f"{path}: made with schema {str(meta.get('schema_digest'))[:12]}, "
            f"expected {schema.digest[:12]}: train again"
        )
    shape = json.loads(meta.pop("shape"))
    shape |= {"categorical": tuple(shape["categorical"]), "targets": tuple(shape["targets"])}
    tails = {
        name: Tail(tensors[f"tail.{name}"][0], tensors[f"tail.{name}"][1], int(size), start, xi, scale)
        for name, (size, start, xi, scale) in json.loads(meta.pop("tails")).items()
    }
    weights = json.loads(meta.pop("weights"))
    classes = tuple(json.loads(meta.pop("classes")))
    meta.pop("format")
    strata = {}
    for name in [*weights, *(n for n in ("isolation", "whole") if f"{n}.all" in tails)]:
        each = {
            int(k.split(".")[1]): t
            for k, t in tails.items()
            if k.startswith(f"{name}.") and not k.endswith(".all")
        }
        strata[name] = Strata(tails[f"{name}.all"], each, ENOUGH if name in weights else ENOUGH_HISTORY)
    return Checkpoint(
        shape=Shape(**shape),
        network={k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")},
        preparation=Preparation(
            numeric=Bins(tensors["preparation.numeric"]),
            numeric_scale=tensors["preparation.numeric_scale"],
            first_packets=Bins(tensors["preparation.first_packets"]),
            summary=Bins(tensors["preparation.summary"]),
            state_scale=tensors["preparation.state_scale"],
        ),
        mixture=Mixture(**_named("mixture", tensors, Mixture)),
        trees=Trees(**_named("trees", tensors, Trees)) if "trees.root" in tensors else None,
        namer=Trees(**_named("namer", tensors, Trees)) if "namer.root" in tensors else None,
        isolation=Trees(**_named("isolation", tensors, Trees)) if "isolation.root" in tensors else None,
        classes=classes,
        strata={k: s for k, s in strata.items() if k != "whole"},
        weights=weights,
        fused=tails["fused"],
        whole=strata.get("whole"),
        about=meta,
    )


def renamed(checkpoint: Checkpoint, **about: str) -> Checkpoint:
    """The same with other words about itself."""
    return replace(checkpoint, about=dict(checkpoint.about) | about)


def _tails(checkpoint: Checkpoint) -> list[tuple[str, Tail]]:
    out = [("fused", checkpoint.fused)]
    whole = {} if checkpoint.whole is None else {"whole": checkpoint.whole}
    for name, strata in (*checkpoint.strata.items(), *whole.items()):
        out.append((f"{name}.all", strata.everything))
        out += [(f"{name}.{code}", tail) for code, tail in strata.each.items()]
    return out


def _arrays(prefix: str, item: Mixture | Trees) -> dict[str, NDArray[Any]]:
    return {f"{prefix}.{f.name}": np.asarray(getattr(item, f.name)) for f in fields(item)}


def _named(
    prefix: str, tensors: Mapping[str, NDArray[Any]], kind: type[Mixture] | type[Trees]
) -> dict[str, Any]:
    """The fields of `kind` under their prefix; what older models held besides is left."""
    return {f.name: tensors[f"{prefix}.{f.name}"] for f in fields(kind)}
