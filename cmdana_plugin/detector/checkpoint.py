"""A trained detector on disk: safetensors with everything that fixes its scores; never pickle."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as serialised

from cmdana_plugin import files
from cmdana_plugin.detector import soundness as sound
from cmdana_plugin.detector.calibration import ENOUGH, ENOUGH_HISTORY, Strata, Tail
from cmdana_plugin.detector.engines.shape import Shape, parameters_of
from cmdana_plugin.detector.inputs import Bins, Preparation
from cmdana_plugin.detector.mixture import Mixture
from cmdana_plugin.detector.networks.names import CROSS_MODAL, NETWORKS
from cmdana_plugin.detector.soundness import TREES, Unsound, shown
from cmdana_plugin.detector.trees import Trees
from feature_extractors import CmdanaError, SchemaError
from feature_extractors.features import Schema

SHIPPED: Final = "cmdana.json"  # in `models`: what the package says of the model beside it
FORMAT: Final = 2
_OWN: Final = ("format", "shape", "detector", "classes", "weights", "tails")  # entries of the metadata
_MAX_FILE_BYTES: Final = 256 * 1024 * 1024  # bytes of a file
# Of safetensors.
_TYPES: Final = {
    "F32": np.float32, "F64": np.float64, "I32": np.int32, "BOOL": np.bool_, "I64": np.int64, "U64": np.uint64,
    "U8": np.uint8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A trained detector as arrays and text: what `cmdana train` writes and `load_detector` reads."""

    shape: Shape
    network: Mapping[str, NDArray[np.float32]]
    preparation: Preparation
    mixture: Mixture
    trees: Trees | None  # malicious or not
    attack_classifier: Trees | None  # which of `classes`
    isolation: Trees | None  # how soon an event is parted from benign traffic; only where no attack weighs
    classes: tuple[str, ...]  # names that the supervised head may give, empty without labels
    strata: Mapping[str, Strata]  # calibration of each component
    weights: Mapping[str, float]  # of each component in the fusion
    fused: Tail  # calibration of the fused evidence
    # Of the overall p-value, -log p, by how well the originator is known; where benign traffic was plenty.
    overall_calibration: Strata | None
    about: Mapping[str, str]  # schema_digest, data_digest, seed, code_digest, created_with, name
    # How rare evidence against a host is on the network that was learned (`decision.usual.tails`); None: not learned.
    incidents: NDArray[np.float64] | None = None
    behaviour: Mapping[str, NDArray[Any]] = field(
        default_factory=dict
    )  # of the room of that name, which checks them
    detector: str = CROSS_MODAL  # its name among `networks.names.DETECTORS`

    def schema_of(self, schema: Schema) -> Schema:
        """`schema`, or that with the further logs, whichever it was made with. Raises `SchemaError` for neither."""
        own = schema.of(self.about.get("schema_digest"))
        if own is None:
            found = shown(str(self.about.get("schema_digest"))[:12])
            raise SchemaError(f"a model made with schema {found}, expected {schema.digest[:12]}: train again")
        return own


@dataclass(frozen=True, slots=True)
class Shipped:
    """The digest and reference scores that the package expects of the model that comes with it."""

    sha256: str
    reference: str  # as in a checkpoint's metadata


@cache
def shipped_model() -> Shipped:
    """The digest and reference scores expected of the shipped model, from `models/cmdana.json`."""
    shipped = json.loads((resources.files("cmdana_plugin") / "models" / SHIPPED).read_text(encoding="ascii"))
    return Shipped(str(shipped["sha256"]), json.dumps(shipped["reference"]))


