"""Winograd's minimal correlation: forward, and grad_input of stride 1.

F(m, r) makes m results of r taps along an axis with m + r - 1 multiplications instead of m*r; along both axes, F(4, 3)
takes 2.25 for a result instead of 9.  What is multiplied are the points of the tile (``kernels/tiles.h``) and of the
kernel (``weights.h``), each a transform; the sums over channels are transformed back (``multiply.h``).  A kernel
longer than r taps is a sum of pieces, one with a stride a sum over its phases: terms like channels.  With a dilation of
d the results a multiple of d apart are a correlation without, of the pixels that they meet; there are d of them along
an axis, its phases.  grad_input is forward on grad_out, with the taps reversed and the channels exchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from convcore.spi import Problem
from convcore_cpu.correlate import forward, grad_input
from convcore_cpu.engine import MicroKernel
from convcore_cpu.geometry import PlaneAxis
from convcore_cpu.layout import SPREAD, TASKS, Layout
from convcore_cpu.program import Draft, Program, Step, UnsupportedError, finished
from convcore_cpu.tiles import padded, panel_kernel

#: Points of tiles computed at a time stay in the last-level cache (bytes), so do those of the weight.
POINT_BYTES = 8 << 20
#: Points of a block of tiles stay in the second-level cache of the thread that multiplies them (bytes).
BLOCK_BYTES = 640 << 10
#: Blocks there should be for each thread, so that all end at about the same time.
BLOCKS_PER_THREAD = 4
#: How much longer than the best a block may take that is wider.
WIDE = 1.06
#: Points of a weight computed at a time by a thread stay in the second-level cache (bytes).
FUSED_BYTES = 384 << 10
#: So do the sums of so many tiles.
FUSED_TILES = 200
#: Points of a large weight computed at a time (bytes).
ROW_BYTES = 4 << 20
#: Tiles transformed at a time, which have lines of the image in common.
TILES_AT_ONCE = 96
#: Taps of a kernel there is room for on the stack, MAX_TAPS of ``kernels/micro.h``.
MOST_TAPS = 128
#: Phases of a dilation, each of which is some steps of the program.
MOST_PHASES = 36
# What transforms take (cycles), fitted to 120 programs of 20 layers: a line of a tile of a channel that is read, and a
# point; a point of a row that is written, and a result.
LINE_CYCLES, INPUT_CYCLES, OUTPUT_CYCLES, RESULT_CYCLES = 4.5, 0.75, 0.37, 0.32
# How much more it is without AVX-512, whose registers are twice as many as AVX2 has.
CROWDED = 1.4
# How much of that it is where the points of a block stay near the core.
NEAR = 0.8
# 16 taps of a kernel or fewer, turned together; a point where it is multiplied, with AVX-512 and without; a point in
# the last-level cache, beyond it, and of a packed weight.
TURN_CYCLES, FUSED_CYCLES, FUSED_CROWDED_CYCLES, NEAR_CYCLES, FAR_CYCLES, READ_CYCLES = 10.0, 0.45, 0.8, 0.3, 2.0, 0.5
#: Of the forms of an axis those are compared that take up to so many times the multiplications of the best.
WORTH_A_LOOK = 1.1
# What two stages more than direct has take at least (cycles).
START_CYCLES = 2e4


def shares(units: int, others: int) -> tuple[int, int]:
    """Return in how many tasks units are done where there are ``others`` times as many tasks, and how many by each."""
    units_each = -(-units // min(units, -(-TASKS // others)))
    return -(-units // units_each), units_each


@dataclass(frozen=True)
class Form:
    """F(results, taps) along an axis; F(1, 1) transforms nothing.  ``error`` is that of its rounding, in direct's."""

    results: int
    taps: int
    error: float = 1.0

    @property
    def points(self) -> int:
        """Return the multiplications of a tile."""
        return self.results + self.taps - 1


NONE = Form(1, 1)
#: The forms of 4 and 6 points by the number in the name of their algorithm, with the errors of full pieces measured.
FORMS = {
    2: (Form(2, 3, 0.85), Form(3, 2, 1.05)),
    4: (Form(4, 3, 1.85), Form(3, 4, 1.5), Form(5, 2, 2.4), Form(2, 5, 1.4)),
}
#: Errors each accuracy allows, in direct's.
MOST_ERROR = {"strict": 1.0, "standard": 4.0, "fast": math.inf}


@dataclass(frozen=True)
class Piece:
    """Some taps of an axis, of one phase of its stride, -1 for one there is not; they begin ``first`` positions on."""

    phase: int
    first: int
    taps: tuple[int, ...]


