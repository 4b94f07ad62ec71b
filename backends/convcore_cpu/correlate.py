"""Forward and grad_input: outer products whose lanes are pixels (``kernels/correlate.h``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product

import numpy as np

from convcore_cpu.engine import MicroKernel
from convcore_cpu.geometry import PlaneAxis, Tap, gather_axis, sources
from convcore_cpu.layout import FAST_BAND_BYTES, TASKS, Layout, Planes
from convcore_cpu.program import FIRST, OUT, SECOND, WORKSPACE, Draft, Step
from convcore_cpu.tiles import most_tiles, outer_kernel, padded

#: What a call of a micro-kernel takes besides its terms (cycles).
CALL_CYCLES = 60.0
#: How many times as long groups take as their tiles alone (measured: 1.0 to 1.4).
GROUPED = 1.15
#: What a kernel of a large weight takes more whose neighbours in a row of A are in other pages (cycles; bytes), where
#: one unit multiplies vectors and so hides what is nearer.
FAR_CYCLES, FAR_BYTES, PAGE = 2.0, 6 << 20, 4096
#: What an element of the result takes more whose neighbour another gather stores; what, if both are at hand (cycles).
APART_CYCLES, IN_TURNS_CYCLES = 2.0, 0.4


@dataclass(frozen=True)
class Gather:
    """Pixels of the result that meet the same taps: all of forward's, one phase of grad_input's."""

    lines: int
    width: int
    line_taps: tuple[Tap, ...]
    column_taps: tuple[Tap, ...]
    out_offset: int
    out_line: int
    out_column: int

    @property
    def taps(self) -> int:
        """Return how many taps they meet."""
        return len(self.line_taps) * len(self.column_taps)

    @property
    def lines_met(self) -> int:
        """Return in how many lines of a channel a pixel's taps lie, counted for each phase of the columns."""
        return len(self.line_taps) * len({tap.phase for tap in self.column_taps})

    def pixels(self, planes: Planes) -> int:
        """Return how many pixels there are when they are numbered over the pitch of the planes."""
        return (self.lines - 1) * planes.pitch + self.width


@dataclass(frozen=True)
class Direction:
    """What tells the two directions apart: the planes they read, the pixels they write, their way through the weight.

    ``rows`` is where each channel of a group lies in the result; ``weight_row``, ``weight_term`` and ``weight_group``
    are the strides of the weight from channel to channel of the result, of the first operand, and from group to group.
    ``folded``: the result is that of the padded image, in the workspace.
    """

    channels: int
    lines: PlaneAxis
    columns: PlaneAxis
    gathers: tuple[Gather, ...]
    rows: np.ndarray
    out_image: int
    out_group: int
    weight_row: int
    weight_term: int
    weight_group: int
    negated: tuple[int, int]
    watch_nan: bool
    folded: bool = False

    @property
    def interleaved(self) -> int:
        """Of how many gathers, following each other, the pixels stand in turns in lines of the result: 2 or 1.

        Those of a line meet the same lines of taps; where the result is a column wide, others are as near each other.
        """
        pairs = list(zip(self.gathers[::2], self.gathers[1::2], strict=False))
        in_turns = all(
            one.out_column == 2 and other.out_offset == one.out_offset + 1 and other.line_taps == one.line_taps
            for one, other in pairs
        )
        return 2 if in_turns and 2 * len(pairs) == len(self.gathers) > 0 else 1

    @cached_property
    def in_turns(self) -> tuple[tuple[Gather, ...], ...]:
        """Return the gathers, those together whose pixels stand in turns."""
        at_once = self.interleaved
        return tuple(self.gathers[i : i + at_once] for i in range(0, len(self.gathers), at_once))

    def tables(self, kernel: MicroKernel) -> dict[str, np.ndarray]:
        """Return the tables of the rows of a micro-kernel's tiles, which are those of every gather."""
        if kernel not in self._tables:
            self._tables[kernel] = {
                "a_row": padded(np.arange(len(self.rows)) * self.weight_row, kernel.rows),
                "out_row": padded(self.rows, kernel.rows),
                "tile_row": np.arange(kernel.rows) * kernel.columns,
            }
        return self._tables[kernel]

    @cached_property
    def _tables(self) -> dict[MicroKernel, dict[str, np.ndarray]]:
        return {}


