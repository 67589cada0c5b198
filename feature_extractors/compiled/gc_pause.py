"""Work that makes no cycles is done without the cycle collector, which would look through all that it made."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class _Frozen:
    """Whether the program has frozen something; Python would count all that is frozen, a millisecond each time."""

    times = 0


def uncollected(function: Callable[P, R]) -> Callable[P, R]:
    """The same function with the collector at rest; what it leaves behind counts as old afterwards.

    Were it only switched off, the first object made after it was switched on again would set off a search through all
    that came about meanwhile. Freezing and thawing moves it to the oldest generation, where a full collection still
    finds it; not after `freeze`, which thawing would undo.
    """

    @functools.wraps(function)
    def quietly(*args: P.args, **kwargs: P.kwargs) -> R:
        if not gc.isenabled():
            return function(*args, **kwargs)
        gc.disable()
        try:
            return function(*args, **kwargs)
        finally:
            if not _Frozen.times:
                gc.freeze()
                gc.unfreeze()
            gc.enable()

    return quietly


def freeze() -> None:
    """Python looks for cycles no more among what is loaded by now."""
    _Frozen.times += 1
    gc.freeze()


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Python looks seldom for cycles, of which a stream of records makes none, and not among what is loaded by now."""
    before = gc.get_threshold()
    freeze()
    gc.set_threshold(200_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
        _Frozen.times -= 1
