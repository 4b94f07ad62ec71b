"""How far from the reference a result may be.

An element may be wrong by ``c * eps * sqrt(length) * scale``, where eps is that of the dtype
sums are kept in, length the number of products summed, and scale the same correlation of the
operands' magnitudes.  Rounding errors that walk at random stay within it; a wrong product
does not (Higham and Mary, "A new approach to probabilistic rounding error analysis", section 3).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from convcore.problem import POOL_OPS, Problem
from convcore.testing.oracle import Array, reference

#: c, by algorithm.  One that sums the products of the formula, in whatever order, is held to that of
#: "direct", three times the worst measured; an algorithm that transforms its operands has a row of its own, and one
#: that rounds them to 11 bits, which only accuracy "fast" allows: 2**-11 of each factor, in units of float32's 2**-23.
ERROR_CONSTANTS = {
    "direct": 2.0,
    "winograd": 5.0,
    "winograd2": 1.0,
    "winograd2_fused": 1.0,
    "winograd4": 5.0,
    "tensor_tile_tf32": 8194.0,
}
#: Pixels a Winograd tile has along an axis of several taps, whatever kernel it is of.  A transform mixes the pixels of
#: a tile, so an element errs by the largest of them: magnitudes are those of the tile, Barabasz et al., "Error Analysis
#: and Improving the Accuracy of Winograd Convolution for Deep Neural Networks", section 4.
TILES = {"winograd": 6, "winograd2": 4, "winograd2_fused": 4, "winograd4": 6}

#: Transforms in float64 mix all pixels of a tile: besides what is allowed to "direct", an element errs by so much of
#: the largest pixel times the weight's sum of magnitudes.
FFT_ERROR = 2.0**-48


def accumulation_dtype(problem: Problem) -> np.dtype[Any]:
    """Return the dtype sums are kept in: the result's, but at least float32."""
    return np.promote_types(problem.result_dtype, np.float32)


def allowed_error(
    problem: Problem, first: Array, second: Array | None = None, bias: Array | None = None, algorithm: str = "direct"
) -> Array:
    """Return the error allowed to each element of a floating or complex result, of the result's shape.

    Parameters
    ----------
    problem, first, second, bias
        As for :func:`convcore.testing.oracle.reference`.
    algorithm : str
        The name of the plan's algorithm, for its constant c.

    Notes
    -----
    Two additions to the rule: the smallest normal number, because a device may flush smaller
    ones to zero, and where the result is stored in half precision, one unit in the last place.
    """
    return _bound(problem, _scale(problem, first, second, bias, algorithm), algorithm)


def _scale(
    problem: Problem,
    first: Array,
    second: Array | None,
    bias: Array | None,
    algorithm: str,
    precision: type[np.floating[Any]] = np.longdouble,
) -> Array:
    """Return the same correlation of the operands' magnitudes."""
    if problem.op in POOL_OPS:  # the maximum is exact, its gradient a sum
        return np.zeros(problem.result_shape) if second is None else reference(problem, first, np.abs(second))
    magnitudes = dataclasses.replace(problem, fill_value=abs(problem.fill_value)), np.abs(first), _abs(second)
    if algorithm in TILES:
        magnitudes = _of_tiles(*magnitudes, TILES[algorithm])
    scale = reference(*magnitudes, bias=_abs(bias), precision=precision)
    if algorithm == "fft":
        assert second is not None
        largest = np.abs(first).max(initial=abs(problem.fill_value)) * np.abs(second).sum()
        scale = scale + largest * (FFT_ERROR / _rounding(problem, algorithm))
    return scale


def _rounding(problem: Problem, algorithm: str) -> float:
    """Return the error allowed to a sum whose magnitudes are 1."""
    constant = ERROR_CONSTANTS.get(algorithm, ERROR_CONSTANTS["direct"])
    length = problem.reduction_length + problem.bias
    return constant * float(np.finfo(accumulation_dtype(problem)).eps) * math.sqrt(length)


def _bound(problem: Problem, scale: Array, algorithm: str) -> Array:
    allowed = _rounding(problem, algorithm) * scale + np.finfo(accumulation_dtype(problem)).smallest_normal
    if problem.result_dtype == np.float16:
        allowed += np.spacing(scale.astype(np.float16))
    return np.asarray(allowed)


class Errors(NamedTuple):
    """The worst error of a result: in units of the bound, and in units in the last place of what is right.

    The latter is of elements that are at least an eighth of the sum of their products' magnitudes; where products
    cancel, the last place is anywhere.
    """

    bound: float = 0.0
    ulp: float = 0.0

    def or_worse(self, other: Errors) -> Errors:
        """Return the larger of each."""
        return Errors(max(self.bound, other.bound), max(self.ulp, other.ulp))