def fingerprint(checkpoint: Checkpoint) -> str:
    """Tells networks apart: what one has written into memory, another cannot read."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(checkpoint.network):
        digest.update(name.encode() + np.ascontiguousarray(checkpoint.network[name]).tobytes())
    return digest.hexdigest()


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Writes the checkpoint as safetensors, in one move: a reader never sees half a model. Raises `OSError`."""
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
    if checkpoint.attack_classifier is not None:
        tensors |= _arrays("namer", checkpoint.attack_classifier)
    if checkpoint.isolation is not None:
        tensors |= _arrays("isolation", checkpoint.isolation)
    if checkpoint.incidents is not None:
        tensors["incidents.tails"] = checkpoint.incidents
    tensors |= {f"{sound.BEHAVIOUR}.{k}": v for k, v in checkpoint.behaviour.items()}
    tails: dict[str, list[float]] = {}
    for name, tail in _tails(checkpoint):
        tensors[f"tail.{name}"] = np.stack([tail.order, tail.above])
        tails[name] = [tail.size, tail.start, tail.shape, tail.scale]
    meta = {
        "format": str(FORMAT),
        "shape": json.dumps(parameters_of(checkpoint.shape)),
        "detector": checkpoint.detector,
        "classes": json.dumps(list(checkpoint.classes)),
        "weights": json.dumps(dict(checkpoint.weights)),
        "tails": json.dumps(tails),
    }
    contiguous = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
    # With the mode that any new file has here: a service's user reads what root trained.
    files.replace(path, serialised(contiguous, dict(checkpoint.about) | meta))


def load(path: Path, schema: Schema, digest: str | None = None) -> Checkpoint:
    """The checkpoint in a file, all of it checked before any is used (`soundness`): a model may come from a stranger.

    It may be of `schema` or of that with the further logs: `Checkpoint.schema_of` tells. Raises `CmdanaError`, one line
    with file, entry, found and expected, where the file is no checkpoint or not sound, or has another SHA-256 than
    `digest`; `SchemaError` where it was made with another schema.
    """
    content = _content(path)
    if digest is not None and (found := hashlib.sha256(content).hexdigest()) != digest:
        raise CmdanaError(
            f"{path}: found SHA-256 {found[:12]}…, expected {digest[:12]}… of the model that ships"
        )
    return loads(content, path, schema)


def loads(content: bytes, path: Path, schema: Schema) -> Checkpoint:
    """The checkpoint in `content`, which was read from `path`. Raises as `load`."""
    try:
        tensors, meta = _opened(content)
    except (SafetensorError, ValueError, RecursionError) as error:
        what = shown(str(error))
        raise CmdanaError(f"{path}: found no readable model ({what}), expected safetensors") from None
    if meta.get("format") != str(FORMAT):
        raise CmdanaError(f"{path}: found model format {shown(repr(meta.get('format')))}, expected {FORMAT}")
    own = schema.of(meta.get("schema_digest"))
    if own is None:
        raise SchemaError(
            f"{path}: made with schema {shown(str(meta.get('schema_digest'))[:12])}, "
            f"expected {schema.digest[:12]}: train again"
        )
    try:
        with np.errstate(all="ignore"):  # what overflows is refused in words of its own
            return _checked(tensors, meta, own)
    except Unsound as fault:
        raise CmdanaError(f"{path}: {fault}") from None


