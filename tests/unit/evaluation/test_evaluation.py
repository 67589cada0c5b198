"""The judge is fair: per family against all benign rows, macro over families, and every baseline answers to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_windows import block_of, is_scan, office

from cmdana_plugin.config import Config
from cmdana_plugin.evaluation.adversary.attacker import CHANGES, perturbed
from cmdana_plugin.evaluation.baselines import BASELINES, WITH_LABELS
from cmdana_plugin.evaluation.cache import recall
from cmdana_plugin.evaluation.command import load_findings, save_findings
from cmdana_plugin.evaluation.metrics import COLUMNS, draws, holm, interval, judge, quality
from cmdana_plugin.evaluation.operator_view import Counted, scores_of
from cmdana_plugin.evaluation.page import SECTIONS, words, write_pages
from cmdana_plugin.evaluation.protocol import SHIPPED, UNLABELLED, Split, Truth, evaluate, section, without
from cmdana_plugin.evaluation.protocol import Trial as Answer
from cmdana_plugin.training.recording import Corpus, Recording, gather
from feature_extractors.errors import CmdanaError
from feature_extractors.features.schema import load_schema
from feature_extractors.observations import MAX_PACKETS


def test_a_family_is_judged_against_the_benign_rows_of_the_whole_set() -> None:
    score = np.concatenate([np.arange(1000.0), np.full(10, 2000.0), np.full(10, -1.0), np.full(4, 2000.0)])
    label = np.array([0] * 1000 + [1] * 24, np.int8)
    family = [""] * 1000 + ["seen"] * 10 + ["missed"] * 10 + ["too few"] * 4
    families, macro = judge(score, label, family)
    assert set(families) == {"seen", "missed"}
    assert (families["seen"].tpr[0], families["missed"].tpr[0], macro.tpr[0]) == (1.0, 0.0, 0.5)
    assert (families["seen"].auroc, families["missed"].auroc) == (1.0, 0.0)
    assert families["seen"].pr == 1.0
    assert len(macro.row()) == len(COLUMNS)


def test_a_rate_that_needs_more_benign_rows_is_not_given() -> None:
    score = np.arange(200.0)
    families, _ = judge(score, (score >= 190).astype(np.int8), ["x"] * 200)
    assert np.isnan(families["x"].tpr).tolist() == [True, True, True]


def test_scores_that_say_nothing_get_nothing() -> None:
    families, _ = judge(np.zeros(2000), (np.arange(2000) % 2).astype(np.int8), ["x"] * 2000)
    assert families["x"].auroc == 0.5
    assert families["x"].tpr[0] == 0.0


def test_precision_at_a_rare_prevalence_counts_the_false_ones_as_many_times() -> None:
    # One benign row above ten malicious ones: 10 of 11 as they are; one in a thousand makes each worth 1000 / 999 / 10.
    score = np.concatenate([np.arange(999.0), [5000.0], np.full(10, 4000.0)])
    families, _ = judge(score, np.array([0] * 1000 + [1] * 10, np.int8), [""] * 1000 + ["x"] * 10)
    native = np.mean([k / (k + 1) for k in range(1, 11)])
    each = 1e-3 / (1.0 - 1e-3) * 1000 / 10
    rare = np.mean([k * each / (k * each + 1) for k in range(1, 11)])
    assert families["x"].pr == pytest.approx(native)
    assert families["x"].pr_rare[0] == pytest.approx(rare)


@pytest.mark.parametrize("labels", [[0] * 50, [1] * 50])
def test_one_class_alone_cannot_be_judged(labels: list[int]) -> None:
    with pytest.raises(CmdanaError, match="expected both"):
        judge(np.zeros(50), np.array(labels, np.int8), ["x"] * 50)


def test_a_draw_of_everything_once_gives_the_judges_own_figure() -> None:
    rng = np.random.default_rng(0)
    label = (np.arange(3000) % 3 == 0).astype(np.int8)
    family = ["a" if i % 2 else "b" for i in range(3000)]
    score = rng.normal(size=3000) + 2.0 * label
    sampled = draws(label, family, np.arange(3000) // 100, rounds=5)
    sampled.weight[0] = 1.0
    _, macro = judge(score, label, family)
    assert sampled.macro(score, 1e-2)[0] == pytest.approx(macro.tpr[0])


def test_intervals_are_wider_where_rows_are_drawn_in_larger_blocks() -> None:
    rng = np.random.default_rng(0)
    block = np.arange(4000) // 200
    label = (np.arange(4000) % 2).astype(np.int8)
    score = rng.normal(size=4000) + 3.0 * label + 2.0 * rng.normal(size=20)[block]
    wide = interval(draws(label, ["x"] * 4000, block, 300).macro(score, 1e-2))
    narrow = interval(draws(label, ["x"] * 4000, np.arange(4000), 300).macro(score, 1e-2))
    assert wide[1] - wide[0] > 2.0 * (narrow[1] - narrow[0])


def test_corrected_p_values_are_raised_by_their_number_and_keep_their_order() -> None:
    rng = np.random.default_rng(0)
    clear, vague = rng.normal(1.0, 0.1, 999), rng.normal(0.1, 1.0, 999)
    corrected = holm({"clear": clear, "vague": vague})
    assert corrected["clear"] == pytest.approx(2 * 2 / 1000)
    assert corrected["vague"] > 0.5


def test_a_probability_that_tells_the_truth_has_no_calibration_error() -> None:
    malicious = np.random.default_rng(0).random(60_000) < 0.3
    honest = quality(np.full(60_000, malicious.mean()), malicious)
    boastful = quality(np.where(malicious, 0.6, 0.55), malicious)
    assert honest.ece < 1e-9
    assert boastful.ece > 0.2
    assert quality(malicious.astype(float), malicious).mcc == 1.0


def recording(seed: int, scan: int = 60) -> Recording:
    windows = office(400, seed=seed, scan=scan)
    label = is_scan(windows).astype(np.int8)
    return Recording(f"lab/{seed}", windows, label, ["scan" if x else "" for x in label])


def corpus(seed: int) -> Corpus:
    return gather([recording(seed)], load_schema())


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


def test_a_recording_comes_back_from_the_cache_as_it_was(tmp_path: Path) -> None:
    whole = [recording(1), recording(2, scan=0)]
    recall(tmp_path, "k", lambda: whole)
    again = recall(tmp_path, "k", lambda: pytest.fail("read again"))
    assert [r.name for r in again] == [r.name for r in whole]
    a, b = gather(whole, load_schema()), gather(again, load_schema())
    assert a.digest == b.digest
    assert a.family == b.family
    assert np.array_equal(a.label, b.label)


def test_an_incident_is_found_when_a_notice_rests_on_it_and_calm_traffic_gives_false_ones() -> None:
    r = recording(3)
    assert r.label is not None
    p = np.where(r.label == 1, 1e-6, 0.5)
    calm = np.flatnonzero(r.label == 0)
    quiet = Counted()
    quiet.add(r, block_of(r.windows), scores_of(p), Config())
    told = quiet.section()
    assert (told["incidents"], told["found"], told["false"]) == (1, 1, 0)
    assert told["families"]["scan"][3] <= 3
    p[calm[5]] = 1e-9
    noisy = Counted()
    noisy.add(r, block_of(r.windows), scores_of(p), Config())
    assert noisy.section()["false"] == 1
    blind = Counted()
    blind.add(r, block_of(r.windows), scores_of(np.full(len(p), 0.5)), Config())
    assert (blind.section()["found"], blind.section()["delay"]) == (0, None)


@pytest.mark.parametrize("name", CHANGES)
def test_an_attacker_only_adds_and_never_touches_others(name: str) -> None:
    windows = office(300, seed=4)
    label = np.zeros(len(windows), np.int8)
    label[50:200] = 1
    before = Recording("x", windows, label, ["f" if x else "" for x in label])
    done, order = perturbed(before, CHANGES[name])
    assert sorted(order.tolist()) == list(range(len(windows)))
    a, b = windows.connections, done.windows.connections
    mine = done.label == 1
    assert mine is not None
    back = order
    for column in ("orig_bytes", "orig_pkts", "orig_ip_bytes"):
        now, then = getattr(b, column), getattr(a, column)[back]
        assert (now >= then).all()
        assert (now == then)[~mine].all()
    for column in ("resp_bytes", "resp_pkts", "resp_ip_bytes", "history", "conn_state", "resp_p"):
        assert np.array_equal(getattr(b, column), getattr(a, column)[back])
    assert np.array_equal(b.ts[~mine], a.ts[back][~mine])
    assert (np.diff(b.end) >= 0).all()
    assert np.diff(done.windows.packet_start).max() <= MAX_PACKETS
    changed = [
        (getattr(b, c) != getattr(a, c)[back])[mine].any() for c in ("orig_ip_bytes", "duration", "ts")
    ]
    assert any(changed)
    gather([done], load_schema())


def test_what_was_found_makes_a_page_that_says_who_wins(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = (np.arange(4000) >= 3900).astype(np.int8)
    good, bad = rng.normal(size=4000) + 9.0 * label, rng.normal(size=4000)
    parts = {"density": np.exp(-np.abs(bad)), "attack": np.exp(-np.abs(good))}
    ours = Answer(
        good, np.exp(-np.abs(good)), parts, {"density": 1.0, "attack": 3.0}, 1 / (1 + np.exp(4 - good))
    )
    trials = {
        SHIPPED: [ours],
        UNLABELLED: [without(ours, ("attack",))],
        "knn": [Answer(bad)],
        "boosted": [Answer(bad)],
    }
    found = section(trials, Truth(label, ["x"] * 4000, np.arange(4000) // 50))
    found["about"] |= {"train": 1, "calibrate": 1, "captures": 1, "data": "d"}
    text = words({"captures": found})
    assert "it is ahead of the best baseline" in text
    assert "| x * | 100 | 1.00 |" in text
    page = tmp_path / "page.md"
    mark, other = SECTIONS["captures"][0], SECTIONS["tabular"][0]
    page.write_text(f"before\n{mark}\nold\n{mark}\nafter\n{other}kept{other}\n")
    write_pages({"captures": found}, page)
    assert page.read_text().startswith(f"before\n{mark}\n\n## Other captures")
    assert page.read_text().endswith(f"{mark}\nafter\n{other}kept{other}\n")
    write_pages({}, page)
    assert "it is ahead of the best baseline" in page.read_text()


@pytest.mark.parametrize("text", ["no place", "<!-- captures --> half of one", "<!-- heads -->" * 3])
def test_a_page_without_places_for_sections_is_refused(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(CmdanaError, match="before and after"):
        write_pages({}, page)


@pytest.mark.slow
def test_a_split_is_measured_from_training_to_incidents_and_kept(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    split = Split([recording(1)], [recording(5)], [recording(2), recording(6)])
    chosen = {"seeds": (0,), "variants": (SHIPPED,), "baselines": ("boosted", "volume"), "cache": tmp_path}
    found = evaluate(split, Config(), **chosen)  # type: ignore[arg-type]
    assert set(found["detectors"]) == {SHIPPED, UNLABELLED, "boosted", "volume"}
    assert found["incidents"][SHIPPED][0]["incidents"] == 2
    assert set(found["budgets"]) == {"0", "10", "100", "1000"}
    again = evaluate(split, Config(), **chosen)  # type: ignore[arg-type]
    for name in ("a", "b"):
        save_findings({"captures": again if name == "b" else found}, tmp_path / name)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    assert words(load_findings(tmp_path / "a")) == words({"captures": found})
    assert words({"captures": found}).count(f"| {UNLABELLED} |") >= 1
