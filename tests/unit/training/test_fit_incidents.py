"""Tails of evidence from a network's normal hours: kept in the checkpoint, refused where they are not sound."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_windows import changed, office
from numpy.typing import NDArray

from cmdana_plugin.decision.usual.tails import PARAMETERS, ROLES, STATISTICS, UNLEARNED, surprise, tails_of
from cmdana_plugin.detector import checkpoint, detector_of, shipped_checkpoint
from cmdana_plugin.detector.scores import Scores, score_of
from cmdana_plugin.detector.soundness import INCIDENTS
from cmdana_plugin.training.fit_incidents import Hours, with_incidents
from cmdana_plugin.training.recording import Recording
from feature_extractors.errors import CmdanaError
from feature_extractors.features import Encoded, load_schema


class Uniform:
    """P-values that mean what they say."""

    name, schema_digest = "uniform", "d"

    def __init__(self) -> None:
        self._rng = np.random.default_rng(1)

    def receive(self, windows: Encoded) -> Scores:
        n = len(windows)
        p = self._rng.random(n)
        return Scores(score_of(p), p, {"density": p}, np.ones((n, 4)) / 4, [""] * n)

    def explain(self, windows: Encoded, scores: Scores, rows: NDArray[np.int64]) -> list[list[str]]:
        return [[] for _ in rows]


def day(hours: int) -> Recording:
    windows = office(hours * 600)
    ts = windows.connections.ts.min() + np.arange(len(windows)) * 6.0
    return Recording("day", changed(windows, ts=ts, end=ts))


@pytest.mark.parametrize(("hours", "learned"), [(30, True), (1, False)])
def test_tails_come_of_hours_enough_and_else_of_none(hours: int, learned: bool) -> None:
    kept = Hours()
    assert [r.name for r in kept.keeping([day(hours)])] == ["day"]
    made = with_incidents(shipped_checkpoint(), kept, lambda _: Uniform())
    assert (made.incidents is not None) is learned
    if made.incidents is not None:
        assert made.incidents.shape == INCIDENTS == (ROLES, STATISTICS + 1, PARAMETERS)


def test_malicious_connections_teach_nothing_of_what_normal_hours_hold() -> None:
    kept = Hours()
    recording = day(1)
    label = np.zeros(len(recording.windows), np.int8)
    label[:100] = 1
    list(kept.keeping([replace(recording, label=label)]))
    assert [len(r.windows) for r in kept.kept] == [len(recording.windows) - 100]


def test_a_fitted_tail_says_how_often_normal_hours_come_to_more() -> None:
    rng = np.random.default_rng(3)
    maxima = [rng.exponential(1.0, (4000, STATISTICS)) for _ in range(ROLES)]
    (tail, *_), _ = tails_of(maxima, 10 * 86_400.0)
    later = rng.exponential(1.0, 100_000)
    for share in (1e-2, 1e-3):
        told = 10.0 ** -surprise(tail, np.quantile(later, [1.0 - share]))[0]
        assert share / 2 < told < share * 2


def test_tails_survive_the_file_and_others_are_refused(tmp_path: Path) -> None:
    tails = UNLEARNED.copy()
    path = tmp_path / "m.safetensors"
    checkpoint.save(replace(shipped_checkpoint(), incidents=tails), path)
    read = checkpoint.load(path, load_schema())
    assert read.incidents is not None
    assert np.array_equal(read.incidents, tails)
    assert detector_of(read, load_schema()).checkpoint is read
    for wrong in (np.nan, -1.0, 1e30):
        bad = tails.copy()
        bad[0, 0, 1] = wrong
        checkpoint.save(replace(shipped_checkpoint(), incidents=bad), path)
        with pytest.raises(CmdanaError, match=r"incidents\.tails"):
            checkpoint.load(path, load_schema())
    checkpoint.save(replace(shipped_checkpoint(), incidents=tails[:1]), path)
    with pytest.raises(
        CmdanaError, match=r"incidents.tails: found float64 \[1, 11, 3\], expected float64 \[2, 11, 3\]"
    ):
        checkpoint.load(path, load_schema())
