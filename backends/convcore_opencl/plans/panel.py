"""Implicit GEMM with panels of pixels, or of taps, staged in private memory: the family for CPU drivers."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from convcore.spi import Pair, Problem
from convcore_opencl.plans.dense import (
    Axis,
    Dense,
    dense_arguments,
    dense_axes,
    dense_of,
    dense_options,
    pack,
    weight_steps,
)
from convcore_opencl.plans.direct import fill, fold
from convcore_opencl.plans.recipe import (
    INT_MAX,
    Launch,
    Recipe,
    Traits,
    fill_of,
    floats_only,
    pointwise,
    split,
    vector_options,
    weight_options,
)

#: Rows and vectors of a tile by the bytes of a vector: 12 accumulators for the 16 registers of AVX2, 24 for the 32 of
#: AVX-512.  The one that leaves least over is taken.
TILES = {32: ((4, 3), (6, 2)), 64: ((6, 4), (12, 2), (8, 3))}

#: What a pixel of a panel takes to stage, beside one of a strip, where neighbours are brought together.
STRIP_COSTS = 1.25

#: Elements between rows, at most, for which a kernel is compiled.
MOST_KNOWN = 1024


def refusal(problem: Problem, device: Traits) -> str:
    """Say why this family cannot compute a problem; empty when it can."""
    if floats_only(problem):
        return floats_only(problem)
    image, result = math.prod(problem.input_shape[1:]), math.prod(problem.output_shape[1:])
    length = math.prod(problem.weight_shape[1:])
    if max(image, result, length) > INT_MAX:
        return f"counts {INT_MAX} elements of an image at most, here are {max(image, result, length)}"
    return ""


def recipe(problem: Problem, device: Traits, room: int) -> Recipe:
    """Stage what lies under neighbouring results once, then multiply it by one row after the other."""
    if problem.op == "grad_weight":
        return _grad_weight(problem, device, room)
    return correlations(problem, device, "panel")


def strip_refusal(problem: Problem, device: Traits) -> str:
    """Say why strips cannot compute a problem; empty when they can."""
    if refusal(problem, device):
        return refusal(problem, device)
    if problem.op == "grad_weight" or (problem.op == "forward" and problem.stride != (1, 1)):
        return "computes forward with stride 1 and grad_input only"
    lanes = device.lanes(problem)
    columns = max(vectors for _, vectors in possible(device)) * lanes
    longest = max(_strip(*axes, columns) for axes in dense_axes(problem))
    capacity = device.staged_bytes // problem.result_dtype.itemsize
    return f"stages strips of {capacity} pixels at most, these have {longest}" if longest > capacity else ""


def strips_pay(problem: Problem, device: Traits) -> bool:
    """Whether strips stage about as few pixels as panels: not where rows are long, several of which are in a strip."""
    panel = max(vectors for _, vectors in possible(device)) * device.lanes(problem)
    phases = [axes for axes in dense_axes(problem) if axes[0].taps and axes[1].taps]
    strips = sum(_strip(*axes, panel) for axes in phases)
    return strips <= STRIP_COSTS * panel * sum(rows.taps * columns.taps for rows, columns in phases)


def strip(problem: Problem, device: Traits, room: int) -> Recipe:
    """Stage each pixel under neighbouring results once, where panels have one for each tap."""
    return correlations(problem, device, "strip")


def _strip(rows: Axis, columns: Axis, panel: int) -> int:
    """Return the positions of a strip under a panel."""
    return panel + (max(rows.taps, 1) - 1) * rows.dilation * _pitch(columns) + _pitch(columns) - columns.grid


def _pitch(columns: Axis) -> int:
    return columns.grid + (max(columns.taps, 1) - 1) * columns.dilation


def _positions(rows: Axis, columns: Axis, family: str) -> int:
    """Return what lanes run over: pixels, or those and the padding between rows."""
    return rows.grid * (_pitch(columns) if family == "strip" else columns.grid)


def correlations(problem: Problem, device: Traits, family: str) -> Recipe:
    """Return the launches of forward, or of each phase of grad_input."""
    launches: list[Launch] = []
    workspace: dict[str, int] = {}
    phases = list(dense_axes(problem))
    if not all(rows.taps and columns.taps for rows, columns in phases):
        launches.append(fill(problem, device))
    for rows, columns in phases:
        out_channels = problem.weight_shape[0] // problem.groups if problem.op == "forward" else problem.weight_shape[1]
        tile = best_tile(device, problem, family, (out_channels, _positions(rows, columns, family)))
        if not (rows.taps and columns.taps):
            continue
        dense = dense_of(problem, rows, columns, tile[0])
        launches += _correlate(problem, dense, tile, device, workspace, family)
    launches += fold(problem)
    return Recipe(family, tuple(launches), workspace, _described(tile, device, problem, launches))


def _described(tile: Pair, device: Traits, problem: Problem, launches: list[Launch]) -> str:
    return f"tile of {tile[0]} rows x {tile[1] * device.lanes(problem)} columns, {len(launches)} launch(es)"


def possible(device: Traits) -> tuple[Pair, ...]:
    """Return the tiles there are."""
    return TILES[device.vector_bytes]


def best_tile(device: Traits, problem: Problem, family: str, size: Pair) -> Pair:
    """Return the (rows, vectors) of a tile with which a matrix of results is done soonest."""
    lanes, rates = device.lanes(problem), dict(device.tile_rates)

    def seconds(tile: Pair) -> float:
        steps = tile[0], tile[1] * lanes
        covered = math.prod(-(-length // step) * step for length, step in zip(size, steps, strict=True))
        return covered / rates.get(f"{family} {problem.op} {tile[0]}x{tile[1]}", 1.0)

    return min(device.chosen(possible(device)), key=seconds)


def tile_options(
    problem: Problem, device: Traits, tile: Pair, row_step: int = 0, shifted: bool = False
) -> tuple[str, ...]:
    """Return the -D options of a tile; ``row_step`` and ``shifted`` as in :class:`Rows`."""
    return (
        *(f"-DROWS={tile[0]}", f"-DVECTORS={tile[1]}", f"-DROW_STEP={row_step}", f"-DSHIFTED={int(shifted)}"),
        *(
            f"-DSTAGED={staged_rows(problem, device, tile)}",
            f"-DCAPACITY={device.staged_bytes // problem.result_dtype.itemsize}",
        ),
    )


def staged_rows(problem: Problem, device: Traits, tile: Pair) -> int:
    """Return how many rows of a panel are staged at a time."""
    lanes = device.lanes(problem)
    return device.staged_bytes // (tile[1] * device.vector_bytes) // lanes * lanes


def parts(rows: int, tile_rows: int, others: int, device: Traits) -> Pair:
    """Return into how many parts of how many rows work is divided, where there are ``others`` times as many items."""
    tiles = -(-rows // tile_rows)
    wanted = min(-(-device.tiles_wanted // max(others, 1)), tiles)
    part = -(-tiles // max(wanted, 1)) * tile_rows
    return max(-(-rows // part), 1), part


class Rows(NamedTuple):
    """Where a kernel finds the rows that it multiplies by.

    ``known_step`` is ``row_step`` where the kernel is compiled for it, because all rows of all tiles are there (the
    last tile may be ``shifted``); else 0.  ``reduction`` has the steps from one term to the next: of all terms, or of
    channels and of taps.
    """

    buffer: str
    start: int
    group_step: int
    tile_step: int
    row_step: int
    reduction: tuple[Any, ...]
    known_step: int
    shifted: bool = False


def _weight_rows(problem: Problem, dense: Dense, tile_rows: int, family: str) -> Rows:
    """Return the rows of the weight as it is: panels need one where a reduction runs through it in equal steps."""
    _, _, out_step, depth_step, first_tap, tap_step = weight_steps(problem, dense)
    by_taps = depth_step, (tap_step[0] * problem.weight_shape[3], tap_step[1])
    in_a_row = np.int64(1 if problem.op == "forward" else depth_step)
    shifted = dense.out_channels // problem.groups >= tile_rows
    # In grad_input rows are the taps of one channel apart, which kernels are compiled for anyway.
    known = shifted and problem.op == "grad_input" and out_step <= MOST_KNOWN
    return Rows(
        "second",
        first_tap[0] * problem.weight_shape[3] + first_tap[1],
        math.prod(problem.weight_shape) // problem.groups,
        int(out_step) * tile_rows,
        int(out_step),
        by_taps if family == "strip" else (in_a_row,),
        int(out_step) if known else 0,
        shifted,
    )


def _packed_rows(dense: Dense, tile_rows: int, buffer: str) -> Rows:
    """Return the rows of pack.cl's copy."""
    tile_step = dense.depth * dense.rows.taps * dense.columns.taps * tile_rows
    return Rows(buffer, 0, dense.blocks * tile_step, tile_step, 1, (np.int64(tile_rows),), 1)


