"""Winograd's minimal correlation of 3x3 kernels: forward and grad_input.

F(m x m, 3 x 3) makes m x m results of a tile of (m+2) x (m+2) pixels with (m+2)**2 multiplications for each pair of
channels instead of 9 m**2: 4 a result for m = 2, 2.25 for m = 4.  What is multiplied are the points of the tile
(``kernels/tiles.h``) and of the kernel (``weights.h``), each a transform; the sums over channels are transformed back
(``multiply.h``).  grad_input is forward on grad_out, with the taps reversed and the channels exchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from convcore.spi import Problem
from convcore_cpu.correlate import forward, grad_input
from convcore_cpu.engine import MicroKernel
from convcore_cpu.layout import TASKS, Layout
from convcore_cpu.program import Draft, Program, Step, UnsupportedError, finished
from convcore_cpu.tiles import padded, panel_kernel

#: Points of tiles computed at a time stay in the last-level cache (bytes), so do those of the weight.
POINT_BYTES = 8 << 20
#: Points of a block of tiles stay in the second-level cache of the thread that multiplies them (bytes).
BLOCK_BYTES = 640 << 10
#: Blocks there should be for each thread, so that all end at about the same time.
BLOCKS_PER_THREAD = 4
#: Points of a weight computed at a time by a thread stay in the second-level cache (bytes).
FUSED_BYTES = 384 << 10
#: So do the sums of so many tiles.
FUSED_TILES = 200
#: Points of a large weight computed at a time (bytes).
ROW_BYTES = 4 << 20
#: Added to the distance between points, so that they do not all fall into the same set of a cache (elements).
SPREAD = 16
#: Rounding errors measured, as multiples of direct's.
ERRORS = {2: 0.9, 4: 2.9}
TAPS = 9
# What the transforms of a tile take for each channel read and for each written (cycles).
INPUT_CYCLES = {2: 12.0, 4: 36.0}
OUTPUT_CYCLES = {2: 8.0, 4: 20.0}
# How much of that it is where the points of a block stay near the core.
NEAR = 0.6
# What a point of a packed weight takes to be read (cycles).
READ_CYCLES = 0.5
# What two stages more than direct has take at least (cycles).
START_CYCLES = 2e4


def shares(units: int, others: int) -> tuple[int, int]:
    """Return in how many tasks units are done where there are ``others`` times as many tasks, and how many by each."""
    units_each = -(-units // min(units, -(-TASKS // others)))
    return -(-units // units_each), units_each


@dataclass(frozen=True)
class Direction:
    """What tells the two directions apart: the image read, the image written, their way through the weight's points.

    ``source`` and ``result`` are (image, channel, line, column) strides; ``row`` and ``term`` those of the points.
    """

    channels: int
    height: int
    width: int
    source: tuple[int, int, int, int]
    top: int
    left: int
    fill: float
    rows: int
    out_height: int
    out_width: int
    result: tuple[int, int, int, int]
    reverse: bool

    def tiles(self, m: int) -> tuple[int, int]:
        """Return the lines and columns of tiles of an image."""
        return -(-self.out_height // m), -(-self.out_width // m)


def refusal(problem: Problem) -> str:
    """Return why a problem cannot be computed so, or nothing."""
    if problem.weight_shape[2:] != (3, 3):
        return "knows 3x3 kernels only"
    if problem.stride != (1, 1) or problem.dilation != (1, 1):
        return "knows stride 1 and dilation 1 only"
    if problem.boundary != "constant":
        return "knows constant padding only"
    if problem.groups != 1:
        return "knows one group only"
    if problem.result_dtype.str[1:] not in ("f4", "f8"):
        return "knows float32 and float64 only"
    return ""


def direction_of(layout: Layout) -> Direction:
    """Return the direction of the problem's operation; grad_weight reads the image forward reads."""
    (top, _), (left, _) = layout.problem.padding
    x = layout.strides(layout.channels, layout.height, layout.width)
    y = layout.strides(layout.out_channels, layout.out_height, layout.out_width)
    if layout.problem.op != "grad_input":
        return Direction(
            channels=layout.channels,
            height=layout.height,
            width=layout.width,
            source=x,
            top=top,
            left=left,
            fill=layout.problem.fill_value.real,
            rows=layout.out_channels,
            out_height=layout.out_height,
            out_width=layout.out_width,
            result=y,
            reverse=False,
        )
    return Direction(
        channels=layout.out_channels,
        height=layout.out_height,
        width=layout.out_width,
        source=y,
        top=2 - top,
        left=2 - left,
        fill=0,
        rows=layout.channels,
        out_height=layout.height,
        out_width=layout.width,
        result=x,
        reverse=True,
    )


