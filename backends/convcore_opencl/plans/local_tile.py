"""Implicit GEMM with tiles shared through __local memory: the family for discrete GPUs, and for their tensor cores."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from convcore.spi import Problem
from convcore_opencl.plans.dense import Dense, dense_arguments, dense_axes, dense_of, dense_options, pack
from convcore_opencl.plans.direct import fold
from convcore_opencl.plans.recipe import (
    INT_MAX,
    Launch,
    Recipe,
    Traits,
    fill_of,
    floats_only,
    split,
    vector_options,
    weight_options,
)

#: Elements of the vectors in which tiles are brought and read.
LANES = 4
#: What the inputs of tensor cores are rounded to, by the number their kernels know it by.
TENSOR = {0: "", 1: "tf32", 2: "f16"}


class Tile(NamedTuple):
    """A tile of a group: results down and across, those of a work-item along each side, steps in __local memory."""

    rows: int
    columns: int
    item: int
    depth: int
    #: Of a large product, how much of the peak it reaches, relative to the largest tile.
    rate: float

    @property
    def group(self) -> int:
        """Work-items of a group."""
        return self.rows * self.columns // self.item**2

    def local_bytes(self, itemsize: int) -> int:
        """Return the bytes of __local memory of a group."""
        return 2 * self.depth * (self.rows + self.columns + 8) * itemsize


TILES = (Tile(128, 128, 8, 8, 1.0), Tile(64, 128, 8, 8, 0.85), Tile(64, 64, 8, 8, 0.7), Tile(32, 32, 4, 8, 0.4))
#: Those of tensor cores: a warp has 64 x 32 results.
TENSOR_TILES = (Tile(128, 128, 8, 16, 1.0), Tile(64, 64, 8, 16, 0.6))


def refusal(problem: Problem, device: Traits, tensor: int = 0) -> str:
    """Say why this family cannot compute a problem, or may not for its accuracy; empty when it can."""
    if tensor and problem.result_dtype != np.float32:
        return f"multiplies {TENSOR[tensor]}, which {problem.dtypes[0]} is too wide for"
    if tensor and problem.accuracy != "fast":
        return f"rounds its operands to {TENSOR[tensor]}, which only accuracy 'fast' allows"
    if tensor and not device.tensor_cores:
        return f"needs tensor cores, and no probe has seen any work on {device.name}"
    if floats_only(problem):
        return floats_only(problem)
    if not possible(problem, device, tensor):
        return (
            f"needs groups of {min(tile.group for tile in TILES)} work-items and their __local memory, "
            f"{device.name} has {device.largest_group} and {device.local_memory} bytes"
        )
    images = problem.input_shape[0]
    counted = (
        images * math.prod(problem.output_shape[2:]),
        images * math.prod(problem.input_shape[2:]),
        math.prod(problem.weight_shape[1:]),
        math.prod(problem.input_shape[1:]),
        math.prod(problem.output_shape[1:]),
    )
    return f"counts {INT_MAX} pixels at most, here are {max(counted)}" if max(counted) > INT_MAX else ""


def recipe(problem: Problem, device: Traits, room: int, tensor: int = 0) -> Recipe:
    """Let each group compute a tile of the results, of every phase if there are several."""
    if problem.op == "grad_weight":
        return _grad_weight(problem, device, room, tensor)
    launches: list[Launch] = []
    workspace: dict[str, int] = {}
    for rows, columns in dense_axes(problem):
        dense = dense_of(problem, rows, columns, 1)
        pixels = problem.input_shape[0] * dense.rows.grid * dense.columns.grid
        tile = best_tile(problem, device, tensor, dense.out_channels // problem.groups, pixels)
        dense = dense_of(problem, rows, columns, tile.rows)
        packed = pack(problem, dense, tile.rows, launches, workspace)
        launches.append(_correlate(problem, dense, tile, packed, pixels, device, tensor))
    launches += fold(problem)
    return Recipe(_name(tensor), tuple(launches), workspace, _described(tile, tensor))


def _correlate(
    problem: Problem, dense: Dense, tile: Tile, packed: str, pixels: int, device: Traits, tensor: int
) -> Launch:
    grid, image = (dense.rows.grid, dense.columns.grid), dense.image
    inside = all(
        axis.before <= 0 and (steps - 1) * axis.stride - axis.before + (axis.taps - 1) * axis.dilation < size
        for axis, steps, size in zip((dense.rows, dense.columns), grid, image, strict=True)
    )
    options = *dense_options(problem, dense, device, LANES), *_tile_options(tile, device, tensor, inside)
    items = problem.groups * dense.blocks * -(-pixels // tile.columns) * tile.group
    arguments = *dense_arguments(problem, dense), np.int32(pixels), *_divisions(*grid)
    return Launch("local_tile.cl", "correlate", options, items, ("first", packed, "bias", "out"), arguments, tile.group)


def _grad_weight(problem: Problem, device: Traits, room: int, tensor: int) -> Recipe:
    images, k, *grid = problem.output_shape
    per_group, columns = k // problem.groups, math.prod(problem.weight_shape[1:])
    tile = best_tile(problem, device, tensor, per_group, columns)
    padding = problem.padding[0][0], problem.padding[1][0]
    options = (
        *vector_options(problem, device, LANES),
        *weight_options(problem),
        "-DSKIP_OUTSIDE=0",
        *_tile_options(tile, device, tensor, not any(map(any, problem.padding))),
    )
    arguments = (
        *(np.int32(problem.input_shape[1]), problem.input_shape[2:], np.int32(k), (grid[0], grid[1])),
        *(np.int32(problem.groups), padding, fill_of(problem), *_divisions(*grid)),
    )
    items = problem.groups * -(-per_group // tile.rows) * -(-columns // tile.columns) * tile.group
    launch = Launch("local_tile.cl", "grad_weight", options, items, ("first", "second"), arguments, tile.group)
    wanted = device.groups_per_unit * device.units * tile.group
    launches, workspace = split(problem, launch, wanted, room, images * math.prod(grid))
    return Recipe(_name(tensor), launches, workspace, _described(tile, tensor))


def best_tile(problem: Problem, device: Traits, tensor: int, rows: int, columns: int) -> Tile:
    """Return the tile with which all groups are done soonest: in whole waves, unless the reduction is split."""

    def seconds(tile: Tile) -> float:
        groups = problem.groups * -(-rows // tile.rows) * -(-columns // tile.columns)
        waves = groups / device.units if problem.op == "grad_weight" else -(-groups // device.units)
        return waves * tile.rows * tile.columns / tile.rate

    return min(device.chosen(possible(problem, device, tensor)), key=seconds)


def possible(problem: Problem, device: Traits, tensor: int) -> list[Tile]:
    """Return the tiles that the device has room for."""
    itemsize = problem.result_dtype.itemsize
    return [
        tile
        for tile in (TENSOR_TILES if tensor else TILES)
        if tile.group <= device.largest_group and tile.local_bytes(itemsize) <= device.local_memory
    ]


def _tile_options(tile: Tile, device: Traits, tensor: int, inside: bool) -> tuple[str, ...]:
    return (
        *(f"-DTILE_M={tile.rows}", f"-DTILE_N={tile.columns}", f"-DITEM={tile.item}", f"-DTILE_K={tile.depth}"),
        *(f"-DINSIDE={int(inside)}", f"-DTENSOR={tensor}", f"-DEMULATED={int(device.tensor_cores == 'emulated')}"),
    )


def _divisions(*sizes: int) -> tuple[Any, ...]:
    return tuple(number for size in sizes for number in division(size))


def division(size: int) -> tuple[np.uint32, np.int32]:
    """Return (magic, shift) with floor(n / size) = (floor(n * magic / 2^32) + n) >> shift for 0 <= n < 2^31.

    Granlund and Montgomery, "Division by Invariant Integers using Multiplication" (PLDI 1994), figure 4.1.
    """
    size = max(size, 1)
    shift = (size - 1).bit_length()
    return np.uint32(2**32 * (2**shift - size) // size + 1), np.int32(shift)


def _name(tensor: int) -> str:
    return f"tensor_tile_{TENSOR[tensor]}" if tensor else "local_tile"


def _described(tile: Tile, tensor: int) -> str:
    cores = f", by tensor cores in {TENSOR[tensor]}" if tensor else ""
    return f"tile of {tile.rows} rows x {tile.columns} columns for {tile.group} work-items{cores}"
