"""What every encoder of the last connections of an entity promises, asked of each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cmdana_plugin.detector.networks.encoders import ENCODERS, encoder

INPUTS, WIDTH = 6, 16


@pytest.fixture(params=ENCODERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def made(name: str) -> nn.Module:
    torch.manual_seed(1)
    return encoder(name, INPUTS, WIDTH).eval()


def some(n: int = 9, k: int = 11) -> tuple[Tensor, Tensor]:
    """Rows of different length, from one element to all; the last has none."""
    g = torch.Generator().manual_seed(0)
    length = torch.linspace(1, k, n - 1).long()
    length = torch.cat([length, torch.zeros(1).long()])
    return torch.randn(n, k, INPUTS, generator=g), torch.arange(k)[None] < length[:, None]


def test_a_row_gives_a_vector_also_without_any_element(name: str) -> None:
    x, mask = some()
    h = made(name)(x, mask)
    assert h.shape == (9, WIDTH)
    assert torch.isfinite(h).all()


def test_what_is_not_there_is_not_looked_at(name: str) -> None:
    x, mask = some()
    one = made(name)
    junk = torch.where(mask[..., None], x, torch.nan)
    assert torch.equal(one(x, mask), one(junk, mask))
    assert torch.equal(one.weights(x, mask), one.weights(junk, mask))


@pytest.mark.parametrize(("before", "after"), [(5, 0), (0, 5), (2, 3)])
def test_padding_changes_nothing_wherever_it_stands(name: str, before: int, after: int) -> None:
    x, mask = some()
    n = len(x)
    wide = torch.cat([torch.ones(n, before, INPUTS), x, torch.ones(n, after, INPUTS)], dim=1)
    there = torch.cat([torch.zeros(n, before).bool(), mask, torch.zeros(n, after).bool()], dim=1)
    one = made(name)
    assert torch.allclose(one(x, mask), one(wide, there), atol=1e-5)
    kept = one.weights(wide, there)[:, before : before + x.shape[1]]
    assert torch.allclose(one.weights(x, mask), kept, atol=1e-5)


def test_rows_do_not_know_of_each_other(name: str) -> None:
    x, mask = some()
    one = made(name)
    assert torch.allclose(one(x, mask)[3:5], one(x[3:5], mask[3:5]), atol=1e-5)


def test_the_newest_element_matters(name: str) -> None:
    x, mask = some()
    other = x.clone()
    other[4, int(mask[4].sum()) - 1] += 1.0
    one = made(name)
    assert not torch.allclose(one(x, mask)[4], one(other, mask)[4], atol=1e-3)


def test_weights_are_shared_out_among_what_is_there(name: str) -> None:
    x, mask = some()
    w = made(name).weights(x, mask)
    assert (w >= 0).all()
    assert (w[~mask] == 0).all()
    assert torch.allclose(w.sum(dim=1), mask.any(dim=1).float(), atol=1e-5)


def test_every_parameter_learns(name: str) -> None:
    x, mask = some()
    one = made(name)
    (one(x[:-1], mask[:-1]) * torch.randn(8, WIDTH)).sum().backward()
    still = [n for n, p in one.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not still


def learned(name: str, truth: str) -> float:
    """The share of new rows told right after learning whether the newest is odd, or whether values rise."""
    g = torch.Generator().manual_seed(3)

    def lesson(n: int) -> tuple[Tensor, Tensor, Tensor]:
        x, mask = torch.randn(n, 8, INPUTS, generator=g), torch.ones(n, 8, dtype=torch.bool)
        y = torch.arange(n) % 2
        if truth == "odd":
            x[:, :, 0] = x[:, :1, 0] + 0.05 * x[:, :, 0]
            x[y == 1, -1, 0] = torch.randn(int(y.sum()), generator=g)
        else:
            x[:, :-1, 0] = x[:, :-1, 0].sort(dim=1).values
            x[y == 1, :-1, 0] = x[y == 1, :-1, 0].flip(1)
        return x, mask, y.float()

    torch.manual_seed(0)
    model = encoder(name, INPUTS, WIDTH)
    head = nn.Linear(WIDTH, 1)
    optimiser = torch.optim.Adam([*model.parameters(), *head.parameters()], 5e-3)
    for _ in range(120):
        x, mask, y = lesson(64)
        loss = nn.functional.binary_cross_entropy_with_logits(head(model(x, mask))[:, 0], y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x, mask, y = lesson(1000)
    return float(((head(model.eval()(x, mask))[:, 0] > 0) == (y > 0)).float().mean())


def test_what_differs_from_its_own_past_is_told(name: str) -> None:
    assert learned(name, "odd") > 0.7


def test_order_is_told_by_those_that_look_at_it() -> None:
    found = {name: learned(name, "order") for name in ENCODERS}
    assert found["spatio-temporal"] > 0.9
    assert found["transformer"] > 0.9
    assert found["mean"] < 0.6
    assert found["residual-attention"] < 0.6


@pytest.mark.parametrize(
    ("name", "width", "word"), [("lstm", 16, "expected one of mean"), ("mean", 6, "multiple")]
)
def test_another_name_or_width_is_refused(name: str, width: int, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        encoder(name, INPUTS, width)
