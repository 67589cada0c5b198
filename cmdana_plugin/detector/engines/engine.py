"""What a detector asks of whatever computes its network: arrays in, arrays out, by rows that threads share out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable

    from cmdana_plugin.detector.checkpoint import Checkpoint
    from cmdana_plugin.detector.engines.resident import Resident
    from cmdana_plugin.detector.inputs import Prepared
    from cmdana_plugin.detector.network import Network

_SWITCH_INTERVAL_SECONDS: Final = 5e-4  # seconds that a thread may keep the interpreter
_GPU_DEVICES: Final = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # of CUDA, ROCm, and CUDA in Windows' Linux

Floats32 = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Before:
    """What was known and remembered before each event."""

    memory: Floats32  # [n, KINDS, MEMORY]
    ring: Floats32  # [n, RING, RING_WIDTH]
    ring_used: NDArray[np.int32]  # [n]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where a computation puts what it finds of its rows."""

    state: Floats32  # [n, width]
    gate: Floats32  # [n, 4]
    residual: Floats32  # [n, MODALITIES] 0 where absent
    ahead: NDArray[np.float64]  # [n]
    surprise: tuple[NDArray[np.float64], ...]  # by modality [n], left where absent
    chance: tuple[Floats32, ...] | None  # by modality [n, fields, CLASSES], where wanted


class Engine(Protocol):
    """Computes a network. Each job touches rows of its own, so that jobs may run side by side."""

    settle_thread: Callable[[], object] | None  # called once in each thread of a pool

    def rate(self) -> Floats32:
        """The decay rate of the learned memory per second, [KINDS, MEMORY], positive."""

    def blocks(self, n: int) -> Iterator[slice]:
        """The rows of each job over `n` events."""

    def encoding(self, prepared: Prepared, rows: list[Rows], out: Floats32) -> Iterator[Callable[[], None]]:
        """Jobs that put the latents of each modality's rows in `out` [n, 3, latents, width]."""

    def update(
        self,
        latents: Floats32,
        present: NDArray[np.bool_],
        rows: slice,
        out: tuple[Floats32, Floats32, Floats32],
    ) -> None:
        """Puts what a block of events writes in `out`: gate, value [n, KINDS, MEMORY], ring entries [n, RING_WIDTH]."""

    def state(self, prepared: Prepared, before: Before, rows: Rows, out: Outcome) -> None:
        """Puts state, gate and `ahead` of some events in `out`."""

    def predicting(
        self, prepared: Prepared, latents: Floats32, rows: Rows, out: Outcome
    ) -> Iterator[Callable[[], None]]:
        """Jobs that put residual, surprise and chances of the modalities of `rows` in `out`, where their state is."""


def engine_of(checkpoint: Checkpoint, device: str, network: type[Network] | None = None) -> Engine:
    """What computes a checkpoint's network: compiled kernels on a processor, torch on a GPU.

    Torch too for networks of other sizes than ours, and for a class of `network`.
    """
    from cmdana_plugin.detector.engines.kernels import fits

    if device == "cpu" and network is None and fits(checkpoint.shape):
        from cmdana_plugin.detector.engines.compiled import Compiled

        return Compiled(checkpoint.network, checkpoint.shape)
    from cmdana_plugin.detector.engines.torch_engine import Torch

    return Torch(checkpoint.network, checkpoint.shape, device, network)


def resident_of(engine: Engine, device: str) -> Resident | None:
    """What scores whole chunks where the memory is, for an engine on a GPU; none for one on a processor."""
    if device == "cpu":
        return None
    from cmdana_plugin.detector.engines.resident import Resident
    from cmdana_plugin.detector.engines.torch_engine import Torch

    return Resident(engine.network, engine.device) if isinstance(engine, Torch) else None


def sees_gpu() -> bool:
    """Whether torch sees a GPU; it is not imported where the system has no device of one."""
    if not any(os.path.exists(device) for device in _GPU_DEVICES):
        return False
    import torch

    return bool(torch.cuda.is_available())


def device_of(setting: str) -> str:
    """The device that `[model] device` means: "auto" is a GPU where torch sees one."""
    return setting if setting != "auto" else "cuda" if sees_gpu() else "cpu"


def share_cores() -> None:
    """Sets what holds for the whole process where scoring is its work: our own threads, each on one core.

    For the start of a program. A product that shares itself out among threads of its own would keep ours waiting, and
    so would a thread that keeps the interpreter while another comes back from a product.
    """
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
