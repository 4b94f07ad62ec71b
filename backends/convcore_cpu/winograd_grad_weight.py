"""grad_weight by Winograd's minimal correlation, the transpose of ``winograd.py`` in the weight.

The points of tiles of x (``kernels/tiles.h``) are multiplied with those of the same tiles of grad_out (``grads.h``),
summed over tiles (``accumulate.h``, one group for each point) and transformed to taps (``taps.h``).
"""

from __future__ import annotations

import math

import numpy as np

from convcore_cpu.grad_weight import grad_weight_direct
from convcore_cpu.layout import TASKS, Layout
from convcore_cpu.program import WORKSPACE, Draft, Step, finished
from convcore_cpu.tiles import padded, panel_kernel
from convcore_cpu.winograd import (
    INPUT_CYCLES,
    POINT_BYTES,
    SPREAD,
    START_CYCLES,
    TAPS,
    admit,
    described,
    direction_of,
    shares,
    tiles_step,
    transform_kernel,
)

# What the transform of a tile of grad_out takes for each channel (cycles).
GRAD_CYCLES = {2: 12.0, 4: 24.0}
# What a point of the weight takes, to be summed up and transformed, in the last-level cache and beyond it (cycles).
SUM_CYCLES, FAR_SUM_CYCLES = 1.5, 3.0
# What the points of tiles take that the second-level cache does not hold (cycles for each byte).
BYTE_CYCLES = 0.12


