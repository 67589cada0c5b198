"""What was learned of behaviour: trees over the fields, their calibration, what is usual, and a site's past."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.behaviour.past import packed, unpacked
from cmdana_plugin.detector import Checkpoint, Tail, Trees, Unsound, check_tail, check_trees
from feature_extractors import CmdanaError, SchemaError
from feature_extractors.compiled import hashed, key_of
from feature_extractors.features import load_schema

DIGEST: Final = "behaviour_digest"  # in a checkpoint's `about`
_TREES: Final = "trees"
_PAST: Final = "past."
_TAILS: Final = ("known", "unknown")
_FIT: Final = 4  # numbers of a tail


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What `training` makes and `WithBehaviour` judges with."""

    trees: Trees  # log odds of a rehearsed intrusion against a network's own connections
    known: Tail  # of the log odds of normal connections, where the originator has a past
    unknown: Tail  # likewise where it has next to none
    usual: NDArray[np.float64]  # [B] medians of the fields of normal connections, NaN where mostly unset
    site: int = 0  # `mark_of` the salt under which the past is told; 0 without a past
    past: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # what the site's streams came to


def mark_of(salt: int) -> int:
    """Tells whether two salts are the same, and nothing else of them; never 0."""
    zero = np.zeros(1, np.uint64)
    return int(hashed(key_of(salt), zero, zero)[0]) | 1


def with_behaviour(checkpoint: Checkpoint, behaviour: Behaviour | None) -> Checkpoint:
    """The checkpoint with, or without, what was learned of behaviour."""
    about = {k: v for k, v in checkpoint.about.items() if k != DIGEST}
    if behaviour is None:
        return replace(checkpoint, about=about, behaviour={})
    arrays: dict[str, NDArray[Any]] = {
        f"{_TREES}.{f.name}": np.asarray(getattr(behaviour.trees, f.name)) for f in fields(Trees)
    }
    for name in _TAILS:
        tail: Tail = getattr(behaviour, name)
        arrays[f"{name}.sample"] = np.stack([tail.order, tail.above])
        arrays[f"{name}.fit"] = np.array([float(tail.size), tail.start, tail.shape, tail.scale])
    arrays["usual"] = behaviour.usual
    arrays["site"] = np.array([behaviour.site], np.uint64)
    if behaviour.past:
        arrays |= {f"{_PAST}{name}": array for name, array in packed(behaviour.past).items()}
    return replace(checkpoint, about=about | {DIGEST: load_schema().behaviour_digest}, behaviour=arrays)


def behaviour_of(checkpoint: Checkpoint) -> Behaviour | None:
    """What a checkpoint says of behaviour, checked; None where it says nothing.

    Raises `CmdanaError` where it is not sound, `SchemaError` where it was made with other fields.
    """
    arrays = checkpoint.behaviour
    if not arrays:
        return None
    digest = checkpoint.about.get(DIGEST, "")
    if digest != load_schema().behaviour_digest:
        expected = load_schema().behaviour_digest[:12]
        raise SchemaError(
            f"model: behaviour learned with fields {digest[:12]!r}, expected {expected}: train again"
        )
    try:
        return _checked(arrays)
    except Unsound as fault:
        raise CmdanaError(f"model: behaviour: {fault}") from None


def _checked(arrays: Mapping[str, NDArray[Any]]) -> Behaviour:
    width = len(load_schema().behaviour)
    known = {f"{_TREES}.{f.name}" for f in fields(Trees)} | {"usual", "site"}
    known |= {f"{name}.{part}" for name in _TAILS for part in ("sample", "fit")}
    for name in sorted(known - arrays.keys()):
        raise Unsound(name, "nothing", "an array")
    for name in sorted(arrays.keys() - known):
        if not name.startswith(_PAST):
            raise Unsound(name, "it", "no such array")
    check_trees(_TREES, arrays, width, 1)
    tails = {name: _tail(name, arrays) for name in _TAILS}
    usual, site = arrays["usual"], arrays["site"]
    if usual.dtype != np.float64 or usual.shape != (width,) or np.isinf(usual).any():
        raise Unsound("usual", f"{usual.dtype} {list(usual.shape)[:4]}", f"float64 [{width}], no infinity")
    if site.dtype != np.uint64 or site.shape != (1,):
        raise Unsound("site", f"{site.dtype} {list(site.shape)[:4]}", "uint64 [1]")
    return Behaviour(
        trees=Trees(**{f.name: arrays[f"{_TREES}.{f.name}"] for f in fields(Trees)}),
        usual=usual,
        site=int(site[0]),
        past=unpacked({k.removeprefix(_PAST): v for k, v in arrays.items() if k.startswith(_PAST)}),
        **tails,
    )


def _tail(name: str, arrays: Mapping[str, NDArray[Any]]) -> Tail:
    sample, fit = arrays[f"{name}.sample"], arrays[f"{name}.fit"]
    if fit.dtype != np.float64 or fit.shape != (_FIT,) or not np.isfinite(fit).all():
        raise Unsound(f"{name}.fit", f"{fit.dtype} {list(fit.shape)[:4]}", f"{_FIT} finite numbers")
    if sample.dtype != np.float64 or sample.ndim != 2 or len(sample) != 2:
        raise Unsound(f"{name}.sample", f"{sample.dtype} {list(sample.shape)[:4]}", "float64 [2, N]")
    size, start, shape, scale = fit.tolist()
    if size != int(size):
        raise Unsound(f"{name}.fit", f"a size of {size}", "a whole number")
    check_tail(name, [int(size), start, shape, scale], sample)
    return Tail(sample[0], sample[1], int(size), start, shape, scale)
