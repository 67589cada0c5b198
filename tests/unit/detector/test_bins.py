"""Bins of feature columns: what a code stands for, and what the words about an odd field rest on."""

import numpy as np

from cmdana_plugin.detector.inputs import EDGES, Bins, learn_bins
from cmdana_plugin.detector.reasons import _rarities, _spans


def bins() -> Bins:
    rng = np.random.default_rng(3)
    return learn_bins(rng.normal(2, 3, (500, 4)).astype(np.float32))


def test_a_value_lies_within_the_span_of_its_code() -> None:
    learned = bins()
    values = np.concatenate([np.random.default_rng(4).normal(2, 4, (300, 4)), np.zeros((1, 4))])
    values = values.astype(np.float32)
    low, high = learned.spans()
    code, column = learned.codes(values), np.arange(4)
    assert set(np.unique(code)) == set(range(1, EDGES + 3))
    assert (low[column, code] <= values).all()
    assert (values <= high[column, code]).all()


def test_what_is_expected_is_the_middle_of_the_chances_one_column_as_the_other() -> None:
    """Each column and row by itself, in words of the text book, against all at once."""
    learned, rng = bins(), np.random.default_rng(5)
    low, high = learned.spans()
    classes = low.shape[1]
    chance = rng.dirichlet(np.full(classes, 0.3), (6, 4))
    chance[0, 0] = np.eye(classes)[0]  # unset, for sure
    code = rng.integers(0, classes, (6, 4))
    rising = [1, classes - 1, *range(2, classes - 2), classes - 2]  # zero, under, bins, over
    for i, row in enumerate(_spans(chance, code, learned)):
        for j, (p, begin, end, middle) in enumerate(row):
            one = chance[i, j]
            assert np.isclose(p, max(sum(c for c in one if c <= one[code[i, j]]), 1e-12))
            assert p == _rarities(one, code[i, j])
            if one[0] > 0.5:
                assert np.isnan(middle)
                continue
            sums = np.cumsum(one[rising]) / one[rising].sum()
            lower, inner, upper = (rising[int(np.argmax(sums >= part))] for part in (0.1, 0.5, 0.9))
            least, most = min(float(learned.edges[j, 0]), 0.0), float(learned.edges[j, -1])
            assert begin == max(low[j, lower], least)
            assert end == min(high[j, upper], most)
            about = (max(low[j, inner], -1e9) + min(high[j, inner], 1e9)) / 2
            assert middle == min(max(about, least), most)
