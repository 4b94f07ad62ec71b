"""grad_weight by Winograd's minimal correlation, the transpose of ``winograd.py`` in the weight.

The points of tiles of x (``kernels/tiles.h``) are multiplied with those of the same tiles of grad_out (``grads.h``),
summed over tiles (``accumulate.h``, one group for each point) and transformed to taps (``taps.h``); all at once where
there are few tiles (``products.h``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from convcore_cpu.engine import MicroKernel
from convcore_cpu.grad_weight import grad_weight_direct
from convcore_cpu.layout import SPREAD, TASKS, Layout
from convcore_cpu.program import WORKSPACE, Draft, Stages, Step, finished
from convcore_cpu.tiles import padded, panel_kernel
from convcore_cpu.winograd import (
    POINT_BYTES,
    START_CYCLES,
    Direction,
    admit,
    input_cycles,
    shares,
    square_kernel,
    tiles_step,
    vector_turns,
)

TAPS = 9

#: A panel of the points of grad_out stays in the second-level cache (bytes).
PANEL_BYTES = 512 << 10
# What the transform of a tile of grad_out takes for each channel (cycles).
GRAD_CYCLES = {2: 8.0, 4: 14.0}
# What a point of the weight takes, to be summed up and transformed, in the last-level cache and beyond it (cycles).
SUM_CYCLES, FAR_SUM_CYCLES = 1.5, 3.0
# The same where sums never leave the core.
NEAR_SUM_CYCLES = 0.6
# What the points of tiles take that the second-level cache does not hold (cycles for each byte).
BYTE_CYCLES = 0.12


@dataclass(frozen=True)
class Points:
    """Where the points of the tiles of x (V) and of grad_out (G) lie: ``band`` of the ``blocks`` of tiles at a time."""

    direction: Direction
    kernel: MicroKernel
    channels: int
    lanes: int
    tiles: int
    blocks: int
    band: int
    v_offset: int
    g_offset: int

    @property
    def count(self) -> int:
        """How many points a tile has."""
        return self.direction.points

    @property
    def m(self) -> int:
        """How many results of grad_out a tile has along an axis."""
        return self.direction.lines.form.results

    @property
    def v_point(self) -> int:
        """From one point of V to the next."""
        return self.channels * self.tiles + SPREAD

    @property
    def v_block(self) -> int:
        """From one block of V to the next."""
        return self.count * self.v_point

    @property
    def g_panel(self) -> int:
        """From one panel of G to the next."""
        return self.band * self.tiles * self.kernel.columns

    @property
    def g_point(self) -> int:
        """From one point of G to the next."""
        return self.band * self.tiles * self.lanes + SPREAD


def winograd_grad_weight(layout: Layout, m: int | None = None) -> Draft:
    """Lay out grad_weight as the transpose of F(m x m, 3 x 3), with the best m that is allowed if none is given."""
    name, direction = admit(layout, m, _cycles)
    yield layout.cost(_cycles(layout, direction))
    direct = finished(grad_weight_direct(layout))
    layout.start_again()
    near = _near_kernel(layout, direction)
    kernel = near or panel_kernel(layout.micro_kernels, layout.channels, layout.out_channels)[0]
    points = _place_points(layout, direction, kernel, whole=near is not None)
    layout.workspace = max(layout.workspace, -(-direct.memory_bytes // layout.itemsize))
    transforms = [
        (
            tiles_step(layout, direction, points.tiles, points.v_offset, first, count),
            _grads_step(layout, points, first, count),
        )
        for first in range(0, points.blocks, points.band)
        for count in (min(points.band, points.blocks - first),)
    ]
    before: Stages = ()
    after: Stages = ()
    if near:
        each: Stages = (transforms[0], (_products_step(layout, points),))
    else:
        rows = -(-layout.channels // kernel.rows) * kernel.rows
        sums_offset = layout.reserve(points.count * rows * points.lanes)
        one_band = layout.batch == layout.images and points.blocks <= points.band
        each = tuple(
            stage
            for first, steps in zip(range(0, points.blocks, points.band), transforms, strict=True)
            for stage in (steps, (_accumulate_step(layout, points, first, sums_offset, one_band),))
        )
        before = () if one_band else ((layout.clear(sums_offset, points.count * rows, points.lanes),),)
        after = ((_taps_step(layout, points, sums_offset, rows * points.lanes),),)
    return layout.program(
        name,
        f"{kernel.name}, {direction.described}",
        _cycles(layout, direction),
        before=before,
        each=each,
        after=after,
        instead=direct,
    )


def _near_kernel(layout: Layout, direction: Direction) -> MicroKernel | None:
    """Return the micro-kernel for sums that never leave a core, if a panel of G stays near it and all tiles at hand."""
    points, tiles = direction.points, layout.images * direction.tiles
    columns = PANEL_BYTES // max(1, points * tiles * layout.itemsize)
    channels = layout.channels + layout.out_channels
    if not tiles or points * tiles * channels * layout.itemsize > 2 * POINT_BYTES or layout.most_images < layout.images:
        return None
    # Narrow panels would read the points of x too often.
    widest = max(row.lanes for row in layout.micro_kernels)
    rows = [row for row in layout.micro_kernels if row.algorithm == "panel" and 2 * widest <= row.columns <= columns]
    return panel_kernel(rows, layout.channels, layout.out_channels)[0] if rows else None


def _place_points(layout: Layout, direction: Direction, kernel: MicroKernel, whole: bool) -> Points:
    """Find room for the points, of all tiles if they are wanted ``whole``."""
    points, channels, per_image = direction.points, layout.channels, direction.tiles
    lanes = -(-layout.out_channels // kernel.columns) * kernel.columns
    if not whole:
        layout.set_batch(points * per_image * (channels + lanes))
        # The sums go over all tiles of a batch, so every batch must be a whole one.
        while layout.images % layout.batch:
            layout.batch -= 1
    tiles = _tiles_per_block(
        per_image * layout.batch, square_kernel(layout, "grad", direction.lines.form.results).lanes
    )
    blocks = -(-per_image * layout.batch // tiles)
    block_bytes = points * (channels * tiles + SPREAD + tiles * lanes) * layout.itemsize
    band = blocks if whole else max(1, min(blocks, POINT_BYTES // block_bytes))
    places = Points(direction, kernel, channels, lanes, tiles, blocks, band, 0, 0)
    v_offset = layout.reserve(band * places.v_block)
    return replace(places, v_offset=v_offset, g_offset=layout.reserve(points * places.g_point))


def _grads_step(layout: Layout, points: Points, first: int, count: int) -> Step:
    """Return the transform of some blocks of tiles of grad_out."""
    image, channel, line, column = layout.strides(layout.out_channels, layout.out_height, layout.out_width)
    tile_lines, tile_columns = points.direction.lines.tiles, points.direction.columns.tiles
    transform = square_kernel(layout, "grad", points.m, points.kernel.columns)
    channel_tasks = points.lanes // transform.lanes
    sizes = {
        "src_image": image,
        "src_channel": channel,
        "src_line": line,
        "src_column": column,
        "dst_offset": points.g_offset,
        "dst_tile": points.kernel.columns,
        "dst_panel": points.g_panel,
        "panel": points.kernel.columns,
        "height": layout.out_height,
        "width": layout.out_width,
        "tile_lines": tile_lines,
        "tile_columns": tile_columns,
        "tiles": points.tiles,
        "first_block": first,
        "channels": layout.out_channels,
        "channel_tasks": channel_tasks,
    }
    tables = {"out_offsets": np.arange(points.count) * points.g_point}
    turn = layout.turn_kernel(transform.lanes)
    return Step(f"grads_{layout.type}", count * channel_tasks, sizes, False, transform.name, tables, turn=turn)


def _products_step(layout: Layout, points: Points) -> Step:
    """Return the step from the points of all tiles to taps (``kernels/products.h``)."""
    kernel = points.kernel
    transform = square_kernel(layout, "taps", points.m, kernel.columns)
    a_row = padded(np.arange(points.channels) * points.tiles, kernel.rows)
    row_blocks = len(a_row) // kernel.rows
    last = layout.images * points.direction.tiles - (points.blocks - 1) * points.tiles
    sizes = {
        "v_offset": points.v_offset,
        "v_point": points.v_point,
        "v_block": points.v_block,
        "g_offset": points.g_offset,
        "g_point": points.g_point,
        "g_panel": points.g_panel,
        "rows": points.channels,
        "columns": layout.out_channels,
        "row_blocks": row_blocks,
        "points": points.count,
        "blocks": points.blocks,
        "tiles": points.tiles,
        "last_tiles": last,
    }
    tables = {
        "a_row": a_row,
        "tile_row": np.arange(kernel.rows) * kernel.columns,
        "in_offsets": np.arange(points.count) * kernel.rows * kernel.columns,
        "out_offsets": np.arange(TAPS) * kernel.columns,
    }
    tasks = points.lanes // kernel.columns * row_blocks
    turn = layout.turn_kernel(transform.lanes)
    return Step(f"products_{layout.type}", tasks, sizes, False, kernel.name, tables, transform.name, turn=turn)


def _accumulate_step(layout: Layout, points: Points, first: int, sums_offset: int, one_band: bool) -> Step:
    """Return the products of some blocks of tiles, one group for each point."""
    kernel = points.kernel
    a_row = padded(np.arange(points.channels) * points.tiles, kernel.rows)
    row_blocks = len(a_row) // kernel.rows
    blocks_per_task = max(1, row_blocks * points.count // TASKS)
    row_tasks = -(-row_blocks // blocks_per_task)
    sizes = {
        "a_buffer": WORKSPACE,
        "a_offset": points.v_offset,
        "a_group": points.v_point,
        "a_image": points.v_block,
        "a_line": 0,
        "b_buffer": WORKSPACE,
        "b_offset": points.g_offset,
        "b_channel": 0,
        "b_group": points.g_point,
        "b_panel": points.g_panel,
        "b_image": points.tiles * kernel.columns,
        "b_line": 0,
        "out_offset": sums_offset,
        "out_part": 0,
        "out_group": len(a_row) * points.lanes,
        "groups": points.count,
        "parts": 1,
        "rows": points.channels,
        "columns": layout.out_channels,
        "lanes": points.lanes,
        "images": min(points.band, points.blocks - first),
        "lines": 1,
        "lines_at_once": 1,
        "repeats_per_line": 1,
        "length": points.tiles,
        "a_step": 1,
        "a_repeat": 0,
        "b_repeat": 0,
        "row_blocks": row_blocks,
        "row_tasks": row_tasks,
        "blocks_per_task": blocks_per_task,
        "one_batch": int(one_band),
        "complete": 0,
        "turned": 0,
    }
    tables = {"a_row": a_row, "out_row": np.arange(len(a_row)) * points.lanes}
    return Step(f"accumulate_{layout.type}", points.count * row_tasks, sizes, False, kernel.name, tables)


def _taps_step(layout: Layout, points: Points, sums_offset: int, sums_point: int) -> Step:
    """Return the transform of the sums to taps."""
    transform = square_kernel(layout, "taps", points.m, points.lanes)
    k_blocks = -(-layout.out_channels // transform.lanes)
    c_tasks, c_per_task = shares(points.channels, k_blocks)
    sizes = {
        "src_offset": sums_offset,
        "src_c": points.lanes,
        "k": layout.out_channels,
        "c": points.channels,
        "c_tasks": c_tasks,
        "c_per_task": c_per_task,
    }
    tables = {
        "in_offsets": np.arange(points.count) * sums_point,
        "out_offsets": np.arange(TAPS) * transform.lanes,
    }
    return Step(f"taps_{layout.type}", k_blocks * c_tasks, sizes, False, transform.name, tables)


def _tiles_per_block(tiles: int, lanes: int) -> int:
    """Return how many tiles a block has: the largest of those few multiples of the lanes that leave least unused."""
    return min((size * lanes for size in (4, 3, 2, 1)), key=lambda size: -tiles % size)


def _cycles(layout: Layout, direction: Direction) -> float:
    """Estimate the cycles of one core; the constants were measured with AVX-512."""
    m = direction.lines.form.results
    points, tiles = direction.points, layout.images * direction.tiles
    sums = points * layout.channels * layout.out_channels
    tile_bytes = tiles * points * (layout.channels + layout.out_channels) * layout.itemsize
    near = _near_kernel(layout, direction)
    rows = [near] if near else layout.micro_kernels
    kernel, products = panel_kernel(rows, layout.channels, layout.out_channels)
    sum_cycles = SUM_CYCLES if sums * layout.itemsize <= POINT_BYTES else FAR_SUM_CYCLES
    return (
        START_CYCLES
        + (tile_bytes * BYTE_CYCLES if tile_bytes > POINT_BYTES else 0)
        + points * tiles * products
        + sums * (NEAR_SUM_CYCLES if near else sum_cycles)
        + tiles
        * (layout.channels * input_cycles(direction) + layout.out_channels * GRAD_CYCLES[m])
        * vector_turns(kernel)
    )
