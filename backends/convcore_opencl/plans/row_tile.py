"""A tile of neighbouring pixels of one output channel in registers: depthwise layers and single images."""

from __future__ import annotations

import math

import numpy as np

from convcore.spi import Pair, Problem
from convcore_opencl.plans.direct import fold
from convcore_opencl.plans.recipe import (
    Launch,
    Recipe,
    Traits,
    axis_options,
    fill_of,
    floats_only,
    geometry,
    pointwise,
    spans,
    split,
    vector_options,
    weight_options,
)
from convcore_opencl.plans.register_tile import tap_tile

#: Rows and vectors of a tile of pixels by the bytes of a vector: at most 12 of the 16 vector registers of AVX2 hold
#: them, 24 of the 32 of AVX-512.  With as many rows fewer as there are column phases, each has such vectors.
ROW_TILES = {32: ((7, 1), (7, 2), (3, 4), (2, 7)), 64: ((8, 1), (14, 1), (8, 2), (6, 4))}
#: What a tile costs (measured on a Zen 4, in multiply-adds of vectors): itself, a vector stored, a row staged, and a
#: vector of such a row that is sorted by the phases of a stride.
TILE_COST, STORE_COST, ROW_COST, SORT_COST = 100, 6, 12, 10
#: Vectors and rows of outputs that grad_weight stages the pixels of at a time.
SEGMENTS, BLOCK = (1, 2, 4), 4
#: Rows between the taps of a tile, at most, for which there are several such rows.
MOST_SPREAD = 12
#: Pixels under such a tile that are staged; the kernel keeps them on the stack.
MOST_STAGED = 8192


def refusal(problem: Problem, device: Traits) -> str:
    """Say why this family cannot compute a problem; empty when it can."""
    if floats_only(problem):
        return floats_only(problem)
    needed = min(staged for _, staged in _staged(problem, device))
    return f"stages {MOST_STAGED} pixels at most, these tiles need {needed}" if needed > MOST_STAGED else ""


