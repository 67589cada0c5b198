"""Leave-one-collection-out: nothing of what is judged is learned, and every collection counts alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_windows import is_scan, office

from cmdana_plugin.config import Config
from cmdana_plugin.detector.networks.names import DETECTORS
from cmdana_plugin.evaluation.command import measure
from cmdana_plugin.evaluation.page import SECTIONS
from cmdana_plugin.evaluation.protocol import Split
from cmdana_plugin.evaluation.transfer import collections as transfer
from cmdana_plugin.evaluation.transfer import detectors as side_by_side
from cmdana_plugin.evaluation.transfer.metrics import Apart, judged, limit_of, self_calibrated
from cmdana_plugin.evaluation.transfer.page import words
from cmdana_plugin.training import Recording
from feature_extractors.errors import CmdanaError


def truth(n: int = 400) -> Apart:
    """Two large benign collections of which one is odd as a whole, and one of attacks; a capture for each ten."""
    collection = np.repeat([0, 1, 2], [n, n // 4, n // 4])
    label = np.where(collection == 2, 1, 0).astype(np.int8)
    family = np.where(label == 1, "scan", "")
    return Apart(label, family, collection, np.arange(len(label)) // 10, ["calm", "odd", "bad"])


def test_every_collection_counts_alike_among_benign_traffic() -> None:
    t = truth()
    weight = t.benign_weight()
    assert weight[t.collection == 0].sum() == pytest.approx(0.5)
    assert weight[t.collection == 1].sum() == pytest.approx(0.5)
    assert weight[t.collection == 2].sum() == 0.0


def test_the_limit_keeps_the_rate_on_average_over_collections() -> None:
    t = truth()
    score = np.random.default_rng(0).random(len(t.label)) + (t.collection == 1)
    limit = limit_of(score, t.benign_weight(), 0.1)
    above = [float((score[t.collection == c] > limit).mean()) for c in (0, 1)]
    assert np.mean(above) == pytest.approx(0.1, abs=0.01)
    assert above[0] == 0.0


def test_what_is_known_apart_is_found_and_what_is_alike_is_not() -> None:
    t = truth()
    rng = np.random.default_rng(1)
    noise = rng.random(len(t.label))
    good, none = judged(noise + 2.0 * (t.label == 1), 1.0 - noise, t), judged(noise, noise, t)
    assert good["macro"] == pytest.approx([1.0, 1.0, 1.0])
    assert none["macro"][0] < 0.1
    assert none["macro"][2] == pytest.approx(0.5, abs=0.1)
    assert good["captures"]["at_limit"] == [1.0, pytest.approx(0.02)]
    assert good["captures"]["attack"] == 10


def test_self_calibration_is_of_the_past_and_leaves_what_stands_out() -> None:
    rng = np.random.default_rng(2)
    score, kind = 5.0 + rng.random(300), np.zeros(300, np.int64)
    score[250] = 12.0
    own = self_calibrated(score, kind)
    assert own[0] == score[0]
    assert np.argmax(own[50:]) == 200
    assert own[200:250].mean() < 0.6 * score[200:250].mean()
    assert np.array_equal(self_calibrated(score[:100], kind[:100]), own[:100])
    apart = self_calibrated(score, np.arange(300))
    assert np.array_equal(apart, score)


def made(folder: Path) -> tuple[Split, dict[str, str]]:
    collection = {}
    parts: dict[str, list[Recording]] = {"train": [], "calibrate": [], "test": []}
    for k, name in enumerate("abcd"):
        for j, part in enumerate(parts):
            windows = office(240, seed=10 * k + j, scan=40 if name in "ab" else 0)
            bad = is_scan(windows)
            called = f"{name}/{part}.pcap"
            collection[called] = name
            family = ["scan-port" if b else "" for b in bad]
            parts[part].append(Recording(called, windows, bad.astype(np.int8), family))
    return Split(*parts.values()), collection


def test_a_fold_learns_nothing_of_its_collection(tmp_path: Path) -> None:
    split, collection = made(tmp_path)
    plan = transfer.folds(split, collection)
    assert [f.name for f in plan] == list("abcd")
    for fold in plan:
        assert {collection[r.name] for r in fold.judged} == {fold.name}
        assert fold.name not in {collection[r.name] for r in (*fold.train, *fold.calibrate)}
        assert len(fold.train) == 6
        assert len(fold.calibrate) == len(fold.judged) == 3


def test_scans_of_a_collection_are_found_by_what_learned_others(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    split, collection = made(tmp_path)
    found = transfer.evaluate(split, collection, only=("boosted", "gaussians"), cache=tmp_path / "kept")
    assert found["detectors"]["boosted"][0]["macro"][2] > 0.95
    again = transfer.evaluate(split, collection, only=("boosted", "gaussians"), cache=tmp_path / "kept")
    assert again == found
    text = words(found)
    assert "Leave-one-collection-out: 4 collections of captures, 12 captures" in text
    assert "| a | " in text
    assert "collections" in SECTIONS


def test_fewer_than_three_collections_and_a_table_without_them_are_refused(tmp_path: Path) -> None:
    split, _ = made(tmp_path)
    everything = [*split.train, *split.calibrate, *split.test]
    with pytest.raises(CmdanaError, match="expected three or more"):
        transfer.folds(split, {r.name: "one" for r in everything})
    (tmp_path / "captures.csv").write_text("capture,split\na,train\n")
    with pytest.raises(CmdanaError, match="no column set"):
        transfer.collections_in(tmp_path)


@pytest.mark.slow
def test_detectors_stand_side_by_side_clean_and_under_attack(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    split, _ = made(tmp_path)
    found = side_by_side.evaluate(split, ["cross-modal", "residual-attention-fields"], Config(), epochs=1)
    assert len(found["detectors"]) == 4
    text = side_by_side.words(found)
    assert "| cross-modal, with labels | 1 |" in text
    assert side_by_side.named(["all"]) == list(DETECTORS)
    with pytest.raises(
        CmdanaError, match="--detectors: found lstm; expected all, or among dependency-network,"
    ):
        measure(tmp_path, None, tmp_path / "f.json", Config(), detectors=["lstm"])
