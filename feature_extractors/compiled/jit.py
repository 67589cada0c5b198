"""The decorators of compiled functions: machine code that was kept is called without numba, which a second is lost on.

numba comes in where a function is called that was not kept as its sources are now, or not for arguments of such types
(`ready`); then all that is still to be compiled is made by it (`with_numba`). With NUMBA_DISABLE_JIT all is Python.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, TypeVar, cast

import numpy as np

from feature_extractors.compiled import ready

__all__ = ["borrowed", "compiled_for", "entry", "helper", "i64", "later", "needs", "njit", "summing", "wake"]

A = TypeVar("A")
F = TypeVar("F", bound=Callable[..., Any])

# What compiled code computes with; to the type checker an int, since that is how it is used.
i64: Final = cast("Callable[[Any], int]", np.int64)
INTERPRETED: Final = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")

_OURS: Final = ("feature_extractors", "cmdana_plugin")
_NUMBA: Final = f"{__package__}.with_numba"
_lock: Final = threading.RLock()
_needed: Final[list[str]] = []  # modules that tell numba of types


class Later:
    """What only numba's compiler looks at: a function that compiled ones call, or an intrinsic. Made with numba."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None

    def made(self) -> Any:
        if self._made is None:
            self._made = self._make()
        return self._made

    def __call__(self, *args: Any, **named: Any) -> Any:
        wake()
        return self.made()(*args, **named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        wake()
        return getattr(self.made(), name)


class Entry(Later):
    """A function that Python calls: by what was kept of it, where that is of these types, else by numba."""

    def __init__(self, function: Callable[..., Any], make: Callable[[], Any]) -> None:
        super().__init__(make)
        self._function = function
        self._kept: dict[Any, Any] | None = None
        self.__doc__, self.__name__, self.__module__ = (
            function.__doc__,
            function.__name__,
            function.__module__,
        )
        self.__wrapped__ = function

    def __call__(self, *args: Any, **named: Any) -> Any:
        kept = self._kept
        if kept is None:
            with _lock:
                kept = self._kept = ready.overloads(self._function)
        if not named:
            call = kept.get(ready.kinds(args))
            if call is not None:
                if type(call) is int:
                    with _lock:
                        call = kept[ready.kinds(args)] = ready.loaded(self._function, call)
                return call(*args)
        ready.missed(self._function)
        return super().__call__(*args, **named)


def wake() -> Any:
    """Loads numba and has all functions made by it that were put off. Returns `with_numba`."""
    side = sys.modules.get(_NUMBA)
    if side is None or not getattr(side, "awake", False):
        with _lock:
            side = import_module(_NUMBA)
            side.awake = True  # type: ignore[attr-defined]
            for module in _needed:
                import_module(module)
            for name, module in list(sys.modules.items()):  # type: ignore[assignment]
                if name.partition(".")[0] in _OURS:
                    for key, value in list(vars(module).items()):
                        if isinstance(value, Later):
                            setattr(module, key, value.made())
    return side


def _awake() -> Any:
    """`with_numba`, where it was woken; else None."""
    side = sys.modules.get(_NUMBA)
    return side if side is not None and getattr(side, "awake", False) else None


def needs(module: str) -> None:
    """Has a module loaded before numba compiles: it tells numba of a type of ours."""
    _needed.append(module)
    if _awake():
        import_module(module)


def later(make: Callable[[], A], interpreted: A | None = None) -> A:
    """What `make` makes as soon as there is numba, for compiled functions alone; where all is Python, `interpreted`."""
    if INTERPRETED:
        return cast(A, interpreted)
    return make() if _awake() else cast(A, Later(make))


def entry(function: Callable[..., Any]) -> Any:
    """A compiled function that Python calls; compiled at its first call and cached on disk."""
    if INTERPRETED:
        return function
    if side := _awake():
        return side.entry(function)
    return Entry(function, lambda: wake().entry(function))


def compiled_for(signature: str) -> Callable[[Callable[..., Any]], Any]:
    """A decorator as `entry`, for arguments of these types only, which nobody looks at: that took longer."""

    def decorate(function: Callable[..., Any]) -> Any:
        if INTERPRETED:
            return function
        if not _awake() and (kept := ready.overloads(function)):
            return ready.loaded(function, next(iter(kept.values())))
        return wake().compiled_for(signature)(function)

    return decorate


def helper(function: F) -> F:
    """A compiled function that only compiled functions call; it is cached as part of them."""
    return later(lambda: wake().helper(function), function)


def summing(function: F) -> F:
    """As `helper`, but sums are taken in any order, and fused: for arithmetic, whose last digit is nobody's promise."""
    return later(lambda: wake().summing(function), function)


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator as `helper`, with numba's options."""

    def decorate(function: Callable[..., Any]) -> Any:
        return later(lambda: wake().njit(**options)(function), function)

    return decorate


def _itself(array: A) -> A:
    return array


# The same array, owned by nobody: compiled code counts references to an owner at each call, in two locked instructions,
# a third of all that the tracker did. For arrays that Python holds until the compiled function has returned.
borrowed: Final = cast("Callable[[Any], Any]", later(lambda: wake().unowned, _itself))
