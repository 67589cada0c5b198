"""The ablation that hides fields at random shows and asks for different things, never the same."""

from __future__ import annotations

import numpy as np
import pytest
from made_windows import office

from cmdana_plugin.detector.engines.shape import CONNECTION, LOG, PACKET
from cmdana_plugin.detector.inputs import Prepared, learn_preparation, prepare
from cmdana_plugin.evaluation.masking import hide
from cmdana_plugin.training.recording import Recording, gather
from feature_extractors.features.schema import load_schema

SCHEMA = load_schema()


def prepared() -> Prepared:
    corpus = gather([Recording("x", office(200))], SCHEMA)
    return prepare(corpus.features, corpus.state, learn_preparation(corpus.features, corpus.state), SCHEMA)


def test_two_halves_hide_every_field_once() -> None:
    whole = prepared()
    halves = [hide(whole, SCHEMA, k) for k in (0, 1)]
    for m in (PACKET, CONNECTION, LOG):
        asked = [h.targets[m] >= 0 for h in halves]
        assert not (asked[0] & asked[1]).any()
        assert np.array_equal(asked[0] | asked[1], whole.targets[m] >= 0)


@pytest.mark.parametrize("chosen", [0, 1, np.random.default_rng(0)])
def test_what_is_asked_for_is_not_shown(chosen: np.random.Generator | int) -> None:
    whole = prepared()
    half = hide(whole, SCHEMA, chosen)
    width = whole.values.shape[1]
    hidden = half.targets[CONNECTION] >= 0
    assert (half.values[hidden[:, :width]] == 0).all()
    other = whole.codes.copy()
    other[hidden] = -5
    told = np.where(hidden, -5, half.codes)
    assert np.array_equal(other, told)
    blind = hide(whole, SCHEMA, 1)
    assert (blind.features.log_tokens[:, 1:] == 0).all()
