"""numba's decorator as this package uses it, and the fingerprint of all that is compiled with it."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numpy as np
from numba import config, njit
from numba.extending import intrinsic
from numba.np import linalg
from numba.np.arrayobj import make_array, populate_array

__all__ = ["borrowed", "entry", "fingerprint", "helper", "i64", "njit"]

A = TypeVar("A")
F = TypeVar("F", bound=Callable[..., Any])

# What compiled code computes with; to the type checker an int, since that is how it is used.
i64: Final = cast("Callable[[Any], int]", np.int64)


def _load() -> None:
    """Has numba load its array functions, without scipy, which they try to: it takes a fifth of a second.

    Only a compiled `np.cov` of somebody else in the process would miss it.
    """

    def refuse() -> None:
        raise ImportError

    real = linalg.ensure_blas
    linalg.ensure_blas = refuse
    try:
        import_module("numba.np.arraymath")
    finally:
        linalg.ensure_blas = real


_load()

_SOURCES: Final = (
    "decode",
    "fragments",
    "jit",
    "keyed",
    "link",
    "reasons",
    "segments",
    "state",
    "state_type",
    "table",
    "tcp",
    "tracker",
)


def entry(function: F) -> F:
    """A compiled function that Python calls; it is compiled once and then read from the cache."""
    return cast(F, njit(cache=True, nogil=True)(function))


def helper(function: F) -> F:
    """A compiled function that only compiled functions call; it lives in their cache."""
    return cast(F, njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)(function))


@intrinsic  # type: ignore[untyped-decorator]
def _unowned(_context: Any, array: Any) -> Any:
    """As `borrowed`: the array without the object that owns its memory."""

    def code(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        old = make_array(array)(context, builder, args[0])
        new = make_array(array)(context, builder)
        populate_array(
            new, data=old.data, shape=old.shape, strides=old.strides, itemsize=old.itemsize, meminfo=None
        )
        return new._getvalue()

    return array(array), code


def _itself(array: A) -> A:
    return array


# The same array, owned by nobody: compiled code counts references to an owner at each call, in two locked instructions,
# a third of all that the tracker did. For arrays that Python holds until the compiled function has returned.
borrowed: Final = cast("Callable[[A], A]", _itself if config.DISABLE_JIT else _unowned)


def fingerprint() -> int:
    """Changes with the tracker's sources: numba looks only at the file of the function that it finds in its cache."""
    folder = Path(__file__).parent
    stamp = 0
    for name in _SOURCES:
        stamp = zlib.crc32((folder / f"{name}.py").read_bytes(), stamp)
    return stamp
