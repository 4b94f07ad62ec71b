"""Groups of few channels: windows that slide over bands of lines (``kernels/sliding.h``)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, product
from typing import NamedTuple

import numpy as np

from convcore_cpu.correlate import exact_in_place
from convcore_cpu.direction import (
    Direction,
    Gather,
    forward_direction,
    grad_input_direction,
    place_result,
)
from convcore_cpu.engine import MAX_BAND_BYTES, MicroKernel
from convcore_cpu.geometry import Tap, forward_axis
from convcore_cpu.layout import FAST_BAND_BYTES, TASKS, Layout
from convcore_cpu.program import FIRST, SECOND, Cost, Draft, Step, UnsupportedError

#: In groups of more channels a vector of x is better multiplied by a vector of weights.
MOST_CHANNELS = 16
#: Pieces of the result there should be, so that threads end at about the same time.
PIECES = 8
#: What a piece costs however small it is.
PIECE_CYCLES = 30
#: Lines of planes too many for a processor to foresee; elements of planes that stay in no cache near the core; what
#: each line then costs a tile (cycles).  16 planes of 572x572, one result: 14.8 ms, from bands 7.0.
STREAMS, FAR_ELEMENTS, STREAM_CYCLES = 32, 1 << 18, 50.0
#: What the cycles of forward and of grad_input without a stride are worth beside those of other algorithms: where two
#: units multiply vectors, and where one does, which hides some of the rest.
WORTH = {0.5: (1.0, 0.75), 1.0: (0.9, 0.75)}
#: Columns of a piece that are tried where a whole line is longer.
PIECE_COLUMNS = (512, 256, 128, 64)
#: Lines of x that a tile may read where they lie: more of them, a power of two apart, push each other out of the cache.
LINES_IN_PLACE = 12
#: Kernels of more lines than these skip zeros.
LINES_OF_ZEROS = 3


def forward_sliding(layout: Layout) -> Draft:
    """Lay out forward as sliding windows."""
    _refuse(layout)
    problem, direction = layout.problem, forward_direction(layout)
    slide = Slide(layout, direction, problem.stride, problem.dilation, layout.kernel_width)
    places, _ = place_result(layout, direction)
    step, cost = yield from _step(replace(slide, fill=problem.fill_value, boundary=problem.boundary), places)
    return replace(layout.program("sliding", step.kernel, 0, each=((step,),)), cost=cost)


def grad_input_sliding(layout: Layout) -> Draft:
    """Lay out grad_input as sliding windows; where a weight is not finite, the exact steps of outer products follow.

    Under a boundary of pixels the gradient of the padded image is folded, as theirs is.
    """
    _refuse(layout)
    problem, direction = layout.problem, grad_input_direction(layout)
    if direction.folded:
        layout.set_batch(direction.out_image)
    places, folding = place_result(layout, direction)
    slide = Slide(layout, direction, problem.stride, problem.dilation, layout.kernel_width, sign=-1)
    step, cost = yield from _step(slide, places)
    exact = exact_in_place(layout, direction, places) if direction.watch_nan else ()
    program = layout.program(
        "sliding", step.kernel, 0, each=((step,), folding), exact=(exact, folding) if exact else ()
    )
    return replace(program, cost=cost)


def grad_weight_sliding(layout: Layout) -> Draft:
    """Lay out grad_weight of depthwise layers: x correlated with grad_out, whose pixels are the taps."""
    _refuse(layout)
    if layout.c_per_group > 1:
        raise UnsupportedError("its algorithm 'sliding' knows grad_weight of one channel in a group only")
    if not layout.images:
        raise UnsupportedError("its algorithm 'sliding' has no image to sum over")
    (sh, sw), (dh, dw), ((top, _), (left, _)) = layout.problem.stride, layout.problem.dilation, layout.problem.padding
    lines, line_taps = forward_axis(layout.height, layout.out_height, dh, sh, top, layout.kernel_height)
    columns, column_taps = forward_axis(layout.width, layout.out_width, dw, sw, left, layout.kernel_width)
    pixels, width = layout.out_height * layout.out_width, layout.kernel_width
    gather = Gather(layout.kernel_height, width, line_taps, column_taps, 0, width, 1)
    direction = Direction(
        channels=layout.channels,
        lines=lines,
        columns=columns,
        gathers=(gather,),
        rows=np.arange(layout.k_per_group) * layout.taps,
        out_image=0,
        out_group=layout.k_per_group * layout.taps,
        weight_row=pixels,
        weight_term=0,
        weight_group=layout.k_per_group * pixels,
        negated=(0, 0),
        watch_nan=False,
    )
    problem = layout.problem
    slide = Slide(layout, direction, problem.dilation, problem.stride, layout.out_width, fill=problem.fill_value)
    slide = replace(slide, boundary=problem.boundary, over_images=True)
    layout.batch = layout.images
    places, _ = place_result(layout, direction)
    step, cost = yield from _step(slide, places | {"w_image": layout.out_channels * pixels})
    return replace(layout.program("sliding", step.kernel, 0, each=((step,),)), cost=cost)


def _refuse(layout: Layout) -> None:
    if layout.problem.layout != "NCHW":
        raise UnsupportedError("its algorithm 'sliding' wants NCHW")
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


class Cut(NamedTuple):
    """A range in ``pieces`` of ``size`` lines or columns, the last one shorter, or if that is 0 in equal ones."""

    first: int
    last: int
    pieces: int
    size: int = 0

    @classmethod
    def of(cls, extent: int, size: int) -> Cut:
        """Cut everything into pieces of a size."""
        return cls(0, extent, -(-extent // size), size)

    @property
    def lengths(self) -> tuple[tuple[int, int], ...]:
        """Lengths of pieces, and how many have each; none where the range is empty."""
        extent = self.last - self.first
        if extent <= 0:
            return ()
        if self.size:
            found = (self.size, extent // self.size), (extent % self.size, int(extent % self.size > 0))
        else:
            length, longer = divmod(extent, self.pieces)
            found = (length + 1, longer), (length, self.pieces - longer)
        return tuple((length, count) for length, count in found if count)

    def table(self) -> np.ndarray:
        """Return (start, length) of every piece."""
        extent, index = max(self.last - self.first, 0), np.arange(self.pieces + 1)
        ends = self.first + (np.minimum(index * self.size, extent) if self.size else extent * index // self.pieces)
        return np.stack([ends[:-1], np.diff(ends)], axis=-1)[: self.pieces if extent else 0]


@dataclass(frozen=True)
class Block:
    """Pieces of the result side by side: how their lines and columns are cut, and whether they need bands."""

    lines: tuple[Cut, ...]
    columns: tuple[Cut, ...]
    band: bool

    @property
    def lengths(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Lengths of pieces of lines and of columns, and how many have each."""
        lines, columns = ([pair for cut in cuts for pair in cut.lengths] for cuts in (self.lines, self.columns))
        return lines, columns


