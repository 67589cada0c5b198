"""A training that was interrupted goes on where it was, and only if it is the same training."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_windows import office

from cmdana_plugin import resume
from cmdana_plugin.checkpoint import Checkpoint
from cmdana_plugin.training import Recipe, Recording, _spread, train

RECIPE = Recipe(epochs=3, width=16, trees=False)


class Cut(Exception):
    """The power has gone."""


@pytest.fixture(autouse=True)
def keep_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "_EVERY", -1.0)


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


@pytest.mark.parametrize("cut_at", [0.2, 0.5, 0.9])
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
        (recordings(), Recipe(epochs=3, width=16, trees=False, seed=1)),
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
    assert _spread(chunks, useful, None, rng) == chunks
    assert _spread(chunks, useful, 1000, rng) == chunks
    drawn = np.concatenate(_spread(chunks, useful, 320, rng))
    assert len(drawn) == len(set(drawn.tolist())) == 3200
    assert (np.diff(drawn) > 0).all()
    assert (np.diff(drawn) > 1).sum() < 20  # runs, not single steps
    assert drawn.max() < 8000
    assert np.histogram(drawn, bins=4, range=(0, 8000))[0].min() > 300
