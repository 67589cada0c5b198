"""The network on a GPU against our kernels on the processor: connections a second, agreement, memory; in four minutes.

    python -m benchmarks.gpu [--device cuda] [--connections 262144] [--batch 16384] [--seconds 15] [--out FILE]

Inference: the whole network (three encoders, state, gate, three predictors, the look ahead) in bfloat16, on a GPU one
CUDA graph over batches of a fixed size, with everything on the device, and once more with each batch copied from pinned
memory while the one before is computed. Training: steps of the same in bfloat16 with float32 weights (autocast), fused
AdamW, the data on the device. The processor's rates are those of the shipped detector's own kernels on one core, and of
the same training step in float32. What is scored are made-up office connections with the past that the detector gives
them. Agreement is of the components before calibration; the bounds are `BOUNDS`, and beyond them the exit status is 1.
Decaying counts, memory tables, trees and calibration stay on the processor and are not in these rates. Without a GPU
`--device cpu` runs the same code without graphs: for tests, its rates mean nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cmdana_plugin.detector.cross_modal import CrossModal
from cmdana_plugin.detector.engines.padding import pad_logs, pad_packets
from cmdana_plugin.detector.engines.shape import CONNECTION, LOG, PACKET
from cmdana_plugin.detector.inputs import prepare
from cmdana_plugin.detector.network import Network, Past, latent_residual
from cmdana_plugin.detector.networks.names import CROSS_MODAL
from cmdana_plugin.training import Recipe, Recording, train
from feature_extractors.features.encoding import encoded
from feature_extractors.features.schema import load_schema

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit"))
from made_windows import office

TOKENS = 16  # packets and log entries that a row is padded to
COMPONENTS = ("packets", "connection", "log", "next", "residual")
# nats, of the difference to the processor's: its median, and below which 99 in 100 lie
BOUNDS = {"median": 0.005, "99 %": 0.05}


@dataclass
class Batch:
    """Everything that the network is given of so many connections."""

    codes: Tensor
    values: Tensor
    packets: Tensor
    packet_mask: Tensor
    logs: Tensor
    log_mask: Tensor
    state: Tensor
    known: Tensor
    present: Tensor
    memory: Tensor
    ring: Tensor
    ring_used: Tensor
    packet_targets: Tensor
    connection_targets: Tensor
    log_targets: Tensor

    def map(self, each: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(**{f.name: each(getattr(self, f.name)) for f in fields(self)})

    def copy_(self, other: Batch) -> None:
        for f in fields(self):
            getattr(self, f.name).copy_(getattr(other, f.name), non_blocking=True)

    def __len__(self) -> int:
        return len(self.codes)


def surprise(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log probability [B] of what is set (class -1: not asked)."""
    logits = logits.float()
    asked = targets >= 0
    picked = logits.gather(-1, targets.clamp_min(0)[..., None])[..., 0]
    total = torch.logsumexp(logits, dim=-1)
    return ((total - picked) * asked).sum(dim=1) / asked.sum(dim=1).clamp_min(1)


def components(network: Network, b: Batch) -> Tensor:
    """The components [B, 5] in the order of `COMPONENTS`; 0 where a modality is absent."""
    z = torch.stack(
        [
            network.encode(PACKET, b.packets, b.packet_mask),
            network.encode(CONNECTION, b.codes, b.values),
            network.encode(LOG, b.logs, b.log_mask),
        ],
        dim=1,
    )
    z = torch.where(b.present[:, :, None, None], z, torch.zeros_like(z))
    s = network.read_state(b.state, b.known, Past(b.memory, b.ring, b.ring_used))
    bias = network.gate_bias(network.gate_weights(s, b.present).float(), b.present)
    found, residual = [], torch.zeros(len(b.codes), device=b.codes.device)
    for m, targets in enumerate((b.packet_targets, b.connection_targets, b.log_targets)):
        expected, logits = network(m, z, s, bias.to(z.dtype))
        there = b.present[:, m]
        found.append(torch.where(there, surprise(logits, targets), torch.zeros_like(residual)))
        residual = residual + torch.where(there, latent_residual(expected.float(), z[:, m].float()), 0.0)
    ahead = surprise(network.look_ahead(s), b.connection_targets)
    return torch.stack([*found, ahead, residual / b.present.sum(dim=1)], dim=1)