def _staged(problem: Problem, device: Traits) -> list[tuple[Pair, int]]:
    """Return the tiles there are, (rows, vectors), and the pixels that are staged for each."""
    lanes = device.lanes(problem)
    if problem.op == "grad_weight":
        height, width, _ = tap_tile((problem.weight_shape[2], problem.weight_shape[3]), 1)
        (stride, stride_w), (dilation, dilation_w) = problem.stride, problem.dilation
        rows = (_block(problem, height) - 1) * stride + (height - 1) * dilation + 1
        columns = {vectors: vectors * lanes * stride_w + (width - 1) * dilation_w for vectors in SEGMENTS}
        return [((height, vectors), rows * columns[vectors]) for vectors in SEGMENTS]
    phases = _steps(problem)[1][1]
    tiles = {(max(rows // phases, 1), vectors) for rows, vectors in ROW_TILES[device.vector_bytes]}
    return [(tile, math.prod(spans(problem, (tile[0], tile[1] * lanes)))) for tile in sorted(tiles)]


def possible(problem: Problem, device: Traits) -> list[Pair]:
    """Return the tiles whose pixels find room."""
    return [tile for tile, staged in _staged(problem, device) if staged <= MOST_STAGED]


def recipe(problem: Problem, device: Traits, room: int) -> Recipe:
    """Stage the pixels a tile reads, then meet every tap by vector loads."""
    if problem.op == "grad_weight":
        return _row_weight(problem, device, room)
    height, vectors = tile = _row_tile(problem, device)
    note = f"tile of {height} rows x {vectors * device.lanes(problem)} pixels"
    return Recipe("row_tile", (_correlate(problem, tile, device), *fold(problem)), notes=note)


def _correlate(problem: Problem, tile: Pair, device: Traits) -> Launch:
    """Compute forward, or all phases of the stride of grad_input."""
    forward = problem.op == "forward"
    source, target = (problem.input_shape, problem.output_shape)[:: 1 if forward else -1]
    (stride, phases), (image, result) = _steps(problem), _sizes(problem)
    options = (
        *vector_options(problem, device),
        *axis_options(problem.weight_shape[2], stride[0], problem.dilation[0], "H"),
        *axis_options(problem.weight_shape[3], stride[1], problem.dilation[1], "W"),
        *(f"-DPHASES_H={phases[0]}", f"-DPHASES_W={phases[1]}", f"-DSKIP_OUTSIDE={int(not forward)}"),
        *(f"-DTILE_H={tile[0]}", f"-DVECTORS={tile[1]}"),
    )
    plane = math.prod(problem.weight_shape[2:])
    between = np.int64(problem.weight_shape[1] * plane), np.int64(plane)
    arguments = (
        *(np.int32(source[1]), image, np.int32(target[1]), result),
        *(np.int32(problem.groups), np.int32(source[1] // problem.groups)),
        *(np.int64(math.prod(problem.weight_shape) // problem.groups), *(between if forward else between[::-1])),
        *((problem.padding[0][0], problem.padding[1][0]), fill_of(problem)),
    )
    items = source[0] * target[1] * _tiles(result, phases, tile, device.lanes(problem))
    buffers = "first", "second", "bias", "out"
    return Launch("row_tile.cl", "correlate", options, items, buffers, (*arguments, np.int64(items)), device.tile_group)


def _steps(problem: Problem) -> tuple[Pair, Pair]:
    """Return the stride with which forward reads and that with which grad_input writes, by rows and columns."""
    return (problem.stride, (1, 1)) if problem.op == "forward" else ((1, 1), problem.stride)


def _sizes(problem: Problem) -> tuple[Pair, Pair]:
    """Return the sizes of the image that is read and of the one that is written; 1x1 kernels take it for one row."""
    image, result = problem.input_shape[2:], problem.output_shape[2:]
    if pointwise(problem):
        image = result = 1, math.prod(image)
    return (image, result) if problem.op == "forward" else (result, image)


def _tiles(result: Pair, phases: Pair, tile: Pair, lanes: int) -> int:
    """Return how many tiles cover a result."""
    sizes = tile[0] * phases[0], tile[1] * lanes * phases[1]
    return math.prod(-(-length // size) for length, size in zip(result, sizes, strict=True))


def _row_tile(problem: Problem, device: Traits) -> Pair:
    """Return the (rows, vectors) that cover the result in the least time, what a tile costs of its own included."""
    (_, result), (stride, phases), lanes = _sizes(problem), _steps(problem), device.lanes(problem)

    stores = math.prod(phases) * STORE_COST

    def seconds(tile: Pair) -> int:
        height, width = tile
        staged = next(iter(spans(problem, (height, width * lanes))))
        row = ROW_COST + (SORT_COST * (width + 1) if stride[1] > 1 else 0)
        products = height * width * (math.prod(problem.weight_shape[2:]) + stores)
        return _tiles(result, phases, tile, lanes) * (products + staged * row + TILE_COST)

    return min(device.chosen(possible(problem, device)), key=seconds)


def _block(problem: Problem, height: int) -> int:
    """Return how many rows of outputs share what is staged for them: several, unless dilated taps are far apart."""
    return BLOCK if (height - 1) * problem.dilation[0] <= MOST_SPREAD else 1


def _row_weight(problem: Problem, device: Traits, room: int) -> Recipe:
    """Keep the taps of one pair of channels in registers."""
    _, depth, *taps = problem.weight_shape
    lanes, (n, _, p, width) = device.lanes(problem), problem.output_shape
    height, columns, _ = tap_tile((taps[0], taps[1]), 1)
    segments = [vectors for _, vectors in device.chosen(possible(problem, device))]
    vectors = min(segments, key=lambda vectors: -(-width // (vectors * lanes)) * (vectors + 2))
    options = (
        *vector_options(problem, device),
        *(f"-DTILE_H={height}", f"-DTILE_W={columns}", f"-DVECTORS={vectors}", f"-DBLOCK={_block(problem, height)}"),
        *weight_options(problem),
    )
    sizes = geometry(problem)
    items = problem.weight_shape[0] * depth * -(-taps[0] // height) * -(-taps[1] // columns)
    arguments = *sizes[:6], sizes[-1], fill_of(problem)
    launch = Launch("row_weight.cl", "correlate", options, items, ("first", "second"), arguments, device.tile_group)
    tile = f"tile of {height}x{columns} taps x {lanes} pixels"
    return Recipe("row_tile", *split(problem, launch, device.tiles_wanted, room, n * p), tile)
