"""Choose algorithm, micro-kernel, tiles and batches for a problem.  Never touches data.

Everything is counted in elements of the computing type: float32, float64 or int64.  A complex problem is a real one of
twice the channels: the first operand as planes of real and imaginary halves, the second expanded so that each pair of
halves meets with the right sign.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from convcore.spi import Problem
from convcore_cpu.engine import MicroKernel
from convcore_cpu.geometry import PlaneAxis, Tap, forward_axis, gather_axis

# Numbers of the buffers, as in kernels/steps.h.
FIRST, SECOND, BIAS, OUT, WORKSPACE = range(5)

#: Work below this is done before a second thread is awake (seconds).
WORTH_A_THREAD = 50e-6
# What one core does at least; for WORTH_A_THREAD only.
FLOPS_PER_SECOND, BYTES_PER_SECOND = 40e9, 8e9
#: Packed images are computed while they are still in the last-level cache (bytes).
BATCH_BYTES = 4 << 20
#: Tasks there should be, so that threads of any number end at about the same time.
TASKS = 32

_SOURCES = {
    "f4": "f32",
    "f8": "f64",
    "c8": "f32",
    "c16": "f64",
    "i1": "s8",
    "i2": "s16",
    "i4": "s32",
    "i8": "i64",
    "u1": "u8",
    "u2": "u16",
    "u4": "u32",
}
_TYPES = {"f4": "f32", "c8": "f32", "f8": "f64", "c16": "f64", "i8": "i64"}
_NUMPY = {"f32": np.float32, "f64": np.float64, "i64": np.int64}


class Unsupported(Exception):
    """Why no program can be made of a problem, in words."""


@dataclass(frozen=True)
class Step:
    """Tasks that may run in any order: the Python side of a structure of ``kernels/steps.h``."""

    task: str
    tasks: int
    sizes: dict[str, int]
    per_image: bool = True
    kernel: str = ""
    tables: dict[str, np.ndarray] = field(default_factory=dict)


Stages = tuple[tuple[Step, ...], ...]


@dataclass(frozen=True)
class Program:
    """What ``engine.Engine`` runs: ``before`` once, ``each`` for every batch of images, ``after`` once.

    ``exact`` follows ``each`` when a NaN was seen.  The steps of a stage are independent of each other.
    """

    algorithm: str
    kernel: str
    threads: int
    images_per_batch: int
    image_bytes: tuple[int, int, int]
    workspace_bytes: int
    before: Stages = ()
    each: Stages = ()
    after: Stages = ()
    exact: Stages = ()

    @property
    def notes(self) -> str:
        """For ``explain()``."""
        threads = "1 thread" if self.threads == 1 else "all threads" if self.threads > 4096 else f"{self.threads} threads"
        return f"{self.kernel or 'no micro-kernel'}, {threads}, {self.images_per_batch} images at a time"


def make_program(problem: Problem, micro_kernels: Sequence[MicroKernel], threads: int | None = None) -> Program:
    """Lay out how to compute a problem.

    Parameters
    ----------
    problem : Problem
        What to compute.
    micro_kernels : sequence of MicroKernel
        The rows of the table that may be used.
    threads : int, optional
        An upper limit.

    Raises
    ------
    Unsupported
        With the reason in words.
    """
    builders = _ALGORITHMS[problem.op]
    if problem.algorithm is not None and problem.algorithm not in builders:
        raise Unsupported(
            f"it has no algorithm {problem.algorithm!r} for {problem.op}; it has {', '.join(map(repr, builders))}"
        )
    layout = _Layout(problem, micro_kernels, threads)
    named = problem.algorithm or _cheapest(layout)
    program = builders[named](layout)
    limit = problem.workspace_limit
    if limit is not None and program.workspace_bytes > limit:
        raise Unsupported(f"it needs {program.workspace_bytes} bytes of workspace, workspace_limit is {limit}")
    return program


def _cheapest(layout: _Layout) -> str:
    problem = layout.problem
    if problem.op != "grad_weight" or layout.halves == 2:
        return "direct"
    return "dot" if _dot_kernel(layout)[0] < _accumulate_kernel(layout)[0] else "direct"


@dataclass(frozen=True)
class Planes:
    """Where planes lie, in elements: plane (image, channel, phase), its lines ``pitch`` apart."""

    buffer: int
    offset: int
    image: int
    channel: int
    phase: int
    pitch: int
    line_phases: int = 1

    def taps(self, lines: Iterable[Tap], columns: Sequence[Tap]) -> np.ndarray:
        """Return the offset of every tap of a kernel, row by row."""
        return np.array(
            [
                (v.phase * self.line_phases + u.phase) * self.phase + u.offset * self.pitch + v.offset
                for u, v in product(lines, columns)
            ],
            np.int64,
        )


class _Layout:
    """The quantities every program of a problem needs, and the workspace as it fills."""

    def __init__(self, problem: Problem, micro_kernels: Sequence[MicroKernel], threads: int | None) -> None:
        self.problem = problem
        self.type = _TYPES[problem.result_dtype.str[1:]]
        self.itemsize = 4 if self.type == "f32" else 8
        #: 2 where a number is a real and an imaginary half.
        self.halves = 2 if problem.result_dtype.kind == "c" else 1
        self.images, self.channels, self.height, self.width = problem.input_shape
        _, self.out_channels, self.out_height, self.out_width = problem.output_shape
        _, self.c_per_group, self.kernel_height, self.kernel_width = problem.weight_shape
        self.taps = self.kernel_height * self.kernel_width
        self.groups = problem.groups
        self.k_per_group = self.out_channels // self.groups
        self.micro_kernels = [row for row in micro_kernels if row.dtype == self.type]
        seconds = problem.flops / FLOPS_PER_SECOND + problem.bytes / BYTES_PER_SECOND
        self.threads = 1 if seconds < WORTH_A_THREAD else threads or 2**16
        self.workspace = 0
        self.batch = max(self.images, 1)

    # -- the operands as they lie in memory ---------------------------------------------------------------------

    def source(self, operand: int) -> str:
        """Return the element type an operand is read as."""
        return _SOURCES[self.problem.dtypes[operand].str[1:]]

    def strides(self, channels: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return the strides of image, channel, row and column of an image array, in elements."""
        h = self.halves
        image = channels * height * width * h
        if self.problem.layout == "NCHW":
            return image, height * width * h, width * h, h
        return image, h, width * channels * h, channels * h

    def rows(self, count: int, stride: int) -> np.ndarray:
        """Return the offsets of ``count`` channels, the halves of each as rows of their own."""
        return (np.arange(count)[:, None] * stride + np.arange(self.halves)).ravel()

    def image_bytes(self) -> tuple[int, int, int]:
        """Return the bytes from image to image of the first operand, the second and the result."""
        x, y = (math.prod(shape[1:]) for shape in (self.problem.input_shape, self.problem.output_shape))
        first, second = self.problem.dtypes[0].itemsize, self.problem.dtypes[-1].itemsize
        result = self.problem.result_dtype.itemsize
        return {
            "forward": (x * first, 0, y * result),
            "grad_input": (y * first, 0, x * result),
            "grad_weight": (x * first, y * second, 0),
            "grad_bias": (0, 0, 0),
        }[self.problem.op]

    # -- workspace ------------------------------------------------------------------------------------------------

    def reserve(self, elements: int) -> int:
        """Return the offset of a new piece of the workspace."""
        offset = self.workspace
        self.workspace += -(-elements // 16) * 16
        return offset

    def set_batch(self, elements_per_image: int) -> None:
        """Choose how many images are packed at a time."""
        bytes_per_image = elements_per_image * self.itemsize
        if bytes_per_image:
            self.batch = max(1, min(self.batch, BATCH_BYTES // bytes_per_image))

    def program(self, algorithm: str, kernel: str, **stages: Stages) -> Program:
        """Close the workspace and make the program."""
        # A tile may be read, and dropped, past the last plane.
        slack = max(row.columns for row in self.micro_kernels) if self.workspace else 0
        return Program(
            algorithm=algorithm,
            kernel=kernel,
            threads=self.threads,
            images_per_batch=self.batch,
            image_bytes=self.image_bytes(),
            workspace_bytes=(self.workspace + slack) * self.itemsize,
            **stages,
        )

    # -- packing ----------------------------------------------------------------------------------------------------

    def is_direct(self, operand: int) -> bool:
        """Whether an operand is of the computing type already."""
        return self.halves == 1 and self.source(operand) == self.type

    def in_place(self, operand: int, lines: PlaneAxis, columns: PlaneAxis) -> Planes | None:
        """Return the planes of an operand where it lies, or None if it must be packed."""
        usable = lines.is_operand and columns.is_operand and self.problem.layout == "NCHW" and self.is_direct(operand)
        if not usable:
            return None
        channels = self.problem.operand_shapes[operand][1]
        plane = lines.extent * columns.extent
        offset = lines.starts[0] * columns.extent + columns.starts[0]
        return Planes(operand, offset, channels * plane, plane, 0, columns.extent)

    def packed(self, channels: int, lines: PlaneAxis, columns: PlaneAxis) -> Planes:
        """Return the planes of an operand as they will lie in the workspace; `reserve` gives them their offset."""
        phase = lines.size * columns.size
        plane = phase * len(lines.starts) * len(columns.starts)
        return Planes(
            WORKSPACE, 0, channels * self.halves * plane, plane, phase, columns.size, len(lines.starts)
        )

    def pack(self, operand: int, channels: int, planes: Planes, lines: PlaneAxis, columns: PlaneAxis, fill: complex):
        """Return the steps that fill packed planes."""
        image, channel, line, column = self.strides(channels, lines.extent, columns.extent)
        lines_per_block = max(1, 16384 // columns.size)
        blocks = -(-lines.size // lines_per_block)
        return tuple(
            self.pack_step(
                operand,
                tasks=channels * len(lines.starts) * len(columns.starts) * blocks,
                lines=lines.table(line),
                columns=columns.table(column),
                fill=(fill.real, fill.imag)[half],
                src_offset=half,
                src_image=image,
                src_channel=channel,
                dst_offset=planes.offset + half * planes.channel,
                dst_image=planes.image,
                dst_channel=self.halves * planes.channel,
                dst_phase=planes.phase,
                dst_line=planes.pitch,
                channels=channels,
                line_phases=len(lines.starts),
                column_phases=len(columns.starts),
                line_blocks=blocks,
                lines_per_block=lines_per_block,
            )
            for half in range(self.halves)
        )

    def pack_step(
        self,
        operand: int,
        *,
        tasks: int,
        lines: np.ndarray,
        columns: np.ndarray,
        fill: float = 0,
        per_image: bool = True,
        **sizes: int,
    ) -> Step:
        """Return one packing step; sizes left out have no effect."""
        defaults = dict.fromkeys(("src_offset", "src_image", "src_channel", "dst_image", "dst_phase", "negate"), 0)
        ones = dict.fromkeys(("dst_column", "channels", "line_phases", "column_phases", "line_blocks"), 1)
        defaults |= {"dst_offset": 0, "dst_channel": 0, "lines_per_block": int(lines[0, 0]), "src_buffer": operand}
        tables = {"lines": lines, "columns": columns, "fill": np.array([fill], _NUMPY[self.type])}
        task = f"pack_{self.source(operand)}_{self.type}"
        return Step(task, tasks, defaults | ones | sizes, per_image, tables=tables)

    def clear(self, offset: int, elements: int) -> Step:
        """Return the step that fills a piece of the workspace with zeros."""
        width = min(elements, 16384)
        nothing = np.array([[width, 0, 0, 0, 0]])
        lines = -(-elements // width)
        return self.pack_step(
            FIRST,
            tasks=lines,
            lines=np.array([[lines, 0, 0, 0, 0]]),
            columns=nothing,
            per_image=False,
            dst_offset=offset,
            dst_line=width,
            line_blocks=lines,
            lines_per_block=1,
        )

    def weight(self, negated: tuple[int, int]) -> tuple[int, int, tuple[Step, ...]]:
        """Return buffer and offset of the weight as (K, C/G, R, S) of the computing type, and the steps that make it.

        A complex one becomes (K, half, C/G, half, R, S), the halves [[re, im], [im, re]], one of them negated.
        """
        k, c, taps = self.out_channels, self.c_per_group, self.taps
        if self.is_direct(SECOND):
            return SECOND, 0, ()
        if self.halves == 1:
            offset = self.reserve(k * c * taps)
            step = self.pack_step(
                SECOND,
                tasks=k,
                lines=_whole(k, c * taps),
                columns=_whole(c * taps, 1),
                per_image=False,
                dst_offset=offset,
                dst_line=c * taps,
                line_blocks=k,
                lines_per_block=1,
            )
            return WORKSPACE, offset, (step,)
        offset = self.reserve(4 * k * c * taps)
        steps = tuple(
            self.pack_step(
                SECOND,
                tasks=k * c,
                lines=_whole(1, 0),
                columns=_whole(taps, 2),
                per_image=False,
                src_offset=int(first != second),
                src_image=2 * c * taps,
                src_channel=2 * taps,
                dst_offset=offset + (2 * first * c + second) * taps,
                dst_image=4 * c * taps,
                dst_channel=2 * taps,
                dst_line=taps,
                channels=c,
                negate=int((first, second) == negated),
            )
            for first, second in product(range(2), repeat=2)
        )
        return WORKSPACE, offset, steps


def _whole(size: int, step: int) -> np.ndarray:
    """Return the C ``axis`` of an operand's own ``size`` elements."""
    return np.array([[size, 0, size, 0, step]], np.int64)


# -- micro-kernels -----------------------------------------------------------------------------------------------------


def _tile_cycles(row: MicroKernel) -> float:
    """Return the cycles one term of the sum takes a tile: by arithmetic, by loads, or by latency."""
    vectors = row.columns // row.lanes
    wide = row.isa == "avx512"
    arithmetic = row.rows * vectors * (1.0 if wide else 0.5)
    loads = 0.5 * row.rows + vectors * (1.0 if wide else 0.5)
    return max(arithmetic, loads, 4.0) + 0.5


def _outer_kernel(layout: _Layout, rows: int, columns: int, *, fits: bool) -> tuple[float, MicroKernel | None]:
    """Return the cycles a term takes, and the row that takes the least; `fits` forbids tiles wider than ``columns``."""
    candidates = [
        (-(-rows // row.rows) * -(-columns // row.columns) * _tile_cycles(row), row)
        for row in layout.micro_kernels
        if row.algorithm == "outer" and (row.columns <= columns or not fits)
    ]
    return min(candidates, key=lambda candidate: candidate[0], default=(math.inf, None))


def _padded(rows: np.ndarray, multiple: int) -> np.ndarray:
    """Repeat the last row of a tile table up to a whole number of tiles."""
    return np.pad(rows, (0, -len(rows) % multiple), mode="edge")


# -- forward and grad_input ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Gather:
    """One outer-product problem of forward or grad_input: the pixels of one phase, and the taps they meet."""

    lines: int
    width: int
    line_taps: tuple[Tap, ...]
    column_taps: tuple[Tap, ...]
    out_offset: int
    out_line: int
    out_column: int


def _correlate(
    layout: _Layout,
    *,
    lines: PlaneAxis,
    columns: PlaneAxis,
    gathers: Sequence[_Gather],
    channels: int,
    out_rows: np.ndarray,
    out_image: int,
    out_group: int,
    fill: complex,
    negated: tuple[int, int],
    a_row: int,
    a_term: int,
    a_group: int,
    watch_nan: bool,
) -> Program:
    """Make the program of a direction whose lanes are pixels; a_row, a_term and a_group are strides of the weight."""
    rows, h = len(out_rows), layout.halves
    planes = layout.in_place(FIRST, lines, columns)
    if planes is not None:
        choices = [_outer_kernel(layout, rows, (g.lines - 1) * planes.pitch + g.width, fits=True)[1] for g in gathers]
    if planes is None or None in choices:
        planes = layout.packed(channels, lines, columns)
        choices = [_outer_kernel(layout, rows, (g.lines - 1) * planes.pitch + g.width, fits=False)[1] for g in gathers]
        layout.set_batch(planes.image)
    a_buffer, a_offset, expand = layout.weight(negated)
    packing: tuple[Step, ...] = ()
    if planes.buffer == WORKSPACE:
        planes = replace(planes, offset=layout.reserve(layout.batch * planes.image))
        packing = layout.pack(FIRST, channels, planes, lines, columns, fill)
    per_group = channels // layout.groups * h
    correlate, exact = [], []
    for gather, kernel in zip(gathers, choices, strict=True):
        terms = [u.index * layout.kernel_width + v.index for u, v in product(gather.line_taps, gather.column_taps)]
        taps = planes.taps(gather.line_taps, gather.column_taps)
        term = np.arange(per_group)[:, None]
        offsets = np.stack([term * a_term + np.array(terms, np.int64), term * planes.channel + taps], axis=-1)
        blocks = -(-rows // kernel.rows)
        pixels = (gather.lines - 1) * planes.pitch + gather.width
        tiles = -(-pixels // kernel.columns)
        wanted = 1 if layout.threads == 1 else -(-TASKS // (layout.batch * layout.groups * tiles * len(gathers)))
        blocks_per_task = -(-blocks // min(blocks, wanted))
        row_tasks = -(-blocks // blocks_per_task)
        sizes = {
            "a_buffer": a_buffer,
            "a_offset": a_offset,
            "a_group": a_group,
            "b_buffer": planes.buffer,
            "b_offset": planes.offset,
            "b_image": planes.image,
            "b_group": per_group * planes.channel,
            "bias_buffer": BIAS if layout.problem.bias else -1,
            "out_offset": gather.out_offset,
            "out_image": out_image,
            "out_group": out_group,
            "out_line": gather.out_line,
            "out_column": gather.out_column,
            "groups": layout.groups,
            "rows": rows,
            "lines": gather.lines,
            "width": gather.width,
            "pitch": planes.pitch,
            "length": offsets.size // 2,
            "row_tasks": row_tasks,
            "blocks_per_task": blocks_per_task,
            "tiles": tiles,
            "watch_nan": int(watch_nan),
        }
        tables = {
            "offsets": offsets.astype(np.int64).ravel(),
            "a_row": _padded(np.arange(rows) * a_row, kernel.rows),
            "out_row": _padded(out_rows, kernel.rows),
            "tile_row": np.arange(kernel.rows) * kernel.columns,
            "inside": np.tile(_inside(gather, lines, columns), (per_group, 1)) if watch_nan else np.empty(0, np.int64),
        }
        correlate.append(
            Step(f"correlate_{layout.type}", layout.groups * tiles * row_tasks, sizes, True, kernel.name, tables)
        )
        exact.append(
            Step(
                f"correlate_exact_{layout.type}",
                layout.groups * rows * gather.lines,
                sizes,
                True,
                kernel.name,
                tables,
            )
        )
    return layout.program(
        "direct",
        ", ".join(dict.fromkeys(kernel.name for kernel in choices)),
        before=(expand,) if expand else (),
        each=(packing, tuple(correlate)) if packing else (tuple(correlate),),
        exact=(tuple(exact),) if watch_nan else (),
    )


def _inside(gather: _Gather, lines: PlaneAxis, columns: PlaneAxis) -> np.ndarray:
    """Return, for every tap, the pixels (line_lo, line_hi, column_lo, column_hi) at which it meets the operand."""
    (line_lo, line_hi), (column_lo, column_hi) = lines.inside(lines.starts[0]), columns.inside(columns.starts[0])
    return np.array(
        [
            (line_lo - u.offset, line_hi - u.offset, column_lo - v.offset, column_hi - v.offset)
            for u, v in product(gather.line_taps, gather.column_taps)
        ],
        np.int64,
    )


def _forward(layout: _Layout) -> Program:
    lines, line_taps, columns, column_taps = _forward_axes(layout)
    image, channel, line, column = layout.strides(layout.out_channels, layout.out_height, layout.out_width)
    length = layout.c_per_group * layout.halves * layout.taps
    rows = layout.k_per_group * layout.halves
    return _correlate(
        layout,
        lines=lines,
        columns=columns,
        gathers=[_Gather(layout.out_height, layout.out_width, line_taps, column_taps, 0, line, column)],
        channels=layout.channels,
        out_rows=layout.rows(layout.k_per_group, channel),
        out_image=image,
        out_group=layout.k_per_group * channel,
        fill=complex(layout.problem.fill_value),
        negated=(0, 1),
        a_row=length,
        a_term=layout.taps,
        a_group=rows * length,
        watch_nan=False,
    )


def _grad_input(layout: _Layout) -> Program:
    problem = layout.problem
    (top, _), (left, _) = problem.padding
    lines, line_phases = gather_axis(
        layout.height, layout.kernel_height, problem.stride[0], problem.dilation[0], top, layout.out_height
    )
    columns, column_phases = gather_axis(
        layout.width, layout.kernel_width, problem.stride[1], problem.dilation[1], left, layout.out_width
    )
    image, channel, line, column = layout.strides(layout.channels, layout.height, layout.width)
    row = layout.taps
    term = layout.c_per_group * layout.halves * layout.taps
    return _correlate(
        layout,
        lines=lines,
        columns=columns,
        gathers=[
            _Gather(
                u.count,
                v.count,
                u.taps,
                v.taps,
                u.start * line + v.start * column,
                line * problem.stride[0],
                column * problem.stride[1],
            )
            for u, v in product(line_phases, column_phases)
        ],
        channels=layout.out_channels,
        out_rows=layout.rows(layout.c_per_group, channel),
        out_image=image,
        out_group=layout.c_per_group * channel,
        fill=0,
        negated=(1, 0),
        a_row=row,
        a_term=term,
        a_group=layout.k_per_group * layout.halves * term,
        watch_nan=(lines.is_padded or columns.is_padded) and layout.type != "i64",
    )


def _forward_axes(layout: _Layout) -> tuple[PlaneAxis, tuple[Tap, ...], PlaneAxis, tuple[Tap, ...]]:
    problem = layout.problem
    (top, _), (left, _) = problem.padding
    return (
        *forward_axis(
            layout.height, layout.kernel_height, problem.stride[0], problem.dilation[0], top, layout.out_height
        ),
        *forward_axis(
            layout.width, layout.kernel_width, problem.stride[1], problem.dilation[1], left, layout.out_width
        ),
    )


# -- grad_weight ---------------------------------------------------------------------------------------------------------


#: Pixels gone through at a time, so that their part of grad_out stays in the second-level cache (bytes).
CHUNK_BYTES = 128 << 10


def _accumulate_kernel(layout: _Layout) -> tuple[float, MicroKernel | None]:
    """Return the cycles a pixel takes with lanes over the channels of grad_out, and the row for it."""
    rows, lanes = layout.c_per_group * layout.taps, layout.k_per_group * layout.halves
    cycles, kernel = _outer_kernel(layout, rows, lanes, fits=False)
    return cycles * layout.groups * layout.halves, kernel


def _dot_kernel(layout: _Layout) -> tuple[float, MicroKernel]:
    """Return the cycles a pixel takes with lanes over pixels, and the row for it."""
    pairs = layout.out_channels * layout.c_per_group
    candidates = [
        # Two loads for every multiply-add, and something for the call.
        (-(-layout.taps // row.rows) * (row.rows + 2) * -(-layout.out_width // row.lanes), row)
        for row in layout.micro_kernels
        if row.algorithm == "dot"
    ]
    cycles, kernel = min(candidates, key=lambda candidate: candidate[0])
    return cycles * pairs / layout.out_width, kernel


def _parts(tasks: int, units: int) -> int:
    """Return in how many parts the pixels are summed: a matter of the problem, never of the threads."""
    return max(1, min(-(-8 // tasks), units))


def _grad_weight_direct(layout: _Layout) -> Program:
    h, groups, k = layout.halves, layout.groups, layout.k_per_group
    height, width = layout.out_height, layout.out_width
    lines, line_taps, columns, column_taps = _forward_axes(layout)
    rows, kernel = layout.c_per_group * layout.taps, _accumulate_kernel(layout)[1]
    lanes = -(-k * h // kernel.columns) * kernel.columns
    blocks = -(-rows // kernel.rows)
    pixel = h * lanes  # of grad_out as [pixel][half][k, half]
    group = height * width * pixel
    # Small images are one table; of large ones, every line is gone through with the same.
    whole_images = height * width <= 1024

    in_place = layout.in_place(FIRST, lines, columns)
    planes = in_place or layout.packed(layout.channels, lines, columns)
    layout.set_batch(groups * group + (0 if in_place else planes.image))
    if not whole_images:
        layout.batch = 1
    x_steps: tuple[Step, ...] = ()
    if in_place is None:
        planes = replace(planes, offset=layout.reserve(layout.batch * planes.image))
        x_steps = layout.pack(FIRST, layout.channels, planes, lines, columns, complex(layout.problem.fill_value))
    g_offset = layout.reserve(layout.batch * groups * group)
    parts = _parts(groups * blocks, layout.batch if whole_images else height)
    padded_rows = blocks * kernel.rows
    partial = layout.reserve(parts * groups * padded_rows * lanes)

    q = np.arange(width)[:, None]
    p = np.arange(height if whole_images else 1)[:, None, None]
    half = np.arange(h)
    offsets = np.stack(
        [p * planes.pitch + q + half * planes.channel, ((p * width + q) * h + half) * lanes], axis=-1
    )
    step_pixels = height * width if whole_images else width
    sizes = {
        "a_buffer": planes.buffer,
        "a_offset": planes.offset,
        "a_group": layout.c_per_group * h * planes.channel,
        "a_step": planes.image if whole_images else planes.pitch,
        "b_offset": g_offset,
        "b_group": group,
        "b_step": groups * group if whole_images else width * pixel,
        "out_offset": partial,
        "out_part": groups * padded_rows * lanes,
        "out_group": padded_rows * lanes,
        "groups": groups,
        "parts": parts,
        "lanes": lanes,
        "length": offsets.size // 2,
        "repeats": 0 if whole_images else height,
        "repeats_per_image": int(whole_images),
        "repeats_at_once": max(1, CHUNK_BYTES // (step_pixels * pixel * layout.itemsize)),
        "row_blocks": blocks,
        "row_tasks": -(-blocks // max(1, blocks * groups // TASKS)),
        "blocks_per_task": max(1, blocks * groups // TASKS),
    }
    taps = planes.taps(line_taps, column_taps)
    tables = {
        "offsets": offsets.astype(np.int64).ravel(),
        "a_row": _padded(
            (np.arange(layout.c_per_group)[:, None] * h * planes.channel + taps).ravel(), kernel.rows
        ),
        "out_row": np.arange(padded_rows) * lanes,
    }
    accumulate = Step(
        f"accumulate_{layout.type}", parts * groups * sizes["row_tasks"], sizes, False, kernel.name, tables
    )
    reduce = _reduce(
        layout,
        groups,
        src_offset=partial,
        src_part=groups * padded_rows * lanes,
        src_group=padded_rows * lanes,
        src_row=lanes,
        src_lane=1,
        parts=parts,
        rows=rows,
        lanes=k * h,
    )
    return layout.program(
        "direct",
        kernel.name,
        before=((layout.clear(partial, parts * groups * padded_rows * lanes),),),
        each=((*x_steps, *_pack_lanes(layout, g_offset, lanes)), (accumulate,)),
        after=((reduce,),),
    )


def _pack_lanes(layout: _Layout, offset: int, lanes: int) -> tuple[Step, ...]:
    """Return the steps that turn grad_out into [image][group][pixel][half][k, half], lanes past the last k zero.

    Of complex numbers the row of the real half is (re, im), that of the imaginary half (-im, re).
    """
    h, k = layout.halves, layout.k_per_group
    pixels = layout.out_height * layout.out_width
    image, channel, _, step = layout.strides(layout.out_channels, layout.out_height, layout.out_width)
    columns = np.array([[lanes // h, 0, k, 0, channel]], np.int64)
    lines_per_block = max(1, 8192 // lanes)
    blocks = -(-pixels // lines_per_block)
    return tuple(
        layout.pack_step(
            SECOND,
            tasks=layout.groups * blocks,
            lines=_whole(pixels, step),
            columns=columns,
            src_offset=int(row != half),
            src_image=image,
            src_channel=k * channel,
            dst_offset=offset + row * lanes + half,
            dst_image=layout.groups * pixels * h * lanes,
            dst_channel=pixels * h * lanes,
            dst_line=h * lanes,
            dst_column=h,
            channels=layout.groups,
            line_blocks=blocks,
            lines_per_block=lines_per_block,
            negate=int((row, half) == (1, 0)),
        )
        for row, half in product(range(h), repeat=2)
    )


def _reduce(layout: _Layout, groups: int, **sizes: int) -> Step:
    blocks = -(-sizes["lanes"] // 16)
    sizes |= {"interleave": layout.halves, "lane_blocks": blocks}
    return Step(f"reduce_{layout.type}", groups * blocks, sizes, False)


def _grad_weight_dot(layout: _Layout) -> Program:
    if layout.halves == 2:
        raise Unsupported("its algorithm 'dot' does not know complex numbers")
    kernel = _dot_kernel(layout)[1]
    lines, line_taps, columns, column_taps = _forward_axes(layout)
    g_lines = PlaneAxis(layout.out_height, (0,), 1, layout.out_height)
    g_columns = PlaneAxis(layout.out_width, (0,), 1, layout.out_width)
    # The last vector of a line may be read past its end: only whole ones are safe in an operand.
    safe = layout.out_width % kernel.lanes == 0
    x_in_place = layout.in_place(FIRST, lines, columns) if safe else None
    g_in_place = layout.in_place(SECOND, g_lines, g_columns) if safe else None
    x = x_in_place or layout.packed(layout.channels, lines, columns)
    g = g_in_place or layout.packed(layout.out_channels, g_lines, g_columns)
    layout.set_batch((0 if x_in_place else x.image) + (0 if g_in_place else g.image))
    packing: tuple[Step, ...] = ()
    if x_in_place is None:
        x = replace(x, offset=layout.reserve(layout.batch * x.image))
        packing += layout.pack(FIRST, layout.channels, x, lines, columns, complex(layout.problem.fill_value))
    if g_in_place is None:
        g = replace(g, offset=layout.reserve(layout.batch * g.image))
        packing += layout.pack(SECOND, layout.out_channels, g, g_lines, g_columns, 0)
    lines_at_once = max(1, 8192 // layout.out_width)
    pairs = layout.out_channels * layout.c_per_group
    parts = _parts(pairs, layout.batch * -(-layout.out_height // lines_at_once))
    size = pairs * layout.taps
    partial = layout.reserve(parts * size)
    sizes = {
        "a_buffer": x.buffer,
        "a_offset": x.offset,
        "a_image": x.image,
        "a_channel": x.channel,
        "a_line": x.pitch,
        "b_buffer": g.buffer,
        "b_offset": g.offset,
        "b_image": g.image,
        "b_channel": g.channel,
        "b_line": g.pitch,
        "out_offset": partial,
        "out_part": size,
        "groups": layout.groups,
        "k_per_group": layout.k_per_group,
        "c_per_group": layout.c_per_group,
        "taps": layout.taps,
        "lines": layout.out_height,
        "width": layout.out_width,
        "lines_at_once": lines_at_once,
        "parts": parts,
    }
    tables = {"a_row": _padded(x.taps(line_taps, column_taps), kernel.rows)}
    row = layout.c_per_group * layout.taps
    reduce = _reduce(
        layout,
        1,
        src_offset=partial,
        src_part=size,
        src_group=0,
        src_row=1,
        src_lane=row,
        parts=parts,
        rows=row,
        lanes=layout.out_channels,
    )
    dots = (Step(f"lines_{layout.type}", parts * pairs, sizes, False, kernel.name, tables),)
    return layout.program(
        "dot",
        kernel.name,
        before=((layout.clear(partial, parts * size),),),
        each=(packing, dots) if packing else (dots,),
        after=((reduce,),),
    )


# -- grad_bias -----------------------------------------------------------------------------------------------------------


def _grad_bias(layout: _Layout) -> Program:
    image, channel, _, pixel = layout.strides(layout.out_channels, layout.out_height, layout.out_width)
    sizes = {
        "src_image": image,
        "src_channel": channel,
        "src_pixel": pixel,
        "pixels": layout.out_height * layout.out_width,
        "interleave": layout.halves,
    }
    task = f"sum_{layout.source(FIRST)}_{layout.type}"
    step = Step(task, layout.out_channels * layout.halves, sizes, False)
    return layout.program("direct", "", before=((step,),))


_ALGORITHMS: dict[str, dict[str, Callable[[_Layout], Program]]] = {
    "forward": {"direct": _forward},
    "grad_input": {"direct": _grad_input},
    "grad_weight": {"direct": _grad_weight_direct, "dot": _grad_weight_dot},
    "grad_bias": {"direct": _grad_bias},
}
