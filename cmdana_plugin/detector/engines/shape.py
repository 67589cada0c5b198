"""What a network is made of: its sizes, the names and shapes of its parameters; without any library that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from cmdana_plugin.detector.history import KINDS, MEMORY, RING_WIDTH

PACKET, CONNECTION, LOG, STATE = range(4)
MODALITIES: Final = 3  # those that are predicted; the state is the fourth source
CLASSES: Final = 34  # of every predicted field: unset, zero, bins or codes


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a network (its hyperparameters), stored in the checkpoint."""

    numeric: int
    categorical: tuple[int, ...]  # codes of each
    state: int
    packet_width: int
    log_width: int
    log_buckets: int
    targets: tuple[int, int, int]  # predicted fields of packets, connection, logs
    width: int = 48
    latents: int = 2
    heads: int = 4


def parameters_of(shape: Shape) -> dict[str, object]:
    """The sizes of a network as JSON values."""
    return asdict(shape)


_ONCE: Final = {"static_gate": False, "use_memory": True, "cross": True, "concatenate": False, "own": False}


def shape_of(parameters: Mapping[str, Any]) -> Shape:
    """The sizes of a network from JSON values. Raises `ValueError` for a network that is an ablation.

    Older models name what ablations of theirs left out: here those are other classes, and never on disk.
    """
    kept = dict(parameters)
    for name, shipped in _ONCE.items():
        if kept.pop(name, shipped) != shipped:
            raise ValueError(f"found {name} {str(not shipped).lower()}, expected {str(shipped).lower()}")
    kept |= {"categorical": tuple(kept["categorical"]), "targets": tuple(kept["targets"])}
    return Shape(**kept)


def table_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """The shape of every array of a `DependencyNetwork` by name."""
    fields = sum(shape.targets)
    return {"parent": (fields,), "log_probability": (fields, CLASSES, CLASSES)}


def parameter_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of a `Network` by name, without allocating any."""
    d, wide = shape.width, 2 * shape.width
    found: dict[str, tuple[int, ...]] = {}

    def linear(name: str, inside: int, outside: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (outside, inside), (outside,)

    def norm(name: str) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (d,), (d,)

    def mix(name: str) -> None:
        norm(f"{name}.0")
        linear(f"{name}.1", d, wide)
        linear(f"{name}.3", wide, d)

    for name in ("packets", "connection", "logs"):
        norm(f"{name}.pool.norm")
        linear(f"{name}.pool.score", d, shape.latents * shape.heads)
        linear(f"{name}.pool.value", d, d)
        mix(f"{name}.pool.mix")
        norm(f"{name}.pool.out")
        if name != "connection":
            norm(f"{name}.think.0")
            linear(f"{name}.think.1", d, d)
    found["connection.code.weight"] = (shape.numeric * CLASSES + sum(shape.categorical), d)
    found["connection.slope"] = (shape.numeric, d)
    linear("packets.read", 3 * shape.packet_width, d)
    found["logs.bucket.weight"] = (shape.log_buckets, d)
    linear("summary.0", 3 * d + 3, d)
    norm("summary.2")
    linear("write", d, KINDS * MEMORY)
    linear("value", d, KINDS * MEMORY)
    linear("recent", d, RING_WIDTH)
    found["log_half_life"] = (KINDS, MEMORY)
    linear("counts.0", 2 * shape.state, d)
    linear("counts.2", d, d)
    linear("look_back", d, RING_WIDTH)
    linear("remember", KINDS * MEMORY + RING_WIDTH, d)
    norm("state_norm")
    linear("gate.0", d + 3, d)
    linear("gate.2", d, 4)
    for k, targets in enumerate(shape.targets):
        name = f"predictors.{k}"
        linear(f"{name}.query", d, shape.latents * d)
        linear(f"{name}.key", d, d)
        linear(f"{name}.value", d, d)
        mix(f"{name}.mix")
        norm(f"{name}.norm")
        linear(f"{name}.widen", shape.latents * d, wide)
        linear(f"{name}.classes", wide, targets * CLASSES)
    linear("next.0", d, wide)
    linear("next.2", wide, shape.targets[CONNECTION] * CLASSES)
    return found
