"""The flat tables: the official split, nothing learned from test rows, and groups that never see themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from made_tables import nsl

from cmdana_plugin.config import Config
from cmdana_plugin.evaluation.command import load_findings, measure
from cmdana_plugin.evaluation.page import words
from cmdana_plugin.evaluation.protocol import SHIPPED, UNLABELLED
from cmdana_plugin.evaluation.tables import flat_tables as tabular
from feature_extractors.errors import CmdanaError


def test_the_official_split_is_kept_and_difficulty_is_no_field(tmp_path: Path) -> None:
    (task,) = tabular.tasks_in(nsl(tmp_path, 300))
    assert (len(task.learn), len(task.test)) == (300, 300)
    assert task.learn.numeric.shape[1] + len(task.learn.sizes) == 40
    assert set(task.test.family) == {"", "dos"}


def test_a_category_that_training_has_not_shown_has_no_code_of_its_own(tmp_path: Path) -> None:
    nsl(tmp_path, 300)
    test = tmp_path / "nsl_kdd" / "KDDTest+.txt"
    test.write_text(test.read_text().replace("http", "gopher"))
    (task,) = tabular.tasks_in(tmp_path)
    service = 1
    assert 0 in task.test.codes[:, service]
    assert 0 not in task.learn.codes[:, service]


def test_no_group_of_fields_sees_itself(tmp_path: Path) -> None:
    (task,) = tabular.tasks_in(nsl(tmp_path, 300))
    torch.manual_seed(0)
    network = tabular.Groups(task.learn).eval()
    codes = torch.zeros(8, len(task.learn.group), dtype=torch.int64)
    values = torch.zeros(8, task.learn.numeric.shape[1])
    before = network(codes, values)
    for g, members in enumerate(network.members):
        changed, moved = codes.clone(), values.clone()
        changed[:, members] = 3
        moved[:, members[members < values.shape[1]]] = 2.0
        after = network(changed, moved)
        assert torch.equal(before[g], after[g])
        assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_every_detector_is_judged_at_a_threshold_of_train_folds(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    pytest.importorskip("sklearn")
    tasks = tabular.tasks_in(nsl(tmp_path))
    found = tabular.evaluate(tasks, seeds=(0,), only=(SHIPPED, "boosted", "knn"), cache=tmp_path / "kept")
    (table,) = found.values()
    assert set(table["pooled"]) == {SHIPPED, UNLABELLED, "boosted", "knn"}
    figures = dict(zip(tabular.POOLED, table["pooled"]["boosted"][0], strict=True))
    assert figures["auroc"] > 0.99
    assert figures["fpr"] < 0.05
    assert "NSL-KDD, official split" in words({"tabular": found})


def test_each_run_replaces_its_section_and_the_page_is_written_from_all(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    out, page = tmp_path / "findings.json", tmp_path / "page.md"
    marks = ("<!-- robustness -->", "<!-- tabular -->")
    page.write_text("".join(f"{mark}{mark}" for mark in marks))
    out.write_text('{"robustness": {"about": "kept", "attacks": [], "detectors": {}}}')
    measure(None, None, out, Config(), tables=nsl(tmp_path, 600), seeds=1, only=("knn",))
    assert set(load_findings(out)) == {"robustness", "tabular", "made"}
    text = measure(None, None, out, Config(), page=page)
    assert "| knn | no | 1 |" in text
    assert "An attacker who owns the originator" in page.read_text()
    assert "cmdana evaluate --tabular TABLES" in page.read_text()


@pytest.mark.parametrize("content", ["1,2,3\n", ""])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: str) -> None:
    nsl(tmp_path, 50)
    (tmp_path / "nsl_kdd" / "KDDTest+.txt").write_text(content)
    with pytest.raises(CmdanaError, match="expected 43 columns"):
        tabular.tasks_in(tmp_path)


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CmdanaError, match="found neither"):
        tabular.tasks_in(tmp_path)