def _checked(tensors: Mapping[str, NDArray[Any]], meta: Mapping[str, str], schema: Schema) -> Checkpoint:
    """Raises `Unsound`."""
    sound.check_names(tensors)
    about = {k: v for k, v in meta.items() if k not in _OWN}
    sound.check_about(about)
    detector = sound.detector_of(meta)
    shape = sound.shape_of(meta, schema)
    weights = sound.weights_of(meta, tensors, detector)
    classes = sound.classes_of(meta)
    tails = {
        name: Tail(
            tensors[f"tail.{name}"][0],
            tensors[f"tail.{name}"][1],
            size,
            float(start),
            float(xi),
            float(scale),
        )
        for name, (size, start, xi, scale) in sound.tails_of(meta, tensors, weights).items()
    }
    sound.check_network(shape, tensors, detector, len(classes))
    sound.check_preparation(tensors, schema)
    sound.check_mixture(tensors, sound.density_width(shape, detector, schema))
    forests: dict[str, Trees | None] = {}
    for prefix in TREES:
        there = f"{prefix}.root" in tensors
        if there:
            width = sound.columns_of(prefix, schema)
            sound.check_trees(prefix, tensors, width, len(classes) if prefix == "namer" else 1)
        forests[prefix] = Trees(**_named(prefix, tensors, Trees)) if there else None
    if classes and forests["namer"] is None and detector not in NETWORKS:
        raise Unsound("classes", f"{len(classes)} names", "none, or trees that tell them apart")
    if "name" in about:
        about["name"] = shown(about["name"])
    strata = {}
    for name in [*weights, *(n for n in ("isolation", "whole") if f"{n}.all" in tails)]:
        each = {
            int(k.split(".")[1]): t
            for k, t in tails.items()
            if k.startswith(f"{name}.") and not k.endswith(".all")
        }
        strata[name] = Strata(tails[f"{name}.all"], each, ENOUGH if name in weights else ENOUGH_HISTORY)
    return Checkpoint(
        detector=detector,
        shape=shape,
        network={k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")},
        preparation=Preparation(
            numeric=Bins(tensors["preparation.numeric"]),
            numeric_scale=tensors["preparation.numeric_scale"],
            first_packets=Bins(tensors["preparation.first_packets"]),
            summary=Bins(tensors["preparation.summary"]),
            state_scale=tensors["preparation.state_scale"],
        ),
        mixture=Mixture(**_named("mixture", tensors, Mixture)),
        trees=forests["trees"],
        attack_classifier=forests["namer"],
        isolation=forests["isolation"],
        classes=classes,
        strata={k: s for k, s in strata.items() if k != "whole"},
        weights=weights,
        fused=tails["fused"],
        overall_calibration=strata.get("whole"),
        about=about,
        incidents=sound.incidents_of(tensors),
        behaviour={
            k.removeprefix(f"{sound.BEHAVIOUR}."): v
            for k, v in tensors.items()
            if k.startswith(f"{sound.BEHAVIOUR}.")
        },
    )


def _content(path: Path) -> bytes:
    """The file's bytes: copied, since a mapped file that another cuts short would end the process."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise CmdanaError(f"{path}: found no regular file, expected a model")
            if about.st_size > _MAX_FILE_BYTES:
                raise CmdanaError(
                    f"{path}: found {about.st_size:,} bytes, expected a model of {_MAX_FILE_BYTES:,} at most"
                )
            return file.read(about.st_size)
    except OSError as error:
        what = "no such file" if error.errno == errno.ENOENT else error.strerror
        raise CmdanaError(f"{path}: found no readable model ({what}), expected safetensors") from None


def _opened(content: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Tensors and metadata. Raises `SafetensorError` or `ValueError`."""
    tensors = {}
    for name, tensor in cast(Any, deserialize)(content):
        kind = _TYPES.get(tensor["dtype"])
        if kind is None:
            raise ValueError(f"a tensor of type {tensor['dtype']}, expected {', '.join(_TYPES)}")
        tensors[name] = np.frombuffer(tensor["data"], kind).reshape(tensor["shape"])
    (size,) = struct.unpack_from("<Q", content)
    meta = json.loads(content[8 : 8 + size]).get("__metadata__") or {}
    return tensors, {str(k): str(v) for k, v in meta.items()}


def renamed(checkpoint: Checkpoint, **about: str) -> Checkpoint:
    """The same checkpoint with these entries of `about` replaced."""
    return replace(checkpoint, about=dict(checkpoint.about) | about)


def _tails(checkpoint: Checkpoint) -> list[tuple[str, Tail]]:
    out = [("fused", checkpoint.fused)]
    overall = {} if checkpoint.overall_calibration is None else {"whole": checkpoint.overall_calibration}
    for name, strata in (*checkpoint.strata.items(), *overall.items()):
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
