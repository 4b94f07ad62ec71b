"""What tells forward from grad_input: the planes read, the pixels written, the way through the weight.

The algorithms of both, by outer products, panels, channels and windows, are laid out from the same description.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from convcore_cpu.engine import MicroKernel
from convcore_cpu.geometry import PlaneAxis, Tap, gather_axis, sources
from convcore_cpu.layout import Layout, Planes
from convcore_cpu.program import OUT, WORKSPACE, Step
from convcore_cpu.tiles import padded

#: A weight that the second-level caches do not hold, and a page of memory (bytes).
FAR_BYTES, PAGE = 6 << 20, 4096
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
