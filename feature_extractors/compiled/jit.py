"""numba's decorators as we use them: compiled code is cached as long as its sources are the same (`code_digest`)."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, TypeVar, cast

import numpy as np
from numba import config, njit
from numba.core.caching import FunctionCache
from numba.extending import intrinsic
from numba.np import linalg
from numba.np.arrayobj import make_array, populate_array

from feature_extractors.compiled.source_digest import code_digest

__all__ = ["borrowed", "compiled_for", "entry", "helper", "i64", "njit", "summing"]

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


class _Kept(FunctionCache):  # type: ignore[misc]
    """numba's own cache looks at the file of the function alone, though compiled code holds what it read elsewhere."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file._source_stamp = code_digest(function.__module__)


def entry(function: Callable[..., Any]) -> Any:
    """A compiled function that Python calls; compiled at its first call and cached on disk."""
    compiled = njit(nogil=True)(function)
    if not config.DISABLE_JIT:
        compiled._cache = _Kept(function)
    return compiled


def compiled_for(signature: str) -> Callable[[Callable[..., Any]], Any]:
    """A decorator as `entry`, for arguments of these types only, which spares numba's dispatch by type."""

    def decorate(function: Callable[..., Any]) -> Any:
        compiled = entry(function)
        if not config.DISABLE_JIT:
            compiled.compile(signature)
            compiled.disable_compile()
        return compiled

    return decorate


def helper(function: F) -> F:
    """A compiled function that only compiled functions call; it is cached as part of them."""
    return cast(F, njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)(function))


def summing(function: F) -> F:
    """As `helper`, but sums are taken in any order, and fused: for arithmetic, whose last digit is nobody's promise."""
    order = {"contract", "reassoc", "nsz"}
    made = njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, fastmath=order)(function)
    return cast(F, made)


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
