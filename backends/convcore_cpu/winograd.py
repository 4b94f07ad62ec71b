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
from convcore_cpu.program import BIAS, FIRST, Program, Step, UnsupportedError
from convcore_cpu.tiles import outer_kernel, padded

#: Points of tiles computed at a time stay in the last-level cache (bytes), so do those of the weight.
POINT_BYTES = 8 << 20
#: Added to the distance between points, so that they do not all fall into the same set of a cache (elements).
SPREAD = 16
TAPS = 9
# What the transforms of a tile take for each channel read and for each written (cycles).
INPUT_CYCLES = {2: 23.0, 4: 85.0}
OUTPUT_CYCLES = {2: 11.0, 4: 64.0}
# What two stages more than direct has take at least (cycles).
START_CYCLES = 5e4


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
    weight = points * direction.rows * direction.channels
    return (
        START_CYCLES
        + points * direction.channels * outer_kernel(layout.micro_kernels, direction.rows, tiles)[0]
        + weight * (0.7 if weight * layout.itemsize < POINT_BYTES // 2 else 2.0)
        + tiles * (direction.channels * INPUT_CYCLES[m] + direction.rows * OUTPUT_CYCLES[m])
    )


def winograd(layout: Layout, m: int | None = None) -> Program:
    """Lay out forward or grad_input as F(m x m, 3 x 3), with the best m that is allowed if none is given."""
    name, m = admit(layout, m, _cycles)
    direction = direction_of(layout)
    n = m + 2
    tile_lines, tile_columns = direction.tiles(m)
    per_image = tile_lines * tile_columns
    # The steps that compute a batch again without transforms use the same workspace.
    direct = (forward if layout.problem.op == "forward" else grad_input)(layout)
    direct_workspace, layout.workspace, layout.packed_elements = layout.workspace, 0, 0
    layout.set_batch(n * n * direction.channels * per_image)
    kernel = outer_kernel(layout.micro_kernels, direction.rows, per_image * layout.batch)[1]
    assert kernel is not None
    lanes = kernel.columns
    blocks = -(-per_image * layout.batch // lanes)
    v_point = direction.channels * lanes + SPREAD
    block = n * n * v_point
    band = max(1, min(blocks, POINT_BYTES // (block * layout.itemsize)))
    v_offset = layout.reserve(band * block)
    layout.workspace = max(layout.workspace, direct_workspace)

    weight_transform = transform_kernel(layout, "weight", m)
    u_lanes = weight_transform.lanes
    u_point = direction.channels * u_lanes + SPREAD
    u_block = n * n * u_point
    u_blocks = -(-direction.rows // u_lanes)
    u_offset = layout.reserve(u_blocks * u_block)
    taps = np.arange(TAPS) * u_lanes
    strides = (layout.channels * TAPS, TAPS)
    term_tasks, terms_per_task = shares(direction.channels, u_blocks)
    weights = Step(
        f"weights_{layout.type}",
        u_blocks * term_tasks,
        {
            "src_row": strides[direction.reverse],
            "src_term": strides[not direction.reverse],
            "dst_offset": u_offset,
            "dst_block": u_block,
            "rows": direction.rows,
            "terms": direction.channels,
            "term_tasks": term_tasks,
            "terms_per_task": terms_per_task,
        },
        False,
        weight_transform.name,
        {"in_offsets": taps[::-1].copy() if direction.reverse else taps, "out_offsets": np.arange(n * n) * u_point},
    )
    rows = np.arange(direction.rows)
    terms = np.arange(direction.channels)
    tables = {
        "offsets": np.stack([terms * u_lanes, terms * lanes], axis=-1),
        "a_row": padded(rows // u_lanes * u_block + rows % u_lanes, kernel.rows),
        "out_row": padded(rows * direction.result[1], kernel.rows),
        "tile_row": np.arange(kernel.rows) * n * n * lanes,
        "in_offsets": np.arange(n * n) * lanes,
        "out_offsets": np.arange(m) * m * lanes,
    }
    each: list[tuple[Step, ...]] = []
    for first in range(0, blocks, band):
        count = min(band, blocks - first)
        each.append((tiles_step(layout, m, lanes, v_offset, first, count),))
        row_tasks, blocks_per_task = shares(-(-direction.rows // kernel.rows), count)
        sizes = {
            "a_offset": u_offset,
            "a_point": u_point,
            "b_offset": v_offset,
            "b_block": block,
            "b_point": v_point,
            "bias_buffer": BIAS if layout.problem.bias else -1,
            "out_image": direction.result[0],
            "out_line": direction.result[2],
            "out_column": direction.result[3],
            "height": direction.out_height,
            "width": direction.out_width,
            "tile_lines": tile_lines,
            "tile_columns": tile_columns,
            "first_block": first,
            "rows": direction.rows,
            "points": n * n,
            "length": direction.channels,
            "row_tasks": row_tasks,
            "rows_per_task": blocks_per_task * kernel.rows,
        }
        transform = transform_kernel(layout, "output", m, lanes).name
        each.append((Step(f"multiply_{layout.type}", count * row_tasks, sizes, False, kernel.name, tables, transform),))
    return layout.program(
        name,
        f"{kernel.name}, F({m}x{m}, 3x3)",
        _cycles(layout, m),
        before=((weights,),),
        each=tuple(each),
        exact=direct.each + direct.exact,
    )


def tiles_step(layout: Layout, m: int, lanes: int, offset: int, first_block: int, blocks: int) -> Step:
    """Return the step that transforms some blocks of tiles, ``lanes`` tiles each, of the first operand."""
    direction, points = direction_of(layout), (m + 2) ** 2
    tile_lines, tile_columns = direction.tiles(m)
    v_point = direction.channels * lanes + SPREAD
    channel_tasks, channels_per_task = shares(direction.channels, blocks)
    image, channel, line, column = direction.source
    sizes = {
        "src_buffer": FIRST,
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
    tables = {
        "in_offsets": np.arange(2 * (m + 2)) * m * lanes,
        "out_offsets": np.arange(points) * v_point,
        "fill": np.array([direction.fill], np.float32 if layout.type == "f32" else np.float64),
    }
    kernel_name = transform_kernel(layout, "input", m, lanes).name
    return Step(f"tiles_{layout.type}", blocks * channel_tasks, sizes, False, kernel_name, tables)


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
