"""Heads that name classes: their figures, their ways of balancing, and the tables that they are asked on."""

from __future__ import annotations

import csv
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from made_tables import nsl
from made_windows import is_scan, office

from cmdana_plugin.config import Config
from cmdana_plugin.detector.networks.heads import BALANCING, class_weights, drawn, head_loss
from cmdana_plugin.evaluation.command import measure
from cmdana_plugin.evaluation.protocol import Split
from cmdana_plugin.evaluation.tables import flat_tables as tabular
from cmdana_plugin.evaluation.tables import heads
from cmdana_plugin.evaluation.tables.captures import task_of
from cmdana_plugin.evaluation.tables.multiclass import confusion, figures
from cmdana_plugin.evaluation.tables.picture import confusion_picture
from cmdana_plugin.training import Recording
from feature_extractors.errors import CmdanaError


def test_figures_of_a_small_matrix_are_those_of_the_textbook() -> None:
    truth = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    said = np.array([0, 0, 1, 0, 1, 2, 2, -1])
    m = confusion(truth, said, 3)
    assert m.tolist() == [[3, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    found = figures(m, ("benign", "a", "b"))
    assert found["accuracy"] == 5 / 8
    assert found["fpr"] == 1 / 4
    assert found["recall"] == [3 / 4, 1 / 2, 1 / 2]
    assert found["precision"] == [1.0, 1 / 2, 1 / 2]
    f1 = [6 / 7, 1 / 2, 1 / 2]
    assert found["macro_f1"] == pytest.approx(np.mean(f1))
    assert found["weighted_f1"] == pytest.approx((4 * f1[0] + 2 * f1[1] + 2 * f1[2]) / 8)


def test_correlation_agrees_with_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 200)
    said = np.where(rng.random(200) < 0.5, truth, rng.integers(0, 4, 200))
    found = figures(confusion(truth, said, 4), list("abcd"))
    assert found["mcc"] == pytest.approx(sklearn.matthews_corrcoef(truth, said))
    assert found["macro_f1"] == pytest.approx(sklearn.f1_score(truth, said, average="macro"))


def share_of_rare(balancing: str) -> float:
    """The share of rare rows named, of two classes that overlap, one in fifty rare."""
    rng = np.random.default_rng(1)
    kind = (rng.random(4000) < 0.02).astype(np.int64)
    x = torch.from_numpy((rng.normal(size=4000) + 1.5 * kind).astype(np.float32))[:, None]
    torch.manual_seed(0)
    head = torch.nn.Linear(1, 2)
    weight = class_weights(kind, 2)
    prior = torch.from_numpy((np.bincount(kind) / len(kind)).astype(np.float32))
    optimiser = torch.optim.Adam(head.parameters(), 0.05)
    for _ in range(200):
        rows = drawn(weight, 256, balancing, rng)
        loss = head_loss(head(x[rows]), torch.from_numpy(kind[rows]),
                         torch.from_numpy(weight[rows].astype(np.float32)), prior, balancing)  # fmt: skip
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float((head(x).argmax(dim=1).numpy() == 1)[kind == 1].mean())


def test_balancing_by_name_finds_the_rare_class_that_none_leaves_out() -> None:
    found = {name: share_of_rare(name) for name in BALANCING}
    assert found["none"] < 0.2
    for name in ("weights", "sampler", "logit-adjustment"):
        assert found[name] > 0.5, found
    assert found["focal"] >= found["none"]


def test_another_name_of_balancing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one of none"):
        head_loss(torch.zeros(1, 2), torch.zeros(1).long(), torch.ones(1), torch.ones(2), "smote")
    with pytest.raises(CmdanaError, match="--balancing: found smote; expected among none"):
        measure(None, None, tmp_path / "f.json", Config(), tables=tmp_path, heads=True, balancing=["smote"])


def test_every_head_is_judged_and_the_page_has_its_matrix(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    page = tmp_path / "page.md"
    other = "<!-- part: other -->\n\nanother table\n\n<!-- part: other -->"
    page.write_text(
        f"<!-- captures -->measured before<!-- captures -->\nkept\n<!-- heads -->{other}<!-- heads -->\n"
    )
    out = tmp_path / "f.json"
    measure(None, None, out, Config(), tables=nsl(tmp_path, 900), heads=True, seeds=1, epochs=8, page=page)
    text = page.read_text()
    assert "kept" in text
    assert "measured before" in text
    assert other in text
    for name in heads.NAMES:
        assert f"| {name}, weights | 1 | " in text
    assert "| truth | benign | dos | recall | precision |" in text
    (task,) = tabular.tasks_in(tmp_path)
    found = heads.evaluate([task], names=("residual-attention",), balancing=("sampler",), epochs=60)
    (run,) = found[task.name]["heads"]["residual-attention, sampler"]
    assert run["macro_f1"] > 0.95
    assert sum(map(sum, run["matrix"])) == len(task.test)


def test_the_page_has_a_picture_of_each_matrix_and_names_are_text(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    page = tmp_path / "page.md"
    page.write_text("<!-- heads --><!-- heads -->\n")
    out = tmp_path / "f.json"
    measure(
        None, None, out, Config(), tables=nsl(tmp_path, 900), heads=True, seeds=1, only=["boosted"], page=page
    )
    (picture,) = (tmp_path / "pictures").iterdir()
    assert f"](pictures/{picture.name})" in page.read_text()
    root = ElementTree.fromstring(picture.read_text())
    said = [t.text for t in root.iter("{http://www.w3.org/2000/svg}title")]
    assert len(said) == 4
    assert any(t and t.startswith("benign called dos: ") for t in said)
    hostile = confusion_picture({"names": ["benign", "<script>"], "matrix": [[1, 0, 2], [0, 3, 0]]}, "a & b")
    texts = [t.text for t in ElementTree.fromstring(hostile).iter("{http://www.w3.org/2000/svg}text")]
    assert {"a & b", "<script>", "unknown"} <= set(texts)


@pytest.mark.slow
def test_captures_are_a_table_whose_classes_are_kinds_of_attack() -> None:
    pytest.importorskip("lightgbm")
    parts = []
    for seed in (1, 2, 3):
        windows = office(300, seed=seed, scan=60)
        bad = is_scan(windows)
        label = bad.astype(np.int8)
        family = ["scan-host" if b else "" for b in bad]
        label[:3], family[:3] = 1, ["malware-x"] * 3
        label[3:6] = -1
        parts.append([Recording(str(seed), windows, label, family)])
    task = task_of(Split(*parts))
    assert heads.classes_of(task) == ["benign", "scan"]
    assert len(task.learn) == 360 - 3 - 3  # of unknown label, and of a kind of which there are three
    assert len(task.test) == 360 - 3
    found = heads.evaluate([task], names=("boosted", "residual-attention"), epochs=2)
    runs = found[task.name]["heads"]
    assert runs["boosted, weights"][0]["recall"][1] > 0.9
    for name in ("boosted, weights", "residual-attention, weights"):
        assert sum(map(sum, runs[name][0]["matrix"])) == 360 - 3 - 3
        assert runs[name][0]["unknown"]["left_out"] == 3


COLUMNS = ["id", "Flow ID", "Src IP", "Src Port", "Dst IP", "Dst Port", "Protocol", "Timestamp", "Flow Duration",
           "Total Fwd Packet", "Total Bwd packets", "Flow Bytes/s", "FWD Init Win Bytes", "Label",
           "Attempted Category"]  # fmt: skip


def days(folder: Path, columns: list[str] | None = None) -> Path:
    """Files in the form of the corrected CICIDS2017: a flood on Wednesday and on Friday."""
    rng = np.random.default_rng(0)
    (folder / "cicids2017").mkdir()
    for k, day in enumerate(("monday", "tuesday", "wednesday", "thursday", "friday")):
        with (folder / "cicids2017" / f"{day}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns or COLUMNS)
            for i in range(60):
                label = "DoS Hulk" if k in (2, 4) and i % 3 == 0 else "BENIGN"
                if i == 1:
                    label = "DoS Hulk - Attempted"
                flood = label.startswith("DoS")
                writer.writerow([i, "x", "10.0.0.1", 5, "10.0.0.2", 80, 6, "now", int(rng.integers(1, 9) * 10**5), 3,
                                 900 if flood else 4, "Infinity" if i == 2 else 7.5, 255, label, -1])  # fmt: skip
    return folder


def test_the_corrected_cicids2017_is_read_by_day_and_without_attempts(tmp_path: Path) -> None:
    (task,) = tabular.tasks_in(days(tmp_path))
    assert (len(task.learn), len(task.test)) == (3 * 59, 2 * 59)
    assert set(task.learn.family) == {"", "dos hulk"}
    assert task.learn.numeric.shape[1] == 5  # no address, port, time or row number
    assert np.isfinite(task.learn.numeric).all()
    found = heads.evaluate([task], names=("residual-attention",), epochs=300)
    assert found[task.name]["heads"]["residual-attention, weights"][0]["macro_f1"] > 0.9


def test_another_file_in_its_place_is_refused_in_one_line(tmp_path: Path) -> None:
    days(tmp_path, columns=["a"] * len(COLUMNS))
    with pytest.raises(CmdanaError, match=r"monday.csv: no column label, protocol, flow duration"):
        tabular.tasks_in(tmp_path)