def _correlate(
    problem: Problem, dense: Dense, tile: Pair, device: Traits, workspace: dict[str, int], family: str
) -> list[Launch]:
    launches: list[Launch] = []
    if family == "strip" or problem.op == "forward" or dense.rows.taps * dense.columns.taps == 1:
        rows = _weight_rows(problem, dense, tile[0], family)
    else:
        rows = _packed_rows(dense, tile[0], pack(problem, dense, tile[0], launches, workspace))
    others = problem.input_shape[0] * problem.groups
    others *= -(-_positions(dense.rows, dense.columns, family) // (tile[1] * device.lanes(problem)))
    part_count, part = parts(dense.out_channels // problem.groups, tile[0], others, device)
    items = others * part_count
    arguments = (
        *dense_arguments(problem, dense),
        *(np.int64(rows.start), np.int64(rows.group_step), np.int64(rows.tile_step)),
        *(np.int32(rows.row_step), *rows.reduction),
        *(np.int32(part_count), np.int32(part), np.int64(items)),
    )
    options = (
        *dense_options(problem, dense, device),
        *tile_options(problem, device, tile, rows.known_step, rows.shifted),
    )
    buffers = "first", rows.buffer, "bias", "out"
    return [*launches, Launch(f"{family}.cl", "correlate", options, items, buffers, arguments, device.tile_group)]


def _grad_weight(problem: Problem, device: Traits, room: int) -> Recipe:
    """Let panels of taps and channels take the place of pixels."""
    images, k, *grid = problem.output_shape
    per_group, length = k // problem.groups, math.prod(problem.weight_shape[1:])
    tile = best_tile(device, problem, "panel", (per_group, length))
    image, padding = problem.input_shape[2:], (problem.padding[0][0], problem.padding[1][0])
    if pointwise(problem):
        image, grid = (1, math.prod(image)), [1, math.prod(grid)]
    options = (
        *vector_options(problem, device),
        *weight_options(problem),
        "-DSKIP_OUTSIDE=0",
        *tile_options(
            problem, device, tile, int(problem.layout == "NHWC" and per_group >= tile[0]), per_group >= tile[0]
        ),
    )
    panels = -(-length // (tile[1] * device.lanes(problem)))
    segments = images * -(-math.prod(grid) // staged_rows(problem, device, tile))
    others = problem.groups * panels
    part_count, part = parts(per_group, tile[0], others * max(segments, 1), device)
    arguments = (
        *(np.int32(problem.input_shape[1]), image, np.int32(k), (grid[0], grid[1]), np.int32(problem.groups)),
        *(padding, fill_of(problem), np.int32(part_count), np.int32(part)),
    )
    launch = Launch(
        "panel.cl", "grad_weight", options, others * part_count, ("first", "second"), arguments, device.tile_group
    )
    launches, workspace = split(problem, launch, device.tiles_wanted, room, segments)
    return Recipe("panel", launches, workspace, _described(tile, device, problem, list(launches)))
