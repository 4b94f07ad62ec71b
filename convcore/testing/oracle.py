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

from convcore.problem import POOL_OPS, Pair, Problem

Array = np.ndarray[Any, Any]


def reference(problem: Problem, first: Array, second: Array | None = None, bias: Array | None = None) -> Array:
    """Compute a problem by the formula in the docstring of ``Problem``, in the widest arithmetic there is.

    Parameters
    ----------
    problem : Problem
        Operation and geometry; its dtypes are not looked at.
    first, second : ndarray
        The operands of ``problem.op``, of the problem's shapes and layout; no ``second`` where it has one only.
    bias : ndarray, optional
        Shape (result channels,).

    Returns
    -------
    ndarray
        Of the problem's result shape and layout; longdouble, clongdouble, or object (Python integers).
    """
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
        result = compute(problem, _images(first, problem), widen(second))
        if bias is not None:
            result = result + widen(bias)[:, np.newaxis, np.newaxis]
    return result if problem.layout == "NCHW" else result.transpose(0, 2, 3, 1)


def widen(array: Array) -> Array:
    """Convert to the dtype the reference computes in: longdouble, clongdouble, or object for integers."""
    return array.astype({"f": np.longdouble, "c": np.clongdouble}.get(array.dtype.kind, object))


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


def _terms(problem: Problem) -> Iterator[tuple[Pair, Pair, Pair | None]]:
    """Yield (p, q), (r, s) and the pixel (i, j) of the input they meet, None for the fill value."""
    _, _, height, width = problem.input_shape
    (top, _), (left, _) = problem.padding
    for p, q, r, s in itertools.product(*map(range, problem.output_shape[2:] + problem.weight_shape[2:])):
        i = source_pixel(p * problem.stride[0] + r * problem.dilation[0] - top, height, problem.boundary)
        j = source_pixel(q * problem.stride[1] + s * problem.dilation[1] - left, width, problem.boundary)
        yield (p, q), (r, s), None if i is None or j is None else (i, j)


def _groups(problem: Problem) -> Iterator[tuple[slice, slice]]:
    """Yield the input channels and the output channels of each group."""
    c_group, k_group = problem.weight_shape[1], problem.weight_shape[0] // problem.groups
    for g in range(problem.groups):
        yield slice(g * c_group, (g + 1) * c_group), slice(g * k_group, (g + 1) * k_group)


def _forward(problem: Problem, x: Array, weight: Array) -> Array:
    y = _zeros(problem.output_shape, x, weight)
    for (p, q), (r, s), pixel in _terms(problem):
        for c, k in _groups(problem):
            y[:, k, p, q] += _pixel(problem, x, c, pixel) @ weight[k, :, r, s].T
    return y


def _grad_input(problem: Problem, grad_out: Array, weight: Array) -> Array:
    grad = _zeros(problem.input_shape, grad_out, weight)
    for (p, q), (r, s), pixel in _terms(problem):
        if pixel is not None:
            for c, k in _groups(problem):
                grad[:, c, pixel[0], pixel[1]] += grad_out[:, k, p, q] @ weight[k, :, r, s]
    return grad


def _grad_weight(problem: Problem, x: Array, grad_out: Array) -> Array:
    grad = _zeros(problem.weight_shape, x, grad_out)
    for (p, q), (r, s), pixel in _terms(problem):
        for c, k in _groups(problem):
            grad[k, :, r, s] += grad_out[:, k, p, q].T @ _pixel(problem, x, c, pixel)
    return grad


def _grad_bias(grad_out: Array) -> Array:
    grad = _zeros(grad_out.shape[1:2], grad_out)
    for n, p, q in np.ndindex(grad_out.shape[0], *grad_out.shape[2:]):
        grad += grad_out[n, :, p, q]
    return grad


def _max_pool(problem: Problem, x: Array, grad_out: Array | None) -> Array:
    """Return the largest pixel of each window, or with ``grad_out`` the sums of it over the windows a pixel wins."""
    result = _zeros(problem.output_shape if grad_out is None else problem.input_shape, x)
    best: dict[tuple[int, ...], tuple[Any, Pair]] = {}
    for (p, q), _, pixel in _terms(problem):
        if pixel is None:
            continue
        for n, c in np.ndindex(problem.input_shape[:2]):
            value = x[(n, c, *pixel)]
            known = best.get((n, c, p, q))
            if known is None or value > known[0] or (np.isnan(value) and not np.isnan(known[0])):
                best[n, c, p, q] = value, pixel
    for (n, c, p, q), (value, pixel) in best.items():
        if grad_out is None:
            result[n, c, p, q] = value
        else:
            result[(n, c, *pixel)] += grad_out[n, c, p, q]
    return result


def _images(array: Array, problem: Problem) -> Array:
    return widen(array if problem.layout == "NCHW" else array.transpose(0, 3, 1, 2))


def _zeros(shape: tuple[int, ...], *operands: Array) -> Array:
    return np.zeros(shape, np.result_type(*operands))


def _pixel(problem: Problem, x: Array, channels: slice, pixel: Pair | None) -> Array:
    """One pixel of every image, shape (N, channels)."""
    if pixel is not None:
        return x[:, channels, pixel[0], pixel[1]]
    fill = int(problem.fill_value.real) if x.dtype == object else problem.fill_value
    return np.full((len(x), channels.stop - channels.start), fill, x.dtype)
