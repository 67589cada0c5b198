"""The strip of a product of matrices as an intrinsic of numba: `products` says what it is for."""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

_ROWS: Final = 4  # rows of one strip


def strip_of(lanes: int) -> Any:
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
