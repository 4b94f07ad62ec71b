"""Forward and grad_input by panels: outer products whose lanes are pixels, copied side by side (``kernels/panels.h``).

The geometry is that of ``correlate.py``; what differs is that a tile's pixels are copied before they are multiplied, so
that none between two lines is computed, and that the weight is read at even steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from convcore_cpu.correlate import exact_step
from convcore_cpu.direction import (
    Direction,
    Gather,
    forward_direction,
    gather_sizes,
    grad_input_direction,
    group_channels,
    is_in_pages,
    place_result,
    stored_apart,
    weight_taps,
)
from convcore_cpu.engine import MicroKernel
from convcore_cpu.layout import SPREAD, Layout, Planes, whole
from convcore_cpu.program import FIRST, SECOND, WORKSPACE, Draft, Step, UnsupportedError
from convcore_cpu.tiles import most_tiles, padded, panel_kernel

#: What the panels of a task may take of the second-level cache (bytes).
PANEL_BYTES = 512 << 10
#: Rows of the weight that stay in the first-level cache while they meet the panels of a task (bytes).
ROW_BYTES = 96 << 10
#: Tasks there should be for each thread, so that all end at about the same time.
TASKS_PER_THREAD = 4
#: Pixels for which the rows of a weight that lie side by side are worth packing.
WORTH_PACKING = 128
#: How much longer than the best a tile may take that is wider, where the result's pixels are those of several gathers:
#: 16 images 512->512 3x3 stride 2 14x14, grad_input: 26 ms by tiles of 8x16, 21 by 6x64.
WIDE = 1.1
# What it takes to copy a vector of a panel, and besides for each run (cycles).
COPY_CYCLES, RUN_CYCLES = 2.8, 7.0
# What a tile takes besides.
TILE_CYCLES = 80.0
# What an element of a weight takes that the second-level cache does not hold, and of a packed one (cycles).
FAR_CYCLES, READ_CYCLES = 1.0, 0.5
# What it takes to pack one, and what one takes more whose row has each term in another page.
PACK_CYCLES, PAGE_CYCLES = 0.8, 2.0


@dataclass(frozen=True)
class Terms:
    """How a micro-kernel goes through the terms of a row of A: the fields of ``panel_loop``, and where rows begin."""

    buffer: int
    offset: int
    group: int
    channel: int
    repeat: int
    step: int
    even: bool
    rows: np.ndarray
    packing: tuple[Step, ...] = ()


def forward_panels(layout: Layout) -> Draft:
    """Lay out forward by panels."""
    return _program(layout, forward_direction(layout))


def grad_input_panels(layout: Layout) -> Draft:
    """Lay out grad_input by panels."""
    return _program(layout, grad_input_direction(layout))


def _program(layout: Layout, direction: Direction) -> Draft:
    if layout.prepacked and (direction.watch_nan or not layout.is_direct(SECOND)):
        raise UnsupportedError("its algorithm 'panels' packs only what it need not look at again")
    planes = _planes(layout, direction)
    layout.set_batch(planes.workspace + (direction.out_image if direction.folded else 0))
    buffer, offset, expand = layout.weight(direction.negated)
    planes, packing = layout.place(planes, FIRST, direction.channels, direction.lines, direction.columns)
    places, folding = place_result(layout, direction)
    places |= {"a_buffer": buffer, "a_offset": offset}
    rows = len(direction.rows)
    channels = group_channels(layout, direction)
    wide = WIDE if len(direction.gathers) > 1 else 1.0
    kernel_of = cache(
        lambda pixels, terms: panel_kernel(layout.micro_kernels, rows, layout.batch * pixels, terms, wide)
    )
    kernels = [kernel_of(gather.lines * gather.width, channels * gather.taps) for gather in direction.gathers]
    cycles = sum(_cycles(layout, direction, *pair) for pair in zip(direction.gathers, kernels, strict=True))
    yield layout.cost(cycles)
    packing_rows: list[Step] = []
    steps, exact = [], []
    for gather, (kernel, _) in zip(direction.gathers, kernels, strict=True):
        a = _terms(layout, direction, gather, kernel, places)
        packing_rows += a.packing
        steps.append(_step(layout, direction, planes, gather, kernel, a, places))
        if direction.watch_nan:
            exact.append(exact_step(layout, direction, planes, gather, kernel, places))
    return layout.program(
        "panels",
        ", ".join(dict.fromkeys(kernel.name for kernel, _ in kernels)),
        cycles,
        before=(expand, tuple(packing_rows)),
        each=(packing, tuple(steps), folding),
        exact=(tuple(exact), folding) if exact else (),
    )


def _planes(layout: Layout, direction: Direction) -> Planes:
    """Read the operand in place if that needs no padding, nor again and again steps too long for shuffles."""
    lines, columns = direction.lines, direction.columns
    if columns.stride <= 2 or layout.taps == 1:
        planes = layout.strided(FIRST, lines, columns)
        if planes is not None:
            return planes
    return layout.packed(direction.channels, lines, columns)


def _cycles(layout: Layout, direction: Direction, gather: Gather, chosen: tuple[MicroKernel, float]) -> float:
    """Estimate the cycles that a gather takes: products, copies, and a weight that the cache does not hold."""
    kernel, per_term = chosen
    terms = group_channels(layout, direction) * gather.taps
    weights = layout.groups * len(direction.rows) * terms
    far = weights * layout.itemsize > PANEL_BYTES
    # Every element of a panel is copied once, and a run takes as long as some vectors more.
    runs = COPY_CYCLES / kernel.lanes + RUN_CYCLES / min(gather.width, kernel.columns)
    # The choice of an algorithm decides bits, so it must not depend on how many threads there are.
    _, _, blocks = _task(layout, direction, gather, kernel, 2)
    copies = -(-_blocks(direction, kernel) // blocks) * terms * gather.lines * gather.width * runs
    products = layout.images * layout.groups * (max(terms, 1) * per_term / layout.batch + copies)
    calls = layout.images / layout.batch * layout.groups * _tiles(layout, gather, kernel) * TILE_CYCLES
    packed = not layout.prepacked and (direction.weight_row == 1 or len(direction.gathers) > 1)
    reading = (READ_CYCLES if layout.prepacked else FAR_CYCLES) * far + PACK_CYCLES * packed
    if direction.weight_row == 1 and kernel.isa != "avx512" and is_in_pages(layout, direction):
        reading += PAGE_CYCLES  # six rows take a third of a line of the cache, and come back for the rest
    return products + calls + weights * reading + stored_apart(layout, direction, gather)


def _tiles(layout: Layout, gather: Gather, kernel: MicroKernel) -> int:
    """Return how many tiles the pixels of a gather are in a batch."""
    return -(-layout.batch * gather.lines * gather.width // kernel.columns)


def _blocks(direction: Direction, kernel: MicroKernel) -> int:
    """Return how many blocks of rows there are."""
    return -(-len(direction.rows) // kernel.rows)


def _task(
    layout: Layout, direction: Direction, gather: Gather, kernel: MicroKernel, threads: int
) -> tuple[int, int, int]:
    """Return the channels a task takes at a time, its tiles, and its blocks of rows."""
    per_channel = max(gather.taps, 1)
    row_bytes, tile_bytes = (n * per_channel * layout.itemsize for n in (kernel.rows, kernel.columns))
    at_once = max(1, min(group_channels(layout, direction), ROW_BYTES // row_bytes))
    tiles, blocks = _tiles(layout, gather, kernel), _blocks(direction, kernel)
    wanted, others = TASKS_PER_THREAD * threads, layout.groups * len(direction.gathers)
    tiles_per_task = max(1, min(most_tiles(kernel), PANEL_BYTES // (at_once * tile_bytes), tiles * others // wanted))
    # The rows are shared out, and the panels copied for each share, only where there are too few tiles of pixels.
    shares = -(-wanted // (-(-tiles // tiles_per_task) * others))
    return at_once, tiles_per_task, -(-blocks // min(blocks, shares))


def _terms(layout: Layout, direction: Direction, gather: Gather, kernel: MicroKernel, places: dict[str, int]) -> Terms:
    """Read the weight where it lies if a gather meets taps an even step apart; else pack what it meets."""
    taps = weight_taps(layout, gather)
    steps = np.unique(np.diff(taps))
    index = padded(np.arange(len(direction.rows)), kernel.rows)
    if layout.prepacked:
        return _prepacked_terms(layout, direction, taps, kernel, index)
    # Rows that lie side by side are a line of the cache for each term, and worth bringing together for some tiles.
    side_by_side = direction.weight_row == 1 and len(taps) == 1 and layout.is_direct(SECOND)
    worth_packing = side_by_side and layout.batch * gather.lines * gather.width >= WORTH_PACKING
    if worth_packing or len(steps) > 1:
        return _packed_terms(layout, direction, taps, kernel, index)
    step = int(steps[0]) if len(steps) else direction.weight_term
    return Terms(
        buffer=places["a_buffer"],
        offset=places["a_offset"] + (int(taps[0]) if len(taps) else 0),
        group=direction.weight_group,
        channel=direction.weight_term,
        repeat=direction.weight_term,
        step=step,
        even=len(taps) <= 1 or direction.weight_term == step * len(taps),
        rows=index * direction.weight_row,
    )


def _packed_terms(
    layout: Layout, direction: Direction, taps: np.ndarray, kernel: MicroKernel, index: np.ndarray
) -> Terms:
    """Lay out the weight as (group, block of rows, channel, tap, row), tap by tap."""
    if not layout.is_direct(SECOND):
        raise UnsupportedError("its algorithm 'panels' does not convert the weight of a strided grad_input")
    channels, rows, high = group_channels(layout, direction), len(direction.rows), kernel.rows
    # Blocks are written in turns, so they must not all fall into the same set of a cache; this is their room, too.
    block = channels * len(taps) * high + SPREAD
    group = len(index) // high * block
    offset = layout.reserve(layout.groups * group)
    row = direction.weight_row
    sizes = {"per_image": False, "images": layout.groups, "src_image": direction.weight_group, "dst_image": group}
    packing = []
    if row == 1 and len(taps) == 1:
        # A line of the weight is all rows of a channel; of each a block of rows has its part.
        columns = np.array([[high, 0, min(high, rows - m), m, 1] for m in range(0, rows, high)], np.int64)
        packing.append(
            layout.pack_step(
                SECOND,
                lines=whole(channels, direction.weight_term, taps),
                columns=columns,
                dst_offset=offset,
                dst_line=high,
                dst_column_phase=block,
                phases_per_task=layout.blocks_at_once(high),
                has_room=True,
                **sizes,
            )
        )
    else:
        # Whole blocks are packed by some steps, what is left over by others; a line is a block of rows.
        for first, count, wide in ((0, rows // high, high), (rows // high, 1, rows % high)):
            if not count or not wide or not len(taps):
                continue
            packing.append(
                layout.pack_step(
                    SECOND,
                    lines=whole(count, high * row, taps),
                    columns=whole(wide, row),
                    channels=channels,
                    src_offset=first * high * row,
                    src_channel=direction.weight_term,
                    dst_offset=offset + first * block,
                    dst_channel=len(taps) * high,
                    dst_line_phase=high,
                    dst_line=block,
                    **sizes,
                )
            )
    return Terms(
        buffer=WORKSPACE,
        offset=offset,
        group=group,
        channel=len(taps) * high,
        repeat=0,
        step=high,
        even=True,
        rows=index // high * block + index % high,
        packing=tuple(packing),
    )


def _prepacked_terms(
    layout: Layout, direction: Direction, taps: np.ndarray, kernel: MicroKernel, index: np.ndarray
) -> Terms:
    """Lay the weight out as `_packed_terms` does, in a buffer of its own."""
    workspace, layout.workspace = layout.workspace, layout.packed_size
    terms = _packed_terms(layout, direction, taps, kernel, index)
    layout.packed_size, layout.workspace = layout.workspace, workspace
    layout.packing += terms.packing
    return replace(terms, buffer=SECOND, packing=())


def _step(
    layout: Layout,
    direction: Direction,
    planes: Planes,
    gather: Gather,
    kernel: MicroKernel,
    a: Terms,
    places: dict[str, int],
) -> Step:
    """Return the step of a gather."""
    channels, taps = group_channels(layout, direction), planes.taps(gather.line_taps, gather.column_taps)
    per_channel = max(len(taps), 1)
    at_once, tiles_per_task, blocks_per_task = _task(layout, direction, gather, kernel, layout.most_threads)
    tile_tasks = -(-_tiles(layout, gather, kernel) // tiles_per_task)
    row_tasks = -(-_blocks(direction, kernel) // blocks_per_task)
    collect = next(row for row in reversed(layout.micro_kernels) if row.algorithm == "collect")
    # A vector of room after each panel, see collect.h.
    panel = at_once * per_channel * kernel.columns + collect.lanes
    panels = tiles_per_task * panel
    sums = tiles_per_task * kernel.rows * kernel.columns * (blocks_per_task if at_once < channels else 1)
    layout.scratch = max(layout.scratch, panels + sums)
    sizes = gather_sizes(layout, direction, planes, gather, places) | {
        "a_buffer": a.buffer,
        "a_offset": a.offset,
        "a_group": a.group,
        "a_chunk": at_once * a.channel,
        "a_repeat": a.repeat,
        "a_step": a.step,
        "b_chunk": at_once * planes.channel,
        "b_column": planes.column,
        "channels": channels,
        "channels_at_once": at_once,
        "taps": len(taps),
        "even": int(a.even),
        "tile_tasks": tile_tasks,
        "tiles_per_task": tiles_per_task,
        "row_tasks": row_tasks,
        "blocks_per_task": blocks_per_task,
        "panel": panel,
        "sums_offset": panels,
        "may_overrun": int(planes.buffer == WORKSPACE),
    }
    offsets = (np.arange(at_once)[:, None] * planes.channel + taps).ravel()
    tables = direction.tables(kernel) | {"offsets": offsets, "a_row": a.rows}
    tasks = layout.groups * tile_tasks * row_tasks
    return Step(f"panels_{layout.type}", tasks, sizes, False, kernel.name, tables, collect.name)
