"""The reference every backend is held against: the formula, spelt out.

Nothing here is fast and nothing is shared with a backend.  Floating-point problems are
computed in ``numpy.longdouble`` (at least float64), integers in Python's own, which
cannot overflow.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from convcore.problem import POOL_OPS, Problem

Array = np.ndarray[Any, Any]


def reference(
    problem: Problem,
    first: Array,
    second: Array | None = None,
    bias: Array | None = None,
    precision: type[np.floating[Any]] = np.longdouble,
) -> Array:
    """Compute a problem by the formula in the docstring of ``Problem``, in the widest arithmetic there is.

    Parameters
    ----------
    problem : Problem
        Operation and geometry; its dtypes are not looked at.
    first, second : ndarray
        The operands of ``problem.op``, of the problem's shapes and layout; no ``second`` where it has one only.
    bias : ndarray, optional
        Shape (result channels,).
    precision : dtype
        Another one for floating-point problems: float64 is fast, and wide enough beside float32.

    Returns
    -------
    ndarray
        Of the problem's result shape and layout; longdouble, clongdouble, or object (Python integers).
    """
    first = widen(first, precision)
    second, bias = (None if array is None else widen(array, precision) for array in (second, bias))
    with np.errstate(all="ignore"):
        if problem.op == "grad_weight":
            assert second is not None
            return _grad_weight(problem, _images(first, problem), _images(second, problem))
        if problem.op == "grad_bias":
            return _grad_bias(_images(first, problem))
        if problem.op in POOL_OPS:
            result = _max_pool(problem, _images(first, problem), None if second is None else _images(second, problem))
            return result if problem.layout == "NCHW" else result.transpose(0, 2, 3, 1)
        assert second is not None
        compute = _forward if problem.op == "forward" else _grad_input
        result = compute(problem, _images(first, problem), second)
        if bias is not None:
            result = result + bias[:, np.newaxis, np.newaxis]
    return result if problem.layout == "NCHW" else result.transpose(0, 2, 3, 1)


def widen(array: Array, precision: type[np.floating[Any]] = np.longdouble) -> Array:
    """Convert to what the reference computes in: ``precision``, complex numbers of it, or object for integers."""
    wide: dict[str, Any] = {"f": precision, "c": np.result_type(precision, np.complex64)}
    return array.astype(wide.get(array.dtype.kind, object))


def source_pixel(position: int, size: int, boundary: str) -> int | None:
    """Say which pixel of an axis of ``size`` pixels stands at ``position``, which may lie outside.

    Returns
    -------
    int or None
        None where boundary "constant" puts the fill value.
    """
    if boundary == "constant":
        return position if 0 <= position < size else None
    if boundary == "edge":
        return min(max(position, 0), size - 1)
    if boundary == "wrap":
        return position % size
    if boundary == "symmetric":
        mirrored = position % (2 * size)
        return min(mirrored, 2 * size - 1 - mirrored)
    period = max(2 * (size - 1), 1)
    mirrored = position % period
    return min(mirrored, period - mirrored) if size > 1 else 0


def _axes(problem: Problem) -> tuple[list[Array], list[Array]]:
    """Return, for each tap of both axes, the pixels its positions meet: -1 for the fill value."""
    taps = []
    for axis in (0, 1):
        size, before = problem.input_shape[2 + axis], problem.padding[axis][0]
        positions = np.arange(problem.output_shape[2 + axis]) * problem.stride[axis] - before
        starts = (tap * problem.dilation[axis] for tap in range(problem.weight_shape[2 + axis]))
        taps.append([_sources(positions + start, size, problem.boundary) for start in starts])
    return taps[0], taps[1]


def _sources(positions: Array, size: int, boundary: str) -> Array:
    pixels = (source_pixel(int(position), size, boundary) for position in positions)
    return np.array([-1 if pixel is None else pixel for pixel in pixels], np.intp)


def _taps(problem: Problem) -> Iterator[tuple[int, int, Array, Array]]:
    """Yield (r, s) and the rows and columns of the input that this tap meets, one for each row and column of y."""
    rows, columns = _axes(problem)
    for r, s in itertools.product(range(len(rows)), range(len(columns))):
        yield r, s, rows[r], columns[s]


def _groups(problem: Problem) -> Iterator[tuple[slice, slice]]:
    """Yield the input channels and the output channels of each group."""
    c_group, k_group = problem.weight_shape[1], problem.weight_shape[0] // problem.groups
    for g in range(problem.groups):
        yield slice(g * c_group, (g + 1) * c_group), slice(g * k_group, (g + 1) * k_group)


def _forward(problem: Problem, x: Array, weight: Array) -> Array:
    y = _zeros(problem.output_shape, x, weight)
    for r, s, rows, columns in _taps(problem):
        met = _met(problem, x, rows, columns)
        for c, k in _groups(problem):
            y[:, k] += _times(weight[k, :, r, s], met[:, c])
    return y


def _grad_input(problem: Problem, grad_out: Array, weight: Array) -> Array:
    grad = _zeros(problem.input_shape, grad_out, weight)
    for r, s, rows, columns in _taps(problem):
        i, j = rows[rows >= 0, np.newaxis], columns[columns >= 0]
        met = grad_out[:, :, rows >= 0][:, :, :, columns >= 0]
        for c, k in _groups(problem):
            np.add.at(grad[:, c], (..., i, j), _times(weight[k, :, r, s].T, met[:, k]))  # type: ignore[arg-type]
    return grad


def _grad_weight(problem: Problem, x: Array, grad_out: Array) -> Array:
    grad = _zeros(problem.weight_shape, x, grad_out)
    for r, s, rows, columns in _taps(problem):
        met = _met(problem, x, rows, columns)
        for c, k in _groups(problem):
            grad[k, :, r, s] = np.tensordot(grad_out[:, k], met[:, c], ((0, 2, 3), (0, 2, 3)))
    return grad


def _grad_bias(grad_out: Array) -> Array:
    return np.asarray(grad_out.sum(axis=(0, 2, 3)))


def _max_pool(problem: Problem, x: Array, grad_out: Array | None) -> Array:
    """Return the largest pixel of each window, or with ``grad_out`` the sums of it over the windows a pixel wins."""
    best, winner = _zeros(problem.output_shape, x), np.full(problem.output_shape, -1)
    for _, _, rows, columns in _taps(problem):
        met = _met(problem, x, rows, columns)
        present = (rows >= 0)[:, np.newaxis] & (columns >= 0)
        better = present & ((winner < 0) | (met > best) | (np.isnan(met) & ~np.isnan(best)))
        best = np.where(better, met, best)
        winner = np.where(better, rows[:, np.newaxis] * x.shape[3] + columns, winner)
    if grad_out is None:
        return best
    grad = _zeros(problem.input_shape, x)
    images, channels, height, width = x.shape
    n, c, _, _ = np.ogrid[:images, :channels, :1, :1]
    np.add.at(grad.reshape(images, channels, height * width), (n, c, winner), grad_out)
    return grad


def _images(array: Array, problem: Problem) -> Array:
    return array if problem.layout == "NCHW" else array.transpose(0, 3, 1, 2)


def _zeros(shape: tuple[int, ...], *operands: Array) -> Array:
    return np.zeros(shape, np.result_type(*operands))


def _met(problem: Problem, x: Array, rows: Array, columns: Array) -> Array:
    """Return the pixels of these rows and columns, (N, C, P, Q), with the fill value where they are -1."""
    met = x[:, :, rows][:, :, :, columns]
    fill = int(problem.fill_value.real) if x.dtype == object else problem.fill_value
    met[:, :, rows < 0] = fill
    met[:, :, :, columns < 0] = fill
    return met


def _times(matrix: Array, images: Array) -> Array:
    """Multiply the channels of (N, C, P, Q) by a matrix (K, C): (N, K, P, Q)."""
    return np.moveaxis(np.tensordot(matrix, images, (1, 1)), 0, 1)