@dataclass(frozen=True)
class Pieces:
    """All pieces of the result."""

    blocks: tuple[Block, ...]

    def table(self) -> np.ndarray:
        """Return (line, column, lines, columns) of every piece.

        Large and small ones are mixed, since a thread takes some that follow each other.
        """
        pieces, places = [], []
        for block in self.blocks:
            down, across = (np.concatenate([cut.table() for cut in cuts]) for cuts in (block.lines, block.columns))
            lines = np.repeat(down, len(across), axis=0)
            columns = np.tile(across, (len(down), 1))
            pieces.append(np.stack([lines[:, 0], columns[:, 0], lines[:, 1], columns[:, 1]], axis=-1))
            places.append((np.arange(len(lines)) + 0.5) / max(len(lines), 1))
        return np.concatenate(pieces).astype(np.int64)[np.argsort(np.concatenate(places), kind="stable")]

    def largest(self) -> tuple[int, int]:
        """Return the lines and columns a band must have room for."""
        banded = [block.lengths for block in self.blocks if block.band and all(block.lengths)]
        lines = max((length for lines, _ in banded for length, _ in lines), default=0)
        return lines, max((length for _, columns in banded for length, _ in columns), default=0)


def _patches(line_taps: Sequence[Tap], column_taps: Sequence[Tap]) -> list[Patch]:
    def runs(taps: Sequence[Tap]) -> Iterator[tuple[Tap, int]]:
        ordered = sorted(taps, key=lambda tap: (tap.phase, tap.offset))
        for _, run in groupby(ordered, key=lambda tap: tap.phase):
            found = list(run)
            yield found[0], len(found)

    return [Patch(u, v, lines, columns) for (u, lines), (v, columns) in product(runs(line_taps), runs(column_taps))]