class Expectation:
    """What a problem with these operands must give; several results may be checked against it.

    Parameters
    ----------
    problem, first, second, bias, precision
        As for :func:`convcore.testing.oracle.reference`.
    """

    def __init__(
        self,
        problem: Problem,
        first: Array,
        second: Array | None = None,
        bias: Array | None = None,
        precision: type[np.floating[Any]] = np.longdouble,
    ) -> None:
        self.problem, self.operands, self.precision = problem, (first, second, bias), precision
        self.value = reference(problem, *self.operands, precision=precision)
        self._scales: dict[str, Array] = {}

    def allowed(self, algorithm: str = "direct") -> Array:
        """Return :func:`allowed_error` of an algorithm."""
        with np.errstate(all="ignore"):
            return _bound(self.problem, self._scale(algorithm), algorithm)

    def _scale(self, algorithm: str) -> Array:
        key = algorithm if algorithm in TILES or algorithm == "fft" else "direct"
        if key not in self._scales:
            self._scales[key] = _scale(self.problem, *self.operands, key, self.precision)
        return self._scales[key]

    def check(self, result: Array, algorithm: str = "direct") -> Errors:
        """Compare a result; see :func:`assert_within`."""
        problem, expected = self.problem, self.value
        assert result.shape == problem.result_shape, (
            f"shape is {result.shape}, must be {problem.result_shape}: {problem}"
        )
        assert result.dtype == problem.result_dtype, (
            f"dtype is {result.dtype}, must be {problem.result_dtype}: {problem}"
        )
        if result.dtype.kind == "i":
            wide = result.astype(object)
            _report(wide != expected, np.abs(wide - expected), np.zeros(result.shape), result, expected, problem)
            return Errors()
        with np.errstate(all="ignore"):
            finite = np.isfinite(expected)
            same = np.isfinite(result) == finite
            if result.dtype.kind == "f":
                same &= finite | (result == expected) | (np.isnan(result) & np.isnan(expected))
            _report(~same, ~same, np.zeros(result.shape), result, expected, problem)
            error = np.where(finite, np.abs(result - expected), 0)
            allowed = np.where(finite, self.allowed(algorithm), 1)
            _report(error > allowed, error / allowed, allowed, result, expected, problem)
            return self._errors(error, allowed, np.where(finite, np.abs(expected), 0))

    def _errors(self, error: Array, allowed: Array, magnitude: Array) -> Errors:
        """Return the worst errors, both without what a device may flush to 0, that in ULP without what cancels out."""
        dtype = self.problem.result_dtype
        normal = allowed > 1000 * np.finfo(accumulation_dtype(self.problem)).smallest_normal
        kept = normal & (magnitude > 0) & (magnitude >= self._scale("direct") / 8)
        ulp = error[kept] / np.spacing(magnitude[kept].astype(dtype.type(0).real.dtype))
        return Errors(float((error / allowed)[normal].max(initial=0)), float(ulp.max(initial=0)))


def assert_within(
    result: Array,
    problem: Problem,
    first: Array,
    second: Array | None = None,
    bias: Array | None = None,
    algorithm: str = "direct",
) -> Errors:
    """Compare a result with the reference.

    Integers must be equal.  NaN and infinities must stand where the reference has them; of a
    complex element only whether it is finite is compared.

    Raises
    ------
    AssertionError
        Naming the worst element: its index, value, expected value, error and allowed error.
    """
    return Expectation(problem, first, second, bias).check(result, algorithm)


def _of_tiles(problem: Problem, first: Array, second: Array | None, pixels: int) -> tuple[Problem, Array, Array | None]:
    """Replace the magnitudes of images by the largest of any tile they may share, that in the padding too.

    A tile has so many pixels along an axis, a stride or a dilation apart; along an axis of one tap it is one pixel.
    """
    kernel, dilation = problem.weight_shape[2:], problem.dilation
    reach = [pixels - 1 if taps > 1 else 0 for taps in kernel]
    n, channels, *size = problem.input_shape
    if problem.op == "grad_input":
        # As many outputs more on each side as can be in a tile with one that a pixel has met.
        down, across = ((far + taps - 1) * step for far, taps, step in zip(reach, kernel, dilation, strict=True))
        (top, bottom), (left, right) = problem.padding
        padding = ((top + down, bottom + down), (left + across, right + across))
        k, p, q = problem.output_shape[1:]
        wider = dataclasses.replace(problem, padding=padding, output_shape=(n, k, p + 2 * down, q + 2 * across))
        around = ((down, down), (across, across))
        return wider, _largest(_padded(problem, first, around, 0), reach, dilation, problem.layout), second
    height, width = (extent + sum(pad) for extent, pad in zip(size, problem.padding, strict=True))
    whole = dataclasses.replace(problem, input_shape=(n, channels, height, width), padding=((0, 0), (0, 0)))
    image = _padded(problem, first, problem.padding, problem.fill_value)
    steps = [stride * step for stride, step in zip(problem.stride, dilation, strict=True)]
    first = _largest(image, reach, steps, problem.layout)
    if problem.op == "grad_weight":
        assert second is not None
        second = _largest(second, reach, dilation, problem.layout)
    return whole, first, second


def _padded(problem: Problem, image: Array, padding: Any, fill: Any) -> Array:
    widths = ((0, 0), (0, 0), *padding) if problem.layout == "NCHW" else ((0, 0), *padding, (0, 0))
    return np.pad(image, widths, constant_values=fill)


def _largest(image: Array, reach: Sequence[int], steps: Sequence[int], layout: str) -> Array:
    """Return, for every pixel, the largest finite number at most ``reach`` steps of lines and columns away."""
    image = np.where(np.isfinite(image), image, 0)
    for axis, far, step in zip((2, 3) if layout == "NCHW" else (1, 2), reach, steps, strict=True):
        widths = [(far * step,) * 2 if i == axis else (0, 0) for i in range(4)]
        windows = sliding_window_view(np.pad(image, widths), 2 * far * step + 1, axis)
        image = windows[..., ::step].max(axis=-1)
    return image


def _abs(operand: Array | None) -> Array | None:
    return None if operand is None else np.abs(operand)


def _report(wrong: Array, badness: Array, allowed: Array, result: Array, expected: Array, problem: Problem) -> None:
    """Raise if any element is wrong, naming the one where ``badness`` is greatest."""
    if not wrong.any():
        return
    index = np.unravel_index(np.argmax(np.where(wrong, badness, -1)), result.shape)
    got, want = result[index], expected[index]
    raise AssertionError(
        f"{wrong.sum()} of {wrong.size} elements are wrong; the worst, at {tuple(map(int, index))}, is {got}, "
        f"must be {want}: error {abs(got - want)}, allowed {allowed[index]}: {problem}"
    )
