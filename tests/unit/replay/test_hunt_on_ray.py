"""On a Ray of this machine a hunt comes to what it comes to in processes, and goes on when an actor has ended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import made_archive
import pytest
from small_model import small_checkpoint
from test_hunt import hunted

from cmdana_plugin.detector import checkpoint as checkpoints
from cmdana_plugin.replay import RayScoring
from cmdana_plugin.replay.archives import FOLDER
from cmdana_plugin.replay.scoring_parts import ScoringError
from feature_extractors import CmdanaError


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    cluster = RayScoring("local", 2)
    with pytest.raises(CmdanaError, match=r"Ray is not installed: pip install 'cmdana\[ray\]'"):
        cluster.begin()
    cluster.close()


@pytest.fixture
def ray() -> Any:
    return pytest.importorskip("ray", reason="needs Ray: pip install 'cmdana[ray]'")


@pytest.fixture
def cluster(ray: Any) -> Iterator[Callable[[], RayScoring]]:
    """Makes a Ray of two processors, which ends with the test."""
    begun: list[RayScoring] = []

    def make() -> RayScoring:
        for one in begun:
            one.close()
        begun.append(RayScoring("local", 2))
        return begun[-1]

    yield make
    for one in begun:
        one.close()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_actors_give_the_same_logs_and_a_hunt_outlives_them(
    ray: Any, cluster: Callable[[], RayScoring], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "cmdana_plugin.replay.archives._BLOCK", 1200
    )  # the second actor's turn begins at 1024
    made_archive.archive(tmp_path / "archive", n=3000)
    model = tmp_path / "small.safetensors"
    checkpoints.save(small_checkpoint(), model)
    expected = hunted(tmp_path / "archive", tmp_path / "processes", model, 2)
    out = tmp_path / "out"

    def end_an_actor(progress: Any) -> None:
        if list((out / FOLDER).glob("state*")):
            ray.kill(actors.actors[1])

    actors = cluster()
    with pytest.raises(ScoringError, match=r"part 2 of 2 has ended.*goes on from the last snapshot"):
        hunted(tmp_path / "archive", out, model, 2, actors, every=0.0, progress=end_an_actor)
    said: list[str] = []
    found = hunted(tmp_path / "archive", out, model, 2, cluster(), notify=said.append)
    assert said
    assert said[0].startswith("goes on after ")
    assert found == expected


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_cluster_that_is_not_there_is_said_in_a_line(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cluster = RayScoring("auto", 2)
    with pytest.raises(CmdanaError, match=r"--ray auto: no cluster there: [^\n]+$"):
        cluster.begin()
