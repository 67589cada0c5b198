"""The loop's own part of a verdict: reasons by component, and only those rows decided on one by one that need it."""

import math
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from made_windows import START, block_of, changed, office
from madeup import VERDICT
from numpy.typing import NDArray

from cmdana_plugin.config import Config
from cmdana_plugin.decision.judge import Judge, Judged, component_reasons, oddest_components
from cmdana_plugin.decision.verdict import NO_VERDICTS, verdicts_of
from cmdana_plugin.detector.scores import Scores, score_of
from feature_extractors.errors import CaptureError
from feature_extractors.features.encoding import Encoded, take_encoded


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
    block = verdicts_of([v])
    assert list(block) == [v]
    assert block[:] == [v]
    assert block[-1] == v
    assert list(NO_VERDICTS) == []


class Odd:
    """Everything is odd, and explained in one word."""

    name, schema_digest = "odd", "d"

    def receive(self, windows: Encoded) -> Scores:
        p = np.full(len(windows), 1e-7)
        return Scores(score_of(p), p, {"density": p}, np.ones((len(windows), 4)) / 4, [""] * len(windows))

    def explain(self, windows: Encoded, scores: Scores, rows: NDArray[np.int64]) -> list[list[str]]:
        return [["explained"] for _ in rows]


def apart(n: int, gap: float) -> Encoded:
    """`n` connections of as many hosts to as many others, one every `gap` seconds."""
    windows, last = office(n), np.arange(n) % 250
    hosts = np.tile(np.array([0] * 10 + [255, 255, 10, 0, 0, 0], np.uint8), (n, 1))
    hosts[:, 14], hosts[:, 15] = np.arange(n) // 250, last
    others, end = hosts.copy(), START + gap * np.arange(n)
    others[:, 13] = 1
    block = block_of(changed(windows, orig_h=hosts, resp_h=others, ts=end, end=end))
    return replace(block, domain=[""] * n)  # else they would do the same thing


def explained(judged: list[Judged]) -> list[bool]:
    return [v.reasons == ("explained",) for j in judged for v in j.verdicts]


def test_a_notice_is_explained_and_its_verdict_says_the_same() -> None:
    judged = list(Judge(Odd(), Config()).judged([apart(12, 1e-3)]))
    assert explained(judged) == [True] * 12
    assert [n.explained for n in judged[0].notices] == [True] * 12
    assert all(n.verdict and n.verdict.reasons == ("explained",) for n in judged[0].notices)


def test_a_flood_of_notices_names_components_until_network_time_has_passed() -> None:
    flood = apart(200, 1e-5)
    c = flood.connections
    others = {"orig_h": c.orig_h.copy(), "resp_h": c.resp_h.copy()}
    for address in others.values():
        address[:, 13] += 2
    later = replace(flood, connections=replace(c, end=c.end + 2.0, **others))  # type: ignore[arg-type]
    one, two = (list(Judge(Odd(), Config()).judged([part])) for part in (flood, later))
    assert explained(one) == [True] * 16 + [False] * 184
    assert [n.explained for j in one for n in j.notices] == explained(one)
    assert explained(one) == explained(two)
    both = list(Judge(Odd(), Config()).judged([flood, later]))
    assert sum(explained(both)[200:]) == 16  # eight a second
    assert all(v.reasons for j in both for v in j.verdicts)


@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize("ahead", [False, True])
def test_however_the_stream_is_cut_and_whoever_scores_it_the_verdicts_are_the_same(
    size: int, ahead: bool
) -> None:
    whole = apart(150, 0.02)
    (expected,) = Judge(Odd(), Config()).judged([whole])
    blocks = [take_encoded(whole, rows) for rows in np.array_split(np.arange(150), 150 // size)]
    found = list(Judge(Odd(), Config()).judged(blocks, ahead=ahead))
    assert [v for j in found for v in j.verdicts] == list(expected.verdicts)
    assert [n for j in found for n in j.notices] == expected.notices
    assert sum((Counter(j.counts) for j in found), Counter()) == expected.counts


def test_an_empty_block_comes_to_nothing() -> None:
    (judged,) = Judge(Odd(), Config()).judged([take_encoded(apart(3, 1.0), np.zeros(0, np.int64))])
    assert (len(judged.windows), len(judged.verdicts), len(judged.notices), judged.counts) == (0, 0, 0, {})


def test_live_a_block_is_asked_for_when_the_one_before_has_been_answered() -> None:
    asked: list[int] = []

    def blocks() -> Iterator[Encoded]:
        for i in range(3):
            asked.append(i)
            yield apart(3, 1.0)

    judged = Judge(Odd(), Config()).judged(blocks())
    for i in range(3):
        next(judged)
        assert asked == list(range(i + 1))


def test_ahead_the_next_block_is_scored_while_the_caller_is_at_work() -> None:
    second = threading.Event()

    def blocks() -> Iterator[Encoded]:
        yield apart(3, 1.0)
        second.set()
        yield apart(3, 1.0)

    judged = Judge(Odd(), Config()).judged(blocks(), ahead=True)
    next(judged)
    assert second.wait(30)  # though only one has been asked for
    assert len(list(judged)) == 1


def test_ahead_what_the_blocks_raise_is_raised_here() -> None:
    def blocks() -> Iterator[Encoded]:
        yield apart(3, 1.0)
        raise CaptureError("x.pcap: is none")

    judged = Judge(Odd(), Config()).judged(blocks(), ahead=True)
    next(judged)
    with pytest.raises(CaptureError, match="is none"):
        next(judged)


def test_who_gives_up_does_not_wait_for_a_block_that_does_not_come() -> None:
    comes = threading.Event()

    def blocks() -> Iterator[Encoded]:
        yield apart(3, 1.0)
        comes.wait(60)

    judged = Judge(Odd(), Config()).judged(blocks(), ahead=True)
    next(judged)
    judged.close()  # type: ignore[attr-defined]
    assert not comes.is_set()
    comes.set()
