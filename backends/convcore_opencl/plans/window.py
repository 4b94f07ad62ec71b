"""Pixels and taps of one output channel in __local memory: depthwise layers, single images, large kernels on GPUs."""

from __future__ import annotations

import math

from convcore.spi import Pair, Problem
from convcore_opencl.plans.dense import dense_arguments, dense_axes, dense_of, dense_options, weight_steps
from convcore_opencl.plans.direct import fold
from convcore_opencl.plans.recipe import Launch, Recipe, Traits, floats_only, spans

#: Work-items along each side of a group, and the results of each, down and across.
SIDE, ITEM = 16, (2, 4)
GROUP = SIDE * SIDE


def refusal(problem: Problem, device: Traits) -> str:
    """Say why this family cannot compute a problem; empty when it can."""
    if floats_only(problem):
        return floats_only(problem)
    if problem.op == "grad_weight":
        return "computes forward and grad_input only"
    pixels = math.prod(spans(problem, (SIDE * ITEM[0], SIDE * ITEM[1])))
    needed = (pixels + math.prod(problem.weight_shape[2:])) * problem.result_dtype.itemsize
    if device.largest_group < GROUP or device.local_memory < needed:
        return (
            f"needs groups of {GROUP} work-items with {needed} bytes of __local memory, "
            f"{device.name} has {device.largest_group} and {device.local_memory} bytes"
        )
    return ""


def recipe(problem: Problem, device: Traits, room: int) -> Recipe:
    """Let each group compute a tile of one output channel, of every phase if there are several."""
    launches = []
    for rows, columns in dense_axes(problem):
        dense = dense_of(problem, rows, columns, 1)
        grid: Pair = dense.rows.grid, dense.columns.grid
        tiles = math.prod(-(-size // (SIDE * item)) for size, item in zip(grid, ITEM, strict=True))
        sizes = dense_arguments(problem, dense)
        arguments = *sizes[:6], *weight_steps(problem, dense), *sizes[6:]
        options = *dense_options(problem, dense, device, 1), f"-DITEM_H={ITEM[0]}", f"-DITEM_W={ITEM[1]}"
        items = problem.input_shape[0] * dense.out_channels * tiles * GROUP
        buffers = "first", "second", "bias", "out"
        launches.append(Launch("window.cl", "correlate", options, items, buffers, arguments, GROUP))
    launches += fold(problem)
    return Recipe("window", tuple(launches), notes=f"tile of {SIDE * ITEM[0]}x{SIDE * ITEM[1]} pixels")
