"""The detector scores the past only, the same in pieces as whole, and tells a scan from an office."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_windows import block_of, changed, is_scan, office, without_logs

from cmdana_plugin.detector import checkpoint as checkpoints
from cmdana_plugin.detector import history as state
from cmdana_plugin.detector import inputs as batch
from cmdana_plugin.detector.checkpoint import Checkpoint
from cmdana_plugin.detector.cross_modal import CrossModal, detector_of, load_detector, shipped_checkpoint
from cmdana_plugin.detector.engines.shape import CONNECTION, LOG, PACKET
from cmdana_plugin.detector.engines.torch_engine import _surprise
from cmdana_plugin.detector.inputs import first_identical_row, prepare
from cmdana_plugin.detector.networks.names import CROSS_MODAL
from cmdana_plugin.detector.reasons import _state_words, evidence_of, explain_rows
from cmdana_plugin.detector.scores import Scores
from cmdana_plugin.training.calibrate import components, recalibrate
from cmdana_plugin.training.fit import train
from cmdana_plugin.training.recipe import Recipe
from cmdana_plugin.training.recording import Recording, gather
from feature_extractors.errors import CmdanaError, SchemaError
from feature_extractors.features.encoding import encode, take_features
from feature_extractors.features.schema import load_schema
from feature_extractors.observations import Stage, Windows, concat, take

QUICK = Recipe(epochs=4, width=16)
NETWORK = replace(QUICK, detector=CROSS_MODAL)


def quick(recipe: Recipe = QUICK) -> Checkpoint:
    return train([Recording("a", office(1500, seed=1)), Recording("b", office(1500, seed=2))], recipe=recipe)


@pytest.fixture(scope="module")
def of_tables() -> Checkpoint:
    return quick()


@pytest.fixture(scope="module")
def of_a_network() -> Checkpoint:
    return quick(NETWORK)


@pytest.fixture(params=["of_tables", "of_a_network"])
def trained(request: pytest.FixtureRequest) -> Checkpoint:
    made = request.getfixturevalue(request.param)
    assert isinstance(made, Checkpoint)
    return made


def detector(checkpoint: Checkpoint, hosts: int = 512) -> CrossModal:
    return detector_of(checkpoint, load_schema(), hosts=hosts)


def receive_in(checkpoint: Checkpoint, windows: Windows, size: int) -> list[Scores]:
    d = detector(checkpoint)
    return [
        d.receive(block_of(take(windows, np.arange(i, min(i + size, len(windows))))))
        for i in range(0, len(windows), size)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 7, 255, 256, 257])
def test_streaming_in_pieces_equals_one_pass_to_the_last_digit(trained: Checkpoint, size: int) -> None:
    windows = office(300, seed=3, scan=30)
    whole = detector(trained).receive(block_of(windows))
    parts = receive_in(trained, windows, size)
    assert np.array_equal(whole.score, np.concatenate([s.score for s in parts]))
    assert np.array_equal(whole.p_value, np.concatenate([s.p_value for s in parts]))
    assert np.allclose(whole.reliance, np.concatenate([s.reliance for s in parts]), atol=2e-6)


def test_threads_change_nothing(trained: Checkpoint) -> None:
    windows = office(1500, seed=3, scan=300)
    one = detector_of(trained, load_schema(), threads=1).receive(block_of(windows))
    two = detector_of(trained, load_schema(), threads=2).receive(block_of(windows))
    assert np.array_equal(one.p_value, two.p_value)
    assert np.array_equal(one.reliance, two.reliance)


def test_one_thread_works_where_no_cores_are_spared(trained: Checkpoint) -> None:
    windows = office(1500, seed=3, scan=300)
    asked: list[bool] = []

    def never() -> bool:
        asked.append(False)
        return False

    alone = detector_of(trained, load_schema(), threads=2, spare=never)
    together = detector_of(trained, load_schema(), threads=2)
    assert np.array_equal(
        alone.receive(block_of(windows)).p_value, together.receive(block_of(windows)).p_value
    )
    assert asked
    assert alone._pool is not None
    assert not alone._pool._threads  # none was started


def test_rows_that_look_the_same_are_found_and_encoded_once(of_a_network: Checkpoint) -> None:
    rng = np.random.default_rng(1)
    for dtype, width in ((np.float32, 4), (np.int16, 8), (np.uint8, 4)):
        lengths = rng.integers(0, 4, 500)
        start = np.concatenate([[0], np.cumsum(lengths)])
        tokens = rng.integers(0, 2, (start[-1], width)).astype(dtype)
        rows = np.sort(rng.choice(500, 400, replace=False))
        first: dict[bytes, int] = {}
        expected = [first.setdefault(tokens[start[r] : start[r + 1]].tobytes(), r) for r in rows.tolist()]
        assert first_identical_row(tokens, start, rows).tolist() == expected
        assert len(first) < len(rows)

    windows = office(300, seed=3, scan=30)
    d = detector(of_a_network)
    features = encode(windows, load_schema())
    state_ = np.full((len(windows), len(load_schema().state)), np.nan, np.float32)
    once = prepare(features, state_, of_a_network.preparation, load_schema())
    rows = rng.integers(0, len(windows), 700)
    often = prepare(take_features(features, rows), state_[rows], of_a_network.preparation, load_schema())
    assert np.array_equal(d.latents(often), d.latents(once)[rows])


def test_windows_encoded_by_another_schema_are_refused(trained: Checkpoint) -> None:
    block = block_of(office(30, seed=3))
    with pytest.raises(SchemaError, match=r"windows encoded by schema other; expected"):
        detector(trained).receive(replace(block, schema="other"))


def test_only_what_is_asked_for_is_predicted_and_says_the_same(
    of_a_network: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = office(1500, seed=3, scan=300)
    some, gate, _ = detector(of_a_network).raw(block_of(windows))
    monkeypatch.setattr(batch, "_MIN_GROUP_ROWS", 1 << 30)
    every, same_gate, _ = detector(of_a_network).raw(block_of(windows))
    assert np.array_equal(gate, same_gate)
    for name, raw in every.items():
        assert np.allclose(some[name], raw, atol=2e-5, equal_nan=True), name
    groups = list(
        batch.group_by_requested_fields(np.array([[1, -1], [-1, -1], [2, -1]]), np.array([0, 1, 2]))
    )
    assert [(rows.tolist(), fields) for rows, fields in groups] == [([0, 1, 2], None)]
    monkeypatch.setattr(batch, "_MIN_GROUP_ROWS", 2)
    (rows, fields), (rest, none) = batch.group_by_requested_fields(
        np.array([[1, -1], [-1, -1], [2, -1]]), np.array([0, 1, 2])
    )
    assert (rows.tolist(), fields is not None and fields.tolist()) == ([0, 2], [0])
    assert (rest.tolist(), none) == ([1], None)


@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
def test_surprise_is_cross_entropy_however_large_the_logits(size: float) -> None:
    torch.manual_seed(1)
    logits, targets = torch.randn(50, 7, 34) * size, torch.randint(-1, 34, (50, 7))
    logits[0] -= 200.0
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).double(), targets.flatten(), ignore_index=-1, reduction="none"
    ).view(50, 7).sum(dim=1) / (targets >= 0).sum(dim=1).clamp_min(1)
    assert torch.allclose(_surprise(logits, targets).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
def test_a_gpu_ranks_as_the_processor_does(of_a_network: Checkpoint) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    windows = office(3000, seed=3, scan=300)
    here = detector_of(of_a_network, load_schema()).receive(block_of(windows))
    exact = detector_of(of_a_network, load_schema(), device="cuda")
    assert exact._resident is not None
    exact._resident.exact = True  # in single precision
    assert np.allclose(here.score, exact.receive(block_of(windows)).score, atol=2e-3)
    there = detector_of(of_a_network, load_schema(), device="cuda").receive(block_of(windows))
    # In bfloat16 by torch on a processor: .011 for 999 in 1,000, and .07 at a step of a small calibration sample.
    assert np.quantile(np.abs(here.score - there.score), 0.99) < 0.01


def test_a_table_that_grew_forgets_nothing_and_remembers_as_one_that_began_large(
    trained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = office(2000, seed=8, scan=400)
    small = detector_of(trained, load_schema(), hosts=1 << 13).receive(block_of(windows))
    monkeypatch.setattr(state, "_INITIAL_SLOTS", 1 << 20)
    large = detector_of(trained, load_schema(), hosts=1 << 13).receive(block_of(windows))
    monkeypatch.setattr(state, "_INITIAL_SLOTS", 16)
    tiny = detector_of(trained, load_schema(), hosts=1 << 13).receive(block_of(windows))
    assert np.array_equal(small.p_value, large.p_value)
    assert np.array_equal(small.p_value, tiny.p_value)


def test_a_score_does_not_know_what_comes_after(trained: Checkpoint) -> None:
    windows = office(200, seed=4)
    other = concat([take(windows, np.arange(100)), office(100, seed=9, scan=50)])
    a, b = detector(trained).receive(block_of(windows)), detector(trained).receive(block_of(other))
    assert np.array_equal(a.score[:100], b.score[:100])


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize(("many", "off"), [(1 << 30, 0.0), (batch._MIN_GROUP_ROWS, 1.5e-5)])
def test_scores_at_calibration_are_scores_at_run_time(
    trained: Checkpoint, labels: bool, many: int, off: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """p-values are valid only if what they were taken from is what is compared with them.

    To the last digit, but that rows with the same fields are predicted together where they are many
    (`_MIN_GROUP_ROWS`), which may move the last of the five digits that are kept.
    """
    monkeypatch.setattr(batch, "_MIN_GROUP_ROWS", many)
    made = shipped_checkpoint() if labels else trained
    recordings = [office(500, seed=3, scan=60), office(300, seed=4)]
    early = np.random.default_rng(1).random(560) < 0.1
    recordings[0] = changed(recordings[0], stage=np.where(early, Stage.EARLY, Stage.FINAL).astype(np.int8))
    corpus = gather([Recording(str(i), w) for i, w in enumerate(recordings)], load_schema())
    calibrated_on, stratum = components(made, corpus, Recipe(), load_schema())
    for windows, begin in zip(recordings, corpus.bounds, strict=False):
        scored, _, own = detector(made, hosts=1 << 14).raw(block_of(windows))
        rows = slice(begin, begin + len(windows))
        assert scored.keys() == calibrated_on.keys()
        for name, raw in scored.items():
            assert np.allclose(raw, calibrated_on[name][rows], rtol=0.0, atol=off, equal_nan=True), name
        assert np.array_equal(own, stratum[rows])


@pytest.mark.parametrize("modality", [PACKET, CONNECTION, LOG])
def test_what_a_modality_holds_never_changes_what_is_expected_of_it(
    of_a_network: Checkpoint, modality: int
) -> None:
    d = detector(of_a_network)
    d.receive(block_of(office(120, seed=3)))
    assert d.seen is not None
    f = d.seen.features
    other = {
        PACKET: {"packets": f.packets[::-1].copy()},
        CONNECTION: {"numeric": f.numeric[::-1].copy(), "categorical": f.categorical[::-1].copy()},
        LOG: {"log_tokens": f.log_tokens[::-1].copy()},
    }[modality]
    before, after = (
        d.score_context(replace(d.seen, features=replace(f, **more)), keep=True).log_probability
        for more in ({}, other)
    )
    assert before is not None
    assert after is not None
    for m in (PACKET, CONNECTION, LOG):
        assert np.array_equal(before[m], after[m]) == (m == modality)


def test_loading_a_detector_changes_nothing_of_the_process() -> None:
    found = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    assert found.stdout.splitlines() == ["same", "same"]


# What of the process may be changed: before loading, after it, and after scoring in the caller's own thread.
LOADED = """
import gc, os, random, sys, warnings
import numba, numpy, torch
from cmdana_plugin.detector import cross_modal as detector

