"""Adversarial training: everybody's connections are changed, labels stay, and its page has gain beside price."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_windows import is_scan, office

from cmdana_plugin.config import Config
from cmdana_plugin.detector import tabulate
from cmdana_plugin.evaluation.adversary.hardening import evaluate, named, words
from cmdana_plugin.evaluation.command import measure
from cmdana_plugin.evaluation.page import SECTIONS
from cmdana_plugin.evaluation.protocol import Split
from cmdana_plugin.training import WAYS, Recipe, Recording, copies_of, gather, hardened, train
from cmdana_plugin.training.adversarial.hardening import changed
from feature_extractors.errors import CmdanaError
from feature_extractors.features.schema import load_schema


def labelled(seed: int, n: int = 300) -> Recording:
    windows = office(n, seed=seed, scan=60)
    bad = is_scan(windows)
    return Recording(str(seed), windows, bad.astype(np.int8), ["scan-x" if b else "" for b in bad])


def uploads(seed: int, n: int = 400) -> Recording:
    """An office in which whoever sends much is malicious: padding makes one look like the other."""
    windows = office(n, seed=seed)
    bad = windows.connections.orig_bytes > 450
    return Recording(str(seed), windows, bad.astype(np.int8), ["malware-x" if b else "" for b in bad])


def tables(count: int, seed: int) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Clean rows of an office, copies of them, and which are malicious."""
    one = uploads(seed)
    corpus = gather([one], load_schema())
    return tabulate(corpus.features, corpus.state), copies_of([one], count, 0), corpus.label == 1


def test_benign_connections_are_changed_too_and_every_row_is_told_where_it_was() -> None:
    before = labelled(1)
    c = before.windows.connections
    seen = set()
    for seed in range(30):
        after, back = changed(before, np.random.default_rng(seed))
        a = after.windows.connections
        assert c.uid[back].tolist() == a.uid.tolist()
        assert (np.diff(a.end) >= 0).all()
        benign = before.label[back] == 0
        for name in ("orig_bytes", "orig_pkts", "duration", "ts"):
            more = getattr(a, name)[benign] > getattr(c, name)[back][benign] + 1e-9
            seen |= {name} if more.mean() > 0.3 else set()
        assert np.array_equal(a.resp_bytes, c.resp_bytes[back])
    assert seen == {"orig_bytes", "orig_pkts", "duration", "ts"}


def test_copies_keep_the_order_of_the_rows() -> None:
    clean, copies, _ = tables(2, 1)
    names = [f.name for f in load_schema().numeric]
    same = names.index("resp_bytes")
    for copy in copies:
        assert copy.shape == clean.shape
        assert np.allclose(copy[:, same], clean[:, same], equal_nan=True)
        assert not np.allclose(copy, clean, equal_nan=True)


def test_whatever_is_hardened_says_the_same_of_a_connection_and_its_changed_copies() -> None:
    pytest.importorskip("lightgbm")
    clean, copies, malicious = tables(3, 1)
    weight = np.ones(len(clean))
    before, after = {}, {}
    for way in WAYS:
        trees = hardened(way, clean, copies, malicious, weight, 0)
        before[way] = trees.score(clean)
        after[way] = np.stack([trees.score(c) for c in copies])
    moved = {way: float(np.abs(after[way] - before[way]).mean()) for way in WAYS}
    assert all(moved[way] < 0.6 * moved["plain"] for way in WAYS[1:])
    with pytest.raises(CmdanaError, match="--hardening: found harder, expected one of plain"):
        hardened("harder", clean, copies, malicious, weight, 0)


@pytest.mark.slow
def test_a_model_is_trained_hardened_and_one_without_trees_is_refused() -> None:
    pytest.importorskip("lightgbm")
    one = uploads(1)
    made = [
        train([one], recipe=Recipe(epochs=1, behaviour=False, hardening=way)) for way in ("plain", "searched")
    ]
    corpus = gather([one], load_schema())
    clean = tabulate(corpus.features, corpus.state)
    (copy,) = copies_of([one], 1, 7)
    moved = [float(np.abs(m.trees.score(copy) - m.trees.score(clean)).mean()) for m in made if m.trees]
    assert moved[1] < moved[0]
    assert "hardening='searched'" in made[1].about["recipe"]
    with pytest.raises(CmdanaError, match="--hardening: found detector spatio-temporal"):
        train([one], recipe=Recipe(hardening="searched", detector="spatio-temporal"))


def test_gain_and_price_stand_in_one_table() -> None:
    pytest.importorskip("lightgbm")
    split = Split([labelled(1)], [labelled(2)], [labelled(3, 200)])
    found = evaluate(split, office(60, seed=5), Config(), ("plain", "consistent"), tries=3)
    assert set(found["ways"]) == {"plain", "consistent"}
    assert found["ways"]["plain"][0]["clean"][2] > 0.95
    text = words(found)
    assert "| consistent | 1 |" in text
    assert "hardening" in SECTIONS


def test_ways_are_named_or_all_and_need_a_folder(tmp_path: Path) -> None:
    assert named(["all"]) == list(WAYS)
    assert named(None) == []
    with pytest.raises(CmdanaError, match="--hardening: found stronger; expected all, or among plain"):
        measure(None, None, tmp_path / "f.json", Config(), hardening=["stronger"])
    with pytest.raises(CmdanaError, match="--hardening: needs a folder"):
        measure(None, None, tmp_path / "f.json", Config(), hardening=["all"])
