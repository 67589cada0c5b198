"""Whether a checkpoint holds together. A model may come from a stranger: all of it is checked before any is used.

Every name, type, shape, index and number of the file is compared with what the schema and the file's own creation
parameters let expect. What passes cannot make the detector read beside an array, loop, or give anything but a score.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.detector.calibration import KEPT
from cmdana_plugin.detector.engines.shape import Shape, parameter_shapes, table_shapes
from cmdana_plugin.detector.engines.shape import shape_of as shape_of_network
from cmdana_plugin.detector.inputs import EDGES, density_columns, isolation_columns
from cmdana_plugin.detector.networks.names import CROSS_MODAL, DEPENDENCY, DETECTORS, NETWORKS
from cmdana_plugin.detector.scores import ANOMALOUS, BENIGN
from cmdana_plugin.detector.trees import LEAVES
from feature_extractors.features import FIRST_SIZES, PACKET_FIELDS, TOKEN_WIDTH, Schema

Arrays = Mapping[str, NDArray[Any]]

COMPONENTS: Final = (
    "packets", "connection", "log", "residual", "next", "density", "novelty", "isolation", "attack",
)  # fmt: skip
TREES: Final = ("trees", "namer", "isolation")
INCIDENTS: Final = (2, 11, 3)  # of the tails of incidents: roles, statistics and the rarest of them, numbers
_INCIDENTS_BEFORE: Final = (2, 10, 3)  # of models of before, which knew one statistic less: learned anew
BEHAVIOUR: Final = "behaviour"  # whose arrays the room of that name checks before it uses them
_TAILS: Final = frozenset((*COMPONENTS, "whole"))
_MAX_TEXT_CHARACTERS: Final = 1 << 20  # characters of one entry of the metadata
_MAX_CLASSES: Final = 256
_MAX_NAME_CHARACTERS: Final = 100  # characters of a name, as it is shown
# of a weight, either way: training comes to ten; products of more may leave single precision
_GREATEST: Final = 1e3
_MAX_LOG_HALF_LIFE: Final = 40.0  # logarithm of a half-life in seconds, either way
_MAX_FEATURE_MAGNITUDE: Final = 1e9  # of a feature's mean, spread or bin, and of a tail, either way
_MAX_LEAF_MAGNITUDE: Final = 1e6  # of a leaf, or an entry of the mixture, either way
_MAX_WIDTH: Final = 512
_MAX_PARTS: Final = 64  # latents, heads
_MAX_GAUSSIANS: Final = 256
_MAX_STRATUM: Final = 1 << 31
_MAX_FUSION_WEIGHT: Final = 1e3


class Unsound(Exception):
    """An entry of a model file is not as expected; the message says what was found and what was expected."""

    def __init__(self, entry: str, found: object, expected: str) -> None:
        super().__init__(f"{shown(entry)}: found {found}, expected {expected}")


def shown(text: str) -> str:
    """A text of a model file made safe to print: one line, no control characters, 100 characters at most."""
    cut = text if len(text) <= _MAX_NAME_CHARACTERS else text[: _MAX_NAME_CHARACTERS - 1] + "…"
    return cut if cut.isprintable() else "".join(map(_sign, cut))


def _sign(c: str) -> str:
    if c.isprintable():
        return c
    return f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}"


def shape_of(meta: Mapping[str, str], schema: Schema) -> Shape:
    """The sizes of the network from the metadata. Raises `Unsound`, as all below."""
    given = _json(meta, "shape")
    fixed: dict[str, object] = {
        "numeric": len(schema.numeric),
        "categorical": [c.size for c in schema.categorical],
        "state": len(schema.state),
        "packet_width": len(PACKET_FIELDS),
        "log_width": TOKEN_WIDTH,
        "log_buckets": schema.log_buckets,
        "targets": [
            2 * FIRST_SIZES, len(schema.numeric) + len(schema.categorical), sum(schema.summary_target)
        ],
    }  # fmt: skip
    flags = ("static_gate", "use_memory", "cross", "concatenate", "own")
    sizes = {"width": _MAX_WIDTH, "latents": _MAX_PARTS, "heads": _MAX_PARTS}
    if not isinstance(given, dict) or not fixed.keys() <= given.keys() <= fixed.keys() | {*flags, *sizes}:
        raise Unsound("shape", _brief(given), f"an object with {', '.join(fixed)} and more")
    for name, wanted in fixed.items():
        if not _same(given[name], wanted):
            raise Unsound(f"shape {name}", _brief(given[name]), f"{wanted} as in schema.yaml")
    for name in flags:
        if not isinstance(given.get(name, False), bool):
            raise Unsound(f"shape {name}", _brief(given[name]), "true or false")
    for name, most in sizes.items():
        value = given.get(name, 1)
        if not _whole(value) or not 1 <= value <= most:
            raise Unsound(f"shape {name}", _brief(value), f"a whole number of 1..{most}")
    try:
        shape = shape_of_network(given)
    except ValueError as error:
        raise Unsound("shape", "an ablation", f"a model to judge with: {error}") from None
    if shape.width % shape.heads:
        raise Unsound("shape heads", shape.heads, f"a divisor of the width {shape.width}")
    return shape


def classes_of(meta: Mapping[str, str]) -> tuple[str, ...]:
    """The names of attacks that the supervised head may give, safe to print."""
    given = _json(meta, "classes")
    if not isinstance(given, list) or len(given) > _MAX_CLASSES or not all(isinstance(c, str) for c in given):
        raise Unsound("classes", _brief(given), f"a list of {_MAX_CLASSES} names at most")
    names = tuple(map(shown, given))
    for name in names:
        if not name.strip() or name in (BENIGN, ANOMALOUS) or names.count(name) > 1:
            raise Unsound("classes", repr(name), "names of attacks, each once")
    return names


def detector_of(meta: Mapping[str, str]) -> str:
    """The name of the detector; models of before there was a choice are cross-modal."""
    name = meta.get("detector", CROSS_MODAL)
    if name not in DETECTORS:
        raise Unsound("detector", repr(shown(name)), f"one of {', '.join(DETECTORS)}")
    return name


def _width_of_fields(shape: Shape, detector: str) -> None:
    if detector in NETWORKS and shape.width % 8:
        raise Unsound("shape width", shape.width, f"a multiple of 8 for {detector}")


def density_width(shape: Shape, detector: str, schema: Schema) -> int:
    """The number of columns of the mixture: of the features, or of what the network made of them."""
    return shape.width if detector in NETWORKS else len(schema.numeric) + len(density_columns(schema))


def weights_of(meta: Mapping[str, str], there: Arrays, detector: str = CROSS_MODAL) -> dict[str, float]:
    """The weight of each component in the fusion, by name."""
    given = _json(meta, "weights")
    fused = [c for c in COMPONENTS if c != "isolation"]
    if not isinstance(given, dict) or not given or not given.keys() <= set(fused):
        raise Unsound("weights", _brief(given), f"an object of numbers by component ({', '.join(fused)})")
    for name, weight in given.items():
        if not _number(weight) or not 0.0 <= weight <= _MAX_FUSION_WEIGHT:
            raise Unsound(f"weights {name}", _brief(weight), f"a number of 0..{_MAX_FUSION_WEIGHT:g}")
    if not sum(given.values()) > 0.0:
        raise Unsound("weights", _brief(given), "one above 0")
    if "attack" in given and "trees.root" not in there and detector not in NETWORKS:
        raise Unsound("weights attack", given["attack"], "none, or trees")
    return {k: float(v) for k, v in given.items()}


def tails_of(meta: Mapping[str, str], tensors: Arrays, weights: Iterable[str]) -> dict[str, Any]:
    """Size, start, shape and scale of each tail by its name, `fused`, COMPONENT.all or COMPONENT.STRATUM."""
    given = _json(meta, "tails")
    if not isinstance(given, dict):
        raise Unsound("tails", _brief(given), "an object")
    arrays = {k.removeprefix("tail.") for k in tensors if k.startswith("tail.")}
    for name in arrays ^ given.keys():
        raise Unsound("tails", repr(shown(name)), "the same tails in the metadata and as tensors")
    for name in ("fused", *(f"{w}.all" for w in weights)):
        if name not in given:
            raise Unsound("tails", f"no {name}", "one for each component and the whole")
    for name, numbers in given.items():
        _tail_name(name, given, tensors)
        x = _array(tensors, f"tail.{name}", np.float64, (2, None))
        check_tail(name, numbers, x)
    return given


def check_tail(name: str, numbers: object, x: NDArray[Any]) -> None:
    """Raises `Unsound` unless a tail has four numbers and a sample [2, n] of rising values and falling shares."""
    if not isinstance(numbers, list) or len(numbers) != 4 or not all(map(_number, numbers)):
        raise Unsound(f"tails {name}", _brief(numbers), "size, start, shape and scale")
    size, start, xi, scale = numbers
    if not _whole(size) or not 0 <= size < 1 << 53:
        raise Unsound(f"tails {name}", f"size {_brief(size)}", "a whole number from 0 on")
    if (
        abs(start) > _MAX_FEATURE_MAGNITUDE
        or not 0.0 <= xi <= 1.0
        or not 1e-9 <= scale <= _MAX_FEATURE_MAGNITUDE
    ):
        raise Unsound(f"tails {name}", _brief(numbers), "a start, a shape of 0..1 and a scale above 0")
    if x.shape[1] > KEPT:
        raise Unsound(f"tail.{name}", f"{x.shape[1]} values", f"{KEPT} at most")
    order, above = x
    _within(f"tail.{name}", order, _MAX_FEATURE_MAGNITUDE)
    if (order[1:] < order[:-1]).any():
        raise Unsound(f"tail.{name}", "values that fall", "rising ones")
    # 1 - k / n may be rounded to a little below nothing.
    if not ((above >= -1e-9) & (above <= 1.0)).all() or (above[1:] > above[:-1]).any():
        raise Unsound(f"tail.{name}", "other shares", "falling ones from 1 to 0")


def _tail_name(name: str, given: Mapping[str, Any], tensors: Arrays) -> None:
    if name == "fused":
        return
    component, _, stratum = name.partition(".")
    known = component in _TAILS and f"{component}.all" in given
    if stratum != "all":
        known &= stratum.isascii() and stratum.isdigit() and len(stratum) <= 10
        known = known and str(int(stratum)) == stratum and int(stratum) < _MAX_STRATUM
    if not known:
        raise Unsound("tails", repr(shown(name)), "fused, COMPONENT.all or COMPONENT.NUMBER")
    if component == "isolation" and "isolation.root" not in tensors:
        raise Unsound("tails isolation", "one", "none, or an isolation forest")


def check_network(shape: Shape, tensors: Arrays, detector: str = CROSS_MODAL, classes: int = 0) -> None:
    """Raises `Unsound` unless every parameter is there, of its shape, finite and of a magnitude that training gives."""
    _width_of_fields(shape, detector)
    if detector == CROSS_MODAL:
        expected = parameter_shapes(shape)
    elif detector == DEPENDENCY:
        expected = table_shapes(shape)
    else:
        from cmdana_plugin.detector.networks.elements import shapes_of

        expected = shapes_of(NETWORKS[detector], shape, classes)
    found = {k.removeprefix("network.") for k in tensors if k.startswith("network.")}
    for name in sorted(found ^ expected.keys()):
        raise Unsound(
            f"network.{name}", "it" if name in found else "nothing", "the parameters that the shape asks for"
        )
    for name, size in expected.items():
        entry = f"network.{name}"
        x = _array(tensors, entry, np.float32, size)
        _within(entry, x, _MAX_LOG_HALF_LIFE if name == "log_half_life" else _GREATEST)
    if detector == DEPENDENCY:
        _check_tables(tensors, sum(shape.targets))


def _check_tables(tensors: Arrays, fields: int) -> None:
    parent, log_p = tensors["network.parent"], tensors["network.log_probability"]
    if (parent != np.round(parent)).any() or parent.min() < -1 or parent.max() >= fields:
        raise Unsound("network.parent", "others", f"whole numbers of -1..{fields - 1}")
    if (log_p > 1e-6).any() or (np.abs(np.exp(log_p).sum(axis=2) - 1.0) > 1e-3).any():
        raise Unsound("network.log_probability", "other numbers", "logarithms of shares that sum to 1")


def check_preparation(tensors: Arrays, schema: Schema) -> None:
    """Raises `Unsound` unless bins rise, means are finite and spreads positive."""
    for name, width in (
        ("numeric", len(schema.numeric)), ("first_packets", 2 * FIRST_SIZES), ("summary", len(schema.summary))
    ):  # fmt: skip
        entry = f"preparation.{name}"
        edges = _array(tensors, entry, np.float32, (width, EDGES))
        _within(entry, edges, _MAX_FEATURE_MAGNITUDE)
        if (edges[:, 1:] < edges[:, :-1]).any():
            raise Unsound(entry, "bins that fall", "rising ones")
    for name, width in (("numeric_scale", len(schema.numeric)), ("state_scale", len(schema.state))):
        entry = f"preparation.{name}"
        scale = _array(tensors, entry, np.float32, (2, width))
        _within(entry, scale, _MAX_FEATURE_MAGNITUDE)
        if (scale[1] < 1e-3).any():
            raise Unsound(entry, f"a spread of {scale[1].min():g}", "one above 0")


def check_mixture(tensors: Arrays, width: int) -> None:
    """Raises `Unsound` unless every covariance of the mixture is positive definite and weights are logarithms."""
    mean = _array(tensors, "mixture.mean", np.float64, (None, width))
    k = len(mean)
    if not 1 <= k <= _MAX_GAUSSIANS:
        raise Unsound("mixture.mean", f"{k} Gaussians", f"1..{_MAX_GAUSSIANS}")
    root = _array(tensors, "mixture.root", np.float64, (k, width, width))
    weight = _array(tensors, "mixture.weight", np.float64, (k,))
    constant = _array(tensors, "mixture.constant", np.float64, (k,))
    for name, x in (("mean", mean), ("root", root), ("weight", weight), ("constant", constant)):
        _within(f"mixture.{name}", x, _MAX_LEAF_MAGNITUDE)
    diagonal = np.diagonal(root, axis1=1, axis2=2)
    # An upper triangle with a positive diagonal is the root of a positive definite matrix.
    if not (diagonal > 0.0).all() or (np.abs(np.tril(root, -1)) > 1e-6).any():
        raise Unsound("mixture.root", "no such matrix", "an upper triangle with a diagonal above 0")
    if np.abs(np.log(diagonal).sum(axis=1) - constant).max() > 1e-3:
        raise Unsound("mixture.constant", "other numbers", "logarithms of the roots' determinants")
    if abs(np.exp(np.minimum(weight, 1.0)).sum() - 1.0) > 1e-3:
        raise Unsound("mixture.weight", "other numbers", "logarithms of shares that sum to 1")


def columns_of(prefix: str, schema: Schema) -> int:
    """The number of columns of the table that a forest of the checkpoint takes."""
    if prefix == "isolation":
        return len(schema.numeric) + len(isolation_columns(schema))
    listed = len(schema.numeric) + len(schema.categorical) + len(schema.state) + len(schema.summary)
    return listed + 2 * FIRST_SIZES


def check_trees(prefix: str, tensors: Arrays, width: int, outputs: int) -> None:
    """Raises `Unsound` unless it is a forest over `width` columns: each node has one parent or is a root."""
    root = _array(tensors, f"{prefix}.root", np.int32, (None,))
    left = _array(tensors, f"{prefix}.left", np.int32, (None,))
    trees, nodes = len(root), len(left)
    output = _array(tensors, f"{prefix}.output", np.int32, (trees,))
    feature = _array(tensors, f"{prefix}.feature", np.int32, (nodes,))
    threshold = _array(tensors, f"{prefix}.threshold", np.float32, (nodes,))
    unset_left = _array(tensors, f"{prefix}.unset_left", np.bool_, (nodes,))
    value = _array(tensors, f"{prefix}.value", np.float64, (nodes,))
    if not trees or not nodes:
        raise Unsound(f"{prefix}.root", f"{trees} trees", "one or more")
    for name, x, most in (
        ("root", root, nodes), ("left", left, nodes), ("output", output, outputs), ("feature", feature, width)
    ):  # fmt: skip
        low, high = int(x.min()), int(x.max())
        if low < 0 or high >= most:
            raise Unsound(f"{prefix}.{name}", low if low < 0 else high, f"0..{most - 1}")
    if outputs > 1 and int(output.max()) != outputs - 1:
        raise Unsound(f"{prefix}.output", f"none above {output.max()}", f"one for each of {outputs} classes")
    if np.isnan(threshold).any():
        raise Unsound(f"{prefix}.threshold", "NaN", "numbers")
    if unset_left.view(np.uint8).max() > 1:
        raise Unsound(f"{prefix}.unset_left", int(unset_left.view(np.uint8).max()), "0 or 1")
    _within(f"{prefix}.value", value, _MAX_LEAF_MAGNITUDE)
    leaf = left == np.arange(nodes)
    if (left[~leaf] <= np.flatnonzero(~leaf)).any() or (left[~leaf] >= nodes - 1).any():
        raise Unsound(f"{prefix}.left", "children that do not lie behind their parent", "ones that do")
    reached, leaves = np.zeros(nodes, np.int64), np.zeros(trees, np.int64)
    at, tree = root.astype(np.int64), np.arange(trees)
    for _ in range(LEAVES):  # a tree of so many leaves is no deeper
        reached += np.bincount(at, minlength=nodes)
        if reached.max() > 1:
            raise Unsound(f"{prefix}.left", f"node {int(reached.argmax())} twice", "each node in one place")
        done = leaf[at]
        leaves += np.bincount(tree[done], minlength=trees)
        at, tree = left[at[~done]].astype(np.int64), tree[~done]
        at, tree = np.concatenate([at, at + 1]), np.concatenate([tree, tree])
    if len(at) or leaves.max() > LEAVES:
        raise Unsound(f"{prefix}.left", "no trees of that size", f"trees of {LEAVES} leaves at most")
    if reached.min() < 1:
        raise Unsound(f"{prefix}.left", f"node {int(reached.argmin())} in no tree", "each node in one")


def are_tails(x: NDArray[Any]) -> bool:
    """Whether these are tails of evidence against hosts: where each begins, its scale and its shape."""
    if x.shape != INCIDENTS or x.dtype != np.float64:
        return False
    level, scale, shape = x[..., 0], x[..., 1], x[..., 2]
    fine = (
        (level >= 0.0)
        & (level <= _MAX_FEATURE_MAGNITUDE)
        & (scale >= 1e-9)
        & (scale <= _MAX_FEATURE_MAGNITUDE)
        & (shape >= 0.0)
        & (shape <= 1.0)
    )
    return bool(fine.all())


def incidents_of(tensors: Arrays) -> NDArray[np.float64] | None:
    """The tails of evidence against hosts: where each begins, its scale and its shape; None where there are none."""
    if "incidents.tails" not in tensors or tensors["incidents.tails"].shape == _INCIDENTS_BEFORE:
        return None
    x = _array(tensors, "incidents.tails", np.float64, INCIDENTS)
    if not are_tails(x):
        raise Unsound("incidents.tails", "other numbers", "levels, scales above 0 and shapes of 0..1")
    return x


def check_names(tensors: Arrays) -> None:
    """Raises `Unsound` where the file has an entry that no checkpoint has."""
    parts = {
        "preparation": ("numeric", "numeric_scale", "first_packets", "summary", "state_scale"),
        "mixture": ("weight", "mean", "root", "constant"),
        "incidents": ("tails",),
    } | dict.fromkeys(
        TREES, ("root", "output", "feature", "threshold", "left", "unset_left", "value", "depth")
    )  # `depth`: of older models
    for name in tensors:
        group, _, rest = name.partition(".")
        if group not in ("network", "tail", BEHAVIOUR) and rest not in parts.get(group, ()):
            raise Unsound(name, "it", "no such tensor")


def check_about(about: Mapping[str, str]) -> None:
    """Raises `Unsound` unless the other metadata are texts of bounded length."""
    if len(about) > 64:
        raise Unsound("metadata", f"{len(about)} entries", "64 at most")
    for name, text in about.items():
        if len(name) > _MAX_NAME_CHARACTERS or len(text) > 1 << 16:
            raise Unsound(f"metadata {name}", f"{len(text):,} characters", "65,536 at most")


def _array(tensors: Arrays, entry: str, dtype: type, shape: tuple[int | None, ...]) -> NDArray[Any]:
    x = tensors.get(entry)
    if x is not None and x.dtype == dtype and (x.shape == shape or _like(x.shape, shape)):
        return x
    expected = f"{np.dtype(dtype)} {str(list(shape)).replace('None', 'N')}"
    raise Unsound(entry, "nothing" if x is None else f"{x.dtype} {list(x.shape)[:8]}", expected)


def _like(found: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(found) == len(wanted) and all(w in (None, n) for w, n in zip(wanted, found, strict=True))


def _within(entry: str, x: NDArray[Any], most: float) -> None:
    """Every number is finite and no further than `most` from 0."""
    flat = x.reshape(-1)
    if not len(flat) or np.dot(flat, flat) <= most:  # one product tells it of nearly all; `most` is above 1
        return
    low, high = float(flat.min()), float(flat.max())
    if not (low >= -most and high <= most):  # NaN is neither
        raise Unsound(entry, low if not low >= -most else high, f"finite numbers within {most:g} of 0")


def _json(meta: Mapping[str, str], entry: str) -> Any:
    text = meta.get(entry)
    if text is None:
        raise Unsound(entry, "nothing", "JSON")
    if len(text) > _MAX_TEXT_CHARACTERS:
        raise Unsound(entry, f"{len(text):,} characters", f"{_MAX_TEXT_CHARACTERS:,} at most")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Unsound(entry, repr(text[:40]), "JSON") from None


def _number(x: object) -> bool:
    if not isinstance(x, (int, float)) or isinstance(x, bool):
        return False
    return abs(x) < 1 << 53 if isinstance(x, int) else math.isfinite(x)


def _whole(x: object) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


def _same(found: object, wanted: object) -> bool:
    """Equal, and whole numbers where such are wanted: to Python 1 is True and 1.0 as well."""
    if isinstance(wanted, list):
        return isinstance(found, list) and found == wanted and all(map(_whole, found))
    return _whole(found) and found == wanted


def _brief(x: object) -> str:
    try:
        text = repr(x)
    except (RecursionError, ValueError):  # nested too deeply, or an integer of too many digits
        return type(x).__name__
    return text if len(text) <= 60 else text[:59] + "…"
