"""The network keeps its promises: no modality sees itself, what is missing is nothing, the gate follows the past."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from cmdana_plugin.detector.engines.shape import CONNECTION, LOG, PACKET, Shape, parameters_of, shape_of
from cmdana_plugin.detector.history import KINDS, MEMORY, RING, RING_WIDTH
from cmdana_plugin.detector.network import Network, Past, segmented_scan
from cmdana_plugin.evaluation.ablations import StaticGate

SHAPE = Shape(
    numeric=3,
    categorical=(4, 5),
    state=6,
    packet_width=4,
    log_width=8,
    log_buckets=64,
    targets=(4, 5, 3),
    width=16,
)
B = 12


@dataclass(slots=True)
class Batch:
    """`B` events; packets and logs padded to a length with a mask."""

    codes: Tensor
    values: Tensor
    packets: Tensor
    packet_mask: Tensor
    logs: Tensor
    log_mask: Tensor
    state: Tensor
    present: Tensor


@dataclass(slots=True)
class Predicted:
    logits: list[Tensor]
    ahead: Tensor
    gate: Tensor


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(3)
    return Network(SHAPE).eval()


def batch(seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    return Batch(
        codes=torch.randint(0, 4, (B, 5), generator=g),
        values=torch.randn(B, 3, generator=g),
        packets=torch.randn(B, 6, 4, generator=g),
        packet_mask=torch.arange(6)[None] < torch.randint(1, 7, (B, 1), generator=g),
        logs=torch.randint(1, 64, (B, 5, 8), generator=g),
        log_mask=torch.arange(5)[None] < torch.randint(1, 6, (B, 1), generator=g),
        state=torch.randn(B, 6, generator=g),
        present=torch.ones(B, 3, dtype=torch.bool),
    )


def past(seed: int = 0) -> Past:
    g = torch.Generator().manual_seed(seed)
    return Past(
        torch.randn(B, KINDS, MEMORY, generator=g),
        torch.randn(B, RING, RING_WIDTH, generator=g),
        torch.full((B,), 3),
    )


def latents(network: Network, b: Batch) -> Tensor:
    z = [
        network.encode(PACKET, b.packets, b.packet_mask),
        network.encode(CONNECTION, b.codes, b.values),
        network.encode(LOG, b.logs, b.log_mask),
    ]
    return torch.stack(z, dim=1) * b.present[:, :, None, None]


def run(network: Network, b: Batch, p: Past) -> Predicted:
    with torch.inference_mode():
        z = latents(network, b)
        s = network.read_state(b.state, torch.ones_like(b.state), p)
        gate = network.gate_weights(s, b.present)
        bias = network.gate_bias(gate, b.present)
        return Predicted([network(m, z, s, bias)[1] for m in range(3)], network.look_ahead(s), gate)


@pytest.mark.parametrize(
    ("modality", "changes"),
    [
        (PACKET, {"packets": torch.randn(B, 6, 4)}),
        (CONNECTION, {"codes": torch.randint(0, 4, (B, 5)), "values": torch.randn(B, 3)}),
        (LOG, {"logs": torch.randint(1, 64, (B, 5, 8))}),
    ],
)
def test_changing_a_modality_never_changes_its_own_prediction(
    network: Network, modality: int, changes: dict[str, torch.Tensor]
) -> None:
    before, after = run(network, batch(), past()), run(network, replace(batch(), **changes), past())
    assert torch.equal(before.logits[modality], after.logits[modality])
    for other in {PACKET, CONNECTION, LOG} - {modality}:
        assert not torch.allclose(before.logits[other], after.logits[other])


@pytest.mark.parametrize("modality", [PACKET, LOG])
def test_a_masked_modality_changes_nothing(network: Network, modality: int) -> None:
    base = batch()
    base.present[:, modality] = False
    noise = replace(batch(1), codes=base.codes, values=base.values, state=base.state, present=base.present)
    spoiled = replace(base, packets=noise.packets) if modality == PACKET else replace(base, logs=noise.logs)
    a, b = run(network, base, past()), run(network, spoiled, past())
    for m in {PACKET, CONNECTION, LOG} - {modality}:
        assert torch.equal(a.logits[m], b.logits[m])
    assert torch.equal(a.gate, b.gate)
    assert (a.gate[:, modality] == 0).all()


def test_padding_changes_nothing(network: Network) -> None:
    b = batch()
    spoiled = replace(
        b,
        packets=torch.where(b.packet_mask[:, :, None], b.packets, torch.full_like(b.packets, 9.0)),
        logs=torch.where(b.log_mask[:, :, None], b.logs, torch.full_like(b.logs, 7)),
    )
    assert torch.allclose(latents(network, b), latents(network, spoiled), atol=1e-6)


def test_order_within_a_batch_is_irrelevant(network: Network) -> None:
    b, p, order = batch(), past(), torch.randperm(B)
    shuffled = Batch(**{k: getattr(b, k)[order] for k in Batch.__slots__})
    moved = Past(p.memory[order], p.ring[order], p.ring_used[order])
    a, c = run(network, b, p), run(network, shuffled, moved)
    assert torch.allclose(a.ahead[order], c.ahead, atol=1e-5)
    for m in range(3):
        assert torch.allclose(a.logits[m][order], c.logits[m], atol=1e-5)


def test_the_gate_sums_to_one_and_moves_with_the_state(network: Network) -> None:
    a, b = run(network, batch(), past(0)), run(network, batch(), past(1))
    assert torch.allclose(a.gate.sum(dim=1), torch.ones(B), atol=1e-6)
    assert not torch.allclose(a.gate, b.gate)


def test_a_static_gate_does_not_move_with_the_state() -> None:
    torch.manual_seed(3)
    fixed = StaticGate.network(SHAPE).eval()
    assert torch.equal(run(fixed, batch(), past(0)).gate, run(fixed, batch(), past(1)).gate)


def test_the_fields_that_are_asked_for_are_those_of_all_fields(network: Network) -> None:
    b, fields = batch(), torch.tensor([0, 2])
    with torch.inference_mode():
        s = network.read_state(b.state, torch.ones_like(b.state), past())
        bias = network.gate_bias(network.gate_weights(s, b.present), b.present)
        expected, every = network(CONNECTION, latents(network, b), s, bias)
        same, some = network(CONNECTION, latents(network, b), s, bias, fields)
    assert torch.equal(expected, same)
    assert torch.allclose(every[:, fields], some, atol=1e-5)


def test_creation_parameters_come_back_from_plain_values_of_older_models_too() -> None:
    assert shape_of(parameters_of(SHAPE)) == SHAPE
    older = {"static_gate": False, "use_memory": True, "cross": True, "concatenate": False, "own": False}
    assert shape_of(parameters_of(SHAPE) | older) == SHAPE


def test_an_ablation_of_an_older_version_is_not_taken_for_the_real_thing() -> None:
    with pytest.raises(ValueError, match="found use_memory false, expected true"):
        shape_of(parameters_of(SHAPE) | {"use_memory": False})


def test_an_unused_place_in_the_ring_changes_nothing(network: Network) -> None:
    p = past()
    spoiled = replace(p, ring=torch.cat([p.ring[:, :3], torch.full_like(p.ring[:, 3:], 9.0)], dim=1))
    assert torch.equal(run(network, batch(), p).ahead, run(network, batch(), spoiled).ahead)


@pytest.mark.parametrize("n", [1, 2, 3, 17, 256, 1000])
def test_the_parallel_scan_equals_the_loop(n: int) -> None:
    torch.manual_seed(n)
    keep, add = torch.rand(n, 4, dtype=torch.float64), torch.randn(n, 4, dtype=torch.float64)
    keep[torch.rand(n) < 0.2] = 0.0
    h, want = torch.zeros(4, dtype=torch.float64), []
    for t in range(n):
        h = keep[t] * h + add[t]
        want.append(h)
    assert torch.allclose(segmented_scan(keep, add), torch.stack(want), atol=1e-12)