def allowed(problem: Problem) -> tuple[int, ...]:
    """Return tiles the accuracy policy allows: F(2, 3) errs no more than direct does, F(4, 3) up to 4 times that."""
    return (2,) if problem.accuracy == "strict" else (2, 4)


def described(m: int) -> str:
    """Return what ``explain()`` says of a size of tile."""
    return f"F({m}x{m}, 3x3), whose error is up to {ERRORS[m]} times that of direct"


def admit(layout: Layout, m: int | None, cycles: Callable[[Layout, int], float]) -> tuple[str, int]:
    """Return the name of the algorithm and the size of tile, the best that is allowed if none is given.

    Raises
    ------
    UnsupportedError
        If it cannot do the problem, or may not.
    """
    reason = refusal(layout.problem)
    if reason:
        raise UnsupportedError(f"its Winograd algorithm {reason}")
    if m is None:
        return "winograd", min(allowed(layout.problem), key=lambda m: cycles(layout, m))
    if m not in allowed(layout.problem):
        raise UnsupportedError(
            f"its algorithm 'winograd{m}' errs more than accuracy {layout.problem.accuracy!r} allows"
        )
    return f"winograd{m}", m


def _cycles(layout: Layout, m: int) -> float:
    """Estimate the cycles of one core; the constants were measured with AVX-512."""
    direction, points = direction_of(layout), (m + 2) ** 2
    tiles = layout.images * math.prod(direction.tiles(m))
    kernels = direction.rows * direction.channels
    # The choice of an algorithm decides bits, so it must not depend on how many threads there are.
    block_kernel = None if _is_fused(layout, m) else _block_kernel(layout, m, threads=2)
    if _is_fused(layout, m):
        # The tiles are the rows here.  A weight is read from memory, or the last-level cache.
        kernel, products = panel_kernel(layout.micro_kernels, tiles, direction.rows)
        weights = READ_CYCLES * points if layout.prepacked else 12 + 0.3 * points
    else:
        rows = [block_kernel] if block_kernel else layout.micro_kernels
        kernel, products = panel_kernel(rows, direction.rows, tiles)
        in_cache = kernels * points * layout.itemsize < POINT_BYTES // 2
        weights = 0.4 * points if in_cache else 10 + 0.6 * points
    transforms = tiles * (direction.channels * INPUT_CYCLES[m] + direction.rows * OUTPUT_CYCLES[m])
    transforms *= 2 * kernel.multiply * (NEAR if block_kernel else 1.0)
    return START_CYCLES + points * direction.channels * products + kernels * weights + transforms