@dataclass(frozen=True)
class Slide:
    """What slides over what: a direction, and how its taps are found.

    ``stride`` and ``dilation`` are those of the correlation, of grad_weight the layer's dilation and stride; ``width``
    is how many taps a line of the second operand has, ``sign`` which way they are gone through.
    """

    layout: Layout
    direction: Direction
    stride: tuple[int, int]
    dilation: tuple[int, int]
    width: int
    sign: int = 1
    fill: complex = 0
    boundary: str = "constant"
    over_images: bool = False

    @cached_property
    def steps(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """From a tap to the next of its patch: in positions, and in taps; lines and columns."""
        common = [math.gcd(s, d) for s, d in zip(self.stride, self.dilation, strict=True)]
        across, taps = ([n // g for n, g in zip(pair, common, strict=True)] for pair in (self.dilation, self.stride))
        return (across[0], across[1]), (taps[0], taps[1])

    @cached_property
    def extent(self) -> tuple[int, int]:
        """How many lines and columns the largest gather has."""
        gathers = self.direction.gathers
        return max(gather.lines for gather in gathers), max(gather.width for gather in gathers)

    @cached_property
    def reach(self) -> tuple[int, int]:
        """How many positions past its last line and column a gather meets, at most."""
        line_taps = (tap.offset for gather in self.direction.gathers for tap in gather.line_taps)
        column_taps = (tap.offset for gather in self.direction.gathers for tap in gather.column_taps)
        return max(line_taps, default=0), max(column_taps, default=0)

    @cached_property
    def phases(self) -> int:
        """How many phases there are of lines and columns together."""
        return len(self.direction.lines.starts) * len(self.direction.columns.starts)

    @cached_property
    def channels(self) -> int:
        """How many channels of the first operand a group has."""
        return self.direction.channels // self.layout.groups

    @cached_property
    def repeats(self) -> int:
        """How many times all pieces are gone through."""
        return max(self.layout.images, 1) * self.layout.groups


def _step(slide: Slide, places: dict[str, int]) -> Generator[Cost, None, tuple[Step, Cost]]:
    """Yield the cost, and return the one step there is with it."""
    if slide.channels > MOST_CHANNELS:
        raise UnsupportedError(f"its algorithm 'sliding' knows groups of at most {MOST_CHANNELS} channels")
    layout, direction = slide.layout, slide.direction
    (line_step, column_step), (line_taps, column_taps) = slide.steps
    patches = [_patches(gather.line_taps, gather.column_taps) for gather in direction.gathers]
    cycles, kernel, pieces = _cheapest(slide, patches)
    worth = WORTH[kernel.multiply][int(slide.sign < 0)] if layout.problem.stride == (1, 1) else 1.0
    cost = Cost(cycles * worth, layout.problem.bytes, layout.rates)
    yield cost
    phases, (more_lines, more_columns) = len(direction.lines.starts), slide.reach
    pitch, band_lines = _band(slide, kernel, *pieces.largest())
    piece_table = pieces.table()
    # A vector of room, see band.h.
    phase = band_lines * pitch + kernel.lanes
    group_band = slide.channels * slide.phases * phase

    gathers, table = [], []
    for gather, of_gather in zip(direction.gathers, patches, strict=True):
        first = len(table)
        for patch in of_gather:
            u, v = patch.line, patch.column
            x = (v.phase * phases + u.phase) * phase + u.offset * pitch + v.offset
            table.append((x, u.index * slide.width + v.index, patch.lines, patch.columns))
        gathers.append((gather.out_offset, gather.lines, gather.width, first, len(table)))

    image, channel, _, _ = layout.strides(direction.channels, direction.lines.extent, direction.columns.extent)
    repeats = layout.groups if slide.over_images else slide.repeats
    groups_per_task = min(layout.groups, max(1, repeats * len(piece_table) // TASKS))
    sizes = {
        "x_image": image,
        "x_group": slide.channels * channel,
        "w_image": 0,
        "w_group": direction.weight_group,
        "w_row": direction.weight_row,
        "w_channel": direction.weight_term,
        "w_line": slide.sign * line_taps * slide.width,
        "w_column": slide.sign * column_taps,
        "out_image": direction.out_image,
        "out_group": direction.out_group,
        "out_row": direction.out_group // len(direction.rows),
        "out_line": direction.gathers[0].out_line,
        "out_column": direction.gathers[0].out_column,
        "groups": layout.groups,
        "groups_per_task": groups_per_task,
        "groups_at_once": max(1, min(groups_per_task, FAST_BAND_BYTES // max(1, group_band * layout.itemsize))),
        "rows": len(direction.rows),
        "channels": slide.channels,
        "gathers": len(gathers),
        "interleaved": direction.interleaved,
        "line_step": line_step,
        "column_step": column_step,
        "more_lines": more_lines,
        "more_columns": more_columns,
        "pieces": len(piece_table),
        "over_images": int(slide.over_images),
        "watch_nan": int(direction.watch_nan),
        "skip_zeros": int(_skips(slide)),
        **places,
    }
    band, tables = layout.band(
        direction.lines, direction.columns, direction.channels, phase=phase, pitch=pitch, fill=slide.fill,
        boundary=slide.boundary,
    )  # fmt: skip
    tables |= {
        "pieces": piece_table,
        "gathers": np.array(gathers, np.int64),
        "patches": np.array(table, np.int64).reshape(-1, 4),
    }
    tasks = -(-layout.groups // groups_per_task) * len(piece_table)
    step = Step(f"bands_{layout.type}", tasks, sizes, not slide.over_images, kernel.name, tables, band=band)
    return step, cost


def _skips(slide: Slide) -> bool:
    """Return whether lines of nothing but zeros around the operand are worth being skipped."""
    lines = slide.direction.lines
    return (
        slide.boundary == "constant"
        and slide.fill == 0
        and slide.steps[0][0] == len(lines.starts) == lines.stride == 1
        and lines.is_padded
        and slide.reach[0] > LINES_OF_ZEROS
    )


def _band(slide: Slide, kernel: MicroKernel, lines: int, columns: int) -> tuple[int, int]:
    """Return the pitch of a band for pieces of up to so many lines and columns, and its lines.

    The last tile of a line and of a piece may read a whole tile; lines start on whole vectors.
    """
    more_lines, more_columns = slide.reach
    pitch = -(-(max(columns, kernel.columns) + more_columns) // kernel.lanes) * kernel.lanes
    at_once = kernel.rows * slide.steps[0][0]
    return pitch, -(-lines // at_once) * at_once + more_lines


def _cheapest(slide: Slide, patches: Sequence[Sequence[Patch]]) -> tuple[float, MicroKernel, Pieces]:
    """Return the micro-kernel and the pieces that take the fewest cycles for all images, and how many."""
    lines, columns = slide.extent
    counts = Counter((patch.lines, patch.columns) for of_gather in patches for patch in of_gather)
    tiles = []
    for kernel in slide.layout.micro_kernels:
        if kernel.algorithm == "sliding":
            per_tile = _tile_cycles(kernel, slide.channels, counts, len(patches))
            # What tiles take if none of them has room to spare.
            least = slide.repeats * len(slide.direction.rows) * per_tile * lines * columns
            tiles.append((least / (kernel.rows * kernel.columns), per_tile, kernel))
    best: tuple[float, MicroKernel, Pieces] | None = None
    for least, per_tile, kernel in sorted(tiles, key=lambda found: found[0]):
        if best is not None and least >= best[0]:
            break
        for pieces in _partitions(slide, kernel):
            cycles = slide.repeats * _piece_cycles(slide, kernel, pieces, per_tile)
            if best is None or cycles < best[0]:
                best = cycles, kernel, pieces
    if best is None:
        raise UnsupportedError("its algorithm 'sliding' has too many channels in a group for its bands")
    return best


def _partitions(slide: Slide, kernel: MicroKernel) -> Iterator[Pieces]:
    """Yield ways to cut the result so that a band has room for every piece."""
    (lines, columns), at_once = slide.extent, kernel.rows * slide.steps[0][0]
    frame = _frame(slide, kernel)
    for piece_columns in (columns, *(size for size in PIECE_COLUMNS if kernel.columns <= size < columns)):
        across = -(-columns // piece_columns)
        pitch, more_lines = _band(slide, kernel, 0, piece_columns)
        planes = slide.channels * slide.phases * slide.layout.itemsize
        share = -(-PIECES // (slide.repeats * across))
        for room in (FAST_BAND_BYTES, MAX_BAND_BYTES):
            most = min(
                ((room // planes - kernel.lanes) // pitch - more_lines) // at_once, -(-lines // at_once // share)
            )
            if most < 1:
                continue
            down = -(-lines // (most * at_once))
            piece_lines = -(-lines // at_once // down) * at_once
            yield Pieces((Block((Cut.of(lines, piece_lines),), (Cut.of(columns, piece_columns),), True),))
            if frame is not None:
                yield _framed(slide, kernel, frame, piece_lines, piece_columns)


def _frame(slide: Slide, kernel: MicroKernel) -> tuple[int, int, int, int] | None:
    """Return first and last line and column of the result that sees no padding and is large enough for whole tiles.

    None where x cannot be read where it lies.
    """
    direction, (more_lines, more_columns) = slide.direction, slide.reach
    if slide.phases > 1 or len(direction.gathers) > 1 or slide.over_images or slide.steps[0][0] > 1:
        return None
    if direction.lines.stride > 1 or direction.columns.stride > 1 or direction.gathers[0].out_column > 1:
        return None
    if kernel.rows + more_lines > LINES_IN_PLACE:
        return None
    (lines, columns), (lo, hi) = slide.extent, direction.lines.inside(direction.lines.starts[0])
    top, bottom = (lo and max(lo, kernel.rows)), min(hi - more_lines, lines)
    bottom = bottom if bottom == lines else min(bottom, lines - kernel.rows)
    lo, hi = direction.columns.inside(direction.columns.starts[0])
    left, right = (lo and max(lo, kernel.columns)), min(hi - more_columns, columns)
    right = right if right == columns else min(right, columns - kernel.columns)
    return (top, bottom, left, right) if bottom - top >= kernel.rows and right - left >= kernel.columns else None


def _framed(
    slide: Slide, kernel: MicroKernel, frame: tuple[int, int, int, int], piece_lines: int, piece_columns: int
) -> Pieces:
    """Cut the result so that most of it can be read where x lies: the middle, and bands around it."""
    (lines, columns), (top, bottom, left, right) = slide.extent, frame
    shares = max(1, -(-PIECES // slide.repeats))
    # None of the middle may be lower than a tile.
    middle = max(1, min(shares, (bottom - top) // kernel.rows))
    across = Cut(0, columns, -(-columns // piece_columns))
    down = Cut(top, bottom, -(-(bottom - top) // piece_lines))
    return Pieces(
        (
            Block((Cut(top, bottom, middle),), (Cut(left, right, 1),), False),
            Block((Cut(0, top, 1), Cut(bottom, lines, 1)), (across,), True),
            Block((down,), (Cut(0, left, 1), Cut(right, columns, 1)), True),
        )
    )


def _piece_cycles(slide: Slide, kernel: MicroKernel, pieces: Pieces, per_tile: float) -> float:
    """Return the cycles all pieces take once: tiles, bands, and something for each piece."""
    (line_step, _), (more_lines, more_columns) = slide.steps[0], slide.reach
    total = 0.0
    streams = slide.channels * (kernel.rows * line_step + more_lines)
    plane = slide.direction.lines.extent * slide.direction.columns.extent
    far = STREAM_CYCLES * streams if streams > STREAMS and slide.channels * plane > FAR_ELEMENTS else 0.0
    for block in pieces.blocks:
        lines, columns = block.lengths
        down = sum(count * -(-length // (kernel.rows * line_step)) * line_step for length, count in lines)
        across = sum(count * -(-length // kernel.columns) for length, count in columns)
        number = sum(count for _, count in lines) * sum(count for _, count in columns)
        tile = per_tile if block.band else per_tile + far
        total += number * PIECE_CYCLES + len(slide.direction.rows) * down * across * tile
        if block.band:
            line = sum(count * (6 + 2 * (length + more_columns) / kernel.lanes) for length, count in columns)
            total += slide.channels * slide.phases * sum(count * (n + more_lines) for n, count in lines) * line
    return total


def _tile_cycles(kernel: MicroKernel, channels: int, patches: Counter[tuple[int, int]], gathers: int) -> float:
    """Return the cycles of a tile of each gather: by arithmetic or loads, and something for every patch and line.

    ``patches`` counts those of so many lines and columns.  A vector of 64 bytes from any address costs two loads; see
    ``tiles.py``.
    """
    vectors = kernel.columns // kernel.lanes
    wide = kernel.isa == "avx512"
    total = 0.0
    for (lines, columns), count in patches.items():
        multiplications = lines * columns * kernel.rows
        fits = kernel.rows * vectors + lines * columns + vectors < (32 if wide else 16)
        small = fits and (lines, columns) in ((3, 3), (2, 2), (2, 1), (1, 2), (1, 1))
        shared = small or lines >= kernel.rows
        x_lines = lines + kernel.rows - 1 if shared else lines
        loads = (x_lines if shared else lines * kernel.rows) * columns * vectors
        taps = lines * columns if small else multiplications
        arithmetic = multiplications * vectors * kernel.multiply
        cycles = max(arithmetic, loads * (0.9 if wide else 0.6) + 0.5 * taps) + 10 + (0 if small else 3 * x_lines)
        total += count * cycles
    # What one channel leaves in memory the next one adds to.
    return channels * total + (gathers + 3.0 * (channels - 1)) * kernel.rows * vectors + gathers * 15
