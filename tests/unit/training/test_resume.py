"""A training that was interrupted goes on where it was, and only if it is the same training."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_windows import office
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cmdana_plugin.detector.checkpoint import Checkpoint
from cmdana_plugin.training.cross_modal import resume
from cmdana_plugin.training.fit import _spread, train
from cmdana_plugin.training.recipe import Recipe
from cmdana_plugin.training.recording import Recording

RECIPE = Recipe(epochs=3, width=16, trees=False, detector="cross-modal")


class Cut(Exception):
    """The power has gone."""


@pytest.fixture(autouse=True)
def keep_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "_WRITE_SECONDS", -1.0)


def recordings() -> list[Recording]:
    return [Recording(f"{i}", office(1500, seed=i)) for i in range(3)]


def watched(shares: list[float], cut_at: float = 2.0) -> Callable[[str, float], None]:
    def progress(what: str, share: float) -> None:
        if what.startswith("network"):
            shares.append(share)
            if share >= cut_at:
                raise Cut

    return progress


def weights(checkpoint: Checkpoint) -> np.ndarray:
    return np.concatenate([w.ravel() for w in checkpoint.network.values()])


@pytest.mark.slow
@pytest.mark.parametrize(
    "cut_at", [pytest.param(0.2, marks=pytest.mark.long), 0.5, pytest.param(0.9, marks=pytest.mark.long)]
)
def test_an_interrupted_training_goes_on_and_comes_to_nearly_the_same(tmp_path: Path, cut_at: float) -> None:
    keep = tmp_path / "m.training"
    before: list[float] = []
    with pytest.raises(Cut):
        train(recordings(), recipe=RECIPE, keep=keep, progress=watched(before, cut_at))
    after: list[float] = []
    again = train(recordings(), recipe=RECIPE, keep=keep, progress=watched(after))
    assert after[0] > before[-1]
    assert len(before) + len(after) == round(1 / before[0])
    whole = train(recordings(), recipe=RECIPE)
    assert np.corrcoef(weights(again), weights(whole))[0, 1] > 0.98


def test_another_material_or_recipe_begins_anew(tmp_path: Path) -> None:
    keep = tmp_path / "m.training"
    with pytest.raises(Cut):
        train(recordings(), recipe=RECIPE, keep=keep, progress=watched([], 0.6))
    other = [*recordings()[:2], Recording("2", office(1500, seed=9))]
    for material, recipe in (
        (other, RECIPE),
        (recordings(), replace(RECIPE, seed=1)),
    ):
        shares: list[float] = []
        with pytest.raises(Cut):
            train(material, recipe=recipe, keep=keep, progress=watched(shares, 0.01))
        assert len(shares) == 1


def test_a_file_that_is_damaged_begins_anew(tmp_path: Path) -> None:
    keep = tmp_path / "m.training"
    keep.write_bytes(b"half of something")
    shares: list[float] = []
    with pytest.raises(Cut):
        train(recordings(), recipe=RECIPE, keep=keep, progress=watched(shares, 0.01))
    assert len(shares) == 1


def test_a_large_recording_is_learned_from_in_runs_from_all_of_its_time() -> None:
    chunks = [np.arange(k * 10, k * 10 + 10) for k in range(1000)]
    useful = np.ones(10_000, np.bool_)
    useful[8000:] = False  # held out
    rng = np.random.default_rng(1)
    assert _spread(chunks, useful, None, 16, rng) == chunks
    assert _spread(chunks, useful, 1000, 16, rng) == chunks
    drawn = np.concatenate(_spread(chunks, useful, 320, 16, rng))
    assert len(drawn) == len(set(drawn.tolist())) == 3200
    assert (np.diff(drawn) > 0).all()
    assert (np.diff(drawn) > 1).sum() < 20  # runs, not single steps
    assert drawn.max() < 8000
    assert np.histogram(drawn, bins=4, range=(0, 8000))[0].min() > 300


FAULTS: dict[str, Callable[[dict[str, torch.Tensor], dict[str, str]], object]] = {
    "weights that are no number": lambda t, _m: t["network.counts.0.bias"].fill_(float("nan")),
    "a weight of another shape": lambda t, _m: t.update({"network.counts.0.bias": torch.zeros(7)}),
    "a weight missing": lambda t, _m: t.pop("network.counts.0.bias"),
    "moments in part": lambda t, _m: t.pop("0.exp_avg"),
    "moments of another shape": lambda t, _m: t.update({"0.exp_avg_sq": torch.zeros(1)}),
    "no random numbers": lambda t, _m: t.pop("random"),
    "random numbers that are none": lambda t, _m: t["random"].fill_(255),
    "words that are no JSON": lambda _t, m: m.update(said="x"),
    "words nested deeply": lambda _t, m: m.update(said="[" * 50_000),
    "a position below nothing": lambda _t, m: m.update(said=m["said"].replace('"step": ', '"step": -')),
    "a generator that is none": lambda _t, m: m.update(said=m["said"].replace('"PCG64"', '"x"')),
    "a rate that is none": lambda _t, m: m.update(
        said=m["said"].replace('"groups": [[', '"groups": [[NaN, [')
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_in_a_file_is_found_before_any_of_it_is_used(tmp_path: Path, fault: str) -> None:
    torch.manual_seed(1)
    network = torch.nn.Module()
    network.counts = torch.nn.Sequential(torch.nn.Linear(2, 3))
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    network.counts(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=9)
    kept = resume.Progressed(tmp_path / "m.training", "key")
    kept.save(network, optimiser, schedule, np.random.default_rng(1), resume.Position(step=1))  # type: ignore[arg-type]
    assert kept.load(network, optimiser, schedule) is not None  # type: ignore[arg-type]
    with safe_open(str(kept.path), framework="pt") as file:
        meta = dict(file.metadata())
    tensors = load_file(kept.path)
    FAULTS[fault](tensors, meta)
    save_file(tensors, kept.path, meta)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    assert kept.load(network, optimiser, schedule) is None  # type: ignore[arg-type]
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
