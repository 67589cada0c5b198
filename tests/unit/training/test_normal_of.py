"""Corpora as behaviour is learned from them: networks apart, or one site in order of time."""

from dataclasses import replace

import numpy as np
from made_windows import office

from cmdana_plugin.training.fit_behaviour import normal_of
from cmdana_plugin.training.recording import Corpus, Recording, gather
from feature_extractors.features import load_schema
from feature_extractors.observations import Windows, concat, take


def of(*windows: Windows) -> Corpus:
    return gather([Recording(str(i), w) for i, w in enumerate(windows)], load_schema())


def later(windows: Windows, seconds: float) -> Windows:
    c = windows.connections
    return replace(windows, connections=replace(c, ts=c.ts + seconds, end=c.end + seconds))


def test_networks_stay_apart() -> None:
    found = normal_of([of(office(100), office(200, seed=2))], 0.8, one_site=False)
    assert [len(r) for r in found] == [100, 200]
    assert [r.learned for r in found] == [80, 160]
    assert all(r.normal.all() for r in found)


def test_recordings_of_one_site_are_one_stream_in_order_of_time() -> None:
    morning, evening = office(100), later(office(200, seed=2), 50_000.0)
    (found,) = normal_of([of(evening, morning)], 0.8, one_site=True)
    assert len(found) == 300
    assert found.learned == 240
    assert (np.diff(found.flows.end) >= 0).all()


def test_what_calibrates_comes_after_and_the_past_that_it_brings_along_comes_once() -> None:
    day, next_day = office(100), later(office(50, seed=2), 86_400.0)
    (found,) = normal_of([of(day), of(concat([take(day, np.arange(60, 100)), next_day]))], 1.0, one_site=True)
    assert found.learned == 100
    assert len(found) == 150
    assert (found.flows.end[100:] > found.flows.end[:100].max()).all()


def test_what_is_labelled_otherwise_teaches_nothing() -> None:
    label = np.zeros(100, np.int8)
    label[:30], label[30:50] = 1, -1
    corpus = gather([Recording("a", office(100), label)], load_schema())
    (found,) = normal_of([corpus], 0.8, one_site=False)
    assert found.normal.sum() == 50
