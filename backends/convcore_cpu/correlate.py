"""Forward and grad_input: outer products whose lanes are pixels (``kernels/correlate.h``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np

from convcore_cpu.direction import (
    Direction,
    Gather,
    forward_direction,
    gather_sizes,
    grad_input_direction,
    group_channels,
    place_result,
    stored_apart,
    weight_taps,
)
from convcore_cpu.engine import MAX_REST, MAX_REST_ROWS, MicroKernel
from convcore_cpu.geometry import PlaneAxis
from convcore_cpu.layout import FAST_BAND_BYTES, TASKS, Layout, Planes
from convcore_cpu.program import FIRST, SECOND, Draft, Step
from convcore_cpu.tiles import most_tiles, outer_kernel, padded

#: What a call of a micro-kernel takes besides its terms (cycles).
CALL_CYCLES = 60.0
#: How many times as long groups take as their tiles alone (measured: 1.0 to 1.4; 32 of 32 channels 3x3 stride 2 14x14,
#: which channels take 0.26 ms for, 1.35).
GROUPED = 1.25
#: Operands and results that no cache holds, read and written a tile's few pixels of a channel at a time, take more than
#: by the longer runs of panels (bytes; cycles for one): 16 images 64->64 1x1 56x56, 2.9 ms, by panels 2.55.
LARGE_BYTES, RUN_CYCLES = 20 << 20, 0.08
#: A weight whose rows lie side by side is read a line of the cache at a time, for every image again: so large a one may
#: come from far each time (bytes; cycles an element).  16 images 1024->2048 1x1 stride 2 14x14, grad_input: 45 to 88
#: ms, by panels 20 to 35.
LARGE_WEIGHT, AGAIN_CYCLES = 2 << 20, 1.5
#: Tasks of the rest there should be beside those of tiles.
REST_TASKS = 4
#: What a pixel of the rest takes for a vector of terms, and to bring a term together for a task (cycles).
INNER_CYCLES, TERM_CYCLES = 1.5, 2.0


class Cover(NamedTuple):
    """How the pixels of a gather are covered: by tiles of a micro-kernel, but for the ``rest`` of so many.

    Where that is all of them, the micro-kernel is that of the rest.
    """

    kernel: MicroKernel
    rest: int = 0


def forward(layout: Layout) -> Draft:
    """Lay out forward as outer products."""
    return _correlate(layout, forward_direction(layout))


def grad_input(layout: Layout) -> Draft:
    """Lay out grad_input as outer products."""
    return _correlate(layout, grad_input_direction(layout))


def _correlate(layout: Layout, direction: Direction) -> Draft:
    planes, covers, cycles = _planes_and_covers(layout, direction)
    yield layout.cost(cycles)
    buffer, offset, expand = layout.weight(direction.negated)
    planes, packing = layout.place(planes, FIRST, direction.channels, direction.lines, direction.columns)
    places, folding = place_result(layout, direction)
    places |= {"a_buffer": buffer, "a_offset": offset}
    steps, exact = [], []
    for gathers, cover in zip(direction.in_turns, covers, strict=True):
        if cover.rest < gathers[0].pixels(planes):
            steps.append(_correlate_step(layout, direction, planes, gathers, cover, places))
        for gather in gathers:
            # Of two in turns the other may be a pixel narrower.
            rest = cover.rest - gathers[0].width + gather.width
            if cover.rest and rest:
                steps.append(_rest_step(layout, direction, planes, gather, rest, places))
        if direction.watch_nan:
            exact += [exact_step(layout, direction, planes, gather, cover.kernel, places) for gather in gathers]
    return layout.program(
        "direct",
        ", ".join(dict.fromkeys(cover.kernel.name for cover in covers)),
        cycles,
        before=(expand,),
        each=(packing, tuple(steps), folding),
        exact=(tuple(exact), folding) if exact else (),
    )


def _planes_and_covers(layout: Layout, direction: Direction) -> tuple[Planes, Sequence[Cover], float]:
    """Read the operand in place if every gather has a micro-kernel narrow enough not to read past its end.

    Returns the planes, a cover for each gather, or those in turns, and the cycles they take for all images.
    """
    result = direction.out_image if direction.folded else 0
    terms = layout.images * direction.channels * layout.halves
    grouped = GROUPED if layout.groups > 1 else 1.0
    weights = math.prod(layout.problem.weight_shape)
    large = direction.weight_row == 1 and weights * layout.itemsize >= LARGE_WEIGHT
    again = large * AGAIN_CYCLES * weights * max(layout.images - 1, 0)

    def covers(planes: Planes, fits: bool) -> tuple[list[Cover], float]:
        """Return one for each gather, or those in turns, or none at all."""

        @cache
        def of_pixels(pixels: int, width: int, taps: int) -> tuple[float, Cover | None]:
            return _cheapest(layout, direction, pixels, width, taps, fits)

        found, cycles = [], 0.0
        for gathers in direction.in_turns:
            # The last of a line may be one pixel shorter, and is then read one too far.
            reach = max((tap.offset for gather in gathers for tap in gather.column_taps), default=0)
            first, taps = gathers[0], max(gather.taps for gather in gathers)
            per_term, cover = of_pixels(first.pixels(planes), first.width, taps)
            if cover is None or (fits and first.width + reach > direction.columns.size):
                return [], cycles
            found.append(cover)
            for gather in gathers:
                cycles += grouped * per_term * max(terms * gather.taps, layout.images * layout.groups)
                cycles += stored_apart(layout, direction, gather, len(gathers) > 1)
        return found, cycles

    planes = layout.in_place(FIRST, direction.lines, direction.columns)
    if planes is not None:
        found, cycles = covers(planes, fits=True)
        if found:
            layout.set_batch(result)
            far = layout.problem.bytes > LARGE_BYTES
            return planes, found, again + cycles + far * RUN_CYCLES * layout.problem.bytes
    planes = layout.packed(direction.channels, direction.lines, direction.columns)
    layout.set_batch(planes.workspace + result)
    found, cycles = covers(planes, fits=False)
    return planes, found, again + cycles


def _cheapest(
    layout: Layout, direction: Direction, pixels: int, width: int, taps: int, fits: bool
) -> tuple[float, Cover | None]:
    """Return the cycles one term takes that all of so many pixels meet, and the cover that takes the fewest.

    ``width`` is how many pixels the last line has.
    """

    def of_tiles(pixels: int) -> tuple[float, MicroKernel | None]:
        return outer_kernel(
            layout.micro_kernels,
            len(direction.rows),
            pixels,
            fits=fits,
            a_stride=direction.weight_row,
            a_terms=(channels, direction.weight_term),
            terms=channels * taps,
        )

    channels = group_channels(layout, direction)
    cycles, kernel = of_tiles(pixels)
    whole = Cover(kernel) if kernel else None
    rest = pixels % max(row.lanes for row in layout.micro_kernels if row.algorithm == "outer")
    if not 0 < rest <= min(MAX_REST, width):
        return cycles, whole
    of_rest, alone = _rest_kernel(layout, direction, rest)
    if alone is None:
        return cycles, whole
    of_others, kernel = of_tiles(pixels - rest) if rest < pixels else (0.0, alone)
    fewer = of_others + of_rest
    return (fewer, Cover(kernel, rest)) if kernel and fewer < cycles else (cycles, whole)


def _rest_kernel(layout: Layout, direction: Direction, rest: int) -> tuple[float, MicroKernel | None]:
    """Return the cycles one term takes that a few last pixels meet, infinite if they must be in a tile, and by what.

    Lanes are terms, or rows, as those of the weight lie side by side.
    """
    rows = len(direction.rows)
    if direction.watch_nan:
        return math.inf, None
    if direction.weight_term == layout.taps:
        kernel, tasks = _inner_kernel(layout), -(-rows // MAX_REST_ROWS)
        # Some of the taps are not neighbours.
        if kernel is None or any(gather.taps < layout.taps for gather in direction.gathers):
            return math.inf, None
        return rest * (rows / kernel.lanes * INNER_CYCLES + tasks * TERM_CYCLES), kernel
    if direction.weight_row > 1 or layout.halves > 1 or layout.bias_buffer >= 0:
        return math.inf, None
    return _swapped_kernel(layout, direction, rest)


def _tiles_per_task(
    layout: Layout, direction: Direction, gathers: Sequence[Gather], kernel: MicroKernel, tiles: int
) -> int:
    """Return how many tiles a task has: as many as leave tasks enough and read what stays in the first-level cache."""
    lines = max(gather.lines_met for gather in gathers)
    tile_bytes = group_channels(layout, direction) * lines * kernel.columns * layout.itemsize
    fair = layout.batch * layout.groups * tiles * len(direction.in_turns) // TASKS
    return max(1, min(most_tiles(kernel), FAST_BAND_BYTES // max(tile_bytes, 1), fair))


def _correlate_step(
    layout: Layout,
    direction: Direction,
    planes: Planes,
    gathers: Sequence[Gather],
    cover: Cover,
    places: dict[str, int],
) -> Step:
    """Return the step of a gather, or of two in turns; ``places`` says where A, the bias and the result are."""
    first, other, kernel = gathers[0], gathers[1] if len(gathers) > 1 else None, cover.kernel
    blocks = -(-len(direction.rows) // kernel.rows)
    pixels = first.pixels(planes) - cover.rest
    tiles = -(-pixels // kernel.columns)
    tiles_per_task = _tiles_per_task(layout, direction, gathers, kernel, tiles)
    tile_tasks = -(-tiles // tiles_per_task)
    # The rows are shared out only where there are too few tiles of pixels.
    shares = -(-TASKS // (layout.batch * layout.groups * tile_tasks * len(direction.in_turns)))
    blocks_per_task = -(-blocks // min(blocks, shares))
    row_tasks = -(-blocks // blocks_per_task)
    offsets = [_offsets(layout, direction, planes, gather) for gather in gathers]
    sizes = _correlate_sizes(layout, direction, planes, first, places) | {
        "pixels": pixels,
        "interleaved": len(gathers),
        "other_width": other.width if other else 0,
        "other_length": offsets[1].size // 2 if other else 0,
        "row_tasks": row_tasks,
        "blocks_per_task": blocks_per_task,
        "tiles": tiles,
        "tile_tasks": tile_tasks,
        "tiles_per_task": tiles_per_task,
    }
    inside = np.empty((0, 4), np.int64)
    tables = {"offsets": np.concatenate(offsets), "inside": inside, **direction.tables(kernel)}
    interleave = ""
    if other:
        interleave = next(row.name for row in reversed(layout.micro_kernels) if row.algorithm == "interleave")
    tasks = layout.groups * tile_tasks * row_tasks
    return Step(f"correlate_{layout.type}", tasks, sizes, True, kernel.name, tables, interleave)


def _inner_kernel(layout: Layout) -> MicroKernel | None:
    """Return the widest inner product there is."""
    return next((row for row in reversed(layout.micro_kernels) if row.algorithm == "inner"), None)


def _swapped_kernel(layout: Layout, direction: Direction, rest: int) -> tuple[float, MicroKernel | None]:
    """Return the cycles of a term, and the micro-kernel, of an outer product whose rows are a few pixels."""
    rows = len(direction.rows)
    return outer_kernel(
        layout.micro_kernels, rest, rows, fits=True, a_stride=1, terms=group_channels(layout, direction)
    )


def _rest_tasks(layout: Layout, units: int, alone: bool) -> int:
    """Return in how many tasks the rest of a group and image is done: few beside tiles, as threads take several."""
    return min(units, max(1, (TASKS if alone else REST_TASKS) // (max(layout.images, 1) * layout.groups)))


def _rest_step(
    layout: Layout, direction: Direction, planes: Planes, gather: Gather, rest: int, places: dict[str, int]
) -> Step:
    """Return the step of the last pixels of a gather, which no tile covers."""
    first, rows = gather.pixels(planes) - rest, len(direction.rows)
    alone = first == 0
    column = (gather.width - rest) * gather.out_column
    sizes = _correlate_sizes(layout, direction, planes, gather, places)
    sizes["b_offset"] += first
    sizes["out_offset"] += (gather.lines - 1) * gather.out_line + column
    offsets = _offsets(layout, direction, planes, gather)
    if direction.weight_term != layout.taps:
        return _swapped_step(layout, direction, gather, rest, alone, sizes, offsets)
    kernel = _inner_kernel(layout)
    assert kernel is not None
    names = ("a_buffer", "a_offset", "a_group", "b_buffer", "b_offset", "b_image", "b_group", "bias_buffer")
    names += ("out_buffer", "out_offset", "out_image", "out_group", "out_column", "groups", "rows", "length")
    row_tasks = _rest_tasks(layout, -(-rows // MAX_REST_ROWS), alone)
    rows_per_task = -(-rows // (row_tasks * kernel.rows)) * kernel.rows
    return Step(
        f"rest_{layout.type}",
        layout.groups * row_tasks,
        {name: sizes[name] for name in names}
        | {"pixels": rest, "row_tasks": row_tasks, "rows_per_task": rows_per_task},
        True,
        kernel.name,
        {"offsets": offsets, "a_row": direction.tables(kernel)["a_row"], "out_row": direction.rows},
    )


def _swapped_step(
    layout: Layout,
    direction: Direction,
    gather: Gather,
    rest: int,
    alone: bool,
    sizes: dict[str, int],
    offsets: np.ndarray,
) -> Step:
    """Return a step whose rows are the last pixels, and whose lanes are the channels of the result."""
    rows = len(direction.rows)
    _, kernel = _swapped_kernel(layout, direction, rest)
    assert kernel is not None
    tiles = -(-rows // kernel.columns)
    tiles_per_task = min(-(-tiles // _rest_tasks(layout, tiles, alone)), most_tiles(kernel))
    tile_tasks = -(-tiles // tiles_per_task)
    sizes |= {
        "a_buffer": sizes["b_buffer"], "a_offset": sizes["b_offset"], "a_image": sizes["b_image"],
        "a_group": sizes["b_group"],
        "b_buffer": sizes["a_buffer"], "b_offset": sizes["a_offset"], "b_image": 0, "b_group": sizes["a_group"],
        "out_line": 0, "out_column": direction.out_group // rows,
        "rows": rest, "lines": 1, "width": rows, "pitch": rows, "pixels": rows,
        "tiles": tiles, "tile_tasks": tile_tasks, "tiles_per_task": tiles_per_task,
        "blocks_per_task": -(-rest // kernel.rows),
    }  # fmt: skip
    pixels = np.arange(rest)
    tables = {
        "offsets": np.ascontiguousarray(offsets[:, ::-1]),
        "inside": np.empty((0, 4), np.int64),
        "a_row": padded(pixels, kernel.rows),
        "out_row": padded(pixels * gather.out_column, kernel.rows),
        "tile_row": np.arange(kernel.rows) * kernel.columns,
    }
    return Step(f"correlate_{layout.type}", layout.groups * tile_tasks, sizes, True, kernel.name, tables)


def exact_step(
    layout: Layout, direction: Direction, planes: Planes, gather: Gather, kernel: MicroKernel, places: dict[str, int]
) -> Step:
    """Return the step that does a gather again when there was a NaN."""
    sizes = _correlate_sizes(layout, direction, planes, gather, places)
    inside = np.tile(_inside(gather, direction.lines, direction.columns), (group_channels(layout, direction), 1))
    offsets = _offsets(layout, direction, planes, gather)
    tables = {"offsets": offsets, "inside": inside, **direction.tables(kernel)}
    tasks = layout.groups * len(direction.rows) * gather.lines
    return Step(f"exact_{layout.type}", tasks, sizes, True, kernel.name, tables)


def _correlate_sizes(
    layout: Layout, direction: Direction, planes: Planes, gather: Gather, places: dict[str, int]
) -> dict[str, int]:
    """Return the sizes of a step of one gather, as if it were one task."""
    sizes = gather_sizes(layout, direction, planes, gather, places)
    sizes |= dict.fromkeys(("interleaved", "row_tasks", "blocks_per_task", "tiles", "tile_tasks", "tiles_per_task"), 1)
    return sizes | {
        "a_image": 0,
        "a_group": direction.weight_group,
        "groups": layout.groups,
        "pixels": gather.pixels(planes),
        "length": group_channels(layout, direction) * gather.taps,
        "other_width": 0,
        "other_length": 0,
    }


def _offsets(layout: Layout, direction: Direction, planes: Planes, gather: Gather) -> np.ndarray:
    """Return where every term of a gather lies, in A and in B."""
    terms = np.arange(group_channels(layout, direction))[:, None]
    in_a = terms * direction.weight_term + weight_taps(layout, gather)
    in_b = terms * planes.channel + planes.taps(gather.line_taps, gather.column_taps)
    return np.stack([in_a, in_b], axis=-1).reshape(-1, 2)


def exact_in_place(layout: Layout, direction: Direction, places: dict[str, int]) -> tuple[Step, ...]:
    """Return the steps that compute grad_input term by term, with grad_out where it lies: none reads its padding."""
    plane = direction.lines.extent * direction.columns.extent
    offset = direction.lines.starts[0] * direction.columns.extent + direction.columns.starts[0]
    planes = Planes(FIRST, offset, direction.channels * plane, plane, 0, direction.columns.extent)
    places = {"a_buffer": SECOND, "a_offset": 0, **places}
    kernel = next(row for row in layout.micro_kernels if row.algorithm == "outer")
    return tuple(exact_step(layout, direction, planes, gather, kernel, places) for gather in direction.gathers)


def _inside(gather: Gather, lines: PlaneAxis, columns: PlaneAxis) -> np.ndarray:
    """Return, for every tap, the pixels (line_lo, line_hi, column_lo, column_hi) at which it meets the operand."""
    (line_lo, line_hi), (column_lo, column_hi) = lines.inside(lines.starts[0]), columns.inside(columns.starts[0])
    return np.array(
        [
            (line_lo - u.offset, line_hi - u.offset, column_lo - v.offset, column_hi - v.offset)
            for u, v in product(gather.line_taps, gather.column_taps)
        ],
        np.int64,
    )
