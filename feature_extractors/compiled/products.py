"""Products of matrices in compiled code: four rows by a strip of columns at a time, kept in the processor's registers.

A row of a product is summed term by term in order, fused where the processor can, so that it does not depend on which
rows lie beside it, nor on how many.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np

from feature_extractors.compiled.jit import borrowed, helper, later

LANES: Final = 8  # columns of a matrix are padded to a multiple of it


def _strip_in_python(lanes: int) -> Callable[..., None]:
    def strip(x, r0, r1, r2, r3, w, column, bias, out, o0, o1, o2, o3):  # type: ignore[no-untyped-def]
        for r, o in ((r0, o0), (r1, o1), (r2, o2), (r3, o3)):
            end = column + lanes
            out[o, column:end] = x[r] @ w[:, column:end] + bias[column:end]

    return strip


def _strip(lanes: int) -> Any:
    def make() -> Any:
        from feature_extractors.compiled import strips

        return strips.strip_of(lanes)

    return later(make, cast("Any", _strip_in_python(lanes)))


strip: Final = _strip(LANES)
wide_strip: Final = _strip(2 * LANES)


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
