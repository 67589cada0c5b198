"""The search of an attacker: what a plan does and costs, what cannot be, and that trying more never finds less."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_windows import address, changed, is_scan, office

from cmdana_plugin.config import Config
from cmdana_plugin.detector.scores import Scores, score_of
from cmdana_plugin.evaluation.adversary.page import words
from cmdana_plugin.evaluation.adversary.plans import LEVELS, Plan, apply, cost_of, valid
from cmdana_plugin.evaluation.adversary.search import BUDGETS, Victim, attacks_of, evaluate, search
from cmdana_plugin.evaluation.command import measure
from cmdana_plugin.training.recording import Recording, gather
from feature_extractors.errors import CmdanaError
from feature_extractors.features import Encoded
from feature_extractors.features.schema import load_schema

ORDINARY = office(60, seed=5)


def attack(family: str = "malware-x") -> Recording:
    """An office in which the connections 50 to 120 are an attack's."""
    windows = office(200, seed=4)
    label = np.zeros(len(windows), np.int8)
    label[50:120] = 1
    orig = windows.connections.orig_h.copy()
    orig[50:120] = address(200)
    windows = changed(windows, orig_h=orig)
    return Recording("a", windows, label, [family if x else "" for x in label])


EACH = [Plan(**{name: level}) for name, levels in LEVELS.items() for level in levels[1:]]


@pytest.mark.parametrize("plan", EACH, ids=Plan.words)
def test_each_move_gives_what_an_originator_can_do_and_has_its_price(plan: Plan) -> None:
    before = attack()
    after = apply(plan, before, ORDINARY)
    assert valid(before, after) == []
    assert after.label is not None
    assert int((after.label == 1).sum()) == 70
    cost = cost_of(before, after)
    assert cost.factor() >= 1.0
    assert (cost.factor() > 1.01) == (plan.port == 0 and plan.jitter == 0.0)
    gather([after], load_schema())


def test_moves_together_cost_what_the_dearest_costs() -> None:
    before = attack()
    cost = cost_of(before, apply(Plan(pad=4.0, pace=10.0, hosts=2, mix=1.0), before, ORDINARY))
    assert cost.time == pytest.approx(10.0, rel=0.05)
    assert cost.hosts == 2.0
    assert cost.connections == pytest.approx(2.0)
    assert cost.factor() == cost.time


def test_the_same_seed_gives_the_same_outcome() -> None:
    plan = Plan(jitter=0.5, mix=0.5)
    a, b = (apply(plan, attack(), ORDINARY, seed=3) for _ in range(2))
    assert np.array_equal(a.windows.connections.ts, b.windows.connections.ts)
    assert a.windows.connections.uid.tolist() == b.windows.connections.uid.tolist()


def test_what_cannot_be_is_said() -> None:
    before = attack()
    c = before.windows.connections
    less = replace(before, windows=changed(before.windows, orig_ip_bytes=c.orig_ip_bytes - 1))
    assert "orig_ip_bytes fell" in valid(before, less)
    other = replace(before, windows=changed(before.windows, resp_bytes=c.resp_bytes + 1))
    assert "resp_bytes is the responder's, or fixed" in valid(before, other)
    early = replace(before, windows=changed(before.windows, ts=c.ts - 5.0))
    assert "a connection is earlier" in valid(before, early)


class Quick:
    """A detector to which more than two connections a second of an originator is odd; it has no words."""

    name = "quick"
    schema_digest = ""

    def receive(self, windows: Encoded) -> Scores:
        c = windows.connections
        bad = np.isin(np.arange(len(c)), np.flatnonzero(np.diff(c.ts, prepend=-np.inf) < 0.5))
        p = np.where(bad, 1e-9, 0.5)
        return Scores(score_of(p), p, {}, np.tile([0.0, 1.0, 0.0, 0.0], (len(p), 1)), [""] * len(p))

    def explain(self, windows: Encoded, scores: Scores, rows: object) -> list[list[str]]:
        raise AssertionError("nobody reads these notices")


def scan() -> Recording:
    windows = office(40, seed=2, scan=60)
    bad = is_scan(windows)
    keep = np.flatnonzero(bad)
    from feature_extractors.observations import take

    return Recording("s", take(windows, keep), np.ones(len(keep), np.int8), ["scan-port"] * len(keep))


def test_a_slower_scan_hides_from_what_counts_in_a_second_and_the_search_finds_it() -> None:
    outcomes = search(Victim(Quick), scan(), ORDINARY, Config(), tries=30)
    assert outcomes[0].plan == Plan()
    assert outcomes[0].found
    assert outcomes[0].cost == 1.0
    hidden = [o for o in outcomes if not o.found]
    assert hidden
    assert all(o.plan.pace > 1.0 or o.plan.jitter > 0.0 for o in hidden)
    assert len({o.plan for o in outcomes}) == len(outcomes)


def test_curves_fall_with_budget_and_tries_and_make_a_page() -> None:
    found = evaluate({"quick": Victim(Quick)}, [scan()], ORDINARY, Config(), tries=20)
    table = found["detectors"]["quick"]
    assert table["found"] == sorted(table["found"], reverse=True)
    assert table["as_it_goes_on"] == sorted(table["as_it_goes_on"], reverse=True)
    assert table["found"][0] == 1.0
    text = words(found)
    assert (
        f"| detector | benign captures noticed | attacks | {' | '.join(f'x{b:g}' for b in BUDGETS)} |" in text
    )
    assert "| scan-port | 1 |" in text


def test_few_attacks_of_a_family_are_taken_and_none_that_is_too_long() -> None:
    many = [replace(attack(), name=str(i)) for i in range(5)]
    assert [r.name for r in attacks_of(many, 2, 400)] == ["0", "1"]
    assert attacks_of(many, 2, 100) == []


def test_without_a_folder_there_is_nothing_to_attack(tmp_path: Path) -> None:
    with pytest.raises(CmdanaError, match="--attack: needs a folder"):
        measure(None, None, tmp_path / "f.json", Config(), attack=True)
