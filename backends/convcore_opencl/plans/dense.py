"""Forward, and each phase of grad_input, as a dense correlation; what the families that compute those share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from convcore.spi import Pair, Problem
from convcore_opencl.plans.recipe import (
    INT_MAX,
    Launch,
    Traits,
    axis_options,
    fill_of,
    type_options,
    vector_options,
)


@dataclass(frozen=True)
class Axis:
    """One axis of a dense correlation that writes every ``step``-th position of its result.

    Position i of the grid reads input positions ``i * stride + t * dilation - before`` with taps t,
    which are taps ``first_tap + t * tap_step`` of the weight.
    """

    taps: int
    stride: int
    dilation: int
    before: int
    grid: int
    first: int = 0
    step: int = 1
    first_tap: int = 0
    tap_step: int = 1


def phases(size: int, taps: int, stride: int, dilation: int, before: int) -> Iterator[Axis]:
    """Split one axis of grad_input into dense correlations, one for each phase of the stride.

    Tap r carries output position p to input position h = p * stride + r * dilation - before, so the
    positions h of one phase, h + before = phase (mod stride), have the same taps: every
    (stride / gcd)-th.  A phase that no tap reaches has ``taps=0``.
    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", section 4.

    Parameters
    ----------
    size : int
        Of the input, in pixels.
    taps, stride, dilation, before : int
        Of the forward correlation; ``before`` is the padding at the start.
    """
    common = math.gcd(stride, dilation)
    tap_step, dense = stride // common, dilation // common
    for first in range(min(stride, size)):
        grid = -(-(size - first) // stride)
        reaching = [r for r in range(taps) if (first + before - r * dilation) % stride == 0]
        if not reaching:
            yield Axis(0, 1, 1, 0, grid, first, stride)
            continue
        # The gather runs from the last tap to the first: larger taps come from smaller positions.
        position = (first + before - reaching[-1] * dilation) // stride
        yield Axis(len(reaching), 1, dense, -position, grid, first, stride, reaching[-1], -tap_step)


@dataclass(frozen=True)
class Dense:
    """A dense correlation: of an image of ``channels``, to the grid of ``rows`` and ``columns`` of the result.

    ``depth`` is the number of channels added up, 0 where no tap reaches; ``blocks`` counts blocks of
    output channels in a group.
    """

    rows: Axis
    columns: Axis
    channels: int
    image: Pair
    out_channels: int
    result: Pair
    depth: int
    blocks: int


def dense_axes(problem: Problem) -> Iterator[tuple[Axis, Axis]]:
    """Yield the axes of forward, or those of each phase of grad_input."""
    before = (padding[0] for padding in problem.padding)
    geometry = zip(problem.weight_shape[2:], problem.stride, problem.dilation, before, strict=True)
    if problem.op == "grad_input":
        rows, columns = (phases(size, *axis) for size, axis in zip(problem.input_shape[2:], geometry, strict=True))
        yield from itertools.product(rows, columns)
    else:
        rows, columns = (Axis(*axis, grid) for axis, grid in zip(geometry, problem.output_shape[2:], strict=True))
        yield rows, columns


def dense_of(problem: Problem, rows: Axis, columns: Axis, block: int) -> Dense:
    """Return the dense correlation along two axes, its output channels in blocks of ``block``."""
    shapes = problem.input_shape, problem.output_shape
    source, target = shapes if problem.op == "forward" else shapes[::-1]
    image, result = source[2:], target[2:]
    depth = source[1] // problem.groups if rows.taps and columns.taps else 0
    blocks = -(-(target[1] // problem.groups) // block)
    rows, columns = (replace(axis, taps=max(axis.taps, 1)) for axis in (rows, columns))
    pointwise = _pointwise(rows, image[0], result[0]) and _pointwise(columns, image[1], result[1])
    if pointwise and math.prod(image) <= INT_MAX:
        # A 1x1 weight cannot tell an image from one long row, which tiles cover better.
        image = result = 1, math.prod(image)
        rows, columns = replace(rows, grid=1), replace(columns, grid=image[1])
    return Dense(rows, columns, source[1], image, target[1], result, depth, blocks)


def dense_options(problem: Problem, dense: Dense, device: Traits, lanes: int | None = None) -> tuple[str, ...]:
    """Return the -D options of kernels that compute a dense correlation with vectors: the device's, or of ``lanes``."""
    return (
        *vector_options(problem, device, lanes),
        *axis_options(dense.rows.taps, dense.rows.stride, dense.rows.dilation, "H"),
        *axis_options(dense.columns.taps, dense.columns.stride, dense.columns.dilation, "W"),
        f"-DSKIP_OUTSIDE={int(problem.op == 'grad_input')}",
    )


def pack(problem: Problem, dense: Dense, block: int, launches: list[Launch], workspace: dict[str, int]) -> str:
    """Have the weight copied into the order in which tiles of ``block`` output channels read it; name the copy.

    Adds the launch, unless there is nothing to copy, and the copy's bytes, at least one element's.
    """
    packed = f"packed{len(workspace)}"
    items = problem.groups * dense.blocks * dense.depth
    elements = items * dense.rows.taps * dense.columns.taps * block
    workspace[packed] = max(elements, 1) * problem.result_dtype.itemsize
    if items:
        options = (
            *type_options(problem),
            f"-DBLOCK={block}",
            f"-DTAPS_H={dense.rows.taps}",
            f"-DTAPS_W={dense.columns.taps}",
        )
        arguments = (
            *(np.int64(items), np.int32(dense.out_channels // problem.groups), np.int32(dense.depth)),
            *weight_steps(problem, dense),
        )
        launches.append(Launch("pack.cl", "pack", options, items, ("second", packed), arguments))
    return packed


def weight_steps(problem: Problem, dense: Dense) -> tuple[Any, ...]:
    """Say where the taps of a dense correlation lie in the weight."""
    rows, columns, taps = dense.rows, dense.columns, problem.weight_shape[2:]
    plane = math.prod(taps)
    steps = np.int64(problem.weight_shape[1] * plane), np.int64(plane)
    return (
        taps,
        np.int64(math.prod(problem.weight_shape) // problem.groups),
        *(steps if problem.op == "forward" else steps[::-1]),
        (rows.first_tap, columns.first_tap),
        (rows.tap_step, columns.tap_step),
    )


def dense_arguments(problem: Problem, dense: Dense) -> tuple[Any, ...]:
    """Return the arguments from `channels` to `fill`."""
    rows, columns = dense.rows, dense.columns
    return (
        *(np.int32(dense.channels), dense.image, np.int32(dense.out_channels), dense.result),
        *(np.int32(problem.groups), np.int32(dense.depth)),
        (rows.before, columns.before),
        (rows.grid, columns.grid),
        (rows.step, columns.step),
        (rows.first, columns.first),
        fill_of(problem),
    )


def _pointwise(axis: Axis, size: int, result_size: int) -> bool:
    return (axis.taps, axis.stride, axis.before, axis.step) == (1, 1, 0, 1) and size == axis.grid == result_size
