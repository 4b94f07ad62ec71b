"""grad_weight of groups of few channels: dot products over lines of pixels (``kernels/lines.h``)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from convcore_cpu.engine import MAX_BAND_BYTES, MicroKernel
from convcore_cpu.geometry import PlaneAxis
from convcore_cpu.grad_weight import sum_parts
from convcore_cpu.layout import FAST_BAND_BYTES, TASKS, Layout, Planes
from convcore_cpu.program import FIRST, OUT, SECOND, WORKSPACE, Draft, Step, UnsupportedError
from convcore_cpu.tiles import padded

#: What is read again and again from more than the first-level cache takes so many times as long (bytes), and longer
#: where the rows of a tile are lines of as many channels.
FIRST_CACHE_BYTES, FAR, FAR_APART = 40 << 10, 2.7, 4.3
#: Columns of a chunk that are tried where a whole line is longer.
CHUNK_COLUMNS = (512, 128)
#: What a chunk costs besides: its band's start, and the call (cycles).
CHUNK_CYCLES = 100
#: Shares of the channels there are on the stack, where the pixels are not summed in parts.
PIECES = 8
#: Parts of the sum may together be so large (bytes).
PART_BYTES = 4 << 20


@dataclass(frozen=True)
class Bands:
    """The axes of x, of which a band holds some lines, and how many positions past its last a band reaches."""

    lines: PlaneAxis
    columns: PlaneAxis
    more_lines: int
    more_columns: int

    @property
    def phases(self) -> int:
        """How many phases there are of lines and columns together."""
        return len(self.lines.starts) * len(self.columns.starts)


@dataclass(frozen=True)
class Chunk:
    """The channels of x, and lines and columns of grad_out, summed at a time; pitch of the band, micro-kernel."""

    kernel: MicroKernel
    channels: int
    lines: int
    columns: int
    pitch: int
    cycles: float


def grad_weight_dot(layout: Layout) -> Draft:
    """Lay out grad_weight as dot products of lines.

    Bands of x are all that is copied; only what must be converted or turned goes through the workspace.
    """
    if layout.halves == 2:
        raise UnsupportedError("its algorithm 'dot' does not know complex numbers")
    lines, line_taps, columns, column_taps = layout.forward_axes()
    g_lines, g_columns = (PlaneAxis(size, (0,), 1, size) for size in (layout.out_height, layout.out_width))
    x, g = layout.in_place(FIRST, lines, columns), layout.in_place(SECOND, g_lines, g_columns)
    bands = Bands(lines, columns, *(max(tap.offset for tap in taps) for taps in (line_taps, column_taps)))
    packing: tuple[Step, ...] = ()
    if x is None and g is not None and layout.is_direct(FIRST):
        chunk = _chunk(layout, bands)
        yield layout.cost(chunk.cycles)
        planes, band, tables = _band(layout, bands, chunk)
        image, x_channel, _, _ = layout.strides(layout.channels, layout.height, layout.width)
        x = replace(planes, image=image, channel=x_channel)
        layout.batch = max(layout.images, 1)
    else:
        chunk = _chunk(layout, None)
        yield layout.cost(chunk.cycles)
        if layout.on_stack and x is not None and g is not None:
            layout.batch = max(layout.images, 1)
        x = x or layout.packed(layout.channels, lines, columns)
        g = g or layout.packed(layout.out_channels, g_lines, g_columns)
        layout.set_batch(x.workspace + g.workspace)
        x, packing_x = layout.place(x, FIRST, layout.channels, lines, columns)
        g, packing_g = layout.place(g, SECOND, layout.out_channels, g_lines, g_columns)
        packing = (*packing_x, *packing_g)
        planes, band, tables = x, {}, {}

    rows = layout.c_per_group * layout.taps
    weights = layout.out_channels * rows
    units = layout.batch * -(-layout.out_height // chunk.lines) * -(-layout.out_width // chunk.columns)
    most = 1 if layout.on_stack else PART_BYTES // (weights * layout.itemsize)
    parts = max(1, min(units, TASKS // layout.groups, most))
    groups_per_task = max(1, layout.groups * parts // TASKS)
    one_batch = layout.batch == layout.images
    straight = parts == 1 and one_batch
    out_offset = 0 if straight else layout.reserve(parts * weights)
    sizes = {
        "x_buffer": x.buffer,
        "x_image": x.image,
        "x_group": layout.c_per_group * x.channel,
        "x_pitch": planes.pitch,
        "in_place": int(not band),
        "g_buffer": g.buffer,
        "g_offset": g.offset,
        "g_image": g.image,
        "g_channel": g.channel,
        "g_line": g.pitch,
        "out_buffer": OUT if straight else WORKSPACE,
        "out_part": weights,
        "out_channel": rows,
        "one_batch": int(one_batch),
        "groups": layout.groups,
        "groups_per_task": groups_per_task,
        "k_per_group": layout.k_per_group,
        "lines": layout.out_height,
        "width": layout.out_width,
        "more_lines": bands.more_lines,
        "more_columns": bands.more_columns,
        "lines_at_once": chunk.lines,
        "columns_at_once": chunk.columns,
        "parts": parts,
    }
    tasks = parts * -(-layout.groups // groups_per_task)
    taps, dots = planes.taps(line_taps, column_taps), []
    for first in range(0, layout.c_per_group, chunk.channels):
        channels = np.arange(min(chunk.channels, layout.c_per_group - first))[:, None] * planes.channel
        of_channels = {
            "x_offset": x.offset + first * x.channel,
            "out_offset": out_offset + first * layout.taps,
            "channels": len(channels),
            "rows": len(channels) * layout.taps,
        }
        a_row = padded((channels + taps).ravel(), chunk.kernel.rows)
        tables = tables | {"a_row": a_row}
        dots.append(
            Step(f"lines_{layout.type}", tasks, sizes | of_channels, False, chunk.kernel.name, tables, band=band)
        )
    clear = () if one_batch else (layout.clear(out_offset, parts * layout.out_channels, rows),)
    reduce = sum_parts(
        layout, 1, src_offset=out_offset, src_part=weights, src_group=0, src_row=1, src_lane=rows, parts=parts,
        rows=rows, lanes=layout.out_channels,
    )  # fmt: skip
    return layout.program(
        "dot",
        chunk.kernel.name,
        chunk.cycles,
        before=(clear,),
        each=(packing, tuple(dots)),
        after=() if straight else ((reduce,),),
    )


def _band(layout: Layout, bands: Bands, chunk: Chunk) -> tuple[Planes, dict[str, int], dict[str, np.ndarray]]:
    """Return a band as if its channels were planes, its sizes, and its tables."""
    problem = layout.problem
    # A vector of room, see band.h.
    phase = (chunk.lines + bands.more_lines) * chunk.pitch + chunk.kernel.lanes
    sizes, tables = layout.band(
        bands.lines, bands.columns, layout.channels, phase=phase, pitch=chunk.pitch, fill=problem.fill_value,
        boundary=problem.boundary,
    )  # fmt: skip
    return Planes(FIRST, 0, 0, sizes["channel"], phase, chunk.pitch, sizes["line_phases"]), sizes, tables


def _chunk(layout: Layout, bands: Bands | None) -> Chunk:
    """Return the chunk that takes the fewest cycles; ``bands`` is None where x and grad_out lie in planes."""
    best: Chunk | None = None
    kernels = [kernel for kernel in layout.micro_kernels if kernel.algorithm == "dot"]
    widths = [layout.out_width, *(size for size in CHUNK_COLUMNS if size < layout.out_width)]
    for kernel, channels, columns, room in product(
        kernels, _channels(layout), widths, (FAST_BAND_BYTES, MAX_BAND_BYTES)
    ):
        lines, pitch, fill = max(1, room // (columns * layout.itemsize)), 0, 0.0
        if bands is not None:
            pitch = -(-(columns + bands.more_columns) // kernel.lanes) * kernel.lanes
            planes = channels * bands.phases * layout.itemsize
            lines = (room // planes - kernel.lanes) // pitch - bands.more_lines
            fill = channels * bands.phases * (6 + 2 * pitch / kernel.lanes)
        lines = min(lines, layout.out_height)
        if lines < 1:
            continue
        down, across = -(-layout.out_height // lines), -(-layout.out_width // columns)
        lines = -(-layout.out_height // down)
        more = 0 if bands is None else bands.more_lines
        chunk = CHUNK_CYCLES + fill * (lines + more) + _tile_cycles(layout, kernel, channels, lines, columns, pitch)
        shares = -(-layout.c_per_group // channels)
        cycles = layout.images * layout.groups * shares * down * across * chunk
        if best is None or cycles < best.cycles:
            best = Chunk(kernel, channels, lines, columns, pitch, cycles)
    if best is None:
        raise UnsupportedError("its algorithm 'dot' has too many channels in a group for its bands")
    return best


def _channels(layout: Layout) -> list[int]:
    """Return how many channels of a group a task may take: all; on the stack as many or fewer as make tasks enough."""
    if not layout.on_stack:
        return [layout.c_per_group]
    most = max(1, min(layout.c_per_group, layout.c_per_group * layout.groups // PIECES))
    return [most >> halvings for halvings in range(most.bit_length())]


def _tile_cycles(layout: Layout, kernel: MicroKernel, channels: int, lines: int, columns: int, pitch: int) -> float:
    """Return the cycles of all tiles of channels over a chunk: by arithmetic or loads, and adding up the lanes.

    ``pitch`` is that of the band, or 0 without one.
    """
    vectors = kernel.columns // kernel.lanes
    tiles = -(-channels * layout.taps // kernel.rows) * -(-layout.k_per_group // vectors)
    across = -(-columns // kernel.lanes)
    loads = (0.95 if kernel.isa == "avx512" else 0.6) * kernel.rows + 0.5 * vectors
    # All rows go past some channels of grad_out before the next ones come.
    if (channels * max(pitch, columns) + vectors * columns) * lines * layout.itemsize > FIRST_CACHE_BYTES:
        loads *= FAR if layout.taps > 1 else FAR_APART
    step = max(kernel.multiply * kernel.rows * vectors, loads, 2.0)
    # Without masks the last vector of a line is loaded lane by lane.
    last = 8.0 * (kernel.rows + vectors) if kernel.isa == "baseline" and columns % kernel.lanes else 2.0
    return tiles * (20 + lines * (last + across * step) + 5.0 * kernel.rows * vectors)
