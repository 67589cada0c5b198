"""A training that was interrupted goes on: what the network has come to, kept beside the checkpoint to be."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor

from cmdana_plugin import files
from cmdana_plugin.model import Network

FORMAT: Final = "1"
_EVERY: Final = 20.0  # seconds between two writes
_MOMENTS: Final = ("exp_avg", "exp_avg_sq", "step")


@dataclass(slots=True)
class Position:
    """Where a training is: passes and steps done, and the random numbers that come next."""

    epoch: int = 0
    chunk: int = 0  # of this epoch
    step: int = 0  # of all
    at_epoch: Any = None  # state of the generator at the epoch's start
    at_chunk: Any = None


class Progressed:
    """Keeps a training in one file, written at most every `_EVERY` seconds, in one move.

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
        """Puts all back as it was, and says where; None where there is nothing of this training."""
        try:
            with safe_open(str(self.path), framework="pt") as file:
                meta = dict(file.metadata() or {})
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - safe_open is no mapping
        except (OSError, SafetensorError):
            return None
        if meta.get("format") != FORMAT or meta.get("key") != self._key:
            return None
        said = json.loads(meta["said"])
        network.load_state_dict(
            {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}
        )
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        for i, parameter in enumerate(parameters):
            if f"{i}.step" in tensors:
                optimiser.state[parameter] = {name: tensors[f"{i}.{name}"] for name in _MOMENTS}
        for group, (rate, betas) in zip(optimiser.param_groups, said["groups"], strict=True):
            group["lr"], group["betas"] = rate, tuple(betas)
        schedule.last_epoch = said["schedule"]
        torch.set_rng_state(tensors["random"])
        return Position(**said["position"])

    def save(
        self,
        network: Network,
        optimiser: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        rng: np.random.Generator,
        position: Position,
    ) -> None:
        """Writes where the training is, if the last write was long enough ago."""
        if self._clock() - self._written < _EVERY:
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
        said = {
            "groups": [[group["lr"], list(group["betas"])] for group in optimiser.param_groups],
            "schedule": schedule.last_epoch,
            "position": {name: getattr(position, name) for name in Position.__slots__},
        }
        files.replace(
            self.path, serialised(tensors, {"format": FORMAT, "key": self._key, "said": json.dumps(said)})
        )
        self._written = self._clock()

    def done(self) -> None:
        """The checkpoint has been made."""
        self.path.unlink(missing_ok=True)