def forward(layout: Layout) -> Draft:
    """Lay out forward as outer products."""
    return _correlate(layout, forward_direction(layout))


def grad_input(layout: Layout) -> Draft:
    """Lay out grad_input as outer products."""
    return _correlate(layout, grad_input_direction(layout))


def forward_direction(layout: Layout) -> Direction:
    """Return what forward is: rows are the out_channels, terms (c, r, s)."""
    lines, line_taps, columns, column_taps = layout.forward_axes()
    image, channel, line, column = layout.strides(layout.out_channels, layout.out_height, layout.out_width)
    length = layout.c_per_group * layout.halves * layout.taps
    return Direction(
        channels=layout.channels,
        lines=lines,
        columns=columns,
        gathers=(Gather(layout.out_height, layout.out_width, line_taps, column_taps, 0, line, column),),
        rows=layout.rows(layout.k_per_group, channel),
        out_image=image,
        out_group=layout.k_per_group * channel,
        weight_row=length,
        weight_term=layout.taps,
        weight_group=layout.k_per_group * layout.halves * length,
        negated=(0, 1),
        watch_nan=False,
    )


def grad_input_direction(layout: Layout) -> Direction:
    """Return what grad_input is: rows are the in_channels, terms (k, r, s); a stride makes stride**2 dense problems.

    Under a boundary of pixels it is the gradient of the padded image, which is then folded.
    """
    (sh, sw), (dh, dw), padding = layout.problem.stride, layout.problem.dilation, layout.problem.padding
    (top, bottom), (left, right) = padding
    height, width = layout.height, layout.width
    folded = layout.problem.boundary != "constant" and padding != ((0, 0), (0, 0))
    if folded:
        height, width, top, left = height + top + bottom, width + left + right, 0, 0
    image, channel, line, column = layout.strides(layout.channels, height, width)
    lines, line_phases = gather_axis(height, layout.kernel_height, sh, dh, top, layout.out_height)
    columns, column_phases = gather_axis(width, layout.kernel_width, sw, dw, left, layout.out_width)
    length = layout.c_per_group * layout.halves * layout.taps
    return Direction(
        channels=layout.out_channels,
        lines=lines,
        columns=columns,
        gathers=tuple(
            Gather(u.count, v.count, u.taps, v.taps, u.start * line + v.start * column, line * sh, column * sw)
            for u, v in product(line_phases, column_phases)
        ),
        rows=layout.rows(layout.c_per_group, channel),
        out_image=image,
        out_group=layout.c_per_group * channel,
        weight_row=layout.taps,
        weight_term=length,
        weight_group=layout.k_per_group * layout.halves * length,
        negated=(1, 0),
        watch_nan=(lines.is_padded or columns.is_padded) and layout.type != "i64",
        folded=folded,
    )


def _correlate(layout: Layout, direction: Direction) -> Draft:
    planes, kernels, cycles = _planes_and_kernels(layout, direction)
    yield layout.cost(cycles)
    buffer, offset, expand = layout.weight(direction.negated)
    planes, packing = layout.place(planes, FIRST, direction.channels, direction.lines, direction.columns)
    places, folding = place_result(layout, direction)
    places |= {"a_buffer": buffer, "a_offset": offset}
    steps, exact = [], []
    for gathers, kernel in zip(direction.in_turns, kernels, strict=True):
        steps.append(_correlate_step(layout, direction, planes, gathers, kernel, places))
        if direction.watch_nan:
            exact += [exact_step(layout, direction, planes, gather, kernel, places) for gather in gathers]
    return layout.program(
        "direct",
        ", ".join(dict.fromkeys(kernel.name for kernel in kernels)),
        cycles,
        before=(expand,),
        each=(packing, tuple(steps), folding),
        exact=(tuple(exact), folding) if exact else (),
    )


