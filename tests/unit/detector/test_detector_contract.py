"""What every `Detector` promises (`score.Detector`), asked of each one that the project has.

As river's `checks` for its estimators: whoever writes another detector adds it to `DETECTORS`, and nothing more.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from made_windows import block_of, changed, is_scan, office
from numpy.typing import NDArray

from cmdana_plugin.behaviour import flows_of, with_behaviour, with_behaviour_beside
from cmdana_plugin.behaviour.detector import WithBehaviour
from cmdana_plugin.detector import checkpoint as checkpoints
from cmdana_plugin.detector.checkpoint import Checkpoint
from cmdana_plugin.detector.cross_modal import CrossModal, detector_of
from cmdana_plugin.detector.networks.names import CROSS_MODAL, NETWORKS
from cmdana_plugin.detector.scores import Detector, Scores, score_of
from cmdana_plugin.detector.site_history import WithSiteHistory
from cmdana_plugin.evaluation.baselines import BASELINES
from cmdana_plugin.evaluation.operator_view import PrecomputedScores, scores_of
from cmdana_plugin.evaluation.whole_days.told import Streamed
from cmdana_plugin.training.fit import train
from cmdana_plugin.training.fit_behaviour import Normal, fit_behaviour
from cmdana_plugin.training.recipe import Recipe
from cmdana_plugin.training.recording import Recording, gather
from feature_extractors.features.schema import load_schema
from feature_extractors.observations import Stage, Windows, concat, take

SALT: Final = 11
WINDOWS: Final = office(260, seed=3, scan=40)
Floats = NDArray[np.float64]


def precomputed(n: int = 2 * len(WINDOWS)) -> PrecomputedScores:
    return PrecomputedScores(scores_of(np.random.default_rng(1).uniform(1e-9, 1.0, n)))


def streamed() -> Detector:
    learned = gather([Recording("a", office(700, seed=1))], load_schema())
    baseline = BASELINES["gaussians"]()
    baseline.fit(learned, np.ones(len(learned), np.bool_), 0)
    return Streamed("gaussians", baseline, baseline.score(learned))


def cross_modal(made: Checkpoint, threads: int = 1) -> CrossModal:
    return detector_of(made, load_schema(), hosts=1 << 12, threads=threads)


def beside(inner: Detector, made: Checkpoint) -> Detector:
    detector = with_behaviour_beside(inner, made, SALT)
    assert isinstance(detector, WithBehaviour)
    return detector


@dataclass(frozen=True)
class Made:
    """How one is made from a checkpoint, and what it cannot promise by its nature."""

    make: Callable[[Checkpoint], Detector]
    knows_windows: bool = True  # its scores are of the windows, not of their number in the stream
    remembers: bool = True  # has a state of its own
    from_disk: bool = True
    detector: str = CROSS_MODAL  # of the checkpoint


DETECTORS: Final = {
    "CrossModal": Made(cross_modal),
    "CrossModal on two threads": Made(lambda made: cross_modal(made, 2)),
    **{f"CrossModal as {name}": Made(cross_modal, detector=name) for name in NETWORKS},
    "CrossModal as residual-attention on two threads": Made(
        lambda made: cross_modal(made, 2), detector="residual-attention"
    ),
    "WithSiteHistory around CrossModal": Made(lambda made: WithSiteHistory(cross_modal(made))),
    "WithBehaviour around CrossModal": Made(lambda made: beside(cross_modal(made), made)),
    "WithBehaviour around PrecomputedScores": Made(
        lambda made: beside(precomputed(), made), knows_windows=False, from_disk=False
    ),
    "WithSiteHistory around WithBehaviour": Made(
        lambda made: WithSiteHistory(beside(cross_modal(made), made), SALT)
    ),
    "WithSiteHistory around PrecomputedScores": Made(
        lambda _: WithSiteHistory(precomputed()), knows_windows=False, from_disk=False
    ),
    "Streamed gaussians": Made(lambda _: streamed(), from_disk=False),
    "PrecomputedScores": Made(lambda _: precomputed(), knows_windows=False, remembers=False, from_disk=False),
}


@cache
def learned(detector: str) -> Checkpoint:
    recipe = Recipe(epochs=2, width=16, behaviour=False, detector=detector)
    return train([Recording("a", office(700, seed=1))], recipe=recipe)


@cache
def with_runs() -> Checkpoint:
    made = learned(CROSS_MODAL)
    flows = flows_of(block_of(office(1500, seed=1)), SALT)
    n = len(flows)
    normal = Normal(flows, np.ones(n, np.bool_), int(0.8 * n))
    return with_behaviour(made, fit_behaviour([normal], salt=SALT, rounds=3))


@pytest.fixture
def model(made: Made) -> Checkpoint:
    return with_runs() if made.detector == CROSS_MODAL else learned(made.detector)


SLOW: Final = (
    "CrossModal as residual-attention",
    "CrossModal as residual-attention-fields",
    "CrossModal as residual-attention on two threads",
)
# Whose processes each are a detector of this suite; that together they say the same is a test of `hunt`.
SHARED_OUT: Final = {"ScoringProcesses"}
CASES: Final = [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in DETECTORS]


@pytest.fixture(params=CASES)
def made(request: pytest.FixtureRequest) -> Made:
    return DETECTORS[request.param]


def rows(begin: int, end: int) -> Windows:
    return take(WINDOWS, np.arange(begin, end))


def same(a: Scores, b: Scores) -> bool:
    """To the last digit; the reliance, which is only shown, to its sixth."""
    return (
        np.array_equal(a.score, b.score)
        and np.array_equal(a.p_value, b.p_value)
        and a.components.keys() == b.components.keys()
        and all(np.array_equal(v, b.components[k], equal_nan=True) for k, v in a.components.items())
        and np.allclose(a.reliance, b.reliance, atol=2e-6)
        and list(a.attack) == list(b.attack)
    )


def joined(parts: list[Scores]) -> Scores:
    return Scores(
        np.concatenate([s.score for s in parts]),
        np.concatenate([s.p_value for s in parts]),
        {k: np.concatenate([s.components[k] for s in parts]) for k in parts[0].components},
        np.concatenate([s.reliance for s in parts]),
        [a for s in parts for a in s.attack],
    )


def test_every_detector_of_the_project_is_in_this_suite() -> None:
    found = set()
    for path in (Path(__file__).parents[3] / "cmdana_plugin").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                methods = {f.name for f in node.body if isinstance(f, ast.FunctionDef)}
                bases = {b.id for b in node.bases if isinstance(b, ast.Name)}
                if {"receive", "explain"} <= methods and "Protocol" not in bases:
                    found.add(node.name)
    assert found
    assert found - SHARED_OUT == {name.split()[0] for name in DETECTORS}


def test_it_has_a_name_and_says_what_it_was_made_with(made: Made, model: Checkpoint) -> None:
    detector = made.make(model)
    assert isinstance(detector.name, str)
    assert detector.name
    assert isinstance(detector.schema_digest, str)


def test_there_is_one_row_for_each_window(made: Made, model: Checkpoint) -> None:
    s = made.make(model).receive(block_of(WINDOWS))
    n = len(WINDOWS)
    assert s.score.shape == s.p_value.shape == (n,)
    assert s.reliance.shape == (n, 4)
    assert len(s.attack) == n
    assert all(v.shape == (n,) for v in s.components.values())


def test_scores_and_p_values_are_in_range_and_go_opposite_ways(made: Made, model: Checkpoint) -> None:
    s = made.make(model).receive(block_of(WINDOWS))
    assert ((s.p_value > 0) & (s.p_value <= 1)).all()
    assert ((s.score >= 0) & (s.score < 1)).all()
    assert np.allclose(s.score, score_of(s.p_value), atol=2e-6)
    order = np.argsort(s.p_value)
    assert (np.diff(s.score[order]) <= 0).all()
    for name, p in s.components.items():
        known = p[np.isfinite(p)]
        assert ((known >= 0) & (known <= 1)).all(), name
        assert not np.isinf(p).any(), name


def test_reliance_is_shared_out_and_none_of_it_goes_to_what_is_missing(made: Made, model: Checkpoint) -> None:
    s = made.make(model).receive(block_of(WINDOWS))
    assert (s.reliance >= 0).all()
    assert np.allclose(s.reliance.sum(axis=1), 1.0)
    without = np.diff(WINDOWS.log_start) == 0
    assert without.any()
    assert (s.reliance[without, 2] == 0).all()


def test_a_scan_is_odder_than_an_office(made: Made, model: Checkpoint) -> None:
    if not made.knows_windows:
        pytest.skip("its scores are not of the windows")
    scan, s = is_scan(WINDOWS), made.make(model).receive(block_of(WINDOWS))
    assert np.median(s.score[scan]) > np.median(s.score[~scan])
    assert np.median(s.p_value[scan]) < np.median(s.p_value[~scan])


def test_the_same_stream_gives_the_same_scores(made: Made, model: Checkpoint) -> None:
    assert same(made.make(model).receive(block_of(WINDOWS)), made.make(model).receive(block_of(WINDOWS)))


def test_scores_are_of_the_past_only(made: Made, model: Checkpoint) -> None:
    other = concat([rows(0, 100), office(80, seed=9, scan=30)])
    a, b = made.make(model).receive(block_of(WINDOWS)), made.make(model).receive(block_of(other))
    assert np.array_equal(a.p_value[:100], b.p_value[:100])
    assert np.array_equal(a.score[:100], b.score[:100])


@pytest.mark.parametrize("cuts", [[1] * 60 + [240], [7] * 43, [0, 150, 0, 150, 0], [299, 1]])
def test_cut_into_chunks_the_stream_gets_the_same_scores_in_its_order(
    made: Made, model: Checkpoint, cuts: list[int]
) -> None:
    detector = made.make(model)
    ends = np.minimum(np.cumsum(cuts), len(WINDOWS)).tolist()
    parts = [detector.receive(block_of(rows(a, b))) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    assert same(joined(parts), made.make(model).receive(block_of(WINDOWS)))


def test_rows_stand_in_the_order_of_their_windows(made: Made, model: Checkpoint) -> None:
    """Early windows leave no trace, so that they may be asked for in any order."""
    if not made.knows_windows:
        pytest.skip("its scores are not of the windows")
    detector = made.make(model)
    detector.receive(block_of(WINDOWS))
    asked = changed(rows(100, 200), stage=np.full(100, Stage.EARLY, np.int8))
    order = np.random.default_rng(2).permutation(100)
    straight, shuffled = detector.receive(block_of(asked)), detector.receive(block_of(take(asked, order)))
    assert len(np.unique(straight.p_value)) > 10
    assert np.array_equal(straight.p_value[order], shuffled.p_value)


def test_early_windows_leave_no_trace(made: Made, model: Checkpoint) -> None:
    if not made.knows_windows:
        pytest.skip("its scores are not of the windows")
    detector = made.make(model)
    detector.receive(block_of(changed(WINDOWS, stage=np.full(len(WINDOWS), Stage.EARLY, np.int8))))
    assert same(detector.receive(block_of(WINDOWS)), made.make(model).receive(block_of(WINDOWS)))


def test_what_it_remembers_is_the_stream_and_not_the_process(made: Made, model: Checkpoint) -> None:
    if not made.remembers:
        pytest.skip("it has no state")
    one, other = made.make(model), made.make(model)
    expected = [one.receive(block_of(rows(0, 150))), one.receive(block_of(rows(150, 300)))]
    other.receive(block_of(rows(0, 150)))
    made.make(model).receive(block_of(office(50, seed=8)))  # another stream in between
    assert same(other.receive(block_of(rows(150, 300))), expected[1])


def test_an_empty_block_gives_no_scores_and_changes_nothing(made: Made, model: Checkpoint) -> None:
    detector = made.make(model)
    s = detector.receive(block_of(rows(0, 0)))
    assert len(s.score) == len(s.p_value) == len(s.attack) == 0
    assert s.reliance.shape == (0, 4)
    assert all(len(v) == 0 for v in s.components.values())
    after = detector.receive(block_of(WINDOWS))
    assert s.components.keys() == after.components.keys()
    assert same(after, made.make(model).receive(block_of(WINDOWS)))


def test_saved_and_loaded_it_gives_the_same_scores(made: Made, model: Checkpoint, tmp_path: Path) -> None:
    if not made.from_disk:
        pytest.skip("nothing of it is on disk")
    checkpoints.save(model, tmp_path / "m.safetensors")
    again = checkpoints.load(tmp_path / "m.safetensors", load_schema())
    assert same(made.make(model).receive(block_of(WINDOWS)), made.make(again).receive(block_of(WINDOWS)))


def test_the_rows_asked_for_are_explained_in_their_order(made: Made, model: Checkpoint) -> None:
    detector = made.make(model)
    s = detector.receive(block_of(WINDOWS))
    asked = np.argsort(s.p_value)[[0, 3, 1]]
    found = detector.explain(block_of(WINDOWS), s, asked)
    assert len(found) == 3
    assert all(isinstance(reason, str) and reason for some in found for reason in some)
    if made.knows_windows:
        assert all(found)
    for row, some in zip(asked, found, strict=True):
        assert detector.explain(block_of(WINDOWS), s, np.array([row])) == [some]
    assert detector.explain(block_of(WINDOWS), s, np.zeros(0, np.int64)) == []


def test_a_block_may_be_explained_when_later_ones_have_been_scored(made: Made, model: Checkpoint) -> None:
    detector = made.make(model)
    block = block_of(rows(0, 200))
    s = detector.receive(block)
    asked = np.argsort(s.p_value)[:2]
    before = detector.explain(block, s, asked)
    detector.receive(block_of(rows(200, 300)))
    assert detector.explain(block, s, asked) == before


def test_explaining_changes_no_score(made: Made, model: Checkpoint) -> None:
    one, other = made.make(model), made.make(model)
    s = one.receive(block_of(rows(0, 200)))
    one.explain(block_of(rows(0, 200)), s, np.argsort(s.p_value)[:2])
    other.receive(block_of(rows(0, 200)))
    assert same(one.receive(block_of(rows(200, 300))), other.receive(block_of(rows(200, 300))))


def test_its_scores_are_its_own_to_keep(made: Made, model: Checkpoint) -> None:
    detector = made.make(model)
    s = detector.receive(block_of(rows(0, 200)))
    kept = replace(s, score=s.score.copy(), p_value=s.p_value.copy(), reliance=s.reliance.copy())
    detector.receive(block_of(rows(200, 300)))
    assert same(s, kept)