def winograd(layout: Layout, m: int | None = None) -> Draft:
    """Lay out forward or grad_input as F(m x m, 3 x 3), with the best m that is allowed if none is given."""
    name, m = admit(layout, m, _cycles)
    yield layout.cost(_cycles(layout, m))
    direction = direction_of(layout)
    n = m + 2
    tile_lines, tile_columns = direction.tiles(m)
    per_image = tile_lines * tile_columns
    direct = finished((forward if layout.problem.op == "forward" else grad_input)(layout))
    layout.start_again()
    u_lanes = transform_kernel(layout, "weight", m).lanes
    u_block = n * n * (direction.channels * u_lanes + SPREAD)
    u_bytes = -(-direction.rows // u_lanes) * u_block * layout.itemsize
    if _is_fused(layout, m):
        return _fused(layout, name, m, direct)
    if layout.prepacked:
        raise UnsupportedError("its Winograd algorithm packs no weight for so many tiles")
    block_kernel = _block_kernel(layout, m, layout.most_threads)
    if block_kernel:
        return _by_blocks(layout, name, m, block_kernel, direct)
    # A large weight is worth more tiles at a time: each batch reads all of it.
    layout.set_batch(n * n * direction.channels * per_image, min(u_bytes, 2 * POINT_BYTES))
    kernel, _ = panel_kernel(layout.micro_kernels, direction.rows, per_image * layout.batch)
    lanes = kernel.columns
    blocks = -(-per_image * layout.batch // lanes)
    block = n * n * (direction.channels * lanes + SPREAD)
    one_batch = layout.batch == layout.images
    most = 2 * POINT_BYTES if one_batch and u_bytes > POINT_BYTES else POINT_BYTES
    band = max(1, min(blocks, most // (block * layout.itemsize)))
    v_offset = layout.reserve(band * block)

    # Points of the weight that are used once need not go through memory: while some rows are multiplied, the next are
    # transformed.
    in_turn = one_batch and band == blocks and u_bytes > 2 * ROW_BYTES
    rows = _rows_at_once(kernel.rows, u_lanes, u_block * layout.itemsize) if in_turn else direction.rows
    rows = min(rows, direction.rows)
    u_size = -(-rows // u_lanes) * u_block
    u_offsets = layout.reserve(u_size), layout.reserve(u_size if rows < direction.rows else 0)
    starts = range(0, direction.rows, rows)
    weights = [
        _weights_step(layout, m, u_offsets[i % 2], (first, min(rows, direction.rows - first)))
        for i, first in enumerate(starts)
    ]
    layout.workspace = max(layout.workspace, -(-direct.memory_bytes // layout.itemsize))
    each: list[tuple[Step, ...]] = []
    for first_block in range(0, blocks, band):
        count = min(band, blocks - first_block)
        each.append((tiles_step(layout, m, lanes, v_offset, first_block, count),))
        for i, first in enumerate(starts):
            step = _multiply_step(
                layout,
                m,
                kernel,
                (u_offsets[i % 2], v_offset),
                (first_block, count),
                (first, min(rows, direction.rows - first)),
            )
            each.append((step, *weights[i + 1 : i + 2]))
    return layout.program(
        name,
        f"{kernel.name}, {described(m)}",
        _cycles(layout, m),
        before=((weights[0],),),
        each=tuple(each),
        instead=direct,
    )


def _block_kernel(layout: Layout, m: int, threads: int) -> MicroKernel | None:
    """Return the micro-kernel for which a block of tiles stays near the core, if so many threads have enough."""
    direction, points = direction_of(layout), (m + 2) ** 2
    tiles = layout.images * math.prod(direction.tiles(m))
    most = BLOCK_BYTES // (points * direction.channels * layout.itemsize)
    rows = [row for row in layout.micro_kernels if row.columns <= most]
    if not any(row.algorithm == "panel" for row in rows):
        return None
    kernel, _ = panel_kernel(rows, direction.rows, tiles)
    return kernel if tiles >= BLOCKS_PER_THREAD * threads * kernel.columns else None


def _by_blocks(layout: Layout, name: str, m: int, kernel: MicroKernel, direct: Program) -> Program:
    """Lay out a problem of many tiles, each block of which one task brings to results (``kernels/blocks.h``)."""
    direction, points = direction_of(layout), (m + 2) ** 2
    blocks = -(-layout.batch * math.prod(direction.tiles(m)) // kernel.columns)
    u_lanes = transform_kernel(layout, "weight", m).lanes
    u_offset = layout.reserve(-(-direction.rows // u_lanes) * points * (direction.channels * u_lanes + SPREAD))
    layout.scratch = points * (direction.channels * kernel.columns + SPREAD)
    layout.workspace = max(layout.workspace, -(-direct.memory_bytes // layout.itemsize))
    tiles = tiles_step(layout, m, kernel.columns, 0, 0, blocks)
    products = _multiply_step(layout, m, kernel, (u_offset, 0), (0, blocks), (0, direction.rows))
    return layout.program(
        name,
        f"{kernel.name}, {described(m)}",
        _cycles(layout, m),
        before=((_weights_step(layout, m, u_offset, (0, direction.rows)),),),
        each=((Step(f"blocks_{layout.type}", blocks, {}, False, parts=(tiles, products)),),),
        instead=direct,
    )


def _is_fused(layout: Layout, m: int) -> bool:
    """Whether the weight is large and the tiles of all images few, but some."""
    direction, points = direction_of(layout), (m + 2) ** 2
    tiles = layout.images * math.prod(direction.tiles(m))
    v_bytes = points * direction.channels * tiles * layout.itemsize
    u_bytes = points * direction.channels * direction.rows * layout.itemsize
    if not 0 < tiles <= FUSED_TILES:
        return False
    if layout.prepacked:
        return v_bytes <= POINT_BYTES
    return u_bytes > FUSED_BYTES and v_bytes <= min(u_bytes, POINT_BYTES)


def _fused(layout: Layout, name: str, m: int, direct: Program) -> Program:
    """Lay out a problem of few tiles, whose weight is transformed where it is multiplied (``kernels/fused.h``)."""
    direction, points = direction_of(layout), (m + 2) ** 2
    tiles = layout.images * math.prod(direction.tiles(m))
    weight, result = transform_kernel(layout, "weight", m), transform_kernel(layout, "result", m)
    rows = [row for row in layout.micro_kernels if row.columns % weight.lanes == 0]
    kernel, _ = panel_kernel(rows, tiles, direction.rows)
    v_lanes = transform_kernel(layout, "input", m).lanes
    blocks = -(-tiles // v_lanes)
    v_point = direction.channels * v_lanes + SPREAD
    v_offset = layout.reserve(blocks * points * v_point)
    terms = max(16, min(direction.channels, FUSED_BYTES // (kernel.columns * points * layout.itemsize)))
    if layout.prepacked:
        terms = direction.channels
    u_point = terms * kernel.columns + SPREAD
    weights = _weights_step(layout, m, 0, (0, direction.rows), u_point, kernel.columns)
    tasks = -(-direction.rows // kernel.columns)
    if layout.prepacked:
        layout.packing, layout.packed_size = (weights,), tasks * points * u_point
    index = padded(np.arange(tiles), kernel.rows)
    sums_offset = 0 if layout.prepacked else points * u_point
    layout.scratch = sums_offset + points * len(index) * kernel.columns
    layout.workspace = max(layout.workspace, -(-direct.memory_bytes // layout.itemsize))
    step = Step(
        f"fused_{layout.type}",
        tasks,
        {
            **_result_sizes(layout, m),
            "v_offset": v_offset,
            "v_point": v_point,
            "v_step": v_lanes,
            "out_channel": direction.result[1],
            "tiles": tiles,
            "rows": direction.rows,
            "points": points,
            "terms": direction.channels,
            "terms_at_once": terms,
            "sums_offset": sums_offset,
            "u_point": u_point,
            "prepacked": int(layout.prepacked),
        },
        False,
        kernel.name,
        {
            "a_row": index // v_lanes * points * v_point + index % v_lanes,
            "tile_row": np.arange(len(index)) * points * kernel.columns,
            "in_offsets": np.arange(points) * kernel.columns,
            "out_offsets": np.arange(m * m) * weight.lanes,
        },
        result.name,
        (weights,),
    )
    return layout.program(
        name,
        f"{kernel.name}, {described(m)}",
        _cycles(layout, m),
        each=((tiles_step(layout, m, v_lanes, v_offset, 0, blocks),), (step,)),
        instead=direct,
    )


def _rows_at_once(tile_rows: int, lanes: int, block_bytes: int) -> int:
    """Return how many rows are multiplied at a time: whole tiles, in blocks of the weight with few lanes left over."""
    blocks = max(1, ROW_BYTES // block_bytes)
    return max(
        range(tile_rows, max(tile_rows, blocks * lanes) + 1, tile_rows), key=lambda rows: rows / (-(-rows // lanes))
    )


def _weights_step(
    layout: Layout, m: int, offset: int, rows: tuple[int, int], point: int = 0, dst_rows: int = 0
) -> Step:
    """Return the transform of some rows, (first, count), into blocks of ``dst_rows`` with points ``point`` apart."""
    direction, points = direction_of(layout), (m + 2) ** 2
    transform = transform_kernel(layout, "weight", m)
    dst_rows = dst_rows or transform.lanes
    point = point or direction.channels * dst_rows + SPREAD
    strides = (layout.channels * TAPS, TAPS)
    blocks = -(-rows[1] // transform.lanes)
    term_tasks, terms_per_task = shares(direction.channels, blocks)
    sizes = {
        "src_row": strides[direction.reverse],
        "src_term": strides[not direction.reverse],
        "dst_offset": offset,
        "dst_block": points * point,
        "dst_rows": dst_rows,
        "first_row": rows[0],
        "rows": rows[1],
        "terms": direction.channels,
        "term_tasks": term_tasks,
        "terms_per_task": terms_per_task,
    }
    taps = np.arange(TAPS) * transform.lanes
    tables = {
        "in_offsets": taps[::-1].copy() if direction.reverse else taps,
        "out_offsets": np.arange(points) * point,
    }
    return Step(f"weights_{layout.type}", blocks * term_tasks, sizes, False, transform.name, tables, layout.turn)


def _result_sizes(layout: Layout, m: int) -> dict[str, int]:
    """Return the sizes that tell a step where the results of tiles go."""
    direction = direction_of(layout)
    tile_lines, tile_columns = direction.tiles(m)
    image, _, line, column = direction.result
    return {
        "bias_buffer": layout.bias_buffer,
        "out_image": image,
        "out_line": line,
        "out_column": column,
        "height": direction.out_height,
        "width": direction.out_width,
        "tile_lines": tile_lines,
        "tile_columns": tile_columns,
    }


def _multiply_step(
    layout: Layout,
    m: int,
    kernel: MicroKernel,
    offsets: tuple[int, int],
    blocks: tuple[int, int],
    rows: tuple[int, int],
) -> Step:
    """Return the products of some blocks of tiles by some rows, (first, count) each; ``offsets`` are of both points."""
    direction, points, lanes = direction_of(layout), (m + 2) ** 2, kernel.columns
    u_lanes = transform_kernel(layout, "weight", m).lanes
    u_point, v_point = direction.channels * u_lanes + SPREAD, direction.channels * lanes + SPREAD
    row_tasks, row_blocks_per_task = shares(-(-rows[1] // kernel.rows), blocks[1])
    sizes = {
        **_result_sizes(layout, m),
        "a_offset": offsets[0],
        "a_point": u_point,
        "a_step": u_lanes,
        "b_offset": offsets[1],
        "b_block": points * v_point,
        "b_point": v_point,
        "first_block": blocks[0],
        "first_row": rows[0],
        "last_row": rows[0] + rows[1],
        "points": points,
        "bias_point": m + 3,
        "length": direction.channels,
        "row_tasks": row_tasks,
        "rows_per_task": row_blocks_per_task * kernel.rows,
    }
    transform = transform_kernel(layout, "output", m, lanes)
    u_rows = np.arange(rows[1])
    tables = {
        "a_row": padded(u_rows // u_lanes * points * u_point + u_rows % u_lanes, kernel.rows),
        "out_row": np.arange(direction.rows) * direction.result[1],
        "tile_row": np.arange(kernel.rows) * points * lanes,
        "in_offsets": np.arange(points) * lanes,
        "out_offsets": np.arange(m) * m * transform.lanes,
    }
    return Step(f"multiply_{layout.type}", blocks[1] * row_tasks, sizes, False, kernel.name, tables, transform.name)


def tiles_step(layout: Layout, m: int, lanes: int, offset: int, first_block: int, blocks: int) -> Step:
    """Return the step that transforms some blocks of tiles, ``lanes`` tiles each, of the first operand."""
    direction, points = direction_of(layout), (m + 2) ** 2
    tile_lines, tile_columns = direction.tiles(m)
    v_point = direction.channels * lanes + SPREAD
    channel_tasks, channels_per_task = shares(direction.channels, blocks)
    image, channel, line, column = direction.source
    sizes = {
        "src_image": image,
        "src_channel": channel,
        "src_line": line,
        "src_column": column,
        "dst_offset": offset,
        "dst_block": points * v_point,
        "height": direction.height,
        "width": direction.width,
        "top": direction.top,
        "left": direction.left,
        "tile_lines": tile_lines,
        "tile_columns": tile_columns,
        "lanes": lanes,
        "first_block": first_block,
        "channels": direction.channels,
        "channel_tasks": channel_tasks,
        "channels_per_task": channels_per_task,
    }
    transform = transform_kernel(layout, "input", m, lanes)
    tables = {
        "in_offsets": np.arange(2 * (m + 2)) * m * transform.lanes,
        "out_offsets": np.arange(points) * v_point,
        "fill": np.array([direction.fill], np.float32 if layout.type == "f32" else np.float64),
    }
    return Step(f"tiles_{layout.type}", blocks * channel_tasks, sizes, False, transform.name, tables)


def transform_kernel(layout: Layout, kind: str, m: int, columns: int = 0) -> MicroKernel:
    """Return the widest transform whose vectors divide so many columns."""
    return max(
        (
            row
            for row in layout.micro_kernels
            if row.algorithm == f"winograd_{kind}" and row.rows == m and columns % row.lanes == 0
        ),
        key=lambda row: row.lanes,
    )
