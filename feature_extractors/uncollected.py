"""Work that makes no cycles is done without the cycle collector, which would look through all that it made."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def uncollected(function: Callable[P, R]) -> Callable[P, R]:
    """The same function with the collector at rest; what it leaves behind counts as old afterwards.

    Were it only switched off, the first object made after it was switched on again would set off a search through all
    that came about meanwhile. Freezing and thawing moves it to the oldest generation, where a full collection still
    finds it; not where the program has frozen something itself, which thawing would undo.
    """

    @functools.wraps(function)
    def quietly(*args: P.args, **kwargs: P.kwargs) -> R:
        if not gc.isenabled():
            return function(*args, **kwargs)
        gc.disable()
        try:
            return function(*args, **kwargs)
        finally:
            if not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()

    return quietly
