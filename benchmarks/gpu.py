"""What the product does on a GPU, against our kernels on the processor: rates, agreement, memory; in four minutes.

    python -m benchmarks.gpu [--device cuda] [--connections 262144] [--batch 32768] [--seconds 15] [--out FILE]

Inference is `Resident`: the network in bfloat16 with its memory on the device, on a GPU one CUDA graph over chunks of a
fixed size, each copied from pinned memory while the one before is computed. Told are the rate of that alone, with the
slots given; that of the whole detector, whose counts, mixture and isolation forest are the processor's; and that of the
detector by our kernels on one core. Training is `Learner`, the step of `cmdana train --detector cross-modal`: bfloat16
with float32 weights (autocast) and fused AdamW, the corpus on the device, beside the same in float32 on the processor.
Told are, in steps of 512 connections, as `cmdana train` takes, and of 4,096 (`Recipe.step_events`): the rate of passes
that follow each other, and what one pass over a million connections takes, counted from one over fewer that includes
moving the corpus to the device and laying out the steps, and neither features nor calibration. What is scored are
made-up office connections. Agreement is of the components before calibration and of the memory before each event; the
bounds are `BOUNDS`, and beyond them the exit status is 1. Without a GPU `--device cpu` runs the same without graphs,
pinned memory and streams: for tests, its rates mean nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cmdana_plugin.detector import Checkpoint, CrossModal, Network
from cmdana_plugin.detector.engines.resident import COMPONENTS, SIZES, Resident
from cmdana_plugin.detector.engines.torch_engine import Torch
from cmdana_plugin.detector.history import make_keys
from cmdana_plugin.detector.inputs import prepare
from cmdana_plugin.detector.networks.names import CROSS_MODAL
from cmdana_plugin.training import Recipe, Recording, gather, train
from cmdana_plugin.training.cross_modal.loss import Learner
from cmdana_plugin.training.cross_modal.steps import Lesson, lesson_of
from feature_extractors import Stage
from feature_extractors.features import Encoded, encoded, load_schema, take_encoded

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit"))
from made_windows import office

# nats, of the difference to the processor's: its median, and below which 99 in 100 lie
BOUNDS = {"median": 0.005, "99 %": 0.05}
_STEPS = (512, 4096)  # events of a step of training
_LEARNED = 131_072  # connections that training on a device is measured with
_MILLION = 1_000_000

_COMPARED = 32_768  # connections that our kernels score as well


class OnDevice(CrossModal):
    """The detector as on a GPU, wherever torch computes."""

    sizes = SIZES

    def _set_up(self, device: str, network: type[Network] | None) -> None:
        engine = Torch(self.checkpoint.network, self.checkpoint.shape, device)
        self._engine = engine
        self._resident = Resident(engine.network, engine.device, self.sizes)


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


def agreement(ours: CrossModal, there: CrossModal, block: Encoded) -> tuple[dict[str, float], float]:
    """How far the device lies from our kernels, in nats, of all components that apply; the median of memory's."""
    ours.reset()
    there.reset()
    expected, found = ours.raw(block)[0], there.raw(block)[0]
    apart = np.concatenate([np.abs(found[k] - expected[k])[np.isfinite(expected[k])] for k in COMPONENTS])
    assert ours.seen is not None
    assert there.seen is not None
    memory = float(np.median(np.abs(there.seen.memory - ours.seen.memory)))
    told = {
        "median": float(np.median(apart)),
        "99 %": float(np.quantile(apart, 0.99)),
        "most": float(apart.max()),
    }
    return told, memory


def inference(there: OnDevice, block: Encoded, seconds: float, device: torch.device) -> dict[str, float]:
    """Connections a second of the network with its memory, and of the whole detector."""
    resident, schema, c = there._resident, there.schema, block.connections
    assert resident is not None
    there.reset()
    tables = there._tables
    state, slots = tables.counts(c, block.features, make_keys(c, block.features, 0), schema.spans)
    chunks = []
    for begin in range(0, len(block), resident.most):
        rows = np.arange(begin, min(begin + resident.most, len(block)))
        part = take_encoded(block, rows)
        prepared = prepare(part.features, state[rows], there.checkpoint.preparation, schema)
        mine = type(slots)(slots.index[rows], slots.fresh[rows])
        chunks.append((prepared, part.connections.ts, part.connections.stage == Stage.EARLY, mine))

    def network_alone() -> int:
        waiting = None
        for chunk in chunks:
            begun = resident.submit(tables, *chunk)
            if waiting is not None:
                waiting()
            waiting = begun
        if waiting is not None:
            waiting()
        return len(block)

    alone = rate_of(network_alone, seconds, device)
    there.reset()
    return {
        "network and memory": alone,
        "whole detector": rate_of(lambda: len(there.raw(block)[1]), seconds, device),
    }


