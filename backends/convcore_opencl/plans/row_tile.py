"""A tile of neighbouring pixels of one output channel in registers: depthwise layers and single images."""

from __future__ import annotations

import math

import numpy as np

from convcore.spi import Pair, Problem
from convcore_opencl.plans.dense import Dense, dense_arguments, dense_axes, dense_of, dense_options, weight_steps
from convcore_opencl.plans.direct import fold
from convcore_opencl.plans.recipe import (
    Launch,
    Recipe,
    Traits,
    fill_of,
    floats_only,
    geometry,
    spans,
    split,
    vector_options,
    weight_options,
)
from convcore_opencl.plans.register_tile import tap_tile

#: Rows and vectors of a tile of pixels by the bytes of a vector: at most 12 of the 16 vector registers of AVX2 hold
#: them, 24 of the 32 of AVX-512.
ROW_TILES = {32: ((4, 1), (4, 2), (4, 3)), 64: ((8, 1), (14, 1), (8, 2), (8, 3))}
#: What a tile costs of its own, in vectors: where it is, and what of the pixels under it is not shared.
TILE_COST = 6
#: Vectors of outputs that grad_weight stages the pixels of at a time.
SEGMENTS = (1, 2, 4)
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
        stride, dilation = problem.stride[1], problem.dilation[1]
        columns = {vectors: (vectors * lanes - 1) * stride + (width - 1) * dilation + stride for vectors in SEGMENTS}
        return [((height, vectors), height * columns[vectors]) for vectors in SEGMENTS]
    tiles = ROW_TILES[device.vector_bytes]
    return [(tile, math.prod(spans(problem, (tile[0], tile[1] * lanes)))) for tile in tiles]


def possible(problem: Problem, device: Traits) -> list[Pair]:
    """Return the tiles whose pixels find room."""
    return [tile for tile, staged in _staged(problem, device) if staged <= MOST_STAGED]


def recipe(problem: Problem, device: Traits, room: int) -> Recipe:
    """Stage the pixels a tile reads, then meet every tap by vector loads."""
    if problem.op == "grad_weight":
        return _row_weight(problem, device, room)
    lanes = device.lanes(problem)
    launches: list[Launch] = []
    for rows, columns in dense_axes(problem):
        dense = dense_of(problem, rows, columns, lanes)
        height, vectors = _row_tile(problem, dense, device)
        launches.append(_correlate(problem, dense, (height, vectors), device))
    launches += fold(problem)
    tile = f"tile of {height} rows x {vectors * lanes} pixels, {len(launches)} launch(es)"
    return Recipe("row_tile", tuple(launches), notes=tile)


def _correlate(problem: Problem, dense: Dense, tile: Pair, device: Traits) -> Launch:
    height, vectors = tile
    tiles = -(-dense.rows.grid // height) * -(-dense.columns.grid // (vectors * device.lanes(problem)))
    items = problem.input_shape[0] * dense.out_channels * tiles
    sizes = dense_arguments(problem, dense)
    arguments = (*sizes[:6], *weight_steps(problem, dense), *sizes[6:], np.int64(items))
    options = *dense_options(problem, dense, device), f"-DTILE_H={height}", f"-DVECTORS={vectors}"
    buffers = "first", "second", "bias", "out"
    return Launch("row_tile.cl", "correlate", options, items, buffers, arguments, device.tile_group)


def _row_tile(problem: Problem, dense: Dense, device: Traits) -> Pair:
    """Return the (rows, vectors) that cover the grid in the least time, what a tile costs of its own included."""
    rows, columns, lanes = dense.rows.grid, dense.columns.grid, device.lanes(problem)

    def seconds(tile: Pair) -> int:
        return -(-rows // tile[0]) * -(-columns // (tile[1] * lanes)) * (math.prod(tile) + TILE_COST)

    return min(device.chosen(possible(problem, device)), key=seconds)


def _row_weight(problem: Problem, device: Traits, room: int) -> Recipe:
    """Keep the taps of one pair of channels in registers."""
    _, depth, *taps = problem.weight_shape
    lanes, (n, _, p, width) = device.lanes(problem), problem.output_shape
    height, columns, _ = tap_tile((taps[0], taps[1]), 1)
    segments = [vectors for _, vectors in device.chosen(possible(problem, device))]
    vectors = min(segments, key=lambda vectors: -(-width // (vectors * lanes)) * (vectors + 2))
    options = (
        *vector_options(problem, device),
        *(f"-DTILE_H={height}", f"-DTILE_W={columns}", f"-DVECTORS={vectors}"),
        *weight_options(problem),
    )
    sizes = geometry(problem)
    items = problem.weight_shape[0] * depth * -(-taps[0] // height) * -(-taps[1] // columns)
    arguments = *sizes[:6], sizes[-1], fill_of(problem)
    launch = Launch("row_weight.cl", "correlate", options, items, ("first", "second"), arguments, device.tile_group)
    tile = f"tile of {height}x{columns} taps x {lanes} pixels"
    return Recipe("row_tile", *split(problem, launch, device.tiles_wanted, room, n * p), tile)
