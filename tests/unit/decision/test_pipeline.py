"""The loop's own part of a verdict: reasons by component, and only those rows decided on one by one that need it."""

import math

import numpy as np
import pytest
from madeup import VERDICT
from numpy.typing import NDArray

from cmdana_plugin.config import Config
from cmdana_plugin.decision.judge import Judge, component_reasons, oddest_components
from cmdana_plugin.decision.verdict import NO_VERDICTS, Verdicts, coded
from cmdana_plugin.detector.scores import Scores, score_of
from cmdana_plugin.endpoint.aligner import Aligner
from cmdana_plugin.endpoint.wire import decode_batch, sample
from feature_extractors.features.encoding import Block


def scores(**components: list[float]) -> Scores:
    n = len(next(iter(components.values())))
    columns = {name: np.array(values) for name, values in components.items()}
    return Scores(np.zeros(n), np.ones(n), columns, np.zeros((n, 4)), [""] * n)


def test_the_oddest_component_comes_first_whatever_does_not_apply() -> None:
    some = scores(
        attack=[0.0002, 0.5],
        packets=[0.05, 0.5],
        log=[math.nan, math.nan],
        density=[0.02, 0.2],
        next=[0.3, 0.9],
    )
    assert oddest_components(some, np.array([1, 0])) == ["density", "attack"]
    first, second = component_reasons(some, np.array([True, True]), 3)
    assert [words.partition(" (p=")[2] for words in first] == ["0.0002)", "0.02)"]
    assert second == ("unlike any traffic seen in training (p=0.2)",)


def test_a_benign_row_has_no_reasons_and_a_detector_without_components_gives_none() -> None:
    assert component_reasons(scores(density=[0.001]), np.array([False]), 3) == [()]
    assert component_reasons(scores(unheard_of=[0.001]), np.array([True]), 3) == [()]
    assert oddest_components(scores(unheard_of=[0.001]), np.array([0])) == [None]
    assert oddest_components(scores(log=[math.nan]), np.array([0])) == [None]


def test_verdicts_in_columns_are_the_verdicts() -> None:
    v = VERDICT
    block = Verdicts(
        np.array([v.ts]), np.array([v.uid], "S20"), [v.orig_h], np.array([v.orig_p], np.uint16), [v.resp_h],
        np.array([v.resp_p], np.uint16), coded([v.proto]), coded([v.service]),
        np.array([v.community_id], "S30"), coded([v.stage]),
        np.array([v.score]), np.array([v.p_value]), v.threshold, coded([v.verdict]),
        np.array([[v.packet_reliance, v.connection_reliance, v.log_reliance, v.state_reliance]]), coded([v.modalities]),
        [v.reasons],
        v.model,
    )  # fmt: skip
    assert list(block) == [v]
    assert block[:] == [v]
    assert block[-1] == v
    assert list(NO_VERDICTS) == []


class Odd:
    """Everything is odd, the later the odder, and explained in one word."""

    name, schema_digest = "odd", "d"

    def receive(self, windows: Block) -> Scores:
        p = 10.0 ** -np.arange(5.0, 5.0 + len(windows))
        return Scores(score_of(p), p, {"density": p}, np.ones((len(windows), 4)) / 4, [""] * len(windows))

    def explain(self, windows: Block, scores: Scores, rows: NDArray[np.int64]) -> list[list[str]]:
        return [["explained"] for _ in rows]


@pytest.mark.parametrize(("most", "explained"), [(None, [0, 1, 2]), (2, [1, 2]), (0, [])])
def test_of_a_block_the_oddest_are_explained(most: int | None, explained: list[int]) -> None:
    windows = Aligner().receive([decode_batch(sample())])
    judge = Judge(Odd(), Config())
    judge.most_explained = most
    judged = judge.receive(windows)
    assert [i for i, v in enumerate(judged.verdicts) if v.reasons == ("explained",)] == explained
    assert all(v.reasons for v in judged.verdicts)
    assert sum(n.explained for n in judged.notices) == len(explained)
    assert all(n.verdict and (n.verdict.reasons == ("explained",)) is n.explained for n in judged.notices)
    assert len(judged.notices) == 3
