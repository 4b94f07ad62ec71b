"""Which kernels run for a problem, over how many work-items, with which -D options.

    recipe.py    launches, recipes, what is known of a device      dense.py   forward and the phases of grad_input
    direct.py, register_tile.py, row_tile.py, panel.py, ...        a family each
    tables.py    what is shipped of measured and reasoned choices, by device
    pieces.py    host arrays that are computed part by part

Nothing here knows a device's API or touches data: a :class:`Recipe` is plain text and numbers, and ``execute.py``
follows it.  To add an algorithm: its kernel file, a module with ``refusal`` and ``recipe``, an entry of
``ALGORITHMS``, and a line of :func:`_preferred`.

What was measured comes in as parameters, plain JSON values: "algorithm", "tile" and "vector_bytes".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from convcore.spi import HOST_ARRAY, Pair, Problem
from convcore_opencl.plans import (
    direct,
    half,
    local_tile,
    panel,
    pieces,
    register_tile,
    row_tile,
    tables,
    window,
    winograd,
)
from convcore_opencl.plans.pieces import Division
from convcore_opencl.plans.recipe import INT_MAX, Launch, Recipe, Traits

__all__ = [
    "ALGORITHMS",
    "Division",
    "Launch",
    "Recipe",
    "Traits",
    "by_tables",
    "candidates",
    "division",
    "recipe",
    "refusal",
    "tuned",
]

#: Below so many flops the direct kernels, which are compiled once for all geometries, are soon enough done.
TILING_PAYS = 500_000
#: Above so many flops they are not worth measuring; nor is Winograd's algorithm where it promises less than so many
#: times the speed, nor are families for few channels above so many in a group.
DIRECT_IS_HOPELESS, WINOGRAD_MAY_PAY, FEW_CHANNELS = 100_000_000, 0.8, 4
#: Bytes of the arrays of a piece, at most where a piece can be so small: host memory is set aside for two of them.
LARGEST_PIECE = 256 << 20
#: Bytes of a piece of a batch whose copies travel beside computing: they take far longer than to start them.
TRAVELLING_PIECE = 4 << 20

Tiles = Sequence[tuple[int, ...]]


class Family(NamedTuple):
    """An algorithm: why it cannot compute a problem, how it does, and the tiles it may do it with."""

    refusal: Callable[[Problem, Traits], str]
    recipe: Callable[[Problem, Traits, int], Recipe]
    tiles: Callable[[Problem, Traits], Tiles] = lambda problem, device: ((),)


def _panels(problem: Problem, device: Traits) -> Tiles:
    return panel.possible(device)


def _local(problem: Problem, device: Traits, tensor: int = 0) -> Tiles:
    return [tile[:2] for tile in local_tile.possible(problem, device, tensor)]


def _registers(problem: Problem, device: Traits) -> Tiles:
    return ((),) if problem.op == "grad_weight" else register_tile.TILES


def _winograd(tile: int) -> Family:
    def by_panels(problem: Problem, device: Traits) -> bool:
        return device.kind == "cpu" or bool(local_tile.refusal(problem, device))

    def chosen(problem: Problem, device: Traits, room: int) -> Recipe:
        multiply = panel if by_panels(problem, device) else local_tile
        return winograd.recipe(problem, device, room, tile, multiply.recipe)

    def tiles(problem: Problem, device: Traits) -> Tiles:
        return (_panels if by_panels(problem, device) else _local)(problem, device)

    return Family(lambda problem, device: winograd.refusal(problem, tile), chosen, tiles)


def _tensor(kind: int) -> Family:
    family = partial(local_tile.refusal, tensor=kind), partial(local_tile.recipe, tensor=kind)
    return Family(*family, partial(_local, tensor=kind))


ALGORITHMS = {
    "direct": Family(lambda problem, device: "", direct.recipe),
    "register_tile": Family(register_tile.refusal, register_tile.recipe, _registers),
    "row_tile": Family(row_tile.refusal, row_tile.recipe, row_tile.possible),
    "window": Family(window.refusal, window.recipe),
    "panel": Family(panel.refusal, panel.recipe, _panels),
    "strip": Family(panel.strip_refusal, panel.strip, _panels),
    "local_tile": Family(local_tile.refusal, local_tile.recipe, _local),
    "tensor_tile_tf32": _tensor(1),
    "tensor_tile_f16": _tensor(2),
    "winograd4": _winograd(4),
    "winograd2": _winograd(2),
    "winograd2_fused": Family(winograd.fused_refusal, winograd.fused),
}


def candidates(problem: Problem, device: Traits) -> dict[str, dict[str, Any]]:
    """Return what is worth measuring, by its name: the own choice first, then the algorithms with each of their tiles.

    Nothing where the direct kernels are soon enough done.
    """
    if problem.flops < TILING_PAYS or problem.op == "grad_bias" or problem.result_dtype.kind != "f":
        return {}
    own = by_tables(problem, device)
    found = {f"{own.algorithm}, as chosen": _own(problem, device)}
    recipes = [own.launches]
    for parameters in _worthwhile(problem, device):
        try:
            launches = recipe(*tuned(problem, device, parameters)).launches
        except ValueError:
            continue
        if launches not in recipes:
            recipes.append(launches)
            found[_named(parameters)] = parameters
    return found


def _named(parameters: Mapping[str, Any]) -> str:
    words = [parameters["algorithm"], "x".join(map(str, parameters.get("tile", ())))]
    if "vector_bytes" in parameters:
        words.append(f"of {parameters['vector_bytes']} bytes")
    return " ".join(filter(None, words))


def _worthwhile(problem: Problem, device: Traits) -> Iterator[dict[str, Any]]:
    """Yield parameters that may do well, whether or not they fit."""
    computed = half.widened(problem) if half.is_half(problem) else problem
    processor = device.kind == "cpu"
    names = (
        {"panel", "strip"} if processor else {"local_tile", "tensor_tile_tf32", "tensor_tile_f16", "winograd2_fused"}
    )
    names.add("register_tile")
    if min(_channels(problem)) <= FEW_CHANNELS:
        names |= {"row_tile"} if processor else {"row_tile", "window"}
    if problem.flops < DIRECT_IS_HOPELESS:
        names.add("direct")
    names |= {
        f"winograd{tile}"
        for tile in (2, 4)
        if not winograd.refusal(computed, tile) and winograd.gain(computed, device, tile) > WINOGRAD_MAY_PAY
    }
    widths = {device.vector_bytes, 32} if processor else {device.vector_bytes}
    for name in (name for name in ALGORITHMS if name in names and problem.algorithm in (None, name)):
        for vector_bytes in sorted(widths, reverse=True):
            width = {} if vector_bytes == device.vector_bytes else {"vector_bytes": vector_bytes}
            for tile in ALGORITHMS[name].tiles(computed, replace(device, vector_bytes=vector_bytes)):
                yield {"algorithm": name} | ({"tile": list(tile)} if tile else {}) | width


def tuned(problem: Problem, device: Traits, parameters: Mapping[str, Any]) -> tuple[Problem, Traits]:
    """Return the problem and the device as parameters would have them.

    Raises
    ------
    ValueError
        With the reason, if they do not fit the problem or the device.
    """
    known = {"algorithm": problem.algorithm, "tile": [], "vector_bytes": device.vector_bytes}
    algorithm, tile, vector_bytes = (known | parameters).values() if parameters.keys() <= known.keys() else ("",) * 3
    if algorithm not in ALGORITHMS or vector_bytes not in {32, device.vector_bytes}:
        raise ValueError(f"there are no parameters {dict(parameters)} for vectors of {device.vector_bytes} bytes")
    if problem.algorithm not in (None, algorithm):
        raise ValueError(f"algorithm {problem.algorithm!r} was asked for, not {algorithm!r}")
    wanted = replace(problem, algorithm=algorithm), replace(device, vector_bytes=vector_bytes)
    reason = _refusal(*wanted) or _memory_refusal(*wanted)
    if reason:
        raise ValueError(reason)
    computed = half.widened(problem) if half.is_half(problem) else problem
    if tile and tuple(tile) not in map(tuple, ALGORITHMS[algorithm].tiles(computed, wanted[1])):
        raise ValueError(f"algorithm {algorithm!r} has no tile {tile}")
    return wanted[0], replace(wanted[1], tile=tuple(tile))


@lru_cache(64)
def recipe(problem: Problem, device: Traits) -> Recipe:
    """Choose how a problem is computed; :func:`refusal`, which asks here first, has nothing against it."""
    if half.is_half(problem):
        return half.around(problem, _chosen(half.widened(problem), device, _preferred(problem, device)))
    return _chosen(problem, device, _preferred(problem, device))


def by_tables(problem: Problem, device: Traits) -> Recipe:
    """Choose by the shipped tables: by what one of them says of the problem, else by the model with their numbers."""
    parameters, note = _tabled(problem, device)
    chosen = recipe(*(tuned(problem, device, parameters) if parameters else (problem, device)))
    return replace(chosen, notes="; ".join(filter(None, (chosen.notes, note))))


def _tabled(problem: Problem, device: Traits) -> tuple[Mapping[str, Any], str]:
    """Return the parameters that a table has for a problem, empty if none fit, and what to say of that."""
    table = tables.lookup(device)
    entry = table.problems.get(problem.bucket)
    if entry is None:
        return {}, f"model with the numbers of {table.where}"
    try:
        tuned(problem, device, entry["parameters"])
    except ValueError as error:
        return {}, f"{entry['where']} has a choice that does not fit: {error}"
    return entry["parameters"], f"{entry['where']}: {_named(entry['parameters'])}, {entry['gain']:g} times as fast"


def _own(problem: Problem, device: Traits) -> dict[str, Any]:
    """Return the parameters that :func:`by_tables` goes by; the tile is left to the family where no table has one."""
    parameters, _ = _tabled(problem, device)
    return dict(parameters) or {"algorithm": recipe(problem, device).algorithm}


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
    read, written = _channels(problem)
    few = written < device.lanes(problem) // 2 or problem.op == "grad_weight"
    usual = {"cpu": ("panel", "register_tile")}.get(device.kind, ("local_tile", "register_tile"))
    tiles = device.families or usual
    if device.kind == "cpu" and problem.weight_shape[2:] != (1, 1) and panel.strips_pay(problem, device):
        tiles = "strip", *tiles
    if written == 1 or (read == 1 and few):
        return *(("window",) if device.kind != "cpu" else ()), "row_tile", *tiles
    if problem.accuracy == "fast" and device.tensor_cores:
        return "tensor_tile_f16" if half.is_half(problem) else "tensor_tile_tf32", *tiles
    gains = {tile: winograd.gain(problem, device, tile) for tile in (4, 2) if not winograd.refusal(problem, tile)}
    best = max(gains, key=lambda tile: gains[tile], default=0)
    if gains.get(best, 0) > device.winograd_pays:
        return f"winograd{best}", *tiles
    fused = device.kind != "cpu" and min(read, written) >= winograd.FUSED_BLOCK
    return ("winograd2_fused", *tiles) if fused else tiles


def _channels(problem: Problem) -> Pair:
    """Return how many channels of a group are read and written."""
    read, written = problem.weight_shape[1], problem.output_shape[1] // problem.groups
    return (written, read) if problem.op == "grad_input" else (read, written)


def refusal(problem: Problem, device: Traits) -> str:
    """Return why a device cannot compute a problem, in words; empty when it can, be it in pieces."""
    reason = _refusal(problem, device)
    if reason:
        return reason
    reason = _memory_refusal(problem, device)
    if reason and problem.arrays == HOST_ARRAY:
        return "" if division(problem, device) else f"{reason}; no part of the problem is small enough"
    return reason


def _refusal(problem: Problem, device: Traits) -> str:
    """Return what stands against a problem but the device's memory."""
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
    needed = recipe(problem, device).workspace_bytes
    if problem.workspace_limit is not None and needed > problem.workspace_limit:
        return (
            f"algorithm {problem.algorithm!r} needs {needed} bytes of workspace, the limit is {problem.workspace_limit}"
        )
    return ""


