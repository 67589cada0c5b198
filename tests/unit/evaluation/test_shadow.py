"""A shadow model is taken over only where it finds no less and holds the budget, and it says why not."""

import re
import shutil
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_windows import office
from small_model import small_checkpoint

from cmdana_plugin.cli import adapting, judging
from cmdana_plugin.cli.app import main
from cmdana_plugin.cli.options import configured
from cmdana_plugin.config import Config
from cmdana_plugin.detector import Scores
from cmdana_plugin.detector import checkpoint as checkpoints
from cmdana_plugin.evaluation.operator_view import scores_of
from cmdana_plugin.evaluation.shadow import Comparison, Outcome, outcome
from cmdana_plugin.training import Quarantine, trial_of
from feature_extractors import CmdanaError
from feature_extractors.features import Encoded, encoded, load_schema, take_encoded

PRESENT = Outcome(found=9, canaries=12, false=2, days=1.0, odd=1e-3)


@pytest.mark.parametrize(
    ("new", "why"),
    [
        (PRESENT, ""),
        (replace(PRESENT, found=12, false=10), ""),
        (
            replace(PRESENT, found=8, false=0),
            "finds fewer of 12 rehearsed intrusions: 8, the present model 9",
        ),
        (replace(PRESENT, false=11), r"does not hold the budget: 11\.0 false incidents a day"),
        (replace(PRESENT, false=11, days=2.0), ""),
        (replace(PRESENT, false=11, days=0.3), "does not hold the budget"),
        (replace(PRESENT, found=0, canaries=0), "no canary, no promotion"),
    ],
)
def test_it_says_why_it_is_not_to_take_over(new: Outcome, why: str) -> None:
    refusal = Comparison(PRESENT, new, 10.0).refusal
    assert re.search(why, refusal) if why else refusal == ""


class Sees:
    """A detector that finds odd what begins with some uid."""

    name, schema_digest = "sees", ""

    def __init__(self, uid: bytes) -> None:
        self._uid = uid

    def receive(self, windows: Encoded) -> Scores:
        odd = np.char.startswith(windows.connections.uid, self._uid)
        return scores_of(np.where(odd, 1e-9, 0.5))

    def explain(self, windows: Encoded, scores: Scores, rows: np.ndarray[Any, Any]) -> list[list[str]]:
        return [[] for _ in rows]


def test_found_are_canaries_that_incidents_rest_on_and_false_are_those_that_rest_on_none() -> None:
    own = encoded(office(3000, desks=30, gap=6.0), load_schema())
    nothing = take_encoded(own, np.zeros(0, np.int64))
    trial = trial_of(own, np.random.default_rng(3), 24)
    # What is asked for below one domain needs no model to be found.
    nameless = replace(
        trial, windows=replace(trial.windows, subdomain_bits=np.zeros(len(trial.canary), np.float32))
    )
    sees, blind, wrong, asked = (
        outcome(Sees(uid), None, Config(), nothing, of)
        for uid, of in (
            (b"Ccanary", nameless), (b"nobody", nameless), (b"C1", nameless), (b"nobody", trial),
        )
    )  # fmt: skip
    assert sees.found > sees.canaries / 2
    assert (sees.false, sees.odd) == (0, 0.0)
    assert (blind.found, blind.false) == (0, 0)
    assert (0 < asked.found < sees.found, asked.false) == (True, 0)
    assert (wrong.found, wrong.false > 0, wrong.odd > 0.1) == (0, True, True)
    assert sees.canaries == blind.canaries == len(set(trial.canary.tolist())) - 1


