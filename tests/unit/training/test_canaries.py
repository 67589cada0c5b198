"""Canaries are connections like any other: of the site's hosts or new ones, in order, told apart by their number."""

import numpy as np
import pytest
from made_windows import office

from cmdana_plugin.behaviour import flows_of
from cmdana_plugin.training import Trial, trial_of
from cmdana_plugin.training.rehearsals.rehearsal import KINDS, rehearsed
from feature_extractors import Stage
from feature_extractors.features import encoded, load_schema, take_encoded


@pytest.fixture(scope="module")
def trial() -> Trial:
    own = encoded(office(3000, desks=30, gap=6.0), load_schema())
    return trial_of(own, np.random.default_rng(3), 24)


def test_the_sites_own_connections_are_all_there_unchanged(trial: Trial) -> None:
    own = encoded(office(3000, desks=30, gap=6.0), load_schema())
    own = take_encoded(own, np.argsort(own.connections.end, kind="stable"))
    rows = np.flatnonzero(trial.canary == 0)
    np.testing.assert_array_equal(trial.windows.connections.uid[rows], own.connections.uid)
    np.testing.assert_array_equal(trial.windows.features.numeric[rows], own.features.numeric)
    assert [trial.windows.domain[i] for i in rows] == list(own.domain)


def test_canaries_are_among_them_in_order(trial: Trial) -> None:
    c = trial.windows.connections
    canary = trial.canary > 0
    assert len(set(trial.canary[canary].tolist())) >= 16
    assert len(set(trial.kind[canary].tolist())) >= len(KINDS) // 2
    assert (np.diff(c.end) >= 0).all()
    assert (c.stage == Stage.FINAL).all()
    assert len(set(c.uid.tolist())) == len(c)
    assert {bool(name) for name in np.array(trial.names)[~canary]} == {False}
    assert all(name.split()[0] in KINDS for name in np.array(trial.names)[canary])


def test_behaviour_sees_of_them_what_was_rehearsed(trial: Trial) -> None:
    """There and back: hosts that are one stay one, amounts, states and outcomes are the same."""
    own = encoded(office(3000, desks=30, gap=6.0), load_schema())
    rng = np.random.default_rng(3)
    salt = int.from_bytes(rng.bytes(16), "little")
    made = rehearsed(flows_of(own, salt), rng, None, 24)
    expected, found = made.flows, flows_of(trial.windows, salt)
    order = np.flatnonzero(made.number > 0)
    at = np.flatnonzero(trial.canary > 0)
    for name in (
        "ts",
        "end",
        "port",
        "proto",
        "service",
        "state",
        "orig_pkts",
        "accepted",
        "refused",
        "told_by",
    ):
        np.testing.assert_array_equal(getattr(found, name)[at], getattr(expected, name)[order], err_msg=name)
    for name in ("orig_bytes", "resp_bytes"):
        np.testing.assert_array_equal(
            getattr(found, name)[at], np.trunc(getattr(expected, name)[order]), err_msg=name
        )
    known = set(flows_of(own, salt).orig.tolist())
    ours = np.isin(expected.orig[order], list(known))
    np.testing.assert_array_equal(found.orig[at][ours], expected.orig[order][ours])
