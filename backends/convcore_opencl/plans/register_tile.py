"""A tile of output channels by pixels, or by taps, in registers: the family for integrated and mobile GPUs."""

from __future__ import annotations

import math

import numpy as np

from convcore.spi import Pair, Problem
from convcore_opencl.plans.dense import Dense, dense_arguments, dense_axes, dense_of, dense_options, pack
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

#: Accumulators of a tile of taps: 16 registers hold them, a gradient and a pixel.
TAP_ACCUMULATORS = 12
#: Pixels of a tile: the one with the least waste in a row is taken, so a specialisation has three at most.
TILES = ((8,), (7,), (4,))
#: Pixels of a row a tile may span; the kernel keeps them in registers or on the stack.
WIDEST_SPAN = 128


def refusal(problem: Problem, device: Traits) -> str:
    """Say why this family cannot compute a problem; empty when it can."""
    _, span = spans(problem, (1, max(TILES)[0]))
    if not floats_only(problem) and problem.op != "grad_weight" and span > WIDEST_SPAN:
        return f"takes tiles that span {WIDEST_SPAN} pixels of a row, these span {span}"
    return floats_only(problem)


def recipe(problem: Problem, device: Traits, room: int) -> Recipe:
    """Pack what the pixels of a tile share, then compute it."""
    if problem.op == "grad_weight":
        return _weight_tile(problem, device, room)
    lanes = device.lanes(problem)
    launches: list[Launch] = []
    workspace: dict[str, int] = {}
    for rows, columns in dense_axes(problem):
        dense = dense_of(problem, rows, columns, lanes)
        packed = pack(problem, dense, lanes, launches, workspace)
        launches.append(_correlate(problem, dense, packed, device))
    launches += fold(problem)
    tile = f"tile of {lanes} channels x {_pixels(columns.grid, device)} pixels, {len(workspace)} launch(es)"
    return Recipe("register_tile", tuple(launches), workspace, tile)


def _correlate(problem: Problem, dense: Dense, packed: str, device: Traits) -> Launch:
    pixels = _pixels(dense.columns.grid, device)
    tiles = dense.rows.grid * -(-dense.columns.grid // pixels)
    items = problem.input_shape[0] * problem.groups * dense.blocks * tiles
    arguments = *dense_arguments(problem, dense), np.int64(items)
    options = *dense_options(problem, dense, device), f"-DPIXELS={pixels}"
    buffers = "first", packed, "bias", "out"
    return Launch("register_tile.cl", "correlate", options, items, buffers, arguments, device.tile_group)


def _pixels(grid: int, device: Traits) -> int:
    """Return the tile that covers a row of the grid in the least time; a tile costs about one pixel of its own."""
    (pixels,) = min(device.chosen(TILES), key=lambda tile: -(-grid // tile[0]) * (tile[0] + 1))
    return pixels


def _weight_tile(problem: Problem, device: Traits, room: int) -> Recipe:
    """Tile grad_weight: taps take the place of pixels."""
    _, depth, *taps = problem.weight_shape
    n, k, p, q = problem.output_shape
    groups, lanes = problem.groups, device.lanes(problem)
    blocks = -(-(k // groups) // lanes)
    height, width, channels = tap_tile((taps[0], taps[1]), depth)
    options = (
        *vector_options(problem, device),
        *(f"-DTILE_H={height}", f"-DTILE_W={width}", f"-DCHANNELS={channels}"),
        *weight_options(problem),
    )
    sizes = geometry(problem)
    packed_items = n * groups * blocks * p * q
    packing = Launch(
        "weight_tile.cl", "pack", options, packed_items, ("second", "packed"), (*sizes[2:5], np.int64(packed_items))
    )
    items = groups * blocks * -(-taps[0] // height) * -(-taps[1] // width) * -(-depth // channels)
    arguments = *sizes[:6], sizes[-1], fill_of(problem)
    buffers = "first", "packed"
    correlate = Launch("weight_tile.cl", "correlate", options, items, buffers, arguments, device.tile_group)
    packed_bytes = max(packed_items, 1) * device.vector_bytes
    launches, workspace = split(problem, correlate, device.tiles_wanted, max(room - packed_bytes, 0), n * p)
    return Recipe(
        "register_tile",
        (packing, *launches) if packed_items else launches,
        {"packed": packed_bytes, **workspace},
        f"tile of {lanes} channels x {channels} channels x {height}x{width} taps",
    )


def tap_tile(taps: Pair, depth: int) -> tuple[int, int, int]:
    """Return the (rows, columns, channels) of taps that fill the accumulators best.

    Tiles of one row or column of tiles are made equally large; channels are a power of two, so that
    nothing is compiled for a particular depth.
    """
    width = _even(taps[1], TAP_ACCUMULATORS)
    height = _even(taps[0], TAP_ACCUMULATORS // width)
    most = min(TAP_ACCUMULATORS // (height * width), depth)
    return height, width, 2 ** int(math.log2(most))


def _even(size: int, most: int) -> int:
    return -(-size // -(-size // most))
