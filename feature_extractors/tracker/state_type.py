"""Tells numba what a `State` is: one pointer to the addresses of its arrays.

A tuple of 27 arrays would be copied, and each array's reference count changed, at every call of every helper; that
costs more than the work done there. The arrays made here own nothing: whoever calls the loop holds the `State`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import from_dtype, types
from numba.core import cgutils
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    NativeValue,
    infer_getattr,
    lower_getattr_generic,
    models,
    register_model,
    typeof_impl,
    unbox,
)
from numba.np.arrayobj import make_array, populate_array

from feature_extractors.tracker.state import ARRAYS, State

_INDEX = {name: i for i, name in enumerate(ARRAYS)}


class StateType(types.Type):  # type: ignore[misc]
    """The numba type of `State`."""

    python_class = State

    def __init__(self) -> None:
        super().__init__(name="TrackerState")


_STATE = StateType()
_ARRAY_TYPES = {
    name: types.Array(from_dtype(np.dtype(dtype)), 1, "C", readonly=name.endswith("_readonly"))
    for name, dtype in ARRAYS.items()
}


@typeof_impl.register(State)  # type: ignore[untyped-decorator]
def _typeof(_value: State, _context: Any) -> StateType:
    return _STATE


@register_model(StateType)
class _Model(models.OpaqueModel):  # type: ignore[misc]
    """A pointer."""


@unbox(StateType)  # type: ignore[untyped-decorator]
def _unbox(_type: StateType, value: Any, c: Any) -> NativeValue:
    number = c.pyapi.object_getattr_string(value, "pointer")
    address = c.pyapi.long_as_ulonglong(number)
    c.pyapi.decref(number)
    return NativeValue(c.builder.inttoptr(address, cgutils.voidptr_t))


@infer_getattr
class _Attributes(AttributeTemplate):  # type: ignore[misc]
    key = StateType

    def generic_resolve(self, _type: StateType, name: str) -> types.Array | None:
        return _ARRAY_TYPES.get(name)


@lower_getattr_generic(StateType)  # type: ignore[untyped-decorator]
def _getattr(context: Any, builder: Any, _type: StateType, value: Any, name: str) -> Any:
    """The array of that name, made of its address and length; both are constant during a call."""
    array_type = _ARRAY_TYPES[name]
    word = context.get_value_type(types.intp)
    table = builder.bitcast(value, ir.PointerType(word))
    invariant = builder.module.add_metadata([])
    parts = []
    for k in (2 * _INDEX[name], 2 * _INDEX[name] + 1):
        part = builder.load(builder.gep(table, [ir.Constant(word, k)]))
        part.set_metadata("invariant.load", invariant)
        parts.append(part)
    size = context.get_constant(types.intp, ARRAYS[name].itemsize)
    array = make_array(array_type)(context, builder)
    populate_array(
        array,
        data=builder.inttoptr(parts[0], array.data.type),
        shape=cgutils.pack_array(builder, [parts[1]]),
        strides=cgutils.pack_array(builder, [size]),
        itemsize=size,
        meminfo=None,
    )
    return array._getvalue()
