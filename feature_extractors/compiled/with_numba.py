"""numba's side of compiled functions: compiled code is cached as long as its sources are the same (`code_digest`)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache
from numba.extending import intrinsic
from numba.np import linalg
from numba.np.arrayobj import make_array, populate_array

from feature_extractors.compiled.source_digest import code_digest

__all__ = ["compiled_for", "entry", "helper", "made", "njit", "summing", "unowned"]

awake = False  # set by `jit.wake`
made: list[Any] = []  # all entries


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

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(OSError):
            super().save_overload(sig, data)


def entry(function: Callable[..., Any]) -> Any:
    """As `jit.entry`, now."""
    compiled = njit(nogil=True)(function)
    with suppress(RuntimeError):  # there is nowhere to keep it, or this process may write nothing any more
        compiled._cache = _Kept(function)
    made.append(compiled)
    return compiled


def compiled_for(signature: str) -> Callable[[Callable[..., Any]], Any]:
    """As `jit.compiled_for`, now; numba looks at the types of arguments."""

    def decorate(function: Callable[..., Any]) -> Any:
        compiled = entry(function)
        compiled.compile(signature)
        compiled.disable_compile()
        return compiled

    return decorate


def helper(function: Callable[..., Any]) -> Any:
    """As `jit.helper`, now."""
    return njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


def summing(function: Callable[..., Any]) -> Any:
    """As `jit.summing`, now."""
    order = {"contract", "reassoc", "nsz"}
    return njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, fastmath=order)(function)


@intrinsic  # type: ignore[untyped-decorator]
def unowned(_context: Any, array: Any) -> Any:
    """As `jit.borrowed`: the array without the object that owns its memory."""

    def code(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        old = make_array(array)(context, builder, args[0])
        new = make_array(array)(context, builder)
        populate_array(
            new, data=old.data, shape=old.shape, strides=old.strides, itemsize=old.itemsize, meminfo=None
        )
        return new._getvalue()

    return array(array), code
