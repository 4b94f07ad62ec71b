"""The formula as it is written, one result element per work-item; and what every family leaves to it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convcore.spi import Problem
from convcore_opencl.plans.recipe import (
    ITEMS_WANTED,
    Launch,
    Recipe,
    Traits,
    c_type,
    fill_of,
    geometry,
    split,
    type_options,
)

#: Work-items that look for the extremes of an array.
EXTREMES = 1024


def recipe(problem: Problem, device: Traits, room: int) -> Recipe:
    """Compute the formula as it is written, one result element per work-item."""
    options = type_options(problem)
    rows = problem.output_shape[0] * problem.output_shape[2]
    if problem.op == "grad_weight":
        elements = math.prod(problem.weight_shape)
        launch = Launch(
            "direct.cl", "grad_weight", options, elements, ("first", "second"), (*geometry(problem), fill_of(problem))
        )
        return Recipe("direct", *split(problem, launch, ITEMS_WANTED, room, rows))
    if problem.op == "grad_bias":
        launch = Launch("sums.cl", "channel_sum", options, problem.output_shape[1], ("first",), geometry(problem)[2:4])
        return Recipe("direct", *split(problem, launch, ITEMS_WANTED, room, rows))
    items = math.prod(problem.result_shape)
    if problem.op == "grad_input":
        arguments = folding(problem)
    else:
        arguments = (*geometry(problem), fill_of(problem), np.int64(items))
    launch = Launch("direct.cl", problem.op, options, items, ("first", "second", "bias", "out"), arguments)
    return Recipe("direct", (launch,))


def folding(problem: Problem) -> tuple[Any, ...]:
    """Return the arguments of kernels that gather the gradient of every position a pixel stands at."""
    after = problem.padding[0][1], problem.padding[1][1]
    return *geometry(problem), after, np.int64(math.prod(problem.input_shape))


def fold(problem: Problem) -> tuple[Launch, ...]:
    """Add to grad_input what falls on padding, where that holds pixels of the image: little, so directly."""
    if problem.op != "grad_input" or problem.boundary == "constant" or not any(map(any, problem.padding)):
        return ()
    items = math.prod(problem.input_shape)
    buffers = "first", "second", "out"
    return (Launch("direct.cl", "fold", type_options(problem), items, buffers, folding(problem)),)


def fill(problem: Problem, device: Traits) -> Launch:
    """Put the bias, or zero, everywhere in grad_input: what phases of the stride have that no tap reaches."""
    images, channels, *size = problem.input_shape
    plane = math.prod(size)
    run = plane if device.kind == "cpu" else 1
    items = images * channels * (plane // max(run, 1))
    arguments = np.int32(channels), np.int32(plane), np.int32(run), np.int64(items)
    return Launch("fill.cl", "fill", type_options(problem), items, ("bias", "out"), arguments, device.tile_group)


def extremes(dtype: np.dtype[Any], elements: int) -> Launch:
    """Look for the smallest and largest integer in buffer "first": they are in the (EXTREMES, 2) longs of "out"."""
    options = f"-DFIRST={c_type(dtype)}", "-DRESULT=long", "-DNHWC=0", "-DBOUNDARY_CONSTANT=1"
    arguments = np.int64(elements), np.int64(EXTREMES)
    return Launch("sums.cl", "extremes", options, EXTREMES, ("first", "out"), arguments)