@dataclass(frozen=True)
class Trained:
    rate: float  # connections a second, of passes
    million: (
        float  # seconds of a pass over a million connections, all that precedes it on the device included
    )
    first: float  # loss of the first step
    last: float


def training(
    checkpoint: Checkpoint,
    connections: int,
    seconds: float,
    device: torch.device,
    mixed: bool,
    step_events: int = _STEPS[0],
) -> Trained:
    """The product's steps, with the corpus on the device."""
    schema, recipe = load_schema(), Recipe(detector=CROSS_MODAL)
    corpus = gather([Recording("made up", office(connections, seed=3))], schema)
    prepared = prepare(corpus.features, corpus.state, checkpoint.preparation, schema)
    torch.manual_seed(0)
    room = None if device.type == "cuda" else sys.maxsize
    learner = Learner(Network(checkpoint.shape).train(), recipe, device, mixed, room)
    lesson = lesson_of(corpus, prepared, np.ones(len(corpus), np.bool_))
    chunks = np.split(np.arange(len(corpus)), range(step_events, len(corpus), step_events))
    rng, losses = np.random.default_rng(0), []

    def one_pass(lesson: Lesson = lesson, chunks: Sequence[NDArray[np.int64]] = chunks) -> int:
        carry, steps = learner.begin(lesson, chunks)
        losses.extend(learner.step(step, carry, rng) for step in steps)
        return len(corpus)

    one_pass(chunks=chunks[:2])  # what a device does at first alone
    settled(device)
    begun = time.perf_counter()
    one_pass(lesson=replace(lesson))  # as a corpus that is not there yet
    settled(device)
    whole = time.perf_counter() - begun
    rate = rate_of(one_pass, seconds, device)
    first, last = losses[0], losses[-1]
    assert first is not None
    assert last is not None
    return Trained(rate, whole * _MILLION / len(corpus), float(first), float(last))


def measured(device: torch.device, connections: int, size: int, seconds: float) -> dict[str, object]:
    """All figures, as an object."""
    schema = load_schema()
    recipe = Recipe(epochs=1, detector=CROSS_MODAL, behaviour=False, trees=False)
    checkpoint = train([Recording("made up", office(3000, seed=2))], recipe=recipe)
    block = encoded(office(connections, seed=1), schema)
    ours = CrossModal(checkpoint, schema)
    kind = type("Sized", (OnDevice,), {"sizes": (min(size, len(block)),)})
    there: OnDevice = kind(checkpoint, schema, device=str(device))
    some = take_encoded(block, np.arange(min(connections, _COMPARED)))
    apart, memory = agreement(ours, there, some)
    rates = inference(there, block, seconds, device)
    kernels = rate_of(lambda: len(ours.raw(some)[1]), seconds / 3, torch.device("cpu"))
    few = min(connections, _LEARNED if device.type == "cuda" else 8192)
    learned = {f"{n} a step": training(checkpoint, few, seconds / 2, device, True, n) for n in _STEPS}
    shown = learned[f"{_STEPS[0]} a step"]
    processor = training(checkpoint, min(few, 2048), seconds / 3, torch.device("cpu"), mixed=False)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "processor",
        "torch": torch.__version__,
        "connections": len(block),
        "batch": min(size, len(block)),
        "inference, connections/s": {k: round(v) for k, v in rates.items()},
        "whole detector by our kernels on one core, connections/s": round(kernels),
        "training, connections/s": {k: round(x.rate) for k, x in learned.items()},
        "training, a pass over a million connections, s": {
            k: round(x.million, 1) for k, x in learned.items()
        },
        "training on the processor, connections/s": round(processor.rate),
        "loss, first and last step": [round(shown.first, 4), round(shown.last, 4)],
        "nats from our kernels": {k: round(v, 5) for k, v in apart.items()},
        "memory from our kernels, median": round(memory, 6),
        "within the bounds": all(apart[k] <= most for k, most in BOUNDS.items()),
        "memory on the device, GiB": None if peak is None else round(peak, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--connections", type=int, default=262_144)
    parser.add_argument("--batch", type=int, default=SIZES[-1])
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
