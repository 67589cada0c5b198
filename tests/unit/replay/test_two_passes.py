"""On a network that no model has learned, what is judged is read twice; else once."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from made_windows import office

from cmdana_plugin.config import Config
from cmdana_plugin.decision import Judge
from cmdana_plugin.evaluation.operator_view import PrecomputedScores, scores_of
from cmdana_plugin.replay.two_passes import TwoPasses
from feature_extractors import CaptureError
from feature_extractors.features import encoded, load_schema, take_encoded

N = 3000
WHOLE = encoded(office(N, desks=80, gap=6.0), load_schema())
FOREIGN = np.random.default_rng(1).uniform(size=N) ** 2 / 4


class Foreign(PrecomputedScores):
    """A detector of another network, which can begin anew."""

    def state(self) -> dict[str, np.ndarray[Any, Any]]:
        return {"at": np.array([self._at])}

    def restore(self, state: Any, learned: bool = True) -> None:
        self._at = int(state["at"][0])


def work() -> Iterator[Any]:
    for rows in np.array_split(np.arange(N), 7):
        yield take_encoded(WHOLE, rows), {}, []


def judge(**more: Any) -> Judge:
    return Judge(Foreign(scores_of(FOREIGN)), Config(**more), adapting=True)


def p_values(passes: TwoPasses, by: Judge) -> np.ndarray[Any, Any]:
    blocks = passes.judging(by)
    try:
        return np.concatenate(
            [judged.verdicts.p_value for judged in by.judged(windows for windows, _, _ in blocks)]
        )
    finally:
        passes.close()


def test_a_foreign_network_is_read_twice_and_judged_once() -> None:
    by = judge()
    found = p_values(TwoPasses(work, again=True), by)
    assert len(found) == N
    assert 0.005 <= (found[:500] <= 1e-2).mean() <= 0.02


@pytest.mark.parametrize("how", [{"again": False}, {"again": True, "mode": "off"}])
def test_else_it_is_read_once(how: dict[str, Any]) -> None:
    by = judge(adaptation={"mode": how.pop("mode")}) if "mode" in how else judge()
    found = p_values(TwoPasses(work, **how), by)
    np.testing.assert_allclose(found[:500], FOREIGN[:500], rtol=1e-5)


def test_what_is_not_read_again_does_nothing_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    told, telling = os.pipe()
    children: list[int] = []
    fork = os.fork
    monkeypatch.setattr(os, "fork", lambda: children.append(child := fork()) or child)

    def tells() -> Iterator[Any]:
        os.write(telling, b"!")
        yield from work()

    p_values(TwoPasses(tells, again=True), judge(adaptation={"mode": "off"}))
    os.close(telling)
    assert os.read(told, 9) == b"!"  # of one of the two
    os.close(told)
    assert len(children) == 2
    for child in children:
        with pytest.raises(ChildProcessError):
            os.waitpid(child, os.WNOHANG)


def test_what_cannot_be_read_is_said_in_the_first_pass() -> None:
    def broken() -> Iterator[Any]:
        yield next(work())
        raise CaptureError("a.pcap: is cut")

    passes = TwoPasses(broken, again=True)
    with pytest.raises(CaptureError, match="is cut"):
        passes.judging(judge())
    passes.close()
