"""A plan says what a recording is for; nothing that is judged has been learned, and all take the same calm rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_windows import is_scan, office

from cmdana_plugin.config import Config
from cmdana_plugin.evaluation.own_network import Part, after, cut, evaluate, read_plan
from cmdana_plugin.evaluation.page import words
from cmdana_plugin.training.recording import Recording
from feature_extractors.errors import CmdanaError

BUSY_MINUTES = Path(__file__).parents[2] / "traces" / "busy-minutes"
PLAN = """recording,network,part,begin,end
busy-minutes,office,train,0,0.5
busy-minutes,office,calibrate,0.5,0.7
busy-minutes,office,test,0.7,1
"""


def recording(seed: int, scan: int = 0) -> Recording:
    windows = office(600, seed=seed, scan=scan)
    label = is_scan(windows).astype(np.int8)
    return Recording(f"lab/{seed}", windows, label, ["scan" if x else "" for x in label])


def test_a_plan_names_folders_beside_it(tmp_path: Path) -> None:
    (tmp_path / "plan.csv").write_text(PLAN)
    assert read_plan(tmp_path / "plan.csv")[1] == Part(
        tmp_path / "busy-minutes", "office", "calibrate", 0.5, 0.7
    )


@pytest.mark.parametrize(
    ("plan", "error"),
    [
        ("recording,network\na,b\n", "'part'"),
        (PLAN.replace("train", "learn"), "found 'learn'"),
        (PLAN.replace("0,0.5", "0.5,0.2"), "expected shares"),
        (PLAN.replace("calibrate", "train"), "expected train, calibrate"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused_in_one_line(tmp_path: Path, plan: str, error: str) -> None:
    (tmp_path / "plan.csv").write_text(plan)
    with pytest.raises(CmdanaError, match=error) as caught:
        read_plan(tmp_path / "plan.csv")
    assert "\n" not in str(caught.value)


def test_stretches_of_a_recording_share_no_connection() -> None:
    whole = recording(1, scan=30)
    parts = [cut(whole, a, b) for a, b in ((0.0, 0.4), (0.4, 0.7), (0.7, 1.0))]
    assert sum(len(p.windows) for p in parts) == len(whole.windows)
    uids = np.concatenate([p.windows.connections.uid for p in parts])
    assert len(set(uids.tolist())) == len(uids)
    assert sum(f == "scan" for p in parts for f in p.family) == 30


def test_the_past_moves_the_state_and_counts_for_nothing() -> None:
    now = recording(2, scan=20)
    whole, keep = after([recording(1)], now)
    assert whole.label is not None
    assert now.label is not None
    assert (whole.label[~keep] == -1).all()
    assert np.array_equal(whole.label[keep], now.label)
    assert len(whole.windows) == 1200 + 20


@pytest.mark.slow
def test_a_recording_is_learned_and_judged_from_a_plan(tmp_path: Path) -> None:
    (tmp_path / "plan.csv").write_text(PLAN)
    (tmp_path / "busy-minutes").symlink_to(BUSY_MINUTES)
    found = evaluate(
        read_plan(tmp_path / "plan.csv"),
        Config(),
        None,
        seeds=(0,),
        baselines=("gaussians",),
        cache=tmp_path / "kept",
    )
    site = found["office"]
    assert site["trained"] > 500
    assert set(site["incidents"]) >= {"cmdana", "gaussians", "cmdana, no site history"}
    assert site["incidents"]["cmdana"][0]["incidents"] >= 2
    assert 0.0 <= site["detectors"]["cmdana"]["macro"][0][0] <= 1.0
    assert "A network of one's own" in words({"own": found})
