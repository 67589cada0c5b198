"""A corpus that lies on the device teaches what one does whose rows are moved step by step: here torch's processor."""

from __future__ import annotations

import gc
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_windows import office

from cmdana_plugin.detector import CROSS_MODAL, Network, learn_preparation, prepare
from cmdana_plugin.training import Recipe, Recording, gather, train
from cmdana_plugin.training.cross_modal.loss import Learner
from cmdana_plugin.training.cross_modal.on_device import Resident, size_of
from cmdana_plugin.training.cross_modal.steps import FromArrays, Lesson, lesson_of
from cmdana_plugin.training.fit import _shape
from feature_extractors.features import load_schema

CPU = torch.device("cpu")
RECIPE = Recipe(width=16, detector=CROSS_MODAL)
ALL = 1 << 40  # bytes, room for anything


@pytest.fixture(scope="module")
def lesson() -> Lesson:
    """Two recordings, desks and a scan; every seventh event is not benign, and one in ten has lost its logs."""
    schema = load_schema()
    corpus = gather(
        [Recording("a", office(900, seed=3, scan=150)), Recording("b", office(250, seed=4))], schema
    )
    prepared = prepare(
        corpus.features, corpus.state, learn_preparation(corpus.features, corpus.state), schema
    )
    prepared.present[::10, 2] = False
    return lesson_of(corpus, prepared, np.arange(len(corpus)) % 7 != 0)


def chunks_of(lesson: Lesson, size: int = 256) -> list[np.ndarray]:
    """The second recording first, in the same step as the first's beginning."""
    rows = np.roll(np.arange(len(lesson.ts)), 250)
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def learner_of(lesson: Lesson, room: int | None = None, mixed: bool = False, device: str = "cpu") -> Learner:
    torch.manual_seed(1)
    network = Network(_shape(lesson.prepared, load_schema(), RECIPE)).train()
    return Learner(network, RECIPE, torch.device(device), mixed, room)


def passed(learner: Learner, lesson: Lesson, chunks: list[np.ndarray], passes: int = 1) -> list[float]:
    rng, losses = np.random.default_rng(5), []
    for _ in range(passes):
        carry, steps = learner.begin(lesson, chunks)
        losses += [
            float("nan") if x is None else float(x) for x in (learner.step(s, carry, rng) for s in steps)
        ]
    return losses


def weights(learner: Learner) -> np.ndarray:
    return np.concatenate([p.detach().float().cpu().numpy().ravel() for p in learner.network.parameters()])


@pytest.mark.parametrize("mixed", [False, True])
def test_after_several_steps_loss_gradients_and_weights_are_the_same(lesson: Lesson, mixed: bool) -> None:
    chunks = chunks_of(lesson)
    stepwise, there = learner_of(lesson, mixed=mixed), learner_of(lesson, ALL, mixed)
    a, b = (passed(x, lesson, chunks, passes=2) for x in (stepwise, there))
    assert np.isfinite(a).all()
    np.testing.assert_allclose(a, b, rtol=1e-5)
    np.testing.assert_allclose(weights(stepwise), weights(there), atol=1e-6)
    for (name, p), q in zip(stepwise.network.named_parameters(), there.network.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None and q.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, atol=1e-7, rtol=1e-4, msg=name)


def test_a_step_is_given_the_same_either_way(lesson: Lesson) -> None:
    chunks = chunks_of(lesson)
    for a, b in zip(FromArrays(lesson, CPU).steps(chunks), Resident(lesson, CPU).steps(chunks), strict=True):
        assert a.plan.groups == b.plan.groups
        assert {k: v.tolist() for k, v in a.at.items()} == {k: v.tolist() for k, v in b.at.items()}
        for (x, m), (y, n) in zip(a.encoded, b.encoded, strict=True):
            assert torch.equal(x, y.to(x.dtype))
            assert torch.equal(m, n)
        assert torch.equal(a.state, b.state)
        assert torch.equal(a.known, b.known)
        for (classes, places), (every, none) in zip(a.wanted, b.wanted, strict=True):
            assert none is None
            assert torch.equal(classes, every[every >= 0])
            assert torch.equal(places, torch.nonzero(every >= 0).flatten())  # type: ignore[arg-type]


def test_steps_without_one_to_foresee_move_the_memory_alone(lesson: Lesson) -> None:
    benign = lesson.benign.copy()
    benign[:300] = False
    given = replace(lesson, benign=benign)
    chunks = np.split(np.arange(len(benign)), [200, 400])
    a, b = (passed(learner_of(given, room), given, chunks) for room in (None, ALL))
    assert np.isnan(a[0])
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_corpus_that_does_not_fit_is_moved_step_by_step_and_that_is_said(lesson: Lesson) -> None:
    learner, whole = learner_of(lesson, size_of(lesson) - 1), learner_of(lesson, size_of(lesson))
    with pytest.warns(RuntimeWarning, match="MiB and cpu has room for .* rows of each step are copied"):
        _, steps = learner.begin(lesson, chunks_of(lesson))
    assert isinstance(learner._source, tuple)
    assert isinstance(learner._source[1], FromArrays)
    assert next(steps).plan.n == 256
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole.begin(lesson, chunks_of(lesson))
        learner_of(lesson).begin(lesson, chunks_of(lesson))  # a processor has nothing to be moved to
    assert whole._source is not None
    assert isinstance(whole._source[1], Resident)


def test_what_lies_there_is_as_large_as_was_reckoned(lesson: Lesson) -> None:
    there = Resident(lesson, CPU)
    list(there.steps(chunks_of(lesson)))
    held = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in there._columns.values()}
    held |= {
        x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()
        for _, at in there._laid_out[1]
        for x in at.values()
    }
    assert 0.5 * size_of(lesson) < sum(held.values()) <= size_of(lesson)


def test_the_plan_is_laid_out_once_for_passes_of_the_same_steps(lesson: Lesson) -> None:
    there, chunks = Resident(lesson, CPU), chunks_of(lesson)
    first, again = (there._plans([c.copy() for c in chunks]) for _ in range(2))
    assert again is first
    assert there._plans(chunks[::-1]) is not first


def test_passes_leave_nothing_behind(lesson: Lesson) -> None:
    learner, chunks = learner_of(lesson, ALL), chunks_of(lesson)

    def tensors() -> int:
        gc.collect()
        return sum(1 for x in gc.get_objects() if type(x) is torch.Tensor)

    passed(learner, lesson, chunks, passes=2)
    before = tensors()
    passed(learner, lesson, chunks[::-1], passes=2)
    passed(learner, replace(lesson), chunks)  # another epoch's lesson takes the place of the one before
    assert tensors() <= before + 2


def test_a_training_in_larger_steps_takes_fewer() -> None:
    shares: list[float] = []
    recipe = Recipe(epochs=1, width=16, trees=False, behaviour=False, detector=CROSS_MODAL, step_events=1024)
    train([Recording("a", office(2400, seed=1))], recipe=recipe, progress=lambda _what, x: shares.append(x))
    assert shares == pytest.approx([1 / 3, 2 / 3, 1.0])


@pytest.mark.gpu
def test_a_gpu_learns_the_same_with_the_corpus_there(lesson: Lesson) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here: the corpus on a device of its own was not run")
    here, there = learner_of(lesson), learner_of(lesson, device="cuda")
    a, b = (passed(x, lesson, chunks_of(lesson)) for x in (here, there))
    assert there._source is not None
    assert isinstance(there._source[1], Resident)
    np.testing.assert_allclose(a, b, rtol=1e-2)