def material(n: int, seed: int = 1) -> tuple[CrossModal, Batch, np.ndarray, float]:
    """The detector, `n` connections as tensors, their components by our kernels, and connections a second of these."""
    schema = load_schema()
    recipe = Recipe(epochs=1, detector=CROSS_MODAL, behaviour=False, trees=False)
    detector = CrossModal(train([Recording("made up", office(3000, seed=seed + 1))], recipe=recipe), schema)
    detector.receive(encoded(office(n, seed=seed), schema))
    seen = detector.seen
    assert seen is not None
    n = len(seen.state)
    prepared = prepare(seen.features, seen.state, detector.checkpoint.preparation, schema)
    begun = time.process_time()
    raw = detector.judge(prepared, seen, detector.latents(prepared)).raw
    rate = n / (time.process_time() - begun)
    expected = np.nan_to_num(np.stack([raw[name] for name in COMPONENTS], axis=1))
    every = np.arange(n)
    tensors = [prepared.codes, prepared.values]
    f = prepared.features
    batch = Batch(
        *map(torch.from_numpy, tensors),
        *pad_packets(f, every, TOKENS, n),
        *pad_logs(f, every, TOKENS, n),
        *map(torch.from_numpy, (prepared.state, prepared.known, prepared.present, seen.memory, seen.ring)),
        torch.from_numpy(seen.ring_used),
        *map(torch.from_numpy, prepared.targets),
    )
    return detector, batch, expected, rate


def network_of(detector: CrossModal, device: torch.device) -> Network:
    network = Network(detector.checkpoint.shape)
    network.load_state_dict(
        {k: torch.from_numpy(np.array(v)) for k, v in detector.checkpoint.network.items()}
    )
    return network.to(device)


class Scorer:
    """The network over batches of one size; on a GPU one CUDA graph."""

    def __init__(self, network: Network, example: Batch, device: torch.device) -> None:
        self._network = network.eval()
        self._device = device
        self._given = example.map(lambda x: x.to(device).clone())
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda":
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(3):
                    self._out = self._run()
            torch.cuda.current_stream().wait_stream(beside)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._out = self._run()

    def _run(self) -> Tensor:
        # What autocast keeps of weights must not outlive the capture.
        with (
            torch.inference_mode(),
            torch.autocast(self._device.type, dtype=torch.bfloat16, cache_enabled=False),
        ):
            return components(self._network, self._given)

    def __call__(self, batch: Batch) -> Tensor:
        """The components [B, 5]; they are overwritten by the next call."""
        with torch.inference_mode():
            self._given.copy_(batch)
            if self._graph is None:
                return self._run()
            self._graph.replay()
            return self._out


def batches(whole: Batch, size: int) -> Iterator[Batch]:
    """Whole batches; what is left over at the end is left out."""
    for begin in range(0, len(whole) - size + 1, size):
        yield whole.map(lambda x, b=begin: x[b : b + size])  # type: ignore[misc]


