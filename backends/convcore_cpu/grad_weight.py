"""grad_weight: outer products whose lanes are channels (``kernels/accumulate.h``).

Lanes are the channels of one operand, which is packed, rows those of the other and its taps.  Usually the lanes are
grad_out's; a kernel of one tap leaves the choice, and then they are those of the operand with fewer channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from convcore.spi import Pair
from convcore_cpu.engine import MicroKernel
from convcore_cpu.geometry import PlaneAxis, Tap
from convcore_cpu.layout import TASKS, Layout, Planes, whole
from convcore_cpu.program import FIRST, SECOND, WORKSPACE, Draft, Step
from convcore_cpu.tiles import padded, panel_kernel

#: Pixels of grad_out gone through at a time stay in the second-level cache (bytes).
CHUNK_BYTES = 128 << 10
#: A panel of grad_out, the channels of one tile, up to here stays in the second-level cache (bytes).
PANEL_BYTES = 512 << 10
#: All images are packed at once if that is what it takes to have whole sums (bytes).
WHOLE_BATCH_BYTES = 16 << 20
#: Images of up to so many pixels are one table of offsets; of larger ones every line uses the same table.
TABLE_PIXELS = 1024
#: Tasks below which the pixels are summed in parts.
FEW_TASKS = 8
#: Where panels do not stay in a cache the pixels are summed in more parts: so many, together so large (bytes).
MOST_PARTS, PART_BYTES = 16, 4 << 20
#: What the cycles of the model are worth then.
IN_PARTS = 0.9
# Lanes a task of kernels/reduce.h takes.
REDUCED_LANES = 16


def _shares(blocks: int, groups: int, units: int, most_parts: int) -> tuple[int, int]:
    """Return in how many parts the pixels are summed, and how many blocks of rows a task takes.

    A matter of the problem, never of the threads.  ``most_parts`` is how many there may be where each of them is to be
    read from memory once, for all rows.
    """
    parts = min(units, most_parts, MOST_PARTS)
    if parts * groups >= FEW_TASKS:
        return parts, blocks
    return max(1, min(-(-FEW_TASKS // (groups * blocks)), units)), max(1, blocks * groups // TASKS)


@dataclass(frozen=True)
class Roles:
    """Which operand's channels are lanes, how many channels of a group those and the rows are, and where rows lie.

    ``stride``: pixels of the planes from one term to the next, down and across.
    """

    rows_of: int
    lanes_of: int
    row_channels: int
    lane_channels: int
    lines: PlaneAxis
    line_taps: tuple[Tap, ...]
    columns: PlaneAxis
    column_taps: tuple[Tap, ...]
    stride: Pair = (1, 1)

    @property
    def turned(self) -> bool:
        """Whether the weight, (k, c, r, s), has the rows side by side."""
        return self.lanes_of == SECOND


@dataclass(frozen=True)
class Lanes:
    """An operand as (image, group, panel, pixel, half, lane) in the workspace; how long each axis is, in elements."""

    columns: int
    panels: int
    pixel: int
    panel: int
    group: int
    image: int

    @classmethod
    def of(cls, layout: Layout, channels: int, columns: int) -> Lanes:
        """Pad the channels of a group to whole panels of so many columns."""
        panels = -(-channels * layout.halves // columns)
        pixel = layout.halves * columns
        panel = layout.out_height * layout.out_width * pixel
        return cls(columns, panels, pixel, panel, panels * panel, layout.groups * panels * panel)


def _roles(layout: Layout) -> Roles:
    """Return the operands' roles: the smaller one is packed if its pixels are those of the other.

    x keeps its stride unless most of it is never met: its elements are read one at a time, so that a step of two pixels
    costs nothing.  Without padding they are read where they lie.
    """
    c, k, problem = layout.c_per_group, layout.k_per_group, layout.problem
    no_gaps = layout.kernel_height >= problem.stride[0] and layout.kernel_width >= problem.stride[1]
    in_place = problem.layout == "NCHW" and layout.is_direct(FIRST) and problem.padding == ((0, 0), (0, 0))
    if layout.halves == 1 and problem.stride != (1, 1) and (no_gaps or in_place):
        return Roles(FIRST, SECOND, c, k, *layout.dense_axes(), problem.stride)
    axes = layout.forward_axes()
    if layout.halves == 2 or layout.taps > 1 or c >= k or not (axes[0].is_operand and axes[2].is_operand):
        return Roles(FIRST, SECOND, c, k, *axes)
    lines, columns = (PlaneAxis(size, (0,), 1, size) for size in (layout.out_height, layout.out_width))
    return Roles(SECOND, FIRST, k, c, lines, (Tap(0, 0, 0),), columns, (Tap(0, 0, 0),))


def grad_weight_direct(layout: Layout) -> Draft:
    """Lay out grad_weight as outer products: rows are (c, r, s), lanes the out_channels, terms the pixels."""
    roles = _roles(layout)
    lines, line_taps, columns, column_taps = roles.lines, roles.line_taps, roles.columns, roles.column_taps
    rows = roles.row_channels * layout.taps
    kernel, cycles = panel_kernel(layout.micro_kernels, rows, roles.lane_channels * layout.halves)
    cycles *= layout.images * layout.groups * layout.out_height * layout.out_width * layout.halves
    lanes = Lanes.of(layout, roles.lane_channels, kernel.columns)
    complete = layout.halves == 1 and layout.images * lanes.panel * layout.itemsize <= PANEL_BYTES
    padded_rows, padded_lanes = -(-rows // kernel.rows) * kernel.rows, lanes.panels * lanes.columns
    out_group = padded_rows * padded_lanes
    out_part = layout.groups * out_group
    most_parts = 0 if complete else PART_BYTES // max(1, out_part * layout.itemsize)
    if most_parts * layout.groups >= FEW_TASKS:
        cycles *= IN_PARTS
    yield layout.cost(cycles)
    # A part that is a task's own is turned by that task.
    turn = _turn(layout, roles, kernel) if most_parts * layout.groups >= FEW_TASKS else ""
    whole_images = layout.out_height * layout.out_width <= TABLE_PIXELS

    channels = layout.groups * roles.row_channels
    x = layout.in_place(roles.rows_of, lines, columns) or layout.packed(channels, lines, columns)
    layout.set_batch((0 if turn else lanes.image) + x.workspace, WHOLE_BATCH_BYTES if complete else 0)
    if not whole_images:
        layout.batch = 1
    one_batch = layout.batch == layout.images
    x, packing = layout.place(x, roles.rows_of, channels, lines, columns)

    channel_rows = np.arange(roles.row_channels)[:, None] * layout.halves * x.channel
    a_row = padded((channel_rows + x.taps(line_taps, column_taps)).ravel(), kernel.rows)
    blocks = len(a_row) // kernel.rows
    parts, blocks_per_task = _shares(blocks, layout.groups, layout.batch * layout.out_height, most_parts)
    row_tasks = -(-blocks // max(1, blocks_per_task))
    complete = complete and one_batch and parts == 1
    lines_at_once = max(1, CHUNK_BYTES // (layout.out_width * layout.halves * padded_lanes * layout.itemsize))
    if turn:
        b, turning = _operand_lanes(layout, roles), ()
        layout.scratch = min(lines_at_once, layout.out_height) * layout.out_width * padded_lanes
    else:
        b, turning = _packed_lanes(layout, roles, lanes)
    out_offset = 0 if complete else layout.reserve(parts * out_part)
    sizes = {
        "a_buffer": x.buffer,
        "a_offset": x.offset,
        "a_group": roles.row_channels * layout.halves * x.channel,
        "a_image": x.image,
        "a_line": roles.stride[0] * x.pitch,
        **b,
        "out_offset": out_offset,
        "out_part": out_part,
        "out_group": out_group,
        "groups": layout.groups,
        "parts": parts,
        "rows": rows,
        "columns": roles.lane_channels * layout.halves,
        "lanes": padded_lanes,
        "images": 0,
        "lines": layout.out_height,
        "lines_at_once": lines_at_once,
        **_terms(layout, roles, x, lanes),
        "row_blocks": blocks,
        "row_tasks": row_tasks,
        "blocks_per_task": blocks_per_task,
        "one_batch": int(one_batch),
        "complete": int(complete),
        "turned": int(roles.turned),
    }
    tables = {
        "a_row": a_row,
        "out_row": np.arange(len(a_row)) * (kernel.columns if complete else padded_lanes),
    }
    tasks = parts * layout.groups * row_tasks
    clear = () if one_batch else (layout.clear(out_offset, parts * layout.groups * padded_rows, padded_lanes),)
    # Complete tiles are turned when they are stored, others' grad_out before it is multiplied.
    turn = layout.turn if complete else turn
    accumulate = Step(f"accumulate_{layout.type}", tasks, sizes, False, kernel.name, tables, turn)
    steps = {"src_row": padded_lanes, "src_lane": 1} if roles.turned else {"src_row": 1, "src_lane": padded_lanes}
    reduce = sum_parts(
        layout, layout.groups, src_offset=out_offset, src_part=out_part, src_group=out_group, parts=parts,
        rows=layout.c_per_group * layout.taps, lanes=layout.k_per_group * layout.halves, **steps,
    )  # fmt: skip
    return layout.program(
        "direct",
        kernel.name,
        cycles,
        before=(clear,),
        each=((*packing, *turning), (accumulate,)),
        after=() if complete else ((reduce,),),
    )


def _terms(layout: Layout, roles: Roles, x: Planes, lanes: Lanes) -> dict[str, int]:
    """Return how the pixels of a line are gone through: the fields of ``panel_loop``, for the halves pixel by pixel."""
    if layout.halves == 1:
        width = layout.out_width
        return {
            "repeats_per_line": 1,
            "length": width,
            "a_step": roles.stride[1],
            "a_repeat": roles.stride[0] * x.pitch,
            "b_repeat": width * lanes.pixel,
        }
    return {
        "repeats_per_line": layout.out_width,
        "length": layout.halves,
        "a_step": x.channel,
        "a_repeat": 1,
        "b_repeat": lanes.pixel,
        "lines_at_once": 1,
    }


def _turn(layout: Layout, roles: Roles, kernel: MicroKernel) -> str:
    """Return the name of the micro-kernel that turns the lanes' operand where it lies, if one can."""
    if layout.problem.layout != "NCHW" or not layout.is_direct(roles.lanes_of):
        return ""
    rows = (row for row in layout.micro_kernels if row.algorithm == "turn" and row.columns == kernel.lanes)
    return next((row.name for row in rows), "")


