"""Connections of nothing are of the types of real ones: what is compiled for them is what real ones use."""

from dataclasses import fields

import numpy as np
from made_windows import office

from cmdana_plugin.cli.judging import have_compiled, load_judge
from cmdana_plugin.config import Config
from feature_extractors.features import COLUMNS, blank, encoded, load_schema


def test_every_column_has_the_type_and_width_of_a_real_one() -> None:
    made, real = blank(8, load_schema()), encoded(office(8), load_schema())
    assert len(made) == len(real) == 8
    pairs = [(name, getattr(made, name), getattr(real, name)) for name in COLUMNS]
    for part in ("connections", "features"):
        a, b = getattr(made, part), getattr(real, part)
        pairs += [(f.name, getattr(a, f.name), getattr(b, f.name)) for f in fields(a) if f.name != "service"]
    for name, a, b in pairs:
        assert (a.dtype, a.shape[1:], a.flags.c_contiguous) == (b.dtype, b.shape[1:], True), name
    assert (made.schema, len(made.domain), len(made.connections.service)) == (real.schema, 8, 8)
    for starts in (made.features.packet_start, made.features.log_start):
        np.testing.assert_array_equal(starts, np.arange(9))


def test_a_judge_takes_them() -> None:
    have_compiled(load_judge(Config()))
