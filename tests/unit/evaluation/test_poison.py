"""Poisoning: so much of what is learned is wrong, in this way and no other; and a past that the attacker made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_windows import address, changed, is_scan, office
from test_search import Quick, scan

from cmdana_plugin.config import Config
from cmdana_plugin.evaluation.adversary.poison import (
    AS_NORMAL,
    DRIPS,
    FLIPPED,
    dripped,
    evaluate,
    of_training,
    poisoned,
    words,
)
from cmdana_plugin.evaluation.adversary.search import Victim
from cmdana_plugin.evaluation.command import measure
from cmdana_plugin.evaluation.page import SECTIONS
from cmdana_plugin.evaluation.protocol import Split
from cmdana_plugin.training import Recording
from feature_extractors.errors import CmdanaError


def labelled(seed: int, n: int = 400) -> Recording:
    """An office with a scan and, of a strange host, ordinary use that is called malware."""
    windows = office(n, seed=seed, scan=60)
    orig = windows.connections.orig_h.copy()
    orig[10:40] = address(200)
    windows = changed(windows, orig_h=orig)
    bad = is_scan(windows)
    family = ["scan-x" if b else "" for b in bad]
    label = bad.astype(np.int8)
    label[10:40] = 1
    family[10:40] = ["malware-x"] * 30
    label[40:50] = -1
    return Recording(str(seed), windows, label, family)


def test_labels_are_flipped_both_ways_and_unknown_ones_stay() -> None:
    before = [labelled(1), labelled(2)]
    after = poisoned(before, 0.2, FLIPPED, 0)
    a, b = (np.concatenate([r.label for r in part]) for part in (before, after))
    assert (a != b).mean() == pytest.approx(0.2, abs=0.05)
    assert ((a == 0) & (b == 1)).any()
    assert ((a == 1) & (b == 0)).any()
    assert np.array_equal(a < 0, b < 0)
    assert all(
        x is y or np.array_equal(x.label, y.label)
        for x, y in zip(before, poisoned(before, 0.0, FLIPPED, 0), strict=True)
    )


def test_attacks_of_every_family_in_turn_are_taken_for_normal() -> None:
    before = labelled(1)
    (after,) = poisoned([before], 0.1, AS_NORMAL, 0)
    moved = np.flatnonzero(before.label != after.label)
    assert len(moved) == round(0.1 * int((before.label == 0).sum()))
    assert (before.label[moved] == 1).all()
    assert (after.label[moved] == 0).all()
    named = [before.family[i] for i in moved.tolist()]
    assert abs(named.count("scan-x") - named.count("malware-x")) <= 1
    with pytest.raises(ValueError, match="expected one of labels flipped"):
        poisoned([before], 0.1, "worse", 0)


def test_a_drip_is_of_the_attack_itself_in_the_day_before_it() -> None:
    attack, ordinary = scan(), office(60, seed=5)
    after = dripped(attack, ordinary, 0.1, count=100)
    c = after.windows.connections
    begin = attack.windows.connections.ts.min()
    drip = np.char.startswith(c.uid, b"Cdrip")
    use = np.char.startswith(c.uid, b"Cuse")
    assert (drip.sum(), use.sum(), (after.label == 1).sum()) == (10, 100, len(attack.windows))
    assert (c.end[drip | use] <= begin).all()
    assert (c.ts[drip | use] > begin - 2 * 86400).all()
    assert (after.label[drip | use] == -1).all()
    assert (c.orig_h[drip] == attack.windows.connections.orig_h[0]).all()
    assert (np.diff(c.end) >= 0).all()
    assert len(set(c.uid.tolist())) == len(c)


def test_what_poison_costs_is_told_by_share() -> None:
    pytest.importorskip("lightgbm")
    split = Split([labelled(1)], [labelled(2)], [labelled(3), scan()])
    found = evaluate(split, ["boosted"], {"quick": Victim(Quick)}, office(60, seed=5), Config())
    whole = found["training"]["boosted"][AS_NORMAL]
    assert whole["0"] == found["training"]["boosted"][FLIPPED]["0"]
    nearly_all = of_training(split, ["boosted"], shares=(0.2,))["boosted"][AS_NORMAL]["0.2"]
    assert nearly_all[0][2] < whole["0"][0][2]  # AUROC
    assert set(found["state"]["quick"]) == {f"{x:g}" for x in DRIPS}
    assert found["state"]["quick"]["0"][0] == 1.0
    text = words(found)
    assert "| boosted | attacks as normal | 2% |" in text
    assert "poison" in SECTIONS


def test_without_a_folder_there_is_nothing_to_poison(tmp_path: Path) -> None:
    with pytest.raises(CmdanaError, match="--poison: needs a folder"):
        measure(None, None, tmp_path / "f.json", Config(), poison=True)
