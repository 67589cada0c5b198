"""The network by torch: on a GPU, for ablations, and to tell whether the compiled kernels say the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmdana_plugin.detector.engines.engine import Before, Floats32, Outcome, Rows
from cmdana_plugin.detector.engines.padding import block_size, pad_rows, tokens_of
from cmdana_plugin.detector.engines.shape import CONNECTION, MODALITIES, Shape
from cmdana_plugin.detector.inputs import BLOCK, Prepared, encoded_together, group_by_requested_fields
from cmdana_plugin.detector.network import Network, Past, latent_residual

_GPU_BLOCK_ROWS: Final = (
    8192  # rows of one computation there, always: on a GPU a product depends on their number
)
# logarithm of a sum of exponentials, either way, up to which single precision holds it
_MAX_EXACT_LOGARITHM: Final = 80.0


class Torch:
    """An `Engine` on any of torch's devices, in blocks padded to fixed sizes."""

    def __init__(
        self,
        network: Mapping[str, NDArray[np.float32]],
        shape: Shape,
        device: str = "cpu",
        kind: type[Network] | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.network = (kind or Network)(shape)
        self.network.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in network.items()})
        self.network.to(self.device).eval()
        on_processor = self.device.type == "cpu"
        self._block = BLOCK if on_processor else _GPU_BLOCK_ROWS
        # Blocks side by side, each on one thread: small products do not gain from being shared out.
        self.settle_thread: Callable[[], object] | None = (
            partial(torch.set_num_threads, 1) if on_processor else None
        )

    def rate(self) -> Floats32:
        with torch.inference_mode():
            out: Floats32 = self.network.rate().cpu().numpy()
        return out

    def blocks(self, n: int) -> Iterator[slice]:
        for begin in range(0, n, self._block):
            yield slice(begin, min(begin + self._block, n))

    def _size(self, rows: int) -> int:
        return block_size(rows) if self.device.type == "cpu" else self._block

    def _to(self, x: NDArray[np.generic]) -> Tensor:
        return pad_rows(x, self._size(len(x))).to(self.device)

    def encoding(self, prepared: Prepared, rows: list[Rows], out: Floats32) -> Iterator[Callable[[], None]]:
        for modality, those, length in encoded_together(prepared.features, rows):
            for begin in range(0, len(those), self._block):
                yield partial(
                    self._encode, prepared, modality, those[begin : begin + self._block], length, out
                )

    @torch.inference_mode()
    def _encode(self, prepared: Prepared, modality: int, rows: Rows, length: int, out: Floats32) -> None:
        tokens, other = tokens_of(prepared, modality, rows, length, self._size(len(rows)))
        z = self.network.encode(modality, tokens.to(self.device), other.to(self.device))
        out[rows, modality] = z[: len(rows)].cpu().numpy()

    @torch.inference_mode()
    def update(
        self,
        latents: Floats32,
        present: NDArray[np.bool_],
        rows: slice,
        out: tuple[Floats32, Floats32, Floats32],
    ) -> None:
        found = self.network.memory_update(self._to(latents[rows]), self._to(present[rows]))
        for to, x in zip(out, found, strict=True):
            to[rows] = x[: rows.stop - rows.start].cpu().numpy()

    @torch.inference_mode()
    def state(self, prepared: Prepared, before: Before, rows: Rows, out: Outcome) -> None:
        k, network = len(rows), self.network
        past = Past(
            self._to(before.memory[rows]), self._to(before.ring[rows]), self._to(before.ring_used[rows])
        )
        s = network.read_state(self._to(prepared.state[rows]), self._to(prepared.known[rows]), past)
        out.state[rows] = s[:k].cpu().numpy()
        out.gate[rows] = network.gate_weights(s, self._to(prepared.present[rows]))[:k].cpu().numpy()
        ahead = _surprise(network.look_ahead(s), self._to(prepared.targets[CONNECTION][rows]))
        out.ahead[rows] = ahead[:k].cpu().numpy()

    def predicting(
        self, prepared: Prepared, latents: Floats32, rows: Rows, out: Outcome
    ) -> Iterator[Callable[[], None]]:
        """On a GPU, where each block is padded to the same size, all fields are predicted: more blocks cost more."""
        every = out.chance is not None or self.device.type != "cpu"
        for m in range(MODALITIES):
            there = rows[prepared.present[rows, m]]
            for part, fields in (
                [(there, None)] if every else group_by_requested_fields(prepared.targets[m], there)
            ):
                for begin in range(0, len(part), self._block):
                    yield partial(
                        self._predict, prepared, latents, m, part[begin : begin + self._block], fields, out
                    )

    @torch.inference_mode()
    def _predict(
        self,
        prepared: Prepared,
        latents: Floats32,
        modality: int,
        rows: Rows,
        fields: Rows | None,
        out: Outcome,
    ) -> None:
        k, network = len(rows), self.network
        z, s = self._to(latents[rows]), self._to(out.state[rows])
        bias = network.gate_bias(self._to(out.gate[rows]), self._to(prepared.present[rows]))
        asked = None if fields is None else torch.from_numpy(fields)
        expected, logits = network(modality, z, s, bias, asked)
        out.residual[rows, modality] = latent_residual(expected, z[:, modality])[:k].cpu().numpy()
        if out.chance is not None:
            out.chance[modality][rows] = torch.log_softmax(logits, dim=-1)[:k].cpu().numpy()
        targets = prepared.targets[modality][rows]
        surprise = _surprise(logits, self._to(targets if fields is None else targets[:, fields]))
        out.surprise[modality][rows] = surprise[:k].cpu().numpy()


def _surprise(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log probability [B] of what is set (class -1: not asked)."""
    asked = targets >= 0
    picked = logits.gather(-1, targets.clamp_min(0)[..., None])[..., 0]
    total = logits.exp().sum(dim=-1).log()
    if not bool((total.abs() < _MAX_EXACT_LOGARITHM).all()):  # a third slower, and good for any logits
        total = torch.logsumexp(logits, dim=-1)
    return ((total - picked) * asked).sum(dim=1) / asked.sum(dim=1).clamp_min(1)
