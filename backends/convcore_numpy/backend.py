"""Every primitive as a loop over the taps of the kernel.

The pixels that one tap (r, s) meets are a strided view, the *window*, of the padded input,
as large as the output.  What the tap adds is then a matrix product over channels, one per
image and group, and nothing larger than the operands is ever built::

    forward       y         += weight[r, s]   @ window
    grad_input    window    += weight[r, s].T @ grad_out
    grad_weight   dw[r, s]   = grad_out @ window.T

In these products weight[r, s] has the shape (G, K/G, C/G), a window (N, G, C/G, P*Q), and
grad_out (N, G, K/G, P*Q).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from convcore.spi import POOL_OPS, Backend, Plan, Problem

Array = np.ndarray[Any, Any]
Window = tuple[Any, ...]


class NumPyBackend(Backend):
    """Runs on the host, through whatever BLAS NumPy was built with."""

    def supports(self, problem: Problem) -> bool | str:
        """Refuse only named algorithms other than "direct" and workspaces that are too small."""
        if problem.algorithm not in (None, "direct"):
            return f"the only algorithm is 'direct', got algorithm={problem.algorithm!r}"
        if problem.op in POOL_OPS and problem.result_dtype.kind != "f":
            return f"it pools real floating dtypes only, got {problem.result_dtype}"
        needed = _PLANS[problem.op](problem).workspace_bytes
        if problem.workspace_limit is not None and needed > problem.workspace_limit:
            return f"needs {needed} bytes of workspace, got workspace_limit={problem.workspace_limit}"
        return True

    def plan(self, problem: Problem) -> Plan:
        """Choose the plan of the operation; there is one each."""
        return _PLANS[problem.op](problem)


class _TapPlan(Plan):
    """What the three operations with a weight share."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        n, c, h, w = problem.input_shape
        k, c_group, r, s = problem.weight_shape
        groups, (top, bottom), (left, right) = problem.groups, *problem.padding
        self.accumulator = _accumulator(problem)
        self.padded_shape = n, c, h + top + bottom, w + left + right
        self.taps_shape = r, s, groups, k // groups, c_group
        pixels = math.prod(problem.output_shape[2:])
        elements = math.prod(self.padded_shape) + n * (c + 2 * k) * pixels + math.prod(self.taps_shape)
        self.workspace_bytes = elements * self.accumulator.itemsize

    def windows(self) -> Iterator[tuple[int, int, Window]]:
        """Yield r, s and the index of the window that this tap sees in the padded input."""
        (sh, sw), (dh, dw) = self.problem.stride, self.problem.dilation
        _, _, p, q = self.problem.output_shape
        for r, s in np.ndindex(self.taps_shape[:2]):
            rows = slice(r * dh, r * dh + (p - 1) * sh + 1, sh)
            columns = slice(s * dw, s * dw + (q - 1) * sw + 1, sw)
            yield r, s, (..., rows, columns)

    def taps(self, weight: Array) -> Array:
        """Turn a weight (K, C/G, R, S) into contiguous (R, S, G, K/G, C/G), which BLAS can take as it is."""
        r, s, groups, k_group, c_group = self.taps_shape
        taps = weight.reshape(groups, k_group, c_group, r, s).transpose(3, 4, 0, 1, 2)
        return taps.astype(self.accumulator, order="C")

    def grouped(self, pixels: Array) -> Array:
        """Turn (N, C, P, Q) into (N, G, C/G, P*Q)."""
        n, c, p, q = pixels.shape
        groups = self.problem.groups
        return pixels.reshape(n, groups, c // groups, p * q)

    def images(self, array: Array) -> Array:
        """View or copy images of either layout as (N, C, H, W) in the accumulator's dtype."""
        return _channels_first(array, self.problem).astype(self.accumulator, copy=False)

    def pad(self, x: Array) -> Array:
        """Give the input its boundary."""
        images, padding = self.images(x), self.problem.padding
        if self.problem.boundary == "constant":
            return np.pad(images, ((0, 0), (0, 0), *padding), constant_values=self.problem.fill_value)
        rows, columns = (
            _sources(size, pad, self.problem.boundary) for size, pad in zip(images.shape[2:], padding, strict=True)
        )
        return images[:, :, rows[:, np.newaxis], columns]

    def fold(self, padded: Array) -> Array:
        """Add what stands in the boundary to the pixels it was copied from: the adjoint of :meth:`pad`."""
        _, _, h, w = self.problem.input_shape
        (top, bottom), (left, right) = self.problem.padding
        if self.problem.boundary == "constant":
            return padded[:, :, top : top + h, left : left + w]
        for axis, size, pad in ((2, h, (top, bottom)), (3, w, (left, right))):
            lines = np.moveaxis(padded, axis, 0)
            folded = np.zeros((size, *lines.shape[1:]), lines.dtype)
            np.add.at(folded, _sources(size, pad, self.problem.boundary), lines)
            padded = np.moveaxis(folded, 0, axis)
        return padded


class _Forward(_TapPlan):
    def run(self, first: Array, second: Array, bias: Array | None, out: Array) -> None:
        with np.errstate(all="ignore"):
            padded, taps = self.pad(first), self.taps(second)
            n, k, p, q = self.problem.output_shape
            total = np.zeros((n, *self.taps_shape[2:4], p * q), self.accumulator)
            for r, s, window in self.windows():
                total += taps[r, s] @ self.grouped(padded[window])
            _store(total.reshape(n, k, p, q), bias, out, self.problem)


class _GradInput(_TapPlan):
    def run(self, first: Array, second: Array, bias: Array | None, out: Array) -> None:
        with np.errstate(all="ignore"):
            grad_out, taps = self.grouped(self.images(first)), self.taps(second)
            (n, c), (p, q) = self.problem.input_shape[:2], self.problem.output_shape[2:]
            padded = np.zeros(self.padded_shape, self.accumulator)
            for r, s, window in self.windows():
                padded[window] += (taps[r, s].swapaxes(1, 2) @ grad_out).reshape(n, c, p, q)
            _store(self.fold(padded), bias, out, self.problem)


class _GradWeight(_TapPlan):
    def run(self, first: Array, second: Array, bias: None, out: Array) -> None:
        with np.errstate(all="ignore"):
            padded, grad_out = self.pad(first), self.grouped(self.images(second))
            total = np.empty(self.taps_shape, self.accumulator)
            for r, s, window in self.windows():
                total[r, s] = (grad_out @ self.grouped(padded[window]).swapaxes(2, 3)).sum(axis=0)
            out[...] = total.transpose(2, 3, 4, 0, 1).reshape(self.problem.weight_shape)


class _GradBias(Plan):
    def run(self, first: Array, second: None, bias: None, out: Array) -> None:
        with np.errstate(all="ignore"):
            out[...] = _channels_first(first, self.problem).sum(axis=(0, 2, 3), dtype=_accumulator(self.problem))


class _MaxPool(Plan):
    """The maximum tap by tap, each tap where its window holds pixels."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        n, c, p, q = problem.output_shape
        # A comparison, and for the gradient the best so far and the tap it came from.
        windows = n * c * p * q * (problem.result_dtype.itemsize + 2)
        self.workspace_bytes = windows * (2 if problem.op == "max_pool_grad" else 1)

    def taps(self) -> Iterator[tuple[tuple[int, int], Window, Window]]:
        """Yield for each tap (r, s), row by row, the windows that have a pixel there, and those pixels."""
        (top, _), (left, _) = self.problem.padding
        (_, _, h, w), (_, _, p, q) = self.problem.input_shape, self.problem.output_shape
        (_, _, height, width), (sh, sw) = self.problem.weight_shape, self.problem.stride
        for r, s in np.ndindex(height, width):
            rows, lines = _inside(r - top, sh, h, p)
            columns, pixels = _inside(s - left, sw, w, q)
            yield (r, s), (..., rows, columns), (..., lines, pixels)

    def run(self, first: Array, second: None, bias: None, out: Array) -> None:
        with np.errstate(all="ignore"):
            x, y = _channels_first(first, self.problem), _channels_first(out, self.problem)
            y[...] = -np.inf
            for _, windows, pixels in self.taps():
                np.maximum(y[windows], x[pixels], out=y[windows])


class _MaxPoolGrad(_MaxPool):
    """Finds for each window the first tap with its largest pixel, and adds the gradient there."""

    def run(self, first: Array, second: Array, bias: None, out: Array) -> None:
        with np.errstate(all="ignore"):
            x, grad_out = (_channels_first(array, self.problem) for array in (first, second))
            grad = _channels_first(out, self.problem)
            best, chosen = np.full(self.problem.output_shape, -np.inf, x.dtype), np.full(self.problem.output_shape, -1)
            for tap, (_, windows, pixels) in enumerate(self.taps()):
                candidate = x[pixels]
                better = (chosen[windows] < 0) | (candidate > best[windows])
                better |= np.isnan(candidate) & ~np.isnan(best[windows])
                best[windows] = np.where(better, candidate, best[windows])
                chosen[windows] = np.where(better, tap, chosen[windows])
            total = np.zeros(self.problem.input_shape, _accumulator(self.problem))
            for tap, (_, windows, pixels) in enumerate(self.taps()):
                total[pixels] += np.where(chosen[windows] == tap, grad_out[windows], 0)
            grad[...] = total


_PLANS: dict[str, type[Plan]] = {
    "forward": _Forward,
    "grad_input": _GradInput,
    "grad_weight": _GradWeight,
    "grad_bias": _GradBias,
    "max_pool": _MaxPool,
    "max_pool_grad": _MaxPoolGrad,
}


def _accumulator(problem: Problem) -> np.dtype[Any]:
    """Choose the dtype sums are kept in: the result's own, but single for half."""
    return np.dtype("f4") if problem.result_dtype == np.dtype("f2") else problem.result_dtype


def _sources(size: int, padding: tuple[int, int], boundary: str) -> Array:
    """Say for each position of a padded axis which pixel it copies; not by np.pad, which before NumPy 2 errs here."""
    position = np.arange(-padding[0], size + padding[1])
    if boundary == "edge":
        return position.clip(0, size - 1)
    if boundary == "wrap":
        return position % size
    repeated = boundary == "symmetric"
    period = 2 * size if repeated else max(2 * size - 2, 1)
    return np.minimum(position % period, (-position - repeated) % period)


def _inside(start: int, stride: int, size: int, count: int) -> tuple[slice, slice]:
    """Return which of ``count`` positions start + i*stride are among 0 .. size-1, and where those are."""
    first = max(-(start // stride), 0)
    inside = max(min((size - 1 - start) // stride, count - 1) - first + 1, 0)
    begin = start + first * stride
    return slice(first, first + inside), slice(begin, begin + inside * stride, stride)


def _channels_first(images: Array, problem: Problem) -> Array:
    return images if problem.layout == "NCHW" else images.transpose(0, 3, 1, 2)


def _store(images: Array, bias: Array | None, out: Array, problem: Problem) -> None:
    """Add the bias and write the result, whose layout is the problem's, in one go."""
    if bias is not None:
        images = images + bias[:, np.newaxis, np.newaxis]
    _channels_first(out, problem)[...] = images
