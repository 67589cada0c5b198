"""What a p-value means follows the stream: to its budget on a foreign network, in steps, and not after an attacker."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_windows import office

from cmdana_plugin import config
from cmdana_plugin.decision import Judge
from cmdana_plugin.decision.adaptation import GRID, KINDS, Adaptation
from cmdana_plugin.decision.notice import TRAFFIC_DRIFT, Notice, TrafficDrift
from cmdana_plugin.detector import Scores
from cmdana_plugin.evaluation.operator_view import PrecomputedScores, scores_of
from feature_extractors import Stage
from feature_extractors.features import Encoded, encoded, load_schema, take_encoded

ON = config.Adaptation(mode="calibration", step=1.0)


@pytest.fixture(scope="module")
def stream() -> Encoded:
    """Ten hours of some 80 desks."""
    return encoded(office(6000, desks=80, gap=6.0), load_schema())


def scored(block: Encoded, p: np.ndarray[Any, Any]) -> Scores:
    return Scores(p, p, {}, np.full((len(p), 4), 0.25), [""] * len(p))


def through(
    adaptation: Adaptation, block: Encoded, p: np.ndarray[Any, Any], cuts: int = 1
) -> np.ndarray[Any, Any]:
    parts = np.array_split(np.arange(len(p)), cuts)
    return np.concatenate(
        [adaptation.receive(take_encoded(block, rows), scored(block, p[rows])).p_value for rows in parts]
    )


def foreign(n: int, seed: int = 1) -> np.ndarray[Any, Any]:
    """p-values of a model that knows another network: ten times too odd, each connection for itself."""
    return np.random.default_rng(seed).uniform(size=n) ** 2 / 4


def test_a_foreign_network_comes_to_the_budget_after_the_first_sample(stream: Encoded) -> None:
    p = foreign(len(stream))
    assert (p <= 1e-2).mean() > 0.15
    found = through(Adaptation(ON, on=True), stream, p)
    np.testing.assert_allclose(found[:512], p[:512], rtol=1e-5)
    assert 0.0075 <= (found[2000:] <= 1e-2).mean() <= 0.02
    assert 0.08 <= (found[2000:] <= 1e-1).mean() <= 0.13
    # What is odder stays odder, within a piece and a kind of traffic.
    dns = np.array([s == "dns" for s in stream.connections.service])[5120:5632]
    order = np.argsort(p[5120:5632][dns], kind="stable")
    assert (np.diff(found[5120:5632][dns][order]) >= 0).all()


def in_two_passes(
    block: Encoded, p: np.ndarray[Any, Any], cuts: int = 1
) -> tuple[Adaptation, np.ndarray[Any, Any]]:
    """The one that has looked first, and what it makes of the stream then."""
    adaptation = Adaptation(ON, on=True)
    for rows in np.array_split(np.arange(len(p)), cuts):
        if not adaptation.look(take_encoded(block, rows), scored(block, p[rows])):
            break
    adaptation.looked()
    return adaptation, through(adaptation, block, p, cuts)


def test_in_two_passes_a_foreign_network_has_the_budget_from_the_first_connection(stream: Encoded) -> None:
    p = foreign(len(stream))
    adaptation, found = in_two_passes(stream, p)
    for rows in (slice(0, 1000), slice(1000, None)):
        assert 0.005 <= (found[rows] <= 1e-2).mean() <= 0.02
    assert adaptation._hours == 1  # what it has looked at teaches nothing twice
    assert not adaptation.looks_first


def test_in_two_passes_it_is_the_same_however_the_stream_is_cut(
    stream: Encoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = foreign(len(stream))
    for most in (250_000, 1000):  # a first pass that ends before the stream does
        monkeypatch.setattr("cmdana_plugin.decision.adaptation.LOOKED", most)
        adaptation, whole = in_two_passes(stream, p)
        assert (adaptation._hours == 1) == (most > len(p))
        for cuts in (7, 100):
            np.testing.assert_array_equal(in_two_passes(stream, p, cuts)[1], whole)


def test_of_a_long_stream_the_first_pass_looks_at_a_day(stream: Encoded) -> None:
    c = stream.connections
    later = replace(stream, connections=replace(c, ts=c.ts + 86_400.0, end=c.end + 86_400.0))
    p = foreign(len(stream))
    adaptation = Adaptation(ON, on=True)
    assert adaptation.look(stream, scored(stream, p))
    assert not adaptation.look(later, scored(later, p))
    assert adaptation._looked < c.end[0] + 86_400.0


def test_too_little_to_sample_leaves_the_models_own_calibration(stream: Encoded) -> None:
    few = take_encoded(stream, np.arange(200))
    p = foreign(200)
    np.testing.assert_array_equal(in_two_passes(few, p)[1], through(Adaptation(ON, on=True), few, p))


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_in_two_passes_what_many_but_not_most_hosts_do_stays_odd(stream: Encoded, share: float) -> None:
    """Attackers from the first connection to the last, all that they send at p = 1e-6."""
    p = np.random.default_rng(7).uniform(size=len(stream))
    host = stream.connections.orig_h[:, 15]
    bad = np.isin(host, np.unique(host)[: int(share * len(np.unique(host)))])
    p[bad] = 1e-6
    assert bad.mean() > 0.9 * share
    assert (in_two_passes(stream, p)[1][bad] <= 1e-4).mean() > 0.95


def test_however_the_stream_is_cut_it_is_the_same(stream: Encoded) -> None:
    p = foreign(len(stream))
    whole = through(Adaptation(ON, on=True), stream, p)
    for cuts in (7, 100):
        np.testing.assert_array_equal(through(Adaptation(ON, on=True), stream, p, cuts), whole)


def test_it_goes_on_from_its_state(stream: Encoded) -> None:
    p = foreign(len(stream))
    one, other = Adaptation(ON, on=True), Adaptation(ON, on=True)
    first, rest = np.arange(3333), np.arange(3333, len(p))
    through(one, take_encoded(stream, first), p[first])
    other.restore(one.state())
    found = [through(a, take_encoded(stream, rest), p[rest]) for a in (one, other)]
    np.testing.assert_array_equal(*found)
    broken = one.state()
    broken["map"] = broken["map"][:, ::-1].copy()
    with pytest.raises(ValueError, match="does not rise"):
        other.restore(broken)


def test_switched_off_it_changes_nothing(stream: Encoded) -> None:
    p = foreign(len(stream))
    scores = scored(stream, p)
    assert Adaptation(ON, on=False).receive(stream, scores) is scores


def test_after_the_first_it_moves_by_a_step_an_hour(stream: Encoded) -> None:
    adaptation = Adaptation(replace_step(0.1), on=True)
    p = np.random.default_rng(3).uniform(size=len(stream))
    through(adaptation, take_encoded(stream, np.arange(3000)), p[:3000])
    before = adaptation._map[KINDS].copy()
    hours = adaptation._hours
    through(adaptation, take_encoded(stream, np.arange(3000, 6000)), foreign(3000))
    moved = np.abs(adaptation._map[KINDS] - before).max()
    assert 0.1 <= moved <= 0.1 * (adaptation._hours - hours) + 1e-9


def replace_step(step: float) -> config.Adaptation:
    return ON.model_copy(update={"step": step})


def test_one_who_drips_every_hour_does_not_make_it_normal(stream: Encoded) -> None:
    """Two hosts of eighty send a twentieth of all connections, at p = 1e-6, all day."""
    p = np.random.default_rng(4).uniform(size=len(stream))
    c = stream.connections
    at = np.unique(c.orig_h[:, 15], return_inverse=True)[1]
    bad = np.isin(at, np.argsort(np.bincount(at))[-2:])
    p[bad] = 1e-6
    adaptation = Adaptation(ON, on=True)
    found = through(adaptation, stream, p)
    assert bad.mean() > 0.02
    assert (found[bad] <= 1e-4).mean() > 0.95
    told = {name: (n, value) for name, n, value in adaptation.told()}
    assert told[""][0] > 2000
    assert 3e-4 <= told[""][1] <= 3e-3


def test_the_map_rises_and_never_makes_a_connection_odder(stream: Encoded) -> None:
    adaptation = Adaptation(ON, on=True)
    through(adaptation, stream, np.random.default_rng(5).uniform(size=len(stream)) ** 0.2)
    assert (np.diff(adaptation._map, axis=1) >= 0).all()
    assert (adaptation._map <= GRID + 1e-9).all()


def test_a_notice_of_drift_says_what_was_done(stream: Encoded, monkeypatch: pytest.MonkeyPatch) -> None:
    drift = TrafficDrift("dns", 0.01, 0.25, 2000, 8, 3600.0, 3, ())
    for mode, least, most in (("calibration", 0.05, 0.2), ("off", None, None)):
        p = foreign(len(stream))
        judge = Judge(
            PrecomputedScores(scores_of(p)),
            config.Config(adaptation=config.Adaptation(mode=mode)),
            adapting=True,
        )
        monkeypatch.setattr(
            judge.watch, "receive", lambda *_: [Notice(0.0, TRAFFIC_DRIFT, "drift|dns", drift=drift)]
        )
        (judged,) = judge.judged([stream])
        (told,) = (n.drift for n in judged.notices if n.drift is not None)
        assert replace(told, becomes=None) == drift
        if least is None:
            assert told.becomes is None
        else:
            assert told.becomes is not None
            assert least <= told.becomes <= most


def test_kinds_of_traffic_are_told_apart(stream: Encoded) -> None:
    """Names are asked ten times too oddly, all else as it was learned."""
    dns = np.array([s == "dns" for s in stream.connections.service])
    p = np.random.default_rng(6).uniform(size=len(stream))
    p[dns] /= 10.0
    found = through(Adaptation(ON, on=True), stream, p)[2000:]
    for kind in (dns[2000:], ~dns[2000:]):
        assert 0.05 <= (found[kind] <= 0.1).mean() <= 0.15


def test_early_verdicts_are_mapped_and_teach_nothing(stream: Encoded) -> None:
    early = np.full(len(stream), int(Stage.EARLY), stream.connections.stage.dtype)
    adaptation = Adaptation(ON, on=True)
    through(
        adaptation,
        replace(stream, connections=replace(stream.connections, stage=early)),
        foreign(len(stream)),
    )
    assert adaptation._count == adaptation._hours == 0
