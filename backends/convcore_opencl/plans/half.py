"""float16: operands are widened to float32, any family computes on those, and the result is rounded once."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from convcore.spi import Problem
from convcore_opencl.plans.recipe import Launch, Recipe

_OPTIONS = "-DRESULT=float", "-DNHWC=0", "-DBOUNDARY_CONSTANT=1"


def is_half(problem: Problem) -> bool:
    """Whether a problem is one of float16."""
    return problem.result_dtype == np.float16


def widened(problem: Problem) -> Problem:
    """Return the problem of float32 that is computed instead."""
    single = np.dtype(np.float32)
    return replace(problem, dtypes=(single, single), result_dtype=single)


def around(problem: Problem, inner: Recipe) -> Recipe:
    """Put the conversions around a recipe for :func:`widened`."""
    sizes = {name: math.prod(shape) for name, shape in zip(("first", "second"), problem.operand_shapes, strict=False)}
    if problem.bias:
        sizes["bias"] = problem.result_channels
    widening = [_conversion("widen", size, name, f"{name}32") for name, size in sizes.items() if size]
    names = {name: f"{name}32" for name in (*sizes, "out")}
    computing = [replace(launch, buffers=tuple(names.get(b, b) for b in launch.buffers)) for launch in inner.launches]
    result = math.prod(problem.result_shape)
    workspace = {f"{name}32": max(4 * size, 1) for name, size in (sizes | {"out": result}).items()}
    return replace(
        inner,
        launches=(*widening, *computing, _conversion("narrow", result, "out32", "out")),
        workspace=inner.workspace | workspace,
        notes="; ".join(note for note in (inner.notes, "float16 in memory, float32 in sums") if note),
    )


def _conversion(function: str, size: int, source: str, target: str) -> Launch:
    return Launch("half.cl", function, _OPTIONS, size, (source, target), (np.int64(size),))