def _operand_lanes(layout: Layout, roles: Roles) -> dict[str, int]:
    """Return where an operand lies whose pixels a task turns."""
    image, channel, line, _ = layout.strides(layout.groups * roles.lane_channels, layout.out_height, layout.out_width)
    return {
        "b_buffer": roles.lanes_of,
        "b_offset": 0,
        "b_group": roles.lane_channels * channel,
        "b_panel": 0,
        "b_image": image,
        "b_line": line,
        "b_channel": channel,
    }


def _packed_lanes(layout: Layout, roles: Roles, lanes: Lanes) -> tuple[dict[str, int], tuple[Step, ...]]:
    """Return where an operand will lie in lanes, those past the last channel zero, and the steps that bring it there.

    Of complex numbers the lanes of the real half are (re, im) for each k, those of the imaginary half (-im, re).
    """
    h, k = layout.halves, roles.lane_channels
    offset = layout.reserve(layout.batch * lanes.image)
    image, channel, _, pixel = layout.strides(layout.groups * k, layout.out_height, layout.out_width)
    wide = lanes.columns // h
    panels = np.array(
        [[wide, 0, min(wide, k - first), first * channel, channel] for first in range(0, k, wide)], np.int64
    )
    sizes = {
        "b_buffer": WORKSPACE,
        "b_offset": offset,
        "b_group": lanes.group,
        "b_panel": lanes.panel,
        "b_image": lanes.image,
        "b_line": layout.out_width * lanes.pixel,
        "b_channel": 0,
    }
    return sizes, tuple(
        layout.pack_step(
            roles.lanes_of,
            lines=whole(layout.out_height * layout.out_width, pixel),
            columns=panels,
            src_offset=int(row != half),
            src_image=image,
            src_channel=k * channel,
            dst_offset=offset + row * lanes.columns + half,
            dst_image=lanes.image,
            dst_channel=lanes.group,
            dst_column_phase=lanes.panel,
            dst_line=lanes.pixel,
            dst_column=h,
            channels=layout.groups,
            negate=int((row, half) == (1, 0)),
        )
        for row, half in product(range(h), repeat=2)
    )


def sum_parts(layout: Layout, groups: int, **sizes: int) -> Step:
    """Return the step that adds up the parts of a weight (``kernels/reduce.h``)."""
    blocks = -(-sizes["lanes"] // REDUCED_LANES)
    sizes |= {"interleave": layout.halves, "lane_blocks": blocks}
    return Step(f"reduce_{layout.type}", groups * blocks, sizes, False)