def place_result(layout: Layout, direction: Direction) -> tuple[dict[str, int], tuple[Step, ...]]:
    """Return where the result goes, and the steps that fold it if it is that of the padded image."""
    if not direction.folded:
        return {"bias_buffer": layout.bias_buffer, "out_buffer": OUT, "out_offset": 0}, ()
    offset = layout.reserve(layout.batch * direction.out_image)
    return {"bias_buffer": -1, "out_buffer": WORKSPACE, "out_offset": offset}, (_fold(layout, offset),)


def group_channels(layout: Layout, direction: Direction) -> int:
    """Return how many channels (or halves) a group of the first operand has."""
    return direction.channels // layout.groups * layout.halves


def gather_sizes(
    layout: Layout, direction: Direction, planes: Planes, gather: Gather, places: dict[str, int]
) -> dict[str, int]:
    """Return the sizes that tell a step of a gather where its pixels are, in the planes and in the result."""
    return {
        **places,
        "b_buffer": planes.buffer,
        "b_offset": planes.offset,
        "b_image": planes.image,
        "b_group": group_channels(layout, direction) * planes.channel,
        "out_offset": places["out_offset"] + gather.out_offset,
        "out_image": direction.out_image,
        "out_group": direction.out_group,
        "out_line": gather.out_line,
        "out_column": gather.out_column,
        "rows": len(direction.rows),
        "lines": gather.lines,
        "width": gather.width,
        "pitch": planes.pitch,
        "watch_nan": int(direction.watch_nan),
    }


def is_in_pages(layout: Layout, direction: Direction) -> bool:
    """Whether the second-level caches do not hold the weight, and each term of a row is in a page of its own."""
    weights = layout.out_channels * layout.c_per_group * layout.taps
    return weights * layout.itemsize >= FAR_BYTES and direction.weight_term * layout.itemsize >= PAGE


def stored_apart(layout: Layout, direction: Direction, gather: Gather, in_turns: bool = False) -> float:
    """Return the cycles it takes more to store what has other gathers' pixels between its own, maybe with those."""
    stored = layout.images * layout.groups * gather.lines * gather.width * len(direction.rows)
    return (IN_TURNS_CYCLES if in_turns else APART_CYCLES) * stored if gather.out_column > 1 else 0.0


def weight_taps(layout: Layout, gather: Gather) -> np.ndarray:
    """Return which taps of a kernel a gather meets, numbered row by row."""
    taps = product(gather.line_taps, gather.column_taps)
    return np.array([u.index * layout.kernel_width + v.index for u, v in taps], np.int64)


def _planes_and_kernels(layout: Layout, direction: Direction) -> tuple[Planes, Sequence[MicroKernel], float]:
    """Read the operand in place if every gather has a micro-kernel narrow enough not to read past its end.

    Returns the planes, a micro-kernel for each gather, or those in turns, and the cycles they take for all images.
    """
    result = direction.out_image if direction.folded else 0
    terms = layout.images * direction.channels * layout.halves
    grouped = GROUPED if layout.groups > 1 else 1.0

    def kernels(planes: Planes, fits: bool) -> tuple[list[MicroKernel], float]:
        """Return one for each gather, or those in turns, or none at all."""

        @cache
        def of_pixels(pixels: int, taps: int) -> tuple[float, MicroKernel | None]:
            channels = group_channels(layout, direction)
            return outer_kernel(
                layout.micro_kernels,
                len(direction.rows),
                pixels,
                fits=fits,
                a_stride=direction.weight_row,
                a_terms=(channels, direction.weight_term),
                terms=channels * taps,
            )

        found, cycles = [], 0.0
        for gathers in direction.in_turns:
            # The last of a line may be one pixel shorter, and is then read one too far.
            reach = max((tap.offset for gather in gathers for tap in gather.column_taps), default=0)
            per_term, kernel = of_pixels(gathers[0].pixels(planes), max(gather.taps for gather in gathers))
            if kernel is None or (fits and gathers[0].width + reach > direction.columns.size):
                return [], cycles
            found.append(kernel)
            for gather in gathers:
                cycles += grouped * per_term * max(terms * gather.taps, layout.images * layout.groups)
                cycles += stored_apart(layout, direction, gather, len(gathers) > 1)
                if kernel.multiply > 0.5 and gather.taps and is_in_pages(layout, direction):
                    cycles += FAR_CYCLES * layout.images * layout.out_channels * layout.c_per_group
        return found, cycles

    planes = layout.in_place(FIRST, direction.lines, direction.columns)
    if planes is not None:
        found, cycles = kernels(planes, fits=True)
        if found:
            layout.set_batch(result)
            return planes, found, cycles
    planes = layout.packed(direction.channels, direction.lines, direction.columns)
    layout.set_batch(planes.workspace + result)
    return planes, *kernels(planes, fits=False)