@dataclass(frozen=True)
class Axis:
    """One axis of the tiles: ``outputs`` results, the positions of the image they need, the pieces of the kernel."""

    form: Form
    kernel: int
    outputs: int
    pieces: tuple[Piece, ...]
    plane: PlaneAxis

    @property
    def tiles(self) -> int:
        """Return how many tiles there are along it."""
        return -(-self.outputs // self.form.results)

    @property
    def more(self) -> int:
        """Return how many more positions tiles need than they have results."""
        return max(piece.first for piece in self.pieces) + self.form.points - self.form.results

    @property
    def error(self) -> float:
        """Return the rounding error, in direct's: missing taps add some that direct does not have."""
        return self.form.error * math.sqrt(len(self.pieces) * self.form.taps / self.kernel)


def axis_of(
    form: Form,
    kernel: int,
    stride: int,
    padding: int,
    extent: int,
    outputs: int,
    reverse: bool,
    dilation: int = 1,
    result: int = 0,
) -> Axis:
    """Lay out an axis of a correlation, with its taps in reverse if so said; with a dilation, from a result on.

    A stride or a dilation is 1.
    """
    pieces, r = [], form.taps
    outputs = -(-(outputs - result) // dilation)
    for phase in range(min(stride, kernel)):
        taps = [kernel - 1 - tap if reverse else tap for tap in range(phase, kernel, stride)]
        for first in range(0, len(taps), r):
            some = taps[first : first + r]
            pieces.append(Piece(phase, first, (*some, *[-1] * (r - len(some)))))
    starts = tuple(result + phase - padding for phase in range(min(stride, kernel)))
    axis = Axis(form, kernel, outputs, tuple(pieces), PlaneAxis(0, starts, stride * dilation, extent))
    return replace(axis, plane=replace(axis.plane, size=axis.tiles * form.results + axis.more))


@dataclass(frozen=True)
class Direction:
    """What tells the two directions apart: the image read, the image written, their way through the weight's points.

    ``result`` are (image, channel, line, column) strides of the image written, ``image`` is the first of the one read.
    With a dilation it is the direction of one of ``phases``, whose results begin with element ``first``.
    """

    channels: int
    lines: Axis
    columns: Axis
    image: int
    fill: float
    rows: int
    result: tuple[int, int, int, int]
    reverse: bool
    phases: int = 1
    first: int = 0

    @property
    def tiles(self) -> int:
        """Return how many tiles an image has."""
        return self.lines.tiles * self.columns.tiles

    @property
    def points(self) -> int:
        """Return how many points a tile has."""
        return self.lines.form.points * self.columns.form.points

    @property
    def results(self) -> int:
        """Return how many results a tile has."""
        return self.lines.form.results * self.columns.form.results

    @property
    def pieces(self) -> int:
        """Return how many terms of the sum a channel is."""
        return len(self.lines.pieces) * len(self.columns.pieces)

    @property
    def terms(self) -> int:
        """Return how many terms the sum has."""
        return self.channels * self.pieces

    @property
    def error(self) -> float:
        """Return the rounding error, in direct's."""
        return self.lines.error * self.columns.error

    @property
    def described(self) -> str:
        """Return what ``explain()`` says of it."""
        axes = [axis for axis in (self.lines, self.columns) if axis.form != NONE]
        line, column = self.lines.form, self.columns.form
        tile = f"F({line.results}x{column.results}, {line.taps}x{column.taps})"
        pieces = f" in {self.pieces} pieces" if self.pieces > 1 else ""
        along = "" if len(axes) == 2 else f" along {'columns' if self.columns.form == NONE else 'lines'}"
        return f"{tile}{along}{pieces}, whose error is up to {self.error:.1f} times that of direct"


def refusal(problem: Problem) -> str:
    """Return why a problem cannot be computed so, or nothing."""
    kernel, strided = problem.weight_shape[2:], problem.stride != (1, 1)
    if kernel == (1, 1):
        return "knows no 1x1 kernels"
    if math.prod(kernel) > MOST_TAPS:
        return f"knows kernels of at most {MOST_TAPS} taps"
    if problem.op == "grad_weight" and (kernel != (3, 3) or strided):
        return "knows grad_weight of 3x3 kernels and stride 1 only"
    if problem.op == "grad_input" and strided:
        return "knows grad_input of stride 1 only"
    if problem.dilation != (1, 1) and (strided or problem.op == "grad_weight"):
        return "knows a dilation with stride 1, and not of grad_weight"
    if math.prod(problem.dilation) > MOST_PHASES:
        return f"knows dilations of at most {MOST_PHASES} phases, lines times columns"
    if problem.boundary != "constant":
        return "knows constant padding only"
    if problem.groups != 1:
        return "knows one group only"
    if problem.result_dtype.str[1:] not in ("f4", "f8"):
        return "knows float32 and float64 only"
    return ""


def _dilation(layout: Layout) -> tuple[int, int]:
    """Return the dilation, which means nothing along an axis of one tap."""
    dh, dw = layout.problem.dilation
    return dh if layout.kernel_height > 1 else 1, dw if layout.kernel_width > 1 else 1


def _axes(layout: Layout, line: Form, column: Form, first: tuple[int, int] = (0, 0)) -> tuple[Axis, Axis]:
    """Return the axes of the problem's operation from a result on; grad_weight reads the image forward reads."""
    (top, _), (left, _) = layout.problem.padding
    height, width = layout.kernel_height, layout.kernel_width
    (sh, sw), (dh, dw) = layout.problem.stride, _dilation(layout)
    if layout.problem.op != "grad_input":
        return (
            axis_of(line, height, sh, top, layout.height, layout.out_height, False, dh, first[0]),
            axis_of(column, width, sw, left, layout.width, layout.out_width, False, dw, first[1]),
        )
    top, left = dh * (height - 1) - top, dw * (width - 1) - left
    return (
        axis_of(line, height, 1, top, layout.out_height, layout.height, True, dh, first[0]),
        axis_of(column, width, 1, left, layout.out_width, layout.width, True, dw, first[1]),
    )


def _direction_of(layout: Layout, lines: Axis, columns: Axis, first: tuple[int, int] = (0, 0)) -> Direction:
    """Return the direction of the problem's operation from a result on."""
    x = layout.strides(layout.channels, layout.height, layout.width)
    y = layout.strides(layout.out_channels, layout.out_height, layout.out_width)
    reverse = layout.problem.op == "grad_input"
    image, channel, line, column = x if reverse else y
    dh, dw = _dilation(layout)
    return Direction(
        channels=layout.out_channels if reverse else layout.channels,
        lines=lines,
        columns=columns,
        image=y[0] if reverse else x[0],
        fill=0 if reverse else layout.problem.fill_value.real,
        rows=layout.channels if reverse else layout.out_channels,
        result=(image, channel, dh * line, dw * column),
        reverse=reverse,
        phases=dh * dw,
        first=first[0] * line + first[1] * column,
    )


def _phases(layout: Layout, direction: Direction) -> list[Direction]:
    """Return the directions of all phases that have results."""
    forms = direction.lines.form, direction.columns.form
    extent = (layout.height, layout.width) if direction.reverse else (layout.out_height, layout.out_width)
    first = product(*(range(min(pair)) for pair in zip(_dilation(layout), extent, strict=True)))
    return [_direction_of(layout, *_axes(layout, *forms, at), at) for at in first]


def _directions(layout: Layout, m: int, most: float) -> list[Direction]:
    """Return the ways to compute with so many points and an error of at most ``most``; one tap is not transformed."""
    forms = FORMS[m][:1] if layout.problem.op == "grad_weight" else FORMS[m]
    axes = list(zip(*(_axes(layout, form, form) for form in forms), strict=True))
    for i, kernel in enumerate((layout.kernel_height, layout.kernel_width)):
        axes[i] = _worth_a_look(axes[i], most) if kernel > 1 else (_axes(layout, NONE, NONE)[i],)
    found = [_direction_of(layout, *pair) for pair in product(*axes)]
    return [direction for direction in found if direction.error <= most]


def _worth_a_look(axes: Sequence[Axis], most: float) -> tuple[Axis, ...]:
    """Return the axes that take few multiplications, of those with an error of at most ``most`` if there are any."""
    axes = [axis for axis in axes if axis.error <= most] or axes
    products = [axis.tiles * axis.form.points * len(axis.pieces) for axis in axes]
    least = min(products)
    return tuple(axis for axis, its in zip(axes, products, strict=True) if its <= WORTH_A_LOOK * least)


def admit(layout: Layout, m: int | None, cycles: Callable[[Layout, Direction], float]) -> tuple[str, Direction]:
    """Return the name of the algorithm and its direction, the best that is allowed of all sizes if none is given.

    Raises
    ------
    UnsupportedError
        If it cannot do the problem, or may not.
    """
    reason = refusal(layout.problem)
    if reason:
        raise UnsupportedError(f"its Winograd algorithm {reason}")
    most = MOST_ERROR[layout.problem.accuracy]
    found = [direction for size in FORMS if m in (None, size) for direction in _directions(layout, size, most)]
    name = "winograd" if m is None else f"winograd{m}"
    if not found:
        raise UnsupportedError(f"its algorithm {name!r} errs more than accuracy {layout.problem.accuracy!r} allows")
    return name, min(found, key=lambda direction: cycles(layout, direction))


def _cycles(layout: Layout, direction: Direction) -> float:
    """Estimate the cycles of one core; the constants were measured with AVX-512."""
    points, tiles = direction.points, layout.images * direction.tiles
    phases, kernels = direction.phases, direction.rows * direction.channels
    weights = kernels * points * direction.pieces
    # The choice of an algorithm decides bits, so it must not depend on how many threads there are.
    block_kernel = None if _is_fused(layout, direction) else _block_kernel(layout, direction, threads=2)
    if _is_fused(layout, direction):
        # The tiles are the rows here.  A weight is read from memory, or the last-level cache.
        kernel, products = panel_kernel(layout.micro_kernels, tiles, direction.rows)
        fused = FUSED_CYCLES if kernel.isa == "avx512" else FUSED_CROWDED_CYCLES
        each = READ_CYCLES if layout.prepacked else fused
    else:
        rows = [block_kernel] if block_kernel else layout.micro_kernels
        kernel, products = panel_kernel(rows, direction.rows, tiles)
        each = NEAR_CYCLES if weights * layout.itemsize < POINT_BYTES // 2 else FAR_CYCLES
    turned = 0 if layout.prepacked else kernels * -(-layout.taps // 16) * TURN_CYCLES
    each_row = points * OUTPUT_CYCLES + direction.results * RESULT_CYCLES
    transforms = tiles * (direction.channels * input_cycles(direction) + direction.rows * each_row)
    transforms *= vector_turns(kernel) * (NEAR if block_kernel else 1.0)
    return START_CYCLES + phases * (points * direction.terms * products + transforms) + weights * each + turned


def vector_turns(kernel: MicroKernel) -> float:
    """Return the turns that 16 elements take, where a whole vector of AVX-512 takes one."""
    return 2 * kernel.multiply * 16 / kernel.lanes * (CROWDED if kernel.isa != "avx512" else 1.0)


def input_cycles(direction: Direction) -> float:
    """Return what it takes to transform a tile of a channel: its lines, then all points."""
    lines, columns = direction.lines, direction.columns
    transformed = len(lines.plane.starts) * lines.form.results * len(columns.pieces)
    return transformed * LINE_CYCLES + direction.points * direction.pieces * INPUT_CYCLES


def winograd(layout: Layout, m: int | None = None) -> Draft:
    """Lay out forward or grad_input with tiles of as many points as F(m, 3) has, m = 2 or 4, or the best of both."""
    name, direction = admit(layout, m, _cycles)
    yield layout.cost(_cycles(layout, direction))
    points, per_image = direction.points, direction.tiles
    direct = finished((forward if layout.problem.op == "forward" else grad_input)(layout))
    layout.start_again()
    u_lanes = lines_kernel(layout, "weight", direction.lines.form).lanes
    u_block = points * (direction.terms * u_lanes + SPREAD)
    u_bytes = -(-direction.rows // u_lanes) * u_block * layout.itemsize
    if _is_fused(layout, direction):
        return _fused(layout, name, direction, direct)
    if layout.prepacked:
        raise UnsupportedError("its Winograd algorithm packs no weight for so many tiles")
    block_kernel = _block_kernel(layout, direction, layout.most_threads)
    if block_kernel:
        return _by_blocks(layout, name, direction, block_kernel, direct)
    # A large weight is worth more tiles at a time: each batch reads all of it.
    layout.set_batch(points * direction.terms * per_image * direction.phases, min(u_bytes, 2 * POINT_BYTES))
    kernel, _ = panel_kernel(layout.micro_kernels, direction.rows, per_image * layout.batch)
    lanes = kernel.columns
    blocks = -(-per_image * layout.batch // lanes)
    block = points * (direction.terms * lanes + SPREAD)
    one_batch = layout.batch == layout.images
    most = 2 * POINT_BYTES if one_batch and u_bytes > POINT_BYTES else POINT_BYTES
    band = max(1, min(blocks, most // (direction.phases * block * layout.itemsize)))
    phases = [(phase, layout.reserve(band * block)) for phase in _phases(layout, direction)]

    # Points of the weight that are used once need not go through memory: while some rows are multiplied, the next are
    # transformed.
    in_turn = one_batch and band == blocks and u_bytes > 2 * ROW_BYTES
    rows = _rows_at_once(kernel.rows, u_lanes, u_block * layout.itemsize) if in_turn else direction.rows
    rows = min(rows, direction.rows)
    u_size = -(-rows // u_lanes) * u_block
    u_offsets = layout.reserve(u_size), layout.reserve(u_size if rows < direction.rows else 0)
    starts = range(0, direction.rows, rows)
    weights = [
        _weights_step(layout, direction, u_offsets[i % 2], (first, min(rows, direction.rows - first)))
        for i, first in enumerate(starts)
    ]
    layout.workspace = max(layout.workspace, -(-direct.memory_bytes // layout.itemsize))
    each: list[tuple[Step, ...]] = []
    for first_block in range(0, blocks, band):
        count = min(band, blocks - first_block)
        each.append(tuple(tiles_step(layout, phase, lanes, v, first_block, count) for phase, v in phases))
        for i, first in enumerate(starts):
            steps = [
                _multiply_step(
                    layout,
                    phase,
                    kernel,
                    (u_offsets[i % 2], v),
                    (first_block, count),
                    (first, min(rows, direction.rows - first)),
                )
                for phase, v in phases
            ]
            each.append((*steps, *weights[i + 1 : i + 2]))
    return layout.program(
        name,
        f"{kernel.name}, {direction.described}",
        _cycles(layout, direction),
        before=((weights[0],),),
        each=tuple(each),
        instead=direct,
    )


def _block_kernel(layout: Layout, direction: Direction, threads: int) -> MicroKernel | None:
    """Return the micro-kernel for which a block of tiles stays near the core, if so many threads have enough."""
    tiles = layout.images * direction.tiles
    if direction.phases > 1:
        return None
    most = BLOCK_BYTES // (direction.points * direction.terms * layout.itemsize)
    panels = [row for row in layout.micro_kernels if row.algorithm == "panel"]
    # All points of the weight are read for each block: one of a vector takes longer than none at all.
    least = 2 * max((row.lanes for row in panels), default=0)
    rows = [row for row in panels if least <= row.columns <= most]
    if not rows:
        return None
    # A wide block reads long runs of lines, which is worth some multiplications.
    for wide in (WIDE, 1.0):
        kernel, _ = panel_kernel(rows, direction.rows, tiles, wide=wide)
        if tiles >= BLOCKS_PER_THREAD * threads * kernel.columns:
            return kernel
    return None


def _by_blocks(layout: Layout, name: str, direction: Direction, kernel: MicroKernel, direct: Program) -> Program:
    """Lay out a problem of many tiles, each block of which one task brings to results (``kernels/blocks.h``)."""
    points = direction.points
    blocks = -(-layout.batch * direction.tiles // kernel.columns)
    u_lanes = lines_kernel(layout, "weight", direction.lines.form).lanes
    u_offset = layout.reserve(-(-direction.rows // u_lanes) * points * (direction.terms * u_lanes + SPREAD))
    v_size = points * (direction.terms * kernel.columns + SPREAD)
    layout.workspace = max(layout.workspace, -(-direct.memory_bytes // layout.itemsize))
    tiles = tiles_step(layout, direction, kernel.columns, 0, 0, blocks, band_offset=v_size)
    products = _multiply_step(layout, direction, kernel, (u_offset, 0), (0, blocks), (0, direction.rows))
    return layout.program(
        name,
        f"{kernel.name}, {direction.described}",
        _cycles(layout, direction),
        before=((_weights_step(layout, direction, u_offset, (0, direction.rows)),),),
        each=((Step(f"blocks_{layout.type}", blocks, {}, False, parts=(tiles, products)),),),
        instead=direct,
    )


def _is_fused(layout: Layout, direction: Direction) -> bool:
    """Whether the weight is large and the tiles of all images few, but some."""
    tiles = layout.images * direction.tiles
    v_bytes = direction.points * direction.terms * tiles * layout.itemsize
    u_bytes = direction.points * direction.terms * direction.rows * layout.itemsize
    if not 0 < tiles <= FUSED_TILES or direction.phases > 1:
        return False
    if layout.prepacked:
        return v_bytes <= POINT_BYTES
    return u_bytes > FUSED_BYTES and v_bytes <= min(u_bytes, POINT_BYTES)


def _fused_kernel(layout: Layout, lanes: int, tiles: int, rows: int) -> MicroKernel:
    """Return the micro-kernel that takes the fewest cycles where threads wait for the one with most tasks."""

    def cycles(row: MicroKernel) -> float:
        tasks = -(-rows // row.columns)
        return panel_kernel([row], tiles, rows)[1] * -(-tasks // layout.most_threads) * layout.most_threads / tasks

    kernels = [row for row in layout.micro_kernels if row.algorithm == "panel" and row.columns % lanes == 0]
    return min(kernels, key=cycles)


def _fused(layout: Layout, name: str, direction: Direction, direct: Program) -> Program:
    """Lay out a problem of few tiles, whose weight is transformed where it is multiplied (``kernels/fused.h``)."""
    points, pieces, tiles = direction.points, direction.pieces, layout.images * direction.tiles
    line, column = direction.lines.form, direction.columns.form
    weight = lines_kernel(layout, "weight", line)
    kernel = _fused_kernel(layout, weight.lanes, tiles, direction.rows)
    v_lanes = weight.lanes
    blocks = -(-tiles // v_lanes)
    v_point = direction.terms * v_lanes + SPREAD
    v_offset = layout.reserve(blocks * points * v_point)
    most = FUSED_BYTES // (kernel.columns * points * pieces * layout.itemsize)
    terms = max(-(-16 // pieces), min(direction.channels, most))
    if layout.prepacked:
        terms = direction.channels
    u_point = terms * pieces * kernel.columns + SPREAD
    weights = _weights_step(layout, direction, 0, (0, direction.rows), u_point, kernel.columns)
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
            **_result_sizes(layout, direction),
            "v_offset": v_offset,
            "v_point": v_point,
            "v_step": v_lanes,
            "out_channel": direction.result[1],
            "tiles": tiles,
            "rows": direction.rows,
            "points": points,
            "column_n": column.points,
            "terms": direction.channels,
            "pieces": pieces,
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
            "in_offsets": np.arange(line.points) * column.points * kernel.columns,
            "half_offsets": np.arange(line.results) * column.points * weight.lanes,
            "line_offsets": np.arange(column.points) * weight.lanes,
        },
        lines_kernel(layout, "result", line).name,
        (weights,),
        second=lines_kernel(layout, "result", column).name,
    )
    return layout.program(
        name,
        f"{kernel.name}, {direction.described}",
        _cycles(layout, direction),
        each=((tiles_step(layout, direction, v_lanes, v_offset, 0, blocks),), (step,)),
        instead=direct,
    )


def _rows_at_once(tile_rows: int, lanes: int, block_bytes: int) -> int:
    """Return how many rows are multiplied at a time: whole tiles, in blocks of the weight with few lanes left over."""
    blocks = max(1, ROW_BYTES // block_bytes)
    return max(
        range(tile_rows, max(tile_rows, blocks * lanes) + 1, tile_rows), key=lambda rows: rows / (-(-rows // lanes))
    )


def _weights_step(
    layout: Layout, direction: Direction, offset: int, rows: tuple[int, int], point: int = 0, dst_rows: int = 0
) -> Step:
    """Return the transform of some rows, (first, count), into blocks of ``dst_rows`` with points ``point`` apart."""
    lines, columns, points = direction.lines, direction.columns, direction.points
    transform = lines_kernel(layout, "weight", lines.form)
    lanes = transform.lanes
    dst_rows = dst_rows or lanes
    point = point or direction.terms * dst_rows + SPREAD
    strides = (layout.channels * layout.taps, layout.taps)
    blocks = -(-rows[1] // lanes)
    term_tasks, terms_per_task = shares(direction.channels, blocks)
    sizes = {
        "src_row": strides[direction.reverse],
        "src_term": strides[not direction.reverse],
        "dst_offset": offset,
        "dst_block": points * point,
        "dst_rows": dst_rows,
        "dst_point": point,
        "first_row": rows[0],
        "rows": rows[1],
        "terms": direction.channels,
        "term_tasks": term_tasks,
        "terms_per_task": terms_per_task,
        "taps": layout.taps,
        "kernel_lines": lines.kernel,
        "line_r": lines.form.taps,
        "column_r": columns.form.taps,
        "column_n": columns.form.points,
        "line_pieces": len(lines.pieces),
        "column_pieces": len(columns.pieces),
        # Lines that have all taps of every piece are evenly spaced.
        "lines_at_once": 1 if any(-1 in piece.taps for piece in columns.pieces) else lines.kernel,
        "tap_line": columns.kernel * lanes,
        "size": layout.out_channels * layout.channels * layout.taps,
    }
    # Of taps that are missing: the vector after the last tap, the line after the last.
    of_columns = np.array([piece.taps for piece in columns.pieces])
    column_taps = np.arange(lines.kernel)[:, None, None] * columns.kernel + of_columns
    column_taps = np.where(of_columns < 0, layout.taps, column_taps)
    of_lines = np.array([piece.taps for piece in lines.pieces])
    half_line = len(columns.pieces) * columns.form.points * lanes
    tables = {
        "column_taps": (column_taps * lanes).ravel(),
        "line_taps": (np.where(of_lines < 0, lines.kernel, of_lines) * half_line).ravel(),
        "half_offsets": np.arange(columns.form.points) * lanes,
        "out_offsets": np.arange(lines.form.points) * columns.form.points * point,
    }
    along_columns = lines_kernel(layout, "weight", columns.form)
    whole = _whole_kernel(layout, direction)
    if whole:
        taps = of_lines[:, None, :, None] * columns.kernel + of_columns[None, :, None, :]
        missing = (of_lines[:, None, :, None] < 0) | (of_columns[None, :, None, :] < 0)
        tables["whole_taps"] = (np.where(missing, layout.taps, taps) * lanes).ravel()
        tables["whole_offsets"] = np.arange(points) * point
    return Step(
        f"weights_{layout.type}",
        blocks * term_tasks,
        sizes,
        False,
        transform.name,
        tables,
        layout.turn,
        second=along_columns.name,
        fill=whole,
    )


def _whole_kernel(layout: Layout, direction: Direction) -> str:
    """Return the name of what makes all points of a piece at once: of one axis, or both of 3x3 taps; else nothing."""
    line, column = direction.lines.form, direction.columns.form
    if NONE in (line, column):
        return lines_kernel(layout, "weight", column if line == NONE else line).name
    return square_kernel(layout, "kernel", line.results).name if line == column and line.taps == 3 else ""


def _result_sizes(layout: Layout, direction: Direction) -> dict[str, int]:
    """Return the sizes that tell a step where the results of tiles go."""
    image, _, line, column = direction.result
    return {
        "bias_buffer": layout.bias_buffer,
        "out_image": image,
        "out_line": line,
        "out_column": column,
        "height": direction.lines.outputs,
        "width": direction.columns.outputs,
        "tile_lines": direction.lines.tiles,
        "tile_columns": direction.columns.tiles,
    }


def _multiply_step(
    layout: Layout,
    direction: Direction,
    kernel: MicroKernel,
    offsets: tuple[int, int],
    blocks: tuple[int, int],
    rows: tuple[int, int],
) -> Step:
    """Return the products of some blocks of tiles by some rows, (first, count) each; ``offsets`` are of both points."""
    points, lanes = direction.points, kernel.columns
    line, column = direction.lines.form, direction.columns.form
    u_lanes = lines_kernel(layout, "weight", line).lanes
    u_point, v_point = direction.terms * u_lanes + SPREAD, direction.terms * lanes + SPREAD
    row_tasks, row_blocks_per_task = shares(-(-rows[1] // kernel.rows), blocks[1])
    sizes = {
        **_result_sizes(layout, direction),
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
        "bias_point": (line.points > 1) * column.points + (column.points > 1),
        "column_n": column.points,
        "length": direction.terms,
        "row_tasks": row_tasks,
        "rows_per_task": row_blocks_per_task * kernel.rows,
    }
    u_rows = np.arange(rows[1])
    tables = {
        "a_row": padded(u_rows // u_lanes * points * u_point + u_rows % u_lanes, kernel.rows),
        "out_row": direction.first + np.arange(direction.rows) * direction.result[1],
        "tile_row": np.arange(kernel.rows) * points * lanes,
        "in_offsets": np.arange(line.points) * column.points * lanes,
        "out_offsets": np.arange(line.results) * column.points * lanes,
    }
    return Step(
        f"multiply_{layout.type}",
        blocks[1] * row_tasks,
        sizes,
        False,
        kernel.name,
        tables,
        lines_kernel(layout, "result", line, lanes).name,
        second=lines_kernel(layout, "output", column, lanes).name,
    )


def tiles_step(
    layout: Layout,
    direction: Direction,
    lanes: int,
    offset: int,
    first_block: int,
    blocks: int,
    band_offset: int | None = None,
) -> Step:
    """Return the step that transforms some blocks of tiles, ``lanes`` tiles each, of the first operand.

    With ``band_offset`` it is a part of one that takes a block at a time, whose points are in the scratch memory.
    """
    lines, columns = direction.lines, direction.columns
    point = direction.terms * lanes + SPREAD
    at_once = max(1, min(blocks, TILES_AT_ONCE // lanes)) if band_offset is None else 1
    band_offset = band_offset or 0
    tasks = -(-blocks // at_once)
    channel_tasks, channels_per_task = shares(direction.channels, tasks)
    # Tiles at a time: of some whole lines, or of one where there are many.
    most = at_once * lanes
    in_line = columns.tiles >= most
    tile_lines = 1 if in_line else min(lines.tiles, (most + columns.tiles - 2) // columns.tiles + 1)
    tile_columns = min(most, columns.tiles)
    most_lanes = max(row.lanes for row in layout.micro_kernels if row.algorithm == "winograd_points")
    # The last vector of a line reads and writes past its end.
    pitch = tile_columns * columns.form.results + columns.more + most_lanes
    phase = (tile_lines * lines.form.results + lines.more) * pitch + (most_lanes + 1) * columns.form.points
    band, tables = layout.band(
        lines.plane, columns.plane, direction.channels, phase=phase, pitch=pitch, fill=direction.fill,
        boundary="constant",
    )  # fmt: skip
    rows_of_tiles = tile_lines + -(-lines.more // lines.form.results)
    plane = rows_of_tiles * tile_columns + 2 * most_lanes
    half_offset = phase * len(lines.plane.starts) * len(columns.plane.starts)
    halves = len(columns.pieces) * len(lines.plane.starts) * columns.form.points * lines.form.results
    layout.scratch = max(layout.scratch, band_offset + half_offset + halves * plane)
    sizes = {
        "src_image": direction.image,
        "src_plane": lines.plane.extent * columns.plane.extent,
        "dst_offset": offset,
        "dst_block": direction.points * point,
        "dst_point": point,
        "tile_lines": lines.tiles,
        "tile_columns": columns.tiles,
        "lanes": lanes,
        "first_block": first_block,
        "blocks": blocks,
        "blocks_at_once": at_once,
        "channels": direction.channels,
        "channel_tasks": channel_tasks,
        "channels_per_task": channels_per_task,
        "line_m": lines.form.results,
        "line_n": lines.form.points,
        "line_pieces": len(lines.pieces),
        "line_phases": len(lines.plane.starts),
        "column_m": columns.form.results,
        "column_n": columns.form.points,
        "column_pieces": len(columns.pieces),
        "more_lines": lines.more,
        "more_columns": columns.more,
        "band_offset": band_offset,
        "half_offset": half_offset,
        "half_plane": plane,
    }
    # Lines of tiles lie side by side, in half planes: of the m first of each tile, the next are those of the next tile.
    m, phase_planes = lines.form.results, columns.form.points * lines.form.results * plane
    of_tile = [
        (piece.phase * phase_planes + (piece.first + a) % m * plane, (piece.first + a) // m)
        for piece in lines.pieces
        for a in range(lines.form.points)
    ]
    tables |= {
        "piece_lines": np.array(of_tile),
        "column_pieces": np.array(
            [piece.phase * len(lines.plane.starts) * phase + piece.first for piece in columns.pieces]
        ),
        "out_offsets": np.arange(lines.form.points) * columns.form.points * point,
    }
    return Step(
        f"tiles_{layout.type}",
        tasks * channel_tasks,
        sizes,
        False,
        lines_kernel(layout, "pixels", columns.form, lanes).name,
        tables,
        _widest(layout, "winograd_points", lines.form.points).name,
        band=band,
        fill=_widest(layout, "band", 1).name,
    )


def lines_kernel(layout: Layout, kind: str, form: Form, columns: int = 0) -> MicroKernel:
    """Return the widest transform of a form whose vectors divide so many columns."""
    return _widest(layout, f"winograd_{kind}{form.taps}", form.results, columns)


def square_kernel(layout: Layout, kind: str, m: int, columns: int = 0) -> MicroKernel:
    """Return the widest transform of tiles of 3x3 kernels, of both axes, whose vectors divide so many columns."""
    return _widest(layout, f"winograd_{kind}", m, columns)


def _widest(layout: Layout, algorithm: str, rows: int, columns: int = 0) -> MicroKernel:
    return max(
        (
            row
            for row in layout.micro_kernels
            if row.algorithm == algorithm and row.rows == rows and columns % row.lanes == 0
        ),
        key=lambda row: row.lanes,
    )
