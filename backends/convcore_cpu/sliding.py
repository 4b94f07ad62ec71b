"""Forward and grad_input of groups of few channels: windows that slide over bands of lines (``kernels/sliding.h``)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product

import numpy as np

from convcore_cpu.correlate import Direction, forward_direction, grad_input, grad_input_direction
from convcore_cpu.engine import MAX_BAND_BYTES, MicroKernel
from convcore_cpu.geometry import Tap
from convcore_cpu.layout import Layout
from convcore_cpu.program import BIAS, FIRST, SECOND, Cost, Program, Step, UnsupportedError

#: Pieces of the result there should be, so that threads end at about the same time.
PIECES = 8
#: What a task costs however small it is.
TASK_CYCLES = 200
#: Columns of a piece that are tried where a whole line is longer.
PIECE_COLUMNS = (512, 256, 128, 64)


def forward_sliding(layout: Layout) -> Program:
    """Lay out forward as sliding windows."""
    _refuse(layout)
    step, cost = _sliding(layout, forward_direction(layout), layout.problem.fill_value, 1)
    return replace(layout.program("sliding", step.kernel, 0, each=((step,),)), cost=cost)


def grad_input_sliding(layout: Layout) -> Program:
    """Lay out grad_input as sliding windows; where a NaN was seen, the exact steps of the outer products follow."""
    _refuse(layout)
    direct = grad_input(layout)
    step, cost = _sliding(layout, grad_input_direction(layout), 0, -1)
    return replace(
        direct,
        algorithm="sliding",
        kernel=step.kernel,
        cost=cost,
        each=((step,),),
        exact=(direct.each[0], *direct.exact) if direct.exact else (),
    )


def _refuse(layout: Layout) -> None:
    if layout.problem.layout != "NCHW":
        raise UnsupportedError("its algorithm 'sliding' wants NCHW")
    if layout.problem.boundary != "constant":
        raise UnsupportedError("its algorithm 'sliding' knows the boundary 'constant' only")
    if not (layout.is_direct(FIRST) and layout.is_direct(SECOND)):
        raise UnsupportedError(
            "its algorithm 'sliding' knows neither complex numbers nor integers of less than 64 bits"
        )


@dataclass(frozen=True)
class Patch:
    """Taps in equal steps, which meet one phase of the planes: the first of them, and how many."""

    line: Tap
    column: Tap
    lines: int
    columns: int


@dataclass(frozen=True)
class Piece:
    """A piece of the result for one task, and the band it needs."""

    kernel: MicroKernel
    lines: int
    columns: int
    pitch: int
    band_phase: int


def _patches(line_taps: Sequence[Tap], column_taps: Sequence[Tap]) -> list[Patch]:
    def runs(taps: Sequence[Tap]) -> Iterator[tuple[Tap, int]]:
        ordered = sorted(taps, key=lambda tap: (tap.phase, tap.offset))
        for _, run in groupby(ordered, key=lambda tap: tap.phase):
            found = list(run)
            yield found[0], len(found)

    return [Patch(u, v, lines, columns) for (u, lines), (v, columns) in product(runs(line_taps), runs(column_taps))]


def _sliding(layout: Layout, direction: Direction, fill: complex, sign: int) -> tuple[Step, Cost]:
    """Return the one step there is, and its cost; ``sign`` says which way the taps of W are gone through."""
    (sh, sw), (dh, dw) = layout.problem.stride, layout.problem.dilation
    line_step, column_step = dh // math.gcd(sh, dh), dw // math.gcd(sw, dw)
    patches = [_patches(gather.line_taps, gather.column_taps) for gather in direction.gathers]
    cycles, piece = _piece(layout, direction, patches, line_step)
    phases = len(direction.lines.starts)

    gathers, table = [], []
    for gather, of_gather in zip(direction.gathers, patches, strict=True):
        first = len(table)
        for patch in of_gather:
            u, v = patch.line, patch.column
            x = (v.phase * phases + u.phase) * piece.band_phase + u.offset * piece.pitch + v.offset
            table.append((x, u.index * layout.kernel_width + v.index, patch.lines, patch.columns))
        gathers.append((gather.out_offset, gather.lines, gather.width, first, len(table)))

    (lines, columns), (more_lines, more_columns) = _extent(direction), _reach(direction)
    channels = direction.channels // layout.groups
    _, channel, line, column = layout.strides(direction.channels, direction.lines.extent, direction.columns.extent)
    down, across = -(-lines // piece.lines), -(-columns // piece.columns)
    sizes = {
        "x_image": direction.channels * channel,
        "x_group": channels * channel,
        "x_channel": channel,
        "w_group": direction.weight_group,
        "w_row": direction.weight_row,
        "w_channel": direction.weight_term,
        "w_line": sign * (sh // math.gcd(sh, dh)) * layout.kernel_width,
        "w_column": sign * (sw // math.gcd(sw, dw)),
        "bias_buffer": BIAS if layout.problem.bias else -1,
        "out_image": direction.out_image,
        "out_group": direction.out_group,
        "out_row": direction.out_group // len(direction.rows),
        "out_line": direction.gathers[0].out_line,
        "out_column": direction.gathers[0].out_column,
        "groups": layout.groups,
        "rows": len(direction.rows),
        "channels": channels,
        "gathers": len(gathers),
        "interleaved": _interleaved(direction),
        "line_phases": phases,
        "column_phases": len(direction.columns.starts),
        "line_step": line_step,
        "column_step": column_step,
        "pieces_down": down,
        "pieces_across": across,
        "piece_lines": piece.lines,
        "piece_columns": piece.columns,
        "band_lines": piece.lines + more_lines,
        "band_columns": piece.columns + more_columns,
        "band_phase": piece.band_phase,
        "band_channel": piece.band_phase * phases * len(direction.columns.starts),
        "pitch": piece.pitch,
        "watch_nan": int(direction.watch_nan),
    }
    tables = {
        "lines": direction.lines.table(line),
        "columns": direction.columns.table(column),
        "fill": np.array([fill.real], layout.problem.result_dtype),
        "gathers": np.array(gathers, np.int64),
        "patches": np.array(table, np.int64).reshape(-1, 4),
    }
    step = Step(f"bands_{layout.type}", layout.groups * down * across, sizes, True, piece.kernel.name, tables)
    # The band of a single channel costs no traffic beyond the first caches; others are charged like packed planes.
    bands = layout.images * step.tasks * channels * sizes["band_channel"] if channels * len(direction.rows) > 1 else 0
    return step, Cost(cycles, layout.problem.bytes + 2 * bands * layout.itemsize)


def _extent(direction: Direction) -> tuple[int, int]:
    """Return how many lines and columns the largest gather has."""
    return max(gather.lines for gather in direction.gathers), max(gather.width for gather in direction.gathers)


def _reach(direction: Direction) -> tuple[int, int]:
    """Return how many positions past its last line and column a gather meets, at most."""
    line_taps = (tap.offset for gather in direction.gathers for tap in gather.line_taps)
    column_taps = (tap.offset for gather in direction.gathers for tap in gather.column_taps)
    return max(line_taps, default=0), max(column_taps, default=0)


def _interleaved(direction: Direction) -> int:
    """Return how many gathers share a line of the result in turns, if the kernel knows to interleave so many."""
    first, *others = direction.gathers
    in_line = 1 + sum(gather.out_offset - first.out_offset < first.out_column for gather in others)
    return 2 if in_line == 2 and first.out_column == 2 else 1


def _piece(
    layout: Layout, direction: Direction, patches: Sequence[Sequence[Patch]], line_step: int
) -> tuple[float, Piece]:
    """Return the piece, with its micro-kernel, that takes the fewest cycles for all images."""
    (lines, columns), (more_lines, more_columns) = _extent(direction), _reach(direction)
    channels = direction.channels // layout.groups
    planes = channels * len(direction.lines.starts) * len(direction.columns.starts)
    best: tuple[float, Piece] | None = None
    for kernel in layout.micro_kernels:
        if kernel.algorithm != "sliding":
            continue
        per_tile = sum(_tile_cycles(kernel, channels, of_gather) for of_gather in patches)
        at_once = kernel.rows * line_step
        for piece_columns in (columns, *(size for size in PIECE_COLUMNS if kernel.columns <= size < columns)):
            across = -(-columns // piece_columns)
            # The last tile of a line and of a piece may read a whole tile; lines start on whole vectors.
            pitch = -(-(max(piece_columns, kernel.columns) + more_columns) // kernel.lanes) * kernel.lanes
            room = MAX_BAND_BYTES // layout.itemsize // (planes * pitch) - more_lines
            most = min(room // at_once, -(-lines // at_once))
            if most < 1:
                continue
            share = -(-PIECES // (max(layout.images, 1) * layout.groups * across))
            tile_lines = max(1, min(most, -(-lines // at_once // share)))
            down = -(-lines // (tile_lines * at_once))
            tile_lines = -(-lines // at_once // down)
            piece_lines = min(tile_lines * at_once, lines)
            band_lines = tile_lines * at_once + more_lines
            tiles = -(-lines // at_once) * line_step * across * -(-piece_columns // kernel.columns)
            copies = down * across * planes * band_lines * (6 + 2 * pitch / kernel.lanes)
            cycles = (
                layout.images
                * layout.groups
                * (down * across * TASK_CYCLES + copies + len(direction.rows) * tiles * per_tile)
            )
            if best is None or cycles < best[0]:
                best = cycles, Piece(kernel, piece_lines, piece_columns, pitch, band_lines * pitch)
    if best is None:
        raise UnsupportedError("its algorithm 'sliding' has too many channels in a group for its bands")
    return best


def _tile_cycles(kernel: MicroKernel, channels: int, patches: Sequence[Patch]) -> float:
    """Return the cycles of a tile: by arithmetic or loads, and something for every line of x and for the tile.

    A vector of 64 bytes from any address costs two loads; see ``tiles.py``.
    """
    vectors = kernel.columns // kernel.lanes
    wide = kernel.isa == "avx512"
    total = 0.0
    for patch in patches:
        multiplications = patch.lines * patch.columns * kernel.rows
        shared = patch.lines >= kernel.rows
        x_lines = patch.lines + kernel.rows - 1 if shared else patch.lines
        loads = (x_lines if shared else patch.lines * kernel.rows) * patch.columns * vectors
        arithmetic = multiplications * vectors * (1.0 if wide else 0.5)
        total += max(arithmetic, loads * (1.8 if wide else 0.75) + 0.5 * multiplications) + 2 * x_lines
    return channels * total + 15 + 2 * kernel.rows * vectors
