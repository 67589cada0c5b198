"""A network's parameters as the compiled kernels take them: transposed, padded, and with layer norms folded in.

A layer norm's gain and shift before a layer are the layer's: x̂ * g + s through W, b is x̂ through W * g, b + W s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.detector.engines.kernels import CLASSES_PADDED, NO_CLASS
from cmdana_plugin.detector.engines.shape import CLASSES, CONNECTION, LOG, MODALITIES, PACKET, Shape
from cmdana_plugin.detector.engines.weights import (
    FieldWeights,
    Floats,
    Mix,
    PoolWeights,
    PredictorWeights,
    StateWeights,
    TokenWeights,
    UpdateWeights,
)
from feature_extractors.compiled import LANES, padded


class Packed(NamedTuple):
    """All parameters of a network."""

    code: Floats
    slope: Floats
    tokens: dict[int, TokenWeights]  # of packets and logs
    pools: dict[int, PoolWeights]
    update: UpdateWeights
    state: StateWeights
    ahead: FieldWeights
    predictors: tuple[PredictorWeights, ...]


def packed(network: Mapping[str, NDArray[np.float32]], shape: Shape) -> Packed:
    """The parameters of a checkpoint's network, checked before, for networks that `kernels.fits`."""
    made = _Packing(network, shape)
    d = shape.width
    return Packed(
        code=_single(network["connection.code.weight"]),
        slope=_single(network["connection.slope"]),
        tokens={
            PACKET: TokenWeights(*made.layer("packets.read"), *made.layer("packets.think.1", "packets.think.0")),
            LOG: TokenWeights(
                _single(network["logs.bucket.weight"]), np.zeros(d, np.float32),
                *made.layer("logs.think.1", "logs.think.0"),
            ),
        },
        pools={m: made.pool(name) for m, name in ((PACKET, "packets"), (CONNECTION, "connection"), (LOG, "logs"))},
        update=UpdateWeights(
            *made.layer("summary.0"), *made.layer("write", "summary.2"), *made.layer("value", "summary.2"),
            *made.layer("recent", "summary.2"),
        ),
        state=StateWeights(
            *made.layer("counts.0"), *made.layer("counts.2"), *made.layer("look_back"), *made.layer("remember"),
            _single(network["state_norm.weight"]), _single(network["state_norm.bias"]), *made.layer("gate.0"),
            *made.layer("gate.2"),
        ),
        ahead=made.fields("next.0", "next.2"),
        predictors=tuple(made.predictor(f"predictors.{m}") for m in range(MODALITIES)),
    )  # fmt: skip


class _Packing:
    def __init__(self, network: Mapping[str, NDArray[np.float32]], shape: Shape) -> None:
        self._network = network
        self._shape = shape

    def layer(self, name: str, norm: str = "") -> tuple[Floats, Floats]:
        """A layer [inside, outside] with its bias, and with the layer norm before it."""
        weight, bias = (self._network[f"{name}.{part}"].astype(np.float64) for part in ("weight", "bias"))
        if norm:
            bias = bias + weight @ self._network[f"{norm}.bias"].astype(np.float64)
            weight = weight * self._network[f"{norm}.weight"].astype(np.float64)
        return _single(padded(weight.T)), _single(padded(bias))

    def heads(self, name: str, norm: str = "") -> tuple[Floats, Floats]:
        """A layer's part of each head [heads, inside, padded], with biases [heads, padded]."""
        weight, bias = self.layer(name, norm)
        heads, d = self._shape.heads, self._shape.width
        split = weight[:, :d].reshape(len(weight), heads, d // heads).transpose(1, 0, 2)
        size = -(-d // heads // (2 * LANES)) * 2 * LANES
        return _single(padded(split, size)), _single(padded(bias[:d].reshape(heads, -1), size))

    def mix(self, name: str, norm: str) -> Mix:
        return Mix(
            *self.layer(f"{name}.1", f"{name}.0"), *self.layer(f"{name}.3"),
            _single(self._network[f"{norm}.weight"]), _single(self._network[f"{norm}.bias"]),
        )  # fmt: skip

    def pool(self, modality: str) -> PoolWeights:
        name = f"{modality}.pool"
        return PoolWeights(
            *self.layer(f"{name}.score", f"{name}.norm"), *self.heads(f"{name}.value", f"{name}.norm"),
            np.zeros(self._shape.width, np.float32), self.mix(f"{name}.mix", f"{name}.out"),
        )  # fmt: skip

    def predictor(self, name: str) -> PredictorWeights:
        heads, d = self._shape.heads, self._shape.width
        key = self._network[f"{name}.key.weight"].astype(np.float64).reshape(heads, d // heads, d)
        return PredictorWeights(
            *self.layer(f"{name}.query"), _single(key * (d // heads) ** -0.5), *self.heads(f"{name}.value"),
            np.zeros(d, np.float32), self.mix(f"{name}.mix", f"{name}.norm"),
            self.fields(f"{name}.widen", f"{name}.classes"),
        )  # fmt: skip

    def fields(self, wide: str, classes: str) -> FieldWeights:
        weight, bias = self._network[f"{classes}.weight"], self._network[f"{classes}.bias"]
        by_field = weight.reshape(-1, CLASSES, weight.shape[1]).transpose(0, 2, 1)
        return FieldWeights(
            *self.layer(wide),
            _single(padded(by_field, CLASSES_PADDED)),
            _single(padded(bias.reshape(-1, CLASSES), CLASSES_PADDED, NO_CLASS)),
        )


def _single(x: NDArray[np.floating]) -> Floats:
    return np.ascontiguousarray(x, np.float32)