def settled(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def rate_of(run: Callable[[], int], seconds: float, device: torch.device) -> float:
    """Connections a second of wall time; the first round is not counted."""
    run()
    settled(device)
    begun, n = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        n += run()
    settled(device)
    return n / (time.perf_counter() - begun)


def inference(
    network: Network, host: Batch, size: int, seconds: float, device: torch.device
) -> dict[str, float]:
    """Connections a second with everything on the device, and with each batch copied meanwhile."""
    resident = [b.map(lambda x: x.to(device)) for b in batches(host, size)]
    scorer = Scorer(network, resident[0], device)

    def all_of(given: list[Batch]) -> int:
        for batch in given:
            scorer(batch)
        return size * len(given)

    found = {"on the device": rate_of(lambda: all_of(resident), seconds, device)}
    if device.type != "cuda":
        return found
    pinned = [b.map(lambda x: x.contiguous().pin_memory()) for b in batches(host, size)]
    coming, ahead = torch.cuda.Stream(), [resident[0].map(torch.empty_like) for _ in range(2)]
    taken = [torch.cuda.Event() for _ in range(2)]

    def copied() -> int:
        for i, batch in enumerate(pinned):
            with torch.cuda.stream(coming):
                taken[i % 2].wait(coming)
                ahead[i % 2].copy_(batch)
            torch.cuda.current_stream().wait_stream(coming)
            scorer(ahead[i % 2])
            taken[i % 2].record()
        return size * len(pinned)

    return found | {"copied from the host": rate_of(copied, seconds, device)}


def training(
    network: Network, host: Batch, size: int, seconds: float, device: torch.device, mixed: bool
) -> tuple[float, float, float]:
    """Connections a second, and the loss of the first and of the last step."""
    optimiser = torch.optim.AdamW(network.train().parameters(), 1e-3, fused=device.type == "cuda")
    resident = [b.map(lambda x: x.to(device)) for b in batches(host, size)]
    losses: list[Tensor] = []

    def step(batch: Batch) -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed):
            loss = components(network, batch).float().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())

    def all_of() -> int:
        for batch in resident:
            step(batch)
        return size * len(resident)

    rate = rate_of(all_of, seconds, device)
    return rate, float(losses[0]), float(losses[-1])


def agreement(
    network: Network, host: Batch, expected: np.ndarray, size: int, device: torch.device
) -> dict[str, float]:
    """How far bfloat16 lies from our kernels, in nats, of all components that apply."""
    found, scorer = [], None
    for batch in batches(host, size):
        scorer = scorer or Scorer(network, batch, device)
        found.append(scorer(batch).float().cpu().numpy().copy())
    table = np.concatenate(found)
    apart = np.abs(table - expected[: len(table)])[expected[: len(table)] != 0]
    return {
        "median": float(np.median(apart)),
        "99 %": float(np.quantile(apart, 0.99)),
        "most": float(apart.max()),
    }


def measured(device: torch.device, connections: int, size: int, seconds: float) -> dict[str, object]:
    """All figures, as an object."""
    torch.manual_seed(0)
    detector, host, expected, kernels = material(connections)
    size = min(size, len(host))
    apart = agreement(network_of(detector, device), host, expected, size, device)
    rates = inference(network_of(detector, device), host, size, seconds, device)
    mixed, first, last = training(network_of(detector, device), host, size, seconds, device, mixed=True)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    few = min(len(host), 2048)
    processor, *_ = training(
        network_of(detector, torch.device("cpu")), next(batches(host, few)), few, seconds / 3, torch.device("cpu"),
        mixed=False,
    )  # fmt: skip
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "processor",
        "torch": torch.__version__,
        "connections": len(host),
        "batch": size,
        "inference, connections/s": {k: round(v) for k, v in rates.items()},
        "inference by our kernels on one core, connections/s": round(kernels),
        "training, connections/s": round(mixed),
        "training on the processor, connections/s": round(processor),
        "loss, first and last step": [round(first, 4), round(last, 4)],
        "nats from our kernels": {k: round(v, 5) for k, v in apart.items()},
        "within the bounds": all(apart[k] <= most for k, most in BOUNDS.items()),
        "memory on the device, GiB": None if peak is None else round(peak, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--connections", type=int, default=262_144)
    parser.add_argument("--batch", type=int, default=16_384)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = measured(torch.device(given.device), given.connections, given.batch, given.seconds)
    text = json.dumps(found, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")
    return 0 if found["within the bounds"] else 1


if __name__ == "__main__":
    sys.exit(main())
