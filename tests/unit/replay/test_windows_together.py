"""Windows are encoded many at once, however few come at a time."""

import numpy as np
import pytest
from made_windows import office

from cmdana_plugin.replay.embedded import _TOGETHER, _together
from feature_extractors import Windows, take
from feature_extractors.features import concat_encoded, encoded, load_schema

N = 3 * _TOGETHER


@pytest.fixture(scope="module")
def whole() -> Windows:
    return office(N, desks=80)


def cut(whole: Windows, sizes: list[int]) -> list[Windows]:
    ends = np.cumsum(sizes)
    assert ends[-1] == len(whole)
    return [take(whole, np.arange(end - size, end)) for size, end in zip(sizes, ends.tolist(), strict=True)]


@pytest.mark.parametrize(
    ("sizes", "together"),
    [
        ([N], [N]),
        ([100, N - 100], [N]),
        ([_TOGETHER - 1, 1, N - _TOGETHER], [_TOGETHER, N - _TOGETHER]),
        ([_TOGETHER, _TOGETHER + 5, 7, _TOGETHER - 12], [_TOGETHER, _TOGETHER + 5, _TOGETHER - 5]),
    ],
    ids=["one block", "few and many", "just enough", "a rest"],
)
def test_blocks_are_joined_until_they_are_large_and_say_the_same(
    whole: Windows, sizes: list[int], together: list[int]
) -> None:
    joined = list(_together(cut(whole, sizes)))
    assert [len(block) for block in joined] == together
    schema = load_schema()
    once = encoded(whole, schema)
    parts = concat_encoded([encoded(block, schema) for block in joined])
    assert parts.domain == list(once.domain)
    assert np.array_equal(parts.connections.uid, once.connections.uid)
    for name in ("numeric", "packets", "log_tokens", "log_summary", "name", "packet_start", "log_start"):
        assert np.array_equal(getattr(parts.features, name), getattr(once.features, name), equal_nan=True)


def test_nothing_becomes_nothing() -> None:
    assert list(_together([])) == []
