"""Work without the cycle collector leaves the collector as it was, with nothing to catch up on."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from feature_extractors.compiled.gc_pause import _Frozen, freeze, seldom_collected, uncollected


class Thing:
    """Something that may point to itself."""

    me: object = None


@uncollected
def made(n: int) -> list[Thing]:
    assert not gc.isenabled()
    return [Thing() for _ in range(n)]


@pytest.fixture(autouse=True)
def _collecting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_Frozen, "times", 0)
    gc.enable()
    yield
    gc.unfreeze()
    gc.enable()


def test_the_collector_is_on_again_and_has_no_search_before_it() -> None:
    things = made(50_000)
    assert gc.isenabled()
    assert gc.get_count()[0] < 5_000 < len(things)


def test_it_stays_off_where_it_was_off() -> None:
    gc.disable()
    assert made(3)
    assert not gc.isenabled()


def test_it_is_on_again_after_an_error() -> None:
    @uncollected
    def fails() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert gc.isenabled()


def test_a_cycle_made_meanwhile_is_found_by_a_full_collection() -> None:
    thing = made(1)[0]
    thing.me = thing
    gone = weakref.ref(thing)
    del thing
    gc.collect()
    assert gone() is None


def test_what_the_program_froze_stays_frozen() -> None:
    kept = [Thing()]
    freeze()
    frozen = gc.get_freeze_count()
    made(10)
    assert gc.get_freeze_count() >= frozen - 100 > 0
    assert kept


def test_a_stream_is_seldom_collected_and_all_is_as_before_afterwards() -> None:
    before = gc.get_threshold()
    with seldom_collected():
        assert gc.get_threshold() > before
        frozen = gc.get_freeze_count()
        assert made(10)
        assert gc.get_freeze_count() >= frozen - 100 > 0
    assert gc.get_threshold() == before
    assert not gc.get_freeze_count()
    assert made(50_000)
    assert gc.get_count()[0] < 5_000
