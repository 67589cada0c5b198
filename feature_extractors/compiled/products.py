"""Products of matrices in compiled code: four rows by a strip of columns at a time, kept in the processor's registers.

A row of a product is summed term by term in order, fused where the processor can, so that it does not depend on which
rows lie beside it, nor on how many.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from feature_extractors.compiled.jit import borrowed, helper

LANES: Final = 8  # columns of a matrix are padded to a multiple of it
_ROWS: Final = 4  # rows of one strip


def _strip_of(lanes: int) -> Any:
    """An intrinsic that multiplies four rows of `x` with `lanes` columns of `w`, adds `bias`, and puts them in `out`.

    `x` [n, K], `w` [K, M], `bias` [M] and `out` [o, M] are C-contiguous and of one floating-point type. `r0` to `r3`
    are rows of `x`, `o0` to `o3` of `out`, `column` the first column.
    """

    @intrinsic
    def strip(_context: Any, x: Any, r0: Any, r1: Any, r2: Any, r3: Any, w: Any, column: Any, bias: Any, out: Any,
              o0: Any, o1: Any, o2: Any, o3: Any) -> Any:  # fmt: skip
        index = types.intp

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = context.get_data_type(x.dtype)
            wide = ir.VectorType(kind, lanes)
            size = context.get_abi_sizeof(kind)
            a, b, c, d = (
                make_array(t)(context, builder, v)
                for t, v in ((x, args[0]), (w, args[5]), (bias, args[7]), (out, args[8]))
            )
            inner = cgutils.unpack_tuple(builder, b.shape)[0]
            columns = cgutils.unpack_tuple(builder, b.shape)[1]
            terms = cgutils.unpack_tuple(builder, a.shape)[1]
            out_columns = cgutils.unpack_tuple(builder, d.shape)[1]
            rows = [builder.gep(a.data, [builder.mul(args[1 + i], terms)]) for i in range(_ROWS)]
            start = builder.bitcast(builder.gep(c.data, [args[6]]), wide.as_pointer())
            first = builder.load(start, align=size)
            sums = []
            for _ in range(_ROWS):
                slot = cgutils.alloca_once(builder, wide)
                builder.store(first, slot)
                sums.append(slot)
            fused = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(wide, [wide] * 3), f"llvm.fmuladd.v{lanes}f{8 * size}"
            )
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
            none = ir.Constant(wide, ir.Undefined)
            with cgutils.for_range(builder, inner, intp=context.get_value_type(index)) as loop:
                at = builder.add(builder.mul(loop.index, columns), args[6])
                weights = builder.load(
                    builder.bitcast(builder.gep(b.data, [at]), wide.as_pointer()), align=size
                )
                for slot, row in zip(sums, rows, strict=True):
                    value = builder.load(builder.gep(row, [loop.index]))
                    spread = builder.shuffle_vector(
                        builder.insert_element(none, value, ir.Constant(ir.IntType(32), 0)), none, zeros
                    )
                    builder.store(builder.call(fused, [spread, weights, builder.load(slot)]), slot)
            for slot, to in zip(sums, args[9:13], strict=True):
                place = builder.gep(d.data, [builder.add(builder.mul(to, out_columns), args[6])])
                builder.store(builder.load(slot), builder.bitcast(place, wide.as_pointer()), align=size)
            return context.get_dummy_value()

        return types.none(
            x, index, index, index, index, w, index, bias, out, index, index, index, index
        ), code

    return strip


def _strip_in_python(lanes: int) -> Callable[..., None]:
    def strip(x, r0, r1, r2, r3, w, column, bias, out, o0, o1, o2, o3):  # type: ignore[no-untyped-def]
        for r, o in ((r0, o0), (r1, o1), (r2, o2), (r3, o3)):
            end = column + lanes
            out[o, column:end] = x[r] @ w[:, column:end] + bias[column:end]

    return strip


_made: Final = cast("Callable[[int], Any]", _strip_in_python if config.DISABLE_JIT else _strip_of)
_wide_strip: Final = _made(2 * LANES)
strip: Final = _made(LANES)
wide_strip: Final = _wide_strip


@helper
def product(x: Any, n: int, w: Any, bias: Any, out: Any) -> None:
    """Puts `x[:n] @ w + bias` in `out[:n]`: `x` [_, K], `w` [K, M], `bias` [M], M a multiple of `LANES`."""
    x, w, bias, out = borrowed(x), borrowed(w), borrowed(bias), borrowed(out)
    width = w.shape[1]
    column = 0
    while column < width:
        wide = column + 16 <= width
        for i in range(0, n, 4):
            # What is left over at the end is done twice, and comes to the same.
            b, c, d = min(i + 1, n - 1), min(i + 2, n - 1), min(i + 3, n - 1)
            if wide:
                wide_strip(x, i, b, c, d, w, column, bias, out, i, b, c, d)
            else:
                strip(x, i, b, c, d, w, column, bias, out, i, b, c, d)
        column += 16 if wide else 8


def padded(w: Any, columns: int | None = None, filling: float = 0.0) -> Any:
    """The matrix, or the vector, with columns of `filling` up to a multiple of `LANES` (or `columns` of them)."""
    wanted = columns or -(-w.shape[-1] // LANES) * LANES
    width = [(0, 0)] * (w.ndim - 1) + [(0, wanted - w.shape[-1])]
    return np.ascontiguousarray(np.pad(w, width, constant_values=filling))
