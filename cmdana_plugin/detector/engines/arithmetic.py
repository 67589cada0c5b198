"""The functions between a network's products, in single precision, on rows of arrays and in place."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from feature_extractors.compiled import summing

_F: Final = np.float32
_LOG2_E, _HALF, _ONE, _TWO, _ZERO = _F(1.4426950408889634), _F(0.5), _F(1.0), _F(2.0), _F(0.0)
_LN2_HIGH, _LN2_LOW = _F(0.693359375), _F(-2.12194440054690583e-4)
_LEAST, _MOST = _F(-87.3), _F(88.0)  # beyond them single precision does not hold the exponential
_BIAS: Final = np.int32(127)
_MANTISSA: Final = np.int32(23)
_E2, _E3, _E4, _E5, _E6, _E7 = (_F(1.0 / n) for n in (2, 6, 24, 120, 720, 5040))
_SQRT_HALF: Final = _F(0.7071067811865476)
# erf(x) / x as a quotient of polynomials in x squared, fitted for 0..3.95, beyond which erf is 1: at most 4e-7 off.
_ERF_END: Final = _F(3.95)
_P0, _P1, _P2, _P3, _P4, _P5 = (
    _F(c)
    for c in (
        1.1283791438052082, 0.1915464472627474, 0.05287494990698473, 0.003808002164342299, 0.0002846851773911874,
        2.0259493225722944e-06,
    )
)  # fmt: skip
_Q1, _Q2, _Q3, _Q4, _Q5 = (
    _F(c)
    for c in (
        0.5030862953144665, 0.11455804027111899, 0.015054766777132573, 0.00117068923481981, 3.783210042765528e-05,
    )
)  # fmt: skip
_SMALL, _LARGE = _F(1e-25), _F(1e30)  # between them a sum of exponentials is exact as it is
_EPSILON: Final = _F(1e-5)  # of layer norms, as torch has it


@summing
def exponential(x: Any) -> Any:
    """e to the power of a single, to some 1e-7 of it; powers beyond -87.3..88 count as these."""
    x = min(max(x, _LEAST), _MOST)
    n = np.int32(x * _LOG2_E + (_HALF if x >= _ZERO else -_HALF))
    whole = _F(n)
    r = x - whole * _LN2_HIGH - whole * _LN2_LOW
    tail = _E4 + r * (_E5 + r * (_E6 + r * _E7))
    value = _ONE + r + r * r * (_E2 + r * (_E3 + r * tail))
    return value * np.int32(np.int32(n + _BIAS) << _MANTISSA).view(np.float32)


@summing
def _gelu(x: Any) -> Any:
    e = min(max(x * _SQRT_HALF, -_ERF_END), _ERF_END)
    u = e * e
    above = _P0 + u * (_P1 + u * (_P2 + u * (_P3 + u * (_P4 + u * _P5))))
    below = _ONE + u * (_Q1 + u * (_Q2 + u * (_Q3 + u * (_Q4 + u * _Q5))))
    return _HALF * x * (_ONE + e * above / below)


@summing
def gelu(x: Any, n: int) -> None:
    """Gaussian error linear units of the first `n` rows."""
    flat = x.reshape(-1)
    for i in range(n * x.shape[1]):
        flat[i] = _gelu(flat[i])


@summing
def sigmoid(x: Any, n: int, out: Any) -> None:
    """The logistic function of the first `n` rows, in `out`."""
    for i in range(n):
        for j in range(x.shape[1]):
            out[i, j] = _ONE / (_ONE + exponential(-x[i, j]))


@summing
def tanh(x: Any, n: int, out: Any) -> None:
    """The hyperbolic tangent of the first `n` rows, in `out`."""
    for i in range(n):
        for j in range(x.shape[1]):
            out[i, j] = _ONE - _TWO / (exponential(_TWO * x[i, j]) + _ONE)


@summing
def standardise_rows(x: Any, n: int, out: Any) -> None:
    """Layer norm without its gain and shift: the first `n` rows of mean 0 and variance 1, in `out`."""
    width = x.shape[1]
    for i in range(n):
        total = _ZERO
        for j in range(width):
            total += x[i, j]
        mean = total / _F(width)
        total = _ZERO
        for j in range(width):
            total += (x[i, j] - mean) * (x[i, j] - mean)
        scale = _ONE / np.sqrt(total / _F(width) + _EPSILON)
        for j in range(width):
            out[i, j] = (x[i, j] - mean) * scale


@summing
def add_rows(x: Any, y: Any, n: int) -> None:
    """Adds `y` to the first `n` rows of `x`."""
    one, other = x.reshape(-1), y.reshape(-1)
    for i in range(n * x.shape[1]):
        one[i] += other[i]


@summing
def dot(x: Any, i: int, y: Any, j: int) -> Any:
    """The product of row `i` of `x` with row `j` of `y`."""
    total = _ZERO
    for k in range(x.shape[1]):
        total += x[i, k] * y[j, k]
    return total


@summing
def softmax_columns(scores: Any, begin: int, end: int, top: Any, total: Any, out: Any) -> None:
    """The softmax of each column over rows `begin` to `end`, in the rows of `out` [columns, end - begin]."""
    width = scores.shape[1]
    for q in range(width):
        top[q] = scores[begin, q]
        total[q] = _ZERO
    for t in range(begin + 1, end):
        for q in range(width):
            top[q] = max(top[q], scores[t, q])
    for t in range(begin, end):
        for q in range(width):
            scores[t, q] = exponential(scores[t, q] - top[q])
            total[q] += scores[t, q]
    for q in range(width):
        part = _ONE / total[q]
        for t in range(begin, end):
            out[q, t - begin] = scores[t, q] * part


@summing
def log_of_sum(x: Any, i: int, width: int) -> Any:
    """The logarithm of the sum of the exponentials of row `i`, of its first `width` columns."""
    total = _ZERO
    for k in range(width):
        total += exponential(x[i, k])
    if _SMALL < total < _LARGE:
        return np.log(total)
    top = x[i, 0]
    for k in range(1, width):
        top = max(top, x[i, k])
    total = _ZERO
    for k in range(width):
        total += exponential(x[i, k] - top)
    return np.log(total) + top
