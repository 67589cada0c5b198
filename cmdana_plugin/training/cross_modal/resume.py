"""Resuming an interrupted training: network and optimiser, kept in a file beside the checkpoint to be."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor

from cmdana_plugin import files
from cmdana_plugin.detector import Network

FORMAT: Final = "1"
_WRITE_SECONDS: Final = 20.0  # seconds between two writes
_MOMENTS: Final = ("exp_avg", "exp_avg_sq", "step")


@dataclass(slots=True)
class Position:
    """The position of a training: epochs and steps done, and the state of its random numbers."""

    epoch: int = 0
    chunk: int = 0  # of this epoch
    step: int = 0  # of all
    at_epoch: Any = None  # state of the generator at the epoch's start
    at_chunk: Any = None


class Progressed:
    """The file that keeps a training, written at most every `_WRITE_SECONDS` seconds, in one move.

    `key` names material, recipe and start: a file of another key is passed over. What a host remembers within a
    pass is not kept: it begins anew where a training goes on, so that such a model is as good as, but not bit for
    bit, the one of an uninterrupted training.
    """

    def __init__(self, path: Path, key: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._key = key
        self._clock = clock
        self._written = clock()

    def load(
        self,
        network: Network,
        optimiser: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> Position | None:
        """The position of the kept training, whose state is restored; None where there is none, or it is damaged.

        All of it is checked before anything is put back.
        """
        try:
            with safe_open(str(self.path), framework="pt") as file:
                meta = dict(file.metadata() or {})
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - safe_open is no mapping
        except (OSError, SafetensorError, TypeError, ValueError):
            return None
        if meta.get("format") != FORMAT or meta.get("key") != self._key:
            return None
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        try:
            progress = json.loads(meta["said"])
            position = _position(progress["position"])
            groups = [_group(*g) for g in progress["groups"]]
            done = _count(progress["schedule"])
        except (KeyError, TypeError, ValueError, RecursionError):
            return None
        known = network.state_dict()
        random = tensors.get("random")
        if (
            len(groups) != len(optimiser.param_groups)
            or not all(_fits(tensors.get(f"network.{k}"), v) for k, v in known.items())
            or not all(_moments(tensors, i, p) for i, p in enumerate(parameters))
            or random is None
        ):
            return None
        try:
            torch.set_rng_state(random)
        except (RuntimeError, TypeError):
            return None
        network.load_state_dict({k: tensors[f"network.{k}"] for k in known})
        for i, parameter in enumerate(parameters):
            if f"{i}.step" in tensors:
                optimiser.state[parameter] = {
                    name: tensors[f"{i}.{name}"].to(parameter.device) for name in _MOMENTS
                }
        for group, (rate, betas) in zip(optimiser.param_groups, groups, strict=True):
            group["lr"], group["betas"] = rate, betas
        schedule.last_epoch = done
        return position

    def save(
        self,
        network: Network,
        optimiser: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        rng: np.random.Generator,
        position: Position,
    ) -> None:
        """Writes the state and position of the training, if the last write was `_WRITE_SECONDS` ago."""
        if self._clock() - self._written < _WRITE_SECONDS:
            return
        position.at_chunk = rng.bit_generator.state
        tensors: dict[str, Tensor] = {
            f"network.{k}": v.detach().clone() for k, v in network.state_dict().items()
        }
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        for i, parameter in enumerate(parameters):
            for name, value in optimiser.state.get(parameter, {}).items():
                tensors[f"{i}.{name}"] = value.detach().clone()
        tensors["random"] = torch.get_rng_state()
        progress = {
            "groups": [[group["lr"], list(group["betas"])] for group in optimiser.param_groups],
            "schedule": schedule.last_epoch,
            "position": {name: getattr(position, name) for name in Position.__slots__},
        }
        files.replace(
            self.path, serialised(tensors, {"format": FORMAT, "key": self._key, "said": json.dumps(progress)})
        )
        self._written = self._clock()

    def done(self) -> None:
        """Deletes the file: the checkpoint has been written."""
        self.path.unlink(missing_ok=True)


def _fits(found: Tensor | None, like: Tensor) -> bool:
    """Whether a tensor is there, of the other's shape and type, and finite."""
    if found is None or found.shape != like.shape or found.dtype != like.dtype:
        return False
    return bool(found.isfinite().all())


def _moments(tensors: Mapping[str, Tensor], i: int, parameter: Tensor) -> bool:
    """Whether all or none of a parameter's moments are there, each as it must be."""
    found = [tensors.get(f"{i}.{name}") for name in _MOMENTS]
    if all(x is None for x in found):
        return True
    first, second, step = found
    counted = step is not None and step.numel() == 1 and step.dtype == torch.float32 and bool(step >= 0)
    positive = second is not None and _fits(second, parameter) and bool((second >= 0).all())
    return counted and positive and _fits(first, parameter)


def _count(x: object) -> int:
    if not isinstance(x, int) or isinstance(x, bool) or not 0 <= x < 1 << 40:
        raise ValueError(f"found {x!r}, expected a count")
    return x


def _group(rate: float, betas: Sequence[float]) -> tuple[float, tuple[float, float]]:
    first, second = map(float, betas)
    if not (0.0 <= float(rate) <= 1.0 and 0.0 <= first < 1.0 and 0.0 <= second < 1.0):
        raise ValueError("expected a rate and its two betas")
    return float(rate), (first, second)


def _position(progress: Mapping[str, Any]) -> Position:
    """Raises `TypeError`, `ValueError` or `KeyError` for counts or states of a generator that are none."""
    position = Position(**progress)
    for name in ("epoch", "chunk", "step"):
        _count(getattr(position, name))
    for state in (position.at_epoch, position.at_chunk):
        if state is not None:
            np.random.default_rng().bit_generator.state = state
    if position.chunk and position.at_chunk is None:
        raise ValueError("a chunk without its generator's state")
    return position