def test_the_past_is_judged_and_not_counted() -> None:
    own = encoded(office(2000, desks=30, gap=6.0), load_schema())
    nothing = take_encoded(own, np.zeros(0, np.int64))
    trial = trial_of(nothing, np.random.default_rng(3), 24)
    assert outcome(Sees(b"C"), None, Config(), own, trial).false == 0


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of a state with three quarantined days, and a model that is configured."""
    checkpoints.save(small_checkpoint(), tmp_path / "small.safetensors")
    quarantine = Quarantine(tmp_path, 100_000, print)
    windows = office(1500, desks=40, gap=20.0)
    c = windows.connections
    for day in range(3):
        by = np.ceil(c.ts.min() / 86_400.0) * 86_400.0 - c.ts.min() + day * 86_400.0 + 10.0
        quarantine.keep(replace(windows, connections=replace(c, ts=c.ts + by, end=c.end + by)))
    quarantine.close()
    (tmp_path / "plugin.toml").write_text(
        f'[model]\npath = "{tmp_path}/small.safetensors"\nstate_key = "{tmp_path}/key"\n'
        f'[state]\nfolder = "{tmp_path}"\n[adaptation]\nmode = "shadow"\n'
    )
    return tmp_path


def command(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], action: str
) -> tuple[int, str]:
    """Exit status and what was printed."""
    words = ["cmdana", "adapt", action, str(site), "--config", str(site / "plugin.toml")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    print(said.err)
    return int(ended.value.code or 0), said.out


def test_with_one_day_that_is_over_nothing_is_proposed(site: Path) -> None:
    for about in sorted((site / "quarantine").glob("*/about.json"))[1:]:
        shutil.rmtree(about.parent)
    settings = configured(site / "plugin.toml").config
    with pytest.raises(CmdanaError, match="found 1 quarantined days that are over; expected two or more"):
        adapting._propose(settings, site, quiet=True)


def test_a_shadow_is_learned_tried_promoted_and_taken_back(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cmdana_plugin.training.fit._TRAINING_EVENTS", 2000)
    status, said = command(site, monkeypatch, capsys, "propose")
    assert status == 0
    assert "rehearsed intrusions it finds" in said
    settings = configured(site / "plugin.toml").config
    before = judging.load_detector_of(settings).about["network"]
    (step,) = adapting._lineage(settings, site).entries
    status, said = command(site, monkeypatch, capsys, "promote")
    assert step.refusal == ""
    assert (status, "promoted model" in said) == (0, True)
    assert judging.load_detector_of(settings).about["network"] != before
    assert command(site, monkeypatch, capsys, "status")[1].count("each step signed") == 1
    status, said = command(site, monkeypatch, capsys, "roll-back")
    assert (status, said.endswith("the configured model judges\n")) == (0, True)
    assert judging.load_detector_of(settings).about["network"] == before


@pytest.mark.parametrize(
    ("action", "folder", "why"),
    [
        ("propose", "", "found 0 quarantined days that are over; expected two or more"),
        ("propose", "nowhere", "there is no such folder; expected that of [state] folder"),
        ("promote", "", "no model is proposed; cmdana adapt propose makes one"),
        ("roll-back", "", "there is no state"),
        ("status", "nowhere", "there is no state"),
    ],
)
def test_a_step_that_cannot_be_gets_one_line_and_nothing_is_compiled_for_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    action: str,
    folder: str,
    why: str,
) -> None:
    monkeypatch.setattr("cmdana_plugin.compile_cache.kept", lambda _: False)
    (tmp_path / "plugin.toml").write_text(f'[model]\nstate_key = "{tmp_path}/key"\n')
    words = ["cmdana", "adapt", action, str(tmp_path / folder), "--config", str(tmp_path / "plugin.toml")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (1, "")
    _, line = said.err.splitlines()  # after the one that names the configuration
    assert why in line


@pytest.mark.parametrize(
    ("more", "gathers", "said"),
    [
        ({}, False, 0),
        ({"adaptation": {"mode": "shadow"}}, False, 1),
        (
            {"adaptation": {"mode": "shadow"}, "state": {"folder": "known"}, "endpoint": {"shard": "1/2"}},
            False,
            1,
        ),
        ({"adaptation": {"mode": "shadow"}, "state": {"folder": "known"}}, True, 0),
    ],
)
def test_days_are_kept_where_one_detector_with_a_state_is_to_be_shadowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], gathers: bool, said: int
) -> None:
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []
    with ExitStack() as stack:
        keep, _ = judging._quarantine(stack, Config(**more), lines.append)
        keep(office(20))
    assert (tmp_path / "known" / "quarantine").exists() == gathers
    assert len(lines) == said