def winograd_grad_weight(layout: Layout, m: int | None = None) -> Draft:
    """Lay out grad_weight as the transpose of F(m x m, 3 x 3), with the best m that is allowed if none is given."""
    name, m = admit(layout, m, _cycles)
    yield layout.cost(_cycles(layout, m))
    points, channels = (m + 2) ** 2, layout.channels
    tile_lines, tile_columns = direction_of(layout).tiles(m)
    per_image = tile_lines * tile_columns
    direct = finished(grad_weight_direct(layout))
    layout.start_again()
    kernel, _ = panel_kernel(layout.micro_kernels, channels, layout.out_channels)
    lanes = -(-layout.out_channels // kernel.columns) * kernel.columns
    layout.set_batch(points * per_image * (channels + lanes))
    # The sums go over all tiles of a batch, so every batch must be a whole one.
    while layout.images % layout.batch:
        layout.batch -= 1
    tiles = _tiles_per_block(per_image * layout.batch, transform_kernel(layout, "input", m).lanes)
    blocks = -(-per_image * layout.batch // tiles)
    v_point = channels * tiles + SPREAD
    v_block = points * v_point
    band = max(1, min(blocks, POINT_BYTES // ((v_block + points * tiles * lanes) * layout.itemsize)))
    v_offset = layout.reserve(band * v_block)
    g_point = band * tiles * lanes + SPREAD
    g_offset = layout.reserve(points * g_point)
    a_row = padded(np.arange(channels) * tiles, kernel.rows)
    sums_point = len(a_row) * lanes
    sums_offset = layout.reserve(points * sums_point)
    layout.workspace = max(layout.workspace, -(-direct.memory_bytes // layout.itemsize))

    one_band = layout.batch == layout.images and blocks <= band
    image, channel, line, column = layout.strides(layout.out_channels, layout.out_height, layout.out_width)
    grad_transform = transform_kernel(layout, "grad", m, lanes)
    row_blocks = len(a_row) // kernel.rows
    blocks_per_task = max(1, row_blocks * points // TASKS)
    row_tasks = -(-row_blocks // blocks_per_task)
    each: list[tuple[Step, ...]] = []
    for first in range(0, blocks, band):
        count = min(band, blocks - first)
        grads = Step(
            f"grads_{layout.type}",
            count * (lanes // grad_transform.lanes),
            {
                "src_image": image,
                "src_channel": channel,
                "src_line": line,
                "src_column": column,
                "dst_offset": g_offset,
                "dst_tile": kernel.columns,
                "dst_panel": band * tiles * kernel.columns,
                "panel": kernel.columns,
                "height": layout.out_height,
                "width": layout.out_width,
                "tile_lines": tile_lines,
                "tile_columns": tile_columns,
                "tiles": tiles,
                "first_block": first,
                "channels": layout.out_channels,
                "channel_tasks": lanes // grad_transform.lanes,
            },
            False,
            grad_transform.name,
            {"in_offsets": np.arange(m * m) * grad_transform.lanes, "out_offsets": np.arange(points) * g_point},
        )
        accumulate = Step(
            f"accumulate_{layout.type}",
            points * row_tasks,
            {
                "a_buffer": WORKSPACE,
                "a_offset": v_offset,
                "a_group": v_point,
                "a_image": v_block,
                "a_line": 0,
                "b_buffer": WORKSPACE,
                "b_offset": g_offset,
                "b_channel": 0,
                "b_group": g_point,
                "b_panel": band * tiles * kernel.columns,
                "b_image": tiles * kernel.columns,
                "b_line": 0,
                "out_offset": sums_offset,
                "out_part": 0,
                "out_group": sums_point,
                "groups": points,
                "parts": 1,
                "rows": channels,
                "columns": layout.out_channels,
                "lanes": lanes,
                "images": count,
                "lines": 1,
                "lines_at_once": 1,
                "repeats_per_line": 1,
                "length": tiles,
                "a_step": 1,
                "a_repeat": 0,
                "b_repeat": 0,
                "row_blocks": row_blocks,
                "row_tasks": row_tasks,
                "blocks_per_task": blocks_per_task,
                "one_batch": int(one_band),
                "complete": 0,
                "turned": 0,
            },
            False,
            kernel.name,
            {
                "a_row": a_row,
                "out_row": np.arange(len(a_row)) * lanes,
            },
        )
        each += [(tiles_step(layout, m, tiles, v_offset, first, count), grads), (accumulate,)]
    taps_transform = transform_kernel(layout, "taps", m, lanes)
    k_blocks = -(-layout.out_channels // taps_transform.lanes)
    c_tasks, c_per_task = shares(channels, k_blocks)
    taps = Step(
        f"taps_{layout.type}",
        k_blocks * c_tasks,
        {
            "src_offset": sums_offset,
            "src_c": lanes,
            "k": layout.out_channels,
            "c": channels,
            "c_tasks": c_tasks,
            "c_per_task": c_per_task,
        },
        False,
        taps_transform.name,
        {"in_offsets": np.arange(points) * sums_point, "out_offsets": np.arange(TAPS) * taps_transform.lanes},
    )
    return layout.program(
        name,
        f"{kernel.name}, {described(m)}",
        _cycles(layout, m),
        before=() if one_band else ((layout.clear(sums_offset, points * len(a_row), lanes),),),
        each=tuple(each),
        after=((taps,),),
        instead=direct,
    )


def _tiles_per_block(tiles: int, lanes: int) -> int:
    """Return how many tiles a block has: the largest of those few multiples of the lanes that leave least unused."""
    return min((size * lanes for size in (4, 3, 2, 1)), key=lambda size: -tiles % size)


def _cycles(layout: Layout, m: int) -> float:
    """Estimate the cycles of one core; the constants were measured with AVX-512."""
    points, tiles = (m + 2) ** 2, layout.images * math.prod(direction_of(layout).tiles(m))
    sums = points * layout.channels * layout.out_channels
    tile_bytes = tiles * points * (layout.channels + layout.out_channels) * layout.itemsize
    kernel, products = panel_kernel(layout.micro_kernels, layout.channels, layout.out_channels)
    return (
        START_CYCLES
        + (tile_bytes * BYTE_CYCLES if tile_bytes > POINT_BYTES else 0)
        + points * tiles * products
        + sums * (SUM_CYCLES if sums * layout.itemsize <= POINT_BYTES else FAR_SUM_CYCLES)
        + tiles * (layout.channels * INPUT_CYCLES[m] + layout.out_channels * GRAD_CYCLES[m]) * 2 * kernel.multiply
    )