def _tiles_per_task(
    layout: Layout, direction: Direction, gathers: Sequence[Gather], kernel: MicroKernel, tiles: int
) -> int:
    """Return how many tiles a task has: as many as leave tasks enough and read what stays in the first-level cache."""
    lines = max(gather.lines_met for gather in gathers)
    tile_bytes = group_channels(layout, direction) * lines * kernel.columns * layout.itemsize
    fair = layout.batch * layout.groups * tiles * len(direction.in_turns) // TASKS
    return max(1, min(most_tiles(kernel), FAST_BAND_BYTES // max(tile_bytes, 1), fair))


def _correlate_step(
    layout: Layout,
    direction: Direction,
    planes: Planes,
    gathers: Sequence[Gather],
    kernel: MicroKernel,
    places: dict[str, int],
) -> Step:
    """Return the step of a gather, or of two in turns; ``places`` says where A, the bias and the result are."""
    first, other = gathers[0], gathers[1] if len(gathers) > 1 else None
    blocks = -(-len(direction.rows) // kernel.rows)
    tiles = -(-first.pixels(planes) // kernel.columns)
    tiles_per_task = _tiles_per_task(layout, direction, gathers, kernel, tiles)
    tile_tasks = -(-tiles // tiles_per_task)
    # The rows are shared out only where there are too few tiles of pixels.
    shares = -(-TASKS // (layout.batch * layout.groups * tile_tasks * len(direction.in_turns)))
    blocks_per_task = -(-blocks // min(blocks, shares))
    row_tasks = -(-blocks // blocks_per_task)
    offsets = [_offsets(layout, direction, planes, gather) for gather in gathers]
    sizes = _correlate_sizes(layout, direction, planes, first, places) | {
        "interleaved": len(gathers),
        "other_width": other.width if other else 0,
        "other_length": offsets[1].size // 2 if other else 0,
        "row_tasks": row_tasks,
        "blocks_per_task": blocks_per_task,
        "tiles": tiles,
        "tile_tasks": tile_tasks,
        "tiles_per_task": tiles_per_task,
    }
    inside = np.empty((0, 4), np.int64)
    tables = {"offsets": np.concatenate(offsets), "inside": inside, **direction.tables(kernel)}
    interleave = ""
    if other:
        interleave = next(row.name for row in reversed(layout.micro_kernels) if row.algorithm == "interleave")
    tasks = layout.groups * tile_tasks * row_tasks
    return Step(f"correlate_{layout.type}", tasks, sizes, True, kernel.name, tables, interleave)


def exact_step(
    layout: Layout, direction: Direction, planes: Planes, gather: Gather, kernel: MicroKernel, places: dict[str, int]
) -> Step:
    """Return the step that does a gather again when there was a NaN."""
    sizes = _correlate_sizes(layout, direction, planes, gather, places)
    inside = np.tile(_inside(gather, direction.lines, direction.columns), (group_channels(layout, direction), 1))
    offsets = _offsets(layout, direction, planes, gather)
    tables = {"offsets": offsets, "inside": inside, **direction.tables(kernel)}
    tasks = layout.groups * len(direction.rows) * gather.lines
    return Step(f"exact_{layout.type}", tasks, sizes, True, kernel.name, tables)


def _correlate_sizes(
    layout: Layout, direction: Direction, planes: Planes, gather: Gather, places: dict[str, int]
) -> dict[str, int]:
    """Return the sizes of a step of one gather, as if it were one task."""
    whole = ("interleaved", "row_tasks", "blocks_per_task", "tiles", "tile_tasks", "tiles_per_task")
    return (
        gather_sizes(layout, direction, planes, gather, places)
        | dict.fromkeys(whole, 1)
        | {
            "a_group": direction.weight_group,
            "groups": layout.groups,
            "length": group_channels(layout, direction) * gather.taps,
            "other_width": 0,
            "other_length": 0,
        }
    )


def _offsets(layout: Layout, direction: Direction, planes: Planes, gather: Gather) -> np.ndarray:
    """Return where every term of a gather lies, in A and in B."""
    terms = np.arange(group_channels(layout, direction))[:, None]
    in_a = terms * direction.weight_term + weight_taps(layout, gather)
    in_b = terms * planes.channel + planes.taps(gather.line_taps, gather.column_taps)
    return np.stack([in_a, in_b], axis=-1).reshape(-1, 2)


def exact_in_place(layout: Layout, direction: Direction, places: dict[str, int]) -> tuple[Step, ...]:
    """Return the steps that compute grad_input term by term, with grad_out where it lies: none reads its padding."""
    plane = direction.lines.extent * direction.columns.extent
    offset = direction.lines.starts[0] * direction.columns.extent + direction.columns.starts[0]
    planes = Planes(FIRST, offset, direction.channels * plane, plane, 0, direction.columns.extent)
    places = {"a_buffer": SECOND, "a_offset": 0, **places}
    kernel = next(row for row in layout.micro_kernels if row.algorithm == "outer")
    return tuple(exact_step(layout, direction, planes, gather, kernel, places) for gather in direction.gathers)


def _fold(layout: Layout, offset: int) -> Step:
    """Return the step that brings the gradient of the padded image to the pixels (``kernels/fold.h``)."""
    (top, bottom), (left, right) = layout.problem.padding
    height, width = layout.height + top + bottom, layout.width + left + right
    src_image, src_channel, src_line, _ = layout.strides(layout.channels, height, width)
    out_image, out_channel, out_line, column = layout.strides(layout.channels, layout.height, layout.width)
    pixels = sources(np.arange(-top, layout.height + bottom), layout.height, layout.problem.boundary)
    columns = np.arange(width)
    outside = np.stack([columns, sources(columns - left, layout.width, layout.problem.boundary)], axis=-1)
    outside = outside[(columns < left) | (columns >= left + layout.width)]
    sizes = {
        "src_offset": offset,
        "src_image": src_image,
        "src_channel": src_channel,
        "src_line": src_line,
        "left": left,
        "bias_buffer": layout.bias_buffer,
        "out_image": out_image,
        "out_channel": out_channel,
        "out_line": out_line,
        "column": column,
        "channels": layout.channels * layout.halves,
        "lines": layout.height,
        "width": layout.width,
        "outside": len(outside),
        "interleave": layout.halves,
    }
    tables = {
        "line_ends": np.searchsorted(np.sort(pixels), np.arange(layout.height + 1)),
        "line_of": np.argsort(pixels, kind="stable"),
        "column_of": outside,
    }
    return Step(f"fold_{layout.type}", layout.channels * layout.halves * layout.height, sizes, True, tables=tables)


def _inside(gather: Gather, lines: PlaneAxis, columns: PlaneAxis) -> np.ndarray:
    """Return, for every tap, the pixels (line_lo, line_hi, column_lo, column_hi) at which it meets the operand."""
    (line_lo, line_hi), (column_lo, column_hi) = lines.inside(lines.starts[0]), columns.inside(columns.starts[0])
    return np.array(
        [
            (line_lo - u.offset, line_hi - u.offset, column_lo - v.offset, column_hi - v.offset)
            for u, v in product(gather.line_taps, gather.column_taps)
        ],
        np.int64,
    )
