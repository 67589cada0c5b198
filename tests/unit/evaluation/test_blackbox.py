"""Black-box attacks of the toolbox, where it is installed: within the budget, and on what can be raised alone."""

from __future__ import annotations

import numpy as np
import pytest
from test_hardening import uploads

from benchmarks.blackbox import BUDGETS, WAYS_OF_ATTACK, attacked
from cmdana_plugin.detector import fit_trees, tabulate
from cmdana_plugin.training import gather
from feature_extractors.features.schema import load_schema


@pytest.mark.slow
def test_less_is_found_of_uploads_that_may_be_padded_the_more_they_may() -> None:
    pytest.importorskip("art", reason="adversarial-robustness-toolbox is not installed")
    one = uploads(1)
    corpus = gather([one], load_schema())
    x = tabulate(corpus.features, corpus.state)
    sent = one.windows.connections.orig_bytes
    corpus.label = ((sent > 0) & (sent < 100)).astype(np.int8)  # padding hides few bytes
    own = np.full_like(x, np.nan)
    column = [f.name for f in load_schema().numeric].index("orig_bytes")
    own[:, column] = x[:, column]
    trees = fit_trees(own, corpus.label == 1, np.ones(len(x)), 0, repeats=1)
    kept = dict(attacked(trees, corpus, one.windows.connections, 3, 20, 0))
    assert set(kept) == set(WAYS_OF_ATTACK)
    for shares in kept.values():
        assert len(shares) == len(BUDGETS)
        assert shares[-1] < 1.0
