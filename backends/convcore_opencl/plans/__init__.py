"""Which kernels run for a problem, over how many work-items, with which -D options.

    recipe.py    launches, recipes, what is known of a device      dense.py   forward and the phases of grad_input
    direct.py, register_tile.py, row_tile.py, panel.py, ...        a family each

Nothing here knows a device's API or touches data: a :class:`Recipe` is plain text and numbers, and ``execute.py``
follows it.  To add an algorithm: its kernel file, a module with ``refusal`` and ``recipe``, an entry of
``ALGORITHMS``, and a line of :func:`_preferred`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from convcore.spi import Problem
from convcore_opencl.plans import direct, half, local_tile, panel, register_tile, row_tile, window, winograd
from convcore_opencl.plans.recipe import INT_MAX, Launch, Recipe, Traits

__all__ = ["ALGORITHMS", "Launch", "Recipe", "Traits", "recipe", "refusal"]

#: Below so many flops the direct kernels, which are compiled once for all geometries, are soon enough done.
TILING_PAYS = 500_000
#: How much faster Winograd's algorithm must promise to be: its estimate is a rough one.
WINOGRAD_PAYS = 1.2


class Family(NamedTuple):
    """An algorithm: why it cannot compute a problem, and how it does."""

    refusal: Callable[[Problem, Traits], str]
    recipe: Callable[[Problem, Traits, int], Recipe]


def _winograd(tile: int) -> Family:
    def chosen(problem: Problem, device: Traits, room: int) -> Recipe:
        multiply = panel if device.kind == "cpu" or local_tile.refusal(problem, device) else local_tile
        return winograd.recipe(problem, device, room, tile, multiply.recipe)

    return Family(lambda problem, device: winograd.refusal(problem, tile), chosen)


def _tensor(kind: int) -> Family:
    return Family(partial(local_tile.refusal, tensor=kind), partial(local_tile.recipe, tensor=kind))


ALGORITHMS = {
    "direct": Family(lambda problem, device: "", direct.recipe),
    "register_tile": Family(register_tile.refusal, register_tile.recipe),
    "row_tile": Family(row_tile.refusal, row_tile.recipe),
    "window": Family(window.refusal, window.recipe),
    "panel": Family(panel.refusal, panel.recipe),
    "strip": Family(panel.strip_refusal, panel.strip),
    "local_tile": Family(local_tile.refusal, local_tile.recipe),
    "tensor_tile_tf32": _tensor(1),
    "tensor_tile_f16": _tensor(2),
    "winograd4": _winograd(4),
    "winograd2": _winograd(2),
    "winograd2_fused": Family(winograd.fused_refusal, winograd.fused),
}


def recipe(problem: Problem, device: Traits) -> Recipe:
    """Choose how a problem is computed; :func:`refusal` has nothing against it."""
    if half.is_half(problem):
        return half.around(problem, _chosen(half.widened(problem), device, _preferred(problem, device)))
    return _chosen(problem, device, _preferred(problem, device))


def _chosen(problem: Problem, device: Traits, preferred: tuple[str, ...]) -> Recipe:
    room = device.largest_buffer if problem.workspace_limit is None else problem.workspace_limit
    if problem.algorithm is not None:
        return ALGORITHMS[problem.algorithm].recipe(problem, device, room)
    for algorithm in preferred:
        family = ALGORITHMS[algorithm]
        if not family.refusal(problem, device):
            tiled = family.recipe(problem, device, room)
            if tiled.workspace_bytes <= room:
                return tiled
    return direct.recipe(problem, device, room)


def _preferred(problem: Problem, device: Traits) -> tuple[str, ...]:
    """Name the tiled algorithms worth a try, best first; small problems are done before a tile is compiled."""
    if problem.flops < TILING_PAYS:
        return ()
    read, written = problem.weight_shape[1], problem.output_shape[1] // problem.groups
    if problem.op == "grad_input":
        read, written = written, read
    few = written < device.lanes(problem) // 2 or problem.op == "grad_weight"
    tiles = {"cpu": ("panel", "register_tile")}.get(device.kind, ("local_tile", "register_tile"))
    if device.kind == "cpu" and problem.weight_shape[2:] != (1, 1):
        tiles = "strip", *tiles
    if written == 1 or (read == 1 and few):
        return *(("window",) if device.kind != "cpu" else ()), "row_tile", *tiles
    if problem.accuracy == "fast" and device.tensor_cores:
        return "tensor_tile_f16" if half.is_half(problem) else "tensor_tile_tf32", *tiles
    gains = {tile: winograd.gain(problem, device, tile) for tile in (4, 2) if not winograd.refusal(problem, tile)}
    best = max(gains, key=lambda tile: gains[tile], default=0)
    if gains.get(best, 0) > WINOGRAD_PAYS:
        return f"winograd{best}", *tiles
    fused = device.kind != "cpu" and min(read, written) >= winograd.FUSED_BLOCK
    return ("winograd2_fused", *tiles) if fused else tiles


def refusal(problem: Problem, device: Traits) -> str:
    """Return why a device cannot compute a problem, in words; empty when it can."""
    if problem.result_dtype == np.float64 and not device.float64:
        return f"{device.name} does not compute in float64"
    if half.is_half(problem) and not device.float16:
        return f"{device.name} does not read and write float16 rightly: a probe of its driver failed"
    longest = max(_extents(problem))
    if longest > INT_MAX:
        return f"an extent of {longest} pixels or channels is too large, at most {INT_MAX}"
    if problem.algorithm is not None:
        if problem.algorithm not in ALGORITHMS:
            return f"algorithm {problem.algorithm!r} is unknown, known are {', '.join(ALGORITHMS)}"
        computed = half.widened(problem) if half.is_half(problem) else problem
        reason = ALGORITHMS[problem.algorithm].refusal(computed, device)
        if problem.algorithm == "tensor_tile_f16" and computed is problem:
            reason = "multiplies float16 only"
        if reason:
            return f"algorithm {problem.algorithm!r} {reason}"
    return _memory_refusal(problem, device)


def _memory_refusal(problem: Problem, device: Traits) -> str:
    workspace = recipe(problem, device).workspace
    needed = sum(workspace.values())
    if problem.workspace_limit is not None and needed > problem.workspace_limit:
        return (
            f"algorithm {problem.algorithm!r} needs {needed} bytes of workspace, the limit is {problem.workspace_limit}"
        )
    largest = max(*_array_bytes(problem), *workspace.values(), 0)
    if largest > device.largest_buffer:
        return f"a buffer of {largest} bytes is larger than {device.name} allows, {device.largest_buffer}"
    if problem.bytes + needed > device.memory:
        return f"{problem.bytes + needed} bytes are more than the memory of {device.name}, {device.memory}"
    return ""


def _array_bytes(problem: Problem) -> Iterator[int]:
    for shape, dtype in zip(problem.operand_shapes, problem.dtypes, strict=False):
        yield math.prod(shape) * dtype.itemsize
    yield math.prod(problem.result_shape) * problem.result_dtype.itemsize


def _extents(problem: Problem) -> Iterator[int]:
    yield from problem.input_shape + problem.weight_shape + problem.output_shape
    for size, taps, dilation, padding in zip(
        problem.input_shape[2:], problem.weight_shape[2:], problem.dilation, problem.padding, strict=True
    ):
        yield size + sum(padding) + taps * dilation