def process():
    return [
        torch.get_num_threads(), torch.get_num_interop_threads(), torch.get_default_dtype(),
        torch.is_grad_enabled(), torch.initial_seed(), torch.are_deterministic_algorithms_enabled(),
        sys.getswitchinterval(), sys.getrecursionlimit(), gc.isenabled(), gc.get_threshold(), gc.get_freeze_count(),
        list(warnings.filters), dict(os.environ), numba.get_num_threads(), numba.config.NUMBA_NUM_THREADS,
        numba.config.DISABLE_JIT, numpy.geterr(), random.getstate(), str(numpy.random.get_state()), list(sys.path),
    ]

before = process()
loaded = detector.load_detector(threads=2, hosts=1024)
print("same" if process() == before else [a for a, b in zip(process(), before) if a != b])
sys.path.insert(0, "tests/unit")
from made_windows import block_of, office
sys.path.pop(0)
loaded = detector.load_detector(threads=1, hosts=1024)
loaded.receive(block_of(office(40)))
print("same" if process() == before else [(a, b) for a, b in zip(process(), before) if a != b])
"""


def test_early_windows_leave_no_trace(trained: Checkpoint) -> None:
    windows = office(100, seed=5)
    d = detector(trained)
    d.receive(block_of(changed(windows, stage=np.full(100, Stage.EARLY, np.int8))))
    assert np.array_equal(
        d.receive(block_of(windows)).score, detector(trained).receive(block_of(windows)).score
    )


def test_every_score_is_in_range_and_reliance_sums_to_one(trained: Checkpoint) -> None:
    s = detector(trained).receive(block_of(office(200, seed=6, scan=20)))
    assert ((s.score >= 0) & (s.score <= 1)).all()
    assert ((s.p_value > 0) & (s.p_value <= 1)).all()
    assert np.allclose(s.reliance.sum(axis=1), 1.0)
    assert len(s.attack) == 220


def test_a_missing_modality_gets_no_reliance(trained: Checkpoint) -> None:
    s = detector(trained).receive(block_of(without_logs(office(60, seed=6))))
    assert (s.reliance[:, 2] == 0).all()
    assert np.isnan(s.components["log"]).all()


def test_no_windows_give_no_scores(trained: Checkpoint) -> None:
    s = detector(trained).receive(block_of(take(office(3), np.arange(0))))
    assert len(s.score) == len(s.p_value) == len(s.attack) == 0
    assert s.reliance.shape == (0, 4)


def test_later_calm_traffic_of_the_same_network_stays_near_the_nominal_rate(trained: Checkpoint) -> None:
    p = (
        detector(trained).receive(block_of(office(6000, seed=7))).p_value[500:]
    )  # a host must be seen before it is known
    assert (p <= 0.01).mean() <= 0.03


@pytest.fixture(scope="module")
def long_taught() -> Checkpoint:
    return train([Recording("a", office(5200, seed=1)), Recording("b", office(5200, seed=2))], recipe=QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("short", [True, False])
def test_from_an_empty_state_too_the_rate_is_near_the_nominal_one(
    trained: Checkpoint, long_taught: Checkpoint, short: bool
) -> None:
    made = trained if short else long_taught
    p = np.stack([detector(made).receive(block_of(office(1500, seed=s))).p_value for s in (7, 8, 9, 10)])
    assert 0.05 <= (p <= 0.1).mean() <= 0.15
    assert 0.004 <= (p <= 0.01).mean() <= 0.02
    first = p[:, :100]
    assert (first <= 0.1).mean() <= 0.2
    assert (first <= 0.01).mean() <= 0.03


def test_how_well_hosts_are_known_is_told_apart_and_survives_the_disk(
    long_taught: Checkpoint, tmp_path: Path
) -> None:
    assert long_taught.overall_calibration is not None
    assert set(long_taught.overall_calibration.each) == {0, 1, 2, 3}
    checkpoints.save(long_taught, tmp_path / "m.safetensors")
    again = checkpoints.load(tmp_path / "m.safetensors", load_schema())
    one, two = (detector(m).receive(block_of(office(300, seed=9))).p_value for m in (long_taught, again))
    assert np.array_equal(one, two)


def test_a_scan_after_a_start_stands_out(long_taught: Checkpoint) -> None:
    windows = office(600, seed=8, scan=200)
    p, scan = detector(long_taught).receive(block_of(windows)).p_value, is_scan(windows)
    assert (p[scan] < np.quantile(p[~scan], 0.01)).mean() > 0.8


def test_a_scan_in_a_known_office_stands_out_without_labels(trained: Checkpoint) -> None:
    windows = office(1500, seed=8, scan=200)
    s, scan = detector(trained).receive(block_of(windows)), None
    scan = is_scan(windows)
    limit = np.quantile(s.score[~scan], 0.99)
    assert (s.score[scan] > limit).mean() > 0.8


def test_calibrating_on_other_calm_traffic_restores_the_rate(trained: Checkpoint) -> None:
    busier = [Recording("c", office(2500, seed=10, gap=0.05, desks=3))]
    fitted = recalibrate(trained, busier)
    p = detector(fitted).receive(block_of(office(2500, seed=11, gap=0.05, desks=3))).p_value
    assert 0.002 <= (p <= 0.01).mean() <= 0.03


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(of_a_network: Checkpoint) -> None:
    again = quick(NETWORK)
    assert all(np.array_equal(v, of_a_network.network[k]) for k, v in again.network.items())
    assert again.about["data_digest"] == of_a_network.about["data_digest"]


def test_labels_teach_known_attacks() -> None:
    pytest.importorskip("lightgbm")

    def recording(seed: int) -> Recording:
        windows = office(600, seed=seed, scan=150)
        label = is_scan(windows).astype(np.int8)
        return Recording(f"lab/{seed}", windows, label, ["scan-port" if x else "" for x in label])

    made = train([recording(1), recording(2)], recipe=QUICK)
    windows = office(600, seed=3, scan=150)
    s, scan = detector(made).receive(block_of(windows)), is_scan(windows)
    assert (s.score[scan] > np.quantile(s.score[~scan], 0.99)).mean() > 0.9


def test_training_from_an_earlier_model_starts_there(of_a_network: Checkpoint) -> None:
    made = train(
        [Recording("d", office(800, seed=12))],
        recipe=replace(NETWORK, epochs=1, rate=1e-5),
        init=of_a_network,
    )
    assert all(np.allclose(v, of_a_network.network[k], atol=1e-2) for k, v in made.network.items())


@pytest.mark.parametrize("recordings", [[], [Recording("x", office(20))]])
def test_too_little_to_learn_from_is_said(recordings: list[Recording]) -> None:
    with pytest.raises(CmdanaError, match="training: found"):
        train(recordings, recipe=QUICK)


def test_a_checkpoint_comes_back_as_it_was(trained: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    checkpoints.save(trained, path)
    windows = office(150, seed=13, scan=20)
    loaded = load_detector(path, threads=1, salt=0, hosts=512)
    assert np.array_equal(
        loaded.receive(block_of(windows)).score, detector(trained).receive(block_of(windows)).score
    )
    assert path.stat().st_size <= 20e6
    assert {"schema_digest", "data_digest", "seed", "code_digest", "recipe"} <= set(loaded.checkpoint.about)


def test_a_checkpoint_of_another_schema_is_refused_in_one_line(trained: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    checkpoints.save(checkpoints.renamed(trained, schema_digest="0" * 64), path)
    with pytest.raises(SchemaError, match="made with schema 000000000000, expected") as found:
        load_detector(path)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x80" * 64])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(CmdanaError, match=r"m\.safetensors"):
        load_detector(path)


def test_the_shipped_checkpoint_fits_this_schema() -> None:
    s = load_detector(threads=1, hosts=1024).receive(block_of(office(50, scan=10)))
    assert np.isfinite(s.score).all()


def test_resetting_the_named_fields_takes_most_of_the_evidence_away(trained: Checkpoint) -> None:
    d = detector(trained)
    windows = office(400, seed=14, scan=60)
    s = d.receive(block_of(windows))
    assert d.seen is not None
    usual = float(np.median(evidence_of(d, d.seen)))
    odd = np.argsort(-s.score)[:10]
    removed = []
    for told in explain_rows(d, d.seen, odd):
        assert told.without == sorted(told.without, reverse=True)
        removed.append((told.evidence - min(told.without)) / (told.evidence - usual))
    assert np.median(removed) >= 0.4  # the goal of 0.6 is not met without labels, see docs/results.md


@pytest.mark.parametrize(
    ("name", "saw", "usual", "said"),
    [
        ("pair_beat", -2.61, 0.03, ": 2.6 spreads below"),
        ("duration_vs_port", 12.4, 0.0, ": 12 spreads above"),
        ("pair_jitter", 5.85, 2.7, ": a factor of 347, usual is a factor of 15"),
        ("pair_jitter", 99.0, 0.5, ": a factor of 1,000,000, usual is a factor of 1.6"),
        ("orig_failed_share", 0.8, 0.1, ": 0.8, usual is 0.1"),
    ],
)
def test_a_history_is_told_of_in_units(name: str, saw: float, usual: float, said: str) -> None:
    schema = load_schema()
    assert _state_words(schema, schema.state.index(name), saw, usual).endswith(said)


def test_reasons_are_words_about_the_row_and_at_most_three(trained: Checkpoint) -> None:
    d = detector(trained)
    windows = office(200, seed=15, scan=40)
    s = d.receive(block_of(windows))
    told = d.explain(block_of(windows), s, np.flatnonzero(is_scan(windows))[-3:])
    assert all(0 < len(reasons) <= 3 for reasons in told)
    assert all(isinstance(r, str) and r and "nan" not in r for reasons in told for r in reasons)


def test_another_network_gives_other_reasons(trained: Checkpoint) -> None:
    """Randomised weights: an explanation that survives them would not be about the network.

    Isolation, which knows no network, would lead among the oddest connections of a scan: it is left out.
    """
    rng = np.random.default_rng(0)
    if trained.detector == CROSS_MODAL:
        noise = {k: (v + rng.normal(0, 0.3, v.shape)).astype(np.float32) for k, v in trained.network.items()}
    else:
        noise = {k: rng.permutation(v) for k, v in trained.network.items()}
    windows = office(200, seed=16, scan=40)
    fused = {k: s for k, s in trained.strata.items() if k != "isolation"}
    plain = replace(trained, isolation=None, strata=fused, overall_calibration=None)
    rows = np.argsort(-detector(plain).receive(block_of(windows)).score)[:8]
    names = []
    for made in (plain, replace(plain, network=noise)):
        d = detector(made)
        d.receive(block_of(windows))
        assert d.seen is not None
        names.append([{f.name for f in told.fields} for told in explain_rows(d, d.seen, rows)])
    assert any(a != b for a, b in zip(*names, strict=True))
