"""Winograd's minimal correlation of 3x3 kernels: transforms, and between them a matrix product for each point.

The product is a problem of its own, a 1x1 correlation with a group for each point, which a family that multiplies
computes; so what is written here serves processors and GPUs alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from convcore.spi import Pair, Problem
from convcore_opencl.plans.direct import fold
from convcore_opencl.plans.recipe import (
    INT_MAX,
    Launch,
    Recipe,
    Traits,
    fill_of,
    floats_only,
    vector_options,
)

#: A family that computes the products between the transforms.
Multiply = Callable[[Problem, Traits, int], Recipe]
#: Channels in which a work-item looks the same pixels up.
EACH = 8
#: Rounding errors measured, as multiples of direct's.
ERRORS = {2: 0.9, 4: 2.9}

# What a point of a tile takes to be written and read again, and one of the weight while it stays in a cache and
# beyond (in flops of the product).
TILE_COST, WEIGHT_COST, FAR_WEIGHT_COST, CACHE_BYTES = 110, 100, 300, 8 << 20
# The bytes of a vector of the CPU these were measured on.
MEASURED_VECTOR = 64
# What three more launches take (in flops of the product).
START_COST = {"cpu": 50e6, "gpu": 5e8, "accelerator": 5e8}


def gain(problem: Problem, device: Traits, tile: int) -> float:
    """Return how many times faster than the direct product this one should be; the constants were measured on a CPU."""
    points, count = (tile + 2) ** 2, problem.input_shape[0] * math.prod(_tiles(problem, tile))
    rows, channels = problem.weight_shape[:2]
    pairs = rows * channels
    near = points * pairs * problem.result_dtype.itemsize <= CACHE_BYTES
    weight_cost = WEIGHT_COST if near or device.kind != "cpu" else FAR_WEIGHT_COST
    others = points * (TILE_COST * (rows + channels) * count + weight_cost * pairs)
    others += device.start_flops or START_COST[device.kind]
    if device.kind == "cpu":
        others *= device.vector_bytes / MEASURED_VECTOR  # the product takes longer with narrow vectors, these do not
    return problem.flops / (2 * points * pairs * count + others)


def refusal(problem: Problem, tile: int) -> str:
    """Say why this family cannot compute a problem, or may not for its accuracy; empty when it can."""
    if floats_only(problem):
        return floats_only(problem)
    if problem.weight_shape[2:] != (3, 3) or problem.stride != (1, 1) or problem.dilation != (1, 1):
        return "computes 3x3 kernels with stride 1 and dilation 1 only"
    if problem.groups != 1:
        return "computes one group only"
    if tile > 2 and problem.accuracy == "strict":
        return "errs more than accuracy 'strict' allows"
    images, points = problem.input_shape[0], (tile + 2) ** 2
    tiles = images * math.prod(_tiles(problem, tile))
    largest = points * max(problem.input_shape[1], problem.output_shape[1]) * max(tiles, 1)
    if largest > INT_MAX:
        return f"counts {INT_MAX} points at most, here are {largest}"
    return ""


def recipe(problem: Problem, device: Traits, room: int, tile: int, multiply: Multiply) -> Recipe:
    """Transform both operands, multiply their points, transform the sums back."""
    if problem.op == "grad_weight":
        return _grad_weight(problem, device, room, tile, multiply)
    images, points = problem.input_shape[0], (tile + 2) ** 2
    (channels, image, before), (rows, result) = _read(problem), _written(problem)
    tiles = _tiles(problem, tile)
    count = images * math.prod(tiles)
    row_step, term_step = _steps(problem)
    options = _options(problem, device, tile)
    fill, lanes = fill_of(problem), device.lanes(problem)

    weights = _weights(problem, options, lanes)
    image_points = _tiles_launch(problem, device, options, ("first", "v"), (channels, image), tiles, before, fill)
    product = _product(problem, points, (rows, channels, count))
    launches, workspace = _multiplied(product, device, room, multiply)
    items = rows * -(-count // lanes)
    arguments = (
        *(np.int32(images), np.int32(channels), image, np.int32(rows), result, tiles, before),
        *(np.int64(row_step), np.int64(term_step), fill, np.int64(items)),
    )
    buffers = "m", "first", "second", "bias", "out"
    results = Launch("winograd.cl", "results", options, items, buffers, arguments, device.tile_group)
    return Recipe(
        f"winograd{tile}",
        (weights, image_points, *launches, results, *fold(problem)),
        workspace,
        _described(tile),
    )


#: Tiles and output channels of a group of the fused kernel, its work-items, and the elements of its __local memory.
FUSED_BLOCK, FUSED_GROUP, FUSED_ELEMENTS = 32, 256, 2 * 16 * 8 * 36


def fused_refusal(problem: Problem, device: Traits) -> str:
    """Say why the fused kernel cannot compute a problem; empty when it can."""
    if problem.op == "grad_weight":
        return "computes forward and grad_input only"
    needed = FUSED_ELEMENTS * problem.result_dtype.itemsize
    if device.largest_group < FUSED_GROUP or device.local_memory < needed:
        return (
            f"needs groups of {FUSED_GROUP} work-items with {needed} bytes of __local memory, "
            f"{device.name} has {device.largest_group} and {device.local_memory} bytes"
        )
    return refusal(problem, 2)


def fused(problem: Problem, device: Traits, room: int) -> Recipe:
    """Transform the weight, then do all the rest for a block of tiles in one group."""
    images = problem.input_shape[0]
    (channels, image, before), (rows, result) = _read(problem), _written(problem)
    tiles = _tiles(problem, 2)
    row_step, term_step = _steps(problem)
    options = _options(problem, device, 2, lanes=1)
    groups = -(-images * math.prod(tiles) // FUSED_BLOCK) * -(-rows // FUSED_BLOCK)
    arguments = (
        *(np.int32(images), np.int32(channels), image, np.int32(rows), result, tiles, before),
        *(np.int64(row_step), np.int64(term_step), fill_of(problem)),
    )
    buffers = "first", "u", "second", "bias", "out"
    launch = Launch("winograd_fused.cl", "fused", options, groups * FUSED_GROUP, buffers, arguments, FUSED_GROUP)
    launches = _weights(problem, options, 1), launch, *fold(problem)
    size = max(16 * rows * channels * problem.result_dtype.itemsize, 1)
    return Recipe("winograd2_fused", launches, {"u": size}, _described(2))


def _weights(problem: Problem, options: tuple[str, ...], lanes: int) -> Launch:
    """Compute the points of the weight, into buffer "u"."""
    rows, channels = _written(problem)[0], _read(problem)[0]
    items = rows * -(-channels // lanes)
    arguments = *map(np.int32, (rows, channels)), *map(np.int64, (*_steps(problem), items))
    return Launch("winograd.cl", "weights", options, items, ("second", "u"), arguments)


def _steps(problem: Problem) -> Pair:
    """Return how far apart rows and terms of the weight are."""
    steps = problem.weight_shape[1] * 9, 9
    return steps if problem.op == "forward" else (9, steps[0])


def _grad_weight(problem: Problem, device: Traits, room: int, tile: int, multiply: Multiply) -> Recipe:
    images = problem.input_shape[0]
    channels, image = problem.input_shape[1], problem.input_shape[2:]
    rows, result = problem.output_shape[1], problem.output_shape[2:]
    tiles = _tiles(problem, tile)
    count = images * math.prod(tiles)
    options = _options(problem, device, tile)
    before = problem.padding[0][0], problem.padding[1][0]
    fill, zero = fill_of(problem), problem.result_dtype.type(0)
    of_gradients = _options(replace(problem, boundary="constant"), device, tile, gradients=True)
    x_points = _tiles_launch(problem, device, options, ("first", "v"), (channels, image), tiles, before, fill)
    g_points = _tiles_launch(problem, device, of_gradients, ("second", "u"), (rows, result), tiles, (0, 0), zero)
    product = _product(problem, (tile + 2) ** 2, (rows, channels, count))
    launches, workspace = _multiplied(product, device, room, multiply)
    items = rows * -(-channels // device.lanes(problem))
    arguments = (
        *(np.int32(images), np.int32(channels), image, np.int32(rows), result, before),
        *(fill, np.int64(items)),
    )
    taps = Launch("winograd.cl", "taps", options, items, ("m", "first", "second", "out"), arguments, device.tile_group)
    return Recipe(f"winograd{tile}", (x_points, g_points, *launches, taps), workspace, _described(tile))


def _tiles_launch(
    problem: Problem,
    device: Traits,
    options: tuple[str, ...],
    buffers: tuple[str, str],
    image: tuple[int, Pair],
    tiles: Pair,
    before: Pair,
    fill: np.generic,
) -> Launch:
    images, (channels, size) = problem.input_shape[0], image
    items = -(-images * math.prod(tiles) // device.lanes(problem)) * -(-channels // EACH)
    arguments = *(np.int32(images), np.int32(channels), size, tiles, before), fill, np.int64(items)
    return Launch("winograd.cl", "tiles", options, items, buffers, arguments, device.tile_group)


def _product(problem: Problem, points: int, sizes: tuple[int, int, int]) -> Problem:
    """Return the product of rows, channels and tiles, with a group for each point."""
    rows, channels, count = sizes
    return Problem(
        "grad_weight" if problem.op == "grad_weight" else "forward",
        (1, points * channels, 1, count),
        (points * rows, channels, 1, 1),
        (1, points * rows, 1, count),
        groups=points,
        dtypes=problem.dtypes,
        result_dtype=problem.result_dtype,
    )


def _multiplied(
    product: Problem, device: Traits, room: int, multiply: Multiply
) -> tuple[tuple[Launch, ...], dict[str, int]]:
    """Return the launches of a product, from buffers "v" and "u" to "m", and the workspace with these."""
    chosen = multiply(product, device, room)
    names = {"first": "v", "second": "u", "out": "m", "bias": "nothing"}
    launches = tuple(
        replace(launch, buffers=tuple(names.get(name, name) for name in launch.buffers)) for launch in chosen.launches
    )
    shapes = {"v": product.operand_shapes[0], "u": product.operand_shapes[1], "m": product.result_shape}
    points = {name: math.prod(shape) * product.result_dtype.itemsize for name, shape in shapes.items()}
    return launches, {name: max(size, 1) for name, size in (chosen.workspace | points).items()}


def _options(
    problem: Problem, device: Traits, tile: int, lanes: int | None = None, *, gradients: bool = False
) -> tuple[str, ...]:
    return (
        *vector_options(problem, device, lanes),
        *(f"-DTILE={tile}", f"-DEACH={EACH}"),
        *(f"-DREVERSED={int(problem.op == 'grad_input')}", f"-DGRADIENTS={int(gradients)}"),
    )


def _read(problem: Problem) -> tuple[int, Pair, Pair]:
    """Return channels and size of the image that tiles are read from, and the padding before it."""
    (top, _), (left, _) = problem.padding
    if problem.op == "grad_input":
        return problem.output_shape[1], problem.output_shape[2:], (2 - top, 2 - left)
    return problem.input_shape[1], problem.input_shape[2:], (top, left)


def _written(problem: Problem) -> tuple[int, Pair]:
    shape = problem.input_shape if problem.op == "grad_input" else problem.output_shape
    return shape[1], shape[2:]


def _tiles(problem: Problem, tile: int) -> Pair:
    height, width = _written(problem)[1]
    return -(-height // tile), -(-width // tile)


def _described(tile: int) -> str:
    return f"F({tile}x{tile}, 3x3), whose error is up to {ERRORS[tile]} times that of direct"
