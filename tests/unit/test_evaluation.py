"""The judge is fair: per family against all benign rows, macro over families, and every baseline answers to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_windows import is_scan, office

from cmdana_plugin.baselines import BASELINES, WITH_LABELS
from cmdana_plugin.evaluation import Findings, Run, judge, load_findings, save_findings, tables
from cmdana_plugin.training import Corpus, Recording, gather
from feature_extractors.errors import CmdanaError
from feature_extractors.schema import load_schema


def test_a_family_is_judged_against_the_benign_rows_of_the_whole_set() -> None:
    score = np.concatenate([np.arange(1000.0), np.full(10, 2000.0), np.full(10, -1.0), np.full(4, 2000.0)])
    label = np.array([0] * 1000 + [1] * 24, np.int8)
    family = [""] * 1000 + ["seen"] * 10 + ["missed"] * 10 + ["too few"] * 4
    families, macro = judge(score, label, family)
    assert set(families) == {"seen", "missed"}
    assert (families["seen"].tpr[0], families["missed"].tpr[0], macro.tpr[0]) == (1.0, 0.0, 0.5)
    assert (families["seen"].auroc, families["missed"].auroc) == (1.0, 0.0)
    assert families["seen"].pr == 1.0


def test_a_rate_that_needs_more_benign_rows_is_not_given() -> None:
    score = np.arange(200.0)
    families, _ = judge(score, (score >= 190).astype(np.int8), ["x"] * 200)
    assert np.isnan(families["x"].tpr).tolist() == [True, True, True]


def test_scores_that_say_nothing_get_nothing() -> None:
    families, _ = judge(np.zeros(2000), (np.arange(2000) % 2).astype(np.int8), ["x"] * 2000)
    assert families["x"].auroc == 0.5
    assert families["x"].tpr[0] == 0.0


@pytest.mark.parametrize("labels", [[0] * 50, [1] * 50])
def test_one_class_alone_cannot_be_judged(labels: list[int]) -> None:
    with pytest.raises(CmdanaError, match="expected both"):
        judge(np.zeros(50), np.array(labels, np.int8), ["x"] * 50)


def corpus(seed: int) -> Corpus:
    windows = office(400, seed=seed, scan=60)
    label = is_scan(windows).astype(np.int8)
    return gather(
        [Recording(f"lab/{seed}", windows, label, ["scan" if x else "" for x in label])], load_schema()
    )


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_learns_scores_and_repeats_itself(name: str) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("lightgbm")
    learn, later = corpus(1), corpus(2)
    answers = []
    for _ in range(2):
        baseline = BASELINES[name]()
        baseline.fit(learn, np.ones(len(learn), np.bool_), seed=0)
        answers.append(baseline.score(later))
    assert np.array_equal(*answers)
    assert np.isfinite(answers[0]).all()
    _, macro = judge(answers[0], later.label, later.family)
    assert macro.auroc > (0.95 if name in WITH_LABELS else 0.0)


def test_findings_come_back_and_make_a_page(tmp_path: Path) -> None:
    score = np.arange(2000.0)
    families, macro = judge(score, (score >= 1900).astype(np.int8), ["x"] * 2000)
    found = Findings(
        [Run("cmdana", 0, families, macro, {1e-2: 0.02, 1e-3: 0.001})], {"cmdana": (0.9, 1.0)}, {"seeds": "1"}
    )
    save_findings(found, tmp_path / "f.json")
    again = load_findings(tmp_path / "f.json")
    assert tables(again) == tables(found)
    assert "| x | 100 | 1.00 |" in tables(found)