def division(problem: Problem, device: Traits) -> Division | None:
    """Return how a problem on host arrays is divided, None if it is computed at once or, once refused, not at all."""
    if problem.arrays != HOST_ARRAY:
        return None
    if not _memory_refusal(problem, device):
        return None if device.unified else _batches(problem, device)

    def fits(piece: Problem) -> bool:
        twice = replace(device, memory=device.memory // 2)  # the next one is brought meanwhile
        return not _memory_refusal(piece, twice)

    small = pieces.divide(problem, lambda piece: piece.bytes <= LARGEST_PIECE and fits(piece))
    return small or pieces.divide(problem, fits)


def _batches(problem: Problem, device: Traits) -> Division | None:
    """Divide the images of a batch where that is worth it: not where each part has sums as large as itself."""
    images, sizes = problem.input_shape[0], pieces.whole_sizes(problem)
    count = min(images, problem.bytes // TRAVELLING_PIECE)
    if problem.op in ("grad_weight", "grad_bias"):
        sums = math.prod(problem.result_shape) * problem.result_dtype.itemsize
        count = min(count, problem.bytes // (8 * max(sums, 1)))
    if count < 2:
        return None
    return Division(problem, sizes | {"images": -(-images // count)})


def _memory_refusal(problem: Problem, device: Traits) -> str:
    workspace = recipe(problem, device).workspace
    needed = sum(workspace.values())
    largest = max(*pieces.array_bytes(problem), *workspace.values(), 0)
    if largest > device.largest_buffer:
        return f"a buffer of {largest} bytes is larger than {device.name} allows, {device.largest_buffer}"
    if problem.bytes + needed > device.memory:
        return f"{problem.bytes + needed} bytes are more than the memory of {device.name}, {device.memory}"
    return ""


def _extents(problem: Problem) -> Iterator[int]:
    yield from problem.input_shape + problem.weight_shape + problem.output_shape
    for size, taps, dilation, padding in zip(
        problem.input_shape[2:], problem.weight_shape[2:], problem.dilation, problem.padding, strict=True
    ):
        yield size + sum(padding) + taps * dilation
