"""Where the operands of a problem lie, in memory and packed, and the workspace as it fills.

Everything is counted in elements of the computing type: float32, float64 or int64.  A complex problem is a real one of
twice the channels: the first operand as planes of real and imaginary halves, the second expanded so that each pair of
halves meets with the right sign.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from convcore.spi import Problem
from convcore_cpu.engine import MAX_PHASES_PER_TASK, MicroKernel
from convcore_cpu.geometry import PlaneAxis, Tap, forward_axis
from convcore_cpu.program import (
    BIAS,
    BUILT_IN,
    FIRST,
    SECOND,
    WORKSPACE,
    Cost,
    Program,
    Rates,
    Stages,
    Step,
    UnsupportedError,
)

#: Work below this is done before a second thread is awake (seconds).
WORTH_A_THREAD = 50e-6
# What one core does at least; for WORTH_A_THREAD only.
FLOPS_PER_SECOND, BYTES_PER_SECOND = 40e9, 8e9
#: Packed images are computed while they are still in the last-level cache (bytes).
BATCH_BYTES = 4 << 20
#: Tasks there should be, so that threads of any number end at about the same time.
TASKS = 32
#: A band up to here stays in the first-level cache, beside what a tile reads and writes (bytes).
FAST_BAND_BYTES = 24 << 10
# What one packing task copies (elements).
BLOCK = 16384
#: Added to the distance between what is reached in turns, so that it is not all in one set of a cache (elements).
SPREAD = 16
#: What a task that packs several blocks of columns reads of a line at a time (bytes).
RUN_BYTES = 512
#: What share of other elements one takes that is copied as part of a line, by vectors.
COLLECTED = 0.5

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


def refuse_dtypes(problem: Problem) -> None:
    """Raise :class:`UnsupportedError` for a dtype that nothing here reads, or computes in."""
    for known, dtypes in ((_SOURCES, problem.dtypes), (_TYPES, (problem.result_dtype,))):
        for dtype in dtypes:
            if dtype.str[1:] not in known:
                raise UnsupportedError(f"it does not know {dtype}")


@dataclass(frozen=True)
class Planes:
    """Where planes lie, in elements: plane (image, channel, phase), its lines ``pitch`` apart, pixels ``column``."""

    buffer: int
    offset: int
    image: int
    channel: int
    phase: int
    pitch: int
    line_phases: int = 1
    column: int = 1

    @property
    def workspace(self) -> int:
        """Elements of workspace an image takes."""
        return self.image if self.buffer == WORKSPACE else 0

    def taps(self, lines: Iterable[Tap], columns: Sequence[Tap]) -> np.ndarray:
        """Return the offset of every tap of a kernel, row by row."""
        return np.array(
            [
                (v.phase * self.line_phases + u.phase) * self.phase + u.offset * self.pitch + v.offset
                for u, v in product(lines, columns)
            ],
            np.int64,
        )


@dataclass(frozen=True)
class StridedPlanes(Planes):
    """Planes where they lie, of whose pixels a stride takes some; where their phases begin."""

    line_starts: tuple[int, ...] = ()
    column_starts: tuple[int, ...] = ()

    def taps(self, lines: Iterable[Tap], columns: Sequence[Tap]) -> np.ndarray:
        """Return the offset of every tap of a kernel, row by row."""
        return np.array(
            [
                self.line_starts[u.phase] + self.column_starts[v.phase] + u.offset * self.pitch + v.offset * self.column
                for u, v in product(lines, columns)
            ],
            np.int64,
        )


class Layout:
    """The quantities every program of a problem needs, and the workspace as it fills."""

    def __init__(
        self,
        problem: Problem,
        micro_kernels: Sequence[MicroKernel],
        threads: int | None,
        most_images: int,
        prepacked: bool = False,
        rates: Rates = BUILT_IN,
        on_stack: bool = False,
    ) -> None:
        self.problem = problem
        self.rates = rates
        #: Whether no workspace is to be had, so that an algorithm that can keeps to MAX_BAND_BYTES of the stack.
        self.on_stack = on_stack
        #: Whether the weight has been packed before: SECOND is then what ``packing`` makes of it.
        self.prepacked = prepacked
        self.packing: tuple[Step, ...] = ()
        self.packed_size = 0
        self.type = _TYPES[problem.result_dtype.str[1:]]
        self.itemsize = 4 if self.type == "f32" else 8
        #: 2 where a number is a real and an imaginary half.
        self.halves = 2 if problem.result_dtype.kind == "c" else 1
        self.images, self.channels, self.height, self.width = problem.input_shape
        _, self.out_channels, self.out_height, self.out_width = problem.output_shape
        _, self.c_per_group, self.kernel_height, self.kernel_width = problem.weight_shape
        self.taps = self.kernel_height * self.kernel_width
        plain = self.taps == 1 and problem.stride == (1, 1) and problem.padding == ((0, 0), (0, 0))
        if plain and problem.op != "grad_weight":  # whose sums are shared out by lines
            # An image is one line: the ends of lines mean nothing.
            self.height, self.width = 1, self.height * self.width
            self.out_height, self.out_width = 1, self.out_height * self.out_width
        self.groups = problem.groups
        self.k_per_group = self.out_channels // self.groups
        self.micro_kernels = [row for row in micro_kernels if row.dtype == self.type]
        seconds = problem.flops / FLOPS_PER_SECOND + problem.bytes / BYTES_PER_SECOND
        self.threads = 1 if seconds < WORTH_A_THREAD else threads
        #: How many threads there may be, for the scratch memory each of them needs.
        self.most_threads = self.threads or os.cpu_count() or 1
        self.workspace = 0
        #: Elements of scratch memory a thread needs.
        self.scratch = 0
        #: Elements that packing steps write, of all images.
        self.packed_elements = 0.0
        self.most_images = max(min(self.images, most_images), 1)
        self.batch = self.most_images

    # -- the operands as they lie in memory --

    @property
    def turn(self) -> str:
        """Name of the widest micro-kernel that turns lines into columns, if there is one."""
        rows = [row for row in self.micro_kernels if row.algorithm == "turn"]
        return max(rows, key=lambda row: row.lanes).name if rows else ""

    @property
    def collect(self) -> str:
        """Name of the widest micro-kernel that copies lines, if there is one."""
        rows = [row for row in self.micro_kernels if row.algorithm == "collect"]
        return max(rows, key=lambda row: row.lanes).name if rows else ""

    def turn_kernel(self, lanes: int) -> str:
        """Return the name of a micro-kernel that turns so many lines, nothing if there is none."""
        rows = (row for row in self.micro_kernels if row.algorithm == "turn" and row.lanes == lanes)
        return next((row.name for row in rows), "")

    @property
    def bias_buffer(self) -> int:
        """Number of the bias's buffer, -1 if there is none."""
        return BIAS if self.problem.bias else -1

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
        }.get(self.problem.op, (0, 0, 0))

    # -- workspace --

    def reserve(self, elements: int) -> int:
        """Return the offset of a new piece of the workspace."""
        offset = self.workspace
        self.workspace += -(-elements // 16) * 16
        return offset

    def set_batch(self, elements_per_image: int, bytes_at_least: int = 0) -> None:
        """Choose how many images are packed at a time: BATCH_BYTES, or more where so many bytes are worth it."""
        bytes_per_image = elements_per_image * self.itemsize
        if bytes_per_image:
            self.batch = max(1, min(self.batch, max(BATCH_BYTES, bytes_at_least) // bytes_per_image))

    def cost(self, cycles: float) -> Cost:
        """Return what the program costs that packs what it packs by now."""
        return Cost(cycles, self.problem.bytes + 2 * self.packed_elements * self.itemsize, self.rates)

    def start_again(self) -> None:
        """Forget the workspace and the batches of a program laid out before, to lay out another."""
        self.workspace, self.scratch, self.packed_elements, self.batch = 0, 0, 0, self.most_images

    def program(
        self, algorithm: str, kernel: str, cycles: float, instead: Program | None = None, **stages: Stages
    ) -> Program:
        """Close the workspace and make the program; ``cycles`` is the arithmetic of all images, on one core."""
        # A tile may be read, and dropped, past the last plane.
        slack = max([row.columns for row in self.micro_kernels]) if self.workspace else 0
        return Program(
            algorithm=algorithm,
            kernel=kernel,
            threads=self.most_threads if self.scratch else self.threads,
            images_per_batch=self.batch,
            image_bytes=self.image_bytes(),
            workspace_bytes=(self.workspace + slack) * self.itemsize,
            scratch_bytes=-(-self.scratch // 16) * 16 * self.itemsize,
            cost=self.cost(cycles),
            packing=(self.packing,) if self.packing else (),
            packed_bytes=self.packed_size * self.itemsize,
            instead=instead,
            on_stack=self.on_stack,
            **stages,
        )

    # -- packing --

    def forward_axes(self) -> tuple[PlaneAxis, tuple[Tap, ...], PlaneAxis, tuple[Tap, ...]]:
        """Lay out x as forward and grad_weight read it: lines with their taps, columns with theirs."""
        (sh, sw), (dh, dw), ((top, _), (left, _)) = self.problem.stride, self.problem.dilation, self.problem.padding
        return (
            *forward_axis(self.height, self.kernel_height, sh, dh, top, self.out_height),
            *forward_axis(self.width, self.kernel_width, sw, dw, left, self.out_width),
        )

    def dense_axes(self) -> tuple[PlaneAxis, tuple[Tap, ...], PlaneAxis, tuple[Tap, ...]]:
        """Lay out as much of x and its padding as the kernel meets, as a stride of 1 would read it."""
        (sh, sw), (dh, dw), ((top, _), (left, _)) = self.problem.stride, self.problem.dilation, self.problem.padding
        return (
            *forward_axis(self.height, self.kernel_height, 1, dh, top, (self.out_height - 1) * sh + 1),
            *forward_axis(self.width, self.kernel_width, 1, dw, left, (self.out_width - 1) * sw + 1),
        )

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

    def strided(self, operand: int, lines: PlaneAxis, columns: PlaneAxis) -> StridedPlanes | None:
        """Return the planes of an operand where it lies, whatever the stride, or None if it must be packed."""
        is_padded = lines.is_padded or columns.is_padded
        if is_padded or self.problem.layout != "NCHW" or not self.is_direct(operand):
            return None
        channels, plane = self.problem.operand_shapes[operand][1], lines.extent * columns.extent
        return StridedPlanes(
            operand, 0, channels * plane, plane, 0, lines.stride * columns.extent,
            column=columns.stride, column_starts=columns.starts,
            line_starts=tuple(start * columns.extent for start in lines.starts),
        )  # fmt: skip

    def packed(self, channels: int, lines: PlaneAxis, columns: PlaneAxis) -> Planes:
        """Return the planes of an operand as they will lie in the workspace once they are placed."""
        phase = lines.size * columns.size
        plane = phase * len(lines.starts) * len(columns.starts)
        return Planes(WORKSPACE, 0, channels * self.halves * plane, plane, phase, columns.size, len(lines.starts))

    def place(
        self, planes: Planes, operand: int, channels: int, lines: PlaneAxis, columns: PlaneAxis
    ) -> tuple[Planes, tuple[Step, ...]]:
        """Give packed planes their room in the workspace and return them with the steps that fill them, if any.

        Around x stands its boundary, around grad_out zeros.
        """
        is_x = operand == FIRST and self.problem.op != "grad_input"
        fill = self.problem.fill_value if is_x else 0
        boundary = self.problem.boundary if is_x and (lines.is_padded or columns.is_padded) else "constant"
        if planes.buffer != WORKSPACE:
            return planes, ()
        planes = replace(planes, offset=self.reserve(self.batch * planes.image))
        image, channel, line, column = self.strides(channels, lines.extent, columns.extent)
        outside = (lines.outside(line, boundary), columns.outside(column, boundary)) if boundary != "constant" else None
        return planes, tuple(
            self.pack_step(
                operand,
                lines=lines.table(line),
                columns=columns.table(column),
                fill=(fill.real, fill.imag)[half],
                outside=outside,
                src_offset=half,
                src_image=image,
                src_channel=channel,
                dst_offset=planes.offset + half * planes.channel,
                dst_image=planes.image,
                dst_channel=self.halves * planes.channel,
                dst_line_phase=planes.phase,
                dst_column_phase=planes.line_phases * planes.phase,
                dst_line=planes.pitch,
                channels=channels,
            )
            for half in range(self.halves)
        )

    def band(
        self,
        lines: PlaneAxis,
        columns: PlaneAxis,
        channels: int,
        *,
        phase: int,
        pitch: int,
        fill: complex,
        boundary: str,
    ) -> tuple[dict[str, int], dict[str, np.ndarray]]:
        """Return sizes and tables of bands of the first operand (``kernels/band.h``), of ``phase`` elements a phase."""
        _, channel, line, column = self.strides(channels, lines.extent, columns.extent)
        line_phases, column_phases = len(lines.starts), len(columns.starts)
        sizes = {
            "x_channel": channel,
            "line_phases": line_phases,
            "column_phases": column_phases,
            "channel": phase * line_phases * column_phases,
            "phase": phase,
            "pitch": pitch,
        }
        tables = {
            "lines": lines.table(line),
            "columns": columns.table(column),
            "fill": np.array([fill.real], _NUMPY[self.type]),
        }
        if boundary != "constant" and (lines.is_padded or columns.is_padded):
            tables["line_of"] = lines.outside(line, boundary)
            tables["column_of"] = columns.outside(column, boundary)
        return sizes, tables

    def pack_step(
        self,
        operand: int,
        *,
        lines: np.ndarray,
        columns: np.ndarray,
        fill: float = 0,
        outside: tuple[np.ndarray, np.ndarray] | None = None,
        per_image: bool = True,
        images: int = 1,
        channels: int = 1,
        dst_column: int = 1,
        phases_per_task: int = 1,
        has_room: bool = False,
        **sizes: int,
    ) -> Step:
        """Return one packing step; ``images`` counts if it is not per image, and strides left out are zero.

        ``has_room``: there is a vector of it after each phase of columns.
        """
        # Of lines that are read, not turned, all that they reach over counts.
        reach = 1 if lines[0, 4] == 1 else max(1, int(columns[0, 4]))
        lines_per_block = max(1, BLOCK // (int(columns[0, 0]) * reach))
        blocks = -(-int(lines[0, 0]) // lines_per_block)
        strides = ("src_offset", "src_image", "src_channel", "dst_image", "dst_channel", "negate")
        strides += ("dst_line_phase", "dst_column_phase")
        sizes = dict.fromkeys(strides, 0) | sizes
        sizes |= {
            "src_buffer": operand,
            "dst_column": dst_column,
            "channels": channels,
            "line_phases": len(lines),
            "column_phases": len(columns),
            "phases_per_task": phases_per_task,
            # Where a block of lines ends another task may have begun the next.
            "has_room": int(has_room and blocks == 1),
            "line_blocks": blocks,
            "lines_per_block": lines_per_block,
        }
        tables = {"lines": lines, "columns": columns, "fill": np.array([fill], _NUMPY[self.type])}
        if outside is not None:
            tables |= {"line_of": outside[0], "column_of": outside[1]}
        tasks = images * channels * len(lines) * -(-len(columns) // phases_per_task) * blocks
        planes = images * channels * (self.images if per_image else 1)
        elements = planes * sum(lines[:, 0].tolist()) * sum(columns[:, 0].tolist())
        collect = self.collect if self.is_direct(operand) and dst_column == 1 and not sizes["negate"] else ""
        self.packed_elements += elements * COLLECTED if collect and columns[0, 4] in (1, 2) else elements
        turn = self.turn if self.is_direct(operand) and self.type != "i64" else ""
        task = f"pack_{self.source(operand)}_{self.type}"
        return Step(task, tasks, sizes, per_image, tables=tables, transform=turn, fill=collect)

    def blocks_at_once(self, columns: int) -> int:
        """Return how many blocks of so many columns, side by side in the source, a task packs."""
        return max(1, min(MAX_PHASES_PER_TASK, RUN_BYTES // (columns * self.itemsize)))

    def clear(self, offset: int, lines: int, width: int) -> Step:
        """Return the step that fills a piece of the workspace with zeros: it packs an operand with no pixel inside."""
        lines_of_none, columns_of_none = (np.array([[size, 0, 0, 0, 0]], np.int64) for size in (lines, width))
        return self.pack_step(
            FIRST, lines=lines_of_none, columns=columns_of_none, per_image=False, dst_offset=offset, dst_line=width
        )

    def weight(self, negated: tuple[int, int]) -> tuple[int, int, tuple[Step, ...]]:
        """Return buffer and offset of the weight in the computing type, and the steps that make it so.

        A complex one, (K, C/G, R, S), becomes (K, half, C/G, half, R, S): the halves are [[re, im], [im, re]], and
        ``negated`` says which of the four is.
        """
        if self.is_direct(SECOND):
            return SECOND, 0, ()
        k, c, taps = self.out_channels, self.c_per_group, self.taps
        offset = self.reserve(self.halves**2 * k * c * taps)
        if self.halves == 1:
            lines, columns = whole(k, c * taps), whole(c * taps, 1)
            step = self.pack_step(
                SECOND, lines=lines, columns=columns, per_image=False, dst_offset=offset, dst_line=c * taps
            )
            return WORKSPACE, offset, (step,)
        steps = tuple(
            self.pack_step(
                SECOND,
                lines=whole(1, 0),
                columns=whole(taps, 2),
                per_image=False,
                images=k,
                channels=c,
                src_offset=int(first != second),
                src_image=2 * c * taps,
                src_channel=2 * taps,
                dst_offset=offset + (2 * first * c + second) * taps,
                dst_image=4 * c * taps,
                dst_channel=2 * taps,
                dst_line=taps,
                negate=int((first, second) == negated),
            )
            for first, second in product(range(2), repeat=2)
        )
        return WORKSPACE, offset, steps


def whole(size: int, step: int, bases: Iterable[int] = (0,)) -> np.ndarray:
    """Return the C ``axis`` of an operand's own ``size`` elements, from each base on as a phase of its own."""
    return np.array([[size, 0, size, base, step] for base in bases], np.int64).reshape(-1, 5)
